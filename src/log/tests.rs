//! What the log promises, on a disk in memory.
#![allow(clippy::unwrap_used)]

mod damage;
pub(crate) mod disk;
mod ledger;
mod plain;
mod power_cut;

use self::disk::{PoweredDisk, TestDisk};
use super::{Entry, Log, LogOpenError, LogOptions, Place, PutError, Recovered, Room};

const KIND: u8 = 16;
const SMALL: LogOptions = LogOptions { segment_bytes: 8 << 10 };

type TestLog = Log<PoweredDisk>;

/// A number and a body.
type Found = (u64, Vec<u8>);

fn open(disk: &TestDisk) -> (TestLog, Vec<Found>, Recovered) {
    try_open(disk).unwrap()
}

fn try_open(disk: &TestDisk) -> Result<(TestLog, Vec<Found>, Recovered), LogOpenError> {
    let mut found = Vec::new();
    let (log, recovered) = Log::open(disk.powered(), SMALL, |entry: Entry<'_>| {
        assert_eq!(entry.kind, KIND);
        found.push((entry.number, entry.body.to_vec()));
    })?;
    Ok((log, found, recovered))
}

/// Puts a body, of which the number is the beginning.
fn put(log: &mut TestLog, len: usize) -> Result<(Found, Place), PutError> {
    let number = log.next_number();
    let mut body = number.to_le_bytes().to_vec();
    body.resize(8 + len, number as u8);
    let (given, place) = log.put(KIND, &[&body[..8], &body[8..]], Room::Payload)?;
    assert_eq!(given, number);
    Ok(((number, body), place))
}

/// Bodies of these lengths, synced one by one.
fn filled(disk: &TestDisk, lens: impl IntoIterator<Item = usize>) -> (TestLog, Vec<Found>) {
    let (mut log, ..) = open(disk);
    let mut all = Vec::new();
    for len in lens {
        all.push(put(&mut log, len).unwrap().0);
        log.sync().unwrap();
    }
    (log, all)
}
