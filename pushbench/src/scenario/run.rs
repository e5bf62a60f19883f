//! A run from the first connect to the report.

use std::{
    sync::{Arc, atomic::Ordering},
    thread,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};

use super::Kind;
use crate::{
    Result,
    cli::{Load, Via},
    files,
    gateway::Gateway,
    layout::Layout,
    pace::{End, Pace, Plan},
    process::{Cpu, Usage},
    profile::Profile,
    push::{Sender, Sent},
    receive::{Clients, Received, Receivers, SLICE},
    report::{self, Report},
    shared::{Shared, ns},
};

/// From so many targets on, one push for each under way is pressure enough.
const MANY_TARGETS: u32 = 16;

/// Time between two looks at a run.
const LOOK: Duration = Duration::from_millis(50);

/// Everything of one run that its phases need.
struct Run<'a> {
    kind: Kind,
    load: &'a Load,
    shared: Arc<Shared>,
    receivers: Arc<Vec<u32>>,
    counted: u64,
    bar: ProgressBar,
    /// (seconds since the start, resident bytes).
    memory: Vec<(f64, u64)>,
    memory_due: Instant,
}

/// CPU and time of the measured phase.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Measured {
    pub(crate) server: Cpu,
    pub(crate) client: Cpu,
    pub(crate) seconds: f64,
    pub(crate) delivered: u64,
    pub(crate) sent: u64,
    pub(crate) accepted: u64,
    /// Since the run's epoch, ns.
    pub(crate) from: u64,
    pub(crate) to: u64,
}

/// Resident bytes of the server at some moments.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Memory {
    pub(crate) before: u64,
    pub(crate) joined: u64,
    pub(crate) after: u64,
    /// After the rest that follows an idle run's burst.
    pub(crate) rested: Option<u64>,
}

/// What [`Report::new`] makes its figures of.
pub(crate) struct Outcome {
    pub(crate) layout: Layout,
    pub(crate) via: Option<Via>,
    pub(crate) measured: Measured,
    pub(crate) memory: Memory,
    pub(crate) memory_series: Vec<(f64, u64)>,
    pub(crate) joined: u64,
    pub(crate) join_seconds: f64,
    pub(crate) received: Received,
    pub(crate) sent: Option<Sent>,
    pub(crate) shared: Arc<Shared>,
    /// Several ways for pushes to one card race each other: then order is nobody's promise.
    pub(crate) races: bool,
}

/// Runs a scenario, on a gateway of its own where one is named.
pub(crate) fn run(kind: Kind, load: &Load) -> Result<Report> {
    let Some(program) = &load.gateway else { return run_on(kind, load) };
    let mut settings = Vec::new();
    if kind == Kind::Merged {
        settings.push(("ROOMS__MERGE_WINDOW", format!("{}ms", load.merge_window)));
        settings.push(("ROOMS__MERGE_COUNT", load.merge_count.to_string()));
    }
    let gateway = Gateway::start(program, &settings)?;
    run_on(kind, &gateway.load(load))
}

fn run_on(kind: Kind, load: &Load) -> Result<Report> {
    files::ensure(u64::from(load.connections + load.http_connections))?;
    let layout = kind.layout(load)?;
    let sender = match kind {
        Kind::Idle if load.http.is_none() && load.grpc.is_none() => None,
        _ => Some(Sender::new(load, layout.aim)?),
    };
    let mut clients = Clients::new(load)?;
    if matches!(kind, Kind::Slow | Kind::Soak) {
        clients.slow = (f64::from(load.connections) * load.slow_share.clamp(0.0, 1.0)) as u32;
    }
    // go-push's clients have no choice
    clients.merge |= kind == Kind::Merged && load.profile == Profile::Oxipush;
    if !matches!(kind, Kind::Churn | Kind::Soak) {
        clients.churn = 0.0;
    }
    let shared = Arc::new(Shared::new(layout));
    let mut counts = vec![0; shared.targets() as usize];
    for number in clients.slow..load.connections {
        counts[layout.target(number) as usize] += 1;
    }
    let bar = if load.quiet { ProgressBar::hidden() } else { ProgressBar::new(0) };
    let mut run = Run {
        kind,
        load,
        counted: u64::from(load.connections - clients.slow),
        shared,
        receivers: Arc::new(counts),
        bar,
        memory: Vec::new(),
        memory_due: Instant::now(),
    };
    let outcome = run.go(&clients, sender.as_ref());
    run.bar.finish_and_clear();
    Ok(Report::new(kind, load, outcome?))
}

