//! The calls of `proto.Rpc`.

use std::{mem, sync::Arc};

use futures_util::{
    FutureExt, StreamExt,
    future::{self, Either},
    stream::{self, BoxStream},
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status, Streaming};

use super::{events, interceptor::CallContext, status};
use crate::{
    auth::Caller,
    events::Events,
    ingress::{
        admission::{Admission, PushSource, Receipt, Submitter},
        disconnects::{AcceptedOrder, DisconnectDraft, Disconnects, EndedConnections},
        draft::Draft,
        limits::too_many_pushes,
        queries::{Answered, Queries, QueryScope},
        refusal::Refusal,
    },
    proto::rpc::{
        DisconnectReply, DisconnectRequest, EventsReply, EventsRequest, GroupReply, GroupRequest, IsOnlineReply,
        IsOnlineRequest, PushBatchReply, PushBatchRequest, PushReply, PushRequest, SystemReply, SystemRequest,
        disconnect_request::Selector, rpc_server::Rpc,
    },
    telemetry::Metrics,
};

/// Pushes of a stream that are published as one at most.
const TOGETHER: usize = 64;

/// Answers the calls.
#[derive(Clone)]
pub(super) struct RpcService {
    pub(super) admission: Admission,
    pub(super) disconnects: Disconnects,
    pub(super) queries: Queries,
    pub(super) events: Events,
    /// Pushes of one stream that wait for the queue at once; messages that a reader of events has not acknowledged.
    pub(super) max_unacknowledged: usize,
    /// Ends open streams.
    pub(super) stopping: CancellationToken,
    pub(super) metrics: Arc<Metrics>,
}

#[tonic::async_trait]
impl Rpc for RpcService {
    type PushStreamStream = BoxStream<'static, Result<PushReply, Status>>;
    type EventsStream = BoxStream<'static, Result<EventsReply, Status>>;

    async fn push(&self, request: Request<PushRequest>) -> Result<Response<PushReply>, Status> {
        let submitter = self.submitter(&request);
        let receipt = submitter.push(Draft::of(request.into_inner())).await?;
        Ok(Response::new(reply(Ok(receipt))))
    }

    async fn push_batch(&self, request: Request<PushBatchRequest>) -> Result<Response<PushBatchReply>, Status> {
        let submitter = self.submitter(&request);
        let pushes = request.into_inner().pushes;
        let limit = self.admission.limits().max_batch;
        if pushes.len() > limit {
            return Err(too_many_pushes(limit).into());
        }
        let outcomes = submitter.push_all(pushes.into_iter().map(Draft::of).collect()).await;
        let failed = outcomes.iter().filter(|outcome| outcome.is_err()).count() as u32;
        Ok(Response::new(PushBatchReply { replies: outcomes.into_iter().map(reply).collect(), failed }))
    }

    async fn push_stream(
        &self,
        request: Request<Streaming<PushRequest>>,
    ) -> Result<Response<Self::PushStreamStream>, Status> {
        let submitter = Arc::new(self.submitter(&request));
        let metrics = Arc::clone(&self.metrics);
        let stopping = self.stopping.clone();
        let last = stream::once(async { Err(Status::from(Refusal::draining())) });
        let mut broken = false;
        // a push that came before the stop is answered; the end after it says why there are no more
        let stopped = stopping.clone();
        let pushes = request
            .into_inner()
            .take_until(stopping.cancelled_owned())
            .chain(last.filter(move |_| future::ready(stopped.is_cancelled())))
            // what follows a message that cannot be read is none
            .take_while(move |push| future::ready(!mem::replace(&mut broken, push.is_err())));
        // what is there is published together; with all of it at most `max_unacknowledged` are under way
        let together = (self.max_unacknowledged / 2).clamp(1, TOGETHER);
        let replies = pushes
            .ready_chunks(together)
            .flat_map(move |pushes| stream::iter(replies(&submitter, &metrics, pushes)))
            .buffered(self.max_unacknowledged - together + 1);
        Ok(Response::new(replies.boxed()))
    }

    async fn events(&self, request: Request<Streaming<EventsRequest>>) -> Result<Response<Self::EventsStream>, Status> {
        let caller = caller(&request).clone();
        let stopping = self.stopping.clone();
        let metrics = Arc::clone(&self.metrics);
        let requests = request.into_inner();
        let stream = events::open(&self.events, caller, requests, self.max_unacknowledged, stopping, metrics).await?;
        Ok(Response::new(stream.boxed()))
    }

    async fn disconnect(&self, request: Request<DisconnectRequest>) -> Result<Response<DisconnectReply>, Status> {
        let deadline = deadline(&request);
        let caller = caller(&request).clone();
        let draft = Ok(order(request.into_inner()));
        let AcceptedOrder { id, ended } = self.disconnects.submit(PushSource::Grpc, &caller, deadline, draft).await?;
        let mut reply = DisconnectReply { message: "ok".into(), id: id.to_string(), ..DisconnectReply::default() };
        if let Some(EndedConnections { nodes, missing }) = ended {
            reply.ended = nodes.into_iter().map(|(node, ended)| (node.to_string(), ended)).collect();
            reply.missing = texts(missing);
        }
        Ok(Response::new(reply))
    }

