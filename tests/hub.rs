//! A shard against a plain list, under random joins, subscriptions, leaves, pushes and sockets that take as many bytes as
//! they please.

#![allow(clippy::unwrap_used, missing_docs)]

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet, VecDeque},
    io,
    rc::Rc,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use oxipush::internals::{
    config,
    hub::{
        Client, DisconnectPart, DisconnectRun, Fanout, Hub, Outcome, Part, Recipients, Shard, Sink, StreamAnswer,
        StreamQuestion, Work, WriteBudget,
    },
    push::{
        Address, ClientSelector, Disconnect, Epoch, Exclude, PageEntry, Push, PushId, Selection, StoredPush,
        StreamEntry, StreamPage, StreamPosition, Target,
    },
    telemetry::Metrics,
    wire::dialect::Dialect,
};
use proptest::prelude::*;
use tokio::sync::mpsc;

/// Takes as many bytes as it has room for.
#[derive(Default)]
struct Pipe {
    room: Cell<usize>,
    bytes: RefCell<Vec<u8>>,
}

impl Sink for Pipe {
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(self.room.get());
        if taken == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.room.set(self.room.get() - taken);
        self.bytes.borrow_mut().extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }
}

#[derive(Clone, Debug)]
enum Step {
    Open(bool),
    Close(usize),
    Join(usize, u8, u8),
    Leave(usize, u8),
    LeaveCards(usize),
    Subscribe(usize, u8),
    Unsubscribe(usize, u8),
    LeaveAll(usize),
    /// The last: written as it is offered.
    Push(Whom, usize, bool),
    Write(usize),
    Room(usize, usize),
}

/// Whom a push is for: of cards, room, app and everyone the first one selects, and the others filter.
#[derive(Clone, Debug)]
struct Whom {
    cards: Vec<u8>,
    room: Option<u8>,
    app: Option<u8>,
    /// Its clients get nothing.
    but_card: Option<u8>,
    /// Nor does this one.
    but_client: Option<usize>,
    /// Each of its cards is a part of its own, as from different lanes.
    is_split: bool,
}

fn step() -> impl Strategy<Value = Step> {
    let who = 0..16_usize;
    prop_oneof![
        2 => any::<bool>().prop_map(Step::Open),
        1 => who.clone().prop_map(Step::Close),
        4 => (who.clone(), 0..4_u8, 0..3_u8).prop_map(|(who, card, app)| Step::Join(who, card, app)),
        1 => (who.clone(), 0..4_u8).prop_map(|(who, card)| Step::Leave(who, card)),
        1 => who.clone().prop_map(Step::LeaveCards),
        4 => (who.clone(), 0..4_u8).prop_map(|(who, room)| Step::Subscribe(who, room)),
        1 => (who.clone(), 0..4_u8).prop_map(|(who, room)| Step::Unsubscribe(who, room)),
        1 => who.clone().prop_map(Step::LeaveAll),
        8 => (whom(), 1..300_usize, any::<bool>()).prop_map(|(whom, size, at_once)| Step::Push(whom, size, at_once)),
        3 => (1..8_usize).prop_map(Step::Write),
        4 => (who, 0..600_usize).prop_map(|(who, room)| Step::Room(who, room)),
    ]
}

fn whom() -> impl Strategy<Value = Whom> {
    let cards = prop_oneof![1 => Just(Vec::new()), 2 => proptest::collection::btree_set(0..5_u8, 1..4)
        .prop_map(|cards| cards.into_iter().collect())];
    let room = proptest::option::weighted(0.4, 0..4_u8);
    let app = proptest::option::weighted(0.4, 1..3_u8);
    let but_card = proptest::option::weighted(0.2, 0..4_u8);
    let but_client = proptest::option::weighted(0.2, 0..16_usize);
    (cards, room, app, but_card, but_client, any::<bool>()).prop_map(
        |(cards, room, app, but_card, but_client, is_split)| Whom { cards, room, app, but_card, but_client, is_split },
    )
}

