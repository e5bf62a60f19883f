//! A client's place in the streams of its cards and rooms, and what it acknowledges.

use std::rc::Rc;

use bytestring::ByteString;
use futures_util::FutureExt;
use tokio::time::sleep;

use super::{
    Connection,
    steps::Answer,
    stream_place::{AttachOutcome, StreamPlace, attach},
};
use crate::{
    hub::{SentTo, StreamReader},
    push::{Address, Epoch, PushId, Resume, StreamPosition},
    socket::join::bad_name,
    store::{AttachError, Attached, DeviceKey, Store},
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

    /// As what a client is to begin in a card's stream; `None`: it goes on where it is.
    fn new_reader(&self, request: &JoinRequest) -> Option<StreamReader> {
        let JoinRequest { card, app, device, resume, .. } = request;
        let joined_as = self.client.cards().into_iter().find(|(joined, _)| joined == card).map(|(_, app)| app);
        let known_device = self.worker.shard.device(&self.client, card);
        // who joins again goes on where it is, unless it is another reader now, or asks for another place
        let is_same_reader = match (&joined_as, &known_device, device) {
            (None, ..) => false,
            (Some(_), Some(known), device) => device.as_ref().is_none_or(|device| device == known),
            (Some(joined_as), None, None) => joined_as == app,
            (Some(_), None, Some(_)) => false,
        };
        if is_same_reader && resume.is_none() {
            return None;
        }
        Some(match device.clone().or(known_device) {
            Some(device) => StreamReader::Device(device),
            None => StreamReader::App(app.clone()),
        })
    }

    /// Looks up where the client begins in a card's stream; `None`: it goes on where it is, or the store tells it at once.
    pub(super) fn look_up_card(&self, request: &JoinRequest) -> Option<impl Future<Output = AttachOutcome> + use<>> {
        let store = self.worker.store.as_ref().filter(|store| store.is_shared())?;
        let reader = self.new_reader(request)?;
        Some(attach(store.clone(), Address::Card(request.card.clone()), Some(reader), request.resume))
    }

    /// As [`Connection::look_up_card`], for a room.
    pub(super) fn look_up_room(
        &self,
        room: &ByteString,
        resume: Option<Resume>,
    ) -> Option<impl Future<Output = AttachOutcome> + use<>> {
        let store = self.worker.store.as_ref().filter(|store| store.is_shared())?;
        Some(attach(store.clone(), Address::Room(room.clone()), None, resume))
    }

    /// Puts the client into a card, or changes as what it is in it, and lets it begin in the card's stream, where it was looked
    /// up, if it was. From here on it gets what is pushed to the card: nothing may be awaited before it is told that it joined.
    ///
    /// # Errors
    /// The card has too many devices: nothing changed.
    pub(super) fn put_into_card(
        &mut self,
        request: &JoinRequest,
        looked_up: Option<AttachOutcome>,
    ) -> Result<Option<StreamBegin>, ClientError> {
        let JoinRequest { card, app, resume, .. } = request;
        let shard = &self.worker.shard;
        let Some(store) = self.worker.store.clone() else {
            shard.join(&self.client, card, app);
            return Ok(None);
        };
        let reader = self.new_reader(request);
        let was_member = self.client.has_joined(card);
        // first a member: what is stored from now on reaches it, and what was before is counted by `attach`
        if !was_member {
            shard.join(&self.client, card, app);
        }
        let mut begin = None;
        if let Some(reader) = reader {
            let place = StreamPlace { address: Address::Card(card.clone()), reader: Some(reader), resume: *resume };
            match self.begin_stream(&store, place, looked_up) {
                Ok(begun) => begin = begun,
                Err(error) => {
                    if !was_member {
                        self.worker.shard.leave_card(&self.client, card);
                    }
                    return Err(error);
                }
            }
        }
        if was_member {
            self.worker.shard.join(&self.client, card, app);
        }
        Ok(begin)
    }

    /// Lets a client that is in a room begin in the room's stream.
    pub(super) fn begin_room(
        &mut self,
        room: &ByteString,
        resume: Option<Resume>,
        looked_up: Option<AttachOutcome>,
    ) -> Option<StreamBegin> {
        let store = self.worker.store.clone()?;
        let place = StreamPlace { address: Address::Room(room.clone()), reader: None, resume };
        // rooms have no devices that could be too many
        self.begin_stream(&store, place, looked_up).ok().flatten()
    }

    /// Lets a client that is a member of an address begin in its stream: where it was looked up, or where the store says.
    fn begin_stream(
        &mut self,
        store: &Store,
        place: StreamPlace,
        looked_up: Option<AttachOutcome>,
    ) -> Result<Option<StreamBegin>, ClientError> {
        let is_looked_up = looked_up.is_some();
        let outcome = looked_up.or_else(|| place.attach(store).now_or_never());
        let attached = match outcome {
            Some(Ok(attached)) => attached,
            Some(Err(error @ AttachError::TooManyDevices(_))) => return Err(too_many_devices(&error)),
            Some(Err(AttachError::Unavailable(_))) | None => {
                self.attach_later(store.clone(), place);
                return Ok(None);
            }
        };
        let begin = self.place_in_stream(&place, attached);
        if is_looked_up {
            // what came before it was a member here
            self.worker.shard.look_up(&place.address);
        }
        Ok(begin)
    }

    /// The store does not answer: the client is let in, gets what is live, and begins in the stream once the store is back.
    fn attach_later(&mut self, store: Store, place: StreamPlace) {
        self.set_device(&place);
        self.worker.shard.follow_later(&self.client, &place.address);
        let (worker, client) = (Rc::clone(&self.worker), Rc::clone(&self.client));
        let address = place.address.clone();
        self.wait_for_attach(&address, async move {
            loop {
                sleep(worker.store_retry).await;
                if !worker.shard.is_unplaced(&client, &place.address) {
                    // it left: who comes and goes while the store is away must not gather what nobody waits for
                    let left = AttachError::Unavailable("the client left".into());
                    return Answer::Attached(place, Err(left));
                }
                match place.attach(&store).await {
                    Err(AttachError::Unavailable(_)) => {}
                    outcome => return Answer::Attached(place, outcome),
                }
            }
        });
    }

    /// The store is back, and said where the client begins.
    pub(super) fn attached_late(&mut self, place: StreamPlace, outcome: AttachOutcome) {
        if !self.worker.shard.is_unplaced(&self.client, &place.address) {
            // it left meanwhile, or the store said so as it came again
            return;
        }
        if let Err(error) = self.check_proof() {
            return self.refuse(error);
        }
        let reader = self.reader_now(&place.address);
        if reader != place.reader
            && let Some(store) = self.worker.store.clone()
        {
            // it came again as another one
            return self.attach_later(store, StreamPlace { reader, resume: None, ..place });
        }
        match outcome {
            Ok(attached) => {
                let begin = self.place_in_stream(&place, attached);
                self.worker.shard.look_up(&place.address);
                if let Some(begin) = begin {
                    self.tell_begin(&place.address, begin);
                }
            }
            Err(error) => {
                self.worker.shard.follow(&self.client, &place.address, None);
                self.answer_error(&too_many_devices(&error));
            }
        }
    }

    /// As what it reads a stream that it is a member of; `None`: a room's.
    fn reader_now(&self, address: &Address) -> Option<StreamReader> {
        let Address::Card(card) = address else { return None };
        if let Some(device) = self.worker.shard.device(&self.client, card) {
            return Some(StreamReader::Device(device));
        }
        let app = self.client.cards().into_iter().find(|(joined, _)| joined == card).map(|(_, app)| app);
        app.map(StreamReader::App)
    }

    fn set_device(&self, place: &StreamPlace) {
        if let (Address::Card(card), Some(StreamReader::Device(device))) = (&place.address, &place.reader) {
            self.worker.shard.set_device(&self.client, card, device);
        }
    }

    fn place_in_stream(&self, place: &StreamPlace, attached: Attached) -> Option<StreamBegin> {
        self.set_device(place);
        let has_device = matches!(place.reader, Some(StreamReader::Device(_)));
        self.follow_stream(&place.address, attached, has_device, place.resume)
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
            self.worker.shard.acked(&self.client, card, epoch, seq);
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
            self.worker.shard.acked(&self.client, &card, ping.epoch, seq);
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

fn too_many_devices(error: &AttachError) -> ClientError {
    let message = format!("{error}: join as one of them, or have the back end delete one");
    ClientError::new("too_many_devices", message)
}

fn bad_ack(message: String) -> ClientError {
    ClientError::new("bad_ack", message)
}
