//! Pushes, and orders to end clients, as JSON: read in one pass, texts without escapes shared with the request's body, every mistake named.
//!
//! A mistake inside a push (a wrong type, an unknown field) does not stop the reading, so that in a batch it costs only that
//! push. What serde cannot read does stop it: then the batch is taken apart by its brackets, and each push read by itself.

mod content;
mod disconnect;
mod expected;
mod push;
mod target;

use bytes::Bytes;
use bytestring::ByteString;
use serde::de::{DeserializeSeed, IgnoredAny, SeqAccess};

use crate::{
    config::{PushLimits, UnknownFields},
    ingress::{
        draft::Draft,
        limits::too_many_pushes,
        refusal::{Refusal, RefusalKind},
    },
};

pub(super) use disconnect::disconnect;

use expected::{Expected, ValueSeed};
use push::PushSeed;

/// Shown to who sends what is no JSON.
const PUSH_EXAMPLE: &str = r#"{"to":["card"],"content":"text"}"#;

/// Reads the body of `POST /push`.
pub(super) fn push(body: Bytes, limits: &PushLimits, unknown: UnknownFields) -> Result<Draft, Refusal> {
    let body = &text(body)?;
    parse("body", PUSH_EXAMPLE, body, PushSeed { body, limits, unknown })?
}

/// Reads the body of `POST /push/batch`: an array of pushes.
pub(super) fn batch(
    body: Bytes,
    limits: &PushLimits,
    unknown: UnknownFields,
) -> Result<Vec<Result<Draft, Refusal>>, Refusal> {
    let body = &text(body)?;
    let push = PushSeed { body, limits, unknown };
    parse("body", PUSH_EXAMPLE, body, BatchSeed(push)).unwrap_or_else(|refusal| {
        match elements(body, limits.max_batch) {
            Some(pushes) if pushes.len() > limits.max_batch => Err(too_many_pushes(limits.max_batch)),
            Some(pushes) => {
                Ok(pushes.into_iter().map(|text| parse("push", PUSH_EXAMPLE, text, push).flatten()).collect())
            }
            None => Err(refusal),
        }
    })
}

/// The body as text, which shares its bytes, without the byte order mark that some editors and shells put before it.
fn text(body: Bytes) -> Result<ByteString, Refusal> {
    let text = ByteString::try_from(body).map_err(|_| Refusal::new(RefusalKind::NotUtf8, "the body is not UTF-8"))?;
    Ok(match text.strip_prefix('\u{feff}') {
        Some(rest) => text.slice_ref(rest),
        None => text,
    })
}

/// Parses all of `text`; `what` and `example` are for the refusal.
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

