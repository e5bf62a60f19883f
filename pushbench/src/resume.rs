//! Clients that were away and come back: what waits for each, and what each missed while it dropped again and again.

mod callers;
mod readers;

use std::{fmt::Write as _, path::Path, sync::Arc, sync::atomic::Ordering, time::Duration};

use serde::Serialize;

use self::readers::{Habits, Readers, Totals};
use crate::{
    Result,
    cli::{Load, Resume, Via},
    files,
    gateway::Gateway,
    layout::{Aim, Layout},
    pace::{End, Pace, Plan},
    profile::Profile,
    push::Sender,
    receive::Clients,
    report::{Latency, thousands, write_json},
    shared::Shared,
};

/// Pushes of a run with drops.
const PUSHES: u64 = 120;
/// Memory that either shape may take, MiB.
const MEMORY: f64 = 96.0;

/// What `--json` writes.
#[derive(Debug, Default, Serialize)]
struct Figures {
    clients: u32,
    /// Stored pushes that waited for each client.
    entries: u32,
    /// From the first connect until all had what waited.
    seconds: Option<f64>,
    /// Deliveries that were owed, and those that came.
    owed: u64,
    delivered: u64,
    copies: u64,
    gaps: u64,
    resets: u64,
    /// --drops: how often a client came back.
    returns: u64,
    /// From the connect after which a client had what it missed, and of pushes to clients that were there.
    replay: Option<Latency>,
    live: Option<Latency>,
    /// With all clients there and nothing stored; the most meanwhile; at the end.
    rss_before: Option<u64>,
    rss_peak: Option<u64>,
    rss_after: Option<u64>,
    complaints: Vec<String>,
}

/// Whether all that was checked held.
pub(crate) fn run(args: &Resume) -> Result<bool> {
    if args.load.profile != Profile::Oxipush {
        return Err("only oxipush.v1 has places in streams: leave --profile out".into());
    }
    files::ensure(u64::from(args.load.connections))?;
    let gateway = match &args.load.gateway {
        Some(program) => Some(Gateway::start(program, &settings(args))?),
        None => None,
    };
    let load = match &gateway {
        Some(gateway) => Load { gateway: None, ..gateway.load(&args.load) },
        None => args.load.clone(),
    };
    let figures = if args.drops { drops(args, &load)? } else { waiting(args, &load)? };
    let text = figures.table(args);
    if load.json.as_deref() == Some(Path::new("-")) {
        eprint!("{text}");
    } else {
        print!("{text}");
    }
    write_json(&load, &figures)?;
    Ok(!load.check || figures.complaints.is_empty())
}

/// All that waits has room.
fn settings(args: &Resume) -> Vec<(&'static str, String)> {
    vec![("STORE__MAX_ENTRIES", args.entries.max(1000).to_string())]
}

fn layout(args: &Resume) -> Layout {
    Layout { aim: Aim::Cards { span: 1 }, cards: args.load.connections, rooms: 1, subscriptions: 0 }
}

/// Entries are stored for clients that are away; then all come at once.
fn waiting(args: &Resume, load: &Load) -> Result<Figures> {
    let shared = Arc::new(Shared::new(layout(args)));
    let habits = Habits { owed: args.entries, ..Habits::default() };
    let mut readers = Readers::new(Clients::new(load)?, &shared, load, habits)?;
    let patience = Duration::from_secs_f64(load.patience);
    // once without anything, for the memory that they take anyway
    readers.connect_all(patience)?;
    let rss_before = readers.rss()?;
    readers.leave_all();
    let complaints = store(load, &shared, u64::from(args.entries) * u64::from(args.load.connections))?;
    readers.forget_peak();
    let begun = shared.now();
    readers.come_back();
    let done = readers.run_until(patience, Readers::has_all)?;
    let last = readers.last_delivery();
    let seconds = done.then(|| last.saturating_sub(begun) as f64 / 1e9);
    let (rss_peak, rss_after) = (readers.peak(), readers.rss()?);
    let owed = u64::from(args.entries) * u64::from(args.load.connections);
    let mut figures = Figures::new(args, owed, readers.totals(), complaints);
    figures.entries = args.entries;
    figures.seconds = seconds;
    (figures.rss_before, figures.rss_peak, figures.rss_after) = (rss_before, rss_peak, rss_after);
    Ok(figures)
}

/// Stores so many pushes, card after card.
fn store(load: &Load, shared: &Arc<Shared>, pushes: u64) -> Result<Vec<String>> {
    let via = load.via.or_else(|| load.grpc.is_some().then_some(Via::Grpc));
    let sender = Sender::new(&Load { offline: true, via, ..load.clone() }, shared.layout.aim)?;
    let plan = Plan {
        pace: Pace::Press,
        end: End::Pushes(pushes),
        window: sender.most().min(1024),
        exclusive: sender.races(),
        receivers: Arc::new(vec![0; shared.targets() as usize]),
        patience: Duration::from_secs_f64(load.patience),
    };
    sender.run(shared, plan)?;
    let accepted = shared.accepted.load(Ordering::SeqCst);
    let mut complaints: Vec<_> =
        shared.mishaps().into_iter().map(|(what, count)| format!("{count} × {what}")).collect();
    if accepted != pushes {
        complaints.push(format!("{} of {} pushes were stored", thousands(accepted), thousands(pushes)));
    }
    Ok(complaints)
}

