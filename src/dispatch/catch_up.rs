//! Reads from the store what shards ask for, and tells them what changed there.

use std::{collections::HashMap, panic, sync::Arc, time::Duration};

use tokio::{
    sync::mpsc,
    task::spawn_blocking,
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

use crate::{
    config,
    hub::{Hub, StreamAnswer, StreamQuestion, StreamReader, Work},
    push::{Address, Epoch, StreamPage},
    store::{DeviceKey, Store},
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
}

/// Tells the shards of streams that got pushes, from time to time: what was lost between the store and them is found so.
pub(super) struct StreamSweep {
    store: Store,
    hub: Hub,
    every: Duration,
}

/// A place in a stream that something is to be read behind.
#[derive(PartialEq, Eq, Hash)]
struct PagePlace {
    address: Address,
    epoch: Epoch,
    after: u64,
}

impl CatchUp {
    pub(super) fn new(config: &config::StoreConfig, store: Store, hub: Hub) -> Self {
        let questions = hub.ask_store(config.max_pages);
        Self { store, hub, questions, page_entries: config.page_entries, page_bytes: config.page_bytes }
    }

    /// Answers until it is dropped.
    pub(super) async fn run(mut self) {
        let mut asked = Vec::with_capacity(TOGETHER);
        while self.questions.recv_many(&mut asked, TOGETHER).await > 0 {
            let mut pages = HashMap::new();
            for question in asked.drain(..) {
                match question {
                    StreamQuestion::Page { shard, address, epoch, after } => {
                        let place = PagePlace { address, epoch, after };
                        pages.entry(place).or_insert_with(Vec::new).push(shard);
                    }
                    StreamQuestion::Head { shard, address } => self.answer_head(shard, address, true).await,
                    StreamQuestion::Readers { card, readers } => {
                        readers.iter().for_each(|reader| self.store.register(&card, key(reader), 0));
                    }
                }
            }
            if !pages.is_empty() {
                self.answer_pages(pages).await;
            }
        }
    }

    async fn answer_head(&self, shard: usize, address: Address, asked: bool) {
        let head = self.store.head(&address);
        self.answer(shard, StreamAnswer::Head { address, head, asked }).await;
    }

    async fn answer_pages(&self, pages: HashMap<PagePlace, Vec<usize>>) {
        let store = self.store.clone();
        let (entries, bytes) = (self.page_entries, self.page_bytes);
        let read = spawn_blocking(move || {
            let read = |place: &PagePlace| store.read(&place.address, place.epoch, place.after, entries, bytes);
            pages.into_iter().map(|(place, shards)| (read(&place), place, shards)).collect::<Vec<_>>()
        });
        let read = match read.await {
            Ok(read) => read,
            Err(error) if error.is_panic() => panic::resume_unwind(error.into_panic()),
            // the runtime ends
            Err(_) => return,
        };
        for (page, place, shards) in read {
            self.answer_page(page, place, shards).await;
        }
    }

    async fn answer_page(&self, page: std::io::Result<Option<StreamPage>>, place: PagePlace, shards: Vec<usize>) {
        let PagePlace { address, after, .. } = place;
        let page = page.unwrap_or_else(|error| {
            tracing::warn!(%error, "stored pushes cannot be read from the log; it is tried again");
            None
        });
        match page.map(Arc::new) {
            Some(page) => {
                for shard in shards {
                    self.answer(shard, StreamAnswer::Page(Arc::clone(&page))).await;
                }
            }
            None => {
                for shard in shards {
                    self.answer(shard, StreamAnswer::NoPage { address: address.clone(), after }).await;
                    // there may be no such stream any more
                    self.answer_head(shard, address.clone(), false).await;
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
        let mut clock = interval(self.every);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            // both cancel-safe
            tokio::select! {
                () = stopping.cancelled() => return,
                _ = clock.tick() => {}
            }
            stopping.run_until_cancelled(self.sweep()).await;
        }
    }

    async fn sweep(&self) {
        loop {
            let changes = self.store.take_changes(SWEPT);
            let is_all = changes.len() < SWEPT;
            for (address, head) in changes {
                let shards = self.hub.shards(&address);
                for shard in (0..self.hub.workers()).filter(|shard| shards >> shard & 1 == 1) {
                    let answer = StreamAnswer::Head { address: address.clone(), head: Some(head), asked: false };
                    self.hub.send(shard, vec![Work::Stream(answer)]).await;
                }
            }
            if is_all {
                return;
            }
        }
    }
}

fn key(reader: &StreamReader) -> DeviceKey<'_> {
    match reader {
        StreamReader::Device(device) => DeviceKey::Declared(device),
        StreamReader::App(app) => DeviceKey::App(app),
    }
}
