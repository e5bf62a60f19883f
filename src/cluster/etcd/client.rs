//! A client of etcd's v3 API: the few calls that a cluster needs, over tonic's balanced channel.

use std::sync::{Arc, PoisonError, RwLock};

use futures_util::stream::poll_fn;
use tokio::sync::mpsc;
use tonic::{
    Request, Response, Status, Streaming,
    metadata::AsciiMetadataValue,
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Channel, Endpoint},
};

use super::CallError;
use crate::{
    config::Secret,
    proto::etcd::{
        AuthenticateRequest, Compare, DeleteRangeRequest, LeaseGrantRequest, LeaseKeepAliveRequest,
        LeaseKeepAliveResponse, LeaseRevokeRequest, LeaseTimeToLiveRequest, LeaseTimeToLiveResponse, PutRequest,
        RangeRequest, RangeResponse, RequestOp, StatusRequest, TxnRequest, TxnResponse, WatchCreateRequest,
        WatchRequest, WatchResponse, auth_client::AuthClient, compare, kv_client::KvClient, lease_client::LeaseClient,
        maintenance_client::MaintenanceClient, request_op, watch_client::WatchClient, watch_request,
    },
};

/// The connections to all endpoints, with the login's token; a cheap clone.
#[derive(Clone)]
pub(in crate::cluster) struct EtcdClient {
    channel: InterceptedService<Channel, Token>,
    auth: AuthClient<Channel>,
    login: Option<(String, Secret)>,
    token: Token,
}

/// What etcd gave for the login: it goes with every call.
#[derive(Clone, Default)]
struct Token(Arc<RwLock<Option<AsciiMetadataValue>>>);

impl Interceptor for Token {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &*self.0.read().unwrap_or_else(PoisonError::into_inner) {
            request.metadata_mut().insert("token", token.clone());
        }
        Ok(request)
    }
}

/// A call, made again after a new login if the token has ended.
macro_rules! call {
    ($client:ident, $service:ident.$method:ident($request:expr)) => {{
        let mut service = $service::new($client.channel.clone());
        let request = $request;
        let answer = match service.$method(request.clone()).await {
            Err(status) if $client.login.is_some() && CallError::asks_for_login(&status) => {
                $client.log_in().await?;
                service.$method(request).await
            }
            answer => answer,
        };
        answer.map(Response::into_inner).map_err(CallError::from)
    }};
}

impl EtcdClient {
    /// Logs in, if there is a login; that makes the first connection.
    pub(in crate::cluster) async fn connect(
        endpoints: Vec<Endpoint>,
        login: Option<(String, Secret)>,
    ) -> Result<Self, CallError> {
        let channel = Channel::balance_list(endpoints.into_iter());
        let token = Token::default();
        let auth = AuthClient::new(channel.clone());
        let mut client = Self { channel: InterceptedService::new(channel, token.clone()), auth, login, token };
        client.log_in().await?;
        Ok(client)
    }

    async fn log_in(&mut self) -> Result<(), CallError> {
        let Some((name, password)) = &self.login else { return Ok(()) };
        let login = AuthenticateRequest { name: name.clone(), password: password.expose().to_owned() };
        let answer = self.auth.authenticate(login).await?.into_inner();
        let token = answer.token.parse().map_err(|_| Status::internal("etcd's token is no text"))?;
        *self.token.0.write().unwrap_or_else(PoisonError::into_inner) = Some(token);
        Ok(())
    }

    /// The key, if it is there.
    pub(in crate::cluster) async fn get(&mut self, key: &str) -> Result<RangeResponse, CallError> {
        call!(self, KvClient.range(RangeRequest { key: key.into(), ..RangeRequest::default() }))
    }

    /// All keys that begin with `prefix`.
    pub(in crate::cluster) async fn get_all(&mut self, prefix: &str) -> Result<RangeResponse, CallError> {
        call!(self, KvClient.range(RangeRequest { key: prefix.into(), range_end: end_of(prefix) }))
    }

    pub(in crate::cluster) async fn txn(&mut self, txn: TxnRequest) -> Result<TxnResponse, CallError> {
        call!(self, KvClient.txn(txn))
    }

    /// A new lease's id.
    pub(in crate::cluster) async fn lease_grant(&mut self, ttl: i64) -> Result<i64, CallError> {
        call!(self, LeaseClient.lease_grant(LeaseGrantRequest { ttl })).map(|granted| granted.id)
    }

    pub(in crate::cluster) async fn lease_revoke(&mut self, id: i64) -> Result<(), CallError> {
        call!(self, LeaseClient.lease_revoke(LeaseRevokeRequest { id })).map(|_| ())
    }

    pub(in crate::cluster) async fn lease_time_to_live(
        &mut self,
        id: i64,
    ) -> Result<LeaseTimeToLiveResponse, CallError> {
        call!(self, LeaseClient.lease_time_to_live(LeaseTimeToLiveRequest { id }))
    }

