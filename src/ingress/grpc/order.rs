//! gpush's calls: `order.Proxy`.

use futures_util::stream;
use tonic::{Request, Response, Status};

use super::service::{caller, deadline};
use crate::{
    ingress::{
        admission::{Admission, PushSource},
        compat::gpush::TopicPush,
        refusal::{Refusal, RefusalKind},
    },
    proto::order::{Data, Empty, proxy_server::Proxy},
};

/// Answers the calls.
#[derive(Clone)]
pub(super) struct OrderService {
    pub(super) admission: Admission,
}

#[tonic::async_trait]
impl Proxy for OrderService {
    type PullDataStream = stream::Empty<Result<Data, Status>>;

    async fn push_data(&self, request: Request<Data>) -> Result<Response<Empty>, Status> {
        let submitter = self.admission.submitter(PushSource::Grpc, caller(&request).clone()).until(deadline(&request));
        let Data { uid, topic, data } = request.into_inner();
        let push = TopicPush { uid, topic, data: data.into() };
        submitter.push(push.draft(&self.admission.limits())).await?;
        Ok(Response::new(Empty {}))
    }

    async fn pull_data(&self, _: Request<Empty>) -> Result<Response<Self::PullDataStream>, Status> {
        let message = "PullData is what gpush's proxies tell its gateways; here clients connect to the gateway itself \
                       (docs/dialects/gpush.md)";
        Err(Refusal::new(RefusalKind::NotBuilt, message).into())
    }
}
