//! The store's contract, which each backend keeps: see contract_store/suite.rs.
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub, dead_code)]

#[macro_use]
#[path = "contract_store/suite.rs"]
mod suite;
#[path = "contract_store/embedded.rs"]
mod embedded;
#[path = "contract_store/redis.rs"]
mod redis;
mod support;

mod on_embedded {
    store_contract!(crate::embedded::Embedded);
}

mod on_redis {
    store_contract!(crate::redis::OneRedis);
}

mod on_a_redis_cluster {
    store_contract!(crate::redis::Cluster);
}
