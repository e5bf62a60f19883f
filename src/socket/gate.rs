//! How many connections there are, in all and for each address.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use crate::config;

/// Counts the listener's connections against their bounds, from their accept on: those that are no clients (yet) hold a
/// file descriptor and memory too.
pub(super) struct Gate {
    max: usize,
    max_per_address: usize,
    max_refusals: usize,
    open: AtomicUsize,
    /// Those of `open` that are clients.
    clients: AtomicUsize,
    refusals: AtomicUsize,
    /// Empty while there is no bound for an address.
    addresses: Mutex<HashMap<IpAddr, usize>>,
}

/// Why one more is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Full {
    All,
    Address,
}

impl Gate {
    pub(super) fn new(config: &config::Socket) -> Arc<Self> {
        Arc::new(Self {
            max: config.max_connections,
            max_per_address: config.max_connections_per_address,
            max_refusals: config.max_refusals,
            open: AtomicUsize::new(0),
            clients: AtomicUsize::new(0),
            refusals: AtomicUsize::new(0),
            addresses: Mutex::default(),
        })
    }

    /// One more, for as long as the result lives. Without an address (a trusted proxy's own says nothing) only the bound of
    /// all holds.
    pub(super) fn admit(self: &Arc<Self>, address: Option<IpAddr>) -> Result<Admitted, Full> {
        let mut admitted = Admitted { gate: Arc::clone(self), address: None, is_client: false };
        if self.open.fetch_add(1, Ordering::AcqRel) >= self.max {
            return Err(Full::All);
        }
        admitted.count(address)?;
        Ok(admitted)
    }

    /// One more of those that are told that there is no place; `None`: not even that.
    pub(super) fn refuse(self: &Arc<Self>) -> Option<Refused> {
        let refused = Refused(Arc::clone(self));
        (self.refusals.fetch_add(1, Ordering::AcqRel) < self.max_refusals).then_some(refused)
    }

    /// Resolves once no client is left.
    pub(super) async fn emptied(&self) {
        while self.clients.load(Ordering::Acquire) > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    fn addresses(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A counted connection; dropped, it is counted no more.
pub(super) struct Admitted {
    gate: Arc<Gate>,
    address: Option<IpAddr>,
    is_client: bool,
}

impl Admitted {
    /// It is a client from now on, whose own address a trusted proxy told if it was not known before.
    pub(super) fn enter(&mut self, address: IpAddr) -> Result<(), Full> {
        if self.address.is_none() {
            self.count(Some(address))?;
        }
        self.is_client = true;
        self.gate.clients.fetch_add(1, Ordering::AcqRel);
        Ok(())
    }

    fn count(&mut self, address: Option<IpAddr>) -> Result<(), Full> {
        let Some(address) = address.filter(|_| self.gate.max_per_address > 0).map(counted_as) else { return Ok(()) };
        let mut addresses = self.gate.addresses();
        let count = addresses.entry(address).or_insert(0);
        if *count >= self.gate.max_per_address {
            return Err(Full::Address);
        }
        *count += 1;
        drop(addresses);
        self.address = Some(address);
        Ok(())
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.gate.open.fetch_sub(1, Ordering::AcqRel);
        if self.is_client {
            self.gate.clients.fetch_sub(1, Ordering::AcqRel);
        }
        let Some(address) = self.address else { return };
        let mut addresses = self.gate.addresses();
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
pub(super) struct Refused(Arc<Gate>);

impl Drop for Refused {
    fn drop(&mut self) {
        self.0.refusals.fetch_sub(1, Ordering::AcqRel);
    }
}

/// One host has a /64 of IPv6 for itself, with more addresses than could be counted.
fn counted_as(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn gate(all: usize, each: usize) -> Arc<Gate> {
        let settings = [
            ("SOCKET__MAX_CONNECTIONS", all),
            ("SOCKET__MAX_CONNECTIONS_PER_ADDRESS", each),
            ("SOCKET__MAX_REFUSALS", 1),
        ];
        let settings = settings.map(|(key, value)| (format!("OXIPUSH__{key}"), value.to_string()));
        Gate::new(&config::load(None, settings).unwrap().socket)
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
            let gate = gate(10, 1);
            let _held = gate.admit(address(first)).ok().unwrap();
            assert_eq!(gate.admit(address(second)).is_err(), same, "{first} and {second}");
        }
    }

    #[test]
    fn what_was_refused_or_ended_leaves_its_place() {
        let gate = gate(3, 1);
        let mut proxied = gate.admit(None).ok().unwrap();
        let direct = gate.admit(address("1.2.3.4")).ok().unwrap();
        assert_eq!(gate.admit(address("1.2.3.4")).err(), Some(Full::Address));
        assert_eq!(proxied.enter("1.2.3.4".parse().unwrap()).err(), Some(Full::Address));
        drop(direct);
        assert!(proxied.enter("1.2.3.4".parse().unwrap()).is_ok());
        assert_eq!(gate.admit(address("1.2.3.4")).err(), Some(Full::Address));
        let rest = [gate.admit(None), gate.admit(None)];
        assert_eq!(gate.admit(None).err(), Some(Full::All));
        assert_eq!((gate.open.load(Ordering::Acquire), gate.clients.load(Ordering::Acquire)), (3, 1));
        drop((proxied, rest));
        assert_eq!((gate.open.load(Ordering::Acquire), gate.clients.load(Ordering::Acquire)), (0, 0));
        assert_eq!(gate.addresses().len(), 0);
    }

    #[test]
    fn refusals_are_bounded_too() {
        let gate = gate(1, 0);
        let told = gate.refuse();
        assert!(told.is_some() && gate.refuse().is_none());
        drop(told);
        assert!(gate.refuse().is_some());
    }
}
