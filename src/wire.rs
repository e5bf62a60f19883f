//! What crosses a client's socket: frames (RFC 6455) and dialects. No I/O.

pub(crate) mod close;
pub(crate) mod dialect;
pub(crate) mod frame;
pub(crate) mod stream_ping;
