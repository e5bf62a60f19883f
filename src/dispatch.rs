//! From job to outcome: given to its lane, decoded, offered through the hub, finished.

mod catch_up;
mod dropped;
mod forwarder;
mod gone_nodes;
mod in_flight;
mod intake;
mod lane;
mod merger;
mod pace;
mod processor;
mod window;

use std::{sync::Arc, time::Duration};

use bytestring::ByteString;
use futures_util::FutureExt;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::{
    config,
    hub::Hub,
    lifecycle::{Deadline, Service, Tasks},
    push::Rebalance,
    queue::{Jobs, record::PresenceNotice},
    routing::RoutedPublisher,
    store::{Store, StoredPushes},
    telemetry::Metrics,
};

use catch_up::{CatchUp, StreamSweep};
use forwarder::Forwarder;
pub(crate) use gone_nodes::drain_gone_nodes;
use in_flight::InFlight;
use intake::Intake;
use lane::{Lane, LaneMerging};
use merger::{MergeTotals, Merger};
use pace::Pace;
use processor::Processor;

/// What is taken from the queue, or by a lane, at once: what it makes for the next one reaches that together.
const BUNDLE: usize = 64;
/// What the last requeues get when nothing is left of the time for a stop.
const REQUEUE: Duration = Duration::from_secs(1);

/// Refuses tokens of a subject that were issued before a time (in seconds since 1970), on this node and from now on.
pub type Revoke = Box<dyn Fn(ByteString, u64) + Send + Sync>;

/// Sends clients of this node away, if the order is for it.
pub type SendClientsAway = Box<dyn Fn(&Rebalance) + Send + Sync>;

/// Hears of a change of who is in a room of the cluster.
pub type HearPresence = Box<dyn Fn(PresenceNotice) + Send + Sync>;

/// Who carries out the orders that come through the queue and are no work for the hub.
pub struct NodeOrders {
    /// Of a disconnect that revokes.
    pub revoke: Revoke,
    /// Of each rebalance, whichever node it is for.
    pub rebalance: SendClientsAway,
    /// Of each change of who is in a room, whichever node it is of.
    pub presence: HearPresence,
}

/// Where nobody is sent away, and nobody hears of presence.
impl From<Revoke> for NodeOrders {
    fn from(revoke: Revoke) -> Self {
        Self { revoke, rebalance: Box::new(|_| {}), presence: Box::new(|_| {}) }
    }
}

/// The running processors.
pub struct Dispatch {
    /// Ends by itself once the jobs' end was reached and each job in flight is finished or requeued; told to stop, it gives
    /// them all back.
    service: Service,
    /// Reads the store for the shards, until the end.
    reading: Service,
    merging: Vec<LaneMerging>,
}

