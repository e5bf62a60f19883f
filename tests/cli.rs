//! What is typed and what is printed: the program as its users meet it.

#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use oxipush::internals::config::DEFAULTS;
use serde_json::Value;
use tempfile::TempDir;

/// Longer than a busy machine needs; only a failure waits this long.
const DEADLINE: Duration = Duration::from_secs(60);

/// The program in an empty folder, with nothing of this shell's environment that it would obey.
fn oxipush(folder: &TempDir, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_oxipush"));
    command.args(arguments).current_dir(folder).stdin(Stdio::null());
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("OXIPUSH") || name.starts_with("RUST_")) {
        command.env_remove(name);
    }
    command
}

fn run(folder: &TempDir, arguments: &[&str]) -> Output {
    oxipush(folder, arguments).output().unwrap()
}

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// A process whose lines are read as they come; it ends with the test.
struct Running {
    child: Child,
    out: Receiver<String>,
    err: Receiver<String>,
    /// All lines of stderr, as far as they were looked at.
    seen: Vec<String>,
}

impl Running {
    fn start(command: Command) -> Self {
        Self::with_log(command, Stdio::piped())
    }

    /// With another stderr; only a pipe of our own is read.
    fn with_log(mut command: Command, log: Stdio) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let out = lines(child.stdout.take().unwrap());
        let err = child.stderr.take().map_or_else(|| channel().1, lines);
        Self { child, out, err, seen: Vec::new() }
    }

    /// The next line of stdout that `fits`; those before it are passed over.
    fn out_line(&mut self, fits: impl Fn(&str) -> bool) -> String {
        let end = Instant::now() + DEADLINE;
        loop {
            match self.out.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(line) if fits(&line) => return line,
                Ok(_) => {}
                Err(error) => panic!("the line did not come ({error}); stderr: {:#?}", self.rest()),
            }
        }
    }

    /// The next line of stderr that `fits`.
    fn err_line(&mut self, fits: impl Fn(&str) -> bool) -> String {
        let end = Instant::now() + DEADLINE;
        loop {
            match self.err.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    self.seen.push(line.clone());
                    if fits(&line) {
                        return line;
                    }
                }
                Err(error) => panic!("the line did not come ({error}); stderr: {:#?}", self.seen),
            }
        }
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), signal).unwrap();
    }

    fn end(&mut self) -> ExitStatus {
        let end = Instant::now() + DEADLINE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < end, "it did not end; stderr: {:#?}", self.rest());
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// All of stderr so far; after the end: all of it.
    fn rest(&mut self) -> &[String] {
        let ended = matches!(self.child.try_wait(), Ok(Some(_)));
        let wait = if ended { DEADLINE } else { Duration::ZERO };
        while let Ok(line) = self.err.recv_timeout(wait) {
            self.seen.push(line);
        }
        &self.seen
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn lines(from: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        for line in BufReader::new(from).split(b'\n') {
            let Ok(line) = line else { return };
            if sender.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                return;
            }
        }
    });
    receiver
}

/// A gateway of its own, on ports that the system chose, with its data in `folder`.
struct Node {
    running: Running,
    socket: String,
    http: String,
    grpc: String,
}

impl Node {
    fn command(folder: &TempDir, settings: &[(&str, &str)]) -> Command {
        let mut command = oxipush(folder, &[]);
        for section in ["SOCKET", "HTTP", "GRPC"] {
            command.env(format!("OXIPUSH__{section}__LISTEN"), "127.0.0.1:0");
        }
        command.env("OXIPUSH__NODE__ID", "test").env("OXIPUSH__DRAIN__RECONNECT_JITTER", "0ms");
        command.envs(settings.iter().copied());
        command
    }

    /// Starts it and reads from its banner where it listens.
    fn start(folder: &TempDir, settings: &[(&str, &str)]) -> Self {
        Self::reading(Running::start(Self::command(folder, settings)))
    }

    fn reading(mut running: Running) -> Self {
        let mut at = |label: &str, scheme: &str| {
            let line = running.out_line(|line| line.trim_start().starts_with(label));
            let rest = line.split_once(scheme).unwrap().1;
            rest.split(['/', ' ']).next().unwrap().to_owned()
        };
        let (socket, http, grpc) = (at("clients", "ws://"), at("HTTP", "http://"), at("gRPC", "http://"));
        Self { running, socket, http, grpc }
    }

    fn ws(&self) -> String {
        format!("ws://{}/ws", self.socket)
    }

    fn grpc(&self) -> String {
        format!("http://{}", self.grpc)
    }

    /// SIGTERM, and its orderly end.
    fn stop(mut self) -> Vec<String> {
        self.running.signal(Signal::SIGTERM);
        let status = self.running.end();
        assert_eq!(status.code(), Some(0), "stderr: {:#?}", self.running.rest());
        self.running.rest().to_vec()
    }

    fn tail(&self, folder: &TempDir, arguments: &[&str]) -> Running {
        let url = self.ws();
        let mut tail = Running::start(oxipush(folder, &[&["tail", "--url", &url], arguments].concat()));
        tail.err_line(|line| line.contains("joined"));
        tail
    }

    fn push(&self, folder: &TempDir, arguments: &[&str]) -> Output {
        let url = self.grpc();
        run(folder, &[&["push", "--grpc", &url, "--timeout", "60s"], arguments].concat())
    }
}

/// The id that `push` printed.
fn id_of(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    text(&output.stdout).trim().to_owned()
}

// ---- arguments ----

#[test]
fn version_names_the_program_and_its_version() {
    let output = run(&folder(), &["--version"]);
    assert_eq!(text(&output.stdout), format!("oxipush {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn help_of_every_command_has_examples() {
    for command in [
        &["--help"][..],
        &["check-config", "--help"],
        &["health", "--help"],
        &["log", "--help"],
        &["log", "check", "--help"],
        &["log", "salvage", "--help"],
        &["push", "--help"],
        &["disconnect", "--help"],
        &["tail", "--help"],
        &["token", "--help"],
        &["completions", "--help"],
    ] {
        let output = run(&folder(), command);
        let help = text(&output.stdout);
        assert!(output.status.success() && help.contains("EXAMPLES"), "{command:?}: {output:?}");
        // columns made by hand must not be wrapped in a terminal of 80
        let narrow = oxipush(&folder(), command).env("COLUMNS", "80").output().unwrap();
        let columns = |help: &str| help[help.find("EXAMPLES").unwrap()..].to_owned();
        assert_eq!(columns(&text(&narrow.stdout)), columns(&help), "{command:?}");
    }
    let help = text(&run(&folder(), &["--help"]).stdout);
    for word in [
        "check-config",
        "push",
        "disconnect",
        "tail",
        "log",
        "completions",
        "EXIT CODES",
        "OXIPUSH__SECTION__KEY",
        "RUST_LOG",
        "config.ini",
    ] {
        assert!(help.contains(word), "--help does not tell of {word}");
    }
}

#[test]
fn help_never_shows_the_key_of_the_environment() {
    let output = oxipush(&folder(), &["push", "--help"]).env("OXIPUSH_KEY", "hunter2").output().unwrap();
    assert!(!text(&output.stdout).contains("hunter2"));
}

#[test]
fn every_shell_gets_its_completions() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = run(&folder(), &["completions", shell]);
        let script = text(&output.stdout);
        assert!(output.status.success() && script.contains("check-config") && script.contains("card"), "{shell}");
    }
}

