//! As much of RFC 6455 as a client needs: frames of a server read in place, small masked frames written.

/// Opcodes.
pub(crate) mod opcode {
    pub(crate) const TEXT: u8 = 1;
    pub(crate) const CLOSE: u8 = 8;
    pub(crate) const PING: u8 = 9;
    pub(crate) const PONG: u8 = 10;
}

/// The key whose answer is known, so that no SHA-1 is needed here.
pub(crate) const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
/// What a server must answer to [`KEY`].
pub(crate) const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// A whole frame at the head of some bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Frame<'a> {
    pub(crate) opcode: u8,
    pub(crate) payload: &'a [u8],
    /// Header and payload.
    pub(crate) len: usize,
}

/// The first frame of `bytes`, if all of it is there. A server's frames are not masked.
pub(crate) fn first(bytes: &[u8]) -> Option<Frame<'_>> {
    let (&[first, second], _) = bytes.split_first_chunk()?;
    let (head, len) = match second & 0x7f {
        126 => (4, u64::from(u16::from_be_bytes(*bytes.get(2..)?.first_chunk()?))),
        127 => (10, u64::from_be_bytes(*bytes.get(2..)?.first_chunk()?)),
        short => (2, u64::from(short)),
    };
    let len = usize::try_from(len).ok()?.checked_add(head)?;
    Some(Frame { opcode: first & 0x0f, payload: bytes.get(head..len)?, len })
}

/// Appends an unmasked frame, as a server writes it.
pub(crate) fn write(opcode: u8, payload: &[u8], out: &mut Vec<u8>) {
    header(opcode, payload.len(), 0, out);
    out.extend_from_slice(payload);
}

/// Appends a masked frame, as a client must write it.
pub(crate) fn write_masked(opcode: u8, payload: &[u8], out: &mut Vec<u8>) {
    const MASK: [u8; 4] = [0x5a, 0x17, 0xc3, 0x6e];
    header(opcode, payload.len(), 0x80, out);
    out.extend_from_slice(&MASK);
    out.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
}

/// A client's first frame, unmasked into a vector, and its length; for the bare server.
pub(crate) fn first_masked(bytes: &[u8]) -> Option<(u8, Vec<u8>, usize)> {
    let (&[first, second], _) = bytes.split_first_chunk()?;
    let (head, len) = match second & 0x7f {
        126 => (4, usize::from(u16::from_be_bytes(*bytes.get(2..)?.first_chunk()?))),
        127 => return None,
        short => (2, usize::from(short)),
    };
    let mask: [u8; 4] = *bytes.get(head..)?.first_chunk()?;
    let payload = bytes.get(head + 4..head + 4 + len)?;
    let payload = payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect();
    Some((first & 0x0f, payload, head + 4 + len))
}

fn header(opcode: u8, len: usize, mask: u8, out: &mut Vec<u8>) {
    out.push(0x80 | opcode);
    match len {
        0..=125 => out.push(mask | len as u8),
        126..=0xffff => {
            out.push(mask | 126);
            out.extend_from_slice(&(len as u16).to_be_bytes());
        }
        _ => {
            out.push(mask | 127);
            out.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn frames_of_every_length_form_are_read_back() {
        for len in [0, 1, 125, 126, 65_535, 65_536, 200_000] {
            let payload = vec![b'p'; len];
            let mut bytes = Vec::new();
            write(opcode::TEXT, &payload, &mut bytes);
            let whole = bytes.len();
            bytes.extend_from_slice(b"next");
            let frame = first(&bytes).unwrap();
            assert_eq!((frame.opcode, frame.payload, frame.len), (opcode::TEXT, &payload[..], whole));
        }
    }

    #[test]
    fn a_frame_that_is_not_all_there_is_none_at_any_cut() {
        let mut bytes = Vec::new();
        write(opcode::TEXT, &[b'p'; 300], &mut bytes);
        for cut in 0..bytes.len() {
            assert_eq!(first(&bytes[..cut]), None);
        }
        assert_eq!(first(&[0x81, 127, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]), None);
    }

    #[test]
    fn a_masked_frame_comes_back_as_it_was() {
        for text in ["", "join", &"long".repeat(100)] {
            let mut bytes = Vec::new();
            write_masked(opcode::TEXT, text.as_bytes(), &mut bytes);
            let len = bytes.len();
            assert_eq!(first_masked(&bytes), Some((opcode::TEXT, text.as_bytes().to_vec(), len)));
            assert_eq!(first_masked(&bytes[..len - 1]), None);
        }
    }
}
