//! The clients' side: handshake, join, heartbeat, writes, close codes. The socket leaves HTTP after the handshake.
//!
//! This file starts the threads' servers; below it arrows point one way: http → connection → worker → heartbeat →
//! client_socket → session, stream; http → credentials → handshake; and rebalance → drain → worker.

mod address;
mod client_socket;
mod connection;
mod credentials;
mod drain;
mod handshake;
mod handshake_rates;
mod heartbeat;
mod http;
mod join;
mod limit;
mod live;
mod presence;
mod rebalance;
mod rooms;
mod session;
mod stream;
mod upstream;
mod wheel;
mod worker;

use std::{
    cell::RefCell,
    convert::Infallible,
    net::TcpListener,
    pin::pin,
    rc::{Rc, Weak},
    sync::Arc,
    time::Duration,
};

use actix_server::Server;
use actix_service::fn_service;
use tokio::{net::TcpStream, sync::watch};
use tokio_util::sync::CancellationToken;

use crate::{
    auth::identity::Verifier,
    cluster::{Directory, Peers},
    config::{self, Config},
    hub::Hub,
    lifecycle::{Deadline, Phases, Service, Tasks, WorkerWatch},
    push::NameRule,
    store::Store,
    telemetry::Metrics,
};

use drain::DrainPlan;
use handshake_rates::HandshakeRates;
use http::HandshakeServer;
use join::{Authorizer, VerifiedJoins};
use limit::ConnectionLimit;
use live::LiveConfig;
use rebalance::RebalancePlan;
use rooms::RoomRules;
use worker::Worker;

pub use rebalance::Rebalancer;
pub use upstream::Upstream;

/// The name of `[socket] listen` in [`ROUTES`](crate::wire::dialect::ROUTES).
const SOCKET: &str = "socket";

thread_local! {
    /// The worker that this thread is, for the listeners beside the one that made it one.
    static WORKER: RefCell<Weak<Worker>> = const { RefCell::new(Weak::new()) };
}

/// Bound listeners that do not serve yet.
pub struct ClientListener {
    /// By their names in [`ROUTES`](crate::wire::dialect::ROUTES).
    listeners: Vec<(&'static str, TcpListener)>,
    setup: WorkerSetup,
    rebalancer: Rebalancer,
}

/// The serving workers.
pub struct ClientServer {
    hub: Hub,
    limit: Arc<ConnectionLimit>,
    drain: watch::Sender<Option<DrainPlan>>,
    /// Its last clone ends what carries out rebalances.
    _rebalancer: Rebalancer,
    service: Service,
}

/// What each worker's thread is started with.
#[derive(Clone)]
struct WorkerSetup {
    live: LiveConfig,
    names: NameRule,
    rooms: config::RoomsConfig,
    upstream: Upstream,
    store: Option<Store>,
    store_retry: Duration,
    peers: Option<Peers>,
    directory: Option<Directory>,
    /// `None`: nobody watches the workers.
    watch: Option<WorkerWatch>,
    /// `None`: clients need not prove who they are.
    verifier: Option<Verifier>,
    /// The cookie that may carry a token.
    cookie: Option<String>,
    hub: Hub,
    limit: Arc<ConnectionLimit>,
    handshake_rates: Arc<HandshakeRates>,
    drain: watch::Sender<Option<DrainPlan>>,
    rebalance: watch::Sender<Option<RebalancePlan>>,
    phases: Phases,
    metrics: Arc<Metrics>,
    /// Connections that may be open, on all workers together.
    max_open: usize,
    /// One for each shard, cancelled by the first of its tasks that ends.
    ended: Vec<CancellationToken>,
}

impl ClientListener {
    /// On a listener that is bound and non-blocking; `verifier` proves who clients are.
    pub fn new(
        listener: TcpListener,
        config: &Config,
        verifier: Option<Verifier>,
        hub: Hub,
        phases: Phases,
        metrics: &Arc<Metrics>,
    ) -> Self {
        let setup = WorkerSetup {
            live: LiveConfig::new(config.socket.clone()),
            names: NameRule { max: config.push.max_name },
            rooms: config.rooms.clone(),
            upstream: Upstream::nowhere(),
            store: None,
            store_retry: config.store.sweep_interval,
            peers: None,
            directory: None,
            watch: None,
            verifier,
            cookie: config.token.cookie.clone(),
            limit: ConnectionLimit::new(&config.socket, metrics),
            handshake_rates: Arc::new(HandshakeRates::new()),
            drain: watch::Sender::new(None),
            rebalance: watch::Sender::new(None),
            phases,
            metrics: Arc::clone(metrics),
            max_open: usize::MAX,
            ended: (0..hub.workers()).map(|_| CancellationToken::new()).collect(),
            hub,
        };
        Self { listeners: vec![(SOCKET, listener)], setup, rebalancer: Rebalancer::new() }
    }

