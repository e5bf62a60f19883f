//! A node's registration against a real etcd, and the channels of gone nodes against real nsqds.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "cluster/support.rs"]
mod support;

use std::{net::SocketAddr, process::Command, sync::Arc, time::Duration};

use oxipush::internals::{
    cluster::{Cluster, ClusterError, ForgetNode, Listeners},
    config::{self, Config},
    lifecycle::{Deadline, Died, Phase, Phases, Tasks},
    telemetry::Metrics,
};
use serde_json::Value;
use support::{Certificates, Etcd, Nsqd, PATIENCE, Process, address, until};
use tokio::sync::{mpsc, watch};

/// A node's cluster side alone.
struct Node {
    cluster: Cluster,
    phases: Phases,
    queue: watch::Sender<bool>,
    tasks: Tasks,
    metrics: Arc<Metrics>,
    deaths: mpsc::UnboundedReceiver<Died>,
}

fn config(id: &str, etcd: &str, more: &[(&str, &str)]) -> Config {
    let mut values = vec![
        ("NODE__ID", id),
        ("QUEUE__BACKEND", "nsq"),
        ("CLUSTER__ETCD", etcd),
        ("SOCKET__ANONYMOUS", "true"),
        ("CLUSTER__LEASE", "4s"),
        ("CLUSTER__MAX_BACKOFF", "500ms"),
        ("CLUSTER__ALLOW_LOOPBACK", "true"),
    ];
    values.extend(more);
    let environment = values.into_iter().map(|(key, value)| (format!("OXIPUSH__{key}"), value.to_owned()));
    config::load(None, environment).unwrap()
}

fn listeners() -> Listeners {
    let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
    Listeners { socket: at(18080), http: at(18081), grpc: at(19002), peers: None }
}

fn forget_node(config: &Config) -> ForgetNode {
    let queue = Arc::new(config.queue.clone());
    Box::new(move |node| {
        let queue = queue.clone();
        Box::pin(async move { oxipush::internals::queue::nsq::forget_node(&queue, &node).await })
    })
}

async fn try_join(config: &Config) -> Result<Node, ClusterError> {
    with_queue(config, true).await
}

/// A node whose queue works, or does not, from its start on.
async fn with_queue(config: &Config, works: bool) -> Result<Node, ClusterError> {
    let (tasks, deaths) = Tasks::new();
    let (phases, metrics) = (Phases::new(), Arc::new(Metrics::new()));
    let (queue, state) = watch::channel(works);
    let cluster = Cluster::join(config, listeners(), Some(forget_node(config)), &tasks, &metrics).await?;
    cluster.follow(&phases, state, |works| *works, &tasks);
    Ok(Node { cluster, phases, queue, tasks, metrics, deaths })
}

async fn join(config: &Config) -> Node {
    try_join(config).await.unwrap()
}

/// Why the node must not start.
async fn refused(config: &Config) -> String {
    match try_join(config).await {
        Ok(node) => panic!("it joined: {:?}", node.cluster.details.borrow()),
        Err(ClusterError(why)) => why,
    }
}

impl Node {
    async fn says(&mut self, needle: &str) {
        let seen = self.cluster.details.wait_for(|lines| lines.iter().any(|line| line.contains(needle)));
        tokio::time::timeout(support::PATIENCE, seen).await.unwrap_or_else(|_| panic!("never says: {needle}")).unwrap();
    }

    async fn sees(&mut self, ids: &[&str]) {
        let seen = self.cluster.members.wait_for(|now| now.iter().eq(ids));
        tokio::time::timeout(support::PATIENCE, seen).await.unwrap_or_else(|_| panic!("never sees {ids:?}")).unwrap();
    }

    async fn leave(mut self) {
        self.cluster.leave(Deadline::after(PATIENCE)).await;
        assert!(self.tasks.stop(support::PATIENCE).await);
        assert!(self.deaths.try_recv().is_err());
    }
}

