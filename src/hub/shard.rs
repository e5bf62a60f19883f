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
    Core, Flush, Hub, Item, Key, Limits, Member, Offer, Parcel, Run, Sink,
    group::Group,
    index,
    member::{Place, State},
    outbox::{GATHER, Written},
    post::Found,
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

/// Offers after which a turn goes on to write even if more parcels wait: bounds how long sockets wait for a turn's end.
const OFFERS_PER_TURN: u64 = 8192;

/// Connections, groups and waiting writes of one thread. Nothing is awaited while a part of it is borrowed.
pub struct Shard<S> {
    core: Arc<Core>,
    index: usize,
    members: RefCell<Slab<Member<S>>>,
    groups: RefCell<HashMap<Arc<str>, Group<S>, RandomState>>,
    /// Those with frames that wait for the shard's loop, in the order in which they got the first of them.
    dirty: RefCell<VecDeque<Rc<Member<S>>>>,
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
            members: RefCell::new(Slab::new()),
            groups: RefCell::default(),
            dirty: RefCell::default(),
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
    pub fn open(&self, sink: S, dialect: Dialect) -> Rc<Member<S>> {
        let member = Member::new(sink, dialect);
        let key = self.members.borrow_mut().insert(Rc::clone(&member));
        let _ = member.key.set(key);
        self.core.connections.fetch_add(1, Ordering::Relaxed);
        self.core.metrics.connections.inc();
        member
    }

    /// A connection less, with its group and what still waited for it.
    pub fn close(&self, member: &Member<S>) {
        if self.members.borrow_mut().remove(member.key()).is_none() {
            return;
        }
        self.leave(member);
        self.set_blocked(member, false);
        member.state.set(State::Lost);
        add(&self.tally.closed, member.outbox.borrow().pushes());
        member.outbox.borrow_mut().clear();
        member.forget_waker();
        self.core.connections.fetch_sub(1, Ordering::Relaxed);
        self.core.metrics.connections.dec();
    }

    /// Puts it into the group of `card`, out of the one it was in. From its return on, pushes reach it.
    pub fn join(&self, member: &Rc<Member<S>>, card: &str, app: &str) {
        if let Some(place) = &mut *member.place.borrow_mut()
            && *place.card == *card
        {
            if *place.app != *app {
                place.app = app.into();
            }
            return;
        }
        self.leave(member);
        let name = self.core.index.enter(card, self.index);
        let mut groups = self.groups.borrow_mut();
        match groups.get_mut(card) {
            Some(group) => group.add(Rc::clone(member)),
            None => {
                groups.insert(Arc::clone(&name), Group::new(Rc::clone(member)));
            }
        }
        *member.place.borrow_mut() = Some(Place { card: name, app: app.into() });
        self.count_groups();
    }

    /// Takes it out of its group; `false`: it was in none.
    pub fn leave(&self, member: &Member<S>) -> bool {
        let Some(place) = member.place.borrow_mut().take() else { return false };
        let mut groups = self.groups.borrow_mut();
        let last = groups.get_mut(&*place.card).is_none_or(|group| group.remove(member));
        if last {
            groups.remove(&*place.card);
            index::shrink(&mut groups);
        }
        let mut sent_away = self.sent_away.borrow_mut();
        self.core.index.leave(&place.card, self.index, last && sent_away.is_none());
        if let Some(cards) = &mut *sent_away {
            cards.insert(place.card);
        }
        self.count_groups();
        true
    }

    /// Lets an answer wait for `member`, whatever the policy; its task, which calls this, writes it. One that lets even
    /// answers pile up is ended.
    pub fn answer(&self, member: &Rc<Member<S>>, frame: Frame) {
        if !member.is_ending() {
            self.put(member, &Item::control(&frame));
        }
    }

    /// As [`Shard::answer`], for a frame that many share (a ping) and that the shard's loop writes.
    pub fn broadcast(&self, member: &Rc<Member<S>>, item: &Rc<Item>) {
        if !member.is_ending() && self.put(member, item) == Offer::Queued {
            self.soil(member);
        }
    }

