//! What happens in a run: a list of steps that mean something whatever is left out of it, so that it can be shrunk.

use fastrand::Rng;

/// What becomes of a wake-up on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Arrives,
    Lost,
    Doubled,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A push to the n-th target: for an app, so long, with a collapse key, so large.
    Push {
        target: u8,
        app: Option<u8>,
        ttl: Option<u16>,
        collapse: Option<u8>,
        size: u16,
    },
    /// The store syncs what waits, and hands it to dispatch.
    Commit,
    /// A lane takes a wake-up, and sends it to the shards.
    Route {
        lane: u8,
        fate: Fate,
    },
    /// A shard takes so many from its inbox, then writes so much; at once where nothing waits.
    Turn {
        shard: u8,
        works: u8,
        writes: u8,
        at_once: bool,
    },
    Tick(u8),
    /// Questions of shards are answered; or the disk cannot be read, …
    Ask {
        fails: bool,
    },
    /// … and an answer comes; perhaps twice.
    Answer {
        twice: bool,
    },
    /// The store's changes are on their way to the shards.
    Sweep,
    Open {
        reader: u8,
        shard: u8,
        resume: bool,
        /// The store does not answer as it joins.
        late: bool,
    },
    /// The store says where one begins of which it could not say it before.
    Place,
    /// It vanishes without a word.
    Vanish(u8),
    /// It closes in order.
    Close(u8),
    /// It takes what came.
    Read(u8),
    /// It acknowledges, or answers Pings.
    Ack(u8),
    /// It leaves an address and comes again.
    Rejoin {
        reader: u8,
        nth: u8,
        resume: bool,
    },
    /// It leaves an address for a while.
    Leave {
        reader: u8,
        nth: u8,
    },
    /// So many milliseconds pass.
    Time(u16),
    DeleteEntry {
        address: u8,
        nth: u8,
    },
    DeleteStream(u8),
    Snapshot,
    /// The node dies and starts again.
    Crash,
    /// It starts again on an older state of the store.
    CutBack,
    /// The store, which is another process, loses what is newer than an older state of it, and nobody is told.
    FailOver,
}

pub const READERS: u8 = 10;
pub const ADDRESSES: u8 = 5;

pub fn of_seed(seed: u64, count: usize) -> Vec<Step> {
    let mut rng = Rng::with_seed(seed);
    // each run has its own mixture
    let lossy = rng.u32(0..4) * 4;
    let slow = rng.u32(1..12);
    let deletes = rng.u32(0..3);
    let crashes = rng.u32(0..3);
    (0..count).map(|_| step(&mut rng, lossy, slow, deletes, crashes)).collect()
}

fn step(rng: &mut Rng, lossy: u32, slow: u32, deletes: u32, crashes: u32) -> Step {
    let reader = rng.u8(0..READERS);
    match rng.u32(0..1000) {
        0..110 => Step::Push {
            target: rng.u8(..),
            app: (rng.u8(0..4) == 0).then(|| rng.u8(0..3)),
            ttl: (rng.u8(0..4) == 0).then(|| rng.u16(1..3000)),
            collapse: (rng.u8(0..5) == 0).then(|| rng.u8(0..2)),
            size: if rng.u8(0..10) == 0 { rng.u16(400..1500) } else { rng.u16(1..100) },
        },
        110..210 => Step::Commit,
        210..360 => {
            let fate = match rng.u32(0..100) {
                chance if chance < lossy => Fate::Lost,
                chance if chance < lossy + 3 => Fate::Doubled,
                _ => Fate::Arrives,
            };
            Step::Route { lane: rng.u8(0..2), fate }
        }
        360..560 => Step::Turn { shard: rng.u8(0..3), works: rng.u8(1..4), writes: rng.u8(0..6), at_once: rng.bool() },
        560..575 => Step::Tick(rng.u8(0..3)),
        575..640 => Step::Ask { fails: rng.u8(0..50) == 0 },
        640..720 => Step::Answer { twice: rng.u8(0..40) == 0 },
        720..735 => Step::Sweep,
        735..790 => Step::Open { reader, shard: rng.u8(0..3), resume: rng.u8(0..3) > 0, late: rng.u8(0..8) == 0 },
        790..800 => Step::Vanish(reader),
        800..806 => Step::Close(reader),
        806..920 if rng.u32(0..12) < slow => Step::Read(reader),
        806..950 => Step::Ack(reader),
        950..960 => Step::Rejoin { reader, nth: rng.u8(..), resume: rng.bool() },
        960..963 => Step::Leave { reader, nth: rng.u8(..) },
        963..985 => Step::Time(rng.u16(1..400)),
        985..988 if deletes > 0 => Step::DeleteEntry { address: rng.u8(0..ADDRESSES), nth: rng.u8(0..12) },
        988 if deletes > 1 => Step::DeleteStream(rng.u8(0..ADDRESSES)),
        989 if rng.bool() => Step::Snapshot,
        990 if crashes > 0 => Step::Crash,
        991 if crashes > 1 && rng.u8(0..3) == 0 => Step::CutBack,
        992 if crashes > 0 && rng.bool() => Step::FailOver,
        993..999 => Step::Place,
        _ => Step::Read(reader),
    }
}
