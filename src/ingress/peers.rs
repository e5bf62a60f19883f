//! Where the other nodes of the cluster ask this one (proto/peers.proto), on `[peers] listen`.

mod service;
mod tls;

use std::{net::TcpListener, sync::Arc, time::Duration};

use tonic::service::Routes;

use super::grpc::{
    connection::Connections,
    incoming::{self, ConnectionBounds, GrpcConnection},
    interceptor::{self, Intercepted},
    request::RequestLimits,
    serve_all,
};
use crate::{
    auth::PeerKey,
    cluster::PeersConfigError,
    config::{Config, GrpcConfig},
    hub::Hub,
    lifecycle::{Deadline, Phases, Service, Tasks},
    proto::peers::peers_server::PeersServer,
    telemetry::Metrics,
};

use service::PeerService;
use tls::PeerAcceptor;

/// The longest question, beside its name: `[push] max_name` bounds that.
const MAX_QUESTION: usize = 1024;
/// What a stop grants answers that are under way.
const LAST_ANSWERS: Duration = Duration::from_millis(500);

/// A bound listener that does not serve yet.
pub(crate) struct PeerListener {
    listener: TcpListener,
    config: Config,
    acceptor: Option<PeerAcceptor>,
    service: PeerService,
    metrics: Arc<Metrics>,
}

/// The serving task.
pub(crate) struct PeerServer {
    service: Service,
}

impl PeerListener {
    /// On a listener that is bound and non-blocking: answers are of the clients of `hub`.
    ///
    /// # Errors
    /// The files of `[peers] tls_ca`, `tls_cert` and `tls_key` cannot be used.
    pub(crate) fn new(
        listener: TcpListener,
        config: &Config,
        hub: Hub,
        phases: Phases,
        metrics: &Arc<Metrics>,
    ) -> Result<Self, PeersConfigError> {
        let acceptor = config.peers.tls.as_ref().map(PeerAcceptor::new).transpose()?;
        let service = PeerService::new(config, hub, phases, metrics);
        Ok(Self { listener, config: config.clone(), acceptor, service, metrics: Arc::clone(metrics) })
    }

    /// Serves.
    pub(crate) fn serve(self, tasks: &Tasks) -> PeerServer {
        let Self { listener, config, acceptor, service: answers, metrics } = self;
        let service = tasks.service();
        let stopping = service.stopping().clone();
        let max_message = MAX_QUESTION + config.push.max_name;
        let limits = RequestLimits { message_bytes: max_message, timeout: config.grpc.message_timeout };
        let server = PeersServer::new(answers).max_decoding_message_size(max_message);
        let key = PeerKey::new(&config.peers);
        let mut routes = Routes::new(Intercepted::for_nodes(server, key, limits, &metrics));
        let router = routes.axum_router_mut();
        let of_others = Arc::clone(&metrics);
        *router = std::mem::take(router).fallback(move || std::future::ready(interceptor::no_such_call(&of_others)));
        // one question at a time may wait for each of the other side's, and more than that is nobody's
        let bounds = GrpcConfig {
            max_streams: u32::try_from(config.peers.max_questions).unwrap_or(u32::MAX),
            ..config.grpc.clone()
        };
        let connections = Connections::new(&bounds, routes.prepare(), &stopping, &metrics);
        let greeting = config.http.request_timeout;
        let bounds = ConnectionBounds::of(&config, "peers", config.peers.max_connections);
        let open = metrics.peer_connections.clone();
        let incoming = incoming::connections(vec![listener], bounds, open, Arc::clone(&metrics));
        let serve = move |connection: GrpcConnection| {
            let (connections, acceptor, metrics) = (connections.clone(), acceptor.clone(), Arc::clone(&metrics));
            let GrpcConnection { stream, guard, place } = connection;
            async move {
                let Some(acceptor) = acceptor else { return connections.serve(stream, guard, place).await };
                if let Some(stream) = acceptor.accept(stream, greeting, &metrics).await {
                    connections.serve(stream, guard, place).await;
                }
            }
        };
        service.spawn("peers", serve_all(incoming, serve, stopping, LAST_ANSWERS));
        PeerServer { service }
    }
}

impl PeerServer {
    /// Answers what came in and ends, at the deadline at the latest.
    pub(crate) async fn stop(self, deadline: Deadline) {
        self.service.stop_within(deadline).await;
    }
}
