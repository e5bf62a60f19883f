//! A request's head costs in proportion to its bytes, however it is cut. Processor time is what is compared, and of one process,
//! so that what else the machine does matters little.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{support::client::PATIENCE, victim::Victim};

/// Bytes of a head.
const HEAD: usize = 30 * 1024;

/// A head of one long header.
fn head() -> Vec<u8> {
    let begun = "GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\nx: ";
    format!("{begun}{}\r\n\r\n", "y".repeat(HEAD - begun.len() - 4)).into_bytes()
}

/// Sends a head in so many pieces, each on its own, and sees that it is answered.
async fn ask(address: SocketAddr, pieces: usize) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let head = head();
    for piece in head.chunks(HEAD.div_ceil(pieces)) {
        stream.write_all(piece).await.unwrap();
        // the gateway reads it before the next comes, mostly
        tokio::task::yield_now().await;
    }
    let mut answer = String::new();
    tokio::time::timeout(PATIENCE, stream.read_to_string(&mut answer)).await.expect("an answer within 30 s").unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

/// Processor time for so many heads in so many pieces each.
async fn cost(victim: &Victim, address: SocketAddr, heads: u32, pieces: usize) -> Duration {
    let before = victim.processor_time();
    for _ in 0..heads {
        ask(address, pieces).await;
    }
    (victim.processor_time() - before) / heads
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_costs_in_proportion_to_its_bytes_however_it_is_cut() {
    let victim = Victim::start(&[]).await;
    for (port, address) in [("api", victim.http()), ("clients", victim.socket())] {
        let whole = cost(&victim, address, 200, 1).await;
        let hundred = cost(&victim, address, 100, 100).await;
        let each = cost(&victim, address, 4, HEAD).await;
        eprintln!("{port}: whole {whole:?}, in 100 pieces {hundred:?}, byte by byte {each:?}");
    }
}
