//! Every route, what must hold before it is served, and what it answers.

use std::{
    net::SocketAddr,
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use actix_web::{
    HttpRequest, HttpResponse,
    http::{Method, header},
    web,
};
use bytes::{Bytes, BytesMut};
use futures_util::{FutureExt, StreamExt};
use serde_json::{Value, json};
use tokio::sync::watch;

use super::{answer, body, query};
use crate::{
    config::{Config, PushLimits},
    ingress::{
        admission::{Admission, Source},
        refusal::{Kind, Refusal},
    },
    push::Name,
    telemetry::Metrics,
};

/// What is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route {
    Push,
    Batch,
    System,
    IsOnline,
    Group,
    Health,
    Ready,
    Metrics,
    OpenApi,
    Page,
}

/// Each path with its route and the methods for `Allow`.
pub(super) const ROUTES: [(&str, Route, &str); 10] = [
    ("/push", Route::Push, "POST"),
    ("/push/batch", Route::Batch, "POST"),
    ("/system", Route::System, "GET, HEAD"),
    ("/isOnline", Route::IsOnline, "GET, HEAD"),
    ("/group", Route::Group, "GET, HEAD"),
    ("/healthz", Route::Health, "GET, HEAD"),
    ("/readyz", Route::Ready, "GET, HEAD"),
    ("/metrics", Route::Metrics, "GET, HEAD"),
    ("/openapi.json", Route::OpenApi, "GET, HEAD"),
    ("/", Route::Page, "GET, HEAD"),
];

/// The service's description; its bounds are filled in when it is bound.
const OPENAPI: &str = include_str!("openapi.json");
const PAGE: &str = include_str!("page.html");

/// What all workers share.
pub(super) struct Site {
    admission: Admission,
    details: watch::Receiver<Vec<String>>,
    metrics: Arc<Metrics>,
    allowed_origins: Vec<String>,
    max_body: usize,
    request_timeout: Duration,
    openapi: Bytes,
    page: Option<Bytes>,
    /// Requests that are not answered yet.
    pub(super) in_hand: Arc<AtomicUsize>,
}

impl Site {
    pub(super) fn new(
        config: &Config,
        admission: Admission,
        details: watch::Receiver<Vec<String>>,
        socket: SocketAddr,
        metrics: &Arc<Metrics>,
    ) -> Self {
        let http = &config.http;
        Self {
            admission,
            details,
            metrics: Arc::clone(metrics),
            allowed_origins: http.allowed_origins.clone(),
            max_body: http.max_body,
            request_timeout: http.request_timeout,
            openapi: openapi(&config.push, !config.auth.keys.is_empty()).into(),
            page: http.page.then(|| PAGE.replace("__SOCKET_PORT__", &socket.port().to_string()).into()),
            in_hand: Arc::default(),
        }
    }

    /// Answers one request; a refusal is counted by its status.
    pub(super) async fn answer(&self, request: HttpRequest, mut payload: web::Payload) -> HttpResponse {
        let _in_hand = InHand::new(&self.in_hand);
        let origin = request.headers().get(header::ORIGIN).cloned();
        let allow = ROUTES.iter().find(|(path, ..)| *path == request.path()).map_or("", |(.., allow)| allow);
        // a bug costs its own request only
        let served = AssertUnwindSafe(self.serve(&request, &mut payload)).catch_unwind().await;
        let mut answer = match served.unwrap_or_else(|_| Err(Refusal::internal())) {
            Ok(answer) => answer,
            Err(refusal) => answer::refused(&refusal, allow),
        };
        if answer.status().as_u16() >= 400 {
            let status = status(answer.status().as_u16());
            self.metrics.requests.get_or_create(&[("protocol", "http"), ("status", status)]).inc();
        }
        if matches!(answer.status().as_u16(), 408 | 413) {
            answer = answer::holding(answer, payload);
        }
        // only origins that may call get here with another status than 403
        if let Some(origin) = origin.filter(|_| answer.status() != 403) {
            answer.headers_mut().insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            answer.headers_mut().insert(header::VARY, header::HeaderValue::from_static("Origin"));
        }
        answer
    }

