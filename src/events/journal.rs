//! The messages of clients on the disk until the back end has acknowledged them: a log of its own, in `<[data] dir>/events`.
//!
//! One thread owns the log: it takes every message that waits, writes and syncs them once, and acknowledges them all. What the
//! back end acknowledged goes with the next write, or by itself a second later: a crash repeats messages of up to a second, and
//! loses none. Oldest segments are released; messages of a card that nobody takes are written again at the head, so that they do
//! not keep the others' room. docs/adr/0016-events.md tells why it is not the queue's log.
//!
//! The log is opened at the start where there is one, or where a webhook reads it; else with the first message or reader.

mod entry;
mod messages;
mod replay;
mod shared;
#[cfg(test)]
mod tests;
mod writer;

use std::{
    ops::Range,
    path::PathBuf,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use bytestring::ByteString;
use tokio::sync::{oneshot, watch};

use super::{EventError, EventsConfigError};
use crate::{
    config,
    lifecycle::Service,
    log::{Disk, Folder, LogOpenError, LogOptions},
    telemetry::Metrics,
};
pub(super) use messages::WaitingMessage;
use shared::{JournalRead, SharedJournal};
use writer::{JournalWriter, RETRY};

/// How a journal is kept.
#[derive(Clone, Debug)]
pub(super) struct JournalOptions {
    pub(super) dir: PathBuf,
    pub(super) log: LogOptions,
    /// Of messages that wait; see `[events] max_bytes`.
    pub(super) max_bytes: u64,
    /// Of messages that are kept in memory beside.
    pub(super) memory_bytes: usize,
    pub(super) sync: config::Sync,
    /// For a message to be durable.
    pub(super) timeout: Duration,
}

impl JournalOptions {
    pub(super) fn of(config: &config::Config) -> Self {
        let config::Config { events, queue, .. } = config;
        Self {
            dir: queue.dir.join("events"),
            log: LogOptions { segment_bytes: queue.segment_bytes },
            max_bytes: events.max_bytes,
            memory_bytes: events.memory_bytes,
            sync: queue.sync,
            timeout: queue.publish_timeout,
        }
    }
}

/// When the log is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OpenJournal {
    /// Before the node serves; what cannot be opened is an error then.
    Now,
    /// Once something is to be kept or read.
    WhenNeeded,
}

/// See the module; a cheap clone.
#[derive(Clone)]
pub(super) struct Journal {
    shared: Arc<SharedJournal>,
}

impl Journal {
    /// Starts the thread, which ends with `service`.
    pub(super) async fn start(
        options: JournalOptions,
        open: OpenJournal,
        service: &Service,
        metrics: &Arc<Metrics>,
    ) -> Result<Self, EventsConfigError> {
        let dir = options.dir.clone();
        Self::start_on(move || Folder::open(&dir), options, open, service, metrics).await
    }

    /// On any disk: tests have one that forgets what was not synced.
    async fn start_on<D: Disk>(
        disk: impl Fn() -> Result<D, LogOpenError> + Send + 'static,
        options: JournalOptions,
        open: OpenJournal,
        service: &Service,
        metrics: &Arc<Metrics>,
    ) -> Result<Self, EventsConfigError> {
        let shared = Arc::new(SharedJournal::new(options, metrics.clone()));
        let (opened, opening) = oneshot::channel();
        let (ends, ended) = oneshot::channel::<()>();
        let of_thread = shared.clone();
        let thread = thread::Builder::new().name("events".into()).spawn(move || {
            // dropped at the end
            let _ends = ends;
            let shared = of_thread;
            let open_log = || {
                let (log, messages) = replay::open(disk()?, &shared.options, &shared.lanes, &shared.metrics)?;
                let mut locked = shared.lock();
                locked.messages = messages;
                shared.unlock(locked, false);
                shared.arrived.send_replace(());
                Ok(log)
            };
            let log = match open {
                OpenJournal::Now => {
                    let log = open_log();
                    let _ = opened.send(log.as_ref().map(drop).map_err(|error: &LogOpenError| error.to_string()));
                    log.ok()
                }
                OpenJournal::WhenNeeded => {
                    let _ = opened.send(Ok(()));
                    open_when_needed(&shared, open_log)
                }
            };
            if let Some(log) = log {
                JournalWriter::new(shared, log).run();
            }
        });
        let thread =
            thread.map_err(|error| EventsConfigError(format!("the journal's thread cannot be started: {error}")))?;
        match opening.await {
            Ok(opened) => opened.map_err(EventsConfigError)?,
            Err(_) => return Err(EventsConfigError("the journal's thread panicked while it opened the log".into())),
        }
        let closing = shared.clone();
        let stopping = service.stopping().clone();
        service.spawn("events journal", async move {
            let mut ended = ended;
            tokio::select! {
                () = stopping.cancelled() => {
                    closing.begin_close();
                    let _ = ended.await;
                }
                _ = &mut ended => {}
            }
            if let Err(panic) = thread.join() {
                std::panic::resume_unwind(panic);
            }
        });
        Ok(Self { shared })
    }

