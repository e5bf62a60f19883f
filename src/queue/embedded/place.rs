//! The data folder and its files: for the gateway's user alone, since what is pushed stands in them.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
};

use crate::queue::OpenError;

const OWN_FOLDER: u32 = 0o700;
const OWN_FILE: u32 = 0o600;

/// Makes the folder if it is not there. One that is there is closed to others where it is the gateway's alone: where it holds
/// nothing but the queue's files.
pub(super) fn folder(dir: &Path) -> Result<(), OpenError> {
    let made = DirBuilder::new().recursive(true).mode(OWN_FOLDER).create(dir);
    made.map_err(|error| cannot(dir, &error))?;
    if is_own(dir).map_err(|error| cannot(dir, &error))? {
        close(dir, OWN_FOLDER);
    }
    Ok(())
}

fn is_own(dir: &Path) -> io::Result<bool> {
    for entry in fs::read_dir(dir)? {
        if !entry?.file_name().as_encoded_bytes().starts_with(b"queue.") {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Opens a file of the folder to read and write; it is made if it is not there, and closed to others.
pub(super) fn open(path: &Path) -> Result<File, OpenError> {
    let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(OWN_FILE).open(path);
    let file = opened.map_err(|error| cannot(path, &error))?;
    close(path, OWN_FILE);
    Ok(file)
}

/// Takes the others' rights away where this user may: what is another's stays as its owner wants it.
fn close(path: &Path, mode: u32) {
    if fs::metadata(path).is_ok_and(|found| found.mode() & 0o077 != 0) {
        let _ = fs::set_permissions(path, Permissions::from_mode(mode));
    }
}

/// Why the folder or a file of it cannot be used, and what to do.
pub(super) fn cannot(path: &Path, error: &io::Error) -> OpenError {
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
    OpenError(format!("cannot use {}: {error}; {remedy}", path.display()))
}

/// Whose the first thing on the way to `path` is that is there.
fn denied(path: &Path) -> String {
    // /proc/self belongs to the user that this process runs as
    let user = fs::metadata("/proc/self").map_or_else(|_| "this user".into(), |own| name(own.uid()));
    let there = path.ancestors().find_map(|path| fs::metadata(path).ok().map(|found| (path, found)));
    match there {
        Some((path, found)) => format!(
            "the gateway runs as {user}, and {} belongs to {} (mode {:o}): chown it, run as that user, or let [data] dir name \
             another folder",
            path.display(),
            name(found.uid()),
            found.mode() & 0o7777
        ),
        None => format!("the gateway runs as {user}, which may not go there"),
    }
}

/// A user's name with its number, if /etc/passwd has it.
fn name(uid: u32) -> String {
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
        folder(&dir).unwrap();
        open(&dir.join("queue.redb")).unwrap();
        assert_eq!((mode(&dir), mode(&dir.join("queue.redb"))), (0o700, 0o600));
        fs::set_permissions(&dir, Permissions::from_mode(0o755)).unwrap();
        fs::set_permissions(dir.join("queue.redb"), Permissions::from_mode(0o644)).unwrap();
        folder(&dir).unwrap();
        open(&dir.join("queue.redb")).unwrap();
        assert_eq!((mode(&dir), mode(&dir.join("queue.redb"))), (0o700, 0o600));
    }

    #[test]
    fn a_folder_that_others_use_too_stays_open_to_them() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("theirs"), "").unwrap();
        fs::set_permissions(root.path(), Permissions::from_mode(0o755)).unwrap();
        folder(root.path()).unwrap();
        assert_eq!(mode(root.path()), 0o755);
    }

    #[test]
    fn what_cannot_be_used_is_told_with_path_user_and_remedy() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("file");
        fs::write(&file, "").unwrap();
        for path in [file.clone(), file.join("below")] {
            let OpenError(told) = folder(&path).unwrap_err();
            assert!(told.contains(&format!("{} is a file: let [data] dir name a folder", file.display())), "{told}");
        }
        fs::create_dir(root.path().join("queue.redb")).unwrap();
        let OpenError(told) = open(&root.path().join("queue.redb")).unwrap_err();
        assert!(told.contains("move it away"), "{told}");
        // for root no folder is closed: the words alone
        let OpenError(told) = cannot(&root.path().join("x/y"), &io::ErrorKind::PermissionDenied.into());
        let owner = fs::metadata(root.path()).unwrap().uid();
        assert!(told.contains(&format!("uid {owner}")) && told.contains("the gateway runs as"), "{told}");
        assert!(told.contains(&format!("{} belongs to", root.path().display())) && told.contains("chown"), "{told}");
    }
}