/// Clients drop again and again while pushes are stored for a room and for their cards.
fn drops(args: &Resume, load: &Load) -> Result<Figures> {
    let seconds = args.seconds;
    let pushes = load.pushes.unwrap_or(PUSHES);
    let shared = Arc::new(Shared::new(layout(args)));
    let habits = Habits {
        owed: 0,
        has_room: true,
        cycle: Some(Duration::from_secs_f64(args.cycle)),
        away: Duration::from_secs_f64(args.away),
    };
    let patience = Duration::from_secs_f64(load.patience);
    let mut callers = callers::Callers::new(load, &shared)?;
    // the streams are there before anybody is: a client's place begins with a stream
    callers.begin()?;
    let mut readers = Readers::new(Clients::new(load)?, &shared, load, habits)?;
    readers.connect_all(patience)?;
    let rss_before = readers.rss()?;
    readers.forget_peak();
    readers.start_drops();
    let pushing = callers.start(pushes, Duration::from_secs_f64(seconds));
    readers.run_until(Duration::from_secs_f64(seconds), |_| false)?;
    let (sent, mut complaints) = pushing.join().map_err(|_| "the sending thread panicked")??;
    readers.stay();
    let blocks = callers.blocks();
    readers.owe(|client| sent.to_room + sent.to_block(client as usize / callers::BLOCK, blocks));
    readers.run_until(patience, Readers::has_all)?;
    let (rss_peak, rss_after) = (readers.peak(), readers.rss()?);
    let owed = readers.owed();
    if sent.to_room < pushes as u32 {
        complaints.push(format!("{} of {pushes} pushes were sent", sent.to_room));
    }
    let mut figures = Figures::new(args, owed, readers.totals(), complaints);
    (figures.rss_before, figures.rss_peak, figures.rss_after) = (rss_before, rss_peak, rss_after);
    Ok(figures)
}

impl Figures {
    fn new(args: &Resume, owed: u64, totals: Totals, mut complaints: Vec<String>) -> Self {
        complaints.extend(totals.mishaps.into_iter().map(|(what, count)| format!("{count} × {what}")));
        let mut mind = |count: u64, what: &str| {
            if count > 0 {
                complaints.push(format!("{} {what}", thousands(count)));
            }
        };
        mind(owed.saturating_sub(totals.delivered), "deliveries missing");
        mind(totals.gaps, "gaps");
        mind(totals.resets, "resets");
        mind(totals.disordered, "deliveries out of order");
        Self {
            clients: args.load.connections,
            owed,
            delivered: totals.delivered,
            copies: totals.copies,
            gaps: totals.gaps,
            resets: totals.resets,
            returns: totals.returns,
            replay: (!totals.replay.is_empty()).then(|| Latency::new(&totals.replay)),
            live: (!totals.live.is_empty()).then(|| Latency::new(&totals.live)),
            complaints,
            ..Self::default()
        }
    }

    fn table(&self, args: &Resume) -> String {
        let mut text = format!("resume · {} clients\n", thousands(u64::from(self.clients)));
        if !args.drops {
            let seconds = self.seconds.map_or("not all came".into(), |seconds| format!("all after {seconds:.2} s"));
            let _ = writeln!(text, "  {} stored pushes for each: {seconds} (bar 3 s)", self.entries);
        }
        let share = 100.0 * self.delivered as f64 / self.owed.max(1) as f64;
        let _ = writeln!(
            text,
            "  delivered {} of {} ({share:.4} %), {} copies, {} gaps, {} resets",
            thousands(self.delivered),
            thousands(self.owed),
            thousands(self.copies),
            self.gaps,
            self.resets
        );
        if args.drops {
            let _ = writeln!(text, "  {} returns after {} s each {} s", thousands(self.returns), args.away, args.cycle);
            for (name, latency, bar) in
                [("replay after a return", &self.replay, 2500), ("to who is there", &self.live, 250)]
            {
                if let Some(latency) = latency {
                    let _ = writeln!(text, "  {name}: {} (bar p99 {bar} ms)", latency.line());
                }
            }
        }
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        if let (Some(before), Some(peak), Some(after)) = (self.rss_before, self.rss_peak, self.rss_after) {
            let _ = writeln!(
                text,
                "  RSS {:.1} MiB with all there, at most {:.1} meanwhile ({:+.1}, bar +{MEMORY}), {:.1} at the end",
                mib(before),
                mib(peak),
                mib(peak) - mib(before),
                mib(after)
            );
        }
        for complaint in &self.complaints {
            let _ = writeln!(text, "  ! {complaint}");
        }
        text
    }
}
