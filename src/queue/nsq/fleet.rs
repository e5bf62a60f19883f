//! Which nsqds are consumed from: the configured ones, and those that nsqlookupd knows.

use std::collections::BTreeMap;

use futures_util::future::join_all;
use tokio::{
    sync::{mpsc, watch},
    time::sleep,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    admin::Daemon,
    health::Status,
    link::{Link, Setup},
};
use crate::{lifecycle::Tasks, queue::Job};

/// What ends the links of one topic.
#[derive(Clone)]
pub(super) struct Life {
    pub(super) jobs: mpsc::Sender<Vec<Job>>,
    pub(super) stopped: CancellationToken,
    pub(super) closing: CancellationToken,
    /// Waited for until each link has stopped.
    pub(super) pausing: TaskTracker,
    /// Waited for until each link has ended.
    pub(super) tracker: TaskTracker,
    pub(super) tasks: Tasks,
}

/// A running link.
struct Running {
    /// The epoch of its connection, 0 without one.
    connected: watch::Receiver<u64>,
    closing: CancellationToken,
}

/// Starts the links of one topic, and with nsqlookupd the task that keeps their set.
pub(super) fn start(setup: Setup, life: Life) {
    let configured = setup.base.daemons();
    if setup.base.config.lookupd.is_empty() {
        let share = (setup.max_in_flight / configured.len().max(1)).max(1);
        for daemon in configured {
            spawn(&setup, &life, daemon, share);
        }
        return;
    }
    setup.base.health.set(setup.group, "", Status::Ill("no nsqlookupd was asked yet".into()));
    let (tasks, tracker) = (life.tasks.clone(), life.tracker.clone());
    let name = format!("nsq {} fleet", setup.group);
    tasks.spawn_until_done(name, tracker.track_future(follow(setup, life)));
}

fn spawn(setup: &Setup, life: &Life, daemon: Daemon, share: usize) -> Running {
    let closing = life.closing.child_token();
    let name = format!("nsq {} link {}", setup.group, daemon.tcp);
    let (jobs, stopped, pausing) = (life.jobs.clone(), life.stopped.clone(), life.pausing.token());
    let link = Link::new(setup.clone(), daemon, share, jobs, stopped, pausing, closing.clone());
    let connected = link.connected();
    life.tasks.spawn_until_done(name, life.tracker.track_future(link.run()));
    Running { connected, closing }
}

/// Asks the nsqlookupds again and again. A link ends only when none of them lists its nsqd and it is not connected: an
/// nsqlookupd that was restarted lists nothing for a while.
async fn follow(setup: Setup, life: Life) {
    let (closing, stopped) = (life.closing.clone(), life.stopped.clone());
    let mut named: Vec<Named> =
        setup.base.daemons().into_iter().map(|daemon| Named { daemon, listed_as: None }).collect();
    let mut links: BTreeMap<String, Running> = BTreeMap::new();
    loop {
        let round = async {
            let (found, ()) = tokio::join!(ask(&setup, links.is_empty()), identify(&setup, &mut named));
            keep(&setup, &life, &mut links, &named, found);
            sleep(setup.base.config.lookup_interval).await;
        };
        // cancel-safe: a question that is cut short leaves nothing behind
        tokio::select! {
            () = closing.cancelled() => return,
            // the jobs' end is only seen once this lets go of its sender
            () = stopped.cancelled() => break,
            () = round => {}
        }
    }
    drop(life);
    closing.cancelled().await;
}

/// A configured nsqd, which nsqlookupd may know by another address.
struct Named {
    daemon: Daemon,
    /// The TCP address that it has in nsqlookupd, once it was asked for it.
    listed_as: Option<String>,
}

impl Named {
    /// The key of its link.
    fn key(&self) -> &str {
        self.listed_as.as_ref().unwrap_or(&self.daemon.tcp)
    }
}

/// Asks those that were not asked yet, or did not answer.
async fn identify(setup: &Setup, named: &mut [Named]) {
    let unknown = named.iter_mut().filter(|one| one.listed_as.is_none()).map(async |one| {
        if let Some(http) = &one.daemon.http {
            one.listed_as = setup.base.admin.listed_as(http).await;
        }
    });
    join_all(unknown).await;
}

/// What the nsqlookupds know.
#[derive(Default)]
struct Found {
    /// The nsqds that have the topic, by TCP address.
    daemons: BTreeMap<String, Daemon>,
    /// Whether every nsqlookupd answered.
    by_all: bool,
}

