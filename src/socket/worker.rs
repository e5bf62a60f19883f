//! A worker thread's side of the house: its shard, its wheel, its part of a drain.

use std::{
    cell::RefCell,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use socket2::SockRef;
use tokio::net::TcpStream;

use super::{
    House,
    connection::{Connection, Socket},
    gate::Admitted,
    heartbeat::Heartbeat,
};
use crate::{
    hub::Shard,
    wire::{dialect::Dialect, frame::Frame},
};

/// Bytes that one read takes from a socket at most.
const READ: usize = 16 * 1024;

/// What the connections of one thread share.
pub(super) struct Worker {
    pub(super) house: Arc<House>,
    pub(super) shard: Rc<Shard<Socket>>,
    pub(super) heartbeat: Heartbeat,
    /// Where reads land first: a connection owns a buffer only while a message is incomplete.
    pub(super) scratch: RefCell<Box<[u8]>>,
    started: Instant,
}

impl Worker {
    /// Brings the next shard of the hub to life on this thread. `None`: there is none left, because a worker died and the
    /// process is about to end.
    pub(super) fn start(house: &Arc<House>) -> Option<Rc<Self>> {
        let seat = house.hub.seat()?;
        let lifeline = house.lifelines().get_mut(seat.index()).and_then(Option::take);
        let (shard, inbox) = seat.open();
        let worker = Rc::new(Self {
            heartbeat: Heartbeat::new(&house.config),
            house: Arc::clone(house),
            shard,
            scratch: RefCell::new(vec![0; READ].into()),
            started: Instant::now(),
        });
        // owned by the thread: both end with its runtime
        let this = Rc::clone(&worker);
        actix_rt::spawn(async move {
            let _lifeline = lifeline;
            let period = this.heartbeat.period;
            this.shard.run(inbox, period, |shard| this.heartbeat.tick(shard)).await;
        });
        actix_rt::spawn(super::drain::obey(Rc::clone(&worker)));
        Some(worker)
    }

    /// A connection whose handshake `answer` has not left yet and that sent `early` bytes behind it already.
    pub(super) fn connect(
        self: &Rc<Self>,
        io: TcpStream,
        dialect: Dialect,
        admitted: Admitted,
        answer: Bytes,
        early: &BytesMut,
    ) {
        let socket = SockRef::from(&io);
        // a peer that vanished meanwhile is found by the first read
        let set = socket.set_tcp_nodelay(true).and(socket.set_tcp_user_timeout(Some(self.house.config.user_timeout)));
        if let Err(error) = set {
            tracing::debug!(%error, "a client's socket takes no options");
        }
        let member = self.shard.open(Socket::new(io), dialect);
        self.heartbeat.start(&member);
        self.house.metrics.connects.get_or_create(&[("dialect", dialect.label())]).inc();
        self.shard.answer(&member, Frame::from_encoded(answer));
        actix_rt::spawn(Connection::new(self, member, admitted, early));
    }

    /// Since the worker started.
    pub(super) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }
}
