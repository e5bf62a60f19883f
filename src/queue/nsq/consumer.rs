//! Consuming from one nsqd: one consumer at a time, its jobs handed out and given back.

mod health_check;
mod hold;
mod tokio_nsq_consumer;

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use tokio::{
    sync::{Notify, mpsc, watch},
    time::{Instant, sleep, sleep_until},
};
use tokio_nsq::{NSQChannel, NSQConsumerConfig, NSQConsumerConfigSources, NSQEvent, NSQMessage, NSQTopic};
use tokio_util::{sync::CancellationToken, task::task_tracker::TaskTrackerToken};

use self::{health_check::HealthCheck, hold::ConsumerHold, tokio_nsq_consumer::TokioNsqConsumer};
use super::{
    CONNECT, LIVED, NsqContext, TopicConsumers,
    acker::{Acker, Generation, requeue_delay},
    admin::NsqdAddress,
    backoff,
    channel_hold::ChannelHold,
    health::PartHealth,
    liveness::LivenessConnection,
};
use crate::{
    queue::{self, Job, OpenError, record},
    telemetry::labels::NsqSide,
};

/// Messages that wait here for their hand-out before nsqd is let wait; RDY keeps it at 2500 unless they wait past nsqd's
/// time-out.
const MAX_WAITING: usize = 8192;
/// What a closing consumer gives back to a channel that is not paused waits this long there, so that nsqd sends it to another.
const HANDOVER: Duration = Duration::from_secs(1);
/// How long a closing consumer waits for nsqd to have heard of every finish.
const FLUSH: Duration = Duration::from_secs(1);
/// An nsqd that holds messages back no longer than this to gather more is started as the documents say.
const PROMPT: Duration = Duration::from_millis(10);

/// What the consumers of one topic share.
#[derive(Clone)]
pub(super) struct TopicContext {
    pub(super) nsq: NsqContext,
    pub(super) consumers: TopicConsumers,
    /// live, raw, or a tag's topic.
    pub(super) group: Arc<str>,
    pub(super) name: String,
    pub(super) channel: String,
    /// Both in tokio-nsq's form.
    checked: (Arc<NSQTopic>, Arc<NSQChannel>),
    /// The channel is this node's alone; how it is held after the start.
    own: Option<ChannelHold>,
    /// When it was opened.
    started: Instant,
    /// Tells this process's consumers from others.
    client_id: String,
}

impl TopicContext {
    /// Bounded with others by `consumers`. `own`: how the channel is held after the start, if it is this node's alone.
    pub(super) fn new(
        nsq: &NsqContext,
        group: &str,
        name: &str,
        channel: &str,
        own: Option<ChannelHold>,
        consumers: TopicConsumers,
    ) -> Result<Self, OpenError> {
        let bad_topic = || OpenError(format!("NSQ takes no topic {name:?}; correct [queue] topic"));
        let bad_channel =
            || OpenError(format!("NSQ takes no channel {channel:?}; correct [queue] channel or [node] id"));
        Ok(Self {
            nsq: nsq.clone(),
            consumers,
            group: group.into(),
            name: name.into(),
            channel: channel.into(),
            checked: (NSQTopic::new(name).ok_or_else(bad_topic)?, NSQChannel::new(channel).ok_or_else(bad_channel)?),
            own,
            started: Instant::now(),
            client_id: format!("{}-{:016x}", nsq.node, fastrand::u64(..)),
        })
    }
}