fn key(etcd: &Etcd, id: &str) -> Option<Value> {
    etcd.get(&format!("/oxipush/nodes/{id}")).map(|text| serde_json::from_str(&text).unwrap())
}

async fn phase(etcd: &Etcd, id: &str, phase: &str) {
    until(&format!("{id} is {phase}"), || async { key(etcd, id).filter(|node| node["phase"] == phase) }).await;
}

#[tokio::test]
async fn a_node_registers_follows_its_phases_and_takes_its_key_back() {
    let etcd = Etcd::start().await;
    let mut node = join(&config("gateway-1", &etcd.url(), &[("CLUSTER__WEIGHT", "3")])).await;
    let first = key(&etcd, "gateway-1").unwrap();
    let expected = [
        ("id", "gateway-1"),
        ("socket", "127.0.0.1:18080"),
        ("http", "127.0.0.1:18081"),
        ("grpc", "127.0.0.1:19002"),
        ("version", env!("CARGO_PKG_VERSION")),
        ("phase", "starting"),
    ];
    for (field, value) in expected {
        assert_eq!(first[field], value, "{field}");
    }
    assert_eq!(first["weight"], 3);
    assert!(node.metrics.text().contains("oxipush_cluster_registered 1"));

    node.phases.enter(Phase::Serving);
    phase(&etcd, "gateway-1", "serving").await;
    node.says("registered as gateway-1 (serving)").await;
    node.phases.enter(Phase::Draining);
    phase(&etcd, "gateway-1", "draining").await;
    // longer than the lease: it is kept alive
    tokio::time::sleep(Duration::from_secs(8)).await;
    assert!(key(&etcd, "gateway-1").is_some());
    node.leave().await;
    assert_eq!(key(&etcd, "gateway-1"), None);
}

#[tokio::test]
async fn a_node_whose_tasks_are_stopped_first_takes_its_key_back_too() {
    let etcd = Etcd::start().await;
    let node = join(&config("gateway-1", &etcd.url(), &[])).await;
    assert!(node.tasks.stop(support::PATIENCE).await);
    assert_eq!(key(&etcd, "gateway-1"), None);
    node.cluster.leave(Deadline::after(PATIENCE)).await;
}

#[tokio::test]
async fn without_etcd_a_node_is_alone_and_content() {
    let (tasks, _deaths) = Tasks::new();
    let config = config("gateway-1", "", &[]);
    let cluster = Cluster::join(&config, listeners(), None, &tasks, &Arc::default()).await.unwrap();
    assert!(cluster.details.borrow().is_empty());
    assert_eq!(*cluster.members.borrow(), ["gateway-1"]);
    cluster.leave(Deadline::after(PATIENCE)).await;
}

#[tokio::test]
async fn the_key_comes_back_after_an_outage_longer_than_the_lease() {
    let mut etcd = Etcd::start().await;
    let mut node = join(&config("gateway-1", &etcd.url(), &[])).await;
    node.phases.enter(Phase::Serving);
    node.says("registered as gateway-1 (serving)").await;
    node.sees(&["gateway-1"]).await;
    etcd.down();
    node.says("not registered: etcd").await;
    assert_eq!(*node.cluster.members.borrow(), ["gateway-1"], "the last known nodes stay");
    tokio::time::sleep(Duration::from_secs(7)).await;
    etcd.up().await;
    node.says("registered as gateway-1 (serving)").await;
    phase(&etcd, "gateway-1", "serving").await;
    assert!(node.metrics.etcd_errors.get() > 0);
    node.leave().await;
}

#[tokio::test]
async fn a_node_starts_while_etcd_is_away_and_registers_once_it_is_there() {
    let mut etcd = Etcd::start().await;
    etcd.down();
    let mut node = join(&config("gateway-1", &etcd.url(), &[])).await;
    node.says("etcd").await;
    node.says("is away").await;
    node.phases.enter(Phase::Serving);
    etcd.up().await;
    node.says("registered as gateway-1").await;
    phase(&etcd, "gateway-1", "serving").await;
    node.leave().await;
}

