//! What a reload replaces in the parts of a running gateway. Nobody is disconnected, and nothing is waited for.

use std::sync::Arc;

use tokio::sync::watch;

use super::{bounds, descriptors::DescriptorPlan};
use crate::{
    auth::{Keys, identity::Verifier},
    config::Config,
    ingress::{admission::Admission, http::HttpReload},
    socket::ClientReload,
    telemetry::{Metrics, labels::ReloadOutcome},
};

/// Replaces what [`LIVE_KEYS`](crate::config::LIVE_KEYS) may change; a cheap clone.
#[derive(Clone)]
pub struct GatewayReload {
    pub(super) descriptors: DescriptorPlan,
    /// `None`: the node holds no clients.
    pub(super) clients: Option<ClientReload>,
    pub(super) http: HttpReload,
    pub(super) keys: Keys,
    /// `None`: clients prove nothing, which only a restart changes.
    pub(super) verifier: Option<Verifier>,
    pub(super) admission: Admission,
    /// As it was loaded, for what is read when it is needed: the times of the drain.
    pub(super) config: watch::Sender<Config>,
    pub(super) metrics: Arc<Metrics>,
}

impl GatewayReload {
    /// Uses `config` from now on, and counts that. An error changes nothing, and is counted too.
    ///
    /// # Errors
    /// What was wrong and what to do: tokens could not be verified any more.
    pub fn apply(&self, config: &Config) -> Result<(), String> {
        if let Some(verifier) = &self.verifier
            && let Err(error) = verifier.replace(&config.token, &config.verify)
        {
            self.refuse();
            return Err(error.to_string());
        }
        // said once, at the start or when it changes
        let before = self.descriptors.shortage(&self.config.borrow());
        if let Some(shortage) = self.descriptors.shortage(config).filter(|now| before.as_ref() != Some(now)) {
            tracing::warn!("{shortage}");
        }
        let bounded = self.descriptors.bounded(config.clone());
        self.keys.replace(&bounded);
        self.admission.replace_limits(&bounded);
        self.http.replace(&bounded);
        if let Some(clients) = &self.clients {
            clients.replace(&bounded.socket);
        }
        bounds::show(&bounded, &self.metrics);
        self.config.send_replace(config.clone());
        self.count(ReloadOutcome::Applied);
        Ok(())
    }

    /// Counts a configuration with mistakes, which changes nothing.
    pub fn refuse(&self) {
        self.count(ReloadOutcome::Refused);
    }

    fn count(&self, outcome: ReloadOutcome) {
        self.metrics.reloads.get_or_create(&outcome).inc();
    }
}
