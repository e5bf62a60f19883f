//! The state against a plain map, without a disk: the log is a list of entries, written as `writer` writes them.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use bytes::Bytes;
use hashbrown::HashMap;
use proptest::{collection::vec, prelude::*, test_runner::RngSeed};

use super::{HandOut, ReadRecord, Records};
use crate::{
    config,
    log::{Entry, Place},
    queue::embedded::{
        entry::{self, ATTEMPTS, CARRIED, CarriedEntry, PROGRESS, RECORD},
        limits::QueueLimits,
        replay::Replay,
    },
};

/// Entries of a segment.
const SEGMENT: usize = 6;
const MEMORY: usize = 1500;
const IN_FLIGHT: usize = 4;

#[derive(Clone, Debug)]
enum Step {
    Admit(usize),
    /// One turn of the log's thread; whether its writing fails.
    Turn(bool),
    Finish(usize),
    Requeue(usize, u64),
    /// Handed out and offered to nobody.
    PutBack(usize),
    Wait(u64),
    Expire,
    Carry,
    Stop,
    /// Killed; whether what was not synced is gone, too.
    Kill(bool),
    /// Closed in order.
    Close,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0..400_usize).prop_map(Step::Admit),
        6 => prop::bool::weighted(0.1).prop_map(Step::Turn),
        4 => any::<usize>().prop_map(Step::Finish),
        2 => (any::<usize>(), 0..300_u64).prop_map(|(which, delay)| Step::Requeue(which, delay)),
        1 => any::<usize>().prop_map(Step::PutBack),
        2 => (0..400_u64).prop_map(Step::Wait),
        1 => Just(Step::Expire),
        2 => Just(Step::Carry),
        1 => any::<bool>().prop_map(Step::Kill),
        1 => Just(Step::Close),
        // rare: after it nothing is handed out
        1 => prop::bool::weighted(0.2).prop_map(|stop| if stop { Step::Stop } else { Step::Wait(1) }),
    ];
    vec(step, 1..120)
}

struct LogEntry {
    number: u64,
    place: Place,
    kind: u8,
    body: Vec<u8>,
}

/// What the map knows of an accepted record.
struct Accepted {
    record: Bytes,
    time: u64,
    /// Hand-outs in all, as far as they count.
    attempts: u32,
    /// Processes that were killed since its last hand-out. The first hand-out of the last moment may not be known, and of a
    /// later one that was told the hand-out itself may not have come.
    kills: u32,
}

struct World {
    records: Records<usize>,
    start: Instant,
    millis: u64,
    log: Vec<LogEntry>,
    written: usize,
    synced: usize,
    next_number: u64,
    oldest: u32,
    /// Admitted ones, in order.
    waiting: Vec<Bytes>,
    accepted: BTreeMap<u64, Accepted>,
    finished: BTreeSet<u64>,
    /// Too old: they may be gone or not.
    old: BTreeSet<u64>,
    in_flight: BTreeMap<u64, u32>,
    /// Handed out and offered to nobody, once.
    put_back: BTreeSet<u64>,
    /// The largest number that was handed out for the first time.
    first_handed: u64,
}

fn limits() -> QueueLimits {
    let defaults = config::load(None, []).unwrap().queue;
    QueueLimits::of(&config::QueueConfig { memory_bytes: MEMORY, max_in_flight: IN_FLIGHT, ..defaults })
}

impl World {
    fn new() -> Self {
        let start = Instant::now();
        let (restored, _) = Replay::default().end(&[]);
        Self {
            records: Records::new(limits(), restored, false),
            start,
            millis: 1000,
            log: Vec::new(),
            written: 0,
            synced: 0,
            next_number: 1,
            oldest: 1,
            waiting: Vec::new(),
            accepted: BTreeMap::new(),
            finished: BTreeSet::new(),
            old: BTreeSet::new(),
            in_flight: BTreeMap::new(),
            put_back: BTreeSet::new(),
            first_handed: 0,
        }
    }

    fn now(&self) -> Instant {
        self.start + Duration::from_millis(self.millis)
    }

    fn head(&self) -> u32 {
        self.log.last().map_or(1, |last| last.place.segment)
    }

