//! The log's files: redb with what is written to it in one transaction, and the journal.

use std::{
    collections::{BTreeMap, HashSet},
    fs::{self, File, TryLockError},
    io::{Read as _, Seek as _, Write as _},
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use redb::{
    Builder, Database, DatabaseError, Durability, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition,
    backends::FileBackend,
};

use super::{
    chunk::Chunk,
    journal::Journal,
    place,
    row::{self, Row, RowError},
};
use crate::{config, queue::OpenError};

const ROWS: TableDefinition<u64, &[u8]> = TableDefinition::new("rows");
const PROGRESS: TableDefinition<u64, &[u8]> = TableDefinition::new("progress");
const MARKS: TableDefinition<&str, u64> = TableDefinition::new("marks");
/// Of the tables above, row.rs and journal.rs.
const FORMAT: u64 = 1;
/// Rows are written once and mostly never read: a large cache only costs memory.
const CACHE: usize = 4 << 20;
/// A file that is smaller is not worth compacting.
const COMPACT_FROM: u64 = 16 << 20;
/// A predecessor that was killed a moment ago may still hold the lock.
const LOCK_WAIT: Duration = Duration::from_secs(2);

/// Opens the log, again after each failure of the disk.
pub(super) type OpenLog = Box<dyn FnMut() -> Result<LogFiles, OpenError> + Send>;

/// Opens the log in a folder, which stays locked until the returned value is dropped.
pub(super) fn folder(dir: PathBuf) -> OpenLog {
    let mut lock = None;
    Box::new(move || {
        if lock.is_none() {
            lock = Some(lock_folder(&dir)?);
        }
        let path = dir.join("queue.redb");
        let file = place::open(&path)?;
        let journal = place::open(&dir.join("queue.journal"))?;
        // redb is hardened against torn writes, not against any file of that name
        let opened = catch_unwind(AssertUnwindSafe(|| {
            LogFiles::open(|builder| builder.create_file(file), || Ok(Box::new(FileBackend::new(journal)?)))
        }));
        let mut log = opened.unwrap_or_else(|_| Err(LogOpenError::Damaged("it has no valid form".into()))).map_err(
            |failure| match failure {
                LogOpenError::Io(error) => OpenError(format!(
                    "cannot open the log in {}: {error}; see that [data] dir is writable, on a local disk and not full",
                    dir.display()
                )),
                LogOpenError::Damaged(what) => OpenError(format!(
                    "{} is damaged or of another version ({what}); move it away to start with an empty queue (the pushes \
                     in it are lost then), or put back a copy of it",
                    path.display()
                )),
            },
        )?;
        log.path = Some(path);
        Ok(log)
    })
}

fn lock_folder(dir: &Path) -> Result<File, OpenError> {
    place::folder(dir)?;
    let path = dir.join("queue.lock");
    let mut file = place::open(&path)?;
    let give_up = Instant::now() + LOCK_WAIT;
    loop {
        match file.try_lock() {
            Ok(()) => break,
            Err(TryLockError::WouldBlock) if Instant::now() < give_up => thread::sleep(Duration::from_millis(50)),
            Err(TryLockError::WouldBlock) => {
                let mut owner = String::new();
                let _ = file.read_to_string(&mut owner);
                return Err(OpenError(format!(
                    "{} is in use by another process ({}); stop it, or give this one another [data] dir",
                    dir.display(),
                    if owner.trim().is_empty() { "unknown" } else { owner.trim() },
                )));
            }
            Err(TryLockError::Error(error)) => return Err(place::cannot(&path, &error)),
        }
    }
    // for the message above only
    let _ = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| writeln!(file, "pid {}", std::process::id()));
    Ok(file)
}

/// Why a file was not opened.
#[derive(Debug)]
pub(super) enum LogOpenError {
    Io(String),
    Damaged(String),
}

impl From<redb::Error> for LogOpenError {
    fn from(error: redb::Error) -> Self {
        match error {
            // how redb says that the file is none of its own
            redb::Error::Io(error) if error.kind() == std::io::ErrorKind::InvalidData => {
                Self::Damaged(error.to_string())
            }
            redb::Error::Io(error) => Self::Io(error.to_string()),
            error @ (redb::Error::PreviousIo | redb::Error::DatabaseAlreadyOpen) => Self::Io(error.to_string()),
            error => Self::Damaged(error.to_string()),
        }
    }
}

/// An open log.
pub(super) struct LogFiles {
    database: Database,
    path: Option<PathBuf>,
    journal: Journal,
    /// It was not closed and has been checked.
    pub(super) repaired: bool,
}

