//! What a client's messages do.

use std::{
    rc::Rc,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytestring::ByteString;
use futures_util::future::OptionFuture;

use super::{
    Connection,
    steps::{CardAnswer, CardEntry, NextStep},
    stream_place::AttachOutcome,
};
use crate::{
    auth::identity::Identity,
    cluster::Announcement,
    events::EventKind,
    push::Address,
    socket::join::{Authorization, Grant, JoinDecision, JoinError},
    telemetry::labels::{ClientErrorLabels, PeerCloseCode},
    wire::{
        close::{CloseCode, Ending},
        dialect::{ClientError, Command, JoinRequest, Joined},
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
            Message::Pong(payload) => self.ack_by_pong(&payload),
            Message::Close(_) => {}
        }
    }

    fn run(&mut self, command: Command) {
        match command {
            Command::Join(request) => {
                if let Err(ending) = self.admit_join() {
                    return self.end(&ending);
                }
                if let Err(error) = self.check_streams(request.device.is_some(), request.resume.is_some()) {
                    return self.answer_error(&error);
                }
                let session = self.client.sink.session.as_deref();
                self.decide(self.worker.authorizer.authorize(request, session));
            }
            Command::Refresh(token) => self.refresh(token),
            Command::Leave(card) => self.leave(card),
            Command::Subscribe(room) => self.subscribe(room),
            Command::Unsubscribe(room) => self.unsubscribe(room),
            Command::Login(token) => self.log_in(token),
            Command::Logout => self.log_out(),
            Command::Push(push) => self.push(push),
            Command::Message(message) => self.message(message),
            Command::Ack { card, seq, epoch } => {
                if let Err(error) = self.ack(&card, seq, epoch) {
                    self.answer_error(&error);
                }
            }
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

    fn log_in(&mut self, token: ByteString) {
        if let Err(ending) = self.admit_join() {
            return self.end(&ending);
        }
        let session = self.client.sink.session.as_deref();
        self.decide(self.worker.authorizer.log_in(Some(token), session));
    }

    pub(super) fn log_in_by_handshake(&mut self) {
        let Some(session) = self.client.sink.session.as_deref() else { return };
        if session.token().is_some() {
            self.decide(self.worker.authorizer.log_in(None, Some(session)));
        }
    }

    fn log_out(&mut self) {
        if self.identity().is_none() {
            return self.answer_error(&ClientError::new("not_joined", "a logout needs a login before it"));
        }
        self.leave_all_cards();
        for room in self.client.rooms().into_iter().filter(|room| self.is_private(room)) {
            if self.worker.shard.unsubscribe(&self.client, &room) {
                self.tell(EventKind::Unsubscribed, None, Some(&room));
            }
        }
        if let Some(session) = &self.client.sink.session {
            session.forget();
        }
        self.answer_if(self.client.dialect().logged_out());
    }

    fn decide(&mut self, authorization: Authorization) {
        match authorization {
            Authorization::Decided(decision) => self.do_decided(decision),
            Authorization::Pending(decision) => {
                self.wait_for_step(async move { NextStep::Decided(decision.await) });
            }
        }
    }

    /// Does what a client may do of what it asked for, and answers it.
    pub(super) fn do_decided(&mut self, decision: JoinDecision) {
        match decision {
            Ok(Grant::Join { request, identity }) => {
                // at its first join only: a member of something must not change in the middle of a window
                if !self.client.sink.liveness.joined.get() && request.merge {
                    self.worker.shard.set_merges(&self.client, true);
                }
                let expires_in = identity.and_then(|identity| self.prove(identity));
                if let Err(error) = self.check_card_limits(&request.card) {
                    return self.answer_error(&error);
                }
                self.begin_card_entry(request, CardAnswer::Joined { expires_in });
            }
            Ok(Grant::Refresh(identity)) => {
                let expires_in = self.prove(identity);
                self.answer_if(self.client.dialect().refreshed(expires_in));
            }
            Ok(Grant::Login { card, app, identity }) => {
                self.prove(identity);
                if !self.client.has_joined(&card) {
                    self.leave_all_cards();
                    if let Err(error) = self.check_card_limits(&card) {
                        return self.answer_error(&error);
                    }
                }
                let request = JoinRequest { card, app, ..JoinRequest::default() };
                self.begin_card_entry(request, CardAnswer::LoggedIn);
            }
            Err(error) => self.refuse(error),
        }
    }

    /// Enters a card, at once where the directory has it, and it need not be looked up first where the client begins in its stream.
    fn begin_card_entry(&mut self, request: JoinRequest, answer: CardAnswer) {
        let announcement = self.announce(|| Address::Card(request.card.clone()));
        let attach = self.look_up_card(&request);
        let entry = CardEntry { request, answer, announcement };
        if attach.is_none() && entry.announcement.as_ref().is_none_or(Announcement::is_entered) {
            return self.enter_card(entry, None);
        }
        self.wait_for_step(async move {
            // first: what is published from then on comes here, and what was stored before is found by the look-up
            OptionFuture::from(entry.announcement.as_ref().map(Announcement::entered)).await;
            let attached = OptionFuture::from(attach).await;
            NextStep::EnterCard(entry, attached)
        });
    }

    /// Tells the directory, if there is one, that the client is on its way into an address.
    pub(super) fn announce(&self, address: impl FnOnce() -> Address) -> Option<Announcement> {
        self.worker.directory.as_ref().map(|directory| directory.announce(address()))
    }

    /// As [`Connection::enter_card`], once it was looked up where it begins: what it proved may be over by then.
    pub(super) fn enter_card_later(&mut self, entry: CardEntry, attached: Option<AttachOutcome>) {
        let holds = self.check_proof().and_then(|()| Ok(self.check_card_limits(&entry.request.card)?));
        match holds {
            Ok(()) => self.enter_card(entry, attached),
            Err(error) => self.refuse(error),
        }
    }

    /// Whether what it proved still holds.
    pub(super) fn check_proof(&self) -> Result<(), JoinError> {
        self.worker.authorizer.check_again(self.client.sink.session.as_deref())
    }

    pub(super) fn refuse(&self, error: JoinError) {
        match error {
            JoinError::Told(error) => self.answer_error(&error),
            JoinError::Ends(ending) => self.end(&ending),
        }
    }

    /// Puts the client into a card, and answers it.
    pub(super) fn enter_card(&mut self, entry: CardEntry, attached: Option<AttachOutcome>) {
        // until it is in
        let CardEntry { request, answer, announcement: _announcement } = entry;
        let is_new = !self.client.has_joined(&request.card);
        let begin = match self.put_into_card(&request, attached) {
            Ok(begin) => begin,
            Err(error) => return self.answer_error(&error),
        };
        self.worker.heartbeat.joined(&self.client);
        self.worker.metrics.joins.inc();
        let JoinRequest { card, app, .. } = request;
        if is_new {
            self.tell(EventKind::Joined, Some((&card, &app)), None);
        }
        let dialect = self.client.dialect();
        match answer {
            CardAnswer::LoggedIn => self.answer_if(dialect.logged_in()),
            CardAnswer::Joined { expires_in } => {
                let client = &self.worker.shard.id(&self.client);
                self.answer_if(dialect.joined(&Joined { card: &card, app: &app, client, expires_in }));
                if let Some(begin) = begin {
                    self.tell_begin(&Address::Card(card), begin);
                }
            }
        }
    }

    /// The client is who it says, from now on, and loses what that may not have; for how long.
    fn prove(&mut self, identity: Arc<Identity>) -> Option<Duration> {
        let remaining = identity.remaining(SystemTime::now());
        self.worker.heartbeat.proved(&self.client, remaining);
        for (card, app) in self.client.cards() {
            let is_its_app = identity.app.as_ref().is_none_or(|own| *own == app);
            if !(is_its_app && identity.admits_card(&card)) && self.worker.shard.leave_card(&self.client, &card) {
                self.answer_if(self.client.dialect().left(Some(&card)));
                self.tell(EventKind::Left, Some((&card, &app)), None);
            }
        }
        let worker = Rc::clone(&self.worker);
        self.leave_rooms_unless(|room| worker.rooms.admit(room, Some(&identity)));
        if let Some(session) = &self.client.sink.session {
            session.prove(identity);
        }
        remaining
    }

    /// Who it proved to be.
    pub(super) fn identity(&self) -> Option<Arc<Identity>> {
        self.client.sink.session.as_ref()?.identity()
    }

    fn leave(&mut self, card: Option<ByteString>) {
        let had_joined = match &card {
            Some(card) => self.leave_one_card(card),
            None => self.leave_all_cards(),
        };
        if !had_joined {
            return self.answer_error(&ClientError::new("not_joined", "leave needs a join before it"));
        }
        self.answer_if(self.client.dialect().left(card.as_deref()));
    }

    /// `false`: it had not joined it.
    fn leave_one_card(&self, card: &str) -> bool {
        let app = self.client.cards().into_iter().find(|(joined, _)| *joined == *card).map(|(_, app)| app);
        let left = self.worker.shard.leave_card(&self.client, card);
        if left {
            self.tell(EventKind::Left, Some((card, app.as_deref().unwrap_or_default())), None);
        }
        left
    }

    /// `false`: it had joined none.
    fn leave_all_cards(&self) -> bool {
        let cards = self.client.cards();
        let left = self.worker.shard.leave_cards(&self.client);
        for (card, app) in &cards {
            self.tell(EventKind::Left, Some((card, app)), None);
        }
        left
    }

    pub(super) fn answer_error(&self, error: &ClientError) {
        self.worker.metrics.client_errors.get_or_create(&ClientErrorLabels { error: error.code }).inc();
        match self.client.dialect().error(error) {
            Ok(Some(frame)) => self.answer(frame),
            Ok(None) => {}
            Err(ending) => self.end(&ending),
        }
    }

    /// Answers, where the dialect has an answer.
    pub(super) fn answer_if(&self, frame: Option<Frame>) {
        if let Some(frame) = frame {
            self.answer(frame);
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
        self.ack_by_close();
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
