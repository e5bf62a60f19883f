//! Streams as back ends see them: what is stored, who reads it, and how it is taken back.

use std::sync::Arc;

use super::{
    options::no_store,
    refusal::{Refusal, RefusalKind},
    scopes,
};
use crate::{
    auth::Caller,
    config::{Backend, Config},
    push::{Address, NameRule, Target},
    store::{DeviceKey, Store, StoreError, StreamInfo},
    telemetry::Metrics,
};

/// Tells of streams, and deletes what is in them; a cheap clone.
#[derive(Clone)]
pub(crate) struct Streams {
    store: Option<Store>,
    queue: Backend,
    node: Arc<str>,
    name: NameRule,
    metrics: Arc<Metrics>,
}

impl Streams {
    /// Of this node's store, if it has one.
    pub(crate) fn new(config: &Config, store: Option<Store>, metrics: &Arc<Metrics>) -> Self {
        let name = NameRule { max: config.push.max_name };
        let node = config.node.id.as_str().into();
        Self { store, queue: config.queue.backend, node, name, metrics: Arc::clone(metrics) }
    }

    /// The node whose store it is.
    pub(crate) fn node(&self) -> &str {
        &self.node
    }

    /// What is known of a stream.
    ///
    /// # Errors
    /// There is none, the caller may not push to its address, or the node has no store.
    pub(crate) async fn describe(&self, caller: &Caller, address: &Address) -> Result<StreamInfo, Refusal> {
        let store = self.admit(caller, address)?;
        store.describe(address).await.map_err(not_done)?.ok_or_else(|| no_stream(address))
    }

    /// Takes one stored push back: who has not got it yet does not get it.
    ///
    /// # Errors
    /// As [`Streams::describe`], or it is not there, or the store is away.
    pub(crate) async fn delete_entry(&self, caller: &Caller, address: &Address, seq: u64) -> Result<(), Refusal> {
        let store = self.admit(caller, address)?;
        let name = shown(address);
        let deleted = store.delete_entry(address, seq).await.map_err(not_done)?;
        found(deleted, || format!("the stream of {name} has no push {seq}, or not any more"))
    }

    /// Deletes a stream and what is known of its readers; a later push begins a new epoch.
    ///
    /// # Errors
    /// As [`Streams::delete_entry`].
    pub(crate) async fn delete_stream(&self, caller: &Caller, address: &Address) -> Result<(), Refusal> {
        let store = self.admit(caller, address)?;
        let deleted = store.delete_stream(address).await.map_err(not_done)?;
        if deleted { Ok(()) } else { Err(no_stream(address)) }
    }

    /// Forgets a device of a card: should it come again, it is new.
    ///
    /// # Errors
    /// As [`Streams::delete_entry`].
    pub(crate) async fn forget_device(&self, caller: &Caller, card: &Address, device: &str) -> Result<(), Refusal> {
        self.name.check(&device.into()).map_err(|error| Refusal::field("device", error))?;
        let store = self.admit(caller, card)?;
        let forgotten = store.forget_device(card.name(), DeviceKey::Declared(device)).await.map_err(not_done)?;
        found(forgotten, || format!("{} has no device {device:?}", shown(card)))
    }

    /// The store, for a caller who may push to the address without naming an app.
    fn admit(&self, caller: &Caller, address: &Address) -> Result<&Store, Refusal> {
        let (field, name) = match address {
            Address::Room(room) => ("room", room),
            Address::Card(card) => ("card", card),
        };
        self.name.check(name).map_err(|error| Refusal::field(field, error))?;
        if caller.is_bounded() {
            let target = match address {
                Address::Room(room) => Target { room: Some(room.clone()), ..Target::default() },
                Address::Card(card) => Target::cards(vec![card.clone()]),
            };
            caller.admits(&target).map_err(|out| {
                let refusal = Refusal::not_admitted(caller, &out);
                scopes::count(&self.metrics, caller.name(), &refusal);
                refusal
            })?;
        }
        self.store.as_ref().ok_or_else(|| no_store("a stream", self.queue))
    }
}

/// The store could not do it, or not surely.
fn not_done(error: StoreError) -> Refusal {
    let kind = Refusal::from(error.clone()).kind;
    Refusal::new(kind, format!("{error}; try again later"))
}

fn found(is_there: bool, message: impl FnOnce() -> String) -> Result<(), Refusal> {
    if is_there { Ok(()) } else { Err(Refusal::new(RefusalKind::NotFound, message())) }
}

fn no_stream(address: &Address) -> Refusal {
    let message = format!("{} has no stream: nothing was stored for it, or it was deleted", shown(address));
    Refusal::new(RefusalKind::NotFound, message)
}

fn shown(address: &Address) -> String {
    match address {
        Address::Card(card) => format!("the card {:?}", &**card),
        Address::Room(room) => format!("the room {:?}", &**room),
    }
}
