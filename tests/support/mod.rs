//! Shared set-up of the tests.
#![allow(dead_code, missing_docs, unreachable_pub, clippy::unwrap_used)]

pub mod backlog;
pub mod client;
pub mod gateway;
pub mod nsq;
pub mod ports;
pub mod process;
pub mod proxy;
pub mod token;

/// reqwest wants a provider of TLS, in plain HTTP too. What every test calls that starts something calls this.
pub fn provide_tls() {
    // an error: it is there already
    let _ = rustls::crypto::ring::default_provider().install_default();
}
