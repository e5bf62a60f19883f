//! One node in one thread: real shards, and around them what carries questions, answers and wake-ups, as badly as it may.

use std::{
    cell::Cell,
    collections::{HashMap, HashSet, VecDeque},
    rc::Rc,
    sync::Arc,
};

use oxipush::internals::{
    bundles::Bundles,
    config,
    hub::{
        Fanout, Hub, Part, Recipients, SentTo, Shard, StreamAnswer, StreamQuestion, StreamReader, Work, WriteBudget,
    },
    push::{Address, Epoch, Push, PushId, Resume, StoredPush, StreamPosition, Target},
    store::{Attached, DeviceKey, Reader as StoreReader},
    telemetry::Metrics,
    wire::{dialect::Dialect, frame::Frame, stream_ping::StreamPing},
};
use tokio::sync::mpsc;

use super::{
    bugs::Bug,
    model::{CursorKey, DurableModel, ModelStore, ModelStream, addresses, cursor_key},
    reader::{Debt, Pipe, Reader, Session, Told, View},
    steps::{ADDRESSES, Fate, Step},
};

/// Wake-ups that wait in a lane; what finds no room is lost.
const LANE: usize = 64;
/// The base of a debt to somebody whom the store forgot: nothing is owed until it begins anew.
const NOTHING: u64 = u64::MAX;
const APPS: [&str; 3] = ["a", "b", "c"];
/// Rounds in which all must be level once nothing fails any more.
const ROUNDS: usize = 400;

/// A push that was made.
struct Made {
    id: PushId,
    app: Option<&'static str>,
    deadline: Option<u64>,
    /// Where it was committed.
    places: Vec<(Address, Epoch, u64)>,
}

impl Made {
    fn is_for(&self, app: &str) -> bool {
        self.app.is_none_or(|of| of == app)
    }
}

enum Arrival {
    Part(Part),
    Answer(StreamAnswer),
}

pub struct World {
    bug: Option<Bug>,
    page_entries: usize,
    outbox: usize,
    max_pages: usize,
    now: Rc<Cell<u64>>,
    store: ModelStore,
    snapshot: Option<DurableModel>,
    made: Vec<Made>,
    pub readers: Vec<Reader>,
    joins: u32,
    /// Was gone, and came back with an older state of the store.
    revived: HashSet<(Address, u32)>,
    // what dies with the node
    shards: Vec<Rc<Shard<Pipe>>>,
    _inboxes: Vec<Bundles<Work>>,
    hub: Hub,
    questions: mpsc::UnboundedReceiver<StreamQuestion>,
    /// Whose Readers did not reach the store yet.
    unregistered: Vec<StreamQuestion>,
    /// Clients that joined while the store did not answer, and with what resume.
    late: VecDeque<(usize, Address, bool)>,
    /// Streams that a fail-over cut back in their epoch, and whether something new was committed since.
    doubtful: HashMap<Address, bool>,
    failed_over: HashSet<Address>,
    given_up: HashSet<Address>,
    lanes: [VecDeque<(StoredPush, Vec<Address>)>; 2],
    replies: VecDeque<(usize, StreamAnswer)>,
    inboxes: Vec<VecDeque<Arrival>>,
    /// Of planted bugs.
    skipped: HashMap<Address, (u64, PushId)>,
    epochs: HashMap<Address, Epoch>,
    pub read: u64,
}

#[expect(clippy::type_complexity, reason = "the parts of a node, taken apart at once")]
fn node(
    shards: usize,
    outbox: usize,
    max_pages: usize,
) -> (Hub, mpsc::UnboundedReceiver<StreamQuestion>, Vec<Rc<Shard<Pipe>>>, Vec<Bundles<Work>>) {
    let metrics = Arc::new(Metrics::new());
    let limits = config::HubConfig { inbox: 16, writes_per_turn: 256 };
    let outbox = config::OutboxConfig {
        max_bytes: outbox,
        policy: config::Policy::DropOldest,
        write_delay: std::time::Duration::ZERO,
    };
    let hub = Hub::new(&limits, &outbox, shards, &metrics);
    let questions = hub.ask_store(max_pages);
    let (shards, inboxes) = (0..shards).map(|_| hub.claim_shard().unwrap().open()).unzip();
    (hub, questions, shards, inboxes)
}

fn name(address: u8) -> Address {
    match address % ADDRESSES {
        room @ 3.. => Address::Room(format!("r{}", room - 3).into()),
        card => Address::Card(format!("c{card}").into()),
    }
}

fn target(number: u8, app: Option<&str>) -> Target {
    let cards = |cards: &[&str]| Target {
        cards: cards.iter().map(|card| (*card).to_owned().into()).collect(),
        app: app.map(|app| app.to_owned().into()),
        ..Target::default()
    };
    match number % 12 {
        0..3 => cards(&["c0"]),
        3 | 4 => cards(&["c1"]),
        5..7 => cards(&["c2"]),
        7 => cards(&["c0", "c1"]),
        8 => cards(&["c0", "c1", "c2"]),
        room => Target { room: Some(format!("r{}", room % 2).into()), ..Target::default() },
    }
}

