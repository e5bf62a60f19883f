//! What the log is told beside orders: what an open found, cursors that moved, claims that are done, and what stood in a segment
//! that goes.

use std::io;

use super::StoreWriter;
use crate::{
    log::{Disk, PutError, Room},
    store::embedded::{
        entry::{BEGUN, CLAIM, CURSORS, ClaimForm, REVOKED, RevokedForm},
        streams::{ClaimState, UnsavedCursors},
    },
};

/// About so many cursors stand in one entry, in bytes.
const CURSOR_BYTES: usize = 32 << 10;

/// What the log was told again: it holds from the sync on.
#[derive(Default)]
pub(super) struct ToldAgain {
    /// With the stream that it is about, and its segment.
    pub(super) notices: Vec<(Option<u32>, u32)>,
    /// What of it an open found: it is told again until the disk has it.
    found: Vec<(u8, Vec<u8>, Option<u32>)>,
    cursors: Vec<(UnsavedCursors, u32)>,
    claims: Vec<(ClaimForm, u32)>,
    begun: Option<u32>,
    revocations: Vec<(Vec<u8>, u32)>,
}

impl<D: Disk> StoreWriter<D> {
    /// Whether there was room.
    pub(super) fn put_progress(&mut self, kind: u8, body: &[u8]) -> io::Result<Option<u32>> {
        match self.log.put(kind, &[body], Room::Progress) {
            Ok((_, place)) => Ok(Some(place.segment)),
            Err(PutError::NoRoom(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// What an open found is told before anything is built on it.
    pub(super) fn tell_notices(&mut self, again: &mut ToldAgain) -> io::Result<()> {
        let notices = std::mem::take(&mut self.notices);
        for (kind, body, stream) in &notices {
            let told = self.put_progress(*kind, body);
            match told {
                Ok(Some(segment)) if *kind == BEGUN => again.begun = Some(segment),
                Ok(Some(segment)) => again.notices.push((*stream, segment)),
                Ok(None) | Err(_) => {
                    self.notices = notices;
                    return told.and_then(|_| Err(io::Error::from(io::ErrorKind::StorageFull)));
                }
            }
        }
        again.found = notices;
        Ok(())
    }

    /// Cursors that moved, claims that are done, and what stood in a segment that goes.
    pub(super) fn tell_again(&mut self, again: &mut ToldAgain) -> io::Result<()> {
        loop {
            let unsaved = self.shared.lock().streams.take_unsaved(CURSOR_BYTES);
            let Some(cursors) = unsaved else { break };
            match self.put_progress(CURSORS, &cursors.body) {
                Ok(Some(segment)) => again.cursors.push((cursors, segment)),
                outcome => {
                    self.shared.lock().streams.saved(cursors, None);
                    self.shared.lock().save_again();
                    return outcome.map(drop);
                }
            }
        }
        let (claims, revocations, begun) = {
            let mut locked = self.shared.lock();
            let claims = locked.streams.claims().0.take_untold();
            let revocations = locked.streams.revocations().0.take_untold();
            (claims, revocations, locked.streams.take_begun_untold())
        };
        if begun && let Some(segment) = self.put_progress(BEGUN, &self.begun.bytes())? {
            again.begun = Some(segment);
        }
        for (at, claim) in claims.iter().enumerate() {
            match self.put_progress(CLAIM, &claim.bytes()) {
                Ok(Some(segment)) => again.claims.push((*claim, segment)),
                outcome => {
                    let mut locked = self.shared.lock();
                    locked.streams.claims().0.not_told(&claims[at..]);
                    locked.save_again();
                    return outcome.map(drop);
                }
            }
        }
        for body in revocations {
            if let Some(segment) = self.put_progress(REVOKED, &body)? {
                again.revocations.push((body, segment));
            }
        }
        Ok(())
    }

    /// The disk has what was told again.
    pub(super) fn settle_again(&self, again: ToldAgain) {
        let ToldAgain { notices, cursors, claims, begun, revocations, found: _ } = again;
        let mut locked = self.shared.lock();
        let most = self.shared.limits.max_revocations;
        let streams = &mut locked.streams;
        for (stream, segment) in notices {
            stream.into_iter().for_each(|stream| streams.told(stream, segment));
        }
        begun.into_iter().for_each(|segment| streams.begun(segment));
        for (cursors, segment) in cursors {
            streams.saved(cursors, Some(segment));
        }
        for (claim, segment) in claims {
            let (claims, uses) = streams.claims();
            claims.told(claim.claim.key, claim.id, ClaimState::Done, segment, uses);
        }
        for (body, segment) in revocations {
            let (revocations, uses) = streams.revocations();
            RevokedForm::read(&body).into_iter().for_each(|revoked| revocations.keep(&revoked, segment, most, uses));
        }
    }

    /// The disk may not have it.
    pub(super) fn not_told(&mut self, again: ToldAgain) {
        self.notices.splice(0..0, again.found);
        let mut locked = self.shared.lock();
        for (cursors, _) in again.cursors {
            locked.streams.saved(cursors, None);
        }
        let claims: Vec<_> = again.claims.iter().map(|(claim, _)| *claim).collect();
        locked.streams.claims().0.not_told(&claims);
        locked.save_again();
    }
}
