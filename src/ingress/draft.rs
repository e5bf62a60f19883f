//! A push as its caller wrote it.

use bytes::Bytes;
use bytestring::ByteString;
use prost::Message;

use super::refusal::{Kind, Refusal};
use crate::proto::rpc::PushRequest;

/// Not checked yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)] // the API's own fields
pub struct Draft {
    pub from: ByteString,
    pub to: Vec<ByteString>,
    pub app: ByteString,
    pub content: ByteString,
    pub collapse_key: ByteString,
}

impl Draft {
    /// Reads a raw push: an encoded `PushRequest`.
    ///
    /// # Errors
    /// It is none, or it asks for what is not built.
    pub fn decode(raw: Bytes) -> Result<Self, Refusal> {
        let push = PushRequest::decode(raw);
        push.map_err(|error| Refusal::new(Kind::BadField, format!("it is not a protobuf PushRequest: {error}")))?
            .try_into()
    }
}

impl TryFrom<PushRequest> for Draft {
    type Error = Refusal;

    /// Refuses options that are not built yet by their name.
    fn try_from(push: PushRequest) -> Result<Self, Refusal> {
        let PushRequest { from, to, app_id, content, collapse_key, .. } = push;
        let not_built = [
            ("offline", push.offline),
            ("ttl", push.ttl != 0),
            ("deliver_at", push.deliver_at != 0),
            ("room", !push.room.is_empty()),
            ("everyone", push.everyone),
            ("idempotency_key", !push.idempotency_key.is_empty()),
        ];
        if let Some((option, _)) = not_built.into_iter().find(|(_, set)| *set) {
            return Err(Refusal::not_built(option));
        }
        Ok(Self {
            from: from.into(),
            to: to.into_iter().map(ByteString::from).collect(),
            app: app_id.into(),
            content: content.into(),
            collapse_key: collapse_key.into(),
        })
    }
}
