//! pushbench against its own bare epoll server: the tool counts what really happened.
#![allow(clippy::unwrap_used, missing_docs)]

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Output, Stdio},
};

use serde_json::Value;

const PUSHBENCH: &str = env!("CARGO_BIN_EXE_pushbench");

struct Bare {
    child: Child,
    address: String,
}

impl Bare {
    fn start(profile: &str) -> Self {
        let mut child = Command::new(PUSHBENCH)
            .args(["bare", "--profile", profile])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("listening on ").unwrap().to_owned();
        Self { child, address }
    }

    fn command(&self, words: &str) -> Command {
        let mut command = Command::new(PUSHBENCH);
        command.args(words.split_whitespace());
        command.args(["--ws", &format!("ws://{}", self.address), "--http", &format!("http://{}", self.address)]);
        command.args(["--pid", &self.child.id().to_string()]);
        command.args(["--quiet", "--check", "--settle", "0", "--patience", "30", "--json", "-"]);
        command
    }

    /// Runs a scenario that must find nothing wrong; its report.
    fn run(&self, words: &str) -> Value {
        let output = self.command(words).output().unwrap();
        assert!(output.status.success(), "{words}: {}", text(&output));
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn number(report: &Value, path: &str) -> u64 {
    report.pointer(path).and_then(Value::as_u64).unwrap_or_else(|| panic!("{path} in {report}"))
}

#[test]
fn every_delivery_of_a_fan_out_is_counted_once() {
    let bare = Bare::start("gopusher");
    let report = bare.run("fanout --profile gopusher -n 40 --pushes 30 --warmup 3");
    assert_eq!(number(&report, "/pushes/accepted"), 30);
    assert_eq!(number(&report, "/deliveries/received"), 30 * 40);
    assert_eq!(number(&report, "/joins/answered"), 40);
    for wrong in ["missing", "duplicated", "disordered", "foreign"] {
        assert_eq!(number(&report, &format!("/deliveries/{wrong}")), 0, "{wrong}");
    }
}

#[test]
fn single_cards_and_groups_get_their_own_pushes_only() {
    let bare = Bare::start("oxipush");
    let report = bare.run("unicast --profile oxipush -n 50 --pushes 500 --warmup 0");
    assert_eq!(number(&report, "/deliveries/received"), 500);
    let report = bare.run("groups --profile oxipush -n 60 --tabs 3 --pushes 100 --warmup 0");
    assert_eq!(number(&report, "/deliveries/received"), 300);
    let report = bare.run("unicast --profile oxipush -n 20 --cards-per-push 5 --pushes 40 --warmup 0");
    assert_eq!(number(&report, "/deliveries/received"), 200);
}

#[test]
fn each_room_gets_its_own_pushes_only() {
    let bare = Bare::start("oxipush");
    let report = bare.run("rooms -n 40 --pushes 30 --warmup 3");
    assert_eq!(number(&report, "/deliveries/received"), 30 * 40);
    assert_eq!(number(&report, "/rooms"), 1);
    let report = bare.run("rooms --rooms 8 -n 40 --pushes 32 --warmup 0");
    assert_eq!(number(&report, "/deliveries/received"), 32 * 5);
    let report = bare.run("fanout -n 10 --rooms 100 --subscriptions 10 --pushes 5 --warmup 0");
    assert_eq!((number(&report, "/deliveries/received"), number(&report, "/rooms")), (50, 100));
}

#[test]
fn bursts_are_whole_and_an_open_loop_sends_all_that_was_due() {
    let bare = Bare::start("gopusher");
    let report = bare.run("burst --profile gopusher -n 20 --burst 7 --pushes 35 --warmup 7");
    assert_eq!(number(&report, "/deliveries/received"), 35 * 20);
    let report = bare.run("unicast --profile gopusher -n 20 --rate 500 --pushes 250 --warmup 0");
    assert_eq!(number(&report, "/pushes/accepted"), 250);
}

#[test]
fn connections_that_come_and_go_are_owed_only_what_came_while_they_were_there() {
    let bare = Bare::start("gopusher");
    let report = bare.run("churn --profile gopusher -n 50 --churn 100 --rate 300 --duration 1.5");
    assert!(number(&report, "/joins/again") > 0);
    assert_eq!(number(&report, "/deliveries/missing"), 0);
}

#[test]
fn slow_clients_are_counted_apart() {
    let bare = Bare::start("gopusher");
    let report =
        bare.run("slow --profile gopusher -n 40 --slow-share 0.25 --slow-rate 200 --pushes 50 --rate 200 --warmup 0");
    assert_eq!(number(&report, "/deliveries/received"), 50 * 30);
    assert!(number(&report, "/deliveries/slow") < 50 * 10);
}

#[test]
fn a_server_that_dies_is_not_a_pass() {
    let mut bare = Bare::start("gopusher");
    let mut command = bare.command("fanout --profile gopusher -n 20 --duration 60");
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(700));
    bare.child.kill().unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(!output.status.success(), "{}", text(&output));
}

#[test]
fn a_plot_is_drawn() {
    let bare = Bare::start("gopusher");
    let folder = std::env::temp_dir().join(format!("pushbench-plot-{}.svg", std::process::id()));
    bare.run(&format!("fanout --profile gopusher -n 10 --pushes 20 --plot {}", folder.display()));
    let svg = std::fs::read_to_string(&folder).unwrap();
    std::fs::remove_file(&folder).unwrap();
    assert!(svg.starts_with("<svg") && svg.contains("polyline") && svg.trim_end().ends_with("</svg>"), "{svg}");
    assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
}

#[test]
fn the_limit_is_measured_on_a_server_of_its_own() {
    let bare = Bare::start("gopusher");
    // the second bare server plays the gateway
    let report = bare.run("limit --with fanout --profile gopusher -n 30 --pushes 40 --runs 2");
    for (side, path) in [("bare", "/bare"), ("send loop", "/send_loop"), ("gateway", "/gateway")] {
        let runs = report.pointer(path).and_then(Value::as_array).unwrap();
        assert_eq!(runs.len(), 2, "{side}");
        assert!(runs.iter().all(|run| number(run, "/deliveries/received") == 1200), "{side}");
    }
}

#[test]
fn what_cannot_work_is_said_before_anything_starts() {
    for (words, why) in [
        ("fanout -n 10 --ws ws://127.0.0.1:1/ws", "--http is missing"),
        ("fanout -n 10 --http http://127.0.0.1:1", "--ws is missing"),
        ("fanout -n 10 --ws wss://127.0.0.1:1 --http http://127.0.0.1:1", "must begin with ws://"),
        ("unicast -n 10 --profile centrifugo --ws ws://127.0.0.1:1 --grpc http://127.0.0.1:1", "over HTTP only"),
        (
            "everyone --profile centrifugo --ws ws://127.0.0.1:1 --http http://127.0.0.1:1",
            "nothing that reaches everyone",
        ),
        ("fanout --callers go-push --ws ws://127.0.0.1:1 --http http://127.0.0.1:1", "cannot be addressed so"),
        ("rooms --subscriptions 2 --ws ws://127.0.0.1:1 --http http://127.0.0.1:1", "one room of each connection"),
        ("rooms --gateway /nowhere/at/all", "/nowhere/at/all"),
        ("fanout --size 10", "32"),
        ("fsync --dir /nowhere/at/all", "/nowhere/at/all"),
    ] {
        let output = Command::new(PUSHBENCH).args(words.split_whitespace()).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{words}");
        assert!(text(&output).contains(why), "{words}: {}", text(&output));
    }
}

#[test]
fn too_few_file_descriptors_are_told_before_the_first_connect() {
    let run =
        format!("ulimit -n 200 && exec {PUSHBENCH} fanout -n 1000 --ws ws://127.0.0.1:1 --http http://127.0.0.1:1");
    let output = Command::new("sh").args(["-c", &run]).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
    assert!(
        text(&output).contains("1064 connections need 1192 file descriptors, 200 are allowed"),
        "{}",
        text(&output)
    );
}

#[test]
fn an_fdatasync_is_timed() {
    let folder = std::env::temp_dir();
    let output =
        Command::new(PUSHBENCH).args(["fsync", "--count", "5", "--json", "--dir"]).arg(&folder).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    let figures: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(number(&figures, "/count"), 5);
    assert!(figures.pointer("/mean_ms").and_then(Value::as_f64).unwrap() > 0.0);
}