/// Asks them all; one answer is enough.
async fn ask(setup: &Setup, none_yet: bool) -> Found {
    let (base, config) = (&setup.base, &setup.base.config);
    if none_yet {
        // nsqlookupd learns of a topic from an nsqd that has it
        let channels = std::slice::from_ref(&setup.channel);
        let lay = config.nsqd_http.iter().map(|http| base.admin.lay(http, &setup.topic, channels));
        for error in join_all(lay).await.into_iter().filter_map(Result::err) {
            tracing::debug!(error, "nsq: no channel was made there");
        }
    }
    let mut all = Found { by_all: true, ..Found::default() };
    for answer in join_all(config.lookupd.iter().map(|lookupd| base.admin.lookup(lookupd, &setup.topic))).await {
        match answer {
            Ok(found) => all.daemons.extend(found.into_iter().map(|daemon| (daemon.tcp.clone(), daemon))),
            Err(error) => {
                tracing::debug!(error, "nsq: nsqlookupd did not answer");
                all.by_all = false;
            }
        }
    }
    all
}

/// The nsqds to consume from, by their address in nsqlookupd where that is known: those found, and those named. Of a named one
/// whose other address nobody tells (no `nsqd_http`) it cannot be known whether it was found: then only what was found counts.
fn wanted(named: &[Named], found: BTreeMap<String, Daemon>) -> BTreeMap<String, Daemon> {
    let sure = |one: &&Named| one.listed_as.is_some() || found.is_empty();
    let sure: Vec<_> = named.iter().filter(sure).map(|one| (one.key().to_owned(), one.daemon.clone())).collect();
    found.into_iter().chain(sure).collect()
}

fn keep(setup: &Setup, life: &Life, links: &mut BTreeMap<String, Running>, named: &[Named], found: Found) {
    // one that was consumed from before it was known by another address
    for one in named.iter().filter(|one| one.key() != one.daemon.tcp) {
        if let Some(link) = links.remove(&one.daemon.tcp)
            && let Some(second) = links.insert(one.key().to_owned(), link)
        {
            second.closing.cancel();
        }
    }
    let all_known = found.by_all && !found.daemons.is_empty();
    let wanted = wanted(named, found.daemons);
    let unsure = |tcp: &str| named.iter().any(|one| one.daemon.http.is_none() && one.daemon.tcp == tcp);
    links.retain(|tcp, link| {
        let gone = all_known && (*link.connected.borrow() == 0 || unsure(tcp));
        let kept = wanted.contains_key(tcp) || !gone;
        if !kept {
            tracing::info!(nsqd = tcp, topic = setup.topic, "nsq: nsqlookupd lists it no more");
            link.closing.cancel();
        }
        kept
    });
    let share = (setup.max_in_flight / wanted.len().max(1)).max(1);
    for (tcp, daemon) in wanted {
        links.entry(tcp).or_insert_with_key(|tcp| {
            tracing::info!(nsqd = tcp, topic = setup.topic, "nsq: consumed from");
            spawn(setup, life, daemon, share)
        });
    }
    // "" stood for no nsqd; without nsqlookupd the named ones are consumed from
    setup.base.health.forget(setup.group, "");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn named_nsqds_are_wanted_beside_the_found_ones_and_each_only_once() {
        let daemon = |tcp: &str| Daemon { tcp: tcp.into(), http: None };
        let named = |tcp, listed_as: Option<&str>| Named { daemon: daemon(tcp), listed_as: listed_as.map(Into::into) };
        for (what, named, found, expected) in [
            ("nsqlookupd is away", vec![named("a:1", None)], vec![], vec![("a:1", "a:1")]),
            ("found under its name", vec![named("a:1", Some("a:1"))], vec!["a:1"], vec![("a:1", "a:1")]),
            (
                "found by another",
                vec![named("a:1", Some("10.0.0.1:1"))],
                vec!["10.0.0.1:1"],
                vec![("10.0.0.1:1", "a:1")],
            ),
            ("perhaps the same", vec![named("a:1", None)], vec!["10.0.0.1:1"], vec![("10.0.0.1:1", "10.0.0.1:1")]),
            (
                "not registered there",
                vec![named("a:1", Some("a:1"))],
                vec!["b:1"],
                vec![("a:1", "a:1"), ("b:1", "b:1")],
            ),
        ] {
            let found = found.into_iter().map(|tcp| (tcp.to_owned(), daemon(tcp))).collect();
            let wanted = wanted(&named, found);
            let wanted: Vec<_> = wanted.iter().map(|(key, daemon)| (&**key, &*daemon.tcp)).collect();
            assert_eq!(wanted, expected, "{what}");
        }
    }
}
