//! Parcels that follow each other to the same connections: a burst to a room.

use std::{iter, rc::Rc};

use super::{Item, Limits, Parcel, outbox::GATHER, post::Found};
use crate::{bundles::Bundles, config::Policy, push::Target, wire::dialect::Dialect};

/// Parcels in one run, beside the bound in bytes.
const PARCELS: usize = 64;
/// What a frame has beside its content, about.
const ENVELOPE: usize = 128;

/// A parcel, and those behind it for the same connections: each of these is offered all frames at once.
pub struct Run {
    first: Parcel,
    rest: Vec<Parcel>,
}

impl From<Parcel> for Run {
    fn from(first: Parcel) -> Self {
        Self { first, rest: Vec::new() }
    }
}

impl Run {
    /// The next one that waits. Only with the policy `disconnect`: the others choose among single pushes.
    pub(super) fn next(inbox: &mut Bundles<Parcel>, limits: &Limits) -> Option<Self> {
        let mut run = Self::from(inbox.try_next()?);
        if limits.policy == Policy::Disconnect {
            let most = GATHER.min(limits.max_bytes);
            let mut bytes = ENVELOPE + run.first.post().push().content.len();
            while run.rest.len() + 1 < PARCELS
                && let Some(next) = inbox.next_if(|next| {
                    bytes += ENVELOPE + next.post().push().content.len();
                    bytes <= most && next.is_for_those_of(&run.first)
                })
            {
                run.rest.push(next);
            }
        }
        Some(run)
    }

    /// How many parcels.
    pub(super) fn len(&self) -> u64 {
        1 + self.rest.len() as u64
    }

    /// Whom all of it is for.
    pub(super) fn target(&self) -> &Target {
        &self.first.post().push().target
    }

    /// The cards that it names.
    pub(super) fn cards(&self) -> impl Iterator<Item = &str> {
        let (push, cards) = (self.first.post().push(), self.first.cards());
        (0..cards.count(push)).map(|nth| &*push.target.cards[cards.place(nth)])
    }

    /// What a connection that speaks `dialect` is offered.
    pub(super) fn item(&self, dialect: Dialect) -> Rc<Item> {
        let (first, push) = (self.first.post().frame(dialect), self.first.post().push());
        match self.rest.is_empty() {
            true => Item::push(first, push.collapse_key.clone()),
            false => Item::pushes(self.parcels().map(|parcel| parcel.post().frame(dialect))),
        }
    }

    /// It was offered to all that were found for it.
    pub(super) fn done(self, found: Found) {
        self.parcels().for_each(|parcel| parcel.post().taken(found));
        iter::once(self.first).chain(self.rest).for_each(Parcel::done);
    }

    fn parcels(&self) -> impl Iterator<Item = &Parcel> + Clone {
        iter::once(&self.first).chain(&self.rest)
    }
}
