//! What outlasts a process that is killed.

use std::time::Duration;

use futures_util::{StreamExt, stream};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::rig::{post, with};
use crate::support::{
    http,
    process::{Process, free},
    stream::StreamClient,
};

/// A gateway that is killed and started again on the same folder and addresses.
struct Mortal {
    dir: TempDir,
    at: [std::net::SocketAddr; 3],
    process: Process,
}

impl Mortal {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = [free(), free(), free()];
        let process = Self::spawn(&dir, at);
        let mut mortal = Self { dir, at, process };
        assert!(mortal.process.ready().await);
        mortal
    }

    fn spawn(dir: &TempDir, at: [std::net::SocketAddr; 3]) -> Process {
        Process::spawn_at(&[("DATA__DIR", dir.path().to_str().unwrap()), ("QUEUE__REPLAY_HOLD", "0s")], at)
    }

    async fn kill_and_start(&mut self) {
        self.process.kill();
        self.process = Self::spawn(&self.dir, self.at);
        assert!(self.process.ready().await, "it must start on what the killed one left");
    }

    async fn push(&self, content: &str, more: Value) -> String {
        let body = with(json!({"content": content}), more);
        let (status, answer) = post(&self.process.url("/push"), &body).await.unwrap();
        assert_eq!(status, 200, "{answer}");
        answer["id"].as_str().unwrap().to_owned()
    }

    async fn store(&self, card: &str, content: &str) -> String {
        self.push(content, json!({"to": [card], "offline": true})).await
    }

    async fn join(&self, card: &str, more: Value) -> StreamClient {
        StreamClient::join(&self.process.ws(), card, with(json!({"device": "phone"}), more)).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stored_push_survives_a_sigkill() {
    let mut gateway = Mortal::start().await;
    for number in 0..50 {
        gateway.store("alice", &number.to_string()).await;
    }
    let mut phone = gateway.join("alice", json!({})).await;
    phone.contents(10).await;
    let place = phone.place.clone();
    gateway.kill_and_start().await;
    // to whom knows where it is, and to whom does not
    let mut phone = gateway.join("alice", json!({"resume": place.resume()})).await;
    let rest: Vec<_> = (10..50).map(|number| number.to_string()).collect();
    assert_eq!(phone.contents(40).await, rest);
    assert_eq!(phone.resets, 0);
    assert_eq!(phone.place.epoch, place.epoch);
    let mut tablet = gateway.join("alice", json!({"device": "tablet"})).await;
    let all: Vec<_> = (0..50).map(|number| number.to_string()).collect();
    assert_eq!(tablet.contents(50).await, all);
    // the numbers go on
    gateway.store("alice", "50").await;
    assert_eq!(phone.stored().await.seq, 51);
    assert_eq!(tablet.stored().await.seq, 51);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_room_s_history_survives_a_sigkill() {
    let mut gateway = Mortal::start().await;
    let room = json!({"room": "news", "offline": true});
    gateway.push("1", room.clone()).await;
    let reader = StreamClient::subscribe(&gateway.process.ws(), "alice", "news", json!({})).await;
    let resume = reader.place.resume().unwrap();
    gateway.push("2", room.clone()).await;
    gateway.kill_and_start().await;
    gateway.push("3", room).await;
    let data = json!({"resume": resume});
    let mut reader = StreamClient::subscribe(&gateway.process.ws(), "alice", "news", data).await;
    assert_eq!(reader.contents(2).await, ["2", "3"]);
    assert_eq!(reader.resets, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_does_not_come_again_after_a_sigkill() {
    let mut gateway = Mortal::start().await;
    for content in ["1", "2", "3"] {
        gateway.store("alice", content).await;
    }
    let mut phone = gateway.join("alice", json!({})).await;
    phone.contents(2).await;
    phone.ack("alice").await;
    // what the store takes from then on is written behind it
    gateway.store("bob", "hello").await;
    gateway.kill_and_start().await;
    let mut phone = gateway.join("alice", json!({})).await;
    assert_eq!(phone.contents(1).await, ["3"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_after_a_sigkill_has_the_same_id_and_is_delivered_once() {
    let mut gateway = Mortal::start().await;
    let stored = json!({"to": ["alice"], "offline": true, "idempotency_key": "stored"});
    let live = json!({"to": ["alice"], "idempotency_key": "live"});
    let stored_id = gateway.push("stored", stored.clone()).await;
    let live_id = gateway.push("live", live.clone()).await;
    gateway.kill_and_start().await;
    for _ in 0..2 {
        assert_eq!(gateway.push("stored", stored.clone()).await, stored_id);
        assert_eq!(gateway.push("live", live.clone()).await, live_id);
    }
    let other = with(json!({"content": "another"}), stored.clone());
    assert_eq!(post(&gateway.process.url("/push"), &other).await.unwrap().0, 409);
    let mut phone = gateway.join("alice", json!({})).await;
    let push = phone.stored().await;
    assert_eq!((push.id, push.content.as_str()), (stored_id, "stored"));
    gateway.store("alice", "end").await;
    assert_eq!(phone.contents(1).await, ["end"]);
}

/// A retry of a request whose process was killed on the way is one push in the end, for each of many cards.
#[tokio::test(flavor = "multi_thread")]
async fn a_push_to_1000_cards_is_in_all_streams_or_in_none_over_a_sigkill() {
    const CARDS: usize = 1000;
    let mut gateway = Mortal::start().await;
    let cards: Vec<_> = (0..CARDS).map(|card| format!("card-{card}")).collect();
    let mut expected = 0;
    for round in 0..6_u64 {
        let content = format!("round {round}");
        let body = json!({"to": cards, "content": content, "offline": true, "idempotency_key": format!("key-{round}")});
        let url = gateway.process.url("/push");
        let sending = tokio::spawn({
            let body = body.clone();
            async move { post(&url, &body).await }
        });
        // before, in, and after its write
        tokio::time::sleep(Duration::from_millis(fastrand::u64(0..20 * (round + 1)))).await;
        gateway.kill_and_start().await;
        let answered = sending.await.unwrap().is_some_and(|(status, _)| status == 200);
        let client = http::client();
        let asked = cards.iter().map(|card| head(&client, &gateway, card));
        let mut heads: Vec<_> = stream::iter(asked).buffered(16).collect().await;
        heads.dedup();
        assert_eq!(heads.len(), 1, "round {round}: some cards have it, others have not: {heads:?}");
        let is_stored = heads[0] == expected + 1;
        assert!(is_stored || heads[0] == expected, "round {round}: {} after {expected}", heads[0]);
        assert!(is_stored || !answered, "round {round}: it was accepted and is lost");
        // the retry makes it one push, whatever was there
        let (status, answer) = post(&gateway.process.url("/push"), &body).await.unwrap();
        assert_eq!(status, 200, "{answer}");
        expected += 1;
        for card in ["card-0", "card-500", "card-999"] {
            assert_eq!(head(&client, &gateway, card).await, expected, "round {round}, {card}");
        }
    }
    let mut last = gateway.join("card-999", json!({})).await;
    let contents: Vec<_> = (0..6).map(|round| format!("round {round}")).collect();
    assert_eq!(last.contents(6).await, contents);
}

/// The newest seq of a card's stream; 0: it has none.
async fn head(client: &reqwest::Client, gateway: &Mortal, card: &str) -> u64 {
    let answer = client.get(gateway.process.url(&format!("/cards/{card}/stream"))).send().await.unwrap();
    match answer.status().as_u16() {
        404 => 0,
        200 => answer.json::<Value>().await.unwrap()["head"].as_u64().unwrap(),
        status => panic!("status {status}"),
    }
}
