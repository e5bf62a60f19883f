//! `oxipush log`: what is in the data folder, and what can be read of it where it is damaged.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, UNIX_EPOCH},
};

use clap::{Args, Subcommand};

use super::{ConfigSource, check, failed, print};
use crate::{
    config::{self, QueueConfig},
    log::{self, Damage, FileReport, Folder, LogOptions, Recovered},
    queue::embedded::{Inspection, WaitingRecords},
    store::embedded::{FOLDER, StoreInspection, StoredRecords},
};

pub(super) const LONG_ABOUT: &str = "\
Looks into the embedded queue's log, the files log.0001, log.0002, … in [data] dir, and into the embedded store's in its folder \
streams, while the node is stopped. The gateway itself finds damage at its start, leaves it out and says so: these commands are for \
looking before that, and for a log that it refuses.";

pub(super) const AFTER_HELP: &str = "\
EXAMPLES
  oxipush log check
  oxipush log salvage --to /var/lib/oxipush-new

`oxipush log check --help` and `oxipush log salvage --help` tell more.";

pub(super) const CHECK_ABOUT: &str = "\
Reads the whole log, and the store's in its folder streams, changes nothing in them, and prints which file holds which segment, how \
many pushes wait or are stored, and each place where something is missing: damage (the disk had synced it), or a torn end (what a crash leaves of a write that nobody was told of).";

pub(super) const CHECK_HELP: &str = "\
EXAMPLES
  oxipush log check
  oxipush log check --config /etc/oxipush/config.ini
  oxipush log check --data /mnt/backup/oxipush

EXIT CODES
  0  the log is whole; it may have a torn end
  1  it is damaged, in use, or cannot be read
  2  wrong arguments";

pub(super) const SALVAGE_ABOUT: &str = "\
Writes each whole entry of the log into a new log in an empty folder, and says what is lost. The log that is read stays as it is. \
Where files of several logs are in one folder it takes the log with the newest entries.";

pub(super) const SALVAGE_HELP: &str = "\
EXAMPLES
  oxipush log salvage --to /var/lib/oxipush-new
  oxipush log salvage --data /mnt/broken/oxipush --to salvaged
  oxipush log salvage --data data/streams --to data/streams.new    # the store's

EXIT CODES
  0  what can be read is in the new folder; it may be less than there was
  1  nothing could be read, or the new folder cannot be written
  2  wrong arguments";

#[derive(Subcommand)]
pub(super) enum LogCommand {
    /// Say what is in the log, and what is damaged
    #[command(long_about = CHECK_ABOUT, after_long_help = CHECK_HELP)]
    Check(LogArguments),
    /// Write what can be read into a new log
    #[command(long_about = SALVAGE_ABOUT, after_long_help = SALVAGE_HELP)]
    Salvage {
        #[command(flatten)]
        source: LogArguments,
        /// The folder for the new log: an empty one, or one that is made
        #[arg(long, value_name = "FOLDER")]
        to: PathBuf,
    },
}

#[derive(Args)]
pub(super) struct LogArguments {
    #[command(flatten)]
    source: ConfigSource,
    /// The folder of the log, instead of that of the configuration
    #[arg(long, value_name = "FOLDER")]
    data: Option<PathBuf>,
}

impl LogArguments {
    fn config(self) -> Result<QueueConfig, String> {
        let config = config::load(self.source.file(), config::environment());
        let mut config = config.map_err(|error| check::mistakes(&error))?.queue;
        config.dir = self.data.unwrap_or(config.dir);
        Ok(config)
    }
}

pub(super) fn run(command: LogCommand) -> ExitCode {
    let outcome = match command {
        LogCommand::Check(arguments) => check_log(arguments),
        LogCommand::Salvage { source, to } => salvage(source, &to).map(|()| ExitCode::SUCCESS),
    };
    outcome.unwrap_or_else(failed)
}

