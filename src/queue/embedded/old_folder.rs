//! Pushes that an earlier version left: until 0.1.0 the queue was `queue.redb` with `queue.journal`, which this one does not read.

use std::{fs, path::Path};

use crate::queue::OpenError;

/// Refuses a data folder that may hold such pushes, and says how to go on. An empty `queue.journal` and `queue.lock` hold none.
pub(super) fn refuse_old_folder(dir: &Path) -> Result<(), OpenError> {
    // what cannot be looked at is told by whoever opens the log there
    let has_database = fs::symlink_metadata(dir.join("queue.redb")).is_ok();
    let has_journal = fs::symlink_metadata(dir.join("queue.journal")).is_ok_and(|found| found.len() > 0);
    let files = match (has_database, has_journal) {
        (false, false) => return Ok(()),
        (true, false) => "queue.redb",
        (false, true) => "queue.journal",
        (true, true) => "queue.redb and queue.journal",
    };
    Err(OpenError(format!(
        "{} has the queue of an earlier version ({files}), which this one does not read: start the version that wrote it until \
         oxipush_queue_records on its /metrics is 0, stop it, then remove queue.redb and queue.journal; or move the two away to \
         start with an empty queue (the pushes in them are lost then)",
        dir.display()
    )))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn told(files: &[(&str, &str)]) -> Option<String> {
        let dir = tempfile::tempdir().unwrap();
        for (name, content) in files {
            fs::write(dir.path().join(name), content).unwrap();
        }
        refuse_old_folder(dir.path()).err().map(|OpenError(told)| told)
    }

    #[test]
    fn the_files_of_an_earlier_version_are_named_with_what_to_do() {
        for (files, named) in [
            (&[("queue.redb", "x"), ("queue.journal", "x")][..], "(queue.redb and queue.journal)"),
            (&[("queue.redb", "x"), ("queue.journal", "")], "(queue.redb)"),
            // its length says nothing: a cut may have emptied it
            (&[("queue.redb", "")], "(queue.redb)"),
            (&[("queue.journal", "x"), ("log.0001", "x")], "(queue.journal)"),
        ] {
            let told = told(files).unwrap();
            for part in [named, "oxipush_queue_records", "remove queue.redb and queue.journal", "move the two away"] {
                assert!(told.contains(part), "{part} is missing in {told}");
            }
        }
    }

    #[test]
    fn a_folder_without_pushes_of_an_earlier_version_is_taken() {
        for files in
            [&[][..], &[("queue.lock", "pid 7\n")], &[("queue.lock", ""), ("queue.journal", "")], &[("log.0001", "x")]]
        {
            assert_eq!(told(files), None, "{files:?}");
        }
        assert!(refuse_old_folder(Path::new("/no/such/folder")).is_ok());
    }
}
