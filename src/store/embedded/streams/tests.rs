//! The streams against a plain map, with a log that is a list.

use std::collections::BTreeMap;

use proptest::{collection::vec, prelude::*};

use super::*;
use crate::{
    log::{Damage, Entry},
    push::{Content, Push, Resume, Target},
    record,
    store::{
        Attached, DeviceKey, Reader,
        embedded::entry::{
            CURSORS, DELETED, DeletedForm, FORGOTTEN, MOVED, PUSH, PlaceForm, RENEWED, STREAM, push_head,
            write_forgotten,
        },
    },
};

const CARDS: [&str; 4] = ["a", "b", "c", "d"];
const DEVICES: [DeviceKey<'static>; 3] = [DeviceKey::Declared("x"), DeviceKey::Declared("y"), DeviceKey::App("x")];
/// Entries of a segment.
const SEGMENT: u32 = 5;
const MOST: usize = 4;

struct ListedEntry {
    number: u64,
    place: Place,
    kind: u8,
    body: Vec<u8>,
}

/// A log without a disk.
struct ListedLog {
    entries: Vec<ListedEntry>,
    next: Place,
    number: u64,
}

impl ListedLog {
    fn new() -> Self {
        Self { entries: Vec::new(), next: Place { segment: 1, offset: 0 }, number: 1 }
    }

    fn put(&mut self, kind: u8, body: Vec<u8>) -> Place {
        if self.next.offset >= SEGMENT {
            self.next = Place { segment: self.next.segment + 1, offset: 0 };
        }
        let place = self.next;
        self.next.offset += 1;
        self.entries.push(ListedEntry { number: self.number, place, kind, body });
        self.number += u64::from(kind < 128);
        place
    }

    fn release(&mut self, before: u32) {
        self.entries.retain(|entry| entry.place.segment >= before);
    }

    fn replay(&self, now: u32, damages: &[Damage]) -> RestoredStreams {
        let mut replay = StreamReplay::new(limits());
        let is_whole = |entry: &&ListedEntry| !damages.iter().any(|damage| damage.numbers.contains(&entry.number));
        for ListedEntry { number, place, kind, body } in self.entries.iter().filter(is_whole) {
            replay.entry(&Entry { number: *number, place: *place, kind: *kind, body }, now);
        }
        replay.end(damages, Some([1; 16]), now)
    }
}

fn limits() -> StoreLimits {
    let mut limits = StoreLimits::usual();
    limits.stream.max_entries = MOST;
    limits.max_devices = 2;
    limits
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct ModelEntry {
    seq: u64,
    id: PushId,
    until: u32,
    key: Option<u8>,
}

#[derive(Clone, Debug, Default)]
struct ModelStream {
    entries: Vec<ModelEntry>,
    /// A reopen may find these again, since only the process knew that they had made room.
    pushed_out: Vec<ModelEntry>,
    head: u64,
    /// The largest number that was given.
    given: u64,
    devices: Vec<(DeviceKey<'static>, u64)>,
    saved: Vec<(DeviceKey<'static>, u64)>,
    epoch: Option<Epoch>,
}

#[derive(Clone, Debug)]
enum Step {
    Append { cards: Vec<usize>, key: Option<u8>, ttl: u32, kept: bool },
    Attach { card: usize, device: usize },
    Ack { card: usize, device: usize, seq: u64 },
    Register { card: usize, device: usize, seq: u64 },
    Resume { card: usize, seq: u64, right: bool },
    DeleteEntry { card: usize, seq: u64 },
    DeleteStream { card: usize },
    ForgetDevice { card: usize, device: usize },
    Pass { seconds: u32 },
    Save,
    Clean,
    Reopen { orderly: bool },
}

fn step() -> impl Strategy<Value = Step> {
    let card = || 0..CARDS.len();
    let device = || 0..DEVICES.len();
    prop_oneof![
        8 => (
            proptest::sample::subsequence((0..CARDS.len()).collect::<Vec<_>>(), 1..=CARDS.len()),
            proptest::option::of(0..3_u8),
            1..20_u32,
            proptest::bool::weighted(0.85),
        )
            .prop_map(|(cards, key, ttl, kept)| Step::Append { cards, key, ttl, kept }),
        2 => (card(), device()).prop_map(|(card, device)| Step::Attach { card, device }),
        3 => (card(), device(), 0..12_u64).prop_map(|(card, device, seq)| Step::Ack { card, device, seq }),
        1 => (card(), device(), 0..12_u64).prop_map(|(card, device, seq)| Step::Register { card, device, seq }),
        2 => (card(), 0..12_u64, any::<bool>()).prop_map(|(card, seq, right)| Step::Resume { card, seq, right }),
        2 => (card(), 1..12_u64).prop_map(|(card, seq)| Step::DeleteEntry { card, seq }),
        1 => card().prop_map(|card| Step::DeleteStream { card }),
        1 => (card(), device()).prop_map(|(card, device)| Step::ForgetDevice { card, device }),
        2 => (1..4_u32).prop_map(|seconds| Step::Pass { seconds }),
        2 => Just(Step::Save),
        4 => Just(Step::Clean),
        2 => any::<bool>().prop_map(|orderly| Step::Reopen { orderly }),
    ]
}

struct World {
    streams: StreamIndex,
    log: ListedLog,
    model: BTreeMap<usize, ModelStream>,
    now: u32,
    /// Epochs that streams had which are gone.
    old: Vec<Epoch>,
}

fn address(card: usize) -> AddressRef<'static> {
    AddressRef::card(CARDS[card])
}

impl World {
    fn new() -> Self {
        let (streams, log) = (StreamIndex::new(limits()), ListedLog::new());
        Self { streams, log, model: BTreeMap::new(), now: 1_000_000, old: Vec::new() }
    }

    fn step(&mut self, step: Step) {
        let now = self.now;
        match step {
            Step::Append { cards, key, ttl, kept } => self.append(&cards, key, now + ttl, kept),
            Step::Attach { card, device } => self.attach(card, DEVICES[device]),
            Step::Ack { card, device, seq } => {
                let key = DEVICES[device];
                let epoch = self.streams.find(address(card)).map_or(Epoch::from_u32(0), |stream| stream.epoch);
                self.streams.acknowledge(CARDS[card], device_form(key), epoch, seq, now);
                if let Some(stream) = self.model.get_mut(&card) {
                    let seq = seq.min(stream.head);
                    let has_room = stream.devices.len() < 2;
                    match stream.devices.iter_mut().find(|(known, _)| *known == key) {
                        Some((_, known)) => *known = seq.max(*known),
                        None if has_room => stream.devices.push((key, seq)),
                        None => {}
                    }
                }
            }
            Step::Register { card, device, seq } => {
                let key = DEVICES[device];
                self.streams.register(CARDS[card], device_form(key), seq, now);
                if let Some(stream) = self.model.get_mut(&card)
                    && !stream.devices.iter().any(|(known, _)| *known == key)
                    && stream.devices.len() < 2
                {
                    stream.devices.push((key, seq.min(stream.head)));
                }
            }
            Step::Resume { card, seq, right } => self.resume(card, seq, right),
            Step::DeleteEntry { card, seq } => {
                let epoch = self.streams.epoch_with(address(card), seq);
                let there = self.model.get(&card).is_some_and(|stream| stream.entries.iter().any(|e| e.seq == seq));
                assert_eq!(epoch.is_some(), there);
                if let Some(epoch) = epoch {
                    self.log.put(DELETED, DeletedForm { address: address(card), epoch, seq }.bytes());
                    self.streams.delete_entry(address(card), epoch, seq);
                    self.model.get_mut(&card).unwrap().entries.retain(|entry| entry.seq != seq);
                }
            }
            Step::DeleteStream { card } => {
                if let Some(head) = self.streams.head(address(card)) {
                    let form = DeletedForm { address: address(card), epoch: head.epoch, seq: 0 };
                    self.log.put(DELETED, form.bytes());
                    self.streams.delete_stream(address(card), head.epoch);
                    self.model.remove(&card);
                    self.old.push(head.epoch);
                }
            }
            Step::ForgetDevice { card, device } => {
                let key = DEVICES[device];
                let form = device_form(key);
                if self.streams.has_device(CARDS[card], form) {
                    self.log.put(FORGOTTEN, write_forgotten(CARDS[card], form));
                    self.streams.forget_device(CARDS[card], form);
                    let stream = self.model.get_mut(&card).unwrap();
                    stream.devices.retain(|(known, _)| *known != key);
                    stream.saved.retain(|(known, _)| *known != key);
                }
            }
            Step::Pass { seconds } => {
                self.now += seconds;
                self.streams.walk(self.streams.slots(), self.now);
                for stream in self.model.values_mut() {
                    stream.entries.retain(|entry| entry.until > self.now);
                }
            }
            Step::Save => self.save(),
            Step::Clean => self.clean(),
            Step::Reopen { orderly } => {
                if orderly {
                    self.save();
                }
                self.reopen();
            }
        }
    }

    fn append(&mut self, cards: &[usize], key: Option<u8>, until: u32, kept: bool) {
        let push = Push {
            target: Target::cards(cards.iter().map(|card| CARDS[*card].into()).collect()),
            collapse_key: key.map(|key| key.to_string().into()),
            content: Content::from("x"),
            ..Push::to("", "")
        };
        let record = record::encode(&push);
        let mut assignment = Assignment::default();
        let addresses = cards.iter().map(|card| address(*card));
        let assigned = self.streams.assign(&mut assignment, addresses, push.id, until, self.now).unwrap();
        for (card, place) in cards.iter().zip(&assigned) {
            let stream = self.model.entry(*card).or_default();
            assert!(place.entry.seq > stream.given, "a number was given twice");
            assert!(stream.epoch.is_none_or(|epoch| epoch == place.entry.epoch) || stream.head == 0);
            assert!(!self.old.contains(&place.entry.epoch), "an epoch came again");
            assert_eq!(place.entry.previous, stream.head);
            stream.given = place.entry.seq;
            stream.epoch = Some(place.entry.epoch);
        }
        if !kept {
            // the log has not taken it
            return;
        }
        let forms = assigned.iter().enumerate().map(|(card, place)| PlaceForm {
            card: card as u32,
            epoch: place.entry.epoch,
            seq: place.entry.seq,
            previous: place.entry.previous,
            until: place.until,
        });
        let head = push_head(None, forms);
        let body = [&head[..], &record[..]].concat();
        let bytes = share(body.len(), assigned.len());
        let place = self.log.put(PUSH, body);
        let collapse = self.streams.collapse_hash(push.collapse_key.as_deref().unwrap_or_default().as_bytes());
        for (card, assigned) in cards.iter().zip(&assigned) {
            let seq = assigned.entry.seq;
            let stored = StoredAt { seq, id: push.id, place, until, bytes, collapse };
            self.streams.store(assigned, &stored, self.now);
            let stream = self.model.get_mut(card).unwrap();
            stream.head = seq;
            stream.entries.retain(|entry| key.is_none() || entry.key != key);
            stream.entries.push(ModelEntry { seq, id: push.id, until, key });
            if stream.entries.len() > MOST {
                let oldest = stream.entries.remove(0);
                stream.pushed_out.push(oldest);
            }
        }
    }

    fn attach(&mut self, card: usize, key: DeviceKey<'static>) {
        let attached = self.streams.attach(address(card), Reader::Device(key, None), self.now);
        let Some(stream) = self.model.get_mut(&card).filter(|stream| stream.head > 0) else {
            assert_eq!(attached, Ok(Attached::NoStream));
            return;
        };
        let oldest = stream.entries.first().map_or(stream.head, |entry| entry.seq - 1);
        let known = stream.devices.iter().find(|(known, _)| *known == key).map(|(_, seq)| *seq);
        let start = match (known, key) {
            (Some(seq), _) => seq,
            (None, _) if stream.devices.len() >= 2 => {
                assert!(attached.is_err());
                return;
            }
            (None, DeviceKey::Declared(_)) => oldest,
            (None, DeviceKey::App(_)) if stream.devices.is_empty() => oldest,
            (None, DeviceKey::App(_)) => stream.head,
        };
        if known.is_none() {
            stream.devices.push((key, start));
        }
        let waiting = stream.entries.iter().filter(|entry| entry.seq > start).count() as u64;
        let expected = if waiting == 0 { stream.head } else { start };
        let Ok(Attached::At { head, from, waiting: told, reset }) = attached else { panic!("{attached:?}") };
        assert_eq!((head.seq, from, told, reset), (stream.head, expected, waiting, false));
    }

    fn resume(&mut self, card: usize, seq: u64, right: bool) {
        let Some(stream) = self.model.get(&card).filter(|stream| stream.head > 0) else { return };
        let epoch = stream.epoch.unwrap();
        let entry = stream.entries.iter().find(|entry| entry.seq == seq);
        let id = entry.map(|entry| if right { entry.id } else { PushId::from_parts(1, 1) });
        let resume = Resume { epoch, seq, id };
        // as a room's, which leaves no cursor
        let attached = self.streams.attach(address(card), Reader::Room(Some(resume)), self.now).unwrap();
        let Attached::At { from, reset, .. } = attached else { panic!("{attached:?}") };
        let holds = seq <= stream.head && (entry.is_none() || right);
        assert_eq!(reset, !holds);
        assert!(!holds || from == seq || from == stream.head);
    }

    fn save(&mut self) {
        while let Some(cursors) = self.streams.take_unsaved(1 << 20) {
            let place = self.log.put(CURSORS, cursors.body.clone());
            self.streams.saved(cursors, Some(place.segment));
        }
        for stream in self.model.values_mut() {
            stream.saved = stream.devices.clone();
        }
    }

    fn clean(&mut self) {
        let oldest = self.log.entries.first().map_or(0, |entry| entry.place.segment);
        if oldest == self.log.next.segment {
            return;
        }
        let mut streams = BTreeMap::new();
        let mut live = Vec::new();
        for ListedEntry { number, place, kind, body } in &self.log.entries {
            if place.segment == oldest {
                let entry = Entry { number: *number, place: *place, kind: *kind, body };
                live.extend(self.streams.leave(&entry, &mut streams));
            }
        }
        for (stream, body) in streams {
            let place = self.log.put(STREAM, body);
            self.streams.told(stream, place.segment);
        }
        for push in live {
            let place = self.log.put(MOVED, [&push.head[..], &push.record[..]].concat());
            self.streams.moved(&push, place);
        }
        self.save();
        let needed = self.streams.oldest_segment().unwrap_or(self.log.next.segment);
        assert!(needed > oldest, "something is left in segment {oldest}");
        self.log.release(needed);
    }

    fn reopen(&mut self) {
        let restored = self.log.replay(self.now, &[]);
        assert_eq!((restored.lost, restored.unknown, restored.broken.len()), (0, 0, 0));
        assert!(restored.renewed.is_none());
        self.streams = restored.streams;
        self.model.retain(|_, stream| stream.head > 0);
        for (card, stream) in &mut self.model {
            stream.devices = stream.saved.clone();
            let found = self.streams.find(address(*card)).unwrap();
            let seqs: Vec<u64> = found.after(0).map(|(seq, _)| seq).collect();
            assert!(stream.entries.iter().all(|entry| seqs.contains(&entry.seq)), "lost by a reopen: {seqs:?}");
            let mut all = std::mem::take(&mut stream.pushed_out);
            all.append(&mut stream.entries);
            all.sort_by_key(|entry| entry.seq);
            (stream.entries, stream.pushed_out) = all.into_iter().partition(|entry| seqs.contains(&entry.seq));
            // what only the process knew may be given again: nobody was told of it
            stream.given = self.streams.find(address(*card)).unwrap().next_seq() - 1;
        }
    }

    fn check(&self) {
        let mut entries = 0;
        for (card, name) in CARDS.iter().enumerate() {
            let Some(stream) = self.model.get(&card).filter(|stream| stream.head > 0) else {
                assert_eq!(self.streams.head(address(card)), None);
                continue;
            };
            let head = self.streams.head(address(card)).unwrap();
            assert_eq!((head.seq, Some(head.epoch)), (stream.head, stream.epoch));
            let plan = self.streams.page(address(card), head.epoch, 0, 100, self.now).unwrap();
            let seqs: Vec<_> = plan.places.iter().map(|(seq, _)| *seq).collect();
            let expected: Vec<_> = stream.entries.iter().map(|entry| entry.seq).collect();
            assert_eq!(seqs, expected, "of {name}");
            for (seq, place) in plan.places {
                let found = self.log.entries.iter().find(|entry| entry.place == place).unwrap();
                let form = super::super::entry::PushForm::read(&found.body).unwrap();
                let expected = stream.entries.iter().find(|entry| entry.seq == seq).unwrap().id;
                assert_eq!(record::peek(form.record).unwrap().id, expected);
            }
            let info = self.streams.describe(address(card), self.now).unwrap();
            let mut devices: Vec<_> = info.devices.iter().map(|d| (d.declared, d.name.to_string(), d.seq)).collect();
            let form = |(key, seq): &(DeviceKey<'static>, u64)| {
                let form = device_form(*key);
                (form.declared, form.name.to_owned(), *seq)
            };
            let mut known: Vec<_> = stream.devices.iter().map(form).collect();
            devices.sort();
            known.sort();
            assert_eq!(devices, known, "of {}", CARDS[card]);
            entries += expected_len(stream);
        }
        assert_eq!(self.streams.totals().entries, entries);
        assert_eq!(self.streams.drops.lost, 0);
    }
}

fn expected_len(stream: &ModelStream) -> u64 {
    stream.entries.len() as u64
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn streams_are_what_a_plain_map_says(steps in vec(step(), 1..60)) {
        let mut world = World::new();
        for step in steps {
            world.step(step);
            world.check();
        }
    }

    #[test]
    fn a_lost_entry_costs_itself_and_no_number_is_given_twice_in_one_epoch(
        steps in vec(step(), 10..60),
        lost in any::<prop::sample::Index>(),
    ) {
        let mut world = World::new();
        for step in steps {
            world.step(step);
        }
        world.save();
        let numbered: Vec<u64> = world
            .log
            .entries
            .iter()
            .filter(|entry| [PUSH, MOVED].contains(&entry.kind))
            .map(|entry| entry.number)
            .collect();
        prop_assume!(!numbered.is_empty());
        let number = *lost.get(&numbered);
        let damage = Damage {
            file: "log.0001".into(),
            segment: Some(1),
            offset: 0,
            bytes: 1,
            numbers: number..number + 1,
            kind: None,
            synced: true,
            known: false,
        };
        let mut restored = world.log.replay(world.now, std::slice::from_ref(&damage));
        prop_assert_eq!(restored.lost, 1);
        for (card, stream) in &world.model {
            let Some(head) = restored.streams.head(address(*card)) else { continue };
            let plan = restored.streams.page(address(*card), head.epoch, 0, 100, world.now).unwrap();
            let seqs: Vec<_> = plan.places.iter().map(|(seq, _)| *seq).collect();
            let missing = stream.entries.iter().filter(|entry| !seqs.contains(&entry.seq)).count();
            prop_assert!(missing <= 1);
            let next = restored.streams.find(address(*card)).unwrap().next_seq();
            prop_assert!(Some(head.epoch) != stream.epoch || next > stream.head);
        }
        // as the store's thread tells it, and so it is the next time
        let known = Damage { known: true, ..damage };
        if let Some(renewed) = restored.renewed {
            world.log.put(RENEWED, renewed.bytes().to_vec());
        }
        for (stream, body) in restored.broken {
            let place = world.log.put(STREAM, body);
            restored.streams.told(stream, place.segment);
        }
        let again = world.log.replay(world.now, &[known]);
        prop_assert!(again.renewed.is_none() && again.broken.is_empty() && again.lost == 0);
        for card in 0..CARDS.len() {
            prop_assert_eq!(again.streams.head(address(card)), restored.streams.head(address(card)));
            let next = |streams: &StreamIndex| streams.find(address(card)).map(IndexedStream::next_seq);
            prop_assert_eq!(next(&again.streams), next(&restored.streams));
        }
    }
}

#[test]
fn an_entry_takes_32_bytes_and_a_stream_112_and_its_name() {
    assert_eq!(size_of::<stream::IndexEntry>(), 32);
    assert!(size_of::<IndexedStream>() <= 112, "{}", size_of::<IndexedStream>());
}
