//! The gRPC listener's connections: bounded in number, and each in the time it may take to say that it speaks HTTP/2.

use std::{
    net::TcpListener,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_util::Stream;
use socket2::SockRef;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Sleep,
};

use crate::{
    config::Config,
    ingress::timed_stream::{ReadTimer, TimedStream},
    telemetry::{GaugeGuard, Metrics, labels::GrpcCloseReason},
};

/// Bytes of HTTP/2's preface and of the settings' header that follows.
const GREETING: usize = 24 + 9;

/// The times of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct ConnectionTimes {
    /// For the greeting.
    greeting: Duration,
    /// For what was written, to be acknowledged by the peer's system.
    user_timeout: Duration,
}

impl ConnectionTimes {
    /// As on `[http]`.
    pub(super) fn of(config: &Config) -> Self {
        Self { greeting: config.http.request_timeout, user_timeout: config.http.user_timeout }
    }
}

/// Accepts while fewer than `max` are open; the others wait in the system's queue.
pub(super) fn connections(
    listener: TcpListener,
    max: usize,
    times: ConnectionTimes,
    metrics: Arc<Metrics>,
) -> impl Stream<Item = GrpcConnection> + Send + 'static {
    let permits = Arc::new(Semaphore::new(max));
    futures_util::stream::unfold((Err(listener), permits), move |(listener, permits)| {
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
            if permits.available_permits() == 0 {
                tracing::warn!(max, "[grpc] max_connections are open; new ones wait");
            }
            let permit = Arc::clone(&permits).acquire_owned().await.ok()?;
            loop {
                match listener.accept().await {
                    Ok((stream, _)) => {
                        let socket = SockRef::from(&stream);
                        let options = socket.set_tcp_nodelay(true);
                        if let Err(error) = options.and(socket.set_tcp_user_timeout(Some(times.user_timeout))) {
                            tracing::debug!(%error, "a gRPC connection went before it was served");
                            continue;
                        }
                        let open = GaugeGuard::new(&metrics.grpc_connections);
                        let stream = TimedStream::new(stream, GreetingTimer::new(times.greeting, metrics));
                        let place = ConnectionPlace { _permit: permit, _open: open };
                        return Some((GrpcConnection { stream, place }, (Ok(listener), permits)));
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

/// A connection, and its place among the bounded number.
pub(super) struct GrpcConnection {
    pub(super) stream: TimedStream<GreetingTimer>,
    /// For as long as it is open.
    pub(super) place: ConnectionPlace,
}

/// A connection's place among the bounded number, until it is dropped.
pub(super) struct ConnectionPlace {
    _permit: OwnedSemaphorePermit,
    _open: GaugeGuard,
}

/// Until the client has said enough: when it must have, and how many bytes are missing. Keep-alive guards what follows.
pub(super) struct GreetingTimer {
    missing: usize,
    deadline: Option<Pin<Box<Sleep>>>,
    metrics: Arc<Metrics>,
}

impl GreetingTimer {
    fn new(timeout: Duration, metrics: Arc<Metrics>) -> Self {
        Self { missing: GREETING, deadline: Some(Box::pin(tokio::time::sleep(timeout))), metrics }
    }
}

impl ReadTimer for GreetingTimer {
    fn has_read(&mut self, bytes: usize) {
        self.missing = self.missing.saturating_sub(bytes);
        if self.missing == 0 {
            self.deadline = None;
        }
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
    use tokio::net::TcpStream;

    use super::*;

    #[tokio::test]
    async fn a_peer_that_stops_reading_is_not_written_to_for_ever() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let times = ConnectionTimes { greeting: Duration::from_secs(10), user_timeout: Duration::from_secs(7) };
        let mut incoming = Box::pin(connections(listener, 1, times, Arc::new(Metrics::new())));
        let _peer = TcpStream::connect(address).await.unwrap();
        let connection = incoming.next().await.unwrap();
        assert_eq!(SockRef::from(connection.stream.get_ref()).tcp_user_timeout().unwrap(), Some(times.user_timeout));
    }
}
