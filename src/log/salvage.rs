//! What can be read of a damaged log becomes a new one.

use super::{
    Disk, Log, LogOpenError, LogOptions, PutError, Recovered, Room,
    recovery::{SeveralLogs, recover},
};

/// Copies each whole user entry of `from` that is not released into a new log in the empty folder `to`, with the same numbers. Of
/// several logs the one with the newest entries is taken.
///
/// # Errors
/// `from` cannot be read at all, `to` is not empty or cannot be written.
pub(crate) fn salvage<D: Disk>(from: &D, to: D, options: LogOptions) -> Result<Recovered, LogOpenError> {
    let is_empty = to.files().is_ok_and(|files| files.is_empty());
    if !is_empty {
        return Err(LogOpenError("there is a log in the folder to write to: name an empty folder".into()));
    }
    let (mut log, _) = Log::open(to, options, |_| {})?;
    let mut failure: Option<PutError> = None;
    let found = recover(from, SeveralLogs::TakeNewest, |entry| {
        if failure.is_none() {
            log.skip_to(entry.number);
            failure = log.put(entry.kind, &[entry.body], Room::Payload).err();
        }
    })?;
    let written = failure.map_or(Ok(()), |failure| Err(failure.into())).and_then(|()| {
        log.skip_to(found.next_number);
        log.close()
    });
    written.map_err(|error| LogOpenError(format!("cannot write the new log: {error}")))?;
    Ok(found.report)
}

impl<D: Disk> Log<D> {
    /// The numbers up to `number` are missing, and known to be.
    fn skip_to(&mut self, number: u64) {
        let missing = self.next_number..number;
        if !missing.is_empty() {
            self.next_number = number;
            self.missing_untold.push(missing);
        }
    }
}