fn lane(address: &Address) -> usize {
    usize::from(address.name().as_bytes()[1] % 2)
}

impl World {
    pub fn new(seed: u64, bug: Option<Bug>) -> Self {
        fastrand::seed(seed);
        let count = 1 + seed as usize % 3;
        let (outbox, max_pages) = (900 + 700 * (seed as usize / 3 % 4), 1 + seed as usize / 12 % 4);
        let (hub, questions, shards, _inboxes) = node(count, outbox, max_pages);
        let now = Rc::new(Cell::new(1_000_000));
        let mut world = Self {
            bug,
            page_entries: 1 + seed as usize / 5 % 4,
            outbox,
            max_pages,
            now,
            store: ModelStore::default(),
            snapshot: None,
            made: Vec::new(),
            readers: Reader::all(),
            joins: 0,
            revived: HashSet::new(),
            inboxes: (0..count).map(|_| VecDeque::new()).collect(),
            shards,
            _inboxes,
            hub,
            questions,
            unregistered: Vec::new(),
            late: VecDeque::new(),
            doubtful: HashMap::new(),
            failed_over: HashSet::new(),
            given_up: HashSet::new(),
            lanes: Default::default(),
            replies: VecDeque::new(),
            skipped: HashMap::new(),
            epochs: HashMap::new(),
            read: 0,
        };
        world.tell_time();
        world
    }

    fn has(&self, bug: Bug) -> bool {
        self.bug == Some(bug)
    }

    fn tell_time(&mut self) {
        if self.has(Bug::ExpiredIsWritten) {
            return self.shards.iter().for_each(|shard| shard.set_now(0));
        }
        self.shards.iter().for_each(|shard| shard.set_now(self.now.get()));
    }

    pub fn step(&mut self, step: Step) -> Result<(), String> {
        match step {
            Step::Push { target: number, app, ttl, collapse, size } => {
                let app = app.map(|app| APPS[usize::from(app) % 3]);
                self.push(target(number, app), ttl, collapse, size);
            }
            Step::Commit => self.commit(),
            Step::Route { lane, fate } => self.route(usize::from(lane), fate),
            Step::Turn { shard, works, writes, at_once } => {
                let shard = usize::from(shard) % self.shards.len();
                self.turn(shard, works.into(), writes.into(), at_once);
            }
            Step::Tick(shard) => self.shards[usize::from(shard) % self.shards.len()].feed_again(),
            Step::Ask { fails } => self.ask(fails),
            Step::Answer { twice } => self.answer(twice),
            Step::Sweep => self.sweep(),
            Step::Open { reader, shard, resume, late } => self.open(reader.into(), shard.into(), resume, late)?,
            Step::Place => self.place()?,
            Step::Vanish(reader) => self.vanish(reader.into()),
            Step::Close(reader) => self.close(reader.into())?,
            Step::Read(reader) => self.read(reader.into())?,
            Step::Ack(reader) => self.ack(reader.into()),
            Step::Rejoin { reader, nth, resume } => self.rejoin(reader.into(), nth.into(), Some(resume))?,
            Step::Leave { reader, nth } => self.rejoin(reader.into(), nth.into(), None)?,
            Step::Time(millis) => {
                self.now.set(self.now.get() + u64::from(millis));
                self.tell_time();
            }
            Step::DeleteEntry { address, nth } => self.store.delete_entry(&name(address), nth.into()),
            Step::DeleteStream(address) => {
                self.store.delete_stream(&name(address));
                for reader in &mut self.readers {
                    reader.debts.remove(&name(address));
                }
            }
            Step::Snapshot => self.snapshot = Some(self.store.snapshot()),
            Step::Crash => self.crash(None),
            Step::CutBack => {
                if let Some(state) = self.snapshot.take() {
                    self.crash(Some(state));
                }
            }
            Step::FailOver => {
                if let Some(state) = self.snapshot.take() {
                    self.fail_over(state);
                }
            }
        }
        (0..self.readers.len()).for_each(|reader| self.drop_ended(reader));
        Ok(())
    }

    // the store and the way from it

    fn push(&mut self, target: Target, ttl: Option<u16>, collapse: Option<u8>, size: u16) {
        let app = target.app.as_ref().and_then(|app| APPS.into_iter().find(|of| **of == **app));
        let deadline = ttl.map(|ttl| self.now.get() + u64::from(ttl));
        let push = Push {
            id: PushId::generate(),
            from: "".into(),
            target,
            content: format!("n{}x{}", self.made.len(), "x".repeat(size.into())).into(),
            collapse_key: collapse.map(|key| format!("k{key}").into()),
            deadline,
        };
        self.made.push(Made { id: push.id, app, deadline, places: Vec::new() });
        self.store.submit(push);
    }

