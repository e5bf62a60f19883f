//! The report for people.

use std::fmt::Write as _;

use super::{Latency, Report, Server, thousands};

impl Report {
    /// Rows of a name and what there is to say.
    pub(crate) fn table(&self) -> String {
        let mut rows = Vec::new();
        let mut row = |name: &str, value: String| rows.push((name.to_owned(), value));
        row(
            "connections",
            format!(
                "{} as {} cards{}",
                thousands(u64::from(self.connections)),
                thousands(u64::from(self.cards)),
                match self.rooms {
                    0 => String::new(),
                    rooms => format!(", in {} rooms", thousands(u64::from(rooms))),
                }
            ),
        );
        let again = if self.joins.again > 0 { format!(", {} came back", self.joins.again) } else { String::new() };
        row(
            "joins",
            format!(
                "{} answered, {} not; {}/s{again}",
                thousands(self.joins.answered),
                self.joins.unanswered,
                thousands(self.joins.per_second as u64)
            ),
        );
        row("time", format!("{:.2} s", self.seconds));
        if let Some(pushes) = &self.pushes {
            row(
                "pushes",
                format!(
                    "{} accepted, {} refused; {}/s over {}",
                    thousands(pushes.accepted),
                    thousands(pushes.refused),
                    thousands(pushes.per_second as u64),
                    self.via.unwrap_or("-")
                ),
            );
            row("  answered", pushes.latency.line());
        }
        if let Some(deliveries) = &self.deliveries {
            row(
                "deliveries",
                format!("{}; {}/s", thousands(deliveries.received), thousands(deliveries.per_second as u64)),
            );
            row("  received", deliveries.latency.line());
            if deliveries.per_frame > 1.0 {
                row("  in a frame", format!("{:.1}", deliveries.per_frame));
            }
            let disordered = deliveries
                .disordered
                .map_or("order: pushes raced".into(), |n| format!("{} out of order", thousands(n)));
            row(
                "  missing",
                format!(
                    "{}, {} duplicated, {disordered}",
                    thousands(deliveries.missing),
                    thousands(deliveries.duplicated)
                ),
            );
            if deliveries.slow > 0 || deliveries.foreign > 0 {
                row(
                    "  beside",
                    format!(
                        "{} to slow clients, {} of other runs",
                        thousands(deliveries.slow),
                        thousands(deliveries.foreign)
                    ),
                );
            }
        }
        if let Some(server) = &self.server {
            server.rows(&mut row);
        }
        row(
            "client CPU",
            format!("{:.2} s user, {:.2} s system", self.client.user_seconds, self.client.system_seconds),
        );
        for (ending, count) in &self.endings {
            row("ended", format!("{} with {ending}", thousands(*count)));
        }
        for (mishap, count) in &self.mishaps {
            row("mishap", format!("{} × {mishap}", thousands(*count)));
        }
        let mut text = format!("{} · {} · {} B\n", self.scenario, self.profile, self.size);
        let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        for (name, value) in rows {
            let _ = writeln!(text, "  {name:width$}  {value}");
        }
        text
    }
}

impl Server {
    fn rows(&self, row: &mut impl FnMut(&str, String)) {
        row("server CPU", format!("{:.2} s user, {:.2} s system", self.user_seconds, self.system_seconds));
        if let (Some(rate), Some(user), Some(system)) =
            (self.deliveries_per_cpu_second, self.user_us_per_delivery, self.system_us_per_delivery)
        {
            row(
                "  a delivery",
                format!("{user:.2} µs user, {system:.2} µs system; {} for a CPU-second", thousands(rate as u64)),
            );
        }
        if let Some(push) = self.cpu_us_per_push {
            row("  a push", format!("{push:.1} µs"));
        }
        if let Some(idle) = self.idle_us_per_connection_second {
            row("  idle", format!("{idle:.2} µs for each connection and second"));
        }
        let mib = |bytes: u64| format!("{:.1}", bytes as f64 / 1048576.0);
        let rested = self.rss_rested.map(|bytes| format!(", {} rested", mib(bytes))).unwrap_or_default();
        row(
            "server RSS",
            format!(
                "{} MiB before, {} joined, {} after{rested}",
                mib(self.rss_before),
                mib(self.rss_joined),
                mib(self.rss_after)
            ),
        );
        row("  a connection", format!("{:.0} B", self.rss_per_connection));
    }
}

impl Latency {
    pub(crate) fn line(&self) -> String {
        let Self { p50, p90, p99, p999, max, .. } = self;
        format!("p50 {p50:.2} ms, p90 {p90:.2}, p99 {p99:.2}, p99.9 {p999:.2}, max {max:.2}")
    }
}