/// What the model knows of a client.
struct Known {
    client: Rc<Client<Pipe>>,
    /// As which app it joined each of its cards.
    cards: BTreeMap<u8, u8>,
    rooms: BTreeSet<u8>,
    expected: Vec<u8>,
}

impl Known {
    fn gets(&self, whom: &Whom) -> bool {
        let is_of_app = |own: u8| whom.app.is_none_or(|app| own == app);
        // what is for an app or everyone is for who joined a card
        let is_found = match (&whom.cards[..], whom.room) {
            ([], None) => self.cards.values().any(|own| is_of_app(*own)),
            ([], Some(_)) => whom.app.is_none() || self.cards.values().any(|own| is_of_app(*own)),
            (cards, _) => cards.iter().any(|card| self.cards.get(card).is_some_and(|own| is_of_app(*own))),
        };
        let is_excluded = whom.but_card.is_some_and(|card| self.cards.contains_key(&card));
        is_found && !is_excluded && whom.room.is_none_or(|room| self.rooms.contains(&room))
    }
}

fn hub(max_bytes: usize) -> (Hub, Arc<Metrics>) {
    hub_of(config::OutboxConfig { max_bytes, policy: config::Policy::Disconnect, write_delay: Duration::ZERO })
}

fn hub_of(outbox: config::OutboxConfig) -> (Hub, Arc<Metrics>) {
    let metrics = Arc::new(Metrics::new());
    let limits = config::HubConfig { inbox: 16, writes_per_turn: 256 };
    (Hub::new(&limits, &outbox, 1, &metrics), metrics)
}

fn card(card: u8) -> Address {
    Address::Card(format!("card-{card}").into())
}

fn part(
    cards: &[u8],
    app: Option<u8>,
    size: usize,
    completions: &mpsc::UnboundedSender<oxipush::internals::hub::Completion>,
) -> Part {
    let whom = Whom { cards: cards.into(), room: None, app, but_card: None, but_client: None, is_split: false };
    part_for(&whom, None, size, completions)
}

/// As dispatch makes it.
fn part_for(
    whom: &Whom,
    but_client: Option<[u8; 16]>,
    size: usize,
    completions: &mpsc::UnboundedSender<oxipush::internals::hub::Completion>,
) -> Part {
    let target = Target {
        cards: whom.cards.iter().map(|number| card(*number).name().into()).collect(),
        room: whom.room.map(|room| format!("room-{room}").into()),
        app: whom.app.map(|app| app_name(app).into()),
        everyone: true,
        exclude: Some(Box::new(Exclude {
            cards: whom.but_card.iter().map(|number| card(*number).name().into()).collect(),
            client: but_client,
        })),
    };
    let recipients = match target.selection() {
        Selection::Cards([card]) => Recipients::Address(Address::Card(card.clone())),
        Selection::Cards(cards) => Recipients::Addresses(cards.iter().cloned().map(Address::Card).collect()),
        Selection::Room(room) => Recipients::Address(Address::Room(room.clone())),
        Selection::App(_) | Selection::Everyone => Recipients::Everyone,
        Selection::Nobody => unreachable!(),
    };
    let content = format!("{size}").repeat(size).into();
    let push = Push { id: PushId::generate(), from: "".into(), target, content, collapse_key: None, deadline: None };
    Part::new(Fanout::new(push, 7, completions.clone()), recipients)
}

