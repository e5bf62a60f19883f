//! Pushes, and orders to end clients, as JSON: read in one pass, texts without escapes shared with the request's body, every mistake named.
//!
//! A mistake inside a push (a wrong type, an unknown field) does not stop the reading, so that in a batch it costs only that
//! push. What serde cannot read does stop it: then the batch is taken apart by its brackets, and each push read by itself.

mod disconnect;
mod expected;

use std::fmt;

use bytes::Bytes;
use bytestring::ByteString;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::{
    config::PushLimits,
    ingress::{
        draft::{Draft, NOT_BUILT},
        limits::{too_many_cards, too_many_pushes},
        refusal::{Refusal, RefusalKind},
    },
};

pub(super) use disconnect::disconnect;

use expected::{Expected, ValueSeed};

/// Shown to who sends what is no JSON.
const PUSH_EXAMPLE: &str = r#"{"to":["card"],"content":"text"}"#;

/// Reads the body of `POST /push`.
pub(super) fn push(body: &Bytes, limits: &PushLimits) -> Result<Draft, Refusal> {
    parse("body", PUSH_EXAMPLE, text(body)?, PushSeed { body, limits })?
}

/// Reads the body of `POST /push/batch`: an array of pushes.
pub(super) fn batch(body: &Bytes, limits: &PushLimits) -> Result<Vec<Result<Draft, Refusal>>, Refusal> {
    let text = text(body)?;
    let push = PushSeed { body, limits };
    parse("body", PUSH_EXAMPLE, text, BatchSeed(push)).unwrap_or_else(|refusal| {
        match elements(text, limits.max_batch) {
            Some(pushes) if pushes.len() > limits.max_batch => Err(too_many_pushes(limits.max_batch)),
            Some(pushes) => {
                Ok(pushes.into_iter().map(|text| parse("push", PUSH_EXAMPLE, text, push).flatten()).collect())
            }
            None => Err(refusal),
        }
    })
}

/// The body as text, without the byte order mark that some editors and shells put before it.
fn text(body: &Bytes) -> Result<&str, Refusal> {
    let text =
        simdutf8::basic::from_utf8(body).map_err(|_| Refusal::new(RefusalKind::NotUtf8, "the body is not UTF-8"))?;
    Ok(text.strip_prefix('\u{feff}').unwrap_or(text))
}

fn parse<'de, T: Expected<'de>>(what: &str, example: &str, text: &'de str, expected: T) -> Result<T::Output, Refusal> {
    let mut json = serde_json::Deserializer::from_str(text);
    let parsed = ValueSeed(expected).deserialize(&mut json).and_then(|value| json.end().map(|()| value));
    parsed.map_err(|error| {
        let why = if is_a_form(text) { "it is a form".into() } else { error.to_string() };
        Refusal::new(RefusalKind::BadJson, format!("the {what} is not JSON: {why}; send {example}"))
    })
}

/// `to=a&content=b`.
fn is_a_form(text: &str) -> bool {
    text.split_once('=').is_some_and(|(name, _)| {
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.[]%+".contains(&byte))
    })
}

/// The elements of a list as its brackets, commas and quotes alone tell them, one more than `most` of them at most; `None` where
/// these make no list.
fn elements(list: &str, most: usize) -> Option<Vec<&str>> {
    let inner = list.trim_ascii().strip_prefix('[')?.strip_suffix(']')?;
    let mut elements = Vec::new();
    let mut from = 0;
    let mut depth = 0_usize;
    let mut quoted = false;
    let mut escaped = false;
    for (at, byte) in inner.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            _ if quoted => {}
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.checked_sub(1)?,
            b',' if depth == 0 => {
                elements.push(&inner[from..at]);
                from = at + 1;
                if elements.len() > most {
                    return Some(elements);
                }
            }
            _ => {}
        }
    }
    elements.push(&inner[from..]);
    let whole = depth == 0 && !quoted && elements.iter().all(|element| !element.trim_ascii().is_empty());
    whole.then_some(elements)
}

/// A push.
#[derive(Clone, Copy)]
struct PushSeed<'b> {
    body: &'b Bytes,
    limits: &'b PushLimits,
}

