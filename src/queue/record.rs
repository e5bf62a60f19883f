//! A push as the queue carries it (proto/record.proto).

use bytes::Bytes;
use bytestring::ByteString;
use prost::Message;

use crate::{
    proto::record::Record,
    push::{Push, PushId, Selection, Target},
};

/// Encodes `push`.
pub fn encode(push: &Push) -> Bytes {
    let record = Record {
        from: push.from.as_bytes().clone(),
        to: push.target.cards.iter().map(|card| card.as_bytes().clone()).collect(),
        room: push.target.room.as_ref().map(|room| room.as_bytes().clone()).unwrap_or_default(),
        everyone: push.target.everyone,
        app_id: push.target.app.as_ref().map(|app| app.as_bytes().clone()).unwrap_or_default(),
        content: push.content.as_bytes().clone(),
        collapse_key: push.collapse_key.as_ref().map(|key| key.as_bytes().clone()).unwrap_or_default(),
        id: Bytes::copy_from_slice(&push.id.to_bytes()),
    };
    record.encode_to_vec().into()
}

/// Why a record cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// It is not protobuf.
    #[error("the record is not a protobuf Record: {0}")]
    NotProtobuf(String),
    /// A text is not UTF-8.
    #[error("{0} is not UTF-8")]
    NotUtf8(&'static str),
    /// Its id has another length than 16 bytes.
    #[error("the id has {0} bytes instead of 16")]
    BadId(usize),
    /// It names no card, no room and no app, and does not say everyone.
    #[error("it names nobody")]
    NoTarget,
}

/// Decodes a record.
///
/// # Errors
/// [`RecordError`].
pub fn decode(record: Bytes) -> Result<Push, RecordError> {
    let record = Record::decode(record).map_err(|error| RecordError::NotProtobuf(error.to_string()))?;
    let id = <[u8; 16]>::try_from(record.id.as_ref()).map_err(|_| RecordError::BadId(record.id.len()))?;
    let mut cards = Vec::with_capacity(record.to.len());
    for card in record.to {
        cards.push(text(card, "to")?);
    }
    let target = Target {
        cards,
        room: optional(record.room, "room")?,
        app: optional(record.app_id, "appID")?,
        everyone: record.everyone,
    };
    if target.selection() == Selection::Nobody {
        return Err(RecordError::NoTarget);
    }
    Ok(Push {
        id: PushId::from_bytes(id),
        from: text(record.from, "from")?,
        target,
        content: text(record.content, "content")?,
        collapse_key: optional(record.collapse_key, "collapse_key")?,
    })
}

/// An empty one is none.
fn optional(bytes: Bytes, field: &'static str) -> Result<Option<ByteString>, RecordError> {
    let text = text(bytes, field)?;
    Ok((!text.is_empty()).then_some(text))
}

fn text(bytes: Bytes, field: &'static str) -> Result<ByteString, RecordError> {
    ByteString::try_from(bytes).map_err(|_| RecordError::NotUtf8(field))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_target_is_read_as_it_was_written_and_nobody_is_refused() {
        let cards = Target::cards(vec!["a".into(), "b".into()]);
        for target in [
            cards.clone(),
            Target { room: Some("r".into()), app: Some("web".into()), ..cards },
            Target { room: Some("r".into()), ..Target::default() },
            Target { app: Some("web".into()), ..Target::default() },
            Target { everyone: true, ..Target::default() },
        ] {
            let push = Push { target, ..Push::to("a", "content") };
            assert_eq!(decode(encode(&push)).unwrap(), push);
        }
        let nobody = Push { target: Target::default(), ..Push::to("a", "content") };
        assert_eq!(decode(encode(&nobody)), Err(RecordError::NoTarget));
    }
}
