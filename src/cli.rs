//! The command line: what can be typed, and which command it is.

mod check;
mod disconnect;
mod events;
mod health;
mod log;
mod node;
mod push;
mod serve;
mod signals;
mod tail;
mod token;

use std::{
    fmt::Display,
    io::{self, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Args, CommandFactory, Parser, Subcommand};

const ABOUT: &str = "A push gateway: HTTP, gRPC or NSQ in, WebSocket out";

const LONG_ABOUT: &str = "\
A push gateway. Back ends hand it pushes over HTTP, gRPC or NSQ; a durable queue (its own, or nsqd) holds them; browsers and \
apps that joined as a card get them over WebSocket.

Without a command it runs the gateway, until SIGTERM or Ctrl-C: then it takes no more pushes, finishes those in flight, tells \
its clients to come back elsewhere and ends with code 0. A second signal ends it at once. SIGHUP has the configuration read again.";

const AFTER_HELP: &str = "\
EXAMPLES
  oxipush                             run, with ./config.ini if there is one
  oxipush --config /etc/oxipush/config.ini
                                      run, with what that file says
  OXIPUSH__HTTP__LISTEN=127.0.0.1:9081 oxipush
                                      any key of config.ini can be set so
  oxipush check-config                what would be used, or every mistake
  oxipush tail --card alice           join as alice and print what arrives
  oxipush push --to alice hello       push to alice
  oxipush token --card alice          a token for the card alice
  oxipush disconnect --card alice     end alice's connections
  oxipush events                      what clients say and do, as it happens
  oxipush log check                   what is in the data folder
  oxipush health                      is this machine's node ready?
  oxipush completions bash > /etc/bash_completion.d/oxipush

FILES
  config.ini  read from the working directory unless --config names another;
              it needs only what differs from the defaults in the program
  data/       the log of the embedded queue ([data] dir); data/events has
              clients' messages for the back end

ENVIRONMENT
  OXIPUSH__SECTION__KEY
              overrides a key of config.ini: OXIPUSH__QUEUE__BACKEND=nsq
  OXIPUSH_KEY the key for `push`, `disconnect` and `events`
  RUST_LOG    overrides [log] level: RUST_LOG=warn,oxipush::cluster=debug
  NO_COLOR    no colours in the log

EXIT CODES
  0           orderly end
  1           it could not start, a part of it died, or a command failed
  2           wrong arguments
  130, 131, 143
              ended at once by a second SIGINT, SIGQUIT, SIGTERM

docs/operations.md explains every key and metric, docs/errors.md every answer,
docs/close-codes.md every close code.";

#[derive(Parser)]
#[command(name = "oxipush", version, about = ABOUT, long_about = LONG_ABOUT, after_long_help = AFTER_HELP)]
#[command(after_help = "`oxipush --help` shows examples, files and exit codes.", max_term_width = 120)]
#[command(args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(flatten)]
    source: ConfigSource,
    #[command(subcommand)]
    command: Option<CliCommand>,
}

/// Where the configuration comes from.
#[derive(Args)]
struct ConfigSource {
    /// The configuration file; default: config.ini in the working directory, if there is one
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl ConfigSource {
    /// The file that is read, if any.
    fn file(&self) -> Option<&Path> {
        let local = Path::new("config.ini");
        self.config.as_deref().or_else(|| local.is_file().then_some(local))
    }
}

#[derive(Subcommand)]
enum CliCommand {
    /// Print the configuration that would be used, secrets masked, or every mistake in it
    #[command(visible_alias = "check", long_about = check::LONG_ABOUT, after_long_help = check::AFTER_HELP)]
    CheckConfig(ConfigSource),
    /// Look into the embedded queue's log, or salvage it
    #[command(long_about = log::LONG_ABOUT, after_long_help = log::AFTER_HELP, subcommand)]
    Log(log::LogCommand),
    /// Ask the node on this machine whether it is ready
    #[command(long_about = health::LONG_ABOUT, after_long_help = health::AFTER_HELP)]
    Health(ConfigSource),
    /// Push through a running node
    #[command(long_about = push::LONG_ABOUT, after_long_help = push::AFTER_HELP)]
    Push(push::PushArguments),
    /// End clients, on all nodes
    #[command(long_about = disconnect::LONG_ABOUT, after_long_help = disconnect::AFTER_HELP)]
    Disconnect(disconnect::DisconnectArguments),
    /// Join as a card and print what arrives, one line each
    #[command(long_about = tail::LONG_ABOUT, after_long_help = tail::AFTER_HELP)]
    Tail(tail::TailArguments),
    /// Print what clients say and do, one line each, and take nothing from the back end
    #[command(long_about = events::LONG_ABOUT, after_long_help = events::AFTER_HELP)]
    Events(events::EventsArguments),
    /// Print a token for a client, for trying out
    #[command(long_about = token::LONG_ABOUT, after_long_help = token::AFTER_HELP)]
    Token(token::TokenArguments),
    /// Print a shell's completion script
    #[command(after_long_help = "EXAMPLES\n  oxipush completions bash > /etc/bash_completion.d/oxipush\n  \
                                 oxipush completions zsh > ~/.zfunc/_oxipush\n  \
                                 oxipush completions fish > ~/.config/fish/completions/oxipush.fish")]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// Parses the arguments and runs what they ask for.
pub fn run() -> ExitCode {
    let cli = Cli::parse();
    match cli.command {
        None => serve::run(cli.source.file()),
        Some(CliCommand::CheckConfig(source)) => check::run(source.file()),
        Some(CliCommand::Log(command)) => log::run(command),
        Some(CliCommand::Health(source)) => health::run(source.file()),
        Some(CliCommand::Push(arguments)) => client(push::run(arguments)),
        Some(CliCommand::Disconnect(arguments)) => client(disconnect::run(arguments)),
        Some(CliCommand::Events(arguments)) => client(events::run(arguments)),
        Some(CliCommand::Tail(arguments)) => client(tail::run(arguments)),
        Some(CliCommand::Token(arguments)) => match token::run(arguments) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => failed(error),
        },
        Some(CliCommand::Completions { shell }) => completions(shell),
    }
}

/// Runs a command that talks to a node: one thread is enough.
fn client(command: impl Future<Output = Result<(), String>>) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(format_args!("the runtime cannot be started: {error}")),
    };
    let outcome = runtime.block_on(command);
    // a read of stdin may be stuck in a thread of its own: it ends with the process
    runtime.shutdown_background();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(error),
    }
}

fn completions(shell: clap_complete::Shell) -> ExitCode {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "oxipush", &mut script);
    print(&String::from_utf8_lossy(&script));
    ExitCode::SUCCESS
}

/// An address by which this machine reaches a listener: of "all addresses" the loopback one.
fn near(mut listener: SocketAddr) -> SocketAddr {
    match listener.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => listener.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => listener.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    listener
}

/// Tells what went wrong, on stderr.
fn failed(error: impl Display) -> ExitCode {
    note(error);
    ExitCode::FAILURE
}

/// Says something beside the output, on stderr; where nobody reads it, that is no reason to panic.
fn note(text: impl Display) {
    let _ = writeln!(io::stderr().lock(), "oxipush: {text}");
}

/// Writes to stdout; false once nobody reads it (`| head`), which is no reason to panic.
fn print(text: &str) -> bool {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_ok()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_arguments_are_well_defined() {
        super::Cli::command().debug_assert();
    }
}
