//! The HTTP side of nsqd and nsqlookupd: topics and channels made, paused, counted and deleted.

use std::{sync::Arc, time::Duration};

use rustls::{ClientConfig, RootCertStore};
use serde::{Deserialize, de::DeserializeOwned};

use crate::telemetry::root_cause;

/// The most that an answer may have; a `/stats` of one channel has a few hundred bytes for each client.
const MAX_ANSWER: usize = 8 << 20;

/// Where an nsqd is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct NsqdAddress {
    /// Its TCP `host:port`.
    pub(super) tcp: String,
    /// Its HTTP `host:port`, if known.
    pub(super) http: Option<String>,
}

/// A client for both.
#[derive(Clone)]
pub(super) struct Admin {
    client: reqwest::Client,
}

#[derive(Deserialize)]
struct Stats {
    /// Of nsqd: OK, or what the last write to its disk failed with.
    #[serde(default)]
    health: String,
    #[serde(default)]
    topics: Vec<TopicStats>,
}

#[derive(Deserialize)]
struct TopicStats {
    topic_name: String,
    #[serde(default)]
    channels: Vec<ChannelStats>,
}

/// What nsqd says of one channel.
#[derive(Deserialize)]
pub(super) struct ChannelStats {
    pub(super) channel_name: String,
    /// Below 0 for a while in an nsqd that was killed: it finds more messages on its disk than it had noted.
    #[serde(default)]
    depth: i64,
    #[serde(default)]
    pub(super) in_flight_count: i64,
    #[serde(default)]
    deferred_count: i64,
    #[serde(default)]
    pub(super) paused: bool,
    #[serde(default)]
    pub(super) clients: Vec<ClientStats>,
}

impl ChannelStats {
    /// Messages that were not finished.
    pub(super) fn unfinished(&self) -> u64 {
        // a depth that is below 0 counts too few, and may hide as many
        [self.depth, self.in_flight_count, self.deferred_count].map(i64::unsigned_abs).iter().sum()
    }
}

/// What nsqd says of itself.
#[derive(Deserialize)]
struct NsqdInfo {
    broadcast_address: String,
    tcp_port: u16,
}

/// One consumer of a channel.
#[derive(Deserialize)]
pub(super) struct ClientStats {
    #[serde(default)]
    pub(super) client_id: String,
    #[serde(default)]
    pub(super) remote_address: String,
}

#[derive(Deserialize)]
struct LookupAnswer {
    #[serde(default)]
    producers: Vec<ListedNsqd>,
}

#[derive(Deserialize)]
struct ListedNsqd {
    broadcast_address: String,
    tcp_port: u16,
    http_port: u16,
}

#[derive(Deserialize)]
struct ChannelList {
    #[serde(default)]
    channels: Vec<String>,
}

