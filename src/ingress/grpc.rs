//! The gRPC API (proto/rpc.proto), health and reflection, on `[grpc] listen`.

mod guard;
mod incoming;
mod service;

use std::{net::TcpListener, sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;
use tonic::{
    server::NamedService,
    transport::{Server, server::Router},
};
use tonic_health::{ServingStatus, pb::health_server::HealthServer, server::HealthReporter, server::HealthService};

use super::admission::Admission;
use crate::{
    config::Config,
    lifecycle::Tasks,
    proto::{DESCRIPTORS, rpc::rpc_server::RpcServer},
    telemetry::Metrics,
};

use guard::Guard;
use service::Service;

/// A silent connection is pinged this often, and given up when no answer comes in as much time.
const KEEP_ALIVE: Duration = Duration::from_secs(20);
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
        let router = self.router(HealthServer::new(HealthService::from_health_reporter(health)), &stop);
        let incoming =
            incoming::connections(self.listener, self.config.grpc.max_connections, self.config.http.request_timeout);
        let (stopping, gone, cancelled) = (stop.clone(), ended.clone().drop_guard(), tasks.cancelled());
        tasks.spawn("grpc", async move {
            let served = router.serve_with_incoming_shutdown(incoming, stopping.clone().cancelled_owned());
            tokio::pin!(served);
            tokio::select! {
                outcome = &mut served => match outcome {
                    Ok(()) => {}
                    Err(error) => tracing::error!(%error, "the gRPC server failed"),
                },
                () = async { stopping.cancelled().await; tokio::time::sleep(patience).await } => {
                    tracing::warn!("some gRPC calls did not end in time");
                }
            }
            drop(gone);
            // an end that nobody asked for is a death
            if stopping.is_cancelled() {
                cancelled.cancelled().await;
            }
        });
        Serving { stop, ended, patience: patience + LAST_WORDS }
    }

    fn router(&self, health: HealthServer<HealthService>, stop: &CancellationToken) -> Router {
        let (config, size) = (&self.config.grpc, self.config.grpc.max_message);
        let service = Service {
            admission: self.admission.clone(),
            max_unacknowledged: config.max_unacknowledged,
            stop: stop.clone(),
            metrics: Arc::clone(&self.metrics),
        };
        let rpc = RpcServer::new(service).max_decoding_message_size(size);
        let reflection = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(DESCRIPTORS)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        let v1 = reflection().build_v1().expect("invariant: the compiled-in descriptors are valid");
        let v1alpha = reflection().build_v1alpha().expect("invariant: the compiled-in descriptors are valid");
        Server::builder()
            .max_concurrent_streams(config.max_streams)
            .http2_keepalive_interval(Some(KEEP_ALIVE))
            .http2_keepalive_timeout(Some(KEEP_ALIVE))
            .add_service(Guard::new(rpc, Some(self.admission.clone()), &self.metrics))
            .add_service(Guard::new(health, None, &self.metrics))
            .add_service(Guard::new(v1, None, &self.metrics))
            .add_service(Guard::new(v1alpha, None, &self.metrics))
    }
}

impl Serving {
    /// Answers what came in and ends.
    pub async fn stop(self) {
        self.stop.cancel();
        let _ = tokio::time::timeout(self.patience, self.ended.cancelled()).await;
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