impl Dispatch {
    /// Starts `[queue] processors` processors on `jobs`, and on what the store takes. Where there was a `backlog` when the first
    /// job comes, it is offered at a pace that outboxes can follow. What came to this node for clients that are at another by now goes
    /// to `sent_on`. What is ordered is told to `orders`.
    #[expect(clippy::too_many_arguments, reason = "each is another part of the gateway")]
    pub fn start(
        config: &config::Config,
        jobs: Jobs,
        stored: Option<(Store, StoredPushes)>,
        hub: Hub,
        backlog: watch::Receiver<bool>,
        sent_on: Option<RoutedPublisher>,
        orders: impl Into<NodeOrders>,
        tasks: &Tasks,
        metrics: &Arc<Metrics>,
    ) -> Self {
        let config::Config { queue: config, rooms, store: store_config, directory, .. } = config;
        let service = tasks.service();
        let stopping = service.stopping().clone();
        let (completions, told) = mpsc::unbounded_channel();
        let none_in_flight = CancellationToken::new();
        let (absences, absent) = mpsc::unbounded_channel();
        let in_flight = InFlight::new(config, told, sent_on.is_some().then_some(absences), metrics);
        if let Some(publisher) = sent_on {
            let forwarder = Forwarder::new(publisher, completions.clone(), Arc::clone(&in_flight), metrics);
            service.spawn_until_done("forwarder", until_stopped(none_in_flight.clone(), forwarder.run(absent)));
        }
        let settling = Arc::clone(&in_flight);
        hub.after_turns(Box::new(move || settling.settle()));
        let processors = config.processors.max(1);
        // what waits in all lanes together is bounded by the jobs in flight
        let waiting = config.max_in_flight.div_ceil(processors).max(1);
        let merge_totals = MergeTotals::of(metrics);
        let lanes: Vec<Lane> = (0..processors)
            .map(|number| {
                // a frame that fills an outbox alone would drive out what waits before it
                let merger = Merger::new(rooms, &merge_totals, hub.outbox_bytes() / 4);
                let processor =
                    Processor::new(hub.clone(), completions.clone(), Arc::clone(&in_flight), merger, metrics);
                let (lane, task) = Lane::new(processor, hub.clone(), waiting, config.job_timeout);
                // what is dropped in the middle counts as lost and is requeued
                service.spawn_until_done(format!("lane {number}"), until_stopped(stopping.clone(), task.run()));
                lane
            })
            .collect();
        let merging = lanes.iter().map(Lane::merging).collect();
        let reading = tasks.service();
        let stored = stored.map(|(store, stored)| {
            let catch_up = CatchUp::new(store_config, store.clone(), hub.clone());
            let sweep = StreamSweep::new(store_config, store, hub.clone());
            let stopping = reading.stopping();
            reading.spawn_until_done("catch-up", until_stopped(stopping.clone(), catch_up.run()));
            reading.spawn_until_done("stream sweep", sweep.run(stopping.clone()));
            stored
        });
        let intake =
            Intake::new(config, directory.max_hops, lanes, completions, Arc::clone(&in_flight), orders.into(), metrics);
        let pace = Pace::new(config, hub, Arc::clone(&in_flight));
        // jobs that were taken and not yet dispatched are requeued by their drop
        service.spawn_until_done(
            "dispatch intake",
            until_stopped(stopping.clone(), intake.run(jobs, stored, backlog, pace)),
        );
        service.spawn_until_done("dispatch time-outs", async move {
            stopping.run_until_cancelled(in_flight.run()).await;
            in_flight.put_back_all();
            none_in_flight.cancel();
        });
        Self { service, reading, merging }
    }

    /// From now on pushes to rooms and to everyone go to each client at once, and what was gathered leaves: before clients are
    /// sent away, since a push that was gathered is finished already. Returns when it was offered, or at the deadline.
    pub async fn stop_merging(&self, deadline: Deadline) {
        let (end, mut ended) = mpsc::unbounded_channel();
        self.merging.iter().for_each(|lane| lane.stop(&end));
        drop(end);
        // nobody can tell of an end any more: each came
        let _ = deadline.timeout(async { while ended.recv().await.is_some() {} }).await;
    }

    /// Waits until the jobs' end was reached and each job in flight is finished or requeued; at the deadline they all are
    /// requeued.
    pub async fn drain(self, deadline: Deadline) {
        if !self.service.ended(deadline).await {
            tracing::warn!("jobs are still in flight at the end of the time for a stop; they are requeued");
            // nothing is waited for on that way; the bound is only against a starved runtime
            self.service.stop_within(deadline.granting(REQUEUE)).await;
        }
        self.reading.stop_within(deadline.granting(REQUEUE)).await;
    }
}

