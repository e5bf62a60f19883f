//! A push on its way through the shards, and what became of it.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicBool, Ordering},
};

use tokio::sync::mpsc;

use crate::{
    push::Push,
    wire::{dialect::Dialect, frame::Frame},
};

/// The end of a push: told once, when its last part is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completion {
    /// The number that dispatch gave it.
    pub ticket: u64,
    /// What became of it.
    pub outcome: Outcome,
}

/// What became of a push.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Every part was offered to the connections it is for; there may be none whose card nobody joined as.
    Offered,
    /// Shards had connections of its cards, and none was for it: another app, or gone on the way.
    Unmatched,
    /// A connection that it was for is no more, because the node sends its clients away: the job must wait for their return.
    SentAway,
    /// A part was lost on its way: the job must come again.
    Lost,
}

/// The connections that a shard has for a push.
#[derive(Clone, Copy)]
pub(super) struct Found {
    /// At least one.
    pub(super) open: bool,
    /// It had others, that the node sends away.
    pub(super) sent_away: bool,
}

/// A push that all its parts share: each dialect's frame is encoded once, by the shard that needs it first.
pub struct Fanout {
    push: Push,
    frames: [OnceLock<Frame>; Dialect::ALL.len()],
    ticket: u64,
    lost: AtomicBool,
    taken: AtomicBool,
    matched: AtomicBool,
    sent_away: AtomicBool,
    /// Unbounded, yet it holds no more than one outcome for each job in hand.
    completions: mpsc::UnboundedSender<Completion>,
}

impl Fanout {
    /// A push on its way; `completions` hears of `ticket` once the last part of it is dropped.
    pub fn new(push: Push, ticket: u64, completions: mpsc::UnboundedSender<Completion>) -> Arc<Self> {
        let (lost, taken, matched, sent_away) = Default::default();
        Arc::new(Self { push, frames: Default::default(), ticket, lost, taken, matched, sent_away, completions })
    }

    /// The push.
    pub fn push(&self) -> &Push {
        &self.push
    }

    /// A shard took a part, and found this.
    pub(super) fn taken(&self, found: Found) {
        let told = if found.open { &self.matched } else { &self.taken };
        told.store(true, Ordering::Relaxed);
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
        let outcome = match (*self.lost.get_mut(), *self.matched.get_mut(), *self.taken.get_mut()) {
            (true, ..) => Outcome::Lost,
            _ if *self.sent_away.get_mut() => Outcome::SentAway,
            (false, false, true) => Outcome::Unmatched,
            (false, ..) => Outcome::Offered,
        };
        tracing::trace!(id = %self.push.id, ?outcome, "a push has been through the hub");
        let completion = Completion { ticket: self.ticket, outcome };
        // nobody listens any more: dispatch was stopped and the job requeued
        let _ = self.completions.send(completion);
    }
}

/// Which of a push's cards a part is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cards {
    /// All of them.
    All,
    /// Those with these places in the target.
    Some(Vec<u32>),
}

impl Cards {
    /// How many cards of `push` it names.
    pub fn count(&self, push: &Push) -> usize {
        match self {
            Self::All => push.target.cards.len(),
            Self::Some(places) => places.len(),
        }
    }

    /// The place of its `nth` card in the target.
    pub fn place(&self, nth: usize) -> usize {
        match self {
            Self::All => nth,
            Self::Some(places) => places[nth] as usize,
        }
    }
}

/// A part of a push. Dropped before it is [`Part::done`], the whole push counts as lost and comes again.
pub struct Part {
    fanout: Arc<Fanout>,
    cards: Cards,
    done: bool,
}

impl Part {
    /// The part of `fanout` for `cards`.
    pub fn new(fanout: Arc<Fanout>, cards: Cards) -> Self {
        Self { fanout, cards, done: false }
    }

    /// The push it is a part of.
    pub fn fanout(&self) -> &Arc<Fanout> {
        &self.fanout
    }

    /// Which of its cards.
    pub fn cards(&self) -> &Cards {
        &self.cards
    }

    /// It goes to the same connections as `other`.
    pub(super) fn is_for_those_of(&self, other: &Self) -> bool {
        self.cards == other.cards && self.fanout.push.target == other.fanout.push.target
    }

    /// It was offered to all connections it is for, or handed on in smaller parts.
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
