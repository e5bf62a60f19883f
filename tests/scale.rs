//! scripts/scale calculates, and docs/scale.md shows what it says.
#![allow(clippy::unwrap_used, missing_docs)]

use std::{path::Path, process::Command};

fn scale(arguments: &[&str]) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/scale");
    let output = Command::new(script).args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The cells of the row that begins so.
fn row(table: &str, begins: &str) -> Vec<String> {
    let line = table.lines().find(|line| line.starts_with(begins)).unwrap_or_else(|| panic!("no {begins}:\n{table}"));
    line[begins.len()..].split("  ").map(|cell| cell.trim().to_owned()).filter(|cell| !cell.is_empty()).collect()
}

#[test]
fn the_page_shows_what_the_calculation_says() {
    let page = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/scale.md")).unwrap();
    let mut shown = 0;
    for (command, rest) in page.split("$ scripts/scale").skip(1).map(|part| part.split_once('\n').unwrap()) {
        let arguments: Vec<&str> = command.split_whitespace().collect();
        let table = rest.split("```").next().unwrap().trim_end();
        assert_eq!(scale(&arguments).trim_end(), table, "scripts/scale{command}");
        shown += 1;
    }
    assert!(shown >= 3, "{shown}");
}

#[test]
fn a_million_clients_and_a_thousand_pushes_are_a_thousand_million_deliveries() {
    let table = scale(&[]);
    assert_eq!(row(&table, "node: deliveries a second"), ["1,000,000,000", "100,000,000", "10,000,000"]);
    assert_eq!(row(&table, "node: clients"), ["1,000,000", "100,000", "10,000"]);
}

#[test]
fn with_a_directory_more_nodes_cost_nsqd_nothing() {
    let load = ["--everyone", "0", "--cards", "50000", "--nodes", "1,10,100"];
    assert_eq!(row(&scale(&load), "nsqd: copies a second"), ["25,000", "250,000", "2,500,000"]);
    let directory = scale(&[&load[..], &["--directory"]].concat());
    assert_eq!(row(&directory, "nsqd: copies a second"), ["25,000", "25,000", "25,000"]);
}

#[test]
fn a_number_that_is_none_is_refused() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/scale");
    for wrong in [["--nodes", "0"], ["--nodes", "many"], ["--stored", "2"]] {
        assert!(!Command::new(&script).args(wrong).output().unwrap().status.success(), "{wrong:?}");
    }
}
