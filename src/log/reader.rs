//! Entries read beside the log's owner: no write or sync of its thread stands before such a reading.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, PoisonError, RwLock},
};

use bytes::Bytes;

use super::{DiskFile, Place, entry::HEAD, scan::Scan};

/// So much of an entry is read at once; of a larger one the rest by a second reading.
const FIRST: u64 = 4096;

/// The files of the segments that are not released, shared with whoever reads.
pub(super) struct OpenSegments<F>(Arc<RwLock<BTreeMap<u32, OpenSegment<F>>>>);

/// One of them.
struct OpenSegment<F> {
    handle: Arc<F>,
    /// Of the file, in bytes.
    len: u64,
}

impl<F> OpenSegments<F> {
    pub(super) fn add(&self, segment: u32, handle: &Arc<F>, len: u64) {
        let open = OpenSegment { handle: handle.clone(), len };
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(segment, open);
    }

    pub(super) fn remove(&self, segment: u32) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(&segment);
    }

    fn get(&self, segment: u32) -> Option<(Arc<F>, u64)> {
        let open = self.0.read().unwrap_or_else(PoisonError::into_inner);
        open.get(&segment).map(|open| (open.handle.clone(), open.len))
    }
}

impl<F> Clone for OpenSegments<F> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<F> Default for OpenSegments<F> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

/// See [`Log::reader`](super::Log::reader); a cheap clone.
pub(crate) struct LogReader<F> {
    log: u32,
    segments: OpenSegments<F>,
}

impl<F> Clone for LogReader<F> {
    fn clone(&self) -> Self {
        Self { log: self.log, segments: self.segments.clone() }
    }
}

impl<F: DiskFile> LogReader<F> {
    pub(super) fn new(log: u32, segments: OpenSegments<F>) -> Self {
        Self { log, segments }
    }

    /// One entry that was written: its kind and body. `None`: it is not what was written there, or its segment was released.
    ///
    /// # Errors
    /// The disk cannot read it.
    pub(crate) fn read(&self, place: Place) -> io::Result<Option<(u8, Bytes)>> {
        let Some((handle, len)) = self.segments.get(place.segment) else { return Ok(None) };
        let at = u64::from(place.offset);
        let left = len.saturating_sub(at);
        let mut bytes = vec![0; left.min(FIRST) as usize];
        handle.read_at(at, &mut bytes)?;
        // a file that was released meanwhile holds another segment by now: its entries say so
        let scan = Scan { log: self.log, segment: place.segment };
        let Some(head) = scan.head(&bytes, 0).filter(|head| head.size() as u64 <= left) else { return Ok(None) };
        if head.size() > bytes.len() {
            bytes.resize(head.size(), 0);
            handle.read_at(at, &mut bytes)?;
        }
        if head.body(&bytes).is_none() {
            return Ok(None);
        }
        let body = Bytes::from(bytes).slice(HEAD..HEAD + head.len as usize);
        Ok(Some((head.kind, body)))
    }
}
