//! Floods of HTTP/2 frames on the gRPC port, by someone without a key.

use std::time::Duration;

use super::{
    http2::{
        Attacker, CALM, CONTINUATION, DATA, END_HEADERS, END_STREAM, Ended, HEADERS, PADDED, PING, PRIORITY,
        RST_STREAM, SETTINGS, WINDOW_UPDATE, block, call, frame,
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
            assert!(matches!(end, Ended::Closed(_)), "{what}: {end:?}");
        }
        let counted = closes(&victim).await - before;
        eprintln!("{what}: {ends:?}, {counted} counted");
        assert_eq!(counted, ATTACKERS as f64, "{what}: {ends:?}");
    }
    let floods = victim.metric(CLOSES, FLOOD).await;
    assert!(floods >= 12.0 * ATTACKERS as f64, "{floods}");
}

async fn closes(victim: &Victim) -> f64 {
    victim.metric(CLOSES, FLOOD).await + victim.metric(CLOSES, &[("reason", "protocol")]).await
}
