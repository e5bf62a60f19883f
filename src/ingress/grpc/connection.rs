//! One connection's life: HTTP/2 until the node stops, or nobody with a key calls any more.

use std::{
    convert::Infallible,
    error::Error as _,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use hyper::{body::Incoming, server::conn::http2};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;
use tonic::{
    body::Body,
    codegen::{
        Service,
        http::{Request, Response},
    },
    service::Routes,
};

use super::{
    budget::Budget,
    incoming::{ConnectionGuard, ConnectionPlace},
    interceptor::CallContext,
    peer::Peer,
};
use crate::{
    config::GrpcConfig,
    ingress::timed_stream::TimedStream,
    telemetry::{Metrics, labels::GrpcCloseReason},
};

/// Calls that their caller has reset before they were begun (CVE-2023-44487); more end the connection.
const MAX_PENDING_RESETS: usize = 20;
/// Calls that the gateway has reset because of what their caller sent (CVE-2025-8671), or refused as beyond `max_streams`;
/// more end the connection.
const MAX_PROVOKED_RESETS: usize = 1024;

/// What a call that crosses the end of an idle connection has to come in.
const CROSSING: Duration = Duration::from_secs(1);

/// Serves connections.
#[derive(Clone)]
pub(in crate::ingress) struct Connections {
    http: http2::Builder<TokioExecutor>,
    routes: Routes,
    idle_timeout: Duration,
    max_unfinished: usize,
    max_keyless: usize,
    unfinished: Arc<Budget>,
    stopping: CancellationToken,
    metrics: Arc<Metrics>,
}

impl Connections {
    pub(in crate::ingress) fn new(
        config: &GrpcConfig,
        routes: Routes,
        stopping: &CancellationToken,
        metrics: &Arc<Metrics>,
    ) -> Self {
        let mut http = http2::Builder::new(TokioExecutor::new());
        http.timer(TokioTimer::new())
            .max_concurrent_streams(config.max_streams)
            .initial_connection_window_size(config.window)
            .initial_stream_window_size(config.window)
            .max_header_list_size(config.max_metadata)
            .max_pending_accept_reset_streams(MAX_PENDING_RESETS)
            .max_local_error_reset_streams(MAX_PROVOKED_RESETS)
            .keep_alive_interval(config.ping_interval)
            .keep_alive_timeout(config.ping_interval);
        Self {
            http,
            routes,
            idle_timeout: config.idle_timeout,
            max_unfinished: config.max_unfinished_per_connection,
            max_keyless: config.max_keyless_calls,
            unfinished: Budget::new(config.max_unfinished),
            stopping: stopping.clone(),
            metrics: Arc::clone(metrics),
        }
    }

    /// Serves one to its end; `guard` reads along what comes over `stream`, which is plain HTTP/2.
    pub(in crate::ingress) async fn serve<S>(self, stream: S, guard: ConnectionGuard, _place: ConnectionPlace)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let stream = TimedStream::new(stream, guard);
        let peer = Peer::new(self.max_unfinished, self.max_keyless, &self.unfinished);
        let calls = TowerToHyperService::new(ConnectionService { routes: self.routes, peer: peer.clone() });
        let served = self.http.serve_connection(TokioIo::new(stream), calls);
        tokio::pin!(served);
        tokio::select! {
            ended = &mut served => return log_end(&self.metrics, ended),
            () = self.stopping.cancelled() => {
                served.as_mut().graceful_shutdown();
                return log_end(&self.metrics, served.await);
            }
            () = peer.idle(self.idle_timeout) => {}
        }
        self.metrics.closed_grpc.get_or_create(&GrpcCloseReason::Idle).inc();
        served.as_mut().graceful_shutdown();
        tokio::select! {
            ended = &mut served => log_end(&self.metrics, ended),
            // nobody whose calls count is left
            () = async { tokio::time::sleep(CROSSING).await; peer.idle(CROSSING).await } => {}
        }
    }
}

fn log_end(metrics: &Metrics, ended: hyper::Result<()>) {
    let Err(error) = ended else { return };
    tracing::debug!(%error, "a gRPC connection ended");
    if let Some(reason) = breach(&error) {
        metrics.closed_grpc.get_or_create(&reason).inc();
    }
}

/// Why h2 ended it, if h2 did; what ends with an error of the network is counted where that error is made.
fn breach(error: &hyper::Error) -> Option<GrpcCloseReason> {
    let error = error.source()?.downcast_ref::<h2::Error>()?;
    if !(error.is_go_away() && error.is_library()) {
        return None;
    }
    match error.reason()? {
        h2::Reason::NO_ERROR => None,
        h2::Reason::ENHANCE_YOUR_CALM => Some(GrpcCloseReason::Flood),
        _ => Some(GrpcCloseReason::Protocol),
    }
}

/// Sends each call of a connection to its service, with whose it is.
#[derive(Clone)]
struct ConnectionService {
    routes: Routes,
    peer: Peer,
}

impl Service<Request<Incoming>> for ConnectionService {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = <Routes as Service<Request<Body>>>::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Service::<Request<Body>>::poll_ready(&mut self.routes, context)
    }

    fn call(&mut self, request: Request<Incoming>) -> Self::Future {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(CallContext::of(&self.peer));
        self.routes.call(request)
    }
}
