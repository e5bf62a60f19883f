//! Lines of `/readyz` beside whether the node is ready.

use tokio::sync::watch;

use crate::{
    config::NodeRoles,
    lifecycle::Tasks,
    redis_client::{RedisClient, RedisState},
};

/// What the node does.
pub(super) fn roles(roles: NodeRoles) -> watch::Receiver<Vec<String>> {
    watch::channel(vec![format!("roles: {roles}")]).1
}

/// That Redis is away, while it is: all nodes have it together, so none of them is less ready for that.
pub(super) fn redis(client: Option<&RedisClient>, tasks: &Tasks) -> watch::Receiver<Vec<String>> {
    let (notes, told) = watch::channel(Vec::new());
    let Some(mut state) = client.map(RedisClient::state) else { return told };
    let cancelled = tasks.cancelled();
    tasks.spawn_until_done("redis note", async move {
        let follow = async {
            loop {
                notes.send_replace(note(&state.borrow_and_update()));
                if state.changed().await.is_err() {
                    return;
                }
            }
        };
        cancelled.run_until_cancelled(follow).await;
    });
    told
}

fn note(state: &RedisState) -> Vec<String> {
    match state {
        RedisState::Ready => Vec::new(),
        RedisState::NotReady(reason) => {
            let costs = "pushes with offline or an idempotency key get 503 meanwhile, live ones go on";
            vec![format!("redis: it is away: {reason}; {costs}")]
        }
    }
}
