//! Who is in a room on the other nodes: asked once for all clients that come into the room within a moment.

use std::sync::Arc;

use bytestring::ByteString;
use futures_util::FutureExt;

use super::Peers;
use crate::{
    proto::peers::{PresenceAnswer, PresenceQuestion, answer::Answer, question::Question},
    push::NameSample,
};

/// The cards in a room on the other nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OthersPresent {
    /// Some of them, all where they are few; one that is on several nodes may stand there several times.
    pub cards: Vec<ByteString>,
    /// How many there are, node by node.
    pub samples: Vec<NameSample>,
    /// The ids of the nodes that did not answer in time.
    pub missing: Vec<Arc<str>>,
}

impl Peers {
    /// The cards in `room` on the other nodes, as they were within the last `[peers] presence_cache`.
    pub async fn present(&self, room: &ByteString) -> Arc<OthersPresent> {
        let ask = || {
            let (peers, room) = (self.clone(), room.clone());
            async move { Arc::new(peers.ask_present(room).await) }.boxed()
        };
        self.core.presence.get_or(room, ask).await
    }

    async fn ask_present(&self, room: ByteString) -> OthersPresent {
        let take = |answer| match answer {
            Answer::Presence(presence) => Some(presence),
            _ => None,
        };
        let gathered = self.ask(Question::Presence(PresenceQuestion { room: room.into() }), take).await;
        let mut present = OthersPresent { missing: gathered.missing, ..OthersPresent::default() };
        for (_, PresenceAnswer { cards, sample }) in gathered.answers {
            present.cards.extend(cards.into_iter().map(ByteString::from));
            present.samples.extend(sample.map(|sample| NameSample::from_parts(sample.hashes, sample.whole)));
        }
        present
    }
}
