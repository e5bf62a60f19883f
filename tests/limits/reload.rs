//! SIGHUP: what changes, what does not, and who notices.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::{
    program::{Program, until},
    support::{client::Client, http, token},
};

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_reloads_under_load_lose_nothing_and_disconnect_nobody() {
    let token = |number: u32| format!("[token]\nsecret = a secret for tests, of 32 bytes or more: {number}\n");
    let program = Arc::new(Program::start(&format!("[socket]\nanonymous = true\n{}", token(0))).await);
    let over = Arc::new(AtomicBool::new(false));
    let mut readers = Vec::new();
    for number in 0..20 {
        let mut client = Client::modern(&program.ws(), &format!("card {}", number % 5), "").await;
        readers.push(tokio::spawn(async move {
            let mut contents = Vec::new();
            loop {
                match client.content().await {
                    last if last == "the end" => return contents,
                    content => contents.push(content),
                }
            }
        }));
    }
    let mut pushers = Vec::new();
    for card in 0..5 {
        let (program, over) = (Arc::clone(&program), Arc::clone(&over));
        pushers.push(tokio::spawn(async move {
            let mut contents = Vec::new();
            let caller = http::client();
            while !over.load(Ordering::Relaxed) {
                let content = contents.len().to_string();
                let body = json!({"from": "test", "to": [format!("card {card}")], "appID": "", "content": content});
                let answer = caller.post(program.url("/push")).json(&body).send().await.unwrap();
                assert_eq!(answer.status(), 200, "{:?}", answer.text().await);
                contents.push(content);
            }
            contents
        }));
    }
    // handshakes go on, too
    let connecting = {
        let (program, over) = (Arc::clone(&program), Arc::clone(&over));
        tokio::spawn(async move {
            while !over.load(Ordering::Relaxed) {
                assert_eq!(program.status("127.0.0.1", "").await, 101);
            }
        })
    };
    for number in 0..200 {
        let bound = 1000 + number;
        program.write(&format!(
            "[socket]\nanonymous = true\nmax_connections = {bound}\nmax_messages_per_second = {bound}\ntrusted_proxies = 10.0.0.{}\n[push]\n\
             max_cards = {bound}\n[http]\nallowed_origins = https://example{number}.org\n{}[log]\nlevel = {}\n",
            number % 250,
            token(number),
            if number % 2 == 0 { "warn" } else { "info" },
        ));
        program.signal(Signal::SIGHUP);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    until("the last reload", || async { program.metric("oxipush_max_connections", &[]).await == 1199.0 }).await;
    over.store(true, Ordering::Relaxed);
    connecting.await.unwrap();
    let mut pushed = Vec::new();
    for pusher in pushers {
        pushed.push(pusher.await.unwrap());
    }
    for card in 0..5 {
        assert_eq!(program.push(&format!("card {card}"), "the end").await.0, 200);
    }
    for (number, reader) in readers.into_iter().enumerate() {
        assert_eq!(reader.await.unwrap(), pushed[number % 5], "card {}", number % 5);
    }
    assert!(pushed.iter().all(|contents| contents.len() > 20), "the test pushed next to nothing");
    assert!(program.metric("oxipush_reloads_total", &[("outcome", "applied")]).await > 20.0);
    assert_eq!(program.metric("oxipush_reloads_total", &[("outcome", "refused")]).await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mistake_changes_nothing_and_is_told_in_the_words_of_a_start() {
    let program = Program::start("[socket]\nmax_connections = 50\n").await;
    let mut tab = Client::modern(&program.ws(), "alice", "").await;
    program.reload_to("[socket]\nmax_connections = 60\nmax_refusal = 7\n[push]\nmax_cards = x\n", "refused").await;
    program.logged("nothing was reloaded and nothing changed").await;
    program.logged("[socket] max_refusal: there is no such key; did you mean max_refusals?").await;
    program.logged("[push] max_cards: \"x\" is not a whole number").await;
    assert_eq!(program.metric("oxipush_max_connections", &[]).await, 50.0);
    assert_eq!(program.push("alice", "still here").await.0, 200);
    assert_eq!(tab.content().await, "still here");
    // mended, it is taken
    program.reload("[socket]\nmax_connections = 60\n").await;
    assert_eq!(program.metric("oxipush_max_connections", &[]).await, 60.0);
    // a file that is gone is a mistake, too
    std::fs::remove_file(program.folder.path().join("config.ini")).unwrap();
    program.signal(Signal::SIGHUP);
    program.logged("config.ini cannot be read").await;
    assert_eq!(program.metric("oxipush_max_connections", &[]).await, 60.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_needs_a_restart_is_named_and_the_rest_is_taken_over() {
    let program = Program::start("[socket]\nmax_message = 64KiB\n").await;
    program.reload("[socket]\nmax_message = 1KiB\nmax_connections = 7\n[queue]\nmax_publishes = 9\n[auth]\n").await;
    program.logged("these changes need a restart, the running values stay").await;
    let log = program.log();
    let told = log.lines().find(|line| line.contains("need a restart")).unwrap();
    assert!(told.contains("[queue] max_publishes = 9, [socket] max_message = 1KiB"), "{told}");
    assert!(!told.contains("max_connections"), "{told}");
    assert_eq!(program.metric("oxipush_max_connections", &[]).await, 7.0);
    // 2 KiB are a message as before
    let mut tab = Client::connect(&program.ws(), true).await;
    tab.say(json!({"event": "ping", "data": {"x": "x".repeat(2000)}})).await;
    assert_eq!(tab.hear().await["event"], "pong");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_clients_bounds_change_and_who_is_connected_stays() {
    let program = Program::start("[socket]\nanonymous = true\n").await;
    let mut tab = Client::modern(&program.ws(), "alice", "").await;
    let handshake = |headers: &'static str| program.status("127.0.0.1", headers);

    program.reload("[socket]\nallowed_origins = https://example.org\n").await;
    assert_eq!(handshake("origin: https://other.org\r\n").await, 403);
    assert_eq!(handshake("origin: https://example.org\r\n").await, 101);

    program.reload("[socket]\nmax_connections = 1\nmax_refusals = 1\n").await;
    assert_eq!(handshake("").await, 503);
    program.reload("[socket]\nmax_connections = 1\nmax_refusals = 0\n").await;
    assert_eq!(handshake("").await, 0, "it is dropped");

    program.reload("[socket]\nmax_connections_per_address = 1\n").await;
    let (head, held) = program.handshake("127.0.0.7", "").await;
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    assert_eq!(program.status("127.0.0.7", "").await, 429);
    drop(held);

    let trusted = "[socket]\nanonymous = true\nmax_connections_per_address = 1\ntrusted_proxies = 127.0.0.0/8\n";
    program.reload(trusted).await;
    let _first = program.handshake("127.0.0.8", "x-forwarded-for: 192.0.2.1\r\n").await;
    assert_eq!(program.status("127.0.0.8", "x-forwarded-for: 192.0.2.2\r\n").await, 101);
    assert_eq!(program.status("127.0.0.8", "x-forwarded-for: 192.0.2.1\r\n").await, 429);

    program.reload("[socket]\nhandshake_rate = 1\nhandshake_burst = 1\nmax_rated_addresses = 1\n").await;
    assert_eq!(program.status("127.0.0.9", "").await, 101);
    until("a refusal", || async { program.status("127.0.0.9", "").await == 429 }).await;

    program.reload("[socket]\nmax_connections_per_card = 1\n").await;
    let mut other = Client::connect(&program.ws(), true).await;
    other.say(json!({"event": "join", "data": {"card_id": "alice"}})).await;
    assert_eq!(other.hear().await["data"]["code"], "card_full");

    program.reload("[socket]\nmax_messages_per_second = 1\nmessage_burst = 30\njoin_cost = 10\n").await;
    let mut joiner = Client::connect(&program.ws(), true).await;
    for _ in 0..4 {
        joiner.say(json!({"event": "join", "data": {"card_id": "bob"}})).await;
    }
    assert_eq!(joiner.close_code().await, 3500);

    // through all of that it was there
    assert_eq!(program.push("alice", "hello").await.0, 200);
    assert_eq!(tab.content().await, "hello");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_apis_bounds_change_between_two_requests() {
    let program = Program::start("").await;
    let caller = http::client();
    let ask = |name: &'static str, value: &'static str| {
        let request = caller.get(program.url("/system")).header(name, value);
        async move { request.send().await.unwrap().status().as_u16() }
    };
    let push = |body: Value| {
        let request = caller.post(program.url("/push")).json(&body);
        async move { request.send().await.unwrap().status().as_u16() }
    };
    assert_eq!((ask("origin", "https://example.org").await, ask("host", "push.internal").await), (403, 403));
    program.reload("[http]\nallowed_origins = https://example.org\nallowed_hosts = push.internal\n").await;
    assert_eq!((ask("origin", "https://example.org").await, ask("host", "push.internal").await), (200, 200));

    let two = json!({"from": "", "to": ["a", "b"], "appID": "", "content": "0123456789"});
    assert_eq!(push(two.clone()).await, 200);
    let unknown = json!({"to": ["a"], "content": "x", "tag": 1});
    assert_eq!(push(unknown.clone()).await, 400);
    program.reload("[http]\nunknown_fields = ignore\n").await;
    assert_eq!(push(unknown).await, 200);
    program.reload("[push]\nmax_cards = 1\n").await;
    assert_eq!(push(two.clone()).await, 400);
    program.reload("[push]\nmax_content = 9B\n").await;
    assert_eq!(push(two.clone()).await, 413);
    program.reload("[push]\nmax_batch = 1\n").await;
    assert_eq!(push(two.clone()).await, 200);
    let batch = caller.post(program.url("/push/batch")).json(&json!([two, two]));
    assert_eq!(batch.send().await.unwrap().status(), 400);
    let described = http::get(program.url("/openapi.json")).await.unwrap().text().await.unwrap();
    program.reload("[push]\nmax_batch = 77\n").await;
    assert_ne!(http::get(program.url("/openapi.json")).await.unwrap().text().await.unwrap(), described);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_callers_change_and_the_old_ones_open_nothing() {
    let program = Program::start("[auth]\nkeys = the-first-key\n").await;
    let ask = |key: &'static str| {
        let request = http::client().get(program.url("/system")).bearer_auth(key);
        async move { request.send().await.unwrap().status().as_u16() }
    };
    assert_eq!((ask("the-first-key").await, ask("the-second-key").await), (200, 401));
    let file = program.folder.path().join("secret");
    std::fs::write(&file, "the-second-key\n").unwrap();
    let text = format!("[key.reader]\nsecret_file = {}\nscopes = query\n", file.display());
    program.reload_unseen(&text, "the configuration was read again").await;
    assert_eq!((ask("the-first-key").await, ask("the-second-key").await), (401, 200));
    // the file alone changes
    std::fs::write(&file, "the-third-key\n").unwrap();
    program.signal(Signal::SIGHUP);
    until("the third key", || async { ask("the-third-key").await == 200 }).await;
    assert_eq!(ask("the-second-key").await, 401);
    let log = program.log();
    assert!(!log.contains("-key"), "a key is in the log: {log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_tokens_change_and_who_joined_by_the_old_one_stays() {
    let text = |secret: &str| format!("[token]\nsecret = {secret}\n");
    let other = "another secret for tests, of 32 bytes or more";
    let program = Program::start(&text(token::SECRET)).await;
    let join = |client: &'static str, secret: &'static str| {
        let claims = json!({"sub": client, "iat": token::now(), "exp": token::now() + 600});
        let token = token::sign(&json!({"alg": "HS256"}), &claims, secret);
        json!({"event": "join", "data": {"card_id": client, "token": token}})
    };
    let mut alice = Client::connect(&program.ws(), true).await;
    alice.say(join("alice", token::SECRET)).await;
    assert_eq!(alice.hear().await["event"], "joined");
    program.reload(&text(other)).await;
    let mut bob = Client::connect(&program.ws(), true).await;
    bob.say(join("bob", other)).await;
    assert_eq!(bob.hear().await["event"], "joined");
    let mut late = Client::connect(&program.ws(), true).await;
    late.say(join("late", token::SECRET)).await;
    assert_ne!(late.text().await.map(|text| text.contains("\"joined\"")), Some(true));
    assert_eq!(program.push("alice", "still here").await.0, 200);
    assert_eq!(alice.content().await, "still here");
    assert!(!program.log().contains(other), "a secret is in the log");
    // without anything to verify by, nobody could be told from anybody
    program.reload_to("", "refused").await;
    program.logged("nothing was reloaded and nothing changed").await;
    let mut carol = Client::connect(&program.ws(), true).await;
    carol.say(join("carol", other)).await;
    assert_eq!(carol.hear().await["event"], "joined");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_level_of_the_log_changes_and_at_trace_a_push_is_followed_to_its_end() {
    let program = Program::start("").await;
    let mut tab = Client::modern(&program.ws(), "alice", "").await;
    let (_, answer) = program.push("alice", "before").await;
    assert_eq!(tab.content().await, "before");
    assert!(!program.log().contains(answer["id"].as_str().unwrap()), "at info there is no line for each push");

    program.reload("[log]\nlevel = trace\n").await;
    let (_, answer) = program.push("alice", "followed").await;
    assert_eq!(tab.content().await, "followed");
    let id = answer["id"].as_str().unwrap();
    let way = [
        "a push is accepted",
        "a push is in the queue",
        "a push is taken from the queue",
        "a push is offered to clients",
        "a push has been through the hub",
        "a push is finished",
    ];
    for step in way {
        until(step, || async { program.log().lines().any(|line| line.contains(step) && line.contains(id)) }).await;
    }
    let log = program.log();
    let offered = log.lines().find(|line| line.contains("is offered to clients") && line.contains(id)).unwrap();
    assert!(offered.contains("clients=1"), "{offered}");
    assert!(!log.contains("followed"), "a content is logged");

    program.reload("[log]\nlevel = error\n").await;
    let (_, answer) = program.push("alice", "after").await;
    assert_eq!(tab.content().await, "after");
    assert!(!program.log().contains(answer["id"].as_str().unwrap()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_goes_by_what_the_last_reload_said() {
    let mut program = Program::start("[drain]\ngrace = 20s\n").await;
    program.reload("[drain]\ngrace = 0s\nrate = 5000\nreconnect_jitter = 1s\n[node]\nshutdown_timeout = 25s\n").await;
    let mut tab = Client::modern(&program.ws(), "alice", "").await;
    let began = Instant::now();
    program.signal(Signal::SIGTERM);
    let advice = tab.hear().await;
    assert_eq!(advice["event"], "drain", "{advice}");
    assert_eq!(tab.close_code().await, 3000);
    drop(tab);
    assert_eq!(program.ended().await, Some(0));
    assert!(began.elapsed() < Duration::from_secs(15), "it waited for the old grace");
}
