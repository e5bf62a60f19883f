//! Who may join, and as what.

use std::{pin::Pin, sync::Arc};

use bytestring::ByteString;

use super::session::Session;
use crate::{
    auth::identity::{Identity, IdentityError, IdentityErrorKind, Presented, Verification, Verifier},
    config::AnonymousClients,
    push::{NameError, NameRule},
    wire::{
        close::{Close, Ending},
        dialect::{ClientError, JoinRequest},
    },
};

/// Decides about joins and new tokens, on the client's own thread.
pub(super) enum Authorizer {
    /// Everyone may join as whom he names, if the names are good. A token is passed over: there is nothing to verify it with.
    Anyone(NameRule),
    /// A client joins as what it proves to be.
    Verified(VerifiedJoins),
    /// Each join waits until a test decides.
    #[cfg(test)]
    Waiting(super::tests::Waits),
}

/// What is asked of a client where identities are verified.
pub(super) struct VerifiedJoins {
    pub(super) names: NameRule,
    pub(super) verifier: Verifier,
    /// The cookie that may carry a token.
    pub(super) cookie: Option<String>,
    /// Whether who presents no token may join as with [`Authorizer::Anyone`].
    pub(super) anonymous: AnonymousClients,
}

/// A decision, or its future.
pub(super) enum Authorization {
    Decided(JoinDecision),
    /// It has to wait: for a key to be fetched, for another service. It is dropped where its connection ends first, and has to
    /// be shorter than the connection's time-outs, which run on.
    Pending(Pin<Box<dyn Future<Output = JoinDecision>>>),
}

/// What a client may do of what it asked for, or why it may not.
pub(super) type JoinDecision = Result<Grant, JoinError>;

/// What a client may do.
#[derive(Debug, PartialEq)]
pub(super) enum Grant {
    /// Join.
    Join {
        /// As this: card and app are those that it was decided it may have.
        request: JoinRequest,
        /// `None`: nobody asked for one.
        identity: Option<Arc<Identity>>,
    },
    /// Go on, as this.
    Refresh(Arc<Identity>),
    /// Be this, in place of who it was.
    Login { card: ByteString, app: ByteString, identity: Arc<Identity> },
}

/// Why a client may not.
#[derive(Debug)]
pub(super) enum JoinError {
    /// The dialect tells it, or ends the connection.
    Told(ClientError),
    /// The connection ends in each dialect.
    Ends(Ending),
}

impl From<ClientError> for JoinError {
    fn from(error: ClientError) -> Self {
        Self::Told(error)
    }
}

impl Authorizer {
    /// May `request` join? Nothing of the client's is read until that is decided.
    pub(super) fn authorize(&self, request: JoinRequest, session: Option<&Session>) -> Authorization {
        match (self, session) {
            (Self::Verified(joins), Some(session)) => joins.authorize(request, session),
            (Self::Anyone(names) | Self::Verified(VerifiedJoins { names, .. }), _) => {
                Authorization::Decided(anyone(*names, request))
            }
            #[cfg(test)]
            (Self::Waiting(waits), _) => waits.authorize(request),
        }
    }

    /// Does what a client proved still hold? A token may have ended, or been revoked, while something was waited for.
    pub(super) fn check_again(&self, session: Option<&Session>) -> Result<(), JoinError> {
        match (self, session.and_then(Session::identity)) {
            (Self::Verified(joins), Some(identity)) => Ok(joins.verifier.check(&identity)?),
            _ => Ok(()),
        }
    }

    /// Whether clients of dialects without cards may have what is for everyone without a proof.
    pub(super) fn lets_in_without_card(&self) -> bool {
        match self {
            Self::Anyone(_) => true,
            Self::Verified(joins) => {
                matches!(joins.anonymous, AnonymousClients::Allowed | AnonymousClients::InRooms)
            }
            #[cfg(test)]
            Self::Waiting(_) => true,
        }
    }

    /// Whom does this token, or what the handshake brought, prove a client to be that does not say whom it wants to be?
    pub(super) fn log_in(&self, token: Option<ByteString>, session: Option<&Session>) -> Authorization {
        match (self, session) {
            (Self::Verified(joins), Some(session)) => joins.log_in(token, session),
            _ => {
                let error = ClientError::new("bad_token", "this gateway verifies no tokens");
                Authorization::Decided(Err(error.into()))
            }
        }
    }

    /// May a client that joined go on with a new token?
    pub(super) fn refresh(
        &self,
        token: ByteString,
        card: ByteString,
        app: ByteString,
        session: Option<&Session>,
    ) -> Authorization {
        match (self, session) {
            (Self::Verified(joins), Some(session)) => joins.refresh(token, card, app, session),
            _ => {
                let error = ClientError::new("unsupported", "this gateway verifies no tokens; do not send `refresh`");
                Authorization::Decided(Err(error.into()))
            }
        }
    }
}

