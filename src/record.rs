//! What the queue carries (proto/record.proto): pushes, and orders to end clients.

mod peek;
mod presence;

use bytes::Bytes;
use bytestring::ByteString;
use prost::Message;

use crate::{
    proto::record as message,
    push::{
        ClientSelector, Content, Disconnect, Epoch, Exclude, Push, PushId, Rebalance, Selection, StoredPush,
        StreamEntry, Target,
    },
};

pub use peek::{PeekedCards, PeekedSelection, RecordPeek, peek};
pub use presence::{PresenceNotice, encode_presence};

/// What a record is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "nearly all are pushes, and each is taken apart at once")]
pub enum Record {
    /// A push.
    Push(Push),
    /// A push that the store has, on its way to the clients that are there.
    Stored(Box<StoredPush>),
    /// An order to end clients.
    Disconnect(Box<Disconnect>),
    /// An order to a node to send clients away.
    Rebalance(Box<Rebalance>),
    /// A change of who is in a room, on its way to the clients of the room.
    Presence(Box<PresenceNotice>),
}

impl Record {
    /// The id of what it is.
    pub fn id(&self) -> PushId {
        match self {
            Self::Push(push) => push.id,
            Self::Stored(stored) => stored.push.id,
            Self::Disconnect(order) => order.id,
            Self::Rebalance(order) => order.id,
            Self::Presence(notice) => notice.id,
        }
    }
}

/// `content_kind` of a text, of JSON, and of bytes.
const TEXT: u32 = 0;
const JSON: u32 = 1;
const BINARY: u32 = 2;

/// Encodes `push`.
pub fn encode(push: &Push) -> Bytes {
    message_of(push, &[]).encode_to_vec().into()
}

/// Encodes `push` for the nodes that hold its clients; `hops`: how often it was sent from node to node, this time counted.
/// `sent_on`: a number that tells it from what it was sent on from; 0: it is sent for the first time.
pub fn encode_routed(push: &Push, hops: u32, sent_on: u64) -> Bytes {
    let record = message::Record { hops, sent_on, ..message_of(push, &[]) };
    record.encode_to_vec().into()
}

/// The id of a live push, found where [`encode`] and [`encode_routed`] put it: at the record's end. `None`: it is another record, or one that stands
/// elsewhere wrote it.
pub fn id_at_end(record: &[u8]) -> Option<PushId> {
    // of one for single nodes: the field `hops`
    let record = record.strip_suffix(&[0x88, 0x01, 1]).unwrap_or(record);
    // of the field `id`: its tag, and its length
    let (rest, id) = record.split_last_chunk::<16>()?;
    rest.ends_with(&[0x7a, 16]).then(|| PushId::from_bytes(*id))
}

/// Encodes a push that the store has.
pub fn encode_stored(stored: &StoredPush) -> Bytes {
    message_of(&stored.push, &stored.entries).encode_to_vec().into()
}

fn message_of(push: &Push, entries: &[StreamEntry]) -> message::Record {
    let exclude = push.target.exclude.as_deref();
    let entry = |entry: &StreamEntry| message::StreamEntry {
        epoch: entry.epoch.to_u32(),
        seq: entry.seq,
        previous: entry.previous,
        previous_id: match entry.previous {
            0 => Bytes::new(),
            _ => Bytes::copy_from_slice(&entry.previous_id.to_bytes()),
        },
    };
    message::Record {
        from: push.from.as_bytes().clone(),
        to: bytes_of(&push.target.cards),
        room: push.target.room.as_ref().map(|room| room.as_bytes().clone()).unwrap_or_default(),
        everyone: push.target.everyone,
        app_id: push.target.app.as_ref().map(|app| app.as_bytes().clone()).unwrap_or_default(),
        content: push.content.bytes().clone(),
        content_kind: match push.content {
            Content::Text(_) => TEXT,
            Content::Json(_) => JSON,
            Content::Binary(_) => BINARY,
        },
        exclude_cards: exclude.map_or_else(Vec::new, |exclude| bytes_of(&exclude.cards)),
        exclude_client: exclude
            .and_then(|exclude| exclude.client)
            .map_or_else(Bytes::new, |client| Bytes::copy_from_slice(&client)),
        collapse_key: push.collapse_key.as_ref().map(|key| key.as_bytes().clone()).unwrap_or_default(),
        deadline: push.deadline.unwrap_or_default(),
        disconnect: None,
        id: Bytes::copy_from_slice(&push.id.to_bytes()),
        streams: entries.iter().map(entry).collect(),
        hops: 0,
        sent_on: 0,
        rebalance: None,
        presence: None,
    }
}

