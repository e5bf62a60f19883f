//! docs/operations.md and the program say the same: every key, every default, every metric; the pages of docs/ lead to each other,
//! and docs/ and docs/adr/ have a whole index.

#![allow(clippy::unwrap_used, missing_docs)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use oxipush::internals::{
    config::{DEFAULTS, LIVE_KEYS},
    telemetry::{Metrics, labels::LABEL_WORDS},
};

fn page(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

/// The cells of each table row whose first cell is code, below each heading.
fn tables(text: &str) -> BTreeMap<String, Vec<Vec<String>>> {
    let mut tables = BTreeMap::<String, Vec<Vec<String>>>::new();
    let mut heading = String::new();
    for line in text.lines() {
        if line.starts_with('#') {
            heading = line.trim_start_matches('#').trim().to_owned();
        } else if line.starts_with("| `") {
            let cells = line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect();
            tables.entry(heading.clone()).or_default().push(cells);
        }
    }
    tables
}

/// config.ini's keys with their defaults, by section.
fn keys() -> BTreeMap<String, BTreeMap<String, String>> {
    let mut keys = BTreeMap::<String, BTreeMap<String, String>>::new();
    let mut section = String::new();
    for line in DEFAULTS.lines().filter(|line| !line.starts_with(';')) {
        if line.starts_with('[') {
            section = line.to_owned();
        } else if let Some((key, value)) = line.split_once('=') {
            keys.entry(section.clone()).or_default().insert(key.trim().to_owned(), value.trim().to_owned());
        }
    }
    keys
}

fn code(cell: &str) -> &str {
    cell.trim_matches('`')
}

#[test]
fn every_key_stands_in_operations_md_with_its_default() {
    let (tables, keys) = (tables(&page("docs/operations.md")), keys());
    assert!(keys.len() >= 12 && keys.contains_key("[queue]"), "config.ini could not be read: {keys:?}");
    for (section, keys) in &keys {
        let rows = tables.get(section).unwrap_or_else(|| panic!("docs/operations.md has no table for {section}"));
        for (key, default) in keys {
            let row = rows.iter().find(|row| code(&row[0]) == key);
            let row = row.unwrap_or_else(|| panic!("docs/operations.md does not explain {section} {key}"));
            let shown = if row[1] == "none" { "" } else { code(&row[1]) };
            assert_eq!(shown, default, "{section} {key}: config.ini's default differs");
            assert!(row.len() == 4 && !row[2].is_empty(), "{section} {key}: it has no unit");
            assert!(row[3].len() > 20, "{section} {key}: what is there to think about?");
        }
        for row in rows {
            assert!(
                keys.contains_key(code(&row[0])),
                "docs/operations.md explains {section} {}, which is no key",
                row[0]
            );
        }
    }
}

#[test]
fn every_key_that_a_reload_changes_stands_there_as_one() {
    let tables = tables(&page("docs/operations.md"));
    let rows = &tables["Reload: what SIGHUP changes"];
    let told = rows.iter().flat_map(|row| row[1].split('`').skip(1).step_by(2).map(|key| (code(&row[0]), key)));
    let mut told: Vec<_> =
        told.filter(|(_, key)| *key != "RUST_LOG").map(|(s, k)| (s.to_owned(), k.to_owned())).collect();
    let mut live: Vec<_> = LIVE_KEYS
        .iter()
        .flat_map(|(section, keys)| keys.iter().map(move |key| (format!("[{section}]"), (*key).to_owned())))
        .collect();
    told.sort();
    told.dedup();
    live.sort();
    assert_eq!(told, live);
}

#[test]
fn every_metric_stands_in_operations_md() {
    let tables = tables(&page("docs/operations.md"));
    let rows: Vec<&str> = tables["Metrics"].iter().map(|row| code(&row[0])).collect();
    let names: Vec<&str> = Metrics::NAMES.iter().map(|(name, _)| *name).collect();
    for name in &names {
        let (plain, total) = (format!("oxipush_{name}"), format!("oxipush_{name}_total"));
        assert!(rows.contains(&plain.as_str()) || rows.contains(&total.as_str()), "{plain} is not explained");
    }
    // the others are of the process
    for row in rows.into_iter().filter(|row| !row.starts_with("process_")) {
        let name = row.trim_start_matches("oxipush_");
        let known = names.contains(&name) || name.strip_suffix("_total").is_some_and(|name| names.contains(&name));
        assert!(known, "docs/operations.md explains {row}, which is no metric");
    }
}

/// In the row of its metric, or in the table that its metric has of its own.
#[test]
fn every_word_of_a_label_is_explained() {
    let operations = page("docs/operations.md");
    let rows = &tables(&operations)["Metrics"];
    let is_of = |name: &str, row: &[String]| {
        let metric = code(&row[0]).trim_start_matches("oxipush_");
        metric == name || metric.strip_suffix("_total") == Some(name)
    };
    for (name, label, words) in LABEL_WORDS {
        let row = rows.iter().find(|row| is_of(name, row)).unwrap_or_else(|| panic!("there is no metric {name}"));
        assert!(row[2].split(", ").any(|shown| shown == *label), "{name} is not said to be by {label}");
        let heading = format!("The {label}s of `{}`:", code(&row[0]));
        let table = operations.split_once(&heading).map(|(_, rest)| rest.trim_start());
        let table = table.map(|table| table.split("\n\n").next().unwrap());
        let cells = table.map(|table| table.lines().filter_map(|line| line.split('|').nth(1)).collect::<String>());
        let explained = cells.unwrap_or_else(|| row[3].clone());
        let explained: Vec<_> = explained.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).collect();
        for word in *words {
            assert!(explained.contains(word), "docs/operations.md does not explain {name}{{{label}=\"{word}\"}}");
        }
    }
}

