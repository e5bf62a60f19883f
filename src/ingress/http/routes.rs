//! Every route, what must hold before it is served, and what it answers.

use std::{net::SocketAddr, panic::AssertUnwindSafe, sync::Arc};

use actix_web::{
    HttpRequest, HttpResponse,
    http::{ConnectionType, Method, header},
    web,
};
use arc_swap::ArcSwap;
use bytes::Bytes;
use futures_util::FutureExt;
use serde_json::json;
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    answer,
    body::BodyReader,
    compat::{self, CompatRoute},
    console::ConsoleFile,
    events, exposition,
    hosts::Hosts,
    json, nodes, openapi, option_headers, path, pushes,
    queries::{self, QueryRoute},
    query, rebalance,
    streams::{self, StreamRoute},
};
use crate::{
    auth::Caller,
    config::{Config, GpusherConfig, UnknownFields},
    ingress::{
        Api,
        admission::{PushSource, Submitter},
        compat::gpusher::{self, GpusherRefusal, TokenIssuer, TokenRequest},
        refusal::{Refusal, RefusalKind},
        scopes::{self, Call},
    },
    telemetry::{
        Metrics,
        labels::{RequestLabels, RequestProtocol},
    },
};

/// What is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route {
    Open(OpenRoute),
    Keyed(KeyedRoute),
}

/// Routes that anybody may call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OpenRoute {
    Health,
    Ready,
    OpenApi,
    /// The client for browsers, as a script.
    Script,
    Page,
    Console(ConsoleFile),
}

/// Routes for callers with a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KeyedRoute {
    Push,
    Batch,
    Disconnect,
    Query(QueryRoute),
    Stream(StreamRoute),
    Nodes,
    Rebalance,
    Events,
    Pushes,
    PushTrace,
    Metrics,
    Compat(CompatRoute),
}

/// Each path with its route and the methods for `Allow`; `{…}` in it stands for a name.
pub(super) const ROUTES: [(&str, Route, &str); 36] = [
    ("/push", Route::Keyed(KeyedRoute::Push), "POST"),
    ("/push/batch", Route::Keyed(KeyedRoute::Batch), "POST"),
    ("/disconnect", Route::Keyed(KeyedRoute::Disconnect), "POST"),
    ("/system", Route::Keyed(KeyedRoute::Query(QueryRoute::System)), "GET, HEAD"),
    ("/isOnline", Route::Keyed(KeyedRoute::Query(QueryRoute::IsOnline)), "GET, HEAD"),
    ("/group", Route::Keyed(KeyedRoute::Query(QueryRoute::Group)), "GET, HEAD"),
    ("/rooms", Route::Keyed(KeyedRoute::Query(QueryRoute::Rooms)), "GET, HEAD"),
    ("/rooms/{room}", Route::Keyed(KeyedRoute::Query(QueryRoute::Room)), "GET, HEAD"),
    ("/cards", Route::Keyed(KeyedRoute::Query(QueryRoute::Cards)), "GET, HEAD"),
    ("/cards/{card}", Route::Keyed(KeyedRoute::Query(QueryRoute::Card)), "GET, HEAD"),
    ("/clients/{client}", Route::Keyed(KeyedRoute::Query(QueryRoute::Client)), "GET, HEAD"),
    ("/cards/{card}/stream", Route::Keyed(KeyedRoute::Stream(StreamRoute::OfCard)), "DELETE, GET, HEAD"),
    ("/cards/{card}/stream/{seq}", Route::Keyed(KeyedRoute::Stream(StreamRoute::EntryOfCard)), "DELETE"),
    ("/cards/{card}/devices/{device}", Route::Keyed(KeyedRoute::Stream(StreamRoute::Device)), "DELETE"),
    ("/rooms/{room}/stream", Route::Keyed(KeyedRoute::Stream(StreamRoute::OfRoom)), "DELETE, GET, HEAD"),
    ("/rooms/{room}/stream/{seq}", Route::Keyed(KeyedRoute::Stream(StreamRoute::EntryOfRoom)), "DELETE"),
    ("/push/all", Route::Keyed(KeyedRoute::Compat(CompatRoute::GoPushAll)), "PATCH, POST, PUT"),
    ("/push/room", Route::Keyed(KeyedRoute::Compat(CompatRoute::GoPushRoom)), "PATCH, POST, PUT"),
    ("/stats", Route::Keyed(KeyedRoute::Compat(CompatRoute::GoPushStats)), "GET, HEAD"),
    ("/v1/pushData", Route::Keyed(KeyedRoute::Compat(CompatRoute::GpushData)), "POST"),
    ("/v1/push", Route::Keyed(KeyedRoute::Compat(CompatRoute::GpusherPush)), "POST"),
    ("/v1/token", Route::Keyed(KeyedRoute::Compat(CompatRoute::GpusherToken)), "POST"),
    ("/nodes", Route::Keyed(KeyedRoute::Nodes), "GET, HEAD"),
    ("/rebalance", Route::Keyed(KeyedRoute::Rebalance), "POST"),
    ("/events", Route::Keyed(KeyedRoute::Events), "GET, HEAD"),
    ("/pushes", Route::Keyed(KeyedRoute::Pushes), "GET, HEAD"),
    ("/pushes/{id}", Route::Keyed(KeyedRoute::PushTrace), "GET, HEAD"),
    ("/healthz", Route::Open(OpenRoute::Health), "GET, HEAD"),
    ("/readyz", Route::Open(OpenRoute::Ready), "GET, HEAD"),
    ("/metrics", Route::Keyed(KeyedRoute::Metrics), "GET, HEAD"),
    ("/openapi.json", Route::Open(OpenRoute::OpenApi), "GET, HEAD"),
    ("/oxipush.js", Route::Open(OpenRoute::Script), "GET, HEAD"),
    ("/", Route::Open(OpenRoute::Page), "GET, HEAD"),
    ("/console", Route::Open(OpenRoute::Console(ConsoleFile::Page)), "GET, HEAD"),
    ("/console/console.js", Route::Open(OpenRoute::Console(ConsoleFile::Script)), "GET, HEAD"),
    ("/console/console.css", Route::Open(OpenRoute::Console(ConsoleFile::Style)), "GET, HEAD"),
];

