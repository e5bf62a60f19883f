//! Requests that two readers could understand in two ways, on both HTTP ports: a proxy before the gateway must never be made to
//! believe that a request ended elsewhere than the gateway believes.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{
    support::client::PATIENCE,
    victim::{KEY, Victim},
};

/// What stands behind each odd request: if it is answered, it was smuggled.
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nhost: x\r\n\r\n";

/// Sends bytes and then `SMUGGLED`; gives the statuses of all answers until the gateway ends the connection.
async fn answers(address: SocketAddr, bytes: &[u8]) -> Vec<String> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // it may be refused before all of it is there
    let _ = stream.write_all(&[bytes, SMUGGLED.as_bytes()].concat()).await;
    let mut answer = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
    let text = String::from_utf8_lossy(&answer).into_owned();
    assert!(read.is_ok(), "the connection stays open: {text}");
    text.split("HTTP/1.1 ").skip(1).map(|answer| answer[..3].to_owned()).collect()
}

/// Heads (behind the request line and `host`) and bodies that must be refused.
const ODD: &[(&str, &str)] = &[
    ("CL+TE", "content-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("TE+CL", "transfer-encoding: chunked\r\ncontent-length: 4\r\n\r\n0\r\n\r\n"),
    ("CL 0+TE", "content-length: 0\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("two lengths", "content-length: 0\r\ncontent-length: 36\r\n\r\n"),
    ("a list of two lengths", "content-length: 0, 36\r\n\r\n"),
    ("a negative length", "content-length: -1\r\n\r\n"),
    ("a length with a plus", "content-length: +0\r\n\r\n"),
    ("a hexadecimal length", "content-length: 0x0\r\n\r\n"),
    ("an empty length", "content-length:\r\n\r\n"),
    ("a length in two parts", "content-length: 0 0\r\n\r\n"),
    ("a length beyond 64 bits", "content-length: 18446744073709551616\r\n\r\n"),
    ("a blank before the colon", "transfer-encoding : chunked\r\n\r\n0\r\n\r\n"),
    ("a blank before a length's colon", "content-length : 36\r\n\r\n"),
    ("an unknown coding", "transfer-encoding: xchunked\r\n\r\n0\r\n\r\n"),
    ("chunked, then another", "transfer-encoding: chunked, gzip\r\n\r\n0\r\n\r\n"),
    ("two codings", "transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n\r\n0\r\n\r\n"),
    ("a coding after a vertical tab", "transfer-encoding: \x0bchunked\r\n\r\n0\r\n\r\n"),
    ("a folded coding", "transfer-encoding:\r\n chunked\r\n\r\n0\r\n\r\n"),
    ("a folded header", "x: a\r\n content-length: 36\r\n\r\n"),
    ("a header that begins with a blank", " content-length: 36\r\n\r\n"),
    ("a bare CR in a value", "x: a\rcontent-length: 36\r\n\r\n"),
    ("a bare CR as a line's end", "content-length: 36\r\r\n\r\n"),
    ("NUL in a value", "x: a\0b\r\n\r\n"),
    ("NUL in a name", "x\0y: a\r\n\r\n"),
    ("a name with a blank", "x y: a\r\n\r\n"),
    ("a line without a colon", "content-length 36\r\n\r\n"),
    ("a second host", "host: y\r\n\r\n"),
];

/// Bodies in chunks that must be refused.
const ODD_CHUNKS: &[(&str, &str)] = &[
    ("a size that is none", "xyz\r\n"),
    ("a negative size", "-1\r\n"),
    ("a size with a plus", "+1\r\n"),
    ("a size with 0x", "0x1\r\na\r\n0\r\n\r\n"),
    ("a blank before the size", " 1\r\na\r\n0\r\n\r\n"),
    ("a size in two parts", "1 1\r\na\r\n0\r\n\r\n"),
    ("a size beyond 64 bits", "10000000000000000\r\n"),
    ("an empty size", "\r\n"),
    ("a size with NUL", "1\0\r\na\r\n0\r\n\r\n"),
    ("a bare LF behind the size", "1\na\r\n0\r\n\r\n"),
    ("a bare CR behind the size", "1\ra\r\n0\r\n\r\n"),
    ("a bare LF in an extension", "1;x\n\r\na\r\n0\r\n\r\n"),
    ("a chunk that is longer than it says", "1\r\nab\r\n0\r\n\r\n"),
    ("a bare LF behind a chunk", "1\r\na\n0\r\n\r\n"),
];

/// Whole beginnings that must be refused.
const ODD_LINES: &[(&str, &str)] = &[
    ("no host", "GET /healthz HTTP/1.1\r\n\r\n"),
    ("two blanks in the first line", "GET  /healthz HTTP/1.1\r\nhost: x\r\n\r\n"),
    ("a blank in the path", "GET /heal thz HTTP/1.1\r\nhost: x\r\n\r\n"),
    ("NUL in the path", "GET /heal\0thz HTTP/1.1\r\nhost: x\r\n\r\n"),
    ("a bare CR in the first line", "GET /healthz\rHTTP/1.1\r\nhost: x\r\n\r\n"),
    ("HTTP/1.2", "GET /healthz HTTP/1.2\r\nhost: x\r\n\r\n"),
    ("HTTP/0.9", "GET /healthz\r\n"),
    ("lower case", "GET /healthz http/1.1\r\nhost: x\r\n\r\n"),
    ("HTTP/2's preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    ("chunks in HTTP/1.0", "POST /push HTTP/1.0\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("a TLS handshake", "\x16\x03\x01\x02\0\x01\0\x01\u{fc}"),
];

fn rows(path: &str) -> Vec<(String, String)> {
    let head = format!("POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\n");
    let of = |(what, rest): &(&str, &str)| ((*what).to_owned(), format!("{head}{rest}"));
    let chunks = ODD_CHUNKS
        .iter()
        .map(|(what, body)| (format!("chunks: {what}"), format!("{head}transfer-encoding: chunked\r\n\r\n{body}")));
    let lines = ODD_LINES.iter().map(|(what, bytes)| ((*what).to_owned(), (*bytes).to_owned()));
    ODD.iter().map(of).chain(chunks).chain(lines).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_can_be_read_in_two_ways_is_refused_and_ends_its_connection() {
    let victim = Victim::start(&[]).await;
    let mut wrong = Vec::new();
    for (port, address, path) in [("api", victim.http(), "/push"), ("clients", victim.socket(), "/ws")] {
        // nothing on the clients' port depends on the host
        let minds = |what: &str| port == "api" || !["no host", "a second host"].contains(&what);
        for (what, bytes) in rows(path).into_iter().filter(|(what, _)| minds(what)) {
            let before = refusals(&victim, port).await;
            let answers = answers(address, bytes.as_bytes()).await;
            let counted = refusals(&victim, port).await - before;
            if answers != ["400"] || counted < 1.0 {
                wrong.push(format!("{port}: {what}: {answers:?}, {counted} counted"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// How many were refused as 400.
async fn refusals(victim: &Victim, port: &str) -> f64 {
    match port {
        "api" => victim.metric("oxipush_requests_total", &[("protocol", "http"), ("status", "400")]).await,
        _ => {
            let name = "oxipush_refused_connects_total";
            victim.metric(name, &[("reason", "bad_request")]).await + victim.metric(name, &[("reason", "body")]).await
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_may_stand_around_chunks_is_read_and_the_next_request_begins_behind_it() {
    let victim = Victim::start(&[]).await;
    let head =
        format!("POST /push HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\ntransfer-encoding: chunked\r\n\r\n");
    let json = r#"{"to":["a"],"content":"b"}"#;
    let size = format!("{:X}", json.len());
    for (what, body) in [
        ("an extension", format!("{size};name=value\r\n{json}\r\n0\r\n\r\n")),
        ("a large extension", format!("{size};{}\r\n{json}\r\n0;x\r\n\r\n", "x".repeat(100_000))),
        ("trailers", format!("{size}\r\n{json}\r\n0\r\ncontent-length: 36\r\nx: y\r\n\r\n")),
        ("zeros", format!("000{size}\r\n{json}\r\n0000\r\n\r\n")),
    ] {
        let answers = answers_and_close(victim.http(), &format!("{head}{body}")).await;
        assert_eq!(answers, ["200", "404"], "{what}");
    }
    // the last chunk never comes
    let mut stream = TcpStream::connect(victim.http()).await.unwrap();
    stream.write_all(format!("{head}{size}\r\n{json}\r\n").as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    let _ = tokio::time::timeout(PATIENCE, stream.read_to_string(&mut answer)).await.expect("an end");
    assert!(!answer.starts_with("HTTP/1.1 200"), "half a push was taken: {answer}");
    assert_eq!(victim.metric("oxipush_pushes_total", &[("outcome", "accepted")]).await, 4.0);
}

/// The statuses of all answers to these bytes and `SMUGGLED`, whose connection this side ends.
async fn answers_and_close(address: SocketAddr, bytes: &str) -> Vec<String> {
    let last = SMUGGLED.replace("host: x", "host: x\r\nconnection: close");
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(format!("{bytes}{last}").as_bytes()).await.unwrap();
    let mut answer = String::new();
    tokio::time::timeout(PATIENCE, stream.read_to_string(&mut answer)).await.expect("an end").unwrap();
    answer.split("HTTP/1.1 ").skip(1).map(|answer| answer[..3].to_owned()).collect()
}

/// Writes `begun`, then `endless` as fast as it is taken, for 256 MiB at most; gives the bytes taken and the first answer's status.
async fn pour(address: SocketAddr, begun: &str, endless: &str) -> (usize, String) {
    const MOST: usize = 256 * 1024 * 1024;
    let (mut read, mut write) = TcpStream::connect(address).await.unwrap().into_split();
    let piece = endless.repeat(64 * 1024 / endless.len());
    let poured = async {
        let mut taken = 0;
        let _ = write.write_all(begun.as_bytes()).await;
        while taken < MOST && write.write_all(piece.as_bytes()).await.is_ok() {
            taken += piece.len();
        }
        taken
    };
    let mut answer = [0; 12];
    let answered = async {
        // a reset may overtake it
        let _ = read.read_exact(&mut answer).await;
    };
    let (taken, ()) =
        tokio::time::timeout(PATIENCE, futures_util::future::join(poured, answered)).await.expect("an end");
    (taken, String::from_utf8_lossy(&answer[9..]).into_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_that_belong_to_no_request_are_not_kept_and_end_in_time() {
    let victim = Victim::start(&[
        ("HTTP__REQUEST_TIMEOUT", "1s"),
        ("SOCKET__HANDSHAKE_TIMEOUT", "1s"),
        ("QUEUE__PUBLISH_TIMEOUT", "100ms"),
    ])
    .await;
    let head = format!("POST /push HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\n");
    let chunked = format!("{head}transfer-encoding: chunked\r\n\r\n");
    let long = format!("{head}content-length: 999999999999\r\n\r\n");
    let get = "GET /healthz HTTP/1.1\r\nhost: x\r\n".to_owned();
    let api = [
        ("an extension", format!("{chunked}1;"), "x"),
        ("a size of zeros", chunked.clone(), "0"),
        ("trailers", format!("{chunked}0\r\n"), "x: yyyyyyyyy\r\n"),
        ("a trailer", format!("{chunked}0\r\nx: "), "x"),
        ("empty chunks' bodies", chunked.clone(), "1\r\n \r\n"),
        ("a body beyond its bound", long, " "),
    ];
    let both = [
        ("headers", get.clone(), "x: yyyyyyyyy\r\n"),
        ("a header", format!("{get}x: "), "x"),
        ("a path", "GET /".to_owned(), "x"),
        ("a method", String::new(), "X"),
        ("empty lines", String::new(), "\r\n"),
        (
            "a body that nobody reads",
            "POST /nowhere HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n".to_owned(),
            "1\r\nx\r\n",
        ),
    ];
    let ports = [("api", victim.http(), &api[..]), ("api", victim.http(), &both), ("clients", victim.socket(), &both)];
    for (port, address, rows) in ports {
        for (what, begun, endless) in rows {
            let attacks = (0..4).map(|_| pour(address, begun, endless));
            let what = format!("{port}: {what}");
            let ends = victim.endures(&what, futures_util::future::join_all(attacks)).await;
            for (_, status) in &ends {
                let refused = ["400", "404", "408", "413", "431", "\0\0\0"].contains(&status.as_str());
                assert!(refused, "{what}: {ends:?}");
            }
        }
    }
}
