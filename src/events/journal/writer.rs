//! The thread that owns the journal's log: it writes and syncs once for all that waits, reads back, and tries a failed disk again.

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::{
    entry::{self, CARRIED, DONE, MESSAGE},
    messages::KnownMessage,
    shared::{AdmittedMessage, JournalRead, JournalTurn, SharedJournal},
};
use crate::{
    config,
    events::EventError,
    log::{Disk, Log, Place, PutError, Room},
    telemetry::labels::EventOutcome,
};

/// One write takes about this much; more waits for the next.
const BATCH_BYTES: usize = 4 << 20;
/// How often a failed or full disk is tried.
pub(super) const RETRY: Duration = Duration::from_secs(1);
/// How often the folder is looked at while messages come.
const LOOK: Duration = Duration::from_secs(1);
/// Released segments are overwritten this long after the last release.
const TIDY_AFTER: Duration = Duration::from_secs(1);
/// A log of so few segments is left as it is, whatever it holds.
const FEW_SEGMENTS: u32 = 8;
/// What cannot be read so often in a row is given up.
const READ_TRIES: u32 = 60;

/// See the module.
pub(super) struct JournalWriter<D: Disk> {
    shared: Arc<SharedJournal>,
    log: Log<D>,
    /// When the disk must have what only the kernel has.
    sync_by: Option<Instant>,
    /// The log failed, or the disk is full: when it is tried again.
    retry_at: Option<Instant>,
    looked_at: Instant,
    tidy_at: Option<Instant>,
    /// Reads in a row that failed.
    read_failures: u32,
}

/// What the log has of a turn.
#[derive(Default)]
struct WrittenJournal {
    /// Of the batch, as far as there was room.
    entries: Vec<(u64, Place)>,
    no_room: Option<io::Error>,
    /// It knows what is done with.
    done: bool,
}

impl<D: Disk> JournalWriter<D> {
    pub(super) fn new(shared: Arc<SharedJournal>, log: Log<D>) -> Self {
        let now = Instant::now();
        Self { shared, log, sync_by: None, retry_at: None, looked_at: now, tidy_at: Some(now), read_failures: 0 }
    }

    /// Until the journal is closed.
    pub(super) fn run(mut self) {
        while !self.turn() {}
        self.shared.refuse("the gateway is stopping");
        if let Err(error) = self.log.close() {
            tracing::warn!(%error, "the events' log was not closed in order: some messages may come again");
        }
    }

    /// Whether it was the last.
    fn turn(&mut self) -> bool {
        if let Some(retry_at) = self.retry_at {
            let closing = self.shared.wait_to_retry(retry_at);
            if !self.heal() {
                return closing;
            }
        }
        self.wait();
        // the first message of a burst wakes this thread: it must not take the core from who sends the others
        std::thread::yield_now();
        let JournalTurn { batch, done, done_is_due, reads, last } = self.shared.begin(BATCH_BYTES);
        let mut written = WrittenJournal::default();
        let outcome = self.look().and_then(|()| self.write(&batch, &done, done_is_due, last, &mut written));
        if outcome.is_err() || !written.done {
            self.shared.not_written(done);
        }
        match outcome {
            Ok(()) => self.settle(batch, written),
            Err(error) => {
                written.entries.clear();
                self.settle(batch, written);
                self.fail(&error);
            }
        }
        if let Err(error) = self.answer(reads).and_then(|()| self.carry_oldest()) {
            self.fail(&error);
        }
        // a last one that failed is not tried again
        last
    }

    fn wait(&mut self) {
        loop {
            let now = Instant::now();
            if self.tidy_at.is_none_or(|at| at > now) {
                return self.shared.wait([self.sync_by, self.tidy_at].into_iter().flatten().min());
            }
            if self.shared.has_work() || self.sync_by.is_some_and(|by| by <= now) {
                return;
            }
            let more = self.log.tidy().unwrap_or_else(|error| {
                tracing::debug!(%error, "released segments of the events' log were not overwritten");
                false
            });
            self.tidy_at = self.tidy_at.filter(|_| more);
        }
    }

