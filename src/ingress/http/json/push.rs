//! One push: its fields, those that are not built, and those that do not exist.

use std::fmt;

use bytestring::ByteString;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::{
    content::ContentSeed,
    expected::{Expected, ValueSeed},
    target::{BooleanSeed, CardsSeed, ExcludeSeed, TextSeed},
    whole,
};
use crate::{
    config::{PushLimits, UnknownFields},
    ingress::{
        draft::{Draft, NOT_BUILT},
        limits::nobody,
        options::bad_ttl,
        refusal::{Refusal, RefusalKind},
    },
};

/// A push.
#[derive(Clone, Copy)]
pub(super) struct PushSeed<'b> {
    pub(super) body: &'b ByteString,
    pub(super) limits: &'b PushLimits,
    pub(super) unknown: UnknownFields,
}

impl<'de> Expected<'de> for PushSeed<'_> {
    type Output = Result<Draft, Refusal>;

    fn other(self, kind: &'static str) -> Self::Output {
        Err(Refusal::new(RefusalKind::BadJson, format!("a push must be an object, not {kind}")))
    }

    fn object<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Output, A::Error> {
        let mut draft = Draft::default();
        let mut seen = 0_u16;
        // the first error is the one that is told
        let mut refusal = None;
        while let Some(key) = map.next_key_seed(KeySeed)? {
            let given = match &key {
                Key::Known(field) if seen & field.bit() != 0 => {
                    map.next_value::<IgnoredAny>().map(|_| Err(Refusal::field(field.name(), "is given twice")))
                }
                Key::Known(field) => {
                    seen |= field.bit();
                    self.read(*field, &mut map, &mut draft)
                }
                Key::NotBuilt(option) => map
                    .next_value::<&RawValue>()
                    .map(|value| if asks(value) { Err(Refusal::not_built(option)) } else { Ok(()) }),
                Key::Unknown(name) => map.next_value::<IgnoredAny>().map(|_| match self.unknown {
                    UnknownFields::Refuse => Err(no_field(name)),
                    UnknownFields::Ignore => Ok(()),
                }),
            };
            match given {
                Ok(Ok(())) => {}
                Ok(Err(problem)) => drop(refusal.get_or_insert(problem)),
                Err(error) => return Err(A::Error::custom(format_args!("`{}`: {error}", key.name()))),
            }
        }
        let has_content = seen & PushField::Content.bit() != 0 || self.unknown == UnknownFields::Ignore;
        Ok(match refusal {
            Some(refusal) => Err(refusal),
            None if !draft.names_somebody() => Err(nobody()),
            None if !has_content => Err(Refusal::field(PushField::Content.name(), "is missing")),
            None => Ok(draft),
        })
    }
}