#[tokio::test]
async fn a_deleted_key_and_a_revoked_lease_are_mended() {
    let etcd = Etcd::start().await;
    let mut node = join(&config("gateway-1", &etcd.url(), &[])).await;
    node.sees(&["gateway-1"]).await;
    etcd.ctl(&["del", "/oxipush/nodes/gateway-1"]);
    until("the key is back", || async { key(&etcd, "gateway-1") }).await;
    let leases = etcd.ctl(&["lease", "list"]);
    etcd.ctl(&["lease", "revoke", leases.lines().last().unwrap()]);
    until("the key is back", || async { key(&etcd, "gateway-1") }).await;
    node.leave().await;
}

#[tokio::test]
async fn a_living_node_of_the_same_id_is_named_and_refused() {
    let etcd = Etcd::start().await;
    let config = config("gateway-1", &etcd.url(), &[]);
    let first = join(&config).await;
    let why = refused(&config).await;
    assert!(why.contains("gateway-1 is taken by a living node (socket 127.0.0.1:18080"), "{why}");
    assert!(why.contains("[node] id"), "{why}");
    first.leave().await;
    join(&config).await.leave().await;
}

#[tokio::test]
async fn a_killed_predecessor_is_outlived() {
    let etcd = Etcd::start().await;
    let lease = etcd.ctl(&["lease", "grant", "4"]);
    let predecessor = r#"{"id":"gateway-1","socket":"127.0.0.1:1","http":"127.0.0.1:2","grpc":"127.0.0.1:3","weight":1,
        "version":"0.1.0","phase":"serving","incarnation":"another"}"#;
    let lease = lease.split_whitespace().nth(1).unwrap();
    etcd.ctl(&["put", "--lease", lease, "/oxipush/nodes/gateway-1", predecessor]);
    let mut second = join(&config("gateway-1", &etcd.url(), &[])).await;
    second.says("registered as gateway-1").await;
    second.leave().await;
}

#[tokio::test]
async fn a_key_that_no_node_wrote_is_refused_with_what_to_do() {
    let etcd = Etcd::start().await;
    etcd.ctl(&["put", "/oxipush/nodes/gateway-1", "rubbish"]);
    let why = refused(&config("gateway-1", &etcd.url(), &[])).await;
    assert!(why.contains("etcdctl del /oxipush/nodes/gateway-1"), "{why}");
}

#[tokio::test]
async fn gopushers_key_is_there_while_the_node_serves() {
    let etcd = Etcd::start().await;
    let node = join(&config("gateway-1", &etcd.url(), &[("CLUSTER__GOPUSHER_KEY", "chat")])).await;
    let theirs = || async { etcd.get("/gopusher/chat/127.0.0.1:18080") };
    assert_eq!(theirs().await, None);
    node.phases.enter(Phase::Serving);
    assert_eq!(until("gopusher's key", theirs).await, "127.0.0.1:18080 weight=1");
    node.phases.enter(Phase::Draining);
    until("gopusher's key is gone", || async { theirs().await.is_none().then_some(()) }).await;
    node.leave().await;
}

