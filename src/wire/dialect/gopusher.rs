//! gopusher's dialect. What it sends is written as gopusher writes it, byte for byte: Go's `json.Encoder` ends each value with
//! a newline and escapes what HTML or JavaScript could trip over. `gopusher/` has what the original sent.

use std::{borrow::Cow, fmt};

use bytestring::ByteString;
use serde::{
    Deserialize,
    de::{Error as _, IgnoredAny, MapAccess, Visitor},
};
use serde_json::value::RawValue;

use super::{
    ClientError, ClientMessage, ClientPushRequest, Command, DialectCodec, JoinRequest, Joined, JsonObject, RoomRequest,
    Subscribed, go_json,
};
use crate::{
    push::{Content, Push, PushId},
    wire::{
        close::{Close, Ending},
        frame::Frame,
    },
};

/// gopusher's own words; its clients may look for them.
const UNKNOWN_EVENT: &str = "E_INVALID_EVENT - unknown event";

pub(super) struct Gopusher;

impl DialectCodec for Gopusher {
    fn label(&self) -> &'static str {
        "gopusher"
    }

    fn parse(&self, text: &ByteString) -> Command {
        let message: GopusherMessage<'_> = match serde_json::from_str(text) {
            Ok(message) => message,
            Err(error) => return bad_json(&error),
        };
        let command = match &*message.event {
            "join" => message.join().map(Command::Join),
            "ping" => Ok(Command::Ping),
            "read" => Ok(Command::Nothing),
            // what gopusher has not
            "leave" => message.data().map(|GopusherJoin { card_id, .. }| Command::Leave(card_id.map(ByteString::from))),
            "subscribe" => message.room().map(Command::Subscribe),
            "unsubscribe" => message.room().map(Command::Unsubscribe),
            "push" => message.push().map(Command::Push),
            "message" => message.message().map(Command::Message),
            _ => Ok(Command::End(bad_message(Cow::Borrowed(UNKNOWN_EVENT)))),
        };
        command.unwrap_or_else(|error| bad_json(&error))
    }

    fn push(&self, push: &Push) -> Frame {
        message(&push.content.to_text())
    }

    fn joined(&self, _joined: &Joined<'_>) -> Option<Frame> {
        Some(message("ok"))
    }

    fn left(&self, _card: Option<&str>) -> Option<Frame> {
        Some(message("ok"))
    }

    fn subscribed(&self, _subscribed: &Subscribed<'_>) -> Option<Frame> {
        Some(message("ok"))
    }

    fn unsubscribed(&self, _room: &str) -> Option<Frame> {
        Some(message("ok"))
    }

    fn pushed(&self, _id: PushId, _reference: Option<&str>) -> Option<Frame> {
        Some(message("ok"))
    }

    fn received(&self, _id: PushId, _reference: Option<&str>) -> Option<Frame> {
        Some(message("ok"))
    }

    fn pong(&self) -> Frame {
        message("ok")
    }

    fn error(&self, error: &ClientError) -> Result<Option<Frame>, Ending> {
        // who only has to wait stays
        if error.code == "busy" {
            return Ok(Some(message(&error.message)));
        }
        Err(Ending { close: error.close, text: error.message.clone() })
    }
}

/// A client's message. Other fields are ignored, as gopusher does, and `data` of events that take none.
#[derive(Default)]
struct GopusherMessage<'a> {
    event: Cow<'a, str>,
    data: Option<&'a RawValue>,
    has_data_twice: bool,
}

#[derive(Default, Deserialize)]
struct GopusherJoin {
    #[serde(default)]
    card_id: Option<String>,
    #[serde(default)]
    app_id: Option<String>,
    #[serde(default)]
    token: Option<String>,
}

#[derive(Default, Deserialize)]
struct GopusherRoom {
    #[serde(default)]
    room: String,
}

#[derive(Deserialize)]
struct GopusherPush<'a> {
    #[serde(default)]
    to: Vec<String>,
    #[serde(default)]
    room: Option<String>,
    #[serde(borrow)]
    content: &'a RawValue,
    #[serde(default)]
    echo: bool,
}

impl<'a> GopusherMessage<'a> {
    fn join(&self) -> serde_json::Result<JoinRequest> {
        let join: GopusherJoin = self.data()?;
        Ok(JoinRequest {
            card: join.card_id.unwrap_or_default().into(),
            app: join.app_id.unwrap_or_default().into(),
            token: join.token.map(ByteString::from),
            merge: false,
            device: None,
            resume: None,
        })
    }

    fn room(&self) -> serde_json::Result<RoomRequest> {
        let GopusherRoom { room } = self.data()?;
        Ok(RoomRequest { room: room.into(), private: false, resume: None })
    }

