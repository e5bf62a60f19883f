//! What the journal writes into its log: the form of its entries' bodies.
//!
//! All numbers are little-endian. A message's number is that of the entry that first held it, whatever entry holds it later.

use std::ops::Range;

use bytes::Bytes;

use crate::log;

/// A message: length of its lane's name (u16), the name, its JSON.
pub(super) const MESSAGE: u8 = 32;
/// A message again, because its first segment goes: its number (u64), then as MESSAGE.
pub(super) const CARRIED: u8 = 33;
/// Messages that are done with: ranges, each its first number (u64) and the one behind its last (u64).
pub(super) const DONE: u8 = 160;

const NUMBER: usize = 8;
const LANE_LEN: usize = 2;
const RANGE: usize = 16;

/// An entry's body, read.
pub(super) enum JournalEntry<'a> {
    Message { number: u64, lane: &'a str, json: &'a [u8] },
    Done(&'a [u8]),
}

impl<'a> JournalEntry<'a> {
    /// `None`: of a form that this version does not know.
    pub(super) fn read(entry: &log::Entry<'a>) -> Option<Self> {
        match entry.kind {
            MESSAGE => Self::message(entry.number, entry.body),
            CARRIED => {
                let (number, rest) = entry.body.split_first_chunk()?;
                Self::message(u64::from_le_bytes(*number), rest)
            }
            DONE => Some(Self::Done(entry.body)),
            _ => None,
        }
    }

    fn message(number: u64, body: &'a [u8]) -> Option<Self> {
        let (len, rest) = body.split_first_chunk()?;
        let (lane, json) = rest.split_at_checked(u16::from_le_bytes(*len).into())?;
        Some(Self::Message { number, lane: std::str::from_utf8(lane).ok()?, json })
    }
}

/// What stands before a message's JSON: the length of its lane's name, and the name, of at most 65,535 bytes.
pub(super) fn lane_head(lane: &str) -> ([u8; LANE_LEN], &str) {
    let lane = &lane[..lane.floor_char_boundary(u16::MAX.into())];
    ((lane.len() as u16).to_le_bytes(), lane)
}

/// A message's JSON, from an entry's kind and body that were read again.
pub(super) fn json_in(kind: u8, body: &Bytes) -> Option<Bytes> {
    let from = match kind {
        MESSAGE => 0,
        CARRIED => NUMBER,
        _ => return None,
    };
    let (len, _) = body.get(from..)?.split_first_chunk()?;
    let json = from + LANE_LEN + usize::from(u16::from_le_bytes(*len));
    (json <= body.len()).then(|| body.slice(json..))
}

/// What stands in a MESSAGE, from either kind.
pub(super) fn message_body(kind: u8, body: &Bytes) -> Option<Bytes> {
    match kind {
        MESSAGE => Some(body.clone()),
        CARRIED if body.len() >= NUMBER => Some(body.slice(NUMBER..)),
        _ => None,
    }
}

/// The body of a DONE.
pub(super) fn write_ranges(ranges: &[Range<u64>]) -> Vec<u8> {
    ranges.iter().flat_map(|range| [range.start.to_le_bytes(), range.end.to_le_bytes()]).flatten().collect()
}

/// The ranges of a DONE.
pub(super) fn read_ranges(bytes: &[u8]) -> impl Iterator<Item = Range<u64>> {
    bytes.chunks_exact(RANGE).filter_map(|range| {
        let (start, end) = range.split_first_chunk()?;
        Some(u64::from_le_bytes(*start)..u64::from_le_bytes(*end.first_chunk()?))
    })
}

/// Sorted, and those that touch are one.
pub(super) fn merged(mut ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    ranges.sort_unstable_by_key(|range| range.start);
    ranges.dedup_by(|next, last| {
        let touches = next.start <= last.end;
        if touches {
            last.end = last.end.max(next.end);
        }
        touches
    });
    ranges
}
