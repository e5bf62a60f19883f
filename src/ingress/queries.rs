//! What back ends ask. Async: other nodes and the store will be asked too.

use bytestring::ByteString;

use super::refusal::Refusal;
use crate::{
    auth::Caller,
    config::PushLimits,
    hub::{Census, Hub},
    push::{NameRule, Target},
};

/// Answers what a back end asks about clients; a cheap clone.
#[derive(Clone)]
pub(crate) struct Queries {
    hub: Hub,
    name: NameRule,
}

impl Queries {
    /// About the clients of this node.
    pub(crate) fn new(limits: &PushLimits, hub: Hub) -> Self {
        Self { hub, name: NameRule { max: limits.max_name } }
    }

    /// The live connections of a card.
    ///
    /// # Errors
    /// It is no card's name, or none that the caller may push to without naming an app.
    pub(crate) async fn connections(&self, caller: &Caller, card: &ByteString) -> Result<usize, Refusal> {
        self.name.check(card).map_err(|error| Refusal::field("cardID", error))?;
        if caller.is_bounded() {
            let asked = caller.admits(&Target::cards(vec![card.clone()]));
            asked.map_err(|out| Refusal::not_admitted(caller, &out))?;
        }
        Ok(self.hub.connections(card))
    }

    /// How many are there now.
    pub(crate) async fn census(&self) -> Census {
        self.hub.census()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{auth::Keys, config, ingress::refusal::RefusalKind, telemetry::Metrics};

    #[tokio::test]
    async fn a_query_names_its_card_by_the_same_rule() {
        let config = config::load(None, []).unwrap();
        let metrics = Metrics::new().into();
        let open = Keys::new(&config, &metrics).caller(None).unwrap();
        let limits = PushLimits { max_name: 8, ..config.push.clone() };
        let queries = Queries::new(&limits, Hub::new(&config.hub, &config.outbox, 1, &metrics));
        assert_eq!(queries.connections(&open, &"ma yü&".into()).await, Ok(0));
        for (card, message) in [("", "`cardID` is empty"), ("123456789", "`cardID` has 9 bytes")] {
            let refusal = queries.connections(&open, &card.into()).await.unwrap_err();
            assert_eq!(refusal.kind, RefusalKind::BadField);
            assert!(refusal.message.starts_with(message), "{}", refusal.message);
        }
    }
}
