//! Slowloris: what never becomes whole, on each listener, byte by byte.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{support::client::PATIENCE, victim::Victim};

/// Sends `begun`, then bytes of `endless` again and again, one each 50 ms, until the gateway ends it; gives what it answered.
pub async fn drip(address: SocketAddr, begun: &[u8], endless: &[u8]) -> String {
    let stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let (mut read, mut write) = stream.into_split();
    let _ = write.write_all(begun).await;
    let dripped = async {
        let mut bytes = endless.iter().cycle();
        while write.write_all(&[*bytes.next().unwrap()]).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let mut answer = Vec::new();
    let answered = async {
        // a reset ends it too
        let _ = read.read_to_end(&mut answer).await;
    };
    let ended = async {
        tokio::select! {
            () = dripped => {}
            () = answered => {}
        }
    };
    tokio::time::timeout(PATIENCE, ended).await.expect("it is cut within 30 s");
    String::from_utf8_lossy(&answer).into_owned()
}

/// Attackers at once.
const ATTACKERS: usize = 100;

/// What is dripped on a listener, and what its sender may be told.
struct Row {
    what: &'static str,
    begun: &'static [u8],
    endless: &'static [u8],
    statuses: &'static [&'static str],
}

async fn all_are_cut(victim: &Victim, address: SocketAddr, rows: &[Row]) {
    for Row { what, begun, endless, statuses } in rows {
        let attacks = (0..ATTACKERS).map(|_| drip(address, begun, endless));
        for answer in victim.endures(what, futures_util::future::join_all(attacks)).await {
            let status = answer.split(' ').nth(1).unwrap_or_default();
            assert!(statuses.contains(&status), "{what}: {answer:?}");
        }
    }
}

const GET: &[u8] = b"GET /ws HTTP/1.1\r\nhost: x\r\n";
const PUSH: &[u8] = b"POST /push HTTP/1.1\r\nhost: x\r\nauthorization: Bearer a-bystanders-key-of-24-bytes\r\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_are_dripped_on_the_clients_port_are_cut() {
    let victim = Victim::start(&[("SOCKET__HANDSHAKE_TIMEOUT", "1s")]).await;
    let rows = [
        Row { what: "a dripped line", begun: b"", endless: b"GET/", statuses: &["", "408", "400"] },
        Row { what: "a dripped header", begun: GET, endless: b"x", statuses: &["", "408"] },
        Row { what: "dripped headers", begun: GET, endless: b"a: b\r\n", statuses: &["", "408"] },
        Row { what: "empty lines", begun: b"", endless: b"\r\n", statuses: &["", "408"] },
    ];
    all_are_cut(&victim, victim.socket(), &rows).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_are_dripped_on_the_api_are_cut() {
    let victim = Victim::start(&[("HTTP__REQUEST_TIMEOUT", "1s"), ("QUEUE__PUBLISH_TIMEOUT", "100ms")]).await;
    let body = [PUSH, b"content-length: 100000\r\n\r\n"].concat().leak();
    let chunked = |rest: &'static str| &*[PUSH, b"transfer-encoding: chunked\r\n\r\n", rest.as_bytes()].concat().leak();
    let rows = [
        Row { what: "a dripped line", begun: b"", endless: b"GET/", statuses: &["", "408", "400"] },
        Row { what: "a dripped header", begun: GET, endless: b"x", statuses: &["", "408"] },
        Row { what: "dripped headers", begun: GET, endless: b"a: b\r\n", statuses: &["", "408"] },
        Row { what: "empty lines", begun: b"", endless: b"\r\n", statuses: &["", "408"] },
        Row { what: "a dripped body", begun: body, endless: b" ", statuses: &["408"] },
        Row { what: "dripped chunks", begun: chunked(""), endless: b"1\r\n \r\n", statuses: &["408"] },
        Row { what: "a chunk's endless extension", begun: chunked("1;"), endless: b"x", statuses: &["408"] },
        Row { what: "a chunk's endless size", begun: chunked(""), endless: b"0", statuses: &["408", "400"] },
        Row { what: "endless trailers", begun: chunked("0\r\n"), endless: b"a: b\r\n", statuses: &["408"] },
    ];
    all_are_cut(&victim, victim.http(), &rows).await;
}
