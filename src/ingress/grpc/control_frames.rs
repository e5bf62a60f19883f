//! HTTP/2 frames that carry no call: PING, SETTINGS, WINDOW_UPDATE, PRIORITY, RST_STREAM and the like. h2 answers or passes over as many
//! as come; here those of one connection are bounded.
//!
//! h2 itself bounds resets of calls that were not begun yet (CVE-2023-44487), resets that a peer provokes (CVE-2025-8671),
//! CONTINUATION frames, small DATA frames and the size of headers.

use std::time::Duration;

use tokio::time::Instant;

/// Bytes of HTTP/2's preface, which come before the first frame.
pub(super) const PREFACE: usize = 24;
/// Bytes of a frame's header (RFC 9113 §4.1).
pub(super) const FRAME_HEADER: usize = 9;

/// The time in which `[grpc] max_control_frames` may come.
const PERIOD: Duration = Duration::from_secs(10);
/// Control frames that each HEADERS, and each DATA with something in it, may bring with it: libraries give back window and
/// measure the path with each message.
const OF_A_MESSAGE: usize = 4;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;

/// Reads one connection's frame headers and counts those of control frames.
#[derive(Debug)]
pub(super) struct ControlFrameMeter {
    /// Bytes until the next frame's header begins.
    skip: usize,
    header: [u8; FRAME_HEADER],
    /// Bytes of the header that have arrived.
    arrived: usize,
    /// Control frames that calls have brought with them and that did not come yet.
    granted: usize,
    /// Control frames beyond those, since `since`.
    beyond: usize,
    since: Instant,
    max: usize,
}

impl ControlFrameMeter {
    /// Of a connection that has just begun; `max` in each [`PERIOD`].
    pub(super) fn new(max: usize) -> Self {
        Self { skip: PREFACE, header: [0; FRAME_HEADER], arrived: 0, granted: 0, beyond: 0, since: Instant::now(), max }
    }

    /// Reads on; `false`: too many came.
    pub(super) fn admit(&mut self, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            if self.skip > 0 {
                let skipped = self.skip.min(bytes.len());
                self.skip -= skipped;
                bytes = &bytes[skipped..];
                continue;
            }
            let taken = (FRAME_HEADER - self.arrived).min(bytes.len());
            self.header[self.arrived..][..taken].copy_from_slice(&bytes[..taken]);
            self.arrived += taken;
            bytes = &bytes[taken..];
            if self.arrived == FRAME_HEADER {
                self.arrived = 0;
                if !self.count() {
                    return false;
                }
            }
        }
        true
    }

    /// Counts the frame whose header is there.
    fn count(&mut self) -> bool {
        let [high, middle, low, kind, flags, ..] = self.header;
        self.skip = u32::from_be_bytes([0, high, middle, low]) as usize;
        match kind {
            HEADERS => self.grant(),
            DATA if self.skip > 0 => self.grant(),
            // the end of a request
            DATA if flags & END_STREAM != 0 => {}
            // bounded by h2
            CONTINUATION => {}
            _ if self.granted > 0 => self.granted -= 1,
            _ => {
                self.beyond += 1;
                return self.beyond <= self.max || self.begin_period();
            }
        }
        true
    }

    fn grant(&mut self) {
        self.granted = (self.granted + OF_A_MESSAGE).min(self.max);
    }

    /// The clock is read only here: once in `max` control frames.
    fn begin_period(&mut self) -> bool {
        let now = Instant::now();
        let is_over = now.duration_since(self.since) >= PERIOD;
        self.beyond = 0;
        self.since = now;
        is_over
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RST_STREAM: u8 = 3;
    const PING: u8 = 6;

    fn frame(kind: u8, flags: u8, length: usize) -> Vec<u8> {
        let mut bytes = (length as u32).to_be_bytes()[1..].to_vec();
        bytes.extend([kind, flags, 0, 0, 0, 1]);
        bytes.resize(FRAME_HEADER + length, 0x55);
        bytes
    }

    /// How many of these frames a connection may send that sends nothing else, `cut` bytes at a time; `None`: all 1000.
    fn admitted(frames: &[u8], cut: usize) -> Option<usize> {
        let mut control = ControlFrameMeter::new(100);
        assert!(control.admit(&[0; PREFACE]));
        (0..1000).find(|_| !frames.chunks(cut).all(|piece| control.admit(piece)))
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_control_frames_is_found_however_its_bytes_are_cut() {
        for cut in [1, 5, 9, 17, 1000] {
            for kind in [2, RST_STREAM, 4, PING, 8, 0x77] {
                assert_eq!(admitted(&frame(kind, 0, 8), cut), Some(100), "{kind} cut {cut}");
            }
            assert_eq!(admitted(&frame(DATA, 0, 0), cut), Some(100), "empty DATA cut {cut}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_calls_bring_with_them_is_no_flood() {
        let call = [frame(HEADERS, 4, 30), frame(DATA, END_STREAM, 40), frame(PING, 0, 8), frame(8, 0, 4)].concat();
        assert_eq!(admitted(&call, 1000), None);
        let given_up = [frame(HEADERS, 4, 30), frame(DATA, END_STREAM, 0), frame(RST_STREAM, 0, 4)].concat();
        assert_eq!(admitted(&given_up, 1000), None);
        // five for each message: one too many
        let greedy = [frame(DATA, 0, 1), frame(PING, 0, 8).repeat(5)].concat();
        assert_eq!(admitted(&greedy, 1000), Some(100));
    }

    #[tokio::test(start_paused = true)]
    async fn pings_over_a_long_time_are_no_flood() {
        let mut control = ControlFrameMeter::new(100);
        assert!(control.admit(&[0; PREFACE]));
        for _ in 0..1000 {
            tokio::time::advance(PERIOD / 90).await;
            assert!(control.admit(&frame(PING, 0, 8)));
        }
    }
}
