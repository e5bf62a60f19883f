//! `oxipush token`: a token for trying out.

use std::{
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use clap::Args;
use serde_json::{Map, Value};

use super::{ConfigSource, check, print};
use crate::{
    auth::identity::TokenSigner,
    config::{self, TokenConfig},
};

pub(super) const LONG_ABOUT: &str = "\
Prints a token by which a client proves who it is, for trying out: in production the back end makes it, by any JWT library. It \
is signed with [token] secret (HS256), or with the private key in FILE (RSA, EC or Ed25519), whose public half the gateway has \
as [token] public_key or in its jwks. Names of claims, audience and issuer are those of the configuration.";

pub(super) const AFTER_HELP: &str = "\
EXAMPLES
  export OXIPUSH__TOKEN__SECRET=$(openssl rand -base64 32)
  oxipush &
  oxipush token --card mayun --app web --ttl 1h
                                a token for the card mayun, for an hour
  oxipush tail --card mayun --token \"$(oxipush token --card mayun)\"
                                join with it
  oxipush token --card mayun --rooms 'team:*' --rooms lobby --push 'chat:*'
  oxipush token --card mayun --key private.pem --kid 2026-11

A KEY PAIR
  openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 \\
      -out private.pem
  openssl pkey -in private.pem -pubout -out public.pem
  OXIPUSH__TOKEN__PUBLIC_KEY_FILE=public.pem oxipush

EXIT CODES
  0  the token is on stdout
  1  there is no key to sign it with, or the gateway would refuse it
  2  wrong arguments";

const NO_SECRET: &str = "\
there is no [token] secret to sign with: make one, and give it to this command and to the gateway alike
  export OXIPUSH__TOKEN__SECRET=$(openssl rand -base64 32)
or name a private key: oxipush token --key private.pem (oxipush token --help shows how to make one)";

#[allow(rustdoc::broken_intra_doc_links)] // the help's text, which shows brackets as they are
#[derive(Args)]
pub(super) struct TokenArguments {
    #[command(flatten)]
    source: ConfigSource,
    /// The card that the client may join
    #[arg(long, value_name = "CARD", required_unless_present = "cards")]
    card: Option<String>,
    /// A further card, or prefix*; give it again for more
    #[arg(long, value_name = "CARD")]
    cards: Vec<String>,
    /// The app that it joins as; without it any
    #[arg(long, value_name = "APP")]
    app: Option<String>,
    /// A room that it may subscribe to, or prefix*; give it again for more
    #[arg(long, value_name = "ROOM")]
    rooms: Vec<String>,
    /// What it may push to itself, a name or prefix*; give it again for more
    #[arg(long, value_name = "NAME")]
    push: Vec<String>,
    /// Whom the back end means by it (the claim sub), where [token] card_claim is another claim
    #[arg(long, value_name = "NAME")]
    sub: Option<String>,
    /// How long it is good
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = humantime::parse_duration)]
    ttl: Duration,
    /// Sign with the private key in this file (PEM, PKCS#8) instead of [token] secret
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// The key's name in the issuer's key set
    #[arg(long, value_name = "NAME")]
    kid: Option<String>,
}

pub(super) fn run(arguments: TokenArguments) -> Result<(), String> {
    let config = config::load(arguments.source.file(), config::environment());
    let config = config.map_err(|error| check::mistakes(&error))?.token;
    let signer = signer(arguments.key.as_deref(), &config)?;
    let claims = claims(&arguments, &config)?;
    let token = signer.sign(arguments.kid, &claims).map_err(|error| error.to_string())?;
    if token.len() > config.max_token {
        return Err(format!("the token has {} bytes; [token] max_token is {}", token.len(), config.max_token));
    }
    print(&format!("{token}\n"));
    Ok(())
}

fn signer(key: Option<&Path>, config: &TokenConfig) -> Result<TokenSigner, String> {
    let Some(path) = key else {
        let secret = config.secret.as_ref().ok_or(NO_SECRET)?;
        return TokenSigner::of_secret(secret).map_err(|error| error.to_string());
    };
    let name = path.display();
    let pem = std::fs::read_to_string(path).map_err(|error| format!("{name} cannot be read: {error}"))?;
    TokenSigner::of_pem(&pem).map_err(|error| format!("{name}: {error}"))
}

fn claims(arguments: &TokenArguments, config: &TokenConfig) -> Result<Map<String, Value>, String> {
    if arguments.ttl > config.max_life {
        let shown = humantime::format_duration;
        return Err(format!(
            "--ttl {}: gateways refuse a token that lives longer than [token] max_life = {}",
            shown(arguments.ttl),
            shown(config.max_life)
        ));
    }
    let mut claims = Map::new();
    if let Some(sub) = &arguments.sub {
        if config.card_claim == "sub" && arguments.card.as_ref().is_some_and(|card| card != sub) {
            return Err(format!(
                "--sub {sub}: the card is the claim sub here; set [token] card_claim to another claim to have both"
            ));
        }
        claims.insert("sub".to_owned(), sub.as_str().into());
    }
    if let Some(card) = &arguments.card {
        claims.insert(config.card_claim.clone(), card.as_str().into());
    }
    if let Some(app) = &arguments.app {
        claims.insert(config.app_claim.clone(), app.as_str().into());
    }
    let lists = [
        (&config.cards_claim, &arguments.cards),
        (&config.rooms_claim, &arguments.rooms),
        (&config.push_claim, &arguments.push),
    ];
    for (claim, names) in lists.into_iter().filter(|(_, names)| !names.is_empty()) {
        claims.insert(claim.clone(), names.as_slice().into());
    }
    for (claim, known) in [("aud", &config.audience), ("iss", &config.issuer)] {
        if let Some(first) = known.first() {
            claims.insert(claim.to_owned(), first.as_str().into());
        }
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    claims.insert("iat".to_owned(), now.as_secs().into());
    claims.insert("exp".to_owned(), (now + arguments.ttl).as_secs().into());
    Ok(claims)
}
