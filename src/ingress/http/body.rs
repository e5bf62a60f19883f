//! A request's body: whole, within its bound and its time.

use std::time::Duration;

use actix_web::{HttpRequest, http::header, web};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;

use crate::{
    config,
    ingress::refusal::{Refusal, RefusalKind},
};

/// Reads bodies.
pub(super) struct BodyReader {
    max_body: usize,
    request_timeout: Duration,
}

impl BodyReader {
    pub(super) fn new(config: &config::HttpConfig) -> Self {
        Self { max_body: config.max_body, request_timeout: config.request_timeout }
    }

    /// The whole body of JSON; one of one chunk is not copied.
    pub(super) async fn read(&self, request: &HttpRequest, payload: &mut web::Payload) -> Result<Bytes, Refusal> {
        check_type(request, &JSON_TYPES, "send JSON as application/json")?;
        self.read_any(request, payload).await
    }

    /// The whole body of a form.
    pub(super) async fn read_form(&self, request: &HttpRequest, payload: &mut web::Payload) -> Result<Bytes, Refusal> {
        check_type(request, &[FORM, ""], "send a form as application/x-www-form-urlencoded")?;
        self.read_any(request, payload).await
    }

    /// The whole body, whatever its type.
    pub(super) async fn read_any(&self, request: &HttpRequest, payload: &mut web::Payload) -> Result<Bytes, Refusal> {
        check_encoding(request)?;
        let announced = request.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok());
        let announced: Option<usize> = announced.and_then(|value| value.parse().ok());
        if announced.is_some_and(|length| length > self.max_body) {
            return Err(self.too_large());
        }
        let end = takes_the_connection(request).then_some(announced.unwrap_or(0));
        let whole = tokio::time::timeout(self.request_timeout, self.collect(payload, end)).await;
        whole.unwrap_or_else(|_| {
            Err(Refusal::new(RefusalKind::TooSlow, "the body did not arrive within [http] request_timeout"))
        })
    }

    /// `end`: the length of a body whose payload does not end by itself.
    async fn collect(&self, payload: &mut web::Payload, end: Option<usize>) -> Result<Bytes, Refusal> {
        let broken = |_| Refusal::new(RefusalKind::BadJson, "the body ended early or is badly framed");
        if end == Some(0) {
            return Ok(Bytes::new());
        }
        let Some(mut first) = payload.next().await.transpose().map_err(broken)? else { return Ok(Bytes::new()) };
        if let Some(end) = end.filter(|end| first.len() >= *end) {
            first.truncate(end);
            return Ok(first);
        }
        if first.len() > self.max_body {
            return Err(self.too_large());
        }
        let Some(second) = payload.next().await.transpose().map_err(broken)? else {
            return Ok(first);
        };
        let mut whole = BytesMut::with_capacity((first.len() + second.len()) * 2);
        whole.extend_from_slice(&first);
        whole.extend_from_slice(&second);
        // checked before the next is waited for: it may never come
        while whole.len() <= self.max_body && end.is_none_or(|end| whole.len() < end) {
            let Some(chunk) = payload.next().await else { return Ok(whole.freeze()) };
            whole.extend_from_slice(&chunk.map_err(broken)?);
        }
        match end {
            Some(end) => {
                whole.truncate(end);
                Ok(whole.freeze())
            }
            None => Err(self.too_large()),
        }
    }

    fn too_large(&self) -> Refusal {
        let message = format!("the body is larger than [http] max_body ({} bytes)", self.max_body);
        Refusal::new(RefusalKind::BodyTooLarge, message)
    }
}

/// Whether actix takes all that follows on the connection for the body, whatever its length: it does with `Upgrade: websocket`,
/// which some proxies set on every call.
fn takes_the_connection(request: &HttpRequest) -> bool {
    let headers = request.headers();
    !headers.contains_key(header::TRANSFER_ENCODING)
        && headers
            .get_all(header::UPGRADE)
            .any(|value| value.as_bytes().trim_ascii().eq_ignore_ascii_case(b"websocket"))
}

/// Never compressed.
fn check_encoding(request: &HttpRequest) -> Result<(), Refusal> {
    let encoding = request.headers().get(header::CONTENT_ENCODING).map(header::HeaderValue::as_bytes);
    if encoding.is_some_and(|encoding| !encoding.eq_ignore_ascii_case(b"identity")) {
        return Err(Refusal::new(RefusalKind::WrongType, "a Content-Encoding is not taken; send the body as it is"));
    }
    Ok(())
}

/// curl's default.
const FORM: &str = "application/x-www-form-urlencoded";
/// JSON is taken under its own name, as curl's default form, as plain text, or without a type.
const JSON_TYPES: [&str; 4] = ["application/json", FORM, "text/plain", ""];

/// Whether the body is of one of these types; a missing one is any.
fn check_type(request: &HttpRequest, known: &[&str], advice: &str) -> Result<(), Refusal> {
    let Some(value) = request.headers().get(header::CONTENT_TYPE) else { return Ok(()) };
    let value = value.as_bytes();
    let essence = value.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    if known.iter().any(|known| essence.eq_ignore_ascii_case(known.as_bytes())) {
        return Ok(());
    }
    Err(Refusal::new(RefusalKind::WrongType, format!("this Content-Type is not taken; {advice}")))
}
