//! The call-out: a back end's own service says who a client is.

mod cache;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use futures_util::stream::{FuturesUnordered, StreamExt};
use reqwest::{Client, StatusCode};
use serde::Serialize;
use serde_json::{Map, Value};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use self::cache::{AnswerCache, AnswerKey};
use super::{
    Identity, IdentityConfigError, IdentityError, Presented,
    claims::{self, ClaimRules},
    decision::IdentityDecision,
    http,
    revocations::Revocations,
    token::unix_time,
};
use crate::{
    config::VerifyConfig,
    lifecycle::Tasks,
    telemetry::{
        Metrics,
        labels::{CallOutOutcome, IdentityOutcome},
    },
};

/// `[verify]`. A cheap clone.
#[derive(Clone)]
pub(super) struct CallOut {
    /// To the task that calls; it has room for as many as there are places.
    calls: mpsc::Sender<PendingCall>,
    places: Arc<Semaphore>,
    cache: Arc<Mutex<AnswerCache>>,
    metrics: Arc<Metrics>,
}

/// What is posted.
#[derive(Serialize)]
struct CallOutQuestion<'a> {
    token: Option<&'a str>,
    card_id: &'a str,
    app_id: &'a str,
    address: String,
    headers: BTreeMap<&'a str, String>,
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
        Ok(Some(Self { calls, places, cache, metrics: metrics.clone() }))
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
        let Ok(place) = self.places.clone().try_acquire_owned() else {
            return IdentityDecision::refused(IdentityError::away(
                "too many clients are being asked about: come back in a moment",
            ));
        };
        let (answer, answered) = oneshot::channel();
        let call = PendingCall { body: question(presented), key, answer, place };
        if self.calls.try_send(call).is_err() {
            return IdentityDecision::refused(away());
        }
        IdentityDecision::Pending(Box::pin(async { answered.await.unwrap_or_else(|_| Err(away())) }))
    }
}

fn question(presented: &Presented) -> Vec<u8> {
    let mut headers = BTreeMap::<&str, String>::new();
    for (name, value) in &presented.headers {
        // as RFC 9110 and, for cookies, RFC 9113 put those of one name together
        let separator = if name == "cookie" { "; " } else { ", " };
        headers
            .entry(name)
            .and_modify(|values| {
                values.push_str(separator);
                values.push_str(value);
            })
            .or_insert_with(|| value.clone());
    }
    let question = CallOutQuestion {
        token: presented.token.as_deref(),
        card_id: &presented.card,
        app_id: &presented.app,
        address: presented.address.to_canonical().to_string(),
        headers,
    };
    serde_json::to_vec(&question).unwrap_or_default()
}

fn away() -> IdentityError {
    IdentityError::away("nobody can say now who this client is: come back in a moment")
}

/// What a call came to.
enum CallAnswer {
    Admitted(Identity),
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
                (CallOutOutcome::Admitted, Ok(identity))
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
        match response.status() {
            StatusCode::OK => {}
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => return CallAnswer::Refused,
            status => return CallAnswer::Failed(format!("it answered {status}, which is none of 200, 401 and 403")),
        }
        let read = http::body(response, self.max_answer).await;
        match read.and_then(|json| self.identity(&json, asked)) {
            Ok(identity) => CallAnswer::Admitted(identity),
            Err(error) => CallAnswer::Failed(error),
        }
    }

    fn identity(&self, json: &[u8], asked: u64) -> Result<Identity, String> {
        let mut answer: Map<String, Value> =
            serde_json::from_slice(json).map_err(|error| format!("its answer is no JSON object: {error}"))?;
        // who is named without a card is the card
        let names_no_card = !answer.contains_key("card") && !answer.contains_key("cards");
        if let Some(subject) = answer.get("sub").cloned().filter(|_| names_no_card) {
            answer.insert("card".to_owned(), subject);
        }
        let told = |error: IdentityError| format!("its answer: {error}");
        let mut identity = self.claims.identity(&answer).map_err(told)?;
        let end = claims::time(&answer, "exp").map_err(told)?;
        let life = claims::time(&answer, "ttl").map_err(told)?;
        identity.expires_at = match (end, life) {
            (Some(_), Some(_)) => return Err("its answer has exp and ttl: leave one out".to_owned()),
            (Some(end), None) if end <= asked => return Err("its answer has an exp that has passed".to_owned()),
            (end, life) => end.or_else(|| life.map(|seconds| asked.saturating_add(seconds))),
        };
        identity.issued_at = Some(asked);
        Ok(identity)
    }
}
