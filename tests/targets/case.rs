//! One case: some clients, some rounds of changes and pushes, and after each round the comparison with the model.

use std::{collections::HashMap, sync::Arc};

use fastrand::Rng;
use futures_util::future::join_all;

use super::{
    member::{Member, Step},
    model::{APPS, CARDS, Clock, Membership, Name, Owed, ROOMS, Target},
    pushes::{Caller, Push, WAYS, Way},
    support::gateway::Node,
};

const ROUNDS: usize = 6;

/// Pushes of one round, by each way into each node.
const PUSHES: usize = 8;

/// What was compared: deliveries that were owed, those that were forbidden, and those that might come or not.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counted {
    pub demanded: u64,
    pub forbidden: u64,
    pub either: u64,
}

impl Counted {
    pub fn add(&mut self, other: Self) {
        self.demanded += other.demanded;
        self.forbidden += other.forbidden;
        self.either += other.either;
    }
}

struct Case<'a> {
    nodes: &'a [Node],
    seed: u64,
    random: Rng,
    clock: Arc<Clock>,
    /// The first of each node have every card and room, and change nothing.
    members: Vec<Member>,
    callers: Vec<Vec<Caller>>,
    pushed: usize,
}

/// # Panics
/// When a client did not get what the model says.
pub async fn run(nodes: &[Node], seed: u64) -> Counted {
    let mut case = Case::new(nodes, seed).await;
    let mut counted = Counted::default();
    for round in 0..ROUNDS {
        counted.add(case.round(round).await);
    }
    for member in case.members.iter_mut().filter(|member| member.open) {
        member.step(Step::Disconnect).await;
    }
    counted
}

impl<'a> Case<'a> {
    async fn new(nodes: &'a [Node], seed: u64) -> Self {
        let mut random = Rng::with_seed(seed);
        let clock = Arc::new(Clock::default());
        let mut callers = Vec::new();
        for (number, node) in nodes.iter().enumerate() {
            let mut ways = Vec::new();
            for _ in WAYS {
                ways.push(Caller::new(node, number, &clock).await);
            }
            callers.push(ways);
        }
        let mut members = Vec::new();
        for (number, node) in nodes.iter().enumerate() {
            let mut witness = Member::connect(format!("witness {number}"), &node.socket(), number, &clock).await;
            for (at, card) in CARDS.into_iter().enumerate() {
                witness.step(Step::Join(card, APPS[at % APPS.len()])).await;
            }
            for room in ROOMS {
                witness.step(Step::Subscribe(room)).await;
            }
            members.push(witness);
        }
        let mut case = Self { nodes, seed, random, clock, members, callers, pushed: 0 };
        random = Rng::with_seed(seed ^ 1);
        for _ in 0..random.usize(5..=20) {
            case.connect().await;
        }
        case
    }

    async fn connect(&mut self) {
        let node = self.random.usize(..self.nodes.len());
        let name = format!("client {}", self.members.len());
        let member = Member::connect(name, &self.nodes[node].socket(), node, &self.clock).await;
        self.members.push(member);
    }

    async fn round(&mut self, round: usize) -> Counted {
        // half of the rounds push when all is quiet: there nothing is undecided
        let mixed = self.random.bool();
        for _ in 0..self.random.usize(0..3) {
            self.connect().await;
        }
        let steps: Vec<Vec<Step>> = (0..self.members.len()).map(|member| self.steps(member)).collect();
        let pushes = self.pushes();
        let mut callers = std::mem::take(&mut self.callers);
        let sending =
            join_all(callers.iter_mut().flatten().zip(pushes).map(|(caller, (way, pushes))| caller.send(way, pushes)));
        let stepping = join_all(self.members.iter_mut().zip(&steps).map(|(member, steps)| async move {
            for step in steps {
                member.step(*step).await;
            }
        }));
        let sent = if mixed {
            tokio::join!(sending, stepping).0
        } else {
            stepping.await;
            sending.await
        };
        self.callers = callers;
        let sent: Vec<Push> = sent.into_iter().flatten().collect();
        self.settle(round).await;
        self.compare(round, &sent)
    }

    /// What a client does in a round.
    fn steps(&mut self, member: usize) -> Vec<Step> {
        let mut steps = Vec::new();
        let mut state = self.members[member].history.now();
        if member < self.nodes.len() || !self.members[member].open {
            return steps;
        }
        for _ in 0..self.random.usize(0..5) {
            let step = self.step(&state);
            match step {
                Step::Join(card, app) => drop(state.cards.insert(card, app)),
                Step::Leave(card) => drop(state.cards.remove(card)),
                Step::LeaveAll => state.cards.clear(),
                Step::Subscribe(room) => drop(state.rooms.insert(room)),
                Step::Unsubscribe(room) => drop(state.rooms.remove(room)),
                Step::Disconnect => {}
            }
            steps.push(step);
            if matches!(step, Step::Disconnect) {
                break;
            }
        }
        steps
    }

    fn step(&mut self, state: &Membership) -> Step {
        let card = self.any(&CARDS);
        let room = self.any(&ROOMS);
        match self.random.u8(..20) {
            // rooms need a join before
            _ if state.cards.is_empty() => Step::Join(card, self.any(&APPS)),
            0..8 => Step::Join(card, self.any(&APPS)),
            8..10 if state.cards.contains_key(card) => Step::Leave(card),
            10 => Step::LeaveAll,
            17..19 if state.rooms.contains(room) => Step::Unsubscribe(room),
            19 if self.random.u8(..3) == 0 => Step::Disconnect,
            _ => Step::Subscribe(room),
        }
    }

