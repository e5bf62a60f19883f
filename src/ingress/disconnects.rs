//! What every order to end clients passes, whichever way it comes in: checked, given an id and its time, published, counted.

mod ended;

use std::sync::Arc;

use bytestring::ByteString;
use tokio::time::Instant;

use super::{
    admission::PushSource,
    refusal::{Refusal, RefusalKind},
    scopes,
};
use crate::{
    auth::Caller,
    cluster::Peers,
    config::Config,
    hub::{ClientId, Hub},
    lifecycle::{Phase, Phases},
    push::{ClientSelector, Disconnect, NameRule, PushId, Target, unix_millis},
    queue::{Destination, Publisher, record},
    store::Store,
    telemetry::{
        Metrics,
        labels::{DisconnectLabels, PushOutcome},
    },
    wire::close::Close,
};

pub(crate) use ended::EndedConnections;
use ended::EndedReport;

/// The close codes that may be asked for.
const MAY_BE_ASKED: [Close; 4] = [Close::TokenExpired, Close::Reconnect, Close::Refused, Close::Disconnected];
/// Bytes of a reason that a close frame has room for.
const MAX_REASON: usize = 123;

/// An order as its caller wrote it, not checked yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)] // the API's own fields
pub(crate) struct DisconnectDraft {
    pub card_id: Option<ByteString>,
    pub app_id: Option<ByteString>,
    pub client: Option<ByteString>,
    pub sub: Option<ByteString>,
    pub code: Option<u32>,
    pub reason: Option<ByteString>,
    pub reconnect: bool,
    pub revoke: bool,
}

impl DisconnectDraft {
    /// The order that it asks for, accepted now.
    fn check(self, names: NameRule) -> Result<Disconnect, Refusal> {
        let close = close(self.code, self.reconnect)?;
        let reason = self.reason.filter(|reason| !reason.is_empty());
        if let Some(reason) = &reason {
            let rule = NameRule { max: MAX_REASON };
            rule.check(reason).map_err(|error| Refusal::field("reason", error))?;
        }
        if self.revoke && self.sub.is_none() {
            return Err(Refusal::field("revoke", "needs `sub`: only a subject's tokens can be revoked"));
        }
        let given = [("card_id", self.card_id), ("app_id", self.app_id), ("client", self.client), ("sub", self.sub)];
        let mut given = given.into_iter().filter_map(|(field, name)| Some((field, name?)));
        let (field, name) = given.next().ok_or_else(|| {
            Refusal::new(RefusalKind::BadField, "nobody is named: give one of `card_id`, `app_id`, `client` and `sub`")
        })?;
        if let Some((other, _)) = given.next() {
            return Err(Refusal::field(other, format_args!("stands beside `{field}`; give one of them")));
        }
        names.check(&name).map_err(|error| Refusal::field(field, error))?;
        let selector = match field {
            "card_id" => ClientSelector::Card(name),
            "app_id" => ClientSelector::App(name),
            "client" => {
                let id = ClientId::parse(&name);
                let id = id.ok_or_else(|| Refusal::field(field, "is no client's id: it has 26 characters"))?;
                ClientSelector::Client(id.to_bytes())
            }
            _ => ClientSelector::Subject(name),
        };
        let at = unix_millis();
        let id = PushId::generate();
        Ok(Disconnect { id, selector, code: close.code(), reason, revoke: self.revoke, at })
    }
}

/// With what clients are closed.
fn close(code: Option<u32>, reconnect: bool) -> Result<Close, Refusal> {
    let Some(code) = code else {
        return Ok(if reconnect { Close::Reconnect } else { Close::Disconnected });
    };
    let close = MAY_BE_ASKED.into_iter().find(|close| u32::from(close.code()) == code).ok_or_else(|| {
        let codes = MAY_BE_ASKED.map(|close| close.code().to_string()).join(", ");
        Refusal::field("code", format_args!("is {code}; it may be {codes} (docs/close-codes.md)"))
    })?;
    if reconnect && !close.is_come_back() {
        return Err(Refusal::field("reconnect", format_args!("contradicts `code`: {code} says do not come back")));
    }
    Ok(close)
}

