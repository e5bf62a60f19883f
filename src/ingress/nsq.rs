//! Raw pushes of other NSQ clients: an ingress like HTTP, where a finished job is the answer.

use std::{pin::pin, time::Duration};

use futures_util::{
    Stream, StreamExt,
    stream::{self, FuturesUnordered},
};
use prost::Message;

use super::{
    admission::{Admission, PushSource},
    compat::gpusher,
    draft::Draft,
    refusal::{Refusal, RefusalKind},
};
use crate::{
    auth::Keys,
    config::{Config, GpusherConfig, QueueConfig},
    lifecycle::{Deadline, Service, Tasks},
    proto::rpc::PushRequest,
    push::PushId,
    queue::{
        Job,
        nsq::{Origin, RawControl, RawJob, RawTopics},
    },
};

/// The longest wait before a requeued push comes again.
const LONGEST_DELAY: Duration = Duration::from_secs(60);

/// Takes `raw` until its end: each push admitted, published, then finished; what cannot be is finished, counted and logged.
/// They act as whom `keys` says.
pub(crate) fn start(config: &Config, raw: RawTopics, keys: &Keys, admission: &Admission, tasks: &Tasks) -> RawIngress {
    let pushes = (raw.pushes, RawForm::PushRequest);
    let tags = raw.tags.into_iter().map(|topic| {
        let tag = RawForm::OfTag(topic.name.clone(), config.gpusher.clone());
        (topic, tag)
    });
    let service = tasks.service();
    let mut controls = Vec::new();
    for (topic, form) in [pushes].into_iter().chain(tags) {
        if keys.raw().is_none() {
            let topic = &topic.name;
            tracing::warn!("raw pushes on the topic {topic} are dropped: {}", no_raw_key().message);
        }
        controls.push(topic.control());
        let name = format!("raw pushes of {}", topic.name);
        let jobs = stream::unfold(topic, async |mut topic| Some((topic.next().await?, topic)));
        let stopping = service.stopping().clone();
        let consumer = RawConsumer::new(&config.queue, form, keys, admission);
        let max_in_flight = config.queue.max_in_flight;
        service.spawn_until_done(name, async move {
            tokio::select! {
                () = consumer.run(jobs, max_in_flight) => {}
                // what is in flight is requeued as it is dropped
                () = stopping.cancelled() => {}
            }
        });
    }
    RawIngress { controls, service }
}

/// How a topic's records are written.
enum RawForm {
    /// Protobuf, as gopusher's.
    PushRequest,
    /// JSON, as gpusher's, of this tag.
    OfTag(String, GpusherConfig),
}

/// The running ingress of raw pushes.
pub(crate) struct RawIngress {
    controls: Vec<RawControl>,
    service: Service,
}

impl RawIngress {
    /// Takes no more, and returns once each push in flight is published or requeued, at the deadline at the latest.
    pub(crate) async fn drain(self, deadline: Deadline) {
        let stop = futures_util::future::join_all(self.controls.iter().map(RawControl::stop));
        let stopped = deadline.timeout(stop).await.is_ok();
        if !(stopped && self.service.ended(deadline).await) {
            tracing::warn!("raw pushes were still in flight when the drain's time was over; they come again");
        }
    }
}

struct RawConsumer {
    form: RawForm,
    keys: Keys,
    admission: Admission,
    max_attempts: u32,
    requeue_delay: Duration,
    touch_every: Duration,
}

impl RawConsumer {
    fn new(config: &QueueConfig, form: RawForm, keys: &Keys, admission: &Admission) -> Self {
        Self {
            form,
            keys: keys.clone(),
            admission: admission.clone(),
            max_attempts: config.max_attempts,
            requeue_delay: config.requeue_delay,
            // well before the backend would hand it out again
            touch_every: config.job_timeout / 2,
        }
    }

    async fn run(&self, jobs: impl Stream<Item = RawJob>, max_in_flight: usize) {
        let mut jobs = pin!(jobs);
        // polled first in the order in which they came, which is the order in which they are published
        let mut in_flight = FuturesUnordered::new();
        loop {
            tokio::select! {
                biased;
                Some(()) = in_flight.next(), if !in_flight.is_empty() => {}
                job = jobs.next(), if in_flight.len() < max_in_flight => match job {
                    Some(job) => in_flight.push(self.push(job)),
                    None => break,
                },
            }
        }
        while in_flight.next().await.is_some() {}
    }

