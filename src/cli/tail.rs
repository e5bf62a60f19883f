//! `oxipush tail`: a client of oxipush.v1 that prints what arrives.

use std::{fmt::Write as _, time::Duration};

use clap::Args;
use futures_util::{SinkExt, StreamExt};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{
    net::TcpStream,
    time::{Instant, timeout, timeout_at},
};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{
        self, Message,
        client::IntoClientRequest,
        http::HeaderValue,
        protocol::{CloseFrame, frame::coding::CloseCode},
    },
};

use super::{note, print};
use crate::{lifecycle::Backoff, telemetry::root_cause};

pub(super) const LONG_ABOUT: &str = "\
Joins a running node as a card, in the protocol oxipush.v1, and prints each push that arrives: its id, who sent it and its \
content, separated by tabs, and its seq if it is stored; line ends and other control characters in them are escaped, so that one push is one line. Ends \
with Ctrl-C. When the node sends it away with a code that says come back (3000-3499), or the connection breaks, it joins \
again: after the delay that the node asked for, or a growing one. What was pushed meanwhile is not seen, unless it is stored. With \
--device it also prints the stored pushes of the card that waited for that device, and acknowledges what it printed.";

pub(super) const AFTER_HELP: &str = "\
EXAMPLES
  oxipush tail --card alice
  oxipush tail --card alice --app web --url ws://10.0.0.7:8080/ws
  oxipush tail --card alice --room lobby
  oxipush tail --card alice --device laptop
  oxipush tail --card alice --json | jq -r .content
  oxipush tail --token \"$(oxipush token --card alice --ttl 1h)\"

EXIT CODES
  0  ended by Ctrl-C, or nobody reads the output any more
  1  no node answers, or it refused the join
  2  wrong arguments";

/// Bounds of the delay before a further try.
const SHORTEST_BACKOFF: Duration = Duration::from_millis(250);
const LONGEST_BACKOFF: Duration = Duration::from_secs(20);
/// The longest delay that a node may ask for.
const LONGEST_DELAY: Duration = Duration::from_secs(120);
/// For TCP, the handshake and the answer to the join together.
const CONNECT: Duration = Duration::from_secs(15);
/// From a stored push on to the acknowledgement of all that were printed since.
const ACKNOWLEDGE: Duration = Duration::from_millis(200);
/// A node that is silent gets a ping, and is given up after a second silence.
const SILENCE: Duration = Duration::from_secs(30);

#[derive(Args)]
pub(super) struct TailArguments {
    /// The card to join as; with a token that names one it may be left out
    #[arg(long, value_name = "CARD", required_unless_present = "token", default_value = "", hide_default_value = true)]
    card: String,
    /// The app to join as
    #[arg(long, value_name = "APP", default_value = "", hide_default_value = true)]
    app: String,
    /// Read the card's stored pushes as this device, and acknowledge what is printed
    #[arg(long, value_name = "NAME")]
    device: Option<String>,
    /// A room to subscribe to as well; give it again for more rooms
    #[arg(long, value_name = "ROOM")]
    room: Vec<String>,
    /// The token to join with (`oxipush token` makes one for trying)
    #[arg(long, value_name = "TOKEN", env = "OXIPUSH_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// The node's WebSocket address
    #[arg(long, value_name = "URL", default_value = "ws://127.0.0.1:8080/ws")]
    url: String,
    /// Print each push as a JSON object: id, from, ts (ms since 1970), room if it names one, content; card, seq and prev if it is stored
    #[arg(long)]
    json: bool,
    /// Give up after this many tries without a join in a row
    #[arg(long, value_name = "N", default_value_t = 20)]
    tries: u32,
}

type TailSocket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// A connection that has joined.
struct Tail<'a> {
    socket: TailSocket,
    arguments: &'a TailArguments,
    /// As the node says it.
    card: String,
    /// What was printed of the card's stream and is not acknowledged yet: the newest seq, and when it will be.
    printed: Option<(u64, Instant)>,
    /// As the node asked for before its close.
    delay: Option<Duration>,
}

/// Why a connection is over.
enum TailEnd {
    /// Ctrl-C, or stdout is closed.
    Done,
    /// Come back, after this delay if the node named one.
    Back { why: String, delay: Option<Duration> },
    /// Do not come back.
    Never(String),
}

