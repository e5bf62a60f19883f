//! What the queue writes into the log: the form of its entries' bodies.
//!
//! All numbers are little-endian. A record's number is that of the entry that first held it, whatever entry holds it later.

use std::ops::Range;

use crate::log;

/// A record: time (u64, ms since 1970), then its bytes.
pub(super) const RECORD: u8 = 16;
/// A record again, because its first segment goes: its number (u64), time (u64), hand-outs begun (u32), then its bytes.
pub(super) const CARRIED: u8 = 17;
/// What was done: records below this number may have been handed out once (u64), then ranges of finished ones, each
/// its first number (u64) and how many (u32).
pub(super) const PROGRESS: u8 = 128;
/// Hand-outs begun of records that are handed out again: for each its number (u64) and how many (u32).
pub(super) const ATTEMPTS: u8 = 129;

/// Beside a record's bytes, in a RECORD.
pub(super) const RECORD_HEAD: usize = 8;
const CARRIED_HEAD: usize = 20;
const PAIR: usize = 12;

/// An entry's body, read.
pub(super) enum QueueEntry<'a> {
    Record { time: u64, record: &'a [u8] },
    Carried(CarriedEntry<'a>),
    Progress { handed: u64, finished: &'a [u8] },
    Attempts(&'a [u8]),
}

/// A record that was written again.
#[derive(Clone, Copy)]
pub(super) struct CarriedEntry<'a> {
    pub(super) number: u64,
    pub(super) time: u64,
    pub(super) begun: u32,
    pub(super) record: &'a [u8],
}

impl<'a> QueueEntry<'a> {
    /// `None`: of another user of the log, or of a form that this version does not know.
    pub(super) fn read(entry: &log::Entry<'a>) -> Option<Self> {
        let body = entry.body;
        match entry.kind {
            RECORD => {
                let (time, record) = body.split_first_chunk()?;
                Some(Self::Record { time: u64::from_le_bytes(*time), record })
            }
            CARRIED => CarriedEntry::read(body).map(Self::Carried),
            PROGRESS => {
                let (handed, finished) = body.split_first_chunk()?;
                Some(Self::Progress { handed: u64::from_le_bytes(*handed), finished })
            }
            ATTEMPTS => Some(Self::Attempts(body)),
            _ => None,
        }
    }
}

impl<'a> CarriedEntry<'a> {
    fn read(body: &'a [u8]) -> Option<Self> {
        let (number, rest) = body.split_first_chunk()?;
        let (time, rest) = rest.split_first_chunk()?;
        let (begun, record) = rest.split_first_chunk()?;
        Some(Self {
            number: u64::from_le_bytes(*number),
            time: u64::from_le_bytes(*time),
            begun: u32::from_le_bytes(*begun),
            record,
        })
    }

    /// What stands before the record's bytes.
    pub(super) fn head(&self) -> [u8; CARRIED_HEAD] {
        let mut head = [0; CARRIED_HEAD];
        head[..8].copy_from_slice(&self.number.to_le_bytes());
        head[8..16].copy_from_slice(&self.time.to_le_bytes());
        head[16..].copy_from_slice(&self.begun.to_le_bytes());
        head
    }
}

/// A record's bytes in the body of a RECORD or CARRIED.
pub(super) fn record_range(kind: u8) -> Option<std::ops::RangeFrom<usize>> {
    match kind {
        RECORD => Some(RECORD_HEAD..),
        CARRIED => Some(CARRIED_HEAD..),
        _ => None,
    }
}

/// The body of a PROGRESS behind its mark.
pub(super) fn write_ranges(ranges: &[Range<u64>]) -> Vec<u8> {
    write_pairs(ranges.iter().flat_map(|range| {
        // more than a u32 counts in pieces
        let pieces = range.clone().step_by(u32::MAX as usize);
        pieces.map(|first| (first, (range.end - first).min(u32::MAX.into()) as u32))
    }))
}

/// The ranges of a PROGRESS.
pub(super) fn read_ranges(bytes: &[u8]) -> impl Iterator<Item = Range<u64>> {
    read_pairs(bytes).map(|(first, count)| first..first.saturating_add(count.into()))
}

/// The body of an ATTEMPTS.
pub(super) fn write_pairs(pairs: impl IntoIterator<Item = (u64, u32)>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (number, count) in pairs {
        bytes.extend_from_slice(&number.to_le_bytes());
        bytes.extend_from_slice(&count.to_le_bytes());
    }
    bytes
}

/// The pairs of an ATTEMPTS.
pub(super) fn read_pairs(bytes: &[u8]) -> impl Iterator<Item = (u64, u32)> {
    bytes.chunks_exact(PAIR).filter_map(|pair| {
        let (number, count) = pair.split_first_chunk()?;
        Some((u64::from_le_bytes(*number), u32::from_le_bytes(*count.first_chunk()?)))
    })
}
