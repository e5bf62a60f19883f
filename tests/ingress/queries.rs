//! What can be asked about rooms and cards: counts, members, pages; and who may ask.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::support::{client::Client, gateway::Node, http};

/// What a GET is answered: status and JSON.
async fn get(node: &Node, path: &str, key: &str) -> (u16, Value) {
    let asked = http::client().get(node.url(path)).bearer_auth(key).send().await.unwrap();
    (asked.status().as_u16(), asked.json().await.unwrap())
}

async fn ask(node: &Node, path: &str) -> Value {
    let (status, answer) = get(node, path, "").await;
    assert_eq!(status, 200, "{path}: {answer}");
    answer
}

/// A client of oxipush.v1 in these rooms, and its id.
async fn member(node: &Node, card: &str, app: &str, rooms: &[&str]) -> (Client, String) {
    let mut client = Client::connect(&node.socket(), true).await;
    client.say(json!({"event": "join", "data": {"card_id": card, "app_id": app}})).await;
    let joined = client.hear().await;
    for room in rooms {
        client.say(json!({"event": "subscribe", "data": {"room": room}})).await;
        assert_eq!(client.hear().await["event"], "subscribed");
    }
    (client, joined["data"]["client"].as_str().unwrap_or_else(|| panic!("{joined}")).to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn rooms_and_cards_are_told_with_their_counts_and_clients() {
    let node = Node::start(&[("NODE__ID", "told")]).await;
    assert_eq!(ask(&node, "/rooms").await, json!({"node": "told", "rooms": [], "next": null}));
    let (_anna, anna) = member(&node, "anna", "web", &["lobby", "a/b +ü"]).await;
    let (ben, _) = member(&node, "ben", "", &["lobby"]).await;
    let _second = Client::gopusher(&node.socket(), "anna", "tv").await;
    let rooms = json!([{"room": "a/b +ü", "count": 1}, {"room": "lobby", "count": 2}]);
    assert_eq!(ask(&node, "/rooms").await, json!({"node": "told", "rooms": rooms, "next": null}));
    let cards = json!([{"card": "anna", "count": 2}, {"card": "ben", "count": 1}]);
    assert_eq!(ask(&node, "/cards").await, json!({"node": "told", "cards": cards, "next": null}));

    let lobby = ask(&node, "/rooms/lobby").await;
    assert_eq!(
        (&lobby["node"], &lobby["room"], &lobby["count"], &lobby["next"]),
        (&json!("told"), &json!("lobby"), &json!(2), &json!(null))
    );
    let odd = ask(&node, "/rooms/a%2Fb%20+%C3%BC").await;
    assert_eq!((&odd["room"], &odd["count"]), (&json!("a/b +ü"), &json!(1)));
    let member = &odd["clients"][0];
    assert_eq!(member["client"], anna.as_str());
    assert_eq!(member["cards"], json!([{"card": "anna", "app": "web"}]));
    assert_eq!((&member["dialect"], &member["outbox"]), (&json!("oxipush.v1"), &json!(0)));
    assert_eq!(member["address"], "127.0.0.1");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64;
    let since = member["since"].as_u64().unwrap();
    assert!((now - 60_000..=now + 1000).contains(&since), "{since} is long before {now}, or after");

    let card = ask(&node, "/cards/anna").await;
    assert_eq!((&card["card"], &card["count"]), (&json!("anna"), &json!(2)));
    let dialects: BTreeSet<_> =
        card["clients"].as_array().unwrap().iter().map(|client| client["dialect"].as_str().unwrap()).collect();
    assert_eq!(dialects, BTreeSet::from(["gopusher", "oxipush.v1"]));
    // nobody there is no error
    let nobody = json!({"node": "told", "room": "empty", "count": 0, "clients": [], "next": null});
    assert_eq!(ask(&node, "/rooms/empty").await, nobody);
    assert_eq!(ask(&node, "/cards/lobby").await["count"], 0, "a card is no room");
    // who leaves is told no more
    drop(ben);
    for _ in 0..600 {
        if ask(&node, "/rooms/lobby").await["count"] == 1 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert_eq!(ask(&node, "/rooms/lobby").await["clients"][0]["client"], anna.as_str());
    assert_eq!(ask(&node, "/cards/ben").await["count"], 0);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_comes_in_pages_that_have_each_entry_once() {
    let node = Node::start(&[]).await;
    let mut members = Vec::new();
    let mut ids = BTreeSet::new();
    for n in 0..7 {
        let room = format!("r{n}");
        let (client, id) = member(&node, &format!("c{n}"), "", &["all", &room]).await;
        members.push(client);
        ids.insert(id);
    }
    for (path, list, entry, expected) in [
        ("/rooms", "rooms", "room", (0..7).map(|n| format!("r{n}")).chain(["all".into()]).collect::<BTreeSet<_>>()),
        ("/cards", "cards", "card", (0..7).map(|n| format!("c{n}")).collect()),
        ("/rooms/all", "clients", "client", ids),
    ] {
        for limit in [1, 2, 3, 7, 8, 1000] {
            let mut told = Vec::new();
            let mut after = String::new();
            loop {
                let page = ask(&node, &format!("{path}?limit={limit}&after={after}")).await;
                let entries = page[list].as_array().unwrap();
                assert!(entries.len() <= limit, "{page}");
                told.extend(entries.iter().map(|row| row[entry].as_str().unwrap().to_owned()));
                match page["next"].as_str() {
                    Some(next) => after = next.to_owned(),
                    None => break,
                }
            }
            assert!(told.is_sorted(), "{path} by {limit}: {told:?}");
            assert_eq!(
                (told.len(), told.into_iter().collect::<BTreeSet<_>>()),
                (expected.len(), expected.clone()),
                "{path}"
            );
        }
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_with_patterns_asks_only_for_what_it_may_push_to() {
    let node = Node::start(&[
        ("KEY_ALL__SECRET", "of-all"),
        ("KEY_ALL__SCOPES", "query"),
        ("KEY_SOME__SECRET", "of-some"),
        ("KEY_SOME__SCOPES", "query"),
        ("KEY_SOME__CARDS", "user:*"),
        ("KEY_SOME__ROOMS", "lobby"),
        ("KEY_APPS__SECRET", "of-apps"),
        ("KEY_APPS__SCOPES", "query"),
        ("KEY_APPS__APPS", "web"),
        ("KEY_PUSH__SECRET", "of-push"),
        ("KEY_PUSH__SCOPES", "push"),
    ])
    .await;
    for (path, some) in [
        ("/rooms", false),
        ("/cards", false),
        ("/rooms/lobby", true),
        ("/rooms/other", false),
        ("/cards/user:1", true),
        ("/cards/user%3A1", true),
        ("/cards/admin", false),
    ] {
        assert_eq!(get(&node, path, "of-all").await.0, 200, "{path}");
        let (status, answer) = get(&node, path, "of-some").await;
        assert_eq!(status, if some { 200 } else { 403 }, "{path}: {answer}");
        assert!(some || answer["reason"] == "not_admitted", "{path}: {answer}");
        for (key, reason) in [("of-apps", "not_admitted"), ("of-push", "no_scope")] {
            let (status, answer) = get(&node, path, key).await;
            assert_eq!((status, answer["reason"].as_str()), (403, Some(reason)), "{path}: {answer}");
        }
    }
    node.stop().await;
}