/// Whom a push that reaches the same clients would be for. What a client, or a subject, joined is not known here: they may be
/// anybody.
fn reach(selector: &ClientSelector) -> Target {
    match selector {
        ClientSelector::Card(card) => Target::cards(vec![card.clone()]),
        ClientSelector::App(app) => Target { app: Some(app.clone()), ..Target::default() },
        ClientSelector::Client(_) | ClientSelector::Subject(_) => Target { everyone: true, ..Target::default() },
    }
}

/// An order that the queue has for good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AcceptedOrder {
    pub(crate) id: PushId,
    /// What it has done so far; `None`: nodes do not ask each other.
    pub(crate) ended: Option<EndedConnections>,
}

/// Takes orders to end clients; a cheap clone.
#[derive(Clone)]
pub(crate) struct Disconnects {
    core: Arc<DisconnectsCore>,
    report: Option<EndedReport>,
}

struct DisconnectsCore {
    names: NameRule,
    publisher: Publisher,
    store: Option<Store>,
    phases: Phases,
    metrics: Arc<Metrics>,
}

impl Disconnects {
    /// Orders go to all nodes through `publisher`. What they revoke is in `store` before that, so that a restart does not forget
    /// it; without one it is forgotten with the process.
    pub(crate) fn new(
        config: &Config,
        publisher: Publisher,
        store: Option<Store>,
        phases: Phases,
        metrics: &Arc<Metrics>,
    ) -> Self {
        let names = NameRule { max: config.push.max_name };
        let core = DisconnectsCore { names, publisher, store, phases, metrics: Arc::clone(metrics) };
        Self { core: Arc::new(core), report: None }
    }

    /// Who gives an order is told what it has done on this node, whose clients `hub` has, and on `peers`.
    #[must_use]
    pub(crate) fn asking(self, config: &Config, peers: Option<Peers>, hub: &Hub) -> Self {
        let report = peers.map(|peers| EndedReport::new(config, peers, hub.clone()));
        Self { report, ..self }
    }

    /// Publishes an order for a caller who waits until `deadline` (`None`: for ever), and asks what it has done.
    ///
    /// # Errors
    /// Why it was refused; after `Unavailable` or `TimedOut` it may be carried out all the same.
    pub(crate) async fn submit(
        &self,
        source: PushSource,
        caller: &Caller,
        deadline: Option<Instant>,
        draft: Result<DisconnectDraft, Refusal>,
    ) -> Result<AcceptedOrder, Refusal> {
        let id = self.submit_order(source, caller, deadline, draft).await?;
        let ended = match &self.report {
            Some(report) => Some(report.of(id).await),
            None => None,
        };
        Ok(AcceptedOrder { id, ended })
    }

    async fn submit_order(
        &self,
        source: PushSource,
        caller: &Caller,
        deadline: Option<Instant>,
        draft: Result<DisconnectDraft, Refusal>,
    ) -> Result<PushId, Refusal> {
        let core = &self.core;
        let mut count = CountedOrder { metrics: &core.metrics, source, deadline, outcome: None };
        let outcome = self.publish(caller, draft).await;
        if let Err(refusal) = &outcome
            && refusal.kind == RefusalKind::NotAdmitted
        {
            scopes::count(&core.metrics, caller.name(), refusal);
        }
        count.outcome =
            Some(outcome.as_ref().map_or_else(|refusal| refusal.kind.name(), |_| PushOutcome::Accepted.word()));
        if let Ok(id) = &outcome {
            tracing::trace!(%id, source = source.label(), caller = caller.name(), "a disconnect is in the queue");
        }
        outcome
    }

