//! The gRPC API (proto/rpc.proto), health and reflection, on `[grpc] listen`.

mod answer;
mod budget;
mod connection;
mod deadline;
mod framing;
mod guard;
mod incoming;
mod peer;
mod request;
mod service;
mod status;

use std::{net::TcpListener, sync::Arc, time::Duration};

use futures_util::StreamExt;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::{server::NamedService, service::Routes};
use tonic_health::{ServingStatus, pb::health_server::HealthServer, server::HealthReporter, server::HealthService};

use super::admission::Admission;
use crate::{
    config::Config,
    lifecycle::Tasks,
    proto::{DESCRIPTORS, rpc::rpc_server::RpcServer},
    telemetry::Metrics,
};

use connection::Connections;
use guard::Guard;
use request::Bounds;
use service::Service;

/// What a stop grants answers, beside `[queue] publish_timeout`.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// A bound listener that does not serve yet.
pub struct Bound {
    listener: TcpListener,
    config: Config,
    admission: Admission,
    metrics: Arc<Metrics>,
}

/// The serving workers.
pub struct Serving {
    stop: CancellationToken,
    ended: CancellationToken,
    patience: Duration,
}

impl Bound {
    /// On a listener that is bound and non-blocking.
    pub fn new(listener: TcpListener, config: &Config, admission: Admission, metrics: &Arc<Metrics>) -> Self {
        Self { listener, config: config.clone(), admission, metrics: Arc::clone(metrics) }
    }

    /// Serves.
    pub fn serve(self, tasks: &Tasks) -> Serving {
        let (stop, ended) = (tasks.cancelled().child_token(), CancellationToken::new());
        let health = HealthReporter::new();
        tasks
            .spawn("grpc health", tell_health(self.admission.clone(), health.clone(), stop.clone(), tasks.cancelled()));
        let patience = self.config.queue.publish_timeout + LAST_WORDS;
        let routes = self.routes(HealthServer::new(HealthService::from_health_reporter(health)), &stop);
        let connections = Connections::new(&self.config.grpc, routes, &stop, &self.metrics);
        let (max, greeting_within) = (self.config.grpc.max_connections, self.config.http.request_timeout);
        let incoming = incoming::connections(self.listener, max, greeting_within, self.metrics);
        let (stopping, gone, cancelled) = (stop.clone(), ended.clone().drop_guard(), tasks.cancelled());
        tasks.spawn("grpc", async move {
            let mut open = JoinSet::new();
            let mut incoming = Box::pin(incoming.take_until(stopping.cancelled()));
            loop {
                // both cancel-safe: the stream keeps what it has begun
                tokio::select! {
                    Some(ended) = open.join_next() => tell(ended),
                    stream = incoming.next() => match stream {
                        Some(stream) => drop(open.spawn(connections.clone().serve(stream))),
                        None => break,
                    },
                }
            }
            // new ones are refused from here on
            drop(incoming);
            let rest = async {
                while let Some(ended) = open.join_next().await {
                    tell(ended);
                }
            };
            if stopping.is_cancelled() && tokio::time::timeout(patience, rest).await.is_err() {
                tracing::warn!("some gRPC calls did not end in time");
                open.abort_all();
            }
            drop(gone);
            // an end that nobody asked for is a death
            if stopping.is_cancelled() {
                cancelled.cancelled().await;
            }
        });
        Serving { stop, ended, patience: patience + LAST_WORDS }
    }

    fn routes(&self, health: HealthServer<HealthService>, stop: &CancellationToken) -> Routes {
        let config = &self.config.grpc;
        let bounds = Bounds { message: config.max_message, within: config.message_timeout };
        let service = Service {
            admission: self.admission.clone(),
            max_unacknowledged: config.max_unacknowledged,
            stop: stop.clone(),
            metrics: Arc::clone(&self.metrics),
        };
        let rpc = RpcServer::new(service).max_decoding_message_size(bounds.message);
        let reflection = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(DESCRIPTORS)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        let v1 = reflection().build_v1().expect("invariant: the compiled-in descriptors are valid");
        let v1alpha = reflection().build_v1alpha().expect("invariant: the compiled-in descriptors are valid");
        let metrics = &self.metrics;
        let mut routes = Routes::new(Guard::keyed(rpc, &self.admission, bounds, metrics))
            .add_service(Guard::open(health, bounds, metrics))
            .add_service(Guard::open(v1, bounds, metrics))
            .add_service(Guard::open(v1alpha, bounds, metrics));
        let (router, metrics) = (routes.axum_router_mut(), Arc::clone(metrics));
        *router = std::mem::take(router).fallback(move || std::future::ready(guard::no_such_call(&metrics)));
        routes.prepare()
    }
}

impl Serving {
    /// Answers what came in and ends.
    pub async fn stop(self) {
        self.stop.cancel();
        let _ = tokio::time::timeout(self.patience, self.ended.cancelled()).await;
    }
}

fn tell(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "a gRPC connection's task failed");
    }
}

/// Says SERVING for as long as the node is ready.
async fn tell_health(
    admission: Admission,
    mut health: HealthReporter,
    stop: CancellationToken,
    cancelled: CancellationToken,
) {
    let names = ["", <RpcServer<Service> as NamedService>::NAME];
    let mut seen = admission.seen();
    loop {
        let status = if admission.ready().is_ok() { ServingStatus::Serving } else { ServingStatus::NotServing };
        for name in names {
            health.set_service_status(name, status).await;
        }
        tokio::select! {
            () = admission.changed(&mut seen) => {}
            () = stop.cancelled() => break,
        }
    }
    // ends the watchers, so that their calls do not hold the stop up
    for name in names {
        health.clear_service_status(name).await;
    }
    cancelled.cancelled().await;
}
