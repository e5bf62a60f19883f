//! A third dialect, which uses what the others leave to the defaults: it greets, packs several pushes into one frame, has a
//! bound of its own and clients without a card.

use bytes::Bytes;
use bytestring::ByteString;

use super::{ClientError, Command, Dialect, DialectCodec, JoinRequest, Joined, ROUTES};
use crate::{
    push::Push,
    wire::{
        close::{Close, Ending},
        frame::Frame,
    },
};

pub(super) struct InTests;

impl DialectCodec for InTests {
    fn label(&self) -> &'static str {
        "in tests"
    }

    fn parse(&self, text: &ByteString) -> Command {
        match &**text {
            "ping" => Command::Ping,
            card => Command::Join(JoinRequest { card: card.into(), ..JoinRequest::default() }),
        }
    }

    fn parse_binary(&self, _bytes: &Bytes) -> Command {
        Command::Nothing
    }

    fn push(&self, push: &Push) -> Frame {
        Frame::text(&push.content.to_text())
    }

    fn pushes<'a>(&self, pushes: impl Iterator<Item = &'a Push> + Clone) -> Option<Frame> {
        let contents: Vec<_> = pushes.map(|push| push.content.to_text()).collect();
        Some(Frame::text(&contents.join("+")))
    }

    fn merges(&self) -> bool {
        true
    }

    fn greeting(&self) -> Option<Frame> {
        Some(Frame::text("hello"))
    }

    fn joined(&self, joined: &Joined<'_>) -> Option<Frame> {
        Some(Frame::text(joined.card))
    }

    fn pong(&self) -> Frame {
        Frame::text("pong")
    }

    fn error(&self, _error: &ClientError) -> Result<Option<Frame>, Ending> {
        Err(Close::BadMessage.into())
    }

    fn max_message(&self) -> usize {
        10
    }

    fn needs_card(&self) -> bool {
        false
    }
}

#[test]
fn the_order_of_the_dialects_is_that_of_their_indexes() {
    for (index, dialect) in Dialect::ALL.iter().enumerate() {
        assert_eq!(dialect.index(), index);
    }
}

#[test]
fn every_dialect_has_a_route_and_the_one_without_a_subprotocol_is_its_paths_last() {
    for dialect in Dialect::ALL {
        assert!(ROUTES.iter().any(|route| route.dialect == *dialect), "{dialect:?}");
    }
    for (number, route) in ROUTES.iter().enumerate() {
        let same_path = |other: &&super::DialectRoute| (other.listener, other.path) == (route.listener, route.path);
        let behind = ROUTES[number + 1..].iter().filter(same_path);
        assert!(route.subprotocol.is_some() || behind.count() == 0, "{route:?} hides a row behind it");
    }
}

#[test]
fn a_dialects_own_bound_is_never_above_the_configured_one() {
    assert_eq!(Dialect::Gopusher.max_message(500), 500);
    assert_eq!(Dialect::InTests.max_message(500), 10);
    assert_eq!(Dialect::InTests.max_message(5), 5);
}

/// The text of a text frame.
pub(super) fn text_of(frame: &Frame) -> String {
    let bytes = frame.bytes();
    assert_eq!(bytes[0], 0x81);
    let header = match bytes[1] {
        127 => 10,
        126 => 4,
        _ => 2,
    };
    String::from_utf8(bytes[header..].to_vec()).expect("UTF-8")
}
