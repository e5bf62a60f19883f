//! The part of the hub that one worker thread owns, and its loop.

mod stored;
mod stream_notices;

use std::{
    cell::RefCell,
    pin::pin,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use bytestring::ByteString;
use futures_util::FutureExt;
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::{
    Audience, Burst, Client, ClientId, ClientKey, ClientLookup, DisconnectPart, Flush, Hub, Item, Recipients, Sink,
    Work, WriteBudget, burst::NextWork, disconnect::Sweeps, fanout::FoundClients, registry::Registry,
    writer::ShardWriter,
};
use crate::{
    bundles::Bundles,
    push::{Address, AddressKind, ClientSelector, Disconnect, Epoch, Filters, NameSample, Target},
    wire::{
        close::Ending,
        dialect::{Dialect, PresenceChange, PresentCards},
        frame::Frame,
    },
};

/// Clients after which a turn goes on to write even if more parts wait: bounds how long sockets wait for a turn's end.
const CLIENTS_PER_TURN: u64 = 8192;
/// Clients that a disconnect looks at in one turn.
const LOOKS_PER_TURN: usize = 1024;

/// Clients, groups and waiting writes of one thread. Nothing is awaited while a part of it is borrowed.
pub struct Shard<S> {
    registry: Registry<S>,
    writer: ShardWriter<S>,
    sweeps: RefCell<Sweeps>,
}

/// A burst that is being offered.
struct Delivery<'a> {
    burst: &'a Burst,
    filters: Filters<'a>,
    is_filtered: bool,
    /// The one that gets nothing.
    excluded: Option<ClientKey>,
    /// A client may be found for more than one card: it has several, or joins another between two parts of the push.
    may_find_twice: bool,
    is_leaving: bool,
    /// Of one with sampled pushes: since when it is offered.
    sampled: Option<Instant>,
    /// Made for each dialect when the first client needs it.
    items: [Option<Rc<Item>>; Dialect::ALL.len()],
    found: FoundClients,
}

impl Delivery<'_> {
    fn is_for<S>(&self, client: &Client<S>, address: Option<&Address>) -> bool {
        client.passes(&self.filters, address) && self.excluded != Some(client.key())
    }
}

impl<S: Sink> Shard<S> {
    pub(super) fn new(hub: Hub, index: usize) -> Self {
        Self {
            registry: Registry::new(Arc::clone(&hub.core), index),
            writer: ShardWriter::new(hub.core, index),
            sweeps: RefCell::default(),
        }
    }

    /// From now on clients leave because the node does: pushes for them are to wait for their return.
    pub fn send_away(&self) {
        self.registry.send_away();
    }

    /// A client more.
    pub fn open(&self, sink: S, dialect: Dialect) -> Rc<Client<S>> {
        self.registry.insert(sink, dialect)
    }

    /// A client less, with its groups and what still waited for it.
    pub fn close(&self, client: &Client<S>) {
        if self.registry.remove(client) {
            self.writer.forget(client);
        }
    }

    /// Puts it into the group of `card`, beside those that it is in. From its return on, pushes reach it.
    pub fn join(&self, client: &Rc<Client<S>>, card: &str, app: &str) {
        self.registry.join(client, card, app);
    }

    /// How many clients of all shards have joined `card`.
    pub fn connections(&self, card: &str) -> usize {
        self.registry.connections(card)
    }

    /// Takes it out of the group of a card; `false`: it had not joined it.
    pub fn leave_card(&self, client: &Client<S>, card: &str) -> bool {
        self.registry.leave_card(client, card)
    }

    /// Takes it out of the groups of all its cards; `false`: it had joined none.
    pub fn leave_cards(&self, client: &Client<S>) -> bool {
        self.registry.leave_cards(client)
    }

    /// Puts it into a room too; `false`: it is there already. From its return on, pushes to the room reach it.
    pub fn subscribe(&self, client: &Rc<Client<S>>, room: &str) -> bool {
        self.registry.subscribe(client, room)
    }

