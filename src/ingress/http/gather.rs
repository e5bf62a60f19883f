//! Small pieces of a request are gathered. actix parses a head from its beginning each time that something comes, so one that
//! came byte by byte would cost the square of its length.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Sleep,
};

/// A piece of fewer bytes is small.
const SMALL: usize = 1024;
/// Small pieces that are handed on as they come, since the last answer: a request that is written in lines.
const FREE: usize = 16;
/// Those behind them wait this long for more, or until there are `MAX` bytes.
const WAIT: Duration = Duration::from_millis(20);
const MAX: usize = 16 * 1024;

/// A stream of requests that gathers their small pieces.
pub(super) struct GatheredStream<S> {
    stream: S,
    /// Small pieces since the last answer.
    pieces: usize,
    gathered: BytesMut,
    /// When what is gathered is handed on.
    due: Option<Pin<Box<Sleep>>>,
    is_due: bool,
}

impl<S> GatheredStream<S> {
    pub(super) fn new(stream: S) -> Self {
        Self { stream, pieces: 0, gathered: BytesMut::new(), due: None, is_due: false }
    }

    /// Hands on what fits of what is gathered.
    fn hand_on(&mut self, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let bytes = self.gathered.len().min(buffer.remaining());
        buffer.put_slice(&self.gathered[..bytes]);
        self.gathered.advance(bytes);
        self.is_due = !self.gathered.is_empty();
        if !self.is_due {
            self.gathered = BytesMut::new();
            self.due = None;
        }
        Poll::Ready(Ok(()))
    }

    /// Whether a piece that was just read waits for more.
    fn must_wait(&mut self, bytes: usize) -> bool {
        if !self.gathered.is_empty() {
            return true;
        }
        self.pieces += usize::from(bytes < SMALL);
        bytes < SMALL && self.pieces > FREE
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for GatheredStream<S> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while !this.is_due {
            let before = buffer.filled().len();
            match Pin::new(&mut this.stream).poll_read(context, buffer) {
                Poll::Ready(Ok(())) => {
                    let bytes = buffer.filled().len() - before;
                    // the end is read again behind what is gathered
                    let has_ended = bytes == 0;
                    if has_ended && this.gathered.is_empty() || !has_ended && !this.must_wait(bytes) {
                        return Poll::Ready(Ok(()));
                    }
                    this.gathered.extend_from_slice(&buffer.filled()[before..]);
                    buffer.set_filled(before);
                    this.due.get_or_insert_with(|| Box::pin(tokio::time::sleep(WAIT)));
                    this.is_due = has_ended || this.gathered.len() >= MAX;
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    let Some(due) = &mut this.due else { return Poll::Pending };
                    ready!(due.as_mut().poll(context));
                    this.is_due = true;
                }
            }
        }
        this.hand_on(buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for GatheredStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.pieces = 0;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.pieces = 0;
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
        task::JoinHandle,
    };

    use super::*;

    /// Reads to the end and gives the lengths of what was handed on.
    fn reader(stream: DuplexStream) -> JoinHandle<(Vec<usize>, Vec<u8>)> {
        let mut stream = GatheredStream::new(stream);
        tokio::spawn(async move {
            let (mut lengths, mut all) = (Vec::new(), Vec::new());
            let mut buffer = vec![0; 3000];
            loop {
                let bytes = stream.read(&mut buffer).await.unwrap();
                if bytes == 0 {
                    return (lengths, all);
                }
                lengths.push(bytes);
                all.extend_from_slice(&buffer[..bytes]);
            }
        })
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_byte_by_byte_is_handed_on_in_few_pieces_and_whole() {
        let (mut peer, stream) = tokio::io::duplex(1);
        let read = reader(stream);
        let sent: Vec<u8> = (0..30_000_u32).map(|n| n as u8).collect();
        for byte in &sent {
            peer.write_all(&[*byte]).await.unwrap();
        }
        drop(peer);
        let (lengths, all) = read.await.unwrap();
        assert_eq!(all, sent);
        // 16 as they come, then 16 KiB and the rest, each in pieces of the reader's buffer
        assert_eq!(lengths[..FREE], [1; FREE]);
        assert_eq!(lengths.len(), FREE + MAX.div_ceil(3000) + (30_000 - FREE - MAX).div_ceil(3000));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_gathered_is_handed_on_in_time_though_nothing_follows() {
        let (mut peer, stream) = tokio::io::duplex(1);
        let read = reader(stream);
        for n in 0..FREE + 5 {
            peer.write_all(&[n as u8]).await.unwrap();
            tokio::time::sleep(WAIT / 4 * 5).await;
        }
        assert!(!read.is_finished());
        drop(peer);
        let (lengths, _) = read.await.unwrap();
        assert_eq!(lengths, [1; FREE + 5]);
    }

    #[tokio::test(start_paused = true)]
    async fn large_pieces_and_those_behind_an_answer_go_on_at_once() {
        let (mut peer, stream) = tokio::io::duplex(64 * 1024);
        let mut stream = GatheredStream::new(stream);
        let mut buffer = vec![0; 64 * 1024];
        let began = tokio::time::Instant::now();
        for _ in 0..100 {
            peer.write_all(&[0; SMALL]).await.unwrap();
            assert_eq!(stream.read(&mut buffer).await.unwrap(), SMALL);
            for _ in 0..FREE {
                peer.write_all(b"x").await.unwrap();
                assert_eq!(stream.read(&mut buffer).await.unwrap(), 1);
            }
            stream.write_all(b"an answer").await.unwrap();
        }
        assert_eq!(began.elapsed(), Duration::ZERO);
    }
}
