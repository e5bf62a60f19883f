//! What the store is asked for that its log must know of.

use bytes::Bytes;
use bytestring::ByteString;
use tokio::sync::oneshot;

use super::{entry::DeviceForm, streams::AssignedPlace};
use crate::{
    push::{Address, Epoch, Push, PushId},
    record,
    store::{Appended, Claim, Claimed, StoreError},
};

/// Who waits for an outcome; it may have left.
pub(super) type StoreAnswer<T> = oneshot::Sender<Result<T, StoreError>>;

/// A push that is to be stored.
pub(super) struct WaitingAppend {
    pub(super) push: Push,
    pub(super) record: Bytes,
    pub(super) claim: Option<Claim>,
    pub(super) answer: StoreAnswer<Appended>,
}

impl WaitingAppend {
    /// It is the retry of a push that the log may have: it goes on under that one's id, and ends when that one would.
    pub(super) fn go_on_as(&mut self, id: PushId) {
        let push = &mut self.push;
        if push.id == id {
            return;
        }
        let before = push.id.millis();
        push.deadline = push.deadline.map(|end| end.saturating_sub(before).saturating_add(id.millis()));
        push.id = id;
        self.record = record::encode(push);
    }
}

/// See the module.
#[expect(clippy::large_enum_variant, reason = "nearly all are pushes, and each is taken apart soon")]
pub(super) enum StoreOrder {
    Append(WaitingAppend),
    Claim { id: PushId, claim: Claim, answer: StoreAnswer<Claimed> },
    DeleteEntry { address: Address, seq: u64, answer: StoreAnswer<bool> },
    DeleteStream { address: Address, answer: StoreAnswer<bool> },
    ForgetDevice { card: ByteString, declared: bool, name: ByteString, answer: StoreAnswer<bool> },
    Revoke { subject: ByteString, second: u64, until: u32, answer: StoreAnswer<()> },
}

impl StoreOrder {
    /// What it adds to the log, about.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Append(append) => append.record.len() + append.push.target.cards.len() * super::entry::PLACE,
            _ => 0,
        }
    }

    /// Nothing that comes behind it may be written with it: its outcome depends on what is there.
    pub(super) fn ends_turn(&self) -> bool {
        matches!(self, Self::DeleteEntry { .. } | Self::DeleteStream { .. } | Self::ForgetDevice { .. })
    }

    /// Tells that it was not done.
    pub(super) fn refuse(self, error: StoreError) {
        match self {
            Self::Append(WaitingAppend { answer, .. }) => drop(answer.send(Err(error))),
            Self::Claim { answer, .. } => drop(answer.send(Err(error))),
            Self::DeleteEntry { answer, .. }
            | Self::DeleteStream { answer, .. }
            | Self::ForgetDevice { answer, .. } => {
                drop(answer.send(Err(error)));
            }
            Self::Revoke { answer, .. } => drop(answer.send(Err(error))),
        }
    }

    /// The key that it claims.
    pub(super) fn claim(&self) -> Option<&Claim> {
        match self {
            Self::Append(append) => append.claim.as_ref(),
            Self::Claim { claim, .. } => Some(claim),
            _ => None,
        }
    }
}

/// An order that is to be written.
pub(super) struct PlannedOrder {
    pub(super) order: StoreOrder,
    /// Of an append: one for each of its streams.
    pub(super) places: Vec<AssignedPlace>,
    /// Of a delete: the stream's.
    pub(super) epoch: Option<Epoch>,
}

/// A device as the log names it.
pub(super) fn device(declared: bool, name: &str) -> DeviceForm<'_> {
    DeviceForm { declared, name }
}
