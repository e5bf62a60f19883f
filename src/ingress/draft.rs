//! A push as its caller wrote it.

use bytestring::ByteString;

use super::refusal::Refusal;
use crate::{
    proto::rpc::PushRequest,
    push::{Push, PushId, Target},
};

/// Options of the design that are not built yet: refused by name, never ignored.
pub(super) const NOT_BUILT: [&str; 6] = ["offline", "ttl", "deliver_at", "room", "everyone", "idempotency_key"];

/// A push that is not checked yet and has no id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)] // the API's own fields
pub(crate) struct Draft {
    pub from: ByteString,
    pub to: Vec<ByteString>,
    pub app: ByteString,
    pub content: ByteString,
    pub collapse_key: ByteString,
}

impl Draft {
    /// What a gRPC caller or another NSQ client wrote.
    pub(super) fn of(request: PushRequest) -> Result<Self, Refusal> {
        let PushRequest { from, to, app_id, content, collapse_key, .. } = request;
        let given = [
            request.offline,
            request.ttl != 0,
            request.deliver_at != 0,
            !request.room.is_empty(),
            request.everyone,
            !request.idempotency_key.is_empty(),
        ];
        if let Some((option, _)) = NOT_BUILT.into_iter().zip(given).find(|(_, given)| *given) {
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

    /// The push that it asks for; an empty app or collapse key is none.
    pub(super) fn with(self, id: PushId) -> Push {
        let Self { from, to, app, content, collapse_key } = self;
        Push {
            id,
            from,
            target: Target { app: (!app.is_empty()).then_some(app), ..Target::cards(to) },
            content,
            collapse_key: (!collapse_key.is_empty()).then_some(collapse_key),
        }
    }
}
