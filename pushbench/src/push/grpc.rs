//! Pushes over gRPC: PushStreams whose replies come in order, or one call for each push.

use std::{
    cell::RefCell,
    collections::VecDeque,
    rc::Rc,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use hdrhistogram::Histogram;
use tokio::{
    io::unix::AsyncFd,
    sync::{Notify, mpsc},
    task::LocalSet,
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, metadata::MetadataValue, transport::Channel};

use super::{Sender, Sent, histogram};
use crate::{
    Result,
    layout::Target,
    pace::{Next, Push, Source},
    proto::{PushReply, PushRequest, rpc_client::RpcClient},
    shared::Shared,
    timer::Timer,
};

/// Pushes in a row before the replies get their turn.
const PUSHES_PER_TURN: u32 = 64;

/// What sender and readers share: all on one thread.
struct State {
    shared: Arc<Shared>,
    source: Source,
    latency: Histogram<u64>,
    /// For each stream, its pushes that wait for their reply.
    waiting: Vec<VecDeque<Push>>,
}

impl State {
    fn answer(&mut self, push: &Push, reply: Result<PushReply, String>) {
        self.latency.saturating_record(self.shared.now().saturating_sub(push.due));
        match reply {
            Ok(reply) if reply.code == 0 => {
                self.shared.accepted.fetch_add(1, Ordering::Relaxed);
            }
            Ok(reply) => {
                let why = format!("push refused: {} {}", reply.code, reply.message);
                self.shared.refuse(push.target, push.seq, &why);
            }
            Err(why) => self.shared.refuse(push.target, push.seq, &why),
        }
        self.source.answered(push);
    }

    fn abandon(&mut self, stream: usize, why: &str) {
        for push in std::mem::take(&mut self.waiting[stream]) {
            self.answer(&push, Err(format!("push unanswered: {why}")));
        }
    }
}

pub(super) fn run(sender: &Sender, shared: &Arc<Shared>, source: Source) -> Result<Sent> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, send(sender, shared, source))
}

async fn send(sender: &Sender, shared: &Arc<Shared>, source: Source) -> Result<Sent> {
    let notify = Arc::new(Notify::new());
    let wake = Arc::clone(&notify);
    shared.set_wake(Box::new(move || wake.notify_one()));
    let patience = source.patience();
    let streams = if sender.unary { 1 } else { sender.grpc_streams };
    let state = Rc::new(RefCell::new(State {
        shared: Arc::clone(shared),
        source,
        latency: histogram(),
        waiting: vec![VecDeque::new(); streams],
    }));
    let client = connect(sender).await?;
    let mut outlets = Vec::new();
    if !sender.unary {
        for stream in 0..streams {
            let (outlet, requests) = mpsc::channel(1024);
            outlets.push(outlet);
            let request = authorized(sender, ReceiverStream::new(requests))?;
            let (client, state, notify) = (client.clone(), Rc::clone(&state), Arc::clone(&notify));
            tokio::task::spawn_local(async move {
                let why = read(client, request, stream, &state, &notify).await;
                state.borrow_mut().abandon(stream, &why);
                notify.notify_one();
            });
        }
    }
    // its successor `register` is unsafe; this timer keeps the descriptor that it names
    #[allow(deprecated)]
    let timer = AsyncFd::new(Timer::new()?)?;
    let targets = super::targets(shared);
    let mut row = 0;
    loop {
        let now = shared.now();
        let next = state.borrow_mut().source.next(now);
        // whatever waits lets the replies in; a burst that is shorter leaves whole
        row = if matches!(next, Next::Push(_)) { row + 1 } else { 0 };
        match next {
            Next::Push(push) => {
                let request = request(sender, shared, &targets, &push);
                if sender.unary {
                    let request = authorized(sender, request)?;
                    let (mut client, state, notify) = (client.clone(), Rc::clone(&state), Arc::clone(&notify));
                    tokio::task::spawn_local(async move {
                        let reply = client.push(request).await;
                        let reply =
                            reply.map(tonic::Response::into_inner).map_err(|status| format!("push refused: {status}"));
                        state.borrow_mut().answer(&push, reply);
                        notify.notify_one();
                    });
                } else {
                    let stream = push.target as usize % streams;
                    state.borrow_mut().waiting[stream].push_back(push);
                    if outlets[stream].send(request).await.is_err() {
                        return Err(ended(shared).into());
                    }
                }
                if row % PUSHES_PER_TURN == 0 {
                    tokio::task::yield_now().await;
                }
            }
            Next::At(due) => {
                timer.get_ref().set(Duration::from_nanos(due.saturating_sub(now)))?;
                tokio::select! {
                    ready = timer.readable() => {
                        timer.get_ref().clear();
                        ready?.clear_ready();
                    }
                    () = notify.notified() => {}
                }
            }
            Next::Acknowledgement => {
                if timeout(patience, notify.notified()).await.is_err() {
                    let seconds = patience.as_secs();
                    (0..streams)
                        .for_each(|stream| state.borrow_mut().abandon(stream, &format!("nothing for {seconds} s")));
                    return Err(ended(shared).into());
                }
            }
            Next::Deliveries(until) => {
                // a time-out is no error: the source gives the round up
                let _ = timeout(Duration::from_nanos(until.saturating_sub(now)), notify.notified()).await;
            }
            Next::Done => break,
        }
    }
    let mut state = state.borrow_mut();
    let latency = std::mem::replace(&mut state.latency, histogram());
    Ok(Sent { latency, stalled: state.source.stalled })
}