    /// Takes it out of a room; `false`: it was not there.
    pub fn unsubscribe(&self, client: &Client<S>, room: &str) -> bool {
        self.registry.unsubscribe(client, room)
    }

    /// Who is in `room`; `None`: it has no presence.
    pub fn present(&self, room: &str) -> Option<PresentCards> {
        self.registry.present(room)
    }

    /// The cards in `room`, to be counted beside those of other nodes; `None`: it has no presence.
    pub fn present_sample(&self, room: &str) -> Option<NameSample> {
        self.registry.present_sample(room)
    }

    /// Who is in `room` is told.
    pub fn has_presence(&self, room: &str) -> bool {
        self.registry.has_presence(room)
    }

    /// From now on it gets pushes to rooms and to everyone merged, or each by itself. In the middle of a window it may get one
    /// twice, or not at all: it is to be said before it is a member of anything.
    pub fn set_merges(&self, client: &Client<S>, merges: bool) {
        self.registry.set_merges(client, merges);
    }

    /// Takes it out of all its groups.
    pub fn leave_all(&self, client: &Client<S>) {
        self.registry.leave_all(client);
    }

    /// A client acknowledges the stream of a card that it joined by itself, as this device: no Ping follows its pushes.
    pub fn set_device(&self, client: &Client<S>, card: &str, device: &str) {
        client.memberships.borrow_mut().set_device(card, device);
    }

    /// As which device it joined a card.
    pub fn device(&self, client: &Client<S>, card: &str) -> Option<ByteString> {
        client.memberships.borrow().device(card).map(ByteString::from)
    }

    /// A client has all of the stream of `card` up to `seq`, as the store is told.
    pub fn acked(&self, client: &Client<S>, card: &str, epoch: Epoch, seq: u64) {
        self.writer.acked(client, card, epoch, seq);
    }

    /// Lets an answer wait for `client`, whatever the policy; its task, which calls this, writes it. One that lets even
    /// answers pile up is ended.
    pub fn answer(&self, client: &Rc<Client<S>>, frame: Frame) {
        self.writer.answer(client, &frame);
    }

    /// As [`Shard::answer`], for a frame that many share (a ping) and that the shard's loop writes.
    pub fn broadcast(&self, client: &Rc<Client<S>>, item: &Rc<Item>) {
        self.writer.broadcast(client, item);
    }

    /// Ends a client with a close frame: what waits before it leaves first, except for one that is too slow for that. Nothing
    /// is done for one that ends already.
    pub fn end(&self, client: &Client<S>, ending: &Ending) {
        self.writer.end(client, ending);
    }

    /// As [`Shard::end`], with a close frame made elsewhere (the echo of the peer's), counted under `label`.
    pub fn end_with(&self, client: &Client<S>, frame: Frame, label: &'static str) {
        client.end(Item::control(&frame), label, false, self.writer.limits());
    }

    /// Writes what waits for `client`, as far as its socket takes it.
    pub fn flush(&self, client: &Client<S>) -> Flush {
        let flush = self.writer.flush(client);
        if client.is_behind() && flush == Flush::Empty {
            self.feed();
        }
        flush
    }

