//! The clients: many WebSocket connections on one epoll loop, each counting what it is owed.

mod connection;

use std::{
    collections::BTreeMap,
    io::ErrorKind,
    sync::{Arc, atomic::Ordering, mpsc},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use mio::{Events, Interest, Poll, Token, Waker};

use self::connection::{Connection, Phase};
use crate::{
    Result,
    address::Address,
    cli::Load,
    frame, ledger,
    marker::Marker,
    profile::{Answer, Profile},
    push::histogram,
    shared::Shared,
};

const WAKER: Token = Token(usize::MAX);

/// Bytes read at once; shared by all connections of a thread.
const BUFFER: usize = 256 * 1024;

/// One slice of throughput over time.
pub(crate) const SLICE: Duration = Duration::from_millis(100);

/// How often slow readers read, churn churns and heartbeats are looked at.
const TICK: Duration = Duration::from_millis(50);

/// Tries to connect before a connection counts as failed.
const MAX_TRIES: u8 = 3;

/// What the receivers of a run are to do.
#[derive(Clone, Debug)]
pub(crate) struct Clients {
    pub(crate) profile: Profile,
    pub(crate) address: Address,
    pub(crate) connections: u32,
    pub(crate) threads: u32,
    pub(crate) concurrency: u32,
    /// The first so many are slow, and read this many bytes a second.
    pub(crate) slow: u32,
    pub(crate) slow_rate: u32,
    /// Connections a second, once churn is switched on.
    pub(crate) churn: f64,
}

impl Clients {
    pub(crate) fn new(load: &Load) -> Result<Self> {
        let mut address = Address::parse(load.ws.as_ref().ok_or("--ws is missing: where do clients connect?")?, "ws")?;
        if address.path.is_empty() {
            address.path = load.profile.socket_path().into();
        }
        Ok(Self {
            profile: load.profile,
            address,
            connections: load.connections,
            threads: load.threads.min(load.connections),
            concurrency: load.connect_concurrency,
            slow: 0,
            slow_rate: load.slow_rate,
            churn: load.churn,
        })
    }
}

/// What the connections of a thread, or of all, got.
pub(crate) struct Received {
    /// From due to received, ns.
    pub(crate) latency: Histogram<u64>,
    /// Deliveries in each [`SLICE`] since the run's epoch.
    pub(crate) timeline: Vec<u64>,
    pub(crate) missing: u64,
    pub(crate) duplicated: u64,
    pub(crate) disordered: u64,
    /// Frames with another run's marker.
    pub(crate) foreign: u64,
    /// Deliveries to slow readers.
    pub(crate) slow: u64,
    /// How connections ended, by close code or word.
    pub(crate) endings: BTreeMap<String, u64>,
}

impl Default for Received {
    fn default() -> Self {
        Self {
            latency: histogram(),
            timeline: Vec::new(),
            missing: 0,
            duplicated: 0,
            disordered: 0,
            foreign: 0,
            slow: 0,
            endings: BTreeMap::new(),
        }
    }
}

impl Received {
    fn merge(&mut self, other: Self) {
        // both have the same bounds
        let _ = self.latency.add(&other.latency);
        if self.timeline.len() < other.timeline.len() {
            self.timeline.resize(other.timeline.len(), 0);
        }
        self.timeline.iter_mut().zip(&other.timeline).for_each(|(sum, count)| *sum += count);
        self.missing += other.missing;
        self.duplicated += other.duplicated;
        self.disordered += other.disordered;
        self.foreign += other.foreign;
        self.slow += other.slow;
        for (ending, count) in other.endings {
            *self.endings.entry(ending).or_default() += count;
        }
    }
}

enum Command {
    /// Forget the latencies of the warm-up.
    Reset,
    Stop,
}

/// The running threads.
pub(crate) struct Receivers {
    threads: Vec<(JoinHandle<Result<Received>>, mpsc::Sender<Command>, Waker)>,
}

impl Receivers {
    /// Starts the threads, which connect and join at once.
    pub(crate) fn start(clients: &Clients, shared: &Arc<Shared>) -> Result<Self> {
        let mut threads = Vec::new();
        for thread in 0..clients.threads {
            let poll = Poll::new()?;
            let waker = Waker::new(poll.registry(), WAKER)?;
            let (commands, orders) = mpsc::channel();
            let mut receiver = Receiver::new(clients.clone(), Arc::clone(shared), thread, poll, orders);
            let handle = thread::Builder::new().name(format!("clients-{thread}")).spawn(move || receiver.run())?;
            threads.push((handle, commands, waker));
        }
        Ok(Self { threads })
    }

    pub(crate) fn reset(&self) -> Result<()> {
        self.tell(|| Command::Reset)
    }

    /// Closes the accounts and then the connections.
    pub(crate) fn stop(self) -> Result<Received> {
        self.tell(|| Command::Stop)?;
        let mut received = Received::default();
        for (handle, ..) in self.threads {
            received.merge(handle.join().map_err(|_| "a thread of the clients panicked")??);
        }
        Ok(received)
    }

    /// Whether a thread ended before it was told to.
    pub(crate) fn broken(&self) -> bool {
        self.threads.iter().any(|(handle, ..)| handle.is_finished())
    }

    fn tell(&self, command: impl Fn() -> Command) -> Result<()> {
        for (_, commands, waker) in &self.threads {
            // a thread that is gone tells why when it is joined
            let _ = commands.send(command());
            waker.wake()?;
        }
        Ok(())
    }
}

struct Receiver {
    clients: Clients,
    shared: Arc<Shared>,
    poll: Poll,
    orders: mpsc::Receiver<Command>,
    connections: Vec<Connection>,
    /// The next one to be opened for the first time.
    opened: usize,
    /// Between connect and join.
    pending: u32,
    /// To be opened (again) after this round of events.
    reopen: Vec<usize>,
    churn_at: usize,
    churn_due: f64,
    buffer: Vec<u8>,
    received: Received,
}

impl Receiver {
    fn new(clients: Clients, shared: Arc<Shared>, thread: u32, poll: Poll, orders: mpsc::Receiver<Command>) -> Self {
        let connections = (thread..clients.connections)
            .step_by(clients.threads as usize)
            .map(|number| Connection::new(number, number % shared.cards, number < clients.slow))
            .collect();
        Self {
            clients,
            shared,
            poll,
            orders,
            connections,
            opened: 0,
            pending: 0,
            reopen: Vec::new(),
            churn_at: 0,
            churn_due: 0.0,
            buffer: vec![0; BUFFER],
            received: Received::default(),
        }
    }

    fn run(&mut self) -> Result<Received> {
        let mut events = Events::with_capacity(4096);
        let ticking = self.clients.slow > 0 || self.clients.churn > 0.0 || self.clients.profile.heartbeat().is_some();
        let mut ticked = Instant::now();
        loop {
            self.open_more()?;
            match self.poll.poll(&mut events, ticking.then_some(TICK)) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                other => other?,
            }
            let mut delivered = 0;
            for event in &events {
                let Token(index) = event.token();
                if event.token() == WAKER {
                    continue;
                }
                if event.is_writable() {
                    self.writable(index);
                }
                if event.is_readable() || event.is_read_closed() || event.is_error() {
                    delivered += self.readable(index);
                }
            }
            if delivered > 0 {
                self.shared.deliver(delivered, self.shared.now());
            }
            if ticking && ticked.elapsed() >= TICK {
                let elapsed = ticked.elapsed();
                ticked = Instant::now();
                self.tick(elapsed);
            }
            for index in std::mem::take(&mut self.reopen) {
                self.open(index)?;
            }
            while let Ok(command) = self.orders.try_recv() {
                match command {
                    Command::Reset => {
                        self.received.latency.reset();
                        self.received.timeline.clear();
                    }
                    Command::Stop => return Ok(self.close_accounts()),
                }
            }
        }
    }

    fn open_more(&mut self) -> Result<()> {
        let most = self.clients.concurrency.div_ceil(self.clients.threads);
        while self.pending < most && self.opened < self.connections.len() {
            self.opened += 1;
            self.open(self.opened - 1)?;
        }
        Ok(())
    }

    fn open(&mut self, index: usize) -> Result<()> {
        let connection = &mut self.connections[index];
        let small = connection.slow.then_some(4096);
        let mut stream = connection::connect(&self.clients.address, connection.number, small)?;
        self.poll.registry().register(&mut stream, Token(index), Interest::READABLE | Interest::WRITABLE)?;
        connection.opened(stream);
        self.pending += 1;
        Ok(())
    }

    fn writable(&mut self, index: usize) {
        let connection = &mut self.connections[index];
        let failure = match (connection.phase, &connection.stream) {
            (Phase::Connecting, Some(stream)) => match stream.take_error() {
                Ok(None) if stream.peer_addr().is_ok() => None,
                Ok(None) => return,
                Ok(Some(error)) | Err(error) => Some(error),
            },
            (Phase::Closed, _) | (_, None) => return,
            _ => connection.flush().err(),
        };
        if let Some(error) = failure {
            self.lost(index, &error.to_string());
        } else if self.connections[index].phase == Phase::Connecting {
            let connection = &mut self.connections[index];
            connection.phase = Phase::Upgrading;
            if let Err(error) = connection.send(&connection::upgrade(&self.clients)) {
                self.lost(index, &error.to_string());
            }
        }
    }

    /// Reads what is there; how many deliveries that were.
    fn readable(&mut self, index: usize) -> u64 {
        let connection = &self.connections[index];
        if connection.slow && connection.phase == Phase::Joined {
            return 0;
        }
        let mut delivered = 0;
        loop {
            let Some((count, new)) = self.read(index, BUFFER) else { return delivered };
            delivered += new;
            // edge-triggered: after a short read the next byte is a new edge
            if count < BUFFER {
                return delivered;
            }
        }
    }

    /// One read: bytes and deliveries; none when there is nothing or the connection ended.
    fn read(&mut self, index: usize, most: usize) -> Option<(usize, u64)> {
        let mut buffer = std::mem::take(&mut self.buffer);
        let outcome = self.connections[index].read(&mut buffer[..most]);
        let result = match outcome {
            Ok(0) => {
                self.lost(index, "closed");
                None
            }
            Ok(count) => Some((count, self.take(index, &buffer[..count]))),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => None,
            Err(error) => {
                self.lost(index, &error.to_string());
                None
            }
        };
        self.buffer = buffer;
        result
    }

    /// Takes what was read apart; how many deliveries were in it.
    fn take(&mut self, index: usize, bytes: &[u8]) -> u64 {
        let now = self.shared.now();
        let mut joined_bytes;
        let mut bytes = bytes;
        let rest = std::mem::take(&mut self.connections[index].rest);
        if !rest.is_empty() {
            joined_bytes = rest;
            joined_bytes.extend_from_slice(bytes);
            bytes = &joined_bytes;
        }
        if self.connections[index].phase == Phase::Upgrading {
            match connection::upgraded(bytes) {
                None => {
                    self.connections[index].rest = bytes.to_vec();
                    return 0;
                }
                Some(Err(why)) => {
                    self.lost(index, &why);
                    return 0;
                }
                Some(Ok(len)) => {
                    bytes = &bytes[len..];
                    self.join(index);
                }
            }
        }
        let mut delivered = 0;
        while let Some(frame) = frame::first(bytes) {
            if self.connections[index].stream.is_none() {
                return delivered;
            }
            delivered += self.frame(index, frame, now);
            bytes = &bytes[frame.len..];
        }
        self.connections[index].rest = bytes.to_vec();
        if delivered > 0 {
            let slice = (now / SLICE.as_nanos() as u64) as usize;
            if self.received.timeline.len() <= slice {
                self.received.timeline.resize(slice + 1, 0);
            }
            self.received.timeline[slice] += delivered;
        }
        delivered
    }

    fn join(&mut self, index: usize) {
        let card = self.shared.card(self.connections[index].card);
        let mut out = Vec::new();
        for text in self.clients.profile.join(&card) {
            frame::write_masked(frame::opcode::TEXT, text.as_bytes(), &mut out);
        }
        self.connections[index].phase = Phase::Joining;
        self.send(index, &out);
    }

    fn frame(&mut self, index: usize, frame: frame::Frame<'_>, now: u64) -> u64 {
        match frame.opcode {
            frame::opcode::PING => {
                let mut out = Vec::new();
                frame::write_masked(frame::opcode::PONG, frame.payload, &mut out);
                self.send(index, &out);
                0
            }
            frame::opcode::PONG => 0,
            frame::opcode::CLOSE => {
                let code = frame.payload.first_chunk().map_or(1005, |code| u16::from_be_bytes(*code));
                self.lost(index, &code.to_string());
                0
            }
            _ => self.message(index, frame.payload, now),
        }
    }

    fn message(&mut self, index: usize, payload: &[u8], now: u64) -> u64 {
        let (mut at, mut delivered, mut markers) = (0, 0, 0);
        while let Some((marker, end)) = Marker::find(payload, at) {
            markers += 1;
            delivered += self.delivery(index, marker, now);
            if !self.clients.profile.merges() {
                return delivered;
            }
            at = end;
        }
        if markers == 0 {
            match self.clients.profile.answer(payload) {
                Answer::Joined => self.joined(index),
                Answer::Ping(text) => {
                    let mut out = Vec::new();
                    frame::write_masked(frame::opcode::TEXT, text.as_bytes(), &mut out);
                    self.send(index, &out);
                }
                Answer::Other if self.connections[index].phase == Phase::Joining => {
                    let text = String::from_utf8_lossy(&payload[..payload.len().min(120)]).into_owned();
                    self.shared.mishap(&format!("instead of a join's answer: {text}"));
                }
                Answer::Other => {}
            }
        }
        delivered
    }

    fn delivery(&mut self, index: usize, marker: Marker, now: u64) -> u64 {
        if marker.run != self.shared.run {
            self.received.foreign += 1;
            return 0;
        }
        let connection = &mut self.connections[index];
        if connection.account.see(marker.seq) != ledger::Seen::New {
            return 0;
        }
        if connection.slow {
            self.received.slow += 1;
            return 0;
        }
        self.received.latency.saturating_record(now.saturating_sub(marker.due));
        1
    }

    fn joined(&mut self, index: usize) {
        let connection = &mut self.connections[index];
        if connection.phase != Phase::Joining {
            return;
        }
        connection.phase = Phase::Joined;
        self.pending -= 1;
        // what was numbered before this answer was read may have been accepted before the join held
        let floor = self.shared.numbered(self.shared.target(connection.card));
        connection.account = ledger::Account::open(floor);
        connection.tries = 0;
        if std::mem::take(&mut connection.rejoining) {
            self.shared.rejoined.fetch_add(1, Ordering::SeqCst);
        } else {
            self.shared.joined.fetch_add(1, Ordering::SeqCst);
            self.shared.last_join.fetch_max(self.shared.now(), Ordering::SeqCst);
        }
    }

    fn send(&mut self, index: usize, bytes: &[u8]) {
        if let Err(error) = self.connections[index].send(bytes) {
            self.lost(index, &error.to_string());
        }
    }

    /// The server, or the network, ended a connection. What it is owed from now on will be missing.
    fn lost(&mut self, index: usize, how: &str) {
        let connection = &mut self.connections[index];
        if connection.stream.take().is_none() {
            return;
        }
        connection.rest = Vec::new();
        if connection.phase == Phase::Joined {
            connection.phase = Phase::Closed;
            self.shared.closed.fetch_add(1, Ordering::SeqCst);
            *self.received.endings.entry(how.into()).or_default() += 1;
            return;
        }
        connection.phase = Phase::Closed;
        self.pending -= 1;
        connection.tries += 1;
        if connection.tries < MAX_TRIES {
            self.reopen.push(index);
        } else {
            self.shared.failed.fetch_add(1, Ordering::SeqCst);
            self.shared.mishap(&format!("a connection failed: {how}"));
        }
    }

    fn tick(&mut self, elapsed: Duration) {
        if self.clients.slow > 0 {
            self.read_slowly(elapsed);
        }
        if self.shared.churn.load(Ordering::Relaxed) {
            let share = self.connections.len() as f64 / f64::from(self.clients.connections);
            self.churn_due += self.clients.churn * share * elapsed.as_secs_f64();
            while self.churn_due >= 1.0 {
                self.churn_due -= 1.0;
                self.leave_one();
            }
        }
        if let Some(text) = self.clients.profile.heartbeat() {
            self.heartbeat(text);
        }
    }

    fn read_slowly(&mut self, elapsed: Duration) {
        let most = (f64::from(self.clients.slow_rate) * elapsed.as_secs_f64()).ceil().min(BUFFER as f64) as usize;
        for index in 0..self.connections.len() {
            let connection = &self.connections[index];
            if connection.slow && connection.phase == Phase::Joined {
                self.read(index, most.max(1));
            }
        }
    }

    /// The next joined connection leaves in good order and comes back.
    fn leave_one(&mut self) {
        for _ in 0..self.connections.len() {
            self.churn_at = (self.churn_at + 1) % self.connections.len();
            let connection = &mut self.connections[self.churn_at];
            if connection.slow || connection.phase != Phase::Joined {
                continue;
            }
            let mut out = Vec::new();
            frame::write_masked(frame::opcode::CLOSE, &1000_u16.to_be_bytes(), &mut out);
            // it leaves whether or not the server hears of it
            let _ = connection.send(&out);
            connection.stream = None;
            connection.rest = Vec::new();
            connection.phase = Phase::Closed;
            connection.rejoining = true;
            connection.tries = 0;
            let account = std::mem::take(&mut connection.account);
            let target = self.shared.target(connection.card);
            let refused = self.shared.refused();
            let excused = refused.get(&target).map_or(&[][..], Vec::as_slice);
            self.received.missing += account.missing_until_last(excused);
            self.received.duplicated += account.duplicated;
            self.received.disordered += account.disordered;
            self.reopen.push(self.churn_at);
            return;
        }
    }

    fn heartbeat(&mut self, text: &str) {
        const PERIOD: Duration = Duration::from_secs(25);
        let now = self.shared.now();
        let mut out = Vec::new();
        frame::write_masked(frame::opcode::TEXT, text.as_bytes(), &mut out);
        for index in 0..self.connections.len() {
            let connection = &mut self.connections[index];
            if connection.phase == Phase::Joined && connection.beat + crate::shared::ns(PERIOD) <= now {
                connection.beat = now;
                self.send(index, &out);
            }
        }
    }

    /// What is still missing, now that nothing more will come.
    fn close_accounts(&mut self) -> Received {
        let refused = self.shared.refused();
        let mut received = std::mem::take(&mut self.received);
        for connection in self.connections.iter().filter(|connection| !connection.slow) {
            let target = self.shared.target(connection.card);
            let excused = refused.get(&target).map_or(&[][..], Vec::as_slice);
            let account = &connection.account;
            received.duplicated += account.duplicated;
            received.disordered += account.disordered;
            // one that never joined is reported as unanswered; one that was about to come back is owed nothing yet
            if connection.phase == Phase::Joined || connection.phase == Phase::Closed && !connection.rejoining {
                received.missing += account.missing(self.shared.numbered(target), excused);
            }
        }
        received
    }
}
