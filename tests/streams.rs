//! Streams: stored pushes wait, come in order, once for each device until it acknowledges them, and outlast the process.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "streams/bounds.rs"]
mod bounds;
#[path = "streams/cards.rs"]
mod cards;
#[path = "streams/keys.rs"]
mod keys;
#[path = "streams/kills.rs"]
mod kills;
#[path = "streams/refusals.rs"]
mod refusals;
#[path = "streams/rig.rs"]
mod rig;
#[path = "streams/rooms.rs"]
mod rooms;
mod support;
