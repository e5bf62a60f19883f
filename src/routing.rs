//! Publishes pushes to the nodes that hold their clients, as the directory tells; without one, to every node.
//!
//! A task looks up what waits together, and hands it to the queue in order: pushes of one address keep the order in which they came.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use futures_util::future::{BoxFuture, Either, FutureExt};
use tokio::sync::{mpsc, oneshot};

use crate::{
    cluster::{Directory, Holders},
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
    /// A push that was sent to a node which has no clients of it any more.
    SentOn {
        /// With the addresses that are looked for.
        push: Push,
        /// How often it was sent from node to node, this time counted.
        hops: u32,
        /// That node.
        except: Arc<str>,
    },
    /// A change of who is in a room, for the clients of the room.
    Presence(PresenceNotice),
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
            let records = pushes.into_iter().map(|push| (Destination::Live, push.record())).collect();
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
                for published in sent {
                    published.await?;
                }
                Ok(to)
            }))
        });
        requested.collect()
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
            Self::Live(push) | Self::SentOn { push, .. } => addresses(push),
            Self::Stored(stored) => addresses(&stored.push),
            Self::Presence(notice) => vec![Address::Room(notice.change.room.clone())],
        }
    }

    /// Whether a push is lost, and to be counted, where no node has its address.
    fn is_lost_with_nobody(&self) -> bool {
        matches!(self, Self::Live(_) | Self::SentOn { .. })
    }

    /// For every node.
    fn record(&self) -> Bytes {
        match self {
            Self::Live(push) => record::encode(push),
            Self::Stored(stored) => record::encode_stored(stored),
            Self::SentOn { push, hops, .. } => record::encode_routed(push, *hops),
            Self::Presence(notice) => record::encode_presence(notice),
        }
    }

    /// For a node that holds these of its cards; `None`: all it is for.
    fn record_for(&self, cards: Option<&[usize]>) -> Bytes {
        match (self, cards) {
            (Self::Live(push), None) => record::encode_routed(push, 1),
            (_, None) | (Self::Presence(_), _) => self.record(),
            (Self::Live(push), Some(cards)) => record::encode_routed(&with_cards(push, cards), 1),
            (Self::SentOn { push, hops, .. }, Some(cards)) => record::encode_routed(&with_cards(push, cards), *hops),
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
                let _ = answer.send(self.send(push, of_this));
            }
        }
    }

    /// Hands a push to the queue, for each node that it goes to.
    fn send(&self, push: RoutedPush, holders: &[Holders]) -> SentPushes {
        let Some(nodes) = self.nodes(&push, holders) else {
            self.to_every_node.inc();
            let push = match push {
                // every node has it then: none sends it on
                RoutedPush::SentOn { push, except, .. } => RoutedPush::SentOn { push, hops: self.max_hops + 1, except },
                push => push,
            };
            return vec![self.publisher.publish(Destination::Live, push.record()).boxed()];
        };
        let counter = if nodes.is_empty() { &self.to_nobody } else { &self.to_nodes };
        counter.inc();
        let addresses = holders.len();
        let to_node = |(node, cards): (Arc<str>, Vec<usize>)| {
            let part = (cards.len() < addresses).then_some(&cards[..]);
            self.publisher.publish(Destination::Node(node), push.record_for(part)).boxed()
        };
        nodes.into_iter().map(to_node).collect()
    }

    /// The nodes that a push goes to, each with the places of the addresses that it holds; `None`: every node.
    fn nodes(&self, push: &RoutedPush, holders: &[Holders]) -> Option<BTreeMap<Arc<str>, Vec<usize>>> {
        if holders.is_empty() {
            return None;
        }
        let except = if let RoutedPush::SentOn { except, .. } = push { Some(except) } else { None };
        let mut places: BTreeMap<Arc<str>, Vec<usize>> = BTreeMap::new();
        for (place, holders) in holders.iter().enumerate() {
            let Holders::Nodes(nodes) = holders else { return None };
            let mut is_held = false;
            for node in nodes.iter().filter(|node| Some(*node) != except) {
                places.entry(Arc::clone(node)).or_default().push(place);
                is_held = true;
            }
            if !is_held && push.is_lost_with_nobody() {
                self.no_connection.inc();
            }
        }
        Some(places)
    }
}