/// The page for trying out.
const PAGE: &str = include_str!("page.html");

/// The client for browsers, as `scripts/web` built it from `web/client/src`.
const SCRIPT: &str = include_str!("../../../web/client/dist/oxipush.js");

/// Answers requests; shared by all workers.
pub(super) struct Handlers {
    api: Api,
    details: Vec<watch::Receiver<Vec<String>>>,
    metrics: Arc<Metrics>,
    /// Where it listens.
    listen: SocketAddr,
    live: ArcSwap<LiveSettings>,
    bodies: BodyReader,
    page: Option<Bytes>,
    has_console: bool,
    gpusher: GpusherConfig,
    /// Requests that are not answered yet.
    in_progress: TaskTracker,
    /// Ends answers that have no end.
    streams_end: CancellationToken,
}

/// What a reload replaces.
struct LiveSettings {
    allowed_origins: Vec<String>,
    hosts: Hosts,
    unknown_fields: UnknownFields,
    openapi: Bytes,
    issuer: TokenIssuer,
}

impl LiveSettings {
    fn new(config: &Config, listen: SocketAddr) -> Self {
        Self {
            issuer: TokenIssuer::new(config),
            allowed_origins: config.http.allowed_origins.clone(),
            hosts: Hosts::of(config),
            unknown_fields: config.http.unknown_fields,
            openapi: openapi::description(config, listen).into(),
        }
    }
}

impl Handlers {
    pub(super) fn new(
        config: &Config,
        api: Api,
        details: Vec<watch::Receiver<Vec<String>>>,
        (listen, socket): (SocketAddr, SocketAddr),
        metrics: &Arc<Metrics>,
    ) -> Self {
        let http = &config.http;
        Self {
            api,
            details,
            metrics: Arc::clone(metrics),
            listen,
            live: ArcSwap::from_pointee(LiveSettings::new(config, listen)),
            bodies: BodyReader::new(http),
            // it joins and pushes
            page: (http.page && config.node.roles.is_all())
                .then(|| PAGE.replace("__SOCKET_PORT__", &socket.port().to_string()).into()),
            has_console: http.console,
            gpusher: config.gpusher.clone(),
            in_progress: TaskTracker::new(),
            streams_end: CancellationToken::new(),
        }
    }

