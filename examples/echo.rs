//! A WebSocket echo server on the gateway's own frame reader and writer, for Autobahn's fuzzing client (scripts/autobahn).
//!
//! `cargo run --example echo -- 127.0.0.1:9001`; without an address it takes a free port. It prints where it listens.

use std::{error::Error, io, time::Duration};

use actix_http::ws::hash_key;
use bytes::{Buf, BytesMut};
use oxipush::internals::wire::frame::{Frame, FrameReader, Message};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};

/// Autobahn's largest message.
const MAX_MESSAGE: usize = 16 << 20;
const MAX_HEAD: usize = 8 << 10;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:0".into());
    let listener = TcpListener::bind(address).await?;
    println!("{}", listener.local_addr()?);
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(async move {
            if let Err(error) = serve(stream).await {
                eprintln!("connection ended: {error}");
            }
        });
    }
}

async fn serve(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = BytesMut::new();
    handshake(&mut stream, &mut buffer).await?;
    let mut reader = FrameReader::new(MAX_MESSAGE);
    loop {
        let answer = match reader.next(&mut buffer) {
            Ok(Some(Message::Text(text))) => Frame::text(&text),
            Ok(Some(Message::Binary(bytes))) => Frame::binary(&bytes),
            Ok(Some(Message::Ping(payload))) => Frame::pong(&payload),
            Ok(Some(Message::Pong(_))) => continue,
            Ok(Some(Message::Close(reason))) => {
                let code = reason.map(|reason| reason.code);
                return end(stream, Frame::close_answer(code)).await;
            }
            Ok(None) => {
                if stream.read_buf(&mut buffer).await? == 0 {
                    return Ok(());
                }
                continue;
            }
            Err(ending) => return end(stream, Frame::close(&ending)).await,
        };
        stream.write_all(answer.bytes()).await?;
    }
}

/// Answers the upgrade; what came behind the request's head stays in `buffer`.
async fn handshake(stream: &mut TcpStream, buffer: &mut BytesMut) -> io::Result<()> {
    let end = loop {
        if let Some(at) = buffer.windows(4).position(|four| four == b"\r\n\r\n") {
            break at + 4;
        }
        if buffer.len() > MAX_HEAD || stream.read_buf(buffer).await? == 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "no request's head came"));
        }
    };
    let head = String::from_utf8_lossy(&buffer[..end]).into_owned();
    buffer.advance(end);
    let key = head.lines().filter_map(|line| line.split_once(':')).find_map(|(name, value)| {
        name.eq_ignore_ascii_case("sec-websocket-key").then(|| hash_key(value.trim().as_bytes()))
    });
    let Some(key) = key else {
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await?;
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the request has no Sec-WebSocket-Key"));
    };
    let key = String::from_utf8_lossy(&key);
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {key}\r\n\r\n"
    );
    stream.write_all(answer.as_bytes()).await
}

/// Sends the close frame and waits for the peer to end: a reset would take the frame away from it.
async fn end(mut stream: TcpStream, close: Frame) -> io::Result<()> {
    stream.write_all(close.bytes()).await?;
    stream.shutdown().await?;
    let mut rest = vec![0; 4096];
    let drained = async {
        while stream.read(&mut rest).await? != 0 {}
        io::Result::Ok(())
    };
    timeout(Duration::from_secs(5), drained).await.unwrap_or(Ok(()))
}
