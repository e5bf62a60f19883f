//! What time does to a connection: pings, silence, a join, a message or a close that takes too long.

use std::{cell::Cell, rc::Rc, time::Duration};

use super::{client_socket::ClientSocket, wheel::Wheel};
use crate::{
    config,
    hub::{Client, Item, Shard},
    wire::{close::Close, frame::Frame},
};

/// What answers Pings has answered one within this.
const ANSWER: Duration = Duration::from_secs(2);

/// The times of one worker, in ticks.
pub(super) struct Heartbeat {
    wheel: Wheel,
    /// One tick.
    pub(super) period: Duration,
    ping: u32,
    idle: u32,
    join: u32,
    message: u32,
    close: u32,
    /// The time for the close of one that is too slow: so much stands before it that its kernel must only go on taking.
    slow_close: Cell<u32>,
    frame: Rc<Item>,
}

impl Heartbeat {
    pub(super) fn new(config: &config::SocketConfig) -> Self {
        let times = [
            config.ping_interval,
            config.idle_timeout,
            config.join_timeout,
            config.message_timeout,
            config.close_timeout,
        ];
        let shortest = times.into_iter().min().unwrap_or_default();
        let period = (shortest / 8).clamp(Duration::from_millis(10), Duration::from_secs(1));
        let ticks = |time| ticks(time, period);
        Self {
            wheel: Wheel::new(),
            period,
            ping: ticks(config.ping_interval),
            idle: ticks(config.idle_timeout),
            join: ticks(config.join_timeout),
            message: ticks(config.message_timeout),
            close: ticks(config.close_timeout),
            slow_close: Cell::new(ticks(config.close_timeout.max(config.user_timeout))),
            frame: Item::control(&Frame::ping(b"")),
        }
    }

    /// A connection more.
    pub(super) fn start(&self, client: &Client<ClientSocket>) {
        let liveness = &client.sink.liveness;
        let now = self.wheel.now();
        for tick in [&liveness.opened, &liveness.last_read, &liveness.last_ping] {
            tick.set(now);
        }
        liveness.joined.set(client.is_let_in());
        self.put(client, now + self.ping.min(self.join).min(self.idle));
    }

    /// Bytes came.
    pub(super) fn bytes_read(&self, client: &Client<ClientSocket>) {
        client.sink.liveness.last_read.set(self.wheel.now());
    }

    /// Something of a message came, not all of it; from its first byte on it has `message_timeout`.
    pub(super) fn message_began(&self, client: &Client<ClientSocket>) {
        let liveness = &client.sink.liveness;
        if liveness.closing.get() || liveness.done_by.get() != 0 {
            return;
        }
        let done_by = self.wheel.now() + self.message;
        liveness.done_by.set(done_by);
        // once for many messages: this look finds the later ones' time
        if liveness.due.get() > done_by {
            self.put(client, done_by + 1);
        }
    }

    /// It joined: no join is waited for any more.
    pub(super) fn joined(&self, client: &Client<ClientSocket>) {
        client.sink.liveness.joined.set(true);
    }

    /// Who it is stands for this long; `None`: for as long as it is there.
    pub(super) fn proved(&self, client: &Client<ClientSocket>, remaining: Option<Duration>) {
        let Some(session) = &client.sink.session else { return };
        let ends_at = remaining.map_or(0, |remaining| self.wheel.now() + self.ticks(remaining));
        session.ends_at.set(ends_at);
        let liveness = &client.sink.liveness;
        if ends_at != 0 && !liveness.closing.get() && liveness.due.get() > ends_at {
            self.put(client, ends_at + 1);
        }
    }

    /// A Ping was sent to it, and for longer than an answer takes no Pong came.
    pub(super) fn leaves_pings_unanswered(&self, client: &Client<ClientSocket>) -> bool {
        let liveness = &client.sink.liveness;
        let answer = self.ticks(ANSWER);
        // since the first of them
        let since = u32::from(liveness.pings.get().saturating_sub(1)) * self.ping;
        liveness.pings.get() > 0 && since + (self.wheel.now() - liveness.last_ping.get()) > answer
    }

