//! `GET /events`: Server-Sent Events of what happens on this node, for who only watches.

use std::{convert::Infallible, time::Duration};

use actix_web::{
    HttpRequest, HttpResponse,
    http::{
        Method,
        header::{self, HeaderValue},
    },
};
use bytes::Bytes;
use futures_util::stream;
use tokio_util::sync::CancellationToken;

use super::{answer, query};
use crate::{
    auth::{Caller, Scope},
    events::{EventWatcher, Events},
    ingress::{
        event_kinds::{check_unbounded, kinds_of},
        refusal::Refusal,
    },
};

/// How often something is said, so that both ends, and proxies between them, know that the stream goes on.
const PING: Duration = Duration::from_secs(15);

/// An open stream.
struct EventStream {
    watcher: EventWatcher,
    caller: Caller,
    stopping: CancellationToken,
    has_begun: bool,
}

/// Opens a stream of the kinds that the query names, until `stopping`.
pub(super) fn answer(
    events: &Events,
    caller: &Caller,
    request: &HttpRequest,
    stopping: &CancellationToken,
) -> Result<HttpResponse, Refusal> {
    let words = query::kinds(request.query_string())?;
    let kinds = kinds_of(words.iter().map(String::as_str))?;
    check_unbounded(caller)?;
    let mut answer = if request.method() == Method::HEAD {
        answer::typed("text/event-stream", Bytes::new())
    } else {
        let watcher = events.watch(kinds)?;
        let opened = EventStream { watcher, caller: caller.clone(), stopping: stopping.clone(), has_begun: false };
        let blocks = stream::unfold(opened, |mut opened| async move {
            let block = opened.next().await?;
            Some((Ok::<_, Infallible>(block), opened))
        });
        HttpResponse::Ok().content_type("text/event-stream").streaming(Box::pin(blocks))
    };
    answer.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(answer)
}

impl EventStream {
    /// The next block of the stream; `None`: it is over.
    async fn next(&mut self) -> Option<Bytes> {
        if !std::mem::replace(&mut self.has_begun, true) {
            return Some(Bytes::from_static(b"retry: 3000\n\n"));
        }
        // both cancel-safe
        let block = tokio::select! {
            biased;
            () = self.stopping.cancelled() => return None,
            event = self.watcher.next() => [&b"data: "[..], &event, b"\n\n"].concat().into(),
            () = tokio::time::sleep(PING) => Bytes::from_static(b": the stream goes on\n\n"),
        };
        // its key may be gone, or have other rights, since it began
        (self.caller.may(Scope::Events) && !self.caller.is_bounded()).then_some(block)
    }
}
