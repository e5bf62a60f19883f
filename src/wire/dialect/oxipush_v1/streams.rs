//! What oxipush.v1 says of streams: `device`, `resume` and `ack` of a client; `stream` and `reset` of the gateway.

use bytestring::ByteString;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{super::JsonObject, write};
use crate::{
    push::{Address, Epoch, PushId, Resume},
    wire::{
        dialect::{ClientError, Command, StreamMark, StreamState},
        frame::{Frame, json_string},
    },
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct V1Resume<'a> {
    #[serde(borrow, default)]
    epoch: Option<&'a RawValue>,
    #[serde(borrow, default)]
    seq: Option<&'a RawValue>,
    #[serde(borrow, default)]
    id: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct V1Ack<'a> {
    #[serde(borrow, default)]
    card: Option<&'a RawValue>,
    #[serde(borrow, default)]
    seq: Option<&'a RawValue>,
    #[serde(borrow, default)]
    epoch: Option<&'a RawValue>,
}

/// The `device` of a join; the names' own check looks at what it says.
pub(super) fn device(raw: Option<&RawValue>) -> Result<Option<ByteString>, ClientError> {
    let Some(raw) = raw else { return Ok(None) };
    let device = text(raw).ok_or_else(|| bad_json("device must be a text"))?;
    Ok(Some(device.into()))
}

/// The `resume` of a join, or of a subscribe.
pub(super) fn resume(raw: Option<&RawValue>) -> Result<Option<Resume>, ClientError> {
    let Some(raw) = raw else { return Ok(None) };
    let JsonObject(V1Resume { epoch, seq, id }) =
        serde_json::from_str(raw.get()).map_err(|error| bad_json(&format!("resume: {error}")))?;
    let epoch = epoch.and_then(text).and_then(|text| Epoch::parse(&text)).ok_or_else(|| {
        bad_json("resume.epoch must be the 8 hexadecimal digits that `stream` or `subscribed` said, as a text")
    })?;
    let seq = seq.and_then(number).ok_or_else(|| bad_json("resume.seq must be a whole number, 0 or more"))?;
    let id = match id {
        None => None,
        Some(id) => {
            let id = text(id).and_then(|text| PushId::parse(&text));
            Some(id.ok_or_else(|| bad_json("resume.id must be the 26 characters of a push's id, as a text"))?)
        }
    };
    Ok(Some(Resume { epoch, seq, id }))
}

pub(super) fn ack(V1Ack { card, seq, epoch }: V1Ack<'_>) -> Result<Command, ClientError> {
    let card = card.and_then(text).ok_or_else(|| bad_json("card must be the card whose stream is acknowledged"))?;
    let seq = seq.and_then(number).ok_or_else(|| bad_json("seq must be a whole number, 0 or more"))?;
    let epoch = match epoch {
        None => None,
        Some(raw) => {
            let epoch = text(raw).and_then(|text| Epoch::parse(&text));
            Some(
                epoch
                    .ok_or_else(|| bad_json("epoch must be the 8 hexadecimal digits that `stream` said, as a text"))?,
            )
        }
    };
    Ok(Command::Ack { card: card.into(), seq, epoch })
}

fn text(raw: &RawValue) -> Option<String> {
    serde_json::from_str(raw.get()).ok()
}

fn number(raw: &RawValue) -> Option<u64> {
    serde_json::from_str(raw.get()).ok()
}

fn bad_json(message: &str) -> ClientError {
    ClientError::new("bad_json", format!("bad JSON: {message}"))
}