    fn any(&mut self, names: &[Name]) -> Name {
        names[self.random.usize(..names.len())]
    }

    /// For each node, for each way in, what is pushed there.
    fn pushes(&mut self) -> Vec<(Way, Vec<(String, Target)>)> {
        let mut all = Vec::new();
        for _ in 0..self.nodes.len() {
            for way in WAYS {
                let pushes = (0..PUSHES).map(|_| {
                    self.pushed += 1;
                    (format!("push {}", self.pushed), self.target())
                });
                all.push((way, pushes.collect()));
            }
        }
        all
    }

    fn target(&mut self) -> Target {
        let mut target = Target::default();
        let kind = self.random.u8(..8);
        if matches!(kind, 0 | 4 | 5 | 7) {
            // a card may be named twice
            target.cards = (0..self.random.usize(1..4)).map(|_| self.any(&CARDS)).collect();
        }
        if matches!(kind, 1 | 4 | 6 | 7) {
            target.room = Some(self.any(&ROOMS));
        }
        if matches!(kind, 2 | 5 | 6 | 7) {
            target.app = Some(self.any(&APPS));
        }
        target.everyone = kind == 3;
        let exclude = self.random.u8(..5);
        if matches!(exclude, 0 | 2) {
            target.exclude_cards = (0..self.random.usize(1..3)).map(|_| self.any(&CARDS)).collect();
        }
        if matches!(exclude, 1 | 2) {
            let known: Vec<&Member> = self.members.iter().filter(|member| !member.client.is_empty()).collect();
            target.exclude_client = Some(known[self.random.usize(..known.len())].client.clone());
        }
        target
    }

    /// Until whatever was accepted has reached whom it reaches. A push through each lane of each node reaches the witnesses
    /// behind what stood in that lane; then one to everyone reaches each client behind what its shard was given before.
    async fn settle(&mut self, round: usize) {
        let content = format!("lane {round}");
        let cards = CARDS.map(|card| Target { cards: vec![card], ..Target::default() });
        let rooms = ROOMS.map(|room| Target { room: Some(room), ..Target::default() });
        let apps = APPS.map(|app| Target { app: Some(app), ..Target::default() });
        let everyone = || Target { everyone: true, ..Target::default() };
        let lanes: Vec<Target> = cards.into_iter().chain(rooms).chain(apps).chain([everyone()]).collect();
        let nodes = self.nodes.len();
        for callers in &mut self.callers {
            callers[0].send(Way::HttpBatch, lanes.iter().map(|lane| (content.clone(), lane.clone())).collect()).await;
        }
        for witness in &mut self.members[..nodes] {
            witness.hears(&content, nodes * lanes.len()).await;
        }
        let content = format!("round {round}");
        self.callers[0][0].send(Way::Http, vec![(content.clone(), everyone())]).await;
        for member in self.members.iter_mut().filter(|member| member.open) {
            if member.history.now().cards.is_empty() {
                member.ping().await;
            } else {
                member.hears(&content, 1).await;
            }
        }
    }

    fn compare(&self, round: usize, sent: &[Push]) -> Counted {
        let mut counted = Counted::default();
        for member in &self.members {
            let heard = member.heard();
            let mut places: HashMap<&str, Vec<usize>> = HashMap::new();
            for (place, push) in heard.iter().enumerate() {
                places.entry(push["content"].as_str().unwrap()).or_default().push(place);
            }
            let got = |push: &Push| places.get(push.content.as_str()).map_or(&[][..], Vec::as_slice);
            for push in sent {
                let owed = member.history.owed(&member.client, &push.target, push.sent);
                let times = got(push).len();
                let right = match owed {
                    Owed::Once => times == 1,
                    Owed::Nothing => times == 0,
                    Owed::Either => times <= 1,
                };
                let why = || {
                    format!(
                        "seed {}, round {round}: {} ({}) of node {} got {times} times by {:?} what was owed {owed:?}: {push:#?}\n\
                         its history: {:#?}",
                        self.seed, member.name, member.client, member.node, push.way, member.history
                    )
                };
                assert!(right, "{}", why());
                match owed {
                    Owed::Once => counted.demanded += 1,
                    Owed::Nothing => counted.forbidden += 1,
                    Owed::Either => counted.either += 1,
                }
                for place in got(push) {
                    assert_eq!(heard[*place]["id"], push.id.as_str(), "{}", why());
                    let room = heard[*place]["room"].as_str();
                    assert_eq!(room, push.target.room, "{}", why());
                }
            }
            self.compare_order(round, member, sent, |push| got(push).first().copied());
        }
        counted
    }

    /// Pushes of one lane of one node come in the order in which they were accepted.
    fn compare_order(&self, round: usize, member: &Member, sent: &[Push], place: impl Fn(&Push) -> Option<usize>) {
        let mut lanes: HashMap<(usize, String), Vec<(&Push, usize)>> = HashMap::new();
        for push in sent {
            if let (Some(lane), Some(place)) = (push.target.lane(), place(push)) {
                lanes.entry((push.node, lane)).or_default().push((push, place));
            }
        }
        for (lane, pushes) in lanes {
            for (first, first_place) in &pushes {
                for (second, second_place) in &pushes {
                    let one_batch = first.sent == second.sent && first.place < second.place;
                    if first.accepted < second.sent || one_batch {
                        assert!(
                            first_place < second_place,
                            "seed {}, round {round}, {lane:?}: {} got {second:?} before {first:?}",
                            self.seed,
                            member.name
                        );
                    }
                }
            }
        }
    }
}
