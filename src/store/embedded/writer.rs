//! The thread that owns the store's log: it writes and syncs once for all that waits, then tells dispatch and whoever waits.

mod clean;
mod failures;
mod stored;
mod telling;

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::mpsc;

use super::{
    entry::{
        AddressRef, BEGUN, BegunForm, CLAIM, CLOSED, ClaimForm, DELETED, DeletedForm, FORGOTTEN, PLACE, PUSH,
        PlaceForm, RENEWED, REVOKED, RenewedForm, RevokedForm, STREAM, push_head, write_forgotten,
    },
    order::{PlannedOrder, StoreOrder, WaitingAppend, device},
    shared::{SharedStore, StoreTurn, unix_seconds},
    streams::{Assignment, ClaimState, StoredAt, share},
};
use crate::{
    config,
    log::{Disk, Log, Place, PutError, Room},
    push::{Address, Push, Selection, StoredPush},
    store::{Appended, Claimed, StoreError, StoreState},
    telemetry::labels::AppendOutcome,
};
pub(super) use stored::BUNDLES;
use stored::StoredBundles;
use telling::ToldAgain;

/// One write takes about this much; more waits for the next.
const BATCH_BYTES: usize = 4 << 20;
/// How often a failed or full disk is tried.
const RETRY: Duration = Duration::from_secs(1);
/// How often some streams are looked at for what is over.
const WALK: Duration = Duration::from_secs(1);
/// Each stream is looked at about so often, in walks.
const WALKS: usize = 60;
/// Released segments are overwritten this long after the last release.
const TIDY_AFTER: Duration = Duration::from_secs(1);
/// So many pushes get their numbers, or places go into the index, while its lock is held.
const CHUNK: usize = 512;

/// See the module.
pub(super) struct StoreWriter<D: Disk> {
    shared: Arc<SharedStore>,
    log: Log<D>,
    stored: mpsc::Sender<Vec<StoredPush>>,
    begun: BegunForm,
    /// What the log is to be told before anything else, with the stream that it is about.
    notices: Vec<(u8, Vec<u8>, Option<u32>)>,
    /// When the disk must have what only the kernel has.
    sync_by: Option<Instant>,
    /// The log failed: when it is tried again.
    retry_at: Option<Instant>,
    /// The disk is full: when it is tried again.
    room_at: Option<Instant>,
    looked_at: Instant,
    tidy_at: Option<Instant>,
    walk_at: Instant,
    /// Where the cleaning of the oldest segment goes on.
    clean_from: Option<Place>,
    clean_at: Instant,
    /// Readings of old segments in a row that failed.
    read_failures: u32,
    /// What stands before it was pushed out.
    out_from: Option<Place>,
}

/// What the log has of a turn.
#[derive(Default)]
struct WrittenStore {
    /// Of the orders, as far as there was room.
    places: Vec<Place>,
    no_room: Option<io::Error>,
    again: ToldAgain,
}

impl<D: Disk> StoreWriter<D> {
    /// With a log that was just opened, and what is to be told of it at once.
    pub(super) fn new(
        shared: Arc<SharedStore>,
        log: Log<D>,
        stored: mpsc::Sender<Vec<StoredPush>>,
        begun: BegunForm,
        renewed: Option<RenewedForm>,
        broken: Vec<(u32, Vec<u8>)>,
    ) -> Self {
        let mut notices = vec![(BEGUN, begun.bytes(), None)];
        notices.extend(renewed.map(|renewed| (RENEWED, renewed.bytes().to_vec(), None)));
        notices.extend(broken.into_iter().map(|(stream, body)| (STREAM, body, Some(stream))));
        let now = Instant::now();
        Self {
            shared,
            log,
            stored,
            begun,
            notices,
            sync_by: None,
            retry_at: None,
            room_at: None,
            looked_at: now,
            tidy_at: Some(now),
            walk_at: now + WALK,
            clean_from: None,
            clean_at: now,
            read_failures: 0,
            out_from: None,
        }
    }

    /// Until the store is closed.
    pub(super) fn run(mut self) {
        self.shared.state.send_replace(StoreState::Ready);
        while !self.turn() {}
        self.shared.refuse("the gateway is stopping");
        let closed = self.log.put(CLOSED, &[], Room::Progress).map(drop).map_err(io::Error::from);
        if let Err(error) = closed.and_then(|()| self.log.close()) {
            tracing::warn!(%error, "the store's log was not closed in order: some acknowledgements may be repeated");
        }
    }

