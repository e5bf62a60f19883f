//! Pushes as JSON: read in one pass, texts without escapes shared with the request's body, every mistake named.
//!
//! A mistake inside a push (a wrong type, an unknown field) does not stop the reading, so that in a batch it costs only that
//! push; only what is no JSON at all refuses the whole body.

use std::fmt;

use bytes::Bytes;
use bytestring::ByteString;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::{
    config::PushLimits,
    ingress::{
        admission::too_many_cards,
        draft::Draft,
        refusal::{Kind, Refusal},
    },
};

type Outcome<T> = Result<T, Refusal>;

/// Reads the body of `POST /push`.
pub(super) fn push(body: &Bytes, limits: &PushLimits) -> Outcome<Draft> {
    parse(body, PushSeed { body, limits })?
}

/// Reads the body of `POST /push/batch`: an array of pushes.
pub(super) fn batch(body: &Bytes, limits: &PushLimits) -> Outcome<Vec<Outcome<Draft>>> {
    parse(body, BatchSeed(PushSeed { body, limits }))?
}

fn parse<'de, S: DeserializeSeed<'de>>(body: &'de Bytes, seed: S) -> Outcome<S::Value> {
    let text = simdutf8::basic::from_utf8(body).map_err(|_| Refusal::new(Kind::NotUtf8, "the body is not UTF-8"))?;
    let mut json = serde_json::Deserializer::from_str(text);
    let parsed = seed.deserialize(&mut json).and_then(|value| json.end().map(|()| value));
    parsed.map_err(|error| {
        let example = r#"send {"to":["card"],"content":"text"}"#;
        Refusal::new(Kind::BadJson, format!("the body is not JSON: {error}; {example}"))
    })
}

/// The visits of values that are not what was expected: drained, then told by their kind.
macro_rules! other_kinds {
    ($kind:ident => $outcome:expr; $($visit:tt)*) => {
        $(other_kinds!(@ $visit $kind $outcome);)*
    };
    (@ bool $kind:ident $outcome:expr) => {
        fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> { let $kind = "a boolean"; Ok($outcome) }
    };
    (@ number $kind:ident $outcome:expr) => {
        fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> { let $kind = "a number"; Ok($outcome) }
        fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> { let $kind = "a number"; Ok($outcome) }
        fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> { let $kind = "a number"; Ok($outcome) }
    };
    (@ text $kind:ident $outcome:expr) => {
        fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> { let $kind = "a string"; Ok($outcome) }
    };
    (@ null $kind:ident $outcome:expr) => {
        fn visit_unit<E>(self) -> Result<Self::Value, E> { let $kind = "null"; Ok($outcome) }
    };
    (@ list $kind:ident $outcome:expr) => {
        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
            while list.next_element::<IgnoredAny>()?.is_some() {}
            let $kind = "a list";
            Ok($outcome)
        }
    };
    (@ object $kind:ident $outcome:expr) => {
        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
            let $kind = "an object";
            Ok($outcome)
        }
    };
}

#[derive(Clone, Copy)]
struct PushSeed<'b> {
    body: &'b Bytes,
    limits: &'b PushLimits,
}