/// Why a connection's consumer ended.
enum ConsumerEnd {
    Closed,
    Lost(&'static str),
}

/// The task of one nsqd.
pub(super) struct Consumer {
    topic: TopicContext,
    nsqd: NsqdAddress,
    /// RDY: this nsqd's share of the topic's jobs in flight.
    share: usize,
    /// `None` once stopped: then what comes waits, or is given back.
    jobs: Option<mpsc::Sender<Vec<Job>>>,
    /// [`super::Control::stop_jobs`] waits until it is dropped.
    stopping: Option<TaskTrackerToken>,
    /// The stop paused the channel.
    paused: bool,
    /// What is held after the start.
    hold: Option<ConsumerHold>,
    /// When it is tried once more to unpause the channel; nothing waits for that.
    unpause_at: Option<Instant>,
    /// When a pause of the channel can be no hold's any more; `None`: no hold paused it.
    hold_pauses_until: watch::Sender<Option<Instant>>,
    closing: CancellationToken,
    generation: Generation,
    waiting: VecDeque<NSQMessage>,
}

impl Consumer {
    pub(super) fn new(
        topic: TopicContext,
        nsqd: NsqdAddress,
        share: usize,
        jobs: mpsc::Sender<Vec<Job>>,
        closing: CancellationToken,
    ) -> Self {
        let reason = format!("{} was not connected yet", nsqd.tcp);
        topic.nsq.health.set(&topic.group, &nsqd.tcp, PartHealth::Unhealthy(reason));
        let stopping = topic.consumers.stopping.token();
        Self {
            topic,
            nsqd,
            share,
            jobs: Some(jobs),
            stopping: Some(stopping),
            paused: false,
            hold: None,
            unpause_at: None,
            hold_pauses_until: watch::Sender::new(None),
            closing,
            generation: Generation::new(),
            waiting: VecDeque::new(),
        }
    }

    /// The generation of its connection, 0 without one.
    pub(super) fn connected(&self) -> watch::Receiver<u64> {
        self.generation.watch()
    }

    pub(super) async fn run(mut self) {
        let topic = self.topic.clone();
        let nsqd = self.nsqd.clone();
        let closing = self.closing.clone();
        let health_check = HealthCheck {
            topic: topic.clone(),
            nsqd: nsqd.clone(),
            generation: self.generation.clone(),
            hold_pauses_until: self.hold_pauses_until.subscribe(),
        };
        let mut backoff = backoff();
        loop {
            let started = Instant::now();
            let liveness = tokio::select! {
                () = closing.cancelled() => break,
                liveness = self.reach() => liveness,
            };
            let missed = Notify::new();
            let end = tokio::select! {
                end = self.serve(liveness, &missed) => end,
                never = health_check.run(&missed) => match never {},
            };
            match end {
                ConsumerEnd::Closed => break,
                ConsumerEnd::Lost(reason) => {
                    let away = PartHealth::Away(format!("{} {reason}", nsqd.tcp));
                    topic.nsq.health.set(&topic.group, &nsqd.tcp, away);
                    topic.nsq.rebuilt(NsqSide::Consumer, &nsqd.tcp, reason);
                }
            }
            // an nsqd that refuses again and again is not asked in a hurry
            if started.elapsed() > LIVED {
                backoff.reset();
            }
            tokio::select! {
                () = closing.cancelled() => break,
                () = sleep(backoff.next_wait()) => {}
            }
        }
        topic.nsq.health.forget(&topic.group, &nsqd.tcp);
    }

    /// Waits until nsqd is up, and creates the channel there.
    async fn reach(&mut self) -> LivenessConnection {
        let topic = self.topic.clone();
        let nsqd = self.nsqd.clone();
        let stopped = topic.consumers.stopped.clone();
        let mut backoff = backoff();
        let liveness = loop {
            // cancel-safe: an attempt that is cancelled by the stop is simply made again
            let connected = tokio::select! {
                connected = LivenessConnection::connect(&nsqd.tcp, CONNECT) => connected,
                () = stopped.cancelled(), if self.jobs.is_some() => {
                    self.stop_unconnected();
                    continue;
                }
            };
            match connected {
                Ok(liveness) => break liveness,
                Err(reason) => {
                    let reason = format!("nsqd {} is away ({reason}); start it", nsqd.tcp);
                    topic.nsq.health.set(&topic.group, &nsqd.tcp, PartHealth::Away(reason));
                }
            }
            tokio::select! {
                () = sleep(backoff.next_wait()) => {}
                () = stopped.cancelled(), if self.jobs.is_some() => self.stop_unconnected(),
            }
        };
        let reason = format!("nsqd {} is up but its consumer is not subscribed yet", nsqd.tcp);
        topic.nsq.health.set(&topic.group, &nsqd.tcp, PartHealth::Unhealthy(reason));
        if let Some(http) = &nsqd.http {
            // cut short by a stop, which pauses the channel itself
            stopped.run_until_cancelled(self.prepare_channel(http)).await;
            stopped.run_until_cancelled(self.advise(http)).await;
        }
        liveness
    }

