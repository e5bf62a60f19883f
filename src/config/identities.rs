//! `[token]` and `[verify]`: by what clients prove who they are.

use std::{
    fs::{self, File},
    io::Read,
    net::IpAddr,
    path::Path,
    time::Duration,
};

use url::{Host, Url};

use super::{
    AnonymousClients, CallOutForm, Config, JwksSource, PushLimits, Secret, TokenConfig, VerifyConfig,
    reader::SectionReader,
    tables::{HOUR, KIB, MIB, MS, YEAR},
};

/// The least bytes of a secret for HS256 (RFC 7518, section 3.2).
const LEAST_SECRET: usize = 32;
/// The largest file of a secret, a public key or certificates.
const LARGEST_FILE: u64 = MIB;

pub(super) fn token(r: &mut SectionReader<'_>, push: &PushLimits) -> TokenConfig {
    let s = "token";
    let claim = |r: &mut SectionReader<'_>, key| {
        r.matching(s, key, "a claim's name of 1 to 256 bytes", |text| {
            (1..=256).contains(&text.len()) && !text.contains(|c: char| c.is_control())
        })
    };
    TokenConfig {
        secret: secret_of(r, "token", LEAST_SECRET),
        public_key: public_key(r),
        jwks: jwks(r),
        jwks_ca: certificates(r, s, "jwks_ca"),
        jwks_refresh: r.time(s, "jwks_refresh", MS * 1000, HOUR * 24),
        jwks_min_interval: r.time(s, "jwks_min_interval", MS * 100, HOUR),
        jwks_timeout: r.time(s, "jwks_timeout", MS * 10, HOUR),
        jwks_max_bytes: r.bytes(s, "jwks_max_bytes", KIB, 16 * MIB),
        jwks_max_keys: r.number(s, "jwks_max_keys", 1, 10_000),
        audience: r.list(s, "audience"),
        issuer: r.list(s, "issuer"),
        leeway: r.time(s, "leeway", Duration::ZERO, HOUR),
        max_life: r.time(s, "max_life", MS * 1000, YEAR),
        card_claim: claim(r, "card_claim"),
        cards_claim: claim(r, "cards_claim"),
        app_claim: claim(r, "app_claim"),
        rooms_claim: claim(r, "rooms_claim"),
        push_claim: claim(r, "push_claim"),
        max_token: r.bytes(s, "max_token", 64, 64 * KIB),
        max_revocations: r.number(s, "max_revocations", 1, 10_000_000),
        max_verifications: r.number(s, "max_verifications", 1, 1_000_000),
        cookie: cookie(r),
        max_name: push.max_name,
    }
}

pub(super) fn verify(r: &mut SectionReader<'_>, push: &PushLimits) -> VerifyConfig {
    let s = "verify";
    VerifyConfig {
        url: call_out(r),
        form: r.choice(s, "form", [("oxipush", CallOutForm::Oxipush), ("gpush", CallOutForm::Gpush)]),
        headers: r.each(s, "headers", "a header's name", |text| is_field_name(text).then(|| text.to_ascii_lowercase())),
        timeout: r.time(s, "timeout", MS * 10, HOUR),
        max_in_flight: r.number(s, "max_in_flight", 1, 100_000),
        max_answer: r.bytes(s, "max_answer", 64, MIB),
        cache: r.time(s, "cache", Duration::ZERO, HOUR * 24),
        cache_entries: r.number(s, "cache_entries", 1, 10_000_000),
        ca: certificates(r, s, "ca"),
        max_name: push.max_name,
    }
}

