//! The contract on Redis: on one server, and on a Redis Cluster.

use crate::{
    suite::{Backend, Settings},
    support::redis::{RedisCluster, RedisServer},
};

/// Each idempotency key says again that nobody knows what has become of its push.
fn forget(server: &RedisServer) {
    for key in server.cli(&["KEYS", "*:i:*"]).lines() {
        server.cli(&["SETRANGE", key, "24", "p"]);
    }
}

/// Long ones, since servers of many tests share a machine: the promises are not about time.
const PATIENT: [(&str, &str); 2] = [("REDIS__TIMEOUT", "10s"), ("STORE__TIMEOUT", "20s")];

fn settings(more: &[(&'static str, String)]) -> Settings {
    let patient = PATIENT.map(|(key, value)| (key, value.to_owned()));
    let backend = ("STORE__BACKEND", "redis".to_owned());
    patient.into_iter().chain([backend]).chain(more.iter().cloned()).collect()
}

pub struct OneRedis {
    server: RedisServer,
}

impl Backend for OneRedis {
    async fn start() -> Self {
        Self { server: RedisServer::start().await }
    }

    fn settings(&self) -> Settings {
        settings(&[("REDIS__URL", self.server.url())])
    }

    fn forget_that_keys_are_done(&self) {
        forget(&self.server);
    }
}

pub struct Cluster {
    cluster: RedisCluster,
}

impl Backend for Cluster {
    async fn start() -> Self {
        Self { cluster: RedisCluster::start().await }
    }

    fn settings(&self) -> Settings {
        settings(&[("REDIS__URL", self.cluster.urls()), ("REDIS__CLUSTER", "true".into())])
    }

    fn forget_that_keys_are_done(&self) {
        self.cluster.nodes.iter().for_each(forget);
    }
}
