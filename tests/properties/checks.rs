//! What holds for whatever bytes come from outside. tests/properties.rs tries them with proptest, fuzz/ with a fuzzer.

use std::path::Path;

use bytes::{Bytes, BytesMut};
use bytestring::ByteString;
use oxipush::internals::{
    config,
    push::{Push, PushId, Selection, Target},
    queue::{
        nsq::protocol::{self, NsqdResponse, ResponseDecoder},
        record::{self, Record},
    },
    wire::{
        close::Ending,
        dialect::{Command, Dialect, Joined},
        frame::{Frame, FrameReader, Message},
    },
};
use serde_json::Value;
use tokio_util::codec::Decoder;

/// What a reader made of some bytes.
#[derive(Debug, PartialEq)]
pub struct Read {
    pub messages: Vec<Message>,
    pub ending: Option<Ending>,
}

/// Reads `bytes` as they come in pieces of the given sizes, again and again; no sizes: all at once.
pub fn read(max_message: usize, bytes: &[u8], sizes: &[usize]) -> Read {
    let (mut reader, mut buffer, mut messages) = (FrameReader::new(max_message), BytesMut::new(), Vec::new());
    let (mut rest, mut turn) = (bytes, 0);
    while !rest.is_empty() {
        let size = sizes.get(turn % sizes.len().max(1)).map_or(rest.len(), |size| (*size).clamp(1, rest.len()));
        turn += 1;
        let (piece, tail) = rest.split_at(size);
        rest = tail;
        buffer.extend_from_slice(piece);
        loop {
            match reader.next(&mut buffer) {
                Ok(Some(message)) => messages.push(message),
                Ok(None) => break,
                Err(ending) => return Read { messages, ending: Some(ending) },
            }
        }
        assert!(buffer.len() < 14 + 125, "the reader left {} bytes in its buffer", buffer.len());
    }
    Read { messages, ending: None }
}

/// A client's bytes: never a panic, never a message beyond the bound, and the same however they were cut. The first byte
/// chooses the bound, the second the pieces.
pub fn frames(bytes: &[u8]) {
    let &[bound, piece, ref stream @ ..] = bytes else { return };
    let max_message = usize::from(bound) * 4;
    let whole = read(max_message, stream, &[]);
    assert_eq!(whole, read(max_message, stream, &[1]));
    assert_eq!(whole, read(max_message, stream, &[usize::from(piece), 3]));
    for message in &whole.messages {
        let length = match message {
            Message::Text(text) => text.len(),
            Message::Binary(payload) => payload.len(),
            Message::Ping(payload) | Message::Pong(payload) => {
                assert!(payload.len() <= 125);
                0
            }
            Message::Close(reason) => {
                let description = reason.as_ref().and_then(|reason| reason.description.as_ref());
                assert!(description.is_none_or(|text| text.len() <= 123));
                0
            }
        };
        assert!(length <= max_message, "{length} bytes where {max_message} are allowed");
    }
    if let Some(ending) = whole.ending {
        assert!(matches!(ending.close.code(), 1002 | 1007 | 3503), "{ending:?}");
    }
}

/// A client's text: never a panic, nothing kept from one message to the next, and what was parsed or pushed is said again
/// unchanged.
pub fn dialect(text: &str) {
    let text = ByteString::from(text);
    for dialect in Dialect::ALL.iter().copied() {
        let command = dialect.parse(&text);
        assert_eq!(command, dialect.parse(&text));
        if dialect == Dialect::Gpush {
            assert_eq!(command, dialect.parse_binary(text.as_bytes()));
        }
        match command {
            Command::Join(join) if dialect == Dialect::OxipushV1 => {
                let told = Joined { card: &join.card, app: &join.app, client: &1, expires_in: None };
                let joined = json(&dialect.joined(&told).expect("an answer"));
                assert_eq!(joined["data"]["card_id"], *join.card);
                assert_eq!(joined["data"]["app_id"], *join.app);
            }
            Command::ClientError(error) => {
                if let (Dialect::OxipushV1, Ok(Some(frame))) = (dialect, dialect.error(&error)) {
                    assert_eq!(json(&frame)["data"]["code"], error.code);
                }
            }
            Command::End(ending) => assert!(Frame::close(&ending).bytes().len() <= 127),
            _ => {}
        }
        let push = Push {
            id: PushId::from_parts(1_700_000_000_000, 1),
            from: text.clone(),
            target: Target::cards(vec!["c".into()]),
            content: text.clone().into(),
            collapse_key: None,
            deadline: None,
        };
        let frame = dialect.push(&push);
        match dialect {
            Dialect::Gopusher => assert_eq!(json(&frame)["data"], *text),
            Dialect::OxipushV1 => {
                let data = &json(&frame)["data"];
                assert_eq!(data["content"], *text);
                assert_eq!(data["from"], *text);
                assert_eq!(data["id"], push.id.to_string());
            }
            Dialect::GoPush => {
                assert_eq!(json(&frame)["data"]["items"], serde_json::json!([*text]));
                let both = dialect.pushes([&push, &push].into_iter()).expect("frames of several pushes");
                assert_eq!(json(&both)["data"]["items"], serde_json::json!([*text, *text]));
            }
            Dialect::Gpush => assert_eq!(frame, Frame::text(&text)),
        }
    }
}

