//! Tells who comes into rooms with presence and who leaves them: their clients, and the back end.
//!
//! Without a directory of this node alone. With one of the cluster: the node that wrote a change tells the back end, and the nodes
//! that hold the room tell its clients.

use std::collections::HashMap;

use bytestring::ByteString;
use futures_util::future::join_all;
use tokio::sync::mpsc;

use crate::{
    cluster::{Cluster, PresenceNews, SharedPresence},
    config::Config,
    dispatch::HearPresence,
    events::{Event, EventKind, Events},
    hub::Hub,
    lifecycle::{Service, Tasks},
    push::PushId,
    queue::record::PresenceNotice,
    redis_client::RedisClient,
    routing::{RoutedPublisher, RoutedPush},
    telemetry::{Counter, Metrics, labels::DropReason},
    wire::dialect::PresenceChange,
};

/// What there is to tell; at most `[rooms] presence_buffer` of each wait.
pub(super) struct RoomPresence {
    node: ByteString,
    buffer: usize,
    /// Without a directory: what changed on this node.
    changes: mpsc::Receiver<PresenceChange>,
    /// With one: what changed in the cluster by this node, and what ends that.
    shared: Option<(mpsc::Receiver<Vec<PresenceNews>>, Service)>,
    /// What changed in the cluster, for the clients of this node.
    notices: mpsc::Receiver<PresenceNotice>,
    untold: Counter,
}

impl RoomPresence {
    /// Watches the rooms of `hub`; what nodes tell each other goes to the returned function.
    pub(super) fn watch(
        config: &Config,
        redis: Option<&RedisClient>,
        cluster: &Cluster,
        hub: &Hub,
        tasks: &Tasks,
        metrics: &Metrics,
    ) -> (Self, HearPresence) {
        let node = config.node.id.as_str();
        let buffer = config.rooms.presence_buffer.max(1);
        let untold = metrics.drops.get_or_create_owned(&DropReason::Presence);
        let (noting, changes) = mpsc::channel(buffer);
        let service = tasks.service();
        let (readers, gone) = (cluster.readers.clone(), cluster.gone.clone());
        let shared = match SharedPresence::start(config, redis, readers, gone, &service, metrics) {
            Some((presence, news)) => {
                hub.watch_presence(&config.rooms, node, Box::new(move |change| presence.note(&change)));
                Some((news, service))
            }
            None => {
                hub.watch_presence(&config.rooms, node, bounded(noting, untold.clone()));
                None
            }
        };
        let (hearing, notices) = mpsc::channel(buffer);
        let hear = bounded(hearing, untold.clone());
        (Self { node: node.into(), buffer, changes, shared, notices, untold }, hear)
    }

    /// Starts to tell; what is to be stopped once this node has no clients any more.
    pub(super) fn start(
        self,
        hub: &Hub,
        events: &Events,
        publisher: &RoutedPublisher,
        tasks: &Tasks,
    ) -> Option<Service> {
        let Self { node, buffer, mut changes, shared, mut notices, untold } = self;
        let stopping = tasks.cancelled();
        let (clients, own) = (hub.clone(), node.clone());
        tasks.spawn_until_done("presence notices", async move {
            let mut last = LastTold { told: HashMap::new(), most: buffer };
            while let Some(Some(notice)) = stopping.run_until_cancelled(notices.recv()).await {
                let is_known = notice.is_told_there && notice.change.node == own;
                if last.is_newer(&notice) && !is_known {
                    clients.tell_presence(notice.change).await;
                }
            }
        });
        let (hub, events, stopping) = (hub.clone(), events.clone(), tasks.cancelled());
        let Some((mut news, service)) = shared else {
            tasks.spawn_until_done("presence", async move {
                // cancel-safe: what is not told then is told nobody, who is gone too
                while let Some(Some(change)) = stopping.run_until_cancelled(changes.recv()).await {
                    tell_events(&events, &change, None);
                    hub.tell_presence(change).await;
                }
            });
            return None;
        };
        let publisher = publisher.clone();
        service.spawn_until_done("presence", async move {
            // it ends when all is written
            while let Some(news) = news.recv().await {
                tell(news, &hub, &events, &publisher, &untold).await;
            }
        });
        Some(service)
    }
}

/// What finds no room counts as `untold`.
fn bounded<T: Send + 'static>(sender: mpsc::Sender<T>, untold: Counter) -> Box<dyn Fn(T) + Send + Sync> {
    Box::new(move |one| {
        if sender.try_send(one).is_err() {
            untold.inc();
        }
    })
}

/// Tells what this node has found out.
async fn tell(news: Vec<PresenceNews>, hub: &Hub, events: &Events, publisher: &RoutedPublisher, untold: &Counter) {
    let mut notices = Vec::new();
    for one in news {
        match one {
            PresenceNews::Cluster { change, at, is_told_here } => {
                if !is_told_here {
                    tell_events(events, &change, Some(at));
                }
                let id = PushId::generate();
                notices.push(RoutedPush::Presence(PresenceNotice { id, change, at, is_told_there: is_told_here }));
            }
            PresenceNews::Node(change) => {
                tell_events(events, &change, None);
                hub.tell_presence(change).await;
            }
        }
    }
    let published = publisher.publish_all(notices).into_iter().map(|one| async { one?.await });
    for error in join_all(published).await.into_iter().filter_map(Result::err) {
        tracing::debug!("a change of presence was not published: {error}");
        untold.inc();
    }
}

/// Tells the back end. `at`: when, by Redis's clock, in microseconds; of a change in the cluster.
fn tell_events(events: &Events, change: &PresenceChange, at: Option<u64>) {
    if !events.wants(EventKind::Presence) {
        return;
    }
    let at = at.map(|at| format!(r#","at":{at}"#)).unwrap_or_default();
    events.tell(Event {
        card: Some(change.card.clone()),
        room: Some(change.room.clone()),
        data: Some(format!(r#"{{"action":"{}"{at}}}"#, change.action()).into()),
        ..Event::new(EventKind::Presence)
    });
}

/// What was told of each card last. Changes that two nodes wrote may come in another order, and the queue may bring one twice.
struct LastTold {
    /// When each changed, in microseconds.
    told: HashMap<(ByteString, ByteString), u64>,
    most: usize,
}

impl LastTold {
    /// After so long none comes late, in microseconds.
    const LATE: u64 = 60_000_000;

    fn is_newer(&mut self, notice: &PresenceNotice) -> bool {
        let PresenceNotice { change, at, .. } = notice;
        let of = (change.room.clone(), change.card.clone());
        if self.told.get(&of).is_some_and(|last| last >= at) {
            return false;
        }
        if self.told.len() >= self.most {
            self.told.retain(|_, last| *last + Self::LATE > *at);
        }
        if self.told.len() >= self.most {
            self.told.clear();
        }
        self.told.insert(of, *at);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_late_or_twice_is_not_told_and_few_are_remembered() {
        let mut last = LastTold { told: HashMap::new(), most: 2 };
        let notice = |card: &str, at| {
            let change = PresenceChange { room: "r".into(), card: card.into(), came: true, node: "a".into() };
            PresenceNotice { id: PushId::generate(), change, at, is_told_there: false }
        };
        assert!(last.is_newer(&notice("alice", 10)));
        assert!(!last.is_newer(&notice("alice", 10)));
        assert!(!last.is_newer(&notice("alice", 9)));
        assert!(last.is_newer(&notice("bob", 9)) && last.is_newer(&notice("alice", 11)));
        assert!(last.is_newer(&notice("carol", 12)));
        assert!(last.told.len() <= 2);
    }
}
