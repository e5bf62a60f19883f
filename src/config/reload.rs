//! The configuration of a running process, read again: what changes at once, and what only a restart changes.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use super::{
    Config, named,
    source::{ConfigError, LayeredConfig, RawValues, masked},
};

/// Every key that a reload changes; for all others the process has to be started again.
pub const LIVE_KEYS: &[(&str, &[&str])] = &[
    ("node", &["shutdown_timeout"]),
    (
        "socket",
        &[
            "max_connections",
            "max_connections_per_address",
            "max_connections_per_card",
            "max_refusals",
            "max_messages_per_second",
            "message_burst",
            "join_cost",
            "handshake_rate",
            "handshake_burst",
            "max_rated_addresses",
            "trusted_proxies",
            "allowed_origins",
        ],
    ),
    ("http", &["allowed_origins", "allowed_hosts", "unknown_fields"]),
    ("push", &["max_content", "max_cards", "max_batch"]),
    ("auth", &["keys"]),
    ("token", TOKEN_KEYS),
    ("verify", &["url", "form", "headers", "timeout", "max_in_flight", "max_answer", "cache", "cache_entries", "ca"]),
    (named::KEYS.template, &["secret", "secret_file", "sha256", "scopes", "apps", "cards", "rooms", "rate", "burst"]),
    ("queue", &["raw_key"]),
    ("drain", &["rate", "reconnect_jitter", "grace"]),
    ("log", &["level"]),
];

/// Of `[token]` all but `cookie`.
const TOKEN_KEYS: &[&str] = &[
    "secret",
    "secret_file",
    "public_key",
    "public_key_file",
    "jwks",
    "jwks_ca",
    "jwks_refresh",
    "jwks_min_interval",
    "jwks_timeout",
    "jwks_max_bytes",
    "jwks_max_keys",
    "audience",
    "issuer",
    "leeway",
    "max_life",
    "card_claim",
    "cards_claim",
    "app_claim",
    "rooms_claim",
    "push_claim",
    "max_token",
    "max_revocations",
    "max_verifications",
];

/// Whether a reload changes a key.
fn is_live(section: &str, key: &str) -> bool {
    let section = named::kind_of(section).map_or(section, |kind| kind.template);
    LIVE_KEYS.iter().any(|(live, keys)| *live == section && keys.contains(&key))
}

/// A configuration, and the values that it was made of.
#[derive(Clone, Debug)]
pub struct LoadedConfig {
    /// What the values mean.
    pub config: Config,
    file: Option<PathBuf>,
    values: RawValues,
}

/// What reading the configuration again found, each as `[section] key = value`, secrets masked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfigChanges {
    /// What is used from now on.
    pub live: Vec<String>,
    /// What only a restart would use: the running value stays.
    pub after_restart: Vec<String>,
}

impl LoadedConfig {
    /// As [`load`](super::load), to be read again later.
    ///
    /// # Errors
    /// All mistakes at once.
    pub fn load(
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let layers = LayeredConfig::read(file, environment)?;
        let config = layers.check()?;
        Ok(Self { config, file: file.map(Path::to_owned), values: layers.values })
    }

