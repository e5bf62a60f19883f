//! The id of a push: a ULID.

use std::{
    fmt,
    time::{SystemTime, UNIX_EPOCH},
};

/// Milliseconds that the clock may go back for ids to grow all the same, as it does when it is slewed; more is a clock set back.
const SET_BACK: u64 = 1000;

/// Now, by the wall clock, in milliseconds since 1970.
pub fn unix_millis() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |age| age.as_millis() as u64)
}

/// 128 bits: 48 of milliseconds since 1970, 80 of chance; shown as 26 characters of Crockford's base 32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PushId(u128);

impl PushId {
    /// Of no push.
    pub const NIL: Self = Self(0);

    /// One in so many pushes is sampled, by its id: see [`PushId::is_sampled`].
    pub const SAMPLED_ONE_IN: u64 = 16;

    /// A new id of this moment, larger than any that this process made before, unless the clock was set back since.
    pub fn generate() -> Self {
        use std::sync::{Mutex, PoisonError};
        static LAST: Mutex<PushId> = Mutex::new(PushId(0));
        let now = unix_millis();
        let chance = u128::from(fastrand::u64(..)) << 64 | u128::from(fastrand::u64(..));
        let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
        *last = last.next(now, chance);
        *last
    }

    /// The id of `now` after this one.
    fn next(self, now: u64, chance: u128) -> Self {
        let fresh = Self::from_parts(now, chance);
        // an id's time is shown as the push's: it follows a clock that was ahead and was set right
        if self.millis() > now.saturating_add(SET_BACK) { fresh } else { fresh.max(Self(self.0 + 1)) }
    }

    /// From `millis` since 1970 and any `chance`, of which the low 80 bits count: the same for the same arguments.
    pub fn from_parts(millis: u64, chance: u128) -> Self {
        Self((u128::from(millis) << 80) | (chance & ((1 << 80) - 1)))
    }

    /// From what [`fmt::Display`] writes.
    pub fn parse(text: &str) -> Option<Self> {
        ulid::Ulid::from_string(text).ok().map(|id| Self(id.0))
    }

    /// From the record's form.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(u128::from_be_bytes(bytes))
    }

    /// The record's form.
    pub fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }

    /// Whether the times of its way are measured, which would cost too much for every push: the same on every node.
    pub fn is_sampled(self) -> bool {
        (self.0 as u64).is_multiple_of(Self::SAMPLED_ONE_IN)
    }

    /// Of a sampled push: tells it from others, by chance.
    pub fn sample_number(self) -> u64 {
        self.0 as u64 / Self::SAMPLED_ONE_IN
    }

    /// Milliseconds since 1970.
    pub fn millis(self) -> u64 {
        (self.0 >> 80) as u64
    }
}

impl fmt::Display for PushId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        ulid::Ulid::from(self.0).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::PushId;

    #[test]
    fn ids_grow() {
        let ids: Vec<_> = (0..1000).map(|_| PushId::generate()).collect();
        assert!(ids.windows(2).all(|pair| pair[0] < pair[1]));
    }

    #[test]
    fn one_in_so_many_is_sampled_however_many_come_in_a_millisecond() {
        const IDS: u64 = 100_000;
        let sampled = (0..IDS).filter(|_| PushId::generate().is_sampled()).count() as u64;
        let expected = IDS / PushId::SAMPLED_ONE_IN;
        assert!((expected * 9 / 10..expected * 11 / 10).contains(&sampled), "{sampled} of {IDS}");
    }

    #[test]
    fn ids_follow_a_clock_that_was_ahead_and_grow_while_it_only_stutters() {
        const NOW: u64 = 1_700_000_000_000;
        let id = PushId::from_parts(NOW, 7);
        for (now, grows, millis) in [
            (NOW, true, NOW),
            (NOW + 1, true, NOW + 1),
            (NOW - 1, true, NOW),
            (NOW - 1000, true, NOW),
            (NOW - 1001, false, NOW - 1001),
            (NOW - 3_600_000, false, NOW - 3_600_000),
            (0, false, 0),
        ] {
            let next = id.next(now, 3);
            assert_eq!((next > id, next.millis()), (grows, millis), "{now}");
        }
    }

    #[test]
    fn an_id_is_the_same_through_its_bytes_and_26_characters_long() {
        let id = PushId::from_parts(1_700_000_000_000, 42);
        assert_eq!(PushId::from_bytes(id.to_bytes()), id);
        assert_eq!(id.millis(), 1_700_000_000_000);
        assert_eq!(id.to_string().len(), 26);
        assert_eq!(PushId::parse(&id.to_string()), Some(id));
        assert_eq!([PushId::parse(""), PushId::parse("no id"), PushId::parse(&"0".repeat(27))], [None; 3]);
    }
}
