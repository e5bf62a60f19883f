//! Bugs that are planted around the shards, each of which the simulation must find.

/// Each is what the code would do with one check or one call less.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// A wake-up is offered though one before it is missing.
    NoPredecessorCheck,
    /// Shards are not told what changed.
    SweepLost,
    /// A cursor moves one further than was acknowledged.
    AckOffByOne,
    /// A cursor moves to what was sent, before the client has it.
    CursorBeforeFrame,
    /// Who reads a page counts as one entry further than it goes.
    LevelEarly,
    /// A page is taken by who stands one place further.
    PageAtWrongPlace,
    /// The clock is not looked at before a write.
    ExpiredIsWritten,
    /// Who joins with something missing counts as level.
    FollowerForgotten,
    /// What is of another epoch is taken for the known one's.
    NoEpochCheck,
    /// A wake-up that comes twice is another push.
    CopyIsNew,
    /// Who was there before a stream is not told to the store.
    RegisterForgotten,
    /// A wake-up leaves before the log is synced.
    WakesBeforeSync,
    /// A resume counts whatever its epoch and id are.
    ResumeUnchecked,
    /// The store does not look whether it has what a shard knows.
    CutBackUnseen,
}

impl Bug {
    pub const ALL: [Self; 14] = [
        Self::NoPredecessorCheck,
        Self::SweepLost,
        Self::AckOffByOne,
        Self::CursorBeforeFrame,
        Self::LevelEarly,
        Self::PageAtWrongPlace,
        Self::ExpiredIsWritten,
        Self::FollowerForgotten,
        Self::NoEpochCheck,
        Self::CopyIsNew,
        Self::RegisterForgotten,
        Self::WakesBeforeSync,
        Self::ResumeUnchecked,
        Self::CutBackUnseen,
    ];
}
