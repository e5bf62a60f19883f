//! What the store promises, on a disk in memory that forgets what was not synced.

mod crash;

use std::{sync::Arc, time::Duration};

use tokio::time::timeout;

use super::{EmbeddedStore, limits::StoreLimits, open_on};
use crate::{
    config,
    lifecycle::{Deadline, Tasks},
    log::{LogOptions, tests::disk::TestDisk},
    push::{Address, Epoch, Push, Resume, StoredPush, StreamPage, Target, unix_millis},
    store::{
        Appended, Attached, Claim, Claimed, DeviceKey, NewPush, OpenStore, Reader, Store, StoreControl, StoreError,
        StoreState, StoredPushes,
    },
    telemetry::{
        Metrics,
        labels::{AppendOutcome, DropReason},
    },
};

const PATIENCE: Duration = Duration::from_secs(20);

/// Small, so that they change often.
const SEGMENTS: LogOptions = LogOptions { segment_bytes: 64 << 10 };

/// A store as one process has it.
struct Rig {
    store: Store,
    stored: StoredPushes,
    control: StoreControl,
    metrics: Arc<Metrics>,
    _tasks: Tasks,
}

fn limits() -> StoreLimits {
    StoreLimits::usual()
}

fn alice() -> Address {
    Address::Card("alice".into())
}

fn room(name: &str) -> Address {
    Address::Room(name.to_owned().into())
}

fn in_an_hour() -> u64 {
    unix_millis() + 3_600_000
}

/// A push that is kept for an hour.
fn to(address: &Address, content: &str) -> Push {
    let target = match address {
        Address::Card(card) => Target::cards(vec![card.clone()]),
        Address::Room(room) => Target { room: Some(room.clone()), ..Target::default() },
    };
    Push { target, deadline: Some(in_an_hour()), ..Push::to("", content) }
}

const PHONE: DeviceKey<'static> = DeviceKey::Declared("phone");

/// The seam's methods that are async there.
#[allow(unreachable_patterns)]
fn embedded(store: &Store) -> &EmbeddedStore {
    match store {
        Store::Embedded(store) => store,
        _ => panic!("it is the embedded one"),
    }
}

impl Rig {
    async fn open(disk: &TestDisk, limits: StoreLimits) -> Self {
        Self::open_in(disk, limits, [1; 16]).await
    }

    /// In a run of the machine.
    async fn open_in(disk: &TestDisk, limits: StoreLimits, boot: [u8; 16]) -> Self {
        let (tasks, _deaths) = Tasks::new();
        let metrics = Arc::new(Metrics::new());
        let powered = disk.powered();
        let opened = open_on(move || Ok(powered), SEGMENTS, limits, Some(boot), &tasks, &metrics).await.unwrap();
        let OpenStore { store, stored, control } = opened;
        Self { store, stored, control, metrics, _tasks: tasks }
    }

    async fn append(&self, push: Push) -> Result<Appended, StoreError> {
        self.append_new(NewPush { push, claim: None }).await
    }

    async fn append_new(&self, new: NewPush) -> Result<Appended, StoreError> {
        timeout(PATIENCE, self.store.append(new)?).await.unwrap()
    }

    fn embedded(&self) -> &EmbeddedStore {
        embedded(&self.store)
    }

    /// A page of all that is behind `after`.
    fn page(&self, address: &Address, after: u64) -> StreamPage {
        let epoch = self.epoch(address);
        self.embedded().read(address, epoch, after, 10_000, usize::MAX).unwrap().unwrap()
    }

    fn epoch(&self, address: &Address) -> Epoch {
        self.embedded().head(address).unwrap().epoch
    }

    /// What is behind `after`: seq and content.
    fn texts(&self, address: &Address, after: u64) -> Vec<(u64, String)> {
        let page = self.page(address, after);
        page.entries.iter().map(|entry| (entry.seq, text(&entry.push))).collect()
    }

    fn drops(&self, reason: DropReason) -> u64 {
        self.metrics.drops.get_or_create(&reason).get()
    }

    async fn close(self) {
        self.control.close(Deadline::after(PATIENCE)).await;
    }
}

