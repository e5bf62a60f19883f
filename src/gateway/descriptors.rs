//! File descriptors: how many the process may have open, and who gets how many of them. Clients get what is left by the others, so
//! that no storm of them stops pushes, health or metrics.

use std::io;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::config::{Backend, Config};

/// What the process needs whoever connects: its files and folders, standard streams, listeners, etcd, calls to HTTP services.
const FILES: usize = 64;
/// Of each thread that has a runtime of its own: its epoll instance and its wake-ups, and one connection that is being accepted.
const PER_WORKER: usize = 8;
/// Threads with a runtime that `[node] workers` does not count: tokio's own, the HTTP workers.
const OTHER_WORKERS: usize = 4;
/// Of each nsqd: consumers and the publisher, each with one that is being built anew, and calls to its HTTP.
const PER_NSQD: usize = 12;
/// What nsqlookupd may find beyond the nsqds that are named.
const FOUND_NSQDS: usize = 8;

/// Raises the soft limit of open files to the hard one; what the process may have from now on.
///
/// # Errors
/// What the system says.
pub(super) fn raise_limit() -> io::Result<usize> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    Ok(usize::try_from(hard).unwrap_or(usize::MAX))
}

/// Who gets how many descriptors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DescriptorPlan {
    /// What the process may have open.
    limit: usize,
    /// Kept for nsqd, etcd and files.
    reserve: usize,
    /// All connections of `[socket]`, those that are refused included.
    pub(super) socket: usize,
    http: usize,
    grpc: usize,
}

impl DescriptorPlan {
    /// Of `limit` for the process. The API's listeners get what they are configured for; where that does not leave the clients
    /// theirs, together a quarter at most.
    pub(super) fn new(config: &Config, limit: usize) -> Self {
        let reserve = reserve(config);
        let left = limit.saturating_sub(reserve);
        let mut http = config.http.max_connections;
        let mut grpc = config.grpc.max_connections;
        let api = http + grpc;
        if api + clients_wish(config) > left && api > left / 4 {
            http = ((left / 4) as f64 * http as f64 / api as f64) as usize;
            grpc = (left / 4).saturating_sub(http);
        }
        // a node so short of descriptors answers somebody at least
        let (http, grpc) = (http.max(2), grpc.max(1));
        Self { limit, reserve, socket: left.saturating_sub(http + grpc).max(2), http, grpc }
    }

    /// The configuration with no more connections than there are descriptors for.
    pub(super) fn bounded(&self, mut config: Config) -> Config {
        let refusals = config.socket.max_refusals.min(self.socket / 8);
        config.socket.max_connections = config.socket.max_connections.min(self.socket - refusals);
        config.socket.max_refusals = refusals;
        config.http.max_connections = config.http.max_connections.min(self.http);
        config.grpc.max_connections = config.grpc.max_connections.min(self.grpc);
        config
    }

    /// What is missing and what helps; `None`: nothing is.
    pub(super) fn shortage(&self, config: &Config) -> Option<String> {
        let bounded = self.bounded(config.clone());
        let mut parts = [
            ("[socket] max_connections", config.socket.max_connections, bounded.socket.max_connections),
            ("[socket] max_refusals", config.socket.max_refusals, bounded.socket.max_refusals),
            ("[http] max_connections", config.http.max_connections, bounded.http.max_connections),
            ("[grpc] max_connections", config.grpc.max_connections, bounded.grpc.max_connections),
        ];
        // what nobody connects to lacks nothing
        if !config.node.roles.has_socket() {
            parts[0].2 = parts[0].1;
            parts[1].2 = parts[1].1;
        }
        if parts.iter().all(|(_, configured, taken)| configured == taken) {
            return None;
        }
        let wishes: Vec<_> = parts.iter().map(|(name, configured, _)| format!("{name} = {configured}")).collect();
        let taken: Vec<_> = parts.iter().map(|(name, _, taken)| format!("{name} = {taken}")).collect();
        let needed = parts.iter().map(|(_, configured, _)| configured).sum::<usize>() + self.reserve;
        Some(format!(
            "{} and {} for nsqd, etcd and files need {needed} file descriptors, and the process may have {}: it runs with {}; \
             raise the hard limit (systemd: LimitNOFILE={needed}, Docker: --ulimit nofile={needed}), or lower these keys",
            wishes.join(", "),
            self.reserve,
            self.limit,
            taken.join(", "),
        ))
    }
}

/// Descriptors that no listener's connection may take.
fn reserve(config: &Config) -> usize {
    let nsqds = match config.queue.backend {
        Backend::Embedded => 0,
        Backend::Nsq if config.queue.lookupd.is_empty() => config.queue.nsqd.len(),
        Backend::Nsq => config.queue.nsqd.len() + FOUND_NSQDS,
    };
    let workers = match config.node.workers {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        workers => workers,
    };
    FILES + PER_WORKER * (workers + OTHER_WORKERS) + PER_NSQD * nsqds
}

fn clients_wish(config: &Config) -> usize {
    if config.node.roles.has_socket() { config.socket.max_connections + config.socket.max_refusals } else { 0 }
}

/// Raises the limit of open files, and says what is missing.
pub(super) fn plan(config: &Config) -> DescriptorPlan {
    let limit = raise_limit().unwrap_or_else(|error| {
        tracing::warn!(%error, "the limit of open files cannot be found or raised: there may be fewer than the listeners need");
        usize::MAX
    });
    let plan = DescriptorPlan::new(config, limit);
    if let Some(shortage) = plan.shortage(config) {
        tracing::warn!("{shortage}");
    }
    plan
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn config(settings: &[(&str, &str)]) -> Config {
        let all = [("NODE__WORKERS", "2")].iter().chain(settings);
        crate::config::load(None, all.map(|(key, value)| (format!("OXIPUSH__{key}"), (*value).to_owned()))).unwrap()
    }

    fn bounds(config: &Config) -> [usize; 4] {
        let socket = &config.socket;
        [socket.max_connections, socket.max_refusals, config.http.max_connections, config.grpc.max_connections]
    }

    #[test]
    fn with_enough_descriptors_all_is_as_configured() {
        let config = config(&[]);
        let plan = DescriptorPlan::new(&config, 1 << 20);
        assert_eq!(bounds(&plan.bounded(config.clone())), [100_000, 1000, 10_000, 1000]);
        assert_eq!(plan.shortage(&config), None);
        assert!(plan.socket > 1_000_000, "a reload may raise max_connections");
    }

    #[test]
    fn all_shares_and_the_reserve_fit_the_limit_and_everybody_gets_some() {
        for limit in [300, 1024, 4096, 20_000, 65_536, 112_000] {
            for settings in [&[][..], &[("QUEUE__BACKEND", "nsq")]] {
                let config = config(settings);
                let plan = DescriptorPlan::new(&config, limit);
                let bounds = bounds(&plan.bounded(config.clone()));
                assert!(bounds.iter().sum::<usize>() + plan.reserve <= limit, "{limit}: {bounds:?} and {plan:?}");
                assert!(bounds.iter().all(|bound| *bound > 0), "{limit}: {bounds:?}");
                assert!(bounds[0] > limit / 4, "{limit}: clients are what it is for: {bounds:?}");
            }
        }
    }

    #[test]
    fn a_shortage_is_told_with_its_figures_and_the_remedy() {
        let config = config(&[]);
        let told = DescriptorPlan::new(&config, 20_000).shortage(&config).unwrap();
        for part in ["[socket] max_connections = 100000", "need 1121", "may have 20000", "LimitNOFILE=1121"] {
            assert!(told.contains(part), "{part} is missing in {told}");
        }
    }
}
