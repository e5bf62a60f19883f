//! How the log goes on after a write or a sync that failed.

use std::{io, ops::Range};

use super::{Disk, DiskFile as _, Log, PutError};

impl<D: Disk> Log<D> {
    /// Goes on after a failure: in a new segment, or behind what was written where the disk has no room for one. Returns the
    /// numbers of the entries that may or may not be there: they are not given again. Where some of them were `acknowledged`,
    /// they are told as missing if they are.
    ///
    /// # Errors
    /// The disk still fails.
    pub(crate) fn heal(&mut self, acknowledged: bool) -> io::Result<Range<u64>> {
        let uncertain = self.synced_number..self.next_number;
        let written_end = self.segments.head().map_or(0, |head| head.end);
        self.buffer.clear();
        self.floor_put = None;
        self.unsynced = false;
        self.failed = false;
        let is_known = !uncertain.is_empty() && !acknowledged;
        if is_known {
            self.missing.push(uncertain.clone());
        }
        let healed = self.go_on(written_end);
        if healed.is_err() {
            self.failed = true;
            if is_known {
                self.missing.pop_if(|last| *last == uncertain);
            }
        } else {
            self.synced_number = self.next_number;
        }
        healed.map(|()| uncertain)
    }

    fn go_on(&mut self, written_end: u64) -> io::Result<()> {
        if !self.head_is_synced && self.segments.head().is_some() {
            // nothing of it is on the disk: it begins again
            self.segments.extend_head(0);
            self.buffer_at = 0;
            self.put_start().map_err(io::Error::from)?;
            return self.sync();
        }
        // what did not get through is none of it: whoever reads on must not look for it
        self.segments.extend_head(self.buffer_at);
        // what only the kernel has of it may come through yet
        let synced = self.segments.head().map_or(Ok(()), |head| head.handle.sync_data());
        match self.begin_segment(0) {
            Err(PutError::NoRoom(_)) if synced.is_ok() && !self.head_is_closed => {
                self.segments.extend_head(written_end);
                self.buffer_at = written_end;
                self.missing_untold.append(&mut self.missing);
                Ok(())
            }
            begun => begun.map_err(io::Error::from).and_then(|()| self.sync()),
        }
    }
}
