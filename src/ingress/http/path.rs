//! Paths with a name in them: `/rooms/{room}`.

use bytestring::ByteString;

use super::query;
use crate::ingress::refusal::Refusal;

/// Whether `path` is one of those that `pattern` stands for: `/rooms/{room}` is `/rooms/` with one name behind it, a slash in which
/// is written `%2F`. A pattern without a name stands for itself.
pub(super) fn is_of(pattern: &str, path: &str) -> bool {
    match pattern.split_once('{') {
        Some((before, _)) => path.strip_prefix(before).is_some_and(|name| !name.is_empty() && !name.contains('/')),
        None => path == pattern,
    }
}

/// The name at the end of a path, which is percent-encoded; whether it can be one is not checked here.
pub(super) fn name(path: &str) -> Result<ByteString, Refusal> {
    let name = path.rsplit('/').next().unwrap_or_default();
    query::percent_decoded(name, "path").map(ByteString::from)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::ingress::refusal::RefusalKind;

    #[test]
    fn a_pattern_stands_for_paths_with_one_name() {
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
        ] {
            assert_eq!(is_of(pattern, path), is, "{pattern} {path}");
        }
    }

    #[test]
    fn a_name_is_percent_decoded_and_a_plus_is_a_plus() {
        assert_eq!(name("/rooms/a%2Fb+c%20y%C3%BC").unwrap(), "a/b+c yü");
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
