//! Answers: gopusher's `{"code":0,"message":"ok"}`, and refusals in the same form.

use std::{
    convert::Infallible,
    fmt::Write,
    pin::Pin,
    task::{Context, Poll},
};

use actix_web::{
    HttpResponse, HttpResponseBuilder,
    body::{BodySize, BoxBody, MessageBody},
    http::{StatusCode, header},
    web,
};
use bytes::Bytes;

use super::queries::missing_field;
use crate::ingress::{
    admission::Receipt,
    disconnects::{AcceptedOrder, EndedConnections},
    refusal::{Refusal, RefusalKind},
};

/// JSON with status 200.
pub(super) fn json(body: String) -> HttpResponse {
    typed("application/json", body)
}

/// Any text with status 200.
pub(super) fn typed(content_type: &'static str, body: impl Into<Bytes>) -> HttpResponse {
    let content_type = header::HeaderValue::from_static(content_type);
    HttpResponse::Ok().insert_header((header::CONTENT_TYPE, content_type)).body(body.into())
}

/// Whether the process is well, or why it is not.
pub(super) fn health(alive: Result<(), String>) -> HttpResponse {
    let Err(stuck) = alive else { return typed("text/plain; charset=utf-8", "ok\n") };
    HttpResponse::ServiceUnavailable().content_type("text/plain; charset=utf-8").body(format!("{stuck}\n"))
}

/// The answer to an accepted order to end clients.
pub(super) fn accepted_order(order: &AcceptedOrder) -> HttpResponse {
    let mut body = String::with_capacity(120);
    write_top(&mut body, 0, None, "ok");
    // writing to a String cannot fail
    let _ = write!(body, r#","id":"{}""#, order.id);
    if let Some(EndedConnections { nodes, missing }) = &order.ended {
        let nodes = nodes.iter().map(|(node, ended)| format!("{}:{ended}", serde_json::Value::from(&**node)));
        let nodes = nodes.collect::<Vec<_>>().join(",");
        let _ = write!(body, r#","ended":{{{nodes}}}{}"#, missing_field(missing));
    }
    body.push('}');
    json(body)
}

/// The answer to an accepted push.
pub(super) fn accepted(receipt: Receipt) -> HttpResponse {
    let mut body = String::with_capacity(80);
    write_accepted(&mut body, receipt);
    json(body)
}

/// The answer to a batch: how many pushes failed, and a reply for each. When all failed with one status, it is the answer's.
pub(super) fn replies(outcomes: &[Result<Receipt, Refusal>]) -> HttpResponse {
    let refusals: Vec<&Refusal> = outcomes.iter().filter_map(|outcome| outcome.as_ref().err()).collect();
    let pushes = outcomes.len();
    let failed = refusals.len();
    let mut body = String::with_capacity(96 + pushes * 64);
    let answer = match refusals.first() {
        None => {
            write_top(&mut body, 0, None, "ok");
            HttpResponse::Ok()
        }
        Some(first) if failed == pushes && refusals.iter().all(|refusal| refusal.kind.http() == first.kind.http()) => {
            let one_reason = refusals.iter().all(|refusal| refusal.kind == first.kind).then_some(first.kind);
            let message = format!("{failed} of {pushes} pushes failed; the first: {}", first.message);
            write_top(&mut body, first.kind.http(), one_reason, &message);
            // with the longest wait, since all of them may be tried again then
            let longest = refusals.iter().copied().max_by_key(|refusal| refusal.retry_after()).unwrap_or(first);
            head(longest, "")
        }
        Some(_) => {
            write_top(&mut body, 0, None, &format!("{failed} of {pushes} pushes failed; the replies say why"));
            HttpResponse::Ok()
        }
    };
    // writing to a String cannot fail
    let _ = write!(body, r#","failed":{failed},"replies":["#);
    for (i, outcome) in outcomes.iter().enumerate() {
        if i > 0 {
            body.push(',');
        }
        match outcome {
            Ok(receipt) => write_accepted(&mut body, *receipt),
            Err(refusal) => write_refused(&mut body, refusal),
        }
    }
    body.push_str("]}");
    finish(answer, body)
}

fn write_accepted(body: &mut String, Receipt { id, replayed }: Receipt) {
    write_top(body, 0, None, "ok");
    let _ = write!(body, r#","id":"{id}""#);
    body.push_str(if replayed { r#","replayed":true}"# } else { "}" });
}

fn write_refused(body: &mut String, refusal: &Refusal) {
    write_top(body, refusal.kind.http(), Some(refusal.kind), &refusal.message);
    body.push('}');
}

/// What every answer begins with: `{"code":…,"reason":…,"message":…`.
fn write_top(body: &mut String, code: u16, reason: Option<RefusalKind>, message: &str) {
    let _ = write!(body, r#"{{"code":{code}"#);
    if let Some(kind) = reason {
        let _ = write!(body, r#","reason":"{}""#, kind.name());
    }
    let _ = write!(body, r#","message":{}"#, serde_json::Value::from(message));
}

/// A refusal in the form of another gateway: its status and body, with the headers that the refusal asks for.
pub(super) fn refused_with(refusal: &Refusal, allow: &'static str, status: u16, body: String) -> HttpResponse {
    let mut answer = head(refusal, allow);
    answer.status(StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR));
    finish(answer, body)
}

/// A refusal, with the headers that its status asks for. `allow` names the methods that a route has.
pub(super) fn refused(refusal: &Refusal, allow: &'static str) -> HttpResponse {
    let mut body = String::with_capacity(128);
    write_refused(&mut body, refusal);
    finish(head(refusal, allow), body)
}

/// The status of a refusal and the headers that it asks for.
fn head(refusal: &Refusal, allow: &'static str) -> HttpResponseBuilder {
    let kind = refusal.kind;
    let status = StatusCode::from_u16(kind.http()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut answer = HttpResponse::build(status);
    if let Some(wait) = refusal.retry_after() {
        // whole seconds, and none too early
        answer.insert_header((header::RETRY_AFTER, wait.as_secs() + u64::from(wait.subsec_nanos() > 0)));
    }
    match kind {
        RefusalKind::NoKey | RefusalKind::WrongKey => {
            answer.insert_header((header::WWW_AUTHENTICATE, "Bearer"));
        }
        RefusalKind::WrongMethod => {
            answer.insert_header((header::ALLOW, allow));
        }
        // the rest of the body is not read
        RefusalKind::TooSlow | RefusalKind::BodyTooLarge | RefusalKind::Draining => {
            answer.force_close();
        }
        _ => {}
    }
    answer
}

fn finish(mut answer: HttpResponseBuilder, body: String) -> HttpResponse {
    answer.content_type("application/json").body(body)
}

/// An answer that keeps the request's unread payload until it is written. actix reads a payload that was let go of to its
/// end, however long that takes; one that is still held ends the connection.
pub(super) fn keeping_payload(answer: HttpResponse, payload: web::Payload) -> HttpResponse {
    answer
        .map_body(|_, body| match body.try_into_bytes() {
            Ok(bytes) => BoxBody::new(BodyBesidePayload { bytes, _payload: payload }),
            Err(body) => body,
        })
        .map_into_boxed_body()
}

struct BodyBesidePayload {
    bytes: Bytes,
    _payload: web::Payload,
}

impl MessageBody for BodyBesidePayload {
    type Error = Infallible;

    fn size(&self) -> BodySize {
        BodySize::Sized(self.bytes.len() as u64)
    }

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Bytes, Infallible>>> {
        let bytes = std::mem::take(&mut self.bytes);
        Poll::Ready((!bytes.is_empty()).then_some(Ok(bytes)))
    }
}
