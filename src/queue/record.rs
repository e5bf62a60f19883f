//! A push as the queue carries it (proto/record.proto).

use bytes::Bytes;
use bytestring::ByteString;
use prost::Message;

use crate::{
    proto::record::Record,
    push::{Push, PushId, Target},
};

/// Encodes `push`.
pub fn encode(push: &Push) -> Bytes {
    let record = Record {
        from: push.from.as_bytes().clone(),
        to: push.target.cards.iter().map(|card| card.as_bytes().clone()).collect(),
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
    /// It names no card.
    #[error("it names no card")]
    NoTarget,
}

/// Decodes a record.
///
/// # Errors
/// [`RecordError`].
pub fn decode(record: Bytes) -> Result<Push, RecordError> {
    let record = Record::decode(record).map_err(|error| RecordError::NotProtobuf(error.to_string()))?;
    let id = <[u8; 16]>::try_from(record.id.as_ref()).map_err(|_| RecordError::BadId(record.id.len()))?;
    let id = PushId::from_bytes(id);
    let mut cards = Vec::with_capacity(record.to.len());
    for card in record.to {
        cards.push(text(card, "to")?);
    }
    if cards.is_empty() {
        return Err(RecordError::NoTarget);
    }
    let collapse_key = text(record.collapse_key, "collapse_key")?;
    let app = text(record.app_id, "appID")?;
    Ok(Push {
        id,
        from: text(record.from, "from")?,
        target: Target { cards, app: (!app.is_empty()).then_some(app) },
        content: text(record.content, "content")?,
        collapse_key: (!collapse_key.is_empty()).then_some(collapse_key),
    })
}

fn text(bytes: Bytes, field: &'static str) -> Result<ByteString, RecordError> {
    ByteString::try_from(bytes).map_err(|_| RecordError::NotUtf8(field))
}
