//! Publishes pushes to the nodes that hold their clients, as the directory tells; without one, to every node.
//!
//! A task looks up what waits together, and hands it to the queue in order: pushes of one address keep the order in which they came.

use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use futures_util::future::{BoxFuture, Either, FutureExt, join_all};
use tokio::sync::{mpsc, oneshot};

use crate::{
    cluster::{Directory, HoldingNodes},
    config::Config,
    lifecycle::Tasks,
    push::{Address, Push, Selection, StoredPush},
    queue::{
        Destination, PublishError, Publisher,
        record::{self, PresenceNotice},
    },
    telemetry::{
        Counter, Metrics,
        labels::{DirectoryRoute, DropReason},
    },
};

/// Pushes that are looked up together.
const TOGETHER: usize = 256;

/// Where pushes are published; a cheap clone.
#[derive(Clone)]
pub struct RoutedPublisher {
    publisher: Publisher,
    /// `None`: each push goes to every node.
    requests: Option<mpsc::Sender<RouteRequest>>,
}

/// What is published.
pub enum RoutedPush {
    /// A push.
    Live(Push),
    /// A push that the store has, of which the nodes are told.
    Stored(StoredPush),
    /// A push that came to this node, which has clients of it no more.
    SentOn(SentOnPush),
    /// A change of who is in a room, for the clients of the room.
    Presence(PresenceNotice),
}

/// A push that is looked up once more.
pub struct SentOnPush {
    /// With the addresses that are looked for.
    pub push: Push,
    /// How often it was sent from node to node, this time counted.
    pub hops: u32,
    /// If nobody has clients of it, it goes to every node, and waits for those that come back.
    pub keep: bool,
}

/// Where a push went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PublishedTo {
    /// Nodes: those that hold its clients, or every node.
    Nodes,
    /// No node has clients of it.
    Nobody,
}

struct RouteRequest {
    push: RoutedPush,
    answer: oneshot::Sender<SentPushes>,
}

/// A push that is on its way to several nodes, to be acknowledged by the queue for each.
type SentPushes = Vec<BoxFuture<'static, Result<(), PublishError>>>;

impl RoutedPublisher {
    /// Starts the task that looks up; at most `[queue] max_publishes` wait for it.
    pub fn start(
        config: &Config,
        publisher: Publisher,
        directory: Option<Directory>,
        tasks: &Tasks,
        metrics: &Metrics,
    ) -> Self {
        let requests = directory.map(|directory| {
            let (requests, waiting) = mpsc::channel(config.queue.max_publishes);
            let route = |route| metrics.directory_routes.get_or_create_owned(&route);
            let router = NodeRouter {
                own: config.node.id.as_str().into(),
                max_hops: config.directory.max_hops,
                directory,
                publisher: publisher.clone(),
                to_nodes: route(DirectoryRoute::Nodes),
                to_nobody: route(DirectoryRoute::Nobody),
                to_every_node: route(DirectoryRoute::EveryNode),
                no_connection: metrics.drops.get_or_create_owned(&DropReason::NoConnection),
            };
            let cancelled = tasks.cancelled();
            tasks.spawn_until_done("routing", async move {
                cancelled.run_until_cancelled(router.run(waiting)).await;
            });
            requests
        });
        Self { publisher, requests }
    }

    /// To every node, whatever the directory says.
    pub fn publisher(&self) -> &Publisher {
        &self.publisher
    }

    /// Resolves once the queue holds the push for each node that it goes to. It is on its way when this returns: cancelling the wait
    /// does not take it back.
    ///
    /// # Errors
    /// [`PublishError`]; after `Unavailable` or `TimedOut` it may still arrive.
    pub fn publish(&self, push: RoutedPush) -> impl Future<Output = Result<PublishedTo, PublishError>> + Send + use<> {
        let published = self.publish_all(vec![push]).pop();
        async move { published.unwrap_or_else(|| Err(closed()))?.await }
    }

