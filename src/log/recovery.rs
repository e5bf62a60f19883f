//! What is in a log's folder: read whole at each open, and by `check`. It writes nothing.

mod reading;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, VecDeque},
    io,
    ops::Range,
};

use super::{
    Entry,
    control::{FLOOR, FORMAT, Floor, START, Start, TimeAnchor},
    disk::{Disk, DiskFile, read_what_can_be_read},
    entry::EntryHead,
    report::{FileReport, LogOpenError, Recovered},
    scan::entries,
};
use reading::{Reading, damage_at};

/// A file that holds a segment.
pub(super) struct FoundSegment<F> {
    pub(super) id: u32,
    /// The number of its first entry.
    pub(super) first_number: u64,
    pub(super) file: u32,
    pub(super) handle: F,
    /// Of the file.
    pub(super) len: u64,
    /// Behind the last entry.
    pub(super) end: u64,
}

/// A file that holds nothing that is needed.
pub(super) struct FoundFree<F> {
    pub(super) file: u32,
    pub(super) handle: F,
    pub(super) len: u64,
    /// The segment that was in it last; 0: none.
    pub(super) segment: u32,
    /// It holds nothing but zeros.
    pub(super) is_blank: bool,
}

/// What is there.
pub(super) struct Recovery<F> {
    /// `None`: no log.
    pub(super) log: Option<u32>,
    pub(super) segments: VecDeque<FoundSegment<F>>,
    pub(super) free: Vec<FoundFree<F>>,
    pub(super) floor: Floor,
    pub(super) next_number: u64,
    pub(super) next_segment: u32,
    pub(super) anchor: Option<TimeAnchor>,
    /// Numbers that are missing and known to be.
    pub(super) missing: Vec<Range<u64>>,
    /// Those that nobody knew of before.
    pub(super) newly_missing: Vec<Range<u64>>,
    pub(super) report: Recovered,
}

/// What to do with a folder that has files of several logs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum SeveralLogs {
    Refuse,
    /// The one with the newest entries; of one segment, too.
    TakeNewest,
}

struct IdentifiedFile<F> {
    file: u32,
    handle: F,
    len: u64,
    /// Log, segment and largest number; `None`: no whole entry.
    holds: Option<(u32, u32, u64)>,
    is_blank: bool,
    /// It begins with a whole START, which nothing that was pushed can stand in for.
    has_start: bool,
    /// The time of its segment's START.
    anchor: Option<TimeAnchor>,
}

/// What the files tell together, for each log.
#[derive(Default)]
struct Traces {
    /// The newest one.
    floors: BTreeMap<u32, Floor>,
    /// The newest segment, even if it was only begun.
    segments: BTreeMap<u32, u32>,
}