    /// Whether it was the last.
    fn turn(&mut self) -> bool {
        if let Some(retry_at) = self.retry_at {
            let closing = self.shared.wait_to_retry(retry_at);
            if !self.heal() {
                return closing;
            }
        }
        self.wait();
        // the first push of a burst wakes this thread: it must not take the core from who sends the others
        std::thread::yield_now();
        let turn = self.shared.begin(BATCH_BYTES);
        let last = turn.last;
        self.run_turn(turn);
        if let Err(error) = self.push_out().and_then(|()| self.clean()) {
            self.fail(&error);
        }
        self.walk();
        // a last one that failed is not tried again
        last
    }

    fn wait(&mut self) {
        loop {
            let now = Instant::now();
            let walk_at = Some(self.walk_at).filter(|_| !self.shared.lock().streams.is_empty());
            let notices = Some(now).filter(|_| !self.notices.is_empty() && self.room_at.is_none());
            let until = [self.sync_by, walk_at, self.room_at, notices].into_iter().flatten().min();
            if self.tidy_at.is_none_or(|at| at > now) {
                return self.shared.wait(until.into_iter().chain(self.tidy_at).min());
            }
            if self.shared.has_work() || until.is_some_and(|until| until <= now) {
                return;
            }
            let more = self.log.tidy().unwrap_or_else(|error| {
                tracing::debug!(%error, "released segments of the store's log were not overwritten");
                false
            });
            self.tidy_at = self.tidy_at.filter(|_| more);
        }
    }

    fn run_turn(&mut self, StoreTurn { orders, saves, .. }: StoreTurn) {
        let tells = saves || !orders.is_empty();
        let planned = self.plan(orders);
        let mut written = WrittenStore::default();
        let outcome = self.look().and_then(|()| self.write(&planned, tells, saves, &mut written));
        match outcome {
            Ok(()) => {
                self.settle_again(std::mem::take(&mut written.again));
                self.settle(planned, written);
                self.try_room();
            }
            Err(error) => {
                // before anybody is told: who tries again is refused at once
                self.fail(&error);
                self.not_told(std::mem::take(&mut written.again));
                let orders = planned.into_iter().map(|planned| planned.order).collect();
                let reason = format!("its log cannot be written: {error}");
                self.shared.refuse_all(orders, &StoreError::Unavailable(reason));
            }
        }
    }

    /// Gives pushes their numbers. What cannot be done is answered here.
    fn plan(&mut self, orders: Vec<StoreOrder>) -> Vec<PlannedOrder> {
        let now = unix_seconds();
        let mut assignment = Assignment::default();
        let mut planned = Vec::with_capacity(orders.len());
        let mut refused = Vec::new();
        let mut locked = self.shared.lock();
        for (nth, order) in orders.into_iter().enumerate() {
            if nth % CHUNK == CHUNK - 1 {
                // others wait for it; only this thread makes streams
                drop(locked);
                locked = self.shared.lock();
            }
            let streams = &mut locked.streams;
            let plan = |order, places, epoch| PlannedOrder { order, places, epoch };
            match &order {
                StoreOrder::Append(WaitingAppend { push, .. }) => {
                    let until =
                        push.deadline.map_or(u32::MAX, |at| u32::try_from(at.div_ceil(1000)).unwrap_or(u32::MAX));
                    match streams.assign(&mut assignment, addresses(push), push.id, until, now) {
                        Ok(places) => planned.push(plan(order, places, None)),
                        Err(error) => refused.push((order, error)),
                    }
                }
                StoreOrder::DeleteEntry { address, seq, .. } => {
                    let epoch = streams.epoch_with(address_ref(address), *seq);
                    planned.push(plan(order, Vec::new(), epoch));
                }
                StoreOrder::DeleteStream { address, .. } => {
                    let epoch = streams.head(address_ref(address)).map(|head| head.epoch);
                    planned.push(plan(order, Vec::new(), epoch));
                }
                StoreOrder::ForgetDevice { card, declared, name, .. } => {
                    let head = streams.head(AddressRef::card(card));
                    let known = head.filter(|_| streams.has_device(card, device(*declared, name)));
                    let epoch = known.map(|head| head.epoch);
                    planned.push(plan(order, Vec::new(), epoch));
                }
                StoreOrder::Claim { .. } | StoreOrder::Revoke { .. } => planned.push(plan(order, Vec::new(), None)),
            }
        }
        drop(locked);
        for (order, error) in refused {
            self.shared.refuse_all(vec![order], &error);
        }
        planned
    }

