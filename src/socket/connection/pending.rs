//! What a client waits for: the decision about a join, and answers to its own pushes and messages.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use futures_util::{StreamExt, stream::FuturesUnordered};

use super::Connection;
use crate::{push::PushId, socket::join::JoinDecision, wire::dialect::ClientError};

/// `None`: the peer was gone before the decision came.
type PendingJoin = Pin<Box<dyn Future<Output = Option<JoinDecision>>>>;

type PendingAnswer = Pin<Box<dyn Future<Output = Answer>>>;

/// What became of a push or a message of a client.
pub(super) enum Answer {
    Pushed(PushId, Option<bytestring::ByteString>),
    Received(PushId, Option<bytestring::ByteString>),
    Refused(ClientError),
}

/// There only while a client waits for something.
#[derive(Default)]
pub(super) struct PendingAnswers {
    /// Nothing is read meanwhile.
    join: Option<PendingJoin>,
    answers: FuturesUnordered<PendingAnswer>,
}

impl Connection {
    /// A decision about a join, or a new token, is awaited.
    pub(super) fn waits_for_join(&self) -> bool {
        self.pending.as_ref().is_some_and(|pending| pending.join.is_some())
    }

    /// Answers that are awaited.
    pub(super) fn awaited_answers(&self) -> usize {
        self.pending.as_ref().map_or(0, |pending| pending.answers.len())
    }

    pub(super) fn wait_for_join(&mut self, decision: PendingJoin) {
        self.pending.get_or_insert_default().join = Some(decision);
    }

    /// The connection's task was woken for what it read, so that it polls this too before it sleeps.
    pub(super) fn wait_for_answer(&mut self, answer: impl Future<Output = Answer> + 'static) {
        self.pending.get_or_insert_default().answers.push(Box::pin(answer));
    }

    /// The decision about a join, once it is there.
    pub(super) fn poll_decision(&mut self, cx: &mut Context<'_>) -> Poll<Option<JoinDecision>> {
        let Some(pending) = &mut self.pending else { return Poll::Pending };
        let Some(join) = &mut pending.join else { return Poll::Pending };
        join.as_mut().poll(cx)
    }

    /// The decision is there, or no longer of use.
    pub(super) fn forget_join(&mut self) {
        if let Some(pending) = &mut self.pending {
            pending.join = None;
        }
        self.forget_pending();
    }

    /// Tells the client the answers that are there.
    pub(super) fn tell_answers(&mut self, cx: &mut Context<'_>) {
        while let Some(pending) = &mut self.pending
            && let Poll::Ready(Some(answer)) = pending.answers.poll_next_unpin(cx)
        {
            let dialect = self.client.dialect();
            let frame = match answer {
                Answer::Pushed(id, reference) => dialect.pushed(id, reference.as_deref()),
                Answer::Received(id, reference) => dialect.received(id, reference.as_deref()),
                Answer::Refused(error) => {
                    self.answer_error(&error);
                    None
                }
            };
            self.answer_if(frame);
        }
        self.forget_pending();
    }

    fn forget_pending(&mut self) {
        if self.pending.as_ref().is_some_and(|pending| pending.join.is_none() && pending.answers.is_empty()) {
            self.pending = None;
        }
    }
}
