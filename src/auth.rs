//! Who may push and ask ([`keys`]), and who may connect ([`identity`]).

pub(crate) mod identity;
mod keys;
mod peer_key;

pub(crate) use crate::config::Scope;
pub use crate::push::Patterns;
pub(crate) use keys::{Caller, KeyError, Keys, OutOfBounds, PushDenial};
pub(crate) use peer_key::PeerKey;
