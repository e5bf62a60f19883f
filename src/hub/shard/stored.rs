//! Pushes of streams: offered to who is level, read for who is behind.

use std::{rc::Rc, time::Instant};

use super::{Client, ClientKey, Item, Shard, Sink, WriteBudget};
use crate::{
    hub::{
        Part,
        catch_up::{StreamAnswer, StreamQuestion},
        fanout::FoundClients,
        item::ItemPlace,
        streams::{EntryStep, Follower, GroupStream, GroupStreams, SentTo},
    },
    push::{Address, Epoch, PageEntry, Push, PushId, StreamEntry, StreamPage, StreamPosition},
    telemetry::Metrics,
    wire::{
        dialect::{Dialect, StreamMark},
        frame::Frame,
        stream_ping::StreamPing,
    },
};

/// Of the pushes of a page, each so-manyth is followed by a Ping, and the last.
const PINGED: usize = 16;

/// A client that a page is read for.
struct PageReader<S> {
    client: Rc<Client<S>>,
    at: Follower,
    /// It takes no more of this page.
    is_full: bool,
    was_level: bool,
}

/// Frames of one push of a stream, nearly always one for each dialect.
struct EntryItems<'a> {
    push: &'a Push,
    address: &'a Address,
    epoch: Epoch,
    seq: u64,
    /// Of a sampled push.
    sampled: Option<Instant>,
    metrics: &'a Metrics,
    made: Vec<(Dialect, u64, bool, Rc<Item>)>,
}

impl<'a> EntryItems<'a> {
    fn new(push: &'a Push, address: &'a Address, epoch: Epoch, seq: u64, metrics: &'a Metrics) -> Self {
        let sampled = push.id.is_sampled().then(Instant::now);
        Self { push, address, epoch, seq, sampled, metrics, made: Vec::new() }
    }

    /// For a client that was sent `prev` before; with a Ping behind it where its Pong is the acknowledgement.
    fn item(&mut self, dialect: Dialect, prev: u64, pings: bool) -> &Rc<Item> {
        let made = self.made.iter().position(|(of, behind, with, _)| (*of, *behind, *with) == (dialect, prev, pings));
        let place = made.unwrap_or_else(|| {
            let item = self.encode(dialect, prev, pings).measured_since(self.sampled, self.metrics);
            self.made.push((dialect, prev, pings, item));
            self.made.len() - 1
        });
        &self.made[place].3
    }

    fn encode(&self, dialect: Dialect, prev: u64, pings: bool) -> Rc<Item> {
        let Self { push, address, epoch, seq, .. } = *self;
        let frame = dialect.stored(push, &StreamMark { address, seq, prev });
        let ping = pings.then(|| StreamPing::new(address.name(), epoch, seq).frame());
        let place = ItemPlace { address: address.clone(), epoch, seq, dialect };
        Item::stored(&Frame::sequence([frame].into_iter().chain(ping)), push, place)
    }
}

impl<S: Sink> Shard<S> {
    /// A client is in the stream of an address, which it has just become a member of: its newest push, and up to where the
    /// client has it. `None`: nothing was ever stored for the address.
    pub fn follow(&self, client: &Rc<Client<S>>, address: &Address, attached: Option<(StreamPosition, u64)>) {
        let groups = self.registry.groups();
        let clients = groups.clients(address.kind(), address.name());
        let mut streams = self.registry.streams();
        if streams.place(address, client.key()) {
            client.set_behind(false);
        }
        let Some((head, from)) = attached else {
            // deleted, and pushes of it may be on their way
            if let Some(stream) = streams.get(address) {
                self.tell_level(client, address, stream.position());
            }
            return;
        };
        if clients.len() <= 1 {
            streams.begin_at(address, head);
        }
        // those that were there before the stream was have nothing of it
        let (stream, is_new) = streams.begin(address, head.epoch);
        if stream.heard_of(head) {
            self.forget_followers(stream);
            stream.renew(head.epoch, head.seq);
            let others = clients.iter().filter(|other| other.key() != client.key());
            self.tell_reset(others, address, stream);
        }
        if is_new {
            self.tell_begun(clients.iter().filter(|other| other.key() != client.key()), address, stream);
        }
        if from == stream.position().seq {
            if stream.remove_follower(client.key()) {
                client.set_behind(false);
            }
        } else if stream.set_follower(client.key(), Follower { position: from, last: from }) {
            client.set_behind(true);
        }
        streams.set_due(address);
        drop((groups, streams));
        self.feed();
    }

