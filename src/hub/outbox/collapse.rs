//! Where the waiting push of each collapse key stands, for the outbox policy `conflate`.

use bytestring::ByteString;
use foldhash::fast::RandomState;
use hashbrown::HashMap;

/// The number of each key's waiting push; owns no memory before the first one.
#[derive(Default)]
pub(super) struct CollapseKeys(Option<Box<HashMap<ByteString, u32, RandomState>>>);

impl CollapseKeys {
    pub(super) fn insert(&mut self, key: &ByteString, number: u32) {
        self.0.get_or_insert_default().insert(key.clone(), number);
    }

    pub(super) fn remove(&mut self, key: &ByteString) -> Option<u32> {
        self.0.as_mut()?.remove(key)
    }

    #[cfg(test)]
    pub(super) fn own_memory(&self) -> bool {
        self.0.is_some()
    }

    /// The waiting pushes have the numbers 0, 1, 2… now; these are their keys.
    pub(super) fn renumber<'a>(&mut self, keys: impl Iterator<Item = Option<&'a ByteString>>) {
        let Some(known) = &mut self.0 else { return };
        known.clear();
        let keyed = keys.enumerate().filter_map(|(number, key)| Some((key?.clone(), number as u32)));
        known.extend(keyed);
    }
}
