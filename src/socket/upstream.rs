//! Where what clients send goes: their own pushes to admission, their messages to the back end.

use tokio::sync::mpsc;

use crate::{events::Events, hub::ClientPush};

/// The ways out of the clients' side; a cheap clone.
#[derive(Clone)]
pub struct Upstream {
    /// To who admits pushes.
    pub pushes: mpsc::Sender<ClientPush>,
    /// To the back end.
    pub events: Events,
}

impl Upstream {
    /// Where nobody listens: clients' pushes are refused, and the back end is told nothing.
    pub fn nowhere() -> Self {
        Self { pushes: mpsc::channel(1).0, events: Events::nobody() }
    }
}
