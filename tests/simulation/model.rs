//! The store as a plain map: what the simulation takes for the truth.

use std::{
    collections::{BTreeMap, HashMap},
    rc::Rc,
};

use oxipush::internals::{
    push::{Address, Epoch, PageEntry, Push, PushId, Resume, StoredPush, StreamEntry, StreamPage, StreamPosition},
    store::{Attached, DeviceKey, Reader},
};

/// Entries that a stream keeps.
pub const MAX_ENTRIES: usize = 12;

/// By what a cursor is found: whether it is declared, and the name.
pub type CursorKey = (bool, String);

pub fn cursor_key(key: DeviceKey<'_>) -> CursorKey {
    match key {
        DeviceKey::Declared(name) => (true, name.into()),
        DeviceKey::App(name) => (false, name.into()),
    }
}

#[derive(Clone)]
pub struct ModelStream {
    pub epoch: Epoch,
    pub head: u64,
    head_id: PushId,
    /// What is still there.
    pub entries: BTreeMap<u64, Rc<Push>>,
    /// Of all that were there.
    ids: BTreeMap<u64, PushId>,
    /// Its epoch was renewed while clients were there.
    was_cut_back: bool,
    pub cursors: HashMap<CursorKey, u64>,
}

/// What outlasts a crash.
#[derive(Clone, Default)]
pub struct DurableModel {
    pub streams: HashMap<Address, ModelStream>,
}

#[derive(Default)]
pub struct ModelStore {
    pub now: DurableModel,
    /// As of the last turn.
    synced: DurableModel,
    changed: Vec<Address>,
    waiting: Vec<Push>,
}

impl ModelStream {
    fn new() -> Self {
        Self {
            epoch: Epoch::random(),
            head: 0,
            head_id: PushId::NIL,
            entries: BTreeMap::new(),
            ids: BTreeMap::new(),
            was_cut_back: false,
            cursors: HashMap::new(),
        }
    }

    fn position(&self) -> StreamPosition {
        StreamPosition { epoch: self.epoch, seq: self.head, id: self.head_id }
    }

    fn oldest(&self) -> u64 {
        self.entries.keys().next().map_or(self.head, |first| first - 1)
    }

    fn add(&mut self, push: &Rc<Push>) -> StreamEntry {
        let entry =
            StreamEntry { epoch: self.epoch, seq: self.head + 1, previous: self.head, previous_id: self.head_id };
        if let Some(key) = &push.collapse_key {
            self.entries.retain(|_, older| older.collapse_key.as_ref() != Some(key));
        }
        (self.head, self.head_id) = (entry.seq, push.id);
        self.entries.insert(entry.seq, Rc::clone(push));
        self.ids.insert(entry.seq, push.id);
        while self.entries.len() > MAX_ENTRIES {
            self.entries.pop_first();
        }
        entry
    }

    fn resumed(&self, resume: Option<Resume>) -> (Option<u64>, bool) {
        let Some(Resume { epoch, seq, id }) = resume else { return (None, false) };
        let is_there = seq <= self.head;
        let known = if seq == self.head { Some(self.head_id) } else { self.entries.get(&seq).map(|push| push.id) };
        let holds = epoch == self.epoch && is_there && id.is_none_or(|id| known.is_none_or(|known| known == id));
        // who read on in a stream that was cut back may have passed over what is new: its id proves nothing
        let is_same = is_there && id.is_some() && known == id && !self.was_cut_back;
        ((holds || is_same).then_some(seq), !holds)
    }
}

impl ModelStore {
    pub fn submit(&mut self, push: Push) {
        self.waiting.push(push);
    }

    /// Commits what waits.
    pub fn turn(&mut self, is_synced: bool) -> Vec<StoredPush> {
        let waiting = std::mem::take(&mut self.waiting);
        let stored = waiting.into_iter().map(|push| self.store(push)).collect();
        if is_synced {
            self.synced = self.now.clone();
        }
        stored
    }

    fn store(&mut self, push: Push) -> StoredPush {
        let shared = Rc::new(push.clone());
        let mut entries = Vec::new();
        for address in addresses(&push) {
            let stream = self.now.streams.entry(address.clone()).or_insert_with(ModelStream::new);
            entries.push(stream.add(&shared));
            if !self.changed.contains(&address) {
                self.changed.push(address);
            }
        }
        StoredPush { push, entries }
    }

    pub fn attach(&mut self, address: &Address, reader: Reader<'_>, now: u64) -> Attached {
        let Some(stream) = self.now.streams.get_mut(address) else { return Attached::NoStream };
        let (Reader::Device(_, resume) | Reader::Room(resume)) = reader;
        let (has, reset) = stream.resumed(resume);
        let from = match reader {
            Reader::Room(_) if reset => has.unwrap_or_else(|| stream.oldest()),
            Reader::Room(_) => has.unwrap_or(stream.head),
            Reader::Device(key, _) => {
                let is_first = stream.cursors.is_empty();
                let oldest = matches!(key, DeviceKey::Declared(_)) || reset || is_first;
                let start = if oldest { stream.oldest() } else { stream.head };
                let key = cursor_key(key);
                match stream.cursors.get(&key) {
                    Some(cursor) => has.unwrap_or(*cursor),
                    None => {
                        let from = has.unwrap_or(start);
                        stream.cursors.insert(key, from);
                        from
                    }
                }
            }
        };
        let waiting = stream.entries.range(from + 1..).filter(|(_, push)| !push.is_expired(now)).count() as u64;
        let from = if waiting == 0 { stream.head } else { from };
        Attached::At { head: stream.position(), from, waiting, reset }
    }

