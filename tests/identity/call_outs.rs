//! A back end's call-out: it says who a client is, is away, slow, wrong, and is not asked twice.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use oxipush::internals::auth::{IdentityErrorKind::*, Presented};
use serde_json::{Value, json};

use crate::{
    keys::Key,
    rig::{Rig, SECRET, assert_refused, claims, now, presented},
    support::{
        client::Client,
        gateway::Node,
        http_server::{HttpServer, Told},
    },
};

fn told(answer: Value) -> Told {
    Told::ok(answer.to_string())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_out_is_told_what_was_presented_and_says_who_it_is() {
    let asked = Arc::new(Mutex::new(None));
    let server = HttpServer::start({
        let asked = asked.clone();
        move |question| {
            *asked.lock().unwrap() = Some((question.line, serde_json::from_slice::<Value>(&question.body).unwrap()));
            told(json!({
                "sub": "user-7", "card": "mayun", "cards": ["team:*"], "app": "web", "rooms": ["lobby"], "push": "chat:*",
                "ttl": 60, "note": "more",
            }))
        }
    })
    .await;
    let url = format!("{}/who?v=1", server.url);
    let rig = Rig::new(&[
        ("VERIFY__URL", &url),
        ("VERIFY__HEADERS", "Cookie, X-Device"),
        ("SOCKET__ALLOWED_ORIGINS", "https://example.org"),
    ]);
    assert_eq!(*rig.verifier.headers(), ["cookie", "x-device"]);
    let headers = [("cookie", "a=1"), ("cookie", "b=2"), ("x-device", "one"), ("x-device", "two")];
    let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    let address = "::ffff:192.0.2.7".parse().unwrap();
    let identity = rig.present(Presented { headers, address, ..presented("s3cret") }).await.unwrap();
    assert_eq!(
        (&*identity.subject, identity.card.as_deref(), identity.app.as_deref()),
        ("user-7", Some("mayun"), Some("web"))
    );
    assert!(identity.admits_card("team:1") && identity.rooms.admits("lobby") && identity.push.admits("chat:1"));
    let left = identity.expires_at.unwrap() - now();
    assert!((30..=60).contains(&left), "{left}");
    let (line, question) = asked.lock().unwrap().take().unwrap();
    assert_eq!(line, "POST /who?v=1 HTTP/1.1");
    let expected = json!({
        "token": "s3cret", "card_id": "alice", "app_id": "web", "address": "192.0.2.7",
        "headers": {"cookie": "a=1; b=2", "x-device": "one, two"},
    });
    assert_eq!(question, expected);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gpushs_auth_url_is_asked_in_its_own_form_and_its_uid_is_the_card() {
    let answer = Arc::new(Mutex::new(("200 OK", String::new())));
    let asked = Arc::new(Mutex::new(None));
    let server = HttpServer::start({
        let (answer, asked) = (answer.clone(), asked.clone());
        move |question| {
            *asked.lock().unwrap() = Some(String::from_utf8(question.body).unwrap());
            let (status, body) = answer.lock().unwrap().clone();
            Told { status, ..Told::ok(body) }
        }
    })
    .await;
    let rig = Rig::new(&[("VERIFY__URL", &server.url), ("VERIFY__FORM", "gpush"), ("VERIFY__CACHE", "0s")]);
    let ask = async |status: &'static str, body: &str| {
        *answer.lock().unwrap() = (status, body.to_owned());
        rig.verify("s3cret").await
    };
    for good in [
        r#"{"code":0,"data":{"user_info":{"uid":"u1","username":"U"}},"msg":"ok"}"#,
        r#"{"code":"0","data":{"user_info":{"uid":"u1"}}}"#,
        r#"{"data":{"user_info":{"uid":"u1"}}}"#,
    ] {
        let identity = ask("200 OK", good).await.unwrap();
        assert_eq!((&*identity.subject, identity.card.as_deref()), ("u1", Some("u1")), "{good}");
        assert!(identity.rooms.admits("private-orders") && !identity.rooms.admits("orders"), "{good}");
        assert!(!identity.admits_card("u2") && identity.expires_at.is_none());
        assert_eq!(asked.lock().unwrap().take().unwrap(), r#"{"token":"s3cret"}"#);
    }
    let no_uid = [
        r#"{"code":0}"#,
        r#"{"code":0,"data":null}"#,
        r#"{"code":0,"data":{"user_info":{"uid":7}}}"#,
        r#"{"code":0,"data":{"user_info":{"uid":""}}}"#,
        r#"{"code":0,"data":{"user_info":{"uid":"a\u0007"}}}"#,
        r#"{"code":0,"data":["user_info"]}"#,
    ];
    for no in no_uid.into_iter().chain([r#"{"code":401}"#, r#"{"code":"401"}"#, r#"{"code":[0]}"#]) {
        assert_refused(&ask("200 OK", no).await.unwrap_err(), Refused, "back end refuses");
    }
    assert_refused(&ask("400 Bad Request", r#"{"code":7}"#).await.unwrap_err(), Refused, "back end refuses");
    assert_refused(&ask("401 Unauthorized", "no").await.unwrap_err(), Refused, "back end refuses");
    let away = [("500 Oops", r#"{"code":7}"#), ("404 Not Found", "{}"), ("200 OK", "[]"), ("200 OK", "")];
    for (status, body) in away {
        assert_refused(&ask(status, body).await.unwrap_err(), Away, "come back");
    }
    // a client without a token is not asked about
    let before = server.asked();
    let tokenless = Presented { token: None, ..presented("") };
    assert_refused(&rig.present(tokenless).await.unwrap_err(), NoToken, "no token");
    assert_eq!(server.asked(), before);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_call_out_answers_admits_refuses_or_says_come_back() {
    let answer = Arc::new(Mutex::new(String::new()));
    let server = HttpServer::start({
        let answer = answer.clone();
        move |_| match answer.lock().unwrap().as_str() {
            "401" => Told::status("401 Unauthorized"),
            "403" => Told { status: "403 Forbidden", ..Told::ok("<html>no</html>") },
            "404" => Told::status("404 Not Found"),
            "204" => Told::status("204 No Content"),
            "302" => Told { headers: "location: /\r\n".into(), ..Told::status("302 Found") },
            "slow" => Told { delay: Duration::from_secs(600), ..Told::ok("{\"sub\":\"alice\"}") },
            "drip" => Told { drip: Duration::from_millis(100), ..Told::ok("{\"sub\":\"alice\"}") },
            "huge" => Told::ok(format!("{{\"sub\":\"alice\",\"x\":\"{}\"}}", "x".repeat(20_000))),
            answer => Told::ok(answer.to_owned()),
        }
    })
    .await;
    let rig = Rig::new(&[("VERIFY__URL", &server.url), ("VERIFY__CACHE", "0s"), ("VERIFY__TIMEOUT", "1s")]);
    let ask = async |text: &str| {
        *answer.lock().unwrap() = text.to_owned();
        rig.verify("token").await
    };
    for good in
        ["{\"sub\":\"alice\"}", "{\"card\":\"alice\"}", "{\"cards\":\"*\"}", "{\"sub\":\"a\",\"cards\":[\"alice\"]}"]
    {
        assert!(ask(good).await.unwrap().admits_card("alice"), "{good}");
    }
    let absolute = now() + 100;
    let identity = ask(&format!("{{\"sub\":\"alice\",\"exp\":{absolute}}}")).await.unwrap();
    assert_eq!(identity.expires_at, Some(absolute));
    for no in ["401", "403"] {
        assert_refused(&ask(no).await.unwrap_err(), Refused, "back end refuses");
    }
    for bad in [
        "404",
        "204",
        "302",
        "slow",
        "drip",
        "huge",
        "",
        "null",
        "[]",
        "<html>",
        "{}",
        "{\"sub\":7}",
        "{\"sub\":\"\"}",
        "{\"card\":\"a\\u0007\"}",
        "{\"sub\":\"alice\",\"exp\":1}",
        "{\"sub\":\"alice\",\"exp\":\"soon\"}",
        "{\"sub\":\"alice\",\"ttl\":1,\"exp\":99999999999}",
    ] {
        assert_refused(&ask(bad).await.unwrap_err(), Away, "come back");
    }
    assert_eq!((rig.counted("verified"), rig.counted("refused"), rig.counted("away")), (5, 2, 17));
    assert!(rig.metrics.text().contains("oxipush_call_outs_total{outcome=\"failed\"} 17"));
    drop(server);
    assert_refused(&rig.verify("token").await.unwrap_err(), Away, "come back");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_is_kept_for_its_client_and_no_other_and_a_refusal_is_not() {
    let is_refusing = Arc::new(AtomicBool::new(false));
    let server = HttpServer::start({
        let is_refusing = is_refusing.clone();
        move |_| {
            if is_refusing.load(Ordering::SeqCst) { Told::status("403 No") } else { told(json!({"sub": "alice"})) }
        }
    })
    .await;
    let rig = Rig::new(&[("VERIFY__URL", &server.url)]);
    is_refusing.store(true, Ordering::SeqCst);
    for _ in 0..2 {
        assert_refused(&rig.refusal("t").await, Refused, "refuses");
    }
    assert_eq!(server.asked(), 2);
    is_refusing.store(false, Ordering::SeqCst);
    for _ in 0..5 {
        rig.verify("t").await.unwrap();
    }
    assert_eq!(server.asked(), 3);
    is_refusing.store(true, Ordering::SeqCst);
    rig.verify("t").await.unwrap();
    let plain = presented("t");
    for other in [
        Presented { token: Some("u".into()), ..plain.clone() },
        Presented { token: None, ..plain.clone() },
        Presented { card: "bob".into(), ..plain.clone() },
        Presented { app: "ios".into(), ..plain.clone() },
        Presented { address: [127, 0, 0, 2].into(), ..plain.clone() },
        Presented { headers: vec![("cookie".into(), "x".into())], ..plain.clone() },
    ] {
        assert_refused(&rig.present(other).await.unwrap_err(), Refused, "refuses");
    }
    // a revocation is of after what it said
    rig.verifier.revoke("alice".into(), now());
    assert_refused(&rig.refusal("t").await, Refused, "refuses");
    assert!(rig.metrics.text().contains("oxipush_call_outs_total{outcome=\"cached\"} 5"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_are_bounded_and_whoever_is_beyond_comes_back() {
    let server =
        HttpServer::start(|_| Told { delay: Duration::from_millis(500), ..told(json!({"sub": "alice"})) }).await;
    let rig = Arc::new(Rig::new(&[("VERIFY__URL", server.url.as_str()), ("VERIFY__MAX_IN_FLIGHT", "10")]));
    let mut clients = tokio::task::JoinSet::new();
    for n in 0..100 {
        let rig = rig.clone();
        clients.spawn(async move { rig.verify(&format!("t{n}")).await.map_err(|error| error.kind) });
    }
    let verified = clients.join_all().await;
    let admitted = verified.iter().filter(|verified| verified.is_ok()).count();
    assert!((10..=30).contains(&admitted), "{admitted}");
    assert!(verified.iter().all(|verified| !matches!(verified, Err(kind) if *kind != Away)));
    assert_eq!(server.asked(), admitted);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_both_the_token_is_good_first_and_then_the_call_out_counts() {
    let server = HttpServer::start(|_| told(json!({"sub": "bob", "ttl": 36_000}))).await;
    let rig = Rig::new(&[("VERIFY__URL", server.url.as_str()), ("TOKEN__SECRET", SECRET)]);
    let key = Key::secret(SECRET);
    assert_refused(&rig.refusal("").await, NoToken, "no token");
    assert_refused(&rig.refusal(&Key::secret("x").token(None, &claims(json!({})))).await, BadToken, "signature");
    assert_eq!(server.asked(), 0, "a bad token was shown to the call-out");
    let end = now() + 60;
    let old = key.token(None, &claims(json!({"exp": end, "iat": now() - 5})));
    let identity = rig.verify(&old).await.unwrap();
    assert_eq!((identity.card.as_deref(), identity.expires_at), (Some("bob"), Some(end + 30)));
    rig.verifier.revoke("alice".into(), now() - 1);
    assert_refused(&rig.refusal(&old).await, Revoked, "revoked");
    assert_eq!(server.asked(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_out_is_called_over_tls_if_it_is_trusted() {
    let (server, certificate) = HttpServer::start_tls(|_| told(json!({"sub": "alice"}))).await;
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("ca.pem");
    std::fs::write(&ca, &certificate).unwrap();
    let trusting = [("VERIFY__URL", server.url.as_str()), ("VERIFY__CA", ca.to_str().unwrap())];
    assert!(Rig::new(&trusting).verify("t").await.is_ok());
    assert_refused(&Rig::new(&trusting[..1]).refusal("t").await, Away, "come back");
    assert_eq!(server.asked(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_that_no_clock_can_tell_is_none() {
    for end in ["\"ttl\":18446744073709551615", "\"exp\":18446744073709551615", "\"exp\":9223372036854775808"] {
        let server = HttpServer::start(move |_| Told::ok(format!("{{\"sub\":\"alice\",{end}}}"))).await;
        let node = Node::start(&[("VERIFY__URL", &server.url)]).await;
        let mut client = Client::connect(&node.socket(), true).await;
        client.say(json!({"event": "join", "data": {"token": "t"}})).await;
        let answer = client.hear().await;
        assert_eq!((&answer["event"], &answer["data"]["expires_in"]), (&json!("joined"), &Value::Null), "{end}");
        node.push(&["alice"], "hello").await;
        assert_eq!(client.hear().await["data"]["content"], "hello");
        drop(client);
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beside_a_call_out_a_token_is_revoked_by_its_own_subject_also_while_the_call_is_under_way() {
    let (asked, mut is_asked) = tokio::sync::mpsc::unbounded_channel();
    let server = HttpServer::start(move |_| {
        asked.send(()).unwrap();
        Told { delay: Duration::from_millis(300), ..told(json!({"sub": "another", "card": "alice"})) }
    })
    .await;
    let rig = Rig::new(&[("TOKEN__SECRET", SECRET), ("VERIFY__URL", &server.url), ("VERIFY__CACHE", "0s")]);
    let token = Key::secret(SECRET).token(None, &claims(json!({"sub": "alice", "iat": now() - 1})));
    let identity = rig.verify(&token).await.unwrap();
    assert_eq!((&*identity.subject, identity.card.as_deref()), ("alice", Some("alice")));
    is_asked.recv().await.unwrap();
    let (verified, ()) = tokio::join!(rig.verify(&token), async {
        is_asked.recv().await.unwrap();
        rig.verifier.revoke("alice".into(), now());
    });
    assert_refused(&verified.unwrap_err(), Revoked, "log in again");
    assert!(rig.verifier.check(&identity).is_err(), "what was proved before does not hold any more");
    rig.stop().await;
}
