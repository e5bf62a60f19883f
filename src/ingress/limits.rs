//! The limits that every push is held to, whichever way it comes in.

use bytestring::ByteString;

use super::refusal::{Refusal, RefusalKind};
use crate::{
    config::{Config, PushLimits},
    push::{Content, MAX_DEPTH, NameRule, Push, Selection, Target, is_nested_deeper_than},
};

/// Bytes of a dialect's push frame beside content, sender and room: header, envelope, id, time.
const ENVELOPE: usize = 256;
/// Bytes that the frame of a stored push has more beside its card: `card`, `seq` and `prev`, and the Ping behind it.
const STORED: usize = 128;

/// `[push]`, and what an outbox can hold.
#[derive(Clone, Debug)]
pub(super) struct LimitCheck {
    limits: PushLimits,
    name: NameRule,
    outbox: usize,
}

impl LimitCheck {
    pub(super) fn of(config: &Config) -> Self {
        Self::new(config.push.clone(), config.outbox.max_bytes)
    }

    fn new(limits: PushLimits, outbox: usize) -> Self {
        Self { name: NameRule { max: limits.max_name }, limits, outbox }
    }

    pub(super) fn limits(&self) -> &PushLimits {
        &self.limits
    }

    /// A push that may go on, each of its cards once; `offline`: it is to be stored.
    pub(super) fn check(&self, mut push: Push, offline: bool) -> Result<Push, Refusal> {
        self.check_names(&push)?;
        self.check_size(&push, offline)?;
        push.target.name_each_once();
        Ok(push)
    }

    fn check_names(&self, push: &Push) -> Result<(), Refusal> {
        self.check_target(&push.target)?;
        let optional = [
            ("from", Some(&push.from)),
            ("room", push.target.room.as_ref()),
            ("appID", push.target.app.as_ref()),
            ("collapse_key", push.collapse_key.as_ref()),
        ];
        for (field, value) in optional.into_iter().filter_map(|(field, value)| Some((field, value?))) {
            self.name.check_optional(value).map_err(|error| Refusal::field(field, error))?;
        }
        Ok(())
    }

    fn check_target(&self, target: &Target) -> Result<(), Refusal> {
        let Target { cards, room, app, everyone, exclude } = target;
        if *everyone {
            let named = [("to", !cards.is_empty()), ("room", room.is_some()), ("appID", app.is_some())];
            if let Some((field, _)) = named.into_iter().find(|(_, named)| *named) {
                let problem = format_args!("stands beside `{field}`, which says something else; leave one of them out");
                return Err(Refusal::field("everyone", problem));
            }
        } else if target.selection() == Selection::Nobody {
            return Err(nobody());
        }
        self.check_cards("to", cards)?;
        match exclude {
            Some(exclude) => self.check_cards("exclude.cards", &exclude.cards),
            None => Ok(()),
        }
    }

    fn check_cards(&self, field: &str, cards: &[ByteString]) -> Result<(), Refusal> {
        if cards.len() > self.limits.max_cards {
            return Err(too_many_cards(field, self.limits.max_cards));
        }
        for (i, card) in cards.iter().enumerate() {
            self.name.check(card).map_err(|error| Refusal::field(&format!("{field}[{i}]"), error))?;
        }
        Ok(())
    }

    fn check_size(&self, push: &Push, offline: bool) -> Result<(), Refusal> {
        let bytes = push.content.len();
        let outbox = self.outbox;
        if bytes > self.limits.max_content {
            let message = format!("`content` has {bytes} bytes; at most {} are allowed", self.limits.max_content);
            return Err(Refusal::new(RefusalKind::PushTooLarge, message));
        }
        if let Content::Json(json) = &push.content
            && is_nested_deeper_than(MAX_DEPTH, json)
        {
            let problem = format_args!("has lists and objects that are nested more than {MAX_DEPTH} deep");
            return Err(Refusal::field("content", problem));
        }
        // exact lengths are counted only where escapes could matter
        let room = push.target.room.as_deref().unwrap_or_default();
        let cards = if offline { &push.target.cards[..] } else { &[] };
        let longest = cards.iter().map(|card| card.len()).max().unwrap_or_default();
        let envelope = ENVELOPE + if offline { STORED } else { 0 };
        if (bytes + push.from.len() + room.len() + longest) * 6 + envelope > outbox {
            let card = cards.iter().map(|card| escaped(card)).max().unwrap_or_default();
            let frame = escaped(&push.content.to_text()) + escaped(&push.from) + escaped(room) + card + envelope;
            if frame > outbox {
                let message = format!("`content` makes a frame of {frame} bytes; a connection's outbox holds {outbox}");
                return Err(Refusal::new(RefusalKind::PushTooLarge, message));
            }
        }
        Ok(())
    }
}

