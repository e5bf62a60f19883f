//! Clients that go from node to node and are connected at every moment: joined to the next before they leave the last.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::{
    net::TcpStream,
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Message, client::IntoClientRequest},
};

use crate::{fleet::Doors, support::http};

/// What is accepted must have come by then.
const PATIENCE: Duration = Duration::from_secs(20);

pub struct Movers {
    doors: Doors,
    count: usize,
    ledger: Arc<MoveLedger>,
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

#[derive(Default)]
struct MoveLedger {
    moves: AtomicU64,
    /// What came to each mover, and how often.
    got: Mutex<HashMap<(usize, String), u32>>,
    /// What was accepted for each.
    accepted: Mutex<HashSet<(usize, String)>>,
}

pub struct MoveSum {
    pub moves: u64,
    pub copies: u64,
    pub missing: Vec<(usize, String)>,
}

type Socket = WebSocketStream<TcpStream>;

impl Movers {
    /// `count` clients, each of a card and in a room of its own, joined and on their way.
    pub async fn start(doors: Doors, count: usize) -> Self {
        let ledger = Arc::<MoveLedger>::default();
        let stop = watch::Sender::new(false);
        let mut tasks = JoinSet::new();
        for mover in 0..count {
            let socket = joined(doors.sockets[mover % doors.sockets.len()], mover, &ledger).await;
            let (ledger, sockets, stopped) = (ledger.clone(), doors.sockets.clone(), stop.subscribe());
            tasks.spawn(go(socket, sockets, mover, ledger, stopped));
        }
        Self { doors, count, ledger, stop, tasks }
    }

    /// Pushes to each in turn through every node; how many were accepted.
    pub async fn push_for(&self, time: Duration) -> usize {
        let mut tasks = JoinSet::new();
        let begun = Instant::now();
        for node in self.doors.http.clone() {
            let (ledger, count) = (self.ledger.clone(), self.count);
            tasks.spawn(async move {
                let client = http::client();
                for number in 0.. {
                    if begun.elapsed() > time {
                        return;
                    }
                    // some are for one, some for several at once
                    let movers: Vec<usize> = (0..1 + number % 3).map(|more| (number + 5 * more) % count).collect();
                    let content = format!("{node} {number}");
                    let cards: Vec<_> = movers.iter().map(|mover| format!("mover-{mover}")).collect();
                    // each has a room of its own, too
                    let body = match number % 4 {
                        3 => json!({"room": format!("room-{}", movers[0]), "from": "", "content": content}),
                        _ => json!({"to": cards, "from": "", "content": content}),
                    };
                    let movers = if number % 4 == 3 { vec![movers[0]] } else { movers };
                    let answer = client.post(format!("http://{node}/push")).json(&body).send().await.unwrap();
                    assert_eq!(answer.status(), 200);
                    ledger.accepted.lock().unwrap().extend(movers.into_iter().map(|mover| (mover, content.clone())));
                }
            });
        }
        tasks.join_all().await;
        self.ledger.accepted.lock().unwrap().len()
    }

    /// Waits until all has come, or for long enough.
    pub async fn stop(mut self) -> MoveSum {
        let begun = Instant::now();
        while !self.ledger.missing().is_empty() && begun.elapsed() < PATIENCE {
            sleep(Duration::from_millis(50)).await;
        }
        self.stop.send_replace(true);
        while self.tasks.join_next().await.is_some() {}
        let copies = self.ledger.got.lock().unwrap().values().map(|times| u64::from(times - 1)).sum();
        MoveSum { moves: self.ledger.moves.load(Ordering::SeqCst), copies, missing: self.ledger.missing() }
    }
}

impl MoveLedger {
    fn missing(&self) -> Vec<(usize, String)> {
        let got = self.got.lock().unwrap();
        self.accepted.lock().unwrap().iter().filter(|one| !got.contains_key(*one)).cloned().collect()
    }

    fn note(&self, mover: usize, text: &str) {
        let value: Value = serde_json::from_str(text).unwrap();
        if value["event"] == "push" {
            let content = value["data"]["content"].as_str().unwrap().to_owned();
            *self.got.lock().unwrap().entry((mover, content)).or_default() += 1;
        }
    }
}

/// A connection that has joined.
async fn joined(socket: SocketAddr, mover: usize, ledger: &MoveLedger) -> Socket {
    let mut request = format!("ws://{socket}/ws").into_client_request().unwrap();
    request.headers_mut().insert("Sec-WebSocket-Protocol", "oxipush.v1".parse().unwrap());
    let stream = TcpStream::connect(socket).await.unwrap();
    let (mut socket, _) = client_async(request, stream).await.unwrap();
    let join = json!({"event": "join", "data": {"card_id": format!("mover-{mover}")}});
    let subscribe = json!({"event": "subscribe", "data": {"room": format!("room-{mover}")}});
    socket.send(Message::text(join.to_string())).await.unwrap();
    socket.send(Message::text(subscribe.to_string())).await.unwrap();
    loop {
        let Some(Ok(Message::Text(text))) = socket.next().await else { panic!("{mover} is not let in") };
        if text.contains("\"subscribed\"") {
            return socket;
        }
        ledger.note(mover, &text);
    }
}

async fn go(
    mut socket: Socket,
    sockets: Vec<SocketAddr>,
    mover: usize,
    ledger: Arc<MoveLedger>,
    mut stop: watch::Receiver<bool>,
) {
    for turn in 1.. {
        let stays = sleep(Duration::from_millis(fastrand::u64(20..200)));
        tokio::pin!(stays);
        loop {
            tokio::select! {
                next = socket.next() => match next {
                    Some(Ok(Message::Text(text))) => ledger.note(mover, &text),
                    Some(Ok(_)) => {}
                    Some(Err(_)) | None => panic!("{mover} was sent away"),
                },
                () = &mut stays => break,
                _ = stop.wait_for(|stop| *stop) => return,
            }
        }
        let next = joined(sockets[(mover + turn) % sockets.len()], mover, &ledger).await;
        ledger.moves.fetch_add(1, Ordering::SeqCst);
        // it leaves at once: what is on its way to the old node has to follow; what was sent to it already is read
        let mut old = std::mem::replace(&mut socket, next);
        old.close(None).await.unwrap();
        while let Ok(Some(Ok(message))) = timeout(PATIENCE, old.next()).await {
            if let Message::Text(text) = message {
                ledger.note(mover, &text);
            }
        }
    }
}