    async fn publish(&self, caller: &Caller, draft: Result<DisconnectDraft, Refusal>) -> Result<PushId, Refusal> {
        let order = draft?.check(self.core.names)?;
        if caller.is_bounded() {
            caller.admits(&reach(&order.selector)).map_err(|out| Refusal::not_admitted(caller, &out))?;
        }
        if self.core.phases.now() == Phase::Draining {
            return Err(Refusal::draining());
        }
        if order.revoke
            && let (Some(store), ClientSelector::Subject(subject)) = (&self.core.store, &order.selector)
        {
            store.revoke(subject, order.second()).await?;
        }
        self.core.publisher.publish(Destination::Live, record::encode_disconnect(&order)).await?;
        Ok(order.id)
    }
}

/// Counts what became of an order when it is dropped; without an outcome by then, its caller left.
struct CountedOrder<'a> {
    metrics: &'a Metrics,
    source: PushSource,
    deadline: Option<Instant>,
    outcome: Option<&'static str>,
}

impl Drop for CountedOrder<'_> {
    fn drop(&mut self) {
        let outcome = self.outcome.unwrap_or_else(|| {
            let passed = self.deadline.is_some_and(|deadline| deadline <= Instant::now());
            if passed { RefusalKind::DeadlinePassed.name() } else { PushOutcome::CallerLeft.word() }
        });
        self.metrics.disconnects.get_or_create(&DisconnectLabels { source: self.source.label(), outcome }).inc();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn card() -> DisconnectDraft {
        DisconnectDraft { card_id: Some("alice".into()), ..Default::default() }
    }

    fn check(draft: DisconnectDraft) -> Result<Disconnect, Refusal> {
        draft.check(NameRule { max: 64 })
    }

    #[test]
    fn the_code_follows_from_the_advice_where_none_is_given() {
        for (code, reconnect, closes) in [
            (None, false, 3504),
            (None, true, 3007),
            (Some(3004), true, 3004),
            (Some(3007), false, 3007),
            (Some(3007), true, 3007),
            (Some(3502), false, 3502),
            (Some(3504), false, 3504),
        ] {
            assert_eq!(check(DisconnectDraft { code, reconnect, ..card() }).unwrap().code, closes, "{code:?}");
        }
    }

    #[test]
    fn a_bad_order_is_refused_with_its_field() {
        let text = |text: &str| Some(ByteString::from(text));
        for (draft, message) in [
            (DisconnectDraft::default(), "nobody is named: give one of `card_id`"),
            (DisconnectDraft { revoke: true, ..Default::default() }, "`revoke` needs `sub`"),
            (DisconnectDraft { revoke: true, ..card() }, "`revoke` needs `sub`"),
            (DisconnectDraft { sub: text("a"), ..card() }, "`sub` stands beside `card_id`"),
            (DisconnectDraft { card_id: text(""), ..Default::default() }, "`card_id` is empty"),
            (
                DisconnectDraft { app_id: text("a\n"), ..Default::default() },
                "`app_id` has the control character U+000A",
            ),
            (DisconnectDraft { sub: text(&"x".repeat(65)), ..Default::default() }, "`sub` has 65 bytes; at most 64"),
            (DisconnectDraft { client: text("alice"), ..Default::default() }, "`client` is no client's id"),
            (DisconnectDraft { reason: text(&"x".repeat(124)), ..card() }, "`reason` has 124 bytes; at most 123"),
            (DisconnectDraft { code: Some(0), ..card() }, "`code` is 0; it may be 3004, 3007, 3502, 3504"),
            (DisconnectDraft { code: Some(3000), ..card() }, "`code` is 3000"),
            (DisconnectDraft { code: Some(3504), reconnect: true, ..card() }, "`reconnect` contradicts `code`: 3504"),
        ] {
            let refusal = check(draft).unwrap_err();
            assert_eq!(refusal.kind, RefusalKind::BadField);
            assert!(refusal.message.starts_with(message), "{}", refusal.message);
        }
    }
}
