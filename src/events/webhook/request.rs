//! One request to the webhook: signed, bounded in time, and what its answer means.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use reqwest::{Client, StatusCode};
use ring::hmac;

use crate::{auth::identity::http, config::Config, events::EventsConfigError};

/// So much of an answer is read, so that the connection can be used again.
const MAX_ANSWER: usize = 64 << 10;

/// See the module.
pub(super) struct WebhookClient {
    client: Client,
    url: String,
    key: hmac::Key,
    node: String,
}

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum WebhookAnswer {
    /// 2xx: the back end has the events.
    Taken,
    /// It will never take them; in words.
    Refused(String),
    /// It did not take them now; in words.
    Failed(String),
    /// There is nobody to talk to: no card's events can be told; in words.
    Away(String),
}

impl WebhookClient {
    pub(super) fn new(config: &Config, url: String) -> Result<Self, EventsConfigError> {
        let events = &config.events;
        let client = http::client(events.ca.as_deref(), events.timeout)
            .map_err(|error| EventsConfigError(format!("ca: {error}")))?;
        let secret = events.secret.as_ref().map_or("", |secret| secret.expose());
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
        Ok(Self { client, url, key, node: config.node.id.as_str().to_owned() })
    }

    /// Posts events, a JSON array.
    pub(super) async fn post(&self, body: Vec<u8>) -> WebhookAnswer {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
        let request = self
            .client
            .post(&self.url)
            .header("content-type", "application/json")
            .header("x-oxipush-signature", signature(&self.key, now, &body))
            .header("x-oxipush-node", &self.node)
            .body(body);
        match request.send().await {
            Ok(response) => {
                let answer = meaning(response.status());
                // whatever it says
                let _ = http::body(response, MAX_ANSWER).await;
                answer
            }
            Err(error) if error.is_connect() && !error.is_timeout() => WebhookAnswer::Away(http::chain(&error)),
            Err(error) => WebhookAnswer::Failed(http::chain(&error)),
        }
    }
}

fn meaning(status: StatusCode) -> WebhookAnswer {
    let told = format!("it answered {status}");
    match status.as_u16() {
        200..=299 => WebhookAnswer::Taken,
        408 | 425 | 429 => WebhookAnswer::Failed(told),
        400..=499 => WebhookAnswer::Refused(told),
        _ => WebhookAnswer::Failed(told),
    }
}

/// `t=<unix seconds>,v1=<hex HMAC-SHA256 of "<t>.<body>">`.
fn signature(key: &hmac::Key, now: u64, body: &[u8]) -> String {
    let mut context = hmac::Context::with_key(key);
    context.update(now.to_string().as_bytes());
    context.update(b".");
    context.update(body);
    let digits: String = context.sign().as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("t={now},v1={digits}")
}

/// Events as one JSON array.
pub(super) fn array<'a>(events: impl IntoIterator<Item = &'a Bytes>) -> Vec<u8> {
    let mut body = vec![b'['];
    for (nth, event) in events.into_iter().enumerate() {
        if nth > 0 {
            body.push(b',');
        }
        body.extend_from_slice(event);
    }
    body.push(b']');
    body
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_is_what_any_hmac_says() {
        // printf '1700000000.[1,2]' | openssl dgst -sha256 -hmac 0123456789abcdef
        let key = hmac::Key::new(hmac::HMAC_SHA256, b"0123456789abcdef");
        let body = array([&Bytes::from_static(b"1"), &Bytes::from_static(b"2")]);
        assert_eq!(
            signature(&key, 1_700_000_000, &body),
            "t=1700000000,v1=490d86e9e4bece9e81ff68c960588535794a89d6d77f6afab0ca4cbe90bafb1b"
        );
        assert_eq!(array(&[]), b"[]");
    }

    #[test]
    fn what_the_back_end_will_never_take_is_told_from_what_it_may_take_later() {
        for (status, answer) in [
            (200, "taken"),
            (204, "taken"),
            (301, "failed"),
            (400, "refused"),
            (401, "refused"),
            (404, "refused"),
            (408, "failed"),
            (413, "refused"),
            (425, "failed"),
            (429, "failed"),
            (500, "failed"),
            (503, "failed"),
        ] {
            let found = match meaning(StatusCode::from_u16(status).unwrap()) {
                WebhookAnswer::Taken => "taken",
                WebhookAnswer::Refused(_) => "refused",
                WebhookAnswer::Failed(_) => "failed",
                WebhookAnswer::Away(_) => "away",
            };
            assert_eq!(found, answer, "{status}");
        }
    }
}
