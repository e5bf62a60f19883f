//! The queue's contract, which each backend keeps: see contract/suite.rs.
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

#[macro_use]
#[path = "contract/suite.rs"]
mod suite;
#[path = "contract/embedded.rs"]
mod embedded;
#[path = "contract/nsq.rs"]
mod nsq;
mod support;

mod on_embedded {
    contract!(crate::embedded::Embedded);
}

mod on_nsq {
    contract!(crate::nsq::Nsq);
}
