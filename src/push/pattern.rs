//! Names that somebody may use: each by itself, or all that begin alike.

use bytestring::ByteString;

/// A name, or all names with a prefix (`prefix*`; `*` is all).
#[derive(Clone, Debug, PartialEq, Eq)]
struct Pattern {
    text: ByteString,
    is_prefix: bool,
}

impl Pattern {
    fn admits(&self, name: &str) -> bool {
        if self.is_prefix { name.starts_with(&*self.text) } else { name == &*self.text }
    }
}

/// The names that somebody may use. Empty: none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Patterns(Box<[Pattern]>);

impl Patterns {
    /// Whether one of them is `name`, or a prefix of it.
    pub fn admits(&self, name: &str) -> bool {
        self.0.iter().any(|pattern| pattern.admits(name))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// From texts as `alice` and `room:*`: a `*` at the end stands for whatever follows, elsewhere for itself.
impl<T: AsRef<str>> FromIterator<T> for Patterns {
    fn from_iter<I: IntoIterator<Item = T>>(texts: I) -> Self {
        let pattern = |text: T| match text.as_ref().strip_suffix('*') {
            Some(prefix) => Pattern { text: prefix.into(), is_prefix: true },
            None => Pattern { text: text.as_ref().into(), is_prefix: false },
        };
        Self(texts.into_iter().map(pattern).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::Patterns;

    #[test]
    fn a_pattern_is_a_name_or_a_prefix() {
        let patterns = Patterns::from_iter(["alice", "room:*", "a*b"]);
        for (name, admitted) in [
            ("alice", true),
            ("alice2", false),
            ("room:", true),
            ("room:7", true),
            ("Room:7", false),
            ("a*b", true),
            ("axb", false),
            ("", false),
        ] {
            assert_eq!(patterns.admits(name), admitted, "{name}");
        }
        assert!(Patterns::from_iter(["*"]).admits("anything"));
        assert!(!Patterns::default().admits("anything") && Patterns::default().is_empty());
    }
}