fn run(steps: Vec<Step>) {
    let (hub, metrics) = hub(1 << 30);
    let (shard, _inbox) = hub.claim_shard().unwrap().open::<Pipe>();
    let (completions, mut told) = mpsc::unbounded_channel();
    let mut known: VecDeque<Known> = VecDeque::new();
    for step in steps {
        match step {
            Step::Open(v1) => {
                let dialect = if v1 { Dialect::OxipushV1 } else { Dialect::Gopusher };
                let client = shard.open(Pipe::default(), dialect);
                known.push_back(Known { client, cards: BTreeMap::new(), rooms: BTreeSet::new(), expected: Vec::new() });
            }
            Step::Close(who) if who < known.len() => {
                let gone = known.remove(who).unwrap();
                check_prefix(&gone);
                shard.close(&gone.client);
            }
            Step::Join(who, card, app) if who < known.len() => {
                shard.join(&known[who].client, &format!("card-{card}"), &app_name(app));
                known[who].cards.insert(card, app);
            }
            Step::Leave(who, card) if who < known.len() => {
                let was_there = known[who].cards.remove(&card).is_some();
                assert_eq!(shard.leave_card(&known[who].client, &format!("card-{card}")), was_there);
            }
            Step::LeaveCards(who) if who < known.len() => {
                let was_there = !std::mem::take(&mut known[who].cards).is_empty();
                assert_eq!(shard.leave_cards(&known[who].client), was_there);
            }
            Step::Subscribe(who, room) if who < known.len() => {
                let is_new = known[who].rooms.insert(room);
                assert_eq!(shard.subscribe(&known[who].client, &format!("room-{room}")), is_new);
            }
            Step::Unsubscribe(who, room) if who < known.len() => {
                let was_there = known[who].rooms.remove(&room);
                assert_eq!(shard.unsubscribe(&known[who].client, &format!("room-{room}")), was_there);
            }
            Step::LeaveAll(who) if who < known.len() => {
                shard.leave_all(&known[who].client);
                (known[who].cards, known[who].rooms) = (BTreeMap::new(), BTreeSet::new());
            }
            Step::Push(whom, size, at_once) => {
                let excluded = whom.but_client.and_then(|who| Some(shard.id(&known.get(who)?.client).to_bytes()));
                let part = part_for(&whom, excluded, size, &completions);
                let fanout = Arc::clone(part.fanout());
                let mut outcome = Outcome::Unmatched;
                let getting = known.iter_mut().filter(|one| one.gets(&whom));
                for one in getting.filter(|one| excluded != Some(shard.id(&one.client).to_bytes())) {
                    outcome = Outcome::Offered;
                    one.expected.extend_from_slice(fanout.frame(one.client.dialect()).bytes());
                }
                let mut budget = if at_once { WriteBudget::unlimited() } else { WriteBudget::none() };
                if whom.is_split && whom.cards.len() > 1 {
                    for number in &whom.cards {
                        let one = Part::new(Arc::clone(&fanout), Recipients::Address(card(*number)));
                        shard.deliver(one.into(), &mut budget);
                    }
                    part.done();
                } else {
                    shard.deliver(part.into(), &mut budget);
                }
                assert!(told.try_recv().is_err(), "told while a part was held");
                drop(fanout);
                assert_eq!(told.try_recv().unwrap().outcome, outcome);
            }
            Step::Write(writes) => {
                (0..writes).for_each(|_| {
                    shard.write();
                });
            }
            Step::Room(who, room) if who < known.len() => {
                let pipe = &known[who].client.sink;
                pipe.room.set(pipe.room.get() + room);
                // as its task does when the socket is writable
                shard.flush(&known[who].client);
            }
            _ => {}
        }
        agree(&hub, &known);
    }
    // at last all sockets are read
    for one in &known {
        one.client.sink.room.set(usize::MAX / 2);
        shard.flush(&one.client);
        assert!(one.client.is_drained() && one.client.waiting() == 0);
        assert!(*one.client.sink.bytes.borrow() == one.expected, "a connection got something else");
    }
    while shard.write() {}
    for one in known {
        shard.close(&one.client);
    }
    assert_eq!((hub.census().connections, hub.census().groups), (0, 0));
    assert_eq!((metrics.connections.get(), metrics.groups.get()), (0, 0));
}

fn app_name(app: u8) -> String {
    if app == 0 { String::new() } else { format!("app-{app}") }
}

fn check_prefix(one: &Known) {
    assert!(one.expected.starts_with(&one.client.sink.bytes.borrow()), "a connection got something else");
}

