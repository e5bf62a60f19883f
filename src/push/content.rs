//! What a push delivers.

use std::borrow::Cow;

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use bytestring::ByteString;

/// What is delivered, byte for byte. Each dialect says in its own way which of the three it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// A text.
    Text(ByteString),
    /// A JSON value other than `null`, as its caller spelled it, without blanks between its tokens.
    Json(ByteString),
    /// Bytes that are no UTF-8.
    Binary(Bytes),
}

impl Content {
    /// Bytes as they came: a text, if they are UTF-8.
    pub fn of_bytes(bytes: Bytes) -> Self {
        match ByteString::try_from(bytes.clone()) {
            Ok(text) => Self::Text(text),
            Err(_) => Self::Binary(bytes),
        }
    }

    /// A JSON value, which `text` has to be: a string is a text. `None`: it is `null`.
    pub fn of_json(text: &str) -> Option<Self> {
        let text = text.trim_ascii();
        match text.as_bytes().first()? {
            b'"' => serde_json::from_str::<String>(text).ok().map(Self::from),
            b'n' => None,
            _ => Some(Self::of_json_value(text.into())),
        }
    }

    /// A JSON value that is neither a string nor `null`, which `text` has to be. Where it has no blanks between its tokens its
    /// bytes are shared.
    pub fn of_json_value(text: ByteString) -> Self {
        Self::Json(without_blanks(&text).map_or(text, ByteString::from))
    }

    /// Its bytes.
    pub fn bytes(&self) -> &Bytes {
        match self {
            Self::Text(text) | Self::Json(text) => text.as_bytes(),
            Self::Binary(bytes) => bytes,
        }
    }

    /// How many bytes it has.
    #[expect(clippy::len_without_is_empty, reason = "an empty content is one as any other")]
    pub fn len(&self) -> usize {
        self.bytes().len()
    }

    /// For who takes texts only: JSON as it is spelled, bytes in base64.
    pub fn to_text(&self) -> Cow<'_, str> {
        match self {
            Self::Text(text) | Self::Json(text) => Cow::Borrowed(text),
            Self::Binary(bytes) => Cow::Owned(STANDARD.encode(bytes)),
        }
    }
}

/// The most levels of lists and objects in a JSON value that goes to others, who may read them by recursion.
pub const MAX_DEPTH: usize = 128;

/// Whether a JSON value has more levels than that.
pub fn is_nested_deeper_than(most: usize, json: &str) -> bool {
    // no value of fewer bytes has so many
    if json.len() <= most {
        return false;
    }
    let mut depth = 0_usize;
    for (_, byte) in outside_texts(json) {
        match byte {
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > most {
            return true;
        }
    }
    false
}

/// The bytes of JSON that are in no text, each with its place; the quotes are not among them.
fn outside_texts(json: &str) -> impl Iterator<Item = (usize, u8)> {
    let mut quoted = false;
    let mut escaped = false;
    json.bytes().enumerate().filter(move |(_, byte)| match byte {
        _ if escaped => {
            escaped = false;
            false
        }
        b'\\' if quoted => {
            escaped = true;
            false
        }
        b'"' => {
            quoted = !quoted;
            false
        }
        _ => !quoted,
    })
}

/// JSON without the blanks between its tokens; `None`: it has none.
fn without_blanks(json: &str) -> Option<String> {
    let mut without = String::new();
    // up to here it is copied, or left out
    let mut done = 0;
    for (at, byte) in outside_texts(json) {
        if matches!(byte, b' ' | b'\t' | b'\n' | b'\r') {
            without.push_str(&json[done..at]);
            done = at + 1;
        }
    }
    without.push_str(json.get(done..).filter(|_| done > 0)?);
    Some(without)
}

impl From<ByteString> for Content {
    fn from(text: ByteString) -> Self {
        Self::Text(text)
    }
}

impl From<&str> for Content {
    fn from(text: &str) -> Self {
        Self::Text(text.into())
    }
}

impl From<String> for Content {
    fn from(text: String) -> Self {
        Self::Text(text.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_json_value_keeps_its_spelling_and_loses_its_blanks() {
        for (json, content) in [
            (r#" { "a" : [ 1.0e2 , " b \" c " ] } "#, Some(Content::Json(r#"{"a":[1.0e2," b \" c "]}"#.into()))),
            ("\t17\n", Some(Content::Json("17".into()))),
            ("true", Some(Content::Json("true".into()))),
            (r#""a\u00fc""#, Some("aü".into())),
            ("null", None),
        ] {
            assert_eq!(Content::of_json(json), content, "{json}");
        }
    }

    #[test]
    fn a_json_value_without_blanks_is_not_copied() {
        let json = ByteString::from_static(r#"{"a b":[1,"\" "]}"#);
        let content = Content::of_json_value(json.clone());
        assert_eq!(content, Content::Json(json.clone()));
        assert_eq!(content.bytes().as_ptr(), json.as_bytes().as_ptr());
    }

    #[test]
    fn bytes_are_a_text_where_they_can_be_and_base64_for_who_takes_texts_only() {
        assert_eq!(Content::of_bytes(Bytes::from_static(b"text")), "text".into());
        let bytes = Content::of_bytes(Bytes::from_static(b"\xff\xfe"));
        assert_eq!((bytes.len(), &*bytes.to_text()), (2, "//4="));
    }
}
