//! Pushes to rooms and to everyone, gathered in windows.

use std::cell::RefCell;

use bytestring::ByteString;
use serde_json::Value;
use tokio::{
    task::LocalSet,
    time::{Instant, sleep},
};

use super::*;
use crate::push::{Exclude, Target};

/// More than the timer's granularity, and than what a turn takes of paused time.
const A_MOMENT: Duration = Duration::from_millis(2);

/// A socket that keeps what it is written, and when.
#[derive(Default)]
struct Kept(RefCell<Vec<(Instant, Vec<u8>)>>);

impl Sink for Kept {
    fn try_write(&self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.borrow_mut().push((Instant::now(), bytes.to_vec()));
        Ok(bytes.len())
    }
}

impl Kept {
    /// The contents that came, frame by frame, each with its time; `oxipush.v1`'s frames.
    fn frames(&self) -> Vec<(Instant, Vec<String>)> {
        let mut frames = Vec::new();
        for (at, bytes) in &*self.0.borrow() {
            let mut left = &bytes[..];
            while let [_, length, rest @ ..] = left {
                let (length, rest) = match length {
                    126 => (usize::from(u16::from_be_bytes([rest[0], rest[1]])), &rest[2..]),
                    short => (usize::from(*short), rest),
                };
                let (payload, rest) = rest.split_at(length);
                left = rest;
                let frame: Value = serde_json::from_slice(payload).unwrap();
                let content = |push: &Value| push["content"].as_str().unwrap().to_owned();
                let contents = match frame["event"].as_str().unwrap() {
                    "push" => vec![content(&frame["data"])],
                    "pushes" => frame["data"].as_array().unwrap().iter().map(content).collect(),
                    other => panic!("{other}"),
                };
                frames.push((*at, contents));
            }
        }
        frames
    }

    fn contents(&self) -> Vec<String> {
        self.frames().into_iter().flat_map(|(_, contents)| contents).collect()
    }
}

/// A dispatch with a shard that works.
struct Rig {
    jobs: mpsc::Sender<Vec<Job>>,
    dispatch: Dispatch,
    shard: Rc<Shard<Kept>>,
    metrics: Arc<Metrics>,
    _backlog: watch::Sender<bool>,
}

impl Rig {
    /// In a [`LocalSet`].
    fn new(settings: &[(&str, &str)]) -> Self {
        let settings = settings.iter().map(|(key, value)| (format!("OXIPUSH__ROOMS__{key}"), (*value).to_owned()));
        let config = config::load(None, settings).unwrap();
        let metrics = Arc::new(Metrics::new());
        let (tasks, _deaths) = Tasks::new();
        let hub = Hub::new(&config.hub, &config.outbox, 1, &metrics);
        let (shard, inbox) = hub.claim_shard().unwrap().open();
        let (jobs, bundles) = bundles::channel(8);
        let (_backlog, backlog) = watch::channel(false);
        let jobs_of_it = Jobs::detached(bundles);
        let revoke: Revoke = Box::new(|_, _| {});
        let dispatch = Dispatch::start(&config, jobs_of_it, None, hub, backlog, None, revoke, &tasks, &metrics);
        let running = Rc::clone(&shard);
        tokio::task::spawn_local(async move { running.run(inbox, Duration::from_secs(60), |_| {}).await });
        Self { jobs, dispatch, shard, metrics, _backlog }
    }

    /// A client of the rooms `a` and `b`.
    fn client(&self, app: &str, merges: bool) -> Rc<Client<Kept>> {
        let client = self.shard.open(Kept::default(), Dialect::OxipushV1);
        self.shard.set_merges(&client, merges);
        self.shard.join(&client, "card", app);
        self.shard.subscribe(&client, "a");
        self.shard.subscribe(&client, "b");
        client
    }

    async fn push(&self, push: &Push) {
        self.jobs.send(vec![Job::detached(record::encode(push), 1)]).await.unwrap();
    }

    async fn drain(self) {
        drop(self.jobs);
        self.dispatch.drain(Deadline::after(PATIENCE)).await;
        // what left the lanes is written
        sleep(A_MOMENT).await;
        assert_eq!(self.metrics.jobs_in_flight.get(), 0);
    }
}

fn to(room: Option<&str>, content: &str) -> Push {
    let room = room.map(ByteString::from);
    Push { target: Target { everyone: room.is_none(), room, ..Target::default() }, ..Push::to("", content) }
}

