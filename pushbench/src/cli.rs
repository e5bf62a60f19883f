//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::{profile::Profile, scenario::Kind};

/// Loads a push server and tells what it delivers, how fast and at what cost.
#[derive(Debug, Parser)]
#[command(version, about, max_term_width = 120)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    #[command(flatten)]
    Scenario(Scenario),
    /// What the kernel allows: a bare epoll server, in turn with the gateway (--with)
    Limit(Limit),
    /// How long a bare fdatasync takes on a folder's disk
    Fsync(Fsync),
    /// Pushes that are stored, in turn with live ones: to --cards that are away, then to -n clients that are there, at --rate
    Stored(Stored),
    /// Clients that were away: the time until all have what waits, or (--drops) until each has what it missed
    Resume(Resume),
    /// The bare epoll server alone (limit starts its own); ends with its standard input
    Bare(Bare),
}

#[derive(Debug, Subcommand)]
pub(crate) enum Scenario {
    /// Connections that only stay: memory and CPU of each
    Idle(Load),
    /// Pushes to single cards, each with its own connection
    Unicast(Load),
    /// Pushes to all connections, each complete before the next
    Fanout(Load),
    /// As fanout, to a room that all connections subscribed to (--rooms: to several in turn)
    Rooms(Load),
    /// As fanout, to everyone
    Everyone(Load),
    /// --rate pushes a second to a room whose clients get them merged (--merge-window, --merge-count)
    Merged(Load),
    /// Pushes to all connections as fast as they are accepted
    Pressed(Load),
    /// Cards with a few connections (--tabs) each
    Groups(Load),
    /// --burst pushes back to back to all connections, then again when all arrived
    Burst(Load),
    /// Connections leave and come back (--churn a second) while pushes run
    Churn(Load),
    /// A share of the clients (--slow-share) reads slowly while pushes run
    Slow(Load),
    /// Churn, slow clients and pushes for a long time; memory over time
    Soak(Load),
}

impl Scenario {
    pub(crate) fn into_parts(self) -> (Kind, Load) {
        match self {
            Self::Idle(load) => (Kind::Idle, load),
            Self::Unicast(load) => (Kind::Unicast, load),
            Self::Fanout(load) => (Kind::Fanout, load),
            Self::Rooms(load) => (Kind::Rooms, load),
            Self::Everyone(load) => (Kind::Everyone, load),
            Self::Merged(load) => (Kind::Merged, load),
            Self::Pressed(load) => (Kind::Pressed, load),
            Self::Groups(load) => (Kind::Groups, load),
            Self::Burst(load) => (Kind::Burst, load),
            Self::Churn(load) => (Kind::Churn, load),
            Self::Slow(load) => (Kind::Slow, load),
            Self::Soak(load) => (Kind::Soak, load),
        }
    }
}