#[test]
fn wrong_arguments_end_with_2() {
    for wrong in [
        &["nonsense"][..],
        &["push", "text"],
        &["tail"],
        &["push", "--to", "a", "--file", "f", "text"],
        &["log"],
        &["log", "salvage"],
        &["log", "check", "--to", "x"],
        &["disconnect"],
        &["disconnect", "--card", "a", "--sub", "b"],
        &["disconnect", "--card", "a", "--revoke"],
        &["--port", "1"],
    ] {
        assert_eq!(run(&folder(), wrong).status.code(), Some(2), "{wrong:?}");
    }
}

// ---- configuration ----

#[test]
fn check_config_prints_every_key_with_its_value() {
    let listing = text(&run(&folder(), &["check-config"]).stdout);
    for line in DEFAULTS.lines().filter(|line| !line.starts_with(';') && !line.is_empty()) {
        let shown = listing.lines().any(|other| other.trim() == line.trim());
        assert!(shown, "{line} is missing in:\n{listing}");
    }
}

#[test]
fn check_config_masks_keys_and_passwords() {
    let folder = folder();
    let file = "[auth]\nkeys = hunter2, hunter3\n[key.billing]\nsecret = hunter5\nscopes = push\n";
    fs::write(folder.path().join("config.ini"), file).unwrap();
    let mut command = oxipush(&folder, &["check-config"]);
    let more = [("OXIPUSH__CLUSTER__PASSWORD", "hunter4"), ("OXIPUSH__KEY_BILLING__CARDS", "user:*")];
    let output = command.envs(more).output().unwrap();
    let listing = text(&output.stdout);
    let billing = "\n[key.billing]\n; default: empty\nsecret = ***\nsecret_file = \nsha256 = \n; default: empty\nscopes = push\napps = \n\
                   ; default: empty\ncards = user:*\n";
    assert!(listing.contains(billing), "{listing}");
    assert!(!listing.contains("hunter"), "{listing}");
    assert!(listing.contains("keys = ***, ***") && listing.contains("password = ***"), "{listing}");
}

#[test]
fn check_config_tells_where_values_differ_from_the_defaults() {
    let folder = folder();
    fs::write(folder.path().join("config.ini"), "[socket]\nping_interval = 7s\n").unwrap();
    let listing = text(&run(&folder, &["check-config"]).stdout);
    assert!(listing.contains("; default: 25s\nping_interval = 7s"), "{listing}");
}

#[test]
fn check_config_tells_all_mistakes_at_once() {
    let folder = folder();
    fs::write(
        folder.path().join("config.ini"),
        "[socket]\nping_interval = soon\nlisten = here\n[queue]\nbackend = kafka\nprocesors = 3\n[nonsense]\na = b\n",
    )
    .unwrap();
    let output = oxipush(&folder, &["check-config"]).env("OXIPUSH__PUSH__MAX_CARDS", "-1").output().unwrap();
    assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(1), ""));
    let told = text(&output.stderr);
    for part in [
        "6 mistakes",
        "[socket] ping_interval",
        "[socket] listen",
        "[queue] backend",
        "kafka",
        "embedded",
        "procesors",
        "processors",
        "nonsense",
        "[push] max_cards",
    ] {
        assert!(told.contains(part), "{part} is missing in:\n{told}");
    }
}

#[test]
fn a_config_file_that_is_named_must_be_there() {
    let output = run(&folder(), &["--config", "absent.ini"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("absent.ini"), "{output:?}");
}

#[test]
fn what_cannot_be_read_as_a_configuration_is_told_in_words() {
    let folder = folder();
    fs::create_dir(folder.path().join("folder.ini")).unwrap();
    fs::write(folder.path().join("stray.ini"), "processors = 8\n[queue]\nsync = 5ms\n").unwrap();
    fs::write(folder.path().join("bounds.ini"), "[drain]\nreconnect_jitter = 2h\n[queue]\nmax_bytes = 0B\n").unwrap();
    fs::write(folder.path().join("open.ini"), "[queue\nprocessors = 8\n").unwrap();
    fs::write(folder.path().join("twice.ini"), "[queue]\ntopic = a\n\ntopic = b\n").unwrap();
    fs::write(folder.path().join("windows.ini"), "\u{feff}[queue]\r\nprocessors = 8\r\n").unwrap();
    for (file, told) in [
        ("folder.ini", "folder.ini cannot be read: Is a directory"),
        ("stray.ini", "processors: it stands in no section; write [section] above it"),
        ("bounds.ini", "[drain] reconnect_jitter: \"2h\" is not a time from 0s to 1h (say"),
        ("bounds.ini", "[queue] max_bytes: \"0B\" is not a size from 1MiB to 1048576GiB (say"),
        ("open.ini", "line 1: \"[queue\": the section's name has no ] at its end"),
        ("twice.ini", "[queue] topic: it stands there twice, in lines 2 and 4"),
    ] {
        let output = run(&folder, &["check-config", "--config", file]);
        assert_eq!(output.status.code(), Some(1), "{file}");
        let error = text(&output.stderr);
        assert!(error.contains(told), "{told} is missing in:\n{error}");
    }
    let listing = text(&run(&folder, &["check-config", "--config", "windows.ini"]).stdout);
    assert!(listing.lines().any(|line| line == "processors = 8"), "{listing}");
}

#[test]
fn an_environment_that_is_not_utf8_is_told_where_it_matters_and_passed_over_elsewhere() {
    use std::{ffi::OsStr, os::unix::ffi::OsStrExt};
    let bytes = OsStr::from_bytes(b"\xff");
    let output = oxipush(&folder(), &["check-config"]).env("SOMEBODYS", bytes).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    for (name, value, told) in [
        ("OXIPUSH__AUTH__KEYS", bytes, "OXIPUSH__AUTH__KEYS: its value is not UTF-8 text"),
        ("OXIPUSH__SYNC", OsStr::new("5ms"), "OXIPUSH__SYNC: it names no key; write OXIPUSH__SECTION__KEY"),
    ] {
        let output = oxipush(&folder(), &[]).env(name, value).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{name}");
        assert!(text(&output.stderr).contains(told), "{output:?}");
    }
}

#[test]
fn a_named_config_file_takes_the_place_of_the_one_here_and_the_environment_overrides_both() {
    let folder = folder();
    fs::write(folder.path().join("config.ini"), "[queue]\nprocessors = 7\n[outbox]\npolicy = conflate\n").unwrap();
    fs::write(folder.path().join("other.ini"), "[queue]\nprocessors = 8\ntopic = other\n").unwrap();
    let mut command = oxipush(&folder, &["check-config", "--config", "other.ini"]);
    let listing = text(&command.env("OXIPUSH__QUEUE__TOPIC", "mine").output().unwrap().stdout);
    for line in ["processors = 8", "topic = mine", "policy = disconnect"] {
        assert!(listing.lines().any(|other| other == line), "{line} is missing in:\n{listing}");
    }
}

#[test]
fn a_gateway_with_a_bad_configuration_does_not_start() {
    let folder = folder();
    let mut command = Node::command(&folder, &[("OXIPUSH__QUEUE__BACKEND", "kafka"), ("OXIPUSH__LOG__LEVEL", "loud")]);
    let output = command.output().unwrap();
    let told = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(told.contains("2 mistakes") && told.contains("[queue] backend") && told.contains("[log] level"), "{told}");
}

#[test]
fn an_api_beyond_loopback_needs_keys() {
    for section in ["HTTP", "GRPC"] {
        let listen = format!("OXIPUSH__{section}__LISTEN");
        let output = Node::command(&folder(), &[(&listen, "0.0.0.0:0")]).output().unwrap();
        let told = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{told}");
        assert!(told.contains("[auth] keys") && told.contains(&section.to_lowercase()), "{told}");
    }
}

#[test]
fn a_bad_rust_log_is_told_and_not_passed_over() {
    let output = Node::command(&folder(), &[("RUST_LOG", "oxipush=loudly")]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("RUST_LOG"), "{output:?}");
}

// ---- push and tail without a node ----

/// An address where nobody listens: the port is held and not listened on.
fn nowhere() -> (socket2::Socket, String) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap().to_string();
    (socket, address)
}