    fn write(
        &mut self,
        planned: &[PlannedOrder],
        tells: bool,
        syncs: bool,
        written: &mut WrittenStore,
    ) -> io::Result<()> {
        let has_notices = !self.notices.is_empty();
        self.tell_notices(&mut written.again)?;
        for order in planned {
            match self.put(order) {
                Ok(place) => written.places.push(place),
                Err(PutError::NoRoom(error)) => {
                    written.no_room = Some(error);
                    break;
                }
                Err(error) => return Err(error.into()),
            }
        }
        // a cursor that is told behind the end of its device would bring that back
        let forgets = planned.iter().any(|planned| matches!(planned.order, StoreOrder::ForgetDevice { .. }));
        if tells && !forgets {
            self.tell_again(&mut written.again)?;
        } else if tells {
            self.shared.lock().save_again();
        }
        self.release(written.places.first().map(|place| place.segment))?;
        let sync_is_due = self.sync_by.is_some_and(|by| by <= Instant::now());
        let always = self.shared.limits.sync == config::Sync::Always;
        if syncs || sync_is_due || has_notices || (always && !planned.is_empty()) {
            self.log.sync()?;
            self.sync_by = None;
            return Ok(());
        }
        self.log.write()?;
        if let config::Sync::Every(within) = self.shared.limits.sync
            && !planned.is_empty()
        {
            self.sync_by.get_or_insert(Instant::now() + within);
        }
        Ok(())
    }

    /// Puts what an order says; a place where nothing is for one that changes nothing.
    fn put(&mut self, planned: &PlannedOrder) -> Result<Place, PutError> {
        let nothing = Place { segment: self.log.head(), offset: 0 };
        let (kind, body) = match &planned.order {
            StoreOrder::Append(append) => {
                let places = planned.places.iter().enumerate().map(|(card, place)| PlaceForm {
                    card: card as u32,
                    epoch: place.entry.epoch,
                    seq: place.entry.seq,
                    previous: place.entry.previous,
                    until: place.until,
                });
                let head = push_head(append.claim.as_ref(), places);
                return self.log.put(PUSH, &[&head, &append.record], Room::Payload).map(|(_, place)| place);
            }
            StoreOrder::Claim { id, claim, .. } => (CLAIM, ClaimForm { claim: *claim, id: *id, done: false }.bytes()),
            StoreOrder::DeleteEntry { address, seq, .. } => match planned.epoch {
                Some(epoch) => (DELETED, DeletedForm { address: address_ref(address), epoch, seq: *seq }.bytes()),
                None => return Ok(nothing),
            },
            StoreOrder::DeleteStream { address, .. } => match planned.epoch {
                Some(epoch) => (DELETED, DeletedForm { address: address_ref(address), epoch, seq: 0 }.bytes()),
                None => return Ok(nothing),
            },
            StoreOrder::ForgetDevice { card, declared, name, .. } => match planned.epoch {
                Some(_) => (FORGOTTEN, write_forgotten(card, device(*declared, name))),
                None => return Ok(nothing),
            },
            StoreOrder::Revoke { subject, second, until, .. } => {
                (REVOKED, RevokedForm { subject, second: *second, until: *until }.bytes())
            }
        };
        self.log.put(kind, &[&body], Room::Progress).map(|(_, place)| place)
    }

