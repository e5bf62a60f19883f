//! Whom a caller may push to, by its section's `apps`, `cards` and `rooms`.
//!
//! Each kind that is given bounds every push, so that one reaches only clients that all of them admit:
//!
//! - with `apps` a push must name an app, and one of these;
//! - with `cards` or `rooms` a push must name a card or a room, and whatever it names of the two must be one of these;
//! - with any of them, none is for everyone.
//!
//! Whom a push excludes does not count: that never adds a client.

use bytestring::ByteString;

use crate::{auth::Patterns, config::KeyConfig, push::Target};

/// The patterns of a section that has any.
#[derive(Debug)]
pub(super) struct TargetBounds {
    apps: Patterns,
    cards: Patterns,
    rooms: Patterns,
}

/// What of a target is out of a caller's bounds: which key of its section does not admit it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OutOfBounds {
    /// `apps`, `cards` or `rooms`.
    pub(crate) key: &'static str,
    /// The name that it does not admit; `None`: the target names none of that kind, so it may reach others.
    pub(crate) name: Option<ByteString>,
}

impl TargetBounds {
    /// `None`: the section has no patterns.
    pub(super) fn of(key: &KeyConfig) -> Option<Self> {
        let patterns = |texts: &[String]| Patterns::from_iter(texts);
        let bounds = Self { apps: patterns(&key.apps), cards: patterns(&key.cards), rooms: patterns(&key.rooms) };
        let is_bound = !(bounds.apps.is_empty() && bounds.cards.is_empty() && bounds.rooms.is_empty());
        is_bound.then_some(bounds)
    }

    /// Whether it reaches only clients within the bounds.
    pub(super) fn admit(&self, target: &Target) -> Result<(), OutOfBounds> {
        let Self { apps, cards, rooms } = self;
        let out = |key, name: Option<&ByteString>| Err(OutOfBounds { key, name: name.cloned() });
        if !apps.is_empty() && !target.app.as_ref().is_some_and(|app| apps.admits(app)) {
            return out("apps", target.app.as_ref());
        }
        if cards.is_empty() && rooms.is_empty() {
            // all within an app, which everyone is not
            return Ok(());
        }
        if let Some(card) = target.cards.iter().find(|card| !cards.admits(card)) {
            return out("cards", Some(card));
        }
        if let Some(room) = target.room.as_ref().filter(|room| !rooms.admits(room)) {
            return out("rooms", Some(room));
        }
        if target.cards.is_empty() && target.room.is_none() {
            return out(if cards.is_empty() { "rooms" } else { "cards" }, None);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::push::Exclude;

    fn target(cards: &[&str], app: &str, room: &str) -> Target {
        let some = |name: &str| (!name.is_empty()).then(|| name.into());
        let everyone = cards.is_empty() && app.is_empty() && room.is_empty();
        let cards = cards.iter().map(|card| (*card).into()).collect();
        Target { cards, app: some(app), room: some(room), everyone, exclude: None }
    }

    /// Which key does not admit it; "": admitted.
    fn out(bounds: [&str; 3], target: &Target) -> &'static str {
        let patterns = |texts: &str| Patterns::from_iter(texts.split_whitespace());
        let bounds = TargetBounds { apps: patterns(bounds[0]), cards: patterns(bounds[1]), rooms: patterns(bounds[2]) };
        bounds.admit(target).err().map_or("", |out| out.key)
    }

    #[test]
    fn a_push_reaches_only_whom_every_kind_that_is_given_admits() {
        let everyone = target(&[], "", "");
        for (bounds, admitted, refused) in [
            // an app of one's own, and all in it
            (
                ["web", "", ""],
                vec![target(&["u1"], "web", ""), target(&[], "web", ""), target(&[], "web", "r")],
                vec![
                    (target(&["u1"], "", ""), "apps"),
                    (target(&["u1"], "tv", ""), "apps"),
                    (target(&[], "", "r"), "apps"),
                ],
            ),
            // cards, whatever else narrows them but a room
            (
                ["", "u* x", ""],
                vec![target(&["u1", "x"], "", ""), target(&["u1"], "web", "")],
                vec![
                    (target(&["u1", "y"], "", ""), "cards"),
                    (target(&[], "web", ""), "cards"),
                    (target(&[], "", "r"), "rooms"),
                    (target(&["u1"], "", "r"), "rooms"),
                ],
            ),
            (
                ["", "", "r*"],
                vec![target(&[], "", "r1"), target(&[], "web", "r1")],
                vec![
                    (target(&["u1"], "", ""), "cards"),
                    (target(&["u1"], "", "r1"), "cards"),
                    (target(&[], "web", ""), "rooms"),
                ],
            ),
            (
                ["", "u*", "r*"],
                vec![target(&["u1"], "", ""), target(&[], "", "r1"), target(&["u1"], "", "r1")],
                vec![(target(&["u1"], "", "x"), "rooms"), (target(&["x"], "", "r1"), "cards")],
            ),
            // only these cards, and only in this app
            (
                ["web", "u*", ""],
                vec![target(&["u1"], "web", "")],
                vec![
                    (target(&["u1"], "", ""), "apps"),
                    (target(&["x"], "web", ""), "cards"),
                    (target(&[], "web", ""), "cards"),
                ],
            ),
            (["*", "", ""], vec![target(&["u1"], "any", "")], vec![(target(&["u1"], "", ""), "apps")]),
        ] {
            // whom a push excludes, within the bounds or not, changes nothing
            let exclude = Some(Box::new(Exclude { cards: vec!["u1".into(), "anybody".into()], client: Some([7; 16]) }));
            let less = |target: &Target| Target { exclude: exclude.clone(), ..target.clone() };
            for target in admitted {
                assert_eq!((out(bounds, &target), out(bounds, &less(&target))), ("", ""), "{bounds:?} {target:?}");
            }
            for (target, key) in refused {
                assert_eq!((out(bounds, &target), out(bounds, &less(&target))), (key, key), "{bounds:?} {target:?}");
            }
            assert_ne!(out(bounds, &everyone), "", "{bounds:?}");
            assert_ne!(out(bounds, &less(&everyone)), "", "{bounds:?}");
        }
    }
}
