//! The store of one node, on a log of its own in `<[data] dir>/streams`.
//!
//! One thread, `store`, owns the log: it takes every push that waits, gives each its numbers, writes and syncs them once, puts
//! them into the index, and hands them to dispatch: the commit is the wake-up. Cursors and what a queue has of live pushes are
//! written with the next turn, or by themselves a second later: a crash repeats acknowledgements of up to a second, and loses no
//! push. The state is `streams`, which knows no disk; pages are read beside the thread, so that no fsync stands before them.
//! docs/adr/0018-store.md tells why.

mod entry;
mod inspect;
mod limits;
mod order;
mod page;
mod shared;
mod streams;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
mod writer;

use std::{io, panic, sync::Arc, thread};

use bytes::Bytes;
use bytestring::ByteString;
use tokio::{
    sync::{oneshot, watch},
    task::spawn_blocking,
    time::{Instant, timeout_at},
};

use super::{
    Appended, AttachError, Attached, Claim, Claimed, ControlledStore, DeviceKey, NewPush, OpenStore, Reader,
    StoreControl, StoreError, StoreOpenError, StoreState, StoredPushes, StreamInfo,
};
use crate::{
    bundles, config,
    lifecycle::{Deadline, Service, Tasks},
    log::{Damage, Disk, Folder, Log, LogOptions, Place, boot_id},
    push::{Address, Epoch, PagePlace, PushId, StreamPage, StreamPosition},
    telemetry::{Metrics, labels::DropReason},
};
use entry::BegunForm;
pub(crate) use inspect::{StoreInspection, StoredRecords};
use limits::StoreLimits;
use order::StoreOrder;
use shared::{SharedStore, unix_seconds};
use streams::{RestoredStreams, StreamReplay, device_form};
use writer::{BUNDLES, StoreWriter, address_ref};

/// The folder below `[data] dir`.
pub(crate) const FOLDER: &str = "streams";

/// So many damages have a line each.
const LINES: usize = 20;

/// Reads an entry of the log beside its thread: its kind and body; `None`: it is not what was written there.
type ReadPlace = Arc<dyn Fn(Place) -> io::Result<Option<(u8, Bytes)>> + Send + Sync>;

/// See the module; a cheap clone.
#[derive(Clone)]
pub struct EmbeddedStore {
    shared: Arc<SharedStore>,
    read: ReadPlace,
}

/// Opens the store, or makes one.
///
/// # Errors
/// What cannot be mended by waiting: a folder that is in use or unwritable; files that are no log.
pub(super) async fn open(
    config: &config::Config,
    tasks: &Tasks,
    metrics: &Arc<Metrics>,
) -> Result<OpenStore, StoreOpenError> {
    let dir = config.queue.dir.join(FOLDER);
    let options = LogOptions { segment_bytes: config.queue.segment_bytes };
    let disk = move || Folder::open(&dir).map_err(|error| StoreOpenError(error.to_string()));
    open_on(disk, options, StoreLimits::of(config), boot_id(), tasks, metrics).await
}

/// On any disk and in any run of the machine: tests have a disk that forgets what was not synced.
async fn open_on<D: Disk>(
    disk: impl FnOnce() -> Result<D, StoreOpenError> + Send + 'static,
    options: LogOptions,
    limits: StoreLimits,
    boot: Option<[u8; 16]>,
    tasks: &Tasks,
    metrics: &Arc<Metrics>,
) -> Result<OpenStore, StoreOpenError> {
    let (stored, bundles) = bundles::channel(BUNDLES);
    let (ready, state) = watch::channel(StoreState::NotReady("it is being opened".into()));
    let (opened, opening) = oneshot::channel();
    let (ends, ended) = oneshot::channel::<()>();
    let metrics = metrics.clone();
    let thread = thread::Builder::new().name("store".into()).spawn(move || {
        // dropped at the end
        let _ends = ends;
        match disk().and_then(|disk| restore(disk, options, &limits, boot, &metrics)) {
            Ok((log, restored)) => {
                let RestoredStreams { streams, renewed, broken, .. } = restored;
                let begun =
                    BegunForm { boot: boot.unwrap_or_default(), syncs_later: limits.sync != config::Sync::Always };
                let shared = Arc::new(SharedStore::new(limits, streams, ready, metrics));
                shared.show(&mut shared.lock());
                let reader = log.reader();
                let read: ReadPlace = Arc::new(move |place| reader.read(place));
                let writer = StoreWriter::new(shared.clone(), log, stored, begun, renewed, broken);
                let _ = opened.send(Ok(EmbeddedStore { shared, read }));
                writer.run();
            }
            Err(error) => drop(opened.send(Err(error))),
        }
    });
    let thread = thread.map_err(|error| StoreOpenError(format!("cannot start the store's thread: {error}")))?;
    let store = match opening.await {
        Ok(opened) => opened?,
        Err(_) => return Err(StoreOpenError("the store's thread panicked while it opened the log".into())),
    };
    let service = tasks.service();
    let control = EmbeddedControl { shared: store.shared.clone(), service: service.clone() };
    let closing = store.shared.clone();
    let stopping = service.stopping().clone();
    service.spawn("store", async move {
        let mut ended = ended;
        tokio::select! {
            () = stopping.cancelled() => {
                closing.begin_close();
                let _ = ended.await;
            }
            _ = &mut ended => {}
        }
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    });
    Ok(OpenStore {
        store: super::Store::Embedded(store),
        stored: StoredPushes { bundles },
        control: StoreControl { state, backend: ControlledStore::Embedded(control) },
    })
}

