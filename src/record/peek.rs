//! What of a record decides where it goes, found without decoding it.

use crate::push::PushId;

/// The fields of proto/record.proto that are looked at.
mod tag {
    pub(super) const TO: u64 = 2;
    pub(super) const APP: u64 = 3;
    pub(super) const COLLAPSE_KEY: u64 = 5;
    pub(super) const ROOM: u64 = 6;
    pub(super) const EVERYONE: u64 = 7;
    pub(super) const DEADLINE: u64 = 11;
    pub(super) const DISCONNECT: u64 = 14;
    pub(super) const ID: u64 = 15;
    pub(super) const STREAMS: u64 = 16;
    pub(super) const HOPS: u64 = 17;
    pub(super) const SENT_ON: u64 = 20;
}

/// A look at a record. Where [`super::decode`] reads the record too, both say the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordPeek<'a> {
    /// The id of what it is.
    pub id: PushId,
    /// What it selects its clients by.
    pub selection: PeekedSelection<'a>,
    /// A push's key by which a newer one takes its place; empty: none.
    pub collapse_key: &'a [u8],
    /// A push's [`Push::deadline`](crate::push::Push::deadline).
    pub deadline: Option<u64>,
    /// The store has it.
    pub is_stored: bool,
    /// How often it was sent from node to node, because they hold its clients; 0: it was sent to every node.
    pub hops: u32,
    /// Tells it from what it was sent on from; 0: it was sent for the first time.
    pub sent_on: u64,
}

/// As [`crate::push::Selection`], with names that nobody has proven to be UTF-8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeekedSelection<'a> {
    /// Cards: one at least.
    Cards(PeekedCards<'a>),
    /// A room.
    Room(&'a [u8]),
    /// An app.
    App(&'a [u8]),
    /// Every client.
    Everyone,
    /// It is no push: an order to end clients.
    Disconnect,
}

/// The cards of a record, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeekedCards<'a> {
    first: &'a [u8],
    /// Where the others are, if there are any.
    rest: &'a [u8],
}

impl<'a> PeekedCards<'a> {
    /// The first.
    pub fn first(&self) -> &'a [u8] {
        self.first
    }

    /// Those behind the first.
    pub fn rest(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let mut fields = Fields(self.rest);
        std::iter::from_fn(move || {
            loop {
                if let Field { tag: tag::TO, value: Value::Bytes(card) } = fields.next()?? {
                    return Some(card);
                }
            }
        })
    }
}

/// Looks at a record; `None`: only [`super::decode`] can say what it is, or what is wrong with it. Allocates nothing.
pub fn peek(record: &[u8]) -> Option<RecordPeek<'_>> {
    let mut first = None;
    let mut rest: &[u8] = &[];
    let mut room: &[u8] = &[];
    let mut app: &[u8] = &[];
    let mut collapse_key: &[u8] = &[];
    let mut everyone = false;
    let mut deadline = 0;
    let mut disconnect = false;
    let mut is_stored = false;
    let mut hops = 0;
    let mut sent_on = 0;
    let mut id: &[u8] = &[];
    let mut fields = Fields(record);
    loop {
        let before = fields.0;
        let Some(field) = fields.next() else { break };
        let Field { tag, value } = field?;
        match (tag, value) {
            (tag::TO, Value::Bytes(card)) if first.is_none() => first = Some(card),
            (tag::TO, Value::Bytes(_)) if rest.is_empty() => rest = before,
            // the last of a field holds
            (tag::APP, Value::Bytes(name)) => app = name,
            (tag::ROOM, Value::Bytes(name)) => room = name,
            (tag::COLLAPSE_KEY, Value::Bytes(key)) => collapse_key = key,
            (tag::EVERYONE, Value::Varint(value)) => everyone = value != 0,
            (tag::DEADLINE, Value::Varint(value)) => deadline = value,
            (tag::DISCONNECT, Value::Bytes(_)) => disconnect = true,
            (tag::ID, Value::Bytes(bytes)) => id = bytes,
            (tag::STREAMS, Value::Bytes(_)) => is_stored = true,
            (tag::HOPS, Value::Varint(value)) => hops = value as u32,
            (tag::SENT_ON, Value::Varint(value)) => sent_on = value,
            _ => {}
        }
    }
    let selection = if disconnect {
        PeekedSelection::Disconnect
    } else if let Some(first) = first {
        PeekedSelection::Cards(PeekedCards { first, rest })
    } else if !room.is_empty() {
        PeekedSelection::Room(room)
    } else if !app.is_empty() {
        PeekedSelection::App(app)
    } else if everyone {
        PeekedSelection::Everyone
    } else {
        return None;
    };
    let deadline = (deadline > 0).then_some(deadline);
    let id = PushId::from_bytes(id.try_into().ok()?);
    Some(RecordPeek { id, selection, collapse_key, deadline, is_stored, hops, sent_on })
}

/// The fields of a protobuf message, in order; a `None` in it: they cannot be read on from there.
struct Fields<'a>(&'a [u8]);

struct Field<'a> {
    tag: u64,
    value: Value<'a>,
}

enum Value<'a> {
    Varint(u64),
    Bytes(&'a [u8]),
    /// Of a fixed size: no field here has one.
    Fixed,
}

