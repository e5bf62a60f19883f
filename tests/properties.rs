//! The properties of fuzz/, tried with proptest, and the frame reader against a model.
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

#[path = "properties/checks.rs"]
mod checks;

use std::fs;

use bytes::Bytes;
use oxipush::internals::wire::frame::Message;
use proptest::{collection::vec, prelude::*, sample::Index};

/// A frame as a client may send it.
#[derive(Clone, Debug)]
struct Sent {
    fin: bool,
    opcode: u8,
    mask: [u8; 4],
    payload: Vec<u8>,
}

impl Sent {
    /// RFC 6455 §5.2, word for word and byte by byte.
    fn encode(&self, bytes: &mut Vec<u8>) {
        bytes.push(u8::from(self.fin) << 7 | self.opcode);
        match self.payload.len() {
            length @ 0..126 => bytes.push(0x80 | length as u8),
            length @ 126..65_536 => {
                bytes.push(0x80 | 126);
                bytes.extend_from_slice(&(length as u16).to_be_bytes());
            }
            length => {
                bytes.push(0x80 | 127);
                bytes.extend_from_slice(&(length as u64).to_be_bytes());
            }
        }
        bytes.extend_from_slice(&self.mask);
        bytes.extend(self.payload.iter().enumerate().map(|(at, byte)| byte ^ self.mask[at % 4]));
    }
}

/// A message, where its fragments are cut, and the pings that come behind fragments.
#[derive(Clone, Debug)]
struct Plan {
    text: bool,
    payload: String,
    cuts: Vec<Index>,
    pings: Vec<Vec<u8>>,
    mask: [u8; 4],
}

fn plan() -> impl Strategy<Value = Plan> {
    let payload = prop_oneof![".{0,40}", "[a-z€𝄞]{100,300}", Just("ü".repeat(40_000))];
    let pings = vec(vec(any::<u8>(), 0..=125), 0..3);
    (any::<bool>(), payload, vec(any::<Index>(), 0..4), pings, any::<[u8; 4]>())
        .prop_map(|(text, payload, cuts, pings, mask)| Plan { text, payload, cuts, pings, mask })
}

/// The frames of a plan, and the messages they are.
fn model(plan: &Plan) -> (Vec<Sent>, Vec<Message>) {
    let bytes = plan.payload.as_bytes();
    let mut ends: Vec<usize> = plan.cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
    ends.push(bytes.len());
    ends.sort_unstable();
    let (mut frames, mut messages, mut start) = (Vec::new(), Vec::new(), 0);
    let mut pings = plan.pings.iter();
    for (at, end) in ends.iter().enumerate() {
        let last = at + 1 == ends.len();
        let opcode = if at > 0 {
            0
        } else if plan.text {
            1
        } else {
            2
        };
        frames.push(Sent { fin: last, opcode, mask: plan.mask, payload: bytes[start..*end].to_vec() });
        start = *end;
        if !last && let Some(ping) = pings.next() {
            frames.push(Sent { fin: true, opcode: 9, mask: [0x80, 0, 1, 0xFF], payload: ping.clone() });
            messages.push(Message::Ping(ping.clone().into()));
        }
    }
    messages.push(match plan.text {
        true => Message::Text(plan.payload.as_str().into()),
        false => Message::Binary(Bytes::copy_from_slice(bytes)),
    });
    (frames, messages)
}

/// Bytes that look like frames more often than chance would have it.
fn stream() -> impl Strategy<Value = Vec<u8>> {
    let frame = (
        prop_oneof![4 => prop::sample::select(vec![0x81_u8, 0x82, 0x01, 0x02, 0x00, 0x80, 0x88, 0x89, 0x8A]), 1 => any::<u8>()],
        prop_oneof![4 => 0_u8..=127, 1 => Just(254_u8), 1 => any::<u8>()],
        prop_oneof![2 => Just([0_u8; 4]), 1 => any::<[u8; 4]>()],
        prop_oneof![2 => ".{0,30}".prop_map(String::into_bytes), 1 => vec(any::<u8>(), 0..300)],
    )
        .prop_map(|(first, length, mask, payload)| {
            // mostly the right length, sometimes any other
            let length = if length < 100 { payload.len().min(125) as u8 } else { length };
            [&[first, 0x80 | length][..], &mask, &payload].concat()
        });
    (any::<[u8; 2]>(), vec(frame, 0..6)).prop_map(|(head, frames)| [&head[..], &frames.concat()].concat())
}

