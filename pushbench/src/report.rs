//! What a run found: for people, for machines, for `--check`.

mod table;

use std::{collections::BTreeMap, fs, path::Path, sync::atomic::Ordering};

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::{
    Result,
    cli::{Load, Via},
    plot,
    process::Cpu,
    receive::SLICE,
    scenario::{self, Kind, Outcome},
};

/// What a merged delivery may take beyond the window.
const MERGE_GRACE_MS: f64 = 20.0;

/// The whole report; `--json` writes it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) scenario: &'static str,
    pub(crate) profile: &'static str,
    pub(crate) via: Option<&'static str>,
    pub(crate) connections: u32,
    pub(crate) cards: u32,
    /// Rooms that connections subscribed to; 0: they have none.
    pub(crate) rooms: u32,
    pub(crate) size: u32,
    pub(crate) seconds: f64,
    pub(crate) joins: Joins,
    pub(crate) pushes: Option<Pushes>,
    /// merged: what the p99 of deliveries may be.
    pub(crate) latest_ms: Option<f64>,
    pub(crate) deliveries: Option<Deliveries>,
    /// Only with --pid.
    pub(crate) server: Option<Server>,
    pub(crate) client: Client,
    /// How connections ended that the server ended: by close code or word.
    pub(crate) endings: BTreeMap<String, u64>,
    /// What went wrong, and how often.
    pub(crate) mishaps: BTreeMap<String, u64>,
    /// Deliveries in each tenth of a second.
    pub(crate) timeline: Vec<u64>,
    /// (second, resident bytes of the server).
    pub(crate) memory: Vec<(f64, u64)>,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct Joins {
    pub(crate) answered: u64,
    pub(crate) unanswered: u64,
    pub(crate) per_second: f64,
    /// Connections that left and joined again.
    pub(crate) again: u64,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct Pushes {
    pub(crate) sent: u64,
    pub(crate) accepted: u64,
    /// Refused or unanswered, the warm-up counted in.
    pub(crate) refused: u64,
    pub(crate) per_second: f64,
    /// Rounds that were given up before all had arrived.
    pub(crate) stalled: u32,
    pub(crate) latency: Latency,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct Deliveries {
    /// In the measured time.
    pub(crate) received: u64,
    pub(crate) per_second: f64,
    /// The warm-up counted in, as the next three.
    pub(crate) missing: u64,
    pub(crate) duplicated: u64,
    /// None where pushes to one card race each other on their way to the server.
    pub(crate) disordered: Option<u64>,
    /// --offline: stored pushes that came behind one that did not, by their seq and prev.
    pub(crate) gaps: u64,
    /// Pushes in one frame, the warm-up counted in.
    pub(crate) per_frame: f64,
    /// With a marker of another run.
    pub(crate) foreign: u64,
    /// To the clients that read slowly; they are owed nothing.
    pub(crate) slow: u64,
    pub(crate) latency: Latency,
}

/// In ms.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Latency {
    pub(crate) p50: f64,
    pub(crate) p90: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
    pub(crate) max: f64,
    /// (quantile, ms), for plots.
    pub(crate) curve: Vec<(f64, f64)>,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct Server {
    pub(crate) user_seconds: f64,
    pub(crate) system_seconds: f64,
    pub(crate) deliveries_per_cpu_second: Option<f64>,
    pub(crate) user_us_per_delivery: Option<f64>,
    pub(crate) system_us_per_delivery: Option<f64>,
    pub(crate) cpu_us_per_push: Option<f64>,
    /// idle: µs of CPU for each connection and second.
    pub(crate) idle_us_per_connection_second: Option<f64>,
    pub(crate) rss_before: u64,
    pub(crate) rss_joined: u64,
    pub(crate) rss_after: u64,
    /// idle: ten seconds after its burst.
    pub(crate) rss_rested: Option<u64>,
    pub(crate) rss_per_connection: f64,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct Client {
    pub(crate) user_seconds: f64,
    pub(crate) system_seconds: f64,
}

impl Latency {
    pub(crate) fn new(histogram: &Histogram<u64>) -> Self {
        let ms = |quantile| histogram.value_at_quantile(quantile) as f64 / 1e6;
        // evenly over "nines", so that a plot's tail is smooth
        let curve = (0..=100).map(|step| 1.0 - 10_f64.powf(-f64::from(step) / 20.0)).map(|q| (q, ms(q))).collect();
        Self { p50: ms(0.5), p90: ms(0.9), p99: ms(0.99), p999: ms(0.999), max: histogram.max() as f64 / 1e6, curve }
    }
}

impl Report {
    pub(crate) fn new(kind: Kind, load: &Load, outcome: Outcome) -> Self {
        let Outcome { layout, measured, received, shared, memory, joined, .. } = outcome;
        let per_second = |count: u64| count as f64 / measured.seconds.max(1e-9);
        let idle = kind == Kind::Idle;
        let pushes = outcome.sent.as_ref().map(|sent| Pushes {
            sent: if idle { shared.sent.load(Ordering::SeqCst) } else { measured.sent },
            accepted: if idle { shared.accepted.load(Ordering::SeqCst) } else { measured.accepted },
            refused: shared.refused().values().map(Vec::len).sum::<usize>() as u64,
            per_second: if idle { 0.0 } else { per_second(measured.accepted) },
            stalled: sent.stalled,
            latency: Latency::new(&sent.latency),
        });
        let deliveries = outcome.sent.as_ref().map(|_| Deliveries {
            received: if idle { shared.delivered() } else { measured.delivered },
            per_second: if idle { 0.0 } else { per_second(measured.delivered) },
            missing: received.missing,
            duplicated: received.duplicated,
            disordered: (!outcome.races).then_some(received.disordered),
            gaps: received.gaps,
            per_frame: received.items as f64 / received.frames.max(1) as f64,
            foreign: received.foreign,
            slow: received.slow,
            latency: Latency::new(&received.latency),
        });
        let server = (!load.pid.is_empty()).then(|| {
            let each = |seconds: f64, count: u64| (count > 0).then(|| seconds * 1e6 / count as f64);
            let Cpu { user, system } = measured.server;
            Server {
                user_seconds: user,
                system_seconds: system,
                deliveries_per_cpu_second: (measured.delivered > 0)
                    .then(|| measured.delivered as f64 / (user + system)),
                user_us_per_delivery: each(user, measured.delivered),
                system_us_per_delivery: each(system, measured.delivered),
                cpu_us_per_push: each(user + system, measured.accepted),
                idle_us_per_connection_second: idle
                    .then(|| (user + system) * 1e6 / measured.seconds / joined.max(1) as f64),
                rss_before: memory.before,
                rss_joined: memory.joined,
                rss_after: memory.after,
                rss_rested: memory.rested,
                rss_per_connection: memory.joined.saturating_sub(memory.before) as f64 / joined.max(1) as f64,
            }
        });
        Self {
            scenario: kind.name(),
            profile: load.profile.name(),
            via: outcome.via.map(|via| match via {
                Via::Http => "http",
                Via::Grpc => "grpc",
            }),
            connections: load.connections,
            cards: layout.cards,
            rooms: if layout.subscriptions > 0 { layout.rooms } else { 0 },
            size: load.size,
            seconds: measured.seconds,
            joins: Joins {
                answered: joined,
                unanswered: u64::from(load.connections) - joined,
                per_second: joined as f64 / outcome.join_seconds.max(1e-9),
                again: shared.rejoined.load(Ordering::SeqCst),
            },
            pushes,
            latest_ms: (kind == Kind::Merged).then(|| f64::from(load.merge_window) + MERGE_GRACE_MS),
            deliveries,
            server,
            client: Client { user_seconds: measured.client.user, system_seconds: measured.client.system },
            endings: received.endings,
            mishaps: shared.mishaps(),
            timeline: scenario::slices(&received.timeline, measured.from, measured.to).to_vec(),
            memory: outcome.memory_series,
        }
    }

    /// What `--check` minds.
    pub(crate) fn complaints(&self) -> Vec<String> {
        let mut complaints = Vec::new();
        let mut mind = |count: u64, what: &str| {
            if count > 0 {
                complaints.push(format!("{} {what}", thousands(count)));
            }
        };
        mind(self.joins.unanswered, "joins unanswered");
        if let Some(pushes) = &self.pushes {
            mind(pushes.refused, "pushes refused or unanswered");
            mind(u64::from(pushes.stalled), "rounds given up");
            mind(u64::from(pushes.accepted == 0), "pushes were to be accepted, none was");
        }
        if let Some(deliveries) = &self.deliveries {
            mind(deliveries.missing, "deliveries missing");
            mind(deliveries.duplicated, "deliveries duplicated");
            mind(deliveries.disordered.unwrap_or(0), "deliveries out of order");
            mind(deliveries.gaps, "gaps in streams");
            if let Some(bound) = self.latest_ms
                && deliveries.latency.p99 > bound
            {
                complaints.push(format!("p99 is {:.1} ms, not at most {bound} ms", deliveries.latency.p99));
            }
        }
        complaints
    }

    /// Prints the table, writes JSON and plot where asked.
    pub(crate) fn publish(&self, load: &Load) -> Result<()> {
        let to_stdout = load.json.as_deref() == Some(Path::new("-"));
        if to_stdout {
            eprint!("{}", self.table());
        } else {
            print!("{}", self.table());
        }
        write_json(load, self)?;
        if let Some(path) = &load.plot {
            fs::write(path, plot::draw(self)).map_err(|error| format!("{}: {error}", path.display()))?;
        }
        Ok(())
    }
}

/// Writes what `--json` asks for.
pub(crate) fn write_json(load: &Load, value: &impl Serialize) -> Result<()> {
    let Some(path) = &load.json else { return Ok(()) };
    let mut json = serde_json::to_string_pretty(value)?;
    json.push('\n');
    if path == Path::new("-") {
        print!("{json}");
        return Ok(());
    }
    fs::write(path, json).map_err(|error| format!("{}: {error}", path.display()).into())
}

/// 1234567 as 1,234,567.
pub(crate) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Deliveries a second, from the slices.
pub(crate) fn rates(timeline: &[u64]) -> Vec<f64> {
    timeline.iter().map(|count| *count as f64 / SLICE.as_secs_f64()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_by_thousands() {
        assert_eq!(thousands(0), "0");
        assert_eq!(thousands(999), "999");
        assert_eq!(thousands(1_234_567), "1,234,567");
    }

    #[test]
    fn percentiles_are_those_of_the_histogram() {
        let mut histogram = crate::push::histogram();
        for ms in 1..=1000_u64 {
            histogram.saturating_record(ms * 1_000_000);
        }
        let latency = Latency::new(&histogram);
        assert!((latency.p50 - 500.0).abs() < 1.0 && (latency.p99 - 990.0).abs() < 2.0, "{latency:?}");
        assert!(latency.curve.is_sorted_by(|a, b| a.0 <= b.0 && a.1 <= b.1));
    }
}
