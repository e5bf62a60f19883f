//! What crosses a client's socket: frames (RFC 6455) and dialects. No I/O.

pub mod close;
pub mod dialect;
pub mod frame;