#[test]
fn push_says_when_no_node_answers() {
    let (_held, address) = nowhere();
    let output = run(&folder(), &["push", "--to", "a", "--grpc", &address, "text"]);
    assert_eq!(output.status.code(), Some(1));
    let told = text(&output.stderr);
    assert!(told.contains(&address) && told.contains("is it running"), "{told}");
}

#[test]
fn tail_says_when_no_node_answers() {
    let (_held, address) = nowhere();
    let output = run(&folder(), &["tail", "--card", "a", "--url", &format!("ws://{address}/ws")]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains(&address), "{output:?}");
}

#[test]
fn push_refuses_what_is_not_text_before_it_connects() {
    let folder = folder();
    fs::write(folder.path().join("binary"), [0x61, 0xff, 0x62]).unwrap();
    for (file, what) in [("binary", "not UTF-8"), ("absent", "cannot be read")] {
        let output = run(&folder, &["push", "--to", "a", "--file", file]);
        let told = text(&output.stderr);
        assert!(output.status.code() == Some(1) && told.contains(file) && told.contains(what), "{told}");
    }
}

#[test]
fn tls_is_declined_in_words() {
    for arguments in [
        &["push", "--to", "a", "--grpc", "https://127.0.0.1:1", "x"][..],
        &["tail", "--card", "a", "--url", "wss://127.0.0.1:1"],
    ] {
        let output = run(&folder(), arguments);
        assert!(output.status.code() == Some(1) && text(&output.stderr).contains("TLS"), "{output:?}");
    }
}

// ---- the gateway ----

#[test]
fn the_banner_says_where_it_listens_which_queue_it_has_and_what_to_type() {
    let folder = folder();
    let mut running = Running::start(Node::command(&folder, &[]));
    let mut banner = Vec::new();
    loop {
        let line = running.out_line(|_| true);
        let last = line.contains("Ctrl-C");
        banner.push(line);
        if last {
            break;
        }
    }
    let banner = banner.join("\n");
    for part in [
        "node test",
        "ws://127.0.0.1:",
        "http://127.0.0.1:",
        "embedded",
        "built-in defaults",
        "curl ",
        "oxipush push",
        "oxipush tail",
    ] {
        assert!(banner.contains(part), "{part} is missing in:\n{banner}");
    }
    assert!(!banner.contains(":0/") && !banner.contains(":0 "), "a port is not settled:\n{banner}");
}

#[test]
fn the_banner_names_the_variables_that_override_and_the_key_that_a_push_needs() {
    let folder = folder();
    let keys = [("OXIPUSH__AUTH__KEYS", "hunter2")];
    let mut running = Running::start(Node::command(&folder, &keys));
    let config = running.out_line(|line| line.trim_start().starts_with("config "));
    assert!(config.contains("built-in defaults") && config.contains("over them OXIPUSH__AUTH__KEYS, "), "{config}");
    assert!(config.contains("OXIPUSH__HTTP__LISTEN") && !config.contains("hunter2"), "{config}");
    running.out_line(|line| line.trim_start().starts_with("export OXIPUSH_KEY="));
    running.out_line(|line| line.trim_start().starts_with("oxipush push"));
    let listing = text(&oxipush(&folder, &["check-config"]).envs(keys).output().unwrap().stdout);
    assert!(listing.lines().next().unwrap().ends_with("over them OXIPUSH__AUTH__KEYS"), "{listing}");
}

#[test]
fn the_curl_line_of_the_banner_works() {
    let folder = folder();
    let mut running = Running::start(Node::command(&folder, &[]));
    let line = running.out_line(|line| line.trim_start().starts_with("curl "));
    let url = line.split_whitespace().nth(1).unwrap().to_owned();
    let body = line.split('\'').nth(1).unwrap().to_owned();
    let answer: Value = tokio::runtime::Runtime::new().unwrap().block_on(async {
        // as curl -d sends it
        let request =
            crate::support::http::client().post(url).header("content-type", "application/x-www-form-urlencoded");
        request.body(body).send().await.unwrap().json().await.unwrap()
    });
    assert_eq!(answer["code"], 0, "{answer}");
}

#[test]
fn sigterm_and_sigint_end_it_with_0() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let folder = folder();
        let mut node = Node::start(&folder, &[]);
        node.running.signal(signal);
        let status = node.running.end();
        assert_eq!(status.code(), Some(0), "{signal}: {:#?}", node.running.rest());
    }
}

#[test]
fn a_second_signal_ends_it_at_once() {
    for (second, code) in [(Signal::SIGTERM, 143), (Signal::SIGINT, 130)] {
        let folder = folder();
        // an orderly end would take 10 minutes
        let slow = [("OXIPUSH__DRAIN__GRACE", "10m"), ("OXIPUSH__NODE__SHUTDOWN_TIMEOUT", "20m")];
        let mut node = Node::start(&folder, &slow);
        node.running.signal(Signal::SIGTERM);
        node.running.err_line(|line| line.contains("second signal"));
        node.running.signal(second);
        assert_eq!(node.running.end().code(), Some(code));
    }
}

