//! `POST /rebalance`.

use actix_web::HttpResponse;
use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::{answer, json::whole};
use crate::ingress::{
    rebalances::{NodeMove, RebalanceDraft},
    refusal::{Refusal, RefusalKind},
};

/// Reads the body; an empty one asks for all nodes.
pub(super) fn read(body: &Bytes) -> Result<RebalanceDraft, Refusal> {
    if body.trim_ascii().is_empty() {
        return Ok(RebalanceDraft::default());
    }
    let fields: Map<String, Value> = serde_json::from_slice(body).map_err(|error| {
        let message = format!("the body is no JSON object: {error}; send {{}} or {{\"node\":\"a node's id\"}}");
        Refusal::new(RefusalKind::BadJson, message)
    })?;
    let mut draft = RebalanceDraft::default();
    for (field, value) in fields {
        match (field.as_str(), value) {
            ("node" | "keep", Value::Null) => {}
            ("node", Value::String(node)) => draft.node = Some(node.into()),
            ("node", _) => return Err(Refusal::field("node", "must be a string: the id of a node")),
            ("keep", value) => {
                let keep = value.as_u64().or_else(|| whole(value.as_f64()?));
                let bad = || Refusal::field("keep", "must be a whole number, 0 or more");
                draft.keep = Some(keep.ok_or_else(bad)?);
            }
            (other, _) => {
                let other: String = other.chars().take(64).collect();
                let message = format!("`{other}` is no field; a rebalance has node, keep");
                return Err(Refusal::new(RefusalKind::UnknownField, message));
            }
        }
    }
    Ok(draft)
}

/// The answer: what each node was told.
pub(super) fn answer(moves: &[NodeMove]) -> HttpResponse {
    let told: Vec<Value> = moves
        .iter()
        .map(|one| json!({"node": one.node, "connections": one.connections, "keep": one.keep, "moves": one.moves()}))
        .collect();
    answer::json(json!({"code": 0, "message": "ok", "nodes": told}).to_string())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_rebalance_is_read_and_every_mistake_is_named() {
        let draft = |body: &'static str| read(&Bytes::from_static(body.as_bytes()));
        for empty in ["", " ", "{}", r#"{"node":null,"keep":null}"#] {
            assert_eq!(draft(empty), Ok(RebalanceDraft::default()), "{empty}");
        }
        let whole = RebalanceDraft { node: Some("gw-1".into()), keep: Some(0) };
        assert_eq!(draft(r#"{"node":"gw-1","keep":0}"#), Ok(whole));
        for (body, kind, told) in [
            ("[]", RefusalKind::BadJson, "the body is no JSON object"),
            (r#"{"nodes":"a"}"#, RefusalKind::UnknownField, "`nodes` is no field"),
            (r#"{"node":1}"#, RefusalKind::BadField, "`node` must be a string"),
            (r#"{"keep":-1}"#, RefusalKind::BadField, "`keep` must be a whole number"),
            (r#"{"keep":"1"}"#, RefusalKind::BadField, "`keep` must be a whole number"),
        ] {
            let refusal = draft(body).unwrap_err();
            assert_eq!(refusal.kind, kind, "{body}");
            assert!(refusal.message.starts_with(told), "{body}: {}", refusal.message);
        }
    }
}
