//! The topics to which other NSQ clients write, each read through a channel that all nodes share: `<topic>` for raw pushes, and one
//! for each tag of gpusher's.

use super::TopicConsumers;
use crate::queue::{Acker, Job, Jobs};

/// All of them; ingress takes them.
pub struct RawTopics {
    /// `<topic>`: protobuf `PushRequest`s.
    pub pushes: RawTopic,
    /// `[gpusher] tags`, in their order: gpusher's JSON.
    pub tags: Vec<RawTopic>,
}

/// One of them.
pub struct RawTopic {
    /// Its name.
    pub name: String,
    pub(super) jobs: Jobs,
    pub(super) consumers: TopicConsumers,
}

/// A raw push, as the other NSQ client wrote it, and where it comes from.
pub struct RawJob {
    /// To be finished, requeued or touched as any other.
    pub job: Job,
    /// What its PushId is made of.
    pub origin: Origin,
}

/// What tells a raw push from all others: the same for each redelivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// NSQ's time of the message, ms since 1970.
    pub millis: u64,
    /// NSQ's message id, 16 bytes.
    pub id: [u8; 16],
}

impl RawTopic {
    /// The next job; `None` once the topic was stopped and nothing more will come. Cancel-safe.
    pub async fn next(&mut self) -> Option<RawJob> {
        let job = self.jobs.next().await?;
        let Some(Acker::Nsq(acker)) = &job.acker else { unreachable!("invariant: nsqd's jobs are answered to nsqd") };
        let origin = acker.origin();
        Some(RawJob { job, origin })
    }

    /// What stops it.
    pub fn control(&self) -> RawControl {
        RawControl(self.consumers.clone())
    }
}

/// Stops the hand-out of raw pushes.
pub struct RawControl(TopicConsumers);

impl RawControl {
    /// Hands out no more; what was handed out already can still be finished.
    pub async fn stop(&self) {
        self.0.stop().await;
    }
}
