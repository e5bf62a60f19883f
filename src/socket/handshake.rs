//! What a WebSocket handshake must have (RFC 6455 §4.2), and the answers to it.

use std::{borrow::Cow, time::Duration};

use actix_http::ws::hash_key;
use hyper::{
    Method, Request, Response, StatusCode, Version,
    header::{self, HeaderMap, HeaderName, HeaderValue},
};

use crate::wire::dialect::{Dialect, DialectRoute, ROUTES};

/// What gopusher answers at `/`, to its clients' port.
const WELCOME: &str = "{\"msg\":\"welcome to socket server\"}\n";

/// To one who asked for the path without any word of a WebSocket.
const INVITATION: &str = "connect with a WebSocket client\n";

/// What proxies need that do not pass handshakes on by themselves.
const PROXY: &str = "the handshake came as HTTP/1.0, or without `upgrade: websocket` or `connection: upgrade`: a proxy before the \
    gateway must speak HTTP/1.1 to it and pass both on (nginx: proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; \
    proxy_set_header Connection \"upgrade\";)\n";

/// To a client that came through a proxy of which the gateway was not told.
const FORWARDED: &str = "a proxy passed this handshake on, and clients prove nothing here: set [token] or [verify] so that they do, or \
    [socket] anonymous = true so that anyone may join as any card; name the proxy in [socket] trusted_proxies\n";

/// A refusal, which ends the connection; counted as `reason`.
pub(super) struct HandshakeRefusal {
    pub(super) reason: &'static str,
    status: StatusCode,
    text: Cow<'static, str>,
    header: Option<(HeaderName, HeaderValue)>,
}

impl HandshakeRefusal {
    fn new(status: StatusCode, reason: &'static str, text: impl Into<Cow<'static, str>>) -> Self {
        Self { reason, status, text: text.into(), header: None }
    }

    fn with(self, header: HeaderName, value: &'static str) -> Self {
        Self { header: Some((header, HeaderValue::from_static(value))), ..self }
    }

    pub(super) fn stopping() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "stopping", "the node stops\n").with(header::RETRY_AFTER, "1")
    }

    pub(super) fn draining() -> Self {
        let text = "the node drains; connect again\n";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "draining", text).with(header::RETRY_AFTER, "1")
    }

    pub(super) fn full() -> Self {
        let text = "max_connections are open; try again later\n";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "full", text).with(header::RETRY_AFTER, "5")
    }

    pub(super) fn address_full() -> Self {
        let text = "max_connections_per_address are open from this address\n";
        Self::new(StatusCode::TOO_MANY_REQUESTS, "address_full", text).with(header::RETRY_AFTER, "5")
    }

    pub(super) fn body() -> Self {
        Self::new(StatusCode::BAD_REQUEST, "body", "no request here has a body\n")
    }

    pub(super) fn tokens_differ() -> Self {
        let text = "the handshake brings different tokens in several places; leave all but one out\n";
        Self::new(StatusCode::BAD_REQUEST, "tokens_differ", text)
    }

    pub(super) fn forwarded() -> Self {
        Self::new(StatusCode::FORBIDDEN, "forwarded", FORWARDED)
    }

    /// There is room for another one after `wait`.
    pub(super) fn handshake_rate(wait: Duration) -> Self {
        let text = "too many handshakes from this address; wait as retry-after says\n";
        let refusal = Self::new(StatusCode::TOO_MANY_REQUESTS, "handshake_rate", text);
        let seconds = wait.as_secs() + 1;
        Self { header: Some((header::RETRY_AFTER, HeaderValue::from(seconds))), ..refusal }
    }

    pub(super) fn response(&self) -> Response<String> {
        let mut response = text(self.status, &self.text);
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        if self.status == StatusCode::UPGRADE_REQUIRED {
            offer(response.headers_mut());
        }
        if let Some((name, value)) = &self.header {
            response.headers_mut().insert(name, value.clone());
        }
        response
    }
}

