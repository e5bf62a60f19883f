//! What a Ping behind a stored push says, and its Pong repeats (RFC 6455 5.5.3): up to where a stream was read.

use std::hash::BuildHasher as _;

use foldhash::fast::FixedState;

use super::frame::Frame;
use crate::push::Epoch;

/// First of the payload: no other Ping of the gateway has one.
const TAG: u8 = 1;
/// Tag, hash, epoch, seq.
const LEN: usize = 17;

/// A place in the stream of a card, by a hash of its name: a session has a few cards, and finds which one is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamPing {
    /// [`StreamPing::hash`] of the card.
    pub card: u32,
    /// Of which numbering.
    pub epoch: Epoch,
    /// All up to this.
    pub seq: u64,
}

impl StreamPing {
    /// The place `seq` in the stream of `card`.
    pub fn new(card: &str, epoch: Epoch, seq: u64) -> Self {
        Self { card: Self::hash(card), epoch, seq }
    }

    /// By which a card is named. Who makes one up acknowledges only what is his own.
    pub fn hash(card: &str) -> u32 {
        FixedState::with_seed(0x5174).hash_one(card) as u32
    }

    /// The Ping.
    pub fn frame(self) -> Frame {
        let mut payload = [TAG; LEN];
        payload[1..5].copy_from_slice(&self.card.to_le_bytes());
        payload[5..9].copy_from_slice(&self.epoch.to_u32().to_le_bytes());
        payload[9..].copy_from_slice(&self.seq.to_le_bytes());
        Frame::ping(&payload)
    }

    /// What a Pong repeats; `None`: it is of another Ping.
    pub fn of_payload(payload: &[u8]) -> Option<Self> {
        let payload: &[u8; LEN] = payload.try_into().ok()?;
        let card = u32::from_le_bytes(*payload[1..].first_chunk()?);
        let epoch = Epoch::from_u32(u32::from_le_bytes(*payload[5..].first_chunk()?));
        let seq = u64::from_le_bytes(*payload[9..].first_chunk()?);
        (payload[0] == TAG).then_some(Self { card, epoch, seq })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pong_repeats_the_place_and_other_pongs_are_none() {
        let ping = StreamPing::new("alice", Epoch::from_u32(7), 1 << 40);
        let frame = ping.frame();
        assert_eq!(StreamPing::of_payload(&frame.bytes()[2..]), Some(ping));
        for payload in [&b""[..], b"01234567890123456", b"\x01"] {
            assert_eq!(StreamPing::of_payload(payload), None);
        }
    }
}
