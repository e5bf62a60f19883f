//! What this node asks the others of its cluster: all at once, each within the same deadline, over connections that are kept.
//!
//! A node answers for its own clients only. Whoever asks puts the answers together, and says whose are missing.

mod error;
mod link;
mod load;
mod presence;
mod recent;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytestring::ByteString;
use futures_util::future::join_all;
use tokio::{runtime::Handle, sync::watch, time::Instant};

use super::{Node, node::NodePhase};
use crate::{
    config::{Config, PeersConfig, SOCKET},
    proto::peers::{Question, answer::Answer, question},
    telemetry::{Metrics, labels::PeerOutcome},
};

use error::PeerError;
pub use error::PeersConfigError;
use link::{PeerLink, PeerLinks};
pub use load::NodeLoad;
pub use presence::OthersPresent;
pub(crate) use recent::RecentAnswers;

/// Asks the other nodes; a cheap clone.
#[derive(Clone)]
pub struct Peers {
    core: Arc<PeersCore>,
}

struct PeersCore {
    own: String,
    nodes: watch::Receiver<Arc<[Node]>>,
    timeout: Duration,
    links: PeerLinks,
    known: Mutex<KnownPeers>,
    /// By room.
    presence: RecentAnswers<ByteString, Arc<OthersPresent>>,
    /// Connections live there, whichever thread makes them: HTTP's workers end before the node does.
    runtime: Handle,
    metrics: Arc<Metrics>,
}

/// What is known of nodes that are registered, by their ids.
#[derive(Default)]
struct KnownPeers {
    links: HashMap<String, Arc<PeerLink>>,
    /// Why the last answer of some did not come.
    missing: HashMap<String, PeerOutcome>,
}

/// What the other nodes say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gathered<T> {
    /// Each with the id of its node, in the order of the ids.
    pub answers: Vec<(Arc<str>, T)>,
    /// The ids of those that have not answered in time, or not as they should, in their order.
    pub missing: Vec<Arc<str>>,
}

impl Peers {
    /// Asks the nodes of `nodes` ([`super::Cluster::nodes`]); `None`: `[peers] listen` is empty. Call it on the runtime that lives as
    /// long as the node.
    ///
    /// # Errors
    /// The files of `[peers] tls_ca`, `tls_cert` and `tls_key` cannot be used.
    pub fn new(
        config: &Config,
        nodes: watch::Receiver<Arc<[Node]>>,
        metrics: &Arc<Metrics>,
    ) -> Result<Option<Self>, PeersConfigError> {
        let peers: &PeersConfig = &config.peers;
        if peers.listen.is_none() {
            return Ok(None);
        }
        let core = PeersCore {
            own: config.node.id.as_str().to_owned(),
            nodes,
            timeout: peers.timeout,
            links: PeerLinks::new(peers)?,
            known: Mutex::default(),
            presence: RecentAnswers::new(peers.presence_cache, peers.presence_rooms),
            runtime: Handle::current(),
            metrics: Arc::clone(metrics),
        };
        Ok(Some(Self { core: Arc::new(core) }))
    }

    /// How long the others have for an answer.
    pub fn timeout(&self) -> Duration {
        self.core.timeout
    }

    /// Asks all other nodes that may have clients. `take` gives what was asked for; `None`: it is none that the question has.
    pub async fn ask<T>(&self, question: question::Question, take: impl Fn(Answer) -> Option<T>) -> Gathered<T> {
        self.ask_those(question, take, Node::may_have_clients).await
    }

    async fn ask_those<T>(
        &self,
        question: question::Question,
        take: impl Fn(Answer) -> Option<T>,
        is_asked: fn(&Node) -> bool,
    ) -> Gathered<T> {
        let nodes = Arc::clone(&self.core.nodes.borrow());
        let deadline = Instant::now() + self.core.timeout;
        let question = Question { question: Some(question) };
        let others = nodes.iter().filter(|node| node.id != self.core.own && is_asked(node));
        let (nodes, question, take) = (&nodes, &question, &take);
        let asked = others.map(|node| async move {
            let answer = self.ask_one(node, nodes, question, deadline).await;
            let taken = answer.and_then(|answer| take(answer).ok_or(PeerError::OtherQuestion));
            (Arc::<str>::from(node.id.as_str()), self.count(node, nodes, taken))
        });
        let mut gathered = Gathered { answers: Vec::new(), missing: Vec::new() };
        for (id, answer) in join_all(asked).await {
            match answer {
                Some(answer) => gathered.answers.push((id, answer)),
                None => gathered.missing.push(id),
            }
        }
        gathered
    }

    async fn ask_one(
        &self,
        node: &Node,
        nodes: &[Node],
        question: &Question,
        deadline: Instant,
    ) -> Result<Answer, PeerError> {
        let link = self.link(node, nodes)?;
        let answer = link.ask(question, deadline).await?;
        if answer.node != node.id {
            // it may be as long as an answer
            return Err(PeerError::WrongId(answer.node.chars().take(64).collect()));
        }
        answer.answer.ok_or(PeerError::OtherQuestion)
    }

    /// The connection to a node, which is made when the first question needs it.
    fn link(&self, node: &Node, nodes: &[Node]) -> Result<Arc<PeerLink>, PeerError> {
        let address = node.peers.as_deref().ok_or(PeerError::NoAddress)?;
        let mut known = self.known();
        if let Some(link) = known.links.get(&node.id).filter(|link| link.address() == address) {
            return Ok(Arc::clone(link));
        }
        // those that are gone go now
        known.links.retain(|id, _| nodes.iter().any(|node| node.id == *id));
        let _runtime = self.core.runtime.enter();
        let link = Arc::new(self.core.links.open(address)?);
        known.links.insert(node.id.clone(), Arc::clone(&link));
        Ok(link)
    }

    /// Counts an answer, and says when a node begins and ends to be missing, or is so for another reason.
    fn count<T>(&self, node: &Node, nodes: &[Node], answer: Result<T, PeerError>) -> Option<T> {
        let outcome = answer.as_ref().map_or_else(PeerError::outcome, |_| PeerOutcome::Answered);
        self.core.metrics.peer_questions.get_or_create(&outcome).inc();
        let changed = self.note(node, nodes, outcome);
        let address = node.peers.as_deref().unwrap_or_default();
        match &answer {
            Ok(_) if changed => tracing::info!(node = node.id, address, "a node answers this one's questions again"),
            Err(error) if changed => {
                tracing::warn!(node = node.id, address, "a node does not answer this one's questions: {error}");
            }
            Err(error) => tracing::debug!(node = node.id, address, "a node does not answer: {error}"),
            Ok(_) => {}
        }
        answer.ok()
    }

    /// Notes what became of a node's answer; `true`: that is new.
    fn note(&self, node: &Node, nodes: &[Node], outcome: PeerOutcome) -> bool {
        let mut known = self.known();
        if outcome == PeerOutcome::Answered {
            return known.missing.remove(&node.id).is_some();
        }
        if known.missing.get(&node.id) == Some(&outcome) {
            return false;
        }
        known.missing.retain(|id, _| nodes.iter().any(|node| node.id == *id));
        known.missing.insert(node.id.clone(), outcome);
        true
    }

    fn known(&self) -> MutexGuard<'_, KnownPeers> {
        self.core.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Node {
    /// A node that has not served yet has none, and none without sockets.
    fn may_have_clients(&self) -> bool {
        let has_served = self.phase != NodePhase::Starting.name();
        has_served && (self.roles.is_empty() || self.roles.iter().any(|role| role == SOCKET))
    }
}
