//! `[key.NAME]`: callers of the API, each with a key and rights of its own; and what any key of a caller must be like.

use std::{collections::BTreeMap, path::Path};

use ring::digest::{SHA256, digest};

use super::{Config, identities, named::KEYS, reader::SectionReader};

/// The least characters of a secret that listeners beyond loopback are kept by.
pub(super) const LEAST_SECRET: usize = 16;

/// The longest secret, in bytes: what is longer is not hashed, so that a wrong key costs no more than that.
pub const LONGEST_SECRET: usize = 512;

/// What a caller may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // docs/operations.md says what each is for
pub enum Scope {
    Push,
    Query,
    Disconnect,
    Metrics,
    Events,
    Nodes,
    Admin,
}

impl Scope {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Push, Self::Query, Self::Disconnect, Self::Metrics, Self::Events, Self::Nodes, Self::Admin];

    /// As config.ini and refusals write it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Push => "push",
            Self::Query => "query",
            Self::Disconnect => "disconnect",
            Self::Metrics => "metrics",
            Self::Events => "events",
            Self::Nodes => "nodes",
            Self::Admin => "admin",
        }
    }
}

/// The SHA-256 of a secret, which is all that is kept of it.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct SecretDigest(pub(crate) [u8; 32]);

impl SecretDigest {
    /// Of the bytes that follow `Bearer ` in a header.
    pub fn of(secret: &[u8]) -> Self {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest(&SHA256, secret).as_ref());
        Self(bytes)
    }

    /// From 64 hex digits.
    fn from_hex(text: &str) -> Option<Self> {
        if text.len() != 64 || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return None;
        }
        let mut bytes = [0; 32];
        for (at, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(text.get(at * 2..at * 2 + 2)?, 16).ok()?;
        }
        Some(Self(bytes))
    }
}

impl std::fmt::Debug for SecretDigest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

/// A `[key.NAME]`.
#[derive(Clone, Debug)]
#[allow(missing_docs)] // config.ini says what each key means, its unit and why
pub struct KeyConfig {
    pub name: String,
    pub digest: SecretDigest,
    /// Characters of the secret; `None`: only its digest is known.
    pub length: Option<usize>,
    pub scopes: Vec<Scope>,
    /// Names, or prefixes with `*` at the end.
    pub apps: Vec<String>,
    pub cards: Vec<String>,
    pub rooms: Vec<String>,
    /// Pushes in a second; 0: no bound.
    pub rate: u32,
    /// Pushes at once; 0 only where `rate` is.
    pub burst: u32,
}

/// Every `[key.NAME]`.
pub(super) fn read(r: &mut SectionReader<'_>) -> Vec<KeyConfig> {
    let sections: Vec<_> = r.sections().filter(|section| KEYS.has(section)).collect();
    sections.into_iter().map(|section| key(r, section, KEYS.name_in(section).unwrap_or_default())).collect()
}

fn key(r: &mut SectionReader<'_>, section: &str, name: &str) -> KeyConfig {
    let (digest, length) = secret(r, section).unwrap_or_else(|| {
        r.replaced();
        (SecretDigest::default(), None)
    });
    let words = Scope::ALL.map(Scope::word).join(", ");
    let scope = |text: &str| Scope::ALL.into_iter().find(|scope| scope.word() == text);
    let scopes = r.each(section, "scopes", &format!("one of {words}"), scope);
    if scopes.is_empty() && r.text(section, "scopes").is_empty() {
        r.reject(section, "scopes", format!("a key without any opens nothing: name some of {words}"));
    }
    let rate = r.number(section, "rate", 0, 1_000_000);
    let burst = r.number(section, "burst", 0, 1_000_000);
    if burst > 0 && rate == 0 {
        r.reject(section, "burst", "it does nothing without rate: give both, or neither");
    }
    KeyConfig {
        name: name.to_owned(),
        digest,
        length,
        scopes,
        apps: r.patterns(section, "apps"),
        cards: r.patterns(section, "cards"),
        rooms: r.patterns(section, "rooms"),
        rate,
        burst: if burst == 0 { rate } else { burst },
    }
}