    fn number(push: &Push) -> usize {
        let text = push.content.to_text();
        text[1..text.find('x').unwrap()].parse().unwrap()
    }

    fn commit(&mut self) {
        let is_synced = !self.has(Bug::WakesBeforeSync) || self.made.len().is_multiple_of(3);
        for stored in self.store.turn(is_synced) {
            let addresses = addresses(&stored.push);
            for (address, entry) in addresses.iter().zip(&stored.entries) {
                if let Some(has_new) = self.doubtful.get_mut(address) {
                    *has_new = true;
                }
                self.made[Self::number(&stored.push)].places.push((address.clone(), entry.epoch, entry.seq));
            }
            for number in 0..2 {
                let of_lane: Vec<_> = addresses.iter().filter(|address| lane(address) == number).cloned().collect();
                if !of_lane.is_empty() && self.lanes[number].len() < LANE {
                    self.lanes[number].push_back((stored.clone(), of_lane));
                }
            }
        }
        if is_synced {
            for debt in self.readers.iter_mut().flat_map(|reader| reader.debts.values_mut()) {
                debt.acked_for_good = debt.acked;
            }
        }
    }

    fn route(&mut self, lane: usize, fate: Fate) {
        let Some((mut stored, of_lane)) = self.lanes[lane].pop_front() else { return };
        let all = addresses(&stored.push);
        for (address, entry) in all.iter().zip(&mut stored.entries).filter(|(address, _)| of_lane.contains(address)) {
            if self.has(Bug::NoPredecessorCheck) {
                let before = (entry.previous, entry.previous_id);
                let before = self.skipped.remove(address).unwrap_or(before);
                if fate == Fate::Lost {
                    self.skipped.insert(address.clone(), before);
                }
                (entry.previous, entry.previous_id) = before;
            }
            if self.has(Bug::NoEpochCheck) {
                entry.epoch = *self.epochs.entry(address.clone()).or_insert(entry.epoch);
            }
        }
        match fate {
            Fate::Lost => {}
            Fate::Arrives => self.send(stored, &of_lane),
            Fate::Doubled => {
                self.send(stored.clone(), &of_lane);
                if self.has(Bug::CopyIsNew) {
                    for entry in &mut stored.entries {
                        (entry.previous, entry.previous_id) = (entry.seq, stored.push.id);
                        entry.seq += 1;
                    }
                }
                self.send(stored, &of_lane);
            }
        }
    }

    fn send(&mut self, stored: StoredPush, of_lane: &[Address]) {
        let fanout = Fanout::stored(stored);
        for (shard, inbox) in self.inboxes.iter_mut().enumerate() {
            let here = of_lane.iter().filter(|address| self.hub.shards(address) >> shard & 1 == 1);
            let here: Vec<_> = here.cloned().collect();
            if !here.is_empty() {
                inbox.push_back(Arrival::Part(Part::new(Arc::clone(&fanout), Recipients::Addresses(here))));
            }
        }
    }

    fn turn(&mut self, number: usize, works: usize, writes: usize, at_once: bool) {
        let shard = &self.shards[number];
        for _ in 0..works {
            let Some(arrival) = self.inboxes[number].pop_front() else { break };
            let mut budget = if at_once { WriteBudget::unlimited() } else { WriteBudget::none() };
            match arrival {
                Arrival::Part(part) => shard.deliver(part.into(), &mut budget),
                Arrival::Answer(answer) => shard.take_answer(&answer, &mut budget),
            }
        }
        for _ in 0..writes {
            shard.write();
        }
        shard.feed();
    }

    fn ask(&mut self, fails: bool) {
        let mut asked = std::mem::take(&mut self.unregistered);
        while let Ok(question) = self.questions.try_recv() {
            asked.push(question);
        }
        let mut pages = Vec::new();
        for question in asked {
            match question {
                StreamQuestion::Page { shard, address, epoch, after } => pages.push((shard, address, epoch, after)),
                StreamQuestion::Head { shard, address, known } => {
                    self.check_head(&address, known);
                    self.answer_head(shard, address, true);
                }
                StreamQuestion::Readers { card, readers } => {
                    for reader in readers.iter().filter(|_| self.bug != Some(Bug::RegisterForgotten)) {
                        let key = match reader {
                            StreamReader::Device(device) => DeviceKey::Declared(device),
                            StreamReader::App(app) => DeviceKey::App(app),
                        };
                        self.store.register(&card, key, 0);
                    }
                }
            }
        }
        for (shard, address, epoch, after) in pages {
            let epoch = if self.has(Bug::NoEpochCheck) {
                self.store.head(&address).map_or(epoch, |head| head.epoch)
            } else {
                epoch
            };
            let page = self.store.read(&address, epoch, after, self.page_entries, 1200, self.now.get());
            match page.filter(|_| !fails) {
                Some(mut page) => {
                    if self.has(Bug::LevelEarly) && page.end < page.head {
                        page.end += 1;
                    }
                    if self.has(Bug::PageAtWrongPlace) {
                        page.after += 1;
                    }
                    if self.has(Bug::NoEpochCheck)
                        && let Some(epoch) = self.epochs.get(&address)
                    {
                        page.epoch = *epoch;
                    }
                    self.replies.push_back((shard, StreamAnswer::Page(Arc::new(page))));
                }
                None => {
                    self.replies.push_back((shard, StreamAnswer::NoPage { address: address.clone(), after }));
                    self.answer_head(shard, address, false);
                }
            }
        }
    }

