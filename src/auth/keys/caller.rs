//! A caller and what it may do.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;

use super::bounds::{OutOfBounds, TargetBounds};
use crate::{
    bucket::{Allowance, SharedBucket},
    config::{KeyConfig, Scope},
    push::Target,
    telemetry::{
        Counter, Metrics,
        labels::{CallerLabels, PushOutcome},
    },
};

/// Who pushes or asks. A cheap clone that knows nothing of the key itself, and whose rights follow a reload.
#[derive(Clone)]
pub(crate) struct Caller(Arc<CallerState>);

struct CallerState {
    name: String,
    rights: ArcSwap<Rights>,
    /// Its accepted pushes.
    accepted: Counter,
    bucket: SharedBucket,
    /// From when the bucket's time is told.
    since: Instant,
}

struct Rights {
    /// One bit for each [`Scope`].
    scopes: u8,
    /// `None`: it may push to all.
    bounds: Option<TargetBounds>,
    /// `None`: as many as it likes, and no clock is read.
    allowance: Option<Allowance>,
}

/// Why a caller may not push something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PushDenial {
    /// Its key is gone since it came.
    Withdrawn,
    /// It has not the scope `push`, or not any more.
    Scope,
    /// It may not push to that.
    Target(OutOfBounds),
    /// Its bucket is empty; after this time there is a token, if no other push takes it.
    Rate(Duration),
}

const fn bit(scope: Scope) -> u8 {
    1 << scope as u8
}

impl Caller {
    /// Without rights.
    pub(super) fn new(name: String, metrics: &Metrics) -> Self {
        let labels = CallerLabels { caller: name.clone(), outcome: PushOutcome::Accepted.word() };
        let accepted = metrics.callers.get_or_create_owned(&labels);
        let rights = ArcSwap::from_pointee(Rights { scopes: 0, bounds: None, allowance: None });
        Self(Arc::new(CallerState { name, rights, accepted, bucket: SharedBucket::default(), since: Instant::now() }))
    }

    /// The caller where no key is asked for.
    pub(super) fn open(metrics: &Metrics) -> Self {
        let caller = Self::new("open".into(), metrics);
        caller.grant_all();
        caller
    }

    /// Whom clients' own pushes act as.
    pub(super) fn clients(metrics: &Metrics) -> Self {
        // no section can be named so
        let caller = Self::new("(clients)".into(), metrics);
        caller.grant_all();
        caller
    }

    /// It may do everything.
    pub(super) fn grant_all(&self) {
        self.0.rights.store(Arc::new(Rights { scopes: u8::MAX, bounds: None, allowance: None }));
    }

    /// It may do what its section says; its bucket stays.
    pub(super) fn grant(&self, key: &KeyConfig) {
        let scopes = key.scopes.iter().fold(0, |scopes, scope| scopes | bit(*scope));
        let allowance = (key.rate > 0).then(|| Allowance::new(key.rate, key.burst));
        self.0.rights.store(Arc::new(Rights { scopes, bounds: TargetBounds::of(key), allowance }));
    }

    /// It may do nothing any more, in open streams neither.
    pub(super) fn withdraw(&self) {
        self.0.rights.store(Arc::new(Rights { scopes: 0, bounds: None, allowance: None }));
    }

    /// Whether both are the same, of one name and secret.
    pub(super) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// For log and metrics: its section's name, `key 1` and up for those of `[auth] keys`, or `open`.
    pub(crate) fn name(&self) -> &str {
        &self.0.name
    }

    /// Whether it has this scope.
    pub(crate) fn may(&self, scope: Scope) -> bool {
        self.0.rights.load().scopes & bit(scope) != 0
    }

    /// Whether its section has patterns: it may not push to all.
    pub(crate) fn is_bounded(&self) -> bool {
        self.0.rights.load().bounds.is_some()
    }

    /// Whether it may push to, or ask for, this target.
    ///
    /// # Errors
    /// What of it is out of its bounds.
    pub(crate) fn admits(&self, target: &Target) -> Result<(), OutOfBounds> {
        self.0.rights.load().bounds.as_ref().map_or(Ok(()), |bounds| bounds.admit(target))
    }

    /// Whether it may push to this target now; that costs a token of its bucket, a denial does not.
    ///
    /// # Errors
    /// Why not.
    pub(crate) fn may_push(&self, target: &Target) -> Result<(), PushDenial> {
        let rights = self.0.rights.load();
        if rights.scopes & bit(Scope::Push) == 0 {
            // a section without scopes is refused by config
            let has_none = rights.scopes == 0;
            return Err(if has_none { PushDenial::Withdrawn } else { PushDenial::Scope });
        }
        if let Some(bounds) = &rights.bounds {
            bounds.admit(target).map_err(PushDenial::Target)?;
        }
        match rights.allowance {
            Some(allowance) => self.0.bucket.take(1, self.0.since.elapsed(), allowance).map_err(PushDenial::Rate),
            None => Ok(()),
        }
    }

    /// Counts its accepted pushes.
    pub(crate) fn accepted(&self) -> &Counter {
        &self.0.accepted
    }
}

impl std::fmt::Debug for Caller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Caller").field(&self.0.name).finish()
    }
}