#[tokio::test]
async fn a_nodes_phase_follows_its_queue_and_never_leaves_all_nodes_unready() {
    let etcd = Etcd::start().await;
    let quick = [("CLUSTER__UNREADY_AFTER", "1s"), ("CLUSTER__GOPUSHER_KEY", "chat")];
    let first = join(&config("gateway-1", &etcd.url(), &quick)).await;
    let second = join(&config("gateway-2", &etcd.url(), &quick)).await;
    for node in [&first, &second] {
        node.phases.enter(Phase::Serving);
    }
    for id in ["gateway-1", "gateway-2"] {
        phase(&etcd, id, "serving").await;
    }
    first.queue.send_replace(false);
    phase(&etcd, "gateway-1", "unready").await;
    assert_eq!(key(&etcd, "gateway-2").unwrap()["phase"], "serving");
    // nobody's works: both serve, for what it is worth
    second.queue.send_replace(false);
    phase(&etcd, "gateway-1", "serving").await;
    let told = || async { key(&etcd, "gateway-2").filter(|node| node["ready"] == false) };
    assert_eq!(until("the second says that it is not ready", told).await["phase"], "serving");
    // one's works again: clients are for that one
    first.queue.send_replace(true);
    phase(&etcd, "gateway-2", "unready").await;
    assert_eq!(key(&etcd, "gateway-1").unwrap()["phase"], "serving");
    second.queue.send_replace(true);
    phase(&etcd, "gateway-2", "serving").await;
    // a node that starts without a queue gets no clients while others can have them, and all of them afterwards
    let third = with_queue(&config("gateway-3", &etcd.url(), &quick), false).await.unwrap();
    third.phases.enter(Phase::Serving);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(key(&etcd, "gateway-3").unwrap()["phase"], "starting");
    for other in [first, second] {
        other.phases.enter(Phase::Draining);
        other.leave().await;
    }
    phase(&etcd, "gateway-3", "serving").await;
    third.leave().await;
}

/// A whole node on this nsqd alone.
fn spawn(id: &str, etcd: &Etcd, nsqd: &Nsqd) -> Process {
    let (mut command, address) = (Command::new(env!("CARGO_BIN_EXE_oxipush")), address());
    let settings = [
        ("NODE__ID", id.to_owned()),
        ("QUEUE__BACKEND", "nsq".into()),
        ("QUEUE__NSQD", nsqd.tcp()),
        ("QUEUE__NSQD_HTTP", nsqd.http()),
        ("CLUSTER__ETCD", etcd.url()),
        ("SOCKET__ANONYMOUS", "true".into()),
        ("CLUSTER__ALLOW_LOOPBACK", "true".into()),
        ("CLUSTER__UNREADY_AFTER", "2s".into()),
        ("SOCKET__LISTEN", format!("{address}:8080")),
        ("HTTP__LISTEN", format!("{address}:8081")),
        ("GRPC__LISTEN", format!("{address}:9002")),
        ("AUTH__INSECURE", "true".into()),
    ];
    command.envs(settings.map(|(key, value)| (format!("OXIPUSH__{key}"), value)));
    Process::start(&mut command, etcd.folder.path().join(id))
}

#[tokio::test]
async fn a_node_whose_nsqd_is_away_is_unready_while_another_has_one_and_a_start_tells_only_what_is_true() {
    let etcd = Etcd::start().await;
    let mut first_nsqd = Nsqd::start(None).await;
    let mut second_nsqd = Nsqd::with(None, &["--output-buffer-timeout=250ms"]).await;
    let first = spawn("gateway-1", &etcd, &first_nsqd);
    let second = spawn("gateway-2", &etcd, &second_nsqd);
    for id in ["gateway-1", "gateway-2"] {
        phase(&etcd, id, "serving").await;
    }
    // what a start passes through is no news
    for node in [&first, &second] {
        let ready = || async { node.text().contains("the queue is ready").then_some(()) };
        until("the log says that the queue is ready", ready).await;
        assert!(!node.text().contains("not ready"), "{}", node.text());
    }
    assert!(!first.text().contains("holds pushes back"), "{}", first.text());
    assert!(second.text().contains("holds pushes back for up to 250ms"), "{}", second.text());
    second_nsqd.process = None;
    phase(&etcd, "gateway-2", "unready").await;
    assert_eq!(key(&etcd, "gateway-1").unwrap()["phase"], "serving");
    first_nsqd.process = None;
    phase(&etcd, "gateway-2", "serving").await;
    let told = || async { key(&etcd, "gateway-1").filter(|node| node["ready"] == false) };
    assert_eq!(until("the first says that it is not ready", told).await["phase"], "serving");
    first_nsqd.up().await;
    phase(&etcd, "gateway-2", "unready").await;
    second_nsqd.up().await;
    phase(&etcd, "gateway-2", "serving").await;
}

