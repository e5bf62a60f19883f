//! Decodes a lane's records, finds the shards that have clients of each, and sends them theirs, in order.

use std::{mem, sync::Arc};

use bytes::Bytes;
use tokio::{sync::mpsc, time::Instant};

use super::{dropped::Dropped, in_flight::InFlight, merger::Merger};
use crate::{
    hub::{
        Audience, ClientId, Completion, DisconnectPart, Fanout, Hub, MergingClients, Outcome, Part, Recipients, Work,
    },
    push::{Address, ClientSelector, Push, Selection},
    queue::record::{self, Record, RecordError},
    telemetry::{Counter, Metrics, labels::DropReason},
};

/// What a lane is given to do.
pub(super) enum LaneWork {
    /// The record of a job in flight, all of whose recipients are this lane's.
    Record {
        number: u64,
        record: Bytes,
        /// It was sent to this node because its clients are here.
        is_routed: bool,
    },
    /// Of a push that intake decoded, because several lanes have its recipients: this lane's.
    Part(Part),
    /// An order to end clients.
    Disconnect(DisconnectPart),
}

/// One of `[queue] processors`.
pub(super) struct Processor {
    router: Router,
    /// `None`: no push waits.
    merger: Option<Merger>,
    completions: mpsc::UnboundedSender<Completion>,
    in_flight: Arc<InFlight>,
    nobody: Counter,
    metrics: Arc<Metrics>,
}

impl Processor {
    pub(super) fn new(
        hub: Hub,
        completions: mpsc::UnboundedSender<Completion>,
        in_flight: Arc<InFlight>,
        merger: Option<Merger>,
        metrics: &Arc<Metrics>,
    ) -> Self {
        let nobody = metrics.drops.get_or_create_owned(&DropReason::NoConnection);
        Self { router: Router::new(hub), merger, completions, in_flight, nobody, metrics: Arc::clone(metrics) }
    }

    /// Does all of `works`; what a shard does not take now is blocked.
    pub(super) fn work_off(&mut self, works: &mut Vec<LaneWork>) {
        let mut dropped = Dropped::default();
        let mut nowhere = 0;
        for work in works.drain(..) {
            nowhere += match work {
                LaneWork::Record { number, record, is_routed } => self.decode(number, record, is_routed, &mut dropped),
                LaneWork::Part(part) => {
                    let nowhere = self.router.route(part.fanout(), part.recipients(), Audience::All);
                    // a stored one waits for who is not there
                    let nowhere = if part.fanout().is_stored() { 0 } else { nowhere };
                    self.trace_nowhere(part.fanout(), nowhere);
                    part.done();
                    nowhere
                }
                LaneWork::Disconnect(part) => {
                    self.router.route_disconnect(&part);
                    part.done();
                    // its clients may be gone by themselves
                    0
                }
            };
        }
        dropped.tell();
        if nowhere > 0 {
            self.nobody.inc_by(nowhere);
        }
        self.router.send();
        // what no shard has is at its end here
        self.in_flight.settle();
    }

    /// When pushes that wait must leave; `None`: none wait.
    pub(super) fn next_end(&self) -> Option<Instant> {
        self.merger.as_ref()?.next_end()
    }

    /// Sends the pushes on whose window ends by `now`.
    pub(super) fn end_windows(&mut self, now: Instant) {
        while let Some(pushes) = self.merger.as_mut().and_then(|merger| merger.take_ended(now)) {
            self.route_merged(pushes, None);
        }
        self.router.send();
    }

    /// Sends all pushes on that wait; from now on none does. `end` is told when clients were offered them.
    pub(super) fn stop_merging(&mut self, end: Option<&mpsc::UnboundedSender<Completion>>) {
        let mut merger = self.merger.take();
        while let Some(pushes) = merger.as_mut().and_then(Merger::take_any) {
            self.route_merged(pushes, end);
        }
        self.router.send();
    }

    /// A shard did not take what it was sent.
    pub(super) fn is_blocked(&self) -> bool {
        self.router.bundles.iter().any(|bundle| !bundle.is_empty())
    }

    /// What a shard did not take, and which one; `None`: all is sent.
    pub(super) fn take_blocked(&mut self) -> Option<(usize, Vec<Work>)> {
        let mut bundles = self.router.bundles.iter_mut().enumerate();
        bundles.find(|(_, bundle)| !bundle.is_empty()).map(|(shard, bundle)| (shard, mem::take(bundle)))
    }

