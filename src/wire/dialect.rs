//! How one kind of client speaks: its commands parsed, the gateway's answers and pushes encoded.

mod gopusher;
mod oxipush_v1;

use std::{borrow::Cow, fmt, marker::PhantomData, time::Duration};

use bytestring::ByteString;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor, value::MapAccessDeserializer};

use super::{close::Ending, frame::Frame};
use crate::push::Push;

/// The dialects; the handshake chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// No subprotocol on `/ws`: gopusher's, byte for byte.
    Gopusher,
    /// Subprotocol `oxipush.v1`.
    OxipushV1,
}

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Join (or move) as a card with an app; names are not checked yet.
    Join {
        /// The card.
        card: ByteString,
        /// The app; may be empty.
        app: ByteString,
    },
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

/// An error that a dialect tells its client: docs/errors.md is the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientError {
    /// A word for programs, one of [`ClientError::CODES`].
    pub code: &'static str,
    /// What was wrong and what to do.
    pub message: Cow<'static, str>,
}

impl ClientError {
    /// Every `code` that a client may see.
    pub const CODES: [&str; 5] = ["bad_json", "unknown_event", "bad_name", "not_joined", "unsupported"];
}

impl Dialect {
    /// All, in the order of [`Dialect::index`].
    pub const ALL: [Self; 2] = [Self::Gopusher, Self::OxipushV1];

    /// Its place in [`Dialect::ALL`].
    pub fn index(self) -> usize {
        self as usize
    }

    /// The label under which it is counted.
    pub fn label(self) -> &'static str {
        match self {
            Self::Gopusher => "gopusher",
            Self::OxipushV1 => "oxipush.v1",
        }
    }

    /// What a client's text message asks for. Each call stands alone: nothing is kept between messages.
    pub fn parse(self, text: &ByteString) -> Command {
        match self {
            Self::Gopusher => gopusher::parse(text),
            Self::OxipushV1 => oxipush_v1::parse(text),
        }
    }

    /// The frame that delivers a push.
    pub fn push(self, push: &Push) -> Frame {
        match self {
            Self::Gopusher => gopusher::push(push),
            Self::OxipushV1 => oxipush_v1::push(push),
        }
    }

    /// The answer to a join that holds.
    pub fn joined(self, card: &ByteString, app: &ByteString) -> Frame {
        match self {
            Self::Gopusher => gopusher::ok(),
            Self::OxipushV1 => oxipush_v1::joined(card, app),
        }
    }

    /// The answer to a leave that holds, where the dialect has one.
    pub fn left(self) -> Option<Frame> {
        match self {
            Self::Gopusher => None,
            Self::OxipushV1 => Some(oxipush_v1::left()),
        }
    }

    /// The answer to the dialect's own ping.
    pub fn pong(self) -> Frame {
        match self {
            Self::Gopusher => gopusher::ok(),
            Self::OxipushV1 => oxipush_v1::pong(),
        }
    }

    /// The answer to an error, or the end where the dialect has no errors (gopusher).
    pub fn error(self, error: &ClientError) -> Result<Frame, Ending> {
        match self {
            Self::Gopusher => Err(gopusher::ending(error)),
            Self::OxipushV1 => Ok(oxipush_v1::error(error)),
        }
    }

    /// Said before a drain's close, where the dialect can: come back after `delay`.
    pub fn drain(self, delay: Duration) -> Option<Frame> {
        match self {
            Self::Gopusher => None,
            Self::OxipushV1 => Some(oxipush_v1::drain(delay)),
        }
    }
}

/// A struct that may come as a JSON object only; serde would also take an array of its fields.
struct Object<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Fields<T> {
            type Value = Object<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }
        }
        deserializer.deserialize_map(Fields(PhantomData))
    }
}
