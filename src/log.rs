//! The node's own log: an append-only file in segments, under the embedded queue.
//!
//! A segment is a file that was written full of zeros when it was made, so that a sync has only data to write. Entries are put
//! into the newest segment, the *head*, one after the other; once it is full the next one begins. Segments are released oldest
//! first, and their files used again: which segment a file holds is told by its entries alone, each of which names its log,
//! its segment and its number. So an old round is never believed, and a damaged entry costs itself alone: what is behind it
//! is found again. docs/adr/0015-log.md tells the form and why.
//!
//! The log has one owner, on one thread.

mod clock;
mod control;
mod disk;
mod entry;
mod folder;
mod heal;
mod read;
mod reader;
mod recovery;
mod report;
mod salvage;
mod scan;
mod segments;
#[cfg(test)]
pub(crate) mod tests;

use std::{io, ops::Range};

use clock::LogClock;
use control::{FLOOR, Floor, MISSING, NEXT, OPENED, START, Start, USERS, is_numbered, ranges_to_bytes};
use entry::{EntryHead, HEAD};
use recovery::{SeveralLogs, recover};
use segments::Segments;

pub(crate) use clock::boot_id;
pub(crate) use disk::{Disk, DiskFile};
pub(crate) use folder::{Folder, is_file_name};
pub(crate) use reader::LogReader;
pub(crate) use report::{Damage, FileReport, LogOpenError, Recovered};
pub(crate) use salvage::salvage;

/// One write is about this much; a buffer that grew beyond it is given back.
const PIECE: usize = 64 * 1024;
/// Of each segment only the log's own entries may take these last bytes.
const TAIL: u64 = 2048;
/// Zeros behind the last entry.
const END: [u8; HEAD] = [0; HEAD];

/// How a log is made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LogOptions {
    /// Bytes of a segment's file. A larger entry gets a file of its own.
    pub(crate) segment_bytes: u32,
}

/// Where an entry is: valid until its segment is released.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    /// The segment.
    pub(crate) segment: u32,
    /// In bytes from its beginning.
    pub(crate) offset: u32,
}

/// A whole entry, read.
#[derive(Debug)]
pub(crate) struct Entry<'a> {
    /// +1 for each entry of a kind below 128; that of the next one for the others.
    pub(crate) number: u64,
    /// Where it is.
    pub(crate) place: Place,
    /// What it is to its user: 16 and up; from 128 on entries without a number.
    pub(crate) kind: u8,
    /// Its content.
    pub(crate) body: &'a [u8],
}

/// What an entry is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    /// What fills the log. It takes the second half of a segment only while another file is there.
    Payload,
    /// What lets segments go: it has room where payload has none any more.
    Progress,
}

/// Why an entry was not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PutError {
    /// The disk is full. The log works on.
    #[error("{0}")]
    NoRoom(io::Error),
    /// Its body is larger than a file may be.
    #[error("an entry of the log has at most {} bytes", u32::MAX / 2)]
    TooLarge,
    /// The log has failed: [`Log::heal`].
    #[error("{0}")]
    Io(io::Error),
}

impl From<PutError> for io::Error {
    fn from(error: PutError) -> Self {
        match error {
            PutError::NoRoom(error) | PutError::Io(error) => error,
            PutError::TooLarge => Self::other(error.to_string()),
        }
    }
}

/// See the module.
pub(crate) struct Log<D: Disk> {
    id: u32,
    segments: Segments<D>,
    clock: LogClock,
    next_number: u64,
    /// What was put and not written.
    buffer: Vec<u8>,
    /// Where it goes in the head.
    buffer_at: u64,
    /// Something was written and not synced.
    unsynced: bool,
    /// All before it is on the disk.
    synced_number: u64,
    /// The head takes nothing more.
    head_is_closed: bool,
    /// The disk knows that there is the head.
    head_is_synced: bool,
    /// FLOOR was put: segments below go with the next sync.
    floor_put: Option<Floor>,
    /// The segment before the head is to be told that the head exists.
    next_untold: Option<u32>,
    /// Numbers that are known to be missing.
    missing: Vec<Range<u64>>,
    /// They stand in no entry yet.
    missing_untold: Vec<Range<u64>>,
    failed: bool,
    passes_over_unreadable: bool,
}

