//! Attacks on each listener, as bytes on a socket: each is refused or cut, counted, costs no memory that lasts, and others are
//! served meanwhile. The gateway is a process of its own, so that its memory and its time can be read.
//!
//! Attacks on identities and keys are in the tests of those; floods of a client's frames in `tests/socket_hostile.rs`; bounds of
//! what a gRPC call may hold in `tests/ingress/grpc_bounds.rs`.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "attacks/grpc.rs"]
mod grpc;
#[path = "attacks/heads.rs"]
mod heads;
#[path = "attacks/http.rs"]
mod http;
#[path = "attacks/http2.rs"]
mod http2;
#[path = "attacks/slow.rs"]
mod slow;
mod support;
#[path = "attacks/victim.rs"]
mod victim;
