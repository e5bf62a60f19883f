//! A log on the test disk, and beside it what was asked of it: each open is held against that.

use std::collections::BTreeMap;

use super::disk::{PoweredDisk, TestDisk};
use crate::log::{Damage, Log, LogOptions, Place, PutError, Recovered, Room};

pub(super) const OPTIONS: LogOptions = LogOptions { segment_bytes: 16 << 10 };

/// How safe an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Safety {
    /// A write or sync failed since it was put: it is there or not.
    Uncertain,
    Put,
    /// A kill does not take it.
    Written,
    /// A power cut does not take it.
    Synced,
}

#[derive(Clone, Debug)]
struct PutEntry {
    place: Place,
    kind: u8,
    body: Vec<u8>,
    safety: Safety,
}

/// How a process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    PowerCut,
    Kill,
    Close,
}

/// See the module. Where the log breaks a promise, methods return it in words.
pub(super) struct Ledger {
    pub(super) disk: TestDisk,
    pub(super) random: fastrand::Rng,
    log: Option<Log<PoweredDisk>>,
    entries: BTreeMap<u64, PutEntry>,
    bodies: u64,
    /// The next number is at least this one.
    next: u64,
    /// No number up to it may be given again, whatever happens.
    highest_synced: u64,
    /// Entries of segments below it may be gone.
    release_asked: u32,
    /// The next sync releases the segments below it.
    releasing: u32,
    /// Entries of segments below it must be gone.
    released: u32,
    /// A sync of a release failed: the kernel may say that it is done, and the disk may not have it.
    release_is_doubtful: bool,
    /// The disk failed once.
    has_failed: bool,
    /// Whether the disk may fail.
    pub(super) fails: bool,
    pub(super) heals: u32,
    pub(super) full: u32,
}

impl Ledger {
    /// With a log in an empty folder.
    pub(super) fn new(disk: TestDisk, seed: u64) -> Self {
        let mut ledger = Self {
            disk,
            random: fastrand::Rng::with_seed(seed),
            log: None,
            entries: BTreeMap::new(),
            bodies: 0,
            next: 0,
            highest_synced: 0,
            release_asked: 0,
            releasing: 0,
            released: 0,
            release_is_doubtful: false,
            has_failed: false,
            fails: seed.is_multiple_of(2),
            heals: 0,
            full: 0,
        };
        ledger.open(End::Close).unwrap();
        ledger
    }

    pub(super) fn log(&mut self) -> &mut Log<PoweredDisk> {
        self.log.as_mut().unwrap()
    }

    /// Numbers of entries that must be there.
    pub(super) fn synced(&self) -> usize {
        self.entries.values().filter(|entry| entry.safety == Safety::Synced).count()
    }

    /// Puts an entry of so many bytes; false: there was no room.
    pub(super) fn put(&mut self, len: usize, room: Room) -> Result<bool, String> {
        self.bodies += 1;
        // each body is another, and none is that of an earlier entry cut or filled up with zeros
        let seed = self.bodies;
        let mut body = fastrand::Rng::with_seed(seed);
        let body: Vec<u8> = (0..len).map(|_| body.u8(1..)).collect();
        let kind = self.random.u8(16..24);
        let middle = self.random.usize(0..=len);
        match self.log().put(kind, &[&body[..middle], &body[middle..]], room) {
            Ok((number, place)) => {
                if number < self.next || number <= self.highest_synced {
                    return Err(format!("number {number} was given twice"));
                }
                self.next = number + 1;
                self.entries.insert(number, PutEntry { place, kind, body, safety: Safety::Put });
                Ok(true)
            }
            Err(PutError::NoRoom(_)) => {
                self.full += 1;
                Ok(false)
            }
            Err(PutError::TooLarge) => Err(format!("{len} bytes are too large")),
            Err(PutError::Io(_)) => self.heal().map(|()| false),
        }
    }

