//! Tokens that others make: PyJWT, node's jose, and `oxipush token`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use serde_json::{Value, json};

use crate::{
    keys::{Key, Signing},
    rig::{Rig, SECRET, assert_alice, assert_refused, claims},
    support::http_server::{HttpServer, Told},
};
use oxipush::internals::auth::IdentityErrorKind::*;

/// What scripts/tools installed.
fn tools() -> PathBuf {
    let bin = std::env::var_os("OXIPUSH_TOOLS").map(PathBuf::from);
    let bin = bin.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join(".tools/bin"));
    bin.parent().unwrap().to_owned()
}

fn output(command: &mut Command) -> Output {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?} (does scripts/tools need to run?): {told}");
    output
}

fn lines(output: &Output) -> Vec<String> {
    String::from_utf8(output.stdout.clone()).unwrap().lines().map(str::to_owned).collect()
}

const PYJWT: &str = "
import json, sys, jwt
secret, files, claims = sys.argv[1], json.loads(sys.argv[2]), json.loads(sys.argv[3])
print(jwt.encode(claims, secret, algorithm='HS256'))
for algorithm, file in files:
    print(jwt.encode(claims, open(file).read(), algorithm=algorithm, headers={'kid': algorithm}))
";

const JOSE: &str = "
import { readFileSync } from 'node:fs';
import { SignJWT, importPKCS8 } from 'jose';
const [secret, files, claims] = [process.argv[2], JSON.parse(process.argv[3]), JSON.parse(process.argv[4])];
const sign = (head, key) => new SignJWT(claims).setProtectedHeader(head).sign(key);
console.log(await sign({ alg: 'HS256' }, new TextEncoder().encode(secret)));
for (const [alg, file] of files)
    console.log(await sign({ alg, kid: alg, typ: 'JWT' }, await importPKCS8(readFileSync(file, 'utf8'), alg)));
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_of_pyjwt_and_of_nodes_jose_are_good_by_each_kind_of_key() {
    let folder = tempfile::tempdir().unwrap();
    let keys = [("rsa", Key::rsa()), ("p256", Key::p256()), ("p384", Key::p384()), ("ed25519", Key::ed25519())];
    let file = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    for (name, key) in &keys {
        fs::write(file(name), &key.private_pem).unwrap();
    }
    let algorithms = [
        ("RS256", "rsa"),
        ("RS384", "rsa"),
        ("RS512", "rsa"),
        ("PS256", "rsa"),
        ("PS384", "rsa"),
        ("PS512", "rsa"),
        ("ES256", "p256"),
        ("ES384", "p384"),
        ("EdDSA", "ed25519"),
    ];
    let files: Vec<_> = algorithms.iter().map(|(algorithm, name)| json!([algorithm, file(name)])).collect();
    let files = Value::from(files).to_string();
    let good = claims(json!({"aud": ["gateway"], "iss": "https://issuer.example", "rooms": ["lobby"]})).to_string();

    fs::write(file("sign.py"), PYJWT).unwrap();
    // node looks for packages beside the script
    let modules = folder.path().join("node_modules");
    std::os::unix::fs::symlink(tools().join("jose/node_modules"), modules).unwrap();
    fs::write(file("sign.mjs"), JOSE).unwrap();
    let python = output(Command::new(tools().join("venv/bin/python")).args([&file("sign.py"), SECRET, &files, &good]));
    let node = output(Command::new("node").args([&file("sign.mjs"), SECRET, &files, &good]));

    let all: Vec<Value> = algorithms
        .iter()
        .map(|(algorithm, name)| {
            let (_, key) = keys.iter().find(|(of, _)| of == name).unwrap();
            let mut jwk = key.jwk(algorithm);
            jwk["alg"] = (*algorithm).into();
            jwk
        })
        .collect();
    let set = json!({ "keys": all }).to_string();
    let server = HttpServer::start(move |_| Told::ok(set.clone())).await;
    let strict = [("TOKEN__AUDIENCE", "gateway"), ("TOKEN__ISSUER", "https://issuer.example")];
    let with = |key: (&'static str, &str)| Rig::new(&[key, strict[0], strict[1]]);
    let by_set = with(("TOKEN__JWKS", &server.url));
    let by_secret = with(("TOKEN__SECRET", SECRET));
    for tokens in [lines(&python), lines(&node)] {
        assert_eq!(tokens.len(), algorithms.len() + 1);
        assert_alice(by_secret.verify(&tokens[0]).await);
        assert_refused(&by_set.refusal(&tokens[0]).await, BadToken, "algorithm");
        for (token, (algorithm, name)) in tokens[1..].iter().zip(algorithms) {
            let identity = by_set.verify(token).await;
            assert!(identity.is_ok_and(|identity| identity.rooms.admits("lobby")), "{algorithm} by the key set");
            let (_, key) = keys.iter().find(|(of, _)| *of == name).unwrap();
            assert_alice(with(("TOKEN__PUBLIC_KEY", &key.public_pem())).verify(token).await);
            assert_refused(&by_secret.refusal(token).await, BadToken, "algorithm");
        }
    }
}

fn oxipush(folder: &Path, secret: Option<&str>, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_oxipush"));
    command.arg("token").args(arguments).current_dir(folder).stdin(Stdio::null());
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("OXIPUSH")) {
        command.env_remove(name);
    }
    command.envs(secret.map(|secret| ("OXIPUSH__TOKEN__SECRET", secret))).output().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn oxipush_token_makes_tokens_that_are_good() {
    let folder = tempfile::tempdir().unwrap();
    let made = oxipush(
        folder.path(),
        Some(SECRET),
        &[
            "--card", "mayun", "--cards", "team:*", "--app", "web", "--rooms", "lobby", "--rooms", "x*", "--push",
            "chat:*", "--ttl", "1h",
        ],
    );
    assert!(made.status.success() && made.stderr.is_empty(), "{}", String::from_utf8_lossy(&made.stderr));
    let tokens = lines(&made);
    assert_eq!(tokens.len(), 1);
    let identity = Rig::with_secret().verify(&tokens[0]).await.unwrap();
    assert_eq!(
        (identity.card.as_deref(), identity.app.as_deref(), &*identity.subject),
        (Some("mayun"), Some("web"), "mayun")
    );
    assert!(identity.admits_card("team:7") && identity.rooms.admits("xy") && identity.push.admits("chat:1"));
    // by its own configuration, with names of its own
    let config = "[token]\ncard_claim = card\naudience = here, there\nissuer = me\nmax_life = 2h\n";
    fs::write(folder.path().join("own.ini"), format!("{config}secret = {SECRET}\n")).unwrap();
    let made = oxipush(folder.path(), None, &["--config", "own.ini", "--card", "alice", "--sub", "user-7"]);
    let rig = Rig::new(&[
        ("TOKEN__SECRET", SECRET),
        ("TOKEN__CARD_CLAIM", "card"),
        ("TOKEN__AUDIENCE", "here"),
        ("TOKEN__ISSUER", "me"),
    ]);
    let identity = rig.verify(&lines(&made)[0]).await.unwrap();
    assert_eq!((identity.card.as_deref(), &*identity.subject), (Some("alice"), "user-7"));
    // by a private key of each kind, as openssl makes them too
    let openssl = |name: &str, arguments: &[&str]| {
        let path = folder.path().join(name);
        output(Command::new("openssl").arg("genpkey").args(arguments).arg("-out").arg(&path));
        let public = output(Command::new("openssl").args(["pkey", "-pubout", "-in"]).arg(&path));
        String::from_utf8(public.stdout).unwrap()
    };
    for (name, arguments) in [
        ("rsa.pem", &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"][..]),
        ("p256.pem", &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"]),
        ("p384.pem", &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"]),
        ("ed25519.pem", &["-algorithm", "ED25519"]),
    ] {
        let public = openssl(name, arguments);
        let made = oxipush(folder.path(), None, &["--card", "alice", "--key", name, "--kid", "one"]);
        assert!(made.status.success(), "{name}: {}", String::from_utf8_lossy(&made.stderr));
        assert_alice(Rig::new(&[("TOKEN__PUBLIC_KEY", &public)]).verify(&lines(&made)[0]).await);
    }
    let key = Key::p256();
    assert!(matches!(key.signing, Signing::P256(_)));
    fs::write(folder.path().join("ring.pem"), &key.private_pem).unwrap();
    let made = oxipush(folder.path(), None, &["--card", "alice", "--key", "ring.pem"]);
    assert_alice(Rig::new(&[("TOKEN__PUBLIC_KEY", &key.public_pem())]).verify(&lines(&made)[0]).await);
}

#[test]
fn oxipush_token_tells_what_it_needs() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("no.pem"), "no key").unwrap();
    fs::write(folder.path().join("public.pem"), Key::p256().public_pem()).unwrap();
    for (secret, arguments, code, told) in [
        (None, &["--card", "alice"][..], 1, "openssl rand -base64 32"),
        (Some("short"), &["--card", "alice"], 1, "[token] secret: it has 5 bytes"),
        (Some(SECRET), &[], 2, "--card"),
        (Some(SECRET), &["--card", "alice", "--ttl", "2days"], 1, "max_life = 1day"),
        (Some(SECRET), &["--card", "alice", "--ttl", "soon"], 2, "--ttl"),
        (Some(SECRET), &["--card", "alice", "--sub", "bob"], 1, "card_claim"),
        (None, &["--card", "alice", "--key", "nowhere.pem"], 1, "cannot be read"),
        (None, &["--card", "alice", "--key", "no.pem"], 1, "no.pem: it is no private key"),
        (None, &["--card", "alice", "--key", "public.pem"], 1, "public.pem: it is no private key"),
    ] {
        let output = oxipush(folder.path(), secret, arguments);
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {error}");
        assert!(error.contains(told) && output.stdout.is_empty(), "{arguments:?}: {error}");
        assert!(!error.contains(SECRET), "{error}");
    }
}