    /// A stream that does not have what a shard knows of it gets a new epoch.
    fn check_head(&mut self, address: &Address, known: Option<StreamPosition>) {
        let before = self.store.head(address).map(|head| head.epoch);
        let known = known.filter(|_| self.bug != Some(Bug::CutBackUnseen));
        let after = self.store.checked_head(address, known).map(|head| head.epoch);
        if before != after {
            self.doubtful.remove(address);
            self.note_places();
        }
    }

    fn note_places(&mut self) {
        for (address, stream) in &self.store.now.streams {
            for (seq, push) in &stream.entries {
                self.made[Self::number(push)].places.push((address.clone(), stream.epoch, *seq));
            }
        }
    }

    /// The store goes on without its last writes, and the node does not know.
    fn fail_over(&mut self, state: DurableModel) {
        self.note_revived(&state);
        for (address, stream) in &self.store.now.streams {
            if state.streams.get(address).is_some_and(|older| older.epoch == stream.epoch && older.head < stream.head) {
                self.doubtful.insert(address.clone(), false);
                self.failed_over.insert(address.clone());
            }
        }
        self.store.fail_over(state);
        self.forget_debts(|stream, key| stream.cursors.get(key).copied().unwrap_or_default());
    }

    /// What readers are owed of a state of the store that was written before.
    fn forget_debts(&mut self, acked: impl Fn(&ModelStream, &CursorKey) -> u64) {
        for reader in &mut self.readers {
            let key = cursor_key(reader.key());
            for (address, debt) in &mut reader.debts {
                let stream = self.store.now.streams.get(address);
                debt.acked = stream.map_or(0, |stream| acked(stream, &key));
                debt.acked_for_good = debt.acked;
                let is_known = stream.is_some_and(|stream| stream.cursors.contains_key(&key));
                if !is_known && matches!(address, Address::Card(_)) {
                    // it goes on where it is, and is a new one when it comes again
                    debt.base = NOTHING;
                }
            }
        }
    }

    fn answer_head(&mut self, shard: usize, address: Address, asked: bool) {
        let mut head = self.store.head(&address);
        if self.has(Bug::NoEpochCheck)
            && let (Some(head), Some(epoch)) = (&mut head, self.epochs.get(&address))
        {
            head.epoch = *epoch;
        }
        self.replies.push_back((shard, StreamAnswer::Head { address, head, asked }));
    }

    fn answer(&mut self, twice: bool) {
        let Some((shard, answer)) = self.replies.pop_front() else { return };
        if twice {
            self.inboxes[shard].push_back(Arrival::Answer(answer.clone()));
        }
        self.inboxes[shard].push_back(Arrival::Answer(answer));
    }

    fn sweep(&mut self) {
        let changes = self.store.take_changes();
        if self.has(Bug::SweepLost) {
            return;
        }
        for (address, _) in changes {
            let shards = self.hub.shards(&address);
            for shard in (0..self.shards.len()).filter(|shard| shards >> shard & 1 == 1) {
                self.answer_head(shard, address.clone(), false);
            }
        }
    }

    fn crash(&mut self, cut_back: Option<DurableModel>) {
        (0..self.readers.len()).for_each(|reader| self.vanish(reader));
        let is_cut = cut_back.is_some();
        match cut_back {
            Some(state) => {
                self.note_revived(&state);
                self.store.cut_back(state);
            }
            None => self.store.crash(),
        }
        (self.hub, self.questions, self.shards, self._inboxes) = node(self.shards.len(), self.outbox, self.max_pages);
        self.unregistered.clear();
        self.lanes = Default::default();
        self.replies.clear();
        self.inboxes.iter_mut().for_each(VecDeque::clear);
        self.skipped.clear();
        self.tell_time();
        self.late.clear();
        // nobody is left who knows more: a second failure before the first was found is beyond what is promised
        self.given_up.extend(self.doubtful.drain().map(|(address, _)| address));
        if is_cut {
            self.snapshot = None;
            self.note_places();
        }
        for reader in &mut self.readers {
            let key = cursor_key(reader.key());
            for (address, debt) in &mut reader.debts {
                debt.acked = debt.acked_for_good;
                let stream = self.store.now.streams.get(address);
                let is_known = stream.is_some_and(|stream| stream.cursors.contains_key(&key));
                // a crash forgets who came in the last moment
                if !is_known && matches!(address, Address::Card(_)) {
                    // what it was not owed, it is not owed
                    let is_same = stream.is_some_and(|stream| debt.epoch == Some(stream.epoch));
                    let base = if is_same { debt.base } else { 0 };
                    *debt = Debt { kept: debt.kept.take(), base, ..Debt::default() };
                }
            }
        }
    }

