//! oxipush is a push gateway. The life of one push:
//!
//! 1. [`ingress`] parses it, checks who pushes and what, gives it its [`push::PushId`] and encodes the record;
//! 2. [`queue`] has it for good (embedded log or nsqd) before the back end is answered;
//! 3. [`dispatch`] takes the job, routes it by its card, room or app over its lanes;
//! 4. [`hub`] finds the clients of each address, encodes one frame for each dialect and offers it to their outboxes;
//! 5. [`socket`] owns the connections: handshake, join, heartbeat, writes, close codes;
//! 6. dispatch finishes the job once each of its parts was offered, gathered to be merged, or dropped for a counted reason.
//!
//! A push with `offline` goes into the [`store`] instead of the queue, and from there to dispatch: what is there gets it at once,
//! what comes later reads it there. Shards ask for what their clients miss; dispatch reads it for them.
//!
//! An order to end clients ([`push::Disconnect`]) goes the same way up to the shards, which end their clients some at a time.
//!
//! [`gateway`] builds these parts in order and drains them in reverse; [`cluster`] tells the others that this node is there.
//! [`events`] tells the back end what clients say and do. [`routing`] sends a push to the nodes alone that hold its clients, where
//! there is a directory of them.
//!
//! Arrows point one way (`tests/architecture.rs` holds them): gateway → {ingress, dispatch, socket} → {events, routing} → {hub, queue,
//! store, cluster, auth} → {log, wire} → push.
//!
//! # Which thread one is on
//!
//! - **tokio's workers** (`[node] workers`; 0: one for each core) run all that is a named task of [`lifecycle`]: gRPC, nsq's
//!   producer and consumers, the intake, the lanes and the time-outs of dispatch, the webhook, cluster. Any of them may run on any of
//!   these threads, so what they share is `Send`.
//! - **Socket workers**, actix's, as many again, 64 at most. Each owns one shard of the hub and all connections that it
//!   accepted, from handshake to close. They are `!Send`, and a push is delivered to them without a lock: other threads reach
//!   a shard by its inbox only.
//! - **HTTP workers**, actix's, two: requests, queries and the exposition of metrics. A push waits for the queue there without
//!   keeping its thread.
//! - **The embedded log's thread**, `queue`, if there is one: the only one that writes, syncs and reads its files.
//! - **The events' thread**, `events`, where clients' messages are kept: the same for their log.
//! - **The store's thread**, `store`, where there is one: the only one that writes and syncs the log of the streams. Pages are read
//!   beside it, on tokio's blocking threads.
//! - **The log lines' thread**, `log`: whoever logs leaves the line in a buffer and goes on.
//!
//! # What joins the threads
//!
//! Each of these is bounded, and its bound has a key in config.ini, or follows from one.
//!
//! | from → to | by | bound |
//! |---|---|---|
//! | ingress → embedded log | the log's memory under a mutex, which is held for no I/O | `[queue] max_publishes`, `max_bytes` |
//! | ingress → nsq's publisher | a channel | `[queue] max_publishes` |
//! | queue → dispatch | a channel of bundles ([`bundles`]) of jobs | `[queue] max_in_flight` |
//! | intake → each lane | what waits for the lane's task: a channel of bundles of records, of parts and of disconnects. While nothing waits, intake works the lane off itself | `[queue] max_in_flight` shared among `[queue] processors` lanes |
//! | ingress and dispatch → routing | a channel of pushes, where there is a directory | `[queue] max_publishes` |
//! | in flight → forwarder | an unbounded channel of pushes whose clients are at another node by now | the jobs in flight: `[queue] max_in_flight` |
//! | shards and sockets → directory | the entries under a mutex, which is held for no I/O | cards and rooms of this node |
//! | lane → each shard | a channel of bundles of parts, the shard's inbox | `[hub] inbox` |
//! | a client → ingress | a channel of clients' own pushes | `[queue] max_publishes`; of one client `[socket] max_pending` |
//! | shards → presence | a channel of who came into rooms and left | `[rooms] presence_buffer` |
//! | shards → shared presence | with a directory instead: which cards are in which rooms, under a mutex, which is held for no I/O | cards in rooms of this node; of those that came and left while Redis was away `[rooms] presence_buffer` |
//! | shared presence → presence | a channel of what is to be told | one round's |
//! | dispatch → presence notices | a channel of what other nodes tell of rooms | `[rooms] presence_buffer` |
//! | shard → dispatch | an unbounded channel of completions, one for each job, which the shard's thread empties after its turn | the jobs in flight: `[queue] max_in_flight` |
//! | a lane → itself | pushes that are gathered until their window ends | `[rooms] merge_bytes` of all lanes, `merge_window` |
//! | shard → a client | its outbox, on one thread | `[outbox] max_bytes` |
//! | ingress and socket → the store's thread | the store's memory under a mutex, which is held for no I/O | `[store] max_appends`, `max_bytes` |
//! | the store's thread → dispatch | a channel of bundles of stored pushes; what finds no room is found by the sweep | `[store] memory_bytes` |
//! | shards → dispatch | an unbounded channel of questions to the store | `[store] max_pages` of each shard |
//! | socket → the events' thread | the journal's memory under a mutex, which is held for no I/O | `[events] max_bytes` |
//! | any → webhook, nsqd or gRPC's reader | a channel of events of the kinds other than message; for each who only watches another | `[events] buffer`, `max_watchers` |
//! | any → the log lines' thread | a buffer under a mutex; what finds no room is counted | `[log] buffer` |
//!
//! Which shards hold an address stands in the hub's index: lanes read it, and joins and leaves change it, each under a lock for one
//! look-up.

