//! A node that is none: it says another id than the one under which it is registered, or answers with very much, or in no order.

use std::net::Ipv4Addr;

use oxipush::internals::proto::peers::{
    Answer, ConnectionsAnswer, NamedCount, NamesAnswer, Question, answer,
    peers_server::{Peers, PeersServer},
};
use tonic::{
    Request, Response, Status,
    transport::{Server, server::TcpIncoming},
};

struct Liar {
    id: &'static str,
    names: Vec<String>,
}

#[tonic::async_trait]
impl Peers for Liar {
    async fn ask(&self, _: Request<Question>) -> Result<Response<Answer>, Status> {
        let answer = if !self.names.is_empty() {
            let names = self.names.iter().map(|name| NamedCount { name: name.clone(), count: 1 }).collect();
            answer::Answer::Names(NamesAnswer { names, more: false })
        } else {
            answer::Answer::Connections(ConnectionsAnswer { connections: 1_000_000 })
        };
        Ok(Response::new(Answer { node: self.id.into(), answer: Some(answer) }))
    }
}

/// Serves at this address, and says this id; with names it answers every question with them. Its host:port.
pub async fn serve(at: Ipv4Addr, id: &'static str, names: Vec<String>) -> String {
    let incoming = TcpIncoming::bind((at, 9003).into()).unwrap();
    let server = Server::builder().add_service(PeersServer::new(Liar { id, names }));
    tokio::spawn(server.serve_with_incoming(incoming));
    format!("{at}:9003")
}
