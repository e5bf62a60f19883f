//! Which push is next, and when.

use std::{sync::Arc, time::Duration};

use crate::shared::{Shared, ns};

/// How pushes follow each other.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Pace {
    /// So many at once to one target; the next when all have arrived.
    Rounds { burst: u32 },
    /// As fast as they are acknowledged.
    Press,
    /// As fast as they arrive: a push is under way until its last delivery.
    Lead,
    /// So many a second, come what may.
    Rate(f64),
}

/// When it ends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum End {
    Pushes(u64),
    After(Duration),
}

/// What one sending phase does.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) pace: Pace,
    pub(crate) end: End,
    /// Pushes not yet acknowledged at once.
    pub(crate) window: usize,
    /// Only one push for each target under way, so that several connections do not race each other.
    pub(crate) exclusive: bool,
    /// Counted connections of each target.
    pub(crate) receivers: Arc<Vec<u32>>,
    /// How long nothing may happen.
    pub(crate) patience: Duration,
}

/// A push to be sent now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Push {
    pub(crate) target: u32,
    pub(crate) seq: u32,
    /// Its clock's start.
    pub(crate) due: u64,
}

/// What the sender does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    Push(Push),
    /// Nothing before this time.
    At(u64),
    /// Nothing before an acknowledgement.
    Acknowledgement,
    /// Nothing before the deliveries of the round are complete (or this time, when they are given up).
    Deliveries(u64),
    Done,
}

/// Gives out the pushes of a plan, one by one.
pub(crate) struct Source {
    shared: Arc<Shared>,
    plan: Plan,
    start: u64,
    given: u64,
    acknowledged: u64,
    /// Deliveries before the first of these pushes.
    delivered: u64,
    busy: Vec<bool>,
    round: Round,
    /// Rounds that never became complete.
    pub(crate) stalled: u32,
}

#[derive(Default)]
struct Round {
    given: u32,
    goal: u64,
    give_up: u64,
}

/// Rounds that may stall before the run is ended: it will not get better.
const MAX_STALLED: u32 = 3;

impl Source {
    pub(crate) fn new(shared: Arc<Shared>, plan: Plan) -> Self {
        let start = shared.now();
        let busy = vec![false; shared.targets() as usize];
        let delivered = shared.delivered();
        Self { shared, plan, start, given: 0, acknowledged: 0, delivered, busy, round: Round::default(), stalled: 0 }
    }

    pub(crate) fn patience(&self) -> Duration {
        self.plan.patience
    }

    /// One push was answered, whatever the answer.
    pub(crate) fn answered(&mut self, push: &Push) {
        self.acknowledged += 1;
        self.busy[push.target as usize] = false;
    }

    fn outstanding(&self) -> u64 {
        self.given - self.acknowledged
    }

    fn ended(&self, now: u64) -> bool {
        let over = match self.plan.end {
            End::Pushes(pushes) => self.given >= pushes,
            End::After(time) => now >= self.start + ns(time),
        };
        over || self.stalled >= MAX_STALLED
    }

    pub(crate) fn next(&mut self, now: u64) -> Next {
        match self.plan.pace {
            Pace::Rounds { burst } => self.next_of_round(now, burst),
            Pace::Press => self.next_in_window(now, now),
            Pace::Lead => self.next_in_lead(now),
            Pace::Rate(rate) => {
                let due = self.start + (self.given as f64 * 1e9 / rate) as u64;
                if due <= now || self.ended(now.max(due)) {
                    self.next_in_window(now.max(due), due)
                } else {
                    Next::At(due)
                }
            }
        }
    }

    fn next_in_window(&mut self, now: u64, due: u64) -> Next {
        let target = (self.given % self.busy.len() as u64) as u32;
        if self.ended(now) {
            if self.outstanding() == 0 { Next::Done } else { Next::Acknowledgement }
        } else if self.outstanding() >= self.plan.window as u64 || self.plan.exclusive && self.busy[target as usize] {
            Next::Acknowledgement
        } else {
            self.give(target, due)
        }
    }

    fn next_in_lead(&mut self, now: u64) -> Next {
        let window = self.plan.window as u64;
        let goal = self.delivered + (self.given + 1).saturating_sub(window) * u64::from(self.plan.receivers[0]);
        if !self.ended(now) && !self.shared.reached(goal) {
            if self.round.goal != goal {
                self.round = Round { given: 0, goal, give_up: now + ns(self.plan.patience) };
            }
            if now < self.round.give_up {
                return Next::Deliveries(self.round.give_up);
            }
            self.stalled += 1;
        }
        self.next_in_window(now, now)
    }

