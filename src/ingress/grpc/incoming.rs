//! The gRPC listener's connections: bounded in number, and each in the time it may take to say that it speaks HTTP/2.

use std::{
    io,
    net::TcpListener,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::Stream;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, Sleep},
};

use crate::telemetry::{GaugeGuard, Metrics, labels::GrpcCloseReason};

/// Bytes of HTTP/2's preface and of the settings' header that follows.
const GREETING: usize = 24 + 9;

/// Accepts while fewer than `max` are open; the others wait in the system's queue.
pub(super) fn connections(
    listener: TcpListener,
    max: usize,
    greeting_within: Duration,
    metrics: Arc<Metrics>,
) -> impl Stream<Item = Connection> + Send + 'static {
    let places = Arc::new(Semaphore::new(max));
    futures_util::stream::unfold((Err(listener), places), move |(listener, places)| {
        let metrics = Arc::clone(&metrics);
        async move {
            let listener = match listener {
                Ok(listener) => listener,
                // the first time; only the runtime that serves can do this
                Err(listener) => match tokio::net::TcpListener::from_std(listener) {
                    Ok(listener) => listener,
                    Err(error) => {
                        tracing::error!(%error, "the gRPC listener cannot be served");
                        return None;
                    }
                },
            };
            if places.available_permits() == 0 {
                tracing::warn!(max, "[grpc] max_connections are open; new ones wait");
            }
            let place = Arc::clone(&places).acquire_owned().await.ok()?;
            loop {
                match listener.accept().await {
                    Ok((stream, _)) => {
                        if let Err(error) = stream.set_nodelay(true) {
                            tracing::debug!(%error, "a gRPC connection went before it was served");
                            continue;
                        }
                        let deadline = Box::pin(tokio::time::sleep_until(Instant::now() + greeting_within));
                        let open = GaugeGuard::new(&metrics.grpc_connections);
                        let greeting = Some((deadline, GREETING));
                        let connection = Connection { stream, greeting, metrics, _place: place, _open: open };
                        return Some((connection, (Ok(listener), places)));
                    }
                    Err(error) => {
                        metrics.closed_grpc.get_or_create(&GrpcCloseReason::Accept).inc();
                        tracing::warn!(%error, "a gRPC connection cannot be accepted");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                }
            }
        }
    })
}

/// A connection and its place among the bounded number.
pub(super) struct Connection {
    stream: TcpStream,
    /// Until the client has said enough: when it must have, and how many bytes are missing. Keep-alive guards what follows.
    greeting: Option<(Pin<Box<Sleep>>, usize)>,
    metrics: Arc<Metrics>,
    _place: OwnedSemaphorePermit,
    _open: GaugeGuard,
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        let Some((deadline, missing)) = &mut self.greeting else { return read };
        *missing = missing.saturating_sub(buffer.filled().len() - before);
        if *missing == 0 {
            self.greeting = None;
        } else if deadline.as_mut().poll(context).is_ready() {
            self.greeting = None;
            self.metrics.closed_grpc.get_or_create(&GrpcCloseReason::Silent).inc();
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
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
