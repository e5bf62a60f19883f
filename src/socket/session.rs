//! Who a client is, where clients have to prove it.

use std::{
    cell::{Cell, RefCell},
    net::IpAddr,
    sync::Arc,
};

use bytestring::ByteString;

use crate::auth::identity::Identity;

/// What one connection brought to prove who its client is, and what it proved.
pub(super) struct Session {
    /// As proxies that are trusted tell it.
    pub(super) address: IpAddr,
    /// Those of the handshake that a call-out is shown; names in lower case.
    pub(super) headers: Vec<(String, String)>,
    /// The handshake's, until it has been of use.
    token: RefCell<Option<ByteString>>,
    identity: RefCell<Option<Arc<Identity>>>,
    /// The heartbeat's tick at which the identity ends; 0: it does not.
    pub(super) ends_at: Cell<u32>,
}

impl Session {
    pub(super) fn new(address: IpAddr, headers: Vec<(String, String)>, token: Option<ByteString>) -> Self {
        Self { address, headers, token: RefCell::new(token), identity: RefCell::default(), ends_at: Cell::new(0) }
    }

    /// The token of the handshake, while nothing is proved.
    pub(super) fn token(&self) -> Option<ByteString> {
        self.token.borrow().clone()
    }

    /// Who the client is; `None`: it proved nothing yet.
    pub(super) fn identity(&self) -> Option<Arc<Identity>> {
        self.identity.borrow().clone()
    }

    /// The client proved who it is.
    pub(super) fn prove(&self, identity: Arc<Identity>) {
        self.token.take();
        self.identity.replace(Some(identity));
    }

    /// It is nobody again.
    pub(super) fn forget(&self) {
        self.identity.take();
        self.ends_at.set(0);
    }

    /// Whether it proved to be this subject.
    pub(super) fn is_subject(&self, subject: &str) -> bool {
        self.identity.borrow().as_ref().is_some_and(|identity| identity.subject == *subject)
    }

    /// Whether it did so by what was issued in the second `at` (since 1970) or before it.
    pub(super) fn is_subject_of_before(&self, subject: &str, at: u64) -> bool {
        let identity = self.identity.borrow();
        let issued_at = identity.as_ref().filter(|identity| identity.subject == *subject).map(|one| one.issued_at);
        issued_at.is_some_and(|issued| issued.is_none_or(|issued| issued <= at))
    }
}
