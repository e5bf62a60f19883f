//! The calls of `proto.Rpc`.

use bytestring::ByteString;
use futures_util::{StreamExt, stream, stream::BoxStream};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status, Streaming};

use crate::{
    ingress::{
        admission::{Admission, Source},
        refusal::{Kind, Refusal},
    },
    proto::rpc::{
        GroupReply, GroupRequest, IsOnlineReply, IsOnlineRequest, PushBatchReply, PushBatchRequest, PushReply,
        PushRequest, SystemReply, SystemRequest, rpc_server::Rpc,
    },
    push::{Name, PushId},
};

/// Answers the calls.
#[derive(Clone)]
pub(super) struct Service {
    pub(super) admission: Admission,
    /// Pushes of one stream that wait for the queue at once.
    pub(super) max_unacknowledged: usize,
    /// Ends open streams.
    pub(super) stop: CancellationToken,
}

#[tonic::async_trait]
impl Rpc for Service {
    type PushStreamStream = BoxStream<'static, Result<PushReply, Status>>;

    async fn push(&self, request: Request<PushRequest>) -> Result<Response<PushReply>, Status> {
        let id = self.admission.push(Source::Grpc, request.into_inner().try_into()).await?;
        Ok(Response::new(reply(Ok(id))))
    }

    async fn push_batch(&self, request: Request<PushBatchRequest>) -> Result<Response<PushBatchReply>, Status> {
        let (pushes, limit) = (request.into_inner().pushes, self.admission.limits().max_batch);
        if pushes.len() > limit {
            return Err(Refusal::field("pushes", format_args!("are more than {limit}; split the batch")).into());
        }
        let outcomes = self.admission.push_all(Source::Grpc, pushes.into_iter().map(TryInto::try_into)).await;
        Ok(Response::new(PushBatchReply { replies: outcomes.into_iter().map(reply).collect() }))
    }

    async fn push_stream(
        &self,
        request: Request<Streaming<PushRequest>>,
    ) -> Result<Response<Self::PushStreamStream>, Status> {
        let (admission, stop) = (self.admission.clone(), self.stop.clone());
        let draining = Refusal::new(Kind::Draining, "the node is draining; push to another one");
        let last = stream::once(async move { Err(Status::from(draining)) });
        // a push that came before the stop is answered; the end after it says why there are no more
        let stopped = stop.clone();
        let pushes = request
            .into_inner()
            .take_until(stop.cancelled_owned())
            .chain(last.filter(move |_| std::future::ready(stopped.is_cancelled())));
        let replies = pushes
            .map(move |push| {
                let admission = admission.clone();
                async move { Ok(reply(admission.push(Source::Grpc, push?.try_into()).await)) }
            })
            .buffered(self.max_unacknowledged);
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
        let result = if self.count(request.into_inner().card_id)? > 0 { "yes" } else { "no" };
        Ok(Response::new(IsOnlineReply { result: result.into() }))
    }

    async fn group(&self, request: Request<GroupRequest>) -> Result<Response<GroupReply>, Status> {
        let client_num = match self.count(request.into_inner().card_id)? {
            0 => -1,
            many => many as i64,
        };
        Ok(Response::new(GroupReply { client_num }))
    }
}

impl Service {
    fn count(&self, card: String) -> Result<usize, Refusal> {
        let card = ByteString::from(card);
        let name = Name { max: self.admission.limits().max_name };
        name.check(&card).map_err(|error| Refusal::field("cardID", error))?;
        Ok(self.admission.connections(&card))
    }
}

fn reply(outcome: Result<PushId, Refusal>) -> PushReply {
    match outcome {
        Ok(id) => PushReply { code: 0, message: "ok".into(), id: id.to_string() },
        Err(Refusal { kind, message }) => {
            let code = kind.grpc().unwrap_or(Code::InvalidArgument);
            PushReply { code: code as i32, message: message.into_owned(), id: String::new() }
        }
    }
}
