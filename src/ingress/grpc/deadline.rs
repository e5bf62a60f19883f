//! A call's deadline: what its caller wrote as `grpc-timeout`.

use std::time::Duration;

use tokio::time::Instant;
use tonic::codegen::http::HeaderMap;

use crate::ingress::refusal::{Refusal, RefusalKind};

/// When the caller of a call that has just come in no longer waits for its answer; `None`: it waits for ever.
///
/// # Errors
/// `grpc-timeout` is not as gRPC writes it.
pub(super) fn of(headers: &HeaderMap) -> Result<Option<Instant>, Refusal> {
    let Some(value) = headers.get("grpc-timeout") else { return Ok(None) };
    let timeout = value.to_str().ok().and_then(parse).ok_or_else(|| {
        Refusal::field("grpc-timeout", "is not 1 to 8 digits and one of H, M, S, m, u and n; use a gRPC library")
    })?;
    // a time past the clock's end is none
    Ok(Instant::now().checked_add(timeout))
}

/// What a call whose deadline has passed ends with.
pub(super) fn passed() -> Refusal {
    Refusal::new(RefusalKind::DeadlinePassed, "the call's deadline has passed; a push in it may still arrive")
}

fn parse(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if !(1..=8).contains(&digits.len()) || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_is_read_as_grpc_writes_it() {
        for (text, right) in [
            ("1H", Some(Duration::from_secs(3600))),
            ("2M", Some(Duration::from_secs(120))),
            ("99999999S", Some(Duration::from_secs(99_999_999))),
            ("300m", Some(Duration::from_millis(300))),
            ("7u", Some(Duration::from_micros(7))),
            ("0n", Some(Duration::ZERO)),
            ("123456789S", None),
            ("", None),
            ("S", None),
            ("5", None),
            ("5s", None),
            ("-5S", None),
            ("+5S", None),
            ("1.5S", None),
            ("5ü", None),
        ] {
            assert_eq!(parse(text), right, "{text}");
        }
    }
}
