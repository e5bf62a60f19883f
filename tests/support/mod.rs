//! Shared set-up of the tests.
#![allow(dead_code, missing_docs, unreachable_pub, clippy::unwrap_used)]

pub mod backlog;
pub mod browser;
pub mod client;
pub mod gateway;
pub mod http;
pub mod http_server;
pub mod ledger;
pub mod link;
pub mod nsq;
pub mod ports;
pub mod process;
pub mod proxy;
pub mod redis;
pub mod stream;
pub mod token;
