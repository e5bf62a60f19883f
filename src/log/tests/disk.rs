//! A disk in memory for tests: it forgets, reorders and tears what was not synced, and fails when told to.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::log::disk::{Disk, DiskFile};

/// What a disk writes whole or not at all, in bytes.
const SECTOR: usize = 512;
/// What a file system gives a file at once, in bytes.
const BLOCK: usize = 4096;

/// The disk itself. It outlives power cuts and processes; what [`TestDisk::powered`] gives does not.
#[derive(Clone, Debug, Default)]
pub(crate) struct TestDisk(Arc<Mutex<Platter>>);

#[derive(Clone, Debug)]
struct Platter {
    files: BTreeMap<u64, StoredFile>,
    next_file: u64,
    /// Which name is which file, for the kernel.
    names: BTreeMap<u32, u64>,
    /// As the disk has it.
    synced_names: BTreeMap<u32, u64>,
    /// What was done to names since, in order. `None`: removed.
    unsynced_names: Vec<(u32, Option<u64>)>,
    /// How often all that used it lost it.
    starts: u64,
    faults: Faults,
    random: fastrand::Rng,
    operations: u64,
    writes: u64,
    syncs: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Faults {
    failing: bool,
    fail_at: Option<u64>,
    fail_from: Option<u64>,
    room: Option<usize>,
    ignore_sync: bool,
}

#[derive(Clone, Debug, Default)]
struct StoredFile {
    /// As the page cache has it.
    cached: Vec<u8>,
    /// What of it has room on the disk, in bytes.
    allocated: usize,
    synced: Vec<u8>,
    unsynced: Vec<Change>,
}

/// Bytes written at a place.
#[derive(Clone, Debug)]
struct Change(usize, Vec<u8>);

impl Change {
    fn end(&self) -> usize {
        self.0 + self.1.len()
    }

    fn apply(&self, bytes: &mut Vec<u8>) {
        bytes.resize(bytes.len().max(self.end()), 0);
        bytes[self.0..self.end()].copy_from_slice(&self.1);
    }

    /// It, cut where sectors begin.
    fn sectors(&self) -> impl Iterator<Item = (usize, &[u8])> {
        let (mut at, mut rest) = (self.0, &self.1[..]);
        std::iter::from_fn(move || {
            let (sector, behind) = rest.split_at((SECTOR - at % SECTOR).min(rest.len()));
            let found = (at, sector);
            (at, rest) = (at + sector.len(), behind);
            (!sector.is_empty()).then_some(found)
        })
    }
}

impl StoredFile {
    fn change(&mut self, change: Change) {
        change.apply(&mut self.cached);
        self.allocated = self.allocated.max(change.end());
        self.unsynced.push(change);
    }

    fn sync(&mut self) {
        self.unsynced.drain(..).for_each(|change| change.apply(&mut self.synced));
    }

    /// What the disk has once all that it did not sync was written by chance: lengths in their order, sectors in any, each as
    /// it was at some time since.
    fn settled(&self, random: &mut fastrand::Rng) -> Vec<u8> {
        let survives = random.choice([0.0, 0.1, 0.5, 0.9, 1.0]).unwrap_or(0.5);
        let mut versions = BTreeMap::<usize, usize>::new();
        for (at, _) in self.unsynced.iter().flat_map(Change::sectors) {
            *versions.entry(at / SECTOR).or_default() += 1;
        }
        for left in versions.values_mut() {
            if random.f64() >= survives {
                *left = random.usize(0..*left);
            }
        }
        let lengths = random.usize(0..=self.unsynced.len());
        let length = self.unsynced[..lengths].iter().map(Change::end).fold(self.synced.len(), usize::max);
        let mut bytes = self.synced.clone();
        for (at, sector) in self.unsynced.iter().flat_map(Change::sectors) {
            let left = versions.entry(at / SECTOR).or_default();
            if *left > 0 {
                *left -= 1;
                Change(at, sector.to_vec()).apply(&mut bytes);
            }
        }
        bytes.resize(length, 0);
        bytes
    }
}

impl Default for Platter {
    fn default() -> Self {
        Self {
            files: BTreeMap::new(),
            next_file: 0,
            names: BTreeMap::new(),
            synced_names: BTreeMap::new(),
            unsynced_names: Vec::new(),
            starts: 0,
            faults: Faults::default(),
            random: fastrand::Rng::with_seed(15),
            operations: 0,
            writes: 0,
            syncs: 0,
        }
    }
}

impl Platter {
    fn cut_power(&mut self, random: &mut fastrand::Rng) {
        self.starts += 1;
        self.faults.fail_from = None;
        for file in self.files.values_mut() {
            let bytes = file.settled(random);
            *file = StoredFile { allocated: bytes.len(), cached: bytes.clone(), synced: bytes, unsynced: Vec::new() };
        }
        // of one name in order, of several in any
        let mut stopped = BTreeSet::new();
        for (name, file) in std::mem::take(&mut self.unsynced_names) {
            if random.bool() {
                stopped.insert(name);
            }
            if !stopped.contains(&name) {
                set_name(&mut self.synced_names, name, file);
            }
        }
        self.names = self.synced_names.clone();
        let named: BTreeSet<u64> = self.names.values().copied().collect();
        self.files.retain(|file, _| named.contains(file));
    }

