//! The names of the directory's keys in Redis: `<prefix>:{d<partition>}:…`, so that what a script touches is of one slot.

use crate::push::{Address, AddressKind};

/// Addresses are spread over so many. It is the same on every node and in every version.
pub(super) const PARTITIONS: usize = 64;

/// Makes the names of keys.
pub(super) struct DirectoryKeys {
    prefix: String,
}

impl DirectoryKeys {
    pub(super) fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned() }
    }

    /// The nodes that have written all they hold of a partition.
    pub(super) fn nodes(&self, partition: usize) -> Vec<u8> {
        format!("{}:{{d{partition}}}:nodes", self.prefix).into_bytes()
    }

    /// The nodes that hold an address of `partition`.
    pub(super) fn holders(&self, partition: usize, address: &Address) -> Vec<u8> {
        let kind = letter(address.kind()) as char;
        format!("{}:{{d{partition}}}:{kind}:{}", self.prefix, address.name()).into_bytes()
    }

    /// The nodes that have written who is in the rooms of a partition.
    pub(super) fn presence_nodes(&self, partition: usize) -> Vec<u8> {
        format!("{}:{{d{partition}}}:pn", self.prefix).into_bytes()
    }

    /// What a node has written of that.
    pub(super) fn presence_of(&self, partition: usize, node: &str) -> Vec<u8> {
        format!("{}:{{d{partition}}}:pw:{node}", self.prefix).into_bytes()
    }

    /// The last script of a node that wrote of that.
    pub(super) fn presence_script(&self, partition: usize, node: &str) -> Vec<u8> {
        format!("{}:{{d{partition}}}:ps:{node}", self.prefix).into_bytes()
    }

    /// The cards in a room of `partition`.
    pub(super) fn present(&self, partition: usize, room: &str) -> Vec<u8> {
        format!("{}:{{d{partition}}}:p:{room}", self.prefix).into_bytes()
    }
}

fn letter(kind: AddressKind) -> u8 {
    match kind {
        AddressKind::Card => b'c',
        AddressKind::Room => b'r',
    }
}

/// FNV-1a of the address, folded.
pub(super) fn partition(kind: AddressKind, name: &str) -> usize {
    let bytes = std::iter::once(letter(kind)).chain(name.bytes());
    let hash =
        bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    (((hash >> 32) ^ hash) % PARTITIONS as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_node_and_version_finds_an_address_under_the_same_keys() {
        let keys = DirectoryKeys::new("p");
        let address = Address::Card("{a}:b".into());
        let at = partition(AddressKind::Card, "{a}:b");
        assert_eq!(keys.holders(at, &address), format!("p:{{d{at}}}:c:{{a}}:b").into_bytes());
        assert_eq!(keys.nodes(at), format!("p:{{d{at}}}:nodes").into_bytes());
        assert_eq!(at, 8);
        let used: std::collections::BTreeSet<_> =
            (0..2000).map(|n| partition(AddressKind::Room, &format!("room-{n}"))).collect();
        assert_eq!(used.len(), PARTITIONS);
    }
}
