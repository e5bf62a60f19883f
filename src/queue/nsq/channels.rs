//! The nodes' channels on `<topic>.live`, on all nsqds together: docs/adr/0007.

use std::{collections::BTreeSet, time::Duration};

use futures_util::future::join_all;
use tokio::time::timeout;

use super::{admin::Admin, topics::Topics};
use crate::config;

/// The HTTP addresses of all nsqds, configured or found, and what could not be asked.
async fn all_nsqds(admin: &Admin, config: &config::QueueConfig, topic: &str) -> (BTreeSet<String>, Vec<String>) {
    let mut nsqds = BTreeSet::from_iter(config.nsqd_http.iter().cloned());
    let mut errors = Vec::new();
    for found in join_all(config.lookupd.iter().map(|lookupd| admin.lookup(lookupd, topic))).await {
        match found {
            Ok(found) => nsqds.extend(found.into_iter().filter_map(|nsqd| nsqd.http)),
            Err(error) => errors.push(error),
        }
    }
    (nsqds, errors)
}

/// Creates the channel of `node` on every nsqd.
///
/// # Errors
/// Which nsqds could not be asked; on the others it is.
pub(super) async fn create_everywhere(admin: &Admin, config: &config::QueueConfig, node: &str) -> Result<(), String> {
    let topic = Topics::new(config).live;
    let (nsqds, mut errors) = all_nsqds(admin, config, &topic).await;
    let channels = [node];
    let created = join_all(nsqds.iter().map(|http| admin.create_channels(http, &topic, &channels))).await;
    errors.extend(created.into_iter().filter_map(Result::err));
    if errors.is_empty() { Ok(()) } else { Err(errors.join("; ")) }
}

/// The channels that can be found; a server that does not answer `within` is left out.
pub(super) async fn known(admin: &Admin, config: &config::QueueConfig, within: Duration) -> BTreeSet<String> {
    let topic = Topics::new(config).live;
    let (nsqds, _) = all_nsqds(admin, config, &topic).await;
    let (on_nsqds, in_lookupds) = tokio::join!(
        join_all(nsqds.iter().map(|http| timeout(within, admin.channels_of(http, &topic)))),
        join_all(config.lookupd.iter().map(|lookupd| timeout(within, admin.channels_listed(lookupd, &topic)))),
    );
    let answers = on_nsqds.into_iter().chain(in_lookupds);
    answers.filter_map(|asked| asked.ok()?.ok()).flatten().collect()
}

/// Deletes the channel of a node that is gone, and its own topic: on every nsqd that is configured or that a nsqlookupd knows, and there.
/// How many nsqds had it.
///
/// # Errors
/// Somebody reads it, its topic has pushes that were not sent on yet, or which of them could not be asked; the others are done.
pub async fn forget_node(config: &config::QueueConfig, node: &str) -> Result<usize, String> {
    let admin = Admin::new(config.lookup_timeout)?;
    let topic = Topics::new(config).live;
    // a node that is cut off from etcd alone serves on
    if let Some(nsqd) = reader(&admin, config, &topic, node).await? {
        return Err(format!("it is read at {nsqd}: the node lives and does not reach etcd"));
    }
    let (nsqds, mut errors) = all_nsqds(&admin, config, &topic).await;
    // nsqlookupd first: an nsqd that makes a topic anew takes the channels from there
    for lookupd in &config.lookupd {
        if let Err(error) = admin.delete_channel(lookupd, &topic, node).await {
            errors.push(error);
        }
    }
    let mut deleted = 0;
    for done in join_all(nsqds.iter().map(|http| admin.delete_channel(http, &topic, node))).await {
        match done {
            Ok(had) => deleted += usize::from(had),
            Err(error) => errors.push(error),
        }
    }
    if config.node_topics
        && let Err(error) = delete_node_topic(&admin, config, node).await
    {
        errors.push(error);
    }
    if errors.is_empty() { Ok(deleted) } else { Err(errors.join("; ")) }
}

/// Deletes the topic of a node that is gone, once nothing waits there.
async fn delete_node_topic(admin: &Admin, config: &config::QueueConfig, node: &str) -> Result<(), String> {
    let topic = Topics::new(config).of_node(node);
    let (nsqds, mut errors) = all_nsqds(admin, config, &topic).await;
    for http in &nsqds {
        if let Some(channel) = admin.stats(http, &topic, node).await?
            && channel.unfinished() > 0
        {
            return Err(format!("{} pushes for it wait at {http} to be sent on", channel.unfinished()));
        }
    }
    let servers = config.lookupd.iter().chain(&nsqds);
    for done in join_all(servers.map(|server| admin.delete_topic(server, &topic))).await {
        if let Err(error) = done {
            errors.push(error);
        }
    }
    if errors.is_empty() { Ok(()) } else { Err(errors.join("; ")) }
}

/// An nsqd where someone reads the node's channel, if there is one; an error names those that could not be asked.
async fn reader(
    admin: &Admin,
    config: &config::QueueConfig,
    topic: &str,
    node: &str,
) -> Result<Option<String>, String> {
    let (nsqds, mut errors) = all_nsqds(admin, config, topic).await;
    for http in nsqds {
        match admin.stats(&http, topic, node).await {
            Ok(Some(channel)) if !channel.clients.is_empty() => return Ok(Some(http)),
            Ok(_) => {}
            Err(error) => errors.push(error),
        }
    }
    if errors.is_empty() { Ok(None) } else { Err(errors.join("; ")) }
}
