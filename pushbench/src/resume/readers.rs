//! Clients that keep their places in the streams of their card and of a room, leave, come back and go on.

use std::{
    collections::{BTreeMap, VecDeque},
    io::ErrorKind,
    sync::Arc,
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use mio::{Events, Interest, Poll, Token};

use crate::{
    Result,
    cli::Load,
    frame,
    layout::{card_name, room_name},
    ledger::{Account, Seen},
    marker::Marker,
    place::{Mark, Place, Step},
    process::Usage,
    profile::{Answer, Profile},
    push::histogram,
    receive::{
        Clients,
        connection::{self, Connection, Phase},
    },
    shared::{Shared, ns},
};

/// How often clients leave and come back, and how long one waits for events.
const TICK: Duration = Duration::from_millis(20);
/// How often the server's memory is looked at.
const LOOK: Duration = Duration::from_millis(100);
/// How often a client acknowledges, as docs/streams.md advises.
const ACKNOWLEDGE: Duration = Duration::from_millis(200);
/// After a connection that failed.
const RETRY: Duration = Duration::from_millis(200);
const BUFFER: usize = 256 * 1024;

/// What the clients do.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Habits {
    /// Pushes that each is owed.
    pub(super) owed: u32,
    /// They are in the room, too.
    pub(super) has_room: bool,
    /// From one drop to the next.
    pub(super) cycle: Option<Duration>,
    pub(super) away: Duration,
}

/// What came to all of them.
pub(super) struct Totals {
    pub(super) delivered: u64,
    pub(super) copies: u64,
    pub(super) disordered: u64,
    pub(super) gaps: u64,
    pub(super) resets: u64,
    pub(super) returns: u64,
    /// From the connect to the receipt of what was pushed before it.
    pub(super) replay: Histogram<u64>,
    /// From due to received, of what was pushed while the client was there.
    pub(super) live: Histogram<u64>,
    pub(super) mishaps: BTreeMap<String, u64>,
}

/// One stream of a client.
struct Followed {
    place: Place,
    account: Account,
}

struct Reader {
    connection: Connection,
    card: Followed,
    room: Followed,
    owed: u32,
    /// When it began to connect, in ns of the run.
    back: u64,
    /// When it leaves, or comes back.
    next: u64,
    is_away: bool,
    /// The card's seq that it has not acknowledged.
    unacknowledged: Option<u64>,
}

impl Reader {
    fn received(&self) -> u64 {
        self.card.account.received + self.room.account.received
    }
}

pub(super) struct Readers {
    clients: Clients,
    shared: Arc<Shared>,
    habits: Habits,
    pid: Vec<u32>,
    poll: Poll,
    readers: Vec<Reader>,
    /// To be opened once there is a place among those that connect.
    waiting: VecDeque<usize>,
    connecting: u32,
    joined: u32,
    is_dropping: bool,
    buffer: Vec<u8>,
    last_delivery: u64,
    delivered: u64,
    looked: Instant,
    acknowledged: Instant,
    peak: Option<u64>,
    totals: Totals,
}

impl Readers {
    pub(super) fn new(clients: Clients, shared: &Arc<Shared>, load: &Load, habits: Habits) -> Result<Self> {
        let reader = |number| Reader {
            connection: Connection::new(number, false),
            card: Followed { place: Place::default(), account: Account::open(0) },
            room: Followed { place: Place::default(), account: Account::open(0) },
            owed: habits.owed,
            back: 0,
            next: 0,
            is_away: true,
            unacknowledged: None,
        };
        Ok(Self {
            readers: (0..clients.connections).map(reader).collect(),
            clients,
            shared: Arc::clone(shared),
            habits,
            pid: load.pid.clone(),
            poll: Poll::new()?,
            waiting: VecDeque::new(),
            connecting: 0,
            joined: 0,
            is_dropping: false,
            buffer: vec![0; BUFFER],
            last_delivery: 0,
            delivered: 0,
            looked: Instant::now(),
            acknowledged: Instant::now(),
            peak: None,
            totals: Totals {
                delivered: 0,
                copies: 0,
                disordered: 0,
                gaps: 0,
                resets: 0,
                returns: 0,
                replay: histogram(),
                live: histogram(),
                mishaps: BTreeMap::new(),
            },
        })
    }