impl PushSeed<'_> {
    /// Reads the value of one field. The outer error is one of JSON.
    fn read<'de, A: MapAccess<'de>>(
        self,
        field: PushField,
        map: &mut A,
        draft: &mut Draft,
    ) -> Result<Result<(), Refusal>, A::Error> {
        let Self { body, limits, unknown } = self;
        let name = field.name();
        let text = match field {
            PushField::To => {
                let cards = map.next_value_seed(ValueSeed(CardsSeed { body, limits, field: name }))?;
                return Ok(cards.and_then(|cards| {
                    let named = cards.filter(|cards| !cards.is_empty());
                    let nobody = || Refusal::field(name, "names no card; name at least one, or leave it out");
                    draft.to = named.ok_or_else(nobody)?;
                    Ok(())
                }));
            }
            PushField::Exclude => {
                let exclude = map.next_value_seed(ValueSeed(ExcludeSeed { body, limits }))?;
                return Ok(exclude.map(|exclude| draft.exclude = exclude));
            }
            PushField::Everyone => {
                let everyone = map.next_value_seed(ValueSeed(BooleanSeed { field: name }))?;
                return Ok(everyone.map(|everyone| draft.everyone = everyone));
            }
            PushField::Content => {
                let content = map.next_value_seed(ContentSeed { body, unknown })?;
                return Ok(content.map(|content| draft.content = Some(content)));
            }
            PushField::Offline => {
                let offline = map.next_value_seed(ValueSeed(BooleanSeed { field: name }))?;
                return Ok(offline.map(|offline| draft.options.offline = offline));
            }
            PushField::Ttl => {
                let ttl = map.next_value_seed(ValueSeed(TtlSeed { limits }))?;
                return Ok(ttl.map(|ttl| draft.options.ttl = ttl));
            }
            PushField::IdempotencyKey => &mut draft.options.idempotency_key,
            PushField::From => &mut draft.from,
            PushField::Room => &mut draft.room,
            PushField::App => &mut draft.app,
            PushField::CollapseKey => &mut draft.collapse_key,
        };
        Ok(match map.next_value_seed(ValueSeed(TextSeed { body }))? {
            // a key that came out empty does not turn a push into one that may come twice
            Ok(given) if given.is_empty() && matches!(field, PushField::IdempotencyKey) => {
                Err(Refusal::field(name, "is empty; give it 1 to 255 characters, or leave it out"))
            }
            Ok(given) => {
                *text = given;
                Ok(())
            }
            // it counts as absent, as gopusher's gateway has it
            Err("null") => Ok(()),
            Err(kind) => Err(Refusal::field(name, format_args!("is {kind}; it must be a string"))),
        })
    }
}

#[derive(Clone, Copy)]
enum PushField {
    From,
    To,
    Room,
    App,
    Everyone,
    Exclude,
    Content,
    CollapseKey,
    Offline,
    Ttl,
    IdempotencyKey,
}

impl PushField {
    const ALL: [Self; 11] = [
        Self::From,
        Self::To,
        Self::Room,
        Self::App,
        Self::Everyone,
        Self::Exclude,
        Self::Content,
        Self::CollapseKey,
        Self::Offline,
        Self::Ttl,
        Self::IdempotencyKey,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::From => "from",
            Self::To => "to",
            Self::Room => "room",
            Self::App => "appID",
            Self::Everyone => "everyone",
            Self::Exclude => "exclude",
            Self::Content => "content",
            Self::CollapseKey => "collapse_key",
            Self::Offline => "offline",
            Self::Ttl => "ttl",
            Self::IdempotencyKey => "idempotency_key",
        }
    }

    fn bit(self) -> u16 {
        1 << self as u16
    }
}

/// A `ttl`, whole seconds; null is none.
struct TtlSeed<'b> {
    limits: &'b PushLimits,
}

impl Expected<'_> for TtlSeed<'_> {
    type Output = Result<Option<u64>, Refusal>;

    fn other(self, kind: &'static str) -> Self::Output {
        if kind == "null" { Ok(None) } else { Err(bad_ttl(kind, self.limits)) }
    }

    fn number(self, number: f64) -> Self::Output {
        // what is larger is refused by its bound, which is far below
        whole(number).map(Some).ok_or_else(|| bad_ttl(number, self.limits))
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
        None => "a push has from, to, room, appID, everyone, exclude, content, collapse_key, offline, ttl and \
                 idempotency_key"
            .into(),
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
        Ok(match name {
            "from" => Key::Known(PushField::From),
            "to" => Key::Known(PushField::To),
            "room" => Key::Known(PushField::Room),
            "appID" => Key::Known(PushField::App),
            "everyone" => Key::Known(PushField::Everyone),
            "exclude" => Key::Known(PushField::Exclude),
            "content" => Key::Known(PushField::Content),
            "collapse_key" => Key::Known(PushField::CollapseKey),
            "offline" => Key::Known(PushField::Offline),
            "ttl" => Key::Known(PushField::Ttl),
            "idempotency_key" => Key::Known(PushField::IdempotencyKey),
            _ => match NOT_BUILT.into_iter().find(|option| *option == name) {
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