fn bytes_of(names: &[ByteString]) -> Vec<Bytes> {
    names.iter().map(|name| name.as_bytes().clone()).collect()
}

/// Encodes `disconnect`. A version that does not know such records finds that it names nobody, and drops it.
pub fn encode_disconnect(disconnect: &Disconnect) -> Bytes {
    let mut order = message::Disconnect {
        code: disconnect.code.into(),
        reason: disconnect.reason.as_ref().map(|reason| reason.as_bytes().clone()).unwrap_or_default(),
        revoke: disconnect.revoke,
        at: disconnect.at,
        ..Default::default()
    };
    match &disconnect.selector {
        ClientSelector::Card(card) => order.card = card.as_bytes().clone(),
        ClientSelector::App(app) => order.app = app.as_bytes().clone(),
        ClientSelector::Client(id) => order.client = Bytes::copy_from_slice(id),
        ClientSelector::Subject(subject) => order.subject = subject.as_bytes().clone(),
    }
    let record = message::Record {
        disconnect: Some(Box::new(order)),
        id: Bytes::copy_from_slice(&disconnect.id.to_bytes()),
        ..Default::default()
    };
    record.encode_to_vec().into()
}

/// Encodes `rebalance`. A version that does not know such records finds that it names nobody, and drops it.
pub fn encode_rebalance(rebalance: &Rebalance) -> Bytes {
    let order = message::Rebalance { node: rebalance.node.as_bytes().clone(), keep: rebalance.keep, at: rebalance.at };
    let record = message::Record {
        rebalance: Some(Box::new(order)),
        id: Bytes::copy_from_slice(&rebalance.id.to_bytes()),
        ..Default::default()
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
    /// It is a disconnect that names no clients, or names them in more than one way.
    #[error("the disconnect does not name exactly one of card, app, client and subject")]
    NoSelector,
    /// Its content is of a kind that this version does not know.
    #[error("its content is of the kind {0}, which this version does not know")]
    BadContentKind(u32),
    /// It is a disconnect with a number that is no close code.
    #[error("the disconnect's close code is {0}")]
    BadCode(u32),
    /// It is a stored push that does not have one place for each of its streams.
    #[error("it has {0} places in {1} streams")]
    BadPlaces(usize, usize),
}

/// Decodes a record.
///
/// # Errors
/// [`RecordError`].
pub fn decode(record: Bytes) -> Result<Record, RecordError> {
    let record = message::Record::decode(record).map_err(|error| RecordError::NotProtobuf(error.to_string()))?;
    let id = PushId::from_bytes(sixteen(&record.id)?);
    if let Some(order) = record.disconnect {
        return disconnect(id, *order).map(|order| Record::Disconnect(Box::new(order)));
    }
    if let Some(order) = record.rebalance {
        let message::Rebalance { node, keep, at } = *order;
        let order = Rebalance { id, node: text(node, "node")?, keep, at };
        return Ok(Record::Rebalance(Box::new(order)));
    }
    if let Some(notice) = record.presence {
        return presence::decoded(id, *notice).map(|notice| Record::Presence(Box::new(notice)));
    }
    let target = Target {
        cards: texts(record.to, "to")?,
        room: optional(record.room, "room")?,
        app: optional(record.app_id, "appID")?,
        everyone: record.everyone,
        exclude: exclude(record.exclude_cards, &record.exclude_client)?,
    };
    if target.selection() == Selection::Nobody {
        return Err(RecordError::NoTarget);
    }
    let push = Push {
        id,
        from: text(record.from, "from")?,
        target,
        content: content(record.content, record.content_kind)?,
        collapse_key: optional(record.collapse_key, "collapse_key")?,
        deadline: Some(record.deadline).filter(|deadline| *deadline > 0),
    };
    if record.streams.is_empty() {
        return Ok(Record::Push(push));
    }
    let entries = record.streams.iter().map(entry).collect::<Result<Vec<_>, _>>()?;
    let streams = match push.target.selection() {
        Selection::Cards(cards) => cards.len(),
        Selection::Room(_) => 1,
        _ => 0,
    };
    if entries.len() != streams {
        return Err(RecordError::BadPlaces(entries.len(), streams));
    }
    Ok(Record::Stored(Box::new(StoredPush { push, entries })))
}

fn entry(entry: &message::StreamEntry) -> Result<StreamEntry, RecordError> {
    let previous_id = match entry.previous {
        0 => PushId::NIL,
        _ => PushId::from_bytes(sixteen(&entry.previous_id)?),
    };
    let message::StreamEntry { epoch, seq, previous, .. } = *entry;
    Ok(StreamEntry { epoch: Epoch::from_u32(epoch), seq, previous, previous_id })
}

fn disconnect(id: PushId, order: message::Disconnect) -> Result<Disconnect, RecordError> {
    let client = if order.client.is_empty() { None } else { Some(sixteen(&order.client)?) };
    let named = [
        optional(order.card, "card")?.map(ClientSelector::Card),
        optional(order.app, "app")?.map(ClientSelector::App),
        client.map(ClientSelector::Client),
        optional(order.subject, "subject")?.map(ClientSelector::Subject),
    ];
    let mut named = named.into_iter().flatten();
    let (Some(selector), None) = (named.next(), named.next()) else { return Err(RecordError::NoSelector) };
    let code = u16::try_from(order.code).map_err(|_| RecordError::BadCode(order.code))?;
    Ok(Disconnect { id, selector, code, reason: optional(order.reason, "reason")?, revoke: order.revoke, at: order.at })
}

fn exclude(cards: Vec<Bytes>, client: &[u8]) -> Result<Option<Box<Exclude>>, RecordError> {
    if cards.is_empty() && client.is_empty() {
        return Ok(None);
    }
    let client = if client.is_empty() { None } else { Some(sixteen(client)?) };
    Ok(Some(Box::new(Exclude { cards: texts(cards, "exclude_cards")?, client })))
}

fn content(bytes: Bytes, kind: u32) -> Result<Content, RecordError> {
    match kind {
        TEXT => text(bytes, "content").map(Content::Text),
        JSON => text(bytes, "content").map(Content::Json),
        BINARY => Ok(Content::Binary(bytes)),
        kind => Err(RecordError::BadContentKind(kind)),
    }
}

fn texts(all: Vec<Bytes>, field: &'static str) -> Result<Vec<ByteString>, RecordError> {
    all.into_iter().map(|bytes| text(bytes, field)).collect()
}

fn sixteen(id: &[u8]) -> Result<[u8; 16], RecordError> {
    id.try_into().map_err(|_| RecordError::BadId(id.len()))
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
            Target {
                everyone: true,
                exclude: Some(Box::new(Exclude { cards: vec!["a".into()], client: Some([7; 16]) })),
                ..Target::default()
            },
        ] {
            let push = Push { target, ..Push::to("a", "content") };
            assert_eq!(decode(encode(&push)), Ok(Record::Push(push)));
        }
        let nobody = Push { target: Target::default(), ..Push::to("a", "content") };
        assert_eq!(decode(encode(&nobody)), Err(RecordError::NoTarget));
    }

    #[test]
    fn the_id_of_a_live_push_is_found_at_its_end() {
        let push = Push { deadline: Some(1), collapse_key: Some("k".into()), ..Push::to("a", "content") };
        assert_eq!(id_at_end(&encode(&push)), Some(push.id));
        assert_eq!(id_at_end(&encode_routed(&push, 1, 0)), Some(push.id));
        assert_eq!(id_at_end(&encode_routed(&push, 2, 7)), None);
        assert_eq!(id_at_end(b""), None);
    }

    #[test]
    fn each_kind_of_content_is_read_as_it_was_written_and_an_unknown_one_is_refused() {
        for content in [Content::from("text"), Content::Json("{}".into()), Content::Binary(Bytes::from_static(b"\xff"))]
        {
            let push = Push { content, ..Push::to("a", "") };
            assert_eq!(decode(encode(&push)), Ok(Record::Push(push)));
        }
        let id = Bytes::copy_from_slice(&PushId::generate().to_bytes());
        let record = message::Record { everyone: true, content_kind: 3, id, ..Default::default() };
        assert_eq!(decode(record.encode_to_vec().into()), Err(RecordError::BadContentKind(3)));
    }

    #[test]
    fn a_stored_push_is_read_as_it_was_written_and_one_with_too_few_places_is_refused() {
        let entry = |seq, previous| StreamEntry {
            epoch: Epoch::from_u32(u32::MAX),
            seq,
            previous,
            previous_id: if previous == 0 { PushId::NIL } else { PushId::generate() },
        };
        let two = Push { target: Target::cards(vec!["a".into(), "b".into()]), ..Push::to("a", "content") };
        let room = Push { target: Target { room: Some("r".into()), ..Target::default() }, ..two.clone() };
        for stored in [
            StoredPush { push: two.clone(), entries: vec![entry(1, 0), entry(u64::MAX, 7)] },
            StoredPush { push: room, entries: vec![entry(2, 1)] },
        ] {
            let record = encode_stored(&stored);
            assert_eq!(peek(&record).map(|peek| (peek.is_stored, peek.hops)), Some((true, 0)));
            assert_eq!(decode(record), Ok(Record::Stored(Box::new(stored))));
        }
        let one = StoredPush { push: two, entries: vec![entry(1, 0)] };
        assert_eq!(decode(encode_stored(&one)), Err(RecordError::BadPlaces(1, 2)));
    }

    #[test]
    fn a_push_for_some_nodes_is_read_as_any_other_and_a_look_tells_its_hops() {
        let push = Push::to("a", "content");
        let record = encode_routed(&push, 3, u64::MAX);
        assert_eq!(peek(&record).map(|peek| (peek.hops, peek.sent_on)), Some((3, u64::MAX)));
        assert_eq!(decode(record), Ok(Record::Push(push)));
    }

    #[test]
    fn a_rebalance_is_read_as_it_was_written_and_no_look_takes_it_for_a_push() {
        let order = Rebalance { id: PushId::generate(), node: "gw-1".into(), keep: 7, at: 1_700_000_000_000 };
        let record = encode_rebalance(&order);
        assert_eq!(peek(&record), None);
        assert_eq!(decode(record), Ok(Record::Rebalance(Box::new(order))));
    }

    fn order(selector: ClientSelector) -> Disconnect {
        Disconnect {
            id: PushId::generate(),
            selector,
            code: 3007,
            reason: Some("moved".into()),
            revoke: true,
            at: 1_700_000_000_000,
        }
    }

    #[test]
    fn a_disconnect_is_read_as_it_was_written() {
        for selector in [
            ClientSelector::Card("alice".into()),
            ClientSelector::App("web".into()),
            ClientSelector::Client([7; 16]),
            ClientSelector::Subject("user-1".into()),
        ] {
            let order = order(selector);
            assert_eq!(decode(encode_disconnect(&order)), Ok(Record::Disconnect(Box::new(order))));
        }
    }

    #[test]
    fn a_disconnect_that_does_not_name_one_kind_of_clients_is_refused() {
        let alice = Bytes::from_static(b"alice");
        let read = |order: message::Disconnect| {
            let id = Bytes::copy_from_slice(&PushId::generate().to_bytes());
            decode(
                message::Record { disconnect: Some(Box::new(order)), id, ..Default::default() }.encode_to_vec().into(),
            )
        };
        let nobody = message::Disconnect { code: 3504, ..Default::default() };
        let two = message::Disconnect { card: alice.clone(), subject: alice.clone(), ..nobody.clone() };
        let client = message::Disconnect { client: alice.clone(), ..nobody.clone() };
        let code = message::Disconnect { card: alice, code: 70_000, ..nobody.clone() };
        assert_eq!(read(nobody), Err(RecordError::NoSelector));
        assert_eq!(read(two), Err(RecordError::NoSelector));
        assert_eq!(read(client), Err(RecordError::BadId(5)));
        assert_eq!(read(code), Err(RecordError::BadCode(70_000)));
    }

    /// The record of the version before, and its rule.
    #[test]
    fn a_version_that_does_not_know_disconnects_finds_that_they_name_nobody() {
        #[derive(Clone, PartialEq, Message)]
        struct RecordBefore {
            #[prost(bytes = "bytes", tag = "1")]
            from: Bytes,
            #[prost(bytes = "bytes", repeated, tag = "2")]
            to: Vec<Bytes>,
            #[prost(bytes = "bytes", tag = "3")]
            app_id: Bytes,
            #[prost(bytes = "bytes", tag = "4")]
            content: Bytes,
            #[prost(bytes = "bytes", tag = "5")]
            collapse_key: Bytes,
            #[prost(bytes = "bytes", tag = "6")]
            room: Bytes,
            #[prost(bool, tag = "7")]
            everyone: bool,
            #[prost(bytes = "bytes", tag = "15")]
            id: Bytes,
        }
        let order = order(ClientSelector::Card("alice".into()));
        let before = RecordBefore::decode(encode_disconnect(&order)).unwrap();
        let id = Bytes::copy_from_slice(&order.id.to_bytes());
        // no to, no room, no app, not everyone: RecordError::NoTarget
        assert_eq!(before, RecordBefore { id, ..Default::default() });
    }
}
