//! What reads a card's stream: a cursor each.

use crate::store::{DeviceKey, embedded::entry::DeviceForm};

/// A device's cursor.
pub(in crate::store::embedded) struct Device {
    name: Box<str>,
    declared: bool,
    /// It has all up to this.
    seq: u64,
    /// When it was heard of, in seconds since 1970.
    seen: u32,
    /// When that was written last.
    saved_seen: u32,
    /// The segment that tells the cursor; 0: none does yet.
    pub(super) segment: u32,
    written: CursorWritten,
}

/// Whether the log has a cursor as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CursorWritten {
    Yes,
    /// It is being told.
    Now,
    No,
}

/// A device that only looks in is written down so often, so that a restart does not take it for idle.
const SEEN_WITHIN: u32 = 3600;

impl Device {
    pub(super) fn new(device: DeviceForm<'_>, seq: u64, now: u32) -> Self {
        let DeviceForm { declared, name } = device;
        Self { name: name.into(), declared, seq, seen: now, saved_seen: 0, segment: 0, written: CursorWritten::No }
    }

    pub(super) fn form(&self) -> DeviceForm<'_> {
        DeviceForm { declared: self.declared, name: &self.name }
    }

    pub(super) fn is(&self, device: DeviceForm<'_>) -> bool {
        self.form() == device
    }

    pub(super) fn seq(&self) -> u64 {
        self.seq
    }

    pub(super) fn seen(&self) -> u32 {
        self.seen
    }

    /// Whether that is to be written.
    pub(super) fn advance(&mut self, seq: u64, now: u32) -> bool {
        let moved = seq > self.seq;
        self.seq = self.seq.max(seq);
        if moved {
            self.written = CursorWritten::No;
        }
        self.look_in(now) || moved
    }

    /// Whether that is to be written.
    pub(super) fn look_in(&mut self, now: u32) -> bool {
        self.seen = self.seen.max(now);
        let is_due = self.seen.saturating_sub(self.saved_seen) >= SEEN_WITHIN;
        if is_due {
            self.written = CursorWritten::No;
        }
        is_due
    }

    /// It is to be written again, wherever it was.
    pub(super) fn write_again(&mut self) {
        self.written = CursorWritten::No;
    }

    /// Whether it is to be written now: then it is being written.
    pub(super) fn begin_writing(&mut self) -> bool {
        let begins = self.written == CursorWritten::No;
        if begins {
            self.written = CursorWritten::Now;
        }
        begins
    }

    /// What was being written is in the log, or not. Whether it was this one.
    pub(super) fn end_writing(&mut self, is_written: bool) -> bool {
        let was_written = self.written == CursorWritten::Now;
        if was_written && is_written {
            self.written = CursorWritten::Yes;
            self.saved_seen = self.seen;
        } else if was_written {
            self.written = CursorWritten::No;
        }
        was_written
    }

    /// As the log told it, at the start.
    pub(super) fn restore(&mut self, seq: u64, seen: u32) {
        self.seq = seq;
        self.seen = seen;
        self.saved_seen = seen;
        self.written = CursorWritten::Yes;
    }

    /// The stream does not go so far any more.
    pub(super) fn cut_back(&mut self, head: u64) {
        self.seq = self.seq.min(head);
    }
}

/// As the log writes it.
pub(in crate::store::embedded) fn form(device: DeviceKey<'_>) -> DeviceForm<'_> {
    match device {
        DeviceKey::Declared(name) => DeviceForm { declared: true, name },
        DeviceKey::App(name) => DeviceForm { declared: false, name },
    }
}
