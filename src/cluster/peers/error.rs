//! Why a node's answer is missing.

use std::error::Error as _;

use tonic::{Code, Status};

use crate::telemetry::labels::PeerOutcome;

/// Nodes cannot be asked as `[peers]` says.
#[derive(Debug, thiserror::Error)]
#[error(
    "[peers] tls_ca, tls_cert and tls_key: {0}: give the certificates and the key in PEM that the other nodes have, too"
)]
pub struct PeersConfigError(String);

impl PeersConfigError {
    /// What is wrong.
    pub fn new(what: String) -> Self {
        Self(what)
    }
}

/// Why a node has not answered.
#[derive(Debug, thiserror::Error)]
pub(super) enum PeerError {
    /// It is not to be asked, or older than this program.
    #[error("it says no address where it can be asked: set [peers] listen there, too")]
    NoAddress,
    /// Too many questions wait for it.
    #[error("[peers] max_questions wait for its answers already")]
    Busy,
    /// Its time is over.
    #[error("it has not answered within [peers] timeout")]
    Late,
    /// It cannot be connected to.
    #[error("it cannot be reached: {0}")]
    Away(String),
    /// It does not take this node for one of its cluster.
    #[error("it refuses this node: {0}")]
    Refused(String),
    /// It does not answer now.
    #[error("it does not answer now: {0}")]
    Unready(String),
    /// It is another node than the one that is registered.
    #[error("it says that it is {0:?}: is its address in etcd, or its [node] id, another node's?")]
    WrongId(String),
    /// Its answer is larger than `[peers] max_answer`.
    #[error("its answer is larger than [peers] max_answer: {0}")]
    TooLarge(String),
    /// What it answered is none that the question has, or it does not know the question.
    #[error("its answer is none that the question has: is it of another version?")]
    OtherQuestion,
    /// Anything else.
    #[error("{0}")]
    Failed(String),
}

impl PeerError {
    /// From what tonic says of a call.
    pub(super) fn of(status: &Status) -> Self {
        let message = told(status);
        match status.code() {
            Code::Unauthenticated | Code::PermissionDenied => Self::Refused(message),
            Code::OutOfRange => Self::TooLarge(message),
            Code::Unimplemented => Self::OtherQuestion,
            Code::DeadlineExceeded => Self::Late,
            _ if is_of_connection(status) => Self::Away(message),
            Code::Unavailable => Self::Unready(message),
            _ => Self::Failed(message),
        }
    }

    /// As it is counted.
    pub(super) fn outcome(&self) -> PeerOutcome {
        match self {
            Self::NoAddress => PeerOutcome::NoAddress,
            Self::Busy => PeerOutcome::Busy,
            Self::Late => PeerOutcome::Late,
            Self::Away(_) => PeerOutcome::Away,
            Self::Refused(_) => PeerOutcome::Refused,
            Self::Unready(_) => PeerOutcome::Unready,
            Self::WrongId(_) => PeerOutcome::WrongId,
            Self::TooLarge(_) => PeerOutcome::TooLarge,
            Self::OtherQuestion => PeerOutcome::OtherQuestion,
            Self::Failed(_) => PeerOutcome::Failed,
        }
    }
}

/// The connection failed, not the call: the other side did not say this status.
pub(super) fn is_of_connection(status: &Status) -> bool {
    status.source().is_some()
}

/// With the causes that tonic keeps behind it.
fn told(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut cause = status.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}
