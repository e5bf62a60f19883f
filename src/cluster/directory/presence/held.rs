//! Which cards this node has in rooms with presence, and what of that is still to be written or told.

use std::sync::{Mutex, MutexGuard, PoisonError};

use bytestring::ByteString;
use foldhash::fast::RandomState;
use hashbrown::HashMap;
use tokio::sync::Notify;

use super::{
    super::keys::{PARTITIONS, partition},
    PresenceNews,
};
use crate::{push::AddressKind, telemetry::Counter, wire::dialect::PresenceChange};

/// The cards of this node in rooms, by the partitions of the rooms.
pub(super) struct HeldCards {
    node: ByteString,
    partitions: Box<[Mutex<HeldPartition>]>,
    /// Told when there is something to write.
    changed: Notify,
    /// Cards of a partition that came and left while nothing could be written, at most.
    most_passed: usize,
    untold: Counter,
}

/// A card in a room.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct RoomCard {
    pub(super) room: ByteString,
    pub(super) card: ByteString,
}

/// What is to be written of a card.
#[derive(Clone, Debug)]
pub(super) struct CardChange {
    pub(super) of: RoomCard,
    /// This node has it there.
    pub(super) holds: bool,
}

#[derive(Default)]
struct HeldPartition {
    cards: HashMap<RoomCard, HeldCard, RandomState>,
    /// Those to be looked at by the writer; each once.
    changed: Vec<RoomCard>,
}

#[derive(Default)]
struct HeldCard {
    is_here: bool,
    /// Redis has it as this node's.
    is_written: bool,
    /// It is in [`HeldPartition::changed`].
    is_changed: bool,
    /// What was told of this node alone.
    told_here: Option<bool>,
}

impl HeldCard {
    /// Nothing of it is to be written, and nothing to be found out.
    fn is_settled(&self) -> bool {
        self.is_here == self.is_written && self.told_here.is_none_or(|told| told && self.is_here)
    }
}

impl HeldCards {
    /// Of `node`; at most about `most_passed` cards are remembered that came and left while nothing could be written, what is
    /// beyond counts as `untold`.
    pub(super) fn new(node: &str, most_passed: usize, untold: Counter) -> Self {
        let partitions = (0..PARTITIONS).map(|_| Mutex::default()).collect();
        let most_passed = most_passed.div_ceil(PARTITIONS);
        Self { node: node.into(), partitions, changed: Notify::new(), most_passed, untold }
    }

    /// A card's first client on this node came into a room, or its last one left.
    pub(super) fn note(&self, change: &PresenceChange) {
        let of = RoomCard { room: change.room.clone(), card: change.card.clone() };
        let mut partition = self.lock(partition(AddressKind::Room, &of.room));
        partition.cards.entry_ref(&of).or_default().is_here = change.came;
        partition.change(&of);
        drop(partition);
        self.changed.notify_one();
    }

    /// Waits for something to write. Cancel-safe.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Nothing waits to be written, but for what the writer has taken.
    pub(super) fn is_written(&self) -> bool {
        (0..PARTITIONS).all(|at| self.lock(at).changed.is_empty())
    }

    /// At most `most` of what is to be written of a partition, and whether more is. It has to be ended by [`HeldCards::written`] or
    /// [`HeldCards::failed`].
    pub(super) fn take(&self, at: usize, most: usize) -> (Vec<CardChange>, bool) {
        let mut partition = self.lock(at);
        let HeldPartition { cards, changed } = &mut *partition;
        let taken = changed.len().min(most);
        let mut changes = Vec::with_capacity(taken);
        for of in changed.drain(..taken) {
            let Some(card) = cards.get_mut(&of) else { continue };
            card.is_changed = false;
            if !card.is_settled() {
                changes.push(CardChange { holds: card.is_here, of });
                continue;
            }
            card.told_here = None;
            if !card.is_here {
                cards.remove(&of);
            }
        }
        (changes, !changed.is_empty())
    }

    /// Redis has these changes, and answered a digit for each: what is to be told.
    pub(super) fn written(&self, at: usize, changes: Vec<CardChange>, digits: &[u8], now: u64) -> Vec<PresenceNews> {
        let mut news = Vec::new();
        let mut partition = self.lock(at);
        for (CardChange { of, holds }, digit) in changes.into_iter().zip(digits) {
            let (is_present, is_new) = (digit & 1 == 1, digit & 2 == 2);
            // one that nobody was told of may be forgotten already
            let card = partition.cards.entry_ref(&of).or_default();
            let told = card.told_here.take();
            card.is_written = holds;
            if is_new {
                let change = self.change(&of, is_present);
                news.push(PresenceNews::Cluster { change, at: now, is_told_here: told == Some(is_present) });
            } else if told.is_some_and(|told| told != is_present) {
                // it left this node while the nodes did not know of each other, and is on another one
                news.push(PresenceNews::Node(self.change(&of, is_present)));
            }
            partition.end(&of);
        }
        partition.shrink();
        news
    }

