//! An issuer's key set: fetched, rotated, kept; huge, slow, empty, wrong.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use oxipush::internals::auth::{IdentityErrorKind::*, Verified};
use serde_json::{Value, json};

use crate::{
    keys::{Key, base64url},
    rig::{Rig, assert_alice, assert_refused, claims},
    support::http_server::{HttpServer, Told},
};

fn set(keys: &[Value]) -> String {
    json!({ "keys": keys }).to_string()
}

/// How a server answers badly.
type Bad = Box<dyn Fn() -> Told + Send + Sync>;

/// With intervals that a test can wait for.
fn settings(url: &str) -> Vec<(&'static str, &str)> {
    vec![("TOKEN__JWKS", url), ("TOKEN__JWKS_MIN_INTERVAL", "200ms"), ("TOKEN__JWKS_TIMEOUT", "2s")]
}

/// Once a key set is there, or the source has failed for long enough.
async fn come_back(rig: &Rig, token: &str) -> Verified {
    for _ in 0..200 {
        match rig.verify(token).await {
            Err(error) if error.kind == Away => tokio::time::sleep(Duration::from_millis(50)).await,
            verified => return verified,
        }
    }
    panic!("the key set never came");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_set_is_fetched_and_its_keys_are_told_apart_by_kid() {
    let (one, two, three) = (Key::p256(), Key::ed25519(), Key::p384());
    let keys = set(&[one.jwk("one"), two.jwk("two"), three.jwk("three")]);
    let server = HttpServer::start(move |_| Told::ok(keys.clone())).await;
    let rig = Rig::new(&settings(&server.url));
    for (key, kid) in [(&one, "one"), (&two, "two"), (&three, "three")] {
        assert_alice(rig.verify(&key.token(Some(kid), &claims(json!({})))).await);
    }
    // the name of another key
    assert_refused(&rig.refusal(&one.token(Some("two"), &claims(json!({})))).await, BadToken, "algorithm");
    assert_refused(&rig.refusal(&Key::p256().token(Some("one"), &claims(json!({})))).await, BadToken, "signature");
    // without a name it is the only key of its algorithm
    assert_alice(rig.verify(&one.token(None, &claims(json!({})))).await);
    let forged = Key::secret(&one.public_pem()).token(Some("one"), &claims(json!({})));
    assert_refused(&rig.refusal(&forged).await, BadToken, "algorithm");
    assert_eq!(server.asked(), 1, "known names ask nobody");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_of_keys_lead_nowhere() {
    let key = Key::p256();
    let keys = set(&[key.jwk("one")]);
    let server = HttpServer::start(move |_| Told::ok(keys.clone())).await;
    let rig = Arc::new(Rig::new(&settings(&server.url)));
    let huge = "k".repeat(3000);
    let names = ["/etc/passwd", "../../dev/null", "http://127.0.0.1:1/", "' OR 1=1 --", "", "\0", "one ", "ONE", &huge];
    // all at once: one fetch answers them
    let mut verified = tokio::task::JoinSet::new();
    for name in names {
        let (rig, token) = (rig.clone(), key.token(Some(name), &claims(json!({}))));
        verified.spawn(async move { rig.refusal(&token).await });
    }
    for error in verified.join_all().await {
        assert_refused(&error, BadToken, "(kid)");
    }
    assert_eq!(rig.counted("kid"), names.len() as u64);
    assert!(server.asked() <= 3, "{} fetches for {} names at once", server.asked(), names.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_for_something_else_verify_nothing() {
    let key = Key::p256();
    let with = |kid: &str, name: &str, value: Value| {
        let mut jwk = key.jwk(kid);
        jwk[name] = value;
        jwk
    };
    let secret = Key::secret("0123456789abcdef0123456789abcdef");
    let rsa = Key::rsa();
    let mut narrowed = rsa.jwk("narrow");
    narrowed["alg"] = "PS256".into();
    let keys = set(&[
        with("enc", "use", json!("enc")),
        with("ops", "key_ops", json!(["encrypt"])),
        with("private", "d", json!("AAAA")),
        with("curve", "crv", json!("P-521")),
        with("kind", "kty", json!("XYZ")),
        with("other", "alg", json!("RS256")),
        with("short", "x", json!("AAAA")),
        with("types", "kid", json!(7)),
        secret.jwk("oct"),
        json!("no key"),
        json!({"kty": "RSA", "kid": "weak", "e": "AQAB", "n": base64url([255; 128])}),
        narrowed,
        with("good", "use", json!("sig")),
    ]);
    let server = HttpServer::start(move |_| Told::ok(keys.clone())).await;
    let rig = Rig::new(&settings(&server.url));
    assert_alice(rig.verify(&key.token(Some("good"), &claims(json!({})))).await);
    for kid in ["enc", "ops", "private", "curve", "kind", "other", "short", "weak"] {
        assert_refused(&rig.refusal(&key.token(Some(kid), &claims(json!({})))).await, BadToken, "(kid)");
    }
    assert_refused(&rig.refusal(&secret.token(Some("oct"), &claims(json!({})))).await, BadToken, "(kid)");
    assert_refused(&rig.refusal(&rsa.token(Some("narrow"), &claims(json!({})))).await, BadToken, "algorithm");
    let ps =
        rsa.token_with(jsonwebtoken::Algorithm::PS256, &json!({"alg": "PS256", "kid": "narrow"}), &claims(json!({})));
    assert_alice(rig.verify(&ps).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_answers_badly_gives_no_keys_and_harms_nobody() {
    let key = Key::p256();
    let good = set(&[key.jwk("one")]);
    let many = set(&(0..101).map(|n| key.jwk(&n.to_string())).collect::<Vec<_>>());
    let huge = format!("{{\"keys\":[],\"x\":\"{}\"}}", "x".repeat(300 << 10));
    let secrets = set(&[Key::secret("0123456789abcdef0123456789abcdef").jwk("one")]);
    let elsewhere = HttpServer::start({
        let good = good.clone();
        move |_| Told::ok(good.clone())
    })
    .await;
    let redirect = format!("location: {}/\r\n", elsewhere.url);
    let (slow, drip) = (Duration::from_secs(600), Duration::from_millis(50));
    let told: Vec<(&str, Bad)> = vec![
        ("empty", Box::new(|| Told::ok(""))),
        ("no keys", Box::new(|| Told::ok("{\"keys\":[]}"))),
        ("only secrets", Box::new(move || Told::ok(secrets.clone()))),
        ("HTML", Box::new(|| Told::ok("<html>keys</html>"))),
        ("another JSON", Box::new(|| Told::ok("[1,2]"))),
        ("too many", Box::new(move || Told::ok(many.clone()))),
        ("huge", Box::new(move || Told::ok(huge.clone()))),
        ("slow", {
            let good = good.clone();
            Box::new(move || Told { delay: slow, ..Told::ok(good.clone()) })
        }),
        ("dripping", {
            let good = good.clone();
            Box::new(move || Told { drip, ..Told::ok(good.clone()) })
        }),
        ("404", Box::new(|| Told::status("404 Not Found"))),
        ("500 with keys", {
            let good = good.clone();
            Box::new(move || Told { status: "500 No", ..Told::ok(good.clone()) })
        }),
        ("redirecting", Box::new(move || Told { headers: redirect.clone(), ..Told::status("302 Found") })),
    ];
    for (name, told) in told {
        let server = HttpServer::start(move |_| told()).await;
        let mut settings = settings(&server.url);
        settings[2].1 = "500ms";
        let rig = Rig::new(&settings);
        let error = rig.refusal(&key.token(Some("one"), &claims(json!({})))).await;
        assert_eq!(error.kind, Away, "{name}: {error}");
        assert!(server.asked() >= 1, "{name}");
        assert!(rig.metrics.text().contains("oxipush_jwks_fetches_total{outcome=\"failed\"}"), "{name}");
        rig.stop().await;
    }
    assert_eq!(elsewhere.asked(), 0, "a redirect was followed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_good_set_is_kept_while_the_server_is_away_and_a_reload_keeps_it() {
    let key = Key::p256();
    let (keys, is_away) = (set(&[key.jwk("one")]), Arc::new(AtomicBool::new(false)));
    let server = HttpServer::start({
        let is_away = is_away.clone();
        move |_| {
            if is_away.load(Ordering::SeqCst) { Told::status("503 No") } else { Told::ok(keys.clone()) }
        }
    })
    .await;
    let rig = Rig::new(&settings(&server.url));
    let token = key.token(Some("one"), &claims(json!({})));
    assert_alice(rig.verify(&token).await);
    is_away.store(true, Ordering::SeqCst);
    let error = rig.refusal(&key.token(Some("two"), &claims(json!({})))).await;
    assert_refused(&error, Away, "come back");
    assert_alice(rig.verify(&token).await);
    let mut settings = settings(&server.url);
    settings.push(("TOKEN__LEEWAY", "1m"));
    let config = crate::rig::config(&settings);
    rig.verifier.replace(&config.token, &config.verify).unwrap();
    assert_alice(rig.verify(&token).await);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_any_key_yet_clients_come_back_and_get_in_once_it_is_there() {
    let key = Key::p256();
    let (keys, is_there) = (set(&[key.jwk("one")]), Arc::new(AtomicBool::new(false)));
    let server = HttpServer::start({
        let is_there = is_there.clone();
        move |_| {
            if is_there.load(Ordering::SeqCst) { Told::ok(keys.clone()) } else { Told::status("503 No") }
        }
    })
    .await;
    let rig = Rig::new(&settings(&server.url));
    let token = key.token(Some("one"), &claims(json!({})));
    assert_refused(&rig.refusal(&token).await, Away, "come back");
    is_there.store(true, Ordering::SeqCst);
    assert_alice(come_back(&rig, &token).await);
}

/// An issuer's key with its number.
type NumberedKey = (u32, Arc<Key>);

/// The issuer signs by a new key at once.
fn rotate(current: &Mutex<NumberedKey>, before: &Mutex<Option<Value>>) {
    let mut current = current.lock().unwrap();
    *before.lock().unwrap() = Some(current.1.jwk(&current.0.to_string()));
    *current = (current.0 + 1, Arc::new(Key::p256()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_set_that_rotates_under_load_refuses_no_good_client() {
    const CLIENTS: usize = 5_000;
    let current = Arc::new(Mutex::new((0, Arc::new(Key::p256()))));
    let before = Arc::new(Mutex::new(None::<Value>));
    let server = HttpServer::start({
        let (current, before) = (current.clone(), before.clone());
        move |_| {
            let (number, key) = current.lock().unwrap().clone();
            let old = before.lock().unwrap().clone();
            Told::ok(set(&[Some(key.jwk(&number.to_string())), old].into_iter().flatten().collect::<Vec<_>>()))
        }
    })
    .await;
    let rig = Arc::new(Rig::new(&[
        ("TOKEN__JWKS", server.url.as_str()),
        ("TOKEN__JWKS_MIN_INTERVAL", "100ms"),
        ("TOKEN__MAX_VERIFICATIONS", "10000"),
    ]));
    let mut clients = tokio::task::JoinSet::new();
    for client in 0..CLIENTS {
        if client % 500 == 499 {
            // the issuer signs by a new key at once, and goes on to publish the one before
            rotate(&current, &before);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let (number, key) = current.lock().unwrap().clone();
        let (rig, token) = (rig.clone(), key.token(Some(&number.to_string()), &claims(json!({}))));
        clients.spawn(async move { rig.verify(&token).await });
        if client % 500 == 498 {
            // those of the key before the last are through before it is withdrawn
            while clients.join_next().await.map(|verified| assert_alice(verified.unwrap())).is_some() {}
        }
    }
    while let Some(verified) = clients.join_next().await {
        assert_alice(verified.unwrap());
    }
    assert_eq!(rig.counted("verified"), CLIENTS as u64);
    assert!(server.asked() <= 60, "{} fetches", server.asked());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_unknown_names_is_bounded_and_keeps_no_good_client_out() {
    let key = Key::p256();
    let keys = set(&[key.jwk("one")]);
    let server = HttpServer::start(move |_| Told::ok(keys.clone())).await;
    let rig = Arc::new(Rig::new(&[
        ("TOKEN__JWKS", server.url.as_str()),
        ("TOKEN__JWKS_MIN_INTERVAL", "1s"),
        ("TOKEN__MAX_VERIFICATIONS", "100"),
    ]));
    let good = key.token(Some("one"), &claims(json!({})));
    assert_alice(rig.verify(&good).await);
    let mut flood = tokio::task::JoinSet::new();
    for n in 0..1_000 {
        let (rig, token) = (rig.clone(), key.token(Some(&format!("x{n}")), &claims(json!({}))));
        flood.spawn(async move { rig.refusal(&token).await.kind });
    }
    while rig.counted("away") < 900 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_alice(rig.verify(&good).await);
    let kinds = flood.join_all().await;
    assert_eq!(kinds.iter().filter(|kind| **kind == Away).count(), 900);
    assert!(server.asked() <= 4, "{} fetches", server.asked());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_set_may_be_a_file_that_changes() {
    let (one, two) = (Key::p256(), Key::p256());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jwks.json");
    std::fs::write(&path, set(&[one.jwk("one")])).unwrap();
    let rig = Rig::new(&settings(path.to_str().unwrap()));
    assert_alice(rig.verify(&one.token(Some("one"), &claims(json!({})))).await);
    std::fs::write(&path, set(&[two.jwk("two")])).unwrap();
    assert_alice(rig.verify(&two.token(Some("two"), &claims(json!({})))).await);
    assert_refused(&rig.refusal(&one.token(Some("one"), &claims(json!({})))).await, BadToken, "(kid)");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_set_comes_over_tls_from_who_is_trusted_only() {
    let key = Key::p256();
    let keys = set(&[key.jwk("one")]);
    let (server, certificate) = HttpServer::start_tls(move |_| Told::ok(keys.clone())).await;
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("ca.pem");
    std::fs::write(&ca, &certificate).unwrap();
    let token = key.token(Some("one"), &claims(json!({})));
    let mut trusting = settings(&server.url);
    trusting.push(("TOKEN__JWKS_CA", ca.to_str().unwrap()));
    assert_alice(Rig::new(&trusting).verify(&token).await);
    let asked = server.asked();
    assert_refused(&Rig::new(&settings(&server.url)).refusal(&token).await, Away, "come back");
    assert_eq!(server.asked(), asked, "a server that nobody vouches for was asked");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reloads_under_load_lose_no_client() {
    let key = Key::p256();
    let keys = set(&[key.jwk("one")]);
    let server = HttpServer::start(move |_| Told::ok(keys.clone())).await;
    let settings = [("TOKEN__JWKS", server.url.as_str()), ("TOKEN__MAX_VERIFICATIONS", "100000")];
    let rig = Arc::new(Rig::new(&settings));
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..200 {
        for client in 0..10 {
            let (rig, token) = (rig.clone(), key.token(Some("one"), &claims(json!({"jti": client}))));
            clients.spawn(async move { rig.verify(&token).await });
        }
        let config = crate::rig::config(&settings);
        rig.verifier.replace(&config.token, &config.verify).unwrap();
        tokio::task::yield_now().await;
    }
    while let Some(verified) = clients.join_next().await {
        assert_alice(verified.unwrap());
    }
    assert_eq!(rig.counted("verified"), 2_000);
}
