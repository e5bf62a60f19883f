//! A client's socket as its shard holds it.

use std::{cell::Cell, io, net::IpAddr};

use super::{session::Session, stream::Stream};
use crate::hub::Sink;

/// Where a client's bytes go, and what time knows of it.
pub(super) struct ClientSocket {
    pub(super) stream: Stream,
    pub(super) liveness: Liveness,
    /// `None`: nobody has to prove who he is.
    pub(super) session: Option<Box<Session>>,
}

/// What a connection keeps for its [`Heartbeat`](super::heartbeat::Heartbeat), which alone changes it; in ticks.
#[derive(Default)]
pub(super) struct Liveness {
    pub(super) opened: Cell<u32>,
    pub(super) last_read: Cell<u32>,
    pub(super) last_ping: Cell<u32>,
    /// How many Pings it was sent, as far as that can be counted.
    pub(super) pings: Cell<u8>,
    /// The tick of its one valid entry in the wheel.
    pub(super) due: Cell<u32>,
    /// Its close may take until then, or before that a message that began; 0: none did.
    pub(super) done_by: Cell<u32>,
    /// It joined once, or needs no card: no join is waited for.
    pub(super) joined: Cell<bool>,
    pub(super) closing: Cell<bool>,
    /// Its close took too long: it must be dropped.
    pub(super) cut: Cell<bool>,
}

impl ClientSocket {
    pub(super) fn new(stream: Stream, session: Option<Box<Session>>) -> Self {
        Self { stream, liveness: Liveness::default(), session }
    }
}

impl Sink for ClientSocket {
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.try_write(bytes)
    }

    fn address(&self) -> Option<IpAddr> {
        self.session.as_ref().map(|session| session.address).or_else(|| self.stream.peer())
    }

    fn is_subject(&self, subject: &str) -> bool {
        self.session.as_ref().is_some_and(|session| session.is_subject(subject))
    }

    fn is_subject_of_before(&self, subject: &str, at: u64) -> bool {
        self.session.as_ref().is_some_and(|session| session.is_subject_of_before(subject, at))
    }
}
