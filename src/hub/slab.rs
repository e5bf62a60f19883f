//! Connections by number; a number's generation tells its next owner from its last.

use std::rc::Rc;

/// A connection's number in its shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ClientKey {
    slot: u32,
    generation: u32,
}

impl ClientKey {
    pub(super) fn to_bits(self) -> u64 {
        u64::from(self.slot) << 32 | u64::from(self.generation)
    }

    pub(super) fn from_bits(bits: u64) -> Self {
        Self { slot: (bits >> 32) as u32, generation: bits as u32 }
    }
}

struct Slot<T> {
    generation: u32,
    value: Option<Rc<T>>,
}

pub(super) struct Slab<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
    /// The last one given: it goes on when an emptied slab forgets its slots, so that no number is given twice.
    generation: u32,
}

impl<T> Slab<T> {
    pub(super) fn new() -> Self {
        Self { slots: Vec::new(), free: Vec::new(), generation: 0 }
    }

    pub(super) fn insert(&mut self, value: Rc<T>) -> ClientKey {
        self.generation = self.generation.wrapping_add(1);
        let generation = self.generation;
        let slot = Slot { generation, value: Some(value) };
        match self.free.pop() {
            Some(number) => {
                self.slots[number as usize] = slot;
                ClientKey { slot: number, generation }
            }
            None => {
                self.slots.push(slot);
                ClientKey { slot: (self.slots.len() - 1) as u32, generation }
            }
        }
    }

    pub(super) fn get(&self, key: ClientKey) -> Option<&Rc<T>> {
        let slot = self.slots.get(key.slot as usize)?;
        (slot.generation == key.generation).then_some(slot.value.as_ref()).flatten()
    }

    pub(super) fn remove(&mut self, key: ClientKey) -> Option<Rc<T>> {
        let slot = self.slots.get_mut(key.slot as usize)?;
        if slot.generation != key.generation {
            return None;
        }
        let value = slot.value.take()?;
        self.free.push(key.slot);
        if self.free.len() == self.slots.len() {
            (self.slots, self.free) = (Vec::new(), Vec::new());
        }
        Some(value)
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &Rc<T>> {
        self.slots.iter().filter_map(|slot| slot.value.as_ref())
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = ClientKey> + '_ {
        let used = self.slots.iter().enumerate().filter(|(_, slot)| slot.value.is_some());
        used.map(|(number, slot)| ClientKey { slot: number as u32, generation: slot.generation })
    }
}
