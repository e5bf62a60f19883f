//! A worker on the test's own thread, and clients at its sockets.
#![allow(clippy::unwrap_used)]

use std::cell::RefCell;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::{mpsc, oneshot},
    task::LocalSet,
    time::timeout,
};

use super::{
    client_socket::ClientSocket,
    connection::Connection,
    join::{Authorization, Grant, JoinDecision},
    stream::Stream,
    *,
};
use crate::{
    hub::{Fanout, Part, Recipients},
    push::{Address, Epoch, Push},
    telemetry::labels::CloseLabels,
    wire::{
        close::Close,
        dialect::{ClientError, Dialect, JoinRequest},
        stream_ping::StreamPing,
    },
};

const PATIENCE: Duration = Duration::from_secs(30);

const OK: &str = "{\"type\":1,\"data\":\"ok\"}\n";

/// A worker that the test's thread is, and a listener for its clients.
struct OneWorker {
    worker: Rc<Worker>,
    setup: WorkerSetup,
    listener: tokio::net::TcpListener,
}

impl OneWorker {
    async fn start(overrides: &[(&str, &str)], authorizer: Authorizer) -> Self {
        let defaults = [("NODE__WORKERS", "1"), ("SOCKET__LISTEN", "127.0.0.1:0")];
        let settings = defaults.iter().chain(overrides);
        let settings = settings.map(|(key, value)| (format!("OXIPUSH__{key}"), (*value).to_owned()));
        let config = config::load(None, settings).unwrap();
        let metrics = Arc::new(Metrics::new());
        let hub = Hub::new(&config.hub, &config.outbox, 1, &metrics);
        let unused = TcpListener::bind("127.0.0.1:0").unwrap();
        let setup = ClientListener::new(unused, &config, None, hub, Phases::new(), &metrics).setup;
        let worker = setup.start_worker(authorizer).unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self { worker, setup, listener }
    }

    /// As [`OneWorker::start`], where anyone may join.
    async fn for_anyone(overrides: &[(&str, &str)]) -> Self {
        Self::start(overrides, Authorizer::Anyone(NameRule { max: 100 })).await
    }

    /// A connection whose handshake is done.
    async fn connect(&self, dialect: Dialect) -> TestClient {
        let address = self.listener.local_addr().unwrap();
        let (client, accepted) = tokio::join!(TcpStream::connect(address), self.listener.accept());
        let stream = Stream::from(accepted.unwrap().0);
        stream.set_options(self.setup.live.now().config.user_timeout).unwrap();
        let permit = self.setup.limit.acquire(None).ok().unwrap();
        Connection::start(&self.worker, stream, None, dialect, permit, b"");
        TestClient(client.unwrap())
    }

    /// Pushes that wait together for the clients of `card`.
    async fn push(&self, card: &str, contents: &[&str]) {
        let completions = mpsc::unbounded_channel().0;
        let to = Recipients::Address(Address::Card(card.into()));
        let part =
            |content: &&str| Part::new(Fanout::new(Push::to(card, content), 0, completions.clone()), to.clone()).into();
        assert!(self.setup.hub.try_send(0, contents.iter().map(part).collect()).is_ok());
    }

    fn closes(&self, code: &'static str) -> u64 {
        self.setup.metrics.closes.get_or_create(&CloseLabels { code }).get()
    }
}

struct TestClient(TcpStream);

impl TestClient {
    async fn send(&mut self, opcode: u8, payload: &[u8]) {
        let header = [0x80 | opcode, 0x80 | u8::try_from(payload.len()).unwrap(), 0, 0, 0, 0];
        self.0.write_all(&[&header, payload].concat()).await.unwrap();
    }

    async fn text(&mut self, text: &str) {
        self.send(1, text.as_bytes()).await;
    }

