//! How each kind of server is spoken to: a small table of join frames, push requests and answers.

use clap::ValueEnum;

use crate::http;

/// The servers that pushbench can load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Profile {
    /// oxipush with its own subprotocol oxipush.v1
    Oxipush,
    /// gopusher, or oxipush with gopusher's dialect
    Gopusher,
    /// go-push: rooms for cards; its HTTP API has forms
    GoPush,
    /// Centrifugo: channels for cards; JSON protocol and /api/publish
    Centrifugo,
}

/// What a frame says that is no push.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The join holds.
    Joined,
    /// To be answered with this text.
    Ping(&'static str),
    /// Nothing that matters.
    Other,
}

impl Profile {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Oxipush => "oxipush",
            Self::Gopusher => "gopusher",
            Self::GoPush => "go-push",
            Self::Centrifugo => "centrifugo",
        }
    }

    /// Where clients connect, when the address names no path.
    pub(crate) fn socket_path(self) -> &'static str {
        match self {
            Self::Oxipush | Self::Gopusher => "/ws",
            Self::GoPush => "/connect",
            Self::Centrifugo => "/connection/websocket",
        }
    }

    pub(crate) fn subprotocol(self) -> Option<&'static str> {
        match self {
            Self::Oxipush => Some("oxipush.v1"),
            Self::Gopusher | Self::GoPush | Self::Centrifugo => None,
        }
    }

    /// The frames that join; the answer to the last is the join's.
    pub(crate) fn join(self, card: &str, token: Option<&str>) -> Vec<String> {
        match self {
            Self::Oxipush | Self::Gopusher => {
                let token = token.map(|token| format!(r#","token":"{token}""#)).unwrap_or_default();
                vec![format!(r#"{{"event":"join","data":{{"app_id":"pushbench","card_id":"{card}"{token}}}}}"#)]
            }
            // JOIN has no answer, but frames are read in turn: the PING's tells that it was read
            Self::GoPush => {
                vec![format!(r#"{{"type":"JOIN","data":{{"room":"{card}"}}}}"#), r#"{"type":"PING","data":{}}"#.into()]
            }
            Self::Centrifugo => {
                vec![format!("{{\"id\":1,\"connect\":{{}}}}\n{{\"id\":2,\"subscribe\":{{\"channel\":\"{card}\"}}}}")]
            }
        }
    }

    /// What a frame without a marker says.
    pub(crate) fn answer(self, payload: &[u8]) -> Answer {
        let joined: &[u8] = match self {
            Self::Oxipush => br#""joined""#,
            Self::Gopusher => br#""data":"ok""#,
            Self::GoPush => br#""PONG""#,
            Self::Centrifugo => br#""subscribe":"#,
        };
        if payload.windows(joined.len()).any(|window| window == joined) {
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
            Self::Oxipush | Self::Gopusher | Self::Centrifugo => None,
        }
    }

    /// Whether one frame may hold several pushes.
    pub(crate) fn merges(self) -> bool {
        matches!(self, Self::GoPush | Self::Centrifugo)
    }

    /// Whether one push may name several cards.
    pub(crate) fn many_cards(self) -> bool {
        matches!(self, Self::Oxipush | Self::Gopusher)
    }

    /// Whether the server has gopusher's gRPC service.
    pub(crate) fn grpc(self) -> bool {
        matches!(self, Self::Oxipush | Self::Gopusher)
    }

    fn push_path(self) -> &'static str {
        match self {
            Self::Oxipush | Self::Gopusher => "/push",
            Self::GoPush => "/push/room",
            Self::Centrifugo => "/api/publish",
        }
    }

    /// Whether an answer means that the push was accepted.
    pub(crate) fn accepted(self, status: u16, body: &[u8]) -> bool {
        let refused = |word: &[u8]| body.windows(word.len()).any(|window| window == word);
        status == 200
            && match self {
                // gopusher leaves an accepted push's `"code":0` out
                Self::Oxipush | Self::Gopusher => refused(br#""message":"ok""#),
                Self::GoPush => true,
                Self::Centrifugo => !refused(br#""error""#),
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
            Self::Centrifugo => (r#"{"push":{"channel":"pushbench","pub":{"data":""#, r#""}}}"#),
        }
    }

    /// The bare server's answer to a join.
    pub(crate) fn joined(self) -> &'static str {
        match self {
            Self::Oxipush => r#"{"event":"joined","data":{}}"#,
            Self::Gopusher => "{\"type\":1,\"data\":\"ok\"}\n",
            Self::GoPush => r#"{"type":"PONG","data":{}}"#,
            Self::Centrifugo => r#"{"id":2,"subscribe":{}}"#,
        }
    }
}

/// Writes push requests of one run.
#[derive(Clone, Debug)]
pub(crate) struct Requests {
    profile: Profile,
    path: String,
    head: String,
    body: Vec<u8>,
}

impl Requests {
    pub(crate) fn new(profile: Profile, host: &str, path: &str, key: Option<&str>) -> Self {
        let bearer = key.map(|key| format!("Bearer {key}"));
        let (content_type, key) = match profile {
            Profile::Oxipush | Profile::Gopusher => {
                ("application/json", bearer.as_deref().map(|b| ("Authorization", b)))
            }
            Profile::GoPush => ("application/x-www-form-urlencoded", None),
            Profile::Centrifugo => ("application/json", key.map(|key| ("X-API-Key", key))),
        };
        let path = if path.is_empty() { profile.push_path() } else { path };
        Self { profile, path: path.into(), head: http::head(host, content_type, key), body: Vec::new() }
    }

    /// Appends the request that pushes `content` (plain letters, digits, `~`) to the cards.
    pub(crate) fn write<'a>(&mut self, cards: impl Iterator<Item = &'a str>, content: &[u8], out: &mut Vec<u8>) {
        let body = &mut self.body;
        body.clear();
        let (before, between, after): (&str, &str, &str) = match self.profile {
            Profile::Oxipush | Profile::Gopusher => {
                (r#"{"from":"pushbench","to":[""#, r#"",""#, r#""],"appID":"","content":""#)
            }
            // %5B%22 … %22%5D is ["…"]
            Profile::GoPush => ("room=", "", "&items=%5B%22"),
            Profile::Centrifugo => (r#"{"channel":""#, "", r#"","data":""#),
        };
        body.extend_from_slice(before.as_bytes());
        for (index, card) in cards.enumerate() {
            if index > 0 {
                body.extend_from_slice(between.as_bytes());
            }
            body.extend_from_slice(card.as_bytes());
        }
        body.extend_from_slice(after.as_bytes());
        body.extend_from_slice(content);
        body.extend_from_slice(match self.profile {
            Profile::GoPush => b"%22%5D",
            _ => br#""}"#,
        });
        http::post(&self.path, &self.head, body, out);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn body(profile: Profile, cards: &[&str]) -> String {
        let mut out = Vec::new();
        Requests::new(profile, "h", "", Some("k")).write(cards.iter().copied(), b"~pb1", &mut out);
        let text = String::from_utf8(out).unwrap();
        text.split_once("\r\n\r\n").unwrap().1.to_owned()
    }

    #[test]
    fn pushes_have_the_form_that_each_server_reads() {
        assert_eq!(
            body(Profile::Gopusher, &["a", "b"]),
            r#"{"from":"pushbench","to":["a","b"],"appID":"","content":"~pb1"}"#
        );
        assert_eq!(body(Profile::GoPush, &["a"]), "room=a&items=%5B%22~pb1%22%5D");
        assert_eq!(body(Profile::Centrifugo, &["a"]), r#"{"channel":"a","data":"~pb1"}"#);
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
        assert!(Profile::Centrifugo.accepted(200, br#"{"result":{}}"#));
        assert!(!Profile::Centrifugo.accepted(200, br#"{"error":{"code":102}}"#));
    }
}
