//! From an HTTP request to a WebSocket connection, or to a refusal.

use std::{rc::Rc, time::Duration};

use actix_codec::Framed;
use actix_http::{
    Request, RequestHead, StatusCode, h1,
    header::{self, HeaderMap},
    ws::{HandshakeError, hash_key, verify_handshake},
};
use bytes::Bytes;
use tokio::{io::AsyncWriteExt, net::TcpStream};

use super::{address, gate::Full, worker::Worker};
use crate::wire::dialect::Dialect;

/// The subprotocol that chooses [`Dialect::OxipushV1`].
const OXIPUSH_V1: &str = "oxipush.v1";

/// An answer that ends the connection.
pub(super) struct Refusal {
    io: TcpStream,
    earlier: Bytes,
    answer: Answer,
    within: Duration,
}

/// Why a handshake is refused; counted as `reason`.
struct Answer {
    status: StatusCode,
    reason: &'static str,
    text: &'static str,
    headers: &'static str,
}

impl Answer {
    fn new(status: StatusCode, reason: &'static str, text: &'static str) -> Self {
        Self { status, reason, text, headers: "" }
    }
}

/// Serves an upgrade: hands the socket to a connection of its own, or gives back what to refuse it with.
pub(super) fn serve(
    worker: Option<Rc<Worker>>,
    request: Request,
    framed: Framed<TcpStream, h1::Codec>,
) -> Option<Refusal> {
    let parts = framed.into_parts();
    let (io, early, earlier) = (parts.io, parts.read_buf, parts.write_buf.freeze());
    let Some(worker) = worker else {
        let answer = Answer {
            headers: "retry-after: 1\r\n",
            ..Answer::new(StatusCode::SERVICE_UNAVAILABLE, "stopping", "the node stops\n")
        };
        return Some(Refusal { io, earlier, answer, within: Duration::from_secs(1) });
    };
    let admitted = check(&worker, request.head()).and_then(|dialect| {
        let peer = request.head().peer_addr.map(|peer| peer.ip());
        let address =
            peer.map(|peer| address::client(peer, &request.head().headers, &worker.house.config.trusted_proxies));
        match worker.house.gate.admit(address) {
            Ok(admitted) => Ok((dialect, admitted)),
            Err(Full::All) => Err(Answer {
                headers: "retry-after: 5\r\n",
                ..Answer::new(StatusCode::SERVICE_UNAVAILABLE, "full", "max_connections are open; try again later\n")
            }),
            Err(Full::Address) => Err(Answer {
                headers: "retry-after: 5\r\n",
                ..Answer::new(
                    StatusCode::TOO_MANY_REQUESTS,
                    "address_full",
                    "max_connections_per_address are open from this address\n",
                )
            }),
        }
    });
    match admitted {
        Ok((dialect, admitted)) => {
            let mut answer = earlier.to_vec();
            answer.extend_from_slice(&accepted(request.head(), dialect));
            worker.connect(io, dialect, admitted, answer.into(), &early);
            None
        }
        Err(answer) => {
            worker.house.refused(answer.reason);
            Some(Refusal { io, earlier, answer, within: worker.house.config.close_timeout })
        }
    }
}

fn check(worker: &Worker, head: &RequestHead) -> Result<Dialect, Answer> {
    if worker.house.plan.borrow().is_some() {
        return Err(Answer {
            headers: "retry-after: 1\r\n",
            ..Answer::new(StatusCode::SERVICE_UNAVAILABLE, "draining", "the node drains; connect again\n")
        });
    }
    if head.uri.path() != "/ws" {
        return Err(Answer::new(StatusCode::NOT_FOUND, "path", "not found: clients connect to /ws\n"));
    }
    verify_handshake(head).map_err(|error| match error {
        HandshakeError::GetMethodRequired => Answer {
            headers: "allow: GET\r\n",
            ..Answer::new(StatusCode::METHOD_NOT_ALLOWED, "method", "a WebSocket handshake is a GET\n")
        },
        HandshakeError::UnsupportedVersion | HandshakeError::NoVersionHeader => Answer {
            headers: "upgrade: websocket\r\nsec-websocket-version: 13\r\n",
            ..Answer::new(StatusCode::UPGRADE_REQUIRED, "version", "sec-websocket-version must be 13\n")
        },
        HandshakeError::BadWebsocketKey => {
            Answer::new(StatusCode::BAD_REQUEST, "key", "sec-websocket-key must be 16 bytes in base64\n")
        }
        HandshakeError::NoWebsocketUpgrade | HandshakeError::NoConnectionUpgrade => Answer::new(
            StatusCode::BAD_REQUEST,
            "upgrade",
            "the headers `connection: upgrade` and `upgrade: websocket` are needed\n",
        ),
    })?;
    let allowed = &worker.house.config.allowed_origins;
    if !allowed.is_empty() && !origin_is_among(allowed, &head.headers) {
        return Err(Answer::new(StatusCode::FORBIDDEN, "origin", "the origin is not among allowed_origins\n"));
    }
    Ok(dialect(&head.headers))
}

/// A client without an Origin is no browser, and no page can make it connect.
fn origin_is_among(allowed: &[String], headers: &HeaderMap) -> bool {
    headers
        .get_all(header::ORIGIN)
        .all(|origin| origin.to_str().is_ok_and(|origin| allowed.iter().any(|one| one.eq_ignore_ascii_case(origin))))
}

/// `oxipush.v1` if it is offered. Other subprotocols are not known: gopusher answers without one, and a client that insists
/// on its own ends the connection, as RFC 6455 tells it to.
fn dialect(headers: &HeaderMap) -> Dialect {
    let offered = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).filter_map(|line| line.to_str().ok());
    match offered.flat_map(|line| line.split(',')).any(|protocol| protocol.trim() == OXIPUSH_V1) {
        true => Dialect::OxipushV1,
        false => Dialect::Gopusher,
    }
}

fn accepted(head: &RequestHead, dialect: Dialect) -> Vec<u8> {
    let key = head.headers.get(header::SEC_WEBSOCKET_KEY).map_or(&b""[..], |key| key.as_bytes());
    let mut answer = Vec::with_capacity(192);
    answer.extend_from_slice(
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-accept: ",
    );
    answer.extend_from_slice(&hash_key(key));
    if dialect == Dialect::OxipushV1 {
        answer.extend_from_slice(b"\r\nsec-websocket-protocol: ");
        answer.extend_from_slice(OXIPUSH_V1.as_bytes());
    }
    answer.extend_from_slice(b"\r\n\r\n");
    answer
}

impl Refusal {
    /// Writes it, for as long as a close may take; then the socket is closed.
    pub(super) async fn send(mut self) {
        let Answer { status, text, headers, .. } = self.answer;
        let head = format!(
            "HTTP/1.1 {} {}\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: {}\r\nconnection: close\r\n{headers}\r\n{text}",
            status.as_str(),
            status.canonical_reason().unwrap_or("Refused"),
            text.len(),
        );
        let write = async {
            self.io.write_all(&self.earlier).await?;
            self.io.write_all(head.as_bytes()).await?;
            self.io.shutdown().await
        };
        if !matches!(tokio::time::timeout(self.within, write).await, Ok(Ok(()))) {
            tracing::debug!("a client did not take its refusal");
        }
    }
}