impl Run<'_> {
    fn go(&mut self, clients: &Clients, sender: Option<&Sender>) -> Result<Outcome> {
        let mut memory = Memory { before: self.usage()?.rss, ..Memory::default() };
        let start = self.shared.now();
        let receivers = Receivers::start(clients, &self.shared)?;
        self.join(&receivers)?;
        let joined = self.shared.joined.load(Ordering::SeqCst) as u64;
        let join_seconds = self.shared.last_join.load(Ordering::SeqCst).saturating_sub(start) as f64 / 1e9;
        if joined == 0 {
            let mishaps = self.shared.mishaps().into_keys().collect::<Vec<_>>().join("; ");
            return Err(format!("nobody could join: {mishaps}").into());
        }
        self.rest(Duration::from_secs_f64(self.load.settle))?;
        memory.joined = self.usage()?.rss;
        let end = self.kind.end(self.load);
        let mut sent = None;
        let measured;
        let mut races = false;
        match sender {
            Some(sender) if self.kind != Kind::Idle => {
                let plan = self.plan(sender, end);
                races = sender.races() && !plan.exclusive && plan.window > 1 && plan.pace != Pace::Rounds { burst: 1 };
                let warmup = self.kind.warmup(self.load, end);
                if warmup > 0 {
                    self.phase(sender, Plan { end: End::Pushes(warmup), ..plan.clone() }, &receivers)?;
                }
                receivers.reset()?;
                self.shared.churn.store(clients.churn > 0.0, Ordering::SeqCst);
                let (latency, figures) = self.measured(|run| run.phase(sender, plan, &receivers))?;
                (sent, measured) = (Some(latency), figures);
            }
            _ => {
                let seconds = self.load.duration.unwrap_or(10.0);
                let ((), figures) = self.measured(|run| run.rest(Duration::from_secs_f64(seconds)))?;
                measured = Measured { seconds, ..figures };
                if let Some(sender) = sender.filter(|_| self.load.after_burst > 0) {
                    memory.after = self.usage()?.rss;
                    let pushes = u64::from(self.load.after_burst) * u64::from(self.shared.targets());
                    let plan = Plan { pace: Pace::Press, ..self.plan(sender, End::Pushes(pushes)) };
                    sent = Some(self.phase(sender, plan, &receivers)?);
                    self.rest(Duration::from_secs(10))?;
                    memory.rested = Some(self.usage()?.rss);
                }
            }
        }
        if memory.after == 0 {
            memory.after = self.usage()?.rss;
        }
        Ok(Outcome {
            layout: self.shared.layout,
            via: sender.filter(|_| sent.is_some()).map(Sender::via),
            measured,
            memory,
            memory_series: std::mem::take(&mut self.memory),
            joined,
            join_seconds,
            received: receivers.stop()?,
            sent,
            shared: Arc::clone(&self.shared),
            races,
        })
    }

    fn plan(&self, sender: &Sender, end: End) -> Plan {
        let pace = self.kind.pace(self.load);
        let own = match (self.kind, sender.via()) {
            (Kind::Pressed | Kind::Groups, _) => 64,
            (_, Via::Http) => sender.most(),
            (_, Via::Grpc) => 1024,
        };
        let window = self.load.outstanding.map_or(own, |window| window as usize).min(sender.most());
        Plan {
            pace,
            end,
            window,
            // rounds wait for each other anyway; with a few cards only, waiting would take the pressure away
            exclusive: sender.races() && !matches!(pace, Pace::Rounds { .. }) && self.shared.targets() >= MANY_TARGETS,
            receivers: Arc::clone(&self.receivers),
            patience: Duration::from_secs_f64(self.load.patience),
        }
    }

    fn join(&mut self, receivers: &Receivers) -> Result<()> {
        let all = u64::from(self.load.connections);
        self.stage("joining", all);
        let (mut best, mut since) = (0, Instant::now());
        loop {
            let joined = self.shared.joined.load(Ordering::SeqCst);
            let failed = self.shared.failed.load(Ordering::SeqCst);
            self.bar.set_position(joined as u64);
            if (joined + failed) as u64 >= all || receivers.broken() {
                return Ok(());
            }
            if joined + failed > best {
                (best, since) = (joined + failed, Instant::now());
            } else if since.elapsed().as_secs_f64() >= self.load.patience {
                self.shared.mishap("joins that nobody answered");
                return Ok(());
            }
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Sends a plan and waits for the last delivery.
    fn phase(&mut self, sender: &Sender, plan: Plan, receivers: &Receivers) -> Result<Sent> {
        let from = self.shared.sent.load(Ordering::SeqCst);
        let deadline = if let End::After(time) = plan.end { Some((Instant::now(), time)) } else { None };
        let stage = match plan.end {
            End::Pushes(pushes) => pushes,
            End::After(time) => time.as_millis() as u64,
        };
        self.stage(self.kind.name(), stage);
        let sent = thread::scope(|scope| {
            let shared = Arc::clone(&self.shared);
            let sending =
                thread::Builder::new().name("pushes".into()).spawn_scoped(scope, move || sender.run(&shared, plan))?;
            while !sending.is_finished() {
                thread::sleep(LOOK);
                self.look()?;
                self.bar.set_position(match deadline {
                    Some((start, _)) => start.elapsed().as_millis() as u64,
                    None => self.shared.sent.load(Ordering::SeqCst) - from,
                });
            }
            sending.join().map_err(|_| "the sending thread panicked")?
        })?;
        self.wait_for_deliveries(receivers);
        Ok(sent)
    }

    /// Until all that was accepted has arrived, or nothing arrives any more.
    fn wait_for_deliveries(&mut self, receivers: &Receivers) {
        let refused = self.shared.refused();
        let expected: u64 = (0..self.shared.targets())
            .map(|target| {
                let refused = refused.get(&target).map_or(0, Vec::len) as u64;
                let pushes = u64::from(self.shared.numbered(target)) - refused;
                pushes * u64::from(self.receivers[target as usize])
            })
            .sum();
        // connections that come and go get fewer: then a second of silence is the end
        let churn = self.shared.churn.swap(false, Ordering::SeqCst);
        let patience = if churn { 1.0 } else { self.load.patience };
        let (mut last, mut since) = (self.shared.delivered(), Instant::now());
        while last < expected && since.elapsed().as_secs_f64() < patience && !receivers.broken() {
            thread::sleep(Duration::from_millis(1));
            let delivered = self.shared.delivered();
            if delivered > last {
                (last, since) = (delivered, Instant::now());
            }
        }
    }

    /// Runs a phase and takes what server and client used meanwhile.
    fn measured<T>(&mut self, phase: impl FnOnce(&mut Self) -> Result<T>) -> Result<(T, Measured)> {
        let own = [std::process::id()];
        let (server, client) = (self.usage()?, Usage::of(&own)?);
        let (delivered, sent) = (self.shared.delivered(), self.shared.sent.load(Ordering::SeqCst));
        let accepted = self.shared.accepted.load(Ordering::SeqCst);
        let from = self.shared.now();
        let result = phase(self)?;
        let to = self.shared.now();
        let last = self.shared.last_delivery();
        let measured = Measured {
            server: self.usage()?.since(&server),
            client: Usage::of(&own)?.since(&client),
            seconds: (if last > from { last } else { to }).saturating_sub(from) as f64 / 1e9,
            delivered: self.shared.delivered() - delivered,
            sent: self.shared.sent.load(Ordering::SeqCst) - sent,
            accepted: self.shared.accepted.load(Ordering::SeqCst) - accepted,
            from,
            to,
        };
        Ok((result, measured))
    }

    fn rest(&mut self, time: Duration) -> Result<()> {
        self.stage("resting", time.as_millis() as u64);
        let start = Instant::now();
        while start.elapsed() < time {
            thread::sleep(LOOK.min(time - start.elapsed()));
            self.bar.set_position(start.elapsed().as_millis() as u64);
            self.look()?;
        }
        Ok(())
    }

    fn usage(&self) -> Result<Usage> {
        Usage::of(&self.load.pid)
    }

    /// Once a second: the server's memory; each time: the bar's text.
    fn look(&mut self) -> Result<()> {
        if self.memory_due <= Instant::now() {
            self.memory_due = Instant::now() + Duration::from_secs(1);
            let seconds = self.shared.now() as f64 / ns(Duration::from_secs(1)) as f64;
            if !self.load.pid.is_empty() {
                self.memory.push((seconds, self.usage()?.rss));
            }
        }
        let closed = self.shared.closed.load(Ordering::Relaxed);
        self.bar.set_message(format!(
            "{} pushes, {} deliveries{}",
            report::thousands(self.shared.accepted.load(Ordering::Relaxed)),
            report::thousands(self.shared.delivered()),
            if closed > 0 { format!(", {closed} closed by the server") } else { String::new() }
        ));
        Ok(())
    }

    fn stage(&self, name: &'static str, length: u64) {
        let style = ProgressStyle::with_template("{prefix:>9} {wide_bar:.cyan/white.dim} {percent:>3}% {msg}")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        self.bar.set_style(style);
        self.bar.set_prefix(name);
        self.bar.set_length(length);
        self.bar.set_position(0);
        self.bar.set_message(format!("{} connections", self.counted));
    }
}

/// Slices of the timeline between two moments of a run.
pub(crate) fn slices(timeline: &[u64], from: u64, to: u64) -> &[u64] {
    let slice = |at: u64| ((at / ns(SLICE)) as usize).min(timeline.len());
    &timeline[slice(from)..(slice(to) + 1).min(timeline.len()).max(slice(from))]
}