    /// Gives segments up that nobody needs; `first_new`: what was put in this turn begins there.
    fn release(&mut self, first_new: Option<u32>) -> io::Result<()> {
        let oldest = self.shared.lock().streams.oldest_segment();
        let head = self.log.head();
        let needed_from = oldest.into_iter().chain(first_new).min().unwrap_or(head).min(head);
        if needed_from <= self.log.oldest() {
            return Ok(());
        }
        match self.log.release(needed_from) {
            Ok(()) => self.tidy_at = Some(Instant::now() + TIDY_AFTER),
            // the next turn tries again
            Err(PutError::NoRoom(_)) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Puts into the index what the log has, tells dispatch, and answers.
    fn settle(&mut self, mut planned: Vec<PlannedOrder>, written: WrittenStore) {
        let WrittenStore { places, no_room, .. } = written;
        let refused = planned.split_off(places.len());
        self.index(&planned, &places);
        let stored = planned.iter().filter(|planned| matches!(planned.order, StoreOrder::Append(_))).count() as u64;
        if stored > 0 {
            self.shared.count(AppendOutcome::Stored, stored);
        }
        let mut locked = self.shared.lock();
        let followers: Vec<_> = planned
            .iter()
            .map(|planned| match planned.order.claim() {
                Some(claim) => locked.take_followers(&claim.key),
                None => Vec::new(),
            })
            .collect();
        planned.iter().for_each(|planned| locked.settle(&planned.order));
        self.shared.show(&mut locked);
        drop(locked);
        let mut bundles = StoredBundles::new(&self.shared, &self.stored);
        let mut answers = Vec::new();
        for (PlannedOrder { order, places, epoch }, followers) in planned.into_iter().zip(followers) {
            match order {
                StoreOrder::Append(WaitingAppend { push, record, answer, .. }) => {
                    answers.push((answer, followers, push.id));
                    bundles.add(push, record.len(), places);
                }
                StoreOrder::Claim { answer, .. } => drop(answer.send(Ok(Claimed::New))),
                StoreOrder::DeleteEntry { answer, .. }
                | StoreOrder::DeleteStream { answer, .. }
                | StoreOrder::ForgetDevice { answer, .. } => drop(answer.send(Ok(epoch.is_some()))),
                StoreOrder::Revoke { answer, .. } => drop(answer.send(Ok(()))),
            }
        }
        bundles.send();
        for (answer, followers, id) in answers {
            let _ = answer.send(Ok(Appended::New { id, wake: None }));
            followers.into_iter().for_each(|answer| drop(answer.send(Ok(Appended::Before(id)))));
        }
        if let Some(error) = no_room {
            self.no_room(refused.into_iter().map(|planned| planned.order).collect(), &error);
        }
    }

    fn index(&self, planned: &[PlannedOrder], places: &[Place]) {
        let most = self.shared.limits.max_revocations;
        let now = unix_seconds();
        let mut locked = self.shared.lock();
        let mut taken = 0_usize;
        for (planned, place) in planned.iter().zip(places) {
            let streams = &mut locked.streams;
            match &planned.order {
                StoreOrder::Append(WaitingAppend { push, record, claim, .. }) => {
                    let key = push.collapse_key.as_deref().unwrap_or_default();
                    let collapse = streams.collapse_hash(key.as_bytes());
                    let bytes = share(record.len() + planned.places.len() * PLACE, planned.places.len());
                    if let Some(claim) = claim {
                        let (claims, uses) = streams.claims();
                        claims.told(claim.key, push.id, ClaimState::Done, place.segment, uses);
                    }
                    for assigned in &planned.places {
                        let (seq, until) = (assigned.entry.seq, assigned.until);
                        let stored = StoredAt { seq, id: push.id, place: *place, until, bytes, collapse };
                        locked.streams.store(assigned, &stored, now);
                        taken += 1;
                        if taken.is_multiple_of(CHUNK) {
                            // others wait for it
                            drop(locked);
                            locked = self.shared.lock();
                        }
                    }
                }
                StoreOrder::Claim { id, claim, .. } => {
                    let (claims, uses) = streams.claims();
                    claims.told(claim.key, *id, ClaimState::Pending, place.segment, uses);
                }
                StoreOrder::DeleteEntry { address, seq, .. } => {
                    let epoch = planned.epoch;
                    epoch.into_iter().for_each(|epoch| streams.delete_entry(address_ref(address), epoch, *seq));
                }
                StoreOrder::DeleteStream { address, .. } => {
                    let epoch = planned.epoch;
                    epoch.into_iter().for_each(|epoch| streams.delete_stream(address_ref(address), epoch));
                }
                StoreOrder::ForgetDevice { card, declared, name, .. } => {
                    streams.forget_device(card, device(*declared, name));
                }
                StoreOrder::Revoke { subject, second, until, .. } => {
                    let (revocations, uses) = streams.revocations();
                    let revoked = RevokedForm { subject, second: *second, until: *until };
                    revocations.keep(&revoked, place.segment, most, uses);
                }
            }
        }
    }

    /// What is over leaves, some streams at a time.
    fn walk(&mut self) {
        if Instant::now() < self.walk_at {
            return;
        }
        self.walk_at = Instant::now() + WALK;
        let mut left = self.shared.lock().streams.slots() / WALKS + CHUNK;
        while left > 0 {
            let some = left.min(CHUNK);
            self.shared.lock().streams.walk(some, unix_seconds());
            left -= some;
        }
        self.shared.show(&mut self.shared.lock());
    }
}

/// The streams that a push goes into.
fn addresses(push: &Push) -> impl Iterator<Item = AddressRef<'_>> + Clone {
    let (cards, room) = match push.target.selection() {
        Selection::Cards(cards) => (cards, None),
        Selection::Room(room) => (&[][..], Some(room)),
        // nothing is stored for them: ingress refuses it
        Selection::App(_) | Selection::Everyone | Selection::Nobody => (&[][..], None),
    };
    let cards = cards.iter().map(|card| AddressRef::card(card));
    cards.chain(room.into_iter().map(|room| AddressRef::room(room)))
}

pub(super) fn address_ref(address: &Address) -> AddressRef<'_> {
    AddressRef { kind: address.kind(), name: address.name() }
}
