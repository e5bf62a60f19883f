//! Who is in a room on the other nodes: asked once for all clients that come into the room within a moment.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytestring::ByteString;
use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use tokio::time::Instant;

use super::Peers;
use crate::{
    config::PeersConfig,
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

type Asked = Shared<BoxFuture<'static, Arc<OthersPresent>>>;

/// What was asked within the last moment, by room.
pub(super) struct PresenceCache {
    rooms: Mutex<HashMap<ByteString, (Instant, Asked)>>,
    fresh: Duration,
    max_rooms: usize,
}

impl PresenceCache {
    pub(super) fn new(config: &PeersConfig) -> Self {
        Self { rooms: Mutex::default(), fresh: config.presence_cache, max_rooms: config.presence_rooms }
    }

    /// What was asked about a room a moment ago, or `ask`.
    fn get_or(&self, room: &ByteString, ask: impl FnOnce() -> Asked) -> Asked {
        let now = Instant::now();
        let mut rooms = self.rooms.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, asked)) = rooms.get(room)
            && now.duration_since(*at) < self.fresh
        {
            return asked.clone();
        }
        let asked = ask();
        if self.fresh.is_zero() {
            return asked;
        }
        if rooms.len() >= self.max_rooms {
            rooms.retain(|_, (at, _)| now.duration_since(*at) < self.fresh);
        }
        // of more rooms each client asks by itself
        if rooms.len() < self.max_rooms || rooms.contains_key(room) {
            rooms.insert(room.clone(), (now, asked.clone()));
        }
        asked
    }
}

impl Peers {
    /// The cards in `room` on the other nodes, as they were within the last `[peers] presence_cache`.
    pub async fn present(&self, room: &ByteString) -> Arc<OthersPresent> {
        let ask = || {
            let (peers, room) = (self.clone(), room.clone());
            async move { Arc::new(peers.ask_present(room).await) }.boxed().shared()
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn clients_that_come_together_ask_once_and_those_of_many_rooms_each_for_themselves() {
        let cache = PresenceCache { rooms: Mutex::default(), fresh: Duration::from_secs(1), max_rooms: 2 };
        let asked = AtomicU32::new(0);
        let ask = || {
            asked.fetch_add(1, Ordering::Relaxed);
            std::future::ready(Arc::new(OthersPresent::default())).boxed().shared()
        };
        let of = |room: &str| cache.get_or(&room.into(), ask).now_or_never().is_some();
        assert!(of("a") && of("a") && of("b") && of("a"));
        assert_eq!(asked.load(Ordering::Relaxed), 2);
        assert!(of("c") && of("c"), "there is no room for it");
        assert_eq!(asked.load(Ordering::Relaxed), 4);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(of("c") && of("c") && of("a"));
        assert_eq!(asked.load(Ordering::Relaxed), 6);
        assert_eq!(cache.rooms.lock().map(|rooms| rooms.len()).ok(), Some(2));
    }
}