fn text(push: &Push) -> String {
    String::from_utf8(push.content.bytes().to_vec()).unwrap()
}

fn at(attached: Attached) -> (u64, u64, u64, bool) {
    match attached {
        Attached::At { head, from, waiting, reset } => (head.seq, from, waiting, reset),
        Attached::NoStream => panic!("there is no stream"),
    }
}

#[tokio::test]
async fn a_stored_push_is_numbered_told_to_dispatch_and_read_after_a_restart() {
    let disk = TestDisk::default();
    let mut rig = Rig::open(&disk, limits()).await;
    let mut pushes = Vec::new();
    for n in 0..5 {
        let push = to(&alice(), &n.to_string());
        assert_eq!(rig.append(push.clone()).await, Ok(Appended::New { id: push.id, wake: None }));
        pushes.push(push);
    }
    let epoch = rig.epoch(&alice());
    for (n, push) in pushes.iter().enumerate() {
        let StoredPush { push: told, entries } = rig.stored.bundles.next().await.unwrap();
        assert_eq!(&told, push);
        let entry = entries[0];
        assert_eq!((entry.epoch, entry.seq, entry.previous), (epoch, n as u64 + 1, n as u64));
        assert_eq!(entry.previous_id, n.checked_sub(1).map_or(crate::push::PushId::NIL, |before| pushes[before].id));
    }
    let page = rig.page(&alice(), 2);
    assert_eq!((page.after, page.end, page.end_id, page.head), (2, 5, pushes[4].id, 5));
    assert_eq!(page.entries.iter().map(|entry| entry.push.clone()).collect::<Vec<_>>(), pushes[2..]);
    let page = rig.embedded().read(&alice(), epoch, 0, 2, usize::MAX).unwrap().unwrap();
    assert_eq!((page.entries.len(), page.end, page.end_id, page.head), (2, 2, pushes[1].id, 5));
    let page = rig.embedded().read(&alice(), epoch, 0, 100, 1).unwrap().unwrap();
    assert_eq!((page.entries.len(), page.end), (1, 1), "one at least");
    assert_eq!(rig.embedded().read(&alice(), Epoch::from_u32(1), 0, 2, 100).unwrap(), None);
    assert_eq!(rig.embedded().read(&room("alice"), epoch, 0, 2, 100).unwrap(), None);
    rig.close().await;
    disk.cut_power(&mut fastrand::Rng::with_seed(1));
    let rig = Rig::open(&disk, limits()).await;
    let page = rig.page(&alice(), 0);
    assert_eq!((page.epoch, page.end, page.head), (epoch, 5, 5));
    assert_eq!(page.entries.into_iter().map(|entry| entry.push).collect::<Vec<_>>(), pushes);
    assert_eq!((rig.metrics.store_entries.get(), rig.metrics.store_streams.get()), (5, 1));
    rig.append(to(&alice(), "next")).await.unwrap();
    assert_eq!(rig.texts(&alice(), 5), [(6, "next".to_owned())]);
    rig.close().await;
}

#[tokio::test]
async fn a_push_to_many_cards_is_in_the_stream_of_each_and_to_a_room_in_its_own() {
    let disk = TestDisk::default();
    let mut rig = Rig::open(&disk, limits()).await;
    let cards: Vec<_> = (0..100).map(|n| format!("card-{n}").into()).collect();
    rig.append(to(&Address::Card("card-7".into()), "before")).await.unwrap();
    let push = Push { target: Target::cards(cards.clone()), ..to(&alice(), "all") };
    rig.append(push).await.unwrap();
    rig.append(to(&room("news"), "history")).await.unwrap();
    let _ = rig.stored.bundles.next().await;
    let told = rig.stored.bundles.next().await.unwrap();
    assert_eq!(told.entries.len(), 100);
    assert_eq!((told.entries[7].seq, told.entries[7].previous, told.entries[8].seq), (2, 1, 1));
    let changed = rig.embedded().take_changes(1000);
    assert_eq!(changed.len(), 101);
    assert!(rig.embedded().take_changes(1000).is_empty());
    rig.close().await;
    let rig = Rig::open(&disk, limits()).await;
    for card in cards {
        assert_eq!(rig.texts(&Address::Card(card), 0).last().unwrap().1, "all");
    }
    assert_eq!(rig.texts(&room("news"), 0), [(1, "history".to_owned())]);
    rig.close().await;
}

