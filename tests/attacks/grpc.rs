//! Floods of HTTP/2 frames on the gRPC port, by someone without a key.

use prost::Message;
use tonic_reflection::pb::v1::{ServerReflectionRequest, server_reflection_request::MessageRequest};

use super::{
    http2::{
        Attacker, CONTINUATION, DATA, END_HEADERS, END_STREAM, Ended, HEADERS, PADDED, PING, PRIORITY, RST_STREAM,
        SETTINGS, WINDOW_UPDATE, block, call, frame,
    },
    support::client::PATIENCE,
    victim::Victim,
};

const CLOSES: &str = "oxipush_grpc_closes_total";
const FLOOD: &[(&str, &str)] = &[("reason", "flood")];
const STREAM: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
const WATCH: &str = "/grpc.health.v1.Health/Watch";
const PUSH: &str = "/proto.Rpc/Push";

/// The n-th stream that a client opens.
fn stream(n: u32) -> u32 {
    2 * n + 1
}

/// Attackers at once.
const ATTACKERS: usize = 4;

type Make = Box<dyn Fn(u32) -> Vec<u8>>;

/// Floods that a connection does not survive: what opens it, and what is sent again and again.
fn floods() -> Vec<(&'static str, Vec<u8>, Make)> {
    let opened = || call(STREAM, 1);
    let begun = || frame(HEADERS, 0, 1, &block(STREAM));
    let stays = |bytes: Vec<u8>| -> Make { Box::new(move |_| bytes.clone()) };
    let pair =
        |more: fn(u32) -> Vec<u8>| -> Make { Box::new(move |n| [call(WATCH, stream(n)), more(stream(n))].concat()) };
    let resets: Make = Box::new(|n| [call(PUSH, stream(n)), frame(RST_STREAM, 0, stream(n), &[0, 0, 0, 8])].concat());
    vec![
        ("rapid reset (CVE-2023-44487)", vec![], resets),
        // MadeYouReset (CVE-2025-8671): the gateway is made to reset the calls itself
        ("window updates of nothing", vec![], pair(|stream| frame(WINDOW_UPDATE, 0, stream, &[0; 4]))),
        ("windows that overflow", vec![], pair(|stream| frame(WINDOW_UPDATE, 0, stream, &[0x7F, 0xFF, 0xFF, 0xFF]))),
        (
            "data behind the end",
            vec![],
            pair(|stream| [frame(DATA, END_STREAM, stream, &[0; 5]), frame(DATA, 0, stream, &[0; 5])].concat()),
        ),
        ("priorities of a wrong length", vec![], pair(|stream| frame(PRIORITY, 0, stream, &[0; 4]))),
        ("headers behind the end", vec![], {
            let twice = |n| [frame(HEADERS, END_HEADERS | END_STREAM, stream(n), &block(WATCH)).repeat(2)].concat();
            Box::new(twice)
        }),
        ("empty CONTINUATION", begun(), stays(frame(CONTINUATION, 0, 1, &[]))),
        ("CONTINUATION of small headers", begun(), stays(frame(CONTINUATION, 0, 1, b"\x00\x01a\x01b"))),
        ("full CONTINUATION", begun(), stays(frame(CONTINUATION, 0, 1, &b"\x00\x01a\x01b".repeat(3000)))),
        ("empty DATA", opened(), stays(frame(DATA, 0, 1, &[]))),
        ("DATA of a byte", opened(), stays(frame(DATA, 0, 1, &[0]))),
        ("DATA of padding", opened(), stays(frame(DATA, PADDED, 1, &[2, 0, 0]))),
        ("SETTINGS", vec![], stays(frame(SETTINGS, 0, 0, &[]))),
        ("SETTINGS that say something", vec![], stays(frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0xFF, 0xFF].repeat(40)))),
        ("PING", vec![], stays(frame(PING, 0, 0, &[7; 8]))),
        ("answers to no PING", vec![], stays(frame(PING, 1, 0, &[7; 8]))),
        ("PRIORITY", vec![], Box::new(|n| frame(PRIORITY, 0, stream(n), &[0, 0, 0, 0, 1]))),
        ("WINDOW_UPDATE", opened(), stays(frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]))),
        ("WINDOW_UPDATE of the connection", vec![], stays(frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]))),
        ("RST_STREAM of one call", opened(), stays(frame(RST_STREAM, 0, 1, &[0, 0, 0, 8]))),
        ("frames of no known type", vec![], stays(frame(0x77, 0, 0, &[0; 64]))),
        ("calls that are never finished", vec![], Box::new(|n| call(WATCH, stream(n)))),
        ("a header of 4,000 bytes, 10,000 times (HPACK)", vec![], Box::new(|n| bomb(stream(n)))),
    ]
}