    pub fn register(&mut self, card: &str, key: DeviceKey<'_>, seq: u64) {
        if let Some(stream) = self.now.streams.get_mut(&Address::Card(card.into())) {
            stream.cursors.entry(cursor_key(key)).or_insert(seq);
        }
    }

    pub fn ack(&mut self, card: &str, key: DeviceKey<'_>, seq: u64) {
        if let Some(stream) = self.now.streams.get_mut(&Address::Card(card.into())) {
            let cursor = stream.cursors.entry(cursor_key(key)).or_insert(0);
            *cursor = (*cursor).max(seq).min(stream.head);
        }
    }

    pub fn head(&self, address: &Address) -> Option<StreamPosition> {
        self.now.streams.get(address).map(ModelStream::position)
    }

    pub fn head_seq(&self, address: &Address) -> u64 {
        self.head(address).map_or(0, |head| head.seq)
    }

    /// The head; where the store does not have what is known of it, in a new epoch.
    pub fn checked_head(&mut self, address: &Address, known: Option<StreamPosition>) -> Option<StreamPosition> {
        let stream = self.now.streams.get_mut(address)?;
        if let Some(StreamPosition { epoch, seq, id }) = known
            && epoch == stream.epoch
        {
            let is_another = id != PushId::NIL && stream.ids.get(&seq).is_some_and(|here| *here != id);
            if stream.head < seq || is_another {
                stream.epoch = Epoch::random();
                stream.was_cut_back = true;
                // they may be of what was lost
                stream.cursors.values_mut().for_each(|cursor| *cursor = 0);
                self.synced = self.now.clone();
                // other shards are to hear of it
                self.changed.push(address.clone());
            }
        }
        self.head(address)
    }

    pub fn read(
        &self,
        address: &Address,
        epoch: Epoch,
        after: u64,
        most: usize,
        bytes: usize,
        now: u64,
    ) -> Option<StreamPage> {
        let stream = self.now.streams.get(address).filter(|stream| stream.epoch == epoch)?;
        let mut page = StreamPage {
            address: address.clone(),
            epoch,
            after,
            after_id: stream.ids.get(&after).copied().unwrap_or(PushId::NIL),
            entries: Vec::new(),
            end: stream.head,
            end_id: stream.head_id,
            head: stream.head,
        };
        let mut size = 0;
        for (seq, push) in stream.entries.range(after + 1..).filter(|(_, push)| !push.is_expired(now)) {
            let is_full = page.entries.len() == most || size + push.content.len() > bytes;
            if let Some(last) = page.entries.last().filter(|_| is_full) {
                (page.end, page.end_id) = (last.seq, last.push.id);
                break;
            }
            size += push.content.len();
            page.entries.push(PageEntry { seq: *seq, push: Push::clone(push) });
        }
        Some(page)
    }

    pub fn take_changes(&mut self) -> Vec<(Address, StreamPosition)> {
        let changed = std::mem::take(&mut self.changed);
        changed.into_iter().filter_map(|address| self.head(&address).map(|head| (address, head))).collect()
    }

    pub fn delete_entry(&mut self, address: &Address, nth: usize) {
        if let Some(stream) = self.now.streams.get_mut(address) {
            let seq = stream.entries.keys().nth(nth).copied();
            seq.and_then(|seq| stream.entries.remove(&seq));
            self.synced = self.now.clone();
        }
    }

    pub fn delete_stream(&mut self, address: &Address) {
        self.now.streams.remove(address);
        self.changed.retain(|changed| changed != address);
        self.synced = self.now.clone();
    }

    /// What was not synced is gone.
    pub fn crash(&mut self) {
        self.now = self.synced.clone();
        self.waiting.clear();
        self.changed.clear();
    }

    /// What is newer than `state` is lost; the epochs are as they were.
    pub fn fail_over(&mut self, state: DurableModel) {
        self.synced = state.clone();
        self.now = state;
    }

    pub fn snapshot(&self) -> DurableModel {
        self.synced.clone()
    }

    /// An older state, whose numbers mean nothing any more.
    pub fn cut_back(&mut self, mut state: DurableModel) {
        for stream in state.streams.values_mut() {
            stream.epoch = Epoch::random();
        }
        self.synced = state;
        self.crash();
    }
}

pub fn addresses(push: &Push) -> Vec<Address> {
    match &push.target.room {
        Some(room) => vec![Address::Room(room.clone())],
        None => push.target.cards.iter().cloned().map(Address::Card).collect(),
    }
}
