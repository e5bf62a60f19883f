//! What clients are told of their streams beside the pushes: where they are, that one begins, or begins anew.

use std::rc::Rc;

use super::{Client, Item, Shard, Sink};
use crate::{
    hub::{
        catch_up::{StreamQuestion, StreamReader},
        streams::{Follower, GroupStream},
    },
    push::{Address, StreamPosition},
    wire::dialect::{Dialect, StreamState},
};

/// Those whose place in the stream is known: of the others the store has still to say where they begin.
fn placed<'a, S: Sink>(
    clients: impl Iterator<Item = &'a Rc<Client<S>>> + Clone,
    stream: &GroupStream,
) -> impl Iterator<Item = &'a Rc<Client<S>>> + Clone {
    clients.filter(|client| !stream.follower(client.key()).is_some_and(Follower::is_unplaced))
}

impl<S: Sink> Shard<S> {
    /// A client has all up to `position`, without a push that says so.
    pub(super) fn tell_level(&self, client: &Rc<Client<S>>, address: &Address, position: StreamPosition) {
        let StreamPosition { epoch, seq, .. } = position;
        if let Some(frame) = client.dialect().stream(&StreamState { address, epoch, seq, waiting: 0 }) {
            self.writer.broadcast(client, &Item::control(&frame));
        }
    }

    /// Clients were there before the stream of their address was: they are told its epoch, of which they have nothing yet.
    pub(super) fn tell_begun<'a>(
        &self,
        clients: impl Iterator<Item = &'a Rc<Client<S>>> + Clone,
        address: &Address,
        stream: &GroupStream,
    ) {
        let clients = placed(clients, stream);
        let state = StreamState { address, epoch: stream.position().epoch, seq: 0, waiting: 0 };
        let mut made: Option<(Dialect, Rc<Item>)> = None;
        for client in clients.clone() {
            let dialect = client.dialect();
            if made.as_ref().is_none_or(|(of, _)| *of != dialect) {
                let Some(frame) = dialect.stream(&state) else { continue };
                made = Some((dialect, Item::control(&frame)));
            }
            if let Some((_, item)) = &made {
                self.writer.broadcast(client, item);
            }
        }
        self.tell_readers(clients, address);
    }

    /// Clients were there before the stream of their card was: the store is to know of them.
    pub(super) fn tell_readers<'a>(&self, clients: impl Iterator<Item = &'a Rc<Client<S>>>, address: &Address) {
        let (Some(catch_up), Address::Card(card)) = (self.registry.catch_up(), address) else { return };
        let mut readers: Vec<StreamReader> = Vec::new();
        for reader in clients.filter_map(|client| client.reader_of(card)) {
            if !readers.contains(&reader) {
                readers.push(reader);
            }
        }
        if !readers.is_empty() {
            catch_up.ask(StreamQuestion::Readers { card: card.clone(), readers });
        }
    }

    /// The stream begins anew under clients.
    pub(super) fn tell_reset<'a>(
        &self,
        clients: impl Iterator<Item = &'a Rc<Client<S>>> + Clone,
        address: &Address,
        stream: &GroupStream,
    ) {
        let clients = placed(clients, stream);
        let StreamPosition { epoch, seq, .. } = stream.position();
        let state = StreamState { address, epoch, seq, waiting: 0 };
        for client in clients.clone() {
            client.outbox.borrow_mut().forget_stream(address);
            if let Some(frame) = client.dialect().reset(&state) {
                self.writer.broadcast(client, &Item::control(&frame));
            }
        }
        // its cursors went with the old one
        self.tell_readers(clients, address);
    }
}
