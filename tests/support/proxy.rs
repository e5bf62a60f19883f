//! Stands between the gateway and an nsqd (TCP or HTTP), and does what networks do.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};

/// How long a client may take to connect again.
const PATIENCE: Duration = Duration::from_secs(60);

/// What to do to a connection.
enum Do {
    Cut,
    Inject(Vec<u8>),
}

#[derive(Default)]
struct State {
    stalled: AtomicBool,
    muted: AtomicBool,
    withheld: AtomicBool,
    unread: AtomicBool,
    subscribed: AtomicUsize,
    consumers: Mutex<Vec<mpsc::UnboundedSender<Do>>>,
}

pub struct Proxy {
    address: String,
    state: Arc<State>,
}

impl Proxy {
    pub async fn to(nsqd: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let state = Arc::<State>::default();
        let shared = state.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                if let Ok(server) = TcpStream::connect(&nsqd).await {
                    tokio::spawn(carry(client, server, shared.clone()));
                }
            }
        });
        Self { address, state }
    }

    pub fn address(&self) -> String {
        self.address.clone()
    }

    /// New connections are accepted and never answered.
    pub fn stall(&self, stalled: bool) {
        self.state.stalled.store(stalled, Ordering::SeqCst);
    }

    /// Nothing that the server says comes through any connection; what clients say does.
    pub fn mute(&self, muted: bool) {
        self.state.muted.store(muted, Ordering::SeqCst);
    }

    /// No publish is answered; all else is.
    pub fn withhold(&self, withheld: bool) {
        self.state.withheld.store(withheld, Ordering::SeqCst);
    }

    /// A connection that subscribes to `.live` is closed.
    pub fn refuse_consumers(&self, unread: bool) {
        self.state.unread.store(unread, Ordering::SeqCst);
    }

    /// Waits until a consumer subscribed `times` in all.
    pub async fn subscribers(&self, times: usize) {
        let started = Instant::now();
        while self.state.subscribed.load(Ordering::SeqCst) < times {
            assert!(started.elapsed() < PATIENCE, "no consumer subscribes");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Cuts the connections of consumers, and no others; how many.
    pub fn cut_consumers(&self) -> usize {
        self.tell(|| Do::Cut)
    }

    /// Sends `bytes` to each consumer as if they came from nsqd.
    pub fn inject(&self, bytes: &[u8]) -> usize {
        self.tell(|| Do::Inject(bytes.to_vec()))
    }

    fn tell(&self, what: impl Fn() -> Do) -> usize {
        let consumers = std::mem::take(&mut *self.state.consumers.lock().unwrap());
        consumers.iter().filter(|consumer| consumer.send(what()).is_ok()).count()
    }
}

async fn carry(mut client: TcpStream, mut server: TcpStream, state: Arc<State>) {
    let (told, mut tell) = mpsc::unbounded_channel();
    let (mut told, mut published) = (Some(told), false);
    let (mut up, mut down) = ([0; 16384], [0; 16384]);
    if state.stalled.load(Ordering::SeqCst) {
        // until the client gives up
        while let Ok(1..) = client.read(&mut up).await {}
        return;
    }
    loop {
        tokio::select! {
            read = client.read(&mut up) => {
                let Ok(read @ 1..) = read else { return };
                // tokio-nsq writes a SUB by itself
                if up.starts_with(b"SUB ") && let Some(told) = told.take() {
                    state.consumers.lock().unwrap().push(told);
                    state.subscribed.fetch_add(1, Ordering::SeqCst);
                }
                published |= up[..read].windows(4).any(|four| four == b"PUB ");
                let reads = up[..read].windows(5).any(|five| five == b".live") && up.starts_with(b"SUB ");
                if reads && state.unread.load(Ordering::SeqCst) {
                    return;
                }
                if server.write_all(&up[..read]).await.is_err() {
                    return;
                }
            }
            read = server.read(&mut down) => {
                let Ok(read @ 1..) = read else { return };
                if state.muted.load(Ordering::SeqCst) || (published && state.withheld.load(Ordering::SeqCst)) {
                    continue;
                }
                if client.write_all(&down[..read]).await.is_err() {
                    return;
                }
            }
            Some(what) = tell.recv() => match what {
                Do::Cut => return,
                Do::Inject(bytes) => {
                    let _ = client.write_all(&bytes).await;
                }
            }
        }
    }
}
