//! Where pushes come in: what HTTP and gRPC accept, answer and refuse, through real sockets.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "ingress/grpc.rs"]
mod grpc;
#[path = "ingress/http.rs"]
mod http;
mod support;
#[path = "ingress/table.rs"]
mod table;
