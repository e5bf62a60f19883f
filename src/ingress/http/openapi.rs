//! The service's description, from openapi.json.

use serde_json::{Value, json};

use crate::config::PushLimits;

/// Its bounds are filled in when the service starts.
const TEMPLATE: &str = include_str!("openapi.json");

/// The description with its bounds, HEAD beside each GET, and whether a key is needed.
pub(super) fn description(limits: &PushLimits, keyed: bool) -> String {
    let text = TEMPLATE
        .replace("\"__MAX_CONTENT__\"", &limits.max_content.to_string())
        .replace("\"__MAX_CARDS__\"", &limits.max_cards.to_string())
        .replace("\"__MAX_NAME__\"", &limits.max_name.to_string())
        .replace("\"__MAX_BATCH__\"", &limits.max_batch.to_string())
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
    use crate::ingress::http::routes::{ROUTES, Route};

    #[test]
    fn the_description_names_every_route_method_and_status() {
        let limits = PushLimits { max_content: 1, max_cards: 2, max_name: 3, max_batch: 4 };
        let api: serde_json::Value = serde_json::from_str(&description(&limits, true)).unwrap();
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
            for operation in operations.values() {
                assert_eq!(operation["security"] == json!([]), route.is_open(), "{path}: security");
                let mut statuses = vec!["200", "403"];
                if !route.is_open() {
                    statuses.push("401");
                }
                match route {
                    Route::Push => statuses.extend(["400", "408", "413", "415", "429", "503"]),
                    Route::Batch => statuses.extend(["400", "408", "413", "415"]),
                    Route::IsOnline | Route::Group => statuses.push("400"),
                    Route::Ready => statuses.push("503"),
                    Route::Page => statuses.push("404"),
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
