//! One client: what it says is read, what it is told is written, until it ends.

use std::{
    borrow::Cow,
    future::Future,
    io,
    net::Shutdown,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::BytesMut;
use bytestring::ByteString;
use socket2::SockRef;
use tokio::net::TcpStream;

use super::{gate::Admitted, heartbeat::Pulse, worker::Worker};
use crate::{
    hub::{Client, Flush, Sink},
    push::NameError,
    telemetry::labels::{ClientErrorLabels, CloseLabels, PeerClose},
    wire::{
        close::{Close, Ending},
        dialect::{ClientError, Command, Dialect},
        frame::{Frame, Message, Reader},
    },
};

/// Reads in one turn of a task; a peer that floods gives way to others then.
const READS: u32 = 8;

/// A client's socket, as its shard writes to it.
pub(super) struct Socket {
    tcp: TcpStream,
    pub(super) pulse: Pulse,
}

impl Socket {
    pub(super) fn new(tcp: TcpStream) -> Self {
        Self { tcp, pulse: Pulse::default() }
    }
}

impl Sink for Socket {
    /// Past the runtime, whose readiness stands in cache lines of its own; it hears only of a socket that is full.
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match SockRef::from(&self.tcp).send(bytes) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.tcp.try_write(bytes),
            sent => sent,
        }
    }
}

/// The task of one client. A plain future without `async`, so that it is small: an idle client costs little more than this.
pub(super) struct Connection {
    worker: Rc<Worker>,
    client: Rc<Client<Socket>>,
    reader: Reader,
    /// Bytes of a message that is not whole yet; owns no memory otherwise.
    buffer: BytesMut,
    rate: Rate,
    phase: Phase,
    /// Nothing it says counts any more.
    deaf: bool,
    /// The peer's close frame came: before ours, or in answer to it.
    heard_close: bool,
    _admitted: Admitted,
}

/// How far it is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Bytes that came with the handshake wait to be heard.
    Early,
    Open,
    /// A close frame is on its way, ours or an echo.
    Closing,
    /// Our side of the socket is shut: the peer's end is awaited.
    Shut,
}

/// Messages of the second that runs.
#[derive(Default)]
struct Rate {
    second: u32,
    messages: u32,
}

impl Connection {
    pub(super) fn new(worker: &Rc<Worker>, client: Rc<Client<Socket>>, admitted: Admitted, early: &[u8]) -> Self {
        Self {
            worker: Rc::clone(worker),
            client,
            reader: Reader::new(worker.house.config.max_message),
            buffer: early.into(),
            rate: Rate::default(),
            phase: Phase::Early,
            deaf: false,
            heard_close: false,
            _admitted: admitted,
        }
    }

