//! The log's own entries. They have no number of their own: each has that of the user's entry that comes next.

use std::ops::Range;

/// Kinds of users begin here.
pub(super) const USERS: u8 = 16;
/// From here on entries have no number of their own, as the log's have none: how many of them are damaged nobody asks.
pub(super) const UNNUMBERED: u8 = 128;

/// Whether an entry of this kind has a number of its own.
pub(super) fn is_numbered(kind: u8) -> bool {
    (USERS..UNNUMBERED).contains(&kind)
}
/// First of each segment.
pub(super) const START: u8 = 1;
/// Segments below are released: the first one that is not (u32), and the number of its first entry (u64).
pub(super) const FLOOR: u8 = 2;
/// Last of a segment: the one that follows (u32) exists.
pub(super) const NEXT: u8 = 3;
/// Numbers that are known to be missing: ranges.
pub(super) const OPENED: u8 = 4;
/// Of START and all entries.
pub(super) const FORMAT: u16 = 1;
const START_HEAD: usize = 54;
const RANGE: usize = 16;
/// A START lists no more missing ranges than these: the newest.
pub(super) const MISSING: usize = 64;

/// The first segment that is not released.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Floor {
    pub(super) segment: u32,
    /// Of its first entry.
    pub(super) number: u64,
}

impl Floor {
    /// Of its body, in bytes.
    pub(super) const LEN: usize = 12;

    pub(super) fn to_bytes(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..4].copy_from_slice(&self.segment.to_le_bytes());
        bytes[4..].copy_from_slice(&self.number.to_le_bytes());
        bytes
    }

    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let (segment, rest) = bytes.split_first_chunk()?;
        let number = rest.first_chunk()?;
        Some(Self { segment: u32::from_le_bytes(*segment), number: u64::from_le_bytes(*number) })
    }
}

/// A moment by the wall clock and by the machine's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct TimeAnchor {
    /// Milliseconds since 1970.
    pub(super) time: u64,
    /// Milliseconds since the machine's start; 0: unknown.
    pub(super) uptime: u64,
    /// Which start of the machine.
    pub(super) boot: [u8; 16],
}

/// A START's body: format (u16), the file's length (u64), floor (12 bytes), time (u64), uptime (u64), boot id (16 bytes), then
/// missing ranges.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Start {
    /// Of the segment's file, as it was made.
    pub(super) file_len: u64,
    pub(super) floor: Floor,
    pub(super) anchor: TimeAnchor,
    pub(super) missing: Vec<Range<u64>>,
}

impl Start {
    /// Bytes at most.
    pub(super) const fn longest() -> usize {
        START_HEAD + MISSING * RANGE
    }

    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(START_HEAD + self.missing.len() * RANGE);
        bytes.extend_from_slice(&FORMAT.to_le_bytes());
        bytes.extend_from_slice(&self.file_len.to_le_bytes());
        bytes.extend_from_slice(&self.floor.to_bytes());
        bytes.extend_from_slice(&self.anchor.time.to_le_bytes());
        bytes.extend_from_slice(&self.anchor.uptime.to_le_bytes());
        bytes.extend_from_slice(&self.anchor.boot);
        bytes.extend_from_slice(&ranges_to_bytes(&self.missing));
        bytes
    }

    /// Its format, and the rest if this version knows it.
    pub(super) fn read(bytes: &[u8]) -> Option<(u16, Option<Self>)> {
        let format = u16::from_le_bytes(*bytes.first_chunk()?);
        let head = bytes.first_chunk::<START_HEAD>().filter(|_| format == FORMAT);
        let start = head.and_then(|head| {
            let time = u64::from_le_bytes(*head[22..].first_chunk()?);
            let uptime = u64::from_le_bytes(*head[30..].first_chunk()?);
            let boot = *head[38..].first_chunk()?;
            Some(Self {
                file_len: u64::from_le_bytes(*head[2..].first_chunk()?),
                floor: Floor::read(&head[10..])?,
                anchor: TimeAnchor { time, uptime, boot },
                missing: read_ranges(&bytes[START_HEAD..]).collect(),
            })
        });
        Some((format, start))
    }
}

pub(super) fn ranges_to_bytes(ranges: &[Range<u64>]) -> Vec<u8> {
    ranges.iter().flat_map(|range| [range.start.to_le_bytes(), range.end.to_le_bytes()]).flatten().collect()
}

pub(super) fn read_ranges(bytes: &[u8]) -> impl Iterator<Item = Range<u64>> {
    bytes.chunks_exact(RANGE).filter_map(|range| {
        let (start, end) = range.split_first_chunk()?;
        Some(u64::from_le_bytes(*start)..u64::from_le_bytes(*end.first_chunk()?))
    })
}
