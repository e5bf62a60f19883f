//! Why a call to etcd failed, and what to do about it.

use std::{error::Error, io};

use rustls::{CertificateError, InvalidMessage};
use tonic::{Code, Status, transport};

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub(in crate::cluster) enum CallError {
    #[error(transparent)]
    Status(#[from] Status),
    #[error(transparent)]
    Transport(#[from] transport::Error),
    #[error("etcd ended the stream")]
    Ended,
}

/// Why a call did not do what it should.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::cluster) enum EtcdError {
    /// etcd did not answer, or could not just now: trying again may help.
    Away(String),
    /// It will not do this for us: someone must change the configuration.
    Refused(String),
}

impl std::fmt::Display for EtcdError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (Self::Away(why) | Self::Refused(why)) = self;
        f.write_str(why)
    }
}

impl EtcdError {
    /// What a failed call means; `what` is what it was to do.
    pub(super) fn of(what: &str, error: &CallError) -> Self {
        let text = error.with_causes();
        match error.remedy() {
            Some(remedy) => Self::Refused(format!("{what}: {text}: {remedy}")),
            None => Self::Away(format!("{what}: {text}")),
        }
    }
}

impl CallError {
    /// What someone must change; `None` where trying again may help.
    fn remedy(&self) -> Option<&'static str> {
        if let Self::Status(status) = self
            && let Some(remedy) = refusal_remedy(status)
        {
            return Some(remedy);
        }
        tls_remedy(self.causes().find_map(tls_error)?)
    }

    /// Whether a new login helps: the token has ended, or users or roles have changed since.
    pub(super) fn asks_for_login(status: &Status) -> bool {
        matches!(
            (status.code(), status.message()),
            (Code::Unauthenticated, "etcdserver: invalid auth token")
                | (Code::InvalidArgument, "etcdserver: revision of auth store is old")
        )
    }

    /// What it came from, outermost first.
    fn causes(&self) -> impl Iterator<Item = &(dyn Error + 'static)> {
        let first = match self {
            Self::Status(status) => status.source(),
            Self::Transport(transport) => transport.source(),
            Self::Ended => None,
        };
        std::iter::successors(first, |cause: &&(dyn Error + 'static)| {
            let cause = *cause;
            cause.source()
        })
    }

    /// Its text with those of its causes, which tonic leaves out.
    pub(super) fn with_causes(&self) -> String {
        let own = match self {
            Self::Status(status) => status.message().to_owned(),
            // only says that it is one
            Self::Transport(_) => String::new(),
            Self::Ended => self.to_string(),
        };
        let mut texts = Vec::from([own]);
        for cause in self.causes() {
            let text = cause.to_string();
            if !texts.iter().any(|known| known.contains(&text)) {
                texts.push(text);
            }
        }
        texts.retain(|text| !text.is_empty());
        if texts.is_empty() { "transport error".to_owned() } else { texts.join(": ") }
    }
}

/// What etcd's own refusals ask for. Its clients tell them by code and text too: api/v3rpc/rpctypes/error.go of etcd.
fn refusal_remedy(status: &Status) -> Option<&'static str> {
    match (status.code(), status.message()) {
        (Code::InvalidArgument, "etcdserver: authentication failed, invalid user ID or password")
        | (Code::Unauthenticated, "etcdserver: invalid auth token") => Some("check [cluster] user and password"),
        (Code::InvalidArgument, "etcdserver: user name is empty") => {
            Some("etcd asks for a login: set [cluster] user and password")
        }
        (Code::FailedPrecondition, "etcdserver: authentication is not enabled") => {
            Some("etcd knows no logins: leave [cluster] user and password empty")
        }
        (Code::PermissionDenied, _) => Some(
            "grant the user readwrite on the keys that begin with [cluster] prefix (and with /gopusher/, if gopusher_key \
             is set)",
        ),
        _ => None,
    }
}

fn tls_remedy(error: &rustls::Error) -> Option<&'static str> {
    match error {
        rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
            Some("its certificate is not signed by [cluster] tls_ca")
        }
        rustls::Error::InvalidCertificate(_) => {
            Some("its certificate is not valid for this address: check [cluster] etcd and tls_ca")
        }
        rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            Some("it does not speak TLS: write http://, or give etcd a certificate")
        }
        rustls::Error::AlertReceived(_) => Some("it refuses our certificate: check [cluster] tls_cert and tls_key"),
        _ => None,
    }
}

fn tls_error<'a>(cause: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    // an I/O error that wraps another is not its source
    let inner = cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
    inner.and_then(|inner| inner.downcast_ref()).or_else(|| cause.downcast_ref())
}