    /// Counts what changes the disk, and fails where that was asked for.
    fn operation(&mut self) -> io::Result<()> {
        self.operations += 1;
        let now = self.operations;
        let fails_now = self.faults.fail_at == Some(now);
        if self.faults.failing || fails_now || self.faults.fail_from.is_some_and(|from| now >= from) {
            return Err(failure());
        }
        Ok(())
    }

    /// How far a file may be extended.
    fn room_for(&self, file: u64) -> usize {
        let Some(room) = self.faults.room else { return usize::MAX };
        let blocks = |file: &StoredFile| file.allocated.next_multiple_of(BLOCK);
        let others = self.names.values().filter(|id| **id != file).filter_map(|id| self.files.get(id));
        room.saturating_sub(others.map(blocks).sum()) / BLOCK * BLOCK
    }

    fn file(&mut self, id: u64) -> io::Result<&mut StoredFile> {
        self.files.get_mut(&id).ok_or_else(|| io::Error::other("the test disk has forgotten the file"))
    }

    fn named(&mut self, name: u32) -> &mut StoredFile {
        let id = *self.names.get(&name).expect("a file of that number");
        self.files.get_mut(&id).expect("a file of that name")
    }

    fn rename(&mut self, name: u32, file: Option<u64>) {
        set_name(&mut self.names, name, file);
        self.unsynced_names.push((name, file));
    }
}

fn set_name(names: &mut BTreeMap<u32, u64>, name: u32, file: Option<u64>) {
    match file {
        Some(file) => drop(names.insert(name, file)),
        None => drop(names.remove(&name)),
    }
}

fn failure() -> io::Error {
    io::Error::other("the test disk fails")
}

fn full() -> io::Error {
    io::Error::new(io::ErrorKind::StorageFull, "the test disk is full")
}

impl TestDisk {
    fn platter(&self) -> MutexGuard<'_, Platter> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For one process, until it is killed or the power is cut.
    pub(crate) fn powered(&self) -> PoweredDisk {
        PoweredDisk { disk: self.clone(), starts: self.platter().starts }
    }

    /// Another disk with the same contents and the same faults.
    pub(crate) fn copy(&self) -> Self {
        Self(Arc::new(Mutex::new(self.platter().clone())))
    }

    /// What uses it fails from now on; of what was not synced each sector, each length and each name made it or not, by
    /// chance.
    pub(crate) fn cut_power(&self, random: &mut fastrand::Rng) {
        self.platter().cut_power(random);
    }

    /// What uses it fails from now on, and nothing is lost: the kernel has it.
    pub(crate) fn kill(&self) {
        self.platter().starts += 1;
    }

    /// Everything fails from now on, reads too, or nothing.
    pub(crate) fn fail(&self, failing: bool) {
        let mut platter = self.platter();
        platter.faults = Faults { failing, fail_at: None, ..platter.faults };
    }

    /// One operation fails, once: the one after `after` more. A write is done in part before. A sync loses of what it should
    /// have written some for good, as the kernel does: it is seen until the power is cut, and no later sync writes it.
    /// Operations are those that change something, or sync.
    pub(crate) fn fail_after(&self, after: u64) {
        let mut platter = self.platter();
        platter.faults.fail_at = Some(platter.operations + after + 1);
    }