impl<D: Disk> Log<D> {
    /// Opens the log in a folder, or makes one; each whole user entry that is not released goes to `replay`, in order. What is
    /// damaged is left out and told. Nothing is written, but in a new folder.
    ///
    /// # Errors
    /// What is there is no log of this version, or not one log; or the disk fails.
    pub(crate) fn open(
        disk: D,
        options: LogOptions,
        replay: impl FnMut(Entry<'_>),
    ) -> Result<(Self, Recovered), LogOpenError> {
        let found = recover(&disk, SeveralLogs::Refuse, replay)?;
        let failed = |error: io::Error| {
            LogOpenError(format!("cannot open the log: {error}; see that the disk works and is not full"))
        };
        let segments = Segments::new(disk, options, found.segments, found.free, found.floor, found.next_segment);
        let end = segments.head().map_or(0, |head| head.end);
        let mut log = Self {
            id: found.log.unwrap_or_else(|| fastrand::u32(1..)),
            clock: LogClock::new(found.anchor),
            next_number: found.next_number,
            buffer: Vec::new(),
            buffer_at: end,
            unsynced: false,
            synced_number: found.next_number,
            // a file that was deleted behind it may have come after it
            head_is_closed: segments.head().is_none_or(|head| head.id + 1 < found.next_segment),
            head_is_synced: true,
            floor_put: None,
            next_untold: None,
            missing: found.missing,
            missing_untold: found.newly_missing,
            failed: false,
            passes_over_unreadable: false,
            segments,
        };
        if let Some(head) = log.segments.head() {
            // a killed predecessor may have written what no sync followed: now it is there for good
            head.handle.sync_data().map_err(failed)?;
        }
        if log.segments.is_unused() {
            // so that a file without a whole entry never was the log
            log.begin_segment(0).map_err(io::Error::from).and_then(|()| log.sync()).map_err(failed)?;
        }
        Ok((log, found.report))
    }

    /// Milliseconds since 1970. No change of the wall clock moves it while the machine runs.
    pub(crate) fn now(&self) -> u64 {
        self.clock.now()
    }

    /// Reads entries beside the log's owner, on any thread.
    pub(crate) fn reader(&self) -> LogReader<D::File> {
        LogReader::new(self.id, self.segments.open().clone())
    }

    /// The newest segment.
    pub(crate) fn head(&self) -> u32 {
        self.segments.next_id() - 1
    }

    /// The oldest segment that is not released.
    pub(crate) fn oldest(&self) -> u32 {
        self.segments.floor().segment
    }

    /// Of all files, in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.segments.bytes()
    }

    /// The number of the entry that is put next.
    pub(crate) fn next_number(&self) -> u64 {
        self.next_number
    }

    /// Puts an entry of a kind from 16 on whose body is `parts` one after the other. It is in the log once [`Log::write`] or [`Log::sync`] returned.
    ///
    /// # Errors
    /// See [`PutError`].
    pub(crate) fn put(&mut self, kind: u8, parts: &[&[u8]], room: Room) -> Result<(u64, Place), PutError> {
        debug_assert!(kind >= USERS);
        let len = parts.iter().map(|part| part.len()).sum::<usize>();
        if len > u32::MAX as usize / 2 {
            return Err(PutError::TooLarge);
        }
        self.tell_missing()?;
        self.make_room_for(len, room)?;
        let place = self.append(kind, len, parts)?;
        let number = self.next_number;
        self.next_number += u64::from(is_numbered(kind));
        Ok((number, place))
    }

    /// As if an entry were to be put: whether there is room for payload.
    ///
    /// # Errors
    /// See [`PutError`].
    pub(crate) fn make_room(&mut self) -> Result<(), PutError> {
        self.make_room_for(PIECE.min(self.segments.options().segment_bytes as usize / 4), Room::Payload)
    }

    /// Returns once the kernel has all that was put.
    ///
    /// # Errors
    /// The log has failed: see [`Log::heal`].
    pub(crate) fn write(&mut self) -> io::Result<()> {
        self.check_failed()?;
        if self.buffer.is_empty() {
            return Ok(());
        }
        let left = self.segments.head().map_or(0, |head| head.len).saturating_sub(self.end());
        let written = self.buffer.len();
        self.buffer.extend_from_slice(&END[..END.len().min(left as usize)]);
        self.flush()?;
        self.buffer_at += written as u64;
        Ok(())
    }

