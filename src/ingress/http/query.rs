//! The query string of gopusher's GET routes: one parameter.

use bytestring::ByteString;

use crate::ingress::refusal::{Refusal, RefusalKind};

const CARD: &str = "cardID";

/// `cardID`, the only parameter; whether it can be a card's name is not checked here.
pub(super) fn card(query: &str) -> Result<ByteString, Refusal> {
    let mut card = None;
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let key = decode(key)?;
        if key != CARD {
            let key: String = key.chars().take(64).collect();
            return Err(Refusal::new(RefusalKind::UnknownField, format!("`{key}` is no parameter; use {CARD}")));
        }
        if card.replace(decode(value)?).is_some() {
            return Err(Refusal::field(CARD, "is given twice"));
        }
    }
    card.map(ByteString::from).ok_or_else(|| Refusal::field(CARD, "is missing"))
}

/// What has a body takes no parameters: an option that stood here would be ignored.
pub(super) fn none(query: &str) -> Result<(), Refusal> {
    let Some(pair) = query.split('&').find(|pair| !pair.is_empty()) else { return Ok(()) };
    let key: String = decode(pair.split('=').next().unwrap_or_default())?.chars().take(64).collect();
    Err(Refusal::new(
        RefusalKind::UnknownField,
        format!("`{key}` is no parameter; what is asked for stands in the body"),
    ))
}

/// Takes `+` and `%XX` out.
fn decode(text: &str) -> Result<String, Refusal> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digit = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16));
                match (digit(rest.next()), digit(rest.next())) {
                    (Some(high), Some(low)) => (high * 16 + low) as u8,
                    _ => return Err(Refusal::new(RefusalKind::BadField, "the query has a `%` without two hex digits")),
                }
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).map_err(|_| Refusal::new(RefusalKind::NotUtf8, "the query is not UTF-8"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_push_takes_no_parameters() {
        assert_eq!((none(""), none("&")), (Ok(()), Ok(())));
        for query in ["ttl=5", "&ttl", "%74tl=5&to=a"] {
            let refusal = none(query).unwrap_err();
            assert_eq!(refusal.kind, RefusalKind::UnknownField);
            assert!(refusal.message.starts_with("`ttl` is no parameter"), "{query}: {}", refusal.message);
        }
    }

    #[test]
    fn a_query_names_one_card() {
        assert_eq!(card("cardID=ma+y%C3%BC%26").unwrap(), "ma yü&");
        for (query, kind, message) in [
            ("", RefusalKind::BadField, "`cardID` is missing"),
            ("cardID=a&cardID=b", RefusalKind::BadField, "`cardID` is given twice"),
            ("card=a", RefusalKind::UnknownField, "`card` is no parameter"),
            ("cardID=%0", RefusalKind::BadField, "the query has a `%`"),
            ("cardID=%zz", RefusalKind::BadField, "the query has a `%`"),
            ("cardID=%ff", RefusalKind::NotUtf8, "the query is not UTF-8"),
        ] {
            let refusal = card(query).unwrap_err();
            assert_eq!(refusal.kind, kind, "{query}");
            assert!(refusal.message.starts_with(message), "{query}: {}", refusal.message);
        }
    }
}
