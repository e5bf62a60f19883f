//! docs/errors.md and the code say the same.

use std::{collections::BTreeMap, fs, path::Path};

use oxipush::internals::ingress::RefusalKind;

/// Rows of the section by their word: HTTP status, gRPC status.
fn rows() -> BTreeMap<String, (String, String)> {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/errors.md")).unwrap();
    let section = page.split("\n## ").find(|section| section.starts_with("HTTP and gRPC\n")).expect("the section");
    let mut rows = BTreeMap::new();
    for line in section.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<_> = line.trim_matches('|').split('|').map(|cell| cell.trim().trim_matches('`')).collect();
        assert_eq!(cells.len(), 5, "{line}");
        assert!(!cells[3].is_empty() && !cells[4].is_empty(), "{} has no cause or no remedy", cells[0]);
        assert!(
            rows.insert(cells[0].to_owned(), (cells[1].to_owned(), cells[2].to_owned())).is_none(),
            "{line}: twice"
        );
    }
    rows
}

#[test]
fn every_refusal_stands_in_the_table_with_its_statuses() {
    let mut rows = rows();
    for kind in RefusalKind::ALL {
        let (http, grpc) = rows.remove(kind.name()).unwrap_or_else(|| panic!("{} is missing", kind.name()));
        assert_eq!(http, kind.http().to_string(), "{}", kind.name());
        // INVALID_ARGUMENT is what tonic calls InvalidArgument
        let code = kind.grpc().map_or("-".into(), |code| format!("{code:?}"));
        let named: String = grpc
            .split('_')
            .map(|word| {
                word.chars().take(1).chain(word.chars().skip(1).flat_map(char::to_lowercase)).collect::<String>()
            })
            .collect();
        assert_eq!(named, code, "{}", kind.name());
    }
    assert!(rows.is_empty(), "the code knows nothing of {:?}", rows.keys());
}