impl<'de> Expected<'de> for PushSeed<'_> {
    type Output = Result<Draft, Refusal>;

    fn other(self, kind: &'static str) -> Self::Output {
        Err(Refusal::new(RefusalKind::BadJson, format!("a push must be an object, not {kind}")))
    }

    fn object<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Output, A::Error> {
        let mut draft = Draft::default();
        let mut seen = 0_u8;
        // the first error is the one that is told
        let mut refusal = None;
        while let Some(key) = map.next_key_seed(KeySeed)? {
            let known = if let Key::Known(field) = &key { field.bit() } else { 0 };
            let given = match &key {
                Key::Known(field) if seen & known != 0 => {
                    map.next_value::<IgnoredAny>().map(|_| Err(Refusal::field(field.name(), "is given twice")))
                }
                Key::Known(PushField::To) => {
                    map.next_value_seed(ValueSeed(CardsSeed(self))).map(|cards| cards.map(|cards| draft.to = cards))
                }
                Key::Known(field) => {
                    map.next_value_seed(ValueSeed(TextSeed { body: self.body })).map(|text| match text {
                        Ok(text) => {
                            *field.of(&mut draft) = text;
                            Ok(())
                        }
                        // it counts as absent, as gopusher's gateway has it; but a push needs its content
                        Err("null") if !matches!(field, PushField::Content) => Ok(()),
                        Err(kind) => Err(Refusal::field(field.name(), format_args!("is {kind}; it must be a string"))),
                    })
                }
                Key::NotBuilt(option) => map
                    .next_value::<&RawValue>()
                    .map(|value| if asks(value) { Err(Refusal::not_built(option)) } else { Ok(()) }),
                Key::Unknown(name) => map.next_value::<IgnoredAny>().map(|_| Err(no_field(name))),
            };
            let given = given.map_err(|error| A::Error::custom(format_args!("`{}`: {error}", key.name())))?;
            seen |= known;
            refusal = refusal.or(given.err());
        }
        let missing = |field: PushField| (seen & field.bit() == 0).then(|| Refusal::field(field.name(), "is missing"));
        Ok(match refusal.or_else(|| missing(PushField::To)).or_else(|| missing(PushField::Content)) {
            Some(refusal) => Err(refusal),
            None => Ok(draft),
        })
    }
}

/// A list of pushes.
struct BatchSeed<'b>(PushSeed<'b>);

impl<'de> Expected<'de> for BatchSeed<'_> {
    type Output = Result<Vec<Result<Draft, Refusal>>, Refusal>;

    fn other(self, kind: &'static str) -> Self::Output {
        Err(Refusal::new(RefusalKind::BadJson, format!("a batch must be a list of pushes, not {kind}")))
    }

    fn list<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Output, A::Error> {
        let mut pushes = Vec::new();
        let limit = self.0.limits.max_batch;
        while pushes.len() < limit {
            match list.next_element_seed(ValueSeed(self.0))? {
                Some(push) => pushes.push(push),
                None => return Ok(Ok(pushes)),
            }
        }
        let mut more = false;
        while list.next_element::<IgnoredAny>()?.is_some() {
            more = true;
        }
        Ok(if more { Err(too_many_pushes(limit)) } else { Ok(pushes) })
    }
}

#[derive(Clone, Copy)]
enum PushField {
    From,
    To,
    App,
    Content,
    CollapseKey,
}

impl PushField {
    const ALL: [Self; 5] = [Self::From, Self::To, Self::App, Self::Content, Self::CollapseKey];

    fn name(self) -> &'static str {
        match self {
            Self::From => "from",
            Self::To => "to",
            Self::App => "appID",
            Self::Content => "content",
            Self::CollapseKey => "collapse_key",
        }
    }

    fn bit(self) -> u8 {
        1 << self as u8
    }

    fn of(self, draft: &mut Draft) -> &mut ByteString {
        match self {
            Self::From => &mut draft.from,
            Self::App => &mut draft.app,
            Self::CollapseKey => &mut draft.collapse_key,
            Self::To | Self::Content => &mut draft.content,
        }
    }
}

