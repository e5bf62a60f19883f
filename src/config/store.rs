//! `[store]`: what is kept of pushes that outlast a moment; and `[stream.NAME]`: the bounds of some streams.

use std::time::Duration;

use super::{
    Backend, Config, StoreBackend, StoreConfig, StreamStart,
    named::STREAMS,
    reader::{SectionReader, duration, size},
    tables::{HOUR, KIB, MS, TIB, YEAR},
};
use crate::push::{Address, Patterns};

/// The least time that a stored push may be kept.
const SECOND: Duration = Duration::from_secs(1);

/// The most entries of a stream.
const MOST_ENTRIES: usize = 10_000_000;

/// The bounds of one stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamBounds {
    /// Pushes.
    pub max_entries: usize,
    /// Bytes of them.
    pub max_bytes: u64,
    /// How old they may become; `None`: as old as their ttl lets them.
    pub max_age: Option<Duration>,
    /// How long a push is kept that says no ttl itself.
    pub ttl: Duration,
}

/// A `[stream.NAME]`: bounds of the streams that it names.
#[derive(Clone, Debug)]
pub struct StreamRule {
    /// Behind `stream.`.
    pub name: String,
    /// The cards whose streams are meant.
    pub cards: Patterns,
    /// The rooms whose streams are meant.
    pub rooms: Patterns,
    /// Where it says nothing, as `[store]` has it.
    pub bounds: StreamBounds,
}

impl StreamRule {
    /// Whether the stream of `address` is meant.
    fn is_for(&self, address: &Address) -> bool {
        match address {
            Address::Card(card) => self.cards.admits(card),
            Address::Room(room) => self.rooms.admits(room),
        }
    }
}

impl StoreConfig {
    /// The bounds of the stream of `address`: those of the first rule that is for it, else those of all.
    pub fn bounds(&self, address: &Address) -> StreamBounds {
        let rule = self.streams.iter().find(|rule| rule.is_for(address));
        rule.map_or_else(|| self.own_bounds(), |rule| rule.bounds)
    }

    /// Of streams that no rule is for.
    fn own_bounds(&self) -> StreamBounds {
        StreamBounds {
            max_entries: self.max_entries,
            max_bytes: self.max_stream_bytes,
            max_age: self.max_age,
            ttl: self.ttl,
        }
    }
}

pub(super) fn read(r: &mut SectionReader<'_>) -> StoreConfig {
    let s = "store";
    let backends = [
        ("embedded", StoreBackend::Embedded),
        ("redis", StoreBackend::Redis),
        ("none", StoreBackend::None),
        ("", StoreBackend::Auto),
    ];
    let starts = [("oldest", StreamStart::Oldest), ("head", StreamStart::Head)];
    let mut store = StoreConfig {
        backend: r.choice(s, "backend", backends),
        ttl: r.time(s, "ttl", SECOND, YEAR),
        max_ttl: r.time(s, "max_ttl", SECOND, YEAR),
        max_entries: r.number(s, "max_entries", 1, MOST_ENTRIES),
        max_stream_bytes: r.size(s, "max_stream_bytes", KIB, TIB),
        max_age: Some(r.time(s, "max_age", Duration::ZERO, YEAR)).filter(|age| !age.is_zero()),
        max_bytes: r.size(s, "max_bytes", 64 * KIB, 1024 * TIB),
        max_streams: r.number(s, "max_streams", 1, 1_000_000_000),
        max_devices: r.number(s, "max_devices", 1, 10_000),
        device_idle: r.time(s, "device_idle", SECOND, 10 * YEAR),
        new_device: r.choice(s, "new_device", starts),
        new_app: r.choice(s, "new_app", starts),
        timeout: r.time(s, "timeout", MS * 10, HOUR),
        max_appends: r.number(s, "max_appends", 1, 1_000_000),
        max_acks: r.number(s, "max_acks", 1, 100_000_000),
        memory_bytes: r.bytes(s, "memory_bytes", 64 * KIB, TIB),
        page_entries: r.number(s, "page_entries", 1, 10_000),
        page_bytes: r.bytes(s, "page_bytes", KIB, TIB),
        max_pages: r.number(s, "max_pages", 1, 100_000),
        sweep_interval: r.time(s, "sweep_interval", MS * 10, HOUR),
        idempotency_ttl: r.time(s, "idempotency_ttl", SECOND, YEAR),
        max_idempotency_keys: r.number(s, "max_idempotency_keys", 1, 1_000_000_000),
        streams: Vec::new(),
    };
    let sections: Vec<_> = r.sections().filter(|section| STREAMS.has(section)).collect();
    store.streams = sections.into_iter().map(|section| rule(r, section, store.own_bounds())).collect();
    store
}

