//! WebSocket frames (RFC 6455 §5): written once and shared, read with every bound enforced at the header.

mod payload;
mod reader;

use bytes::Bytes;

use super::close::{CloseCode, Ending};

pub use reader::{FrameReader, Message};

/// Bytes of an unmasked frame's longest header.
const MAX_HEADER: usize = 10;

/// Encoded, unmasked WebSocket frame bytes, shared by all receivers; a clone costs a count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame(Bytes);

impl Frame {
    /// A text frame.
    pub fn text(payload: &str) -> Self {
        Self::encode(0x1, payload.as_bytes())
    }

    /// A binary frame.
    pub fn binary(payload: &[u8]) -> Self {
        Self::encode(0x2, payload)
    }

    /// A ping; `payload` is cut to 125 bytes.
    pub fn ping(payload: &[u8]) -> Self {
        Self::encode(0x9, &payload[..payload.len().min(125)])
    }

    /// A pong; `payload` is cut to 125 bytes.
    pub fn pong(payload: &[u8]) -> Self {
        Self::encode(0xA, &payload[..payload.len().min(125)])
    }

    /// A close frame; the text is cut to 123 bytes at a character's end.
    pub fn close(ending: &Ending) -> Self {
        let end = ending.text.floor_char_boundary(123);
        let mut payload = ending.close.code().to_be_bytes().to_vec();
        payload.extend_from_slice(&ending.text.as_bytes()[..end]);
        Self::encode(0x8, &payload)
    }

    /// The answer to a peer's close frame: its own code, if it had one.
    pub fn close_answer(code: Option<CloseCode>) -> Self {
        match code {
            Some(code) => Self::encode(0x8, &u16::from(code).to_be_bytes()),
            None => Self::encode(0x8, &[]),
        }
    }

    /// Frames that leave one behind the other, as if they were one.
    pub(crate) fn sequence(mut frames: impl Iterator<Item = Self>) -> Self {
        let Some(first) = frames.next() else { return Self(Bytes::new()) };
        let Some(second) = frames.next() else { return first };
        Self([first, second].into_iter().chain(frames).flat_map(|frame| frame.0).collect())
    }

    /// The bytes for the socket.
    pub fn bytes(&self) -> &Bytes {
        &self.0
    }

    /// A text frame whose payload `write` appends once, right where the frame's bytes are; `capacity` is its likely length.
    pub(crate) fn text_in_place(capacity: usize, write: impl FnOnce(&mut Vec<u8>)) -> Self {
        let mut bytes = Vec::with_capacity(MAX_HEADER + capacity);
        bytes.resize(MAX_HEADER, 0);
        write(&mut bytes);
        // Outboxes count a frame's length: what it really holds must not be far from it.
        if bytes.capacity() > bytes.len() + bytes.len() / 4 + 64 {
            bytes.shrink_to_fit();
        }
        let (header, size) = header(0x1, bytes.len() - MAX_HEADER);
        let start = MAX_HEADER - size;
        bytes[start..MAX_HEADER].copy_from_slice(&header[..size]);
        Self(Bytes::from(bytes).slice(start..))
    }

    fn encode(opcode: u8, payload: &[u8]) -> Self {
        let (header, size) = header(opcode, payload.len());
        let mut bytes = Vec::with_capacity(size + payload.len());
        bytes.extend_from_slice(&header[..size]);
        bytes.extend_from_slice(payload);
        Self(bytes.into())
    }
}

/// Appends `text` as a JSON string.
pub(crate) fn json_string(json: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(json, text).expect("invariant: a Vec takes every string");
}

/// The header of a whole, unmasked frame with `length` bytes of payload, and how many bytes of the array it takes.
fn header(opcode: u8, length: usize) -> ([u8; MAX_HEADER], usize) {
    let mut header = [0; MAX_HEADER];
    header[0] = 0x80 | opcode;
    let size = match length {
        0..=125 => {
            header[1] = length as u8;
            2
        }
        126..=0xFFFF => {
            header[1] = 126;
            header[2..4].copy_from_slice(&(length as u16).to_be_bytes());
            4
        }
        _ => {
            header[1] = 127;
            header[2..].copy_from_slice(&(length as u64).to_be_bytes());
            10
        }
    };
    (header, size)
}

#[cfg(test)]
impl Frame {
    /// Any bytes, for tests that count them.
    pub(crate) fn from_encoded(bytes: Bytes) -> Self {
        Self(bytes)
    }
}
