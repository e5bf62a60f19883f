//! The domain: a push, whom it is for, and its id. No I/O.

mod id;
mod name;

use bytestring::ByteString;

pub use id::PushId;
pub use name::{Name, NameError};

/// One accepted request to deliver content to a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Push {
    /// Tells copies of one push from other pushes.
    pub id: PushId,
    /// Who pushes, as the back end says it; may be empty.
    pub from: ByteString,
    /// Whom it is for.
    pub target: Target,
    /// What is delivered, byte for byte.
    pub content: ByteString,
    /// With the outbox policy `conflate` a waiting push of the same key is replaced.
    pub collapse_key: Option<ByteString>,
}

/// Whom a push is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Cards, each once, at least one.
    pub cards: Vec<ByteString>,
    /// Only connections that joined as this app; `None`: of all apps.
    pub app: Option<ByteString>,
}