/// A short text as an answer.
pub(super) fn text(status: StatusCode, text: &str) -> Response<String> {
    let mut response = Response::new(text.to_owned());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

/// The answer to what is no handshake, at a listener.
pub(super) fn invitation(listener: &str, path: &str) -> Response<String> {
    let is_gopushers = of_listener(listener).any(|route| route.dialect == Dialect::Gopusher);
    if path == "/" && is_gopushers {
        return welcome();
    }
    if !is_route(listener, path) {
        return text(StatusCode::NOT_FOUND, &not_found(listener));
    }
    let mut response = text(StatusCode::UPGRADE_REQUIRED, INVITATION);
    offer(response.headers_mut());
    response
}

/// As gopusher: any page may look whether a gateway is here.
fn welcome() -> Response<String> {
    let mut response = text(StatusCode::OK, WELCOME);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json; charset=utf-8"));
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    response
}

/// To whatever asks for another path.
fn not_found(listener: &str) -> String {
    let mut paths: Vec<&str> = of_listener(listener).map(|route| route.path).collect();
    paths.dedup();
    format!("not found: clients connect to {}\n", paths.join(", "))
}

/// Whether clients connect to `path` of the listener.
fn is_route(listener: &str, path: &str) -> bool {
    routes(listener, path).next().is_some()
}

fn routes(listener: &str, path: &str) -> impl Iterator<Item = &'static DialectRoute> {
    of_listener(listener).filter(move |route| route.path == path)
}

fn of_listener(listener: &str) -> impl Iterator<Item = &'static DialectRoute> {
    ROUTES.iter().filter(move |route| route.listener == listener)
}

/// What 426 must name.
fn offer(headers: &mut HeaderMap) {
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
}

/// Whether it was sent as a handshake, whatever became of it on its way.
pub(super) fn is_meant<B>(request: &Request<B>) -> bool {
    let headers = request.headers();
    headers.contains_key(header::SEC_WEBSOCKET_KEY) || lists(headers, &header::UPGRADE, "websocket")
}

/// Whether a body follows its head: nothing here takes one, and a proxy may see another end of it than the gateway.
pub(super) fn has_body<B>(request: &Request<B>) -> bool {
    let headers = request.headers();
    let has_length = headers.get(header::CONTENT_LENGTH).is_some_and(|length| length != "0");
    has_length || headers.contains_key(header::TRANSFER_ENCODING)
}

/// The dialect to speak at a listener, unless something is wrong with the handshake.
pub(super) fn check<B>(
    listener: &str,
    request: &Request<B>,
    allowed_origins: &[String],
) -> Result<&'static DialectRoute, HandshakeRefusal> {
    let headers = request.headers();
    if !is_route(listener, request.uri().path()) {
        return Err(HandshakeRefusal::new(StatusCode::NOT_FOUND, "path", not_found(listener)));
    }
    if request.method() != Method::GET {
        let refusal =
            HandshakeRefusal::new(StatusCode::METHOD_NOT_ALLOWED, "method", "a WebSocket handshake is a GET\n");
        return Err(refusal.with(header::ALLOW, "GET"));
    }
    // HTTP/1.0 knows no upgrade: RFC 9110 §7.8 forbids to heed one
    if request.version() < Version::HTTP_11 || !lists(headers, &header::UPGRADE, "websocket") {
        return Err(HandshakeRefusal::new(StatusCode::UPGRADE_REQUIRED, "no_upgrade", PROXY));
    }
    if !lists(headers, &header::CONNECTION, "upgrade") {
        return Err(HandshakeRefusal::new(StatusCode::BAD_REQUEST, "upgrade", PROXY));
    }
    if headers.get(header::SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        let text = "sec-websocket-version must be 13\n";
        return Err(HandshakeRefusal::new(StatusCode::UPGRADE_REQUIRED, "version", text));
    }
    if headers.get(header::SEC_WEBSOCKET_KEY).is_none_or(|key| !is_key(key.as_bytes())) {
        let text = "sec-websocket-key must be 16 bytes in base64\n";
        return Err(HandshakeRefusal::new(StatusCode::BAD_REQUEST, "key", text));
    }
    if !allowed_origins.is_empty() && !origin_is_among(allowed_origins, headers) {
        let text = "the origin is not among allowed_origins\n";
        return Err(HandshakeRefusal::new(StatusCode::FORBIDDEN, "origin", text));
    }
    route(listener, request.uri().path(), headers)
}

