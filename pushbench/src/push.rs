//! Sending pushes, over HTTP or gRPC, and timing their acknowledgements.

mod grpc;
mod http;

use std::sync::Arc;

use hdrhistogram::Histogram;

use crate::{
    Result,
    address::Address,
    cli::{Load, Via},
    layout::{Aim, Target},
    marker::Marker,
    pace::{Plan, Push, Source},
    profile::Profile,
    shared::Shared,
};

/// Where and how pushes are sent.
#[derive(Clone, Debug)]
pub(crate) struct Sender {
    via: Via,
    address: Address,
    profile: Profile,
    aim: Aim,
    key: Option<String>,
    size: usize,
    http_connections: usize,
    http_pipeline: usize,
    grpc_streams: usize,
    unary: bool,
    offline: bool,
}

/// What one sending phase brought.
pub(crate) struct Sent {
    /// From due to acknowledged, ns.
    pub(crate) latency: Histogram<u64>,
    /// Rounds given up.
    pub(crate) stalled: u32,
}

impl Sender {
    pub(crate) fn new(load: &Load, aim: Aim) -> Result<Self> {
        let via = load.via.unwrap_or(if load.http.is_none() && load.grpc.is_some() { Via::Grpc } else { Via::Http });
        let address = match via {
            Via::Http => load.http.as_ref().ok_or("--http is missing: where do pushes go?"),
            Via::Grpc => load.grpc.as_ref().ok_or("--grpc is missing: where do pushes go?"),
        }?;
        let callers = load.callers();
        if via == Via::Grpc && !callers.grpc() {
            return Err(format!("{} takes pushes over HTTP only: give --http", callers.name()).into());
        }
        let known = match aim {
            Aim::Cards { .. } => callers.has_cards(),
            Aim::Rooms => true,
            Aim::Everyone => callers.has_everyone(),
        };
        if !known {
            return Err(format!("a push of {} cannot be addressed so: name other --callers", callers.name()).into());
        }
        if load.offline && !(callers.has_cards() && aim != Aim::Everyone) {
            return Err("only oxipush stores pushes, for cards or a room: leave --offline out".into());
        }
        Ok(Self {
            via,
            address: Address::parse(address, "http")?,
            profile: callers,
            aim,
            key: load.key.clone(),
            size: load.size as usize,
            http_connections: load.http_connections as usize,
            http_pipeline: load.http_pipeline as usize,
            grpc_streams: load.grpc_streams as usize,
            unary: load.unary,
            offline: load.offline,
        })
    }

    pub(crate) fn via(&self) -> Via {
        self.via
    }

    /// Pushes that can be unacknowledged at once.
    pub(crate) fn most(&self) -> usize {
        match self.via {
            Via::Http => self.http_connections * self.http_pipeline,
            Via::Grpc => usize::MAX,
        }
    }

    /// Whether two pushes to one target may overtake each other on their way.
    pub(crate) fn races(&self) -> bool {
        match self.via {
            Via::Http => self.http_connections > 1,
            Via::Grpc => self.unary,
        }
    }

    /// Sends the plan's pushes until it is done and everything is answered.
    pub(crate) fn run(&self, shared: &Arc<Shared>, plan: Plan) -> Result<Sent> {
        let source = Source::new(Arc::clone(shared), plan);
        match self.via {
            Via::Http => http::run(self, shared, source),
            Via::Grpc => grpc::run(self, shared, source),
        }
    }

    fn content(&self, shared: &Shared, push: &Push, out: &mut Vec<u8>) {
        Marker { run: shared.run, seq: push.seq, due: push.due }.write(self.size, out);
    }
}

/// Whom a push to each target names.
fn targets(shared: &Shared) -> Vec<Target> {
    (0..shared.targets()).map(|target| shared.layout.named(shared.run, target)).collect()
}

/// A histogram of ns up to two minutes.
pub(crate) fn histogram() -> Histogram<u64> {
    Histogram::new_with_max(120_000_000_000, 3).expect("invariant: these bounds are valid")
}