    fn raise(&mut self, from: Safety, to: Safety) {
        for (number, entry) in &mut self.entries {
            if entry.safety >= from {
                entry.safety = entry.safety.max(to);
                if to == Safety::Synced {
                    self.highest_synced = self.highest_synced.max(*number);
                }
            }
        }
    }

    pub(super) fn write(&mut self) -> Result<(), String> {
        match self.log().write() {
            Ok(()) => self.raise(Safety::Put, Safety::Written),
            Err(_) => self.heal()?,
        }
        Ok(())
    }

    pub(super) fn sync(&mut self) -> Result<(), String> {
        match self.log().sync() {
            Ok(()) => {
                self.raise(Safety::Put, Safety::Synced);
                self.released = self.releasing;
                self.release_is_doubtful &= self.released < self.release_asked;
                let oldest = self.log().oldest();
                if oldest < self.released {
                    return Err(format!("{oldest} is not released by a sync, {} is", self.released));
                }
            }
            Err(_) => self.heal()?,
        }
        Ok(())
    }

    pub(super) fn release(&mut self, before: u32) -> Result<(), String> {
        let before = before.min(self.log().head() + 1);
        match self.log().release(before) {
            Ok(()) => {
                self.releasing = self.releasing.max(before);
                self.release_asked = self.release_asked.max(before);
                Ok(())
            }
            Err(PutError::NoRoom(_)) => {
                self.full += 1;
                Ok(())
            }
            Err(PutError::TooLarge) => Err("a release is too large".into()),
            Err(PutError::Io(_)) => self.heal(),
        }
    }

    fn doubt(&mut self) {
        self.release_is_doubtful |= self.releasing > self.released;
        self.has_failed |= self.disk.has_failed();
        self.entries.values_mut().filter(|entry| entry.safety < Safety::Synced).for_each(|entry| {
            entry.safety = Safety::Uncertain;
        });
    }

    /// After a failure: the numbers in doubt are told. Does nothing while the power is off.
    fn heal(&mut self) -> Result<(), String> {
        self.doubt();
        for _ in 0..3 {
            let Ok(told) = self.log().heal(false) else { continue };
            self.heals += 1;
            // it is to be asked for again
            self.releasing = self.released;
            self.next = self.next.max(told.end);
            return Ok(());
        }
        Ok(())
    }

    /// Reads one entry again, if there is one.
    pub(super) fn read_one(&mut self) -> Result<(), String> {
        let asked = self.release_asked;
        let safe =
            self.entries.iter().filter(|(_, entry)| entry.safety > Safety::Uncertain && entry.place.segment >= asked);
        let safe: Vec<u64> = safe.map(|(number, _)| *number).collect();
        let Some(number) = self.random.choice(safe) else { return Ok(()) };
        let PutEntry { place, kind, body, .. } = self.entries[&number].clone();
        match self.log().read(place) {
            Ok(Some((read_kind, read))) if read_kind == kind && read == body => Ok(()),
            Ok(read) => Err(format!(
                "number {number} at {place:?} is read as {:?}",
                read.map(|(kind, body)| (kind, body.len()))
            )),
            Err(_) => self.heal(),
        }
    }

    /// Reads all again, in pieces.
    pub(super) fn read_all(&mut self) -> Result<(), String> {
        let bytes = self.random.usize(1..20_000);
        let mut read = Vec::new();
        let mut from = Some(Place { segment: 0, offset: 0 });
        while let Some(place) = from {
            let found = self.log().read_from(place, bytes, |entry| {
                read.push((entry.number, entry.place, entry.kind, entry.body.to_vec()));
            });
            match found {
                Ok(next) => from = next,
                Err(_) => return self.heal(),
            }
        }
        self.hold_against(&read, Safety::Put)
    }

