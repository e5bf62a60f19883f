//! A WebSocket client that is not ours.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::{TcpSocket, TcpStream};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, client_async, connect_async,
    tungstenite::{Message, client::IntoClientRequest},
};

/// How long a test waits for what must come.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub struct Client {
    pub socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    modern: bool,
}

impl Client {
    /// Connects; `modern`: with the subprotocol oxipush.v1, otherwise as gopusher's clients do.
    pub async fn connect(url: &str, modern: bool) -> Self {
        let mut request = url.into_client_request().expect("a url");
        if modern {
            request.headers_mut().insert("Sec-WebSocket-Protocol", "oxipush.v1".parse().expect("a header"));
        }
        let (socket, _) = connect_async(request).await.expect("a handshake");
        Self { socket, modern }
    }

    /// On a handshake that is done.
    pub fn of(socket: WebSocketStream<MaybeTlsStream<TcpStream>>, modern: bool) -> Self {
        Self { socket, modern }
    }

    /// As [`Client::gopusher`], with a small receive buffer: what is not read soon waits at the gateway.
    pub async fn narrow(url: &str, card: &str) -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(4096).expect("a small buffer");
        let address = url.trim_start_matches("ws://").trim_end_matches("/ws").parse().expect("an address");
        let stream = MaybeTlsStream::Plain(socket.connect(address).await.expect("a connection"));
        let (socket, _) = client_async(url, stream).await.expect("a handshake");
        let mut client = Self { socket, modern: false };
        client.join(card, "").await;
        client
    }

    /// Connects as gopusher's clients do and joins.
    pub async fn gopusher(url: &str, card: &str, app: &str) -> Self {
        let mut client = Self::connect(url, false).await;
        client.join(card, app).await;
        client
    }

    /// Connects with oxipush.v1 and joins.
    pub async fn modern(url: &str, card: &str, app: &str) -> Self {
        let mut client = Self::connect(url, true).await;
        client.join(card, app).await;
        client
    }

    /// Joins and waits for the answer.
    pub async fn join(&mut self, card: &str, app: &str) {
        self.say(json!({"event": "join", "data": {"app_id": app, "card_id": card}})).await;
        let answer = self.hear().await;
        match self.modern {
            true => assert_eq!(answer["event"], "joined", "{answer}"),
            false => assert_eq!(answer, json!({"type": 1, "data": "ok"})),
        }
    }

    pub async fn say(&mut self, value: Value) {
        self.socket.send(Message::text(value.to_string())).await.expect("sent");
    }

    /// The next text message, whole.
    pub async fn text(&mut self) -> Option<String> {
        loop {
            match tokio::time::timeout(PATIENCE, self.socket.next()).await.expect("a message within 30 s")? {
                Ok(Message::Text(text)) => return Some(text.to_string()),
                Ok(Message::Close(_)) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }

    /// The next text message as JSON.
    pub async fn hear(&mut self) -> Value {
        serde_json::from_str(&self.text().await.expect("open")).expect("JSON")
    }

    /// The content of the next push.
    pub async fn content(&mut self) -> String {
        let value = self.hear().await;
        let content = if self.modern { &value["data"]["content"] } else { &value["data"] };
        content.as_str().unwrap_or_else(|| panic!("no push: {value}")).to_owned()
    }

    /// The close code that ends the connection; 0 without one. What comes before it is passed over.
    pub async fn close_code(&mut self) -> u16 {
        self.closed().await.0
    }

    /// As [`Client::close_code`], with the reason beside it.
    pub async fn closed(&mut self) -> (u16, String) {
        loop {
            match tokio::time::timeout(PATIENCE, self.socket.next()).await.expect("an end within 30 s") {
                Some(Ok(Message::Close(Some(frame)))) => return (frame.code.into(), frame.reason.to_string()),
                Some(Ok(Message::Close(None)) | Err(_)) | None => return (0, String::new()),
                Some(Ok(_)) => {}
            }
        }
    }

    /// Makes sure that nothing waits: the answer to a ping comes first.
    pub async fn silent(&mut self) {
        self.say(json!({"event": "ping"})).await;
        let answer = self.hear().await;
        match self.modern {
            true => assert_eq!(answer["event"], "pong", "{answer}"),
            false => assert_eq!(answer, json!({"type": 1, "data": "ok"})),
        }
    }
}
