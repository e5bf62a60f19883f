//! From a long run that fails to a short one.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::{
    bugs::Bug,
    steps::{self, Step},
    world::World,
};

/// Runs that a shrink tries at most.
const TRIES: usize = 3000;

#[derive(Clone, Debug)]
pub struct Failure {
    /// Before which step; their number: at the end.
    pub at: usize,
    pub message: String,
}

fn run(seed: u64, steps: &[Step], bug: Option<Bug>) -> Result<u64, Failure> {
    let mut world = World::new(seed, bug);
    for (at, step) in steps.iter().enumerate() {
        let done = catch_unwind(AssertUnwindSafe(|| world.step(*step)));
        let done = done.unwrap_or_else(|_| Err("a panic".into()));
        done.map_err(|message| Failure { at, message })?;
    }
    let at = steps.len();
    let read = catch_unwind(AssertUnwindSafe(|| {
        world.settle()?;
        let read = world.read;
        world.end().map(|()| read)
    }));
    read.unwrap_or_else(|_| Err("a panic".into())).map_err(|message| Failure { at, message })
}

/// How a run fails; `None`: it does not.
pub fn fails(seed: u64, steps: &[Step], bug: Option<Bug>) -> Option<Failure> {
    run(seed, steps, bug).err()
}

/// Frames that clients read in a run.
pub fn read(seed: u64, steps: &[Step]) -> u64 {
    run(seed, steps, None).unwrap_or_else(|failure| panic!("seed {seed}: {failure:?}"))
}

/// What is alike in failures of one cause, as far as a message tells.
fn kind(failure: &Failure) -> &'static str {
    const KINDS: [&str; 14] = [
        "acknowledged",
        "no epoch",
        "not its place",
        "it is for",
        "its end was",
        "a copy",
        "a gap",
        "no reset",
        "misses",
        "ends with",
        "ends at",
        "no rest",
        "is left",
        "a panic",
    ];
    KINDS.into_iter().find(|kind| failure.message.contains(kind)).unwrap_or("")
}

/// As few of the steps as still fail, in the same way.
fn shrink(seed: u64, steps: &[Step], failure: Failure) -> (Vec<Step>, Failure) {
    let mut steps = steps[..(failure.at + 1).min(steps.len())].to_vec();
    let mut failure = failure;
    let mut tries = 0;
    let mut chunk = steps.len() / 2;
    while chunk > 0 {
        let mut from = 0;
        let mut shrank = false;
        while from < steps.len() && tries < TRIES {
            tries += 1;
            let mut fewer = steps[..from].to_vec();
            fewer.extend_from_slice(&steps[(from + chunk).min(steps.len())..]);
            match fails(seed, &fewer, None).filter(|with| kind(with) == kind(&failure)) {
                Some(with) => {
                    fewer.truncate(with.at + 1);
                    (steps, failure, shrank) = (fewer, with, true);
                }
                None => from += chunk,
            }
        }
        if !shrank || chunk > 1 {
            chunk /= 2;
        }
    }
    (steps, failure)
}

/// Runs a seed, and panics with what is left of it if it fails.
pub fn report(seed: u64, count: usize) {
    let steps = steps::of_seed(seed, count);
    let Some(failure) = fails(seed, &steps, None) else { return };
    println!("seed {seed} fails at step {}: {}", failure.at, failure.message);
    let (steps, failure) = shrink(seed, &steps, failure);
    println!("fails({seed}, &[");
    steps.iter().for_each(|step| println!("    Step::{step:?},"));
    println!("], None) // {}", failure.message);
    panic!("seed {seed}, shrunk to {} steps: {}", steps.len(), failure.message);
}
