//! Entries are read again from where they are.

use std::io;

use bytes::Bytes;

use super::{
    Disk, DiskFile as _, Entry, Log, Place,
    control::USERS,
    disk::read_what_can_be_read,
    entry::{self, HEAD},
    scan::Scan,
};

impl<D: Disk> Log<D> {
    /// One entry again: its kind and body. `None`: it is not what was written there.
    ///
    /// # Errors
    /// The disk cannot read it.
    pub(crate) fn read(&mut self, place: Place) -> io::Result<Option<(u8, Bytes)>> {
        self.write()?;
        let Some(segment) = self.segments.get(place.segment) else { return Ok(None) };
        let at = u64::from(place.offset);
        let mut bytes = vec![0; (segment.end.saturating_sub(at)).min(4096) as usize];
        self.read_bytes(&segment.handle, at, &mut bytes)?;
        let scan = Scan { log: self.id, segment: place.segment };
        let Some(head) = scan.head(&bytes, 0).filter(|head| at + head.size() as u64 <= segment.end.max(self.buffer_at))
        else {
            return Ok(None);
        };
        if head.size() > bytes.len() {
            bytes.resize(head.size(), 0);
            self.read_bytes(&segment.handle, at, &mut bytes)?;
        }
        if head.body(&bytes).is_none() {
            return Ok(None);
        }
        let body = Bytes::from(bytes).slice(HEAD..HEAD + head.len as usize);
        Ok(Some((head.kind, body)))
    }

    /// Whole user entries from `from` on, about `bytes` of them, and where to go on; `None`: that was all. What is damaged is
    /// passed over. Released segments too.
    ///
    /// # Errors
    /// The disk cannot read them.
    pub(crate) fn read_from(
        &mut self,
        from: Place,
        bytes: usize,
        mut found: impl FnMut(Entry<'_>),
    ) -> io::Result<Option<Place>> {
        self.write()?;
        let Some(segment) = self.segments.from(from.segment) else { return Ok(None) };
        let id = segment.id;
        let at = if id == from.segment { u64::from(from.offset) } else { 0 };
        let scan = Scan { log: self.id, segment: id };
        let end = if id == self.head() { self.buffer_at } else { segment.end };
        let mut buffer =
            vec![0; end.saturating_sub(at).min(bytes.max(2 * HEAD).next_multiple_of(entry::ALIGN) as u64) as usize];
        self.read_bytes(&segment.handle, at, &mut buffer)?;
        let mut read = 0;
        while let Some(next) = scan.find(&buffer, read, 0) {
            read = next;
            let Some(head) = scan.head(&buffer, read) else { break };
            let size = head.size();
            let entry_end = at + (read + size) as u64;
            if read + size > buffer.len() && entry_end <= end {
                if read > 0 {
                    return Ok(Some(Place { segment: id, offset: at as u32 + read as u32 }));
                }
                buffer.resize(size, 0);
                self.read_bytes(&segment.handle, at, &mut buffer)?;
            }
            if let Some(body) = head.body(&buffer[read..])
                && head.kind >= USERS
            {
                let place = Place { segment: id, offset: at as u32 + read as u32 };
                found(Entry { number: head.number, place, kind: head.kind, body });
            }
            read = (read + size).min(buffer.len());
        }
        // a head may begin in the last bytes
        let passed =
            if at + buffer.len() as u64 >= end { buffer.len() } else { read.max(buffer.len() + entry::ALIGN - HEAD) };
        let passed = at + passed as u64;
        if passed < end {
            return Ok(Some(Place { segment: id, offset: passed as u32 }));
        }
        Ok(self.segments.from(id + 1).map(|next| Place { segment: next.id, offset: 0 }))
    }

    /// Whether what cannot be read is as good as damaged from now on: it is passed over. Else it is an error, which may go by.
    pub(crate) fn pass_over_unreadable(&mut self, passes_over: bool) {
        self.passes_over_unreadable = passes_over;
    }

    fn read_bytes(&self, file: &D::File, at: u64, out: &mut [u8]) -> io::Result<()> {
        if self.passes_over_unreadable {
            read_what_can_be_read(file, at, out);
            return Ok(());
        }
        file.read_at(at, out)
    }
}
