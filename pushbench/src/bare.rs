//! The bare epoll server: what a push server costs when it does nothing but send(2).
//!
//! It speaks just enough of WebSocket, of gopusher's and oxipush's joins and rooms and of POST /push for pushbench itself: one
//! thread, one epoll, one send for each delivery. Pushes that arrive together (pipelined, to the same cards) leave
//! together, the limit of coalescing; or, with `--single`, still one by one: never idle, it is a bare send(2) loop.

use std::{
    collections::HashMap,
    io::{self, ErrorKind, Read, Write},
    thread,
};

use mio::{
    Events, Interest, Poll, Token, Waker,
    net::{TcpListener, TcpStream},
};
use socket2::{Domain, Protocol, Socket, Type};

use crate::{Result, cli::Bare, frame, http, profile::Profile};

const LISTENER: Token = Token(usize::MAX);
const STOP: Token = Token(usize::MAX - 1);

/// Bytes that may wait for one connection; one that reads less is closed.
const MAX_WAITING: usize = 4 << 20;

/// Said on standard output once it listens, followed by the address.
pub(crate) const LISTENING: &str = "listening on ";

struct Client {
    stream: TcpStream,
    read: Vec<u8>,
    /// What the kernel did not take.
    waiting: Vec<u8>,
    upgraded: bool,
    /// Its cards and rooms, whose names differ.
    groups: Vec<Vec<u8>>,
}

struct Server {
    profile: Profile,
    single: bool,
    poll: Poll,
    clients: Vec<Option<Client>>,
    free: Vec<usize>,
    groups: HashMap<Vec<u8>, Vec<usize>>,
    buffer: Vec<u8>,
}

pub(crate) fn run(args: &Bare) -> Result<bool> {
    crate::files::ensure(1)?;
    let socket = Socket::new(Domain::for_address(args.listen), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&args.listen.into())?;
    socket.listen(4096)?;
    let mut listener = TcpListener::from_std(socket.into());
    let poll = Poll::new()?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    println!("{LISTENING}{}", listener.local_addr()?);
    // whoever started it may be killed: its end of the pipe closes then
    let waker = Waker::new(poll.registry(), STOP)?;
    thread::Builder::new().name("stdin".into()).spawn(move || {
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        waker.wake()
    })?;
    let mut server = Server {
        profile: args.profile,
        single: args.single,
        poll,
        clients: Vec::new(),
        free: Vec::new(),
        groups: HashMap::new(),
        buffer: vec![0; 256 * 1024],
    };
    let mut events = Events::with_capacity(1024);
    loop {
        match server.poll.poll(&mut events, None) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            other => other?,
        }
        for event in &events {
            match event.token() {
                STOP => return Ok(true),
                LISTENER => server.accept(&listener),
                Token(id) => server.serve(id),
            }
        }
    }
}

impl Server {
    fn accept(&mut self, listener: &TcpListener) {
        while let Ok((mut stream, _)) = listener.accept() {
            let id = self.free.pop().unwrap_or_else(|| {
                self.clients.push(None);
                self.clients.len() - 1
            });
            let interest = Interest::READABLE | Interest::WRITABLE;
            if stream.set_nodelay(true).is_err()
                || self.poll.registry().register(&mut stream, Token(id), interest).is_err()
            {
                self.free.push(id);
                continue;
            }
            let client = Client { stream, read: Vec::new(), waiting: Vec::new(), upgraded: false, groups: Vec::new() };
            self.clients[id] = Some(client);
        }
    }

