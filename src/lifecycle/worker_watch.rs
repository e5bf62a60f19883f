//! Whether each worker still turns: a thread of its own looks at what they count as they do.

use std::{
    fmt::Write as _,
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
        mpsc::{self, RecvTimeoutError},
    },
    time::{Duration, Instant},
};

use tokio::runtime::{Handle, RuntimeMetrics};

/// Knows which workers have not turned for too long. A cheap clone; the last one ends the thread that looks.
#[derive(Clone)]
pub struct WorkerWatch {
    shared: Arc<SharedWatch>,
    /// Its end is the thread's.
    _stop: Arc<mpsc::Sender<()>>,
}

struct SharedWatch {
    stuck_after: Duration,
    workers: Mutex<Vec<WatchedWorker>>,
    /// What is wrong, as of the last look; `None`: nothing.
    stuck: Mutex<Option<String>>,
}

struct WatchedWorker {
    name: String,
    turns: Turns,
    seen: u64,
    /// When it was seen to have turned, or to have nothing to do.
    since: Instant,
}

/// Where a worker's turns are counted.
enum Turns {
    /// By a task on it; gone with that.
    Pulse(Weak<AtomicU64>),
    /// By the tokio runtime whose worker of this number it is.
    Tokio(RuntimeMetrics, usize),
}

/// What a worker shows as long as it turns.
pub struct Pulse {
    turns: Arc<AtomicU64>,
    period: Duration,
}

impl WorkerWatch {
    /// Starts the thread that looks; a worker is stuck that has not turned for `stuck_after`.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start(stuck_after: Duration) -> io::Result<Self> {
        let shared = Arc::new(SharedWatch { stuck_after, workers: Mutex::default(), stuck: Mutex::default() });
        let (stop, stopped) = mpsc::channel();
        let watched = Arc::clone(&shared);
        std::thread::Builder::new().name("worker watch".into()).spawn(move || {
            let period = watched.period();
            let mut last = Instant::now();
            while stopped.recv_timeout(period) == Err(RecvTimeoutError::Timeout) {
                let now = Instant::now();
                watched.look(now, now - last);
                last = now;
            }
        })?;
        Ok(Self { shared, _stop: Arc::new(stop) })
    }

    /// Watches a worker of this name: what is returned has to [`Pulse::beat`] on it, and is dropped when it ends in order.
    pub fn pulse(&self, name: impl Into<String>) -> Pulse {
        let turns = Arc::new(AtomicU64::new(0));
        self.shared.add(name.into(), Turns::Pulse(Arc::downgrade(&turns)));
        Pulse { turns, period: self.shared.period() }
    }

    /// Watches the workers of the tokio runtime that this is called on.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn watch_tokio(&self) {
        let metrics = Handle::current().metrics();
        for worker in 0..metrics.num_workers() {
            self.shared.add(format!("tokio worker {worker}"), Turns::Tokio(metrics.clone(), worker));
        }
    }

    /// # Errors
    /// Which workers have not turned for how long, for people.
    pub fn check(&self) -> Result<(), String> {
        lock(&self.shared.stuck).clone().map_or(Ok(()), Err)
    }
}

impl Pulse {
    /// Beats until it is dropped, on the worker that polls it.
    pub async fn beat(self) {
        loop {
            self.turns.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(self.period).await;
        }
    }
}

impl Turns {
    /// A number that changes when the worker turns; `None`: it is gone. The other tells that it has nothing to do.
    fn read(&self) -> Option<(u64, bool)> {
        match self {
            Self::Pulse(turns) => turns.upgrade().map(|turns| (turns.load(Ordering::Relaxed), false)),
            Self::Tokio(metrics, worker) => {
                let parks = metrics.worker_park_unpark_count(*worker);
                // one that never parks tells now and then how long it was busy
                let busy = metrics.worker_total_busy_duration(*worker).as_nanos() as u64;
                Some((parks.wrapping_add(busy), !parks.is_multiple_of(2)))
            }
        }
    }
}

impl SharedWatch {
    /// How often a worker beats, and is looked at.
    fn period(&self) -> Duration {
        (self.stuck_after / 8).clamp(Duration::from_millis(10), Duration::from_secs(1))
    }

    fn add(&self, name: String, turns: Turns) {
        lock(&self.workers).push(WatchedWorker { name, turns, seen: 0, since: Instant::now() });
    }