    /// Keeps a message; it is on its way when this returns, and durable when the future is.
    ///
    /// # Errors
    /// [`EventError`]; after `Unavailable` or `TimedOut` it may be kept all the same.
    pub(super) fn append(
        &self,
        lane: ByteString,
        json: Bytes,
    ) -> impl Future<Output = Result<(), EventError>> + Send + use<> {
        let admitted = self.shared.admit(lane, json);
        let timeout = self.shared.options.timeout;
        async move {
            match tokio::time::timeout(timeout, admitted?).await {
                Ok(Ok(outcome)) => outcome,
                Ok(Err(_)) => Err(EventError::Unavailable("the gateway is stopping".into())),
                Err(_) => Err(EventError::TimedOut),
            }
        }
    }

    /// Messages behind the position `after`, in order, `most` at most; none: there are no more yet.
    pub(super) fn after(&self, after: u64, most: usize) -> Vec<WaitingMessage> {
        self.shared.lock().messages.after(after, most)
    }

    /// The JSON of those messages that still wait, in the order of `numbers`. Cancel-safe.
    ///
    /// # Errors
    /// The disk cannot read them now; in words.
    pub(super) async fn read(&self, numbers: Vec<u64>) -> Result<Vec<(u64, Bytes)>, String> {
        if let Some(found) = self.in_memory(&numbers) {
            return Ok(found);
        }
        let (answer, answered) = oneshot::channel();
        self.shared.read(JournalRead { numbers, answer });
        answered.await.unwrap_or_else(|_| Err("the gateway is stopping".into()))
    }

    /// All of them, if none has to be read from the disk.
    fn in_memory(&self, numbers: &[u64]) -> Option<Vec<(u64, Bytes)>> {
        let locked = self.shared.lock();
        let waiting = numbers.iter().filter_map(|number| Some((*number, locked.messages.get(*number)?)));
        waiting.map(|(number, message)| Some((number, message.json.clone()?))).collect()
    }

    /// The back end is done with these: they do not come again, unless the process is killed within a second. How many of them
    /// waited.
    pub(super) fn acknowledge(&self, ranges: impl IntoIterator<Item = Range<u64>>) -> u64 {
        self.shared.done(ranges)
    }

    /// Changes when there are messages to read; from now on the log is needed.
    pub(super) fn watch(&self) -> watch::Receiver<()> {
        self.shared.need();
        self.shared.arrived.subscribe()
    }

    /// What a lane of this name is known by, in [`WaitingMessage`].
    pub(super) fn lane(&self, name: &str) -> u64 {
        self.shared.lane(name)
    }
}

/// The log, once it is needed and can be opened; `None`: the journal was closed before.
fn open_when_needed<L>(shared: &SharedJournal, open: impl Fn() -> Result<L, LogOpenError>) -> Option<L> {
    if !shared.wait_until_needed() {
        return None;
    }
    loop {
        match open() {
            Ok(log) => {
                shared.accept();
                return Some(log);
            }
            Err(error) => {
                tracing::error!(%error, "the events' log cannot be opened: no message of a client is accepted");
                shared.refuse(&error.to_string());
            }
        }
        if shared.wait_to_retry(Instant::now() + RETRY) {
            shared.refuse("the gateway is stopping");
            return None;
        }
    }
}
