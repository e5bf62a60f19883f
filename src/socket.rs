//! The clients' side: handshake, join, heartbeat, writes, close codes. The socket leaves HTTP after the handshake.

mod address;
mod connection;
mod drain;
mod gate;
mod handshake;
mod heartbeat;
mod http;
mod wheel;
mod worker;

use std::{
    convert::Infallible,
    net::TcpListener,
    rc::Rc,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use actix_server::{Server, ServerHandle};
use actix_service::fn_service;
use tokio::{
    net::TcpStream,
    sync::{oneshot, watch},
};

use crate::{
    config::{self, Config},
    hub::Hub,
    lifecycle::{Phases, Tasks},
    push::NameRule,
    telemetry::{Metrics, labels::RefusedConnectLabels},
};

use drain::Plan;
use gate::Gate;
use http::Http;
use worker::Worker;

/// A bound listener that does not serve yet.
pub struct Bound {
    listener: TcpListener,
    house: Arc<House>,
    phases: Phases,
}

/// The serving workers.
pub struct Clients {
    house: Arc<House>,
    server: ServerHandle,
}

/// What all workers share.
struct House {
    config: config::Socket,
    name: NameRule,
    hub: Hub,
    gate: Arc<Gate>,
    metrics: Arc<Metrics>,
    plan: watch::Sender<Option<Plan>>,
    /// The workers are told to end: that a shard ends is no death any more.
    stopping: AtomicBool,
    /// One for each shard, dropped with it.
    lifelines: Mutex<Vec<Option<oneshot::Sender<()>>>>,
}

impl Bound {
    /// On a listener that is bound and non-blocking.
    pub fn new(listener: TcpListener, config: &Config, hub: Hub, phases: Phases, metrics: &Arc<Metrics>) -> Self {
        let house = House {
            gate: Gate::new(&config.socket),
            config: config.socket.clone(),
            name: NameRule { max: config.push.max_name },
            hub,
            metrics: Arc::clone(metrics),
            plan: watch::Sender::new(None),
            stopping: AtomicBool::new(false),
            lifelines: Mutex::default(),
        };
        Self { listener, house: Arc::new(house), phases }
    }

    /// Serves. A worker's shard that ends unasked is a death.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn serve(self, tasks: &Tasks) -> Clients {
        let Self { listener, house, phases } = self;
        for shard in 0..house.hub.workers() {
            let (lifeline, gone) = oneshot::channel::<()>();
            house.lifelines().push(Some(lifeline));
            let (house, cancelled) = (Arc::clone(&house), tasks.cancelled());
            tasks.spawn(format!("hub shard {shard}"), async move {
                // dropped, never sent: an error is the news
                tokio::select! {
                    _ = gone => if house.is_stopping() { cancelled.cancelled().await },
                    () = cancelled.cancelled() => {}
                }
            });
        }
        let server = Server::build()
            .workers(house.hub.workers())
            // the gate refuses what is too many; actix would let it wait
            .max_concurrent_connections(house.config.max_connections + house.config.max_refusals + 1)
            .disable_signals()
            .listen("clients", listener, {
                let house = Arc::clone(&house);
                // called on each worker's thread, which makes it a shard's
                move || {
                    let http = Rc::new(Http::new(&house, Worker::start(&house), &phases));
                    fn_service(move |io: TcpStream| {
                        let http = Rc::clone(&http);
                        async move {
                            http.serve(io).await;
                            Ok::<_, Infallible>(())
                        }
                    })
                }
            });
        let server = server.expect("invariant: a listener that is non-blocking and has an address can be served").run();
        let handle = server.handle();
        let (told, cancelled) = (Arc::clone(&house), tasks.cancelled());
        tasks.spawn("client listener", async move {
            tokio::select! {
                ended = server => match ended {
                    Ok(()) if told.is_stopping() => cancelled.cancelled().await,
                    Ok(()) => tracing::error!("the listener for clients ended unasked"),
                    Err(error) => tracing::error!(%error, "the listener for clients failed"),
                },
                () = cancelled.cancelled() => {}
            }
        });
        Clients { house, server: handle }
    }
}

impl House {
    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    fn lifelines(&self) -> std::sync::MutexGuard<'_, Vec<Option<oneshot::Sender<()>>>> {
        self.lifelines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn refused(&self, reason: &'static str) {
        self.metrics.refused_connects.get_or_create(&RefusedConnectLabels { reason }).inc();
    }
}

impl Clients {
    /// Refuses new handshakes (503) and closes every connection with 3000: `rate` in a second (0: all at once), each told a
    /// delay of up to `jitter` where its dialect can. Returns when all were told, `within` at most; how many were there.
    pub async fn drain(&self, rate: u32, jitter: Duration, within: Duration) -> usize {
        let plan = Plan::new(jitter);
        let open = self.house.hub.census().connections;
        self.house.plan.send_replace(Some(plan.clone()));
        tokio::select! {
            () = plan.pace(rate) => {}
            () = plan.told(self.house.hub.workers()) => {}
            () = tokio::time::sleep(within) => {}
        }
        open
    }

    /// Waits until every connection is gone, `within` at most; how many are not.
    pub async fn gone(&self, within: Duration) -> usize {
        let _ = tokio::time::timeout(within, self.house.gate.emptied()).await;
        self.house.hub.census().connections
    }

    /// Ends the workers.
    pub async fn stop(self) {
        self.house.stopping.store(true, Ordering::Release);
        self.server.stop(false).await;
    }
}
