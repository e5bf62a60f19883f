//! One timing wheel for all connections of a worker.

use std::cell::{Cell, RefCell};

use crate::hub::ClientKey;

/// Slots of the wheel; what is due later comes up early and is put back.
const SLOTS: usize = 512;

/// Connections by the tick at which something is due. Time is counted in ticks that were really made: a thread that was
/// stopped for a minute does not find all its peers silent.
pub(super) struct Wheel {
    slots: RefCell<Vec<Vec<ClientKey>>>,
    now: Cell<u32>,
}

impl Wheel {
    pub(super) fn new() -> Self {
        Self { slots: RefCell::new(vec![Vec::new(); SLOTS]), now: Cell::new(0) }
    }

    /// Ticks made.
    pub(super) fn now(&self) -> u32 {
        self.now.get()
    }

    /// Lets `key` come up at `due`, or earlier if that is far away. Returns the tick; an entry made before is void when its
    /// owner compares that with [`Wheel::now`].
    pub(super) fn put(&self, key: ClientKey, due: u32) -> u32 {
        let now = self.now.get();
        let due = due.clamp(now + 1, now + SLOTS as u32 - 1);
        self.slots.borrow_mut()[due as usize % SLOTS].push(key);
        due
    }

    /// One tick more; what is due.
    pub(super) fn advance(&self) -> Vec<ClientKey> {
        let now = self.now.get() + 1;
        self.now.set(now);
        std::mem::take(&mut self.slots.borrow_mut()[now as usize % SLOTS])
    }
}

#[cfg(test)]
mod tests {
    use super::Wheel;
    use crate::hub::ClientKey;

    #[test]
    fn what_was_put_comes_up_once_and_never_late() {
        let wheel = Wheel::new();
        assert_eq!(wheel.put(ClientKey::default(), 0), 1);
        assert_eq!(wheel.put(ClientKey::default(), 3), 3);
        assert_eq!(wheel.put(ClientKey::default(), 100_000), 511);
        let came: Vec<_> = (0..2000).flat_map(|_| wheel.advance().into_iter().map(|_| wheel.now())).collect();
        assert_eq!(came, [1, 3, 511]);
    }
}
