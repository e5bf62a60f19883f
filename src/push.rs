//! The domain: a push, whom it is for, and its id; and an order to end clients. No I/O.

mod address;
mod address_counts;
mod content;
mod disconnect;
mod id;
mod name;
mod name_sample;
mod pattern;
mod rebalance;
mod stream;

use std::collections::HashSet;

use bytestring::ByteString;

pub use address::{Address, AddressKind, PRIVATE_TOPICS};
pub use address_counts::AddressCounts;
pub use content::{Content, MAX_DEPTH, is_nested_deeper_than};
pub use disconnect::{ClientSelector, Disconnect};
pub use id::{PushId, unix_millis};
pub use name::{NameError, NameRule};
pub use name_sample::NameSample;
pub use pattern::Patterns;
pub use rebalance::Rebalance;
pub use stream::{Epoch, PageEntry, PagePlace, Resume, StoredPush, StreamEntry, StreamPage, StreamPosition};

/// One accepted request to deliver content to a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Push {
    /// Tells copies of one push from other pushes.
    pub id: PushId,
    /// Who pushes, as the back end says it; may be empty.
    pub from: ByteString,
    /// Whom it is for.
    pub target: Target,
    /// What is delivered.
    pub content: Content,
    /// With the outbox policy `conflate` a waiting push of the same key is replaced.
    pub collapse_key: Option<ByteString>,
    /// From then on it leaves for no socket: milliseconds since 1970. `None`: it has no end.
    pub deadline: Option<u64>,
}

impl Push {
    /// Its end has come, at `now` in milliseconds since 1970.
    pub fn is_expired(&self, now: u64) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= now)
    }
}

#[cfg(test)]
impl Push {
    /// A push to one card, for the tests of other modules.
    pub(crate) fn to(card: &str, content: &str) -> Self {
        Self {
            id: PushId::generate(),
            from: "test".into(),
            target: Target::cards(vec![card.into()]),
            content: content.into(),
            collapse_key: None,
            deadline: None,
        }
    }
}

/// Whom a push is for: the first of cards, room, app and everyone that it names selects its clients, the others filter them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Target {
    /// Cards, each once.
    pub cards: Vec<ByteString>,
    /// Only clients that subscribed to this room; `None`: all.
    pub room: Option<ByteString>,
    /// Only clients that joined as this app; `None`: all.
    pub app: Option<ByteString>,
    /// Every client, where nothing else is named. It has to be said: a target that names nothing is for nobody.
    pub everyone: bool,
    /// Who gets nothing all the same. Boxed, because few pushes have it.
    pub exclude: Option<Box<Exclude>>,
}

/// Clients that a push is not for, whatever its target names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exclude {
    /// Those that joined one of these cards.
    pub cards: Vec<ByteString>,
    /// The one whose id, which no other client has, has these bytes.
    pub client: Option<[u8; 16]>,
}

/// How the clients of a target are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Selection<'a> {
    /// They are members of these.
    Cards(&'a [ByteString]),
    /// They are members of it.
    Room(&'a ByteString),
    /// They are among all clients.
    App(&'a ByteString),
    /// They are all clients.
    Everyone,
    /// There are none.
    Nobody,
}

/// What a client that was selected must be besides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Filters<'a> {
    /// Joined as this app.
    pub app: Option<&'a str>,
    /// Subscribed to this room.
    pub room: Option<&'a str>,
    /// None of these.
    pub exclude: Option<&'a Exclude>,
}

/// Up to this many cards are compared with each other to find one that is named twice.
const FEW: usize = 16;

impl Target {
    /// Clients of these cards, whatever their app and rooms are.
    pub fn cards(cards: Vec<ByteString>) -> Self {
        Self { cards, ..Self::default() }
    }

    /// How its clients are found.
    pub fn selection(&self) -> Selection<'_> {
        match self {
            Self { cards, .. } if !cards.is_empty() => Selection::Cards(cards),
            Self { room: Some(room), .. } => Selection::Room(room),
            Self { app: Some(app), .. } => Selection::App(app),
            Self { everyone: true, .. } => Selection::Everyone,
            _ => Selection::Nobody,
        }
    }

    /// What its clients must be besides being selected.
    pub fn filters(&self) -> Filters<'_> {
        Filters {
            app: self.app.as_deref(),
            room: self.room.as_deref().filter(|_| !self.cards.is_empty()),
            exclude: self.exclude.as_deref(),
        }
    }

    /// Strikes cards that are named again, so that nobody gets a push twice; the order stays.
    pub fn name_each_once(&mut self) {
        let cards = &mut self.cards;
        if cards.len() > FEW {
            let mut seen = HashSet::with_capacity(cards.len());
            cards.retain(|card| seen.insert(card.clone()));
            return;
        }
        let mut place = 1;
        while place < cards.len() {
            if cards[..place].contains(&cards[place]) {
                cards.remove(place);
            } else {
                place += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{FEW, Target};

    #[test]
    fn a_card_named_twice_stays_once_and_the_order_stays() {
        let many: Vec<String> = (0..=FEW).map(|n| n.to_string()).collect();
        let twice = [&many[..], &many[..]].concat();
        for (to, kept) in [
            (vec!["a", "b", "a", "c", "b"], vec!["a", "b", "c"]),
            (vec!["a"; FEW], vec!["a"]),
            (vec!["a"; FEW + 1], vec!["a"]),
            (twice.iter().map(String::as_str).collect(), many.iter().map(String::as_str).collect()),
        ] {
            let mut target = Target::cards(to.into_iter().map(Into::into).collect());
            target.name_each_once();
            assert_eq!(target.cards, kept);
        }
    }
}
