//! pushbench: a load generator for push servers.
//!
//! One run is one [`scenario`]: connections are opened and joined ([`receive`]), pushes are sent ([`push`]) at the pace
//! that [`pace`] sets, every connection's deliveries are counted against what it is owed ([`ledger`]), the server's CPU
//! and memory are read from /proc ([`process`]), and a [`report`] comes out. [`limit`] runs the same scenario on a bare
//! epoll server ([`bare`]), so that a figure can be told as a ratio to what the kernel allows.

mod address;
mod bare;
mod cli;
mod files;
mod frame;
mod fsync;
mod gateway;
mod http;
mod layout;
mod ledger;
mod limit;
mod marker;
mod pace;
mod place;
mod plot;
mod process;
mod profile;
mod push;
mod receive;
mod report;
mod resume;
mod scenario;
mod shared;
mod stored;
mod timer;

use std::process::ExitCode;

use clap::Parser;

/// Errors end the run and are shown to a person, so their type is a text.
type Result<T, E = Box<dyn std::error::Error + Send + Sync>> = std::result::Result<T, E>;

/// What protox and prost made of proto/rpc.proto.
#[allow(missing_docs, unreachable_pub, clippy::all)]
mod proto {
    tonic::include_proto!("proto");
}

fn main() -> ExitCode {
    match run(cli::Cli::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("pushbench: {error}");
            ExitCode::from(2)
        }
    }
}

/// Whether all that was checked held.
fn run(cli: cli::Cli) -> Result<bool> {
    match cli.command {
        cli::Command::Limit(args) => limit::run(&args),
        cli::Command::Fsync(args) => fsync::run(&args),
        cli::Command::Bare(args) => bare::run(&args),
        cli::Command::Stored(args) => stored::run(&args),
        cli::Command::Resume(args) => resume::run(&args),
        cli::Command::Scenario(scenario) => {
            let (kind, load) = scenario.into_parts();
            let report = scenario::run(kind, &load)?;
            report.publish(&load)?;
            Ok(!load.check || report.complaints().is_empty())
        }
    }
}
