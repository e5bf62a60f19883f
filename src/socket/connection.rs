//! One client: what it says is read, what it is told is written, until it ends.

mod commands;
mod pending;
mod rates;
mod rooms;
mod steps;
mod stream_place;
mod streams;
mod upstream;

use std::{
    future::Future,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::BytesMut;

use super::{client_socket::ClientSocket, limit::Permit, session::Session, stream::Stream, worker::Worker};
use crate::{
    bucket::Bucket,
    events::EventKind,
    hub::{Client, Flush},
    telemetry::labels::{CloseLabels, ConnectLabels},
    wire::{dialect::Dialect, frame::FrameReader},
};

use pending::PendingAnswers;
use rates::ControlFrames;
use steps::NextStep;

/// Reads in one turn of a task; a peer that floods gives way to others then.
const READS_PER_TURN: u32 = 8;

/// The task of one client. A plain future without `async`, so that it is small: an idle client costs little more than this.
pub(super) struct Connection {
    worker: Rc<Worker>,
    client: Rc<Client<ClientSocket>>,
    reader: FrameReader,
    /// Bytes of a message that is not whole yet; owns no memory otherwise.
    buffer: BytesMut,
    messages: Bucket,
    control_frames: ControlFrames,
    /// What it waits for; there only while there is something.
    pending: Option<Box<PendingAnswers>>,
    state: ConnectionState,
    /// Nothing it says counts any more.
    ignores_input: bool,
    /// The peer's close frame came: before ours, or in answer to it.
    peer_closed: bool,
    /// It answered one: its Pongs say what it has of its streams.
    answers_pings: bool,
    _permit: Permit,
}

/// How far it is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ConnectionState {
    /// Bytes that came with the handshake wait to be read.
    Early,
    Open,
    /// A close frame is on its way, ours or an echo.
    Closing,
    /// Our side of the socket is shut: the peer's end is awaited.
    Shut,
}

impl Connection {
    /// Starts a client whose handshake is done and that sent `early` bytes behind it already, on its worker's thread.
    pub(super) fn start(
        worker: &Rc<Worker>,
        stream: Stream,
        session: Option<Box<Session>>,
        dialect: Dialect,
        permit: Permit,
        early: &[u8],
    ) {
        let client = worker.shard.open(ClientSocket::new(stream, session), dialect);
        if !dialect.needs_card() && worker.authorizer.lets_in_without_card() {
            client.let_in_without_card();
        }
        worker.heartbeat.start(&client);
        worker.metrics.connects.get_or_create(&ConnectLabels { dialect: dialect.label() }).inc();
        if let Some(greeting) = dialect.greeting() {
            worker.shard.answer(&client, greeting);
        }
        if worker.draining.get() {
            worker.opened_while_draining.notify_one();
        }
        actix_rt::spawn(Self {
            worker: Rc::clone(worker),
            client,
            reader: FrameReader::new(dialect.max_message(worker.max_message)),
            buffer: early.into(),
            messages: Bucket::default(),
            control_frames: ControlFrames::default(),
            pending: None,
            state: ConnectionState::Early,
            ignores_input: false,
            peer_closed: false,
            answers_pings: false,
            _permit: permit,
        });
    }

    /// Reads what came with the handshake, behind what the handshake itself proves.
    fn begin(&mut self) {
        self.tell(EventKind::Connected, None, None);
        if self.client.dialect().logs_in_by_handshake() {
            self.log_in_by_handshake();
        }
        self.read_messages();
    }

