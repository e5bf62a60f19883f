//! What a process meets that its machine does to it: a full disk, one that fails, a clock that is set.
#![allow(dead_code, unreachable_pub)] // each test crate uses a part of it

use std::{
    ffi::OsStr,
    fs::File,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::Command,
};

/// Switches of `faults.c`, by their place in its numbers.
#[derive(Clone, Copy, Debug)]
#[allow(dead_code, reason = "of those who use it, some use only some")]
pub enum Switch {
    FullDisk = 0,
    FailingDisk = 1,
    ClockStep = 2,
}

/// Faults that are switched while a process runs which was started with [`Faults::environment`].
pub struct Faults {
    shim: PathBuf,
    path: PathBuf,
    file: File,
}

impl Faults {
    /// Builds the library that is preloaded; all switches are off.
    pub fn new(dir: &Path) -> Self {
        let (shim, path) = (dir.join("faults.so"), dir.join("faults"));
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/chaos/faults.c");
        let built =
            Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&shim).args([source, "-ldl"]).status();
        assert!(built.unwrap().success(), "cc builds the library");
        let file = File::create(&path).unwrap();
        file.set_len(4096).unwrap();
        Self { shim, path, file }
    }

    pub fn environment(&self) -> [(&'static str, &OsStr); 2] {
        [("LD_PRELOAD", self.shim.as_os_str()), ("OXIPUSH_FAULTS", self.path.as_os_str())]
    }

    /// 1 or 0; of the clock, how many ms it is ahead.
    pub fn set(&self, switch: Switch, to: i64) {
        self.file.write_all_at(&to.to_ne_bytes(), switch as u64 * 8).unwrap();
    }
}
