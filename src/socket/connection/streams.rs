//! A client's place in the streams of its cards and rooms, and what it acknowledges.

use bytestring::ByteString;

use super::Connection;
use crate::{
    hub::SentTo,
    push::{Address, Epoch, PushId, Resume, StreamPosition},
    socket::join::bad_name,
    store::{AttachError, Attached, DeviceKey, Reader, Store},
    wire::{
        dialect::{ClientError, JoinRequest, StreamState},
        stream_ping::StreamPing,
    },
};

/// Where a client begins in a stream.
#[derive(Clone, Copy)]
pub(super) struct StreamBegin {
    epoch: Epoch,
    /// It has all up to this.
    from: u64,
    waiting: u64,
    /// Where it wanted to go on does not hold.
    reset: bool,
}

impl StreamBegin {
    /// Where nothing is stored yet, told to a client that asked: an epoch that no stream has. Who resumes from it later gets
    /// all that is there.
    fn nowhere(resume: Option<Resume>) -> Self {
        Self { epoch: Epoch::from_u32(0), from: 0, waiting: 0, reset: resume.is_some() }
    }

    /// What the client has.
    pub(super) fn position(self) -> StreamPosition {
        StreamPosition { epoch: self.epoch, seq: self.from, id: PushId::NIL }
    }
}

impl Connection {
    /// Refuses what needs a store where there is none.
    pub(super) fn check_streams(&self, device: bool, resume: bool) -> Result<(), ClientError> {
        if self.worker.store.is_some() || !(device || resume) {
            return Ok(());
        }
        let field = if device { "device" } else { "resume" };
        let message = format!("this gateway stores no pushes ([store] backend); leave `{field}` out");
        Err(ClientError::new("unsupported", message))
    }

    /// Puts the client into a card, or changes as what it is in it, and lets it begin in the card's stream. From here on it
    /// gets what is pushed to the card: nothing may be awaited before it is told that it joined.
    ///
    /// # Errors
    /// The card has too many devices: nothing changed.
    pub(super) fn put_into_card(&self, request: &JoinRequest) -> Result<Option<StreamBegin>, ClientError> {
        let JoinRequest { card, app, device, resume, .. } = request;
        let shard = &self.worker.shard;
        let Some(store) = &self.worker.store else {
            shard.join(&self.client, card, app);
            return Ok(None);
        };
        let joined_as = self.client.cards().into_iter().find(|(joined, _)| joined == card).map(|(_, app)| app);
        let known_device = shard.device(&self.client, card);
        // who joins again goes on where it is, unless it is another reader now, or asks for another place
        let is_same_reader = match (&joined_as, &known_device, device) {
            (None, ..) => false,
            (Some(_), Some(known), device) => device.as_ref().is_none_or(|device| device == known),
            (Some(joined_as), None, None) => joined_as == app,
            (Some(_), None, Some(_)) => false,
        };
        // first a member: what is stored from now on reaches it, and what was before is counted by `attach`
        if joined_as.is_none() {
            shard.join(&self.client, card, app);
        }
        let mut begin = None;
        if !is_same_reader || resume.is_some() {
            match self.begin_card(store, request, known_device.as_ref()) {
                Ok(begun) => begin = begun,
                Err(error) => {
                    if joined_as.is_none() {
                        shard.leave_card(&self.client, card);
                    }
                    return Err(error);
                }
            }
        }
        if joined_as.is_some() {
            shard.join(&self.client, card, app);
        }
        Ok(begin)
    }

    fn begin_card(
        &self,
        store: &Store,
        request: &JoinRequest,
        known_device: Option<&ByteString>,
    ) -> Result<Option<StreamBegin>, ClientError> {
        let JoinRequest { card, app, device, resume, .. } = request;
        let address = Address::Card(card.clone());
        let device = device.as_ref().or(known_device);
        let key = device.map_or(DeviceKey::App(app), |device| DeviceKey::Declared(device));
        let attached = match store.attach(&address, Reader::Device(key, *resume)) {
            Ok(attached) => attached,
            // it is let in all the same, and begins at the newest push, as a new app does
            Err(AttachError::TooManyDevices(_)) if device.is_none() => at_head(store.head(&address)),
            Err(error) => {
                let message = format!("{error}: join as one of them, or have the back end delete one");
                return Err(ClientError::new("too_many_devices", message));
            }
        };
        if let Some(device) = device {
            self.worker.shard.set_device(&self.client, card, device);
        }
        Ok(self.follow_stream(&address, attached, device.is_some(), *resume))
    }

    /// Lets a client that is in a room begin in the room's stream.
    pub(super) fn begin_room(&self, room: &ByteString, resume: Option<Resume>) -> Option<StreamBegin> {
        let store = self.worker.store.as_ref()?;
        let address = Address::Room(room.clone());
        // rooms have no devices that could be too many
        let attached = store.attach(&address, Reader::Room(resume)).unwrap_or(Attached::NoStream);
        self.follow_stream(&address, attached, false, resume)
    }

