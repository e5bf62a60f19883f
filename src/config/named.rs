//! Sections that are as many as somebody needs, each with a name of its own: `[key.NAME]`, `[stream.NAME]`. config.ini has one of
//! each kind, in which its keys and their defaults stand.

use std::collections::BTreeMap;

use super::source::RawValues;

/// A kind of such sections.
#[derive(Debug)]
pub(super) struct NamedSections {
    /// The section of config.ini whose keys and defaults each has. Its name is in capitals, so it is nobody's.
    pub(super) template: &'static str,
    /// What stands before the name in a section, and in the environment.
    before_name: &'static str,
    before_name_in_environment: &'static str,
    /// One of the kind, for messages.
    word: &'static str,
    example: &'static str,
}

/// Callers of the API.
pub(super) const KEYS: NamedSections = NamedSections {
    template: "key.NAME",
    before_name: "key.",
    before_name_in_environment: "key_",
    word: "key",
    example: "[key.billing]",
};

/// Bounds of streams.
pub(super) const STREAMS: NamedSections = NamedSections {
    template: "stream.NAME",
    before_name: "stream.",
    before_name_in_environment: "stream_",
    word: "stream",
    example: "[stream.chat]",
};

const KINDS: [&NamedSections; 2] = [&KEYS, &STREAMS];

/// The kind of which a section is, a template too; `None`: there is one of its name only.
pub(super) fn kind_of(section: &str) -> Option<&'static NamedSections> {
    KINDS.into_iter().find(|kind| kind.name_in(section).is_some())
}

/// The kind that was meant by a section that there is not.
pub(super) fn kind_meant_by(section: &str) -> Option<&'static NamedSections> {
    let word = section.split(['.', '_']).next()?;
    KINDS.into_iter().find(|kind| word.strip_suffix('s').unwrap_or(word) == kind.word)
}

impl NamedSections {
    /// The name in a section of this kind; `None`: it is another section.
    pub(super) fn name_in<'a>(&self, section: &'a str) -> Option<&'a str> {
        section.strip_prefix(self.before_name)
    }

    /// The section that has this name.
    pub(super) fn section_of(&self, name: &str) -> String {
        format!("{}{name}", self.before_name)
    }

    /// Whether `section` is one of this kind that somebody named.
    pub(super) fn has(&self, section: &str) -> bool {
        section != self.template && self.name_in(section).is_some()
    }

    /// What is wrong with a name.
    pub(super) fn error_in(&self, name: &str) -> Option<String> {
        let fits = (1..=32).contains(&name.len())
            && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-".contains(&byte));
        let Self { word, example, .. } = self;
        (!fits).then(|| format!("a {word}'s name has 1 to 32 of a-z, 0-9, '_' and '-' ({example})"))
    }

    /// What who wrote the template's own name should do.
    pub(super) fn name_yours(&self) -> String {
        format!("[{}]: put a name of your own in place of NAME, say {}", self.template, self.example)
    }

    /// What who named no section of this kind may have meant.
    pub(super) fn suggestion(&self) -> String {
        let variable = self.before_name_in_environment.to_uppercase();
        format!("did you mean [{}] (OXIPUSH__{variable}NAME__…), with a name of your own?", self.template)
    }
}

/// The section and key of `KEY_NAME__SECRET`, in lower case: a shell's names have no dot and no `-`, so a `_` stands for either
/// where a section of `known` says so.
pub(super) fn place_in_environment<'a, 'b>(
    place: &'a str,
    known: impl Iterator<Item = &'b String> + Clone,
) -> Option<(String, &'a str)> {
    KINDS.into_iter().find_map(|kind| {
        let (name, key) = place.strip_prefix(kind.before_name_in_environment)?.rsplit_once("__")?;
        let is_meant = |section: &&String| kind.name_in(section).is_some_and(|known| known.replace('-', "_") == name);
        let meant = known.clone().find(is_meant);
        Some((meant.cloned().unwrap_or_else(|| kind.section_of(name)), key))
    })
}

/// Names that the environment cannot tell apart.
pub(super) fn collisions<'a>(sections: impl Iterator<Item = &'a String>) -> Vec<String> {
    let mut seen = BTreeMap::new();
    let mut wrong = Vec::new();
    for section in sections {
        let Some(kind) = kind_of(section) else { continue };
        if let Some(other) = seen.insert(section.replace('-', "_"), section) {
            let variable = kind.before_name_in_environment.to_uppercase();
            wrong.push(format!(
                "[{section}]: [{other}] is there, too, and OXIPUSH__{variable}… could mean either: rename one"
            ));
        }
    }
    wrong
}

/// Gives each named section what it does not say itself.
pub(super) fn fill_from_templates(values: &mut RawValues) {
    for kind in KINDS {
        let template = values[kind.template].clone();
        for (section, keys) in values.iter_mut() {
            if kind.name_in(section).is_some() {
                for (key, default) in &template {
                    keys.entry(key.clone()).or_insert_with(|| default.clone());
                }
            }
        }
    }
}