    /// With one more listener, if there is one, bound and non-blocking: for the paths that [`ROUTES`](crate::wire::dialect::ROUTES)
    /// has under this name. Its connections are served by the same workers and within the same limits.
    #[must_use]
    pub fn beside(mut self, name: &'static str, listener: Option<TcpListener>) -> Self {
        self.listeners.extend(listener.map(|listener| (name, listener)));
        self
    }

    /// What clients send for others goes this way.
    #[must_use]
    pub fn sending_to(mut self, upstream: Upstream) -> Self {
        self.setup.upstream = upstream;
        self
    }

    /// What is stored for clients is here; `None`: nothing is.
    #[must_use]
    pub fn keeping(mut self, store: Option<Store>) -> Self {
        self.setup.store = store;
        self
    }

    /// Who is in a room is asked of these nodes, too; `None`: each node tells of its own.
    #[must_use]
    pub fn asking(mut self, peers: Option<Peers>) -> Self {
        self.setup.peers = peers;
        self
    }

    /// Cards and rooms are written down there before a client is in them.
    #[must_use]
    pub fn announcing(mut self, directory: Option<Directory>) -> Self {
        self.setup.directory = directory;
        self
    }

    /// The workers show here that they turn, and `/healthz` tells of those that do not.
    #[must_use]
    pub fn watched(mut self, watch: &WorkerWatch) -> Self {
        self.setup.watch = Some(watch.clone());
        self
    }

    /// With no more than these connections open, whatever becomes of them; others wait to be accepted.
    #[must_use]
    pub fn accepting_at_most(mut self, connections: usize) -> Self {
        self.setup.max_open = connections;
        self
    }

    /// What sends some of its clients to other nodes.
    pub fn rebalancer(&self) -> Rebalancer {
        self.rebalancer.clone()
    }

    /// What a reload changes of it.
    pub(crate) fn reload(&self) -> ClientReload {
        ClientReload { live: self.setup.live.clone(), limit: Arc::clone(&self.setup.limit) }
    }

    /// Serves. A worker's shard that ends unasked is a death.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn serve(self, tasks: &Tasks) -> ClientServer {
        let Self { listeners, setup, rebalancer } = self;
        let service = tasks.service();
        let rebalances = rebalancer.clone().run(setup.rebalance.clone(), setup.hub.clone());
        let stopping = service.stopping().clone();
        service.spawn("rebalances", async move {
            stopping.run_until_cancelled(rebalances).await;
        });
        for (shard, ended) in setup.ended.iter().cloned().enumerate() {
            let stopping = service.stopping().clone();
            service.spawn(format!("hub shard {shard}"), async move {
                tokio::select! {
                    () = ended.cancelled() => {}
                    () = stopping.cancelled() => {}
                }
            });
        }
        let mut server = Server::build()
            .workers(setup.hub.workers())
            // of each worker. The limit refuses what is too many as long as there are descriptors for that; actix lets it wait
            .max_concurrent_connections(setup.max_open.div_ceil(setup.hub.workers()))
            .disable_signals();
        for (name, listener) in listeners {
            let setup = setup.clone();
            // called on each worker's thread, which the first makes a shard's
            let listening = server.listen(name, listener, move || {
                let server = Rc::new(setup.start(name));
                fn_service(move |tcp: TcpStream| {
                    let server = Rc::clone(&server);
                    async move {
                        server.serve(tcp.into()).await;
                        Ok::<_, Infallible>(())
                    }
                })
            });
            server = listening.expect("invariant: a listener that is non-blocking and has an address can be served");
        }
        let server = server.run();
        let handle = server.handle();
        let stopping = service.stopping().clone();
        service.spawn("client listeners", async move {
            let mut server = pin!(server);
            tokio::select! {
                ended = &mut server => match ended {
                    Ok(()) => tracing::error!("the listeners for clients ended unasked"),
                    Err(error) => tracing::error!(%error, "the listeners for clients failed"),
                },
                () = stopping.cancelled() => {
                    // it stops while it is polled
                    let _ = tokio::join!(handle.stop(false), server);
                }
            }
        });
        ClientServer { hub: setup.hub, limit: setup.limit, drain: setup.drain, _rebalancer: rebalancer, service }
    }
}

/// Replaces what a reload may change of the clients' side; a cheap clone.
#[derive(Clone)]
pub(crate) struct ClientReload {
    live: LiveConfig,
    limit: Arc<ConnectionLimit>,
}

impl ClientReload {
    /// `[socket]` from now on. Whoever is connected stays.
    pub(crate) fn replace(&self, config: &config::SocketConfig) {
        self.limit.replace(config);
        self.live.replace(config.clone());
    }
}

