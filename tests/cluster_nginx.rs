//! nginx as confd renders it from etcd: the services of docker-compose.yml, with nodes that only pretend.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "cluster/support.rs"]
mod support;

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::{SinkExt, StreamExt};
use support::{Topology, until};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_tungstenite::tungstenite::Message;

/// Answers each request with its name and the request's head; a silent one closes the connection instead.
struct Fake {
    name: &'static str,
    address: SocketAddr,
    requests: Arc<AtomicUsize>,
}

impl Fake {
    async fn start(name: &'static str, silent: bool) -> Self {
        let listener = TcpListener::bind((support::address(), 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(AtomicUsize::new(0));
        let count = requests.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let count = count.clone();
                tokio::spawn(async move {
                    let mut head = vec![0; 8192];
                    let read = stream.read(&mut head).await.unwrap_or(0);
                    count.fetch_add(1, Ordering::SeqCst);
                    if silent {
                        return;
                    }
                    let body = format!("{name}\n{}", String::from_utf8_lossy(&head[..read]));
                    let answer =
                        format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len());
                    let _ = stream.write_all(answer.as_bytes()).await;
                });
            }
        });
        Self { name, address, requests }
    }

    fn node(&self, phase: &str) -> (String, String) {
        let (name, address) = (self.name, self.address);
        let value = format!(
            r#"{{"id":"{name}","socket":"{address}","http":"{address}","grpc":"{address}","weight":1,"phase":"{phase}"}}"#
        );
        (format!("/oxipush/nodes/{name}"), value)
    }

    /// A node that does this alone; one without clients has no address for them.
    fn with_role(&self, role: &str) -> (String, String) {
        let (key, value) = self.node("serving");
        let mut node: serde_json::Value = serde_json::from_str(&value).unwrap();
        node["roles"] = serde_json::json!([role]);
        if role == "ingress" {
            node["socket"] = "".into();
        }
        (key, node.to_string())
    }
}

struct Nginx {
    topology: Topology,
    address: String,
}

impl Nginx {
    fn start() -> Self {
        let topology = Topology::start(&["--without", "gateway-1,gateway-2,nsqlookupd,nsqd-1,nsqd-2,nsqadmin,redis"]);
        let address = topology.at("nginx");
        Self { topology, address }
    }

    fn put(&self, (key, value): (String, String)) {
        self.topology.etcdctl(&["put", &key, &value]).unwrap();
    }

    fn delete(&self, fake: &Fake) {
        self.topology.etcdctl(&["del", &fake.node("").0]).unwrap();
    }

    /// Status and body of a GET to the sockets' server (8080) or the API's (8081).
    async fn get(&self, port: u16) -> (u16, String) {
        let request = crate::support::http::client().get(format!("http://{}:{port}/ws", self.address));
        let answer = request.header("X-Forwarded-For", "203.0.113.66").send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }

    async fn serves(&self, port: u16, name: &str) {
        until(&format!("{name} answers at {port}"), || async {
            let (status, body) = self.get(port).await;
            (status == 200 && body.starts_with(&format!("{name}\n"))).then_some(())
        })
        .await;
    }

    async fn empty(&self, port: u16) {
        until(&format!("503 at {port}"), || async { (self.get(port).await.0 == 503).then_some(()) }).await;
    }

    /// The main process: a reload keeps it.
    fn pid(&self) -> String {
        let folder = self.topology.first["folder"].as_str().unwrap();
        std::fs::read_to_string(format!("{folder}/nginx/root/run/nginx.pid")).unwrap()
    }

    /// Changes this run's nginx.conf; nginx reads it with its next reload.
    fn change_conf(&self, from: &str, to: &str) {
        let conf = format!("{}/nginx/root/etc/nginx/nginx.conf", self.topology.first["folder"].as_str().unwrap());
        let text = std::fs::read_to_string(&conf).unwrap();
        assert_eq!(text.matches(from).count(), 1, "{from}");
        std::fs::write(&conf, text.replace(from, to)).unwrap();
    }

    fn upstreams_file(&self) -> String {
        format!("{}/volumes/upstreams/upstreams.conf", self.topology.first["folder"].as_str().unwrap())
    }

