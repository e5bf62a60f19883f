//! Idempotency keys: which push was made under which, bounded in number and time.

use std::collections::VecDeque;

use hashbrown::HashMap;

use super::uses::SegmentUses;
use crate::{
    push::PushId,
    store::{Claim, StoreError, embedded::entry::ClaimForm},
};

/// How far the push of a key is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store::embedded) enum ClaimState {
    /// The log is being told.
    Writing,
    /// The log knows the key; nobody knows whether the queue has the push.
    Pending,
    /// The store or the queue has it.
    Done,
}

struct KnownClaim {
    id: PushId,
    body: u64,
    /// In milliseconds since 1970.
    deadline: u64,
    /// Whose entry tells it; 0: none does yet.
    segment: u32,
    state: ClaimState,
}

/// See the module.
pub(in crate::store::embedded) struct Claims {
    most: usize,
    known: HashMap<[u8; 16], KnownClaim>,
    /// About in the order of their deadlines: each has the same time.
    order: VecDeque<(u64, [u8; 16])>,
    /// Done, and the log is to be told.
    untold: Vec<[u8; 16]>,
}

/// So many times of keys that are gone may stand in the order.
const SLACK: usize = 1024;
const FULL: &str =
    "too many idempotency keys are remembered ([store] max_idempotency_keys): try again later, or without one";

impl Claims {
    pub(super) fn new(most: usize) -> Self {
        Self { most, known: HashMap::new(), order: VecDeque::new(), untold: Vec::new() }
    }

    /// How far the push of a key is, and its id; `None`: nobody has the key, and there is room for it.
    ///
    /// # Errors
    /// Another push has the key, or there are too many.
    pub(in crate::store::embedded) fn look(
        &mut self,
        claim: &Claim,
        now: u64,
        uses: &mut SegmentUses,
    ) -> Result<Option<(ClaimState, PushId)>, StoreError> {
        self.expire(now, uses);
        match self.known.get(&claim.key).filter(|known| known.deadline > now) {
            Some(known) if known.body != claim.body => Err(StoreError::OtherBody),
            Some(known) => Ok(Some((known.state, known.id))),
            None if self.known.len() >= self.most && !self.known.contains_key(&claim.key) => {
                Err(StoreError::Full(FULL))
            }
            None => Ok(None),
        }
    }

    /// The key is that push's, which is not in the log yet.
    pub(in crate::store::embedded) fn begin(&mut self, claim: &Claim, id: PushId, uses: &mut SegmentUses) {
        self.put(claim, id, ClaimState::Writing, 0, uses);
    }

    fn put(&mut self, claim: &Claim, id: PushId, state: ClaimState, segment: u32, uses: &mut SegmentUses) {
        let Claim { key, body, deadline } = *claim;
        if segment > 0 {
            uses.add(segment);
        }
        let known = KnownClaim { id, body, deadline, segment, state };
        match self.known.insert(key, known) {
            Some(before) => uses.remove(before.segment),
            None => self.order.push_back((deadline, key)),
        }
    }

    /// The log has the key.
    pub(in crate::store::embedded) fn told(
        &mut self,
        key: [u8; 16],
        id: PushId,
        state: ClaimState,
        segment: u32,
        uses: &mut SegmentUses,
    ) {
        if let Some(known) = self.known.get_mut(&key).filter(|known| known.id == id) {
            uses.change(&mut known.segment, segment);
            if known.state == ClaimState::Writing {
                known.state = state;
            }
        }
    }

    /// The log has not taken it: nobody has the key.
    pub(in crate::store::embedded) fn failed(&mut self, key: [u8; 16], uses: &mut SegmentUses) {
        if let Some(known) = self.known.remove(&key) {
            uses.remove(known.segment);
        }
        // keys that fail again and again must not fill it
        if self.order.len() > 2 * self.known.len() + SLACK {
            let known = &self.known;
            self.order.retain(|(deadline, key)| known.get(key).is_some_and(|known| known.deadline == *deadline));
        }
    }

    /// The log may have it: a retry goes on under the same id.
    pub(in crate::store::embedded) fn unknown(&mut self, key: [u8; 16]) {
        if let Some(known) = self.known.get_mut(&key).filter(|known| known.state == ClaimState::Writing) {
            known.state = ClaimState::Pending;
        }
    }

    /// The queue has the live push of the key. Whether the log is to be told.
    pub(in crate::store::embedded) fn fulfil(&mut self, key: [u8; 16]) -> bool {
        let pending = self.known.get_mut(&key).filter(|known| known.state != ClaimState::Done);
        let Some(known) = pending else { return false };
        known.state = ClaimState::Done;
        self.untold.push(key);
        true
    }

    /// Keys that the log is to be told again.
    pub(in crate::store::embedded) fn take_untold(&mut self) -> Vec<ClaimForm> {
        let untold = std::mem::take(&mut self.untold);
        untold.into_iter().filter_map(|key| self.form(key)).collect()
    }

    pub(in crate::store::embedded) fn not_told(&mut self, claims: &[ClaimForm]) {
        self.untold.extend(claims.iter().map(|form| form.claim.key));
    }

    fn form(&self, key: [u8; 16]) -> Option<ClaimForm> {
        let known = self.known.get(&key)?;
        let claim = Claim { key, body: known.body, deadline: known.deadline };
        Some(ClaimForm { claim, id: known.id, done: known.state == ClaimState::Done })
    }

    /// The segment that tells a key goes: the log is to be told again.
    pub(super) fn leave(&mut self, key: [u8; 16], segment: u32) {
        if self.known.get(&key).is_some_and(|known| known.segment == segment) {
            self.untold.push(key);
        }
    }

    /// As [`Claims::leave`] for all that the segment tells.
    pub(super) fn leave_all(&mut self, segment: u32) {
        let there = self.known.iter().filter(|(_, known)| known.segment == segment);
        self.untold.extend(there.map(|(key, _)| *key));
    }

    /// As the log told it, at the start.
    pub(super) fn restore(&mut self, form: &ClaimForm, segment: u32, uses: &mut SegmentUses) {
        let before = self.known.get(&form.claim.key);
        // told as pending after it was done: its segment went
        let was_done = before.is_some_and(|known| known.id == form.id && known.state == ClaimState::Done);
        let state = if form.done || was_done { ClaimState::Done } else { ClaimState::Pending };
        self.put(&form.claim, form.id, state, segment, uses);
    }

    /// All were restored.
    pub(super) fn restored(&mut self, now: u64, uses: &mut SegmentUses) {
        self.order.make_contiguous().sort_unstable();
        self.expire(now, uses);
    }

    /// Forgets those whose time is over.
    pub(in crate::store::embedded) fn expire(&mut self, now: u64, uses: &mut SegmentUses) {
        while let Some((deadline, key)) = self.order.pop_front_if(|(deadline, _)| *deadline <= now) {
            // a key that was claimed anew has a later deadline
            match self.known.get(&key).map(|known| known.deadline) {
                Some(later) if later > deadline => self.order.push_back((later, key)),
                Some(_) => {
                    if let Some(known) = self.known.remove(&key) {
                        uses.remove(known.segment);
                    }
                }
                None => {}
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.known.is_empty()
    }
}
