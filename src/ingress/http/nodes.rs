//! `GET /nodes`.

use actix_web::{HttpRequest, HttpResponse};
use serde_json::{Value, json};

use super::{answer, query};
use crate::{
    config::{INGRESS, SOCKET},
    ingress::{
        nodes::{KnownNode, Nodes},
        refusal::Refusal,
    },
};

/// Answers with all nodes.
pub(super) async fn answer(nodes: &Nodes, request: &HttpRequest) -> Result<HttpResponse, Refusal> {
    query::no_parameters(request.query_string())?;
    let all: Vec<Value> = nodes.all().await.iter().map(node).collect();
    Ok(answer::json(json!({"node": nodes.own_id(), "nodes": all}).to_string()))
}

fn node(known: &KnownNode) -> Value {
    let KnownNode { node, url, connections } = known;
    let roles: Vec<_> = [INGRESS, SOCKET].into_iter().filter(|role| node.has_role(role)).collect();
    let mut told = json!({
        "id": node.id,
        "roles": roles,
        "phase": node.phase,
        "weight": node.weight,
        "version": node.version,
    });
    if let Some(url) = url {
        told["url"] = url.as_str().into();
    }
    if let Some(connections) = connections {
        told["connections"] = (*connections).into();
    }
    told
}
