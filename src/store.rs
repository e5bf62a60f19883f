//! The seam of what outlasts a moment: stored pushes in streams, how far their readers are, idempotency keys, revocations.
//!
//! Two backends: [`embedded`] keeps them on a log of this node, [`redis`] in a Redis that all nodes share.

pub(crate) mod embedded;
pub(crate) mod redis;

use std::{io, sync::Arc, time::Duration};

use bytestring::ByteString;
use futures_util::future::{Either, ready};
use tokio::sync::watch;

use crate::{
    bundles::Bundles,
    config::{Config, StoreBackend},
    lifecycle::{Deadline, Tasks},
    push::{Address, Epoch, PagePlace, Push, PushId, Resume, StoredPush, StreamPage, StreamPosition},
    redis_client::RedisClient,
    telemetry::Metrics,
};

/// A store; a cheap clone.
#[derive(Clone)]
pub enum Store {
    /// On a log of this node.
    Embedded(embedded::EmbeddedStore),
    /// In a Redis that all nodes share.
    Redis(redis::RedisStore),
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
    backend: ControlledStore,
}

/// What is closed.
enum ControlledStore {
    Embedded(embedded::EmbeddedControl),
    Redis(redis::RedisControl),
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Appended {
    /// It is.
    New {
        /// Its id.
        id: PushId,
        /// Where nodes have the store together: what they are to be told of it, over the queue. Else this node is told of it by the
        /// store.
        wake: Option<Box<StoredPush>>,
    },
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
        /// So many pushes are there behind it; of more than 128, or 1 MiB, a shared store may count some that are gone.
        waiting: u64,
        /// Its resume did not hold: it was of another epoch, of the future, or another push stands there.
        reset: bool,
    },
}

/// Why nothing can be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AttachError {
    /// `[store] max_devices` read the card's stream, and none was away for long enough.
    #[error("the card has {0} devices already ([store] max_devices)")]
    TooManyDevices(usize),
    /// The store does not answer now.
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
}

