//! What a client's words about rooms do.

use bytestring::ByteString;
use futures_util::future::OptionFuture;

use super::{
    Connection,
    steps::{NextStep, RoomEntry},
    stream_place::AttachOutcome,
    streams::StreamBegin,
};
use crate::{
    cluster::{Announcement, OthersPresent},
    events::EventKind,
    push::{Address, PRIVATE_TOPICS},
    socket::{
        join::{bad_name, refused},
        presence,
    },
    wire::dialect::{ClientError, PresentCards, RoomRequest, Subscribed},
};

impl Connection {
    pub(super) fn subscribe(&mut self, request: RoomRequest) {
        let resume = request.resume;
        let room = match self.check_streams(false, resume.is_some()).and_then(|()| self.admit_room(request)) {
            Ok(room) => room,
            Err(error) => return self.answer_error(&error),
        };
        let announcement = self.announce(|| Address::Room(room.clone()));
        let mut entry = RoomEntry { room, resume, others: None, announcement };
        // who subscribes again goes on where it is, unless it asks for another place
        let begins = resume.is_some() || !self.client.is_in_room(&entry.room);
        let attach = self.look_up_room(&entry.room, resume).filter(|_| begins);
        let peers = self.worker.peers.clone().filter(|_| self.worker.shard.has_presence(&entry.room));
        let is_entered = entry.announcement.as_ref().is_none_or(Announcement::is_entered);
        if attach.is_none() && peers.is_none() && is_entered {
            return self.enter_room(entry, None);
        }
        self.wait_for_step(async move {
            OptionFuture::from(entry.announcement.as_ref().map(Announcement::entered)).await;
            let others = peers.as_ref().map(|peers| peers.present(&entry.room));
            let (others, attached) = tokio::join!(OptionFuture::from(others), OptionFuture::from(attach));
            entry.others = others;
            NextStep::EnterRoom(entry, attached)
        });
    }

    /// As [`Connection::enter_room`], once the others have answered: what it may have may be another by then.
    pub(super) fn enter_room_later(&mut self, entry: RoomEntry, attached: Option<AttachOutcome>) {
        let holds = self.check_proof().and_then(|()| Ok(self.check_room(&entry.room)?));
        match holds {
            Ok(()) => self.enter_room(entry, attached),
            Err(error) => self.refuse(error),
        }
    }

    /// Puts the client into a room, and answers it.
    pub(super) fn enter_room(&mut self, entry: RoomEntry, attached: Option<AttachOutcome>) {
        // until it is in
        let RoomEntry { room, resume, others, announcement: _announcement } = entry;
        let is_new = self.worker.shard.subscribe(&self.client, &room);
        let begin = if is_new || resume.is_some() { self.begin_room(&room, resume, attached) } else { None };
        let presence = self.present(&room, others.as_deref());
        let stream = begin.map(StreamBegin::position);
        let subscribed = Subscribed { room: &room, presence: presence.as_ref(), stream };
        self.answer_if(self.client.dialect().subscribed(&subscribed));
        // how much waits is of use only to who asked
        if let Some(begin) = begin.filter(|_| resume.is_some()) {
            self.tell_begin(&Address::Room(room.clone()), begin);
        }
        if is_new {
            self.tell(EventKind::Subscribed, None, Some(&room));
        }
    }

    /// Who is in a room; `None`: that is not told of it.
    fn present(&self, room: &str, others: Option<&OthersPresent>) -> Option<PresentCards> {
        let shard = &self.worker.shard;
        let own = shard.present(room)?;
        match others {
            Some(others) => Some(presence::of_cluster(own, shard.present_sample(room)?, others)),
            None => Some(own),
        }
    }

    /// The room that a client asks for, if it may have it.
    fn admit_room(&self, request: RoomRequest) -> Result<ByteString, ClientError> {
        // who may have none is told so, whatever the name is
        self.check_let_in()?;
        let room = self.room_of(request)?;
        self.check_room(&room)?;
        Ok(room)
    }

    fn check_let_in(&self) -> Result<(), ClientError> {
        if self.client.is_let_in() {
            return Ok(());
        }
        Err(ClientError::new("not_joined", "join before you subscribe"))
    }

    /// Whether the client may have a room.
    fn check_room(&self, room: &ByteString) -> Result<(), ClientError> {
        self.check_let_in()?;
        let rules = &self.worker.rooms;
        let identity = self.identity();
        // where clients prove who they are, the rooms of private topics are for those who did
        let is_unproved = self.client.sink.session.is_some() && identity.is_none();
        if !rules.admit(room, identity.as_deref()) || is_unproved && room.starts_with(PRIVATE_TOPICS) {
            let message = format!("this client may not be in the room {room:?}: it is not in its token");
            return Err(refused("wrong_room", message));
        }
        if !self.client.is_in_room(room) && self.client.room_count() >= rules.max_rooms {
            let message =
                format!("this client is in {} rooms ([rooms] max_rooms); unsubscribe from one first", rules.max_rooms);
            return Err(ClientError::new("too_many_rooms", message));
        }
        Ok(())
    }

    /// The room's own name.
    fn room_of(&self, request: RoomRequest) -> Result<ByteString, ClientError> {
        let RoomRequest { room, private, .. } = request;
        if private && self.identity().is_none() {
            return Err(ClientError::new("not_joined", "log in before you use private topics"));
        }
        self.worker.names.check(&room).map_err(|error| bad_name("room", &error))?;
        let room = if private { format!("{PRIVATE_TOPICS}{room}").into() } else { room };
        // longer now, perhaps too long
        self.worker.names.check(&room).map_err(|error| bad_name("room", &error))?;
        Ok(room)
    }

    pub(super) fn unsubscribe(&mut self, request: RoomRequest) {
        let room = match self.room_of(request) {
            Ok(room) => room,
            Err(error) => return self.answer_error(&error),
        };
        if !self.worker.shard.unsubscribe(&self.client, &room) {
            let message = format!("this client is not in the room {room:?}");
            return self.answer_error(&ClientError::new("not_subscribed", message));
        }
        self.left_room(&room);
    }

    /// Takes the client out of rooms that it may not have any more.
    pub(super) fn leave_rooms_unless(&mut self, may_stay: impl Fn(&str) -> bool) {
        for room in self.client.rooms().into_iter().filter(|room| !may_stay(room)) {
            if self.worker.shard.unsubscribe(&self.client, &room) {
                self.left_room(&room);
            }
        }
    }

    /// Rooms that a client has only for as long as it is who it proved to be.
    pub(super) fn is_private(&self, room: &str) -> bool {
        room.starts_with(PRIVATE_TOPICS) || !self.worker.rooms.admit(room, None)
    }

    fn left_room(&self, room: &str) {
        self.answer_if(self.client.dialect().unsubscribed(room));
        self.tell(EventKind::Unsubscribed, None, Some(room));
    }
}
