//! What a Redis server says of itself: its version, whether it writes, and what becomes of what it acknowledged.

use std::collections::BTreeMap;

use redis::{RedisResult, Value};

use super::{connect::RedisConnection, watcher::ConnectFault};

/// The first version whose scripts and commands are what the store needs.
const LEAST_VERSION: u32 = 7;

/// When what Redis acknowledged is on its disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Durability {
    /// Before it is acknowledged.
    Always,
    /// It cannot be known: the user may ask neither INFO nor CONFIG.
    Unknown,
    /// Up to a second or two later.
    EverySecond,
    /// When the system likes.
    System,
    /// At the next dump, if any.
    NoAof,
}

/// What one server says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ServerInfo {
    /// As `7.0.15`; `None`: it cannot be known.
    pub(super) version: Option<String>,
    /// What it does when its memory is full; `None`: it cannot be known.
    policy: Option<String>,
    is_replica: bool,
    is_loading: bool,
    /// It is a node of a Redis Cluster.
    is_of_cluster: bool,
    pub(super) durability: Durability,
}

impl ServerInfo {
    /// Asks each master.
    pub(super) async fn ask(connection: &mut RedisConnection) -> RedisResult<Vec<Self>> {
        let infos = permitted(connection.run_on_masters(&redis::cmd("INFO")).await)?;
        let mut command = redis::cmd("CONFIG");
        command.arg("GET").arg("appendfsync");
        // a name that is not known is an error, too: the command may be renamed
        let fsyncs = permitted(connection.run_on_masters(&command).await)?;
        let fsync = fsyncs.iter().flatten().filter_map(fsync_of).max();
        let Some(infos) = infos else { return Ok(vec![Self::unknown(fsync)]) };
        let text = |answer: Value| redis::from_redis_value::<String>(answer).unwrap_or_default();
        Ok(infos.into_iter().map(|answer| Self::of(&text(answer), fsync)).collect())
    }

    /// From the text of INFO.
    fn of(info: &str, fsync: Option<Durability>) -> Self {
        let fields: BTreeMap<&str, &str> = info.lines().filter_map(|line| line.trim_end().split_once(':')).collect();
        let durability = match (fields.get("aof_enabled"), fsync) {
            (Some(&"0"), _) => Durability::NoAof,
            (Some(_), Some(fsync)) => fsync,
            _ => Durability::Unknown,
        };
        Self {
            version: fields.get("redis_version").map(|version| (*version).to_owned()),
            policy: fields.get("maxmemory_policy").map(|policy| (*policy).to_owned()),
            is_replica: fields.get("role") == Some(&"slave"),
            is_loading: fields.get("loading") == Some(&"1"),
            is_of_cluster: fields.get("cluster_enabled") == Some(&"1"),
            durability,
        }
    }

    /// Nothing but this is known.
    fn unknown(fsync: Option<Durability>) -> Self {
        // without INFO nobody says whether there is an AOF at all
        let durability = fsync.filter(|fsync| *fsync != Durability::Always).unwrap_or(Durability::Unknown);
        Self { version: None, policy: None, is_replica: false, is_loading: false, is_of_cluster: false, durability }
    }

    /// Why the server is not to be used; `as_cluster`: it is taken for a node of a Redis Cluster.
    pub(super) fn fault(&self, as_cluster: bool) -> Option<ConnectFault> {
        let major = self.version.as_ref().and_then(|version| version.split('.').next()?.parse::<u32>().ok());
        if major.is_some_and(|major| major < LEAST_VERSION) {
            let version = self.version.as_deref().unwrap_or_default();
            return Some(ConnectFault::Final(format!("it is version {version}: Redis 7 or Valkey is needed")));
        }
        if let Some(policy) = self.policy.as_ref().filter(|policy| *policy != "noeviction") {
            return Some(ConnectFault::Final(format!(
                "its maxmemory-policy is {policy}, which drops stored pushes when the memory is full: set noeviction"
            )));
        }
        if self.is_of_cluster && !as_cluster {
            return Some(ConnectFault::Final("it is a node of a Redis Cluster: set [redis] cluster = true".into()));
        }
        if self.is_replica {
            return Some(ConnectFault::Passing("it is a replica, which takes no writes: name the master".into()));
        }
        self.is_loading.then(|| ConnectFault::Passing("it is loading its data".into()))
    }

    /// Whether the policy could be read.
    pub(super) fn is_policy_known(&self) -> bool {
        self.policy.is_some()
    }
}

/// `None`: the user may not run it, or it is renamed.
fn permitted(answer: RedisResult<Vec<Value>>) -> RedisResult<Option<Vec<Value>>> {
    match answer {
        Ok(values) => Ok(Some(values)),
        Err(error) if matches!(super::fault(&error), super::Fault::Command) => Ok(None),
        Err(error) => Err(error),
    }
}

fn fsync_of(answer: &Value) -> Option<Durability> {
    let (_, value) = redis::from_redis_value::<(String, String)>(answer.clone()).ok()?;
    match value.as_str() {
        "always" => Some(Durability::Always),
        "everysec" => Some(Durability::EverySecond),
        "no" => Some(Durability::System),
        _ => None,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn info(lines: &[&str], fsync: Option<Durability>) -> ServerInfo {
        ServerInfo::of(&lines.join("\r\n"), fsync)
    }

    const GOOD: [&str; 5] =
        ["# Server", "redis_version:7.0.15", "maxmemory_policy:noeviction", "aof_enabled:1", "role:master"];

    #[test]
    fn the_weakest_promise_counts_and_what_cannot_be_known_is_said_so() {
        let all = Some(Durability::Always);
        assert_eq!(info(&GOOD, all).durability, Durability::Always);
        assert_eq!(info(&GOOD, Some(Durability::EverySecond)).durability, Durability::EverySecond);
        assert_eq!(info(&GOOD, None).durability, Durability::Unknown);
        assert_eq!(info(&["aof_enabled:0"], all).durability, Durability::NoAof);
        assert_eq!(ServerInfo::unknown(all).durability, Durability::Unknown);
        assert_eq!(ServerInfo::unknown(Some(Durability::System)).durability, Durability::System);
        assert!(info(&GOOD, all).is_policy_known() && !ServerInfo::unknown(None).is_policy_known());
        assert_eq!(Durability::NoAof.max(Durability::Always), Durability::NoAof);
    }

    #[test]
    fn a_server_that_would_lose_pushes_or_takes_none_is_told_with_the_way_out() {
        let fault = |lines: &[&str]| info(lines, None).fault(false);
        assert!(fault(&GOOD).is_none() && fault(&[]).is_none());
        for (lines, told) in [
            (["redis_version:6.2.1"], "Redis 7 or Valkey is needed"),
            (["maxmemory_policy:allkeys-lru"], "set noeviction"),
            (["cluster_enabled:1"], "set [redis] cluster = true"),
        ] {
            assert!(matches!(fault(&lines), Some(ConnectFault::Final(text)) if text.contains(told)), "{told}");
        }
        assert!(info(&["cluster_enabled:1"], None).fault(true).is_none());
        for (lines, told) in [(["role:slave"], "name the master"), (["loading:1"], "loading its data")] {
            assert!(matches!(fault(&lines), Some(ConnectFault::Passing(text)) if text.contains(told)), "{told}");
        }
    }
}