    /// Offers a burst to all clients it is for.
    pub fn deliver(&self, burst: Burst, budget: &mut WriteBudget<'_>) {
        if burst.is_stored() {
            return burst.into_parts().for_each(|part| self.deliver_stored(part, budget));
        }
        if burst.is_expired(self.writer.now()) {
            return self.drop_expired(burst);
        }
        let recipients = burst.recipients();
        let before = self.writer.offer_counts();
        let target = burst.target();
        let mut delivery = Delivery {
            burst: &burst,
            filters: target.filters(),
            is_filtered: target.app.is_some()
                || target.room.is_some()
                || target.exclude.is_some()
                || burst.audience() != Audience::All,
            excluded: self.excluded(target),
            may_find_twice: burst.parts().any(|part| part.fanout().push().target.cards.len() > 1),
            is_leaving: self.registry.is_leaving(),
            sampled: burst.sampled().next().map(|_| Instant::now()),
            items: Default::default(),
            found: FoundClients { sent_away: self.registry.has_left(recipients), ..FoundClients::default() },
        };
        match recipients {
            Recipients::Address(_) | Recipients::Addresses(_) => {
                let groups = self.registry.groups();
                for address in recipients.addresses() {
                    let clients = groups.clients(address.kind(), address.name());
                    self.offer(&mut delivery, Some(address), clients, budget);
                    if clients.is_empty() || delivery.found.sent_away {
                        delivery.found.absent.push(address.clone());
                    }
                }
            }
            Recipients::Everyone => self.offer(&mut delivery, None, &self.registry.let_in(), budget),
            Recipients::Panic => panic!("a test asked for it"),
        }
        let found = delivery.found;
        if delivery.sampled.is_some() && found.any {
            let now = Instant::now();
            burst.sampled().for_each(|id| self.writer.metrics().offered(id, now));
        }
        let may_find_twice = delivery.may_find_twice;
        let counts = self.writer.offer_counts().since(before);
        burst.trace(counts, may_find_twice, self.writer.now(), self.writer.metrics());
        self.writer.publish_waiting();
        burst.done(found);
    }

    /// The time of a push is over: nobody gets it, and it is done.
    fn drop_expired(&self, burst: Burst) {
        self.writer.count_expired(burst.len());
        burst.trace_expired(self.writer.metrics());
        burst.done(FoundClients { any: true, ..FoundClients::default() });
    }

    /// The client of this shard that a target excludes by its id.
    fn excluded(&self, target: &Target) -> Option<ClientKey> {
        self.registry.place(ClientId::from_bytes(target.exclude.as_ref()?.client?))
    }

    /// One loop for groups and for all clients: what it calls is inlined only where it is called from one place.
    fn offer(
        &self,
        delivery: &mut Delivery<'_>,
        address: Option<&Address>,
        clients: &[Rc<Client<S>>],
        budget: &mut WriteBudget<'_>,
    ) {
        self.writer.look_at(clients.len());
        let pushes = delivery.burst.len();
        let audience = delivery.burst.audience();
        for client in clients {
            if delivery.is_filtered && !(audience.has(client.merges()) && delivery.is_for(client, address)) {
                continue;
            }
            delivery.found.any = true;
            delivery.found.sent_away |= delivery.is_leaving && client.is_ending();
            if delivery.may_find_twice && !self.is_first_offer(delivery.burst, client, budget) {
                continue;
            }
            let Delivery { burst, items, sampled, .. } = delivery;
            let item = items[client.dialect.index()]
                .get_or_insert_with(|| burst.item(client.dialect).measured_since(*sampled, self.writer.metrics()));
            self.writer.offer(client, item, pushes, budget);
        }
    }

    /// Whether a client is still to be offered a push to several cards, which it may have got for another of them already. Of
    /// several pushes at once it is offered those here that it has not got.
    fn is_first_offer(&self, burst: &Burst, client: &Rc<Client<S>>, budget: &mut WriteBudget<'_>) -> bool {
        let shard = self.registry.shard();
        let is_one = burst.len() == 1;
        for part in burst.parts() {
            let fanout = part.fanout();
            let is_first = fanout.is_first_offer(shard, client.key());
            if is_one {
                return is_first;
            }
            if is_first {
                let item = Item::push(fanout.frame(client.dialect), None, fanout.push().deadline);
                self.writer.offer(client, &item, 1, budget);
            }
        }
        false
    }