    async fn push(&self, RawJob { job, origin }: RawJob) {
        // asked for each time: a reload may have named another
        let Some(caller) = self.keys.raw() else {
            let refusal = no_raw_key();
            self.admission.refuse(PushSource::Nsq, &refusal);
            log_drop(&job, refusal.kind.name(), &refusal.message);
            return job.finish();
        };
        let submitter = self.admission.submitter(PushSource::Nsq, caller);
        if job.attempts > self.max_attempts {
            submitter.give_up();
            log_drop(&job, "given_up", "it came more often than [queue] max_attempts");
            return job.finish();
        }
        let id = id_of(origin, &job.record);
        let draft = self.read(&job.record);
        let mut push = pin!(submitter.push_as(id, draft));
        let outcome = loop {
            match tokio::time::timeout(self.touch_every, &mut push).await {
                Ok(outcome) => break outcome,
                Err(_) => job.touch(),
            }
        };
        match outcome {
            Ok(_) => job.finish(),
            Err(refusal) if refusal.kind.may_pass_later() => {
                tracing::debug!(attempts = job.attempts, reason = refusal.kind.name(), "a raw push waits");
                let wait = refusal.wait.unwrap_or_default();
                let delay = delay(self.requeue_delay, job.attempts).max(wait.min(LONGEST_DELAY));
                job.requeue(delay);
            }
            Err(refusal) => {
                log_drop(&job, refusal.kind.name(), &refusal.message);
                job.finish();
            }
        }
    }

    fn read(&self, raw: &[u8]) -> Result<Draft, Refusal> {
        match &self.form {
            RawForm::PushRequest => {
                let request = PushRequest::decode(raw).map_err(|error| {
                    let message = format!("the message is not a protobuf PushRequest: {error}");
                    Refusal::new(RefusalKind::BadField, message)
                })?;
                Draft::of(request)
            }
            RawForm::OfTag(tag, config) => {
                let push = gpusher::push(raw, Some(tag), config, &self.admission.limits());
                push.map_err(|refused| refused.refusal)
            }
        }
    }
}

/// There are keys, and raw pushes have none.
fn no_raw_key() -> Refusal {
    Refusal::new(RefusalKind::NoKey, "there are keys, and no [queue] raw_key that names one for raw pushes to act as")
}

/// Never the content.
fn log_drop(job: &Job, reason: &str, message: &str) {
    let attempts = job.attempts;
    let bytes = job.record.len();
    tracing::warn!(reason, attempts, bytes, "a raw push was dropped: {message}");
}

/// The same for each redelivery.
fn id_of(origin: Origin, record: &[u8]) -> PushId {
    PushId::from_parts(origin.millis, fnv1a(&[&origin.id, record]))
}

/// FNV-1a in 128 bits over `parts`: ids of raw pushes rest on it, so it must never change.
fn fnv1a(parts: &[&[u8]]) -> u128 {
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013B;
    const BASIS: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    parts.iter().flat_map(|part| part.iter()).fold(BASIS, |hash, byte| (hash ^ u128::from(*byte)).wrapping_mul(PRIME))
}

