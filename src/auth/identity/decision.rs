//! Whom a client is found to be, at once or later.

use std::pin::Pin;

use super::{Identity, IdentityError};

/// As [`super::Verification`], before anybody looked whether it was revoked, and before it is counted.
pub(super) enum IdentityDecision {
    Decided(Result<Identity, IdentityError>),
    Pending(Pin<Box<dyn Future<Output = Result<Identity, IdentityError>> + Send>>),
}

impl IdentityDecision {
    pub(super) fn refused(error: IdentityError) -> Self {
        Self::Decided(Err(error))
    }

    pub(super) async fn wait(self) -> Result<Identity, IdentityError> {
        match self {
            Self::Decided(identity) => identity,
            Self::Pending(identity) => identity.await,
        }
    }
}
