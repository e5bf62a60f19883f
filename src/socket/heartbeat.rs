//! What time does to a connection: pings, silence, a join or a close that takes too long.

use std::{cell::Cell, rc::Rc, time::Duration};

use super::{connection::Socket, wheel::Wheel};
use crate::{
    config,
    hub::{Item, Member, Shard},
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
    /// Its close may take until then.
    end_by: Cell<u32>,
    joined: Cell<bool>,
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
        let times = [config.ping_interval, config.idle_timeout, config.join_timeout, config.close_timeout];
        let shortest = times.into_iter().min().unwrap_or_default();
        let period = (shortest / 8).clamp(Duration::from_millis(10), Duration::from_secs(1));
        let ticks = |time: Duration| time.as_nanos().div_ceil(period.as_nanos()).clamp(1, 1 << 30) as u32;
        Self {
            wheel: Wheel::new(),
            period,
            ping: ticks(config.ping_interval),
            idle: ticks(config.idle_timeout),
            join: ticks(config.join_timeout),
            close: ticks(config.close_timeout),
            slow_close: ticks(config.close_timeout.max(config.user_timeout)),
            frame: Item::control(&Frame::ping(b"")),
        }
    }

    /// A connection more.
    pub(super) fn start(&self, member: &Member<Socket>) {
        let pulse = &member.sink.pulse;
        let now = self.wheel.now();
        for tick in [&pulse.opened, &pulse.heard, &pulse.pinged] {
            tick.set(now);
        }
        self.put(member, now + self.ping.min(self.join).min(self.idle));
    }

    /// Bytes came.
    pub(super) fn heard(&self, member: &Member<Socket>) {
        member.sink.pulse.heard.set(self.wheel.now());
    }

    /// Its close began and has `close_timeout`, or `user_timeout` where it is too slow.
    pub(super) fn ending(&self, member: &Member<Socket>) {
        let slow = member.label() == Close::SlowConsumer.label();
        // the tick that runs now may be nearly over
        let end_by = self.wheel.now() + if slow { self.slow_close } else { self.close } + 1;
        member.sink.pulse.end_by.set(end_by);
        self.put(member, end_by);
    }

    /// The node drains: a close that began has no more than `close_timeout` from now on.
    pub(super) fn hurry(&self, member: &Member<Socket>) {
        let (begun, end_by) = (member.sink.pulse.end_by.get(), self.wheel.now() + self.close + 1);
        if begun > end_by {
            member.sink.pulse.end_by.set(end_by);
            self.put(member, end_by);
        }
    }

    /// One tick: looks at those that are due.
    pub(super) fn tick(&self, shard: &Shard<Socket>) {
        let due = self.wheel.advance();
        let now = self.wheel.now();
        for key in due {
            let Some(member) = shard.member(key).filter(|member| member.sink.pulse.due.get() == now) else { continue };
            if let Some(next) = self.look(shard, &member, now) {
                self.put(&member, next);
            }
        }
    }

    /// Does what is due for `member`; when it is due again.
    fn look(&self, shard: &Shard<Socket>, member: &Rc<Member<Socket>>, now: u32) -> Option<u32> {
        let pulse = &member.sink.pulse;
        if member.is_ending() {
            let end_by = pulse.end_by.get();
            if now < end_by {
                return Some(end_by);
            }
            pulse.cut.set(true);
            member.wake();
            return None;
        }
        let (heard, join_by) = (pulse.heard.get(), pulse.opened.get() + self.join);
        if !pulse.joined.get() && now > join_by {
            // its task, woken, starts the close's own time
            shard.end(member, &Close::NotJoined.into());
            return None;
        }
        if now > heard + self.idle {
            shard.end(member, &Close::Idle.into());
            return None;
        }
        let mut ping_at = heard.max(pulse.pinged.get()) + self.ping;
        if now >= ping_at {
            shard.broadcast(member, &self.frame);
            pulse.pinged.set(now);
            ping_at = now + self.ping;
        }
        let mut next = ping_at.min(heard + self.idle + 1);
        if !pulse.joined.get() {
            next = next.min(join_by + 1);
        }
        Some(next)
    }

    fn put(&self, member: &Member<Socket>, due: u32) {
        member.sink.pulse.due.set(self.wheel.put(member.key(), due));
    }
}
