//! An order to end clients on its way through the shards, and how far a shard is with its orders.

use std::{
    borrow::Cow,
    collections::VecDeque,
    rc::Rc,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    vec,
};

use tokio::sync::mpsc;

use super::{ClientKey, ClientLookup, Completion, Hub, Item, Outcome, Part, StreamAnswer, ended::EndedOrders};
use crate::{
    push::Disconnect,
    wire::{
        close::{Close, Ending},
        dialect::PresenceChange,
        frame::Frame,
    },
};

/// What a lane, or a shard, is given to do.
pub enum Work {
    /// A part of a push.
    Part(Part),
    /// A part of an order to end clients.
    Disconnect(DisconnectPart),
    /// To shards only: the clients of a room are to be told of it.
    Presence(Arc<PresenceChange>),
    /// To shards only: a question of a back end.
    Lookup(ClientLookup),
    /// To shards only: what the store says.
    Stream(StreamAnswer),
}

impl Work {
    /// It was done, or handed on in smaller pieces.
    pub fn done(self) {
        match self {
            Self::Part(part) => part.done(),
            Self::Disconnect(part) => part.done(),
            Self::Presence(_) | Self::Lookup(_) | Self::Stream(_) => {}
        }
    }
}

impl From<Part> for Work {
    fn from(part: Part) -> Self {
        Self::Part(part)
    }
}

/// An order that all its parts share.
pub struct DisconnectRun {
    order: Disconnect,
    ending: Ending,
    number: u64,
    /// A part was dropped on its way.
    lost: AtomicBool,
    /// Clients that it has ended so far.
    ended: AtomicU64,
    /// Where that is told; nowhere, where no other node asks for it.
    told: OnceLock<Arc<EndedOrders>>,
    completions: mpsc::UnboundedSender<Completion>,
}

impl DisconnectRun {
    /// An order on its way; `completions` gets `number` once the last part of it is dropped. A code that this version does not
    /// know becomes the general one that says the same: come back, or do not.
    pub fn new(order: Disconnect, number: u64, completions: mpsc::UnboundedSender<Completion>) -> Arc<Self> {
        let general = if (3000..3500).contains(&order.code) { Close::Reconnect } else { Close::Disconnected };
        let close = Close::with_code(order.code).unwrap_or(general);
        let text = match &order.reason {
            Some(reason) => Cow::Owned(reason.to_string()),
            None => Cow::Borrowed(close.text()),
        };
        let ending = Ending { close, text };
        let (lost, ended, told) = (AtomicBool::new(false), AtomicU64::new(0), OnceLock::new());
        Arc::new(Self { order, ending, number, lost, ended, told, completions })
    }

    /// The order.
    pub fn order(&self) -> &Disconnect {
        &self.order
    }

    /// How many clients it ends is for those to know who ask `hub`.
    pub fn tell(&self, hub: &Hub) {
        if let Some(orders) = hub.ended_orders() {
            let _ = self.told.set(Arc::clone(orders));
        }
    }
}

impl Drop for DisconnectRun {
    fn drop(&mut self) {
        let is_lost = *self.lost.get_mut();
        let outcome = if is_lost { Outcome::Lost } else { Outcome::Offered };
        tracing::trace!(id = %self.order.id, ?outcome, "a disconnect has been through the hub");
        // nobody listens any more: dispatch was stopped and the job requeued
        let _ = self.completions.send(Completion { number: self.number, outcome });
        if !is_lost && let Some(orders) = self.told.get() {
            orders.note(self.order.id, *self.ended.get_mut());
        }
    }
}

/// A part of an order: one shard's. Dropped before it is [`DisconnectPart::done`], the order counts as lost and comes again.
pub struct DisconnectPart {
    run: Arc<DisconnectRun>,
    done: bool,
}

impl DisconnectPart {
    /// A part of `run`.
    pub fn new(run: Arc<DisconnectRun>) -> Self {
        Self { run, done: false }
    }

    /// What it is a part of.
    pub fn run(&self) -> &Arc<DisconnectRun> {
        &self.run
    }

    /// All clients of the shard that are meant were told.
    pub fn done(mut self) {
        self.done = true;
    }
}

impl Drop for DisconnectPart {
    fn drop(&mut self) {
        if !self.done {
            self.run.lost.store(true, Ordering::Relaxed);
        }
    }
}

/// The orders of a shard, carried out one after the other, some clients at a time: what else the thread has to do goes on
/// meanwhile, however many clients there are.
#[derive(Default)]
pub(super) struct Sweeps {
    current: Option<Sweep>,
    /// Each is of a job in flight, which bounds them.
    waiting: VecDeque<DisconnectPart>,
}

/// An order that is being carried out.
pub(super) struct Sweep {
    part: DisconnectPart,
    /// Clients that are still to be looked at.
    keys: vec::IntoIter<ClientKey>,
    /// The close frame, which all of them share.
    close: Rc<Item>,
    ended: u64,
}

impl Sweeps {
    pub(super) fn add(&mut self, part: DisconnectPart) {
        self.waiting.push_back(part);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.current.is_none() && self.waiting.is_empty()
    }

    /// The order to go on with; the next one begins with the clients that `keys` names.
    pub(super) fn take(&mut self, keys: impl FnOnce(&Disconnect) -> Vec<ClientKey>) -> Option<Sweep> {
        if let Some(current) = self.current.take() {
            return Some(current);
        }
        let part = self.waiting.pop_front()?;
        let keys = keys(&part.run.order).into_iter();
        let close = Item::control(&Frame::close(&part.run.ending));
        Some(Sweep { part, keys, close, ended: 0 })
    }

    /// Goes on with it later, unless it is done.
    pub(super) fn put_back(&mut self, sweep: Sweep) {
        if !sweep.keys.as_slice().is_empty() {
            self.current = Some(sweep);
            return;
        }
        tracing::debug!(id = %sweep.part.run.order.id, clients = sweep.ended, "clients were disconnected");
        sweep.part.run.ended.fetch_add(sweep.ended, Ordering::Relaxed);
        sweep.part.done();
    }
}

impl Sweep {
    pub(super) fn order(&self) -> &Disconnect {
        &self.part.run.order
    }

    pub(super) fn close(&self) -> (&Rc<Item>, &'static str) {
        (&self.close, self.part.run.ending.close.label())
    }

    pub(super) fn next(&mut self) -> Option<ClientKey> {
        self.keys.next()
    }

    pub(super) fn count(&mut self) {
        self.ended += 1;
    }
}
