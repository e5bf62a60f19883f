//! `[rooms]`: which rooms a client may have, and which it may push to.

use crate::{auth::Patterns, auth::identity::Identity, config};

/// The rules of rooms, for all clients of a worker.
pub(super) struct RoomRules {
    /// Rooms that one client may be in.
    pub(super) max_rooms: usize,
    private: Patterns,
    client_push: Patterns,
}

impl RoomRules {
    pub(super) fn new(config: &config::RoomsConfig) -> Self {
        Self {
            max_rooms: config.max_rooms,
            private: Patterns::from_iter(&config.private),
            client_push: Patterns::from_iter(&config.client_push),
        }
    }

    /// Whether a client that proved to be `identity`, or nothing, may be in `room`.
    pub(super) fn admit(&self, room: &str, identity: Option<&Identity>) -> bool {
        !self.private.admits(room) || identity.is_some_and(|identity| identity.rooms.admits(room))
    }

    /// Whether whoever is in `room` may push to it.
    pub(super) fn lets_clients_push(&self, room: &str) -> bool {
        self.client_push.admits(room)
    }
}
