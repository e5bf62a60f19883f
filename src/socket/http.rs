//! A connection of the listener until it is a client: HTTP, by hyper.

use std::{
    cell::RefCell,
    convert::Infallible,
    future::{poll_fn, ready},
    io::Write as _,
    net::IpAddr,
    rc::Rc,
    sync::Arc,
};

use hyper::{
    Method, Request, Response, StatusCode,
    header::{self, HeaderMap, HeaderValue},
    server::conn::http1::{self, Parts},
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{io::AsyncWriteExt, sync::watch, time::timeout};

use super::{
    address,
    connection::Connection,
    credentials,
    drain::DrainPlan,
    handshake::{self, HandshakeRefusal},
    handshake_rates::HandshakeRates,
    join::Authorizer,
    limit::{ConnectionLimit, LimitReached, Permit, RefusalPermit},
    live::LiveConfig,
    session::Session,
    stream::Stream,
    worker::Worker,
};
use crate::{
    config::{self, AnonymousClients},
    lifecycle::{Phase, Phases, WorkerWatch},
    telemetry::{Metrics, labels::RefusedConnectLabels},
    wire::dialect::DialectRoute,
};

/// The largest head of a request, and the most headers in it; docs/errors.md tells them.
const MAX_HEAD: usize = 32 * 1024;
const MAX_HEADERS: usize = 96;

/// The reason under which a head counts that did not arrive in time.
const TOO_SLOW: &str = "too_slow";

/// Answers the connections that one worker accepted.
pub(super) struct HandshakeServer {
    /// The listener's name in [`ROUTES`](crate::wire::dialect::ROUTES).
    pub(super) listener: &'static str,
    /// `None`: this thread has no shard, because the process is about to end.
    pub(super) worker: Option<Rc<Worker>>,
    pub(super) live: LiveConfig,
    pub(super) limit: Arc<ConnectionLimit>,
    pub(super) handshake_rates: Arc<HandshakeRates>,
    pub(super) drain: watch::Receiver<Option<DrainPlan>>,
    pub(super) phases: Phases,
    pub(super) metrics: Arc<Metrics>,
    pub(super) watch: Option<WorkerWatch>,
    pub(super) http: http1::Builder,
}

/// One connection while its requests are answered.
struct Requests {
    peer: IpAddr,
    permit: Result<Permit, OverLimit>,
    answered: bool,
    accepted: Option<AcceptedHandshake>,
}

/// A handshake that makes a client of its connection.
struct AcceptedHandshake {
    route: &'static DialectRoute,
    /// `None`: clients need not prove who they are.
    session: Option<Box<Session>>,
}

/// There was no permit: it gets one answer. A probe gets its own: a node that is full is alive.
struct OverLimit {
    reached: LimitReached,
    _permit: RefusalPermit,
}

/// HTTP/1.1 as a client's handshake needs it; a request's head has `[socket] handshake_timeout`.
pub(super) fn builder(config: &config::SocketConfig) -> http1::Builder {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        // also from one request to the next
        .header_read_timeout(config.handshake_timeout)
        // gopusher's handshake has none
        .auto_date_header(false)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEAD);
    http
}

