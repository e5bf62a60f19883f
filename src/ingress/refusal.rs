//! Why a push, an order to end clients or a query is refused, and how each protocol says it: docs/errors.md is the table.

use std::{borrow::Cow, fmt, time::Duration};

use tonic::Code;

use crate::{queue::PublishError, store::StoreError};

/// Every kind of refusal; docs/errors.md says what causes each and what to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // `name` is the word that the table explains
pub enum RefusalKind {
    BadJson,
    NotUtf8,
    BadField,
    UnknownField,
    NotBuilt,
    NoStore,
    NoKey,
    WrongKey,
    NoScope,
    NotAdmitted,
    ForeignOrigin,
    ForeignHost,
    NoSuchRoute,
    NotFound,
    WrongMethod,
    Conflict,
    IdempotencyConflict,
    TooSlow,
    BodyTooLarge,
    PushTooLarge,
    WrongType,
    WrongRole,
    Full,
    Rate,
    Internal,
    Unavailable,
    TimedOut,
    Draining,
    DeadlinePassed,
}

impl RefusalKind {
    /// All of them, for the table's test.
    pub const ALL: [Self; 29] = [
        Self::BadJson,
        Self::NotUtf8,
        Self::BadField,
        Self::UnknownField,
        Self::NotBuilt,
        Self::NoStore,
        Self::NoKey,
        Self::WrongKey,
        Self::NoScope,
        Self::NotAdmitted,
        Self::ForeignOrigin,
        Self::ForeignHost,
        Self::NoSuchRoute,
        Self::NotFound,
        Self::WrongMethod,
        Self::Conflict,
        Self::IdempotencyConflict,
        Self::TooSlow,
        Self::BodyTooLarge,
        Self::PushTooLarge,
        Self::WrongType,
        Self::WrongRole,
        Self::Full,
        Self::Rate,
        Self::Internal,
        Self::Unavailable,
        Self::TimedOut,
        Self::Draining,
        Self::DeadlinePassed,
    ];

    /// Its word, which never changes: the row of the table, the `reason` in an answer, and the outcome under which a push is
    /// counted.
    pub fn name(self) -> &'static str {
        match self {
            Self::BadJson => "bad_json",
            Self::NotUtf8 => "not_utf8",
            Self::BadField => "bad_field",
            Self::UnknownField => "unknown_field",
            Self::NotBuilt => "not_built",
            Self::NoStore => "no_store",
            Self::NoKey => "no_key",
            Self::WrongKey => "wrong_key",
            Self::NoScope => "no_scope",
            Self::NotAdmitted => "not_admitted",
            Self::ForeignOrigin => "foreign_origin",
            Self::ForeignHost => "foreign_host",
            Self::NoSuchRoute => "no_such_route",
            Self::NotFound => "not_found",
            Self::WrongMethod => "wrong_method",
            Self::Conflict => "conflict",
            Self::IdempotencyConflict => "idempotency_conflict",
            Self::TooSlow => "too_slow",
            Self::BodyTooLarge => "body_too_large",
            Self::PushTooLarge => "push_too_large",
            Self::WrongType => "wrong_type",
            Self::WrongRole => "wrong_role",
            Self::Full => "full",
            Self::Rate => "rate",
            Self::Internal => "internal",
            Self::Unavailable => "unavailable",
            Self::TimedOut => "timed_out",
            Self::Draining => "draining",
            Self::DeadlinePassed => "deadline_passed",
        }
    }

    /// The HTTP status, which is also `code` in the body (and in each reply of a batch).
    pub fn http(self) -> u16 {
        match self {
            Self::BadJson | Self::NotUtf8 | Self::BadField | Self::UnknownField | Self::NotBuilt | Self::NoStore => 400,
            Self::NoKey | Self::WrongKey => 401,
            Self::NoScope | Self::NotAdmitted | Self::ForeignOrigin | Self::ForeignHost => 403,
            Self::NoSuchRoute | Self::NotFound => 404,
            Self::WrongMethod => 405,
            Self::TooSlow => 408,
            Self::Conflict | Self::IdempotencyConflict => 409,
            Self::BodyTooLarge | Self::PushTooLarge => 413,
            Self::WrongType => 415,
            Self::WrongRole => 421,
            Self::Full | Self::Rate => 429,
            Self::Internal => 500,
            Self::Unavailable | Self::TimedOut | Self::Draining => 503,
            Self::DeadlinePassed => 504,
        }
    }

    /// The gRPC status; `None` where gRPC itself answers, or cannot meet it.
    pub fn grpc(self) -> Option<Code> {
        Some(match self {
            Self::BadField | Self::PushTooLarge => Code::InvalidArgument,
            Self::NotBuilt => Code::Unimplemented,
            Self::NoKey | Self::WrongKey => Code::Unauthenticated,
            Self::NoScope | Self::NotAdmitted => Code::PermissionDenied,
            Self::NoSuchRoute | Self::WrongRole => Code::Unimplemented,
            Self::Conflict | Self::NoStore => Code::FailedPrecondition,
            Self::IdempotencyConflict => Code::AlreadyExists,
            Self::NotUtf8 | Self::Internal => Code::Internal,
            Self::Full | Self::Rate | Self::BodyTooLarge => Code::ResourceExhausted,
            Self::TooSlow | Self::DeadlinePassed => Code::DeadlineExceeded,
            Self::Unavailable | Self::TimedOut | Self::Draining => Code::Unavailable,
            Self::BadJson
            | Self::UnknownField
            | Self::ForeignOrigin
            | Self::ForeignHost
            | Self::NotFound
            | Self::WrongMethod
            | Self::WrongType => return None,
        })
    }

    /// Whether another try makes sense, a little later.
    pub fn is_transient(self) -> bool {
        matches!(self, Self::Full | Self::Rate | Self::Unavailable | Self::TimedOut | Self::Draining)
    }

    /// Whether the same push may be accepted later: a bug may be one of the moment, too.
    pub fn may_pass_later(self) -> bool {
        self.is_transient() || self == Self::Internal
    }
}

