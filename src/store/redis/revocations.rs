//! Subjects whose tokens are refused: a sorted set, the second as score.

use bytestring::ByteString;

use super::{RedisStore, scripts, store_error};
use crate::store::StoreError;

impl RedisStore {
    /// See [`crate::store::Store::revoke`].
    pub(in crate::store) async fn revoke(&self, subject: &str, second: u64) -> Result<(), StoreError> {
        let shared = &self.shared;
        let call = scripts::REVOKE
            .with_keys(&[&shared.keys.revoked()])
            .arg(second)
            .arg(subject)
            .arg(shared.revocation_life.as_secs().saturating_add(1))
            .arg(shared.max_revocations);
        shared.client.run_script::<i64>(&call).await.map_err(|error| store_error(&error))?;
        Ok(())
    }

    /// See [`crate::store::Store::revocations`].
    pub(in crate::store) async fn revocations(&self) -> Result<Vec<(ByteString, u64)>, StoreError> {
        let mut command = redis::cmd("ZRANGE");
        command.arg(self.shared.keys.revoked()).arg(0).arg(-1).arg("WITHSCORES");
        let kept: Vec<(String, u64)> = self.shared.client.run(&command).await.map_err(|error| store_error(&error))?;
        Ok(kept.into_iter().map(|(subject, second)| (subject.into(), second)).collect())
    }
}