/// Opens the log and reads what an earlier process left. Damage is told and counted.
fn restore<D: Disk>(
    disk: D,
    options: LogOptions,
    limits: &StoreLimits,
    boot: Option<[u8; 16]>,
    metrics: &Metrics,
) -> Result<(Log<D>, RestoredStreams), StoreOpenError> {
    let now = unix_seconds();
    let mut replay = StreamReplay::new(limits.clone());
    let (log, recovered) = Log::open(disk, options, |entry| replay.entry(&entry, now))
        .map_err(|error| StoreOpenError(error.to_string()))?;
    let restored = replay.end(&recovered.damages, boot, now);
    tell(&recovered.damages, &restored);
    metrics.drops.get_or_create(&DropReason::Lost).inc_by(restored.lost);
    Ok((log, restored))
}

fn tell(damages: &[Damage], restored: &RestoredStreams) {
    let mut new = damages.iter().filter(|damage| !damage.known);
    for Damage { file, offset, bytes, numbers, synced, .. } in new.by_ref().take(LINES) {
        let entries = numbers.end - numbers.start;
        if *synced {
            tracing::error!(
                file,
                offset,
                bytes,
                entries,
                "a part of the store's log is damaged; all else in it is used"
            );
        } else {
            tracing::warn!(file, offset, bytes, entries, "the end of the store's log is torn: no sync followed it");
        }
    }
    let more = new.count();
    if more > 0 {
        tracing::error!(more, "more parts of the store's log are damaged: `oxipush log check` lists them");
    }
    if restored.lost > 0 {
        tracing::error!(entries = restored.lost, "so many stored pushes at most are lost with what is damaged");
    }
    if !restored.broken.is_empty() {
        tracing::error!(streams = restored.broken.len(), "streams that may miss pushes have new epochs");
    }
    if restored.is_cut {
        tracing::warn!(
            "the machine stopped before the store was synced ([queue] sync is a time): what it had acknowledged last may be \
             gone, and all streams have new epochs"
        );
    }
    if restored.unknown > 0 {
        tracing::warn!(
            entries = restored.unknown,
            "the store's log has entries that this version does not know: they are ignored"
        );
    }
}

impl EmbeddedStore {
    pub(super) fn append_all(
        &self,
        pushes: Vec<NewPush>,
    ) -> Vec<Result<impl Future<Output = Result<Appended, StoreError>> + Send + use<>, StoreError>> {
        let deadline = self.deadline();
        let admitted = self.shared.append_all(pushes).into_iter();
        admitted.map(|one| one.map(|outcome| answered(outcome, deadline))).collect()
    }

    pub(super) fn claim(
        &self,
        id: PushId,
        claim: Claim,
    ) -> Result<impl Future<Output = Result<Claimed, StoreError>> + Send + use<>, StoreError> {
        let deadline = self.deadline();
        self.shared.claim(id, claim).map(|outcome| answered(outcome, deadline))
    }

    pub(super) fn fulfil(&self, key: [u8; 16]) {
        self.shared.fulfil(key);
    }

    pub(super) fn attach(&self, address: &Address, reader: Reader<'_>) -> Result<Attached, AttachError> {
        let mut locked = self.shared.lock();
        let attached = locked.streams.attach(address_ref(address), reader, unix_seconds());
        if locked.streams.has_unsaved() {
            // a kill must not make a new reader of one that was there
            self.shared.save_now(locked);
        }
        attached
    }

