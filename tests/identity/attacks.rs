//! Each attack on a token is refused, by the right word, and counted.

use jsonwebtoken::Algorithm;
use oxipush::internals::auth::IdentityErrorKind::{self, *};
use serde_json::{Value, json};

use crate::{
    keys::{Key, base64url, weak_rsa_pem},
    rig::{Rig, SECRET, assert_alice, assert_refused, claims, now},
};

/// An attack on a gateway that takes tokens of HS256: the token, what the client is told, how it is counted.
struct Attack(&'static str, String, IdentityErrorKind, &'static str);

fn attacks() -> Vec<Attack> {
    let key = Key::secret(SECRET);
    let good = key.token(None, &claims(json!({})));
    let parts: Vec<&str> = good.split('.').collect();
    let with = |more: Value| key.token(None, &claims(more));
    let headed = |head: Value| key.token_with(Algorithm::HS256, &head, &claims(json!({})));
    let without = |claim: &str| {
        let mut claims = claims(json!({}));
        claims.as_object_mut().unwrap().remove(claim);
        key.token(None, &claims)
    };
    let unsigned = |alg: &str| {
        let head = base64url(json!({"alg": alg, "typ": "JWT"}).to_string());
        format!("{head}.{}.", base64url(claims(json!({})).to_string()))
    };
    let tampered = base64url(claims(json!({"sub": "admin"})).to_string());
    let mut flipped = good.clone().into_bytes();
    let at = flipped.len() - 3;
    flipped[at] = if flipped[at] == b'A' { b'B' } else { b'A' };
    let array = base64url(json!([claims(json!({}))]).to_string());
    let signed_array = format!("{}.{array}", parts[0]);
    let signed_array = format!("{signed_array}.{}", base64url(key.sign(Algorithm::HS256, signed_array.as_bytes())));
    let control = "a\u{7}b";
    let long = "x".repeat(129);
    vec![
        Attack("expired", with(json!({"exp": now() - 31})), Expired, "exp"),
        Attack("expired long ago", with(json!({"exp": 1, "iat": 0})), Expired, "exp"),
        Attack("without an end", without("exp"), BadToken, "claim"),
        Attack("with an end that is no number", with(json!({"exp": "tomorrow"})), BadToken, "claim"),
        Attack("with an end before 1970", with(json!({"exp": -1})), BadToken, "claim"),
        Attack("with an end beyond all numbers", with(json!({"exp": 1e300})), BadToken, "claim"),
        Attack("with an end in milliseconds", with(json!({"exp": now() * 1000})), BadToken, "max_life"),
        Attack("for longer than max_life", with(json!({"exp": now() + 25 * 3600})), BadToken, "max_life"),
        Attack("of long ago, for longer than max_life", with(json!({"iat": now() - 90_000})), BadToken, "max_life"),
        Attack("not valid yet", with(json!({"nbf": now() + 40})), NotYet, "nbf"),
        Attack("issued in the future", with(json!({"iat": now() + 40})), NotYet, "nbf"),
        Attack("for somebody else", with(json!({"aud": "others"})), BadToken, "aud"),
        Attack("stripped signature", format!("{}.{}.", parts[0], parts[1]), BadToken, "signature"),
        Attack("no signature's part", format!("{}.{}", parts[0], parts[1]), BadToken, "malformed"),
        Attack("none", unsigned("none"), BadToken, "alg"),
        Attack("None", unsigned("None"), BadToken, "alg"),
        Attack("nOnE with a signature", headed(json!({"alg": "nOnE"})), BadToken, "alg"),
        Attack("no alg at all", headed(json!({"typ": "JWT"})), BadToken, "malformed"),
        Attack("alg of a wrong type", headed(json!({"alg": 256})), BadToken, "malformed"),
        Attack("unknown alg", headed(json!({"alg": "HS1"})), BadToken, "alg"),
        Attack(
            "HS512 for HS256",
            key.token_with(Algorithm::HS512, &json!({"alg": "HS512"}), &claims(json!({}))),
            BadToken,
            "alg",
        ),
        Attack(
            "HS384 for HS256",
            key.token_with(Algorithm::HS384, &json!({"alg": "HS384"}), &claims(json!({}))),
            BadToken,
            "alg",
        ),
        Attack(
            "RS256 where a secret is",
            Key::p256().token_with(Algorithm::ES256, &json!({"alg": "RS256"}), &claims(json!({}))),
            BadToken,
            "alg",
        ),
        Attack("tampered payload", format!("{}.{tampered}.{}", parts[0], parts[2]), BadToken, "signature"),
        Attack("tampered signature", String::from_utf8(flipped).unwrap(), BadToken, "signature"),
        Attack(
            "by another secret",
            Key::secret("another secret of at least 32 bytes").token(None, &claims(json!({}))),
            BadToken,
            "signature",
        ),
        Attack("by the empty secret", Key::secret("").token(None, &claims(json!({}))), BadToken, "signature"),
        Attack("critical extension", headed(json!({"alg": "HS256", "crit": ["b64"], "b64": true})), BadToken, "crit"),
        Attack("unknown critical extension", headed(json!({"alg": "HS256", "crit": ["x"], "x": 1})), BadToken, "crit"),
        Attack("empty crit", headed(json!({"alg": "HS256", "crit": []})), BadToken, "crit"),
        Attack("payload that is not encoded", headed(json!({"alg": "HS256", "b64": false})), BadToken, "malformed"),
        Attack("kid of a wrong type", headed(json!({"alg": "HS256", "kid": {"$ne": 1}})), BadToken, "malformed"),
        Attack("head given twice", format!("{}.{good}", parts[0]), BadToken, "malformed"),
        Attack("padding", format!("{}=.{}.{}", parts[0], parts[1], parts[2]), BadToken, "malformed"),
        Attack("no JWT", "hunter2".to_owned(), BadToken, "malformed"),
        Attack("dots", "..".to_owned(), BadToken, "malformed"),
        Attack("many dots", ".".repeat(8000), BadToken, "malformed"),
        Attack("encrypted JWT", format!("{good}.x.y"), BadToken, "malformed"),
        Attack("a list as payload", signed_array, BadToken, "malformed"),
        Attack("deep nesting", format!("{}.x.y", base64url("[".repeat(6000))), BadToken, "malformed"),
        Attack("too long", with(json!({"x": "y".repeat(8192)})), BadToken, "too_long"),
        Attack("sub that is no text", with(json!({"sub": 7})), BadToken, "claim"),
        Attack("sub that is empty", with(json!({"sub": ""})), BadToken, "claim"),
        Attack("card with a control character", with(json!({"sub": control})), BadToken, "claim"),
        Attack("card that is too long", with(json!({"sub": long})), BadToken, "claim"),
        Attack("cards of a wrong type", with(json!({"cards": {"a": 1}})), BadToken, "claim"),
        Attack("cards with a number", with(json!({"cards": ["a", 7]})), BadToken, "claim"),
        Attack("cards with an empty name", with(json!({"cards": [""]})), BadToken, "claim"),
        Attack("rooms with a control character", with(json!({"rooms": ["a", control]})), BadToken, "claim"),
        Attack("push of a wrong type", with(json!({"push": true})), BadToken, "claim"),
        Attack("app of a wrong type", with(json!({"app": ["web"]})), BadToken, "claim"),
        Attack("nbf of a wrong type", with(json!({"nbf": "now"})), BadToken, "claim"),
        Attack("iat of a wrong type", with(json!({"iat": "now"})), BadToken, "claim"),
        Attack("names nobody", without("sub"), BadToken, "no_card"),
    ]
}

