//! A report drawn as SVG: latency by percentile, throughput over time.

use std::fmt::Write as _;

use crate::{
    receive::SLICE,
    report::{self, Latency, Report},
};

const WIDTH: f64 = 880.0;
const HEIGHT: f64 = 640.0;
const LEFT: f64 = 84.0;
const RIGHT: f64 = WIDTH - 32.0;

const STYLE: &str = "text{font:13px system-ui,-apple-system,'Segoe UI',Helvetica,Arial,sans-serif;fill:#52606d}\
.title{font-size:19px;font-weight:600;fill:#1f2933}.head{font-weight:600;fill:#3e4c59}.figure{font-size:21px;font-weight:600;fill:#1f2933}\
.grid{stroke:#e4e7eb;stroke-width:1}.axis{stroke:#9aa5b1;stroke-width:1}\
.delivery{stroke:#0f7bc4}.push{stroke:#e07b39}.line{fill:none;stroke-width:2.5;stroke-linejoin:round;stroke-linecap:round}\
.area{fill:#0f7bc4;opacity:.14}.end{text-anchor:end}.middle{text-anchor:middle}";

/// A plain rectangle of the drawing with its scales: both map 0..1 to it.
struct Panel {
    top: f64,
    bottom: f64,
}

impl Panel {
    fn x(&self, share: f64) -> f64 {
        LEFT + share * (RIGHT - LEFT)
    }

    fn y(&self, share: f64) -> f64 {
        self.bottom - share * (self.bottom - self.top)
    }

    fn polyline(&self, points: impl Iterator<Item = (f64, f64)>) -> String {
        points.map(|(x, y)| format!("{:.1},{:.1} ", self.x(x), self.y(y))).collect()
    }