    fn note_revived(&mut self, state: &DurableModel) {
        for (address, stream) in &state.streams {
            let now = self.store.now.streams.get(address);
            let is_there = |seq: &u64| now.is_some_and(|now| now.entries.contains_key(seq));
            let revived = stream.entries.iter().filter(|(seq, _)| !is_there(seq));
            self.revived.extend(revived.map(|(_, push)| (address.clone(), Self::number(push) as u32)));
        }
    }

    // readers

    fn open(&mut self, number: usize, shard: usize, resume: bool, late: bool) -> Result<(), String> {
        if self.readers[number].session.is_some() {
            return Ok(());
        }
        let shard = shard % self.shards.len();
        let client = self.shards[shard].open(Pipe::new(&self.now), Dialect::OxipushV1);
        self.readers[number].session = Some(Session {
            shard,
            client,
            views: HashMap::new(),
            joins: HashMap::new(),
            pings: Vec::new(),
            has_answered_ping: false,
        });
        for address in self.readers[number].addresses.clone() {
            self.enter(number, &address);
            if late {
                let session = self.readers[number].session.as_ref().expect("it is open");
                self.shards[session.shard].follow_later(&session.client, &address);
                self.late.push_back((number, address, resume));
            } else {
                self.begin(number, &address, resume)?;
            }
        }
        Ok(())
    }

    /// The store answers again.
    fn place(&mut self) -> Result<(), String> {
        let Some((number, address, resume)) = self.late.pop_front() else { return Ok(()) };
        self.begin(number, &address, resume)?;
        if let Some(session) = &self.readers[number].session {
            self.shards[session.shard].look_up(&address);
        }
        Ok(())
    }

    fn enter(&mut self, number: usize, address: &Address) {
        let reader = &self.readers[number];
        let session = reader.session.as_ref().expect("it is open");
        let shard = &self.shards[session.shard];
        match address {
            Address::Card(card) => {
                shard.join(&session.client, card, reader.app);
                if reader.declared {
                    shard.set_device(&session.client, card, reader.name);
                }
            }
            Address::Room(room) => drop(shard.subscribe(&session.client, room)),
        }
    }

    /// The order of the socket: the index has it, the store is asked, the shard is told.
    fn join(&mut self, number: usize, address: &Address, resume: bool) -> Result<(), String> {
        self.enter(number, address);
        self.begin(number, address, resume)
    }

    fn begin(&mut self, number: usize, address: &Address, resume: bool) -> Result<(), String> {
        let now = self.now.get();
        let reader = &mut self.readers[number];
        let (key, name) = (reader.key(), reader.name);
        let wants_resume = match address {
            Address::Card(_) => resume,
            Address::Room(_) => reader.resumes_rooms,
        };
        let kept = reader.debts.get(address).and_then(|debt| debt.kept.clone()).filter(|_| wants_resume);
        let resume = kept.and_then(|view| {
            let id = view.last_number.map(|number| self.made[number as usize].id);
            // without an id nobody can know that another push stands there now
            if id.is_none() && self.failed_over.contains(address) {
                return None;
            }
            Some(Resume { epoch: view.epoch?, seq: view.last, id })
        });
        let resume = match resume {
            Some(resume) if self.bug == Some(Bug::ResumeUnchecked) => {
                let epoch = self.store.head(address).map_or(resume.epoch, |head| head.epoch);
                Some(Resume { epoch, id: None, ..resume })
            }
            resume => resume,
        };
        let session = reader.session.as_ref().expect("it is open");
        let (shard, client) = (Rc::clone(&self.shards[session.shard]), Rc::clone(&session.client));
        let before = self.store.now.streams.get(address).map(|stream| {
            let key: CursorKey = cursor_key(key);
            (stream.cursors.get(&key).copied(), stream.cursors.is_empty())
        });
        let attached = match address {
            Address::Card(_) => self.store.attach(address, StoreReader::Device(key, resume), now),
            Address::Room(_) => self.store.attach(address, StoreReader::Room(resume), now),
        };
        let view = match attached {
            Attached::NoStream => {
                reader.debts.remove(address);
                View { epoch: None, last: 0, last_number: None }
            }
            Attached::At { head, from, reset, .. } => {
                let (cursor, is_first) = before.unwrap_or_default();
                let debt = reader.debts.entry(address.clone()).or_default();
                let was_forgotten = debt.base == NOTHING;
                let is_new = debt.epoch != Some(head.epoch) || was_forgotten;
                if is_new {
                    (debt.acked, debt.acked_for_good) = (0, 0);
                }
                let gets_all = match address {
                    Address::Room(_) => reset || resume.is_some(),
                    Address::Card(_) => reader.declared || reset || is_first || cursor.is_some() || resume.is_some(),
                };
                let is_unregistered = self.unregistered.iter().any(
                    |question| matches!(question, StreamQuestion::Readers { card, .. } if **card == *address.name()),
                );
                let has_no_place = matches!(address, Address::Room(_)) && resume.is_none();
                let is_new_reader = is_new && !gets_all || is_unregistered && cursor.is_none();
                if has_no_place || is_new_reader || was_forgotten {
                    debt.base = from;
                }
                debt.epoch = Some(head.epoch);
                if resume.is_none() && from < debt.acked {
                    return Err(format!(
                        "{name} acknowledged {} of {address:?} and begins at {from}: {attached:?}",
                        debt.acked
                    ));
                }
                View { epoch: Some(head.epoch), last: from, last_number: None }
            }
        };
        self.joins += 1;
        let join = self.joins;
        let session = self.readers[number].session.as_mut().expect("it is open");
        session.views.remove(address);
        session.joins.insert(join, (address.clone(), view.clone()));
        let mut payload = vec![b'J'];
        payload.extend_from_slice(&join.to_le_bytes());
        shard.answer(&client, Frame::ping(&payload));
        let place = match attached {
            Attached::NoStream => None,
            Attached::At { head, .. } if self.has(Bug::FollowerForgotten) => Some((head, head.seq)),
            Attached::At { head, from, .. } => Some((head, from)),
        };
        shard.follow(&client, address, place);
        shard.flush(&client);
        match view.epoch {
            Some(epoch) => self.check_has(number, address, epoch, 0, view.last + 1, "as it joins"),
            None => Ok(()),
        }
    }

