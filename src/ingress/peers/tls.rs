//! TLS of the nodes' listener: who connects shows a certificate of the cluster's authority.

use std::{sync::Arc, time::Duration};

use rustls::{
    RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use crate::{
    cluster::PeersConfigError,
    config::PeersTls,
    telemetry::{Metrics, labels::PeerAnswerOutcome},
};

/// Takes connections of nodes that show a certificate; a cheap clone.
#[derive(Clone)]
pub(super) struct PeerAcceptor(TlsAcceptor);

impl PeerAcceptor {
    pub(super) fn new(config: &PeersTls) -> Result<Self, PeersConfigError> {
        Ok(Self(TlsAcceptor::from(Arc::new(server_config(config).map_err(PeersConfigError::new)?))))
    }

    /// The connection once both sides have proved who they are; `None`: that failed, or took longer than `within`.
    pub(super) async fn accept(
        self,
        stream: TcpStream,
        within: Duration,
        metrics: &Metrics,
    ) -> Option<TlsStream<TcpStream>> {
        let error = match tokio::time::timeout(within, self.0.accept(stream)).await {
            Ok(Ok(stream)) => return Some(stream),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "it takes too long".to_owned(),
        };
        metrics.peer_answers.get_or_create(&PeerAnswerOutcome::Stranger).inc();
        tracing::debug!("a connection to [peers] listen proves no node: {error}");
        None
    }
}

fn server_config(config: &PeersTls) -> Result<ServerConfig, String> {
    let told = |error: &dyn std::error::Error| error.to_string();
    let provider = Arc::new(ring::default_provider());
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(config.ca.as_bytes()) {
        roots.add(certificate.map_err(|error| told(&error))?).map_err(|error| told(&error))?;
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build();
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(config.cert.as_bytes()).collect();
    let key = PrivateKeyDer::from_pem_slice(config.key.expose().as_bytes()).map_err(|error| told(&error))?;
    let mut server = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| told(&error))?
        .with_client_cert_verifier(verifier.map_err(|error| told(&error))?)
        .with_single_cert(chain.map_err(|error| told(&error))?, key)
        .map_err(|error| told(&error))?;
    server.alpn_protocols = vec![b"h2".to_vec()];
    Ok(server)
}