impl WorkerSetup {
    /// Answers this thread's connections of a listener, and makes the thread a worker if it is none.
    fn start(&self, listener: &'static str) -> HandshakeServer {
        HandshakeServer {
            listener,
            worker: self.worker_of_thread(),
            watch: self.watch.clone(),
            http: http::builder(&self.live.now().config),
            live: self.live.clone(),
            limit: Arc::clone(&self.limit),
            handshake_rates: Arc::clone(&self.handshake_rates),
            drain: self.drain.subscribe(),
            phases: self.phases.clone(),
            metrics: Arc::clone(&self.metrics),
        }
    }

    fn authorizer(&self) -> Authorizer {
        match &self.verifier {
            None => Authorizer::Anyone(self.names),
            Some(verifier) => Authorizer::Verified(VerifiedJoins {
                names: self.names,
                verifier: verifier.clone(),
                cookie: self.cookie.clone(),
                anonymous: self.live.now().config.anonymous,
            }),
        }
    }

    /// As [`WorkerSetup::start_worker`], once for each thread.
    fn worker_of_thread(&self) -> Option<Rc<Worker>> {
        let of_thread = WORKER.with_borrow(Weak::upgrade);
        if of_thread.is_some() {
            return of_thread;
        }
        let worker = self.start_worker(self.authorizer())?;
        WORKER.set(Rc::downgrade(&worker));
        Some(worker)
    }

    /// Brings the next shard of the hub to life on this thread. `None`: there is none left, because a worker died and the
    /// process is about to end.
    fn start_worker(&self, authorizer: Authorizer) -> Option<Rc<Worker>> {
        let claimed = self.hub.claim_shard()?;
        let index = claimed.index();
        let ended = self.ended.get(index)?;
        let (shard, inbox) = claimed.open();
        let rooms = RoomRules::new(&self.rooms);
        let upstream = self.upstream.clone();
        let worker = Worker::new(shard, self.live.clone(), authorizer, self.names, rooms, upstream, &self.metrics);
        let worker = Rc::new(
            worker
                .keeping(self.store.clone(), self.store_retry)
                .asking(self.peers.clone())
                .announcing(self.directory.clone()),
        );
        if let Some(watch) = &self.watch {
            actix_rt::spawn(watch.pulse(format!("socket worker {index}")).beat());
        }
        // all are owned by the thread and end with its runtime, or by a panic
        let guard = ended.clone().drop_guard();
        let this = Rc::clone(&worker);
        actix_rt::spawn(async move {
            let _guard = guard;
            let period = this.heartbeat.period;
            this.shard.run(inbox, period, |shard| this.heartbeat.tick(shard)).await;
        });
        let guard = ended.clone().drop_guard();
        let draining = drain::follow(Rc::clone(&worker), self.drain.subscribe());
        actix_rt::spawn(async move {
            let _guard = guard;
            draining.await;
        });
        let guard = ended.clone().drop_guard();
        let leaving = rebalance::follow(Rc::clone(&worker), self.rebalance.subscribe());
        actix_rt::spawn(async move {
            let _guard = guard;
            leaving.await;
        });
        Some(worker)
    }
}

impl ClientServer {
    /// Over which time the clients leave that are here now, if they are sent away: `most`, less where they are few, and no
    /// more than half of what is left until `deadline`.
    pub fn jitter(&self, most: Duration, deadline: Deadline) -> Duration {
        drain::jitter(self.hub.census().connections, most).min(deadline.remaining() / 2)
    }

    /// Refuses new handshakes (503) and sends every client away: `rate` in a second (0: all at once) are told that they have to
    /// leave, where their dialect can, and closed with 3000 after a delay of up to `jitter`, unless they have gone by then.
    /// Returns when all were closed, or at the deadline; how many were there.
    pub async fn drain(&self, rate: u32, jitter: Duration, deadline: Deadline) -> usize {
        let plan = DrainPlan::new(jitter);
        let open = self.hub.census().connections;
        self.drain.send_replace(Some(plan.clone()));
        let closed = async {
            tokio::select! {
                () = plan.pace(rate) => {}
                () = plan.closed(self.hub.workers()) => {}
            }
        };
        let _ = deadline.timeout(closed).await;
        open
    }

    /// Waits until every connection is gone, or for the deadline; how many are not.
    pub async fn gone(&self, deadline: Deadline) -> usize {
        let _ = deadline.timeout(self.limit.no_clients()).await;
        self.hub.census().connections
    }

    /// Ends the workers; `false`: some go on at the deadline.
    pub async fn stop(self, deadline: Deadline) -> bool {
        self.service.stop_within(deadline).await
    }
}

#[cfg(test)]
mod tests;
