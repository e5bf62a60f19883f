//! Storage libraries under a queue's load: records come in batches, one durable transaction each, and go in order.
//! `storage <folder on the disk to measure> [library]`; see ../../0004-storage.md in docs/adr.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

type Failure = Box<dyn std::error::Error>;
type Records = [(u64, Vec<u8>)];

/// One table of numbers to bytes.
trait Storage: Sized {
    const NAME: &str;
    fn open(dir: &Path) -> Result<Self, Failure>;
    /// One durable transaction.
    fn commit(&mut self, puts: &Records, removes: &[u64]) -> Result<(), Failure>;
    /// Reads all: records and bytes.
    fn read(&self) -> Result<(usize, usize), Failure>;
}

struct Redb(redb::Database);
const TABLE: redb::TableDefinition<u64, &[u8]> = redb::TableDefinition::new("records");

impl Storage for Redb {
    const NAME: &str = "redb";

    fn open(dir: &Path) -> Result<Self, Failure> {
        let database = redb::Builder::new().set_cache_size(4 << 20).create(dir.join("redb"))?;
        let transaction = database.begin_write()?;
        transaction.open_table(TABLE)?;
        transaction.commit()?;
        Ok(Self(database))
    }

    fn commit(&mut self, puts: &Records, removes: &[u64]) -> Result<(), Failure> {
        let transaction = self.0.begin_write()?;
        {
            let mut table = transaction.open_table(TABLE)?;
            for (key, value) in puts {
                table.insert(key, value.as_slice())?;
            }
            for key in removes {
                table.remove(key)?;
            }
        }
        Ok(transaction.commit()?)
    }

    fn read(&self) -> Result<(usize, usize), Failure> {
        use redb::{ReadableDatabase, ReadableTable};
        let mut sum = (0, 0);
        for item in self.0.begin_read()?.open_table(TABLE)?.iter()? {
            sum = (sum.0 + 1, sum.1 + item?.1.value().len());
        }
        Ok(sum)
    }
}

struct Fjall(fjall::Database, fjall::Keyspace);

impl Storage for Fjall {
    const NAME: &str = "fjall";

    fn open(dir: &Path) -> Result<Self, Failure> {
        let database = fjall::Database::builder(dir.join("fjall")).open()?;
        let keyspace = database.keyspace("records", fjall::KeyspaceCreateOptions::default)?;
        Ok(Self(database, keyspace))
    }

    fn commit(&mut self, puts: &Records, removes: &[u64]) -> Result<(), Failure> {
        let mut batch = self.0.batch().durability(Some(fjall::PersistMode::SyncData));
        for (key, value) in puts {
            batch.insert(&self.1, key.to_be_bytes(), value.as_slice());
        }
        for key in removes {
            batch.remove(&self.1, key.to_be_bytes());
        }
        Ok(batch.commit()?)
    }

    fn read(&self) -> Result<(usize, usize), Failure> {
        let mut sum = (0, 0);
        for item in self.1.iter() {
            sum = (sum.0 + 1, sum.1 + item.value()?.len());
        }
        Ok(sum)
    }
}

struct Sqlite(rusqlite::Connection);

impl Storage for Sqlite {
    const NAME: &str = "sqlite";

    fn open(dir: &Path) -> Result<Self, Failure> {
        let connection = rusqlite::Connection::open(dir.join("sqlite"))?;
        connection.execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
             CREATE TABLE IF NOT EXISTS records (key INTEGER PRIMARY KEY, value BLOB NOT NULL);",
        )?;
        Ok(Self(connection))
    }

    fn commit(&mut self, puts: &Records, removes: &[u64]) -> Result<(), Failure> {
        let transaction = self.0.transaction()?;
        {
            let mut insert = transaction.prepare_cached("INSERT INTO records VALUES (?, ?)")?;
            for (key, value) in puts {
                insert.execute((*key as i64, value))?;
            }
            let mut delete = transaction.prepare_cached("DELETE FROM records WHERE key = ?")?;
            for key in removes {
                delete.execute([*key as i64])?;
            }
        }
        Ok(transaction.commit()?)
    }

    fn read(&self) -> Result<(usize, usize), Failure> {
        let mut statement = self.0.prepare("SELECT value FROM records ORDER BY key")?;
        let mut rows = statement.query([])?;
        let mut sum = (0, 0);
        while let Some(row) = rows.next()? {
            sum = (sum.0 + 1, sum.1 + row.get_ref(0)?.as_blob()?.len());
        }
        Ok(sum)
    }
}

