//! How many clients the last orders have ended on this node: other nodes ask for it.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::watch;

use crate::push::PushId;

/// How many clients each of the last orders to end some has ended here.
pub struct EndedOrders {
    /// In the order in which they were done.
    last: Mutex<VecDeque<(PushId, u64)>>,
    max: usize,
    changed: watch::Sender<()>,
}

impl EndedOrders {
    /// Remembers so many of them.
    pub(super) fn new(max: usize) -> Self {
        Self { last: Mutex::default(), max: max.max(1), changed: watch::Sender::new(()) }
    }

    /// An order was carried out. Done again, it ended those that came in between, too.
    pub(super) fn note(&self, order: PushId, clients: u64) {
        {
            let mut last = self.last();
            match last.iter_mut().find(|(id, _)| *id == order) {
                Some((_, ended)) => *ended += clients,
                None => {
                    if last.len() >= self.max {
                        last.pop_front();
                    }
                    last.push_back((order, clients));
                }
            }
        }
        self.changed.send_replace(());
    }

    /// How many clients an order has ended here, once it was carried out: that may be never, so wait with a deadline. Cancel-safe.
    pub async fn of(&self, order: PushId) -> u64 {
        let mut changed = self.changed.subscribe();
        loop {
            let found = self.last().iter().rev().find(|(id, _)| *id == order).map(|(_, ended)| *ended);
            if let Some(ended) = found {
                return ended;
            }
            // the sender is here as long as this is
            let _ = changed.changed().await;
        }
    }

    fn last(&self) -> MutexGuard<'_, VecDeque<(PushId, u64)>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn who_waits_for_an_order_hears_of_it_and_old_ones_are_forgotten() {
        let orders = EndedOrders::new(2);
        let ids: Vec<_> = (0..3).map(|_| PushId::generate()).collect();
        let waits = orders.of(ids[0]);
        tokio::pin!(waits);
        assert_eq!(waits.as_mut().now_or_never(), None);
        orders.note(ids[0], 3);
        assert_eq!(waits.await, 3);
        orders.note(ids[0], 1);
        assert_eq!(orders.of(ids[0]).now_or_never(), Some(4));
        orders.note(ids[1], 0);
        orders.note(ids[2], 7);
        assert_eq!(orders.of(ids[0]).now_or_never(), None);
        assert_eq!(orders.of(ids[1]).now_or_never(), Some(0));
    }
}