#[tokio::test]
async fn nodes_see_each_other_come_and_go() {
    let etcd = Etcd::start().await;
    let mut first = join(&config("gateway-1", &etcd.url(), &[])).await;
    first.sees(&["gateway-1"]).await;
    let mut second = join(&config("gateway-2", &etcd.url(), &[])).await;
    first.sees(&["gateway-1", "gateway-2"]).await;
    second.sees(&["gateway-1", "gateway-2"]).await;
    second.leave().await;
    first.sees(&["gateway-1"]).await;
    first.leave().await;
}

#[tokio::test]
async fn refused_credentials_say_what_to_do() {
    let etcd = Etcd::start().await;
    etcd.ctl(&["user", "add", "root:secret"]);
    etcd.ctl(&["user", "grant-role", "root", "root"]);
    etcd.ctl(&["user", "add", "nobody:secret"]);
    etcd.ctl(&["auth", "enable"]);
    let with = |user: &str, password: &str| {
        config("gateway-1", &etcd.url(), &[("CLUSTER__USER", user), ("CLUSTER__PASSWORD", password)])
    };
    let why = refused(&with("root", "wrong")).await;
    assert!(why.contains("check [cluster] user and password"), "{why}");
    let why = refused(&config("gateway-1", &etcd.url(), &[])).await;
    assert!(why.contains("asks for a login"), "{why}");
    let why = refused(&with("nobody", "secret")).await;
    assert!(why.contains("grant the user readwrite"), "{why}");
    let mut node = join(&with("root", "secret")).await;
    node.says("registered as gateway-1").await;
    node.leave().await;
}

#[tokio::test]
async fn a_login_whose_token_has_ended_is_renewed_and_nobody_notices() {
    let etcd = Etcd::start().await;
    etcd.ctl(&["user", "add", "root:secret"]);
    etcd.ctl(&["user", "grant-role", "root", "root"]);
    etcd.ctl(&["auth", "enable"]);
    let login = [("CLUSTER__USER", "root"), ("CLUSTER__PASSWORD", "secret")];
    let mut node = join(&config("gateway-1", &etcd.url(), &login)).await;
    node.says("registered as gateway-1 (starting)").await;
    // etcd has no way to tell when it forgets one
    tokio::time::sleep(std::time::Duration::from_secs(4)).await;
    node.phases.enter(Phase::Serving);
    node.says("registered as gateway-1 (serving)").await;
    assert_eq!(node.metrics.etcd_errors.get(), 0);
    node.leave().await;
}

#[tokio::test]
async fn a_login_that_etcd_does_not_know_says_what_to_do() {
    let etcd = Etcd::start().await;
    let why = refused(&config("a", &etcd.url(), &[("CLUSTER__USER", "root"), ("CLUSTER__PASSWORD", "x")])).await;
    assert!(why.contains("leave [cluster] user and password empty"), "{why}");
}

