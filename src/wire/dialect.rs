//! How one kind of client speaks: its commands parsed, the gateway's answers and pushes encoded.
//!
//! A dialect is one file with a `DialectCodec`, and a place in the two tables here: [`Dialect`] and [`ROUTES`].

mod gopusher;
mod oxipush_v1;

use std::{borrow::Cow, fmt, marker::PhantomData, time::Duration};

use bytes::Bytes;
use bytestring::ByteString;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor, value::MapAccessDeserializer};

use super::{
    close::{Close, Ending},
    frame::Frame,
};
use crate::push::Push;

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Join, or move.
    Join(JoinRequest),
    /// Go on as the same client, with this new token.
    Refresh(ByteString),
    /// Leave the card; the connection stays.
    Leave,
    /// The dialect's own ping.
    Ping,
    /// Nothing to do and nothing to answer (gopusher's `read`).
    Nothing,
    /// Answer with this error and go on (oxipush.v1) …
    ClientError(ClientError),
    /// … or end the connection (gopusher's unknown events and bad JSON; 3500).
    End(Ending),
}

/// As what a client asks to join; names are not checked yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinRequest {
    /// The card; empty: it names none.
    pub card: ByteString,
    /// The app; may be empty.
    pub app: ByteString,
    /// A proof of who the client is.
    pub token: Option<ByteString>,
}

/// What a client is told of its join.
pub struct Joined<'a> {
    /// The card.
    pub card: &'a str,
    /// The app; may be empty.
    pub app: &'a str,
    /// Its name over all nodes.
    pub client: &'a dyn fmt::Display,
    /// When it needs a new token; `None`: never.
    pub expires_in: Option<Duration>,
}

/// An error that a dialect tells its client: docs/errors.md is the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientError {
    /// A word for programs, one of [`ClientError::CODES`].
    pub code: &'static str,
    /// What was wrong and what to do.
    pub message: Cow<'static, str>,
    /// How the connection ends where the dialect has no errors.
    pub close: Close,
}

impl ClientError {
    /// Every `code` that a client may see.
    pub const CODES: [&str; 15] = [
        "bad_json",
        "unknown_event",
        "bad_name",
        "not_joined",
        "card_full",
        "unsupported",
        "no_token",
        "bad_token",
        "token_expired",
        "token_not_yet",
        "token_revoked",
        "refused",
        "tokens_differ",
        "wrong_card",
        "wrong_app",
    ];

    /// One that is the client's own mistake.
    pub fn new(code: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self { code, message: message.into(), close: Close::BadMessage }
    }
}

/// How a dialect is spoken. What it has no word for is left to the defaults.
trait DialectCodec {
    /// The label under which it is counted.
    fn label(&self) -> &'static str;

    /// What a text message asks for.
    fn parse(&self, text: &ByteString) -> Command;

    /// What a binary message asks for.
    fn parse_binary(&self, _bytes: &Bytes) -> Command {
        Command::End(Close::Unsupported.into())
    }

    /// The frame that delivers a push.
    fn push(&self, push: &Push) -> Frame;

    /// One frame that delivers several pushes.
    fn pushes<'a>(&self, _pushes: impl Iterator<Item = &'a Push>) -> Option<Frame> {
        None
    }

    /// Said before the client's first byte.
    fn greeting(&self) -> Option<Frame> {
        None
    }

    /// The answer to a join that holds.
    fn joined(&self, joined: &Joined<'_>) -> Frame;

    /// The answer to a new token that is good for `expires_in`.
    fn refreshed(&self, _expires_in: Option<Duration>) -> Option<Frame> {
        None
    }

    /// The answer to a leave that holds.
    fn left(&self) -> Option<Frame> {
        None
    }

    /// The answer to the dialect's own ping.
    fn pong(&self) -> Frame;

    /// The answer to an error, or the end of the connection.
    fn error(&self, error: &ClientError) -> Result<Frame, Ending>;

    /// Said before a drain's close: come back after `delay`.
    fn drain(&self, _delay: Duration) -> Option<Frame> {
        None
    }

    /// Bytes of a message at most, beside `[socket] max_message`.
    fn max_message(&self) -> usize {
        usize::MAX
    }

    /// Whether a client that joined no card within `[socket] join_timeout` is closed.
    fn needs_card(&self) -> bool {
        true
    }
}

/// The dialects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// gopusher's, byte for byte.
    Gopusher,
    /// `oxipush.v1`.
    OxipushV1,
    /// See tests.rs.
    #[cfg(test)]
    InTests,
}

