//! One thread's connections, and the loop that serves them.

use std::{
    io::ErrorKind,
    sync::{Arc, atomic::Ordering, mpsc},
    time::{Duration, Instant},
};

use mio::{Events, Interest, Poll, Token};

use super::{
    Clients, Command, Received, SLICE, WAKER,
    connection::{self, Connection, Phase},
};
use crate::{
    Result, frame, layout, ledger,
    marker::Marker,
    place::{Mark, Step},
    profile::{Answer, Member},
    shared::{Shared, ns},
};

/// Bytes read at once; shared by all connections of a thread.
const BUFFER: usize = 256 * 1024;

/// How often slow readers read, churn churns and heartbeats are looked at.
const TICK: Duration = Duration::from_millis(50);

/// Tries to connect before a connection counts as failed.
const MAX_TRIES: u8 = 3;

pub(super) struct Receiver {
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
    pub(super) fn new(
        clients: Clients,
        shared: Arc<Shared>,
        thread: u32,
        poll: Poll,
        orders: mpsc::Receiver<Command>,
    ) -> Self {
        let connections = (thread..clients.connections)
            .step_by(clients.threads as usize)
            .map(|number| Connection::new(number, number < clients.slow))
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

    pub(super) fn run(&mut self) -> Result<Received> {
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
        let mut stream = connection::connect(self.clients.address_of(connection.number), connection.number, small)?;
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
        let (run, layout, number) = (self.shared.run, self.shared.layout, self.connections[index].number);
        let member = Member {
            card: layout::card_name(run, layout.card(number)),
            rooms: layout.rooms(number).map(|room| layout::room_name(run, room)).collect(),
            token: self.clients.token.as_deref(),
            merge: self.clients.merge,
        };
        let mut out = Vec::new();
        for text in self.clients.profile.join(&member) {
            frame::write_masked(frame::opcode::TEXT, text.as_bytes(), &mut out);
        }
        let connection = &mut self.connections[index];
        connection.phase = Phase::Joining;
        connection.answers = self.clients.profile.answers(member.rooms.len());
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
            if !self.clients.merges() {
                break;
            }
            at = end;
        }
        if self.clients.offline {
            self.follow(index, payload);
        }
        self.received.frames += u64::from(markers > 0);
        self.received.items += markers;
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

    /// Looks whether a frame of a stream is the next one.
    fn follow(&mut self, index: usize, payload: &[u8]) {
        let place = &mut self.connections[index].place;
        match Mark::find(payload) {
            Some(mark) => self.received.gaps += u64::from(place.take(mark) == Step::Gap),
            None => place.told(payload),
        }
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
        connection.answers = connection.answers.saturating_sub(1);
        if connection.answers > 0 {
            return;
        }
        connection.phase = Phase::Joined;
        self.pending -= 1;
        // what was numbered before this answer was read may have been accepted before the join held
        let floor = self.shared.numbered(self.shared.layout.target(connection.number));
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
            let target = self.shared.layout.target(connection.number);
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
            if connection.phase == Phase::Joined && connection.beat + ns(PERIOD) <= now {
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
            let target = self.shared.layout.target(connection.number);
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
