//! `[directory]`: whether a push goes only to the nodes that hold its clients.

use std::time::Duration;

use super::{
    Config,
    reader::SectionReader,
    tables::{HOUR, MS},
};

/// `[directory]`.
#[derive(Clone, Debug)]
#[allow(missing_docs)] // config.ini says what each key means, its unit and why
pub struct DirectoryConfig {
    pub backend: DirectoryBackend,
    pub lease: Duration,
    pub rewrite_interval: Duration,
    pub max_hops: u32,
}

/// Where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DirectoryBackend {
    /// Nowhere: every push goes to every node.
    None,
    /// In the Redis of `[redis]`.
    Redis,
}

pub(super) fn read(r: &mut SectionReader<'_>) -> DirectoryConfig {
    let s = "directory";
    DirectoryConfig {
        backend: r.choice(
            s,
            "backend",
            [("none", DirectoryBackend::None), ("", DirectoryBackend::None), ("redis", DirectoryBackend::Redis)],
        ),
        lease: r.time(s, "lease", MS * 500, HOUR),
        rewrite_interval: r.time(s, "rewrite_interval", MS * 1000, HOUR * 24),
        max_hops: r.number(s, "max_hops", 1, 100),
    }
}

/// What is wrong only beside other keys.
pub(super) fn together(r: &mut SectionReader<'_>, config: &Config) {
    let s = "directory";
    let directory = &config.directory;
    if directory.backend == DirectoryBackend::None {
        return;
    }
    if config.redis.urls.is_empty() {
        r.reject(s, "backend", "redis needs [redis] url");
    }
    if config.cluster.etcd.is_empty() {
        r.reject(s, "backend", "it is for several nodes: set [cluster] etcd, which tells the nodes of each other");
    }
    if directory.lease < config.redis.timeout * 3 {
        r.reject(s, "lease", "it must be at least three times [redis] timeout, or one slow answer ends it");
    }
    // a client whose node cannot write it down waits until no other node relies on that
    if directory.lease + config.redis.timeout * 2 >= config.socket.join_timeout {
        r.reject(s, "lease", "lease and twice [redis] timeout together must be less than [socket] join_timeout");
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::{ConfigError, load};
    use super::*;

    fn with(values: &[(&str, &str)]) -> Result<Config, ConfigError> {
        load(None, values.iter().map(|(name, value)| (format!("OXIPUSH__{name}"), (*value).to_owned())))
    }

    #[test]
    fn a_directory_without_what_it_needs_is_refused_with_the_way_out() {
        let on = [("DIRECTORY__BACKEND", "redis")];
        let error = with(&on).unwrap_err().to_string();
        assert!(error.contains("needs [redis] url") && error.contains("set [cluster] etcd"), "{error}");
        let whole = [
            on[0],
            ("REDIS__URL", "redis://a:1"),
            ("CLUSTER__ETCD", "http://a:1"),
            ("QUEUE__BACKEND", "nsq"),
            ("NODE__ID", "a"),
            ("SOCKET__ANONYMOUS", "true"),
        ];
        assert_eq!(with(&whole).unwrap().directory.backend, DirectoryBackend::Redis);
        for (lease, told) in [("2s", "three times [redis] timeout"), ("8s", "less than [socket] join_timeout")] {
            let error = with(&[&whole[..], &[("DIRECTORY__LEASE", lease)]].concat()).unwrap_err().to_string();
            assert!(error.contains(told), "{error}");
        }
        assert_eq!(with(&[]).unwrap().directory.backend, DirectoryBackend::None);
    }
}