#[tokio::test(start_paused = true)]
async fn who_merges_gets_a_window_as_one_frame_and_the_others_get_each_push_at_once() {
    let work = async {
        let rig = Rig::new(&[("MERGE_WINDOW", "100ms")]);
        let (merging, other) = (rig.client("", true), rig.client("", false));
        let begun = Instant::now();
        for content in ["1", "2", "3"] {
            rig.push(&to(Some("a"), content)).await;
            sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(other.sink.contents(), ["1", "2", "3"]);
        assert!(merging.sink.frames().is_empty());
        // its job ended as it was gathered
        assert_eq!(rig.metrics.jobs_in_flight.get(), 0);
        sleep(Duration::from_millis(200)).await;
        let frames = merging.sink.frames();
        let [(at, contents)] = &frames[..] else { panic!("{frames:?}") };
        assert_eq!(*contents, ["1", "2", "3"]);
        assert!(at.duration_since(begun) <= Duration::from_millis(100) + A_MOMENT);
        rig.drain().await;
    };
    LocalSet::new().run_until(work).await;
}

#[tokio::test(start_paused = true)]
async fn a_full_count_leaves_at_once_and_a_drain_waits_for_no_window() {
    let work = async {
        let rig = Rig::new(&[("MERGE_WINDOW", "10s"), ("MERGE_COUNT", "2")]);
        let client = rig.client("", true);
        let begun = Instant::now();
        for content in ["1", "2", "3"] {
            rig.push(&to(None, content)).await;
        }
        sleep(A_MOMENT).await;
        assert_eq!(client.sink.contents(), ["1", "2"]);
        rig.drain().await;
        assert_eq!(
            client.sink.frames().into_iter().map(|(_, contents)| contents).collect::<Vec<_>>(),
            [vec!["1", "2"], vec!["3"]]
        );
        assert!(begun.elapsed() < Duration::from_secs(1));
    };
    LocalSet::new().run_until(work).await;
}

/// Any interleaving of pushes, kinds of targets and pauses, of which a seed is drawn: each client gets each push that is for it
/// once, in the order of its address, and none later than a window after it came.
#[tokio::test(start_paused = true)]
async fn whatever_comes_every_client_gets_it_once_in_order_and_in_time() {
    let work = async {
        for seed in 0..60 {
            let mut random = fastrand::Rng::with_seed(seed);
            let window = Duration::from_millis(random.u64(1..40));
            let count = random.usize(1..8).to_string();
            let rig = Rig::new(&[("MERGE_WINDOW", &format!("{}ms", window.as_millis())), ("MERGE_COUNT", &count)]);
            let clients = [("web", true), ("app", true), ("web", false), ("app", false)];
            // sometimes all of them merge
            let clients = &clients[..if random.bool() { 2 } else { 4 }];
            let clients: Vec<_> = clients.iter().map(|(app, merges)| (*app, rig.client(app, *merges))).collect();
            let mut sent = Vec::new();
            for n in 0..random.usize(1..80) {
                let room = *random.choice(&[Some("a"), Some("b"), None]).unwrap();
                let mut push = to(room, &format!("{}-{n}", room.unwrap_or("everyone")));
                if room.is_some() && random.u8(0..4) == 0 {
                    push.target.app = Some("web".into());
                }
                match random.u8(0..12) {
                    0 => push.target.exclude = Some(Box::new(Exclude { cards: vec!["nobody".into()], client: None })),
                    1 => push.collapse_key = Some("key".into()),
                    _ => {}
                }
                rig.push(&push).await;
                sent.push((Instant::now(), push));
                if random.bool() {
                    sleep(Duration::from_millis(random.u64(0..15))).await;
                }
            }
            sleep(window + A_MOMENT).await;
            for (app, client) in &clients {
                let expected = |room: Option<&str>| -> Vec<_> {
                    let is_for = |push: &Push| push.target.app.as_deref().is_none_or(|named| named == *app);
                    let of_room = sent.iter().filter(|(_, push)| push.target.room.as_deref() == room && is_for(push));
                    of_room.map(|(_, push)| push.content.to_text().into_owned()).collect()
                };
                for room in [Some("a"), Some("b"), None] {
                    let mut got = client.sink.contents();
                    got.retain(|content| content.starts_with(room.unwrap_or("everyone")));
                    assert_eq!(got, expected(room), "seed {seed}, a client of {app}");
                }
                for (at, contents) in client.sink.frames() {
                    for content in contents {
                        let (since, _) = sent.iter().find(|(_, push)| push.content.to_text() == *content).unwrap();
                        assert!(at <= *since + window + A_MOMENT, "seed {seed}: {content} is late");
                    }
                }
            }
            rig.drain().await;
        }
    };
    LocalSet::new().run_until(work).await;
}
