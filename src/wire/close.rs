//! Why a connection ends: the close codes that clients see, and (actix-ws's types) those that they send.

use std::borrow::Cow;

pub use actix_ws::{CloseCode, CloseReason};

/// Every reason for which the gateway closes a connection; docs/close-codes.md is the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // `text` says what each is
pub enum Close {
    Normal,
    ProtocolError,
    Unsupported,
    InvalidUtf8,
    InternalError,
    Drain,
    SlowConsumer,
    Idle,
    Overloaded,
    TokenExpired,
    MessageTimeout,
    Unverified,
    Reconnect,
    BadMessage,
    NotJoined,
    Refused,
    TooLarge,
    Disconnected,
}

impl Close {
    /// All of them, for the table's test.
    pub const ALL: [Self; 18] = [
        Self::Normal,
        Self::ProtocolError,
        Self::Unsupported,
        Self::InvalidUtf8,
        Self::InternalError,
        Self::Drain,
        Self::SlowConsumer,
        Self::Idle,
        Self::Overloaded,
        Self::TokenExpired,
        Self::MessageTimeout,
        Self::Unverified,
        Self::Reconnect,
        Self::BadMessage,
        Self::NotJoined,
        Self::Refused,
        Self::TooLarge,
        Self::Disconnected,
    ];

    /// The number on the wire: 3000–3499 say come back, 3500–3999 say do not.
    pub fn code(self) -> u16 {
        match self {
            Self::Normal => 1000,
            Self::ProtocolError => 1002,
            Self::Unsupported => 1003,
            Self::InvalidUtf8 => 1007,
            Self::InternalError => 1011,
            Self::Drain => 3000,
            Self::SlowConsumer => 3001,
            Self::Idle => 3002,
            Self::Overloaded => 3003,
            Self::TokenExpired => 3004,
            Self::MessageTimeout => 3005,
            Self::Unverified => 3006,
            Self::Reconnect => 3007,
            Self::BadMessage => 3500,
            Self::NotJoined => 3501,
            Self::Refused => 3502,
            Self::TooLarge => 3503,
            Self::Disconnected => 3504,
        }
    }

    /// The one with this code.
    pub fn with_code(code: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|close| close.code() == code)
    }

    /// Whether it says that the client should connect again.
    pub fn is_come_back(self) -> bool {
        (3000..3500).contains(&self.code())
    }

    /// The reason that stands beside the code unless a better one is known; at most 123 bytes.
    pub fn text(self) -> &'static str {
        match self {
            Self::Normal => "bye",
            Self::ProtocolError => "protocol error",
            Self::Unsupported => "binary messages are not supported",
            Self::InvalidUtf8 => "text is not UTF-8",
            Self::InternalError => "internal error",
            Self::Drain => "node drains; reconnect",
            Self::SlowConsumer => "too slow; reconnect",
            Self::Idle => "idle; reconnect",
            Self::Overloaded => "node overloaded; reconnect",
            Self::TokenExpired => "token expired; reconnect with a new one",
            Self::MessageTimeout => "message not complete in time; reconnect",
            Self::Unverified => "cannot be verified at the moment; reconnect",
            Self::Reconnect => "disconnected; reconnect",
            Self::BadMessage => "bad message",
            Self::NotJoined => "not joined in time",
            Self::Refused => "refused",
            Self::TooLarge => "message too large",
            Self::Disconnected => "disconnected by an operator",
        }
    }

    /// The label under which it is counted.
    pub fn label(self) -> &'static str {
        match self {
            Self::Normal => "1000",
            Self::ProtocolError => "1002",
            Self::Unsupported => "1003",
            Self::InvalidUtf8 => "1007",
            Self::InternalError => "1011",
            Self::Drain => "3000",
            Self::SlowConsumer => "3001",
            Self::Idle => "3002",
            Self::Overloaded => "3003",
            Self::TokenExpired => "3004",
            Self::MessageTimeout => "3005",
            Self::Unverified => "3006",
            Self::Reconnect => "3007",
            Self::BadMessage => "3500",
            Self::NotJoined => "3501",
            Self::Refused => "3502",
            Self::TooLarge => "3503",
            Self::Disconnected => "3504",
        }
    }
}

/// A close with the text that is sent beside its code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ending {
    /// Why.
    pub close: Close,
    /// What the client reads; cut to 123 bytes when encoded.
    pub text: Cow<'static, str>,
}

impl From<Close> for Ending {
    fn from(close: Close) -> Self {
        Self { close, text: Cow::Borrowed(close.text()) }
    }
}