impl VerifiedJoins {
    fn authorize(&self, mut request: JoinRequest, session: &Session) -> Authorization {
        let of_join = request.token.take().filter(|token| !token.is_empty());
        let of_handshake = session.token();
        if of_join.is_some() && of_handshake.is_some() && of_join != of_handshake {
            let error = refused("tokens_differ", "join and handshake bring different tokens; leave one out");
            return Authorization::Decided(Err(error.into()));
        }
        let names = self.names;
        let token = of_join.or(of_handshake);
        if token.is_none() {
            if let Some(identity) = session.identity() {
                let holds = self.verifier.check(&identity).map_err(JoinError::from);
                return Authorization::Decided(holds.and_then(|()| join_as(names, identity, request)));
            }
            if self.anonymous == AnonymousClients::Allowed {
                return Authorization::Decided(anyone(names, request));
            }
        }
        let (card, app) = (request.card.clone(), request.app.clone());
        self.verify(token, card, app, session, move |identity| join_as(names, identity, request))
    }

    fn log_in(&self, token: Option<ByteString>, session: &Session) -> Authorization {
        let names = self.names;
        let token = token.or_else(|| session.token());
        self.verify(token, ByteString::new(), ByteString::new(), session, move |identity| {
            match join_as(names, identity, JoinRequest::default())? {
                Grant::Join { request: JoinRequest { card, app, .. }, identity: Some(identity) } => {
                    Ok(Grant::Login { card, app, identity })
                }
                grant => Ok(grant),
            }
        })
    }

    fn refresh(&self, token: ByteString, card: ByteString, app: ByteString, session: &Session) -> Authorization {
        self.verify(Some(token), card.clone(), app.clone(), session, move |identity| {
            check_bounds(&identity, &card, &app)?;
            Ok(Grant::Refresh(identity))
        })
    }

    /// Verifies what a client presents; `decide` says what the identity may do.
    fn verify(
        &self,
        token: Option<ByteString>,
        card: ByteString,
        app: ByteString,
        session: &Session,
        decide: impl FnOnce(Arc<Identity>) -> JoinDecision + 'static,
    ) -> Authorization {
        let presented = Presented { token, card, app, address: session.address, headers: session.headers.clone() };
        match self.verifier.verify(presented) {
            Verification::Decided(verified) => {
                Authorization::Decided(verified.map_err(JoinError::from).and_then(decide))
            }
            Verification::Pending(verified) => Authorization::Pending(Box::pin(async move { decide(verified.await?) })),
        }
    }
}

/// Whom nobody asks who he is.
fn anyone(names: NameRule, request: JoinRequest) -> JoinDecision {
    check_names(names, &request)?;
    Ok(Grant::Join { request, identity: None })
}

/// As what `identity` joins that asks for a card and an app; empty ones are those that it names itself.
fn join_as(names: NameRule, identity: Arc<Identity>, request: JoinRequest) -> JoinDecision {
    let own = |asked: ByteString, own: &Option<ByteString>| {
        if asked.is_empty() { own.clone().unwrap_or_default() } else { asked }
    };
    let card = own(request.card, &identity.card);
    let app = own(request.app, &identity.app);
    let request = JoinRequest { card, app, ..request };
    check_names(names, &request)?;
    check_bounds(&identity, &request.card, &request.app)?;
    Ok(Grant::Join { request, identity: Some(identity) })
}

fn check_bounds(identity: &Identity, card: &str, app: &str) -> Result<(), ClientError> {
    if !identity.admits_card(card) {
        return Err(refused(
            "wrong_card",
            format!("this client may not join the card {card:?}; it is not in its token"),
        ));
    }
    match &identity.app {
        Some(own) if *own != *app => {
            Err(refused("wrong_app", format!("this client may not join as the app {app:?}, only as {own:?}")))
        }
        _ => Ok(()),
    }
}

fn check_names(names: NameRule, request: &JoinRequest) -> Result<(), ClientError> {
    names.check(&request.card).map_err(|error| bad_name("card_id", &error))?;
    names.check_optional(&request.app).map_err(|error| bad_name("app_id", &error))?;
    let device = request.device.as_ref().map_or(Ok(()), |device| names.check(device));
    device.map_err(|error| bad_name("device", &error))
}

pub(super) fn bad_name(field: &str, error: &NameError) -> ClientError {
    ClientError::new("bad_name", format!("{field} {error}"))
}

/// One after which a client should not come back as it is.
pub(super) fn refused(code: &'static str, message: impl Into<std::borrow::Cow<'static, str>>) -> ClientError {
    ClientError { close: Close::Refused, ..ClientError::new(code, message) }
}

impl From<IdentityError> for JoinError {
    fn from(error: IdentityError) -> Self {
        let IdentityError { kind, message, .. } = error;
        match kind {
            IdentityErrorKind::Away => Self::Ends(Ending { close: Close::Unverified, text: message }),
            IdentityErrorKind::Expired => {
                Self::Told(ClientError { close: Close::TokenExpired, ..ClientError::new(kind.word(), message) })
            }
            _ => Self::Told(refused(kind.word(), message)),
        }
    }
}
