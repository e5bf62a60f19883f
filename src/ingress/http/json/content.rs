//! What a push delivers: a text, or any other JSON value as its caller wrote it.

use bytestring::ByteString;
use serde::{
    Deserialize,
    de::{DeserializeSeed, Deserializer, Error},
};
use serde_json::value::RawValue;

use crate::{
    config::UnknownFields,
    ingress::{draft::json_content, refusal::Refusal},
    push::Content,
};

/// A content. It is read as it stands, since numbers would lose their spelling otherwise.
pub(super) struct ContentSeed<'b> {
    pub(super) body: &'b ByteString,
    pub(super) unknown: UnknownFields,
}

impl<'de> DeserializeSeed<'de> for ContentSeed<'_> {
    type Value = Result<Content, Refusal>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        let value = <&RawValue>::deserialize(json)?.get();
        match value.strip_prefix('"').and_then(|value| value.strip_suffix('"')) {
            // it lies in the body, so that it can share its bytes
            Some(text) if memchr::memchr(b'\\', text.as_bytes()).is_none() => {
                Ok(Ok(Content::Text(self.body.slice_ref(text))))
            }
            Some(_) => {
                let text: String = serde_json::from_str(value).map_err(D::Error::custom)?;
                Ok(Ok(Content::Text(text.into())))
            }
            // as gopusher's gateway has it
            None if value == "null" && self.unknown == UnknownFields::Ignore => Ok(Ok("".into())),
            None => Ok(json_content("content", self.body.slice_ref(value))),
        }
    }
}