pub(super) async fn run(arguments: TailArguments) -> Result<(), String> {
    if arguments.url.starts_with("wss://") {
        return Err(format!("{}: this program speaks WebSocket without TLS: use ws://", arguments.url));
    }
    let mut stop = std::pin::pin!(async { drop(tokio::signal::ctrl_c().await) });
    let mut failures = 0;
    let mut backoff = Backoff::new(SHORTEST_BACKOFF, LONGEST_BACKOFF);
    let mut ever = false;
    loop {
        let end = tokio::select! {
            opened = timeout(CONNECT, open(&arguments)) => match opened {
                Ok(Ok(mut tail)) => {
                    failures = 0;
                    backoff.reset();
                    ever = true;
                    note(format_args!("joined {} as {}", arguments.url, escaped(&tail.card)));
                    let end = tail.follow(stop.as_mut()).await;
                    let _ = timeout(Duration::from_secs(1), tail.close()).await;
                    end
                }
                Ok(Err(end)) => end,
                Err(_) => TailEnd::Back { why: "no answer in time".into(), delay: None },
            },
            () = &mut stop => TailEnd::Done,
        };
        let (why, delay) = match end {
            TailEnd::Done => return Ok(()),
            TailEnd::Never(why) => return Err(why),
            // a first try that fails is most likely a wrong address
            TailEnd::Back { why, .. } if !ever => {
                return Err(format!("{}: {why}; is a node running there?", arguments.url));
            }
            TailEnd::Back { why, .. } if failures >= arguments.tries => {
                return Err(format!("{}: {why}; gave up after {failures} tries", arguments.url));
            }
            TailEnd::Back { why, delay } => {
                (why, delay.map_or_else(|| backoff.next_wait(), |delay| delay.min(LONGEST_DELAY)))
            }
        };
        failures += 1;
        note(format_args!("{why}; joining again in {:.1} s", delay.as_secs_f64()));
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            () = &mut stop => return Ok(()),
        }
    }
}

/// Connects and joins; the node's answer is awaited, which names the card.
async fn open(arguments: &TailArguments) -> Result<Tail<'_>, TailEnd> {
    let mut request = arguments
        .url
        .as_str()
        .into_client_request()
        .map_err(|error| TailEnd::Never(format!("--url {}: {error}; write ws://host:port/ws", arguments.url)))?;
    request.headers_mut().insert("sec-websocket-protocol", HeaderValue::from_static("oxipush.v1"));
    let (mut socket, _) = connect_async(request).await.map_err(|error| unopened(&error))?;
    let mut data = json!({"card_id": arguments.card, "app_id": arguments.app});
    if let Some(token) = &arguments.token {
        data["token"] = token.as_str().into();
    }
    if let Some(device) = &arguments.device {
        data["device"] = device.as_str().into();
    }
    let join = json!({"event": "join", "data": data});
    say(&mut socket, &join).await?;
    loop {
        let message = socket.next().await;
        match parse(message)? {
            Some(NodeEvent { event, data }) if event == "joined" => {
                let card = data.get("card_id").and_then(Value::as_str).unwrap_or_default().to_owned();
                for room in &arguments.room {
                    say(&mut socket, &json!({"event": "subscribe", "data": {"room": room}})).await?;
                }
                return Ok(Tail { socket, arguments, card, printed: None, delay: None });
            }
            Some(NodeEvent { event, data }) if event == "error" => {
                return Err(TailEnd::Never(client_error_text(&data)));
            }
            _ => {}
        }
    }
}

fn unopened(error: &tungstenite::Error) -> TailEnd {
    match error {
        tungstenite::Error::Http(answer) => {
            let body = answer.body().as_deref().map(String::from_utf8_lossy).unwrap_or_default();
            let why = format!("the node answered {}: {}", answer.status(), escaped(body.trim()));
            // 503: full, or leaving; what else it may say will not change
            match answer.status().as_u16() {
                503 => TailEnd::Back { why, delay: None },
                _ => TailEnd::Never(why),
            }
        }
        tungstenite::Error::Url(_) => TailEnd::Never(format!("{error}; write ws://host:port/ws")),
        error => TailEnd::Back { why: root_cause(error), delay: None },
    }
}

impl Tail<'_> {
    /// Prints pushes until the connection ends.
    async fn follow(&mut self, mut stop: std::pin::Pin<&mut impl Future<Output = ()>>) -> TailEnd {
        let mut silent_at = Instant::now() + SILENCE;
        let mut silent = false;
        loop {
            let wake_at = self.printed.map_or(silent_at, |(_, at)| at.min(silent_at));
            // both are cancel-safe: `next` keeps what it has read in the socket, and `stop` is polled on
            let message = tokio::select! {
                message = timeout_at(wake_at, self.socket.next()) => message,
                () = &mut stop => return TailEnd::Done,
            };
            let Ok(message) = message else {
                let now = Instant::now();
                if self.printed.is_some_and(|(_, at)| at <= now) {
                    if let Err(end) = self.acknowledge().await {
                        return self.with_delay(end);
                    }
                } else if silent {
                    return self.with_delay(TailEnd::Back { why: "the node is silent".into(), delay: None });
                } else {
                    silent = true;
                    silent_at = now + SILENCE;
                    if let Err(end) = say(&mut self.socket, &json!({"event": "ping", "data": {}})).await {
                        return self.with_delay(end);
                    }
                }
                continue;
            };
            silent = false;
            silent_at = Instant::now() + SILENCE;
            match parse(message) {
                Ok(Some(event)) => {
                    if let Some(end) = self.take(&event) {
                        return end;
                    }
                }
                Ok(None) => {}
                Err(end) => return self.with_delay(end),
            }
        }
    }

    /// Does what an event is for; the end, if nobody reads what is printed any more.
    fn take(&mut self, NodeEvent { event, data }: &NodeEvent) -> Option<TailEnd> {
        match event.as_str() {
            "push" => {
                if !print(&line(data, self.arguments.json)) {
                    return Some(TailEnd::Done);
                }
                let seq = data.get("seq").and_then(Value::as_u64);
                if self.arguments.device.is_some() && data.get("card").is_some_and(|card| *card == *self.card) {
                    let at = self.printed.map_or_else(|| Instant::now() + ACKNOWLEDGE, |(_, at)| at);
                    self.printed = seq.map(|seq| (seq, at)).or(self.printed);
                }
            }
            "drain" => self.delay = data.get("reconnect_in_ms").and_then(Value::as_u64).map(Duration::from_millis),
            "error" => note(client_error_text(data)),
            _ => {}
        }
        None
    }

    async fn acknowledge(&mut self) -> Result<(), TailEnd> {
        let Some((seq, _)) = self.printed.take() else { return Ok(()) };
        say(&mut self.socket, &json!({"event": "ack", "data": {"card": self.card, "seq": seq}})).await
    }

    /// With the delay that the node asked for, where it is to come back.
    fn with_delay(&self, end: TailEnd) -> TailEnd {
        match end {
            TailEnd::Back { why, .. } => TailEnd::Back { why, delay: self.delay },
            end => end,
        }
    }

    async fn close(mut self) {
        let _ = self.acknowledge().await;
        let normal = CloseFrame { code: CloseCode::Normal, reason: "bye".into() };
        let _ = self.socket.close(Some(normal)).await;
    }
}

