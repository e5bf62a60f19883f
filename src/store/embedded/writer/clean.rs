//! Segments whose pushes are nearly all gone are emptied, so that they can go; and where the store has too much, the oldest
//! pushes are.

use std::{
    collections::BTreeMap,
    io,
    time::{Duration, Instant},
};

use super::{StoreWriter, telling::ToldAgain};
use crate::{
    log::{Disk, Place, PutError, Room},
    store::embedded::{
        entry::{MOVED, STREAM},
        streams::LivePush,
    },
};

/// About so much of a segment is read at once.
const PIECE: usize = 512 << 10;
/// A log of so few segments is left as it is, whatever it holds.
const FEW_SEGMENTS: u32 = 8;
/// What streams, cursors and claims take in the log, each, at most about.
const STREAM_BYTES: u64 = 256;
const DEVICE_BYTES: u64 = 256;
/// What cannot be read so often in a row is given up.
const READ_TRIES: u32 = 60;
/// Where there is no room to clean, it is tried again this much later.
const CLEAN_AGAIN: Duration = Duration::from_secs(1);

impl<D: Disk> StoreWriter<D> {
    /// The oldest pushes leave while the store has more than `[store] max_bytes`.
    pub(super) fn push_out(&mut self) -> io::Result<()> {
        let most = self.shared.limits.max_bytes;
        if self.retry_at.is_some() || self.shared.lock().streams.totals().bytes <= most {
            return Ok(());
        }
        let oldest = Place { segment: self.log.oldest(), offset: 0 };
        let mut from = self.out_from.filter(|from| *from > oldest).unwrap_or(oldest);
        loop {
            let shared = self.shared.clone();
            // the lock is not held while the disk is read
            let read = self.log.read_from(from, PIECE, |entry| {
                let streams = &mut shared.lock().streams;
                if streams.totals().bytes > most {
                    streams.push_out(&entry);
                }
            });
            let Some(next) = self.readable(read)? else { return Ok(()) };
            let is_enough = shared.lock().streams.totals().bytes <= most;
            if is_enough {
                self.out_from = Some(from);
                shared.show(&mut shared.lock());
                break;
            }
            // what was moved on stands behind
            let Some(next) = next else {
                self.out_from = None;
                break;
            };
            from = next;
        }
        self.release(None)
    }

    /// Empties the oldest segment, a piece at a time, where the log holds little else that is needed.
    pub(super) fn clean(&mut self) -> io::Result<()> {
        while self.should_clean() {
            if !self.clean_piece()? || self.shared.has_work() {
                break;
            }
        }
        Ok(())
    }

    fn should_clean(&self) -> bool {
        let segments = self.log.head().saturating_sub(self.log.oldest());
        if self.retry_at.is_some() || segments < FEW_SEGMENTS || Instant::now() < self.clean_at {
            return false;
        }
        let totals = self.shared.lock().streams.totals();
        let needed = totals.bytes + totals.streams * STREAM_BYTES + totals.devices * DEVICE_BYTES;
        self.log.bytes() / 2 > needed
    }

    /// Whether there was something to do, and room for it.
    fn clean_piece(&mut self) -> io::Result<bool> {
        let oldest = self.log.oldest();
        let begin = Place { segment: oldest, offset: 0 };
        let from = self.clean_from.filter(|from| from.segment == oldest).unwrap_or(begin);
        let mut streams = BTreeMap::new();
        let mut live: Vec<LivePush> = Vec::new();
        let shared = self.shared.clone();
        let read = self.log.read_from(from, PIECE, |entry| {
            if entry.place.segment == oldest {
                live.extend(shared.lock().streams.leave(&entry, &mut streams));
            }
        });
        let Some(next) = self.readable(read)? else { return Ok(false) };
        let mut again = ToldAgain::default();
        let Some(moved) = self.write_again(&streams, &live, &mut again)? else {
            self.clean_at = Instant::now() + CLEAN_AGAIN;
            return Ok(false);
        };
        self.settle_again(again);
        let mut locked = shared.lock();
        for (push, place) in live.iter().zip(&moved) {
            locked.streams.moved(push, *place);
        }
        drop(locked);
        self.clean_from = next.filter(|next| next.segment == oldest);
        if self.clean_from.is_none() {
            self.release(None)?;
            self.log.sync()?;
            if self.log.oldest() == oldest {
                self.give_up(oldest)?;
            }
            self.read_failures = 0;
            self.log.pass_over_unreadable(false);
        }
        Ok(true)
    }

    /// What was read. `None`: it cannot be read now, which keeps no push from being stored.
    fn readable(&mut self, read: io::Result<Option<Place>>) -> io::Result<Option<Option<Place>>> {
        let error = match read {
            Ok(next) => return Ok(Some(next)),
            Err(error) if self.log.is_failed() => return Err(error),
            Err(error) => error,
        };
        tracing::error!(%error, "an old segment of the store's log cannot be read");
        self.read_failures += 1;
        // if that does not go by, what is there is lost
        self.log.pass_over_unreadable(self.read_failures >= READ_TRIES);
        self.clean_at = Instant::now() + CLEAN_AGAIN;
        Ok(None)
    }

    /// What is needed of a segment was not all found in it.
    fn give_up(&mut self, segment: u32) -> io::Result<()> {
        tracing::error!(segment, "stored pushes are missing from a segment of the store's log: did the disk fail?");
        let mut streams = BTreeMap::new();
        self.shared.lock().streams.give_up(segment, &mut streams);
        self.shared.show(&mut self.shared.lock());
        let mut again = ToldAgain::default();
        if self.write_again(&streams, &[], &mut again)?.is_some() {
            self.settle_again(again);
        }
        self.release(None)?;
        self.log.sync()
    }

    /// Puts at the head what lives on, and syncs. `None`: there is no room.
    fn write_again(
        &mut self,
        streams: &BTreeMap<u32, Vec<u8>>,
        live: &[LivePush],
        again: &mut ToldAgain,
    ) -> io::Result<Option<Vec<Place>>> {
        let mut moved = Vec::with_capacity(live.len());
        let mut is_full = false;
        // a stream's head stands before its pushes: a replay must know how far it was
        for (stream, body) in streams {
            match self.put_progress(STREAM, body)? {
                Some(segment) => again.notices.push((Some(*stream), segment)),
                None => is_full = true,
            }
        }
        for push in live {
            match self.log.put(MOVED, &[&push.head, &push.record], Room::Progress) {
                Ok((_, place)) => moved.push(place),
                Err(PutError::NoRoom(_)) => is_full = true,
                Err(error) => return Err(error.into()),
            }
            if is_full {
                break;
            }
        }
        let told = self.tell_again(again);
        let synced = told.and_then(|()| self.log.sync());
        if let Err(error) = synced {
            self.not_told(std::mem::take(again));
            return Err(error);
        }
        if is_full {
            self.settle_again(std::mem::take(again));
            let mut locked = self.shared.lock();
            for (push, place) in live.iter().zip(&moved) {
                locked.streams.moved(push, *place);
            }
            return Ok(None);
        }
        Ok(Some(moved))
    }
}
