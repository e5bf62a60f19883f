//! A client's name over all nodes.

use std::fmt;

use ulid::Ulid;

use super::ClientKey;

/// Bits of the process's own number.
const PROCESS_BITS: u32 = 56;

/// Names one connection, also among other nodes and after restarts: shown as 26 characters of Crockford's base 32. It is no
/// secret, and proves nothing.
///
/// From its highest bit on: 56 bits that the process drew, 8 of the shard, 64 of the client's key there. So it costs no memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientId(u128);

/// The part of [`ClientId`]s that one process drew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ProcessNumber(u64);

impl ProcessNumber {
    pub(super) fn draw() -> Self {
        Self(fastrand::u64(..) >> (u64::BITS - PROCESS_BITS))
    }

    pub(super) fn id(self, shard: usize, key: ClientKey) -> ClientId {
        ClientId(u128::from(self.0) << 72 | (shard as u128) << 64 | u128::from(key.to_bits()))
    }

    /// Where the client is, if this process gave it the id.
    pub(super) fn place(self, id: ClientId) -> Option<(usize, ClientKey)> {
        let shard = (id.0 >> 64) as usize & 0xff;
        (id.0 >> 72 == u128::from(self.0)).then_some((shard, ClientKey::from_bits(id.0 as u64)))
    }
}

impl ClientId {
    /// From its text; `None`: it is none.
    pub fn parse(text: &str) -> Option<Self> {
        // its parser lets what is larger than 128 bits overflow
        Ulid::from_string(text)
            .ok()
            .map(|id| Self(id.0))
            .filter(|_| text.starts_with(|first| ('0'..='7').contains(&first)))
    }

    /// The record's form.
    pub fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }

    /// From the record's form.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(u128::from_be_bytes(bytes))
    }
}

impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ulid::from(self.0).fmt(f)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn an_id_leads_to_its_client_in_the_process_that_gave_it_only() {
        let here = ProcessNumber(u64::MAX >> 8);
        let there = ProcessNumber(7);
        for (shard, key) in
            [(0, ClientKey::default()), (63, ClientKey::from_bits(u64::MAX)), (5, ClientKey::from_bits(9))]
        {
            let id = here.id(shard, key);
            assert_eq!(ClientId::parse(&id.to_string()), Some(id));
            assert_eq!(ClientId::from_bytes(id.to_bytes()), id);
            assert_eq!((here.place(id), there.place(id)), (Some((shard, key)), None));
        }
        assert_ne!(ProcessNumber::draw(), ProcessNumber::draw());
        for text in ["", "alice", "8ZZZZZZZZZZZZZZZZZZZZZZZZZ", "0000000000000000000000000"] {
            assert_eq!(ClientId::parse(text), None, "{text}");
        }
    }
}