impl Admin {
    /// Each call takes at most `within`.
    pub(super) fn new(within: Duration) -> Result<Self, String> {
        let wrong = |error: &dyn std::fmt::Display| format!("no HTTP client for nsqd: {error}");
        // nsqd is asked in the clear, so that nobody's certificate is trusted; without this reqwest would look for the system's
        let tls = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| wrong(&error))?
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        let client = reqwest::Client::builder().timeout(within).no_proxy().tls_backend_preconfigured(tls).build();
        Ok(Self { client: client.map_err(|error| wrong(&error))? })
    }

    /// Status and body; 404 is an answer too, since nsqd gives it for a topic or channel that is not there.
    async fn call(&self, post: bool, server: &str, path: &str, body: &'static str) -> Result<Option<Vec<u8>>, String> {
        let url = format!("http://{server}{path}");
        let error = |error: reqwest::Error| {
            format!("{server}{}: {}", path.split('?').next().unwrap_or(path), root_cause(&error))
        };
        let request = if post { self.client.post(&url).body(body) } else { self.client.get(&url) };
        let mut response = request.send().await.map_err(error)?;
        let status = response.status();
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(error)? {
            if body.len() + chunk.len() > MAX_ANSWER {
                return Err(format!("{server}: its answer has more than {MAX_ANSWER} bytes"));
            }
            body.extend_from_slice(&chunk);
        }
        match status.as_u16() {
            200 => Ok(Some(body)),
            404 => Ok(None),
            code => Err(format!("{server} answered {code}: {}", String::from_utf8_lossy(&body))),
        }
    }

    async fn get<T: DeserializeOwned>(&self, server: &str, path: &str) -> Result<Option<T>, String> {
        let body = self.call(false, server, path, "").await?;
        body.map(|body| serde_json::from_slice(&body).map_err(|error| format!("{server}: {error}"))).transpose()
    }

    /// Whether there was something to do it to.
    async fn post(&self, server: &str, path: &str) -> Result<bool, String> {
        Ok(self.call(true, server, path, "").await?.is_some())
    }

    /// Makes `topic` and its `channels` on one nsqd, where they are missing.
    pub(super) async fn create_channels<C: AsRef<str>>(
        &self,
        http: &str,
        topic: &str,
        channels: &[C],
    ) -> Result<(), String> {
        let made = self.post(http, &format!("/topic/create?topic={topic}")).await?;
        if !made {
            return Err(format!("{http} is not the HTTP address of an nsqd; correct [queue] nsqd_http"));
        }
        for channel in channels {
            self.post(http, &format!("/channel/create?topic={topic}&channel={}", channel.as_ref())).await?;
        }
        Ok(())
    }

    pub(super) async fn pause(&self, http: &str, topic: &str, channel: &str) -> Result<bool, String> {
        self.post(http, &format!("/channel/pause?topic={topic}&channel={channel}")).await
    }

    pub(super) async fn unpause(&self, http: &str, topic: &str, channel: &str) -> Result<bool, String> {
        self.post(http, &format!("/channel/unpause?topic={topic}&channel={channel}")).await
    }

    /// Deletes a channel at an nsqd or an nsqlookupd; whether it was there.
    pub(super) async fn delete_channel(&self, server: &str, topic: &str, channel: &str) -> Result<bool, String> {
        self.post(server, &format!("/channel/delete?topic={topic}&channel={channel}")).await
    }

    /// Deletes a topic with its channels at an nsqd or an nsqlookupd; whether it was there.
    pub(super) async fn delete_topic(&self, server: &str, topic: &str) -> Result<bool, String> {
        self.post(server, &format!("/topic/delete?topic={topic}")).await
    }

    /// What one nsqd says of a channel; `None` when it has none of that name.
    pub(super) async fn stats(&self, http: &str, topic: &str, channel: &str) -> Result<Option<ChannelStats>, String> {
        Ok(self.stats_and_health(http, topic, channel).await?.0)
    }

    /// As [`Admin::stats`], and what the nsqd's last write to its disk failed with.
    pub(super) async fn stats_and_health(
        &self,
        http: &str,
        topic: &str,
        channel: &str,
    ) -> Result<(Option<ChannelStats>, Option<String>), String> {
        let path = format!("/stats?format=json&topic={topic}&channel={channel}");
        let Some(stats) = self.get::<Stats>(http, &path).await? else { return Ok((None, None)) };
        let ill = (!matches!(&*stats.health, "" | "OK")).then_some(stats.health);
        let topics = stats.topics.into_iter().filter(|one| one.topic_name == topic);
        Ok((topics.flat_map(|one| one.channels).find(|one| one.channel_name == channel), ill))
    }

    /// Whether an nsqd whose last write failed can write by now: it only learns that by the next. What is written stands in a
    /// topic of its own, which is gone again afterwards.
    pub(super) async fn can_write(&self, http: &str, topic: &str) -> bool {
        let written = self.call(true, http, &format!("/pub?topic={topic}"), "a write on trial").await;
        let deleted = self.post(http, &format!("/topic/delete?topic={topic}")).await;
        if let Err(error) = deleted {
            tracing::debug!(error, topic, "nsq: the topic of a write on trial stays");
        }
        matches!(written, Ok(Some(_)))
    }

    /// How long one nsqd holds messages back to gather more.
    pub(super) async fn output_buffer_timeout(&self, http: &str) -> Option<Duration> {
        let nanos = self.get(http, "/config/output_buffer_timeout").await.ok().flatten();
        nanos.map(Duration::from_nanos)
    }

    /// The TCP address that an nsqd has in nsqlookupd.
    pub(super) async fn listed_as(&self, http: &str) -> Option<String> {
        let info: NsqdInfo = self.get(http, "/info").await.ok()??;
        Some(address(info.broadcast_address, info.tcp_port))
    }

    /// The largest message that one nsqd takes.
    pub(super) async fn max_message(&self, http: &str) -> Option<usize> {
        self.get(http, "/config/max_msg_size").await.ok().flatten()
    }

    /// The nsqds that one nsqlookupd knows to have `topic`; none when it does not know the topic.
    pub(super) async fn lookup(&self, lookupd: &str, topic: &str) -> Result<Vec<NsqdAddress>, String> {
        let found: Option<LookupAnswer> = self.get(lookupd, &format!("/lookup?topic={topic}")).await?;
        let address_of = |found: ListedNsqd| NsqdAddress {
            tcp: address(found.broadcast_address.clone(), found.tcp_port),
            http: Some(address(found.broadcast_address, found.http_port)),
        };
        Ok(found.into_iter().flat_map(|found| found.producers).map(address_of).collect())
    }

    /// The channels of `topic` on one nsqd.
    pub(super) async fn channels_of(&self, http: &str, topic: &str) -> Result<Vec<String>, String> {
        let path = format!("/stats?format=json&include_clients=false&topic={topic}");
        let stats: Option<Stats> = self.get(http, &path).await?;
        let topics = stats.into_iter().flat_map(|stats| stats.topics).filter(|one| one.topic_name == topic);
        Ok(topics.flat_map(|one| one.channels).map(|one| one.channel_name).collect())
    }

    /// The channels of `topic` that one nsqlookupd knows.
    pub(super) async fn channels_listed(&self, lookupd: &str, topic: &str) -> Result<Vec<String>, String> {
        let list: Option<ChannelList> = self.get(lookupd, &format!("/channels?topic={topic}")).await?;
        Ok(list.map(|list| list.channels).unwrap_or_default())
    }
}