    /// Redis does not have these changes: they are to be written again.
    pub(super) fn failed(&self, at: usize, changes: Vec<CardChange>) {
        let mut partition = self.lock(at);
        for CardChange { of, .. } in changes {
            partition.end(&of);
        }
    }

    /// Nothing of this node can be written to a partition now: what is to be told of this node alone.
    pub(super) fn tell_here(&self, at: usize) -> Vec<PresenceNews> {
        let mut news = Vec::new();
        let mut partition = self.lock(at);
        let HeldPartition { cards, changed } = &mut *partition;
        let mut passed = 0;
        changed.retain(|of| {
            let Some(card) = cards.get_mut(of) else { return false };
            if card.told_here.unwrap_or(card.is_written) != card.is_here {
                card.told_here = Some(card.is_here);
                news.push(PresenceNews::Node(self.change(of, card.is_here)));
            }
            if card.is_here || card.is_written {
                return true;
            }
            passed += 1;
            let is_kept = card.told_here.is_some() && passed <= self.most_passed;
            if !is_kept {
                if card.told_here.is_some() {
                    self.untold.inc();
                }
                cards.remove(of);
            }
            is_kept
        });
        news
    }

    /// What Redis is to have of a partition before changes are written.
    pub(super) fn restored(&self, at: usize) -> Vec<CardChange> {
        let partition = self.lock(at);
        let written = partition.cards.iter().filter(|(_, card)| card.is_written);
        written.map(|(of, _)| CardChange { of: of.clone(), holds: true }).collect()
    }

    /// What this node wrote to a partition was taken out by others.
    pub(super) fn taken_out(&self, at: usize) {
        self.change_all(at, |card| card.is_written = false);
    }

    /// Redis has these cards as this node's, whoever wrote them.
    pub(super) fn found(&self, at: usize, all: Vec<RoomCard>) {
        let mut partition = self.lock(at);
        for of in all {
            partition.cards.entry_ref(&of).or_default().is_written = true;
            partition.end(&of);
        }
    }

    fn change_all(&self, at: usize, each: impl Fn(&mut HeldCard)) {
        let mut partition = self.lock(at);
        let HeldPartition { cards, changed } = &mut *partition;
        for (of, card) in cards.iter_mut() {
            each(card);
            if !card.is_changed && !card.is_settled() {
                card.is_changed = true;
                changed.push(of.clone());
            }
        }
    }

    fn change(&self, of: &RoomCard, came: bool) -> PresenceChange {
        PresenceChange { room: of.room.clone(), card: of.card.clone(), came, node: self.node.clone() }
    }

    fn lock(&self, at: usize) -> MutexGuard<'_, HeldPartition> {
        self.partitions[at].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl HeldPartition {
    fn change(&mut self, of: &RoomCard) {
        if let Some(card) = self.cards.get_mut(of)
            && !card.is_changed
        {
            card.is_changed = true;
            self.changed.push(of.clone());
        }
    }

    /// After something of a card became known: it waits for the writer, or is done with.
    fn end(&mut self, of: &RoomCard) {
        let Some(card) = self.cards.get(of) else { return };
        if !card.is_settled() {
            self.change(of);
        } else if !card.is_here && !card.is_changed {
            self.cards.remove(of);
        }
    }

    fn shrink(&mut self) {
        if self.cards.capacity() > 64 && self.cards.len() * 4 < self.cards.capacity() {
            self.cards.shrink_to(self.cards.len() * 2);
        }
    }
}

impl RoomCard {
    /// As Redis keeps it; `None`: it is none.
    pub(super) fn from_member(member: &str) -> Option<Self> {
        let (room, card) = member.split_once('\0')?;
        Some(Self { room: room.into(), card: card.into() })
    }

    /// As Redis keeps it. Names have no NUL.
    pub(super) fn member(&self) -> String {
        format!("{}\0{}", self.room, self.card)
    }
}

impl From<&RoomCard> for RoomCard {
    fn from(of: &RoomCard) -> Self {
        of.clone()
    }
}