#[tokio::test]
async fn each_attack_on_a_token_is_refused_and_counted() {
    let rig = Rig::with_secret();
    for Attack(name, token, kind, outcome) in attacks() {
        let before = rig.counted(outcome);
        let verified = rig.verify(&token).await;
        let error = verified.map(|identity| panic!("{name}: it was taken: {identity:?}")).unwrap_err();
        assert_eq!(error.kind, kind, "{name}: {error}");
        assert_eq!(rig.counted(outcome), before + 1, "{name} is not counted as {outcome}: {error}");
        // what is told shows nothing of the token, and says something
        assert!(error.message.len() > 20 && !token.contains(&*error.message), "{name}: {error}");
        assert!(!token.split('.').any(|part| part.len() > 8 && error.message.contains(part)), "{name}: {error}");
    }
    assert_eq!(rig.counted("verified"), 0);
    assert_alice(rig.verify(&Key::secret(SECRET).token(None, &claims(json!({})))).await);
    assert_eq!(rig.counted("verified"), 1);
}

#[tokio::test]
async fn no_token_and_an_empty_one_are_told_as_none() {
    let rig = Rig::with_secret();
    assert_refused(&rig.refusal("").await, NoToken, "no token");
    let nothing = oxipush::internals::auth::Presented { token: None, ..crate::rig::presented("") };
    assert_refused(&rig.present(nothing).await.unwrap_err(), NoToken, "no token");
    assert_eq!(rig.counted("no_token"), 2);
}

