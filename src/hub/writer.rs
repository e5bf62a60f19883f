//! What a shard writes: to a client at once where nothing waits before, else in the order in which clients got something.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    io,
    rc::Rc,
    sync::{Arc, atomic::Ordering},
};

use super::{
    Client, ClientKey, Core, Flush, Item, Limits, Offer, Sink, Work,
    client::ClientState,
    outbox::{Flushed, GATHER, Written},
    samples::AckSamples,
    tally::{Tally, add},
};
use crate::{
    bundles::Bundles,
    push::{Epoch, unix_millis},
    telemetry::Metrics,
    wire::{
        close::{Close, Ending},
        frame::Frame,
    },
};

pub(super) struct ShardWriter<S> {
    core: Arc<Core>,
    shard: usize,
    /// Clients with frames that wait for the shard's loop, in the order in which they got the first of them.
    queue: RefCell<VecDeque<Rc<Client<S>>>>,
    /// Small frames are put together here for one write.
    gather: RefCell<Vec<u8>>,
    tally: Tally,
    acks: AckSamples,
    offers: Cell<u64>,
    /// Clients that a turn has looked at, offered something or not.
    looks: Cell<u64>,
    /// Clients whose kernel buffer was full at their last flush.
    blocked: Cell<usize>,
    /// Clients that are behind in a stream and had their last waiting frame written.
    drained: RefCell<Vec<ClientKey>>,
    /// Milliseconds since 1970, as of the last look: a turn's begin, or a tick.
    now: Cell<u64>,
}

/// Offers of a turn.
#[derive(Clone, Copy, Debug)]
pub(super) struct OfferCounts {
    /// Of one push, or of several that leave as one.
    pub(super) offers: u64,
    /// Pushes to clients that had no room.
    pub(super) slow: u64,
    /// Pushes to clients that were ending.
    pub(super) gone: u64,
}

impl OfferCounts {
    /// Those since `before`.
    pub(super) fn since(self, before: Self) -> Self {
        Self { offers: self.offers - before.offers, slow: self.slow - before.slow, gone: self.gone - before.gone }
    }
}

/// How many writes a shard may still do at once, where nothing waits before.
pub struct WriteBudget<'a> {
    left: usize,
    /// What comes in here meanwhile is taken first, and what was scheduled before is written first.
    inbox: Option<&'a Bundles<Work>>,
}

impl<'a> WriteBudget<'a> {
    /// Nothing is written at once.
    pub fn none() -> Self {
        Self { left: 0, inbox: None }
    }

    /// Every write is done at once for whose client nothing waits before.
    pub fn unlimited() -> Self {
        Self { left: usize::MAX, inbox: None }
    }

    /// `left` writes, until something waits in `inbox` or a write was scheduled.
    pub(super) fn until_next(left: usize, inbox: &'a Bundles<Work>) -> Self {
        Self { left, inbox: Some(inbox) }
    }

    /// What is left.
    pub(super) fn left(&self) -> usize {
        self.left
    }
}

impl<S: Sink> ShardWriter<S> {
    pub(super) fn new(core: Arc<Core>, shard: usize) -> Self {
        Self {
            tally: Tally::new(&core.metrics),
            acks: AckSamples::new(&core.metrics),
            core,
            shard,
            queue: RefCell::default(),
            gather: RefCell::new(Vec::with_capacity(GATHER)),
            offers: Cell::new(0),
            looks: Cell::new(0),
            blocked: Cell::new(0),
            drained: RefCell::default(),
            now: Cell::new(unix_millis()),
        }
    }

    pub(super) fn limits(&self) -> &Limits {
        &self.core.limits
    }

    /// Offers to clients since [`ShardWriter::begin_turn`].
    pub(super) fn offers(&self) -> u64 {
        self.offers.get()
    }

    /// As [`ShardWriter::offers`], and what became of them, until the counts of this turn are published.
    pub(super) fn offer_counts(&self) -> OfferCounts {
        OfferCounts { offers: self.offers.get(), slow: self.tally.slow.get(), gone: self.tally.gone.get() }
    }

    /// Where it is told what becomes of pushes.
    pub(super) fn metrics(&self) -> &Metrics {
        &self.core.metrics
    }

    /// So many clients are looked at, to be offered something.
    pub(super) fn look_at(&self, clients: usize) {
        self.looks.set(self.looks.get() + clients as u64);
    }

    /// Clients that were looked at since [`ShardWriter::begin_turn`].
    pub(super) fn looks(&self) -> u64 {
        self.looks.get()
    }

    pub(super) fn begin_turn(&self) {
        self.look_at_clock();
        self.offers.set(0);
        self.looks.set(0);
    }

