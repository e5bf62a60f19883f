//! Callers of go-push, gpush, gpusher and gopusher, who change nothing but an address.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

#[path = "compat/addresses.rs"]
mod addresses;
#[path = "compat/calls.rs"]
mod calls;
#[path = "compat/exchanges.rs"]
mod exchanges;
#[path = "compat/tags.rs"]
mod tags;
