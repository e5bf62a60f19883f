//! Who may join, and as what.

use std::{borrow::Cow, pin::Pin};

use crate::{
    push::{NameError, NameRule},
    wire::dialect::{ClientError, JoinRequest},
};

/// Decides about joins, on the client's own thread.
pub(super) trait Authorizer {
    /// May `request` join? Nothing of the client's is read until that is decided.
    fn authorize(&self, request: JoinRequest) -> Authorization;
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

/// Everyone may join as whom he names, if the names are good.
impl Authorizer for NameRule {
    fn authorize(&self, request: JoinRequest) -> Authorization {
        let checked = self.check(&request.card).map_err(|error| bad_name("card_id", &error));
        let checked =
            checked.and_then(|()| self.check_optional(&request.app).map_err(|error| bad_name("app_id", &error)));
        Authorization::Decided(checked.map(|()| request))
    }
}

fn bad_name(field: &str, error: &NameError) -> ClientError {
    ClientError { code: "bad_name", message: Cow::Owned(format!("{field} {error}")) }
}
