//! Whole runs of a node's streams in one thread, with a seeded world that loses, doubles, delays, crashes and cuts back: real
//! shards and a store that is a plain map (`simulation/model.rs`).
//!
//! `OXIPUSH_SIMULATION=10000` runs so many seeds; `OXIPUSH_SIMULATION_SEED=17` only that one. A run that fails is shrunk and
//! printed: its steps can be pasted into a test of their own here.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "simulation/bugs.rs"]
mod bugs;
#[path = "simulation/model.rs"]
mod model;
#[path = "simulation/reader.rs"]
mod reader;
#[path = "simulation/shrink.rs"]
mod shrink;
#[path = "simulation/steps.rs"]
mod steps;
#[path = "simulation/world.rs"]
mod world;

use std::{
    env,
    sync::atomic::{AtomicU64, Ordering},
    thread,
};

use bugs::Bug;
use shrink::{fails, report};

/// Of a run.
const STEPS: usize = 10_000;
/// In CI.
const SEEDS: u64 = 300;
/// Within so many seeds each planted bug must be found.
const PLANTED_SEEDS: u64 = 400;

fn number(variable: &str) -> Option<u64> {
    env::var(variable).ok().map(|text| text.parse().expect("a number"))
}

/// The lowest of `seeds` seeds that fails is told.
fn run_all(seeds: u64, steps: usize) {
    let next = AtomicU64::new(0);
    let failed = AtomicU64::new(u64::MAX);
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(2, usize::from).min(8) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds || failed.load(Ordering::Relaxed) < seed {
                        return;
                    }
                    if fails(seed, &steps::of_seed(seed, steps), None).is_some() {
                        failed.fetch_min(seed, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner();
    if failed != u64::MAX {
        report(failed, steps);
    }
}

#[test]
fn a_device_gets_its_streams_in_order_and_whole_whatever_happens() {
    match number("OXIPUSH_SIMULATION_SEED") {
        Some(seed) => report(seed, STEPS),
        None => run_all(number("OXIPUSH_SIMULATION").unwrap_or(SEEDS), STEPS),
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in 0..4 {
        let steps = steps::of_seed(seed, 3000);
        assert_eq!(shrink::read(seed, &steps), shrink::read(seed, &steps));
    }
}

#[test]
fn each_planted_bug_is_found() {
    for bug in Bug::ALL {
        let found = (0..PLANTED_SEEDS).find_map(|seed| {
            let steps = steps::of_seed(seed, 3000);
            fails(seed, &steps, Some(bug)).map(|failure| (seed, failure))
        });
        let (seed, failure) = found.unwrap_or_else(|| panic!("{bug:?} is not found within {PLANTED_SEEDS} seeds"));
        println!("{bug:?}: seed {seed}, step {}: {}", failure.at, failure.message);
    }
}
