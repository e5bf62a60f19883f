//! Reads a client's frames: bounds, masks, fragments and UTF-8 are checked as the bytes come.

use std::borrow::Cow;

use bytes::{Buf, Bytes, BytesMut};
use bytestring::ByteString;

use super::payload::Payload;
use crate::wire::close::{Close, CloseReason, Ending};

/// What a client sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// A whole text message, fragments joined.
    Text(ByteString),
    /// A whole binary message, fragments joined.
    Binary(Bytes),
    /// A ping, at most 125 bytes.
    Ping(Bytes),
    /// A pong, at most 125 bytes.
    Pong(Bytes),
    /// A valid close frame's reason, if it had one.
    Close(Option<CloseReason>),
}

/// Turns a client's bytes into [`Message`]s. After an error or a close frame nothing more is read: what comes is dropped.
///
/// Between messages it holds no buffer, so that an idle connection costs two words.
#[derive(Debug, Default)]
pub struct FrameReader {
    incomplete: Option<Box<IncompleteMessage>>,
    max_message: u32,
    done: bool,
}

/// A message of which not everything has come.
#[derive(Debug)]
struct IncompleteMessage {
    text: bool,
    payload: Payload,
    /// Bytes of `payload` that are known to be UTF-8 (text only).
    valid: usize,
    /// Fragments without payload: each counts as a byte, or a message could go on for ever.
    empty: usize,
    /// The data frame whose payload is still coming; `None` between fragments.
    frame: Option<UnreadFrame>,
}

/// What is left of a data frame.
#[derive(Clone, Copy, Debug)]
struct UnreadFrame {
    fin: bool,
    remaining: usize,
    /// Turned so that its first byte is for the next byte of payload.
    mask: [u8; 4],
}

#[derive(Clone, Copy)]
struct Header {
    fin: bool,
    opcode: u8,
    /// Bytes of the header itself.
    size: usize,
    length: u64,
    mask: [u8; 4],
}

const CONTINUATION: u8 = 0x0;
const TEXT: u8 = 0x1;
const BINARY: u8 = 0x2;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xA;

impl FrameReader {
    /// A reader whose messages (and frames) have at most `max_message` bytes of payload, and never more than 4 GiB.
    pub fn new(max_message: usize) -> Self {
        let max_message = u32::try_from(max_message).unwrap_or(u32::MAX);
        Self { incomplete: None, max_message, done: false }
    }

    /// Whether a message began of which not everything has come.
    pub fn is_amid_message(&self) -> bool {
        self.incomplete.is_some()
    }

    /// Takes the next whole message out of `buffer`, consuming the bytes it read; `None`: more bytes are needed, and what
    /// stays in `buffer` is less than one header and one control frame's payload (139 bytes).
    /// A frame announced as longer than the bound is refused at its header, before anything of it is buffered.
    ///
    /// # Errors
    /// The [`Ending`] to close the connection with (1002, 1007, 3503).
    pub fn next(&mut self, buffer: &mut BytesMut) -> Result<Option<Message>, Ending> {
        if self.done {
            buffer.clear();
            return Ok(None);
        }
        let result = self.read(buffer);
        if matches!(result, Err(_) | Ok(Some(Message::Close(_)))) {
            self.done = true;
            self.incomplete = None;
        }
        result
    }

    fn read(&mut self, buffer: &mut BytesMut) -> Result<Option<Message>, Ending> {
        loop {
            if self.is_amid_frame() {
                if let Some(message) = self.read_payload(buffer)? {
                    return Ok(Some(message));
                }
                if self.is_amid_frame() {
                    return Ok(None);
                }
            }
            let Some(header) = Header::parse(buffer)? else { return Ok(None) };
            if header.opcode >= CLOSE {
                return control(header, buffer);
            }
            let length = self.admit(header)?;
            if header.fin && self.incomplete.is_none() && buffer.len() >= header.size + length {
                return whole(header, length, buffer).map(Some);
            }
            buffer.advance(header.size);
            let max_message = self.max_message as usize;
            let message = self
                .incomplete
                .get_or_insert_with(|| Box::new(IncompleteMessage::new(header.opcode == TEXT, max_message)));
            message.empty += usize::from(length == 0);
            message.frame = Some(UnreadFrame { fin: header.fin, remaining: length, mask: header.mask });
        }
    }

    /// Decides by its header whether a data frame may come; its payload's length.
    fn admit(&self, header: Header) -> Result<usize, Ending> {
        let held = match (&self.incomplete, header.opcode) {
            (Some(message), CONTINUATION) => message.payload.len() + message.empty,
            (None, CONTINUATION) => return Err(broken("a continuation frame continues nothing")),
            (Some(_), _) => return Err(broken("a new message began before the last fragment of the one before")),
            (None, _) => 0,
        };
        match usize::try_from(header.length) {
            Ok(length) if held.saturating_add(length) <= self.max_message as usize => Ok(length),
            _ => Err(Ending {
                close: Close::TooLarge,
                text: Cow::Owned(format!("message too large: at most {} bytes are allowed", self.max_message)),
            }),
        }
    }

    fn is_amid_frame(&self) -> bool {
        self.incomplete.as_ref().is_some_and(|message| message.frame.is_some())
    }