#[test]
fn a_port_that_is_taken_is_told_with_its_key() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for section in ["SOCKET", "HTTP", "GRPC"] {
        let output = Node::command(&folder(), &[(&format!("OXIPUSH__{section}__LISTEN"), &address)]).output().unwrap();
        let told = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{told}");
        assert!(told.contains(&format!("[{}] listen", section.to_lowercase())) && told.contains(&address), "{told}");
    }
}

#[test]
fn a_listener_that_cannot_be_had_is_told_with_its_own_remedy() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    for (address, told) in [
        (taken.local_addr().unwrap().to_string(), "another process listens there"),
        // of the documentation's network: no machine has it
        ("192.0.2.1:0".into(), "this machine has no such address"),
    ] {
        let settings = [("OXIPUSH__SOCKET__LISTEN", address.as_str()), ("OXIPUSH__SOCKET__ANONYMOUS", "true")];
        let output = Node::command(&folder(), &settings).output().unwrap();
        let error = text(&output.stderr);
        assert!(output.status.code() == Some(1) && error.contains(told) && error.contains(&address), "{error}");
    }
}

#[test]
fn a_data_folder_that_is_a_file_is_told_and_one_that_is_made_is_its_owners_alone() {
    use std::os::unix::fs::PermissionsExt;
    let folder = folder();
    fs::write(folder.path().join("file"), "").unwrap();
    for dir in ["file", "file/below"] {
        let output = Node::command(&folder, &[("OXIPUSH__DATA__DIR", dir)]).output().unwrap();
        let error = text(&output.stderr);
        assert!(output.status.code() == Some(1) && error.contains("file is a file: let [data] dir"), "{error}");
    }
    Node::start(&folder, &[]).stop();
    let mode = |path: &str| fs::metadata(folder.path().join(path)).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode("data"), 0o700);
    for file in ["log.0001", "log.lock"] {
        assert_eq!(mode(&format!("data/{file}")), 0o600, "{file}");
    }
    assert_eq!(fs::metadata(folder.path().join("data/log.0001")).unwrap().len(), 4 << 20);
}

#[test]
fn a_data_folder_of_an_earlier_version_is_refused_with_what_to_do() {
    let folder = folder();
    fs::create_dir(folder.path().join("data")).unwrap();
    fs::write(folder.path().join("data/queue.redb"), "redb").unwrap();
    let output = Node::command(&folder, &[]).output().unwrap();
    let told = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{told}");
    for part in ["data has the queue of an earlier version (queue.redb)", "oxipush_queue_records", "move the two away"]
    {
        assert!(told.contains(part), "{part} is missing in {told}");
    }
    assert_eq!(fs::read_dir(folder.path().join("data")).unwrap().count(), 1, "something was made there");
    // nothing is in these
    fs::remove_file(folder.path().join("data/queue.redb")).unwrap();
    fs::write(folder.path().join("data/queue.lock"), "pid 7\n").unwrap();
    fs::write(folder.path().join("data/queue.journal"), "").unwrap();
    Node::start(&folder, &[]).stop();
}

#[test]
fn a_second_process_on_one_data_folder_is_refused() {
    let folder = folder();
    let node = Node::start(&folder, &[]);
    let output = Node::command(&folder, &[]).output().unwrap();
    let told = text(&output.stderr);
    assert!(output.status.code() == Some(1) && told.contains("[queue]"), "{told}");
    node.stop();
}

/// Leaves unfinished pushes for alice in `folder`'s data folder.
fn leave(folder: &TempDir, contents: &[&str]) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(support::backlog::leave(&folder.path().join("data"), "alice", contents));
}

/// The files of the queue's log, and what lies beside them.
fn data_files(folder: &TempDir) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(folder.path().join("data")).unwrap();
    entries.map(|entry| entry.unwrap().path()).filter(|path| path.is_file())
}

/// Changes the file of the log in which `text` stands: `change` gets its bytes and where `text` begins.
fn damage(folder: &TempDir, text: &str, change: impl FnOnce(&mut Vec<u8>, usize)) -> String {
    for path in data_files(folder) {
        let mut bytes = fs::read(&path).unwrap();
        let found = bytes.windows(text.len()).position(|window| window == text.as_bytes());
        if let Some(at) = found {
            change(&mut bytes, at);
            fs::write(&path, bytes).unwrap();
            return path.file_name().unwrap().to_str().unwrap().to_owned();
        }
    }
    panic!("{text} is in no file of the log");
}

/// How many pushes the node counts as lost by now.
fn lost(node: &Node) -> u64 {
    let metrics = metrics(node);
    let value = metrics.lines().find_map(|line| line.strip_prefix("oxipush_drops_total{reason=\"lost\"} "));
    value.map_or(0, |value| value.parse().unwrap())
}

/// A node that finds a backlog, and hands it out once alice is there.
const SHORT_HOLD: (&str, &str) = ("OXIPUSH__QUEUE__REPLAY_HOLD", "2s");

/// Whether `text` stands anywhere in `folder`'s data folder.
fn holds(folder: &TempDir, text: &str) -> bool {
    data_files(folder).any(|path| {
        let bytes = fs::read(path).unwrap();
        bytes.windows(text.len()).any(|window| window == text.as_bytes())
    })
}

#[test]
fn what_was_delivered_is_overwritten_once_its_segment_is_done_and_at_an_orderly_stop() {
    let folder = folder();
    let node = Node::start(&folder, &[("OXIPUSH__DATA__SEGMENT_BYTES", "64KiB")]);
    id_of(&node.push(&folder, &["--to", "nobody", "early-content"]));
    assert!(holds(&folder, "early-content"));
    // until the segment is full, and the one behind it begun
    let filler = "f".repeat(20_000);
    let end = Instant::now() + DEADLINE;
    while holds(&folder, "early-content") {
        assert!(Instant::now() < end, "what was delivered is still there");
        id_of(&node.push(&folder, &["--to", "nobody", &filler]));
    }
    id_of(&node.push(&folder, &["--to", "nobody", "late-content"]));
    assert!(holds(&folder, "late-content"));
    node.stop();
    assert!(!holds(&folder, "late-content") && !holds(&folder, "ffff"));
}