/// One `[stream.NAME]`; what is empty is as `others` have it.
fn rule(r: &mut SectionReader<'_>, section: &str, others: StreamBounds) -> StreamRule {
    let entries = |text: &str| text.parse().ok().filter(|number| (1..=MOST_ENTRIES).contains(number));
    let bytes = |text: &str| size(text).filter(|bytes| (KIB..=TIB).contains(bytes));
    let age = |text: &str| duration(text).filter(|age| *age <= YEAR).map(|age| Some(age).filter(|age| !age.is_zero()));
    let ttl = |text: &str| duration(text).filter(|ttl| (SECOND..=YEAR).contains(ttl));
    let cards = r.patterns(section, "cards");
    let rooms = r.patterns(section, "rooms");
    if cards.is_empty() && rooms.is_empty() {
        r.reject(section, "cards", "neither cards nor rooms are named: say for which streams it is");
    }
    let time = "a time up to a year (say 10m, 24h)";
    StreamRule {
        name: STREAMS.name_in(section).unwrap_or_default().to_owned(),
        cards: Patterns::from_iter(cards),
        rooms: Patterns::from_iter(rooms),
        bounds: StreamBounds {
            max_entries: r.unless_empty(
                section,
                "max_entries",
                "a whole number from 1 to 10000000",
                others.max_entries,
                entries,
            ),
            max_bytes: r.unless_empty(section, "max_bytes", "a size from 1KiB to 1024GiB", others.max_bytes, bytes),
            max_age: r.unless_empty(section, "max_age", time, others.max_age, age),
            ttl: r.unless_empty(section, "ttl", "a time from 1s to a year (say 10m, 24h)", others.ttl, ttl),
        },
    }
}