    fn write(
        &mut self,
        batch: &[AdmittedMessage],
        done: &[std::ops::Range<u64>],
        done_is_due: bool,
        last: bool,
        written: &mut WrittenJournal,
    ) -> io::Result<()> {
        let (oldest, is_empty) = {
            let locked = self.shared.lock();
            (locked.messages.oldest_segment(), locked.messages.count() == 0)
        };
        for AdmittedMessage { lane, json, .. } in batch {
            let (len, lane) = entry::lane_head(lane);
            match self.log.put(MESSAGE, &[&len, lane.as_bytes(), json], Room::Payload) {
                Ok(entry) => written.entries.push(entry),
                Err(PutError::NoRoom(error)) => {
                    written.no_room = Some(error);
                    break;
                }
                Err(error) => return Err(error.into()),
            }
        }
        written.done = done.is_empty() || self.put(DONE, &[&entry::write_ranges(done)])?;
        // of the messages of this turn the oldest is in the first segment that they went to
        let first_new = written.entries.first().map(|(_, place)| place.segment);
        let head = self.log.head();
        let mut needed_from = oldest.into_iter().chain(first_new).min().unwrap_or(head).min(head);
        if last && is_empty && written.entries.is_empty() {
            needed_from = head + 1;
            // the segment that is begun at the end is in a file that has nothing of an earlier one
            while self.log.tidy().unwrap_or(false) {}
        }
        if needed_from > self.log.oldest() {
            match self.log.release(needed_from) {
                Ok(()) => self.tidy_at = Some(Instant::now() + TIDY_AFTER),
                // the next turn tries again
                Err(PutError::NoRoom(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let sync_is_due = self.sync_by.is_some_and(|by| by <= Instant::now());
        let always = self.shared.options.sync == config::Sync::Always;
        if done_is_due || sync_is_due || last || (always && !batch.is_empty()) {
            self.log.sync()?;
            self.sync_by = None;
            return Ok(());
        }
        self.log.write()?;
        if let config::Sync::Every(within) = self.shared.options.sync
            && !batch.is_empty()
        {
            self.sync_by.get_or_insert(Instant::now() + within);
        }
        Ok(())
    }

    /// Whether there was room.
    fn put(&mut self, kind: u8, parts: &[&[u8]]) -> io::Result<bool> {
        match self.log.put(kind, parts, Room::Progress) {
            Ok(_) => Ok(true),
            Err(PutError::NoRoom(_)) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Tells the senders of a batch what became of their messages.
    fn settle(&mut self, mut batch: Vec<AdmittedMessage>, written: WrittenJournal) {
        let WrittenJournal { entries, no_room, .. } = written;
        let mut locked = self.shared.lock();
        locked.settle(&batch);
        let refused = batch.split_off(entries.len());
        for (message, (number, place)) in batch.iter().zip(&entries) {
            let known = KnownMessage {
                place: *place,
                lane: self.shared.lane(&message.lane),
                len: message.json.len() as u32,
                json: Some(message.json.clone()),
            };
            locked.messages.insert(*number, known);
        }
        self.shared.unlock(locked, false);
        if !entries.is_empty() {
            self.shared.metrics.events.get_or_create(&EventOutcome::Accepted).inc_by(entries.len() as u64);
            self.shared.arrived.send_replace(());
        }
        for message in batch {
            // its sender may have left
            let _ = message.outcome.send(Ok(()));
        }
        let Some(error) = no_room else {
            let reason = "its log cannot be written";
            refused.into_iter().for_each(|message| refuse(message, reason));
            return;
        };
        tracing::error!(%error, "the disk is full: no message of a client is accepted until there is room");
        let reason = format!("the disk of [data] dir has no room for more ({error})");
        refused.into_iter().for_each(|message| refuse(message, &reason));
        self.shared.refuse(&reason);
        self.retry_at = Some(Instant::now() + RETRY);
    }

    /// Reads messages again.
    fn answer(&mut self, reads: Vec<JournalRead>) -> io::Result<()> {
        let mut reads = reads.into_iter();
        while let Some(JournalRead { numbers, answer }) = reads.next() {
            match self.read(&numbers) {
                Ok(found) => drop(answer.send(Ok(found))),
                Err(error) => {
                    self.read_failures += 1;
                    let reason = error.to_string();
                    let _ = answer.send(Err(reason.clone()));
                    reads.for_each(|read| drop(read.answer.send(Err(reason.clone()))));
                    return Err(error);
                }
            }
        }
        self.read_failures = 0;
        Ok(())
    }

    /// Those of `numbers` that wait, with their JSON. What is damaged is lost.
    fn read(&mut self, numbers: &[u64]) -> io::Result<Vec<(u64, Bytes)>> {
        let mut found = Vec::with_capacity(numbers.len());
        for &number in numbers {
            let known = {
                let locked = self.shared.lock();
                locked.messages.get(number).map(|message| (message.place, message.json.clone()))
            };
            let Some((place, json)) = known else { continue };
            let json = match json {
                Some(json) => Some(json),
                None => self.log.read(place)?.and_then(|(kind, body)| entry::json_in(kind, &body)),
            };
            match json {
                Some(json) => found.push((number, json)),
                None => {
                    tracing::error!(number, "a message is missing from the events' log: did the disk fail?");
                    self.shared.metrics.events.get_or_create(&EventOutcome::Lost).inc();
                    self.shared.done(std::iter::once(number..number + 1));
                }
            }
        }
        Ok(found)
    }

    /// Writes the messages of the oldest segment again where the log holds little else that waits, so that one card's messages
    /// do not keep all that came after them.
    fn carry_oldest(&mut self) -> io::Result<()> {
        let oldest = self.log.oldest();
        if self.retry_at.is_some() || self.log.head().saturating_sub(oldest) < FEW_SEGMENTS {
            return Ok(());
        }
        let there = {
            let locked = self.shared.lock();
            if self.log.bytes() / 2 < locked.messages.bytes() {
                return Ok(());
            }
            locked.messages.in_segment(oldest)
        };
        let mut carried = Vec::with_capacity(there.len());
        for (number, place) in there {
            // one that cannot be read is lost when its turn comes
            let read = self.log.read(place)?;
            let Some(body) = read.and_then(|(kind, body)| entry::message_body(kind, &body)) else { continue };
            match self.log.put(CARRIED, &[&number.to_le_bytes(), &body], Room::Progress) {
                Ok((_, place)) => carried.push((number, place)),
                Err(PutError::NoRoom(_)) => break,
                Err(error) => return Err(error.into()),
            }
        }
        if carried.is_empty() {
            return Ok(());
        }
        self.log.sync()?;
        let mut locked = self.shared.lock();
        for (number, place) in carried {
            locked.messages.carried(number, place);
        }
        Ok(())
    }

    /// Notices a folder that was deleted or replaced, before anything is acknowledged that only it would have.
    fn look(&mut self) -> io::Result<()> {
        if self.looked_at.elapsed() < LOOK {
            return Ok(());
        }
        self.looked_at = Instant::now();
        self.log.displaced().map_or(Ok(()), |what| Err(io::Error::other(what)))
    }

    /// The disk failed: nothing is accepted until it works again.
    fn fail(&mut self, error: &io::Error) {
        tracing::error!(%error, "the events' log failed; no message of a client is accepted until it can be written again");
        self.retry_at = Some(Instant::now() + RETRY);
        self.shared.refuse(&format!("its log failed: {error}"));
    }

    /// Whether the log can be written again.
    fn heal(&mut self) -> bool {
        let healed = match self.log.displaced() {
            Some(what) => Err(io::Error::other(what)),
            // what was acknowledged before a sync is told as damage if it is missing at the next start
            None if self.log.is_failed() => self.log.heal(self.shared.options.sync != config::Sync::Always).map(drop),
            None => {
                // it could not be read: if that does not go by, what is there is lost
                self.log.pass_over_unreadable(self.read_failures >= READ_TRIES);
                self.log.make_room().map_err(io::Error::from)
            }
        };
        if let Err(error) = healed {
            self.retry_at = Some(Instant::now() + RETRY);
            self.shared.refuse(&format!("its log cannot be written: {error}"));
            return false;
        }
        tracing::info!("the events' log works again");
        self.retry_at = None;
        self.shared.accept();
        true
    }
}

fn refuse(message: AdmittedMessage, reason: &str) {
    let _ = message.outcome.send(Err(EventError::Unavailable(reason.to_owned())));
}
