//! SIGKILL keeps the page cache; a power cut does not. So all is held against a disk that forgets, reorders and tears, and
//! fails.

use super::{
    ledger::{End, Ledger},
    *,
};

/// What a run met.
#[derive(Debug, Default)]
struct Coverage {
    cuts_within: u32,
    cuts_between: u32,
    kills: u32,
    heals: u32,
    torn: u32,
    segments: u32,
    kept: usize,
}

fn len(random: &mut fastrand::Rng) -> usize {
    match random.u8(0..40) {
        // larger than a segment
        0 => random.usize(16_000..60_000),
        1..4 => random.usize(3000..16_000),
        4..8 => 0,
        _ => random.usize(1..1500),
    }
}

/// A random run of `processes`, each ended by a power cut, a kill or in order; in the middle of something, or between.
fn run(seed: u64, processes: u32, disk: TestDisk) -> Result<Coverage, String> {
    let mut ledger = Ledger::new(disk.clone(), seed);
    let mut coverage = Coverage::default();
    for _ in 0..processes {
        let cut_within = ledger.random.u8(0..3) == 0;
        if cut_within {
            let operations = ledger.random.u64(0..60);
            disk.lose_power_after(operations);
        }
        let head = ledger.log().head();
        for _ in 0..ledger.random.u32(0..120) {
            step(&mut ledger)?;
        }
        coverage.segments += ledger.log().head() - head;
        let end = match ledger.random.u8(0..4) {
            _ if cut_within => End::PowerCut,
            0 | 1 => End::PowerCut,
            2 => End::Kill,
            _ => End::Close,
        };
        match end {
            End::PowerCut if cut_within => coverage.cuts_within += 1,
            End::PowerCut => coverage.cuts_between += 1,
            End::Kill => coverage.kills += 1,
            End::Close => {}
        }
        let recovered = ledger.restart(end)?;
        coverage.torn += recovered.damages.iter().filter(|damage| !damage.synced).count() as u32;
        coverage.kept += ledger.synced();
    }
    coverage.heals = ledger.heals;
    Ok(coverage)
}

fn step(ledger: &mut Ledger) -> Result<(), String> {
    match ledger.random.u8(0..100) {
        0..60 => {
            let room = if ledger.random.u8(0..4) == 0 { Room::Progress } else { Room::Payload };
            let len = len(&mut ledger.random);
            ledger.put(len, room).map(drop)
        }
        60..72 => ledger.sync(),
        72..80 => ledger.write(),
        80..85 => {
            let (oldest, head) = (ledger.log().oldest(), ledger.log().head());
            let before = ledger.random.u32(oldest..=head + 1);
            ledger.release(before)
        }
        85..90 => ledger.read_one(),
        90..92 => ledger.read_all(),
        92..96 => {
            ledger.tidy();
            Ok(())
        }
        // half of the runs have a disk that never fails
        96..98 if ledger.fails => {
            let operation = ledger.random.u64(0..8);
            ledger.disk.fail_after(operation);
            Ok(())
        }
        _ => Ok(()),
    }
}

fn seeds() -> u64 {
    std::env::var("OXIPUSH_CRASH_ROUNDS").map_or(90, |rounds| rounds.parse().unwrap())
}

#[test]
fn a_power_cut_takes_nothing_that_was_synced_and_brings_nothing_that_was_not_put() {
    let mut met = Coverage::default();
    for seed in 0..seeds() {
        let coverage = run(seed, 15, TestDisk::default()).unwrap_or_else(|broken| panic!("seed {seed}: {broken}"));
        met.cuts_within += coverage.cuts_within;
        met.cuts_between += coverage.cuts_between;
        met.kills += coverage.kills;
        met.heals += coverage.heals;
        met.torn += coverage.torn;
        met.segments += coverage.segments;
        met.kept += coverage.kept;
    }
    let least = [met.cuts_within, met.cuts_between, met.kills, met.heals, met.torn, met.segments].into_iter().min();
    assert!(least >= Some(20) && met.kept > 1000, "the runs met next to nothing: {met:?}");
}

#[test]
fn the_runs_above_notice_a_sync_that_is_left_out() {
    for seed in 0..5 {
        let disk = TestDisk::default();
        disk.ignore_sync();
        let broken = (0..10).find_map(|run_seed| run(seed * 10 + run_seed, 15, disk.copy()).err());
        assert!(broken.is_some(), "from seed {seed} on: a log without syncs keeps all promises");
    }
}

#[test]
fn each_change_that_fails_in_turn_costs_nothing_that_was_synced() {
    for after in 0.. {
        let disk = TestDisk::default();
        let (mut log, ..) = open(&disk);
        disk.fail_after(after);
        let mut synced = Vec::new();
        let mut void = Vec::new();
        for n in 0..60 {
            let found = match put(&mut log, n * 20) {
                Ok((found, _)) => found,
                Err(PutError::NoRoom(_)) => continue,
                Err(_) => {
                    void.push(log.heal(false).unwrap());
                    continue;
                }
            };
            match log.sync() {
                Ok(()) => synced.push(found),
                Err(_) => void.push(log.heal(false).unwrap()),
            }
            if n % 10 == 9 && (log.release(log.head()).is_err() || log.sync().is_err()) {
                void.push(log.heal(false).unwrap());
            }
        }
        let oldest = log.oldest();
        drop(log);
        let has_failed = disk.has_failed();
        disk.fail(false);
        let mut found = Vec::new();
        let mut places = Vec::new();
        let (log, recovered) = Log::open(disk.powered(), SMALL, |entry| {
            found.push((entry.number, entry.body.to_vec()));
            places.push(entry.place.segment);
        })
        .unwrap();
        assert!(log.oldest() >= oldest && places.iter().all(|segment| *segment >= oldest), "after {after}");
        let first = found.first().map_or(u64::MAX, |(number, _)| *number);
        let must: Vec<_> = synced.iter().filter(|(number, _)| *number >= first).collect();
        let got: Vec<_> = found.iter().filter(|(number, _)| !void.iter().any(|range| range.contains(number))).collect();
        assert_eq!(got, must, "after {after}");
        let told = recovered.damages.iter().filter(|damage| !damage.known && damage.synced);
        assert_eq!(told.count(), 0, "after {after}: {:?}", recovered.damages);
        if !has_failed {
            assert!(after > 60);
            break;
        }
    }
}