#[tokio::test]
async fn tls_works_and_a_wrong_one_says_what_to_do() {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let address = address();
    let certificates = Certificates::make(folders[0].path(), address, true);
    let others = Certificates::make(folders[1].path(), address, true);
    let etcd = Etcd::with(Some(certificates.clone())).await;
    let with = |url: &str, ca: &std::path::Path, client: Option<&Certificates>| {
        let mut more = vec![("CLUSTER__TLS_CA", ca.to_str().unwrap().to_owned())];
        if let Some(client) = client {
            more.push(("CLUSTER__TLS_CERT", client.client_cert.to_str().unwrap().to_owned()));
            more.push(("CLUSTER__TLS_KEY", client.client_key.to_str().unwrap().to_owned()));
        }
        let more: Vec<(&str, &str)> = more.iter().map(|(key, value)| (*key, value.as_str())).collect();
        config("gateway-1", url, &more)
    };
    let mut node = join(&with(&etcd.url(), &certificates.ca, Some(&certificates))).await;
    node.says("registered as gateway-1").await;
    node.leave().await;

    let why = refused(&with(&etcd.url(), &others.ca, Some(&certificates))).await;
    assert!(why.contains("tls_ca"), "{why}");
    for client in [Some(&others), None] {
        // without the alert, which tonic may swallow, it could as well be a proxy whose etcd is away
        match try_join(&with(&etcd.url(), &certificates.ca, client)).await {
            Err(ClusterError(why)) => {
                assert!(why.contains("refuses our certificate: check [cluster] tls_cert"), "{why}")
            }
            Ok(mut node) => {
                node.says("may refuse our certificate: check [cluster] tls_cert").await;
                node.leave().await;
            }
        }
    }
    let why = refused(&config("gateway-1", &etcd.url(), &[])).await;
    assert!(why.contains("needs [cluster] tls_ca"), "{why}");
    let why = refused(&config("gateway-1", &etcd.url().replace("https", "http"), &[])).await;
    assert!(why.contains("speaks TLS: write https://"), "{why}");
    let why = refused(&with(&etcd.url(), std::path::Path::new("/nowhere/ca.pem"), None)).await;
    assert!(why.contains("[cluster] tls_ca = /nowhere/ca.pem"), "{why}");
    drop(etcd);

    let plain = Etcd::start().await;
    let why = refused(&with(&plain.url().replace("http", "https"), &certificates.ca, None)).await;
    assert!(why.contains("does not speak TLS: write http://"), "{why}");
}

#[tokio::test]
async fn a_loopback_address_is_not_advertised_untold() {
    let config = config("gateway-1", "http://127.0.0.1:1", &[("CLUSTER__ALLOW_LOOPBACK", "false")]);
    let why = refused(&config).await;
    assert!(why.contains("the socket address 127.0.0.1:18080 is a loopback one"), "{why}");
    assert!(why.contains("[cluster] advertise_socket"), "{why}");
}

#[tokio::test]
async fn an_advertised_address_that_nobody_reaches_is_told() {
    let etcd = Etcd::start().await;
    let mut node = join(&config("gateway-1", &etcd.url(), &[("CLUSTER__ADVERTISE_HTTP", "127.0.0.1:1")])).await;
    node.says("the advertised http address 127.0.0.1:1 cannot be reached").await;
    node.says("registered as gateway-1").await;
    node.leave().await;
}

#[tokio::test]
async fn the_channel_of_a_gone_node_is_deleted_once_and_no_other() {
    let etcd = Etcd::start().await;
    let nsqds = [Nsqd::start(None).await, Nsqd::start(None).await];
    let tcp = format!("{},{}", nsqds[0].tcp(), nsqds[1].tcp());
    let http = format!("{},{}", nsqds[0].http(), nsqds[1].http());
    for nsqd in &nsqds {
        nsqd.post("/topic/create?topic=gopusher.live").await;
        for channel in ["gateway-1", "gateway-2", "gateway-3", "archive"] {
            nsqd.post(&format!("/channel/create?topic=gopusher.live&channel={channel}")).await;
        }
    }
    let with = |id: &str, grace: &str| {
        let more = [("QUEUE__NSQD", tcp.as_str()), ("QUEUE__NSQD_HTTP", &http), ("CLUSTER__CHANNEL_GRACE", grace)];
        config(id, &etcd.url(), &more)
    };
    let survivors = [join(&with("gateway-1", "4s")).await, join(&with("gateway-2", "4s")).await];
    join(&with("gateway-3", "4s")).await.leave().await;
    for nsqd in &nsqds {
        until("the channel is deleted", || async {
            (!nsqd.channels("gopusher.live").await.contains(&"gateway-3".to_owned())).then_some(())
        })
        .await;
    }
    until("the entry is struck", || async { etcd.get("/oxipush/nodes-roster/gateway-3").is_none().then_some(()) })
        .await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let deleted: u64 = survivors.iter().map(|node| node.metrics.channels_deleted.get()).sum();
    assert_eq!(deleted, 2, "one for each nsqd");
    for nsqd in &nsqds {
        let mut channels = nsqd.channels("gopusher.live").await;
        channels.sort();
        assert_eq!(channels, ["archive", "gateway-1", "gateway-2"]);
    }
    for node in survivors {
        node.leave().await;
    }
}