    /// Whether the operation that was to fail has come.
    pub(crate) fn has_failed(&self) -> bool {
        let platter = self.platter();
        platter.faults.fail_at.is_some_and(|at| at <= platter.operations)
    }

    /// As [`TestDisk::fail_after`], and all that follow fail too: the power goes. [`TestDisk::cut_power`] brings it back.
    pub(crate) fn lose_power_after(&self, after: u64) {
        let mut platter = self.platter();
        platter.faults.fail_from = Some(platter.operations + after + 1);
    }

    /// No more than so many bytes fit, in blocks of 4 KiB; what is there already can be overwritten. `None`: any.
    pub(crate) fn set_room(&self, bytes: Option<usize>) {
        self.platter().faults.room = bytes;
    }

    /// Syncs say that they were done, and do nothing: a test that does not notice proves nothing.
    pub(crate) fn ignore_sync(&self) {
        self.platter().faults.ignore_sync = true;
    }

    /// The kernel could not write what the last but `after` write to `file` wrote: it drops that without a word.
    pub(crate) fn forget_write(&self, file: u32, after: usize) {
        let mut platter = self.platter();
        let StoredFile { cached, synced, unsynced, .. } = platter.named(file);
        unsynced.remove(unsynced.len() - 1 - after);
        let length = cached.len();
        *cached = synced.clone();
        unsynced.iter().for_each(|change| change.apply(cached));
        cached.resize(length, 0);
    }

    /// What is in the files, by their numbers.
    pub(crate) fn contents(&self) -> BTreeMap<u32, Vec<u8>> {
        let mut platter = self.platter();
        let names: Vec<u32> = platter.names.keys().copied().collect();
        names.into_iter().map(|name| (name, platter.named(name).cached.clone())).collect()
    }

    /// A disk with these files.
    pub(crate) fn with(contents: BTreeMap<u32, Vec<u8>>) -> Self {
        let disk = Self::default();
        let mut platter = disk.platter();
        for (name, bytes) in contents {
            let id = platter.next_file;
            platter.next_file += 1;
            let file =
                StoredFile { allocated: bytes.len(), cached: bytes.clone(), synced: bytes, unsynced: Vec::new() };
            platter.files.insert(id, file);
            platter.names.insert(name, id);
            platter.synced_names.insert(name, id);
        }
        drop(platter);
        disk
    }

    /// Bytes of all files.
    pub(crate) fn used(&self) -> usize {
        self.contents().values().map(Vec::len).sum()
    }

    /// So many syncs of files so far.
    pub(crate) fn syncs(&self) -> u64 {
        self.platter().syncs
    }
}

/// A [`TestDisk`] as one process has it.
#[derive(Clone, Debug)]
pub(crate) struct PoweredDisk {
    disk: TestDisk,
    starts: u64,
}

impl PoweredDisk {
    fn platter(&self) -> io::Result<MutexGuard<'_, Platter>> {
        let platter = self.disk.platter();
        match platter.starts == self.starts {
            true => Ok(platter),
            false => Err(io::Error::other("the test disk has no power")),
        }
    }

    fn readable(&self) -> io::Result<MutexGuard<'_, Platter>> {
        let platter = self.platter()?;
        if platter.faults.failing {
            return Err(failure());
        }
        Ok(platter)
    }

    fn file(&self, id: u64) -> TestFile {
        TestFile { disk: self.clone(), id }
    }
}

impl Disk for PoweredDisk {
    type File = TestFile;

    fn files(&self) -> io::Result<Vec<u32>> {
        Ok(self.readable()?.names.keys().copied().collect())
    }

    fn open(&self, file: u32) -> io::Result<TestFile> {
        let id = *self.readable()?.names.get(&file).ok_or(io::ErrorKind::NotFound)?;
        Ok(self.file(id))
    }

    fn create(&self, file: u32) -> io::Result<TestFile> {
        let mut platter = self.platter()?;
        platter.operation()?;
        if platter.names.contains_key(&file) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let id = platter.next_file;
        if platter.room_for(id) == 0 {
            return Err(full());
        }
        platter.next_file += 1;
        platter.files.insert(id, StoredFile::default());
        platter.rename(file, Some(id));
        Ok(self.file(id))
    }

