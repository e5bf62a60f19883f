//! One live connection as its shard sees it.

use std::{
    cell::{Cell, RefCell},
    io,
    net::IpAddr,
    rc::Rc,
    task::Waker,
};

use bytestring::ByteString;

use super::{
    ClientKey, Item, Limits, Outbox, StreamReader,
    membership::{JoinedCard, Memberships},
};
use crate::{
    push::{Address, Filters},
    telemetry::labels::PeerCloseCode,
    wire::dialect::Dialect,
};

/// Where a client's bytes go: a socket, or memory in tests and benchmarks.
pub trait Sink: 'static {
    /// Writes what fits now.
    ///
    /// # Errors
    /// `WouldBlock` when nothing fits; any other error means that the peer is gone.
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize>;

    /// Where the client connects from, as far as that is known.
    fn address(&self) -> Option<IpAddr> {
        None
    }

    /// Whether the client proved to be this subject.
    fn is_subject(&self, _subject: &str) -> bool {
        false
    }

    /// Whether it did so by what was issued in the second `at` (since 1970) or before it, or at a time that nobody knows.
    fn is_subject_of_before(&self, _subject: &str, _at: u64) -> bool {
        false
    }
}

/// Where a flush ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flush {
    /// Nothing waits any more.
    Empty,
    /// The kernel is full: the client's task goes on when the socket is writable.
    Blocked,
    /// The peer is gone.
    Gone,
}

/// How far a client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ClientState {
    Open,
    /// A close frame waits or left.
    Ending,
    /// The socket failed.
    Lost,
}

/// A client, shared by its shard and its own task on the same thread.
pub struct Client<S> {
    /// Its socket and what the socket's owner keeps beside it.
    pub sink: S,
    /// Set once, as it gets its place in the shard.
    pub(super) key: Cell<ClientKey>,
    pub(super) dialect: Dialect,
    pub(super) memberships: RefCell<Memberships>,
    pub(super) outbox: RefCell<Outbox>,
    pub(super) state: Cell<ClientState>,
    /// It stands in the shard's list of those to be written to.
    pub(super) write_scheduled: Cell<bool>,
    /// The kernel was full: its task writes next, the shard does not.
    pub(super) blocked: Cell<bool>,
    /// It takes frames of several pushes, and waits for them (`[rooms] merge_window`).
    merges: Cell<bool>,
    /// In so many streams it is behind its group.
    behind: Cell<u16>,
    /// It may have what is for everyone, and open rooms, without a card.
    needs_no_card: Cell<bool>,
    label: Cell<&'static str>,
    waker: Cell<Option<Waker>>,
}

impl<S> Client<S> {
    pub(super) fn new(sink: S, dialect: Dialect) -> Rc<Self> {
        Rc::new(Self {
            sink,
            key: Cell::default(),
            dialect,
            memberships: RefCell::default(),
            outbox: RefCell::default(),
            state: Cell::new(ClientState::Open),
            write_scheduled: Cell::new(false),
            blocked: Cell::new(false),
            merges: Cell::new(dialect.merges()),
            behind: Cell::new(0),
            needs_no_card: Cell::new(false),
            label: Cell::new(PeerCloseCode::Abnormal.word()),
            waker: Cell::new(None),
        })
    }

    /// Its number in the shard.
    pub fn key(&self) -> ClientKey {
        self.key.get()
    }

    /// How it speaks.
    pub fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// Whether it takes frames of several pushes, and waits for them.
    pub fn merges(&self) -> bool {
        self.merges.get()
    }

    /// From now on it does so, or does not.
    pub(super) fn set_merges(&self, merges: bool) {
        self.merges.set(merges);
    }

    /// In some stream it is behind its group.
    pub(super) fn is_behind(&self) -> bool {
        self.behind.get() > 0
    }

    /// It fell behind in one stream more, or is level in one more.
    pub(super) fn set_behind(&self, is_behind: bool) {
        let behind = self.behind.get();
        self.behind.set(if is_behind { behind.saturating_add(1) } else { behind.saturating_sub(1) });
    }

    /// Its Pongs say what it has of the stream of `address`: it is a card's, and it joined without a device.
    pub(super) fn acks_by_pong(&self, address: &Address) -> bool {
        match address {
            Address::Card(card) => self.memberships.borrow().device(card).is_none(),
            Address::Room(_) => false,
        }
    }

    /// By what the store knows it as a reader of `card`.
    pub(super) fn reader_of(&self, card: &str) -> Option<StreamReader> {
        let memberships = self.memberships.borrow();
        let app = &memberships.joined(card)?.app;
        Some(match memberships.device(card) {
            Some(device) => StreamReader::Device(device.into()),
            None => StreamReader::App((&**app).into()),
        })
    }

