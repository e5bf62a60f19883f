//! The data folder on a real disk: locked, and for the gateway's user alone, since what is pushed stands in its files.

use std::{
    fs::{self, DirBuilder, File, Metadata, OpenOptions, Permissions, TryLockError},
    io::{self, Read as _, Seek as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, FileExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use super::{
    LogOpenError,
    disk::{Disk, DiskFile},
};

const OWN_FOLDER: u32 = 0o700;
const OWN_FILE: u32 = 0o600;
/// How the names of our files begin; the second is of versions before the log, the others the folders of the events' and the
/// store's logs.
const OWN_NAMES: [&[u8]; 4] = [b"log.", b"queue.", b"events", b"streams"];
/// A predecessor that was killed a moment ago may still hold the lock.
const LOCK_WAIT: Duration = Duration::from_secs(2);

/// A data folder that no other process can open until this is dropped. Errors of its files name the path and what to do.
#[derive(Debug)]
pub(crate) struct Folder {
    dir: PathBuf,
    id: FileId,
    lock: File,
}

impl Folder {
    /// Makes the folder if it is not there, and locks it. Waits 2 s for a predecessor.
    ///
    /// # Errors
    /// It cannot be made or written to, or another process has it: in words, with what to do.
    pub(crate) fn open(dir: &Path) -> Result<Self, LogOpenError> {
        make(dir).map_err(|error| LogOpenError(told(dir, &error)))?;
        let path = dir.join("log.lock");
        let lock = lock(dir, &path)?;
        let id = FileId::at(dir).map_err(|error| LogOpenError(told(dir, &error)))?;
        Ok(Self { dir: dir.to_owned(), id, lock })
    }

    fn path(&self, file: u32) -> PathBuf {
        self.dir.join(file_name(file))
    }
}

impl Disk for Folder {
    type File = FolderFile;

    fn files(&self) -> io::Result<Vec<u32>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(|error| cannot(&self.dir, &error))? {
            let name = entry.map_err(|error| cannot(&self.dir, &error))?.file_name();
            files.extend(name.to_str().and_then(file_number));
        }
        files.sort_unstable();
        Ok(files)
    }

    fn open(&self, file: u32) -> io::Result<FolderFile> {
        let path = self.path(file);
        let opened = OpenOptions::new().read(true).write(true).open(&path).map_err(|error| cannot(&path, &error))?;
        close_to_others(&path, OWN_FILE);
        Ok(FolderFile(opened))
    }

    fn create(&self, file: u32) -> io::Result<FolderFile> {
        let path = self.path(file);
        let made = OpenOptions::new().read(true).write(true).create_new(true).mode(OWN_FILE).open(&path);
        Ok(FolderFile(made.map_err(|error| cannot(&path, &error))?))
    }

    fn remove(&self, file: u32) -> io::Result<()> {
        let path = self.path(file);
        fs::remove_file(&path).map_err(|error| cannot(&path, &error))
    }

    fn sync_folder(&self) -> io::Result<()> {
        let synced = File::open(&self.dir).and_then(|dir| dir.sync_all());
        synced.map_err(|error| cannot(&self.dir, &error))
    }

    fn displaced(&self, file: u32, open: &FolderFile) -> Option<String> {
        displaced(&self.dir, Some(self.id))
            .or_else(|| displaced(&self.dir.join("log.lock"), FileId::of_open(&self.lock)))
            .or_else(|| displaced(&self.path(file), FileId::of_open(&open.0)))
    }

    fn name(&self, file: u32) -> String {
        self.path(file).display().to_string()
    }
}

/// An open file of a [`Folder`].
#[derive(Debug)]
pub(crate) struct FolderFile(File);

impl DiskFile for FolderFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read_at(&self, at: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(out, at)
    }

    fn write_at(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all_at(bytes, at)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}

fn file_name(file: u32) -> String {
    format!("log.{file:04}")
}

/// The number in a name that is one of the log's files.
fn file_number(name: &str) -> Option<u32> {
    let number = name.strip_prefix("log.")?.parse().ok()?;
    (file_name(number) == name).then_some(number)
}

/// Whether a file of that name is a log's.
pub(crate) fn is_file_name(name: &str) -> bool {
    file_number(name).is_some()
}

/// Makes the folder if it is not there. One that is there is closed to others where it is the gateway's alone: where it holds
/// nothing but the gateway's files.
fn make(dir: &Path) -> io::Result<()> {
    let missing: Vec<&Path> = dir.ancestors().take_while(|path| !path.exists()).collect();
    DirBuilder::new().recursive(true).mode(OWN_FOLDER).create(dir)?;
    for parent in missing.iter().filter_map(|path| path.parent()) {
        // a folder that may not be read cannot be synced
        let _ = File::open(parent).and_then(|parent| parent.sync_all());
    }
    if is_own(dir)? {
        close_to_others(dir, OWN_FOLDER);
    }
    Ok(())
}

fn is_own(dir: &Path) -> io::Result<bool> {
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        if !OWN_NAMES.iter().any(|own| name.as_encoded_bytes().starts_with(own)) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Takes the others' rights away where this user may: what is another's stays as its owner wants it.
fn close_to_others(path: &Path, mode: u32) {
    if fs::metadata(path).is_ok_and(|found| found.mode() & 0o077 != 0) {
        let _ = fs::set_permissions(path, Permissions::from_mode(mode));
    }
}

fn lock(dir: &Path, path: &Path) -> Result<File, LogOpenError> {
    let give_up = Instant::now() + LOCK_WAIT;
    loop {
        let mut file = open_lock(path).map_err(|error| LogOpenError(told(path, &error)))?;
        match file.try_lock() {
            Ok(()) => {
                // the file that was opened may have been removed before it was locked
                if displaced(path, FileId::of_open(&file)).is_some() {
                    continue;
                }
                // for the message below only
                let _ = file
                    .set_len(0)
                    .and_then(|()| file.rewind())
                    .and_then(|()| writeln!(file, "pid {}", std::process::id()));
                return Ok(file);
            }
            Err(TryLockError::WouldBlock) if Instant::now() < give_up => thread::sleep(Duration::from_millis(50)),
            Err(TryLockError::WouldBlock) => {
                let mut owner = String::new();
                let _ = file.read_to_string(&mut owner);
                return Err(LogOpenError(format!(
                    "{} is in use by another process ({}); stop it, or give this one another [data] dir",
                    dir.display(),
                    if owner.trim().is_empty() { "unknown" } else { owner.trim() },
                )));
            }
            Err(TryLockError::Error(error)) => return Err(LogOpenError(told(path, &error))),
        }
    }
}

fn open_lock(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(OWN_FILE).open(path)?;
    close_to_others(path, OWN_FILE);
    Ok(file)
}

/// Which file it is, whatever its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    fn of(found: &Metadata) -> Self {
        Self { device: found.dev(), inode: found.ino() }
    }

    fn at(path: &Path) -> io::Result<Self> {
        Ok(Self::of(&fs::metadata(path)?))
    }

    /// `None`: it has no name any more.
    fn of_open(file: &File) -> Option<Self> {
        let found = file.metadata().ok()?;
        (found.nlink() > 0).then(|| Self::of(&found))
    }
}

