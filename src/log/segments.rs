//! The log's files: those that hold a segment, and free ones.

use std::{collections::VecDeque, io, sync::Arc};

use super::{
    LogOptions,
    control::Floor,
    disk::{Disk, DiskFile},
    reader::OpenSegments,
    recovery::{FoundFree, FoundSegment},
};

/// Zeros are written so many at a time.
static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];
/// More free files than this are removed.
const SPARES: usize = 4;

/// A file with a segment.
pub(super) struct SegmentFile<F> {
    pub(super) id: u32,
    /// The number of its first entry.
    first_number: u64,
    file: u32,
    pub(super) handle: Arc<F>,
    /// Of the file, in bytes.
    pub(super) len: u64,
    /// Behind the last entry.
    pub(super) end: u64,
}

/// A file without one.
pub(super) struct FreeFile<F> {
    file: u32,
    handle: Arc<F>,
    pub(super) len: u64,
    /// From its beginning on so many bytes may be other than zero.
    used: u64,
    /// It alone tells what was released: that stays in it until the next segment has begun.
    pub(super) has_floor: bool,
}

/// See the module.
pub(super) struct Segments<D: Disk> {
    disk: D,
    options: LogOptions,
    /// In order; the last one is the head.
    live: VecDeque<SegmentFile<D::File>>,
    /// The one that was released first comes first.
    free: VecDeque<FreeFile<D::File>>,
    /// Those of `live` for who reads beside the log's owner.
    open: OpenSegments<D::File>,
    floor: Floor,
    next_id: u32,
    next_file: u32,
}

impl<D: Disk> Segments<D> {
    pub(super) fn new(
        disk: D,
        options: LogOptions,
        segments: VecDeque<FoundSegment<D::File>>,
        free: Vec<FoundFree<D::File>>,
        floor: Floor,
        next_id: u32,
    ) -> Self {
        let next_file = disk.files().ok().and_then(|files| files.last().copied()).unwrap_or(0) + 1;
        let live = segments.into_iter().map(|found| SegmentFile {
            id: found.id,
            first_number: found.first_number,
            file: found.file,
            handle: Arc::new(found.handle),
            len: found.len,
            end: found.end,
        });
        // the head itself was released
        let floor_in = Some(floor.segment.saturating_sub(1)).filter(|_| floor.segment == next_id);
        let free = free.into_iter().map(|found| {
            let used = if found.is_blank { 0 } else { found.len };
            let has_floor = found.segment > 0 && Some(found.segment) == floor_in;
            FreeFile { file: found.file, handle: Arc::new(found.handle), len: found.len, used, has_floor }
        });
        let floor = Floor { segment: floor.segment.max(1), number: floor.number.max(1) };
        let live: VecDeque<_> = live.collect();
        let open = OpenSegments::default();
        live.iter().for_each(|segment: &SegmentFile<D::File>| open.add(segment.id, &segment.handle, segment.len));
        Self { disk, options, live, free: free.collect(), open, floor, next_id, next_file }
    }

    pub(super) fn open(&self) -> &OpenSegments<D::File> {
        &self.open
    }

    pub(super) fn options(&self) -> LogOptions {
        self.options
    }

    /// Nothing is written anywhere.
    pub(super) fn is_unused(&self) -> bool {
        self.live.is_empty() && self.free.iter().all(|free| free.used == 0)
    }

    pub(super) fn head(&self) -> Option<&SegmentFile<D::File>> {
        self.live.back()
    }

    /// The head ends at `end` now.
    pub(super) fn extend_head(&mut self, end: u64) {
        if let Some(head) = self.live.back_mut() {
            head.end = end;
        }
    }

    /// The segment after the head.
    pub(super) fn next_id(&self) -> u32 {
        self.next_id
    }

    pub(super) fn floor(&self) -> Floor {
        self.floor
    }

    pub(super) fn bytes(&self) -> u64 {
        self.live.iter().map(|segment| segment.len).chain(self.free.iter().map(|free| free.len)).sum()
    }

    pub(super) fn get(&self, id: u32) -> Option<&SegmentFile<D::File>> {
        self.from(id).filter(|segment| segment.id == id)
    }

    /// The first segment from `id` on.
    pub(super) fn from(&self, id: u32) -> Option<&SegmentFile<D::File>> {
        let index = self.live.partition_point(|segment| segment.id < id);
        self.live.get(index)
    }

    /// The number of the first entry of the first segment from `id` on.
    pub(super) fn first_number(&self, id: u32) -> u64 {
        self.from(id).map_or(0, |segment| segment.first_number)
    }

