//! What the journal promises, on a disk in memory that forgets what was not synced.
#![allow(clippy::unwrap_used)]

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::time::timeout;

use super::{Journal, JournalOptions, OpenJournal};
use crate::{
    config,
    events::EventError,
    lifecycle::{Deadline, Service, Tasks},
    log::{LogOptions, tests::disk::TestDisk},
    telemetry::{Metrics, labels::EventOutcome},
};

const PATIENCE: Duration = Duration::from_secs(20);

/// A journal as one process has it.
struct Rig {
    journal: Journal,
    service: Service,
    metrics: Arc<Metrics>,
    _tasks: Tasks,
}

fn options() -> JournalOptions {
    JournalOptions {
        dir: "nowhere".into(),
        // small, so that they change often
        log: LogOptions { segment_bytes: 64 << 10 },
        max_bytes: 64 << 20,
        memory_bytes: 64 << 20,
        sync: config::Sync::Always,
        timeout: PATIENCE,
    }
}

impl Rig {
    async fn open(disk: &TestDisk, options: JournalOptions) -> Self {
        Self::open_at(disk, options, OpenJournal::Now).await
    }

    async fn open_at(disk: &TestDisk, options: JournalOptions, open: OpenJournal) -> Self {
        let (tasks, _deaths) = Tasks::new();
        let service = tasks.service();
        let metrics = Arc::new(Metrics::new());
        let powered = disk.powered();
        let journal = Journal::start_on(move || Ok(powered.clone()), options, open, &service, &metrics).await.unwrap();
        Self { journal, service, metrics, _tasks: tasks }
    }

    async fn send(&self, card: &str, text: &str) -> Result<(), EventError> {
        timeout(PATIENCE, self.journal.append(card.to_owned().into(), text.to_owned().into())).await.unwrap()
    }

    /// All that waits, with the positions.
    async fn all(&self) -> Vec<(u64, String)> {
        let numbers: Vec<u64> = self.journal.after(0, usize::MAX).iter().map(|message| message.number).collect();
        let found = timeout(PATIENCE, self.journal.read(numbers)).await.unwrap().unwrap();
        found.into_iter().map(|(number, json)| (number, text(&json))).collect()
    }

    async fn texts(&self) -> Vec<String> {
        self.all().await.into_iter().map(|(_, text)| text).collect()
    }

    async fn close(self) {
        assert!(self.service.stop_within(Deadline::after(PATIENCE)).await);
    }
}

fn text(json: &Bytes) -> String {
    String::from_utf8(json.to_vec()).unwrap()
}

