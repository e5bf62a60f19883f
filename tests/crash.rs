//! SIGKILL at random moments, with a ledger of what was accepted and what was received.
//!
//! `OXIPUSH_CRASH_ROUNDS` (20) says how often; `just crash` does 500.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::StreamExt;
use serde_json::json;
use support::{
    client::Client,
    process::{Process, free},
};

const CARDS: u64 = 20;
/// [outbox] max_bytes of this test: what a killed process may have had in one connection's outbox.
const OUTBOX: &str = "64KiB";

#[derive(Default)]
struct Ledger {
    /// number → (card, the process's round in which it was accepted)
    accepted: HashMap<u64, (u64, usize)>,
    /// numbers whose request got no answer: they may arrive or not
    unknown: HashSet<u64>,
    received: HashMap<u64, u64>,
}

/// The kernel and the outbox of a killed process may swallow what was offered to its sockets; here every client is connected
/// all the time the node is up, so that all else must arrive. Frames in flight at a kill are bounded by the outbox.
#[tokio::test(flavor = "multi_thread")]
async fn whatever_was_accepted_arrives_through_sigkill_at_any_moment() {
    let rounds: usize = std::env::var("OXIPUSH_CRASH_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(20);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_string_lossy().into_owned();
    let settings = [
        ("DATA__DIR", path.as_str()),
        // so that some kills come in a segment's change
        ("DATA__SEGMENT_BYTES", "64KiB"),
        ("QUEUE__REPLAY_HOLD", "1s"),
        ("OUTBOX__MAX_BYTES", OUTBOX),
        ("PUSH__MAX_CONTENT", "32KiB"),
    ];
    let at = [free(), free(), free()];
    let ledger = Arc::new(Mutex::new(Ledger::default()));
    let (stop, round) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));

    let joined: Arc<Vec<AtomicBool>> = Arc::new((0..CARDS).map(|_| AtomicBool::new(false)).collect());

    let mut workers = Vec::new();
    for card in 0..CARDS {
        let (ledger, stop, joined) = (ledger.clone(), stop.clone(), joined.clone());
        workers.push(tokio::spawn(async move {
            let url = format!("ws://{}/ws", at[0]);
            while !stop.load(Ordering::Relaxed) {
                joined[card as usize].store(false, Ordering::Relaxed);
                let Ok((socket, _)) = tokio_tungstenite::connect_async(&url).await else {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    continue;
                };
                let (mut out, mut input) = socket.split();
                let join = json!({"event": "join", "data": {"app_id": "", "card_id": format!("card-{card}")}});
                let _ = futures_util::SinkExt::send(&mut out, join.to_string().into()).await;
                loop {
                    let next = tokio::time::timeout(Duration::from_millis(200), input.next()).await;
                    match next {
                        Err(_) if stop.load(Ordering::Relaxed) => return,
                        Err(_) => {}
                        Ok(Some(Ok(message))) => {
                            let Ok(text) = message.into_text() else { continue };
                            joined[card as usize].store(true, Ordering::Relaxed);
                            let Ok(value) = serde_json::from_str::<serde_json::Value>(&text) else { continue };
                            if let Some(number) = value["data"].as_str().and_then(|data| data.parse::<u64>().ok()) {
                                *ledger.lock().unwrap().received.entry(number).or_default() += 1;
                            }
                        }
                        Ok(_) => break,
                    }
                }
            }
        }));
    }
    let numbers = Arc::new(AtomicU64::new(1));
    for _ in 0..8 {
        let (ledger, stop, joined) = (ledger.clone(), stop.clone(), joined.clone());
        let (round, numbers) = (round.clone(), numbers.clone());
        workers.push(tokio::spawn(async move {
            let client = crate::support::http::builder().timeout(Duration::from_secs(20)).build().unwrap();
            while !stop.load(Ordering::Relaxed) {
                let number = numbers.fetch_add(1, Ordering::Relaxed);
                let card = number % CARDS;
                if !joined[card as usize].load(Ordering::Relaxed) {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                    continue;
                }
                let body =
                    json!({"from": "", "to": [format!("card-{card}")], "appID": "", "content": number.to_string()});
                match client.post(format!("http://{}/push", at[1])).json(&body).send().await {
                    Ok(answer) if answer.status() == 200 => {
                        let round = round.load(Ordering::Relaxed) as usize;
                        ledger.lock().unwrap().accepted.insert(number, (card, round));
                    }
                    Ok(answer) if answer.status() == 429 => tokio::time::sleep(Duration::from_millis(5)).await,
                    Ok(_) | Err(_) => {
                        ledger.lock().unwrap().unknown.insert(number);
                        tokio::time::sleep(Duration::from_millis(10)).await;
                    }
                }
            }
        }));
    }

    for n in 0..rounds {
        round.store(n as u64, Ordering::Relaxed);
        let mut process = Process::spawn_at(&settings, at);
        if n % 4 != 0 {
            assert!(process.ready().await, "round {n}: it must start on what the killed one left");
        }
        // in start-up, in the replay hold, and in the middle of the flow
        tokio::time::sleep(Duration::from_millis(fastrand::u64(10..1500))).await;
        process.kill();
    }
    round.store(rounds as u64, Ordering::Relaxed);
    let mut last = Process::spawn_at(&settings, at);
    assert!(last.ready().await);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    stop.store(true, Ordering::Relaxed);
    // what is accepted and waits still is handed out before anything newer of its card
    let mut ends = Vec::new();
    for card in 0..CARDS {
        ends.push(Client::gopusher(&last.ws(), &format!("card-{card}"), "").await);
    }
    for worker in workers {
        worker.await.unwrap();
    }
    let (accepted, received, missing, invented, copies) = {
        let ledger = ledger.lock().unwrap();
        let missing: Vec<_> = ledger
            .accepted
            .iter()
            .filter(|(number, _)| !ledger.received.contains_key(number))
            .map(|(n, at)| (*n, *at))
            .collect();
        let invented =
            ledger.received.keys().filter(|n| !ledger.accepted.contains_key(n) && !ledger.unknown.contains(n)).count();
        let copies: u64 = ledger.received.values().map(|times| times - 1).sum();
        (ledger.accepted.len(), ledger.received.len(), missing, invented, copies)
    };
    println!("{rounds} kills: {accepted} accepted, {received} received, {} missing, {copies} copies", missing.len());
    assert!(accepted > rounds * 10, "the test pushed next to nothing");
    assert_eq!(invented, 0, "pushes that nobody sent");
    // a killed process takes with it what its sockets had been offered: at most one outbox of frames for each card
    let mut lost: HashMap<(u64, usize), usize> = HashMap::new();
    for (_, at) in missing {
        *lost.entry(at).or_default() += 1;
    }
    for ((card, round), frames) in lost {
        assert!(frames * 27 <= 64 << 10, "round {round}, card {card}: {frames} frames are more than an outbox holds");
    }
}
