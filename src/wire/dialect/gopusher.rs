//! gopusher's dialect. What it sends is written as gopusher writes it, byte for byte: Go's `json.Encoder` ends each value with
//! a newline and escapes what HTML or JavaScript could trip over. `gopusher/` has what the original sent.

use std::{borrow::Cow, fmt, io};

use bytestring::ByteString;
use serde::{
    Deserialize, Serialize,
    de::{Error as _, IgnoredAny, MapAccess, Visitor},
};
use serde_json::{
    ser::{Formatter, Serializer},
    value::RawValue,
};

use super::{ClientError, Command, DialectCodec, JoinRequest, Joined, JsonObject};
use crate::{
    push::Push,
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
        match &*message.event {
            "join" => message.join().map_or_else(|error| bad_json(&error), Command::Join),
            "ping" => Command::Ping,
            "read" => Command::Nothing,
            _ => Command::End(bad_message(Cow::Borrowed(UNKNOWN_EVENT))),
        }
    }

    fn push(&self, push: &Push) -> Frame {
        message(&push.content)
    }

    fn joined(&self, _joined: &Joined<'_>) -> Frame {
        message("ok")
    }

    fn pong(&self) -> Frame {
        message("ok")
    }

    fn error(&self, error: &ClientError) -> Result<Frame, Ending> {
        Err(Ending { close: error.close, text: error.message.clone() })
    }
}

/// A client's message. Other fields are ignored, as gopusher does, and of an event other than join `data` too.
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

impl GopusherMessage<'_> {
    fn join(&self) -> serde_json::Result<JoinRequest> {
        if self.has_data_twice {
            return Err(serde_json::Error::duplicate_field("data"));
        }
        let data: Option<JsonObject<GopusherJoin>> = match self.data {
            Some(data) => serde_json::from_str(data.get())?,
            None => None,
        };
        let join = data.map(|JsonObject(join)| join).unwrap_or_default();
        Ok(JoinRequest {
            card: join.card_id.unwrap_or_default().into(),
            app: join.app_id.unwrap_or_default().into(),
            token: join.token.map(ByteString::from),
        })
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
        enum Field {
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
                Field::Event if event.is_some() => return Err(A::Error::duplicate_field("event")),
                Field::Event => event = Some(map.next_value::<Text<'_>>()?),
                Field::Data => {
                    message.has_data_twice = message.data.is_some();
                    message.data = Some(map.next_value()?);
                }
                Field::Other => {
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
        let written = data.serialize(&mut Serializer::with_formatter(&mut *json, GoStrings));
        written.expect("invariant: a Vec takes every string");
        json.extend_from_slice(b"}\n");
    })
}

/// The escapes of Go's encoding/json beyond those that JSON asks for: `< > &`, U+2028 and U+2029.
struct GoStrings;

impl Formatter for GoStrings {
    fn write_string_fragment<W: io::Write + ?Sized>(&mut self, to: &mut W, fragment: &str) -> io::Result<()> {
        let bytes = fragment.as_bytes();
        let mut written = 0;
        let mut at = 0;
        while let Some(found) = bytes[at..].iter().position(|byte| matches!(byte, b'<' | b'>' | b'&' | 0xE2)) {
            at += found;
            let (escape, length) = match bytes[at..] {
                [b'<', ..] => (br"\u003c", 1),
                [b'>', ..] => (br"\u003e", 1),
                [b'&', ..] => (br"\u0026", 1),
                [0xE2, 0x80, 0xA8, ..] => (br"\u2028", 3),
                [0xE2, 0x80, 0xA9, ..] => (br"\u2029", 3),
                // another character that begins with this byte
                _ => {
                    at += 1;
                    continue;
                }
            };
            to.write_all(&bytes[written..at])?;
            to.write_all(escape)?;
            at += length;
            written = at;
        }
        to.write_all(&bytes[written..])
    }
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
        Command::Join(JoinRequest { card: card.into(), app: app.into(), token: None })
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
        for event in ["leave", "JOIN", "", "subscribe"] {
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
            payload(&Dialect::Gopusher.joined(&Joined { card: "c", app: "a", client: &1, expires_in: None })),
            ok
        );
        assert_eq!(payload(&Dialect::Gopusher.pong()), ok);
        assert_eq!(Dialect::Gopusher.left(), None);
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
