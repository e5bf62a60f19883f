//! How commands speak to a node: over gRPC, one call each.

use std::time::Duration;

use clap::Args;
use tonic::{
    Code, Request, Response, Status,
    metadata::{Ascii, MetadataValue},
    transport::{Channel, Endpoint},
};

use crate::{proto::rpc::rpc_client::RpcClient, telemetry::root_cause};

/// How often an open stream's node is asked whether it is there.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// The largest event: no node takes a larger message of a client.
const MAX_EVENT: usize = 64 << 20;

/// Which node, and how it is asked.
#[derive(Args)]
pub(super) struct NodeArguments {
    /// The node's gRPC address
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:9002")]
    grpc: String,
    /// A key of the node with the command's scope; better given as OXIPUSH_KEY, which no list of processes shows
    #[arg(long, value_name = "KEY", env = "OXIPUSH_KEY", hide_env_values = true)]
    key: Option<String>,
    /// How long to wait for the answer
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = humantime::parse_duration)]
    timeout: Duration,
}

impl NodeArguments {
    /// Makes one call, and gives its answer. `late` says what may still happen where none came in time.
    pub(super) async fn call<Q, A>(
        &self,
        message: Q,
        late: &str,
        call: impl AsyncFnOnce(&mut RpcClient<Channel>, Request<Q>) -> Result<Response<A>, Status>,
    ) -> Result<A, String> {
        let timeout = self.timeout;
        let request = self.request(message)?;
        let mut node = self.connect(endpoint(&self.grpc)?.timeout(timeout), 1 << 20).await?;
        let answer = tokio::time::timeout(timeout, call(&mut node, request)).await;
        let answer = answer.map_err(|_| format!("no answer within {timeout:?}; {late}"))?;
        Ok(answer.map_err(|status| refused(&status, late))?.into_inner())
    }

    /// Opens a stream, which may go on for ever; its answer is awaited.
    pub(super) async fn open<Q, A>(
        &self,
        requests: Q,
        call: impl AsyncFnOnce(&mut RpcClient<Channel>, Request<Q>) -> Result<Response<A>, Status>,
    ) -> Result<Result<A, Status>, String> {
        let request = self.request(requests)?;
        // a node that is gone without a word is noticed
        let endpoint = endpoint(&self.grpc)?.http2_keep_alive_interval(KEEP_ALIVE).keep_alive_while_idle(true);
        let mut node = self.connect(endpoint, MAX_EVENT).await?;
        let answer = tokio::time::timeout(self.timeout, call(&mut node, request)).await;
        let answer = answer.map_err(|_| format!("no answer within {:?}", self.timeout))?;
        Ok(answer.map(Response::into_inner))
    }

    /// With the key.
    fn request<Q>(&self, message: Q) -> Result<Request<Q>, String> {
        let mut request = Request::new(message);
        if let Some(bearer) = bearer(self.key.as_deref())? {
            request.metadata_mut().insert("authorization", bearer);
        }
        Ok(request)
    }

    async fn connect(&self, endpoint: Endpoint, max_message: usize) -> Result<RpcClient<Channel>, String> {
        let grpc = &self.grpc;
        let channel = endpoint.connect_timeout(self.timeout).connect().await.map_err(|error| {
            format!("no node answers at {grpc}: {}; is it running, and is this its [grpc] listen?", root_cause(&error))
        })?;
        Ok(RpcClient::new(channel).max_decoding_message_size(max_message))
    }
}

/// The node's address; `host:port` is taken as `http://host:port`.
fn endpoint(grpc: &str) -> Result<Endpoint, String> {
    if grpc.starts_with("https://") {
        return Err(format!(
            "{grpc}: this program speaks gRPC without TLS: use http://, or push through your TLS proxy"
        ));
    }
    let url = if grpc.contains("://") { grpc.to_owned() } else { format!("http://{grpc}") };
    let wrong = |error| format!("--grpc {grpc}: {error}; write http://host:port");
    Endpoint::from_shared(url).map_err(wrong)
}

fn bearer(key: Option<&str>) -> Result<Option<MetadataValue<Ascii>>, String> {
    let Some(key) = key.filter(|key| !key.is_empty()) else { return Ok(None) };
    let value = format!("Bearer {key}").parse::<MetadataValue<Ascii>>();
    let mut value = value.map_err(|_| "the key has characters that no header can carry: use visible ASCII")?;
    value.set_sensitive(true);
    Ok(Some(value))
}

/// A refusal in words; docs/errors.md has them all.
pub(super) fn refused(status: &Status, late: &str) -> String {
    let code = format!("{:?}", status.code());
    let what = match status.message() {
        "" => status.code().description(),
        message => message,
    };
    let remedy = match status.code() {
        Code::Unauthenticated => " (give a key of the node as --key or OXIPUSH_KEY)",
        Code::ResourceExhausted => " (nothing was accepted)",
        Code::Unavailable | Code::DeadlineExceeded => &format!(" ({late})"),
        _ => "",
    };
    format!("refused: {code}: {what}{remedy}")
}
