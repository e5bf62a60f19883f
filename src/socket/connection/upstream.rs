//! What a client sends for others: its own pushes, and messages for the back end.

use bytestring::ByteString;
use tokio::sync::{mpsc, oneshot};

use super::{Connection, steps::Answer};
use crate::{
    events::{Event, EventError, EventKind},
    hub::ClientPush,
    push::{Exclude, MAX_DEPTH, Target, is_nested_deeper_than},
    socket::join::{bad_name, refused},
    wire::dialect::{ClientError, ClientMessage, ClientPushRequest},
};

impl Connection {
    pub(super) fn push(&mut self, request: ClientPushRequest) {
        let reference = request.reference.clone();
        if let Err(error) = self.start_push(request) {
            self.answer_error(&error.about(reference));
        }
    }

    fn start_push(&mut self, request: ClientPushRequest) -> Result<(), ClientError> {
        self.check_pending()?;
        let ClientPushRequest { to, room, content, echo, reference } = request;
        self.may_push(&to, room.as_ref())?;
        let exclude = Exclude { client: Some(self.worker.shard.id(&self.client).to_bytes()), ..Exclude::default() };
        let target = Target { cards: to, room, exclude: (!echo).then(|| Box::new(exclude)), ..Target::default() };
        let (answer, answered) = oneshot::channel();
        let from = self.client.joined_as().map(|(card, _)| card).unwrap_or_default();
        let sent = self.worker.upstream.pushes.try_send(ClientPush { from, target, content, answer });
        sent.map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => ClientError::busy("pushes of other clients wait"),
            mpsc::error::TrySendError::Closed(_) => ClientError::busy("the node stops"),
        })?;
        self.wait_for_answer(async move {
            match answered.await {
                Ok(Ok(id)) => Answer::Pushed(id, reference),
                Ok(Err(error)) => Answer::Refused(error.about(reference)),
                Err(_) => Answer::Refused(ClientError::busy("the node stops").about(reference)),
            }
        });
        Ok(())
    }

    /// It may push where its identity says so, or to a room that it is in and whose clients may.
    fn may_push(&self, to: &[ByteString], room: Option<&ByteString>) -> Result<(), ClientError> {
        if to.is_empty() && room.is_none() {
            return Err(ClientError::new("bad_name", "a push names a room, or cards in to"));
        }
        let names = self.worker.names;
        if let Some(room) = room {
            names.check(room).map_err(|error| bad_name("room", &error))?;
        }
        for (nth, card) in to.iter().enumerate() {
            names.check(card).map_err(|error| bad_name(&format!("to[{nth}]"), &error))?;
        }
        let identity = self.identity();
        let admits = |name: &str| identity.as_ref().is_some_and(|identity| identity.push.admits(name));
        let may_in_room = |room: &ByteString| {
            admits(room) || (self.worker.rooms.lets_clients_push(room) && self.client.is_in_room(room))
        };
        let all_cards = !to.is_empty() && to.iter().all(|card| admits(card));
        if all_cards || room.is_some_and(may_in_room) {
            return Ok(());
        }
        let message = "this client may not push there: its token has no push claim for it, and it is in no such room of \
                       [rooms] client_push";
        Err(refused("not_pushed", message))
    }

    pub(super) fn message(&mut self, message: ClientMessage) {
        let reference = message.reference.clone();
        if let Err(error) = self.start_message(message) {
            self.answer_error(&error.about(reference));
        }
    }

    fn start_message(&mut self, message: ClientMessage) -> Result<(), ClientError> {
        self.check_pending()?;
        if !self.worker.upstream.events.wants(EventKind::Message) {
            return Err(ClientError::new("unsupported", "this gateway passes no messages on; do not send `message`"));
        }
        if !self.client.is_let_in() {
            return Err(ClientError::new("not_joined", "a message needs a join before it"));
        }
        let ClientMessage { data, reference } = message;
        if is_nested_deeper_than(MAX_DEPTH, &data) {
            let message = format!("data has lists and objects that are nested more than {MAX_DEPTH} deep");
            return Err(ClientError::new("bad_content", message));
        }
        let event = Event { data: Some(data), ..self.event(EventKind::Message) };
        let id = event.id;
        let held = self.worker.upstream.events.message(event);
        self.wait_for_answer(async move {
            match held.await {
                Ok(()) => Answer::Received(id, reference),
                Err(error) => Answer::Refused(not_received(&error).about(reference)),
            }
        });
        Ok(())
    }

    fn check_pending(&self) -> Result<(), ClientError> {
        let most = self.worker.live.now().config.max_pending;
        if self.awaited_answers() < most {
            return Ok(());
        }
        let why = format!("{most} pushes and messages of this client wait ([socket] max_pending)");
        Err(ClientError::busy(why))
    }

    /// Tells the back end, if it wants to know: of the client, or of one of its cards, and of a room.
    pub(super) fn tell(&self, kind: EventKind, card: Option<(&str, &str)>, room: Option<&str>) {
        let events = &self.worker.upstream.events;
        if !events.wants(kind) {
            return;
        }
        let mut event = self.event(kind);
        if let Some((card, app)) = card {
            event.card = Some(card.into());
            event.app = Some(app.into());
        }
        event.room = room.map(ByteString::from);
        events.tell(event);
    }

    /// Tells the back end that the client's end began, while it still is a member of its cards.
    pub(super) fn tell_end(&self) {
        let events = &self.worker.upstream.events;
        if events.wants(EventKind::Disconnected) {
            let code = self.client.label().parse().ok();
            events.tell(Event { code, ..self.event(EventKind::Disconnected) });
        }
    }

    /// Of this client, with the card that it joined first.
    pub(super) fn event(&self, kind: EventKind) -> Event {
        let joined = self.client.joined_as();
        let (card, app) = joined.map_or((None, None), |(card, app)| (Some(card), Some(app)));
        Event { client: Some(self.worker.shard.id(&self.client)), card, app, ..Event::new(kind) }
    }
}

fn not_received(error: &EventError) -> ClientError {
    match error {
        EventError::TooLarge { .. } => ClientError::new("bad_content", error.to_string()),
        EventError::Unsupported => ClientError::new("unsupported", error.to_string()),
        _ => ClientError::busy(error),
    }
}
