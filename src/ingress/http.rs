//! The HTTP API (gopusher's, and more), on `[http] listen`.
//!
//! One function looks each request's route up in `routes::ROUTES`, with no middleware: what it costs is what a push needs.

mod answer;
mod body;
mod compat;
mod console;
mod events;
mod exposition;
mod hosts;
mod json;
mod nodes;
mod openapi;
mod option_headers;
mod paced_stream;
mod path;
mod pushes;
mod queries;
mod query;
mod read_timer;
mod rebalance;
mod routes;
mod streams;

use std::{
    net::{SocketAddr, TcpListener},
    sync::Arc,
    time::Duration,
};

use actix_http::{
    HttpService,
    error::{DispatchError, ParseError},
};
use actix_server::{Server, ServerHandle};
use actix_service::{IntoServiceFactory, ServiceFactory, ServiceFactoryExt, fn_service, map_config};
use actix_web::{App, HttpRequest, dev::AppConfig, web};
use socket2::SockRef;
use tokio::{net::TcpStream, sync::watch};

use super::{Api, timed_stream::TimedStream};
use crate::{
    config::{self, Config},
    lifecycle::{Deadline, Service, Tasks},
    telemetry::{
        Metrics,
        labels::{RequestLabels, RequestProtocol},
    },
};

use paced_stream::PacedStream;
use read_timer::{ReadTimes, RequestTimer};
use routes::Handlers;

/// Threads that serve; a push waits for the queue, not for them.
const WORKERS: usize = 2;
/// How long a connection that was closed may go on sending.
const LINGER: Duration = Duration::from_secs(1);
/// What a stop grants an answer, beside `[queue] publish_timeout`, to be written.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Bound listeners that do not serve yet.
pub(crate) struct HttpListener {
    /// `[http] listen`, then `also`.
    listeners: Vec<TcpListener>,
    config: Config,
    handlers: Arc<Handlers>,
}

/// The serving workers.
pub(crate) struct HttpServer {
    handle: ServerHandle,
    service: Service,
    handlers: Arc<Handlers>,
    /// Time for the answers to what came in.
    answer_time: Duration,
}

/// Replaces what a reload may change of the HTTP API; a cheap clone.
#[derive(Clone)]
pub(crate) struct HttpReload(Arc<Handlers>);

impl HttpReload {
    /// `[http]` from now on, and what its description says of the other sections.
    pub(crate) fn replace(&self, config: &Config) {
        self.0.replace(config);
    }
}

impl HttpListener {
    /// On a listener that is bound and non-blocking. `details` are lines that `/readyz` shows beside the queue's state; `socket` is where clients connect, for the page.
    pub(crate) fn new(
        listener: TcpListener,
        config: &Config,
        api: Api,
        details: Vec<watch::Receiver<Vec<String>>>,
        socket: SocketAddr,
        metrics: &Arc<Metrics>,
    ) -> Self {
        let listen = listener.local_addr().unwrap_or(config.http.listen);
        let handlers = Arc::new(Handlers::new(config, api, details, (listen, socket), metrics));
        Self { listeners: vec![listener], config: config.clone(), handlers }
    }

    /// On these listeners, too: with the same bounds in all.
    #[must_use]
    pub(crate) fn and_at(mut self, also: Vec<TcpListener>) -> Self {
        self.listeners.extend(also);
        self
    }

    /// What a reload changes of it.
    pub(crate) fn reload(&self) -> HttpReload {
        HttpReload(Arc::clone(&self.handlers))
    }

