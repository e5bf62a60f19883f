//! Who a client is allowed to be: tokens, key sets and call-outs, and what strangers do with them.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

#[path = "identity/attacks.rs"]
mod attacks;
#[path = "identity/call_outs.rs"]
mod call_outs;
#[path = "identity/issuers.rs"]
mod issuers;
#[path = "identity/joins.rs"]
mod joins;
#[path = "identity/key_sets.rs"]
mod key_sets;
#[path = "identity/keys.rs"]
mod keys;
#[path = "identity/rig.rs"]
mod rig;
