//! Many clients that come back, and a ledger of what each connection got while it was open.
#![allow(dead_code, unreachable_pub)] // each test crate uses a part of it

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::{sync::watch, task::JoinSet};
use tokio_tungstenite::{
    connect_async,
    tungstenite::{Message, client::IntoClientRequest},
};

/// One connection's life.
pub struct Connection {
    pub card: String,
    /// Since it was told that it joined.
    pub from: Instant,
    pub until: Option<Instant>,
    /// The close code it ended with.
    pub code: Option<u16>,
    /// How often each content came.
    pub got: HashMap<String, u32>,
}

/// A push that was accepted.
pub struct Accepted {
    pub card: String,
    pub content: String,
    pub sent: Instant,
    pub accepted: Instant,
}

#[derive(Clone)]
pub struct Clients {
    connections: Arc<Mutex<Vec<Connection>>>,
    stop: watch::Sender<bool>,
    tasks: Arc<Mutex<JoinSet<()>>>,
}

impl Clients {
    /// `count` of them, spread over `cards` cards (card-0, card-1, …), joined.
    pub async fn start(url: &str, count: usize, cards: usize) -> Self {
        let clients = Self { connections: Arc::default(), stop: watch::Sender::new(false), tasks: Arc::default() };
        clients.add(url, count, cards).await;
        clients
    }

    /// More of them.
    pub async fn add(&self, url: &str, count: usize, cards: usize) {
        let wanted = self.open() + count;
        for number in 0..count {
            let (clients, url) = (self.clone(), url.to_owned());
            let card = format!("card-{}", number % cards);
            self.tasks.lock().unwrap().spawn(async move { clients.client(&url, &card).await });
        }
        self.all_open(wanted).await;
    }

    async fn client(&self, url: &str, card: &str) {
        let mut stop = self.stop.subscribe();
        while !*stop.borrow() {
            tokio::select! {
                _ = self.connection(url, card) => {}
                _ = stop.changed() => return,
            }
            // a node that drains asks for a random delay
            tokio::time::sleep(Duration::from_millis(50 + fastrand::u64(..300))).await;
        }
    }

    async fn connection(&self, url: &str, card: &str) -> Option<()> {
        let mut request = url.into_client_request().unwrap();
        request.headers_mut().insert("Sec-WebSocket-Protocol", "oxipush.v1".parse().unwrap());
        let opening = tokio::time::timeout(Duration::from_secs(10), connect_async(request)).await;
        let (mut socket, _) = opening.ok()?.ok()?;
        let join = json!({"event": "join", "data": {"app_id": "", "card_id": card}});
        socket.send(Message::text(join.to_string())).await.ok()?;
        let mut place = None;
        while let Some(message) = socket.next().await {
            match message {
                Ok(Message::Text(text)) => {
                    let value: Value = serde_json::from_str(&text).unwrap();
                    match value["event"].as_str() {
                        Some("joined") => {
                            let mut connections = self.connections.lock().unwrap();
                            place = Some(connections.len());
                            connections.push(Connection {
                                card: card.to_owned(),
                                from: Instant::now(),
                                until: None,
                                code: None,
                                got: HashMap::new(),
                            });
                        }
                        Some("push") => {
                            let content = value["data"]["content"].as_str().unwrap().to_owned();
                            let mut connections = self.connections.lock().unwrap();
                            *connections[place.expect("joined first")].got.entry(content).or_default() += 1;
                        }
                        _ => {}
                    }
                }
                Ok(Message::Close(frame)) => {
                    if let Some(place) = place {
                        self.connections.lock().unwrap()[place].code = frame.map(|frame| frame.code.into());
                    }
                }
                Ok(_) => {}
                Err(_) => break,
            }
        }
        if let Some(place) = place {
            self.connections.lock().unwrap()[place].until = Some(Instant::now());
        }
        None
    }

    /// How many are joined now.
    pub fn open(&self) -> usize {
        self.connections.lock().unwrap().iter().filter(|connection| connection.until.is_none()).count()
    }