#[tokio::test]
async fn a_public_key_is_no_secret_and_each_kind_admits_its_own_algorithms_only() {
    let (p256, p384, ed, rsa) = (Key::p256(), Key::p384(), Key::ed25519(), Key::rsa());
    for key in [&p256, &p384, &ed, &rsa] {
        let pem = key.public_pem();
        let rig = Rig::new(&[("TOKEN__PUBLIC_KEY", &pem)]);
        let good = claims(json!({}));
        assert_alice(rig.verify(&key.token(None, &good)).await);
        // the public key, in any of its forms, as the secret of HS256
        for secret in [pem.clone(), pem.trim().to_owned(), pem.replace('\n', ""), pem.replace('\n', "\\n")] {
            let forged = Key::secret(&secret).token(None, &good);
            assert_refused(&rig.refusal(&forged).await, BadToken, "algorithm");
        }
        for (other, named) in [(&p256, "RS256"), (&p256, "ES384"), (&ed, "ES256"), (&rsa, "EdDSA"), (&rsa, "HS256")] {
            let forged = other.token_with(other.algorithm(), &json!({"alg": named}), &good);
            assert_eq!(rig.refusal(&forged).await.kind, BadToken, "{named}");
        }
        // another key of its own kind, which the token brings along or points to
        let stranger = Key::p256();
        let jwk = stranger.jwk("mine");
        for head in [
            json!({"alg": "ES256", "jwk": jwk}),
            json!({"alg": "ES256", "jku": "http://127.0.0.1:1/keys"}),
            json!({"alg": "ES256", "x5u": "http://127.0.0.1:1/cert"}),
            json!({"alg": "ES256", "x5c": ["MIIB"]}),
        ] {
            let forged = stranger.token_with(Algorithm::ES256, &head, &good);
            assert_eq!(rig.refusal(&forged).await.kind, BadToken, "{head}");
        }
        rig.stop().await;
    }
    let rig = Rig::new(&[("TOKEN__PUBLIC_KEY", &rsa.public_pem())]);
    for (name, algorithm) in [
        ("RS256", Algorithm::RS256),
        ("RS384", Algorithm::RS384),
        ("RS512", Algorithm::RS512),
        ("PS256", Algorithm::PS256),
        ("PS384", Algorithm::PS384),
        ("PS512", Algorithm::PS512),
    ] {
        let token = rsa.token_with(algorithm, &json!({"alg": name}), &claims(json!({})));
        assert_alice(rig.verify(&token).await);
    }
}

#[tokio::test]
async fn keys_that_are_too_weak_or_of_no_use_are_refused_at_the_start() {
    use oxipush::internals::{auth::Verifier, lifecycle::Tasks, telemetry::Metrics};
    let weak = weak_rsa_pem();
    let broken = "-----BEGIN PUBLIC KEY-----\nMFkw\n-----END PUBLIC KEY-----";
    for (pem, told) in [(weak.as_str(), "less than 2048 bits"), (broken, "it is no public key of RSA")] {
        let config = crate::rig::config(&[("TOKEN__PUBLIC_KEY", pem)]);
        let error =
            Verifier::new(&config.token, &config.verify, &Tasks::new().0, &Metrics::new().into()).err().unwrap();
        assert!(error.to_string().starts_with("[token] public_key: ") && error.to_string().contains(told), "{error}");
    }
    let config = crate::rig::config(&[]);
    assert!(Verifier::new(&config.token, &config.verify, &Tasks::new().0, &Metrics::new().into()).unwrap().is_none());
}

