//! The seam of what outlasts a moment: stored pushes in streams, how far their readers are, idempotency keys, revocations.
//!
//! One backend, [`embedded`], keeps them on a log of this node.

pub(crate) mod embedded;

use std::{io, sync::Arc, time::Duration};

use bytestring::ByteString;
use tokio::sync::watch;

use crate::{
    bundles::Bundles,
    config::{Config, StoreBackend},
    lifecycle::{Deadline, Tasks},
    push::{Address, Epoch, Push, PushId, Resume, StoredPush, StreamPage, StreamPosition},
    telemetry::Metrics,
};

/// A store; a cheap clone.
#[derive(Clone)]
pub enum Store {
    /// On a log of this node.
    Embedded(embedded::EmbeddedStore),
}

/// An open store.
pub struct OpenStore {
    /// What it holds.
    pub store: Store,
    /// What it takes from now on, for the clients that are there.
    pub stored: StoredPushes,
    /// Watches and closes it.
    pub control: StoreControl,
}

/// Stored pushes, in the order in which they got their places.
pub struct StoredPushes {
    pub(crate) bundles: Bundles<StoredPush>,
}

impl StoredPushes {
    /// Waits for one to take; `false` once none will come any more. Cancel-safe.
    pub(crate) async fn ready(&mut self) -> bool {
        self.bundles.ready().await
    }

    /// Those that wait to be taken, at most `most`.
    pub(crate) fn waiting(&mut self, most: usize) -> impl Iterator<Item = StoredPush> {
        std::iter::from_fn(|| self.bundles.try_next()).take(most)
    }
}

/// Watches and closes a store.
pub struct StoreControl {
    state: watch::Receiver<StoreState>,
    backend: embedded::EmbeddedControl,
}

/// Whether the store can be used, with the reason when it cannot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreState {
    /// It takes pushes.
    Ready,
    /// The reason.
    NotReady(String),
}

/// Why a store cannot be opened, and what to do.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct StoreOpenError(pub String);

/// Why the store did not take something.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// One of its bounds: try again later (429).
    #[error("{0}")]
    Full(&'static str),
    /// It takes nothing of this size (413).
    #[error("the push has {bytes} bytes as an entry; the store takes at most {limit}")]
    TooLarge {
        /// Its bytes.
        bytes: usize,
        /// The bound.
        limit: usize,
    },
    /// It cannot be written now; it may have been taken all the same (503).
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
    /// The idempotency key was given with another push before (409).
    #[error("another push was made under this idempotency key")]
    OtherBody,
}

/// A push that is to be stored: in the stream of each of its cards, or of its room.
#[derive(Clone, Debug)]
pub struct NewPush {
    /// With a deadline.
    pub push: Push,
    /// By which a retry is known.
    pub claim: Option<Claim>,
}

/// That a push is made under an idempotency key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// A hash of who pushes and the key.
    pub key: [u8; 16],
    /// A hash of all that the push says.
    pub body: u64,
    /// It is remembered until then, in milliseconds since 1970.
    pub deadline: u64,
}

/// What became of a push that is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Appended {
    /// It is.
    New(PushId),
    /// It was before, under the same idempotency key.
    Before(PushId),
}

/// What became of a live push's idempotency key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claimed {
    /// It is this push's.
    New,
    /// A push has it of which nobody knows whether the queue has it: publish it again, under this id.
    Pending(PushId),
    /// A push had it that the queue has.
    Done(PushId),
}

/// What reads a card's stream: it has one cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceKey<'a> {
    /// The `device` of a join.
    Declared(&'a str),
    /// Its app, where it named none; may be empty.
    App(&'a str),
}

/// Who begins to read a stream.
#[derive(Clone, Copy, Debug)]
pub enum Reader<'a> {
    /// A card's; a resume that holds goes before the cursor.
    Device(DeviceKey<'a>, Option<Resume>),
    /// A room's, which has no cursor: without a resume at the head.
    Room(Option<Resume>),
}

/// Where a reader begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attached {
    /// Nothing was stored for the address.
    NoStream,
    /// There is a stream.
    At {
        /// Its newest push.
        head: StreamPosition,
        /// The reader has all up to this.
        from: u64,
        /// So many pushes are there behind it.
        waiting: u64,
        /// Its resume did not hold: it was of another epoch, of the future, or another push stands there.
        reset: bool,
    },
}

/// Why nothing can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AttachError {
    /// `[store] max_devices` read the card's stream, and none was away for long enough.
    #[error("the card has {0} devices already ([store] max_devices)")]
    TooManyDevices(usize),
}

/// A stream as a back end sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamInfo {
    /// Its newest push.
    pub head: StreamPosition,
    /// The number of the oldest push that is there; that of the next one if there is none.
    pub first: u64,
    /// Pushes.
    pub entries: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Who reads it.
    pub devices: Vec<DeviceInfo>,
}

/// A device that reads a card's stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// The device, or the app.
    pub name: ByteString,
    /// It is a device that its join named.
    pub declared: bool,
    /// It has all up to this.
    pub seq: u64,
    /// So long it was not heard of.
    pub idle: Duration,
}