/// Says in words that `path` is not what is open.
fn displaced(path: &Path, open: Option<FileId>) -> Option<String> {
    let what = match FileId::at(path) {
        Ok(there) if Some(there) == open => return None,
        Ok(_) => "was replaced by another".to_owned(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => "was deleted".to_owned(),
        Err(error) => format!("cannot be found any more: {error}"),
    };
    Some(format!(
        "{} {what} while the gateway uses it: put it back, or restart the gateway (what only the old one had is lost then)",
        path.display()
    ))
}

/// The same error, in words that name the path and what to do.
fn cannot(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), told(path, error))
}

/// Why the folder or a file of it cannot be used, and what to do.
fn told(path: &Path, error: &io::Error) -> String {
    let remedy = match error.kind() {
        io::ErrorKind::PermissionDenied => denied(path),
        io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => {
            match path.ancestors().find(|path| path.is_file()) {
                Some(file) => format!("{} is a file: let [data] dir name a folder", file.display()),
                None => "let [data] dir name a folder".into(),
            }
        }
        io::ErrorKind::IsADirectory => "a folder stands in the file's place: move it away".into(),
        io::ErrorKind::ReadOnlyFilesystem => {
            "its file system is read-only: let [data] dir name a folder on another".into()
        }
        io::ErrorKind::StorageFull => "make room there, or let [data] dir name a folder on another disk".into(),
        _ => "see that [data] dir is writable, on a local disk and not full".into(),
    };
    format!("cannot use {}: {error}; {remedy}", path.display())
}