struct Lmdb(heed::Env, heed::Database<heed::types::U64<heed::byteorder::BE>, heed::types::Bytes>);

impl Storage for Lmdb {
    const NAME: &str = "lmdb (heed)";

    fn open(dir: &Path) -> Result<Self, Failure> {
        // SAFETY: nobody else changes the mapped file
        let env = unsafe { heed::EnvOpenOptions::new().map_size(4 << 30).open(dir)? };
        let mut transaction = env.write_txn()?;
        let database = env.create_database(&mut transaction, None)?;
        transaction.commit()?;
        Ok(Self(env, database))
    }

    fn commit(&mut self, puts: &Records, removes: &[u64]) -> Result<(), Failure> {
        let mut transaction = self.0.write_txn()?;
        for (key, value) in puts {
            self.1.put(&mut transaction, key, value)?;
        }
        for key in removes {
            self.1.delete(&mut transaction, key)?;
        }
        Ok(transaction.commit()?)
    }

    fn read(&self) -> Result<(usize, usize), Failure> {
        let transaction = self.0.read_txn()?;
        let mut sum = (0, 0);
        for item in self.1.iter(&transaction)? {
            sum = (sum.0 + 1, sum.1 + item?.1.len());
        }
        Ok(sum)
    }
}

struct Sled(sled::Db);

impl Storage for Sled {
    const NAME: &str = "sled";

    fn open(dir: &Path) -> Result<Self, Failure> {
        // its own flush every 500 ms would only disturb: each commit flushes
        Ok(Self(sled::Config::new().path(dir.join("sled")).flush_every_ms(None).open()?))
    }

    fn commit(&mut self, puts: &Records, removes: &[u64]) -> Result<(), Failure> {
        let mut batch = sled::Batch::default();
        for (key, value) in puts {
            batch.insert(&key.to_be_bytes(), value.as_slice());
        }
        for key in removes {
            batch.remove(&key.to_be_bytes());
        }
        self.0.apply_batch(batch)?;
        self.0.flush()?;
        Ok(())
    }

    fn read(&self) -> Result<(usize, usize), Failure> {
        let mut sum = (0, 0);
        for item in self.0.iter() {
            sum = (sum.0 + 1, sum.1 + item?.1.len());
        }
        Ok(sum)
    }
}

const RECORD: usize = 200;
const ROW: usize = 60 * 1024;
const BACKLOG: u64 = 200_000;
const SECONDS: u64 = 4;
/// Commits until a record is removed again.
const WINDOW: u64 = 20;

fn record(n: u64) -> Vec<u8> {
    let mut bytes = vec![0; RECORD];
    let mut random = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    for byte in &mut bytes {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        *byte = random as u8;
    }
    bytes
}

/// The batch's records, one a key, or packed into rows as oxipush does.
fn pack(first: u64, count: u64, rows: bool) -> Vec<(u64, Vec<u8>)> {
    let mut packed: Vec<(u64, Vec<u8>)> = Vec::new();
    for n in first..first + count {
        match packed.last_mut() {
            Some((_, row)) if rows && row.len() + RECORD <= ROW => row.extend(record(n)),
            _ => packed.push((n, record(n))),
        }
    }
    packed
}

fn fresh(dir: &Path) -> Result<PathBuf, Failure> {
    let dir = dir.join("storage-measurement");
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir)?;
    Ok(dir)
}

fn size(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(metadata) = fs::metadata(path) else { return 0 };
    let inside = fs::read_dir(path).into_iter().flatten().flatten().map(|entry| size(&entry.path())).sum::<u64>();
    inside + if metadata.is_file() { metadata.blocks() * 512 } else { 0 }
}

