//! `oxipush check-config`.

use std::{fmt::Write as _, path::Path, process::ExitCode};

use super::{failed, print};
use crate::config::{self, EffectiveSetting};

pub(super) const LONG_ABOUT: &str = "\
Prints every key with the value that the gateway would use, in config.ini's own form, on stdout; what differs from the default \
says so. Keys and passwords show as ***. With mistakes it prints them all, each with section, key and what would be right, on \
stderr, and ends with code 1. It opens nothing: neither the data folder nor a port.";

pub(super) const AFTER_HELP: &str = "\
EXAMPLES
  oxipush check-config
  oxipush check-config --config /etc/oxipush/config.ini
  OXIPUSH__QUEUE__BACKEND=nsq oxipush check-config | grep backend

EXIT CODES
  0  the configuration is good
  1  it has mistakes
  2  wrong arguments";

/// Prints the effective values, or all mistakes.
pub(super) fn run(file: Option<&Path>) -> ExitCode {
    match config::settings(file, config::environment()) {
        Ok(settings) => {
            print(&listing(file, &settings));
            ExitCode::SUCCESS
        }
        Err(error) => failed(mistakes(&error)),
    }
}

/// All mistakes, one a line.
pub(super) fn mistakes(error: &config::ConfigError) -> String {
    let number = match error.0.len() {
        1 => "a mistake".into(),
        number => format!("{number} mistakes"),
    };
    format!("the configuration has {number}:\n  {}", error.0.join("\n  "))
}

/// Where the values come from, in words.
pub(super) fn sources(file: Option<&Path>) -> String {
    let mut text = match file {
        Some(file) => format!("{}, over the built-in defaults", file.display()),
        None => "built-in defaults (no config.ini here)".into(),
    };
    let mut names: Vec<String> = config::environment().map(|(name, _)| name).collect();
    names.sort();
    if !names.is_empty() {
        let _ = write!(text, "; over them {}", names.join(", "));
    }
    text
}

fn listing(file: Option<&Path>, settings: &[EffectiveSetting]) -> String {
    let mut text = format!("; what oxipush {} would use: {}\n", env!("CARGO_PKG_VERSION"), sources(file));
    let mut section = "";
    for setting in settings {
        if setting.section != section {
            section = &setting.section;
            let _ = writeln!(text, "\n[{section}]");
        }
        if setting.value != setting.default {
            let default = if setting.default.is_empty() { "empty" } else { &setting.default };
            let _ = writeln!(text, "; default: {default}");
        }
        let _ = writeln!(text, "{} = {}", setting.key, setting.value);
    }
    text
}
