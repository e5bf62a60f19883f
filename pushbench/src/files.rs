//! Enough file descriptors, or a clear word before anything starts.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::Result;

/// Descriptors beside the connections: epoll, pipes, /proc, HTTP and gRPC.
const OTHERS: u64 = 128;

/// Raises the soft limit where the hard one allows it.
pub(crate) fn ensure(connections: u64) -> Result<()> {
    let needed = connections + OTHERS;
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft >= needed {
        return Ok(());
    }
    if hard < needed {
        return Err(format!(
            "{connections} connections need {needed} file descriptors, {hard} are allowed: raise `ulimit -Hn` or take \
             fewer connections"
        )
        .into());
    }
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_connections_are_always_possible_and_a_billion_never() {
        assert!(ensure(1).is_ok());
        assert!(ensure(1 << 40).is_err_and(|error| error.to_string().contains("ulimit")));
    }
}
