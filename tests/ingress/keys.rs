//! Callers: what each key may do, over HTTP, gRPC and NSQ, and what they are told who may not.

use std::{collections::BTreeSet, time::Duration};

use nix::sys::signal::Signal;
use oxipush::internals::{
    config::Scope,
    ingress::{DELETE_SCOPES, SCOPES},
    proto::{
        DESCRIPTORS,
        rpc::{Exclude, IsOnlineRequest, PushBatchRequest, PushRequest, rpc_client::RpcClient},
    },
};
use prost::Message;
use reqwest::Method;
use serde_json::{Value, json};
use tokio_stream::{iter, wrappers::ReceiverStream};
use tonic::{Code, Request, Status};
use tonic_types::StatusExt;

use super::{
    program::{Place, Program},
    raw::{Raw, framed, push},
    support::{
        client::{Client, PATIENCE},
        gateway::{Node, sample},
        nsq::Nsqd,
    },
};

/// What a call came to.
#[derive(Debug)]
struct Answer {
    status: u16,
    reason: String,
    message: String,
    headers: reqwest::header::HeaderMap,
    body: Value,
}

async fn ask(node: &Node, method: Method, path: &str, authorization: &str, body: &str) -> Answer {
    let mut request = crate::support::http::client().request(method, node.url(path)).body(body.to_owned());
    if !authorization.is_empty() {
        request = request.header("authorization", authorization);
    }
    let answer = request.send().await.expect("an answer");
    let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
    let body: Value = answer.json().await.unwrap_or_default();
    let text = |key: &str| body[key].as_str().unwrap_or_default().to_owned();
    Answer { status, reason: text("reason"), message: text("message"), headers, body }
}

/// As `ask`, with a push to these cards.
async fn push_to(node: &Node, key: &str, cards: &[&str], app: &str) -> Answer {
    let body = json!({"to": cards, "appID": app, "content": "x"}).to_string();
    ask(node, Method::POST, "/push", &format!("Bearer {key}"), &body).await
}

/// A request with a key.
fn with<T>(key: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("authorization", format!("Bearer {key}").parse().unwrap());
    request
}

fn reason(status: &Status) -> String {
    status.get_details_error_info().map(|info| info.reason).unwrap_or_default()
}

/// A metric as the key `ops` reads it, which has only the scope for it.
async fn metric(node: &Node, name: &str, labels: &[(&str, &str)]) -> f64 {
    let request = crate::support::http::client().get(node.url("/metrics")).header("authorization", "Bearer of-ops");
    sample(&request.send().await.unwrap().text().await.unwrap(), name, labels)
}

/// Settings of a key `name` with the secret `of-name`, beside those of the key `ops`.
fn key<'a>(name: &str, more: &[(&str, &'a str)]) -> Vec<(String, &'a str)> {
    let upper = name.to_uppercase();
    let secret: &'static str = format!("of-{name}").leak();
    let mut all = vec![(format!("KEY_{upper}__SECRET"), secret)];
    all.extend(more.iter().map(|(key, value)| (format!("KEY_{upper}__{}", key.to_uppercase()), *value)));
    all
}