/// What is wrong only beside other keys, and which backend an empty one is.
pub(super) fn together(r: &mut SectionReader<'_>, config: &mut Config) {
    let is_embedded = config.queue.backend == Backend::Embedded;
    let has_redis = !config.redis.urls.is_empty();
    let has_etcd = !config.cluster.etcd.is_empty();
    match config.store.backend {
        StoreBackend::Auto if is_embedded => config.store.backend = StoreBackend::Embedded,
        StoreBackend::Auto if has_redis => config.store.backend = StoreBackend::Redis,
        StoreBackend::Auto => config.store.backend = StoreBackend::None,
        StoreBackend::Embedded if !is_embedded || has_etcd => {
            let what = "the embedded store is of one node and needs [queue] backend = embedded without [cluster] etcd: set redis, \
                        or none, or leave it empty";
            r.reject("store", "backend", what);
        }
        StoreBackend::Redis if !has_redis => {
            r.reject("store", "backend", "redis needs [redis] url, which says where that is");
        }
        StoreBackend::Embedded | StoreBackend::Redis | StoreBackend::None => {}
    }
    if config.store.ttl > config.store.max_ttl {
        r.reject("store", "ttl", "it must be at most max_ttl");
    }
    for rule in &config.store.streams {
        let section = STREAMS.section_of(&rule.name);
        if rule.bounds.ttl > config.store.max_ttl {
            r.reject(&section, "ttl", "it must be at most [store] max_ttl");
        }
        for key in ["cards", "rooms"] {
            let patterns = r.list(&section, key);
            r.check_patterns(&section, key, &patterns, config.push.max_name);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::{ConfigError, DEFAULTS, load, settings};
    use super::*;

    fn with(file: &str, values: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.ini");
        std::fs::write(&path, file).unwrap();
        load(Some(&path), values.iter().map(|(name, value)| (format!("OXIPUSH__{name}"), (*value).to_owned())))
    }

    fn card(name: &str) -> Address {
        Address::Card(name.into())
    }

    fn room(name: &str) -> Address {
        Address::Room(name.into())
    }

    #[test]
    fn the_first_rule_that_is_for_a_stream_says_its_bounds_and_store_what_it_leaves_out() {
        let file = "[stream.b-all]\ncards = *\nttl = 3h\n[stream.a-users]\ncards = user:*, boss\nrooms = chat:*\n\
                    max_entries = 7\nmax_age = 1h\n[store]\nmax_age = 5h\n[stream.c-quiet]\nrooms = quiet\nmax_age = 0s\n";
        let values = [("STREAM_A_USERS__MAX_BYTES", "2KiB"), ("STREAM_ENV__ROOMS", "env"), ("STREAM_ENV__TTL", "1s")];
        let store = with(file, &values).unwrap().store;
        let names: Vec<_> = store.streams.iter().map(|rule| rule.name.as_str()).collect();
        assert_eq!(names, ["a-users", "b-all", "c-quiet", "env"]);
        let hours = |hours: u32| HOUR * hours;
        let all = StreamBounds { max_entries: 1000, max_bytes: 1 << 20, max_age: Some(hours(5)), ttl: hours(24) };
        let users = StreamBounds { max_entries: 7, max_bytes: 2 << 10, max_age: Some(hours(1)), ttl: hours(24) };
        for (address, bounds) in [
            (card("user:7"), users),
            (card("boss"), users),
            (room("chat:1"), users),
            (card("chat:1"), StreamBounds { ttl: hours(3), ..all }),
            (room("quiet"), StreamBounds { max_age: None, ..all }),
            (room("env"), StreamBounds { ttl: SECOND, ..all }),
            (room("other"), all),
        ] {
            assert_eq!(store.bounds(&address), bounds, "{address:?}");
        }
    }

    #[test]
    fn a_mistake_in_a_streams_section_is_told_by_its_section_and_key() {
        let file = "[stream.Big]\ncards = a\n[stream.none]\nttl = 1h\n[stream.bad]\ncards = a\nmax_entries = 0\nmax_bytes = 5\n\
                    max_age = x\nttl = 0s\nmax_stream_bytes = 1MiB\n[streams]\nttl = 1h\n";
        let text = with(file, &[("STREAM__TTL", "1h")]).unwrap_err().to_string();
        for expected in [
            "[stream.Big] cards: a stream's name has 1 to 32 of a-z",
            "[stream.none] cards: neither cards nor rooms are named",
            "[stream.bad] max_entries: \"0\" is not a whole number from 1",
            "[stream.bad] max_bytes: \"5\" is not a size",
            "[stream.bad] max_age: \"x\" is not a time",
            "[stream.bad] ttl: \"0s\" is not a time from 1s",
            "[stream.bad] max_stream_bytes: there is no such key",
            "[streams] ttl: there is no such section; did you mean [stream.NAME]",
            "OXIPUSH__STREAM__TTL: there is no such section; did you mean [stream.NAME] (OXIPUSH__STREAM_NAME__…)",
        ] {
            assert!(text.contains(expected), "{expected} is missing in\n{text}");
        }
        for (file, told) in [
            (
                "[stream.NAME]\nttl = 1h\n".to_owned(),
                "[stream.NAME]: put a name of your own in place of NAME, say [stream.chat]",
            ),
            ("[stream.a]\ncards = a\nttl = 721h\n".into(), "[stream.a] ttl: it must be at most [store] max_ttl"),
            (format!("[stream.a]\nrooms = {}*\n", "n".repeat(129)), "[stream.a] rooms: \"nnn"),
            ("[stream.a-b]\ncards = a\n[stream.a_b]\ncards = a\n".into(), "[stream.a_b]: [stream.a-b] is there, too"),
        ] {
            let error = with(&file, &[]).unwrap_err().to_string();
            assert!(error.contains(told), "{told} is missing in\n{error}");
        }
        assert!(with(DEFAULTS, &[]).unwrap().store.streams.is_empty(), "a copy of config.ini is good");
    }

    #[test]
    fn what_is_used_is_shown_for_each_stream() {
        let values = [("OXIPUSH__STREAM_A__CARDS".to_owned(), "user:*".to_owned())];
        let all = settings(None, values).unwrap();
        let shown: Vec<_> = all.iter().filter(|setting| setting.section.starts_with("stream.")).collect();
        assert_eq!(shown.iter().map(|setting| setting.key.as_str()).next(), Some("cards"));
        assert!(shown.iter().all(|setting| setting.section == "stream.a"), "{shown:?}");
    }
}