    /// It leaves one of its addresses; with a `resume` it comes again at once.
    fn rejoin(&mut self, number: usize, nth: usize, resume: Option<bool>) -> Result<(), String> {
        self.look_for_unregistered();
        let reader = &mut self.readers[number];
        let address = reader.addresses[nth % reader.addresses.len()].clone();
        let Some(session) = &mut reader.session else { return Ok(()) };
        if let Some(view) = session.views.remove(&address) {
            reader.debts.entry(address.clone()).or_default().kept = Some(view);
        }
        session.joins.retain(|_, (of, _)| *of != address);
        self.late.retain(|(of, late, _)| (*of, late) != (number, &address));
        let shard = Rc::clone(&self.shards[session.shard]);
        match &address {
            Address::Card(card) => drop(shard.leave_card(&session.client, card)),
            Address::Room(room) => drop(shard.unsubscribe(&session.client, room)),
        }
        match resume {
            Some(resume) => self.join(number, &address, resume),
            None => Ok(()),
        }
    }

    /// One that is too slow even for answers is ended.
    fn drop_ended(&mut self, number: usize) {
        let session = self.readers[number].session.as_ref();
        if session.is_some_and(|session| session.client.is_ending()) {
            self.vanish(number);
        }
    }

    fn vanish(&mut self, number: usize) {
        self.look_for_unregistered();
        self.late.retain(|(of, ..)| *of != number);
        let reader = &mut self.readers[number];
        let Some(session) = reader.session.take() else { return };
        for (address, view) in session.views {
            reader.debts.entry(address).or_default().kept = Some(view);
        }
        self.shards[session.shard].close(&session.client);
    }

    /// What is on its way to the store does not count as known there.
    fn look_for_unregistered(&mut self) {
        while let Ok(question) = self.questions.try_recv() {
            self.unregistered.push(question);
        }
    }

    fn close(&mut self, number: usize) -> Result<(), String> {
        for _ in 0..20 {
            self.read(number)?;
        }
        let reader = &mut self.readers[number];
        let Some(session) = &reader.session else { return Ok(()) };
        if !reader.declared && !session.has_answered_ping && session.client.is_drained() {
            for address in reader.addresses.clone() {
                let sent = self.shards[session.shard].sent_to(&session.client, &address);
                if let (Address::Card(card), Some(SentTo { seq, .. })) = (&address, sent)
                    && let Some(view) = session.views.get(&address)
                    && seq > 0
                    && view.epoch == self.store.head(&address).map(|head| head.epoch)
                {
                    self.store.ack(card, reader.key(), seq);
                    let debt = reader.debts.entry(address.clone()).or_default();
                    if debt.epoch == view.epoch {
                        debt.acked = debt.acked.max(seq.min(self.store.head_seq(&address)));
                    }
                }
            }
        }
        self.vanish(number);
        Ok(())
    }

