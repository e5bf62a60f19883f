//! `[node] roles`: what a node does of all that a node can do.

use std::fmt;

use super::{Backend, Config, reader::SectionReader};

/// The word of the role that takes pushes in.
pub const INGRESS: &str = "ingress";
/// The word of the role that holds clients.
pub const SOCKET: &str = "socket";

/// What a node does: one of the roles at least.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeRoles {
    ingress: bool,
    socket: bool,
}

impl NodeRoles {
    /// What a node does whose configuration names no role.
    pub const ALL: Self = Self { ingress: true, socket: true };

    /// It takes pushes and orders from back ends: HTTP, gRPC, raw NSQ.
    pub fn has_ingress(self) -> bool {
        self.ingress
    }

    /// It holds clients, and reads the pushes for them.
    pub fn has_socket(self) -> bool {
        self.socket
    }

    /// Whether it has both.
    pub fn is_all(self) -> bool {
        self == Self::ALL
    }

    /// As it is registered: empty for all.
    pub fn names(self) -> Vec<String> {
        if self.is_all() { Vec::new() } else { self.words().map(str::to_owned).collect() }
    }

    /// The words of its roles.
    fn words(self) -> impl Iterator<Item = &'static str> {
        [(self.ingress, INGRESS), (self.socket, SOCKET)].into_iter().filter_map(|(has, word)| has.then_some(word))
    }

    /// From the key's value: nothing, `all`, or a list of roles.
    fn parse(text: &str) -> Option<Self> {
        if text.is_empty() || text == "all" {
            return Some(Self::ALL);
        }
        let mut roles = Self { ingress: false, socket: false };
        for word in text.split(',').map(str::trim) {
            match word {
                INGRESS => roles.ingress = true,
                SOCKET => roles.socket = true,
                _ => return None,
            }
        }
        Some(roles)
    }
}

/// As people read it.
impl fmt::Display for NodeRoles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words().collect::<Vec<_>>().join(", "))
    }
}

pub(super) fn read(r: &mut SectionReader<'_>) -> NodeRoles {
    let right = format!("{INGRESS}, {SOCKET}, both, or empty for all");
    r.parse("node", "roles", &right, NodeRoles::ALL, NodeRoles::parse)
}

/// What a node with a part of the roles needs of the others.
pub(super) fn together(r: &mut SectionReader<'_>, config: &Config) {
    let roles = config.node.roles;
    if !roles.is_all() && config.queue.backend == Backend::Embedded {
        let what = format!(
            "{roles} alone needs a queue that it shares with nodes of the other role: set [queue] backend = nsq, or leave it \
             empty, and this node does both"
        );
        r.reject("node", "roles", what);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::load;
    use super::*;

    fn with(values: &[(&str, &str)]) -> Result<Config, String> {
        let values = values.iter().map(|(name, value)| (format!("OXIPUSH__{name}"), (*value).to_owned()));
        load(None, values).map_err(|error| error.to_string())
    }

    #[test]
    fn a_node_does_all_unless_it_is_told_otherwise() {
        let nsq = ("QUEUE__BACKEND", "nsq");
        for (given, ingress, socket, names) in [
            ("", true, true, &[][..]),
            ("all", true, true, &[]),
            ("socket, ingress", true, true, &[]),
            ("ingress", true, false, &["ingress"]),
            ("socket", false, true, &["socket"]),
        ] {
            let roles = with(&[nsq, ("NODE__ROLES", given)]).unwrap().node.roles;
            assert_eq!((roles.has_ingress(), roles.has_socket()), (ingress, socket), "{given}");
            assert_eq!(roles.names(), names, "{given}");
        }
    }

    #[test]
    fn what_a_part_of_the_roles_needs_is_told_at_the_start() {
        for given in ["ingress", "socket"] {
            let told = with(&[("NODE__ROLES", given)]).unwrap_err();
            assert!(told.contains(&format!("[node] roles: {given} alone needs a queue")), "{told}");
            assert!(told.contains("[queue] backend = nsq"), "{told}");
        }
        let told = with(&[("NODE__ROLES", "ingress, logic")]).unwrap_err();
        assert!(told.contains("[node] roles: \"ingress, logic\" is not ingress, socket, both, or empty"), "{told}");
    }

    #[test]
    fn a_node_without_clients_needs_nothing_that_they_need() {
        let open = [("SOCKET__LISTEN", "0.0.0.0:8080"), ("QUEUE__BACKEND", "nsq"), ("DRAIN__RATE", "1")];
        let told = with(&open).unwrap_err();
        assert!(told.contains("[socket] listen: ") && told.contains("[drain] rate: "), "{told}");
        assert!(with(&[&open[..], &[("NODE__ROLES", "ingress")]].concat()).is_ok());
        // its port is nobody's
        let same = [("QUEUE__BACKEND", "nsq"), ("HTTP__LISTEN", "127.0.0.1:8080"), ("NODE__ROLES", "ingress")];
        assert!(with(&same).is_ok());
    }
}
