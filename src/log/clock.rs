//! The log's time: no change of the wall clock moves it while the machine runs.

use std::{fs, time::Instant};

use super::control::TimeAnchor;
use crate::push::unix_millis;

/// See the module.
pub(super) struct LogClock {
    since: Instant,
    anchor: TimeAnchor,
}

impl LogClock {
    /// Goes on from the log's last anchor if the machine has run since; else from the wall clock.
    pub(super) fn new(last: Option<TimeAnchor>) -> Self {
        let uptime = uptime().unwrap_or(0);
        let boot = boot_id().unwrap_or_default();
        let same_run = |last: &TimeAnchor| last.uptime > 0 && last.boot == boot && last.uptime <= uptime;
        let time = match last.filter(same_run) {
            Some(last) => last.time + (uptime - last.uptime),
            None => unix_millis(),
        };
        Self { since: Instant::now(), anchor: TimeAnchor { time, uptime, boot } }
    }

    /// Milliseconds since 1970.
    pub(super) fn now(&self) -> u64 {
        self.anchor.time + self.since.elapsed().as_millis() as u64
    }

    /// This moment.
    pub(super) fn anchor(&self) -> TimeAnchor {
        let elapsed = self.since.elapsed().as_millis() as u64;
        let TimeAnchor { time, uptime, boot } = self.anchor;
        let uptime = if uptime == 0 { 0 } else { uptime + elapsed };
        TimeAnchor { time: time + elapsed, uptime, boot }
    }
}

/// Linux's, in milliseconds; time in suspend counts.
fn uptime() -> Option<u64> {
    let text = fs::read_to_string("/proc/uptime").ok()?;
    let seconds: f64 = text.split(' ').next()?.parse().ok()?;
    Some((seconds * 1000.0) as u64)
}

/// Linux's id of this start of the machine.
pub(crate) fn boot_id() -> Option<[u8; 16]> {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    u128::from_str_radix(&digits, 16).ok().map(u128::to_be_bytes)
}
