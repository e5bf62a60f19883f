//! Whom a push is for, and the plain values that its fields have.

use bytestring::ByteString;
use serde::de::{Error, IgnoredAny, MapAccess, SeqAccess};

use super::expected::{Expected, ValueSeed};
use crate::{
    config::PushLimits,
    ingress::{
        draft::excluded_client,
        limits::too_many_cards,
        refusal::{Refusal, RefusalKind},
    },
    push::Exclude,
};

/// A text. An error is the kind of what stood there instead.
pub(super) struct TextSeed<'b> {
    pub(super) body: &'b ByteString,
}

impl<'de> Expected<'de> for TextSeed<'_> {
    type Output = Result<ByteString, &'static str>;

    fn other(self, kind: &'static str) -> Self::Output {
        Err(kind)
    }

    fn borrowed_text<E: Error>(self, text: &'de str) -> Result<Self::Output, E> {
        // it lies in the body, so that it can share its bytes
        Ok(Ok(self.body.slice_ref(text)))
    }

    fn text<E: Error>(self, text: &str) -> Result<Self::Output, E> {
        Ok(Ok(ByteString::from(text)))
    }
}

/// True or false; null is false.
pub(super) struct BooleanSeed {
    pub(super) field: &'static str,
}

impl<'de> Expected<'de> for BooleanSeed {
    type Output = Result<bool, Refusal>;

    fn other(self, kind: &'static str) -> Self::Output {
        match kind {
            "null" => Ok(false),
            kind => Err(Refusal::field(self.field, format_args!("is {kind}; it must be true or false"))),
        }
    }

    fn boolean(self, value: bool) -> Self::Output {
        Ok(value)
    }
}

/// A list of cards; `None`: null.
pub(super) struct CardsSeed<'b> {
    pub(super) body: &'b ByteString,
    pub(super) limits: &'b PushLimits,
    pub(super) field: &'static str,
}

impl<'de> Expected<'de> for CardsSeed<'_> {
    type Output = Result<Option<Vec<ByteString>>, Refusal>;

    fn other(self, kind: &'static str) -> Self::Output {
        match kind {
            "null" => Ok(None),
            kind => Err(Refusal::field(self.field, format_args!("is {kind}; it must be a list of cards"))),
        }
    }

    fn list<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Output, A::Error> {
        let Self { body, limits, field } = self;
        let mut cards = Vec::new();
        let mut refusal = None;
        while let Some(card) = list.next_element_seed(ValueSeed(TextSeed { body }))? {
            match card {
                _ if refusal.is_some() => {}
                _ if cards.len() == limits.max_cards => refusal = Some(too_many_cards(field, limits.max_cards)),
                Ok(card) => cards.push(card),
                Err(kind) => {
                    let field = format!("{field}[{}]", cards.len());
                    refusal = Some(Refusal::field(&field, format_args!("is {kind}; it must be a string")));
                }
            }
        }
        Ok(refusal.map_or(Ok(Some(cards)), Err))
    }
}

/// `{"cards":[…],"client":"…"}`; `None`: it excludes nobody.
pub(super) struct ExcludeSeed<'b> {
    pub(super) body: &'b ByteString,
    pub(super) limits: &'b PushLimits,
}

impl<'de> Expected<'de> for ExcludeSeed<'_> {
    type Output = Result<Option<Box<Exclude>>, Refusal>;

    fn other(self, kind: &'static str) -> Self::Output {
        match kind {
            "null" => Ok(None),
            kind => {
                let problem = format_args!("is {kind}; it must be an object with cards, client, or both");
                Err(Refusal::field("exclude", problem))
            }
        }
    }

    fn object<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Output, A::Error> {
        let Self { body, limits } = self;
        let mut exclude = Exclude::default();
        let (mut cards_seen, mut client_seen) = (false, false);
        // the first error is the one that is told
        let mut refusal = None;
        while let Some(name) = map.next_key::<String>()? {
            let given = match &*name {
                "cards" if !cards_seen => {
                    cards_seen = true;
                    let field = "exclude.cards";
                    let cards = map.next_value_seed(ValueSeed(CardsSeed { body, limits, field }))?;
                    cards.map(|cards| exclude.cards = cards.unwrap_or_default())
                }
                "client" if !client_seen => {
                    client_seen = true;
                    let client = map.next_value_seed(ValueSeed(TextSeed { body }))?;
                    excluded(client).map(|client| exclude.client = client)
                }
                name => {
                    map.next_value::<IgnoredAny>()?;
                    Err(match name {
                        "cards" | "client" => Refusal::field(&format!("exclude.{name}"), "is given twice"),
                        name => no_field(name),
                    })
                }
            };
            refusal = refusal.or(given.err());
        }
        let names_somebody = !exclude.cards.is_empty() || exclude.client.is_some();
        Ok(refusal.map_or(Ok(names_somebody.then(|| Box::new(exclude))), Err))
    }
}

/// The client of `exclude.client`; an error is the kind of what stood there instead of a text.
fn excluded(client: Result<ByteString, &'static str>) -> Result<Option<[u8; 16]>, Refusal> {
    match client {
        Ok(client) => excluded_client(&client),
        Err("null") => Ok(None),
        Err(kind) => Err(Refusal::field("exclude.client", format_args!("is {kind}; it must be a string"))),
    }
}

fn no_field(name: &str) -> Refusal {
    let name: String = name.chars().take(64).collect();
    Refusal::new(RefusalKind::UnknownField, format!("`exclude.{name}` is no field; exclude has cards and client"))
}
