//! HTTP/2 frames by hand (RFC 9113), for what no library sends.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinHandle,
};

use super::support::client::PATIENCE;

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;
pub const PADDED: u8 = 8;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A header block of a gRPC call, without Huffman and without the dynamic table.
pub fn block(path: &str) -> Vec<u8> {
    // :method POST, :scheme http
    let mut block = vec![0x83, 0x86];
    // :path, :authority, content-type, te
    literal(&mut block, &[0x04], path);
    literal(&mut block, &[0x01], "gateway");
    literal(&mut block, &[0x0F, 0x10], "application/grpc");
    block.extend([0x00, 2]);
    block.extend(b"te");
    literal(&mut block, &[], "trailers");
    block
}

/// Adds a header of this name (as HPACK says it) and value.
pub fn literal(block: &mut Vec<u8>, name: &[u8], value: &str) {
    assert!(value.len() < 127);
    block.extend(name);
    block.push(value.len() as u8);
    block.extend(value.as_bytes());
}

/// HEADERS that begin a call and leave its request open.
pub fn call(path: &str, stream: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, &block(path))
}

/// How a connection ended.
#[derive(Debug)]
pub enum Ended {
    /// The gateway closed it; with this code, if it sent GOAWAY with one other than NO_ERROR.
    Closed(Option<u32>),
    /// It took all that was to be sent.
    Open,
}

/// A connection whose frames are written by hand.
pub struct Attacker {
    write: OwnedWriteHalf,
    reads: Reads,
    /// Calls whose answers have begun.
    answers: watch::Receiver<u32>,
}

/// What becomes of what the gateway sends.
enum Reads {
    /// It is read and passed over; gives GOAWAY's code at its end.
    All(JoinHandle<Option<u32>>),
    Nothing(OwnedReadHalf),
}

impl Attacker {
    /// Greets with these settings; reads all that comes.
    pub async fn connect(address: SocketAddr, settings: &[u8]) -> Self {
        let (read, write) = Self::greeted(address, settings).await;
        let (count, answers) = watch::channel(0);
        Self { write, reads: Reads::All(tokio::spawn(read_to_end(read, count))), answers }
    }

    /// As [`Attacker::connect`]; never reads.
    pub async fn deaf(address: SocketAddr, settings: &[u8]) -> Self {
        let (read, write) = Self::greeted(address, settings).await;
        Self { write, reads: Reads::Nothing(read), answers: watch::channel(0).1 }
    }

    async fn greeted(address: SocketAddr, settings: &[u8]) -> (OwnedReadHalf, OwnedWriteHalf) {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (read, mut write) = stream.into_split();
        write.write_all(PREFACE).await.unwrap();
        write.write_all(&frame(SETTINGS, 0, 0, settings)).await.unwrap();
        (read, write)
    }

    /// Sends; false: the gateway takes no more.
    pub async fn send(&mut self, bytes: &[u8]) -> bool {
        let sent = tokio::time::timeout(PATIENCE, self.write.write_all(bytes)).await;
        matches!(sent, Ok(Ok(())))
    }

    /// Sends what `make` makes for 0, 1, 2, …, `many` times at most; gives how often it was taken.
    pub async fn flood(&mut self, many: usize, make: impl Fn(u32) -> Vec<u8>) -> usize {
        // as one write each: some hundred frames
        for first in (0..many).step_by(256) {
            let bytes: Vec<u8> = (first..many.min(first + 256)).flat_map(|n| make(n as u32)).collect();
            if !self.send(&bytes).await {
                return first;
            }
        }
        many
    }

    /// Waits until so many calls that go on were answered, or refused.
    pub async fn answered(&mut self, calls: u32) {
        let answered = self.answers.wait_for(|answers| *answers >= calls);
        tokio::time::timeout(PATIENCE, answered).await.expect("answers within 30 s").expect("it ended");
    }

    /// Waits for the gateway to close it, for as long as `patience`.
    pub async fn ended(self, patience: Duration) -> Ended {
        let Self { write, reads, .. } = self;
        let ended = match reads {
            Reads::All(reading) => tokio::time::timeout(patience, reading).await.map(Result::unwrap),
            Reads::Nothing(read) => tokio::time::timeout(patience, read_to_end(read, watch::channel(0).0)).await,
        };
        drop(write);
        ended.map_or(Ended::Open, Ended::Closed)
    }
}

/// Reads frames until the connection ends; gives the code of its GOAWAY.
async fn read_to_end(mut read: OwnedReadHalf, answers: watch::Sender<u32>) -> Option<u32> {
    let mut code = None;
    let mut header = [0; 9];
    while read.read_exact(&mut header).await.is_ok() {
        let mut payload = vec![0; u32::from_be_bytes([0, header[0], header[1], header[2]]) as usize];
        if read.read_exact(&mut payload).await.is_err() {
            break;
        }
        if header[3] == HEADERS {
            answers.send_modify(|answers| *answers += 1);
        }
        if header[3] == GOAWAY {
            let told = u32::from_be_bytes(payload[4..8].try_into().unwrap());
            code = (told != 0).then_some(told);
        }
    }
    code
}