    /// As [`RoutedPublisher::publish`] for each of `pushes`, in order. What is refused at once is an error at once.
    pub fn publish_all(
        &self,
        pushes: Vec<RoutedPush>,
    ) -> Vec<Result<impl Future<Output = Result<PublishedTo, PublishError>> + Send + use<>, PublishError>> {
        let Some(requests) = &self.requests else {
            let records = pushes.into_iter().map(|push| (Destination::Live, push.record(0))).collect();
            let published = self.publisher.publish_all(records).into_iter();
            return published.map(|one| Ok(Either::Left(one?.map(|done| done.map(|()| PublishedTo::Nodes))))).collect();
        };
        let requested = pushes.into_iter().map(|push| {
            let (answer, answered) = oneshot::channel();
            requests.try_send(RouteRequest { push, answer }).map_err(|error| match error {
                mpsc::error::TrySendError::Full(_) => FULL,
                mpsc::error::TrySendError::Closed(_) => closed(),
            })?;
            Ok(Either::Right(async move {
                let sent = answered.await.map_err(|_| closed())?;
                let to = if sent.is_empty() { PublishedTo::Nobody } else { PublishedTo::Nodes };
                all_published(sent).await?;
                Ok(to)
            }))
        });
        requested.collect()
    }
}

/// Waits until the queue holds a push for each node.
async fn all_published(sent: SentPushes) -> Result<(), PublishError> {
    let outcomes = join_all(sent).await;
    let some = outcomes.iter().any(Result::is_ok);
    match outcomes.into_iter().find_map(Result::err) {
        // not refused: some of its clients get it
        Some(PublishError::Full(_) | PublishError::TooLarge { .. }) if some => {
            Err(PublishError::Unavailable("the queue took it for some of its nodes only; try again".into()))
        }
        Some(error) => Err(error),
        None => Ok(()),
    }
}

const FULL: PublishError = PublishError::Full("[queue] max_publishes wait for the directory already; try again later");

fn closed() -> PublishError {
    PublishError::Unavailable("the gateway is stopping".into())
}

impl RoutedPush {
    /// None: it is for every node.
    fn addresses(&self) -> Vec<Address> {
        match self {
            Self::Live(push) => addresses(push),
            Self::SentOn(sent_on) => addresses(&sent_on.push),
            Self::Stored(stored) => addresses(&stored.push),
            Self::Presence(notice) => vec![Address::Room(notice.change.room.clone())],
        }
    }

    /// For every node, none of which sends it on.
    fn record(&self, max_hops: u32) -> Bytes {
        match self {
            Self::Live(push) => record::encode(push),
            Self::Stored(stored) => record::encode_stored(stored),
            Self::SentOn(SentOnPush { push, .. }) => record::encode_routed(push, max_hops + 1, fastrand::u64(1..)),
            Self::Presence(notice) => record::encode_presence(notice),
        }
    }

    /// For a node that holds these of its cards; `None`: all it is for.
    fn record_for(&self, cards: Option<&[usize]>) -> Bytes {
        let part = |push| cards.map_or(Cow::Borrowed(push), |cards| Cow::Owned(with_cards(push, cards)));
        match (self, cards) {
            (Self::Live(push), _) => record::encode_routed(&part(push), 1, 0),
            (Self::SentOn(SentOnPush { push, hops, .. }), _) => {
                record::encode_routed(&part(push), *hops, fastrand::u64(1..))
            }
            (Self::Stored(stored), None) => record::encode_stored(stored),
            (Self::Presence(notice), _) => record::encode_presence(notice),
            (Self::Stored(stored), Some(cards)) => record::encode_stored(&StoredPush {
                push: with_cards(&stored.push, cards),
                entries: cards.iter().filter_map(|at| stored.entries.get(*at).copied()).collect(),
            }),
        }
    }
}

