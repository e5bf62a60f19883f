//! A push as its caller wrote it.

use bytes::Bytes;
use bytestring::ByteString;
use serde_json::value::RawValue;

use super::refusal::Refusal;
use crate::{
    hub::ClientId,
    proto::rpc::{self, PushRequest},
    push::{Content, Exclude, Push, PushId, Target},
};

/// Options of the design that are not built yet: refused by name, never ignored.
pub(super) const NOT_BUILT: [&str; 1] = ["deliver_at"];

/// A push that is not checked yet and has no id. Empty texts are none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)] // the API's own fields
pub(crate) struct Draft {
    pub from: ByteString,
    pub to: Vec<ByteString>,
    pub app: ByteString,
    pub room: ByteString,
    pub everyone: bool,
    pub exclude: Option<Box<Exclude>>,
    /// `None`: an empty text.
    pub content: Option<Content>,
    pub collapse_key: ByteString,
    pub options: PushOptions,
}

/// How long a push is good, and what a retry of it does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PushOptions {
    /// It is stored, for those who are away too.
    pub offline: bool,
    /// Seconds after which it leaves for no socket. Not checked yet.
    pub ttl: Option<u64>,
    /// By which a retry is known; empty: by nothing. Not checked yet.
    pub idempotency_key: ByteString,
}

impl Draft {
    /// What a gRPC caller or another NSQ client wrote.
    pub(super) fn of(request: PushRequest) -> Result<Self, Refusal> {
        let PushRequest { from, to, app_id, room, everyone, exclude, content, data, json, .. } = request;
        let PushRequest { collapse_key, offline, ttl, deliver_at, idempotency_key, .. } = request;
        if deliver_at != 0 {
            return Err(Refusal::not_built("deliver_at"));
        }
        // 0 is what protobuf makes of an option that is left out
        let ttl = (ttl != 0).then_some(ttl);
        Ok(Self {
            from: from.into(),
            to: texts(to),
            app: app_id.into(),
            room: room.into(),
            everyone,
            exclude: exclude.map_or(Ok(None), excluded)?,
            content: Some(one_content(content, data.into(), json)?),
            collapse_key: collapse_key.into(),
            options: PushOptions { offline, ttl, idempotency_key: idempotency_key.into() },
        })
    }

    /// Whether it says whom it is for.
    pub(super) fn names_somebody(&self) -> bool {
        !self.to.is_empty() || !self.room.is_empty() || !self.app.is_empty() || self.everyone
    }

    /// The push that it asks for, without an end yet, and its options.
    pub(super) fn with(self, id: PushId) -> (Push, PushOptions) {
        let Self { from, to, app, room, everyone, exclude, content, collapse_key, options } = self;
        let given = |text: ByteString| (!text.is_empty()).then_some(text);
        let push = Push {
            id,
            from,
            target: Target { cards: to, room: given(room), app: given(app), everyone, exclude },
            content: content.unwrap_or_else(|| "".into()),
            collapse_key: given(collapse_key),
            deadline: None,
        };
        (push, options)
    }
}

fn texts(texts: Vec<String>) -> Vec<ByteString> {
    texts.into_iter().map(ByteString::from).collect()
}

/// `None`: it excludes nobody.
fn excluded(exclude: rpc::Exclude) -> Result<Option<Box<Exclude>>, Refusal> {
    let rpc::Exclude { cards, client } = exclude;
    if cards.is_empty() && client.is_empty() {
        return Ok(None);
    }
    Ok(Some(Box::new(Exclude { cards: texts(cards), client: excluded_client(&client)? })))
}

/// The client whose id is `exclude.client`; `None`: there is no id.
pub(super) fn excluded_client(id: &str) -> Result<Option<[u8; 16]>, Refusal> {
    if id.is_empty() {
        return Ok(None);
    }
    match ClientId::parse(id) {
        Some(client) => Ok(Some(client.to_bytes())),
        None => Err(Refusal::field("exclude.client", "is no client's id: it has 26 characters")),
    }
}