    /// Sees to it that a file is free.
    pub(super) fn keep_spare(&mut self) -> io::Result<()> {
        if self.free.iter().any(|free| free.len >= self.options.segment_bytes.into()) {
            return Ok(());
        }
        self.make_free(self.options.segment_bytes.into())
    }

    /// Makes a file full of zeros.
    pub(super) fn make_free(&mut self, len: u64) -> io::Result<()> {
        let file = self.next_file;
        let handle = self.disk.create(file)?;
        self.next_file += 1;
        let filled = fill(&handle, 0..len).and_then(|()| handle.sync_data()).and_then(|()| self.disk.sync_folder());
        if let Err(error) = filled {
            drop(handle);
            // what is left of it would be taken for a file that was cut short
            let _ = self.disk.remove(file);
            return Err(error);
        }
        self.free.push_front(FreeFile { file, handle: Arc::new(handle), len, used: 0, has_floor: false });
        Ok(())
    }

    /// A free file of at least `len` bytes, or a new one; the one with the floor if there is no other way.
    pub(super) fn take_free(&mut self, len: u64) -> io::Result<FreeFile<D::File>> {
        let fits = |free: &FreeFile<D::File>| free.len >= len && !free.has_floor;
        let mut at = self.free.iter().position(fits).unwrap_or(0);
        if !self.free.get(at).is_some_and(fits)
            && let Err(error) = self.make_free(len.max(self.options.segment_bytes.into()))
        {
            at = self.free.iter().position(|free| free.len >= len).ok_or(error)?;
        }
        // there is one at that place: a new one is the first
        self.free.remove(at).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    pub(super) fn give_back(&mut self, file: FreeFile<D::File>) {
        self.free.push_front(file);
    }

    /// `file` is the head from now on.
    pub(super) fn begin(&mut self, file: FreeFile<D::File>, first_number: u64) {
        let FreeFile { file, handle, len, .. } = file;
        self.open.add(self.next_id, &handle, len);
        self.live.push_back(SegmentFile { id: self.next_id, first_number, file, handle, len, end: 0 });
        self.next_id += 1;
    }

    /// The disk knows that the segments below `floor` are not needed.
    pub(super) fn release(&mut self, floor: Floor) {
        self.floor = floor;
        while let Some(released) = self.live.pop_front_if(|segment| segment.id < floor.segment) {
            let SegmentFile { id, file, handle, len, .. } = released;
            self.open.remove(id);
            self.free.push_back(FreeFile { file, handle, len, used: len, has_floor: id + 1 == self.next_id });
        }
        self.remove_surplus();
    }

    /// The head is on the disk, which tells what is released.
    pub(super) fn begun(&mut self) {
        if let Some(free) = self.free.iter_mut().find(|free| free.has_floor) {
            free.has_floor = false;
            self.remove_surplus();
        }
    }

    /// Keeps some free files of the usual size.
    fn remove_surplus(&mut self) {
        let usual = u64::from(self.options.segment_bytes);
        let is_surplus = |at: usize, free: &FreeFile<D::File>| !free.has_floor && (at >= SPARES || free.len != usual);
        while let Some(at) =
            self.free.iter().enumerate().rev().find(|(at, free)| is_surplus(*at, free)).map(|(at, _)| at)
            && let Some(free) = self.free.remove(at)
        {
            if let Err(error) = self.disk.remove(free.file) {
                tracing::warn!(%error, file = self.disk.name(free.file), "a released file of the log was not removed");
            }
        }
    }

    /// See [`Log::tidy`](super::Log::tidy).
    pub(super) fn tidy(&mut self) -> io::Result<bool> {
        let Some(dirty) = self.free.iter_mut().find(|free| free.used > 0 && !free.has_floor) else { return Ok(false) };
        let from = dirty.used.saturating_sub(4 * ZEROS.len() as u64);
        fill(&*dirty.handle, from..dirty.used)?;
        dirty.used = from;
        if from == 0 {
            dirty.handle.sync_data()?;
        }
        Ok(true)
    }

    pub(super) fn displaced(&self) -> Option<String> {
        let head = self.live.back().map(|head| (head.file, &head.handle));
        let (file, handle) = head.or_else(|| self.free.front().map(|free| (free.file, &free.handle)))?;
        self.disk.displaced(file, &**handle)
    }
}

fn fill<F: DiskFile>(handle: &F, range: std::ops::Range<u64>) -> io::Result<()> {
    let mut at = range.start;
    while at < range.end {
        let piece = (range.end - at).min(ZEROS.len() as u64);
        handle.write_at(at, &ZEROS[..piece as usize])?;
        at += piece;
    }
    Ok(())
}
