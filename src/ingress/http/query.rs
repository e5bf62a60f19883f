//! The query string: gopusher's one parameter, and pages.

use std::borrow::Cow;

use bytestring::ByteString;

use crate::{
    config::UnknownFields,
    hub::ClientId,
    ingress::{
        queries::QueryScope,
        refusal::{Refusal, RefusalKind},
    },
};

const CARD: &str = "cardID";
const AFTER: &str = "after";
const LIMIT: &str = "limit";
const SCOPE: &str = "scope";
const KINDS: &str = "kinds";
/// Entries of a page, unless its asker says how many; and the most.
const DEFAULT_LIMIT: usize = 100;
const MAX_LIMIT: usize = 1000;

/// Which part of a list is asked for: what stands behind `after`, `limit` of it at most.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Page<A> {
    pub(super) after: A,
    pub(super) limit: usize,
    pub(super) scope: QueryScope,
}

/// Which card is asked about.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct CardQuery {
    pub(super) card: ByteString,
    pub(super) scope: QueryScope,
}

/// `cardID` and the scope; whether it can be a card's name is not checked here.
pub(super) fn card(query: &str, unknown: UnknownFields) -> Result<CardQuery, Refusal> {
    let [card, scope] = parameters(query, [CARD, SCOPE], unknown)?;
    let card = card.map(ByteString::from).ok_or_else(|| Refusal::field(CARD, "is missing"))?;
    Ok(CardQuery { card, scope: query_scope(scope)? })
}

/// The scope alone; gopusher passes everything over here.
pub(super) fn scope(query: &str) -> Result<QueryScope, Refusal> {
    let [scope] = parameters(query, [SCOPE], UnknownFields::Ignore)?;
    query_scope(scope)
}

fn query_scope(scope: Option<String>) -> Result<QueryScope, Refusal> {
    match scope.as_deref() {
        None => Ok(QueryScope::default()),
        // only gRPC says nothing by it
        Some("") => Err(Refusal::field(SCOPE, "is empty")),
        Some(scope) => QueryScope::parse(scope),
    }
}

/// The page of a list of names; without `after` the first. Whether that can be a name is not checked here.
pub(super) fn name_page(query: &str) -> Result<Page<ByteString>, Refusal> {
    let [after, limit, scope] = parameters(query, [AFTER, LIMIT, SCOPE], UnknownFields::Refuse)?;
    Ok(Page { after: after.unwrap_or_default().into(), limit: page_limit(limit)?, scope: query_scope(scope)? })
}

/// The page of a list of clients; without `after` the first.
pub(super) fn client_page(query: &str) -> Result<Page<Option<ClientId>>, Refusal> {
    let [after, limit, scope] = parameters(query, [AFTER, LIMIT, SCOPE], UnknownFields::Refuse)?;
    let after = after.filter(|after| !after.is_empty()).map(|after| {
        ClientId::parse(&after).ok_or_else(|| Refusal::field(AFTER, "is no client's id: it has 26 characters"))
    });
    Ok(Page { after: after.transpose()?, limit: page_limit(limit)?, scope: query_scope(scope)? })
}

/// How many entries of a list are asked for.
pub(super) fn limit(query: &str) -> Result<usize, Refusal> {
    let [limit] = parameters(query, [LIMIT], UnknownFields::Refuse)?;
    page_limit(limit)
}

/// The words of `kinds`, between commas; none where it is not there.
pub(super) fn kinds(query: &str) -> Result<Vec<String>, Refusal> {
    let [kinds] = parameters(query, [KINDS], UnknownFields::Refuse)?;
    Ok(kinds.iter().flat_map(|kinds| kinds.split(',')).map(|word| word.trim().to_owned()).collect())
}

fn page_limit(limit: Option<String>) -> Result<usize, Refusal> {
    let Some(limit) = limit else { return Ok(DEFAULT_LIMIT) };
    let number = limit.parse().ok().filter(|number| (1..=MAX_LIMIT).contains(number));
    number.ok_or_else(|| Refusal::field(LIMIT, format_args!("must be a whole number from 1 to {MAX_LIMIT}")))
}

/// The values of these parameters, which are all that there are, each given once at most.
fn parameters<const N: usize>(
    query: &str,
    names: [&'static str; N],
    unknown: UnknownFields,
) -> Result<[Option<String>; N], Refusal> {
    let mut values = [const { None }; N];
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let key = decoded(key)?;
        let Some(place) = names.iter().position(|name| *name == key) else {
            if unknown == UnknownFields::Ignore {
                continue;
            }
            let key: String = key.chars().take(64).collect();
            let known = names.join(" and ");
            return Err(Refusal::new(RefusalKind::UnknownField, format!("`{key}` is no parameter; use {known}")));
        };
        if values[place].replace(decoded(value)?).is_some() {
            return Err(Refusal::field(names[place], "is given twice"));
        }
    }
    Ok(values)
}

