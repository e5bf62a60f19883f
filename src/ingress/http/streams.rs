//! Streams: what is stored for a card or a room, and taking it back.

use actix_web::{HttpRequest, HttpResponse, http::Method};
use bytestring::ByteString;
use serde_json::{Value, json};

use super::{answer, path, query};
use crate::{
    auth::Caller,
    ingress::{refusal::Refusal, streams::Streams},
    push::Address,
    store::{DeviceInfo, StreamInfo},
};

/// What of a stream is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StreamRoute {
    OfCard,
    OfRoom,
    EntryOfCard,
    EntryOfRoom,
    Device,
}

/// Answers a request of a caller who may make it; `known` is the row of the path.
pub(super) async fn answer(
    route: StreamRoute,
    known: &str,
    streams: &Streams,
    caller: &Caller,
    request: &HttpRequest,
) -> Result<HttpResponse, Refusal> {
    query::no_parameters(request.query_string())?;
    let mut names = path::names(known, request.path())?.into_iter();
    let mut next = || names.next().unwrap_or_default();
    match route {
        StreamRoute::OfCard => of(streams, caller, Address::Card(next()), request).await,
        StreamRoute::OfRoom => of(streams, caller, Address::Room(next()), request).await,
        StreamRoute::EntryOfCard => entry(streams, caller, Address::Card(next()), &next()).await,
        StreamRoute::EntryOfRoom => entry(streams, caller, Address::Room(next()), &next()).await,
        StreamRoute::Device => {
            let card = Address::Card(next());
            streams.forget_device(caller, &card, &next()).await.map(|()| deleted())
        }
    }
}

async fn of(
    streams: &Streams,
    caller: &Caller,
    address: Address,
    request: &HttpRequest,
) -> Result<HttpResponse, Refusal> {
    if request.method() == Method::DELETE {
        return streams.delete_stream(caller, &address).await.map(|()| deleted());
    }
    let info = streams.describe(caller, &address).await?;
    Ok(answer::json(described(streams.node(), &address, &info)))
}

async fn entry(
    streams: &Streams,
    caller: &Caller,
    address: Address,
    seq: &ByteString,
) -> Result<HttpResponse, Refusal> {
    let number = seq.parse().ok().filter(|seq| *seq > 0);
    let number = number.ok_or_else(|| Refusal::field("seq", "must be a whole number, 1 or more"))?;
    streams.delete_entry(caller, &address, number).await.map(|()| deleted())
}

fn deleted() -> HttpResponse {
    answer::json(r#"{"code":0,"message":"ok"}"#.into())
}

fn described(node: &str, address: &Address, info: &StreamInfo) -> String {
    let StreamInfo { head, first, entries, bytes, devices } = info;
    let word = match address {
        Address::Card(_) => "card",
        Address::Room(_) => "room",
    };
    let (node, name) = (Value::from(node), Value::from(address.name()));
    let (epoch, head) = (head.epoch, head.seq);
    let devices: Vec<Value> = devices.iter().map(device).collect();
    let devices = Value::from(devices);
    format!(
        r#"{{"node":{node},"{word}":{name},"epoch":"{epoch}","first":{first},"head":{head},"entries":{entries},"bytes":{bytes},"devices":{devices}}}"#
    )
}

fn device(device: &DeviceInfo) -> Value {
    let DeviceInfo { name, declared, seq, idle } = device;
    json!({"name": &**name, "declared": declared, "seq": seq, "idle": idle.as_secs()})
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::push::{Epoch, PushId, StreamPosition};

    #[test]
    fn a_stream_is_told_with_its_readers() {
        let phone = DeviceInfo { name: "phone".into(), declared: true, seq: 5, idle: Duration::from_millis(61_900) };
        let info = StreamInfo {
            head: StreamPosition { epoch: Epoch::from_u32(0x0a1b_2c3d), seq: 7, id: PushId::from_parts(1, 1) },
            first: 3,
            entries: 4,
            bytes: 512,
            devices: vec![phone],
        };
        let text = described("vm", &Address::Card("al\"ice".into()), &info);
        let told: Value = serde_json::from_str(&text).expect("JSON");
        let devices = json!([{"name": "phone", "declared": true, "seq": 5, "idle": 61}]);
        let stream =
            json!({"epoch": "0a1b2c3d", "first": 3, "head": 7, "entries": 4, "bytes": 512, "devices": devices});
        let mut all = json!({"node": "vm", "card": "al\"ice"});
        all.as_object_mut().into_iter().for_each(|all| all.extend(stream.as_object().cloned().unwrap_or_default()));
        assert_eq!(told, all);
        assert!(described("vm", &Address::Room("r".into()), &info).contains(r#""room":"r","epoch""#));
    }
}
