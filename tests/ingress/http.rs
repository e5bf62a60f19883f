//! The HTTP API.

use std::time::Duration;

use oxipush::internals::{
    ingress::RefusalKind,
    proto::rpc::{PushRequest, rpc_client::RpcClient},
};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tonic::Code;

use super::support::{
    backlog,
    client::{Client, PATIENCE},
    gateway::Node,
    process::free,
};

const GOOD: &str = r#"{"from":"server","to":["mayun"],"appID":"alibaba","content":"hello"}"#;

/// Sends bytes as they are and gives all that comes back until the end, or the first answer's.
async fn raw(node: &Node, bytes: &[u8]) -> String {
    let mut socket = TcpStream::connect(node.listeners.http).await.unwrap();
    socket.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    tokio::time::timeout(PATIENCE, socket.read_to_end(&mut answer)).await.expect("an end within 30 s").unwrap();
    String::from_utf8(answer).unwrap()
}

async fn ask(node: &Node, method: Method, path: &str, headers: &[(&str, &str)], body: &str) -> reqwest::Response {
    let mut request = crate::support::http::client().request(method, node.url(path)).body(body.to_owned());
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.send().await.expect("an answer")
}

#[tokio::test(flavor = "multi_thread")]
async fn every_content_type_that_gopushers_callers_send_is_taken() {
    let node = Node::start(&[]).await;
    let mut tab = Client::gopusher(&node.socket(), "mayun", "alibaba").await;
    for kind in
        ["application/json", "application/json; charset=utf-8", "application/x-www-form-urlencoded", "text/plain"]
    {
        let answer = ask(&node, Method::POST, "/push", &[("content-type", kind)], GOOD).await;
        assert_eq!(answer.status(), 200, "{kind}");
        assert_eq!(answer.headers()["content-type"], "application/json");
        let answer: Value = answer.json().await.unwrap();
        assert_eq!((&answer["code"], &answer["message"]), (&json!(0), &json!("ok")));
        assert_eq!(answer["id"].as_str().unwrap().len(), 26);
        assert_eq!(tab.text().await.unwrap(), "{\"type\":1,\"data\":\"hello\"}\n");
    }
    let answer = ask(&node, Method::POST, "/push", &[], GOOD).await;
    assert_eq!(answer.status(), 200, "without a type");
    assert_eq!(tab.content().await, "hello");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[allow(clippy::type_complexity)] // a table
async fn every_refusal_has_its_status_and_names_what_was_wrong() {
    let node = Node::start(&[("HTTP__MAX_BODY", "128KiB"), ("PUSH__MAX_BATCH", "3"), ("PUSH__MAX_CARDS", "5")]).await;
    let long = format!(r#"{{"to":["a"],"content":"{}"}}"#, "x".repeat(70_000));
    let huge = "x".repeat(200_000);
    let name = format!(r#"{{"to":["{}"],"content":"x"}}"#, "n".repeat(129));
    let deep = format!(r#"{{"room":"r","content":{}{}}}"#, "[".repeat(129), "]".repeat(129));
    let long_path = format!("/rooms/{}", "n".repeat(129));
    // method, path, headers, body: status, beginning of the message
    type Row<'a> = (Method, &'a str, &'a [(&'a str, &'a str)], &'a str, u16, &'a str);
    let rows: &[Row<'_>] = &[
        (Method::POST, "/push", &[], "", 400, "the body is not JSON"),
        (Method::POST, "/push", &[], "from=a&to=b", 400, "the body is not JSON: it is a form"),
        (Method::POST, "/push", &[], r#"{"to":[],"content":"x"}"#, 400, "`to` names no card"),
        (Method::POST, "/push", &[], r#"{"to":["a",""],"content":"x"}"#, 400, "`to[1]` is empty"),
        (Method::POST, "/push", &[], r#"{"to":["a",7],"content":"x"}"#, 400, "`to[1]` is a number"),
        (
            Method::POST,
            "/push",
            &[],
            r#"{"to":["1","2","3","4","5","6"],"content":"x"}"#,
            400,
            "`to` names more than 5",
        ),
        (Method::POST, "/push", &[], r#"{"to":["a"],"content":"x","tag":1}"#, 400, "`tag` is no field"),
        (
            Method::POST,
            "/push",
            &[],
            r#"{"to":["a"],"content":"x","deliver_at":5}"#,
            400,
            "`deliver_at` is not supported yet",
        ),
        (Method::POST, "/push", &[], r#"{"to":["a"],"content":"x","content":"y"}"#, 400, "`content` is given twice"),
        (
            Method::POST,
            "/push",
            &[],
            r#"{"to":["a\u0000"],"content":"x"}"#,
            400,
            "`to[0]` has the control character U+0000",
        ),
        (Method::POST, "/push", &[], &name, 400, "`to[0]` has 129 bytes"),
        (Method::POST, "/push", &[], &long, 413, "`content` has 70000 bytes"),
        (Method::POST, "/push", &[], &huge, 413, "the body is larger"),
        (Method::POST, "/push", &[("content-encoding", "gzip")], GOOD, 415, "a Content-Encoding"),
        (Method::POST, "/push", &[("content-type", "multipart/form-data; boundary=x")], GOOD, 415, "this Content-Type"),
        (Method::POST, "/push", &[("origin", "http://evil.example")], GOOD, 403, "this Origin may not call"),
        (Method::POST, "/push", &[("origin", "null")], GOOD, 403, "this Origin may not call"),
        (Method::GET, "/push", &[], "", 405, "this path answers POST only"),
        (Method::DELETE, "/system", &[], "", 405, "this path answers GET"),
        (Method::GET, "/metrics/", &[], "", 404, "there is no such path; leave the slash"),
        (Method::POST, "/push//", &[], GOOD, 404, "there is no such path"),
        (Method::POST, "/push?ttl=5", &[], GOOD, 400, "`ttl` is no parameter"),
        (Method::POST, "/push/batch?ttl=5", &[], "[]", 400, "`ttl` is no parameter"),
        (Method::POST, "/push", &[("ttl", "5")], GOOD, 400, "the header `TTL` is not read"),
        (Method::POST, "/push", &[], r#"{"to":["a"],"content":null}"#, 400, "`content` is null"),
        (Method::POST, "/push", &[], r#"{"to":["a"]}"#, 400, "`content` is missing"),
        (
            Method::POST,
            "/push",
            &[],
            r#"{"content":"x"}"#,
            400,
            "nobody is named: give `to`, `room`, `appID` or `everyone`",
        ),
        (Method::POST, "/push", &[], r#"{"to":[],"room":"r","content":"x"}"#, 400, "`to` names no card"),
        (Method::POST, "/push", &[], r#"{"everyone":false,"content":"x"}"#, 400, "nobody is named"),
        (
            Method::POST,
            "/push",
            &[],
            r#"{"everyone":1,"content":"x"}"#,
            400,
            "`everyone` is a number; it must be true or",
        ),
        (
            Method::POST,
            "/push",
            &[],
            r#"{"everyone":true,"appID":"web","content":"x"}"#,
            400,
            "`everyone` stands beside `appID`, which says something else; leave one of them out",
        ),
        (Method::POST, "/push", &[], r#"{"room":"a\n","content":"x"}"#, 400, "`room` has the control character U+000A"),
        (
            Method::POST,
            "/push",
            &[],
            r#"{"to":["a"],"exclude":{"cards":["1","2","3","4","5","6"]},"content":"x"}"#,
            400,
            "`exclude.cards` names more than 5 cards; name fewer",
        ),
        (
            Method::POST,
            "/push",
            &[],
            r#"{"room":"r","exclude":{"client":"a"},"content":"x"}"#,
            400,
            "`exclude.client` is no client's id: it has 26 characters",
        ),
        (Method::POST, "/push", &[], &deep, 400, "`content` has lists and objects that are nested more than 128 deep"),
        (
            Method::POST,
            "/push",
            &[],
            r#"{"to":["a"],"content":"x","app_id":"a"}"#,
            400,
            "`app_id` is no field; write `appID`",
        ),
        (Method::POST, "/v9/push", &[], GOOD, 404, "there is no such path"),
        (Method::POST, "/push/batch", &[], GOOD, 400, "a batch must be a list"),
        (Method::POST, "/push/batch", &[], "[{},{},{},{}]", 400, "`pushes` are more than 3"),
        (Method::GET, "/isOnline", &[], "", 400, "`cardID` is missing"),
        (Method::GET, "/group?card=a", &[], "", 400, "`card` is no parameter"),
        (Method::GET, "/group?cardID=%ff", &[], "", 400, "the query is not UTF-8"),
        (Method::GET, "/rooms?limit=0", &[], "", 400, "`limit` must be a whole number from 1 to 1000"),
        (Method::GET, "/cards?limit=many", &[], "", 400, "`limit` must be"),
        (Method::GET, "/rooms?page=2", &[], "", 400, "`page` is no parameter; use after and limit"),
        (Method::GET, "/rooms?after=%07", &[], "", 400, "`after` has the control character U+0007"),
        (Method::GET, "/cards/a?after=b", &[], "", 400, "`after` is no client's id"),
        (Method::GET, "/rooms/%ff", &[], "", 400, "the path is not UTF-8"),
        (Method::GET, "/rooms/%00", &[], "", 400, "`room` has the control character U+0000"),
        (Method::GET, "/cards/a%2", &[], "", 400, "the path has a `%` without two hex digits"),
        (Method::GET, &long_path, &[], "", 400, "`room` has 129 bytes"),
        (Method::GET, "/rooms/", &[], "", 404, "there is no such path; leave the slash"),
        (Method::GET, "/rooms/a/b", &[], "", 404, "there is no such path"),
        (Method::POST, "/rooms/a", &[], "", 405, "this path answers GET, HEAD only"),
    ];
    for (method, path, headers, body, status, message) in rows {
        let answer = ask(&node, method.clone(), path, headers, body).await;
        let shown: String = body.chars().take(80).collect();
        assert_eq!(answer.status(), *status, "{method} {path} {shown}");
        if *status == 405 {
            assert!(answer.headers()["allow"].to_str().unwrap().contains(if *path == "/push" {
                "POST"
            } else {
                "GET"
            }));
        }
        assert_eq!(answer.headers()["content-type"], "application/json");
        let answer: Value = answer.json().await.unwrap();
        assert_eq!(answer["code"], *status, "{method} {path} {shown}");
        let told = answer["message"].as_str().unwrap();
        assert!(told.starts_with(message), "{method} {path} {shown}: {told}");
        let reason = answer["reason"].as_str().unwrap();
        let kind = RefusalKind::ALL.into_iter().find(|kind| kind.name() == reason).expect(reason);
        assert_eq!(kind.http(), *status, "{method} {path} {shown}: {reason}");
    }
    let answer = raw(
        &node,
        b"POST /push HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\nConnection: close\r\n\r\n\"\xff\xfe\"",
    )
    .await;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    assert!(answer.contains("the body is not UTF-8"), "{answer}");
    let chunk = format!(
        "POST /push HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{huge}\r\n",
        huge.len()
    );
    let answer = raw(&node, chunk.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    // what was refused cost nothing else
    assert_eq!(node.post("/push", serde_json::from_str(GOOD).unwrap()).await.0, 200);
    assert!(node.metric("oxipush_requests_total", &[("protocol", "http"), ("status", "413")]).await >= 3.0);
    assert!(node.metric("oxipush_pushes_total", &[("source", "http"), ("outcome", "bad_field")]).await >= 7.0);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_never_comes_is_answered_with_408() {
    let node = Node::start(&[("HTTP__REQUEST_TIMEOUT", "1s")]).await;
    let answer = raw(&node, b"POST /push HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50\r\n\r\n{").await;
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    assert!(answer.contains(r#""code":408"#), "{answer}");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn its_own_origin_and_the_allowed_ones_may_call() {
    let node = Node::start(&[("HTTP__ALLOWED_ORIGINS", "https://console.example")]).await;
    let own = format!("http://{}", node.listeners.http);
    for origin in [own.as_str(), "https://console.example"] {
        let answer = ask(&node, Method::POST, "/push", &[("origin", origin)], GOOD).await;
        assert_eq!(answer.status(), 200, "{origin}");
        assert_eq!(answer.headers()["access-control-allow-origin"], origin);
    }
    let asked = [("origin", "https://console.example"), ("access-control-request-method", "POST")];
    let answer = ask(&node, Method::OPTIONS, "/push", &asked, "").await;
    assert_eq!(answer.status(), 204);
    assert!(answer.headers()["access-control-allow-methods"].to_str().unwrap().contains("POST"));
    assert_eq!(ask(&node, Method::OPTIONS, "/push", &[], "").await.status(), 405);
    let foreign = [("origin", "https://console.example.evil"), ("access-control-request-method", "POST")];
    assert_eq!(ask(&node, Method::OPTIONS, "/push", &foreign, "").await.status(), 403);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_was_made_to_lead_here_is_foreign_unless_keys_guard_the_node() {
    let asked = |name: &str, more: &str| {
        format!(
            "POST /push HTTP/1.1\r\nHost: {name}\r\nOrigin: http://{name}\r\n{more}Content-Length: {}\r\nConnection: close\r\n\r\n{GOOD}",
            GOOD.len()
        )
    };
    let open = Node::start(&[("HTTP__ALLOWED_HOSTS", "push.internal")]).await;
    for path in ["/isOnline?cardID=a", "/group?cardID=a", "/system", "/metrics", "/readyz", "/"] {
        for (name, status) in [("rebound.example:8081", "403"), ("localhost:8081", "200"), ("push.internal", "200")] {
            let asked = format!("GET {path} HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n");
            let answer = raw(&open, asked.as_bytes()).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{path} {name}: {answer}");
            assert_eq!(answer.contains(r#""reason":"foreign_host""#), status == "403", "{path} {name}: {answer}");
        }
    }
    for (name, status) in [("rebound.example:8081", "403"), ("localhost:8081", "200"), ("[::1]:8081", "200")] {
        let answer = raw(&open, asked(name, "").as_bytes()).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{name}: {answer}");
    }
    open.stop().await;
    let guarded = Node::start(&[("AUTH__KEYS", "k")]).await;
    let answer = raw(&guarded, asked("push.example", "Authorization: Bearer k\r\n").as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    guarded.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_batch_each_push_is_answered_and_a_bad_one_costs_only_itself() {
    let node = Node::start(&[]).await;
    let mut tab = Client::gopusher(&node.socket(), "a", "").await;
    let batch = json!([
        {"to": ["a"], "content": "1"},
        {"to": ["a"], "content": null},
        {"to": ["a"], "content": "3", "deliver_at": 5},
        5,
        {"to": ["a"], "content": "5", "from": null},
    ]);
    let (status, answer) = node.post("/push/batch", batch).await;
    assert_eq!((status, &answer["code"]), (200, &json!(0)));
    let codes: Vec<_> =
        answer["replies"].as_array().unwrap().iter().map(|reply| reply["code"].as_u64().unwrap()).collect();
    assert_eq!(codes, [0, 400, 400, 400, 0]);
    assert_eq!(
        (&answer["failed"], &answer["message"]),
        (&json!(3), &json!("3 of 5 pushes failed; the replies say why"))
    );
    assert_eq!(answer["replies"][2]["reason"], "not_built");
    assert_eq!((tab.content().await, tab.content().await), ("1".into(), "5".into()));
    // what serde cannot read costs its own push alone
    let broken = r#"[{"to":["a"],"content":"6"},{"to":[1e999],"content":""},{"to":["a"],"content":"\q"}]"#;
    let answer: Value = ask(&node, Method::POST, "/push/batch", &[], broken).await.json().await.unwrap();
    assert_eq!((&answer["failed"], &answer["replies"][1]["reason"]), (&json!(2), &json!("bad_json")), "{answer}");
    assert!(answer["replies"][2]["message"].as_str().unwrap().contains("`content`: invalid escape"), "{answer}");
    assert_eq!(tab.content().await, "6");
    let none = node.post("/push/batch", json!([])).await;
    assert_eq!(none, (200, json!({"code": 0, "message": "ok", "failed": 0, "replies": []})));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_whose_pushes_all_failed_with_one_status_has_it() {
    let node = Node::start(&[]).await;
    let to_nobody = r#"{"to":[],"content":"x"}"#;
    let unknown = r#"{"to":["a"],"content":"x","tag":1}"#;
    let large = format!(r#"{{"to":["a"],"content":"{}"}}"#, "x".repeat(70_000));
    for (batch, status, reason, failed) in [
        (format!("[{to_nobody},{to_nobody}]"), 400, json!("bad_field"), 2),
        (format!("[{to_nobody},{unknown}]"), 400, json!(null), 2),
        (format!("[{large}]"), 413, json!("push_too_large"), 1),
        (format!("[{to_nobody},{large}]"), 200, json!(null), 2),
        (format!("[{to_nobody},{GOOD}]"), 200, json!(null), 1),
    ] {
        let answer = ask(&node, Method::POST, "/push/batch", &[], &batch).await;
        assert_eq!(answer.status(), status, "{reason} {failed}");
        let answer: Value = answer.json().await.unwrap();
        assert_eq!(answer["code"], if status == 200 { 0 } else { status }, "{answer}");
        assert_eq!((&answer["reason"], &answer["failed"]), (&reason, &json!(failed)), "{answer}");
        assert!(answer["replies"].is_array(), "{answer}");
    }
    node.stop().await;
    let mut settings = without_nsqd();
    settings.push(("QUEUE__PUBLISH_TIMEOUT", "300ms".into()));
    let node = start_unready(&settings).await;
    let answer = ask(&node, Method::POST, "/push/batch", &[], &format!("[{GOOD},{GOOD}]")).await;
    assert_eq!((answer.status().as_u16(), &answer.headers()["retry-after"]), (503, &"1".parse().unwrap()));
    let answer: Value = answer.json().await.unwrap();
    assert_eq!((&answer["failed"], &answer["code"]), (&json!(2), &json!(503)), "{answer}");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_a_proxy_made_an_upgrade_is_answered_at_once() {
    let node = Node::start(&[("HTTP__REQUEST_TIMEOUT", "1h")]).await;
    let mut tab = Client::gopusher(&node.socket(), "mayun", "alibaba").await;
    for upgrade in ["websocket", "WebSocket", "h2c"] {
        let asked = format!(
            "POST /push HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: {upgrade}\r\nContent-Length: {}\r\n\r\n",
            GOOD.len()
        );
        // the body in two pieces, and what a client may send after it
        let mut socket = TcpStream::connect(node.listeners.http).await.unwrap();
        socket.write_all(asked.as_bytes()).await.unwrap();
        socket.write_all(&GOOD.as_bytes()[..9]).await.unwrap();
        tokio::task::yield_now().await;
        socket.write_all(&GOOD.as_bytes()[9..]).await.unwrap();
        let mut answer = Vec::new();
        tokio::time::timeout(PATIENCE, socket.read_to_end(&mut answer)).await.expect("an end").unwrap();
        let answer = String::from_utf8(answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{upgrade}: {answer}");
        assert!(answer.contains("connection: close\r\n"), "{upgrade}: {answer}");
        assert_eq!(tab.content().await, "hello", "{upgrade}");
    }
    let empty = b"POST /push HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    assert!(raw(&node, empty).await.starts_with("HTTP/1.1 400"));
    let get = b"GET /isOnline?cardID=mayun HTTP/1.1\r\nHost: localhost\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\r\n";
    let answer = raw(&node, get).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("connection: close\r\n"), "{answer}");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_shells_and_frameworks_add_to_a_push_does_no_harm() {
    let node = Node::start(&[]).await;
    let mut tab = Client::gopusher(&node.socket(), "mayun", "alibaba").await;
    let nothing = GOOD.replace('{', r#"{"offline":false,"ttl":null,"room":"","#);
    for (path, body) in [("/push/", GOOD.into()), ("/push", format!("\u{feff}{GOOD}")), ("/push", nothing)] {
        let answer = ask(&node, Method::POST, path, &[], &body).await;
        assert_eq!(answer.status(), 200, "{path} {body}");
        assert_eq!(tab.content().await, "hello");
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_without_a_length_that_nobody_reads_ends_its_connection() {
    let node = Node::start(&[("AUTH__KEYS", "one")]).await;
    for (request, status) in [("POST /push", "401"), ("GET /healthz", "200"), ("POST /nowhere", "404")] {
        let endless = format!("{request} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n");
        let answer = raw(&node, endless.as_bytes()).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request}: {answer}");
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_that_never_read_or_never_end_a_head_are_cut() {
    let settings = [("HTTP__KEEP_ALIVE", "1s"), ("HTTP__USER_TIMEOUT", "1s"), ("QUEUE__PUBLISH_TIMEOUT", "100ms")];
    let node = Node::start(&settings).await;
    // the second head of a connection never ends
    let mut half = TcpStream::connect(node.listeners.http).await.unwrap();
    half.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    assert!(half.read(&mut [0; 1024]).await.unwrap() > 0);
    half.write_all(b"GET /healthz HT").await.unwrap();
    let ended = tokio::time::timeout(PATIENCE, half.read(&mut [0; 1024])).await.expect("an end within 30 s");
    assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
    // answers that nobody takes: writes fail once the gateway has given the connection up
    let mut deaf = TcpStream::connect(node.listeners.http).await.unwrap();
    let asked = b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(1000);
    let cut = async { while deaf.write_all(&asked).await.is_ok() {} };
    tokio::time::timeout(PATIENCE, cut).await.expect("cut within 30 s");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_comes_byte_by_byte_is_cut_though_its_caller_was_answered_before() {
    let settings =
        [("HTTP__KEEP_ALIVE", "1h"), ("HTTP__REQUEST_TIMEOUT", "500ms"), ("QUEUE__PUBLISH_TIMEOUT", "100ms")];
    let node = Node::start(&settings).await;
    let mut caller = TcpStream::connect(node.listeners.http).await.unwrap();
    caller.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    assert!(caller.read(&mut [0; 1024]).await.unwrap() > 0);
    caller.write_all(b"GET /healthz HTTP/1.1\r\nX: ").await.unwrap();
    let dripped = async {
        loop {
            match tokio::time::timeout(Duration::from_millis(50), caller.read(&mut [0; 1024])).await {
                Ok(ended) => break ended,
                Err(_) => drop(caller.write_all(b"x").await),
            }
        }
    };
    let ended = tokio::time::timeout(PATIENCE, dripped).await.expect("an end within 30 s");
    assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn queries_answer_as_gopushers_do() {
    let node = Node::start(&[]).await;
    let _tabs =
        (Client::gopusher(&node.socket(), "ma yun", "").await, Client::gopusher(&node.socket(), "ma yun", "").await);
    let get = async |path: &str| ask(&node, Method::GET, path, &[], "").await.text().await.unwrap();
    assert_eq!(get("/isOnline?cardID=ma%20yun").await, r#"{"result":"yes"}"#);
    assert_eq!(get("/isOnline?cardID=nobody").await, r#"{"result":"no"}"#);
    assert_eq!(get("/group?cardID=ma+yun").await, r#"{"clientNum":"2"}"#);
    assert_eq!(get("/group?cardID=nobody").await, r#"{"clientNum":"-1"}"#);
    let system: Value = serde_json::from_str(&get("/system").await).unwrap();
    assert_eq!((&system["clientNum"], &system["groupNum"]), (&json!("2"), &json!("1")));
    assert!(system["cpuNum"].as_str().unwrap().parse::<u64>().unwrap() > 0);
    assert_eq!(get("/healthz").await, "ok\n");
    let head = ask(&node, Method::HEAD, "/healthz", &[], "").await;
    assert_eq!((head.status(), head.text().await.unwrap().as_str()), (StatusCode::OK, ""));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_keys_only_their_holders_push_and_query() {
    let node = Node::start(&[("AUTH__KEYS", "one,two")]).await;
    let paths =
        [(Method::POST, "/push"), (Method::POST, "/push/batch"), (Method::GET, "/system"), (Method::GET, "/metrics")];
    for (method, path) in paths {
        for headers in [&[][..], &[("authorization", "Bearer three")], &[("authorization", "Basic b25l")]] {
            let answer = ask(&node, method.clone(), path, headers, GOOD).await;
            assert_eq!(answer.status(), 401, "{path}");
            assert_eq!(answer.headers()["www-authenticate"], "Bearer");
            let answer: Value = answer.json().await.unwrap();
            let problem = match headers {
                [] => "a key is needed",
                [(_, key)] if key.starts_with("Bearer") => "this key is not known",
                _ => "this authorization is no Bearer key",
            };
            assert!(answer["message"].as_str().unwrap().starts_with(problem), "{answer}");
        }
    }
    for path in ["/healthz", "/readyz", "/openapi.json", "/oxipush.js", "/"] {
        assert_eq!(ask(&node, Method::GET, path, &[], "").await.status(), 200, "{path}");
    }
    let keyed = [("authorization", "Bearer two")];
    assert_eq!(ask(&node, Method::POST, "/push", &keyed, GOOD).await.status(), 200);
    let asked = [keyed[0], ("accept", "application/openmetrics-text;version=1.0.0")];
    let metrics = ask(&node, Method::GET, "/metrics", &asked, "").await;
    assert!(metrics.headers()["content-type"].to_str().unwrap().starts_with("application/openmetrics-text"));
    assert!(metrics.text().await.unwrap().ends_with("# EOF\n"));
    let metrics = ask(&node, Method::GET, "/metrics", &keyed, "").await;
    assert!(metrics.headers()["content-type"].to_str().unwrap().starts_with("text/plain; version=0.0.4"));
    let text = metrics.text().await.unwrap();
    assert!(text.contains("# TYPE oxipush_pushes_total counter\n"), "{text}");
    assert!(text.contains(r#"oxipush_requests_total{protocol="http",status="401"} 12"#), "{text}");
    let lines = text.lines().map(|line| Ok(line.to_owned()));
    assert!(!prometheus_parse::Scrape::parse(lines).unwrap().samples.is_empty());
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_can_be_turned_off_and_knows_the_socket_port() {
    let node = Node::start(&[]).await;
    let page = ask(&node, Method::GET, "/", &[], "").await;
    assert_eq!(page.headers()["content-security-policy"], "frame-ancestors 'none'");
    let page = page.text().await.unwrap();
    assert!(page.contains(&format!("socketPort = \"{}\"", node.listeners.socket.port())));
    node.stop().await;
    let node = Node::start(&[("HTTP__PAGE", "false")]).await;
    assert_eq!(ask(&node, Method::GET, "/", &[], "").await.status(), 404);
    node.stop().await;
}

/// The settings of a node whose nsqd is away.
fn without_nsqd() -> Vec<(&'static str, String)> {
    vec![
        ("QUEUE__BACKEND", "nsq".into()),
        ("QUEUE__NSQD", free().to_string()),
        ("QUEUE__NSQD_HTTP", free().to_string()),
        ("NODE__ID", "lonely".into()),
    ]
}

async fn start_unready(settings: &[(&'static str, String)]) -> Node {
    let settings: Vec<_> = settings.iter().map(|(key, value)| (*key, value.as_str())).collect();
    Node::start_unready(&settings).await
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_queue_is_away_pushes_get_503_and_readiness_says_why() {
    let mut settings = without_nsqd();
    settings.push(("QUEUE__PUBLISH_TIMEOUT", "300ms".into()));
    let node = start_unready(&settings).await;
    let answer = ask(&node, Method::POST, "/push", &[], GOOD).await;
    assert_eq!(answer.status(), 503);
    assert_eq!(answer.headers()["retry-after"], "1");
    let answer: Value = answer.json().await.unwrap();
    assert_eq!(answer["code"], 503);
    let ready = ask(&node, Method::GET, "/readyz", &[], "").await;
    assert_eq!((ready.status().as_u16(), &ready.headers()["retry-after"]), (503, &"1".parse().unwrap()));
    let ready: Value = ready.json().await.unwrap();
    assert!(ready["message"].as_str().unwrap().starts_with("the queue is not ready: "), "{ready}");
    assert_eq!(ask(&node, Method::GET, "/healthz", &[], "").await.status(), 200);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn past_the_bound_of_waiting_publishes_429_comes_at_once() {
    let mut settings = without_nsqd();
    settings.extend([("QUEUE__PUBLISH_TIMEOUT", "10s".into()), ("QUEUE__MAX_PUBLISHES", "1".into())]);
    let node = start_unready(&settings).await;
    // one push holds the only place until its time is over; of two more at least one finds it taken
    let pushes = (0..3).map(|_| ask(&node, Method::POST, "/push", &[], GOOD));
    let mut answers = pushes.collect::<futures_util::stream::FuturesUnordered<_>>();
    let first = futures_util::StreamExt::next(&mut answers).await.unwrap();
    assert_eq!(first.status(), 429);
    assert_eq!(first.headers()["retry-after"], "1");
    drop(answers);
    node.metric_reaches("oxipush_pushes_total", &[("source", "http"), ("outcome", "full")], 1.0).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_log_answers_429_and_resource_exhausted_at_once_and_the_node_stays_ready() {
    let dir = tempfile::tempdir().unwrap();
    // what is held is not handed out: the log fills
    backlog::leave(dir.path(), "mayun", &["waits"]).await;
    let path = dir.path().to_string_lossy();
    let settings = [("DATA__DIR", &*path), ("QUEUE__REPLAY_HOLD", "1h"), ("QUEUE__MAX_BYTES", "1MiB")];
    let node = Node::start(&settings).await;
    let push = json!({"to": ["mayun"], "content": "x".repeat(60_000)}).to_string();
    let mut accepted = 0;
    let full = loop {
        let answer = ask(&node, Method::POST, "/push", &[], &push).await;
        if answer.status() != 200 {
            break answer;
        }
        accepted += 1;
        assert!(accepted < 100, "the log is never full");
    };
    assert_eq!((full.status().as_u16(), &full.headers()["retry-after"]), (429, &"1".parse().unwrap()));
    let full: Value = full.json().await.unwrap();
    assert!(full["message"].as_str().unwrap().contains("[queue] max_bytes"), "{full}");
    let batch = ask(&node, Method::POST, "/push/batch", &[], &format!("[{GOOD},{push}]")).await;
    let batch: Value = batch.json().await.unwrap();
    assert_eq!((&batch["replies"][0]["code"], &batch["replies"][1]["code"]), (&json!(0), &json!(429)));
    let mut client = RpcClient::connect(node.grpc()).await.unwrap();
    let push = PushRequest { to: vec!["mayun".into()], content: "x".repeat(60_000), ..Default::default() };
    assert_eq!(client.push(push).await.unwrap_err().code(), Code::ResourceExhausted);
    for source in ["http", "grpc"] {
        assert!(node.metric("oxipush_pushes_total", &[("source", source), ("outcome", "full")]).await >= 1.0);
    }
    assert_eq!(ask(&node, Method::GET, "/readyz", &[], "").await.status(), 200);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_goes_away_does_not_take_its_push_back() {
    let node = Node::start(&[]).await;
    let mut tab = Client::gopusher(&node.socket(), "mayun", "alibaba").await;
    let mut socket = TcpStream::connect(node.listeners.http).await.unwrap();
    let request = format!("POST /push HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{GOOD}", GOOD.len());
    socket.write_all(request.as_bytes()).await.unwrap();
    drop(socket);
    assert_eq!(tab.content().await, "hello");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_does_not_wait_for_idle_connections() {
    let node = Node::start(&[("NODE__SHUTDOWN_TIMEOUT", "60s")]).await;
    let mut idle = TcpStream::connect(node.listeners.http).await.unwrap();
    idle.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    assert!(idle.read(&mut [0; 1024]).await.unwrap() > 0);
    tokio::time::timeout(Duration::from_secs(30), node.stop()).await.expect("it stops");
}
