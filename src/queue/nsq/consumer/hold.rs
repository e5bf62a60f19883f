//! `[queue] replay_hold`: after a start a backlog waits for a while, so that clients rejoin first. It waits in nsqd, in the
//! node's paused channel, where nsqd's HTTP is known: nsqd counts what it hands out, offered or not.

use std::time::Duration;

use tokio::time::{Instant, timeout};
use tokio_nsq::NSQMessage;

use super::{Consumer, TopicContext, since};

/// How often it is tried to unpause the channel, and what one try may take.
const UNPAUSE: Duration = Duration::from_secs(2);
const BRIEF: Duration = Duration::from_millis(250);

impl Consumer {
    /// Creates the channel through nsqd's HTTP, and lets it hold or hand out what is in it.
    pub(super) async fn prepare_channel(&mut self, http: &str) {
        let Err(error) = self.create_channel(http).await else { return };
        tracing::warn!(error, nsqd = self.nsqd.tcp, "nsq: the channel is not made through HTTP but by subscribing");
        // a stop, or a kill within a hold, may have left it paused
        if self.topic.own.is_some() && self.jobs.is_some() {
            self.unpause_at = Some(Instant::now() + UNPAUSE);
        }
    }

    async fn create_channel(&mut self, http: &str) -> Result<(), String> {
        let TopicContext { nsq, name, channel, own, hold, .. } = &self.topic;
        nsq.admin.create_channels(http, name, &[channel]).await?;
        let Some(backlog) = own else { return Ok(()) };
        let until = *hold.get_or_init(|| Instant::now() + nsq.config.replay_hold);
        let records = nsq.admin.stats(http, name, channel).await?.map_or(0, |stats| stats.unfinished());
        if records > 0 {
            backlog.send_replace(true);
        }
        if self.jobs.is_none() {
            return Ok(());
        }
        if records == 0 || until <= Instant::now() {
            nsq.admin.unpause(http, name, channel).await?;
            self.hold_pauses_until.send_replace(None);
            return Ok(());
        }
        // its end may take a second try
        self.hold_pauses_until.send_replace(Some(until + UNPAUSE));
        nsq.admin.pause(http, name, channel).await?;
        tracing::info!(
            records,
            nsqd = self.nsqd.tcp,
            time = ?nsq.config.replay_hold,
            "a backlog is held for [queue] replay_hold, so that clients rejoin first"
        );
        self.hold_until = Some(until);
        Ok(())
    }

    /// Without nsqd's HTTP only a message can show a backlog, by being older than this process: it and what follows wait
    /// here, handed out by nsqd already.
    pub(super) fn notice_backlog(&mut self, message: &NSQMessage) {
        let TopicContext { nsq, own: Some(backlog), hold, started, .. } = &self.topic else { return };
        if self.nsqd.http.is_some() || self.hold_until.is_some() || since(message.timestamp) < started.elapsed() {
            return;
        }
        backlog.send_replace(true);
        // beyond nsqd's time-out it would hand them out again
        let length = nsq.config.replay_hold.min(nsq.config.job_timeout);
        let until = *hold.get_or_init(|| Instant::now() + length);
        if self.jobs.is_some() && until > Instant::now() {
            tracing::info!(nsqd = self.nsqd.tcp, time = ?length, "a backlog is held, so that clients rejoin first");
            self.hold_until = Some(until);
        }
    }

    /// Ends the hold.
    pub(super) async fn release(&mut self, number: u64) {
        tracing::info!(nsqd = self.nsqd.tcp, "the replay hold is over");
        self.hold_until = None;
        self.hand_out(number);
        self.unpause().await;
    }

    /// Lets nsqd hand out again, or sees to it that this is tried once more. It takes no longer than [`BRIEF`], since nothing is
    /// consumed meanwhile.
    pub(super) async fn unpause(&mut self) {
        self.unpause_at = None;
        let TopicContext { nsq, name, channel, .. } = &self.topic;
        let Some(http) = &self.nsqd.http else { return };
        let error = match timeout(BRIEF, nsq.admin.unpause(http, name, channel)).await {
            Ok(Ok(_)) => return,
            Ok(Err(error)) => error,
            Err(_) => format!("no answer within {BRIEF:?}"),
        };
        tracing::warn!(error, nsqd = self.nsqd.tcp, "nsq: the channel could not be unpaused; tried again");
        self.unpause_at = Some(Instant::now() + UNPAUSE);
    }
}