enum Key {
    Known(PushField),
    NotBuilt(&'static str),
    Unknown(String),
}

impl Key {
    fn name(&self) -> &str {
        match self {
            Self::Known(field) => field.name(),
            Self::NotBuilt(option) => option,
            Self::Unknown(name) => name,
        }
    }
}

/// A field that does not exist, with the one that was likely meant.
fn no_field(name: &str) -> Refusal {
    let plain = |name: &str| name.replace(['_', '-'], "").to_ascii_lowercase();
    let mut known = PushField::ALL.into_iter().map(PushField::name).chain(NOT_BUILT);
    let advice = match known.find(|known| plain(known) == plain(name)) {
        Some(known) => format!("write `{known}`"),
        None => "a push has from, to, appID, content and collapse_key".into(),
    };
    Refusal::new(RefusalKind::UnknownField, format!("`{name}` is no field; {advice}"))
}

struct KeySeed;

impl<'de> DeserializeSeed<'de> for KeySeed {
    type Value = Key;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Key, D::Error> {
        json.deserialize_str(self)
    }
}

impl Visitor<'_> for KeySeed {
    type Value = Key;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field's name")
    }

    fn visit_str<E>(self, name: &str) -> Result<Key, E> {
        Ok(match PushField::ALL.into_iter().find(|field| field.name() == name) {
            Some(field) => Key::Known(field),
            None => match NOT_BUILT.into_iter().find(|option| *option == name) {
                Some(option) => Key::NotBuilt(option),
                None => Key::Unknown(name.chars().take(64).collect()),
            },
        })
    }
}

/// Whether an option that is not built is asked for. null, false, 0 and "" ask for nothing, as in protobuf, which cannot tell them
/// from an option that is left out.
fn asks(value: &RawValue) -> bool {
    match value.get() {
        "null" | "false" | r#""""# => false,
        other => other.parse() != Ok(0.0),
    }
}

/// A text. An error is the kind of what stood there instead.
struct TextSeed<'b> {
    body: &'b Bytes,
}

impl<'de> Expected<'de> for TextSeed<'_> {
    type Output = Result<ByteString, &'static str>;

    fn other(self, kind: &'static str) -> Self::Output {
        Err(kind)
    }

    fn borrowed_text<E: Error>(self, text: &'de str) -> Result<Self::Output, E> {
        // it lies in the body, so that it can share its bytes
        let shared = self.body.slice_ref(text.as_bytes());
        ByteString::try_from(shared).map(Ok).map_err(E::custom)
    }

    fn text<E: Error>(self, text: &str) -> Result<Self::Output, E> {
        Ok(Ok(ByteString::from(text)))
    }
}

/// A list of cards.
struct CardsSeed<'b>(PushSeed<'b>);

