//! Consuming from one nsqd: one consumer at a time, its jobs handed out and given back.

use std::{
    collections::VecDeque,
    sync::{Arc, OnceLock},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use tokio::{
    sync::{Notify, Semaphore, mpsc, watch},
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_nsq::{NSQChannel, NSQConsumerConfig, NSQConsumerConfigSources, NSQEvent, NSQMessage, NSQTopic};
use tokio_util::{sync::CancellationToken, task::task_tracker::TaskTrackerToken};

use super::{
    Backoff, Base, CONNECT, LIVED, LONGEST_WAIT,
    admin::{ChannelStats, Daemon},
    hand::{Client, Gate, Hand, strategy},
    health::Status,
    sentinel::Sentinel,
};
use crate::queue::{self, Job, Origin};

/// Messages held for hand-out before nsqd is let wait; RDY keeps it at 2500 unless they are held past nsqd's time-out.
const HELD: usize = 8192;
/// What a closing link gives back to a channel that is not paused waits this long there, so that nsqd sends it to another.
const HANDOVER: Duration = Duration::from_secs(1);
/// How soon nsqd is asked again for a consumer that it did not list.
const UNLISTED: Duration = Duration::from_millis(250);
/// How long a closing link waits for nsqd to have heard of every finish.
const SETTLE: Duration = Duration::from_secs(1);

/// How often it is tried to unpause the channel, and what one try may take.
const UNPAUSE: Duration = Duration::from_secs(2);
const BRIEF: Duration = Duration::from_millis(250);
/// An nsqd that holds messages back no longer than this to gather more is started as the documents say.
const PROMPT: Duration = Duration::from_millis(10);

/// What the links of one topic share.
#[derive(Clone)]
pub(super) struct Setup {
    pub(super) base: Base,
    /// live or raw.
    pub(super) group: &'static str,
    pub(super) topic: String,
    pub(super) channel: String,
    pub(super) names: (Arc<NSQTopic>, Arc<NSQChannel>),
    /// The channel is this node's alone; where to tell that it had a backlog.
    pub(super) own: Option<watch::Sender<bool>>,
    /// When it was opened.
    pub(super) started: Instant,
    /// When `[queue] replay_hold` is over: counted from the moment in which the first nsqd was reached.
    pub(super) hold: Arc<OnceLock<Instant>>,
    pub(super) max_in_flight: usize,
    /// A permit for each job in hand.
    pub(super) hands: Arc<Semaphore>,
    /// Tells this process's consumers from others.
    pub(super) client_id: String,
}

/// Why a connection's consumer ended.
enum End {
    Closed,
    Lost(&'static str),
}

/// The task of one nsqd.
pub(super) struct Link {
    setup: Setup,
    daemon: Daemon,
    /// RDY.
    share: usize,
    /// `None` once stopped: then what comes is held, or given back.
    jobs: Option<mpsc::Sender<Vec<Job>>>,
    stopped: CancellationToken,
    /// Told to [`super::Control::stop_jobs`] by its end.
    pausing: Option<TaskTrackerToken>,
    paused: bool,
    /// Until then the channel's backlog is held.
    hold_until: Option<Instant>,
    /// When it is tried once more to unpause the channel; nothing waits for that.
    unpause_at: Option<Instant>,
    closing: CancellationToken,
    gate: Gate,
    held: VecDeque<NSQMessage>,
}

impl Link {
    pub(super) fn new(
        setup: Setup,
        daemon: Daemon,
        share: usize,
        jobs: mpsc::Sender<Vec<Job>>,
        stopped: CancellationToken,
        pausing: TaskTrackerToken,
        closing: CancellationToken,
    ) -> Self {
        setup.base.health.set(setup.group, &daemon.tcp, Status::Ill(format!("{} was not connected yet", daemon.tcp)));
        let gate = Gate::new();
        let (jobs, pausing, held) = (Some(jobs), Some(pausing), VecDeque::new());
        Self {
            setup,
            daemon,
            share,
            jobs,
            stopped,
            pausing,
            paused: false,
            hold_until: None,
            unpause_at: None,
            closing,
            gate,
            held,
        }
    }

    /// Whether it is connected, for the fleet.
    pub(super) fn connected(&self) -> watch::Receiver<u64> {
        self.gate.watch()
    }

    pub(super) async fn run(mut self) {
        let (setup, daemon, gate) = (self.setup.clone(), self.daemon.clone(), self.gate.clone());
        let stopped = self.stopped.clone();
        let mut backoff = Backoff::new();
        loop {
            let (closing, started) = (self.closing.clone(), Instant::now());
            let sentinel = tokio::select! {
                () = closing.cancelled() => break,
                sentinel = self.reach() => sentinel,
            };
            let missed = Notify::new();
            let end = tokio::select! {
                // of self only, so that what is held stays when the guard wins, which it never does
                end = self.serve(sentinel, &missed) => end,
                never = guard(&setup, &daemon, &gate, &stopped, &missed) => match never {},
            };
            match end {
                End::Closed => break,
                End::Lost(reason) => {
                    setup.base.health.set(setup.group, &daemon.tcp, Status::Away(format!("{} {reason}", daemon.tcp)));
                    setup.base.rebuilt("consumer", &daemon.tcp, reason);
                }
            }
            // an nsqd that refuses again and again is not asked in a hurry
            if started.elapsed() > LIVED {
                backoff = Backoff::new();
            }
            tokio::select! {
                () = closing.cancelled() => break,
                () = sleep(backoff.next()) => {}
            }
        }
        setup.base.health.forget(setup.group, &daemon.tcp);
    }

    /// Waits until nsqd is up, and lays the channel there.
    async fn reach(&mut self) -> Sentinel {
        let (setup, daemon, stopped) = (self.setup.clone(), self.daemon.clone(), self.stopped.clone());
        let mut backoff = Backoff::new();
        let sentinel = loop {
            // cancel-safe: an attempt that is cancelled by the stop is simply made again
            let connected = tokio::select! {
                connected = Sentinel::connect(&daemon.tcp, CONNECT) => connected,
                () = stopped.cancelled(), if self.jobs.is_some() => {
                    self.jobs = None;
                    self.pausing = None;
                    continue;
                }
            };
            match connected {
                Ok(sentinel) => break sentinel,
                Err(reason) => {
                    let reason = format!("nsqd {} is away ({reason}); start it", daemon.tcp);
                    setup.base.health.set(setup.group, &daemon.tcp, Status::Away(reason));
                }
            }
            tokio::select! {
                () = sleep(backoff.next()) => {}
                () = stopped.cancelled(), if self.jobs.is_some() => {
                    self.jobs = None;
                    self.pausing = None;
                }
            }
        };
        let reason = format!("nsqd {} is up but its consumer is not subscribed yet", daemon.tcp);
        setup.base.health.set(setup.group, &daemon.tcp, Status::Ill(reason));
        if let Some(http) = &daemon.http {
            // cut short by a stop, which pauses the channel itself
            let laid = stopped.run_until_cancelled(self.lay(http)).await;
            if let Some(Err(error)) = laid {
                tracing::warn!(
                    error,
                    nsqd = daemon.tcp,
                    "nsq: the channel is not made through HTTP but by subscribing"
                );
                // a stop, or a kill within a hold, may have left it paused
                if self.setup.own.is_some() && self.jobs.is_some() {
                    self.unpause_at = Some(Instant::now() + UNPAUSE);
                }
            }
            stopped.run_until_cancelled(self.advise(http)).await;
        }
        sentinel
    }

    /// Tells of an nsqd that is started otherwise than the documents say.
    async fn advise(&self, http: &str) {
        let held = self.setup.base.admin.output_buffer_timeout(http).await;
        if let Some(held) = held.filter(|held| self.setup.own.is_some() && *held > PROMPT) {
            let held = humantime::format_duration(held);
            let nsqd = &self.daemon.tcp;
            tracing::warn!(nsqd, "nsqd holds pushes back for up to {held}; start it with --output-buffer-timeout=1ms");
        }
    }

    /// Makes the channel. A backlog stays in it until the hold is over: nsqd counts what it hands out, offered or not.
    async fn lay(&mut self, http: &str) -> Result<(), String> {
        let Setup { base, topic, channel, own, hold, .. } = &self.setup;
        base.admin.lay(http, topic, &[channel]).await?;
        let Some(backlog) = own else { return Ok(()) };
        let until = *hold.get_or_init(|| Instant::now() + base.config.replay_hold);
        let records = base.admin.stats(http, topic, channel).await?.map_or(0, |stats| stats.unfinished());
        if records > 0 {
            backlog.send_replace(true);
        }
        if self.jobs.is_none() {
            return Ok(());
        }
        if records == 0 || until <= Instant::now() {
            base.admin.unpause(http, topic, channel).await?;
            return Ok(());
        }
        base.admin.pause(http, topic, channel).await?;
        tracing::info!(
            records,
            nsqd = self.daemon.tcp,
            time = ?base.config.replay_hold,
            "a backlog is held for [queue] replay_hold, so that clients rejoin first"
        );
        self.hold_until = Some(until);
        Ok(())
    }

    /// Without nsqd's HTTP only a message tells of a backlog, by being older than this process: it and what follows are kept
    /// here, handed out by nsqd already.
    fn notice(&mut self, message: &NSQMessage) {
        let Setup { base, own: Some(backlog), hold, started, .. } = &self.setup else { return };
        if self.daemon.http.is_some() || self.hold_until.is_some() || since(message.timestamp) < started.elapsed() {
            return;
        }
        backlog.send_replace(true);
        // beyond nsqd's time-out it would hand them out again
        let length = base.config.replay_hold.min(base.config.job_timeout);
        let until = *hold.get_or_init(|| Instant::now() + length);
        if self.jobs.is_some() && until > Instant::now() {
            tracing::info!(nsqd = self.daemon.tcp, time = ?length, "a backlog is held, so that clients rejoin first");
            self.hold_until = Some(until);
        }
    }

    /// Ends the hold.
    async fn release(&mut self, epoch: u64) {
        tracing::info!(nsqd = self.daemon.tcp, "the replay hold is over");
        self.hold_until = None;
        self.hand_out(epoch);
        self.unpause().await;
    }

    /// Lets nsqd hand out again, or sees to it that this is tried once more. It takes no longer than [`BRIEF`], since nothing is
    /// consumed meanwhile.
    async fn unpause(&mut self) {
        self.unpause_at = None;
        let Setup { base, topic, channel, .. } = &self.setup;
        let Some(http) = &self.daemon.http else { return };
        let error = match timeout(BRIEF, base.admin.unpause(http, topic, channel)).await {
            Ok(Ok(_)) => return,
            Ok(Err(error)) => error,
            Err(_) => format!("no answer within {BRIEF:?}"),
        };
        tracing::warn!(error, nsqd = self.daemon.tcp, "nsq: the channel could not be unpaused; tried again");
        self.unpause_at = Some(Instant::now() + UNPAUSE);
    }

    fn consumer(&self) -> Client {
        let Setup { base, names, client_id, .. } = &self.setup;
        let config = NSQConsumerConfig::new(names.0.clone(), names.1.clone())
            .set_sources(NSQConsumerConfigSources::Daemons(vec![self.daemon.tcp.clone()]))
            .set_max_in_flight(u32::try_from(self.share).unwrap_or(1))
            .set_rebalance_interval(Duration::from_millis(500))
            .set_shared(base.shared().set_client_id(client_id.as_str()));
        Client::new(config.build())
    }

    /// One consumer from its start to its end; `missed` tells that it lost its connection and finds no other.
    async fn serve(&mut self, mut sentinel: Sentinel, missed: &Notify) -> End {
        let mut client = self.consumer();
        let late = Instant::now() + self.setup.base.config.rebuild_after;
        let (closing, stopped, hands) = (self.closing.clone(), self.stopped.clone(), self.setup.hands.clone());
        let mut epoch = 0;
        let end = loop {
            // cancel-safe: consume is a channel read; a permit that was waited for is only lost in its turn
            tokio::select! {
                biased;
                () = closing.cancelled() => break End::Closed,
                () = stopped.cancelled(), if self.jobs.is_some() => self.stop(epoch).await,
                event = client.consume(), if self.held.len() < HELD => match event {
                    Some(NSQEvent::Message(message)) => {
                        self.notice(&message);
                        self.held.push_back(message);
                        self.hand_out(epoch);
                    }
                    Some(NSQEvent::Healthy()) => {
                        // what came over an earlier connection cannot be answered any more
                        self.held.clear();
                        epoch = self.gate.open();
                    }
                    Some(NSQEvent::Unhealthy() | NSQEvent::Ok()) => {}
                    None => break End::Lost("ended the connection with an error"),
                },
                permit = hands.clone().acquire_owned(), if self.hands_out() && !self.held.is_empty() => {
                    drop(permit);
                    self.hand_out(epoch);
                }
                () = sleep_until(self.unpause_at.unwrap_or(late)), if self.unpause_at.is_some() => self.unpause().await,
                () = sleep_until(self.hold_until.unwrap_or(late)), if self.hold_until.is_some() => {
                    self.release(epoch).await;
                }
                () = sentinel.gone() => break End::Lost("is gone; start it"),
                () = missed.notified() => break End::Lost(
                    "does not list this node's consumer; is [queue] nsqd_http the HTTP of the same nsqd?",
                ),
                () = sleep_until(late), if epoch == 0 => break End::Lost("did not answer within rebuild_after"),
            }
        };
        if matches!(end, End::Closed) && epoch != 0 {
            self.settle(epoch).await;
        }
        self.gate.close();
        self.held.clear();
        client.end();
        end
    }

    fn hands_out(&self) -> bool {
        self.jobs.is_some() && self.hold_until.is_none()
    }

    /// Hands out what is held, as far as permits are there.
    fn hand_out(&mut self, epoch: u64) {
        let Some(jobs) = &self.jobs else {
            if self.paused {
                self.give_back(epoch, Duration::ZERO);
            }
            return;
        };
        let mut bundle = Vec::new();
        while self.hold_until.is_none() && !self.held.is_empty() {
            let Ok(permit) = self.setup.hands.clone().try_acquire_owned() else { break };
            let Some(mut message) = self.held.pop_front() else { break };
            let waited = since(message.timestamp);
            self.setup.base.metrics.queue_seconds.observe(waited.as_secs_f64());
            let attempts = u32::from(message.attempt);
            let record = Bytes::from(std::mem::take(&mut message.body));
            let origin = Some(Origin { millis: message.timestamp / 1_000_000, id: message.id });
            let hand = Hand { message, epoch, gate: self.gate.clone(), _permit: permit };
            bundle.push(Job { record, attempts, origin, hand: Some(queue::Hand::Nsq(hand)) });
        }
        if !bundle.is_empty() {
            // never full, since each job holds a permit; a job that nobody takes requeues itself
            let _ = jobs.try_send(bundle);
        }
    }

    /// Pauses the own channel, so that what waits does so there; a shared one goes on for the other nodes.
    async fn stop(&mut self, epoch: u64) {
        (self.jobs, self.hold_until, self.unpause_at) = (None, None, None);
        let Setup { base, topic, channel, own, .. } = &self.setup;
        if own.is_some()
            && let Some(http) = &self.daemon.http
        {
            match base.admin.pause(http, topic, channel).await {
                Ok(paused) => self.paused = paused,
                Err(error) => tracing::warn!(error, "nsq: the channel could not be paused"),
            }
        }
        self.pausing = None;
        if self.paused {
            self.give_back(epoch, Duration::ZERO);
        }
    }

    fn give_back(&mut self, epoch: u64, delay: Duration) {
        for message in self.held.drain(..) {
            self.gate.tell(epoch, message.requeue(strategy(delay)));
        }
    }

    /// Gives back what is held and waits until nsqd has read all that was told: dropping a consumer loses its write buffer.
    async fn settle(&mut self, epoch: u64) {
        self.give_back(epoch, if self.paused { Duration::ZERO } else { HANDOVER });
        let Setup { base, topic, channel, own, .. } = &self.setup;
        sleep((2 * base.config.flush_interval).max(Duration::from_millis(20))).await;
        let (Some(http), true) = (&self.daemon.http, own.is_some() && self.paused) else { return };
        let late = Instant::now() + SETTLE;
        while Instant::now() < late {
            match base.admin.stats(http, topic, channel).await {
                Ok(Some(stats)) if stats.in_flight_count > 0 => sleep(Duration::from_millis(20)).await,
                _ => return,
            }
        }
    }
}

/// Tells the health of a link: well once it is connected, its nsqd can write, and its own channel is read by it alone and not
/// paused. tokio-nsq never says that a connection was lost: that nsqd does not list it for `rebuild_after` is what tells
/// `missed`.
async fn guard(
    setup: &Setup,
    daemon: &Daemon,
    gate: &Gate,
    stopped: &CancellationToken,
    missed: &Notify,
) -> std::convert::Infallible {
    let Setup { base, group, topic, channel, client_id, .. } = setup;
    let (mut epochs, mut unlisted) = (gate.watch(), None);
    loop {
        let mut pause = base.config.lookup_interval;
        if gate.is_open() {
            let stats = match &daemon.http {
                Some(http) => base.admin.stats_and_health(http, topic, channel).await.ok(),
                None => None,
            };
            let clients = stats.as_ref().map(|(channel, _)| channel.as_ref().map_or(&[][..], |one| &one.clients));
            if clients.is_none_or(|clients| clients.iter().any(|one| one.client_id == *client_id)) {
                unlisted = None;
            } else {
                // just connected, or just cut: looked at again soon
                pause = pause.min(UNLISTED);
                if unlisted.get_or_insert_with(Instant::now).elapsed() > base.config.rebuild_after {
                    missed.notify_one();
                }
            }
            let status = match stats {
                Some((channel, ill)) if setup.own.is_some() => judge(setup, daemon, stopped, channel, ill).await,
                _ => Status::Well,
            };
            if gate.is_open() {
                base.health.set(group, &daemon.tcp, status);
            }
        }
        tokio::select! {
            _ = epochs.changed() => {}
            () = sleep(pause) => {}
        }
    }
}

/// What nsqd's word on the node's own channel, and on its last write, makes of a link that is connected.
async fn judge(
    setup: &Setup,
    daemon: &Daemon,
    stopped: &CancellationToken,
    stats: Option<ChannelStats>,
    ill: Option<String>,
) -> Status {
    let Setup { base, channel, client_id, .. } = setup;
    let (paused, clients) = stats.map_or((false, Vec::new()), |stats| (stats.paused, stats.clients));
    if let Some(other) = clients.into_iter().find(|one| one.client_id != *client_id) {
        return Status::Ill(format!(
            "another consumer ({} at {}) takes pushes from channel {channel} of nsqd {}: stop it, or give each node its own \
             [node] id",
            other.client_id, other.remote_address, daemon.tcp
        ));
    }
    // a stop pauses it itself, and so does a hold, whose end may take a second try
    let held = setup.hold.get().is_some_and(|until| Instant::now() < *until + 2 * LONGEST_WAIT);
    if paused && !held && !stopped.is_cancelled() {
        return Status::Ill(format!(
            "channel {channel} of nsqd {} is paused: unpause it (nsqadmin, or POST /channel/unpause)",
            daemon.tcp
        ));
    }
    if let (Some(ill), Some(http)) = (ill, &daemon.http)
        && !base.admin.can_write(http, &format!("{}.disk", base.config.topic)).await
    {
        return Status::Away(format!("nsqd {} cannot write ({ill}): make room on its disk, or mend it", daemon.tcp));
    }
    Status::Well
}

/// The time since `stamp` (ns since 1970) by this machine's clock.
fn since(stamp: u64) -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.saturating_sub(Duration::from_nanos(stamp))
}
