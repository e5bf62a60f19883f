//! Where a handshake may carry a token.

use std::{borrow::Cow, net::IpAddr};

use bytestring::ByteString;
use hyper::{Request, header};

use super::{
    handshake::{HandshakeRefusal, members},
    session::Session,
};

/// What a browser can send beside a subprotocol, since it cannot set headers.
const BEARER_SUBPROTOCOL: &str = "bearer.";

/// Reads a handshake for its client's session. A token may stand in the query (`?token=`), in `Authorization: Bearer`, as the
/// subprotocol `bearer.<token>`, and in a cookie of the name `cookie`; where several do, they are one.
///
/// # Errors
/// They differ.
pub(super) fn read<B>(
    request: &Request<B>,
    address: IpAddr,
    cookie: Option<&str>,
    kept: &[String],
) -> Result<Session, HandshakeRefusal> {
    let mut token: Option<Cow<'_, str>> = None;
    for found in tokens(request, cookie).filter(|found| !found.is_empty()) {
        if token.as_ref().is_some_and(|token| *token != found) {
            return Err(HandshakeRefusal::tokens_differ());
        }
        token = Some(found);
    }
    let mut headers = Vec::new();
    for name in kept {
        let values = request.headers().get_all(name).into_iter();
        headers.extend(values.map(|value| (name.clone(), String::from_utf8_lossy(value.as_bytes()).into_owned())));
    }
    Ok(Session::new(address, headers, token.map(|token| ByteString::from(token.into_owned()))))
}

fn tokens<'a, B>(request: &'a Request<B>, cookie: Option<&'a str>) -> impl Iterator<Item = Cow<'a, str>> {
    let headers = request.headers();
    let query = url::form_urlencoded::parse(request.uri().query().unwrap_or_default().as_bytes());
    let queried = query.filter(|(name, _)| name == "token").map(|(_, token)| token);
    let lines = headers.get_all(header::AUTHORIZATION).into_iter().filter_map(|line| line.to_str().ok());
    let authorized = lines.filter_map(|line| {
        let (scheme, token) = line.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then_some(Cow::Borrowed(token.trim()))
    });
    let offered = members(headers, &header::SEC_WEBSOCKET_PROTOCOL)
        .filter_map(|offered| offered.strip_prefix(BEARER_SUBPROTOCOL).map(Cow::Borrowed));
    let lines = headers.get_all(header::COOKIE).into_iter().filter_map(|line| line.to_str().ok());
    let pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    let cookies = pairs.filter(move |(name, _)| Some(*name) == cookie).map(|(_, token)| Cow::Borrowed(token));
    queried.chain(authorized).chain(offered).chain(cookies)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn token(uri: &str, headers: &[(&str, &str)]) -> Option<String> {
        let mut request = Request::builder().uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(()).unwrap();
        let session = read(&request, "1.2.3.4".parse().unwrap(), Some("sid"), &["x-kept".into()]).ok()?;
        Some(session.token().map(|token| token.to_string()).unwrap_or_default())
    }

    #[test]
    fn a_token_is_found_where_it_may_stand_and_nowhere_else() {
        for (uri, headers, found) in [
            ("/ws?token=a.b-c", &[][..], "a.b-c"),
            ("/ws?x=1&token=a%2Bb", &[], "a+b"),
            ("/ws", &[("authorization", "Bearer abc")], "abc"),
            ("/ws", &[("authorization", "bearer abc")], "abc"),
            ("/ws", &[("sec-websocket-protocol", "oxipush.v1, bearer.abc")], "abc"),
            ("/ws", &[("cookie", "a=b; sid=abc; c=d")], "abc"),
            ("/ws?token=abc", &[("authorization", "Bearer abc"), ("cookie", "sid=abc")], "abc"),
            ("/ws?token=", &[("authorization", "Bearer abc")], "abc"),
            ("/ws?Token=abc", &[("authorization", "Basic abc"), ("cookie", "other=abc")], ""),
            ("/ws", &[("sec-websocket-protocol", "oxipush.v1, bearer")], ""),
        ] {
            assert_eq!(token(uri, headers).as_deref(), Some(found), "{uri} {headers:?}");
        }
    }

    #[test]
    fn tokens_in_two_places_that_differ_are_refused() {
        for (uri, headers) in [
            ("/ws?token=a&token=b", &[][..]),
            ("/ws?token=a", &[("authorization", "Bearer b")]),
            ("/ws?token=a", &[("sec-websocket-protocol", "oxipush.v1, bearer.b")]),
            ("/ws", &[("authorization", "Bearer a"), ("cookie", "sid=b")]),
            ("/ws", &[("cookie", "sid=a; sid=b")]),
        ] {
            assert_eq!(token(uri, headers), None, "{uri} {headers:?}");
        }
    }

    #[test]
    fn only_the_headers_that_are_asked_for_are_kept() {
        let request = Request::builder().header("X-Kept", "one").header("x-kept", "two").header("x-other", "three");
        let session =
            read(&request.body(()).unwrap(), "1.2.3.4".parse().unwrap(), None, &["x-kept".into()]).ok().unwrap();
        assert_eq!(session.headers, [("x-kept".to_owned(), "one".to_owned()), ("x-kept".into(), "two".into())]);
    }
}
