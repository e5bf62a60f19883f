//! Where gRPC's messages begin and end in the bytes of a request: each has a flag and four bytes of length before it.

/// Bytes before each message.
const HEAD: usize = 5;

/// How far a request is.
#[derive(Debug, Default)]
pub(super) struct Framing {
    head: [u8; HEAD],
    /// Bytes of the unfinished message that have arrived, with its head.
    arrived: usize,
    /// Bytes that the unfinished message still lacks; only with a whole head.
    missing: usize,
}

/// What some more bytes were.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Progress {
    /// So many of them belong to messages that are whole now.
    pub(super) complete: usize,
    /// The message that begins there is longer than allowed: so long.
    pub(super) too_long: Option<usize>,
}

impl Framing {
    /// Reads on; what follows a message that is too long is not looked at.
    pub(super) fn advance(&mut self, bytes: &[u8], max: usize) -> Progress {
        let mut at = 0;
        let mut complete = 0;
        while at < bytes.len() {
            // most come whole: no state is needed for them
            if let (0, Some([_, length @ ..])) = (self.arrived, bytes[at..].first_chunk::<HEAD>()) {
                let end = at + HEAD + u32::from_be_bytes(*length) as usize;
                if end - at - HEAD <= max && end <= bytes.len() {
                    at = end;
                    complete = end;
                    continue;
                }
            }
            if self.arrived < HEAD {
                self.head[self.arrived] = bytes[at];
                self.arrived += 1;
                at += 1;
                if self.arrived == HEAD {
                    let [_, length @ ..] = self.head;
                    self.missing = u32::from_be_bytes(length) as usize;
                    if self.missing > max {
                        return Progress { complete, too_long: Some(self.missing) };
                    }
                }
            } else {
                let taken = self.missing.min(bytes.len() - at);
                self.missing -= taken;
                self.arrived += taken;
                at += taken;
            }
            if self.arrived >= HEAD && self.missing == 0 {
                self.arrived = 0;
                complete = at;
            }
        }
        Progress { complete, too_long: None }
    }

    /// Whether a message has begun and not arrived whole.
    pub(super) fn is_unfinished(&self) -> bool {
        self.arrived > 0
    }

    /// Bytes that are kept for the unfinished message, once its head is there: its whole length, which tonic reserves.
    pub(super) fn reserved(&self) -> usize {
        (self.arrived + self.missing).saturating_sub(HEAD)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(length: u32) -> Vec<u8> {
        let mut bytes = vec![0];
        bytes.extend(length.to_be_bytes());
        bytes.resize(HEAD + length as usize, 7);
        bytes
    }

    #[test]
    fn messages_are_found_however_their_bytes_are_cut() {
        let bytes = [message(0), message(300), message(1), message(70)].concat();
        for cut in 1..bytes.len() {
            let mut framing = Framing::default();
            let (mut sent, mut whole) = (0, 0);
            for piece in bytes.chunks(cut) {
                let progress = framing.advance(piece, 300);
                assert_eq!(progress.too_long, None);
                if progress.complete > 0 {
                    whole = sent + progress.complete;
                }
                sent += piece.len();
                let unfinished = sent - whole;
                assert_eq!(framing.is_unfinished(), unfinished > 0, "cut {cut}");
                // by where they begin
                let length = match whole {
                    5 => 300,
                    310 => 1,
                    316 => 70,
                    _ => 0,
                };
                assert_eq!(framing.reserved(), if unfinished < HEAD { 0 } else { length }, "cut {cut}");
            }
            assert_eq!(whole, bytes.len());
        }
    }

    #[test]
    fn a_message_that_is_too_long_is_told_at_its_head_and_what_stood_before_it_is_whole() {
        let bytes = [message(20), message(301)].concat();
        let progress = Framing::default().advance(&bytes[..30 + 1], 300);
        assert_eq!(progress, Progress { complete: 25, too_long: Some(301) });
        let progress = Framing::default().advance(&bytes[..29], 300);
        assert_eq!(progress, Progress { complete: 25, too_long: None });
    }
}
