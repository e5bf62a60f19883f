//! The clients: many WebSocket connections on one epoll loop, each counting what it is owed.

pub(crate) mod connection;
mod receiver;

use std::{
    collections::BTreeMap,
    sync::{Arc, mpsc},
    thread::{self, JoinHandle},
    time::Duration,
};

use hdrhistogram::Histogram;
use mio::{Poll, Token, Waker};

use self::receiver::Receiver;
use crate::{Result, address::Address, cli::Load, profile::Profile, push::histogram, shared::Shared};

const WAKER: Token = Token(usize::MAX);

/// One slice of throughput over time.
pub(crate) const SLICE: Duration = Duration::from_millis(100);

/// What the receivers of a run are to do.
#[derive(Clone, Debug)]
pub(crate) struct Clients {
    pub(crate) profile: Profile,
    pub(crate) token: Option<String>,
    /// Of the first node; its host and path are asked for at each.
    pub(crate) address: Address,
    /// Of all nodes.
    nodes: Vec<Address>,
    pub(crate) connections: u32,
    pub(crate) threads: u32,
    pub(crate) concurrency: u32,
    /// The first so many are slow, and read this many bytes a second.
    pub(crate) slow: u32,
    pub(crate) slow_rate: u32,
    /// They ask for several pushes in one frame, where that is an option.
    pub(crate) merge: bool,
    /// Connections a second, once churn is switched on.
    pub(crate) churn: f64,
    /// They keep their place in their card's or room's stream.
    pub(crate) offline: bool,
}

impl Clients {
    pub(crate) fn new(load: &Load) -> Result<Self> {
        let listed = load.ws.as_ref().ok_or("--ws is missing: where do clients connect?")?;
        let nodes = listed.split(',').map(|node| Address::parse(node, "ws")).collect::<Result<Vec<_>>>()?;
        let mut address = nodes[0].clone();
        if address.path.is_empty() {
            address.path = load.profile.socket_path().into();
        }
        Ok(Self {
            profile: load.profile,
            token: load.token.clone(),
            address,
            nodes,
            connections: load.connections,
            threads: load.threads.min(load.connections),
            concurrency: load.connect_concurrency,
            merge: load.merge,
            slow: 0,
            slow_rate: load.slow_rate,
            churn: load.churn,
            offline: load.offline,
        })
    }

    /// Where the connection of this number goes: to each node in turn.
    pub(crate) fn address_of(&self, number: u32) -> &Address {
        &self.nodes[number as usize % self.nodes.len()]
    }

    /// Whether one frame may hold several pushes.
    pub(crate) fn merges(&self) -> bool {
        self.merge || self.profile.merges()
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
    /// Frames with pushes in them, and how many pushes, the warm-up's and doubled ones too.
    pub(crate) frames: u64,
    pub(crate) items: u64,
    /// Stored pushes that came behind one that did not (by seq and prev).
    pub(crate) gaps: u64,
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
            frames: 0,
            items: 0,
            gaps: 0,
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
        self.frames += other.frames;
        self.items += other.items;
        self.gaps += other.gaps;
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
