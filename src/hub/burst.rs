//! Parts that follow each other to the same clients: a burst to a room.

use std::{iter, rc::Rc, sync::Arc};

use super::{
    Audience, ClientLookup, DisconnectPart, Item, Limits, Part, Recipients, StreamAnswer, Work, fanout::FoundClients,
    outbox::GATHER, writer::OfferCounts,
};
use crate::{
    bundles::Bundles,
    config::Policy,
    push::{Push, PushId, Target},
    telemetry::{Metrics, labels::DropReason},
    wire::dialect::{Dialect, PresenceChange},
};

/// Parts in one burst, beside the bound in bytes.
const MAX_PARTS: usize = 64;
/// What a frame has beside its content, about.
const ENVELOPE: usize = 128;

/// A part, and those behind it for the same clients: each of these is offered all frames at once.
pub struct Burst {
    first: Part,
    rest: Vec<Part>,
}

/// What a shard finds in its inbox.
pub(super) enum NextWork {
    Burst(Burst),
    Disconnect(DisconnectPart),
    Presence(Arc<PresenceChange>),
    Lookup(ClientLookup),
    Stream(StreamAnswer),
}

impl From<Part> for Burst {
    fn from(first: Part) -> Self {
        Self { first, rest: Vec::new() }
    }
}

impl NextWork {
    /// What waits next in `inbox`.
    pub(super) fn take(inbox: &mut Bundles<Work>, limits: &Limits) -> Option<Self> {
        Some(match inbox.try_next()? {
            Work::Part(first) => Self::Burst(Burst::begin(first, inbox, limits)),
            Work::Disconnect(part) => Self::Disconnect(part),
            Work::Presence(change) => Self::Presence(change),
            Work::Lookup(lookup) => Self::Lookup(lookup),
            Work::Stream(answer) => Self::Stream(answer),
        })
    }
}

impl Burst {
    /// `first`, and what waits behind it for the same clients. Only with the policy `disconnect`: the others choose among single
    /// pushes.
    fn begin(first: Part, inbox: &mut Bundles<Work>, limits: &Limits) -> Self {
        let mut burst = Self::from(first);
        if limits.policy == Policy::Disconnect {
            let most = GATHER.min(limits.max_bytes);
            let mut bytes = size(&burst.first);
            while burst.rest.len() + 1 < MAX_PARTS
                && let Some(Work::Part(next)) = inbox.next_if(|next| {
                    let Work::Part(next) = next else { return false };
                    bytes += size(next);
                    bytes <= most && next.is_for_those_of(&burst.first)
                })
            {
                burst.rest.push(next);
            }
        }
        burst
    }

    /// How many pushes.
    pub(super) fn len(&self) -> u64 {
        self.parts().map(|part| part.fanout().push_count() as u64).sum()
    }

    /// It is a push of streams, by itself.
    pub(super) fn is_stored(&self) -> bool {
        self.first.fanout().is_stored()
    }

    /// Its end has come. What has one is by itself.
    pub(super) fn is_expired(&self, now: u64) -> bool {
        self.first.fanout().push().is_expired(now)
    }

    /// The pushes of it that are sampled.
    pub(super) fn sampled(&self) -> impl Iterator<Item = PushId> {
        self.parts().flat_map(|part| part.fanout().pushes()).map(|push| push.id).filter(|id| id.is_sampled())
    }

    /// Its parts, in order.
    pub(super) fn into_parts(self) -> impl Iterator<Item = Part> {
        iter::once(self.first).chain(self.rest)
    }

    /// Which clients all of it is for.
    pub(super) fn audience(&self) -> Audience {
        self.first.audience()
    }

    /// Whose filters hold for all of it.
    pub(super) fn target(&self) -> &Target {
        &self.first.fanout().push().target
    }

    /// Whose clients all of it is for.
    pub(super) fn recipients(&self) -> &Recipients {
        self.first.recipients()
    }

    /// What a client that speaks `dialect` is offered.
    pub(super) fn item(&self, dialect: Dialect) -> Rc<Item> {
        let first = self.first.fanout();
        if self.rest.is_empty() && first.push_count() == 1 {
            let push = first.push();
            return Item::push(first.frame(dialect), push.collapse_key.clone(), push.deadline);
        }
        if self.is_merged() {
            // each is encoded for all shards, whatever it leaves together with
            return Item::frames(self.parts().map(|part| (part.fanout().frame(dialect), part.fanout().push_count())));
        }
        // of other dialects some clients may take no frames of several
        let packed = dialect.merges().then(|| dialect.pushes(self.parts().map(|part| part.fanout().push()))).flatten();
        match packed {
            Some(frame) => Item::packed(&frame, self.parts().count()),
            None => Item::frames(self.parts().map(|part| (part.fanout().frame(dialect), 1))),
        }
    }

    fn is_merged(&self) -> bool {
        self.parts().any(|part| part.fanout().push_count() > 1)
    }

    /// Tells each push's way: this burst made so many offers, `apart` for each of its parts or for all of them together.
    /// `now`: when the turn began, in ms since 1970.
    pub(super) fn trace(&self, counts: OfferCounts, apart: bool, now: u64, metrics: &Metrics) {
        let OfferCounts { offers, slow, gone } = counts;
        let pushes = self.len();
        let clients = if apart { offers / (1 + self.rest.len() as u64) } else { offers };
        let slow = slow / pushes;
        let offered = clients.saturating_sub(slow + gone / pushes);
        for push in self.pushes() {
            tracing::trace!(id = %push.id, clients, "a push is offered to clients of this shard");
            metrics.traces.offered(push.id, offered, slow, now);
        }
    }

    /// Tells that its end had come before it could be offered.
    pub(super) fn trace_expired(&self, metrics: &Metrics) {
        self.pushes().for_each(|push| metrics.traces.dropped(push.id, DropReason::Expired, 1));
    }

    fn pushes(&self) -> impl Iterator<Item = &Push> {
        self.parts().flat_map(|part| part.fanout().pushes())
    }

    /// It was offered to all clients that were found for it.
    pub(super) fn done(self, mut found: FoundClients) {
        // those that merge get it too
        found.any |= self.audience() == Audience::NotMerging;
        self.parts().for_each(|part| part.fanout().part_offered(&found));
        iter::once(self.first).chain(self.rest).for_each(Part::done);
    }

    pub(super) fn parts(&self) -> impl Iterator<Item = &Part> + Clone {
        iter::once(&self.first).chain(&self.rest)
    }
}

/// What a part's frames have, about.
fn size(part: &Part) -> usize {
    part.fanout().pushes().map(|push| ENVELOPE + push.content.len()).sum()
}