#[tokio::test]
async fn a_reader_begins_where_it_was_and_a_new_one_where_the_configuration_says() {
    let disk = TestDisk::default();
    let rig = Rig::open(&disk, limits()).await;
    let attach = |store: &Store, device| embedded(store).attach(&alice(), Reader::Device(device, None)).unwrap();
    assert_eq!(attach(&rig.store, PHONE), Attached::NoStream);
    for n in 1..=5 {
        rig.append(to(&alice(), &n.to_string())).await.unwrap();
    }
    assert_eq!(at(attach(&rig.store, DeviceKey::App("web"))), (5, 0, 5, false), "the first one gets all");
    assert_eq!(at(attach(&rig.store, DeviceKey::App("tv"))), (5, 5, 0, false), "another app begins at the head");
    assert_eq!(at(attach(&rig.store, PHONE)), (5, 0, 5, false), "a declared device gets all");
    let epoch = rig.embedded().head(&alice()).unwrap().epoch;
    rig.store.ack("alice", PHONE, epoch, 3);
    rig.store.ack("alice", PHONE, epoch, 2);
    rig.store.ack("alice", PHONE, crate::push::Epoch::from_u32(epoch.to_u32().wrapping_add(1)), 4);
    rig.store.ack("alice", DeviceKey::App("web"), epoch, 99);
    assert_eq!(at(attach(&rig.store, PHONE)), (5, 3, 2, false));
    assert_eq!(at(attach(&rig.store, DeviceKey::App("web"))), (5, 5, 0, false), "nobody has what was never there");
    rig.close().await;
    let rig = Rig::open(&disk, limits()).await;
    assert_eq!(at(attach(&rig.store, PHONE)), (5, 3, 2, false), "cursors outlast a restart");
    let info = rig.embedded().describe(&alice()).unwrap();
    assert_eq!((info.first, info.entries, info.devices.len(), info.head.seq), (1, 5, 3, 5));
    assert_eq!(rig.store.forget_device("alice", PHONE).await, Ok(true));
    assert_eq!(rig.store.forget_device("alice", PHONE).await, Ok(false));
    rig.close().await;
    let rig = Rig::open(&disk, limits()).await;
    assert_eq!(rig.embedded().describe(&alice()).unwrap().devices.len(), 2);
    rig.close().await;
}

#[tokio::test]
async fn a_resume_that_does_not_hold_is_told_and_one_that_holds_goes_before_the_cursor() {
    let disk = TestDisk::default();
    let rig = Rig::open(&disk, limits()).await;
    let mut ids = Vec::new();
    for n in 1..=5 {
        let push = to(&room("news"), &n.to_string());
        ids.push(push.id);
        rig.append(push).await.unwrap();
    }
    let epoch = rig.epoch(&room("news"));
    let resume = |epoch, seq, id| {
        at(rig.embedded().attach(&room("news"), Reader::Room(Some(Resume { epoch, seq, id }))).unwrap())
    };
    assert_eq!(at(rig.embedded().attach(&room("news"), Reader::Room(None)).unwrap()), (5, 5, 0, false));
    assert_eq!(resume(epoch, 3, None), (5, 3, 2, false));
    assert_eq!(resume(epoch, 3, Some(ids[2])), (5, 3, 2, false));
    assert_eq!(resume(epoch, 5, Some(ids[4])), (5, 5, 0, false));
    assert_eq!(resume(epoch, 0, None), (5, 0, 5, false));
    let other = Epoch::from_u32(epoch.to_u32() ^ 1);
    assert_eq!(resume(other, 3, None), (5, 0, 5, true), "another epoch");
    assert_eq!(resume(other, 3, Some(ids[2])), (5, 3, 2, true), "another epoch, and the same push there");
    assert_eq!(resume(epoch, 6, None), (5, 0, 5, true), "the future");
    assert_eq!(resume(epoch, 3, Some(ids[1])), (5, 0, 5, true), "another push stands there");
    assert_eq!(resume(epoch, 5, Some(ids[1])), (5, 0, 5, true), "another push stands there");
    rig.append(to(&alice(), "1")).await.unwrap();
    rig.append(to(&alice(), "2")).await.unwrap();
    let of_card = |resume| at(rig.embedded().attach(&alice(), Reader::Device(PHONE, resume)).unwrap());
    assert_eq!(of_card(None), (2, 0, 2, false));
    let epoch = rig.epoch(&alice());
    assert_eq!(of_card(Some(Resume { epoch, seq: 1, id: None })), (2, 1, 1, false));
    assert_eq!(of_card(Some(Resume { epoch, seq: 7, id: None })), (2, 0, 2, true), "from its cursor");
    rig.close().await;
}