/// What one transaction writes, beside the journal's rows.
#[derive(Default)]
pub(super) struct Writes {
    pub(super) removed: Vec<u64>,
    pub(super) progress: Vec<(u64, Option<Vec<u8>>)>,
    pub(super) marks: Marks,
}

/// The log's two numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Marks {
    /// The sequence number that comes next.
    pub(super) next: u64,
    /// Records before it may have been handed out.
    pub(super) handed: u64,
}

impl LogFiles {
    /// On what `create` makes of the builder; what only the journal has is in the log when it returns.
    pub(super) fn open(
        create: impl FnOnce(&mut Builder) -> Result<Database, DatabaseError>,
        journal: impl FnOnce() -> Result<Box<dyn StorageBackend>, redb::Error>,
    ) -> Result<Self, LogOpenError> {
        let repaired = Arc::new(AtomicBool::new(false));
        let mut builder = Builder::new();
        let seen = repaired.clone();
        builder.set_cache_size(CACHE).set_repair_callback(move |_| {
            if !seen.swap(true, Ordering::Relaxed) {
                tracing::warn!("the queue's log was not closed in order: checking it");
            }
        });
        let database = create(&mut builder).map_err(redb::Error::from)?;
        let known = match format(&database)? {
            Some(FORMAT) => Some(marks(&database)?),
            Some(other) => {
                return Err(LogOpenError::Damaged(format!("its format is {other}, this version's {FORMAT}")));
            }
            None => None,
        };
        // a log that was moved away took its pushes with it: the new one has written nothing to a journal yet
        let next = known.map_or(u64::MAX, |marks| marks.next);
        let (mut journal, found) = Journal::open(journal()?, next).map_err(redb::Error::from)?;
        if found.torn {
            tracing::warn!("the end of queue.journal is torn and is cut off: no sync followed it");
        }
        let rows = journal.count();
        if let Some(marks) = known.filter(|_| rows > 0) {
            insert(&database, &journal, &Writes { marks: Marks { next: found.next, ..marks }, ..Writes::default() })?;
            tracing::warn!(rows, "queue.journal had rows that the queue's log had not: they are written now");
        }
        journal.reset().map_err(redb::Error::from)?;
        if known.is_none() {
            transact(&database, |transaction| {
                transaction.open_table(ROWS)?;
                transaction.open_table(PROGRESS)?;
                transaction.open_table(MARKS)?.insert("format", FORMAT)?;
                Ok(())
            })?;
        }
        Ok(Self { database, path: None, journal, repaired: repaired.load(Ordering::Relaxed) })
    }

    /// Returns once `rows` are acknowledgeable: with `sync = always` the disk has them, else the kernel.
    pub(super) fn append(&mut self, rows: &[Row], sync: config::Sync) -> Result<(), redb::Error> {
        self.journal.append(rows)?;
        match sync {
            config::Sync::Always => Ok(self.journal.sync()?),
            config::Sync::Every(_) => Ok(()),
        }
    }

    /// Forgets the rows that only the journal has and that are not wanted any more: the log will never hear of them.
    pub(super) fn retain(&mut self, wanted: impl Fn(u64) -> bool) {
        self.journal.retain(wanted);
    }

    /// The journal has so much that a [`LogFiles::write`] should follow.
    pub(super) fn is_due(&self) -> bool {
        self.journal.is_full()
    }

    /// Returns once all is in the log, with what only the journal had.
    pub(super) fn write(&mut self, writes: &Writes) -> Result<(), redb::Error> {
        insert(&self.database, &self.journal, writes)?;
        self.journal.clear();
        Ok(())
    }

    /// Every row as a chunk, in order, and the marks.
    pub(super) fn load(&self) -> Result<(BTreeMap<u64, Chunk>, Marks), redb::Error> {
        load(&self.database)
    }

    /// One row, from wherever it is; `None` if it is not there.
    pub(super) fn row(&self, first: u64) -> Result<Option<Vec<u8>>, redb::Error> {
        if let Some(value) = self.journal.row(first)? {
            return Ok(Some(value));
        }
        let rows = self.database.begin_read()?.open_table(ROWS)?;
        Ok(rows.get_owned(first)?.map(|value| value.value().to_vec()))
    }