    fn serve(&mut self, id: usize) {
        if let Some(client) = self.clients.get_mut(id).and_then(Option::as_mut)
            && !client.waiting.is_empty()
            && client.flush().is_err()
        {
            return self.close(id);
        }
        loop {
            let Some(client) = self.clients.get_mut(id).and_then(Option::as_mut) else { return };
            match client.stream.read(&mut self.buffer) {
                Ok(0) => return self.close(id),
                Ok(count) => {
                    client.read.extend_from_slice(&self.buffer[..count]);
                    let more = count == self.buffer.len();
                    if self.take(id).is_err() {
                        return self.close(id);
                    }
                    if !more {
                        return;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => return self.close(id),
            }
        }
    }

    fn take(&mut self, id: usize) -> io::Result<()> {
        let Some(client) = self.clients[id].as_mut() else { return Ok(()) };
        if client.upgraded {
            return self.frames(id);
        }
        let mut read = std::mem::take(&mut client.read);
        let (mut at, mut answers) = (0, Vec::new());
        let mut frames = Frames::default();
        while let Some(message) = http::first(&read[at..]) {
            at += message.len;
            if message.line.starts_with("GET ") {
                self.upgrade(id)?;
                break;
            }
            let to = field(message.body, b"\"to\":[", b']').or_else(|| field(message.body, b"\"room\":", b','));
            let (Some(to), Some(content)) = (to, field(message.body, b"\"content\":\"", b'"')) else {
                answers.extend_from_slice(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
                continue;
            };
            if self.single || frames.to != to {
                self.fan_out(&frames);
                frames = Frames { to: to.to_vec(), bytes: Vec::new() };
            }
            let (before, after) = self.profile.wrapping();
            let payload = [before.as_bytes(), content, after.as_bytes()].concat();
            frame::write(frame::opcode::TEXT, &payload, &mut frames.bytes);
            answers.extend_from_slice(
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 25\r\n\r\n{\"code\":0,\"message\":\"ok\"}",
            );
        }
        self.fan_out(&frames);
        read.drain(..at);
        let Some(client) = self.clients[id].as_mut() else { return Ok(()) };
        client.read = read;
        client.send(&answers)
    }

    /// The bare loop: one send for each connection of each card, or of the room.
    fn fan_out(&mut self, frames: &Frames) {
        let mut broken = Vec::new();
        for name in frames.to.split(|&byte| byte == b',').map(|name| name.trim_ascii()) {
            let Some(name) = name.strip_prefix(b"\"").and_then(|name| name.strip_suffix(b"\"")) else { continue };
            for &id in self.groups.get(name).map_or(&[][..], Vec::as_slice) {
                if let Some(client) = &mut self.clients[id]
                    && client.send(&frames.bytes).is_err()
                {
                    broken.push(id);
                }
            }
        }
        broken.into_iter().for_each(|id| self.close(id));
    }

    fn upgrade(&mut self, id: usize) -> io::Result<()> {
        let Some(client) = self.clients[id].as_mut() else { return Ok(()) };
        client.upgraded = true;
        let protocol = self.profile.subprotocol().map(|name| format!("Sec-WebSocket-Protocol: {name}\r\n"));
        let answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {}\r\n{}\r\n",
            frame::ACCEPT,
            protocol.unwrap_or_default()
        );
        client.send(answer.as_bytes())
    }

    fn frames(&mut self, id: usize) -> io::Result<()> {
        loop {
            let Some(client) = self.clients[id].as_mut() else { return Ok(()) };
            let Some((opcode, payload, len)) = frame::first_masked(&client.read) else { return Ok(()) };
            client.read.drain(..len);
            if client.read.is_empty() {
                client.read = Vec::new();
            }
            if opcode == frame::opcode::CLOSE {
                return Err(ErrorKind::ConnectionAborted.into());
            }
            let card = field(&payload, b"\"card_id\":\"", b'"');
            if let Some(name) = card.or_else(|| field(&payload, b"\"room\":\"", b'"')) {
                client.groups.push(name.to_vec());
                let mut answer = Vec::new();
                frame::write(frame::opcode::TEXT, self.profile.joined().as_bytes(), &mut answer);
                client.send(&answer)?;
                self.groups.entry(name.to_vec()).or_default().push(id);
            }
        }
    }

    fn close(&mut self, id: usize) {
        let Some(client) = self.clients[id].take() else { return };
        for name in &client.groups {
            if let Some(ids) = self.groups.get_mut(name) {
                ids.retain(|&other| other != id);
            }
        }
        self.free.push(id);
    }
}

/// Frames that leave together, and the cards as the request listed them, or its room.
#[derive(Default)]
struct Frames {
    to: Vec<u8>,
    bytes: Vec<u8>,
}

impl Client {
    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.waiting.is_empty() {
            match self.stream.write(bytes) {
                Ok(count) if count == bytes.len() => return Ok(()),
                Ok(count) => self.waiting.extend_from_slice(&bytes[count..]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.waiting.extend_from_slice(bytes),
                Err(error) => return Err(error),
            }
        } else if self.waiting.len() + bytes.len() > MAX_WAITING {
            return Err(ErrorKind::OutOfMemory.into());
        } else {
            self.waiting.extend_from_slice(bytes);
        }
        self.flush()
    }

    fn flush(&mut self) -> io::Result<()> {
        let mut written = 0;
        while written < self.waiting.len() {
            match self.stream.write(&self.waiting[written..]) {
                Ok(count) => written += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        self.waiting.drain(..written);
        if self.waiting.is_empty() {
            self.waiting = Vec::new();
        }
        Ok(())
    }
}

/// What stands between `before` and the next `end`.
fn field<'a>(text: &'a [u8], before: &[u8], end: u8) -> Option<&'a [u8]> {
    let from = text.windows(before.len()).position(|window| window == before)? + before.len();
    let rest = &text[from..];
    rest.iter().position(|&byte| byte == end).map(|to| &rest[..to])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_pushbench_s_own_requests_are_found() {
        let body = br#"{"from":"pushbench","to":["a","b"],"appID":"","content":"~pb1"}"#;
        assert_eq!(field(body, b"\"to\":[", b']'), Some(&br#""a","b""#[..]));
        assert_eq!(field(body, b"\"content\":\"", b'"'), Some(&b"~pb1"[..]));
        assert_eq!(field(body, b"\"card_id\":\"", b'"'), None);
    }
}
