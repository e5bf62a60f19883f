//! What a reload replaces in the parts of a running gateway. Nobody is disconnected, and nothing is waited for.

use std::sync::Arc;

use tokio::sync::watch;

use super::descriptors::DescriptorPlan;
use crate::{
    config::Config,
    ingress::{admission::Admission, http::HttpReload},
    socket::ClientReload,
    telemetry::{Metrics, labels::ReloadOutcome},
};

/// Replaces what [`LIVE_KEYS`](crate::config::LIVE_KEYS) may change; a cheap clone.
#[derive(Clone)]
pub struct GatewayReload {
    pub(super) descriptors: DescriptorPlan,
    pub(super) clients: ClientReload,
    pub(super) http: HttpReload,
    pub(super) admission: Admission,
    /// For what is read when it is needed: the times of the drain.
    pub(super) config: watch::Sender<Config>,
    pub(super) metrics: Arc<Metrics>,
}

impl GatewayReload {
    /// Uses `config` from now on, and counts that.
    pub fn apply(&self, config: &Config) {
        if let Some(shortage) = self.descriptors.shortage(config) {
            tracing::warn!("{shortage}");
        }
        let config = self.descriptors.bounded(config.clone());
        self.admission.replace_limits(&config);
        self.http.replace(&config);
        self.clients.replace(&config.socket);
        self.config.send_replace(config);
        self.count(ReloadOutcome::Applied);
    }

    /// Counts a configuration with mistakes, which changes nothing.
    pub fn refuse(&self) {
        self.count(ReloadOutcome::Refused);
    }

    fn count(&self, outcome: ReloadOutcome) {
        self.metrics.reloads.get_or_create(&outcome).inc();
    }
}