    fn horizontal(&self, svg: &mut String, share: f64, label: &str) {
        let (y, class) = (self.y(share), if share == 0.0 { "axis" } else { "grid" });
        let _ = writeln!(svg, r#"<line class="{class}" x1="{LEFT}" y1="{y:.1}" x2="{RIGHT}" y2="{y:.1}"/>"#);
        let _ = writeln!(svg, r#"<text class="end" x="{:.1}" y="{:.1}">{label}</text>"#, LEFT - 10.0, y + 4.5);
    }

    fn vertical(&self, svg: &mut String, share: f64, label: &str) {
        let (x, top, bottom) = (self.x(share), self.top, self.bottom);
        let _ = writeln!(svg, r#"<line class="grid" x1="{x:.1}" y1="{top}" x2="{x:.1}" y2="{bottom}"/>"#);
        let _ = writeln!(svg, r#"<text class="middle" x="{x:.1}" y="{:.1}">{label}</text>"#, bottom + 20.0);
    }
}

/// The whole drawing.
pub(crate) fn draw(report: &Report) -> String {
    let mut svg = format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" role="img">"#
    );
    let _ = writeln!(svg, "<style>{STYLE}</style>");
    let _ = writeln!(
        svg,
        r##"<rect width="{WIDTH}" height="{HEIGHT}" rx="10" fill="#fff"/><rect x=".5" y=".5" width="{}" height="{}" rx="10" fill="none" stroke="#e4e7eb"/>"##,
        WIDTH - 1.0,
        HEIGHT - 1.0
    );
    let _ = writeln!(
        svg,
        r#"<text class="title" x="32" y="42">{} · {} · {} connections, {} cards, {} B</text>"#,
        report.scenario,
        report.profile,
        report::thousands(u64::from(report.connections)),
        report::thousands(u64::from(report.cards)),
        report.size
    );
    figures(&mut svg, report);
    latency(&mut svg, report);
    throughput(&mut svg, report);
    svg.push_str("</svg>\n");
    svg
}

/// Up to four large figures below the title.
fn figures(svg: &mut String, report: &Report) {
    let mut figures = Vec::new();
    if let Some(deliveries) = &report.deliveries {
        figures.push((report::thousands(deliveries.per_second as u64), "deliveries a second"));
        figures.push((format!("{} ms", short(deliveries.latency.p99)), "p99, push to receipt"));
    }
    if let Some(server) = &report.server {
        match (server.user_us_per_delivery, server.idle_us_per_connection_second) {
            (Some(user), _) => figures.push((format!("{user:.2} µs"), "user CPU for a delivery")),
            (None, Some(idle)) => figures.push((format!("{idle:.2} µs"), "CPU for a connection and second")),
            (None, None) => {}
        }
        // a server that had connections before uses their memory again: then this run cannot tell
        if server.rss_per_connection >= 512.0 {
            figures.push((format!("{:.1} KiB", server.rss_per_connection / 1024.0), "memory for a connection"));
        }
    }
    if figures.len() < 4 {
        figures.push((report::thousands(report.joins.per_second as u64), "joins a second"));
    }
    for (index, (figure, label)) in figures.iter().enumerate() {
        let x = 32.0 + 212.0 * index as f64;
        let _ =
            writeln!(svg, r#"<text class="figure" x="{x}" y="84">{figure}</text><text x="{x}" y="104">{label}</text>"#);
    }
}

fn latency(svg: &mut String, report: &Report) {
    let panel = Panel { top: 160.0, bottom: 360.0 };
    let _ = writeln!(svg, r#"<text class="head" x="32" y="142">latency by percentile, ms</text>"#);
    let lines: Vec<(&str, &str, &Latency)> = [
        report.deliveries.as_ref().map(|deliveries| ("delivery", "push to receipt", &deliveries.latency)),
        report.pushes.as_ref().map(|pushes| ("push", "push to acknowledgement", &pushes.latency)),
    ]
    .into_iter()
    .flatten()
    .collect();
    // whole decades around all values
    let values = || lines.iter().flat_map(|(.., latency)| latency.curve.iter().map(|(_, ms)| ms.max(0.001).log10()));
    let low = values().fold(f64::INFINITY, f64::min).floor();
    let high = values().fold(f64::NEG_INFINITY, f64::max).ceil();
    let (low, high) = if low < high { (low, high) } else { (-1.0, 2.0) };
    for decade in low as i32..=high as i32 {
        panel.horizontal(svg, (f64::from(decade) - low) / (high - low), &short(10_f64.powi(decade)));
    }
    /// The last percentile drawn is 1 − 10^−NINES.
    const NINES: f64 = 5.0;
    for (quantile, label) in [(0.0, "0"), (0.5, "50"), (0.9, "90"), (0.99, "99"), (0.999, "99.9"), (0.9999, "99.99")] {
        panel.vertical(svg, -(1.0_f64 - quantile).log10() / NINES, label);
    }
    for (index, (class, name, latency)) in lines.iter().enumerate() {
        let points = latency
            .curve
            .iter()
            .map(|(quantile, ms)| (-(1.0 - quantile).log10() / NINES, (ms.max(0.001).log10() - low) / (high - low)));
        let _ = writeln!(svg, r#"<polyline class="line {class}" points="{}"/>"#, panel.polyline(points).trim_end());
        let (x, y) = (RIGHT - 370.0 + 160.0 * index as f64, 137.5);
        let _ = writeln!(
            svg,
            r#"<line class="line {class}" x1="{x}" y1="{y}" x2="{}" y2="{y}"/><text x="{}" y="{}">{name}</text>"#,
            x + 22.0,
            x + 30.0,
            y + 4.5
        );
    }
}

fn throughput(svg: &mut String, report: &Report) {
    let panel = Panel { top: 440.0, bottom: 590.0 };
    let _ = writeln!(svg, r#"<text class="head" x="32" y="422">deliveries a second, over time</text>"#);
    let rates = report::rates(whole(&report.timeline));
    let most = nice(rates.iter().copied().fold(0.0, f64::max));
    for step in 0..=4 {
        let share = f64::from(step) / 4.0;
        panel.horizontal(svg, share, &amount(most * share));
    }
    let seconds = rates.len().saturating_sub(1) as f64 * SLICE.as_secs_f64();
    if seconds > 0.0 {
        let every = nice(seconds / 8.0);
        for step in 0..=(seconds / every) as u32 {
            let second = every * f64::from(step);
            panel.vertical(svg, second / seconds, &format!("{} s", short(second)));
        }
    }
    if rates.len() > 1 {
        let last = (rates.len() - 1) as f64;
        let points = panel.polyline(rates.iter().enumerate().map(|(index, rate)| (index as f64 / last, rate / most)));
        let (x0, x1, y0) = (panel.x(0.0), panel.x(1.0), panel.y(0.0));
        let _ = writeln!(svg, r#"<polygon class="area" points="{x0:.1},{y0:.1} {points}{x1:.1},{y0:.1}"/>"#);
        let _ = writeln!(svg, r#"<polyline class="line delivery" points="{}"/>"#, points.trim_end());
    }
}

/// Without the slices at both ends, which the run fills only in part.
fn whole(timeline: &[u64]) -> &[u64] {
    match timeline {
        [_, whole @ .., _] if whole.len() > 3 => whole,
        all => all,
    }
}

/// The next of 1, 2, 4, 5 × 10^n.
fn nice(most: f64) -> f64 {
    if most <= 0.0 {
        return 1.0;
    }
    let decade = 10_f64.powf(most.log10().floor());
    let factor = [1.0, 2.0, 4.0, 5.0, 8.0, 10.0].into_iter().find(|factor| factor * decade >= most).unwrap_or(10.0);
    factor * decade
}

fn amount(number: f64) -> String {
    if number >= 1e6 {
        format!("{} M", short(number / 1e6))
    } else if number >= 1e3 {
        format!("{} k", short(number / 1e3))
    } else {
        short(number)
    }
}

/// As few digits as tell it.
fn short(number: f64) -> String {
    let text = if number >= 100.0 { format!("{number:.0}") } else { format!("{number:.2}") };
    if text.contains('.') && number >= 0.01 || number == 0.0 {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else if number < 0.01 {
        format!("{number}")
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_end_on_round_numbers() {
        assert_eq!(nice(0.0), 1.0);
        assert_eq!(nice(73_000.0), 80_000.0);
        assert_eq!(nice(100.0), 100.0);
        assert_eq!(amount(150_000.0), "150 k");
        assert_eq!(amount(2_500_000.0), "2.5 M");
        assert_eq!(short(0.001), "0.001");
        assert_eq!(short(10.0), "10");
    }
}
