//! A small HTTP(S) server that answers as a test says: an issuer's key set, a call-out.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpListener,
    task::JoinHandle,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{ServerConfig, crypto::ring, pki_types::PrivateKeyDer},
};

/// A request, read whole.
pub struct Asked {
    pub line: String,
    /// All before the body.
    pub head: String,
    pub body: Vec<u8>,
}

/// What is answered, and when.
pub struct Told {
    pub status: &'static str,
    pub headers: String,
    pub body: Vec<u8>,
    /// Before the answer.
    pub delay: Duration,
    /// Between each two bytes of the body.
    pub drip: Duration,
}

impl Told {
    pub fn ok(body: impl Into<Vec<u8>>) -> Self {
        Self {
            status: "200 OK",
            headers: String::new(),
            body: body.into(),
            delay: Duration::ZERO,
            drip: Duration::ZERO,
        }
    }

    pub fn status(status: &'static str) -> Self {
        Self { status, ..Self::ok("") }
    }
}

type Answer = Arc<dyn Fn(Asked) -> Told + Send + Sync>;

/// Ends with its value.
pub struct HttpServer {
    pub url: String,
    asked: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl HttpServer {
    pub async fn start(answer: impl Fn(Asked) -> Told + Send + Sync + 'static) -> Self {
        Self::start_on("127.0.0.1:0", answer).await
    }

    /// Where another was that is gone.
    pub async fn start_on(address: &str, answer: impl Fn(Asked) -> Told + Send + Sync + 'static) -> Self {
        Self::listen(address, None, Arc::new(answer)).await
    }

    /// As `localhost`, by a certificate of its own: the second value is that in PEM.
    pub async fn start_tls(answer: impl Fn(Asked) -> Told + Send + Sync + 'static) -> (Self, String) {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        (Self::listen("127.0.0.1:0", Some(acceptor), Arc::new(answer)).await, made.cert.pem())
    }

    /// How many requests came.
    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    async fn listen(address: &str, tls: Option<TlsAcceptor>, answer: Answer) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let url = match &tls {
            Some(_) => format!("https://localhost:{port}"),
            None => format!("http://127.0.0.1:{port}"),
        };
        let asked = Arc::new(AtomicUsize::new(0));
        let count = asked.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (answer, count, tls) = (answer.clone(), count.clone(), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => serve(stream, &answer, &count).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                serve(stream, &answer, &count).await;
                            }
                        }
                    }
                });
            }
        });
        Self { url, asked, task }
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One request, then the connection ends.
async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin, answer: &Answer, count: &AtomicUsize) {
    let mut read = Vec::new();
    let head = loop {
        if let Some(end) = read.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            break end;
        }
        match stream.read_buf(&mut read).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
    };
    let text = String::from_utf8_lossy(&read[..head]).into_owned();
    let length = text.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
    let end = head + 4 + length.unwrap_or(0);
    while read.len() < end {
        match stream.read_buf(&mut read).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
    }
    count.fetch_add(1, Ordering::SeqCst);
    let line = text.lines().next().unwrap_or_default().to_owned();
    let Told { status, headers, body, delay, drip } =
        answer(Asked { line, head: text, body: read[head + 4..end].to_vec() });
    tokio::time::sleep(delay).await;
    let head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n{headers}\r\n", body.len());
    if stream.write_all(head.as_bytes()).await.is_err() {
        return;
    }
    if drip.is_zero() {
        let _ = stream.write_all(&body).await;
    } else {
        for byte in body {
            tokio::time::sleep(drip).await;
            if stream.write_all(&[byte]).await.is_err() || stream.flush().await.is_err() {
                return;
            }
        }
    }
    let _ = stream.shutdown().await;
}
