//! A gRPC caller that does what no library does: HTTP/2 by hand.

use bytes::Bytes;
use h2::{
    SendStream,
    client::{ResponseFuture, SendRequest},
};
use http::{HeaderMap, Request};
use oxipush::internals::proto::rpc::PushRequest;
use prost::Message;
use tokio::{net::TcpStream, task::JoinHandle};
use tonic::Status;
use tonic_types::StatusExt;

use super::support::{client::PATIENCE, gateway::Node};

/// A connection, which answers pings.
pub struct Raw {
    send: SendRequest<Bytes>,
    ended: JoinHandle<()>,
}

/// A call whose request may go on.
pub struct Call {
    answer: ResponseFuture,
    request: SendStream<Bytes>,
}

/// How a call ended.
#[derive(Debug)]
pub struct End {
    pub http: u16,
    pub body: Bytes,
    /// The gRPC status number; `None`: the answer was not gRPC's.
    pub status: Option<i32>,
    /// The refusal's word.
    pub reason: String,
}

impl Raw {
    pub async fn connect(node: &Node) -> Self {
        let stream = TcpStream::connect(node.listeners.grpc).await.unwrap();
        let (send, connection) = h2::client::handshake(stream).await.unwrap();
        Self { send, ended: tokio::spawn(async move { drop(connection.await) }) }
    }

    /// Begins a call with these headers beside gRPC's own.
    pub async fn call(&mut self, path: &str, headers: &[(&str, &str)]) -> Result<Call, h2::Error> {
        let grpc = [("content-type", "application/grpc"), ("te", "trailers")];
        self.request("POST", path, &[&grpc, headers].concat(), false).await
    }

    pub async fn request(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        whole: bool,
    ) -> Result<Call, h2::Error> {
        let mut request = Request::builder().method(method).uri(format!("http://gateway{path}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        std::future::poll_fn(|context| self.send.poll_ready(context)).await?;
        let (answer, request) = self.send.send_request(request.body(()).unwrap(), whole)?;
        Ok(Call { answer, request })
    }

    /// Waits until the gateway has ended it.
    pub async fn ended(self) {
        tokio::time::timeout(PATIENCE, self.ended).await.expect("the connection is ended").unwrap();
    }
}

impl Call {
    pub fn send(&mut self, bytes: impl Into<Bytes>, last: bool) {
        // a gateway that has refused the call reads no more of it
        let _ = self.request.send_data(bytes.into(), last);
    }

    /// Waits for its end.
    pub async fn end(self) -> End {
        tokio::time::timeout(PATIENCE, self.ending()).await.expect("the call ends").unwrap()
    }

    async fn ending(self) -> Result<End, h2::Error> {
        let Self { answer, request } = self;
        let (head, mut body) = answer.await?.into_parts();
        let mut bytes = Vec::new();
        while let Some(data) = body.data().await {
            let data = data?;
            body.flow_control().release_capacity(data.len())?;
            bytes.extend_from_slice(&data);
        }
        let trailers = body.trailers().await?.unwrap_or(head.headers);
        drop(request);
        let status = status(&trailers);
        let reason = status.as_ref().and_then(|status| status.get_details_error_info());
        if let Some(info) = &reason {
            assert_eq!(info.domain, "oxipush");
        }
        Ok(End {
            http: head.status.as_u16(),
            body: bytes.into(),
            status: status.map(|status| status.code() as i32),
            reason: reason.map(|info| info.reason).unwrap_or_default(),
        })
    }
}

fn status(headers: &HeaderMap) -> Option<Status> {
    Status::from_header_map(headers)
}

/// A message as gRPC sends it.
pub fn framed(message: &impl Message) -> Vec<u8> {
    let mut bytes = vec![0];
    bytes.extend((message.encoded_len() as u32).to_be_bytes());
    message.encode(&mut bytes).unwrap();
    bytes
}

/// The beginning of a message of `length` bytes: its head and `sent` bytes.
pub fn begun(length: u32, sent: usize) -> Vec<u8> {
    let mut bytes = vec![0];
    bytes.extend(length.to_be_bytes());
    bytes.resize(5 + sent, 0);
    bytes
}

pub fn push(card: &str, content: &str) -> PushRequest {
    PushRequest { from: "test".into(), to: vec![card.into()], content: content.into(), ..Default::default() }
}