/// Whose the first thing on the way to `path` is that is there.
fn denied(path: &Path) -> String {
    // /proc/self belongs to the user that this process runs as
    let user = fs::metadata("/proc/self").map_or_else(|_| "this user".into(), |own| user_name(own.uid()));
    let there = path.ancestors().find_map(|path| fs::metadata(path).ok().map(|found| (path, found)));
    match there {
        Some((path, found)) => format!(
            "the gateway runs as {user}, and {} belongs to {} (mode {:o}): chown it, run as that user, or let [data] dir name \
             another folder",
            path.display(),
            user_name(found.uid()),
            found.mode() & 0o7777
        ),
        None => format!("the gateway runs as {user}, which may not go there"),
    }
}

/// A user's name with its number, if /etc/passwd has it.
fn user_name(uid: u32) -> String {
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let named = users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let number = fields.nth(1)?;
        (number.parse() == Ok(uid)).then(|| format!("{name} (uid {uid})"))
    });
    named.unwrap_or_else(|| format!("uid {uid}"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o777
    }

    #[test]
    fn the_folder_and_its_files_are_for_their_owner_alone_and_so_become_those_that_are_there() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("a/b");
        let folder = Folder::open(&dir).unwrap();
        folder.create(1).unwrap();
        let [lock, file] = ["log.lock", "log.0001"].map(|name| dir.join(name));
        assert_eq!([&dir, &lock, &file].map(|path| mode(path)), [0o700, 0o600, 0o600]);
        drop(folder);
        fs::write(dir.join("queue.redb"), "of an earlier version").unwrap();
        fs::set_permissions(&dir, Permissions::from_mode(0o755)).unwrap();
        for path in [&lock, &file] {
            fs::set_permissions(path, Permissions::from_mode(0o644)).unwrap();
        }
        Folder::open(&dir).unwrap().open(1).unwrap();
        assert_eq!([&dir, &lock, &file].map(|path| mode(path)), [0o700, 0o600, 0o600]);
    }

    #[test]
    fn a_folder_that_others_use_too_stays_open_to_them() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("theirs"), "").unwrap();
        fs::set_permissions(root.path(), Permissions::from_mode(0o755)).unwrap();
        Folder::open(root.path()).unwrap();
        assert_eq!(mode(root.path()), 0o755);
    }

    #[test]
    fn what_cannot_be_used_is_told_with_path_user_and_remedy() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("file");
        fs::write(&file, "").unwrap();
        for path in [file.clone(), file.join("below")] {
            let LogOpenError(told) = Folder::open(&path).unwrap_err();
            assert!(told.contains(&format!("{} is a file: let [data] dir name a folder", file.display())), "{told}");
        }
        fs::create_dir(root.path().join("log.lock")).unwrap();
        let LogOpenError(told) = Folder::open(root.path()).unwrap_err();
        assert!(told.contains("move it away"), "{told}");
        // for root no folder is closed: the words alone
        let told = super::told(&root.path().join("x/y"), &io::ErrorKind::PermissionDenied.into());
        let owner = fs::metadata(root.path()).unwrap().uid();
        assert!(told.contains(&format!("uid {owner}")) && told.contains("the gateway runs as"), "{told}");
        assert!(told.contains(&format!("{} belongs to", root.path().display())) && told.contains("chown"), "{told}");
    }

    #[test]
    fn errors_of_files_name_them_and_keep_their_kind() {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::open(root.path()).unwrap();
        fs::create_dir(root.path().join("log.0002")).unwrap();
        let missing = folder.open(1).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
        assert!(missing.to_string().contains(&folder.name(1)), "{missing}");
        let occupied = folder.open(2).unwrap_err();
        assert_eq!(occupied.kind(), io::ErrorKind::IsADirectory);
        assert!(occupied.to_string().contains("move it away"), "{occupied}");
        assert_eq!(folder.create(2).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    }

    #[test]
    fn files_are_those_with_a_number_in_their_order() {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::open(root.path()).unwrap();
        for file in [10_000, 3, 12] {
            folder.create(file).unwrap();
        }
        for name in ["log.1", "log.00012", "log.0001x", "log.+001", "log", "other.0001"] {
            fs::write(root.path().join(name), "").unwrap();
        }
        assert_eq!(folder.files().unwrap(), [3, 12, 10_000]);
        folder.remove(12).unwrap();
        folder.sync_folder().unwrap();
        assert_eq!(folder.files().unwrap(), [3, 10_000]);
    }

    #[test]
    fn what_is_written_is_read_and_what_is_not_there_is_an_error() {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::open(root.path()).unwrap();
        let file = folder.create(1).unwrap();
        file.write_at(3, b"abc").unwrap();
        file.sync_data().unwrap();
        let file = folder.open(1).unwrap();
        let mut read = [7; 6];
        file.read_at(0, &mut read).unwrap();
        assert_eq!((&read, file.len().unwrap()), (b"\0\0\0abc", 6));
        assert_eq!(file.read_at(1, &mut read).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn a_folder_is_one_processs_alone_and_the_next_one_waits_for_it() {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::open(root.path()).unwrap();
        let LogOpenError(refused) = Folder::open(root.path()).unwrap_err();
        assert!(refused.contains(&format!("in use by another process (pid {})", std::process::id())), "{refused}");
        let dir = root.path().to_owned();
        let waiting = thread::spawn(move || Folder::open(&dir).map(drop));
        drop(folder);
        waiting.join().unwrap().unwrap();
    }

    #[test]
    fn a_folder_a_lock_and_a_file_that_are_gone_or_others_are_noticed() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("data");
        let replace = |path: &Path| {
            fs::rename(path, root.path().join("away")).unwrap();
            fs::write(path, "another").unwrap();
        };
        let delete = |path: &Path| fs::remove_file(path).unwrap();
        type Way<'a> = (&'a str, &'a dyn Fn(&Path), &'a str);
        let ways: [Way<'_>; 6] = [
            ("data/log.0001", &delete, "log.0001 was deleted"),
            ("data/log.0001", &replace, "log.0001 was replaced"),
            ("data/log.lock", &delete, "log.lock was deleted"),
            ("data/log.lock", &replace, "log.lock was replaced"),
            ("data", &|dir| fs::remove_dir_all(dir).unwrap(), "data was deleted"),
            (
                "data",
                &|dir| {
                    fs::remove_dir_all(dir).unwrap();
                    fs::create_dir(dir).unwrap();
                    fs::write(dir.join("log.lock"), "").unwrap();
                    fs::write(dir.join("log.0001"), "").unwrap();
                },
                " was ",
            ),
        ];
        for (path, harm, words) in ways {
            let folder = Folder::open(&dir).unwrap();
            let file = folder.create(1).unwrap();
            assert_eq!(folder.displaced(1, &file), None);
            harm(&root.path().join(path));
            let told = folder.displaced(1, &file).unwrap();
            assert!(told.contains(words), "{told}");
            let _ = fs::remove_dir_all(&dir);
        }
    }
}
