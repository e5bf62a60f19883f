//! Lua scripts, which Redis knows by their hash once it has seen them.

use redis::{Arg, Cmd, Script, ToRedisArgs};

/// A script; made once. [`super::RedisClient::learn`] has Redis know it before it is run.
pub struct RedisScript {
    text: &'static str,
    hash: String,
}

/// A script with its keys and arguments.
#[derive(Clone)]
pub struct ScriptCall {
    text: &'static str,
    command: Cmd,
}

impl RedisScript {
    /// From its text.
    pub fn new(text: &'static str) -> Self {
        Self { text, hash: Script::new(text).get_hash().to_owned() }
    }

    pub(super) fn text(&self) -> &'static str {
        self.text
    }

    /// With these keys, which are of one slot. Arguments follow.
    pub fn with_keys(&self, keys: &[&[u8]]) -> ScriptCall {
        let mut command = redis::cmd("EVALSHA");
        command.arg(&self.hash).arg(keys.len()).arg(keys);
        ScriptCall { text: self.text, command }
    }
}

impl ScriptCall {
    /// Adds an argument, or several.
    #[must_use]
    pub fn arg(mut self, argument: impl ToRedisArgs) -> Self {
        self.command.arg(argument);
        self
    }

    pub(super) fn by_hash(&self) -> &Cmd {
        &self.command
    }

    /// The same with its text, for a Redis that does not know it (and does from then on).
    pub(super) fn by_text(&self) -> Cmd {
        let mut command = redis::cmd("EVAL");
        command.arg(self.text);
        for argument in self.command.args_iter().skip(2) {
            if let Arg::Simple(bytes) = argument {
                command.arg(bytes);
            }
        }
        command
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn by_text_a_script_has_the_same_keys_and_arguments() {
        let script = RedisScript::new("return 1");
        let call = script.with_keys(&[b"a", b"b"]).arg("x").arg(7);
        let words = |command: &Cmd| -> Vec<Vec<u8>> {
            command.args_iter().map(|arg| if let Arg::Simple(bytes) = arg { bytes.to_vec() } else { vec![] }).collect()
        };
        let (by_hash, by_text) = (words(call.by_hash()), words(&call.by_text()));
        assert_eq!((&*by_hash[0], &*by_text[0], &*by_text[1]), (&b"EVALSHA"[..], &b"EVAL"[..], &b"return 1"[..]));
        assert_eq!(by_hash[1], b"e0e1f9fabfc9d4800c877a703b823ac0578ff8db", "SHA-1, as SCRIPT LOAD gives it");
        assert_eq!(by_hash[2..], by_text[2..]);
        assert_eq!(by_text[2..], [b"2".to_vec(), b"a".to_vec(), b"b".to_vec(), b"x".to_vec(), b"7".to_vec()]);
    }
}