    /// Reads on in the data frame that is still coming; the message, if that ended it.
    fn read_payload(&mut self, buffer: &mut BytesMut) -> Result<Option<Message>, Ending> {
        let Some(message) = &mut self.incomplete else { return Ok(None) };
        let Some(frame) = &mut message.frame else { return Ok(None) };
        let count = frame.remaining.min(buffer.len());
        let start = message.payload.len();
        message.payload.extend(&buffer[..count]);
        buffer.advance(count);
        unmask(message.payload.since(start), frame.mask);
        frame.mask.rotate_left(count % 4);
        frame.remaining -= count;
        let frame_ended = frame.remaining == 0;
        let message_ended = frame_ended && frame.fin;
        if frame_ended {
            message.frame = None;
        }
        if message.text {
            message.check_utf8(message_ended)?;
        }
        let Some(message) = self.incomplete.take_if(|_| message_ended) else { return Ok(None) };
        data(message.text, message.payload.into_bytes()).map(Some)
    }
}

impl IncompleteMessage {
    fn new(text: bool, max_message: usize) -> Self {
        Self { text, payload: Payload::new(max_message), valid: 0, empty: 0, frame: None }
    }

    /// Fails as soon as what came cannot become UTF-8 any more.
    fn check_utf8(&mut self, ended: bool) -> Result<(), Ending> {
        match simdutf8::compat::from_utf8(self.payload.since(self.valid)) {
            Ok(_) => self.valid = self.payload.len(),
            Err(error) if error.error_len().is_none() && !ended => self.valid += error.valid_up_to(),
            Err(_) => return Err(Close::InvalidUtf8.into()),
        }
        Ok(())
    }
}

impl Header {
    /// The header at the start of `bytes`, or `None` while it is incomplete. What its first two bytes forbid is refused
    /// with them.
    fn parse(bytes: &[u8]) -> Result<Option<Self>, Ending> {
        let &[first, second, ..] = bytes else { return Ok(None) };
        let fin = first & 0x80 != 0;
        let opcode = first & 0x0F;
        if first & 0x70 != 0 {
            return Err(broken("a reserved bit is set; no extension was agreed on"));
        }
        if !matches!(opcode, CONTINUATION | TEXT | BINARY | CLOSE | PING | PONG) {
            return Err(broken("reserved opcode"));
        }
        if second & 0x80 == 0 {
            return Err(broken("a client's frames must be masked"));
        }
        let short = second & 0x7F;
        if opcode >= CLOSE && !fin {
            return Err(broken("control frames must not be fragmented"));
        }
        if opcode >= CLOSE && short > 125 {
            return Err(broken("control frames carry at most 125 bytes"));
        }
        let length_size = match short {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let Some(rest) = bytes.get(2..2 + length_size + 4) else { return Ok(None) };
        let (length, mask) = rest.split_at(length_size);
        let length = match short {
            126 | 127 => length.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)),
            _ => u64::from(short),
        };
        if (short == 126 && length < 126) || (short == 127 && (length < 0x1_0000 || length >> 63 != 0)) {
            return Err(broken("a frame's length must be in its shortest form"));
        }
        let mask = [mask[0], mask[1], mask[2], mask[3]];
        Ok(Some(Self { fin, opcode, size: 2 + length_size + 4, length, mask }))
    }
}

/// A control frame, once it is there whole; it may come between the fragments of a message.
fn control(header: Header, buffer: &mut BytesMut) -> Result<Option<Message>, Ending> {
    let size = header.size + header.length as usize; // at most 125, by Header::parse
    if buffer.len() < size {
        return Ok(None);
    }
    let mut payload = buffer[header.size..size].to_vec();
    buffer.advance(size);
    unmask(&mut payload, header.mask);
    match header.opcode {
        PING => Ok(Some(Message::Ping(payload.into()))),
        PONG => Ok(Some(Message::Pong(payload.into()))),
        _ => closing(&payload).map(Some),
    }
}

fn closing(payload: &[u8]) -> Result<Message, Ending> {
    match *payload {
        [] => Ok(Message::Close(None)),
        [_] => Err(broken("a close frame's code has two bytes")),
        [high, low, ref text @ ..] => {
            let code = u16::from_be_bytes([high, low]);
            if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
                return Err(broken("a close code that must not be sent"));
            }
            let text = std::str::from_utf8(text).map_err(|_| Ending::from(Close::InvalidUtf8))?;
            let description = (!text.is_empty()).then(|| text.to_owned());
            Ok(Message::Close(Some(CloseReason { code: code.into(), description })))
        }
    }
}

/// The usual case: one frame, one message, all of it there. It is copied out, so that a small message does not keep the
/// connection's read buffer alive.
fn whole(header: Header, length: usize, buffer: &mut BytesMut) -> Result<Message, Ending> {
    let mut payload = buffer[header.size..header.size + length].to_vec();
    buffer.advance(header.size + length);
    unmask(&mut payload, header.mask);
    data(header.opcode == TEXT, payload.into())
}

fn data(text: bool, payload: Bytes) -> Result<Message, Ending> {
    if !text {
        return Ok(Message::Binary(payload));
    }
    ByteString::try_from(payload).map(Message::Text).map_err(|_| Close::InvalidUtf8.into())
}

/// Eight bytes at a time; compilers make vector code of it.
fn unmask(payload: &mut [u8], mask: [u8; 4]) {
    let [a, b, c, d] = mask;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (chunks, tail) = payload.as_chunks_mut::<8>();
    for chunk in chunks {
        *chunk = (u64::from_ne_bytes(*chunk) ^ wide).to_ne_bytes();
    }
    for (byte, key) in tail.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= key;
    }
}

fn broken(text: &'static str) -> Ending {
    Ending { close: Close::ProtocolError, text: Cow::Borrowed(text) }
}

#[cfg(test)]
mod tests;