/// How pushes reach the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Via {
    /// HTTP/1.1, kept alive
    Http,
    /// gRPC PushStream (or unary Push with --unary)
    Grpc,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Load {
    /// What the server speaks
    #[arg(long, value_enum, default_value_t = Profile::Oxipush)]
    pub(crate) profile: Profile,
    /// What those who push speak [default: as --profile]
    #[arg(long, value_enum)]
    pub(crate) callers: Option<Profile>,
    /// Start this oxipush for the run, on free ports, with the variables OXIPUSH__… of this process
    #[arg(long, conflicts_with_all = ["ws", "http", "grpc", "pid"])]
    pub(crate) gateway: Option<PathBuf>,
    /// Where clients connect, e.g. ws://127.0.0.1:8080/ws; several nodes with commas between take them in turn
    #[arg(long)]
    pub(crate) ws: Option<String>,
    /// Where pushes go over HTTP, e.g. http://127.0.0.1:8081
    #[arg(long)]
    pub(crate) http: Option<String>,
    /// Where pushes go over gRPC, e.g. http://127.0.0.1:9002
    #[arg(long)]
    pub(crate) grpc: Option<String>,
    /// API key: a bearer token (Centrifugo: X-API-Key)
    #[arg(long, env = "PUSHBENCH_KEY", hide_env_values = true)]
    pub(crate) key: Option<String>,
    /// The token that each client joins with (oxipush and gopusher's dialect)
    #[arg(long, env = "PUSHBENCH_TOKEN", hide_env_values = true)]
    pub(crate) token: Option<String>,
    /// Connections
    #[arg(long, short = 'n', default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) connections: u32,
    /// Cards that the connections join as, in turn [default: what the scenario is about]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) cards: Option<u32>,
    /// Rooms that there are
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub(crate) rooms: u32,
    /// Rooms that each connection subscribes to, at most 15: so much may a client have under way [default: 1 in rooms and merged, else 0]
    #[arg(long, value_parser = clap::value_parser!(u32).range(0..=15))]
    pub(crate) subscriptions: Option<u32>,
    /// Clients of oxipush.v1 ask for several pushes in one frame
    #[arg(long)]
    pub(crate) merge: bool,
    /// merged: ms that a gateway of --gateway gathers pushes for; a running one is configured so. The p99 may be 20 ms more
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=60_000))]
    pub(crate) merge_window: u32,
    /// merged: pushes that a gateway of --gateway gathers at most
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) merge_count: u32,
    /// Connections of each card in `groups`
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) tabs: u32,
    /// Cards named by one push
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) cards_per_push: u32,
    /// Pushes are stored: they wait for cards that are away, and a room keeps them (oxipush)
    #[arg(long)]
    pub(crate) offline: bool,
    /// Bytes of a push's content (at least 32: sequence number and send time are in it)
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(32..=1_048_576))]
    pub(crate) size: u32,
    /// Push for this many seconds
    #[arg(long, value_parser = positive)]
    pub(crate) duration: Option<f64>,
    /// Push this often [default: what the scenario needs for a steady figure]
    #[arg(long, conflicts_with = "duration")]
    pub(crate) pushes: Option<u64>,
    /// Open loop: this many pushes a second; a push's clock starts when it was due
    #[arg(long, value_parser = positive)]
    pub(crate) rate: Option<f64>,
    /// Pushes not yet acknowledged (`pressed`: not yet delivered) [default: 64 pressed and groups; 1024 over gRPC; --http-connections over HTTP]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) outstanding: Option<u32>,
    /// How pushes travel [default: http when --http is given; grpc with --gateway]
    #[arg(long, value_enum)]
    pub(crate) via: Option<Via>,
    /// HTTP connections, each with one request outstanding
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub(crate) http_connections: u32,
    /// Requests outstanding on each HTTP connection
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(crate) http_pipeline: u32,
    /// PushStreams; a card's pushes stay on one
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub(crate) grpc_streams: u32,
    /// gRPC: one call for each push, as gopusher's own server needs
    #[arg(long)]
    pub(crate) unary: bool,
    /// Pushes of one burst
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) burst: u32,
    /// Connections that leave and come back in a second (churn, soak)
    #[arg(long, default_value_t = 100.0, value_parser = positive)]
    pub(crate) churn: f64,
    /// Share of the clients that read slowly (slow, soak)
    #[arg(long, default_value_t = 0.1)]
    pub(crate) slow_share: f64,
    /// Bytes that a slow client reads in a second
    #[arg(long, default_value_t = 1000)]
    pub(crate) slow_rate: u32,
    /// idle: pushes to each card after the idle time, then 10 s of rest and the memory again; 0: none
    #[arg(long, default_value_t = 10)]
    pub(crate) after_burst: u32,
    /// Threads that read
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) threads: u32,
    /// Connects and joins at once
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub(crate) connect_concurrency: u32,
    /// Pushes before the measurement [default: a tenth of --pushes, or what the scenario needs]
    #[arg(long)]
    pub(crate) warmup: Option<u64>,
    /// Seconds of rest after the joins, before anything is measured
    #[arg(long, default_value_t = 1.0)]
    pub(crate) settle: f64,
    /// Seconds without any progress until joins, acknowledgements or deliveries are given up
    #[arg(long, default_value_t = 10.0, value_parser = positive)]
    pub(crate) patience: f64,
    /// Processes whose CPU and memory are the server's
    #[arg(long, value_delimiter = ',')]
    pub(crate) pid: Vec<u32>,
    /// Exit with 1 when anything is missing, duplicated, out of order, refused or unanswered
    #[arg(long)]
    pub(crate) check: bool,
    /// Write the report as JSON; -: to standard output
    #[arg(long)]
    pub(crate) json: Option<PathBuf>,
    /// Draw latency and throughput
    #[arg(long)]
    pub(crate) plot: Option<PathBuf>,
    /// No progress bar
    #[arg(long, short)]
    pub(crate) quiet: bool,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Limit {
    #[command(flatten)]
    pub(crate) load: Load,
    /// Run the gateway's scenario in turn with the bare server
    #[arg(long, value_enum)]
    pub(crate) with: Option<Kind>,
    /// Runs of each; the medians are told
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=99))]
    pub(crate) runs: u32,
    /// The bare server's scenario: fanout, burst (with the same coalescing) or unicast [default: as --with, else fanout]
    #[arg(long, value_enum)]
    pub(crate) bare: Option<Kind>,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Fsync {
    /// The folder whose disk is asked
    #[arg(long, default_value = ".")]
    pub(crate) dir: PathBuf,
    /// Bytes written before each fdatasync
    #[arg(long, default_value_t = 4096, value_parser = clap::value_parser!(u32).range(1..=16_777_216))]
    pub(crate) bytes: u32,
    /// How many
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) count: u32,
    /// As JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Stored {
    #[command(flatten)]
    pub(crate) load: Load,
    /// Turns of each; the medians are told
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=99))]
    pub(crate) runs: u32,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Resume {
    #[command(flatten)]
    pub(crate) load: Load,
    /// Stored pushes that wait for each client
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) entries: u32,
    /// Instead: for --seconds each client drops again and again while --pushes (120) are stored for a room, and as many for up
    /// to 1,000 cards at once
    #[arg(long)]
    pub(crate) drops: bool,
    /// --drops: how long
    #[arg(long, default_value_t = 60.0, value_parser = positive)]
    pub(crate) seconds: f64,
    /// --drops: seconds from one drop to the next
    #[arg(long, default_value_t = 15.0, value_parser = positive)]
    pub(crate) cycle: f64,
    /// --drops: seconds that a client is away
    #[arg(long, default_value_t = 2.0, value_parser = positive)]
    pub(crate) away: f64,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Bare {
    /// The frames it sends
    #[arg(long, value_enum, default_value_t = Profile::Gopusher)]
    pub(crate) profile: Profile,
    /// One send for each delivery, even of pushes that arrive together
    #[arg(long)]
    pub(crate) single: bool,
    /// One port for clients and pushes
    #[arg(long, default_value = "127.0.0.1:0")]
    pub(crate) listen: std::net::SocketAddr,
}

impl Load {
    /// What those who push speak.
    pub(crate) fn callers(&self) -> Profile {
        self.callers.unwrap_or(self.profile)
    }
}

fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number > 0.0 && number.is_finite() => Ok(number),
        _ => Err("must be a number above 0".into()),
    }
}
