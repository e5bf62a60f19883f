//! Without faults.

use super::*;

#[test]
fn what_is_put_is_there_after_an_open_in_order_over_segments() {
    let disk = TestDisk::default();
    let (log, all) = filled(&disk, (0..200).map(|n| n * 7 % 900));
    assert!(log.head() > 3, "only {} segments", log.head());
    drop(log);
    let (mut log, found, recovered) = open(&disk);
    assert_eq!(found, all);
    assert!(recovered.damages.is_empty() && !recovered.new, "{:?}", recovered.damages);
    // and goes on in the same segment
    let head = log.head();
    let more = put(&mut log, 10).unwrap().0;
    log.sync().unwrap();
    assert_eq!(log.head(), head);
    drop(log);
    let (_, found, recovered) = open(&disk);
    assert_eq!(found.last(), Some(&more));
    assert!(recovered.damages.is_empty(), "{:?}", recovered.damages);
}

#[test]
fn a_new_log_is_new_until_something_is_in_it_and_an_open_writes_nothing() {
    let disk = TestDisk::default();
    for _ in 0..3 {
        let (_, found, recovered) = open(&disk);
        assert!(found.is_empty() && recovered.new && recovered.damages.is_empty(), "{:?}", recovered.damages);
    }
    drop(filled(&disk, [1, 2, 3]));
    let before = disk.contents();
    for _ in 0..3 {
        assert_eq!(open(&disk).1.len(), 3);
    }
    assert_eq!(disk.contents(), before);
}

#[test]
fn each_entry_is_read_again_from_its_place_and_from_any_place_on() {
    let disk = TestDisk::default();
    let (mut log, ..) = open(&disk);
    let mut all = Vec::new();
    for n in 0..100_usize {
        // some larger than a segment
        all.push(put(&mut log, if n % 33 == 32 { 40_000 } else { n * 11 }).unwrap());
    }
    for ((_, body), place) in &all {
        let (kind, read) = log.read(*place).unwrap().unwrap();
        assert_eq!((kind, &read[..]), (KIND, &body[..]));
    }
    for first in [0, 1, 50, 99] {
        let (mut next, mut read) = (Some(all[first].1), Vec::new());
        while let Some(from) = next {
            next = log.read_from(from, 3000, |entry| read.push((entry.number, entry.body.to_vec()))).unwrap();
        }
        assert_eq!(read, all[first..].iter().map(|(found, _)| found.clone()).collect::<Vec<_>>());
    }
    log.sync().unwrap();
    drop(log);
    assert_eq!(open(&disk).1.len(), 100);
}

#[test]
fn released_segments_do_not_come_back_and_their_files_are_used_again() {
    let disk = TestDisk::default();
    let (mut log, ..) = open(&disk);
    for round in 0..300 {
        put(&mut log, 1000).unwrap();
        log.sync().unwrap();
        log.release(log.head()).unwrap();
        log.sync().unwrap();
        assert!(disk.used() <= 6 * (8 << 10), "{} bytes in round {round}", disk.used());
    }
    let (oldest, head, number) = (log.oldest(), log.head(), log.next_number());
    assert_eq!(oldest, head);
    drop(log);
    let (log, found, recovered) = open(&disk);
    assert!(recovered.damages.is_empty(), "{:?}", recovered.damages);
    assert!(found.len() < 16, "{} entries", found.len());
    assert_eq!((log.oldest(), log.head(), log.next_number()), (oldest, head, number));
}

#[test]
fn when_all_is_released_nothing_comes_back_and_contents_are_gone_once_it_is_closed() {
    let disk = TestDisk::default();
    let (mut log, ..) = open(&disk);
    for _ in 0..50 {
        put(&mut log, 1000).unwrap();
        log.sync().unwrap();
    }
    let (head, number) = (log.head(), log.next_number());
    log.release(head + 1).unwrap();
    log.close().unwrap();
    let left: usize = disk.contents().values().map(|bytes| bytes.iter().filter(|byte| **byte == 49).count()).sum();
    assert!(left < 20, "{left} bytes of the last body are left");
    let (mut log, found, _) = open(&disk);
    assert!(found.is_empty());
    assert!(log.next_number() >= number, "a number comes again");
    let last = put(&mut log, 10).unwrap().0;
    log.sync().unwrap();
    assert!(log.head() > head);
    drop(log);
    assert_eq!(open(&disk).1, [last]);
}

#[test]
fn a_full_disk_takes_progress_heals_once_all_is_released_and_opens_without_room() {
    let disk = TestDisk::default();
    disk.set_room(Some(3 * (8 << 10) + 100));
    let (mut log, ..) = open(&disk);
    let mut all = Vec::new();
    let refused = loop {
        match put(&mut log, 500) {
            Ok((found, _)) => all.push(found),
            Err(error) => break error,
        }
        log.sync().unwrap();
    };
    assert!(matches!(refused, PutError::NoRoom(_)), "{refused}");
    assert!(all.len() > 20);
    for round in 0..5_u8 {
        drop(log);
        let (reopened, found, recovered) = open(&disk);
        log = reopened;
        assert!(recovered.damages.is_empty(), "{:?}", recovered.damages);
        let payload: Vec<_> = found.into_iter().filter(|(_, body)| body.len() > 8).collect();
        assert_eq!(payload, all, "in round {round}");
        assert!(matches!(put(&mut log, 500), Err(PutError::NoRoom(_))));
        log.put(KIND, &[&[round]], Room::Progress).unwrap();
        log.sync().unwrap();
    }
    // until progress has no room either
    while log.put(KIND, &[&[7; 7]], Room::Progress).is_ok() {
        log.sync().unwrap();
    }
    drop(log);
    let (mut log, ..) = open(&disk);
    log.release(log.head() + 1).unwrap();
    log.sync().unwrap();
    put(&mut log, 500).unwrap();
    log.sync().unwrap();
    drop(log);
    assert_eq!(open(&disk).1.len(), 1);
}

#[test]
fn publishes_that_wait_cost_one_sync_and_nothing_to_do_costs_none() {
    let disk = TestDisk::default();
    let (mut log, ..) = open(&disk);
    put(&mut log, 10).unwrap();
    log.sync().unwrap();
    let syncs = disk.syncs();
    for _ in 0..10 {
        put(&mut log, 10).unwrap();
    }
    log.sync().unwrap();
    log.sync().unwrap();
    assert_eq!(disk.syncs(), syncs + 1);
}
