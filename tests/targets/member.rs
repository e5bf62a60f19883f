//! One client of oxipush.v1, its commands, and what it was pushed.

use std::sync::{Arc, Mutex};

use futures_util::{
    SinkExt, StreamExt,
    stream::{SplitSink, SplitStream},
};
use serde_json::{Value, json};
use tokio::{
    net::TcpStream,
    sync::{mpsc, watch},
    time::timeout,
};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, tungstenite::Message};

use super::{
    model::{Change, Clock, History, Membership, Name},
    support::client::{Client, PATIENCE},
};

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// One change that a client asks for.
#[derive(Clone, Copy, Debug)]
pub enum Step {
    Join(Name, Name),
    Leave(Name),
    LeaveAll,
    Subscribe(Name),
    Unsubscribe(Name),
    Disconnect,
}

/// A connection, from its handshake on, also after it ended.
pub struct Member {
    /// For messages.
    pub name: String,
    pub node: usize,
    /// As the gateway names it; empty before its first join.
    pub client: String,
    pub history: History,
    pub open: bool,
    clock: Arc<Clock>,
    sink: SplitSink<Socket, Message>,
    answers: mpsc::UnboundedReceiver<Value>,
    /// The pushes in their order.
    heard: Arc<Mutex<Vec<Value>>>,
    count: watch::Receiver<usize>,
}

impl Member {
    pub async fn connect(name: String, url: &str, node: usize, clock: &Arc<Clock>) -> Self {
        let (sink, stream) = Client::connect(url, true).await.socket.split();
        let (answer, answers) = mpsc::unbounded_channel();
        let (counted, count) = watch::channel(0);
        let heard = Arc::new(Mutex::new(Vec::new()));
        tokio::spawn(read(stream, answer, Arc::clone(&heard), counted));
        let (client, history) = (String::new(), History::default());
        Self { name, node, client, history, open: true, clock: Arc::clone(clock), sink, answers, heard, count }
    }

    /// Does a step, waits for its answer, and notes when that was.
    pub async fn step(&mut self, step: Step) {
        let mut after = self.history.now();
        match step {
            Step::Join(card, app) => {
                let answer =
                    self.ask(json!({"event": "join", "data": {"card_id": card, "app_id": app}}), "joined").await;
                let client = answer["data"]["client"].as_str().unwrap_or_else(|| panic!("{}: {answer}", self.name));
                assert!(self.client.is_empty() || self.client == client, "{}: {answer}", self.name);
                self.client = client.into();
                after.cards.insert(card, app);
            }
            Step::Leave(card) => {
                self.ask(json!({"event": "leave", "data": {"card_id": card}}), "left").await;
                after.cards.remove(card);
            }
            Step::LeaveAll => {
                self.ask(json!({"event": "leave"}), "left").await;
                after.cards.clear();
            }
            Step::Subscribe(room) => {
                let answer = self.ask(json!({"event": "subscribe", "data": {"room": room}}), "subscribed").await;
                assert_eq!(answer["data"]["room"], room, "{}", self.name);
                after.rooms.insert(room);
            }
            Step::Unsubscribe(room) => {
                let answer = self.ask(json!({"event": "unsubscribe", "data": {"room": room}}), "unsubscribed").await;
                assert_eq!(answer["data"]["room"], room, "{}", self.name);
                after.rooms.remove(room);
            }
            Step::Disconnect => {
                self.close().await;
                after = Membership::default();
            }
        }
        self.history.push(Change { answered: self.clock.now(), after });
    }

    async fn ask(&mut self, command: Value, event: &str) -> Value {
        self.sink.send(Message::text(command.to_string())).await.unwrap();
        let answer =
            timeout(PATIENCE, self.answers.recv()).await.unwrap_or_else(|_| panic!("{} hears nothing", self.name));
        let answer = answer.unwrap_or_else(|| panic!("{} was closed after {command}", self.name));
        assert_eq!(answer["event"], event, "{}: {command}: {answer}", self.name);
        answer
    }

    /// What was written to it before this is read after this.
    pub async fn ping(&mut self) {
        self.ask(json!({"event": "ping"}), "pong").await;
    }

    /// Closes in order; what comes before the gateway's answer still counts.
    async fn close(&mut self) {
        self.open = false;
        self.sink.send(Message::Close(None)).await.unwrap();
        let end = timeout(PATIENCE, self.answers.recv()).await.unwrap_or_else(|_| panic!("{} stays open", self.name));
        assert_eq!(end, None, "{}", self.name);
    }

    /// The pushes so far, in their order.
    pub fn heard(&self) -> Vec<Value> {
        self.heard.lock().unwrap().clone()
    }

    /// Waits until it has so many pushes of this content.
    pub async fn hears(&mut self, content: &str, times: usize) {
        let heard = Arc::clone(&self.heard);
        let enough = || heard.lock().unwrap().iter().filter(|push| push["content"] == content).count() >= times;
        let waited = timeout(PATIENCE, self.count.wait_for(|_| enough())).await;
        let why = || format!("{}: {content} did not come {times} times; heard {:?}", self.name, heard.lock().unwrap());
        waited.unwrap_or_else(|_| panic!("{}", why())).unwrap_or_else(|_| panic!("closed: {}", why()));
    }
}

/// Sorts what a client hears, until it ends.
async fn read(
    mut stream: SplitStream<Socket>,
    answer: mpsc::UnboundedSender<Value>,
    heard: Arc<Mutex<Vec<Value>>>,
    counted: watch::Sender<usize>,
) {
    while let Some(Ok(message)) = stream.next().await {
        let Message::Text(text) = message else { continue };
        let mut value: Value = serde_json::from_str(&text).unwrap();
        match value["event"].as_str() {
            Some("push") => {
                heard.lock().unwrap().push(value["data"].take());
                counted.send_modify(|count| *count += 1);
            }
            // nobody waits any more where the test failed
            _ => drop(answer.send(value)),
        }
    }
}