#[test]
fn a_counter_stands_there_as_it_is_exposed() {
    let (rows, text) = (page("docs/operations.md"), Metrics::new().text());
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let mut counters = 0;
    for (name, kind) in types.filter_map(|line| line.split_once(' ')) {
        let shown =
            if kind == "counter" { format!("{}_total", name.trim_end_matches("_total")) } else { name.to_owned() };
        counters += usize::from(kind == "counter");
        assert!(rows.contains(&format!("| `{shown}` | {kind}")), "{shown} ({kind}) is not explained as it is exposed");
    }
    assert!(counters > 0, "no counter was found in:\n{text}");
}

#[test]
fn the_lines_that_tell_of_the_log_stand_there_as_they_are_written() {
    let tables = tables(&page("docs/operations.md"));
    let rows = &tables["Checking and salvaging the log"];
    let folders = [
        "src/queue/embedded",
        "src/queue/embedded/writer",
        "src/store",
        "src/store/embedded",
        "src/store/embedded/writer",
        "src/log",
    ];
    let files = folders.into_iter().flat_map(|folder| {
        let entries = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)).unwrap();
        entries.map(|entry| entry.unwrap().path()).filter(|path| path.is_file())
    });
    let sources: String = files.map(|path| fs::read_to_string(path).unwrap()).collect();
    assert!(rows.len() > 5, "docs/operations.md could not be read: {rows:?}");
    for row in rows {
        let more = row[1].split('`').skip(1).step_by(2).filter(|text| text.contains(' ') && !text.contains('['));
        for line in more.chain([code(&row[0])]) {
            assert!(sources.contains(line), "no line says {line:?}");
        }
    }
}

