//! Live pushes in a cluster of three gateways, two nsqds, an nsqlookupd and an etcd: who gets what, and what each fault costs.
//!
//! These are the short versions. `just cluster-chaos` makes them long: OXIPUSH_FLEET (300) clients, 200 of them in a restart,
//! OXIPUSH_FAULT_ROUNDS (1) of each fault.
#![allow(clippy::duplicate_mod, clippy::unwrap_used, missing_docs)]

#[path = "cluster/fleet.rs"]
mod fleet;
#[path = "cluster/rig.rs"]
mod rig;
#[path = "cluster/support.rs"]
mod servers;
mod support;

use std::time::{Duration, Instant};

use fleet::Fleet;
use nix::sys::signal::Signal;
use rig::Rig;
use support::ledger::Findings;
use tokio::time::sleep;

/// What is accepted must have come to who stays by then.
const PATIENCE: Duration = Duration::from_secs(30);
/// A session that ended so soon after a push was accepted may have ended before it.
const GRACE: Duration = Duration::from_secs(3);

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

fn clients() -> usize {
    number("OXIPUSH_FLEET", 300)
}

fn check(what: &str, findings: &Findings) {
    println!("{what}: {findings}");
    assert!(findings.wrong.is_empty(), "{:#?}", findings.wrong);
    let some = &findings.missing[..findings.missing.len().min(10)];
    assert!(findings.missing.is_empty(), "{what}: {} are missing: {some:#?}", findings.missing.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn each_push_through_any_door_reaches_its_clients_on_all_nodes_in_order() {
    let rig = Rig::start(3, &[]).await;
    let fleet = Fleet::start(rig.doors(), clients()).await;
    for node in 0..3 {
        assert!(fleet.ledger.open_on(node) > clients() / 4, "gw-{} has {}", node + 1, fleet.ledger.open_on(node));
    }
    fleet.push_through_every_door().await;
    let findings = fleet.ledger.settle(GRACE, PATIENCE).await;
    check("three nodes", &findings);
    println!("{}", fleet.ledger.times());
    assert_eq!(findings.disordered, 0);
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_loses_no_live_push_to_who_is_connected() {
    let mut rig = Rig::start(3, &[]).await;
    let count = clients() * 2 / 3;
    let mut fleet = Fleet::start(rig.doors(), count).await;
    fleet.push(number("OXIPUSH_FLEET_LANES", 2) as u32, Duration::from_millis(5));
    sleep(Duration::from_millis(500)).await;
    let begun = Instant::now();
    for node in 0..3 {
        let before = Instant::now();
        rig.nodes[node].stop().await;
        fleet.all_joined(count).await;
        let joins = fleet.ledger.joined_since(before);
        let last = joins.iter().max().map_or(Duration::ZERO, |last| *last - before);
        let rate = joins.len() as f64 / last.as_secs_f64();
        println!("gw-{} stopped: {} clients back on the others in {last:.2?} ({rate:.0}/s)", node + 1, joins.len());
        rig.again(node).await;
    }
    let took = begun.elapsed();
    let refused = fleet.pushed().await;
    let findings = fleet.ledger.settle(GRACE, PATIENCE).await;
    check(&format!("a rolling restart of three nodes in {took:.1?}"), &findings);
    println!("{}; refused: {refused:?}", fleet.ledger.times());
    // a node that has stopped answers nobody, and one that stops says so
    assert!(refused.keys().all(|why| why == "no answer" || why.starts_with("503")), "{refused:?}");
    fleet.stop().await;
}

/// What happens to a part of the cluster.
#[derive(Clone, Copy, Debug)]
enum Fault {
    NodeKilled,
    NodeFrozen,
    NsqdKilled,
    NsqdFrozen,
    EtcdKilled,
    EtcdFrozen,
    LookupdStopped,
}

const FAULTS: [Fault; 7] = [
    Fault::NodeKilled,
    Fault::NodeFrozen,
    Fault::NsqdKilled,
    Fault::NsqdFrozen,
    Fault::EtcdKilled,
    Fault::EtcdFrozen,
    Fault::LookupdStopped,
];

impl Fault {
    /// Breaks a part, waits for `lasts`, and mends it.
    async fn happen(self, rig: &mut Rig, turn: usize, lasts: Duration) {
        let (node, nsqd) = (turn % rig.nodes.len(), turn % rig.nsqds.len());
        match self {
            Self::NodeKilled => {
                rig.nodes[node].kill();
                sleep(lasts).await;
                rig.begin(node);
            }
            Self::NodeFrozen => {
                rig.nodes[node].signal(Signal::SIGSTOP);
                sleep(lasts).await;
                rig.nodes[node].signal(Signal::SIGCONT);
            }
            Self::NsqdKilled => {
                rig.nsqds[nsqd].kill().await;
                sleep(lasts).await;
                rig.nsqds[nsqd].again().await;
            }
            Self::NsqdFrozen => {
                rig.nsqds[nsqd].hang();
                sleep(lasts).await;
                rig.nsqds[nsqd].go_on();
            }
            Self::EtcdKilled => {
                rig.etcd.down();
                sleep(lasts).await;
                rig.etcd.up().await;
            }
            Self::EtcdFrozen => {
                rig.etcd.process().signal("STOP");
                sleep(lasts).await;
                rig.etcd.process().signal("CONT");
            }
            Self::LookupdStopped => {
                rig.lookupd.stop().await;
                sleep(lasts).await;
                rig.lookupd.again().await;
            }
        }
        for node in &mut rig.nodes {
            node.ready().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_two_copies_no_fault_of_one_part_costs_a_client_that_stays_a_push() {
    let rounds = number("OXIPUSH_FAULT_ROUNDS", 1);
    let mut rig = Rig::start(3, &[("QUEUE__COPIES", "2")]).await;
    let count = clients() / 3;
    let mut fleet = Fleet::start(rig.doors(), count).await;
    fleet.push(1, Duration::from_millis(20));
    for turn in 0..rounds * FAULTS.len() {
        let fault = FAULTS[turn % FAULTS.len()];
        let (before, copies) = (fleet.ledger.accepted(), copies_missing(&rig).await);
        let begun = Instant::now();
        fault.happen(&mut rig, turn, Duration::from_millis(if rounds > 1 { 4000 } else { 1500 })).await;
        fleet.all_joined(count).await;
        let (accepted, copies) = (fleet.ledger.accepted() - before, copies_missing(&rig).await - copies);
        println!("{fault:?}: well again after {:.1?}; {accepted} accepted, {copies} with one copy", begun.elapsed());
    }
    let refused = fleet.pushed().await;
    let findings = fleet.ledger.settle(GRACE, PATIENCE).await;
    println!("{}; refused: {refused:?}", fleet.ledger.times());
    check(&format!("{} faults", rounds * FAULTS.len()), &findings);
    fleet.stop().await;
}

/// Of the nodes that run; one that was killed begins anew.
async fn copies_missing(rig: &Rig) -> f64 {
    let mut sum = 0.0;
    for node in &rig.nodes {
        sum += node.metric("oxipush_copies_missing_total", &[]).await;
    }
    sum
}
