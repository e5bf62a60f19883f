//! The options of a push: whether it is stored, how long it is good, by which key a retry is known.

use super::{
    draft::PushOptions,
    refusal::{Refusal, RefusalKind},
};
use crate::{
    config::{Backend, Config, PushLimits, StoreConfig},
    push::{Address, Push, Target},
};

/// The longest idempotency key, in bytes.
const LONGEST_KEY: usize = 255;

/// What options are held to.
#[derive(Clone, Debug)]
pub(super) struct OptionCheck {
    limits: PushLimits,
    store: StoreConfig,
    queue: Backend,
    has_store: bool,
}

impl OptionCheck {
    /// By the configuration; `has_store`: there is one on this node.
    pub(super) fn of(config: &Config, has_store: bool) -> Self {
        Self { limits: config.push.clone(), store: config.store.clone(), queue: config.queue.backend, has_store }
    }

    /// Checks the options of a push that is within the other limits, and gives it its end.
    pub(super) fn apply(&self, options: &PushOptions, push: &mut Push) -> Result<(), Refusal> {
        if options.offline {
            self.need_store("offline")?;
            check_offline(&push.target)?;
        }
        if !options.idempotency_key.is_empty() {
            self.need_store("idempotency_key")?;
            check_key(&options.idempotency_key)?;
        }
        let seconds = match options.ttl {
            Some(ttl) if ttl == 0 || ttl > self.limits.max_ttl.as_secs() => return Err(bad_ttl(ttl, &self.limits)),
            Some(ttl) => Some(ttl),
            None if options.offline => Some(self.stored_ttl(&push.target)),
            None => None,
        };
        push.deadline = seconds.map(|seconds| push.id.millis().saturating_add(seconds.saturating_mul(1000)));
        Ok(())
    }

    /// How long a stored push is kept that says nothing: for the longest of its streams.
    fn stored_ttl(&self, target: &Target) -> u64 {
        // most nodes have no rules, and then all streams are alike
        if self.store.streams.is_empty() {
            return self.store.ttl.as_secs();
        }
        let cards = target.cards.iter().cloned().map(Address::Card);
        let streams = cards.chain(target.room.iter().cloned().map(Address::Room));
        streams.map(|address| self.store.bounds(&address).ttl.as_secs()).max().unwrap_or(self.store.ttl.as_secs())
    }

    fn need_store(&self, option: &str) -> Result<(), Refusal> {
        if self.has_store {
            return Ok(());
        }
        Err(no_store(&format!("`{option}`"), self.queue))
    }
}

/// The refusal of what needs a store, on a node without one.
pub(super) fn no_store(what: &str, queue: Backend) -> Refusal {
    let why = match queue {
        Backend::Embedded => "[store] backend is none",
        Backend::Nsq => "[store] backend is none; with [queue] backend = nsq there is none yet",
    };
    Refusal::new(RefusalKind::NoStore, format!("{what} needs a store: {why}"))
}

/// The refusal of a `ttl` that is no whole number of seconds within its bound.
pub(super) fn bad_ttl(given: impl std::fmt::Display, limits: &PushLimits) -> Refusal {
    let most = limits.max_ttl.as_secs();
    let right = format_args!("is {given}; it must be a whole number of seconds from 1 to {most} ([store] max_ttl)");
    Refusal::field("ttl", right)
}

/// A stored push is in streams: those of its cards, or that of its room.
fn check_offline(target: &Target) -> Result<(), Refusal> {
    const RIGHT: &str = "a stored push is for cards (`to`, with or without `appID`) or for one `room`";
    let Target { cards, room, app, everyone, exclude } = target;
    let problem = if *everyone {
        "cannot be for everyone"
    } else if cards.is_empty() && room.is_none() && app.is_some() {
        "cannot be for an app alone"
    } else if !cards.is_empty() && room.is_some() {
        "cannot be for cards within a room: send one push to the cards or one to the room"
    } else if exclude.is_some() {
        "cannot exclude anybody: leave `exclude` out, or `offline`"
    } else {
        return Ok(());
    };
    Err(Refusal::field("offline", format_args!("{problem}; {RIGHT}")))
}