    /// A client has just become a member of an address, and where it begins in its stream cannot be told yet: until
    /// [`Shard::follow`] says so it is sent nothing of it.
    pub fn follow_later(&self, client: &Rc<Client<S>>, address: &Address) {
        if self.registry.streams().unplace(address, client.key()) {
            client.set_behind(true);
        }
    }

    /// Where it begins in the stream of an address is still to be said.
    pub fn is_unplaced(&self, client: &Client<S>, address: &Address) -> bool {
        self.registry.streams().is_unplaced(address, client.key())
    }

    /// The store is asked for the newest push of a stream: one may have come before the address had a client here.
    pub fn look_up(&self, address: &Address) {
        let mut streams = self.registry.streams();
        match (streams.get_mut(address), self.registry.catch_up()) {
            (Some(stream), _) => self.ask_head(stream, address),
            (None, Some(catch_up)) => {
                let (shard, address) = (self.registry.shard(), address.clone());
                catch_up.ask(StreamQuestion::Head { shard, address, known: None });
            }
            (None, None) => {}
        }
    }

    /// Up to where a client was sent the stream of an address, 0 where there is none; `None`: it is no member of the address.
    pub fn sent_to(&self, client: &Client<S>, address: &Address) -> Option<SentTo> {
        let is_member = match address {
            Address::Card(card) => client.has_joined(card),
            Address::Room(room) => client.is_in_room(room),
        };
        if !is_member {
            return None;
        }
        let streams = self.registry.streams();
        let Some(stream) = streams.get(address) else { return Some(SentTo::default()) };
        let StreamPosition { epoch, seq, .. } = stream.position();
        let seq = stream.follower(client.key()).map_or(seq, |follower| follower.sent());
        Some(SentTo { epoch: Some(epoch), seq })
    }

    /// Offers a push of streams to the clients of its addresses that have all before it.
    pub(super) fn deliver_stored(&self, part: Part, budget: &mut WriteBudget<'_>) {
        let mut found = FoundClients::default();
        let push = part.fanout().push();
        let before = self.writer.offers();
        for (address, entry) in part.entries() {
            found.any |= self.deliver_entry(push, address, entry, budget);
        }
        if push.id.is_sampled() && found.any {
            self.writer.metrics().offered(push.id, Instant::now());
        }
        self.writer.metrics().traces.offered(push.id, self.writer.offers() - before, 0, self.writer.now());
        part.fanout().part_offered(&found);
        part.done();
        self.writer.publish_waiting();
    }

    /// Whether the address has clients.
    fn deliver_entry(&self, push: &Push, address: &Address, entry: &StreamEntry, budget: &mut WriteBudget<'_>) -> bool {
        let groups = self.registry.groups();
        let clients = groups.clients(address.kind(), address.name());
        if clients.is_empty() {
            return false;
        }
        let mut streams = self.registry.streams();
        let (stream, is_new) = streams.begin(address, entry.epoch);
        if is_new {
            self.tell_begun(clients.iter(), address, stream);
        }
        match stream.take(entry, push.id) {
            EntryStep::Offer => {
                self.writer.look_at(clients.len());
                self.offer_entry(push, address, entry, clients, stream, budget);
                if push.is_expired(self.writer.now()) {
                    // no client has it: the next one's `prev` must not name it
                    stream.reach(entry.position(push.id));
                } else {
                    stream.advance(entry.position(push.id), push.target.app.as_deref());
                }
            }
            EntryStep::Copy => {}
            EntryStep::Later => streams.set_due(address),
            EntryStep::Foreign => self.ask_head(stream, address),
        }
        true
    }

    fn offer_entry(
        &self,
        push: &Push,
        address: &Address,
        entry: &StreamEntry,
        clients: &[Rc<Client<S>>],
        stream: &mut GroupStream,
        budget: &mut WriteBudget<'_>,
    ) {
        // what is not for a client, it has passed all the same
        let filters = push.target.filters();
        let is_expired = push.is_expired(self.writer.now());
        let mut items = EntryItems::new(push, address, entry.epoch, entry.seq, self.writer.metrics());
        for client in clients {
            let mut prev = None;
            if client.is_behind()
                && let Some(follower) = stream.follower(client.key())
            {
                if follower.position != entry.previous {
                    continue;
                }
                stream.remove_follower(client.key());
                client.set_behind(false);
                prev = Some(follower.last);
            }
            if is_expired || !client.passes(&filters, Some(address)) {
                if prev.is_some() {
                    // level from now on: the next one's `prev` may name what was not for it
                    self.tell_level(client, address, entry.position(push.id));
                }
                continue;
            }
            let prev = prev.unwrap_or_else(|| stream.prev(|app| client.is_of_app(app, address)));
            let item = items.item(client.dialect(), prev, client.acks_by_pong(address));
            if !self.writer.offer_stored(client, item, budget) {
                stream.set_follower(client.key(), Follower { position: entry.previous, last: prev });
                client.set_behind(true);
            }
        }
    }