    pub(super) fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// Who may call, and what the description says, from now on.
    pub(super) fn replace(&self, config: &Config) {
        self.live.store(Arc::new(LiveSettings::new(config, self.listen)));
    }

    pub(super) fn api(&self) -> &Api {
        &self.api
    }

    pub(super) fn bodies(&self) -> &BodyReader {
        &self.bodies
    }

    pub(super) fn gpusher(&self) -> &GpusherConfig {
        &self.gpusher
    }

    /// Answers who asks for a token, by the settings of now.
    pub(super) async fn issue_token(&self, request: &TokenRequest) -> Result<String, GpusherRefusal> {
        let token = self.live.load().issuer.token(request)?;
        gpusher::with_places(&token, &self.api.nodes.places_for_client().await)
    }

    /// Requests that are not answered yet: each is counted until then, or until its caller went away.
    pub(super) fn in_progress(&self) -> &TaskTracker {
        &self.in_progress
    }

    /// Ends the streams of events, which would go on for ever.
    pub(super) fn end_streams(&self) {
        self.streams_end.cancel();
    }

    /// Answers one request; a refusal is counted by its status.
    pub(super) async fn answer(&self, request: HttpRequest, mut payload: web::Payload) -> HttpResponse {
        let _in_progress = self.in_progress.token();
        let origin = request.headers().get(header::ORIGIN).cloned();
        let found = self.find(request.path());
        // a bug costs its own request only
        let served = AssertUnwindSafe(self.serve(found, &request, &mut payload)).catch_unwind().await;
        let served = served.unwrap_or_else(|_| Err(Refusal::internal()));
        let foreign = [RefusalKind::ForeignOrigin, RefusalKind::ForeignHost];
        let may_read = !served.as_ref().is_err_and(|refusal| foreign.contains(&refusal.kind));
        let mut answer = match served {
            Ok(answer) => answer,
            Err(refusal) => {
                let allow = found.map_or("", |(_, _, allow)| allow);
                compat::refused(found.map(|(_, route, _)| route), &refusal, allow)
            }
        };
        if answer.status().as_u16() >= 400 {
            let status = status(answer.status().as_u16());
            self.metrics.requests.get_or_create(&RequestLabels { protocol: RequestProtocol::Http, status }).inc();
        }
        // a body of no announced length that nobody read may never end
        let endless = request.headers().contains_key(header::TRANSFER_ENCODING);
        if endless || matches!(answer.status().as_u16(), 408 | 413) {
            answer = answer::keeping_payload(answer, payload);
        }
        // actix would say `connection: upgrade`, though nothing is upgraded, and close
        if request.head().upgrade() {
            answer.head_mut().set_connection_type(ConnectionType::Close);
        }
        if let Some(origin) = origin.filter(|_| may_read) {
            answer.headers_mut().insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            answer.headers_mut().insert(header::VARY, header::HeaderValue::from_static("Origin"));
        }
        answer
    }

    /// The row of a path.
    fn find(&self, path: &str) -> Option<(&'static str, Route, &'static str)> {
        let row @ (_, route, _) = ROUTES.into_iter().find(|(known, route, _)| {
            // callers that join a path to a base leave a slash at its end; what proxies keep to themselves stays one path
            path::is_of(known, path)
                || matches!(route, Route::Keyed(KeyedRoute::Push | KeyedRoute::Batch | KeyedRoute::Disconnect))
                    && path.strip_suffix('/') == Some(*known)
        })?;
        let is_served = match route {
            Route::Open(OpenRoute::Page) => self.page.is_some(),
            Route::Open(OpenRoute::Console(_)) => self.has_console,
            _ => true,
        };
        is_served.then_some(row)
    }

