//! Clients on all nodes that come back when they lose theirs, and callers that push through every door.
#![allow(dead_code, unreachable_pub)] // each test crate uses a part of it

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::{SinkExt, StreamExt};
use oxipush::internals::proto::rpc;
use prost::Message as _;
use serde_json::{Value, json};
use tokio::{
    net::TcpStream,
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_tungstenite::{
    client_async,
    tungstenite::{Message, client::IntoClientRequest},
};

use crate::support::{
    http,
    ledger::{Ledger, Whom},
};

/// Cards and rooms that the clients share.
pub const CARDS: usize = 20;
pub const ROOMS: usize = 5;

/// Where the nodes listen.
#[derive(Clone)]
pub struct Doors {
    pub sockets: Vec<SocketAddr>,
    pub http: Vec<SocketAddr>,
    pub grpc: Vec<SocketAddr>,
    /// HTTP of the nsqds, for raw pushes.
    pub nsqds: Vec<String>,
}

pub struct Fleet {
    pub ledger: Arc<Ledger>,
    pub doors: Doors,
    next: Arc<AtomicU64>,
    stop: watch::Sender<bool>,
    clients: JoinSet<()>,
    /// Pushers of the run that goes on.
    pushers: Option<(watch::Sender<bool>, JoinSet<()>)>,
    lanes: u32,
    /// One for all: each takes a while to make.
    client: reqwest::Client,
    refused: Arc<Mutex<HashMap<String, usize>>>,
}

impl Fleet {
    /// `count` clients, joined and subscribed, on the nodes in turn.
    pub async fn start(doors: Doors, count: usize) -> Self {
        let mut fleet = Self {
            ledger: Arc::default(),
            doors,
            next: Arc::new(AtomicU64::new(1)),
            stop: watch::Sender::new(false),
            clients: JoinSet::new(),
            pushers: None,
            lanes: 0,
            client: http::builder().timeout(Duration::from_secs(10)).build().unwrap(),
            refused: Arc::default(),
        };
        for client in 0..count {
            let (ledger, sockets) = (fleet.ledger.clone(), fleet.doors.sockets.clone());
            let mut stop = fleet.stop.subscribe();
            fleet.clients.spawn(async move {
                let mut node = client % sockets.len();
                loop {
                    tokio::select! {
                        _ = session(&ledger, &sockets, client, node) => {}
                        _ = stop.wait_for(|stop| *stop) => return,
                    }
                    // as through a load balancer
                    node = (node + 1) % sockets.len();
                    sleep(Duration::from_millis(50 + fastrand::u64(..200))).await;
                }
            });
        }
        fleet.all_joined(count).await;
        fleet
    }

    pub async fn all_joined(&self, count: usize) {
        let begun = Instant::now();
        while self.ledger.open() < count {
            assert!(begun.elapsed() < Duration::from_secs(60), "{} of {count} clients are joined", self.ledger.open());
            sleep(Duration::from_millis(20)).await;
        }
    }

    fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::SeqCst)
    }

    /// A push through the HTTP of a node; whether it was accepted.
    pub async fn by_http(&self, node: usize, whom: Whom, lane: u32) -> bool {
        push_by_http(&self.client, &self.doors, &self.ledger, self.number(), (node, whom, lane), &self.refused).await
    }

    pub async fn by_grpc(&self, node: usize, whom: Whom, lane: u32) {
        let number = self.number();
        let url = format!("http://{}", self.doors.grpc[node]);
        let mut client = rpc::rpc_client::RpcClient::connect(url).await.unwrap();
        let sent = self.ledger.send(number);
        let reply = client.push(request(number, whom)).await.unwrap().into_inner();
        self.ledger.accept(number, whom, Some(lane), sent, Some(reply.id));
    }

    /// As any other NSQ client.
    pub async fn by_nsq(&self, nsqd: usize, whom: Whom) {
        let number = self.number();
        let url = format!("http://{}/pub?topic=gopusher", self.doors.nsqds[nsqd]);
        let sent = self.ledger.send(number);
        let answer = self.client.post(url).body(request(number, whom).encode_to_vec()).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        self.ledger.accept(number, whom, None, sent, None);
    }

    /// Two pushes to each card, each room and everyone through the HTTP of each node, and one by gRPC and as any other NSQ client, all at
    /// once.
    pub async fn push_through_every_door(&self) {
        let addresses = || (0..CARDS).map(Whom::Card).chain((0..ROOMS).map(Whom::Room)).chain([Whom::Everyone]);
        let nodes = self.doors.http.len();
        let by_http = (0..nodes).map(|node| async move {
            for whom in addresses().chain(addresses()) {
                assert!(self.by_http(node, whom, node as u32).await, "it is accepted");
            }
        });
        tokio::join!(futures_util::future::join_all(by_http), async {
            for (number, whom) in addresses().enumerate() {
                self.by_grpc(number % nodes, whom, 10 + (number % nodes) as u32).await;
            }
            for (number, whom) in addresses().enumerate() {
                self.by_nsq(number % self.doors.nsqds.len(), whom).await;
            }
        });
    }

    /// Pushes to everybody in turn until [`Fleet::pushed`], `lanes` at once for each node, each every `every`.
    pub fn push(&mut self, lanes: u32, every: Duration) {
        let (stop, stopped) = watch::channel(false);
        let mut tasks = JoinSet::new();
        for node in 0..self.doors.http.len() {
            for _ in 0..lanes {
                self.lanes += 1;
                let lane = self.lanes;
                let (doors, ledger, next) = (self.doors.clone(), self.ledger.clone(), self.next.clone());
                let (stopped, refused, client) = (stopped.clone(), self.refused.clone(), self.client.clone());
                tasks.spawn(async move {
                    while !*stopped.borrow() {
                        let number = next.fetch_add(1, Ordering::SeqCst);
                        let whom = whom(number);
                        push_by_http(&client, &doors, &ledger, number, (node, whom, lane), &refused).await;
                        sleep(every).await;
                    }
                });
            }
        }
        self.pushers = Some((stop, tasks));
    }

    /// Ends [`Fleet::push`]; what was refused, by its answer.
    pub async fn pushed(&mut self) -> HashMap<String, usize> {
        if let Some((stop, mut tasks)) = self.pushers.take() {
            stop.send_replace(true);
            while tasks.join_next().await.is_some() {}
        }
        std::mem::take(&mut *self.refused.lock().unwrap())
    }

    pub async fn stop(mut self) {
        self.pushed().await;
        self.stop.send_replace(true);
        while self.clients.join_next().await.is_some() {}
    }
}

