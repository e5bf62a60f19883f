//! Clients' own pushes: an ingress like HTTP, which the sockets' side feeds.

use std::sync::Arc;

use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::sync::mpsc;

use super::{
    admission::{Admission, PushSource, Submitter},
    draft::Draft,
    refusal::Refusal,
};
use crate::{
    auth::Keys,
    hub::ClientPush,
    lifecycle::{Deadline, Service, Tasks},
    wire::dialect::ClientError,
};

/// Pushes that are handed to the queue together.
const BATCH: usize = 64;

/// The running ingress of clients' pushes.
pub(crate) struct ClientPushIngress {
    service: Service,
}

/// Admits what comes through `pushes`, in its order, at most `max_publishes` at once. Who may push what was checked before.
pub(crate) fn start(
    pushes: mpsc::Receiver<ClientPush>,
    max_publishes: usize,
    keys: &Keys,
    admission: &Admission,
    tasks: &Tasks,
) -> ClientPushIngress {
    let service = tasks.service();
    let stopping = service.stopping().clone();
    let submitter = Arc::new(admission.submitter(PushSource::Client, keys.clients()));
    service.spawn_until_done("clients' pushes", async move {
        // what waits then is told that the node stops, as its end is dropped
        stopping.run_until_cancelled(run(pushes, max_publishes, submitter)).await;
    });
    ClientPushIngress { service }
}

impl ClientPushIngress {
    /// Takes no more.
    pub(crate) async fn stop(self, deadline: Deadline) {
        self.service.stop_within(deadline).await;
    }
}

async fn run(mut pushes: mpsc::Receiver<ClientPush>, max_publishes: usize, submitter: Arc<Submitter>) {
    let mut taken = Vec::with_capacity(BATCH);
    let mut in_flight = FuturesUnordered::new();
    loop {
        let may_publish = in_flight.len() < max_publishes;
        // both cancel-safe
        tokio::select! {
            Some(()) = in_flight.next(), if !in_flight.is_empty() => {}
            count = pushes.recv_many(&mut taken, BATCH), if may_publish => {
                // the sockets' side keeps its end for as long as this runs
                if count == 0 {
                    return;
                }
                let (drafts, answers): (Vec<_>, Vec<_>) = taken.drain(..).map(|push| (Ok(draft(&push)), push.answer)).unzip();
                for (outcome, answer) in submitter.push_each(drafts).into_iter().zip(answers) {
                    in_flight.push(async move {
                        // a client that left hears nothing
                        let _ = answer.send(outcome.await.map(|receipt| receipt.id).map_err(client_error));
                    });
                }
            }
        }
    }
}

fn draft(push: &ClientPush) -> Draft {
    Draft {
        from: push.from.clone(),
        to: push.target.cards.clone(),
        room: push.target.room.clone().unwrap_or_default(),
        exclude: push.target.exclude.clone(),
        content: Some(push.content.clone()),
        ..Draft::default()
    }
}

/// What its client hears of a refusal.
fn client_error(refusal: Refusal) -> ClientError {
    if refusal.kind.may_pass_later() {
        return ClientError::busy(refusal.message);
    }
    ClientError::new("bad_content", refusal.message)
}