impl<'de> Expected<'de> for CardsSeed<'_> {
    type Output = Result<Vec<ByteString>, Refusal>;

    fn other(self, kind: &'static str) -> Self::Output {
        Err(Refusal::field("to", format_args!("is {kind}; it must be a list of cards")))
    }

    fn list<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Output, A::Error> {
        let PushSeed { body, limits } = self.0;
        let mut cards = Vec::new();
        let mut refusal = None;
        while let Some(card) = list.next_element_seed(ValueSeed(TextSeed { body }))? {
            match card {
                _ if refusal.is_some() => {}
                _ if cards.len() == limits.max_cards => refusal = Some(too_many_cards(limits.max_cards)),
                Ok(card) => cards.push(card),
                Err(kind) => {
                    let field = format!("to[{}]", cards.len());
                    refusal = Some(Refusal::field(&field, format_args!("is {kind}; it must be a string")));
                }
            }
        }
        Ok(refusal.map_or(Ok(cards), Err))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const LIMITS: PushLimits = PushLimits { max_content: 1000, max_cards: 3, max_name: 8, max_batch: 2 };

    fn read(body: &str) -> Result<Draft, Refusal> {
        push(&Bytes::copy_from_slice(body.as_bytes()), &LIMITS)
    }

    #[test]
    fn gopushers_example_is_read_without_copies() {
        let body = Bytes::from_static(br#"{"from":"server","to":["mayun"],"appID":"alibaba","content":"hello"}"#);
        let draft = push(&body, &LIMITS).unwrap();
        assert_eq!((&*draft.from, &*draft.app, &*draft.content), ("server", "alibaba", "hello"));
        assert_eq!(draft.to, ["mayun"]);
        assert!(body.as_ptr_range().contains(&draft.content.as_bytes().as_ptr()));
    }

    #[test]
    fn escapes_nulls_and_blanks_are_read() {
        let draft =
            read("\n{ \"to\" : [\"a\\u00fc\"], \"content\":\"\\\"\\ud83d\\ude00\", \"appID\":null }\n").unwrap();
        assert_eq!((&*draft.content, &*draft.app, &*draft.to[0]), ("\"😀", "", "aü"));
    }

    #[test]
    fn a_bad_body_is_refused_with_what_was_wrong() {
        for (body, kind, message) in [
            ("", RefusalKind::BadJson, "the body is not JSON: EOF"),
            ("from=a&to=b", RefusalKind::BadJson, "the body is not JSON: it is a form; send {"),
            ("a=b", RefusalKind::BadJson, "the body is not JSON: it is a form; send {"),
            (
                "{\"to\":[\"a\"],\"content\":\"\\q\"}",
                RefusalKind::BadJson,
                "the body is not JSON: `content`: invalid escape at",
            ),
            (
                "{\"to\":[1e999],\"content\":\"\"}",
                RefusalKind::BadJson,
                "the body is not JSON: `to`: number out of range at line 1 ",
            ),
            ("{\"to\":[\"a\"],\"content\":null}", RefusalKind::BadField, "`content` is null; it must be a string"),
            ("{\"to\":null,\"content\":\"x\"}", RefusalKind::BadField, "`to` is null; it must be a list"),
            ("{\"to\":[null],\"content\":\"x\"}", RefusalKind::BadField, "`to[0]` is null; it must be a string"),
            (
                "{\"to\":[\"a\"],\"content\":\"x\",\"app_id\":1}",
                RefusalKind::UnknownField,
                "`app_id` is no field; write `appID`",
            ),
            ("{\"TO\":[\"a\"]}", RefusalKind::UnknownField, "`TO` is no field; write `to`"),
            ("{\"collapseKey\":1}", RefusalKind::UnknownField, "`collapseKey` is no field; write `collapse_key`"),
            ("{\"deliverAt\":1}", RefusalKind::UnknownField, "`deliverAt` is no field; write `deliver_at`"),
            ("{\"to\":[\"a\"],\"content\":\"x\"", RefusalKind::BadJson, "the body is not JSON"),
            ("{\"to\":[\"a\"],\"content\":\"x\"} x", RefusalKind::BadJson, "the body is not JSON: trailing"),
            ("{\"to\":[\"a\"],\"content\":\"\\ud800\"}", RefusalKind::BadJson, "the body is not JSON"),
            ("[]", RefusalKind::BadJson, "a push must be an object, not a list"),
            ("5", RefusalKind::BadJson, "a push must be an object, not a number"),
            ("\"x\"", RefusalKind::BadJson, "a push must be an object, not a string"),
            ("null", RefusalKind::BadJson, "a push must be an object, not null"),
            ("{}", RefusalKind::BadField, "`to` is missing"),
            ("{\"to\":[\"a\"]}", RefusalKind::BadField, "`content` is missing"),
            ("{\"to\":\"a\",\"content\":\"x\"}", RefusalKind::BadField, "`to` is a string; it must be a list of cards"),
            ("{\"to\":[\"a\",5],\"content\":\"x\"}", RefusalKind::BadField, "`to[1]` is a number"),
            ("{\"to\":[\"a\",\"b\",\"c\",\"d\"],\"content\":\"x\"}", RefusalKind::BadField, "`to` names more than 3"),
            (
                "{\"to\":[\"a\"],\"content\":{\"x\":[1]}}",
                RefusalKind::BadField,
                "`content` is an object; it must be a string",
            ),
            ("{\"to\":[\"a\"],\"content\":\"x\",\"to\":[]}", RefusalKind::BadField, "`to` is given twice"),
            ("{\"to\":[\"a\"],\"content\":\"x\",\"app\":1}", RefusalKind::UnknownField, "`app` is no field"),
            (
                "{\"to\":[\"a\"],\"content\":\"x\",\"offline\":true}",
                RefusalKind::NotBuilt,
                "`offline` is not supported yet",
            ),
            ("{\"to\":[\"a\"],\"content\":\"x\",\"room\":\"r\"}", RefusalKind::NotBuilt, "`room` is not supported yet"),
        ] {
            let refusal = read(body).unwrap_err();
            assert_eq!(refusal.kind, kind, "{body}: {}", refusal.message);
            assert!(refusal.message.starts_with(message), "{body}: {}", refusal.message);
        }
        let refusal = push(&Bytes::from_static(b"{\"to\":[\"\xff\"]}"), &LIMITS).unwrap_err();
        assert_eq!(refusal.kind, RefusalKind::NotUtf8);
    }

    #[test]
    fn an_option_that_is_not_built_is_taken_only_where_it_asks_for_nothing() {
        let with = |option: &str, value: &str| read(&format!(r#"{{"to":["a"],"content":"x","{option}":{value}}}"#));
        for option in NOT_BUILT {
            for nothing in ["null", "false", "0", "0.0", "\"\""] {
                assert!(with(option, nothing).is_ok(), "{option}: {nothing}");
            }
            for something in ["true", "5", "-1", "0.5", "\"r\"", "[]", "{}"] {
                let refusal = with(option, something).unwrap_err();
                assert_eq!(refusal, Refusal::not_built(option), "{something}");
            }
        }
    }

    #[test]
    fn a_byte_order_mark_before_the_body_is_no_part_of_it() {
        assert_eq!(read("\u{feff}{\"to\":[\"a\"],\"content\":\"\u{feff}x\"}").unwrap().content, "\u{feff}x");
        let body = Bytes::from_static("\u{feff}[{\"to\":[\"a\"],\"content\":\"x\"}]".as_bytes());
        assert!(batch(&body, &LIMITS).unwrap()[0].is_ok());
    }

    #[test]
    fn a_push_that_cannot_be_read_costs_the_others_of_its_batch_nothing() {
        let good = r#"{"to":["b"],"content":"],\"\\"}"#;
        for (bad, message) in [
            (r#"{"to":["a"],"content":1e999}"#, "the push is not JSON: `content`: number out of range"),
            (r#"{"to":["a"],"content":"\q"}"#, "the push is not JSON: `content`: invalid escape"),
            (r#"{"to":["a"],"content":"\ud800"}"#, "the push is not JSON: `content`: "),
            (r#"{"to":["a"] "content":"x"}"#, "the push is not JSON: expected `,` or `}`"),
            (r#"{"to":["a"],"content":"x"} 5"#, "the push is not JSON: trailing characters"),
            ("nope", "the push is not JSON: expected ident"),
        ] {
            for body in [format!("[{bad},{good}]"), format!(" [ {good} , {bad} ] ")] {
                let pushes = batch(&Bytes::from(body.clone()), &LIMITS).expect(&body);
                let (read, refused): (Vec<_>, Vec<_>) = pushes.into_iter().partition(Result::is_ok);
                assert_eq!(
                    read.into_iter().map(|push| push.unwrap().content).collect::<Vec<_>>(),
                    ["],\"\\"],
                    "{body}"
                );
                let refusal = refused[0].as_ref().unwrap_err();
                assert_eq!((refused.len(), refusal.kind), (1, RefusalKind::BadJson), "{body}");
                assert!(refusal.message.starts_with(message), "{body}: {}", refusal.message);
            }
        }
    }

    #[test]
    fn in_a_batch_a_bad_push_costs_only_itself() {
        let body = Bytes::from_static(br#"[{"to":["a"],"content":5,"x":{"y":[]}},{"to":["b"],"content":"x"}]"#);
        let pushes = batch(&body, &LIMITS).unwrap();
        assert!(pushes[0].as_ref().unwrap_err().message.starts_with("`content` is a number"));
        assert_eq!(pushes[1].as_ref().unwrap().to, ["b"]);
        for (body, message) in [
            ("[1,2,3]", "`pushes` are more than 2"),
            ("{\"pushes\":[]}", "a batch must be a list of pushes, not an object"),
            ("[1", "the body is not JSON"),
            ("[1e999,2,3]", "`pushes` are more than 2"),
            ("[1e999,]", "the body is not JSON"),
            ("[\"a]", "the body is not JSON"),
            ("[{]}]", "the body is not JSON"),
            ("[]]", "the body is not JSON"),
            ("to=a", "the body is not JSON: it is a form"),
        ] {
            let refusal = batch(&Bytes::from_static(body.as_bytes()), &LIMITS).unwrap_err();
            assert!(refusal.message.starts_with(message), "{body}: {}", refusal.message);
        }
    }
}