#[tokio::test]
async fn devices_are_bounded_in_number_and_one_that_was_away_makes_room() {
    let disk = TestDisk::default();
    let rig = Rig::open(&disk, StoreLimits { max_devices: 2, device_idle: 2, ..limits() }).await;
    rig.append(to(&alice(), "1")).await.unwrap();
    let attach = |name: &str| rig.embedded().attach(&alice(), Reader::Device(DeviceKey::Declared(name), None));
    attach("a").unwrap();
    attach("b").unwrap();
    let refused = (0..10_000).map(|n| attach(&format!("more-{n}"))).filter(Result::is_err).count();
    assert_eq!(refused, 10_000);
    tokio::time::sleep(Duration::from_millis(3100)).await;
    assert_eq!(at(attach("c").unwrap()), (1, 0, 1, false));
    assert!(rig.embedded().describe(&alice()).unwrap().devices.len() <= 2);
    rig.close().await;
}

#[tokio::test]
async fn a_newer_push_of_a_collapse_key_takes_the_place_of_an_older_one_that_waits() {
    let disk = TestDisk::default();
    let rig = Rig::open(&disk, limits()).await;
    let with = |key: &str, content: &str| Push { collapse_key: Some(key.to_owned().into()), ..to(&alice(), content) };
    for push in [with("a", "1"), with("b", "2"), to(&alice(), "3"), with("a", "4"), with("a", "5")] {
        rig.append(push).await.unwrap();
    }
    let expected = [(2, "2"), (3, "3"), (5, "5")].map(|(seq, text)| (seq, text.to_owned()));
    assert_eq!(rig.texts(&alice(), 0), expected);
    rig.close().await;
    let rig = Rig::open(&disk, limits()).await;
    assert_eq!(rig.texts(&alice(), 0), expected);
    assert_eq!(rig.page(&alice(), 0).end, 5);
    rig.close().await;
}