    /// Tells the clients of a room who came or left.
    fn tell_presence(&self, change: &PresenceChange) {
        let groups = self.registry.groups();
        let mut items: [Option<Rc<Item>>; Dialect::ALL.len()] = Default::default();
        let clients = groups.clients(AddressKind::Room, &change.room);
        self.writer.look_at(clients.len());
        for client in clients {
            let dialect = client.dialect;
            let item = &mut items[dialect.index()];
            if item.is_none() {
                *item = dialect.presence(change).as_ref().map(Item::control);
            }
            if let Some(item) = item {
                self.writer.broadcast(client, item);
            }
        }
    }

    /// Answers a question of a back end.
    fn answer_lookup(&self, lookup: ClientLookup) {
        let found = self.registry.look_up(&lookup);
        // who asked may have left
        let _ = lookup.answer.send(found);
    }

    /// Lets an order to end clients wait for [`Shard::sweep`].
    pub fn disconnect(&self, part: DisconnectPart) {
        self.sweeps.borrow_mut().add(part);
    }

    /// Goes on with the orders to end clients; `true`: there is more to do. What was offered to a client before leaves first.
    pub fn sweep(&self) -> bool {
        let mut sweeps = self.sweeps.borrow_mut();
        // as in nearly every turn
        if sweeps.is_empty() {
            return false;
        }
        let Some(mut sweep) = sweeps.take(|order| self.selected(order)) else { return false };
        let age = sweep.order().age(SystemTime::now());
        for _ in 0..LOOKS_PER_TURN {
            let Some(key) = sweep.next() else { break };
            let Some(client) = self.client(key) else { continue };
            if self.is_meant(&client, sweep.order(), age) {
                let (close, label) = sweep.close();
                if client.end(Rc::clone(close), label, false, self.writer.limits()).is_some() {
                    sweep.count();
                }
            }
        }
        sweeps.put_back(sweep);
        !sweeps.is_empty()
    }

    /// Among which clients those are that an order means.
    fn selected(&self, order: &Disconnect) -> Vec<ClientKey> {
        match &order.selector {
            ClientSelector::Card(card) => {
                let groups = self.registry.groups();
                groups.clients(AddressKind::Card, card).iter().map(|client| client.key()).collect()
            }
            ClientSelector::Client(id) => self.registry.place(ClientId::from_bytes(*id)).into_iter().collect(),
            ClientSelector::App(_) | ClientSelector::Subject(_) => self.keys(),
        }
    }

    /// Whether it is a client that the order of this `age` means. Who joined its card later is not, unless what it proved is
    /// revoked: it may have left and joined again meanwhile.
    fn is_meant(&self, client: &Client<S>, order: &Disconnect, age: Duration) -> bool {
        match &order.selector {
            ClientSelector::Card(card) => self.registry.joined_before(client, |joined| **joined.name() == **card, age),
            ClientSelector::App(app) => self.registry.joined_before(client, |joined| *joined.app == **app, age),
            ClientSelector::Client(_) => true,
            ClientSelector::Subject(subject) if order.revoke => {
                client.sink.is_subject_of_before(subject, order.second())
            }
            ClientSelector::Subject(subject) => {
                client.sink.is_subject(subject) && (!client.is_joined() || self.joined_before(client, age))
            }
        }
    }

    /// Writes for the client that waits longest; `true`: more wait.
    pub fn write(&self) -> bool {
        self.writer.write_next()
    }

    /// The client with this number, if it is still there.
    pub fn client(&self, key: ClientKey) -> Option<Rc<Client<S>>> {
        self.registry.get(key)
    }

    /// The client's name over all nodes.
    pub fn id(&self, client: &Client<S>) -> ClientId {
        self.registry.id(client)
    }

    /// Whether it joined a card that it is in longer than `age` ago. One in doubt, by a millisecond, did.
    pub fn joined_before(&self, client: &Client<S>, age: Duration) -> bool {
        self.registry.joined_before(client, |_| true, age)
    }

    /// The numbers of all clients.
    pub fn keys(&self) -> Vec<ClientKey> {
        self.registry.keys()
    }