    fn next_of_round(&mut self, now: u64, burst: u32) -> Next {
        if self.round.given == burst {
            if !self.shared.reached(self.round.goal) {
                if now < self.round.give_up {
                    return Next::Deliveries(self.round.give_up);
                }
                self.stalled += 1;
                self.round.goal = 0;
            }
            if self.outstanding() > 0 {
                return Next::Acknowledgement;
            }
            self.round.given = 0;
        }
        let target = (self.given / u64::from(burst) % self.busy.len() as u64) as u32;
        if self.round.given == 0 {
            if self.ended(now) {
                return Next::Done;
            }
            let expected = u64::from(self.plan.receivers[target as usize]) * u64::from(burst);
            self.round.goal = self.shared.delivered() + expected;
            self.round.give_up = now + ns(self.plan.patience);
        }
        if self.outstanding() >= self.plan.window as u64 {
            return Next::Acknowledgement;
        }
        self.round.given += 1;
        self.give(target, now)
    }

    fn give(&mut self, target: u32, due: u64) -> Next {
        self.given += 1;
        self.busy[target as usize] = true;
        Next::Push(Push { target, seq: self.shared.number(target), due })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::{Aim, Layout};

    fn source(targets: u32, pace: Pace, end: End, window: usize) -> Source {
        let plan = Plan {
            pace,
            end,
            window,
            exclusive: targets as usize > window,
            receivers: Arc::new(vec![5; targets as usize]),
            patience: Duration::from_secs(1),
        };
        let layout = Layout { aim: Aim::Cards { span: 1 }, cards: targets, rooms: 1, subscriptions: 0 };
        let mut source = Source::new(Arc::new(Shared::new(layout)), plan);
        source.start = 0;
        source
    }

    fn push(next: Next) -> Push {
        match next {
            Next::Push(push) => push,
            other => panic!("expected a push, got {other:?}"),
        }
    }

    #[test]
    fn a_window_bounds_what_is_unacknowledged() {
        let mut source = source(3, Pace::Press, End::Pushes(4), 2);
        let first = push(source.next(0));
        assert_eq!(push(source.next(0)).target, 1);
        assert_eq!(source.next(0), Next::Acknowledgement);
        source.answered(&first);
        let third = push(source.next(7));
        assert_eq!((third.target, third.due), (2, 7));
        source.answered(&third);
        // target 0 again, the second of its numbers
        assert_eq!(push(source.next(8)).seq, 1);
        assert_eq!(source.next(9), Next::Acknowledgement);
    }

    #[test]
    fn a_push_waits_while_its_target_is_busy() {
        let mut source = source(3, Pace::Press, End::Pushes(9), 2);
        let first = push(source.next(0));
        for _ in 0..2 {
            let other = push(source.next(0));
            source.answered(&other);
        }
        assert_eq!(source.next(0), Next::Acknowledgement);
        source.answered(&first);
        assert_eq!(push(source.next(0)).target, 0);
    }

    #[test]
    fn an_open_loop_s_clock_starts_when_a_push_was_due() {
        let mut source = source(10, Pace::Rate(1000.0), End::Pushes(3), 8);
        assert_eq!(push(source.next(0)).due, 0);
        assert_eq!(source.next(10), Next::At(1_000_000));
        // late: due stays what it was, and the next is due at once
        assert_eq!(push(source.next(2_500_000)).due, 1_000_000);
        assert_eq!(push(source.next(2_500_000)).due, 2_000_000);
        assert_eq!(source.next(2_500_000), Next::Acknowledgement);
    }

    #[test]
    fn a_round_ends_with_its_last_delivery() {
        let mut source = source(1, Pace::Rounds { burst: 2 }, End::Pushes(4), 8);
        let pushes = [push(source.next(0)), push(source.next(0))];
        assert!(matches!(source.next(0), Next::Deliveries(_)));
        for push in &pushes {
            source.answered(push);
        }
        source.shared.deliver(9, 1);
        assert!(matches!(source.next(1), Next::Deliveries(_)));
        source.shared.deliver(1, 2);
        let pushes = [push(source.next(3)), push(source.next(3))];
        for push in &pushes {
            source.answered(push);
        }
        source.shared.deliver(10, 4);
        assert_eq!(source.next(5), Next::Done);
    }

    #[test]
    fn a_round_that_never_completes_is_given_up_and_the_run_ends() {
        let mut source = source(1, Pace::Rounds { burst: 1 }, End::Pushes(100), 8);
        let mut now = 0;
        for stalled in 0..MAX_STALLED {
            let given = push(source.next(now));
            assert_eq!(source.stalled, stalled);
            source.answered(&given);
            assert!(matches!(source.next(now), Next::Deliveries(_)));
            now += 2_000_000_000;
        }
        assert_eq!(source.next(now), Next::Done);
    }
}
