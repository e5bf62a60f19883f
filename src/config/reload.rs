//! The configuration of a running process, read again: what changes at once, and what only a restart changes.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use super::{
    Config,
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
    ("http", &["allowed_origins", "allowed_hosts"]),
    ("push", &["max_content", "max_cards", "max_batch"]),
    ("drain", &["rate", "reconnect_jitter", "grace"]),
    ("log", &["level"]),
];

/// Whether a reload changes a key.
fn is_live(section: &str, key: &str) -> bool {
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
        for (section, key) in self.places().union(&found.places()) {
            let new = found.value(section, key);
            if new == self.value(section, key) {
                continue;
            }
            let shown = format!("[{section}] {key} = {}", masked(section, key, new.unwrap_or_default()));
            if !is_live(section, key) {
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
