//! Which nsqd is published to: the first of the list that works.

use std::time::Duration;

use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};

use super::{
    Base,
    admin::{Daemon, live},
    health::Status,
    protocol::Bound,
    session::Session,
};

/// nsqd's default `--max-msg-size`, until it is known to be another.
pub(super) const MAX_MESSAGE: usize = 1 << 20;
/// How long a connection or a probe may take.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// An nsqd that has not answered for this long is left to go on while the next of the list is tried.
const STAGGER: Duration = Duration::from_millis(250);
/// How often the wait of an nsqd that fails again and again is doubled.
const DOUBLINGS: u32 = 6;

/// The nsqds of `[queue] nsqd`.
pub(super) struct Nsqds {
    base: Base,
    list: Vec<Nsqd>,
    /// Whose channels are laid before the first record comes.
    members: watch::Receiver<Vec<String>>,
    /// Where an nsqd has to publish to show that it works.
    probe: String,
}

/// One nsqd, and what is known of it.
struct Nsqd {
    daemon: Daemon,
    failed: Option<Failed>,
    /// What it refused to pass, since it runs.
    record: Option<usize>,
    batch: Option<usize>,
}

/// It did not do what it should: it is the last to be chosen for a while, and only after an acknowledged probe.
#[derive(Clone, Copy)]
struct Failed {
    until: Instant,
    wait: Duration,
}

impl Nsqd {
    fn is_last(&self) -> bool {
        self.failed.is_some_and(|failed| failed.until > Instant::now())
    }
}

/// A connection to an nsqd that worked when it was made.
pub(super) struct Chosen {
    /// Its place in the list.
    pub(super) index: usize,
    pub(super) session: Session,
    /// Bytes of a record and of a batch that it takes.
    pub(super) record: usize,
    pub(super) batch: usize,
}

impl Nsqds {
    pub(super) fn new(base: Base, members: watch::Receiver<Vec<String>>) -> Self {
        base.health.set("publisher", "", Status::Ill("the publisher was not connected yet".into()));
        let nsqd = |daemon| Nsqd { daemon, failed: None, record: None, batch: None };
        let list = base.daemons().into_iter().map(nsqd).collect();
        let probe = format!("{}.ping", base.config.topic);
        Self { base, list, members, probe }
    }

    pub(super) fn address(&self, index: usize) -> &str {
        &self.list[index].daemon.tcp
    }

    /// This nsqd did not acknowledge, or refused without telling a bound.
    pub(super) fn failed(&mut self, index: usize) {
        let (now, first) = (Instant::now(), self.base.config.return_after);
        let nsqd = &mut self.list[index];
        let again = nsqd.failed.filter(|before| before.until + before.wait > now);
        let wait = again.map_or(first, |before| (before.wait * 2).min(first * 2_u32.pow(DOUBLINGS)));
        nsqd.failed = Some(Failed { until: now + wait, wait });
    }

    /// This nsqd's connection ended: it may come back with other bounds.
    pub(super) fn lost(&mut self, index: usize) {
        (self.list[index].record, self.list[index].batch) = (None, None);
    }

    /// This nsqd told a bound.
    pub(super) fn learn(&mut self, index: usize, bound: Bound) {
        match bound {
            Bound::Record(limit) => self.list[index].record = Some(limit),
            Bound::Batch(limit) => self.list[index].batch = Some(limit),
        }
    }

    /// Tries the nsqds in their order; one that does not answer does not keep the next from being tried.
    pub(super) async fn choose(&self) -> Result<Chosen, String> {
        let mut order: Vec<usize> = (0..self.list.len()).collect();
        order.sort_by_key(|&index| self.list[index].is_last());
        let (mut next, mut tries, mut reasons) = (order.into_iter(), FuturesUnordered::new(), Vec::new());
        loop {
            match next.next() {
                Some(index) => tries.push(self.one(index)),
                None if tries.is_empty() => break,
                None => {}
            }
            match timeout(STAGGER, tries.next()).await {
                Ok(Some(Ok(chosen))) => {
                    tracing::info!(nsqd = self.address(chosen.index), "publishing");
                    self.base.health.set("publisher", "", Status::Well);
                    return Ok(chosen);
                }
                Ok(Some(Err(reason))) => reasons.push(reason),
                Ok(None) | Err(_) => {}
            }
        }
        let reason = format!("no nsqd to publish to: {}; start nsqd or correct [queue] nsqd", reasons.join(", "));
        self.base.health.set("publisher", "", Status::Ill(reason.clone()));
        Err(reason)
    }

    async fn one(&self, index: usize) -> Result<Chosen, String> {
        let Nsqd { daemon, failed, record, batch } = &self.list[index];
        if failed.is_some() {
            self.probe(index).await?;
        }
        let session = self.connect(daemon).await?;
        let mut most = MAX_MESSAGE;
        if let Some(http) = &daemon.http {
            self.lay(http).await;
            most = self.base.admin.max_message(http).await.unwrap_or(MAX_MESSAGE);
        }
        let batch = batch.unwrap_or(usize::MAX).min(self.base.config.batch_bytes);
        Ok(Chosen { index, session, record: record.unwrap_or(most), batch })
    }

    async fn connect(&self, daemon: &Daemon) -> Result<Session, String> {
        let within = HANDSHAKE.min(self.base.config.rebuild_after);
        let connected = timeout(within, Session::connect(&daemon.tcp, &self.base.node)).await;
        match connected {
            Ok(Ok(session)) => Ok(session),
            Ok(Err(reason)) => Err(format!("{} ({reason})", daemon.tcp)),
            Err(_) => Err(format!("{} (no answer within {})", daemon.tcp, humantime::format_duration(within))),
        }
    }

    /// Whether this nsqd takes a record. That it accepts a connection says nothing: the kernel does so for a process that
    /// hangs. A probe goes to a topic of its own, through the same code and to the same disk as a push.
    async fn probe(&self, index: usize) -> Result<(), String> {
        let daemon = &self.list[index].daemon;
        let session = self.connect(daemon).await?;
        match timeout(HANDSHAKE, session.probe(&self.probe)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(reason)) => Err(format!("{} ({reason})", daemon.tcp)),
            Err(_) => Err(format!("{} (it acknowledges nothing)", daemon.tcp)),
        }
    }

    /// Every living node's channel is there before the first record is.
    async fn lay(&self, http: &str) {
        let base = &self.base;
        let mut nodes = self.members.borrow().clone();
        if nodes.is_empty() && self.list.len() + base.config.lookupd.len() > 1 {
            nodes.extend(base.admin.known_channels(&base.config, STAGGER).await);
        }
        if !nodes.iter().any(|node| **node == *base.node) {
            nodes.push(base.node.to_string());
        }
        if let Err(error) = base.admin.lay(http, &live(&base.config), &nodes).await {
            tracing::warn!(
                error,
                "nsq: no channel was made through nsqd_http; the consumers will, once they subscribe"
            );
        }
    }

    /// Resolves once an nsqd before `index` works, and this node consumes from it: what is published where nobody reads yet
    /// comes late, and behind what is published later elsewhere. Never for the first.
    pub(super) async fn better(&self, index: usize) {
        if index == 0 {
            return std::future::pending().await;
        }
        loop {
            sleep(self.base.config.return_after).await;
            for (before, nsqd) in self.list[..index].iter().enumerate() {
                let read = self.base.health.works("live", &nsqd.daemon.tcp);
                // nsqlookupd may know it by another address: then nobody can tell
                if read != Some(false) && !nsqd.is_last() && self.probe(before).await.is_ok() {
                    return;
                }
            }
        }
    }
}