    async fn serve(&self, request: &HttpRequest, payload: &mut web::Payload) -> Result<HttpResponse, Refusal> {
        self.check_origin(request)?;
        let found = ROUTES.iter().find(|(path, ..)| *path == request.path());
        let Some(&(_, route, allow)) = found.filter(|(_, route, _)| *route != Route::Page || self.page.is_some())
        else {
            return Err(Refusal::new(Kind::NoSuchRoute, "there is no such path; /openapi.json lists them"));
        };
        let method = request.method();
        if method == Method::OPTIONS && is_preflight(request) {
            return Ok(preflight(allow));
        }
        if !allow.split(", ").any(|allowed| allowed == method.as_str()) {
            return Err(Refusal::new(Kind::WrongMethod, format!("this path answers {allow} only")));
        }
        let open = matches!(route, Route::Health | Route::Ready | Route::Page | Route::OpenApi);
        let authorization = request.headers().get(header::AUTHORIZATION).map(header::HeaderValue::as_bytes);
        if !open && !self.admission.admits(authorization) {
            let message = "a key is needed: send the header Authorization: Bearer <one of [auth] keys>";
            return Err(Refusal::new(Kind::NoKey, message));
        }
        match route {
            Route::Push => self.push(request, payload).await,
            Route::Batch => self.batch(request, payload).await,
            Route::System => Ok(self.system()),
            Route::IsOnline => self.is_online(request.query_string()),
            Route::Group => self.group(request.query_string()),
            Route::Health => Ok(answer::typed("text/plain; charset=utf-8", "ok\n")),
            Route::Ready => Ok(self.ready()),
            Route::Metrics => {
                let openmetrics = "application/openmetrics-text; version=1.0.0; charset=utf-8";
                Ok(answer::typed(openmetrics, self.metrics.text()))
            }
            Route::OpenApi => Ok(answer::typed("application/json", self.openapi.clone())),
            Route::Page => Ok(answer::typed("text/html; charset=utf-8", self.page.clone().unwrap_or_default())),
        }
    }

    async fn push(&self, request: &HttpRequest, payload: &mut web::Payload) -> Result<HttpResponse, Refusal> {
        let draft = match self.body(request, payload).await {
            Ok(body) => body::push(&body, self.admission.limits()),
            Err(refusal) => Err(refusal),
        };
        self.admission.push(Source::Http, draft).await.map(answer::accepted)
    }

    async fn batch(&self, request: &HttpRequest, payload: &mut web::Payload) -> Result<HttpResponse, Refusal> {
        let body = self.body(request, payload).await?;
        let drafts = body::batch(&body, self.admission.limits())?;
        Ok(answer::replies(&self.admission.push_all(Source::Http, drafts).await))
    }

    fn system(&self) -> HttpResponse {
        let census = self.admission.census();
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        // gopusher's gateway writes int64 as strings
        let (workers, clients, groups) = (census.workers, census.connections, census.groups);
        answer::json(format!(
            r#"{{"cpuNum":"{cores}","goroutineNum":"{workers}","clientNum":"{clients}","groupNum":"{groups}"}}"#
        ))
    }

