//! The composition root: builds the parts in order and drains them in reverse.

mod bounds;
mod clients_return;
mod descriptors;
mod directory;
mod held_clients;
mod notes;
mod open_queue;
mod peers;
mod presence;
mod reload;
mod revocations;

use std::{
    future::Future,
    io,
    net::{SocketAddr, TcpListener},
    sync::Arc,
    time::Duration,
};

use futures_util::future::OptionFuture;
use socket2::{Domain, Socket, Type};
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};

use crate::{
    auth::{
        Keys,
        identity::{IdentityConfigError, Verifier},
    },
    cluster::{Cluster, ClusterError, Directory, Listeners, Peers, PeersConfigError},
    config::{Backend, Config},
    dispatch::{Dispatch, HearPresence, Revoke, drain_gone_nodes},
    events::{Events, EventsConfigError, EventsControl},
    hub::{ClientPush, Hub},
    ingress::{
        self, Api, admission::Admission, disconnects::Disconnects, grpc::GrpcListener, http::HttpListener,
        nodes::Nodes, peers::PeerListener, queries::Queries, readiness::NodeReadiness, rebalances::Rebalances,
        streams::Streams,
    },
    lifecycle::{Deadline, Died, Phase, Phases, Tasks, WorkerWatch},
    queue::{
        self, Jobs, OpenError, QueueState,
        nsq::{NodeTopics, RawTopics},
    },
    redis_client::{RedisClient, RedisOpenError},
    routing::RoutedPublisher,
    socket::{ClientListener, Upstream},
    store::{self, OpenStore, Store, StoreControl, StoreOpenError, StoredPushes},
    telemetry::Metrics,
};

use held_clients::HeldClients;
use open_queue::OpenQueue;
use presence::RoomPresence;
pub use reload::GatewayReload;

/// What each of these gets even when nothing is left of `[node] shutdown_timeout`: the queue's last acknowledgements, the
/// revocation of the registration, the end of the tasks.
const LAST_MOMENT: Duration = Duration::from_secs(1);
/// Connections of back ends that wait to be accepted: they are few and live long.
const BACKLOG: u32 = 1024;

/// Where the node is reached beside [`Listeners`] (a port of 0 is resolved).
#[derive(Clone, Debug, Default)]
pub struct FurtherListeners {
    /// `[socket] go_push_listen`.
    pub go_push: Option<SocketAddr>,
    /// `[socket] gpush_listen`.
    pub gpush: Option<SocketAddr>,
    /// `[http] also`.
    pub http: Vec<SocketAddr>,
    /// `[grpc] also`.
    pub grpc: Vec<SocketAddr>,
}

/// A gateway that is built and bound and does not serve yet.
pub struct Gateway {
    config: Config,
    metrics: Arc<Metrics>,
    tasks: Tasks,
    deaths: mpsc::UnboundedReceiver<Died>,
    phases: Phases,
    listeners: Listeners,
    also: FurtherListeners,
    cluster: Cluster,
    hub: Hub,
    /// `None`: it holds no clients.
    clients: Option<ClientListener>,
    /// What clients push themselves.
    client_pushes: mpsc::Receiver<ClientPush>,
    /// Who comes into rooms and leaves them.
    presence: RoomPresence,
    /// Where dispatch tells what other nodes say of that.
    hear_presence: HearPresence,
    /// Where the back end hears of presence.
    told: Events,
    revoke: Revoke,
    /// Keeps what is revoked.
    jobs: Jobs,
    /// nsq only: what other NSQ clients push.
    raw: Option<RawTopics>,
    queue: queue::Control,
    stored: Option<(Store, StoredPushes)>,
    /// Where pushes go whose clients are at another node by now; `None`: there is no directory.
    sent_on: Option<RoutedPublisher>,
    directory: Option<Directory>,
    /// Where presence is published.
    publisher: RoutedPublisher,
    /// nsq with a directory: what waits for nodes that are gone.
    node_topics: Option<NodeTopics>,
    store_control: Option<StoreControl>,
    events_control: EventsControl,
    keys: Keys,
    admission: Admission,
    http: HttpListener,
    grpc: GrpcListener,
    peers: Option<PeerListener>,
    reload: GatewayReload,
}