    async fn serve(
        &self,
        found: Option<(&'static str, Route, &'static str)>,
        request: &HttpRequest,
        payload: &mut web::Payload,
    ) -> Result<HttpResponse, Refusal> {
        self.check_host(request)?;
        self.check_origin(request)?;
        let Some((known, route, allow)) = found else {
            let path = request.path();
            let slash = path.strip_suffix('/').is_some_and(|path| self.find(path).is_some());
            let advice = if slash { "leave the slash at its end out" } else { "/openapi.json lists them" };
            return Err(Refusal::new(RefusalKind::NoSuchRoute, format!("there is no such path; {advice}")));
        };
        let method = request.method();
        if method == Method::OPTIONS && is_preflight(request) {
            return Ok(preflight(allow));
        }
        if !allow.split(", ").any(|allowed| allowed == method.as_str()) {
            return Err(Refusal::new(RefusalKind::WrongMethod, format!("this path answers {allow} only")));
        }
        match route {
            Route::Open(route) => Ok(self.serve_open(route)),
            Route::Keyed(route) => {
                let authorization = request.headers().get(header::AUTHORIZATION).map(header::HeaderValue::as_bytes);
                let call = if method == Method::DELETE { Call::Delete(known) } else { Call::Other(known) };
                let caller = scopes::caller_of(call, authorization, &self.api.keys, self.api.roles, &self.metrics)?;
                self.serve_keyed(route, known, &caller, request, payload).await
            }
        }
    }

    fn serve_open(&self, route: OpenRoute) -> HttpResponse {
        match route {
            OpenRoute::Health => answer::health(self.api.watch.check()),
            OpenRoute::Ready => self.ready(),
            OpenRoute::OpenApi => answer::typed("application/json", self.live.load().openapi.clone()),
            OpenRoute::Script => answer::typed("text/javascript; charset=utf-8", SCRIPT),
            OpenRoute::Page => self.page(),
            OpenRoute::Console(file) => file.answer(),
        }
    }

    async fn serve_keyed(
        &self,
        route: KeyedRoute,
        known: &str,
        caller: &Caller,
        request: &HttpRequest,
        payload: &mut web::Payload,
    ) -> Result<HttpResponse, Refusal> {
        match route {
            KeyedRoute::Push => self.push(caller, request, payload).await,
            KeyedRoute::Batch => self.batch(caller, request, payload).await,
            KeyedRoute::Disconnect => self.disconnect(caller, request, payload).await,
            KeyedRoute::Query(route) => {
                queries::answer(route, &self.api.queries, caller, request, self.unknown_fields()).await
            }
            KeyedRoute::Stream(route) => streams::answer(route, known, &self.api.streams, caller, request).await,
            KeyedRoute::Nodes => nodes::answer(&self.api.nodes, request).await,
            KeyedRoute::Rebalance => {
                let body = self.body(request, payload, UnknownFields::Refuse).await;
                let draft = body.and_then(|body| rebalance::read(&body));
                self.api.rebalances.submit(draft).await.map(|moves| rebalance::answer(&moves))
            }
            KeyedRoute::Events => events::answer(&self.api.events, caller, request, &self.streams_end),
            KeyedRoute::Pushes => pushes::list(&self.metrics.traces, self.api.queries.node(), request),
            KeyedRoute::PushTrace => pushes::one(&self.metrics.traces, &self.api.streams, caller, request).await,
            KeyedRoute::Metrics => Ok(exposition::answer(request, &self.metrics)),
            KeyedRoute::Compat(route) => self.serve_compat(route, caller, request, payload).await,
        }
    }

    async fn push(
        &self,
        caller: &Caller,
        request: &HttpRequest,
        payload: &mut web::Payload,
    ) -> Result<HttpResponse, Refusal> {
        let unknown = self.unknown_fields();
        let body = self.body(request, payload, unknown).await;
        let draft = body.and_then(|body| json::push(body, &self.api.admission.limits(), unknown));
        let draft = draft.and_then(|draft| option_headers::apply(request.headers(), draft));
        self.submitter(caller).push(draft).await.map(answer::accepted)
    }

    async fn batch(
        &self,
        caller: &Caller,
        request: &HttpRequest,
        payload: &mut web::Payload,
    ) -> Result<HttpResponse, Refusal> {
        let unknown = self.unknown_fields();
        let body = self.body(request, payload, unknown).await?;
        option_headers::none(request.headers())?;
        let drafts = json::batch(body, &self.api.admission.limits(), unknown)?;
        Ok(answer::replies(&self.submitter(caller).push_all(drafts).await))
    }