    /// No message is incomplete.
    pub(super) fn no_message_incomplete(&self, client: &Client<ClientSocket>) {
        let liveness = &client.sink.liveness;
        if !liveness.closing.get() {
            liveness.done_by.set(0);
        }
    }

    /// Its close began and has `close_timeout`, or `user_timeout` where it is too slow.
    pub(super) fn close_began(&self, client: &Client<ClientSocket>) {
        let slow = client.label() == Close::SlowConsumer.label();
        let liveness = &client.sink.liveness;
        // the tick that runs now may be nearly over
        let time = if slow { self.slow_close.get() } else { self.close };
        let done_by = self.wheel.now() + time + 1;
        liveness.closing.set(true);
        liveness.done_by.set(done_by);
        self.put(client, done_by);
    }

    /// The node drains: from now on no close has more than `close_timeout`.
    pub(super) fn shorten_closes(&self) {
        self.slow_close.set(self.close);
    }

    /// As [`Heartbeat::shorten_closes`], for one whose close began before.
    pub(super) fn shorten_close(&self, client: &Client<ClientSocket>) {
        let liveness = &client.sink.liveness;
        let done_by = self.wheel.now() + self.close + 1;
        if liveness.closing.get() && liveness.done_by.get() > done_by {
            liveness.done_by.set(done_by);
            self.put(client, done_by);
        }
    }

    /// One tick: looks at those that are due.
    pub(super) fn tick(&self, shard: &Shard<ClientSocket>) {
        let due = self.wheel.advance();
        let now = self.wheel.now();
        for key in due {
            let Some(client) = shard.client(key).filter(|client| client.sink.liveness.due.get() == now) else {
                continue;
            };
            if let Some(next) = self.look(shard, &client, now) {
                self.put(&client, next);
            }
        }
    }

    /// Does what is due for `client`; when it is due again.
    fn look(&self, shard: &Shard<ClientSocket>, client: &Rc<Client<ClientSocket>>, now: u32) -> Option<u32> {
        let liveness = &client.sink.liveness;
        let done_by = liveness.done_by.get();
        if client.is_ending() {
            // its task, woken, starts the close's own time
            if !liveness.closing.get() {
                return None;
            }
            if now < done_by {
                return Some(done_by);
            }
            liveness.cut.set(true);
            client.wake();
            return None;
        }
        let last_read = liveness.last_read.get();
        let join_by = liveness.opened.get() + self.join;
        if !liveness.joined.get() && now > join_by {
            shard.end(client, &Close::NotJoined.into());
            return None;
        }
        if now > last_read + self.idle {
            shard.end(client, &Close::Idle.into());
            return None;
        }
        if done_by != 0 && now > done_by {
            shard.end(client, &Close::MessageTimeout.into());
            return None;
        }
        let ends_at = client.sink.session.as_ref().map_or(0, |session| session.ends_at.get());
        if ends_at != 0 && now > ends_at {
            shard.end(client, &Close::TokenExpired.into());
            return None;
        }
        let mut ping_at = last_read.max(liveness.last_ping.get()) + self.ping;
        if now >= ping_at {
            shard.broadcast(client, &self.frame);
            liveness.last_ping.set(now);
            liveness.pings.set(liveness.pings.get().saturating_add(1));
            ping_at = now + self.ping;
        }
        let mut next = ping_at.min(last_read + self.idle + 1);
        if !liveness.joined.get() {
            next = next.min(join_by + 1);
        }
        if done_by != 0 {
            next = next.min(done_by + 1);
        }
        if ends_at != 0 {
            next = next.min(ends_at + 1);
        }
        Some(next)
    }

    fn ticks(&self, time: Duration) -> u32 {
        ticks(time, self.period)
    }

    fn put(&self, client: &Client<ClientSocket>, due: u32) {
        client.sink.liveness.due.set(self.wheel.put(client.key(), due));
    }
}

/// Whole ticks of `period` that take `time`.
fn ticks(time: Duration, period: Duration) -> u32 {
    time.as_nanos().div_ceil(period.as_nanos()).clamp(1, 1 << 30) as u32
}