/// What has a body takes no parameters: an option that stood here would be ignored.
pub(super) fn none(query: &str) -> Result<(), Refusal> {
    refuse_first(query, "what is asked for stands in the body")
}

/// A path that says all takes no parameters.
pub(super) fn no_parameters(query: &str) -> Result<(), Refusal> {
    refuse_first(query, "the path says all")
}

fn refuse_first(query: &str, advice: &str) -> Result<(), Refusal> {
    let Some(pair) = query.split('&').find(|pair| !pair.is_empty()) else { return Ok(()) };
    let key: String = decoded(pair.split('=').next().unwrap_or_default())?.chars().take(64).collect();
    Err(Refusal::new(RefusalKind::UnknownField, format!("`{key}` is no parameter; {advice}")))
}

/// A key or value of the query, where `+` is a space.
fn decoded(text: &str) -> Result<String, Refusal> {
    let text = if text.contains('+') { Cow::Owned(text.replace('+', " ")) } else { Cow::Borrowed(text) };
    percent_decoded(&text, "query")
}

/// Takes `%XX` out of a part of `place` (the query, the path).
pub(super) fn percent_decoded(text: &str, place: &str) -> Result<String, Refusal> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let digit = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16));
                match (digit(rest.next()), digit(rest.next())) {
                    (Some(high), Some(low)) => (high * 16 + low) as u8,
                    _ => {
                        let problem = format!("the {place} has a `%` without two hex digits");
                        return Err(Refusal::new(RefusalKind::BadField, problem));
                    }
                }
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).map_err(|_| Refusal::new(RefusalKind::NotUtf8, format!("the {place} is not UTF-8")))
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
        let refuse = UnknownFields::Refuse;
        assert_eq!(card("cardID=ma+y%C3%BC%26", refuse).unwrap().card, "ma yü&");
        assert_eq!(card("card=a&cardID=b&cardid", UnknownFields::Ignore).unwrap().card, "b");
        assert_eq!(card("cardID=a", refuse).unwrap().scope, QueryScope::Cluster);
        assert_eq!(card("cardID=a&scope=node", refuse).unwrap().scope, QueryScope::Node);
        assert_eq!(scope("x=y&scope=cluster"), Ok(QueryScope::Cluster));
        assert!(scope("scope=all").unwrap_err().message.starts_with("`scope` is neither cluster nor node"));
        for (query, kind, message) in [
            ("", RefusalKind::BadField, "`cardID` is missing"),
            ("cardID=a&cardID=b", RefusalKind::BadField, "`cardID` is given twice"),
            ("card=a", RefusalKind::UnknownField, "`card` is no parameter; use cardID"),
            ("cardID=%0", RefusalKind::BadField, "the query has a `%`"),
            ("cardID=%zz", RefusalKind::BadField, "the query has a `%`"),
            ("cardID=%ff", RefusalKind::NotUtf8, "the query is not UTF-8"),
        ] {
            let refusal = card(query, refuse).unwrap_err();
            assert_eq!(refusal.kind, kind, "{query}");
            assert!(refusal.message.starts_with(message), "{query}: {}", refusal.message);
        }
    }

    #[test]
    fn a_page_has_a_beginning_and_a_limit() {
        assert_eq!(name_page(""), Ok(Page { after: "".into(), limit: 100, scope: QueryScope::Cluster }));
        let scope = QueryScope::Node;
        assert_eq!(name_page("limit=1000&scope=node&after=a+b"), Ok(Page { after: "a b".into(), limit: 1000, scope }));
        let scope = QueryScope::Cluster;
        let id = "0".repeat(26);
        assert_eq!(
            client_page(&format!("after={id}&limit=1")),
            Ok(Page { after: ClientId::parse(&id), limit: 1, scope })
        );
        assert_eq!(client_page("after="), Ok(Page { after: None, limit: 100, scope }));
        for (query, message) in [
            ("limit=0", "`limit` must be a whole number from 1 to 1000"),
            ("limit=1001", "`limit` must be"),
            ("limit=-1", "`limit` must be"),
            ("limit=", "`limit` must be"),
            ("limit=1.0", "`limit` must be"),
            ("limit=1&limit=2", "`limit` is given twice"),
            ("after=alice", "`after` is no client's id: it has 26 characters"),
            ("offset=5", "`offset` is no parameter; use after and limit"),
        ] {
            let refusal = client_page(query).unwrap_err();
            assert!(refusal.message.starts_with(message), "{query}: {}", refusal.message);
        }
    }
}
