//! A push on its way through the shards, and what became of it.

use std::{
    slice,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::sync::mpsc;

use crate::{
    push::{Address, Push},
    wire::{dialect::Dialect, frame::Frame},
};

/// The end of a push: told once, when its last part is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completion {
    /// The number that dispatch gave it.
    pub number: u64,
    /// What became of it.
    pub outcome: Outcome,
}

/// What became of a push.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Every part was offered to the clients it is for; there may be none at an address that no shard has.
    Offered,
    /// Shards had a part of it, and none a client that it is for: another app or room, or gone on the way.
    Unmatched,
    /// A connection that it was for is no more, because the node sends its clients away: the job must wait for their return.
    SentAway,
    /// A part was lost on its way: the job must come again.
    Lost,
}

/// The clients that a shard has for a part.
#[derive(Clone, Copy, Default)]
pub(super) struct FoundClients {
    /// At least one.
    pub(super) any: bool,
    /// It had others, that the node sends away.
    pub(super) sent_away: bool,
}

/// A push that all its parts share: each dialect's frame is encoded once, by the shard that needs it first.
pub struct Fanout {
    push: Push,
    frames: [OnceLock<Frame>; Dialect::ALL.len()],
    number: u64,
    /// A part was dropped on its way.
    lost: AtomicBool,
    /// A shard found nobody for its part.
    unmatched: AtomicBool,
    /// A shard found somebody for its part.
    matched: AtomicBool,
    /// A client it was for was sent away.
    sent_away: AtomicBool,
    /// Unbounded, yet it holds no more than one completion for each job in flight.
    completions: mpsc::UnboundedSender<Completion>,
}

impl Fanout {
    /// A push on its way; `completions` gets `number` once the last part of it is dropped.
    pub fn new(push: Push, number: u64, completions: mpsc::UnboundedSender<Completion>) -> Arc<Self> {
        Arc::new(Self {
            push,
            frames: Default::default(),
            number,
            lost: AtomicBool::new(false),
            unmatched: AtomicBool::new(false),
            matched: AtomicBool::new(false),
            sent_away: AtomicBool::new(false),
            completions,
        })
    }

    /// The push.
    pub fn push(&self) -> &Push {
        &self.push
    }

    /// A shard has offered a part to those that it found.
    pub(super) fn part_offered(&self, found: FoundClients) {
        let noted = if found.any { &self.matched } else { &self.unmatched };
        noted.store(true, Ordering::Relaxed);
        if found.sent_away {
            self.sent_away.store(true, Ordering::Relaxed);
        }
    }

    /// The frame for `dialect`.
    pub fn frame(&self, dialect: Dialect) -> &Frame {
        self.frames[dialect.index()].get_or_init(|| dialect.push(&self.push))
    }
}

impl Drop for Fanout {
    fn drop(&mut self) {
        let outcome = if *self.lost.get_mut() {
            Outcome::Lost
        } else if *self.sent_away.get_mut() {
            Outcome::SentAway
        } else if *self.unmatched.get_mut() && !*self.matched.get_mut() {
            Outcome::Unmatched
        } else {
            Outcome::Offered
        };
        tracing::trace!(id = %self.push.id, ?outcome, "a push has been through the hub");
        let completion = Completion { number: self.number, outcome };
        // nobody listens any more: dispatch was stopped and the job requeued
        let _ = self.completions.send(completion);
    }
}

/// Whose clients a part is for, of those that its push's filters let through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recipients {
    /// The members of an address.
    Address(Address),
    /// The members of several, none of whom is a member of two.
    Addresses(Vec<Address>),
    /// All clients of the shard.
    Everyone,
    /// A shard panics over it, as over a bug: for tests of what becomes of the others.
    #[doc(hidden)]
    Panic,
}

impl Recipients {
    /// The addresses; none for everyone.
    pub fn addresses(&self) -> &[Address] {
        match self {
            Self::Address(address) => slice::from_ref(address),
            Self::Addresses(addresses) => addresses,
            Self::Everyone | Self::Panic => &[],
        }
    }
}

/// A part of a push. Dropped before it is [`Part::done`], the whole push counts as lost and comes again.
pub struct Part {
    fanout: Arc<Fanout>,
    recipients: Recipients,
    done: bool,
}

impl Part {
    /// The part of `fanout` for `recipients`.
    pub fn new(fanout: Arc<Fanout>, recipients: Recipients) -> Self {
        Self { fanout, recipients, done: false }
    }

    /// The push it is a part of.
    pub fn fanout(&self) -> &Arc<Fanout> {
        &self.fanout
    }

    /// Whose clients it is for.
    pub fn recipients(&self) -> &Recipients {
        &self.recipients
    }

    /// It goes to the same clients as `other`.
    pub(super) fn is_for_those_of(&self, other: &Self) -> bool {
        let target = &self.fanout.push.target;
        let theirs = &other.fanout.push.target;
        self.recipients == other.recipients && target.app == theirs.app && target.room == theirs.room
    }

    /// It was offered to all clients it is for, or handed on in smaller parts.
    pub fn done(mut self) {
        self.done = true;
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if !self.done {
            self.fanout.lost.store(true, Ordering::Relaxed);
        }
    }
}
