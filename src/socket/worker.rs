//! A worker thread's side of the house: its shard, its wheel, its part of a drain.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{net::TcpStream, sync::oneshot};

use super::{
    House,
    connection::{Connection, Socket},
    gate::Admitted,
    heartbeat::Heartbeat,
};
use crate::{hub::Shard, telemetry::labels::ConnectLabels, wire::dialect::Dialect};

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

/// Held by each task of a worker: the first that is dropped, by a panic too, ends the worker's supervised task.
#[derive(Clone)]
struct Lifeline(Rc<Cell<Option<oneshot::Sender<()>>>>);

impl Lifeline {
    fn new(line: Option<oneshot::Sender<()>>) -> Self {
        Self(Rc::new(Cell::new(line)))
    }
}

impl Drop for Lifeline {
    fn drop(&mut self) {
        self.0.take();
    }
}

impl Worker {
    /// Brings the next shard of the hub to life on this thread. `None`: there is none left, because a worker died and the
    /// process is about to end.
    pub(super) fn start(house: &Arc<House>) -> Option<Rc<Self>> {
        let claimed = house.hub.claim_shard()?;
        let lifeline = house.lifelines().get_mut(claimed.index()).and_then(Option::take);
        let (shard, inbox) = claimed.open();
        let worker = Rc::new(Self {
            heartbeat: Heartbeat::new(&house.config),
            house: Arc::clone(house),
            shard,
            scratch: RefCell::new(vec![0; READ].into()),
            started: Instant::now(),
        });
        // owned by the thread: both end with its runtime
        let (this, lifeline) = (Rc::clone(&worker), Lifeline::new(lifeline));
        let second = lifeline.clone();
        actix_rt::spawn(async move {
            let _lifeline = lifeline;
            let period = this.heartbeat.period;
            this.shard.run(inbox, period, |shard| this.heartbeat.tick(shard)).await;
        });
        let this = Rc::clone(&worker);
        actix_rt::spawn(async move {
            let _lifeline = second;
            super::drain::obey(this).await;
        });
        Some(worker)
    }

    /// A connection whose handshake is done and that sent `early` bytes behind it already.
    pub(super) fn connect(self: &Rc<Self>, io: TcpStream, dialect: Dialect, admitted: Admitted, early: &[u8]) {
        let client = self.shard.open(Socket::new(io), dialect);
        self.heartbeat.start(&client);
        self.house.metrics.connects.get_or_create(&ConnectLabels { dialect: dialect.label() }).inc();
        actix_rt::spawn(Connection::new(self, client, admitted, early));
    }

    /// Since the worker started.
    pub(super) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        time::timeout,
    };

    use super::*;
    use crate::{
        config,
        hub::Hub,
        lifecycle::Phases,
        socket::Bound,
        telemetry::{
            Metrics,
            labels::{CloseLabels, PeerClose},
        },
    };

    const PATIENCE: Duration = Duration::from_secs(30);

    /// Any text, masked with zeros.
    fn masked(text: &[u8]) -> Vec<u8> {
        [&[0x81, 0x80 | u8::try_from(text.len()).unwrap(), 0, 0, 0, 0], text].concat()
    }

    /// A worker's end of a new connection, and the client's.
    async fn connect(worker: &Rc<Worker>, listener: &tokio::net::TcpListener) -> TcpStream {
        let address = listener.local_addr().unwrap();
        let (client, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        let admitted = worker.house.gate.admit(None).ok().unwrap();
        worker.connect(accepted.unwrap().0, Dialect::Gopusher, admitted, b"");
        client.unwrap()
    }

    async fn join(client: &mut TcpStream) {
        client.write_all(&masked(br#"{"event":"join","data":{"card_id":"alice"}}"#)).await.unwrap();
        let mut answer = [0; 25];
        timeout(PATIENCE, client.read_exact(&mut answer)).await.unwrap().unwrap();
        assert_eq!(&answer[2..], b"{\"type\":1,\"data\":\"ok\"}\n");
    }

    #[tokio::test]
    #[expect(clippy::await_holding_refcell_ref, reason = "the bug that this test needs")]
    async fn a_connection_that_panics_ends_alone() {
        let settings = [("NODE__WORKERS", "1"), ("SOCKET__LISTEN", "127.0.0.1:0")];
        let settings = settings.map(|(key, value)| (format!("OXIPUSH__{key}"), value.to_owned()));
        let config = config::load(None, settings).unwrap();
        let metrics = Arc::new(Metrics::new());
        let hub = Hub::new(&config.hub, &config.outbox, 1, &metrics);
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let bound = Bound::new(listener, &config, hub.clone(), Phases::new(), &metrics);
        let (lifeline, mut gone) = oneshot::channel();
        bound.house.lifelines().push(Some(lifeline));
        let on_this_thread = tokio::task::LocalSet::new();
        on_this_thread
            .run_until(async {
                let worker = Worker::start(&bound.house).unwrap();
                let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
                let (mut lost, mut kept) = (connect(&worker, &listener).await, connect(&worker, &listener).await);
                join(&mut lost).await;
                join(&mut kept).await;
                assert_eq!((hub.connections("alice"), hub.census().connections), (2, 2));

                // what it reads next finds the buffer of the thread in use, as a borrow over an await would leave it
                let held = worker.scratch.borrow_mut();
                lost.write_all(&masked(br#"{"event":"ping"}"#)).await.unwrap();
                let mut rest = Vec::new();
                let _ = timeout(PATIENCE, lost.read_to_end(&mut rest)).await.expect("it is closed");
                assert_eq!(rest, b"");
                drop(held);

                assert_eq!((hub.connections("alice"), hub.census().connections), (1, 1));
                assert_eq!(metrics.closes.get_or_create(&CloseLabels { code: PeerClose::Abnormal.word() }).get(), 1);
                // the worker goes on: for who is there and for who comes
                join(&mut kept).await;
                join(&mut connect(&worker, &listener).await).await;
                assert!(gone.try_recv().is_err_and(|gone| gone == oneshot::error::TryRecvError::Empty));
            })
            .await;
    }

    #[test]
    fn the_first_of_a_workers_tasks_that_ends_is_told() {
        let (line, mut gone) = oneshot::channel();
        let first = Lifeline::new(Some(line));
        let second = first.clone();
        assert_eq!(gone.try_recv(), Err(oneshot::error::TryRecvError::Empty));
        drop(second);
        assert_eq!(gone.try_recv(), Err(oneshot::error::TryRecvError::Closed));
        drop(first);
    }
}
