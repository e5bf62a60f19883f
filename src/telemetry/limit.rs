//! Lines that repeat: from one place of the program only so many are shown in a period, and how many more there were is told
//! when it is over. So nobody outside can fill the log, whatever he causes.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tracing::{Event, Level, Metadata, Subscriber, callsite::Identifier};
use tracing_subscriber::{Layer, layer::Context};

use super::Counter;

/// The target of the lines that tell of others: each place has one in a period, so they are not limited themselves.
const OWN: &str = "oxipush::log";

/// A cheap clone.
#[derive(Clone)]
pub(super) struct RepeatLimit {
    /// Lines of one place in a period; 0: no bound.
    max: u32,
    period: Duration,
    withheld: Counter,
    /// No more than the program has places.
    places: Arc<Mutex<HashMap<Identifier, LinePlace>>>,
}

/// A place of the program that writes lines.
struct LinePlace {
    metadata: &'static Metadata<'static>,
    /// When the period began.
    since: Instant,
    shown: u32,
    withheld: u64,
    /// Withheld in periods before this one, and not reported yet.
    due: u64,
}

impl RepeatLimit {
    /// Counts in `withheld` what is not shown.
    pub(super) fn new(max: u32, period: Duration, withheld: Counter) -> Self {
        Self { max, period, withheld, places: Arc::default() }
    }

    /// Whether one more line of this place is shown.
    fn admits(&self, metadata: &'static Metadata<'static>, now: Instant) -> bool {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let place = places.entry(metadata.callsite()).or_insert(LinePlace {
            metadata,
            since: now,
            shown: 0,
            withheld: 0,
            due: 0,
        });
        if now.duration_since(place.since) >= self.period {
            place.since = now;
            place.shown = 0;
            place.due += std::mem::take(&mut place.withheld);
        }
        let shown = place.shown < self.max;
        if shown {
            place.shown += 1;
        } else {
            place.withheld += 1;
        }
        shown
    }

    /// Takes what was withheld in periods that are over, or in all.
    fn take_withheld(&self, now: Instant, all: bool) -> Vec<(&'static Metadata<'static>, u64)> {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let withheld = places.values_mut().map(|place| {
            if all || now.duration_since(place.since) >= self.period {
                place.due += std::mem::take(&mut place.withheld);
            }
            (place.metadata, std::mem::take(&mut place.due))
        });
        withheld.filter(|(_, more)| *more > 0).collect()
    }

    /// Reports what was withheld in periods that are over; at the end of the log of all.
    pub(super) fn report(&self, all: bool) {
        for (metadata, more) in self.take_withheld(Instant::now(), all) {
            let place = format!("{}:{}", metadata.target(), metadata.line().unwrap_or(0));
            // as the lines that it stands for, so that no filter parts them
            match *metadata.level() {
                Level::ERROR => tracing::error!(target: OWN, place, more, "more lines of this place were not shown"),
                Level::WARN => tracing::warn!(target: OWN, place, more, "more lines of this place were not shown"),
                _ => tracing::info!(target: OWN, place, more, "more lines of this place were not shown"),
            }
        }
    }
}

impl<S: Subscriber> Layer<S> for RepeatLimit {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        let metadata = event.metadata();
        // who turns debug or trace on wants every line
        if self.max == 0 || *metadata.level() > Level::INFO || metadata.target() == OWN {
            return true;
        }
        let shown = self.admits(metadata, Instant::now());
        if !shown {
            self.withheld.inc();
        }
        shown
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io;

    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    #[derive(Clone, Default)]
    struct LogLines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for LogLines {
        fn write(&mut self, text: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(text)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl LogLines {
        fn with(&self, what: &str) -> usize {
            let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
            text.lines().filter(|line| line.contains(what)).count()
        }
    }

    fn log(limit: &RepeatLimit) -> (LogLines, tracing::subscriber::DefaultGuard) {
        let lines = LogLines::default();
        let writer = lines.clone();
        let fmt = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(move || writer.clone());
        let subscriber = tracing_subscriber::registry().with(limit.clone()).with(fmt);
        (lines, tracing::subscriber::set_default(subscriber))
    }

    #[test]
    fn of_many_lines_of_one_place_some_are_shown_and_the_rest_is_counted_and_told() {
        let limit = RepeatLimit::new(3, Duration::from_secs(3600), Counter::default());
        let (lines, _log) = log(&limit);
        for attempts in 0..5000 {
            tracing::error!(attempts, "the first place");
        }
        tracing::warn!("the second place");
        assert_eq!((lines.with("the first place"), lines.with("the second place")), (3, 1));
        assert_eq!(limit.withheld.get(), 4997);
        limit.report(false);
        assert_eq!(lines.with("more="), 0, "the period is not over");
        limit.report(true);
        limit.report(true);
        assert_eq!(lines.with("more=4997"), 1);
        assert_eq!(lines.with("more="), 1);
    }

    #[test]
    fn a_new_period_shows_lines_again_and_forgets_none_of_the_old() {
        let limit = RepeatLimit::new(1, Duration::ZERO, Counter::default());
        let (lines, _log) = log(&limit);
        for _ in 0..3 {
            tracing::info!("a line");
        }
        assert_eq!((lines.with("a line"), limit.withheld.get()), (3, 0));
    }

    #[test]
    fn lines_that_never_cease_are_told_of_after_each_period() {
        let period = Duration::from_secs(60);
        let limit = RepeatLimit::new(1, period, Counter::default());
        let (_lines, _log) = log(&limit);
        tracing::info!("a line");
        let (metadata, since) =
            limit.places.lock().unwrap().values().map(|place| (place.metadata, place.since)).next().unwrap();
        assert!((0..5).all(|_| !limit.admits(metadata, since)));
        assert!(limit.take_withheld(since, false).is_empty());
        // the next period begins with the next line, before anybody looked
        assert!(limit.admits(metadata, since + period) && !limit.admits(metadata, since + period));
        let told: Vec<u64> = limit.take_withheld(since + period, false).iter().map(|(_, more)| *more).collect();
        assert_eq!(told, [5]);
    }

    #[test]
    fn zero_is_no_bound_and_debug_has_none() {
        for (max, expected) in [(0, 100), (1, 50)] {
            let limit = RepeatLimit::new(max, Duration::from_secs(3600), Counter::default());
            let (lines, _log) = log(&limit);
            for _ in 0..50 {
                tracing::debug!("a line");
            }
            for _ in 0..50 {
                tracing::warn!("a line");
            }
            assert_eq!(lines.with("a line"), expected + max as usize);
        }
    }
}