/// A number as JSON's schemas mean a whole one: 20.0 is, too.
pub(super) fn whole(number: f64) -> Option<u64> {
    let is_whole = number.fract() == 0.0 && (0.0..=u64::MAX as f64).contains(&number);
    is_whole.then_some(number as u64)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        hub::ClientId,
        ingress::draft::{NOT_BUILT, PushOptions},
        push::{Content, Exclude},
    };

    const LIMITS: PushLimits =
        PushLimits { max_content: 1000, max_cards: 3, max_name: 8, max_batch: 2, max_ttl: Duration::from_secs(3600) };

    fn read(body: &str) -> Result<Draft, Refusal> {
        push(Bytes::copy_from_slice(body.as_bytes()), &LIMITS, UnknownFields::Refuse)
    }

    fn content(json: &str) -> Content {
        read(&format!(r#"{{"to":["a"],"content":{json}}}"#)).unwrap().content.unwrap()
    }

    #[test]
    fn gopushers_example_is_read_without_copies() {
        let body = Bytes::from_static(br#"{"from":"server","to":["mayun"],"appID":"alibaba","content":"hello"}"#);
        let draft = push(body.clone(), &LIMITS, UnknownFields::Refuse).unwrap();
        assert_eq!((&*draft.from, &*draft.app, &draft.content), ("server", "alibaba", &Some("hello".into())));
        assert_eq!(draft.to, ["mayun"]);
        for text in [draft.content.unwrap().bytes(), draft.from.as_bytes(), draft.to[0].as_bytes()] {
            assert!(body.as_ptr_range().contains(&text.as_ptr()));
        }
    }

    #[test]
    fn a_content_that_is_no_text_stays_as_it_is_written_but_for_blanks_between_its_tokens() {
        for (written, kept) in [
            (r#"{"b":1.0e2,"a":[-0,1E400,true,null,"\u00fc \"x"]}"#, None),
            (r#"[{"a":{}}]"#, None),
            ("17", None),
            ("-0.0", None),
            ("true", None),
            ("false", None),
            ("{ }", Some("{}")),
            ("{ \"a b\" :\t[ 1 ,\r\n \"x \\\" y\\\\\" , 2 ] }", Some("{\"a b\":[1,\"x \\\" y\\\\\",2]}")),
        ] {
            let body = Bytes::from(format!(r#"{{"room":"r","content":{written}}}"#));
            let Some(Content::Json(json)) = push(body.clone(), &LIMITS, UnknownFields::Refuse).expect(written).content
            else {
                panic!("{written} is JSON")
            };
            assert_eq!(json, kept.unwrap_or(written));
            assert_eq!(body.as_ptr_range().contains(&json.as_bytes().as_ptr()), kept.is_none(), "{written}: shared");
        }
        assert_eq!(content(r#""""#), "".into());
        assert_eq!(content(r#""{\"a\":1}""#), r#"{"a":1}"#.into(), "a text is a text, whatever stands in it");
    }

    #[test]
    fn every_way_to_say_whom_a_push_is_for_is_read() {
        let id = "0123456789ABCDEFGHJKMNPQRS";
        let client = ClientId::parse(id).unwrap().to_bytes();
        let exclude = |cards: &[&str], client| {
            let cards = cards.iter().map(|&card| card.into()).collect();
            Some(Box::new(Exclude { cards, client }))
        };
        let nobody = Draft { content: Some("x".into()), ..Draft::default() };
        let all = Draft { everyone: true, ..nobody.clone() };
        for (fields, draft) in [
            (r#""to":["a","b"]"#, Draft { to: vec!["a".into(), "b".into()], ..nobody.clone() }),
            (r#""room":"r","appID":null"#, Draft { room: "r".into(), ..nobody.clone() }),
            (r#""appID":"web","room":"""#, Draft { app: "web".into(), ..nobody.clone() }),
            (
                r#""to":["a"],"room":"r","appID":"web","everyone":false"#,
                Draft { to: vec!["a".into()], room: "r".into(), app: "web".into(), ..nobody.clone() },
            ),
            (r#""everyone":true,"exclude":null"#, all.clone()),
            (r#""everyone":true,"exclude":{}"#, all.clone()),
            (r#""everyone":true,"exclude":{"cards":null,"client":null}"#, all.clone()),
            (r#""everyone":true,"exclude":{"cards":[],"client":""}"#, all.clone()),
            (
                r#""everyone":true,"exclude":{"cards":["a","\u0062"]}"#,
                Draft { exclude: exclude(&["a", "b"], None), ..all.clone() },
            ),
            (
                &format!(r#""everyone":true,"exclude":{{"client":"{}"}}"#, id.to_lowercase()),
                Draft { exclude: exclude(&[], Some(client)), ..all.clone() },
            ),
        ] {
            assert_eq!(read(&format!(r#"{{{fields},"content":"x"}}"#)), Ok(draft), "{fields}");
        }
    }

    #[test]
    fn what_is_not_known_is_passed_over_only_where_that_is_asked_for() {
        let ignore = |body: &str| push(Bytes::copy_from_slice(body.as_bytes()), &LIMITS, UnknownFields::Ignore);
        let to_a = Draft { to: vec!["a".into()], ..Draft::default() };
        let text = |text: &str| Draft { content: Some(text.into()), ..to_a.clone() };
        for (body, draft) in [
            (r#"{"to":["a"],"content":"x","tag":{"y":[1e999]},"TO":1,"app_id":"web"}"#, text("x")),
            (r#"{"to":["a"],"content":null}"#, text("")),
            (r#"{"to":["a"]}"#, to_a.clone()),
        ] {
            assert_eq!(ignore(body), Ok(draft), "{body}");
        }
        let batch = batch(Bytes::from_static(br#"[{"to":["a"],"tag":1}]"#), &LIMITS, UnknownFields::Ignore).unwrap();
        assert_eq!(batch, [Ok(to_a)]);
        // what is known is held to as ever, and nobody is nobody
        for (body, message) in [
            (r#"{"to":null,"content":"x"}"#, "`to` names no card"),
            (r#"{"to":[],"content":"x","appID":"web"}"#, "`to` names no card"),
            (r#"{"content":"x"}"#, "nobody is named"),
            (r#"{"to":["a"],"content":"x","deliver_at":5}"#, "`deliver_at` is not supported yet"),
            (r#"{"to":["a"],"to":["b"]}"#, "`to` is given twice"),
            (r#"{"to":"a"}"#, "`to` is a string"),
            (r#"{"everyone":true,"exclude":{"x":1}}"#, "`exclude.x` is no field"),
        ] {
            let refusal = ignore(body).unwrap_err();
            assert!(refusal.message.starts_with(message), "{body}: {}", refusal.message);
        }
    }

    #[test]
    fn escapes_nulls_and_blanks_are_read() {
        let draft =
            read("\n{ \"to\" : [\"a\\u00fc\"], \"content\":\"\\\"\\ud83d\\ude00\", \"appID\":null }\n").unwrap();
        assert_eq!((&draft.content, &*draft.app, &*draft.to[0]), (&Some("\"😀".into()), "", "aü"));
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
            (
                "{\"to\":[\"a\"],\"content\":null}",
                RefusalKind::BadField,
                "`content` is null; it must be a string or another JSON value",
            ),
            (
                "{\"to\":null,\"content\":\"x\"}",
                RefusalKind::BadField,
                "`to` names no card; name at least one, or leave",
            ),
            ("{\"to\":[],\"content\":\"x\"}", RefusalKind::BadField, "`to` names no card"),
            // a list that came out empty does not widen what else is named
            ("{\"to\":[],\"room\":\"r\",\"content\":\"x\"}", RefusalKind::BadField, "`to` names no card"),
            ("{\"to\":null,\"appID\":\"r\",\"content\":\"x\"}", RefusalKind::BadField, "`to` names no card"),
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
            ("{}", RefusalKind::BadField, "nobody is named: give `to`, `room`, `appID` or `everyone`"),
            ("{\"content\":\"x\"}", RefusalKind::BadField, "nobody is named"),
            (
                "{\"room\":\"\",\"appID\":\"\",\"everyone\":false,\"content\":\"x\"}",
                RefusalKind::BadField,
                "nobody is named",
            ),
            ("{\"to\":[\"a\"]}", RefusalKind::BadField, "`content` is missing"),
            ("{\"to\":\"a\",\"content\":\"x\"}", RefusalKind::BadField, "`to` is a string; it must be a list of cards"),
            ("{\"to\":[\"a\",5],\"content\":\"x\"}", RefusalKind::BadField, "`to[1]` is a number"),
            ("{\"to\":[\"a\",\"b\",\"c\",\"d\"],\"content\":\"x\"}", RefusalKind::BadField, "`to` names more than 3"),
            ("{\"to\":[\"a\"],\"content\":\"x\",\"to\":[]}", RefusalKind::BadField, "`to` is given twice"),
            ("{\"to\":[\"a\"],\"content\":\"x\",\"app\":1}", RefusalKind::UnknownField, "`app` is no field"),
            (
                "{\"to\":[\"a\"],\"content\":\"x\",\"deliver_at\":true}",
                RefusalKind::NotBuilt,
                "`deliver_at` is not supported yet",
            ),
            ("{\"room\":5,\"content\":\"x\"}", RefusalKind::BadField, "`room` is a number; it must be a string"),
            (
                "{\"everyone\":\"yes\",\"content\":\"x\"}",
                RefusalKind::BadField,
                "`everyone` is a string; it must be true or false",
            ),
            ("{\"everyone\":1,\"content\":\"x\"}", RefusalKind::BadField, "`everyone` is a number"),
            (
                "{\"room\":\"r\",\"exclude\":[\"a\"],\"content\":\"x\"}",
                RefusalKind::BadField,
                "`exclude` is a list; it must be an object with cards, client, or both",
            ),
            (
                "{\"room\":\"r\",\"exclude\":{\"card\":\"a\"},\"content\":\"x\"}",
                RefusalKind::UnknownField,
                "`exclude.card` is no field; exclude has cards and client",
            ),
            (
                "{\"room\":\"r\",\"exclude\":{\"cards\":\"a\"},\"content\":\"x\"}",
                RefusalKind::BadField,
                "`exclude.cards` is a string; it must be a list of cards",
            ),
            (
                "{\"room\":\"r\",\"exclude\":{\"cards\":[\"a\",null]},\"content\":\"x\"}",
                RefusalKind::BadField,
                "`exclude.cards[1]` is null; it must be a string",
            ),
            (
                "{\"room\":\"r\",\"exclude\":{\"cards\":[\"a\",\"b\",\"c\",\"d\"]},\"content\":\"x\"}",
                RefusalKind::BadField,
                "`exclude.cards` names more than 3 cards",
            ),
            (
                "{\"room\":\"r\",\"exclude\":{\"cards\":[],\"cards\":[]},\"content\":\"x\"}",
                RefusalKind::BadField,
                "`exclude.cards` is given twice",
            ),
            (
                "{\"room\":\"r\",\"exclude\":{\"client\":\"alice\"},\"content\":\"x\"}",
                RefusalKind::BadField,
                "`exclude.client` is no client's id: it has 26 characters",
            ),
            (
                "{\"room\":\"r\",\"exclude\":{\"client\":7},\"content\":\"x\"}",
                RefusalKind::BadField,
                "`exclude.client` is a number; it must be a string",
            ),
        ] {
            let refusal = read(body).unwrap_err();
            assert_eq!(refusal.kind, kind, "{body}: {}", refusal.message);
            assert!(refusal.message.starts_with(message), "{body}: {}", refusal.message);
        }
        let refusal = push(Bytes::from_static(b"{\"to\":[\"\xff\"]}"), &LIMITS, UnknownFields::Refuse).unwrap_err();
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
    fn the_options_of_a_push_are_read_and_held_to_their_types() {
        let with = |options: &str| read(&format!(r#"{{"to":["a"],"content":"x",{options}}}"#));
        let options = |offline, ttl, key: &str| PushOptions { offline, ttl, idempotency_key: key.into() };
        for (given, read) in [
            (r#""offline":true,"ttl":60,"idempotency_key":"order-17""#, options(true, Some(60), "order-17")),
            (r#""offline":null,"ttl":null,"idempotency_key":null"#, PushOptions::default()),
            (r#""offline":false"#, PushOptions::default()),
            (r#""ttl":6e1"#, options(false, Some(60), "")),
            // their bounds are checked later, as those of other protocols are
            (r#""ttl":0"#, options(false, Some(0), "")),
            (r#""ttl":18446744073709551616"#, options(false, Some(u64::MAX), "")),
        ] {
            assert_eq!(with(given).unwrap().options, read, "{given}");
        }
        let right = "it must be a whole number of seconds from 1 to 3600 ([store] max_ttl)";
        for (given, message) in [
            (r#""ttl":-5"#, format!("`ttl` is -5; {right}")),
            (r#""ttl":1.5"#, format!("`ttl` is 1.5; {right}")),
            (r#""ttl":1e300"#, format!("`ttl` is 1{}; {right}", "0".repeat(300))),
            (r#""ttl":"60""#, format!("`ttl` is a string; {right}")),
            (r#""ttl":true"#, format!("`ttl` is a boolean; {right}")),
            (r#""ttl":[60]"#, format!("`ttl` is a list; {right}")),
            (r#""ttl":1,"ttl":2"#, "`ttl` is given twice".into()),
            (r#""offline":1"#, "`offline` is a number; it must be true or false".into()),
            (r#""offline":"yes""#, "`offline` is a string; it must be true or false".into()),
            (r#""idempotency_key":"""#, "`idempotency_key` is empty; give it 1 to 255 characters".into()),
            (r#""idempotency_key":17"#, "`idempotency_key` is a number; it must be a string".into()),
            (r#""idempotencyKey":"k""#, "`idempotencyKey` is no field; write `idempotency_key`".into()),
        ] {
            let refusal = with(given).unwrap_err();
            assert!(refusal.message.starts_with(&message), "{given}: {}", refusal.message);
        }
    }

    #[test]
    fn a_byte_order_mark_before_the_body_is_no_part_of_it() {
        assert_eq!(
            read("\u{feff}{\"to\":[\"a\"],\"content\":\"\u{feff}x\"}").unwrap().content,
            Some("\u{feff}x".into())
        );
        let body = Bytes::from_static("\u{feff}[{\"to\":[\"a\"],\"content\":\"x\"}]".as_bytes());
        assert!(batch(body, &LIMITS, UnknownFields::Refuse).unwrap()[0].is_ok());
    }

    #[test]
    fn a_push_that_cannot_be_read_costs_the_others_of_its_batch_nothing() {
        let good = r#"{"to":["b"],"content":"],\"\\"}"#;
        for (bad, message) in [
            (r#"{"to":[1e999],"content":""}"#, "the push is not JSON: `to`: number out of range"),
            (r#"{"to":["a"],"content":01}"#, "the push is not JSON: `content`: invalid number"),
            (r#"{"to":["a"],"content":"\q"}"#, "the push is not JSON: `content`: invalid escape"),
            (r#"{"to":["a"],"content":"\ud800"}"#, "the push is not JSON: `content`: "),
            (r#"{"to":["a"] "content":"x"}"#, "the push is not JSON: expected `,` or `}`"),
            (r#"{"to":["a"],"content":"x"} 5"#, "the push is not JSON: trailing characters"),
            ("nope", "the push is not JSON: expected ident"),
        ] {
            for body in [format!("[{bad},{good}]"), format!(" [ {good} , {bad} ] ")] {
                let pushes = batch(Bytes::from(body.clone()), &LIMITS, UnknownFields::Refuse).expect(&body);
                let (read, refused): (Vec<_>, Vec<_>) = pushes.into_iter().partition(Result::is_ok);
                assert_eq!(
                    read.into_iter().map(|push| push.unwrap().content).collect::<Vec<_>>(),
                    [Some("],\"\\".into())],
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
        let body = Bytes::from_static(br#"[{"to":["a"],"content":null,"x":{"y":[]}},{"to":["b"],"content":"x"}]"#);
        let pushes = batch(body, &LIMITS, UnknownFields::Refuse).unwrap();
        assert!(pushes[0].as_ref().unwrap_err().message.starts_with("`content` is null"));
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
            let refusal = batch(Bytes::from_static(body.as_bytes()), &LIMITS, UnknownFields::Refuse).unwrap_err();
            assert!(refusal.message.starts_with(message), "{body}: {}", refusal.message);
        }
    }
}
