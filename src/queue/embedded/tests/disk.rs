//! A disk in memory that forgets what was not synced, and fails when told to.

use std::{
    io,
    sync::{Arc, Mutex},
};

use redb::StorageBackend;

use crate::queue::{
    OpenError,
    embedded::store::{Open, Store},
};

const SECTOR: usize = 512;

/// Survives power cuts; what is opened on it does not.
#[derive(Clone, Debug, Default)]
pub(super) struct Disk(Arc<Mutex<Platter>>);

#[derive(Debug, Default)]
struct Platter {
    synced: Vec<u8>,
    /// As the page cache has it.
    cached: Vec<u8>,
    unsynced: Vec<Change>,
    /// Power cuts so far.
    cuts: u64,
    failing: bool,
}

#[derive(Debug)]
enum Change {
    Len(usize),
    Write(usize, Vec<u8>),
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
        let survives = random.choice([0.0, 0.1, 0.5, 0.9, 1.0]).unwrap();
        let mut bytes = std::mem::take(&mut platter.synced);
        for change in std::mem::take(&mut platter.unsynced) {
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
        platter.cached = bytes.clone();
        platter.synced = bytes;
        platter.cuts += 1;
    }

    pub(super) fn fail(&self, failing: bool) {
        self.0.lock().unwrap().failing = failing;
    }

    /// The log's storage until the next power cut.
    pub(super) fn storage(&self) -> Open {
        let power = Power { disk: self.clone(), cuts: self.0.lock().unwrap().cuts };
        Box::new(move || {
            power.on(|_| Ok(())).map_err(|error| OpenError(error.to_string()))?;
            Store::open(|builder| builder.create_with_backend(power.clone()))
                .map_err(|failure| OpenError(format!("{failure:?}")))
        })
    }
}

#[derive(Clone, Debug)]
struct Power {
    disk: Disk,
    cuts: u64,
}

impl Power {
    fn on<T>(&self, act: impl FnOnce(&mut Platter) -> io::Result<T>) -> io::Result<T> {
        let mut platter = self.disk.0.lock().unwrap();
        if platter.cuts != self.cuts {
            return Err(io::Error::other("the power is off"));
        }
        act(&mut platter)
    }

    fn change(&self, change: Change) -> io::Result<()> {
        self.on(|platter| {
            if platter.failing {
                return Err(io::Error::new(io::ErrorKind::StorageFull, "no space left on the test disk"));
            }
            apply(&mut platter.cached, &change);
            platter.unsynced.push(change);
            Ok(())
        })
    }
}

impl StorageBackend for Power {
    fn len(&self) -> io::Result<u64> {
        self.on(|platter| Ok(platter.cached.len() as u64))
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.on(|platter| {
            let from = platter.cached.get(offset as usize..offset as usize + out.len());
            out.copy_from_slice(from.ok_or(io::ErrorKind::UnexpectedEof)?);
            Ok(())
        })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(Change::Len(len as usize))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.on(|platter| {
            if platter.failing {
                return Err(io::Error::other("the test disk fails"));
            }
            let Platter { synced, unsynced, .. } = platter;
            unsynced.drain(..).for_each(|change| apply(synced, &change));
            Ok(())
        })
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.change(Change::Write(offset as usize, data.to_vec()))
    }
}
