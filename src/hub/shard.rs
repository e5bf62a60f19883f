//! The part of the hub that one worker thread owns, and its loop.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    io,
    pin::pin,
    rc::Rc,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use foldhash::fast::RandomState;
use futures_util::FutureExt;
use hashbrown::{HashMap, HashSet};
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::{
    Burst, Client, ClientKey, Core, Flush, Hub, Item, Limits, Offer, Part, Sink,
    client::{ClientState, Membership},
    fanout::Found,
    group::Group,
    index,
    outbox::{GATHER, Written},
    slab::Slab,
    tally::{Tally, add},
};
use crate::{
    bundles::Bundles,
    wire::{
        close::{Close, Ending},
        dialect::Dialect,
        frame::Frame,
    },
};

/// Offers after which a turn goes on to write even if more parts wait: bounds how long sockets wait for a turn's end.
const OFFERS_PER_TURN: u64 = 8192;

/// Connections, groups and waiting writes of one thread. Nothing is awaited while a part of it is borrowed.
pub struct Shard<S> {
    core: Arc<Core>,
    index: usize,
    clients: RefCell<Slab<Client<S>>>,
    groups: RefCell<HashMap<Arc<str>, Group<S>, RandomState>>,
    /// Those with frames that wait for the shard's loop, in the order in which they got the first of them.
    write_queue: RefCell<VecDeque<Rc<Client<S>>>>,
    gather: RefCell<Vec<u8>>,
    tally: Tally,
    offers: Cell<u64>,
    /// Connections whose kernel buffer was full at their last flush.
    blocked: Cell<usize>,
    /// Once the node sends its clients away: the cards whose connections left since.
    sent_away: RefCell<Option<HashSet<Arc<str>, RandomState>>>,
}

impl<S: Sink> Shard<S> {
    pub(super) fn new(hub: Hub, index: usize) -> Self {
        let core = hub.core;
        Self {
            tally: Tally::new(&core.metrics),
            core,
            index,
            clients: RefCell::new(Slab::new()),
            groups: RefCell::default(),
            write_queue: RefCell::default(),
            gather: RefCell::new(Vec::with_capacity(GATHER)),
            offers: Cell::new(0),
            blocked: Cell::new(0),
            sent_away: RefCell::new(None),
        }
    }

    /// From now on connections leave because the node does: pushes for them are to wait for their return.
    pub fn send_away(&self) {
        self.sent_away.borrow_mut().get_or_insert_default();
    }

    /// A connection more.
    pub fn open(&self, sink: S, dialect: Dialect) -> Rc<Client<S>> {
        let client = Client::new(sink, dialect);
        let key = self.clients.borrow_mut().insert(Rc::clone(&client));
        let _ = client.key.set(key);
        self.core.connections.fetch_add(1, Ordering::Relaxed);
        self.core.metrics.connections.inc();
        client
    }

    /// A connection less, with its group and what still waited for it.
    pub fn close(&self, client: &Client<S>) {
        if self.clients.borrow_mut().remove(client.key()).is_none() {
            return;
        }
        self.leave(client);
        self.set_blocked(client, false);
        client.state.set(ClientState::Lost);
        add(&self.tally.closed, client.outbox.borrow().pushes());
        client.outbox.borrow_mut().clear();
        client.forget_waker();
        self.core.connections.fetch_sub(1, Ordering::Relaxed);
        self.core.metrics.connections.dec();
    }

    /// Puts it into the group of `card`, out of the one it was in. From its return on, pushes reach it.
    pub fn join(&self, client: &Rc<Client<S>>, card: &str, app: &str) {
        if let Some(membership) = &mut *client.membership.borrow_mut()
            && *membership.card == *card
        {
            if *membership.app != *app {
                membership.app = app.into();
            }
            return;
        }
        self.leave(client);
        let name = self.core.index.enter(card, self.index);
        let mut groups = self.groups.borrow_mut();
        match groups.get_mut(card) {
            Some(group) => group.add(Rc::clone(client)),
            None => {
                groups.insert(Arc::clone(&name), Group::new(Rc::clone(client)));
            }
        }
        *client.membership.borrow_mut() = Some(Membership { card: name, app: app.into() });
        self.count_groups();
    }

    /// Takes it out of its group; `false`: it was in none.
    pub fn leave(&self, client: &Client<S>) -> bool {
        let Some(membership) = client.membership.borrow_mut().take() else { return false };
        let mut groups = self.groups.borrow_mut();
        let last = groups.get_mut(&*membership.card).is_none_or(|group| group.remove(client));
        if last {
            groups.remove(&*membership.card);
            index::shrink(&mut groups);
        }
        let mut sent_away = self.sent_away.borrow_mut();
        self.core.index.leave(&membership.card, self.index, last && sent_away.is_none());
        if let Some(cards) = &mut *sent_away {
            cards.insert(membership.card);
        }
        self.count_groups();
        true
    }

