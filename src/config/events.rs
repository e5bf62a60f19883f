//! `[events]`: what a back end is told of clients, and where.

use super::{
    Backend, Config, EventsConfig, Secret, identities,
    reader::SectionReader,
    tables::{HOUR, KIB, MS, TIB},
};

/// The least bytes of the secret that a webhook's requests are signed with.
const LEAST_SECRET: usize = 16;

/// What an event tells of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // docs/events.md says what each is
pub enum EventKind {
    Message,
    Connected,
    Joined,
    Left,
    Subscribed,
    Unsubscribed,
    Disconnected,
    Presence,
    Drops,
}

impl EventKind {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Message,
        Self::Connected,
        Self::Joined,
        Self::Left,
        Self::Subscribed,
        Self::Unsubscribed,
        Self::Disconnected,
        Self::Presence,
        Self::Drops,
    ];

    /// As config.ini and an event's `type` write it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Message => "message",
            Self::Connected => "connected",
            Self::Joined => "joined",
            Self::Left => "left",
            Self::Subscribed => "subscribed",
            Self::Unsubscribed => "unsubscribed",
            Self::Disconnected => "disconnected",
            Self::Presence => "presence",
            Self::Drops => "drops",
        }
    }

    /// The kind of this word.
    pub fn of_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.word() == word)
    }
}

/// A set of kinds of events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EventKinds(u16);

impl EventKinds {
    /// Every kind.
    pub const ALL: Self = Self((1 << EventKind::ALL.len()) - 1);

    /// Whether it is none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether `kind` is one of them.
    pub fn has(self, kind: EventKind) -> bool {
        self.0 & Self::bit(kind) != 0
    }

    /// All of both.
    #[must_use]
    pub fn union(self, others: Self) -> Self {
        Self(self.0 | others.0)
    }

    /// One bit for each, by the order of [`EventKind::ALL`].
    pub fn bits(self) -> u16 {
        self.0
    }

    /// From [`EventKinds::bits`].
    pub fn of_bits(bits: u16) -> Self {
        Self(bits & Self::ALL.0)
    }

    fn bit(kind: EventKind) -> u16 {
        1 << kind as u16
    }
}

impl FromIterator<EventKind> for EventKinds {
    fn from_iter<T: IntoIterator<Item = EventKind>>(kinds: T) -> Self {
        Self(kinds.into_iter().fold(0, |bits, kind| bits | Self::bit(kind)))
    }
}

pub(super) fn read(r: &mut SectionReader<'_>) -> EventsConfig {
    let s = "events";
    let words = EventKind::ALL.map(EventKind::word).join(", ");
    EventsConfig {
        url: url(r),
        secret: identities::secret_of(r, s, LEAST_SECRET),
        kinds: r.each(s, "kinds", &format!("one of {words}"), EventKind::of_word).into_iter().collect(),
        batch: r.number(s, "batch", 1, 100_000),
        timeout: r.time(s, "timeout", MS * 10, HOUR),
        max_in_flight: r.number(s, "max_in_flight", 1, 10_000),
        max_backoff: r.time(s, "max_backoff", MS * 100, HOUR),
        buffer: r.number(s, "buffer", 1, 10_000_000),
        max_bytes: r.size(s, "max_bytes", 64 * KIB, 1024 * TIB),
        memory_bytes: r.bytes(s, "memory_bytes", 0, TIB),
        max_watchers: r.number(s, "max_watchers", 1, 10_000),
        ca: identities::certificates(r, s, "ca"),
    }
}

fn url(r: &mut SectionReader<'_>) -> Option<String> {
    let text = r.optional("events", "url")?;
    identities::url_within(r, "events", "url", &text, "on loopback and private networks", identities::is_private)
}

