//! Proves who a client is from what it presented.

use std::{
    fmt,
    future::Future,
    net::IpAddr,
    pin::Pin,
    sync::Arc,
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use bytestring::ByteString;

use super::{
    Identity, IdentityConfigError, IdentityError,
    call_out::CallOut,
    decision::IdentityDecision,
    revocations::Revocations,
    token_verifier::{TokenVerifier, no_token},
};
use crate::{
    config::{TokenConfig, VerifyConfig},
    lifecycle::Tasks,
    telemetry::{Metrics, labels::IdentityOutcome},
};

/// What a client presented.
#[derive(Clone)]
pub struct Presented {
    /// Its token, wherever it stood.
    pub token: Option<ByteString>,
    /// The card that it wants to join; may be empty.
    pub card: ByteString,
    /// The app that it wants to join as; may be empty.
    pub app: ByteString,
    /// Where it comes from, proxies that are trusted left out.
    pub address: IpAddr,
    /// Of its handshake, those that [`Verifier::headers`] names: name in lower case, value.
    pub headers: Vec<(String, String)>,
}

/// Without what would be a client's credentials.
impl fmt::Debug for Presented {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { token, card, app, address, headers } = self;
        let token = token.as_ref().map(|_| "***");
        let headers: Vec<_> = headers.iter().map(|(name, _)| name).collect();
        write!(
            f,
            "Presented {{ token: {token:?}, card: {card:?}, app: {app:?}, address: {address}, headers: {headers:?} }}"
        )
    }
}

/// An identity, or why there is none.
pub type Verified = Result<Arc<Identity>, IdentityError>;

/// When it is known who a client is.
pub enum Verification {
    /// At once.
    Decided(Verified),
    /// Later, within the time that `[token]` and `[verify]` give. It may be awaited on any thread, and dropped.
    Pending(Pin<Box<dyn Future<Output = Verified> + Send>>),
}

/// Proves who clients are. A cheap clone; all clones use what [`Verifier::replace`] set last.
#[derive(Clone)]
pub struct Verifier(Arc<VerifierShared>);

struct VerifierShared {
    setup: ArcSwap<VerifierSetup>,
    revocations: Revocations,
    tasks: Tasks,
    metrics: Arc<Metrics>,
}

/// What the configuration says.
struct VerifierSetup {
    token: Option<TokenVerifier>,
    call_out: Option<CallOut>,
    headers: Arc<[String]>,
    max_revocations: usize,
    /// How long a token may live.
    life: Duration,
}

impl Verifier {
    /// As configured; `None`: neither `[token]` nor `[verify]` is. Its tasks are spawned on the runtime that it is called on.
    ///
    /// # Errors
    /// A key or a file of it cannot be used.
    pub fn new(
        token: &TokenConfig,
        verify: &VerifyConfig,
        tasks: &Tasks,
        metrics: &Arc<Metrics>,
    ) -> Result<Option<Self>, IdentityConfigError> {
        let Some(setup) = VerifierSetup::new(token, verify, None, tasks, metrics)? else { return Ok(None) };
        let setup = ArcSwap::from_pointee(setup);
        let revocations = Revocations::new(metrics);
        Ok(Some(Self(Arc::new(VerifierShared { setup, revocations, tasks: tasks.clone(), metrics: metrics.clone() }))))
    }

    /// Uses another configuration from now on, in all clones; revocations stay. Its tasks are spawned on the runtime that it is
    /// called on. An error changes nothing.
    ///
    /// # Errors
    /// As [`Verifier::new`]; [`IdentityConfigError::NothingLeft`]: nothing would be verified any more.
    pub fn replace(&self, token: &TokenConfig, verify: &VerifyConfig) -> Result<(), IdentityConfigError> {
        let shared = &self.0;
        let before = shared.setup.load_full();
        let setup = VerifierSetup::new(token, verify, Some(&before), &shared.tasks, &shared.metrics)?;
        shared.setup.store(Arc::new(setup.ok_or(IdentityConfigError::NothingLeft)?));
        Ok(())
    }