async fn eventually(what: &str, mut is: impl FnMut() -> bool) {
    for _ in 0..2000 {
        if is() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("not within 20 s: {what}");
}

#[tokio::test]
async fn what_was_not_acknowledged_is_there_after_a_restart_in_order_and_the_rest_is_not() {
    let disk = TestDisk::default();
    let rig = Rig::open(&disk, options()).await;
    for n in 0..20 {
        rig.send(if n % 2 == 0 { "alice" } else { "bob" }, &n.to_string()).await.unwrap();
    }
    let all = rig.all().await;
    assert_eq!(all.len(), 20);
    let lanes: BTreeSet<u64> = rig.journal.after(0, 100).iter().map(|message| message.lane).collect();
    assert_eq!(lanes, BTreeSet::from([rig.journal.lane("alice"), rig.journal.lane("bob")]));
    assert_eq!(
        rig.journal.after(all[4].0, 3).iter().map(|m| m.number).collect::<Vec<_>>(),
        [all[5].0, all[6].0, all[7].0]
    );
    assert_eq!(rig.journal.acknowledge([0..all[10].0, all[15].0..all[16].0]), 11);
    assert_eq!(rig.journal.acknowledge(std::iter::once(0..all[10].0)), 0, "they are gone already");
    rig.close().await;
    disk.cut_power(&mut fastrand::Rng::with_seed(1));
    let rig = Rig::open(&disk, options()).await;
    let expected: Vec<String> = (10..20).filter(|n| *n != 15).map(|n| n.to_string()).collect();
    assert_eq!(rig.texts().await, expected);
    assert_eq!((rig.metrics.events_waiting.get(), rig.metrics.event_bytes.get()), (9, 9 * (2 + 128)));
    let lanes: BTreeSet<u64> = rig.journal.after(0, 100).iter().map(|message| message.lane).collect();
    assert_eq!(lanes.len(), 2);
    // positions never come again
    let last = rig.all().await.last().unwrap().0;
    rig.send("alice", "new").await.unwrap();
    assert!(rig.all().await.last().unwrap().0 > last);
    rig.close().await;
}

#[tokio::test]
async fn an_acknowledged_message_survives_a_power_cut_at_any_moment() {
    let mut random = fastrand::Rng::with_seed(7);
    let disk = TestDisk::default();
    let mut must = Vec::<String>::new();
    let mut next = 0;
    for round in 0..30 {
        let memory_bytes = random.choice([0, 64 << 20]).unwrap();
        let rig = Rig::open(&disk, JournalOptions { memory_bytes, ..options() }).await;
        let found = rig.texts().await;
        let there: BTreeSet<&String> = found.iter().collect();
        let missing: Vec<_> = must.iter().filter(|text| !there.contains(text)).collect();
        assert!(missing.is_empty(), "gone in round {round}: {missing:?}");
        assert!(
            found.is_sorted_by_key(|text| text.split(':').next().unwrap().parse::<u64>().unwrap()),
            "round {round}"
        );
        must = found;
        for _ in 0..random.usize(1..40) {
            let message = format!("{next}:{}", "x".repeat(random.usize(0..3000)));
            next += 1;
            rig.send("alice", &message).await.unwrap();
            must.push(message);
        }
        let done = random.usize(0..must.len());
        if let Some((number, _)) = rig.all().await.get(done) {
            rig.journal.acknowledge(std::iter::once(0..*number));
            must.drain(..done);
        }
        if random.bool() {
            rig.close().await;
        } else {
            drop(rig);
        }
        disk.cut_power(&mut random);
    }
}

#[tokio::test]
async fn a_full_journal_refuses_and_loses_nothing_and_takes_again_what_there_is_room_for() {
    let disk = TestDisk::default();
    let rig = Rig::open(&disk, JournalOptions { max_bytes: 10 * (128 + 100), ..options() }).await;
    let message = "x".repeat(100);
    for _ in 0..10 {
        rig.send("alice", &message).await.unwrap();
    }
    let refused = rig.send("bob", "y").await.unwrap_err();
    assert!(matches!(refused, EventError::Busy(words) if words.contains("max_bytes")), "{refused}");
    let first = rig.all().await[0].0;
    assert_eq!(rig.journal.acknowledge(std::iter::once(0..first + 1)), 1);
    rig.send("bob", &message).await.unwrap();
    assert_eq!(rig.texts().await.len(), 10);
    let large = rig.send("bob", &"x".repeat(3000)).await.unwrap_err();
    assert_eq!(large, EventError::TooLarge { bytes: 3000, limit: 2280 });
    rig.close().await;
}

#[tokio::test]
async fn a_message_that_nobody_takes_does_not_keep_the_room_of_those_behind_it() {
    let disk = TestDisk::default();
    let rig = Rig::open(&disk, options()).await;
    rig.send("stuck", "the first").await.unwrap();
    let stuck = rig.all().await[0].0;
    for n in 0..1500 {
        rig.send("alice", &format!("{n}:{}", "x".repeat(1000))).await.unwrap();
        if n % 50 == 49 {
            let last = rig.all().await.last().unwrap().0;
            rig.journal.acknowledge(std::iter::once(stuck + 1..last + 1));
        }
    }
    rig.send("alice", "the last").await.unwrap();
    // 1.5 MB went through
    assert!(disk.used() < 20 * (64 << 10), "{} bytes are kept", disk.used());
    assert_eq!(rig.texts().await, ["the first", "the last"]);
    rig.close().await;
    disk.cut_power(&mut fastrand::Rng::with_seed(3));
    let rig = Rig::open(&disk, options()).await;
    assert_eq!(rig.texts().await, ["the first", "the last"]);
    assert_eq!(rig.all().await[0].0, stuck, "it keeps its position");
    rig.close().await;
}

#[tokio::test]
async fn a_disk_that_fails_refuses_messages_until_it_works_again() {
    let disk = TestDisk::default();
    let rig = Rig::open(&disk, options()).await;
    rig.send("alice", "before").await.unwrap();
    disk.fail(true);
    let refused = rig.send("alice", "lost?").await.unwrap_err();
    assert!(matches!(refused, EventError::Unavailable(_)), "{refused}");
    assert!(matches!(rig.send("alice", "lost?").await.unwrap_err(), EventError::Unavailable(_)));
    disk.fail(false);
    let mut tries = 0;
    while rig.send("alice", "after").await.is_err() {
        tries += 1;
        assert!(tries < 200, "it does not heal");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(rig.texts().await, ["before", "after"]);
    rig.close().await;
    let rig = Rig::open(&disk, options()).await;
    let texts = rig.texts().await;
    assert!(texts.contains(&"before".to_owned()) && texts.contains(&"after".to_owned()), "{texts:?}");
    rig.close().await;
}

#[tokio::test]
async fn a_full_disk_refuses_messages_until_there_is_room() {
    let disk = TestDisk::default();
    let rig = Rig::open(&disk, options()).await;
    disk.set_room(Some(disk.used()));
    let mut sent = 0;
    let refused = loop {
        match rig.send("alice", &"x".repeat(4000)).await {
            Ok(()) => sent += 1,
            Err(refused) => break refused,
        }
    };
    assert!(matches!(&refused, EventError::Unavailable(words) if words.contains("no room")), "{refused}");
    assert_eq!(rig.texts().await.len(), sent);
    disk.set_room(None);
    let mut tries = 0;
    while rig.send("alice", "after").await.is_err() {
        tries += 1;
        assert!(tries < 200, "it does not heal");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    rig.close().await;
}

#[tokio::test]
async fn messages_of_one_moment_are_synced_together() {
    let disk = TestDisk::default();
    let rig = Rig::open(&disk, options()).await;
    let before = disk.syncs();
    let waiting: Vec<_> = (0..500).map(|n| rig.journal.append("alice".into(), n.to_string().into())).collect();
    for outcome in futures_util::future::join_all(waiting).await {
        outcome.unwrap();
    }
    assert!(disk.syncs() - before < 50, "{} syncs", disk.syncs() - before);
    assert_eq!(rig.metrics.events.get_or_create(&EventOutcome::Accepted).get(), 500);
    assert_eq!(rig.texts().await.len(), 500);
    rig.close().await;
}

#[tokio::test]
async fn a_journal_that_nobody_needs_is_not_even_made() {
    let disk = TestDisk::default();
    let rig = Rig::open_at(&disk, options(), OpenJournal::WhenNeeded).await;
    assert!(disk.contents().is_empty());
    rig.close().await;
    assert!(disk.contents().is_empty());
    let rig = Rig::open_at(&disk, options(), OpenJournal::WhenNeeded).await;
    rig.send("alice", "the first").await.unwrap();
    assert_eq!(rig.texts().await, ["the first"]);
    rig.close().await;
    let rig = Rig::open_at(&disk, options(), OpenJournal::WhenNeeded).await;
    let mut arrived = rig.journal.watch();
    timeout(PATIENCE, arrived.changed()).await.unwrap().unwrap();
    assert_eq!(rig.texts().await, ["the first"]);
    rig.close().await;
}

#[tokio::test]
async fn damaged_messages_are_counted_and_passed_over() {
    let disk = TestDisk::default();
    let rig = Rig::open(&disk, JournalOptions { memory_bytes: 0, ..options() }).await;
    for n in 0..10 {
        rig.send("alice", &format!("message {n}")).await.unwrap();
    }
    drop(rig);
    disk.kill();
    let mut contents = disk.contents();
    for file in contents.values_mut() {
        if let Some(at) = file.windows(9).position(|bytes| bytes == b"message 4") {
            file[at] ^= 1;
        }
    }
    let disk = TestDisk::with(contents);
    let rig = Rig::open(&disk, options()).await;
    let texts = rig.texts().await;
    assert_eq!(texts.len(), 9, "{texts:?}");
    assert!(!texts.contains(&"message 4".to_owned()));
    eventually("the loss is counted", || rig.metrics.events.get_or_create(&EventOutcome::Lost).get() == 1).await;
    rig.close().await;
}
