//! How many connections there are, in all and for each address.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use crate::config;

/// Counts connections against their bounds.
pub(super) struct Gate {
    max: usize,
    max_per_address: usize,
    open: AtomicUsize,
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
            open: AtomicUsize::new(0),
            addresses: Mutex::default(),
        })
    }

    /// One more, for as long as the result lives.
    pub(super) fn admit(self: &Arc<Self>, address: Option<IpAddr>) -> Result<Admitted, Full> {
        let mut admitted = Admitted { gate: Arc::clone(self), address: None };
        if self.open.fetch_add(1, Ordering::AcqRel) >= self.max {
            return Err(Full::All);
        }
        if let Some(address) = address.filter(|_| self.max_per_address > 0) {
            let mut addresses = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
            let count = addresses.entry(address).or_insert(0);
            if *count >= self.max_per_address {
                return Err(Full::Address);
            }
            *count += 1;
            drop(addresses);
            admitted.address = Some(address);
        }
        Ok(admitted)
    }

    /// Resolves once no connection is left.
    pub(super) async fn emptied(&self) {
        while self.open.load(Ordering::Acquire) > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// A counted connection; dropped, it is counted no more.
pub(super) struct Admitted {
    gate: Arc<Gate>,
    address: Option<IpAddr>,
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.gate.open.fetch_sub(1, Ordering::AcqRel);
        let Some(address) = self.address else { return };
        let mut addresses = self.gate.addresses.lock().unwrap_or_else(PoisonError::into_inner);
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
