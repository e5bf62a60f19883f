//! Tells the verifier what is revoked: what orders say, and what the store has kept.

use std::time::Duration;

use crate::{
    auth::identity::Verifier,
    dispatch::Revoke,
    lifecycle::Tasks,
    store::{Store, StoreState},
};
use tokio::sync::watch;

/// Before a shared store that did not answer is asked again.
const PAUSE: Duration = Duration::from_secs(1);

/// Where dispatch tells what is revoked. Without a verifier nobody has a token.
pub(super) fn revoke(verifier: Option<Verifier>) -> Revoke {
    let Some(verifier) = verifier else { return Box::new(|_, _| {}) };
    Box::new(move |subject, second| verifier.revoke(subject, second))
}

/// What an earlier process kept is refused before the first client comes; what other nodes keep in a shared store, whenever it
/// comes back: a node that was apart from it may have missed some.
pub(super) async fn follow(
    store: Option<&Store>,
    state: Option<watch::Receiver<StoreState>>,
    verifier: &Verifier,
    tasks: &Tasks,
) {
    let (Some(store), Some(mut state)) = (store, state) else { return };
    let is_told = tell(store, verifier).await;
    if !store.is_shared() {
        return;
    }
    let (store, verifier, cancelled) = (store.clone(), verifier.clone(), tasks.cancelled());
    tasks.spawn_until_done("store revocations", async move {
        let follow = async {
            let mut is_told = is_told;
            loop {
                while !is_told {
                    tokio::time::sleep(PAUSE).await;
                    is_told = tell(&store, &verifier).await;
                }
                if state.wait_for(|state| *state != StoreState::Ready).await.is_err()
                    || state.wait_for(|state| *state == StoreState::Ready).await.is_err()
                {
                    return;
                }
                is_told = tell(&store, &verifier).await;
            }
        };
        cancelled.run_until_cancelled(follow).await;
    });
}

/// Whether the store has answered.
async fn tell(store: &Store, verifier: &Verifier) -> bool {
    match store.revocations().await {
        Ok(mut kept) => {
            // where there are too many, the oldest make room
            kept.sort_unstable_by_key(|(_, second)| *second);
            kept.into_iter().for_each(|(subject, second)| verifier.revoke(subject, second));
            true
        }
        Err(error) => {
            tracing::debug!(%error, "revocations are asked for again");
            false
        }
    }
}