/// Hub and model know the same.
fn agree(hub: &Hub, known: &VecDeque<Known>) {
    let mut groups: BTreeMap<u8, usize> = BTreeMap::new();
    for card in known.iter().flat_map(|one| one.cards.keys()) {
        *groups.entry(*card).or_default() += 1;
    }
    for number in 0..5 {
        let expected = groups.get(&number).copied().unwrap_or(0);
        assert_eq!(hub.connections(card(number).name()), expected);
        assert_eq!(hub.shards(&card(number)), u64::from(expected > 0));
        let room = Address::Room(format!("room-{number}").into());
        assert_eq!(hub.shards(&room), u64::from(known.iter().any(|one| one.rooms.contains(&number))));
    }
    assert_eq!((hub.census().connections, hub.census().groups), (known.len(), groups.len()));
    known.iter().for_each(check_prefix);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn a_shard_delivers_what_a_plain_list_would(steps in proptest::collection::vec(step(), 1..120)) {
        run(steps);
    }
}

#[test]
fn a_part_that_is_lost_makes_the_whole_push_come_again() {
    let (completions, mut told) = mpsc::unbounded_channel();
    let whole = part(&[1, 2], None, 3, &completions);
    let part = Part::new(Arc::clone(whole.fanout()), Recipients::Address(card(2)));
    whole.done();
    assert!(told.try_recv().is_err());
    drop(part);
    assert_eq!(told.try_recv().unwrap().outcome, Outcome::Lost);
}

#[test]
fn who_joins_another_card_between_two_parts_of_a_push_gets_it_once() {
    let (hub, _metrics) = hub(1 << 20);
    let (shard, _inbox): (Rc<Shard<Pipe>>, _) = hub.claim_shard().unwrap().open();
    let (completions, _told) = mpsc::unbounded_channel();
    let client = shard.open(Pipe::default(), Dialect::Gopusher);
    shard.join(&client, "card-1", "");
    let whole = part(&[1, 2], None, 9, &completions);
    let deliver = |number| {
        let part = Part::new(Arc::clone(whole.fanout()), Recipients::Address(card(number)));
        shard.deliver(part.into(), &mut WriteBudget::none());
    };
    deliver(1);
    let once = client.waiting();
    shard.join(&client, "card-2", "");
    deliver(2);
    assert!(once > 0);
    assert_eq!(client.waiting(), once);
    whole.done();
}

#[test]
fn a_push_for_whom_the_node_sent_away_waits_for_their_return() {
    let (hub, _metrics) = hub(1 << 20);
    let (shard, _inbox) = hub.claim_shard().unwrap().open::<Pipe>();
    let (completions, mut told) = mpsc::unbounded_channel();
    let gone = shard.open(Pipe::default(), Dialect::Gopusher);
    shard.join(&gone, "card-1", "app-1");
    shard.subscribe(&gone, "room-1");
    let stays = shard.open(Pipe::default(), Dialect::Gopusher);
    shard.join(&stays, "card-2", "app-2");
    shard.subscribe(&stays, "room-2");
    shard.send_away();
    shard.close(&gone);
    let whom = |cards: &[u8], room, app| Whom {
        cards: cards.into(),
        room,
        app,
        but_card: None,
        but_client: None,
        is_split: false,
    };
    for (whom, outcome) in [
        (whom(&[1], None, None), Outcome::SentAway),
        (whom(&[1, 2], None, None), Outcome::SentAway),
        (whom(&[2], None, None), Outcome::Offered),
        (whom(&[], Some(1), None), Outcome::SentAway),
        (whom(&[], Some(2), None), Outcome::Offered),
        (whom(&[], None, Some(1)), Outcome::SentAway),
        (whom(&[], None, None), Outcome::SentAway),
    ] {
        shard.deliver(part_for(&whom, None, 1, &completions).into(), &mut WriteBudget::none());
        assert_eq!(told.try_recv().unwrap().outcome, outcome, "{whom:?}");
    }
    // a shard that held the room goes on to want its pushes
    assert_eq!(hub.shards(&Address::Room("room-1".into())), 1);
}

