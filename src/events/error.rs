//! Why a client's message was not taken.

use crate::queue::PublishError;

/// Why a client's message was not taken; its text is for the client.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EventError {
    /// Nobody reads messages here.
    #[error("no back end takes messages here ([events] kinds)")]
    Unsupported,
    /// Too much waits for the back end: the client may try again later.
    #[error("{0}")]
    Busy(&'static str),
    /// It will never be taken.
    #[error("the message is {bytes} bytes long as an event; at most {limit} are taken")]
    TooLarge {
        /// As an event.
        bytes: usize,
        /// What is taken.
        limit: usize,
    },
    /// The journal or nsqd is away: it may arrive all the same.
    #[error("messages cannot be kept now: {0}")]
    Unavailable(String),
    /// Nobody said in time that it is durable: it may be all the same.
    #[error("the message was not acknowledged in time; it may still arrive")]
    TimedOut,
}

impl From<PublishError> for EventError {
    fn from(error: PublishError) -> Self {
        match error {
            PublishError::Full(_) => Self::Busy("too many messages wait for nsqd"),
            PublishError::TooLarge { bytes, limit } => Self::TooLarge { bytes, limit },
            PublishError::Unavailable(reason) => Self::Unavailable(reason),
            PublishError::TimedOut => Self::TimedOut,
        }
    }
}
