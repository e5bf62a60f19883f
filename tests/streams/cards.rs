//! The stream of a card: its mailbox.

use std::time::Duration;

use serde_json::json;

use super::rig::{store, store_all, store_with};
use crate::support::{client::Client, gateway::Node, stream::StreamClient};

#[tokio::test(flavor = "multi_thread")]
async fn a_stored_push_waits_for_a_card_that_is_away() {
    let node = Node::start(&[]).await;
    let ids = store_all(&node, "alice", &["1", "2", "3"]).await;
    let mut phone = StreamClient::join(&node.socket(), "alice", json!({"device": "phone"})).await;
    for (seq, id) in ids.iter().enumerate() {
        let push = phone.stored().await;
        assert_eq!((&push.id, push.seq, push.prev), (id, seq as u64 + 1, seq as u64));
    }
    assert_eq!(phone.waiting, Some(3));
    // and it comes at once to who is there, after it
    store(&node, "alice", "4").await;
    assert_eq!(phone.stored().await.content, "4");
    phone.silent().await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_was_there_before_the_first_stored_push_knows_where_it_is() {
    let node = Node::start(&[]).await;
    let mut phone = StreamClient::join(&node.socket(), "alice", json!({"device": "phone"})).await;
    store(&node, "alice", "1").await;
    let push = phone.stored().await;
    assert_eq!((push.seq, push.prev, push.content.as_str()), (1, 0, "1"));
    assert!(phone.place.epoch.is_some(), "it was not told the stream's epoch");
    let resume = phone.place.resume().unwrap();
    drop(phone);
    store(&node, "alice", "2").await;
    let mut phone = StreamClient::join(&node.socket(), "alice", json!({"device": "phone", "resume": resume})).await;
    assert_eq!(phone.stored().await.content, "2");
    assert_eq!(phone.resets, 0);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stored_push_comes_once_for_each_session_until_it_is_acknowledged() {
    let node = Node::start(&[]).await;
    store_all(&node, "alice", &["1", "2", "3"]).await;
    let device = || json!({"device": "phone"});
    for _ in 0..3 {
        let mut phone = StreamClient::join(&node.socket(), "alice", device()).await;
        assert_eq!(phone.contents(3).await, ["1", "2", "3"]);
        phone.silent().await;
    }
    let mut phone = StreamClient::join(&node.socket(), "alice", device()).await;
    assert_eq!(phone.contents(2).await, ["1", "2"]);
    phone.ack("alice").await;
    drop(phone);
    let mut phone = StreamClient::join(&node.socket(), "alice", device()).await;
    assert_eq!(phone.contents(1).await, ["3"]);
    phone.ack("alice").await;
    drop(phone);
    let mut phone = StreamClient::join(&node.socket(), "alice", device()).await;
    store(&node, "alice", "4").await;
    assert_eq!(phone.contents(1).await, ["4"]);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_devices_each_get_it_and_acknowledge_for_themselves() {
    let node = Node::start(&[]).await;
    store_all(&node, "alice", &["1", "2"]).await;
    let join = async |device: &str| StreamClient::join(&node.socket(), "alice", json!({"device": device})).await;
    let mut phone = join("phone").await;
    assert_eq!(phone.contents(2).await, ["1", "2"]);
    phone.ack("alice").await;
    let mut tablet = join("tablet").await;
    assert_eq!(tablet.contents(2).await, ["1", "2"]);
    drop((phone, tablet));
    let (mut phone, mut tablet) = (join("phone").await, join("tablet").await);
    store(&node, "alice", "3").await;
    assert_eq!(phone.contents(1).await, ["3"]);
    assert_eq!(tablet.contents(3).await, ["1", "2", "3"]);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resume_goes_before_what_the_device_acknowledged() {
    let node = Node::start(&[]).await;
    store_all(&node, "alice", &["1", "2", "3", "4"]).await;
    let mut phone = StreamClient::join(&node.socket(), "alice", json!({"device": "phone"})).await;
    assert_eq!(phone.contents(1).await, ["1"]);
    phone.ack("alice").await;
    assert_eq!(phone.contents(2).await, ["2", "3"]);
    let resume = phone.place.resume().unwrap();
    drop(phone);
    // it wrote "2" and "3" down, and could not acknowledge them any more
    let mut phone = StreamClient::join(&node.socket(), "alice", json!({"device": "phone", "resume": resume})).await;
    assert_eq!(phone.contents(1).await, ["4"]);
    assert_eq!(phone.resets, 0);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_of_another_epoch_or_of_the_future_is_told_so_and_nothing_is_left_out() {
    let node = Node::start(&[]).await;
    store_all(&node, "alice", &["1", "2"]).await;
    let mut phone = StreamClient::join(&node.socket(), "alice", json!({"device": "phone"})).await;
    phone.contents(1).await;
    phone.ack("alice").await;
    let epoch = phone.place.epoch.clone().unwrap();
    let id = phone.place.id.clone().unwrap();
    drop(phone);
    let other = if epoch == "0a1b2c3d" { "0a1b2c3e" } else { "0a1b2c3d" };
    for resume in [
        json!({"epoch": other, "seq": 2}),
        json!({"epoch": epoch, "seq": 77}),
        // another push stands at 2
        json!({"epoch": epoch, "seq": 2, "id": id}),
    ] {
        let data = json!({"device": "phone", "resume": resume});
        let mut phone = StreamClient::join(&node.socket(), "alice", data).await;
        let push = phone.any_stored().await;
        assert_eq!(phone.resets, 1, "{resume}");
        // what it had acknowledged may come again
        assert!(push.seq <= 2 && push.prev <= phone.place.seq, "{push:?}");
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_gopusher_s_client_took_is_acknowledged_by_its_pongs() {
    let node = Node::start(&[]).await;
    store_all(&node, "alice", &["1", "2", "3"]).await;
    let mut tab = Client::gopusher(&node.socket(), "alice", "web").await;
    for content in ["1", "2", "3"] {
        assert_eq!(tab.content().await, content);
    }
    // the Pongs leave with what is said next
    tab.silent().await;
    tab.silent().await;
    drop(tab);
    let mut tab = Client::gopusher(&node.socket(), "alice", "web").await;
    store(&node, "alice", "4").await;
    assert_eq!(tab.content().await, "4");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_dead_connection_was_sent_comes_again() {
    let node = Node::start(&[]).await;
    store_all(&node, "alice", &["1", "2", "3"]).await;
    // it answers no Ping, and is gone
    let tab = Client::gopusher(&node.socket(), "alice", "web").await;
    node.metric_reaches("oxipush_deliveries_total", &[], 3.0).await;
    drop(tab);
    let mut tab = Client::gopusher(&node.socket(), "alice", "web").await;
    for content in ["1", "2", "3"] {
        assert_eq!(tab.content().await, content);
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_app_begins_at_the_newest_push_and_a_new_device_at_the_oldest() {
    let node = Node::start(&[]).await;
    store_all(&node, "alice", &["1", "2"]).await;
    // the first reader of all gets everything, whoever it is
    let mut web = StreamClient::join(&node.socket(), "alice", json!({"app_id": "web"})).await;
    assert_eq!(web.contents(2).await, ["1", "2"]);
    let mut desk = StreamClient::join(&node.socket(), "alice", json!({"app_id": "desk"})).await;
    let mut phone = StreamClient::join(&node.socket(), "alice", json!({"app_id": "web", "device": "phone"})).await;
    assert_eq!(phone.contents(2).await, ["1", "2"]);
    store(&node, "alice", "3").await;
    for reader in [&mut web, &mut desk, &mut phone] {
        assert_eq!(reader.contents(1).await, ["3"]);
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_filter_makes_no_gap() {
    let node = Node::start(&[]).await;
    let phones = json!({"to": ["alice"], "appID": "phone"});
    for (content, more) in [
        ("1", json!({"to": ["alice"]})),
        ("2", phones.clone()),
        ("3", phones.clone()),
        ("4", json!({"to": ["alice"]})),
        ("5", phones.clone()),
    ] {
        store_with(&node, content, more).await;
    }
    let join =
        async |app: &str| StreamClient::join(&node.socket(), "alice", json!({"device": app, "app_id": app})).await;
    let (mut web, mut phone) = (join("web").await, join("phone").await);
    // what comes late, and what comes at once: `stored` finds a gap by `prev`
    assert_eq!(web.contents(2).await, ["1", "4"]);
    assert_eq!(phone.contents(5).await, ["1", "2", "3", "4", "5"]);
    store_with(&node, "6", phones).await;
    store(&node, "alice", "7").await;
    assert_eq!(web.contents(1).await, ["7"]);
    assert_eq!(phone.contents(2).await, ["6", "7"]);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stored_pushes_are_in_order_over_many_reconnects() {
    const PUSHES: usize = 300;
    let node = Node::start(&[("STORE__PAGE_ENTRIES", "7")]).await;
    let pushing = async {
        for number in 0..PUSHES {
            store(&node, "alice", &number.to_string()).await;
        }
    };
    let reading = async {
        let mut got = Vec::new();
        while got.len() < PUSHES {
            let mut phone = StreamClient::join(&node.socket(), "alice", json!({"device": "phone"})).await;
            for _ in 0..fastrand::usize(1..40).min(PUSHES - got.len()) {
                got.push(phone.stored().await.content.parse::<usize>().unwrap());
            }
            phone.ack("alice").await;
        }
        got
    };
    let ((), got) = tokio::join!(pushing, reading);
    assert_eq!(got, (0..PUSHES).collect::<Vec<_>>());
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_never_reads_falls_behind_and_catches_up_without_loss() {
    const PUSHES: usize = 150;
    let settings = [
        ("PUSH__MAX_CONTENT", "32KiB"),
        ("OUTBOX__MAX_BYTES", "64KiB"),
        ("STORE__MAX_STREAM_BYTES", "64MiB"),
        // a machine that does other things too takes its time; the kernel must not give the connection up meanwhile
        ("SOCKET__USER_TIMEOUT", "2m"),
    ];
    let node = Node::start(&settings).await;
    let mut frozen = Client::narrow(&node.socket(), "alice").await;
    let mut phone = StreamClient::join(&node.socket(), "alice", json!({"device": "phone"})).await;
    let content = |number: usize| format!("{number} {}", "x".repeat(30_000));
    for number in 0..PUSHES {
        store(&node, "alice", &content(number)).await;
        // a neighbour waits for nobody
        assert_eq!(phone.stored().await.content, content(number));
    }
    // it was not sent away, and gets all of it once it reads
    for number in 0..PUSHES {
        assert_eq!(frozen.content().await, content(number));
    }
    store(&node, "alice", "and what follows").await;
    assert_eq!(frozen.content().await, "and what follows");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_push_of_a_collapse_key_replaces_one_that_waits() {
    let node = Node::start(&[]).await;
    let score = json!({"to": ["alice"], "collapse_key": "score"});
    for (content, more) in [
        ("0:0", score.clone()),
        ("hello", json!({"to": ["alice"]})),
        ("1:0", score.clone()),
        ("bob's", json!({"to": ["bob"], "collapse_key": "score"})),
        ("2:0", score.clone()),
    ] {
        store_with(&node, content, more).await;
    }
    let mut phone = StreamClient::join(&node.socket(), "alice", json!({"device": "phone"})).await;
    assert_eq!(phone.contents(2).await, ["hello", "2:0"]);
    phone.silent().await;
    // who is there gets each of them
    store_with(&node, "3:0", score.clone()).await;
    store_with(&node, "4:0", score).await;
    assert_eq!(phone.contents(2).await, ["3:0", "4:0"]);
    let mut bob = StreamClient::join(&node.socket(), "bob", json!({"device": "phone"})).await;
    assert_eq!(bob.contents(1).await, ["bob's"]);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_whose_ttl_ended_leaves_for_nobody_and_the_others_come() {
    let node = Node::start(&[]).await;
    let short = json!({"to": ["alice"], "ttl": 1});
    for (content, more) in [("old", short.clone()), ("1", json!({"to": ["alice"]})), ("older", short)] {
        store_with(&node, content, more).await;
    }
    tokio::time::sleep(Duration::from_millis(1200)).await;
    let mut phone = StreamClient::join(&node.socket(), "alice", json!({"device": "phone"})).await;
    assert_eq!(phone.contents(1).await, ["1"]);
    store(&node, "alice", "2").await;
    assert_eq!(phone.contents(1).await, ["2"]);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_to_several_cards_is_in_the_stream_of_each() {
    let node = Node::start(&[]).await;
    store(&node, "bob", "bob's own").await;
    let id = store_with(&node, "to both", json!({"to": ["alice", "bob", "alice"]})).await;
    let mut alice = StreamClient::join(&node.socket(), "alice", json!({"device": "phone"})).await;
    let mut bob = StreamClient::join(&node.socket(), "bob", json!({"device": "phone"})).await;
    let push = alice.stored().await;
    assert_eq!((push.id.as_str(), push.seq), (id.as_str(), 1));
    assert_eq!(bob.contents(1).await, ["bob's own"]);
    let push = bob.stored().await;
    assert_eq!((push.id.as_str(), push.seq), (id.as_str(), 2));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn live_pushes_come_between_the_stored_ones_and_are_not_kept() {
    let node = Node::start(&[]).await;
    let mut phone = StreamClient::join(&node.socket(), "alice", json!({"device": "phone"})).await;
    store(&node, "alice", "1").await;
    assert_eq!(phone.contents(1).await, ["1"]);
    node.push(&["alice"], "live").await;
    let live = phone.hear().await;
    assert_eq!((&live["data"]["content"], &live["data"]["seq"]), (&json!("live"), &json!(null)), "{live}");
    store(&node, "alice", "2").await;
    assert_eq!(phone.contents(1).await, ["2"]);
    drop(phone);
    let mut phone = StreamClient::join(&node.socket(), "alice", json!({"device": "phone"})).await;
    assert_eq!(phone.contents(2).await, ["1", "2"]);
    phone.silent().await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_card_that_is_left_brings_nothing_any_more() {
    let settings = [
        ("STORE__PAGE_ENTRIES", "1"),
        ("PUSH__MAX_CONTENT", "32KiB"),
        ("OUTBOX__MAX_BYTES", "64KiB"),
        ("STORE__MAX_STREAM_BYTES", "64MiB"),
    ];
    let node = Node::start(&settings).await;
    for _ in 0..200 {
        store(&node, "alice", &"x".repeat(30_000)).await;
    }
    let mut phone = StreamClient::join(&node.socket(), "alice", json!({"device": "phone"})).await;
    phone.stored().await;
    phone.client.say(json!({"event": "leave", "data": {"card_id": "alice"}})).await;
    let mut before = 0;
    while phone.hear().await["event"] != "left" {
        before += 1;
    }
    assert!(before < 199, "all of it came");
    phone.silent().await;
    store(&node, "alice", "to nobody").await;
    phone.ask("join", "joined", json!({"card_id": "bob"})).await;
    store(&node, "bob", "to bob").await;
    let heard = phone.hear().await;
    assert_eq!(heard["data"]["content"], "to bob", "{heard}");
    node.stop().await;
}