    fn put(&mut self, kind: u8, parts: &[&[u8]]) -> (u64, Place) {
        let place = match self.log.last().map(|last| last.place) {
            Some(last) if (last.offset as usize) < SEGMENT - 1 => Place { offset: last.offset + 1, ..last },
            Some(last) => Place { segment: last.segment + 1, offset: 0 },
            None => Place { segment: 1, offset: 0 },
        };
        let number = self.next_number;
        self.next_number += u64::from(matches!(kind, RECORD | CARRIED));
        self.log.push(LogEntry { number, place, kind, body: parts.concat() });
        (number, place)
    }

    fn record_at(&self, place: Place) -> Option<Bytes> {
        let found = self.log.iter().find(|entry| entry.place == place)?;
        Some(Bytes::copy_from_slice(&found.body[entry::record_range(found.kind)?]))
    }

    fn hand_out(&mut self) {
        let now = self.now();
        for HandOut { number, attempts, record } in self.records.hand_out(|| now, |next| next) {
            let known = self.accepted.get_mut(&number).expect("never accepted");
            assert!(!self.finished.contains(&number), "{number} was finished by this process");
            assert_eq!(record, known.record, "other bytes for {number}");
            known.attempts += 1;
            let least = if known.kills > 0 { known.attempts.saturating_sub(1).max(1) } else { known.attempts };
            let range = least..=known.attempts + known.kills;
            // one that expired in the log alone is not told as finished: another process expires it again, by its age
            let is_old = self.old.contains(&number);
            assert!(is_old || range.contains(&attempts), "{attempts} of {range:?} for {number}");
            known.attempts = attempts;
            known.kills = 0;
            if is_old || self.put_back.contains(&number) {
                // its turn was over
            } else if attempts == 1 {
                assert!(number > self.first_handed, "{number} came after {}", self.first_handed);
                self.first_handed = number;
            } else {
                // the log knows of it before it happens
                self.assert_told(number, attempts);
            }
            assert!(self.in_flight.insert(number, attempts).is_none());
        }
        assert!(self.in_flight.len() <= IN_FLIGHT);
        assert!(self.records.memory <= MEMORY + (2 + IN_FLIGHT) * 464, "{} bytes in memory", self.records.memory);
    }

    fn assert_told(&self, number: u64, attempts: u32) {
        let synced = self.log[..self.synced].iter().filter(|entry| entry.kind == ATTEMPTS);
        let told = synced.flat_map(|entry| entry::read_pairs(&entry.body)).filter(|(told, _)| *told == number);
        let last = told.last().map(|(_, attempts)| attempts);
        assert_eq!(last, Some(attempts), "of {number}");
    }

    fn turn(&mut self, fails: bool) {
        let now = self.now();
        let batch = self.records.take_admitted(600);
        let due = self.records.take_due(now);
        let progress = self.records.take_progress();
        let needed_from = self.records.needed_from(self.head()).min(self.head());
        let first = self.next_number;
        let mut entries = Vec::new();
        let records: Vec<Bytes> = self.waiting.drain(..batch.len()).collect();
        let time = self.millis;
        for (waiting, record) in batch.iter().zip(&records) {
            assert_eq!(waiting.record, record);
            let body = waiting.record.clone();
            entries.push(self.put(RECORD, &[&time.to_le_bytes(), &body]));
        }
        let mut read = HashMap::new();
        for next in &due {
            if let Some(place) = next.read_from {
                read.insert(next.number, self.record_at(place).expect("a record that waits is gone from the log"));
            }
        }
        if !due.is_empty() {
            let pairs = entry::write_pairs(due.iter().map(|next| (next.number, next.attempts)));
            self.put(ATTEMPTS, &[&pairs]);
        }
        if let Some(progress) = &progress {
            let ranges = entry::write_ranges(&progress.finished);
            self.put(PROGRESS, &[&progress.handed.to_le_bytes(), &ranges]);
        }
        if fails {
            let answered = self.records.refused(batch, first..self.next_number, now).len();
            assert_eq!(answered, records.len());
            self.records.untold(due, now);
            if let Some(progress) = progress {
                self.records.progress_failed(progress, now);
            }
            return;
        }
        self.written = self.log.len();
        self.synced = self.written;
        assert_eq!(self.records.told(due, read, now), 0);
        for ((number, _), record) in entries.iter().zip(records) {
            self.accepted.insert(*number, Accepted { record, time, attempts: 0, kills: 0 });
        }
        assert_eq!(self.records.accepted(batch, &entries, time).len(), entries.len());
        self.release(needed_from);
        self.read();
    }