    fn ack(&mut self, number: usize) {
        let reader = &mut self.readers[number];
        let key = reader.key();
        let Some(session) = &mut reader.session else { return };
        let shard = &self.shards[session.shard];
        let mut acks = Vec::new();
        if reader.declared {
            acks.extend(session.views.iter().map(|(address, view)| (address.clone(), view.epoch, view.last)));
        }
        for (ping, epoch) in session.pings.drain(..) {
            session.has_answered_ping = true;
            let mut cards = session.views.keys().filter(|address| StreamPing::hash(address.name()) == ping.card);
            acks.extend(cards.next().map(|address| (address.clone(), epoch, ping.seq)));
        }
        for (address, epoch, seq) in acks {
            // one that crosses the end of its stream's epoch would count in the next: acknowledgements name no epoch
            if epoch != self.store.head(&address).map(|head| head.epoch) {
                continue;
            }
            let sent = shard.sent_to(&session.client, &address);
            let (Address::Card(card), Some(SentTo { seq: sent, .. })) = (&address, sent) else { continue };
            if seq == 0 || seq > sent {
                continue;
            }
            let told = match self.bug {
                Some(Bug::AckOffByOne) => seq + 1,
                Some(Bug::CursorBeforeFrame) => sent,
                _ => seq,
            };
            self.store.ack(card, key, told);
            let head = self.store.head(&address).map(|head| head.epoch);
            let debt = reader.debts.entry(address.clone()).or_default();
            let view = session.views.get(&address);
            if debt.epoch == head && view.is_some_and(|view| view.epoch == head) {
                debt.acked = debt.acked.max(seq.min(self.store.head_seq(&address)));
            }
        }
    }

    fn read(&mut self, number: usize) -> Result<(), String> {
        let Some(session) = &self.readers[number].session else { return Ok(()) };
        let told = session.read();
        for told in told {
            self.read += 1;
            self.told(number, told)?;
        }
        let Some(session) = &self.readers[number].session else { return Ok(()) };
        // its task goes on when the socket is writable
        self.shards[session.shard].flush(&session.client);
        Ok(())
    }

    fn told(&mut self, number: usize, told: Told) -> Result<(), String> {
        let reader = &mut self.readers[number];
        let (name, app) = (reader.name, reader.app);
        let session = reader.session.as_mut().expect("it reads");
        match told {
            Told::Joined(join) => {
                if let Some((address, view)) = session.joins.remove(&join) {
                    session.views.insert(address, view);
                }
            }
            Told::Closed => {}
            Told::Ping(ping) => {
                let mut cards = session.views.iter().filter(|(card, _)| StreamPing::hash(card.name()) == ping.card);
                let epoch = cards.next().and_then(|(_, view)| view.epoch);
                session.pings.push((ping, epoch));
            }
            Told::Push { address, seq, prev, number: push, at } => {
                // what came before it left, or before its join was answered
                let Some(view) = session.views.get_mut(&address) else { return Ok(()) };
                let told = format!("{name} gets n{push} as {seq} behind {prev} of {address:?}, and was at {view:?}");
                let made = &self.made[push as usize];
                let Some(epoch) = view.epoch else { return Err(format!("{told}: it was told no epoch")) };
                if !made.places.contains(&(address.clone(), epoch, seq)) {
                    return Err(format!("{told}: that is not its place: {:?}", made.places));
                }
                if !made.is_for(app) {
                    return Err(format!("{told}: it is for {:?}", made.app));
                }
                if made.deadline.is_some_and(|deadline| deadline <= at) {
                    return Err(format!("{told}: written at {at}, its end was {:?}", made.deadline));
                }
                if self.doubtful.contains_key(&address) {
                    // a reset comes once the shard finds out
                    (view.last, view.last_number) = (seq, Some(push));
                    reader.received.insert((address.clone(), push));
                    return Ok(());
                }
                if seq <= view.last {
                    return Err(format!("{told}: a copy in the same session"));
                }
                if prev > view.last {
                    return Err(format!("{told}: a gap"));
                }
                let last = view.last;
                (view.last, view.last_number) = (seq, Some(push));
                reader.received.insert((address.clone(), push));
                self.check_has(number, &address, epoch, last, seq, &told)?;
            }
            Told::Stream { address, epoch, seq } => {
                let Some(view) = session.views.get_mut(&address) else { return Ok(()) };
                let last = view.last;
                if view.epoch.is_some_and(|known| known != epoch) {
                    return Err(format!("{name} is told of {epoch} of {address:?}, {view:?}: no reset came before"));
                }
                if view.epoch.is_none() {
                    let debt = reader.debts.entry(address.clone()).or_default();
                    *debt = Debt { epoch: Some(epoch), base: seq, ..Debt::default() };
                }
                view.epoch = Some(epoch);
                if seq > last {
                    (view.last, view.last_number) = (seq, None);
                }
                self.check_has(number, &address, epoch, last, seq + 1, "as it is told that it has all")?;
            }
            Told::Reset { address, epoch, seq } => {
                let Some(view) = session.views.get_mut(&address) else { return Ok(()) };
                *view = View { epoch: Some(epoch), last: seq, last_number: None };
                // what was on its way when its stream was deleted is followed by another reset
                if self.store.head(&address).is_some_and(|head| head.epoch == epoch) {
                    let debt = reader.debts.entry(address).or_default();
                    *debt = Debt { epoch: Some(epoch), base: seq, ..Debt::default() };
                }
            }
        }
        Ok(())
    }

