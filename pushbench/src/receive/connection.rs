//! One client's connection.

use std::io::{self, ErrorKind, Read, Write};

use mio::net::TcpStream;
use socket2::{Domain, Protocol, Socket, Type};

use super::Clients;
use crate::{Result, address::Address, frame, http, ledger::Account, place::Place};

/// How far a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Connecting,
    Upgrading,
    Joining,
    Joined,
    Closed,
}

pub(crate) struct Connection {
    pub(crate) number: u32,
    pub(crate) slow: bool,
    pub(crate) phase: Phase,
    pub(crate) stream: Option<TcpStream>,
    /// The beginning of a frame whose end has not come.
    pub(crate) rest: Vec<u8>,
    out: Vec<u8>,
    pub(crate) account: Account,
    /// In the stream whose pushes it is owed.
    pub(crate) place: Place,
    /// It left and comes back.
    pub(crate) rejoining: bool,
    pub(crate) tries: u8,
    /// Answers that still come before it has all that it joins.
    pub(crate) answers: usize,
    /// When it last sent its own heartbeat.
    pub(crate) beat: u64,
}

impl Connection {
    pub(crate) fn new(number: u32, slow: bool) -> Self {
        Self {
            number,
            slow,
            phase: Phase::Closed,
            stream: None,
            rest: Vec::new(),
            out: Vec::new(),
            account: Account::default(),
            place: Place::default(),
            rejoining: false,
            tries: 0,
            answers: 0,
            beat: 0,
        }
    }

    pub(crate) fn opened(&mut self, stream: TcpStream) {
        self.place = Place::default();
        self.stream = Some(stream);
        self.phase = Phase::Connecting;
        self.rest = Vec::new();
        self.out = Vec::new();
    }

    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.stream {
            Some(stream) => stream.read(buffer),
            None => Err(ErrorKind::NotConnected.into()),
        }
    }

    /// Writes, or keeps for [`Connection::flush`] what the kernel does not take.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.extend_from_slice(bytes);
        self.flush()
    }

    pub(crate) fn flush(&mut self) -> io::Result<()> {
        let Some(stream) = &mut self.stream else { return Ok(()) };
        while !self.out.is_empty() {
            match stream.write(&self.out) {
                Ok(count) => drop(self.out.drain(..count)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        self.out = Vec::new();
        Ok(())
    }
}

/// Begins to connect, from a loopback address of its own where the target is on loopback.
pub(crate) fn connect(address: &Address, number: u32, receive_buffer: Option<usize>) -> Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(address.socket), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    if let Some(bytes) = receive_buffer {
        socket.set_recv_buffer_size(bytes)?;
    }
    if let Some(source) = address.source(number) {
        socket.bind(&source.into())?;
    }
    match socket.connect(&address.socket.into()) {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(nix::errno::Errno::EINPROGRESS as i32) => {}
        Err(error) => return Err(format!("connect to {}: {error}", address.host).into()),
    }
    Ok(TcpStream::from_std(socket.into()))
}

/// The request that asks for a WebSocket.
pub(crate) fn upgrade(clients: &Clients) -> Vec<u8> {
    let protocol = clients
        .profile
        .subprotocol()
        .map(|protocol| format!("Sec-WebSocket-Protocol: {protocol}\r\n"))
        .unwrap_or_default();
    format!(
        "GET {} HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: {}\r\n{protocol}\r\n",
        clients.address.path,
        clients.address.host,
        frame::KEY
    )
    .into_bytes()
}

/// Whether the server switched protocols, and the length of its answer, once all of it is there.
pub(crate) fn upgraded(bytes: &[u8]) -> Option<Result<usize, String>> {
    let end = http::head_end(bytes)?;
    let head = String::from_utf8_lossy(&bytes[..end]);
    let line = head.lines().next().unwrap_or("");
    Some(if line.split(' ').nth(1) != Some("101") {
        Err(format!("handshake refused: {line}"))
    } else if !head.contains(frame::ACCEPT) {
        Err("handshake with a wrong Sec-WebSocket-Accept".into())
    } else {
        Ok(end)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_right_answer_is_an_upgrade() {
        let good = format!("HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: {}\r\n\r\n", frame::ACCEPT);
        assert_eq!(upgraded(good.as_bytes()), Some(Ok(good.len())));
        assert_eq!(upgraded(&good.as_bytes()[..good.len() - 1]), None);
        assert!(upgraded(b"HTTP/1.1 503 Busy\r\n\r\n").is_some_and(|answer| answer.is_err()));
        assert!(upgraded(b"HTTP/1.1 101 Yes\r\nSec-WebSocket-Accept: x\r\n\r\n").is_some_and(|answer| answer.is_err()));
    }
}