    fn push(&self) -> serde_json::Result<ClientPushRequest> {
        let data = self.one_data()?.ok_or_else(|| serde_json::Error::missing_field("data"))?;
        let JsonObject(push): JsonObject<GopusherPush<'_>> = serde_json::from_str(data.get())?;
        let content = Content::of_json(push.content.get());
        Ok(ClientPushRequest {
            to: push.to.into_iter().map(ByteString::from).collect(),
            room: push.room.map(ByteString::from),
            content: content.ok_or_else(|| serde_json::Error::custom("content is null"))?,
            echo: push.echo,
            reference: None,
        })
    }

    fn message(&self) -> serde_json::Result<ClientMessage> {
        let data = self
            .one_data()?
            .filter(|data| data.get() != "null")
            .ok_or_else(|| serde_json::Error::missing_field("data"))?;
        Ok(ClientMessage { data: data.get().into(), reference: None })
    }

    /// What an event brings; nothing is as good as an object without fields.
    fn data<T: Default + Deserialize<'a>>(&self) -> serde_json::Result<T> {
        let Some(data) = self.one_data()? else { return Ok(T::default()) };
        let data: Option<JsonObject<T>> = serde_json::from_str(data.get())?;
        Ok(data.map(|JsonObject(data)| data).unwrap_or_default())
    }

    fn one_data(&self) -> serde_json::Result<Option<&'a RawValue>> {
        if self.has_data_twice {
            return Err(serde_json::Error::duplicate_field("data"));
        }
        Ok(self.data)
    }
}

/// By hand, because `data` may stand there twice where nobody reads it.
impl<'de> Deserialize<'de> for GopusherMessage<'de> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(GopusherVisitor)
    }
}

struct GopusherVisitor;