#[test]
fn a_data_folder_that_is_deleted_under_a_node_is_noticed_before_it_accepts_more() {
    let folder = folder();
    let node = Node::start(&folder, &[]);
    id_of(&node.push(&folder, &["--to", "alice", "hello"]));
    fs::remove_dir_all(folder.path().join("data")).unwrap();
    let end = Instant::now() + DEADLINE;
    let told = loop {
        let output = node.push(&folder, &["--to", "alice", "hello"]);
        if !output.status.success() {
            break text(&output.stderr);
        }
        assert!(Instant::now() < end, "it goes on accepting");
    };
    assert!(told.contains("Unavailable") && told.contains("was deleted"), "{told}");
    let url = format!("http://{}/readyz", node.http);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let ready = runtime.block_on(async { crate::support::http::get(url).await.unwrap().text().await.unwrap() });
    assert!(ready.contains("was deleted"), "{ready}");
}

#[test]
fn a_held_backlog_has_a_line_in_the_log() {
    let folder = folder();
    leave(&folder, &["waits"]);
    let mut node = Node::start(&folder, &[("OXIPUSH__QUEUE__REPLAY_HOLD", "1h")]);
    node.running.err_line(|line| line.contains("pushes are held") && line.contains("time=3600s"));
    node.stop();
}

#[test]
fn a_torn_end_is_told_once_and_costs_nothing_that_was_whole() {
    let folder = folder();
    leave(&folder, &["first-push", "whole-push", "torn-push"]);
    // as if the machine had died while the last one was written
    damage(&folder, "torn-push", |bytes, at| {
        bytes[at + 3..at + 40].fill(0);
        bytes.iter_mut().skip(at + 40).for_each(|byte| *byte = 0);
    });
    let output = run(&folder, &["log", "check"]);
    let told = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{told}");
    assert!(told.contains("torn end: ") && told.contains("2 pushes of") && !told.contains("damage: "), "{told}");
    let mut node = Node::start(&folder, &[SHORT_HOLD]);
    node.running.err_line(|line| line.contains("the end of the log is torn"));
    let mut tail = node.tail(&folder, &["--card", "alice"]);
    for content in ["first-push", "whole-push"] {
        assert!(tail.out_line(|_| true).ends_with(content));
    }
    assert_eq!(lost(&node), 0);
    node.stop();
    let log = Node::start(&folder, &[]).stop().join("\n");
    assert!(!log.contains("torn"), "told again: {log}");
}

#[test]
fn a_damaged_push_is_told_counted_and_costs_no_other() {
    let folder = folder();
    leave(&folder, &["first-push", "second-push", "third-push"]);
    let file = damage(&folder, "second-push", |bytes, at| bytes[at] ^= 1);
    let output = run(&folder, &["log", "check"]);
    let told = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains(&format!("damage: data/{file}, byte ")) && told.contains("1 entry gone"), "{told}");
    assert!(told.contains("2 pushes of ") && told.contains("the log is damaged in 1 place;"), "{told}");

    let mut node = Node::start(&folder, &[SHORT_HOLD]);
    let line = node.running.err_line(|line| line.contains("a part of the log is damaged"));
    assert!(line.contains(&file) && line.contains("offset=") && line.contains("entries=1"), "{line}");
    let mut tail = node.tail(&folder, &["--card", "alice"]);
    for content in ["first-push", "third-push"] {
        let got = tail.out_line(|_| true);
        assert!(got.ends_with(content), "{got} is not {content}");
    }
    assert_eq!(lost(&node), 1);
    node.stop();
    let log = Node::start(&folder, &[]).stop().join("\n");
    assert!(!log.contains("damaged"), "told again: {log}");
}

#[test]
fn log_check_tells_what_waits_and_since_when_and_changes_nothing() {
    let folder = folder();
    leave(&folder, &["first-push", "second-push"]);
    let files = || {
        let read = |entry: fs::DirEntry| (entry.file_name(), fs::read(entry.path()).unwrap());
        let all = fs::read_dir(folder.path().join("data")).unwrap().map(|entry| read(entry.unwrap()));
        all.filter(|(name, _)| name != "log.lock").collect::<std::collections::BTreeMap<_, _>>()
    };
    let before = files();
    fs::write(folder.path().join("other.ini"), "[data]\ndir = data\n").unwrap();
    for arguments in
        [&["log", "check"][..], &["log", "check", "--data", "data"], &["log", "check", "--config", "other.ini"]]
    {
        let output = run(&folder, arguments);
        let told = text(&output.stdout);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let lines: Vec<_> = told.lines().collect();
        assert!(lines[0].starts_with("FILE") && lines[1].starts_with("data/log.0001 "), "{told}");
        let waiting = lines.iter().find(|line| line.starts_with("2 pushes of ")).unwrap();
        assert!(waiting.contains(" wait unfinished, accepted from 20") && waiting.contains("Z to 20"), "{told}");
        assert_eq!(lines.last(), Some(&"the log is whole"), "{told}");
    }
    assert!(before == files(), "the log was changed");
}

#[test]
fn log_check_names_who_uses_the_folder_and_says_where_there_is_no_log() {
    let folder = folder();
    let node = Node::start(&folder, &[]);
    let output = run(&folder, &["log", "check"]);
    let told = text(&output.stderr);
    let pid = format!("pid {}", node.running.child.id());
    assert!(output.status.code() == Some(1) && told.contains("in use") && told.contains(&pid), "{told}");
    node.stop();
    fs::create_dir(folder.path().join("empty")).unwrap();
    for (dir, told) in [("empty", "there is no log in empty"), ("absent", "absent cannot be read")] {
        let output = run(&folder, &["log", "check", "--data", dir]);
        assert!(output.status.code() == Some(1) && text(&output.stderr).contains(told), "{output:?}");
    }
    assert!(!folder.path().join("absent").exists(), "looking made it");
    assert_eq!(fs::read_dir(folder.path().join("empty")).unwrap().count(), 0, "looking made something");
}

#[test]
fn log_salvage_copies_what_is_whole_into_a_log_that_a_node_delivers() {
    let folder = folder();
    leave(&folder, &["first-push", "second-push", "third-push"]);
    damage(&folder, "second-push", |bytes, at| bytes[at] ^= 1);
    let before = fs::read(folder.path().join("data/log.0001")).unwrap();
    let output = run(&folder, &["log", "salvage", "--to", "new"]);
    let told = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    for part in [" were written to new\n", "2 pushes of ", "damage: data/log.0001, byte ", "mv new data"] {
        assert!(told.contains(part), "{part} is missing in {told}");
    }
    assert!(before == fs::read(folder.path().join("data/log.0001")).unwrap(), "the damaged log was changed");
    let check = run(&folder, &["log", "check", "--data", "new"]);
    assert_eq!(check.status.code(), Some(0), "{check:?}");
    assert!(
        text(&check.stdout).contains("gap: new/log.0001") && text(&check.stdout).contains("told before"),
        "{check:?}"
    );
    let again = run(&folder, &["log", "salvage", "--to", "new"]);
    assert!(again.status.code() == Some(1) && text(&again.stderr).contains("new is not empty"), "{again:?}");

    let node = Node::start(&folder, &[SHORT_HOLD, ("OXIPUSH__DATA__DIR", "new")]);
    let mut tail = node.tail(&folder, &["--card", "alice"]);
    for content in ["first-push", "third-push"] {
        assert!(tail.out_line(|_| true).ends_with(content));
    }
    let log = node.stop().join("\n");
    assert!(!log.contains("damaged"), "{log}");
}

