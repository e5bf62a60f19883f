//! Verifications of signatures that take longer than a shard should be held up: they are done by a few tasks of tokio's workers.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use bytestring::ByteString;
use tokio::sync::{mpsc, oneshot};

use super::{Identity, IdentityError, decision::IdentityDecision, key::VerifyingKey, token::TokenRules};
use crate::lifecycle::Tasks;

/// A token, and the key that is to verify it.
struct VerificationJob {
    token: ByteString,
    key: Arc<VerifyingKey>,
    rules: Arc<TokenRules>,
    verified: oneshot::Sender<Result<Identity, IdentityError>>,
}

/// Half as many tasks as there are cores, so that dispatch keeps its own; each takes one token at a time.
pub(super) struct VerificationPool {
    queues: Box<[mpsc::Sender<VerificationJob>]>,
    turn: AtomicUsize,
}

impl VerificationPool {
    /// With `max` tokens at once, waiting or being verified. Its tasks end with it.
    pub(super) fn start(max: usize, tasks: &Tasks) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
        let size = (cores / 2).clamp(1, 16).min(max);
        let queue = |number: usize| {
            let (queue, jobs) = mpsc::channel(max / size);
            tasks.spawn_until_done(format!("token verifier {number}"), work(jobs, tasks.clone()));
            queue
        };
        Self { queues: (0..size).map(queue).collect(), turn: AtomicUsize::new(0) }
    }

    /// Who the token's key says that it names.
    pub(super) fn verify(&self, token: ByteString, key: Arc<VerifyingKey>, rules: Arc<TokenRules>) -> IdentityDecision {
        let (verified, answer) = oneshot::channel();
        let mut job = VerificationJob { token, key, rules, verified };
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        for step in 0..self.queues.len() {
            match self.queues[turn.wrapping_add(step) % self.queues.len()].try_send(job) {
                Ok(()) => {
                    return IdentityDecision::Pending(Box::pin(async {
                        answer.await.unwrap_or_else(|_| Err(IdentityError::away("the node stops: come back")))
                    }));
                }
                Err(mpsc::error::TrySendError::Full(back) | mpsc::error::TrySendError::Closed(back)) => job = back,
            }
        }
        IdentityDecision::Decided(Err(IdentityError::away("too many tokens are being verified: come back in a moment")))
    }
}

async fn work(mut jobs: mpsc::Receiver<VerificationJob>, tasks: Tasks) {
    let cancelled = tasks.cancelled();
    while let Some(Some(job)) = cancelled.run_until_cancelled(jobs.recv()).await {
        // its client may have left meanwhile
        if !job.verified.is_closed() {
            let verified = job.rules.verify(&job.token, &job.key);
            let _ = job.verified.send(verified);
        }
        // lanes and others on this thread wait for one signature at most
        tokio::task::yield_now().await;
    }
}
