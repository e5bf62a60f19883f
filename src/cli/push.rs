//! `oxipush push`: one push over gRPC.

use std::{
    io::{IsTerminal, Read},
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    transport::Endpoint,
};

use super::{note, print};
use crate::{
    proto::rpc::{PushRequest, rpc_client::RpcClient},
    telemetry::root_cause,
};

pub(super) const LONG_ABOUT: &str = "\
Hands one push to a running node over gRPC and prints its id once the queue has it for good. The content is TEXT, or what FILE \
holds, or what stands on stdin, byte for byte (a line end at the end of stdin included); it must be UTF-8.";

pub(super) const AFTER_HELP: &str = "\
EXAMPLES
  oxipush push --to alice hello
  oxipush push --to alice --to bob --app web --from me 'a push for two cards'
  oxipush push --to alice --file message.json
  date | oxipush push --to alice
  OXIPUSH_KEY=… oxipush push --grpc http://10.0.0.7:9002 --to alice hello

EXIT CODES
  0  the queue has the push
  1  it was refused, or no node answered; after a time-out it may still arrive
  2  wrong arguments";

/// The largest content that any node can be told to take (`[push] max_content`).
const MOST: u64 = 256 << 20;

#[allow(rustdoc::broken_intra_doc_links)] // the help's text, which shows a backslash as it is
#[derive(Args)]
pub(super) struct PushArguments {
    /// A card to push to; give it again for more cards
    #[arg(long, value_name = "CARD", required = true)]
    to: Vec<String>,
    /// Only connections that joined as this app
    #[arg(long, value_name = "APP", default_value = "", hide_default_value = true)]
    app: String,
    /// Who pushes
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    from: String,
    /// A waiting push of the same key is replaced ([outbox] policy = conflate)
    #[arg(long, value_name = "KEY", default_value = "", hide_default_value = true)]
    collapse_key: String,
    /// Read the content from this file
    #[arg(long, value_name = "FILE", conflicts_with = "text")]
    file: Option<PathBuf>,
    /// The node's gRPC address
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:9002")]
    grpc: String,
    /// A key of the node with the scope push; better given as OXIPUSH_KEY, which no list of processes shows
    #[arg(long, value_name = "KEY", env = "OXIPUSH_KEY", hide_env_values = true)]
    key: Option<String>,
    /// How long to wait for the answer
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = humantime::parse_duration)]
    timeout: Duration,
    /// The content; without it and --file: stdin
    text: Option<String>,
}

pub(super) async fn run(arguments: PushArguments) -> Result<(), String> {
    let PushArguments { to, app, from, collapse_key, file, grpc, key, timeout, text } = arguments;
    let content = match (text, file) {
        (Some(text), _) => text,
        (None, Some(file)) => from_file(&file)?,
        (None, None) => from_stdin()?,
    };
    let push = PushRequest { from, to, app_id: app, content, collapse_key, ..PushRequest::default() };
    let mut request = Request::new(push);
    if let Some(bearer) = bearer(key.as_deref())? {
        request.metadata_mut().insert("authorization", bearer);
    }
    let endpoint = endpoint(&grpc)?.connect_timeout(timeout).timeout(timeout);
    let channel = endpoint.connect().await.map_err(|error| {
        format!("no node answers at {grpc}: {}; is it running, and is this its [grpc] listen?", root_cause(&error))
    })?;
    let mut node = RpcClient::new(channel).max_decoding_message_size(1 << 20);
    let reply = tokio::time::timeout(timeout, node.push(request)).await;
    let reply = reply.map_err(|_| format!("no answer within {timeout:?}; the push may still arrive"))?;
    let reply = reply.map_err(|status| refused(&status))?.into_inner();
    print(&format!("{}\n", reply.id));
    Ok(())
}

/// The node's address; `host:port` is taken as `http://host:port`.
fn endpoint(grpc: &str) -> Result<Endpoint, String> {
    if grpc.starts_with("https://") {
        return Err(format!(
            "{grpc}: this program speaks gRPC without TLS: use http://, or push through your TLS proxy"
        ));
    }
    let url = if grpc.contains("://") { grpc.to_owned() } else { format!("http://{grpc}") };
    let wrong = |error| format!("--grpc {grpc}: {error}; write http://host:port");
    Endpoint::from_shared(url).map_err(wrong)
}

fn bearer(key: Option<&str>) -> Result<Option<MetadataValue<Ascii>>, String> {
    let Some(key) = key.filter(|key| !key.is_empty()) else { return Ok(None) };
    let value = format!("Bearer {key}").parse::<MetadataValue<Ascii>>();
    let mut value = value.map_err(|_| "the key has characters that no header can carry: use visible ASCII")?;
    value.set_sensitive(true);
    Ok(Some(value))
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

/// A refusal in words; docs/errors.md has them all.
fn refused(status: &Status) -> String {
    let code = format!("{:?}", status.code());
    let what = match status.message() {
        "" => status.code().description(),
        message => message,
    };
    let remedy = match status.code() {
        tonic::Code::Unauthenticated => " (give a key of the node as --key or OXIPUSH_KEY)",
        tonic::Code::ResourceExhausted => " (nothing was accepted)",
        tonic::Code::Unavailable | tonic::Code::DeadlineExceeded => " (it may still arrive)",
        _ => "",
    };
    format!("refused: {code}: {what}{remedy}")
}