/// What is wrong only beside another key.
pub(super) fn together(r: &mut SectionReader<'_>, config: &Config) {
    let token = &config.token;
    let keys = [
        ("secret or secret_file", token.secret.is_some()),
        ("public_key or public_key_file", token.public_key.is_some()),
        ("jwks", token.jwks.is_some()),
    ];
    let given: Vec<_> = keys.iter().filter(|(_, given)| *given).map(|(name, _)| *name).collect();
    if given.len() > 1 {
        r.reject(
            "token",
            "secret",
            format!("a token is verified by one kind of key: give only one of {}", given.join(", ")),
        );
    }
    for (key, list) in [("audience", &token.audience), ("issuer", &token.issuer)] {
        if given.is_empty() && !list.is_empty() {
            r.reject("token", key, "nothing verifies tokens: give secret, public_key or jwks too, or leave it empty");
        }
    }
    if config.verify.url.is_none() && !config.verify.headers.is_empty() {
        r.reject("verify", "headers", "nobody is told of them: give url too, or leave it empty");
    }
    if config.verify.form == CallOutForm::Gpush && !config.verify.headers.is_empty() {
        r.reject("verify", "headers", "form = gpush tells only of the token: leave it empty, or take form = oxipush");
    }
    let is_cookie_told = config.verify.headers.iter().any(|name| name == "cookie");
    if is_cookie_told && config.socket.allowed_origins.is_empty() {
        let what = "a browser sends its cookies with any page's handshake: name the pages that may connect in [socket] \
                    allowed_origins";
        r.reject("verify", "headers", what);
    }
    if token.cookie.is_some() && config.socket.allowed_origins.is_empty() {
        let what = "a browser sends its cookies with any page's handshake: name the pages that may connect in [socket] \
                    allowed_origins";
        r.reject("token", "cookie", what);
    }
    if token.cookie.is_some() && given.is_empty() && config.verify.url.is_none() {
        r.reject("token", "cookie", "nothing verifies its token: give a key here or [verify] url, or leave it empty");
    }
}

/// What the key says; what an empty one means is decided beside other keys.
pub(super) fn anonymous(r: &mut SectionReader<'_>) -> AnonymousClients {
    if r.text("socket", "anonymous").is_empty() {
        return AnonymousClients::ByDefault;
    }
    r.parse("socket", "anonymous", "true, false or rooms", AnonymousClients::Refused, |text| match text {
        "rooms" => Some(AnonymousClients::InRooms),
        "true" | "yes" | "on" | "1" => Some(AnonymousClients::Allowed),
        "false" | "no" | "off" | "0" => Some(AnonymousClients::Refused),
        _ => None,
    })
}

/// Nobody joins as any card unless that is said, or only this machine can.
pub(super) fn decide_anonymous(r: &mut SectionReader<'_>, config: &mut Config) {
    let socket = &mut config.socket;
    if socket.anonymous == AnonymousClients::Allowed {
        return;
    }
    if config.token.has_key() || config.verify.url.is_some() {
        if socket.anonymous == AnonymousClients::ByDefault {
            socket.anonymous = AnonymousClients::Refused;
        }
        return;
    }
    let reached = socket.listeners().find(|(_, address)| !address.ip().is_loopback());
    let (key, address) = reached.unwrap_or(("listen", socket.listen));
    let why = if socket.anonymous == AnonymousClients::Refused {
        "anonymous is false"
    } else if socket.anonymous == AnonymousClients::InRooms {
        "anonymous is rooms, so that nobody could join a card"
    } else if reached.is_some() {
        "others reach this address"
    } else if !socket.trusted_proxies.is_empty() {
        "trusted_proxies says that others reach it"
    } else if !config.cluster.etcd.is_empty() || config.cluster.advertise_socket.is_some() {
        "[cluster] says that others reach it"
    } else {
        return;
    };
    let what = format!(
        "clients have nothing to prove themselves by, and {why}: set [token] (secret, public_key or jwks; `oxipush token --help`), \
         set [verify] url, or say [socket] anonymous = true, and anyone may join as any card"
    );
    r.reject("socket", key, format!("{address}: {what}"));
}