impl<'a> Iterator for Fields<'a> {
    type Item = Option<Field<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        (!self.0.is_empty()).then(|| self.field())
    }
}

impl<'a> Fields<'a> {
    fn field(&mut self) -> Option<Field<'a>> {
        let key = self.varint()?;
        let value = match key & 7 {
            0 => Value::Varint(self.varint()?),
            1 => self.take(8).map(|_| Value::Fixed)?,
            2 => {
                let length = self.varint()?;
                Value::Bytes(self.take(length)?)
            }
            5 => self.take(4).map(|_| Value::Fixed)?,
            // a group: no writer of records makes one
            _ => return None,
        };
        Some(Field { tag: key >> 3, value })
    }

    fn take(&mut self, length: u64) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(usize::try_from(length).ok()?)?;
        self.0 = rest;
        Some(taken)
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for (place, byte) in self.0.iter().enumerate().take(10) {
            value |= u64::from(byte & 0x7f) << (7 * place);
            if *byte < 0x80 {
                self.0 = &self.0[place + 1..];
                return Some(value);
            }
        }
        None
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use bytes::Bytes;
    use proptest::{collection::vec, prelude::*};

    use super::*;
    use crate::{
        push::{ClientSelector, Disconnect, Push, Selection, Target},
        record::{Record, decode, encode, encode_disconnect},
    };

    /// What [`peek`] says, as far as decoding says something else.
    fn disagreement(bytes: &Bytes) -> Option<String> {
        let peeked = peek(bytes)?;
        let record = decode(bytes.clone()).ok()?;
        let cards = match peeked.selection {
            PeekedSelection::Cards(cards) => [cards.first()].into_iter().chain(cards.rest()).collect(),
            _ => Vec::new(),
        };
        let push = match &record {
            Record::Push(push) => Some(push),
            Record::Stored(stored) => Some(&stored.push),
            Record::Disconnect(_) | Record::Rebalance(_) | Record::Presence(_) => None,
        };
        let agrees = match (push.map(|push| push.target.selection()), peeked.selection) {
            (None, selection) => selection == PeekedSelection::Disconnect,
            (Some(Selection::Cards(named)), PeekedSelection::Cards(_)) => {
                named.iter().map(|card| &**card.as_bytes()).eq(cards)
            }
            (Some(Selection::Room(room)), PeekedSelection::Room(name)) => *room.as_bytes() == name,
            (Some(Selection::App(app)), PeekedSelection::App(name)) => *app.as_bytes() == name,
            (Some(Selection::Everyone), PeekedSelection::Everyone) => true,
            _ => false,
        };
        let same_rest = push.is_none_or(|push| {
            let key = push.collapse_key.as_deref().unwrap_or_default();
            let is_stored = matches!(record, Record::Stored(_));
            key.as_bytes() == peeked.collapse_key && push.deadline == peeked.deadline && is_stored == peeked.is_stored
        });
        (!agrees || !same_rest || record.id() != peeked.id).then(|| format!("{peeked:?} is {record:?}"))
    }

    fn push() -> impl Strategy<Value = Push> {
        let name = || "[a-c]{0,2}";
        (
            vec(name(), 0..5),
            proptest::option::of("[a-c]{1,2}"),
            proptest::option::of("[a-c]{1,2}"),
            any::<bool>(),
            name(),
            proptest::option::of("[a-c]{1,2}"),
            proptest::option::of(1..u64::MAX),
        )
            .prop_map(|(cards, room, app, everyone, content, key, deadline)| {
                let target = Target {
                    cards: cards.into_iter().map(Into::into).collect(),
                    room: room.map(Into::into),
                    app: app.map(Into::into),
                    everyone,
                    ..Target::default()
                };
                Push { target, collapse_key: key.map(Into::into), deadline, ..Push::to("", &content) }
            })
    }

    proptest! {
        #[test]
        fn a_look_at_a_push_says_what_decoding_says(push in push()) {
            let bytes = encode(&push);
            prop_assert_eq!(disagreement(&bytes), None);
            prop_assert_eq!(peek(&bytes).is_some(), push.target.selection() != Selection::Nobody);
        }

        #[test]
        fn whatever_becomes_of_a_record_no_look_says_what_decoding_does_not(
            push in push(),
            second in push(),
            changes in vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
            tail in vec(any::<u8>(), 0..12),
        ) {
            // fields that come again and in any order, changed bytes, a tail of anything
            let mut bytes = [encode(&push), encode(&second), tail.into()].concat();
            prop_assert_eq!(disagreement(&bytes.clone().into()), None);
            for (at, byte) in changes {
                let at = at.index(bytes.len());
                bytes[at] = byte;
                prop_assert_eq!(disagreement(&bytes.clone().into()), None);
            }
        }
    }

    #[test]
    fn a_disconnect_is_told_from_a_push() {
        let selector = ClientSelector::Card("alice".into());
        let order = Disconnect { id: PushId::generate(), selector, code: 3504, reason: None, revoke: false, at: 1 };
        let bytes = encode_disconnect(&order);
        let selection = PeekedSelection::Disconnect;
        let peeked = RecordPeek {
            id: order.id,
            selection,
            collapse_key: b"",
            deadline: None,
            is_stored: false,
            hops: 0,
            sent_on: 0,
        };
        assert_eq!(peek(&bytes), Some(peeked));
    }
}