    /// Who the client is that presented this. Never waits itself.
    ///
    /// With `[token]` and `[verify]` the token must be good first, and then what the call-out says counts, until the earlier
    /// of both ends. The subject stays the token's, if it has one.
    pub fn verify(&self, presented: Presented) -> Verification {
        let shared = self.0.clone();
        let setup = shared.setup.load();
        let by_token = setup.token.as_ref().map(|token| token.verify(presented.token.clone()));
        let call_out = setup.call_out.clone();
        drop(setup);
        match (by_token, call_out) {
            (None, None) => shared.decide(IdentityDecision::refused(no_token())),
            (Some(by_token), None) => shared.decide(by_token),
            (None, Some(call_out)) => {
                let by_call_out = call_out.ask(&presented, &shared.revocations);
                shared.decide(by_call_out)
            }
            (Some(IdentityDecision::Decided(Err(error))), Some(_)) => shared.decide(IdentityDecision::refused(error)),
            (Some(by_token), Some(call_out)) => Verification::Pending(Box::pin(async move {
                let verified = shared.ask_beside(by_token, &call_out, &presented).await;
                shared.conclude(verified)
            })),
        }
    }

    /// Whether what a client proved before still holds: it may have ended, or been revoked.
    ///
    /// # Errors
    /// As of [`Verifier::verify`].
    pub fn check(&self, identity: &Identity) -> Result<(), IdentityError> {
        self.0.check(identity)
    }

    /// The headers of a handshake that have to be kept for [`Presented`], in lower case.
    pub fn headers(&self) -> Arc<[String]> {
        self.0.setup.load().headers.clone()
    }

    /// Refuses tokens of this subject (`sub`) that were issued in the second `at` (since 1970) or before it, for as long as any
    /// such token may live, within the bound of `[token] max_revocations`.
    pub fn revoke(&self, subject: ByteString, at: u64) {
        let setup = self.0.setup.load();
        self.0.revocations.add(subject, at, setup.max_revocations, setup.life);
    }
}

impl VerifierShared {
    fn decide(self: Arc<Self>, decision: IdentityDecision) -> Verification {
        match decision {
            IdentityDecision::Decided(verified) => Verification::Decided(self.conclude(verified)),
            IdentityDecision::Pending(verified) => {
                Verification::Pending(Box::pin(async move { self.conclude(verified.await) }))
            }
        }
    }

    /// Whom the call-out says that this is, if its token is good.
    async fn ask_beside(
        &self,
        by_token: IdentityDecision,
        call_out: &CallOut,
        presented: &Presented,
    ) -> Result<Identity, IdentityError> {
        let of_token = by_token.wait().await?;
        self.check(&of_token)?;
        let mut identity = call_out.ask(presented, &self.revocations).wait().await?;
        // it is this token that can be revoked, also while the call-out was asked
        if !of_token.subject.is_empty() {
            identity.subject = of_token.subject;
            identity.issued_at = of_token.issued_at;
        }
        identity.expires_at = match (of_token.expires_at, identity.expires_at) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
        Ok(identity)
    }

    /// Whether it holds now.
    fn check(&self, identity: &Identity) -> Result<(), IdentityError> {
        if self.revocations.has(identity) {
            return Err(IdentityError::new(IdentityOutcome::Revoked, "the token was revoked: log in again"));
        }
        if identity.remaining(SystemTime::now()) == Some(Duration::ZERO) {
            return Err(IdentityError::new(IdentityOutcome::Expired, "the token has expired: get a new one"));
        }
        Ok(())
    }

    /// Looks whether it still holds, and counts.
    fn conclude(&self, verified: Result<Identity, IdentityError>) -> Verified {
        let verified = verified.and_then(|identity| self.check(&identity).map(|()| identity));
        let outcome = verified.as_ref().map_or_else(|error| error.outcome, |_| IdentityOutcome::Verified);
        self.metrics.identities.get_or_create(&outcome).inc();
        verified.map(Arc::new)
    }
}

impl VerifierSetup {
    /// What was in use `before` lends its key set until the new one is fetched.
    fn new(
        token: &TokenConfig,
        verify: &VerifyConfig,
        before: Option<&Self>,
        tasks: &Tasks,
        metrics: &Arc<Metrics>,
    ) -> Result<Option<Self>, IdentityConfigError> {
        let before = before.and_then(|setup| setup.token.as_ref());
        let verifier = TokenVerifier::new(token, before, tasks, metrics)?;
        let call_out = CallOut::start(verify, tasks, metrics)?;
        if verifier.is_none() && call_out.is_none() {
            return Ok(None);
        }
        Ok(Some(Self {
            token: verifier,
            call_out,
            headers: verify.headers.iter().cloned().collect(),
            max_revocations: token.max_revocations,
            life: token.max_life + token.leeway * 2,
        }))
    }
}