    /// The time that the ends of pushes are compared with until the next turn or tick, in milliseconds since 1970: for tests that
    /// have a clock of their own.
    #[doc(hidden)]
    pub fn set_now(&self, millis: u64) {
        self.writer.set_now(millis);
    }

    /// Adds what was counted since to the metrics; [`Shard::run`] does so after each turn.
    pub fn publish_counts(&self) {
        self.writer.publish_counts();
    }

    /// Does what comes and writes, until the hub is gone; calls `tick` each `period`.
    pub async fn run(&self, mut inbox: Bundles<Work>, period: Duration, mut tick: impl FnMut(&Self)) {
        let mut clock = interval(period);
        // a thread that was stopped for a while must not find all its peers silent at once
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            if !self.writer.has_writes() && self.sweeps.borrow().is_empty() {
                // both cancel-safe
                tokio::select! {
                    there_is_one = inbox.ready() => {
                        if !there_is_one {
                            return;
                        }
                        self.gather_for(&mut inbox).await;
                    }
                    _ = clock.tick() => self.tick(&mut tick),
                }
            }
            let more_writes = self.turn(&mut inbox);
            let more_sweeps = self.sweep();
            self.feed();
            self.publish_counts();
            self.writer.turn_is_over();
            if more_writes || more_sweeps || !inbox.is_empty() {
                tokio::task::yield_now().await;
                if clock.tick().now_or_never().is_some() {
                    self.tick(&mut tick);
                }
            }
        }
    }

    fn tick(&self, tick: &mut impl FnMut(&Self)) {
        self.writer.look_at_clock();
        tick(self);
        self.feed_again();
    }

    /// `[outbox] write_delay`: takes parts for that long, and writes none. No job waits for it.
    async fn gather_for(&self, inbox: &mut Bundles<Work>) {
        let limits = self.writer.limits();
        if limits.write_delay.is_zero() {
            return;
        }
        let mut over = pin!(sleep(limits.write_delay));
        loop {
            // both cancel-safe
            tokio::select! {
                () = &mut over => return,
                true = inbox.ready() => match NextWork::take(inbox, limits) {
                    Some(NextWork::Burst(burst)) => self.deliver(burst, &mut WriteBudget::none()),
                    Some(NextWork::Disconnect(part)) => self.disconnect(part),
                    Some(NextWork::Presence(change)) => self.tell_presence(&change),
                    Some(NextWork::Lookup(lookup)) => self.answer_lookup(lookup),
                    Some(NextWork::Stream(answer)) => self.take_answer(&answer, &mut WriteBudget::none()),
                    None => {}
                },
            }
        }
    }

    /// Offers what waits and writes, up to the bounds of a turn; `true`: more is to be written.
    ///
    /// Where nothing else waits, a client is written to as it is offered something, while it is in the cache. What comes
    /// between two writes is taken first: so a burst whose first push woke the shard leaves in one write for most clients.
    fn turn(&self, inbox: &mut Bundles<Work>) -> bool {
        let limits = self.writer.limits();
        let mut left = limits.writes_per_turn;
        self.writer.begin_turn();
        loop {
            if self.writer.looks() < CLIENTS_PER_TURN
                && let Some(next) = NextWork::take(inbox, limits)
            {
                match next {
                    NextWork::Burst(burst) => {
                        let mut budget = WriteBudget::until_next(left, inbox);
                        self.deliver(burst, &mut budget);
                        left = budget.left();
                    }
                    NextWork::Disconnect(part) => self.disconnect(part),
                    NextWork::Presence(change) => self.tell_presence(&change),
                    NextWork::Lookup(lookup) => self.answer_lookup(lookup),
                    NextWork::Stream(answer) => {
                        let mut budget = WriteBudget::until_next(left, inbox);
                        self.take_answer(&answer, &mut budget);
                        left = budget.left();
                    }
                }
            } else if left == 0 {
                return self.writer.has_writes();
            } else {
                left -= 1;
                if !self.writer.write_next() {
                    return false;
                }
            }
        }
    }
}
