//! From the log's entries to what an earlier process left: read once, at the start.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Range,
};

use hashbrown::HashMap;

use super::{
    entry::{self, CARRIED, QueueEntry, RECORD},
    records::{Amount, KnownRecord, SegmentTable},
};
use crate::{
    log::{Damage, Disk, Entry, Log, LogOptions, Place},
    queue::OpenError,
    telemetry::{Metrics, labels::DropReason},
};

/// So many damages have a line each.
const LINES: usize = 20;

/// Opens the log and reads what an earlier process left. Damage is told and counted.
pub(super) fn open<D: Disk>(disk: D, options: LogOptions, metrics: &Metrics) -> Result<(Log<D>, Restored), OpenError> {
    let mut replay = Replay::default();
    let (log, recovered) = Log::open(disk, options, |entry| replay.entry(&entry))?;
    let (mut restored, loss) = replay.end(&recovered.damages);
    restored.found = log.next_number();
    tell(&recovered.damages, &loss);
    metrics.drops.get_or_create(&DropReason::Lost).inc_by(loss.lost);
    Ok((log, restored))
}

fn tell(damages: &[Damage], loss: &ReplayLoss) {
    let mut new = damages.iter().filter(|damage| !damage.known);
    for Damage { file, offset, bytes, numbers, synced, .. } in new.by_ref().take(LINES) {
        let entries = numbers.end - numbers.start;
        if *synced {
            tracing::error!(file, offset, bytes, entries, "a part of the log is damaged; all else in it is used");
        } else {
            tracing::warn!(file, offset, bytes, entries, "the end of the log is torn: no sync followed it");
        }
    }
    let more = new.count();
    if more > 0 {
        tracing::error!(more, "more parts of the log are damaged: `oxipush log check` lists them");
    }
    if loss.lost > 0 {
        tracing::error!(pushes = loss.lost, "so many pushes at most are lost with what is damaged");
    }
    if loss.unknown > 0 {
        tracing::warn!(entries = loss.unknown, "the log has entries that this version does not know: they are ignored");
    }
}

/// In [`ReplayedSegment::lens`]: not a record, or one that is elsewhere now.
const NONE: u32 = 0;
/// A finished record.
const FINISHED: u32 = u32::MAX;

/// See the module.
#[derive(Default)]
pub(super) struct Replay {
    segments: Vec<ReplayedSegment>,
    carried: BTreeMap<u64, CarriedRecord>,
    finished: Vec<Range<u64>>,
    begun: HashMap<u64, u32>,
    handed: u64,
    unknown: u64,
}

struct ReplayedSegment {
    id: u32,
    /// The number of the first entry.
    first: u64,
    /// For each number from `first` on the record's length + 1, or one of the above.
    lens: Vec<u32>,
    newest: u64,
}

struct CarriedRecord {
    place: Place,
    time: u64,
    begun: u32,
    len: usize,
}

/// What an earlier process left.
#[derive(Default)]
pub(super) struct Restored {
    pub(super) segments: SegmentTable,
    pub(super) total: Amount,
    /// Where the first record is that is not in `carried`.
    pub(super) cold: Option<Place>,
    /// Finished records from there on, in order.
    pub(super) skipped: VecDeque<Range<u64>>,
    /// Hand-outs begun of the unfinished.
    pub(super) begun: HashMap<u64, u32>,
    /// Records that were written again, with their lengths; older than all others.
    pub(super) carried: Vec<(KnownRecord, usize)>,
    /// Numbers below it are of an earlier process.
    pub(super) found: u64,
    pub(super) handed: u64,
}

/// What else the replay tells.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct ReplayLoss {
    /// Unfinished records that damage took; at most: what is damaged cannot tell what it was.
    pub(super) lost: u64,
    /// Entries of a form that this version does not know.
    pub(super) unknown: u64,
}

impl Replay {
    /// Takes the log's next entry in.
    pub(super) fn entry(&mut self, entry: &Entry<'_>) {
        match QueueEntry::read(entry) {
            Some(QueueEntry::Record { time, record }) => {
                let segment = self.segment(entry);
                segment.lens.resize((entry.number - segment.first) as usize, NONE);
                segment.lens.push(record.len() as u32 + 1);
                segment.newest = segment.newest.max(time);
            }
            Some(QueueEntry::Carried(carried)) => {
                let record = CarriedRecord {
                    place: entry.place,
                    time: carried.time,
                    begun: carried.begun,
                    len: carried.record.len(),
                };
                self.carried.insert(carried.number, record);
                self.begun.remove(&carried.number);
            }
            Some(QueueEntry::Progress { handed, finished }) => {
                self.handed = self.handed.max(handed);
                self.finished.extend(entry::read_ranges(finished));
            }
            Some(QueueEntry::Attempts(pairs)) => self.begun.extend(entry::read_pairs(pairs)),
            None => self.unknown += 1,
        }
    }

