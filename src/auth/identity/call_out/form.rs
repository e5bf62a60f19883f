//! What a call-out is asked and how its answer is read: in this gateway's own form, or in that of gpush's `authUrl`.

use std::collections::BTreeMap;

use reqwest::StatusCode;
use serde::Serialize;
use serde_json::{Map, Value};

use super::super::{
    Identity, IdentityError, Presented,
    claims::{self, ClaimRules},
};
use crate::{config::CallOutForm, push::PRIVATE_TOPICS};

/// What is posted in the gateway's own form.
#[derive(Serialize)]
struct CallOutQuestion<'a> {
    token: Option<&'a str>,
    card_id: &'a str,
    app_id: &'a str,
    address: String,
    headers: BTreeMap<&'a str, String>,
}

/// What is posted to gpush's `authUrl`.
#[derive(Serialize)]
struct GpushQuestion<'a> {
    token: &'a str,
}

/// What a body says.
pub(super) enum CallOutVerdict {
    /// The client is this one.
    Admitted(Box<Identity>),
    /// It is nobody; for the log, why, where that is not what every refusal says.
    Refused(Option<String>),
}

/// The body to post; `None`: there is nothing to ask about, because the form knows only tokens and the client has none.
pub(super) fn question(form: CallOutForm, presented: &Presented) -> Option<Vec<u8>> {
    let token = presented.token.as_deref();
    let body = match form {
        CallOutForm::Oxipush => serde_json::to_vec(&own_question(presented)),
        CallOutForm::Gpush => serde_json::to_vec(&GpushQuestion { token: token? }),
    };
    body.ok()
}

fn own_question(presented: &Presented) -> CallOutQuestion<'_> {
    let mut headers = BTreeMap::<&str, String>::new();
    for (name, value) in &presented.headers {
        // as RFC 9110 and, for cookies, RFC 9113 put those of one name together
        let separator = if name == "cookie" { "; " } else { ", " };
        headers
            .entry(name)
            .and_modify(|values| {
                values.push_str(separator);
                values.push_str(value);
            })
            .or_insert_with(|| value.clone());
    }
    CallOutQuestion {
        token: presented.token.as_deref(),
        card_id: &presented.card,
        app_id: &presented.app,
        address: presented.address.to_canonical().to_string(),
        headers,
    }
}

/// Whether an answer of this status says in its body what it says. gpush reads the body whatever the status is.
pub(super) fn is_body_read(form: CallOutForm, status: StatusCode) -> bool {
    status == StatusCode::OK || form == CallOutForm::Gpush && status.is_client_error()
}

/// What an answer's body says; `asked`: the second, since 1970, in which the question was asked.
///
/// # Errors
/// The answer has not the form.
pub(super) fn verdict(
    form: CallOutForm,
    status: StatusCode,
    claims: &ClaimRules,
    json: &[u8],
    asked: u64,
) -> Result<CallOutVerdict, String> {
    let answer: Map<String, Value> =
        serde_json::from_slice(json).map_err(|error| format!("its answer is no JSON object: {error}"))?;
    let mut identity = match form {
        CallOutForm::Oxipush => own_identity(claims, answer, asked)?,
        CallOutForm::Gpush if !is_success(&answer) => return Ok(CallOutVerdict::Refused(None)),
        // what a proxy or a router says of a path that is not there is no word about a client
        CallOutForm::Gpush if status != StatusCode::OK => return Err(format!("it answered {status} without a code")),
        CallOutForm::Gpush => match gpush_identity(claims, &answer) {
            Ok(identity) => identity,
            Err(why) => return Ok(CallOutVerdict::Refused(Some(why))),
        },
    };
    identity.issued_at = Some(asked);
    Ok(CallOutVerdict::Admitted(Box::new(identity)))
}

fn own_identity(claims: &ClaimRules, mut answer: Map<String, Value>, asked: u64) -> Result<Identity, String> {
    // who is named without a card is the card
    let names_no_card = !answer.contains_key("card") && !answer.contains_key("cards");
    if let Some(subject) = answer.get("sub").cloned().filter(|_| names_no_card) {
        answer.insert("card".to_owned(), subject);
    }
    let told = |error: IdentityError| format!("its answer: {error}");
    let mut identity = claims.identity(&answer).map_err(told)?;
    let end = claims::time(&answer, "exp").map_err(told)?;
    let life = claims::time(&answer, "ttl").map_err(told)?;
    identity.expires_at = match (end, life) {
        (Some(_), Some(_)) => return Err("its answer has exp and ttl: leave one out".to_owned()),
        (Some(end), None) if end <= asked => return Err("its answer has an exp that has passed".to_owned()),
        (end, life) => end.or_else(|| life.map(|seconds| asked.saturating_add(seconds))),
    };
    Ok(identity)
}

/// gpush takes a `code` that is missing for 0, and a text for its number.
fn is_success(answer: &Map<String, Value>) -> bool {
    match answer.get("code") {
        None | Some(Value::Null) => true,
        Some(Value::Number(code)) => code.as_f64() == Some(0.0),
        Some(Value::String(code)) => code.trim() == "0",
        Some(_) => false,
    }
}

/// The uid is the card; whoever logged in may have every private topic, as in gpush.
fn gpush_identity(claims: &ClaimRules, answer: &Map<String, Value>) -> Result<Identity, String> {
    let uid = answer.get("data").and_then(|data| data.get("user_info")).and_then(|user| user.get("uid"));
    let Some(Value::String(uid)) = uid.filter(|uid| *uid != "") else {
        return Err("its answer has code 0 and no text in data.user_info.uid".to_owned());
    };
    let mut own = Map::new();
    own.insert("sub".to_owned(), Value::from(uid.as_str()));
    own.insert("card".to_owned(), Value::from(uid.as_str()));
    own.insert("rooms".to_owned(), Value::from(format!("{PRIVATE_TOPICS}*")));
    claims.identity(&own).map_err(|error| format!("its uid: {error}"))
}