impl HandshakeServer {
    /// Answers a connection's requests until it is a client, or its end.
    pub(super) async fn serve(self: Rc<Self>, stream: Stream) {
        // who vanished meanwhile has no address any more
        let Some(peer) = stream.peer() else { return };
        let Some(permit) = self.permit(peer) else { return };
        let user_timeout = self.live.now().config.user_timeout;
        if let Err(error) = stream.set_options(user_timeout) {
            tracing::debug!(%error, "a client's socket takes no options");
        }
        let requests = RefCell::new(Requests { peer, permit, answered: false, accepted: None });
        let answer =
            service_fn(|request| ready(Ok::<_, Infallible>(self.answer(&mut requests.borrow_mut(), &request))));
        let mut connection = self.http.serve_connection(TokioIo::new(stream), answer);
        let served = poll_fn(|cx| connection.poll_without_shutdown(cx)).await;
        let Parts { io, read_buf: unread, .. } = connection.into_parts();
        let mut stream = io.into_inner();
        let Requests { permit, answered, accepted, .. } = requests.into_inner();
        let _counted = match (accepted, &self.worker, permit) {
            (Some(AcceptedHandshake { route, session }), Some(worker), Ok(permit)) => {
                return Connection::start(worker, stream, session, route.dialect, permit, &unread);
            }
            (_, _, permit) => permit,
        };
        let unread_reason = served.err().and_then(|error| unread_reason(&error, answered && unread.is_empty()));
        if let Some(reason) = unread_reason {
            self.count_refusal(reason);
        }
        // hyper leaves these two without an answer
        let status = match unread_reason {
            Some(TOO_SLOW) => "408 Request Timeout",
            Some(_) if unread.starts_with(b"PRI * HTTP/2.0") => "400 Bad Request",
            _ => "",
        };
        let mut last = Vec::new();
        if !status.is_empty() {
            let _ = write!(last, "HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        }
        let end = async {
            stream.write_all(&last).await?;
            stream.shutdown().await
        };
        let close_timeout = self.live.now().config.close_timeout;
        if !matches!(timeout(close_timeout, end).await, Ok(Ok(()))) {
            tracing::debug!("a connection did not take its last answer");
        }
    }

    /// Counts the connection; `None`: there is not even room to refuse it.
    fn permit(&self, peer: IpAddr) -> Option<Result<Permit, OverLimit>> {
        // a proxy's connections are those of its clients, whom only a request names
        let address = (!address::is_trusted(peer, &self.live.now().config.trusted_proxies)).then_some(peer);
        let reached = match self.limit.acquire(address) {
            Ok(permit) => return Some(Ok(permit)),
            Err(reached) => reached,
        };
        let refusal = self.limit.acquire_refusal();
        if refusal.is_none() {
            self.count_refusal(reached.refusal().reason);
        }
        refusal.map(|permit| Err(OverLimit { reached, _permit: permit }))
    }

    fn count_refusal(&self, reason: &'static str) {
        self.metrics.refused_connects.get_or_create(&RefusedConnectLabels { reason }).inc();
    }

    fn answer<B>(&self, requests: &mut Requests, request: &Request<B>) -> Response<String> {
        requests.answered = true;
        let has_permit = requests.permit.is_ok();
        let mut response = match request.uri().path() {
            _ if handshake::has_body(request) => {
                let refusal = HandshakeRefusal::body();
                self.count_refusal(refusal.reason);
                refusal.response()
            }
            "/healthz" => self.health(request.method()),
            path if has_permit && !handshake::is_meant(request) => handshake::invitation(self.listener, path),
            _ => match self.accept(requests, request) {
                Ok(accepted) => {
                    let response = handshake::accepted(request, accepted.route);
                    requests.accepted = Some(accepted);
                    response
                }
                Err(refusal) => {
                    self.count_refusal(refusal.reason);
                    refusal.response()
                }
            },
        };
        if !has_permit {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    /// Makes a client of the connection, if its handshake is right and there is room for it.
    fn accept<B>(&self, requests: &mut Requests, request: &Request<B>) -> Result<AcceptedHandshake, HandshakeRefusal> {
        let Some(worker) = &self.worker else { return Err(HandshakeRefusal::stopping()) };
        if self.drain.borrow().is_some() {
            return Err(HandshakeRefusal::draining());
        }
        let permit = match &mut requests.permit {
            Ok(permit) => permit,
            Err(over) => return Err(over.reached.refusal()),
        };
        let settings = self.live.now();
        let config = &settings.config;
        let route = handshake::check(self.listener, request, &config.allowed_origins)?;
        let address = address::client(requests.peer, request.headers(), &config.trusted_proxies);
        let admitted = self.handshake_rates.admit(address, settings.handshakes, config.max_rated_addresses);
        admitted.map_err(HandshakeRefusal::handshake_rate)?;
        let session = match &worker.authorizer {
            Authorizer::Verified(joins) => {
                let cookie = joins.cookie.as_deref();
                Some(Box::new(credentials::read(request, address, cookie, &joins.verifier.headers())?))
            }
            _ if config.anonymous == AnonymousClients::ByDefault && is_forwarded(request.headers()) => {
                return Err(HandshakeRefusal::forwarded());
            }
            _ => None,
        };
        permit.become_client(address).map_err(LimitReached::refusal)?;
        Ok(AcceptedHandshake { route, session })
    }

    /// Load balancers probe with any of these.
    fn health(&self, method: &Method) -> Response<String> {
        let mut response = match *method {
            Method::GET | Method::HEAD => {
                if let Some(Err(stuck)) = self.watch.as_ref().map(WorkerWatch::check) {
                    return handshake::text(StatusCode::SERVICE_UNAVAILABLE, &format!("{stuck}\n"));
                }
                let text = match self.phases.now() {
                    Phase::Leaving | Phase::Draining => "draining\n",
                    Phase::Starting | Phase::Serving => "ok\n",
                };
                return handshake::text(StatusCode::OK, text);
            }
            Method::OPTIONS => handshake::text(StatusCode::NO_CONTENT, ""),
            _ => handshake::text(StatusCode::METHOD_NOT_ALLOWED, "this path answers GET, HEAD and OPTIONS\n"),
        };
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD, OPTIONS"));
        response
    }
}

/// Why a head was refused before it was a request, if it was; an `idle` connection may end without one.
fn unread_reason(error: &hyper::Error, idle: bool) -> Option<&'static str> {
    if error.is_timeout() {
        return (!idle).then_some(TOO_SLOW);
    }
    if error.is_parse_too_large() {
        return Some("head_too_large");
    }
    error.is_parse().then_some("bad_request")
}

/// Whether a proxy says whom it stands for.
fn is_forwarded(headers: &HeaderMap) -> bool {
    headers.contains_key("x-forwarded-for") || headers.contains_key(header::FORWARDED)
}

impl LimitReached {
    fn refusal(self) -> HandshakeRefusal {
        match self {
            Self::All => HandshakeRefusal::full(),
            Self::Address => HandshakeRefusal::address_full(),
        }
    }
}
