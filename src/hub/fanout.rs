//! A push on its way through the shards, and what became of it.

use std::{
    iter, slice,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use hashbrown::HashSet;
use tokio::sync::mpsc;

use super::ClientKey;
use crate::{
    push::{Address, Push, StoredPush, StreamEntry},
    wire::{dialect::Dialect, frame::Frame},
};

/// The end of a push: told once, when its last part is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Completion {
    /// The number that dispatch gave it.
    pub number: u64,
    /// What became of it.
    pub outcome: Outcome,
}

/// What became of a push.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Every part was offered to the clients it is for; there may be none at an address that no shard has.
    Offered,
    /// Shards had a part of it, and none a client that it is for: another app or room, or gone on the way.
    Unmatched,
    /// A connection that it was for is no more, because the node sends its clients away: the job must wait for their return.
    SentAway,
    /// It was for this node, and some of its addresses have clients no more on this node, or on one of its threads: these may be
    /// at another node.
    Absent {
        /// Those addresses, each once at least.
        addresses: Box<[Address]>,
        /// The node sends its clients away, and some of them were of these addresses.
        sent_away: bool,
    },
    /// A part was lost on its way: the job must come again.
    Lost,
}

/// Which clients a part is for, of those that its recipients and its push's filters name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Audience {
    /// All of them.
    #[default]
    All,
    /// Those that do not merge: the others get the push in a merged one.
    NotMerging,
    /// Those that merge.
    Merging,
}

impl Audience {
    /// Whether a client is meant, by whether it merges.
    pub(super) fn has(self, merges: bool) -> bool {
        match self {
            Self::All => true,
            Self::NotMerging => !merges,
            Self::Merging => merges,
        }
    }
}

/// The clients that a shard has for a part.
#[derive(Clone, Default)]
pub(super) struct FoundClients {
    /// At least one.
    pub(super) any: bool,
    /// It had others, that the node sends away.
    pub(super) sent_away: bool,
    /// The addresses of a push for this node at which it had none, or sends them away.
    pub(super) absent: Vec<Address>,
}

/// Clients by their shards.
type OfferedClients = Mutex<HashSet<(usize, ClientKey)>>;

/// A push, or several that were merged, that all its parts share: each dialect's frame is encoded once, by the shard that needs
/// it first.
pub struct Fanout {
    push: Push,
    /// The others of a merged one.
    behind: Vec<Push>,
    /// Of a stored push: its places in the streams of its cards, in their order, or of its room.
    entries: Box<[StreamEntry]>,
    frames: [OnceLock<Frame>; Dialect::ALL.len()],
    /// Who is told of its end, under which number. Unbounded, yet it holds no more than one completion for each job in flight.
    /// `None`: the jobs of its pushes ended as these were gathered.
    end: Option<(u64, mpsc::UnboundedSender<Completion>)>,
    /// A part was dropped on its way.
    lost: AtomicBool,
    /// A shard found nobody for its part.
    unmatched: AtomicBool,
    /// A shard found somebody for its part.
    matched: AtomicBool,
    /// A client it was for was sent away.
    sent_away: AtomicBool,
    /// It was sent to this node because its clients are here.
    is_routed: bool,
    /// Its addresses that have no clients; of a push for this node only.
    absent: Mutex<Vec<Address>>,
    /// Of a push to several cards: the clients that got it, by shard, so that none gets it twice.
    offered: OnceLock<Box<OfferedClients>>,
}

impl Fanout {
    /// A push on its way; `completions` gets `number` once the last part of it is dropped.
    pub fn new(push: Push, number: u64, completions: mpsc::UnboundedSender<Completion>) -> Arc<Self> {
        Self::over(push, Vec::new(), Some((number, completions)))
    }

    /// As [`Fanout::new`]. `is_routed`: it was sent to this node because its clients are here; where they are not, its end says so.
    pub fn for_node(
        push: Push,
        number: u64,
        is_routed: bool,
        completions: mpsc::UnboundedSender<Completion>,
    ) -> Arc<Self> {
        let mut fanout = Self::of(push, Vec::new(), Some((number, completions)));
        fanout.is_routed = is_routed;
        Arc::new(fanout)
    }

    /// A stored push on its way. No job waits for its end: what is lost of it is read from the store.
    pub fn stored(stored: StoredPush) -> Arc<Self> {
        let StoredPush { push, entries } = stored;
        let mut fanout = Self::of(push, Vec::new(), None);
        fanout.entries = entries.into();
        Arc::new(fanout)
    }

    /// Pushes of one selection and the same filters that leave as one frame, to clients that merge; `None`: there are none.
    /// `end` is told of its end, if anybody waits for that; the number is 0.
    pub fn merged(pushes: Vec<Push>, end: Option<mpsc::UnboundedSender<Completion>>) -> Option<Arc<Self>> {
        let mut pushes = pushes.into_iter();
        let first = pushes.next()?;
        Some(Self::over(first, pushes.collect(), end.map(|end| (0, end))))
    }

    fn over(push: Push, behind: Vec<Push>, end: Option<(u64, mpsc::UnboundedSender<Completion>)>) -> Arc<Self> {
        Arc::new(Self::of(push, behind, end))
    }

