//! A verifier as a node has it.

use std::{sync::Arc, time::Duration};

use oxipush::internals::{
    auth::{Identity, IdentityError, IdentityErrorKind, Presented, Verification, Verified, Verifier},
    config::{self, Config},
    lifecycle::Tasks,
    telemetry::Metrics,
};
use serde_json::{Value, json};

pub const SECRET: &str = "0123456789abcdef0123456789abcdef";

pub struct Rig {
    pub verifier: Verifier,
    pub metrics: Arc<Metrics>,
    tasks: Tasks,
}

pub fn config(values: &[(&str, &str)]) -> Config {
    let values = values.iter().map(|(key, value)| (format!("OXIPUSH__{key}"), (*value).to_owned()));
    config::load(None, values).unwrap()
}

impl Rig {
    pub fn new(values: &[(&str, &str)]) -> Self {
        let (config, metrics, (tasks, _)) = (config(values), Arc::new(Metrics::new()), Tasks::new());
        let verifier = Verifier::new(&config.token, &config.verify, &tasks, &metrics).unwrap().unwrap();
        Self { verifier, metrics, tasks }
    }

    pub fn with_secret() -> Self {
        Self::new(&[("TOKEN__SECRET", SECRET)])
    }

    /// Whom a token names that is presented for any card.
    pub async fn verify(&self, token: &str) -> Verified {
        self.present(presented(token)).await
    }

    pub async fn present(&self, presented: Presented) -> Verified {
        match self.verifier.verify(presented) {
            Verification::Decided(verified) => verified,
            Verification::Pending(verified) => {
                tokio::time::timeout(Duration::from_secs(60), verified).await.expect("it is decided in time")
            }
        }
    }

    pub async fn refusal(&self, token: &str) -> IdentityError {
        self.verify(token).await.expect_err("the token is refused")
    }

    /// How often something ended so, in the metrics.
    pub fn counted(&self, outcome: &str) -> u64 {
        let line = format!("oxipush_identities_total{{outcome=\"{outcome}\"}} ");
        let text = self.metrics.text();
        text.lines().find_map(|told| told.strip_prefix(&line)?.parse().ok()).unwrap_or(0)
    }

    pub async fn stop(self) {
        assert!(self.tasks.stop(Duration::from_secs(30)).await, "a task of the verifier goes on");
    }
}

pub fn presented(token: &str) -> Presented {
    Presented {
        token: Some(token.into()),
        card: "alice".into(),
        app: "web".into(),
        address: [127, 0, 0, 1].into(),
        headers: Vec::new(),
    }
}

pub fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}

/// Claims that are good for an hour, and others beside or over them.
pub fn claims(more: Value) -> Value {
    let mut claims = json!({"sub": "alice", "iat": now(), "exp": now() + 3600});
    for (name, value) in more.as_object().unwrap() {
        claims[name] = value.clone();
    }
    claims
}

pub fn assert_alice(verified: Verified) {
    let identity: Arc<Identity> = verified.expect("the token is good");
    assert_eq!((&*identity.subject, identity.card.as_deref()), ("alice", Some("alice")));
}

pub fn assert_refused(error: &IdentityError, kind: IdentityErrorKind, told: &str) {
    assert_eq!(error.kind, kind, "{error}");
    assert!(error.message.contains(told), "{error} does not say {told}");
}