    /// Does what the store's answer to a question, or its sweep, says.
    pub fn take_answer(&self, answer: &StreamAnswer, budget: &mut WriteBudget<'_>) {
        match answer {
            StreamAnswer::Page(page) => self.take_page(page, budget),
            StreamAnswer::NoPage { address, after } => {
                let mut streams = self.registry.streams();
                streams.answered(address, *after);
                streams.failed(address.clone());
            }
            StreamAnswer::Head { address, head, asked } => self.take_head(address, *head, *asked),
            StreamAnswer::Unknown => self.registry.groups().addresses().for_each(|address| self.look_up(&address)),
        }
    }

    fn take_head(&self, address: &Address, head: Option<StreamPosition>, asked: bool) {
        let groups = self.registry.groups();
        let clients = groups.clients(address.kind(), address.name());
        let mut streams = self.registry.streams();
        let Some(head) = head else {
            // deleted, unless this is late: its clients are told once something new is stored, whose epoch is another one
            if let Some(stream) = streams.get_mut(address) {
                stream.no_head();
            }
            return;
        };
        if clients.is_empty() {
            return;
        }
        let (stream, is_new) = streams.begin(address, head.epoch);
        if is_new {
            self.tell_begun(clients.iter(), address, stream);
        }
        if stream.is_foreign(head) && !(asked && stream.asks_head()) {
            // what was on its way may be older than what is known here
            return self.ask_head(stream, address);
        }
        if stream.is_cut_back(head) && !asked {
            return self.ask_head(stream, address);
        }
        if stream.heard_of(head) {
            self.forget_followers(stream);
            stream.renew(head.epoch, head.seq);
            self.tell_reset(clients.iter(), address, stream);
        }
        // the group may have all of it, and who is behind the group a page that was read before the newest push was there
        streams.set_due(address);
    }

    /// Offers what was read to those who stand where it begins.
    fn take_page(&self, page: &StreamPage, budget: &mut WriteBudget<'_>) {
        let address = &page.address;
        let groups = self.registry.groups();
        let clients = groups.clients(address.kind(), address.name());
        let mut streams = self.registry.streams();
        streams.answered(address, page.after);
        let Some(stream) = streams.get_mut(address) else { return };
        if stream.position().epoch != page.epoch {
            // its place may be asked for in this epoch now
            streams.set_due(address);
            return;
        }
        let is_known = page.after_id != PushId::NIL;
        if is_known && stream.position().seq == page.after && stream.is_another(page.after_id) {
            return self.ask_head(stream, address);
        }
        stream.heard_of_seq(page.head);
        let is_of_group = stream.position().seq == page.after && stream.lags();
        let mut readers = self.page_readers(page, stream, if is_of_group { clients } else { &[] });
        self.writer.look_at(readers.len());
        for (nth, entry) in page.entries.iter().enumerate() {
            // one Pong says what it has of many
            let pings = nth % PINGED == PINGED - 1 || nth == page.entries.len() - 1;
            self.offer_page_entry(entry, address, page.epoch, pings, &mut readers, budget);
            // what is over is sent to none: the next one's `prev` must not name it
            if is_of_group && !entry.push.is_expired(self.writer.now()) {
                stream.saw(entry.seq, entry.push.target.app.as_deref());
            }
        }
        if is_of_group {
            stream.reach(StreamPosition { epoch: page.epoch, seq: page.end, id: page.end_id });
        }
        for mut reader in readers {
            if !reader.is_full {
                reader.at.position = page.end;
            }
            self.place_reader(reader, address, stream);
        }
        if stream.is_beyond(page) {
            return self.ask_head(stream, address);
        }
        streams.set_due(address);
    }

    fn page_readers(&self, page: &StreamPage, stream: &GroupStream, level: &[Rc<Client<S>>]) -> Vec<PageReader<S>> {
        let behind = stream.followers().filter(|(_, follower)| follower.position == page.after);
        let behind = behind.filter_map(|(key, at)| {
            let client = self.registry.get(key)?;
            Some(PageReader { client, at, is_full: false, was_level: false })
        });
        let level = level.iter().filter(|client| stream.follower(client.key()).is_none()).map(|client| {
            let last = stream.prev(|app| client.is_of_app(app, &page.address));
            let at = Follower { position: page.after, last };
            PageReader { client: Rc::clone(client), at, is_full: false, was_level: true }
        });
        behind.chain(level).collect()
    }

