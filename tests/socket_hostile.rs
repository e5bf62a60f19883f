//! Clients that misbehave: each costs only itself, is told why, and is counted.

#![allow(clippy::unwrap_used, missing_docs)]

#[path = "socket/rig.rs"]
mod rig;

use std::time::Duration;

use oxipush::internals::push::Push;
use rig::{OK, PATIENCE, Raw, Rig, handshake, masked, patience, push, start, until};
use tokio::{io::AsyncReadExt, net::TcpStream};

/// A content of `bytes` bytes that begins with `number`.
fn bulk(number: usize, bytes: usize) -> String {
    let mut content = format!("{number:08} ");
    content.extend((content.len()..bytes).map(|place| char::from(b'a' + ((number * 7 + place) % 26) as u8)));
    content
}

fn number(content: &str) -> usize {
    content[..8].parse().unwrap()
}

async fn status(rig: &Rig, request: &str) -> String {
    Raw::request(rig.address, request).await.head.split(' ').nth(1).unwrap().to_owned()
}

async fn refused(rig: &Rig, reason: &str, count: u64) {
    rig.reaches(&format!(r#"oxipush_refused_connects_total{{reason="{reason}"}}"#), count).await;
}

/// Waits until one more is let in.
async fn place(rig: &Rig) {
    let let_in = async {
        while status(rig, &handshake("/ws", "")).await != "101" {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, let_in).await.expect("a free place");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_handshake_is_refused_with_its_status_and_counted() {
    let rig = start(&[("SOCKET__ALLOWED_ORIGINS", "https://good.example")]);
    let good = handshake("/ws", "");
    for (request, expected, reason) in [
        (good.replace("dGhlIHNhbXBsZSBub25jZQ==", "short"), "400", "key"),
        (good.replace("sec-websocket-key", "x-other"), "400", "key"),
        (good.replace("version: 13", "version: 12"), "426", "version"),
        (good.replace("sec-websocket-version: 13\r\n", ""), "426", "version"),
        (good.replace("GET", "POST"), "405", "method"),
        (good.replace("connection: Upgrade\r\n", ""), "400", "upgrade"),
        (good.replace("upgrade: websocket\r\nconnection: Upgrade\r\n", ""), "426", "no_upgrade"),
        (good.replace("upgrade: websocket\r\n", ""), "426", "no_upgrade"),
        (good.replace("upgrade: websocket\r\n", "upgrade: h2c\r\n"), "426", "no_upgrade"),
        (good.replace("HTTP/1.1", "HTTP/1.0"), "426", "no_upgrade"),
        (handshake("/ws", "sec-websocket-protocol: oxipush.v2\r\n"), "400", "subprotocol"),
        (handshake("/ws", "sec-websocket-protocol: chat, oxipush.v2\r\n"), "400", "subprotocol"),
        (handshake("/ws", "sec-websocket-protocol: OXIPUSH.V1\r\n"), "400", "subprotocol"),
        (handshake("/elsewhere", ""), "404", "path"),
        (handshake("/ws", "origin: https://evil.example\r\n"), "403", "origin"),
    ] {
        let before = rig.sample(&format!(r#"oxipush_refused_connects_total{{reason="{reason}"}}"#));
        assert_eq!(status(&rig, &request).await, expected, "{request}");
        refused(&rig, reason, before + 1).await;
    }
    for headers in ["", "origin: https://good.example\r\n"] {
        assert_eq!(status(&rig, &handshake("/ws?x=1", headers)).await, "101", "{headers}");
    }
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handshake_that_a_proxy_spoiled_is_told_what_the_proxy_needs() {
    let rig = start(&[]);
    let good = handshake("/ws", "");
    for spoiled in [
        good.replace("HTTP/1.1", "HTTP/1.0"),
        good.replace("HTTP/1.1", "HTTP/1.0").replace("connection: Upgrade", "connection: close"),
        good.replace("upgrade: websocket\r\nconnection: Upgrade\r\n", "connection: close\r\n"),
        good.replace("connection: Upgrade", "connection: keep-alive"),
    ] {
        let mut raw = Raw::request(rig.address, &spoiled).await;
        while raw.fill().await {}
        let text = String::from_utf8(raw.buffer.to_vec()).unwrap();
        for needed in ["proxy_http_version 1.1", "proxy_set_header Upgrade", "proxy_set_header Connection"] {
            assert!(text.contains(needed), "{spoiled}{text}");
        }
    }
    // who is no WebSocket client is told to be one, on a connection that stays
    let raw = Raw::request(rig.address, "GET /ws HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    assert!(raw.head.starts_with("HTTP/1.1 426 ") && raw.head.contains("upgrade: websocket\r\n"), "{}", raw.head);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_that_are_lists_may_have_members_that_are_not_ours() {
    let rig = start(&[]);
    let good = handshake("/ws", "");
    for (theirs, chosen) in [
        (good.replace("upgrade: websocket", "upgrade: websocket, h2c"), None),
        (good.replace("upgrade: websocket", "upgrade: h2c,WebSocket"), None),
        (good.replace("upgrade: websocket", "upgrade: h2c\r\nupgrade: websocket"), None),
        (good.replace("upgrade: websocket", "upgrade: websocket\r\nupgrade: h2c"), None),
        (good.replace("connection: Upgrade", "connection: keep-alive, Upgrade"), None),
        (good.replace("connection: Upgrade", "connection: keep-alive\r\nconnection: upgrade"), None),
        (handshake("/ws", "sec-websocket-protocol: chat\r\n"), None),
        (handshake("/ws", "sec-websocket-protocol: chat, oxipush.v2, oxipush.v1\r\n"), Some("oxipush.v1")),
        (
            handshake("/ws", "sec-websocket-protocol: chat\r\nsec-websocket-protocol: oxipush.v1\r\n"),
            Some("oxipush.v1"),
        ),
    ] {
        let mut raw = Raw::request(rig.address, &theirs).await;
        assert!(raw.head.starts_with("HTTP/1.1 101 "), "{theirs}{}", raw.head);
        let said = raw.head.lines().find_map(|line| line.strip_prefix("sec-websocket-protocol: "));
        assert_eq!(said, chosen, "{theirs}");
        match chosen {
            None => raw.join("ada", "").await,
            Some(_) => raw.join_v1("ada", "").await,
        }
    }
    rig.stop().await;
}

/// Keeps a connection that was admitted: its probe is answered.
async fn plain(rig: &Rig) -> Raw {
    let raw = Raw::request(rig.address, "GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    assert!(raw.head.starts_with("HTTP/1.1 200 ") && !raw.head.contains("connection: close"), "{}", raw.head);
    raw
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plain_http_takes_places_as_clients_do_and_a_full_node_is_still_alive() {
    let rig = start(&[("SOCKET__MAX_CONNECTIONS", "3"), ("SOCKET__HANDSHAKE_TIMEOUT", "1h")]);
    let held = (plain(&rig).await, rig.joined("ada").await, plain(&rig).await);
    assert_eq!(status(&rig, &handshake("/ws", "")).await, "503");
    refused(&rig, "full", 1).await;
    // a probe by which the node would be restarted
    let mut probe = Raw::request(rig.address, "GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    assert!(probe.head.starts_with("HTTP/1.1 200 ") && probe.head.contains("connection: close\r\n"), "{}", probe.head);
    while probe.fill().await {}
    assert_eq!(status(&rig, "GET / HTTP/1.1\r\nhost: localhost\r\n\r\n").await, "503");
    drop(held);
    place(&rig).await;
    // one that says nothing takes one too
    let _silent = [TcpStream::connect(rig.address).await.unwrap(), TcpStream::connect(rig.address).await.unwrap()];
    let _third = TcpStream::connect(rig.address).await.unwrap();
    let full = async { while status(&rig, &handshake("/ws", "")).await != "503" {} };
    tokio::time::timeout(PATIENCE, full).await.expect("silent connections that count");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plain_http_of_one_address_is_bounded_with_its_clients() {
    let rig = start(&[("SOCKET__MAX_CONNECTIONS_PER_ADDRESS", "2"), ("SOCKET__HANDSHAKE_TIMEOUT", "1h")]);
    let held = (plain(&rig).await, rig.joined("ada").await);
    assert_eq!(status(&rig, &handshake("/ws", "")).await, "429");
    assert_eq!(status(&rig, "GET /ws HTTP/1.1\r\nhost: localhost\r\n\r\n").await, "429");
    refused(&rig, "address_full", 2).await;
    drop(held);
    place(&rig).await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trusted_proxys_connections_count_for_the_clients_that_it_names() {
    let rig = start(&[
        ("SOCKET__MAX_CONNECTIONS_PER_ADDRESS", "1"),
        ("SOCKET__TRUSTED_PROXIES", "127.0.0.0/8"),
        ("SOCKET__ANONYMOUS", "true"),
        ("SOCKET__HANDSHAKE_TIMEOUT", "1h"),
    ]);
    let _plain = (plain(&rig).await, plain(&rig).await);
    let _one = Raw::connect(rig.address, "x-forwarded-for: 2001:db8::1\r\n").await;
    assert_eq!(status(&rig, &handshake("/ws", "x-forwarded-for: 2001:db8::2\r\n")).await, "429");
    let _other = Raw::connect(rig.address, "x-forwarded-for: 2001:db8:0:1::2\r\n").await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beyond_max_refusals_nothing_is_answered_and_all_is_counted() {
    let rig = start(&[("SOCKET__MAX_CONNECTIONS", "1"), ("SOCKET__MAX_REFUSALS", "0")]);
    let held = rig.joined("ada").await;
    for count in 1..=3 {
        let mut late = TcpStream::connect(rig.address).await.unwrap();
        let mut answer = Vec::new();
        let _ = tokio::time::timeout(PATIENCE, late.read_to_end(&mut answer)).await.expect("it is dropped");
        assert_eq!(answer, b"");
        refused(&rig, "full", count).await;
    }
    drop(held);
    until("a place", || rig.hub.census().connections == 0).await;
    rig.joined("ada").await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_asks_and_never_reads_the_answers_gives_its_place_back() {
    let rig = start(&[("SOCKET__MAX_CONNECTIONS", "1"), ("SOCKET__USER_TIMEOUT", "1s")]);
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut deaf = socket.connect(rig.address).await.unwrap();
    let asking = async {
        let many = "GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n".repeat(1000);
        while tokio::io::AsyncWriteExt::write_all(&mut deaf, many.as_bytes()).await.is_ok() {}
    };
    tokio::time::timeout(PATIENCE, asking).await.expect("it is dropped");
    place(&rig).await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_never_ends_ends_its_connection_however_alive_its_client_is() {
    let rig = start(&[
        ("SOCKET__MESSAGE_TIMEOUT", "1s"),
        ("SOCKET__PING_INTERVAL", "100ms"),
        ("SOCKET__CLOSE_TIMEOUT", "200ms"),
    ]);
    let message = masked(1, br#"{"event":"ping"}"#);
    let mut fragment = message.clone();
    fragment[0] &= 0x7F;
    let neighbour = async {
        // each message comes in two halves, the second with the first of the next: there is always one incomplete
        let mut raw = rig.joined("neighbour").await;
        let (first, second) = message.split_at(9);
        raw.bytes(first).await;
        while rig.sample(r#"oxipush_closes_total{code="3005"}"#) < 4 {
            tokio::time::sleep(Duration::from_millis(50)).await;
            raw.bytes(&[second, first].concat()).await;
            assert_eq!(raw.next_text_unanswered().await, OK);
        }
    };
    let endless = async {
        for (what, begun) in [
            ("a header's first byte", &message[..1]),
            ("a header and a half of its payload", &message[..9]),
            ("a fragment that nothing follows", &fragment),
            ("half a ping", &masked(9, b"hello")[..7]),
        ] {
            let mut raw = rig.joined("ada").await;
            raw.bytes(begun).await;
            let whole_frames = what.contains("fragment");
            let code = loop {
                match raw.next().await.expect(what) {
                    // it answers wherever a frame may begin
                    (9, payload) if whole_frames => raw.frame(0xA, &payload).await,
                    (9, _) => {}
                    (8, payload) => break u16::from_be_bytes([payload[0], payload[1]]),
                    other => panic!("{what}: {other:?}"),
                }
            };
            assert_eq!(code, 3005, "{what}");
        }
    };
    tokio::join!(neighbour, endless);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_request_is_refused_and_ends_its_connection() {
    let rig = start(&[]);
    let mut neighbour = rig.joined("ada").await;
    let many: String = (0..200).map(|n| format!("h{n}: 1\r\n")).collect();
    for (request, expected) in [
        ("\0rubbish\r\n\r\n".to_owned(), "400"),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".into(), "400"),
        ("GET /ws HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n".into(), "400"),
        (format!("GET /ws HTTP/1.1\r\nhost: x\r\n{many}\r\n"), "431"),
    ] {
        let mut raw = Raw::request(rig.address, &request).await;
        assert_eq!(raw.head.split(' ').nth(1), Some(expected), "{}", raw.head);
        let mut rest = Vec::new();
        let end = tokio::time::timeout(PATIENCE, raw.stream.read_to_end(&mut rest)).await;
        assert!(end.is_ok(), "the connection stays open after {expected}");
    }
    rig.push(&["ada"], "still here").await;
    assert_eq!(neighbour.content().await, "still here");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_never_ends_is_cut() {
    let rig = start(&[("SOCKET__HANDSHAKE_TIMEOUT", "2s")]);
    let mut stream = TcpStream::connect(rig.address).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut stream, b"GET /ws HTTP/1.1\r\nhost: loc").await.unwrap();
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.unwrap();
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 408 "), "{:?}", String::from_utf8_lossy(&answer));
    rig.joined("ada").await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_connection_too_many_is_refused_until_another_ends() {
    let rig = start(&[("SOCKET__MAX_CONNECTIONS", "2")]);
    let (one, _two) = (rig.joined("ada").await, rig.joined("ada").await);
    let full = Raw::request(rig.address, &handshake("/ws", "")).await.head;
    assert!(full.starts_with("HTTP/1.1 503 ") && full.contains("\r\nretry-after: "), "{full}");
    refused(&rig, "full", 1).await;
    drop(one);
    place(&rig).await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_of_one_address_are_bounded_and_a_forged_header_does_not_help() {
    let rig = start(&[("SOCKET__MAX_CONNECTIONS_PER_ADDRESS", "1")]);
    let one = rig.joined("ada").await;
    let full = Raw::request(rig.address, &handshake("/ws", "x-forwarded-for: 9.9.9.9\r\n")).await.head;
    assert!(full.starts_with("HTTP/1.1 429 ") && full.contains("\r\nretry-after: "), "{full}");
    refused(&rig, "address_full", 1).await;
    drop(one);
    place(&rig).await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behind_a_trusted_proxy_the_clients_own_address_counts() {
    let rig = start(&[
        ("SOCKET__MAX_CONNECTIONS_PER_ADDRESS", "1"),
        ("SOCKET__TRUSTED_PROXIES", "127.0.0.0/8"),
        ("SOCKET__ANONYMOUS", "true"),
    ]);
    let _one = Raw::connect(rig.address, "x-forwarded-for: 9.9.9.9\r\n").await;
    let _two = Raw::connect(rig.address, "x-forwarded-for: 9.9.9.8\r\n").await;
    // what the client itself put left of what the proxy saw is not believed
    assert_eq!(status(&rig, &handshake("/ws", "x-forwarded-for: 1.1.1.1, 9.9.9.9\r\n")).await, "429");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_breach_of_the_protocol_has_its_close_code_and_neighbours_do_not_notice() {
    let rig = start(&[("SOCKET__MAX_MESSAGE", "1KiB")]);
    let mut neighbour = rig.joined("neighbour").await;
    let mut gigabyte = vec![0x82, 0x80 | 127];
    gigabyte.extend_from_slice(&(1_u64 << 30).to_be_bytes());
    gigabyte.extend_from_slice(&[1, 2, 3, 4]);
    let join = |card: &str| format!(r#"{{"event":"join","data":{{"card_id":"{card}"}}}}"#).into_bytes();
    let mut endless = vec![0x01, 0x80, 1, 2, 3, 4];
    endless.extend([0x00, 0x80, 1, 2, 3, 4].repeat(1025));
    let mut reserved = masked(1, b"x");
    reserved[0] |= 0x40;
    for (what, bytes, code) in [
        ("a header that announces 1 GB", gigabyte, 3503),
        ("a message over max_message", masked(1, &[b'x'; 1025]), 3503),
        ("a message of empty fragments without end", endless, 3503),
        ("an unmasked frame", b"\x81\x02hi".to_vec(), 1002),
        ("reserved bits", reserved, 1002),
        ("a reserved opcode", masked(3, b""), 1002),
        ("text that is not UTF-8", masked(1, b"\xff\xfe"), 1007),
        ("a binary message", masked(2, b"x"), 1003),
        ("bad JSON", masked(1, b"{"), 3500),
        ("an unknown event", masked(1, br#"{"event":"fly"}"#), 3500),
        ("a join without a card", masked(1, &join("")), 3500),
        ("a name that is too long", masked(1, &join(&"x".repeat(129))), 3500),
        ("a name with a control character", masked(1, &join(r"a\u0007b")), 3500),
    ] {
        let before = rig.sample(&format!(r#"oxipush_closes_total{{code="{code}"}}"#));
        let mut raw = rig.connect().await;
        raw.bytes(&bytes).await;
        let (got, text) = raw.closed().await;
        assert_eq!(got, code, "{what}: {text}");
        assert!(!text.is_empty(), "{what}");
        drop(raw);
        rig.reaches(&format!(r#"oxipush_closes_total{{code="{code}"}}"#), before + 1).await;
        rig.push(&["neighbour"], what).await;
        assert_eq!(neighbour.content().await, what);
    }
    assert_eq!(rig.hub.census().connections, 1);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn oxipush_v1_is_told_its_errors_and_goes_on() {
    let rig = start(&[]);
    let mut raw = rig.connect_v1().await;
    for (text, code) in [
        ("{", "bad_json"),
        (r#"{"event":"fly"}"#, "unknown_event"),
        (r#"{"event":"join","data":{"card_id":""}}"#, "bad_name"),
        (r#"{"event":"leave"}"#, "not_joined"),
    ] {
        raw.text(text).await;
        let answer: serde_json::Value = serde_json::from_str(&raw.next_text().await).unwrap();
        assert_eq!((&answer["event"], &answer["data"]["code"]), (&"error".into(), &code.into()), "{text}");
        assert_eq!(rig.sample(&format!(r#"oxipush_client_errors_total{{error="{code}"}}"#)), 1);
    }
    raw.join_v1("ada", "").await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_join_in_time_is_closed_and_who_joined_stays() {
    let rig = start(&[("SOCKET__JOIN_TIMEOUT", "3s")]);
    let (mut joined, mut late) = (rig.joined("ada").await, rig.connect().await);
    assert_eq!(late.closed().await.0, 3501);
    joined.has_nothing().await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_answers_no_ping_is_closed_as_idle_and_dropped() {
    let rig = start(&[
        ("SOCKET__PING_INTERVAL", "500ms"),
        ("SOCKET__IDLE_TIMEOUT", "3s"),
        ("SOCKET__CLOSE_TIMEOUT", "200ms"),
    ]);
    let mut raw = rig.joined("ada").await;
    assert_eq!(raw.closed().await.0, 3002);
    // it neither answers the close frame nor ends its side: it is dropped all the same
    until("the drop", || rig.hub.census().connections == 0).await;
    rig.reaches(r#"oxipush_closes_total{code="3002"}"#, 1).await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_pings_ends_the_flooder() {
    let rig = start(&[("SOCKET__MAX_MESSAGES_PER_SECOND", "5"), ("SOCKET__MESSAGE_BURST", "5")]);
    let mut raw = rig.joined("ada").await;
    // more than two seconds may take
    let flood: Vec<u8> = (0..100).flat_map(|_| masked(9, b"")).collect();
    raw.bytes(&flood).await;
    let mut pongs = 0;
    loop {
        match raw.next().await.expect("no close frame") {
            (0xA, _) => pongs += 1,
            (8, payload) => break assert_eq!(payload[..2], 3500_u16.to_be_bytes()),
            other => panic!("{other:?}"),
        }
    }
    assert!(pongs <= 10, "{pongs}");
    drop(raw);
    rig.reaches(r#"oxipush_closes_total{code="3500"}"#, 1).await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_that_come_with_the_handshake_or_one_by_one_are_heard() {
    let rig = start(&[]);
    let join = masked(1, br#"{"event":"join","data":{"card_id":"ada"}}"#);
    let mut request = handshake("/ws", "").into_bytes();
    request.extend_from_slice(&join);
    let mut early = Raw::request(rig.address, request).await;
    assert_eq!(early.next_text().await, OK);
    let mut slow = rig.connect().await;
    slow.stream.set_nodelay(true).unwrap();
    for byte in join {
        slow.bytes(&[byte]).await;
        tokio::task::yield_now().await;
    }
    assert_eq!(slow.next_text().await, OK);
    assert_eq!(rig.hub.connections("ada"), 2);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_stops_is_evicted_and_its_neighbours_get_everything() {
    let times = [("SOCKET__CLOSE_TIMEOUT", "500ms"), ("SOCKET__USER_TIMEOUT", "500ms")];
    let rig = start(&[&[("OUTBOX__MAX_BYTES", "256KiB")][..], &times].concat());
    let mut stuck = Raw::connect_narrow(rig.address, "").await;
    stuck.join("ada", "").await;
    let mut neighbour = rig.joined("ada").await;
    let mut sent = 0;
    while rig.sample(r#"oxipush_closes_total{code="3001"}"#) == 0 {
        assert!(sent < 4096, "not evicted");
        rig.push(&["ada"], &bulk(sent, 32 * 1024)).await;
        assert_eq!(neighbour.content().await, bulk(sent, 32 * 1024));
        sent += 1;
    }
    rig.reaches(r#"oxipush_offers_total{outcome="slow"}"#, 1).await;
    rig.reaches(r#"oxipush_drops_total{reason="slow"}"#, 1).await;
    until("its leave", || rig.hub.connections("ada") == 1).await;
    // what it still gets are whole frames in order, or the connection's end
    let mut expected = 0;
    while let Some((1, text)) = stuck.next().await {
        let push: serde_json::Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(number(push["data"].as_str().unwrap()), expected);
        expected += 1;
    }
    assert!(expected < sent);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_reader_that_goes_on_later_than_close_timeout_reads_3001() {
    let rig = start(&[("OUTBOX__MAX_BYTES", "256KiB"), ("SOCKET__CLOSE_TIMEOUT", "100ms")]);
    let mut slow = Raw::connect_narrow(rig.address, "").await;
    slow.join("ada", "").await;
    let mut sent = 0;
    while rig.sample(r#"oxipush_offers_total{outcome="slow"}"#) == 0 {
        assert!(sent < 4096, "not too slow");
        rig.push(&["ada"], &bulk(sent, 32 * 1024)).await;
        sent += 1;
        if sent > 64 {
            // the shard may be behind
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    // what it says meanwhile is read, and so does not reset the connection
    slow.text(r#"{"event":"ping"}"#).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(rig.sample(r#"oxipush_closes_total{code="3001"}"#), 0, "still there");
    let close = loop {
        match slow.next().await.expect("a close frame before the end") {
            (8, payload) => break u16::from_be_bytes([payload[0], payload[1]]),
            other => assert_eq!(other.0, 1, "{other:?}"),
        }
    };
    assert_eq!(close, 3001);
    drop(slow);
    rig.reaches(r#"oxipush_closes_total{code="3001"}"#, 1).await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_reader_gets_every_byte_in_order() {
    let rig = start(&[("OUTBOX__MAX_BYTES", "64MiB")]);
    let mut slow = Raw::connect_narrow(rig.address, "").await;
    slow.join("ada", "").await;
    // sizes around the gathering of small frames and above it
    let sizes = [10, 100, 130, 5_000, 16_300, 16_384, 20_000, 60_000];
    let content = |n: usize| bulk(n, sizes[n % sizes.len()]);
    const PUSHES: usize = 800;
    let sending = async {
        for n in 0..PUSHES {
            rig.push(&["ada"], &content(n)).await;
            if n % 100 == 99 {
                // a direct answer must find its place between the pushes
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    };
    let reading = async {
        // first nothing is read at all: the kernel's buffers and the outbox fill
        tokio::time::sleep(Duration::from_millis(300)).await;
        for n in 0..PUSHES {
            assert!(slow.content().await == content(n), "push {n} differs");
            if n % 50 == 0 {
                slow.text(r#"{"event":"read"}"#).await;
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        slow.has_nothing().await;
    };
    tokio::join!(sending, reading);
    rig.reaches("oxipush_deliveries_total", PUSHES as u64).await;
    rig.stop().await;
}

/// Pushes until the outbox of a reader that reads nothing yet lost some, then reads what it has. The contents it got.
async fn overwhelm(rig: &Rig, lost: &str, make: impl Fn(usize) -> Push) -> (usize, Vec<String>) {
    let mut slow = Raw::connect_narrow(rig.address, "").await;
    slow.join("ada", "").await;
    let mut sent = 0;
    while rig.sample(lost) < 20 {
        assert!(sent < 4096, "nothing was lost");
        rig.send(&make(sent)).await;
        sent += 1;
        rig.reaches(r#"oxipush_jobs_total{outcome="finished"}"#, sent as u64).await;
    }
    let mut got = Vec::new();
    loop {
        got.push(slow.content().await);
        if number(got.last().unwrap()) == sent - 1 {
            break;
        }
    }
    slow.has_nothing().await;
    assert_eq!(rig.hub.connections("ada"), 1, "it was not evicted");
    (sent, got)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drop_oldest_keeps_the_newest_whole_and_in_order() {
    let rig = start(&[("OUTBOX__MAX_BYTES", "256KiB"), ("OUTBOX__POLICY", "drop_oldest")]);
    let lost = r#"oxipush_drops_total{reason="drop_oldest"}"#;
    let (sent, got) = overwhelm(&rig, lost, |n| push(&["ada"], &bulk(n, 30_000))).await;
    assert!(got.iter().all(|content| *content == bulk(number(content), 30_000)), "a frame is damaged");
    assert!(got.windows(2).all(|pair| number(&pair[0]) < number(&pair[1])), "out of order");
    assert_eq!(got.len() as u64 + rig.sample(lost), sent as u64);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conflate_keeps_the_newest_of_each_key() {
    let rig = start(&[("OUTBOX__MAX_BYTES", "256KiB"), ("OUTBOX__POLICY", "conflate")]);
    let lost = r#"oxipush_drops_total{reason="conflated"}"#;
    let (sent, got) = overwhelm(&rig, lost, |n| Push {
        collapse_key: Some(format!("key-{}", n % 3).into()),
        ..push(&["ada"], &bulk(n, 30_000))
    })
    .await;
    assert!(got.iter().all(|content| *content == bulk(number(content), 30_000)), "a frame is damaged");
    assert!(got.windows(2).all(|pair| number(&pair[0]) < number(&pair[1])), "out of order");
    let newest: Vec<usize> = got.iter().rev().take(3).rev().map(|content| number(content)).collect();
    assert_eq!(newest, [sent - 3, sent - 2, sent - 1]);
    assert_eq!(rig.sample(r#"oxipush_drops_total{reason="drop_oldest"}"#), 0);
    assert_eq!(got.len() as u64 + rig.sample(lost), sent as u64);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_does_not_wait_for_a_peer_that_reads_nothing() {
    let rig = start(&[("OUTBOX__MAX_BYTES", "64MiB"), ("SOCKET__CLOSE_TIMEOUT", "300ms")]);
    let mut stuck = Raw::connect_narrow(rig.address, "").await;
    stuck.join("ada", "").await;
    for n in 0..400 {
        rig.push(&["ada"], &bulk(n, 32 * 1024)).await;
    }
    rig.reaches(r#"oxipush_jobs_total{outcome="finished"}"#, 400).await;
    rig.clients.drain(0, Duration::ZERO, patience()).await;
    assert_eq!(rig.clients.gone(patience()).await, 0);
    assert_eq!(rig.sample(r#"oxipush_closes_total{code="3000"}"#), 1);
    rig.reaches(r#"oxipush_drops_total{reason="closed"}"#, 1).await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_that_connect_and_vanish_leave_nothing_behind() {
    let rig = start(&[]);
    for round in 0..10 {
        let raws = futures_util::future::join_all((0..100).map(|n| {
            let rig = &rig;
            async move { rig.joined(&format!("card-{round}-{}", n % 50)).await }
        }))
        .await;
        drop(raws);
    }
    until("nobody", || rig.hub.census().connections == 0 && rig.hub.census().groups == 0).await;
    assert_eq!(rig.sample("oxipush_joins_total"), 1000);
    assert_eq!((rig.sample("oxipush_connections"), rig.sample("oxipush_groups")), (0, 0));
    rig.stop().await;
}
