//! The gRPC API (proto/rpc.proto), gpush's (proto/order.proto), health and reflection, on `[grpc] listen`.

mod budget;
pub(super) mod connection;
mod control_frames;
mod deadline;
mod events;
mod framing;
pub(super) mod incoming;
pub(super) mod interceptor;
mod order;
mod peer;
pub(super) mod request;
mod response;
mod service;
mod status;

use std::{net::TcpListener, sync::Arc, time::Duration};

use futures_util::{Stream, StreamExt};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::{server::NamedService, service::Routes};
use tonic_health::{ServingStatus, pb::health_server::HealthServer, server::HealthReporter, server::HealthService};

use super::{Api, readiness::NodeReadiness};
use crate::{
    config::Config,
    lifecycle::{Deadline, Service, Tasks},
    proto::{DESCRIPTORS, order::proxy_server::ProxyServer, rpc::rpc_server::RpcServer},
    telemetry::Metrics,
};

use connection::Connections;
use incoming::{ConnectionBounds, GrpcConnection};
use interceptor::Intercepted;
use order::OrderService;
use request::RequestLimits;
use service::RpcService;

/// What a stop grants answers, beside `[queue] publish_timeout`.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Bound listeners that do not serve yet.
pub(crate) struct GrpcListener {
    /// `[grpc] listen`, then `also`.
    listeners: Vec<TcpListener>,
    config: Config,
    api: Api,
    metrics: Arc<Metrics>,
}

/// The serving workers.
pub(crate) struct GrpcServer {
    service: Service,
}

impl GrpcListener {
    /// On a listener that is bound and non-blocking.
    pub(crate) fn new(listener: TcpListener, config: &Config, api: Api, metrics: &Arc<Metrics>) -> Self {
        Self { listeners: vec![listener], config: config.clone(), api, metrics: Arc::clone(metrics) }
    }

    /// On these listeners, too: with the same bounds in all.
    #[must_use]
    pub(crate) fn and_at(mut self, also: Vec<TcpListener>) -> Self {
        self.listeners.extend(also);
        self
    }

    /// Serves.
    pub(crate) fn serve(self, tasks: &Tasks) -> GrpcServer {
        let service = tasks.service();
        let stopping = service.stopping().clone();
        let health = HealthReporter::new();
        service.spawn("grpc health", report_health(self.api.readiness.clone(), health.clone(), stopping.clone()));
        let answer_time = self.config.queue.publish_timeout + LAST_WORDS;
        let routes = self.routes(HealthServer::new(HealthService::from_health_reporter(health)), &stopping);
        let connections = Connections::new(&self.config.grpc, routes, &stopping, &self.metrics);
        let bounds = ConnectionBounds::of(&self.config, "grpc", self.config.grpc.max_connections);
        let open = self.metrics.grpc_connections.clone();
        let incoming = incoming::connections(self.listeners, bounds, open, self.metrics);
        let serve = move |connection: GrpcConnection| {
            let GrpcConnection { stream, guard, place } = connection;
            connections.clone().serve(stream, guard, place)
        };
        service.spawn("grpc", serve_all(incoming, serve, stopping, answer_time));
        GrpcServer { service }
    }

    fn routes(&self, health: HealthServer<HealthService>, stopping: &CancellationToken) -> Routes {
        let config = &self.config.grpc;
        let limits = RequestLimits { message_bytes: config.max_message, timeout: config.message_timeout };
        let service = RpcService {
            admission: self.api.admission.clone(),
            disconnects: self.api.disconnects.clone(),
            queries: self.api.queries.clone(),
            events: self.api.events.clone(),
            max_unacknowledged: config.max_unacknowledged,
            stopping: stopping.clone(),
            metrics: Arc::clone(&self.metrics),
        };
        let rpc = RpcServer::new(service).max_decoding_message_size(limits.message_bytes);
        let order = OrderService { admission: self.api.admission.clone() };
        let order = ProxyServer::new(order).max_decoding_message_size(limits.message_bytes);
        let reflection = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(DESCRIPTORS)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        let v1 = reflection().build_v1().expect("invariant: the compiled-in descriptors are valid");
        let v1alpha = reflection().build_v1alpha().expect("invariant: the compiled-in descriptors are valid");
        let metrics = &self.metrics;
        let roles = self.api.roles;
        let mut routes = Routes::new(Intercepted::keyed(rpc, &self.api.keys, roles, limits, metrics))
            .add_service(Intercepted::keyed(order, &self.api.keys, roles, limits, metrics))
            .add_service(Intercepted::open(health, limits, metrics))
            .add_service(Intercepted::open(v1, limits, metrics))
            .add_service(Intercepted::open(v1alpha, limits, metrics));
        let router = routes.axum_router_mut();
        let metrics = Arc::clone(metrics);
        *router = std::mem::take(router).fallback(move || std::future::ready(interceptor::no_such_call(&metrics)));
        routes.prepare()
    }
}

impl GrpcServer {
    /// Answers what came in and ends, at the deadline at the latest.
    pub(crate) async fn stop(self, deadline: Deadline) {
        self.service.stop_within(deadline).await;
    }
}

/// Serves what comes in until `stopping`; then what is open has `answer_time` to end.
pub(super) async fn serve_all<F>(
    incoming: impl Stream<Item = GrpcConnection> + Send + 'static,
    serve: impl Fn(GrpcConnection) -> F,
    stopping: CancellationToken,
    answer_time: Duration,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let mut open = JoinSet::new();
    let mut incoming = Box::pin(incoming.take_until(stopping.cancelled()));
    loop {
        // both cancel-safe: the stream keeps what it has begun
        tokio::select! {
            Some(ended) = open.join_next() => log_panic(ended),
            connection = incoming.next() => match connection {
                Some(connection) => drop(open.spawn(serve(connection))),
                None => break,
            },
        }
    }
    // new ones are refused from here on
    drop(incoming);
    let rest = async {
        while let Some(ended) = open.join_next().await {
            log_panic(ended);
        }
    };
    if stopping.is_cancelled() && tokio::time::timeout(answer_time, rest).await.is_err() {
        tracing::warn!("some gRPC calls did not end in time");
        open.abort_all();
    }
}

fn log_panic(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "a gRPC connection's task failed");
    }
}

/// Says SERVING for as long as the node is ready.
async fn report_health(readiness: NodeReadiness, mut health: HealthReporter, stopping: CancellationToken) {
    let names = ["", <RpcServer<RpcService> as NamedService>::NAME, <ProxyServer<OrderService> as NamedService>::NAME];
    let mut changes = readiness.watch();
    loop {
        let status = if readiness.check().is_ok() { ServingStatus::Serving } else { ServingStatus::NotServing };
        for name in names {
            health.set_service_status(name, status).await;
        }
        tokio::select! {
            () = changes.changed() => {}
            () = stopping.cancelled() => break,
        }
    }
    // ends the watchers, so that their calls do not hold the stop up
    for name in names {
        health.clear_service_status(name).await;
    }
}
