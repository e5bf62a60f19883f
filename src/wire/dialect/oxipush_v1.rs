//! The subprotocol `oxipush.v1`: `{"event":…,"data":…}` both ways.

use std::{borrow::Cow, io::Write as _, time::Duration};

use bytestring::ByteString;
use serde::{Deserialize, de::IgnoredAny};
use serde_json::value::RawValue;

use super::{ClientError, Command, DialectCodec, JoinRequest, Joined, JsonObject};
use crate::{
    push::Push,
    wire::{
        close::Ending,
        frame::{Frame, json_string},
    },
};

pub(super) struct OxipushV1;

impl DialectCodec for OxipushV1 {
    fn label(&self) -> &'static str {
        "oxipush.v1"
    }

    fn parse(&self, text: &ByteString) -> Command {
        let JsonObject(message): JsonObject<V1Message<'_>> = match serde_json::from_str(text) {
            Ok(message) => message,
            Err(error) => return bad_json(&error),
        };
        match &*message.event {
            "join" => match message.data.map_or(Ok(None), |data| serde_json::from_str(data.get())) {
                Ok(data) => join(data.map(|JsonObject(join)| join).unwrap_or_default()),
                Err(error) => bad_json(&error),
            },
            "refresh" => match message.data.map(|data| serde_json::from_str(data.get())) {
                Some(Ok(JsonObject(V1Refresh { token }))) => Command::Refresh(token.into()),
                Some(Err(error)) => bad_json(&error),
                None => client_error("bad_json", "bad JSON: refresh brings a token in data.token"),
            },
            "leave" => Command::Leave,
            "ping" => Command::Ping,
            "subscribe" => unsupported("this gateway has no rooms yet; do not send `subscribe`"),
            "unsubscribe" => unsupported("this gateway has no rooms yet; do not send `unsubscribe`"),
            "ack" => unsupported("this gateway has no offline pushes yet; do not send `ack`"),
            _ => client_error("unknown_event", "unknown event; send join, refresh, leave or ping"),
        }
    }

    fn push(&self, push: &Push) -> Frame {
        Frame::text_in_place(push.content.len() + push.from.len() + 128, |json| {
            write(json, format_args!(r#"{{"event":"push","data":{{"id":"{}","from":"#, push.id));
            json_string(json, &push.from);
            write(json, format_args!(r#","ts":{},"content":"#, push.id.millis()));
            json_string(json, &push.content);
            json.extend_from_slice(b"}}");
        })
    }

    fn joined(&self, joined: &Joined<'_>) -> Frame {
        Frame::text_in_place(joined.card.len() + joined.app.len() + 128, |json| {
            json.extend_from_slice(br#"{"event":"joined","data":{"card_id":"#);
            json_string(json, joined.card);
            json.extend_from_slice(br#","app_id":"#);
            json_string(json, joined.app);
            write(json, format_args!(r#","client":"{}""#, joined.client));
            if let Some(expires_in) = joined.expires_in {
                write(json, format_args!(r#","expires_in":{}"#, expires_in.as_secs()));
            }
            json.extend_from_slice(b"}}");
        })
    }

    fn refreshed(&self, expires_in: Option<Duration>) -> Option<Frame> {
        let expires_in = expires_in.map(|left| format!(r#""expires_in":{}"#, left.as_secs())).unwrap_or_default();
        Some(Frame::text(&format!(r#"{{"event":"refreshed","data":{{{expires_in}}}}}"#)))
    }

    fn left(&self) -> Option<Frame> {
        Some(Frame::text(r#"{"event":"left"}"#))
    }

    fn pong(&self) -> Frame {
        Frame::text(r#"{"event":"pong"}"#)
    }

    fn error(&self, error: &ClientError) -> Result<Frame, Ending> {
        Ok(Frame::text_in_place(error.message.len() + 64, |json| {
            json.extend_from_slice(br#"{"event":"error","data":{"code":"#);
            json_string(json, error.code);
            json.extend_from_slice(br#","message":"#);
            json_string(json, &error.message);
            json.extend_from_slice(b"}}");
        }))
    }

    fn drain(&self, delay: Duration) -> Option<Frame> {
        let text = format!(r#"{{"event":"drain","data":{{"reconnect_in_ms":{}}}}}"#, delay.as_millis());
        Some(Frame::text(&text))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct V1Message<'a> {
    #[serde(borrow)]
    event: Cow<'a, str>,
    /// Read for a join only.
    #[serde(borrow, default)]
    data: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct V1Join {
    #[serde(default)]
    card_id: Option<String>,
    #[serde(default)]
    app_id: Option<String>,
    #[serde(default)]
    device: Option<IgnoredAny>,
    #[serde(default)]
    token: Option<String>,
    #[serde(default)]
    resume: Option<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct V1Refresh {
    token: String,
}

fn join(join: V1Join) -> Command {
    if join.device.is_some() {
        return unsupported("this gateway has no offline pushes yet; leave `device` out of join");
    }
    if join.resume.is_some() {
        return unsupported("this gateway has no offline pushes yet; leave `resume` out of join");
    }
    Command::Join(JoinRequest {
        card: join.card_id.unwrap_or_default().into(),
        app: join.app_id.unwrap_or_default().into(),
        token: join.token.map(ByteString::from),
    })
}

fn write(json: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    json.write_fmt(text).expect("invariant: a Vec takes every write");
}

fn bad_json(error: &serde_json::Error) -> Command {
    Command::ClientError(ClientError::new("bad_json", format!("bad JSON: {error}")))
}

fn unsupported(message: &'static str) -> Command {
    client_error("unsupported", message)
}

fn client_error(code: &'static str, message: &'static str) -> Command {
    Command::ClientError(ClientError::new(code, message))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::{Value, json};

    use super::*;
    use crate::{
        push::{PushId, Target},
        wire::dialect::Dialect,
    };

    fn parse(text: &str) -> Command {
        Dialect::OxipushV1.parse(&text.into())
    }

    fn error_of(text: &str) -> ClientError {
        match parse(text) {
            Command::ClientError(error) => error,
            other => panic!("{text} gave {other:?}"),
        }
    }

    /// The JSON of a short or middle-sized frame.
    fn json_of(frame: &Frame) -> Value {
        let bytes = frame.bytes();
        assert_eq!(bytes[0], 0x81);
        let (header, length) = match bytes[1] {
            126 => (4, usize::from(u16::from_be_bytes([bytes[2], bytes[3]]))),
            127 => (10, usize::try_from(u64::from_be_bytes(bytes[2..10].try_into().unwrap())).unwrap()),
            short => (2, usize::from(short)),
        };
        assert_eq!(bytes.len(), header + length);
        serde_json::from_slice(&bytes[header..]).unwrap()
    }

    #[test]
    fn join_leave_and_ping_are_understood() {
        let join = Command::Join(JoinRequest { card: "c".into(), app: "a".into(), token: None });
        assert_eq!(parse(r#"{"event":"join","data":{"card_id":"c","app_id":"a"}}"#), join);
        let join = Command::Join(JoinRequest { card: "c".into(), app: "".into(), token: Some("t".into()) });
        assert_eq!(parse(r#"{"data":{"card_id":"c","device":null,"token":"t"},"event":"join"}"#), join);
        // the names' own check tells that there is no card
        let join = Command::Join(JoinRequest { card: "".into(), app: "".into(), token: None });
        assert_eq!(parse(r#"{"event":"join"}"#), join);
        assert_eq!(parse(r#"{"event":"refresh","data":{"token":"t"}}"#), Command::Refresh("t".into()));
        assert_eq!(parse(r#"{"event":"leave"}"#), Command::Leave);
        assert_eq!(parse(r#"{"event":"ping","data":{}}"#), Command::Ping);
    }

    #[test]
    fn what_is_not_built_is_refused_by_name() {
        for field in ["device", "resume"] {
            let error = error_of(&format!(r#"{{"event":"join","data":{{"card_id":"c","{field}":"x"}}}}"#));
            assert_eq!(error.code, "unsupported");
            assert!(error.message.contains(field), "{}", error.message);
        }
        for event in ["subscribe", "unsubscribe", "ack"] {
            let error = error_of(&format!(r#"{{"event":"{event}","data":{{"room":"r"}}}}"#));
            assert_eq!(error.code, "unsupported");
            assert!(error.message.contains(event), "{}", error.message);
        }
    }

    #[test]
    fn client_errors_are_told_and_do_not_end_the_connection() {
        for bad in ["", "{", r#"["ping"]"#, "null", "{}", r#"{"event":1}"#, r#"{"event":"ping","x":1}"#] {
            assert_eq!(error_of(bad).code, "bad_json", "{bad}");
        }
        assert!(error_of(r#"{"event":"join","data":{"card_id":"c","appid":"a"}}"#).message.contains("appid"));
        for bad in [r#"{"event":"refresh"}"#, r#"{"event":"refresh","data":{}}"#] {
            assert!(error_of(bad).message.contains("token"), "{bad}");
        }
        assert_eq!(error_of(r#"{"event":"joIn"}"#).code, "unknown_event");
    }

    #[test]
    fn answers_have_the_documented_form() {
        let v1 = Dialect::OxipushV1;
        assert_eq!(
            json_of(&v1.joined(&Joined { card: "c\"", app: "", client: &7, expires_in: None })),
            json!({"event": "joined", "data": {"card_id": "c\"", "app_id": "", "client": "7"}})
        );
        let minute = Some(Duration::from_millis(60_999));
        assert_eq!(
            json_of(&v1.joined(&Joined { card: "c", app: "a", client: &7, expires_in: minute })),
            json!({"event": "joined", "data": {"card_id": "c", "app_id": "a", "client": "7", "expires_in": 60}})
        );
        assert_eq!(json_of(&v1.refreshed(minute).unwrap()), json!({"event": "refreshed", "data": {"expires_in": 60}}));
        assert_eq!(json_of(&v1.refreshed(None).unwrap()), json!({"event": "refreshed", "data": {}}));
        assert_eq!(json_of(&v1.left().unwrap()), json!({"event": "left"}));
        assert_eq!(json_of(&v1.pong()), json!({"event": "pong"}));
        assert_eq!(
            json_of(&v1.drain(Duration::from_millis(1500)).unwrap()),
            json!({"event": "drain", "data": {"reconnect_in_ms": 1500}})
        );
        let error = ClientError::new("bad_name", "card_id is empty");
        assert_eq!(
            json_of(&v1.error(&error).unwrap()),
            json!({"event": "error", "data": {"code": "bad_name", "message": "card_id is empty"}})
        );
    }

    #[test]
    fn a_push_has_id_sender_time_and_content_at_every_size() {
        for size in [0, 1, 10, 100, 200, 65_300, 65_500, 70_000] {
            let push = Push {
                id: PushId::from_parts(1_700_000_000_123, 7),
                from: "the \"boss\"".into(),
                target: Target::cards(vec!["c".into()]),
                content: "\"".repeat(size).into(),
                collapse_key: None,
            };
            let data = json!({
                "id": push.id.to_string(), "from": "the \"boss\"", "ts": 1_700_000_000_123_u64, "content": &*push.content,
            });
            assert_eq!(json_of(&Dialect::OxipushV1.push(&push)), json!({"event": "push", "data": data}));
        }
    }
}