    /// The time that the ends of pushes are compared with, in milliseconds since 1970.
    pub(super) fn now(&self) -> u64 {
        self.now.get()
    }

    pub(super) fn look_at_clock(&self) {
        self.set_now(unix_millis());
    }

    pub(super) fn set_now(&self, millis: u64) {
        self.now.set(millis);
    }

    /// So many pushes were offered to nobody, because their end had come.
    pub(super) fn count_expired(&self, pushes: u64) {
        add(&self.tally.expired, pushes);
    }

    /// Clients that are behind in a stream and to whom more can be sent, since the last call.
    pub(super) fn take_drained(&self) -> Vec<ClientKey> {
        self.drained.take()
    }

    /// Whether a client that is behind is sent more: half of its outbox is for pushes that come meanwhile.
    pub(super) fn has_room_to_catch_up(&self, client: &Client<S>) -> bool {
        let waiting = client.waiting();
        waiting == 0 || !client.blocked.get() && waiting <= self.limits().max_bytes / 2
    }

    /// Offers a push of a stream; `false`: there is no room for it, and nothing else was to make any.
    pub(super) fn offer_stored(&self, client: &Rc<Client<S>>, item: &Rc<Item>, budget: &mut WriteBudget<'_>) -> bool {
        self.offers.set(self.offers.get() + 1);
        if client.is_ending() {
            add(&self.tally.gone, 1);
            return true;
        }
        if client.is_drained() && self.spend(budget) {
            add(&self.tally.queued, 1);
            match item.send(&client.sink) {
                Ok(()) => add(&self.tally.deliveries, 1),
                Err(part) => self.send_rest(client, item, part),
            }
            self.await_ack(client, item);
            return true;
        }
        self.write_if_full(client, item);
        let fits = client.outbox.borrow_mut().offer_stored(item, self.limits());
        if fits {
            self.schedule_write(client);
            add(&self.tally.queued, 1);
            self.await_ack(client, item);
        }
        fits
    }

    /// Measures how long the client takes to acknowledge a sampled push.
    fn await_ack(&self, client: &Client<S>, item: &Item) {
        if let Some(place) = item.sampled_place() {
            self.acks.offered(client.key(), place, client.is_drained());
        }
    }

    /// The client has all of the stream of `card` up to `seq`.
    pub(super) fn acked(&self, client: &Client<S>, card: &str, epoch: Epoch, seq: u64) {
        self.acks.acked(client.key(), card, epoch, seq);
    }

    /// Offers what is `pushes` pushes, and writes it now where nothing waits before and the budget has room.
    pub(super) fn offer(&self, client: &Rc<Client<S>>, item: &Rc<Item>, pushes: u64, budget: &mut WriteBudget<'_>) {
        self.offers.set(self.offers.get() + 1);
        if client.is_ending() {
            add(&self.tally.gone, pushes);
            return;
        }
        if client.is_drained() && self.spend(budget) {
            add(&self.tally.queued, pushes);
            match item.send(&client.sink) {
                Ok(()) => add(&self.tally.deliveries, pushes),
                Err(part) => self.send_rest(client, item, part),
            }
            return;
        }
        match self.enqueue(client, item) {
            Offer::Queued => {
                self.schedule_write(client);
                add(&self.tally.queued, pushes);
            }
            Offer::Slow => add(&self.tally.slow, pushes),
        }
    }

    #[cold]
    fn send_rest(&self, client: &Client<S>, item: &Rc<Item>, sent: io::Result<usize>) {
        let mut gather = self.gather.borrow_mut();
        let now = self.now.get();
        let flushed = client.outbox.borrow_mut().send_rest(item, sent, &client.sink, &mut gather, self.limits(), now);
        drop(gather);
        if self.count_write(client, flushed) != Flush::Empty {
            client.wake();
        }
    }

    /// Whether a write may be done at once, which is counted.
    fn spend(&self, budget: &mut WriteBudget<'_>) -> bool {
        let may = budget.left > 0 && budget.inbox.is_none_or(|inbox| !self.has_writes() && inbox.is_empty());
        budget.left -= usize::from(may);
        may
    }

    /// Lets an answer wait, whatever the policy; the client's task, which calls this, writes it.
    pub(super) fn answer(&self, client: &Rc<Client<S>>, frame: &Frame) {
        if !client.is_ending() {
            self.enqueue(client, &Item::control(frame));
        }
    }

    /// As [`ShardWriter::answer`], for a frame that many share and that the shard's loop writes.
    pub(super) fn broadcast(&self, client: &Rc<Client<S>>, item: &Rc<Item>) {
        if !client.is_ending() && self.enqueue(client, item) == Offer::Queued {
            self.schedule_write(client);
        }
    }

