//! Who may join, and as what.

use std::{borrow::Cow, pin::Pin};

use crate::{
    push::{NameError, NameRule},
    wire::dialect::{ClientError, JoinRequest},
};

/// Decides about joins, on the client's own thread.
pub(super) enum Authorizer {
    /// Everyone may join as whom he names, if the names are good.
    Anyone(NameRule),
    /// Each join waits until a test decides.
    #[cfg(test)]
    Waiting(super::tests::Waits),
}

/// A decision about a join, or its future.
pub(super) enum Authorization {
    Decided(JoinDecision),
    /// It has to wait: for a key to be fetched, for another service. It is dropped where its connection ends first, and has to
    /// be shorter than the connection's time-outs, which run on.
    #[cfg_attr(not(test), expect(dead_code, reason = "names are checked at once; tests wait"))]
    Pending(Pin<Box<dyn Future<Output = JoinDecision>>>),
}

/// As what a client joins, or why it does not.
pub(super) type JoinDecision = Result<JoinRequest, ClientError>;

impl Authorizer {
    /// May `request` join? Nothing of the client's is read until that is decided.
    pub(super) fn authorize(&self, request: JoinRequest) -> Authorization {
        match self {
            Self::Anyone(names) => Authorization::Decided(check_names(names, request)),
            #[cfg(test)]
            Self::Waiting(waits) => waits.authorize(request),
        }
    }
}

fn check_names(names: &NameRule, request: JoinRequest) -> JoinDecision {
    names.check(&request.card).map_err(|error| bad_name("card_id", &error))?;
    names.check_optional(&request.app).map_err(|error| bad_name("app_id", &error))?;
    Ok(request)
}

fn bad_name(field: &str, error: &NameError) -> ClientError {
    ClientError { code: "bad_name", message: Cow::Owned(format!("{field} {error}")) }
}
