//! go-push: `POST /push/all` with the form field `items`, `POST /push/room` with `room` and `items`.
//!
//! go-push answers 200 with an empty body whatever became of them. Here that is what an accepted call gets; a refused one gets
//! its status and the reason.

use bytestring::ByteString;
use serde_json::value::RawValue;

use super::form;
use crate::{
    config::PushLimits,
    ingress::{
        draft::Draft,
        limits::too_many_pushes,
        refusal::{Refusal, RefusalKind},
    },
    push::{Content, NameRule},
};

/// What a form asks for.
#[derive(Debug)]
pub(in crate::ingress) struct FormPush {
    /// One for each item, in order.
    pub(in crate::ingress) drafts: Vec<Result<Draft, Refusal>>,
    /// The room has no name: go-push takes such a push, and nobody gets it.
    pub(in crate::ingress) is_for_nobody: bool,
}

/// Reads the form of `/push/all`.
pub(in crate::ingress) fn everyone(form: &[u8], limits: &PushLimits) -> Result<FormPush, Refusal> {
    let drafts = drafts(form, limits, &Draft { everyone: true, ..Draft::default() })?;
    Ok(FormPush { drafts, is_for_nobody: false })
}

/// Reads the form of `/push/room`.
pub(in crate::ingress) fn room(form: &[u8], limits: &PushLimits) -> Result<FormPush, Refusal> {
    let room: ByteString = form::first(form, "room")?.unwrap_or_default().into_owned().into();
    let name = NameRule { max: limits.max_name };
    name.check_optional(&room).map_err(|error| Refusal::field("room", error))?;
    let is_for_nobody = room.is_empty();
    let drafts = drafts(form, limits, &Draft { room, ..Draft::default() })?;
    Ok(FormPush { drafts, is_for_nobody })
}

/// A draft as `like` for each item.
fn drafts(form: &[u8], limits: &PushLimits, like: &Draft) -> Result<Vec<Result<Draft, Refusal>>, Refusal> {
    let items = form::first(form, "items")?.ok_or_else(|| Refusal::field("items", "is missing"))?;
    let items: Vec<&RawValue> = serde_json::from_str(&items).map_err(|error| {
        let message =
            format!("`items` is no JSON array: {error}; send items=[{{\"msg\":\"hi\"}}] (curl --data-urlencode)");
        Refusal::new(RefusalKind::BadJson, message)
    })?;
    if items.len() > limits.max_batch {
        return Err(too_many_pushes(limits.max_batch));
    }
    let draft = |(nth, item): (usize, &&RawValue)| {
        let content = content(item.get()).ok_or_else(|| {
            Refusal::field(
                &format!("items[{nth}]"),
                "has an escape that stands for no character (half a surrogate pair)",
            )
        })?;
        Ok(Draft { content: Some(content), ..like.clone() })
    };
    Ok(items.iter().enumerate().map(draft).collect())
}

/// Any JSON value is an item, `null` too.
fn content(item: &str) -> Option<Content> {
    if item == "null" { Some(Content::Json("null".into())) } else { Content::of_json(item) }
}

/// What of the items was refused: the whole call is told so, with the status of the first.
pub(in crate::ingress) fn refusal_of<T>(outcomes: &[Result<T, Refusal>]) -> Option<Refusal> {
    let refusals = || outcomes.iter().filter_map(|outcome| outcome.as_ref().err());
    let first = refusals().next()?;
    let number = refusals().count();
    let all = outcomes.len();
    let message = match all {
        1 => first.message.clone(),
        _ => format!("{number} of {all} items were refused; the first: {}", first.message).into(),
    };
    // with the longest wait, since all of them may be tried again then
    let wait = refusals().map(|refusal| refusal.wait).max().flatten();
    Some(Refusal { kind: first.kind, message, wait })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::Duration;

    use super::*;

    const LIMITS: PushLimits =
        PushLimits { max_content: 1000, max_cards: 10, max_name: 8, max_batch: 3, max_ttl: Duration::from_secs(3600) };

    fn contents(push: FormPush) -> Vec<Option<Content>> {
        push.drafts.into_iter().map(|draft| draft.unwrap().content).collect()
    }

    #[test]
    fn each_item_is_a_push_of_its_own_whatever_json_it_is() {
        let push = room(br#"room=default&items=[{"msg": "hi"}, "x" ,null]"#, &LIMITS).unwrap();
        assert!(!push.is_for_nobody);
        assert_eq!(push.drafts[0].as_ref().unwrap().room, "default");
        let json = |text: &str| Some(Content::Json(text.into()));
        assert_eq!(contents(push), [json(r#"{"msg":"hi"}"#), Some("x".into()), json("null")]);
        let push = everyone(b"items=%5B1.0e2%2C%5B1%2C+2%5D%5D", &LIMITS).unwrap();
        assert!(push.drafts.iter().flatten().all(|draft| draft.everyone && draft.room.is_empty()));
        assert_eq!(contents(push), [json("1.0e2"), json("[1,2]")]);
        assert!(everyone(b"items=[]", &LIMITS).unwrap().drafts.is_empty());
    }

    #[test]
    fn a_room_without_a_name_is_nobodys_and_no_mistake() {
        for form in [&b"items=[1]"[..], b"room=&items=[1]"] {
            assert!(room(form, &LIMITS).unwrap().is_for_nobody);
        }
    }

    #[test]
    fn what_go_push_answers_with_200_and_forgets_is_refused_with_the_reason() {
        for (form, kind, message) in [
            (&b"room=a"[..], RefusalKind::BadField, "`items` is missing"),
            (b"items=", RefusalKind::BadJson, "`items` is no JSON array"),
            (br#"items={"a":1}"#, RefusalKind::BadJson, "`items` is no JSON array"),
            (br#"items=[{"a":1}"#, RefusalKind::BadJson, "`items` is no JSON array"),
            (b"items=[1,2,3,4]", RefusalKind::BadField, "`pushes` are more than 3"),
            (b"items=[1]&room=far-too-long", RefusalKind::BadField, "`room` has 12 bytes"),
            (b"items=[1]&room=%07", RefusalKind::BadField, "`room` has the control character"),
        ] {
            match room(form, &LIMITS) {
                Ok(_) => assert!(message.is_empty(), "{}", form.escape_ascii()),
                Err(refusal) => {
                    assert_eq!(refusal.kind, kind, "{}", form.escape_ascii());
                    assert!(refusal.message.starts_with(message), "{}", refusal.message);
                }
            }
        }
        let push = everyone(br#"items=["\ud800",1]"#, &LIMITS).unwrap();
        assert!(push.drafts[0].is_err() && push.drafts[1].is_ok(), "one bad item costs only itself");
    }

    #[test]
    fn one_refused_item_is_told_by_its_own_words_and_several_by_their_number() {
        let refused = || Err(Refusal::new(RefusalKind::Full, "full"));
        assert_eq!(refusal_of(&[Ok(()), Ok(())]), None);
        assert_eq!(&*refusal_of::<()>(&[refused()]).unwrap().message, "full");
        let refusal = refusal_of(&[Ok(()), refused(), refused()]).unwrap();
        assert_eq!(&*refusal.message, "2 of 3 items were refused; the first: full");
    }
}
