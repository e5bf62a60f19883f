//! A lease that is kept alive.

use etcd_client::{Client, Error, LeaseKeepAliveStream, LeaseKeeper};

use crate::cluster::etcd::{Etcd, Fault};

/// A living lease and the connection that keeps it alive.
pub(super) struct Lease {
    pub(super) id: i64,
    pub(super) client: Client,
    etcd: Etcd,
    keeper: LeaseKeeper,
    answers: LeaseKeepAliveStream,
}

impl Lease {
    /// Asks for a new one; [`Lease::keep`] keeps it alive.
    pub(super) async fn grant(etcd: &Etcd, client: &mut Client) -> Result<i64, Fault> {
        let ttl = etcd.config.lease.as_secs().max(1) as i64;
        match etcd.call("grant a lease", client.lease_grant(ttl, None)).await {
            Ok(granted) => Ok(granted.id()),
            Err(fault) => Err(etcd.diagnose(fault).await),
        }
    }

    /// Keeps the lease `id` alive from here on; `None` if it has ended.
    pub(super) async fn keep(etcd: &Etcd, client: &Client, id: i64) -> Result<Option<Self>, Fault> {
        let mut client = client.clone();
        let kept = async {
            match client.lease_keep_alive(id).await {
                Ok(kept) => Ok(Some(kept)),
                Err(Error::LeaseKeepAliveError(_)) => Ok(None),
                Err(error) => Err(error),
            }
        };
        let kept = etcd.call("keep the lease alive", kept).await?;
        Ok(kept.map(|(keeper, answers)| Self { id, client, etcd: etcd.clone(), keeper, answers }))
    }

    /// One sign of life, and etcd's answer to it.
    pub(super) async fn beat(&mut self) -> Result<(), Fault> {
        let beat = async {
            self.keeper.keep_alive().await?;
            self.answers.message().await
        };
        match self.etcd.call("keep the lease alive", beat).await? {
            Some(answer) if answer.ttl() > 0 => Ok(()),
            Some(_) => Err(Fault::Away("the lease ended".into())),
            None => Err(Fault::Away("etcd ended the lease's stream".into())),
        }
    }
}
