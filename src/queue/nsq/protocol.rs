//! NSQ's protocol V2 as far as a publisher speaks it: its commands and nsqd's responses; no I/O.

use std::io;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde_json::json;
use tokio_util::codec::{Decoder, LengthDelimitedCodec};

/// The most that a frame may have: nsqd answers a publisher with OK, a heartbeat, or an error's words.
pub const MAX_FRAME: usize = 16 << 10;
/// What nsqd is asked to send a heartbeat after, in milliseconds: its own default.
const HEARTBEAT: u32 = 30_000;

/// What nsqd says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NsqdResponse {
    /// It did what the oldest unanswered command says.
    Ok,
    /// To be answered with a NOP.
    Heartbeat,
    /// It refuses the oldest unanswered command, and closes the connection.
    Error(NsqdError),
}

/// Why nsqd refuses a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NsqdError {
    /// nsqd's own words.
    pub words: String,
    /// The limit that was passed, if that is why.
    pub limit: Option<SizeLimit>,
}

/// nsqd's limits, which it tells only once they are passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SizeLimit {
    /// `--max-msg-size`: bytes of a record.
    Record(usize),
    /// `--max-body-size`: bytes of an MPUB.
    Batch(usize),
}

impl NsqdError {
    /// nsqd 1.3 writes `E_BAD_MESSAGE MPUB message too big 2000 > 1000` and `E_BAD_BODY MPUB body too big 9000 > 5000`.
    fn new(words: &[u8]) -> Self {
        let words = String::from_utf8_lossy(words).into_owned();
        let limit = words.rsplit_once(" > ").filter(|(front, _)| front.contains("too big"));
        let limit = match limit.and_then(|(_, limit)| limit.parse().ok()) {
            Some(limit) if words.starts_with("E_BAD_MESSAGE ") => Some(SizeLimit::Record(limit)),
            Some(limit) if words.starts_with("E_BAD_BODY ") => Some(SizeLimit::Batch(limit)),
            _ => None,
        };
        Self { words, limit }
    }
}

/// Reads nsqd's responses from its bytes, however they are cut. A length is checked before memory is taken for it.
pub struct ResponseDecoder(LengthDelimitedCodec);

impl ResponseDecoder {
    /// A reader at the beginning of a connection.
    #[expect(clippy::new_without_default, reason = "there is no usual one")]
    pub fn new() -> Self {
        Self(LengthDelimitedCodec::builder().length_field_length(4).max_frame_length(MAX_FRAME).new_codec())
    }
}

impl Decoder for ResponseDecoder {
    type Item = NsqdResponse;
    type Error = io::Error;

    fn decode(&mut self, bytes: &mut BytesMut) -> io::Result<Option<NsqdResponse>> {
        let error =
            || io::Error::new(io::ErrorKind::InvalidData, "it does not speak as nsqd does; is that nsqd's TCP port?");
        let Some(mut frame) = self.0.decode(bytes).map_err(|_| error())? else { return Ok(None) };
        let kind = frame.try_get_u32().map_err(|_| error())?;
        match (kind, &frame[..]) {
            (0, b"OK") => Ok(Some(NsqdResponse::Ok)),
            (0, b"_heartbeat_") => Ok(Some(NsqdResponse::Heartbeat)),
            (1, words) => Ok(Some(NsqdResponse::Error(NsqdError::new(words)))),
            // a message comes only to those who subscribed and asked for it
            _ => Err(error()),
        }
    }
}

/// How a connection begins: the protocol's name, and who speaks. nsqd answers OK.
pub fn identify(out: &mut BytesMut, client: &str) {
    let agent = concat!("oxipush/", env!("CARGO_PKG_VERSION"));
    let body = json!({ "client_id": client, "hostname": client, "user_agent": agent, "heartbeat_interval": HEARTBEAT });
    out.put_slice(b"  V2IDENTIFY\n");
    put(out, body.to_string().as_bytes());
}

/// Publishes one record, or several at once (MPUB). nsqd answers OK once it has them all.
pub fn publish<'a>(out: &mut BytesMut, topic: &str, records: impl ExactSizeIterator<Item = &'a Bytes> + Clone) {
    let count = records.len();
    if count > 1 {
        let bytes: usize = records.clone().map(|record| 4 + record.len()).sum();
        out.put_slice(b"M");
        command(out, "PUB", &[topic]);
        out.put_u32(length(4 + bytes));
        out.put_u32(length(count));
    } else {
        command(out, "PUB", &[topic]);
    }
    records.for_each(|record| put(out, record));
}

