//! Streams: the stored pushes of one card or room, numbered by a growing `seq`, which may have holes, within an `epoch`. Each names
//! the one before it.

use std::fmt;

use super::{Address, Push, PushId};

/// Which numbering of a stream: random, and another one once the numbers before mean nothing any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Epoch(u32);

impl Epoch {
    /// One that no stream has had, as far as chance can tell.
    pub fn random() -> Self {
        Self(fastrand::u32(1..))
    }

    /// From the stored form.
    pub fn from_u32(number: u32) -> Self {
        Self(number)
    }

    /// The stored form.
    pub fn to_u32(self) -> u32 {
        self.0
    }

    /// From what [`fmt::Display`] writes: 8 hexadecimal digits.
    pub fn parse(text: &str) -> Option<Self> {
        let is_hex = text.len() == 8 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !is_hex {
            return None;
        }
        u32::from_str_radix(text, 16).ok().map(Self)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

/// How much of a stream a reader has: all up to `seq`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamPosition {
    /// Of which numbering.
    pub epoch: Epoch,
    /// 0: nothing.
    pub seq: u64,
    /// Of the push that stands there; [`PushId::NIL`] at 0.
    pub id: PushId,
}

/// Where a push stands in a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamEntry {
    /// Of which numbering.
    pub epoch: Epoch,
    /// 1 and up.
    pub seq: u64,
    /// The `seq` of the push that was appended before it, which may be gone by now; 0: it is the first.
    pub previous: u64,
    /// The id of that push.
    pub previous_id: PushId,
}

impl StreamEntry {
    /// What a reader has that has the push `id` at this place.
    pub fn position(&self, id: PushId) -> StreamPosition {
        StreamPosition { epoch: self.epoch, seq: self.seq, id }
    }
}

/// A push that the store has just taken, on its way to the clients that are there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredPush {
    /// The push.
    pub push: Push,
    /// Its places: one for each of its cards, in their order, or one for its room.
    pub entries: Vec<StreamEntry>,
}

/// From where a client wants to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resume {
    /// Of which numbering its `seq` is.
    pub epoch: Epoch,
    /// It has all up to this.
    pub seq: u64,
    /// The id of the push that it got there, if it remembers.
    pub id: Option<PushId>,
}

/// Where in a stream something is read on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PagePlace {
    /// Whose stream.
    pub address: Address,
    /// Of which numbering.
    pub epoch: Epoch,
    /// What is read comes behind this.
    pub after: u64,
}

/// Pushes of a stream that follow each other, read from the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamPage {
    /// Whose stream.
    pub address: Address,
    /// Of which numbering.
    pub epoch: Epoch,
    /// Who reads it has all up to this.
    pub after: u64,
    /// The id of the push there, as the store has it; [`PushId::NIL`]: it does not know.
    pub after_id: PushId,
    /// What is still there behind that.
    pub entries: Vec<PageEntry>,
    /// Who has these, has all up to this …
    pub end: u64,
    /// … where the push with this id stands, or stood.
    pub end_id: PushId,
    /// The newest `seq` of the stream.
    pub head: u64,
}

/// One push of a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageEntry {
    /// Its number.
    pub seq: u64,
    /// The push.
    pub push: Push,
}

#[cfg(test)]
mod tests {
    use super::Epoch;

    #[test]
    fn an_epoch_is_read_as_it_is_written_and_nothing_else_is() {
        for number in [1, 0x0a1b_2c3d, u32::MAX] {
            let epoch = Epoch::from_u32(number);
            assert_eq!(Epoch::parse(&epoch.to_string()), Some(epoch));
        }
        for text in ["", "1", "0a1b2c3", "0a1b2c3d4", "+a1b2c3d", "0a1b2c3g"] {
            assert_eq!(Epoch::parse(text), None, "{text}");
        }
    }
}
