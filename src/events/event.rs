//! One event, and its JSON.

use bytes::Bytes;
use bytestring::ByteString;
use serde::Serialize;

use crate::{config::EventKind, hub::ClientId, push::PushId};

/// What is told of a client. What does not apply is `None`, and left out of the JSON. The time is that of the id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Made for this event: a back end that gets it twice knows it by that.
    pub id: PushId,
    /// What happened.
    pub kind: EventKind,
    /// Whose connection.
    pub client: Option<ClientId>,
    /// The card that it is about, or the first that the client joined.
    pub card: Option<ByteString>,
    /// The app that the client joined as.
    pub app: Option<ByteString>,
    /// The room.
    pub room: Option<ByteString>,
    /// Valid JSON, as it is.
    pub data: Option<ByteString>,
    /// The close code.
    pub code: Option<u16>,
}

/// As it is written, but for `data` and `code`.
#[derive(Serialize)]
struct EventJson<'a> {
    id: String,
    #[serde(rename = "type")]
    kind: &'a str,
    node: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    client: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    card: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    app: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    room: Option<&'a str>,
    time: u64,
}

impl Event {
    /// Of this kind and moment; all else is `None`.
    pub fn new(kind: EventKind) -> Self {
        let id = PushId::generate();
        Self { id, kind, client: None, card: None, app: None, room: None, data: None, code: None }
    }

    /// Events of one lane keep their order: those of a card, or of a client that has none.
    pub(super) fn lane(&self) -> ByteString {
        match (&self.card, self.client) {
            (Some(card), _) => card.clone(),
            (None, Some(client)) => client.to_string().into(),
            (None, None) => ByteString::new(),
        }
    }

    /// Its JSON on one line, told by `node`.
    pub(super) fn encode(&self, node: &str) -> Bytes {
        let json = EventJson {
            id: self.id.to_string(),
            kind: self.kind.word(),
            node,
            client: self.client.map(|client| client.to_string()),
            card: self.card.as_deref(),
            app: self.app.as_deref(),
            room: self.room.as_deref(),
            time: self.id.millis(),
        };
        let mut text = Vec::with_capacity(256 + self.data.as_ref().map_or(0, |data| data.len()));
        serde_json::to_writer(&mut text, &json).expect("invariant: texts and numbers are JSON");
        // the closing brace
        text.pop();
        if let Some(data) = &self.data {
            text.extend_from_slice(b",\"data\":");
            let from = text.len();
            text.extend_from_slice(data.as_bytes());
            // line ends stand between tokens only: in a text they are escaped
            text[from..].iter_mut().filter(|byte| matches!(**byte, b'\n' | b'\r')).for_each(|byte| *byte = b' ');
        }
        if let Some(code) = self.code {
            text.extend_from_slice(format!(",\"code\":{code}").as_bytes());
        }
        text.push(b'}');
        text.into()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn an_event_is_one_line_of_json_without_what_does_not_apply() {
        let id = PushId::from_parts(1_700_000_000_000, 7);
        let bare = Event { id, ..Event::new(EventKind::Drops) };
        let text = bare.encode("n1");
        let expected = format!(r#"{{"id":"{id}","type":"drops","node":"n1","time":1700000000000}}"#);
        assert_eq!(text, expected);
        let client = ClientId::from_bytes([1; 16]);
        let full = Event {
            id,
            client: Some(client),
            card: Some("al\"ice".into()),
            app: Some("web".into()),
            room: Some("lobby".into()),
            data: Some("{\"a\":\n [1,\r\n\"two\\n\"]}".into()),
            code: Some(1000),
            ..Event::new(EventKind::Message)
        };
        let text = full.encode("n1");
        assert!(!text.contains(&b'\n') && !text.contains(&b'\r'));
        let value: Value = serde_json::from_slice(&text).unwrap();
        let expected = json!({
            "id": id.to_string(), "type": "message", "node": "n1", "client": client.to_string(), "card": "al\"ice", "app": "web",
            "room": "lobby", "time": 1_700_000_000_000_u64, "data": {"a": [1, "two\n"]}, "code": 1000,
        });
        assert_eq!(value, expected);
    }

    #[test]
    fn a_cards_events_are_of_one_lane_and_a_clients_without_one_too() {
        let client = Some(ClientId::from_bytes([1; 16]));
        let named = Event { card: Some("alice".into()), client, ..Event::new(EventKind::Joined) };
        let nameless = Event { client, ..Event::new(EventKind::Connected) };
        assert_eq!(named.lane(), "alice");
        assert_eq!(nameless.lane().to_string(), ClientId::from_bytes([1; 16]).to_string());
        assert_eq!(Event::new(EventKind::Drops).lane(), "");
    }
}
