//! How many clients addresses have, without their names.

use super::AddressKind;

/// How many clients each address has, by a hash of it that every version computes the same way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AddressCounts {
    /// In the order of the hashes, each once.
    counts: Vec<(u64, u32)>,
}

impl AddressCounts {
    /// An address as it is counted here: FNV-1a of its kind and its name.
    pub fn hash(kind: AddressKind, name: &str) -> u64 {
        let kind = match kind {
            AddressKind::Card => b'c',
            AddressKind::Room => b'r',
        };
        std::iter::once(kind)
            .chain(name.bytes())
            .fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
    }

    /// No address has a client.
    pub fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }

    /// Addresses with a client at least.
    pub fn addresses(&self) -> usize {
        self.counts.len()
    }

    /// Each address's hash and its clients, in the order of the hashes.
    pub fn iter(&self) -> impl Iterator<Item = (u64, u32)> {
        self.counts.iter().copied()
    }

    /// Each address of `others` has as many clients here as there, or more.
    pub fn covers(&self, others: &Self) -> bool {
        let mut here = self.counts.iter();
        others.counts.iter().all(|(address, wanted)| {
            let found = here.find(|(hash, _)| hash >= address);
            found.is_some_and(|(hash, clients)| hash == address && clients >= wanted)
        })
    }

    /// For each address the larger of both.
    #[must_use]
    pub fn or_more(&self, others: &Self) -> Self {
        let mut counts: Vec<_> = self.iter().chain(others.iter()).collect();
        counts.sort_unstable();
        counts.dedup_by(|next, last| {
            let is_same = next.0 == last.0;
            if is_same {
                last.1 = last.1.max(next.1);
            }
            is_same
        });
        Self { counts }
    }
}

impl FromIterator<(u64, u32)> for AddressCounts {
    /// Of hashes and clients in any order.
    fn from_iter<I: IntoIterator<Item = (u64, u32)>>(counts: I) -> Self {
        let mut counts: Vec<_> = counts.into_iter().filter(|(_, clients)| *clients > 0).collect();
        counts.sort_unstable();
        counts.dedup_by(|next, last| {
            let is_same = next.0 == last.0;
            if is_same {
                last.1 = last.1.saturating_add(next.1);
            }
            is_same
        });
        Self { counts }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(counts: &[(u64, u32)]) -> AddressCounts {
        counts.iter().copied().collect()
    }

    #[test]
    fn a_card_and_a_room_of_one_name_are_two_addresses_and_the_hash_stays_the_same() {
        assert_eq!(AddressCounts::hash(AddressKind::Card, "alice"), 0xaf8c_f399_6c3a_9602);
        assert_ne!(AddressCounts::hash(AddressKind::Card, "alice"), AddressCounts::hash(AddressKind::Room, "alice"));
    }

    #[test]
    fn all_are_back_once_each_address_has_as_many_clients_as_before() {
        let before = counts(&[(7, 1), (3, 2)]);
        for (now, all) in [
            (counts(&[(3, 2), (7, 1)]), true),
            (counts(&[(3, 2), (5, 9), (7, 3), (9, 1)]), true),
            (counts(&[(3, 1), (7, 1)]), false),
            (counts(&[(3, 5)]), false),
            (counts(&[(2, 5), (8, 5)]), false),
            (counts(&[]), false),
        ] {
            assert_eq!(now.covers(&before), all, "{now:?}");
            assert!(now.covers(&counts(&[])));
        }
        assert_eq!(before.or_more(&counts(&[(3, 1), (7, 4), (9, 1)])), counts(&[(3, 2), (7, 4), (9, 1)]));
    }
}