    /// Resident bytes of the server, where its process is known.
    pub(super) fn rss(&self) -> Result<Option<u64>> {
        Ok(if self.pid.is_empty() { None } else { Some(Usage::of(&self.pid)?.rss) })
    }

    /// The most that it had since [`Readers::forget_peak`].
    pub(super) fn peak(&self) -> Option<u64> {
        self.peak
    }

    pub(super) fn forget_peak(&mut self) {
        self.peak = None;
    }

    pub(super) fn last_delivery(&self) -> u64 {
        self.last_delivery
    }

    /// All connect and join.
    pub(super) fn connect_all(&mut self, patience: Duration) -> Result<()> {
        self.come_back();
        let all = self.clients.connections;
        if self.run_until(patience, |readers| readers.joined == all)? {
            // memory settles
            self.run_until(Duration::from_secs(1), |_| false)?;
            self.totals.returns = 0;
            return Ok(());
        }
        Err(format!("{} of {all} clients joined: {:?}", self.joined, self.totals.mishaps).into())
    }

    pub(super) fn come_back(&mut self) {
        self.waiting.extend(0..self.readers.len());
    }

    pub(super) fn leave_all(&mut self) {
        for index in 0..self.readers.len() {
            self.leave(index);
        }
    }

    /// Each drops in its turn from now on.
    pub(super) fn start_drops(&mut self) {
        let Some(cycle) = self.habits.cycle else { return };
        let (now, count) = (self.shared.now(), self.readers.len());
        for (index, reader) in self.readers.iter_mut().enumerate() {
            reader.next = now + ns(cycle.mul_f64(index as f64 / count as f64));
        }
        self.is_dropping = true;
    }

    /// Nobody leaves any more.
    pub(super) fn stay(&mut self) {
        self.is_dropping = false;
        for index in 0..self.readers.len() {
            if std::mem::take(&mut self.readers[index].is_away) {
                self.waiting.push_back(index);
            }
        }
    }

    /// What each client is owed, by its number.
    pub(super) fn owe(&mut self, owed: impl Fn(u32) -> u32) {
        for reader in &mut self.readers {
            reader.owed = owed(reader.connection.number);
        }
    }

    pub(super) fn owed(&self) -> u64 {
        self.readers.iter().map(|reader| u64::from(reader.owed)).sum()
    }

    pub(super) fn has_all(&self) -> bool {
        self.readers.iter().all(|reader| reader.received() >= u64::from(reader.owed))
    }

    pub(super) fn totals(mut self) -> Totals {
        for reader in &self.readers {
            for followed in [&reader.card, &reader.room] {
                self.totals.delivered += followed.account.received;
                self.totals.copies += followed.account.duplicated;
                self.totals.disordered += followed.account.disordered;
            }
        }
        self.totals
    }

