//! How many connections there are, in all and for each address.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::sync::Notify;

use crate::{
    config,
    telemetry::{Gauge, Metrics},
};

/// Counts the listener's connections against their bounds, from their accept on: those that are no clients (yet) hold a
/// file descriptor and memory too.
pub(super) struct ConnectionLimit {
    max: AtomicUsize,
    max_per_address: AtomicUsize,
    max_refusals: AtomicUsize,
    shown_max: Gauge,
    open: AtomicUsize,
    /// Those of `open` that are clients.
    clients: AtomicUsize,
    last_client_left: Notify,
    refusals: AtomicUsize,
    /// Empty while there is no bound for an address.
    addresses: Mutex<HashMap<IpAddr, usize>>,
}

/// Why one more is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LimitReached {
    All,
    Address,
}

impl ConnectionLimit {
    pub(super) fn new(config: &config::SocketConfig, metrics: &Metrics) -> Arc<Self> {
        let limit = Self {
            max: AtomicUsize::new(0),
            max_per_address: AtomicUsize::new(0),
            max_refusals: AtomicUsize::new(0),
            shown_max: metrics.max_connections.clone(),
            open: AtomicUsize::new(0),
            clients: AtomicUsize::new(0),
            last_client_left: Notify::new(),
            refusals: AtomicUsize::new(0),
            addresses: Mutex::default(),
        };
        limit.replace(config);
        Arc::new(limit)
    }

    /// The bounds from now on: those that are connected stay. What came while there was no bound for an address does not count
    /// for it.
    pub(super) fn replace(&self, config: &config::SocketConfig) {
        self.max.store(config.max_connections, Ordering::Relaxed);
        self.max_per_address.store(config.max_connections_per_address, Ordering::Relaxed);
        self.max_refusals.store(config.max_refusals, Ordering::Relaxed);
        self.shown_max.set(i64::try_from(config.max_connections).unwrap_or(i64::MAX));
    }

    /// One more, for as long as the result lives. Without an address (a trusted proxy's own says nothing) only the bound of
    /// all holds.
    pub(super) fn acquire(self: &Arc<Self>, address: Option<IpAddr>) -> Result<Permit, LimitReached> {
        let mut permit = Permit { limit: Arc::clone(self), address: None, is_client: false };
        if self.open.fetch_add(1, Ordering::AcqRel) >= self.max.load(Ordering::Relaxed) {
            return Err(LimitReached::All);
        }
        permit.count(address)?;
        Ok(permit)
    }

    /// One more of those that are told that there is no place; `None`: not even that.
    pub(super) fn acquire_refusal(self: &Arc<Self>) -> Option<RefusalPermit> {
        let permit = RefusalPermit(Arc::clone(self));
        (self.refusals.fetch_add(1, Ordering::AcqRel) < self.max_refusals.load(Ordering::Relaxed)).then_some(permit)
    }

    /// Resolves once no client is left.
    pub(super) async fn no_clients(&self) {
        loop {
            let mut left = pin!(self.last_client_left.notified());
            // from here on it is told: what is counted next cannot pass unnoticed
            left.as_mut().enable();
            if self.clients.load(Ordering::Acquire) == 0 {
                return;
            }
            left.await;
        }
    }

