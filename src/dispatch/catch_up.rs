//! Reads from the store what shards ask for, and tells them what changed there.

use std::{collections::HashMap, io, sync::Arc, time::Duration};

use futures_util::future::join_all;
use tokio::{
    sync::mpsc,
    time::{Interval, MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

use crate::{
    config,
    hub::{Hub, StreamAnswer, StreamQuestion, StreamReader, Work},
    push::{Address, PagePlace, StreamPage, StreamPosition},
    store::{DeviceKey, Store, StoreError, StreamChanges},
};

/// Questions that are answered together: those for one place are read once.
const TOGETHER: usize = 64;
/// Streams that a sweep looks at before it gives way.
const SWEPT: usize = 1024;

/// Answers the shards' questions.
pub(super) struct CatchUp {
    store: Store,
    hub: Hub,
    questions: mpsc::UnboundedReceiver<StreamQuestion>,
    page_entries: usize,
    page_bytes: usize,
    /// Those for newest pushes that a shared store did not answer, and what is known there: at most one for each address of a shard.
    unanswered: HashMap<(usize, Address), Option<StreamPosition>>,
    again: Duration,
}

/// Tells the shards of streams that got pushes, from time to time: what was lost between the store and them is found so.
pub(super) struct StreamSweep {
    store: Store,
    hub: Hub,
    every: Duration,
}

/// A question for the newest push of a stream.
struct HeadQuestion {
    shard: usize,
    address: Address,
    known: Option<StreamPosition>,
}

impl CatchUp {
    pub(super) fn new(config: &config::StoreConfig, store: Store, hub: Hub) -> Self {
        let questions = hub.ask_store(config.max_pages);
        Self {
            store,
            hub,
            questions,
            page_entries: config.page_entries,
            page_bytes: config.page_bytes,
            unanswered: HashMap::new(),
            again: config.sweep_interval,
        }
    }

    /// Answers until it is dropped.
    pub(super) async fn run(mut self) {
        let mut asked = Vec::with_capacity(TOGETHER);
        let mut again = every(self.again);
        loop {
            // both cancel-safe: recv_many takes nothing until it ends
            tokio::select! {
                taken = self.questions.recv_many(&mut asked, TOGETHER) => {
                    if taken == 0 {
                        return;
                    }
                    self.answer_all(asked.drain(..)).await;
                }
                _ = again.tick(), if !self.unanswered.is_empty() => {
                    if self.ask_again().await {
                        again.reset_immediately();
                    }
                }
            }
        }
    }

    /// Some questions that were not answered; whether all of these are now, so that the others need not wait.
    async fn ask_again(&mut self) -> bool {
        let some: Vec<_> = self.unanswered.keys().take(TOGETHER).cloned().collect();
        let again = some.into_iter().filter_map(|place| {
            let known = self.unanswered.remove(&place)?;
            Some(HeadQuestion { shard: place.0, address: place.1, known })
        });
        let again = again.collect();
        let others = self.unanswered.len();
        self.answer_heads(again).await;
        self.unanswered.len() == others
    }

    async fn answer_all(&mut self, asked: impl Iterator<Item = StreamQuestion>) {
        let mut pages: HashMap<PagePlace, Vec<usize>> = HashMap::new();
        let mut heads = Vec::new();
        for question in asked {
            match question {
                StreamQuestion::Page { shard, address, epoch, after } => {
                    pages.entry(PagePlace { address, epoch, after }).or_default().push(shard);
                }
                StreamQuestion::Head { shard, address, known } => heads.push(HeadQuestion { shard, address, known }),
                StreamQuestion::Readers { card, readers } => {
                    readers.iter().for_each(|reader| self.store.register(&card, key(reader), 0));
                }
            }
        }
        self.answer_heads(heads).await;
        if !pages.is_empty() {
            self.answer_pages(pages).await;
        }
    }

    async fn answer_heads(&mut self, questions: Vec<HeadQuestion>) {
        let found = join_all(questions.iter().map(|question| self.store.head(&question.address, question.known))).await;
        for (question, head) in questions.into_iter().zip(found) {
            let HeadQuestion { shard, address, known } = question;
            match head {
                Ok(head) => self.answer(shard, StreamAnswer::Head { address, head, asked: true }).await,
                Err(error) => {
                    tracing::debug!(%error, "the newest push of a stream is asked for again");
                    self.unanswered.insert((shard, address), known);
                }
            }
        }
    }

    async fn answer_pages(&self, mut pages: HashMap<PagePlace, Vec<usize>>) {
        let places = pages.keys().cloned().collect();
        for (place, page) in self.store.read_pages(places, self.page_entries, self.page_bytes).await {
            let shards = pages.remove(&place).unwrap_or_default();
            self.answer_page(page, place, shards).await;
        }
    }

    async fn answer_page(&self, page: io::Result<Option<StreamPage>>, place: PagePlace, shards: Vec<usize>) {
        let PagePlace { address, after, .. } = place;
        let page = page.unwrap_or_else(|error| {
            tracing::warn!(%error, "stored pushes cannot be read; it is tried again");
            None
        });
        match page.map(Arc::new) {
            Some(page) => {
                for shard in shards {
                    self.answer(shard, StreamAnswer::Page(Arc::clone(&page))).await;
                }
            }
            None => {
                // there may be no such stream any more
                let head = self.store.head(&address, None).await;
                for shard in shards {
                    self.answer(shard, StreamAnswer::NoPage { address: address.clone(), after }).await;
                    if let Ok(head) = head {
                        self.answer(shard, StreamAnswer::Head { address: address.clone(), head, asked: false }).await;
                    }
                }
            }
        }
    }

    async fn answer(&self, shard: usize, answer: StreamAnswer) {
        self.hub.send(shard, vec![Work::Stream(answer)]).await;
    }
}

impl StreamSweep {
    pub(super) fn new(config: &config::StoreConfig, store: Store, hub: Hub) -> Self {
        Self { store, hub, every: config.sweep_interval }
    }

    /// Sweeps until it is told to stop.
    pub(super) async fn run(self, stopping: CancellationToken) {
        let mut clock = every(self.every);
        loop {
            // both cancel-safe
            tokio::select! {
                () = stopping.cancelled() => return,
                _ = clock.tick() => {}
            }
            if let Some(Err(error)) = stopping.run_until_cancelled(self.sweep()).await {
                tracing::debug!(%error, "the store is looked through again later");
            }
        }
    }

    async fn sweep(&self) -> Result<(), StoreError> {
        loop {
            let is_wanted = |address: &Address| self.hub.shards(address) != 0;
            let changes = match self.store.take_changes(SWEPT, is_wanted).await? {
                StreamChanges::Some(changes) => changes,
                StreamChanges::Unknown => {
                    for shard in 0..self.hub.workers() {
                        self.hub.send(shard, vec![Work::Stream(StreamAnswer::Unknown)]).await;
                    }
                    continue;
                }
            };
            let is_all = changes.len() < SWEPT;
            for (address, head) in changes {
                let shards = self.hub.shards(&address);
                for shard in (0..self.hub.workers()).filter(|shard| shards >> shard & 1 == 1) {
                    let answer = StreamAnswer::Head { address: address.clone(), head: Some(head), asked: false };
                    self.hub.send(shard, vec![Work::Stream(answer)]).await;
                }
            }
            if is_all {
                return Ok(());
            }
        }
    }
}

fn every(time: Duration) -> Interval {
    let mut clock = interval(time);
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    clock
}

fn key(reader: &StreamReader) -> DeviceKey<'_> {
    match reader {
        StreamReader::Device(device) => DeviceKey::Declared(device),
        StreamReader::App(app) => DeviceKey::App(app),
    }
}