    /// A stream of signs of life, with its first answered; `None` if the lease has ended.
    pub(in crate::cluster) async fn lease_keep_alive(&mut self, id: i64) -> Result<Option<KeepAlive>, CallError> {
        let (ask, mut asked) = mpsc::channel(1);
        // before the call: etcd begins its answer with the first one
        let _ = ask.send(LeaseKeepAliveRequest { id }).await;
        let mut service = LeaseClient::new(self.channel.clone());
        let answers = service.lease_keep_alive(poll_fn(move |cx| asked.poll_recv(cx))).await?.into_inner();
        let mut kept = KeepAlive { id, ask, answers };
        Ok((kept.answer().await? > 0).then_some(kept))
    }

    /// What happens to keys that begin with `prefix`, from revision `from` on.
    pub(in crate::cluster) async fn watch(&mut self, prefix: &str, from: i64) -> Result<Watch, CallError> {
        let (ask, mut asked) = mpsc::channel(1);
        let create = WatchCreateRequest { key: prefix.into(), range_end: end_of(prefix), start_revision: from };
        let _ = ask.send(WatchRequest { request: Some(watch_request::Request::Create(create)) }).await;
        let mut service = WatchClient::new(self.channel.clone());
        let mut request = Request::new(poll_fn(move |cx| asked.poll_recv(cx)));
        // a member that was cut off from the others ends the watch, instead of being silent
        request.metadata_mut().insert("hasleader", AsciiMetadataValue::from_static("true"));
        let answers = service.watch(request).await?.into_inner();
        Ok(Watch { answers, _ask: ask })
    }

    pub(in crate::cluster) async fn status(&mut self) -> Result<(), CallError> {
        call!(self, MaintenanceClient.status(StatusRequest {})).map(|_| ())
    }
}

/// Where the keys end that begin with `prefix`, which does not end with the highest byte.
fn end_of(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end
}

/// A lease's signs of life.
pub(in crate::cluster) struct KeepAlive {
    id: i64,
    ask: mpsc::Sender<LeaseKeepAliveRequest>,
    answers: Streaming<LeaseKeepAliveResponse>,
}

impl KeepAlive {
    /// One sign of life; the seconds that the lease has from now, 0: it has ended.
    pub(in crate::cluster) async fn beat(&mut self) -> Result<i64, CallError> {
        // if it cannot be sent, the stream's end says why
        let _ = self.ask.send(LeaseKeepAliveRequest { id: self.id }).await;
        self.answer().await
    }

    async fn answer(&mut self) -> Result<i64, CallError> {
        Ok(self.answers.message().await?.ok_or(CallError::Ended)?.ttl)
    }
}

/// A watch that was asked for.
pub(in crate::cluster) struct Watch {
    answers: Streaming<WatchResponse>,
    /// Its end would end the watch.
    _ask: mpsc::Sender<WatchRequest>,
}

impl Watch {
    /// The next message. Cancel-safe.
    pub(in crate::cluster) async fn message(&mut self) -> Result<WatchResponse, CallError> {
        self.answers.message().await?.ok_or(CallError::Ended)
    }
}

impl Compare {
    fn equal(key: &[u8], target: compare::Target, against: compare::Against) -> Self {
        let result = compare::Result::Equal.into();
        Self { result, target: target.into(), key: key.to_vec(), against: Some(against) }
    }

    /// The key is not there.
    pub(in crate::cluster) fn absent(key: &str) -> Self {
        Self::equal(key.as_bytes(), compare::Target::Create, compare::Against::CreateRevision(0))
    }

    /// The key was not written since.
    pub(in crate::cluster) fn unchanged(key: &[u8], mod_revision: i64) -> Self {
        Self::equal(key, compare::Target::Mod, compare::Against::ModRevision(mod_revision))
    }

    /// The key is under this lease.
    pub(in crate::cluster) fn under(key: &str, lease: i64) -> Self {
        Self::equal(key.as_bytes(), compare::Target::Lease, compare::Against::Lease(lease))
    }
}

impl RequestOp {
    pub(in crate::cluster) fn get(key: &str) -> Self {
        Self { request: Some(request_op::Request::Range(RangeRequest { key: key.into(), ..RangeRequest::default() })) }
    }

    /// `lease` 0: under none.
    pub(in crate::cluster) fn put(key: &str, value: impl Into<Vec<u8>>, lease: i64) -> Self {
        Self { request: Some(request_op::Request::Put(PutRequest { key: key.into(), value: value.into(), lease })) }
    }

    pub(in crate::cluster) fn delete(key: &str) -> Self {
        Self { request: Some(request_op::Request::DeleteRange(DeleteRangeRequest { key: key.into() })) }
    }
}
