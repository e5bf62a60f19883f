//! The subprotocol `oxipush.v1`: `{"event":…,"data":…}` both ways.

mod streams;

use std::{borrow::Cow, io::Write as _, time::Duration};

use bytestring::ByteString;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    ClientError, ClientMessage, ClientPushRequest, Command, DialectCodec, JoinRequest, Joined, JsonObject,
    MAX_REFERENCE, PresenceChange, PresentCards, RoomRequest, StreamMark, StreamState, Subscribed,
};
use crate::{
    push::{Content, Push, PushId, Resume},
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
            Err(error) => return Command::ClientError(error.into()),
        };
        message.command().unwrap_or_else(Command::ClientError)
    }

    fn push(&self, push: &Push) -> Frame {
        one_push(push, None)
    }

    fn pushes<'a>(&self, pushes: impl Iterator<Item = &'a Push> + Clone) -> Option<Frame> {
        let size = pushes.clone().map(|push| push.content.len() + push.from.len() + 128).sum();
        Some(Frame::text_in_place(size, |json| {
            json.extend_from_slice(br#"{"event":"pushes","data":"#);
            for (nth, push) in pushes.enumerate() {
                json.push(if nth == 0 { b'[' } else { b',' });
                write_push(json, push, None);
            }
            json.extend_from_slice(b"]}");
        }))
    }

    fn stored(&self, push: &Push, mark: &StreamMark<'_>) -> Frame {
        one_push(push, Some(mark))
    }

    fn stream(&self, state: &StreamState<'_>) -> Option<Frame> {
        Some(streams::state("stream", state))
    }

    fn reset(&self, state: &StreamState<'_>) -> Option<Frame> {
        Some(streams::state("reset", state))
    }

    fn joined(&self, joined: &Joined<'_>) -> Option<Frame> {
        Some(Frame::text_in_place(joined.card.len() + joined.app.len() + 128, |json| {
            json.extend_from_slice(br#"{"event":"joined","data":{"card_id":"#);
            json_string(json, joined.card);
            json.extend_from_slice(br#","app_id":"#);
            json_string(json, joined.app);
            write(json, format_args!(r#","client":"{}""#, joined.client));
            if let Some(expires_in) = joined.expires_in {
                write(json, format_args!(r#","expires_in":{}"#, expires_in.as_secs()));
            }
            json.extend_from_slice(b"}}");
        }))
    }

    fn refreshed(&self, expires_in: Option<Duration>) -> Option<Frame> {
        let expires_in = expires_in.map(|left| format!(r#""expires_in":{}"#, left.as_secs())).unwrap_or_default();
        Some(Frame::text(&format!(r#"{{"event":"refreshed","data":{{{expires_in}}}}}"#)))
    }

    fn left(&self, card: Option<&str>) -> Option<Frame> {
        let Some(card) = card else { return Some(Frame::text(r#"{"event":"left"}"#)) };
        Some(named("left", "card_id", card))
    }

    fn subscribed(&self, subscribed: &Subscribed<'_>) -> Option<Frame> {
        Some(Frame::text_in_place(subscribed.room.len() + 128, |json| {
            json.extend_from_slice(br#"{"event":"subscribed","data":{"room":"#);
            json_string(json, subscribed.room);
            if let Some(stream) = &subscribed.stream {
                write(json, format_args!(r#","epoch":"{}","seq":{}"#, stream.epoch, stream.seq));
            }
            if let Some(present) = subscribed.presence {
                write_presence(json, present);
            }
            json.extend_from_slice(b"}}");
        }))
    }

    fn unsubscribed(&self, room: &str) -> Option<Frame> {
        Some(named("unsubscribed", "room", room))
    }

    fn pushed(&self, id: PushId, reference: Option<&str>) -> Option<Frame> {
        Some(accepted("pushed", id, reference))
    }

    fn received(&self, id: PushId, reference: Option<&str>) -> Option<Frame> {
        Some(accepted("received", id, reference))
    }

    fn presence(&self, change: &PresenceChange) -> Option<Frame> {
        let action = change.action();
        Some(Frame::text_in_place(change.room.len() + change.card.len() + 128, |json| {
            json.extend_from_slice(br#"{"event":"presence","data":{"room":"#);
            json_string(json, &change.room);
            json.extend_from_slice(br#","card_id":"#);
            json_string(json, &change.card);
            write(json, format_args!(r#","action":"{action}","node":"#));
            json_string(json, &change.node);
            json.extend_from_slice(b"}}");
        }))
    }

    fn pong(&self) -> Frame {
        Frame::text(r#"{"event":"pong"}"#)
    }

    fn error(&self, error: &ClientError) -> Result<Option<Frame>, Ending> {
        Ok(Some(Frame::text_in_place(error.message.len() + 64, |json| {
            json.extend_from_slice(br#"{"event":"error","data":{"code":"#);
            json_string(json, error.code);
            json.extend_from_slice(br#","message":"#);
            json_string(json, &error.message);
            if let Some(reference) = &error.reference {
                write(json, format_args!(r#","ref":{reference}"#));
            }
            json.extend_from_slice(b"}}");
        })))
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
    #[serde(borrow, default)]
    data: Option<&'a RawValue>,
    /// Of a message only, whose data is the client's own.
    #[serde(borrow, default, rename = "ref")]
    reference: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct V1Join<'a> {
    #[serde(default)]
    card_id: Option<String>,
    #[serde(default)]
    app_id: Option<String>,
    #[serde(borrow, default)]
    device: Option<&'a RawValue>,
    #[serde(default)]
    token: Option<String>,
    #[serde(borrow, default)]
    resume: Option<&'a RawValue>,
    #[serde(default)]
    merge: Option<bool>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct V1Refresh {
    token: String,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct V1Leave {
    #[serde(default)]
    card_id: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct V1Subscribe<'a> {
    room: String,
    #[serde(borrow, default)]
    resume: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct V1Unsubscribe {
    room: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct V1Push<'a> {
    #[serde(default)]
    to: Vec<String>,
    #[serde(default)]
    room: Option<String>,
    #[serde(borrow)]
    content: &'a RawValue,
    #[serde(default)]
    echo: bool,
    #[serde(borrow, default, rename = "ref")]
    reference: Option<&'a RawValue>,
}

impl<'a> V1Message<'a> {
    fn command(&self) -> Result<Command, ClientError> {
        let event = &*self.event;
        if self.reference.is_some() && event != "message" {
            return Err(ClientError::new("bad_json", "bad JSON: `ref` stands beside `data` in a message only"));
        }
        match event {
            "join" => self.data_or_default().and_then(join),
            "refresh" => self.data().map(|V1Refresh { token }| Command::Refresh(token.into())),
            "leave" => {
                let V1Leave { card_id } = self.data_or_default()?;
                Ok(Command::Leave(card_id.map(ByteString::from)))
            }
            "subscribe" => {
                let V1Subscribe { room, resume } = self.data()?;
                Ok(Command::Subscribe(room_request(room, streams::resume(resume)?)))
            }
            "unsubscribe" => self.data().map(|V1Unsubscribe { room }| Command::Unsubscribe(room_request(room, None))),
            "push" => self.data().and_then(push),
            "message" => {
                let data = self.data.ok_or_else(|| self.without_data())?;
                Ok(Command::Message(ClientMessage { data: data.get().into(), reference: reference(self.reference)? }))
            }
            "ack" => self.data().and_then(streams::ack),
            "ping" => Ok(Command::Ping),
            _ => {
                let message =
                    "unknown event; send join, refresh, leave, subscribe, unsubscribe, push, message, ack or ping";
                Err(ClientError::new("unknown_event", message))
            }
        }
    }

    /// What an event brings that has to bring something.
    fn data<T: Deserialize<'a>>(&self) -> Result<T, ClientError> {
        let data = self.data.ok_or_else(|| self.without_data())?;
        let JsonObject(data) = serde_json::from_str(data.get())?;
        Ok(data)
    }

    fn data_or_default<T: Deserialize<'a> + Default>(&self) -> Result<T, ClientError> {
        let Some(data) = self.data else { return Ok(T::default()) };
        let data: Option<JsonObject<T>> = serde_json::from_str(data.get())?;
        Ok(data.map(|JsonObject(data)| data).unwrap_or_default())
    }

    fn without_data(&self) -> ClientError {
        let needs = match &*self.event {
            "refresh" => "a token in data.token",
            "subscribe" | "unsubscribe" => "a room in data.room",
            "push" => "content, and a room or cards, in data",
            "ack" => "a card and a seq in data",
            _ => "data",
        };
        ClientError::new("bad_json", format!("bad JSON: {} brings {needs}", self.event))
    }
}

fn room_request(room: String, resume: Option<Resume>) -> RoomRequest {
    RoomRequest { room: room.into(), private: false, resume }
}

fn join(join: V1Join<'_>) -> Result<Command, ClientError> {
    Ok(Command::Join(JoinRequest {
        card: join.card_id.unwrap_or_default().into(),
        app: join.app_id.unwrap_or_default().into(),
        token: join.token.map(ByteString::from),
        merge: join.merge.unwrap_or_default(),
        device: streams::device(join.device)?,
        resume: streams::resume(join.resume)?,
    }))
}

fn push(push: V1Push<'_>) -> Result<Command, ClientError> {
    let reference = reference(push.reference)?;
    let Some(content) = Content::of_json(push.content.get()) else {
        let error = ClientError::new("bad_content", "content is null; it must be a text or another JSON value");
        return Err(error.about(reference));
    };
    Ok(Command::Push(ClientPushRequest {
        to: push.to.into_iter().map(ByteString::from).collect(),
        room: push.room.map(ByteString::from),
        content,
        echo: push.echo,
        reference,
    }))
}

/// A client's own mark of a push or a message, to be repeated in the answer.
fn reference(raw: Option<&RawValue>) -> Result<Option<ByteString>, ClientError> {
    let Some(raw) = raw.map(RawValue::get) else { return Ok(None) };
    let is_a_value = raw.starts_with(|first: char| matches!(first, '"' | '-') || first.is_ascii_digit());
    if raw.len() > MAX_REFERENCE || !is_a_value {
        let message = format!("bad JSON: `ref` must be a string or a number of at most {MAX_REFERENCE} bytes");
        return Err(ClientError::new("bad_json", message));
    }
    Ok(Some(raw.into()))
}

/// `push`: a live one, or one of a stream.
fn one_push(push: &Push, mark: Option<&StreamMark<'_>>) -> Frame {
    let name = mark.map_or(0, |mark| mark.address.name().len() + 48);
    Frame::text_in_place(push.content.len() + push.from.len() + name + 128, |json| {
        json.extend_from_slice(br#"{"event":"push","data":"#);
        write_push(json, push, mark);
        json.push(b'}');
    })
}

/// A push as the data of `push`, and as one of the data of `pushes`.
fn write_push(json: &mut Vec<u8>, push: &Push, mark: Option<&StreamMark<'_>>) {
    write(json, format_args!(r#"{{"id":"{}","from":"#, push.id));
    json_string(json, &push.from);
    write(json, format_args!(r#","ts":{}"#, push.id.millis()));
    if let Some(mark) = mark {
        streams::write_mark(json, mark);
    } else if let Some(room) = &push.target.room {
        json.extend_from_slice(br#","room":"#);
        json_string(json, room);
    }
    json.extend_from_slice(br#","content":"#);
    match &push.content {
        Content::Text(text) => json_string(json, text),
        Content::Json(value) => json.extend_from_slice(value.as_bytes()),
        bytes @ Content::Binary(_) => write(json, format_args!(r#""{}","encoding":"base64""#, bytes.to_text())),
    }
    json.push(b'}');
}

/// Who is in a room, among the fields of `subscribed`.
fn write_presence(json: &mut Vec<u8>, present: &PresentCards) {
    json.extend_from_slice(br#","presence":{"node":"#);
    json_string(json, &present.node);
    write(json, format_args!(r#","count":{},"cards":["#, present.count));
    for (nth, card) in present.cards.iter().enumerate() {
        if nth > 0 {
            json.push(b',');
        }
        json_string(json, card);
    }
    json.push(b']');
    if !present.missing.is_empty() {
        json.extend_from_slice(br#","missing":["#);
        for (nth, node) in present.missing.iter().enumerate() {
            if nth > 0 {
                json.push(b',');
            }
            json_string(json, node);
        }
        json.push(b']');
    }
    json.push(b'}');
}

/// An event whose data is one name.
fn named(event: &str, field: &str, name: &str) -> Frame {
    Frame::text_in_place(name.len() + 64, |json| {
        write(json, format_args!(r#"{{"event":"{event}","data":{{"{field}":"#));
        json_string(json, name);
        json.extend_from_slice(b"}}");
    })
}

/// The answer to what a client sent for others.
fn accepted(event: &str, id: PushId, reference: Option<&str>) -> Frame {
    let reference = reference.map(|reference| format!(r#","ref":{reference}"#)).unwrap_or_default();
    Frame::text(&format!(r#"{{"event":"{event}","data":{{"id":"{id}"{reference}}}}}"#))
}

fn write(json: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    json.write_fmt(text).expect("invariant: a Vec takes every write");
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

    pub(super) fn parse(text: &str) -> Command {
        Dialect::OxipushV1.parse(&text.into())
    }

    pub(super) fn error_of(text: &str) -> ClientError {
        match parse(text) {
            Command::ClientError(error) => error,
            other => panic!("{text} gave {other:?}"),
        }
    }

    /// The text of a frame.
    pub(super) fn text_of(frame: &Frame) -> String {
        let bytes = frame.bytes();
        assert_eq!(bytes[0], 0x81);
        let (header, length) = match bytes[1] {
            126 => (4, usize::from(u16::from_be_bytes([bytes[2], bytes[3]]))),
            127 => (10, usize::try_from(u64::from_be_bytes(bytes[2..10].try_into().unwrap())).unwrap()),
            short => (2, usize::from(short)),
        };
        assert_eq!(bytes.len(), header + length);
        String::from_utf8(bytes[header..].to_vec()).unwrap()
    }

    /// Its JSON.
    pub(super) fn json_of(frame: &Frame) -> Value {
        serde_json::from_str(&text_of(frame)).unwrap()
    }

    #[test]
    fn join_leave_and_ping_are_understood() {
        let join = Command::Join(JoinRequest { card: "c".into(), app: "a".into(), ..JoinRequest::default() });
        assert_eq!(parse(r#"{"event":"join","data":{"card_id":"c","app_id":"a"}}"#), join);
        let join = Command::Join(JoinRequest { card: "c".into(), token: Some("t".into()), ..JoinRequest::default() });
        assert_eq!(parse(r#"{"data":{"card_id":"c","device":null,"token":"t"},"event":"join"}"#), join);
        // the names' own check tells that there is no card
        let join = Command::Join(JoinRequest::default());
        assert_eq!(parse(r#"{"event":"join"}"#), join);
        assert_eq!(parse(r#"{"event":"refresh","data":{"token":"t"}}"#), Command::Refresh("t".into()));
        assert_eq!(parse(r#"{"event":"leave"}"#), Command::Leave(None));
        assert_eq!(parse(r#"{"event":"leave","data":{"card_id":"c"}}"#), Command::Leave(Some("c".into())));
        assert_eq!(parse(r#"{"event":"ping","data":{}}"#), Command::Ping);
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
            json_of(&v1.joined(&Joined { card: "c\"", app: "", client: &7, expires_in: None }).unwrap()),
            json!({"event": "joined", "data": {"card_id": "c\"", "app_id": "", "client": "7"}})
        );
        let minute = Some(Duration::from_millis(60_999));
        assert_eq!(
            json_of(&v1.joined(&Joined { card: "c", app: "a", client: &7, expires_in: minute }).unwrap()),
            json!({"event": "joined", "data": {"card_id": "c", "app_id": "a", "client": "7", "expires_in": 60}})
        );
        assert_eq!(json_of(&v1.refreshed(minute).unwrap()), json!({"event": "refreshed", "data": {"expires_in": 60}}));
        assert_eq!(json_of(&v1.refreshed(None).unwrap()), json!({"event": "refreshed", "data": {}}));
        assert_eq!(json_of(&v1.left(None).unwrap()), json!({"event": "left"}));
        assert_eq!(json_of(&v1.pong()), json!({"event": "pong"}));
        assert_eq!(
            json_of(&v1.drain(Duration::from_millis(1500)).unwrap()),
            json!({"event": "drain", "data": {"reconnect_in_ms": 1500}})
        );
        let error = ClientError::new("bad_name", "card_id is empty");
        assert_eq!(
            json_of(&v1.error(&error).unwrap().unwrap()),
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
                deadline: None,
            };
            let data = json!({
                "id": push.id.to_string(), "from": "the \"boss\"", "ts": 1_700_000_000_123_u64, "content": push.content.to_text(),
            });
            assert_eq!(json_of(&Dialect::OxipushV1.push(&push)), json!({"event": "push", "data": data}));
        }
    }
}