#[tokio::test]
async fn an_expired_push_is_not_read_and_leaves_counted() {
    let disk = TestDisk::default();
    let rig = Rig::open(&disk, limits()).await;
    rig.append(Push { deadline: Some(unix_millis() + 300), ..to(&alice(), "short") }).await.unwrap();
    rig.append(to(&alice(), "long")).await.unwrap();
    assert_eq!(rig.texts(&alice(), 0).len(), 2);
    tokio::time::sleep(Duration::from_millis(350)).await;
    assert_eq!(rig.texts(&alice(), 0), [(2, "long".to_owned())]);
    eventually("it has left", || rig.metrics.store_entries.get() == 1).await;
    eventually("it is counted", || rig.drops(DropReason::Expired) == 1).await;
    rig.close().await;
    let rig = Rig::open(&disk, limits()).await;
    assert_eq!(rig.texts(&alice(), 0), [(2, "long".to_owned())]);
    rig.close().await;
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
async fn what_is_deleted_stays_deleted_and_a_deleted_stream_begins_in_another_epoch() {
    let disk = TestDisk::default();
    let rig = Rig::open(&disk, limits()).await;
    for n in 1..=3 {
        rig.append(to(&alice(), &n.to_string())).await.unwrap();
        rig.append(to(&room("news"), &n.to_string())).await.unwrap();
    }
    assert_eq!(rig.store.delete_entry(&alice(), 2).await, Ok(true));
    assert_eq!(rig.store.delete_entry(&alice(), 2).await, Ok(false));
    assert_eq!(rig.store.delete_entry(&alice(), 9).await, Ok(false));
    assert_eq!(rig.store.delete_entry(&alice(), 0).await, Ok(false));
    let epoch = rig.epoch(&room("news"));
    assert_eq!(rig.store.delete_stream(&room("news")).await, Ok(true));
    assert_eq!(rig.store.delete_stream(&room("news")).await, Ok(false));
    assert_eq!(rig.embedded().head(&room("news")), None);
    rig.close().await;
    let rig = Rig::open(&disk, limits()).await;
    let expected = [(1, "1".to_owned()), (3, "3".to_owned())];
    assert_eq!(rig.texts(&alice(), 0), expected);
    assert_eq!(rig.embedded().head(&room("news")), None);
    rig.append(to(&room("news"), "new")).await.unwrap();
    assert_ne!(rig.epoch(&room("news")), epoch);
    rig.close().await;
    let rig = Rig::open(&disk, limits()).await;
    assert_eq!(rig.texts(&room("news"), 0), [(1, "new".to_owned())]);
    rig.close().await;
}

#[tokio::test]
async fn the_bounds_of_a_stream_push_its_oldest_out_and_those_of_the_store_the_oldest_of_all() {
    let disk = TestDisk::default();
    let mut few = limits();
    few.stream.max_entries = 3;
    let rig = Rig::open(&disk, few).await;
    for n in 1..=5 {
        rig.append(to(&alice(), &n.to_string())).await.unwrap();
    }
    assert_eq!(rig.texts(&alice(), 0).iter().map(|(seq, _)| *seq).collect::<Vec<_>>(), [3, 4, 5]);
    assert_eq!(rig.drops(DropReason::PushedOut), 2);
    rig.close().await;
    // all together: 100 streams of one push, room for about 30
    let disk = TestDisk::default();
    let rig = Rig::open(&disk, StoreLimits { max_bytes: 64 << 10, ..limits() }).await;
    for n in 0..100 {
        rig.append(to(&Address::Card(format!("c{n}").into()), &"x".repeat(2000))).await.unwrap();
    }
    let bytes = || rig.metrics.store_bytes.get();
    eventually("the oldest have left", || bytes() <= 64 << 10).await;
    let left = rig.metrics.store_entries.get() as u64;
    assert!((25..=32).contains(&left), "{left}");
    assert_eq!(rig.drops(DropReason::PushedOut), 100 - left);
    assert_eq!(rig.texts(&Address::Card("c99".into()), 0).len(), 1);
    assert_eq!(rig.texts(&Address::Card("c0".into()), 0).len(), 0);
    rig.close().await;
    let rig = Rig::open(&disk, StoreLimits { max_streams: 100, ..limits() }).await;
    let refused = rig.append(to(&Address::Card("one more".into()), "x")).await;
    assert!(matches!(refused, Err(StoreError::Full(_))), "{refused:?}");
    rig.append(to(&Address::Card("c1".into()), "x")).await.unwrap();
    rig.close().await;
}

fn claim(key: u8, body: u64) -> Claim {
    Claim { key: [key; 16], body, deadline: in_an_hour() }
}

#[tokio::test]
async fn an_idempotency_key_makes_one_push_of_its_retries_even_over_a_restart() {
    let disk = TestDisk::default();
    let rig = Rig::open(&disk, limits()).await;
    let new = |content: &str, claim| NewPush { push: to(&alice(), content), claim: Some(claim) };
    let first = new("1", claim(1, 7));
    let id = first.push.id;
    // at once: one is stored, the other gets its outcome
    let both = rig.store.append_all(vec![first, new("1", claim(1, 7))]);
    let mut outcomes = Vec::new();
    for one in both {
        outcomes.push(one.unwrap().await);
    }
    assert_eq!(outcomes, [Ok(Appended::New { id, wake: None }), Ok(Appended::Before(id))]);
    assert_eq!(rig.append_new(new("1", claim(1, 7))).await, Ok(Appended::Before(id)));
    assert_eq!(rig.append_new(new("2", claim(1, 8))).await, Err(StoreError::OtherBody));
    // a live push
    let live = Push::to("alice", "live").id;
    assert_eq!(rig.store.claim(live, claim(2, 1)).unwrap().await, Ok(Claimed::New));
    let retry = Push::to("alice", "live").id;
    assert_eq!(rig.store.claim(retry, claim(2, 1)).unwrap().await, Ok(Claimed::Pending(live)));
    assert_eq!(rig.store.claim(retry, claim(2, 2)).err(), Some(StoreError::OtherBody));
    rig.close().await;
    let rig = Rig::open(&disk, limits()).await;
    assert_eq!(rig.append_new(new("1", claim(1, 7))).await, Ok(Appended::Before(id)));
    assert_eq!(rig.store.claim(retry, claim(2, 1)).unwrap().await, Ok(Claimed::Pending(live)));
    rig.store.fulfil([2; 16]);
    assert_eq!(rig.store.claim(retry, claim(2, 1)).unwrap().await, Ok(Claimed::Done(live)));
    rig.close().await;
    let rig = Rig::open(&disk, StoreLimits { max_claims: 2, ..limits() }).await;
    assert_eq!(rig.store.claim(retry, claim(2, 1)).unwrap().await, Ok(Claimed::Done(live)));
    assert!(matches!(rig.store.claim(retry, claim(3, 1)).err(), Some(StoreError::Full(_))));
    assert_eq!(rig.texts(&alice(), 0).len(), 1);
    rig.close().await;
    let rig = Rig::open(&disk, limits()).await;
    let brief = Claim { deadline: unix_millis() + 50, ..claim(9, 1) };
    let first = new("brief", brief);
    rig.append_new(first).await.unwrap();
    tokio::time::sleep(Duration::from_millis(60)).await;
    let again = rig.append_new(new("brief", claim(9, 5))).await;
    assert!(matches!(again, Ok(Appended::New { .. })), "its time is over: {again:?}");
    rig.close().await;
}

#[tokio::test]
async fn revocations_outlast_a_restart() {
    let disk = TestDisk::default();
    let rig = Rig::open(&disk, limits()).await;
    let now = unix_millis() / 1000;
    rig.store.revoke("mallory", now).await.unwrap();
    rig.store.revoke("trudy", now - 5).await.unwrap();
    rig.store.revoke("trudy", now - 9).await.unwrap();
    rig.close().await;
    disk.cut_power(&mut fastrand::Rng::with_seed(2));
    let rig = Rig::open(&disk, limits()).await;
    assert_eq!(rig.embedded().revocations(), [("mallory".into(), now), ("trudy".into(), now - 5)]);
    rig.close().await;
    let rig = Rig::open(&disk, StoreLimits { max_revocations: 1, ..limits() }).await;
    assert_eq!(rig.embedded().revocations().len(), 1);
    rig.close().await;
}

#[tokio::test]
async fn what_finds_no_room_is_refused_by_name_and_counted() {
    let disk = TestDisk::default();
    let rig = Rig::open(&disk, StoreLimits { max_appends: 2, memory_bytes: 4096, ..limits() }).await;
    let large = rig.append(to(&alice(), &"x".repeat(5000))).await;
    assert!(matches!(large, Err(StoreError::TooLarge { limit: 4096, .. })), "{large:?}");
    let pushes = (0..3).map(|n| NewPush { push: to(&alice(), &n.to_string()), claim: None }).collect();
    let outcomes = rig.store.append_all(pushes);
    assert_eq!(outcomes.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, true, false]);
    for one in outcomes.into_iter().flatten() {
        one.await.unwrap();
    }
    let pushes = (0..2).map(|_| NewPush { push: to(&alice(), &"x".repeat(3000)), claim: None }).collect();
    let outcomes = rig.store.append_all(pushes);
    assert_eq!(outcomes.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, false]);
    assert_eq!(rig.metrics.store_appends.get_or_create(&AppendOutcome::Refused).get(), 3);
    rig.close().await;
}
