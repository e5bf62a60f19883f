//! As much of HTTP/1.1 as a keep-alive client, and the bare server, need.

/// The head of a message and where its body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Message<'a> {
    /// The first line.
    pub(crate) line: &'a str,
    pub(crate) body: &'a [u8],
    /// Head and body.
    pub(crate) len: usize,
    /// The sender closes after this.
    pub(crate) close: bool,
}

impl Message<'_> {
    /// A response's status; 0 if it has none.
    pub(crate) fn status(&self) -> u16 {
        self.line.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0)
    }
}

/// Where the head ends, its blank line included.
pub(crate) fn head_end(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4)
}

/// The first message of `bytes`, if all of it is there. A body is as long as Content-Length says or comes in chunks
/// (then `body` still holds their lengths: nobody here reads long answers).
pub(crate) fn first(bytes: &[u8]) -> Option<Message<'_>> {
    let end = head_end(bytes)?;
    let head = std::str::from_utf8(bytes.get(..end)?).unwrap_or("");
    let mut lines = head.split("\r\n");
    let line = lines.next().unwrap_or("");
    let (mut length, mut chunked, mut close) = (0, false, line.ends_with("HTTP/1.0"));
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        let value = value.trim();
        if name.eq_ignore_ascii_case("content-length") {
            length = value.parse().unwrap_or(0);
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            chunked = value.eq_ignore_ascii_case("chunked");
        } else if name.eq_ignore_ascii_case("connection") {
            close |= value.eq_ignore_ascii_case("close");
        }
    }
    if chunked {
        length = chunks(bytes.get(end..)?)?;
    }
    let len = end.checked_add(length)?;
    Some(Message { line, body: bytes.get(end..len)?, len, close })
}

/// The length of a chunked body, if all of it is there.
fn chunks(body: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        let line = body.get(at..)?.windows(2).position(|window| window == b"\r\n")?;
        let digits = std::str::from_utf8(body.get(at..at + line)?).ok()?.split(';').next()?;
        let size = usize::from_str_radix(digits.trim(), 16).ok()?;
        at = at.checked_add(line)?.checked_add(size)?.checked_add(4)?;
        body.get(..at)?;
        if size == 0 {
            return Some(at);
        }
    }
}

/// Appends a POST; `head` is what follows the path (headers of [`head`]).
pub(crate) fn post(path: &str, head: &str, body: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(b"POST ");
    out.extend_from_slice(path.as_bytes());
    out.extend_from_slice(head.as_bytes());
    let mut digits = [0; 20];
    let mut at = digits.len();
    let mut rest = body.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
    out.extend_from_slice(b"\r\n\r\n");
    out.extend_from_slice(body);
}

/// The headers that all requests of a run share; ends where Content-Length's number goes.
pub(crate) fn head(host: &str, content_type: &str, key: Option<(&str, &str)>) -> String {
    let key = key.map(|(name, value)| format!("{name}: {value}\r\n")).unwrap_or_default();
    format!(" HTTP/1.1\r\nHost: {host}\r\nContent-Type: {content_type}\r\n{key}Content-Length: ")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_response_is_read_once_all_of_it_is_there() {
        let bytes = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhelloHTTP/1.1";
        for cut in 0..43 {
            assert_eq!(first(&bytes[..cut]), None, "{cut}");
        }
        let message = first(bytes).unwrap();
        assert_eq!((message.status(), message.body, message.len, message.close), (200, &b"hello"[..], 43, false));
    }

    #[test]
    fn a_chunked_response_ends_with_its_empty_chunk() {
        let bytes =
            b"HTTP/1.1 429 Too Many\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n2\r\nok\r\n0\r\n\r\nX";
        for cut in 0..bytes.len() - 1 {
            assert_eq!(first(&bytes[..cut]), None, "{cut}");
        }
        let message = first(bytes).unwrap();
        assert_eq!((message.status(), message.len, message.close), (429, bytes.len() - 1, true));
    }

    #[test]
    fn a_request_says_how_long_it_is() {
        let mut out = Vec::new();
        post("/push", &head("h:1", "application/json", Some(("Authorization", "Bearer k"))), b"0123456789", &mut out);
        let text = String::from_utf8(out.clone()).unwrap();
        assert!(text.starts_with("POST /push HTTP/1.1\r\nHost: h:1\r\n"), "{text}");
        assert!(text.contains("Authorization: Bearer k\r\nContent-Length: 10\r\n\r\n0123456789"), "{text}");
        assert_eq!(first(&out).unwrap().body, b"0123456789");
    }
}
