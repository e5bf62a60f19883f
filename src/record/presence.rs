//! A change of who is in a room, as it goes to the other nodes.

use bytes::Bytes;
use prost::Message;

use super::{RecordError, message, text};
use crate::{push::PushId, wire::dialect::PresenceChange};

/// A card's first client in the cluster came into a room, or its last one left it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PresenceNotice {
    /// Tells copies of it from others.
    pub id: PushId,
    /// The change, with the node whose client it was.
    pub change: PresenceChange,
    /// When, in microseconds since 1970 by Redis's clock: of two changes of one card in one room the later one has more.
    pub at: u64,
    /// The clients of that node know it already.
    pub is_told_there: bool,
}

/// Encodes `notice`. A version that does not know such records finds that it names nobody, and drops it.
pub fn encode_presence(notice: &PresenceNotice) -> Bytes {
    let PresenceNotice { id, change, at, is_told_there } = notice;
    let presence = message::Presence {
        room: change.room.as_bytes().clone(),
        card: change.card.as_bytes().clone(),
        came: change.came,
        node: change.node.as_bytes().clone(),
        at: *at,
        is_told_there: *is_told_there,
    };
    let record = message::Record {
        presence: Some(Box::new(presence)),
        id: Bytes::copy_from_slice(&id.to_bytes()),
        ..Default::default()
    };
    record.encode_to_vec().into()
}

pub(super) fn decoded(id: PushId, presence: message::Presence) -> Result<PresenceNotice, RecordError> {
    let message::Presence { room, card, came, node, at, is_told_there } = presence;
    let change =
        PresenceChange { room: text(room, "room")?, card: text(card, "card")?, came, node: text(node, "node")? };
    Ok(PresenceNotice { id, change, at, is_told_there })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Record, decode, peek};

    #[test]
    fn a_change_is_read_as_it_was_written_and_no_look_takes_it_for_a_push() {
        for came in [true, false] {
            let change = PresenceChange { room: "r".into(), card: "alice".into(), came, node: "gw-1".into() };
            let notice =
                PresenceNotice { id: PushId::generate(), change, at: 1_700_000_000_000_000, is_told_there: !came };
            let record = encode_presence(&notice);
            assert_eq!(peek(&record), None);
            assert_eq!(decode(record), Ok(Record::Presence(Box::new(notice))));
        }
    }
}
