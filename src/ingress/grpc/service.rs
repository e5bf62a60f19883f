//! The calls of `proto.Rpc`.

use std::{mem, sync::Arc};

use futures_util::{
    FutureExt, StreamExt,
    future::{self, Either},
    stream::{self, BoxStream},
};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status, Streaming};

use super::{deadline::Deadline, status};
use crate::{
    ingress::{
        admission::{Admission, Caller, Source},
        bounds::too_many_pushes,
        draft::Draft,
        refusal::Refusal,
    },
    proto::rpc::{
        GroupReply, GroupRequest, IsOnlineReply, IsOnlineRequest, PushBatchReply, PushBatchRequest, PushReply,
        PushRequest, SystemReply, SystemRequest, rpc_server::Rpc,
    },
    push::PushId,
    telemetry::Metrics,
};

/// Pushes of a stream that are published as one at most.
const TOGETHER: usize = 64;

/// Answers the calls.
#[derive(Clone)]
pub(super) struct Service {
    pub(super) admission: Admission,
    /// Pushes of one stream that wait for the queue at once.
    pub(super) max_unacknowledged: usize,
    /// Ends open streams.
    pub(super) stop: CancellationToken,
    pub(super) metrics: Arc<Metrics>,
}

#[tonic::async_trait]
impl Rpc for Service {
    type PushStreamStream = BoxStream<'static, Result<PushReply, Status>>;

    async fn push(&self, request: Request<PushRequest>) -> Result<Response<PushReply>, Status> {
        let caller = caller(&request);
        let id = self.admission.push(caller, Draft::of(request.into_inner())).await?;
        Ok(Response::new(reply(Ok(id))))
    }

    async fn push_batch(&self, request: Request<PushBatchRequest>) -> Result<Response<PushBatchReply>, Status> {
        let caller = caller(&request);
        let (pushes, limit) = (request.into_inner().pushes, self.admission.limits().max_batch);
        if pushes.len() > limit {
            return Err(too_many_pushes(limit).into());
        }
        let outcomes = self.admission.push_all(caller, pushes.into_iter().map(Draft::of).collect()).await;
        Ok(Response::new(PushBatchReply { replies: outcomes.into_iter().map(reply).collect() }))
    }

    async fn push_stream(
        &self,
        request: Request<Streaming<PushRequest>>,
    ) -> Result<Response<Self::PushStreamStream>, Status> {
        let (service, stop, caller) = (self.clone(), self.stop.clone(), caller(&request));
        let last = stream::once(async { Err(Status::from(Refusal::draining())) });
        let mut broken = false;
        // a push that came before the stop is answered; the end after it says why there are no more
        let stopped = stop.clone();
        let pushes = request
            .into_inner()
            .take_until(stop.cancelled_owned())
            .chain(last.filter(move |_| future::ready(stopped.is_cancelled())))
            // what follows a message that cannot be read is none
            .take_while(move |push| future::ready(!mem::replace(&mut broken, push.is_err())));
        // what is there is published together; with all of it at most `max_unacknowledged` are under way
        let together = (self.max_unacknowledged / 2).clamp(1, TOGETHER);
        let replies = pushes
            .ready_chunks(together)
            .flat_map(move |pushes| stream::iter(service.replies(caller, pushes)))
            .buffered(self.max_unacknowledged - together + 1);
        Ok(Response::new(replies.boxed()))
    }

    async fn system(&self, _: Request<SystemRequest>) -> Result<Response<SystemReply>, Status> {
        let census = self.admission.census();
        Ok(Response::new(SystemReply {
            cpu_num: std::thread::available_parallelism().map_or(1, |cores| cores.get() as i64),
            goroutine_num: census.workers as i64,
            client_num: census.connections as i64,
            group_num: census.groups as i64,
        }))
    }

    async fn is_online(&self, request: Request<IsOnlineRequest>) -> Result<Response<IsOnlineReply>, Status> {
        let connections = self.admission.connections(&request.into_inner().card_id.into())?;
        let result = if connections > 0 { "yes" } else { "no" };
        Ok(Response::new(IsOnlineReply { result: result.into() }))
    }

    async fn group(&self, request: Request<GroupRequest>) -> Result<Response<GroupReply>, Status> {
        let client_num = match self.admission.connections(&request.into_inner().card_id.into())? {
            0 => -1,
            many => many as i64,
        };
        Ok(Response::new(GroupReply { client_num }))
    }
}

impl Service {
    /// The replies to pushes that came together; an error is the last of them.
    fn replies(
        &self,
        caller: Caller,
        pushes: Vec<Result<PushRequest, Status>>,
    ) -> Vec<impl Future<Output = Result<PushReply, Status>> + use<>> {
        let (mut drafts, mut end) = (Vec::with_capacity(pushes.len()), None);
        for push in pushes {
            match push {
                Ok(push) => drafts.push(Draft::of(push)),
                Err(status) => {
                    // not a caller that left, or a node that stops
                    if matches!(status.code(), Code::ResourceExhausted | Code::DeadlineExceeded | Code::Internal) {
                        status::count(&self.metrics, status.code());
                    }
                    end = Some(Either::Right(future::ready(Err(status))));
                }
            }
        }
        let outcomes = self.admission.push_each(caller, drafts).into_iter();
        outcomes.map(|outcome| Either::Left(outcome.map(|outcome| Ok(reply(outcome))))).chain(end).collect()
    }
}

fn caller<T>(request: &Request<T>) -> Caller {
    Source::Grpc.until(request.extensions().get().map(|Deadline(at)| *at))
}

fn reply(outcome: Result<PushId, Refusal>) -> PushReply {
    match outcome {
        Ok(id) => PushReply { code: 0, message: "ok".into(), id: id.to_string(), reason: String::new() },
        Err(Refusal { kind, message }) => {
            let code = kind.grpc().unwrap_or(Code::InvalidArgument);
            PushReply {
                code: code as i32,
                message: message.into_owned(),
                id: String::new(),
                reason: kind.name().into(),
            }
        }
    }
}
