//! What a client's messages do.

use std::{
    rc::Rc,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytestring::ByteString;

use super::Connection;
use crate::{
    auth::identity::Identity,
    socket::join::{Authorization, Grant, JoinDecision, JoinError},
    telemetry::labels::{ClientErrorLabels, PeerCloseCode},
    wire::{
        close::{CloseCode, Ending},
        dialect::{ClientError, Command, Joined},
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
            Command::Join(request) => {
                if let Err(ending) = self.admit_join() {
                    return self.end(&ending);
                }
                let session = self.client.sink.session.as_deref();
                self.decide(self.worker.authorizer.authorize(request, session));
            }
            Command::Refresh(token) => self.refresh(token),
            Command::Leave => self.leave(),
            Command::Ping => self.answer(self.client.dialect().pong()),
            Command::Nothing => {}
            Command::ClientError(error) => self.answer_error(&error),
            Command::End(ending) => self.end(&ending),
        }
    }

    fn refresh(&mut self, token: ByteString) {
        let Some((card, app)) = self.client.joined_as() else {
            return self.answer_error(&ClientError::new("not_joined", "refresh needs a join before it"));
        };
        if let Err(ending) = self.admit_join() {
            return self.end(&ending);
        }
        let session = self.client.sink.session.as_deref();
        self.decide(self.worker.authorizer.refresh(token, card, app, session));
    }

    fn decide(&mut self, authorization: Authorization) {
        match authorization {
            Authorization::Decided(decision) => self.do_decided(decision),
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

    /// Does what a client may do of what it asked for, and answers it.
    pub(super) fn do_decided(&mut self, decision: JoinDecision) {
        match decision {
            Ok(Grant::Join { card, app, identity }) => {
                if let Err(error) = self.check_card_limit(&card) {
                    return self.answer_error(&error);
                }
                self.worker.shard.join(&self.client, &card, &app);
                self.worker.heartbeat.joined(&self.client);
                self.worker.metrics.joins.inc();
                let expires_in = identity.and_then(|identity| self.prove(identity));
                let client = &self.worker.shard.id(&self.client);
                self.answer(self.client.dialect().joined(&Joined { card: &card, app: &app, client, expires_in }));
            }
            Ok(Grant::Refresh(identity)) => {
                let expires_in = self.prove(identity);
                if let Some(frame) = self.client.dialect().refreshed(expires_in) {
                    self.answer(frame);
                }
            }
            Err(JoinError::Told(error)) => self.answer_error(&error),
            Err(JoinError::Ends(ending)) => self.end(&ending),
        }
    }

    /// The client is who it says; for how long.
    fn prove(&self, identity: Arc<Identity>) -> Option<Duration> {
        let remaining = identity.remaining(SystemTime::now());
        self.worker.heartbeat.proved(&self.client, remaining);
        if let Some(session) = &self.client.sink.session {
            session.prove(identity);
        }
        remaining
    }

    fn leave(&mut self) {
        if !self.worker.shard.leave_card(&self.client) {
            return self.answer_error(&ClientError::new("not_joined", "leave needs a join before it"));
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