    async fn system(&self, request: Request<SystemRequest>) -> Result<Response<SystemReply>, Status> {
        let scope = QueryScope::parse(&request.into_inner().scope)?;
        let Answered { answer: counts, missing } = self.queries.counts(scope).await;
        Ok(Response::new(SystemReply {
            cpu_num: counts.cores as i64,
            goroutine_num: counts.workers as i64,
            client_num: counts.connections as i64,
            group_num: counts.groups as i64,
            missing: texts(missing),
        }))
    }

    async fn is_online(&self, request: Request<IsOnlineRequest>) -> Result<Response<IsOnlineReply>, Status> {
        let caller = caller(&request).clone();
        let IsOnlineRequest { card_id, scope } = request.into_inner();
        let scope = QueryScope::parse(&scope)?;
        let Answered { answer: connections, missing } =
            self.queries.connections(&caller, &card_id.into(), scope).await?;
        let result = if connections > 0 { "yes" } else { "no" };
        Ok(Response::new(IsOnlineReply { result: result.into(), missing: texts(missing) }))
    }

    async fn group(&self, request: Request<GroupRequest>) -> Result<Response<GroupReply>, Status> {
        let caller = caller(&request).clone();
        let GroupRequest { card_id, scope } = request.into_inner();
        let scope = QueryScope::parse(&scope)?;
        let Answered { answer: connections, missing } =
            self.queries.connections(&caller, &card_id.into(), scope).await?;
        let client_num = if connections == 0 { -1 } else { connections as i64 };
        Ok(Response::new(GroupReply { client_num, missing: texts(missing) }))
    }
}

impl RpcService {
    fn submitter<T>(&self, request: &Request<T>) -> Submitter {
        self.admission.submitter(PushSource::Grpc, caller(request).clone()).until(deadline(request))
    }
}

fn texts(nodes: Vec<Arc<str>>) -> Vec<String> {
    nodes.iter().map(|node| String::from(&**node)).collect()
}

/// Whose call it is.
pub(super) fn caller<T>(request: &Request<T>) -> &Caller {
    let context: Option<&CallContext> = request.extensions().get();
    let caller = context.and_then(|context| context.caller.as_ref());
    caller.expect("invariant: this service is for callers with a key")
}

/// Until when its caller waits.
pub(super) fn deadline<T>(request: &Request<T>) -> Option<Instant> {
    let context: Option<&CallContext> = request.extensions().get();
    context.and_then(|context| context.deadline)
}

fn order(request: DisconnectRequest) -> DisconnectDraft {
    let DisconnectRequest { selector, code, reason, reconnect, revoke } = request;
    let mut draft = DisconnectDraft {
        code: (code != 0).then_some(code),
        reason: Some(reason.into()),
        reconnect,
        revoke,
        ..DisconnectDraft::default()
    };
    match selector {
        Some(Selector::CardId(card)) => draft.card_id = Some(card.into()),
        Some(Selector::AppId(app)) => draft.app_id = Some(app.into()),
        Some(Selector::Client(client)) => draft.client = Some(client.into()),
        Some(Selector::Sub(subject)) => draft.sub = Some(subject.into()),
        None => {}
    }
    draft
}

/// The replies to pushes that came together; an error is the last of them.
fn replies(
    submitter: &Arc<Submitter>,
    metrics: &Metrics,
    pushes: Vec<Result<PushRequest, Status>>,
) -> Vec<impl Future<Output = Result<PushReply, Status>> + use<>> {
    let mut drafts = Vec::with_capacity(pushes.len());
    let mut end = None;
    for push in pushes {
        match push {
            Ok(push) => drafts.push(Draft::of(push)),
            Err(status) => {
                // not a caller that left, or a node that stops
                if matches!(status.code(), Code::ResourceExhausted | Code::DeadlineExceeded | Code::Internal) {
                    status::count(metrics, status.code());
                }
                end = Some(Either::Right(future::ready(Err(status::worded(status)))));
            }
        }
    }
    let outcomes = submitter.push_each(drafts).into_iter();
    outcomes.map(|outcome| Either::Left(outcome.map(|outcome| Ok(reply(outcome))))).chain(end).collect()
}

fn reply(outcome: Result<Receipt, Refusal>) -> PushReply {
    match outcome {
        Ok(Receipt { id, replayed }) => {
            PushReply { code: 0, message: "ok".into(), id: id.to_string(), reason: String::new(), replayed }
        }
        Err(Refusal { kind, message, .. }) => {
            let code = kind.grpc().unwrap_or(Code::InvalidArgument);
            PushReply {
                code: code as i32,
                message: message.into_owned(),
                id: String::new(),
                reason: kind.name().into(),
                replayed: false,
            }
        }
    }
}
