//! A disk in memory that forgets what was not synced, and fails when told to.

use std::{
    io,
    sync::{Arc, Mutex},
};

use redb::StorageBackend;

use crate::queue::{
    OpenError,
    embedded::log::{LogFiles, OpenLog},
};

const SECTOR: usize = 512;

/// Survives power cuts; what is opened on it does not.
#[derive(Clone, Debug, Default)]
pub(super) struct Disk(Arc<Mutex<Platter>>);

#[derive(Debug, Default)]
struct Platter {
    files: [File; 2],
    /// Power cuts so far.
    cuts: u64,
    failing: bool,
}

#[derive(Clone, Copy, Debug)]
enum Name {
    Log,
    Journal,
}

#[derive(Debug, Default)]
struct File {
    synced: Vec<u8>,
    /// As the page cache has it.
    cached: Vec<u8>,
    unsynced: Vec<Change>,
}

#[derive(Debug)]
enum Change {
    Len(usize),
    Write(usize, Vec<u8>),
}

impl File {
    fn cut_power(&mut self, random: &mut fastrand::Rng) {
        let survives = random.choice([0.0, 0.1, 0.5, 0.9, 1.0]).unwrap();
        let mut bytes = std::mem::take(&mut self.synced);
        for change in std::mem::take(&mut self.unsynced) {
            match &change {
                // a journalling file system has the length before the data
                Change::Len(len) if *len > bytes.len() => apply(&mut bytes, &change),
                Change::Len(_) => {}
                Change::Write(at, data) => {
                    let mut done = 0;
                    while done < data.len() {
                        let len = (SECTOR - (at + done) % SECTOR).min(data.len() - done);
                        if random.f64() < survives {
                            apply(&mut bytes, &Change::Write(at + done, data[done..done + len].to_vec()));
                        }
                        done += len;
                    }
                }
            }
        }
        self.cached = bytes.clone();
        self.synced = bytes;
    }
}

fn apply(bytes: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Len(len) => bytes.resize(*len, 0),
        Change::Write(at, data) => {
            bytes.resize(bytes.len().max(at + data.len()), 0);
            bytes[*at..at + data.len()].copy_from_slice(data);
        }
    }
}

impl Disk {
    /// From now on nothing opened before can write; of what was not synced each sector made it or not, by chance.
    pub(super) fn cut_power(&self, random: &mut fastrand::Rng) {
        let mut platter = self.0.lock().unwrap();
        platter.cuts += 1;
        for file in &mut platter.files {
            file.cut_power(random);
        }
    }

    /// The kernel could not write what came into the journal before its last `after` writes: it drops it without a word.
    pub(super) fn forget_entry(&self, after: usize) {
        let File { synced, cached, unsynced } = &mut self.0.lock().unwrap().files[Name::Journal as usize];
        unsynced.remove(unsynced.len() - 1 - after);
        *cached = synced.clone();
        unsynced.iter().for_each(|change| apply(cached, change));
    }

    pub(super) fn fail(&self, failing: bool) {
        self.0.lock().unwrap().failing = failing;
    }

    /// The log's storage until the next power cut.
    pub(super) fn storage(&self) -> OpenLog {
        let cuts = self.0.lock().unwrap().cuts;
        let [log, journal] = [Name::Log, Name::Journal].map(|file| Power { disk: self.clone(), cuts, file });
        Box::new(move || {
            log.on(|_| Ok(())).map_err(|error| OpenError(error.to_string()))?;
            LogFiles::open(|builder| builder.create_with_backend(log.clone()), || Ok(Box::new(journal.clone())))
                .map_err(|failure| OpenError(format!("{failure:?}")))
        })
    }
}

#[derive(Clone, Debug)]
struct Power {
    disk: Disk,
    cuts: u64,
    file: Name,
}

impl Power {
    fn on<T>(&self, act: impl FnOnce(&mut File) -> io::Result<T>) -> io::Result<T> {
        let mut platter = self.disk.0.lock().unwrap();
        if platter.cuts != self.cuts {
            return Err(io::Error::other("the power is off"));
        }
        act(&mut platter.files[self.file as usize])
    }

    fn failing(&self) -> bool {
        self.disk.0.lock().unwrap().failing
    }

    fn change(&self, change: Change) -> io::Result<()> {
        if self.failing() {
            return Err(io::Error::new(io::ErrorKind::StorageFull, "no space left on the test disk"));
        }
        self.on(|file| {
            apply(&mut file.cached, &change);
            file.unsynced.push(change);
            Ok(())
        })
    }
}

impl StorageBackend for Power {
    fn len(&self) -> io::Result<u64> {
        self.on(|file| Ok(file.cached.len() as u64))
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.on(|file| {
            let from = file.cached.get(offset as usize..offset as usize + out.len());
            out.copy_from_slice(from.ok_or(io::ErrorKind::UnexpectedEof)?);
            Ok(())
        })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(Change::Len(len as usize))
    }

    fn sync_data(&self) -> io::Result<()> {
        if self.failing() {
            return Err(io::Error::other("the test disk fails"));
        }
        self.on(|file| {
            let File { synced, unsynced, .. } = file;
            unsynced.drain(..).for_each(|change| apply(synced, &change));
            Ok(())
        })
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.change(Change::Write(offset as usize, data.to_vec()))
    }
}