/// Subscribes to a channel, without asking for a message. nsqd answers OK.
pub fn subscribe(out: &mut BytesMut, topic: &str, channel: &str) {
    command(out, "SUB", &[topic, channel]);
}

/// Answers a heartbeat; nsqd says nothing to it.
pub fn nop(out: &mut BytesMut) {
    command(out, "NOP", &[]);
}

fn command(out: &mut BytesMut, name: &str, words: &[&str]) {
    out.put_slice(name.as_bytes());
    for word in words {
        out.put_u8(b' ');
        out.put_slice(word.as_bytes());
    }
    out.put_u8(b'\n');
}

fn put(out: &mut BytesMut, body: &[u8]) {
    out.put_u32(length(body.len()));
    out.put_slice(body);
}

fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).expect("invariant: [queue] batch_bytes and [push] max_content are below 4 GiB")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn frame(kind: u32, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len() + 4).unwrap();
        [&length.to_be_bytes()[..], &kind.to_be_bytes(), body].concat()
    }

    fn only(bytes: &[u8]) -> io::Result<Option<NsqdResponse>> {
        ResponseDecoder::new().decode(&mut BytesMut::from(bytes))
    }

    fn sent(encode: impl FnOnce(&mut BytesMut)) -> Vec<u8> {
        let mut out = BytesMut::new();
        encode(&mut out);
        out.to_vec()
    }

    #[test]
    fn commands_are_written_as_the_protocol_says() {
        let records: Vec<Bytes> = ["one", "three"].map(Bytes::from).to_vec();
        assert_eq!(sent(|out| publish(out, "t", records[..1].iter())), b"PUB t\n\0\0\0\x03one");
        let several = b"MPUB t\n\0\0\0\x14\0\0\0\x02\0\0\0\x03one\0\0\0\x05three";
        assert_eq!(sent(|out| publish(out, "t", records.iter())), several);
        assert_eq!(sent(|out| subscribe(out, "t", "c")), b"SUB t c\n");
        assert_eq!(sent(nop), b"NOP\n");
        let identified = sent(|out| identify(out, "node-1"));
        assert_eq!(&identified[..13], b"  V2IDENTIFY\n");
        assert_eq!(u32::from_be_bytes(identified[13..17].try_into().unwrap()) as usize, identified.len() - 17);
    }

    #[test]
    fn answers_are_read_as_the_protocol_says() {
        assert_eq!(only(&frame(0, b"OK")).unwrap(), Some(NsqdResponse::Ok));
        assert_eq!(only(&frame(0, b"_heartbeat_")).unwrap(), Some(NsqdResponse::Heartbeat));
        assert_eq!(only(&frame(0, b"OK")[..9]).unwrap(), None);
        for (words, limit) in [
            ("E_BAD_MESSAGE PUB message too big 2000 > 1000", Some(SizeLimit::Record(1000))),
            ("E_BAD_MESSAGE MPUB message too big 2000 > 1000", Some(SizeLimit::Record(1000))),
            ("E_BAD_BODY MPUB body too big 9000 > 5000", Some(SizeLimit::Batch(5000))),
            ("E_BAD_MESSAGE PUB message too big 2000 > many", None),
            ("E_BAD_MESSAGE PUB invalid message body size 0", None),
            ("E_PUB_FAILED PUB failed write /data: no space left on device", None),
            ("E_PUB_FAILED too big 3 > 2", None),
            ("", None),
        ] {
            let error = NsqdError { words: words.into(), limit };
            assert_eq!(only(&frame(1, words.as_bytes())).unwrap(), Some(NsqdResponse::Error(error)));
        }
    }

    #[test]
    fn what_is_no_answer_to_a_publisher_is_a_fault() {
        for bytes in [
            frame(0, b"YES"),
            frame(2, &[0; 30]),
            frame(7, b"OK"),
            vec![0, 0, 0, 0],
            vec![0, 0, 0, 3, 0, 0, 0],
            // only the announcement is there
            vec![0x40, 0, 0, 0],
            vec![0xff; 4],
            b"HTTP/1.1 400 Bad Request\r\n".to_vec(),
        ] {
            assert_eq!(only(&bytes).unwrap_err().kind(), io::ErrorKind::InvalidData, "{bytes:?}");
        }
        let longest = frame(1, &[b'x'; MAX_FRAME - 4]);
        assert!(only(&longest).unwrap().is_some());
        assert!(only(&frame(1, &[b'x'; MAX_FRAME - 3])[..4]).is_err());
    }
}