    /// Serves all connections until `done`, or until nothing came for so long; whether it is done.
    pub(super) fn run_until(&mut self, patience: Duration, done: impl Fn(&Self) -> bool) -> Result<bool> {
        let mut events = Events::with_capacity(4096);
        let (mut progress, mut since, mut ticked) = (self.progress(), Instant::now(), Instant::now());
        // while clients drop something always comes: then it is a time, not patience
        let is_timed = self.is_dropping;
        loop {
            self.open_more()?;
            match self.poll.poll(&mut events, Some(TICK)) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                other => other?,
            }
            for event in &events {
                let Token(index) = event.token();
                if event.is_writable() {
                    self.writable(index);
                }
                if event.is_readable() || event.is_read_closed() || event.is_error() {
                    self.readable(index);
                }
            }
            if ticked.elapsed() >= TICK {
                ticked = Instant::now();
                self.tick()?;
                if done(self) {
                    return Ok(true);
                }
            }
            if !is_timed && self.progress() > progress {
                (progress, since) = (self.progress(), Instant::now());
            }
            if since.elapsed() >= patience {
                self.look()?;
                return Ok(done(self));
            }
        }
    }

    fn progress(&self) -> u64 {
        self.delivered + u64::from(self.joined)
    }

    fn tick(&mut self) -> Result<()> {
        if self.looked.elapsed() >= LOOK {
            self.look()?;
        }
        if self.acknowledged.elapsed() >= ACKNOWLEDGE {
            self.acknowledge();
        }
        let now = self.shared.now();
        let Some(cycle) = self.habits.cycle.filter(|_| self.is_dropping) else { return Ok(()) };
        for index in 0..self.readers.len() {
            if self.readers[index].next > now {
                continue;
            }
            if self.readers[index].is_away {
                self.readers[index].is_away = false;
                self.readers[index].next += ns(cycle - self.habits.away.min(cycle));
                self.waiting.push_back(index);
            } else {
                self.leave(index);
                self.readers[index].is_away = true;
                self.readers[index].next += ns(self.habits.away);
            }
        }
        Ok(())
    }

    fn look(&mut self) -> Result<()> {
        self.looked = Instant::now();
        if let Some(rss) = self.rss()? {
            self.peak = Some(self.peak.unwrap_or(0).max(rss));
        }
        Ok(())
    }

    fn open_more(&mut self) -> Result<()> {
        while self.connecting < self.clients.concurrency {
            let Some(index) = self.waiting.pop_front() else { break };
            let reader = &mut self.readers[index];
            if reader.connection.phase != Phase::Closed {
                continue;
            }
            reader.back = self.shared.now();
            let mut stream =
                connection::connect(self.clients.address_of(reader.connection.number), reader.connection.number, None)?;
            self.poll.registry().register(&mut stream, Token(index), Interest::READABLE | Interest::WRITABLE)?;
            reader.connection.opened(stream);
            self.connecting += 1;
        }
        Ok(())
    }

    /// As when its network goes: without a word.
    fn leave(&mut self, index: usize) {
        let reader = &mut self.readers[index];
        match reader.connection.phase {
            Phase::Closed => {}
            Phase::Joined => self.joined -= 1,
            _ => self.connecting -= 1,
        }
        reader.connection.stream = None;
        reader.connection.rest = Vec::new();
        reader.connection.phase = Phase::Closed;
        reader.unacknowledged = None;
    }

    /// The server, or the network, ended a connection: the client comes back.
    fn lost(&mut self, index: usize, how: &str) {
        if self.readers[index].connection.stream.is_none() {
            return;
        }
        self.leave(index);
        *self.totals.mishaps.entry(format!("a connection ended: {how}")).or_default() += 1;
        if self.is_dropping {
            self.readers[index].is_away = true;
            self.readers[index].next = self.shared.now() + ns(RETRY);
        } else {
            self.waiting.push_back(index);
        }
    }

    fn writable(&mut self, index: usize) {
        let connection = &mut self.readers[index].connection;
        let failure = match (connection.phase, &connection.stream) {
            (Phase::Connecting, Some(stream)) => match stream.take_error() {
                Ok(None) if stream.peer_addr().is_ok() => {
                    connection.phase = Phase::Upgrading;
                    connection.send(&connection::upgrade(&self.clients)).err()
                }
                Ok(None) => return,
                Ok(Some(error)) | Err(error) => Some(error),
            },
            (Phase::Closed, _) | (_, None) => return,
            _ => connection.flush().err(),
        };
        if let Some(error) = failure {
            self.lost(index, &error.to_string());
        }
    }

    fn readable(&mut self, index: usize) {
        loop {
            let mut buffer = std::mem::take(&mut self.buffer);
            let outcome = self.readers[index].connection.read(&mut buffer);
            let goes_on = match outcome {
                Ok(0) => {
                    self.lost(index, "closed");
                    false
                }
                Ok(count) => {
                    self.take(index, &buffer[..count]);
                    count == BUFFER
                }
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => false,
                Err(error) => {
                    self.lost(index, &error.to_string());
                    false
                }
            };
            self.buffer = buffer;
            // edge-triggered: after a short read the next byte is a new edge
            if !goes_on {
                break;
            }
        }
    }

    /// Each client acknowledges what came since it did last.
    fn acknowledge(&mut self) {
        self.acknowledged = Instant::now();
        for index in 0..self.readers.len() {
            if let Some(seq) = self.readers[index].unacknowledged.take() {
                let card = card_name(self.shared.run, self.readers[index].connection.number);
                self.say(index, &format!(r#"{{"event":"ack","data":{{"card":"{card}","seq":{seq}}}}}"#));
            }
        }
    }

    fn take(&mut self, index: usize, bytes: &[u8]) {
        let now = self.shared.now();
        let mut whole = std::mem::take(&mut self.readers[index].connection.rest);
        whole.extend_from_slice(bytes);
        let mut bytes = &whole[..];
        if self.readers[index].connection.phase == Phase::Upgrading {
            match connection::upgraded(bytes) {
                None => {
                    self.readers[index].connection.rest = whole;
                    return;
                }
                Some(Err(why)) => return self.lost(index, &why),
                Some(Ok(len)) => {
                    bytes = &bytes[len..];
                    self.join(index);
                }
            }
        }
        while let Some(frame) = frame::first(bytes) {
            if self.readers[index].connection.stream.is_none() {
                return;
            }
            match frame.opcode {
                frame::opcode::PING => {
                    let mut out = Vec::new();
                    frame::write_masked(frame::opcode::PONG, frame.payload, &mut out);
                    self.send(index, &out);
                }
                frame::opcode::PONG => {}
                frame::opcode::CLOSE => {
                    let code = frame.payload.first_chunk().map_or(1005, |code| u16::from_be_bytes(*code));
                    return self.lost(index, &code.to_string());
                }
                _ => self.message(index, frame.payload, now),
            }
            bytes = &bytes[frame.len..];
        }
        self.readers[index].connection.rest = bytes.to_vec();
    }

    fn join(&mut self, index: usize) {
        let run = self.shared.run;
        let reader = &mut self.readers[index];
        let resume = |place: Place| place.resume().map(|resume| format!(",{resume}")).unwrap_or_default();
        let card = card_name(run, reader.connection.number);
        let (in_card, in_room) = (resume(reader.card.place), resume(reader.room.place));
        reader.connection.phase = Phase::Joining;
        reader.connection.answers = 1 + usize::from(self.habits.has_room);
        self.say(
            index,
            &format!(
                r#"{{"event":"join","data":{{"app_id":"pushbench","card_id":"{card}","device":"bench"{in_card}}}}}"#
            ),
        );
        if self.habits.has_room {
            let room = room_name(run, 0);
            self.say(index, &format!(r#"{{"event":"subscribe","data":{{"room":"{room}"{in_room}}}}}"#));
        }
    }

    fn say(&mut self, index: usize, text: &str) {
        let mut out = Vec::new();
        frame::write_masked(frame::opcode::TEXT, text.as_bytes(), &mut out);
        self.send(index, &out);
    }

    fn send(&mut self, index: usize, bytes: &[u8]) {
        if let Err(error) = self.readers[index].connection.send(bytes) {
            self.lost(index, &error.to_string());
        }
    }

    fn message(&mut self, index: usize, payload: &[u8], now: u64) {
        let reader = &mut self.readers[index];
        let of_room = holds(payload, br#""room":""#);
        let followed = if of_room { &mut reader.room } else { &mut reader.card };
        let Some(mark) = Mark::find(payload) else {
            followed.place.told(payload);
            self.totals.resets += u64::from(holds(payload, br#""event":"reset""#));
            if Profile::Oxipush.answer(payload) == Answer::Joined {
                self.joined(index);
            } else if holds(payload, br#""event":"error""#) {
                let text = String::from_utf8_lossy(&payload[..payload.len().min(160)]).into_owned();
                *self.totals.mishaps.entry(text).or_default() += 1;
            }
            return;
        };
        self.totals.gaps += u64::from(followed.place.take(mark) == Step::Gap);
        let Some((marker, _)) = Marker::find(payload, 0) else { return };
        let is_new = marker.run == self.shared.run && followed.account.see(marker.seq) == Seen::New;
        if !of_room {
            reader.unacknowledged = Some(reader.card.place.seq());
        }
        if !is_new {
            return;
        }
        match now.saturating_sub(reader.back) {
            since_back if marker.due < reader.back => self.totals.replay.saturating_record(since_back),
            _ => self.totals.live.saturating_record(now.saturating_sub(marker.due)),
        }
        self.delivered += 1;
        self.last_delivery = now;
    }

    fn joined(&mut self, index: usize) {
        let connection = &mut self.readers[index].connection;
        if connection.phase != Phase::Joining {
            return;
        }
        connection.answers = connection.answers.saturating_sub(1);
        if connection.answers == 0 {
            connection.phase = Phase::Joined;
            self.readers[index].is_away = false;
            self.connecting -= 1;
            self.joined += 1;
            self.totals.returns += 1;
        }
    }
}

fn holds(text: &[u8], word: &[u8]) -> bool {
    text.windows(word.len()).any(|window| window == word)
}