/// Where a dialect is spoken.
#[derive(Debug)]
pub struct DialectRoute {
    /// The listener, by its section of the configuration.
    pub listener: &'static str,
    /// The path of the handshake.
    pub path: &'static str,
    /// The subprotocol by which it is chosen and answered; `None`: where no other row of the path is.
    pub subprotocol: Option<&'static str>,
    /// The dialect.
    pub dialect: Dialect,
}

/// The first row that a handshake fits chooses its dialect.
pub const ROUTES: &[DialectRoute] = &[
    DialectRoute { listener: "socket", path: "/ws", subprotocol: Some("oxipush.v1"), dialect: Dialect::OxipushV1 },
    DialectRoute { listener: "socket", path: "/ws", subprotocol: None, dialect: Dialect::Gopusher },
    #[cfg(test)]
    DialectRoute { listener: "socket", path: "/in-tests", subprotocol: None, dialect: Dialect::InTests },
];

/// Calls a method of a dialect's codec.
macro_rules! codec {
    ($dialect:ident . $method:ident ( $($argument:expr),* )) => {
        match $dialect {
            Self::Gopusher => gopusher::Gopusher.$method($($argument),*),
            Self::OxipushV1 => oxipush_v1::OxipushV1.$method($($argument),*),
            #[cfg(test)]
            Self::InTests => tests::InTests.$method($($argument),*),
        }
    };
}

impl Dialect {
    /// All, in the order of [`Dialect::index`].
    pub const ALL: &'static [Self] = &[
        Self::Gopusher,
        Self::OxipushV1,
        #[cfg(test)]
        Self::InTests,
    ];

    /// Its place in [`Dialect::ALL`].
    pub fn index(self) -> usize {
        self as usize
    }

    /// The label under which it is counted.
    pub fn label(self) -> &'static str {
        codec!(self.label())
    }

    /// What a client's text message asks for. Each call stands alone: nothing is kept between messages.
    pub fn parse(self, text: &ByteString) -> Command {
        codec!(self.parse(text))
    }

    /// What a client's binary message asks for.
    pub fn parse_binary(self, bytes: &Bytes) -> Command {
        codec!(self.parse_binary(bytes))
    }

    /// The frame that delivers a push.
    pub fn push(self, push: &Push) -> Frame {
        codec!(self.push(push))
    }

    /// One frame that delivers all of `pushes`, where the dialect has such frames.
    pub fn pushes<'a>(self, pushes: impl Iterator<Item = &'a Push>) -> Option<Frame> {
        codec!(self.pushes(pushes))
    }

    /// Said before the client's first byte, where the dialect greets.
    pub fn greeting(self) -> Option<Frame> {
        codec!(self.greeting())
    }

    /// The answer to a join that holds.
    pub fn joined(self, joined: &Joined<'_>) -> Frame {
        codec!(self.joined(joined))
    }

    /// The answer to a new token that is good for `expires_in`, where the dialect has one.
    pub fn refreshed(self, expires_in: Option<Duration>) -> Option<Frame> {
        codec!(self.refreshed(expires_in))
    }

    /// The answer to a leave that holds, where the dialect has one.
    pub fn left(self) -> Option<Frame> {
        codec!(self.left())
    }

    /// The answer to the dialect's own ping.
    pub fn pong(self) -> Frame {
        codec!(self.pong())
    }

    /// The answer to an error.
    ///
    /// # Errors
    /// The end of the connection, where the dialect has no errors (gopusher).
    pub fn error(self, error: &ClientError) -> Result<Frame, Ending> {
        codec!(self.error(error))
    }

    /// Said before a drain's close, where the dialect can: come back after `delay`.
    pub fn drain(self, delay: Duration) -> Option<Frame> {
        codec!(self.drain(delay))
    }

    /// Bytes of a client's message at most, where `[socket] max_message` is `configured`.
    pub fn max_message(self, configured: usize) -> usize {
        configured.min(codec!(self.max_message()))
    }

    /// Whether a client that joined no card within `[socket] join_timeout` is closed.
    pub fn needs_card(self) -> bool {
        codec!(self.needs_card())
    }
}

/// A struct that may come as a JSON object only; serde would also take an array of its fields.
struct JsonObject<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for JsonObject<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ObjectVisitor<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
            type Value = JsonObject<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<JsonObject<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(JsonObject)
            }
        }
        deserializer.deserialize_map(ObjectVisitor(PhantomData))
    }
}

#[cfg(test)]
mod tests;