/// `secret`, or what `secret_file` holds without the line end at its end; of at least so many bytes.
pub(super) fn secret_of(r: &mut SectionReader<'_>, section: &str, least: usize) -> Option<Secret> {
    let given = r.secret(section, "secret");
    let (key, text) = match file(r, section, "secret_file") {
        Some(_) if !given.expose().is_empty() => {
            r.reject(section, "secret_file", "secret is set too: give only one of them");
            return None;
        }
        Some(text) => {
            let line = text.strip_suffix('\n').map(|line| line.strip_suffix('\r').unwrap_or(line));
            ("secret_file", line.unwrap_or(&text).to_owned())
        }
        None if given.expose().is_empty() => return None,
        None => ("secret", given.expose().to_owned()),
    };
    if text.len() < least {
        let what = format!("it has {} bytes: take {least} or more (openssl rand -base64 32)", text.len());
        r.reject(section, key, what);
    }
    Some(Secret(text))
}

/// `public_key` with its line ends, or what `public_key_file` holds.
fn public_key(r: &mut SectionReader<'_>) -> Option<String> {
    let given = r.optional("token", "public_key").map(|text| text.replace("\\n", "\n"));
    let (key, text) = match (file(r, "token", "public_key_file"), given) {
        (Some(_), Some(_)) => {
            r.reject("token", "public_key_file", "public_key is set too: give only one of them");
            return None;
        }
        (Some(text), None) => ("public_key_file", text),
        (None, Some(text)) => ("public_key", text),
        (None, None) => return None,
    };
    let wrong = if text.contains("PRIVATE KEY-----") {
        "it is a private key: keep that with the issuer, and give its public key (openssl pkey -in key.pem -pubout)"
    } else if text.contains("BEGIN CERTIFICATE-----") {
        "it is a certificate: give the key in it (openssl x509 -in cert.pem -noout -pubkey)"
    } else if text.contains("-----BEGIN ") && text.contains("PUBLIC KEY-----") {
        return Some(text);
    } else {
        "it is no public key in PEM (-----BEGIN PUBLIC KEY-----)"
    };
    r.reject("token", key, wrong);
    None
}

fn jwks(r: &mut SectionReader<'_>) -> Option<JwksSource> {
    let text = r.optional("token", "jwks")?;
    if !text.contains("://") {
        return Some(JwksSource::File(text.into()));
    }
    let url = url_within(r, "token", "jwks", &text, "on loopback", is_loopback)?;
    Some(JwksSource::Url(url))
}

fn call_out(r: &mut SectionReader<'_>) -> Option<String> {
    let text = r.optional("verify", "url")?;
    url_within(r, "verify", "url", &text, "on loopback and private networks", is_private)
}

/// A URL that may be called: of https, or of http where nobody else listens.
pub(super) fn url_within(
    r: &mut SectionReader<'_>,
    section: &str,
    key: &str,
    text: &str,
    within: &str,
    is_within: impl Fn(&Host<&str>) -> bool,
) -> Option<String> {
    let url = match Url::parse(text) {
        Ok(url) => url,
        Err(error) => {
            r.reject(section, key, format!("{text:?} is no URL: {error}"));
            return None;
        }
    };
    let host = url.host();
    let wrong = if !url.username().is_empty() || url.password().is_some() {
        // not shown: it has a password
        Some("it has a user or a password: leave these out".to_owned())
    } else if url.fragment().is_some() {
        Some(format!("{text:?} has a fragment (#): leave it out"))
    } else {
        match url.scheme() {
            "https" if host.is_some() => None,
            "http" if host.as_ref().is_some_and(&is_within) => None,
            "http" => {
                Some(format!("{text:?} would be called in the clear: take https; http is for hosts {within} only"))
            }
            _ => Some(format!("{text:?} is no URL of https")),
        }
    };
    match wrong {
        None => Some(url.into()),
        Some(what) => {
            r.reject(section, key, what);
            None
        }
    }
}

fn is_loopback(host: &Host<&str>) -> bool {
    match host {
        Host::Domain(name) => *name == "localhost" || name.ends_with(".localhost"),
        Host::Ipv4(address) => address.is_loopback(),
        Host::Ipv6(address) => address.is_loopback(),
    }
}

