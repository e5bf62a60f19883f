//! Knows at once when an nsqd is gone, which tokio-nsq never says: it drops the future that would.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// nsqd sends a heartbeat each 30 s: silent this long, it is gone.
const SILENCE: Duration = Duration::from_secs(75);

/// A connection of its own beside tokio-nsq's that does nothing but answer heartbeats: it ends when nsqd does.
pub(super) struct LivenessConnection {
    stream: TcpStream,
}

impl LivenessConnection {
    /// Connects to the nsqd at `address`.
    pub(super) async fn connect(address: &str, within: Duration) -> Result<Self, String> {
        let connect = async {
            let mut stream = TcpStream::connect(address).await?;
            stream.write_all(b"  V2").await?;
            Ok::<_, std::io::Error>(stream)
        };
        match timeout(within, connect).await {
            Ok(Ok(stream)) => Ok(Self { stream }),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no connection within {}", humantime::format_duration(within))),
        }
    }

    /// Resolves once nsqd is gone. Cancel-safe: what a cancelled read or answer leaves behind is at most one heartbeat.
    pub(super) async fn gone(&mut self) {
        let mut bytes = [0; 64];
        while let Ok(Ok(1..)) = timeout(SILENCE, self.stream.read(&mut bytes)).await {
            if self.stream.write_all(b"NOP\n").await.is_err() {
                return;
            }
        }
    }
}
