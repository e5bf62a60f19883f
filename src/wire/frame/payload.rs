//! What came of a message that is not whole yet.

use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use memmap2::{MmapMut, MmapOptions};

/// From this length on a payload has a mapping of its own.
const MAPPED: usize = 4096;

/// Mappings at once, half of what Linux gives a process by default (vm.max_map_count): its threads and its heap need some.
const MAX_MAPPINGS: usize = 32_768;

/// Those that live.
static MAPPINGS: AtomicUsize = AtomicUsize::new(0);

/// A growing payload of at most `most` bytes.
///
/// Small ones are on the heap. A longer one is mapped on its own, and its pages are used as bytes come: freed, they go back to
/// the system at once. On the heap thousands of them could keep the process large for good after their clients left, since an
/// allocator gives back only what nothing younger stands above.
#[derive(Debug)]
pub(super) struct Payload {
    most: usize,
    bytes: Storage,
}

#[derive(Debug)]
enum Storage {
    Heap(Vec<u8>),
    Mapped(Mapped),
}

#[derive(Debug)]
struct Mapped {
    map: MmapMut,
    used: usize,
}

impl Payload {
    pub(super) fn new(most: usize) -> Self {
        Self { most, bytes: Storage::Heap(Vec::new()) }
    }

    pub(super) fn len(&self) -> usize {
        match &self.bytes {
            Storage::Heap(bytes) => bytes.len(),
            Storage::Mapped(mapped) => mapped.used,
        }
    }

    /// What came from `start` on.
    pub(super) fn since(&mut self, start: usize) -> &mut [u8] {
        match &mut self.bytes {
            Storage::Heap(bytes) => &mut bytes[start..],
            Storage::Mapped(Mapped { map, used }) => &mut map[start..*used],
        }
    }

    /// Adds `more`; together they must not exceed `most`.
    pub(super) fn extend(&mut self, more: &[u8]) {
        let needed = self.len() + more.len();
        if let Storage::Heap(bytes) = &self.bytes
            && needed > MAPPED
            && let Some(mapped) = Mapped::with(bytes, self.most)
        {
            self.bytes = Storage::Mapped(mapped);
        }
        match &mut self.bytes {
            Storage::Heap(bytes) => {
                if needed > bytes.capacity() {
                    // doubled as a Vec does it, yet never beyond `most`
                    let room = (2 * bytes.capacity()).min(self.most).max(needed);
                    bytes.reserve_exact(room - bytes.len());
                }
                bytes.extend_from_slice(more);
            }
            Storage::Mapped(Mapped { map, used }) => {
                map[*used..needed].copy_from_slice(more);
                *used = needed;
            }
        }
    }

    /// All of it.
    pub(super) fn into_bytes(self) -> Bytes {
        match self.bytes {
            Storage::Heap(bytes) => bytes.into(),
            Storage::Mapped(mapped) => Bytes::from_owner(mapped),
        }
    }
}

impl Mapped {
    /// `most` bytes that begin with `bytes`, unless the system, or [`MAX_MAPPINGS`], has none to give: the heap has to do then.
    fn with(bytes: &[u8], most: usize) -> Option<Self> {
        if MAPPINGS.fetch_add(1, Ordering::Relaxed) >= MAX_MAPPINGS {
            MAPPINGS.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        let Ok(map) = MmapOptions::new().len(most).map_anon() else {
            MAPPINGS.fetch_sub(1, Ordering::Relaxed);
            return None;
        };
        let mut mapped = Self { map, used: bytes.len() };
        mapped.map[..bytes.len()].copy_from_slice(bytes);
        Some(mapped)
    }
}

impl AsRef<[u8]> for Mapped {
    fn as_ref(&self) -> &[u8] {
        &self.map[..self.used]
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        MAPPINGS.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_added_stands_there_in_order_at_every_length() {
        let all: Vec<u8> = (0..70_000_u32).map(|n| n as u8 ^ (n >> 8) as u8).collect();
        for step in [1, 7, 4095, 4096, 4097, 16_384, 70_000] {
            let mut payload = Payload::new(all.len());
            for part in all.chunks(step) {
                let start = payload.len();
                payload.extend(part);
                assert_eq!(payload.since(start), part);
            }
            assert_eq!(payload.len(), all.len());
            assert!(matches!(payload.bytes, Storage::Mapped { .. }));
            assert_eq!(payload.into_bytes(), all, "{step}");
        }
        assert_eq!(Payload::new(10).into_bytes(), b""[..]);
    }

    #[test]
    fn a_short_one_is_on_the_heap_and_takes_no_more_than_it_may() {
        let mut payload = Payload::new(100);
        for _ in 0..10 {
            payload.extend(b"0123456789");
        }
        let Storage::Heap(bytes) = &payload.bytes else { panic!("{payload:?}") };
        assert_eq!((bytes.len(), bytes.capacity()), (100, 100));
    }

    #[test]
    fn without_a_mapping_to_have_the_heap_does() {
        // more than any machine can address
        let mut payload = Payload::new(usize::MAX / 4);
        payload.extend(&[7; 5000]);
        payload.extend(&[8; 5000]);
        assert!(matches!(payload.bytes, Storage::Heap(_)));
        assert_eq!(payload.into_bytes(), [[7; 5000], [8; 5000]].concat());
    }
}
