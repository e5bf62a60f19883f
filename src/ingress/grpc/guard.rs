//! What stands before each gRPC service: the key, and the count of refusals by status.

use std::{
    convert::Infallible,
    panic::AssertUnwindSafe,
    sync::Arc,
    task::{Context, Poll},
};

use futures_util::FutureExt;
use tonic::{
    Code, Status,
    body::Body,
    codegen::{
        BoxFuture, Service,
        http::{Request, Response, header::AUTHORIZATION},
    },
    server::NamedService,
};

use crate::{
    ingress::{
        admission::Admission,
        refusal::{Kind, Refusal},
    },
    telemetry::Metrics,
};

/// A service behind its guard.
#[derive(Clone)]
pub(super) struct Guard<S> {
    inner: S,
    /// `None`: open to all.
    keys: Option<Admission>,
    metrics: Arc<Metrics>,
}

impl<S> Guard<S> {
    pub(super) fn new(inner: S, keys: Option<Admission>, metrics: &Arc<Metrics>) -> Self {
        Self { inner, keys, metrics: Arc::clone(metrics) }
    }
}

impl<S: NamedService> NamedService for Guard<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<Request<Body>> for Guard<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Response<Body>, Infallible>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let metrics = Arc::clone(&self.metrics);
        let authorization = request.headers().get(AUTHORIZATION).map(|value| value.as_bytes());
        if self.keys.as_ref().is_some_and(|keys| !keys.admits(authorization)) {
            let message = "a key is needed: send the metadata authorization: Bearer <one of [auth] keys>";
            count(&metrics, Code::Unauthenticated);
            let refused = Status::from(Refusal::new(Kind::NoKey, message)).into_http();
            return Box::pin(async { Ok(refused) });
        }
        let answer = self.inner.call(request);
        Box::pin(async move {
            // a bug costs its own call only
            let answer = match AssertUnwindSafe(answer).catch_unwind().await {
                Ok(answer) => answer?,
                Err(_) => Status::from(Refusal::internal()).into_http(),
            };
            // only an answer without a body carries its status here: a refusal
            if let Some(status) = Status::from_header_map(answer.headers()).filter(|status| status.code() != Code::Ok) {
                count(&metrics, status.code());
            }
            Ok(answer)
        })
    }
}

/// Counts a refused request.
pub(super) fn count(metrics: &Metrics, code: Code) {
    let status = match code {
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::Unauthenticated => "UNAUTHENTICATED",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unavailable => "UNAVAILABLE",
        Code::Internal => "INTERNAL",
        Code::NotFound => "NOT_FOUND",
        _ => "other",
    };
    metrics.requests.get_or_create(&[("protocol", "grpc"), ("status", status)]).inc();
}