    /// Lets an answer wait for `client`, whatever the policy; its task, which calls this, writes it. One that lets even
    /// answers pile up is ended.
    pub fn answer(&self, client: &Rc<Client<S>>, frame: Frame) {
        if !client.is_ending() {
            self.enqueue(client, &Item::control(&frame));
        }
    }

    /// As [`Shard::answer`], for a frame that many share (a ping) and that the shard's loop writes.
    pub fn broadcast(&self, client: &Rc<Client<S>>, item: &Rc<Item>) {
        if !client.is_ending() && self.enqueue(client, item) == Offer::Queued {
            self.schedule_write(client);
        }
    }

    /// Ends a connection with a close frame: what waits before it leaves first, except for one that is too slow for that.
    /// Nothing is done for one that ends already.
    pub fn end(&self, client: &Client<S>, ending: &Ending) {
        let (close, discard) = (Item::control(&Frame::close(ending)), ending.close == Close::SlowConsumer);
        if let Some(lost) = client.end(close, ending.close.label(), discard, self.limits()) {
            add(&self.tally.evicted, lost);
        }
    }

    /// As [`Shard::end`], with a close frame made elsewhere (the echo of the peer's), counted under `label`.
    pub fn end_with(&self, client: &Client<S>, frame: Frame, label: &'static str) {
        client.end(Item::control(&frame), label, false, self.limits());
    }

    /// Writes what waits for `client`, as far as its socket takes it.
    pub fn flush(&self, client: &Client<S>) -> Flush {
        let written = client.outbox.borrow_mut().write(&client.sink, &mut self.gather.borrow_mut());
        self.settle(client, written)
    }

    /// Counts what a write did, and draws the consequences for its connection.
    fn settle(&self, client: &Client<S>, (pushes, result): (u64, io::Result<Written>)) -> Flush {
        add(&self.tally.deliveries, pushes);
        self.set_blocked(client, matches!(result, Ok(Written::Some)));
        match result {
            Ok(Written::All) => Flush::Empty,
            Ok(Written::Some) => Flush::Blocked,
            Err(_) => {
                client.lose();
                Flush::Gone
            }
        }
    }

    /// Offers a burst to all connections it is for; `at_once` is asked before one with which nothing waits whether to write it now.
    pub fn deliver(&self, burst: Burst, mut at_once: impl FnMut() -> bool) {
        let app = burst.target().app.as_deref();
        let mut items: [Option<Rc<Item>>; Dialect::ALL.len()] = Default::default();
        let (groups, sent_away) = (self.groups.borrow(), self.sent_away.borrow());
        let leaving = sent_away.is_some();
        let gone = |card: &str| sent_away.as_ref().is_some_and(|cards| cards.contains(card));
        let mut found = Found { open: false, sent_away: leaving && burst.cards().any(gone) };
        for group in burst.cards().filter_map(|card| groups.get(card)) {
            for client in group.clients().iter().filter(|client| client.speaks_to(app)) {
                let item = items[client.dialect.index()].get_or_insert_with(|| burst.item(client.dialect));
                self.offer(client, item, burst.len(), &mut at_once);
                found.open = true;
                found.sent_away |= leaving && client.is_ending();
            }
        }
        drop((groups, sent_away));
        self.tell_waiting();
        burst.done(found);
    }

    /// Writes for the connection that waits longest; `true`: more wait.
    pub fn write(&self) -> bool {
        let next = self.write_queue.borrow_mut().pop_front();
        if let Some(client) = next {
            client.write_scheduled.set(false);
            if !client.blocked.get() && !client.is_lost() && self.flush(&client) != Flush::Empty {
                client.wake();
            }
        }
        let mut write_queue = self.write_queue.borrow_mut();
        if write_queue.is_empty() && write_queue.capacity() > 1024 {
            write_queue.shrink_to(64);
        }
        !write_queue.is_empty()
    }

    /// The connection with this number, if it is still there.
    pub fn client(&self, key: ClientKey) -> Option<Rc<Client<S>>> {
        self.clients.borrow().get(key).cloned()
    }

    /// The numbers of all connections.
    pub fn keys(&self) -> Vec<ClientKey> {
        self.clients.borrow().keys().collect()
    }

    /// Adds what this turn counted to the metrics.
    pub fn publish(&self) {
        self.tally.publish();
        self.tell_waiting();
    }

