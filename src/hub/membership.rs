//! What a client is a member of.

use std::{sync::Arc, time::Duration};

use crate::push::{Address, AddressKind};

/// When a client became a member: in milliseconds since its node started. It fits where a membership has room anyway, and goes
/// round after 49 days: a join of 49 days ago may count as a new one for a minute, which is the longest age that is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct JoinTime(u32);

impl JoinTime {
    pub(super) fn at(uptime: Duration) -> Self {
        Self(uptime.as_millis() as u32)
    }

    /// How long it lies before `now`.
    pub(super) fn age(self, now: Self) -> Duration {
        Duration::from_millis(u64::from(now.0.wrapping_sub(self.0)))
    }

    /// Whether it may lie `age` or longer before `now`.
    pub(super) fn is_older_than(self, age: Duration, now: Self) -> bool {
        self.age(now) + Duration::from_millis(1) >= age
    }
}

/// A client's place in a group.
pub(super) struct Membership {
    /// The address's name, shared by all its members.
    pub(super) name: Arc<str>,
    /// Where the client stands in the group of its shard.
    pub(super) position: u32,
    pub(super) since: JoinTime,
}

/// A card that a client joined, and as which app.
pub(super) struct JoinedCard {
    pub(super) membership: Membership,
    pub(super) app: Box<str>,
}

impl JoinedCard {
    pub(super) fn name(&self) -> &Arc<str> {
        &self.membership.name
    }
}

/// All groups that a client is in. Most have joined one card and no room: that costs no allocation.
#[derive(Default)]
pub(super) struct Memberships {
    card: Option<JoinedCard>,
    /// `None`: there are none.
    more: Option<Box<MoreMemberships>>,
}

/// How many more rooms of a client there is memory for, once it is full.
const ROOMS_RESERVED: usize = 4;

#[derive(Default)]
struct MoreMemberships {
    /// Behind the first card; none without one.
    cards: Vec<JoinedCard>,
    rooms: Vec<Membership>,
    /// As which device it joined a card, where it said one.
    devices: Vec<(Arc<str>, Box<str>)>,
}

impl Memberships {
    /// The card that it joined first, of those that it is in.
    pub(super) fn card(&self) -> Option<&JoinedCard> {
        self.card.as_ref()
    }

    /// All cards, in the order in which it joined them.
    pub(super) fn cards(&self) -> impl Iterator<Item = &JoinedCard> {
        self.card.iter().chain(self.more.iter().flat_map(|more| &more.cards))
    }

    fn cards_mut(&mut self) -> impl Iterator<Item = &mut JoinedCard> {
        self.card.iter_mut().chain(self.more.iter_mut().flat_map(|more| &mut more.cards))
    }

    pub(super) fn joined(&self, card: &str) -> Option<&JoinedCard> {
        self.cards().find(|joined| **joined.name() == *card)
    }

    /// It joined a card as this app.
    pub(super) fn is_of_app(&self, app: &str) -> bool {
        self.cards().any(|joined| *joined.app == *app)
    }

    /// As [`Memberships::is_of_app`]; at a card it is the app of that card that counts.
    pub(super) fn is_of_app_at(&self, app: &str, address: Option<&Address>) -> bool {
        match address {
            Some(Address::Card(card)) => self.joined(card).is_some_and(|joined| *joined.app == *app),
            _ => self.is_of_app(app),
        }
    }

    /// As which device it joined `card`.
    pub(super) fn device(&self, card: &str) -> Option<&str> {
        let mut devices = self.more.as_ref()?.devices.iter();
        devices.find(|(of, _)| **of == *card).map(|(_, device)| &**device)
    }

    /// From now on it is in `card`, which it joined, as this device.
    pub(super) fn set_device(&mut self, card: &str, device: &str) {
        let Some(name) = self.joined(card).map(|joined| Arc::clone(joined.name())) else { return };
        let devices = &mut self.more.get_or_insert_default().devices;
        devices.retain(|(of, _)| **of != *card);
        devices.push((name, device.into()));
    }

    fn forget_device(&mut self, card: &str) {
        if let Some(more) = &mut self.more {
            more.devices.retain(|(of, _)| **of != *card);
        }
    }

    pub(super) fn add_card(&mut self, membership: Membership, app: &str) {
        let joined = JoinedCard { membership, app: app.into() };
        if self.card.is_none() {
            self.card = Some(joined);
        } else {
            self.more.get_or_insert_default().cards.push(joined);
        }
    }

    /// As which app it is in a card, from now on.
    pub(super) fn set_app(&mut self, card: &str, app: &str) {
        if let Some(joined) = self.cards_mut().find(|joined| **joined.name() == *card)
            && *joined.app != *app
        {
            joined.app = app.into();
        }
    }

    pub(super) fn take_card(&mut self, card: &str) -> Option<Membership> {
        if self.card.as_ref().is_some_and(|first| **first.name() == *card) {
            return self.take_first_card();
        }
        let more = self.more.as_mut()?;
        let place = more.cards.iter().position(|joined| **joined.name() == *card)?;
        let taken = more.cards.remove(place);
        self.forget_device(card);
        self.forget_none();
        Some(taken.membership)
    }

    pub(super) fn take_first_card(&mut self) -> Option<Membership> {
        let taken = self.card.take()?;
        self.forget_device(taken.name());
        if let Some(more) = &mut self.more
            && !more.cards.is_empty()
        {
            self.card = Some(more.cards.remove(0));
        }
        self.forget_none();
        Some(taken.membership)
    }

    pub(super) fn rooms(&self) -> &[Membership] {
        self.more.as_ref().map_or(&[], |more| &more.rooms)
    }

    pub(super) fn is_in_room(&self, name: &str) -> bool {
        self.rooms().iter().any(|room| *room.name == *name)
    }

    pub(super) fn add_room(&mut self, room: Membership) {
        let rooms = &mut self.more.get_or_insert_default().rooms;
        // a client has few and there are many clients: room for a few more, not for twice as many
        if rooms.len() == rooms.capacity() {
            rooms.reserve_exact(ROOMS_RESERVED);
        }
        rooms.push(room);
    }

    pub(super) fn take_room(&mut self, name: &str) -> Option<Membership> {
        let rooms = &mut self.more.as_mut()?.rooms;
        let place = rooms.iter().position(|room| *room.name == *name)?;
        let taken = rooms.swap_remove(place);
        self.forget_none();
        Some(taken)
    }

    pub(super) fn take_rooms(&mut self) -> Vec<Membership> {
        let rooms = self.more.as_mut().map(|more| std::mem::take(&mut more.rooms));
        self.forget_none();
        rooms.unwrap_or_default()
    }

    fn forget_none(&mut self) {
        if self
            .more
            .as_ref()
            .is_some_and(|more| more.cards.is_empty() && more.rooms.is_empty() && more.devices.is_empty())
        {
            self.more = None;
        }
    }

    /// Another client left the group, and this one stands in its place now.
    pub(super) fn set_position(&mut self, kind: AddressKind, name: &Arc<str>, position: u32) {
        let membership = match kind {
            AddressKind::Card => {
                self.cards_mut().map(|joined| &mut joined.membership).find(|card| Arc::ptr_eq(&card.name, name))
            }
            AddressKind::Room => {
                let mut rooms = self.more.iter_mut().flat_map(|more| &mut more.rooms);
                rooms.find(|room| Arc::ptr_eq(&room.name, name))
            }
        };
        if let Some(membership) = membership {
            membership.position = position;
        }
    }
}
