//! The scripts, each of which touches one slot.

use std::sync::LazyLock;

use redis::Value;

use crate::redis_client::RedisScript;

pub(super) static WRITE: LazyLock<RedisScript> = LazyLock::new(|| RedisScript::new(include_str!("write.lua")));
pub(super) static LOOK_UP: LazyLock<RedisScript> = LazyLock::new(|| RedisScript::new(include_str!("look_up.lua")));
pub(super) static PRESENCE: LazyLock<RedisScript> = LazyLock::new(|| RedisScript::new(include_str!("presence.lua")));

/// The number of an answer; -1 where it is none.
pub(super) fn number_of(value: &Value) -> i64 {
    if let Value::Int(number) = value { *number } else { -1 }
}

/// The text of an answer; empty where it is none.
pub(super) fn text_of(value: &Value) -> &str {
    match value {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).unwrap_or_default(),
        _ => "",
    }
}

/// The parts of an answer; none where it has none.
pub(super) fn parts_of(value: &Value) -> &[Value] {
    if let Value::Array(parts) = value { parts } else { &[] }
}
