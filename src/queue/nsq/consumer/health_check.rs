//! Whether a consumer works, as nsqd's HTTP shows it: tokio-nsq never says that a connection was lost.

use std::{convert::Infallible, time::Duration};

use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep},
};

use super::{
    super::{
        acker::Generation,
        admin::{ChannelStats, NsqdAddress},
        health::PartHealth,
    },
    TopicContext,
};

/// How soon nsqd is asked again for a consumer that it did not list.
const UNLISTED: Duration = Duration::from_millis(250);

/// Of one consumer.
pub(super) struct HealthCheck {
    pub(super) topic: TopicContext,
    pub(super) nsqd: NsqdAddress,
    pub(super) generation: Generation,
    /// See [`super::Consumer`].
    pub(super) hold_pauses_until: watch::Receiver<Option<Instant>>,
}

impl HealthCheck {
    /// Reports the health again and again: healthy once the consumer is connected, its nsqd can write, and its own channel is
    /// read by it alone and not paused. `missed` is notified when nsqd does not list the consumer for `rebuild_after`.
    pub(super) async fn run(&self, missed: &Notify) -> Infallible {
        let nsq = &self.topic.nsq;
        let mut generations = self.generation.watch();
        let mut unlisted_since = None;
        loop {
            let mut pause = nsq.config.lookup_interval;
            if self.generation.is_connected() {
                let held = self.is_held();
                let stats = match &self.nsqd.http {
                    Some(http) => nsq.admin.stats_and_health(http, &self.topic.name, &self.topic.channel).await.ok(),
                    None => None,
                };
                let lists_it = |channel: &Option<ChannelStats>| {
                    channel.iter().flat_map(|one| &one.clients).any(|one| one.client_id == self.topic.client_id)
                };
                if stats.as_ref().is_none_or(|(channel, _)| lists_it(channel)) {
                    unlisted_since = None;
                } else {
                    // just connected, or just cut: looked at again soon
                    pause = pause.min(UNLISTED);
                    if unlisted_since.get_or_insert_with(Instant::now).elapsed() > nsq.config.rebuild_after {
                        missed.notify_one();
                    }
                }
                let health = match stats {
                    Some((channel, error)) if self.topic.own.is_some() => self.judge(channel, error, held).await,
                    _ => PartHealth::Healthy,
                };
                if self.generation.is_connected() {
                    nsq.health.set(&self.topic.group, &self.nsqd.tcp, health);
                }
            }
            tokio::select! {
                _ = generations.changed() => {}
                () = sleep(pause) => {}
            }
        }
    }

    /// A pause of the channel may be a hold's.
    fn is_held(&self) -> bool {
        self.hold_pauses_until.borrow().is_some_and(|until| Instant::now() < until)
    }

    /// What nsqd's word on the node's own channel, and the `error` of its last write, make of a consumer that is connected.
    /// `held`: whether a hold may have paused the channel before nsqd was asked.
    async fn judge(&self, channel: Option<ChannelStats>, error: Option<String>, held: bool) -> PartHealth {
        let nsqd = &self.nsqd.tcp;
        let name = &self.topic.channel;
        let paused = channel.as_ref().is_some_and(|channel| channel.paused);
        let mut clients = channel.into_iter().flat_map(|channel| channel.clients);
        if let Some(other) = clients.find(|one| one.client_id != self.topic.client_id) {
            return PartHealth::Unhealthy(format!(
                "another consumer ({} at {}) takes pushes from channel {name} of nsqd {nsqd}: stop it, or give each node its \
                 own [node] id",
                other.client_id, other.remote_address
            ));
        }
        // a stop pauses it itself
        if paused && !held && !self.is_held() && !self.topic.consumers.stopped.is_cancelled() {
            return PartHealth::Unhealthy(format!(
                "channel {name} of nsqd {nsqd} is paused: unpause it (nsqadmin, or POST /channel/unpause)"
            ));
        }
        let nsq = &self.topic.nsq;
        if let (Some(error), Some(http)) = (error, &self.nsqd.http)
            && !nsq.admin.can_write(http, &nsq.topics.disk).await
        {
            return PartHealth::Away(format!("nsqd {nsqd} cannot write ({error}): make room on its disk, or mend it"));
        }
        PartHealth::Healthy
    }
}
