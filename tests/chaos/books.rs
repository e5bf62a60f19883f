//! The ledger: what was accepted for each stream, and what each reader was sent of it.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use crate::support::stream::{Place, Step, Stored};

/// An acknowledgement that a killed process had taken as long before is on the disk.
const LAST_MOMENT: Duration = Duration::from_secs(1);

/// What was accepted, where it stands, and what was wrong.
#[derive(Default)]
pub struct Books {
    /// A push's number → its id and streams.
    accepted: HashMap<u64, (String, Vec<usize>)>,
    /// An id → the number of its push.
    numbers: HashMap<String, u64>,
    /// A stream's place → the id that stands there.
    places: HashMap<(usize, u64), String>,
    /// A stream and a number → where it stands there.
    seqs: HashMap<(usize, u64), u64>,
    epochs: HashMap<usize, String>,
    wrong: Vec<String>,
    /// Deliveries of what a reader had already.
    pub copies: u64,
    pub deliveries: u64,
}

impl Books {
    pub fn accept(&mut self, number: u64, id: String, streams: &[usize]) {
        if let Some((before, _)) = self.accepted.get(&number)
            && *before != id
        {
            self.complain(format!("push {number} was accepted as {before} and as {id}"));
        }
        self.name(number, &id);
        self.accepted.insert(number, (id, streams.to_vec()));
    }

    pub fn accepted(&self) -> usize {
        self.accepted.len()
    }

    pub fn complain(&mut self, what: String) {
        const MOST: usize = 20;
        if self.wrong.len() < MOST {
            eprintln!("chaos: {what}");
            self.wrong.push(what);
        }
    }

    pub fn wrong(&self) -> &[String] {
        &self.wrong
    }

    /// How many pushes of a reader's stream were accepted and have not come to it.
    pub fn missing(&self, reader: &ReaderBook) -> usize {
        let owed = self.accepted.iter().filter(|(_, (_, streams))| streams.contains(&reader.stream));
        owed.filter(|(number, _)| !reader.got.contains(number)).count()
    }

    /// Where a number stands in a stream, if a reader was told so.
    pub fn seq(&self, stream: usize, number: u64) -> Option<u64> {
        self.seqs.get(&(stream, number)).copied()
    }

    /// A number has one id, and an id one number.
    fn name(&mut self, number: u64, id: &str) {
        let known = *self.numbers.entry(id.to_owned()).or_insert(number);
        if known != number {
            self.complain(format!("{id} is push {known} and push {number}"));
        }
    }

    /// A stored push came: one id stands at a place, one place has a number.
    fn see(&mut self, stream: usize, push: &Stored, number: u64) {
        self.name(number, &push.id);
        let there = self.places.entry((stream, push.seq)).or_insert_with(|| push.id.clone()).clone();
        if there != push.id {
            self.complain(format!("stream {stream} has {there} and {} at {}", push.id, push.seq));
        }
        let seq = *self.seqs.entry((stream, number)).or_insert(push.seq);
        if seq != push.seq {
            self.complain(format!("push {number} is in stream {stream} at {seq} and at {}", push.seq));
        }
    }

    /// A stream goes by one epoch, since nothing that was accepted is ever cut off.
    fn see_epoch(&mut self, stream: usize, epoch: &str) {
        let known = self.epochs.entry(stream).or_insert_with(|| epoch.to_owned()).clone();
        if known != epoch {
            self.complain(format!("stream {stream} has the epochs {known} and {epoch}"));
            self.epochs.insert(stream, epoch.to_owned());
        }
    }
}

/// An acknowledgement that the gateway has read.
struct Acknowledged {
    at: Instant,
    process: u64,
    seq: u64,
}

/// What one reader has, over all its sessions.
pub struct ReaderBook {
    pub name: String,
    pub stream: usize,
    pub place: Place,
    got: HashSet<u64>,
    /// The last ones, the newest at the end.
    acknowledged: Vec<Acknowledged>,
    /// The place of the session that runs.
    session: Place,
    /// It was acknowledged for good: it must not come again in this session.
    floor: u64,
    /// How long an acknowledgement takes to the next gateway.
    lag: Duration,
}

impl ReaderBook {
    pub fn new(name: String, stream: usize, lag: Duration) -> Self {
        Self {
            name,
            stream,
            place: Place::default(),
            got: HashSet::new(),
            acknowledged: Vec::new(),
            session: Place::default(),
            floor: 0,
            lag,
        }
    }

    /// A session begins; `by_cursor`: with what the gateway remembers of this device. `killed`: processes and when they were.
    pub fn begin(&mut self, by_cursor: bool, killed: &HashMap<u64, Instant>) {
        self.session = Place::default();
        let now = Instant::now();
        let holds = |ack: &&Acknowledged| match killed.get(&ack.process) {
            Some(died) => ack.at + LAST_MOMENT < *died,
            None => ack.at + self.lag <= now,
        };
        let held = self.acknowledged.iter().filter(holds).map(|ack| ack.seq).max();
        self.floor = if by_cursor { held.unwrap_or(0) } else { 0 };
    }

    /// It is told where it is in its stream.
    pub fn told(&mut self, books: &mut Books, data: &serde_json::Value) {
        self.session.told(data);
        // that of no stream: nothing is stored yet
        let Some(epoch) = self.session.epoch.clone().filter(|epoch| epoch != "00000000") else { return };
        books.see_epoch(self.stream, &epoch);
        if self.session.seq > self.place.seq {
            books.complain(format!("{} is told that it has {} after {}", self.name, self.session.seq, self.place.seq));
        }
        self.place.epoch = Some(epoch);
    }

    /// It is sent a push.
    pub fn take(&mut self, books: &mut Books, push: &Stored) {
        let Ok(number) = push.content.parse() else {
            return books.complain(format!("{} got what nobody sent: {}", self.name, push.content));
        };
        books.see(self.stream, push, number);
        books.deliveries += 1;
        books.copies += u64::from(!self.got.insert(number));
        if push.seq <= self.floor {
            books.complain(format!(
                "{} got {} again, which it had acknowledged up to {}",
                self.name, push.seq, self.floor
            ));
        }
        let before = self.session.seq;
        if self.session.take(push) == Step::Gap {
            books.complain(format!("{} got {} (prev {}) after {before}", self.name, push.seq, push.prev));
        }
        self.place.take(push);
    }

    /// It is sent a push that says nothing of its place.
    pub fn take_plain(&mut self, books: &mut Books, number: u64) {
        books.deliveries += 1;
        books.copies += u64::from(!self.got.insert(number));
    }

    /// Up to where it was sent its stream in this session.
    pub fn session_seq(&self) -> u64 {
        self.session.seq
    }

    /// The gateway has read its acknowledgement.
    pub fn acknowledged(&mut self, seq: u64, process: u64) {
        const MOST: usize = 256;
        if self.acknowledged.len() == MOST {
            self.acknowledged.remove(0);
        }
        self.acknowledged.push(Acknowledged { at: Instant::now(), process, seq });
    }
}
