//! What a client's bytes run over.

use std::{
    io,
    net::{IpAddr, Shutdown},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::TcpStream,
};

/// A client's connection, from its accept on: HTTP is read from it by hyper ([`AsyncRead`]), frames by its task and written by
/// its shard, without a task's context.
pub(super) enum Stream {
    Tcp(TcpStream),
}

impl Stream {
    fn tcp(&self) -> &TcpStream {
        let Self::Tcp(tcp) = self;
        tcp
    }

    /// The peer's address; `None`: it is gone already.
    pub(super) fn peer(&self) -> Option<IpAddr> {
        self.tcp().peer_addr().ok().map(|peer| peer.ip())
    }

    /// Small writes leave at once; who acknowledges nothing for `user_timeout` is gone.
    pub(super) fn set_options(&self, user_timeout: Duration) -> io::Result<()> {
        let socket = SockRef::from(self.tcp());
        socket.set_tcp_nodelay(true)?;
        socket.set_tcp_user_timeout(Some(user_timeout))
    }

    pub(super) fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.tcp().poll_read_ready(cx)
    }

    pub(super) fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.tcp().try_read(buffer)
    }

    pub(super) fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.tcp().poll_write_ready(cx)
    }

    /// Past the runtime, whose readiness stands in cache lines of its own; it hears only of a socket that is full.
    pub(super) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match SockRef::from(self.tcp()).send(bytes) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.tcp().try_write(bytes),
            sent => sent,
        }
    }

    /// Resolves once the peer sends nothing more, or is gone, also while what it sent is not read.
    pub(super) async fn peer_ended(&self) {
        // either urgent data, for which the runtime does not ask the kernel, or the end
        let _ = self.tcp().ready(Interest::PRIORITY).await;
    }

    /// Nothing more is written; the peer reads the end.
    pub(super) fn shutdown_write(&self) -> io::Result<()> {
        SockRef::from(self.tcp()).shutdown(Shutdown::Write)
    }

    /// When it is dropped, the kernel forgets what the peer has not taken.
    pub(super) fn discard_unsent(&self) {
        let _ = SockRef::from(self.tcp()).set_linger(Some(Duration::ZERO));
    }
}

impl From<TcpStream> for Stream {
    fn from(tcp: TcpStream) -> Self {
        Self::Tcp(tcp)
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Self::Tcp(tcp) = self.get_mut();
        Pin::new(tcp).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let Self::Tcp(tcp) = self.get_mut();
        Pin::new(tcp).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let Self::Tcp(tcp) = self.get_mut();
        Pin::new(tcp).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp().is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self::Tcp(tcp) = self.get_mut();
        Pin::new(tcp).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self::Tcp(tcp) = self.get_mut();
        Pin::new(tcp).poll_shutdown(cx)
    }
}
