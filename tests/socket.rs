//! Clients that behave: handshake, join, pushes, heartbeat, drain.

#![allow(clippy::unwrap_used, missing_docs)]

#[path = "socket/rig.rs"]
mod rig;

use std::{collections::BTreeSet, time::Duration};

use futures_util::{SinkExt, StreamExt};
use oxipush::internals::{
    hub::{Census, Fanout, Part, Recipients},
    lifecycle::Deadline,
    push::{Address, Target},
    queue::{Job, record},
};
use rig::{OK, PATIENCE, Raw, handshake, patience, push, start, until};
use tokio_tungstenite::tungstenite::{self, Message, client::IntoClientRequest};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_join_in_gopushers_words_is_answered_and_a_push_arrives_byte_for_byte() {
    let rig = start(&[]);
    let mut raw = rig.connect().await;
    assert!(raw.head.contains("sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"), "{}", raw.head);
    let names: BTreeSet<&str> = raw.head.lines().filter_map(|line| Some(line.split_once(": ")?.0)).collect();
    assert_eq!(names, BTreeSet::from(["connection", "sec-websocket-accept", "upgrade"]));
    raw.text(r#"{"event":"join","data":{"app_id":"alibaba","card_id":"mayun"}}"#).await;
    assert_eq!(raw.next().await, Some((1, OK.into())));
    raw.text(r#"{"event":"ping"}"#).await;
    assert_eq!(raw.next().await, Some((1, OK.into())));
    raw.text(r#"{"event":"read"}"#).await;
    raw.has_nothing().await;
    rig.push(&["mayun"], "hello").await;
    assert_eq!(raw.next().await, Some((1, b"{\"type\":1,\"data\":\"hello\"}\n".to_vec())));
    assert_eq!(rig.hub.connections("mayun"), 1);
    rig.reaches("oxipush_deliveries_total", 1).await;
    rig.reaches(r#"oxipush_jobs_total{outcome="finished"}"#, 1).await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn oxipush_v1_is_chosen_by_subprotocol_and_its_pushes_carry_their_id() {
    let rig = start(&[]);
    let mut request = format!("ws://{}/ws", rig.address).into_client_request().unwrap();
    request.headers_mut().insert("sec-websocket-protocol", "other, oxipush.v1".parse().unwrap());
    let (mut socket, response) = tokio_tungstenite::connect_async(request).await.unwrap();
    assert_eq!(response.headers()["sec-websocket-protocol"], "oxipush.v1");
    let say = |text: &str| Message::text(text);
    socket.send(say(r#"{"event":"join","data":{"card_id":"ada","app_id":"web"}}"#)).await.unwrap();
    let joined: serde_json::Value = serde_json::from_str(&text(&mut socket).await).unwrap();
    assert_eq!(joined["event"], "joined");
    socket.send(say(r#"{"event":"ping"}"#)).await.unwrap();
    assert!(text(&mut socket).await.contains(r#""event":"pong""#));
    let push = push(&["ada"], "hi");
    rig.send(&push).await;
    let got: serde_json::Value = serde_json::from_str(&text(&mut socket).await).unwrap();
    assert_eq!((&got["event"], &got["data"]["content"]), (&"push".into(), &"hi".into()));
    assert_eq!(got["data"]["id"], push.id.to_string());
    socket.send(say(r#"{"event":"leave"}"#)).await.unwrap();
    assert!(text(&mut socket).await.contains(r#""event":"left""#));
    until("the leave", || rig.hub.connections("ada") == 0).await;
    socket.send(say(r#"{"event":"leave"}"#)).await.unwrap();
    assert!(text(&mut socket).await.contains(r#""not_joined""#));
    socket.close(None).await.unwrap();
    rig.reaches(r#"oxipush_closes_total{code="1005"}"#, 1).await;
    rig.stop().await;
}

async fn text<S>(socket: &mut S) -> String
where
    S: StreamExt<Item = Result<Message, tungstenite::Error>> + Unpin,
{
    loop {
        match tokio::time::timeout(PATIENCE, socket.next()).await.unwrap().unwrap().unwrap() {
            Message::Text(text) => return text.to_string(),
            Message::Ping(_) => {}
            other => panic!("not a text: {other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_card_with_two_tabs_gets_the_push_on_both_and_a_card_named_twice_once() {
    let rig = start(&[]);
    let (mut one, mut two, mut other) = (rig.joined("ada").await, rig.joined("ada").await, rig.joined("bob").await);
    assert_eq!(rig.hub.census(), Census { connections: 3, groups: 2, rooms: 0, workers: 2 });
    rig.push(&["ada", "nobody", "ada"], "hello").await;
    assert_eq!((one.content().await, two.content().await), ("hello".to_owned(), "hello".to_owned()));
    rig.push(&["ada", "bob"], "all").await;
    for raw in [&mut one, &mut two, &mut other] {
        assert_eq!(raw.content().await, "all");
        raw.has_nothing().await;
    }
    rig.reaches(r#"oxipush_drops_total{reason="no_connection"}"#, 1).await;
    drop((one, two));
    until("the tabs' end", || rig.hub.connections("ada") == 0).await;
    rig.reaches(r#"oxipush_closes_total{code="abnormal"}"#, 2).await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_join_adds_a_card() {
    let rig = start(&[]);
    let mut raw = rig.joined("first").await;
    raw.join("second", "").await;
    assert_eq!((rig.hub.connections("first"), rig.hub.connections("second")), (1, 1));
    rig.push(&["first"], "to the first").await;
    assert_eq!(raw.content().await, "to the first");
    rig.push(&["second"], "to the second").await;
    assert_eq!(raw.content().await, "to the second");
    raw.join("second", "").await;
    assert_eq!(rig.hub.connections("second"), 1);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_app_filters_and_no_app_means_all() {
    let rig = start(&[]);
    let (mut web, mut phone) = (rig.connect().await, rig.connect().await);
    web.join("ada", "web").await;
    phone.join("ada", "phone").await;
    let mut only = push(&["ada"], "for the phone");
    only.target = Target { app: Some("phone".into()), ..only.target };
    rig.send(&only).await;
    rig.push(&["ada"], "for all").await;
    assert_eq!(web.content().await, "for all");
    assert_eq!((phone.content().await, phone.content().await), ("for the phone".to_owned(), "for all".to_owned()));
    // the same card with another app: the filter follows
    web.join("ada", "phone").await;
    rig.send(&only).await;
    assert_eq!(web.content().await, "for the phone");
    only.target.app = Some("tv".into());
    rig.send(&only).await;
    rig.reaches(r#"oxipush_drops_total{reason="no_match"}"#, 1).await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_cards_pushes_arrive_in_order_whatever_else_goes_on() {
    let rig = start(&[("QUEUE__PROCESSORS", "3"), ("HUB__INBOX", "8"), ("HUB__WRITES_PER_TURN", "2")]);
    let cards: Vec<String> = (0..8).map(|n| format!("card-{n}")).collect();
    let mut raws = Vec::new();
    for card in &cards {
        raws.push(rig.joined(card).await);
        raws.push(rig.joined(card).await);
    }
    let all: Vec<&str> = cards.iter().map(String::as_str).collect();
    const PUSHES: usize = 2000;
    let sending = async {
        for n in 0..PUSHES {
            // each push for some of the cards, so that parts of different sizes cross all lanes
            rig.push(&all[..=n % all.len()], &n.to_string()).await;
        }
    };
    let reading = async {
        for (place, raw) in raws.iter_mut().enumerate() {
            for expected in (0..PUSHES).filter(|n| n % all.len() >= place / 2) {
                assert_eq!(raw.content().await, expected.to_string());
            }
        }
    };
    tokio::join!(sending, reading);
    rig.reaches(r#"oxipush_jobs_total{outcome="finished"}"#, PUSHES as u64).await;
    assert_eq!(rig.sample("oxipush_jobs_in_flight"), 0);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_delay_delays_and_loses_nothing() {
    let rig = start(&[("OUTBOX__WRITE_DELAY", "20ms")]);
    let mut raw = rig.joined("ada").await;
    for n in 0..50 {
        rig.push(&["ada"], &n.to_string()).await;
    }
    for n in 0..50 {
        assert_eq!(raw.content().await, n.to_string());
    }
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_cannot_be_delivered_ever_is_dropped_and_counted() {
    let rig = start(&[("QUEUE__MAX_ATTEMPTS", "3")]);
    let mut raw = rig.joined("ada").await;
    rig.job(Job::detached("not protobuf".into(), 1)).await;
    rig.job(Job::detached(record::encode(&push(&["ada"], "too often")), 4)).await;
    rig.job(Job::detached(record::encode(&push(&["ada"], "just not")), 3)).await;
    assert_eq!(raw.content().await, "just not");
    assert_eq!(rig.sample(r#"oxipush_drops_total{reason="undecodable"}"#), 1);
    assert_eq!(rig.sample(r#"oxipush_drops_total{reason="attempts"}"#), 1);
    assert_eq!(rig.sample(r#"oxipush_jobs_total{outcome="dropped"}"#), 2);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_connection_is_pinged_and_one_that_answers_stays() {
    let rig = start(&[("SOCKET__PING_INTERVAL", "200ms"), ("SOCKET__IDLE_TIMEOUT", "5s")]);
    let mut raw = rig.joined("ada").await;
    for _ in 0..3 {
        assert_eq!(raw.next().await, Some((9, Vec::new())));
        raw.frame(0xA, b"").await;
    }
    rig.push(&["ada"], "still here").await;
    assert_eq!(raw.content().await, "still here");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_goes_away_gets_its_close_echoed() {
    let rig = start(&[]);
    for (payload, label) in
        [(&b"\x03\xe9"[..], "1001"), (b"\x03\xe8bye", "1000"), (b"", "1005"), (b"\x0f\xa0", "other")]
    {
        let mut raw = rig.joined("ada").await;
        raw.frame(8, payload).await;
        assert_eq!(raw.next().await, Some((8, payload[..payload.len().min(2)].to_vec())));
        assert_eq!(raw.next().await, None);
        rig.reaches(&format!(r#"oxipush_closes_total{{code="{label}"}}"#), 1).await;
    }
    until("no connection", || rig.hub.census().connections == 0).await;
    assert_eq!(rig.hub.census().groups, 0);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_closes_all_with_3000_and_refuses_handshakes() {
    let rig = start(&[("SOCKET__CLOSE_TIMEOUT", "10s")]);
    let (mut plain, mut v1, mut fresh) = (rig.joined("ada").await, rig.connect_v1().await, rig.connect().await);
    v1.join_v1("ada", "").await;
    let reading = async {
        for raw in [&mut plain, &mut fresh] {
            assert_eq!(raw.closed().await.0, 3000);
        }
        let drain: serde_json::Value = serde_json::from_str(&v1.next_text().await).unwrap();
        assert_eq!(drain["event"], "drain");
        assert_eq!(v1.closed().await.0, 3000);
        let late = Raw::request(rig.address, &handshake("/ws", "")).await;
        assert!(late.head.starts_with("HTTP/1.1 503 "), "{}", late.head);
        // answers to the close frames: the connections end before close_timeout
        drop((plain, fresh, v1));
    };
    tokio::join!(rig.clients.drain(0, Duration::from_secs(5), patience()), reading);
    assert_eq!(rig.clients.gone(patience()).await, 0);
    assert_eq!(rig.sample(r#"oxipush_closes_total{code="3000"}"#), 3);
    assert_eq!(rig.sample(r#"oxipush_refused_connects_total{reason="draining"}"#), 1);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_spreads_the_delays_it_asks_for() {
    let rig = start(&[]);
    let mut raws = Vec::new();
    for _ in 0..20 {
        raws.push(rig.connect_v1().await);
    }
    let reading = async {
        let mut delays = BTreeSet::new();
        for mut raw in raws {
            let drain: serde_json::Value = serde_json::from_str(&raw.next_text().await).unwrap();
            delays.insert(drain["data"]["reconnect_in_ms"].as_u64().unwrap());
        }
        delays
    };
    let (_, delays) = tokio::join!(rig.clients.drain(0, Duration::from_secs(3600), patience()), reading);
    assert!(delays.len() > 10 && delays.last() <= Some(&3_600_000), "{delays:?}");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_keeps_its_pace() {
    let rig = start(&[]);
    let mut raws = Vec::new();
    for _ in 0..40 {
        raws.push(rig.joined("ada").await);
    }
    let begun = std::time::Instant::now();
    let reading = async {
        for mut raw in raws {
            assert_eq!(raw.closed().await.0, 3000);
        }
    };
    let (told, ()) = tokio::join!(rig.clients.drain(40, Duration::ZERO, patience()), reading);
    assert_eq!(told, 40);
    // 40 connections at 40 in a second: never faster, however slow the machine
    assert!(begun.elapsed() >= Duration::from_millis(900), "{:?}", begun.elapsed());
    assert_eq!(rig.clients.gone(patience()).await, 0);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn healthz_and_gopushers_welcome_answer_on_the_same_port_and_all_else_is_not_found() {
    let rig = start(&[]);
    for (path, status) in [("/healthz", "200"), ("/", "200"), ("/push", "404"), ("/ws", "426")] {
        let raw = Raw::request(rig.address, &format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n")).await;
        assert!(raw.head.starts_with(&format!("HTTP/1.1 {status} ")), "{path}: {}", raw.head);
        assert_eq!(raw.head.contains("access-control-allow-origin: *\r\n"), path == "/", "{path}: {}", raw.head);
    }
    // load balancers probe in several ways, and some proxies put an upgrade into every request
    for (request, status) in [
        ("HEAD /healthz HTTP/1.1", "200"),
        ("GET /healthz HTTP/1.0", "200"),
        ("OPTIONS /healthz HTTP/1.1", "204"),
        ("POST /healthz HTTP/1.1", "405"),
        ("DELETE /healthz HTTP/1.1", "405"),
        ("GET /healthz HTTP/1.1\r\nconnection: upgrade\r\nupgrade: websocket", "200"),
    ] {
        let raw = Raw::request(rig.address, &format!("{request}\r\nhost: localhost\r\n\r\n")).await;
        assert_eq!(raw.head.split(' ').nth(1), Some(status), "{request}: {}", raw.head);
        assert_eq!(raw.head.contains("allow: GET, HEAD, OPTIONS\r\n"), status != "200", "{request}: {}", raw.head);
        assert!(!raw.head.contains("connection: upgrade"), "{request}: {}", raw.head);
    }
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_may_become_a_client_after_other_requests() {
    let rig = start(&[]);
    let probe = "GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n".repeat(3);
    let mut raw = Raw::request(rig.address, &format!("{probe}{}", handshake("/ws", ""))).await;
    let has_come = |answers: &[u8]| {
        String::from_utf8_lossy(answers)
            .split_once("101 Switching Protocols")
            .is_some_and(|(_, head)| head.ends_with("\r\n\r\n"))
    };
    while !has_come(&raw.buffer) {
        assert!(raw.fill().await, "{:?}", raw.buffer);
    }
    raw.buffer.clear();
    raw.join("ada", "").await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_does_not_wait_for_connections_that_are_no_clients() {
    let rig = start(&[("SOCKET__HANDSHAKE_TIMEOUT", "1h")]);
    let probe = "GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let _idle = Raw::request(rig.address, probe).await;
    let drain = rig.clients.drain(0, Duration::ZERO, Deadline::after(Duration::from_secs(3600)));
    tokio::time::timeout(PATIENCE, drain).await.expect("the end of the drain");
    rig.stop().await;
}

fn card(name: &str) -> Address {
    Address::Card(name.into())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shard_that_dies_is_told_and_its_pushes_come_again_while_the_others_deliver() {
    let mut rig = start(&[]);
    let _here = rig.joined("here").await;
    let dead = rig.hub.shards(&card("here"));
    let (mut others, mut there) = (Vec::new(), String::new());
    while there.is_empty() || rig.hub.shards(&card(&there)) == dead {
        assert!(others.len() < 100, "all clients are on one worker");
        there = format!("there {}", others.len());
        others.push(rig.joined(&there).await);
    }
    let (completions, _told) = tokio::sync::mpsc::unbounded_channel();
    let poison = Part::new(Fanout::new(push(&["here"], ""), 0, completions), Recipients::Panic);
    let shard = dead.trailing_zeros() as usize;
    rig.hub.send(shard, vec![poison.into()]).await;
    let died = tokio::time::timeout(PATIENCE, rig.deaths.recv()).await.unwrap().unwrap();
    assert_eq!(died.name, format!("hub shard {shard}"));
    rig.push(&["here", &there], "after").await;
    assert_eq!(others.last_mut().unwrap().content().await, "after");
    rig.reaches(r#"oxipush_jobs_total{outcome="requeued"}"#, 1).await;
    assert_eq!(rig.sample(r#"oxipush_jobs_total{outcome="finished"}"#), 0);
    rig.stop().await;
}
