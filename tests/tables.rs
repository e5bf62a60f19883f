//! docs/close-codes.md and docs/errors.md say what the code says: every code, name and text, and nothing else.
#![allow(clippy::unwrap_used, missing_docs)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use oxipush::internals::{
    auth::IdentityErrorKind,
    wire::{close::Close, dialect::ClientError},
};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The rows of the first table below a line that starts with `heading`, without its head.
fn rows(page: &str, heading: &str) -> Vec<Vec<String>> {
    let text = fs::read_to_string(root().join(page)).unwrap();
    let mut lines = text.lines().skip_while(|line| !line.starts_with(heading)).skip(1).peekable();
    assert!(lines.peek().is_some(), "{page} has no heading {heading}");
    let rows: Vec<_> = lines
        .take_while(|line| !line.starts_with('#'))
        .skip_while(|line| !line.starts_with('|'))
        .take_while(|line| line.starts_with('|'))
        .skip(2)
        .map(|line| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>())
        .collect();
    for row in &rows {
        assert!(row.iter().all(|cell| !cell.is_empty()), "{page}, {heading}: an empty cell in {row:?}");
    }
    rows
}

fn all_codes() -> Vec<u16> {
    Close::ALL.iter().map(|close| close.code()).collect()
}

#[test]
fn close_codes_md_has_every_close_with_its_name_and_text() {
    let rows = rows("docs/close-codes.md", "# Close codes");
    let codes: Vec<u16> = rows.iter().map(|row| row[0].parse().unwrap()).collect();
    assert_eq!(codes, all_codes());
    for (row, close) in rows.iter().zip(Close::ALL) {
        assert_eq!(row.len(), 5, "{row:?}");
        assert_eq!(row[1], format!("{close:?}"));
        assert!(row[2].starts_with(&format!("`{}`", close.text())), "{}: the text sent is `{}`", row[0], close.text());
        assert!(close.text().len() <= 123 && close.label() == row[0]);
        let says_come_back = row[4].starts_with("reconnect");
        match close.code() {
            3000..=3499 => assert!(says_come_back, "{}: 3000-3499 say come back", row[0]),
            3500..=3999 => assert!(!says_come_back, "{}: 3500-3999 say do not", row[0]),
            _ => {}
        }
    }
}

#[test]
fn errors_md_has_every_close_code() {
    let codes: Vec<u16> = rows("docs/errors.md", "## Close codes").iter().map(|row| row[0].parse().unwrap()).collect();
    assert_eq!(codes, all_codes());
}

#[test]
fn codes_that_nothing_sends_are_marked_as_reserved() {
    let sources = sources();
    let sent = |close: &Close| {
        let name = format!("Close::{close:?}");
        let named = |text: &str| text.split(&name).skip(1).any(|rest| !rest.starts_with(char::is_alphanumeric));
        sources.iter().any(|(path, text)| !path.ends_with("wire/close.rs") && named(text))
    };
    for (page, heading, column) in
        [("docs/close-codes.md", "# Close codes", 3), ("docs/errors.md", "## Close codes", 1)]
    {
        for (row, close) in rows(page, heading).iter().zip(&Close::ALL) {
            assert_eq!(row[column].starts_with("(reserved)"), !sent(close), "{page}: {}", row[0]);
        }
    }
}

#[test]
fn errors_md_has_every_client_error_of_a_dialect() {
    let words: Vec<_> =
        rows("docs/errors.md", "## oxipush.v1").iter().map(|row| row[0].trim_matches('`').to_owned()).collect();
    assert_eq!(words, ClientError::CODES);
}

/// Client errors are made by name in several files: each name must be a known one.
#[test]
fn no_client_error_has_a_code_that_the_table_does_not_know() {
    let mut made = BTreeSet::new();
    for (path, text) in sources().into_iter().filter(|(_, text)| text.contains("ClientError")) {
        let openings = ["ClientError::new(", "client_error(", "refused("];
        for (at, opening) in openings.iter().flat_map(|opening| text.match_indices(opening)) {
            let Some(rest) = text[at + opening.len()..].trim_start().strip_prefix('"') else { continue };
            let word = rest.split('"').next().unwrap();
            assert!(ClientError::CODES.contains(&word), "{}: {word} is not in ClientError::CODES", path.display());
            made.insert(word.to_owned());
        }
    }
    made.insert("unsupported".into()); // through a function of its own
    let of_identities = IdentityErrorKind::ALL.iter().filter(|kind| **kind != IdentityErrorKind::Away);
    made.extend(of_identities.map(|kind| kind.word().to_owned()));
    assert_eq!(made, ClientError::CODES.iter().map(|code| (*code).to_owned()).collect());
}

#[test]
fn errors_md_has_every_refusal_of_a_handshake() {
    let text = fs::read_to_string(root().join("src/socket/handshake.rs")).unwrap();
    let mut made = BTreeMap::new();
    for (at, opening) in text.match_indices("StatusCode::") {
        let mut rest = text[at + opening.len()..].splitn(2, ',');
        let (status, then) = (rest.next().unwrap(), rest.next().unwrap_or_default().trim_start());
        let Some(reason) = then.strip_prefix('"').and_then(|then| then.split('"').next()) else { continue };
        let status = match status {
            "BAD_REQUEST" => 400,
            "FORBIDDEN" => 403,
            "NOT_FOUND" => 404,
            "METHOD_NOT_ALLOWED" => 405,
            "UPGRADE_REQUIRED" => 426,
            "TOO_MANY_REQUESTS" => 429,
            "SERVICE_UNAVAILABLE" => 503,
            other => panic!("{other} is new: add it to docs/errors.md and here"),
        };
        made.insert(format!("`{reason}`"), status.to_string());
    }
    let told: BTreeMap<_, _> =
        rows("docs/errors.md", "## Handshake").into_iter().map(|row| (row[1].clone(), row[0].clone())).collect();
    assert!(made.len() >= 5, "src/socket/handshake.rs could not be read: {made:?}");
    assert_eq!(made, told);
}

#[test]
fn errors_md_has_what_the_http_server_itself_answers() {
    // tests/socket_hostile.rs provokes them
    let told: Vec<_> =
        rows("docs/errors.md", "What never becomes a request").into_iter().map(|row| row[0].clone()).collect();
    assert_eq!(told, ["400", "408", "431"]);
}

/// Also those that tonic gives by itself: what the gateway counts by name is what it can give.
#[test]
fn errors_md_has_every_grpc_status_that_is_counted() {
    let source = fs::read_to_string(root().join("src/ingress/grpc/status.rs")).unwrap();
    let page = fs::read_to_string(root().join("docs/errors.md")).unwrap();
    let section = page.split("\n## ").find(|section| section.starts_with("HTTP and gRPC\n")).unwrap();
    let mut words = 0;
    for word in source.split(" => \"").skip(1).filter_map(|rest| rest.split('"').next()) {
        if word.chars().all(|letter| letter == '_' || letter.is_ascii_uppercase()) {
            assert!(section.contains(word), "docs/errors.md does not explain {word}");
            words += 1;
        }
    }
    assert!(words >= 7, "src/ingress/grpc/status.rs could not be read");
}

/// Everything below src/, less its tests.
fn sources() -> Vec<(PathBuf, String)> {
    let (mut folders, mut sources) = (vec![root().join("src")], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ext| ext == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                let text = text.split("\n#[cfg(test)]").next().unwrap().to_owned();
                sources.push((path, text));
            }
        }
    }
    sources
}
