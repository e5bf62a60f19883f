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
    header::{self, HeaderValue},
    server::conn::http1::{self, Parts},
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::SockRef;
use tokio::{io::AsyncWriteExt, net::TcpStream, time::timeout};

use super::{
    House, address,
    gate::{Admitted, Full, Refused},
    handshake::{self, Answer},
    worker::Worker,
};
use crate::{
    lifecycle::{Phase, Phases},
    wire::dialect::Dialect,
};

/// The largest head of a request, and the most headers in it; docs/errors.md tells them.
const MAX_HEAD: usize = 32 * 1024;
const MAX_HEADERS: usize = 96;

/// Answers the connections that one worker accepted.
pub(super) struct Http {
    house: Arc<House>,
    /// `None`: this thread has no shard, because the process is about to end.
    worker: Option<Rc<Worker>>,
    phases: Phases,
    server: http1::Builder,
}

/// One connection while its requests are answered.
struct Visit {
    peer: IpAddr,
    place: Place,
    answered: bool,
    accepted: Option<Dialect>,
}

enum Place {
    Taken(Admitted),
    /// It gets one answer. A probe gets its own: a node that is full is alive.
    None {
        full: Full,
        _told: Refused,
    },
}

impl Http {
    pub(super) fn new(house: &Arc<House>, worker: Option<Rc<Worker>>, phases: &Phases) -> Self {
        let mut server = http1::Builder::new();
        server
            .timer(TokioTimer::new())
            // also from one request to the next
            .header_read_timeout(house.config.handshake_timeout)
            // gopusher's handshake has none
            .auto_date_header(false)
            .max_headers(MAX_HEADERS)
            .max_buf_size(MAX_HEAD);
        Self { house: Arc::clone(house), worker, phases: phases.clone(), server }
    }

    /// Answers its requests until it is a client, or its end.
    pub(super) async fn serve(self: Rc<Self>, io: TcpStream) {
        // who vanished meanwhile has no address any more
        let Ok(peer) = io.peer_addr().map(|peer| peer.ip()) else { return };
        let Some(place) = self.place(peer) else { return };
        let config = &self.house.config;
        let socket = SockRef::from(&io);
        let set = socket.set_tcp_nodelay(true).and(socket.set_tcp_user_timeout(Some(config.user_timeout)));
        if let Err(error) = set {
            tracing::debug!(%error, "a client's socket takes no options");
        }
        let visit = RefCell::new(Visit { peer, place, answered: false, accepted: None });
        let answer = service_fn(|request| ready(Ok::<_, Infallible>(self.answer(&mut visit.borrow_mut(), &request))));
        let mut connection = self.server.serve_connection(TokioIo::new(io), answer);
        let served = poll_fn(|cx| connection.poll_without_shutdown(cx)).await;
        let Parts { io, read_buf: unread, .. } = connection.into_parts();
        let (mut io, Visit { place, answered, accepted, .. }) = (io.into_inner(), visit.into_inner());
        let _counted = match (accepted, &self.worker, place) {
            (Some(dialect), Some(worker), Place::Taken(admitted)) => {
                return worker.connect(io, dialect, admitted, &unread);
            }
            (_, _, place) => place,
        };
        // hyper leaves these two without an answer
        let status = match served {
            Err(error) if error.is_timeout() && !(answered && unread.is_empty()) => "408 Request Timeout",
            Err(_) if unread.starts_with(b"PRI * HTTP/2.0") => "400 Bad Request",
            _ => "",
        };
        let mut last = Vec::new();
        if !status.is_empty() {
            let _ = write!(last, "HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        }
        let end = async {
            io.write_all(&last).await?;
            io.shutdown().await
        };
        if !matches!(timeout(config.close_timeout, end).await, Ok(Ok(()))) {
            tracing::debug!("a connection did not take its last answer");
        }
    }

    /// Counts the connection; `None`: there is not even room to refuse it.
    fn place(&self, peer: IpAddr) -> Option<Place> {
        let (gate, trusted) = (&self.house.gate, &self.house.config.trusted_proxies);
        // a proxy's connections are those of its clients, whom only a request names
        match gate.admit((!address::is_trusted(peer, trusted)).then_some(peer)) {
            Ok(admitted) => Some(Place::Taken(admitted)),
            Err(full) => match gate.refuse() {
                Some(refused) => Some(Place::None { full, _told: refused }),
                None => {
                    self.house.refused(full.answer().reason);
                    None
                }
            },
        }
    }

    fn answer<B>(&self, visit: &mut Visit, request: &Request<B>) -> Response<String> {
        visit.answered = true;
        let has_place = matches!(visit.place, Place::Taken(_));
        let mut response = match request.uri().path() {
            "/healthz" => self.health(request.method()),
            path if has_place && !handshake::is_meant(request) => handshake::invitation(path),
            _ => match self.enter(visit, request) {
                Ok(dialect) => {
                    visit.accepted = Some(dialect);
                    handshake::accepted(request, dialect)
                }
                Err(answer) => {
                    self.house.refused(answer.reason);
                    answer.response()
                }
            },
        };
        if !has_place {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    /// Lets a client in, if its handshake is right and there is a place for it.
    fn enter<B>(&self, visit: &mut Visit, request: &Request<B>) -> Result<Dialect, Answer> {
        let house = &self.house;
        if self.worker.is_none() {
            return Err(Answer::stopping());
        }
        if house.plan.borrow().is_some() {
            return Err(Answer::draining());
        }
        let admitted = match &mut visit.place {
            Place::Taken(admitted) => admitted,
            Place::None { full, .. } => return Err(full.answer()),
        };
        if request.uri().path() != "/ws" {
            return Err(Answer::wrong_path());
        }
        let dialect = handshake::check(request, &house.config.allowed_origins)?;
        let address = address::client(visit.peer, request.headers(), &house.config.trusted_proxies);
        admitted.enter(address).map_err(Full::answer)?;
        Ok(dialect)
    }

    /// Load balancers probe with any of these.
    fn health(&self, method: &Method) -> Response<String> {
        let mut response = match *method {
            Method::GET | Method::HEAD => {
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

impl Full {
    fn answer(self) -> Answer {
        match self {
            Self::All => Answer::full(),
            Self::Address => Answer::address_full(),
        }
    }
}