/// The digest of a section's secret and its length, where that is known.
fn secret(r: &mut SectionReader<'_>, section: &str) -> Option<(SecretDigest, Option<usize>)> {
    const PLACES: &str = "secret, secret_file and sha256";
    // as written: whoever put spaces into quotes meant them
    let secret = Some(r.as_written(section, "secret").to_owned()).filter(|secret| !secret.is_empty());
    let file = r.path(section, "secret_file");
    let sha256 = r.optional(section, "sha256");
    let (key, secret) = match (secret, file, sha256) {
        (Some(secret), None, None) => ("secret", secret),
        (None, Some(file), None) => match of_file(&file) {
            Ok(secret) => ("secret_file", secret),
            Err(error) => {
                r.reject(section, "secret_file", error);
                return None;
            }
        },
        (None, None, Some(sha256)) => {
            let digest = SecretDigest::from_hex(&sha256);
            if digest.is_none() {
                // it may be a secret that was put there
                r.reject(section, "sha256", "it is not 64 hex digits (printf %s \"$SECRET\" | sha256sum)");
            }
            return Some((digest?, None));
        }
        (None, None, None) => {
            r.reject(section, "secret", format!("there is no key: give one of {PLACES}"));
            return None;
        }
        _ => {
            r.reject(section, "secret", format!("there are several keys: give only one of {PLACES}"));
            return None;
        }
    };
    if let Some(error) = error_in(&secret) {
        r.reject(section, key, format!("the secret {error}"));
        return None;
    }
    Some((SecretDigest::of(secret.as_bytes()), Some(secret.len())))
}

/// The secret in a file, without the line end that editors leave.
pub(super) fn of_file(path: &Path) -> Result<String, String> {
    let text = identities::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let secret = text.strip_suffix('\n').map_or(&*text, |line| line.strip_suffix('\r').unwrap_or(line));
    if secret.is_empty() {
        return Err(format!("{}: is empty; write the secret into it", path.display()));
    }
    Ok(secret.to_owned())
}

/// Why no `Authorization: Bearer <secret>` can be relied on to carry it: HTTP trims spaces, and neither gRPC's metadata nor a
/// browser takes what is not ASCII as it is.
pub(super) fn error_in(secret: &str) -> Option<String> {
    if secret.len() > LONGEST_SECRET {
        return Some(format!("has more than {LONGEST_SECRET} bytes"));
    }
    let wrong = secret.chars().find(|c| !c.is_ascii_graphic())?;
    let character = match wrong {
        ' ' => "a space".into(),
        '\n' | '\r' => "a line end".into(),
        _ => format!("U+{:04X}", u32::from(wrong)),
    };
    Some(format!("has {character}, which no header carries everywhere: take visible ASCII without spaces"))
}

/// A key with where it stands, to be compared with others.
struct PlacedKey<'a> {
    section: &'a str,
    key: &'static str,
    /// Beside its section and key.
    shown: String,
    /// By itself.
    full_name: String,
    digest: SecretDigest,
    length: Option<usize>,
}

/// What is wrong with keys only beside others, those of `[auth] keys` too, or beside other sections.
pub(super) fn together(r: &mut SectionReader<'_>, config: &Config) {
    let sections: Vec<_> = config.auth.callers.iter().map(|key| KEYS.section_of(&key.name)).collect();
    let mut seen = BTreeMap::new();
    for placed in placed_keys(config, &sections) {
        let PlacedKey { section, key, shown, full_name, digest, length } = placed;
        for (listener, at, address) in config.api_beyond_loopback() {
            if let Some(length) = length.filter(|length| *length < LEAST_SECRET) {
                let what = format!(
                    "{shown} has {length} characters, and [{listener}] {at} = {address} can be reached from other machines: \
                     take {LEAST_SECRET} or more (openssl rand -base64 32)"
                );
                r.reject(section, key, what);
            }
        }
        if let Some(other) = seen.insert(digest, full_name) {
            r.reject(section, key, format!("{shown} is {other}, too: give each caller a key of its own"));
        }
    }
    for (key, section) in config.auth.callers.iter().zip(&sections) {
        let bounds = [("apps", &key.apps), ("cards", &key.cards), ("rooms", &key.rooms)];
        for (kind, patterns) in bounds {
            r.check_patterns(section, kind, patterns, config.push.max_name);
        }
    }
    raw_key(r, config);
}