/// Opens the store that the configuration names.
///
/// # Errors
/// What cannot be mended by waiting.
pub async fn open(config: &Config, tasks: &Tasks, metrics: &Arc<Metrics>) -> Result<Option<OpenStore>, StoreOpenError> {
    match config.store.backend {
        StoreBackend::Embedded => embedded::open(config, tasks, metrics).await.map(Some),
        StoreBackend::Auto | StoreBackend::None => Ok(None),
    }
}

impl StoreControl {
    /// Whether it can be used.
    pub fn state(&self) -> watch::Receiver<StoreState> {
        self.state.clone()
    }

    /// Writes what is still to be written, then ends.
    pub async fn close(self, deadline: Deadline) {
        self.backend.close(deadline).await;
    }
}

impl Store {
    /// Stores a push. It is on its way when this returns: cancelling the wait does not take it back.
    ///
    /// # Errors
    /// [`StoreError`], at once or later.
    pub fn append(
        &self,
        push: NewPush,
    ) -> Result<impl Future<Output = Result<Appended, StoreError>> + Send + use<>, StoreError> {
        match self {
            Self::Embedded(store) => store
                .append_all(vec![push])
                .pop()
                .unwrap_or_else(|| Err(StoreError::Unavailable("it is closed".into()))),
        }
    }

    /// As [`Store::append`] for each, in order: none leaves before the others came.
    pub fn append_all(
        &self,
        pushes: Vec<NewPush>,
    ) -> Vec<Result<impl Future<Output = Result<Appended, StoreError>> + Send + use<>, StoreError>> {
        match self {
            Self::Embedded(store) => store.append_all(pushes),
        }
    }

    /// Claims an idempotency key for a live push, before the queue gets it.
    ///
    /// # Errors
    /// [`StoreError`], at once or later.
    pub fn claim(
        &self,
        id: PushId,
        claim: Claim,
    ) -> Result<impl Future<Output = Result<Claimed, StoreError>> + Send + use<>, StoreError> {
        match self {
            Self::Embedded(store) => store.claim(id, claim),
        }
    }

    /// The queue has the live push of this key.
    pub fn fulfil(&self, key: [u8; 16]) {
        match self {
            Self::Embedded(store) => store.fulfil(key),
        }
    }

    /// Where a reader begins; a device that is new has a cursor from now on.
    ///
    /// # Errors
    /// [`AttachError`].
    pub fn attach(&self, address: &Address, reader: Reader<'_>) -> Result<Attached, AttachError> {
        match self {
            Self::Embedded(store) => store.attach(address, reader),
        }
    }

    /// A device that was there when its card's stream began has a cursor at `seq`, unless it has one.
    pub fn register(&self, card: &str, device: DeviceKey<'_>, seq: u64) {
        match self {
            Self::Embedded(store) => store.register(card, device, seq),
        }
    }

    /// A device has all up to `seq`, which was sent to it. It only moves forward.
    pub fn ack(&self, card: &str, device: DeviceKey<'_>, epoch: Epoch, seq: u64) {
        match self {
            Self::Embedded(store) => store.ack(card, device, epoch, seq),
        }
    }

    /// The newest push of a stream; `None`: there is none.
    pub fn head(&self, address: &Address) -> Option<StreamPosition> {
        match self {
            Self::Embedded(store) => store.head(address),
        }
    }

    /// Reads on in a stream: at most so many pushes and, beyond the first, bytes. It reads the disk: not to be called where
    /// others wait for the thread. `None`: there is no such stream any more.
    ///
    /// # Errors
    /// The disk cannot be read.
    pub fn read(
        &self,
        address: &Address,
        epoch: Epoch,
        after: u64,
        entries: usize,
        bytes: usize,
    ) -> io::Result<Option<StreamPage>> {
        match self {
            Self::Embedded(store) => store.read(address, epoch, after, entries, bytes),
        }
    }

    /// Streams that got pushes since the last call, at most so many. It has one caller.
    pub fn take_changes(&self, most: usize) -> Vec<(Address, StreamPosition)> {
        match self {
            Self::Embedded(store) => store.take_changes(most),
        }
    }

    /// Deletes one push of a stream; `false`: it is not there.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn delete_entry(&self, address: &Address, seq: u64) -> Result<bool, StoreError> {
        match self {
            Self::Embedded(store) => store.delete_entry(address, seq).await,
        }
    }

    /// Deletes a stream with its cursors; a later push begins a new epoch. `false`: it is not there.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn delete_stream(&self, address: &Address) -> Result<bool, StoreError> {
        match self {
            Self::Embedded(store) => store.delete_stream(address).await,
        }
    }

    /// Forgets a device; `false`: it is not known.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn forget_device(&self, card: &str, device: DeviceKey<'_>) -> Result<bool, StoreError> {
        match self {
            Self::Embedded(store) => store.forget_device(card, device).await,
        }
    }

    /// What is known of a stream.
    pub fn describe(&self, address: &Address) -> Option<StreamInfo> {
        match self {
            Self::Embedded(store) => store.describe(address),
        }
    }

    /// Keeps that the tokens of `subject` that were issued in `second` (since 1970) or before are refused.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn revoke(&self, subject: &str, second: u64) -> Result<(), StoreError> {
        match self {
            Self::Embedded(store) => store.revoke(subject, second).await,
        }
    }

    /// What was kept so by an earlier process.
    pub fn revocations(&self) -> Vec<(ByteString, u64)> {
        match self {
            Self::Embedded(store) => store.revocations(),
        }
    }
}