/// What is wrong only beside another key.
pub(super) fn together(r: &mut SectionReader<'_>, config: &Config) {
    let events = &config.events;
    let has_secret = events.secret.as_ref().is_some_and(|Secret(secret)| !secret.is_empty());
    match events.url {
        Some(_) if !has_secret => {
            let what = "its requests are signed: give secret or secret_file too (openssl rand -base64 32)";
            r.reject("events", "url", what);
        }
        Some(_) if events.kinds.is_empty() => {
            r.reject("events", "kinds", "url is told of nothing: name some kinds (say message), or leave url empty");
        }
        None if has_secret => {
            r.reject("events", "secret", "nothing is signed with it: give url too, or leave it empty");
        }
        _ => {}
    }
    // NSQ takes 64 characters
    if events.url.is_none() && config.queue.backend == Backend::Nsq && !events.kinds.is_empty() {
        let longest = 64 - ".events".len();
        if config.queue.topic.len() > longest {
            let what = format!("<topic>.events would be too long for NSQ: take at most {longest} characters");
            r.reject("queue", "topic", what);
        }
    }
    let frame = config.socket.max_message as u64;
    let is_kept = events.url.is_some() || config.queue.backend == Backend::Embedded;
    if is_kept && events.kinds.has(EventKind::Message) && events.max_bytes < frame * 2 {
        r.reject("events", "max_bytes", "a message of [socket] max_message does not fit: take at least twice as much");
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::config::load;

    fn with(values: &[(&str, &str)]) -> Result<EventsConfig, String> {
        let values = values.iter().map(|(name, value)| (format!("OXIPUSH__EVENTS__{name}"), (*value).to_owned()));
        load(None, values).map(|config| config.events).map_err(|error| error.to_string())
    }

    #[test]
    fn kinds_are_a_list_of_words_and_nothing_else() {
        let config = with(&[]).unwrap();
        assert!(config.url.is_none() && config.kinds.is_empty());
        let config = with(&[("KINDS", "joined, drops,presence")]).unwrap();
        for kind in EventKind::ALL {
            let given = [EventKind::Joined, EventKind::Drops, EventKind::Presence].contains(&kind);
            assert_eq!(config.kinds.has(kind), given, "{kind:?}");
            assert_eq!(EventKind::of_word(kind.word()), Some(kind));
        }
        assert!(with(&[("KINDS", "")]).unwrap().kinds.is_empty());
        let told = with(&[("KINDS", "message, gone")]).unwrap_err();
        assert!(told.contains("[events] kinds: \"gone\" is not one of message, connected"), "{told}");
    }

    #[test]
    fn a_webhook_is_of_https_or_near_and_always_signed() {
        let secret = ("SECRET", "0123456789abcdef");
        let with = |values: &[(&str, &str)]| with(&[&[("KINDS", "message")], values].concat());
        for url in ["https://example.org/events", "http://127.0.0.1:9000/e", "http://backend:80/", "http://10.1.2.3/"] {
            assert!(with(&[("URL", url), secret]).is_ok(), "{url}");
        }
        for (values, told) in [
            (&[("URL", "http://example.org/"), secret][..], "would be called in the clear"),
            (&[("URL", "example.org"), secret], "is no URL"),
            (&[("URL", "https://u:p@example.org/"), secret], "has a user or a password"),
            (&[("URL", "https://example.org/")], "its requests are signed"),
            (&[("URL", "https://example.org/"), ("SECRET", "short")], "it has 5 bytes: take 16 or more"),
            (&[("URL", "https://example.org/"), secret, ("KINDS", "")], "url is told of nothing"),
            (&[secret], "nothing is signed with it"),
            (&[("MAX_BYTES", "64KiB"), ("KINDS", "message")], "a message of [socket] max_message does not fit"),
        ] {
            let error = with(values).unwrap_err();
            assert!(error.contains("[events]") && error.contains(told), "{values:?}: {error}");
        }
        assert!(!format!("{:?}", with(&[("URL", "https://example.org/"), secret])).contains("0123456789"));
    }

    #[test]
    fn a_secret_may_stand_in_a_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "0123456789abcdef0\n").unwrap();
        let path = file.path().to_str().unwrap();
        let config = with(&[("URL", "https://example.org/"), ("SECRET_FILE", path), ("KINDS", "message")]).unwrap();
        assert_eq!(config.secret.unwrap().expose(), "0123456789abcdef0");
    }
}
