//! What clients are members of, whom a target names among them, and what a client must, may and must not have got.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicU64, Ordering},
};

pub type Name = &'static str;

pub const CARDS: [Name; 6] = ["ada", "bob", "cy", "dee", "eve", "fay"];
pub const ROOMS: [Name; 4] = ["red", "green", "blue", "grey"];
pub const APPS: [Name; 3] = ["web", "phone", "tv"];

/// Orders what the test does: whatever has a smaller time was over before the other began.
#[derive(Default)]
pub struct Clock(AtomicU64);

impl Clock {
    pub fn now(&self) -> u64 {
        self.0.fetch_add(1, Ordering::SeqCst)
    }
}

/// What one client is a member of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Membership {
    /// Its cards, each with the app that it joined the card with.
    pub cards: BTreeMap<Name, Name>,
    pub rooms: BTreeSet<Name>,
}

/// Whom a push is for.
#[derive(Clone, Debug, Default)]
pub struct Target {
    pub cards: Vec<Name>,
    pub room: Option<Name>,
    pub app: Option<Name>,
    pub everyone: bool,
    pub exclude_cards: Vec<Name>,
    /// A client's id.
    pub exclude_client: Option<String>,
}

impl Target {
    /// The plain scan: whether a client of this id and membership is meant.
    pub fn names(&self, client: &str, member: &Membership) -> bool {
        let of_app = |app: &Name| self.app.is_none_or(|wanted| *app == wanted);
        let selected = if !self.cards.is_empty() {
            self.cards.iter().any(|card| member.cards.get(card).is_some_and(of_app))
        } else if self.app.is_some() {
            member.cards.values().any(of_app)
        } else if self.everyone {
            !member.cards.is_empty()
        } else {
            true
        };
        selected
            && self.room.is_none_or(|room| member.rooms.contains(room))
            && !self.exclude_cards.iter().any(|card| member.cards.contains_key(card))
            && self.exclude_client.as_deref() != Some(client)
    }

    /// For each card that it names, that alone.
    fn parts(&self) -> Vec<Self> {
        if self.cards.is_empty() {
            return vec![self.clone()];
        }
        self.cards.iter().map(|card| Self { cards: vec![card], ..self.clone() }).collect()
    }

    /// The address whose pushes keep their order, where it is a single one.
    pub fn lane(&self) -> Option<String> {
        let mut cards = self.cards.clone();
        cards.sort_unstable();
        cards.dedup();
        match (cards.as_slice(), self.room, self.app) {
            ([card], ..) => Some(format!("card {card}")),
            ([], Some(room), _) => Some(format!("room {room}")),
            ([], None, Some(app)) => Some(format!("app {app}")),
            ([], None, None) => Some("everyone".into()),
            _ => None,
        }
    }
}

/// A change of a client's membership.
#[derive(Clone, Debug)]
pub struct Change {
    /// When the client had its command's answer.
    pub answered: u64,
    pub after: Membership,
}

/// What a client was a member of, and when.
#[derive(Clone, Debug, Default)]
pub struct History(Vec<Change>);

/// What a push owes a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owed {
    Once,
    Nothing,
    /// It was changing while the push was under way.
    Either,
}

impl History {
    pub fn now(&self) -> Membership {
        self.0.last().map_or_else(Membership::default, |change| change.after.clone())
    }

    pub fn push(&mut self, change: Change) {
        self.0.push(change);
    }

    /// What a push sent at `sent` owes this client: the gateway looks at one moment between then and the round's end, so at
    /// one of the memberships that may have held since.
    pub fn owed(&self, client: &str, target: &Target, sent: u64) -> Owed {
        let nothing = Membership::default();
        // a membership is over at the latest when the next command was answered
        let ends = self.0.iter().map(|change| change.answered).chain([u64::MAX]);
        let memberships = [&nothing].into_iter().chain(self.0.iter().map(|change| &change.after));
        let possible: Vec<_> =
            memberships.zip(ends).filter(|(_, end)| *end > sent).map(|(membership, _)| membership).collect();
        // each card has its own moment: who goes from one to another meanwhile may be missed by both, and is given it once
        // at the most all the same
        if target.parts().iter().any(|part| possible.iter().all(|member| part.names(client, member))) {
            Owed::Once
        } else if possible.iter().any(|member| target.names(client, member)) {
            Owed::Either
        } else {
            Owed::Nothing
        }
    }
}