/// Streams that got pushes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamChanges {
    /// These, with their newest pushes.
    Some(Vec<(Address, StreamPosition)>),
    /// More than is remembered: each stream may have.
    Unknown,
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
pub async fn open(
    config: &Config,
    redis: Option<&RedisClient>,
    tasks: &Tasks,
    metrics: &Arc<Metrics>,
) -> Result<Option<OpenStore>, StoreOpenError> {
    match config.store.backend {
        StoreBackend::Embedded => embedded::open(config, tasks, metrics).await.map(Some),
        StoreBackend::Redis => {
            let client = redis.ok_or_else(|| StoreOpenError("backend = redis needs [redis] url".into()))?;
            Ok(Some(self::redis::open(config, client, tasks, metrics).await))
        }
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
        match self.backend {
            ControlledStore::Embedded(control) => control.close(deadline).await,
            ControlledStore::Redis(control) => control.close(deadline).await,
        }
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
        self.append_all(vec![push]).pop().unwrap_or_else(|| Err(StoreError::Unavailable("it is closed".into())))
    }

    /// As [`Store::append`] for each, in order: none leaves before the others came.
    pub fn append_all(
        &self,
        pushes: Vec<NewPush>,
    ) -> Vec<Result<impl Future<Output = Result<Appended, StoreError>> + Send + use<>, StoreError>> {
        match self {
            Self::Embedded(store) => {
                store.append_all(pushes).into_iter().map(|outcome| outcome.map(Either::Left)).collect()
            }
            Self::Redis(store) => {
                store.append_all(pushes).into_iter().map(|outcome| outcome.map(Either::Right)).collect()
            }
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
            Self::Embedded(store) => store.claim(id, claim).map(Either::Left),
            Self::Redis(store) => store.claim(id, claim).map(Either::Right),
        }
    }

    /// The queue has the live push of this key.
    pub fn fulfil(&self, key: [u8; 16]) {
        match self {
            Self::Embedded(store) => store.fulfil(key),
            Self::Redis(store) => store.fulfil(key),
        }
    }

    /// Nodes have it together: an answer takes its time, and what other nodes store is told over the queue.
    pub fn is_shared(&self) -> bool {
        match self {
            Self::Embedded(_) => false,
            Self::Redis(_) => true,
        }
    }

    /// Where a reader begins; a device that is new has a cursor from now on. Of a store that is not shared the answer is there
    /// at once.
    ///
    /// # Errors
    /// [`AttachError`].
    pub fn attach(
        &self,
        address: &Address,
        reader: Reader<'_>,
    ) -> impl Future<Output = Result<Attached, AttachError>> + Send + use<> {
        match self {
            Self::Embedded(store) => Either::Left(ready(store.attach(address, reader))),
            Self::Redis(store) => Either::Right(store.attach(address, reader)),
        }
    }

    /// A device that was there when its card's stream began has a cursor at `seq`, unless it has one.
    pub fn register(&self, card: &str, device: DeviceKey<'_>, seq: u64) {
        match self {
            Self::Embedded(store) => store.register(card, device, seq),
            Self::Redis(store) => store.register(card, device, seq),
        }
    }

    /// A device has all up to `seq`, which was sent to it. It only moves forward.
    pub fn ack(&self, card: &str, device: DeviceKey<'_>, epoch: Epoch, seq: u64) {
        match self {
            Self::Embedded(store) => store.ack(card, device, epoch, seq),
            Self::Redis(store) => store.ack(card, device, epoch, seq),
        }
    }

    /// The newest push of a stream; `None`: there is none. A shared store that does not have what is `known` of it was cut back: the
    /// stream gets another epoch, in which this is the newest.
    ///
    /// # Errors
    /// A shared store does not answer.
    pub async fn head(
        &self,
        address: &Address,
        known: Option<StreamPosition>,
    ) -> Result<Option<StreamPosition>, StoreError> {
        match self {
            // its own recovery sees to epochs
            Self::Embedded(store) => Ok(store.head(address)),
            Self::Redis(store) => store.head(address, known).await,
        }
    }

    /// Reads on in streams: at each place at most so many pushes and, beyond the first, bytes. `None`: there is no such stream any
    /// more; an error: it cannot be read now.
    pub async fn read_pages(
        &self,
        places: Vec<PagePlace>,
        entries: usize,
        bytes: usize,
    ) -> Vec<(PagePlace, io::Result<Option<StreamPage>>)> {
        match self {
            Self::Embedded(store) => store.read_pages(places, entries, bytes).await,
            Self::Redis(store) => store.read_pages(places, entries, bytes).await,
        }
    }

    /// Streams that got pushes since the last call, at most so many, of those that `is_wanted`. It has one caller.
    ///
    /// # Errors
    /// A shared store does not answer.
    pub async fn take_changes(
        &self,
        most: usize,
        is_wanted: impl Fn(&Address) -> bool,
    ) -> Result<StreamChanges, StoreError> {
        match self {
            Self::Embedded(store) => Ok(StreamChanges::Some(store.take_changes(most))),
            Self::Redis(store) => store.take_changes(most, is_wanted).await,
        }
    }

    /// Deletes one push of a stream; `false`: it is not there.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn delete_entry(&self, address: &Address, seq: u64) -> Result<bool, StoreError> {
        match self {
            Self::Embedded(store) => store.delete_entry(address, seq).await,
            Self::Redis(store) => store.delete_entry(address, seq).await,
        }
    }

    /// Deletes a stream with its cursors; a later push begins a new epoch. `false`: it is not there.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn delete_stream(&self, address: &Address) -> Result<bool, StoreError> {
        match self {
            Self::Embedded(store) => store.delete_stream(address).await,
            Self::Redis(store) => store.delete_stream(address).await,
        }
    }

    /// Forgets a device; `false`: it is not known.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn forget_device(&self, card: &str, device: DeviceKey<'_>) -> Result<bool, StoreError> {
        match self {
            Self::Embedded(store) => store.forget_device(card, device).await,
            Self::Redis(store) => store.forget_device(card, device).await,
        }
    }

    /// What is known of a stream; `None`: there is none.
    ///
    /// # Errors
    /// A shared store does not answer.
    pub async fn describe(&self, address: &Address) -> Result<Option<StreamInfo>, StoreError> {
        match self {
            Self::Embedded(store) => Ok(store.describe(address)),
            Self::Redis(store) => store.describe(address).await,
        }
    }

    /// Keeps that the tokens of `subject` that were issued in `second` (since 1970) or before are refused.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn revoke(&self, subject: &str, second: u64) -> Result<(), StoreError> {
        match self {
            Self::Embedded(store) => store.revoke(subject, second).await,
            Self::Redis(store) => store.revoke(subject, second).await,
        }
    }

    /// What was kept so by an earlier process, or by another node.
    ///
    /// # Errors
    /// A shared store does not answer.
    pub async fn revocations(&self) -> Result<Vec<(ByteString, u64)>, StoreError> {
        match self {
            Self::Embedded(store) => Ok(store.revocations()),
            Self::Redis(store) => store.revocations().await,
        }
    }
}