/// Loopback, addresses of private networks, and names that no public name server has: those without a dot, as containers
/// have, and those below `internal` and `local`.
pub(super) fn is_private(host: &Host<&str>) -> bool {
    let address = match host {
        Host::Domain(name) => {
            return is_loopback(host) || !name.contains('.') || name.ends_with(".internal") || name.ends_with(".local");
        }
        Host::Ipv4(address) => IpAddr::V4(*address),
        Host::Ipv6(address) => IpAddr::V6(*address),
    };
    match address.to_canonical() {
        IpAddr::V4(address) => address.is_loopback() || address.is_private() || address.is_link_local(),
        IpAddr::V6(address) => address.is_loopback() || address.is_unique_local() || address.is_unicast_link_local(),
    }
}

fn cookie(r: &mut SectionReader<'_>) -> Option<String> {
    let name = r.optional("token", "cookie")?;
    if !is_field_name(&name) {
        r.reject("token", "cookie", format!("{name:?} is no cookie's name: take letters, digits, - and _"));
    }
    Some(name)
}

/// A token of RFC 9110, section 5.6.2: the name of a header or a cookie.
fn is_field_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

/// What the file of certificates in PEM holds that a key names.
pub(super) fn certificates(r: &mut SectionReader<'_>, section: &str, key: &str) -> Option<String> {
    let text = file(r, section, key)?;
    if !text.contains("-----BEGIN CERTIFICATE-----") {
        r.reject(section, key, "the file has no certificate in PEM (-----BEGIN CERTIFICATE-----)");
    }
    Some(text)
}

/// What the file holds that a key names.
pub(super) fn file(r: &mut SectionReader<'_>, section: &str, key: &str) -> Option<String> {
    let path = r.path(section, key)?;
    match read(&path) {
        Ok(text) => Some(text),
        Err(error) => {
            r.reject(section, key, format!("{}: {error}", path.display()));
            None
        }
    }
}

