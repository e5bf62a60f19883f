//! Reads a client's frames: bounds, masks, fragments and UTF-8 are checked as the bytes come.

use bytes::{Bytes, BytesMut};
use bytestring::ByteString;

use crate::wire::close::Ending;

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
    /// A valid close frame's code, if it had one, and text.
    Close(Option<u16>, ByteString),
}

/// Turns a client's bytes into [`Message`]s. After an error nothing more is read.
#[derive(Debug, Default)]
pub struct Reader {
    // TODO(H1)
}

impl Reader {
    /// A reader whose messages (and frames) have at most `max_message` bytes of payload.
    pub fn new(max_message: usize) -> Self {
        let _ = max_message;
        todo!()
    }

    /// Takes the next whole message out of `buffer`, consuming the bytes it read; `None`: more bytes are needed.
    /// A frame announced as longer than the bound is refused at its header, before anything of it is buffered.
    ///
    /// # Errors
    /// The [`Ending`] to close the connection with (1002, 1007, 3503).
    pub fn next(&mut self, buffer: &mut BytesMut) -> Result<Option<Message>, Ending> {
        let _ = buffer;
        todo!()
    }
}
