//! The stream of events: to the back end, which acknowledges messages, or to one who only watches.

use std::{collections::VecDeque, sync::Arc};

use futures_util::{Stream, stream};
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

use super::status;
use crate::{
    auth::{Caller, Scope},
    events::{EventReader, EventWatcher, Events, ToldEvent},
    ingress::{
        event_kinds::{check_unbounded, kinds_of},
        refusal::{Refusal, RefusalKind},
    },
    proto::rpc::{EventsReply, EventsRequest},
    telemetry::Metrics,
};

/// Where a stream's events come from.
enum EventsSource {
    Reader {
        reader: Box<EventReader>,
        /// The positions that were sent and not acknowledged.
        unacknowledged: VecDeque<u64>,
    },
    Watch(EventWatcher),
}

/// An open stream.
struct EventsStream {
    source: EventsSource,
    caller: Caller,
    /// `None`: its caller sends no more.
    requests: Option<Streaming<EventsRequest>>,
    /// To be sent.
    told: VecDeque<ToldEvent>,
    max_unacknowledged: usize,
    stopping: CancellationToken,
    metrics: Arc<Metrics>,
    is_over: bool,
}

/// Opens a stream by its first request, which is awaited.
pub(super) async fn open(
    events: &Events,
    caller: Caller,
    mut requests: Streaming<EventsRequest>,
    max_unacknowledged: usize,
    stopping: CancellationToken,
    metrics: Arc<Metrics>,
) -> Result<impl Stream<Item = Result<EventsReply, Status>> + Send + use<>, Status> {
    check_unbounded(&caller)?;
    let first = tokio::select! {
        first = requests.message() => first?,
        () = stopping.cancelled() => return Err(Refusal::draining().into()),
    };
    let Some(EventsRequest { kinds, watch, ack }) = first else {
        return Err(
            Refusal::new(RefusalKind::BadField, "the stream ended without a request: the first one opens it").into()
        );
    };
    if ack > 0 {
        return Err(Refusal::field("ack", "has nothing to acknowledge yet: the first request opens the stream").into());
    }
    let kinds = kinds_of(kinds.iter().map(String::as_str))?;
    let source = if watch {
        EventsSource::Watch(events.watch(kinds).map_err(Refusal::from)?)
    } else {
        let reader = Box::new(events.read(kinds).map_err(Refusal::from)?);
        EventsSource::Reader { reader, unacknowledged: VecDeque::new() }
    };
    let opened = EventsStream {
        source,
        caller,
        requests: Some(requests),
        told: VecDeque::new(),
        max_unacknowledged,
        stopping,
        metrics,
        is_over: false,
    };
    Ok(stream::unfold(opened, |mut opened| async move { opened.next().await.map(|reply| (reply, opened)) }))
}

/// What happens next.
enum EventsStep {
    Told(Vec<ToldEvent>),
    Request(Option<Result<EventsRequest, Status>>),
    Stopping,
}

impl EventsStream {
    /// The next reply; an error is the last.
    async fn next(&mut self) -> Option<Result<EventsReply, Status>> {
        loop {
            if self.is_over {
                return None;
            }
            // its key may be gone, or have other rights, since it began
            if !self.caller.may(Scope::Events) || self.caller.is_bounded() {
                return self.end(Refusal::no_scope(&self.caller, Scope::Events).into());
            }
            if let Some(told) = self.told.pop_front() {
                return Some(self.reply(told));
            }
            match self.step().await {
                EventsStep::Told(told) => self.told.extend(told),
                EventsStep::Request(Some(Ok(request))) => {
                    if let Err(refusal) = self.take(&request) {
                        return self.end(refusal.into());
                    }
                }
                EventsStep::Request(Some(Err(status))) => return self.end(status::worded(status)),
                EventsStep::Request(None) => {
                    self.requests = None;
                    // who cannot acknowledge any more is not the back end
                    self.is_over = matches!(self.source, EventsSource::Reader { .. });
                }
                EventsStep::Stopping => return self.end(Refusal::draining().into()),
            }
        }
    }

    async fn step(&mut self) -> EventsStep {
        let Self { source, requests, max_unacknowledged, stopping, .. } = self;
        // cancel-safe, all of them
        tokio::select! {
            biased;
            () = stopping.cancelled() => EventsStep::Stopping,
            request = next_request(requests) => EventsStep::Request(request),
            told = next_events(source, *max_unacknowledged) => EventsStep::Told(told),
        }
    }

    fn reply(&mut self, ToldEvent { position, json }: ToldEvent) -> Result<EventsReply, Status> {
        if position > 0
            && let EventsSource::Reader { unacknowledged, .. } = &mut self.source
        {
            unacknowledged.push_back(position);
        }
        let event = String::from_utf8(json.into()).map_err(|_| Status::from(Refusal::internal()))?;
        Ok(EventsReply { position, event })
    }

    fn take(&mut self, request: &EventsRequest) -> Result<(), Refusal> {
        if !request.kinds.is_empty() || request.watch {
            return Err(Refusal::field("kinds", "and `watch` are for the first request: open another stream"));
        }
        let EventsSource::Reader { reader, unacknowledged } = &mut self.source else {
            return Err(Refusal::field("ack", "is for readers without `watch`: this one takes nothing"));
        };
        reader.acknowledge(request.ack)?;
        while unacknowledged.pop_front_if(|position| *position <= request.ack).is_some() {}
        Ok(())
    }

    /// Ends it, counted where it is refused.
    fn end(&mut self, status: Status) -> Option<Result<EventsReply, Status>> {
        self.is_over = true;
        if !matches!(status.code(), tonic::Code::Unavailable | tonic::Code::Cancelled) {
            status::count(&self.metrics, status.code());
        }
        Some(Err(status))
    }
}

async fn next_request(requests: &mut Option<Streaming<EventsRequest>>) -> Option<Result<EventsRequest, Status>> {
    match requests {
        Some(requests) => requests.message().await.transpose(),
        None => std::future::pending().await,
    }
}

async fn next_events(source: &mut EventsSource, max_unacknowledged: usize) -> Vec<ToldEvent> {
    match source {
        EventsSource::Reader { reader, unacknowledged } => {
            reader.next(max_unacknowledged.saturating_sub(unacknowledged.len())).await
        }
        EventsSource::Watch(watcher) => vec![ToldEvent { position: 0, json: watcher.next().await }],
    }
}
