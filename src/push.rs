//! The domain: a push, whom it is for, and its id. No I/O.

mod id;
mod name;

use std::collections::HashSet;

use bytestring::ByteString;

pub use id::PushId;
pub use name::{NameError, NameRule};

/// One accepted request to deliver content to a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Push {
    /// Tells copies of one push from other pushes.
    pub id: PushId,
    /// Who pushes, as the back end says it; may be empty.
    pub from: ByteString,
    /// Whom it is for.
    pub target: Target,
    /// What is delivered, byte for byte.
    pub content: ByteString,
    /// With the outbox policy `conflate` a waiting push of the same key is replaced.
    pub collapse_key: Option<ByteString>,
}

#[cfg(test)]
impl Push {
    /// A push to one card, for the tests of other rooms.
    pub(crate) fn to(card: &str, content: &str) -> Self {
        Self {
            id: PushId::generate(),
            from: "test".into(),
            target: Target { cards: vec![card.into()], app: None },
            content: content.into(),
            collapse_key: None,
        }
    }
}

/// Whom a push is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Cards, each once, at least one.
    pub cards: Vec<ByteString>,
    /// Only connections that joined as this app; `None`: of all apps.
    pub app: Option<ByteString>,
}

/// Up to this many cards are compared with each other to find one that is named twice.
const FEW: usize = 16;

impl Target {
    /// Strikes cards that are named again, so that nobody gets a push twice; the order stays.
    pub fn name_each_once(&mut self) {
        let cards = &mut self.cards;
        if cards.len() <= FEW {
            let mut place = 1;
            while place < cards.len() {
                match cards[..place].contains(&cards[place]) {
                    true => drop(cards.remove(place)),
                    false => place += 1,
                }
            }
        } else {
            let mut seen = HashSet::with_capacity(cards.len());
            cards.retain(|card| seen.insert(card.clone()));
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
            let mut target = Target { cards: to.into_iter().map(Into::into).collect(), app: None };
            target.name_each_once();
            assert_eq!(target.cards, kept);
        }
    }
}