async fn say(socket: &mut TailSocket, event: &Value) -> Result<(), TailEnd> {
    let sent = socket.send(Message::text(event.to_string())).await;
    sent.map_err(|error| TailEnd::Back { why: root_cause(&error), delay: None })
}

/// What the node says in an `{"event":…,"data":…}`.
#[derive(Deserialize)]
struct NodeEvent {
    event: String,
    #[serde(default)]
    data: Value,
}

/// An event; `None` for what needs no answer here.
fn parse(message: Option<Result<Message, tungstenite::Error>>) -> Result<Option<NodeEvent>, TailEnd> {
    match message {
        Some(Ok(Message::Text(text))) => Ok(serde_json::from_str(&text).ok()),
        Some(Ok(Message::Close(frame))) => Err(closed(frame)),
        Some(Ok(_)) => Ok(None),
        Some(Err(error)) => Err(TailEnd::Back { why: root_cause(&error), delay: None }),
        None => Err(TailEnd::Back { why: "the connection broke".into(), delay: None }),
    }
}

/// What a close code means for a client; docs/close-codes.md is the table.
fn closed(frame: Option<CloseFrame>) -> TailEnd {
    let Some(CloseFrame { code, reason }) = frame else {
        return TailEnd::Back { why: "closed without a code".into(), delay: None };
    };
    let code = u16::from(code);
    let why = format!("closed with {code} ({})", escaped(&reason));
    match code {
        // the token that it has would be refused again
        3004 => TailEnd::Never(why),
        1001 | 1006 | 1011..=1014 | 3000..=3499 => TailEnd::Back { why, delay: None },
        _ => TailEnd::Never(why),
    }
}

fn client_error_text(data: &Value) -> String {
    let part = |name: &str| escaped(data.get(name).and_then(Value::as_str).unwrap_or_default());
    format!("the node says {}: {}", part("code"), part("message"))
}

fn line(push: &Value, json: bool) -> String {
    if json {
        return format!("{push}\n");
    }
    let part = |name: &str| match push.get(name) {
        Some(Value::String(text)) => escaped(text),
        Some(value) => escaped(&value.to_string()),
        None => String::new(),
    };
    let seq = push.get("seq").map(|seq| format!("\t{seq}")).unwrap_or_default();
    format!("{}\t{}\t{}{seq}\n", part("id"), part("from"), part("content"))
}

/// Without control characters: a push must neither break the line nor command the terminal.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() {
            let _ = write!(out, "{}", c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_push_is_one_line_whatever_it_holds() {
        let push = json!({"id": "01", "from": "me\t", "content": "a\nb\u{1b}[31m ü"});
        assert_eq!(line(&push, false), "01\tme\\t\ta\\nb\\u{1b}[31m ü\n");
        assert_eq!(line(&push, true).lines().count(), 1);
        let push = json!({"id": "01", "from": "", "card": "c", "seq": 7, "prev": 6, "content": "x"});
        assert_eq!(line(&push, false), "01\t\tx\t7\n");
        let push = json!({"id": "01", "from": "", "content": {"a": [1, "\n"]}});
        assert_eq!(line(&push, false), "01\t\t{\"a\":[1,\"\\n\"]}\n");
    }

    #[test]
    fn codes_below_3500_say_come_back_as_you_are_but_for_one_and_those_above_do_not() {
        let end = |code: u16| closed(Some(CloseFrame { code: code.into(), reason: "".into() }));
        for code in [1001, 1011, 3000, 3001, 3002, 3003, 3499] {
            assert!(matches!(end(code), TailEnd::Back { .. }), "{code}");
        }
        for code in [1000, 1002, 3004, 3500, 3504, 3999] {
            assert!(matches!(end(code), TailEnd::Never(_)), "{code}");
        }
    }
}
