//! Tokens: what a join pays for one, and what others pay while many are verified. `cargo bench --bench identity`; a budget that is
//! missed ends it with an error. Budgets are several times what a busy virtual machine of two cores needed.
#![allow(missing_docs, clippy::unwrap_used)]

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use criterion::{Criterion, Throughput};
use oxipush::internals::{
    auth::{Presented, TokenSigner, Verification, Verifier},
    config::{self, Config},
    lifecycle::Tasks,
    telemetry::Metrics,
};
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair},
};
use serde_json::{Value, json};

const SECRET: &str = "0123456789abcdef0123456789abcdef";
/// Joins in a second, of which each brings a token of ES256 that was not seen before.
const JOINS: u32 = 5_000;
const TIME: Duration = Duration::from_secs(3);
/// Within which 99 of 100 wake-ups of others on the same workers come.
const BYSTANDER: Duration = Duration::from_millis(5);

fn config(values: &[(&str, &str)]) -> Config {
    config::load(None, values.iter().map(|(key, value)| (format!("OXIPUSH__{key}"), (*value).to_owned()))).unwrap()
}

fn verifier(values: &[(&str, &str)]) -> Verifier {
    let config = config(values);
    let tasks = Tasks::new().0;
    Verifier::new(&config.token, &config.verify, &tasks, &Arc::new(Metrics::new())).unwrap().unwrap()
}

fn presented(token: &str) -> Presented {
    Presented {
        token: Some(token.into()),
        card: "alice".into(),
        app: "web".into(),
        address: [127, 0, 0, 1].into(),
        headers: Vec::new(),
    }
}

fn claims(number: u32) -> Value {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    json!({"sub": format!("user-{number}"), "app": "web", "rooms": ["lobby"], "iat": now, "exp": now + 3600})
}

fn hs256() -> (Verifier, String) {
    let secret = config(&[("TOKEN__SECRET", SECRET)]).token.secret.unwrap();
    let token = TokenSigner::of_secret(&secret).unwrap().sign(None, claims(0).as_object().unwrap()).unwrap();
    (verifier(&[("TOKEN__SECRET", SECRET)]), token)
}

/// A public key in PEM, and tokens by its private one.
fn es256(number: u32) -> (String, Vec<String>) {
    const SPKI: &[u8] =
        b"\x30\x59\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07\x03\x42\0";
    let random = SystemRandom::new();
    let private = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, private.as_ref(), &random).unwrap();
    let der = [SPKI, pair.public_key().as_ref()].concat();
    let base64 = base64::engine::general_purpose::STANDARD.encode(der);
    let head = URL_SAFE_NO_PAD.encode(r#"{"alg":"ES256"}"#);
    let sign = |number| {
        let message = format!("{head}.{}", URL_SAFE_NO_PAD.encode(claims(number).to_string()));
        let signature = pair.sign(&random, message.as_bytes()).unwrap();
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    };
    (format!("-----BEGIN PUBLIC KEY-----\n{base64}\n-----END PUBLIC KEY-----"), (0..number).map(sign).collect())
}

/// Late wake-ups of a task of the same workers, in the order of their length, while `JOINS` tokens a second are verified.
fn bystander(verifier: Option<&Verifier>, tokens: &[String]) -> Vec<Duration> {
    let runtime = tokio::runtime::Handle::current();
    let (wake, mut woken) = tokio::sync::mpsc::unbounded_channel::<Instant>();
    let late = runtime.spawn(async move {
        let mut late = Vec::new();
        while let Some(sent) = woken.recv().await {
            late.push(sent.elapsed());
        }
        late.sort();
        late
    });
    let since = Instant::now();
    // as a shard: it submits and goes on
    let joins = verifier.cloned().map(|verifier| {
        let (tokens, runtime) = (tokens.to_vec(), runtime.clone());
        std::thread::spawn(move || {
            let mut pending = Vec::new();
            for (number, token) in (0..).zip(&tokens) {
                let due = since + TIME / JOINS / 3 * number;
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
                match verifier.verify(presented(token)) {
                    Verification::Pending(verified) => pending.push(verified),
                    Verification::Decided(verified) => assert!(verified.is_ok(), "{:?}", verified.err()),
                }
            }
            for verified in pending {
                runtime.block_on(verified).unwrap();
            }
            since.elapsed()
        })
    });
    while since.elapsed() < TIME {
        std::thread::sleep(Duration::from_millis(1));
        wake.send(Instant::now()).unwrap();
    }
    drop(wake);
    if let Some(took) = joins.map(|joins| joins.join().unwrap()) {
        println!("{} tokens of ES256 were verified in {took:?}", tokens.len());
        assert!(took < TIME * 2, "{} tokens took {took:?}", tokens.len());
    }
    runtime.block_on(late).unwrap()
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let _inside = runtime.enter();
    let (by_secret, token) = hs256();
    let mut group = criterion.benchmark_group("identity");
    group.throughput(Throughput::Elements(1));
    group.bench_function("a token of HS256", |bencher| {
        bencher.iter(|| assert!(matches!(by_secret.verify(presented(&token)), Verification::Decided(Ok(_)))));
    });
    let (pem, tokens) = es256(JOINS * 3);
    let by_key = verifier(&[("TOKEN__PUBLIC_KEY", &pem)]);
    group.bench_function("a token of ES256, awaited", |bencher| {
        bencher.iter(|| match by_key.verify(presented(&tokens[0])) {
            Verification::Pending(verified) => assert!(runtime.block_on(verified).is_ok()),
            Verification::Decided(_) => panic!("it held up its thread"),
        });
    });
    group.finish();
    criterion.final_summary();
    let nth = |late: &[Duration], percent: usize| late[late.len() * percent / 100];
    let idle = bystander(None, &[]);
    println!("bystander alone: p50 {:?}, p99 {:?}", nth(&idle, 50), nth(&idle, 99));
    let busy = bystander(Some(&by_key), &tokens);
    println!("bystander beside {JOINS} joins a second: p50 {:?}, p99 {:?}", nth(&busy, 50), nth(&busy, 99));
    assert!(nth(&busy, 99) <= BYSTANDER, "the bystander's p99 is {:?}; its budget is {BYSTANDER:?}", nth(&busy, 99));
}
