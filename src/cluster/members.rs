//! The nodes that are registered, as etcd's watch tells them.

use std::collections::BTreeSet;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    etcd::{Backoff, Etcd, Fault},
    node,
};
use crate::proto::etcd::event::Kind;

/// Tells the ids until cancelled; while etcd is away the last known ones stay.
pub(super) async fn run(etcd: Etcd, tell: watch::Sender<Vec<String>>, cancelled: CancellationToken) {
    let mut backoff = Backoff::new(etcd.config.max_backoff);
    loop {
        let fault = tokio::select! {
            () = cancelled.cancelled() => return,
            fault = follow(&etcd, &tell, &mut backoff) => fault,
        };
        tracing::debug!("the watch of the cluster's nodes ended: {fault}");
        tokio::select! {
            () = cancelled.cancelled() => return,
            () = tokio::time::sleep(backoff.next()) => {}
        }
    }
}

async fn follow(etcd: &Etcd, tell: &watch::Sender<Vec<String>>, backoff: &mut Backoff) -> Fault {
    match try_follow(etcd, tell, backoff).await {
        Ok(never) => match never {},
        Err(fault) => fault,
    }
}

async fn try_follow(
    etcd: &Etcd,
    tell: &watch::Sender<Vec<String>>,
    backoff: &mut Backoff,
) -> Result<std::convert::Infallible, Fault> {
    let prefix = node::nodes(&etcd.config.prefix);
    let mut client = etcd.connect().await?;
    let got = etcd.call("read the nodes", client.get_all(&prefix, true)).await?;
    let mut ids: BTreeSet<String> = got.kvs.iter().filter_map(|kv| id(&prefix, &kv.key)).collect();
    publish(tell, &ids);
    let next = got.header.map_or(0, |header| header.revision) + 1;
    let mut watch = etcd.call("watch the nodes", client.watch(&prefix, next)).await?;
    backoff.reset();
    loop {
        // no time-out: the connection's pings end a watch whose etcd is gone
        let message = watch.message().await;
        let message = match message {
            Ok(message) if !message.canceled => message,
            Ok(message) => return Err(Fault::Away(message.cancel_reason)),
            Err(error) => return etcd.call("watch the nodes", async { Err(error) }).await,
        };
        for event in message.events {
            let Some(id) = event.kv.as_ref().and_then(|kv| id(&prefix, &kv.key)) else { continue };
            match event.kind() {
                Kind::Put => ids.insert(id),
                Kind::Delete => ids.remove(&id),
            };
        }
        publish(tell, &ids);
    }
}

fn publish(tell: &watch::Sender<Vec<String>>, ids: &BTreeSet<String>) {
    tell.send_if_modified(|now| {
        let differs = !now.iter().eq(ids);
        if differs {
            for id in ids.iter().filter(|id| !now.contains(id)) {
                tracing::info!(node = id, "a node is there");
            }
            for id in now.iter().filter(|id| !ids.contains(*id)) {
                tracing::info!(node = id, "a node is gone");
            }
            *now = ids.iter().cloned().collect();
        }
        differs
    });
}

fn id(prefix: &str, key: &[u8]) -> Option<String> {
    let id = std::str::from_utf8(key).ok()?.strip_prefix(prefix)?;
    (!id.is_empty()).then(|| id.to_owned())
}