impl<'de> DeserializeSeed<'de> for PushSeed<'_> {
    type Value = Outcome<Draft>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for PushSeed<'_> {
    type Value = Outcome<Draft>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a push")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let (mut draft, mut seen) = (Draft::default(), 0_u8);
        // the first mistake is the one that is told
        let mut mistake = None;
        while let Some(key) = map.next_key_seed(KeySeed)? {
            let known = if let Key::Known(field) = &key { field.bit() } else { 0 };
            let given = match key {
                Key::Known(field) if seen & known != 0 => {
                    map.next_value::<IgnoredAny>()?;
                    Err(Refusal::field(field.name(), "is given twice"))
                }
                Key::Known(Field::To) => {
                    let cards = map.next_value_seed(CardsSeed(self))?;
                    cards.map(|cards| draft.to = cards)
                }
                Key::Known(field) => {
                    let text = map.next_value_seed(TextSeed { body: self.body })?;
                    let text = text
                        .map_err(|kind| Refusal::field(field.name(), format_args!("is {kind}; it must be a string")));
                    text.map(|text| *field.of(&mut draft) = text)
                }
                Key::NotBuilt(option) => {
                    map.next_value::<IgnoredAny>()?;
                    Err(Refusal::not_built(option))
                }
                Key::Unknown(name) => {
                    map.next_value::<IgnoredAny>()?;
                    let fields = "a push has from, to, appID, content and collapse_key";
                    Err(Refusal::new(Kind::UnknownField, format!("`{name}` is no field; {fields}")))
                }
            };
            seen |= known;
            mistake = mistake.or(given.err());
        }
        let missing = |field: Field| (seen & field.bit() == 0).then(|| Refusal::field(field.name(), "is missing"));
        Ok(match mistake.or_else(|| missing(Field::To)).or_else(|| missing(Field::Content)) {
            Some(mistake) => Err(mistake),
            None => Ok(draft),
        })
    }

    other_kinds!(kind => Err(Refusal::new(Kind::BadJson, format!("a push must be an object, not {kind}")));
        bool number text null list);
}

struct BatchSeed<'b>(PushSeed<'b>);

impl<'de> DeserializeSeed<'de> for BatchSeed<'_> {
    type Value = Outcome<Vec<Outcome<Draft>>>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for BatchSeed<'_> {
    type Value = Outcome<Vec<Outcome<Draft>>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of pushes")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let (mut pushes, limit) = (Vec::new(), self.0.limits.max_batch);
        while pushes.len() < limit {
            match list.next_element_seed(self.0)? {
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

    other_kinds!(kind => Err(Refusal::new(Kind::BadJson, format!("a batch must be a list of pushes, not {kind}")));
        bool number text null object);
}

/// The refusal of a batch of more pushes than allowed.
pub(crate) fn too_many_pushes(limit: usize) -> Refusal {
    Refusal::field("pushes", format_args!("are more than {limit}; split the batch"))
}

#[derive(Clone, Copy)]
enum Field {
    From,
    To,
    App,
    Content,
    CollapseKey,
}

impl Field {
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

/// Options of the design that are not built yet: refused by name, never ignored.
const NOT_BUILT: [&str; 6] = ["offline", "ttl", "deliver_at", "room", "everyone", "idempotency_key"];

enum Key {
    Known(Field),
    NotBuilt(&'static str),
    Unknown(String),
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
        Ok(match Field::ALL.into_iter().find(|field| field.name() == name) {
            Some(field) => Key::Known(field),
            None => match NOT_BUILT.into_iter().find(|option| *option == name) {
                Some(option) => Key::NotBuilt(option),
                None => Key::Unknown(name.chars().take(64).collect()),
            },
        })
    }
}

/// A text; `null` counts as absent, as gopusher's gateway has it. An error is the kind of what stood there instead.
#[derive(Clone, Copy)]
struct TextSeed<'b> {
    body: &'b Bytes,
}

impl<'de> DeserializeSeed<'de> for TextSeed<'_> {
    type Value = Result<ByteString, &'static str>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for TextSeed<'_> {
    type Value = Result<ByteString, &'static str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_borrowed_str<E: serde::de::Error>(self, text: &'de str) -> Result<Self::Value, E> {
        // it lies in the body, so that it can share its bytes
        let shared = self.body.slice_ref(text.as_bytes());
        ByteString::try_from(shared).map(Ok).map_err(E::custom)
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Ok(ByteString::from(text)))
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Ok(ByteString::new()))
    }

    other_kinds!(kind => Err(kind); bool number list object);
}

struct CardsSeed<'b>(PushSeed<'b>);

