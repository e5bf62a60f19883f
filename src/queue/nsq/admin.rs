//! STUB of the cluster branch; the nsq branch's replaces it.

use std::time::Duration;

use crate::config;

/// Deletes the node's channel at every nsqd; how many had it.
///
/// # Errors
/// An nsqd could not be asked.
pub async fn delete_channel(config: &config::Queue, node: &str) -> Result<usize, String> {
    let client = reqwest::Client::new();
    let mut deleted = 0;
    for nsqd in &config.nsqd_http {
        let url = format!("http://{nsqd}/channel/delete?topic={}.live&channel={node}", config.topic);
        let answer =
            client.post(&url).timeout(Duration::from_secs(5)).send().await.map_err(|e| format!("{nsqd}: {e}"))?;
        deleted += usize::from(answer.status().is_success());
    }
    Ok(deleted)
}
