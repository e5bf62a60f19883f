//! What a push carries in its content, so that whoever receives it knows which it is and when it was due.
//!
//! `~pb`, four hex digits of the run, eight of the sequence number within its target, sixteen of the time it was due (ns of
//! the run's clock), then `x` up to the wanted size. All of it is plain in JSON and in forms.

/// The bytes before the padding.
pub(crate) const LEN: usize = 3 + 4 + 8 + 16;

const HEAD: &[u8] = b"~pb";

/// A marker, read or to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Marker {
    /// Which run sent it: what an earlier run left in a queue is told apart.
    pub(crate) run: u16,
    /// Counts the pushes to one target from 0.
    pub(crate) seq: u32,
    /// When it was due, in ns since the run's epoch.
    pub(crate) due: u64,
}

impl Marker {
    /// Appends the marker and its padding: `size` bytes in all.
    pub(crate) fn write(&self, size: usize, out: &mut Vec<u8>) {
        let end = out.len() + size.max(LEN);
        out.extend_from_slice(HEAD);
        hex(u64::from(self.run), 4, out);
        hex(u64::from(self.seq), 8, out);
        hex(self.due, 16, out);
        out.resize(end, b'x');
    }

    /// The first marker at or after `from`, and where it ends.
    pub(crate) fn find(payload: &[u8], from: usize) -> Option<(Self, usize)> {
        let mut at = from;
        loop {
            at += payload.get(at..)?.iter().position(|&byte| byte == b'~')?;
            let text = payload.get(at..at + LEN)?;
            if let Some(marker) = Self::read(text) {
                return Some((marker, at + LEN));
            }
            at += 1;
        }
    }

    fn read(text: &[u8]) -> Option<Self> {
        let digits = text.strip_prefix(HEAD)?;
        Some(Self {
            run: unhex(digits.get(..4)?)? as u16,
            seq: unhex(digits.get(4..12)?)? as u32,
            due: unhex(digits.get(12..28)?)?,
        })
    }
}

fn hex(number: u64, digits: u32, out: &mut Vec<u8>) {
    for digit in (0..digits).rev() {
        out.push(b"0123456789abcdef"[(number >> (4 * digit)) as usize & 15]);
    }
}

fn unhex(text: &[u8]) -> Option<u64> {
    let mut number = 0;
    for &byte in text {
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            _ => return None,
        };
        number = number << 4 | u64::from(digit);
    }
    Some(number)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const MARKER: Marker = Marker { run: 0xbeef, seq: 77, due: 123_456_789_012 };

    #[test]
    fn a_marker_comes_back_from_any_wrapping() {
        let mut payload = br#"{"type":1,"data":"~~pbzz"#.to_vec();
        MARKER.write(100, &mut payload);
        payload.extend_from_slice(b"\"}");
        assert_eq!(Marker::find(&payload, 0).unwrap().0, MARKER);
    }

    #[test]
    fn the_content_has_the_wanted_size() {
        for size in [LEN, 32, 100, 5000] {
            let mut content = Vec::new();
            MARKER.write(size, &mut content);
            assert_eq!(content.len(), size);
        }
    }

    #[test]
    fn several_markers_in_one_frame_are_all_found() {
        let mut payload = Vec::new();
        for seq in 0..3 {
            Marker { seq, ..MARKER }.write(40, &mut payload);
        }
        let (mut at, mut seen) = (0, Vec::new());
        while let Some((marker, end)) = Marker::find(&payload, at) {
            seen.push(marker.seq);
            at = end;
        }
        assert_eq!(seen, [0, 1, 2]);
    }

    #[test]
    fn what_is_no_marker_is_not_one() {
        assert_eq!(Marker::find(b"", 0), None);
        assert_eq!(Marker::find(b"~pb0123", 0), None);
        assert_eq!(Marker::find(&[b'~'; 200], 0), None);
        assert_eq!(Marker::find(b"~pb", 9), None);
    }
}