/// Why a gateway cannot start, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A listener's address cannot be had.
    #[error("[{section}] {key} = {address}: {error}; {}", remedy(*address, error))]
    Bind {
        /// The listener's section.
        section: &'static str,
        /// The key that names its address.
        key: &'static str,
        /// Its address.
        address: SocketAddr,
        /// What the system says.
        error: io::Error,
    },
    /// The thread that watches the workers cannot be started.
    #[error("no thread can be started: {0}; raise the limit of processes or tasks (ulimit -u, systemd TasksMax)")]
    Thread(io::Error),
    /// The queue cannot be opened.
    #[error("[queue] {0}")]
    Queue(#[from] OpenError),
    /// Redis cannot be used.
    #[error("[redis] {0}")]
    Redis(#[from] RedisOpenError),
    /// The store cannot be opened.
    #[error("[store] {0}")]
    Store(#[from] StoreOpenError),
    /// Events cannot be told as configured.
    #[error(transparent)]
    Events(#[from] EventsConfigError),
    /// Clients cannot be verified as configured.
    #[error(transparent)]
    Identity(#[from] IdentityConfigError),
    /// The node cannot be part of its cluster.
    #[error("[cluster] {0}")]
    Cluster(#[from] ClusterError),
    /// The other nodes cannot be asked as configured.
    #[error(transparent)]
    Peers(#[from] PeersConfigError),
}

impl Gateway {
    /// Builds all parts and binds the listeners. The node's id is claimed before the queue is opened: two nodes that read one
    /// channel would each lose what the other got.
    ///
    /// # Errors
    /// [`BuildError`].
    pub async fn build(config: Config) -> Result<Self, BuildError> {
        let metrics = Arc::new(Metrics::new().tracing(config.http.traced_pushes));
        held_clients::show_roles(&config, &metrics);
        let descriptors = descriptors::plan(&config);
        let loaded = watch::Sender::new(config.clone());
        let config = descriptors.bounded(config);
        bounds::show(&config, &metrics);
        let (tasks, deaths) = Tasks::new();
        let watch = WorkerWatch::start(config.node.stuck_after).map_err(BuildError::Thread)?;
        watch.watch_tokio();
        tasks.spawn("pulse", watch.pulse("tokio").beat());
        let phases = Phases::new();
        let (socket_listener, socket) = listen_for("listen", Some(config.socket.listen), &config)?.unzip();
        let (http_listener, http) = listen("http", "listen", config.http.listen, BACKLOG)?;
        let (grpc_listener, grpc) = listen("grpc", "listen", config.grpc.listen, BACKLOG)?;
        let (http_also, http_also_at) = listen_also("http", &config.http.also)?;
        let (grpc_also, grpc_also_at) = listen_also("grpc", &config.grpc.also)?;
        let (go_push_listener, go_push) = listen_for("go_push_listen", config.socket.go_push_listen, &config)?.unzip();
        let (gpush_listener, gpush) = listen_for("gpush_listen", config.socket.gpush_listen, &config)?.unzip();
        let also = FurtherListeners { go_push, gpush, http: http_also_at, grpc: grpc_also_at };
        let (peer_listener, peers_at) = peers::bind(&config)?.unzip();
        let listeners = Listeners { socket: socket.unwrap_or(config.socket.listen), http, grpc, peers: peers_at };
        // before the node's id is claimed: a Redis that must not be used costs the cluster nothing
        let redis: Option<RedisClient> = start_redis(&config, &tasks, &metrics).await?;
        let cluster =
            Cluster::join(&config, listeners, open_queue::forget_node(&config.queue), &tasks, &metrics).await?;
        let peers = Peers::new(&config, cluster.nodes.clone(), &metrics)?;
        let OpenQueue { queue, raw, node_topics } = open_queue::open(&config, &cluster, &tasks, &metrics).await?;
        let (state, queue_notes) = (queue.control.state.clone(), queue.control.notes.clone());
        cluster.follow(&phases, state.clone(), |state| *state == QueueState::Ready, &tasks);
        let (events, events_control) = Events::start(&config, &queue.publisher, &tasks, &metrics).await?;
        let (stored, store_control) = match store::open(&config, redis.as_ref(), &tasks, &metrics).await? {
            Some(OpenStore { store, stored, control }) => (Some((store, stored)), Some(control)),
            None => (None, None),
        };
        let store = stored.as_ref().map(|(store, _)| store.clone());
        let store_state = store_control.as_ref().map(StoreControl::state);
        // a store that all nodes share makes none of them less ready than the others
        let own_store_state = store_state.clone().filter(|_| !store.as_ref().is_some_and(Store::is_shared));
        let hub = Hub::new(&config.hub, &config.outbox, config.node.workers, &metrics);
        let (presence, hear_presence) = RoomPresence::watch(&config, redis.as_ref(), &cluster, &hub, &tasks, &metrics);
        let peer_listener = peers::listener(peer_listener, &config, &hub, &phases, &metrics)?;
        let (pushes, client_pushes) = mpsc::channel(config.queue.max_publishes);
        let upstream = Upstream { pushes, events: events.clone() };
        let directory = directory::start(&config, redis.as_ref(), &cluster, &hub, &tasks, &metrics);
        let publisher = RoutedPublisher::start(&config, queue.publisher.clone(), directory.clone(), &tasks, &metrics);
        let disconnects = Disconnects::new(&config, queue.publisher.clone(), store.clone(), phases.clone(), &metrics)
            .asking(&config, peers.clone(), &hub);
        let nodes = Nodes::new(&config, listeners, cluster.nodes.clone(), phases.clone(), hub.clone(), peers.clone());
        let rebalances = Rebalances::new(nodes.clone(), queue.publisher, phases.clone(), &metrics);
        let admission = Admission::new(&config, publisher.clone(), store.clone(), phases.clone(), &tasks, &metrics);
        let keys = Keys::new(&config, &metrics);
        let api = Api {
            roles: config.node.roles,
            keys: keys.clone(),
            admission: admission.clone(),
            disconnects,
            queries: Queries::new(&config, hub.clone(), peers.clone(), &metrics),
            rebalances,
            nodes,
            streams: Streams::new(&config, store.clone(), &metrics),
            events: events.clone(),
            readiness: NodeReadiness::new(state, own_store_state, phases.clone()),
            watch: watch.clone(),
        };
        let verifier = Verifier::new(&config.token, &config.verify, &tasks, &metrics)?;
        if let Some(verifier) = &verifier {
            revocations::follow(store.as_ref(), store_state.clone(), verifier, &tasks).await;
        }
        let revoke = revocations::revoke(verifier.clone());
        let clients = socket_listener.map(|listener| {
            ClientListener::new(listener, &config, verifier.clone(), hub.clone(), phases.clone(), &metrics)
                .sending_to(upstream)
                .keeping(store)
                .asking(peers.clone())
                .announcing(directory.clone())
                .watched(&watch)
                .accepting_at_most(descriptors.socket)
                .beside("go_push", go_push_listener)
                .beside("gpush", gpush_listener)
        });
        let redis_notes = notes::redis(redis.as_ref(), &tasks);
        let details = [notes::roles(config.node.roles), cluster.details.clone(), queue_notes, redis_notes];
        let directory_notes = directory.as_ref().map(Directory::notes);
        let details = details.into_iter().chain(directory_notes).collect();
        let http = HttpListener::new(http_listener, &config, api.clone(), details, listeners.socket, &metrics)
            .and_at(http_also);
        let grpc = GrpcListener::new(grpc_listener, &config, api, &metrics).and_at(grpc_also);
        let reload = GatewayReload {
            descriptors,
            clients: clients.as_ref().map(ClientListener::reload),
            http: http.reload(),
            keys: keys.clone(),
            verifier,
            admission: admission.clone(),
            config: loaded,
            metrics: Arc::clone(&metrics),
        };
        Ok(Self {
            config,
            metrics,
            tasks,
            deaths,
            phases,
            listeners,
            also,
            cluster,
            hub,
            clients,
            client_pushes,
            presence,
            hear_presence,
            told: events,
            revoke,
            jobs: queue.jobs,
            raw,
            queue: queue.control,
            stored,
            sent_on: directory.is_some().then(|| publisher.clone()),
            directory,
            publisher,
            node_topics,
            store_control,
            events_control,
            keys,
            admission,
            http,
            grpc,
            peers: peer_listener,
            reload,
        })
    }

    /// What a reload changes of it.
    pub fn reload(&self) -> GatewayReload {
        self.reload.clone()
    }

    /// Where it listens (a port of 0 is resolved).
    pub fn listeners(&self) -> Listeners {
        self.listeners
    }

    /// Where the API is served, too (a port of 0 is resolved).
    pub fn also(&self) -> &FurtherListeners {
        &self.also
    }

    /// Which queue it uses, for the banner.
    pub fn queue_name(&self) -> String {
        let queue = &self.config.queue;
        match queue.backend {
            Backend::Embedded => format!("embedded log in {}", queue.dir.display()),
            Backend::Nsq => format!("nsqd {}, topic {}.live", queue.nsqd.join(", "), queue.topic),
        }
    }

    /// Serves until `stop`, then drains within `[node] shutdown_timeout`.
    ///
    /// # Errors
    /// A task of the gateway died.
    pub async fn run(mut self, stop: impl Future<Output = ()>) -> Result<(), Died> {
        let config = &self.config;
        let tasks = &self.tasks;
        let metrics = &self.metrics;
        let backlog = self.queue.backlog.clone();
        if let Some(hold) = self.queue.take_hold() {
            clients_return::follow(hold, self.hub.clone(), tasks);
        }
        let hub = self.hub.clone();
        let presence = self.presence.start(&hub, &self.told, &self.publisher, tasks);
        if let Some(publisher) = &self.sent_on
            && let Some(topics) = self.node_topics
        {
            let publisher = publisher.publisher().clone();
            drain_gone_nodes(config, topics, self.cluster.gone.clone(), publisher, tasks, metrics);
        }
        let held = self.clients.map(|clients| {
            let orders = held_clients::orders(
                self.revoke,
                self.hear_presence,
                &clients,
                &config.node.id,
                self.reload.config.subscribe(),
            );
            HeldClients {
                dispatch: Dispatch::start(
                    config,
                    self.jobs,
                    self.stored,
                    self.hub,
                    backlog,
                    self.sent_on,
                    orders,
                    tasks,
                    metrics,
                ),
                clients: clients.serve(tasks),
            }
        });
        let raw = self.raw.map(|raw| ingress::nsq::start(config, raw, &self.keys, &self.admission, tasks));
        let client_pushes = ingress::client_pushes::start(
            self.client_pushes,
            config.queue.max_publishes,
            &self.keys,
            &self.admission,
            tasks,
        );
        let http = self.http.serve(tasks);
        let grpc = self.grpc.serve(tasks);
        let peers = self.peers.map(|peers| peers.serve(tasks));
        self.phases.enter(Phase::Serving);
        let outcome = tokio::select! {
            () = stop => Ok(()),
            Some(died) = self.deaths.recv() => Err(died),
        };

        let began = Instant::now();
        // as the last reload left it
        let config = self.reload.config.borrow().clone();
        let deadline = Deadline::after(config.node.shutdown_timeout);
        // load balancers learn that it leaves; what they still send is served, so that nothing is refused
        self.phases.enter(Phase::Leaving);
        let grace = config.drain.grace;
        if !grace.is_zero() {
            tracing::info!(?grace, "the node leaves: it is not ready any more, and serves on for [drain] grace");
            tokio::time::sleep(grace.min(deadline.remaining())).await;
        }
        self.phases.enter(Phase::Draining);
        tracing::info!("the node drains: it takes no new pushes, and sends its clients away");
        // what a raw push became must be published, and pushes of other nodes go on to reach clients that are still here
        if let Some(raw) = raw {
            raw.drain(deadline).await;
        }
        let told = match &held {
            Some(held) => held.send_away(&config.drain, &mut self.queue, &hub, deadline).await,
            None => 0,
        };
        client_pushes.stop(deadline).await;
        let _ = deadline.timeout(self.queue.stop_jobs()).await;
        let (cut, workers) = OptionFuture::from(held.map(|held| held.end_jobs(deadline))).await.unzip();
        // those who left are told to the others
        OptionFuture::from(presence.as_ref().map(|presence| presence.stop_within(deadline.granting(LAST_MOMENT))))
            .await;
        let stop_workers = OptionFuture::from(workers.map(|workers| workers.stop(deadline)));
        tokio::join!(http.stop(deadline), grpc.stop(deadline), stop_workers);
        if let Some(peers) = peers {
            peers.stop(deadline).await;
        }
        self.events_control.close(deadline.granting(LAST_MOMENT)).await;
        // dispatch tells no more
        if let Some(store) = self.store_control {
            store.close(deadline.granting(LAST_MOMENT)).await;
        }
        if let Some(directory) = self.directory {
            directory.leave().await;
        }
        if deadline.remaining().is_zero() {
            tracing::warn!("[node] shutdown_timeout passed before the drain was done");
        }
        self.queue.close(deadline.granting(LAST_MOMENT)).await;
        self.cluster.leave(deadline.granting(LAST_MOMENT)).await;
        if !tasks.stop(LAST_MOMENT).await {
            tracing::warn!("some tasks did not end in time");
        }
        tracing::info!(clients = told, cut = cut.unwrap_or(0), took = ?began.elapsed(), "the node has stopped");
        // a part may also die while the node drains: that is no clean end
        outcome.and_then(|()| self.deaths.try_recv().map_or(Ok(()), Err))
    }
}

/// The connection to Redis, if the configuration names one.
async fn start_redis(
    config: &Config,
    tasks: &Tasks,
    metrics: &Arc<Metrics>,
) -> Result<Option<RedisClient>, RedisOpenError> {
    if config.redis.urls.is_empty() {
        return Ok(None);
    }
    RedisClient::start(&config.redis, tasks, metrics).await.map(Some)
}

/// One of the clients' listeners, if it has an address, and the node holds clients.
fn listen_for(
    key: &'static str,
    address: Option<SocketAddr>,
    config: &Config,
) -> Result<Option<(TcpListener, SocketAddr)>, BuildError> {
    let address = address.filter(|_| config.node.roles.has_socket());
    address.map(|address| listen("socket", key, address, config.socket.backlog)).transpose()
}

/// The listeners of a section's `also`, and where they really listen.
fn listen_also(
    section: &'static str,
    addresses: &[SocketAddr],
) -> Result<(Vec<TcpListener>, Vec<SocketAddr>), BuildError> {
    let bound: Result<Vec<_>, _> = addresses.iter().map(|address| listen(section, "also", *address, BACKLOG)).collect();
    Ok(bound?.into_iter().unzip())
}

/// A section's listener, non-blocking, and where it really listens (a port of 0 is resolved).
fn listen(
    section: &'static str,
    key: &'static str,
    address: SocketAddr,
    backlog: u32,
) -> Result<(TcpListener, SocketAddr), BuildError> {
    let bound = || {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(i32::try_from(backlog).unwrap_or(i32::MAX))?;
        let listener = TcpListener::from(socket);
        let address = listener.local_addr()?;
        Ok((listener, address))
    };
    bound().map_err(|error| BuildError::Bind { section, key, address, error })
}

/// What helps against a listener that cannot be had.
fn remedy(address: SocketAddr, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            format!(
                "another process listens there (`ss -ltnp` names it): stop it, or take a port other than {}",
                address.port()
            )
        }
        io::ErrorKind::PermissionDenied if address.port() < 1024 => {
            "ports below 1024 are for root: take a higher one, or give the program CAP_NET_BIND_SERVICE".into()
        }
        io::ErrorKind::PermissionDenied => {
            "this user may not listen there: the system's security policy forbids it".into()
        }
        io::ErrorKind::AddrNotAvailable if address.is_ipv6() => {
            "this machine has no such address, or its IPv6 is off: `ip address` lists what it has".into()
        }
        io::ErrorKind::AddrNotAvailable => {
            "this machine has no such address: `ip address` lists what it has, 0.0.0.0 is all of them".into()
        }
        // the socket itself was refused (EAFNOSUPPORT)
        _ if address.is_ipv6() => {
            "is IPv6 off on this machine? take an IPv4 address then, say 127.0.0.1 or 0.0.0.0".into()
        }
        _ => "see whether the system is short of files or memory".into(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_that_cannot_be_had_is_told_with_its_own_remedy() {
        // by number, as the system tells them: EADDRINUSE, EACCES, EADDRNOTAVAIL, EAFNOSUPPORT
        for (number, address, told) in [
            (98, "127.0.0.1:8080", "another process listens there"),
            (13, "0.0.0.0:80", "ports below 1024 are for root"),
            (13, "0.0.0.0:8080", "security policy"),
            (99, "192.0.2.1:8080", "no such address"),
            (99, "[::1]:8080", "IPv6 is off"),
            (97, "[::1]:8080", "take an IPv4 address"),
        ] {
            let error = io::Error::from_raw_os_error(number);
            let bound = address.parse().unwrap();
            let error = BuildError::Bind { section: "http", key: "listen", address: bound, error }.to_string();
            assert!(error.contains(told) && error.contains(&format!("[http] listen = {address}")), "{error}");
        }
    }

    use crate::{
        hub::{Fanout, Part, Recipients},
        lifecycle::Death,
        push::Push,
    };

    async fn gateway(folder: &tempfile::TempDir) -> Gateway {
        with_grace(folder, "0ms").await
    }

    async fn with_grace(folder: &tempfile::TempDir, grace: &str) -> Gateway {
        let dir = folder.path().to_str().unwrap();
        let local = "127.0.0.1:0";
        let settings = [
            ("SOCKET__LISTEN", local),
            ("HTTP__LISTEN", local),
            ("GRPC__LISTEN", local),
            ("NODE__WORKERS", "1"),
            ("DATA__DIR", dir),
            ("DRAIN__GRACE", grace),
        ];
        let settings = settings.map(|(key, value)| (format!("OXIPUSH__{key}"), value.to_owned()));
        Gateway::build(crate::config::load(None, settings).unwrap()).await.unwrap()
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_part_that_panics_ends_the_gateway_with_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let gateway = gateway(&folder).await;
        gateway.tasks.spawn_until_done("a part", async { panic!("on purpose") });
        let died = gateway.run(std::future::pending()).await.unwrap_err();
        assert_eq!((died.name.as_str(), died.how), ("a part", Death::Panicked));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_part_that_panics_while_the_node_drains_is_told_too() {
        let folder = tempfile::tempdir().unwrap();
        let gateway = gateway(&folder).await;
        let mut phase = gateway.phases.watch();
        gateway.tasks.spawn_until_done("a part", async move {
            phase.wait_for(|phase| *phase == Phase::Draining).await.unwrap();
            panic!("on purpose");
        });
        let died = gateway.run(async {}).await.unwrap_err();
        assert_eq!((died.name.as_str(), died.how), ("a part", Death::Panicked));
    }

    fn poison() -> Part {
        Part::new(Fanout::new(Push::to("alice", ""), 0, mpsc::unbounded_channel().0), Recipients::Panic)
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_shard_that_panics_ends_the_gateway_with_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let gateway = gateway(&folder).await;
        gateway.hub.send(0, vec![poison().into()]).await;
        let died = gateway.run(std::future::pending()).await.unwrap_err();
        assert_eq!(died.name, "hub shard 0");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_shard_that_panics_while_the_node_drains_is_told_too() {
        let folder = tempfile::tempdir().unwrap();
        // long enough for a slow machine to get that far
        let gateway = with_grace(&folder, "3s").await;
        let (hub, mut phase) = (gateway.hub.clone(), gateway.phases.watch());
        let poisoned = tokio::spawn(async move {
            phase.wait_for(|phase| *phase == Phase::Leaving).await.unwrap();
            hub.send(0, vec![poison().into()]).await;
        });
        let died = gateway.run(async {}).await.unwrap_err();
        assert_eq!(died.name, "hub shard 0");
        poisoned.await.unwrap();
    }
}