    fn is_online(&self, query: &str) -> Result<HttpResponse, Refusal> {
        let result = if self.count(query)? > 0 { "yes" } else { "no" };
        Ok(answer::json(format!(r#"{{"result":"{result}"}}"#)))
    }

    fn group(&self, query: &str) -> Result<HttpResponse, Refusal> {
        let number = match self.count(query)? {
            0 => -1,
            many => many as i64,
        };
        Ok(answer::json(format!(r#"{{"clientNum":"{number}"}}"#)))
    }

    fn count(&self, query: &str) -> Result<usize, Refusal> {
        let card = query::card(query, Name { max: self.admission.limits().max_name })?;
        Ok(self.admission.connections(&card))
    }

    fn ready(&self) -> HttpResponse {
        let details = &*self.details.borrow();
        match self.admission.ready() {
            Ok(()) => answer::json(json!({"code": 0, "message": "ok", "details": details}).to_string()),
            Err(reason) => HttpResponse::ServiceUnavailable()
                .insert_header((header::RETRY_AFTER, 1))
                .content_type("application/json")
                .body(json!({"code": 503, "message": reason, "details": details}).to_string()),
        }
    }

    /// A browser's page of another origin must not push: form-typed JSON needs no preflight.
    fn check_origin(&self, request: &HttpRequest) -> Result<(), Refusal> {
        let Some(origin) = request.headers().get(header::ORIGIN) else { return Ok(()) };
        let host = request.headers().get(header::HOST).map(header::HeaderValue::as_bytes);
        let own = [&b"http://"[..], b"https://"]
            .into_iter()
            .find_map(|scheme| origin.as_bytes().strip_prefix(scheme))
            .is_some_and(|authority| Some(authority) == host);
        if own || self.allowed_origins.iter().any(|allowed| allowed.as_bytes() == origin.as_bytes()) {
            return Ok(());
        }
        Err(Refusal::new(Kind::ForeignOrigin, "this Origin may not call; name it in [http] allowed_origins"))
    }

    /// The whole body, within bound and time; a body of one chunk is not copied.
    async fn body(&self, request: &HttpRequest, payload: &mut web::Payload) -> Result<Bytes, Refusal> {
        check_content_type(request)?;
        let announced = request.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok());
        if announced.and_then(|value| value.parse().ok()).is_some_and(|length: usize| length > self.max_body) {
            return Err(self.too_large());
        }
        let whole = tokio::time::timeout(self.request_timeout, self.collect(payload)).await;
        whole.unwrap_or_else(|_| {
            Err(Refusal::new(Kind::TooSlow, "the body did not arrive within [http] request_timeout"))
        })
    }

    async fn collect(&self, payload: &mut web::Payload) -> Result<Bytes, Refusal> {
        let broken = |_| Refusal::new(Kind::BadJson, "the body ended early or is badly framed");
        let Some(first) = payload.next().await.transpose().map_err(broken)? else { return Ok(Bytes::new()) };
        if first.len() > self.max_body {
            return Err(self.too_large());
        }
        let Some(second) = payload.next().await.transpose().map_err(broken)? else {
            return Ok(first);
        };
        let mut whole = BytesMut::with_capacity((first.len() + second.len()) * 2);
        whole.extend_from_slice(&first);
        whole.extend_from_slice(&second);
        // checked before the next is waited for: it may never come
        while whole.len() <= self.max_body {
            let Some(chunk) = payload.next().await else { return Ok(whole.freeze()) };
            whole.extend_from_slice(&chunk.map_err(broken)?);
        }
        Err(self.too_large())
    }

    fn too_large(&self) -> Refusal {
        let message = format!("the body is larger than [http] max_body ({} bytes)", self.max_body);
        Refusal::new(Kind::BodyTooLarge, message)
    }
}

/// One more request in hand, until it is answered or its caller went away.
struct InHand<'a>(&'a AtomicUsize);

impl<'a> InHand<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::AcqRel);
        Self(count)
    }
}

impl Drop for InHand<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// JSON is taken under its own name, as curl's default form, as plain text, or without a type; never compressed.
fn check_content_type(request: &HttpRequest) -> Result<(), Refusal> {
    let encoding = request.headers().get(header::CONTENT_ENCODING).map(header::HeaderValue::as_bytes);
    if encoding.is_some_and(|encoding| !encoding.eq_ignore_ascii_case(b"identity")) {
        return Err(Refusal::new(Kind::WrongType, "a Content-Encoding is not taken; send the body as it is"));
    }
    let Some(value) = request.headers().get(header::CONTENT_TYPE) else { return Ok(()) };
    let value = value.as_bytes();
    let essence = value.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    let known = [&b"application/json"[..], b"application/x-www-form-urlencoded", b"text/plain", b""];
    if known.iter().any(|known| essence.eq_ignore_ascii_case(known)) {
        return Ok(());
    }
    Err(Refusal::new(Kind::WrongType, "this Content-Type is not taken; send JSON as application/json"))
}

/// Asked by a browser, for an origin that was found to be allowed.
fn is_preflight(request: &HttpRequest) -> bool {
    let headers = request.headers();
    headers.contains_key(header::ORIGIN) && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
}

fn preflight(allow: &'static str) -> HttpResponse {
    HttpResponse::NoContent()
        .insert_header((header::ACCESS_CONTROL_ALLOW_METHODS, allow))
        .insert_header((header::ACCESS_CONTROL_ALLOW_HEADERS, "authorization, content-type"))
        .insert_header((header::ACCESS_CONTROL_MAX_AGE, 600))
        .finish()
}

/// The description with its bounds, HEAD beside each GET, and whether a key is needed.
fn openapi(limits: &PushLimits, keyed: bool) -> String {
    let text = OPENAPI
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

fn status(code: u16) -> &'static str {
    const KNOWN: [(u16, &str); 11] = [
        (400, "400"),
        (401, "401"),
        (403, "403"),
        (404, "404"),
        (405, "405"),
        (408, "408"),
        (413, "413"),
        (415, "415"),
        (429, "429"),
        (500, "500"),
        (503, "503"),
    ];
    KNOWN.iter().find(|(known, _)| *known == code).map_or("other", |(_, label)| label)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_description_names_every_route_method_and_status() {
        let limits = PushLimits { max_content: 1, max_cards: 2, max_name: 3, max_batch: 4 };
        let api: serde_json::Value = serde_json::from_str(&openapi(&limits, true)).unwrap();
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
                let open = matches!(route, Route::Health | Route::Ready | Route::Page | Route::OpenApi);
                assert_eq!(operation["security"] == json!([]), open, "{path}: security");
                let mut statuses = vec!["200", "403"];
                if !open {
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
