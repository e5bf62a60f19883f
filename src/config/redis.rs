//! `[redis]`: the server that nodes share, for the store and the directory.

use super::{
    Config, RedisConfig,
    host::HostPort,
    reader::SectionReader,
    tables::{HOUR, MS, fits_nsq},
};

/// The port of a URL that names none.
const PORT: &str = "6379";

/// The most characters of a prefix.
const LONGEST_PREFIX: usize = 64;

/// Where one Redis server, or Sentinel, is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisUrl {
    /// A name, an IPv4 address, or an IPv6 address without brackets.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// `rediss://`.
    pub tls: bool,
    /// The number behind the slash; 0 without one.
    pub database: i64,
}

impl RedisUrl {
    /// `redis://` or `rediss://` with `host`, `host:port`, `host:port/database`. Credentials have keys of their own, since a URL
    /// is shown in messages.
    fn parse(text: &str) -> Option<Self> {
        let (scheme, rest) = text.split_once("://")?;
        let tls = match scheme {
            "redis" => false,
            "rediss" => true,
            _ => return None,
        };
        let (place, database) = rest.split_once('/').unwrap_or((rest, ""));
        let database = if database.is_empty() { 0 } else { database.parse().ok().filter(|number| *number >= 0)? };
        let with_port = place.parse::<HostPort>().or_else(|_| format!("{place}:{PORT}").parse::<HostPort>()).ok()?;
        let host = with_port.host.to_string();
        Some(Self {
            host: host.trim_start_matches('[').trim_end_matches(']').to_owned(),
            port: with_port.port,
            tls,
            database,
        })
    }
}

impl std::fmt::Display for RedisUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let scheme = if self.tls { "rediss" } else { "redis" };
        if self.host.contains(':') {
            write!(f, "{scheme}://[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{scheme}://{}:{}", self.host, self.port)
        }
    }
}

pub(super) fn read(r: &mut SectionReader<'_>) -> RedisConfig {
    let s = "redis";
    let prefix = format!("1 to {LONGEST_PREFIX} of a-z, A-Z, 0-9, '.', '-' and '_'");
    RedisConfig {
        urls: r.each(
            s,
            "url",
            "redis://host:port or rediss://host:port (user and password have keys of their own)",
            RedisUrl::parse,
        ),
        user: r.text(s, "user"),
        password: r.secret(s, "password"),
        sentinel_master: r.optional(s, "sentinel_master"),
        sentinel_user: r.text(s, "sentinel_user"),
        sentinel_password: r.secret(s, "sentinel_password"),
        cluster: r.switch(s, "cluster"),
        tls_ca: r.path(s, "tls_ca"),
        tls_cert: r.path(s, "tls_cert"),
        tls_key: r.path(s, "tls_key"),
        prefix: r.matching(s, "prefix", &prefix, |text| {
            (1..=LONGEST_PREFIX).contains(&text.len()) && text.chars().all(fits_nsq)
        }),
        timeout: r.time(s, "timeout", MS * 10, HOUR),
        check_interval: r.time(s, "check_interval", MS * 10, HOUR),
        max_backoff: r.time(s, "max_backoff", MS * 100, HOUR),
        max_in_flight: r.number(s, "max_in_flight", 1, 1_000_000),
    }
}

/// What is wrong only beside other keys.
pub(super) fn together(r: &mut SectionReader<'_>, config: &Config) {
    let redis = &config.redis;
    let s = "redis";
    if redis.cluster && redis.sentinel_master.is_some() {
        r.reject(s, "cluster", "it is true and sentinel_master is set: a Redis Cluster has no Sentinels");
    }
    if redis.urls.len() > 1 && !redis.cluster && redis.sentinel_master.is_none() {
        let what = "several are for cluster = true (its nodes) or sentinel_master (the Sentinels): one Redis has one";
        r.reject(s, "url", what);
    }
    let Some(first) = redis.urls.first() else { return };
    if redis.urls.iter().any(|url| (url.tls, url.database) != (first.tls, first.database)) {
        r.reject(s, "url", "all must begin with the same redis:// or rediss:// and end with the same database");
    }
    if redis.cluster && first.database != 0 {
        r.reject(s, "url", "a Redis Cluster has only database 0");
    }
    if redis.tls_cert.is_some() != redis.tls_key.is_some() {
        r.reject(s, "tls_cert", "tls_cert and tls_key go together");
    }
    for (key, file) in [("tls_ca", &redis.tls_ca), ("tls_cert", &redis.tls_cert)] {
        if file.is_some() && !first.tls {
            r.reject(s, key, "it is for TLS: write url = rediss://…");
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::{ConfigError, load};
    use super::*;

    fn with(values: &[(&str, &str)]) -> Result<Config, ConfigError> {
        load(None, values.iter().map(|(name, value)| (format!("OXIPUSH__REDIS__{name}"), (*value).to_owned())))
    }

    #[test]
    fn a_url_names_a_server_with_tls_or_without_and_its_database() {
        for (text, host, port, tls, database, shown) in [
            ("redis://127.0.0.1:7000", "127.0.0.1", 7000, false, 0, "redis://127.0.0.1:7000"),
            ("redis://redis", "redis", 6379, false, 0, "redis://redis:6379"),
            ("rediss://r.internal:1/3", "r.internal", 1, true, 3, "rediss://r.internal:1"),
            ("redis://[::1]:7", "::1", 7, false, 0, "redis://[::1]:7"),
        ] {
            let url = RedisUrl::parse(text).unwrap();
            assert_eq!(url, RedisUrl { host: host.into(), port, tls, database });
            assert_eq!(url.to_string(), shown);
        }
        for text in ["", "redis", "http://a:1", "redis://", "redis://a:b@c:1", "redis://a:1/x", "redis://a:1/-1"] {
            assert_eq!(RedisUrl::parse(text), None, "{text}");
        }
    }

    #[test]
    fn what_does_not_go_together_is_refused_with_the_way_out() {
        let one = ("URL", "redis://a:1");
        let two = ("URL", "redis://a:1,redis://b:1");
        for (values, told) in [
            (vec![two], "several are for cluster = true"),
            (vec![two, ("CLUSTER", "true"), ("SENTINEL_MASTER", "m")], "a Redis Cluster has no Sentinels"),
            (vec![("URL", "redis://a:1,rediss://b:1"), ("CLUSTER", "true")], "the same redis:// or rediss://"),
            (vec![("URL", "redis://a:1/2"), ("CLUSTER", "true")], "only database 0"),
            (vec![one, ("TLS_CA", "ca.pem")], "write url = rediss://"),
            (vec![("URL", "rediss://a:1"), ("TLS_CERT", "c.pem")], "tls_cert and tls_key go together"),
            (vec![one, ("PREFIX", "a{b}")], "[redis] prefix: \"a{b}\" is not 1 to 64 of"),
            (vec![("URL", "redis://u:p@a:1")], "user and password have keys of their own"),
        ] {
            let error = with(&values).unwrap_err().to_string();
            assert!(error.contains(told), "{told} is missing in\n{error}");
        }
        assert_eq!(with(&[two, ("CLUSTER", "true")]).unwrap().redis.urls.len(), 2);
        let shown = format!("{:?}", with(&[one, ("PASSWORD", "hush"), ("SENTINEL_PASSWORD", "hush")]).unwrap().redis);
        assert!(!shown.contains("hush"), "{shown}");
    }
}