#[tokio::test]
async fn an_identity_is_what_the_claims_say() {
    let key = Key::secret(SECRET);
    let rig = Rig::new(&[
        ("TOKEN__SECRET", SECRET),
        ("TOKEN__AUDIENCE", "oxipush, gateway"),
        ("TOKEN__ISSUER", "https://issuer.example"),
        ("TOKEN__CARD_CLAIM", "https://example.org/card"),
        ("TOKEN__CARDS_CLAIM", "groups"),
        ("TOKEN__LEEWAY", "10s"),
    ]);
    let end = now() + 60;
    let good = json!({
        "sub": "user-7", "aud": ["x", "gateway"], "iss": "https://issuer.example", "https://example.org/card": "mayun",
        "groups": ["team", "org:*"], "app": "web", "rooms": "lobby", "push": ["*"], "exp": end, "iat": now(), "more": {"a": []},
    });
    let identity = rig.verify(&key.token(None, &good)).await.unwrap();
    assert_eq!((&*identity.subject, identity.card.as_deref()), ("user-7", Some("mayun")));
    assert!(identity.admits_card("mayun") && identity.admits_card("team") && identity.admits_card("org:1"));
    assert!(!identity.admits_card("user-7") && !identity.admits_card("teams") && !identity.admits_card(""));
    assert!(identity.rooms.admits("lobby") && !identity.rooms.admits("lobby2") && identity.push.admits("anything"));
    assert_eq!((identity.app.as_deref(), identity.expires_at), (Some("web"), Some(end + 10)));
    for (claim, value, told) in [
        ("aud", json!("others"), "(aud)"),
        ("aud", json!([]), "(aud)"),
        ("aud", Value::Null, "\"aud\""),
        ("iss", json!("https://issuer.example.evil.example"), "(iss)"),
        ("iss", Value::Null, "\"iss\""),
    ] {
        let mut bad = good.clone();
        bad[claim] = value;
        assert_refused(&rig.refusal(&key.token(None, &bad)).await, BadToken, told);
    }
    // within the leeway
    let mut late = good.clone();
    late["exp"] = (now() - 8).into();
    late["nbf"] = (now() + 8).into();
    late["iat"] = (now() + 8).into();
    assert!(rig.verify(&key.token(None, &late)).await.is_ok());
    // cards alone are enough, and null is as good as none
    let mut cards = good.clone();
    cards["https://example.org/card"] = Value::Null;
    let identity = rig.verify(&key.token(None, &cards)).await.unwrap();
    assert!(identity.card.is_none() && identity.admits_card("team"));
}

#[tokio::test]
async fn a_revoked_token_is_refused_and_a_later_one_is_not() {
    let (key, rig) = (Key::secret(SECRET), Rig::with_secret());
    let old = key.token(None, &claims(json!({"iat": now() - 5})));
    let without_iat = key.token(None, &claims(json!({"iat": null})));
    assert_alice(rig.verify(&old).await);
    assert_alice(rig.verify(&without_iat).await);
    rig.verifier.revoke("alice".into(), now() - 1);
    for _ in 0..2 {
        assert_refused(&rig.refusal(&old).await, Revoked, "revoked");
        assert_refused(&rig.refusal(&without_iat).await, Revoked, "revoked");
    }
    assert_alice(rig.verify(&key.token(None, &claims(json!({})))).await);
    let bob = key.token(None, &claims(json!({"sub": "bob", "iat": now() - 5})));
    assert!(rig.verify(&bob).await.is_ok());
    assert_eq!((rig.counted("revoked"), rig.metrics.revocations.get()), (4, 1));
    // a reload forgets none
    let config = crate::rig::config(&[("TOKEN__SECRET", SECRET), ("TOKEN__LEEWAY", "1m")]);
    rig.verifier.replace(&config.token, &config.verify).unwrap();
    assert_refused(&rig.refusal(&old).await, Revoked, "revoked");
}

#[tokio::test]
async fn a_reload_changes_the_key_for_all_clones_and_a_mistake_changes_nothing() {
    let other = "another secret of at least 32 bytes";
    let rig = Rig::with_secret();
    let clone = rig.verifier.clone();
    let (old, new) = (Key::secret(SECRET), Key::secret(other));
    let weak = crate::rig::config(&[("TOKEN__PUBLIC_KEY", &weak_rsa_pem())]);
    assert!(clone.replace(&weak.token, &weak.verify).is_err());
    let nothing = crate::rig::config(&[]);
    assert!(clone.replace(&nothing.token, &nothing.verify).unwrap_err().to_string().contains("needs a restart"));
    assert_alice(rig.verify(&old.token(None, &claims(json!({})))).await);
    let config = crate::rig::config(&[("TOKEN__SECRET", other)]);
    clone.replace(&config.token, &config.verify).unwrap();
    assert_alice(rig.verify(&new.token(None, &claims(json!({})))).await);
    assert_refused(&rig.refusal(&old.token(None, &claims(json!({})))).await, BadToken, "signature");
    rig.stop().await;
}