fn check_log(arguments: LogArguments) -> Result<ExitCode, String> {
    let dir = arguments.config()?.dir;
    let queue = InspectedLog::read(&existing(&dir)?)?;
    let mut text = queue.text();
    let mut is_damaged = queue.damaged() > 0;
    let streams = dir.join(FOLDER);
    if has_log(&streams)? {
        let store = InspectedLog::read(&Folder::open(&streams).map_err(|error| error.to_string())?)?;
        let _ = write!(text, "\nThe store's log:\n\n{}", store.text());
        is_damaged |= store.damaged() > 0;
    }
    print(&text);
    Ok(if is_damaged { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// What a folder's log holds.
struct InspectedLog {
    found: Recovered,
    waiting: WaitingRecords,
    stored: StoredRecords,
}

impl InspectedLog {
    fn read(folder: &Folder) -> Result<Self, String> {
        let mut waiting = Inspection::default();
        let mut stored = StoreInspection::default();
        let found = log::check(folder, |entry| {
            waiting.entry(&entry);
            stored.entry(&entry);
        });
        let found = found.map_err(|error| error.to_string())?;
        Ok(Self { found, waiting: waiting.end(), stored: stored.end() })
    }

    fn number(&self, kind: PlaceKind) -> usize {
        self.found.damages.iter().filter(|damage| PlaceKind::of(damage) == kind).count()
    }

    /// Places that are damaged.
    fn damaged(&self) -> usize {
        self.number(PlaceKind::Damage)
    }

    fn text(&self) -> String {
        let mut text = files(&self.found.files);
        let _ = writeln!(text, "\n{}", self.line());
        text.push_str(&places(&self.found.damages));
        let damaged = self.damaged();
        if damaged > 0 {
            let places = counted(damaged as u64, "place", "places");
            let _ = writeln!(
                text,
                "the log is damaged in {places}; the gateway leaves out what is there and delivers the rest"
            );
        } else if self.number(PlaceKind::TornEnd) > 0 {
            text.push_str("the log is whole but for what a crash interrupted\n");
        } else if self.number(PlaceKind::Gap) > 0 {
            text.push_str("the log is whole but for what was told before\n");
        } else {
            text.push_str("the log is whole\n");
        }
        text
    }

    /// What is in it: a queue's log and a store's have no kind of entries in common.
    fn line(&self) -> String {
        if self.stored.is_a_store { stored_line(&self.stored) } else { waiting_line(&self.waiting) }
    }
}

fn salvage(arguments: LogArguments, to: &Path) -> Result<(), String> {
    let config = arguments.config()?;
    let from = existing(&config.dir)?;
    if fs::read_dir(to).is_ok_and(|mut there| there.next().is_some()) {
        return Err(format!("{} is not empty: name another folder with --to", to.display()));
    }
    let options = LogOptions { segment_bytes: config.segment_bytes };
    let new = Folder::open(to).map_err(|error| error.to_string())?;
    let found = log::salvage(&from, new, options).map_err(|error| {
        let (old, to) = (config.dir.display(), to.display());
        format!("{error}; {old} is as it was, and {to} is not to be used: remove it before another try")
    })?;
    let written = InspectedLog::read(&existing(to)?)?;
    let mut text = format!(
        "{} of {} bytes were written to {}\n{}\n",
        counted(found.entries, "entry", "entries"),
        found.bytes,
        to.display(),
        written.line()
    );
    text.push_str(&places(&found.damages));
    if found.damages.is_empty() {
        text.push_str("nothing is lost\n");
    }
    let _ = writeln!(
        text,
        "\nTo go on with it, let [data] dir name it, or put it in the old one's place:\n  mv {old} {old}.damaged\n  mv {new} {old}",
        old = config.dir.display(),
        new = to.display(),
    );
    print(&text);
    Ok(())
}

/// The folder of a log that is there, locked.
fn existing(dir: &Path) -> Result<Folder, String> {
    // opening would make it
    match fs::metadata(dir) {
        Ok(found) if found.is_dir() => {}
        Ok(_) => return Err(format!("{} is no folder", dir.display())),
        Err(error) => return Err(format!("{} cannot be read: {error}", dir.display())),
    }
    if !has_log(dir)? {
        return Err(format!("there is no log in {}: it has no file log.0001 or the like", dir.display()));
    }
    Folder::open(dir).map_err(|error| error.to_string())
}

/// Whether there is a folder with a log's files.
fn has_log(dir: &Path) -> Result<bool, String> {
    let there = match fs::read_dir(dir) {
        Ok(there) => there,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(format!("{} cannot be read: {error}", dir.display())),
    };
    Ok(there.filter_map(Result::ok).any(|entry| log::is_file_name(&entry.file_name().to_string_lossy())))
}

/// A line for each file.
fn files(files: &[FileReport]) -> String {
    let width = files.iter().map(|file| file.name.len()).max().unwrap_or(0).max("FILE".len());
    let mut text =
        format!("{:width$}  {:>10}  {:>10}  {:>10}  {:>10}\n", "FILE", "SIZE", "SEGMENT", "ENTRIES", "BYTES");
    for FileReport { name, len, segment, entries, bytes } in files {
        let segment = segment.map_or("free".into(), |segment| segment.to_string());
        let _ = writeln!(text, "{name:width$}  {len:>10}  {segment:>10}  {entries:>10}  {bytes:>10}");
    }
    text
}

fn waiting_line(waiting: &WaitingRecords) -> String {
    let WaitingRecords { records, bytes, accepted } = waiting;
    match accepted {
        None => "no push waits".into(),
        Some((oldest, newest)) => format!(
            "{} of {bytes} bytes {} unfinished, accepted from {} to {}",
            counted(*records, "push", "pushes"),
            if *records == 1 { "waits" } else { "wait" },
            shown(*oldest),
            shown(*newest)
        ),
    }
}

fn stored_line(stored: &StoredRecords) -> String {
    let StoredRecords { pushes, bytes, places, .. } = stored;
    let pushes = counted(*pushes, "stored push", "stored pushes");
    format!(
        "{pushes} of {bytes} bytes in {}; some may be over, deleted or replaced",
        counted(*places, "place", "places")
    )
}

/// A time in ms since 1970, to the second.
fn shown(ms: u64) -> String {
    let time = UNIX_EPOCH.checked_add(Duration::from_millis(ms));
    // a clock that was wrong by centuries
    let time = time.filter(|_| ms < 253_402_300_800_000);
    time.map_or(format!("{ms} ms after 1970"), |time| humantime::format_rfc3339_seconds(time).to_string())
}

/// What a place is where something is missing.
#[derive(Clone, Copy, PartialEq, Eq)]
enum PlaceKind {
    Damage,
    TornEnd,
    /// Numbers without bytes that are told already: what a failure of the disk or a salvage left out.
    Gap,
}

impl PlaceKind {
    fn of(damage: &Damage) -> Self {
        match damage {
            Damage { known: true, bytes: 0, .. } => Self::Gap,
            Damage { synced: true, .. } => Self::Damage,
            Damage { synced: false, .. } => Self::TornEnd,
        }
    }
}

/// A line for each place where something is missing.
fn places(damages: &[Damage]) -> String {
    damages.iter().map(|damage| format!("{}\n", place(damage))).collect()
}

fn place(damage: &Damage) -> String {
    let Damage { file, segment, offset, bytes, numbers, kind, synced, known } = damage;
    let what = match PlaceKind::of(damage) {
        PlaceKind::Damage => "damage",
        PlaceKind::TornEnd => "torn end",
        PlaceKind::Gap => "gap",
    };
    let mut line = match (file.as_str(), segment) {
        ("", Some(segment)) => format!("{what}: the file of segment {segment} is missing"),
        ("", None) => format!("{what}: a file is missing"),
        (file, _) => format!("{what}: {file}, byte {offset}"),
    };
    if *bytes > 0 {
        let _ = write!(line, ", {}", counted(*bytes, "byte", "bytes"));
    }
    match numbers.end - numbers.start {
        0 if kind.is_some() => line.push_str(", no push was in it"),
        0 if *synced => line.push_str(", pushes unknown"),
        0 => {}
        gone => {
            let _ = write!(line, ", {} gone", counted(gone, "entry", "entries"));
        }
    }
    if !synced && !known {
        line.push_str(", no sync followed it");
    }
    if *known {
        line.push_str(" (told at an earlier start)");
    }
    line
}

fn counted(number: u64, one: &str, more: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { more })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_says_file_offset_how_much_and_whether_it_was_synced() {
        let damage = Damage {
            file: "data/log.0001".into(),
            segment: Some(3),
            offset: 4096,
            bytes: 128,
            numbers: 7..9,
            kind: None,
            synced: true,
            known: false,
        };
        assert_eq!(place(&damage), "damage: data/log.0001, byte 4096, 128 bytes, 2 entries gone");
        let unknown = Damage { numbers: 0..0, known: true, ..damage.clone() };
        assert_eq!(
            place(&unknown),
            "damage: data/log.0001, byte 4096, 128 bytes, pushes unknown (told at an earlier start)"
        );
        let progress = Damage { numbers: 0..0, kind: Some(128), ..damage.clone() };
        assert_eq!(place(&progress), "damage: data/log.0001, byte 4096, 128 bytes, no push was in it");
        let missing = Damage { file: String::new(), offset: 0, bytes: 0, numbers: 7..8, ..damage.clone() };
        assert_eq!(place(&missing), "damage: the file of segment 3 is missing, 1 entry gone");
        let gap = Damage { bytes: 0, known: true, ..damage.clone() };
        assert_eq!(place(&gap), "gap: data/log.0001, byte 4096, 2 entries gone (told at an earlier start)");
        let torn = Damage { bytes: 0, numbers: 0..0, synced: false, ..damage };
        assert_eq!(place(&torn), "torn end: data/log.0001, byte 4096, no sync followed it");
    }

    #[test]
    fn times_are_shown_to_the_second_and_those_that_no_calendar_has_as_numbers() {
        assert_eq!(shown(1_764_403_200_999), "2025-11-29T08:00:00Z");
        assert_eq!(shown(u64::MAX), format!("{} ms after 1970", u64::MAX));
    }
}
