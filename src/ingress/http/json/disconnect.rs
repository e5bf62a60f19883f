//! The body of `POST /disconnect`.

use bytes::Bytes;
use bytestring::ByteString;
use serde::de::{Error, IgnoredAny, MapAccess};

use super::{
    expected::{Expected, ValueSeed},
    target::TextSeed,
};
use crate::ingress::{
    disconnects::DisconnectDraft,
    refusal::{Refusal, RefusalKind},
};

/// The fields, and of which kind each must be.
const FIELDS: [(&str, &str); 8] = [
    ("card_id", "a string"),
    ("app_id", "a string"),
    ("client", "a string"),
    ("sub", "a string"),
    ("code", "a whole number"),
    ("reason", "a string"),
    ("reconnect", "true or false"),
    ("revoke", "true or false"),
];

/// Reads the body of `POST /disconnect`.
pub(in crate::ingress::http) fn disconnect(body: Bytes) -> Result<DisconnectDraft, Refusal> {
    let body = &super::text(body)?;
    super::parse("body", r#"{"card_id":"card"}"#, body, DisconnectSeed { body })?
}

struct DisconnectSeed<'b> {
    body: &'b ByteString,
}

impl<'de> Expected<'de> for DisconnectSeed<'_> {
    type Output = Result<DisconnectDraft, Refusal>;

    fn other(self, kind: &'static str) -> Self::Output {
        Err(Refusal::new(RefusalKind::BadJson, format!("a disconnect must be an object, not {kind}")))
    }

    fn object<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Output, A::Error> {
        let mut draft = DisconnectDraft::default();
        let mut seen = [false; FIELDS.len()];
        // the first error is the one that is told
        let mut refusal = None;
        while let Some(name) = map.next_key::<String>()? {
            let Some(place) = FIELDS.iter().position(|(field, _)| *field == name) else {
                map.next_value::<IgnoredAny>()?;
                refusal = refusal.or_else(|| Some(no_field(&name)));
                continue;
            };
            let value = map.next_value_seed(ValueSeed(FieldSeed { body: self.body }))?;
            let given = if seen[place] {
                Err(Refusal::field(&name, "is given twice"))
            } else {
                set(&mut draft, FIELDS[place], value)
            };
            seen[place] = true;
            refusal = refusal.or(given.err());
        }
        Ok(refusal.map_or(Ok(draft), Err))
    }
}

fn no_field(name: &str) -> Refusal {
    let name: String = name.chars().take(64).collect();
    let known = FIELDS.map(|(field, _)| field).join(", ");
    Refusal::new(RefusalKind::UnknownField, format!("`{name}` is no field; a disconnect has {known}"))
}

fn set(draft: &mut DisconnectDraft, (field, kind): (&str, &str), value: FieldValue) -> Result<(), Refusal> {
    match (field, value) {
        // it counts as absent, as in a push
        (_, FieldValue::Other("null")) => {}
        ("card_id", FieldValue::Text(text)) => draft.card_id = Some(text),
        ("app_id", FieldValue::Text(text)) => draft.app_id = Some(text),
        ("client", FieldValue::Text(text)) => draft.client = Some(text),
        ("sub", FieldValue::Text(text)) => draft.sub = Some(text),
        ("reason", FieldValue::Text(text)) => draft.reason = Some(text),
        // JSON has one kind of number: 3504.0 is whole, too
        ("code", FieldValue::Number(code)) if f64::from(code as u32) == code => draft.code = Some(code as u32),
        ("reconnect", FieldValue::Boolean(reconnect)) => draft.reconnect = reconnect,
        ("revoke", FieldValue::Boolean(revoke)) => draft.revoke = revoke,
        (_, value) => {
            let problem = format!("is {}; it must be {kind}", value.kind());
            return Err(Refusal::field(field, problem));
        }
    }
    Ok(())
}