fn throughput<S: Storage>(dir: &Path, batch: u64, rows: bool) -> Result<(f64, u64), Failure> {
    let dir = fresh(dir)?;
    let mut storage = S::open(&dir)?;
    let mut commits = 0;
    let mut keys: std::collections::VecDeque<Vec<u64>> = std::collections::VecDeque::new();
    let mut spent = Duration::ZERO;
    while spent < Duration::from_secs(SECONDS) {
        let puts = pack(commits * batch, batch, rows);
        let removes = if commits >= WINDOW { keys.pop_front().unwrap_or_default() } else { Vec::new() };
        keys.push_back(puts.iter().map(|put| put.0).collect());
        let since = Instant::now();
        storage.commit(&puts, &removes)?;
        spent += since.elapsed();
        commits += 1;
    }
    let size = size(&dir);
    Ok(((commits * batch) as f64 / spent.as_secs_f64(), size))
}

fn fill<S: Storage>(dir: &Path, rows: bool) -> Result<(), Failure> {
    let mut storage = S::open(dir)?;
    for first in (0..BACKLOG).step_by(1000) {
        storage.commit(&pack(first, 1000, rows), &[])?;
    }
    // nothing is closed
    std::process::abort()
}

fn recovery<S: Storage>(dir: &Path, name: &str, rows: bool) -> Result<(Duration, u64), Failure> {
    let dir = fresh(dir)?;
    let mode = if rows { "fill-rows" } else { "fill" };
    Command::new(std::env::current_exe()?).args([dir.as_os_str(), name.as_ref(), mode.as_ref()]).status()?;
    let size = size(&dir);
    let since = Instant::now();
    let storage = S::open(&dir)?;
    let (_, bytes) = storage.read()?;
    let took = since.elapsed();
    assert_eq!(bytes as u64, BACKLOG * RECORD as u64, "{name} lost some");
    Ok((took, size))
}

fn measure<S: Storage>(dir: &Path, only: Option<&str>, mode: Option<&str>) -> Result<(), Failure> {
    if only.is_some_and(|only| only != S::NAME) {
        return Ok(());
    }
    if let Some(mode) = mode {
        return fill::<S>(dir, mode == "fill-rows");
    }
    for rows in [false, true] {
        let (small, size) = throughput::<S>(dir, 64, rows)?;
        let (large, _) = throughput::<S>(dir, 1000, rows)?;
        let (recovery, backlog) = recovery::<S>(dir, S::NAME, rows)?;
        println!(
            "| {} | {} | {small:.0} | {large:.0} | {} ms | {:.1} MiB | {:.0} MiB |",
            S::NAME,
            if rows { "in rows" } else { "each" },
            recovery.as_millis(),
            size as f64 / f64::from(1 << 20),
            backlog as f64 / f64::from(1 << 20),
        );
    }
    Ok(())
}

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().collect();
    let dir = Path::new(arguments.get(1).ok_or("name a folder on the disk to measure")?);
    let (only, mode) = (arguments.get(2).map(String::as_str), arguments.get(3).map(String::as_str));
    if mode.is_none() {
        let mut file = fs::File::create(dir.join("fsync"))?;
        let since = Instant::now();
        for _ in 0..500 {
            std::io::Write::write_all(&mut file, &[7; 4096])?;
            file.sync_data()?;
        }
        println!("write of 4 KiB and fdatasync: {} µs\n", since.elapsed().as_micros() / 500);
        println!("| library | records | batches of 64, records/s | batches of 1000, records/s | open after abort | disk, 1280 live | disk, 200,000 live |");
        println!("|---|---|---|---|---|---|---|");
    }
    measure::<Redb>(dir, only, mode)?;
    measure::<Fjall>(dir, only, mode)?;
    measure::<Sqlite>(dir, only, mode)?;
    measure::<Lmdb>(dir, only, mode)?;
    measure::<Sled>(dir, only, mode)
}
