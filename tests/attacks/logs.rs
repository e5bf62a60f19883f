//! What clients prove themselves by is in no line of the log, however much is logged and whatever becomes of them.

use std::{fs::File, net::SocketAddr, process::Stdio};

use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::support::{
    client::{Client, PATIENCE},
    gateway::settings,
    http,
    process::free,
    token::{SECRET, sign, token},
};

/// Sends a handshake and gives the status of its answer.
async fn status(socket: SocketAddr, query: &str, headers: &str) -> String {
    let mut stream = TcpStream::connect(socket).await.unwrap();
    let request = format!(
        "GET /ws?{query} HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-version: 13\r\n\
         sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n{headers}\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = [0; 12];
    let read = tokio::time::timeout(PATIENCE, stream.read_exact(&mut head)).await;
    read.expect("an answer within 30 s").unwrap();
    String::from_utf8_lossy(&head[9..]).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_in_no_line_of_the_log_wherever_it_stood_and_whatever_became_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let [socket, api, grpc] = [free(), free(), free()];
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_oxipush"));
    let given =
        [("TOKEN__SECRET", SECRET), ("SOCKET__ALLOWED_ORIGINS", "https://good.example"), ("TOKEN__COOKIE", "sid")];
    command.envs(settings(&given)).env("RUST_LOG", "trace").env("OXIPUSH__DATA__DIR", folder.path().join("data"));
    for (section, address) in [("SOCKET", socket), ("HTTP", api), ("GRPC", grpc)] {
        command.env(format!("OXIPUSH__{section}__LISTEN"), address.to_string());
    }
    command
        .stdin(Stdio::null())
        .stdout(File::create(&log).unwrap())
        .stderr(File::options().append(true).open(&log).unwrap());
    let mut program = command.kill_on_drop(true).spawn().unwrap();
    let ready = async {
        while http::get(format!("http://{api}/readyz")).await.is_err() {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, ready).await.expect("ready within 30 s");
    let good = token(json!({"sub": "mayun"}));
    let header = json!({"alg": "HS256", "typ": "JWT"});
    let forged =
        sign(&header, &json!({"sub": "mayun", "exp": 9_999_999_999_u64}), "a secret that is another, of 32 bytes");
    for token in [&good, &forged] {
        for (query, headers, expected) in [
            (format!("token={token}"), String::new(), "101"),
            (String::new(), format!("authorization: Bearer {token}\r\n"), "101"),
            (String::new(), format!("sec-websocket-protocol: oxipush.v1, bearer.{token}\r\n"), "101"),
            (String::new(), format!("cookie: sid={token}\r\n"), "101"),
            (format!("token={token}"), "cookie: sid=x\r\n".into(), "400"),
            (format!("token={token}"), "origin: https://evil.example\r\n".into(), "403"),
            (format!("token={token}"), "no colon\r\n".into(), "400"),
            (format!("token={token}"), "content-length: 5\r\n".into(), "400"),
        ] {
            assert_eq!(status(socket, &query, &headers).await, expected, "{query} {headers}");
        }
        for query in ["", "?token="] {
            let in_query = if query.is_empty() { "" } else { token };
            let mut client = Client::connect(&format!("ws://{socket}/ws{query}{in_query}"), true).await;
            client.say(json!({"event": "join", "data": {"card_id": "mayun", "app_id": "", "token": token}})).await;
            client.hear().await;
            client.say(json!({"event": "refresh", "data": {"token": token}})).await;
            client.hear().await;
        }
    }
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(program.id().unwrap() as i32), nix::sys::signal::SIGTERM)
        .unwrap();
    tokio::time::timeout(PATIENCE, program.wait()).await.expect("it ends").unwrap();
    let text = std::fs::read_to_string(&log).unwrap();
    assert!(text.contains("TRACE"), "nothing was traced: {text}");
    // the claims and the signatures: the header is the same in every token
    let parts = [&good, &forged].into_iter().flat_map(|token| token.split('.').skip(1)).chain([SECRET]);
    for part in parts {
        let lines: Vec<&str> = text.lines().filter(|line| line.contains(part)).collect();
        assert!(lines.is_empty(), "{part} is told:\n{}", lines.join("\n"));
    }
}
