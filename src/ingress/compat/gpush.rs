//! gpush: `POST /v1/pushData` in protobuf's JSON, and the call `PushData` of `order.Proxy`.
//!
//! A uid is a card, a topic a room. With both, the push is for the card's clients in its private room `private-<topic>`; gpush also
//! reaches those that subscribed to an open topic of that name, which was a defect.

use base64::{
    Engine,
    alphabet::{STANDARD, URL_SAFE},
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use bytes::Bytes;
use bytestring::ByteString;
use serde_json::{Map, Value, json};
use tonic::Code;

use crate::{
    config::PushLimits,
    ingress::{
        draft::Draft,
        refusal::{Refusal, RefusalKind},
    },
    push::{Content, NameRule, PRIVATE_TOPICS},
};

/// Base64 with or without `=` at its end, as Go's protojson takes it.
const LENIENT: GeneralPurposeConfig = GeneralPurposeConfig::new()
    .with_decode_padding_mode(DecodePaddingMode::Indifferent)
    .with_decode_allow_trailing_bits(true);
const OF_STANDARD: GeneralPurpose = GeneralPurpose::new(&STANDARD, LENIENT);
const URL_SAFE_ONE: GeneralPurpose = GeneralPurpose::new(&URL_SAFE, LENIENT);

/// What a caller of gpush pushes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::ingress) struct TopicPush {
    pub(in crate::ingress) uid: String,
    pub(in crate::ingress) topic: String,
    pub(in crate::ingress) data: Bytes,
}

impl TopicPush {
    /// Reads the body of `POST /v1/pushData`: unknown fields are passed over, as gpush does.
    pub(in crate::ingress) fn read(body: &[u8]) -> Result<Self, Refusal> {
        let text = simdutf8::basic::from_utf8(body)
            .map_err(|_| Refusal::new(RefusalKind::NotUtf8, "the body is not UTF-8"))?;
        if text.trim_ascii().is_empty() {
            return Err(Refusal::new(RefusalKind::BadJson, "the body is empty; send uid, topic and data (base64)"));
        }
        let fields: Map<String, Value> = serde_json::from_str(text)
            .map_err(|error| Refusal::new(RefusalKind::BadJson, format!("the body is no JSON object: {error}")))?;
        let data = field(&fields, "data")?;
        let bytes = OF_STANDARD.decode(data).or_else(|_| URL_SAFE_ONE.decode(data));
        let data = bytes.map_err(|_| Refusal::field("data", "is no base64"))?;
        Ok(Self {
            uid: field(&fields, "uid")?.to_owned(),
            topic: field(&fields, "topic")?.to_owned(),
            data: data.into(),
        })
    }

    /// The push that it asks for.
    ///
    /// # Errors
    /// A name that cannot be one; or nothing is named and there is no data, which gpush pushes to everyone.
    pub(in crate::ingress) fn draft(self, limits: &PushLimits) -> Result<Draft, Refusal> {
        let Self { uid, topic, data } = self;
        let uid = ByteString::from(uid);
        let topic = ByteString::from(topic);
        let name = NameRule { max: limits.max_name };
        name.check_optional(&uid).map_err(|error| Refusal::field("uid", error))?;
        name.check_optional(&topic).map_err(|error| Refusal::field("topic", error))?;
        let everyone = uid.is_empty() && topic.is_empty();
        if everyone && data.is_empty() {
            return Err(Refusal::field("data", "is missing; without uid and topic it would be for everyone"));
        }
        let content = Some(Content::of_bytes(data));
        let to_card = !uid.is_empty();
        let room = if to_card { format!("{PRIVATE_TOPICS}{topic}").into() } else { topic };
        let to = if to_card { vec![uid] } else { Vec::new() };
        Ok(Draft { to, room, everyone, content, ..Draft::default() })
    }
}