    fn release(&mut self, before: u32) {
        self.oldest = self.oldest.max(before);
        let gone = self.log.iter().filter(|entry| entry.place.segment < before).count();
        self.log.drain(..gone);
        self.written -= gone;
        self.synced -= gone;
    }

    fn read(&mut self) {
        let mut more = false;
        while let Some(from) = self.records.wants_reading(more) {
            more = true;
            let rest: Vec<_> = self.log.iter().filter(|entry| entry.place >= from).collect();
            let page: Vec<_> = rest.iter().take(2).collect();
            let next = rest.get(page.len()).map(|entry| entry.place);
            let records = page.iter().filter(|entry| entry.kind == RECORD).map(|entry| ReadRecord {
                number: entry.number,
                place: entry.place,
                time: u64::from_le_bytes(*entry.body.first_chunk().unwrap()),
                record: Bytes::copy_from_slice(&entry.body[8..]),
            });
            assert_eq!(self.records.read(records.collect(), next), 0, "lost without damage");
        }
    }

    fn carry(&mut self) {
        let oldest = self.oldest;
        if oldest == self.head() {
            return;
        }
        let mut carried = HashMap::new();
        for known in self.records.known_in(oldest).unwrap_or_default() {
            let record = self.record_at(known.place).expect("a known record is gone from the log");
            let (number, time, begun) = (known.number, known.time, known.begun);
            let head = CarriedEntry { number, time, begun, record: &record }.head();
            let (_, place) = self.put(CARRIED, &[&head, &record]);
            carried.insert(number, place);
        }
        (self.written, self.synced) = (self.log.len(), self.log.len());
        self.records.carried(carried);
        // nothing goes that is needed
        let needed_from = self.records.needed_from(self.head()).min(self.head());
        self.release(needed_from);
    }

    fn taken(&self, which: usize) -> Option<(u64, u32)> {
        let index = which.checked_rem(self.in_flight.len())?;
        self.in_flight.iter().nth(index).map(|(number, attempts)| (*number, *attempts))
    }

    fn expire(&mut self) {
        let (now, before) = (self.now(), self.millis.saturating_sub(1000));
        let is_old = |number: &u64, known: &Accepted| known.time < before && !self.in_flight.contains_key(number);
        let old = self.accepted.iter().filter(|(number, known)| is_old(number, known)).map(|(number, _)| *number);
        let old: Vec<u64> = old.filter(|number| !self.finished.contains(number)).collect();
        let expired = self.records.expire(before, now);
        assert!(expired <= old.len() as u64, "{expired} of {} expired", old.len());
        self.old.extend(old);
    }

    /// What another process finds in the log.
    fn restart(&mut self, keeps: usize) {
        self.log.truncate(keeps);
        (self.written, self.synced) = (keeps, keeps);
        let mut replay = Replay::default();
        for LogEntry { number, place, kind, body } in &self.log {
            replay.entry(&Entry { number: *number, place: *place, kind: *kind, body });
        }
        let (mut restored, loss) = replay.end(&[]);
        assert_eq!((loss.lost, loss.unknown), (0, 0));
        restored.found = self.next_number;
        self.records = Records::new(limits(), restored, false);
        self.waiting.clear();
        self.in_flight.clear();
        self.first_handed = 0;
    }

    fn kill(&mut self, synced_only: bool) {
        self.accepted.values_mut().for_each(|known| known.kills += 1);
        // refused ones that the log has all the same may come
        let keeps = if synced_only { self.synced } else { self.log.len() };
        self.restart(keeps);
        self.find_what_may_have_come();
        self.forget_untold_finishes();
    }

    /// What was finished and not told may come again, unless its segment has gone.
    fn forget_untold_finishes(&mut self) {
        let told = self.told_finished();
        let log = &self.log;
        let holds = |number: u64| {
            log.iter().any(|entry| match entry.kind {
                RECORD => entry.number == number,
                CARRIED => entry.body[..8] == number.to_le_bytes(),
                _ => false,
            })
        };
        self.finished.retain(|number| told.contains(number) || !holds(*number));
    }

    /// Records that were refused and stand in the log.
    fn find_what_may_have_come(&mut self) {
        let void = self.told_finished();
        for entry in self.log.iter().filter(|entry| entry.kind == RECORD && !void.contains(&entry.number)) {
            let time = u64::from_le_bytes(*entry.body.first_chunk().unwrap());
            let record = Bytes::copy_from_slice(&entry.body[8..]);
            self.accepted.entry(entry.number).or_insert(Accepted { record, time, attempts: 0, kills: 0 });
        }
    }

