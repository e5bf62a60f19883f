//! What a store promises, in words of the seam alone: `store_contract!(Backend)` makes each promise a test of that backend.

use std::{collections::BTreeSet, future::Future, sync::Arc, time::Duration};

use oxipush::internals::{
    config,
    lifecycle::{Deadline, Died, Tasks},
    push::{Address, Content, Epoch, PagePlace, Push, PushId, Resume, StreamPage, StreamPosition, Target, unix_millis},
    redis_client::RedisClient,
    store::{
        self, Appended, AttachError, Attached, Claim, Claimed, DeviceKey, NewPush, OpenStore, Reader, Store,
        StoreControl, StoreError, StoreState, StreamChanges,
    },
    telemetry::Metrics,
};
use tokio::{sync::mpsc, time::timeout};

/// How long what must come may take on a slow machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Pairs of `SECTION__KEY` and value.
pub type Settings = Vec<(&'static str, String)>;

/// A backend: what holds the pushes when no store is open.
pub trait Backend: Sized + Send + Sync {
    /// An empty one.
    fn start() -> impl Future<Output = Self> + Send;

    /// How its store is configured.
    fn settings(&self) -> Settings;

    /// What a gateway leaves behind that died after its pushes were stored and before their idempotency keys were told so. Nothing
    /// where that is one write.
    fn forget_that_keys_are_done(&self) {}
}

/// An open store and what it needs.
pub struct Open {
    pub store: Store,
    pub control: StoreControl,
    pub metrics: Arc<Metrics>,
    tasks: Tasks,
    deaths: mpsc::UnboundedReceiver<Died>,
}

/// Opens a store with more `settings` and waits until it is ready.
pub async fn open<B: Backend>(backend: &B, settings: &[(&'static str, &str)]) -> Open {
    let more = settings.iter().map(|&(key, value)| (key, value.to_owned()));
    open_with(backend.settings().into_iter().chain(more).collect()).await
}

pub async fn open_with(settings: Settings) -> Open {
    let settings = settings.into_iter().map(|(key, value)| (format!("OXIPUSH__{key}"), value));
    let config = config::load(None, settings).unwrap();
    let (tasks, deaths) = Tasks::new();
    let metrics = Arc::new(Metrics::new());
    let redis = if config.redis.urls.is_empty() {
        None
    } else {
        Some(RedisClient::start(&config.redis, &tasks, &metrics).await.unwrap())
    };
    let opened = store::open(&config, redis.as_ref(), &tasks, &metrics).await.unwrap().expect("a store");
    let OpenStore { store, control, .. } = opened;
    let open = Open { store, control, metrics, tasks, deaths };
    open.ready().await;
    open
}

pub fn card(name: &str) -> Address {
    Address::Card(name.to_owned().into())
}

pub fn room(name: &str) -> Address {
    Address::Room(name.to_owned().into())
}

/// A push that is kept for an hour.
pub fn to(address: &Address, content: &str) -> Push {
    let target = match address {
        Address::Card(card) => Target::cards(vec![card.clone()]),
        Address::Room(room) => Target { room: Some(room.clone()), ..Target::default() },
    };
    Push {
        id: PushId::generate(),
        from: "contract".into(),
        target,
        content: Content::Text(content.to_owned().into()),
        collapse_key: None,
        deadline: Some(unix_millis() + 3_600_000),
    }
}

pub fn text(push: &Push) -> String {
    String::from_utf8(push.content.bytes().to_vec()).unwrap()
}

pub const PHONE: DeviceKey<'static> = DeviceKey::Declared("phone");
pub const TABLET: DeviceKey<'static> = DeviceKey::Declared("tablet");

/// Head, where the reader begins, how many wait, whether its resume did not hold.
pub fn at(attached: Attached) -> (u64, u64, u64, bool) {
    match attached {
        Attached::At { head, from, waiting, reset } => (head.seq, from, waiting, reset),
        Attached::NoStream => panic!("there is no stream"),
    }
}

impl Open {
    pub async fn ready(&self) {
        let mut state = self.control.state();
        let ready =
            timeout(PATIENCE, state.wait_for(|state| *state == StoreState::Ready)).await.map(|state| state.is_ok());
        assert_eq!(ready, Ok(true), "{:?}", *self.control.state().borrow());
    }

    /// Waits until the store answers, whatever it was told before.
    pub async fn answers(&self) {
        let answered = async {
            while self.store.head(&card("anybody"), None).await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(PATIENCE, answered).await.expect("the store answers");
    }

    pub async fn append(&self, push: Push) -> Result<Appended, StoreError> {
        self.append_new(NewPush { push, claim: None }).await
    }

    pub async fn append_new(&self, new: NewPush) -> Result<Appended, StoreError> {
        timeout(PATIENCE, self.store.append(new)?).await.unwrap()
    }

    /// Stores texts, one after the other.
    pub async fn store_all(&self, address: &Address, texts: &[&str]) {
        for text in texts {
            self.append(to(address, text)).await.unwrap();
        }
    }

    pub async fn head(&self, address: &Address) -> StreamPosition {
        self.store.head(address, None).await.unwrap().expect("a stream")
    }

    pub async fn page(
        &self,
        address: &Address,
        epoch: Epoch,
        after: u64,
        entries: usize,
        bytes: usize,
    ) -> Option<StreamPage> {
        let place = PagePlace { address: address.clone(), epoch, after };
        let mut pages = self.store.read_pages(vec![place], entries, bytes).await;
        pages.pop().unwrap().1.unwrap()
    }

    /// What is behind `after`: seq and content.
    pub async fn texts(&self, address: &Address, after: u64) -> Vec<(u64, String)> {
        let epoch = self.head(address).await.epoch;
        let page = self.page(address, epoch, after, 100_000, usize::MAX >> 1).await.unwrap();
        page.entries.iter().map(|entry| (entry.seq, text(&entry.push))).collect()
    }

    pub async fn attach(&self, address: &Address, reader: Reader<'_>) -> Result<Attached, AttachError> {
        self.store.attach(address, reader).await
    }

    /// Waits until a device's cursor is there.
    pub async fn acknowledged(&self, card: &Address, device: &str, seq: u64) {
        let wait = async {
            loop {
                let info = self.store.describe(card).await.unwrap().unwrap();
                if info.devices.iter().any(|known| *known.name == *device && known.seq == seq) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(PATIENCE, wait).await.expect("the cursor moves");
    }

    pub async fn changes(&self) -> Vec<(Address, StreamPosition)> {
        match self.store.take_changes(1000, |_| true).await.unwrap() {
            StreamChanges::Some(changes) => changes,
            StreamChanges::Unknown => panic!("each stream may have changed"),
        }
    }

    pub async fn close(mut self) {
        self.control.close(Deadline::after(PATIENCE)).await;
        assert!(self.tasks.stop(PATIENCE).await, "tasks remain");
        assert_eq!(self.deaths.try_recv().ok(), None, "a task died");
    }
}

pub async fn what_was_stored_is_read_in_order_after_the_store_was_opened_again<B: Backend>() {
    let backend = B::start().await;
    let before = open(&backend, &[]).await;
    let alice = card("alice");
    before.store_all(&alice, &["one", "two", "three"]).await;
    let head = before.head(&alice).await;
    assert_eq!(head.seq, 3);
    before.close().await;
    let after = open(&backend, &[]).await;
    assert_eq!(after.head(&alice).await, head);
    assert_eq!(after.texts(&alice, 1).await, [(2, "two".into()), (3, "three".into())]);
    after.append(to(&alice, "four")).await.unwrap();
    assert_eq!(after.texts(&alice, 3).await, [(4, "four".into())]);
    assert_eq!(after.head(&alice).await.epoch, head.epoch);
    assert_eq!(after.store.head(&card("nobody"), None).await, Ok(None));
    after.close().await;
}

pub async fn pushes_that_come_together_keep_their_order_in_each_stream<B: Backend>() {
    let backend = B::start().await;
    let open = open(&backend, &[]).await;
    let names: Vec<String> = (0..10).map(|n| format!("card-{n}")).collect();
    let pushes = (0..500).map(|n| NewPush { push: to(&card(&names[n % 10]), &n.to_string()), claim: None }).collect();
    for outcome in open.store.append_all(pushes) {
        assert!(matches!(outcome.unwrap().await.unwrap(), Appended::New { .. }));
    }
    for (nth, name) in names.iter().enumerate() {
        let texts: Vec<_> = open.texts(&card(name), 0).await.into_iter().map(|(_, text)| text).collect();
        let sent: Vec<_> = (0..50).map(|round| (round * 10 + nth).to_string()).collect();
        assert_eq!(texts, sent);
    }
    open.close().await;
}

pub async fn a_push_to_many_cards_stands_in_each_of_their_streams<B: Backend>() {
    let backend = B::start().await;
    let open = open(&backend, &[]).await;
    open.store_all(&card("b"), &["before"]).await;
    let mut push = to(&card("a"), "all");
    push.target.cards = vec!["a".into(), "b".into(), "c".into()];
    push.target.app = Some("web".into());
    let outcome = open.append(push.clone()).await.unwrap();
    let Appended::New { id, wake } = outcome else { panic!("{outcome:?}") };
    assert_eq!(id, push.id);
    for (name, seq) in [("a", 1), ("b", 2), ("c", 1)] {
        let head = open.head(&card(name)).await;
        assert_eq!((head.seq, head.id), (seq, push.id), "{name}");
        let page = open.page(&card(name), head.epoch, seq - 1, 10, 10_000).await.unwrap();
        let read = &page.entries[0].push;
        assert_eq!((read.id, &read.from, &read.target.app), (push.id, &push.from, &push.target.app));
    }
    if let Some(wake) = wake {
        // what other nodes are told has a place for each card, behind what stood there before
        let places: Vec<_> = wake.entries.iter().map(|entry| (entry.seq, entry.previous)).collect();
        assert_eq!(places, [(1, 0), (2, 1), (1, 0)]);
        assert_eq!(wake.entries[1].epoch, open.head(&card("b")).await.epoch);
        assert_eq!(wake.push, push);
    }
    open.close().await;
}

pub async fn a_retry_under_its_idempotency_key_is_found_and_another_push_is_refused<B: Backend>() {
    let backend = B::start().await;
    let before = open(&backend, &[]).await;
    let alice = card("alice");
    let claim = Claim { key: *b"0123456789\0\r\n{}x", body: 7, deadline: unix_millis() + 3_600_000 };
    let first = to(&alice, "one");
    let outcome = before.append_new(NewPush { push: first.clone(), claim: Some(claim) }).await.unwrap();
    assert!(matches!(outcome, Appended::New { id, .. } if id == first.id));
    before.close().await;
    let after = open(&backend, &[]).await;
    let retry = |body| NewPush { push: to(&alice, "one"), claim: Some(Claim { body, ..claim }) };
    let is_known = async {
        // that it is stored may be told a moment later: until then the retry goes on under the first one's id
        match after.append_new(retry(7)).await.unwrap() {
            Appended::Before(id) | Appended::New { id, .. } => assert_eq!(id, first.id),
        }
    };
    is_known.await;
    assert_eq!(after.append_new(retry(8)).await.unwrap_err(), StoreError::OtherBody);
    assert_eq!(after.texts(&alice, 0).await, [(1, "one".into())], "it is stored once");
    // what was claimed for a time is free after it
    let short = Claim { key: *b"fedcba9876543210", body: 1, deadline: unix_millis() + 50 };
    after.append_new(NewPush { push: to(&alice, "two"), claim: Some(short) }).await.unwrap();
    tokio::time::sleep(Duration::from_millis(60)).await;
    let again = Claim { deadline: unix_millis() + 1000, body: 2, ..short };
    assert!(matches!(
        after.append_new(NewPush { push: to(&alice, "three"), claim: Some(again) }).await.unwrap(),
        Appended::New { .. }
    ));
    after.close().await;
}

pub async fn a_live_push_claims_its_key_until_the_queue_has_it<B: Backend>() {
    let backend = B::start().await;
    let open = open(&backend, &[]).await;
    let claim = Claim { key: [3; 16], body: 7, deadline: unix_millis() + 3_600_000 };
    let (first, second) = (PushId::generate(), PushId::generate());
    assert_eq!(open.store.claim(first, claim).unwrap().await, Ok(Claimed::New));
    assert_eq!(open.store.claim(second, claim).unwrap().await, Ok(Claimed::Pending(first)));
    open.store.fulfil(claim.key);
    let done = async {
        while open.store.claim(second, claim).unwrap().await != Ok(Claimed::Done(first)) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, done).await.expect("it is told");
    let other = match open.store.claim(second, Claim { body: 8, ..claim }) {
        Ok(outcome) => outcome.await,
        Err(error) => Err(error),
    };
    assert_eq!(other, Err(StoreError::OtherBody));
    open.close().await;
}

pub async fn a_device_begins_at_the_oldest_push_and_goes_on_where_it_acknowledged<B: Backend>() {
    let backend = B::start().await;
    let before = open(&backend, &[]).await;
    let alice = card("alice");
    let phone = Reader::Device(PHONE, None);
    assert_eq!(before.attach(&alice, phone).await, Ok(Attached::NoStream));
    before.store_all(&alice, &["one", "two", "three"]).await;
    let epoch = before.head(&alice).await.epoch;
    assert_eq!(at(before.attach(&alice, phone).await.unwrap()), (3, 0, 3, false));
    before.store.ack("alice", PHONE, epoch, 2);
    before.store.ack("alice", PHONE, epoch, 1);
    before.acknowledged(&alice, "phone", 2).await;
    assert_eq!(at(before.attach(&alice, phone).await.unwrap()), (3, 2, 1, false), "it only moves forward");
    before.store.ack("alice", PHONE, Epoch::from_u32(epoch.to_u32() ^ 1), 3);
    before.store.register("alice", TABLET, 1);
    before.acknowledged(&alice, "tablet", 1).await;
    before.close().await;
    let after = open(&backend, &[]).await;
    assert_eq!(at(after.attach(&alice, phone).await.unwrap()), (3, 2, 1, false), "of another epoch it says nothing");
    assert_eq!(at(after.attach(&alice, Reader::Device(TABLET, None)).await.unwrap()), (3, 1, 2, false));
    // who comes later begins where [store] new_device and new_app say
    assert_eq!(at(after.attach(&alice, Reader::Device(DeviceKey::Declared("new"), None)).await.unwrap()).1, 0);
    assert_eq!(at(after.attach(&alice, Reader::Device(DeviceKey::App("phone"), None)).await.unwrap()).1, 3);
    // a close writes what was acknowledged a moment before
    after.store.ack("alice", PHONE, epoch, 3);
    after.close().await;
    let last = open(&backend, &[]).await;
    assert_eq!(at(last.attach(&alice, phone).await.unwrap()), (3, 3, 0, false));
    last.close().await;
}

pub async fn of_many_that_wait_each_counts<B: Backend>() {
    let backend = B::start().await;
    let open = open(&backend, &[]).await;
    let alice = card("alice");
    let pushes = (0..400).map(|n| NewPush { push: to(&alice, &n.to_string()), claim: None }).collect();
    for outcome in open.store.append_all(pushes) {
        outcome.unwrap().await.unwrap();
    }
    for (seq, waiting) in [(0, 400), (50, 350), (200, 200), (399, 1), (400, 0)] {
        let resume = Resume { epoch: open.head(&alice).await.epoch, seq, id: None };
        let attached = open.attach(&alice, Reader::Device(PHONE, Some(resume))).await.unwrap();
        assert_eq!(at(attached), (400, seq, waiting, false));
    }
    open.close().await;
}

pub async fn a_resume_that_holds_goes_on_there_and_another_is_reset<B: Backend>() {
    let backend = B::start().await;
    let open = open(&backend, &[]).await;
    let chat = room("chat");
    open.store_all(&chat, &["one", "two", "three"]).await;
    let head = open.head(&chat).await;
    let page = open.page(&chat, head.epoch, 0, 10, 10_000).await.unwrap();
    let second = page.entries[1].push.id;
    let other = Epoch::from_u32(head.epoch.to_u32() ^ 1);
    let begin = async |resume| at(open.attach(&chat, Reader::Room(resume)).await.unwrap());
    assert_eq!(begin(None).await, (3, 3, 0, false), "a room begins at its head");
    for (epoch, seq, id, told) in [
        (head.epoch, 2, None, (3, 2, 1, false)),
        (head.epoch, 2, Some(second), (3, 2, 1, false)),
        (head.epoch, 0, None, (3, 0, 3, false)),
        (head.epoch, 3, Some(head.id), (3, 3, 0, false)),
        // another push stands there
        (head.epoch, 2, Some(head.id), (3, 0, 3, true)),
        // of the future
        (head.epoch, 9, None, (3, 0, 3, true)),
        (head.epoch, u64::MAX, None, (3, 0, 3, true)),
        (other, 2, None, (3, 0, 3, true)),
        // of another epoch, but its push is there
        (other, 2, Some(second), (3, 2, 1, true)),
    ] {
        assert_eq!(begin(Some(Resume { epoch, seq, id })).await, told, "{epoch} {seq} {id:?}");
    }
    // a device's resume goes before its cursor
    let alice = card("alice");
    open.store_all(&alice, &["one", "two"]).await;
    let epoch = open.head(&alice).await.epoch;
    let resume = Resume { epoch, seq: 1, id: None };
    assert_eq!(at(open.attach(&alice, Reader::Device(PHONE, Some(resume))).await.unwrap()), (2, 1, 1, false));
    open.close().await;
}

pub async fn the_oldest_make_room_and_one_push_has_room_whatever_its_size_is<B: Backend>() {
    let backend = B::start().await;
    let open = open(&backend, &[("STORE__MAX_ENTRIES", "3"), ("STORE__MAX_STREAM_BYTES", "4KiB")]).await;
    let alice = card("alice");
    open.store_all(&alice, &["1", "2", "3", "4", "5"]).await;
    assert_eq!(open.texts(&alice, 0).await, [(3, "3".into()), (4, "4".into()), (5, "5".into())]);
    let info = open.store.describe(&alice).await.unwrap().unwrap();
    assert_eq!((info.first, info.entries, info.head.seq), (3, 3, 5));
    assert!(info.bytes > 0);
    let counted = async {
        while !open.metrics.text().contains("oxipush_drops_total{reason=\"pushed_out\"} 2\n") {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, counted).await.expect("what was pushed out is counted");
    let large = "x".repeat(9000);
    open.store_all(&alice, &[&large]).await;
    assert_eq!(open.texts(&alice, 0).await, [(6, large)]);
    assert_eq!(at(open.attach(&alice, Reader::Device(PHONE, None)).await.unwrap()), (6, 5, 1, false));
    open.close().await;
}

pub async fn what_is_over_is_not_read_and_does_not_wait<B: Backend>() {
    let backend = B::start().await;
    let open = open(&backend, &[]).await;
    let alice = card("alice");
    let mut short = to(&alice, "short");
    short.deadline = Some(unix_millis() + 1500);
    open.append(short).await.unwrap();
    open.append(to(&alice, "long")).await.unwrap();
    assert_eq!(open.texts(&alice, 0).await.len(), 2);
    let over = async {
        while open.texts(&alice, 0).await != [(2, "long".into())] {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(PATIENCE, over).await.expect("it is over");
    let gone = async {
        while at(open.attach(&alice, Reader::Device(PHONE, None)).await.unwrap()).2 != 1 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(PATIENCE, gone).await.expect("it does not wait");
    assert_eq!(open.head(&alice).await.seq, 2);
    open.close().await;
}

pub async fn a_newer_push_of_a_collapse_key_takes_the_place_of_the_older<B: Backend>() {
    let backend = B::start().await;
    let open = open(&backend, &[]).await;
    let alice = card("alice");
    for (content, key) in [("a1", Some("a")), ("plain", None), ("b1", Some("b")), ("a2", Some("a")), ("a3", Some("a"))]
    {
        let push = Push { collapse_key: key.map(Into::into), ..to(&alice, content) };
        open.append(push).await.unwrap();
    }
    assert_eq!(open.texts(&alice, 0).await, [(2, "plain".into()), (3, "b1".into()), (5, "a3".into())]);
    assert_eq!(at(open.attach(&alice, Reader::Device(PHONE, None)).await.unwrap()), (5, 1, 3, false));
    open.close().await;
}

pub async fn a_late_retry_does_not_bring_back_what_has_left_the_stream<B: Backend>() {
    let backend = B::start().await;
    let before = open(&backend, &[("STORE__MAX_ENTRIES", "3")]).await;
    let claim = |key| Claim { key: [key; 16], body: 7, deadline: unix_millis() + 3_600_000 };
    let (alice, bob, short) = (card("alice"), card("bob"), room("short"));
    let collapsing = |push| Push { collapse_key: Some("k".into()), ..push };
    let both = |content| Push { target: Target::cards(vec!["alice".into(), "bob".into()]), ..to(&alice, content) };
    let first = [
        collapsing(to(&alice, "overwritten")),
        to(&alice, "deleted"),
        collapsing(both("overwritten for alice")),
        to(&short, "pushed out"),
        to(&room("alone"), "deleted as the newest"),
    ];
    for (push, key) in first.iter().zip(1..) {
        before.append_new(NewPush { push: push.clone(), claim: Some(claim(key)) }).await.unwrap();
    }
    before.append(collapsing(to(&alice, "newest"))).await.unwrap();
    assert!(before.store.delete_entry(&alice, 2).await.unwrap());
    assert!(before.store.delete_entry(&room("alone"), 1).await.unwrap());
    before.store_all(&short, &["one", "two", "three"]).await;
    before.close().await;
    backend.forget_that_keys_are_done();
    let after = open(&backend, &[("STORE__MAX_ENTRIES", "3")]).await;
    for _ in 0..2 {
        for (push, key) in first.iter().zip(1..) {
            let retry = Push { id: PushId::generate(), ..push.clone() };
            match after.append_new(NewPush { push: retry, claim: Some(claim(key)) }).await.unwrap() {
                Appended::Before(id) => assert_eq!(id, push.id),
                // of a push that still is somewhere, nodes are told again: there, and nowhere else
                Appended::New { id, wake } => {
                    assert_eq!((id, key), (push.id, 3));
                    let wake = wake.expect("only where nodes share a store");
                    assert_eq!((wake.push.target.cards.clone(), wake.entries.len()), (vec!["bob".into()], 1));
                }
            }
        }
        assert_eq!(after.texts(&alice, 0).await, [(4, "newest".into())]);
        assert_eq!(after.texts(&bob, 0).await, [(1, "overwritten for alice".into())]);
        assert_eq!(after.texts(&short, 0).await, [(2, "one".into()), (3, "two".into()), (4, "three".into())]);
        assert_eq!(after.texts(&room("alone"), 0).await, []);
    }
    after.close().await;
}

pub async fn a_page_ends_at_its_bounds_and_says_where_to_go_on<B: Backend>() {
    let backend = B::start().await;
    let open = open(&backend, &[]).await;
    let alice = card("alice");
    let texts: Vec<_> = (1..=90).map(|n| format!("{n:0>100}")).collect();
    open.store_all(&alice, &texts.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let epoch = open.head(&alice).await.epoch;
    let page = open.page(&alice, epoch, 0, 40, 1 << 20).await.unwrap();
    assert_eq!((page.entries.len(), page.end, page.head), (40, 40, 90));
    assert_eq!(page.end_id, page.entries[39].push.id);
    let mut after = 0;
    let mut read = Vec::new();
    while after < 90 {
        let page = open.page(&alice, epoch, after, 1000, 1000).await.unwrap();
        assert!((1..20).contains(&page.entries.len()), "{}", page.entries.len());
        read.extend(page.entries.iter().map(|entry| text(&entry.push)));
        assert!(page.end > after);
        after = page.end;
    }
    assert_eq!(read, texts);
    // one push is read whatever its size is
    assert_eq!(open.page(&alice, epoch, 0, 1000, 1).await.unwrap().entries.len(), 1);
    let end = open.page(&alice, epoch, 90, 10, 1000).await.unwrap();
    assert_eq!((end.entries.len(), end.end, end.head), (0, 90, 90));
    assert!(open.page(&alice, Epoch::from_u32(epoch.to_u32() ^ 1), 0, 10, 1000).await.is_none());
    assert!(open.page(&card("nobody"), epoch, 0, 10, 1000).await.is_none());
    open.close().await;
}

pub async fn what_is_deleted_is_gone_and_a_deleted_stream_begins_in_another_epoch<B: Backend>() {
    let backend = B::start().await;
    let open = open(&backend, &[]).await;
    let alice = card("alice");
    open.store_all(&alice, &["one", "two", "three"]).await;
    assert_eq!(open.store.delete_entry(&alice, 2).await, Ok(true));
    assert_eq!(open.store.delete_entry(&alice, 2).await, Ok(false));
    assert_eq!(open.store.delete_entry(&alice, 0).await, Ok(false));
    assert_eq!(open.store.delete_entry(&alice, 99).await, Ok(false));
    assert_eq!(open.texts(&alice, 0).await, [(1, "one".into()), (3, "three".into())]);
    open.attach(&alice, Reader::Device(PHONE, None)).await.unwrap();
    assert_eq!(open.store.forget_device("alice", PHONE).await, Ok(true));
    assert_eq!(open.store.forget_device("alice", PHONE).await, Ok(false));
    assert!(open.store.describe(&alice).await.unwrap().unwrap().devices.is_empty());
    let epoch = open.head(&alice).await.epoch;
    assert_eq!(open.store.delete_stream(&alice).await, Ok(true));
    assert_eq!(open.store.delete_stream(&alice).await, Ok(false));
    assert_eq!((open.store.head(&alice, None).await, open.store.describe(&alice).await), (Ok(None), Ok(None)));
    open.store_all(&alice, &["new"]).await;
    assert_ne!(open.head(&alice).await.epoch, epoch);
    assert_eq!(open.texts(&alice, 0).await, [(1, "new".into())]);
    open.close().await;
}

pub async fn a_card_has_so_many_devices_and_no_more<B: Backend>() {
    let backend = B::start().await;
    let open = open(&backend, &[("STORE__MAX_DEVICES", "2")]).await;
    let alice = card("alice");
    open.store_all(&alice, &["one"]).await;
    for device in ["a", "b", "a"] {
        open.attach(&alice, Reader::Device(DeviceKey::Declared(device), None)).await.unwrap();
    }
    let third = open.attach(&alice, Reader::Device(DeviceKey::App("a"), None)).await;
    assert_eq!(third, Err(AttachError::TooManyDevices(2)));
    open.close().await;
}

pub async fn streams_that_got_pushes_are_told_once<B: Backend>() {
    let backend = B::start().await;
    let open = open(&backend, &[]).await;
    let (alice, chat) = (card("alice"), room("chat"));
    open.store_all(&alice, &["before"]).await;
    while !open.changes().await.is_empty() {}
    open.store_all(&alice, &["one", "two"]).await;
    open.store_all(&chat, &["hello"]).await;
    let changes = open.changes().await;
    assert_eq!(changes.len(), 2, "{changes:?}");
    for address in [alice, chat] {
        let head = open.head(&address).await;
        assert!(changes.contains(&(address, head)));
    }
    assert!(open.changes().await.is_empty());
    open.close().await;
}

pub async fn a_name_may_have_any_text<B: Backend>() {
    let backend = B::start().await;
    let open = open(&backend, &[]).await;
    let names = ["{a}", "}{", "a:b:c", "c:", " ", "\u{1}\r\n\0", "ä€🦀", "*?[x]", "\"'\\", "p0", "%s"];
    for name in names {
        for address in [card(name), room(name)] {
            let content = format!("for {address:?}");
            let push = Push { collapse_key: Some(name.into()), ..to(&address, &content) };
            open.append(push).await.unwrap();
            assert_eq!(open.texts(&address, 0).await, [(1, content)], "{address:?}");
        }
        let device = DeviceKey::Declared(name);
        assert_eq!(at(open.attach(&card(name), Reader::Device(device, None)).await.unwrap()).1, 0);
        let info = open.store.describe(&card(name)).await.unwrap().unwrap();
        assert_eq!(info.devices[0].name, name);
    }
    open.close().await;
}

pub async fn revocations_are_kept<B: Backend>() {
    let backend = B::start().await;
    let before = open(&backend, &[]).await;
    let now = unix_millis() / 1000;
    for (subject, second) in [("alice", now), ("bob", now - 5), ("alice", now - 9)] {
        before.store.revoke(subject, second).await.unwrap();
    }
    before.close().await;
    let after = open(&backend, &[]).await;
    let kept: BTreeSet<_> = after
        .store
        .revocations()
        .await
        .unwrap()
        .into_iter()
        .map(|(subject, second)| (subject.to_string(), second))
        .collect();
    assert_eq!(kept, BTreeSet::from([("alice".to_owned(), now), ("bob".to_owned(), now - 5)]));
    after.close().await;
}

macro_rules! store_contract {
    ($backend:ty) => {
        store_contract!(@ $backend:
            what_was_stored_is_read_in_order_after_the_store_was_opened_again
            pushes_that_come_together_keep_their_order_in_each_stream
            a_push_to_many_cards_stands_in_each_of_their_streams
            a_retry_under_its_idempotency_key_is_found_and_another_push_is_refused
            a_live_push_claims_its_key_until_the_queue_has_it
            a_device_begins_at_the_oldest_push_and_goes_on_where_it_acknowledged
            of_many_that_wait_each_counts
            a_resume_that_holds_goes_on_there_and_another_is_reset
            the_oldest_make_room_and_one_push_has_room_whatever_its_size_is
            what_is_over_is_not_read_and_does_not_wait
            a_newer_push_of_a_collapse_key_takes_the_place_of_the_older
            a_late_retry_does_not_bring_back_what_has_left_the_stream
            a_page_ends_at_its_bounds_and_says_where_to_go_on
            what_is_deleted_is_gone_and_a_deleted_stream_begins_in_another_epoch
            a_card_has_so_many_devices_and_no_more
            streams_that_got_pushes_are_told_once
            a_name_may_have_any_text
            revocations_are_kept
        );
    };
    (@ $backend:ty: $($promise:ident)*) => {
        $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $promise() {
            crate::suite::$promise::<$backend>().await;
        })*
    };
}
