//! The HTTP API (gopusher's, and more), on `[http] listen`.
//!
//! One function looks each request's route up in `routes::ROUTES`, with no middleware: what it costs is what a push needs.

mod answer;
mod body;
mod json;
mod openapi;
mod query;
mod routes;

use std::{
    net::{SocketAddr, TcpListener},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use actix_web::{App, HttpRequest, HttpServer, dev::ServerHandle, web};
use tokio::{sync::watch, time::Instant};

use super::admission::Admission;
use crate::{config::Config, lifecycle::Tasks, telemetry::Metrics};

use routes::Site;

/// Threads that serve; a push waits for the queue, not for them.
const WORKERS: usize = 2;
/// How long a connection that is idle between requests stays.
const KEEP_ALIVE: Duration = Duration::from_secs(75);
/// What a stop grants an answer, beside `[queue] publish_timeout`, to be written.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// A bound listener that does not serve yet.
pub struct Bound {
    listener: TcpListener,
    config: Config,
    site: Arc<Site>,
}

/// The serving workers.
pub struct Serving {
    handle: ServerHandle,
    stopping: Arc<AtomicBool>,
    in_hand: Arc<AtomicUsize>,
    patience: Duration,
}

impl Bound {
    /// On a listener that is bound and non-blocking. `details` are lines that `/readyz` shows beside the queue's state (the
    /// cluster's); `socket` is where clients connect, for the page.
    pub fn new(
        listener: TcpListener,
        config: &Config,
        admission: Admission,
        details: watch::Receiver<Vec<String>>,
        socket: SocketAddr,
        metrics: &Arc<Metrics>,
    ) -> Self {
        let site = Arc::new(Site::new(config, admission, details, socket, metrics));
        Self { listener, config: config.clone(), site }
    }

    /// Serves.
    pub fn serve(self, tasks: &Tasks) -> Serving {
        let Self { listener, config, site } = self;
        let in_hand = Arc::clone(&site.in_hand);
        let factory = move || {
            let site = Arc::clone(&site);
            App::new().default_service(web::to(move |request: HttpRequest, payload: web::Payload| {
                let site = Arc::clone(&site);
                async move { site.answer(request, payload).await }
            }))
        };
        let server = HttpServer::new(factory)
            .workers(WORKERS)
            .worker_max_blocking_threads(1)
            .max_connections(config.http.max_connections.div_ceil(WORKERS))
            .keep_alive(KEEP_ALIVE)
            .client_request_timeout(config.http.request_timeout)
            .tcp_nodelay(true)
            .shutdown_timeout(1)
            .disable_signals()
            .listen(listener)
            .expect("invariant: a listener that is non-blocking and has an address can be served")
            .run();
        let (handle, stopping) = (server.handle(), Arc::new(AtomicBool::new(false)));
        let (stop, told, cancelled) = (handle.clone(), Arc::clone(&stopping), tasks.cancelled());
        tasks.spawn("http", async move {
            tokio::pin!(server);
            tokio::select! {
                ended = &mut server => match ended {
                    Ok(()) if told.load(Ordering::Acquire) => cancelled.cancelled().await,
                    Ok(()) => tracing::error!("the HTTP server ended unasked"),
                    Err(error) => tracing::error!(%error, "the HTTP server failed"),
                },
                () = cancelled.cancelled() => {
                    let _ = tokio::join!(stop.stop(false), server);
                }
            }
        });
        Serving { handle, stopping, in_hand, patience: config.queue.publish_timeout + LAST_WORDS }
    }
}

impl Serving {
    /// Answers what came in and ends.
    pub async fn stop(self) {
        self.stopping.store(true, Ordering::Release);
        self.handle.pause().await;
        // idle connections need no patience; answers do, and their last bytes
        let end = Instant::now() + self.patience;
        while self.in_hand.load(Ordering::Acquire) > 0 && Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        self.handle.stop(false).await;
    }
}
