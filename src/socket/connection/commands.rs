//! What a client's messages do.

use std::{borrow::Cow, rc::Rc};

use super::Connection;
use crate::{
    socket::join::{Authorization, JoinDecision},
    telemetry::labels::{ClientErrorLabels, PeerCloseCode},
    wire::{
        close::{CloseCode, Ending},
        dialect::{ClientError, Command, JoinRequest},
        frame::{Frame, Message},
    },
};

impl Connection {
    /// Does what a message asks for, and answers it.
    pub(super) fn handle(&mut self, message: Message) {
        if let Message::Close(reason) = message {
            return self.answer_close(reason.map(|reason| reason.code));
        }
        if self.client.is_ending() {
            return;
        }
        if let Err(ending) = self.admit_message(&message) {
            return self.end(&ending);
        }
        let dialect = self.client.dialect();
        match message {
            Message::Text(text) => self.run(dialect.parse(&text)),
            Message::Binary(bytes) => self.run(dialect.parse_binary(&bytes)),
            Message::Ping(payload) => self.answer(Frame::pong(&payload)),
            Message::Pong(_) | Message::Close(_) => {}
        }
    }

    fn run(&mut self, command: Command) {
        match command {
            Command::Join(request) => self.join(request),
            Command::Leave => self.leave(),
            Command::Ping => self.answer(self.client.dialect().pong()),
            Command::Nothing => {}
            Command::ClientError(error) => self.answer_error(&error),
            Command::End(ending) => self.end(&ending),
        }
    }

    fn join(&mut self, request: JoinRequest) {
        if let Err(ending) = self.admit_join() {
            return self.end(&ending);
        }
        match self.worker.authorizer.authorize(request) {
            Authorization::Decided(decision) => self.finish_join(decision),
            Authorization::Pending(decision) => {
                let client = Rc::clone(&self.client);
                self.pending_join = Some(Box::new(Box::pin(async move {
                    tokio::select! {
                        decision = decision => Some(decision),
                        () = client.sink.stream.peer_ended() => None,
                    }
                })));
            }
        }
    }

    pub(super) fn finish_join(&mut self, decision: JoinDecision) {
        match decision.and_then(|joined| self.check_card_limit(joined)) {
            Ok(joined) => {
                self.worker.shard.join(&self.client, &joined.card, &joined.app);
                self.worker.heartbeat.joined(&self.client);
                self.worker.metrics.joins.inc();
                self.answer(self.client.dialect().joined(&joined));
            }
            Err(error) => self.answer_error(&error),
        }
    }

    fn leave(&mut self) {
        if !self.worker.shard.leave_card(&self.client) {
            let message = Cow::Borrowed("leave needs a join before it");
            return self.answer_error(&ClientError { code: "not_joined", message });
        }
        if let Some(frame) = self.client.dialect().left() {
            self.answer(frame);
        }
    }

    fn answer_error(&self, error: &ClientError) {
        self.worker.metrics.client_errors.get_or_create(&ClientErrorLabels { error: error.code }).inc();
        match self.client.dialect().error(error) {
            Ok(frame) => self.answer(frame),
            Err(ending) => self.end(&ending),
        }
    }

    fn answer(&self, frame: Frame) {
        self.worker.shard.answer(&self.client, frame);
    }

    pub(super) fn end(&self, ending: &Ending) {
        self.worker.shard.end(&self.client, ending);
    }

    /// Answers the peer's close with its own code, unless it answers ours.
    fn answer_close(&mut self, code: Option<CloseCode>) {
        self.ignores_input = true;
        self.peer_closed = true;
        self.worker.shard.end_with(&self.client, Frame::close_answer(code), peer_close(code).word());
    }
}

/// The label for a close that the peer began.
fn peer_close(code: Option<CloseCode>) -> PeerCloseCode {
    match code {
        None => PeerCloseCode::NoCode,
        Some(CloseCode::Normal) => PeerCloseCode::Normal,
        Some(CloseCode::Away) => PeerCloseCode::GoingAway,
        Some(_) => PeerCloseCode::Other,
    }
}