/// Whose stream it is, and where the push stands in it, among the fields of a push.
pub(super) fn write_mark(json: &mut Vec<u8>, mark: &StreamMark<'_>) {
    json.push(b',');
    write_address(json, mark.address);
    write(json, format_args!(r#","seq":{},"prev":{}"#, mark.seq, mark.prev));
}

/// `stream`, or `reset`.
pub(super) fn state(event: &str, state: &StreamState<'_>) -> Frame {
    let StreamState { address, epoch, seq, waiting } = *state;
    Frame::text_in_place(address.name().len() + 128, |json| {
        write(json, format_args!(r#"{{"event":"{event}","data":{{"#));
        write_address(json, address);
        write(json, format_args!(r#","epoch":"{epoch}","seq":{seq},"waiting":{waiting}}}}}"#));
    })
}

fn write_address(json: &mut Vec<u8>, address: &Address) {
    match address {
        Address::Card(card) => {
            json.extend_from_slice(br#""card":"#);
            json_string(json, card);
        }
        Address::Room(room) => {
            json.extend_from_slice(br#""room":"#);
            json_string(json, room);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;
    use crate::{
        push::{Push, StreamPosition, Target},
        wire::dialect::{Dialect, JoinRequest, RoomRequest, Subscribed, oxipush_v1::tests::*},
    };

    const ID: &str = "01JDQ0000000000000000000AB";

    fn at(seq: u64, id: Option<&str>) -> Resume {
        let id = id.map(|id| PushId::parse(id).unwrap());
        Resume { epoch: Epoch::from_u32(0x0a1b_2c3d), seq, id }
    }

    #[test]
    fn a_join_may_name_a_device_and_a_place_and_a_subscribe_a_place() {
        let join = JoinRequest { card: "c".into(), device: Some("my phone".into()), ..JoinRequest::default() };
        assert_eq!(
            parse(r#"{"event":"join","data":{"card_id":"c","device":"my phone"}}"#),
            Command::Join(join.clone())
        );
        let text = format!(
            r#"{{"event":"join","data":{{"card_id":"c","device":"my phone","resume":{{"epoch":"0a1b2c3d","seq":7,"id":"{ID}"}}}}}}"#
        );
        assert_eq!(parse(&text), Command::Join(JoinRequest { resume: Some(at(7, Some(ID))), ..join }));
        let subscribe = |resume| Command::Subscribe(RoomRequest { room: "r".into(), private: false, resume });
        assert_eq!(
            parse(r#"{"event":"subscribe","data":{"room":"r","resume":{"epoch":"0A1B2C3D","seq":0,"id":null}}}"#),
            subscribe(Some(at(0, None)))
        );
        assert_eq!(parse(r#"{"event":"subscribe","data":{"room":"r","resume":null}}"#), subscribe(None));
        let ack = Command::Ack { card: "c".into(), seq: u64::MAX, epoch: None };
        assert_eq!(parse(r#"{"event":"ack","data":{"card":"c","seq":18446744073709551615}}"#), ack);
        let ack = Command::Ack { card: "c".into(), seq: 7, epoch: Epoch::parse("0a1b2c3d") };
        assert_eq!(parse(r#"{"event":"ack","data":{"card":"c","seq":7,"epoch":"0a1b2c3d"}}"#), ack);
    }

    #[test]
    fn what_is_wrong_of_a_place_or_an_ack_is_told_by_its_field() {
        for (resume, field) in [
            (r#""x""#, "resume"),
            (r#"["0a1b2c3d",1]"#, "resume"),
            (r#"{"epoch":"0a1b2c3d","seq":1,"more":1}"#, "more"),
            (r#"{"seq":1}"#, "resume.epoch"),
            (r#"{"epoch":1,"seq":1}"#, "resume.epoch"),
            (r#"{"epoch":"zz","seq":1}"#, "resume.epoch"),
            (r#"{"epoch":"0a1b2c3d"}"#, "resume.seq"),
            (r#"{"epoch":"0a1b2c3d","seq":-1}"#, "resume.seq"),
            (r#"{"epoch":"0a1b2c3d","seq":1.5}"#, "resume.seq"),
            (r#"{"epoch":"0a1b2c3d","seq":"1"}"#, "resume.seq"),
            (r#"{"epoch":"0a1b2c3d","seq":18446744073709551616}"#, "resume.seq"),
            (r#"{"epoch":"0a1b2c3d","seq":1,"id":"no id"}"#, "resume.id"),
            (r#"{"epoch":"0a1b2c3d","seq":1,"id":7}"#, "resume.id"),
        ] {
            for event in ["join", "subscribe"] {
                let name = if event == "join" { "card_id" } else { "room" };
                let error = error_of(&format!(r#"{{"event":"{event}","data":{{"{name}":"c","resume":{resume}}}}}"#));
                assert_eq!(error.code, "bad_json", "{resume}");
                assert!(error.message.contains(field), "{resume}: {}", error.message);
            }
        }
        for device in ["7", "[]", "true"] {
            let error = error_of(&format!(r#"{{"event":"join","data":{{"card_id":"c","device":{device}}}}}"#));
            assert_eq!((error.code, &*error.message), ("bad_json", "bad JSON: device must be a text"));
        }
        for (data, field) in [
            (r#"{"card":"c"}"#, "seq"),
            (r#"{"card":"c","seq":-1}"#, "seq"),
            (r#"{"seq":1}"#, "card"),
            (r#"{"card":1,"seq":1}"#, "card"),
            (r#"{"card":"c","seq":1,"room":"r"}"#, "room"),
        ] {
            let error = error_of(&format!(r#"{{"event":"ack","data":{data}}}"#));
            assert_eq!(error.code, "bad_json", "{data}");
            assert!(error.message.contains(field), "{data}: {}", error.message);
        }
        assert!(error_of(r#"{"event":"ack"}"#).message.contains("a card and a seq"));
    }

    #[test]
    fn a_push_of_a_stream_names_it_and_its_place() {
        let v1 = Dialect::OxipushV1;
        let push =
            Push { id: PushId::from_parts(1_700_000_000_123, 7), from: "shop".into(), ..Push::to("alice", "hi") };
        let id = push.id.to_string();
        let alice = Address::Card("alice".into());
        assert_eq!(
            text_of(&v1.stored(&push, &StreamMark { address: &alice, seq: 9, prev: 7 })),
            format!(
                r#"{{"event":"push","data":{{"id":"{id}","from":"shop","ts":1700000000123,"card":"alice","seq":9,"prev":7,"content":"hi"}}}}"#
            )
        );
        let push = Push { target: Target { room: Some("lobby".into()), ..Target::default() }, ..push };
        let lobby = Address::Room("lobby".into());
        assert_eq!(
            text_of(&v1.stored(&push, &StreamMark { address: &lobby, seq: u64::MAX, prev: 0 })),
            format!(
                r#"{{"event":"push","data":{{"id":"{id}","from":"shop","ts":1700000000123,"room":"lobby","seq":18446744073709551615,"prev":0,"content":"hi"}}}}"#
            )
        );
        // the other dialects have no words for it
        for dialect in [Dialect::Gopusher, Dialect::GoPush, Dialect::Gpush] {
            assert_eq!(
                dialect.stored(&push, &StreamMark { address: &lobby, seq: 1, prev: 0 }).bytes(),
                dialect.push(&push).bytes()
            );
        }
    }

    #[test]
    fn where_a_stream_stands_is_told_by_name() {
        let v1 = Dialect::OxipushV1;
        let (alice, lobby) = (Address::Card("al\"ice".into()), Address::Room("lobby".into()));
        let epoch = Epoch::from_u32(0x0a1b_2c3d);
        let state = StreamState { address: &alice, epoch, seq: 7, waiting: 3 };
        assert_eq!(
            text_of(&v1.stream(&state).unwrap()),
            r#"{"event":"stream","data":{"card":"al\"ice","epoch":"0a1b2c3d","seq":7,"waiting":3}}"#
        );
        let state = StreamState { address: &lobby, epoch, seq: 0, waiting: 0 };
        assert_eq!(
            text_of(&v1.reset(&state).unwrap()),
            r#"{"event":"reset","data":{"room":"lobby","epoch":"0a1b2c3d","seq":0,"waiting":0}}"#
        );
        let stream = Some(StreamPosition { epoch, seq: 4, id: PushId::NIL });
        let subscribed = Subscribed { room: "lobby", presence: None, stream };
        assert_eq!(
            json_of(&v1.subscribed(&subscribed).unwrap()),
            json!({"event": "subscribed", "data": {"room": "lobby", "epoch": "0a1b2c3d", "seq": 4}})
        );
        for dialect in [Dialect::Gopusher, Dialect::GoPush, Dialect::Gpush] {
            assert_eq!((dialect.stream(&state), dialect.reset(&state)), (None, None));
        }
    }
}
