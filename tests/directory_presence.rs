//! Who is in a room, told of three gateways together: they share a directory in Redis.
#![allow(clippy::duplicate_mod, clippy::unwrap_used, missing_docs)]

#[path = "cluster/fleet.rs"]
mod fleet;
#[allow(dead_code)]
#[path = "events/hook.rs"]
mod hook;
#[path = "cluster/rig.rs"]
mod rig;
#[path = "cluster/support.rs"]
mod servers;
mod support;

use std::time::{Duration, Instant};

use hook::{Hook, SECRET};
use rig::Rig;
use serde_json::{Value, json};
use support::{client::Client, http_server::Told, redis::RedisServer};
use tokio::time::sleep;

const PATIENCE: Duration = Duration::from_secs(30);
/// `[directory] lease` here.
const LEASE: Duration = Duration::from_secs(3);

struct Setup {
    redis: RedisServer,
    hook: Hook,
    rig: Rig,
}

impl Setup {
    /// Three gateways, each of which has written what it holds.
    async fn start() -> Self {
        let redis = RedisServer::start().await;
        let hook = Hook::start(|_| Told::ok("")).await;
        let settings = [
            ("DIRECTORY__BACKEND", "redis"),
            ("DIRECTORY__LEASE", "3s"),
            ("STORE__BACKEND", "none"),
            ("REDIS__URL", &redis.url()),
            ("REDIS__MAX_BACKOFF", "300ms"),
            ("REDIS__CHECK_INTERVAL", "300ms"),
            // a node that only stands for a while on a busy machine is not gone
            ("CLUSTER__LEASE", "8s"),
            ("CLUSTER__CHANNEL_GRACE", "3s"),
            ("QUEUE__REPLAY_HOLD", "0s"),
            ("ROOMS__PRESENCE", "chat-*"),
            ("EVENTS__URL", &hook.url()),
            ("EVENTS__SECRET", SECRET),
            ("EVENTS__KINDS", "presence"),
        ];
        let rig = Rig::start(3, &settings).await;
        let setup = Self { redis, hook, rig };
        setup.ready().await;
        setup
    }

    async fn ready(&self) {
        let begun = Instant::now();
        for node in &self.rig.nodes {
            while node.metric("oxipush_directory_ready", &[]).await != 1.0 {
                assert!(begun.elapsed() < PATIENCE, "{} has not written what it holds", node.id);
                sleep(Duration::from_millis(20)).await;
            }
        }
    }

    /// A client of `card` at a node, in the room chat-1.
    async fn enter(&self, node: usize, card: &str) -> Client {
        let url = format!("ws://{}/ws", self.rig.nodes[node].at()[0]);
        let mut client = Client::modern(&url, card, "").await;
        client.say(json!({"event": "subscribe", "data": {"room": "chat-1"}})).await;
        while client.hear().await["event"] != "subscribed" {}
        client
    }

    /// Waits until Redis has a card in the room on these nodes, as `,gw-1,gw-2,`.
    async fn stands(&self, card: &str, nodes: &str) {
        let key = self.redis.cli(&["KEYS", "*:p:chat-1"]);
        self.redis.wait_for(&["HGET", &key, card], nodes).await;
    }

    /// Waits until the back end has heard of the last of `expected`, and checks that it heard of these alone, in any order between
    /// cards.
    async fn hears(&self, expected: &[(&str, &str)]) {
        let last = expected.last().unwrap();
        self.hook.heard.until(&format!("{last:?}"), |events| events.iter().any(|event| named(event) == *last)).await;
        let mut heard: Vec<_> = self.hook.heard.events().iter().map(|event| owned(named(event))).collect();
        let mut expected: Vec<_> = expected.iter().copied().map(owned).collect();
        heard.sort();
        expected.sort();
        assert_eq!(heard, expected);
    }
}

fn named(event: &Value) -> (&str, &str) {
    (event["card"].as_str().unwrap(), event["data"]["action"].as_str().unwrap())
}

fn owned((card, action): (&str, &str)) -> (String, String) {
    (card.to_owned(), action.to_owned())
}

/// The next change that a client hears: card, action, node.
async fn change(client: &mut Client) -> (String, String, String) {
    loop {
        let heard = client.hear().await;
        if heard["event"] == "presence" {
            let of = |name: &str| heard["data"][name].as_str().unwrap().to_owned();
            return (of("card_id"), of("action"), of("node"));
        }
    }
}

async fn comes(client: &mut Client, card: &str, node: &str) {
    assert_eq!(change(client).await, (card.into(), "join".into(), node.into()));
}

