//! Reads the files of what the originals took and sent; tests/dialects.rs reads them by it, too.

/// One thing that a client said.
pub(super) struct Exchange<'a> {
    pub(super) said: &'a str,
    pub(super) heard: Vec<Heard>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Heard {
    Text(String),
    /// The connection ended.
    Closed,
}

/// Lines of `> ` are said, those of `< ` behind them heard, `closed` is the end; `#` begins a comment.
pub(super) fn exchanges(file: &str) -> impl Iterator<Item = Exchange<'_>> {
    let mut exchanges: Vec<Exchange<'_>> = Vec::new();
    for line in lines(file) {
        if let Some(said) = line.strip_prefix("> ") {
            exchanges.push(Exchange { said, heard: Vec::new() });
            continue;
        }
        let heard = match line.strip_prefix("< ") {
            Some(text) => Heard::Text(text.to_owned()),
            None => {
                assert_eq!(line, "closed");
                Heard::Closed
            }
        };
        exchanges.last_mut().expect("something was said before").heard.push(heard);
    }
    exchanges.into_iter()
}

/// Two lines each.
pub(super) fn pairs(file: &str) -> impl Iterator<Item = (&str, &str)> {
    let lines: Vec<&str> = lines(file).collect();
    assert!(lines.len().is_multiple_of(2));
    (0..lines.len() / 2).map(move |nth| (lines[nth * 2], lines[nth * 2 + 1]))
}

fn lines(file: &str) -> impl Iterator<Item = &str> {
    file.lines().filter(|line| !line.is_empty() && !line.starts_with('#'))
}