/// Text that looks like a client's message more often than chance would have it.
fn message() -> impl Strategy<Value = String> {
    let event = prop_oneof!["join|leave|ping|read|ack|subscribe", ".{0,8}"];
    let data = prop_oneof![
        (".{0,12}", ".{0,12}").prop_map(|(card, app)| serde_json::json!({"card_id": card, "app_id": app}).to_string()),
        "\\{\"(card_id|app_id|device|token)\":(null|1|\"x\"|\\[\\])\\}",
        "null|1|\\[\\]|\\{\\}|\"",
    ];
    prop_oneof![
        (event, data).prop_map(|(event, data)| format!(r#"{{"event":{},"data":{data}}}"#, serde_json::json!(event))),
        ".{0,60}",
    ]
}

fn ini() -> impl Strategy<Value = String> {
    let section = "node|socket|outbox|hub|http|grpc|auth|push|queue|data|drain|cluster|log|[a-z]{0,5}";
    let key = "listen|max_message|policy|keys|sync|backend|etcd|nsqd|id|workers|trusted_proxies|level|rate|[a-z_]{0,8}";
    let value = "|always|nsq|[0-9]{1,25}(|ms|s|h|B|KiB|GiB)|127.0.0.1:[0-9]{1,6}|10.0.0.0/[0-9]{1,3}|.{0,20}";
    vec((section, key, value), 0..5).prop_map(|lines| {
        let line = |(section, key, value)| format!("[{section}]\n{key}={value}\n{section}.{key}={value}\n");
        lines.into_iter().map(line).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn messages_are_read_as_they_were_sent_however_their_bytes_come(
        plans in vec(plan(), 1..4),
        sizes in vec(1_usize..3000, 1..4),
    ) {
        let (mut bytes, mut expected) = (Vec::new(), Vec::new());
        for plan in &plans {
            let (frames, messages) = model(plan);
            frames.iter().for_each(|frame| frame.encode(&mut bytes));
            expected.extend(messages);
        }
        let read = checks::read(1 << 20, &bytes, &sizes);
        prop_assert_eq!(read.ending, None);
        prop_assert_eq!(read.messages, expected);
    }

    #[test]
    fn any_bytes_as_frames(bytes in vec(any::<u8>(), 0..400)) {
        checks::frames(&bytes);
    }

    #[test]
    fn frame_like_bytes_as_frames(bytes in stream()) {
        checks::frames(&bytes);
    }

    #[test]
    fn any_text_in_a_dialect(text in ".{0,200}") {
        checks::dialect(&text);
    }

    #[test]
    fn messages_in_a_dialect(text in message()) {
        checks::dialect(&text);
    }

    #[test]
    fn any_bytes_as_a_record(bytes in vec(any::<u8>(), 0..200)) {
        checks::queue_record(&bytes);
    }

    #[test]
    fn any_bytes_as_nsqds_answers(bytes in vec(any::<u8>(), 0..200)) {
        checks::nsq_answers(&bytes);
    }

    #[test]
    fn answers_of_nsqd_are_read_however_their_bytes_come(
        piece in 1_u8..40,
        frames in vec((0_u32..4, prop_oneof![Just("OK".to_owned()), Just("_heartbeat_".to_owned()), "E_[A-Z]{3} .{0,40}"]), 0..6),
        cut in any::<Index>(),
    ) {
        let mut bytes = vec![piece];
        for (kind, body) in frames {
            bytes.extend((body.len() as u32 + 4).to_be_bytes());
            bytes.extend(kind.to_be_bytes());
            bytes.extend(body.into_bytes());
        }
        checks::nsq_answers(&bytes[..=cut.index(bytes.len())]);
    }

    #[test]
    fn record_like_bytes_as_a_record(
        fields in vec((prop::sample::select(vec![0x0A_u8, 0x12, 0x1A, 0x22, 0x2A, 0x72, 0x7A]), vec(any::<u8>(), 0..20)), 0..8),
        texts in vec(".{0,10}", 0..4),
        id in prop::option::weighted(0.8, any::<[u8; 16]>()),
    ) {
        let mut bytes = Vec::new();
        let texts = texts.into_iter().map(|text| (0x12, text.into_bytes()));
        for (tag, value) in fields.into_iter().chain(texts).chain(id.map(|id| (0x7A, id.to_vec()))) {
            bytes.extend([tag, value.len() as u8]);
            bytes.extend(value);
        }
        checks::queue_record(&bytes);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 100, ..ProptestConfig::default() })]

    #[test]
    fn any_text_as_configuration(text in prop_oneof![ini(), ".{0,200}"]) {
        let folder = tempfile::tempdir().unwrap();
        checks::configuration(&text, folder.path());
    }
}

/// The seeds of fuzz/ hold what was found once; they must never fail again.
#[test]
fn the_fuzzers_seeds_hold() {
    let folder = tempfile::tempdir().unwrap();
    let mut tried = 0;
    for (target, check) in [
        ("frames", (|bytes, _| checks::frames(bytes)) as fn(&[u8], &std::path::Path)),
        ("dialect", |bytes, _| checks::dialect(&String::from_utf8_lossy(bytes))),
        ("record", |bytes, _| checks::queue_record(bytes)),
        ("nsq_answers", |bytes, _| checks::nsq_answers(bytes)),
        ("config", |bytes, folder| checks::configuration(&String::from_utf8_lossy(bytes), folder)),
    ] {
        let seeds = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/seeds/");
        for seed in fs::read_dir(format!("{seeds}{target}")).unwrap() {
            check(&fs::read(seed.unwrap().path()).unwrap(), folder.path());
            tried += 1;
        }
    }
    assert!(tried >= 16, "only {tried} seeds in fuzz/seeds");
}
