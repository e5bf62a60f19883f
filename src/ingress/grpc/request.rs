//! The body of a request as it arrives: each message bounded in its size and in the time it may take, the bytes of unfinished
//! ones in number.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use http_body::{Frame, SizeHint};
use tokio::time::{Instant, Sleep};
use tonic::{
    Status,
    body::Body,
    codegen::{Body as HttpBody, Bytes},
};

use super::{budget::Share, framing::Framing};
use crate::ingress::refusal::{Refusal, RefusalKind};

/// The bounds of a service's requests.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Bytes of a message.
    pub(super) message: usize,
    /// Time for a request to arrive whole; of a stream, for a message that has begun.
    pub(super) within: Duration,
}

/// A request's body.
pub(super) struct Arriving {
    body: Body,
    bounds: Bounds,
    framing: Framing,
    /// `None`: its messages are too short to count.
    share: Option<Share>,
    wait: Wait,
    /// What ends it, once what came before is read.
    end: Option<Refusal>,
}

/// What must be there in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Of {
    /// The whole request.
    Request,
    /// Each message once it has begun.
    Message,
}

/// Since when something is waited for.
struct Wait {
    of: Of,
    since: Option<Instant>,
    /// Never later than what is waited for must be there: set anew only when it fires, not with each message.
    alarm: Option<Pin<Box<Sleep>>>,
}

impl Arriving {
    pub(super) fn new(body: Body, of: Of, bounds: Bounds, share: Option<Share>) -> Self {
        let wait = Wait { of, since: (of == Of::Request).then(Instant::now), alarm: None };
        Self { body, bounds, framing: Framing::default(), share, wait, end: None }
    }

    /// What of these bytes may be read.
    fn admit(&mut self, mut data: Bytes) -> Bytes {
        let advance = self.framing.advance(&data, self.bounds.message);
        let unfinished = self.framing.unfinished();
        self.wait.after(advance.whole > 0, unfinished > 0);
        if let Some(bytes) = advance.too_long {
            let message = format!("a message of {bytes} bytes; at most {} are allowed", self.bounds.message);
            self.end = Some(Refusal::new(RefusalKind::BodyTooLarge, message));
        } else if self.share.as_mut().is_some_and(|share| !share.hold(unfinished)) {
            let message = "too many bytes of messages that have not arrived whole ([grpc] max_unfinished, \
                           max_unfinished_per_connection); send fewer large messages at once";
            self.end = Some(Refusal::new(RefusalKind::Full, message));
        }
        if self.end.is_some() {
            data.truncate(advance.whole);
        }
        data
    }
}

impl HttpBody for Arriving {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let this = self.get_mut();
        loop {
            if let Some(refusal) = this.end.take() {
                this.body = Body::empty();
                this.share = None;
                return Poll::Ready(Some(Err(refusal.into())));
            }
            let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(context) else {
                ready!(this.wait.poll(this.bounds.within, context));
                let message = "the message did not arrive within [grpc] message_timeout; send it at once";
                this.end = Some(Refusal::new(RefusalKind::TooSlow, message));
                continue;
            };
            let frame = match frame {
                Some(Ok(frame)) => frame,
                end => return Poll::Ready(end),
            };
            match frame.into_data() {
                Ok(data) => {
                    let data = this.admit(data);
                    if !data.is_empty() || this.end.is_none() {
                        return Poll::Ready(Some(Ok(Frame::data(data))));
                    }
                }
                Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.end.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Wait {
    /// Some bytes came: a message ended among them, one is unfinished.
    fn after(&mut self, ended: bool, unfinished: bool) {
        if self.of == Of::Message {
            self.since = match self.since {
                _ if !unfinished => None,
                Some(since) if !ended => Some(since),
                _ => Some(Instant::now()),
            };
        }
    }

    /// Ready once what is waited for has taken longer than allowed.
    fn poll(&mut self, within: Duration, context: &mut Context<'_>) -> Poll<()> {
        let Some(since) = self.since else { return Poll::Pending };
        let due = since + within;
        let alarm = self.alarm.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(due)));
        loop {
            ready!(alarm.as_mut().poll(context));
            if alarm.deadline() >= due {
                return Poll::Ready(());
            }
            alarm.as_mut().reset(due);
        }
    }
}
