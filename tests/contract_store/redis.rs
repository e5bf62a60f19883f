//! The contract on Redis: on one server, and on a Redis Cluster.

use crate::{
    suite::{Backend, Settings},
    support::redis::{RedisCluster, RedisServer},
};

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
}
