//! How one kind of client speaks: its commands parsed, the gateway's answers and pushes encoded.
//!
//! A dialect is one file with a `DialectCodec`, and a place in the two tables here: [`Dialect`] and [`ROUTES`].

mod go_json;
mod go_push;
mod gopusher;
mod gpush;
mod oxipush_v1;

use std::{borrow::Cow, fmt, marker::PhantomData, time::Duration};

use bytes::Bytes;
use bytestring::ByteString;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor, value::MapAccessDeserializer};

use super::{
    close::{Close, Ending},
    frame::Frame,
};
use crate::push::{Address, Content, Epoch, Push, PushId, Resume, StreamPosition};

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Join a card, beside those that it joined.
    Join(JoinRequest),
    /// Go on as the same client, with this new token.
    Refresh(ByteString),
    /// Leave this card, or all (`None`); the connection stays.
    Leave(Option<ByteString>),
    /// Subscribe to a room.
    Subscribe(RoomRequest),
    /// Unsubscribe from a room.
    Unsubscribe(RoomRequest),
    /// Prove by this token who it is, and join as that in place of who it was (gpush).
    Login(ByteString),
    /// Be nobody again: leave its card and its private rooms (gpush).
    Logout,
    /// Push to other clients.
    Push(ClientPushRequest),
    /// Tell the back end something.
    Message(ClientMessage),
    /// It has all of a card's stream up to `seq`.
    Ack {
        /// The card.
        card: ByteString,
        /// Where it stands.
        seq: u64,
        /// Of which numbering that is, if it says so.
        epoch: Option<Epoch>,
    },
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
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JoinRequest {
    /// The card; empty: it names none.
    pub card: ByteString,
    /// The app; may be empty.
    pub app: ByteString,
    /// A proof of who the client is.
    pub token: Option<ByteString>,
    /// It takes frames of several pushes, and waits for them (`[rooms] merge_window`).
    pub merge: bool,
    /// By which it is known again, and acknowledges what the card's stream brings.
    pub device: Option<ByteString>,
    /// From where it goes on in the card's stream.
    pub resume: Option<Resume>,
}

/// A room that a client subscribes to or unsubscribes from; its name is not checked yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoomRequest {
    /// Its name, as the client says it.
    pub room: ByteString,
    /// gpush's private topics, which need a login: the room `private-` and the name.
    pub private: bool,
    /// From where it goes on in the room's stream.
    pub resume: Option<Resume>,
}

/// A push that a client makes itself; nothing of it is checked yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientPushRequest {
    /// Cards.
    pub to: Vec<ByteString>,
    /// A room.
    pub room: Option<ByteString>,
    /// What is delivered.
    pub content: Content,
    /// The client itself gets it too, if it is among those that it is for.
    pub echo: bool,
    /// By which the client knows the answer.
    pub reference: Option<ByteString>,
}

/// What a client tells the back end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientMessage {
    /// A JSON value, as it was sent.
    pub data: ByteString,
    /// By which the client knows the answer.
    pub reference: Option<ByteString>,
}

/// The most bytes of a `ref`: a JSON string or number, as it was sent.
pub const MAX_REFERENCE: usize = 64;

/// What a client is told of a room that it subscribed to.
pub struct Subscribed<'a> {
    /// The room.
    pub room: &'a str,
    /// Who is there, in a room with presence.
    pub presence: Option<&'a PresentCards>,
    /// Where the client stands in the room's stream; `None`: the room has none.
    pub stream: Option<StreamPosition>,
}

/// The cards that have clients in a room: of one node, or of all that it has asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PresentCards {
    /// The id of the node that tells.
    pub node: ByteString,
    /// How many cards.
    pub count: usize,
    /// Some of them, all where they are few: [`PresentCards::MOST_CARDS`] at most.
    pub cards: Vec<ByteString>,
    /// The ids of the nodes that were asked and did not answer in time.
    pub missing: Vec<ByteString>,
}

impl PresentCards {
    /// Cards that a client is told of as it subscribes.
    pub const MOST_CARDS: usize = 100;
}

/// A card's first client came into a room, or its last one left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PresenceChange {
    /// The room.
    pub room: ByteString,
    /// The card.
    pub card: ByteString,
    /// It came; else it left.
    pub came: bool,
    /// The id of the node whose clients these are.
    pub node: ByteString,
}

impl PresenceChange {
    /// As clients and the back end read it.
    pub fn action(&self) -> &'static str {
        if self.came { "join" } else { "leave" }
    }
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

/// Where a push stands in a stream, for those who are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamMark<'a> {
    /// Whose stream.
    pub address: &'a Address,
    /// Its number.
    pub seq: u64,
    /// The number of the push before it that was for the same client.
    pub prev: u64,
}

