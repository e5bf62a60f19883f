//! Callers that store pushes, and readers of every kind that come and go, at one gateway or at several.
#![allow(dead_code, unreachable_pub)] // each test crate uses a part of it

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::{
    net::{TcpSocket, TcpStream},
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Message, client::IntoClientRequest},
};

use super::books::{Books, ReaderBook};
use crate::support::{http, stream};

const CARDS: usize = 8;
/// The stream that is a room's.
const ROOM: usize = CARDS;
const CALLERS: usize = 6;
/// What is accepted must have come by then, once all is well again.
const PATIENCE: Duration = Duration::from_secs(90);

/// How a reader behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Habit {
    /// Stays, acknowledges, and comes back as its device.
    Stays,
    /// Leaves for a while again and again; comes back with its place, or as its device.
    Drops,
    /// Does not read for seconds.
    Sleeps,
    /// gopusher's client: its Pongs acknowledge.
    Old,
    /// A reader of the room, which keeps its place itself.
    Room,
}

/// How long who drops stays, and is away.
#[derive(Clone, Copy)]
pub struct Rhythm {
    pub stays: Duration,
    pub away: Duration,
}

/// What goes on while things go wrong.
pub struct Traffic {
    /// Where each gateway listens: socket, http, grpc.
    at: Vec<[SocketAddr; 3]>,
    rhythm: Rhythm,
    books: Mutex<Books>,
    readers: Vec<Mutex<ReaderBook>>,
    /// The process of each gateway that runs now.
    processes: Vec<AtomicU64>,
    /// The number of the next process.
    next_process: AtomicU64,
    killed: Mutex<HashMap<u64, Instant>>,
    next: AtomicU64,
    is_pushing: AtomicBool,
    is_over: AtomicBool,
}

/// What came of it.
pub struct Sum {
    pub accepted: usize,
    pub readers: usize,
    pub deliveries: u64,
    pub missing: usize,
    pub copies: u64,
    pub wrong: Vec<String>,
}

type Socket = WebSocketStream<TcpStream>;

impl Traffic {
    /// Readers that connect to one of `at` (socket, http, grpc) whenever they can, and callers that push there.
    pub fn start(at: &[[SocketAddr; 3]], rhythm: Rhythm) -> (Arc<Self>, Vec<JoinHandle<()>>) {
        let mut habits: Vec<_> = (0..CARDS).flat_map(|card| [(card, Habit::Stays), (card, Habit::Drops)]).collect();
        habits.extend((0..CARDS).step_by(4).map(|card| (card, Habit::Sleeps)));
        habits.extend((0..CARDS).step_by(3).map(|card| (card, Habit::Old)));
        habits.extend([(ROOM, Habit::Room); 3]);
        // one gateway knows at once what it was told; another reads it from the store, which counts as away when the machine is
        // too busy for it, and has then yet to hear of it
        let lag = if at.len() > 1 { Duration::from_secs(30) } else { Duration::ZERO };
        let book = |(number, (stream, habit)): (usize, &(usize, Habit))| {
            Mutex::new(ReaderBook::new(format!("reader {number} ({habit:?}) of stream {stream}"), *stream, lag))
        };
        let traffic = Arc::new(Self {
            at: at.to_vec(),
            rhythm,
            books: Mutex::default(),
            readers: habits.iter().enumerate().map(book).collect(),
            processes: at.iter().map(|_| AtomicU64::new(0)).collect(),
            next_process: AtomicU64::new(1),
            killed: Mutex::default(),
            next: AtomicU64::new(1),
            is_pushing: AtomicBool::new(true),
            is_over: AtomicBool::new(false),
        });
        let mut tasks = Vec::new();
        for (number, (_, habit)) in habits.into_iter().enumerate() {
            tasks.push(tokio::spawn(Arc::clone(&traffic).read(number, habit)));
        }
        for caller in 0..CALLERS {
            // who has keys tries again until it is answered
            tasks.push(tokio::spawn(Arc::clone(&traffic).push(caller % 3 != 0)));
        }
        (traffic, tasks)
    }

    /// A process of this gateway is about to be started.
    pub fn begins(&self, gateway: usize) {
        let number = self.next_process.fetch_add(1, Ordering::SeqCst);
        self.processes[gateway].store(number, Ordering::SeqCst);
    }

    /// It is about to be killed, and could write nothing since then.
    pub fn dies(&self, gateway: usize, since: Instant) {
        self.killed.lock().unwrap().insert(self.processes[gateway].load(Ordering::SeqCst), since);
    }

    /// Any of them, as through a load balancer.
    fn gateway(&self) -> usize {
        fastrand::usize(..self.at.len())
    }