    /// Reads once; `Ready`: whether to go on.
    fn read(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        if ready!(self.client.sink.tcp.poll_read_ready(cx)).is_err() {
            return Poll::Ready(false);
        }
        let worker = Rc::clone(&self.worker);
        let mut scratch = worker.scratch.borrow_mut();
        match self.client.sink.tcp.try_read(&mut scratch) {
            Ok(0) => return Poll::Ready(false),
            Ok(read) => {
                worker.heartbeat.heard(&self.client);
                if !self.deaf {
                    self.buffer.extend_from_slice(&scratch[..read]);
                    drop(scratch);
                    self.listen();
                }
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(_) => return Poll::Ready(false),
        }
        Poll::Ready(true)
    }

    /// Takes whole messages out of the buffer.
    fn listen(&mut self) {
        while !self.deaf {
            match self.reader.next(&mut self.buffer) {
                Ok(Some(message)) => {
                    if !self.reader.is_amid_message() {
                        self.worker.heartbeat.whole(&self.client);
                    }
                    self.hear(message);
                }
                Ok(None) => break,
                Err(ending) => {
                    self.deaf = true;
                    self.end(&ending);
                }
            }
        }
        // what is left is short against the buffer it stands in: give that back
        self.buffer = match self.deaf || self.buffer.is_empty() {
            true => BytesMut::new(),
            false if self.buffer.len() < 1024 => self.buffer.as_ref().into(),
            false => std::mem::take(&mut self.buffer),
        };
        match self.reader.is_amid_message() || !self.buffer.is_empty() {
            true => self.worker.heartbeat.begun(&self.client),
            false => self.worker.heartbeat.whole(&self.client),
        }
    }

    fn hear(&mut self, message: Message) {
        if let Message::Close(code, _) = message {
            return self.echo(code);
        }
        if self.client.is_ending() {
            return;
        }
        let limit = self.worker.house.config.max_messages_per_second;
        if !self.rate.admits(self.worker.elapsed().as_secs() as u32, limit) {
            let text = Cow::Owned(format!("too many messages; at most {limit} a second"));
            return self.end(&Ending { close: Close::BadMessage, text });
        }
        match message {
            Message::Text(text) => self.obey(&text),
            Message::Binary(_) => self.end(&Close::Unsupported.into()),
            Message::Ping(payload) => self.answer(Frame::pong(&payload)),
            Message::Pong(_) | Message::Close(..) => {}
        }
    }

    fn obey(&mut self, text: &ByteString) {
        let dialect = self.client.dialect();
        match dialect.parse(text) {
            Command::Join { card, app } => self.join(dialect, &card, &app),
            Command::Leave => self.leave(dialect),
            Command::Ping => self.answer(dialect.pong()),
            Command::Nothing => {}
            Command::ClientError(error) => self.correct(dialect, &error),
            Command::End(ending) => self.end(&ending),
        }
    }

    fn join(&mut self, dialect: Dialect, card: &ByteString, app: &ByteString) {
        let name = self.worker.house.name;
        let checked = name.check(card).map_err(|error| bad_name("card_id", &error));
        let checked = checked.and_then(|()| name.check_optional(app).map_err(|error| bad_name("app_id", &error)));
        match checked {
            Err(error) => self.correct(dialect, &error),
            Ok(()) => {
                self.worker.shard.join(&self.client, card, app);
                self.client.sink.pulse.joined();
                self.worker.house.metrics.joins.inc();
                self.answer(dialect.joined(card, app));
            }
        }
    }

    fn leave(&mut self, dialect: Dialect) {
        if !self.worker.shard.leave(&self.client) {
            let message = Cow::Borrowed("leave needs a join before it");
            return self.correct(dialect, &ClientError { code: "not_joined", message });
        }
        if let Some(frame) = dialect.left() {
            self.answer(frame);
        }
    }

    fn correct(&mut self, dialect: Dialect, error: &ClientError) {
        self.worker.house.metrics.client_errors.get_or_create(&ClientErrorLabels { error: error.code }).inc();
        match dialect.error(error) {
            Ok(frame) => self.answer(frame),
            Err(ending) => self.end(&ending),
        }
    }

    fn answer(&self, frame: Frame) {
        self.worker.shard.answer(&self.client, frame);
    }

    fn end(&self, ending: &Ending) {
        self.worker.shard.end(&self.client, ending);
    }

    /// Answers the peer's close with its own code, unless it answers ours.
    fn echo(&mut self, code: Option<u16>) {
        (self.deaf, self.heard_close) = (true, true);
        self.worker.shard.end_with(&self.client, Frame::close_answer(code), peers_close(code).word());
    }

    /// Writes what waits; `true`: the peer is gone.
    fn write(&self, cx: &mut Context<'_>) -> bool {
        while !self.client.is_drained() {
            if self.client.is_blocked() {
                match self.client.sink.tcp.poll_write_ready(cx) {
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
        let socket = SockRef::from(&self.client.sink.tcp);
        if self.client.sink.pulse.is_cut() {
            // a peer that takes nothing must not hold the kernel's memory either; but what the kernel has whole, it goes on
            // to send for `user_timeout`
            if self.phase != Phase::Shut {
                let _ = socket.set_linger(Some(Duration::ZERO));
            }
            return true;
        }
        if self.phase == Phase::Open {
            self.phase = Phase::Closing;
            self.worker.shard.leave(&self.client);
            self.worker.heartbeat.ending(&self.client);
        }
        if self.phase == Phase::Closing && self.client.is_drained() {
            self.phase = Phase::Shut;
            if socket.shutdown(Shutdown::Write).is_err() {
                return true;
            }
        }
        self.phase == Phase::Shut && self.heard_close
    }
}

impl Future for Connection {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        this.client.watch(cx.waker());
        if this.phase == Phase::Early {
            this.phase = Phase::Open;
            this.listen();
        }
        for _ in 0..READS {
            if this.client.is_lost() || this.write(cx) || (this.client.is_ending() && this.close()) {
                return Poll::Ready(());
            }
            if !ready!(this.read(cx)) {
                return Poll::Ready(());
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.worker.shard.close(&self.client);
        self.worker.house.metrics.closes.get_or_create(&CloseLabels { code: self.client.label() }).inc();
    }
}

impl Rate {
    /// Counts a message in `second`; `false`: one too many.
    fn admits(&mut self, second: u32, limit: u32) -> bool {
        if self.second != second {
            *self = Self { second, messages: 0 };
        }
        self.messages += 1;
        self.messages <= limit
    }
}

fn bad_name(field: &str, error: &NameError) -> ClientError {
    ClientError { code: "bad_name", message: Cow::Owned(format!("{field} {error}")) }
}

/// The label for a close that the peer began.
fn peers_close(code: Option<u16>) -> PeerClose {
    match code {
        None => PeerClose::NoCode,
        Some(1000) => PeerClose::Normal,
        Some(1001) => PeerClose::GoingAway,
        Some(_) => PeerClose::Other,
    }
}