    fn of(push: Push, behind: Vec<Push>, end: Option<(u64, mpsc::UnboundedSender<Completion>)>) -> Self {
        Self {
            push,
            behind,
            entries: Box::default(),
            frames: Default::default(),
            end,
            lost: AtomicBool::new(false),
            unmatched: AtomicBool::new(false),
            matched: AtomicBool::new(false),
            sent_away: AtomicBool::new(false),
            is_routed: false,
            absent: Mutex::default(),
            offered: OnceLock::new(),
        }
    }

    /// It has places in streams.
    pub fn is_stored(&self) -> bool {
        !self.entries.is_empty()
    }

    /// The push; the first of those that were merged, whose target is that of all.
    pub fn push(&self) -> &Push {
        &self.push
    }

    /// All its pushes, in order.
    pub fn pushes(&self) -> impl Iterator<Item = &Push> + Clone {
        iter::once(&self.push).chain(&self.behind)
    }

    /// How many.
    pub(super) fn push_count(&self) -> usize {
        1 + self.behind.len()
    }

    /// A shard has offered a part to those that it found.
    pub(super) fn part_offered(&self, found: &FoundClients) {
        let noted = if found.any { &self.matched } else { &self.unmatched };
        noted.store(true, Ordering::Relaxed);
        if found.sent_away {
            self.sent_away.store(true, Ordering::Relaxed);
        }
        if self.is_routed && !found.absent.is_empty() {
            self.absent().extend_from_slice(&found.absent);
        }
    }

    fn absent(&self) -> MutexGuard<'_, Vec<Address>> {
        self.absent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It was sent to this node because its clients are here.
    pub fn is_routed(&self) -> bool {
        self.is_routed
    }

    /// No shard has one of its addresses.
    pub fn address_absent(&self, address: Address) {
        self.absent().push(address);
    }

    /// Whether a client, which may be found for each of its cards, gets it for the first time now.
    pub(super) fn is_first_offer(&self, shard: usize, client: ClientKey) -> bool {
        let offered = self.offered.get_or_init(Box::default);
        offered.lock().unwrap_or_else(PoisonError::into_inner).insert((shard, client))
    }

    /// The frame for `dialect`; of several pushes for clients that merge only.
    pub fn frame(&self, dialect: Dialect) -> &Frame {
        self.frames[dialect.index()].get_or_init(|| {
            let packed = if self.behind.is_empty() { None } else { dialect.pushes(self.pushes()) };
            packed.unwrap_or_else(|| Frame::sequence(self.pushes().map(|push| dialect.push(push))))
        })
    }
}

impl Drop for Fanout {
    fn drop(&mut self) {
        let outcome = if *self.lost.get_mut() {
            Outcome::Lost
        } else if !self.absent().is_empty() {
            let addresses = std::mem::take(&mut *self.absent()).into();
            Outcome::Absent { addresses, sent_away: *self.sent_away.get_mut() }
        } else if *self.sent_away.get_mut() {
            Outcome::SentAway
        } else if *self.unmatched.get_mut() && !*self.matched.get_mut() {
            Outcome::Unmatched
        } else {
            Outcome::Offered
        };
        let is_lost = outcome == Outcome::Lost;
        for push in self.pushes() {
            tracing::trace!(id = %push.id, ?outcome, "a push has been through the hub");
        }
        if let Some((number, completions)) = &self.end {
            // nobody listens any more: dispatch was stopped and the job requeued
            let _ = completions.send(Completion { number: *number, outcome });
        } else if is_lost && !self.is_stored() {
            tracing::warn!(pushes = self.push_count(), "merged pushes were lost: a shard did not take them");
        }
    }
}

/// Whose clients a part is for, of those that its push's filters let through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recipients {
    /// The members of an address.
    Address(Address),
    /// The members of several.
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
    audience: Audience,
    done: bool,
}

impl Part {
    /// The part of `fanout` for `recipients`.
    pub fn new(fanout: Arc<Fanout>, recipients: Recipients) -> Self {
        Self { fanout, recipients, audience: Audience::All, done: false }
    }

    /// It is for these of them.
    pub fn only(mut self, audience: Audience) -> Self {
        self.audience = audience;
        self
    }

    pub(super) fn audience(&self) -> Audience {
        self.audience
    }

    /// The push it is a part of.
    pub fn fanout(&self) -> &Arc<Fanout> {
        &self.fanout
    }

    /// Whose clients it is for.
    pub fn recipients(&self) -> &Recipients {
        &self.recipients
    }

    /// Of a stored push: its addresses, each with the place in its stream.
    pub(super) fn entries(&self) -> impl Iterator<Item = (&Address, &StreamEntry)> {
        let Fanout { push, entries, .. } = &*self.fanout;
        let mut places = push.target.cards.iter().zip(entries);
        self.recipients.addresses().iter().filter_map(move |address| {
            let entry = match address {
                // both name the cards in one order
                Address::Card(card) => places.find(|(of, _)| *of == card).map(|(_, entry)| entry),
                Address::Room(_) => entries.first(),
            };
            Some((address, entry?))
        })
    }

    /// It goes to the same clients as `other`, and they may get both as one.
    pub(super) fn is_for_those_of(&self, other: &Self) -> bool {
        let is_alone = |fanout: &Fanout| fanout.is_stored() || fanout.push.deadline.is_some();
        if is_alone(&self.fanout) || is_alone(&other.fanout) {
            return false;
        }
        let target = &self.fanout.push.target;
        let theirs = &other.fanout.push.target;
        self.recipients == other.recipients
            && self.audience == other.audience
            && target.app == theirs.app
            && target.room == theirs.room
            && target.exclude == theirs.exclude
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
