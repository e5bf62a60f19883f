//! Text that waits for a thread of its own to write it: whoever has a line never waits for the one who reads it, and a write
//! that fails ends nothing.

use std::{
    collections::VecDeque,
    io::{self, Write},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use super::Counter;

/// How often the thread looks after other things.
const PAUSE: Duration = Duration::from_secs(1);

/// Where text is put; a cheap clone.
#[derive(Clone)]
pub(super) struct Spool {
    shared: Arc<SpoolState>,
}

struct SpoolState {
    waiting: Mutex<WaitingTexts>,
    changed: Condvar,
    /// Of `WaitingTexts::bytes`.
    max: usize,
    lost: LostLines,
}

#[derive(Default)]
struct WaitingTexts {
    texts: VecDeque<Vec<u8>>,
    /// Of `texts`, and of the one that is being written.
    bytes: usize,
    /// The last write did not fail.
    works: bool,
}

/// Texts that were never written.
#[derive(Clone, Default)]
pub(super) struct LostLines {
    /// There was no room to wait.
    pub(super) full: Counter,
    /// The write failed.
    pub(super) failed: Counter,
}

impl LostLines {
    pub(super) fn all(&self) -> u64 {
        self.full.get() + self.failed.get()
    }
}

impl Spool {
    /// Starts the thread: it writes to `out`, and calls `pause` when all is written, or a second has passed and there is room
    /// for what that says; not while writing fails.
    pub(super) fn start(
        max: usize,
        lost: LostLines,
        out: impl Write + Send + 'static,
        pause: impl FnMut() + Send + 'static,
    ) -> io::Result<Self> {
        let waiting = Mutex::new(WaitingTexts { works: true, ..WaitingTexts::default() });
        let shared = Arc::new(SpoolState { waiting, changed: Condvar::new(), max, lost });
        let spool = Self { shared: shared.clone() };
        thread::Builder::new().name("log".into()).spawn(move || shared.run(out, pause))?;
        Ok(spool)
    }

    /// Puts one text; where there is no room it is lost.
    pub(super) fn put(&self, text: &[u8]) {
        let mut waiting = self.shared.lock();
        if waiting.bytes + text.len() > self.shared.max {
            drop(waiting);
            self.shared.lost.full.inc();
            return;
        }
        waiting.bytes += text.len();
        waiting.texts.push_back(text.to_vec());
        self.shared.changed.notify_all();
    }

    /// Waits until all is written, `within` at most.
    pub(super) fn flush(&self, within: Duration) {
        let end = Instant::now() + within;
        let mut waiting = self.shared.lock();
        while waiting.bytes > 0 {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            waiting = self.shared.changed.wait_timeout(waiting, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Write for Spool {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.put(text);
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl SpoolState {
    fn lock(&self) -> MutexGuard<'_, WaitingTexts> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, mut out: impl Write, mut pause: impl FnMut()) {
        let mut paused = Instant::now();
        loop {
            let mut waiting = self.lock();
            let due = paused.elapsed() >= PAUSE && waiting.bytes <= self.max / 2;
            if waiting.works && (waiting.texts.is_empty() || due) {
                drop(waiting);
                pause();
                paused = Instant::now();
                waiting = self.lock();
            }
            let more = self.changed.wait_timeout_while(waiting, PAUSE, |waiting| waiting.texts.is_empty());
            waiting = more.unwrap_or_else(PoisonError::into_inner).0;
            let Some(text) = waiting.texts.pop_front() else { continue };
            drop(waiting);
            let written = out.write_all(&text).and_then(|()| out.flush()).is_ok();
            if !written {
                self.lost.failed.inc();
            }
            let mut waiting = self.lock();
            waiting.works = written;
            waiting.bytes -= text.len();
            self.changed.notify_all();
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(60);

    /// Takes what is written and answers as the test says.
    struct SlowWriter {
        written: Sender<String>,
        answers: Receiver<io::Result<()>>,
    }

    impl Write for SlowWriter {
        fn write(&mut self, text: &[u8]) -> io::Result<usize> {
            let _ = self.written.send(String::from_utf8_lossy(text).into_owned());
            self.answers.recv().map_err(|_| io::ErrorKind::BrokenPipe)?.map(|()| text.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_finds_no_room_is_lost_and_counted_and_nobody_waits() {
        let (written, seen) = channel();
        let (answer, answers) = channel();
        let lost = LostLines::default();
        let spool = Spool::start(8, lost.clone(), SlowWriter { written, answers }, || {}).unwrap();
        spool.put(b"one\n");
        assert_eq!(seen.recv_timeout(DEADLINE).unwrap(), "one\n");
        // the first is being written, and counts
        spool.put(b"two\n");
        spool.put(b"three\n");
        assert_eq!((lost.full.get(), lost.failed.get()), (1, 0));
        spool.flush(Duration::from_millis(1));
        answer.send(Err(io::ErrorKind::StorageFull.into())).unwrap();
        assert_eq!(seen.recv_timeout(DEADLINE).unwrap(), "two\n");
        assert_eq!(lost.failed.get(), 1);
        answer.send(Ok(())).unwrap();
        spool.flush(DEADLINE);
        assert_eq!(lost.all(), 2);
    }
}