    /// All that is still there between two places, and was for it, has come.
    fn check_has(
        &self,
        number: usize,
        address: &Address,
        epoch: Epoch,
        after: u64,
        before: u64,
        when: &str,
    ) -> Result<(), String> {
        let Some(stream) = self.store.now.streams.get(address).filter(|stream| stream.epoch == epoch) else {
            return Ok(());
        };
        if self.doubtful.contains_key(address) || self.given_up.contains(address) {
            return Ok(());
        }
        let reader = &self.readers[number];
        let base = reader.debts.get(address).filter(|debt| debt.epoch == Some(epoch)).map_or(0, |debt| debt.base);
        if base == NOTHING {
            return Ok(());
        }
        for (seq, push) in stream.entries.range((after.max(base) + 1)..before.max(after.max(base) + 1)) {
            let made = &self.made[Self::number(push)];
            let number = Self::number(push) as u32;
            let is_owed = made.is_for(reader.app) && !push.is_expired(self.now.get());
            let is_owed = is_owed && !self.revived.contains(&(address.clone(), number));
            if is_owed && !reader.received.contains(&(address.clone(), number)) {
                return Err(format!("{} misses n{number}, {seq} of {address:?}, {when}; base {base}", reader.name));
            }
        }
        Ok(())
    }

    // the end

    /// Nothing fails any more: all become level.
    pub fn settle(&mut self) -> Result<(), String> {
        let mut quiet = 0;
        for round in 0..ROUNDS {
            let read = self.read;
            let mut moved = false;
            for number in 0..self.readers.len() {
                if self.readers[number].session.is_none() {
                    self.open(number, number, true, false)?;
                    moved = true;
                }
                let reader = &self.readers[number];
                let session = reader.session.as_ref().expect("it is open");
                let is_in = |address: &&Address| {
                    session.views.contains_key(*address) || session.joins.values().any(|(of, _)| of == *address)
                };
                if let Some(nth) = reader.addresses.iter().position(|address| !is_in(&address)) {
                    self.rejoin(number, nth, Some(true))?;
                    moved = true;
                }
                self.read(number)?;
                self.ack(number);
                self.drop_ended(number);
            }
            while !self.late.is_empty() {
                moved = true;
                self.place()?;
            }
            self.commit();
            for lane in 0..2 {
                while !self.lanes[lane].is_empty() {
                    moved = true;
                    self.route(lane, Fate::Arrives);
                }
            }
            for shard in 0..self.shards.len() {
                moved |= !self.inboxes[shard].is_empty();
                self.turn(shard, usize::MAX, 50, round % 2 == 0);
            }
            self.ask(false);
            while !self.replies.is_empty() {
                moved = true;
                self.answer(false);
            }
            if round % 25 == 0 {
                self.sweep();
                self.shards.iter().for_each(|shard| shard.feed_again());
            }
            quiet = if moved || self.read > read { 0 } else { quiet + 1 };
            if quiet > 12 {
                break;
            }
        }
        if quiet <= 12 {
            return Err(format!("there is no rest after {ROUNDS} rounds"));
        }
        // where nobody was who knew more, there was nothing to find
        self.doubtful.retain(|_, has_new| !*has_new);
        for number in 0..self.readers.len() {
            for address in self.readers[number].addresses.clone() {
                self.check_level(number, &address)?;
            }
        }
        Ok(())
    }

    fn check_level(&self, number: usize, address: &Address) -> Result<(), String> {
        let reader = &self.readers[number];
        let session = reader.session.as_ref().expect("it is open");
        let view = session.views.get(address);
        let Some(stream) = self.store.now.streams.get(address) else { return Ok(()) };
        if self.doubtful.contains_key(address) {
            // all have what is there, and more
            return Ok(());
        }
        if view.and_then(|view| view.epoch) != Some(stream.epoch) {
            let (name, epoch) = (reader.name, stream.epoch);
            return Err(format!("{name} ends with {view:?} in {address:?}, which is in {epoch} at {}", stream.head));
        }
        let sent = self.shards[session.shard].sent_to(&session.client, address);
        if sent.map(|sent| sent.seq) != Some(stream.head) {
            return Err(format!("{} ends at {sent:?} of {} of {address:?}", reader.name, stream.head));
        }
        self.check_has(number, address, stream.epoch, 0, stream.head + 1, "at the end")
    }

    /// Nothing is left of who was there.
    pub fn end(mut self) -> Result<(), String> {
        (0..self.readers.len()).for_each(|reader| self.vanish(reader));
        let census = self.hub.census();
        let left: HashSet<_> = self.shards.iter().flat_map(|shard| shard.keys()).collect();
        if census.connections + census.groups + census.rooms + left.len() > 0 {
            return Err(format!("something is left: {census:?}"));
        }
        Ok(())
    }
}
