//! What shards ask of the store, and what they are told: the questions go through a channel to dispatch, the answers come to
//! the inbox.

use std::sync::Arc;

use bytestring::ByteString;
use tokio::sync::mpsc;

use crate::push::{Address, Epoch, StreamPage, StreamPosition};

/// What a shard asks.
#[derive(Debug)]
pub enum StreamQuestion {
    /// What comes behind a place. Each is answered by a [`StreamAnswer::Page`] or a [`StreamAnswer::NoPage`].
    Page {
        /// Who asks.
        shard: usize,
        /// Whose stream.
        address: Address,
        /// Of which numbering.
        epoch: Epoch,
        /// The place.
        after: u64,
    },
    /// What the newest push is, since one came that does not fit, or may have been missed.
    Head {
        /// Who asks.
        shard: usize,
        /// Whose stream.
        address: Address,
        /// What the shard was given of it. A store that does not have that any more was cut back.
        known: Option<StreamPosition>,
    },
    /// Nothing is asked: a card's stream began while these were there, who have nothing of it.
    Readers {
        /// The card.
        card: ByteString,
        /// Who reads it.
        readers: Vec<StreamReader>,
    },
}

/// By what the store knows a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamReader {
    /// The device that its join named.
    Device(ByteString),
    /// Its app; may be empty.
    App(ByteString),
}

/// What a shard is told.
#[derive(Clone, Debug)]
pub enum StreamAnswer {
    /// What comes behind a place.
    Page(Arc<StreamPage>),
    /// It cannot be read now.
    NoPage {
        /// Whose stream.
        address: Address,
        /// The place.
        after: u64,
    },
    /// The newest push of a stream; `None`: there is none.
    Head {
        /// Whose stream.
        address: Address,
        /// The newest push.
        head: Option<StreamPosition>,
        /// It answers a [`StreamQuestion::Head`].
        asked: bool,
    },
    /// What was appended for a while cannot be told: each stream has to be asked for.
    Unknown,
}

/// Where shards ask.
pub(super) struct StreamQuestions {
    /// Unbounded, yet it holds no more than `max_pages` for each shard, a question for the newest push for each address with
    /// clients, and the readers of streams that began.
    questions: mpsc::UnboundedSender<StreamQuestion>,
    /// Pages that a shard may have asked for.
    pub(super) max_pages: usize,
}

impl StreamQuestions {
    pub(super) fn new(questions: mpsc::UnboundedSender<StreamQuestion>, max_pages: usize) -> Self {
        Self { questions, max_pages }
    }

    pub(super) fn ask(&self, question: StreamQuestion) {
        // nobody answers any more: the node stops
        let _ = self.questions.send(question);
    }
}