/// A refusal: its kind, and a text that names what was wrong and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The row of the table.
    pub kind: RefusalKind,
    /// For the caller; never a content.
    pub message: Cow<'static, str>,
    /// When another try makes sense, where that is known better than by its kind.
    pub wait: Option<Duration>,
}

impl Refusal {
    /// A refusal with its text.
    pub fn new(kind: RefusalKind, message: impl Into<Cow<'static, str>>) -> Self {
        Self { kind, message: message.into(), wait: None }
    }

    /// A field that is not as it must be.
    pub fn field(field: &str, problem: impl fmt::Display) -> Self {
        Self::new(RefusalKind::BadField, format!("`{field}` {problem}"))
    }

    /// The time after which another try makes sense (`Retry-After`, `google.rpc.RetryInfo`); `None`: it never does.
    pub fn retry_after(&self) -> Option<Duration> {
        self.kind.is_transient().then(|| self.wait.unwrap_or(Duration::from_secs(1)))
    }

    /// A gRPC call that no service has.
    pub fn no_such_call() -> Self {
        Self::new(RefusalKind::NoSuchRoute, "there is no such call; gRPC reflection lists what there is")
    }

    /// A panic was caught; the log says where.
    pub fn internal() -> Self {
        Self::new(RefusalKind::Internal, "a bug of the gateway; its log says where")
    }

    /// A drain takes no more pushes.
    pub fn draining() -> Self {
        Self::new(RefusalKind::Draining, "the node is draining; push to another one")
    }

    /// An option that the design has and this version has not.
    pub fn not_built(option: &str) -> Self {
        Self::new(RefusalKind::NotBuilt, format!("`{option}` is not supported yet; leave it out"))
    }
}

impl From<PublishError> for Refusal {
    fn from(error: PublishError) -> Self {
        let kind = match error {
            PublishError::Full(_) => RefusalKind::Full,
            PublishError::TooLarge { .. } => RefusalKind::PushTooLarge,
            PublishError::Unavailable(_) => RefusalKind::Unavailable,
            PublishError::TimedOut => RefusalKind::TimedOut,
        };
        let advice = match kind {
            RefusalKind::PushTooLarge => "; send a shorter content to fewer cards",
            // the backend says which bound it met, and to try again later
            RefusalKind::Full => "",
            _ => "; it may still arrive: try again later",
        };
        Self::new(kind, format!("{error}{advice}"))
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        let (kind, advice) = match error {
            // the store says which bound it met, and to try again later
            StoreError::Full(_) => (RefusalKind::Full, ""),
            StoreError::TooLarge { .. } => {
                (RefusalKind::PushTooLarge, "; send a shorter content to fewer cards, or without `offline`")
            }
            StoreError::Unavailable(_) => (
                RefusalKind::Unavailable,
                "; the push may have been stored all the same: try again later, with the same `idempotency_key`",
            ),
            StoreError::OtherBody => {
                (RefusalKind::IdempotencyConflict, "; give each push a key of its own, and a retry all that it said")
            }
        };
        Self::new(kind, format!("{error}{advice}"))
    }
}