    /// Ends a connection with a close frame: what waits before it leaves first, except for one that is too slow for that.
    /// Nothing is done for one that ends already.
    pub fn end(&self, member: &Member<S>, ending: &Ending) {
        let (close, discard) = (Item::control(&Frame::close(ending)), ending.close == Close::SlowConsumer);
        if let Some(lost) = member.end(close, ending.close.label(), discard, self.limits()) {
            add(&self.tally.evicted, lost);
        }
    }

    /// As [`Shard::end`], with a close frame made elsewhere (the echo of the peer's), counted under `label`.
    pub fn end_with(&self, member: &Member<S>, frame: Frame, label: &'static str) {
        member.end(Item::control(&frame), label, false, self.limits());
    }

    /// Writes what waits for `member`, as far as its socket takes it.
    pub fn flush(&self, member: &Member<S>) -> Flush {
        let written = member.outbox.borrow_mut().write(&member.sink, &mut self.gather.borrow_mut());
        self.settle(member, written)
    }

    /// Counts what a write did, and draws the consequences for its connection.
    fn settle(&self, member: &Member<S>, (pushes, result): (u64, io::Result<Written>)) -> Flush {
        add(&self.tally.deliveries, pushes);
        self.set_blocked(member, matches!(result, Ok(Written::Some)));
        match result {
            Ok(Written::All) => Flush::Empty,
            Ok(Written::Some) => Flush::Blocked,
            Err(_) => {
                member.lose();
                Flush::Gone
            }
        }
    }

    /// Offers a run to all connections it is for; `at_once` is asked before one with which nothing waits whether to write it now.
    pub fn take(&self, run: Run, mut at_once: impl FnMut() -> bool) {
        let app = run.target().app.as_deref();
        let mut items: [Option<Rc<Item>>; Dialect::ALL.len()] = Default::default();
        let (groups, sent_away) = (self.groups.borrow(), self.sent_away.borrow());
        let leaving = sent_away.is_some();
        let gone = |card: &str| sent_away.as_ref().is_some_and(|cards| cards.contains(card));
        let mut found = Found { open: false, sent_away: leaving && run.cards().any(gone) };
        for group in run.cards().filter_map(|card| groups.get(card)) {
            for member in group.members().iter().filter(|member| member.speaks_to(app)) {
                let item = items[member.dialect.index()].get_or_insert_with(|| run.item(member.dialect));
                self.offer(member, item, run.len(), &mut at_once);
                found.open = true;
                found.sent_away |= leaving && member.is_ending();
            }
        }
        drop((groups, sent_away));
        self.tell_waiting();
        run.done(found);
    }

    /// Writes for the connection that waits longest; `true`: more wait.
    pub fn write(&self) -> bool {
        let next = self.dirty.borrow_mut().pop_front();
        if let Some(member) = next {
            member.dirty.set(false);
            if !member.blocked.get() && !member.is_lost() && self.flush(&member) != Flush::Empty {
                member.wake();
            }
        }
        let mut dirty = self.dirty.borrow_mut();
        if dirty.is_empty() && dirty.capacity() > 1024 {
            dirty.shrink_to(64);
        }
        !dirty.is_empty()
    }

    /// The connection with this number, if it is still there.
    pub fn member(&self, key: Key) -> Option<Rc<Member<S>>> {
        self.members.borrow().get(key).cloned()
    }

    /// The numbers of all connections.
    pub fn keys(&self) -> Vec<Key> {
        self.members.borrow().keys().collect()
    }

    /// Adds what this turn counted to the metrics.
    pub fn publish(&self) {
        self.tally.publish();
        self.tell_waiting();
    }

    fn set_blocked(&self, member: &Member<S>, blocked: bool) {
        if member.blocked.replace(blocked) == blocked {
            return;
        }
        self.blocked.set(if blocked { self.blocked.get() + 1 } else { self.blocked.get() - 1 });
        self.tell_waiting();
    }

