//! What a client waits for: how its last message goes on, and answers to its own pushes and messages.

use std::{
    future::Future,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use futures_util::{StreamExt, stream::FuturesUnordered};

use super::{
    Connection,
    steps::{Answer, NextStep},
};
use crate::push::Address;

/// `None`: the peer was gone before it came.
type PendingStep = Pin<Box<dyn Future<Output = Option<NextStep>>>>;

type PendingAnswer = Pin<Box<dyn Future<Output = Answer>>>;

/// There only while a client waits for something.
#[derive(Default)]
pub(super) struct PendingAnswers {
    /// Nothing is read meanwhile.
    step: Option<PendingStep>,
    /// Where it waits to begin: of each address once.
    late: Vec<Address>,
    answers: FuturesUnordered<PendingAnswer>,
}

impl Connection {
    /// Its last message is not done yet.
    pub(super) fn waits_for_step(&self) -> bool {
        self.pending.as_ref().is_some_and(|pending| pending.step.is_some())
    }

    /// Answers to pushes and messages that are awaited.
    pub(super) fn awaited_answers(&self) -> usize {
        self.pending.as_ref().map_or(0, |pending| pending.answers.len() - pending.late.len())
    }

    /// Where it begins in a stream is awaited; nothing is done where it is already.
    pub(super) fn wait_for_attach(&mut self, address: &Address, attach: impl Future<Output = Answer> + 'static) {
        let pending = self.pending.get_or_insert_default();
        if !pending.late.contains(address) {
            pending.late.push(address.clone());
            pending.answers.push(Box::pin(attach));
        }
    }

    /// Its last message goes on with this. Nothing is read meanwhile; where the peer goes first, nothing is done.
    pub(super) fn wait_for_step(&mut self, step: impl Future<Output = NextStep> + 'static) {
        let client = Rc::clone(&self.client);
        self.pending.get_or_insert_default().step = Some(Box::pin(async move {
            // both cancel-safe: what is not done is done by nobody
            tokio::select! {
                step = step => Some(step),
                () = client.sink.stream.peer_ended() => None,
            }
        }));
    }

    /// The connection's task was woken for what it read, so that it polls this too before it sleeps.
    pub(super) fn wait_for_answer(&mut self, answer: impl Future<Output = Answer> + 'static) {
        self.pending.get_or_insert_default().answers.push(Box::pin(answer));
    }

    /// How its last message goes on, once that is there.
    pub(super) fn poll_next_step(&mut self, cx: &mut Context<'_>) -> Poll<Option<NextStep>> {
        let Some(pending) = &mut self.pending else { return Poll::Pending };
        let Some(step) = &mut pending.step else { return Poll::Pending };
        step.as_mut().poll(cx)
    }

    /// It is there, or no longer of use.
    pub(super) fn forget_step(&mut self) {
        if let Some(pending) = &mut self.pending {
            pending.step = None;
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
                Answer::Attached(late, attached) => {
                    pending.late.retain(|address| *address != late.address);
                    self.attached_late(late, attached);
                    None
                }
            };
            self.answer_if(frame);
        }
        self.forget_pending();
    }

    fn forget_pending(&mut self) {
        if self.pending.as_ref().is_some_and(|pending| pending.step.is_none() && pending.answers.is_empty()) {
            self.pending = None;
        }
    }
}
