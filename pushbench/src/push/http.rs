//! Pushes over HTTP/1.1: keep-alive connections, one request outstanding on each (or --http-pipeline).

use std::{
    collections::VecDeque,
    io::{ErrorKind, Read, Write},
    net,
    os::fd::AsRawFd,
    sync::Arc,
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use mio::{Events, Interest, Poll, Token, Waker, net::TcpStream, unix::SourceFd};

use super::{Sender, Sent, histogram};
use crate::{
    Result, http,
    layout::Target,
    pace::{Next, Push, Source},
    profile::Requests,
    shared::{Shared, ns},
    timer::Timer,
};

const TIMER: Token = Token(usize::MAX);
const WAKER: Token = Token(usize::MAX - 1);

struct Connection {
    stream: TcpStream,
    /// Written up to `written`.
    out: Vec<u8>,
    written: usize,
    read: Vec<u8>,
    waiting: VecDeque<Push>,
}

struct Http<'a> {
    sender: &'a Sender,
    shared: &'a Arc<Shared>,
    poll: Poll,
    connections: Vec<Connection>,
    /// Places for one more request, by connection.
    free: VecDeque<usize>,
    requests: Requests,
    targets: Vec<Target>,
    content: Vec<u8>,
    latency: Histogram<u64>,
    source: Source,
    buffer: Vec<u8>,
}

pub(super) fn run(sender: &Sender, shared: &Arc<Shared>, source: Source) -> Result<Sent> {
    let poll = Poll::new()?;
    let timer = Timer::new()?;
    poll.registry().register(&mut SourceFd(&timer.as_raw_fd()), TIMER, Interest::READABLE)?;
    let waker = Waker::new(poll.registry(), WAKER)?;
    shared.set_wake(Box::new(move || {
        // it fails only when the poll is gone, and with it whoever waits
        let _ = waker.wake();
    }));
    let mut http = Http {
        sender,
        shared,
        poll,
        connections: Vec::new(),
        free: VecDeque::new(),
        requests: Requests::new(
            sender.profile,
            sender.aim,
            &sender.address.host,
            &sender.address.path,
            sender.key.as_deref(),
        )
        .stored(sender.offline),
        targets: super::targets(shared),
        content: Vec::new(),
        latency: histogram(),
        source,
        buffer: vec![0; 64 * 1024],
    };
    for index in 0..sender.http_connections {
        let connection = http.connect(index)?;
        http.connections.push(connection);
    }
    for _ in 0..sender.http_pipeline {
        http.free.extend(0..sender.http_connections);
    }
    http.send(&timer)?;
    Ok(Sent { latency: http.latency, stalled: http.source.stalled })
}

