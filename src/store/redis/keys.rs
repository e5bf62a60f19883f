//! The names of keys in Redis.
//!
//! A stream's keys, and the list of what changed, are `<prefix>:{<partition>}:…`: Redis Cluster hashes what stands in the braces,
//! so that what a script touches is of one slot.

use redis::Value;

use crate::push::{Address, AddressKind};

/// Streams, idempotency keys and lists of changes are spread over so many.
pub(super) const PARTITIONS: u16 = 256;

/// The keys of one stream.
pub(super) struct StreamKeys {
    pub(super) partition: u16,
    /// The hash of what is known of it.
    pub(super) meta: Vec<u8>,
    /// The Redis stream of its pushes.
    pub(super) entries: Vec<u8>,
    /// The hash of its cursors.
    pub(super) devices: Vec<u8>,
    /// The sorted set of pushes that may be tried again and are gone.
    pub(super) gone: Vec<u8>,
}

/// Makes the names of keys.
#[derive(Clone)]
pub(super) struct KeyNames {
    prefix: String,
}

impl KeyNames {
    pub(super) fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned() }
    }

    pub(super) fn stream(&self, address: &Address) -> StreamKeys {
        let name = address_bytes(address);
        let partition = partition(&name);
        let key = |kind: char| {
            let mut key = format!("{}:{{{partition}}}:{kind}:", self.prefix).into_bytes();
            key.extend_from_slice(&name);
            key
        };
        StreamKeys { partition, meta: key('s'), entries: key('e'), devices: key('d'), gone: key('g') }
    }

    /// The list of what changed in a partition.
    pub(super) fn changes(&self, partition: u16) -> Vec<u8> {
        format!("{}:{{{partition}}}:changes", self.prefix).into_bytes()
    }

    /// An idempotency key.
    pub(super) fn claim(&self, key: &[u8; 16]) -> Vec<u8> {
        let partition = partition(key);
        let mut name = format!("{}:{{{partition}}}:i:", self.prefix).into_bytes();
        name.extend_from_slice(key);
        name
    }

    /// Subjects whose tokens are refused.
    pub(super) fn revoked(&self) -> Vec<u8> {
        format!("{}:{{revoked}}", self.prefix).into_bytes()
    }
}

/// An address as keys and lists of changes have it: `c:` or `r:`, and its name.
pub(super) fn address_bytes(address: &Address) -> Vec<u8> {
    let kind: &[u8] = match address.kind() {
        AddressKind::Card => b"c:",
        AddressKind::Room => b"r:",
    };
    [kind, address.name().as_bytes()].concat()
}

/// See [`address_bytes`].
pub(super) fn address_of(bytes: &[u8]) -> Option<Address> {
    let kind = match bytes.get(..2)? {
        b"c:" => AddressKind::Card,
        b"r:" => AddressKind::Room,
        _ => return None,
    };
    std::str::from_utf8(&bytes[2..]).ok().map(|name| kind.of(name))
}

/// The same on each node and in each version: FNV-1a, folded.
fn partition(name: &[u8]) -> u16 {
    let hash = name
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    let folded = (hash >> 32) ^ hash;
    (folded % u64::from(PARTITIONS)) as u16
}

/// The bytes of an answer's text; empty where it is none.
pub(super) fn bytes_of(value: &Value) -> &[u8] {
    match value {
        Value::BulkString(bytes) => bytes,
        _ => &[],
    }
}

/// The number of an answer; 0 where it is none.
pub(super) fn number_of(value: &Value) -> u64 {
    match value {
        Value::Int(number) => u64::try_from(*number).unwrap_or(0),
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok().and_then(|text| text.parse().ok()).unwrap_or(0),
        _ => 0,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_streams_keys_and_its_list_of_changes_are_of_one_slot_on_every_node() {
        let names = KeyNames::new("p");
        let keys = names.stream(&Address::Card("{a}:b".into()));
        let slot = format!("p:{{{}}}:", keys.partition);
        for key in [&keys.meta, &keys.entries, &keys.devices, &keys.gone, &names.changes(keys.partition)] {
            assert!(key.starts_with(slot.as_bytes()), "{}", String::from_utf8_lossy(key));
        }
        // other versions read what this one has written
        assert_eq!(keys.meta, b"p:{174}:s:c:{a}:b");
        let partitions: std::collections::BTreeSet<_> =
            (0..5000).map(|n| names.stream(&Address::Room(format!("room-{n}").into())).partition).collect();
        assert_eq!(partitions.len(), usize::from(PARTITIONS));
    }

    #[test]
    fn an_address_is_read_as_it_is_written_whatever_its_name_is() {
        for address in [Address::Card("a:b\n{}".into()), Address::Room("".into()), Address::Room("c:ü".into())] {
            assert_eq!(address_of(&address_bytes(&address)), Some(address));
        }
        for bytes in [&b""[..], b"c", b"x:a", b"c:\xff"] {
            assert_eq!(address_of(bytes), None);
        }
    }
}
