//! `oxipush disconnect`: ends clients, over gRPC.

use clap::Args;

use super::{node::NodeArguments, print};
use crate::proto::rpc::{DisconnectRequest, disconnect_request::Selector};

pub(super) const LONG_ABOUT: &str = "\
Ends clients on all nodes, and prints the order's id once the queue has it for good. Only clients that joined before are meant. \
They read a close code that says whether to come back, and the reason.";

pub(super) const AFTER_HELP: &str = "\
EXAMPLES
  oxipush disconnect --card alice
  oxipush disconnect --card alice --reason 'signed out'
  oxipush disconnect --app web --reconnect
  oxipush disconnect --client 01JD4PXV6V4ZJ8Q0K3T5W9Y2AB --code 3502
  oxipush disconnect --sub user-1 --revoke

EXIT CODES
  0  the queue has the order
  1  it was refused, or no node answered; after a time-out it may still
     be carried out
  2  wrong arguments";

#[derive(Args)]
pub(super) struct DisconnectArguments {
    #[command(flatten)]
    whose: SelectorArguments,
    /// They should come back (code 3007 instead of 3504)
    #[arg(long)]
    reconnect: bool,
    /// The close code: 3004, 3007, 3502 or 3504 (docs/close-codes.md)
    #[arg(long, value_name = "CODE")]
    code: Option<u32>,
    /// What they read beside the code, up to 123 bytes
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    reason: String,
    /// Refuse the subject's tokens that were issued until now
    #[arg(long, conflicts_with_all = ["card", "app", "client"])]
    revoke: bool,
    #[command(flatten)]
    node: NodeArguments,
}

#[derive(Args)]
#[group(required = true, multiple = false)]
struct SelectorArguments {
    /// Clients that joined as this card
    #[arg(long, value_name = "CARD")]
    card: Option<String>,
    /// Clients that joined as this app
    #[arg(long, value_name = "APP")]
    app: Option<String>,
    /// The client with this id
    #[arg(long, value_name = "ID")]
    client: Option<String>,
    /// Clients whose token has this subject
    #[arg(long, value_name = "SUBJECT")]
    sub: Option<String>,
}

pub(super) async fn run(arguments: DisconnectArguments) -> Result<(), String> {
    let DisconnectArguments { whose, reconnect, code, reason, revoke, node } = arguments;
    let SelectorArguments { card, app, client, sub } = whose;
    let selector = card
        .map(Selector::CardId)
        .or(app.map(Selector::AppId))
        .or(client.map(Selector::Client))
        .or(sub.map(Selector::Sub));
    let request = DisconnectRequest { selector, code: code.unwrap_or(0), reason, reconnect, revoke };
    let late = "it may still be carried out";
    let reply = node.call(request, late, async |node, request| node.disconnect(request).await).await?;
    print(&format!("{}\n", reply.id));
    Ok(())
}
