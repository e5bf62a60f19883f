//! `/healthz` of a process whose threads really stand still: a debugger holds them.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::{
    collections::BTreeSet,
    fs,
    sync::mpsc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use nix::{
    sys::{
        ptrace,
        wait::{WaitPidFlag, waitpid},
    },
    unistd::Pid,
};
use support::{client::PATIENCE, http, process::Process};

/// Threads that stand still while this lives.
struct Held {
    release: Option<mpsc::Sender<()>>,
    holder: Option<JoinHandle<()>>,
}

impl Held {
    fn new(threads: Vec<i32>) -> Self {
        let (release, released) = mpsc::channel::<()>();
        let (held, is_held) = mpsc::channel();
        // only the thread that attached may detach
        let holder = thread::spawn(move || {
            let threads: Vec<Pid> = threads.into_iter().map(Pid::from_raw).collect();
            for thread in &threads {
                ptrace::attach(*thread).unwrap();
                waitpid(*thread, Some(WaitPidFlag::__WALL)).unwrap();
            }
            held.send(()).unwrap();
            let _ = released.recv();
            for thread in threads {
                ptrace::detach(thread, None).unwrap();
            }
        });
        is_held.recv().unwrap();
        Self { release: Some(release), holder: Some(holder) }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.release.take();
        self.holder.take().unwrap().join().unwrap();
    }
}

/// The threads of a process whose name begins so.
fn threads(process: &Process, name: &str) -> Vec<i32> {
    let tasks = fs::read_dir(format!("/proc/{}/task", process.id())).unwrap();
    let tasks = tasks.map(|task| task.unwrap().path());
    let named = tasks.filter(|task| fs::read_to_string(task.join("comm")).unwrap().starts_with(name));
    named.map(|task| task.file_name().unwrap().to_str().unwrap().parse().unwrap()).collect()
}

/// Asks until the status is this one; the text. A connection may have been given to a worker that stands still.
async fn answers(process: &Process, status: u16) -> String {
    let began = Instant::now();
    loop {
        let asked = http::client().get(process.url("/healthz")).timeout(Duration::from_secs(1)).send().await;
        if let Ok(answer) = asked
            && answer.status() == status
        {
            return answer.text().await.unwrap();
        }
        assert!(began.elapsed() < PATIENCE, "/healthz does not answer {status}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn healthz_fails_while_any_worker_stands_still_and_is_well_again_when_it_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut process = Process::spawn(&[
        ("DATA__DIR", dir.path().to_str().unwrap()),
        ("NODE__WORKERS", "1"),
        ("NODE__STUCK_AFTER", "2s"),
    ]);
    assert!(process.ready().await);
    let workers = threads(&process, "actix-server wo");
    assert_eq!(workers.len(), 3, "one of the clients', two of HTTP");
    let mut told = BTreeSet::new();
    for worker in workers {
        assert_eq!(answers(&process, 200).await, "ok\n");
        let _held = Held::new(vec![worker]);
        let text = answers(&process, 503).await;
        assert!(text.contains("has not turned for "), "{text}");
        told.insert(text.split(" has not").next().unwrap().to_owned());
    }
    assert_eq!(told, BTreeSet::from(["an HTTP worker".to_owned(), "socket worker 0".to_owned()]));
    answers(&process, 200).await;

    let main = process.id() as i32;
    let tokio: Vec<i32> = threads(&process, "oxipush").into_iter().filter(|thread| *thread != main).collect();
    assert!(!tokio.is_empty());
    let held = Held::new(tokio);
    let text = answers(&process, 503).await;
    assert!(text.contains("tokio has not turned for "), "{text}");
    drop(held);
    answers(&process, 200).await;
}
