//! Which scope each call needs: one table for HTTP, gRPC and `/metrics`; and whether a caller may make a call.

use super::refusal::{Refusal, RefusalKind};
use crate::{
    auth::{Caller, KeyError, Keys, OutOfBounds, PushDenial, Scope},
    config::{INGRESS, NodeRoles, SOCKET},
    telemetry::{Metrics, labels::CallerLabels},
};

/// Every path for callers with a key, of HTTP and of gRPC, with the scope that it needs; `{…}` in it stands for a name. The method
/// DELETE of a path is in [`DELETE_SCOPES`].
pub const SCOPES: &[(&str, Scope)] = &[
    ("/push", Scope::Push),
    ("/proto.Rpc/Push", Scope::Push),
    ("/push/batch", Scope::Push),
    ("/proto.Rpc/PushBatch", Scope::Push),
    ("/proto.Rpc/PushStream", Scope::Push),
    ("/push/all", Scope::Push),
    ("/push/room", Scope::Push),
    ("/v1/pushData", Scope::Push),
    ("/order.Proxy/PushData", Scope::Push),
    ("/order.Proxy/PullData", Scope::Push),
    ("/v1/push", Scope::Push),
    ("/v1/token", Scope::Push),
    ("/stats", Scope::Query),
    ("/system", Scope::Query),
    ("/proto.Rpc/System", Scope::Query),
    ("/isOnline", Scope::Query),
    ("/proto.Rpc/IsOnline", Scope::Query),
    ("/group", Scope::Query),
    ("/proto.Rpc/Group", Scope::Query),
    ("/rooms", Scope::Query),
    ("/rooms/{room}", Scope::Query),
    ("/cards", Scope::Query),
    ("/cards/{card}", Scope::Query),
    ("/clients/{client}", Scope::Query),
    ("/cards/{card}/stream", Scope::Query),
    ("/rooms/{room}/stream", Scope::Query),
    ("/disconnect", Scope::Disconnect),
    ("/proto.Rpc/Disconnect", Scope::Disconnect),
    ("/metrics", Scope::Metrics),
    ("/proto.Rpc/Events", Scope::Events),
    ("/events", Scope::Events),
    ("/nodes", Scope::Nodes),
    ("/rebalance", Scope::Admin),
    ("/pushes", Scope::Admin),
    ("/pushes/{id}", Scope::Admin),
];

/// Every path whose DELETE is for callers with a key. Who may push to a card or a room may take back what is stored for it.
pub const DELETE_SCOPES: &[(&str, Scope)] = &[
    ("/cards/{card}/stream", Scope::Push),
    ("/cards/{card}/stream/{seq}", Scope::Push),
    ("/cards/{card}/devices/{device}", Scope::Push),
    ("/rooms/{room}/stream", Scope::Push),
    ("/rooms/{room}/stream/{seq}", Scope::Push),
];

/// What a caller calls, by its path as the tables have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Call<'a> {
    /// By the method DELETE.
    Delete(&'a str),
    /// By another.
    Other(&'a str),
}

impl Call<'_> {
    /// The scope that it needs; `None`: it is nobody's.
    fn scope(self) -> Option<Scope> {
        let (table, path) = match self {
            Self::Delete(path) => (DELETE_SCOPES, path),
            Self::Other(path) => (SCOPES, path),
        };
        table.iter().find(|(known, _)| *known == path).map(|(_, scope)| *scope)
    }
}

/// Under which `caller` a request is counted that has none: no key can be named so.
const NOBODY: &str = "(nobody)";

