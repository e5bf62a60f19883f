//! The nodes of the cluster as callers are told of them, and where clients should connect.

mod placement;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{sync::watch, time::Instant};

use crate::{
    cluster::{Listeners, Node, Peers},
    config::{Config, SOCKET},
    hub::Hub,
    lifecycle::{Phase, Phases},
};

use placement::Placement;

/// The most addresses that a client is told: it tries the next where the one before fails.
const MOST_PLACES: usize = 3;

/// The nodes of the cluster; a cheap clone.
#[derive(Clone)]
pub(crate) struct Nodes(Arc<NodesCore>);

struct NodesCore {
    /// This node, for as long as etcd tells of none.
    own: Node,
    registered: watch::Receiver<Arc<[Node]>>,
    phases: Phases,
    hub: Hub,
    /// `[cluster] client_url`.
    client_url: Option<String>,
    /// `None`: only this node's connections are known.
    peers: Option<Peers>,
    /// How old loads may be.
    load_interval: Duration,
    loads: Mutex<KnownLoads>,
    /// Somebody asks for loads.
    asking: AtomicBool,
    placement: Mutex<Placement>,
}

/// What the nodes said last.
#[derive(Default)]
struct KnownLoads {
    /// `None`: nobody was asked yet.
    asked: Option<Instant>,
    connections: Arc<HashMap<String, u64>>,
}

/// A node, and what is known of it beside its registration.
#[derive(Clone, Debug)]
pub(crate) struct KnownNode {
    pub(crate) node: Node,
    /// Its clients' URL; `None`: it holds none.
    pub(crate) url: Option<String>,
    /// Its clients' connections, where they are known.
    pub(crate) connections: Option<u64>,
}

/// Where a client may connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ClientPlace {
    /// host:port.
    pub(crate) address: String,
    pub(crate) url: String,
}

