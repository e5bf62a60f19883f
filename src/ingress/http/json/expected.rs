//! Values of which one kind is expected. Another kind is no error of serde, which would end the reading: it is drained, and told
//! by its name.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// What is expected of a value. The methods of the other kinds stay as they are.
pub(super) trait Expected<'de>: Sized {
    type Output;

    /// What comes of a value of another kind, such as `a number`.
    fn other(self, kind: &'static str) -> Self::Output;

    fn boolean(self, _: bool) -> Self::Output {
        self.other("a boolean")
    }

    fn number(self, _: f64) -> Self::Output {
        self.other("a number")
    }

    /// A text without escapes, which lies in the input.
    fn borrowed_text<E: Error>(self, text: &'de str) -> Result<Self::Output, E> {
        self.text(text)
    }

    fn text<E: Error>(self, _: &str) -> Result<Self::Output, E> {
        Ok(self.other("a string"))
    }

    fn list<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Output, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(self.other("a list"))
    }

    fn object<A: MapAccess<'de>>(self, mut object: A) -> Result<Self::Output, A::Error> {
        while object.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(self.other("an object"))
    }
}

/// Reads one value.
pub(super) struct ValueSeed<T>(pub(super) T);

impl<'de, T: Expected<'de>> DeserializeSeed<'de> for ValueSeed<T> {
    type Value = T::Output;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de, T: Expected<'de>> Visitor<'de> for ValueSeed<T> {
    type Value = T::Output;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Self::Value, E> {
        Ok(self.0.boolean(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Self::Value, E> {
        Ok(self.0.number(value as f64))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Self::Value, E> {
        Ok(self.0.number(value as f64))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Self::Value, E> {
        Ok(self.0.number(value))
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(self.0.other("null"))
    }

    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Self::Value, E> {
        self.0.borrowed_text(text)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        self.0.text(text)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Self::Value, A::Error> {
        self.0.list(list)
    }

    fn visit_map<A: MapAccess<'de>>(self, object: A) -> Result<Self::Value, A::Error> {
        self.0.object(object)
    }
}
