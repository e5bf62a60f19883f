//! Who is who in a run: the cards and rooms of its connections, and what its pushes are addressed to.

use crate::Result;

/// What pushes are addressed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Aim {
    /// Cards, so many in one push.
    Cards { span: u32 },
    /// One room.
    Rooms,
    /// Whoever is there.
    Everyone,
}

/// Whom one push names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Cards(Vec<String>),
    Room(String),
    Everyone,
}

/// The cards, rooms and targets of a run, each numbered from 0. Pushes are numbered within their target.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    pub(crate) aim: Aim,
    /// Cards that the connections join as, in turn.
    pub(crate) cards: u32,
    /// Rooms that there are.
    pub(crate) rooms: u32,
    /// Rooms that each connection subscribes to.
    pub(crate) subscriptions: u32,
}

impl Layout {
    /// # Errors
    /// Accounts are kept for one room of each connection: pushes to rooms need exactly one subscription.
    pub(crate) fn check(self) -> Result<Self> {
        match self.aim {
            Aim::Rooms if self.subscriptions != 1 => {
                Err("pushes to rooms need one room of each connection: leave --subscriptions out".into())
            }
            _ => Ok(self),
        }
    }

    pub(crate) fn targets(&self) -> u32 {
        match self.aim {
            Aim::Cards { span } => self.cards.div_ceil(span),
            Aim::Rooms => self.rooms,
            Aim::Everyone => 1,
        }
    }

    pub(crate) fn card(&self, connection: u32) -> u32 {
        connection % self.cards
    }

    pub(crate) fn rooms(&self, connection: u32) -> impl Iterator<Item = u32> {
        let rooms = self.rooms;
        // neighbours share no more than they must
        (0..self.subscriptions)
            .map(move |nth| connection.wrapping_mul(self.subscriptions.max(1)).wrapping_add(nth) % rooms)
    }

    /// The target whose pushes a connection is owed.
    pub(crate) fn target(&self, connection: u32) -> u32 {
        match self.aim {
            Aim::Cards { span } => self.card(connection) / span,
            Aim::Rooms => self.rooms(connection).next().unwrap_or(0),
            Aim::Everyone => 0,
        }
    }

    /// Whom the pushes to a target name; `run` tells the names of this run from another's.
    pub(crate) fn named(&self, run: u16, target: u32) -> Target {
        match self.aim {
            Aim::Cards { span } => {
                let cards = target * span..((target + 1) * span).min(self.cards);
                Target::Cards(cards.map(|card| card_name(run, card)).collect())
            }
            Aim::Rooms => Target::Room(room_name(run, target)),
            Aim::Everyone => Target::Everyone,
        }
    }
}

/// The name that connections join as.
pub(crate) fn card_name(run: u16, card: u32) -> String {
    format!("pb{run:04x}-{card}")
}

/// The name that connections subscribe to.
pub(crate) fn room_name(run: u16, room: u32) -> String {
    format!("pb{run:04x}-room-{room}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(aim: Aim) -> Layout {
        Layout { aim, cards: 5, rooms: 3, subscriptions: 1 }
    }

    #[test]
    fn each_connection_has_the_target_that_names_it() {
        let cards = layout(Aim::Cards { span: 2 });
        assert_eq!(cards.targets(), 3);
        for connection in 0..20 {
            let Target::Cards(names) = cards.named(1, cards.target(connection)) else { panic!() };
            assert!(names.contains(&card_name(1, cards.card(connection))));
            let rooms = layout(Aim::Rooms);
            let of = rooms.rooms(connection).next().map(|room| room_name(1, room));
            assert_eq!(Some(rooms.named(1, rooms.target(connection))), of.map(Target::Room));
        }
        let last = Target::Cards(vec![card_name(1, 4)]);
        assert_eq!(cards.named(1, 2), last);
        assert_eq!(layout(Aim::Everyone).targets(), 1);
    }

    #[test]
    fn the_rooms_of_a_connection_differ() {
        let layout = Layout { aim: Aim::Cards { span: 1 }, cards: 5, rooms: 100, subscriptions: 10 };
        let mut rooms: Vec<u32> = layout.rooms(9).collect();
        assert_eq!(rooms.len(), 10);
        rooms.sort_unstable();
        rooms.dedup();
        assert_eq!(rooms.len(), 10);
    }

    #[test]
    fn pushes_to_rooms_need_one_room_of_each_connection() {
        assert!(layout(Aim::Rooms).check().is_ok());
        assert!(Layout { subscriptions: 2, ..layout(Aim::Rooms) }.check().is_err());
        assert!(Layout { subscriptions: 0, ..layout(Aim::Everyone) }.check().is_ok());
    }
}
