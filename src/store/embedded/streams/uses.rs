//! How much of each segment of the log is still needed.

use std::collections::BTreeMap;

/// What needs a segment: pushes, streams whose head it tells, cursors, claims and more, each one use.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::store::embedded) struct SegmentUses(BTreeMap<u32, u64>);

impl SegmentUses {
    pub(super) fn add(&mut self, segment: u32) {
        *self.0.entry(segment).or_default() += 1;
    }

    /// Segment 0 is none.
    pub(super) fn remove(&mut self, segment: u32) {
        if let Some(uses) = self.0.get_mut(&segment) {
            *uses -= 1;
            if *uses == 0 {
                self.0.remove(&segment);
            }
        }
    }

    /// What was in `before` is in `segment` now.
    pub(super) fn change(&mut self, before: &mut u32, segment: u32) {
        if *before != segment {
            self.remove(*before);
            self.add(segment);
            *before = segment;
        }
    }

    /// The oldest segment that is needed.
    pub(in crate::store::embedded) fn oldest(&self) -> Option<u32> {
        self.0.first_key_value().map(|(segment, _)| *segment)
    }
}
