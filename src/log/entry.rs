//! The form of an entry.
//!
//! Little-endian, at a multiple of 8 bytes: CRC-32 of the 28 bytes that follow (u32), CRC-32 of the body (u32), length of the
//! body (u32), the log's id (u32), the segment (u32), the kind (u8), flags (u8), zero (u16), the number (u64); then the body,
//! and zeros up to the next multiple of 8. The length is believed only where the first CRC is right.

/// Bytes before the body.
pub(super) const HEAD: usize = 32;
/// Entries begin at multiples of it.
pub(super) const ALIGN: usize = 8;
const SYNCED: u8 = 1;

/// What stands before an entry's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct EntryHead {
    /// Of the body, in bytes.
    pub(super) len: u32,
    /// Random for each log: who pushes content cannot forge an entry inside it.
    pub(super) log: u32,
    pub(super) segment: u32,
    pub(super) kind: u8,
    /// All that was written before it was synced by then.
    pub(super) synced: bool,
    /// +1 for each numbered entry of the log; that of the next one for the others.
    pub(super) number: u64,
    body_crc: u32,
}

/// Bytes of an entry with a body of `len`.
pub(super) const fn size(len: usize) -> usize {
    (HEAD + len).next_multiple_of(ALIGN)
}

impl EntryHead {
    /// Of an entry whose body is to be `len` bytes.
    pub(super) fn new(log: u32, segment: u32, kind: u8, synced: bool, number: u64, len: u32) -> Self {
        Self { len, log, segment, kind, synced, number, body_crc: 0 }
    }

    /// Appends the entry to `buffer`; its body is `parts` one after the other.
    pub(super) fn encode(self, parts: &[&[u8]], buffer: &mut Vec<u8>) {
        let start = buffer.len();
        buffer.extend_from_slice(&[0; HEAD]);
        parts.iter().for_each(|part| buffer.extend_from_slice(part));
        let body_crc = crc32fast::hash(&buffer[start + HEAD..]);
        buffer.resize(start + size(self.len as usize), 0);
        let head = &mut buffer[start..start + HEAD];
        head[4..8].copy_from_slice(&body_crc.to_le_bytes());
        head[8..12].copy_from_slice(&self.len.to_le_bytes());
        head[12..16].copy_from_slice(&self.log.to_le_bytes());
        head[16..20].copy_from_slice(&self.segment.to_le_bytes());
        head[20] = self.kind;
        head[21] = if self.synced { SYNCED } else { 0 };
        head[24..32].copy_from_slice(&self.number.to_le_bytes());
        let head_crc = crc32fast::hash(&head[4..]);
        head[..4].copy_from_slice(&head_crc.to_le_bytes());
    }

    /// The head with which `bytes` begin, if it is whole.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let head = bytes.first_chunk::<HEAD>()?;
        let u32_at = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        // a quick look spares most checksums of what is no head
        if head[22] != 0 || head[23] != 0 || head[21] > SYNCED || u32_at(0) != crc32fast::hash(&head[4..]) {
            return None;
        }
        let (_, number) = head.split_last_chunk::<8>()?;
        Some(Self {
            len: u32_at(8),
            log: u32_at(12),
            segment: u32_at(16),
            kind: head[20],
            synced: head[21] == SYNCED,
            number: u64::from_le_bytes(*number),
            body_crc: u32_at(4),
        })
    }

    /// Bytes of the whole entry.
    pub(super) fn size(self) -> usize {
        size(self.len as usize)
    }

    /// The body in `bytes`, which begin with the entry, if it is whole.
    pub(super) fn body(self, bytes: &[u8]) -> Option<&[u8]> {
        let body = bytes.get(HEAD..HEAD + self.len as usize)?;
        (crc32fast::hash(body) == self.body_crc).then_some(body)
    }
}
