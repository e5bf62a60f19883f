//! `[token]` and `[verify]`: by what clients prove who they are.

use std::{fs, net::IpAddr, path::Path, time::Duration};

use url::{Host, Url};

use super::{
    AnonymousClients, Config, JwksSource, PushLimits, Secret, TokenConfig, VerifyConfig,
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
        secret: secret(r),
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
        AnonymousClients::ByDefault
    } else if r.switch("socket", "anonymous") {
        AnonymousClients::Allowed
    } else {
        AnonymousClients::Refused
    }
}

/// Nobody joins as any card unless that is said, or only this machine can.
pub(super) fn decide_anonymous(r: &mut SectionReader<'_>, config: &mut Config) {
    let socket = &mut config.socket;
    if socket.anonymous == AnonymousClients::Allowed {
        return;
    }
    let token = &config.token;
    let has_key = token.secret.is_some() || token.public_key.is_some() || token.jwks.is_some();
    if has_key || config.verify.url.is_some() {
        socket.anonymous = AnonymousClients::Refused;
        return;
    }
    let why = if socket.anonymous == AnonymousClients::Refused {
        "anonymous is false"
    } else if !socket.listen.ip().is_loopback() {
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
    r.reject("socket", "listen", format!("{}: {what}", config.socket.listen));
}

/// `secret`, or what `secret_file` holds without the line end at its end.
fn secret(r: &mut SectionReader<'_>) -> Option<Secret> {
    let given = r.secret("token", "secret");
    let (key, text) = match file(r, "token", "secret_file") {
        Some(_) if !given.expose().is_empty() => {
            r.reject("token", "secret_file", "secret is set too: give only one of them");
            return None;
        }
        Some(text) => {
            let line = text.strip_suffix('\n').map(|line| line.strip_suffix('\r').unwrap_or(line));
            ("secret_file", line.unwrap_or(&text).to_owned())
        }
        None if given.expose().is_empty() => return None,
        None => ("secret", given.expose().to_owned()),
    };
    if text.len() < LEAST_SECRET {
        let what = format!("it has {} bytes: take {LEAST_SECRET} or more (openssl rand -base64 32)", text.len());
        r.reject("token", key, what);
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
fn url_within(
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
fn is_private(host: &Host<&str>) -> bool {
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
fn certificates(r: &mut SectionReader<'_>, section: &str, key: &str) -> Option<String> {
    let text = file(r, section, key)?;
    if !text.contains("-----BEGIN CERTIFICATE-----") {
        r.reject(section, key, "the file has no certificate in PEM (-----BEGIN CERTIFICATE-----)");
    }
    Some(text)
}

/// What the file holds that a key names.
fn file(r: &mut SectionReader<'_>, section: &str, key: &str) -> Option<String> {
    let path = r.path(section, key)?;
    match read(&path) {
        Ok(text) => Some(text),
        Err(error) => {
            r.reject(section, key, format!("{}: {error}", path.display()));
            None
        }
    }
}

fn read(path: &Path) -> Result<String, String> {
    let length = fs::metadata(path).map_err(|error| format!("cannot be read: {error}"))?.len();
    if length > LARGEST_FILE {
        return Err(format!("it has {length} bytes; at most {LARGEST_FILE} are read"));
    }
    let bytes = fs::read(path).map_err(|error| format!("cannot be read: {error}"))?;
    String::from_utf8(bytes).map_err(|_| "it is not UTF-8 text".to_owned())
}
