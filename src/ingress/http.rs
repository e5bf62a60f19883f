//! The HTTP API (gopusher's, and more), on `[http] listen`.
//!
//! One function looks each request's route up in `routes::ROUTES`, with no middleware: what it costs is what a push needs.

mod answer;
mod body;
mod exposition;
mod hosts;
mod json;
mod openapi;
mod patient;
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

use actix_http::{HttpService, error::DispatchError};
use actix_server::{Server, ServerHandle};
use actix_service::{IntoServiceFactory, ServiceFactory, ServiceFactoryExt, fn_service, map_config};
use actix_web::{App, HttpRequest, dev::AppConfig, web};
use socket2::SockRef;
use tokio::{net::TcpStream, sync::watch, time::Instant};

use super::admission::Admission;
use crate::{
    config::{self, Config},
    lifecycle::Tasks,
    telemetry::Metrics,
};

use patient::Patient;
use routes::Site;

/// Threads that serve; a push waits for the queue, not for them.
const WORKERS: usize = 2;
/// How long a connection that was closed may go on sending.
const LINGER: Duration = Duration::from_secs(1);
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
        let listen = listener.local_addr().unwrap_or(config.http.listen);
        let site = Arc::new(Site::new(config, admission, details, (listen, socket), metrics));
        Self { listener, config: config.clone(), site }
    }

    /// Serves.
    pub fn serve(self, tasks: &Tasks) -> Serving {
        let Self { listener, config, site } = self;
        let in_hand = Arc::clone(&site.in_hand);
        let last_words = config.queue.publish_timeout + LAST_WORDS;
        // while a push waits for the queue, its caller is silent
        let patience = config.http.keep_alive + config.queue.publish_timeout;
        let server = Server::build()
            .workers(WORKERS)
            .worker_max_blocking_threads(1)
            .max_concurrent_connections(config.http.max_connections.div_ceil(WORKERS))
            .shutdown_timeout(1)
            .disable_signals()
            .listen("http", listener, move || connections(&config.http, patience, &site))
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
        Serving { handle, stopping, in_hand, patience: last_words }
    }
}

/// What one worker does with accepted connections.
fn connections(
    config: &config::Http,
    patience: Duration,
    site: &Arc<Site>,
) -> impl ServiceFactory<TcpStream, Config = (), Response = (), Error = DispatchError, InitError = ()> + use<> {
    let (site, user_timeout) = (Arc::clone(site), config.user_timeout);
    let app = App::new().default_service(web::to(move |request: HttpRequest, payload: web::Payload| {
        let site = Arc::clone(&site);
        async move { site.answer(request, payload).await }
    }));
    let app = app.into_factory().map_err(|error: actix_web::Error| error.error_response());
    let http = HttpService::build()
        .keep_alive(config.keep_alive)
        .client_request_timeout(config.request_timeout)
        .client_disconnect_timeout(LINGER)
        .h1(map_config(app, |()| AppConfig::default()));
    let accepted = fn_service(move |stream: TcpStream| async move {
        let socket = SockRef::from(&stream);
        // a peer that vanished meanwhile is found by the first read
        if let Err(error) = socket.set_tcp_nodelay(true).and(socket.set_tcp_user_timeout(Some(user_timeout))) {
            tracing::debug!(%error, "a caller's socket takes no options");
        }
        let peer = stream.peer_addr().ok();
        Ok::<_, DispatchError>((Patient::new(stream, patience), peer))
    });
    accepted.and_then(http)
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
