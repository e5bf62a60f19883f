//! Who may push and ask ([`keys`]), and who may connect ([`identity`]).

pub(crate) mod identity;
mod keys;
mod pattern;

pub(crate) use keys::{Caller, Keys};
pub use pattern::Patterns;