    fn upstreams(&self) -> String {
        std::fs::read_to_string(self.upstreams_file()).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nginx_follows_the_nodes_phases_and_answers_503_without_any() {
    let nginx = Nginx::start();
    for port in [8080, 8081] {
        assert_eq!(nginx.get(port).await.0, 503);
    }
    let channel = tonic::transport::Endpoint::from_shared(format!("http://{}:9002", nginx.address)).unwrap();
    let mut health = tonic_health::pb::health_client::HealthClient::new(channel.connect().await.unwrap());
    let request = tonic_health::pb::HealthCheckRequest { service: String::new() };
    let status = health.check(request).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (tonic::Code::Unavailable, "no gateway is there"));

    let (first, second) = (Fake::start("first", false).await, Fake::start("second", false).await);
    nginx.put(first.node("starting"));
    nginx.put(second.node("serving"));
    nginx.serves(8080, "second").await;
    nginx.serves(8081, "second").await;
    assert_eq!(first.requests.load(Ordering::SeqCst), 0, "a starting node gets nothing");
    nginx.put(first.node("serving"));
    nginx.serves(8080, "first").await;
    nginx.put(second.node("unready"));
    until("second is down", || async { nginx.upstreams().contains("down; # second's queue").then_some(()) }).await;
    nginx.put(second.node("draining"));
    until("second is down", || async { nginx.upstreams().contains("down; # second drains").then_some(()) }).await;
    nginx.delete(&second);
    nginx.put(first.node("draining"));
    nginx.empty(8080).await;
    nginx.delete(&first);
    nginx.empty(8081).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_go_to_nodes_for_clients_and_pushes_to_nodes_for_pushes() {
    let nginx = Nginx::start();
    let (pushes, clients) = (Fake::start("pushes", false).await, Fake::start("clients", false).await);
    nginx.put(pushes.with_role("ingress"));
    nginx.serves(8081, "pushes").await;
    nginx.empty(8080).await;
    nginx.put(clients.with_role("socket"));
    nginx.serves(8080, "clients").await;
    for _ in 0..5 {
        nginx.serves(8081, "pushes").await;
    }
    let text = nginx.upstreams();
    assert_eq!((text.matches("; # pushes\n").count(), text.matches("; # clients\n").count()), (2, 1), "{text}");
    nginx.delete(&pushes);
    nginx.empty(8081).await;
    nginx.serves(8080, "clients").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clients_claim_of_its_address_is_not_passed_on() {
    let nginx = Nginx::start();
    let node = Fake::start("node", false).await;
    nginx.put(node.node("serving"));
    for port in [8080, 8081] {
        nginx.serves(port, "node").await;
        let (_, head) = nginx.get(port).await;
        assert!(head.contains("X-Forwarded-For: 127."), "{head}");
        assert!(!head.contains("203.0.113.66"), "{head}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_push_that_left_is_not_sent_to_another_node() {
    let nginx = Nginx::start();
    let nodes = [Fake::start("first", true).await, Fake::start("second", true).await];
    for node in &nodes {
        nginx.put(node.node("serving"));
    }
    until("both are there", || async {
        let text = nginx.upstreams();
        (text.contains("# first") && text.contains("# second")).then_some(())
    })
    .await;
    let seen = || nodes.iter().map(|node| node.requests.load(Ordering::SeqCst)).sum::<usize>();
    let answer = until("nginx has reloaded", || async {
        let before = seen();
        let url = format!("http://{}:8081/push", nginx.address);
        let answer = crate::support::http::client().post(url).body("{}").send().await.unwrap();
        (seen() > before).then_some((answer.status().as_u16(), seen() - before))
    })
    .await;
    assert_eq!(answer, (502, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_cannot_be_connected_to_cost_no_push() {
    let nginx = Nginx::start();
    let node = Fake::start("node", false).await;
    nginx.put(node.node("serving"));
    nginx.serves(8081, "node").await;
    for name in ["dead-1", "dead-2", "dead-3", "dead-4", "dead-5"] {
        let dead = Fake { name, address: SocketAddr::from((support::address(), 9)), requests: Arc::default() };
        nginx.put(dead.node("serving"));
    }
    until("all are there", || async { nginx.upstreams().contains("# dead-5").then_some(()) }).await;
    // nginx forgets whom it failed to reach with the reload that takes them in: every push from before it to after it counts
    let reached = || nginx.topology.log("nginx").contains("Connection refused");
    until("nginx has tried one", || async {
        let url = format!("http://{}:8081/push", nginx.address);
        let answer = crate::support::http::client().post(url).body("{}").send().await.unwrap();
        assert_eq!(answer.status(), 200);
        reached().then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grpc_push_does_not_wait_for_a_node_that_vanished() {
    let nginx = Nginx::start();
    // shorter here, for the sake of the test
    nginx.change_conf("grpc_read_timeout 60s;", "grpc_read_timeout 1s;");
    let listener = TcpListener::bind((support::address(), 0)).await.unwrap();
    let vanished = Fake { name: "vanished", address: listener.local_addr().unwrap(), requests: Arc::default() };
    nginx.put(vanished.node("serving"));
    let channel = tonic::transport::Endpoint::from_shared(format!("http://{}:9002", nginx.address)).unwrap();
    let status = until("nginx lost the node", || async {
        let channel = channel.connect().await.ok()?;
        let mut client = oxipush::internals::proto::rpc::rpc_client::RpcClient::new(channel);
        let push = client.push(oxipush::internals::proto::rpc::PushRequest::default());
        let status = tokio::time::timeout(Duration::from_secs(30), push).await.expect("an answer").unwrap_err();
        (status.message() != "no gateway is there").then_some(status)
    })
    .await;
    assert_eq!((status.code(), status.message()), (tonic::Code::Unavailable, "the gateway was lost"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rubbish_in_etcd_leaves_nginx_as_it_was() {
    let nginx = Nginx::start();
    let node = Fake::start("node", false).await;
    nginx.put(node.node("serving"));
    nginx.serves(8080, "node").await;
    let before = nginx.upstreams();
    // breaks nginx's syntax: confd's check refuses it
    let rubbish = node.node("serving").1.replace("\"socket\":\"", "\"socket\":\"no such { thing; ");
    nginx.put(("/oxipush/nodes/rubbish".into(), rubbish));
    until("confd tells it", || async { nginx.topology.log("nginx").contains("Config check failed").then_some(()) })
        .await;
    assert_eq!(nginx.upstreams(), before);
    nginx.serves(8080, "node").await;
    // breaks the template
    nginx.put(("/oxipush/nodes/rubbish".into(), "no JSON".into()));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(nginx.upstreams(), before);
    // and once it is gone, changes arrive again
    nginx.topology.etcdctl(&["del", "/oxipush/nodes/rubbish"]).unwrap();
    nginx.put(node.node("draining"));
    nginx.empty(8080).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_of_changes_is_a_few_reloads_and_cuts_nobody() {
    let nginx = Nginx::start();
    let node = Fake::start("node", false).await;
    nginx.put(node.node("serving"));
    nginx.serves(8080, "node").await;
    // a client's socket from before the burst
    let listener = TcpListener::bind((support::address(), 0)).await.unwrap();
    let upgraded = listener.local_addr().unwrap();
    let upgrading = Fake { name: "upgrading", address: upgraded, requests: Arc::default() };
    nginx.put(upgrading.node("serving"));
    nginx.put(node.node("draining"));
    let (mut old, mut node_side) = until("the upgrade reaches the node", || async {
        let request = "GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
        let (client, accepted) = tokio::join!(
            async {
                let mut stream = TcpStream::connect((nginx.address.parse::<Ipv4Addr>().unwrap(), 8080)).await.unwrap();
                stream.write_all(request.as_bytes()).await.unwrap();
                stream
            },
            tokio::time::timeout(Duration::from_secs(1), listener.accept())
        );
        Some((client, accepted.ok()?.unwrap().0))
    })
    .await;
    let mut head = vec![0; 4096];
    let read = node_side.read(&mut head).await.unwrap();
    let text = String::from_utf8_lossy(&head[..read]).to_lowercase();
    assert!(text.contains("upgrade: websocket") && text.contains("connection: upgrade"), "{text}");
    let switching = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    node_side.write_all(switching.as_bytes()).await.unwrap();
    let read = old.read(&mut head).await.unwrap();
    assert!(head[..read].starts_with(b"HTTP/1.1 101"));

    let reloads = || nginx.topology.log("nginx").matches("reconfiguring").count();
    let before = reloads();
    for weight in 1..=20 {
        let (key, value) = node.node("serving");
        nginx.put((key, value.replace("\"weight\":1", &format!("\"weight\":{weight}"))));
    }
    until("the last one is there", || async { nginx.upstreams().contains("weight=20").then_some(()) }).await;
    until("nginx has reloaded", || async { (reloads() > before).then_some(()) }).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(reloads() - before <= 8, "{} reloads", reloads() - before);

    // the connection from before lives, both ways
    old.write_all(b"hello").await.unwrap();
    let read = node_side.read(&mut head).await.unwrap();
    assert_eq!(&head[..read], b"hello");
    node_side.write_all(b"world").await.unwrap();
    let read = old.read(&mut head).await.unwrap();
    assert_eq!(&head[..read], b"world");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nginx_goes_on_without_etcd_and_follows_it_again() {
    let mut nginx = Nginx::start();
    let node = Fake::start("node", false).await;
    nginx.put(node.node("serving"));
    nginx.serves(8080, "node").await;
    nginx.topology.tell("kill etcd").await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    nginx.serves(8080, "node").await;
    nginx.topology.tell("start etcd").await;
    nginx.put(node.node("draining"));
    nginx.empty(8080).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nginx_starts_though_it_refuses_the_nodes_of_before() {
    let mut nginx = Nginx::start();
    let node = Fake::start("node", false).await;
    nginx.put(node.node("serving"));
    nginx.serves(8080, "node").await;
    nginx.topology.tell("stop nginx").await;
    std::fs::write(nginx.upstreams_file(), "rubbish\n").unwrap();
    nginx.topology.tell("start nginx").await;
    nginx.serves(8080, "node").await;
}

#[tokio::test]
async fn the_tls_example_is_one() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let address = support::address();
    support::Certificates::make(folder.path(), address, false);
    let read = |name: &str| std::fs::read_to_string(format!("{}/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let here = |text: String| {
        text.replace("/etc/nginx/tls/fullchain.pem", at("server.pem").to_str().unwrap())
            .replace("/etc/nginx/tls/privkey.pem", at("server.key").to_str().unwrap())
            .replace("/etc/nginx/oxipush/upstreams.conf", at("upstreams.conf").to_str().unwrap())
            .replace("/run/nginx.pid", at("pid").to_str().unwrap())
            .replace("127.0.0.1:", &format!("{address}:"))
            .lines()
            .map(|line| match line.trim().strip_prefix("listen ") {
                Some(rest) if rest.starts_with(|c: char| c.is_ascii_digit()) && !rest.starts_with("127") => {
                    format!("listen {address}:{rest}\n")
                }
                _ => format!("{line}\n"),
            })
            .collect::<String>()
    };
    std::fs::write(at("tls.conf"), here(read("nginx/tls.conf.example"))).unwrap();
    let upstreams =
        ["sockets", "http", "grpc"].map(|name| format!("upstream oxipush_{name} {{ server {address}:1; }}\n"));
    std::fs::write(at("upstreams.conf"), upstreams.concat()).unwrap();
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path {};\n", at(kind).display()))
        .concat();
    let conf = here(read("nginx/nginx.conf")).replacen("http {\n", &format!("http {{\n{temporary}"), 1);
    let end = conf.rfind('}').unwrap();
    let conf = format!("{}include {};\n}}\n", &conf[..end], at("tls.conf").display());
    std::fs::write(at("nginx.conf"), conf).unwrap();

    let mut command = std::process::Command::new(support::tool("nginx"));
    command.arg("-c").arg(at("nginx.conf")).args(["-g", "daemon off;"]);
    let mut nginx = support::Process::start(&mut command, at("log"));
    support::listening((address, 443), &mut nginx).await;
    let mut openssl = std::process::Command::new(support::tool("openssl"));
    openssl.args(["s_client", "-brief", "-verify_return_error", "-CAfile"]).arg(at("ca.pem"));
    openssl.args(["-connect", &format!("{address}:443"), "-verify_ip", &address.to_string()]);
    let output = openssl.stdin(std::process::Stdio::null()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && text.contains("Verification: OK"), "{text}");
    // what has no forward secrecy is refused, though it is TLS 1.2
    let mut openssl = std::process::Command::new(support::tool("openssl"));
    openssl.args(["s_client", "-brief", "-tls1_2", "-cipher", "AES256-SHA", "-connect", &format!("{address}:443")]);
    let output = openssl.stdin(std::process::Stdio::null()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && text.contains("handshake failure"), "{text}");
    nginx.signal("QUIT");
    nginx.ended().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nginx_refuses_is_told_as_the_api_tells_it() {
    let nginx = Nginx::start();
    let told = |answer: reqwest::Response| async move {
        let status = answer.status().as_u16();
        assert_eq!(answer.headers()["content-type"], "application/json", "{status}");
        let again = matches!(status, 429 | 502 | 503 | 504);
        assert_eq!(answer.headers().contains_key("retry-after"), again, "{status}");
        let body: serde_json::Value = answer.json().await.unwrap();
        assert_eq!(body["code"], status);
        assert!(!body["message"].as_str().unwrap().is_empty());
        (status, body["reason"].as_str().unwrap().to_owned())
    };
    let http = crate::support::http::client();
    let api = format!("http://{}:8081", nginx.address);
    let push = || http.post(format!("{api}/push"));
    let nobody = told(push().body("{}").send().await.unwrap()).await;
    assert_eq!(nobody, (503, "unavailable".to_owned()));
    let metrics = told(http.get(format!("{api}/metrics")).send().await.unwrap()).await;
    assert_eq!(metrics, (404, "no_such_route".to_owned()));
    let huge = told(push().body(vec![b' '; 5 << 20]).send().await.unwrap()).await;
    assert_eq!(huge, (413, "body_too_large".to_owned()));
    // what is no HTTP is the client's fault, not the server's
    for port in [8080, 8081] {
        for bad in ["GARBAGE\r\n\r\n".to_owned(), format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "x".repeat(40_000))] {
            let mut stream = TcpStream::connect((nginx.address.as_str(), port)).await.unwrap();
            let _ = stream.write_all(bad.as_bytes()).await;
            let mut head = [0; 12];
            stream.read_exact(&mut head).await.unwrap();
            assert!(head.starts_with(b"HTTP/1.1 4"), "{}", String::from_utf8_lossy(&head));
        }
    }
    // a node that closes the connection without an answer
    let silent = Fake::start("silent", true).await;
    nginx.put(silent.node("serving"));
    let lost = until("the push is lost", || async {
        let answer = push().body("{}").send().await.unwrap();
        (answer.status() == 502).then_some(answer)
    })
    .await;
    assert_eq!(told(lost).await, (502, "unavailable".to_owned()));
    let answer = http.get(format!("http://{}:8080/ws", nginx.address)).send().await.unwrap();
    assert_eq!(told(answer).await.1, "unavailable");
}

const TOKEN: &str = "eyJhbGciOiJIUzI1NiJ9.a-token-that-no-log-may-show.c2ln";

/// A handshake with the token wherever one may stand, and what a browser sends beside it; nothing follows it.
fn handshake(more: &str) -> String {
    format!(
        "GET /ws?x=1&token={TOKEN} HTTP/1.1\r\nhost: push.example\r\nupgrade: websocket\r\nconnection: close\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\norigin: https://shop.example\r\n\
         referer: https://shop.example/?token={TOKEN}\r\nauthorization: Bearer {TOKEN}\r\ncookie: a=b; session={TOKEN}\r\n\
         sec-websocket-protocol: oxipush.v1, bearer.{TOKEN}\r\n{more}\r\n"
    )
}

/// Sends bytes to the clients' port; gives what is answered until the connection ends.
async fn raw(nginx: &Nginx, bytes: &str) -> String {
    let mut stream = TcpStream::connect((nginx.address.as_str(), 8080)).await.unwrap();
    stream.write_all(bytes.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let read = tokio::time::timeout(support::PATIENCE, stream.read_to_end(&mut answer)).await;
    let _ = read.expect("an end");
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clients_token_reaches_the_node_and_no_log_of_nginx() {
    let nginx = Nginx::start();
    let node = Fake::start("node", false).await;
    let silent = Fake::start("silent", true).await;
    let status = async |bytes: &str| raw(&nginx, bytes).await.split(' ').nth(1).unwrap_or_default().to_owned();
    assert_eq!(status(&handshake("")).await, "503", "no node is there");
    nginx.put(node.node("serving"));
    nginx.serves(8080, "node").await;
    let passed = raw(&nginx, &handshake("")).await.to_lowercase();
    let token = TOKEN.to_lowercase();
    for line in [
        format!("get /ws?x=1&token={token} http/1.1\r\n"),
        format!("authorization: bearer {token}\r\n"),
        format!("cookie: a=b; session={token}\r\n"),
        format!("sec-websocket-protocol: oxipush.v1, bearer.{token}\r\n"),
        "origin: https://shop.example\r\n".into(),
        "upgrade: websocket\r\n".into(),
    ] {
        assert!(passed.contains(&line), "{line} is not in {passed}");
    }
    assert_eq!(status(&handshake("content-length: 5000\r\n")).await, "413");
    assert_eq!(status(&handshake("no colon\r\n")).await, "400");
    assert_eq!(status(&handshake(&format!("x: {}\r\n", "y".repeat(9_000)))).await, "400");
    assert_eq!(status(&handshake("").replace("x=1", &"y".repeat(9_000))).await, "414");
    // a client that goes before it is answered
    let mut gone = TcpStream::connect((nginx.address.as_str(), 8080)).await.unwrap();
    gone.write_all(handshake("").as_bytes()).await.unwrap();
    drop(gone);
    // a node that closes the connection, and one that nobody can connect to
    nginx.delete(&node);
    nginx.put(silent.node("serving"));
    until("502", || async { (status(&handshake("")).await == "502").then_some(()) }).await;
    let (key, value) = silent.node("serving");
    let nobody = TcpListener::bind((support::address(), 0)).await.unwrap().local_addr().unwrap();
    nginx.put((key, value.replace(&silent.address.to_string(), &nobody.to_string())));
    until("the node's new address", || async { nginx.upstreams().contains(&nobody.to_string()).then_some(()) }).await;
    until("503", || async { (status(&handshake("")).await == "503").then_some(()) }).await;
    // more handshakes than one address may make
    nginx.change_conf("rate=500r/s", "rate=1r/m");
    nginx.change_conf("burst=5000 nodelay", "burst=1 nodelay");
    nginx.put(node.node("draining"));
    until("429", || async { (status(&handshake("")).await == "429").then_some(()) }).await;
    let told = |line: String| {
        let nginx = &nginx;
        async move { until(&line.clone(), || async { nginx.topology.log("nginx").contains(&line).then_some(()) }).await }
    };
    for status in ["400", "413", "414", "429", "502", "503"] {
        // of 414 nginx knows no path
        let request = if status == "414" { "" } else { "GET /ws HTTP/1.1" };
        told(format!("{request}\" {status} ")).await;
    }
    let log = nginx.topology.log("nginx");
    let lines: Vec<&str> =
        log.lines().filter(|line| line.contains("a-token-that") || line.contains("token=")).collect();
    assert!(lines.is_empty(), "{}", lines.join("\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_of_a_node_that_hangs_are_cut_by_nginx_and_others_are_not() {
    let nginx = Nginx::start();
    let listener = TcpListener::bind((support::address(), 0)).await.unwrap();
    let node = Fake { name: "node", address: listener.local_addr().unwrap(), requests: Arc::default() };
    nginx.put(node.node("serving"));
    let connect = || async {
        until("the handshake reaches the node", || async {
            let request = "GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
            let mut client = TcpStream::connect((nginx.address.as_str(), 8080)).await.unwrap();
            client.write_all(request.as_bytes()).await.unwrap();
            let accepted = tokio::time::timeout(Duration::from_secs(1), listener.accept()).await;
            let mut node = accepted.ok()?.unwrap().0;
            let mut head = [0; 4096];
            assert!(node.read(&mut head).await.unwrap() > 0);
            let switching = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
            node.write_all(switching.as_bytes()).await.unwrap();
            assert!(client.read(&mut head).await.unwrap() > 0);
            Some((client, node))
        })
        .await
    };
    let (mut lost, _hangs) = connect().await;
    let (mut kept, mut lives) = connect().await;
    let ping_interval = Duration::from_secs(25);
    let pings = tokio::spawn(async move {
        loop {
            tokio::time::sleep(ping_interval).await;
            if lives.write_all(b"\x89\x00").await.is_err() {
                return;
            }
        }
    });
    let mut bytes = [0; 16];
    let cut = tokio::time::timeout(support::PATIENCE, lost.read(&mut bytes)).await.expect("nginx cuts it");
    assert!(matches!(cut, Ok(0) | Err(_)));
    // both were as old then; this one had its ping, and nginx would take another
    assert_eq!(kept.read(&mut bytes).await.unwrap(), 2);
    kept.write_all(b"still there").await.unwrap();
    assert!(!pings.is_finished());
    pings.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nginx_follows_an_etcd_that_was_emptied() {
    let mut nginx = Nginx::start();
    let node = Fake::start("node", false).await;
    nginx.put(node.node("serving"));
    nginx.serves(8080, "node").await;
    let pid = nginx.pid();
    // many revisions, so that the emptied etcd is far behind what confd waits for
    for _ in 0..20 {
        nginx.put(node.node("serving"));
    }
    nginx.topology.tell("kill etcd").await;
    let data = format!("{}/volumes/etcd", nginx.topology.first["folder"].as_str().unwrap());
    for entry in std::fs::read_dir(&data).unwrap() {
        std::fs::remove_dir_all(entry.unwrap().path()).unwrap();
    }
    nginx.topology.tell("start etcd").await;
    let other = Fake::start("other", false).await;
    nginx.put(other.node("serving"));
    nginx.serves(8080, "other").await;
    assert_eq!(nginx.pid(), pid, "nginx was not restarted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_leave_a_node_that_hangs() {
    let nginx = Nginx::start();
    // shorter here, for the sake of the test; nginx reads it with the reload that takes the node in
    nginx.change_conf("proxy_read_timeout 35s;", "proxy_read_timeout 10s;");
    let folder = tempfile::tempdir().unwrap();
    let address = support::address();
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_oxipush"));
    command.current_dir(folder.path());
    for (key, value) in [
        ("SOCKET__LISTEN", format!("{address}:8080")),
        ("HTTP__LISTEN", format!("{address}:8081")),
        ("GRPC__LISTEN", format!("{address}:9002")),
        ("SOCKET__PING_INTERVAL", "1s".into()),
        ("SOCKET__ANONYMOUS", "true".into()),
    ] {
        command.env(format!("OXIPUSH__{key}"), value);
    }
    let mut gateway = support::Process::start(&mut command, folder.path().join("log"));
    support::listening((address, 8081), &mut gateway).await;
    let value = format!(
        r#"{{"id":"hangs","socket":"{address}:8080","http":"{address}:8081","grpc":"{address}:9002","weight":1,"phase":"serving"}}"#
    );
    nginx.put(("/oxipush/nodes/hangs".into(), value));
    let url = format!("ws://{}:8080/ws", nginx.address);
    let (mut client, _) =
        until("nginx has taken the node in", || async { tokio_tungstenite::connect_async(&url).await.ok() }).await;
    client.send(Message::text(r#"{"event":"join","data":{"card_id":"alice"}}"#)).await.unwrap();
    assert!(client.next().await.unwrap().unwrap().is_text(), "joined");

    // what nginx keeps in a file on its way: its workers may write there, as whoever they run
    let content = "x".repeat(30_000);
    let push = serde_json::json!({"from": "me", "to": ["alice"], "appID": "", "content": content});
    let answer = crate::support::http::client()
        .post(format!("http://{}:8081/push", nginx.address))
        .body(push.to_string())
        .send()
        .await;
    assert_eq!(answer.unwrap().status(), 200);

    // a node that lives keeps its silent clients: 13 pings are longer than the time-out
    let (mut pings, mut pushed) = (0, false);
    while pings < 13 {
        let message = tokio::time::timeout(support::PATIENCE, client.next()).await.expect("a ping").unwrap().unwrap();
        pings += usize::from(message.is_ping());
        pushed |= message.to_text().is_ok_and(|text| text.contains(&content));
    }
    assert!(pushed);
    gateway.signal("STOP");
    let end = async { while let Some(Ok(_)) = client.next().await {} };
    tokio::time::timeout(support::PATIENCE, end).await.expect("nginx closes the connection to the client");
    gateway.signal("CONT");
}

#[test]
fn nginx_waits_for_a_ping_and_not_much_longer() {
    let config = oxipush::internals::config::load(None, std::iter::empty::<(String, String)>()).unwrap();
    for file in ["nginx.conf", "tls.conf.example"] {
        let text = std::fs::read_to_string(format!("{}/nginx/{file}", env!("CARGO_MANIFEST_DIR"))).unwrap();
        let sockets = text.split("proxy_pass http://oxipush_sockets;").nth(1).unwrap().split('}').next().unwrap();
        let wait = sockets.split("proxy_read_timeout ").nth(1).unwrap().split('s').next().unwrap();
        let wait = Duration::from_secs(wait.parse().unwrap());
        assert!(config.socket.ping_interval < wait && wait < config.socket.idle_timeout, "{file}: {wait:?}");
    }
}

#[test]
fn the_cluster_script_says_what_is_wrong_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    for (arguments, said) in [
        ("--scale gateway=x", "'gateway=x' is not NAME=N with a number up to 99"),
        ("--scale gateway=100", "'gateway=100' is not NAME=N with a number up to 99"),
        ("--scale gateway", "'gateway' is not KEY=VALUE"),
        ("--scale nosuch=2", "docker-compose.yml has no service nosuch; it has etcd, "),
        ("--without nosuch", "docker-compose.yml has no service nosuch; it has etcd, "),
        ("--env FOO", "'FOO' is not KEY=VALUE"),
        ("--binary /no/such", "there is no oxipush binary yet"),
    ] {
        let output = cluster_script(folder.path()).args(arguments.split(' ')).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{arguments}: {text}");
        assert!(text.contains(said) && !text.contains("Traceback"), "{arguments}: {text}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "{arguments}");
    }
}

#[tokio::test]
async fn a_closed_terminal_ends_every_process_of_the_cluster_script() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = cluster_script(folder.path());
    command.args(["--without", "gateway-1,gateway-2,nsqlookupd,nsqd-1,nsqd-2,nsqadmin,redis"]);
    let log = tempfile::NamedTempFile::new().unwrap();
    let mut script = support::Process::start(&mut command, log.path().to_owned());
    until("it is up", || async { script.text().contains("Ctrl-C ends it.").then_some(()) }).await;
    let http = script.text().split("OXIPUSH_HTTP=http://").nth(1).unwrap().lines().next().unwrap().to_owned();
    assert!(TcpStream::connect(&http).await.is_ok());
    script.signal("HUP");
    assert!(script.ended().await.success());
    assert!(TcpStream::connect(&http).await.is_err(), "nginx has ended");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "its folder is gone");
}

/// `scripts/cluster up` with its temporary folders in `folder`.
fn cluster_script(folder: &std::path::Path) -> std::process::Command {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut command = std::process::Command::new("python3");
    command.arg(root.join("scripts/cluster")).args(["up", "--binary", env!("CARGO_BIN_EXE_oxipush")]);
    command.env("TMPDIR", folder);
    command
}
