//! Which cards have clients in the rooms that ask for it, on this node.

use std::{
    hash::BuildHasher,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytestring::ByteString;
use foldhash::fast::RandomState;
use hashbrown::HashMap;

use super::index::shrink;
use crate::{
    push::{AddressKind, NameSample, Patterns},
    wire::dialect::{PresenceChange, PresentCards},
};

/// Locks are held for one change; this many keep threads out of each other's way.
const STRIPES: usize = 16;

type Clients = HashMap<Arc<str>, u32, RandomState>;
type RoomStripe = HashMap<Arc<str>, Clients, RandomState>;

/// The clients of each card in each room with presence. A card counts once, however many clients it has there.
pub(super) struct Presence {
    /// Rooms with presence: `[rooms] presence`.
    rooms: Patterns,
    node: ByteString,
    stripes: Box<[Mutex<RoomStripe>]>,
    chooser: RandomState,
    changed: PresenceChanged,
}

/// Hears of each change of who is in a room, by the thread that made it. It must not wait.
pub type PresenceChanged = Box<dyn Fn(PresenceChange) + Send + Sync>;

impl Presence {
    /// Of rooms that `rooms` names; each change is told to `changed`.
    pub(super) fn new(rooms: Patterns, node: ByteString, changed: PresenceChanged) -> Self {
        let stripes = (0..STRIPES).map(|_| Mutex::default()).collect();
        Self { rooms, node, stripes, chooser: RandomState::default(), changed }
    }

    pub(super) fn covers(&self, room: &str) -> bool {
        self.rooms.admits(room)
    }

    /// A client of `card` more in a room with presence.
    pub(super) fn enter(&self, room: &Arc<str>, card: &Arc<str>) {
        let mut stripe = self.stripe(room);
        let clients = stripe.entry_ref(room).or_default().entry_ref(card).or_default();
        *clients += 1;
        if *clients == 1 {
            self.tell(room, card, true);
        }
    }

    /// A client of `card` less.
    pub(super) fn exit(&self, room: &Arc<str>, card: &Arc<str>) {
        let mut stripe = self.stripe(room);
        let Some(cards) = stripe.get_mut(room) else { return };
        let Some(clients) = cards.get_mut(card) else { return };
        *clients -= 1;
        if *clients > 0 {
            return;
        }
        cards.remove(card);
        if cards.is_empty() {
            stripe.remove(room);
            shrink(&mut stripe);
        } else {
            shrink(cards);
        }
        self.tell(room, card, false);
    }

    /// Under the room's lock, so that changes of one room are told in their order.
    fn tell(&self, room: &Arc<str>, card: &Arc<str>, came: bool) {
        let change = PresenceChange { room: (&**room).into(), card: (&**card).into(), came, node: self.node.clone() };
        (self.changed)(change);
    }

    /// Who is in `room`; `None`: it has no presence.
    pub(super) fn present(&self, room: &str) -> Option<PresentCards> {
        if !self.covers(room) {
            return None;
        }
        let stripe = self.stripe(room);
        let cards = stripe.get(room);
        let told = cards.into_iter().flat_map(HashMap::keys).take(PresentCards::MOST_CARDS);
        Some(PresentCards {
            node: self.node.clone(),
            count: cards.map_or(0, HashMap::len),
            cards: told.map(|card| (&**card).into()).collect(),
            missing: Vec::new(),
        })
    }

    /// The cards in `room`, without their names.
    pub(super) fn sample(&self, room: &str) -> NameSample {
        let stripe = self.stripe(room);
        let cards = stripe.get(room).into_iter().flat_map(HashMap::keys).map(|card| &**card);
        NameSample::of(AddressKind::Card, cards)
    }

    fn stripe(&self, room: &str) -> MutexGuard<'_, RoomStripe> {
        let stripe = (self.chooser.hash_one(room) >> 48) as usize % STRIPES;
        self.stripes[stripe].lock().unwrap_or_else(PoisonError::into_inner)
    }
}