impl<'de> Visitor<'de> for GopusherVisitor {
    type Value = GopusherMessage<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        #[derive(Deserialize)]
        #[serde(rename_all = "lowercase")]
        enum GopusherField {
            Event,
            Data,
            #[serde(other)]
            Other,
        }
        #[derive(Deserialize)]
        struct Text<'a>(#[serde(borrow)] Cow<'a, str>);
        let mut message = GopusherMessage::default();
        let mut event = None;
        while let Some(field) = map.next_key()? {
            match field {
                GopusherField::Event if event.is_some() => return Err(A::Error::duplicate_field("event")),
                GopusherField::Event => event = Some(map.next_value::<Text<'_>>()?),
                GopusherField::Data => {
                    message.has_data_twice = message.data.is_some();
                    message.data = Some(map.next_value()?);
                }
                GopusherField::Other => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        message.event = event.map(|Text(event)| event).unwrap_or_default();
        Ok(message)
    }
}

/// All that gopusher sends has this form.
fn message(data: &str) -> Frame {
    Frame::text_in_place(data.len() + 24, |json| {
        json.extend_from_slice(br#"{"type":1,"data":"#);
        go_json::write_text(json, data);
        json.extend_from_slice(b"}\n");
    })
}

fn bad_json(error: &serde_json::Error) -> Command {
    Command::End(bad_message(Cow::Owned(format!("bad JSON: {error}"))))
}

fn bad_message(text: Cow<'static, str>) -> Ending {
    Ending { close: Close::BadMessage, text }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::{
        push::{PushId, Target},
        wire::dialect::Dialect,
    };

    fn join(card: &str, app: &str) -> Command {
        Command::Join(JoinRequest { card: card.into(), app: app.into(), ..JoinRequest::default() })
    }

    fn parse(text: &str) -> Command {
        Dialect::Gopusher.parse(&text.into())
    }

    fn ended_with(text: &str) -> String {
        match parse(text) {
            Command::End(Ending { close: Close::BadMessage, text }) => text.into_owned(),
            other => panic!("{text} gave {other:?}"),
        }
    }

    #[test]
    fn gopushers_events_are_understood() {
        assert_eq!(
            parse(r#"{"event":"join","data":{"app_id":"alibaba","card_id":"mayun"}}"#),
            join("mayun", "alibaba")
        );
        assert_eq!(parse(r#"{"event":"join","data":{"card_id":"m\u00e4","x":[1]},"more":1}"#), join("mä", ""));
        assert_eq!(parse(r#"{"event":"ping"}"#), Command::Ping);
        assert_eq!(parse(r#"{"event":"ping","data":[1,{"a":null}]}"#), Command::Ping);
        assert_eq!(parse(r#"{"event":"read"}"#), Command::Nothing);
        assert_eq!(parse(r#"{"data":{"card_id":"c"},"event":"join"}"#), join("c", ""));
    }

    #[test]
    fn data_is_read_for_a_join_only() {
        assert_eq!(parse(r#"{"event":"ping","data":1,"data":2}"#), Command::Ping);
        let twice = ended_with(r#"{"event":"join","data":null,"data":{"card_id":"c"}}"#);
        assert_eq!(twice, "bad JSON: duplicate field `data`");
        assert!(ended_with(r#"{"event":"ping","event":"ping"}"#).starts_with("bad JSON: duplicate field `event`"));
        assert!(ended_with(r#"{"event":"ping","data":{]}"#).starts_with("bad JSON: "));
    }

    #[test]
    fn a_left_out_field_is_empty_and_never_the_one_of_the_message_before() {
        parse(r#"{"event":"join","data":{"app_id":"a","card_id":"c"}}"#);
        assert_eq!(parse(r#"{"event":"join"}"#), join("", ""));
        assert_eq!(parse(r#"{"event":"join","data":null}"#), join("", ""));
        assert_eq!(ended_with(r#"{"data":{"app_id":"a"}}"#), "E_INVALID_EVENT - unknown event");
    }

    #[test]
    fn an_unknown_event_and_bad_json_end_the_connection_with_3500() {
        for event in ["ack", "JOIN", "", "Subscribe"] {
            assert_eq!(ended_with(&format!(r#"{{"event":"{event}"}}"#)), "E_INVALID_EVENT - unknown event");
        }
        for bad in ["", "{", r#"["ping"]"#, "null", r#"{"event":1}"#, r#"{"event":"join","data":["c"]}"#] {
            assert!(ended_with(bad).starts_with("bad JSON: "), "{bad}");
        }
    }

    /// The payload of a frame, which its header must announce.
    fn payload(frame: &Frame) -> String {
        let bytes = frame.bytes();
        let (header, length) = match bytes[1] {
            126 => (4, usize::from(u16::from_be_bytes([bytes[2], bytes[3]]))),
            127 => (10, usize::try_from(u64::from_be_bytes(bytes[2..10].try_into().unwrap())).unwrap()),
            short => (2, usize::from(short)),
        };
        assert_eq!((bytes[0], bytes.len()), (0x81, header + length));
        String::from_utf8(bytes[header..].to_vec()).unwrap()
    }

    fn pushed(content: &str) -> String {
        payload(&Dialect::Gopusher.push(&Push {
            id: PushId::from_parts(1, 2),
            from: "boss".into(),
            target: Target::cards(vec!["c".into()]),
            content: content.into(),
            collapse_key: None,
            deadline: None,
        }))
    }

    /// gopusher/frames.txt: what was pushed, as a JSON string, and the frame that the original sent for it, taken off its
    /// socket.
    #[test]
    fn pushes_and_answers_are_the_bytes_that_gopusher_sent() {
        let golden = include_str!("gopusher/frames.txt");
        let lines: Vec<&str> = golden.lines().filter(|line| !line.starts_with('#')).collect();
        assert!(lines.len() >= 8 && lines.len().is_multiple_of(2));
        for pair in lines.chunks(2) {
            let content: String = serde_json::from_str(pair[0]).unwrap();
            assert_eq!(pushed(&content), format!("{}\n", pair[1]), "{}", pair[0]);
        }
        let ok = "{\"type\":1,\"data\":\"ok\"}\n";
        assert_eq!(
            payload(&Dialect::Gopusher.joined(&Joined { card: "c", app: "a", client: &1, expires_in: None }).unwrap()),
            ok
        );
        assert_eq!(payload(&Dialect::Gopusher.pong()), ok);
        assert_eq!(payload(&Dialect::Gopusher.left(None).unwrap()), ok);
    }

    /// Whatever is escaped is the same text for who reads it.
    #[test]
    fn a_push_of_any_text_and_size_is_read_as_it_was_sent() {
        for content in
            ["", "<", ">&<", "\u{2028}\u{2029}", "\u{2027}\u{202a}\u{20ac}", "é<ü\u{2028}", "\u{0}\u{1f}\u{7f}"]
        {
            for times in [1, 3, 40, 200, 12_000] {
                let content = content.repeat(times);
                let frame = pushed(&content);
                let json: serde_json::Value = serde_json::from_str(&frame).unwrap();
                assert_eq!(json, serde_json::json!({"type": 1, "data": content}));
                assert!(!frame.contains(['<', '>', '&', '\u{2028}', '\u{2029}']) && frame.ends_with("}\n"));
            }
        }
    }

    #[test]
    fn a_client_error_is_the_end() {
        let error = ClientError::new("bad_name", "card_id is empty");
        let ending = Dialect::Gopusher.error(&error).unwrap_err();
        assert_eq!(ending, Ending { close: Close::BadMessage, text: "card_id is empty".into() });
    }
}
