//! The service's description, from openapi.json.

use std::net::{Ipv4Addr, SocketAddr};

use serde_json::{Value, json};

use crate::config::Config;

/// Its bounds are filled in when the service starts.
const TEMPLATE: &str = include_str!("openapi.json");

/// The description with its bounds, HEAD beside each GET, whether a key is needed, and where the API is: generated clients call
/// the first server, so that it is a whole address.
pub(super) fn description(config: &Config, mut listen: SocketAddr) -> String {
    let limits = &config.push;
    let keyed = !config.is_open();
    if listen.ip().is_unspecified() {
        listen.set_ip(Ipv4Addr::LOCALHOST.into());
    }
    let server = config.cluster.advertise_http.clone().unwrap_or_else(|| listen.to_string());
    let text = TEMPLATE
        .replace("__SERVER__", &format!("http://{server}"))
        .replace("\"__MAX_CONTENT__\"", &limits.max_content.to_string())
        .replace("\"__MAX_CARDS__\"", &limits.max_cards.to_string())
        .replace("\"__MAX_NAME__\"", &limits.max_name.to_string())
        .replace("\"__MAX_BATCH__\"", &limits.max_batch.to_string())
        .replace("\"__MAX_TTL__\"", &limits.max_ttl.as_secs().to_string())
        .replace("__VERSION__", env!("CARGO_PKG_VERSION"));
    let mut api: Value = serde_json::from_str(&text).expect("invariant: openapi.json is JSON");
    for operations in api["paths"].as_object_mut().into_iter().flat_map(|paths| paths.values_mut()) {
        let Some(mut head) = operations.get("get").cloned() else { continue };
        head["operationId"] = format!("{}Head", head["operationId"].as_str().unwrap_or_default()).into();
        for answer in head["responses"].as_object_mut().into_iter().flat_map(|answers| answers.values_mut()) {
            *answer = json!({"description": "as of GET, without the body"});
        }
        operations["head"] = head;
    }
    if !keyed {
        api["security"] = json!([{}]);
    }
    api.to_string()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::ingress::http::{
        compat::CompatRoute,
        routes::{KeyedRoute, OpenRoute, ROUTES, Route},
    };

    #[test]
    fn the_description_names_every_route_method_and_status() {
        let keyed = [("OXIPUSH__AUTH__KEYS".to_owned(), "k".to_owned())];
        let config = crate::config::load(None, keyed).unwrap();
        let api: Value = serde_json::from_str(&description(&config, "0.0.0.0:8081".parse().unwrap())).unwrap();
        assert_eq!(api["servers"][0]["url"], "http://127.0.0.1:8081");
        let paths = api["paths"].as_object().unwrap();
        let mut described: Vec<_> = paths.keys().map(String::as_str).collect();
        let mut served: Vec<_> = ROUTES.iter().map(|(path, ..)| *path).collect();
        described.sort_unstable();
        served.sort_unstable();
        assert_eq!(described, served);
        for (path, route, allow) in ROUTES {
            let operations = paths[path].as_object().unwrap();
            let methods: Vec<_> = operations.keys().map(|method| method.to_uppercase()).collect();
            assert_eq!(methods.join(", "), allow, "{path}");
            let open = matches!(route, Route::Open(_));
            for (method, operation) in operations {
                assert_eq!(operation["security"] == json!([]), open, "{path}: security");
                let mut statuses = vec!["200", "403"];
                if !open {
                    statuses.push("401");
                }
                match route {
                    Route::Keyed(KeyedRoute::Push | KeyedRoute::Batch | KeyedRoute::Disconnect) => {
                        statuses.extend(["400", "408", "413", "415", "429", "503"]);
                    }
                    Route::Keyed(KeyedRoute::Stream(_)) => {
                        statuses.extend(["400", "404"]);
                        if method == "delete" {
                            statuses.extend(["429", "503"]);
                        }
                    }
                    Route::Keyed(KeyedRoute::Compat(CompatRoute::GoPushStats)) => statuses.push("400"),
                    Route::Keyed(KeyedRoute::Compat(_)) => {
                        statuses.extend(["400", "408", "413", "415", "429", "503"]);
                    }
                    Route::Keyed(KeyedRoute::Query(_)) => statuses.push("400"),
                    Route::Open(OpenRoute::Ready) => statuses.push("503"),
                    Route::Open(OpenRoute::Page | OpenRoute::Console(_)) => statuses.push("404"),
                    Route::Keyed(KeyedRoute::PushTrace) => statuses.extend(["400", "404"]),
                    Route::Keyed(KeyedRoute::Pushes) => statuses.push("400"),
                    Route::Keyed(KeyedRoute::Events) => statuses.extend(["400", "429"]),
                    _ => {}
                }
                for status in statuses {
                    assert!(operation["responses"][status].is_object(), "{path}: {status} is missing");
                }
            }
        }
        assert!(!api.to_string().contains("__"), "a placeholder is left");
    }
}