impl Http<'_> {
    fn connect(&self, index: usize) -> Result<Connection> {
        let stream = net::TcpStream::connect_timeout(&self.sender.address.socket, Duration::from_secs(5))
            .map_err(|error| format!("{}: {error}", self.sender.address.host))?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        let mut stream = TcpStream::from_std(stream);
        self.poll.registry().register(&mut stream, Token(index), Interest::READABLE | Interest::WRITABLE)?;
        Ok(Connection { stream, out: Vec::new(), written: 0, read: Vec::new(), waiting: VecDeque::new() })
    }

    fn send(&mut self, timer: &Timer) -> Result<()> {
        let mut events = Events::with_capacity(1024);
        let mut answered = Instant::now();
        loop {
            let now = self.shared.now();
            let next = self.source.next(now);
            let timeout = match next {
                Next::Push(push) => {
                    self.queue(push)?;
                    continue;
                }
                Next::Done => {
                    self.flush()?;
                    return Ok(());
                }
                Next::At(due) => {
                    timer.set(Duration::from_nanos(due.saturating_sub(now)))?;
                    None
                }
                Next::Acknowledgement => Some(self.source.patience()),
                Next::Deliveries(until) => Some(Duration::from_nanos(until.saturating_sub(now))),
            };
            self.flush()?;
            match self.poll.poll(&mut events, timeout) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                other => other?,
            }
            for event in &events {
                match event.token() {
                    TIMER => timer.clear(),
                    WAKER => {}
                    Token(index) => self.read(index)?,
                }
            }
            if !events.is_empty() {
                answered = Instant::now();
            } else if next == Next::Acknowledgement && answered.elapsed() >= self.source.patience() {
                return self.give_up();
            }
        }
    }

    /// Puts a request into a free connection's buffer; it leaves with [`Http::flush`].
    fn queue(&mut self, push: Push) -> Result<()> {
        let index = self.free.pop_front().ok_or("invariant: the window is as large as the places")?;
        self.content.clear();
        self.sender.content(self.shared, &push, &mut self.content);
        let connection = &mut self.connections[index];
        self.requests.write(&self.targets[push.target as usize], &self.content, &mut connection.out);
        connection.waiting.push_back(push);
        // single requests leave at once; a pipeline's leave together
        if self.sender.http_pipeline == 1 { self.write(index) } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<()> {
        for index in 0..self.connections.len() {
            self.write(index)?;
        }
        Ok(())
    }

    fn write(&mut self, index: usize) -> Result<()> {
        let connection = &mut self.connections[index];
        while connection.written < connection.out.len() {
            match connection.stream.write(&connection.out[connection.written..]) {
                Ok(count) => connection.written += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return self.reconnect(index, &error.to_string()),
            }
        }
        connection.out.clear();
        connection.written = 0;
        Ok(())
    }

    fn read(&mut self, index: usize) -> Result<()> {
        loop {
            let connection = &mut self.connections[index];
            match connection.stream.read(&mut self.buffer) {
                Ok(0) => return self.reconnect(index, "closed by the server"),
                Ok(count) => {
                    connection.read.extend_from_slice(&self.buffer[..count]);
                    if self.answers(index) {
                        return self.reconnect(index, "closed by the server");
                    }
                    if count < self.buffer.len() {
                        return Ok(());
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return self.reconnect(index, &error.to_string()),
            }
        }
    }

    /// Takes the answers that are complete; whether the server ends the connection after them.
    fn answers(&mut self, index: usize) -> bool {
        let now = self.shared.now();
        let connection = &mut self.connections[index];
        let (mut at, mut close) = (0, false);
        while let Some(message) = http::first(&connection.read[at..]) {
            let Some(push) = connection.waiting.pop_front() else {
                self.shared.mishap("an answer that nobody asked for");
                return true;
            };
            // the histogram grows to its bound; later than two minutes is two minutes
            self.latency.saturating_record(now.saturating_sub(push.due));
            if self.sender.profile.accepted(message.status(), message.body) {
                self.shared.accepted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            } else {
                let text = String::from_utf8_lossy(&message.body[..message.body.len().min(120)]).into_owned();
                self.shared.refuse(push.target, push.seq, &format!("push refused: {} {text}", message.line));
            }
            self.source.answered(&push);
            self.free.push_back(index);
            at += message.len;
            close |= message.close;
        }
        connection.read.drain(..at);
        close
    }

    fn reconnect(&mut self, index: usize, why: &str) -> Result<()> {
        for push in std::mem::take(&mut self.connections[index].waiting) {
            self.shared.refuse(push.target, push.seq, &format!("push unanswered: {why}"));
            self.source.answered(&push);
            self.free.push_back(index);
        }
        self.connections[index] = self.connect(index)?;
        Ok(())
    }

    fn give_up(&mut self) -> Result<()> {
        let patience = self.source.patience();
        for connection in &mut self.connections {
            for push in connection.waiting.drain(..) {
                self.shared.refuse(
                    push.target,
                    push.seq,
                    &format!("push unanswered for {} s", ns(patience) / 1_000_000_000),
                );
            }
        }
        Ok(())
    }
}