    fn remove(&self, file: u32) -> io::Result<()> {
        let mut platter = self.platter()?;
        platter.operation()?;
        if !platter.names.contains_key(&file) {
            return Err(io::ErrorKind::NotFound.into());
        }
        platter.rename(file, None);
        Ok(())
    }

    fn sync_folder(&self) -> io::Result<()> {
        let mut platter = self.platter()?;
        platter.operation()?;
        if !platter.faults.ignore_sync {
            platter.synced_names = platter.names.clone();
            platter.unsynced_names.clear();
        }
        Ok(())
    }

    fn displaced(&self, file: u32, open: &TestFile) -> Option<String> {
        let there = self.disk.platter().names.get(&file).copied();
        (there != Some(open.id)).then(|| format!("{} was deleted or replaced", self.name(file)))
    }

    fn name(&self, file: u32) -> String {
        format!("log.{file:04}")
    }
}

/// An open file of a [`PoweredDisk`].
#[derive(Debug)]
pub(crate) struct TestFile {
    disk: PoweredDisk,
    id: u64,
}

impl TestFile {
    /// Applies so much of a change as there is room for.
    fn change(&self, platter: &mut Platter, change: Change) -> io::Result<()> {
        let fits = platter.room_for(self.id);
        let file = platter.file(self.id)?;
        let fits = fits.max(file.allocated);
        if change.end() <= fits {
            file.change(change);
            return Ok(());
        }
        let Change(at, mut data) = change;
        data.truncate(fits.saturating_sub(at));
        if !data.is_empty() {
            file.change(Change(at, data));
        }
        Err(full())
    }
}