    pub(super) fn register(&self, card: &str, device: DeviceKey<'_>, seq: u64) {
        let mut locked = self.shared.lock();
        locked.streams.register(card, device_form(device), seq, unix_seconds());
        if locked.streams.has_unsaved() {
            self.shared.save(locked);
        }
    }

    pub(super) fn ack(&self, card: &str, device: DeviceKey<'_>, epoch: Epoch, seq: u64) {
        let mut locked = self.shared.lock();
        if locked.streams.acknowledge(card, device_form(device), epoch, seq, unix_seconds()) {
            self.shared.save(locked);
        }
    }

    pub(super) fn head(&self, address: &Address) -> Option<StreamPosition> {
        self.shared.lock().streams.head(address_ref(address))
    }

    pub(super) fn take_changes(&self, most: usize) -> Vec<(Address, StreamPosition)> {
        self.shared.lock().streams.take_changes(most)
    }

    pub(super) async fn read_pages(
        &self,
        places: Vec<PagePlace>,
        entries: usize,
        bytes: usize,
    ) -> Vec<(PagePlace, io::Result<Option<StreamPage>>)> {
        let store = self.clone();
        let read = spawn_blocking(move || {
            let read = |place: &PagePlace| store.read(&place.address, place.epoch, place.after, entries, bytes);
            let read_at = |place| {
                let page = read(&place);
                (place, page)
            };
            places.into_iter().map(read_at).collect()
        });
        match read.await {
            Ok(read) => read,
            Err(error) if error.is_panic() => panic::resume_unwind(error.into_panic()),
            // the runtime ends
            Err(_) => Vec::new(),
        }
    }

    pub(super) fn describe(&self, address: &Address) -> Option<StreamInfo> {
        self.shared.lock().streams.describe(address_ref(address), unix_seconds())
    }

    pub(super) async fn delete_entry(&self, address: &Address, seq: u64) -> Result<bool, StoreError> {
        if seq == 0 {
            return Ok(false);
        }
        let address = address.clone();
        self.ordered(|answer| StoreOrder::DeleteEntry { address, seq, answer }).await
    }

    pub(super) async fn delete_stream(&self, address: &Address) -> Result<bool, StoreError> {
        let address = address.clone();
        self.ordered(|answer| StoreOrder::DeleteStream { address, answer }).await
    }

    pub(super) async fn forget_device(&self, card: &str, device: DeviceKey<'_>) -> Result<bool, StoreError> {
        let form = device_form(device);
        let (card, declared, name) = (card.to_owned().into(), form.declared, form.name.to_owned().into());
        self.ordered(|answer| StoreOrder::ForgetDevice { card, declared, name, answer }).await
    }

    pub(super) async fn revoke(&self, subject: &str, second: u64) -> Result<(), StoreError> {
        let subject: ByteString = subject.to_owned().into();
        let life = u32::try_from(self.shared.limits.revocation_life.as_secs()).unwrap_or(u32::MAX);
        let told = unix_seconds().max(u32::try_from(second).unwrap_or(u32::MAX));
        let until = told.saturating_add(life).saturating_add(1);
        self.ordered(|answer| StoreOrder::Revoke { subject, second, until, answer }).await
    }

    pub(super) fn revocations(&self) -> Vec<(ByteString, u64)> {
        self.shared.lock().streams.revocations().0.list()
    }

    async fn ordered<T>(
        &self,
        order: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> StoreOrder,
    ) -> Result<T, StoreError> {
        let deadline = self.deadline();
        answered(self.shared.order(order)?, deadline).await
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.shared.limits.timeout
    }
}

async fn answered<T>(outcome: oneshot::Receiver<Result<T, StoreError>>, deadline: Instant) -> Result<T, StoreError> {
    match timeout_at(deadline, outcome).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(_)) => Err(StoreError::Unavailable("it was closed before it answered".into())),
        Err(_) => Err(StoreError::Unavailable("it did not answer within [queue] publish_timeout".into())),
    }
}

/// Stops and closes the store.
pub(super) struct EmbeddedControl {
    shared: Arc<SharedStore>,
    service: Service,
}

impl EmbeddedControl {
    pub(super) async fn close(self, deadline: Deadline) {
        if !self.service.stop_within(deadline).await {
            tracing::warn!("the store's log was not closed in time: some acknowledgements may be repeated");
        }
    }
}

impl Drop for EmbeddedControl {
    /// Whoever forgets to close must not leave a thread and a lock behind.
    fn drop(&mut self) {
        self.service.stop();
        // its task may be gone with the runtime
        self.shared.begin_close();
    }
}
