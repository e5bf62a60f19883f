//! Subjects whose tokens are refused, kept over a restart.

use std::collections::BTreeMap;

use bytestring::ByteString;

use super::uses::SegmentUses;
use crate::store::embedded::entry::RevokedForm;

struct KeptRevocation {
    /// Tokens of this second and before are refused.
    second: u64,
    /// Kept until then, in seconds since 1970.
    until: u32,
    /// Whose entry tells it.
    segment: u32,
}

/// See the module. Bounded: those that end first make room.
#[derive(Default)]
pub(in crate::store::embedded) struct KeptRevocations {
    kept: BTreeMap<Box<str>, KeptRevocation>,
    /// Subjects that the log is to be told of again.
    untold: Vec<Box<str>>,
}

impl KeptRevocations {
    /// The log has it in `segment`.
    pub(in crate::store::embedded) fn keep(
        &mut self,
        revoked: &RevokedForm<'_>,
        segment: u32,
        most: usize,
        uses: &mut SegmentUses,
    ) {
        let RevokedForm { subject, second, until } = *revoked;
        uses.add(segment);
        match self.kept.get_mut(subject) {
            Some(kept) => {
                uses.remove(kept.segment);
                *kept = KeptRevocation { second: second.max(kept.second), until: until.max(kept.until), segment };
            }
            None => drop(self.kept.insert(subject.into(), KeptRevocation { second, until, segment })),
        }
        while self.kept.len() > most {
            let first = self.kept.iter().min_by_key(|(_, kept)| kept.until).map(|(subject, _)| subject.clone());
            let removed = first.and_then(|subject| self.kept.remove(&subject));
            removed.into_iter().for_each(|kept| uses.remove(kept.segment));
        }
    }

    pub(in crate::store::embedded) fn expire(&mut self, now: u32, uses: &mut SegmentUses) {
        self.kept.retain(|_, kept| {
            let keep = kept.until > now;
            if !keep {
                uses.remove(kept.segment);
            }
            keep
        });
    }

    pub(in crate::store::embedded) fn list(&self) -> Vec<(ByteString, u64)> {
        self.kept.iter().map(|(subject, kept)| (subject.to_string().into(), kept.second)).collect()
    }

    /// The segment that tells it goes: the log is to be told again.
    pub(super) fn leave(&mut self, subject: &str, segment: u32) {
        if self.kept.get(subject).is_some_and(|kept| kept.segment == segment) {
            self.untold.push(subject.into());
        }
    }

    /// As [`KeptRevocations::leave`] for all that the segment tells.
    pub(super) fn leave_all(&mut self, segment: u32) {
        let there = self.kept.iter().filter(|(_, kept)| kept.segment == segment);
        self.untold.extend(there.map(|(subject, _)| subject.clone()));
    }

    pub(in crate::store::embedded) fn take_untold(&mut self) -> Vec<Vec<u8>> {
        let untold = std::mem::take(&mut self.untold);
        let forms = untold.iter().filter_map(|subject| {
            let kept = self.kept.get(subject)?;
            Some(RevokedForm { subject, second: kept.second, until: kept.until }.bytes())
        });
        forms.collect()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }
}
