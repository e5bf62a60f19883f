//! Answers: gopusher's `{"code":0,"message":"ok"}`, and refusals in the same form.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use actix_web::{
    HttpResponse,
    body::{BodySize, BoxBody, MessageBody},
    http::{StatusCode, header},
    web,
};
use bytes::Bytes;

use crate::{ingress::refusal::Kind, ingress::refusal::Refusal, push::PushId};

/// JSON with status 200.
pub(super) fn json(body: String) -> HttpResponse {
    typed("application/json", body)
}

/// Any text with status 200.
pub(super) fn typed(content_type: &'static str, body: impl Into<Bytes>) -> HttpResponse {
    let content_type = header::HeaderValue::from_static(content_type);
    HttpResponse::Ok().insert_header((header::CONTENT_TYPE, content_type)).body(body.into())
}

/// The answer to an accepted push.
pub(super) fn accepted(id: PushId) -> HttpResponse {
    let mut body = String::with_capacity(64);
    write_accepted(&mut body, id);
    json(body)
}

/// The answer to a batch: a reply for each push.
pub(super) fn replies(outcomes: &[Result<PushId, Refusal>]) -> HttpResponse {
    let mut body = String::with_capacity(64 + outcomes.len() * 64);
    body.push_str(r#"{"code":0,"message":"ok","replies":["#);
    for (i, outcome) in outcomes.iter().enumerate() {
        if i > 0 {
            body.push(',');
        }
        match outcome {
            Ok(id) => write_accepted(&mut body, *id),
            Err(refusal) => body.push_str(&code_and_message(refusal.kind.http(), &refusal.message)),
        }
    }
    body.push_str("]}");
    json(body)
}

fn write_accepted(body: &mut String, id: PushId) {
    use std::fmt::Write;
    // writing to a String cannot fail
    let _ = write!(body, r#"{{"code":0,"message":"ok","id":"{id}"}}"#);
}

/// A refusal, with the headers that its status asks for. `allow` names the methods that a route has.
pub(super) fn refused(refusal: &Refusal, allow: &'static str) -> HttpResponse {
    let kind = refusal.kind;
    let status = StatusCode::from_u16(kind.http()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut answer = HttpResponse::build(status);
    answer.content_type("application/json");
    if let Some(seconds) = kind.retry_after() {
        answer.insert_header((header::RETRY_AFTER, seconds));
    }
    match kind {
        Kind::NoKey => {
            answer.insert_header((header::WWW_AUTHENTICATE, "Bearer"));
        }
        Kind::WrongMethod => {
            answer.insert_header((header::ALLOW, allow));
        }
        // the rest of the body is not read
        Kind::TooSlow | Kind::BodyTooLarge | Kind::Draining => {
            answer.force_close();
        }
        _ => {}
    }
    answer.body(code_and_message(kind.http(), &refusal.message))
}

/// `{"code":…,"message":…}`.
pub(super) fn code_and_message(code: u16, message: &str) -> String {
    serde_json::json!({ "code": code, "message": message }).to_string()
}

/// An answer that keeps the request's unread payload until it is written. actix reads a payload that was let go of to its
/// end, however long that takes; one that is still held ends the connection.
pub(super) fn holding(answer: HttpResponse, payload: web::Payload) -> HttpResponse {
    answer
        .map_body(|_, body| match body.try_into_bytes() {
            Ok(bytes) => BoxBody::new(Holding { bytes, _payload: payload }),
            Err(body) => body,
        })
        .map_into_boxed_body()
}

struct Holding {
    bytes: Bytes,
    _payload: web::Payload,
}

impl MessageBody for Holding {
    type Error = Infallible;

    fn size(&self) -> BodySize {
        BodySize::Sized(self.bytes.len() as u64)
    }

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Bytes, Infallible>>> {
        let bytes = std::mem::take(&mut self.bytes);
        Poll::Ready((!bytes.is_empty()).then_some(Ok(bytes)))
    }
}
