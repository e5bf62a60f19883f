//! From the log's entries to the messages that an earlier process left.

use std::{collections::BTreeMap, hash::BuildHasher};

use super::{
    JournalOptions,
    entry::{self, JournalEntry, MESSAGE},
    messages::{KnownMessage, Messages},
    shared::LaneHash,
};
use crate::{
    log::{Disk, Log, LogOpenError, Recovered},
    telemetry::{Metrics, labels::EventOutcome},
};

/// Opens the log and reads what an earlier process left. Damage is told and counted.
pub(super) fn open<D: Disk>(
    disk: D,
    options: &JournalOptions,
    lanes: &LaneHash,
    metrics: &Metrics,
) -> Result<(Log<D>, Messages), LogOpenError> {
    let mut found = BTreeMap::new();
    let mut done = Vec::new();
    let mut unknown = 0_u64;
    let (log, recovered) = Log::open(disk, options.log, |entry| match JournalEntry::read(&entry) {
        Some(JournalEntry::Message { number, lane, json }) => {
            let len = json.len() as u32;
            let message = KnownMessage { place: entry.place, lane: lanes.hash_one(lane), len, json: None };
            // the last place of a message that was written again
            found.insert(number, message);
        }
        Some(JournalEntry::Done(ranges)) => done.extend(entry::read_ranges(ranges)),
        None => unknown += 1,
    })?;
    let mut messages = Messages::new(options.memory_bytes);
    for (number, message) in found {
        messages.insert(number, message);
    }
    for range in entry::merged(done) {
        messages.remove(range);
    }
    if unknown > 0 {
        tracing::warn!(
            entries = unknown,
            "the events' log has entries that this version does not know: they are ignored"
        );
    }
    tell_damage(&recovered, metrics);
    Ok((log, messages))
}

fn tell_damage(recovered: &Recovered, metrics: &Metrics) {
    let new = || recovered.damages.iter().filter(|damage| !damage.known);
    let torn = new().filter(|damage| !damage.synced).count();
    if torn > 0 {
        tracing::warn!(places = torn, "the end of the events' log is torn: no sync followed it");
    }
    let mut lost = 0;
    for damage in new().filter(|damage| damage.synced) {
        // which it was is not known where its head is damaged too: at most these
        lost += match damage.kind {
            Some(MESSAGE) | None => (damage.numbers.end - damage.numbers.start).max(1),
            Some(_) => 0,
        };
        let file = &damage.file;
        tracing::error!(
            file,
            damage.offset,
            damage.bytes,
            "a part of the events' log is damaged; all else in it is used"
        );
    }
    if lost > 0 {
        tracing::error!(messages = lost, "so many messages of clients at most are lost with what is damaged");
        metrics.events.get_or_create(&EventOutcome::Lost).inc_by(lost);
    }
}
