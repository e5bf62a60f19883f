//! What clients say and do reaches the back end: the webhook, the gRPC stream, NSQ; whatever is killed meanwhile.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "events/end_to_end.rs"]
mod end_to_end;
#[path = "events/hook.rs"]
mod hook;
#[path = "events/stream.rs"]
mod stream;
mod support;
#[path = "events/webhook.rs"]
mod webhook;
