//! `[key.NAME]`: callers of the API, each with a key and rights of its own; and what any key of a caller must be like.

use std::{collections::BTreeMap, fs::File, io::Read, path::Path};

use ring::digest::{SHA256, digest};

use super::{Config, reader::SectionReader};

/// The section of config.ini whose keys and defaults every `[key.NAME]` has. Its name is in capitals, so it is no key's.
pub(super) const TEMPLATE: &str = "key.NAME";

/// What stands before the name in a section, and in the environment.
const BEFORE_NAME: &str = "key.";
const BEFORE_NAME_IN_ENVIRONMENT: &str = "key_";

/// The least characters of a secret that listeners beyond loopback are kept by.
const LEAST_SECRET: usize = 16;

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
    Admin,
}

impl Scope {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Push, Self::Query, Self::Disconnect, Self::Metrics, Self::Admin];

    /// As config.ini and refusals write it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Push => "push",
            Self::Query => "query",
            Self::Disconnect => "disconnect",
            Self::Metrics => "metrics",
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

/// The name in a section `key.NAME`; `None`: it is another section.
pub(super) fn name_in(section: &str) -> Option<&str> {
    section.strip_prefix(BEFORE_NAME)
}

/// Whether a key can be named so.
pub(super) fn is_name(name: &str) -> bool {
    (1..=32).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-".contains(&byte))
}

/// The section and key of `KEY_NAME__SECRET`, in lower case: a shell's names have no dot and no `-`, so a `_` stands for either
/// where a section of `known` says so.
pub(super) fn place_in_environment<'a, 'b>(
    place: &'a str,
    mut known: impl Iterator<Item = &'b String>,
) -> Option<(String, &'a str)> {
    let (name, key) = place.strip_prefix(BEFORE_NAME_IN_ENVIRONMENT)?.rsplit_once("__")?;
    let meant = known.find(|section| name_in(section).is_some_and(|known| known.replace('-', "_") == name));
    Some((meant.cloned().unwrap_or_else(|| format!("{BEFORE_NAME}{name}")), key))
}

/// Names that the environment cannot tell apart.
pub(super) fn collisions<'a>(sections: impl Iterator<Item = &'a String>) -> Vec<String> {
    let mut seen = BTreeMap::new();
    let mut wrong = Vec::new();
    for section in sections {
        let Some(name) = name_in(section) else { continue };
        if let Some(other) = seen.insert(name.replace('-', "_"), section) {
            wrong.push(format!(
                "[{section}]: [{other}] is there, too, and OXIPUSH__KEY_… could mean either: rename one"
            ));
        }
    }
    wrong
}

/// Every `[key.NAME]`.
pub(super) fn read(r: &mut SectionReader<'_>) -> Vec<KeyConfig> {
    let sections = r.sections().filter(|section| *section != TEMPLATE);
    let named: Vec<_> = sections.filter_map(|section| Some((section, name_in(section)?))).collect();
    named.into_iter().map(|(section, name)| key(r, section, name)).collect()
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
    let pattern = |text: &str| (!text.chars().any(char::is_control)).then(|| text.to_owned());
    let right = "a name, or the beginning of names with * behind it";
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
        apps: r.each(section, "apps", right, pattern),
        cards: r.each(section, "cards", right, pattern),
        rooms: r.each(section, "rooms", right, pattern),
        rate,
        burst: if burst == 0 { rate } else { burst },
    }
}

/// The digest of a section's secret and its length, where that is known.
fn secret(r: &mut SectionReader<'_>, section: &str) -> Option<(SecretDigest, Option<usize>)> {
    const PLACES: &str = "secret, secret_file and sha256";
    // as written: whoever put spaces into quotes meant them
    let secret = Some(r.raw(section, "secret").to_owned()).filter(|secret| !secret.is_empty());
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
fn of_file(path: &Path) -> Result<String, String> {
    let name = path.display();
    let mut bytes = Vec::new();
    let most = LONGEST_SECRET as u64 + 2;
    let read = File::open(path).and_then(|file| file.take(most + 1).read_to_end(&mut bytes));
    read.map_err(|error| format!("{name} cannot be read: {error}"))?;
    let text = String::from_utf8(bytes).map_err(|_| format!("{name} is not UTF-8 text"))?;
    let secret = text.strip_suffix('\n').map_or(&*text, |line| line.strip_suffix('\r').unwrap_or(line));
    if secret.is_empty() {
        return Err(format!("{name} is empty; write the secret into it"));
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

/// What is wrong with keys only beside other keys: of all callers, those of `[auth] keys`, too.
pub(super) fn together(r: &mut SectionReader<'_>, config: &Config) {
    let of_list = config.auth.keys.iter().enumerate().map(|(nth, key)| {
        let secret = key.expose();
        (
            format!("key {} of [auth] keys", nth + 1),
            "auth",
            "keys",
            SecretDigest::of(secret.as_bytes()),
            Some(secret.len()),
        )
    });
    let sections: Vec<_> = config.auth.callers.iter().map(|key| format!("{BEFORE_NAME}{}", key.name)).collect();
    let of_sections = config.auth.callers.iter().zip(&sections).map(|(key, section)| {
        (format!("the secret of [{section}]"), section.as_str(), "secret", key.digest, key.length)
    });
    let mut seen = BTreeMap::new();
    for (shown, section, key, digest, length) in of_list.chain(of_sections) {
        for (listener, address) in config.api_beyond_loopback() {
            if let Some(length) = length.filter(|length| *length < LEAST_SECRET) {
                let what = format!(
                    "{shown} has {length} characters, and [{listener}] listen = {address} can be reached from other machines: \
                     take {LEAST_SECRET} or more (openssl rand -base64 32)"
                );
                r.reject(section, key, what);
            }
        }
        if let Some(other) = seen.insert(digest, shown.clone()) {
            r.reject(section, key, format!("{shown} is {other}, too: each caller has a key of its own"));
        }
    }
    for (key, section) in config.auth.callers.iter().zip(&sections) {
        let bounds = [("apps", &key.apps), ("cards", &key.cards), ("rooms", &key.rooms)];
        let most = config.push.max_name;
        for (kind, pattern) in bounds.into_iter().flat_map(|(kind, all)| all.iter().map(move |one| (kind, one))) {
            if pattern.strip_suffix('*').unwrap_or(pattern).len() > most {
                r.reject(section, kind, format!("{pattern:?} admits nothing: [push] max_name = {most}B"));
            }
        }
    }
    let Some(raw) = &config.queue.raw_key else { return };
    match config.auth.callers.iter().find(|key| key.name == *raw) {
        None => r.reject("queue", "raw_key", format!("there is no [key.{raw}]")),
        Some(key) if !key.scopes.contains(&Scope::Push) => {
            r.reject("queue", "raw_key", format!("[key.{raw}] has not the scope push"));
        }
        Some(_) => {}
    }
}