#[test]
fn a_file_too_many_in_the_data_folder_is_refused_and_salvage_goes_on_without_it() {
    let folder = folder();
    leave(&folder, &["first-push"]);
    let data = folder.path().join("data");
    fs::copy(data.join("log.0001"), data.join("log.0099")).unwrap();
    let start = Node::command(&folder, &[]).output().unwrap();
    for output in [start, run(&folder, &["log", "check"])] {
        let told = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{told}");
        for part in ["data/log.0001", "data/log.0099", "hold the same segment", "`oxipush log salvage`"] {
            assert!(told.contains(part), "{part} is missing in {told}");
        }
    }
    let output = run(&folder, &["log", "salvage", "--to", "new"]);
    assert!(output.status.success() && text(&output.stdout).contains("1 push of "), "{output:?}");
    let check = run(&folder, &["log", "check", "--data", "new"]);
    assert!(check.status.success() && text(&check.stdout).contains("1 push of "), "{check:?}");
}

#[test]
fn a_drain_says_what_it_does_as_it_does_it_and_that_it_is_done() {
    let folder = folder();
    let lines = ["serves on for [drain] grace", "takes no new pushes", "the node has stopped"];
    let node = Node::start(&folder, &[("OXIPUSH__DRAIN__GRACE", "50ms")]);
    let told = node.stop();
    let places: Vec<_> = lines.iter().map(|part| told.iter().position(|line| line.contains(part))).collect();
    assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{told:#?}");
    // without grace nothing is served on
    let told = Node::start(&folder, &[]).stop();
    assert!(!told.iter().any(|line| line.contains(lines[0])) && told.last().unwrap().contains(lines[2]), "{told:#?}");
}

#[test]
fn tail_with_a_device_prints_what_waited_and_acknowledges_it() {
    let folder = folder();
    let node = Node::start(&folder, &[]);
    for content in ["first", "second"] {
        id_of(&node.push(&folder, &["--to", "alice", "--offline", content]));
    }
    let mut tail = node.tail(&folder, &["--card", "alice", "--device", "laptop"]);
    for end in ["\tfirst\t1", "\tsecond\t2"] {
        let got = tail.out_line(|_| true);
        assert!(got.ends_with(end), "{got:?} is not {end:?}");
    }
    // it says what it printed before it leaves
    tail.signal(Signal::SIGINT);
    assert_eq!(tail.end().code(), Some(0));
    let mut tail = node.tail(&folder, &["--card", "alice", "--device", "laptop"]);
    id_of(&node.push(&folder, &["--to", "alice", "--offline", "third"]));
    let got = tail.out_line(|_| true);
    assert!(got.ends_with("\tthird\t3"), "{got:?}");
    drop(tail);
    node.stop();
}

#[test]
fn what_is_pushed_from_argument_file_and_stdin_is_what_tail_prints() {
    let folder = folder();
    let node = Node::start(&folder, &[]);
    let mut tail = node.tail(&folder, &["--card", "alice"]);

    let id = id_of(&node.push(&folder, &["--to", "alice", "--from", "me", "hello ü"]));
    assert_eq!(tail.out_line(|_| true), format!("{id}\tme\thello ü"));

    fs::write(folder.path().join("content"), "two\nlines\x1b[31m").unwrap();
    let id = id_of(&node.push(&folder, &["--to", "alice", "--file", "content"]));
    assert_eq!(tail.out_line(|_| true), format!("{id}\t\ttwo\\nlines\\u{{1b}}[31m"));

    let url = node.grpc();
    let mut push = oxipush(&folder, &["push", "--to", "alice", "--grpc", &url, "--timeout", "60s"]);
    let mut push = push.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    push.stdin.take().unwrap().write_all(b"from stdin").unwrap();
    let id = id_of(&push.wait_with_output().unwrap());
    assert_eq!(tail.out_line(|_| true), format!("{id}\t\tfrom stdin"));

    tail.signal(Signal::SIGINT);
    assert_eq!(tail.end().code(), Some(0));
    node.stop();
}

#[test]
fn a_disconnect_ends_who_tails_and_says_so() {
    let folder = folder();
    let node = Node::start(&folder, &[]);
    let mut tail = node.tail(&folder, &["--card", "alice"]);
    let url = node.grpc();
    let disconnect =
        |arguments: &[&str]| run(&folder, &[&["disconnect", "--grpc", &url, "--timeout", "60s"], arguments].concat());
    assert_eq!(id_of(&disconnect(&["--card", "alice", "--reason", "signed out"])).len(), 26);
    tail.err_line(|line| line.contains("3504 (signed out)"));
    assert_eq!(tail.end().code(), Some(1));
    let refused = disconnect(&["--card", "alice", "--code", "3000"]);
    let told = text(&refused.stderr);
    assert!(refused.status.code() == Some(1) && told.contains("`code` is 3000; it may be"), "{told}");
    node.stop();
}

#[test]
fn tail_as_an_app_sees_that_apps_pushes_only_and_json_is_json() {
    let folder = folder();
    let node = Node::start(&folder, &[]);
    let mut tail = node.tail(&folder, &["--card", "alice", "--app", "web", "--json"]);
    id_of(&node.push(&folder, &["--to", "alice", "--app", "phone", "not for the web"]));
    let id = id_of(&node.push(&folder, &["--to", "bob", "--to", "alice", "--app", "web", "a \"web\" push"]));
    let push: Value = serde_json::from_str(&tail.out_line(|_| true)).unwrap();
    assert_eq!((push["id"].as_str(), push["content"].as_str()), (Some(id.as_str()), Some("a \"web\" push")));
    node.stop();
}

#[test]
fn a_refused_push_says_why_and_ends_with_1() {
    let folder = folder();
    let node = Node::start(&folder, &[("OXIPUSH__PUSH__MAX_NAME", "8B")]);
    let output = node.push(&folder, &["--to", "a-card-with-a-long-name", "x"]);
    let told = text(&output.stderr);
    assert!(output.status.code() == Some(1) && told.contains("InvalidArgument"), "{told}");
    node.stop();
}

#[test]
fn a_push_waits_for_who_is_away_and_its_retry_is_the_same_push() {
    let folder = folder();
    let node = Node::start(&folder, &[]);
    let arguments = ["--to", "alice", "--offline", "--ttl", "3600", "--idempotency-key", "order-17", "paid"];
    let id = id_of(&node.push(&folder, &arguments));
    assert_eq!(id_of(&node.push(&folder, &arguments)), id);
    let other = node.push(&folder, &["--to", "alice", "--idempotency-key", "order-17", "x"]);
    let told = text(&other.stderr);
    assert!(other.status.code() == Some(1) && told.contains("another push was made under this"), "{told}");
    let zero = node.push(&folder, &["--to", "alice", "--ttl", "0", "x"]);
    assert_eq!(zero.status.code(), Some(2), "{zero:?}");
    let mut tail = node.tail(&folder, &["--card", "alice"]);
    tail.out_line(|line| line.contains(&id));
    node.stop();
}

#[test]
fn a_node_with_keys_wants_one() {
    let folder = folder();
    let node = Node::start(&folder, &[("OXIPUSH__AUTH__KEYS", "first,second")]);
    for key in ["", "wrong"] {
        let output = node.push(&folder, &["--to", "a", "--key", key, "x"]);
        let told = text(&output.stderr);
        assert!(output.status.code() == Some(1) && told.contains("OXIPUSH_KEY"), "{key:?}: {told}");
    }
    let url = node.grpc();
    let mut push = oxipush(&folder, &["push", "--to", "a", "--grpc", &url, "--timeout", "60s", "x"]);
    id_of(&push.env("OXIPUSH_KEY", "second").output().unwrap());
    let log = node.stop().join("\n");
    assert!(!log.contains("second,") && !log.contains("wrong"), "a key stands in the log:\n{log}");
}

#[test]
fn push_tells_what_its_key_does_not_admit() {
    let folder = folder();
    let keys = [
        ("OXIPUSH__KEY_CARDS__SECRET", "one"),
        ("OXIPUSH__KEY_CARDS__SCOPES", "push"),
        ("OXIPUSH__KEY_CARDS__CARDS", "alice"),
        ("OXIPUSH__KEY_OPS__SECRET", "two"),
        ("OXIPUSH__KEY_OPS__SCOPES", "metrics"),
    ];
    let node = Node::start(&folder, &keys);
    let told = |key: &str, to: &str| text(&node.push(&folder, &["--to", to, "--key", key, "x"]).stderr);
    assert_eq!(told("one", "alice"), "");
    let of_card = told("one", "bob");
    assert!(
        of_card.contains("PermissionDenied") && of_card.contains("`bob` is not among its cards ([key.cards] cards)"),
        "{of_card}"
    );
    let of_scope = told("two", "alice");
    assert!(of_scope.contains("the key ops has not the scope push: add it to [key.ops] scopes"), "{of_scope}");
    node.stop();
}

#[test]
fn tail_says_why_it_was_refused_and_does_not_come_back() {
    let folder = folder();
    let node = Node::start(&folder, &[("OXIPUSH__PUSH__MAX_NAME", "8B")]);
    let output = run(&folder, &["tail", "--card", "a-card-with-a-long-name", "--url", &node.ws()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("bad_name"), "{output:?}");
    node.stop();
}

#[test]
fn tail_comes_back_after_a_restart() {
    let folder = folder();
    let (first, port) = node_on_a_port(&folder);
    let mut tail = first.tail(&folder, &["--card", "alice"]);
    first.stop();
    let told = tail.err_line(|line| line.contains("joining again"));
    assert!(told.contains("3000"), "{told}");
    let second = Node::start(&folder, &[("OXIPUSH__SOCKET__LISTEN", &port)]);
    tail.err_line(|line| line.contains("joined"));
    let id = id_of(&second.push(&folder, &["--to", "alice", "again"]));
    assert_eq!(tail.out_line(|_| true), format!("{id}\t\tagain"));
    second.stop();
}

/// A node whose clients' port is outside of what the system gives to others meanwhile.
fn node_on_a_port(folder: &TempDir) -> (Node, String) {
    for _ in 0..100 {
        let address = format!("127.0.0.1:{}", fastrand::u16(12_000..30_000));
        if TcpListener::bind(&address).is_ok() {
            return (Node::start(folder, &[("OXIPUSH__SOCKET__LISTEN", &address)]), address);
        }
    }
    panic!("no free port was found");
}

// ---- the log ----

/// Some of everything: a push by each way, a bad one, a client.
fn traffic(node: &Node, folder: &TempDir, content: &str) {
    let mut tail = node.tail(folder, &["--card", "alice"]);
    id_of(&node.push(folder, &["--to", "alice", content]));
    assert!(tail.out_line(|_| true).contains(content));
    let body = format!(r#"{{"from":"","to":["alice","nobody"],"appID":"","content":"{content}"}}"#);
    let (url, broken) = (format!("http://{}/push", node.http), format!(r#"{{"content":"{content}","to":"#));
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let client = crate::support::http::client();
        for body in [body, broken] {
            client.post(&url).header("content-type", "application/json").body(body).send().await.unwrap();
        }
    });
    assert!(tail.out_line(|_| true).contains(content));
}

#[test]
fn contents_are_never_logged() {
    let folder = folder();
    let node = Node::start(&folder, &[("RUST_LOG", "trace")]);
    let content = "c0ntent-that-must-not-be-logged";
    traffic(&node, &folder, content);
    let log = node.stop();
    assert!(!log.is_empty());
    let leak = log.iter().find(|line| line.contains(content));
    assert!(leak.is_none(), "{leak:?}");
}

#[test]
fn json_logs_are_json_line_for_line() {
    let folder = folder();
    let settings = [("OXIPUSH__LOG__FORMAT", "json"), ("RUST_LOG", "debug")];
    let mut running = Running::start(Node::command(&folder, &settings));
    let serving: Value = serde_json::from_str(&running.err_line(|line| line.contains("\"serving\""))).unwrap();
    for field in ["socket", "http", "grpc", "queue", "node"] {
        assert!(serving[field].as_str().is_some_and(|value| !value.is_empty()), "{field}: {serving}");
    }
    running.signal(Signal::SIGTERM);
    assert_eq!(running.end().code(), Some(0));
    for line in running.rest() {
        let object: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        for field in ["timestamp", "level", "target", "message"] {
            assert!(object[field].is_string(), "{field} is missing: {line}");
        }
    }
    assert!(
        matches!(running.out.recv_timeout(DEADLINE), Err(RecvTimeoutError::Disconnected)),
        "a banner among JSON lines"
    );
}

#[test]
fn rust_log_overrides_the_configured_level() {
    let log = |settings: &[(&str, &str)]| Node::start(&folder(), settings).stop().join("\n");
    let stopping = "stopping: finishing";
    assert!(log(&[]).contains(stopping), "info is the default");
    assert!(!log(&[("RUST_LOG", "error")]).contains(stopping));
    assert!(!log(&[("OXIPUSH__LOG__LEVEL", "error")]).contains(stopping));
    assert!(log(&[("OXIPUSH__LOG__LEVEL", "error"), ("RUST_LOG", "oxipush=info")]).contains(stopping));
}

#[test]
fn a_log_that_is_not_a_terminal_has_no_colours() {
    let log = Node::start(&folder(), &[]).stop().join("\n");
    assert!(!log.is_empty() && !log.contains('\x1b'), "{log}");
}

#[test]
fn strangers_cannot_fill_the_log() {
    let folder = folder();
    let node = Node::start(&folder, &[]);
    for _ in 0..20 {
        let mut stranger = std::net::TcpStream::connect(&node.http).unwrap();
        stranger.set_read_timeout(Some(DEADLINE)).unwrap();
        stranger.write_all(b"\0rubbish\r\n\r\n").unwrap();
        let mut answer = [0; 12];
        stranger.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"HTTP/1.1 400");
    }
    let log = node.stop();
    let lines: Vec<_> = log.iter().filter(|line| line.contains("rubbish") || line.contains("actix")).collect();
    assert!(lines.is_empty(), "{lines:?}");
}

/// What `/metrics` says now.
fn metrics(node: &Node) -> String {
    let url = format!("http://{}/metrics", node.http);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async { crate::support::http::get(url).await.unwrap().text().await.unwrap() })
}

/// The value of one of the log's counters; it is waited for.
fn dropped_lines(node: &Node, reason: &str) {
    let sample = format!("oxipush_log_lines_dropped_total{{reason=\"{reason}\"}} ");
    let end = Instant::now() + DEADLINE;
    loop {
        let text = metrics(node);
        if text.lines().any(|line| line.strip_prefix(&sample).is_some_and(|value| value != "0")) {
            return;
        }
        assert!(Instant::now() < end, "no line was counted as {reason}:\n{text}");
        thread::sleep(Duration::from_millis(50));
    }
}

/// A log with a line for each stage of each push, where `bytes` of it may wait.
fn chatty(folder: &TempDir) -> Command {
    Node::command(folder, &[("RUST_LOG", "oxipush=trace"), ("OXIPUSH__LOG__BUFFER", "1KiB")])
}

#[test]
fn a_log_that_cannot_be_written_ends_nothing() {
    let full = || Stdio::from(fs::OpenOptions::new().write(true).open("/dev/full").unwrap());
    let unread = || Stdio::from(std::io::pipe().unwrap().1);
    for log in [full(), unread()] {
        let folder = folder();
        let mut node = Node::reading(Running::with_log(chatty(&folder), log));
        traffic(&node, &folder, "hello");
        dropped_lines(&node, "failed");
        traffic(&node, &folder, "hello again");
        node.running.signal(Signal::SIGTERM);
        assert_eq!(node.running.end().code(), Some(0));
    }
}

/// A pipe that has no more room.
fn full_pipe() -> (std::io::PipeReader, Stdio) {
    let (reader, mut writer) = std::io::pipe().unwrap();
    writer.write_all(&[b'\n'; 65_536]).unwrap();
    (reader, writer.into())
}

#[test]
fn a_log_that_nobody_reads_stops_nothing_and_what_was_lost_is_told_once_it_is_read() {
    let folder = folder();
    let (reader, log) = full_pipe();
    let mut node = Node::reading(Running::with_log(chatty(&folder), log));
    for _ in 0..3 {
        traffic(&node, &folder, "hello");
    }
    dropped_lines(&node, "full");
    let log = lines(reader);
    let told = loop {
        let line = log.recv_timeout(DEADLINE).unwrap();
        if line.contains("lines of the log were lost") {
            break line;
        }
    };
    assert!(told.contains("lines="), "{told}");
    node.running.signal(Signal::SIGTERM);
    assert_eq!(node.running.end().code(), Some(0));
}

#[test]
fn a_node_whose_output_nobody_reads_starts_and_stops() {
    let folder = folder();
    let ((_out, stdout), (_err, stderr)) = (full_pipe(), full_pipe());
    let http = support::process::free().to_string();
    let mut command = Node::command(&folder, &[("OXIPUSH__HTTP__LISTEN", &http)]);
    let child = command.stdout(stdout).stderr(stderr).spawn().unwrap();
    let mut running = Running { child, out: channel().1, err: channel().1, seen: Vec::new() };
    let end = Instant::now() + DEADLINE;
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        while !crate::support::http::get(format!("http://{http}/readyz"))
            .await
            .is_ok_and(|answer| answer.status() == 200)
        {
            assert!(Instant::now() < end, "it does not get ready");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    running.signal(Signal::SIGTERM);
    assert_eq!(running.end().code(), Some(0));
}

#[test]
fn what_outsiders_cause_again_and_again_is_written_once_counted_and_told() {
    let folder = folder();
    let settings = [
        ("OXIPUSH__LOG__MAX_REPEATS", "1"),
        ("OXIPUSH__LOG__REPEAT_PERIOD", "1s"),
        ("OXIPUSH__GRPC__MAX_CONNECTIONS", "1"),
    ];
    let mut node = Node::start(&folder, &settings);
    let line = "[grpc] max_connections are open";
    // each takes the only place once the one before is gone, which is a line each time
    for _ in 0..10 {
        drop(std::net::TcpStream::connect(&node.grpc).unwrap());
    }
    dropped_lines(&node, "repeated");
    let told = node.running.err_line(|line| line.contains("more lines of this place were not shown"));
    assert!(told.contains("oxipush::ingress::grpc::incoming:") && told.contains("more="), "{told}");
    let log = node.stop();
    let shown = log.iter().filter(|other| other.contains(line)).count();
    assert!((1..10).contains(&shown), "{log:#?}");
}

#[test]
fn trace_has_a_line_for_each_stage_of_a_push_and_debug_has_none() {
    for (level, stages) in [("trace", 6), ("debug", 0)] {
        let folder = folder();
        let node = Node::start(&folder, &[("OXIPUSH__LOG__LEVEL", level)]);
        let mut tail = node.tail(&folder, &["--card", "alice"]);
        let id = id_of(&node.push(&folder, &["--to", "alice", "hello"]));
        tail.out_line(|line| line.contains(&id));
        let log = node.stop();
        let lines: Vec<_> = log.iter().filter(|line| line.contains(&id)).collect();
        assert_eq!(lines.len(), stages, "{level}: {lines:#?}");
    }
}

// ---- the files that a release carries ----

#[test]
fn the_example_configuration_is_the_one_compiled_in() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    assert_eq!(fs::read_to_string(root.join("config.ini")).unwrap(), DEFAULTS);
    let output = run(&folder(), &["check-config", "--config", root.join("config.ini").to_str().unwrap()]);
    assert!(output.status.success() && !text(&output.stdout).contains("; default:"), "{output:?}");
}
