//! go-push's dialect: `{"type":…,"data":…}` both ways, rooms that are joined and left in silence, pushes of several items.
//! `go_push/` has what the original took and sent.

use std::iter;

use bytes::Bytes;
use bytestring::ByteString;
use serde_json::value::RawValue;

use super::{ClientError, Command, DialectCodec, RoomRequest, go_json};
use crate::{
    push::{Content, Push},
    wire::{close::Ending, frame::Frame},
};

/// The bytes of a frame around its items.
const ENVELOPE: usize = 40;

pub(super) struct GoPush;

impl DialectCodec for GoPush {
    fn label(&self) -> &'static str {
        "go-push"
    }

    fn parse(&self, text: &ByteString) -> Command {
        parse(text).unwrap_or_else(Command::ClientError)
    }

    /// go-push takes no notice of them.
    fn parse_binary(&self, _bytes: &Bytes) -> Command {
        Command::Nothing
    }

    fn push(&self, push: &Push) -> Frame {
        items(push.content.len(), iter::once(push))
    }

    fn pushes<'a>(&self, pushes: impl Iterator<Item = &'a Push>) -> Option<Frame> {
        Some(items(0, pushes))
    }

    fn merges(&self) -> bool {
        true
    }

    fn pong(&self) -> Frame {
        Frame::text(r#"{"type":"PONG","data":{}}"#)
    }

    /// go-push closes on what it cannot read, and says nothing of what it does not do.
    fn error(&self, error: &ClientError) -> Result<Option<Frame>, Ending> {
        match error.code {
            "too_many_rooms" | "not_subscribed" | "wrong_room" | "not_joined" | "unsupported" | "busy" => Ok(None),
            _ => Err(Ending { close: error.close, text: error.message.clone() }),
        }
    }

    /// Its clients have no card, and its load client says nothing at all.
    fn needs_card(&self) -> bool {
        false
    }

    fn logs_in_by_handshake(&self) -> bool {
        true
    }
}

/// Types are told apart by case, and one that is none is passed over.
fn parse(text: &str) -> Result<Command, ClientError> {
    let [kind, data] = go_json::fields(text, ["type", "data"])?;
    let kind = go_json::text(kind)?;
    match &*kind {
        "PING" => Ok(Command::Ping),
        "JOIN" => room(data).map(Command::Subscribe),
        "LEAVE" => room(data).map(Command::Unsubscribe),
        _ => Ok(Command::Nothing),
    }
}

fn room(data: Option<&RawValue>) -> Result<RoomRequest, ClientError> {
    let data = data.map_or("null", RawValue::get);
    let [room] = go_json::fields(data, ["room"])?;
    let room = go_json::text(room)?;
    if room.is_empty() {
        return Err(ClientError::new("bad_name", "data.room is empty; name a room"));
    }
    Ok(RoomRequest { room: room.into_owned().into(), private: false, resume: None })
}

/// A frame of these pushes, of about `length` bytes.
fn items<'a>(length: usize, pushes: impl Iterator<Item = &'a Push>) -> Frame {
    Frame::text_in_place(length + ENVELOPE, |json| {
        json.extend_from_slice(br#"{"type":"PUSH","data":{"items":["#);
        for (nth, push) in pushes.enumerate() {
            if nth > 0 {
                json.push(b',');
            }
            item(json, &push.content);
        }
        json.extend_from_slice(b"]}}");
    })
}

/// An item is a JSON value: the content itself, or its text (bytes: in base64) as a string.
fn item(json: &mut Vec<u8>, content: &Content) {
    match content {
        Content::Json(value) => go_json::write_value(json, value),
        Content::Text(_) | Content::Binary(_) => go_json::write_text(json, &content.to_text()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::{
        push::{PushId, Target},
        wire::{
            close::Close,
            dialect::{
                Dialect,
                golden::{self, Heard},
                tests::text_of,
            },
        },
    };

    fn push(content: Content) -> Push {
        let target = Target { room: Some("r".into()), ..Target::default() };
        Push { id: PushId::from_parts(1, 1), from: "".into(), target, content, collapse_key: None, deadline: None }
    }

    #[test]
    fn items_are_what_go_push_sent() {
        let mut pairs = 0;
        for (pushed, frame) in golden::pairs(include_str!("go_push/pushes.txt")) {
            let values: Vec<&RawValue> = serde_json::from_str(pushed).unwrap();
            let content = |value: &&RawValue| Content::of_json(value.get()).unwrap_or(Content::Json("null".into()));
            let pushes: Vec<Push> = values.iter().map(content).map(push).collect();
            assert_eq!(text_of(&Dialect::GoPush.pushes(pushes.iter()).unwrap()), frame);
            if let [one] = &pushes[..] {
                assert_eq!(text_of(&Dialect::GoPush.push(one)), frame);
            }
            pairs += 1;
        }
        assert!(pairs >= 3);
    }

    #[test]
    fn bytes_are_an_item_in_base64() {
        let frame = Dialect::GoPush.push(&push(Content::Binary(Bytes::from_static(&[0xff, 0xfe]))));
        assert_eq!(text_of(&frame), r#"{"type":"PUSH","data":{"items":["//4="]}}"#);
    }

    #[test]
    fn what_clients_say_is_answered_passed_over_or_the_end_as_go_push_does() {
        let mut said = 0;
        for exchange in golden::exchanges(include_str!("go_push/exchanges.txt")) {
            let heard = match Dialect::GoPush.parse(&exchange.said.into()) {
                Command::Ping => vec![Heard::Text(text_of(&Dialect::GoPush.pong()))],
                Command::Nothing | Command::Subscribe(_) | Command::Unsubscribe(_) => vec![],
                Command::ClientError(error) => match Dialect::GoPush.error(&error) {
                    Err(ending) => {
                        assert_eq!(ending.close, Close::BadMessage);
                        vec![Heard::Closed]
                    }
                    Ok(frame) => panic!("{} gave {frame:?}", exchange.said),
                },
                other => panic!("{} gave {other:?}", exchange.said),
            };
            assert_eq!(heard, exchange.heard, "{}", exchange.said);
            said += 1;
        }
        assert!(said >= 15);
    }

    #[test]
    fn rooms_are_joined_and_left() {
        let room = |name: &str| RoomRequest { room: name.into(), private: false, resume: None };
        let parse = |text: &str| Dialect::GoPush.parse(&text.into());
        let joined = parse(r#"{"type":"JOIN","data":{"room":"默认房间"}}"#);
        assert_eq!(joined, Command::Subscribe(room("默认房间")));
        assert_eq!(parse(r#"{"DATA":{"Room":"a","room":"b"},"tyPE":"LEAVE"}"#), Command::Unsubscribe(room("b")));
        assert_eq!(Dialect::GoPush.parse_binary(&Bytes::from_static(b"x")), Command::Nothing);
    }

    #[test]
    fn what_go_push_does_not_do_it_does_not_mention() {
        for code in ["too_many_rooms", "not_subscribed", "wrong_room"] {
            assert_eq!(Dialect::GoPush.error(&ClientError::new(code, "x")), Ok(None));
        }
        let refused = ClientError { close: Close::Refused, ..ClientError::new("bad_token", "x") };
        assert_eq!(Dialect::GoPush.error(&refused).unwrap_err().close, Close::Refused);
    }
}
