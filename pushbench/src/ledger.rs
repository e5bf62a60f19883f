//! What one connection is owed and what it got: missing, duplicated, out of order.

/// Gaps that one connection remembers; older ones are then counted as missing for good.
const MAX_GAPS: usize = 4096;

/// What a delivery was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// The first of its number.
    New,
    /// Seen before.
    Duplicate,
    /// From before this connection's join was answered: a gift.
    Early,
}

/// One connection's account of its target's pushes, which are numbered from 0.
#[derive(Clone, Debug, Default)]
pub(crate) struct Account {
    /// The first number that it is owed.
    floor: u32,
    /// One more than the highest number seen.
    next: u32,
    /// Numbers below `next` that have not come, as ranges in rising order.
    gaps: Vec<(u32, u32)>,
    /// Missing numbers of ranges that were forgotten.
    forgotten: u64,
    /// Deliveries that came once.
    pub(crate) received: u64,
    pub(crate) duplicated: u64,
    pub(crate) disordered: u64,
}

impl Account {
    /// The connection is owed every push from this number on.
    pub(crate) fn open(floor: u32) -> Self {
        Self { floor, next: floor, ..Self::default() }
    }

    /// A push of this number arrived.
    pub(crate) fn see(&mut self, seq: u32) -> Seen {
        if seq < self.floor {
            return Seen::Early;
        }
        if seq >= self.next {
            if seq > self.next {
                self.gap(self.next, seq);
            }
            self.next = seq + 1;
        } else if !self.fill(seq) {
            self.duplicated += 1;
            return Seen::Duplicate;
        } else {
            self.disordered += 1;
        }
        self.received += 1;
        Seen::New
    }

    /// How many pushes below `end` are missing, those apart that `excused` (sorted) says were never accepted.
    pub(crate) fn missing(&self, end: u32, excused: &[u32]) -> u64 {
        let tail = (self.next, end.max(self.next));
        let ranges = self.gaps.iter().copied().chain([tail]);
        self.forgotten + ranges.map(|(from, to)| u64::from(to - from) - between(excused, from, to)).sum::<u64>()
    }

    /// As [`Account::missing`], for a connection that left by itself: what came after its last delivery it is not owed.
    pub(crate) fn missing_until_last(&self, excused: &[u32]) -> u64 {
        self.missing(self.next, excused)
    }

    fn gap(&mut self, from: u32, to: u32) {
        if self.gaps.len() == MAX_GAPS {
            let (from, to) = self.gaps.remove(0);
            self.forgotten += u64::from(to - from);
        }
        self.gaps.push((from, to));
    }

    /// Whether `seq` was missing until now.
    fn fill(&mut self, seq: u32) -> bool {
        let Some(at) = self.gaps.iter().rposition(|&(from, to)| (from..to).contains(&seq)) else {
            return false;
        };
        let (from, to) = self.gaps[at];
        let rest = [(from, seq), (seq + 1, to)].into_iter().filter(|(from, to)| from < to);
        self.gaps.splice(at..=at, rest);
        true
    }
}

/// How many of the sorted numbers are in `from..to`.
fn between(sorted: &[u32], from: u32, to: u32) -> u64 {
    (sorted.partition_point(|&seq| seq < to) - sorted.partition_point(|&seq| seq < from)) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(seqs: impl IntoIterator<Item = u32>) -> Account {
        let mut account = Account::open(0);
        for seq in seqs {
            account.see(seq);
        }
        account
    }

    #[test]
    fn all_in_order_is_nothing_to_complain_about() {
        let account = account(0..1000);
        assert_eq!((account.received, account.duplicated, account.disordered), (1000, 0, 0));
        assert_eq!(account.missing(1000, &[]), 0);
    }

    #[test]
    fn gaps_and_a_missing_tail_are_missing() {
        let account = account([0, 1, 5, 6, 9]);
        assert_eq!(account.missing(10, &[]), 3 + 2);
        assert_eq!(account.missing(12, &[]), 3 + 2 + 2);
        assert_eq!(account.missing_until_last(&[]), 5);
    }

    #[test]
    fn a_late_one_fills_its_gap_and_counts_as_disordered() {
        let account = account([0, 4, 2, 1, 3, 5]);
        assert_eq!((account.received, account.duplicated, account.disordered), (6, 0, 3));
        assert_eq!(account.missing(6, &[]), 0);
    }

    #[test]
    fn a_second_copy_is_a_duplicate_wherever_it_comes() {
        let account = account([0, 1, 1, 4, 0, 3, 3]);
        assert_eq!((account.received, account.duplicated, account.disordered), (4, 3, 1));
        assert_eq!(account.missing(5, &[]), 1);
    }

    #[test]
    fn what_was_refused_is_not_missing() {
        let account = account([0, 3]);
        assert_eq!(account.missing(6, &[1, 4]), 2);
        assert_eq!(account.missing(6, &[0, 1, 2, 3, 4, 5]), 0);
    }

    #[test]
    fn a_latecomer_is_owed_nothing_from_before_its_join() {
        let mut account = Account::open(10);
        assert_eq!(account.see(8), Seen::Early);
        assert_eq!(account.missing(10, &[]), 0);
        assert_eq!(account.missing(12, &[]), 2);
        assert_eq!(account.see(11), Seen::New);
        assert_eq!(account.missing(12, &[]), 1);
    }

    #[test]
    fn forgotten_gaps_stay_missing() {
        let account = account((0..=2 * (MAX_GAPS as u32 + 5)).step_by(2));
        assert_eq!(account.missing(2 * (MAX_GAPS as u32 + 5) + 1, &[]), MAX_GAPS as u64 + 5);
    }

    #[test]
    fn a_shuffled_run_agrees_with_a_plain_set() {
        let mut state = 1_u64;
        for _ in 0..200 {
            let mut account = Account::open(0);
            let (mut set, mut duplicates) = (std::collections::BTreeSet::new(), 0);
            for _ in 0..100 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let seq = (state >> 33) as u32 % 64;
                account.see(seq);
                duplicates += u64::from(!set.insert(seq));
            }
            assert_eq!(account.received, set.len() as u64);
            assert_eq!(account.duplicated, duplicates);
            assert_eq!(account.missing(64, &[]), 64 - set.len() as u64);
        }
    }
}
