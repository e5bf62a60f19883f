//! A request's head costs in proportion to its bytes, however it is cut. Processor time is what is compared, and of one process,
//! so that what else the machine does matters little.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use super::{support::client::PATIENCE, victim::Victim};

/// Bytes of a head that the clients' port still takes.
const HEAD: usize = 30 * 1024;

/// What a tick of the system's clock may be off, and what answering costs.
const SLACK: Duration = Duration::from_millis(100);

/// A head of one long header.
fn head(bytes: usize) -> Vec<u8> {
    let begun = "GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\nx: ";
    format!("{begun}{}\r\n\r\n", "y".repeat(bytes - begun.len() - 4)).into_bytes()
}

/// Sends a head in pieces of so many bytes, each on its own, and sees that it is answered.
fn ask(address: SocketAddr, head: &[u8], piece: usize) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    for piece in head.chunks(piece) {
        stream.write_all(piece).unwrap();
        if piece.len() < head.len() {
            // the gateway reads it before the next comes, mostly
            std::thread::sleep(Duration::from_micros(20));
        }
    }
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer within 30 s");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

/// Processor time for so many heads of `bytes` in pieces of `piece` bytes.
async fn cost(victim: &Victim, address: SocketAddr, heads: usize, bytes: usize, piece: usize) -> Duration {
    let head = head(bytes);
    let before = victim.processor_time();
    let asked = move || (0..heads).for_each(|_| ask(address, &head, piece));
    // tokio's timer knows no shorter time than 1 ms
    tokio::task::spawn_blocking(asked).await.unwrap();
    victim.processor_time() - before
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_costs_in_proportion_to_its_bytes_however_it_is_cut() {
    let settings = [("HTTP__REQUEST_TIMEOUT", "1m"), ("SOCKET__HANDSHAKE_TIMEOUT", "1m")];
    let victim = Victim::start(&settings).await;
    let clients = bytewise(&victim, "clients", victim.socket()).await;
    // as many bytes in short heads: the square of the length would be up to eight times as much
    let short = cost(&victim, victim.socket(), 8, HEAD / 8, 1).await;
    assert!(clients < short * 2 + SLACK, "{clients:?} byte by byte, {short:?} in short heads");
    // the API's parser begins anew each time, but is not asked for each byte; without that it took twice the time of the other
    let api = bytewise(&victim, "api", victim.http()).await;
    assert!(api < clients + SLACK, "{api:?} on the API, {clients:?} on the clients' port");
}

/// Processor time for a head byte by byte; in 100 pieces it costs not much more than whole.
async fn bytewise(victim: &Victim, port: &str, address: SocketAddr) -> Duration {
    let whole = cost(victim, address, 100, HEAD, HEAD).await / 100;
    let hundred = cost(victim, address, 100, HEAD, HEAD / 100).await / 100;
    let bytewise = cost(victim, address, 1, HEAD, 1).await;
    eprintln!("{port}: whole {whole:?}, in 100 pieces {hundred:?}, byte by byte {bytewise:?}");
    assert!(hundred < whole * 20 + SLACK, "{port}: {hundred:?} in 100 pieces, {whole:?} whole");
    bytewise
}