#[tokio::test]
async fn a_channel_that_is_still_read_is_not_deleted() {
    let etcd = Etcd::start().await;
    let nsqd = Nsqd::start(None).await;
    nsqd.post("/topic/create?topic=gopusher.live").await;
    nsqd.post("/channel/create?topic=gopusher.live&channel=gateway-2").await;
    let mut reader = tokio::net::TcpStream::connect(nsqd.tcp()).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut reader, b"  V2SUB gopusher.live gateway-2\n").await.unwrap();
    let (tcp, http) = (nsqd.tcp(), nsqd.http());
    let more = [("QUEUE__NSQD", tcp.as_str()), ("QUEUE__NSQD_HTTP", &http), ("CLUSTER__CHANNEL_GRACE", "1s")];
    let survivor = join(&config("gateway-1", &etcd.url(), &more)).await;
    join(&config("gateway-2", &etcd.url(), &more)).await.leave().await;
    let roster = || async { etcd.get("/oxipush/nodes-roster/gateway-2") };
    until("it is marked", || async { roster().await.filter(|entry| !entry.contains("null")) }).await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(nsqd.channels("gopusher.live").await, ["gateway-2"]);
    drop(reader);
    until("it is deleted", || async { nsqd.channels("gopusher.live").await.is_empty().then_some(()) }).await;
    survivor.leave().await;
}

#[tokio::test]
async fn a_node_that_returns_keeps_its_channel() {
    let etcd = Etcd::start().await;
    let nsqd = Nsqd::start(None).await;
    nsqd.post("/topic/create?topic=gopusher.live").await;
    nsqd.post("/channel/create?topic=gopusher.live&channel=gateway-2").await;
    let more =
        [("QUEUE__NSQD", nsqd.tcp()), ("QUEUE__NSQD_HTTP", nsqd.http()), ("CLUSTER__CHANNEL_GRACE", "20s".to_owned())];
    let more: Vec<(&str, &str)> = more.iter().map(|(key, value)| (*key, value.as_str())).collect();
    let survivor = join(&config("gateway-1", &etcd.url(), &more)).await;
    join(&config("gateway-2", &etcd.url(), &more)).await.leave().await;
    let roster = || async { etcd.get("/oxipush/nodes-roster/gateway-2") };
    let marked = until("it is marked", || async { roster().await.filter(|entry| !entry.contains("null")) }).await;
    assert!(marked.contains("gone"), "{marked}");
    let back = join(&config("gateway-2", &etcd.url(), &more)).await;
    assert_eq!(roster().await.unwrap(), r#"{"gone":null}"#);
    assert_eq!(nsqd.channels("gopusher.live").await, ["gateway-2"]);
    back.leave().await;
    survivor.leave().await;
}

#[tokio::test]
async fn a_node_waits_while_a_survivor_deletes_its_channel() {
    let etcd = Etcd::start().await;
    let lease = etcd.ctl(&["lease", "grant", "3"]);
    let lease = lease.split_whitespace().nth(1).unwrap();
    etcd.ctl(&["put", "--lease", lease, "/oxipush/nodes-deleting/gateway-1", "x"]);
    let node = join(&config("gateway-1", &etcd.url(), &[])).await;
    assert_eq!(etcd.get("/oxipush/nodes-deleting/gateway-1"), None);
    node.leave().await;
}
