//! `[queue] replay_hold`: after a start hand-outs wait for the clients that were there before it.
//!
//! A live push finds only the clients that are there when it is handed out. Those that a restart sent away come back
//! within moments; what comes for them meanwhile, or was left by the process before, waits for that.

use std::time::Duration;

use super::{
    clients_before::{ClientsBefore, ClientsNote, SentAwayClients},
    embedded::HeldRecords,
    nsq::HoldSignals,
};
use crate::push::AddressCounts;

/// How long a start holds hand-outs, and for whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HoldPlan {
    /// At most.
    pub(crate) time: Duration,
    /// Whose return ends it early; `None`: nobody knows.
    pub(crate) missing: Option<AddressCounts>,
}

impl HoldPlan {
    /// For the clients of the process before. `None`: nothing is held, because there were none, or `replay_hold` is zero.
    /// `is_first`: there was no process before that took a push.
    fn new(replay_hold: Duration, before: &ClientsBefore, is_first: bool) -> Option<Self> {
        if replay_hold.is_zero() {
            return None;
        }
        match before {
            ClientsBefore::Unknown if is_first => None,
            ClientsBefore::Unknown => Some(Self { time: replay_hold, missing: None }),
            ClientsBefore::Known(clients) if clients.counts.is_empty() => None,
            ClientsBefore::Known(clients) => {
                Some(Self { time: replay_hold + clients.delay, missing: Some(clients.counts.clone()) })
            }
        }
    }

    /// For the log's line: for how many addresses' clients it is.
    pub(crate) fn addresses(&self) -> String {
        self.missing.as_ref().map_or_else(|| "unknown".into(), |missing| missing.addresses().to_string())
    }
}

/// A hold that ends as soon as the clients that it is for are back; where they are not known, with its time.
pub struct ReplayHold {
    pub(crate) missing: AddressCounts,
    pub(crate) end: HoldEnd,
}

/// The backend's side of it.
pub(crate) enum HoldEnd {
    Embedded(HeldRecords),
    Nsq(HoldSignals),
}

impl ReplayHold {
    /// The clients that are missing at the start.
    pub fn missing(&self) -> &AddressCounts {
        &self.missing
    }

    /// It is over, by its time or by a stop.
    pub fn is_over(&self) -> bool {
        match &self.end {
            HoldEnd::Embedded(records) => !records.are_held(),
            HoldEnd::Nsq(signals) => signals.is_over(),
        }
    }

    /// A client is here: what is new need not wait for others, where those may be elsewhere.
    pub fn somebody_is_here(&self) {
        if let HoldEnd::Nsq(signals) = &self.end {
            signals.somebody_is_here();
        }
    }

    /// They are back: hand-outs begin.
    pub fn end(self) {
        match self.end {
            HoldEnd::Embedded(records) => records.release(),
            HoldEnd::Nsq(signals) => signals.all_are_back(),
        }
    }
}

/// What a stop tells the next start of its clients.
pub(crate) struct StopNote {
    note: ClientsNote,
    /// What this start waits for, or waited for.
    plan: Option<HoldPlan>,
    /// What is to be left; `None`: nothing is known of it.
    clients: Option<SentAwayClients>,
}

impl StopNote {
    /// What the process before left is read and taken away. `is_first`: that one took no push, if there was one.
    pub(crate) fn after(note: ClientsNote, replay_hold: Duration, is_first: bool) -> Self {
        let plan = HoldPlan::new(replay_hold, &note.take(), is_first);
        Self { note, plan, clients: None }
    }

    /// What this start waits for.
    pub(crate) fn plan(&self) -> Option<&HoldPlan> {
        self.plan.as_ref()
    }

    /// The node sends these `clients` away. `is_held`: its own start still waits for clients, and so must the next one.
    pub(crate) fn set(&mut self, clients: SentAwayClients, is_held: bool) {
        self.clients = match &self.plan {
            Some(HoldPlan { missing: None, .. }) if is_held => None,
            Some(HoldPlan { missing: Some(missing), .. }) if is_held => {
                Some(SentAwayClients { counts: clients.counts.or_more(missing), ..clients })
            }
            _ => Some(clients),
        };
    }

    /// Writes it, if there is something to write. It blocks on the disk.
    pub(crate) fn leave(&self) {
        let Some(clients) = &self.clients else { return };
        if let Err(error) = self.note.leave(clients) {
            tracing::warn!(
                %error,
                "the clients that were sent away could not be noted: the next start waits for [queue] replay_hold"
            );
        }
    }
}