    fn addresses(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A counted connection; dropped, it is counted no more.
pub(super) struct Permit {
    limit: Arc<ConnectionLimit>,
    address: Option<IpAddr>,
    is_client: bool,
}

impl Permit {
    /// It is a client from now on, whose own address a trusted proxy told if it was not known before.
    pub(super) fn become_client(&mut self, address: IpAddr) -> Result<(), LimitReached> {
        if self.address.is_none() {
            self.count(Some(address))?;
        }
        self.is_client = true;
        self.limit.clients.fetch_add(1, Ordering::AcqRel);
        Ok(())
    }

    fn count(&mut self, address: Option<IpAddr>) -> Result<(), LimitReached> {
        let max = self.limit.max_per_address.load(Ordering::Relaxed);
        let Some(address) = address.filter(|_| max > 0).map(counted_as) else { return Ok(()) };
        let mut addresses = self.limit.addresses();
        let count = addresses.entry(address).or_insert(0);
        if *count >= max {
            return Err(LimitReached::Address);
        }
        *count += 1;
        drop(addresses);
        self.address = Some(address);
        Ok(())
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.limit.open.fetch_sub(1, Ordering::AcqRel);
        if self.is_client && self.limit.clients.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.limit.last_client_left.notify_waiters();
        }
        let Some(address) = self.address else { return };
        let mut addresses = self.limit.addresses();
        if let Some(count) = addresses.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                addresses.remove(&address);
            }
        }
        if addresses.is_empty() {
            addresses.shrink_to_fit();
        }
    }
}

/// A counted connection that is only told so.
pub(super) struct RefusalPermit(Arc<ConnectionLimit>);

impl Drop for RefusalPermit {
    fn drop(&mut self) {
        self.0.refusals.fetch_sub(1, Ordering::AcqRel);
    }
}

/// One host has a /64 of IPv6 for itself, with more addresses than could be counted.
pub(super) fn counted_as(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn limit(all: usize, each: usize) -> Arc<ConnectionLimit> {
        let settings = [
            ("SOCKET__MAX_CONNECTIONS", all),
            ("SOCKET__MAX_CONNECTIONS_PER_ADDRESS", each),
            ("SOCKET__MAX_REFUSALS", 1),
        ];
        let settings = settings.map(|(key, value)| (format!("OXIPUSH__{key}"), value.to_string()));
        ConnectionLimit::new(&config::load(None, settings).unwrap().socket, &Metrics::new())
    }

    fn address(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    #[test]
    fn addresses_of_one_64_count_as_one_and_a_mapped_one_as_itself() {
        for (first, second, same) in [
            ("2001:db8::1", "2001:db8::ffff:1", true),
            ("2001:db8:0:1::1", "2001:db8:0:2::1", false),
            ("::ffff:1.2.3.4", "1.2.3.4", true),
            ("::ffff:1.2.3.4", "::ffff:1.2.3.5", false),
            ("1.2.3.4", "1.2.3.5", false),
        ] {
            let limit = limit(10, 1);
            let _held = limit.acquire(address(first)).ok().unwrap();
            assert_eq!(limit.acquire(address(second)).is_err(), same, "{first} and {second}");
        }
    }

    #[test]
    fn what_was_refused_or_ended_leaves_its_place() {
        let limit = limit(3, 1);
        let mut proxied = limit.acquire(None).ok().unwrap();
        let direct = limit.acquire(address("1.2.3.4")).ok().unwrap();
        assert_eq!(limit.acquire(address("1.2.3.4")).err(), Some(LimitReached::Address));
        assert_eq!(proxied.become_client("1.2.3.4".parse().unwrap()).err(), Some(LimitReached::Address));
        drop(direct);
        assert!(proxied.become_client("1.2.3.4".parse().unwrap()).is_ok());
        assert_eq!(limit.acquire(address("1.2.3.4")).err(), Some(LimitReached::Address));
        let rest = [limit.acquire(None), limit.acquire(None)];
        assert_eq!(limit.acquire(None).err(), Some(LimitReached::All));
        assert_eq!((limit.open.load(Ordering::Acquire), limit.clients.load(Ordering::Acquire)), (3, 1));
        drop((proxied, rest));
        assert_eq!((limit.open.load(Ordering::Acquire), limit.clients.load(Ordering::Acquire)), (0, 0));
        assert_eq!(limit.addresses().len(), 0);
    }

    #[test]
    fn refusals_are_bounded_too() {
        let limit = limit(1, 0);
        let told = limit.acquire_refusal();
        assert!(told.is_some() && limit.acquire_refusal().is_none());
        drop(told);
        assert!(limit.acquire_refusal().is_some());
    }
}
