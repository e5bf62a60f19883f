//! A gateway's hot half (dispatch, hub, socket) without a queue, and a raw client for it.

#![allow(dead_code, unreachable_pub)] // each test file uses a part

use std::{
    net::{SocketAddr, TcpListener},
    sync::Arc,
    time::Duration,
};

use bytes::{Buf, BytesMut};
use oxipush::internals::{
    auth::Verifier,
    bundles,
    config::{self, Config},
    dispatch::{Dispatch, Revoke},
    hub::Hub,
    lifecycle::{Deadline, Died, Phases, Tasks},
    push::{Push, PushId, Target},
    queue::{Job, Jobs, record},
    socket::{ClientListener, ClientServer},
    telemetry::Metrics,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    sync::{mpsc, watch},
    time::timeout,
};

/// gopusher's answer to a join and a ping.
pub const OK: &str = "{\"type\":1,\"data\":\"ok\"}\n";

/// How long an event may take on a slow machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub fn patience() -> Deadline {
    Deadline::after(PATIENCE)
}

pub struct Rig {
    pub address: SocketAddr,
    pub hub: Hub,
    pub metrics: Arc<Metrics>,
    pub jobs: Option<mpsc::Sender<Vec<Job>>>,
    pub clients: ClientServer,
    pub dispatch: Dispatch,
    pub tasks: Tasks,
    pub deaths: mpsc::UnboundedReceiver<Died>,
}

/// A configuration with `overrides` such as `("SOCKET__JOIN_TIMEOUT", "200ms")`.
pub fn config(overrides: &[(&str, &str)]) -> Config {
    let defaults = [("SOCKET__LISTEN", "127.0.0.1:0"), ("NODE__WORKERS", "2")];
    let all = defaults.iter().chain(overrides).map(|(key, value)| (format!("OXIPUSH__{key}"), (*value).to_owned()));
    config::load(None, all).unwrap()
}

pub fn start(overrides: &[(&str, &str)]) -> Rig {
    let config = config(overrides);
    let metrics = Arc::new(Metrics::new());
    let (tasks, deaths) = Tasks::new();
    let hub = Hub::new(&config.hub, &config.outbox, config.node.workers, &metrics);
    let listener = TcpListener::bind(config.socket.listen).unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    let verifier = Verifier::new(&config.token, &config.verify, &tasks, &metrics).unwrap();
    let clients = ClientListener::new(listener, &config, verifier, hub.clone(), Phases::new(), &metrics).serve(&tasks);
    let (jobs, bundles) = bundles::channel(1024);
    let (_, backlog) = watch::channel(false);
    let handed_out = Jobs::detached(bundles);
    let revoke: Revoke = Box::new(|_, _| {});
    let dispatch = Dispatch::start(&config, handed_out, None, hub.clone(), backlog, None, revoke, &tasks, &metrics);
    Rig { address, hub, metrics, jobs: Some(jobs), clients, dispatch, tasks, deaths }
}

/// A push for `cards`.
pub fn push(cards: &[&str], content: &str) -> Push {
    Push {
        id: PushId::generate(),
        from: "test".into(),
        target: Target::cards(cards.iter().map(|card| (*card).into()).collect()),
        content: content.into(),
        collapse_key: None,
        deadline: None,
    }
}

impl Rig {
    pub async fn push(&self, cards: &[&str], content: &str) {
        self.send(&push(cards, content)).await;
    }

    pub async fn send(&self, push: &Push) {
        self.job(Job::detached(record::encode(push), 1)).await;
    }

    pub async fn job(&self, job: Job) {
        assert!(self.jobs.as_ref().unwrap().send(vec![job]).await.is_ok());
    }

    pub async fn connect(&self) -> Raw {
        Raw::connect(self.address, "").await
    }

    pub async fn connect_v1(&self) -> Raw {
        Raw::connect(self.address, "sec-websocket-protocol: oxipush.v1\r\n").await
    }

    /// A gopusher client that joined.
    pub async fn joined(&self, card: &str) -> Raw {
        let mut raw = self.connect().await;
        raw.join(card, "").await;
        raw
    }

    /// The value of a sample such as `oxipush_closes_total{code="3001"}`; 0 if there is none.
    pub fn sample(&self, name: &str) -> u64 {
        let text = self.metrics.text();
        let line = text.lines().find_map(|line| line.strip_prefix(name).and_then(|rest| rest.strip_prefix(' ')));
        line.map_or(0, |value| value.trim().parse::<f64>().unwrap() as u64)
    }

    /// Waits until a sample has at least this value.
    pub async fn reaches(&self, name: &str, value: u64) {
        until(&format!("{name} >= {value}"), || self.sample(name) >= value).await;
    }

    /// Ends it all and sees that no task died.
    pub async fn stop(mut self) {
        self.jobs.take();
        self.dispatch.drain(Deadline::after(PATIENCE)).await;
        assert!(self.clients.stop(patience()).await, "a worker did not end");
        assert!(self.tasks.stop(PATIENCE).await, "a task did not end");
        assert_eq!(self.deaths.try_recv().ok(), None);
    }
}

/// Waits until `condition` holds.
pub async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let waited = timeout(PATIENCE, async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    assert!(waited.await.is_ok(), "waited in vain for {what}");
}

/// A client that sends and reads bytes as it is told.
pub struct Raw {
    pub stream: TcpStream,
    pub buffer: BytesMut,
    pub head: String,
}

impl Raw {
    pub async fn connect(address: SocketAddr, headers: &str) -> Self {
        let raw = Self::request(address, &handshake("/ws", headers)).await;
        assert!(raw.head.starts_with("HTTP/1.1 101 "), "{}", raw.head);
        raw
    }