fn placed_keys<'a>(config: &'a Config, sections: &'a [String]) -> Vec<PlacedKey<'a>> {
    let of_list = config.auth.keys.iter().enumerate().map(|(nth, key)| {
        let shown = format!("key {}", nth + 1);
        let secret = key.expose();
        let full_name = format!("{shown} of [auth] keys");
        let digest = SecretDigest::of(secret.as_bytes());
        PlacedKey { section: "auth", key: "keys", shown, full_name, digest, length: Some(secret.len()) }
    });
    let of_sections = config.auth.callers.iter().zip(sections).map(|(key, section)| PlacedKey {
        section,
        key: "secret",
        shown: "the secret".into(),
        full_name: format!("the secret of [{section}]"),
        digest: key.digest,
        length: key.length,
    });
    of_list.chain(of_sections).collect()
}

fn raw_key(r: &mut SectionReader<'_>, config: &Config) {
    let Some(raw) = &config.queue.raw_key else { return };
    match config.auth.callers.iter().find(|key| key.name == *raw) {
        None => r.reject("queue", "raw_key", format!("there is no [key.{raw}]")),
        Some(key) if !key.scopes.contains(&Scope::Push) => {
            r.reject("queue", "raw_key", format!("[key.{raw}] has not the scope push"));
        }
        Some(_) => {}
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::{ConfigError, load, settings};
    use super::*;

    const LONG: &str = "0123456789abcdef";
    /// sha256sum's own, of "abc".
    const OF_ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    fn named(values: &[(&str, &str)]) -> Vec<(String, String)> {
        values.iter().map(|(name, value)| (format!("OXIPUSH__{name}"), (*value).to_owned())).collect()
    }

    fn with(file: &str, values: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.ini");
        std::fs::write(&path, file).unwrap();
        load(Some(&path), named(values))
    }

    #[test]
    fn a_section_is_a_caller_wherever_it_is_written() {
        let file =
            "[key.billing-1]\nsecret = one\nscopes = push, query\ncards = user:*, x\nrate = 10\n[key.ops]\nsha256 = ";
        let file = format!("{file}{OF_ABC}\nscopes = metrics\n");
        let values = [
            ("KEY_BILLING_1__RATE", "20"),
            ("KEY_ENV__SECRET", "three"),
            ("KEY_ENV__SCOPES", "admin,disconnect"),
            ("key.dotted__secret", "four"),
            ("key.dotted__scopes", "push"),
        ];
        let config = with(&file, &values).unwrap();
        let by_name = |name: &str| config.auth.callers.iter().find(|key| key.name == name).unwrap();
        let billing = by_name("billing-1");
        assert_eq!(billing.scopes, [Scope::Push, Scope::Query]);
        assert_eq!((&billing.cards[..], &billing.apps[..]), (&["user:*".to_owned(), "x".into()][..], &[][..]));
        assert_eq!(
            (billing.rate, billing.burst, billing.length),
            (20, 20, Some(3)),
            "the environment overrides the file"
        );
        assert_eq!(billing.digest, SecretDigest::of(b"one"));
        assert_eq!((by_name("ops").digest, by_name("ops").length), (SecretDigest::of(b"abc"), None));
        assert_eq!(by_name("env").scopes, [Scope::Admin, Scope::Disconnect]);
        assert_eq!(by_name("dotted").digest, SecretDigest::of(b"four"));
        assert_eq!(config.auth.callers.len(), 4);
        assert!(!config.is_open() && with("", &[]).unwrap().is_open());
    }

    #[test]
    fn every_mistake_is_told_at_once_by_its_section_and_key() {
        let file = "[key.Bad]\nsecret = x\n[key.]\n[keys.a]\nsecret = x\n[key.empty]\n[key.two]\nsecret = hush1\nsha256 = hush2\nscopes = push\n\
                    [key.hex]\nsha256 = hush3\nscopes = push\n[key.words]\nsecret = hush4\nscopes = pusj\nscope = push\nburst = 5\nrate = -1\n\
                    [key.space]\nsecret = \"hush 5\"\nscopes = push\n[key.umlaut]\nsecret = hush\u{fc}\nscopes = push\n\
                    [key.file]\nsecret_file = /no/such/file\nscopes = push\n[key.a-b]\nsecret = hush6\nscopes = push\n[key.a_b]\nsecret = hush7\nscopes = push\n";
        let values = [("KEY__SECRET", "x"), ("KEY_TOO_LONG_A_NAME_FOR_A_KEY_OF_32_OR_LESS__SECRET", "x")];
        let text = with(file, &values).unwrap_err().to_string();
        for expected in [
            "[key.Bad] secret: a key's name has 1 to 32 of a-z",
            "[key.]: a key's name has 1 to 32 of a-z",
            "[keys.a] secret: there is no such section; did you mean [key.NAME]",
            "[key.empty] secret: there is no key: give one of secret, secret_file and sha256",
            "[key.empty] scopes: a key without any opens nothing",
            "[key.two] secret: there are several keys: give only one",
            "[key.hex] sha256: it is not 64 hex digits",
            "[key.words] scopes: \"pusj\" is not one of push, query, disconnect, metrics, events, nodes, admin",
            "[key.words] scope: there is no such key; did you mean scopes?",
            "[key.words] rate: \"-1\" is not a whole number",
            "[key.space] secret: the secret has a space, which no header carries everywhere",
            "[key.umlaut] secret: the secret has U+00FC",
            "[key.file] secret_file: /no/such/file: cannot be read",
            "[key.a_b]: [key.a-b] is there, too",
            "OXIPUSH__KEY__SECRET: there is no such section; did you mean [key.NAME]",
            "OXIPUSH__KEY_TOO_LONG_A_NAME_FOR_A_KEY_OF_32_OR_LESS__SECRET: a key's name has 1 to 32",
        ] {
            assert!(text.contains(expected), "{expected} is missing in\n{text}");
        }
        let template = with("[key.NAME]\nsecret = hush\n", &[]).unwrap_err().to_string();
        assert_eq!(template, "[key.NAME]: put a name of your own in place of NAME, say [key.billing]");
        assert!(with(super::super::DEFAULTS, &[]).unwrap().is_open(), "a copy of config.ini is good");
        assert!(!text.contains("hush"), "a secret is shown in\n{text}");
    }

    #[test]
    fn what_cannot_work_beside_other_keys_is_told() {
        let key =
            |name: &str, secret: &str, more: &str| format!("[key.{name}]\nsecret = {secret}\nscopes = push\n{more}");
        let open = [("HTTP__LISTEN", "0.0.0.0:8081")];
        for (file, values, told) in [
            (
                key("a", "x", "") + &key("b", "x", ""),
                &[][..],
                "[key.b] secret: the secret is the secret of [key.a], too",
            ),
            (key("a", "k2", ""), &[("AUTH__KEYS", "k1,k2")], "[key.a] secret: the secret is key 2 of [auth] keys, too"),
            (String::new(), &[("AUTH__KEYS", "k1,k1")], "[auth] keys: key 2 is key 1 of [auth] keys, too"),
            (
                key("a", "short", ""),
                &open,
                "[key.a] secret: the secret has 5 characters, and [http] listen = 0.0.0.0:8081",
            ),
            (key("a", "x", "burst = 5\n"), &[], "[key.a] burst: it does nothing without rate"),
            (key("a", "x", &format!("cards = {}*\n", "n".repeat(129))), &[], "[key.a] cards: \"nnn"),
            (key("a", "x", ""), &[("QUEUE__RAW_KEY", "b")], "[queue] raw_key: there is no [key.b]"),
            (
                key("a", "x", "").replace("push", "query"),
                &[("QUEUE__RAW_KEY", "a")],
                "[queue] raw_key: [key.a] has not the scope",
            ),
        ] {
            let error = with(&file, values).unwrap_err().to_string();
            assert!(error.contains(told), "{told} is missing in\n{error}");
        }
        assert!(with(&key("a", LONG, ""), &open).is_ok());
        let digest = [open[0], ("KEY_A__SHA256", OF_ABC), ("KEY_A__SCOPES", "push")];
        assert!(with("", &digest).is_ok(), "how long its secret is cannot be known");
    }

    /// In the file, the environment and a file of its own alike.
    #[test]
    fn a_secret_is_taken_as_it_is_written() {
        let all: String = ('!'..='~').collect();
        let folder = tempfile::tempdir().unwrap();
        let own = folder.path().join("secret");
        for secret in [
            &all, "#x", ";x", "a;b#c", "\\", "\\n", "a\"b", "it's", "\"x", "%20", "%s", "${HOME}", "a=b", "[x]", "a,b",
            "'\"x\"'",
        ] {
            std::fs::write(&own, format!("{secret}\r\n")).unwrap();
            let quoted = if secret.starts_with('\'') { format!("\"{secret}\"") } else { secret.to_owned() };
            let scopes = ("KEY_A__SCOPES", "push");
            for config in [
                with(&format!("[key.a]\nsecret = {quoted}\nscopes = push\n"), &[]),
                with(&format!("[key.a]\nscopes = push\nsecret='{secret}'\n"), &[]),
                with("", &[("KEY_A__SECRET", &quoted), scopes]),
                with("", &[("KEY_A__SECRET_FILE", own.to_str().unwrap()), scopes]),
            ] {
                assert_eq!(config.unwrap().auth.callers[0].digest, SecretDigest::of(secret.as_bytes()), "{secret}");
            }
        }
        for (wrong, told) in [
            ("", "is empty"),
            ("\n", "is empty"),
            ("a\nb\n", "has a line end"),
            (&"x".repeat(600), "more than 512 bytes"),
        ] {
            std::fs::write(&own, wrong).unwrap();
            let values = [("KEY_A__SECRET_FILE", own.to_str().unwrap()), ("KEY_A__SCOPES", "push")];
            let error = with("", &values).unwrap_err().to_string();
            assert!(error.contains("[key.a] secret_file: ") && error.contains(told), "{error}");
        }
    }

    #[test]
    fn what_is_used_is_shown_for_each_key_without_its_secret() {
        let values = [
            ("KEY_B__SECRET", "hush"),
            ("KEY_B__SCOPES", "push"),
            ("KEY_A__SHA256", OF_ABC),
            ("KEY_A__SCOPES", "query"),
        ];
        let all = settings(None, named(&values)).unwrap();
        let of_keys: Vec<_> = all.iter().filter(|setting| setting.section.starts_with("key.")).collect();
        let shown = |section: &str, key: &str| {
            let setting = of_keys.iter().find(|setting| setting.section == section && setting.key == key);
            setting.map(|setting| setting.value.clone()).unwrap()
        };
        assert_eq!(
            (shown("key.b", "secret"), shown("key.a", "sha256"), shown("key.a", "secret")),
            ("***".into(), "***".into(), String::new())
        );
        assert_eq!((shown("key.b", "scopes"), shown("key.b", "rate")), ("push".into(), "0".into()));
        assert!(of_keys.iter().all(|setting| setting.section != KEYS.template));
    }
}
