//! The webhook, driven where sockets drive it.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use oxipush::internals::{
    config,
    events::{Event, EventError, EventKind, Events, EventsControl},
    lifecycle::{Deadline, Tasks},
    queue::{Queue, embedded},
    telemetry::{
        Metrics,
        labels::{DropReason, EventOutcome, EventRequestOutcome},
    },
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    hook::{Hook, SECRET},
    support::{gateway::settings, http_server::Told},
};

const PATIENCE: Duration = Duration::from_secs(30);

/// Events as a node has them, in a folder that outlives it.
struct Teller {
    events: Events,
    control: EventsControl,
    metrics: Arc<Metrics>,
    queue: Queue,
    tasks: Tasks,
}

impl Teller {
    async fn start(dir: &TempDir, url: &str, more: &[(&str, &str)]) -> Self {
        let dir = dir.path().to_string_lossy().into_owned();
        let usual = [
            ("DATA__DIR", dir.as_str()),
            ("EVENTS__URL", url),
            ("EVENTS__SECRET", SECRET),
            ("EVENTS__KINDS", "message, joined, left, drops"),
            ("EVENTS__TIMEOUT", "1s"),
            ("EVENTS__MAX_BACKOFF", "500ms"),
        ];
        let config = config::load(None, settings(&[&usual, more].concat())).unwrap();
        let (tasks, _deaths) = Tasks::new();
        let metrics = Arc::new(Metrics::new());
        let queue = embedded::open(&config.queue, &tasks, &metrics).await.unwrap();
        let (events, control) = Events::start(&config, &queue.publisher, &tasks, &metrics).await.unwrap();
        Self { events, control, metrics, queue, tasks }
    }

    async fn message(&self, card: &str, data: impl Into<Value>) -> Result<(), EventError> {
        let data = Some(data.into().to_string().into());
        let event = Event { card: Some(card.to_owned().into()), data, ..Event::new(EventKind::Message) };
        tokio::time::timeout(PATIENCE, self.events.message(event)).await.unwrap()
    }

    fn tell(&self, kind: EventKind, card: &str) {
        self.events.tell(Event { card: Some(card.to_owned().into()), ..Event::new(kind) });
    }

    fn count(&self, outcome: EventOutcome) -> u64 {
        self.metrics.events.get_or_create(&outcome).get()
    }

    async fn stop(self) {
        self.control.close(Deadline::after(Duration::from_secs(5))).await;
        self.queue.control.close(Deadline::after(Duration::from_secs(5))).await;
        assert!(self.tasks.stop(Duration::from_secs(5)).await);
    }
}

fn dir() -> TempDir {
    tempfile::tempdir().unwrap()
}