/// A key is visible ASCII, so that a header carries it as a field does.
fn check_key(key: &str) -> Result<(), Refusal> {
    if key.len() > LONGEST_KEY {
        let bytes = key.len();
        let problem = format_args!("has {bytes} bytes; at most {LONGEST_KEY} are allowed");
        return Err(Refusal::field("idempotency_key", problem));
    }
    match key.chars().find(|c| !c.is_ascii_graphic()) {
        Some(c) => {
            let problem = format_args!("has U+{:04X}; it must be visible ASCII without spaces", u32::from(c));
            Err(Refusal::field("idempotency_key", problem))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{
        config,
        push::{Exclude, PushId},
    };

    fn check(has_store: bool, settings: &[(&str, &str)]) -> OptionCheck {
        let all = settings.iter().map(|(key, value)| (format!("OXIPUSH__{key}"), (*value).to_owned()));
        OptionCheck::of(&config::load(None, all).unwrap(), has_store)
    }

    fn push(target: Target) -> Push {
        Push { id: PushId::from_parts(1000, 1), target, ..Push::to("a", "x") }
    }

    fn cards(cards: &[&str]) -> Target {
        Target::cards(cards.iter().map(|card| (*card).into()).collect())
    }

    fn offline() -> PushOptions {
        PushOptions { offline: true, ..PushOptions::default() }
    }

    fn keyed(key: &str) -> PushOptions {
        PushOptions { idempotency_key: key.into(), ..PushOptions::default() }
    }

    fn ttl(ttl: u64) -> PushOptions {
        PushOptions { ttl: Some(ttl), ..PushOptions::default() }
    }

    fn deadline(check: &OptionCheck, options: &PushOptions, target: Target) -> Option<u64> {
        let mut push = push(target);
        check.apply(options, &mut push).unwrap();
        push.deadline
    }

    #[test]
    fn the_end_of_a_push_follows_from_its_ttl_or_where_it_is_stored_from_its_streams() {
        let plain = check(true, &[]);
        assert_eq!(deadline(&plain, &PushOptions::default(), cards(&["a"])), None);
        assert_eq!(deadline(&plain, &ttl(60), cards(&["a"])), Some(61_000));
        assert_eq!(deadline(&plain, &ttl(30 * 86_400), cards(&["a"])), Some(2_592_001_000));
        assert_eq!(deadline(&plain, &offline(), cards(&["a"])), Some(86_401_000));
        let rules = check(
            true,
            &[("STREAM_A__CARDS", "a*"), ("STREAM_A__TTL", "10s"), ("STREAM_R__ROOMS", "r"), ("STREAM_R__TTL", "20s")],
        );
        assert_eq!(deadline(&rules, &offline(), cards(&["a1", "a2"])), Some(11_000));
        assert_eq!(deadline(&rules, &offline(), cards(&["a1", "b"])), Some(86_401_000), "the longest of them");
        let room = Target { room: Some("r".into()), ..Target::default() };
        assert_eq!(deadline(&rules, &offline(), room), Some(21_000));
        assert_eq!(deadline(&rules, &PushOptions { ttl: Some(5), ..offline() }, cards(&["b"])), Some(6_000));
    }

    #[test]
    fn a_bad_option_is_refused_by_its_name() {
        let everyone = Target { everyone: true, ..Target::default() };
        let app = Target { app: Some("web".into()), ..Target::default() };
        let room = || Target { room: Some("r".into()), ..Target::default() };
        let exclude =
            |target| Target { exclude: Some(Box::new(Exclude { cards: vec!["b".into()], client: None })), ..target };
        let with_store = check(true, &[]);
        let long = "k".repeat(256);
        for (options, target, message) in [
            (
                ttl(0),
                cards(&["a"]),
                "`ttl` is 0; it must be a whole number of seconds from 1 to 2592000 ([store] max_ttl)",
            ),
            (ttl(2_592_001), cards(&["a"]), "`ttl` is 2592001; it must be a whole number"),
            (ttl(u64::MAX), cards(&["a"]), "`ttl` is 18446744073709551615; it must be"),
            (offline(), everyone, "`offline` cannot be for everyone; a stored push is for cards"),
            (offline(), app, "`offline` cannot be for an app alone; a stored push is for cards"),
            (
                offline(),
                Target { room: Some("r".into()), ..cards(&["a"]) },
                "`offline` cannot be for cards within a room: send",
            ),
            (offline(), exclude(room()), "`offline` cannot exclude anybody: leave `exclude` out, or `offline`;"),
            (offline(), exclude(cards(&["a"])), "`offline` cannot exclude anybody"),
            (keyed(&long), cards(&["a"]), "`idempotency_key` has 256 bytes; at most 255 are allowed"),
            (keyed("a b"), cards(&["a"]), "`idempotency_key` has U+0020; it must be visible ASCII"),
            (keyed("a\u{0}"), cards(&["a"]), "`idempotency_key` has U+0000"),
            (keyed("ü"), cards(&["a"]), "`idempotency_key` has U+00FC"),
        ] {
            let refusal = with_store.apply(&options, &mut push(target)).unwrap_err();
            assert_eq!(refusal.kind, RefusalKind::BadField);
            assert!(refusal.message.starts_with(message), "{} should start with {message}", refusal.message);
        }
        for (options, target) in [
            (offline(), room()),
            (offline(), Target { app: Some("web".into()), ..cards(&["a"]) }),
            (offline(), Target { app: Some("web".into()), ..room() }),
            (keyed(&long[1..]), exclude(room())),
            (keyed("!~"), cards(&["a"])),
        ] {
            assert_eq!(with_store.apply(&options, &mut push(target)), Ok(()), "{options:?}");
        }
    }

    #[test]
    fn without_a_store_what_needs_one_is_refused_with_the_reason() {
        let nsq = [("QUEUE__BACKEND", "nsq")];
        for (settings, why) in [
            (&[("STORE__BACKEND", "none")][..], "needs a store: [store] backend is none"),
            (&nsq, "needs a store: [store] backend is none; with [queue] backend = nsq there is none yet"),
        ] {
            let without = check(false, settings);
            for (options, name) in [(offline(), "offline"), (keyed("k"), "idempotency_key")] {
                let refusal = without.apply(&options, &mut push(cards(&["a"]))).unwrap_err();
                assert_eq!((refusal.kind, &*refusal.message), (RefusalKind::NoStore, &*format!("`{name}` {why}")));
            }
            assert_eq!(without.apply(&ttl(1), &mut push(cards(&["a"]))), Ok(()), "a live push needs none for its ttl");
        }
    }
}
