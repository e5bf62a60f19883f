//! What time does to a connection: pings, silence, a join, a message or a close that takes too long.

use std::{cell::Cell, rc::Rc, time::Duration};

use super::{connection::Socket, wheel::Wheel};
use crate::{
    config,
    hub::{Client, Item, Shard},
    wire::{close::Close, frame::Frame},
};

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
    slow_close: u32,
    frame: Rc<Item>,
}

/// What a connection keeps for its heartbeat, in ticks.
#[derive(Default)]
pub(super) struct Pulse {
    opened: Cell<u32>,
    heard: Cell<u32>,
    pinged: Cell<u32>,
    /// The tick of its one valid entry in the wheel.
    due: Cell<u32>,
    /// Its close may take until then, or before that a message that began; 0: none did.
    done_by: Cell<u32>,
    joined: Cell<bool>,
    closing: Cell<bool>,
    cut: Cell<bool>,
}

impl Pulse {
    /// It joined once: the join deadline is met.
    pub(super) fn joined(&self) {
        self.joined.set(true);
    }

    /// Its close took too long: it must be dropped.
    pub(super) fn is_cut(&self) -> bool {
        self.cut.get()
    }
}

impl Heartbeat {
    pub(super) fn new(config: &config::Socket) -> Self {
        let times = [
            config.ping_interval,
            config.idle_timeout,
            config.join_timeout,
            config.message_timeout,
            config.close_timeout,
        ];
        let shortest = times.into_iter().min().unwrap_or_default();
        let period = (shortest / 8).clamp(Duration::from_millis(10), Duration::from_secs(1));
        let ticks = |time: Duration| time.as_nanos().div_ceil(period.as_nanos()).clamp(1, 1 << 30) as u32;
        Self {
            wheel: Wheel::new(),
            period,
            ping: ticks(config.ping_interval),
            idle: ticks(config.idle_timeout),
            join: ticks(config.join_timeout),
            message: ticks(config.message_timeout),
            close: ticks(config.close_timeout),
            slow_close: ticks(config.close_timeout.max(config.user_timeout)),
            frame: Item::control(&Frame::ping(b"")),
        }
    }

    /// A connection more.
    pub(super) fn start(&self, client: &Client<Socket>) {
        let pulse = &client.sink.pulse;
        let now = self.wheel.now();
        for tick in [&pulse.opened, &pulse.heard, &pulse.pinged] {
            tick.set(now);
        }
        self.put(client, now + self.ping.min(self.join).min(self.idle));
    }

    /// Bytes came.
    pub(super) fn heard(&self, client: &Client<Socket>) {
        client.sink.pulse.heard.set(self.wheel.now());
    }

    /// Something of a message came, not all of it; from its first byte on it has `message_timeout`.
    pub(super) fn begun(&self, client: &Client<Socket>) {
        let pulse = &client.sink.pulse;
        if pulse.closing.get() || pulse.done_by.get() != 0 {
            return;
        }
        let done_by = self.wheel.now() + self.message;
        pulse.done_by.set(done_by);
        // once for many messages: this look finds the later ones' time
        if pulse.due.get() > done_by {
            self.put(client, done_by + 1);
        }
    }

    /// No message is incomplete.
    pub(super) fn whole(&self, client: &Client<Socket>) {
        let pulse = &client.sink.pulse;
        if !pulse.closing.get() {
            pulse.done_by.set(0);
        }
    }

    /// Its close began and has `close_timeout`, or `user_timeout` where it is too slow.
    pub(super) fn ending(&self, client: &Client<Socket>) {
        let slow = client.label() == Close::SlowConsumer.label();
        let pulse = &client.sink.pulse;
        // the tick that runs now may be nearly over
        let done_by = self.wheel.now() + if slow { self.slow_close } else { self.close } + 1;
        pulse.closing.set(true);
        pulse.done_by.set(done_by);
        self.put(client, done_by);
    }

    /// The node drains: a close that began has no more than `close_timeout` from now on.
    pub(super) fn hurry(&self, client: &Client<Socket>) {
        let (pulse, done_by) = (&client.sink.pulse, self.wheel.now() + self.close + 1);
        if pulse.closing.get() && pulse.done_by.get() > done_by {
            pulse.done_by.set(done_by);
            self.put(client, done_by);
        }
    }

    /// One tick: looks at those that are due.
    pub(super) fn tick(&self, shard: &Shard<Socket>) {
        let due = self.wheel.advance();
        let now = self.wheel.now();
        for key in due {
            let Some(client) = shard.client(key).filter(|client| client.sink.pulse.due.get() == now) else { continue };
            if let Some(next) = self.look(shard, &client, now) {
                self.put(&client, next);
            }
        }
    }

    /// Does what is due for `client`; when it is due again.
    fn look(&self, shard: &Shard<Socket>, client: &Rc<Client<Socket>>, now: u32) -> Option<u32> {
        let pulse = &client.sink.pulse;
        let done_by = pulse.done_by.get();
        if client.is_ending() {
            // its task, woken, starts the close's own time
            if !pulse.closing.get() {
                return None;
            }
            if now < done_by {
                return Some(done_by);
            }
            pulse.cut.set(true);
            client.wake();
            return None;
        }
        let (heard, join_by) = (pulse.heard.get(), pulse.opened.get() + self.join);
        if !pulse.joined.get() && now > join_by {
            shard.end(client, &Close::NotJoined.into());
            return None;
        }
        if now > heard + self.idle {
            shard.end(client, &Close::Idle.into());
            return None;
        }
        if done_by != 0 && now > done_by {
            shard.end(client, &Close::MessageTimeout.into());
            return None;
        }
        let mut ping_at = heard.max(pulse.pinged.get()) + self.ping;
        if now >= ping_at {
            shard.broadcast(client, &self.frame);
            pulse.pinged.set(now);
            ping_at = now + self.ping;
        }
        let mut next = ping_at.min(heard + self.idle + 1);
        if !pulse.joined.get() {
            next = next.min(join_by + 1);
        }
        if done_by != 0 {
            next = next.min(done_by + 1);
        }
        Some(next)
    }

    fn put(&self, client: &Client<Socket>, due: u32) {
        client.sink.pulse.due.set(self.wheel.put(client.key(), due));
    }
}
