//! Who may push and ask ([`keys`]), and who may connect ([`identity`]).

pub(crate) mod identity;
mod keys;
mod pattern;

pub(crate) use crate::config::Scope;
pub(crate) use keys::{Caller, KeyError, Keys, OutOfBounds, PushDenial};
pub use pattern::Patterns;
