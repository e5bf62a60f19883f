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

/// The limits of a service's requests.
#[derive(Clone, Copy, Debug)]
pub(in crate::ingress) struct RequestLimits {
    /// Bytes of a message.
    pub(in crate::ingress) message_bytes: usize,
    /// Time for a request to arrive whole; of a stream, for a message that has begun.
    pub(in crate::ingress) timeout: Duration,
}

/// A request's body.
pub(super) struct RequestBody {
    body: Body,
    limits: RequestLimits,
    framing: Framing,
    /// `None`: its messages are too short to count.
    share: Option<Share>,
    timer: ArrivalTimer,
    /// What ends it, once what came before is read.
    end: Option<Refusal>,
}

/// What must be there in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MustArrive {
    /// The whole request.
    WholeRequest,
    /// Each message once it has begun.
    EachMessage,
}

/// Since when something is waited for.
struct ArrivalTimer {
    what: MustArrive,
    since: Option<Instant>,
    /// Never later than what is waited for must be there: set anew only when it fires, not with each message.
    alarm: Option<Pin<Box<Sleep>>>,
}

impl RequestBody {
    pub(super) fn new(body: Body, what: MustArrive, limits: RequestLimits, share: Option<Share>) -> Self {
        let since = (what == MustArrive::WholeRequest).then(Instant::now);
        let timer = ArrivalTimer { what, since, alarm: None };
        Self { body, limits, framing: Framing::default(), share, timer, end: None }
    }

    /// What of these bytes may be read.
    fn admit(&mut self, mut data: Bytes) -> Bytes {
        let progress = self.framing.advance(&data, self.limits.message_bytes);
        self.timer.after(progress.complete > 0, self.framing.is_unfinished());
        if let Some(bytes) = progress.too_long {
            let message = format!("a message of {bytes} bytes; at most {} are allowed", self.limits.message_bytes);
            self.end = Some(Refusal::new(RefusalKind::BodyTooLarge, message));
        } else if self.share.as_mut().is_some_and(|share| !share.hold(self.framing.reserved())) {
            let message = "too many bytes of messages that have not arrived whole ([grpc] max_unfinished, \
                           max_unfinished_per_connection); send fewer large messages at once";
            self.end = Some(Refusal::new(RefusalKind::Full, message));
        }
        if self.end.is_some() {
            data.truncate(progress.complete);
        }
        data
    }
}

impl HttpBody for RequestBody {
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
                ready!(this.timer.poll(this.limits.timeout, context));
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

impl ArrivalTimer {
    /// Some bytes came: a message ended among them, one is unfinished.
    fn after(&mut self, ended: bool, unfinished: bool) {
        if self.what == MustArrive::EachMessage {
            self.since = match self.since {
                _ if !unfinished => None,
                Some(since) if !ended => Some(since),
                _ => Some(Instant::now()),
            };
        }
    }

    /// Ready once what is waited for has taken longer than allowed.
    fn poll(&mut self, timeout: Duration, context: &mut Context<'_>) -> Poll<()> {
        let Some(since) = self.since else { return Poll::Pending };
        let due = since + timeout;
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