    fn segment(&mut self, entry: &Entry<'_>) -> &mut ReplayedSegment {
        let id = entry.place.segment;
        if self.segments.last().is_none_or(|last| last.id != id) {
            self.segments.push(ReplayedSegment { id, first: entry.number, lens: Vec::new(), newest: 0 });
        }
        let last = self.segments.len() - 1;
        &mut self.segments[last]
    }

    /// All entries were read; `damages`: what could not be.
    pub(super) fn end(mut self, damages: &[Damage]) -> (Restored, ReplayLoss) {
        self.finished = merged(std::mem::take(&mut self.finished));
        let loss = ReplayLoss { lost: self.lost(damages), unknown: self.unknown };
        for range in std::mem::take(&mut self.finished) {
            self.carried.extract_if(range.clone(), |_, _| true).for_each(drop);
            self.mark(range, FINISHED);
        }
        for number in self.carried.keys().copied().collect::<Vec<_>>() {
            self.mark(number..number + 1, FINISHED);
        }
        let mut restored = Restored { handed: self.handed, ..Restored::default() };
        for segment in &self.segments {
            self.restore(segment, &mut restored);
        }
        for (number, CarriedRecord { place, time, begun, len }) in self.carried {
            let begun = self.begun.get(&number).copied().unwrap_or(begun.max(first_hand_out(number, self.handed)));
            restored.carried.push((KnownRecord { number, place, time, begun }, len));
            restored.total.records += 1;
            restored.total.bytes += len as u64;
        }
        for (known, _) in &restored.carried {
            restored.segments.add(known.place.segment, known.time);
        }
        (restored, loss)
    }

    /// Marks the records in `range`.
    fn mark(&mut self, range: Range<u64>, mark: u32) {
        let from = self.segments.partition_point(|segment| segment.end() <= range.start);
        for segment in self.segments.iter_mut().skip(from).take_while(|segment| segment.first < range.end) {
            let first = range.start.max(segment.first) - segment.first;
            let end = range.end.min(segment.end()) - segment.first;
            let lens = &mut segment.lens[first as usize..end as usize];
            lens.iter_mut().filter(|len| **len != NONE).for_each(|len| *len = mark);
        }
    }

    fn restore(&self, segment: &ReplayedSegment, restored: &mut Restored) {
        // finished records with no unfinished one between them are one range
        let mut skipping = false;
        for (number, len) in (segment.first..).zip(&segment.lens) {
            match *len {
                NONE => {}
                FINISHED => {
                    match restored.skipped.back_mut().filter(|_| skipping) {
                        Some(last) => last.end = number + 1,
                        None => restored.skipped.push_back(number..number + 1),
                    }
                    skipping = true;
                }
                len => {
                    skipping = false;
                    let bytes = u64::from(len - 1);
                    restored.total.records += 1;
                    restored.total.bytes += bytes;
                    restored.segments.add_cold(segment.id, segment.newest, bytes);
                    restored.cold.get_or_insert(Place { segment: segment.id, offset: 0 });
                    let begun = self.begun.get(&number).copied();
                    let begun = begun.unwrap_or(first_hand_out(number, self.handed));
                    if begun > 0 {
                        restored.begun.insert(number, begun);
                    }
                }
            }
        }
    }

    fn lost(&self, damages: &[Damage]) -> u64 {
        let new = damages.iter().filter(|damage| damage.synced && !damage.known);
        new.map(|damage| match damage.kind {
            Some(RECORD) | None if !damage.numbers.is_empty() => {
                damage.numbers.clone().filter(|number| !self.is_finished(*number)).count() as u64
            }
            // how many or which ones is not known
            Some(RECORD | CARRIED) | None => 1,
            Some(_) => 0,
        })
        .sum()
    }

    fn is_finished(&self, number: u64) -> bool {
        let after = self.finished.partition_point(|range| range.end <= number);
        self.finished.get(after).is_some_and(|range| range.contains(&number))
    }
}

impl ReplayedSegment {
    /// Behind the number of the last record.
    fn end(&self) -> u64 {
        self.first + self.lens.len() as u64
    }
}

/// Whether the mark `handed` tells of one.
fn first_hand_out(number: u64, handed: u64) -> u32 {
    u32::from(number < handed)
}

/// Sorted, and those that touch are one.
pub(super) fn merged(mut ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    ranges.sort_unstable_by_key(|range| range.start);
    ranges.dedup_by(|next, last| {
        let touches = next.start <= last.end;
        if touches {
            last.end = last.end.max(next.end);
        }
        touches
    });
    ranges
}
