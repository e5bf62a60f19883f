//! `[queue] replay_hold`: after a start a backlog waits for a while, so that clients rejoin first. It waits in nsqd, in the
//! node's paused channel, where nsqd's HTTP is known: nsqd counts what it hands out, offered or not.
//!
//! Where new pushes must pass by the backlog ([`HoldScope::Old`]), the channel is paused only until the first client is here;
//! from then on what is held waits in this node, as far as there is room, else it is requeued for the rest of the hold.

use std::{
    collections::{HashSet, VecDeque},
    hash::{BuildHasher as _, Hash},
    time::Duration,
};

use foldhash::fast::FixedState;
use tokio::time::{Instant, timeout};
use tokio_nsq::NSQMessage;

use super::{super::channel_hold::HoldScope, Consumer, TopicContext, requeue_delay, since};
use crate::record::{self, PeekedSelection};

/// How often it is tried to unpause the channel, and what one try may take.
const UNPAUSE: Duration = Duration::from_secs(2);
const BRIEF: Duration = Duration::from_millis(250);
/// Of so many addresses it is known that they have held pushes; of more, all are taken to have some.
const MAX_ADDRESSES: usize = 65_536;

/// What one consumer holds.
pub(super) struct ConsumerHold {
    pub(super) until: Instant,
    scope: HoldScope,
    /// The channel is paused for it.
    paused: bool,
    /// In the order in which they came.
    messages: VecDeque<NSQMessage>,
    /// Addresses with held pushes.
    addresses: HashSet<u64, FixedState>,
}

impl ConsumerHold {
    fn new(until: Instant, scope: HoldScope, paused: bool) -> Self {
        Self { until, scope, paused, messages: VecDeque::new(), addresses: HashSet::default() }
    }

    /// Whether nothing is handed out.
    pub(super) fn is_of_all(&self) -> bool {
        self.scope == HoldScope::All
    }

    /// Whether the channel is paused until a client is here.
    pub(super) fn waits_for_somebody(&self) -> bool {
        self.paused && self.scope == HoldScope::Old
    }

    /// Whether it is to be held: because it is `old`, or because one before it is.
    fn takes(&mut self, message: &NSQMessage, old: bool) -> bool {
        let Some(peek) = record::peek(&message.body) else { return false };
        let addresses = match peek.selection {
            // it says itself whom it means
            PeekedSelection::Disconnect => return false,
            PeekedSelection::Cards(cards) => {
                [cards.first()].into_iter().chain(cards.rest()).map(|card| address(1, card)).collect()
            }
            PeekedSelection::Room(room) => vec![address(2, room)],
            PeekedSelection::App(app) => vec![address(3, app)],
            PeekedSelection::Everyone => vec![address(4, b"")],
        };
        let is_full = self.addresses.len() >= MAX_ADDRESSES;
        let takes = old || is_full || addresses.iter().any(|address| self.addresses.contains(address));
        if takes && !is_full {
            self.addresses.extend(addresses);
        }
        takes
    }
}

fn address(kind: u8, name: impl Hash) -> u64 {
    FixedState::default().hash_one((kind, name))
}

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
        let TopicContext { nsq, name, channel, own, .. } = &self.topic;
        nsq.admin.create_channels(http, name, &[channel]).await?;
        let Some(hold) = own else { return Ok(()) };
        let until = hold.until(Duration::MAX);
        let records = nsq.admin.stats(http, name, channel).await?.map_or(0, |stats| stats.unfinished());
        let holds = (records > 0 || hold.awaits_clients()) && !hold.signals().is_over();
        if records > 0 && !(holds && hold.scope() == HoldScope::Old) {
            hold.backlog_comes();
        }
        if self.jobs.is_none() {
            return Ok(());
        }
        if !holds {
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
            time = ?hold.time(),
            "pushes are held for [queue] replay_hold, so that clients rejoin first"
        );
        hold.begin();
        self.hold = Some(ConsumerHold::new(until, hold.scope(), true));
        Ok(())
    }

    /// Without nsqd's HTTP nobody can pause the channel: what is held waits here, handed out by nsqd already.
    pub(super) fn hold_without_http(&mut self) {
        let Some(hold) = self.topic.own.as_ref().filter(|hold| hold.awaits_clients()) else { return };
        if self.nsqd.http.is_none() {
            self.hold_here(hold.scope());
        }
    }

    /// Without nsqd's HTTP only a message can show a backlog, by being older than this process.
    fn notice_backlog(&mut self, old: bool) {
        let Some(hold) = self.topic.own.as_ref().filter(|_| old && self.hold.is_none()) else { return };
        if self.nsqd.http.is_some() {
            return;
        }
        if hold.scope() == HoldScope::All {
            hold.backlog_comes();
        }
        self.hold_here(hold.scope());
    }

    fn hold_here(&mut self, scope: HoldScope) {
        let TopicContext { nsq, own: Some(hold), .. } = &self.topic else { return };
        // beyond nsqd's time-out it would hand them out again
        let until = hold.until(nsq.config.job_timeout);
        if self.jobs.is_some() && self.hold.is_none() && !hold.signals().is_over() {
            let time = until.saturating_duration_since(Instant::now());
            tracing::info!(nsqd = self.nsqd.tcp, ?time, "pushes are held, so that clients rejoin first");
            hold.begin();
            self.hold = Some(ConsumerHold::new(until, scope, false));
        }
    }

    /// Takes a message in: it waits for its hand-out, or is held.
    pub(super) fn receive(&mut self, message: NSQMessage, number: u64) {
        let old = self.topic.own.is_some() && since(message.timestamp) >= self.topic.started.elapsed();
        self.notice_backlog(old);
        let most = (self.share / 2).max(1);
        let Some(hold) = self.hold.as_mut().filter(|hold| hold.scope == HoldScope::Old && self.jobs.is_some()) else {
            return self.waiting.push_back(message);
        };
        if !hold.takes(&message, old) {
            self.waiting.push_back(message);
        } else if hold.messages.len() < most {
            hold.messages.push_back(message);
        } else {
            // what is new must have room in nsqd's window
            let left = hold.until.saturating_duration_since(Instant::now());
            self.generation.answer(number, message.requeue(requeue_delay(left)));
        }
    }

    /// A client is here: what is new is handed out from now on.
    pub(super) async fn let_new_ones_pass(&mut self) {
        if let Some(hold) = &mut self.hold {
            hold.paused = false;
            // held here, beyond nsqd's time-out it would hand them out again
            hold.until = hold.until.min(Instant::now() + self.topic.nsq.config.job_timeout);
        }
        self.unpause().await;
    }

    /// Ends the hold.
    pub(super) async fn release(&mut self, number: u64) {
        let Some(hold) = self.hold.take() else { return };
        tracing::info!(nsqd = self.nsqd.tcp, "the replay hold is over");
        if hold.scope == HoldScope::Old
            && let Some(shared) = &self.topic.own
        {
            shared.backlog_comes();
        }
        // older than what waits at the same addresses
        let newer = std::mem::replace(&mut self.waiting, hold.messages);
        self.waiting.extend(newer);
        self.hand_out(number);
        if hold.paused {
            self.unpause().await;
        }
    }

    /// The hold is of no use any more: all waits for the stop's end.
    pub(super) fn drop_hold(&mut self) {
        if let Some(hold) = self.hold.take() {
            let newer = std::mem::replace(&mut self.waiting, hold.messages);
            self.waiting.extend(newer);
        }
    }

    /// What was held came over a connection that is no more.
    pub(super) fn forget_held(&mut self) {
        if let Some(hold) = &mut self.hold {
            hold.messages.clear();
        }
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