async fn eventually(what: &str, is: impl Fn() -> bool) {
    for _ in 0..600 {
        if is() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("not within 30 s: {what}");
}

/// The data of a card's messages, in the order of their arrival, each once.
fn of_card(events: &[Value], card: &str) -> Vec<u64> {
    let mut seen = BTreeSet::new();
    let of_card = events.iter().filter(|event| event["card"] == card && event["type"] == "message");
    of_card.filter(|event| seen.insert(event["id"].to_string())).map(|event| event["data"].as_u64().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cards_events_arrive_in_order_signed_and_in_batches() {
    let (dir, hook) = (dir(), Hook::start(|_| Told { delay: Duration::from_millis(20), ..Told::ok("") }).await);
    let teller = Teller::start(&dir, &hook.url(), &[("EVENTS__BATCH", "50")]).await;
    for n in 0..200_u64 {
        for card in ["alice", "bob"] {
            teller.message(card, n).await.unwrap();
        }
    }
    teller.tell(EventKind::Joined, "carol");
    teller.tell(EventKind::Connected, "nobody asked");
    let events = hook.heard.until("all are told", |events| events.len() == 401).await;
    for card in ["alice", "bob"] {
        assert_eq!(of_card(&events, card), (0..200).collect::<Vec<_>>());
    }
    assert!(events.iter().any(|event| event["type"] == "joined" && event["card"] == "carol"));
    let batches = hook.heard.batches();
    assert!(batches.iter().all(|batch| batch.len() <= 50), "a batch has at most so many");
    assert!(batches.iter().any(|batch| batch.len() > 1), "what waits goes together");
    let one_card = |batch: &Vec<Value>| batch.iter().all(|event| event["card"] == batch[0]["card"]);
    assert!(batches.iter().all(one_card), "a batch is of one card");
    eventually("all are acknowledged", || teller.metrics.events_waiting.get() == 0).await;
    assert_eq!((teller.count(EventOutcome::Accepted), teller.count(EventOutcome::Delivered)), (400, 401));
    teller.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_webhook_is_killed_messages_are_taken_and_each_arrives_once_it_is_back() {
    let (dir, hook) = (dir(), Hook::start(|_| Told::ok("")).await);
    let teller = Teller::start(&dir, &hook.url(), &[]).await;
    teller.message("alice", 0_u64).await.unwrap();
    hook.heard.until("the first", |events| events.len() == 1).await;
    let killed = hook.kill();
    for n in 1..50_u64 {
        teller.message("alice", n).await.unwrap();
        teller.message(&format!("card {n}"), n).await.unwrap();
    }
    let failed = || teller.metrics.event_requests.get_or_create(&EventRequestOutcome::Failed).get();
    eventually("it was tried again", || failed() >= 3).await;
    // nobody listens: that is found out once for all cards, and not by each
    assert!(failed() < 60, "{} tries", failed());
    assert_eq!(killed.heard.events().len(), 1);
    let hook = killed.again().await;
    let events = hook.heard.until("all", |events| of_card(events, "alice").len() == 50 && events.len() >= 99).await;
    assert_eq!(of_card(&events, "alice"), (0..50).collect::<Vec<_>>());
    for n in 1..50 {
        assert_eq!(of_card(&events, &format!("card {n}")), [n]);
    }
    teller.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_webhook_refuses_is_dropped_and_counted_and_what_it_cannot_take_now_comes_again() {
    let busy = Arc::new(AtomicUsize::new(3));
    let left = busy.clone();
    let answer = move |events: &[Value]| {
        if events[0]["card"] == "refused" {
            return Told::status("422 Unprocessable Entity");
        }
        let is_busy = left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
        let statuses = ["429 Too Many Requests", "503 Service Unavailable", "408 Request Timeout"];
        if is_busy { Told::status(statuses[left.load(Ordering::SeqCst)]) } else { Told::status("204 No Content") }
    };
    let (dir, hook) = (dir(), Hook::start(answer).await);
    let teller = Teller::start(&dir, &hook.url(), &[]).await;
    teller.message("refused", 1_u64).await.unwrap();
    eventually("it is counted", || teller.count(EventOutcome::Refused) == 1).await;
    teller.message("alice", 2_u64).await.unwrap();
    hook.heard.until("what was not refused", |events| of_card(events, "alice") == [2]).await;
    assert_eq!(hook.asked(), 5, "one refused, three times busy, one taken");
    eventually("nothing waits", || teller.metrics.events_waiting.get() == 0).await;
    teller.stop().await;
    let teller = Teller::start(&dir, &hook.url(), &[]).await;
    teller.message("alice", 3_u64).await.unwrap();
    let events = hook.heard.until("a new one", |events| of_card(events, "alice") == [2, 3]).await;
    assert_eq!(events.len(), 2, "what was refused does not come again");
    teller.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_card_whose_request_hangs_delays_no_other_card() {
    let answer = |events: &[Value]| {
        let delay = if events[0]["card"] == "hangs" { Duration::from_secs(3600) } else { Duration::ZERO };
        Told { delay, ..Told::ok("") }
    };
    let (dir, hook) = (dir(), Hook::start(answer).await);
    let teller = Teller::start(&dir, &hook.url(), &[("EVENTS__TIMEOUT", "30s"), ("EVENTS__MAX_IN_FLIGHT", "2")]).await;
    for n in 0..10_u64 {
        teller.message("hangs", n).await.unwrap();
    }
    eventually("it hangs", || hook.asked() == 1).await;
    let began = Instant::now();
    for n in 0..100_u64 {
        teller.message("alice", n).await.unwrap();
        teller.message("bob", n).await.unwrap();
    }
    let all = |events: &[Value]| of_card(events, "alice").len() == 100 && of_card(events, "bob").len() == 100;
    hook.heard.until("the others", all).await;
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    assert_eq!(teller.metrics.events_waiting.get(), 10);
    // what is under way is not waited for beyond the deadline
    teller.control.close(Deadline::after(Duration::from_millis(200))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_takes_too_long_is_tried_again_and_others_go_on() {
    let slow = Arc::new(AtomicBool::new(true));
    let is_slow = slow.clone();
    let answer = move |_: &[Value]| {
        let delay = if is_slow.load(Ordering::SeqCst) { Duration::from_secs(5) } else { Duration::ZERO };
        Told { delay, ..Told::ok("") }
    };
    let (dir, hook) = (dir(), Hook::start(answer).await);
    let teller = Teller::start(&dir, &hook.url(), &[("EVENTS__TIMEOUT", "200ms")]).await;
    teller.message("alice", 1_u64).await.unwrap();
    let failed = || teller.metrics.event_requests.get_or_create(&EventRequestOutcome::Failed).get();
    eventually("it was tried again", || failed() >= 2).await;
    slow.store(false, Ordering::SeqCst);
    eventually("it is taken", || teller.metrics.events_waiting.get() == 0).await;
    teller.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_not_taken_before_a_stop_comes_after_the_start() {
    let (dir, hook) = (dir(), Hook::start(|_| Told::ok("")).await);
    let url = hook.url();
    let teller = Teller::start(&dir, &url, &[]).await;
    teller.message("alice", 0_u64).await.unwrap();
    hook.heard.until("the first", |events| events.len() == 1).await;
    eventually("it is acknowledged", || teller.metrics.events_waiting.get() == 0).await;
    let killed = hook.kill();
    teller.message("alice", 1_u64).await.unwrap();
    teller.message("bob", 1_u64).await.unwrap();
    teller.stop().await;
    let teller = Teller::start(&dir, &url, &[]).await;
    assert_eq!(teller.metrics.events_waiting.get(), 2);
    teller.message("alice", 2_u64).await.unwrap();
    teller.stop().await;
    let teller = Teller::start(&dir, &url, &[]).await;
    let hook = killed.again().await;
    teller.message("alice", 3_u64).await.unwrap();
    let all = |events: &[Value]| of_card(events, "alice").len() == 4 && of_card(events, "bob").len() == 1;
    let events = hook.heard.until("all", all).await;
    assert_eq!(of_card(&events, "alice"), [0, 1, 2, 3]);
    teller.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_journal_refuses_messages_and_goes_on_once_the_webhook_takes_them() {
    let (dir, hook) = (dir(), Hook::start(|_| Told::ok("")).await);
    let (url, killed) = (hook.url(), hook.kill());
    let teller = Teller::start(&dir, &url, &[("EVENTS__MAX_BYTES", "128KiB")]).await;
    let mut taken = 0_u64;
    let refused = loop {
        match teller.message("alice", taken).await {
            Ok(()) => taken += 1,
            Err(refused) => break refused,
        }
    };
    assert!(matches!(refused, EventError::Busy(_)), "{refused}");
    assert!(taken > 300, "{taken}");
    let hook = killed.again().await;
    eventually("all are told", || teller.metrics.events_waiting.get() == 0).await;
    assert_eq!(of_card(&hook.heard.events(), "alice"), (0..taken).collect::<Vec<_>>());
    teller.message("alice", taken).await.unwrap();
    teller.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_other_kinds_are_bounded_in_memory_and_counted() {
    let (dir, hook) = (dir(), Hook::start(|_| Told::ok("")).await);
    let (url, killed) = (hook.url(), hook.kill());
    let teller = Teller::start(&dir, &url, &[("EVENTS__BUFFER", "100")]).await;
    for n in 0..500 {
        teller.tell(EventKind::Joined, &format!("card {n}"));
    }
    assert!(teller.count(EventOutcome::Full) >= 400, "{}", teller.count(EventOutcome::Full));
    let hook = killed.again().await;
    hook.heard.until("those that found room", |events| events.len() == 100).await;
    eventually("they are counted", || teller.count(EventOutcome::Delivered) == 100).await;
    teller.tell(EventKind::Left, "the next");
    hook.heard.until("there is room again", |events| events.len() == 101).await;
    teller.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_dropped_is_told_once_a_second_by_its_reason() {
    let (dir, hook) = (dir(), Hook::start(|_| Told::ok("")).await);
    let teller = Teller::start(&dir, &hook.url(), &[]).await;
    teller.metrics.drops.get_or_create(&DropReason::Slow).inc_by(7);
    teller.metrics.drops.get_or_create(&DropReason::NoConnection).inc();
    let events = hook.heard.until("both", |events| events.len() >= 2).await;
    assert!(events.iter().all(|event| event["type"] == "drops" && event.get("card").is_none()), "{events:?}");
    let mut counts: Vec<_> = events.iter().map(|event| event["data"].clone()).collect();
    counts.sort_by_key(|data| data["count"].as_u64());
    assert_eq!(counts, [json!({"reason": "no_connection", "count": 1}), json!({"reason": "slow", "count": 7})]);
    teller.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_kinds_nothing_is_told_kept_or_made() {
    let dir = dir();
    let given = [("EVENTS__URL", ""), ("EVENTS__SECRET", ""), ("EVENTS__KINDS", "")];
    let teller = Teller::start(&dir, "", &given).await;
    assert!(!EventKind::ALL.into_iter().any(|kind| teller.events.wants(kind)));
    assert_eq!(teller.message("alice", 1_u64).await, Err(EventError::Unsupported));
    teller.stop().await;
    assert!(!dir.path().join("events").exists());
}
