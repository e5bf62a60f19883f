//! A push reaches exactly the clients that a plain scan over their memberships names, each once, through every kind of target
//! and every way in, while clients join, leave, subscribe, unsubscribe, go and come back.
//!
//! The cases are the same each time, or those of `OXIPUSH_MODEL_SEED`; `OXIPUSH_MODEL_CASES` sets how many. What a client must
//! have got follows from when its commands were sent and answered: see [`model`].
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

#[path = "targets/case.rs"]
mod case;
#[path = "targets/member.rs"]
mod member;
#[path = "targets/model.rs"]
mod model;
#[path = "targets/pushes.rs"]
mod pushes;
mod support;

use support::{gateway::Node, nsq::Nsqd};

/// Clients are not to be told apart by their bounds here.
const UNBOUNDED: [(&str, &str); 3] = [
    ("SOCKET__MAX_MESSAGES_PER_SECOND", "60000"),
    ("SOCKET__MESSAGE_BURST", "60000"),
    // two shards, however many cores there are
    ("NODE__WORKERS", "2"),
];

fn given(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|number| number.parse().unwrap())
}

async fn run(nodes: &[Node], cases: u64) {
    let seed = given("OXIPUSH_MODEL_SEED").unwrap_or(16);
    let mut counted = case::Counted::default();
    for case in 0..given("OXIPUSH_MODEL_CASES").unwrap_or(cases) {
        let seed = seed.wrapping_mul(1_000_003).wrapping_add(case);
        counted.add(case::run(nodes, seed).await);
    }
    println!("{counted:?}");
    // a model that demands nothing, or allows everything, would prove nothing
    assert!(counted.demanded > counted.either && counted.forbidden > counted.either, "{counted:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_push_reaches_whom_a_plain_scan_names() {
    let node = Node::start(&UNBOUNDED).await;
    run(std::slice::from_ref(&node), 8).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_push_reaches_whom_a_plain_scan_names_on_two_nodes() {
    let nsqd = Nsqd::start().await;
    let (tcp, http) = (nsqd.tcp(), nsqd.http());
    let mut nodes = Vec::new();
    for id in ["node-1", "node-2"] {
        let own = [("QUEUE__BACKEND", "nsq"), ("QUEUE__NSQD", &tcp), ("QUEUE__NSQD_HTTP", &http), ("NODE__ID", id)];
        nodes.push(Node::start(&[&UNBOUNDED[..], &own].concat()).await);
    }
    run(&nodes, 4).await;
    for node in nodes {
        node.stop().await;
    }
}