    /// Warns of an nsqd that is started otherwise than the documents say.
    async fn advise(&self, http: &str) {
        if self.topic.own.is_none() {
            return;
        }
        let timeout = self.topic.nsq.admin.output_buffer_timeout(http).await;
        if let Some(timeout) = timeout.filter(|timeout| *timeout > PROMPT) {
            let timeout = humantime::format_duration(timeout);
            let nsqd = &self.nsqd.tcp;
            tracing::warn!(
                nsqd,
                "nsqd holds pushes back for up to {timeout}; start it with --output-buffer-timeout=1ms"
            );
        }
    }

    fn build(&self) -> TokioNsqConsumer {
        let (topic, channel) = self.topic.checked.clone();
        let config = NSQConsumerConfig::new(topic, channel)
            .set_sources(NSQConsumerConfigSources::Daemons(vec![self.nsqd.tcp.clone()]))
            .set_max_in_flight(u32::try_from(self.share).unwrap_or(1))
            .set_rebalance_interval(Duration::from_millis(500))
            .set_shared(self.topic.nsq.tokio_nsq_config().set_client_id(self.topic.client_id.as_str()));
        TokioNsqConsumer::new(config.build())
    }

    /// One consumer from its start to its end; `missed` says that it lost its connection and finds no other.
    async fn serve(&mut self, mut liveness: LivenessConnection, missed: &Notify) -> ConsumerEnd {
        let mut consumer = self.build();
        let late = Instant::now() + self.topic.nsq.config.rebuild_after;
        let closing = self.closing.clone();
        let stopped = self.topic.consumers.stopped.clone();
        let permits = self.topic.consumers.permits.clone();
        let signals = self.topic.own.as_ref().map(|hold| hold.signals().clone()).unwrap_or_default();
        self.hold_without_http();
        let mut number = 0;
        let end = loop {
            // cancel-safe: consume is a channel read; a permit that was waited for is only lost in its turn
            tokio::select! {
                biased;
                () = closing.cancelled() => break ConsumerEnd::Closed,
                () = stopped.cancelled(), if self.jobs.is_some() => self.stop(number).await,
                event = consumer.next_event(), if self.waiting.len() < MAX_WAITING => match event {
                    Some(NSQEvent::Message(message)) => {
                        self.receive(message, number);
                        self.hand_out(number);
                    }
                    Some(NSQEvent::Healthy()) => {
                        // what came over an earlier connection cannot be answered any more
                        self.waiting.clear();
                        self.forget_held();
                        number = self.generation.begin();
                    }
                    Some(NSQEvent::Unhealthy() | NSQEvent::Ok()) => {}
                    None => break ConsumerEnd::Lost("ended the connection with an error"),
                },
                permit = permits.clone().acquire_owned(), if self.hands_out() && !self.waiting.is_empty() => {
                    drop(permit);
                    self.hand_out(number);
                }
                () = sleep_until(self.unpause_at.unwrap_or(late)), if self.unpause_at.is_some() => self.unpause().await,
                () = sleep_until(self.hold.as_ref().map_or(late, |hold| hold.until)), if self.hold.is_some() => {
                    self.release(number).await;
                }
                () = signals.all_back(), if self.hold.as_ref().is_some_and(ConsumerHold::is_of_all) => {
                    self.release(number).await;
                }
                () = signals.somebody(), if self.hold.as_ref().is_some_and(ConsumerHold::waits_for_somebody) => {
                    self.let_new_ones_pass().await;
                }
                () = liveness.gone() => break ConsumerEnd::Lost("is gone; start it"),
                () = missed.notified() => break ConsumerEnd::Lost(
                    "does not list this node's consumer; is [queue] nsqd_http the HTTP of the same nsqd?",
                ),
                () = sleep_until(late), if number == 0 => {
                    break ConsumerEnd::Lost("did not answer within rebuild_after");
                }
            }
        };
        if matches!(end, ConsumerEnd::Closed) && number != 0 {
            self.flush_answers(number).await;
        }
        self.generation.end();
        self.waiting.clear();
        self.forget_held();
        consumer.end();
        end
    }

