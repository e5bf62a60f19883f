//! Paths with a name in them: `/rooms/{room}`.

use bytestring::ByteString;

use super::query;
use crate::ingress::refusal::Refusal;

/// Whether `path` is one of those that `pattern` stands for: in it `{…}` between two slashes stands for any one name, a slash in
/// which is written `%2F`. A pattern without a name stands for itself.
pub(super) fn is_of(pattern: &str, path: &str) -> bool {
    if !pattern.contains('{') {
        return path == pattern;
    }
    let (mut parts, mut given) = (pattern.split('/'), path.split('/'));
    loop {
        match (parts.next(), given.next()) {
            (None, None) => return true,
            (Some(part), Some(given)) if is_name(part) => {
                if given.is_empty() {
                    return false;
                }
            }
            (Some(part), Some(given)) if part == given => {}
            _ => return false,
        }
    }
}

/// The names in a path of `pattern`, which are percent-encoded there; whether they can be some is not checked here.
pub(super) fn names(pattern: &str, path: &str) -> Result<Vec<ByteString>, Refusal> {
    let named = pattern.split('/').zip(path.split('/')).filter(|(part, _)| is_name(part));
    named.map(|(_, name)| query::percent_decoded(name, "path").map(ByteString::from)).collect()
}

/// The name at the end of a path, as [`names`].
pub(super) fn name(path: &str) -> Result<ByteString, Refusal> {
    let name = path.rsplit('/').next().unwrap_or_default();
    query::percent_decoded(name, "path").map(ByteString::from)
}

fn is_name(part: &str) -> bool {
    part.starts_with('{')
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::ingress::refusal::RefusalKind;

    #[test]
    fn a_pattern_stands_for_paths_with_its_names() {
        for (pattern, path, is) in [
            ("/push", "/push", true),
            ("/push", "/push/batch", false),
            ("/rooms/{room}", "/rooms/lobby", true),
            ("/rooms/{room}", "/rooms/a%2Fb", true),
            ("/rooms/{room}", "/rooms/{room}", true),
            ("/rooms/{room}", "/rooms/", false),
            ("/rooms/{room}", "/rooms", false),
            ("/rooms/{room}", "/rooms/a/b", false),
            ("/rooms/{room}", "/cards/a", false),
            ("/rooms/{room}", "/rooms/a/stream", false),
            ("/rooms/{room}/stream", "/rooms/a/stream", true),
            ("/rooms/{room}/stream", "/rooms//stream", false),
            ("/rooms/{room}/stream", "/rooms/a/streams", false),
            ("/rooms/{room}/stream", "/rooms/a/stream/", false),
            ("/rooms/{room}/stream/{seq}", "/rooms/a/stream/7", true),
            ("/rooms/{room}/stream/{seq}", "/rooms/a/stream/", false),
            ("/rooms/{room}/stream/{seq}", "/rooms/a/stream", false),
        ] {
            assert_eq!(is_of(pattern, path), is, "{pattern} {path}");
        }
    }

    #[test]
    fn a_name_is_percent_decoded_and_a_plus_is_a_plus() {
        assert_eq!(name("/rooms/a%2Fb+c%20y%C3%BC").unwrap(), "a/b+c yü");
        let both = names("/cards/{card}/devices/{device}", "/cards/a%2Fb/devices/my+phone").unwrap();
        assert_eq!(both, ["a/b", "my+phone"]);
        assert!(names("/cards/{card}/stream", "/cards/%ff/stream").is_err());
        for (path, kind, message) in [
            ("/rooms/a%2", RefusalKind::BadField, "the path has a `%` without two hex digits"),
            ("/rooms/a%zz", RefusalKind::BadField, "the path has a `%`"),
            ("/rooms/%ff", RefusalKind::NotUtf8, "the path is not UTF-8"),
        ] {
            let refusal = name(path).unwrap_err();
            assert_eq!(refusal.kind, kind, "{path}");
            assert!(refusal.message.starts_with(message), "{path}: {}", refusal.message);
        }
    }
}
