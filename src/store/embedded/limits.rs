//! The keys of `[store]` and `[stream.NAME]` that concern the embedded store.

use std::time::Duration;

use crate::{
    config::{self, StreamStart},
    push::AddressKind,
    store::embedded::entry::AddressRef,
};

/// No push beyond this, whatever the bounds allow.
const LARGEST: usize = 16 << 20;

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct StoreLimits {
    /// Of streams that no section names.
    pub(super) stream: config::StreamBounds,
    /// `[stream.NAME]`, in their order.
    pub(super) sections: Vec<config::StreamRule>,
    /// Of all streams: bytes.
    pub(super) max_bytes: u64,
    pub(super) max_streams: usize,
    pub(super) max_devices: usize,
    /// Seconds.
    pub(super) device_idle: u32,
    pub(super) new_device: StreamStart,
    pub(super) new_app: StreamStart,
    pub(super) max_appends: usize,
    /// Of pushes that wait for the disk, and of those on their way to dispatch.
    pub(super) memory_bytes: usize,
    pub(super) max_claims: usize,
    pub(super) max_revocations: usize,
    /// How long a revocation is kept.
    pub(super) revocation_life: Duration,
    pub(super) sync: config::Sync,
    /// For a push to be durable.
    pub(super) timeout: Duration,
}

impl StoreLimits {
    pub(super) fn of(config: &config::Config) -> Self {
        let config::Config { store, queue, token, .. } = config;
        Self {
            stream: config::StreamBounds {
                max_entries: store.max_entries,
                max_bytes: store.max_stream_bytes,
                max_age: store.max_age,
                ttl: store.ttl,
            },
            sections: store.streams.clone(),
            max_bytes: store.max_bytes,
            max_streams: store.max_streams,
            max_devices: store.max_devices,
            device_idle: seconds(store.device_idle),
            new_device: store.new_device,
            new_app: store.new_app,
            max_appends: store.max_appends,
            memory_bytes: store.memory_bytes,
            max_claims: store.max_idempotency_keys,
            max_revocations: token.max_revocations,
            // as long as the verifier keeps them: clocks may differ
            revocation_life: token.max_life + token.leeway * 2,
            sync: queue.sync,
            timeout: queue.publish_timeout,
        }
    }

    /// Which section names a stream; 0: none.
    pub(super) fn section(&self, address: AddressRef<'_>) -> u16 {
        let is_named = |section: &config::StreamRule| match address.kind {
            AddressKind::Card => section.cards.admits(address.name),
            AddressKind::Room => section.rooms.admits(address.name),
        };
        let at = self.sections.iter().position(is_named);
        at.and_then(|at| u16::try_from(at + 1).ok()).unwrap_or(0)
    }

    /// The bounds that a section gives.
    pub(super) fn bounds(&self, section: u16) -> config::StreamBounds {
        let section = usize::from(section).checked_sub(1).and_then(|at| self.sections.get(at));
        section.map_or(self.stream, |section| section.bounds)
    }

    /// The largest push, in bytes.
    pub(super) fn largest(&self) -> usize {
        LARGEST.min(usize::try_from(self.max_bytes).unwrap_or(usize::MAX)).min(self.memory_bytes)
    }
}

/// Up, so that nothing ends early.
pub(super) fn seconds(time: Duration) -> u32 {
    u32::try_from(time.as_millis().div_ceil(1000)).unwrap_or(u32::MAX)
}

#[cfg(test)]
impl StoreLimits {
    /// Of the delivered config.ini, about.
    pub(super) fn usual() -> Self {
        Self {
            stream: config::StreamBounds {
                max_entries: 1000,
                max_bytes: 1 << 20,
                max_age: None,
                ttl: Duration::from_secs(24 * 3600),
            },
            sections: Vec::new(),
            max_bytes: 1 << 30,
            max_streams: 1_000_000,
            max_devices: 16,
            device_idle: 720 * 3600,
            new_device: StreamStart::Oldest,
            new_app: StreamStart::Head,
            max_appends: 4096,
            memory_bytes: 64 << 20,
            max_claims: 100_000,
            max_revocations: 10_000,
            revocation_life: Duration::from_secs(3600),
            sync: config::Sync::Always,
            timeout: Duration::from_secs(20),
        }
    }
}
