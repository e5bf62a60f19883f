//! A timer finer than epoll's millisecond: open loops need it.

use std::{
    os::fd::{AsFd, AsRawFd, RawFd},
    time::Duration,
};

use nix::sys::{
    time::TimeSpec,
    timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags},
};

use crate::Result;

/// A timerfd for one shot at a time.
#[derive(Debug)]
pub(crate) struct Timer(TimerFd);

impl Timer {
    pub(crate) fn new() -> Result<Self> {
        Ok(Self(TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC)?))
    }

    /// Readable after this time; an earlier setting is forgotten.
    pub(crate) fn set(&self, after: Duration) -> Result<()> {
        // zero would disarm it
        let after = after.max(Duration::from_nanos(1));
        Ok(self.0.set(Expiration::OneShot(TimeSpec::from_duration(after)), TimerSetTimeFlags::empty())?)
    }

    /// Takes the expiration, so that it is readable no more.
    pub(crate) fn clear(&self) {
        // not expired: nothing to take
        let _ = self.0.wait();
    }
}

impl AsRawFd for Timer {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}