/// The one that is there of the three ways to say what is delivered.
fn one_content(content: String, data: Bytes, json: String) -> Result<Content, Refusal> {
    let given = [("content", !content.is_empty()), ("data", !data.is_empty()), ("json", !json.is_empty())];
    let mut given = given.into_iter().filter(|(_, given)| *given).map(|(field, _)| field);
    let first = given.next();
    if let (Some(first), Some(second)) = (first, given.next()) {
        return Err(Refusal::field(second, format_args!("stands beside `{first}`; give one of them")));
    }
    match first {
        Some("data") => Ok(Content::of_bytes(data)),
        Some("json") => {
            let json = ByteString::from(json);
            let value: Result<&RawValue, _> = serde_json::from_str(&json);
            let value = value.map_err(|error| Refusal::field("json", format_args!("is no JSON: {error}")))?;
            json_content("json", json.slice_ref(value.get()))
        }
        _ => Ok(content.into()),
    }
}

/// The content that a JSON value is, which stands in `field` and which `value` is without blanks around it: a string is a text.
pub(super) fn json_content(field: &str, value: ByteString) -> Result<Content, Refusal> {
    if value.starts_with('"') {
        let text: Result<String, _> = serde_json::from_str(&value);
        return text.map(Content::from).map_err(|error| Refusal::field(field, format_args!("is no JSON: {error}")));
    }
    if value == "null" {
        return Err(Refusal::field(field, "is null; it must be a string or another JSON value"));
    }
    Ok(Content::of_json_value(value))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn of(request: PushRequest) -> Result<Draft, Refusal> {
        Draft::of(PushRequest { to: vec!["a".into()], ..request })
    }

    #[test]
    fn a_request_of_grpc_has_one_content_in_one_of_three_forms() {
        let (text, bytes, json) = ("text", b"\xff\xfe".to_vec(), "{\"a\": 1.0}");
        for (request, content) in [
            (PushRequest::default(), Content::from("")),
            (PushRequest { content: text.into(), ..Default::default() }, text.into()),
            (PushRequest { data: bytes.clone(), ..Default::default() }, Content::Binary(bytes.clone().into())),
            (PushRequest { data: text.into(), ..Default::default() }, text.into()),
            (PushRequest { json: json.into(), ..Default::default() }, Content::Json("{\"a\":1.0}".into())),
            (PushRequest { json: " \"a\\n\" ".into(), ..Default::default() }, "a\n".into()),
        ] {
            assert_eq!(of(request).unwrap().content, Some(content));
        }
        for (request, message) in [
            (
                PushRequest { content: text.into(), data: bytes, ..Default::default() },
                "`data` stands beside `content`; give one of them",
            ),
            (
                PushRequest { data: text.into(), json: "1".into(), ..Default::default() },
                "`json` stands beside `data`; give one of them",
            ),
            (
                PushRequest { json: "null".into(), ..Default::default() },
                "`json` is null; it must be a string or another",
            ),
            (PushRequest { json: "{".into(), ..Default::default() }, "`json` is no JSON: EOF while parsing"),
            (PushRequest { json: "1 2".into(), ..Default::default() }, "`json` is no JSON: trailing characters"),
            (PushRequest { json: "\"\\ud800\"".into(), ..Default::default() }, "`json` is no JSON: "),
        ] {
            let refusal = of(request).unwrap_err();
            assert!(refusal.message.starts_with(message), "{}", refusal.message);
        }
    }

    #[test]
    fn a_request_of_grpc_excludes_cards_and_a_client_by_its_id() {
        let id = "0123456789ABCDEFGHJKMNPQRS";
        let exclude = |cards: &[&str], client: &str| {
            let cards = cards.iter().map(|&card| card.into()).collect();
            of(PushRequest { exclude: Some(rpc::Exclude { cards, client: client.into() }), ..Default::default() })
        };
        assert_eq!(exclude(&[], "").unwrap().exclude, None);
        let client = ClientId::parse(id).map(ClientId::to_bytes);
        let both = Exclude { cards: vec!["a".into()], client };
        assert_eq!(exclude(&["a"], id).unwrap().exclude, Some(Box::new(both)));
        let refusal = exclude(&["a"], "alice").unwrap_err();
        assert_eq!(refusal.message, "`exclude.client` is no client's id: it has 26 characters");
    }
}
