//! How many different names several nodes have together, without the names.

use super::{AddressCounts, AddressKind};

/// Hashes that a sample has at most: up to so many names are counted exactly, more are estimated within about 0.5 %.
const MOST_HASHES: usize = 65_536;

/// The smallest hashes of a set of names (a "k minimum values" sketch): of several sets together one can tell how many names they
/// have, each counted once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameSample {
    /// In their order, each once.
    hashes: Vec<u64>,
    /// There are no others.
    whole: bool,
}

impl NameSample {
    /// Of all these names of one kind.
    pub fn of<'a>(kind: AddressKind, names: impl IntoIterator<Item = &'a str>) -> Self {
        Self::from_parts(names.into_iter().map(|name| Self::hash(kind, name)).collect(), true)
    }

    /// A name as it is counted here: the same in every version. FNV-1a leaves its highest bits much alike for names that are; they
    /// are mixed (the end of MurmurHash3), so that the smallest hashes are a fair sample.
    pub fn hash(kind: AddressKind, name: &str) -> u64 {
        let mut hash = AddressCounts::hash(kind, name);
        hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
        hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
        hash ^ (hash >> 33)
    }

    /// Of hashes in any order; `whole`: of all names that there are.
    pub fn from_parts(hashes: Vec<u64>, whole: bool) -> Self {
        let mut sample = Self { hashes, whole };
        sample.bound();
        sample
    }

    /// In their order, each once.
    pub fn hashes(&self) -> &[u64] {
        &self.hashes
    }

    /// There are no others.
    pub fn is_whole(&self) -> bool {
        self.whole
    }

    /// Of the names of both sets.
    pub fn merge(&mut self, other: &Self) {
        // of what a sample left out nothing is known: both count up to where the shorter one ends
        let known =
            [&*self, other].into_iter().filter(|sample| !sample.whole).filter_map(|sample| sample.hashes.last());
        let end = known.min().copied().unwrap_or(u64::MAX);
        self.hashes.extend_from_slice(&other.hashes);
        self.whole &= other.whole;
        self.bound();
        self.hashes.truncate(self.hashes.partition_point(|hash| *hash <= end));
    }

    /// How many names: exactly where the sample is whole, else estimated.
    pub fn count(&self) -> u64 {
        let known = self.hashes.len() as u64;
        match self.hashes.last() {
            // of `known` names the last stands at this part of all the room
            Some(last) if !self.whole => {
                let part = *last as f64 / u64::MAX as f64;
                ((known.saturating_sub(1)) as f64 / part).round() as u64
            }
            _ => known,
        }
    }

    fn bound(&mut self) {
        // sorting all of very many would take long
        if self.hashes.len() > 4 * MOST_HASHES {
            self.hashes.select_nth_unstable(2 * MOST_HASHES);
            self.hashes.truncate(2 * MOST_HASHES);
            self.whole = false;
        }
        self.hashes.sort_unstable();
        self.hashes.dedup();
        if self.hashes.len() > MOST_HASHES {
            self.hashes.truncate(MOST_HASHES);
            self.whole = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(names: std::ops::Range<u32>) -> NameSample {
        let names: Vec<_> = names.map(|number| format!("user-{number}")).collect();
        NameSample::of(AddressKind::Card, names.iter().map(String::as_str))
    }

    #[test]
    fn names_that_two_sets_have_count_once() {
        let mut both = sample(0..700);
        both.merge(&sample(500..1000));
        assert_eq!((both.count(), both.is_whole()), (1000, true));
        both.merge(&sample(0..0));
        assert_eq!(both.count(), 1000);
        assert_eq!(sample(0..0).count(), 0);
    }

    #[test]
    fn of_very_many_names_the_number_is_nearly_right() {
        for (one, other, all) in [(0..200_000, 100_000..300_000, 300_000.0), (0..200_000, 0..10, 200_000.0)] {
            let mut both = sample(one);
            both.merge(&sample(other));
            let off = (both.count() as f64 - all).abs() / all;
            assert!(off < 0.02 && !both.is_whole(), "{} of {all}", both.count());
        }
    }

    #[test]
    fn what_a_node_sent_in_disorder_is_mended() {
        let sample = NameSample::from_parts(vec![9, 3, 9, 1], true);
        assert_eq!(sample.hashes(), [1, 3, 9]);
    }
}