/// A text, which may be missing or `null`.
fn field<'a>(fields: &'a Map<String, Value>, name: &str) -> Result<&'a str, Refusal> {
    match fields.get(name) {
        None | Some(Value::Null) => Ok(""),
        Some(Value::String(text)) => Ok(text),
        Some(_) => Err(Refusal::field(name, "must be a string")),
    }
}

/// A refusal as gpush's HTTP gateway says it: its body.
pub(in crate::ingress) fn refusal_body(refusal: &Refusal) -> String {
    let (code, message) = match refusal.kind {
        RefusalKind::WrongMethod => (Code::Unimplemented, "Method Not Allowed"),
        kind => (kind.grpc().unwrap_or(Code::InvalidArgument), &*refusal.message),
    };
    // in the order of gpush's own
    let code = code as i32;
    let message = json!(message);
    format!(r#"{{"code":{code},"message":{message},"details":[]}}"#)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::Duration;

    use super::*;

    const LIMITS: PushLimits =
        PushLimits { max_content: 1000, max_cards: 10, max_name: 16, max_batch: 3, max_ttl: Duration::from_secs(3600) };

    fn draft(body: &str) -> Result<Draft, Refusal> {
        TopicPush::read(body.as_bytes())?.draft(&LIMITS)
    }

    #[test]
    fn uid_and_topic_say_who_gets_it() {
        for (body, to, room, everyone) in [
            (r#"{"uid":"u1","topic":"t","data":"eA=="}"#, &["u1"][..], "private-t", false),
            (r#"{"uid":"u1","data":"eA=="}"#, &["u1"], "private-", false),
            (r#"{"topic":"t","data":"eA=="}"#, &[], "t", false),
            (r#"{"topic":"t"}"#, &[], "t", false),
            (r#"{"uid":"","topic":null,"data":"eA==","x":1}"#, &[], "", true),
        ] {
            let draft = draft(body).unwrap();
            assert_eq!(
                (&draft.to[..], &*draft.room, draft.everyone),
                (&to.iter().map(|&card| card.into()).collect::<Vec<ByteString>>()[..], room, everyone),
                "{body}"
            );
        }
    }

    #[test]
    fn data_is_base64_of_either_alphabet_padded_or_not_and_any_bytes() {
        for (data, content) in [
            ("5o6o6YCBIDxiPg==", Content::from("推送 <b>")),
            ("5o6o6YCBIDxiPg", Content::from("推送 <b>")),
            ("-_8=", Content::Binary(Bytes::from_static(b"\xfb\xff"))),
            ("+/8", Content::Binary(Bytes::from_static(b"\xfb\xff"))),
        ] {
            assert_eq!(draft(&format!(r#"{{"topic":"t","data":"{data}"}}"#)).unwrap().content, Some(content), "{data}");
        }
    }

    #[test]
    fn what_is_refused_is_said_as_gpush_says_it() {
        for (body, message) in [
            ("", "the body is empty"),
            (" \n", "the body is empty"),
            ("{", "the body is no JSON object"),
            ("[]", "the body is no JSON object"),
            (r#"{"topic":"t","data":"***"}"#, "`data` is no base64"),
            (r#"{"topic":"t","data":"-/8="}"#, "`data` is no base64"),
            (r#"{"topic":7}"#, "`topic` must be a string"),
            ("{}", "`data` is missing"),
            (r#"{"x":1}"#, "`data` is missing"),
            (r#"{"topic":"a-name-of-more-than-16","data":"eA=="}"#, "`topic` has 22 bytes"),
        ] {
            let refusal = draft(body).unwrap_err();
            assert!(refusal.message.starts_with(message), "{body}: {}", refusal.message);
            let told: Value = serde_json::from_str(&refusal_body(&refusal)).unwrap();
            assert_eq!(told, json!({"code": 3, "message": refusal.message, "details": []}), "{body}");
        }
        let method = Refusal::new(RefusalKind::WrongMethod, "this path answers POST only");
        assert_eq!(refusal_body(&method), r#"{"code":12,"message":"Method Not Allowed","details":[]}"#);
    }
}
