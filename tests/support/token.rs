//! Tokens as a back end makes them: JWTs of HS256.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::hmac;
use serde_json::{Value, json};

pub const SECRET: &str = "a secret for tests, of 32 bytes or more";

/// Seconds since 1970.
pub fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a clock").as_secs()
}

/// A token with these claims, issued now and good for an hour where they say nothing else.
pub fn token(claims: Value) -> String {
    let mut all = json!({"iat": now(), "exp": now() + 3600});
    all.as_object_mut().expect("an object").extend(claims.as_object().expect("an object").clone());
    sign(&json!({"alg": "HS256", "typ": "JWT"}), &all, SECRET)
}

/// Any header and claims, signed with HMAC-SHA256.
pub fn sign(header: &Value, claims: &Value, secret: &str) -> String {
    let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let message = format!("{}.{}", encode(header), encode(claims));
    let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()), message.as_bytes());
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
}
