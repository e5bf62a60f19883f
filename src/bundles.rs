//! Values that are sent in bundles and taken one by one.
//!
//! Between threads the first value wakes the receiver, which may take the core from whoever sends the others: what belongs
//! together is sent together.

use std::{iter, vec};

use tokio::sync::mpsc;

/// The receiving end of a bounded channel of bundles; their order, and the order in each, is kept.
pub struct Bundles<T> {
    channel: mpsc::Receiver<Vec<T>>,
    open: vec::IntoIter<T>,
}

/// A channel for at most `bound` bundles.
pub fn channel<T>(bound: usize) -> (mpsc::Sender<Vec<T>>, Bundles<T>) {
    let (sender, channel) = mpsc::channel(bound);
    (sender, Bundles { channel, open: Vec::new().into_iter() })
}

impl<T> Bundles<T> {
    /// The next value; `None` once nobody can send any more. Cancel-safe.
    pub async fn next(&mut self) -> Option<T> {
        loop {
            if let Some(value) = self.open.next() {
                return Some(value);
            }
            self.open = self.channel.recv().await?.into_iter();
        }
    }

    /// The next value and what waits beside it, at most `most`; `None` once nobody can send any more. Cancel-safe: what the
    /// iterator has not given is there the next time.
    pub async fn some(&mut self, most: usize) -> Option<impl Iterator<Item = T>> {
        let first = self.next().await?;
        Some(iter::once(first).chain(iter::from_fn(|| self.try_next())).take(most))
    }

    /// A value that waits already.
    pub fn try_next(&mut self) -> Option<T> {
        loop {
            if let Some(value) = self.open.next() {
                return Some(value);
            }
            self.open = self.channel.try_recv().ok()?.into_iter();
        }
    }

    /// No value waits.
    pub fn is_empty(&self) -> bool {
        self.open.as_slice().is_empty() && self.channel.is_empty()
    }
}
