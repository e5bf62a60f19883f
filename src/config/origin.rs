//! Origins as browsers send them: anything else would never be one.

use std::net::Ipv6Addr;

/// What is wrong with `text` as an origin, if anything.
pub(super) fn error_in(text: &str) -> Option<&'static str> {
    // what browsers send for pages that have no origin
    if text == "null" {
        return None;
    }
    let Some((scheme, rest)) = text.split_once("://") else {
        return Some("an origin has a scheme: write https://example.org");
    };
    if rest.contains(['/', '?', '#']) {
        return Some("an origin ends with its host or port: without a path, and without / at its end");
    }
    if rest.contains('@') {
        return Some("an origin has no user");
    }
    if text.contains('*') {
        return Some("there are no patterns: name each origin");
    }
    if text.chars().any(|c| c.is_ascii_uppercase()) {
        return Some("browsers send origins in lower case");
    }
    let (host, port) = match rest.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (rest, None),
    };
    let default = match scheme {
        "http" => Some("80"),
        "https" => Some("443"),
        _ => None,
    };
    match port {
        Some(port) if port.parse::<u16>().is_err() => return Some("its port is no number"),
        Some(port) if Some(port) == default => return Some("browsers leave the scheme's own port out"),
        _ => {}
    }
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let is_host = match address {
        Some(address) => address.parse::<Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.chars().all(|c| c.is_ascii_alphanumeric() || ".-_".contains(c)),
    };
    (!is_host).then_some("its host is none (names beyond ASCII: as browsers send them, xn--…)")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_what_a_browser_sends() {
        for right in [
            "https://example.org",
            "http://localhost:3000",
            "http://127.0.0.1:8081",
            "https://[::1]:8443",
            "http://[::1]",
            "chrome-extension://abcdefgh",
            "null",
        ] {
            assert_eq!(error_in(right), None, "{right}");
        }
        for (wrong, told) in [
            ("example.org", "has a scheme"),
            ("https://example.org/", "without / at its end"),
            ("https://example.org/chat", "without a path"),
            ("https://Example.org", "lower case"),
            ("https://example.org:443", "leave the scheme's own port out"),
            ("http://example.org:80", "leave the scheme's own port out"),
            ("https://*.example.org", "no patterns"),
            ("*", "has a scheme"),
            ("https://me@example.org", "no user"),
            ("https://example.org:x", "port is no number"),
            ("https://", "host is none"),
            ("https://exämple.org", "host is none"),
            ("https://[::g]", "host is none"),
        ] {
            let error = error_in(wrong).unwrap_or("none");
            assert!(error.contains(told), "{wrong}: {error}");
        }
    }
}
