//! What a client knows of a stream: how far it is, by `seq` and `prev` of the pushes (docs/streams.md).

/// Where a push stands in its stream, as its frame says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) seq: u64,
    pub(crate) prev: u64,
}

impl Mark {
    /// What a frame of oxipush.v1 says; none in a live push.
    pub(crate) fn find(payload: &[u8]) -> Option<Self> {
        Some(Self { seq: number(payload, br#""seq":"#)?, prev: number(payload, br#""prev":"#)? })
    }
}

/// What a push is to a client that keeps its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Next,
    /// The client has it.
    Copy,
    /// There is one between it and the client's last.
    Gap,
}

/// A client's place in a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Place {
    /// 0: not known.
    epoch: u32,
    seq: u64,
}

impl Place {
    /// A push came. After a gap the client goes on behind it: the gap is told once.
    pub(crate) fn take(&mut self, mark: Mark) -> Step {
        if mark.seq <= self.seq {
            return Step::Copy;
        }
        let step = if mark.prev > self.seq { Step::Gap } else { Step::Next };
        self.seq = mark.seq;
        step
    }

    /// Takes what `stream`, `subscribed` or `reset` say: the epoch, and the seq up to which the client has all.
    pub(crate) fn told(&mut self, payload: &[u8]) {
        let (Some(epoch), Some(seq)) = (epoch(payload), number(payload, br#""seq":"#)) else { return };
        *self = Self { epoch, seq };
    }

    /// The `resume` of a join or a subscription; none before it is told an epoch.
    pub(crate) fn resume(self) -> Option<String> {
        (self.epoch != 0).then(|| format!(r#""resume":{{"epoch":"{:08x}","seq":{}}}"#, self.epoch, self.seq))
    }

    pub(crate) fn seq(self) -> u64 {
        self.seq
    }
}

/// The number behind the last of these words. Contents have no quotes in them.
fn number(payload: &[u8], word: &[u8]) -> Option<u64> {
    let at = payload.windows(word.len()).rposition(|window| window == word)? + word.len();
    let digits = payload[at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    std::str::from_utf8(&payload[at..at + digits]).ok()?.parse().ok()
}

fn epoch(payload: &[u8]) -> Option<u32> {
    const WORD: &[u8] = br#""epoch":""#;
    let at = payload.windows(WORD.len()).rposition(|window| window == WORD)? + WORD.len();
    let digits = std::str::from_utf8(payload.get(at..at + 8)?).ok()?;
    u32::from_str_radix(digits, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(seq: u64, prev: u64) -> Mark {
        Mark { seq, prev }
    }

    #[test]
    fn a_hole_is_no_gap_and_a_missing_one_is() {
        let mut place = Place::default();
        assert_eq!(place.take(mark(1, 0)), Step::Next);
        // 2 and 3 were for another app
        assert_eq!(place.take(mark(4, 1)), Step::Next);
        assert_eq!(place.take(mark(4, 1)), Step::Copy);
        assert_eq!(place.take(mark(2, 1)), Step::Copy);
        assert_eq!(place.take(mark(6, 5)), Step::Gap);
        assert_eq!(place.take(mark(7, 6)), Step::Next);
    }

    #[test]
    fn what_came_before_the_client_s_place_began_is_no_gap() {
        let mut place = Place::default();
        place.told(br#"{"event":"stream","data":{"card":"alice","epoch":"0a1b2c3d","seq":7,"waiting":3}}"#);
        assert_eq!(place.resume().as_deref(), Some(r#""resume":{"epoch":"0a1b2c3d","seq":7}"#));
        // 5 was the last for this client, and is gone
        assert_eq!(place.take(mark(8, 5)), Step::Next);
        assert_eq!(place.seq(), 8);
    }

    #[test]
    fn a_frame_says_where_its_push_stands_and_a_live_one_does_not() {
        let frame = br#"{"event":"push","data":{"id":"01","content":"seq","card":"a","seq":12,"prev":9}}"#;
        assert_eq!(Mark::find(frame), Some(mark(12, 9)));
        assert_eq!(Mark::find(br#"{"event":"push","data":{"id":"01","content":"x"}}"#), None);
        let mut place = Place::default();
        place.told(br#"{"event":"joined","data":{"card_id":"a"}}"#);
        assert_eq!(place.resume(), None);
    }
}
