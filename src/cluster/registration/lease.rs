//! A lease that is kept alive.

use crate::cluster::etcd::{Etcd, EtcdClient, EtcdError, KeepAlive};

/// A living lease and the connection that keeps it alive.
pub(super) struct Lease {
    pub(super) id: i64,
    pub(super) client: EtcdClient,
    etcd: Etcd,
    alive: KeepAlive,
}

impl Lease {
    /// Asks for a new one; [`Lease::keep`] keeps it alive.
    pub(super) async fn grant(etcd: &Etcd, client: &mut EtcdClient) -> Result<i64, EtcdError> {
        let ttl = etcd.config.lease.as_secs().max(1) as i64;
        match etcd.call("grant a lease", client.lease_grant(ttl)).await {
            Ok(id) => Ok(id),
            Err(error) => Err(etcd.diagnose(error).await),
        }
    }

    /// Keeps the lease `id` alive from here on; `None` if it has ended.
    pub(super) async fn keep(etcd: &Etcd, client: &EtcdClient, id: i64) -> Result<Option<Self>, EtcdError> {
        let mut client = client.clone();
        let kept = etcd.call("keep the lease alive", client.lease_keep_alive(id)).await?;
        Ok(kept.map(|alive| Self { id, client, etcd: etcd.clone(), alive }))
    }

    /// One sign of life, and etcd's answer to it.
    pub(super) async fn keep_alive(&mut self) -> Result<(), EtcdError> {
        match self.etcd.call("keep the lease alive", self.alive.beat()).await? {
            1.. => Ok(()),
            _ => Err(EtcdError::Away("the lease ended".into())),
        }
    }
}
