//! Where pushes come in: HTTP, gRPC and raw NSQ, through one admission.

pub mod admission;
pub mod draft;
pub mod grpc;
pub mod http;
pub mod nsq;
pub mod refusal;
