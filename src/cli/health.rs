//! `oxipush health`.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::Path,
    process::ExitCode,
    time::Duration,
};

use super::{check, failed, near, print};
use crate::config;

pub(super) const LONG_ABOUT: &str = "\
Asks the node on this machine, at its own [http] listen, for /readyz, and prints the answer. For the health checks of \
images that have no other program.";

pub(super) const AFTER_HELP: &str = "\
EXAMPLES
  oxipush health
  oxipush health --config /etc/oxipush/config.ini

EXIT CODES
  0  it is ready
  1  it is not, or does not answer
  2  wrong arguments";

/// How long the node may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// The most of an answer that is read.
const MOST: u64 = 64 * 1024;

/// 0 when the node is ready.
pub(super) fn run(file: Option<&Path>) -> ExitCode {
    let config = match config::load(file, config::environment()) {
        Ok(config) => config,
        Err(error) => return failed(check::mistakes(&error)),
    };
    let address = near(config.http.listen);
    match ask(address) {
        Ok(answer) => {
            let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
            print(&format!("{}\n", body.trim_end()));
            match head.split(' ').nth(1) {
                Some("200") => ExitCode::SUCCESS,
                _ => ExitCode::FAILURE,
            }
        }
        Err(error) => failed(format_args!("no answer from {address}: {error}")),
    }
}

fn ask(address: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    write!(stream, "GET /readyz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.take(MOST).read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
