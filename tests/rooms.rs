//! Rooms, several cards, presence, and what clients push themselves, through a node's public sockets.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use serde_json::{Value, json};
use support::{
    client::Client,
    gateway::Node,
    token::{SECRET, now, token},
};

/// Says something, and gives the answer.
async fn ask(client: &mut Client, event: &str, data: Value) -> Value {
    client.say(json!({"event": event, "data": data})).await;
    client.hear().await
}

async fn subscribe(client: &mut Client, room: &str) {
    let answer = ask(client, "subscribe", json!({"room": room})).await;
    assert_eq!((&answer["event"], &answer["data"]["room"]), (&json!("subscribed"), &json!(room)), "{answer}");
}

async fn push(node: &Node, body: Value) {
    let (status, answer) = node.post("/push", body).await;
    assert_eq!(status, 200, "{answer}");
}

/// The code of the error that a client is told.
async fn error(client: &mut Client, event: &str, data: Value) -> String {
    let answer = ask(client, event, data).await;
    assert_eq!(answer["event"], "error", "{answer}");
    answer["data"]["code"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_several_cards_gets_the_pushes_of_each_and_one_for_several_of_them_once() {
    let node = Node::start(&[]).await;
    for modern in [true, false] {
        let mut client = Client::connect(&node.socket(), modern).await;
        for card in ["alice", "team-1", "team-2"] {
            client.join(card, "").await;
        }
        for (to, content) in [
            (json!(["alice"]), "to alice"),
            (json!(["team-1"]), "to a team"),
            (json!(["team-2", "alice", "team-1", "bob"]), "to all of them"),
            (json!(["team-2"]), "to the other team"),
        ] {
            push(&node, json!({"to": to, "content": content})).await;
            assert_eq!(client.content().await, content);
        }
        client.silent().await;
        // out of one card, it is still in the others
        client.say(json!({"event": "leave", "data": {"card_id": "team-1"}})).await;
        let left = client.hear().await;
        if modern {
            assert_eq!(left, json!({"event": "left", "data": {"card_id": "team-1"}}));
        }
        push(&node, json!({"to": ["team-1"], "content": "to nobody"})).await;
        push(&node, json!({"to": ["team-1", "team-2"], "content": "to one"})).await;
        assert_eq!(client.content().await, "to one");
        client.say(json!({"event": "leave"})).await;
        client.hear().await;
        push(&node, json!({"to": ["alice", "team-2"], "content": "to nobody"})).await;
        client.silent().await;
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_joins_no_more_cards_and_rooms_than_the_limits_and_stays() {
    let node = Node::start(&[("SOCKET__MAX_CARDS", "2"), ("ROOMS__MAX_ROOMS", "2")]).await;
    let mut client = Client::modern(&node.socket(), "alice", "").await;
    client.join("bob", "").await;
    // again is no more
    client.join("bob", "phone").await;
    assert_eq!(error(&mut client, "join", json!({"card_id": "carol"})).await, "too_many_cards");
    subscribe(&mut client, "a").await;
    subscribe(&mut client, "b").await;
    subscribe(&mut client, "b").await;
    assert_eq!(error(&mut client, "subscribe", json!({"room": "c"})).await, "too_many_rooms");
    let answer = ask(&mut client, "unsubscribe", json!({"room": "a"})).await;
    assert_eq!(answer, json!({"event": "unsubscribed", "data": {"room": "a"}}));
    subscribe(&mut client, "c").await;
    assert_eq!(error(&mut client, "unsubscribe", json!({"room": "a"})).await, "not_subscribed");
    assert_eq!(error(&mut client, "subscribe", json!({"room": ""})).await, "bad_name");
    push(&node, json!({"room": "c", "content": "still here"})).await;
    assert_eq!(client.content().await, "still here");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_room_is_for_who_joined_a_card_and_its_pushes_name_it() {
    let node = Node::start(&[]).await;
    let mut client = Client::connect(&node.socket(), true).await;
    assert_eq!(error(&mut client, "subscribe", json!({"room": "live"})).await, "not_joined");
    client.join("alice", "web").await;
    subscribe(&mut client, "live").await;
    let mut old = Client::gopusher(&node.socket(), "bob", "web").await;
    old.say(json!({"event": "subscribe", "data": {"room": "live"}})).await;
    assert_eq!(old.hear().await, json!({"type": 1, "data": "ok"}));
    push(&node, json!({"room": "live", "content": {"n": 1}})).await;
    let got = client.hear().await;
    assert_eq!((&got["data"]["room"], &got["data"]["content"]), (&json!("live"), &json!({"n": 1})));
    assert_eq!(old.content().await, r#"{"n":1}"#);
    // with an app, with cards, and but for one client
    push(&node, json!({"room": "live", "to": ["bob"], "content": "to bob"})).await;
    assert_eq!(old.content().await, "to bob");
    push(&node, json!({"room": "live", "appID": "phone", "content": "to nobody"})).await;
    push(&node, json!({"room": "live", "exclude": {"cards": ["bob"]}, "content": "but bob"})).await;
    assert_eq!(client.content().await, "but bob");
    client.silent().await;
    old.silent().await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_private_room_is_for_whose_identity_has_it_and_ends_with_that() {
    let node = Node::start(&[("TOKEN__SECRET", SECRET), ("ROOMS__PRIVATE", "staff-*")]).await;
    let of = |rooms: Value| token(json!({"sub": "alice", "rooms": rooms, "exp": now() + 60}));
    let mut client = Client::connect(&node.socket(), true).await;
    let joined = ask(&mut client, "join", json!({"token": of(json!(["staff-1"]))})).await;
    assert_eq!(joined["event"], "joined", "{joined}");
    subscribe(&mut client, "open").await;
    subscribe(&mut client, "staff-1").await;
    assert_eq!(error(&mut client, "subscribe", json!({"room": "staff-2"})).await, "wrong_room");
    push(&node, json!({"room": "staff-1", "content": "secret"})).await;
    assert_eq!(client.content().await, "secret");
    // a new token without the room takes it away
    let left = ask(&mut client, "refresh", json!({"token": of(json!([]))})).await;
    assert_eq!(left, json!({"event": "unsubscribed", "data": {"room": "staff-1"}}));
    assert_eq!(client.hear().await["event"], "refreshed");
    push(&node, json!({"room": "staff-1", "content": "to nobody"})).await;
    push(&node, json!({"room": "open", "content": "to all"})).await;
    assert_eq!(client.content().await, "to all");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_room_with_presence_tells_of_a_card_once_however_many_tabs_it_has() {
    let node = Node::start(&[("ROOMS__PRESENCE", "chat-*"), ("NODE__ID", "n1")]).await;
    let mut watcher = Client::modern(&node.socket(), "watcher", "").await;
    let answer = ask(&mut watcher, "subscribe", json!({"room": "chat-1"})).await;
    assert_eq!(answer["data"]["presence"], json!({"node": "n1", "count": 1, "cards": ["watcher"]}));
    let told = |card: &str, action: &str| {
        let data = json!({"room": "chat-1", "card_id": card, "action": action, "node": "n1"});
        json!({"event": "presence", "data": data})
    };
    assert_eq!(watcher.hear().await, told("watcher", "join"));
    let mut one = Client::modern(&node.socket(), "alice", "").await;
    let mut two = Client::modern(&node.socket(), "alice", "").await;
    ask(&mut one, "subscribe", json!({"room": "chat-1"})).await;
    assert_eq!(watcher.hear().await, told("alice", "join"));
    let answer = ask(&mut two, "subscribe", json!({"room": "chat-1"})).await;
    assert_eq!(answer["data"]["presence"]["count"], 2);
    // rooms without presence tell nothing
    subscribe(&mut watcher, "other").await;
    drop(one);
    // another card of a client that is in the room already
    two.say(json!({"event": "join", "data": {"card_id": "team"}})).await;
    assert_eq!(watcher.hear().await, told("team", "join"));
    drop(two);
    let mut left = [watcher.hear().await, watcher.hear().await];
    left.sort_by_key(|event| event["data"]["card_id"].to_string());
    assert_eq!(left, [told("alice", "leave"), told("team", "leave")]);
    watcher.silent().await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_pushes_where_its_room_or_its_identity_lets_it_and_hears_of_it() {
    let node =
        Node::start(&[("TOKEN__SECRET", SECRET), ("SOCKET__ANONYMOUS", "true"), ("ROOMS__CLIENT_PUSH", "chat-*")])
            .await;
    let mut alice = Client::modern(&node.socket(), "alice", "").await;
    let mut bob = Client::modern(&node.socket(), "bob", "").await;
    subscribe(&mut alice, "chat-1").await;
    subscribe(&mut bob, "chat-1").await;
    let pushed = ask(&mut alice, "push", json!({"room": "chat-1", "content": {"say": "hi"}, "ref": 7})).await;
    assert_eq!((&pushed["event"], &pushed["data"]["ref"]), (&json!("pushed"), &json!(7)), "{pushed}");
    let got = bob.hear().await;
    assert_eq!((&got["data"]["from"], &got["data"]["content"]), (&json!("alice"), &json!({"say": "hi"})));
    assert_eq!(got["data"]["id"], pushed["data"]["id"]);
    // not to itself, unless it asks
    alice.silent().await;
    alice.say(json!({"event": "push", "data": {"room": "chat-1", "content": "echo", "echo": true}})).await;
    let mut heard = [alice.hear().await, alice.hear().await];
    heard.sort_by_key(|event| event["event"].to_string());
    assert_eq!((&heard[0]["data"]["content"], &heard[1]["event"]), (&json!("echo"), &json!("pushed")));
    assert_eq!(bob.content().await, "echo");
    // nowhere else
    for data in [
        json!({"room": "chat-2", "content": "x"}),
        json!({"room": "news", "content": "x"}),
        json!({"to": ["bob"], "content": "x"}),
    ] {
        assert_eq!(error(&mut alice, "push", data.clone()).await, "not_pushed", "{data}");
    }
    assert_eq!(error(&mut alice, "push", json!({"content": "x"})).await, "bad_name");
    assert_eq!(error(&mut alice, "push", json!({"room": "chat-1", "content": null})).await, "bad_content");
    // an identity opens cards
    let claims = json!({"sub": "carol", "push": ["bo*"], "exp": now() + 60});
    let mut carol = Client::connect(&node.socket(), true).await;
    assert_eq!(ask(&mut carol, "join", json!({"token": token(claims.clone())})).await["event"], "joined");
    assert_eq!(ask(&mut carol, "push", json!({"to": ["bob"], "content": "dear bob"})).await["event"], "pushed");
    assert_eq!(bob.content().await, "dear bob");
    assert_eq!(error(&mut carol, "push", json!({"to": ["bob", "alice"], "content": "x"})).await, "not_pushed");
    let accepted = [("source", "client"), ("outcome", "accepted")];
    assert_eq!(node.metric("oxipush_pushes_total", &accepted).await, 3.0);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_for_everyone_is_for_who_joined_or_needs_no_card() {
    let node = Node::start(&[]).await;
    let mut alice = Client::modern(&node.socket(), "alice", "").await;
    let mut bob = Client::gopusher(&node.socket(), "bob", "").await;
    let mut nobody = Client::connect(&node.socket(), true).await;
    push(&node, json!({"everyone": true, "content": "to all"})).await;
    assert_eq!(alice.content().await, "to all");
    assert_eq!(bob.content().await, "to all");
    nobody.silent().await;
    node.stop().await;
}