    fn follow_stream(
        &self,
        address: &Address,
        attached: Attached,
        has_device: bool,
        resume: Option<Resume>,
    ) -> Option<StreamBegin> {
        match attached {
            Attached::NoStream => {
                self.worker.shard.follow(&self.client, address, None);
                (has_device || resume.is_some()).then(|| StreamBegin::nowhere(resume))
            }
            Attached::At { head, from, waiting, reset } => {
                self.worker.shard.follow(&self.client, address, Some((head, from)));
                Some(StreamBegin { epoch: head.epoch, from, waiting, reset })
            }
        }
    }

    /// Tells the client where it begins, where its dialect has words for it.
    pub(super) fn tell_begin(&self, address: &Address, begin: StreamBegin) {
        let StreamBegin { epoch, from, waiting, reset } = begin;
        let state = StreamState { address, epoch, seq: from, waiting };
        let dialect = self.client.dialect();
        self.answer_if(if reset { dialect.reset(&state) } else { dialect.stream(&state) });
    }

    /// A client says that it has all of a card's stream up to `seq`.
    ///
    /// # Errors
    /// It cannot have that, or need not say so.
    pub(super) fn ack(&self, card: &ByteString, seq: u64, epoch: Option<Epoch>) -> Result<(), ClientError> {
        let Some(store) = &self.worker.store else {
            let message = "this gateway stores no pushes ([store] backend); do not send `ack`";
            return Err(ClientError::new("unsupported", message));
        };
        self.worker.names.check(card).map_err(|error| bad_name("card", &error))?;
        let Some(sent) = self.worker.shard.sent_to(&self.client, &Address::Card(card.clone())) else {
            return Err(bad_ack(format!("this client is not in the card {card:?}; join it before you acknowledge")));
        };
        let Some(device) = self.worker.shard.device(&self.client, card) else {
            return Err(bad_ack(format!(
                "this client joined the card {card:?} without `device`: its Pongs acknowledge; do not send `ack`"
            )));
        };
        if epoch.is_some() && epoch != sent.epoch {
            // it crossed a `reset`: the numbers that it means are no more
            return Ok(());
        }
        if seq > sent.seq {
            let sent = sent.seq;
            return Err(bad_ack(format!(
                "{seq} of the card {card:?} was not sent to this client; up to {sent} was: acknowledge what came"
            )));
        }
        if let Some(epoch) = sent.epoch {
            store.ack(card, DeviceKey::Declared(&device), epoch, seq);
        }
        Ok(())
    }

    /// A Pong came: what was written before its Ping was read.
    pub(super) fn ack_by_pong(&mut self, payload: &[u8]) {
        self.answers_pings = true;
        let (Some(store), Some(ping)) = (&self.worker.store, StreamPing::of_payload(payload)) else { return };
        let cards = self.client.cards();
        let Some((card, app)) = cards.into_iter().find(|(card, _)| StreamPing::hash(card) == ping.card) else { return };
        if self.worker.shard.device(&self.client, &card).is_some() {
            return;
        }
        // a Pong may be made up
        let sent = self.worker.shard.sent_to(&self.client, &Address::Card(card.clone())).unwrap_or_default();
        let seq = ping.seq.min(sent.seq);
        if seq > 0 && sent.epoch == Some(ping.epoch) {
            store.ack(&card, DeviceKey::App(&app), ping.epoch, seq);
        }
    }

    /// The client closes in order. One that leaves Pings unanswered has what was written: nothing else tells. Of one that had no time
    /// to answer nothing is known, and all comes again.
    pub(super) fn ack_by_close(&self) {
        let Some(store) = &self.worker.store else { return };
        let answers_none = !self.answers_pings && self.worker.heartbeat.leaves_pings_unanswered(&self.client);
        if !answers_none || self.client.is_ending() || !self.client.is_drained() {
            return;
        }
        for (card, app) in self.client.cards() {
            if self.worker.shard.device(&self.client, &card).is_some() {
                continue;
            }
            let sent = self.worker.shard.sent_to(&self.client, &Address::Card(card.clone()));
            if let Some(SentTo { epoch: Some(epoch), seq: seq @ 1.. }) = sent {
                store.ack(&card, DeviceKey::App(&app), epoch, seq);
            }
        }
    }
}

/// At the newest push of a stream.
fn at_head(head: Option<StreamPosition>) -> Attached {
    head.map_or(Attached::NoStream, |head| Attached::At { head, from: head.seq, waiting: 0, reset: false })
}

fn bad_ack(message: String) -> ClientError {
    ClientError::new("bad_ack", message)
}
