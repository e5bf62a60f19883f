//! Where pushes come in: what HTTP and gRPC accept, answer and refuse, through real sockets.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "ingress/grpc.rs"]
mod grpc;
#[path = "ingress/grpc_bounds.rs"]
mod grpc_bounds;
#[path = "ingress/grpc_status.rs"]
mod grpc_status;
#[path = "ingress/http.rs"]
mod http;
#[path = "ingress/keys.rs"]
mod keys;
#[path = "ingress/options.rs"]
mod options;
#[allow(dead_code)]
#[path = "limits/program.rs"]
mod program;
#[path = "ingress/queries.rs"]
mod queries;
#[path = "ingress/raw.rs"]
mod raw;
#[path = "ingress/stored.rs"]
mod stored;
mod support;
#[path = "ingress/table.rs"]
mod table;
#[path = "ingress/targets.rs"]
mod targets;
