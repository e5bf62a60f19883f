//! What the log is told with the next write, or by itself a moment later: what a crash in between repeats.

use std::{
    ops::Range,
    time::{Duration, Instant},
};

use super::Records;
use crate::queue::embedded::replay::merged;

/// Finishes and first hand-outs reach the disk after this at the latest.
pub(super) const WITHIN: Duration = Duration::from_secs(1);

/// What the log has not been told yet.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::queue::embedded) struct QueueProgress {
    /// Records of this process below it may have been handed out once.
    pub(in crate::queue::embedded) handed: u64,
    pub(in crate::queue::embedded) finished: Vec<Range<u64>>,
}

impl<W> Records<W> {
    /// Whether the log must be told of progress by now.
    pub(in crate::queue::embedded) fn progress_is_due(&self, now: Instant) -> bool {
        self.progress_since.is_some_and(|since| since + WITHIN <= now)
    }

    /// What the log is to be told; `None`: nothing. [`Records::progress_failed`] takes it back.
    pub(in crate::queue::embedded) fn take_progress(&mut self) -> Option<QueueProgress> {
        if self.progress_since.take().is_none() && self.void.is_empty() {
            return None;
        }
        self.finished.sort_unstable();
        let mut finished = std::mem::take(&mut self.void);
        for number in self.finished.drain(..) {
            match finished.last_mut() {
                Some(last) if last.end == number => last.end += 1,
                _ => finished.push(number..number + 1),
            }
        }
        Some(QueueProgress { handed: self.handed, finished: merged(finished) })
    }

    /// It could not be told.
    pub(in crate::queue::embedded) fn progress_failed(&mut self, progress: QueueProgress, now: Instant) {
        self.void.extend(progress.finished);
        self.progress_since.get_or_insert(now);
    }

    /// The hand-outs so far of those that wait and of which the log may count one that did not happen, or that does not count.
    pub(in crate::queue::embedded) fn undone_hand_outs(&self) -> Vec<(u64, u32)> {
        let ready = self.ready.iter().map(|next| (next.number, next.begun));
        let delayed = self.delayed.iter().map(|((_, number), next)| (*number, next.begun));
        let carried = self.carried.iter().map(|(number, next)| (*number, next.begun));
        // of others the log knows nothing
        ready.chain(delayed).chain(carried).filter(|(number, _)| *number < self.found.max(self.handed)).collect()
    }

    pub(super) fn has_progress(&mut self, now: impl FnOnce() -> Instant) {
        if self.progress_since.is_none() {
            self.progress_since = Some(now());
            self.wake = true;
        }
    }
}
