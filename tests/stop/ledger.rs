//! Cards whose clients come back, callers that push to them, and what was accepted and received.

#![allow(unreachable_pub)]

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::{SinkExt, StreamExt};
use oxipush::internals::proto::rpc::{PushRequest, rpc_client::RpcClient};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

const CARDS: u64 = 20;
/// Callers over HTTP; half as many push over gRPC.
const CALLERS: usize = 6;
/// A process that was restarted may take as long to hand out what waits.
const PATIENCE: Duration = Duration::from_secs(30);

/// A push's number and one of its cards: what has to be received.
type Owed = (u64, u64);

#[derive(Default)]
struct Books {
    accepted: HashSet<Owed>,
    received: HashMap<Owed, u64>,
}

/// What goes on while a gateway is stopped and started again.
pub struct Traffic {
    at: [SocketAddr; 3],
    books: Mutex<Books>,
    /// The process that serves now, from 1 on; 0: none.
    process: AtomicU64,
    /// With which process each card has a client that joined.
    joined: Vec<AtomicU64>,
    next: AtomicU64,
    over: AtomicBool,
}

/// What came of it.
pub struct Sum {
    pub accepted: usize,
    pub missing: usize,
    pub copies: u64,
}

impl Traffic {
    /// Clients that connect to `at` (socket, http, grpc) whenever they can, and callers that push to those.
    pub fn start(at: [SocketAddr; 3]) -> (Arc<Self>, Vec<JoinHandle<()>>) {
        let traffic = Arc::new(Self {
            at,
            books: Mutex::default(),
            process: AtomicU64::new(0),
            joined: (0..CARDS).map(|_| AtomicU64::new(0)).collect(),
            next: AtomicU64::new(1),
            over: AtomicBool::new(false),
        });
        let mut tasks = Vec::new();
        for card in 0..CARDS {
            tasks.push(tokio::spawn(Arc::clone(&traffic).listen(card)));
        }
        for caller in 0..CALLERS {
            tasks.push(tokio::spawn(Arc::clone(&traffic).push_over_http()));
            if caller % 2 == 0 {
                tasks.push(tokio::spawn(Arc::clone(&traffic).push_over_grpc()));
            }
        }
        (traffic, tasks)
    }

    /// The process number `process` is about to be started; 0: the last one is about to be stopped for good.
    pub fn enters(&self, process: u64) {
        self.process.store(process, Ordering::SeqCst);
    }

    /// Waits until each card has a client that joined with this process.
    pub async fn all_joined(&self) {
        let process = self.process.load(Ordering::SeqCst);
        let begun = Instant::now();
        while self.joined.iter().any(|joined| joined.load(Ordering::SeqCst) != process) {
            assert!(begun.elapsed() < PATIENCE, "the clients do not come back");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Pushes no more, waits for what is still owed, and closes the books.
    pub async fn sum(&self, tasks: Vec<JoinHandle<()>>) -> Sum {
        self.enters(0);
        let begun = Instant::now();
        while self.missing() > 0 && begun.elapsed() < PATIENCE {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        self.over.store(true, Ordering::SeqCst);
        for task in tasks {
            task.await.unwrap();
        }
        let missing = self.missing();
        let books = self.books.lock().unwrap();
        Sum { accepted: books.accepted.len(), missing, copies: books.received.values().map(|times| times - 1).sum() }
    }

    fn missing(&self) -> usize {
        let books = self.books.lock().unwrap();
        books.accepted.iter().filter(|owed| !books.received.contains_key(*owed)).count()
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    async fn listen(self: Arc<Self>, card: u64) {
        let url = format!("ws://{}/ws", self.at[0]);
        while !self.is_over() {
            let process = self.process.load(Ordering::SeqCst);
            let Ok((mut socket, _)) = tokio_tungstenite::connect_async(&url).await else {
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            };
            let join = json!({"event": "join", "data": {"app_id": "", "card_id": format!("card-{card}")}});
            let _ = socket.send(join.to_string().into()).await;
            loop {
                match tokio::time::timeout(Duration::from_millis(200), socket.next()).await {
                    Err(_) if self.is_over() => return,
                    Err(_) => {}
                    Ok(Some(Ok(message))) => {
                        let Ok(text) = message.into_text() else { continue };
                        let Ok(value) = serde_json::from_str::<Value>(&text) else { continue };
                        match value["data"].as_str().map(str::parse::<u64>) {
                            Some(Ok(number)) => {
                                *self.books.lock().unwrap().received.entry((number, card)).or_default() += 1;
                            }
                            // it may be another's answer than the one that was asked for
                            Some(Err(_)) if self.process.load(Ordering::SeqCst) != process => break,
                            Some(Err(_)) => self.joined[card as usize].store(process, Ordering::SeqCst),
                            None => {}
                        }
                    }
                    Ok(_) => break,
                }
            }
            self.joined[card as usize].store(0, Ordering::SeqCst);
        }
    }

    /// A number and the cards to push it to: one, or sometimes two, whose clients joined with the process that serves now.
    fn draw(&self) -> Option<(u64, Vec<u64>)> {
        let number = self.next.fetch_add(1, Ordering::SeqCst);
        let mut cards = vec![number % CARDS];
        if number.is_multiple_of(4) {
            cards.push((number + 7) % CARDS);
        }
        let process = self.process.load(Ordering::SeqCst);
        let there = |card: &u64| self.joined[*card as usize].load(Ordering::SeqCst) == process;
        (process != 0 && cards.iter().all(there)).then_some((number, cards))
    }

    fn accept(&self, number: u64, cards: &[u64]) {
        self.books.lock().unwrap().accepted.extend(cards.iter().map(|card| (number, *card)));
    }

    async fn push_over_http(self: Arc<Self>) {
        let client = crate::support::http::builder().timeout(PATIENCE).build().unwrap();
        let url = format!("http://{}/push", self.at[1]);
        while !self.is_over() {
            let Some((number, cards)) = self.draw() else {
                tokio::time::sleep(Duration::from_millis(2)).await;
                continue;
            };
            let to: Vec<_> = cards.iter().map(|card| format!("card-{card}")).collect();
            let body = json!({"from": "", "to": to, "appID": "", "content": number.to_string()});
            match client.post(&url).json(&body).send().await {
                Ok(answer) if answer.status() == 200 => self.accept(number, &cards),
                _ => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    }

    async fn push_over_grpc(self: Arc<Self>) {
        while !self.is_over() {
            let Ok(mut client) = RpcClient::connect(format!("http://{}", self.at[2])).await else {
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            };
            while !self.is_over() {
                let Some((number, cards)) = self.draw() else {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                    continue;
                };
                let to = cards.iter().map(|card| format!("card-{card}")).collect();
                let request = PushRequest { to, content: number.to_string(), ..Default::default() };
                match tokio::time::timeout(PATIENCE, client.push(request)).await {
                    Ok(Ok(_)) => self.accept(number, &cards),
                    _ => break,
                }
            }
        }
    }
}