/// What a client is told of its place in a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamState<'a> {
    /// Whose stream.
    pub address: &'a Address,
    /// Which numbering.
    pub epoch: Epoch,
    /// It has all up to this.
    pub seq: u64,
    /// So many wait behind that.
    pub waiting: u64,
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
    /// By which the client knows which of its pushes or messages it is about.
    pub reference: Option<ByteString>,
}

impl ClientError {
    /// Every `code` that a client may see.
    pub const CODES: [&str; 24] = [
        "bad_json",
        "unknown_event",
        "bad_name",
        "bad_content",
        "not_joined",
        "not_subscribed",
        "bad_ack",
        "card_full",
        "too_many_cards",
        "too_many_rooms",
        "too_many_devices",
        "wrong_room",
        "not_pushed",
        "busy",
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
        Self { code, message: message.into(), close: Close::BadMessage, reference: None }
    }

    /// The client may send the same again later.
    pub fn busy(why: impl fmt::Display) -> Self {
        ClientError::new("busy", format!("busy: {why}; try again"))
    }

    /// About the push or message that the client marked so.
    #[must_use]
    pub fn about(self, reference: Option<ByteString>) -> Self {
        Self { reference, ..self }
    }
}

/// A message that cannot be read.
impl From<serde_json::Error> for ClientError {
    fn from(error: serde_json::Error) -> Self {
        ClientError::new("bad_json", format!("bad JSON: {error}"))
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

    /// One frame that delivers several pushes, for clients that merge.
    fn pushes<'a>(&self, _pushes: impl Iterator<Item = &'a Push> + Clone) -> Option<Frame> {
        None
    }

    /// The frame that delivers a push of a stream.
    fn stored(&self, push: &Push, _mark: &StreamMark<'_>) -> Frame {
        self.push(push)
    }

    /// Said of a stream once the client is in it.
    fn stream(&self, _state: &StreamState<'_>) -> Option<Frame> {
        None
    }

    /// Said where the numbers of a stream began anew.
    fn reset(&self, _state: &StreamState<'_>) -> Option<Frame> {
        None
    }

    /// Said before the client's first byte.
    fn greeting(&self) -> Option<Frame> {
        None
    }

    /// The answer to a join that holds.
    fn joined(&self, _joined: &Joined<'_>) -> Option<Frame> {
        None
    }

    /// The answer to a new token that is good for `expires_in`.
    fn refreshed(&self, _expires_in: Option<Duration>) -> Option<Frame> {
        None
    }

    /// The answer to a leave that holds: of this card, or of all.
    fn left(&self, _card: Option<&str>) -> Option<Frame> {
        None
    }

    /// The answer to a subscription that holds.
    fn subscribed(&self, _subscribed: &Subscribed<'_>) -> Option<Frame> {
        None
    }

    /// The answer once a client is out of a room.
    fn unsubscribed(&self, _room: &str) -> Option<Frame> {
        None
    }

    /// The answer to a login that holds.
    fn logged_in(&self) -> Option<Frame> {
        None
    }

    /// The answer to a logout that holds.
    fn logged_out(&self) -> Option<Frame> {
        None
    }

    /// The answer once the queue has the client's own push.
    fn pushed(&self, _id: PushId, _reference: Option<&str>) -> Option<Frame> {
        None
    }

    /// The answer once the client's message is held for the back end.
    fn received(&self, _id: PushId, _reference: Option<&str>) -> Option<Frame> {
        None
    }

    /// Said to the clients of a room with presence.
    fn presence(&self, _change: &PresenceChange) -> Option<Frame> {
        None
    }

    /// Whether its clients take frames of several pushes, and wait for them (`[rooms] merge_window`).
    fn merges(&self) -> bool {
        false
    }

    /// The answer to the dialect's own ping.
    fn pong(&self) -> Frame;

    /// The answer to an error, silence, or the end of the connection.
    fn error(&self, error: &ClientError) -> Result<Option<Frame>, Ending>;

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

    /// Whether a token of the handshake is a login, since its clients have no word for one.
    fn logs_in_by_handshake(&self) -> bool {
        false
    }
}

/// The dialects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// gopusher's, byte for byte.
    Gopusher,
    /// `oxipush.v1`.
    OxipushV1,
    /// go-push's.
    GoPush,
    /// gpush's.
    Gpush,
    /// See tests.rs.
    #[cfg(test)]
    InTests,
}

