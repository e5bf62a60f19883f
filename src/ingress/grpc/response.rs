//! The body of an answer: it ends at its call's deadline, and with it the call is over.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http_body::{Frame, SizeHint};
use tokio::time::{Instant, Sleep};
use tonic::{
    Status,
    body::Body,
    codegen::{Body as HttpBody, Bytes, http::HeaderMap},
};

use super::{deadline, peer::OpenCall, status};
use crate::telemetry::Metrics;

/// An answer's body.
pub(super) struct ResponseBody {
    body: Body,
    deadline: Option<Pin<Box<Sleep>>>,
    metrics: Arc<Metrics>,
    _call: OpenCall,
}

impl ResponseBody {
    pub(super) fn new(body: Body, deadline: Option<Instant>, metrics: Arc<Metrics>, call: OpenCall) -> Self {
        let deadline = deadline.map(|at| Box::pin(tokio::time::sleep_until(at)));
        Self { body, deadline, metrics, _call: call }
    }
}

impl HttpBody for ResponseBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let this = self.get_mut();
        // first, or a stream that always has a reply would never end
        if this.deadline.as_mut().is_some_and(|deadline| deadline.as_mut().poll(context).is_ready()) {
            this.deadline = None;
            this.body = Body::empty();
            let passed = Status::from(deadline::passed());
            status::count(&this.metrics, passed.code());
            let mut trailers = HeaderMap::new();
            return Poll::Ready(Some(passed.add_header(&mut trailers).map(|()| Frame::trailers(trailers))));
        }
        Pin::new(&mut this.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        // the deadline may cut it short
        SizeHint::default()
    }
}
