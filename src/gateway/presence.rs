//! Tells who comes into rooms with presence and who leaves them: their clients, and the back end.

use tokio::sync::mpsc;

use crate::{
    events::{Event, EventKind, Events},
    hub::Hub,
    lifecycle::Tasks,
    wire::dialect::PresenceChange,
};

/// Tells each of `changes`, in their order, until nobody can send any more.
pub(super) fn start(mut changes: mpsc::Receiver<PresenceChange>, hub: Hub, events: Events, tasks: &Tasks) {
    let service = tasks.service();
    let stopping = service.stopping().clone();
    service.spawn("presence", async move {
        // cancel-safe: what is not told then is told nobody, who is gone too
        while let Some(Some(change)) = stopping.run_until_cancelled(changes.recv()).await {
            if events.wants(EventKind::Presence) {
                events.tell(event(&change));
            }
            hub.tell_presence(change).await;
        }
    });
}

fn event(change: &PresenceChange) -> Event {
    Event {
        card: Some(change.card.clone()),
        room: Some(change.room.clone()),
        data: Some(format!(r#"{{"action":"{}"}}"#, change.action()).into()),
        ..Event::new(EventKind::Presence)
    }
}
