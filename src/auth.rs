//! Who may push and ask ([`keys`]), and who may connect ([`identity`]).

pub(crate) mod identity;
mod keys;

pub(crate) use crate::config::Scope;
pub use crate::push::Patterns;
pub(crate) use keys::{Caller, KeyError, Keys, OutOfBounds, PushDenial};