#![warn(unreachable_pub)]
// the documentation is for those who work on it, and is made with private items
#![allow(rustdoc::private_intra_doc_links)]

mod auth;
mod bucket;
mod bundles;
pub mod cli;
mod cluster;
mod config;
mod dispatch;
mod events;
mod gateway;
mod hub;
mod ingress;
mod lifecycle;
mod log;
mod push;
mod queue;
mod record;
mod redis_client;
mod routing;
mod socket;
mod store;
mod telemetry;
mod wire;

/// What prost and tonic generate of proto/; used at the edges only (ingress, record, cli, cluster).
#[allow(missing_docs, unreachable_pub, clippy::all)]
mod proto {
    /// `package proto`: the gRPC API.
    pub mod rpc {
        tonic::include_proto!("proto");
    }
    /// `package order`: gpush's API.
    pub mod order {
        tonic::include_proto!("order");
    }
    /// `package oxipush`: the queue's record.
    pub mod record {
        tonic::include_proto!("oxipush");
    }
    /// `package etcdserverpb`: what the cluster says to etcd.
    pub mod etcd {
        tonic::include_proto!("etcdserverpb");
    }
    /// `package oxipush.peers`: what the nodes of one cluster ask each other.
    pub mod peers {
        tonic::include_proto!("oxipush.peers");
    }
    /// The descriptors of the first three, for gRPC reflection.
    pub const DESCRIPTORS: &[u8] = tonic::include_file_descriptor_set!("descriptor");
}

/// What the program's own tests, benchmarks, fuzz targets and examples use. It is no interface: any of it may change at any time.
#[doc(hidden)]
#[allow(missing_docs)]
pub mod internals {
    pub mod proto {
        pub use crate::proto::{DESCRIPTORS, order, peers, rpc};
    }
    pub mod auth {
        pub use crate::auth::{Patterns, identity::*};
    }
    pub mod bundles {
        pub use crate::bundles::{Bundles, channel};
    }
    pub mod cluster {
        pub use crate::cluster::{
            Announcement, Cluster, ClusterError, Directory, ForgetNode, Gathered, HasClients, Holders, Listeners, Node,
            NodeLoad, OthersPresent, Peers, PeersConfigError, PresenceNews, SharedPresence,
        };
    }
    pub mod config {
        pub use crate::config::*;
    }
    pub mod dispatch {
        pub use crate::dispatch::{Dispatch, HearPresence, NodeOrders, Revoke, SendClientsAway};
    }
    pub mod events {
        pub use crate::events::{Event, EventError, EventKind, Events, EventsConfigError, EventsControl};
    }
    pub mod gateway {
        pub use crate::gateway::{BuildError, FurtherListeners, Gateway, GatewayReload};
    }
    pub mod hub {
        pub use crate::hub::*;
    }
    pub mod ingress {
        pub use crate::ingress::{
            refusal::RefusalKind,
            scopes::{DELETE_SCOPES, SCOPES},
        };
    }
    pub mod lifecycle {
        pub use crate::lifecycle::*;
    }
    pub mod push {
        pub use crate::push::*;
    }
    pub mod queue {
        pub use crate::queue::{
            Destination, Job, Jobs, OpenError, PublishError, Publisher, Queue, QueueState, ReplayHold,
        };
        pub mod embedded {
            pub use crate::queue::embedded::open;
        }
        pub mod nsq {
            pub use crate::queue::nsq::{
                NodeTopicReader, NodeTopics, RawJob, RawTopic, RawTopics, forget_node, open, protocol,
            };
        }
        pub mod record {
            pub use crate::record::*;
        }
    }
    pub mod redis_client {
        pub use crate::redis_client::*;
    }
    pub mod routing {
        pub use crate::routing::*;
    }
    pub mod socket {
        pub use crate::socket::{ClientListener, ClientServer, Rebalancer, Upstream};
    }
    pub mod store {
        pub use crate::store::*;
    }
    pub mod telemetry {
        pub use crate::telemetry::{Metrics, labels};
    }
    pub mod wire {
        pub mod close {
            pub use crate::wire::close::*;
        }
        pub mod dialect {
            pub use crate::wire::dialect::*;
        }
        pub mod frame {
            pub use crate::wire::frame::*;
        }
        pub mod stream_ping {
            pub use crate::wire::stream_ping::*;
        }
    }
}
