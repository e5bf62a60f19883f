//! A back end's connection, or another node's, whose reads fail once its peer has not sent in time what it must send, or sends what it must not.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

/// What a peer must send, and by when.
pub(super) trait ReadTimer: Unpin {
    /// These bytes came; none: the peer sends no more.
    ///
    /// # Errors
    /// The connection ends with this error.
    fn has_read(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// At least a part of these bytes was written.
    fn has_written(&mut self, _bytes: &[u8]) {}

    /// Bytes wait to be written, for the peer takes none.
    fn write_waits(&mut self) {}

    /// No bytes wait to be written.
    fn all_written(&mut self) {}

    /// Ready once the peer is late. Asked while nothing more has come.
    fn poll_late(&mut self, context: &mut Context<'_>) -> Poll<()>;
}

/// A stream and its timer.
pub(super) struct TimedStream<T, S = TcpStream> {
    stream: S,
    timer: T,
}

impl<T: ReadTimer, S> TimedStream<T, S> {
    pub(super) fn new(stream: S, timer: T) -> Self {
        Self { stream, timer }
    }

    fn note_write(&mut self, bytes: &[u8], is_done: bool) {
        if is_done {
            self.timer.has_written(bytes);
        } else {
            self.timer.write_waits();
        }
    }
}

impl<T: ReadTimer, S: AsyncRead + Unpin> AsyncRead for TimedStream<T, S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if read.is_ready() {
            let checked = self.timer.has_read(&buffer.filled()[before..]);
            return read.map(|read| read.and(checked));
        }
        self.timer.poll_late(context).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<T: ReadTimer, S: AsyncWrite + Unpin> AsyncWrite for TimedStream<T, S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.note_write(bytes, written.is_ready());
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.note_write(slices.first().map_or(&[], |first| first), written.is_ready());
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        // whoever writes flushes only once all was written
        self.timer.all_written();
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