/// The answer that makes a WebSocket of the connection.
pub(super) fn accepted<B>(request: &Request<B>, route: &DialectRoute) -> Response<String> {
    let key = request.headers().get(header::SEC_WEBSOCKET_KEY).map_or(&b""[..], |key| key.as_bytes());
    let mut response = Response::new(String::new());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    let accept = HeaderValue::from_bytes(&hash_key(key)).expect("invariant: base64 is a header's value");
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    if let Some(subprotocol) = route.subprotocol {
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(subprotocol));
    }
    response
}

/// The members of a header that is a list; it may stand in several lines.
pub(super) fn members<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let lines = headers.get_all(name).into_iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(str::trim)
}

fn lists(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    members(headers, name).any(|member| member.eq_ignore_ascii_case(token))
}

/// Base64 of 16 bytes, whose last digit has only two bits of them.
fn is_key(key: &[u8]) -> bool {
    let Some(digits) = key.strip_suffix(b"==") else { return false };
    digits.len() == 22
        && digits.iter().all(|digit| digit.is_ascii_alphanumeric() || matches!(digit, b'+' | b'/'))
        && matches!(digits[21], b'A' | b'Q' | b'g' | b'w')
}

/// A client without an Origin is no browser, and no page can make it connect.
fn origin_is_among(allowed: &[String], headers: &HeaderMap) -> bool {
    headers
        .get_all(header::ORIGIN)
        .into_iter()
        .all(|origin| origin.to_str().is_ok_and(|origin| allowed.iter().any(|one| one.eq_ignore_ascii_case(origin))))
}

/// The first route of the path whose subprotocol is offered, else the one without. An unknown subprotocol of ours is refused,
/// since who offers it cannot be served. Foreign ones are passed over: gopusher answers without one, and a client that insists
/// on its own ends the connection, as RFC 6455 tells it to.
fn route(listener: &str, path: &str, headers: &HeaderMap) -> Result<&'static DialectRoute, HandshakeRefusal> {
    let is_offered =
        |subprotocol| members(headers, &header::SEC_WEBSOCKET_PROTOCOL).any(|offered| offered == subprotocol);
    let is_ours = |offered: &str| offered.get(..8).is_some_and(|start| start.eq_ignore_ascii_case("oxipush."));
    let offers_ours = members(headers, &header::SEC_WEBSOCKET_PROTOCOL).any(is_ours);
    let mut fitting = routes(listener, path).filter(|route| match route.subprotocol {
        Some(subprotocol) => is_offered(subprotocol),
        None => !offers_ours,
    });
    fitting.next().ok_or_else(|| {
        let text = "no offered subprotocol is known here; offer oxipush.v1, or none for gopusher's dialect\n";
        HandshakeRefusal::new(StatusCode::BAD_REQUEST, "subprotocol", text)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_16_bytes_in_base64() {
        for (key, right) in [
            ("dGhlIHNhbXBsZSBub25jZQ==", true),
            ("AAAAAAAAAAAAAAAAAAAAAA==", true),
            ("++++++++++++++++++//+w==", true),
            // bits that no byte has
            ("dGhlIHNhbXBsZSBub25jZR==", false),
            ("dGhlIHNhbXBsZSBub25jZQ=", false),
            ("dGhlIHNhbXBsZSBub25jZQ", false),
            ("dGhlIHNhbXBsZSBub25jZA===", false),
            ("dGhlIHNhbXBsZSBub25j_Q==", false),
            ("", false),
        ] {
            assert_eq!(is_key(key.as_bytes()), right, "{key}");
        }
    }
}
