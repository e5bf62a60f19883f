//! What the kernel allows: the bare epoll server, in turn with the gateway.

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
    profile::Profile,
    report::{self, Report},
    scenario::{self, Kind},
};

/// The bare epoll limit of the machine on which the bars of docs/performance.md were set.
const REFERENCE: f64 = 220_000.0;

/// A bare server in a process of its own; it ends when this is dropped.
struct Server {
    child: Child,
    address: String,
}

impl Server {
    fn start(profile: Profile) -> Result<Self> {
        let name = profile.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
        let mut child = Command::new(std::env::current_exe()?)
            .args(["bare", "--profile", &name])
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
    /// Medians of (bare, gateway).
    rows: Vec<Row>,
    bare: Vec<Report>,
    gateway: Vec<Report>,
}

#[derive(Serialize)]
struct Row {
    name: &'static str,
    bare: Option<f64>,
    gateway: Option<f64>,
}

/// A figure, where a report has it.
type Figure = fn(&Report) -> Option<f64>;

const ROWS: [(&str, Figure); 9] = [
    ("deliveries a CPU-second", |report| report.server.as_ref()?.deliveries_per_cpu_second),
    ("user µs a delivery", |report| report.server.as_ref()?.user_us_per_delivery),
    ("system µs a delivery", |report| report.server.as_ref()?.system_us_per_delivery),
    ("deliveries a second", |report| Some(report.deliveries.as_ref()?.per_second)),
    ("pushes a second", |report| Some(report.pushes.as_ref()?.per_second)),
    ("received p50, ms", |report| Some(report.deliveries.as_ref()?.latency.p50)),
    ("received p99, ms", |report| Some(report.deliveries.as_ref()?.latency.p99)),
    ("joins a second", |report| Some(report.joins.per_second)),
    ("RSS bytes a connection", |report| Some(report.server.as_ref()?.rss_per_connection)),
];

pub(crate) fn run(args: &Limit) -> Result<bool> {
    let (mut bare, mut gateway) = (Vec::new(), Vec::new());
    let kind = args.bare.unwrap_or(if args.with == Some(Kind::Burst) { Kind::Burst } else { Kind::Fanout });
    if !matches!(kind, Kind::Fanout | Kind::Burst) {
        return Err("--bare is fanout or burst: the bare server does nothing else".into());
    }
    for turn in 1..=args.runs {
        bare.push(limit(args, kind)?);
        tell(args, turn, "bare", bare.last());
        if let Some(kind) = args.with {
            gateway.push(scenario::run(kind, &args.load)?);
            tell(args, turn, "gateway", gateway.last());
        }
    }
    let rows: Vec<Row> = ROWS
        .iter()
        .map(|(name, figure)| Row { name, bare: median(&bare, *figure), gateway: median(&gateway, *figure) })
        .collect();
    let limit = rows.first().and_then(|row| row.bare).unwrap_or(0.0);
    let comparison = Comparison { limit, machine: limit / REFERENCE, rows, bare, gateway };
    let text = comparison.table(args, kind);
    if args.load.json.as_deref() == Some(std::path::Path::new("-")) {
        eprint!("{text}");
    } else {
        print!("{text}");
    }
    report::write_json(&args.load, &comparison)?;
    let all = comparison.bare.iter().chain(&comparison.gateway);
    Ok(!args.load.check || all.map(Report::complaints).all(|complaints| complaints.is_empty()))
}

/// One run of the bare server with the same frames, connections and pace.
fn limit(args: &Limit, kind: Kind) -> Result<Report> {
    // the frames of the others are as long within a few bytes
    let profile = if args.load.profile == Profile::Oxipush { Profile::Oxipush } else { Profile::Gopusher };
    let server = Server::start(profile)?;
    // what was set for the gateway's scenario is not meant for another
    let same = args.with.is_none_or(|with| with == kind);
    let load = Load {
        profile,
        ws: Some(format!("ws://{}", server.address)),
        http: Some(format!("http://{}", server.address)),
        grpc: None,
        key: None,
        via: Some(Via::Http),
        // a burst's pushes arrive together and leave together
        http_connections: 1,
        http_pipeline: args.load.burst.max(1),
        cards: Some(if same { args.load.cards.unwrap_or(1) } else { 1 }),
        cards_per_push: if same { args.load.cards_per_push } else { 1 },
        rate: None,
        outstanding: None,
        pushes: args.load.pushes.filter(|_| same),
        duration: args.load.duration.filter(|_| same),
        warmup: args.load.warmup.filter(|_| same),
        pid: vec![server.child.id()],
        json: None,
        plot: None,
        ..args.load.clone()
    };
    scenario::run(kind, &load)
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
        let _ = writeln!(text, "  {:<24} {:>12} {:>12} {:>8}", "", "bare", "gateway", "ratio");
        for Row { name, bare, gateway } in &self.rows {
            let ratio = bare.zip(*gateway).filter(|(bare, _)| *bare > 0.0).map(|(bare, gateway)| gateway / bare);
            let ratio = ratio.map_or(String::new(), |ratio| format!("{ratio:.2}"));
            let _ = writeln!(text, "  {name:<24} {:>12} {:>12} {ratio:>8}", cell(*bare), cell(*gateway));
        }
        if kind == Kind::Fanout {
            let _ = writeln!(text, "  this machine is {:.2} of the one that the bars were set on", self.machine);
        }
        for complaint in self.bare.iter().chain(&self.gateway).flat_map(Report::complaints) {
            let _ = writeln!(text, "  ! {complaint}");
        }
        text
    }
}

fn number(figure: f64) -> String {
    if figure >= 1000.0 { report::thousands(figure as u64) } else { format!("{figure:.3}") }
}