impl DiskFile for TestFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.disk.readable()?.file(self.id)?.cached.len() as u64)
    }

    fn read_at(&self, at: u64, out: &mut [u8]) -> io::Result<()> {
        let mut platter = self.disk.readable()?;
        let cached = &platter.file(self.id)?.cached;
        out.copy_from_slice(cached.get(at as usize..at as usize + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        let mut platter = self.disk.platter()?;
        platter.writes += 1;
        if let Err(error) = platter.operation() {
            let done = platter.random.usize(0..=bytes.len());
            let now = Some(platter.operations);
            if done > 0 && (platter.faults.fail_at == now || platter.faults.fail_from == now) {
                let _ = self.change(&mut platter, Change(at as usize, bytes[..done].to_vec()));
            }
            return Err(error);
        }
        self.change(&mut platter, Change(at as usize, bytes.to_vec()))
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut platter = self.disk.platter()?;
        platter.syncs += 1;
        if let Err(error) = platter.operation() {
            let mut random = platter.random.clone();
            if platter.faults.fail_from.is_none() {
                let file = platter.file(self.id)?;
                file.synced = file.settled(&mut random);
                file.unsynced.clear();
            }
            platter.random = random;
            return Err(error);
        }
        if !platter.faults.ignore_sync {
            platter.file(self.id)?.sync();
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// A disk with one file of so many bytes 1, synced.
    fn disk(len: usize) -> (TestDisk, TestFile) {
        let disk = TestDisk::default();
        let plugged = disk.powered();
        let file = plugged.create(1).unwrap();
        file.write_at(0, &vec![1; len]).unwrap();
        file.sync_data().unwrap();
        plugged.sync_folder().unwrap();
        (disk, file)
    }

    #[test]
    fn what_was_synced_stays_and_what_was_not_is_kept_forgotten_or_torn_by_sectors() {
        let mut random = fastrand::Rng::with_seed(1);
        let mut seen = BTreeSet::new();
        for _ in 0..300 {
            let (disk, file) = disk(4 * SECTOR);
            file.write_at(SECTOR as u64, &vec![2; 2 * SECTOR]).unwrap();
            file.write_at(SECTOR as u64 + 7, &[3]).unwrap();
            disk.cut_power(&mut random);
            let bytes = &disk.contents()[&1];
            assert!(bytes[..SECTOR].iter().chain(&bytes[3 * SECTOR..]).all(|byte| *byte == 1));
            assert_eq!(bytes.len(), 4 * SECTOR);
            assert!(bytes[7 + SECTOR] != 3 || bytes[SECTOR] == 2, "a sector has what came last, not what came before");
            seen.insert((bytes[SECTOR], bytes[SECTOR + 7], bytes[2 * SECTOR]));
        }
        assert_eq!(seen.len(), 6, "{seen:?}");
    }

    #[test]
    fn names_and_lengths_that_were_not_synced_come_and_go_by_chance_and_old_handles_fail() {
        let mut random = fastrand::Rng::with_seed(2);
        let mut seen = BTreeSet::new();
        for _ in 0..300 {
            let (disk, file) = disk(10);
            file.write_at(1999, &[0]).unwrap();
            file.write_at(1000, &[4]).unwrap();
            disk.powered().create(2).unwrap();
            disk.cut_power(&mut random);
            assert!(file.read_at(0, &mut [0]).is_err() && file.sync_data().is_err());
            let bytes = &disk.contents()[&1];
            seen.insert((bytes.len(), bytes.get(1000).copied(), disk.contents().len()));
        }
        let lengths: BTreeSet<usize> = seen.iter().map(|(len, ..)| *len).collect();
        assert_eq!(lengths, BTreeSet::from([10, 2000]));
        assert_eq!(seen.len(), 6, "{seen:?}");
    }

    #[test]
    fn a_full_disk_lets_what_is_there_be_overwritten() {
        let (disk, file) = disk(BLOCK);
        disk.set_room(Some(2 * BLOCK));
        file.write_at(0, &[5; BLOCK]).unwrap();
        assert_eq!(file.write_at(BLOCK as u64, &[5; 2 * BLOCK]).unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!(file.len().unwrap(), 2 * BLOCK as u64);
        assert_eq!(disk.powered().create(2).unwrap_err().kind(), io::ErrorKind::StorageFull);
        disk.powered().remove(1).unwrap();
        disk.powered().create(2).unwrap().write_at(0, &[1]).unwrap();
    }

    #[test]
    fn operations_fail_when_they_are_told_to_once_or_for_good() {
        let (disk, file) = disk(BLOCK);
        disk.fail_after(1);
        file.write_at(0, &[6]).unwrap();
        file.sync_data().unwrap_err();
        file.sync_data().unwrap();
        disk.lose_power_after(1);
        file.write_at(0, &[7]).unwrap();
        file.write_at(0, &[8]).unwrap_err();
        file.sync_data().unwrap_err();
        disk.cut_power(&mut fastrand::Rng::with_seed(3));
        disk.powered().open(1).unwrap().sync_data().unwrap();
        disk.fail(true);
        assert!(disk.powered().open(1).is_err() && disk.powered().files().is_err());
    }

    #[test]
    fn a_sync_that_failed_loses_some_for_good_and_one_that_is_left_out_all() {
        let mut kept = BTreeSet::new();
        for seed in 0..50 {
            let (disk, file) = disk(BLOCK);
            disk.platter().random = fastrand::Rng::with_seed(seed);
            disk.fail_after(1);
            file.write_at(0, &[9; BLOCK]).unwrap();
            file.sync_data().unwrap_err();
            assert_eq!(disk.contents()[&1], [9; BLOCK]);
            file.sync_data().unwrap();
            disk.cut_power(&mut fastrand::Rng::with_seed(seed));
            kept.insert(disk.contents()[&1].iter().filter(|byte| **byte == 9).count());
        }
        assert!(kept.contains(&0) && kept.len() > 2, "{kept:?}");
        let (disk, file) = disk(BLOCK);
        disk.ignore_sync();
        file.write_at(0, &[9; BLOCK]).unwrap();
        file.sync_data().unwrap();
        let copies = (0..50).map(|seed| {
            let copy = disk.copy();
            copy.cut_power(&mut fastrand::Rng::with_seed(seed));
            copy.contents()[&1].clone()
        });
        assert!(copies.into_iter().any(|bytes| bytes == [1; BLOCK]));
    }

    #[test]
    fn a_page_that_was_not_written_is_forgotten_alone() {
        let (disk, file) = disk(BLOCK);
        for (at, byte) in [(0, 2), (10, 3), (20, 4)] {
            file.write_at(at, &[byte; 10]).unwrap();
        }
        disk.forget_write(1, 1);
        let bytes = &disk.contents()[&1];
        assert_eq!((bytes[0], bytes[10], bytes[20], bytes.len()), (2, 1, 4, BLOCK));
    }
}
