//! Calls of go-push, gpush and gpusher, for callers that change nothing but an address: each asks for pushes as drafts, and says
//! refusals in its own way. Who carries them is http and grpc; docs/dialects/ says what is the same and what was repaired.

pub(super) mod form;
pub(super) mod go_push;
pub(super) mod gpush;
pub(super) mod gpusher;
pub(super) mod stats;