/// Who makes this call, by an `Authorization` header's value or gRPC's metadata `authorization`. One that is not in the tables is
/// nobody's. Who is refused is counted, and not logged: anybody can cause that.
pub(super) fn caller_of(
    call: Call<'_>,
    authorization: Option<&[u8]>,
    keys: &Keys,
    roles: NodeRoles,
    metrics: &Metrics,
) -> Result<Caller, Refusal> {
    let caller = keys.caller(authorization).map_err(|error| {
        let refusal = Refusal::from(error);
        count(metrics, NOBODY, &refusal);
        refusal
    })?;
    let scope = call.scope().ok_or_else(Refusal::no_such_call)?;
    let refusal = match needed_role(scope, roles) {
        _ if !caller.may(scope) => Refusal::no_scope(&caller, scope),
        Some(role) => Refusal::wrong_role(roles, role),
        None => return Ok(caller),
    };
    count(metrics, caller.name(), &refusal);
    Err(refusal)
}

/// The role that a call of this scope needs and the node has not.
fn needed_role(scope: Scope, roles: NodeRoles) -> Option<&'static str> {
    match scope {
        Scope::Push | Scope::Disconnect => (!roles.has_ingress()).then_some(INGRESS),
        // what clients do is told where they are
        Scope::Events => (!roles.has_socket()).then_some(SOCKET),
        Scope::Query | Scope::Metrics | Scope::Nodes | Scope::Admin => None,
    }
}

/// Counts a refusal by its caller.
pub(super) fn count(metrics: &Metrics, caller: &str, refusal: &Refusal) {
    metrics.callers.get_or_create(&CallerLabels { caller: caller.to_owned(), outcome: refusal.kind.name() }).inc();
}

impl From<KeyError> for Refusal {
    fn from(error: KeyError) -> Self {
        let (kind, problem) = match error {
            KeyError::Missing => (RefusalKind::NoKey, "a key is needed"),
            KeyError::NotBearer => (RefusalKind::NoKey, "this authorization is no Bearer key"),
            KeyError::Unknown => (RefusalKind::WrongKey, "this key is not known"),
        };
        Self::new(kind, format!("{problem}: send authorization: Bearer <a key of [auth] keys or of a [key.NAME]>"))
    }
}

impl Refusal {
    /// A caller whose key lacks a scope.
    pub(super) fn no_scope(caller: &Caller, scope: Scope) -> Self {
        let caller = caller.name();
        let scope = scope.word();
        let message =
            format!("the key {caller} has not the scope {scope}: add it to [key.{caller}] scopes, or use another key");
        Self::new(RefusalKind::NoScope, message)
    }

    /// A call that this node, with these roles, leaves to others.
    fn wrong_role(roles: NodeRoles, needed: &str) -> Self {
        let message = format!(
            "this node has the role {roles} alone ([node] roles): call a node with the role {needed}, or the load balancer before them"
        );
        Self::new(RefusalKind::WrongRole, message)
    }

    /// A target out of the bounds of a caller.
    pub(super) fn not_admitted(caller: &Caller, out: &OutOfBounds) -> Self {
        let OutOfBounds { key, name } = out;
        let what = match (name, *key) {
            (Some(name), _) => format!("`{name}` is not among its {key}"),
            (None, "apps") => "it names no app, and this key is for some apps only".into(),
            (None, _) => "it names no card and no room, and this key is for some only".into(),
        };
        let caller = caller.name();
        let message = format!("the key {caller} may not reach this: {what} ([key.{caller}] {key})");
        Self::new(RefusalKind::NotAdmitted, message)
    }

    /// A push that its caller may not make, or not now.
    pub(super) fn denied(caller: &Caller, denial: PushDenial) -> Self {
        match denial {
            PushDenial::Withdrawn => Self::from(KeyError::Unknown),
            PushDenial::Scope => Self::no_scope(caller, Scope::Push),
            PushDenial::Target(out) => Self::not_admitted(caller, &out),
            PushDenial::Rate(wait) => {
                let caller = caller.name();
                let millis = wait.as_millis() + 1;
                let message = format!(
                    "the key {caller} pushes faster than its rate ([key.{caller}] rate, burst): try again in {millis} ms"
                );
                Self { wait: Some(wait), ..Self::new(RefusalKind::Rate, message) }
            }
        }
    }
}
