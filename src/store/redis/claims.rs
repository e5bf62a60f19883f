//! Idempotency keys. Each is a key of its own in Redis, which forgets it by itself.

use super::{
    RedisStore, SharedRedisStore,
    append::id_of,
    keys::{bytes_of, number_of},
    scripts, store_error,
};
use crate::{
    push::{PushId, unix_millis},
    redis_client::{RedisCallError, ScriptCall},
    store::{Claim, Claimed, StoreError},
};

impl RedisStore {
    /// See [`crate::store::Store::claim`].
    pub(in crate::store) fn claim(
        &self,
        id: PushId,
        claim: Claim,
    ) -> Result<impl Future<Output = Result<Claimed, StoreError>> + Send + use<>, StoreError> {
        self.shared.check()?;
        let shared = self.shared.clone();
        Ok(async move {
            let deadline = shared.deadline();
            let claimed = tokio::time::timeout_at(deadline, shared.claim_all(&[(id, claim)])).await;
            let late = || Err(StoreError::Unavailable("it did not answer within [store] timeout".into()));
            claimed.ok().and_then(|mut claimed| claimed.pop()).unwrap_or_else(late)
        })
    }

    /// See [`crate::store::Store::fulfil`].
    pub(in crate::store) fn fulfil(&self, key: [u8; 16]) {
        self.shared.cursors.fulfil(key);
    }
}

impl SharedRedisStore {
    /// One outcome for each.
    pub(super) async fn claim_all(&self, claims: &[(PushId, Claim)]) -> Vec<Result<Claimed, StoreError>> {
        let now = unix_millis();
        let call = |(id, claim): &(PushId, Claim)| {
            scripts::CLAIM
                .with_keys(&[&self.keys.claim(&claim.key)])
                .arg(&claim.body.to_be_bytes()[..])
                .arg(&id.to_bytes()[..])
                .arg(claim.deadline.saturating_sub(now).max(1))
        };
        let calls: Vec<ScriptCall> = claims.iter().map(call).collect();
        let read = |answer: Result<redis::Value, RedisCallError>| {
            let answer = answer.map_err(|error| store_error(&error))?;
            let redis::Value::Array(fields) = &answer else {
                return Err(StoreError::Unavailable(format!("Redis answered {answer:?}")));
            };
            match fields.as_slice() {
                [state, id] if !bytes_of(id).is_empty() => Ok(match number_of(state) {
                    0 => Claimed::New,
                    1 => Claimed::Pending(id_of(id)),
                    _ => Claimed::Done(id_of(id)),
                }),
                _ => Err(StoreError::OtherBody),
            }
        };
        self.client.run_scripts(&calls).await.into_iter().map(read).collect()
    }

    /// The pushes of these keys are stored. Where Redis does not learn of it, a retry finds them in their streams.
    pub(super) async fn fulfil_all(&self, keys: &[[u8; 16]]) {
        let calls: Vec<_> = keys.iter().map(|key| scripts::FULFIL.with_keys(&[&self.keys.claim(key)])).collect();
        let failed = self.client.run_scripts(&calls).await.into_iter().filter_map(Result::err);
        if let Some(error) = failed.last() {
            tracing::debug!(%error, "an idempotency key was not told as fulfilled");
        }
    }
}
