//! Other gateways' routes: go-push's forms and statistics, gpush's and gpusher's JSON, each answered in its own form.

use actix_web::{HttpRequest, HttpResponse, web};

use super::{
    answer, query,
    routes::{Handlers, KeyedRoute, Route},
};
use crate::{
    auth::Caller,
    ingress::{
        compat::{
            go_push::{self, FormPush},
            gpush::{self, TopicPush},
            gpusher::{self, GpusherRefusal, TokenRequest},
            stats,
        },
        queries::QueryScope,
        refusal::{Refusal, RefusalKind},
    },
};

/// A route of another gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CompatRoute {
    GoPushAll,
    GoPushRoom,
    GoPushStats,
    GpushData,
    GpusherPush,
    GpusherToken,
}

impl Handlers {
    /// Answers a call of another gateway.
    pub(super) async fn serve_compat(
        &self,
        route: CompatRoute,
        caller: &Caller,
        request: &HttpRequest,
        payload: &mut web::Payload,
    ) -> Result<HttpResponse, Refusal> {
        match route {
            CompatRoute::GoPushAll | CompatRoute::GoPushRoom => {
                self.push_items(route == CompatRoute::GoPushRoom, caller, request, payload).await
            }
            CompatRoute::GoPushStats => self.go_push_stats(query::scope(request.query_string())?).await,
            CompatRoute::GpushData => {
                let body = self.bodies().read_any(request, payload).await;
                let limits = self.api().admission.limits();
                let draft = body.and_then(|body| TopicPush::read(&body)).and_then(|push| push.draft(&limits));
                self.submitter(caller).push(draft).await.map(|_| answer::json("{}".into()))
            }
            CompatRoute::GpusherPush => {
                let pushed = self.gpusher_push(caller, request, payload).await;
                Ok(pushed.unwrap_or_else(|refusal| gpusher_refused(&refusal)))
            }
            CompatRoute::GpusherToken => {
                let token = self.gpusher_token(caller, request, payload).await;
                Ok(token.unwrap_or_else(|refusal| gpusher_refused(&refusal)))
            }
        }
    }

    /// go-push's: each item is a push.
    async fn push_items(
        &self,
        to_room: bool,
        caller: &Caller,
        request: &HttpRequest,
        payload: &mut web::Payload,
    ) -> Result<HttpResponse, Refusal> {
        let read = if to_room { go_push::room } else { go_push::everyone };
        let body = self.bodies().read_form(request, payload).await;
        let submitter = self.submitter(caller);
        let FormPush { drafts, is_for_nobody } = match body.and_then(|body| read(&body, &self.api().admission.limits()))
        {
            Ok(push) => push,
            Err(refusal) => return Err(submitter.push(Err(refusal.clone())).await.err().unwrap_or(refusal)),
        };
        let refused = if is_for_nobody {
            go_push::refusal_of(&submitter.push_to_nobody(drafts))
        } else {
            go_push::refusal_of(&submitter.push_all(drafts).await)
        };
        refused.map_or_else(|| Ok(HttpResponse::Ok().finish()), Err)
    }

    async fn go_push_stats(&self, scope: QueryScope) -> Result<HttpResponse, Refusal> {
        let counts = self.api().queries.counts(scope).await;
        Ok(answer::typed("text/plain; charset=utf-8", stats::object(self.metrics(), &counts)))
    }

    async fn gpusher_push(
        &self,
        caller: &Caller,
        request: &HttpRequest,
        payload: &mut web::Payload,
    ) -> Result<HttpResponse, GpusherRefusal> {
        let body = self.bodies().read_any(request, payload).await.map_err(GpusherRefusal::from);
        let limits = self.api().admission.limits();
        let push = body.and_then(|body| gpusher::push(&body, None, self.gpusher(), &limits));
        let submitter = self.submitter(caller);
        match push {
            Ok(draft) => {
                submitter.push(Ok(draft)).await?;
                Ok(answer::json(gpusher::ACCEPTED.into()))
            }
            // counted as any other
            Err(refused) => {
                let _ = submitter.push(Err(refused.refusal.clone())).await;
                Err(refused)
            }
        }
    }

    async fn gpusher_token(
        &self,
        caller: &Caller,
        request: &HttpRequest,
        payload: &mut web::Payload,
    ) -> Result<HttpResponse, GpusherRefusal> {
        let body = self.bodies().read_any(request, payload).await?;
        let asked = TokenRequest::read(&body, &self.api().admission.limits())?;
        self.api().queries.check(caller, &asked.uuid)?;
        Ok(answer::json(self.issue_token(&asked).await?))
    }
}

/// A refusal in the form of its route.
pub(super) fn refused(route: Option<Route>, refusal: &Refusal, allow: &'static str) -> HttpResponse {
    // the originals have no keys, and no origins
    let is_ours = matches!(
        refusal.kind,
        RefusalKind::NoKey
            | RefusalKind::WrongKey
            | RefusalKind::NoScope
            | RefusalKind::ForeignOrigin
            | RefusalKind::ForeignHost
    );
    match route {
        Some(Route::Keyed(KeyedRoute::Compat(CompatRoute::GpushData))) if !is_ours => {
            let status = if refusal.kind == RefusalKind::WrongMethod { 501 } else { refusal.kind.http() };
            answer::refused_with(refusal, allow, status, gpush::refusal_body(refusal))
        }
        _ => answer::refused(refusal, allow),
    }
}

/// A refusal in gpusher's form.
fn gpusher_refused(refused: &GpusherRefusal) -> HttpResponse {
    let status = if refused.is_said_with_200() { 200 } else { refused.refusal.kind.http() };
    answer::refused_with(&refused.refusal, "", status, refused.body())
}
