//! How each kind of server is spoken to: a small table of join frames, push requests and answers.

use clap::ValueEnum;

use crate::{
    http,
    layout::{Aim, Target},
};

/// How clients speak, and how callers do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Profile {
    /// oxipush with its own subprotocol oxipush.v1
    Oxipush,
    /// gopusher, or oxipush with gopusher's dialect
    Gopusher,
    /// go-push: rooms for cards; its HTTP API has forms
    GoPush,
    /// gpush: public topics for cards; its HTTP API has base64 in JSON
    Gpush,
    /// Centrifugo: channels for cards; JSON protocol and /api/publish
    Centrifugo,
}

/// What a frame says that is no push.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// One step of the join holds.
    Joined,
    /// To be answered with this text.
    Ping(&'static str),
    /// Nothing that matters.
    Other,
}

/// What a connection joins.
#[derive(Clone, Debug)]
pub(crate) struct Member<'a> {
    /// Not asked for by a profile without cards.
    pub(crate) card: String,
    pub(crate) rooms: Vec<String>,
    pub(crate) token: Option<&'a str>,
    /// It asks for frames that hold several pushes, where that is an option.
    pub(crate) merge: bool,
}

impl Profile {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Oxipush => "oxipush",
            Self::Gopusher => "gopusher",
            Self::GoPush => "go-push",
            Self::Gpush => "gpush",
            Self::Centrifugo => "centrifugo",
        }
    }

    /// Where clients connect, when the address names no path. gpush's own is /ws, which is gopusher's at oxipush.
    pub(crate) fn socket_path(self) -> &'static str {
        match self {
            Self::Oxipush | Self::Gopusher => "/ws",
            Self::GoPush => "/connect",
            Self::Gpush => "/gpush/ws",
            Self::Centrifugo => "/connection/websocket",
        }
    }

    pub(crate) fn subprotocol(self) -> Option<&'static str> {
        match self {
            Self::Oxipush => Some("oxipush.v1"),
            Self::Gopusher | Self::GoPush | Self::Gpush | Self::Centrifugo => None,
        }
    }

    /// The frames that join; [`Profile::answers`] tells how many answers they have.
    pub(crate) fn join(self, member: &Member<'_>) -> Vec<String> {
        let card = &member.card;
        let rooms = member.rooms.iter();
        match self {
            Self::Oxipush | Self::Gopusher => {
                let token = member.token.map(|token| format!(r#","token":"{token}""#)).unwrap_or_default();
                let merge = if member.merge { r#","merge":true"# } else { "" };
                let join =
                    format!(r#"{{"event":"join","data":{{"app_id":"pushbench","card_id":"{card}"{token}{merge}}}}}"#);
                let subscribe = |room| format!(r#"{{"event":"subscribe","data":{{"room":"{room}"}}}}"#);
                [join].into_iter().chain(rooms.map(subscribe)).collect()
            }
            // JOIN has no answer, but frames are read in turn: the PING's tells that it was read
            Self::GoPush => rooms
                .map(|room| format!(r#"{{"type":"JOIN","data":{{"room":"{room}"}}}}"#))
                .chain([r#"{"type":"PING","data":{}}"#.into()])
                .collect(),
            Self::Gpush => rooms.map(|room| format!(r#"{{"code":1,"topic":"{room}"}}"#)).collect(),
            Self::Centrifugo => {
                let subscribe =
                    |(id, room): (usize, &String)| format!(r#"{{"id":{},"subscribe":{{"channel":"{room}"}}}}"#, id + 2);
                let commands: Vec<String> =
                    [r#"{"id":1,"connect":{}}"#.into()].into_iter().chain(rooms.enumerate().map(subscribe)).collect();
                vec![commands.join("\n")]
            }
        }
    }

    /// Answers ([`Answer::Joined`]) to a join with so many rooms.
    pub(crate) fn answers(self, rooms: usize) -> usize {
        match self {
            Self::Oxipush | Self::Gopusher => 1 + rooms,
            Self::GoPush => 1,
            // the greeting is one
            Self::Gpush => 1 + rooms,
            // those of one write come in one frame, as often as not
            Self::Centrifugo => 1,
        }
    }

    /// What a frame without a marker says.
    pub(crate) fn answer(self, payload: &[u8]) -> Answer {
        let joined: &[&[u8]] = match self {
            Self::Oxipush => &[br#""joined""#, br#""subscribed""#],
            Self::Gopusher => &[br#""data":"ok""#],
            Self::GoPush => &[br#""PONG""#],
            Self::Gpush => &[br#""code":20000,"#, br#""code":20001,"#],
            Self::Centrifugo => &[br#""subscribe":"#],
        };
        if joined.iter().any(|word| holds(payload, word)) {
            Answer::Joined
        } else if self == Self::Centrifugo && payload.trim_ascii() == b"{}" {
            Answer::Ping("{}")
        } else {
            Answer::Other
        }
    }

    /// A client's own heartbeat, where a server needs one; sent every 25 s.
    pub(crate) fn heartbeat(self) -> Option<&'static str> {
        match self {
            Self::GoPush => Some(r#"{"type":"PING","data":{}}"#),
            Self::Gpush => Some("ping"),
            Self::Oxipush | Self::Gopusher | Self::Centrifugo => None,
        }
    }

    /// Whether one frame may hold several pushes, whatever the clients ask for.
    pub(crate) fn merges(self) -> bool {
        matches!(self, Self::GoPush | Self::Centrifugo)
    }

    /// Whether clients join cards and pushes name them; otherwise rooms stand for cards.
    pub(crate) fn has_cards(self) -> bool {
        matches!(self, Self::Oxipush | Self::Gopusher)
    }

    /// Whether a push can name everyone.
    pub(crate) fn has_everyone(self) -> bool {
        self != Self::Centrifugo
    }

    /// Whether the server has gopusher's gRPC service.
    pub(crate) fn grpc(self) -> bool {
        matches!(self, Self::Oxipush | Self::Gopusher)
    }

    fn push_path(self, aim: Aim) -> &'static str {
        match self {
            Self::Oxipush | Self::Gopusher => "/push",
            Self::GoPush if aim == Aim::Everyone => "/push/all",
            Self::GoPush => "/push/room",
            Self::Gpush => "/v1/pushData",
            Self::Centrifugo => "/api/publish",
        }
    }

    /// Whether an answer means that the push was accepted.
    pub(crate) fn accepted(self, status: u16, body: &[u8]) -> bool {
        status == 200
            && match self {
                // gopusher leaves an accepted push's `"code":0` out
                Self::Oxipush | Self::Gopusher => holds(body, br#""message":"ok""#),
                Self::GoPush => true,
                Self::Gpush => !holds(body, br#""code""#),
                Self::Centrifugo => !holds(body, br#""error""#),
            }
    }

    /// What the bare server puts around a content, so that its frames are as long as the gateway's.
    pub(crate) fn wrapping(self) -> (&'static str, &'static str) {
        match self {
            Self::Oxipush => (
                r#"{"event":"push","data":{"id":"01ARZ3NDEKTSV4RRFFQ69G5FAV","from":"pushbench","content":""#,
                r#""}}"#,
            ),
            Self::Gopusher => (r#"{"type":1,"data":""#, "\"}\n"),
            Self::GoPush => (r#"{"type":"PUSH","data":{"items":[""#, r#""]}}"#),
            Self::Gpush => ("", ""),
            Self::Centrifugo => (r#"{"push":{"channel":"pushbench","pub":{"data":""#, r#""}}}"#),
        }
    }

    /// The bare server's answer to a join.
    pub(crate) fn joined(self) -> &'static str {
        match self {
            Self::Oxipush => r#"{"event":"joined","data":{}}"#,
            Self::Gopusher => "{\"type\":1,\"data\":\"ok\"}\n",
            Self::GoPush => r#"{"type":"PONG","data":{}}"#,
            Self::Gpush => r#"{"code":20001,"message":""}"#,
            Self::Centrifugo => r#"{"id":2,"subscribe":{}}"#,
        }
    }
}

fn holds(text: &[u8], word: &[u8]) -> bool {
    text.windows(word.len()).any(|window| window == word)
}

/// Writes push requests of one run.
#[derive(Clone, Debug)]
pub(crate) struct Requests {
    profile: Profile,
    path: String,
    head: String,
    body: Vec<u8>,
    offline: bool,
}

impl Requests {
    pub(crate) fn new(profile: Profile, aim: Aim, host: &str, path: &str, key: Option<&str>) -> Self {
        let bearer = key.map(|key| format!("Bearer {key}"));
        let bearer = bearer.as_deref().map(|bearer| ("Authorization", bearer));
        let (content_type, key) = match profile {
            Profile::Oxipush | Profile::Gopusher | Profile::Gpush => ("application/json", bearer),
            Profile::GoPush => ("application/x-www-form-urlencoded", bearer),
            Profile::Centrifugo => ("application/json", key.map(|key| ("X-API-Key", key))),
        };
        let path = if path.is_empty() { profile.push_path(aim) } else { path };
        Self { profile, path: path.into(), head: http::head(host, content_type, key), body: Vec::new(), offline: false }
    }

    /// Whether the pushes are stored.
    pub(crate) fn stored(self, offline: bool) -> Self {
        Self { offline, ..self }
    }

    /// Appends the request that pushes `content` (plain letters, digits, `~`).
    pub(crate) fn write(&mut self, target: &Target, content: &[u8], out: &mut Vec<u8>) {
        let body = &mut self.body;
        body.clear();
        match self.profile {
            Profile::Oxipush | Profile::Gopusher => {
                body.extend_from_slice(br#"{"from":"pushbench","#);
                match target {
                    Target::Cards(cards) => parts(body, &[r#""to":[""#, &cards.join(r#"",""#), r#""],"appID":"""#]),
                    Target::Room(room) => parts(body, &[r#""room":""#, room, r#"""#]),
                    Target::Everyone => parts(body, &[r#""everyone":true"#]),
                }
                parts(body, &[r#","content":""#]);
                body.extend_from_slice(content);
                parts(body, &[if self.offline { r#"","offline":true}"# } else { r#""}"# }]);
            }
            Profile::GoPush => {
                if let Target::Room(room) = target {
                    parts(body, &["room=", room, "&"]);
                }
                // ["…"]
                parts(body, &["items=%5B%22"]);
                body.extend_from_slice(content);
                parts(body, &["%22%5D"]);
            }
            Profile::Gpush => {
                let topic = if let Target::Room(room) = target { room } else { "" };
                parts(body, &[r#"{"uid":"","topic":""#, topic, r#"","data":""#]);
                base64(content, body);
                parts(body, &[r#""}"#]);
            }
            Profile::Centrifugo => {
                let channel = if let Target::Room(room) = target { room } else { "" };
                parts(body, &[r#"{"channel":""#, channel, r#"","data":""#]);
                body.extend_from_slice(content);
                parts(body, &[r#""}"#]);
            }
        }
        http::post(&self.path, &self.head, body, out);
    }
}

fn parts(body: &mut Vec<u8>, parts: &[&str]) {
    parts.iter().for_each(|part| body.extend_from_slice(part.as_bytes()));
}

/// RFC 4648's, with padding.
fn base64(bytes: &[u8], out: &mut Vec<u8>) {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for chunk in bytes.chunks(3) {
        let byte = |at: usize| u32::from(chunk.get(at).copied().unwrap_or(0));
        let group = byte(0) << 16 | byte(1) << 8 | byte(2);
        for place in 0..4 {
            let letter = ALPHABET[(group >> (18 - 6 * place)) as usize & 63];
            out.push(if place <= chunk.len() { letter } else { b'=' });
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn body(profile: Profile, target: &Target) -> String {
        let mut out = Vec::new();
        Requests::new(profile, Aim::Rooms, "h", "", Some("k")).write(target, b"~pb1", &mut out);
        let text = String::from_utf8(out).unwrap();
        text.split_once("\r\n\r\n").unwrap().1.to_owned()
    }

    #[test]
    fn pushes_have_the_form_that_each_server_reads() {
        let cards = Target::Cards(vec!["a".into(), "b".into()]);
        let room = Target::Room("a".into());
        assert_eq!(
            body(Profile::Gopusher, &cards),
            r#"{"from":"pushbench","to":["a","b"],"appID":"","content":"~pb1"}"#
        );
        assert_eq!(body(Profile::Oxipush, &room), r#"{"from":"pushbench","room":"a","content":"~pb1"}"#);
        let mut out = Vec::new();
        let mut stored = Requests::new(Profile::Oxipush, Aim::Rooms, "h", "", None).stored(true);
        stored.write(&room, b"~pb1", &mut out);
        assert!(out.ends_with(br#"{"from":"pushbench","room":"a","content":"~pb1","offline":true}"#));
        assert_eq!(
            body(Profile::Oxipush, &Target::Everyone),
            r#"{"from":"pushbench","everyone":true,"content":"~pb1"}"#
        );
        assert_eq!(body(Profile::GoPush, &room), "room=a&items=%5B%22~pb1%22%5D");
        assert_eq!(body(Profile::GoPush, &Target::Everyone), "items=%5B%22~pb1%22%5D");
        assert_eq!(body(Profile::Gpush, &room), r#"{"uid":"","topic":"a","data":"fnBiMQ=="}"#);
        assert_eq!(body(Profile::Gpush, &Target::Everyone), r#"{"uid":"","topic":"","data":"fnBiMQ=="}"#);
        assert_eq!(body(Profile::Centrifugo, &room), r#"{"channel":"a","data":"~pb1"}"#);
    }

    #[test]
    fn base64_is_that_of_rfc_4648() {
        for (text, coded) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")] {
            let mut out = Vec::new();
            base64(text.as_bytes(), &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), coded);
        }
    }

    #[test]
    fn a_join_has_as_many_answers_as_each_server_gives() {
        let rooms = |count: usize| (0..count).map(|room| room.to_string()).collect();
        let member = |count| Member { card: "c".into(), rooms: rooms(count), token: None, merge: true };
        assert_eq!(
            Profile::Oxipush.join(&member(1)),
            [
                r#"{"event":"join","data":{"app_id":"pushbench","card_id":"c","merge":true}}"#,
                r#"{"event":"subscribe","data":{"room":"0"}}"#
            ]
        );
        assert_eq!(Profile::Oxipush.answers(1), 2);
        assert_eq!(Profile::GoPush.join(&member(2)).len(), 3);
        assert_eq!(Profile::GoPush.answers(2), 1);
        assert_eq!(Profile::Gpush.join(&member(0)), [""; 0]);
        assert_eq!(Profile::Gpush.answers(0), 1);
        assert_eq!(
            Profile::Centrifugo.join(&member(1)),
            ["{\"id\":1,\"connect\":{}}\n{\"id\":2,\"subscribe\":{\"channel\":\"0\"}}"]
        );
    }

    #[test]
    fn each_server_s_answer_to_a_join_is_known() {
        for profile in Profile::value_variants() {
            assert_eq!(profile.answer(profile.joined().as_bytes()), Answer::Joined, "{profile:?}");
            assert_eq!(profile.answer(b"{\"x\":1}"), Answer::Other, "{profile:?}");
        }
        assert_eq!(Profile::Centrifugo.answer(b"{}"), Answer::Ping("{}"));
        assert_eq!(Profile::Centrifugo.answer(br#"{"id":2,"error":{"code":103}}"#), Answer::Other);
    }

    #[test]
    fn an_accepted_push_is_told_from_a_refused_one() {
        assert!(Profile::Oxipush.accepted(200, br#"{"code":0,"message":"ok","id":"01"}"#));
        assert!(Profile::Gopusher.accepted(200, br#"{"message":"ok"}"#));
        assert!(!Profile::Oxipush.accepted(429, br#"{"code":8,"message":"ok"}"#));
        assert!(Profile::GoPush.accepted(200, b""));
        assert!(Profile::Gpush.accepted(200, b"{}"));
        assert!(!Profile::Gpush.accepted(200, br#"{"code":3}"#));
        assert!(Profile::Centrifugo.accepted(200, br#"{"result":{}}"#));
        assert!(!Profile::Centrifugo.accepted(200, br#"{"error":{"code":102}}"#));
    }
}
