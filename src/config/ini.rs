//! The form of config.ini: sections, `key = value`, comments. A reader of its own, since each mistake is told with its line and
//! none is passed over.

use std::collections::BTreeMap;

use super::source::RawValues;

/// What a file holds, and each mistake in its form.
pub(super) fn read(text: &str) -> (RawValues, Vec<String>) {
    let mut values = RawValues::new();
    let mut errors = Vec::new();
    let mut section = None;
    let mut lines = BTreeMap::new();
    // an editor of Windows may leave a mark at the beginning
    for (at, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
        let at = at + 1;
        let line = line.trim();
        if line.is_empty() || is_comment(line) {
            continue;
        }
        if let Some(head) = line.strip_prefix('[') {
            let (name, error) = match head.split_once(']') {
                None => ("", "the section's name has no ] at its end"),
                Some((name, _)) if name.trim().is_empty() => ("", "the section has no name"),
                Some((name, rest)) if rest.trim().is_empty() || is_comment(rest.trim()) => (name.trim(), ""),
                Some(_) => ("", "nothing may follow [section] on its line"),
            };
            if !error.is_empty() {
                errors.push(format!("line {at}: {line:?}: {error}"));
            }
            // of a broken one "": what stands below it is not blamed for that
            section = Some(name);
            if !name.is_empty() {
                values.entry(name.to_owned()).or_default();
            }
            continue;
        }
        let Some((key, value)) = line.split_once('=').map(|(key, value)| (key.trim(), value.trim())) else {
            errors.push(format!("line {at}: {line:?} is no key = value, no [section] and no comment (;)"));
            continue;
        };
        match section {
            None => errors.push(format!("line {at}: {key}: it stands in no section; write [section] above it")),
            Some("") => {}
            Some(section) => {
                if let Some(before) = lines.insert((section, key), at) {
                    errors.push(format!("[{section}] {key}: it stands there twice, in lines {before} and {at}"));
                }
                values.entry(section.to_owned()).or_default().insert(key.to_owned(), unquoted(value).to_owned());
            }
        }
    }
    (values, errors)
}

fn is_comment(line: &str) -> bool {
    line.starts_with([';', '#'])
}

/// Without the quotes around it, if there are two.
pub(super) fn unquoted(value: &str) -> &str {
    let inner = |quote| value.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote));
    inner('"').or_else(|| inner('\'')).unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_keys_and_comments_are_read() {
        let text = "\u{feff}; first\r\n[a]\r\nx = 1\n  y=\"two words\" \n# more\n[b] ; why\nz = a=b\nw =\nq = '\n[a]\nv = C:\\n\n";
        let (values, errors) = read(text);
        assert_eq!(errors, Vec::<String>::new());
        let got = |section: &str, key: &str| values[section][key].as_str();
        assert_eq!((got("a", "x"), got("a", "y"), got("a", "v")), ("1", "two words", "C:\\n"));
        assert_eq!((got("b", "z"), got("b", "w"), got("b", "q")), ("a=b", "", "'"));
    }

    #[test]
    fn each_mistake_is_told_in_words_with_its_line() {
        for (text, told) in [
            ("[queue\ntopic = x\n", "line 1: \"[queue\": the section's name has no ] at its end"),
            ("[queue] x\n", "line 1: \"[queue] x\": nothing may follow [section] on its line"),
            ("[ ]\nx = 1\n", "line 1: \"[ ]\": the section has no name"),
            ("\n[queue]\ntopic\n", "line 3: \"topic\" is no key = value, no [section] and no comment (;)"),
            ("topic = x\n", "line 1: topic: it stands in no section; write [section] above it"),
            ("[a]\nx = 1\n[b]\n[a]\nx = 1\n", "[a] x: it stands there twice, in lines 2 and 5"),
        ] {
            assert_eq!(read(text).1, [told], "{text:?}");
        }
    }
}
