//! What the kernel allows: the bare epoll server and the bare send(2) loop, in turn with the gateway.

use std::{
    fmt::Write as _,
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
};

use clap::ValueEnum;
use serde::Serialize;

use crate::{
    Result, bare,
    cli::{Limit, Load, Via},
    pace::End,
    profile::Profile,
    report::{self, Report},
    scenario::{self, Kind},
};

/// The bare epoll limit of the machine on which the bars of docs/performance.md were set.
const REFERENCE: f64 = 220_000.0;

/// Pushes that wait for the send loop: enough that it never does.
const WINDOW: u32 = 16;

/// Unicasts under way, where nothing else is said.
const OUTSTANDING: u32 = 64;

/// What a bare server does.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Bare {
    /// The scenario itself, closed loop.
    Epoll(Kind),
    /// One send after the other, with the next pushes always at hand.
    SendLoop,
}

/// A bare server in a process of its own; it ends when this is dropped.
struct Server {
    child: Child,
    address: String,
}

impl Server {
    fn start(profile: Profile, bare: Bare) -> Result<Self> {
        let name = profile.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
        let mut child = Command::new(std::env::current_exe()?)
            .args(["bare", "--profile", &name])
            .args((bare == Bare::SendLoop).then_some("--single"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdout = child.stdout.take().ok_or("invariant: stdout is piped")?;
        let mut server = Self { child, address: String::new() };
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        server.address = line
            .trim()
            .strip_prefix(bare::LISTENING)
            .ok_or("the bare server did not start; its own words stand above")?
            .to_owned();
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // it may have ended by itself
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `--json`: all runs, and their medians.
#[derive(Serialize)]
struct Comparison {
    /// Deliveries for each CPU-second of the bare server, the median.
    limit: f64,
    /// Its share of the reference machine's: absolute bars scale with it.
    machine: f64,
    /// The medians of each.
    rows: Vec<Row>,
    bare: Vec<Report>,
    /// With the fan-out only.
    send_loop: Vec<Report>,
    gateway: Vec<Report>,
}

#[derive(Serialize)]
struct Row {
    name: &'static str,
    bare: Option<f64>,
    send_loop: Option<f64>,
    gateway: Option<f64>,
}

/// A figure, where a report has it.
type Figure = fn(&Report) -> Option<f64>;

const ROWS: [(&str, Figure); 10] = [
    ("deliveries a CPU-second", |report| report.server.as_ref()?.deliveries_per_cpu_second),
    ("user µs a delivery", |report| report.server.as_ref()?.user_us_per_delivery),
    ("system µs a delivery", |report| report.server.as_ref()?.system_us_per_delivery),
    ("CPU µs a push", |report| report.server.as_ref()?.cpu_us_per_push),
    ("deliveries a second", |report| Some(report.deliveries.as_ref()?.per_second)),
    ("pushes a second", |report| Some(report.pushes.as_ref()?.per_second)),
    ("received p50, ms", |report| Some(report.deliveries.as_ref()?.latency.p50)),
    ("received p99, ms", |report| Some(report.deliveries.as_ref()?.latency.p99)),
    ("joins a second", |report| Some(report.joins.per_second)),
    ("RSS bytes a connection", |report| Some(report.server.as_ref()?.rss_per_connection)),
];

pub(crate) fn run(args: &Limit) -> Result<bool> {
    let (mut bare, mut send_loop, mut gateway) = (Vec::new(), Vec::new(), Vec::new());
    let known = |kind: &Kind| matches!(kind, Kind::Fanout | Kind::Burst | Kind::Unicast);
    let kind = args.bare.or(args.with.filter(known)).unwrap_or(Kind::Fanout);
    if !known(&kind) {
        return Err("--bare is fanout, burst or unicast: the bare server does nothing else".into());
    }
    for turn in 1..=args.runs {
        bare.push(limit(args, Bare::Epoll(kind))?);
        tell(args, turn, "bare epoll", bare.last());
        if kind == Kind::Fanout {
            send_loop.push(limit(args, Bare::SendLoop)?);
            tell(args, turn, "send loop", send_loop.last());
        }
        if let Some(kind) = args.with {
            gateway.push(scenario::run(kind, &args.load)?);
            tell(args, turn, "gateway", gateway.last());
        }
    }
    let rows: Vec<Row> = ROWS
        .iter()
        .map(|(name, figure)| Row {
            name,
            bare: median(&bare, *figure),
            send_loop: median(&send_loop, *figure),
            gateway: median(&gateway, *figure),
        })
        .collect();
    let limit = rows.first().and_then(|row| row.bare).unwrap_or(0.0);
    let comparison = Comparison { limit, machine: limit / REFERENCE, rows, bare, send_loop, gateway };
    let text = comparison.table(args, kind);
    if args.load.json.as_deref() == Some(std::path::Path::new("-")) {
        eprint!("{text}");
    } else {
        print!("{text}");
    }
    report::write_json(&args.load, &comparison)?;
    Ok(!args.load.check || comparison.runs().map(Report::complaints).all(|complaints| complaints.is_empty()))
}

/// One run of a bare server with the same frames and connections.
fn limit(args: &Limit, bare: Bare) -> Result<Report> {
    // the frames of the others are as long within a few bytes
    let profile = if args.load.profile == Profile::Oxipush { Profile::Oxipush } else { Profile::Gopusher };
    let server = Server::start(profile, bare)?;
    let (kind, scenario) = match bare {
        Bare::Epoll(kind) => (kind, kind),
        // as much as the fan-out, and never idle
        Bare::SendLoop => (Kind::Fanout, Kind::Pressed),
    };
    // what was set for the gateway's scenario is not meant for another
    let same = args.with.is_none_or(|with| with == kind);
    let (pushes, duration) = (args.load.pushes.filter(|_| same), args.load.duration.filter(|_| same));
    let pushes = match kind.end(&Load { pushes, duration, ..args.load.clone() }) {
        End::Pushes(pushes) => Some(pushes),
        End::After(_) => None,
    };
    let load = Load {
        profile,
        callers: None,
        gateway: None,
        subscriptions: None,
        merge: false,
        ws: Some(format!("ws://{}", server.address)),
        http: Some(format!("http://{}", server.address)),
        grpc: None,
        key: None,
        via: Some(Via::Http),
        // a burst's pushes arrive together and leave together
        http_connections: 1,
        http_pipeline: match bare {
            Bare::SendLoop => WINDOW,
            Bare::Epoll(Kind::Unicast) => args.load.outstanding.unwrap_or(OUTSTANDING),
            Bare::Epoll(_) => args.load.burst.max(1),
        },
        cards: args.load.cards.filter(|_| same),
        cards_per_push: if same { args.load.cards_per_push } else { 1 },
        rate: None,
        outstanding: None,
        pushes,
        duration,
        warmup: args.load.warmup.filter(|_| same),
        pid: vec![server.child.id()],
        json: None,
        plot: None,
        ..args.load.clone()
    };
    scenario::run(scenario, &load)
}

fn tell(args: &Limit, turn: u32, who: &str, report: Option<&Report>) {
    let Some(server) = report.and_then(|report| report.server.as_ref()).filter(|_| !args.load.quiet) else { return };
    eprintln!(
        "run {turn} of {}: {who}: {} deliveries a CPU-second, {:.3} µs user each",
        args.runs,
        report::thousands(server.deliveries_per_cpu_second.unwrap_or(0.0) as u64),
        server.user_us_per_delivery.unwrap_or(0.0)
    );
}

fn median(reports: &[Report], figure: Figure) -> Option<f64> {
    let mut figures: Vec<f64> = reports.iter().filter_map(figure).collect();
    figures.sort_by(f64::total_cmp);
    match figures.len() {
        0 => None,
        count if count % 2 == 1 => Some(figures[count / 2]),
        count => Some(f64::midpoint(figures[count / 2 - 1], figures[count / 2])),
    }
}

impl Comparison {
    fn runs(&self) -> impl Iterator<Item = &Report> {
        self.bare.iter().chain(&self.send_loop).chain(&self.gateway)
    }

    fn table(&self, args: &Limit, kind: Kind) -> String {
        let with =
            args.with.map_or(String::new(), |with| format!(" and {} of {}", with.name(), args.load.profile.name()));
        let mut text = format!(
            "{} of a bare epoll server{with} · {} connections · {} B · medians of {}\n",
            kind.name(),
            report::thousands(u64::from(args.load.connections)),
            args.load.size,
            args.runs
        );
        let cell = |figure: Option<f64>| figure.map_or("-".into(), number);
        let _ =
            writeln!(text, "  {:<24} {:>12} {:>12} {:>12} {:>8}", "", "bare epoll", "send loop", "gateway", "of epoll");
        for Row { name, bare, send_loop, gateway } in &self.rows {
            let ratio = bare.zip(*gateway).filter(|(bare, _)| *bare > 0.0).map(|(bare, gateway)| gateway / bare);
            let ratio = ratio.map_or(String::new(), |ratio| format!("{ratio:.2}"));
            let (bare, send_loop, gateway) = (cell(*bare), cell(*send_loop), cell(*gateway));
            let _ = writeln!(text, "  {name:<24} {bare:>12} {send_loop:>12} {gateway:>12} {ratio:>8}");
        }
        if kind == Kind::Fanout {
            let _ = writeln!(text, "  this machine is {:.2} of the one that the bars were set on", self.machine);
        }
        for complaint in self.runs().flat_map(Report::complaints) {
            let _ = writeln!(text, "  ! {complaint}");
        }
        text
    }
}

fn number(figure: f64) -> String {
    if figure >= 1000.0 { report::thousands(figure as u64) } else { format!("{figure:.3}") }
}