    /// What it is a member of.
    pub(super) fn addresses(&self) -> Vec<Address> {
        let memberships = self.memberships.borrow();
        let cards = memberships.cards().map(|card| Address::Card((&**card.name()).into()));
        cards.chain(memberships.rooms().iter().map(|room| Address::Room((&*room.name).into()))).collect()
    }

    /// It joined a card.
    pub fn is_joined(&self) -> bool {
        self.memberships.borrow().card().is_some()
    }

    /// The card that it joined first, of those that it is in, and its app.
    pub fn joined_as(&self) -> Option<(ByteString, ByteString)> {
        let memberships = self.memberships.borrow();
        memberships.card().map(names)
    }

    /// The cards that it joined, each with its app.
    pub fn cards(&self) -> Vec<(ByteString, ByteString)> {
        self.memberships.borrow().cards().map(names).collect()
    }

    /// How many.
    pub fn card_count(&self) -> usize {
        self.memberships.borrow().cards().count()
    }

    /// It joined this card.
    pub fn has_joined(&self, card: &str) -> bool {
        self.memberships.borrow().joined(card).is_some()
    }

    /// The rooms that it subscribed to.
    pub fn rooms(&self) -> Vec<ByteString> {
        self.memberships.borrow().rooms().iter().map(|room| (&*room.name).into()).collect()
    }

    /// How many.
    pub fn room_count(&self) -> usize {
        self.memberships.borrow().rooms().len()
    }

    /// It subscribed to this room.
    pub fn is_in_room(&self, room: &str) -> bool {
        self.memberships.borrow().is_in_room(room)
    }

    /// From now on it may have what is for everyone, and open rooms, without a card.
    pub fn let_in_without_card(&self) {
        self.needs_no_card.set(true);
    }

    /// It joined a card, or needs none: pushes may be for it.
    pub fn is_let_in(&self) -> bool {
        self.needs_no_card.get() || self.is_joined()
    }

    /// A close frame waits or left, or the socket failed.
    pub fn is_ending(&self) -> bool {
        self.state.get() != ClientState::Open
    }

    /// The socket failed.
    pub fn is_lost(&self) -> bool {
        self.state.get() == ClientState::Lost
    }

    /// Under which close code its end is counted; `abnormal` without one.
    pub fn label(&self) -> &'static str {
        self.label.get()
    }

    /// Nothing waits to be written.
    pub fn is_drained(&self) -> bool {
        self.outbox.borrow().is_empty()
    }

    /// The kernel was full at the last flush.
    pub fn is_blocked(&self) -> bool {
        self.blocked.get()
    }

    /// Bytes that wait to be written.
    pub fn waiting(&self) -> usize {
        self.outbox.borrow().bytes()
    }

    /// Wakes `waker` when its task has something to do. Told anew by each poll.
    pub fn watch(&self, waker: &Waker) {
        let known = self.waker.take().filter(|known| known.will_wake(waker));
        self.waker.set(Some(known.unwrap_or_else(|| waker.clone())));
    }

    /// Wakes its task.
    pub fn wake(&self) {
        let waker = self.waker.take();
        if let Some(waker) = &waker {
            waker.wake_by_ref();
        }
        self.waker.set(waker);
    }

    pub(super) fn forget_waker(&self) {
        self.waker.take();
    }

    pub(super) fn lose(&self) {
        if self.state.replace(ClientState::Lost) != ClientState::Lost {
            self.wake();
        }
    }

    /// Whether a push may be for it that is for members of `address`; with a card it is the app of that card that counts.
    pub(super) fn passes(&self, filters: &Filters<'_>, address: Option<&Address>) -> bool {
        let memberships = self.memberships.borrow();
        let is_of = |app: &str| memberships.is_of_app_at(app, address);
        filters.app.is_none_or(is_of)
            && filters.room.is_none_or(|room| memberships.is_in_room(room))
            && filters.exclude.is_none_or(|exclude| exclude.cards.iter().all(|card| memberships.joined(card).is_none()))
    }

    /// It is of this app where pushes to `address` are concerned.
    pub(super) fn is_of_app(&self, app: &str, address: &Address) -> bool {
        self.memberships.borrow().is_of_app_at(app, Some(address))
    }

    /// Lets `last` leave as its last frame; the pushes lost by that, or `None` if it was ending already.
    pub(super) fn end(&self, last: Rc<Item>, label: &'static str, discard: bool, limits: &Limits) -> Option<u64> {
        if self.state.get() != ClientState::Open {
            return None;
        }
        self.state.set(ClientState::Ending);
        self.label.set(label);
        let lost = self.outbox.borrow_mut().end(last, discard, limits);
        self.wake();
        Some(lost)
    }
}

fn names(joined: &JoinedCard) -> (ByteString, ByteString) {
    ((&**joined.name()).into(), (&*joined.app).into())
}