    /// After a failure it is unknown whether the last transaction is there. Makes the file what `chunks`, the truth, says:
    /// what was never acknowledged goes.
    pub(super) fn reconcile(&self, chunks: &BTreeMap<u64, Chunk>, marks: Marks) -> Result<(), redb::Error> {
        transact(&self.database, |transaction| {
            let mut rows = transaction.open_table(ROWS)?;
            let mut cut = Vec::new();
            let mut gone = Vec::new();
            for row in rows.iter()? {
                let (first, value) = row?;
                let (_, records) = row::read(value.value()).map_err(corrupted)?;
                match chunks.get(&first.value()) {
                    None => gone.push(first.value()),
                    Some(chunk) if records.len() > chunk.count as usize => {
                        cut.push(row::truncated(first.value(), value.value(), chunk.count).map_err(corrupted)?)
                    }
                    Some(_) => {}
                }
            }
            let mut progress = transaction.open_table(PROGRESS)?;
            let known: HashSet<u64> = chunks.keys().copied().collect();
            progress.retain(|first, _| known.contains(&first))?;
            for (first, chunk) in chunks {
                match chunk.progress() {
                    Some(value) => drop(progress.insert(first, value.as_slice())?),
                    None => drop(progress.remove(first)?),
                }
            }
            for row in &cut {
                rows.insert(row.first, row.value.as_slice())?;
            }
            for first in gone {
                rows.remove(first)?;
            }
            write_marks(transaction, marks)
        })
    }

    /// Gives the disk back what a long-gone backlog took.
    pub(super) fn compact(&mut self, stored: u64) -> Result<(), redb::Error> {
        let Some(path) = &self.path else { return Ok(()) };
        let before = fs::metadata(path)?.len();
        if before < COMPACT_FROM || stored > before / 4 {
            return Ok(());
        }
        self.database.compact()?;
        let after = fs::metadata(path)?.len();
        tracing::info!(before, after, "compacted the queue's log");
        Ok(())
    }
}

fn format(database: &Database) -> Result<Option<u64>, redb::Error> {
    match database.begin_read()?.open_table(MARKS) {
        Ok(marks) => Ok(marks.get("format")?.map(|format| format.value())),
        Err(redb::TableError::TableDoesNotExist(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn load(database: &Database) -> Result<(BTreeMap<u64, Chunk>, Marks), redb::Error> {
    let transaction = database.begin_read()?;
    let rows = transaction.open_table(ROWS)?;
    let progress = transaction.open_table(PROGRESS)?;
    let mut chunks = BTreeMap::new();
    for row in rows.iter()? {
        let (first, value) = row?;
        let progress = progress.get(first.value())?;
        let chunk = Chunk::load(value.value(), progress.as_ref().map(|value| value.value())).map_err(corrupted)?;
        chunks.insert(first.value(), chunk);
    }
    Ok((chunks, marks(database)?))
}

fn marks(database: &Database) -> Result<Marks, redb::Error> {
    let transaction = database.begin_read()?;
    let after = match transaction.open_table(ROWS)?.last()? {
        Some((first, value)) => first.value() + row::read(value.value()).map_err(corrupted)?.1.len() as u64,
        None => 0,
    };
    let marks = transaction.open_table(MARKS)?;
    let mark = |name| Ok::<_, redb::Error>(marks.get(name)?.map_or(0, |mark| mark.value()));
    Ok(Marks { next: mark("next")?.max(after), handed: mark("handed")? })
}

fn transact(
    database: &Database,
    write: impl FnOnce(&redb::WriteTransaction) -> Result<(), redb::Error>,
) -> Result<(), redb::Error> {
    let mut transaction = database.begin_write()?;
    transaction.set_durability(Durability::Immediate).map_err(|error| redb::Error::Corrupted(error.to_string()))?;
    write(&transaction)?;
    Ok(transaction.commit()?)
}

fn insert(database: &Database, journal: &Journal, writes: &Writes) -> Result<(), redb::Error> {
    transact(database, |transaction| {
        let mut rows = transaction.open_table(ROWS)?;
        for row in journal.rows() {
            match row? {
                (first, Some(value)) => drop(rows.insert(first, value.as_slice())?),
                (first, None) => {
                    tracing::error!(
                        first,
                        "queue.journal lost a row: its pushes are in memory until the process ends, or gone"
                    );
                }
            }
        }
        let mut progress = transaction.open_table(PROGRESS)?;
        for (first, value) in &writes.progress {
            match value {
                Some(value) => drop(progress.insert(first, value.as_slice())?),
                None => drop(progress.remove(first)?),
            }
        }
        for first in &writes.removed {
            rows.remove(first)?;
            progress.remove(first)?;
        }
        write_marks(transaction, writes.marks)
    })
}

fn write_marks(transaction: &redb::WriteTransaction, marks: Marks) -> Result<(), redb::Error> {
    let mut table = transaction.open_table(MARKS)?;
    table.insert("next", marks.next)?;
    table.insert("handed", marks.handed)?;
    Ok(())
}

fn corrupted(bad: RowError) -> redb::Error {
    redb::Error::Corrupted(bad.to_string())
}