    /// How many of its addresses no shard has.
    fn decode(&mut self, number: u64, record: Bytes, is_routed: bool, dropped: &mut Dropped) -> u64 {
        let mut push = match record::decode(record) {
            Ok(Record::Push(push)) => push,
            // intake gives only those that are none of these
            Ok(Record::Stored(_) | Record::Disconnect(_) | Record::Rebalance(_) | Record::Presence(_)) => {
                return self.withdraw(number, &RecordError::NoTarget, dropped);
            }
            Err(error) => return self.withdraw(number, &error, dropped),
        };
        // admission did so already; a record of another origin must not deliver twice either
        push.target.name_each_once();
        self.route(push, number, is_routed)
    }

    fn route(&mut self, push: Push, number: u64, is_routed: bool) -> u64 {
        let Some(recipients) = recipients(&push) else { return 0 };
        let waits = matches!(push.target.selection(), Selection::Room(_) | Selection::Everyone);
        if waits && self.merger.is_some() {
            return self.gather(push, number, is_routed, &recipients);
        }
        self.route_one(push, number, is_routed, &recipients)
    }

    fn route_one(&mut self, push: Push, number: u64, is_routed: bool, recipients: &Recipients) -> u64 {
        let fanout = self.fanout(push, number, is_routed);
        let nowhere = self.router.route(&fanout, recipients, Audience::All);
        self.trace_nowhere(&fanout, nowhere);
        nowhere
    }

    /// So many of its addresses no shard has.
    fn trace_nowhere(&self, fanout: &Fanout, addresses: u64) {
        if addresses > 0 {
            self.metrics.traces.dropped(fanout.push().id, DropReason::NoConnection, addresses);
        }
    }

    fn fanout(&self, push: Push, number: u64, is_routed: bool) -> Arc<Fanout> {
        Fanout::for_node(push, number, is_routed, self.completions.clone())
    }

    /// Lets a push wait for those of its clients that merge, and sends it to the others. One that waits is not sent on.
    fn gather(&mut self, push: Push, number: u64, is_routed: bool, recipients: &Recipients) -> u64 {
        let merging = self.router.hub.merging(push.target.room.as_deref());
        let is_alone = push.target.exclude.is_some() || push.collapse_key.is_some() || push.deadline.is_some();
        if is_alone || merging == MergingClients::None {
            // those before it leave before it
            if let Some(pushes) = self.merger.as_mut().and_then(|merger| merger.take(&push.target.room)) {
                self.route_merged(pushes, None);
            }
            return self.route_one(push, number, is_routed, recipients);
        }
        let nowhere = if merging == MergingClients::All {
            // told here, for no part of it will
            let _ = self.completions.send(Completion { number, outcome: Outcome::Offered });
            0
        } else {
            let fanout = Fanout::new(push.clone(), number, self.completions.clone());
            self.router.route(&fanout, recipients, Audience::NotMerging)
        };
        let mut ready = Vec::new();
        if let Some(merger) = &mut self.merger {
            merger.add(push, Instant::now(), &mut ready);
        }
        ready.into_iter().for_each(|pushes| self.route_merged(pushes, None));
        nowhere
    }

    /// Sends pushes of one window to the clients that merge. There may be none any more.
    fn route_merged(&mut self, pushes: Vec<Push>, end: Option<&mpsc::UnboundedSender<Completion>>) {
        if let Some(fanout) = Fanout::merged(pushes, end.cloned())
            && let Some(recipients) = recipients(fanout.push())
        {
            self.router.route(&fanout, &recipients, Audience::Merging);
        }
    }

    /// Drops a job that turns out to be unreadable.
    fn withdraw(&self, number: u64, error: &RecordError, dropped: &mut Dropped) -> u64 {
        // none: it took longer than job_timeout, and was requeued
        if let Some(job) = self.in_flight.withdraw(number) {
            dropped.undecodable(job, error, &self.metrics);
        }
        0
    }
}