async fn start(keys: &[Vec<(String, &str)>]) -> Node {
    let all = [key("ops", &[("scopes", "metrics")])];
    let all: Vec<_> = all.iter().chain(keys).flatten().map(|(key, value)| (key.as_str(), *value)).collect();
    Node::start(&all).await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_call_is_for_callers_with_its_scope_and_nobody_else() {
    let keys: Vec<_> = Scope::ALL.into_iter().map(|scope| key(scope.word(), &[("scopes", scope.word())])).collect();
    let node = start(&keys).await;
    // authorization, and the scope that it has; the words of a refusal where it has none
    let mut cases = vec![(String::new(), None, "no_key"), ("Bearer wrong".into(), None, "wrong_key")];
    cases.extend(Scope::ALL.map(|scope| (format!("Bearer of-{}", scope.word()), Some(scope), "no_scope")));
    let mut peer = Raw::connect(&node).await;
    let mut tried = 0;
    let paths: BTreeSet<&str> = SCOPES.iter().chain(DELETE_SCOPES).map(|(path, _)| *path).collect();
    let of = |table: &[(&str, Scope)], path| table.iter().find(|(known, _)| *known == path).map(|(_, scope)| *scope);
    for path in paths {
        let allow = ask(&node, Method::TRACE, path, "", "").await.headers.get("allow").cloned();
        for (authorization, has, word) in &cases {
            let case = format!("{path} with {authorization:?}");
            if path.starts_with("/proto.Rpc/") || path.starts_with("/order.Proxy/") {
                let headers: Vec<_> = [("authorization", authorization.as_str())]
                    .into_iter()
                    .filter(|(_, value)| !value.is_empty())
                    .collect();
                let mut call = peer.call(path, &headers).await.unwrap();
                call.send(framed(&PushRequest::default()), true);
                let end = call.end().await;
                let status = match (of(SCOPES, path) == *has, has) {
                    (true, _) => None,
                    (false, None) => Some(Code::Unauthenticated as i32),
                    (false, Some(_)) => Some(Code::PermissionDenied as i32),
                };
                match status {
                    Some(status) => assert_eq!((end.status, end.reason.as_str()), (Some(status), *word), "{case}"),
                    None => assert!(
                        !["no_key", "wrong_key", "no_scope"].contains(&&*end.reason)
                            && ![Some(7), Some(16)].contains(&end.status),
                        "{case}: {end:?}"
                    ),
                }
                tried += 1;
                continue;
            }
            for method in allow.as_ref().expect("a route that is served").to_str().unwrap().split(", ") {
                let head = method == "HEAD";
                let table = if method == "DELETE" { DELETE_SCOPES } else { SCOPES };
                let needed = of(table, path).expect("a scope");
                let good = *has == Some(needed);
                // a stream would not end
                let path = if path == "/events" { "/events?kinds=none" } else { path };
                let answer = ask(&node, method.parse().unwrap(), path, authorization, "{}").await;
                match has {
                    _ if good => assert!(![401, 403].contains(&answer.status), "{case}: {answer:?}"),
                    None => assert_eq!(answer.status, 401, "{case}"),
                    Some(_) => assert_eq!(answer.status, 403, "{case}"),
                }
                if !good && !head {
                    assert_eq!(answer.reason, *word, "{case}");
                    assert!(
                        has.is_none() || answer.message.contains(&format!("the scope {}", needed.word())),
                        "{case}: {answer:?}"
                    );
                }
                tried += 1;
            }
        }
    }
    assert!(tried >= (SCOPES.len() + DELETE_SCOPES.len()) * cases.len());
    assert!(metric(&node, "oxipush_callers_total", &[("caller", "query"), ("outcome", "no_scope")]).await > 0.0);
    assert!(metric(&node, "oxipush_callers_total", &[("caller", "(nobody)"), ("outcome", "wrong_key")]).await > 0.0);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_table_of_scopes_has_every_call_that_there_is_and_no_other() {
    let node = start(&[]).await;
    let api: Value = crate::support::http::get(node.url("/openapi.json")).await.unwrap().json().await.unwrap();
    let keyed = |path: &Value| path.as_object().unwrap().values().any(|operation| operation["security"] != json!([]));
    let http = api["paths"].as_object().unwrap().iter().filter(|(_, path)| keyed(path)).map(|(path, _)| path.clone());
    let files = prost_types::FileDescriptorSet::decode(DESCRIPTORS).unwrap().file;
    let services = files.iter().flat_map(|file| file.service.iter().map(move |service| (file.package(), service)));
    let grpc = services.flat_map(|(package, service)| {
        service.method.iter().map(move |method| format!("/{package}.{}/{}", service.name(), method.name()))
    });
    let there: BTreeSet<String> = http.chain(grpc).collect();
    let known: BTreeSet<String> = SCOPES.iter().chain(DELETE_SCOPES).map(|(path, _)| (*path).to_owned()).collect();
    assert_eq!(known, there);
    for table in [SCOPES, DELETE_SCOPES] {
        let paths: BTreeSet<&str> = table.iter().map(|(path, _)| *path).collect();
        assert_eq!(paths.len(), table.len(), "one of them stands there twice");
    }
    let deletes = api["paths"].as_object().unwrap().iter().filter(|(_, path)| path["delete"].is_object());
    let deletes: BTreeSet<&str> = deletes.map(|(path, _)| path.as_str()).collect();
    assert_eq!(deletes, DELETE_SCOPES.iter().map(|(path, _)| *path).collect());
    // what is not in it is nobody's, whatever the key
    let mut peer = Raw::connect(&node).await;
    for (key, status) in [("of-ops", Code::Unimplemented), ("wrong", Code::Unauthenticated)] {
        let mut call =
            peer.call("/proto.Rpc/Everything", &[("authorization", &format!("Bearer {key}"))]).await.unwrap();
        call.send(framed(&PushRequest::default()), true);
        assert_eq!(call.end().await.status, Some(status as i32), "{key}");
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_reaches_only_whom_its_patterns_name_and_each_push_is_judged_by_itself() {
    let cards = key("cards", &[("scopes", "push,query"), ("cards", "user:*, news")]);
    let apps = key("apps", &[("scopes", "push,query"), ("apps", "web")]);
    let node = start(&[cards, apps]).await;
    let mut tab = Client::gopusher(&node.socket(), "user:1", "web").await;
    for (key, to, app, out) in [
        ("of-cards", &["user:1", "news"][..], "", None),
        ("of-cards", &["user:1"], "tv", None),
        ("of-cards", &["user:1", "admin"], "", Some("`admin` is not among its cards ([key.cards] cards)")),
        ("of-apps", &["user:1", "admin"], "web", None),
        ("of-apps", &["user:1"], "", Some("it names no app, and this key is for some apps only ([key.apps] apps)")),
        ("of-apps", &["user:1"], "tv", Some("`tv` is not among its apps ([key.apps] apps)")),
    ] {
        let answer = push_to(&node, key, to, app).await;
        match out {
            None => assert_eq!(answer.status, 200, "{key} {to:?} {app}: {answer:?}"),
            Some(out) => {
                assert_eq!((answer.status, answer.reason.as_str()), (403, "not_admitted"), "{key} {to:?} {app}");
                assert!(answer.message.contains(out), "{answer:?}");
            }
        }
    }
    let batch = json!([{"to": ["user:1"], "content": "1"}, {"to": ["admin"], "content": "2"}, {"to": ["news"], "content": "3"}]);
    let answer = ask(&node, Method::POST, "/push/batch", "Bearer of-cards", &batch.to_string()).await;
    let codes: Vec<_> = answer.body["replies"].as_array().unwrap().iter().map(|reply| reply["code"].as_u64()).collect();
    assert_eq!((answer.status, codes), (200, vec![Some(0), Some(403), Some(0)]));

    let mut client = RpcClient::connect(node.grpc()).await.unwrap();
    let status = client.push(with("of-cards", push("admin", "x"))).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::PermissionDenied, "not_admitted"));
    let pushes = vec![push("user:1", "4"), push("admin", "5"), push("user:2", "6")];
    let replies = client.push_batch(with("of-cards", PushBatchRequest { pushes: pushes.clone() })).await.unwrap();
    let outcomes = |replies: Vec<(i32, String)>| {
        assert_eq!(replies, [(0, String::new()), (7, "not_admitted".into()), (0, String::new())])
    };
    outcomes(replies.into_inner().replies.into_iter().map(|reply| (reply.code, reply.reason)).collect());
    let mut stream = client.push_stream(with("of-cards", iter(pushes))).await.unwrap().into_inner();
    let mut replies = Vec::new();
    while let Some(reply) = stream.message().await.unwrap() {
        replies.push((reply.code, reply.reason));
    }
    outcomes(replies);

    // a question is for whom a push would be
    for (key, card, status) in [("of-cards", "user:1", 200), ("of-cards", "admin", 403), ("of-apps", "user:1", 403)] {
        let answer = ask(&node, Method::GET, &format!("/isOnline?cardID={card}"), &format!("Bearer {key}"), "").await;
        assert_eq!(answer.status, status, "{key} {card}: {answer:?}");
    }
    let status = client
        .is_online(with("of-cards", IsOnlineRequest { card_id: "admin".into(), ..Default::default() }))
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    for content in ["x", "x", "1", "4", "4"] {
        assert_eq!(tab.content().await, content);
    }
    for (outcome, number) in [("accepted", 8.0), ("not_admitted", 7.0)] {
        let counted = metric(&node, "oxipush_callers_total", &[("caller", "cards"), ("outcome", outcome)]).await;
        assert_eq!(counted, number, "{outcome}");
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_with_patterns_pushes_to_its_own_rooms_and_apps_and_never_to_everyone() {
    let rooms = key("rooms", &[("scopes", "push"), ("rooms", "team:*")]);
    let cards = key("cards", &[("scopes", "push"), ("cards", "user:*")]);
    let apps = key("apps", &[("scopes", "push"), ("apps", "web")]);
    let all = key("all", &[("scopes", "push")]);
    let node = start(&[rooms, cards, apps, all]).await;
    let mut client = RpcClient::connect(node.grpc()).await.unwrap();
    let to = |cards: &[&str], room: &str, app: &str| PushRequest {
        to: cards.iter().map(|&card| card.into()).collect(),
        room: room.into(),
        app_id: app.into(),
        content: "x".into(),
        ..Default::default()
    };
    let everyone = PushRequest { everyone: true, ..to(&[], "", "") };
    // the target, and which of the keys of rooms, cards and apps may push to it
    for (target, admitted) in [
        (to(&[], "team:1", ""), ["rooms"].as_slice()),
        (to(&[], "lobby", ""), &[]),
        (to(&["user:1"], "", ""), &["cards"]),
        (to(&["user:1"], "team:1", ""), &[]),
        (to(&[], "", "web"), &["apps"]),
        (to(&[], "", "tv"), &[]),
        (to(&[], "team:1", "web"), &["rooms", "apps"]),
        (to(&["user:1"], "", "web"), &["cards", "apps"]),
        (to(&["user:1"], "team:1", "web"), &["apps"]),
        (everyone, &[]),
    ] {
        // who gets nothing neither opens nor closes a way
        for exclude in [None, Some(Exclude { cards: vec!["user:1".into(), "admin".into()], client: "0".repeat(26) })] {
            let target = PushRequest { exclude, ..target.clone() };
            let body = json!({
                "room": target.room, "appID": target.app_id, "everyone": target.everyone, "content": "x",
                "exclude": target.exclude.as_ref().map(|exclude| json!({"cards": exclude.cards, "client": exclude.client})),
            });
            let mut body = body.as_object().unwrap().clone();
            if !target.to.is_empty() {
                body.insert("to".into(), json!(target.to));
            }
            let body = Value::from(body).to_string();
            for key in ["all", "rooms", "cards", "apps"] {
                let may = key == "all" || admitted.contains(&key);
                let answer = ask(&node, Method::POST, "/push", &format!("Bearer of-{key}"), &body).await;
                assert_eq!(answer.status, if may { 200 } else { 403 }, "{key} {body}: {answer:?}");
                assert!(may || answer.reason == "not_admitted", "{key} {body}: {answer:?}");
                let pushed = client.push(with(&format!("of-{key}"), target.clone())).await;
                assert_eq!(
                    pushed.err().map(|status| status.code()),
                    (!may).then_some(Code::PermissionDenied),
                    "{key} {body}"
                );
            }
        }
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_with_patterns_ends_only_clients_that_it_may_push_to() {
    let cards = key("cards", &[("scopes", "disconnect"), ("cards", "user:*")]);
    let apps = key("apps", &[("scopes", "disconnect"), ("apps", "web")]);
    let all = key("all", &[("scopes", "disconnect")]);
    let node = start(&[cards, apps, all]).await;
    for (key, order, status) in [
        ("of-cards", json!({"card_id": "user:1"}), 200),
        ("of-cards", json!({"card_id": "admin"}), 403),
        ("of-cards", json!({"app_id": "web"}), 403),
        ("of-cards", json!({"sub": "user:1", "revoke": true}), 403),
        ("of-apps", json!({"app_id": "web"}), 200),
        ("of-apps", json!({"app_id": "tv"}), 403),
        ("of-apps", json!({"card_id": "user:1"}), 403),
        ("of-apps", json!({"client": "0".repeat(26)}), 403),
        ("of-all", json!({"sub": "user:1", "revoke": true}), 200),
        ("of-all", json!({"client": "0".repeat(26)}), 200),
    ] {
        let answer = ask(&node, Method::POST, "/disconnect", &format!("Bearer {key}"), &order.to_string()).await;
        assert_eq!(answer.status, status, "{key} {order}: {answer:?}");
        assert!(status == 200 || answer.reason == "not_admitted", "{answer:?}");
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_lets_a_burst_pass_and_then_says_when_to_come_again() {
    // a token comes back only after the test
    let slow = key("slow", &[("scopes", "push"), ("rate", "1"), ("burst", "1000")]);
    let quick = key("quick", &[("scopes", "push"), ("rate", "5"), ("burst", "1")]);
    let free = key("free", &[("scopes", "push")]);
    let node = start(&[slow, quick, free]).await;
    let batch = |number: usize| Value::from(vec![json!({"to": ["nobody"], "content": "x"}); number]).to_string();
    let answer = ask(&node, Method::POST, "/push/batch", "Bearer of-slow", &batch(990)).await;
    assert_eq!((answer.status, &answer.body["failed"]), (200, &json!(0)), "the burst at once");
    // what is refused costs nothing
    assert_eq!(push_to(&node, "of-slow", &[], "").await.status, 400);
    let answer = ask(&node, Method::POST, "/push/batch", "Bearer of-slow", &batch(1000)).await;
    let failed = answer.body["failed"].as_u64().unwrap();
    assert!((900..=990).contains(&failed), "some came back meanwhile, not many: {failed}");
    assert_eq!(
        (&answer.body["replies"][999]["code"], &answer.body["replies"][999]["reason"]),
        (&json!(429), &json!("rate"))
    );

    let mut client = RpcClient::connect(node.grpc()).await.unwrap();
    let status = loop {
        if let Err(status) = client.push(with("of-quick", push("nobody", "x"))).await {
            break status;
        }
    };
    assert_eq!((status.code(), reason(&status).as_str()), (Code::ResourceExhausted, "rate"));
    let wait = status.get_details_retry_info().and_then(|info| info.retry_delay).unwrap();
    assert!(wait > Duration::ZERO && wait <= Duration::from_millis(200), "{wait:?}");
    let answer = ask(&node, Method::POST, "/push/batch", "Bearer of-quick", &batch(1000)).await;
    assert!(answer.body["failed"].as_u64().unwrap() > 900, "{answer:?}");
    // once the wait is over there is room again
    let all_at_once = tokio::time::timeout(PATIENCE, async {
        while push_to(&node, "of-quick", &["nobody"], "").await.status != 200 {
            tokio::time::sleep(wait).await;
        }
    });
    all_at_once.await.expect("a token comes back");
    let refused = tokio::time::timeout(PATIENCE, async {
        loop {
            let answer = push_to(&node, "of-slow", &["nobody"], "").await;
            if answer.status == 429 {
                break answer;
            }
        }
    });
    let refused = refused.await.expect("an empty bucket");
    assert_eq!((refused.headers["retry-after"].as_bytes(), refused.reason.as_str()), (&b"1"[..], "rate"));
    assert!(refused.message.contains("[key.slow] rate"), "{refused:?}");
    // another key's bucket is another
    assert_eq!(push_to(&node, "of-free", &["nobody"], "").await.status, 200);
    assert!(metric(&node, "oxipush_callers_total", &[("caller", "slow"), ("outcome", "rate")]).await > 0.0);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_opens_as_it_is_written() {
    let all: String = ('!'..='~').collect();
    let odd = format!("\"{all}\"");
    let settings = [
        ("KEY_ODD__SECRET", odd.as_str()),
        ("KEY_ODD__SCOPES", "query"),
        ("KEY_OPS__SECRET", "of-ops"),
        ("KEY_OPS__SCOPES", "metrics"),
    ];
    let node = Node::start(&settings).await;
    assert_eq!(ask(&node, Method::GET, "/system", &format!("Bearer {all}"), "").await.status, 200);
    assert_eq!(ask(&node, Method::GET, "/system", &format!("Bearer {odd}"), "").await.status, 401);
    let mut client = RpcClient::connect(node.grpc()).await.unwrap();
    assert!(client.system(with(&all, Default::default())).await.is_ok());
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_wrong_keys_is_counted_not_logged_and_hinders_nobody() {
    const WRONG: usize = 2000;
    let secret = "a-good-key-of-callers";
    let place = Place::new(&format!("[auth]\nkeys = {secret}\n"));
    let mut command = place.command(&[]);
    command.env("RUST_LOG", "debug,h2=off,hyper=off,actix_http=off,mio=off,tower=off");
    let mut program = place.start(&mut command);
    program.ready().await;
    let client = crate::support::http::client();
    let get = async |path: &str, key: &str| client.get(program.url(path)).bearer_auth(key).send().await.unwrap();
    let mut rpc = RpcClient::connect(format!("http://{}", program.at[2])).await.unwrap();
    for n in 0..WRONG / 2 {
        // near ones, far ones, and some that are longer than any key
        let wrong = if n % 10 == 0 { "x".repeat(4000) } else { format!("{secret}{n}") };
        assert_eq!(get("/system", &wrong).await.status(), 401);
        assert_eq!(rpc.push(with(&wrong, push("a", "x"))).await.unwrap_err().code(), Code::Unauthenticated);
        if n % 100 == 0 {
            assert!(rpc.push(with(secret, push("a", "x"))).await.is_ok());
        }
    }
    let metrics = get("/metrics", secret).await.text().await.unwrap();
    let counted = sample(&metrics, "oxipush_callers_total", &[("caller", "(nobody)"), ("outcome", "wrong_key")]);
    let by_status = |status| sample(&metrics, "oxipush_requests_total", &[("status", status)]);
    assert_eq!((counted, by_status("401") + by_status("UNAUTHENTICATED")), (WRONG as f64, WRONG as f64));
    assert_eq!(sample(&metrics, "oxipush_callers_total", &[("caller", "key 1"), ("outcome", "accepted")]), 10.0);
    assert!(!metrics.contains(secret), "a key is shown");
    program.child.kill().unwrap();
    program.child.wait().unwrap();
    let log = program.log();
    assert!(log.lines().count() < 100, "{} lines for {WRONG} wrong keys", log.lines().count());
    assert!(!log.contains(secret), "a key is in the log:\n{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_changes_what_keys_may_do_in_open_streams_too() {
    let of_a = "[key.a]\nsecret = of-a\nscopes = push\n";
    let program = Program::start(of_a).await;
    let mut rpc = RpcClient::connect(format!("http://{}", program.at[2])).await.unwrap();
    let (pushes, sent) = tokio::sync::mpsc::channel(1);
    let mut replies = rpc.push_stream(with("of-a", ReceiverStream::new(sent))).await.unwrap().into_inner();
    let mut answered = async || {
        pushes.send(push("bob", "x")).await.unwrap();
        tokio::time::timeout(PATIENCE, replies.message()).await.expect("a reply").unwrap().unwrap().reason
    };
    assert_eq!(answered().await, "");
    program.write(&format!("{of_a}cards = alice\n"));
    program.signal(Signal::SIGHUP);
    program.logged("[key.a] cards = alice").await;
    assert_eq!(answered().await, "not_admitted");
    // a mistake changes nothing
    program.write("[key.a]\nscopes = push\n");
    program.signal(Signal::SIGHUP);
    program.logged("[key.a] secret: there is no key").await;
    assert_eq!(answered().await, "not_admitted");
    program.write("[key.b]\nsecret = of-b\nscopes = push\n");
    program.signal(Signal::SIGHUP);
    program.logged("[key.b] secret = ***").await;
    assert_eq!(answered().await, "wrong_key");
    let status = rpc.push(with("of-a", push("bob", "x"))).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::Unauthenticated, "wrong_key"));
    assert!(rpc.push(with("of-b", push("bob", "x"))).await.is_ok());
    let log = program.log();
    assert!(!log.contains("of-a") && !log.contains("of-b"), "a key is in the log:\n{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn raw_pushes_act_as_the_key_that_raw_key_names_and_without_it_as_nobody() {
    let nsqd = Nsqd::start().await;
    let (tcp, http) = (nsqd.tcp(), nsqd.http());
    let queue = [("QUEUE__BACKEND", "nsq"), ("QUEUE__NSQD", tcp.as_str()), ("QUEUE__NSQD_HTTP", http.as_str())];
    let keys = [("KEY_OPS__SECRET", "of-ops"), ("KEY_OPS__SCOPES", "metrics")];
    let raw = |card: &str, content: &str| push(card, content).encode_to_vec();
    let counted = async |node: &Node, outcome: &str, least: f64| {
        let labels = [("source", "nsq"), ("outcome", outcome)];
        let reached = async {
            while metric(node, "oxipush_pushes_total", &labels).await < least {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, reached).await.expect("it is counted");
    };
    let node = Node::start(&[&queue[..], &keys, &[("NODE__ID", "raw-1")]].concat()).await;
    nsqd.publish("gopusher", raw("user:1", "nobody's")).await;
    counted(&node, "no_key", 1.0).await;
    node.stop().await;

    let of_raw = [
        ("QUEUE__RAW_KEY", "raw"),
        ("QUEUE__REQUEUE_DELAY", "50ms"),
        ("KEY_RAW__SECRET", "of-raw"),
        ("KEY_RAW__SCOPES", "push"),
        ("KEY_RAW__CARDS", "user:*"),
        ("KEY_RAW__RATE", "5"),
        ("KEY_RAW__BURST", "1"),
        ("NODE__ID", "raw-2"),
    ];
    let node = Node::start(&[&queue[..], &keys, &of_raw].concat()).await;
    let mut tab = Client::gopusher(&node.socket(), "user:1", "").await;
    nsqd.publish("gopusher", raw("admin", "out of bounds")).await;
    counted(&node, "not_admitted", 1.0).await;
    // faster than its rate: they wait, and none is lost
    for n in 0..4 {
        nsqd.publish("gopusher", raw("user:1", &n.to_string())).await;
    }
    let mut came = BTreeSet::new();
    for _ in 0..4 {
        came.insert(tab.content().await);
    }
    assert_eq!(came, ["0", "1", "2", "3"].map(str::to_owned).into());
    assert_eq!(metric(&node, "oxipush_callers_total", &[("caller", "raw"), ("outcome", "accepted")]).await, 4.0);
    assert!(metric(&node, "oxipush_callers_total", &[("caller", "raw"), ("outcome", "rate")]).await > 0.0);
    node.stop().await;
}