    /// Tells how many connections have frames that wait, where somebody asks.
    fn tell_waiting(&self) {
        if self.core.counting.load(Ordering::Relaxed) {
            let waiting = self.dirty.borrow().len() + self.blocked.get();
            self.core.waiting[self.index].store(waiting, Ordering::Relaxed);
        }
    }

    /// Takes parcels and writes, until the hub is gone; calls `tick` each `period`.
    pub async fn run(&self, mut inbox: Bundles<Parcel>, period: Duration, mut tick: impl FnMut(&Self)) {
        let mut clock = interval(period);
        // a thread that was stopped for a while must not find all its peers silent at once
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            if !self.is_dirty() {
                tokio::select! {
                    parcels = inbox.ready() => match parcels {
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

    /// `[outbox] write_delay`: takes parcels for that long, and writes none. No job waits for it.
    async fn gather_for(&self, inbox: &mut Bundles<Parcel>) {
        let delay = self.limits().write_delay;
        if delay.is_zero() {
            return;
        }
        let mut over = pin!(sleep(delay));
        loop {
            tokio::select! {
                () = &mut over => return,
                true = inbox.ready() => if let Some(run) = Run::next(inbox, self.limits()) {
                    self.take(run, || false);
                },
            }
        }
    }

    /// Offers what waits and writes, up to the bounds of a turn; `true`: more is to be written.
    ///
    /// Where nothing else waits, a connection is written to as it is offered something, while it is in the cache. What comes
    /// between two writes is taken first: so a burst whose first push woke the shard leaves in one write for most connections.
    fn turn(&self, inbox: &mut Bundles<Parcel>) -> bool {
        self.offers.set(0);
        let mut left = self.limits().writes_per_turn;
        loop {
            if self.offers.get() < OFFERS_PER_TURN
                && let Some(run) = Run::next(inbox, self.limits())
            {
                self.take(run, || {
                    let at_once = left > 0 && !self.is_dirty() && inbox.is_empty();
                    left -= usize::from(at_once);
                    at_once
                });
            } else if left == 0 {
                return self.is_dirty();
            } else {
                left -= 1;
                if !self.write() {
                    return false;
                }
            }
        }
    }

    fn offer(&self, member: &Rc<Member<S>>, item: &Rc<Item>, pushes: u64, mut at_once: impl FnMut() -> bool) {
        self.offers.set(self.offers.get() + 1);
        if member.is_ending() {
            add(&self.tally.gone, pushes);
            return;
        }
        if member.is_drained() && at_once() {
            add(&self.tally.queued, pushes);
            let sent =
                member.outbox.borrow_mut().send(item, &member.sink, &mut self.gather.borrow_mut(), self.limits());
            if self.settle(member, sent) != Flush::Empty {
                member.wake();
            }
            return;
        }
        match self.put(member, item) {
            Offer::Queued => {
                self.soil(member);
                add(&self.tally.queued, pushes);
            }
            Offer::Slow => add(&self.tally.slow, pushes),
        }
    }

    fn put(&self, member: &Rc<Member<S>>, item: &Rc<Item>) -> Offer {
        let limits = self.limits();
        // full only because nobody wrote yet is not slow
        if !member.blocked.get()
            && member.outbox.borrow().is_full_for(item, limits)
            && self.flush(member) != Flush::Empty
        {
            member.wake();
        }
        let offered = member.outbox.borrow_mut().offer(item, limits);
        add(&self.tally.dropped, offered.dropped);
        add(&self.tally.conflated, offered.conflated.into());
        if offered.offer == Offer::Slow {
            self.end(member, &Close::SlowConsumer.into());
        }
        offered.offer
    }

    /// The shard's loop writes next for `member`, unless its task does.
    fn soil(&self, member: &Rc<Member<S>>) {
        if !member.blocked.get() && !member.dirty.replace(true) {
            self.dirty.borrow_mut().push_back(Rc::clone(member));
        }
    }

    fn is_dirty(&self) -> bool {
        !self.dirty.borrow().is_empty()
    }

    fn limits(&self) -> &Limits {
        &self.core.limits
    }

    fn count_groups(&self) {
        self.core.metrics.groups.set(self.core.index.groups() as i64);
    }
}