/// The push to these of its cards, by their places.
fn with_cards(push: &Push, cards: &[usize]) -> Push {
    let mut push = push.clone();
    push.target.cards = cards.iter().filter_map(|at| push.target.cards.get(*at).cloned()).collect();
    push
}

/// The addresses of a push; none: it is for every node.
fn addresses(push: &Push) -> Vec<Address> {
    match push.target.selection() {
        Selection::Cards(cards) => cards.iter().cloned().map(Address::Card).collect(),
        Selection::Room(room) => vec![Address::Room(room.clone())],
        Selection::App(_) | Selection::Everyone | Selection::Nobody => Vec::new(),
    }
}

/// Looks up, and publishes.
struct NodeRouter {
    own: Arc<str>,
    max_hops: u32,
    directory: Directory,
    publisher: Publisher,
    to_nodes: Counter,
    to_nobody: Counter,
    to_every_node: Counter,
    no_connection: Counter,
}

impl NodeRouter {
    async fn run(self, mut waiting: mpsc::Receiver<RouteRequest>) {
        let mut taken = Vec::with_capacity(TOGETHER);
        while waiting.recv_many(&mut taken, TOGETHER).await > 0 {
            let of_each: Vec<_> = taken.iter().map(|request| request.push.addresses()).collect();
            let holders = self.directory.holders(&of_each.concat()).await;
            let mut holders = &holders[..];
            for (RouteRequest { push, answer }, addresses) in taken.drain(..).zip(of_each) {
                let (of_this, rest) = holders.split_at(addresses.len());
                holders = rest;
                // whoever pushed may be gone
                let _ = answer.send(self.send(push, &addresses, of_this));
            }
        }
    }

    /// Hands a push to the queue, for each node that it goes to; `holders` are those of each of its addresses.
    fn send(&self, push: RoutedPush, addresses: &[Address], holders: &[HoldingNodes]) -> SentPushes {
        let nodes = self.nodes(&push, addresses, holders);
        let is_kept = matches!(&push, RoutedPush::SentOn(sent_on) if sent_on.keep);
        let Some(nodes) = nodes.filter(|nodes| !(nodes.is_empty() && is_kept)) else {
            if !holders.is_empty() {
                self.to_every_node.inc();
            }
            return vec![self.publisher.publish(Destination::Live, push.record(self.max_hops)).boxed()];
        };
        let counter = if nodes.is_empty() { &self.to_nobody } else { &self.to_nodes };
        counter.inc();
        let to_node = |(node, cards): (Arc<str>, Vec<usize>)| {
            let part = (cards.len() < addresses.len()).then_some(&cards[..]);
            self.publisher.publish(Destination::Node(node), push.record_for(part)).boxed()
        };
        nodes.into_iter().map(to_node).collect()
    }

    /// The nodes that a push goes to, each with the places of the addresses that it holds; `None`: every node.
    fn nodes(
        &self,
        push: &RoutedPush,
        addresses: &[Address],
        holders: &[HoldingNodes],
    ) -> Option<BTreeMap<Arc<str>, Vec<usize>>> {
        if holders.is_empty() {
            return None;
        }
        let not_here = matches!(push, RoutedPush::SentOn(_));
        let mut places: BTreeMap<Arc<str>, Vec<usize>> = BTreeMap::new();
        let mut missing = 0;
        for (place, (address, holders)) in addresses.iter().zip(holders).enumerate() {
            let HoldingNodes::Nodes(nodes) = holders else { return None };
            let mut is_held = false;
            for node in nodes {
                if not_here && *node == self.own {
                    // a process of before may have left it there
                    self.directory.take_out(address.clone());
                    continue;
                }
                places.entry(Arc::clone(node)).or_default().push(place);
                is_held = true;
            }
            missing += u64::from(!is_held);
        }
        if matches!(push, RoutedPush::Live(_)) {
            self.no_connection.inc_by(missing);
        }
        Some(places)
    }
}