/// Whose clients a push is for; `None`: it selects nobody.
fn recipients(push: &Push) -> Option<Recipients> {
    match push.target.selection() {
        Selection::Cards([card]) => Some(Recipients::Address(Address::Card(card.clone()))),
        Selection::Cards(cards) => Some(Recipients::Addresses(cards.iter().cloned().map(Address::Card).collect())),
        Selection::Room(room) => Some(Recipients::Address(Address::Room(room.clone()))),
        Selection::App(_) | Selection::Everyone => Some(Recipients::Everyone),
        Selection::Nobody => None,
    }
}

/// Makes the shards' parts out of a lane's.
struct Router {
    hub: Hub,
    /// For each shard what is ready to be sent, or was sent and not taken.
    bundles: Vec<Vec<Work>>,
    /// For each shard the addresses of the part that is being routed; empty before and after.
    addresses: Vec<Vec<Address>>,
}

impl Router {
    fn new(hub: Hub) -> Self {
        let shards = hub.workers();
        Self { hub, bundles: (0..shards).map(|_| Vec::new()).collect(), addresses: vec![Vec::new(); shards] }
    }

    /// Sends each shard its bundle, as far as there is room.
    fn send(&mut self) {
        for (shard, bundle) in self.bundles.iter_mut().enumerate().filter(|(_, bundle)| !bundle.is_empty()) {
            if let Err(left) = self.hub.try_send(shard, mem::take(bundle)) {
                *bundle = left;
            }
        }
    }

    /// Makes a part for each shard that has clients of `recipients`; how many addresses no shard has.
    fn route(&mut self, fanout: &Arc<Fanout>, recipients: &Recipients, audience: Audience) -> u64 {
        let (shards, nowhere) = match recipients {
            Recipients::Address(address) => {
                let shards = self.hub.shards(address);
                (shards, count_absent(fanout, address, shards))
            }
            Recipients::Addresses(addresses) => return self.split(fanout, addresses),
            Recipients::Everyone | Recipients::Panic => (self.all_shards(), 0),
        };
        for shard in bits(shards) {
            self.bundles[shard].push(Part::new(Arc::clone(fanout), recipients.clone()).only(audience).into());
        }
        nowhere
    }

    /// A part of an order to each shard that may have clients of it.
    fn route_disconnect(&mut self, part: &DisconnectPart) {
        part.run().tell(&self.hub);
        let shards = match &part.run().order().selector {
            ClientSelector::Card(card) => self.hub.shards(&Address::Card(card.clone())),
            ClientSelector::App(_) | ClientSelector::Subject(_) => self.all_shards(),
            // the part of an id that was made up may name a shard that this node has not
            ClientSelector::Client(id) => {
                let place = self.hub.place(ClientId::from_bytes(*id));
                place.and_then(|(shard, _)| 1_u64.checked_shl(shard as u32)).unwrap_or(0) & self.all_shards()
            }
        };
        for shard in bits(shards) {
            self.bundles[shard].push(Work::Disconnect(DisconnectPart::new(Arc::clone(part.run()))));
        }
    }

    /// A bit for each.
    fn all_shards(&self) -> u64 {
        u64::MAX >> (u64::BITS as usize - self.hub.workers())
    }

    /// A part to each shard, for those of `addresses` that it has.
    fn split(&mut self, fanout: &Arc<Fanout>, addresses: &[Address]) -> u64 {
        let mut nowhere = 0;
        for address in addresses {
            let shards = self.hub.shards(address);
            nowhere += count_absent(fanout, address, shards);
            for shard in bits(shards) {
                self.addresses[shard].push(address.clone());
            }
        }
        for (addresses, bundle) in self.addresses.iter_mut().zip(&mut self.bundles) {
            if !addresses.is_empty() {
                let recipients = Recipients::Addresses(mem::take(addresses));
                bundle.push(Part::new(Arc::clone(fanout), recipients).into());
            }
        }
        nowhere
    }
}

/// 1 for an address that no shard has. Not where the push was sent to this node: then it may be sent on.
fn count_absent(fanout: &Fanout, address: &Address, shards: u64) -> u64 {
    if shards > 0 {
        return 0;
    }
    if fanout.is_routed() {
        fanout.address_absent(address.clone());
        return 0;
    }
    1
}

/// The places of the bits that are set.
fn bits(mut word: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let place = word.trailing_zeros();
        (place < u64::BITS).then(|| {
            word &= word - 1;
            place as usize
        })
    })
}
