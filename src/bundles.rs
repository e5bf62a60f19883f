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
    /// Waits for a value to take; `false` once nobody can send any more. Cancel-safe.
    pub async fn ready(&mut self) -> bool {
        while self.open.as_slice().is_empty() {
            match self.channel.recv().await {
                Some(bundle) => self.open = bundle.into_iter(),
                None => return false,
            }
        }
        true
    }

    /// The next value; `None` once nobody can send any more. Cancel-safe.
    pub async fn next(&mut self) -> Option<T> {
        self.ready().await;
        self.open.next()
    }

    /// The next value and what waits beside it, at most `most`; `None` once nobody can send any more. Cancel-safe: what the
    /// iterator has not given is there the next time.
    pub async fn some(&mut self, most: usize) -> Option<impl Iterator<Item = T>> {
        let first = self.next().await?;
        Some(iter::once(first).chain(iter::from_fn(|| self.try_next())).take(most))
    }

    /// A value that waits already.
    pub fn try_next(&mut self) -> Option<T> {
        self.next_if(|_| true)
    }

    /// The value that waits already, if it is as asked for.
    pub fn next_if(&mut self, asked: impl FnOnce(&T) -> bool) -> Option<T> {
        loop {
            if let Some(value) = self.open.as_slice().first() {
                return asked(value).then(|| self.open.next()).flatten();
            }
            self.open = self.channel.try_recv().ok()?.into_iter();
        }
    }

    /// No value waits.
    pub fn is_empty(&self) -> bool {
        self.open.as_slice().is_empty() && self.channel.is_empty()
    }
}
