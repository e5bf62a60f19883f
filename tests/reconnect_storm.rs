//! Thousands that connect at once: neighbours do not notice, everything is counted, and the memory comes back.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::{net::SocketAddr, time::Duration};

use futures_util::{StreamExt, stream};
use support::{
    client::{Client, PATIENCE},
    gateway::sample,
    process::Process,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// Connects of one wave, and how many are open at once.
const WAVE: usize = 2000;
const AT_ONCE: usize = 200;
/// A debug build's allocator keeps some; 8,000 connections that stayed behind would be more.
const KEPT_KIB: u64 = 16 * 1024;

/// One of a wave: some are good, some say nothing, rubbish, or half of a handshake, and all vanish.
async fn come_and_go(address: SocketAddr, number: usize) {
    let visit = async {
        let mut stream = TcpStream::connect(address).await?;
        // the port is free again at once
        let socket = socket2::SockRef::from(&stream);
        socket.set_linger(Some(Duration::ZERO))?;
        let handshake = "GET /ws HTTP/1.1\r\nhost: x\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
            sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        match number % 8 {
            0 => {}
            1 => stream.write_all(&handshake.as_bytes()[..40]).await?,
            2 => {
                stream.write_all(b"\0rubbish\r\n\r\n").await?;
                hear(&mut stream, b"\r\n\r\n").await?;
            }
            3 => {
                // a masked header that announces 1 GB
                stream.write_all(handshake.as_bytes()).await?;
                stream.write_all(&[0x81, 0xFF, 0, 0, 0, 0, 0x40, 0, 0, 0, 1, 2, 3, 4]).await?;
                stream.read_to_end(&mut Vec::new()).await?;
            }
            _ => {
                stream.write_all(handshake.as_bytes()).await?;
                hear(&mut stream, b"\r\n\r\n").await?;
                let join = format!(r#"{{"event":"join","data":{{"card_id":"card-{number}","app_id":""}}}}"#);
                // masked with zeros
                let mut frame = vec![0x81, 0x80 | join.len() as u8, 0, 0, 0, 0];
                frame.extend_from_slice(join.as_bytes());
                stream.write_all(&frame).await?;
                hear(&mut stream, br#""ok"}"#).await?;
            }
        }
        Ok::<_, std::io::Error>(())
    };
    // a refused connect or a reset is the gateway's good right
    let _ = timeout(PATIENCE, visit).await.expect("a visit ends");
}

/// Reads up to `end`.
async fn hear(stream: &mut TcpStream, end: &[u8]) -> std::io::Result<()> {
    let mut heard = Vec::new();
    while !heard.ends_with(end) {
        heard.push(stream.read_u8().await?);
    }
    Ok(())
}

async fn wave(address: SocketAddr) {
    stream::iter(0..WAVE).for_each_concurrent(AT_ONCE, |number| come_and_go(address, number)).await;
}

fn resident_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

async fn metric(process: &Process, name: &str, labels: &[(&str, &str)]) -> f64 {
    let text = crate::support::http::get(process.url("/metrics")).await.unwrap().text().await.unwrap();
    sample(&text, name, labels)
}

async fn emptied_but_for(process: &Process, connections: f64) {
    let waited = timeout(PATIENCE * 2, async {
        while metric(process, "oxipush_connections", &[]).await > connections {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    assert!(waited.await.is_ok(), "connections stay that are gone");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_that_come_and_go_leave_nothing_and_disturb_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_string_lossy().into_owned();
    let mut process =
        Process::spawn(&[("DATA__DIR", &path), ("QUEUE__SYNC", "100ms"), ("SOCKET__IDLE_TIMEOUT", "10m")]);
    assert!(process.ready().await);
    let mut neighbour = Client::gopusher(&process.ws(), "neighbour", "").await;
    let address = process.socket;
    wave(address).await;
    emptied_but_for(&process, 1.0).await;
    let warm = resident_kib(process.id());
    let http = crate::support::http::client();
    for number in 0..4 {
        let pushing = async {
            let body = serde_json::json!({"from": "", "to": ["neighbour"], "appID": "", "content": number.to_string()});
            let answer = http.post(process.url("/push")).json(&body).send().await.unwrap();
            assert_eq!(answer.status(), 200);
            assert_eq!(neighbour.content().await, number.to_string());
        };
        tokio::join!(wave(address), pushing);
    }
    emptied_but_for(&process, 1.0).await;
    assert!(metric(&process, "oxipush_joins_total", &[]).await >= 1.0 + 5.0 * WAVE as f64 / 4.0);
    assert!(metric(&process, "oxipush_closes_total", &[("code", "3503")]).await >= 5.0 * WAVE as f64 / 16.0);
    let mut now = resident_kib(process.id());
    for _ in 0..300 {
        if now <= warm + KEPT_KIB {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        now = resident_kib(process.id());
    }
    println!("resident: {warm} KiB after the first wave, {now} KiB after four more");
    assert!(now <= warm + KEPT_KIB, "resident: {warm} KiB after the first wave, {now} KiB after four more");
    process.terminate();
    assert_eq!(process.ended().await, Some(0));
}