    pub(super) fn end(&self, client: &Client<S>, ending: &Ending) {
        let close = Item::control(&Frame::close(ending));
        let discard = ending.close == Close::SlowConsumer;
        if let Some(lost) = client.end(close, ending.close.label(), discard, self.limits()) {
            add(&self.tally.evicted, lost);
        }
    }

    /// Writes what waits for `client`, as far as its socket takes it.
    pub(super) fn flush(&self, client: &Client<S>) -> Flush {
        let flushed = client.outbox.borrow_mut().write(&client.sink, &mut self.gather.borrow_mut(), self.now.get());
        self.count_write(client, flushed)
    }

    /// Counts the pushes that left whole, and notes where the write ended.
    fn count_write(&self, client: &Client<S>, Flushed { pushes, expired, result }: Flushed) -> Flush {
        add(&self.tally.deliveries, pushes);
        if expired > 0 {
            add(&self.tally.expired, expired);
        }
        self.set_blocked(client, matches!(result, Ok(Written::Some)));
        match result {
            Ok(Written::All) => {
                self.acks.drained(client.key());
                if client.is_behind() {
                    self.drained.borrow_mut().push(client.key());
                }
                Flush::Empty
            }
            Ok(Written::Some) => Flush::Blocked,
            Err(_) => {
                client.lose();
                Flush::Gone
            }
        }
    }

    fn enqueue(&self, client: &Rc<Client<S>>, item: &Rc<Item>) -> Offer {
        let limits = self.limits();
        self.write_if_full(client, item);
        let offered = client.outbox.borrow_mut().offer(item, limits);
        add(&self.tally.dropped, offered.dropped);
        add(&self.tally.conflated, offered.conflated.into());
        if offered.offer == Offer::Slow {
            self.end(client, &Close::SlowConsumer.into());
        }
        offered.offer
    }

    /// An outbox that is full only because nobody wrote yet is not slow.
    fn write_if_full(&self, client: &Client<S>, item: &Item) {
        let is_full = !client.blocked.get() && client.outbox.borrow().is_full_for(item, self.limits());
        if is_full && self.flush(client) != Flush::Empty {
            client.wake();
        }
    }

    /// The shard's loop writes next for `client`, unless its task does.
    fn schedule_write(&self, client: &Rc<Client<S>>) {
        if !client.blocked.get() && !client.write_scheduled.replace(true) {
            self.queue.borrow_mut().push_back(Rc::clone(client));
        }
    }

    /// Writes for the client that waits longest; `true`: more wait.
    pub(super) fn write_next(&self) -> bool {
        let next = self.queue.borrow_mut().pop_front();
        if let Some(client) = next {
            client.write_scheduled.set(false);
            if !client.blocked.get() && !client.is_lost() && self.flush(&client) != Flush::Empty {
                client.wake();
            }
        }
        let mut queue = self.queue.borrow_mut();
        if queue.is_empty() && queue.capacity() > 1024 {
            queue.shrink_to(64);
        }
        !queue.is_empty()
    }

    pub(super) fn has_writes(&self) -> bool {
        !self.queue.borrow().is_empty()
    }

    /// Drops what waits for a client that is gone.
    pub(super) fn forget(&self, client: &Client<S>) {
        self.set_blocked(client, false);
        client.state.set(ClientState::Lost);
        add(&self.tally.closed, client.outbox.borrow().pushes());
        client.outbox.borrow_mut().clear();
        self.acks.forget(client.key());
        client.forget_waker();
    }

    /// Adds what this turn counted to the metrics.
    pub(super) fn publish_counts(&self) {
        self.tally.publish();
        self.publish_waiting();
    }

    /// Lets dispatch finish the jobs whose last part this turn offered.
    pub(super) fn turn_is_over(&self) {
        if let Some(settle) = self.core.after_turns.get() {
            settle();
        }
    }

    /// Tells how many clients have frames that wait, where somebody asks.
    pub(super) fn publish_waiting(&self) {
        if self.core.counting.load(Ordering::Relaxed) {
            let waiting = self.queue.borrow().len() + self.blocked.get();
            self.core.waiting[self.shard].store(waiting, Ordering::Relaxed);
        }
    }

    fn set_blocked(&self, client: &Client<S>, blocked: bool) {
        if client.blocked.replace(blocked) == blocked {
            return;
        }
        self.blocked.set(if blocked { self.blocked.get() + 1 } else { self.blocked.get() - 1 });
        self.publish_waiting();
    }
}
