//! Which nsqds are consumed from: the configured ones, or those that nsqlookupd knows.

use std::collections::{BTreeMap, BTreeSet};

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
    let mut links: BTreeMap<String, Running> = BTreeMap::new();
    loop {
        let round = async {
            let found = ask(&setup, links.is_empty()).await;
            keep(&setup, &life, &mut links, found);
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

/// What the nsqlookupds know.
struct Found {
    /// The nsqds that have the topic, by TCP address.
    daemons: BTreeMap<String, Daemon>,
    /// Whether every nsqlookupd answered.
    by_all: bool,
}

/// Asks them all; one answer is enough.
async fn ask(setup: &Setup, none_yet: bool) -> Result<Found, String> {
    let (base, config) = (&setup.base, &setup.base.config);
    if none_yet {
        // nsqlookupd learns of a topic from an nsqd that has it
        let channels = std::slice::from_ref(&setup.channel);
        let lay = config.nsqd_http.iter().map(|http| base.admin.lay(http, &setup.topic, channels));
        for error in join_all(lay).await.into_iter().filter_map(Result::err) {
            tracing::debug!(error, "nsq: no channel was made there");
        }
    }
    let answers = join_all(config.lookupd.iter().map(|lookupd| base.admin.lookup(lookupd, &setup.topic))).await;
    let (found, faults): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
    let faults: Vec<String> = faults.into_iter().filter_map(Result::err).collect();
    for error in &faults {
        tracing::debug!(error, "nsq: nsqlookupd did not answer");
    }
    if found.is_empty() {
        return Err(format!("no nsqlookupd answers: {}; start one or correct [queue] lookupd", faults.join("; ")));
    }
    let daemons = found.into_iter().flatten().flatten().map(|daemon| (daemon.tcp.clone(), daemon)).collect();
    Ok(Found { daemons, by_all: faults.is_empty() })
}

fn keep(setup: &Setup, life: &Life, links: &mut BTreeMap<String, Running>, found: Result<Found, String>) {
    let mut fault = None;
    match found {
        Ok(Found { daemons, by_all }) => {
            let gone: BTreeSet<String> = links
                .iter()
                .filter(|(tcp, link)| by_all && !daemons.contains_key(*tcp) && *link.connected.borrow() == 0)
                .map(|(tcp, _)| tcp.clone())
                .collect();
            for tcp in gone {
                tracing::info!(nsqd = tcp, topic = setup.topic, "nsq: nsqlookupd lists it no more");
                if let Some(link) = links.remove(&tcp) {
                    link.closing.cancel();
                }
            }
            let share = (setup.max_in_flight / daemons.len().max(1)).max(1);
            for (tcp, daemon) in daemons {
                links.entry(tcp).or_insert_with_key(|tcp| {
                    tracing::info!(nsqd = tcp, topic = setup.topic, "nsq: found by nsqlookupd");
                    spawn(setup, life, daemon, share)
                });
            }
        }
        Err(error) => fault = Some(error),
    }
    let status = match (links.is_empty(), fault) {
        // what is connected works on without nsqlookupd; "" counts for no nsqd
        (false, _) => return setup.base.health.forget(setup.group, ""),
        (true, Some(error)) => Status::Ill(error),
        (true, None) => Status::Ill(format!(
            "nsqlookupd knows no nsqd with topic {}; set [queue] nsqd_http, so that the topic can be made",
            setup.topic
        )),
    };
    setup.base.health.set(setup.group, "", status);
}