    /// Waits until so many more pushes were accepted; whether they were, within a minute.
    pub async fn accepts(&self, more: usize) -> bool {
        let goal = self.accepted() + more;
        let accepted = async {
            while self.accepted() < goal {
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(Duration::from_secs(60), accepted).await.is_ok()
    }

    fn accepted(&self) -> usize {
        self.books.lock().unwrap().accepted()
    }

    /// Pushes no more, waits until all that was accepted has come to every reader, and closes the books.
    pub async fn sum(&self, tasks: Vec<JoinHandle<()>>) -> Sum {
        self.is_pushing.store(false, Ordering::SeqCst);
        let begun = Instant::now();
        while self.missing() > 0 && begun.elapsed() < PATIENCE {
            sleep(Duration::from_millis(100)).await;
        }
        self.is_over.store(true, Ordering::SeqCst);
        for task in tasks {
            task.await.unwrap();
        }
        let missing = self.missing();
        let books = self.books.lock().unwrap();
        Sum {
            accepted: books.accepted(),
            readers: self.readers.len(),
            deliveries: books.deliveries,
            missing,
            copies: books.copies,
            wrong: books.wrong().to_vec(),
        }
    }

    fn missing(&self) -> usize {
        let books = self.books.lock().unwrap();
        self.readers.iter().map(|reader| books.missing(&reader.lock().unwrap())).sum()
    }

    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::SeqCst)
    }

    async fn read(self: Arc<Self>, number: usize, habit: Habit) {
        while !self.is_over() {
            // before it connects: an acknowledgement must not be taken for one of a later process
            let gateway = self.gateway();
            let process = self.processes[gateway].load(Ordering::SeqCst);
            if let Some(socket) = self.connect(gateway, habit).await {
                let (old, asked) = (Vec::new(), None);
                let mut session = Session { traffic: &self, number, habit, process, socket, old, asked };
                session.run().await;
                session.check_old();
            }
            let away = if habit == Habit::Drops { self.rhythm.away } else { Duration::from_millis(10) };
            sleep(away).await;
        }
    }

    async fn connect(&self, gateway: usize, habit: Habit) -> Option<Socket> {
        let tcp = TcpSocket::new_v4().unwrap();
        if habit == Habit::Sleeps {
            tcp.set_recv_buffer_size(4096).unwrap();
        }
        let at = self.at[gateway][0];
        let mut request = format!("ws://{at}/ws").into_client_request().unwrap();
        if habit != Habit::Old {
            request.headers_mut().insert("Sec-WebSocket-Protocol", "oxipush.v1".parse().unwrap());
        }
        let connected = async { client_async(request, tcp.connect(at).await.ok()?).await.ok() };
        // a frozen process accepts and does not answer
        timeout(Duration::from_secs(5), connected).await.ok()?.map(|(socket, _)| socket)
    }

    async fn push(self: Arc<Self>, has_keys: bool) {
        let client = http::builder().timeout(Duration::from_secs(5)).build().unwrap();
        while self.is_pushing.load(Ordering::SeqCst) {
            let number = self.next.fetch_add(1, Ordering::SeqCst);
            let (streams, mut body) = address(number);
            body["content"] = number.to_string().into();
            body["offline"] = true.into();
            if has_keys {
                body["idempotency_key"] = format!("key-{number}").into();
            }
            while !self.is_over() {
                let answered = async {
                    let url = format!("http://{}/push", self.at[self.gateway()][1]);
                    let answer = client.post(url).json(&body).send().await.ok()?;
                    let status = answer.status().as_u16();
                    Some((status, answer.json::<Value>().await.ok()?))
                };
                match answered.await {
                    Some((200, answer)) => {
                        let id = answer["id"].as_str().unwrap_or_default().to_owned();
                        self.books.lock().unwrap().accept(number, id, &streams);
                        break;
                    }
                    Some((429 | 503, _)) | None => sleep(Duration::from_millis(10)).await,
                    Some((status, answer)) => {
                        self.books.lock().unwrap().complain(format!("push {number}: {status} {answer}"));
                        break;
                    }
                }
                if !has_keys {
                    break;
                }
            }
            sleep(Duration::from_millis(fastrand::u64(1..12))).await;
        }
    }
}

/// The streams of a push, and what names them: a card, sometimes three, or the room.
fn address(number: u64) -> (Vec<usize>, Value) {
    let card = number as usize % CARDS;
    match number % 7 {
        0 => (vec![ROOM], json!({"room": "news"})),
        1 => {
            let cards = vec![card, (card + 3) % CARDS, (card + 5) % CARDS];
            let to: Vec<_> = cards.iter().map(|card| format!("card-{card}")).collect();
            (cards, json!({"to": to}))
        }
        _ => (vec![card], json!({"to": [format!("card-{card}")]})),
    }
}

/// A connection of a reader.
struct Session<'a> {
    traffic: &'a Traffic,
    number: usize,
    habit: Habit,
    /// The one that runs at the other end, or one before it.
    process: u64,
    socket: Socket,
    /// What gopusher's client got, in order.
    old: Vec<u64>,
    /// An acknowledgement whose ping waits for its pong.
    asked: Option<u64>,
}