/// Resets the flag also where its caller went away.
struct Asking<'a>(&'a AtomicBool);

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl Nodes {
    /// Those that `registered` tells of. How many connections each has say `peers`; `None`: only this node's are known.
    pub(crate) fn new(
        config: &Config,
        listeners: Listeners,
        registered: watch::Receiver<Arc<[Node]>>,
        phases: Phases,
        hub: Hub,
        peers: Option<Peers>,
    ) -> Self {
        let cluster = &config.cluster;
        let advertised =
            |given: &Option<String>, listen: std::net::SocketAddr| given.clone().unwrap_or_else(|| listen.to_string());
        let socket = advertised(&cluster.advertise_socket, listeners.socket);
        let own = Node {
            id: config.node.id.as_str().to_owned(),
            socket: if config.node.roles.has_socket() { socket } else { String::new() },
            http: advertised(&cluster.advertise_http, listeners.http),
            grpc: advertised(&cluster.advertise_grpc, listeners.grpc),
            peers: None,
            roles: config.node.roles.names(),
            weight: cluster.weight,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            phase: String::new(),
            ready: None,
            incarnation: String::new(),
        };
        Self(Arc::new(NodesCore {
            own,
            registered,
            phases,
            hub,
            client_url: cluster.client_url.clone(),
            peers,
            load_interval: cluster.load_interval,
            loads: Mutex::default(),
            asking: AtomicBool::new(false),
            placement: Mutex::default(),
        }))
    }

    /// This node's id.
    pub(crate) fn own_id(&self) -> &str {
        &self.0.own.id
    }

    /// Whether the other nodes can be asked how many connections they have.
    pub(crate) fn can_ask(&self) -> bool {
        self.0.peers.is_some()
    }

    /// All nodes, sorted by id; loads are `[cluster] load_interval` old at most, where nobody else asks for them just now.
    pub(crate) async fn all(&self) -> Vec<KnownNode> {
        let loads = self.loads(self.0.load_interval).await;
        self.with_loads(&loads)
    }

    /// As [`Nodes::all`], with loads that nobody asked for before.
    pub(crate) async fn all_asked_now(&self) -> Vec<KnownNode> {
        let loads = self.loads(Duration::ZERO).await;
        self.with_loads(&loads)
    }

    /// Where the next client should connect: the node that has the fewest connections for its weight, then others that it may try.
    /// None, where no node that holds clients serves.
    pub(crate) async fn places_for_client(&self) -> Vec<ClientPlace> {
        let nodes = self.all().await;
        let takes = |known: &&KnownNode| known.url.is_some() && known.node.is_serving();
        let open: Vec<&KnownNode> = nodes.iter().filter(takes).collect();
        let asked = self.0.loads.lock().unwrap_or_else(PoisonError::into_inner).asked;
        let candidates = open.iter().map(|known| placement::Candidate {
            id: &known.node.id,
            weight: known.node.weight,
            // what is known of one node alone says nothing about the others
            connections: known.connections.filter(|_| self.can_ask()),
        });
        let mut placement = self.0.placement.lock().unwrap_or_else(PoisonError::into_inner);
        let order = placement.order(&candidates.collect::<Vec<_>>(), asked);
        let place = |known: &KnownNode| {
            let url = known.url.clone()?;
            Some(ClientPlace { address: known.node.socket.clone(), url })
        };
        order.into_iter().take(MOST_PLACES).filter_map(|index| place(open.get(index)?)).collect()
    }

    /// How many connections each node has, as far as that is known, at most so old.
    async fn loads(&self, max_age: Duration) -> Arc<HashMap<String, u64>> {
        let core = &*self.0;
        let known = {
            let loads = core.loads.lock().unwrap_or_else(PoisonError::into_inner);
            let is_young = loads.asked.is_some_and(|asked| asked.elapsed() < max_age);
            (is_young || core.peers.is_none()).then(|| Arc::clone(&loads.connections))
        };
        if let Some(known) = known {
            return known;
        }
        let Some(peers) = &core.peers else { return Arc::default() };
        // one question at once, unless it must be a fresh one
        if core.asking.swap(true, Ordering::AcqRel) && !max_age.is_zero() {
            return Arc::clone(&core.loads.lock().unwrap_or_else(PoisonError::into_inner).connections);
        }
        let _asking = Asking(&core.asking);
        let asked = Instant::now();
        let connections: Arc<HashMap<String, u64>> =
            Arc::new(peers.load().await.into_iter().map(|load| (load.node, load.connections)).collect());
        let mut loads = core.loads.lock().unwrap_or_else(PoisonError::into_inner);
        *loads = KnownLoads { asked: Some(asked), connections: Arc::clone(&connections) };
        connections
    }

    fn with_loads(&self, loads: &HashMap<String, u64>) -> Vec<KnownNode> {
        let core = &*self.0;
        let registered = core.registered.borrow().clone();
        let alone = [Node { phase: phase_word(core.phases.now()).to_owned(), ..core.own.clone() }];
        let nodes = if registered.is_empty() { &alone[..] } else { &registered[..] };
        let known = nodes.iter().map(|node| {
            let holds_clients = node.has_role(SOCKET);
            let connections = if node.id == core.own.id {
                Some(core.hub.census().connections as u64)
            } else {
                loads.get(&node.id).copied()
            };
            KnownNode {
                url: holds_clients.then(|| self.url(node)),
                connections: connections.filter(|_| holds_clients),
                node: node.clone(),
            }
        });
        known.collect()
    }

    /// Where the clients of a node connect.
    fn url(&self, node: &Node) -> String {
        match &self.0.client_url {
            Some(template) => template.replace("{node}", &node.id),
            None => format!("ws://{}/ws", node.socket),
        }
    }
}

/// As a node registers it.
fn phase_word(phase: Phase) -> &'static str {
    match phase {
        Phase::Starting => "starting",
        Phase::Serving => "serving",
        Phase::Leaving | Phase::Draining => "draining",
    }
}