    /// Sends `request` and reads the head of the answer.
    pub async fn request(address: SocketAddr, request: impl AsRef<[u8]>) -> Self {
        Self::request_on(TcpStream::connect(address).await.unwrap(), request.as_ref()).await
    }

    /// As [`Raw::connect`], with a kernel buffer for what it receives that is as small as can be.
    pub async fn connect_narrow(address: SocketAddr, headers: &str) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        Self::request_on(socket.connect(address).await.unwrap(), handshake("/ws", headers).as_bytes()).await
    }

    async fn request_on(mut stream: TcpStream, request: &[u8]) -> Self {
        stream.write_all(request).await.unwrap();
        let mut raw = Self { stream, buffer: BytesMut::new(), head: String::new() };
        loop {
            if let Some(end) = raw.buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                raw.head = String::from_utf8(raw.buffer.split_to(end + 4).to_vec()).unwrap();
                return raw;
            }
            assert!(raw.fill().await, "the connection ended before an answer: {:?}", raw.buffer);
        }
    }

    /// Reads more; `false`: it is over.
    pub async fn fill(&mut self) -> bool {
        let read =
            timeout(PATIENCE, self.stream.read_buf(&mut self.buffer)).await.expect("nothing came for a long time");
        matches!(read, Ok(1..))
    }

    pub async fn bytes(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// Sends a masked frame.
    pub async fn frame(&mut self, opcode: u8, payload: &[u8]) {
        let frame = masked(opcode, payload);
        self.bytes(&frame).await;
    }

    pub async fn text(&mut self, text: &str) {
        self.frame(1, text.as_bytes()).await;
    }

    /// The next frame as opcode and payload; `None`: it is over.
    pub async fn next(&mut self) -> Option<(u8, Vec<u8>)> {
        loop {
            if let Some((header, length)) = header(&self.buffer)
                && self.buffer.len() >= header + length
            {
                assert_eq!(self.buffer[0] & 0xF0, 0x80, "a server's frames are whole and without reserved bits");
                let opcode = self.buffer[0] & 0xF;
                self.buffer.advance(header);
                return Some((opcode, self.buffer.split_to(length).to_vec()));
            }
            if !self.fill().await {
                return None;
            }
        }
    }

    /// The next text, pings answered and passed over.
    pub async fn next_text(&mut self) -> String {
        loop {
            match self.next().await.expect("the connection ended before a text") {
                (1, text) => return String::from_utf8(text).unwrap(),
                (9, payload) => self.frame(0xA, &payload).await,
                other => panic!("not a text: {other:?}"),
            }
        }
    }

    /// As [`Raw::next_text`], pings not answered.
    pub async fn next_text_unanswered(&mut self) -> String {
        loop {
            match self.next().await.expect("the connection ended before a text") {
                (1, text) => return String::from_utf8(text).unwrap(),
                (9, _) => {}
                other => panic!("not a text: {other:?}"),
            }
        }
    }

    /// Code and text of the close frame that must come next (pings apart), after which the connection must end.
    pub async fn closed(&mut self) -> (u16, String) {
        loop {
            match self.next().await.expect("the connection ended without a close frame") {
                (8, payload) => {
                    assert_eq!(self.next().await, None, "a frame behind the close frame");
                    let (code, text) = payload.split_at(2);
                    return (u16::from_be_bytes([code[0], code[1]]), String::from_utf8(text.to_vec()).unwrap());
                }
                (9, _) => {}
                other => panic!("not a close frame: {other:?}"),
            }
        }
    }

    /// Joins in gopusher's words and waits for the answer.
    pub async fn join(&mut self, card: &str, app: &str) {
        self.text(&format!(r#"{{"event":"join","data":{{"app_id":"{app}","card_id":"{card}"}}}}"#)).await;
        assert_eq!(self.next_text().await, OK);
    }

    /// Joins in oxipush.v1 and waits for the answer.
    pub async fn join_v1(&mut self, card: &str, app: &str) {
        self.text(&format!(r#"{{"event":"join","data":{{"card_id":"{card}","app_id":"{app}"}}}}"#)).await;
        let answer = self.next_text().await;
        assert!(answer.contains(r#""event":"joined""#), "{answer}");
    }

    /// What gopusher's next push holds.
    pub async fn content(&mut self) -> String {
        let text = self.next_text().await;
        let push: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(push["type"], 1);
        push["data"].as_str().unwrap().to_owned()
    }

    /// Sees that what is on its way holds nothing before the answer to a ping.
    pub async fn has_nothing(&mut self) {
        self.frame(9, b"fence").await;
        loop {
            match self.next().await {
                Some((9, payload)) => self.frame(0xA, &payload).await,
                other => return assert_eq!(other, Some((0xA, b"fence".to_vec()))),
            }
        }
    }
}

pub fn handshake(path: &str, headers: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nhost: localhost\r\nupgrade: websocket\r\nconnection: Upgrade\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n{headers}\r\n"
    )
}

pub fn masked(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [1, 2, 3, 4];
    let mut frame = vec![0x80 | opcode];
    match payload.len() {
        length @ 0..=125 => frame.push(0x80 | length as u8),
        length @ 126..=0xFFFF => {
            frame.push(0x80 | 126);
            frame.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            frame.push(0x80 | 127);
            frame.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(&mask);
    frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

/// Lengths of a server frame's header and payload, once its header is there.
fn header(buffer: &[u8]) -> Option<(usize, usize)> {
    match *buffer.get(1)? {
        126 => Some((4, u16::from_be_bytes(buffer.get(2..4)?.try_into().unwrap()) as usize)),
        127 => Some((10, u64::from_be_bytes(buffer.get(2..10)?.try_into().unwrap()) as usize)),
        length => Some((2, length as usize)),
    }
}