    /// Serves.
    pub(crate) fn serve(self, tasks: &Tasks) -> HttpServer {
        let Self { listeners, config, handlers } = self;
        let answer_time = config.queue.publish_timeout + LAST_WORDS;
        let served = Arc::clone(&handlers);
        let times = ReadTimes::of(&config);
        let metrics = Arc::clone(handlers.metrics());
        let mut server = Server::build()
            .workers(WORKERS)
            .worker_max_blocking_threads(1)
            .max_concurrent_connections(config.http.max_connections.div_ceil(WORKERS))
            .shutdown_timeout(1)
            .disable_signals();
        for listener in listeners {
            let http = config.http.clone();
            let served = Arc::clone(&served);
            let metrics = Arc::clone(&metrics);
            let on_worker = move || {
                // ends with the worker's runtime
                actix_rt::spawn(served.api().watch.pulse("an HTTP worker").beat());
                connections(&http, times, &served, &metrics)
            };
            server = server
                .listen("http", listener, on_worker)
                .expect("invariant: a listener that is non-blocking and has an address can be served");
        }
        let server = server.run();
        let handle = server.handle();
        let service = tasks.service();
        let stop = handle.clone();
        let stopping = service.stopping().clone();
        service.spawn("http", async move {
            tokio::pin!(server);
            tokio::select! {
                ended = &mut server => match ended {
                    Ok(()) => tracing::error!("the HTTP server ended unasked"),
                    Err(error) => tracing::error!(%error, "the HTTP server failed"),
                },
                () = stopping.cancelled() => {
                    let _ = tokio::join!(stop.stop(false), server);
                }
            }
        });
        HttpServer { handle, service, handlers, answer_time }
    }
}

/// What one worker does with accepted connections.
fn connections(
    config: &config::HttpConfig,
    times: ReadTimes,
    handlers: &Arc<Handlers>,
    metrics: &Arc<Metrics>,
) -> impl ServiceFactory<TcpStream, Config = (), Response = (), Error = DispatchError, InitError = ()> + use<> {
    let handlers = Arc::clone(handlers);
    let in_progress = handlers.in_progress().clone();
    let user_timeout = config.user_timeout;
    let app = App::new().default_service(web::to(move |request: HttpRequest, payload: web::Payload| {
        let handlers = Arc::clone(&handlers);
        async move { handlers.answer(request, payload).await }
    }));
    let app = app.into_factory().map_err(|error: actix_web::Error| error.error_response());
    let http = HttpService::build()
        .keep_alive(config.keep_alive)
        .client_request_timeout(config.request_timeout)
        .client_disconnect_timeout(LINGER)
        .h1(map_config(app, |()| AppConfig::default()));
    let refused = Arc::clone(metrics);
    let http = http.map_err(move |error| {
        count_unread(&refused, &error);
        error
    });
    let metrics = Arc::clone(metrics);
    let accepted = fn_service(move |stream: TcpStream| {
        let timer = RequestTimer::new(times, in_progress.clone(), Arc::clone(&metrics));
        async move {
            let socket = SockRef::from(&stream);
            // a peer that vanished meanwhile is found by the first read
            if let Err(error) = socket.set_tcp_nodelay(true).and(socket.set_tcp_user_timeout(Some(user_timeout))) {
                tracing::debug!(%error, "a caller's socket takes no options");
            }
            let peer = stream.peer_addr().ok();
            Ok::<_, DispatchError>((PacedStream::new(TimedStream::new(stream, timer)), peer))
        }
    });
    accepted.and_then(http)
}

/// Counts what was refused before it was a request for a route, or as its body came.
fn count_unread(metrics: &Metrics, error: &DispatchError) {
    let status = match error {
        DispatchError::Parse(ParseError::TooLarge) => "431",
        DispatchError::Parse(_) => "400",
        _ => return,
    };
    metrics.requests.get_or_create(&RequestLabels { protocol: RequestProtocol::Http, status }).inc();
}

impl HttpServer {
    /// Answers what came in and ends, at the deadline at the latest.
    pub(crate) async fn stop(self, deadline: Deadline) {
        self.handlers.end_streams();
        self.handle.pause().await;
        // idle connections are not waited for; an answer is written in the same turn of its worker in which it is ready, and
        // the worker hears of the stop after that turn: what the peer did not take in that turn is in progress still
        let in_progress = self.handlers.in_progress();
        in_progress.close();
        if deadline.within(self.answer_time).timeout(in_progress.wait()).await.is_err() {
            tracing::warn!("some HTTP requests were not answered in time");
        }
        self.service.stop_within(deadline).await;
    }
}
