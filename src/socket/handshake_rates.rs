//! How often clients of one address may connect.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::limit::counted_as;
use crate::bucket::{Allowance, Bucket};

/// How often a full table is searched for buckets that may be forgotten.
const SEARCH: Duration = Duration::from_secs(1);

/// A bucket for each address from which handshakes came of late.
pub(super) struct HandshakeRates {
    started: Instant,
    addresses: Mutex<AddressBuckets>,
}

#[derive(Default)]
struct AddressBuckets {
    buckets: HashMap<IpAddr, Bucket>,
    searched: Duration,
}

impl HandshakeRates {
    pub(super) fn new() -> Self {
        Self { started: Instant::now(), addresses: Mutex::default() }
    }

    /// One handshake more of this address. A table of `max` addresses admits those that find no place in it: where so many come
    /// at once, no bound of one of them would help.
    ///
    /// # Errors
    /// It is too many; the time after which there is room for one.
    pub(super) fn admit(&self, address: IpAddr, allowance: Allowance, max: usize) -> Result<(), Duration> {
        if allowance.is_unbounded() {
            return Ok(());
        }
        self.admit_at(address, allowance, max, self.started.elapsed())
    }

    fn admit_at(&self, address: IpAddr, allowance: Allowance, max: usize, now: Duration) -> Result<(), Duration> {
        let address = counted_as(address);
        let mut addresses = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        if addresses.buckets.len() >= max && !addresses.buckets.contains_key(&address) && !addresses.make_room(max, now)
        {
            return Ok(());
        }
        addresses.buckets.entry(address).or_default().take(1, now, allowance)
    }
}

impl AddressBuckets {
    /// Forgets buckets that are full again; `false`: there is no room.
    fn make_room(&mut self, max: usize, now: Duration) -> bool {
        if now < self.searched + SEARCH {
            return false;
        }
        self.searched = now;
        self.buckets.retain(|_, bucket| !bucket.is_full(now));
        self.buckets.shrink_to(max / 2);
        self.buckets.len() < max
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn admitted(rates: &HandshakeRates, addresses: impl Iterator<Item = u32>, now: u64) -> usize {
        let allowance = Allowance::new(1, 3);
        let now = Duration::from_secs(now);
        addresses
            .filter(|number| rates.admit_at(IpAddr::from(number.to_be_bytes()), allowance, 100, now).is_ok())
            .count()
    }

    #[test]
    fn one_address_has_its_burst_and_another_has_its_own() {
        let rates = HandshakeRates::new();
        assert_eq!(admitted(&rates, [1; 10].into_iter(), 5), 3);
        assert_eq!(admitted(&rates, [2; 10].into_iter(), 5), 3);
        assert_eq!(admitted(&rates, [1; 10].into_iter(), 7), 2);
        let same_network = ["2001:db8::1", "2001:db8::2", "2001:db8::3", "2001:db8::4"];
        let allowance = Allowance::new(1, 3);
        let admit = |text: &&str| rates.admit_at(text.parse().unwrap(), allowance, 100, Duration::from_secs(5)).is_ok();
        assert_eq!(same_network.iter().filter(|text| admit(text)).count(), 3);
    }

    #[test]
    fn the_table_is_bounded_and_forgets_who_has_all_his_tokens_again() {
        let rates = HandshakeRates::new();
        assert_eq!(admitted(&rates, 0..1000, 5), 1000);
        assert_eq!(rates.addresses.lock().unwrap().buckets.len(), 100);
        // those in it are still held to their rate
        assert_eq!(admitted(&rates, [1; 10].into_iter(), 5), 2);
        assert_eq!(admitted(&rates, 1000..1100, 60), 100);
        assert_eq!(admitted(&rates, [1050; 10].into_iter(), 60), 2);
        assert!(rates.addresses.lock().unwrap().buckets.capacity() < 500);
    }
}