async fn leaves(client: &mut Client, card: &str, node: &str) {
    assert_eq!(change(client).await, (card.into(), "leave".into(), node.into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_card_on_two_nodes_comes_once_and_leaves_once_for_the_clients_of_all_nodes() {
    let mut setup = Setup::start().await;
    let mut watcher = setup.enter(2, "watcher").await;
    comes(&mut watcher, "watcher", "gw-3").await;
    let first = setup.enter(0, "alice").await;
    comes(&mut watcher, "alice", "gw-1").await;
    let mut second = setup.enter(1, "alice").await;
    setup.stands("alice", ",gw-1,gw-2,").await;
    drop(first);
    // nothing of alice is told between
    let bob = setup.enter(0, "bob").await;
    comes(&mut watcher, "bob", "gw-1").await;
    comes(&mut second, "bob", "gw-1").await;
    drop(second);
    leaves(&mut watcher, "alice", "gw-2").await;
    // with an orderly stop, too
    setup.rig.nodes[0].stop().await;
    leaves(&mut watcher, "bob", "gw-1").await;
    drop(bob);
    let all = [("watcher", "join"), ("alice", "join"), ("bob", "join"), ("alice", "leave"), ("bob", "leave")];
    setup.hears(&all).await;
    watcher.silent().await;
    let keys = setup.redis.cli(&["KEYS", "*:p:*"]);
    assert_eq!(keys.lines().count(), 1, "{keys}");
    assert_eq!(setup.redis.cli(&["HGETALL", &keys]), "watcher\n,gw-3,");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_on_a_killed_node_alone_leaves_once() {
    let mut setup = Setup::start().await;
    let mut watcher = setup.enter(2, "watcher").await;
    comes(&mut watcher, "watcher", "gw-3").await;
    let _alice = setup.enter(0, "alice").await;
    comes(&mut watcher, "alice", "gw-1").await;
    let _bob = setup.enter(0, "bob").await;
    comes(&mut watcher, "bob", "gw-1").await;
    let _bob_too = setup.enter(1, "bob").await;
    setup.stands("bob", ",gw-1,gw-2,").await;
    setup.rig.nodes[0].kill();
    leaves(&mut watcher, "alice", "gw-1").await;
    // the same node again, and the same card
    setup.rig.again(0).await;
    setup.ready().await;
    let _carol = setup.enter(1, "carol").await;
    comes(&mut watcher, "carol", "gw-2").await;
    let _alice = setup.enter(0, "alice").await;
    comes(&mut watcher, "alice", "gw-1").await;
    // a killed node takes the events with it that it has not handed on
    let joins = |events: &[Value]| events.iter().filter(|event| named(event) == ("alice", "join")).count();
    setup.hook.heard.until("alice's second join", |events| joins(events) == 2).await;
    // back before the others have missed it: it finds by itself what it had
    setup.rig.nodes[0].kill();
    setup.rig.again(0).await;
    leaves(&mut watcher, "alice", "gw-1").await;
    let _dora = setup.enter(0, "dora").await;
    comes(&mut watcher, "dora", "gw-1").await;
    setup
        .hears(&[
            ("watcher", "join"),
            ("alice", "join"),
            ("bob", "join"),
            ("alice", "leave"),
            ("carol", "join"),
            ("alice", "join"),
            ("alice", "leave"),
            ("dora", "join"),
        ])
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_emptied_directory_tells_of_nobody_and_of_the_right_ones_afterwards() {
    let setup = Setup::start().await;
    let mut watcher = setup.enter(2, "watcher").await;
    comes(&mut watcher, "watcher", "gw-3").await;
    let first = setup.enter(0, "alice").await;
    comes(&mut watcher, "alice", "gw-1").await;
    let second = setup.enter(1, "alice").await;
    setup.stands("alice", ",gw-1,gw-2,").await;
    let bob = setup.enter(0, "bob").await;
    comes(&mut watcher, "bob", "gw-1").await;
    // before any node has seen that it is empty
    setup.redis.cli(&["FLUSHALL"]);
    drop(first);
    drop(bob);
    leaves(&mut watcher, "bob", "gw-1").await;
    setup.redis.cli(&["FLUSHALL"]);
    let mut carol = setup.enter(0, "carol").await;
    comes(&mut watcher, "carol", "gw-1").await;
    // and after they have
    setup.redis.cli(&["FLUSHALL"]);
    sleep(LEASE).await;
    drop(second);
    leaves(&mut watcher, "alice", "gw-2").await;
    setup
        .hears(&[
            ("watcher", "join"),
            ("alice", "join"),
            ("bob", "join"),
            ("bob", "leave"),
            ("carol", "join"),
            ("alice", "leave"),
        ])
        .await;
    comes(&mut carol, "carol", "gw-1").await;
    leaves(&mut carol, "alice", "gw-2").await;
    carol.silent().await;
    watcher.silent().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_redis_is_away_each_node_tells_its_own_clients_and_all_hear_the_rest_when_it_is_back() {
    let mut setup = Setup::start().await;
    let mut watcher = setup.enter(2, "watcher").await;
    comes(&mut watcher, "watcher", "gw-3").await;
    let mut near = setup.enter(0, "near").await;
    comes(&mut watcher, "near", "gw-1").await;
    comes(&mut near, "near", "gw-1").await;
    let both = setup.enter(0, "both").await;
    comes(&mut watcher, "both", "gw-1").await;
    comes(&mut near, "both", "gw-1").await;
    let _both_too = setup.enter(1, "both").await;
    setup.stands("both", ",gw-1,gw-2,").await;
    setup.redis.kill();
    let _late = setup.enter(0, "late").await;
    comes(&mut near, "late", "gw-1").await;
    drop(both);
    leaves(&mut near, "both", "gw-1").await;
    watcher.silent().await;
    setup.redis.again().await;
    comes(&mut watcher, "late", "gw-1").await;
    // its own clients knew that, and had not known that the other is elsewhere
    comes(&mut near, "both", "gw-1").await;
    setup.ready().await;
    let _last = setup.enter(1, "last").await;
    comes(&mut near, "last", "gw-2").await;
    comes(&mut watcher, "last", "gw-2").await;
    setup
        .hears(&[
            ("watcher", "join"),
            ("near", "join"),
            ("both", "join"),
            ("late", "join"),
            ("both", "leave"),
            ("both", "join"),
            ("last", "join"),
        ])
        .await;
}