    /// Writes the buffer to its place, and empties it.
    fn flush(&mut self) -> io::Result<()> {
        let outcome = match self.segments.head() {
            Some(head) => {
                let mut at = self.buffer_at;
                self.buffer.chunks(PIECE).try_for_each(|piece| {
                    head.handle.write_at(at, piece)?;
                    at += piece.len() as u64;
                    Ok(())
                })
            }
            None => Ok(()),
        };
        self.buffer.clear();
        self.buffer.shrink_to(PIECE);
        self.unsynced = true;
        self.or_failed(outcome)
    }

    /// Returns once the disk has all that was put. Nothing to do: no call.
    ///
    /// # Errors
    /// The log has failed: see [`Log::heal`].
    pub(crate) fn sync(&mut self) -> io::Result<()> {
        self.write()?;
        if !self.unsynced {
            return Ok(());
        }
        let outcome = self.segments.head().map_or(Ok(()), |head| head.handle.sync_data());
        self.or_failed(outcome)?;
        self.unsynced = false;
        self.head_is_synced = true;
        self.synced_number = self.next_number;
        self.segments.begun();
        if let Some(before) = self.next_untold.take() {
            // not synced: it only tells of a head that was deleted from outside
            let _ = self.tell_next(before);
        }
        if let Some(floor) = self.floor_put.take() {
            self.segments.release(floor);
            self.missing.retain(|range| range.end > floor.number);
            self.head_is_closed |= self.segments.head().is_none();
        }
        Ok(())
    }

    /// Gives up all segments before `before`, at most `head` + 1: their files are free after the next [`Log::sync`].
    ///
    /// # Errors
    /// See [`PutError`].
    pub(crate) fn release(&mut self, before: u32) -> Result<(), PutError> {
        let before = before.min(self.segments.next_id());
        if before <= self.oldest() || self.floor_put.is_some_and(|floor| floor.segment >= before) {
            return Ok(());
        }
        let len = Floor::LEN;
        if !self.fits(len, 0) {
            self.make_room_for(len, Room::Progress)?;
        }
        // of the head too: what comes next begins a segment of its own
        let closes_head = before == self.segments.next_id();
        let number = if closes_head { self.next_number } else { self.segments.first_number(before) };
        let floor = Floor { segment: before, number };
        self.append(FLOOR, len, &[&floor.to_bytes()])?;
        self.floor_put = Some(floor);
        self.head_is_closed |= closes_head;
        Ok(())
    }

    /// Overwrites what was released, or removes a file too many: one piece of work. False: there is none left.
    ///
    /// # Errors
    /// The disk failed; the log works on.
    pub(crate) fn tidy(&mut self) -> io::Result<bool> {
        if self.segments.head().is_none() && !self.segments.is_unused() {
            // which segments are released must stand somewhere before their files are overwritten
            self.begin_segment(0)?;
            self.sync()?;
        }
        self.segments.tidy()
    }

    /// In words: the folder or a file of it was deleted or replaced.
    pub(crate) fn displaced(&self) -> Option<String> {
        self.segments.displaced()
    }

    /// Syncs, and overwrites what was released.
    ///
    /// # Errors
    /// The disk failed: what was synced before is safe.
    pub(crate) fn close(mut self) -> io::Result<()> {
        self.sync()?;
        while self.tidy()? {}
        Ok(())
    }

    /// A write or a sync failed, and [`Log::heal`] has not gone on yet.
    pub(crate) fn is_failed(&self) -> bool {
        self.failed
    }

    fn end(&self) -> u64 {
        self.buffer_at + self.buffer.len() as u64
    }

    /// Whether the head has room for a body of `len` and `reserved` bytes behind it.
    fn fits(&self, len: usize, reserved: u64) -> bool {
        let usable = self.segments.head().map_or(0, |head| head.len).saturating_sub(reserved);
        !self.head_is_closed && self.end() + entry::size(len) as u64 <= usable
    }

    fn make_room_for(&mut self, len: usize, room: Room) -> Result<(), PutError> {
        self.check_failed().map_err(PutError::Io)?;
        if !self.fits(len, TAIL) {
            return self.begin_segment(len);
        }
        let half = self.segments.head().map_or(0, |head| head.len) / 2;
        if room == Room::Payload && self.end() + entry::size(len) as u64 > half {
            self.segments.keep_spare().map_err(PutError::NoRoom)?;
        }
        Ok(())
    }

