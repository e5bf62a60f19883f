//! Bits that flip, files that are cut, emptied, deleted or mixed up.

use std::collections::BTreeMap;

use super::*;
use crate::log::entry::EntryHead;

type Files = BTreeMap<u32, Vec<u8>>;

/// A log in several segments, of which the first are released and their files used again.
fn made(entries: usize, len: usize) -> (Files, Vec<Found>) {
    let disk = TestDisk::default();
    let (mut log, mut all) = filled(&disk, (0..entries).map(|n| n * 13 % len));
    log.release(2).unwrap();
    log.sync().unwrap();
    for n in 0..entries {
        all.push(put(&mut log, n * 17 % len).unwrap().0);
        log.sync().unwrap();
    }
    drop(log);
    let (_, found, recovered) = open(&disk);
    assert!(recovered.damages.is_empty(), "{:?}", recovered.damages);
    assert!(found.len() > entries && all.ends_with(&found));
    (disk.contents(), found)
}

/// What an open of damaged files gives: only what was put, in order, and what is missing is told.
fn judge(files: &Files, all: &[Found], what: &str) -> Option<(usize, Recovered)> {
    let disk = TestDisk::with(files.clone());
    let (log, found, recovered) = match try_open(&disk) {
        Ok(opened) => opened,
        Err(LogOpenError(told)) => {
            assert!(told.contains("oxipush log"), "{what}: {told}");
            return None;
        }
    };
    let mut expected = all.iter();
    for one in &found {
        assert!(expected.any(|put| put == one), "{what}: {} was not put, or is out of order", one.0);
    }
    let missing = all.len() - found.len();
    assert!(missing == 0 || !recovered.damages.is_empty(), "{what}: {missing} are missing, and nothing is told");
    let told: u64 = recovered.damages.iter().map(|damage| damage.numbers.end - damage.numbers.start).sum();
    let unknown = recovered.damages.iter().any(|damage| damage.numbers.is_empty());
    assert!(told >= missing as u64 || unknown, "{what}: {missing} are missing: {:?}", recovered.damages);
    if let Some((last, _)) = found.last() {
        assert!(log.next_number() > *last);
    }
    Some((missing, recovered))
}

#[test]
fn a_bit_that_flips_anywhere_costs_one_entry_and_is_told() {
    let (files, all) = made(90, 120);
    let mut random = fastrand::Rng::with_seed(3);
    for (file, bytes) in &files {
        for (at, byte) in bytes.iter().enumerate() {
            // in the zeros some do for all
            if *byte == 0 && random.u8(..) > 0 {
                continue;
            }
            let mut damaged = files.clone();
            damaged.get_mut(file).unwrap()[at] ^= 1 << random.u8(0..8);
            let what = format!("file {file}, byte {at}");
            let (missing, _) = judge(&damaged, &all, &what).unwrap();
            assert!(missing <= 1, "{what}: {missing} are missing");
        }
    }
}

#[test]
fn a_cut_anywhere_costs_what_was_behind_it_in_that_file_and_is_told() {
    let (files, all) = made(90, 120);
    for (file, bytes) in &files {
        for at in
            (0..bytes.len()).filter(|at| at % 8 < 2 && bytes[at.saturating_sub(64)..].iter().any(|byte| *byte != 0))
        {
            let mut damaged = files.clone();
            damaged.get_mut(file).unwrap().truncate(at);
            judge(&damaged, &all, &format!("file {file} cut at {at}"));
        }
    }
}

#[test]
fn ten_thousand_damages_of_a_larger_log_never_give_another_content() {
    let (files, all) = made(100, 400);
    let rounds = 10_000;
    let (_, _, recovered) = open(&TestDisk::with(files.clone()));
    let head = recovered.files.iter().max_by_key(|file| file.segment).unwrap().name.clone();
    let mut random = fastrand::Rng::with_seed(4);
    let numbers: Vec<u32> = files.keys().copied().collect();
    for round in 0..rounds {
        let mut damaged = files.clone();
        for _ in 0..random.usize(1..4) {
            let file = *random.choice(&numbers).unwrap();
            let Some(bytes) = damaged.get_mut(&file) else { continue };
            if bytes.is_empty() {
                continue;
            }
            match random.u8(0..20) {
                0 => drop(damaged.remove(&file)),
                1 => bytes.clear(),
                2 => bytes.truncate(random.usize(0..bytes.len())),
                3..6 => {
                    let from = random.usize(0..bytes.len());
                    let to = bytes.len().min(from + 4096);
                    random.fill(&mut bytes[from..to]);
                }
                // zeros at the log's end are its end: nothing behind them tells that there was more
                6 if head != format!("log.{file:04}") => {
                    let from = random.usize(0..bytes.len());
                    let to = bytes.len().min(from + 4096);
                    bytes[from..to].fill(0);
                }
                _ => {
                    let at = random.usize(0..bytes.len());
                    bytes[at] ^= 1 << random.u8(0..8);
                }
            }
        }
        judge(&damaged, &all, &format!("round {round}"));
    }
}

