//! What stands before each gRPC service: whether it is a gRPC call, the key, the deadline, the bounds of what arrives; and the
//! count of refusals by status.

use std::{
    convert::Infallible,
    panic::AssertUnwindSafe,
    sync::Arc,
    task::{Context, Poll},
};

use futures_util::{FutureExt, future};
use tokio::time::Instant;
use tonic::{
    Code, Status,
    body::Body,
    codegen::{
        BoxFuture, Service,
        http::{
            Method, Request, Response, StatusCode,
            header::{ALLOW, AUTHORIZATION, CONTENT_TYPE, HeaderValue},
        },
    },
    server::NamedService,
};

use super::{
    budget::Share,
    deadline,
    peer::{OpenCall, Peer},
    request::{MustArrive, RequestBody, RequestLimits},
    response::ResponseBody,
    status::{count, count_as, worded},
};
use crate::{
    auth::{Caller, Keys, PeerKey},
    config::NodeRoles,
    ingress::{
        refusal::{Refusal, RefusalKind},
        scopes::{self, Call},
    },
    telemetry::{Metrics, labels::PeerAnswerOutcome},
};

/// The longest request of a service that is open to all: the name of a service.
const OPEN_MESSAGE: usize = 1024;

/// What is known of a call before its service sees it: an extension of the request.
#[derive(Clone, Debug)]
pub(super) struct CallContext {
    peer: Peer,
    /// `None`: its service is open to all.
    pub(super) caller: Option<Caller>,
    /// When its caller no longer waits; `None`: never.
    pub(super) deadline: Option<Instant>,
}

impl CallContext {
    /// Of a call on this connection.
    pub(super) fn of(peer: &Peer) -> Self {
        Self { peer: peer.clone(), caller: None, deadline: None }
    }
}

/// Who may call a service.
#[derive(Clone)]
enum Gate {
    /// Anybody.
    Open,
    /// Callers with a key of the API.
    Callers(Keys),
    /// Other nodes of the cluster.
    Nodes(PeerKey),
}

/// A service whose calls are checked first.
#[derive(Clone)]
pub(in crate::ingress) struct Intercepted<S> {
    inner: S,
    gate: Gate,
    /// What the node does.
    roles: NodeRoles,
    limits: RequestLimits,
    /// Calls whose requests are streams.
    streams: &'static [&'static str],
    metrics: Arc<Metrics>,
}

impl<S> Intercepted<S> {
    /// Of a service for those who have a key.
    pub(super) fn keyed(
        inner: S,
        keys: &Keys,
        roles: NodeRoles,
        limits: RequestLimits,
        metrics: &Arc<Metrics>,
    ) -> Self {
        Self {
            inner,
            gate: Gate::Callers(keys.clone()),
            roles,
            limits,
            streams: &["/PushStream", "/Events"],
            metrics: Arc::clone(metrics),
        }
    }

    /// Of a service that anybody may ask.
    pub(super) fn open(inner: S, limits: RequestLimits, metrics: &Arc<Metrics>) -> Self {
        let limits = RequestLimits { message_bytes: limits.message_bytes.min(OPEN_MESSAGE), ..limits };
        let (gate, roles) = (Gate::Open, NodeRoles::ALL);
        Self { inner, gate, roles, limits, streams: &["/ServerReflectionInfo"], metrics: Arc::clone(metrics) }
    }

    /// Of a service for the other nodes of the cluster.
    pub(in crate::ingress) fn for_nodes(inner: S, key: PeerKey, limits: RequestLimits, metrics: &Arc<Metrics>) -> Self {
        let (gate, roles) = (Gate::Nodes(key), NodeRoles::ALL);
        Self { inner, gate, roles, limits, streams: &[], metrics: Arc::clone(metrics) }
    }

    /// Whose call it is, and until when its caller waits.
    fn admit(&self, request: &mut Request<Body>) -> Result<AdmittedCall, Refusal> {
        let authorization = request.headers().get(AUTHORIZATION).map(HeaderValue::as_bytes);
        let caller = match &self.gate {
            Gate::Callers(keys) => {
                let call = Call::Other(request.uri().path());
                Some(scopes::caller_of(call, authorization, keys, self.roles, &self.metrics)?)
            }
            Gate::Nodes(key) => {
                key.check(authorization).map_err(|_| self.stranger())?;
                None
            }
            Gate::Open => None,
        };
        let deadline = deadline::of(request.headers())?;
        let context: &mut CallContext =
            request.extensions_mut().get_mut().expect("invariant: each call comes with its connection");
        context.caller = caller;
        context.deadline = deadline;
        let keyed = !matches!(self.gate, Gate::Open);
        let open =
            if keyed { context.peer.begin() } else { context.peer.begin_keyless().ok_or_else(too_many_keyless)? };
        let share = keyed.then(|| context.peer.share());
        Ok(AdmittedCall { open, share, deadline })
    }

