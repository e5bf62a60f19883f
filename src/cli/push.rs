//! `oxipush push`: one push over gRPC.

use std::{
    io::{IsTerminal, Read},
    path::{Path, PathBuf},
};

use clap::Args;

use super::{node::NodeArguments, note, print};
use crate::proto::rpc::PushRequest;

pub(super) const LONG_ABOUT: &str = "\
Hands one push to a running node over gRPC and prints its id once the queue (with --offline the store) has it for good. The content is TEXT, or what FILE \
holds, or what stands on stdin, byte for byte (a line end at the end of stdin included); it must be UTF-8.";

pub(super) const AFTER_HELP: &str = "\
EXAMPLES
  oxipush push --to alice hello
  oxipush push --to alice --to bob --app web --from me 'a push for two cards'
  oxipush push --room lobby --json '[2,1]'
  oxipush push --everyone 'back in a minute'
  oxipush push --to alice --offline --ttl 3600 'for when she is back'
  oxipush push --to alice --idempotency-key order-17 'paid'
  oxipush push --to alice --file message.json
  date | oxipush push --to alice
  OXIPUSH_KEY=… oxipush push --grpc http://10.0.0.7:9002 --to alice hello

EXIT CODES
  0  the queue, or the store, has the push
  1  it was refused, or no node answered; after a time-out it may still arrive
  2  wrong arguments";

/// The largest content that any node can be told to take (`[push] max_content`).
const MOST: u64 = 256 << 20;

#[allow(rustdoc::broken_intra_doc_links)] // the help's text, which shows a backslash as it is
#[derive(Args)]
pub(super) struct PushArguments {
    /// A card to push to; give it again for more cards
    #[arg(long, value_name = "CARD", required_unless_present_any = ["room", "app", "everyone"])]
    to: Vec<String>,
    /// Only clients that subscribed to this room; alone: all of them
    #[arg(long, value_name = "ROOM", default_value = "", hide_default_value = true)]
    room: String,
    /// All clients
    #[arg(long, conflicts_with_all = ["to", "room", "app"])]
    everyone: bool,
    /// Only clients that joined as this app; alone: all of them
    #[arg(long, value_name = "APP", default_value = "", hide_default_value = true)]
    app: String,
    /// Who pushes
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    from: String,
    /// A waiting push of the same key is replaced: in its stream, and with [outbox] policy = conflate
    #[arg(long, value_name = "KEY", default_value = "", hide_default_value = true)]
    collapse_key: String,
    /// Store it for those who are away, too: for cards, with or without an app, or for a room
    #[arg(long)]
    offline: bool,
    /// Deliver it within so many seconds, or not at all
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    ttl: Option<u64>,
    /// A push with the key of an earlier one is that one again, and is taken once
    #[arg(long, value_name = "KEY", default_value = "", hide_default_value = true)]
    idempotency_key: String,
    /// The content is a JSON value
    #[arg(long)]
    json: bool,
    /// Read the content from this file
    #[arg(long, value_name = "FILE", conflicts_with = "text")]
    file: Option<PathBuf>,
    #[command(flatten)]
    node: NodeArguments,
    /// The content; without it and --file: stdin
    text: Option<String>,
}

pub(super) async fn run(arguments: PushArguments) -> Result<(), String> {
    let PushArguments { to, room, everyone, app, from, json, file, node, text, .. } = arguments;
    let PushArguments { collapse_key, offline, ttl, idempotency_key, .. } = arguments;
    let content = match (text, file) {
        (Some(text), _) => text,
        (None, Some(file)) => from_file(&file)?,
        (None, None) => from_stdin()?,
    };
    let (content, json) = if json { (String::new(), content) } else { (content, String::new()) };
    let push = PushRequest {
        from,
        to,
        room,
        everyone,
        app_id: app,
        content,
        json,
        collapse_key,
        offline,
        ttl: ttl.unwrap_or_default(),
        idempotency_key,
        ..PushRequest::default()
    };
    let reply = node.call(push, "it may still arrive", async |node, request| node.push(request).await).await?;
    print(&format!("{}\n", reply.id));
    Ok(())
}

fn from_file(file: &Path) -> Result<String, String> {
    let name = file.display().to_string();
    let opened = std::fs::File::open(file).map_err(|error| format!("{name} cannot be read: {error}"))?;
    read(opened, &name)
}

fn from_stdin() -> Result<String, String> {
    let stdin = std::io::stdin();
    if stdin.is_terminal() {
        note(format_args!("type the content, then Ctrl-D"));
    }
    read(stdin.lock(), "stdin")
}

fn read(from: impl Read, name: &str) -> Result<String, String> {
    let mut bytes = Vec::new();
    from.take(MOST + 1).read_to_end(&mut bytes).map_err(|error| format!("{name} cannot be read: {error}"))?;
    if bytes.len() as u64 > MOST {
        return Err(format!("{name} has more than {} MiB; no node takes that", MOST >> 20));
    }
    String::from_utf8(bytes).map_err(|error| format!("{name} is not UTF-8 text: {}", error.utf8_error()))
}