    fn set_blocked(&self, client: &Client<S>, blocked: bool) {
        if client.blocked.replace(blocked) == blocked {
            return;
        }
        self.blocked.set(if blocked { self.blocked.get() + 1 } else { self.blocked.get() - 1 });
        self.tell_waiting();
    }

    /// Tells how many connections have frames that wait, where somebody asks.
    fn tell_waiting(&self) {
        if self.core.counting.load(Ordering::Relaxed) {
            let waiting = self.write_queue.borrow().len() + self.blocked.get();
            self.core.waiting[self.index].store(waiting, Ordering::Relaxed);
        }
    }

    /// Takes parts and writes, until the hub is gone; calls `tick` each `period`.
    pub async fn run(&self, mut inbox: Bundles<Part>, period: Duration, mut tick: impl FnMut(&Self)) {
        let mut clock = interval(period);
        // a thread that was stopped for a while must not find all its peers silent at once
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            if !self.has_writes() {
                tokio::select! {
                    parts = inbox.ready() => match parts {
                        true => self.gather_for(&mut inbox).await,
                        false => return,
                    },
                    _ = clock.tick() => tick(self),
                }
            }
            let more = self.turn(&mut inbox);
            self.publish();
            if more || !inbox.is_empty() {
                tokio::task::yield_now().await;
                if clock.tick().now_or_never().is_some() {
                    tick(self);
                }
            }
        }
    }

    /// `[outbox] write_delay`: takes parts for that long, and writes none. No job waits for it.
    async fn gather_for(&self, inbox: &mut Bundles<Part>) {
        let delay = self.limits().write_delay;
        if delay.is_zero() {
            return;
        }
        let mut over = pin!(sleep(delay));
        loop {
            tokio::select! {
                () = &mut over => return,
                true = inbox.ready() => if let Some(burst) = Burst::next(inbox, self.limits()) {
                    self.deliver(burst, || false);
                },
            }
        }
    }

    /// Offers what waits and writes, up to the bounds of a turn; `true`: more is to be written.
    ///
    /// Where nothing else waits, a connection is written to as it is offered something, while it is in the cache. What comes
    /// between two writes is taken first: so a burst whose first push woke the shard leaves in one write for most connections.
    fn turn(&self, inbox: &mut Bundles<Part>) -> bool {
        self.offers.set(0);
        let mut left = self.limits().writes_per_turn;
        loop {
            if self.offers.get() < OFFERS_PER_TURN
                && let Some(burst) = Burst::next(inbox, self.limits())
            {
                self.deliver(burst, || {
                    let at_once = left > 0 && !self.has_writes() && inbox.is_empty();
                    left -= usize::from(at_once);
                    at_once
                });
            } else if left == 0 {
                return self.has_writes();
            } else {
                left -= 1;
                if !self.write() {
                    return false;
                }
            }
        }
    }

    fn offer(&self, client: &Rc<Client<S>>, item: &Rc<Item>, pushes: u64, mut at_once: impl FnMut() -> bool) {
        self.offers.set(self.offers.get() + 1);
        if client.is_ending() {
            add(&self.tally.gone, pushes);
            return;
        }
        if client.is_drained() && at_once() {
            add(&self.tally.queued, pushes);
            let sent =
                client.outbox.borrow_mut().send(item, &client.sink, &mut self.gather.borrow_mut(), self.limits());
            if self.settle(client, sent) != Flush::Empty {
                client.wake();
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

    fn enqueue(&self, client: &Rc<Client<S>>, item: &Rc<Item>) -> Offer {
        let limits = self.limits();
        // full only because nobody wrote yet is not slow
        if !client.blocked.get()
            && client.outbox.borrow().is_full_for(item, limits)
            && self.flush(client) != Flush::Empty
        {
            client.wake();
        }
        let offered = client.outbox.borrow_mut().offer(item, limits);
        add(&self.tally.dropped, offered.dropped);
        add(&self.tally.conflated, offered.conflated.into());
        if offered.offer == Offer::Slow {
            self.end(client, &Close::SlowConsumer.into());
        }
        offered.offer
    }

    /// The shard's loop writes next for `client`, unless its task does.
    fn schedule_write(&self, client: &Rc<Client<S>>) {
        if !client.blocked.get() && !client.write_scheduled.replace(true) {
            self.write_queue.borrow_mut().push_back(Rc::clone(client));
        }
    }

    fn has_writes(&self) -> bool {
        !self.write_queue.borrow().is_empty()
    }

    fn limits(&self) -> &Limits {
        &self.core.limits
    }

    fn count_groups(&self) {
        self.core.metrics.groups.set(self.core.index.groups() as i64);
    }
}
