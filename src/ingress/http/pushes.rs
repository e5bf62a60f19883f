//! `GET /pushes`: what became of the last pushes of this node.

use actix_web::{HttpRequest, HttpResponse};
use serde_json::{Value, json};

use super::{answer, path, query};
use crate::{
    auth::Caller,
    ingress::{
        refusal::{Refusal, RefusalKind},
        streams::Streams,
    },
    push::{Address, PushId},
    store::DeviceInfo,
    telemetry::{PushTrace, PushTraces, TracedPlace},
};

/// Answers with the last ones.
pub(super) fn list(traces: &PushTraces, node: &str, request: &HttpRequest) -> Result<HttpResponse, Refusal> {
    let limit = query::limit(request.query_string())?;
    let pushes: Vec<Value> = traces.last(limit).iter().map(told).collect();
    Ok(answer::json(json!({"node": node, "pushes": pushes}).to_string()))
}

/// Answers with one, and with who has acknowledged it where it is stored.
pub(super) async fn one(
    traces: &PushTraces,
    streams: &Streams,
    caller: &Caller,
    request: &HttpRequest,
) -> Result<HttpResponse, Refusal> {
    query::no_parameters(request.query_string())?;
    let id = PushId::parse(&path::name(request.path())?);
    let id = id.ok_or_else(|| Refusal::field("id", "is no push's id: it has 26 characters"))?;
    let trace = traces.get(id).ok_or_else(|| unknown(id))?;
    let mut places = Vec::with_capacity(trace.places.len());
    for place in &trace.places {
        places.push(told_place(streams, caller, place).await?);
    }
    let mut push = told(&trace);
    push["node"] = streams.node().into();
    push["streams"] = places.into();
    Ok(answer::json(push.to_string()))
}

fn unknown(id: PushId) -> Refusal {
    let message = format!(
        "this node knows nothing of the push {id}, or not any more: it remembers about [http] traced_pushes; other nodes may know it"
    );
    Refusal::new(RefusalKind::NotFound, message)
}

fn told(trace: &PushTrace) -> Value {
    let PushTrace { id, source, published_in, offered_in, offered, dropped, places: _, is_complete } = trace;
    let dropped = dropped.iter().map(|(reason, count)| json!({"reason": reason.word(), "count": count}));
    let dropped: Vec<Value> = dropped.collect();
    let mut told = json!({
        "id": id.to_string(),
        "accepted": id.millis(),
        "offered": offered,
        "dropped": dropped,
        "is_complete": is_complete,
    });
    if let Some(source) = source {
        told["source"] = (*source).into();
    }
    for (name, millis) in [("published_in", published_in), ("offered_in", offered_in)] {
        if let Some(millis) = millis {
            told[name] = (*millis).into();
        }
    }
    told
}

/// A place in a stream, and who has read it.
async fn told_place(streams: &Streams, caller: &Caller, place: &TracedPlace) -> Result<Value, Refusal> {
    let TracedPlace { address, epoch, seq } = place;
    let stream = match streams.describe(caller, address).await {
        Ok(stream) => Some(stream).filter(|stream| stream.head.epoch == *epoch),
        Err(refusal) if refusal.kind == RefusalKind::NotFound => None,
        Err(refusal) => return Err(refusal),
    };
    let word = match address {
        Address::Card(_) => "card",
        Address::Room(_) => "room",
    };
    let devices = stream.iter().flat_map(|stream| &stream.devices).map(|device| {
        let DeviceInfo { name, declared, seq: has, idle: _ } = device;
        json!({"name": &**name, "declared": declared, "seq": has, "acknowledged": has >= seq})
    });
    let devices: Vec<Value> = devices.collect();
    Ok(json!({
        word: address.name(),
        "epoch": epoch.to_string(),
        "seq": seq,
        "is_kept": stream.as_ref().is_some_and(|stream| stream.entries > 0 && stream.first <= *seq),
        "devices": devices,
    }))
}