impl<'de> DeserializeSeed<'de> for CardsSeed<'_> {
    type Value = Outcome<Vec<ByteString>>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for CardsSeed<'_> {
    type Value = Outcome<Vec<ByteString>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of cards")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let PushSeed { body, limits } = self.0;
        let (mut cards, mut mistake) = (Vec::new(), None);
        while let Some(card) = list.next_element_seed(TextSeed { body })? {
            match card {
                _ if mistake.is_some() => {}
                _ if cards.len() == limits.max_cards => mistake = Some(too_many_cards(limits.max_cards)),
                Ok(card) => cards.push(card),
                Err(kind) => {
                    let field = format!("to[{}]", cards.len());
                    mistake = Some(Refusal::field(&field, format_args!("is {kind}; it must be a string")));
                }
            }
        }
        Ok(mistake.map_or(Ok(cards), Err))
    }

    other_kinds!(kind => Err(Refusal::field("to", format_args!("is {kind}; it must be a list of cards")));
        bool number text null object);
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const LIMITS: PushLimits = PushLimits { max_content: 1000, max_cards: 3, max_name: 8, max_batch: 2 };

    fn read(body: &str) -> Outcome<Draft> {
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
            ("", Kind::BadJson, "the body is not JSON: EOF"),
            ("from=a&to=b", Kind::BadJson, "the body is not JSON: expected"),
            ("{\"to\":[\"a\"],\"content\":\"x\"", Kind::BadJson, "the body is not JSON"),
            ("{\"to\":[\"a\"],\"content\":\"x\"} x", Kind::BadJson, "the body is not JSON: trailing"),
            ("{\"to\":[\"a\"],\"content\":\"\\ud800\"}", Kind::BadJson, "the body is not JSON"),
            ("[]", Kind::BadJson, "a push must be an object, not a list"),
            ("5", Kind::BadJson, "a push must be an object, not a number"),
            ("\"x\"", Kind::BadJson, "a push must be an object, not a string"),
            ("null", Kind::BadJson, "a push must be an object, not null"),
            ("{}", Kind::BadField, "`to` is missing"),
            ("{\"to\":[\"a\"]}", Kind::BadField, "`content` is missing"),
            ("{\"to\":\"a\",\"content\":\"x\"}", Kind::BadField, "`to` is a string; it must be a list of cards"),
            ("{\"to\":[\"a\",5],\"content\":\"x\"}", Kind::BadField, "`to[1]` is a number"),
            ("{\"to\":[\"a\",\"b\",\"c\",\"d\"],\"content\":\"x\"}", Kind::BadField, "`to` names more than 3"),
            ("{\"to\":[\"a\"],\"content\":{\"x\":[1]}}", Kind::BadField, "`content` is an object; it must be a string"),
            ("{\"to\":[\"a\"],\"content\":\"x\",\"to\":[]}", Kind::BadField, "`to` is given twice"),
            ("{\"to\":[\"a\"],\"content\":\"x\",\"app\":1}", Kind::UnknownField, "`app` is no field"),
            ("{\"to\":[\"a\"],\"content\":\"x\",\"offline\":true}", Kind::NotBuilt, "`offline` is not supported yet"),
            ("{\"to\":[\"a\"],\"content\":\"x\",\"room\":\"r\"}", Kind::NotBuilt, "`room` is not supported yet"),
        ] {
            let refusal = read(body).unwrap_err();
            assert_eq!(refusal.kind, kind, "{body}: {}", refusal.message);
            assert!(refusal.message.starts_with(message), "{body}: {}", refusal.message);
        }
        let refusal = push(&Bytes::from_static(b"{\"to\":[\"\xff\"]}"), &LIMITS).unwrap_err();
        assert_eq!(refusal.kind, Kind::NotUtf8);
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
        ] {
            let refusal = batch(&Bytes::from_static(body.as_bytes()), &LIMITS).unwrap_err();
            assert!(refusal.message.starts_with(message), "{body}: {}", refusal.message);
        }
    }
}