    async fn ask_to_join(&mut self, card: &str) {
        self.text(&format!(r#"{{"event":"join","data":{{"card_id":"{card}"}}}}"#)).await;
    }

    /// The next frame but for pings: its opcode and payload.
    async fn frame(&mut self) -> (u8, Vec<u8>) {
        loop {
            let mut header = [0; 2];
            timeout(PATIENCE, self.0.read_exact(&mut header)).await.expect("a frame").unwrap();
            let length = match header[1] {
                126 => timeout(PATIENCE, self.0.read_u16()).await.expect("its length").unwrap(),
                short => u16::from(short),
            };
            let mut payload = vec![0; length.into()];
            timeout(PATIENCE, self.0.read_exact(&mut payload)).await.expect("its payload").unwrap();
            if header[0] & 0xF != 9 {
                return (header[0] & 0xF, payload);
            }
        }
    }

    async fn reads(&mut self, text: &str) {
        let (opcode, payload) = self.frame().await;
        assert_eq!((opcode, String::from_utf8(payload).unwrap().as_str()), (1, text));
    }

    async fn has_joined(&mut self, card: &str, app: &str) {
        let (opcode, payload) = self.frame().await;
        let told: serde_json::Value = serde_json::from_slice(&payload).unwrap();
        assert_eq!((opcode, &told["event"]), (1, &"joined".into()));
        assert_eq!((&told["data"]["card_id"], &told["data"]["app_id"]), (&card.into(), &app.into()));
    }

    async fn is_closed_with(&mut self, close: Close) {
        let (opcode, payload) = self.frame().await;
        assert_eq!((opcode, &payload[..2]), (8, &close.code().to_be_bytes()[..]), "{payload:?}");
    }
}

fn as_asked(request: JoinRequest) -> JoinDecision {
    Ok(Grant::Join { request, identity: None })
}

/// A join, and where its decision is awaited.
type UndecidedJoin = (JoinRequest, oneshot::Sender<JoinDecision>);

/// Keeps each join waiting until the test decides.
#[derive(Clone, Default)]
pub(super) struct Waits {
    asked: Rc<RefCell<Vec<UndecidedJoin>>>,
}

impl Waits {
    pub(super) fn authorize(&self, request: JoinRequest) -> Authorization {
        let (decide, decision) = oneshot::channel();
        self.asked.borrow_mut().push((request, decide));
        Authorization::Pending(Box::pin(async move { decision.await.unwrap() }))
    }
}

impl Waits {
    /// The join that was asked for first, once one was.
    async fn next(&self) -> UndecidedJoin {
        let asked = timeout(PATIENCE, async {
            while self.asked.borrow().is_empty() {
                tokio::task::yield_now().await;
            }
        });
        asked.await.expect("a join");
        self.asked.borrow_mut().remove(0)
    }
}

#[tokio::test]
#[expect(clippy::await_holding_refcell_ref, reason = "the bug that this test needs")]
async fn a_connection_that_panics_ends_alone() {
    let test = async {
        let one = OneWorker::for_anyone(&[]).await;
        let hub = &one.setup.hub;
        let mut lost = one.connect(Dialect::Gopusher).await;
        let mut kept = one.connect(Dialect::Gopusher).await;
        for client in [&mut lost, &mut kept] {
            client.ask_to_join("alice").await;
            client.reads(OK).await;
        }
        assert_eq!((hub.connections("alice"), hub.census().connections), (2, 2));

        // what it reads next finds the buffer of the thread in use, as a borrow over an await would leave it
        let held = one.worker.scratch.borrow_mut();
        lost.text(r#"{"event":"ping"}"#).await;
        let mut rest = Vec::new();
        let _ = timeout(PATIENCE, lost.0.read_to_end(&mut rest)).await.expect("it is closed");
        assert_eq!(rest, b"");
        drop(held);

        assert_eq!((hub.connections("alice"), hub.census().connections), (1, 1));
        assert_eq!(one.closes("abnormal"), 1);
        // the worker goes on: for who is there and for who comes
        kept.ask_to_join("alice").await;
        kept.reads(OK).await;
        let mut new = one.connect(Dialect::Gopusher).await;
        new.ask_to_join("alice").await;
        new.reads(OK).await;
        assert!(!one.setup.ended[0].is_cancelled());
    };
    LocalSet::new().run_until(test).await;
}

/// What few clients need is boxed: an idle one is little more than these.
#[test]
fn an_idle_client_costs_this_much() {
    assert_eq!((size_of::<Connection>(), size_of::<crate::hub::Client<ClientSocket>>()), (120, 248));
}

#[tokio::test]
async fn a_worker_whose_tasks_end_is_told() {
    let thread = LocalSet::new();
    let ended = thread.run_until(async { OneWorker::for_anyone(&[]).await.setup.ended[0].clone() });
    let ended = ended.await;
    assert!(!ended.is_cancelled());
    drop(thread);
    assert!(ended.is_cancelled());
}

#[tokio::test]
async fn a_join_that_waits_holds_up_what_comes_behind_it_and_nothing_else() {
    let test = async {
        let waits = Waits::default();
        let one = OneWorker::start(&[], Authorizer::Waiting(waits.clone())).await;
        let mut client = one.connect(Dialect::OxipushV1).await;
        client.send(9, b"before").await;
        client.ask_to_join("alice").await;
        client.text(r#"{"event":"ping"}"#).await;
        client.ask_to_join("bob").await;
        assert_eq!(client.frame().await, (10, b"before".to_vec()));
        let (alice, decide) = waits.next().await;
        assert_eq!(one.setup.hub.census().groups, 0);
        decide.send(as_asked(alice)).unwrap();
        client.has_joined("alice", "").await;
        client.reads(r#"{"event":"pong"}"#).await;

        // the second one waits as well, and what is for the first card arrives meanwhile
        let (_, decide) = waits.next().await;
        client.send(9, b"behind").await;
        one.push("alice", &["hello"]).await;
        assert!(String::from_utf8(client.frame().await.1).unwrap().contains("hello"));
        // decided as another card than the one asked for
        let carol = JoinRequest { card: "carol".into(), app: "web".into(), ..JoinRequest::default() };
        decide.send(as_asked(carol)).unwrap();
        client.has_joined("carol", "web").await;
        assert_eq!(client.frame().await, (10, b"behind".to_vec()));
        assert_eq!((one.setup.hub.connections("alice"), one.setup.hub.connections("carol")), (1, 1));
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn a_join_that_waited_and_is_refused_is_told_in_its_dialect() {
    let test = async {
        let waits = Waits::default();
        let one = OneWorker::start(&[], Authorizer::Waiting(waits.clone())).await;
        let refusal = || JoinDecision::Err(ClientError::new("bad_name", "not you").into());

        let mut v1 = one.connect(Dialect::OxipushV1).await;
        v1.ask_to_join("alice").await;
        waits.next().await.1.send(refusal()).unwrap();
        v1.reads(r#"{"event":"error","data":{"code":"bad_name","message":"not you"}}"#).await;
        v1.text(r#"{"event":"ping"}"#).await;
        v1.reads(r#"{"event":"pong"}"#).await;

        let mut gopusher = one.connect(Dialect::Gopusher).await;
        gopusher.ask_to_join("alice").await;
        waits.next().await.1.send(refusal()).unwrap();
        gopusher.is_closed_with(Close::BadMessage).await;
        assert_eq!(one.setup.hub.census().groups, 0);
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn the_end_of_a_connection_drops_the_decision_that_its_join_waits_for() {
    let test = async {
        let waits = Waits::default();
        let one = OneWorker::start(&[], Authorizer::Waiting(waits.clone())).await;

        // the peer is gone, and what it sent last was never read
        let mut gone = one.connect(Dialect::Gopusher).await;
        gone.ask_to_join("alice").await;
        let (_, mut decide) = waits.next().await;
        gone.text(r#"{"event":"ping"}"#).await;
        drop(gone);
        timeout(PATIENCE, decide.closed()).await.expect("the decision was dropped");
        timeout(PATIENCE, one.setup.limit.no_clients()).await.unwrap_or_default();

        // another part of the gateway ends it
        let mut slow = one.connect(Dialect::Gopusher).await;
        slow.ask_to_join("alice").await;
        let (_, mut decide) = waits.next().await;
        for key in one.worker.shard.keys() {
            let client = one.worker.shard.client(key).unwrap();
            one.worker.shard.end(&client, &Close::SlowConsumer.into());
        }
        timeout(PATIENCE, decide.closed()).await.expect("the decision was dropped");
        slow.is_closed_with(Close::SlowConsumer).await;

        // the node drains, and the client answers its close
        let mut drained = one.connect(Dialect::Gopusher).await;
        drained.ask_to_join("alice").await;
        let (_, mut decide) = waits.next().await;
        let plan = DrainPlan::new(Duration::ZERO);
        one.setup.drain.send_replace(Some(plan.clone()));
        tokio::select! {
            () = plan.pace(0) => {}
            closed = timeout(PATIENCE, plan.closed(1)) => closed.unwrap(),
        }
        timeout(PATIENCE, decide.closed()).await.expect("the decision was dropped");
        drained.is_closed_with(Close::Drain).await;
        drained.send(8, b"").await;
        assert_eq!(drained.0.read(&mut [0]).await.unwrap(), 0);

        // who opens behind the drain is told as well
        one.connect(Dialect::Gopusher).await.is_closed_with(Close::Drain).await;
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn who_was_told_to_leave_is_served_until_then_and_nobody_waits_for_who_left_earlier() {
    let test = async {
        let one = OneWorker::for_anyone(&[]).await;
        let mut stays = one.connect(Dialect::OxipushV1).await;
        stays.ask_to_join("alice").await;
        stays.has_joined("alice", "").await;
        let mut leaves = one.connect(Dialect::OxipushV1).await;
        leaves.ask_to_join("bob").await;
        leaves.has_joined("bob", "").await;
        let began = tokio::time::Instant::now();
        let plan = DrainPlan::new(Duration::from_secs(600));
        one.setup.drain.send_replace(Some(plan.clone()));
        let served = async {
            let told = stays.frame().await;
            assert!(String::from_utf8(told.1).unwrap().starts_with(r#"{"event":"drain","data":{"reconnect_in_ms":"#));
            one.push("alice", &["still"]).await;
            let pushed = stays.frame().await;
            assert!(String::from_utf8(pushed.1).unwrap().contains(r#""content":"still""#));
            // both go by themselves, long before their time
            for client in [&mut stays, &mut leaves] {
                client.send(8, &1000_u16.to_be_bytes()).await;
            }
        };
        let closed = async {
            tokio::select! {
                () = plan.pace(0) => {}
                () = plan.closed(1) => {}
            }
        };
        timeout(PATIENCE, async { tokio::join!(served, closed) }).await.expect("the end of the drain");
        assert!(began.elapsed() < PATIENCE);
        assert_eq!((one.closes("1000"), one.closes("3000")), (2, 0));
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn the_clients_of_a_card_leave_together() {
    let test = async {
        let one = OneWorker::for_anyone(&[]).await;
        let mut delays = Vec::new();
        let mut clients = Vec::new();
        for card in ["alice", "bob", "alice", "bob", "alice"] {
            let mut client = one.connect(Dialect::OxipushV1).await;
            client.ask_to_join(card).await;
            client.has_joined(card, "").await;
            clients.push(client);
        }
        let plan = DrainPlan::new(Duration::from_secs(600));
        one.setup.drain.send_replace(Some(plan.clone()));
        let told = async {
            for client in &mut clients {
                let (_, text) = client.frame().await;
                delays.push(serde_json::from_slice::<serde_json::Value>(&text).unwrap()["data"].clone());
            }
        };
        tokio::select! {
            () = plan.pace(0) => {}
            told = timeout(PATIENCE, told) => told.unwrap(),
        }
        assert!(delays[0] == delays[2] && delays[0] == delays[4] && delays[1] == delays[3], "{delays:?}");
        assert_ne!(delays[0], delays[1]);
    };
    LocalSet::new().run_until(test).await;
}

#[test]
fn few_clients_leave_soon_and_many_over_the_whole_jitter() {
    let jitter = |clients| drain::jitter(clients, Duration::from_secs(5)).as_millis();
    assert_eq!([0, 1, 700, 5000, 100_000, usize::MAX].map(jitter), [0, 1, 700, 5000, 5000, 5000]);
    assert_eq!(drain::jitter(1000, Duration::ZERO), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn time_runs_on_for_a_join_that_waits() {
    let test = async {
        let waits = Waits::default();
        let times = [("SOCKET__JOIN_TIMEOUT", "5s")];
        let one = OneWorker::start(&times, Authorizer::Waiting(waits.clone())).await;
        let mut client = one.connect(Dialect::Gopusher).await;
        client.ask_to_join("alice").await;
        let (_, mut decide) = waits.next().await;
        client.is_closed_with(Close::NotJoined).await;
        timeout(PATIENCE, decide.closed()).await.expect("the decision was dropped");
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn without_a_store_what_needs_one_is_refused_by_name_and_a_made_up_pong_does_nothing() {
    let test = async {
        let one = OneWorker::for_anyone(&[]).await;
        let mut client = one.connect(Dialect::OxipushV1).await;
        let refused = async |client: &mut TestClient, text: &str, field: &str| {
            client.text(text).await;
            let (_, payload) = client.frame().await;
            let told: serde_json::Value = serde_json::from_slice(&payload).unwrap();
            assert_eq!(told["data"]["code"], "unsupported", "{told}");
            assert!(told["data"]["message"].as_str().unwrap().contains(field), "{told}");
        };
        let join = r#"{"event":"join","data":{"card_id":"alice","device":"phone"}}"#;
        refused(&mut client, join, "`device`").await;
        assert_eq!(one.setup.hub.connections("alice"), 0);
        client.ask_to_join("alice").await;
        client.has_joined("alice", "").await;
        client.send(10, &StreamPing::new("alice", Epoch::random(), 3).frame().bytes()[2..]).await;
        refused(&mut client, r#"{"event":"ack","data":{"card":"alice","seq":0}}"#, "`ack`").await;
        let subscribe = r#"{"event":"subscribe","data":{"room":"r","resume":{"epoch":"0a1b2c3d","seq":1}}}"#;
        refused(&mut client, subscribe, "`resume`").await;
        client.text(r#"{"event":"ping"}"#).await;
        client.reads(r#"{"event":"pong"}"#).await;
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test(start_paused = true)]
async fn a_silent_client_is_pinged_and_then_closed_as_idle() {
    let test = async {
        let times = [("SOCKET__PING_INTERVAL", "4s"), ("SOCKET__IDLE_TIMEOUT", "20s"), ("SOCKET__JOIN_TIMEOUT", "10s")];
        let one = OneWorker::for_anyone(&times).await;
        let mut client = one.connect(Dialect::Gopusher).await;
        client.ask_to_join("alice").await;
        client.reads(OK).await;
        let silent_since = tokio::time::Instant::now();
        let mut pings = 0;
        let mut header = [0; 2];
        loop {
            client.0.read_exact(&mut header).await.unwrap();
            if header != [0x89, 0] {
                break;
            }
            pings += 1;
        }
        assert_eq!(header[0], 0x88);
        let mut code = [0; 2];
        client.0.read_exact(&mut code).await.unwrap();
        assert_eq!(u16::from_be_bytes(code), Close::Idle.code());
        let took = silent_since.elapsed().as_secs_f32();
        assert!((4..=5).contains(&pings) && (20.0..22.0).contains(&took), "{pings} pings in {took} s");
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test(start_paused = true)]
async fn a_dialect_may_greet_bound_its_messages_pack_pushes_and_do_without_a_card() {
    let test = async {
        let times = [("SOCKET__JOIN_TIMEOUT", "1s"), ("SOCKET__IDLE_TIMEOUT", "1h"), ("SOCKET__PING_INTERVAL", "30m")];
        let one = OneWorker::for_anyone(&times).await;
        let mut client = one.connect(Dialect::InTests).await;
        client.reads("hello").await;
        tokio::time::sleep(Duration::from_secs(10)).await;
        client.send(2, b"binary").await;
        client.text("ping").await;
        client.reads("pong").await;
        client.text("alice").await;
        client.reads("alice").await;
        one.push("alice", &["a", "b", "c"]).await;
        client.reads("a+b+c").await;
        client.text("more than ten bytes").await;
        client.is_closed_with(Close::TooLarge).await;
    };
    LocalSet::new().run_until(test).await;
}
