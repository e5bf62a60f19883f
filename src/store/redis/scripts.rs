//! The scripts, each of which touches one slot.

use std::sync::LazyLock;

use crate::redis_client::RedisScript;

macro_rules! stream_scripts {
    ($($(#[$doc:meta])* $name:ident = $file:literal;)*) => {
        $($(#[$doc])* pub(super) static $name: LazyLock<RedisScript> = LazyLock::new(|| {
            RedisScript::new(concat!(include_str!("scripts/common.lua"), include_str!($file)))
        });)*
    };
}

stream_scripts! {
    APPEND = "scripts/append.lua";
    ATTACH = "scripts/attach.lua";
    CURSORS = "scripts/cursors.lua";
    DELETE_ENTRY = "scripts/delete_entry.lua";
    DESCRIBE = "scripts/describe.lua";
    HEAD = "scripts/head.lua";
    READ = "scripts/read.lua";
}

pub(super) static CHANGES: LazyLock<RedisScript> =
    LazyLock::new(|| RedisScript::new(include_str!("scripts/changes.lua")));
pub(super) static CLAIM: LazyLock<RedisScript> = LazyLock::new(|| RedisScript::new(include_str!("scripts/claim.lua")));
pub(super) static FULFIL: LazyLock<RedisScript> =
    LazyLock::new(|| RedisScript::new(include_str!("scripts/fulfil.lua")));
pub(super) static REVOKE: LazyLock<RedisScript> =
    LazyLock::new(|| RedisScript::new(include_str!("scripts/revoke.lua")));

/// All of them, for Redis to know.
pub(super) fn all() -> [&'static RedisScript; 11] {
    [&APPEND, &ATTACH, &CURSORS, &DELETE_ENTRY, &DESCRIBE, &HEAD, &READ, &CHANGES, &CLAIM, &FULFIL, &REVOKE]
}