#[test]
fn a_file_that_is_gone_is_told_whichever_it_is() {
    let (files, all) = made(100, 600);
    for file in files.keys() {
        for empty in [false, true] {
            let mut damaged = files.clone();
            if empty {
                damaged.insert(*file, Vec::new());
            } else {
                damaged.remove(file);
            }
            if let Some((missing, recovered)) = judge(&damaged, &all, &format!("file {file}")) {
                let told = recovered.damages.iter().any(|damage| damage.synced);
                assert!(missing == 0 || told, "{missing} are missing: {:?}", recovered.damages);
                is_told_once(damaged);
            }
        }
    }
}

/// After something was put, whatever is missing is known at the next open, and no more is.
fn is_told_once(files: Files) {
    let disk = TestDisk::with(files);
    let (mut log, ..) = open(&disk);
    put(&mut log, 10).unwrap();
    log.sync().unwrap();
    drop(log);
    for damage in open(&disk).2.damages {
        assert!(damage.known || damage.numbers.is_empty(), "{damage:?}");
    }
}

#[test]
fn what_was_told_once_is_known_at_the_next_open() {
    let (mut files, _) = made(100, 600);
    let file = *files.keys().next().unwrap();
    files.get_mut(&file).unwrap()[5000..5300].fill(0xAA);
    let disk = TestDisk::with(files);
    let (mut log, _, recovered) = open(&disk);
    assert!(recovered.damages.iter().any(|damage| !damage.known && !damage.numbers.is_empty()));
    put(&mut log, 10).unwrap();
    log.sync().unwrap();
    drop(log);
    let (_, _, recovered) = open(&disk);
    assert!(!recovered.damages.is_empty());
    for damage in recovered.damages {
        assert!(damage.known || damage.numbers.is_empty(), "{damage:?}");
    }
}

#[test]
fn an_entry_forged_inside_a_body_is_never_believed() {
    let disk = TestDisk::default();
    let (mut log, ..) = open(&disk);
    let real = put(&mut log, 100).unwrap().0;
    log.sync().unwrap();
    // the true log's bytes, but for its id, which who pushes does not know
    let mut forged = disk.contents()[&1][..512].to_vec();
    for at in (0..forged.len() - 32).step_by(8) {
        if forged[at + 12..at + 16] == 0_u32.to_le_bytes() {
            continue;
        }
        forged[at + 12] ^= 1;
        let sum = crc32fast::hash(&forged[at + 4..at + 32]);
        forged[at..at + 4].copy_from_slice(&sum.to_le_bytes());
    }
    log.put(KIND, &[&forged], Room::Payload).unwrap();
    log.sync().unwrap();
    let last = put(&mut log, 100).unwrap().0;
    log.sync().unwrap();
    drop(log);
    let mut files = disk.contents();
    let bytes = files.get_mut(&1).unwrap();
    // the head before the forged one is damaged
    let at = bytes.windows(forged.len()).position(|window| window == forged).unwrap();
    bytes[at - 20] ^= 1;
    let (_, found, _) = open(&TestDisk::with(files));
    assert_eq!(found, [real, last]);
}

#[test]
fn a_forged_entry_of_the_last_segment_and_number_takes_no_log_over() {
    let disk = TestDisk::default();
    let (mut log, ..) = open(&disk);
    let real = put(&mut log, 100).unwrap().0;
    log.sync().unwrap();
    let mut forged = Vec::new();
    let other = u32::from_le_bytes(disk.contents()[&1][12..16].try_into().unwrap()) ^ 1;
    EntryHead::new(other, u32::MAX - 1, KIND, true, u64::MAX - 1, 6).encode(&[b"forged"], &mut forged);
    log.put(KIND, &[&forged], Room::Payload).unwrap();
    log.sync().unwrap();
    drop(log);
    let mut files = disk.contents();
    let bytes = files.get_mut(&1).unwrap();
    let at = bytes.windows(forged.len()).position(|window| window == forged).unwrap();
    // a power cut may tear a head off its body so
    bytes[at - 20] ^= 1;
    let (log, found, _) = open(&TestDisk::with(files));
    assert_eq!(found, [real]);
    assert!(log.head() < 10, "{}", log.head());
}

#[test]
fn files_of_two_logs_are_refused_with_what_to_do() {
    let (mut files, _) = made(100, 600);
    let (other, _) = made(100, 600);
    let file = *files.keys().next().unwrap();
    files.insert(file, other[&file].clone());
    let LogOpenError(told) = try_open(&TestDisk::with(files)).err().unwrap();
    assert!(told.contains("different logs") && told.contains("oxipush log salvage"), "{told}");
}

#[test]
fn salvage_copies_what_is_whole_with_the_same_numbers() {
    let (mut files, all) = made(100, 600);
    let file = *files.keys().next().unwrap();
    files.get_mut(&file).unwrap()[5000..5300].fill(0xAA);
    let damaged = TestDisk::with(files);
    let whole = open(&damaged).1;
    assert!(whole.len() < all.len());
    let new = TestDisk::default();
    let recovered = super::super::salvage(&damaged.powered(), new.powered(), SMALL).unwrap();
    assert!(!recovered.damages.is_empty());
    let (_, found, recovered) = open(&new);
    assert_eq!(found, whole);
    assert!(recovered.damages.iter().all(|damage| damage.known), "{:?}", recovered.damages);
    assert!(super::super::salvage(&damaged.powered(), new.powered(), SMALL).is_err());
}
