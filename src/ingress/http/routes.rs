//! Every route, what must hold before it is served, and what it answers.

use std::{
    net::{IpAddr, SocketAddr},
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use actix_web::{
    HttpRequest, HttpResponse,
    http::{Method, header},
    web,
};
use bytes::Bytes;
use futures_util::FutureExt;
use serde_json::json;
use tokio::sync::watch;

use super::{answer, body::BodyReader, json, openapi, query};
use crate::{
    config::Config,
    ingress::{
        admission::{Admission, Source},
        refusal::{Kind, Refusal},
    },
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

impl Route {
    /// It needs no key.
    pub(super) fn is_open(self) -> bool {
        matches!(self, Self::Health | Self::Ready | Self::Page | Self::OpenApi)
    }
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

/// The page for trying out.
const PAGE: &str = include_str!("page.html");

/// What all workers share.
pub(super) struct Site {
    admission: Admission,
    details: watch::Receiver<Vec<String>>,
    metrics: Arc<Metrics>,
    allowed_origins: Vec<String>,
    keyed: bool,
    bodies: BodyReader,
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
            keyed: !config.auth.keys.is_empty(),
            bodies: BodyReader::new(http),
            openapi: openapi::description(&config.push, !config.auth.keys.is_empty()).into(),
            page: http.page.then(|| PAGE.replace("__SOCKET_PORT__", &socket.port().to_string()).into()),
            in_hand: Arc::default(),
        }
    }

    /// Answers one request; a refusal is counted by its status.
    pub(super) async fn answer(&self, request: HttpRequest, mut payload: web::Payload) -> HttpResponse {
        let _in_hand = InHand::new(&self.in_hand);
        let origin = request.headers().get(header::ORIGIN).cloned();
        let found = self.find(request.path());
        // a bug costs its own request only
        let served = AssertUnwindSafe(self.serve(found, &request, &mut payload)).catch_unwind().await;
        let mut answer = match served.unwrap_or_else(|_| Err(Refusal::internal())) {
            Ok(answer) => answer,
            Err(refusal) => answer::refused(&refusal, found.map_or("", |(_, allow)| allow)),
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

    /// The route of a path, and its methods.
    fn find(&self, path: &str) -> Option<(Route, &'static str)> {
        let (_, route, allow) = ROUTES.into_iter().find(|(known, ..)| *known == path)?;
        (route != Route::Page || self.page.is_some()).then_some((route, allow))
    }

    async fn serve(
        &self,
        found: Option<(Route, &'static str)>,
        request: &HttpRequest,
        payload: &mut web::Payload,
    ) -> Result<HttpResponse, Refusal> {
        self.check_origin(request)?;
        let Some((route, allow)) = found else {
            return Err(Refusal::new(Kind::NoSuchRoute, "there is no such path; /openapi.json lists them"));
        };
        let method = request.method();
        if method == Method::OPTIONS && is_preflight(request) {
            return Ok(preflight(allow));
        }
        if !allow.split(", ").any(|allowed| allowed == method.as_str()) {
            return Err(Refusal::new(Kind::WrongMethod, format!("this path answers {allow} only")));
        }
        let authorization = request.headers().get(header::AUTHORIZATION).map(header::HeaderValue::as_bytes);
        if !route.is_open() && !self.admission.admits(authorization) {
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
        let body = self.bodies.read(request, payload).await;
        let draft = body.and_then(|body| json::push(&body, self.admission.limits()));
        self.admission.push(Source::Http, draft).await.map(answer::accepted)
    }

    async fn batch(&self, request: &HttpRequest, payload: &mut web::Payload) -> Result<HttpResponse, Refusal> {
        let body = self.bodies.read(request, payload).await?;
        let drafts = json::batch(&body, self.admission.limits())?;
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
        self.admission.connections(&query::card(query)?)
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

    /// A browser's page of another origin must not push: form-typed JSON needs no preflight. Without keys a name proves nothing
    /// either, since whoever owns it can let it lead here: only an address or localhost is this node's own.
    fn check_origin(&self, request: &HttpRequest) -> Result<(), Refusal> {
        let Some(origin) = request.headers().get(header::ORIGIN) else { return Ok(()) };
        let host = request.headers().get(header::HOST).map(header::HeaderValue::as_bytes);
        let own = [&b"http://"[..], b"https://"]
            .into_iter()
            .find_map(|scheme| origin.as_bytes().strip_prefix(scheme))
            .is_some_and(|authority| Some(authority) == host && (self.keyed || is_an_address(authority)));
        if own || self.allowed_origins.iter().any(|allowed| allowed.as_bytes() == origin.as_bytes()) {
            return Ok(());
        }
        Err(Refusal::new(Kind::ForeignOrigin, "this Origin may not call; name it in [http] allowed_origins"))
    }
}

/// `localhost` or an address, with or without a port.
fn is_an_address(authority: &[u8]) -> bool {
    let Some(authority) = std::str::from_utf8(authority).ok() else { return false };
    let is_ip = authority.parse::<SocketAddr>().is_ok()
        || authority.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().is_ok();
    is_ip || authority.split(':').next() == Some("localhost")
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