/// A header block that is 40 MB once it is decoded.
fn bomb(stream: u32) -> Vec<u8> {
    let mut headers = block(WATCH);
    // into the dynamic table: a name of one byte, a value of 4,000
    headers.extend([0x40, 1, b'x', 0x7F]);
    headers.extend([(4000 - 127) as u8 | 0x80, ((4000 - 127) >> 7) as u8]);
    headers.extend([b'y'; 4000]);
    headers.extend([0xBE; 10_000]);
    frame(HEADERS, END_HEADERS, stream, &headers)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_flood_of_frames_ends_its_connection_and_nobody_elses() {
    let victim = Victim::start(&[]).await;
    for (what, opening, make) in floods() {
        let before = closes(&victim).await;
        let attacks = (0..ATTACKERS).map(|_| async {
            let mut attacker = Attacker::connect(victim.grpc(), &[]).await;
            attacker.send(&opening).await;
            attacker.flood(200_000, &make).await;
            attacker.ended(PATIENCE).await
        });
        let ends = victim.endures(what, futures_util::future::join_all(attacks)).await;
        for end in &ends {
            // 2 would be INTERNAL_ERROR: a fault of the gateway
            assert!(matches!(end, Ended::Closed(code) if *code != Some(2)), "{what}: {end:?}");
        }
        let counted = closes(&victim).await - before;
        assert_eq!(counted, ATTACKERS as f64, "{what}: {ends:?}");
    }
    let floods = victim.metric(CLOSES, FLOOD).await;
    assert!(floods >= 12.0 * ATTACKERS as f64, "{floods}");
}

async fn closes(victim: &Victim) -> f64 {
    victim.metric(CLOSES, FLOOD).await + victim.metric(CLOSES, &[("reason", "protocol")]).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_are_reset_once_they_have_begun_leave_nothing_behind() {
    let victim = Victim::start(&[]).await;
    let attack = async {
        let attacks = (0..ATTACKERS).map(|_| async {
            let mut attacker = Attacker::connect(victim.grpc(), &[]).await;
            for round in 0..200_u32 {
                let of_round = |n| stream(round * 20 + n);
                // a message of nothing: the status of the whole node is watched
                let whole = |n| [call(WATCH, of_round(n)), frame(DATA, END_STREAM, of_round(n), &[0; 5])].concat();
                let begun: Vec<u8> = (0..20).flat_map(whole).collect();
                assert!(attacker.send(&begun).await);
                attacker.answered((round + 1) * 20).await;
                let resets: Vec<u8> = (0..20).flat_map(|n| frame(RST_STREAM, 0, of_round(n), &[0, 0, 0, 8])).collect();
                assert!(attacker.send(&resets).await);
            }
        });
        futures_util::future::join_all(attacks).await
    };
    victim.endures("16,000 calls that are reset", attack).await;
    assert_eq!(closes(&victim).await, 0.0, "a caller may give up its calls");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_nobody_takes_and_calls_that_never_end_are_given_up_with_their_connection() {
    const CONNECTIONS: usize = 32;
    const CALLS: usize = 250;
    let victim = Victim::start(&[("GRPC__IDLE_TIMEOUT", "2s"), ("GRPC__PING_INTERVAL", "1s")]).await;
    // a window of nothing: each call has its answer ready and may send none of it
    let closed = [0, 4, 0, 0, 0, 0];
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::FileContainingSymbol("proto.Rpc".into())),
    };
    let mut asked = vec![0];
    asked.extend((request.encoded_len() as u32).to_be_bytes());
    asked.extend(request.encode_to_vec());
    let attack = async {
        let attacks = (0..CONNECTIONS).map(|n| {
            let (victim, asked) = (&victim, &asked);
            async move {
                let mut attacker = match n % 2 {
                    0 => Attacker::connect(victim.grpc(), &closed).await,
                    _ => Attacker::deaf(victim.grpc(), &closed).await,
                };
                for n in 0..CALLS as u32 {
                    let call = call(STREAM, stream(n));
                    assert!(attacker.send(&[call, frame(DATA, 0, stream(n), asked)].concat()).await);
                }
                attacker.ended(PATIENCE).await
            }
        });
        futures_util::future::join_all(attacks).await
    };
    let ends = victim.endures("8,000 answers that nobody takes", attack).await;
    for end in ends {
        assert!(matches!(end, Ended::Closed(_)), "{end:?}");
    }
    let refused = [("protocol", "grpc"), ("status", "RESOURCE_EXHAUSTED")];
    assert_eq!(victim.metric("oxipush_requests_total", &refused).await, (CONNECTIONS * (CALLS - 8)) as f64);
    assert!(victim.metric(CLOSES, &[("reason", "idle")]).await >= (CONNECTIONS / 2) as f64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_greeting_that_is_dripped_is_cut() {
    let victim = Victim::start(&[("HTTP__REQUEST_TIMEOUT", "1s")]).await;
    let attack = async {
        let attacks =
            (0..64).map(|_| super::slow::drip(victim.grpc(), b"", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04"));
        futures_util::future::join_all(attacks).await
    };
    victim.endures("64 greetings that are dripped", attack).await;
    victim.metric_reaches(CLOSES, &[("reason", "silent")], 64.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_that_never_end_are_cut() {
    let victim = Victim::start(&[("GRPC__IDLE_TIMEOUT", "1s"), ("GRPC__PING_INTERVAL", "500ms")]).await;
    let attack = async {
        let attacks = (0..64).map(|_| async {
            let mut attacker = Attacker::connect(victim.grpc(), &[]).await;
            let headers = block(STREAM);
            // and within a frame that never is whole
            let begun = [frame(HEADERS, 0, 1, &headers), frame(CONTINUATION, 0, 1, &headers)[..20].to_vec()].concat();
            assert!(attacker.send(&begun).await);
            attacker.ended(PATIENCE).await
        });
        futures_util::future::join_all(attacks).await
    };
    for end in victim.endures("64 heads without an end", attack).await {
        assert!(matches!(end, Ended::Closed(_)), "{end:?}");
    }
    victim.metric_reaches(CLOSES, &[("reason", "idle")], 1.0).await;
}
