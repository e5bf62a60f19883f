//! What was accepted for whom, and what each session of a client was sent of it while it was joined.
//!
//! A push's content is its number. A session is owed each push to its card, to its room or to everyone that was sent after it
//! had joined and accepted well before it ended.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::{Mutex, MutexGuard},
    time::{Duration, Instant},
};

/// Whom a push is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Whom {
    Card(usize),
    Room(usize),
    Everyone,
}

/// Who sends pushes one behind the other to one ingress node; `None`: nobody keeps an order (a raw push).
pub type Lane = Option<u32>;

struct AcceptedPush {
    whom: Whom,
    lane: Lane,
    sent: Instant,
    accepted: Instant,
}

/// One connection of a client, from its answered join to its end.
pub struct Session {
    pub client: usize,
    pub node: usize,
    pub card: usize,
    pub room: usize,
    pub from: Instant,
    pub until: Option<Instant>,
    /// Numbers in the order in which they came first.
    got: Vec<u64>,
    seen: HashSet<u64>,
}

#[derive(Default)]
struct Pages {
    accepted: HashMap<u64, AcceptedPush>,
    /// Numbers by their ids' pushes: one id each.
    ids: HashMap<u64, String>,
    sessions: Vec<Session>,
    /// The session of each client that is joined now.
    open: HashMap<usize, usize>,
    copies: u64,
    deliveries: u64,
    wrong: Vec<String>,
    /// From sent to accepted, and from sent to each receipt by who was there.
    waits: Vec<Duration>,
    receipts: Vec<Duration>,
    sent: HashMap<u64, Instant>,
}

#[derive(Default)]
pub struct Ledger(Mutex<Pages>);

/// What is not as promised.
pub struct Findings {
    pub accepted: usize,
    pub deliveries: u64,
    /// Deliveries of what a session had already, with the same id.
    pub copies: u64,
    /// Owed and not sent: session and number.
    pub missing: Vec<Missing>,
    /// Pushes of one lane and address that a session got behind a later one.
    pub disordered: usize,
    pub wrong: Vec<String>,
}

/// A push that a session is owed.
#[derive(Clone, Debug)]
pub struct Missing {
    pub number: u64,
    pub whom: Whom,
    pub client: usize,
    pub node: usize,
    pub sent: Instant,
}

