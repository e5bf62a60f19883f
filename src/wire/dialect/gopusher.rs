//! gopusher's dialect, byte for byte (predecessors.md D2 is its source).

use std::borrow::Cow;

use bytestring::ByteString;
use serde::Deserialize;

use super::{Command, Mistake, Object};
use crate::{
    push::Push,
    wire::{
        close::{Close, Ending},
        frame::{Frame, json_string},
    },
};

/// gopusher's own words; its clients may look for them.
const UNKNOWN_EVENT: &str = "E_INVALID_EVENT - unknown event";

/// Unknown fields are ignored here and below: gopusher ignores them.
#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow, default)]
    event: Cow<'a, str>,
}

#[derive(Deserialize)]
struct JoinEnvelope {
    #[serde(default)]
    data: Option<Object<Join>>,
}

#[derive(Default, Deserialize)]
struct Join {
    #[serde(default)]
    card_id: Option<String>,
    #[serde(default)]
    app_id: Option<String>,
}

pub(super) fn parse(text: &ByteString) -> Command {
    let Object(envelope): Object<Envelope<'_>> = match serde_json::from_str(text) {
        Ok(envelope) => envelope,
        Err(error) => return bad_json(&error),
    };
    match &*envelope.event {
        "join" => match serde_json::from_str::<JoinEnvelope>(text) {
            Ok(envelope) => {
                let join = envelope.data.map(|Object(join)| join).unwrap_or_default();
                let [card, app] = [join.card_id, join.app_id].map(|name| name.unwrap_or_default().into());
                Command::Join { card, app }
            }
            Err(error) => bad_json(&error),
        },
        "ping" => Command::Ping,
        "read" => Command::Nothing,
        _ => Command::End(bad_message(Cow::Borrowed(UNKNOWN_EVENT))),
    }
}

pub(super) fn push(push: &Push) -> Frame {
    Frame::text_in_place(push.content.len() + 24, |json| {
        json.extend_from_slice(br#"{"type":1,"data":"#);
        json_string(json, &push.content);
        json.push(b'}');
    })
}

pub(super) fn ok() -> Frame {
    Frame::text(r#"{"type":1,"data":"ok"}"#)
}

pub(super) fn ending(mistake: &Mistake) -> Ending {
    bad_message(mistake.message.clone())
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
        Command::Join { card: card.into(), app: app.into() }
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

    #[test]
    fn answers_are_gopushers_bytes() {
        let ok = b"\x81\x16{\"type\":1,\"data\":\"ok\"}";
        assert_eq!(Dialect::Gopusher.joined(&"c".into(), &"a".into()).bytes(), &ok[..]);
        assert_eq!(Dialect::Gopusher.pong().bytes(), &ok[..]);
        assert_eq!(Dialect::Gopusher.left(), None);
        let push = Push {
            id: PushId::from_parts(1, 2),
            from: "boss".into(),
            target: Target { cards: vec!["c".into()], app: None },
            content: "say \"hi\"\n\u{1}ü<".into(),
            collapse_key: None,
        };
        let frame = Dialect::Gopusher.push(&push);
        let json = "{\"type\":1,\"data\":\"say \\\"hi\\\"\\n\\u0001ü<\"}";
        assert_eq!(&frame.bytes()[..2], &[0x81, json.len() as u8]);
        assert_eq!(&frame.bytes()[2..], json.as_bytes());
    }

    #[test]
    fn a_mistake_is_the_end() {
        let mistake = Mistake { code: "bad_name", message: "card_id is empty".into() };
        let ending = Dialect::Gopusher.mistake(&mistake).unwrap_err();
        assert_eq!(ending, Ending { close: Close::BadMessage, text: "card_id is empty".into() });
    }
}
