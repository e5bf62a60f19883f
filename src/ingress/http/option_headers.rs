//! Options of a push that stand in a header: `Idempotency-Key`. Another that services of the field have, `TTL` (RFC 8030), is refused,
//! so that none is ignored.

use actix_web::http::header::{HeaderMap, HeaderValue};
use bytestring::ByteString;

use crate::ingress::{
    draft::Draft,
    refusal::{Refusal, RefusalKind},
};

const IDEMPOTENCY_KEY: &str = "idempotency-key";
const TTL: &str = "ttl";

/// The draft of a single push with what its request's headers say.
pub(super) fn apply(headers: &HeaderMap, mut draft: Draft) -> Result<Draft, Refusal> {
    no_ttl(headers)?;
    let mut given = headers.get_all(IDEMPOTENCY_KEY);
    let Some(key) = given.next() else { return Ok(draft) };
    if given.next().is_some() {
        return Err(problem("the header `Idempotency-Key` is given twice"));
    }
    let key = unquoted(key)?;
    let of_body = &draft.options.idempotency_key;
    if !of_body.is_empty() && *of_body != key {
        return Err(problem("the header `Idempotency-Key` and `idempotency_key` differ; give one of them"));
    }
    draft.options.idempotency_key = key;
    Ok(draft)
}

/// Refuses them where each push says its own, or none has any.
pub(super) fn none(headers: &HeaderMap) -> Result<(), Refusal> {
    no_ttl(headers)?;
    if headers.contains_key(IDEMPOTENCY_KEY) {
        let message = "the header `Idempotency-Key` is for a single push (POST /push); \
                       in a batch each push has its own `idempotency_key`";
        return Err(problem(message));
    }
    Ok(())
}

fn no_ttl(headers: &HeaderMap) -> Result<(), Refusal> {
    if headers.contains_key(TTL) {
        return Err(problem("the header `TTL` is not read; give `ttl` in the body, in seconds"));
    }
    Ok(())
}

/// The key as it stands there, or in the quotes that the draft of its RFC (draft-ietf-httpapi-idempotency-key-header) puts
/// around it. What it may be made of is checked later, as that of the field.
fn unquoted(value: &HeaderValue) -> Result<ByteString, Refusal> {
    let key = value.to_str().map_err(|_| problem("the header `Idempotency-Key` must be visible ASCII"))?;
    let inner = key.strip_prefix('"').and_then(|key| key.strip_suffix('"'));
    let key = inner.unwrap_or(key);
    if key.is_empty() {
        return Err(problem("the header `Idempotency-Key` is empty; give it 1 to 255 characters, or leave it out"));
    }
    Ok(ByteString::from(key))
}

fn problem(message: &'static str) -> Refusal {
    Refusal::new(RefusalKind::BadField, message)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use actix_web::http::header::HeaderName;

    use super::*;

    fn headers(all: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in all {
            headers.append(HeaderName::try_from(*name).unwrap(), HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        headers
    }

    fn keyed(key: &str) -> Draft {
        let mut draft = Draft::default();
        draft.options.idempotency_key = key.into();
        draft
    }

    #[test]
    fn the_key_of_a_push_stands_in_its_header_or_in_its_body() {
        for (header, body, key) in [
            ("k-1", "", "k-1"),
            ("k-1", "k-1", "k-1"),
            ("\"8e03978e\"", "", "8e03978e"),
            ("\"8e03978e\"", "8e03978e", "8e03978e"),
            ("\"", "", "\""),
            ("a\"b", "", "a\"b"),
        ] {
            assert_eq!(apply(&headers(&[("Idempotency-Key", header)]), keyed(body)), Ok(keyed(key)), "{header}");
        }
        assert_eq!(apply(&headers(&[("accept", "*/*")]), keyed("k")), Ok(keyed("k")));
    }

    #[test]
    fn a_header_that_cannot_be_followed_is_refused_by_its_name() {
        for (all, message) in [
            (&[("idempotency-key", "a"), ("idempotency-key", "a")][..], "the header `Idempotency-Key` is given twice"),
            (&[("idempotency-key", "other")], "the header `Idempotency-Key` and `idempotency_key` differ"),
            (&[("idempotency-key", "")], "the header `Idempotency-Key` is empty"),
            (&[("idempotency-key", "\"\"")], "the header `Idempotency-Key` is empty"),
            (&[("idempotency-key", "ü")], "the header `Idempotency-Key` must be visible ASCII"),
            (&[("TTL", "5")], "the header `TTL` is not read; give `ttl` in the body"),
        ] {
            let refusal = apply(&headers(all), keyed("k")).unwrap_err();
            assert!(refusal.message.starts_with(message), "{}", refusal.message);
        }
        for (name, message) in [("idempotency-key", "is for a single push"), ("ttl", "`TTL` is not read")] {
            assert!(none(&headers(&[(name, "5")])).unwrap_err().message.contains(message));
        }
        assert_eq!(none(&headers(&[])), Ok(()));
    }
}