/// Reads all, and gives each whole user entry that is not released to `replay`, in order.
pub(super) fn recover<D: Disk>(
    disk: &D,
    several: SeveralLogs,
    replay: impl FnMut(Entry<'_>),
) -> Result<Recovery<D::File>, LogOpenError> {
    let mut buffer = Vec::new();
    let mut traces = Traces::default();
    let mut files = Vec::new();
    let mut damages = Vec::new();
    // without a whole entry
    let mut unknown = Vec::new();
    for file in disk.files().map_err(|error| unreadable("the data folder", &error))? {
        let name = disk.name(file);
        let handle = disk.open(file).map_err(|error| unreadable(&name, &error))?;
        let bad = read_all(&handle, &mut buffer).map_err(|error| unreadable(&name, &error))?;
        let found =
            identify(file, handle, &buffer, &mut traces).map_err(|format| LogOpenError(newer_format(&name, format)))?;
        let is_readable = bad.is_empty();
        damages.extend(bad.into_iter().map(|range| damage_at(&name, range)));
        if found.holds.is_none() && !found.is_blank {
            unknown.push((found, is_readable));
        } else {
            files.push(found);
        }
    }
    let log = pick_log(disk, &files, several)?;
    let floor = log.and_then(|log| traces.floors.remove(&log)).unwrap_or_default();
    let mut reading = Reading::new(log.unwrap_or(0), floor, damages, replay);
    let (live, mut free) = divide(disk, files, log, floor, several)?;
    let mut segments = VecDeque::new();
    for found in live {
        let name = disk.name(found.file);
        read_all(&found.handle, &mut buffer).map_err(|error| unreadable(&name, &error))?;
        let (_, id, _) = found.holds.unwrap_or_default();
        let (first_number, end) = reading.segment(id, &name, &buffer);
        reading.anchor = found.anchor.or(reading.anchor);
        let IdentifiedFile { file, handle, len, .. } = found;
        segments.push_back(FoundSegment { id, first_number, file, handle, len, end });
    }
    reading.finish();
    for (found, is_readable) in unknown {
        // a power cut leaves such a file where its overwriting or its first write was torn; else it is one that is missing
        if log.is_some() && is_readable && !reading.misses_segments() {
            let IdentifiedFile { file, handle, len, .. } = found;
            free.insert(0, FoundFree { file, handle, len, segment: 0, is_blank: false });
        } else {
            reading.report.damages.push(damage_at(&disk.name(found.file), 0..found.len as usize));
        }
    }
    // one of which only torn entries are left is not begun again: those would be taken for the new ones
    let newest = log.and_then(|log| traces.segments.remove(&log)).unwrap_or(0);
    let (missing, newly_missing) = reading.missing();
    let mut report = reading.report;
    report.new = log.is_none() || (reading.next_number == 1 && report.damages.is_empty());
    report.files.extend(free.iter().map(|free| FileReport {
        name: disk.name(free.file),
        len: free.len,
        segment: None,
        entries: 0,
        bytes: 0,
    }));
    report.files.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(Recovery {
        log,
        segments,
        free,
        floor,
        next_number: reading.next_number,
        next_segment: newest.max(reading.follows) + 1,
        anchor: reading.anchor,
        missing,
        newly_missing,
        report,
    })
}

fn identify<F: DiskFile>(file: u32, handle: F, bytes: &[u8], traces: &mut Traces) -> Result<IdentifiedFile<F>, u16> {
    let mut holds: Option<(u32, u32, u64)> = None;
    let mut anchor = None;
    let start = EntryHead::read(bytes).filter(|head| head.kind == START && head.body(bytes).is_some());
    for (head, body) in entries(bytes) {
        // where a head is torn off its body, what was pushed may look like entries of another log
        let log = start.map(|start| start.log).or(holds.map(|(log, ..)| log));
        if log.is_some_and(|log| log != head.log) {
            continue;
        }
        let begun = traces.segments.entry(head.log).or_default();
        *begun = head.segment.max(*begun);
        let Some(body) = body else { continue };
        let known = match head.kind {
            START => match Start::read(body) {
                Some((_, Some(start))) => Some((start.floor, Some(start.anchor))),
                Some((format, None)) if format != FORMAT => return Err(format),
                _ => None,
            },
            FLOOR => Floor::read(body).map(|floor| (floor, None)),
            _ => None,
        };
        if holds.is_none_or(|(_, segment, _)| head.segment >= segment) {
            let number = holds.map_or(0, |(_, _, number)| number).max(head.number);
            holds = Some((head.log, head.segment, number));
            anchor = known.and_then(|(_, anchor)| anchor).or(anchor);
        }
        if let Some((floor, _)) = known {
            let newest = traces.floors.entry(head.log).or_insert(floor);
            *newest = floor.max(*newest);
        }
    }
    let is_blank = bytes.iter().all(|byte| *byte == 0);
    Ok(IdentifiedFile { file, handle, len: bytes.len() as u64, holds, is_blank, has_start: start.is_some(), anchor })
}

fn pick_log<D: Disk>(
    disk: &D,
    files: &[IdentifiedFile<D::File>],
    several: SeveralLogs,
) -> Result<Option<u32>, LogOpenError> {
    let newest = files.iter().filter_map(|file| file.holds.map(|holds| (file.has_start, holds, file.file)));
    let newest = newest.max_by_key(|(has_start, (_, _, number), _)| (*has_start, *number));
    let Some((_, (log, ..), one)) = newest else { return Ok(None) };
    let foreign = files.iter().find(|file| file.holds.is_some_and(|(other, ..)| other != log));
    match foreign {
        Some(foreign) if several == SeveralLogs::Refuse => Err(LogOpenError(format!(
            "{} and {} are of different logs, as when a copy was put back over a part of the folder: take out the files of one, \
             or `oxipush log salvage` writes the log with the newest entries into a new folder",
            disk.name(one),
            disk.name(foreign.file)
        ))),
        _ => Ok(Some(log)),
    }
}

type Divided<F> = (Vec<IdentifiedFile<F>>, Vec<FoundFree<F>>);

/// Into segments that are not released, in order, and free files.
fn divide<D: Disk>(
    disk: &D,
    files: Vec<IdentifiedFile<D::File>>,
    log: Option<u32>,
    floor: Floor,
    several: SeveralLogs,
) -> Result<Divided<D::File>, LogOpenError> {
    let (mut live, mut free) = (Vec::new(), Vec::new());
    for found in files {
        match found.holds {
            Some((of, segment, _)) if Some(of) == log && segment >= floor.segment => live.push(found),
            // what is of another log is kept as it is
            Some((of, ..)) if Some(of) != log => {}
            holds => free.push(FoundFree {
                file: found.file,
                handle: found.handle,
                len: found.len,
                is_blank: found.is_blank,
                segment: holds.map_or(0, |(_, segment, _)| segment),
            }),
        }
    }
    free.sort_by_key(|free| free.segment);
    // of one segment the file with the newest entries comes first
    live.sort_by_key(|found| found.holds.map(|(_, segment, number)| (segment, Reverse(number))));
    let same_segment = |a: &IdentifiedFile<_>, b: &IdentifiedFile<_>| {
        a.holds.map(|(_, segment, _)| segment) == b.holds.map(|(_, segment, _)| segment)
    };
    if several == SeveralLogs::TakeNewest {
        live.dedup_by(|older, newest| same_segment(older, newest));
    }
    for pair in live.windows(2) {
        if let [newest, older] = pair
            && same_segment(newest, older)
        {
            return Err(LogOpenError(format!(
                "{} and {} hold the same segment, as when a file was copied: take {1} out of the folder, which is not newer, or \
                 `oxipush log salvage` writes a new log without it into a new folder",
                disk.name(newest.file),
                disk.name(older.file)
            )));
        }
    }
    Ok((live, free))
}

/// Fills `buffer` with the whole file; zeros where it cannot be read, which is returned.
fn read_all<F: DiskFile>(handle: &F, buffer: &mut Vec<u8>) -> io::Result<Vec<Range<usize>>> {
    buffer.resize(handle.len()? as usize, 0);
    Ok(read_what_can_be_read(handle, 0, buffer))
}

fn unreadable(name: &str, error: &io::Error) -> LogOpenError {
    LogOpenError(format!(
        "cannot read {name}: {error}; if that cannot be mended, move the file away: what is in it is lost then, told and counted at \
         the start"
    ))
}

fn newer_format(name: &str, format: u16) -> String {
    format!(
        "{name} was written by another version of oxipush (its form is {format}, this version's {FORMAT}): start that version"
    )
}
