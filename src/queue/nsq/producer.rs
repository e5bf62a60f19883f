//! The connection over which the publisher publishes to one nsqd. It is our own, since tokio-nsq writes only at each tick of its
//! flush interval.

use std::{fmt, io, time::Duration};

use bytes::BytesMut;
use futures_util::StreamExt;
use tokio::{
    io::AsyncWriteExt,
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    time::timeout,
};
use tokio_util::codec::FramedRead;

use super::protocol::{self, NsqdError, NsqdResponse, ResponseDecoder};

/// nsqd sends a heartbeat each 30 s: silent this long, it is gone.
const SILENCE: Duration = Duration::from_secs(75);

/// What has happened on a connection.
pub(super) enum ProducerEvent {
    /// nsqd did what the oldest unanswered command says.
    Acknowledged,
    /// All that was to be written is.
    Written,
}

/// Why a connection ended.
pub(super) enum ProducerError {
    /// nsqd closed it, or is gone.
    Lost(String),
    /// nsqd refused the oldest unanswered command.
    Refused(NsqdError),
}

impl fmt::Display for ProducerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lost(reason) => f.write_str(reason),
            Self::Refused(error) => write!(f, "it refuses: {}", error.words),
        }
    }
}

/// A connection whose nsqd knows who speaks.
pub(super) struct Producer {
    responses: FramedRead<OwnedReadHalf, ResponseDecoder>,
    writer: OwnedWriteHalf,
    /// Whole commands, of which the first may be written in part.
    out: BytesMut,
    /// Nothing can be written any more; what nsqd said last is still to be read.
    broken: bool,
}

impl Producer {
    /// Connects to the nsqd at `address` as `client`.
    pub(super) async fn connect(address: &str, client: &str) -> Result<Self, String> {
        let stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
        // a command that leaves alone leaves at once
        stream.set_nodelay(true).map_err(|error| error.to_string())?;
        let (reader, writer) = stream.into_split();
        let responses = FramedRead::new(reader, ResponseDecoder::new());
        let mut producer = Self { responses, writer, out: BytesMut::new(), broken: false };
        protocol::identify(&mut producer.out, client);
        producer.acknowledged().await?;
        Ok(producer)
    }

    /// Publishes to `topic`, which nobody else uses, and waits until nsqd has it. The ephemeral channel takes what was
    /// published there out again, and goes with the connection.
    pub(super) async fn probe(mut self, topic: &str) -> Result<(), String> {
        protocol::subscribe(&mut self.out, topic, "oxipush#ephemeral");
        self.acknowledged().await?;
        protocol::publish(
            &mut self.out,
            topic,
            [bytes::Bytes::from_static(b"oxipush asks whether this nsqd works")].iter(),
        );
        self.acknowledged().await
    }

    async fn acknowledged(&mut self) -> Result<(), String> {
        loop {
            match self.step().await {
                Ok(ProducerEvent::Acknowledged) => return Ok(()),
                Ok(ProducerEvent::Written) => {}
                Err(ended) => return Err(ended.to_string()),
            }
        }
    }

    /// Where to put commands, as long as fewer than `most` bytes wait there.
    pub(super) fn out(&mut self, most: usize) -> Option<&mut BytesMut> {
        (!self.broken && self.out.len() < most).then_some(&mut self.out)
    }

    /// Writes what is to be written until nsqd answers. Cancel-safe: what was written is taken out of the buffer at once, and
    /// a response that was read in part stays in the reader.
    pub(super) async fn step(&mut self) -> Result<ProducerEvent, ProducerError> {
        loop {
            let response = tokio::select! {
                biased;
                response = timeout(SILENCE, self.responses.next()) => response,
                written = self.writer.write_buf(&mut self.out), if !self.broken && !self.out.is_empty() => {
                    self.broken = written.is_err();
                    if self.out.is_empty() {
                        return Ok(ProducerEvent::Written);
                    }
                    continue;
                }
            };
            let lost = |reason: &str| Err(ProducerError::Lost(reason.into()));
            return match response {
                Ok(Some(Ok(NsqdResponse::Ok))) => Ok(ProducerEvent::Acknowledged),
                Ok(Some(Ok(NsqdResponse::Heartbeat))) => {
                    protocol::nop(&mut self.out);
                    continue;
                }
                Ok(Some(Ok(NsqdResponse::Error(error)))) => Err(ProducerError::Refused(error)),
                Ok(Some(Err(error))) if error.kind() == io::ErrorKind::InvalidData => lost(&error.to_string()),
                Ok(Some(Err(_)) | None) => lost("it closed the connection"),
                Err(_) => lost("it sends no heartbeat"),
            };
        }
    }
}
