//! `oxipush events`: watches what the back end is told, and takes nothing from it.

use std::time::Duration;

use clap::Args;
use tonic::{Code, Status, Streaming};

use super::{
    node::{NodeArguments, refused},
    note, print,
};
use crate::{
    lifecycle::Backoff,
    proto::rpc::{EventsReply, EventsRequest},
};

pub(super) const LONG_ABOUT: &str = "\
Prints what clients of a running node say and do, from now on, one JSON object a line: their messages, and who connects, joins, \
leaves, subscribes and goes (docs/events.md). It only watches: the back end gets every event all the same, and what is printed \
is best effort. Ends with Ctrl-C; where the connection breaks it is made again, and what happened meanwhile is not seen.";

pub(super) const AFTER_HELP: &str = "\
EXAMPLES
  oxipush events
  oxipush events --kinds message,joined,disconnected
  oxipush events --kinds message | jq -r .data
  OXIPUSH_KEY=… oxipush events --grpc http://10.0.0.7:9002

EXIT CODES
  0  ended by Ctrl-C, or nobody reads the output any more
  1  no node answers, or it refuses (with keys: one with the scope events is needed)
  2  wrong arguments";

/// Bounds of the delay before a further try.
const SHORTEST_BACKOFF: Duration = Duration::from_millis(250);
const LONGEST_BACKOFF: Duration = Duration::from_secs(20);

#[derive(Args)]
pub(super) struct EventsArguments {
    /// Only these kinds: message, connected, joined, left, subscribed, unsubscribed, disconnected, presence, drops
    #[arg(long, value_name = "KINDS", value_delimiter = ',')]
    kinds: Vec<String>,
    #[command(flatten)]
    node: NodeArguments,
}

/// Why a stream is over.
enum WatchEnd {
    /// Nobody reads what is printed.
    Done,
    /// Its node is away, or ends.
    Broken(String),
    /// It will not be better the next time.
    Refused(String),
}

pub(super) async fn run(arguments: EventsArguments) -> Result<(), String> {
    let mut stop = std::pin::pin!(async { drop(tokio::signal::ctrl_c().await) });
    let mut backoff = Backoff::new(SHORTEST_BACKOFF, LONGEST_BACKOFF);
    let mut ever = false;
    loop {
        let end = tokio::select! {
            end = watch(&arguments, &mut ever, &mut backoff) => end,
            () = &mut stop => return Ok(()),
        };
        let why = match end {
            WatchEnd::Done => return Ok(()),
            WatchEnd::Refused(why) => return Err(why),
            // a first try that fails is most likely a wrong address
            WatchEnd::Broken(why) if !ever => return Err(why),
            WatchEnd::Broken(why) => why,
        };
        let delay = backoff.next_wait();
        note(format_args!("{why}; watching again in {:.1} s", delay.as_secs_f64()));
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            () = &mut stop => return Ok(()),
        }
    }
}

/// One stream, from its opening to its end.
async fn watch(arguments: &EventsArguments, ever: &mut bool, backoff: &mut Backoff) -> WatchEnd {
    let (requests, sent) = tokio::sync::mpsc::channel(1);
    let first = EventsRequest { kinds: arguments.kinds.clone(), watch: true, ack: 0 };
    // there is room for one
    let _ = requests.try_send(first);
    let stream =
        futures_util::stream::unfold(sent, |mut sent| async move { sent.recv().await.map(|request| (request, sent)) });
    let opened = arguments.node.open(stream, async |node, request| node.events(request).await);
    let mut events: Streaming<EventsReply> = match opened.await {
        Ok(Ok(events)) => events,
        Ok(Err(status)) => return ended(&status),
        Err(why) => return WatchEnd::Broken(why),
    };
    *ever = true;
    backoff.reset();
    loop {
        match events.message().await {
            Ok(Some(EventsReply { event, .. })) => {
                if !print(&format!("{event}\n")) {
                    return WatchEnd::Done;
                }
            }
            Ok(None) => return WatchEnd::Broken("the node ended the stream".into()),
            Err(status) => return ended(&status),
        }
    }
}

fn ended(status: &Status) -> WatchEnd {
    let why = refused(status, "nothing was taken");
    match status.code() {
        Code::Unavailable | Code::Unknown | Code::Internal | Code::Cancelled => WatchEnd::Broken(why),
        _ => WatchEnd::Refused(why),
    }
}