    /// How many connections ended with this close code.
    pub fn closed_with(&self, code: u16) -> usize {
        self.connections.lock().unwrap().iter().filter(|connection| connection.code == Some(code)).count()
    }

    /// Waits until so many are joined.
    pub async fn all_open(&self, wanted: usize) {
        super::support::until(&format!("{wanted} clients are joined, not {}", self.open()), || async {
            (self.open() == wanted).then_some(())
        })
        .await;
    }

    /// When the last of the open connections joined.
    pub fn last_joined(&self) -> Instant {
        self.connections.lock().unwrap().iter().map(|connection| connection.from).max().unwrap()
    }

    /// What is missing: pushes and how many connections, open from before until long after, did not get them.
    pub fn missing(&self, pushes: &[Accepted], long: Duration) -> Vec<String> {
        let connections = self.connections.lock().unwrap();
        let mut missing = Vec::new();
        for push in pushes {
            let lacking = connections
                .iter()
                .filter(|connection| connection.card == push.card && connection.from < push.sent)
                .filter(|connection| connection.until.is_none_or(|until| until > push.accepted + long))
                .filter(|connection| !connection.got.contains_key(&push.content))
                .count();
            if lacking > 0 {
                missing.push(format!("{} to {} lacks at {lacking}", push.content, push.card));
            }
        }
        missing
    }

    /// Waits until nothing is missing.
    pub async fn complete(&self, pushes: &[Accepted]) {
        let long = Duration::from_secs(10);
        let begun = Instant::now();
        while !self.missing(pushes, long).is_empty() {
            let missing = self.missing(pushes, long);
            assert!(begun.elapsed() < super::support::PATIENCE, "of {}: {missing:#?}", pushes.len());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// The most often that any connection got one content.
    pub fn most_copies(&self) -> u32 {
        let connections = self.connections.lock().unwrap();
        connections.iter().flat_map(|connection| connection.got.values()).copied().max().unwrap_or(0)
    }

    pub async fn stop(self) {
        self.stop.send_replace(true);
        let mut tasks = std::mem::take(&mut *self.tasks.lock().unwrap());
        while tasks.join_next().await.is_some() {}
    }
}

/// Answers other than 200, how often each.
pub type Refused = HashMap<String, usize>;

/// Pushes to the cards in turn until told to stop; what was accepted.
pub struct Pusher {
    stop: watch::Sender<bool>,
    task: tokio::task::JoinHandle<(Vec<Accepted>, Refused)>,
}

impl Pusher {
    pub fn start(http: &str, cards: usize, every: Duration) -> Self {
        let (stop, stopped) = watch::channel(false);
        let url = format!("{http}/push");
        let task = tokio::spawn(async move {
            let client = crate::support::http::builder().timeout(Duration::from_secs(10)).build().unwrap();
            let (mut accepted, mut refused) = (Vec::new(), Refused::new());
            let run = fastrand::u32(..);
            for number in 0.. {
                if *stopped.borrow() {
                    break;
                }
                let (card, content) = (format!("card-{}", number % cards), format!("{run}-{number}"));
                let sent = Instant::now();
                let body = json!({"from": "test", "to": [card], "appID": "", "content": content});
                match client.post(&url).json(&body).send().await {
                    Ok(answer) if answer.status() == 200 => {
                        accepted.push(Accepted { card, content, sent, accepted: Instant::now() });
                    }
                    Ok(answer) => {
                        let why = format!("{} {}", answer.status(), answer.text().await.unwrap_or_default());
                        *refused.entry(why).or_default() += 1;
                    }
                    Err(error) => *refused.entry(format!("{error:?}")).or_default() += 1,
                }
                tokio::time::sleep(every).await;
            }
            (accepted, refused)
        });
        Self { stop, task }
    }

    /// What was accepted, and what was not.
    pub async fn stop(self) -> (Vec<Accepted>, Refused) {
        self.stop.send_replace(true);
        self.task.await.unwrap()
    }
}