async fn connect(sender: &Sender) -> Result<RpcClient<Channel>> {
    let uri = format!("http://{}", sender.address.host);
    let channel = Channel::from_shared(uri)?
        .tcp_nodelay(true)
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(1 << 22)
        .connect_timeout(Duration::from_secs(5))
        .connect()
        .await
        .map_err(|error| format!("gRPC at {}: {error}", sender.address.host))?;
    Ok(RpcClient::new(channel))
}

fn authorized<T>(sender: &Sender, message: T) -> Result<Request<T>> {
    let mut request = Request::new(message);
    if let Some(key) = &sender.key {
        let bearer = MetadataValue::try_from(format!("Bearer {key}"))?;
        request.metadata_mut().insert("authorization", bearer);
    }
    Ok(request)
}

fn request(sender: &Sender, shared: &Shared, targets: &[Target], push: &Push) -> PushRequest {
    let mut content = Vec::with_capacity(sender.size);
    sender.content(shared, push, &mut content);
    let mut request = PushRequest {
        from: "pushbench".into(),
        content: String::from_utf8(content).unwrap_or_default(),
        offline: sender.offline,
        ..PushRequest::default()
    };
    match &targets[push.target as usize] {
        Target::Cards(cards) => request.to.clone_from(cards),
        Target::Room(room) => request.room.clone_from(room),
        Target::Everyone => request.everyone = true,
    }
    request
}

/// Reads a stream's replies, in order; why it ended.
async fn read(
    mut client: RpcClient<Channel>,
    request: Request<ReceiverStream<PushRequest>>,
    stream: usize,
    state: &RefCell<State>,
    notify: &Notify,
) -> String {
    let mut replies = match client.push_stream(request).await {
        Ok(replies) => replies.into_inner(),
        Err(status) => return format!("PushStream: {status} (--unary calls Push)"),
    };
    loop {
        match replies.message().await {
            Ok(Some(reply)) => {
                let mut state = state.borrow_mut();
                match state.waiting[stream].pop_front() {
                    Some(push) => state.answer(&push, Ok(reply)),
                    None => state.shared.mishap("a reply that nobody asked for"),
                }
                drop(state);
                notify.notify_one();
            }
            Ok(None) => return "PushStream ended".into(),
            Err(status) => return format!("PushStream: {status}"),
        }
    }
}

fn ended(shared: &Shared) -> String {
    let mishaps = shared.mishaps().into_keys().collect::<Vec<_>>().join("; ");
    format!("the server takes no more pushes: {mishaps}")
}