    fn told_finished(&self) -> BTreeSet<u64> {
        let progress = self.log.iter().filter(|entry| entry.kind == PROGRESS);
        progress.flat_map(|entry| entry::read_ranges(&entry.body[8..]).flatten()).collect()
    }

    fn close(&mut self) {
        self.records.stop_hand_outs();
        // what is out comes back
        for (number, attempts) in std::mem::take(&mut self.in_flight) {
            let record = self.accepted[&number].record.clone();
            self.records.requeue(number, attempts, record, self.now(), Duration::ZERO);
        }
        self.records.close();
        self.turn(false);
        while !self.records.is_ended() {
            self.turn(false);
        }
        let undone = self.records.undone_hand_outs();
        if !undone.is_empty() {
            self.put(ATTEMPTS, &[&entry::write_pairs(undone)]);
        }
        self.restart(self.log.len());
    }

    fn check(&mut self) {
        let live = self.accepted.keys().filter(|number| !self.finished.contains(number));
        let (old, certain): (Vec<u64>, Vec<u64>) = live.copied().partition(|number| self.old.contains(number));
        let total = self.records.total().records as usize - self.waiting.len();
        let range = certain.len()..=certain.len() + old.len();
        assert!(range.contains(&total), "{total} records of {range:?}");
    }

    /// Everything that must come comes, once nothing fails any more.
    fn drain(&mut self) {
        self.restart(self.log.len());
        self.find_what_may_have_come();
        self.forget_untold_finishes();
        self.accepted.values_mut().for_each(|known| known.kills += 1);
        let mut came = BTreeSet::new();
        for _ in 0..self.accepted.len() + 10 {
            self.turn(false);
            self.hand_out();
            for number in std::mem::take(&mut self.in_flight).into_keys() {
                let now = self.now();
                self.records.finish(number, || now);
                self.finished.insert(number);
                came.insert(number);
            }
        }
        let live = self.accepted.keys().filter(|number| !self.old.contains(number));
        let missing: Vec<_> = live.filter(|number| !self.finished.contains(number)).collect();
        assert!(missing.is_empty(), "never came: {missing:?}");
        assert_eq!(self.records.total().records, 0);
        assert_eq!(self.records.memory, 0);
    }

    fn step(&mut self, step: Step) {
        let now = self.now();
        match step {
            Step::Admit(len) => {
                let record = Bytes::from(vec![self.next_number as u8; len]);
                if self.records.admit(record.clone(), || 0).is_ok() {
                    self.waiting.push(record);
                }
            }
            Step::Turn(fails) => self.turn(fails),
            Step::Finish(which) => {
                if let Some((number, _)) = self.taken(which) {
                    self.in_flight.remove(&number);
                    self.records.finish(number, || now);
                    self.finished.insert(number);
                }
            }
            Step::Requeue(which, delay) => {
                if let Some((number, attempts)) = self.taken(which) {
                    self.in_flight.remove(&number);
                    let record = self.accepted[&number].record.clone();
                    self.records.requeue(number, attempts, record, now, Duration::from_millis(delay));
                }
            }
            Step::PutBack(which) => {
                if let Some((number, attempts)) = self.taken(which) {
                    self.in_flight.remove(&number);
                    let known = self.accepted.get_mut(&number).unwrap();
                    known.attempts -= 1;
                    self.records.requeue(number, attempts - 1, known.record.clone(), now, Duration::ZERO);
                    self.put_back.insert(number);
                }
            }
            Step::Wait(millis) => self.millis += millis,
            Step::Expire => self.expire(),
            Step::Carry => self.carry(),
            Step::Stop => self.records.stop_hand_outs(),
            Step::Kill(synced_only) => self.kill(synced_only),
            Step::Close => self.close(),
        }
        self.hand_out();
        self.check();
    }
}

/// The same cases each time, or those of `OXIPUSH_MODEL_SEED`.
fn seed() -> RngSeed {
    RngSeed::Fixed(std::env::var("OXIPUSH_MODEL_SEED").map_or(15, |seed| seed.parse().unwrap()))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, rng_seed: seed(), ..ProptestConfig::default() })]

    #[test]
    fn the_state_does_what_a_plain_map_says(steps in steps()) {
        let mut world = World::new();
        steps.into_iter().for_each(|step| world.step(step));
        world.drain();
    }
}
