//! Where a client begins in the stream of an address, as the store says it.

use crate::{
    hub::StreamReader,
    push::{Address, Resume, StreamPosition},
    store::{AttachError, Attached, DeviceKey, Reader, Store, StoreError},
};

/// Where a client begins in a stream, or why that is not known.
pub(super) type AttachOutcome = Result<Attached, AttachError>;

/// A client that begins in the stream of an address.
pub(super) struct StreamPlace {
    pub(super) address: Address,
    /// As what; `None`: in a room.
    pub(super) reader: Option<StreamReader>,
    pub(super) resume: Option<Resume>,
}

impl StreamPlace {
    pub(super) fn attach(&self, store: &Store) -> impl Future<Output = AttachOutcome> + use<> {
        attach(store.clone(), self.address.clone(), self.reader.clone(), self.resume)
    }
}

/// Where a reader begins; there at once where the store is not shared.
pub(super) async fn attach(
    store: Store,
    address: Address,
    reader: Option<StreamReader>,
    resume: Option<Resume>,
) -> AttachOutcome {
    match &reader {
        None => store.attach(&address, Reader::Room(resume)).await,
        Some(StreamReader::Device(device)) => {
            store.attach(&address, Reader::Device(DeviceKey::Declared(device), resume)).await
        }
        Some(StreamReader::App(app)) => {
            match store.attach(&address, Reader::Device(DeviceKey::App(app), resume)).await {
                // it is let in all the same, and begins at the newest push, as a new app does
                Err(AttachError::TooManyDevices(_)) => at_head(store.head(&address, None).await),
                outcome => outcome,
            }
        }
    }
}

/// At the newest push of a stream.
fn at_head(head: Result<Option<StreamPosition>, StoreError>) -> AttachOutcome {
    let head = head.map_err(|error| AttachError::Unavailable(error.to_string()))?;
    let at = |head: StreamPosition| Attached::At { head, from: head.seq, waiting: 0, reset: false };
    Ok(head.map_or(Attached::NoStream, at))
}