/// The refusal of a push that does not say whom it is for.
pub(super) fn nobody() -> Refusal {
    Refusal::new(RefusalKind::BadField, "nobody is named: give `to`, `room`, `appID` or `everyone`")
}

/// The refusal of a push that names more cards than allowed.
pub(super) fn too_many_cards(field: &str, limit: usize) -> Refusal {
    let advice = if field == "to" { "split the push" } else { "name fewer" };
    Refusal::field(field, format_args!("names more than {limit} cards; {advice}"))
}

/// The refusal of a batch of more pushes than allowed.
pub(super) fn too_many_pushes(limit: usize) -> Refusal {
    Refusal::field("pushes", format_args!("are more than {limit}; split the batch"))
}

/// Bytes of a text as JSON writes it, without its quotes.
fn escaped(text: &str) -> usize {
    text.bytes()
        .map(|byte| match byte {
            b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 8 | 12 => 2,
            // in HTML's sense, which go-push's and gopusher's dialects escape
            0..0x20 | b'<' | b'>' | b'&' => 6,
            _ => 1,
        })
        .sum()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        ingress::draft::Draft,
        push::{Exclude, PushId},
    };

    fn limits() -> LimitCheck {
        LimitCheck::new(
            PushLimits {
                max_content: 1000,
                max_cards: 20,
                max_name: 8,
                max_batch: 10,
                max_ttl: Duration::from_secs(3600),
            },
            2000,
        )
    }

    fn draft(to: &[&str], content: &str) -> Draft {
        Draft { to: to.iter().map(|&card| card.into()).collect(), content: Some(content.into()), ..Draft::default() }
    }

    fn check(draft: Draft) -> Result<Push, Refusal> {
        let (push, options) = draft.with(PushId::generate());
        limits().check(push, options.offline)
    }

    fn without(target: Target, cards: &[&str]) -> Push {
        let cards = cards.iter().map(|&card| card.into()).collect();
        let exclude = Some(Box::new(Exclude { cards, client: None }));
        Push { target: Target { exclude, ..target }, ..Push::to("a", "x") }
    }

    #[test]
    fn a_target_is_held_to_its_bounds() {
        let room = || Target { room: Some("r".into()), ..Target::default() };
        let everyone = || Target { everyone: true, ..Target::default() };
        let some = |name: &str| Some(ByteString::from(name));
        let twenty: Vec<_> = (0..20).map(|n| n.to_string()).collect();
        let twenty: Vec<_> = twenty.iter().map(String::as_str).collect();
        for target in [room(), everyone(), Target { app: some("web"), ..Target::default() }] {
            assert_eq!(limits().check(without(target.clone(), &twenty), false).unwrap().target.cards, target.cards);
        }
        let twice = "which says something else; leave one of them out";
        for (push, message) in [
            (without(Target::default(), &["a"]), "nobody is named: give `to`, `room`, `appID` or `everyone`".into()),
            (
                without(Target { cards: vec!["a".into()], ..everyone() }, &[]),
                format!("`everyone` stands beside `to`, {twice}"),
            ),
            (
                without(Target { room: some("r"), ..everyone() }, &[]),
                format!("`everyone` stands beside `room`, {twice}"),
            ),
            (
                without(Target { app: some("w"), ..everyone() }, &[]),
                format!("`everyone` stands beside `appID`, {twice}"),
            ),
            (without(Target { room: some("r\n"), ..room() }, &[]), "`room` has the control character U+000A".into()),
            (without(Target { room: some("123456789"), ..room() }, &[]), "`room` has 9 bytes; at most 8".into()),
            (without(room(), &["a", ""]), "`exclude.cards[1]` is empty".into()),
            (without(room(), &["123456789"]), "`exclude.cards[0]` has 9 bytes".into()),
            (without(room(), &["a"; 21]), "`exclude.cards` names more than 20 cards".into()),
        ] {
            let refusal = limits().check(push, false).unwrap_err();
            assert_eq!(refusal.kind, RefusalKind::BadField);
            assert!(refusal.message.starts_with(&message), "{} should start with {message}", refusal.message);
        }
    }

    #[test]
    fn a_content_is_held_to_its_bounds_in_each_of_its_forms() {
        let check = |content: Content| limits().check(Push { content, ..Push::to("a", "") }, false);
        let nested = |depth: usize| Content::Json(format!("{}{}", "[".repeat(depth), "]".repeat(depth)).into());
        let quoted = format!("[\"{}\"]", "[\\\"".repeat(200));
        for content in [nested(128), Content::Json(quoted.into()), Content::Binary(vec![0xff; 1000].into())] {
            assert!(check(content.clone()).is_ok(), "{content:?}");
        }
        for (content, kind, message) in [
            (nested(129), RefusalKind::BadField, "`content` has lists and objects that are nested more than 128 deep"),
            (nested(501), RefusalKind::PushTooLarge, "`content` has 1002 bytes; at most 1000 are allowed"),
            (Content::Binary(vec![0xff; 1001].into()), RefusalKind::PushTooLarge, "`content` has 1001 bytes"),
            (
                Content::Json(format!("[\"{}\"]", r#"\""#.repeat(480)).into()),
                RefusalKind::PushTooLarge,
                "`content` makes a frame of",
            ),
        ] {
            let refusal = check(content).unwrap_err();
            assert_eq!(refusal.kind, kind);
            assert!(refusal.message.starts_with(message), "{}", refusal.message);
        }
    }

    #[test]
    fn a_bad_push_is_refused_with_its_field() {
        let long = "x".repeat(9);
        let rows: Vec<(Draft, RefusalKind, &str)> = vec![
            (draft(&[], "x"), RefusalKind::BadField, "nobody is named"),
            (draft(&["a"; 21], "x"), RefusalKind::BadField, "`to` names more than 20"),
            (draft(&["a", ""], "x"), RefusalKind::BadField, "`to[1]` is empty"),
            (draft(&["a\u{7}"], "x"), RefusalKind::BadField, "`to[0]` has the control character U+0007"),
            (draft(&[&long], "x"), RefusalKind::BadField, "`to[0]` has 9 bytes; at most 8"),
            (Draft { from: long.as_str().into(), ..draft(&["a"], "") }, RefusalKind::BadField, "`from` has 9"),
            (Draft { app: long.as_str().into(), ..draft(&["a"], "") }, RefusalKind::BadField, "`appID` has 9"),
            (
                Draft { collapse_key: long.as_str().into(), ..draft(&["a"], "") },
                RefusalKind::BadField,
                "`collapse_key` has 9",
            ),
            (draft(&["a"], &"x".repeat(1001)), RefusalKind::PushTooLarge, "`content` has 1001 bytes"),
            (draft(&["a"], &"\u{1}".repeat(400)), RefusalKind::PushTooLarge, "`content` makes a frame of 2656 bytes"),
        ];
        for (draft, kind, message) in rows {
            let refusal = check(draft).unwrap_err();
            assert_eq!(refusal.kind, kind);
            assert!(refusal.message.starts_with(message), "{} should start with {message}", refusal.message);
        }
    }

    #[test]
    fn a_stored_push_leaves_room_for_its_place_in_the_frame() {
        // 290 escaped characters and the envelope are 1996 bytes
        let push = || Push::to("\"card\"", &"\u{1}".repeat(290));
        assert!(limits().check(push(), false).is_ok());
        let refusal = limits().check(push(), true).unwrap_err();
        assert_eq!(refusal.message, "`content` makes a frame of 2136 bytes; a connection's outbox holds 2000");
        assert!(limits().check(Push::to("card", &"\u{1}".repeat(260)), true).is_ok());
    }

    #[test]
    fn a_good_push_goes_on_to_each_card_once() {
        let push = check(draft(&["a", "b", "a"], &"x".repeat(1000))).unwrap();
        assert_eq!(push.target.cards, ["a", "b"]);
        assert_eq!((push.target.app, push.collapse_key), (None, None), "an empty one is none");
    }
}
