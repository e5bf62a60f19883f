//! What back ends ask: gopusher's three questions, then rooms and cards, a page at a time.

use actix_web::{HttpRequest, HttpResponse};
use serde_json::Value;

use super::{answer, path, query};
use crate::{
    auth::Caller,
    config::UnknownFields,
    hub::ClientInfo,
    ingress::{
        queries::{ClientPage, NamePage, Queries},
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
        QueryRoute::System => system(queries).await,
        QueryRoute::IsOnline => {
            let clients = queries.connections(caller, &query::card(query, unknown)?).await?;
            let result = if clients > 0 { "yes" } else { "no" };
            format!(r#"{{"result":"{result}"}}"#)
        }
        QueryRoute::Group => {
            let number = match queries.connections(caller, &query::card(query, unknown)?).await? {
                0 => -1,
                many => many as i64,
            };
            format!(r#"{{"clientNum":"{number}"}}"#)
        }
        QueryRoute::Rooms => names(queries, caller, AddressKind::Room, query).await?,
        QueryRoute::Cards => names(queries, caller, AddressKind::Card, query).await?,
        QueryRoute::Room => clients(queries, caller, Address::Room(path::name(request.path())?), query).await?,
        QueryRoute::Card => clients(queries, caller, Address::Card(path::name(request.path())?), query).await?,
    };
    Ok(answer::json(text))
}

async fn system(queries: &Queries) -> String {
    let census = queries.census().await;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    // gopusher's gateway writes int64 as strings
    let workers = census.workers;
    let clients = census.connections;
    let groups = census.groups;
    format!(r#"{{"cpuNum":"{cores}","goroutineNum":"{workers}","clientNum":"{clients}","groupNum":"{groups}"}}"#)
}

/// A page of rooms, or of cards, with their clients' number.
async fn names(queries: &Queries, caller: &Caller, kind: AddressKind, query: &str) -> Result<String, Refusal> {
    let page = query::name_page(query)?;
    let NamePage { names, next } = queries.names(caller, kind, &page.after, page.limit).await?;
    let word = word(kind);
    let names = names.iter().map(|(name, count)| format!(r#"{{"{word}":{},"count":{count}}}"#, json(name)));
    let names = names.collect::<Vec<_>>().join(",");
    let next = next.as_deref().map_or(Value::Null, json);
    Ok(format!(r#"{{"node":{},"{word}s":[{names}],"next":{next}}}"#, json(queries.node())))
}

/// A page of the clients of a room, or of a card.
async fn clients(queries: &Queries, caller: &Caller, address: Address, query: &str) -> Result<String, Refusal> {
    let page = query::client_page(query)?;
    let ClientPage { count, clients, next } = queries.clients(caller, &address, page.after, page.limit).await?;
    let word = word(address.kind());
    let name = json(address.name());
    let clients = clients.iter().map(client).collect::<Vec<_>>().join(",");
    let next = next.map_or(Value::Null, |next| next.to_string().into());
    let node = json(queries.node());
    Ok(format!(r#"{{"node":{node},"{word}":{name},"count":{count},"clients":[{clients}],"next":{next}}}"#))
}

fn client(client: &ClientInfo) -> String {
    let ClientInfo { id, cards, dialect, since, outbox, address } = client;
    let cards = cards.iter().map(|(card, app)| format!(r#"{{"card":{},"app":{}}}"#, json(card), json(app)));
    let cards = cards.collect::<Vec<_>>().join(",");
    let address = address.map_or(Value::Null, |address| address.to_string().into());
    format!(
        r#"{{"client":"{id}","cards":[{cards}],"dialect":"{dialect}","since":{since},"outbox":{outbox},"address":{address}}}"#
    )
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
