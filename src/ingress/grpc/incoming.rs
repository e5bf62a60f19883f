//! A gRPC listener's connections: bounded in number, each in the time it may take to say that it speaks HTTP/2, and in the
//! control frames that it may send.

use std::{
    io,
    net::TcpListener,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_util::Stream;
use socket2::SockRef;
use tokio::{
    net::TcpStream,
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Sleep,
};

use super::control_frames::{ControlFrameMeter, FRAME_HEADER, PREFACE};
use crate::{
    config::Config,
    ingress::timed_stream::ReadTimer,
    telemetry::{Gauge, GaugeGuard, Metrics, labels::GrpcCloseReason},
};

/// Bytes of HTTP/2's preface and of the settings' header that follows.
const GREETING: usize = PREFACE + FRAME_HEADER;

/// What each connection is held to.
#[derive(Clone, Copy, Debug)]
pub(in crate::ingress) struct ConnectionBounds {
    /// The section of the listener.
    section: &'static str,
    /// Connections at once.
    max: usize,
    /// Time for the greeting.
    greeting: Duration,
    /// Time for what was written, to be acknowledged by the peer's system.
    user_timeout: Duration,
    max_control_frames: usize,
}

impl ConnectionBounds {
    /// Of a section's listener; the times as on `[http]`.
    pub(in crate::ingress) fn of(config: &Config, section: &'static str, max: usize) -> Self {
        Self {
            section,
            max,
            greeting: config.http.request_timeout,
            user_timeout: config.http.user_timeout,
            max_control_frames: config.grpc.max_control_frames,
        }
    }
}

/// Accepts while fewer than may be are open, of all listeners together; the others wait in the system's queue. `open` counts them.
pub(in crate::ingress) fn connections(
    listeners: Vec<TcpListener>,
    bounds: ConnectionBounds,
    open: Gauge,
    metrics: Arc<Metrics>,
) -> impl Stream<Item = GrpcConnection> + Send + 'static {
    let permits = Arc::new(Semaphore::new(bounds.max));
    futures_util::stream::unfold((Err(listeners), permits), move |(listeners, permits)| {
        let (open, metrics) = (open.clone(), Arc::clone(&metrics));
        async move {
            let mut listeners = match listeners {
                Ok(listeners) => listeners,
                // the first time; only the runtime that serves can do this
                Err(bound) => match ListenerSet::serve(bound) {
                    Ok(listeners) => listeners,
                    Err(error) => {
                        tracing::error!(%error, "the gRPC listener cannot be served");
                        return None;
                    }
                },
            };
            if permits.available_permits() == 0 {
                tracing::warn!(max = bounds.max, "[{}] max_connections are open; new ones wait", bounds.section);
            }
            let permit = Arc::clone(&permits).acquire_owned().await.ok()?;
            loop {
                match listeners.accept().await {
                    Ok(stream) => {
                        let socket = SockRef::from(&stream);
                        let options = socket.set_tcp_nodelay(true);
                        if let Err(error) = options.and(socket.set_tcp_user_timeout(Some(bounds.user_timeout))) {
                            tracing::debug!(%error, "a gRPC connection went before it was served");
                            continue;
                        }
                        let guard = ConnectionGuard::new(bounds, metrics);
                        let place = ConnectionPlace { _permit: permit, _open: GaugeGuard::new(&open) };
                        return Some((GrpcConnection { stream, guard, place }, (Ok(listeners), permits)));
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

/// Listeners that are accepted from in turn, so that none starves.
struct ListenerSet {
    listeners: Vec<tokio::net::TcpListener>,
    /// The one that is asked first.
    next: usize,
}

impl ListenerSet {
    fn serve(bound: Vec<TcpListener>) -> io::Result<Self> {
        let listeners: io::Result<_> = bound.into_iter().map(tokio::net::TcpListener::from_std).collect();
        Ok(Self { listeners: listeners?, next: 0 })
    }

    /// The next connection of any of them.
    async fn accept(&mut self) -> io::Result<TcpStream> {
        let (at, accepted) = std::future::poll_fn(|context| {
            let number = self.listeners.len();
            for at in (self.next..self.next + number).map(|at| at % number) {
                if let Poll::Ready(accepted) = self.listeners[at].poll_accept(context) {
                    return Poll::Ready((at, accepted));
                }
            }
            Poll::Pending
        })
        .await;
        self.next = at + 1;
        accepted.map(|(stream, _)| stream)
    }
}

/// A connection, and its place among the bounded number.
pub(in crate::ingress) struct GrpcConnection {
    pub(in crate::ingress) stream: TcpStream,
    pub(in crate::ingress) guard: ConnectionGuard,
    /// For as long as it is open.
    pub(in crate::ingress) place: ConnectionPlace,
}

/// A connection's place among the bounded number, until it is dropped.
pub(in crate::ingress) struct ConnectionPlace {
    _permit: OwnedSemaphorePermit,
    _open: GaugeGuard,
}

/// Ends a connection that does not greet in time, or sends too many control frames. Keep-alive guards its silence.
pub(in crate::ingress) struct ConnectionGuard {
    /// Bytes of the greeting that are missing, and when they must be there.
    missing: usize,
    deadline: Option<Pin<Box<Sleep>>>,
    control: ControlFrameMeter,
    metrics: Arc<Metrics>,
}

impl ConnectionGuard {
    fn new(bounds: ConnectionBounds, metrics: Arc<Metrics>) -> Self {
        Self {
            missing: GREETING,
            deadline: Some(Box::pin(tokio::time::sleep(bounds.greeting))),
            control: ControlFrameMeter::new(bounds.max_control_frames),
            metrics,
        }
    }
}

impl ReadTimer for ConnectionGuard {
    fn has_read(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.missing = self.missing.saturating_sub(bytes.len());
        if self.missing == 0 {
            self.deadline = None;
        }
        if self.control.admit(bytes) {
            return Ok(());
        }
        self.metrics.closed_grpc.get_or_create(&GrpcCloseReason::Flood).inc();
        Err(io::Error::other("more control frames than [grpc] max_control_frames"))
    }

    fn poll_late(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let Some(deadline) = &mut self.deadline else { return Poll::Pending };
        ready!(deadline.as_mut().poll(context));
        self.deadline = None;
        self.metrics.closed_grpc.get_or_create(&GrpcCloseReason::Silent).inc();
        Poll::Ready(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use futures_util::StreamExt;

    use super::*;

    #[tokio::test]
    async fn a_peer_that_stops_reading_is_not_written_to_for_ever() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let bounds = ConnectionBounds {
            section: "grpc",
            max: 1,
            greeting: Duration::from_secs(10),
            user_timeout: Duration::from_secs(7),
            max_control_frames: 100,
        };
        let mut incoming = Box::pin(connections(vec![listener], bounds, Gauge::default(), Arc::new(Metrics::new())));
        let _peer = TcpStream::connect(address).await.unwrap();
        let connection = incoming.next().await.unwrap();
        assert_eq!(SockRef::from(&connection.stream).tcp_user_timeout().unwrap(), Some(bounds.user_timeout));
    }
}
