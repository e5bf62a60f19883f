//! Stored pushes in turn with live ones on one gateway: how many a second, how late, how much memory, how long a start takes.

use std::{fmt::Write as _, path::Path, sync::Arc, sync::atomic::Ordering, time::Duration};

use serde::Serialize;

use crate::{
    Result,
    cli::{Load, Stored, Via},
    gateway::Gateway,
    layout::{Aim, Layout},
    pace::{End, Pace, Plan},
    process::Usage,
    push::Sender,
    report::{Latency, Report, thousands, write_json},
    scenario::{self, Kind},
    shared::Shared,
};

/// Cards that pushes are stored for, where nothing else is said.
const CARDS: u32 = 100_000;
/// Seconds of each turn.
const TURN: f64 = 3.0;
/// Pushes a second to clients that are there.
const RATE: f64 = 2000.0;
/// How much later the p99 of a stored push may be than a live one's, ms.
const LATER: f64 = 1.0;

/// What `--json` writes.
#[derive(Debug, Serialize)]
struct Figures {
    cards: u32,
    size: u32,
    ways: Vec<Way>,
    clients: u32,
    rate: f64,
    /// Publish → receipt of clients that are there: medians of the turns.
    live: Lateness,
    stored: Lateness,
    accepted: u64,
    rss_before: Option<u64>,
    /// After the stored pushes to cards that are away.
    rss_after: Option<u64>,
    start: Option<Start>,
    complaints: Vec<String>,
}

/// One way in: pushes a second, turn by turn.
#[derive(Debug, Serialize)]
struct Way {
    via: &'static str,
    live: Vec<f64>,
    stored: Vec<f64>,
    /// Of the medians.
    ratio: f64,
    bar: f64,
}

/// In ms.
#[derive(Debug, Default, Serialize)]
struct Lateness {
    p50: f64,
    p99: f64,
}

/// A start on what was stored, after a SIGKILL.
#[derive(Debug, Serialize)]
struct Start {
    seconds: f64,
    rss: u64,
}

/// Whether all that was checked held.
pub(crate) fn run(args: &Stored) -> Result<bool> {
    let mut gateway = match &args.load.gateway {
        Some(program) => Some(Gateway::start(program, &[])?),
        None => None,
    };
    let load = match &gateway {
        Some(gateway) => Load { gateway: None, ..gateway.load(&args.load) },
        None => args.load.clone(),
    };
    let mut figures = measure(args, &load)?;
    if let Some(gateway) = &mut gateway {
        let seconds = gateway.restart()?.as_secs_f64();
        let pid = gateway.load(&args.load).pid;
        figures.start = Some(Start { seconds, rss: Usage::of(&pid)?.rss });
    }
    let text = figures.table();
    if load.json.as_deref() == Some(Path::new("-")) {
        eprint!("{text}");
    } else {
        print!("{text}");
    }
    write_json(&load, &figures)?;
    Ok(!load.check || figures.complaints.is_empty())
}

fn measure(args: &Stored, load: &Load) -> Result<Figures> {
    let rss =
        || -> Result<Option<u64>> { Ok(if load.pid.is_empty() { None } else { Some(Usage::of(&load.pid)?.rss) }) };
    let cards = load.cards.unwrap_or(CARDS);
    let mut complaints = Vec::new();
    let (mut ways, mut accepted) = (Vec::new(), 0);
    let rss_before = rss()?;
    for (via, name, given, bar) in [(Via::Grpc, "PushStream", &load.grpc, 0.5), (Via::Http, "HTTP", &load.http, 0.4)] {
        if given.is_none() || args.load.via.is_some_and(|wanted| wanted != via) {
            continue;
        }
        let (mut live, mut stored) = (Vec::new(), Vec::new());
        for _ in 0..args.runs {
            for (offline, rates) in [(false, &mut live), (true, &mut stored)] {
                let load = Load { via: Some(via), offline, ..load.clone() };
                let turn = press(&load, cards)?;
                complaints.extend(turn.complaints);
                rates.push(turn.rate);
                accepted += if offline { turn.accepted } else { 0 };
            }
        }
        let ratio = median(&stored) / median(&live).max(1e-9);
        ways.push(Way { via: name, live, stored, ratio, bar });
    }
    let rss_after = rss()?;
    let rate = load.rate.unwrap_or(RATE);
    let (mut live, mut stored) = (Vec::new(), Vec::new());
    for _ in 0..args.runs {
        for (offline, reports) in [(false, &mut live), (true, &mut stored)] {
            let duration = if load.pushes.is_some() { None } else { Some(load.duration.unwrap_or(TURN)) };
            let pushes = load.pushes.map(|_| (rate * TURN) as u64);
            let quiet = Load {
                offline,
                rate: Some(rate),
                duration,
                pushes,
                cards: None,
                json: None,
                plot: None,
                quiet: true,
                ..load.clone()
            };
            let report = scenario::run(Kind::Unicast, &quiet)?;
            complaints.extend(report.complaints());
            reports.push(report);
        }
    }
    Ok(Figures {
        cards,
        size: load.size,
        ways,
        clients: load.connections,
        rate,
        live: Lateness::of(&live),
        stored: Lateness::of(&stored),
        accepted,
        rss_before,
        rss_after,
        start: None,
        complaints,
    })
}