    /// Reads once; `Ready`: whether to go on.
    fn read(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        let stream = &self.client.sink.stream;
        if ready!(stream.poll_read_ready(cx)).is_err() {
            return Poll::Ready(false);
        }
        let worker = Rc::clone(&self.worker);
        let mut scratch = worker.scratch.borrow_mut();
        match stream.try_read(&mut scratch) {
            Ok(0) => return Poll::Ready(false),
            Ok(read) => {
                worker.heartbeat.bytes_read(&self.client);
                if !self.ignores_input {
                    self.buffer.extend_from_slice(&scratch[..read]);
                    drop(scratch);
                    self.read_messages();
                }
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(_) => return Poll::Ready(false),
        }
        Poll::Ready(true)
    }

    /// Takes whole messages out of the buffer, up to one that has to wait.
    fn read_messages(&mut self) {
        while !self.ignores_input && !self.waits_for_step() {
            match self.reader.next(&mut self.buffer) {
                Ok(Some(message)) => {
                    if !self.reader.is_amid_message() {
                        self.worker.heartbeat.no_message_incomplete(&self.client);
                    }
                    self.handle(message);
                }
                Ok(None) => break,
                Err(ending) => {
                    self.ignores_input = true;
                    self.end(&ending);
                }
            }
        }
        // what is left is short against the buffer it stands in: give that back
        if self.ignores_input || self.buffer.is_empty() {
            self.buffer = BytesMut::new();
        } else if self.buffer.len() < 1024 {
            self.buffer = self.buffer.as_ref().into();
        }
        let is_incomplete = self.reader.is_amid_message() || !self.buffer.is_empty();
        // behind one that waits there may be whole messages
        if is_incomplete && !self.waits_for_step() {
            self.worker.heartbeat.message_began(&self.client);
        } else {
            self.worker.heartbeat.no_message_incomplete(&self.client);
        }
    }

    /// Goes on with a message that waits, and drops it where the connection ends first; `Ready`: whether to go on.
    fn poll_step(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        if !self.client.is_ending() {
            let step = ready!(self.poll_next_step(cx));
            self.forget_step();
            match step {
                Some(NextStep::Decided(decision)) => self.do_decided(decision),
                Some(NextStep::EnterCard(entry, attached)) => self.enter_card_later(entry, attached),
                Some(NextStep::EnterRoom(entry, attached)) => self.enter_room_later(entry, attached),
                None => return Poll::Ready(false),
            }
            // it may have to wait once more
            if self.waits_for_step() {
                return self.poll_step(cx);
            }
        }
        self.forget_step();
        self.read_messages();
        Poll::Ready(true)
    }

    /// Writes what waits; `true`: the peer is gone.
    fn write(&self, cx: &mut Context<'_>) -> bool {
        while !self.client.is_drained() {
            if self.client.is_blocked() {
                match self.client.sink.stream.poll_write_ready(cx) {
                    Poll::Pending => return false,
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(_)) => return true,
                }
            }
            if self.worker.shard.flush(&self.client) == Flush::Gone {
                return true;
            }
        }
        false
    }

    /// Goes on with its end; `true`: it is over.
    fn close(&mut self) -> bool {
        let socket = &self.client.sink;
        if socket.liveness.cut.get() {
            // a peer that takes nothing must not hold the kernel's memory either; but what the kernel has whole, it goes on
            // to send for `user_timeout`
            if self.state != ConnectionState::Shut {
                socket.stream.discard_unsent();
            }
            return true;
        }
        if self.state == ConnectionState::Open {
            self.state = ConnectionState::Closing;
            self.tell_end();
            self.worker.shard.leave_all(&self.client);
            self.worker.heartbeat.close_began(&self.client);
        }
        if self.state == ConnectionState::Closing && self.client.is_drained() {
            self.state = ConnectionState::Shut;
            if socket.stream.shutdown_write().is_err() {
                return true;
            }
        }
        self.state == ConnectionState::Shut && self.peer_closed
    }
}

impl Future for Connection {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        this.client.watch(cx.waker());
        if this.state == ConnectionState::Early {
            this.state = ConnectionState::Open;
            this.begin();
        }
        for _ in 0..READS_PER_TURN {
            if this.pending.is_some() {
                this.tell_answers(cx);
            }
            if this.client.is_lost() || this.write(cx) || (this.client.is_ending() && this.close()) {
                return Poll::Ready(());
            }
            let goes_on = if this.waits_for_step() { this.poll_step(cx) } else { this.read(cx) };
            if !ready!(goes_on) {
                return Poll::Ready(());
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // else it was told as the close began
        if matches!(self.state, ConnectionState::Early | ConnectionState::Open) {
            self.tell_end();
        }
        self.worker.shard.close(&self.client);
        self.worker.metrics.closes.get_or_create(&CloseLabels { code: self.client.label() }).inc();
    }
}