    /// The log that is open, or `read` from it, has what it must have, and nothing that was not put.
    fn hold_against(&self, read: &[(u64, Place, u8, Vec<u8>)], safe: Safety) -> Result<(), String> {
        if !read.is_sorted_by_key(|(number, ..)| *number) || !read.is_sorted_by_key(|(_, place, ..)| *place) {
            return Err("entries are given out of order".into());
        }
        for (number, place, kind, body) in read {
            let Some(put) = self.entries.get(number) else { return Err(format!("number {number} was never put")) };
            if put.place != *place || put.kind != *kind || put.body != *body {
                return Err(format!("number {number} at {place:?} is not what was put at {:?}", put.place));
            }
            if place.segment < self.released {
                return Err(format!("number {number} of {place:?} was released, as all before {}", self.released));
            }
        }
        let must = self.entries.iter().filter(|(_, put)| put.safety >= safe && put.place.segment >= self.release_asked);
        let missing: Vec<_> = must
            .filter(|(number, _)| read.binary_search_by_key(*number, |(number, ..)| *number).is_err())
            .map(|(number, put)| (*number, put.place))
            .collect();
        if missing.is_empty() { Ok(()) } else { Err(format!("safe by {safe:?} and gone: {missing:?}")) }
    }

    pub(super) fn tidy(&mut self) {
        // a failure of it changes nothing
        let _ = self.log().tidy();
    }

    /// Ends the process and starts the next one.
    pub(super) fn restart(&mut self, end: End) -> Result<Recovered, String> {
        let log = self.log.take().unwrap();
        let mut end = end;
        match end {
            End::Close => match log.close() {
                Ok(()) => {
                    self.raise(Safety::Put, Safety::Synced);
                    self.released = self.releasing;
                }
                Err(_) => {
                    self.doubt();
                    end = End::Kill;
                }
            },
            End::Kill => drop(log),
            End::PowerCut => {
                // the log lives on for a moment
                self.disk.cut_power(&mut self.random);
                drop(log);
            }
        }
        self.disk.kill();
        self.open(end)
    }

    fn open(&mut self, end: End) -> Result<Recovered, String> {
        let mut refused = String::new();
        for _ in 0..3 {
            let mut read = Vec::new();
            let opened = Log::open(self.disk.powered(), OPTIONS, |entry| {
                read.push((entry.number, entry.place, entry.kind, entry.body.to_vec()));
            });
            match opened {
                Ok((log, recovered)) => return self.opened(log, recovered, read, end),
                Err(error) => {
                    refused = error.to_string();
                    // its sync may have lost what only the kernel had
                    self.doubt();
                }
            }
        }
        Err(format!("it does not open: {refused}"))
    }

    fn opened(
        &mut self,
        log: Log<PoweredDisk>,
        recovered: Recovered,
        read: Vec<(u64, Place, u8, Vec<u8>)>,
        end: End,
    ) -> Result<Recovered, String> {
        self.hold_against(&read, if end == End::PowerCut { Safety::Synced } else { Safety::Written })?;
        // a sync that failed is damage
        let is_told = |damage: &&Damage| damage.synced && !damage.known && !self.has_failed;
        if let Some(damage) = recovered.damages.iter().find(is_told) {
            return Err(format!("what no disk damaged is told to be damage: {damage:?}"));
        }
        let oldest = log.oldest();
        if oldest < self.released {
            return Err(format!("{oldest} was released before it was opened again"));
        }
        if self.release_is_doubtful {
            self.release_asked = self.release_asked.max(oldest);
        } else {
            (self.release_asked, self.released) = (oldest, oldest);
        }
        self.releasing = self.released;
        let released = self.released;
        self.entries.retain(|number, entry| {
            if entry.place.segment < oldest && entry.place.segment >= released {
                entry.safety = Safety::Uncertain;
            }
            // what a failure made uncertain may come and go
            entry.safety == Safety::Uncertain || read.binary_search_by_key(number, |(number, ..)| *number).is_ok()
        });
        // what one process was given the next one has too
        self.raise(Safety::Put, Safety::Synced);
        self.next = read.last().map_or(0, |(number, ..)| number + 1);
        self.log = Some(log);
        Ok(recovered)
    }
}
