//! Limits that protect the server and do not punish a stall; a reload while all goes on; what signals do. Against the program as a
//! process of its own, through its public sockets.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "limits/descriptors.rs"]
mod descriptors;
#[path = "limits/program.rs"]
mod program;
#[path = "limits/rates.rs"]
mod rates;
#[path = "limits/reload.rs"]
mod reload;
#[path = "limits/signals.rs"]
mod signals;
mod support;
