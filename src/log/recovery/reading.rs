//! The second reading of a log: the segments that are not released, in order, entry by entry.

use std::ops::Range;

use crate::log::{
    Entry, Place,
    control::{Floor, NEXT, OPENED, START, Start, TimeAnchor, USERS, is_numbered, read_ranges},
    entry::{EntryHead, HEAD},
    report::{Damage, FileReport, Recovered},
    scan::Scan,
};

/// Numbers that are left out where a file with unknown numbers is missing: it may come back.
const SKIPPED_NUMBERS: u64 = 1 << 20;

/// See the module.
pub(super) struct Reading<R> {
    log: u32,
    floor: Floor,
    pub(super) next_number: u64,
    /// The last segment that was read, and its file and end.
    last: Option<(u32, String, u64)>,
    /// A segment that exists, as a NEXT says.
    pub(super) follows: u32,
    pub(super) anchor: Option<TimeAnchor>,
    /// Known to be missing.
    known: Vec<Range<u64>>,
    /// Left out, since nobody knows which numbers the newest segment had.
    skipped: Option<Range<u64>>,
    /// Damages before it were synced.
    certain: usize,
    pub(super) report: Recovered,
    replay: R,
}

impl<R: FnMut(Entry<'_>)> Reading<R> {
    pub(super) fn new(log: u32, floor: Floor, damages: Vec<Damage>, replay: R) -> Self {
        let certain = damages.len();
        let report = Recovered { damages, ..Recovered::default() };
        let (next_number, known) = (floor.number.max(1), Vec::new());
        Self {
            log,
            floor,
            next_number,
            last: None,
            follows: 0,
            anchor: None,
            known,
            skipped: None,
            certain,
            report,
            replay,
        }
    }

    /// Reads a segment: its first number, and where it ends.
    pub(super) fn segment(&mut self, id: u32, name: &str, bytes: &[u8]) -> (u64, u64) {
        let scan = Scan { log: self.log, segment: id };
        let mut file =
            FileReport { name: name.to_owned(), len: bytes.len() as u64, segment: Some(id), entries: 0, bytes: 0 };
        self.segments_missing_before(id);
        let first_number = self.next_number;
        let mut made_len = None;
        let mut end = 0;
        let mut at = 0;
        loop {
            let head = scan.head(bytes, at).filter(|head| head.number >= self.next_number);
            let Some(head) = head else {
                match scan.find(bytes, at, self.next_number) {
                    Some(next) => at = next,
                    None => break,
                }
                continue;
            };
            self.numbers_missing_before(&head, name, end..at);
            let body = head.body(&bytes[at..]);
            self.entry(&head, body, name, at, &mut file);
            if let Some(Some((_, Some(start)))) = body.filter(|_| head.kind == START).map(Start::read) {
                made_len = Some(start.file_len);
            }
            at += head.size();
            end = at;
        }
        let end = end.min(bytes.len());
        if let Some(made) = made_len.filter(|made| *made > bytes.len() as u64) {
            let mut cut = damage_at(name, bytes.len()..made as usize);
            // zeros follow the last entry: so it was the last
            let clean = bytes.get(end..end + HEAD).is_some_and(|after| after.iter().all(|byte| *byte == 0));
            cut.segment = Some(id);
            cut.synced = !clean;
            self.report.damages.push(cut);
        }
        self.report.files.push(file);
        let torn = bytes[end..].iter().take(HEAD).any(|byte| *byte != 0);
        self.last = Some((id, name.to_owned(), end as u64));
        if torn {
            self.report.damages.push(Damage {
                segment: Some(id),
                bytes: 0,
                synced: false,
                ..damage_at(name, end..bytes.len())
            });
        }
        (first_number, end as u64)
    }

    fn segments_missing_before(&mut self, id: u32) {
        let expected = self.last.as_ref().map_or(self.floor.segment, |(last, ..)| last + 1);
        // a torn end that another segment follows is none: what it was is found by its number
        let ends_before = |damage: &Damage| !damage.synced && damage.numbers.is_empty() && damage.bytes == 0;
        self.report.damages.pop_if(|damage| ends_before(damage));
        self.certain = self.certain.min(self.report.damages.len());
        if id > expected && expected > 0 {
            let mut missing = damage_at("", 0..0);
            missing.segment = Some(expected);
            self.report.damages.push(missing);
        }
    }

    /// Numbers up to that of `head` were not found in `hole`, or in what stood before this file.
    fn numbers_missing_before(&mut self, head: &EntryHead, name: &str, hole: Range<usize>) {
        let numbers = self.next_number..head.number;
        if numbers.is_empty() {
            // where no number is missing such a segment was never written: its first write failed
            self.report.damages.pop_if(|last| last.file.is_empty() && last.numbers.is_empty());
            self.certain = self.certain.min(self.report.damages.len());
            if !hole.is_empty() {
                // an entry without a number
                self.report.damages.push(Damage {
                    segment: Some(head.segment),
                    kind: Some(START),
                    numbers,
                    synced: false,
                    ..damage_at(name, hole)
                });
            }
            return;
        }
        // a whole segment that is missing was told already: its numbers are these
        if let Some(missing) =
            self.report.damages.last_mut().filter(|last| last.file.is_empty() && last.numbers.is_empty())
        {
            missing.numbers = numbers;
            return;
        }
        let before = self.last.as_ref().filter(|_| hole.start == 0 && hole.is_empty());
        let damage = match before {
            Some((segment, name, end)) => {
                Damage { segment: Some(*segment), offset: *end, bytes: 0, ..damage_at(name, 0..0) }
            }
            None => Damage { segment: Some(head.segment), ..damage_at(name, hole) },
        };
        self.report.damages.push(Damage { numbers, synced: false, ..damage });
    }

    fn entry(&mut self, head: &EntryHead, body: Option<&[u8]>, name: &str, at: usize, file: &mut FileReport) {
        let has_number = is_numbered(head.kind);
        if head.synced {
            self.report.damages[self.certain..].iter_mut().for_each(|damage| damage.synced = true);
            self.certain = self.report.damages.len();
        }
        self.next_number = head.number + u64::from(has_number);
        let Some(body) = body else {
            if head.kind == NEXT {
                // it is never synced, and its write may have failed
                return;
            }
            let numbers = head.number..self.next_number;
            self.report.damages.push(Damage {
                segment: Some(head.segment),
                kind: Some(head.kind),
                numbers,
                synced: false,
                ..damage_at(name, at..at + head.size())
            });
            return;
        };
        match head.kind {
            START => {
                if let Some((_, Some(start))) = Start::read(body) {
                    self.known.extend(start.missing);
                }
            }
            OPENED => self.known.extend(read_ranges(body)),
            NEXT => self.follows = body.first_chunk().map_or(0, |next| u32::from_le_bytes(*next)),
            kind if kind >= USERS => {
                file.entries += 1;
                file.bytes += body.len() as u64;
                self.report.entries += 1;
                self.report.bytes += body.len() as u64;
                let place = Place { segment: head.segment, offset: at as u32 };
                (self.replay)(Entry { number: head.number, place, kind, body });
            }
            _ => {}
        }
    }

    /// All segments were read.
    pub(super) fn finish(&mut self) {
        if self.last.as_ref().is_some_and(|(last, ..)| self.follows > *last) {
            let mut missing = damage_at("", 0..0);
            missing.segment = Some(self.follows);
            self.report.damages.push(missing);
            let skipped = self.next_number..self.next_number + SKIPPED_NUMBERS;
            self.next_number = skipped.end;
            self.skipped = Some(skipped);
        }
        let known = &self.known;
        for damage in &mut self.report.damages {
            // where entries without a number are gone, the number that comes next is known
            let covers = |range: &Range<u64>| match damage.numbers.is_empty() {
                true => *range == damage.numbers,
                false => range.start <= damage.numbers.start && range.end >= damage.numbers.end,
            };
            damage.known = known.iter().any(covers);
        }
    }

    /// Whole segments are missing, nobody knows where.
    pub(super) fn misses_segments(&self) -> bool {
        self.report.damages.iter().any(|damage| damage.file.is_empty() && !damage.known)
    }

    /// Missing numbers that are known, and those that are new.
    pub(super) fn missing(&mut self) -> (Vec<Range<u64>>, Vec<Range<u64>>) {
        let new = self.report.damages.iter().filter(|damage| !damage.known && damage.numbers.end > 0);
        let new = new.map(|damage| damage.numbers.clone()).chain(self.skipped.take());
        (std::mem::take(&mut self.known), new.collect())
    }
}

pub(super) fn damage_at(name: &str, range: Range<usize>) -> Damage {
    Damage {
        file: name.to_owned(),
        segment: None,
        offset: range.start as u64,
        bytes: range.len() as u64,
        numbers: 0..0,
        kind: None,
        synced: true,
        known: false,
    }
}