/// `work`, dropped when the service is told to stop.
fn until_stopped(stopping: CancellationToken, work: impl Future<Output = ()>) -> impl Future<Output = ()> {
    stopping.run_until_cancelled_owned(work).map(|_| ())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    mod merging;

    use std::{
        rc::Rc,
        sync::Mutex,
        time::{SystemTime, UNIX_EPOCH},
    };

    use bytes::Bytes;
    use tokio::time::timeout;

    use super::*;
    use crate::{
        bundles::{self, Bundles},
        hub::{Client, Shard, Sink, Work, WriteBudget},
        push::{ClientSelector, Disconnect, Push, PushId, Target},
        queue::{Job, record},
        telemetry::labels::{DropReason, JobOutcome},
        wire::dialect::Dialect,
    };

    const PATIENCE: Duration = Duration::from_secs(30);

    struct Nowhere;

    impl Sink for Nowhere {
        fn try_write(&self, bytes: &[u8]) -> std::io::Result<usize> {
            Ok(bytes.len())
        }
    }

    /// A dispatch whose one shard, which nobody runs, has a client of the card alice.
    struct Setup {
        jobs: mpsc::Sender<Vec<Job>>,
        dispatch: Dispatch,
        shard: Rc<Shard<Nowhere>>,
        client: Rc<Client<Nowhere>>,
        revoked: Arc<Mutex<Vec<(ByteString, u64)>>>,
        inbox: Bundles<Work>,
        metrics: Arc<Metrics>,
        _backlog: watch::Sender<bool>,
    }

    impl Setup {
        fn new(settings: &[(&str, &str)]) -> Self {
            let settings = settings.iter().map(|(key, value)| (format!("OXIPUSH__{key}"), (*value).to_owned()));
            let config = config::load(None, settings).unwrap();
            let metrics = Arc::new(Metrics::new());
            let (tasks, _deaths) = Tasks::new();
            let hub = Hub::new(&config.hub, &config.outbox, 1, &metrics);
            let (shard, inbox) = hub.claim_shard().unwrap().open();
            let client = shard.open(Nowhere, Dialect::OxipushV1);
            shard.join(&client, "alice", "");
            let (jobs, bundles) = bundles::channel(8);
            let (_backlog, backlog) = watch::channel(false);
            let revoked = Arc::new(Mutex::new(Vec::new()));
            let told = Arc::clone(&revoked);
            let revoke: Revoke = Box::new(move |subject, at| told.lock().unwrap().push((subject, at)));
            let dispatch =
                Dispatch::start(&config, Jobs::detached(bundles), None, hub, backlog, None, revoke, &tasks, &metrics);
            Self { jobs, dispatch, shard, client, inbox, revoked, metrics, _backlog }
        }

        async fn hand_out(&self, record: &Bytes) {
            self.jobs.send(vec![Job::detached(record.clone(), 1)]).await.unwrap();
        }

        /// What the shard was sent.
        async fn work(&mut self) -> Work {
            timeout(PATIENCE, self.inbox.next()).await.unwrap().unwrap()
        }

        /// The shard does what it was sent.
        async fn deliver(&mut self) {
            match self.work().await {
                Work::Part(part) => self.shard.deliver(part.into(), &mut WriteBudget::none()),
                Work::Disconnect(part) => {
                    self.shard.disconnect(part);
                    assert!(!self.shard.sweep());
                }
                Work::Presence(_) | Work::Lookup(_) | Work::Stream(_) => panic!("dispatch sends none"),
            }
        }

        fn jobs(&self, outcome: JobOutcome) -> u64 {
            self.metrics.jobs.get_or_create(&outcome).get()
        }

        async fn reaches(&self, outcome: JobOutcome, count: u64) {
            let reached = async {
                while self.jobs(outcome) < count {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            };
            timeout(PATIENCE, reached).await.unwrap_or_else(|_| panic!("{outcome:?} is not {count}"));
        }

        /// No more jobs come, and those in flight end.
        async fn drain(self) -> Arc<Metrics> {
            drop(self.jobs);
            self.dispatch.drain(Deadline::after(PATIENCE)).await;
            self.metrics
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_job_that_a_shard_does_not_take_within_job_timeout_is_requeued_once() {
        let mut setup = Setup::new(&[("QUEUE__JOB_TIMEOUT", "1s")]);
        setup.hand_out(&record::encode(&Push::to("alice", "late"))).await;
        setup.reaches(JobOutcome::Requeued, 1).await;
        assert_eq!(setup.metrics.jobs_in_flight.get(), 0);
        // taken after all: the job is another's by now, neither finished nor requeued again
        setup.deliver().await;
        let metrics = setup.drain().await;
        let jobs = |outcome| metrics.jobs.get_or_create(&outcome).get();
        assert_eq!((jobs(JobOutcome::Requeued), jobs(JobOutcome::Finished), metrics.jobs_in_flight.get()), (1, 0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_copy_of_a_push_that_was_finished_reaches_nobody_and_one_that_was_given_back_does() {
        let mut setup = Setup::new(&[("QUEUE__JOB_TIMEOUT", "1s"), ("QUEUE__BACKEND", "nsq"), ("NODE__ID", "a")]);
        let record = record::encode(&Push::to("alice", "once"));
        // in flight, and given back after job_timeout
        setup.hand_out(&record).await;
        setup.hand_out(&record).await;
        setup.reaches(JobOutcome::Dropped, 1).await;
        setup.reaches(JobOutcome::Requeued, 1).await;
        drop(setup.work().await);
        // so it is new again; once finished, it is not
        setup.hand_out(&record).await;
        setup.deliver().await;
        setup.reaches(JobOutcome::Finished, 1).await;
        setup.hand_out(&record).await;
        setup.reaches(JobOutcome::Dropped, 2).await;
        assert_eq!(setup.metrics.drops.get_or_create(&DropReason::Copy).get(), 2);
        setup.drain().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_push_that_waited_in_the_queue_beyond_its_deadline_reaches_nobody_and_is_counted() {
        let mut setup = Setup::new(&[]);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
        let until = |deadline, cards: &[&str]| {
            let target = Target::cards(cards.iter().map(|card| (*card).into()).collect());
            record::encode(&Push { target, deadline: Some(deadline), ..Push::to("", "late") })
        };
        setup.hand_out(&until(now, &["alice"])).await;
        // of several lanes
        setup.hand_out(&until(now - 1, &["alice", "a", "b", "c", "d", "e", "f", "g"])).await;
        setup.reaches(JobOutcome::Dropped, 2).await;
        assert_eq!(setup.metrics.drops.get_or_create(&DropReason::Expired).get(), 2);
        setup.hand_out(&until(now + 600_000, &["alice"])).await;
        setup.deliver().await;
        setup.reaches(JobOutcome::Finished, 1).await;
        setup.drain().await;
    }

    fn order(age: Duration) -> Disconnect {
        let at = (SystemTime::now() - age).duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
        let selector = ClientSelector::Card("alice".into());
        Disconnect { id: PushId::generate(), selector, code: 3504, reason: None, revoke: false, at }
    }

    #[tokio::test(start_paused = true)]
    async fn a_disconnect_ends_who_joined_before_it_behind_the_pushes_that_came_before_it() {
        let mut setup = Setup::new(&[]);
        setup.hand_out(&record::encode(&Push::to("alice", "bye"))).await;
        setup.hand_out(&record::encode_disconnect(&order(Duration::ZERO))).await;
        let Work::Part(push) = setup.work().await else { panic!("the push comes first") };
        push.done();
        assert!(!setup.client.is_ending());
        setup.deliver().await;
        assert!(setup.client.is_ending());
        assert_eq!(setup.client.label(), "3504");
        setup.reaches(JobOutcome::Finished, 2).await;
        setup.drain().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_disconnect_that_comes_late_ends_nobody_who_joined_since() {
        let mut setup = Setup::new(&[]);
        setup.hand_out(&record::encode_disconnect(&order(Duration::from_secs(30)))).await;
        setup.deliver().await;
        setup.reaches(JobOutcome::Finished, 1).await;
        assert!(!setup.client.is_ending());
        setup.drain().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_disconnect_older_than_its_life_is_void_but_revokes() {
        let setup = Setup::new(&[]);
        let mut order = order(Disconnect::LIFE + Duration::from_secs(1));
        setup.hand_out(&record::encode_disconnect(&order)).await;
        setup.reaches(JobOutcome::Dropped, 1).await;
        assert!(setup.revoked.lock().unwrap().is_empty());
        (order.selector, order.revoke, order.at) = (ClientSelector::Subject("user-1".into()), true, 1_700_000_000_999);
        setup.hand_out(&record::encode_disconnect(&order)).await;
        setup.reaches(JobOutcome::Dropped, 2).await;
        assert_eq!(*setup.revoked.lock().unwrap(), [("user-1".into(), 1_700_000_000)]);
        assert_eq!(setup.metrics.drops.get_or_create(&DropReason::Void).get(), 2);
        assert!(!setup.client.is_ending());
        setup.drain().await;
    }

    #[tokio::test(start_paused = true)]
    async fn at_the_deadline_of_a_drain_what_is_in_flight_is_put_back() {
        let setup = Setup::new(&[("QUEUE__JOB_TIMEOUT", "15m")]);
        setup.hand_out(&record::encode(&Push::to("alice", "stays"))).await;
        let Setup { jobs, dispatch, metrics, .. } = setup;
        // the jobs' end does not come
        dispatch.drain(Deadline::after(Duration::from_secs(5))).await;
        drop(jobs);
        assert_eq!(metrics.jobs.get_or_create(&JobOutcome::Requeued).get(), 1);
        assert_eq!(metrics.jobs_in_flight.get(), 0);
    }
}
