//! The call-out: a back end's own service says who a client is.

mod cache;
mod form;

use std::sync::{Arc, Mutex, PoisonError};

use futures_util::stream::{FuturesUnordered, StreamExt};
use reqwest::{Client, StatusCode};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use self::{
    cache::{AnswerCache, AnswerKey},
    form::CallOutVerdict,
};
use super::{
    Identity, IdentityConfigError, IdentityError, Presented, claims::ClaimRules, decision::IdentityDecision, http,
    revocations::Revocations, token::unix_time, token_verifier::no_token,
};
use crate::{
    config::{CallOutForm, VerifyConfig},
    lifecycle::Tasks,
    telemetry::{
        Metrics,
        labels::{CallOutOutcome, IdentityOutcome},
    },
};

/// `[verify]`. A cheap clone.
#[derive(Clone)]
pub(super) struct CallOut {
    form: CallOutForm,
    /// To the task that calls; it has room for as many as there are places.
    calls: mpsc::Sender<PendingCall>,
    places: Arc<Semaphore>,
    cache: Arc<Mutex<AnswerCache>>,
    metrics: Arc<Metrics>,
}

struct PendingCall {
    body: Vec<u8>,
    key: AnswerKey,
    answer: oneshot::Sender<Result<Identity, IdentityError>>,
    place: OwnedSemaphorePermit,
}

/// Makes the calls, on tokio's workers.
struct CallOutWorker {
    client: Client,
    form: CallOutForm,
    url: String,
    max_answer: usize,
    claims: ClaimRules,
    cache: Arc<Mutex<AnswerCache>>,
    metrics: Arc<Metrics>,
}

impl CallOut {
    /// Starts its task, which ends with the last clone. `None`: no URL is configured.
    pub(super) fn start(
        config: &VerifyConfig,
        tasks: &Tasks,
        metrics: &Arc<Metrics>,
    ) -> Result<Option<Self>, IdentityConfigError> {
        let Some(url) = config.url.clone() else { return Ok(None) };
        let client = http::client(config.ca.as_deref(), config.timeout)
            .map_err(|what| IdentityConfigError::CallOut { key: "ca", what: what.into() })?;
        let cache = Arc::new(Mutex::new(AnswerCache::new(config.cache, config.cache_entries)));
        let caller = CallOutWorker {
            client,
            form: config.form,
            url,
            max_answer: config.max_answer,
            claims: ClaimRules::of_answers(config),
            cache: cache.clone(),
            metrics: metrics.clone(),
        };
        let (calls, waiting) = mpsc::channel(config.max_in_flight);
        let cancelled = tasks.cancelled();
        tasks.spawn_until_done("identity call-outs", async move {
            let _ = cancelled.run_until_cancelled(caller.serve(waiting)).await;
        });
        let places = Arc::new(Semaphore::new(config.max_in_flight));
        Ok(Some(Self { form: config.form, calls, places, cache, metrics: metrics.clone() }))
    }

    /// Whom the back end says that this is, or said a moment ago; its token, if it has to have one, is good.
    pub(super) fn ask(&self, presented: &Presented, revocations: &Revocations) -> IdentityDecision {
        let key = AnswerKey::of(presented);
        let known = self.cache.lock().unwrap_or_else(PoisonError::into_inner).get(&key);
        // what it said before a revocation does not count any more
        if let Some(identity) = known.filter(|identity| !revocations.has(identity)) {
            self.metrics.call_outs.get_or_create(&CallOutOutcome::Cached).inc();
            return IdentityDecision::Decided(Ok(identity));
        }
        let Some(body) = form::question(self.form, presented) else {
            return IdentityDecision::refused(no_token());
        };
        let Ok(place) = self.places.clone().try_acquire_owned() else {
            return IdentityDecision::refused(IdentityError::away(
                "too many clients are being asked about: come back in a moment",
            ));
        };
        let (answer, answered) = oneshot::channel();
        let call = PendingCall { body, key, answer, place };
        if self.calls.try_send(call).is_err() {
            return IdentityDecision::refused(away());
        }
        IdentityDecision::Pending(Box::pin(async { answered.await.unwrap_or_else(|_| Err(away())) }))
    }
}

fn away() -> IdentityError {
    IdentityError::away("nobody can say now who this client is: come back in a moment")
}

/// What a call came to.
enum CallAnswer {
    Admitted(Box<Identity>),
    Refused,
    /// In words.
    Failed(String),
}

impl CallOutWorker {
    /// As many calls at once as there are places. Ends when nobody can call any more.
    async fn serve(self, mut waiting: mpsc::Receiver<PendingCall>) {
        let mut calls = FuturesUnordered::new();
        let mut is_open = true;
        while is_open || !calls.is_empty() {
            tokio::select! {
                call = waiting.recv(), if is_open => match call {
                    Some(call) => calls.push(self.call(call)),
                    None => is_open = false,
                },
                Some(()) = calls.next() => {}
            }
        }
    }

    async fn call(&self, call: PendingCall) {
        let PendingCall { body, key, answer, place } = call;
        let asked = unix_time();
        let (outcome, verified) = match self.post(body, asked).await {
            CallAnswer::Admitted(identity) => {
                self.cache.lock().unwrap_or_else(PoisonError::into_inner).insert(key, &identity);
                (CallOutOutcome::Admitted, Ok(*identity))
            }
            CallAnswer::Refused => {
                let message = "the back end refuses this client";
                (CallOutOutcome::Refused, Err(IdentityError::new(IdentityOutcome::Refused, message)))
            }
            CallAnswer::Failed(error) => {
                tracing::warn!(error, "[verify] url: nobody says who a client is");
                (CallOutOutcome::Failed, Err(away()))
            }
        };
        self.metrics.call_outs.get_or_create(&outcome).inc();
        drop(place);
        // its client may have left
        let _ = answer.send(verified);
    }

    async fn post(&self, body: Vec<u8>, asked: u64) -> CallAnswer {
        let request = self.client.post(&self.url).header("content-type", "application/json").body(body);
        let response = match request.send().await {
            Ok(response) => response,
            Err(error) => return CallAnswer::Failed(http::chain(&error)),
        };
        let status = response.status();
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => return CallAnswer::Refused,
            status if form::is_body_read(self.form, status) => {}
            status => return CallAnswer::Failed(format!("it answered {status}, which is none of 200, 401 and 403")),
        }
        let read = http::body(response, self.max_answer).await;
        match read.and_then(|json| form::verdict(self.form, status, &self.claims, &json, asked)) {
            Ok(CallOutVerdict::Admitted(identity)) => CallAnswer::Admitted(identity),
            Ok(CallOutVerdict::Refused(why)) => {
                if let Some(why) = why {
                    tracing::warn!(error = why, "[verify] url: a client is refused");
                }
                CallAnswer::Refused
            }
            Err(error) => CallAnswer::Failed(error),
        }
    }
}
