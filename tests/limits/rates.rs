//! What a client and an address may do over time.

use std::time::Duration;

use futures_util::SinkExt;
use nix::sys::signal::Signal;
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

use crate::{program::Program, support::client::Client};

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stood_still_closes_nobody_for_what_was_sent_meanwhile() {
    let program = Program::start("[socket]\nmax_messages_per_second = 10\nmessage_burst = 600\n").await;
    let mut clients = Vec::new();
    for number in 0..20 {
        clients.push(Client::modern(&program.ws(), &format!("card {number}"), "").await);
    }
    // 10 messages and 10 pings a second for 5 s, while the process stands still: all of them come at once
    program.signal(Signal::SIGSTOP);
    for _ in 0..50 {
        for client in &mut clients {
            client.say(json!({"event": "ping"})).await;
            client.socket.send(Message::Ping("x".into())).await.unwrap();
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    program.signal(Signal::SIGCONT);
    for client in &mut clients {
        for _ in 0..50 {
            assert_eq!(client.hear().await["event"], "pong");
        }
    }
    assert_eq!(program.metric("oxipush_closes_total", &[]).await, 0.0);
    assert_eq!(program.metric("oxipush_connections", &[]).await, 20.0);
    // a flood is closed all the same
    let mut flooder = clients.pop().unwrap();
    for _ in 0..5000 {
        if flooder.socket.feed(Message::text(r#"{"event":"ping"}"#)).await.is_err() {
            break;
        }
    }
    let _ = flooder.socket.flush().await;
    assert_eq!(flooder.close_code().await, 3500);
}

#[tokio::test(flavor = "multi_thread")]
async fn joins_cost_more_than_other_messages() {
    let program = Program::start("[socket]\nmax_messages_per_second = 1\nmessage_burst = 100\njoin_cost = 20\n").await;
    let mut client = Client::connect(&program.ws(), true).await;
    for number in 0..5 {
        client.join(&format!("card {number}"), "").await;
    }
    client.say(json!({"event": "join", "data": {"card_id": "one more"}})).await;
    assert_eq!(client.close_code().await, 3500);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_handshakes_from_one_address_holds_up_nobody_elsewhere() {
    let program = Program::start("[socket]\nhandshake_rate = 1\nhandshake_burst = 20\n").await;
    let flood = async {
        let mut refused = 0;
        for _ in 0..300 {
            let (head, _) = program.handshake("127.0.0.2", "").await;
            if head.starts_with("HTTP/1.1 429") {
                assert!(head.contains("retry-after: "), "{head}");
                refused += 1;
            }
        }
        refused
    };
    let others = async {
        for host in 10..110 {
            assert_eq!(program.status(&format!("127.0.0.{host}"), "").await, 101);
        }
    };
    let (refused, ()) = tokio::join!(flood, others);
    // a slow machine lets some more in
    assert!((200..=280).contains(&refused), "{refused}");
    let counted = program.metric("oxipush_refused_connects_total", &[("reason", "handshake_rate")]).await;
    assert_eq!(counted, f64::from(refused));
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_a_trusted_proxy_handshakes_count_for_the_client_that_it_names() {
    let text = "[socket]\nhandshake_rate = 1\nhandshake_burst = 2\ntrusted_proxies = 127.0.0.1\n";
    let program = Program::start(text).await;
    for number in 0..20 {
        let headers = format!("x-forwarded-for: 192.0.2.{number}\r\n");
        assert_eq!(program.status("127.0.0.1", &headers).await, 101);
    }
    let mut statuses = Vec::new();
    for _ in 0..10 {
        statuses.push(program.status("127.0.0.1", "x-forwarded-for: 198.51.100.1\r\n").await);
    }
    assert!(statuses.starts_with(&[101, 101]) && statuses.contains(&429), "{statuses:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_card_takes_so_many_connections_and_no_more() {
    let program = Program::start("[socket]\nmax_connections_per_card = 2\n").await;
    let mut first = Client::modern(&program.ws(), "alice", "").await;
    let _second = Client::gopusher(&program.ws(), "alice", "").await;
    let mut third = Client::connect(&program.ws(), true).await;
    let join = json!({"event": "join", "data": {"card_id": "alice"}});
    third.say(join.clone()).await;
    assert_eq!(third.hear().await["data"]["code"], "card_full");
    // its connection goes on, as another card
    third.join("bob", "").await;
    // who is there may say so again
    first.join("alice", "other app").await;
    let mut old = Client::connect(&program.ws(), false).await;
    old.say(join).await;
    assert_eq!(old.close_code().await, 3500);
    drop(first);
    crate::program::until("room", || async {
        let mut next = Client::connect(&program.ws(), true).await;
        next.say(json!({"event": "join", "data": {"card_id": "alice"}})).await;
        next.hear().await["event"] == "joined"
    })
    .await;
}