    /// Appends to the buffer; the number is given with [`Log::next_number`].
    fn append(&mut self, kind: u8, len: usize, parts: &[&[u8]]) -> Result<Place, PutError> {
        self.check_failed().map_err(PutError::Io)?;
        if self.buffer.len() >= PIECE {
            let written = self.buffer.len() as u64;
            self.flush().map_err(PutError::Io)?;
            self.buffer_at += written;
        }
        let segment = self.head();
        let offset = self.end() as u32;
        let synced = !self.unsynced && self.buffer.is_empty();
        let head = EntryHead::new(self.id, segment, kind, synced, self.next_number, len as u32);
        head.encode(parts, &mut self.buffer);
        self.segments.extend_head(self.end());
        Ok(Place { segment, offset })
    }

    /// Goes on in the next segment, with room for an entry of `len`.
    fn begin_segment(&mut self, len: usize) -> Result<(), PutError> {
        let start_len = Start::longest();
        let needed = (entry::size(start_len) + entry::size(len)) as u64 + TAIL;
        let file = self.segments.take_free(needed).map_err(PutError::NoRoom)?;
        // each segment is whole on the disk before the next one has anything
        if let Err(error) = self.sync() {
            self.segments.give_back(file);
            return Err(PutError::Io(error));
        }
        self.next_untold = self.segments.head().map(|head| head.id);
        let has_floor = file.has_floor;
        self.segments.begin(file, self.next_number);
        self.buffer_at = 0;
        self.head_is_closed = false;
        self.head_is_synced = false;
        self.put_start()?;
        if has_floor {
            // what comes next may overwrite what told of it before
            self.sync().map_err(PutError::Io)?;
        }
        Ok(())
    }

    fn put_start(&mut self) -> Result<(), PutError> {
        let file_len = self.segments.head().map_or(0, |head| head.len);
        let oldest = self.missing.len().saturating_sub(MISSING);
        self.missing.drain(..oldest);
        let floor = self.segments.floor();
        let start = Start { file_len, floor, anchor: self.clock.anchor(), missing: self.missing.clone() };
        let body = start.to_bytes();
        self.append(START, body.len(), &[&body]).map(drop)
    }

    /// What an open found missing is told once: from now on it is known.
    fn tell_missing(&mut self) -> Result<(), PutError> {
        if self.missing_untold.is_empty() {
            return Ok(());
        }
        let untold = std::mem::take(&mut self.missing_untold);
        let newest = &untold[untold.len().saturating_sub(MISSING)..];
        let body = ranges_to_bytes(newest);
        self.missing.extend_from_slice(newest);
        if self.fits(body.len(), 0) {
            self.append(OPENED, body.len(), &[&body])?;
        }
        Ok(())
    }

    fn tell_next(&mut self, before: u32) -> io::Result<()> {
        let head = self.head();
        let Some(segment) = self.segments.get(before) else { return Ok(()) };
        let body = head.to_le_bytes();
        let size = entry::size(body.len()) as u64;
        if segment.end + size > segment.len {
            return Ok(());
        }
        let mut bytes = Vec::with_capacity(size as usize);
        let number = self.segments.first_number(head);
        EntryHead::new(self.id, before, NEXT, true, number, body.len() as u32).encode(&[&body], &mut bytes);
        segment.handle.write_at(segment.end, &bytes)
    }

    fn check_failed(&self) -> io::Result<()> {
        if self.failed { Err(io::Error::other("the log has failed and was not healed")) } else { Ok(()) }
    }

    fn or_failed<T>(&mut self, outcome: io::Result<T>) -> io::Result<T> {
        self.failed |= outcome.is_err();
        outcome
    }
}

/// Reads a log without writing anything; each whole user entry that is not released goes to `found`, in order.
///
/// # Errors
/// As of [`Log::open`].
pub(crate) fn check<D: Disk>(disk: &D, found: impl FnMut(Entry<'_>)) -> Result<Recovered, LogOpenError> {
    recover(disk, SeveralLogs::Refuse, found).map(|found| found.report)
}
