//! What a reader of events may ask for, over gRPC and HTTP.

use super::refusal::{Refusal, RefusalKind};
use crate::{
    auth::Caller,
    config::{EventKind, EventKinds},
    events::EventReadError,
};

impl From<EventReadError> for Refusal {
    fn from(error: EventReadError) -> Self {
        let kind = match error {
            EventReadError::Elsewhere(_) | EventReadError::Taken => RefusalKind::Conflict,
            EventReadError::TooMany => RefusalKind::Full,
            EventReadError::NotTold(_) | EventReadError::NotSent => RefusalKind::BadField,
        };
        Self::new(kind, error.to_string())
    }
}

/// The kinds of these words; none: all kinds.
///
/// # Errors
/// One of them is no kind.
pub(super) fn kinds_of<'a>(words: impl IntoIterator<Item = &'a str>) -> Result<EventKinds, Refusal> {
    let kind = |word: &str| {
        EventKind::of_word(word).ok_or_else(|| {
            let words = EventKind::ALL.map(EventKind::word).join(", ");
            Refusal::field("kinds", format_args!("has {word:?}, which is none of {words}"))
        })
    };
    words.into_iter().map(kind).collect()
}

/// Refuses a caller whose key is for a part of what events tell of.
///
/// # Errors
/// It is.
pub(super) fn check_unbounded(caller: &Caller) -> Result<(), Refusal> {
    if !caller.is_bounded() {
        return Ok(());
    }
    let message = format!(
        "the key {0} is for some cards, rooms or apps only, and events tell of all: use a key without these ([key.{0}])",
        caller.name()
    );
    Err(Refusal::new(RefusalKind::NotAdmitted, message))
}