    /// Looks at all workers; the last look was `passed` ago.
    fn look(&self, now: Instant, passed: Duration) {
        // the process, or the whole machine, stood still, and its workers with it
        let stood_still = passed > self.period() * 4;
        let mut told = String::new();
        lock(&self.workers).retain_mut(|worker| {
            let Some((seen, idle)) = worker.turns.read() else { return false };
            if seen != worker.seen || idle || stood_still {
                (worker.seen, worker.since) = (seen, now);
            }
            let still = now.saturating_duration_since(worker.since);
            if still >= self.stuck_after {
                let separator = if told.is_empty() { "" } else { ", " };
                // writing to a String cannot fail
                let _ = write!(told, "{separator}{} has not turned for {} s", worker.name, still.as_secs());
            }
            true
        });
        self.tell((!told.is_empty()).then_some(told));
    }

    fn tell(&self, now: Option<String>) {
        let before = std::mem::replace(&mut *lock(&self.stuck), now.clone());
        match (before, now) {
            (None, Some(workers)) => tracing::error!(workers, "the node is stuck: /healthz fails ([node] stuck_after)"),
            (Some(_), None) => tracing::warn!("the node is stuck no more"),
            _ => {}
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// 30 s, and no thread looks.
    fn unlooked() -> WorkerWatch {
        let stuck_after = Duration::from_secs(30);
        let shared = SharedWatch { stuck_after, workers: Mutex::default(), stuck: Mutex::default() };
        WorkerWatch { shared: Arc::new(shared), _stop: Arc::new(mpsc::channel().0) }
    }

    /// Looks as often as its thread would, until so long has passed.
    fn pass(watch: &WorkerWatch, now: &mut Instant, seconds: u64) {
        for _ in 0..seconds {
            *now += Duration::from_secs(1);
            watch.shared.look(*now, Duration::from_secs(1));
        }
    }

    #[test]
    fn a_worker_that_does_not_turn_for_so_long_is_named_until_it_turns_again_or_ends() {
        let watch = unlooked();
        let (turning, stuck) = (watch.pulse("HTTP worker"), watch.pulse("socket worker 1"));
        let mut now = Instant::now();
        for _ in 0..29 {
            turning.turns.fetch_add(1, Ordering::Relaxed);
            pass(&watch, &mut now, 1);
            assert_eq!(watch.check(), Ok(()));
        }
        for _ in 0..2 {
            turning.turns.fetch_add(1, Ordering::Relaxed);
            pass(&watch, &mut now, 1);
        }
        assert_eq!(watch.check(), Err("socket worker 1 has not turned for 31 s".into()));
        stuck.turns.fetch_add(1, Ordering::Relaxed);
        pass(&watch, &mut now, 1);
        assert_eq!(watch.check(), Ok(()));
        pass(&watch, &mut now, 60);
        let told = watch.check().unwrap_err();
        assert!(told.contains("HTTP worker has not") && told.contains(", socket worker 1 has not"), "{told}");
        drop((turning, stuck));
        pass(&watch, &mut now, 1);
        assert_eq!(watch.check(), Ok(()), "they are gone");
    }

    #[test]
    fn a_process_that_stood_still_as_a_whole_is_not_stuck() {
        let watch = unlooked();
        let _pulse = watch.pulse("worker");
        let mut now = Instant::now() + Duration::from_secs(3600);
        watch.shared.look(now, Duration::from_secs(3600));
        assert_eq!(watch.check(), Ok(()));
        pass(&watch, &mut now, 29);
        assert_eq!(watch.check(), Ok(()));
    }

    fn wait_until(watch: &WorkerWatch, is_stuck: bool) -> Option<String> {
        for _ in 0..3000 {
            let told = watch.check().err();
            if told.is_some() == is_stuck {
                return told;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("after 30 s it is {:?}", watch.check());
    }

    #[test]
    fn a_tokio_worker_that_a_task_blocks_is_found_and_an_idle_one_is_not() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let watch = WorkerWatch::start(Duration::from_millis(400)).unwrap();
        runtime.block_on(async { watch.watch_tokio() });
        runtime.spawn(watch.pulse("tokio").beat());
        // both idle for longer than that
        std::thread::sleep(Duration::from_millis(900));
        assert_eq!(watch.check(), Ok(()));
        let (unblock, blocked) = mpsc::channel::<()>();
        runtime.spawn(async move {
            let _ = blocked.recv();
        });
        let told = wait_until(&watch, true).unwrap();
        assert!(told.contains("tokio worker ") && told.contains("has not turned"), "{told}");
        drop(unblock);
        wait_until(&watch, false);
    }
}