/// Twice as long with each attempt, so that max_attempts outlasts more than a moment.
fn delay(first: Duration, attempts: u32) -> Duration {
    first.saturating_mul(1 << (attempts.saturating_sub(1)).min(16)).min(LONGEST_DELAY.max(first))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;

    use super::*;
    use crate::routing::RoutedPublisher;
    use crate::{
        config,
        lifecycle::{Phase, Phases},
        queue::{
            self,
            record::{self, Record},
        },
        telemetry::{Metrics, labels::PushLabels},
    };

    #[test]
    fn a_push_that_comes_again_waits_longer_each_time_but_not_for_ever() {
        let second = Duration::from_secs(1);
        let delays: Vec<_> = [1, 2, 3, 7, 70_000].into_iter().map(|n| delay(second, n).as_secs()).collect();
        assert_eq!(delays, [1, 2, 4, 60, 60]);
        assert_eq!(delay(Duration::from_secs(90), 5), Duration::from_secs(90));
    }

    #[test]
    fn the_hash_of_raw_pushes_never_changes() {
        // the published test vectors of FNV-1a 128
        assert_eq!(fnv1a(&[]), 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d);
        assert_eq!(fnv1a(&[b"a"]), 0xd228_cb69_6f1a_8caf_7891_2b70_4e4a_8964);
        assert_eq!(fnv1a(&[b"foo", b"bar"]), 0x343e_1662_793c_64bf_6f0d_3597_ba44_6f18);
    }

    #[tokio::test]
    async fn raw_pushes_keep_their_order_and_their_id_and_bad_ones_are_only_counted() {
        let dir = tempfile::tempdir().unwrap();
        let env = [("OXIPUSH__DATA__DIR".to_owned(), dir.path().to_string_lossy().into_owned())];
        let config = config::load(None, env).unwrap();
        let (metrics, (tasks, _deaths), phases) = (Arc::new(Metrics::new()), Tasks::new(), Phases::new());
        let mut queue = queue::embedded::open(&config.queue, &tasks, &metrics).await.unwrap();
        let publisher = RoutedPublisher::start(&config, queue.publisher, None, &tasks, &metrics);
        let admission = Admission::new(&config, publisher, None, phases.clone(), &tasks, &metrics);
        // what is in flight in a drain is published all the same
        phases.enter(Phase::Draining);

        let push = |content: &str| {
            let to = vec!["card".into(), "card".into()];
            Bytes::from(PushRequest { to, content: content.into(), ..Default::default() }.encode_to_vec())
        };
        // what this node has not is refused here as elsewhere, never ignored
        let asking = |option: PushRequest| {
            Bytes::from(PushRequest { to: vec!["card".into()], content: "x".into(), ..option }.encode_to_vec())
        };
        let raw = [
            (push("first"), 1, 1),
            (Bytes::from_static(b"rubbish"), 1, 2),
            (push("second"), 2, 3),
            (Bytes::from(PushRequest::default().encode_to_vec()), 1, 4),
            (push("too often"), config.queue.max_attempts + 1, 5),
            (asking(PushRequest { offline: true, ..Default::default() }), 1, 6),
            (asking(PushRequest { deliver_at: 60, ..Default::default() }), 1, 7),
            (push("first"), 2, 1),
            (asking(PushRequest { ttl: 60, ..Default::default() }), 1, 8),
        ]
        .map(|(record, attempts, n)| RawJob {
            job: Job::detached(record, attempts),
            origin: Origin { millis: 1_700_000_000_000, id: [n; 16] },
        });
        let consumer = RawConsumer::new(&config.queue, RawForm::PushRequest, &Keys::new(&config, &metrics), &admission);
        let all = consumer.run(stream::iter(raw), config.queue.max_in_flight);
        tokio::time::timeout(Duration::from_secs(30), all).await.unwrap();

        let mut published = Vec::new();
        for _ in 0..4 {
            let job = tokio::time::timeout(Duration::from_secs(30), queue.jobs.next()).await.unwrap().unwrap();
            let Ok(Record::Push(push)) = record::decode(job.record.clone()) else { panic!("no push") };
            published.push(push);
            job.finish();
        }
        let contents: Vec<_> = published.iter().map(|push| push.content.to_text()).collect();
        assert_eq!(contents, ["first", "second", "first", "x"]);
        assert_eq!(published[0].target.cards, ["card"]);
        assert_eq!(published[0].id, published[2].id, "a redelivery keeps its id");
        assert_ne!(published[0].id, published[1].id);
        assert_eq!(published[0].id.millis(), 1_700_000_000_000);
        let ends: Vec<_> = published.iter().map(|push| push.deadline).collect();
        assert_eq!(ends, [None, None, None, Some(1_700_000_060_000)], "a ttl counts from when nsqd got the push");
        let count = |outcome| metrics.pushes.get_or_create(&PushLabels { source: "nsq", outcome }).get();
        let counts = ["accepted", "bad_field", "given_up", "no_store", "not_built"].map(count);
        assert_eq!(counts, [4, 2, 1, 1, 1]);
        tasks.stop(Duration::from_secs(10)).await;
    }
}