fn address(host: String, port: u16) -> String {
    let is_bare_ipv6 = host.contains(':') && !host.starts_with('[');
    if is_bare_ipv6 { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn counts_below_0_are_read_and_tell_of_unfinished_messages() {
        // what nsqd 1.3.0 says after a SIGKILL
        for (depth, in_flight, deferred, unfinished) in
            [(0, 0, 0, 0), (-616, 0, 0, 616), (-616, 616, 0, 1232), (3, 0, 0, 3), (0, 1, 0, 1), (0, 0, 2, 2)]
        {
            let text = format!(
                r#"{{"version":"1.3.0","health":"OK","topics":[{{"topic_name":"t","depth":{depth},"channels":[
                {{"channel_name":"c","depth":{depth},"backend_depth":{depth},"in_flight_count":{in_flight},
                "deferred_count":{deferred},"paused":false,"clients":[]}}]}}]}}"#
            );
            let stats: Stats = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
            assert_eq!(stats.topics[0].channels[0].unfinished(), unfinished, "{text}");
        }
    }

    #[test]
    fn an_ipv6_address_is_bracketed_once() {
        for (host, expected) in [("a", "a:1"), ("10.0.0.1", "10.0.0.1:1"), ("::1", "[::1]:1"), ("[::1]", "[::1]:1")] {
            assert_eq!(address(host.into(), 1), expected);
        }
    }
}