#[test]
fn security_md_names_tests_and_pages_that_are_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = page("docs/security.md");
    let named: Vec<&str> =
        text.split('`').filter(|word| word.starts_with("tests/") || word.starts_with("fuzz/")).collect();
    assert!(named.len() > 15, "docs/security.md could not be read: {named:?}");
    let linked = text.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next());
    let linked = linked.filter(|link| !link.is_empty()).map(|link| root.join("docs").join(link));
    for path in named.into_iter().map(|name| root.join(name)).chain(linked) {
        assert!(path.exists(), "docs/security.md names {}, which is not there", path.display());
    }
}

/// Names of the pages in a folder below docs/ (empty: docs/ itself), with that folder, without the index.
fn pages(folder: &str) -> Vec<String> {
    let at = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(folder);
    let names = fs::read_dir(at).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.ends_with(".md") && name != "README.md").map(|name| format!("{folder}{name}")).collect()
}

/// The lines of a page that are no code.
fn prose(text: &str) -> impl Iterator<Item = &str> {
    let mut code = false;
    text.lines().filter(move |line| {
        let fence = line.trim_start().starts_with("```");
        code ^= fence;
        !code && !fence
    })
}

/// Where links to the headings of a page lead.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = prose(text).filter(|line| line.starts_with('#'));
    let anchor = |line: &str| line.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
    headings.map(|line| anchor(line).chars().filter(|c| c.is_alphanumeric() || "-_".contains(*c)).collect()).collect()
}

#[test]
fn every_link_of_readme_and_docs_leads_to_a_file_and_a_heading() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut names: Vec<_> = ["", "dialects/"].into_iter().flat_map(pages).map(|name| format!("docs/{name}")).collect();
    names.extend(["README.md".to_owned(), "docs/README.md".to_owned()]);
    let mut links = 0;
    for name in names {
        let text = page(&name);
        let targets = prose(&text).flat_map(|line| line.split("](").skip(1).filter_map(|rest| rest.split(')').next()));
        for link in targets.filter(|link| !link.contains("://")) {
            let (file, heading) = link.split_once('#').unwrap_or((link, ""));
            let at = if file.is_empty() { root.join(&name) } else { root.join(&name).with_file_name(file) };
            assert!(at.exists(), "{name} points to {link}, which is not there");
            if !heading.is_empty() {
                let there = anchors(&fs::read_to_string(&at).unwrap());
                assert!(there.contains(heading), "{name} points to {link}, and there is no such heading");
            }
            links += 1;
        }
    }
    assert!(links > 100, "the pages could not be read: {links} links");
}

#[test]
fn every_page_is_in_the_index_once() {
    let index = page("docs/README.md");
    let pages = ["", "dialects/"].into_iter().flat_map(pages).chain(["adr/README.md".to_owned()]);
    for name in pages {
        let rows = index.matches(&format!("]({name})")).count();
        assert_eq!(rows, 1, "docs/README.md should name {name} once");
    }
}

#[test]
fn every_adr_is_in_the_index_with_its_status_and_date() {
    let index = page("docs/adr/README.md");
    let rows: Vec<_> = index.lines().filter(|line| line.starts_with("| [")).collect();
    let mut files = 0;
    for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/adr")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let Some((number, _)) = name.split_once('-').filter(|_| name.ends_with(".md")) else { continue };
        let text = page(&format!("docs/adr/{name}"));
        let title = text.lines().next().unwrap().strip_prefix(&format!("# {number}: "));
        let title = title.unwrap_or_else(|| panic!("{name} begins with no `# {number}: …`"));
        let status = text.lines().find_map(|line| line.strip_prefix("Status: ")?.strip_suffix('.'));
        let status = status.unwrap_or_else(|| panic!("{name} has no line `Status: …`"));
        let (status, date) = status.split_once(". ").unwrap_or_else(|| panic!("{name}: its status has no date"));
        let row = format!("| [{number}]({name}) | {title} | {status} | {date} |");
        assert!(rows.contains(&row.as_str()), "docs/adr/README.md has no row {row}");
        files += 1;
    }
    assert_eq!(rows.len(), files, "docs/adr/README.md has a row without a file");
}
