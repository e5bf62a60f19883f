//! A push that a client makes itself, on its way to whoever admits pushes.

use bytestring::ByteString;
use tokio::sync::oneshot;

use crate::{
    push::{Content, PushId, Target},
    wire::dialect::ClientError,
};

/// A client's own push. That it may push to this target was checked by its identity and the rooms' rules.
#[derive(Debug)]
pub struct ClientPush {
    /// The client's card; empty, if it has none.
    pub from: ByteString,
    /// Whom it is for.
    pub target: Target,
    /// What is delivered.
    pub content: Content,
    /// Told once the queue has it, or why it does not.
    pub answer: oneshot::Sender<Result<PushId, ClientError>>,
}
