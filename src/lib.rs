//! oxipush is a push gateway. The life of one push:
//!
//! 1. [`ingress`] parses it, checks who pushes and what, gives it its [`push::PushId`] and encodes the record;
//! 2. [`queue`] has it for good (embedded log or nsqd) before the back end is answered;
//! 3. [`dispatch`] takes the job, splits it by card over its lanes,
//! 4. [`hub`] finds the connections of each card, encodes one frame for each dialect and offers it to their outboxes,
//! 5. [`socket`] owns the connections: handshake, join, heartbeat, writes, close codes;
//! 6. dispatch finishes the job once each of its parts was offered, or dropped for a counted reason.
//!
//! [`gateway`] builds these parts in order and drains them in reverse; [`cluster`] tells the others that this node is there.
//! Arrows point one way (`tests/architecture.rs` holds them): gateway → {ingress, dispatch, socket} → {hub, queue, cluster,
//! auth} → wire → push.

pub mod auth;
pub mod bundles;
pub mod cli;
pub mod cluster;
pub mod config;
pub mod dispatch;
pub mod gateway;
pub mod hub;
pub mod ingress;
pub mod lifecycle;
pub mod push;
pub mod queue;
pub mod socket;
pub mod telemetry;
pub mod wire;

/// What prost and tonic generate of proto/; used at the edges only (ingress, queue/record, cli, cluster/etcd).
#[allow(missing_docs, unreachable_pub, clippy::all)]
pub mod proto {
    /// `package proto`: the gRPC API.
    pub mod rpc {
        tonic::include_proto!("proto");
    }
    /// `package oxipush`: the queue's record.
    pub mod record {
        tonic::include_proto!("oxipush");
    }
    /// `package etcdserverpb`: what the cluster says to etcd.
    pub mod etcd {
        tonic::include_proto!("etcdserverpb");
    }
    /// The descriptors of the first two, for gRPC reflection.
    pub const DESCRIPTORS: &[u8] = tonic::include_file_descriptor_set!("descriptor");
}