/// What one turn brought.
struct Turn {
    rate: f64,
    accepted: u64,
    complaints: Vec<String>,
}

/// Pushes to cards that nobody joined, as fast as they are acknowledged.
fn press(load: &Load, cards: u32) -> Result<Turn> {
    let layout = Layout { aim: Aim::Cards { span: 1 }, cards, rooms: 1, subscriptions: 0 };
    let sender = Sender::new(load, layout.aim)?;
    let shared = Arc::new(Shared::new(layout));
    let own = if sender.via() == Via::Http { sender.most() } else { 1024 };
    let plan = Plan {
        pace: Pace::Press,
        end: match load.pushes {
            Some(pushes) => End::Pushes(pushes),
            None => End::After(Duration::from_secs_f64(load.duration.unwrap_or(TURN))),
        },
        window: load.outstanding.map_or(own, |window| window as usize).min(sender.most()),
        exclusive: sender.races(),
        receivers: Arc::new(vec![0; cards as usize]),
        patience: Duration::from_secs_f64(load.patience),
    };
    let from = shared.now();
    sender.run(&shared, plan)?;
    let seconds = (shared.now() - from) as f64 / 1e9;
    let accepted = shared.accepted.load(Ordering::SeqCst);
    let complaints = shared.mishaps().into_iter().map(|(what, count)| format!("{count} × {what}")).collect();
    Ok(Turn { rate: accepted as f64 / seconds.max(1e-9), accepted, complaints })
}

impl Lateness {
    fn of(reports: &[Report]) -> Self {
        let of = |figure: fn(&Latency) -> f64| {
            let figures = reports.iter().filter_map(|report| report.deliveries.as_ref());
            median(&figures.map(|deliveries| figure(&deliveries.latency)).collect::<Vec<_>>())
        };
        Self { p50: of(|latency| latency.p50), p99: of(|latency| latency.p99) }
    }
}

fn median(figures: &[f64]) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(0.0)
}

impl Figures {
    fn table(&self) -> String {
        let mut text = format!("stored · {} cards · {} B\n", thousands(u64::from(self.cards)), self.size);
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        for way in &self.ways {
            let _ = writeln!(
                text,
                "  over {:<11} {}/s stored, {}/s live: {:.2} (bar {})",
                way.via,
                thousands(median(&way.stored) as u64),
                thousands(median(&way.live) as u64),
                way.ratio,
                way.bar
            );
        }
        let _ = writeln!(
            text,
            "  publish → receipt, {} clients, {}/s: stored p50 {:.2} ms, p99 {:.2} ms; live p50 {:.2} ms, p99 {:.2} ms (bar {:.2} ms)",
            thousands(u64::from(self.clients)),
            self.rate,
            self.stored.p50,
            self.stored.p99,
            self.live.p50,
            self.live.p99,
            self.live.p99 + LATER
        );
        if let (Some(before), Some(after)) = (self.rss_before, self.rss_after) {
            let _ = writeln!(
                text,
                "  RSS {:.1} MiB before, {:.1} MiB after {} stored pushes",
                mib(before),
                mib(after),
                thousands(self.accepted)
            );
        }
        if let Some(start) = &self.start {
            let _ = writeln!(text, "  started on them in {:.2} s, RSS {:.1} MiB", start.seconds, mib(start.rss));
        }
        for complaint in &self.complaints {
            let _ = writeln!(text, "  ! {complaint}");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::median;

    #[test]
    fn a_median_is_the_middle_one() {
        assert!((median(&[3.0, 1.0, 2.0]) - 2.0).abs() < 1e-9);
        assert!(median(&[]).abs() < 1e-9);
    }
}