/// What a file holds; an error says why that cannot be told.
pub(super) fn read(path: &Path) -> Result<String, String> {
    let unreadable = |error| format!("cannot be read: {error}");
    // a pipe or a device might never end
    if !fs::metadata(path).map_err(unreadable)?.is_file() {
        return Err("is no file".to_owned());
    }
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(LARGEST_FILE + 1).read_to_end(&mut bytes)).map_err(unreadable)?;
    if bytes.len() as u64 > LARGEST_FILE {
        return Err(format!("has more than {LARGEST_FILE} bytes"));
    }
    String::from_utf8(bytes).map_err(|_| "is not UTF-8 text".to_owned())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::config::{ConfigError, load};

    fn with(values: &[(&str, &str)]) -> Result<Config, ConfigError> {
        load(None, values.iter().map(|(name, value)| (format!("OXIPUSH__{name}"), (*value).to_owned())))
    }

    const LONG: &str = "0123456789abcdef0123456789abcdef0";

    #[test]
    fn what_verifies_nothing_or_twice_is_told_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("secret");
        fs::write(&file, "short\n").unwrap();
        let file = file.to_str().unwrap();
        let pem = "-----BEGIN PUBLIC KEY-----\\nMFkw\\n-----END PUBLIC KEY-----";
        for (values, told) in [
            (&[("TOKEN__SECRET", "short")][..], "[token] secret: it has 5 bytes: take 32 or more"),
            (&[("TOKEN__SECRET_FILE", file)], "[token] secret_file: it has 5 bytes"),
            (&[("TOKEN__SECRET_FILE", "/nowhere/x")], "[token] secret_file: /nowhere/x: cannot be read"),
            (&[("TOKEN__SECRET_FILE", "/dev/zero")], "[token] secret_file: /dev/zero: is no file"),
            (&[("TOKEN__SECRET", LONG), ("TOKEN__SECRET_FILE", file)], "give only one of them"),
            (&[("TOKEN__SECRET", LONG), ("TOKEN__PUBLIC_KEY", pem)], "only one of secret or secret_file, public_key"),
            (&[("TOKEN__PUBLIC_KEY", "MFkw")], "[token] public_key: it is no public key in PEM"),
            (&[("TOKEN__PUBLIC_KEY", "-----BEGIN PRIVATE KEY-----")], "[token] public_key: it is a private key"),
            (&[("TOKEN__PUBLIC_KEY", "-----BEGIN CERTIFICATE-----")], "[token] public_key: it is a certificate"),
            (&[("TOKEN__JWKS", "http://example.org/keys")], "http is for hosts on loopback only"),
            (&[("TOKEN__JWKS", "http://10.0.0.1/keys")], "http is for hosts on loopback only"),
            (&[("TOKEN__JWKS", "ftp://example.org/keys")], "is no URL of https"),
            (&[("TOKEN__JWKS", "https://u:hush@example.org/keys")], "[token] jwks: it has a user or a password"),
            (&[("TOKEN__JWKS_CA", file)], "[token] jwks_ca: the file has no certificate"),
            (&[("TOKEN__AUDIENCE", "me")], "[token] audience: nothing verifies tokens"),
            (&[("TOKEN__ISSUER", "me")], "[token] issuer: nothing verifies tokens"),
            (&[("TOKEN__CARD_CLAIM", "")], "[token] card_claim: \"\" is not a claim's name"),
            (&[("TOKEN__SECRET", LONG), ("TOKEN__COOKIE", "t")], "[token] cookie: a browser sends its cookies"),
            (&[("TOKEN__COOKIE", "a b"), ("SOCKET__ALLOWED_ORIGINS", "https://a.example")], "is no cookie's name"),
            (&[("VERIFY__URL", "http://example.org/")], "http is for hosts on loopback and private networks only"),
            (&[("VERIFY__URL", "http://8.8.8.8/")], "http is for hosts on loopback and private networks only"),
            (&[("VERIFY__URL", "example.org")], "is no URL"),
            (&[("VERIFY__HEADERS", "cookie")], "[verify] headers: nobody is told of them"),
            (
                &[("VERIFY__URL", "http://backend:3000/who"), ("VERIFY__HEADERS", "cookie")],
                "[verify] headers: a browser sends its cookies with any page's handshake",
            ),
            (&[("VERIFY__HEADERS", "a b")], "[verify] headers: \"a b\" is not a header's name"),
        ] {
            let errors = with(values).unwrap_err().to_string();
            assert!(errors.contains(told), "{values:?}: {errors}");
            assert!(!errors.contains("hush"), "{errors}");
        }
        for right in [
            &[("TOKEN__SECRET", LONG), ("TOKEN__AUDIENCE", "me, you")][..],
            &[("TOKEN__PUBLIC_KEY", pem)],
            &[("TOKEN__JWKS", "https://example.org/keys?x=1")],
            &[("TOKEN__JWKS", "http://localhost:1/keys")],
            &[("TOKEN__JWKS", "http://[::1]:1/keys")],
            &[("TOKEN__JWKS", "keys/jwks.json")],
            &[("VERIFY__URL", "https://example.org/who")],
            &[
                ("VERIFY__URL", "http://backend:3000/who"),
                ("VERIFY__HEADERS", "Cookie, x-device"),
                ("SOCKET__ALLOWED_ORIGINS", "https://example.org"),
            ],
            &[("VERIFY__URL", "http://api.svc.cluster.local/who")],
            &[("VERIFY__URL", "http://192.168.1.1/who")],
            &[("VERIFY__URL", "http://[fd00::1]/who")],
        ] {
            assert!(with(right).is_ok(), "{right:?}: {:?}", with(right).unwrap_err());
        }
        assert_eq!(with(&[]).unwrap().token.secret, None);
    }

    /// Secrets that comments, escapes and quoting could take apart.
    const HARD: &[&str] = &[
        "# 23456789abcdef0123456789abcdef0",
        "a # b ; c 9abcdef0123456789abcdef0",
        "; 23456789abcdef0123456789abcdef0",
        "a\\n\\t\\\\ 9abcdef0123456789abcdef0",
        "50%HOME%d${HOME}$(x)`y`0123456789abcdef",
        "it's \"quoted\" 0123456789abcdef0123",
        "key = value = 0123456789abcdef0123456",
        "[section] 0123456789abcdef0123456789",
        "p\u{e4}ssw\u{f6}rd \u{5bc6}\u{7801} \u{1f511} 0123456789abcdef",
        "two  spaces\tand a tab 0123456789abcdef",
    ];

    #[test]
    fn a_secret_is_what_is_written_in_file_and_environment_alike() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.ini");
        let of_file = |section: &str, key: &str, value: &str| {
            fs::write(&path, format!("[{section}]\n{key} = {value}\n")).unwrap();
            load(Some(&path), []).unwrap()
        };
        // within quotes, spaces at its ends and other quotes are part of it
        let written = HARD.iter().map(|secret| ((*secret).to_owned(), (*secret).to_owned()));
        let quoted = HARD.iter().map(|secret| (format!("'  {secret}\" '"), format!("  {secret}\" ")));
        let twice = [(format!("\"'{LONG}'\""), format!("'{LONG}'"))];
        for (value, secret) in written.chain(quoted).chain(twice) {
            for config in [of_file("token", "secret", &value), with(&[("TOKEN__SECRET", &value)]).unwrap()] {
                assert_eq!(config.token.secret.unwrap().expose(), secret);
            }
            for config in [of_file("cluster", "password", &value), with(&[("CLUSTER__PASSWORD", &value)]).unwrap()] {
                assert_eq!(config.cluster.password.expose(), secret);
            }
            let secret_file = folder.path().join("secret");
            for end in ["", "\n", "\r\n"] {
                fs::write(&secret_file, format!("{secret}{end}")).unwrap();
                let config = with(&[("TOKEN__SECRET_FILE", secret_file.to_str().unwrap())]).unwrap();
                assert_eq!(config.token.secret.unwrap().expose(), secret);
            }
        }
    }

    #[test]
    fn a_callers_key_is_what_is_written_or_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.ini");
        for (value, keys) in [
            ("#a;b\\c%d'e\"f", Some(&["#a;b\\c%d'e\"f"][..])),
            ("a=b;c#d, ;e", Some(&["a=b;c#d", ";e"])),
            ("\"#a\"", Some(&["#a"])),
            ("one two", None),
            ("k\u{fc}", None),
        ] {
            fs::write(&path, format!("[auth]\nkeys = {value}\n")).unwrap();
            for config in [load(Some(&path), []), with(&[("AUTH__KEYS", value)])] {
                match keys {
                    Some(keys) => {
                        let config = config.unwrap();
                        assert_eq!(config.auth.keys.iter().map(Secret::expose).collect::<Vec<_>>(), keys);
                    }
                    None => assert!(config.unwrap_err().to_string().contains("[auth] keys: key 1 ")),
                }
            }
        }
    }

    #[test]
    fn a_public_key_may_have_its_line_ends_as_escapes_and_is_shown_on_one_line() {
        let lines = "-----BEGIN PUBLIC KEY-----\nMFkw\n-----END PUBLIC KEY-----";
        let escaped = lines.replace('\n', "\\n");
        for value in [lines, &escaped] {
            let config = with(&[("TOKEN__PUBLIC_KEY", value)]).unwrap();
            assert_eq!(config.token.public_key.as_deref(), Some(lines));
            let environment = [("OXIPUSH__TOKEN__PUBLIC_KEY".to_owned(), value.to_owned())];
            let settings = crate::config::settings(None, environment).unwrap();
            assert!(settings.iter().any(|setting| setting.key == "public_key" && setting.value == escaped));
        }
        let settings = crate::config::settings(None, [("OXIPUSH__TOKEN__SECRET".to_owned(), LONG.to_owned())]);
        assert!(!format!("{settings:?}").contains(LONG));
    }
}
