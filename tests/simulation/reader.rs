//! A client as its author would write it, and what it was told.

use std::{
    cell::{Cell, RefCell},
    collections::{HashMap, HashSet, VecDeque},
    io,
    rc::Rc,
};

use oxipush::internals::{
    hub::{Client, Sink},
    push::{Address, Epoch},
    store::DeviceKey,
    wire::stream_ping::StreamPing,
};

/// Bytes that a socket takes while nobody reads.
const SOCKET: usize = 1200;

/// A socket whose other end reads when it pleases.
pub struct Pipe {
    bytes: RefCell<Vec<u8>>,
    /// What was read of a frame that is not whole.
    partial: RefCell<Vec<u8>>,
    /// Up to where what was written when.
    written: RefCell<VecDeque<(u64, u64)>>,
    total: Cell<u64>,
    taken: Cell<u64>,
    now: Rc<Cell<u64>>,
}

impl Pipe {
    pub fn new(now: &Rc<Cell<u64>>) -> Self {
        Self {
            bytes: RefCell::default(),
            partial: RefCell::default(),
            written: RefCell::default(),
            total: Cell::new(0),
            taken: Cell::new(0),
            now: Rc::clone(now),
        }
    }

    /// The frames that are whole, each with the time when its first byte was written.
    fn frames(&self) -> Vec<(u64, u8, Vec<u8>)> {
        let mut partial = self.partial.borrow_mut();
        partial.append(&mut self.bytes.borrow_mut());
        let mut written = self.written.borrow_mut();
        let mut frames = Vec::new();
        let mut from = 0;
        loop {
            let rest = &partial[from..];
            let (head, len) = match rest {
                [_, len @ 0..126, ..] => (2, usize::from(*len)),
                [_, 126, high, low, ..] => (4, usize::from(u16::from_be_bytes([*high, *low]))),
                _ => break,
            };
            if rest.len() < head + len {
                break;
            }
            while written.front().is_some_and(|(end, _)| *end <= self.taken.get()) {
                written.pop_front();
            }
            let at = written.front().map_or(0, |(_, at)| *at);
            self.taken.set(self.taken.get() + (head + len) as u64);
            frames.push((at, rest[0] & 15, rest[head..head + len].to_vec()));
            from += head + len;
        }
        partial.drain(..from);
        frames
    }
}

impl Sink for Pipe {
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        let mut waiting = self.bytes.borrow_mut();
        let taken = bytes.len().min(SOCKET.saturating_sub(waiting.len()));
        if taken == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        waiting.extend_from_slice(&bytes[..taken]);
        self.total.set(self.total.get() + taken as u64);
        self.written.borrow_mut().push_back((self.total.get(), self.now.get()));
        Ok(taken)
    }
}

/// What a client is told.
#[derive(Clone, Debug)]
pub enum Told {
    Push {
        address: Address,
        seq: u64,
        prev: u64,
        number: u32,
        at: u64,
    },
    /// It has all up to there.
    Stream {
        address: Address,
        epoch: Epoch,
        seq: u64,
    },
    Reset {
        address: Address,
        epoch: Epoch,
        seq: u64,
    },
    Ping(StreamPing),
    /// It is too slow.
    Closed,
    /// Of the simulation: what its n-th join was answered.
    Joined(u32),
}

fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let rest = &text[text.find(name)? + name.len()..];
    Some(&rest[..rest.find([',', '"', '}', 'x']).unwrap_or(rest.len())])
}