    async fn disconnect(
        &self,
        caller: &Caller,
        request: &HttpRequest,
        payload: &mut web::Payload,
    ) -> Result<HttpResponse, Refusal> {
        let body = self.body(request, payload, UnknownFields::Refuse).await;
        let body = body.and_then(|body| option_headers::none(request.headers()).map(|()| body));
        let draft = body.and_then(json::disconnect);
        let order = self.api.disconnects.submit(PushSource::Http, caller, None, draft).await?;
        Ok(answer::accepted_order(&order))
    }

    pub(super) fn submitter(&self, caller: &Caller) -> Submitter {
        self.api.admission.submitter(PushSource::Http, caller.clone())
    }

    fn unknown_fields(&self) -> UnknownFields {
        self.live.load().unknown_fields
    }

    /// The body of a POST, which alone says what is asked for.
    async fn body(
        &self,
        request: &HttpRequest,
        payload: &mut web::Payload,
        unknown: UnknownFields,
    ) -> Result<Bytes, Refusal> {
        let body = self.bodies.read(request, payload).await?;
        if unknown == UnknownFields::Refuse {
            query::none(request.query_string())?;
        }
        Ok(body)
    }

    fn page(&self) -> HttpResponse {
        let mut page = answer::typed("text/html; charset=utf-8", self.page.clone().unwrap_or_default());
        let alone = header::HeaderValue::from_static("frame-ancestors 'none'");
        page.headers_mut().insert(header::CONTENT_SECURITY_POLICY, alone);
        page
    }

    fn ready(&self) -> HttpResponse {
        let details: Vec<String> = self.details.iter().flat_map(|lines| lines.borrow().clone()).collect();
        match self.api.readiness.check() {
            Ok(()) => answer::json(json!({"code": 0, "message": "ok", "details": details}).to_string()),
            Err(reason) => HttpResponse::ServiceUnavailable()
                .insert_header((header::RETRY_AFTER, 1))
                .content_type("application/json")
                .body(json!({"code": 503, "message": reason, "details": details}).to_string()),
        }
    }

    /// A name that this node does not know may be one that was made to lead here. Only browsers are fooled by that, and they
    /// always send a Host. Their pages do not know a key.
    fn check_host(&self, request: &HttpRequest) -> Result<(), Refusal> {
        let host = request.headers().get(header::HOST);
        if !self.api.keys.is_open() || host.is_none_or(|host| self.live.load().hosts.admit(host.as_bytes())) {
            return Ok(());
        }
        let remedy = "call its address, name the host in [http] allowed_hosts, or set [auth] keys or a [key.NAME]";
        Err(Refusal::new(RefusalKind::ForeignHost, format!("this Host is no name of the node: {remedy}")))
    }

    /// A browser's page of another origin must not push: form-typed JSON needs no preflight. Its own origin is the host that it
    /// called, which was checked.
    fn check_origin(&self, request: &HttpRequest) -> Result<(), Refusal> {
        let Some(origin) = request.headers().get(header::ORIGIN) else { return Ok(()) };
        let host = request.headers().get(header::HOST).map(header::HeaderValue::as_bytes);
        let authority =
            [&b"http://"[..], b"https://"].into_iter().find_map(|scheme| origin.as_bytes().strip_prefix(scheme));
        let own = authority.is_some() && authority == host;
        if own || self.live.load().allowed_origins.iter().any(|allowed| allowed.as_bytes() == origin.as_bytes()) {
            return Ok(());
        }
        Err(Refusal::new(RefusalKind::ForeignOrigin, "this Origin may not call; name it in [http] allowed_origins"))
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
        .insert_header((header::ACCESS_CONTROL_ALLOW_HEADERS, "authorization, content-type, idempotency-key"))
        .insert_header((header::ACCESS_CONTROL_MAX_AGE, 600))
        .finish()
}

fn status(code: u16) -> &'static str {
    const KNOWN: [(u16, &str); 13] = [
        (400, "400"),
        (401, "401"),
        (403, "403"),
        (404, "404"),
        (405, "405"),
        (408, "408"),
        (409, "409"),
        (413, "413"),
        (415, "415"),
        (421, "421"),
        (429, "429"),
        (500, "500"),
        (503, "503"),
    ];
    KNOWN.iter().find(|(known, _)| *known == code).map_or("other", |(_, label)| label)
}