    fn hands_out(&self) -> bool {
        self.jobs.is_some() && !self.hold.as_ref().is_some_and(ConsumerHold::is_of_all)
    }

    /// Hands out what waits, as far as permits are there.
    fn hand_out(&mut self, number: u64) {
        let Some(jobs) = &self.jobs else {
            if self.paused {
                self.give_back(number, Duration::ZERO);
            }
            return;
        };
        let mut bundle = Vec::new();
        while self.hands_out() && !self.waiting.is_empty() {
            let Ok(permit) = self.topic.consumers.permits.clone().try_acquire_owned() else { break };
            let Some(mut message) = self.waiting.pop_front() else { break };
            let waited = since(message.timestamp);
            self.topic.nsq.metrics.queue_seconds.observe(waited.as_secs_f64());
            let attempts = u32::from(message.attempt);
            let record = Bytes::from(std::mem::take(&mut message.body));
            if let Some(id) = record::id_at_end(&record).filter(|id| id.is_sampled())
                && let Some(published) = Instant::now().into_std().checked_sub(waited)
            {
                self.topic.nsq.metrics.published(id, published);
            }
            let acker = Acker { message, number, generation: self.generation.clone(), _permit: permit };
            bundle.push(Job { record, attempts, acker: Some(queue::Acker::Nsq(acker)) });
        }
        if !bundle.is_empty() {
            // never full, since each job holds a permit; a job that nobody takes requeues itself
            let _ = jobs.try_send(bundle);
        }
    }

    /// A stop while there is no connection: nothing is to be paused or given back.
    fn stop_unconnected(&mut self) {
        self.jobs = None;
        self.stopping = None;
    }

    /// Pauses the own channel, so that what waits does so there; a shared one goes on for the other nodes.
    async fn stop(&mut self, number: u64) {
        self.jobs = None;
        self.drop_hold();
        self.unpause_at = None;
        if self.topic.own.is_some()
            && let Some(http) = &self.nsqd.http
        {
            match self.topic.nsq.admin.pause(http, &self.topic.name, &self.topic.channel).await {
                Ok(paused) => self.paused = paused,
                Err(error) => tracing::warn!(error, "nsq: the channel could not be paused"),
            }
        }
        self.stopping = None;
        if self.paused {
            self.give_back(number, Duration::ZERO);
        }
    }

    fn give_back(&mut self, number: u64, delay: Duration) {
        for message in self.waiting.drain(..) {
            self.generation.answer(number, message.requeue(requeue_delay(delay)));
        }
    }

    /// Gives back what waits, and waits until nsqd has read all answers: dropping a consumer loses its write buffer.
    async fn flush_answers(&mut self, number: u64) {
        self.give_back(number, if self.paused { Duration::ZERO } else { HANDOVER });
        let TopicContext { nsq, name, channel, .. } = &self.topic;
        // a paused channel gets no more in flight: nsqd says when it has all answers
        if let Some(http) = self.nsqd.http.as_ref().filter(|_| self.paused) {
            let late = Instant::now() + FLUSH;
            while let Ok(stats) = nsq.admin.stats(http, name, channel).await {
                if stats.is_none_or(|stats| stats.in_flight_count <= 0) || Instant::now() >= late {
                    return;
                }
                sleep(Duration::from_millis(20)).await;
            }
        }
        // tokio-nsq writes at each flush interval and does not say when it has: two of them are long enough
        sleep((2 * nsq.config.flush_interval).max(Duration::from_millis(20))).await;
    }
}

/// The time since `stamp` (ns since 1970) by this machine's clock.
fn since(stamp: u64) -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.saturating_sub(Duration::from_nanos(stamp))
}