    /// Reads the same file again: what is to be used from now on, with the running value of each key that a reload does not
    /// change.
    ///
    /// # Errors
    /// All mistakes at once: those of the file, and of its live keys beside the running values.
    pub fn reload(
        &self,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<(Self, ConfigChanges), ConfigError> {
        let found = Self::load(self.file.as_deref(), environment)?;
        let mut values = self.values.clone();
        let mut changes = ConfigChanges::default();
        // who began without anything to verify by goes on so: connections that are open have proved nothing
        let verifies = self.config.token.has_key() || self.config.verify.url.is_some();
        for (section, key) in self.places().union(&found.places()) {
            let new = found.value(section, key);
            if new == self.value(section, key) {
                continue;
            }
            let shown = format!("[{section}] {key} = {}", masked(section, key, new.unwrap_or_default()));
            if !is_live(section, key) || !verifies && matches!(section.as_str(), "token" | "verify") {
                changes.after_restart.push(shown);
                continue;
            }
            changes.live.push(shown);
            let keys = values.entry(section.clone()).or_default();
            match new {
                Some(new) => drop(keys.insert(key.clone(), new.to_owned())),
                None => drop(keys.remove(key)),
            }
        }
        // of a caller that is gone
        values.retain(|_, keys| !keys.is_empty());
        let layers = LayeredConfig { values, errors: Vec::new() };
        let config = layers.check()?;
        Ok((Self { config, file: self.file.clone(), values: layers.values }, changes))
    }

    fn places(&self) -> BTreeSet<(String, String)> {
        let keys = |(section, keys): (&String, &std::collections::BTreeMap<String, String>)| {
            keys.keys().map(|key| (section.clone(), key.clone())).collect::<Vec<_>>()
        };
        self.values.iter().flat_map(keys).collect()
    }

    fn value(&self, section: &str, key: &str) -> Option<&str> {
        self.values.get(section)?.get(key).map(|value| value.trim())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::config::settings;

    fn written(text: &str) -> (tempfile::TempDir, PathBuf, LoadedConfig) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.ini");
        std::fs::write(&path, text).unwrap();
        let loaded = LoadedConfig::load(Some(&path), []).unwrap();
        (dir, path, loaded)
    }

    #[test]
    fn live_keys_change_and_the_others_are_named_and_keep_their_running_value() {
        let (_dir, path, loaded) = written("[socket]\nmax_connections = 10\nping_interval = 20s\n");
        std::fs::write(&path, "[socket]\nmax_connections = 20\nping_interval = 30s\n[queue]\nprocessors = 7\n")
            .unwrap();
        let (next, changes) = loaded.reload([]).unwrap();
        assert_eq!(changes.live, ["[socket] max_connections = 20"]);
        assert_eq!(changes.after_restart, ["[queue] processors = 7", "[socket] ping_interval = 30s"]);
        assert_eq!(next.config.socket.max_connections, 20);
        assert_eq!((next.config.socket.ping_interval.as_secs(), next.config.queue.processors), (20, 4));
        // what waits for a restart is named again, what was taken over is not
        let (_, changes) = next.reload([]).unwrap();
        assert_eq!((changes.live.len(), changes.after_restart.len()), (0, 2));
        // a key that is gone from the file has its default again
        std::fs::write(&path, "").unwrap();
        let (last, _) = next.reload([]).unwrap();
        assert_eq!(last.config.socket.max_connections, 100_000);
    }

    #[test]
    fn a_mistake_changes_nothing_and_is_told_as_at_a_start() {
        let (_dir, path, loaded) = written("");
        std::fs::write(&path, "[socket]\nmax_connections = 20\nmax_refusal = 1\n").unwrap();
        let error = loaded.reload([]).unwrap_err().to_string();
        assert_eq!(error, LoadedConfig::load(Some(&path), []).unwrap_err().to_string());
        assert!(error.contains("did you mean max_refusals?"), "{error}");
        std::fs::remove_file(&path).unwrap();
        assert!(loaded.reload([]).unwrap_err().to_string().contains("cannot be read"));
    }

    #[test]
    fn a_live_key_that_needs_one_which_is_not_live_is_a_mistake() {
        let (_dir, path, loaded) = written("");
        // fine for a new process; this one's outboxes have 256 KiB
        std::fs::write(&path, "[push]\nmax_content = 1MiB\n[outbox]\nmax_bytes = 2MiB\n").unwrap();
        assert!(LoadedConfig::load(Some(&path), []).is_ok());
        assert!(loaded.reload([]).unwrap_err().to_string().contains("[push] max_content"));
    }

    #[test]
    fn callers_come_and_go_and_their_files_are_read_again() {
        let (dir, path, loaded) = written("[key.a]\nsecret = hush1\nscopes = push\n");
        let file = dir.path().join("secret");
        std::fs::write(&file, "hush2\n").unwrap();
        let of_b = format!("[key.b]\nsecret_file = {}\nscopes = push\n[auth]\nkeys = hush3\n", file.display());
        std::fs::write(&path, of_b).unwrap();
        let (next, changes) = loaded.reload([]).unwrap();
        let names =
            |loaded: &LoadedConfig| loaded.config.auth.callers.iter().map(|key| key.name.clone()).collect::<Vec<_>>();
        assert_eq!((names(&next), next.config.auth.keys.len()), (vec!["b".to_owned()], 1));
        let told = format!("{changes:?}");
        assert!(
            told.contains("[key.a] secret = \"") && told.contains("[auth] keys = ***") && !told.contains("hush"),
            "{told}"
        );
        assert!(changes.after_restart.is_empty(), "{changes:?}");
        std::fs::write(&file, "hush4\n").unwrap();
        let (last, _) = next.reload([]).unwrap();
        assert_ne!(last.config.auth.callers[0].digest, next.config.auth.callers[0].digest);
    }

    #[test]
    fn who_began_without_tokens_needs_a_restart_for_them() {
        let (_dir, path, loaded) = written("");
        let secret = "a secret of more than 32 bytes, for tests";
        std::fs::write(&path, format!("[token]\nsecret = {secret}\n")).unwrap();
        let (next, changes) = loaded.reload([]).unwrap();
        assert_eq!((changes.after_restart, changes.live), (vec!["[token] secret = ***".to_owned()], vec![]));
        assert!(!next.config.token.has_key());
        let loaded = LoadedConfig::load(Some(&path), []).unwrap();
        std::fs::write(&path, format!("[token]\nsecret = {secret} that are new\n")).unwrap();
        let (next, changes) = loaded.reload([]).unwrap();
        assert_eq!((changes.live, changes.after_restart), (vec!["[token] secret = ***".to_owned()], vec![]));
        assert!(next.config.token.has_key());
    }

    #[test]
    fn the_environment_still_stands_over_the_file() {
        let (_dir, path, loaded) = written("[log]\nlevel = info\n");
        let environment = || [("OXIPUSH__LOG__LEVEL".to_owned(), "warn".to_owned())];
        std::fs::write(&path, "[log]\nlevel = debug\n").unwrap();
        let (next, changes) = loaded.reload(environment()).unwrap();
        assert_eq!((next.config.log.level.as_str(), changes.live), ("warn", vec!["[log] level = warn".to_owned()]));
    }

    #[test]
    fn every_live_key_is_one() {
        let all = settings(None, []).unwrap();
        for (section, keys) in LIVE_KEYS {
            for key in *keys {
                assert!(all.iter().any(|one| one.section == *section && one.key == *key), "[{section}] {key}");
            }
        }
    }
}
