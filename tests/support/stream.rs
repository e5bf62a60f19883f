//! A client of oxipush.v1 that reads one stream, by the rules that docs/streams.md gives to a client's author.

use std::collections::VecDeque;

use serde_json::{Value, json};

use super::client::Client;

/// What a push is to a reader that keeps its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The next one.
    Next,
    /// One that it has.
    Copy,
    /// One behind others that it has not: it has to resume.
    Gap,
}

/// A reader's place in a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    pub epoch: Option<String>,
    pub seq: u64,
    pub id: Option<String>,
}

impl Place {
    /// Takes a push of the stream; only the next one moves the place.
    pub fn take(&mut self, push: &Stored) -> Step {
        if push.seq <= self.seq {
            return Step::Copy;
        }
        if push.prev > self.seq {
            return Step::Gap;
        }
        self.seq = push.seq;
        self.id = Some(push.id.clone());
        Step::Next
    }

    /// What `joined`, `subscribed`, `stream` or `reset` say of the stream.
    pub fn told(&mut self, data: &Value) {
        let (Some(epoch), Some(seq)) = (data["epoch"].as_str(), data["seq"].as_u64()) else { return };
        if self.epoch.as_deref() != Some(epoch) || self.seq != seq {
            *self = Self { epoch: Some(epoch.to_owned()), seq, id: None };
        }
    }

    /// The `resume` of a join or a subscription; none without an epoch.
    pub fn resume(&self) -> Option<Value> {
        let mut resume = json!({"epoch": self.epoch.as_ref()?, "seq": self.seq});
        if let Some(id) = &self.id {
            resume["id"] = json!(id);
        }
        Some(resume)
    }
}

/// A stored push as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    pub id: String,
    pub seq: u64,
    pub prev: u64,
    pub content: String,
}

/// A client that reads the stream of a card or of a room.
pub struct StreamClient {
    pub client: Client,
    /// `card` or `room`, and its name.
    address: (&'static str, String),
    /// What came before the answer that was waited for.
    heard: VecDeque<Value>,
    pub place: Place,
    /// How many waited when it was last told.
    pub waiting: Option<u64>,
    /// How often it was told that its place means nothing any more.
    pub resets: usize,
}

impl StreamClient {
    /// Joins a card; `more` goes into the join's data (`device`, `app_id`, `resume`).
    pub async fn join(url: &str, card: &str, more: Value) -> Self {
        let mut reader = Self::new(url, ("card", card)).await;
        reader.ask("join", "joined", with(json!({"card_id": card}), more)).await;
        reader
    }

    /// Joins a card and subscribes to a room, whose stream it reads; `more` goes into the subscription's data (`resume`).
    pub async fn subscribe(url: &str, card: &str, room: &str, more: Value) -> Self {
        let mut reader = Self::new(url, ("room", room)).await;
        reader.ask("join", "joined", json!({"card_id": card})).await;
        reader.ask("subscribe", "subscribed", with(json!({"room": room}), more)).await;
        reader
    }

    async fn new(url: &str, (kind, name): (&'static str, &str)) -> Self {
        Self {
            client: Client::connect(url, true).await,
            address: (kind, name.to_owned()),
            heard: VecDeque::new(),
            place: Place::default(),
            waiting: None,
            resets: 0,
        }
    }

    /// Says something, waits for its answer, and gives the answer's data.
    pub async fn ask(&mut self, event: &str, answer: &str, data: Value) -> Value {
        let says = if event == "ping" { json!({"event": event}) } else { json!({"event": event, "data": data}) };
        self.client.say(says).await;
        loop {
            let heard = self.client.hear().await;
            if heard["event"] == answer {
                self.told(&heard["data"]);
                return heard["data"].clone();
            }
            assert_ne!(heard["event"], "error", "{heard}");
            self.heard.push_back(heard);
        }
    }

    /// What an event says of its stream.
    fn told(&mut self, data: &Value) {
        let (kind, name) = &self.address;
        let names_it = match *kind {
            "card" => data["card"] == name.as_str() || data["card_id"] == name.as_str(),
            _ => data["room"] == name.as_str(),
        };
        if names_it {
            self.place.told(data);
            self.waiting = data["waiting"].as_u64().or(self.waiting);
        }
    }

    /// The next event that is no `stream` and no `reset`, whose word is taken.
    pub async fn hear(&mut self) -> Value {
        loop {
            let heard = match self.heard.pop_front() {
                Some(heard) => heard,
                None => self.client.hear().await,
            };
            match heard["event"].as_str() {
                Some("stream") => {}
                Some("reset") => self.resets += 1,
                _ => return heard,
            }
            self.told(&heard["data"]);
        }
    }

    /// The next stored push, wherever it stands; its place is not taken yet.
    pub async fn any_stored(&mut self) -> Stored {
        let heard = self.hear().await;
        stored(&heard).unwrap_or_else(|| panic!("no push of a stream: {heard}"))
    }

    /// The next stored push, which must be the next one of the stream.
    pub async fn stored(&mut self) -> Stored {
        let push = self.any_stored().await;
        let before = self.place.clone();
        assert_eq!(self.place.take(&push), Step::Next, "{push:?} after {before:?}");
        push
    }

    /// The contents of the next so many stored pushes, in the stream's order.
    pub async fn contents(&mut self, count: usize) -> Vec<String> {
        let mut contents = Vec::with_capacity(count);
        for _ in 0..count {
            contents.push(self.stored().await.content);
        }
        contents
    }

    /// Acknowledges all up to its place, and waits until that was read.
    pub async fn ack(&mut self, card: &str) {
        self.client.say(json!({"event": "ack", "data": {"card": card, "seq": self.place.seq}})).await;
        self.ask("ping", "pong", json!({})).await;
    }

    /// Makes sure that no push waits: the answer to a ping comes first.
    pub async fn silent(&mut self) {
        self.client.say(json!({"event": "ping"})).await;
        let heard = self.hear().await;
        assert_eq!(heard["event"], "pong", "{heard}");
    }
}

/// The push of a stream that an event is.
pub fn stored(heard: &Value) -> Option<Stored> {
    let data = &heard["data"];
    (heard["event"] == "push").then_some(())?;
    Some(Stored {
        id: data["id"].as_str()?.to_owned(),
        seq: data["seq"].as_u64()?,
        prev: data["prev"].as_u64()?,
        content: data["content"].as_str()?.to_owned(),
    })
}

/// Two objects as one.
fn with(mut object: Value, more: Value) -> Value {
    if let (Some(object), Value::Object(more)) = (object.as_object_mut(), more) {
        object.extend(more);
    }
    object
}