/// Where a dialect is spoken.
#[derive(Debug)]
pub struct DialectRoute {
    /// The listener: `socket` is `[socket] listen`, others have a key of their own there (`go_push_listen`).
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
    DialectRoute { listener: "socket", path: "/connect", subprotocol: None, dialect: Dialect::GoPush },
    DialectRoute { listener: "socket", path: "/gpush/ws", subprotocol: None, dialect: Dialect::Gpush },
    DialectRoute { listener: "go_push", path: "/connect", subprotocol: None, dialect: Dialect::GoPush },
    DialectRoute { listener: "gpush", path: "/ws", subprotocol: None, dialect: Dialect::Gpush },
    #[cfg(test)]
    DialectRoute { listener: "socket", path: "/in-tests", subprotocol: None, dialect: Dialect::InTests },
];

/// Calls a method of a dialect's codec.
macro_rules! codec {
    ($dialect:ident . $method:ident ( $($argument:expr),* )) => {
        match $dialect {
            Self::Gopusher => gopusher::Gopusher.$method($($argument),*),
            Self::OxipushV1 => oxipush_v1::OxipushV1.$method($($argument),*),
            Self::GoPush => go_push::GoPush.$method($($argument),*),
            Self::Gpush => gpush::Gpush.$method($($argument),*),
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
        Self::GoPush,
        Self::Gpush,
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

    /// One frame that delivers all of `pushes` to clients that merge, where the dialect has such frames.
    pub fn pushes<'a>(self, pushes: impl Iterator<Item = &'a Push> + Clone) -> Option<Frame> {
        codec!(self.pushes(pushes))
    }

    /// The frame that delivers a push of a stream.
    pub fn stored(self, push: &Push, mark: &StreamMark<'_>) -> Frame {
        codec!(self.stored(push, mark))
    }

    /// Said of a stream once the client is in it, where the dialect has a word for it.
    pub fn stream(self, state: &StreamState<'_>) -> Option<Frame> {
        codec!(self.stream(state))
    }

    /// Said where the numbers of a stream began anew, where the dialect has a word for it.
    pub fn reset(self, state: &StreamState<'_>) -> Option<Frame> {
        codec!(self.reset(state))
    }

    /// Said before the client's first byte, where the dialect greets.
    pub fn greeting(self) -> Option<Frame> {
        codec!(self.greeting())
    }

    /// The answer to a join that holds, where the dialect has one.
    pub fn joined(self, joined: &Joined<'_>) -> Option<Frame> {
        codec!(self.joined(joined))
    }

    /// The answer to a new token that is good for `expires_in`, where the dialect has one.
    pub fn refreshed(self, expires_in: Option<Duration>) -> Option<Frame> {
        codec!(self.refreshed(expires_in))
    }

    /// The answer to a leave that holds, of this card or of all, where the dialect has one.
    pub fn left(self, card: Option<&str>) -> Option<Frame> {
        codec!(self.left(card))
    }

    /// The answer to a subscription that holds, where the dialect has one.
    pub fn subscribed(self, subscribed: &Subscribed<'_>) -> Option<Frame> {
        codec!(self.subscribed(subscribed))
    }

    /// The answer once a client is out of a room, where the dialect has one.
    pub fn unsubscribed(self, room: &str) -> Option<Frame> {
        codec!(self.unsubscribed(room))
    }

    /// The answer to a login that holds, where the dialect has one.
    pub fn logged_in(self) -> Option<Frame> {
        codec!(self.logged_in())
    }

    /// The answer to a logout that holds, where the dialect has one.
    pub fn logged_out(self) -> Option<Frame> {
        codec!(self.logged_out())
    }

    /// The answer once the queue has the client's own push, where the dialect has one.
    pub fn pushed(self, id: PushId, reference: Option<&str>) -> Option<Frame> {
        codec!(self.pushed(id, reference))
    }

    /// The answer once the client's message is held for the back end, where the dialect has one.
    pub fn received(self, id: PushId, reference: Option<&str>) -> Option<Frame> {
        codec!(self.received(id, reference))
    }

    /// What clients of a room with presence are told, where the dialect has a word for it.
    pub fn presence(self, change: &PresenceChange) -> Option<Frame> {
        codec!(self.presence(change))
    }

    /// Whether its clients take frames of several pushes, and wait for them (`[rooms] merge_window`).
    pub fn merges(self) -> bool {
        codec!(self.merges())
    }

    /// The answer to the dialect's own ping.
    pub fn pong(self) -> Frame {
        codec!(self.pong())
    }

    /// The answer to an error; `None`: the dialect passes over it in silence.
    ///
    /// # Errors
    /// The end of the connection, where the dialect has no errors (gopusher).
    pub fn error(self, error: &ClientError) -> Result<Option<Frame>, Ending> {
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

    /// Whether a token of the handshake is a login.
    pub fn logs_in_by_handshake(self) -> bool {
        codec!(self.logs_in_by_handshake())
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
mod golden;
#[cfg(test)]
mod tests;