    fn offer_page_entry(
        &self,
        entry: &PageEntry,
        address: &Address,
        epoch: Epoch,
        pings: bool,
        readers: &mut [PageReader<S>],
        budget: &mut WriteBudget<'_>,
    ) {
        let PageEntry { seq, push } = entry;
        let filters = push.target.filters();
        let is_expired = push.is_expired(self.writer.now());
        let mut items = EntryItems::new(push, address, epoch, *seq, self.writer.metrics());
        for reader in readers.iter_mut().filter(|reader| !reader.is_full) {
            let PageReader { client, at, .. } = reader;
            if !is_expired && client.passes(&filters, Some(address)) {
                let pings = pings && client.acks_by_pong(address);
                let item = items.item(client.dialect(), at.last, pings);
                if !self.writer.has_room_to_catch_up(client) || !self.writer.offer_stored(client, item, budget) {
                    reader.is_full = true;
                    continue;
                }
                at.last = *seq;
            }
            at.position = *seq;
        }
    }

    /// Notes how far a reader came.
    fn place_reader(&self, reader: PageReader<S>, address: &Address, stream: &mut GroupStream) {
        let PageReader { client, at, was_level, .. } = reader;
        if at.position != stream.position().seq {
            if stream.set_follower(client.key(), at) {
                client.set_behind(true);
            }
            return;
        }
        if was_level {
            return;
        }
        stream.remove_follower(client.key());
        client.set_behind(false);
        // the last ones were not for it, or are gone: the next one's `prev` may be among them
        if at.last < at.position {
            self.tell_level(&client, address, stream.position());
        }
    }

    /// As [`Shard::feed`], and asks again for what could not be read.
    pub fn feed_again(&self) {
        self.registry.streams().retry();
        self.feed();
    }

    /// Asks for pages for those who are behind and have room for them.
    pub fn feed(&self) {
        let Some(catch_up) = self.registry.catch_up() else { return };
        let mut streams = self.registry.streams();
        if streams.is_empty() {
            return;
        }
        for key in self.writer.take_drained() {
            for address in self.followed_by(key, &streams) {
                streams.set_due(&address);
            }
        }
        while let Some(address) = streams.next_due(catch_up.max_pages) {
            let left = streams.left(catch_up.max_pages);
            let Some(stream) = streams.get(&address) else { continue };
            let epoch = stream.position().epoch;
            let wanted = self.wanted_pages(stream, left + 1);
            let has_more = wanted.len() > left;
            for after in wanted.into_iter().take(left) {
                streams.ask(&address, after);
                let (shard, address) = (self.registry.shard(), address.clone());
                catch_up.ask(StreamQuestion::Page { shard, address, epoch, after });
            }
            if has_more {
                streams.set_due(&address);
            }
        }
    }

    /// Behind which places something is to be read, at most `most` of them.
    fn wanted_pages(&self, stream: &GroupStream, most: usize) -> Vec<u64> {
        let mut wanted = Vec::new();
        if stream.is_gone() {
            return wanted;
        }
        let position = stream.position().seq;
        if stream.lags() && !stream.is_asked(position) {
            wanted.push(position);
        }
        for (key, follower) in stream.followers() {
            let after = follower.position;
            if wanted.len() >= most {
                break;
            }
            let is_new = stream.is_behind(follower) && !stream.is_asked(after) && !wanted.contains(&after);
            if is_new && self.registry.get(key).is_some_and(|client| self.writer.has_room_to_catch_up(&client)) {
                wanted.push(after);
            }
        }
        wanted
    }

    fn ask_head(&self, stream: &mut GroupStream, address: &Address) {
        if let Some(catch_up) = self.registry.catch_up()
            && stream.ask_head()
        {
            let (shard, address) = (self.registry.shard(), address.clone());
            let known = Some(stream.known());
            catch_up.ask(StreamQuestion::Head { shard, address, known });
        }
    }

    fn forget_followers(&self, stream: &GroupStream) {
        let placed = stream.followers().filter(|(_, follower)| !follower.is_unplaced());
        for client in placed.filter_map(|(key, _)| self.registry.get(key)) {
            client.set_behind(false);
        }
    }

    /// The addresses in whose streams a client is behind.
    fn followed_by(&self, key: ClientKey, streams: &GroupStreams) -> Vec<Address> {
        let Some(client) = self.registry.get(key) else { return Vec::new() };
        let is_follower = |address: &Address| streams.get(address).is_some_and(|stream| stream.follower(key).is_some());
        client.addresses().into_iter().filter(is_follower).collect()
    }
}