fn told(at: u64, opcode: u8, payload: &[u8]) -> Told {
    if opcode == 9 {
        return match StreamPing::of_payload(payload) {
            Some(ping) => Told::Ping(ping),
            None => Told::Joined(u32::from_le_bytes(payload[1..].try_into().unwrap())),
        };
    }
    if opcode == 8 {
        return Told::Closed;
    }
    assert_eq!(opcode, 1, "no other frames are sent: {payload:?}");
    let text = std::str::from_utf8(payload).unwrap();
    let address = match (field(text, r#""card":""#), field(text, r#""room":""#)) {
        (Some(card), _) => Address::Card(card.into()),
        (_, room) => Address::Room(room.expect("a stream's frame names its address").into()),
    };
    let number = |name| field(text, name).expect("a number").parse().unwrap();
    let seq = number(r#""seq":"#);
    if text.starts_with(r#"{"event":"push""#) {
        let content = field(text, r#""content":"n"#).unwrap().parse().unwrap();
        return Told::Push { address, seq, prev: number(r#""prev":"#), number: content, at };
    }
    let epoch = Epoch::parse(field(text, r#""epoch":""#).unwrap()).unwrap();
    match &text[..16] {
        r#"{"event":"stream"# => Told::Stream { address, epoch, seq },
        _ => Told::Reset { address, epoch, seq },
    }
}

/// What a client knows of a stream that it is in.
#[derive(Clone, Debug)]
pub struct View {
    /// `None`: there is none, as far as it knows.
    pub epoch: Option<Epoch>,
    pub last: u64,
    /// The push there, if it remembers.
    pub last_number: Option<u32>,
}

/// A connection.
pub struct Session {
    pub shard: usize,
    pub client: Rc<Client<Pipe>>,
    /// Of the addresses that it is in now, as far as it has read.
    pub views: HashMap<Address, View>,
    /// What its joins were answered, by number.
    pub joins: HashMap<u32, (Address, View)>,
    /// Read, and not answered; each with the epoch in which it came.
    pub pings: Vec<(StreamPing, Option<Epoch>)>,
    pub has_answered_ping: bool,
}

impl Session {
    pub fn read(&self) -> Vec<Told> {
        self.client.sink.frames().into_iter().map(|(at, opcode, payload)| told(at, opcode, &payload)).collect()
    }
}

/// What somebody who reads is owed of a stream.
#[derive(Default)]
pub struct Debt {
    /// It is a reader of this epoch, …
    pub epoch: Option<Epoch>,
    /// … of what comes behind this.
    pub base: u64,
    /// What was acknowledged for it in this epoch; of that what a crash does not forget.
    pub acked: u64,
    pub acked_for_good: u64,
    /// From where it resumes, as its author would store it.
    pub kept: Option<View>,
}

/// Somebody who reads, over many connections.
pub struct Reader {
    pub name: &'static str,
    pub app: &'static str,
    pub declared: bool,
    pub addresses: Vec<Address>,
    /// It remembers where it was in a room.
    pub resumes_rooms: bool,
    pub session: Option<Session>,
    /// Numbers of pushes, by address.
    pub received: HashSet<(Address, u32)>,
    pub debts: HashMap<Address, Debt>,
}

impl Reader {
    pub fn all() -> Vec<Self> {
        let card = |name: &str| Address::Card(name.to_owned().into());
        let room = |name: &str| Address::Room(name.to_owned().into());
        let one = |name, app, declared, resumes_rooms, addresses: &[Address]| Self {
            name,
            app,
            declared,
            addresses: addresses.to_vec(),
            resumes_rooms,
            session: None,
            received: HashSet::new(),
            debts: HashMap::new(),
        };
        let (c0, c1, c2) = (card("c0"), card("c1"), card("c2"));
        let (r0, r1) = (room("r0"), room("r1"));
        vec![
            one("phone", "a", true, false, std::slice::from_ref(&c0)),
            one("0a", "a", false, false, std::slice::from_ref(&c0)),
            one("0b", "b", false, false, std::slice::from_ref(&c0)),
            one("tablet", "b", true, false, &[c0.clone(), c1.clone()]),
            one("1", "", false, false, std::slice::from_ref(&c1)),
            one("12a", "a", false, false, &[c1.clone(), c2.clone()]),
            one("watch", "c", true, false, std::slice::from_ref(&c2)),
            one("desk", "a", true, true, &[c2.clone(), r0.clone()]),
            one("2b", "b", false, false, &[c2.clone(), r0, r1.clone()]),
            one("all", "c", true, true, &[c0, c1, c2, r1]),
        ]
    }

    pub fn key(&self) -> DeviceKey<'static> {
        if self.declared { DeviceKey::Declared(self.name) } else { DeviceKey::App(self.app) }
    }
}
