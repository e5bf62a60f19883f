//! What a client is a member of.

use std::{sync::Arc, time::Duration};

use crate::push::AddressKind;

/// When a client became a member: in milliseconds since its node started. It fits where a membership has room anyway, and goes
/// round after 49 days: a join of 49 days ago may count as a new one for a minute, which is the longest age that is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct JoinTime(u32);

impl JoinTime {
    pub(super) fn at(uptime: Duration) -> Self {
        Self(uptime.as_millis() as u32)
    }

    /// Whether it may lie `age` or longer before `now`.
    pub(super) fn is_older_than(self, age: Duration, now: Self) -> bool {
        Duration::from_millis(u64::from(now.0.wrapping_sub(self.0)) + 1) >= age
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

/// All groups that a client is in. Most have joined one card and no room: that costs no allocation.
#[derive(Default)]
pub(super) struct Memberships {
    card: Option<Membership>,
    /// `None`: there are none.
    #[allow(clippy::box_collection, reason = "8 bytes instead of 24 for each client that subscribed to no room")]
    rooms: Option<Box<Vec<Membership>>>,
    /// As which app it joined its card.
    app: Box<str>,
}

impl Memberships {
    pub(super) fn card(&self) -> Option<&Membership> {
        self.card.as_ref()
    }

    pub(super) fn set_card(&mut self, card: Membership) {
        self.card = Some(card);
    }

    pub(super) fn take_card(&mut self) -> Option<Membership> {
        self.app = Box::default();
        self.card.take()
    }

    /// The app of the card that it joined; `None` without one.
    pub(super) fn app(&self) -> Option<&str> {
        self.card.is_some().then_some(&*self.app)
    }

    pub(super) fn set_app(&mut self, app: &str) {
        if *self.app != *app {
            self.app = app.into();
        }
    }

    pub(super) fn rooms(&self) -> &[Membership] {
        self.rooms.as_deref().map_or(&[], Vec::as_slice)
    }

    pub(super) fn is_in_room(&self, name: &str) -> bool {
        self.rooms().iter().any(|room| *room.name == *name)
    }

    pub(super) fn add_room(&mut self, room: Membership) {
        self.rooms.get_or_insert_default().push(room);
    }

    pub(super) fn take_room(&mut self, name: &str) -> Option<Membership> {
        let rooms = self.rooms.as_mut()?;
        let place = rooms.iter().position(|room| *room.name == *name)?;
        let taken = rooms.swap_remove(place);
        if rooms.is_empty() {
            self.rooms = None;
        }
        Some(taken)
    }

    pub(super) fn take_rooms(&mut self) -> Vec<Membership> {
        self.rooms.take().map_or_else(Vec::new, |rooms| *rooms)
    }

    /// Another client left the group, and this one stands in its place now.
    pub(super) fn set_position(&mut self, kind: AddressKind, name: &Arc<str>, position: u32) {
        let membership = match kind {
            AddressKind::Card => self.card.as_mut(),
            AddressKind::Room => {
                let mut rooms = self.rooms.iter_mut().flat_map(|rooms| rooms.iter_mut());
                rooms.find(|room| Arc::ptr_eq(&room.name, name))
            }
        };
        if let Some(membership) = membership {
            membership.position = position;
        }
    }
}
