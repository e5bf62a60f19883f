//! A stream of requests that is not read more often than a request needs. actix parses a head from its beginning each time that
//! it is woken, so one that came byte by byte would cost the square of its length.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Sleep,
};

/// A read of fewer bytes is small.
const SMALL: usize = 1024;
/// Small reads since the last answer that are followed by the next at once: a request may be written in lines.
const FREE: usize = 16;
/// The pause behind each further one. What comes meanwhile waits in the system's buffer, and is one read then.
const PAUSE: Duration = Duration::from_millis(20);

/// A stream that pauses between small reads.
pub(super) struct PacedStream<S> {
    stream: S,
    /// Small reads since the last answer.
    small: usize,
    pause: Option<Pin<Box<Sleep>>>,
}

impl<S> PacedStream<S> {
    pub(super) fn new(stream: S) -> Self {
        Self { stream, small: 0, pause: None }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for PacedStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(pause) = &mut self.pause {
            // the stream is not asked: its bytes must not wake anybody
            ready!(pause.as_mut().poll(context));
            self.pause = None;
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        let bytes = buffer.filled().len() - before;
        // a buffer that is full says nothing about what there was
        if bytes > 0 && bytes < SMALL && buffer.remaining() > 0 {
            self.small += 1;
            if self.small > FREE {
                self.pause = Some(Box::pin(tokio::time::sleep(PAUSE)));
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for PacedStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.small = 0;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.small = 0;
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
        io::{AsyncReadExt, AsyncWriteExt},
        time::Instant,
    };

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_comes_byte_by_byte_is_read_rarely_and_whole() {
        let (mut peer, stream) = tokio::io::duplex(64 * 1024);
        let sent: Vec<u8> = (0..2000_u32).map(|n| n as u8).collect();
        let bytes = sent.clone();
        let peer = tokio::spawn(async move {
            for byte in bytes {
                peer.write_all(&[byte]).await.unwrap();
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        });
        let mut stream = PacedStream::new(stream);
        let (mut reads, mut all, mut buffer) = (0, Vec::new(), vec![0; 64 * 1024]);
        loop {
            let bytes = stream.read(&mut buffer).await.unwrap();
            if bytes == 0 {
                break;
            }
            reads += 1;
            all.extend_from_slice(&buffer[..bytes]);
        }
        peer.await.unwrap();
        assert_eq!(all, sent);
        assert!(reads <= FREE + 2000 / 20 + 2, "{reads} reads");
    }

    #[tokio::test(start_paused = true)]
    async fn large_reads_and_those_behind_an_answer_do_not_wait() {
        let (mut peer, stream) = tokio::io::duplex(64 * 1024);
        let mut stream = PacedStream::new(stream);
        let mut buffer = vec![0; 64 * 1024];
        let began = Instant::now();
        for _ in 0..100 {
            peer.write_all(&[0; SMALL]).await.unwrap();
            assert_eq!(stream.read(&mut buffer).await.unwrap(), SMALL);
            for _ in 0..FREE {
                peer.write_all(b"x").await.unwrap();
                assert_eq!(stream.read(&mut buffer).await.unwrap(), 1);
            }
            stream.write_all(b"an answer").await.unwrap();
            peer.read_exact(&mut buffer[..9]).await.unwrap();
        }
        assert_eq!(began.elapsed(), Duration::ZERO);
    }
}
