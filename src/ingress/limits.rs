//! The limits that every push is held to, whichever way it comes in.

use super::refusal::{Refusal, RefusalKind};
use crate::{
    config::{Config, PushLimits},
    push::{NameRule, Push},
};

/// Bytes of a dialect's push frame beside content and sender: header, envelope, id, time.
const ENVELOPE: usize = 256;

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

    /// A push that may go on, each of its cards once.
    pub(super) fn check(&self, mut push: Push) -> Result<Push, Refusal> {
        self.check_names(&push)?;
        self.check_size(&push)?;
        push.target.name_each_once();
        Ok(push)
    }

    fn check_names(&self, push: &Push) -> Result<(), Refusal> {
        let cards = &push.target.cards;
        if cards.is_empty() {
            return Err(Refusal::field("to", "names no card; name at least one"));
        }
        if cards.len() > self.limits.max_cards {
            return Err(too_many_cards(self.limits.max_cards));
        }
        for (i, card) in cards.iter().enumerate() {
            self.name.check(card).map_err(|error| Refusal::field(&format!("to[{i}]"), error))?;
        }
        let optional = [
            ("from", Some(&push.from)),
            ("appID", push.target.app.as_ref()),
            ("collapse_key", push.collapse_key.as_ref()),
        ];
        for (field, value) in optional.into_iter().filter_map(|(field, value)| Some((field, value?))) {
            self.name.check_optional(value).map_err(|error| Refusal::field(field, error))?;
        }
        Ok(())
    }

    fn check_size(&self, push: &Push) -> Result<(), Refusal> {
        let bytes = push.content.len();
        let outbox = self.outbox;
        if bytes > self.limits.max_content {
            let message = format!("`content` has {bytes} bytes; at most {} are allowed", self.limits.max_content);
            return Err(Refusal::new(RefusalKind::PushTooLarge, message));
        }
        // exact lengths are counted only where escapes could matter
        if (bytes + push.from.len()) * 6 + ENVELOPE > outbox {
            let frame = escaped(&push.content) + escaped(&push.from) + ENVELOPE;
            if frame > outbox {
                let message = format!("`content` makes a frame of {frame} bytes; a connection's outbox holds {outbox}");
                return Err(Refusal::new(RefusalKind::PushTooLarge, message));
            }
        }
        Ok(())
    }
}

/// The refusal of a push to more cards than allowed.
pub(super) fn too_many_cards(limit: usize) -> Refusal {
    Refusal::field("to", format_args!("names more than {limit} cards; split the push"))
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
            0..0x20 => 6,
            _ => 1,
        })
        .sum()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{ingress::draft::Draft, push::PushId};

    fn limits() -> LimitCheck {
        LimitCheck::new(PushLimits { max_content: 1000, max_cards: 20, max_name: 8, max_batch: 10 }, 2000)
    }

    fn draft(to: &[&str], content: &str) -> Draft {
        Draft { to: to.iter().map(|&card| card.into()).collect(), content: content.into(), ..Draft::default() }
    }

    fn check(draft: Draft) -> Result<Push, Refusal> {
        limits().check(draft.with(PushId::generate()))
    }

    #[test]
    fn a_bad_push_is_refused_with_its_field() {
        let long = "x".repeat(9);
        let rows: Vec<(Draft, RefusalKind, &str)> = vec![
            (draft(&[], "x"), RefusalKind::BadField, "`to` names no card"),
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
    fn a_good_push_goes_on_to_each_card_once() {
        let push = check(draft(&["a", "b", "a"], &"x".repeat(1000))).unwrap();
        assert_eq!(push.target.cards, ["a", "b"]);
        assert_eq!((push.target.app, push.collapse_key), (None, None), "an empty one is none");
    }
}