/// The JSON of an unmasked text frame whose header is in its shortest form.
fn json(frame: &Frame) -> Value {
    let bytes = frame.bytes();
    assert_eq!(bytes[0], 0x81, "one text frame");
    let number = |bytes: &[u8]| bytes.iter().fold(0_usize, |sum, byte| sum << 8 | usize::from(*byte));
    let (header, length) = match bytes[1] {
        short @ 0..=125 => (2, usize::from(short)),
        126 => (4, number(&bytes[2..4])),
        127 => (10, number(&bytes[2..10])),
        _ => panic!("a server must not mask"),
    };
    assert_eq!(bytes.len(), header + length);
    assert!(header == 2 || (header == 4 && length > 125) || (header == 10 && length > 0xFFFF));
    serde_json::from_slice(&bytes[header..]).expect("a frame of JSON")
}

/// A record from the queue: never a panic, and what could be read is the same after being written and read again.
pub fn queue_record(bytes: &[u8]) {
    let _ = record::decode(Bytes::copy_from_slice(bytes));
    // with an id (field 15), which bytes of chance hardly ever have
    let whole = [bytes, &[15 << 3 | 2, 16], &PushId::from_parts(5, 6).to_bytes()].concat();
    match record::decode(whole.into()) {
        Ok(Record::Push(push)) => {
            assert_ne!(push.target.selection(), Selection::Nobody);
            assert_eq!(record::decode(record::encode(&push)), Ok(Record::Push(push)));
        }
        Ok(Record::Stored(stored)) => {
            assert_eq!(record::decode(record::encode_stored(&stored)), Ok(Record::Stored(stored)));
        }
        Ok(Record::Rebalance(order)) => {
            assert_eq!(record::decode(record::encode_rebalance(&order)), Ok(Record::Rebalance(order)));
        }
        Ok(Record::Presence(notice)) => {
            assert_eq!(record::decode(record::encode_presence(&notice)), Ok(Record::Presence(notice)));
        }
        Ok(Record::Disconnect(order)) => {
            assert_eq!(record::decode(record::encode_disconnect(&order)), Ok(Record::Disconnect(order)));
        }
        Err(_) => {}
    }
}

/// A configuration file and an environment: never a panic, and a refusal names at least one error.
pub fn configuration(text: &str, folder: &Path) {
    let file = folder.join("fuzzed.ini");
    std::fs::write(&file, text).expect("a file in a temporary folder");
    let variables = text.lines().filter_map(|line| line.split_once('=')).map(|(key, value)| {
        (format!("OXIPUSH__{}", key.trim().to_uppercase().replace('.', "__")), value.trim().to_owned())
    });
    for refused in [config::load(Some(&file), []).err(), config::load(None, variables).err()].into_iter().flatten() {
        assert!(!refused.0.is_empty() && refused.0.iter().all(|error| !error.is_empty()), "{refused:?}");
    }
}

/// nsqd's responses to a publisher are the same however their bytes are cut, and none is larger than the bound.
pub fn nsq_answers(bytes: &[u8]) {
    let &[piece, ref stream @ ..] = bytes else { return };
    let read = |piece: usize| {
        let (mut reader, mut buffer, mut responses) = (ResponseDecoder::new(), BytesMut::new(), Vec::new());
        for piece in stream.chunks(piece) {
            buffer.extend_from_slice(piece);
            loop {
                match reader.decode(&mut buffer) {
                    Ok(Some(response)) => responses.push(response),
                    Ok(None) => break,
                    Err(_) => return (responses, true),
                }
            }
            // what is announced is not taken memory for before it is known to be within the bound
            assert!(buffer.capacity() <= 4 * (protocol::MAX_FRAME + stream.len()));
        }
        (responses, false)
    };
    let whole = read(stream.len().max(1));
    assert_eq!(whole, read(1));
    assert_eq!(whole, read(usize::from(piece).max(1)));
    for response in whole.0 {
        if let NsqdResponse::Error(error) = response {
            // a byte that is no UTF-8 becomes three
            assert!(error.words.len() <= 3 * protocol::MAX_FRAME);
        }
    }
}