/// Each hundredth is for everyone, each tenth for a room.
fn whom(number: u64) -> Whom {
    match number {
        _ if number % 100 == 99 => Whom::Everyone,
        _ if number % 10 == 9 => Whom::Room(number as usize / 10 % ROOMS),
        _ => Whom::Card(number as usize % CARDS),
    }
}

fn request(number: u64, whom: Whom) -> rpc::PushRequest {
    let base = rpc::PushRequest { from: "test".into(), content: number.to_string(), ..Default::default() };
    match whom {
        Whom::Card(card) => rpc::PushRequest { to: vec![format!("card-{card}")], ..base },
        Whom::Room(room) => rpc::PushRequest { room: format!("room-{room}"), ..base },
        Whom::Everyone => rpc::PushRequest { everyone: true, ..base },
    }
}

async fn push_by_http(
    client: &reqwest::Client,
    doors: &Doors,
    ledger: &Ledger,
    number: u64,
    (node, whom, lane): (usize, Whom, u32),
    refused: &Mutex<HashMap<String, usize>>,
) -> bool {
    let mut body = match whom {
        Whom::Card(card) => json!({"to": [format!("card-{card}")]}),
        Whom::Room(room) => json!({"room": format!("room-{room}")}),
        Whom::Everyone => json!({"everyone": true}),
    };
    body["from"] = "test".into();
    body["content"] = number.to_string().into();
    let sent = ledger.send(number);
    let answered = async {
        let answer = client.post(format!("http://{}/push", doors.http[node])).json(&body).send().await;
        let answer = answer.map_err(|_| "no answer".to_owned())?;
        let status = answer.status().as_u16();
        let told: Value = answer.json().await.unwrap_or_default();
        match status {
            200 => Ok(told["id"].as_str().unwrap_or_default().to_owned()),
            _ => Err(format!("{status} {}", told["message"].as_str().unwrap_or_default())),
        }
    };
    match answered.await {
        Ok(id) => {
            ledger.accept(number, whom, Some(lane), sent, Some(id));
            true
        }
        Err(why) => {
            *refused.lock().unwrap().entry(why).or_default() += 1;
            false
        }
    }
}

/// One connection of a client.
async fn session(ledger: &Ledger, sockets: &[SocketAddr], client: usize, node: usize) -> Option<()> {
    let (card, room) = (client % CARDS, client % ROOMS);
    let mut request = format!("ws://{}/ws", sockets[node]).into_client_request().unwrap();
    request.headers_mut().insert("Sec-WebSocket-Protocol", "oxipush.v1".parse().unwrap());
    let connecting = async { client_async(request, TcpStream::connect(sockets[node]).await.ok()?).await.ok() };
    // a frozen process accepts and does not answer
    let (mut socket, _) = timeout(Duration::from_secs(5), connecting).await.ok()??;
    let join = json!({"event": "join", "data": {"card_id": format!("card-{card}"), "app_id": ""}});
    let subscribe = json!({"event": "subscribe", "data": {"room": format!("room-{room}")}});
    socket.send(Message::text(join.to_string())).await.ok()?;
    socket.send(Message::text(subscribe.to_string())).await.ok()?;
    let mut place = None;
    // what comes to the card before the room is subscribed to
    let mut early = Vec::new();
    let joining = Instant::now();
    loop {
        let next = match place {
            Some(_) => socket.next().await,
            None => timeout(Duration::from_secs(10).saturating_sub(joining.elapsed()), socket.next()).await.ok()?,
        };
        let text = match next {
            Some(Ok(Message::Text(text))) => text,
            Some(Ok(_)) => continue,
            Some(Err(_)) | None => break,
        };
        let value: Value = serde_json::from_str(&text).unwrap();
        let data = &value["data"];
        match value["event"].as_str() {
            Some("subscribed") => {
                let session = ledger.begin(client, node, card, room);
                place = Some(session);
                for (content, id) in early.drain(..) {
                    let (content, id): (String, String) = (content, id);
                    ledger.deliver(session, &content, &id);
                }
            }
            Some("push") => {
                let content = data["content"].as_str().unwrap_or_default();
                let id = data["id"].as_str().unwrap_or_default();
                match place {
                    Some(session) => ledger.deliver(session, content, id),
                    None => early.push((content.to_owned(), id.to_owned())),
                }
            }
            Some("error") => ledger.complain(format!("client {client} was told {value}")),
            _ => {}
        }
    }
    if let Some(session) = place {
        ledger.end(session);
    }
    Some(())
}
