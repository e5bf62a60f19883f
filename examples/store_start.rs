//! How long a start of the embedded store takes on what it holds, and in how much memory.
//!
//! `cargo run --release --example store_start -- fill FOLDER 1000000 100000 200` stores a million pushes of 200 bytes in 100,000
//! cards; `… -- open FOLDER` opens them.

use std::{
    error::Error,
    fs,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use oxipush::internals::{
    config,
    lifecycle::{Deadline, Tasks},
    push::{Content, Push, PushId, Target},
    store::{self, NewPush, OpenStore},
    telemetry::Metrics,
};

/// So many pushes are stored at once.
const AT_ONCE: usize = 2000;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let folder = arguments.get(2).ok_or("fill FOLDER PUSHES CARDS BYTES, or open FOLDER")?;
    let config = config::load(None, [("OXIPUSH__DATA__DIR".to_owned(), folder.clone())])?;
    let (tasks, _deaths) = Tasks::new();
    let metrics = Arc::new(Metrics::new());
    let before = memory();
    let since = Instant::now();
    let opened = store::open(&config, None, &tasks, &metrics).await?.ok_or("the configuration has no store")?;
    let OpenStore { store, stored, control } = opened;
    // nobody is there to be told
    drop(stored);
    println!(
        "opened in {:.3} s with {} entries in {} streams; {} KiB before, now {} KiB, at most {} KiB",
        since.elapsed().as_secs_f64(),
        metrics.store_entries.get(),
        metrics.store_streams.get(),
        before.0,
        memory().0,
        memory().1
    );
    if arguments.get(1).is_some_and(|what| what == "fill") {
        let number = |at: usize| arguments.get(at).and_then(|text| text.parse::<usize>().ok()).ok_or("a number");
        let (pushes, cards, bytes) = (number(3)?, number(4)?, number(5)?);
        let deadline = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis() as u64 + 24 * 3_600_000;
        let since = Instant::now();
        let mut random = fastrand::Rng::with_seed(1);
        for first in (0..pushes).step_by(AT_ONCE) {
            let some = (first..pushes.min(first + AT_ONCE)).map(|_| NewPush {
                push: Push {
                    id: PushId::generate(),
                    from: "".into(),
                    target: Target::cards(vec![format!("card-{}", random.usize(0..cards)).into()]),
                    content: Content::from("x".repeat(bytes).as_str()),
                    collapse_key: None,
                    deadline: Some(deadline),
                },
                claim: None,
            });
            for one in store.append_all(some.collect()) {
                one?.await?;
            }
        }
        println!("{pushes} pushes stored in {:.1} s; now {} KiB", since.elapsed().as_secs_f64(), memory().0);
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    println!("after half a second {} KiB", memory().0);
    control.close(Deadline::after(Duration::from_secs(30))).await;
    Ok(())
}

/// What this process has in memory and had at most, in KiB.
fn memory() -> (u64, u64) {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let of = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name))?;
        line.split_whitespace().nth(1)?.parse().ok()
    };
    (of("VmRSS:").unwrap_or(0), of("VmHWM:").unwrap_or(0))
}
