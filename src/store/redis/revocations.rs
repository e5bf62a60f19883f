//! Subjects whose tokens are refused: a sorted set, the second as score.

use bytestring::ByteString;

use super::{RedisStore, store_error};
use crate::{push::unix_millis, store::StoreError};

impl RedisStore {
    /// See [`crate::store::Store::revoke`].
    pub(in crate::store) async fn revoke(&self, subject: &str, second: u64) -> Result<(), StoreError> {
        let shared = &self.shared;
        let key = shared.keys.revoked();
        let life = shared.revocation_life.as_secs().saturating_add(1);
        let mut add = redis::cmd("ZADD");
        add.arg(&key).arg("GT").arg(second).arg(subject);
        shared.client.run::<i64>(&add).await.map_err(|error| store_error(&error))?;
        // what nobody needs any more, then the oldest of what is too much; the rest goes when nothing comes for as long as it is needed
        let mut over = redis::cmd("ZREMRANGEBYSCORE");
        over.arg(&key).arg("-inf").arg(format!("({}", (unix_millis() / 1000).saturating_sub(life)));
        let mut too_many = redis::cmd("ZREMRANGEBYRANK");
        too_many.arg(&key).arg(0).arg(-1 - i64::try_from(shared.max_revocations).unwrap_or(i64::MAX - 1));
        let mut expire = redis::cmd("EXPIRE");
        expire.arg(&key).arg(life);
        let tidied = shared.client.run_all(&[over, too_many, expire]).await;
        if let Some(error) = tidied.into_iter().find_map(Result::err) {
            tracing::debug!(%error, "revocations in Redis were not tidied");
        }
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