    /// The refusal of who is no node of the cluster. It is counted, and not logged: anybody can cause that.
    fn stranger(&self) -> Refusal {
        self.metrics.peer_answers.get_or_create(&PeerAnswerOutcome::Stranger).inc();
        let message = "this is where the nodes of a cluster ask each other: the key is not [peers] key of this node";
        Refusal::new(RefusalKind::WrongKey, message)
    }

    /// The request as the service sees it, its messages bounded.
    fn bound(&self, request: Request<Body>, share: Option<Share>) -> Request<Body> {
        let path = request.uri().path();
        let is_stream = self.streams.iter().any(|name| path.ends_with(name));
        let what = if is_stream { MustArrive::EachMessage } else { MustArrive::WholeRequest };
        request.map(|body| Body::new(RequestBody::new(body, what, self.limits, share)))
    }
}

/// The refusal of one more call of a service that is open to all.
fn too_many_keyless() -> Refusal {
    let message = "[grpc] max_keyless_calls are open on this connection; end some";
    Refusal::new(RefusalKind::Full, message)
}

/// A call that may be made.
struct AdmittedCall {
    open: OpenCall,
    /// For callers with a key only.
    share: Option<Share>,
    deadline: Option<Instant>,
}

impl<S: NamedService> NamedService for Intercepted<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<Request<Body>> for Intercepted<S>
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

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        if let Some(refused) = not_grpc(&request, &self.metrics) {
            return Box::pin(future::ready(Ok(refused)));
        }
        let metrics = Arc::clone(&self.metrics);
        let AdmittedCall { open, share, deadline } = match self.admit(&mut request) {
            Ok(admitted) => admitted,
            Err(refusal) => {
                let refused = Status::from(refusal);
                count(&metrics, refused.code());
                return Box::pin(future::ready(Ok(refused.into_http())));
            }
        };
        let answer = AssertUnwindSafe(self.inner.call(self.bound(request, share))).catch_unwind();
        Box::pin(async move {
            let answer = match deadline {
                None => answer.await,
                Some(at) => match tokio::time::timeout_at(at, answer).await {
                    Ok(answer) => answer,
                    Err(_) => Ok(Ok(Status::from(deadline::passed()).into_http())),
                },
            };
            let answer = match answer {
                Ok(answer) => answer?,
                // a bug costs its own call only
                Err(_) => Status::from(Refusal::internal()).into_http(),
            };
            // only an answer without a body carries its status here: a refusal
            let answer = match Status::from_header_map(answer.headers()) {
                Some(status) if status.code() == Code::Unimplemented && status.message().is_empty() => {
                    no_such_call(&metrics)
                }
                Some(status) if status.code() != Code::Ok => {
                    count(&metrics, status.code());
                    worded(status).into_http()
                }
                _ => answer,
            };
            Ok(answer.map(|body| Body::new(ResponseBody::new(body, deadline, metrics, open))))
        })
    }
}

/// The refusal of a call that no service has.
pub(in crate::ingress) fn no_such_call(metrics: &Metrics) -> Response<Body> {
    let refused = Status::from(Refusal::no_such_call());
    count(metrics, refused.code());
    refused.into_http()
}

/// The refusal, in plain HTTP, of a request that is not gRPC: its sender does not look for a status in the trailers.
fn not_grpc(request: &Request<Body>, metrics: &Metrics) -> Option<Response<Body>> {
    let content_type = request.headers().get(CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
    let (status, name, message) = if request.method() != Method::POST {
        (
            StatusCode::METHOD_NOT_ALLOWED,
            "405",
            "gRPC calls are POST; this is the gRPC port, the HTTP API is on [http] listen",
        )
    } else if !is_grpc(content_type) {
        let message = "send content-type: application/grpc; gRPC-Web and JSON are not spoken here, the HTTP API is on [http] listen";
        (StatusCode::UNSUPPORTED_MEDIA_TYPE, "415", message)
    } else {
        return None;
    };
    count_as(metrics, name);
    let mut refused = Response::new(Body::new(message.to_owned()));
    *refused.status_mut() = status;
    refused.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    if status == StatusCode::METHOD_NOT_ALLOWED {
        refused.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
    }
    Some(refused)
}

fn is_grpc(content_type: &[u8]) -> bool {
    let Some(rest) = content_type.strip_prefix(b"application/grpc") else { return false };
    let rest = rest.strip_prefix(b"+proto").unwrap_or(rest);
    rest.is_empty() || rest.starts_with(b";")
}
