//! What each signal does, to a process with the id 1 and to one whose terminal is closed too.

use std::{
    fs,
    io::Write as _,
    process::{Command, Stdio},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    program::{Place, Program, until},
    support::client::Client,
};

/// Runs its arguments in a terminal, and closes that when its own input ends; then waits and ends with the program's code.
const IN_A_TERMINAL: &str = r#"
import os, pty, sys
pid, terminal = pty.fork()
if pid == 0:
    log = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 2)
    os.execvp(sys.argv[2], sys.argv[2:])
with open(sys.argv[1] + ".pid", "w") as file:
    file.write(str(pid))
os.rename(sys.argv[1] + ".pid", sys.argv[1] + "-pid")
sys.stdin.read()
os.close(terminal)
_, status = os.waitpid(pid, 0)
sys.exit(os.waitstatus_to_exitcode(status) & 255)
"#;

/// The program in a terminal, started by `words` before its own (`nohup`): its starter, and its own id.
async fn in_a_terminal(words: &[&str]) -> (Program, Pid) {
    let place = Place::new("");
    let log = place.folder.path().join("terminal").to_str().unwrap().to_owned();
    let mut command = place.command(&[&["python3", "-c", IN_A_TERMINAL, &log], words].concat());
    command.stdin(Stdio::piped());
    let program = place.start(&mut command);
    program.ready().await;
    let id = fs::read_to_string(format!("{log}-pid")).unwrap().parse().unwrap();
    (program, Pid::from_raw(id))
}

fn close_terminal(program: &mut Program) {
    drop(program.child.stdin.take());
}

fn terminal_log(program: &Program) -> String {
    fs::read_to_string(program.folder.path().join("terminal")).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hangup_in_a_terminal_that_is_open_is_a_reload_and_a_closed_one_is_a_drain() {
    let (mut program, id) = in_a_terminal(&[]).await;
    let mut tab = Client::modern(&program.ws(), "alice", "").await;
    kill(id, Signal::SIGHUP).unwrap();
    until("the reload", || async { program.metric("oxipush_reloads_total", &[]).await == 1.0 }).await;
    tab.silent().await;

    close_terminal(&mut program);
    assert_eq!(tab.close_code().await, 3000);
    drop(tab);
    assert_eq!(program.ended().await, Some(0), "an orderly end");
    assert!(terminal_log(&program).contains("SIGHUP"), "{}", terminal_log(&program));
}

#[tokio::test(flavor = "multi_thread")]
async fn under_nohup_a_closed_terminal_ends_nothing_and_a_hangup_is_still_a_reload() {
    let (mut program, id) = in_a_terminal(&["nohup"]).await;
    close_terminal(&mut program);
    kill(id, Signal::SIGHUP).unwrap();
    until("the reload", || async { program.metric("oxipush_reloads_total", &[]).await >= 1.0 }).await;
    kill(id, Signal::SIGTERM).unwrap();
    assert_eq!(program.ended().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn each_signal_that_stops_is_a_drain() {
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT] {
        let mut program = Program::start("").await;
        let mut tab = Client::modern(&program.ws(), "alice", "").await;
        program.signal(signal);
        assert_eq!(tab.close_code().await, 3000, "{signal}");
        drop(tab);
        assert_eq!(program.ended().await, Some(0), "{signal}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hangup_ends_no_drain_and_a_second_stop_does() {
    let mut program = Program::start("[drain]\ngrace = 20s\n").await;
    program.signal(Signal::SIGTERM);
    program.logged("stopping").await;
    program.signal(Signal::SIGHUP);
    program.logged("the node drains already").await;
    program.signal(Signal::SIGQUIT);
    assert_eq!(program.ended().await, Some(131));
}

#[tokio::test(flavor = "multi_thread")]
async fn as_process_1_of_a_container_it_reloads_and_drains() {
    let unshare = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child"];
    let possible = Command::new(unshare[0]).args(&unshare[1..]).arg("true").stderr(Stdio::null()).status();
    if !possible.is_ok_and(|status| status.success()) {
        let _ = writeln!(std::io::stderr(), "skipped: this system gives no namespace of processes");
        return;
    }
    let place = Place::new("");
    let mut command = place.command(&unshare);
    let mut program = place.start(&mut command);
    program.ready().await;
    let mut tab = Client::modern(&program.ws(), "alice", "").await;
    let starter = program.child.id();
    let children = fs::read_to_string(format!("/proc/{starter}/task/{starter}/children")).unwrap();
    let first = Pid::from_raw(children.trim().parse().unwrap());
    let status = fs::read_to_string(format!("/proc/{first}/status")).unwrap();
    let ids = status.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap();
    assert!(ids.trim().ends_with("\t1"), "it has the id 1 there: {ids}");

    kill(first, Signal::SIGHUP).unwrap();
    until("the reload", || async { program.metric("oxipush_reloads_total", &[]).await == 1.0 }).await;
    tab.silent().await;
    kill(first, Signal::SIGTERM).unwrap();
    assert_eq!(tab.close_code().await, 3000);
    drop(tab);
    assert_eq!(program.ended().await, Some(0));
}
