//! Every route, what must hold before it is served, and what it answers.

use std::{
    net::SocketAddr,
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use actix_web::{
    HttpRequest, HttpResponse,
    http::{ConnectionType, Method, header},
    web,
};
use bytes::Bytes;
use futures_util::FutureExt;
use serde_json::json;
use tokio::sync::watch;

use super::{answer, body::BodyReader, exposition, hosts::Hosts, json, openapi, query};
use crate::{
    config::Config,
    ingress::{
        admission::{Admission, Source},
        refusal::{Kind, Refusal},
    },
    telemetry::{
        Metrics,
        labels::{RequestLabels, RequestProtocol},
    },
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

/// Options of a push that other services take as a header; refused, so that none is ignored.
const OPTION_HEADERS: [&str; 2] = ["idempotency-key", "ttl"];

/// The page for trying out.
const PAGE: &str = include_str!("page.html");

/// What all workers share.
pub(super) struct Site {
    admission: Admission,
    details: watch::Receiver<Vec<String>>,
    metrics: Arc<Metrics>,
    allowed_origins: Vec<String>,
    hosts: Hosts,
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
        (listen, socket): (SocketAddr, SocketAddr),
        metrics: &Arc<Metrics>,
    ) -> Self {
        let http = &config.http;
        Self {
            admission,
            details,
            metrics: Arc::clone(metrics),
            allowed_origins: http.allowed_origins.clone(),
            hosts: Hosts::of(config),
            bodies: BodyReader::new(http),
            openapi: openapi::description(config, listen).into(),
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
            self.metrics.requests.get_or_create(&RequestLabels { protocol: RequestProtocol::Http, status }).inc();
        }
        // a body of no announced length that nobody read may never end
        let endless = request.headers().contains_key(header::TRANSFER_ENCODING);
        if endless || matches!(answer.status().as_u16(), 408 | 413) {
            answer = answer::holding(answer, payload);
        }
        // actix would say `connection: upgrade`, though nothing is upgraded, and close
        if request.head().upgrade() {
            answer.head_mut().set_connection_type(ConnectionType::Close);
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
        let (_, route, allow) = ROUTES.into_iter().find(|(known, route, _)| {
            // callers that join a path to a base leave a slash at its end; what proxies keep to themselves stays one path
            *known == path || matches!(route, Route::Push | Route::Batch) && path.strip_suffix('/') == Some(*known)
        })?;
        (route != Route::Page || self.page.is_some()).then_some((route, allow))
    }

    async fn serve(
        &self,
        found: Option<(Route, &'static str)>,
        request: &HttpRequest,
        payload: &mut web::Payload,
    ) -> Result<HttpResponse, Refusal> {
        self.check_host(request)?;
        self.check_origin(request)?;
        let Some((route, allow)) = found else {
            let path = request.path();
            let slash = path.strip_suffix('/').is_some_and(|path| self.find(path).is_some());
            let advice = if slash { "leave the slash at its end out" } else { "/openapi.json lists them" };
            return Err(Refusal::new(Kind::NoSuchRoute, format!("there is no such path; {advice}")));
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
            return Err(Refusal::no_key(authorization, "the header"));
        }
        match route {
            Route::Push => self.push(request, payload).await,
            Route::Batch => self.batch(request, payload).await,
            Route::System => Ok(self.system()),
            Route::IsOnline => self.is_online(request.query_string()),
            Route::Group => self.group(request.query_string()),
            Route::Health => Ok(answer::typed("text/plain; charset=utf-8", "ok\n")),
            Route::Ready => Ok(self.ready()),
            Route::Metrics => Ok(exposition::answer(request, &self.metrics)),
            Route::OpenApi => Ok(answer::typed("application/json", self.openapi.clone())),
            Route::Page => Ok(self.page()),
        }
    }

    async fn push(&self, request: &HttpRequest, payload: &mut web::Payload) -> Result<HttpResponse, Refusal> {
        let body = self.body(request, payload).await;
        let draft = body.and_then(|body| json::push(&body, self.admission.limits()));
        self.admission.push(Source::Http, draft).await.map(answer::accepted)
    }

    async fn batch(&self, request: &HttpRequest, payload: &mut web::Payload) -> Result<HttpResponse, Refusal> {
        let body = self.body(request, payload).await?;
        let drafts = json::batch(&body, self.admission.limits())?;
        Ok(answer::replies(&self.admission.push_all(Source::Http, drafts).await))
    }

    /// The body of a push, which alone says what is asked for.
    async fn body(&self, request: &HttpRequest, payload: &mut web::Payload) -> Result<Bytes, Refusal> {
        let body = self.bodies.read(request, payload).await?;
        query::none(request.query_string())?;
        let option = |name: &header::HeaderName| OPTION_HEADERS.into_iter().find(|option| name == option);
        match request.headers().keys().find_map(option) {
            Some(option) => Err(Refusal::not_built(option)),
            None => Ok(body),
        }
    }

    fn page(&self) -> HttpResponse {
        let mut page = answer::typed("text/html; charset=utf-8", self.page.clone().unwrap_or_default());
        let alone = header::HeaderValue::from_static("frame-ancestors 'none'");
        page.headers_mut().insert(header::CONTENT_SECURITY_POLICY, alone);
        page
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

    /// A name that this node does not know may be one that was made to lead here. Only browsers are fooled by that, and they
    /// always send a Host.
    fn check_host(&self, request: &HttpRequest) -> Result<(), Refusal> {
        let host = request.headers().get(header::HOST);
        if host.is_none_or(|host| self.hosts.admit(host.as_bytes())) {
            return Ok(());
        }
        let remedy = "call its address, name the host in [http] allowed_hosts, or set [auth] keys";
        Err(Refusal::new(Kind::ForeignHost, format!("this Host is no name of the node: {remedy}")))
    }

    /// A browser's page of another origin must not push: form-typed JSON needs no preflight. Its own origin is the host that it
    /// called, which was checked.
    fn check_origin(&self, request: &HttpRequest) -> Result<(), Refusal> {
        let Some(origin) = request.headers().get(header::ORIGIN) else { return Ok(()) };
        let host = request.headers().get(header::HOST).map(header::HeaderValue::as_bytes);
        let authority =
            [&b"http://"[..], b"https://"].into_iter().find_map(|scheme| origin.as_bytes().strip_prefix(scheme));
        let own = authority.is_some() && authority == host;
        if own || self.allowed_origins.iter().any(|allowed| allowed.as_bytes() == origin.as_bytes()) {
            return Ok(());
        }
        Err(Refusal::new(Kind::ForeignOrigin, "this Origin may not call; name it in [http] allowed_origins"))
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
