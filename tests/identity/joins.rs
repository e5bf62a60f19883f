//! Clients prove who they are, and get what is theirs and nothing else.

use std::time::Duration;

use crate::support::{
    client::{Client, PATIENCE},
    gateway::Node,
    redis::RedisServer,
    token::{SECRET, now, token},
};
use futures_util::StreamExt;
use serde_json::{Value, json};
use tokio_tungstenite::{
    connect_async,
    tungstenite::{Error, Message, client::IntoClientRequest},
};

/// A gateway that verifies tokens, with further settings.
async fn node(more: &[(&str, &str)]) -> Node {
    let settings = [&[("TOKEN__SECRET", SECRET)], more].concat();
    Node::start(&settings).await
}

/// A connection whose handshake has these headers.
async fn connect(url: &str, headers: &[(&'static str, String)]) -> Result<Client, (u16, String)> {
    let mut request = url.into_client_request().unwrap();
    for (name, value) in headers {
        request.headers_mut().append(*name, value.parse().unwrap());
    }
    let is_modern = headers.iter().any(|(_, value)| value.contains("oxipush.v1"));
    match connect_async(request).await {
        Ok((socket, _)) => Ok(Client::of(socket, is_modern)),
        Err(Error::Http(answer)) => {
            let body = answer.body().as_deref().map(String::from_utf8_lossy).unwrap_or_default().into_owned();
            Err((answer.status().as_u16(), body))
        }
        Err(error) => panic!("{error}"),
    }
}

/// What a join is answered with.
async fn joined(client: &mut Client, data: Value) -> Value {
    client.say(json!({"event": "join", "data": data})).await;
    client.hear().await
}

/// How the connection ends: the close code and the reason.
async fn close(client: &mut Client) -> (u16, String) {
    loop {
        match tokio::time::timeout(PATIENCE, client.socket.next()).await.expect("an end").expect("a close frame") {
            Ok(Message::Close(Some(frame))) => return (frame.code.into(), frame.reason.to_string()),
            Ok(_) => {}
            Err(error) => panic!("no close frame: {error}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_may_stand_in_each_of_its_places_and_gets_what_is_for_its_card() {
    let node = node(&[("TOKEN__COOKIE", "session"), ("SOCKET__ALLOWED_ORIGINS", "https://example.org")]).await;
    let mayun = token(json!({"sub": "mayun", "app": "web"}));
    let v1 = || ("sec-websocket-protocol", "oxipush.v1".to_owned());
    let origin = || ("origin", "https://example.org".to_owned());
    let with_query = format!("{}?token={mayun}", node.socket());
    let mut clients = vec![
        connect(&with_query, &[v1()]).await.unwrap(),
        connect(&node.socket(), &[v1(), ("authorization", format!("Bearer {mayun}"))]).await.unwrap(),
        connect(&node.socket(), &[("sec-websocket-protocol", format!("oxipush.v1, bearer.{mayun}"))]).await.unwrap(),
        connect(&node.socket(), &[v1(), origin(), ("cookie", format!("a=b; session={mayun}"))]).await.unwrap(),
    ];
    for client in &mut clients {
        let answer = joined(client, json!({})).await;
        assert_eq!((&answer["event"], &answer["data"]["card_id"]), (&json!("joined"), &json!("mayun")), "{answer}");
        assert_eq!(answer["data"]["app_id"], "web");
        let expires_in = answer["data"]["expires_in"].as_u64().unwrap();
        assert!((3500..=3700).contains(&expires_in), "{answer}");
        assert_eq!(answer["data"]["client"].as_str().unwrap().len(), 26);
    }
    let mut of_join = Client::connect(&node.socket(), true).await;
    assert_eq!(joined(&mut of_join, json!({"token": mayun, "card_id": "mayun"})).await["event"], "joined");
    clients.push(of_join);
    // gopusher's clients as well, whose first answer is ok
    let mut gopusher = connect(&with_query, &[]).await.unwrap();
    assert_eq!(joined(&mut gopusher, json!({"card_id": "mayun"})).await, json!({"type": 1, "data": "ok"}));
    let mut in_join = Client::connect(&node.socket(), false).await;
    assert_eq!(joined(&mut in_join, json!({"token": mayun})).await, json!({"type": 1, "data": "ok"}));

    node.push(&["mayun"], "hello").await;
    for client in &mut clients {
        assert_eq!(client.hear().await["data"]["content"], "hello");
    }
    for client in [&mut gopusher, &mut in_join] {
        assert_eq!(client.hear().await, json!({"type": 1, "data": "hello"}));
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_another_origin_gets_nothing_with_the_users_cookie() {
    let node = node(&[("TOKEN__COOKIE", "session"), ("SOCKET__ALLOWED_ORIGINS", "https://example.org")]).await;
    let cookie = ("cookie", format!("session={}", token(json!({"sub": "mayun"}))));
    let (status, text) =
        connect(&node.socket(), &[("origin", "https://evil.example".into()), cookie]).await.err().unwrap();
    assert_eq!(status, 403, "{text}");
    assert_eq!(node.metric("oxipush_refused_connects_total", &[("reason", "origin")]).await, 1.0);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_proves_nothing_gets_nothing_in_either_dialect() {
    let node = node(&[]).await;
    let expired = token(json!({"sub": "mayun", "exp": now() - 3600}));
    let early = token(json!({"sub": "mayun", "nbf": now() + 3600}));
    let mayun = token(json!({"sub": "mayun", "app": "web", "cards": ["family", "team-*"]}));
    for (data, word, code) in [
        (json!({"card_id": "mayun"}), "no_token", 3502),
        (json!({"card_id": "mayun", "token": ""}), "no_token", 3502),
        (json!({"card_id": "mayun", "token": "a.b.c"}), "bad_token", 3502),
        (json!({"card_id": "mayun", "token": expired}), "token_expired", 3004),
        (json!({"card_id": "mayun", "token": early}), "token_not_yet", 3502),
        (json!({"card_id": "jack", "token": mayun}), "wrong_card", 3502),
        (json!({"card_id": "team", "token": mayun}), "wrong_card", 3502),
        (json!({"card_id": "mayun", "app_id": "ios", "token": mayun}), "wrong_app", 3502),
    ] {
        let mut v1 = Client::connect(&node.socket(), true).await;
        let answer = joined(&mut v1, data.clone()).await;
        assert_eq!((&answer["event"], &answer["data"]["code"]), (&json!("error"), &json!(word)), "{data} {answer}");
        // it may try again, with something better
        assert_eq!(joined(&mut v1, json!({"card_id": "team-7", "token": mayun})).await["event"], "joined");
        let mut gopusher = Client::connect(&node.socket(), false).await;
        gopusher.say(json!({"event": "join", "data": data})).await;
        assert_eq!(close(&mut gopusher).await.0, code, "{data}");
        assert_eq!(node.metric("oxipush_client_errors_total", &[("error", word)]).await.rem_euclid(2.0), 0.0);
    }
    // no pushes for whom it did not become
    let mut tab = Client::connect(&node.socket(), true).await;
    assert_eq!(joined(&mut tab, json!({"token": mayun})).await["data"]["card_id"], "mayun");
    node.push(&["jack"], "for jack").await;
    node.push(&["mayun"], "for mayun").await;
    assert_eq!(tab.hear().await["data"]["content"], "for mayun");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_in_two_places_that_differ_are_refused() {
    let node = node(&[]).await;
    let one = token(json!({"sub": "one"}));
    let other = token(json!({"sub": "other"}));
    let with_query = format!("{}?token={one}", node.socket());
    let (status, text) = connect(&with_query, &[("authorization", format!("Bearer {other}"))]).await.err().unwrap();
    assert_eq!(status, 400, "{text}");
    assert_eq!(node.metric("oxipush_refused_connects_total", &[("reason", "tokens_differ")]).await, 1.0);
    let mut client = connect(&with_query, &[("sec-websocket-protocol", "oxipush.v1".into())]).await.unwrap();
    assert_eq!(joined(&mut client, json!({"token": other})).await["data"]["code"], "tokens_differ");
    assert_eq!(joined(&mut client, json!({"token": one})).await["data"]["card_id"], "one");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_ends_with_its_token_unless_it_brings_a_new_one() {
    let node = node(&[("TOKEN__LEEWAY", "0s")]).await;
    let short = || token(json!({"sub": "mayun", "exp": now() + 3}));
    let mut stays = Client::connect(&node.socket(), true).await;
    let mut rejoins = Client::connect(&node.socket(), false).await;
    let mut ends = Client::connect(&node.socket(), true).await;
    let mut gopusher = Client::connect(&node.socket(), false).await;
    for client in [&mut stays, &mut rejoins, &mut ends, &mut gopusher] {
        client.say(json!({"event": "join", "data": {"token": short()}})).await;
        client.hear().await;
    }
    // a new token must be good, and for the same card
    stays.say(json!({"event": "refresh", "data": {"token": "rubbish"}})).await;
    assert_eq!(stays.hear().await["data"]["code"], "bad_token");
    stays.say(json!({"event": "refresh", "data": {"token": token(json!({"sub": "jack"}))}})).await;
    assert_eq!(stays.hear().await["data"]["code"], "wrong_card");
    stays.say(json!({"event": "refresh", "data": {"token": token(json!({"sub": "mayun"}))}})).await;
    let refreshed = stays.hear().await;
    assert_eq!(refreshed["event"], "refreshed");
    assert!(refreshed["data"]["expires_in"].as_u64().unwrap() > 3000, "{refreshed}");
    rejoins.say(json!({"event": "join", "data": {"token": token(json!({"sub": "mayun"}))}})).await;
    rejoins.hear().await;

    for client in [&mut ends, &mut gopusher] {
        assert_eq!(close(client).await.0, 3004);
    }
    node.push(&["mayun"], "still here").await;
    assert_eq!(stays.hear().await["data"]["content"], "still here");
    assert_eq!(rejoins.hear().await["data"], "still here");
    node.metric_reaches("oxipush_closes_total", &[("code", "3004")], 2.0).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_moves_among_the_cards_of_its_token_without_showing_it_again() {
    let node = node(&[]).await;
    let mut client = Client::connect(&node.socket(), true).await;
    let mayun = token(json!({"sub": "mayun", "cards": "team-*"}));
    assert_eq!(joined(&mut client, json!({"token": mayun})).await["data"]["card_id"], "mayun");
    assert_eq!(joined(&mut client, json!({"card_id": "team-1"})).await["data"]["card_id"], "team-1");
    assert_eq!(joined(&mut client, json!({"card_id": "jack"})).await["data"]["code"], "wrong_card");
    node.push(&["team-1"], "team").await;
    assert_eq!(client.hear().await["data"]["content"], "team");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_anonymous_who_brings_no_token_joins_as_before_and_a_bad_one_is_refused_all_the_same() {
    let node = node(&[("SOCKET__ANONYMOUS", "true")]).await;
    let mut anonymous = Client::modern(&node.socket(), "anyone", "").await;
    let mut bad = Client::connect(&node.socket(), true).await;
    assert_eq!(joined(&mut bad, json!({"card_id": "x", "token": "rubbish"})).await["data"]["code"], "bad_token");
    anonymous.say(json!({"event": "ping"})).await;
    assert_eq!(anonymous.hear().await["event"], "pong");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_is_open_by_default_refuses_whom_a_proxy_brings() {
    let open = Node::start(&[]).await;
    for header in [("x-forwarded-for", "1.2.3.4".to_owned()), ("forwarded", "for=1.2.3.4".into())] {
        let (status, text) = connect(&open.socket(), &[header]).await.err().unwrap();
        assert_eq!(status, 403);
        assert!(text.contains("anonymous = true") && text.contains("[token]"), "{text}");
    }
    assert_eq!(open.metric("oxipush_refused_connects_total", &[("reason", "forwarded")]).await, 2.0);
    // tokens are passed over, and so is what asks for a new one told
    let mut client = Client::connect(&open.socket(), true).await;
    assert_eq!(joined(&mut client, json!({"card_id": "x", "token": "whatever"})).await["event"], "joined");
    client.say(json!({"event": "refresh", "data": {"token": "whatever"}})).await;
    assert_eq!(client.hear().await["data"]["code"], "unsupported");
    open.stop().await;

    let said = Node::start(&[("SOCKET__ANONYMOUS", "true")]).await;
    assert!(connect(&said.socket(), &[("x-forwarded-for", "1.2.3.4".into())]).await.is_ok());
    said.stop().await;
}

/// A gateway that verifies tokens, and asks a Redis where its clients begin.
async fn node_with_redis(redis: &RedisServer, more: &[(&str, &str)]) -> Node {
    let url = redis.url();
    // longer than the Redis of these tests stands still
    let with = [("STORE__BACKEND", "redis"), ("REDIS__URL", &url), ("REDIS__TIMEOUT", "20s"), ("TOKEN__LEEWAY", "0s")];
    node(&[&with, more].concat()).await
}

/// Waits for the first moment of a second since 1970.
async fn begins(second: u64) {
    while now() < second {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_ended_while_the_store_was_waited_for_brings_into_no_card_and_no_room() {
    let redis = RedisServer::start().await;
    // the clock that ends clients is slower than the store here: who waits must be looked at as it enters
    let node = node_with_redis(&redis, &[("ROOMS__PRIVATE", "secret:*")]).await;
    let ends_at = now() + 4;
    let short = || json!({"token": token(json!({"sub": "mayun", "rooms": ["secret:*"], "exp": ends_at}))});
    let mut joins = Client::connect(&node.socket(), true).await;
    let mut subscribes = Client::connect(&node.socket(), true).await;
    assert_eq!(joined(&mut subscribes, short()).await["event"], "joined");
    redis.pause();
    joins.say(json!({"event": "join", "data": short()})).await;
    subscribes.say(json!({"event": "subscribe", "data": {"room": "secret:1"}})).await;
    begins(ends_at).await;
    redis.resume();
    for client in [&mut joins, &mut subscribes] {
        assert_eq!(close(client).await.0, 3004);
    }
    assert_eq!(node.metric("oxipush_joins_total", &[]).await, 1.0);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_card_that_became_full_while_the_store_was_waited_for_takes_nobody_more() {
    let redis = RedisServer::start().await;
    let node = node_with_redis(&redis, &[("SOCKET__MAX_CONNECTIONS_PER_CARD", "1"), ("NODE__WORKERS", "1")]).await;
    let (mut one, mut two) = (Client::connect(&node.socket(), true).await, Client::connect(&node.socket(), true).await);
    redis.pause();
    for client in [&mut one, &mut two] {
        client.say(json!({"event": "join", "data": {"token": token(json!({"sub": "mayun"}))}})).await;
    }
    redis.resume();
    let mut events = [one.hear().await, two.hear().await].map(|answer| answer["event"].to_string());
    events.sort_unstable();
    assert_eq!(events, ["\"error\"", "\"joined\""]);
    node.stop().await;
}
