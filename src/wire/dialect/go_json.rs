//! JSON as Go's encoding/json reads and writes it, for the dialects of gateways that are written in Go.

use std::{borrow::Cow, fmt, io};

use serde::{
    Deserialize, Deserializer as _, Serialize,
    de::{IgnoredAny, MapAccess, Visitor},
};
use serde_json::{
    Deserializer,
    ser::{Formatter, Serializer},
    value::RawValue,
};

/// The values of an object's fields of these names, as Go fills a struct: in any case, the last of several, and `None` where
/// there is none or it is `null`. Other fields are passed over; `null` in place of the object has no fields.
///
/// # Errors
/// It is no JSON, or another value.
pub(super) fn fields<'a, const N: usize>(
    json: &'a str,
    names: [&str; N],
) -> serde_json::Result<[Option<&'a RawValue>; N]> {
    let mut deserializer = Deserializer::from_str(json);
    let found = deserializer.deserialize_any(FieldsVisitor { names })?;
    deserializer.end()?;
    Ok(found)
}

/// What a field that is a text says; without the field it is empty.
///
/// # Errors
/// It is another value.
pub(super) fn text(field: Option<&RawValue>) -> serde_json::Result<Cow<'_, str>> {
    match field {
        Some(value) => serde_json::from_str(value.get()).map(|BorrowedText(text)| text),
        None => Ok(Cow::Borrowed("")),
    }
}

/// Writes a text.
pub(super) fn write_text(json: &mut Vec<u8>, text: &str) {
    let written = text.serialize(&mut Serializer::with_formatter(json, GoFormatter));
    written.expect("invariant: a Vec takes every string");
}

/// Writes a value that is JSON without blanks already: spelled as it is, but for the escapes.
pub(super) fn write_value(json: &mut Vec<u8>, value: &str) {
    // what is escaped stands in strings only
    write_escaped(json, value).expect("invariant: a Vec takes every string");
}

/// A text that is borrowed where nothing in it is escaped.
#[derive(Deserialize)]
struct BorrowedText<'a>(#[serde(borrow)] Cow<'a, str>);

struct FieldsVisitor<'n, const N: usize> {
    names: [&'n str; N],
}

impl<'de, const N: usize> Visitor<'de> for FieldsVisitor<'_, N> {
    type Value = [Option<&'de RawValue>; N];

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<Self::Value, E> {
        Ok([None; N])
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = [None; N];
        while let Some(BorrowedText(name)) = map.next_key()? {
            match self.names.iter().position(|own| own.eq_ignore_ascii_case(&name)) {
                Some(place) => {
                    let value: &RawValue = map.next_value()?;
                    if value.get() != "null" {
                        found[place] = Some(value);
                    }
                }
                None => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(found)
    }
}

/// The escapes of Go's encoding/json beyond those that JSON asks for: `< > &`, U+2028 and U+2029.
struct GoFormatter;

impl Formatter for GoFormatter {
    fn write_string_fragment<W: io::Write + ?Sized>(&mut self, to: &mut W, fragment: &str) -> io::Result<()> {
        write_escaped(to, fragment)
    }
}

fn write_escaped<W: io::Write + ?Sized>(to: &mut W, text: &str) -> io::Result<()> {
    let bytes = text.as_bytes();
    let mut written = 0;
    let mut at = 0;
    while let Some(found) = bytes[at..].iter().position(|byte| matches!(byte, b'<' | b'>' | b'&' | 0xE2)) {
        at += found;
        let (escape, length) = match bytes[at..] {
            [b'<', ..] => (br"\u003c", 1),
            [b'>', ..] => (br"\u003e", 1),
            [b'&', ..] => (br"\u0026", 1),
            [0xE2, 0x80, 0xA8, ..] => (br"\u2028", 3),
            [0xE2, 0x80, 0xA9, ..] => (br"\u2029", 3),
            // another character that begins with this byte
            _ => {
                at += 1;
                continue;
            }
        };
        to.write_all(&bytes[written..at])?;
        to.write_all(escape)?;
        at += length;
        written = at;
    }
    to.write_all(&bytes[written..])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn found(json: &str) -> Option<[Option<&str>; 2]> {
        fields(json, ["type", "data"]).ok().map(|found| found.map(|field| field.map(RawValue::get)))
    }

    #[test]
    fn an_object_fills_a_struct_as_in_go() {
        assert_eq!(found(r#"{"TYPE":"a","Data":[1, 2],"x":{}}"#), Some([Some(r#""a""#), Some("[1, 2]")]));
        assert_eq!(found(r#"{"type":1,"Type":2,"type":null}"#), Some([Some("2"), None]));
        assert_eq!(found(r#"{"t\u0079pe":1}"#), Some([Some("1"), None]));
        assert_eq!(found(" null\n"), Some([None, None]));
        for wrong in ["", "[]", "1", r#""type""#, "{}{}", "{", r#"{"x":[}"#, "true"] {
            assert_eq!(found(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_field_that_is_no_text_is_an_error_and_one_that_is_not_there_is_empty() {
        let [there, missing] = fields(r#"{"a":"\u00e4","b":null}"#, ["a", "b"]).unwrap();
        assert_eq!((text(there).unwrap(), text(missing).unwrap()), ("ä".into(), "".into()));
        let [number] = fields(r#"{"a":1}"#, ["a"]).unwrap();
        assert!(text(number).is_err());
    }

    #[test]
    fn values_keep_their_spelling_but_for_the_escapes() {
        let mut json = Vec::new();
        write_value(&mut json, "{\"<&>\":1.0e2,\"\u{2028}\u{2029}\u{2027}\":\"\\u0041\"}");
        let expected = "{\"\\u003c\\u0026\\u003e\":1.0e2,\"\\u2028\\u2029\u{2027}\":\"\\u0041\"}";
        assert_eq!(String::from_utf8(json).unwrap(), expected);
    }
}
