//! How a client's messages go on, and what comes of what it waits for.

use std::{sync::Arc, time::Duration};

use bytestring::ByteString;

use super::stream_place::{AttachOutcome, StreamPlace};
use crate::{
    cluster::{Announcement, OthersPresent},
    push::{PushId, Resume},
    socket::join::JoinDecision,
    wire::dialect::{ClientError, JoinRequest},
};

/// How a client's last message goes on.
pub(super) enum NextStep {
    /// A join, or a new token, is decided.
    Decided(JoinDecision),
    /// Where it begins in the card's stream is looked up.
    EnterCard(CardEntry, Option<AttachOutcome>),
    /// The same of a room, and who is there on the other nodes.
    EnterRoom(RoomEntry, Option<AttachOutcome>),
}

/// A client that may have a card, on its way into it.
pub(super) struct CardEntry {
    pub(super) request: JoinRequest,
    pub(super) answer: CardAnswer,
    /// `None`: there is no directory.
    pub(super) announcement: Option<Announcement>,
}

/// What it is told then.
pub(super) enum CardAnswer {
    Joined {
        /// Its token does, if it has one that does.
        expires_in: Option<Duration>,
    },
    LoggedIn,
}

/// A client that may have a room, on its way into it.
pub(super) struct RoomEntry {
    pub(super) room: ByteString,
    pub(super) resume: Option<Resume>,
    /// Who is there on the other nodes; `None`: nobody is asked.
    pub(super) others: Option<Arc<OthersPresent>>,
    /// `None`: there is no directory.
    pub(super) announcement: Option<Announcement>,
}

/// What became of a push or a message of a client.
pub(super) enum Answer {
    Pushed(PushId, Option<bytestring::ByteString>),
    Received(PushId, Option<bytestring::ByteString>),
    Refused(ClientError),
    /// Where it begins in a stream, which could not be told as it came into its card or room.
    Attached(StreamPlace, AttachOutcome),
}