/// What stands at a field.
enum FieldValue {
    Text(ByteString),
    Boolean(bool),
    Number(f64),
    /// Something of this kind.
    Other(&'static str),
}

impl FieldValue {
    fn kind(&self) -> &'static str {
        match self {
            Self::Text(_) => "a string",
            Self::Boolean(_) => "a boolean",
            Self::Number(_) => "a number",
            Self::Other(kind) => kind,
        }
    }
}

struct FieldSeed<'b> {
    body: &'b ByteString,
}

impl<'de> Expected<'de> for FieldSeed<'_> {
    type Output = FieldValue;

    fn other(self, kind: &'static str) -> FieldValue {
        FieldValue::Other(kind)
    }

    fn boolean(self, value: bool) -> FieldValue {
        FieldValue::Boolean(value)
    }

    fn number(self, value: f64) -> FieldValue {
        FieldValue::Number(value)
    }

    fn borrowed_text<E: Error>(self, text: &'de str) -> Result<FieldValue, E> {
        let text = TextSeed { body: self.body }.borrowed_text(text)?;
        Ok(text.map_or_else(FieldValue::Other, FieldValue::Text))
    }

    fn text<E: Error>(self, text: &str) -> Result<FieldValue, E> {
        Ok(FieldValue::Text(text.into()))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn read(body: &'static str) -> Result<DisconnectDraft, Refusal> {
        disconnect(Bytes::from_static(body.as_bytes()))
    }

    #[test]
    fn every_field_is_read_and_null_is_as_if_it_were_left_out() {
        let all = r#"{"card_id":"a","app_id":"b","client":"c","sub":"d\n","code":3504.0,"reason":"r","reconnect":true,"revoke":true}"#;
        let text = |text: &str| Some(ByteString::from(text));
        let draft = DisconnectDraft {
            card_id: text("a"),
            app_id: text("b"),
            client: text("c"),
            sub: text("d\n"),
            code: Some(3504),
            reason: text("r"),
            reconnect: true,
            revoke: true,
        };
        assert_eq!(read(all), Ok(draft));
        let nothing = r#"{"card_id":null,"app_id":null,"client":null,"sub":null,"code":null,"reason":null,"reconnect":null,"revoke":null}"#;
        assert_eq!((read(nothing), read("{}")), (Ok(DisconnectDraft::default()), Ok(DisconnectDraft::default())));
    }

    #[test]
    fn every_mistake_is_named() {
        for (body, kind, message) in [
            ("", RefusalKind::BadJson, "the body is not JSON"),
            ("card_id=a", RefusalKind::BadJson, "the body is not JSON: it is a form"),
            ("[]", RefusalKind::BadJson, "a disconnect must be an object, not a list"),
            (r#"{"card":"a"}"#, RefusalKind::UnknownField, "`card` is no field; a disconnect has card_id, app_id"),
            (r#"{"x":[{}],"card_id":5}"#, RefusalKind::UnknownField, "`x` is no field"),
            (r#"{"card_id":"a","card_id":"b"}"#, RefusalKind::BadField, "`card_id` is given twice"),
            (r#"{"card_id":["a"]}"#, RefusalKind::BadField, "`card_id` is a list; it must be a string"),
            (r#"{"code":"3504"}"#, RefusalKind::BadField, "`code` is a string; it must be a whole number"),
            (r#"{"code":3504.5}"#, RefusalKind::BadField, "`code` is a number; it must be a whole number"),
            (r#"{"code":-1}"#, RefusalKind::BadField, "`code` is a number; it must be a whole number"),
            (r#"{"code":1e300}"#, RefusalKind::BadField, "`code` is a number; it must be a whole number"),
            (r#"{"revoke":1}"#, RefusalKind::BadField, "`revoke` is a number; it must be true or false"),
            (r#"{"reconnect":"true"}"#, RefusalKind::BadField, "`reconnect` is a string; it must be true or false"),
        ] {
            let refusal = read(body).unwrap_err();
            assert_eq!(refusal.kind, kind, "{body}: {}", refusal.message);
            assert!(refusal.message.starts_with(message), "{body}: {}", refusal.message);
        }
    }
}
