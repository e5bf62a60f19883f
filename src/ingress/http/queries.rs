//! What back ends ask: gopusher's three questions, then rooms and cards, a page at a time.

use std::sync::Arc;

use actix_web::{HttpRequest, HttpResponse};
use serde_json::Value;

use super::{answer, path, query};
use crate::{
    auth::Caller,
    config::UnknownFields,
    hub::{ClientId, ClientInfo},
    ingress::{
        queries::{Answered, ClientPage, Counts, NamePage, NodeClient, Queries, QueryScope},
        refusal::Refusal,
    },
    push::{Address, AddressKind},
};

/// A question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum QueryRoute {
    System,
    IsOnline,
    Group,
    Rooms,
    Room,
    Cards,
    Card,
    Client,
}

/// Answers a request of a caller who may ask.
pub(super) async fn answer(
    route: QueryRoute,
    queries: &Queries,
    caller: &Caller,
    request: &HttpRequest,
    unknown: UnknownFields,
) -> Result<HttpResponse, Refusal> {
    let query = request.query_string();
    let text = match route {
        QueryRoute::System => system(queries, query::scope(query)?).await,
        QueryRoute::IsOnline => {
            let asked = query::card(query, unknown)?;
            let Answered { answer, missing } = queries.connections(caller, &asked.card, asked.scope).await?;
            let result = if answer > 0 { "yes" } else { "no" };
            format!(r#"{{"result":"{result}"{}}}"#, missing_field(&missing))
        }
        QueryRoute::Group => {
            let asked = query::card(query, unknown)?;
            let Answered { answer, missing } = queries.connections(caller, &asked.card, asked.scope).await?;
            let number = if answer == 0 { "-1".to_owned() } else { answer.to_string() };
            format!(r#"{{"clientNum":"{number}"{}}}"#, missing_field(&missing))
        }
        QueryRoute::Rooms => names(queries, caller, AddressKind::Room, query).await?,
        QueryRoute::Cards => names(queries, caller, AddressKind::Card, query).await?,
        QueryRoute::Room => clients(queries, caller, Address::Room(path::name(request.path())?), query).await?,
        QueryRoute::Client => one(queries, caller, request).await?,
        QueryRoute::Card => clients(queries, caller, Address::Card(path::name(request.path())?), query).await?,
    };
    Ok(answer::json(text))
}

async fn system(queries: &Queries, scope: QueryScope) -> String {
    let Answered { answer: counts, missing } = queries.counts(scope).await;
    let Counts { cores, connections, groups, workers, .. } = counts;
    let missing = missing_field(&missing);
    // gopusher's gateway writes int64 as strings
    format!(
        r#"{{"cpuNum":"{cores}","goroutineNum":"{workers}","clientNum":"{connections}","groupNum":"{groups}"{missing}}}"#
    )
}

/// A page of rooms, or of cards, with their clients' number.
async fn names(queries: &Queries, caller: &Caller, kind: AddressKind, query: &str) -> Result<String, Refusal> {
    let page = query::name_page(query)?;
    let answered = queries.names(caller, kind, &page.after, page.limit, page.scope).await?;
    let NamePage { names, next } = answered.answer;
    let word = word(kind);
    let names = names.iter().map(|(name, count)| format!(r#"{{"{word}":{},"count":{count}}}"#, json(name)));
    let names = names.collect::<Vec<_>>().join(",");
    let next = next.as_deref().map_or(Value::Null, json);
    let missing = missing_field(&answered.missing);
    Ok(format!(r#"{{"node":{},"{word}s":[{names}],"next":{next}{missing}}}"#, json(queries.node())))
}

/// A page of the clients of a room, or of a card.
async fn clients(queries: &Queries, caller: &Caller, address: Address, query: &str) -> Result<String, Refusal> {
    let page = query::client_page(query)?;
    let answered = queries.clients(caller, &address, page.after, page.limit, page.scope).await?;
    let ClientPage { count, clients, next } = answered.answer;
    let word = word(address.kind());
    let name = json(address.name());
    let clients = clients.iter().map(client).collect::<Vec<_>>().join(",");
    let next = next.map_or(Value::Null, |next| next.to_string().into());
    let node = json(queries.node());
    let missing = missing_field(&answered.missing);
    Ok(format!(r#"{{"node":{node},"{word}":{name},"count":{count},"clients":[{clients}],"next":{next}{missing}}}"#))
}

/// A client of this node.
async fn one(queries: &Queries, caller: &Caller, request: &HttpRequest) -> Result<String, Refusal> {
    query::no_parameters(request.query_string())?;
    let id = ClientId::parse(&path::name(request.path())?);
    let id = id.ok_or_else(|| Refusal::field("client", "is no client's id: it has 26 characters"))?;
    let info = queries.client(caller, id).await?;
    let node = json(queries.node());
    let client = client(&NodeClient { info, node: None });
    Ok(format!(r#"{{"node":{node},"count":1,"clients":[{client}],"next":null}}"#))
}

fn client(client: &NodeClient) -> String {
    let ClientInfo { id, cards, dialect, since, outbox, address } = &client.info;
    let cards = cards.iter().map(|(card, app)| format!(r#"{{"card":{},"app":{}}}"#, json(card), json(app)));
    let cards = cards.collect::<Vec<_>>().join(",");
    let address = address.map_or(Value::Null, |address| address.to_string().into());
    let dialect = json(dialect);
    let node = client.node.as_deref().map(|node| format!(r#","node":{}"#, json(node))).unwrap_or_default();
    format!(
        r#"{{"client":"{id}","cards":[{cards}],"dialect":{dialect},"since":{since},"outbox":{outbox},"address":{address}{node}}}"#
    )
}

/// The nodes whose part of an answer is missing, as its last field; nothing where there are none.
pub(super) fn missing_field(missing: &[Arc<str>]) -> String {
    if missing.is_empty() {
        return String::new();
    }
    let nodes = missing.iter().map(|node| json(node).to_string()).collect::<Vec<_>>().join(",");
    format!(r#","missing":[{nodes}]"#)
}

fn word(kind: AddressKind) -> &'static str {
    match kind {
        AddressKind::Room => "room",
        AddressKind::Card => "card",
    }
}

/// A text as JSON writes it.
fn json(text: &str) -> Value {
    Value::from(text)
}