#[test]
fn an_outbox_that_is_full_ends_its_connection_and_forgets_what_waited() {
    let (hub, metrics) = hub(1000);
    let (shard, _inbox): (Rc<Shard<Pipe>>, _) = hub.claim_shard().unwrap().open();
    let (completions, _told) = mpsc::unbounded_channel();
    let client = shard.open(Pipe::default(), Dialect::Gopusher);
    shard.join(&client, "card-1", "");
    client.sink.room.set(10);
    let mut most = 0;
    for _ in 0..100 {
        shard.deliver(part(&[1], None, 50, &completions).into(), &mut WriteBudget::none());
        most = most.max(client.waiting());
        shard.write();
    }
    assert!(client.is_ending() && most <= 1000, "{most}");
    assert_eq!(client.label(), "3001");
    // a rest of the frame that was begun, then the close frame
    client.sink.room.set(100_000);
    shard.flush(&client);
    let bytes = client.sink.bytes.borrow();
    let first = usize::from(bytes[1]) + 2;
    assert_eq!((bytes[0], bytes[first] & 0xF), (0x81, 8), "{bytes:?}");
    shard.publish_counts();
    assert!(metrics.text().contains(r#"oxipush_offers_total{outcome="slow"} 1"#));
}

#[test]
fn a_burst_that_nobody_had_time_to_write_evicts_nobody() {
    let (hub, _metrics) = hub(1000);
    let (shard, _inbox): (Rc<Shard<Pipe>>, _) = hub.claim_shard().unwrap().open();
    let (completions, _told) = mpsc::unbounded_channel();
    let client = shard.open(Pipe::default(), Dialect::Gopusher);
    shard.join(&client, "card-1", "");
    client.sink.room.set(usize::MAX / 2);
    for _ in 0..100 {
        shard.deliver(part(&[1], None, 50, &completions).into(), &mut WriteBudget::none());
    }
    assert!(!client.is_ending());
}

/// Counts writes; the first of all sends what `next` holds to the shard, as another thread might.
struct Meanwhile {
    next: Rc<RefCell<Option<(Hub, Part)>>>,
    writes: Rc<Cell<usize>>,
}

impl Sink for Meanwhile {
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.writes.set(self.writes.get() + 1);
        if let Some((hub, part)) = self.next.borrow_mut().take() {
            assert!(hub.try_send(0, vec![part.into()]).is_ok());
        }
        Ok(bytes.len())
    }
}

#[tokio::test]
async fn a_push_that_arrives_while_its_shard_writes_leaves_with_what_still_waits() {
    let (hub, _metrics) = hub(1 << 20);
    let (shard, inbox) = hub.claim_shard().unwrap().open::<Meanwhile>();
    let (completions, mut told) = mpsc::unbounded_channel();
    let next = Rc::new(RefCell::new(Some((hub.clone(), part(&[1], None, 3, &completions)))));
    let writes = Rc::new(Cell::new(0));
    for _ in 0..200 {
        let sink = Meanwhile { next: Rc::clone(&next), writes: Rc::clone(&writes) };
        shard.join(&shard.open(sink, Dialect::Gopusher), "card-1", "");
    }
    assert!(hub.try_send(0, vec![part(&[1], None, 3, &completions).into()]).is_ok());
    let both = async {
        for _ in 0..2 {
            assert_eq!(told.recv().await.unwrap().outcome, Outcome::Offered);
        }
        while writes.get() < 200 || !shard.keys().iter().all(|key| shard.client(*key).unwrap().is_drained()) {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        () = shard.run(inbox, Duration::from_secs(3600), |_| {}) => panic!("the shard ended"),
        () = both => {}
    }
    // the first was written to before the second push was there; all others got both in one
    assert_eq!(writes.get(), 201);
}

/// Takes everything, and remembers each write.
#[derive(Default)]
struct Notes(RefCell<Vec<Vec<u8>>>);

impl Sink for Notes {
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().push(bytes.to_vec());
        Ok(bytes.len())
    }
}

#[tokio::test]
async fn a_burst_leaves_in_one_write_for_each_connection_in_order_and_only_to_whom_it_is_for() {
    for policy in [config::Policy::Disconnect, config::Policy::DropOldest, config::Policy::Conflate] {
        let (hub, metrics) = hub_of(config::OutboxConfig { max_bytes: 1 << 20, policy, write_delay: Duration::ZERO });
        let (shard, inbox) = hub.claim_shard().unwrap().open::<Notes>();
        let (completions, mut told) = mpsc::unbounded_channel();
        let join = |card: &str, app: &str, dialect| {
            let client = shard.open(Notes::default(), dialect);
            shard.join(&client, card, app);
            client
        };
        let both = join("card-1", "app-1", Dialect::Gopusher);
        let v1 = join("card-1", "app-1", Dialect::OxipushV1);
        let other = join("card-1", "app-2", Dialect::Gopusher);
        let neighbour = join("card-2", "app-1", Dialect::Gopusher);
        // to all of card 1, to one app of it, to both cards: three runs
        let to: [(&[u8], Option<u8>); 9] = [
            (&[1], None),
            (&[1], None),
            (&[1], None),
            (&[1], Some(1)),
            (&[1], Some(1)),
            (&[1, 2], None),
            (&[1, 2], None),
            (&[2], None),
            (&[1], None),
        ];
        let burst: Vec<_> =
            to.iter().enumerate().map(|(n, (cards, app))| part(cards, *app, n + 1, &completions)).collect();
        let frames = |client: &Client<Notes>, mine: &[usize]| -> Vec<u8> {
            mine.iter().flat_map(|n| burst[*n].fanout().frame(client.dialect()).bytes().to_vec()).collect()
        };
        let expected = [
            (&both, frames(&both, &[0, 1, 2, 3, 4, 5, 6, 8])),
            (&v1, frames(&v1, &[0, 1, 2, 3, 4, 5, 6, 8])),
            (&other, frames(&other, &[0, 1, 2, 5, 6, 8])),
            (&neighbour, frames(&neighbour, &[5, 6, 7])),
        ];
        assert!(hub.try_send(0, burst.into_iter().map(Work::Part).collect()).is_ok());
        let all = async {
            for _ in 0..to.len() {
                assert_eq!(told.recv().await.unwrap().outcome, Outcome::Offered);
            }
            while !shard.keys().iter().all(|key| shard.client(*key).unwrap().is_drained()) {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            () = shard.run(inbox, Duration::from_secs(3600), |_| {}) => panic!("the shard ended"),
            () = all => {}
        }
        for (client, expected) in expected {
            assert_eq!(*client.sink.0.borrow(), [expected]);
        }
        shard.publish_counts();
        assert_eq!(metrics.deliveries.get(), 8 + 8 + 6 + 3);
        assert!(metrics.text().contains(r#"oxipush_offers_total{outcome="queued"} 25"#));
    }
}

#[tokio::test]
async fn a_write_delay_delays_writes_and_not_the_jobs() {
    let delay = Duration::from_secs(2);
    let (hub, _metrics) =
        hub_of(config::OutboxConfig { max_bytes: 1 << 20, policy: config::Policy::Disconnect, write_delay: delay });
    let (shard, inbox) = hub.claim_shard().unwrap().open::<Notes>();
    let (completions, mut told) = mpsc::unbounded_channel();
    let client = shard.open(Notes::default(), Dialect::Gopusher);
    shard.join(&client, "card-1", "");
    let burst = async {
        // more than the inbox holds at once
        for _ in 0..40 {
            hub.send(0, vec![part(&[1], None, 1, &completions).into()]).await;
        }
        for _ in 0..40 {
            assert_eq!(told.recv().await.unwrap().outcome, Outcome::Offered);
        }
        assert!(client.sink.0.borrow().is_empty(), "written before the delay was over");
        while !client.is_drained() {
            tokio::task::yield_now().await;
        }
        assert_eq!(client.sink.0.borrow().len(), 1);
    };
    tokio::select! {
        () = shard.run(inbox, Duration::from_secs(3600), |_| {}) => panic!("the shard ended"),
        () = burst => {}
    }
}

#[tokio::test]
async fn a_burst_to_a_socket_that_takes_nothing_stays_within_its_outbox() {
    let (hub, metrics) = hub(2000);
    let (shard, inbox) = hub.claim_shard().unwrap().open::<Pipe>();
    let (completions, mut told) = mpsc::unbounded_channel();
    let client = shard.open(Pipe::default(), Dialect::OxipushV1);
    shard.join(&client, "card-1", "");
    let burst: Vec<_> = (0..64).map(|_| part(&[1], None, 1, &completions)).collect();
    assert!(burst.iter().map(|one| one.fanout().frame(Dialect::OxipushV1).bytes().len()).sum::<usize>() > 2000);
    assert!(hub.try_send(0, burst.into_iter().map(Work::Part).collect()).is_ok());
    let all = async {
        for _ in 0..64 {
            told.recv().await.unwrap();
        }
    };
    tokio::select! {
        () = shard.run(inbox, Duration::from_secs(3600), |_| {}) => panic!("the shard ended"),
        () = all => {}
    }
    assert!(client.is_ending() && client.waiting() <= 2000, "{} bytes wait", client.waiting());
    shard.publish_counts();
    assert!(metrics.text().contains(r#"oxipush_offers_total{outcome="slow"}"#));
}

/// However many clients a disconnect has to look at, the shard goes on with other work between some of them and the next.
#[test]
fn a_disconnect_looks_at_some_clients_at_a_time_and_is_done_once_it_has_seen_all() {
    const CLIENTS: usize = 3000;
    let (hub, _metrics) = hub(1 << 20);
    let (shard, _inbox) = hub.claim_shard().unwrap().open::<Pipe>();
    let (completions, mut told) = mpsc::unbounded_channel();
    let clients: Vec<_> = (0..CLIENTS).map(|_| shard.open(Pipe::default(), Dialect::OxipushV1)).collect();
    for (number, client) in clients.iter().enumerate() {
        shard.join(client, "group", if number % 2 == 0 { "web" } else { "phone" });
    }
    let disconnect = |number, selector| {
        let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
        let id = PushId::generate();
        let order = Disconnect { id, selector, code: 3007, reason: None, revoke: false, at };
        shard.disconnect(DisconnectPart::new(DisconnectRun::new(order, number, completions.clone())));
    };
    let ending = || clients.iter().filter(|client| client.is_ending()).count();
    disconnect(1, ClientSelector::App("web".into()));
    disconnect(2, ClientSelector::Card("group".into()));
    assert!(shard.sweep());
    let begun = ending();
    assert!(begun > 0 && begun < CLIENTS / 2 && told.try_recv().is_err(), "{begun}");
    let mut sweeps = 1;
    while told.try_recv().is_err() {
        assert!(shard.sweep());
        sweeps += 1;
    }
    assert!(sweeps > 1 && ending() == CLIENTS / 2 && clients.iter().step_by(2).all(|client| client.is_ending()));
    // some leave meanwhile: nobody is taken for another
    assert!(shard.sweep());
    let gone = clients.iter().rev().find(|client| !client.is_ending()).unwrap();
    shard.close(gone);
    let new = shard.open(Pipe::default(), Dialect::OxipushV1);
    while shard.sweep() {}
    assert_eq!(told.try_recv().map(|done| (done.number, done.outcome)), Ok((2, Outcome::Offered)));
    assert!(ending() == CLIENTS && !new.is_ending());
    assert!(clients[0].label() == "3007" && !shard.sweep());
}

#[test]
fn a_sampled_push_is_measured_until_the_last_of_its_clients_has_it() {
    let (hub, metrics) = hub(1 << 20);
    let (shard, _inbox) = hub.claim_shard().unwrap().open::<Pipe>();
    let (completions, _told) = mpsc::unbounded_channel();
    let join = |room: usize| {
        let client = shard.open(Pipe { room: Cell::new(room), ..Default::default() }, Dialect::Gopusher);
        shard.join(&client, "card-1", "");
        client
    };
    let (_quick, slow) = (join(usize::MAX / 2), join(10));
    let counts = || {
        let text = metrics.text();
        ["oxipush_offer_seconds_count ", "oxipush_write_seconds_count "].map(|name| {
            let count = text.lines().find_map(|line| line.strip_prefix(name));
            count.unwrap_or_else(|| panic!("{name} is not in {text}")).parse::<u64>().unwrap()
        })
    };
    let deliver = |number: u128, card: &str| {
        let push = Push {
            id: PushId::from_parts(1_700_000_000_000, number),
            from: "test".into(),
            target: Target::cards(vec![card.into()]),
            content: "content".into(),
            collapse_key: None,
            deadline: None,
        };
        let fanout = Fanout::new(push, 0, completions.clone());
        let part = Part::new(fanout, Recipients::Address(Address::Card(card.into())));
        shard.deliver(part.into(), &mut WriteBudget::unlimited());
    };
    let one_in = u128::from(PushId::SAMPLED_ONE_IN);
    deliver(one_in + 1, "card-1");
    assert_eq!(counts(), [0, 0], "it is not sampled");
    deliver(one_in, "card-2");
    assert_eq!(counts(), [0, 0], "it has no client");
    deliver(one_in, "card-1");
    assert_eq!(counts(), [1, 0], "a client has not read it");
    slow.sink.room.set(usize::MAX / 2);
    shard.flush(&slow);
    assert_eq!(counts(), [1, 1]);
}

#[test]
fn a_client_behind_a_group_that_has_all_is_fed_though_its_page_was_read_before_the_newest_push() {
    let config = config::load(None, []).unwrap();
    let hub = Hub::new(&config.hub, &config.outbox, 1, &Arc::new(Metrics::new()));
    let mut questions = hub.ask_store(8);
    let (shard, _inbox) = hub.claim_shard().unwrap().open();
    let client = shard.open(Pipe::default(), Dialect::OxipushV1);
    let (address, epoch) = (Address::Card("alice".into()), Epoch::from_u32(7));
    let push = || Push {
        id: PushId::generate(),
        from: "".into(),
        target: Target::cards(vec!["alice".into()]),
        content: "x".into(),
        collapse_key: None,
        deadline: None,
    };
    let pushes: Vec<Push> = (0..5).map(|_| push()).collect();
    let at = |seq: u64| StreamPosition { epoch, seq, id: pushes[seq as usize].id };
    shard.join(&client, "alice", "");
    // it has 3, and asks for all behind 1 once more
    shard.follow(&client, &address, Some((at(3), 3)));
    shard.follow(&client, &address, Some((at(3), 1)));
    assert!(matches!(questions.try_recv(), Ok(StreamQuestion::Page { after: 1, .. })));
    // which is read before 4 is there
    let entry = StreamEntry { epoch, seq: 4, previous: 3, previous_id: pushes[3].id };
    let stored = Fanout::stored(StoredPush { push: pushes[4].clone(), entries: vec![entry] });
    let part = Part::new(stored, Recipients::Address(address.clone()));
    shard.deliver(part.into(), &mut WriteBudget::none());
    let entries = [2, 3].map(|seq| PageEntry { seq, push: pushes[seq as usize].clone() }).into();
    let (end, end_id) = (3, pushes[3].id);
    let page =
        StreamPage { address: address.clone(), epoch, after: 1, after_id: PushId::NIL, entries, end, end_id, head: 3 };
    shard.take_answer(&StreamAnswer::Page(Arc::new(page)), &mut WriteBudget::none());
    shard.feed();
    // the store has less than was heard of, it seems; it is asked, and has it by now
    assert!(matches!(questions.try_recv(), Ok(StreamQuestion::Head { .. })));
    let head = StreamAnswer::Head { address, head: Some(at(4)), asked: true };
    shard.take_answer(&head, &mut WriteBudget::none());
    shard.feed();
    assert!(matches!(questions.try_recv(), Ok(StreamQuestion::Page { after: 3, .. })));
}
