//! How entries are found in bytes of a segment's file.

use super::entry::{ALIGN, EntryHead, HEAD};

/// Which entries are looked for.
#[derive(Clone, Copy)]
pub(super) struct Scan {
    pub(super) log: u32,
    pub(super) segment: u32,
}

impl Scan {
    /// The head at `at`, if it is whole and of this segment.
    pub(super) fn head(self, bytes: &[u8], at: usize) -> Option<EntryHead> {
        let rest = bytes.get(at..)?;
        let ids = rest.get(12..20)?;
        if ids[..4] != self.log.to_le_bytes() || ids[4..] != self.segment.to_le_bytes() {
            return None;
        }
        EntryHead::read(rest)
    }

    /// The place of the first head from `at` on whose number is not below `least`.
    pub(super) fn find(self, bytes: &[u8], at: usize, least: u64) -> Option<usize> {
        let places = (at.next_multiple_of(ALIGN)..(bytes.len() + 1).saturating_sub(HEAD)).step_by(ALIGN);
        places.into_iter().find(|at| self.head(bytes, *at).is_some_and(|head| head.number >= least))
    }
}

/// Each whole head of whatever log and segment, and the body where that is whole too.
pub(super) fn entries(bytes: &[u8]) -> impl Iterator<Item = (EntryHead, Option<&[u8]>)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        while at + HEAD <= bytes.len() {
            let rest = &bytes[at..];
            if let Some(head) = EntryHead::read(rest) {
                let body = head.body(rest);
                at += if body.is_some() { head.size() } else { ALIGN };
                return Some((head, body));
            }
            at += ALIGN;
        }
        None
    })
}
