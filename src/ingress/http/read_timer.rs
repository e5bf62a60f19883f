//! When a connection is given up on which nothing comes, or a request that never becomes whole. actix has a time for the first
//! request's head and for the pause between requests, and none for a head that was begun after one.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Instant, Sleep};
use tokio_util::task::{TaskTracker, task_tracker::TaskTrackerToken};

use crate::{
    config::Config,
    ingress::timed_stream::ReadTimer,
    telemetry::{
        Metrics,
        labels::{RequestLabels, RequestProtocol},
    },
};

/// A head that did not arrive in time.
const LATE_HEAD: RequestLabels = RequestLabels { protocol: RequestProtocol::Http, status: "408" };

/// The times of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct ReadTimes {
    /// Without a byte of the peer.
    silence: Duration,
    /// From the first byte that came after an answer until the next answer is written.
    request: Duration,
}

impl ReadTimes {
    pub(super) fn of(config: &Config) -> Self {
        // while a push waits for the queue, its caller is silent
        let publish = config.queue.publish_timeout;
        let silence = config.http.keep_alive + publish;
        // a head and a body have the same time each
        Self { silence, request: config.http.request_timeout * 2 + publish }
    }
}

/// The timer of a connection.
pub(super) struct RequestTimer {
    times: ReadTimes,
    heard: Instant,
    /// When bytes came that were not answered yet.
    begun: Option<Instant>,
    /// Not moved with each read: when it ends, `heard` and `begun` tell how much longer it is.
    check: Pin<Box<Sleep>>,
    in_progress: TaskTracker,
    /// While an answer waits to be written its request is in progress: a stop waits for that.
    unwritten: Option<TaskTrackerToken>,
    metrics: Arc<Metrics>,
}

impl RequestTimer {
    /// `in_progress` counts the requests that a stop waits for.
    pub(super) fn new(times: ReadTimes, in_progress: TaskTracker, metrics: Arc<Metrics>) -> Self {
        let heard = Instant::now();
        let check = Box::pin(tokio::time::sleep_until(heard + times.silence.min(times.request)));
        Self { times, heard, begun: None, check, in_progress, unwritten: None, metrics }
    }
}

impl ReadTimer for RequestTimer {
    fn has_read(&mut self, _: &[u8]) -> io::Result<()> {
        self.heard = Instant::now();
        self.begun.get_or_insert(self.heard);
        Ok(())
    }

    fn has_written(&mut self, bytes: &[u8]) {
        self.begun = None;
        // who reads a stream of events sends nothing
        self.heard = Instant::now();
        // actix's own, which no route sees: those of routes have a body
        if bytes.starts_with(b"HTTP/1.1 408") && bytes.ends_with(b"\r\n\r\n") {
            self.metrics.requests.get_or_create(&LATE_HEAD).inc();
        }
    }

    fn write_waits(&mut self) {
        self.unwritten.get_or_insert_with(|| self.in_progress.token());
    }

    fn all_written(&mut self) {
        self.unwritten = None;
    }

    fn poll_late(&mut self, context: &mut Context<'_>) -> Poll<()> {
        while self.check.as_mut().poll(context).is_ready() {
            let now = Instant::now();
            let silent = self.heard + self.times.silence;
            let due = self.begun.map_or(silent, |begun| silent.min(begun + self.times.request));
            if due <= now {
                return Poll::Ready(());
            }
            // a request that begins meanwhile is due in `request` at the earliest
            self.check.as_mut().reset(due.min(now + self.times.request));
        }
        Poll::Pending
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    const TIMES: ReadTimes = ReadTimes { silence: Duration::from_secs(75), request: Duration::from_secs(25) };

    /// A timer of a peer that sends a byte each second, and the answer to it at once if `answered`.
    async fn late_within(seconds: u64, sends: bool, answered: bool) -> bool {
        let mut timer = RequestTimer::new(TIMES, TaskTracker::new(), Arc::default());
        for _ in 0..seconds {
            if sends {
                timer.has_read(b"x").unwrap();
            }
            if answered {
                timer.has_written(b"HTTP/1.1 200 OK");
            }
            let late = poll_fn(|context| timer.poll_late(context));
            if tokio::time::timeout(Duration::from_secs(1), late).await.is_ok() {
                return true;
            }
        }
        false
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_is_dripped_is_late_whenever_it_began() {
        assert!(!late_within(20, true, false).await);
        assert!(late_within(52, true, false).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_is_answered_is_late_only_once_it_is_silent() {
        assert!(!late_within(1000, true, true).await);
        assert!(!late_within(70, false, false).await);
        assert!(late_within(80, false, false).await);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_its_peer_does_not_take_is_in_progress_until_it_is_written_or_given_up() {
        let in_progress = TaskTracker::new();
        let mut timer = RequestTimer::new(TIMES, in_progress.clone(), Arc::default());
        assert!(in_progress.is_empty());
        timer.write_waits();
        timer.has_written(b"HTTP/1.1 200 OK");
        timer.write_waits();
        assert_eq!(in_progress.len(), 1);
        timer.all_written();
        assert!(in_progress.is_empty());
        timer.write_waits();
        drop(timer);
        assert!(in_progress.is_empty());
    }
}