impl Ledger {
    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.0.lock().unwrap()
    }

    /// A push is about to be sent.
    pub fn send(&self, number: u64) -> Instant {
        let now = Instant::now();
        self.pages().sent.insert(number, now);
        now
    }

    /// It was accepted; `id`: the answer named it.
    pub fn accept(&self, number: u64, whom: Whom, lane: Lane, sent: Instant, id: Option<String>) {
        let accepted = Instant::now();
        let mut pages = self.pages();
        pages.waits.push(accepted - sent);
        if let Some(id) = id {
            pages.name(number, &id);
        }
        pages.accepted.insert(number, AcceptedPush { whom, lane, sent, accepted });
    }

    /// A client has joined and subscribed; the session's place.
    pub fn begin(&self, client: usize, node: usize, card: usize, room: usize) -> usize {
        let mut pages = self.pages();
        let place = pages.sessions.len();
        let (got, seen) = (Vec::new(), HashSet::new());
        let from = Instant::now();
        pages.sessions.push(Session { client, node, card, room, from, until: None, got, seen });
        pages.open.insert(client, place);
        place
    }

    pub fn end(&self, session: usize) {
        let mut pages = self.pages();
        let client = pages.sessions[session].client;
        pages.sessions[session].until = Some(Instant::now());
        if pages.open.get(&client) == Some(&session) {
            pages.open.remove(&client);
        }
    }

    /// A session was sent a push.
    pub fn deliver(&self, session: usize, content: &str, id: &str) {
        let now = Instant::now();
        let mut pages = self.pages();
        pages.deliveries += 1;
        let Ok(number) = content.parse::<u64>() else {
            return pages.complain(format!("a session got what nobody sent: {content}"));
        };
        let Some(sent) = pages.sent.get(&number).copied() else {
            return pages.complain(format!("a session got {number}, which nobody sent"));
        };
        pages.name(number, id);
        let pages = &mut *pages;
        let session = &mut pages.sessions[session];
        // what a node had kept for its return was not for those who came to it meanwhile
        if session.from < sent {
            pages.receipts.push(now - sent);
        }
        match session.seen.insert(number) {
            true => session.got.push(number),
            false => pages.copies += 1,
        }
    }

    /// Clients that are joined now.
    pub fn open(&self) -> usize {
        self.pages().open.len()
    }

    /// Of them, those on this node.
    pub fn open_on(&self, node: usize) -> usize {
        let pages = self.pages();
        pages.open.values().filter(|session| pages.sessions[**session].node == node).count()
    }

    pub fn accepted(&self) -> usize {
        self.pages().accepted.len()
    }

    /// Sessions that began since then.
    pub fn joined_since(&self, since: Instant) -> Vec<Instant> {
        self.pages().sessions.iter().map(|session| session.from).filter(|from| *from > since).collect()
    }

    /// What a session is owed that ended less than `grace` after a push was accepted may have been on its way.
    pub fn find(&self, grace: Duration) -> Findings {
        let pages = self.pages();
        let mut missing = Vec::new();
        let mut by_whom: HashMap<Whom, Vec<&Session>> = HashMap::new();
        for session in &pages.sessions {
            for whom in [Whom::Card(session.card), Whom::Room(session.room), Whom::Everyone] {
                by_whom.entry(whom).or_default().push(session);
            }
        }
        for (number, push) in &pages.accepted {
            for session in by_whom.get(&push.whom).into_iter().flatten() {
                let stayed = session.until.is_none_or(|until| until > push.accepted + grace);
                if session.from < push.sent && stayed && !session.seen.contains(number) {
                    let Session { client, node, .. } = **session;
                    missing.push(Missing { number: *number, whom: push.whom, client, node, sent: push.sent });
                }
            }
        }
        let disordered = pages.sessions.iter().map(|session| pages.disordered(session)).sum();
        Findings {
            accepted: pages.accepted.len(),
            deliveries: pages.deliveries,
            copies: pages.copies,
            missing,
            disordered,
            wrong: pages.wrong.clone(),
        }
    }

    /// Waits until no session lacks anything, or for `patience`.
    pub async fn settle(&self, grace: Duration, patience: Duration) -> Findings {
        let begun = Instant::now();
        loop {
            let findings = self.find(grace);
            if findings.missing.is_empty() || begun.elapsed() > patience {
                return findings;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// p50 and p99 of the answers to pushes, and of the time from sending one to its receipts.
    pub fn times(&self) -> String {
        let pages = self.pages();
        let [waits, receipts] = [&pages.waits, &pages.receipts].map(|times| {
            let mut times = times.clone();
            times.sort_unstable();
            let at = |share: usize| times.get(times.len() * share / 100).copied().unwrap_or_default();
            format!("p50 {:.1?} p99 {:.1?} max {:.1?}", at(50), at(99), times.last().copied().unwrap_or_default())
        });
        format!("accepted in {waits}; received in {receipts}")
    }

    pub fn complain(&self, what: String) {
        self.pages().complain(what);
    }
}

impl Pages {
    fn complain(&mut self, what: String) {
        const MOST: usize = 20;
        if self.wrong.len() < MOST {
            eprintln!("ledger: {what}");
            self.wrong.push(what);
        }
    }

    fn name(&mut self, number: u64, id: &str) {
        let known = self.ids.entry(number).or_insert_with(|| id.to_owned());
        if known != id {
            let what = format!("push {number} has the ids {known} and {id}");
            self.complain(what);
        }
    }

    fn disordered(&self, session: &Session) -> usize {
        let mut last: HashMap<(Whom, u32), u64> = HashMap::new();
        let mut count = 0;
        for number in &session.got {
            let Some(AcceptedPush { whom, lane: Some(lane), .. }) = self.accepted.get(number) else { continue };
            let last = last.entry((*whom, *lane)).or_default();
            count += usize::from(*number < *last);
            *last = (*last).max(*number);
        }
        count
    }
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { accepted, deliveries, copies, missing, disordered, .. } = self;
        write!(
            f,
            "{accepted} accepted, {deliveries} deliveries, {} missing, {copies} copies, {disordered} out of order",
            missing.len()
        )
    }
}