impl Session<'_> {
    fn book(&self) -> std::sync::MutexGuard<'_, ReaderBook> {
        self.traffic.readers[self.number].lock().unwrap()
    }

    async fn say(&mut self, value: Value) -> Option<()> {
        timeout(Duration::from_secs(5), self.socket.send(Message::text(value.to_string()))).await.ok()?.ok()
    }

    /// Until it leaves or is left.
    async fn run(&mut self) -> Option<()> {
        let (stream, place) = {
            let book = self.book();
            (book.stream, book.place.clone())
        };
        // who keeps its place may say it
        let says_place = self.habit == Habit::Room || self.habit == Habit::Drops && fastrand::bool();
        let resume = place.resume().filter(|_| says_place);
        self.book().begin(resume.is_none(), &self.traffic.killed.lock().unwrap());
        let device = format!("{:?} {}", self.habit, self.number);
        let mut join = match self.habit {
            Habit::Old => json!({"app_id": device, "card_id": format!("card-{stream}")}),
            Habit::Room => json!({"card_id": "anyone"}),
            _ => json!({"card_id": format!("card-{stream}"), "device": device}),
        };
        let mut subscription = json!({"room": "news"});
        if let Some(resume) = resume {
            let data = if self.habit == Habit::Room { &mut subscription } else { &mut join };
            data["resume"] = resume;
        }
        self.say(json!({"event": "join", "data": join})).await?;
        if self.habit == Habit::Room {
            self.say(json!({"event": "subscribe", "data": subscription})).await?;
        }
        if self.habit == Habit::Sleeps {
            self.sleep_for(Duration::from_millis(fastrand::u64(500..3000))).await;
        }
        let leaves = Instant::now() + self.traffic.rhythm.stays;
        loop {
            if self.traffic.is_over() || (self.habit == Habit::Drops && Instant::now() > leaves) {
                return None;
            }
            match timeout(Duration::from_millis(100), self.socket.next()).await {
                Err(_) => self.acknowledge().await?,
                Ok(Some(Ok(Message::Text(text)))) => {
                    self.hear(&serde_json::from_str(&text).ok()?)?;
                    if fastrand::u8(..) < 16 {
                        self.acknowledge().await?;
                    }
                }
                Ok(Some(Ok(_))) => {}
                Ok(_) => return None,
            }
        }
    }

    async fn sleep_for(&self, time: Duration) {
        let until = Instant::now() + time;
        while Instant::now() < until && !self.traffic.is_over() {
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Says how far it is, and asks for a pong behind that.
    async fn acknowledge(&mut self) -> Option<()> {
        if !matches!(self.habit, Habit::Stays | Habit::Drops | Habit::Sleeps) || self.asked.is_some() {
            return Some(());
        }
        let (stream, seq) = {
            let book = self.book();
            (book.stream, book.session_seq())
        };
        if seq == 0 {
            return Some(());
        }
        self.say(json!({"event": "ack", "data": {"card": format!("card-{stream}"), "seq": seq}})).await?;
        self.asked = Some(seq);
        self.say(json!({"event": "ping"})).await
    }

    fn hear(&mut self, heard: &Value) -> Option<()> {
        let mut books = self.traffic.books.lock().unwrap();
        let mut book = self.traffic.readers[self.number].lock().unwrap();
        let data = &heard["data"];
        if self.habit == Habit::Old {
            if let Some(number) = data.as_str().and_then(|text| text.parse().ok()) {
                book.take_plain(&mut books, number);
                self.old.push(number);
            }
            return Some(());
        }
        match heard["event"].as_str()? {
            "joined" => {}
            "subscribed" if book.place.epoch.is_none() => {
                // from the beginning, with the next session
                book.place.epoch = data["epoch"].as_str().map(str::to_owned);
                return None;
            }
            "subscribed" | "stream" => book.told(&mut books, data),
            "pong" => {
                if let Some(seq) = self.asked.take() {
                    book.acknowledged(seq, self.process);
                }
            }
            "push" => match stream::stored(heard) {
                Some(push) => book.take(&mut books, &push),
                None => books.complain(format!("{} got {heard}", book.name)),
            },
            "drain" => {}
            _ => books.complain(format!("{} was told {heard}", book.name)),
        }
        Some(())
    }

    /// gopusher's client gets a session's pushes in the order of the stream, too.
    fn check_old(&self) {
        let mut books = self.traffic.books.lock().unwrap();
        let book = self.traffic.readers[self.number].lock().unwrap();
        let seqs: Vec<_> = self.old.iter().filter_map(|number| books.seq(book.stream, *number)).collect();
        if !seqs.is_sorted() {
            books.complain(format!("{} got {seqs:?}", book.name));
        }
    }
}
