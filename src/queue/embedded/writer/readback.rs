//! Records that memory does not hold, read again from wherever they are.

use super::Writer;
use crate::{
    queue::embedded::{
        row,
        state::{Delayed, ENTRY},
    },
    telemetry::labels::DropReason,
};

impl Writer {
    /// Reads the records of requeued jobs that were not kept in memory.
    pub(super) fn read_due(&mut self, due: &mut [Delayed]) -> Result<(), redb::Error> {
        for next in due.iter_mut().filter(|next| next.record.is_none()) {
            let Some(first) = self.shared.lock().chunk(next.seq).map(|(first, _)| first) else { continue };
            if let Some(value) = self.disk.log()?.row(first)? {
                let (_, records) = row::read(&value).map_err(|bad| redb::Error::Corrupted(bad.to_string()))?;
                let record = records.get((next.seq - first) as usize).copied();
                next.record = record.map(bytes::Bytes::copy_from_slice);
                self.shared.lock().memory += record.map_or(0, |record| record.len() + ENTRY);
            }
        }
        Ok(())
    }

    /// Fills memory with what comes next.
    pub(super) fn read_cold(&mut self) -> Result<(), redb::Error> {
        let mut more = false;
        loop {
            let mut state = self.shared.lock();
            if !state.wants_cold(&self.shared.limits, more) {
                return Ok(());
            }
            more = true;
            let Some(first) = state.next_cold() else { return Ok(()) };
            drop(state);
            let value = self.disk.log()?.row(first)?;
            let mut state = self.shared.lock();
            let lost = match &value {
                Some(value) => {
                    let (_, records) = row::read(value).map_err(|bad| redb::Error::Corrupted(bad.to_string()))?;
                    state.warm(first, &records, self.found)
                }
                None => state.lose(first, 0),
            };
            self.shared.pump(state);
            if lost > 0 {
                self.lost(lost);
            }
        }
    }

    pub(super) fn lost(&self, pushes: u64) {
        tracing::error!(pushes, "pushes are missing from the queue's files: did the disk fail, or were they changed?");
        self.shared.metrics.drops.get_or_create(&DropReason::Lost).inc_by(pushes);
    }
}
