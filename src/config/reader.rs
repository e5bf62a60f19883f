//! Reads values as what they mean, and keeps every mistake.
//!
//! A value that cannot be read is replaced by one that can, so that reading goes on to the next mistake; nobody sees it, since
//! one mistake refuses the whole configuration.

use std::{
    fmt::Display,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    str::FromStr,
    time::Duration,
};

use super::{
    Config, Secret, origin,
    source::{ConfigError, RawValues},
};

/// The values, and the mistakes found so far.
pub(super) struct SectionReader<'a> {
    values: &'a RawValues,
    errors: Vec<String>,
    /// A value was replaced.
    replaced: bool,
}

impl<'a> SectionReader<'a> {
    pub(super) fn new(values: &'a RawValues, errors: Vec<String>) -> Self {
        Self { values, errors, replaced: false }
    }

    /// The configuration, if nothing was wrong.
    pub(super) fn finish(self, config: Config) -> Result<Config, ConfigError> {
        if self.errors.is_empty() { Ok(config) } else { Err(ConfigError(self.errors)) }
    }

    /// No value was replaced: what keys mean together can be checked.
    pub(super) fn has_read_all(&self) -> bool {
        !self.replaced
    }

    /// Notes a mistake; what a key means together with others is checked by the caller.
    pub(super) fn reject(&mut self, section: &str, key: &str, what: impl Display) {
        self.errors.push(format!("[{section}] {key}: {what}"));
    }

    /// A value could not be read; what stands in for it says nothing about the others.
    pub(super) fn replaced(&mut self) {
        self.replaced = true;
    }

    /// Every section that there is.
    pub(super) fn sections(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        self.values.keys().map(String::as_str)
    }

    /// With the spaces that stand at its ends within quotes.
    pub(super) fn as_written(&self, section: &str, key: &str) -> &'a str {
        let value = self.values.get(section).and_then(|keys| keys.get(key));
        value.expect("invariant: config.ini has every key that is read")
    }

    pub(super) fn text(&mut self, section: &str, key: &str) -> String {
        self.as_written(section, key).trim().to_owned()
    }

    /// Parses a value; a mistake is noted with what would be `right`, and `instead` is read.
    pub(super) fn parse<T>(
        &mut self,
        section: &str,
        key: &str,
        right: &str,
        instead: T,
        parse: impl Fn(&str) -> Option<T>,
    ) -> T {
        let text = self.text(section, key);
        parse(&text).unwrap_or_else(|| {
            self.reject(section, key, format!("{text:?} is not {right}"));
            self.replaced = true;
            instead
        })
    }

    /// A text that `fits`.
    pub(super) fn matching(&mut self, section: &str, key: &str, right: &str, fits: impl Fn(&str) -> bool) -> String {
        self.parse(section, key, right, String::new(), |text| fits(text).then(|| text.to_owned()))
    }

    pub(super) fn optional(&mut self, section: &str, key: &str) -> Option<String> {
        Some(self.text(section, key)).filter(|text| !text.is_empty())
    }

    /// Parses a value that may be empty: then it is as `other` is.
    pub(super) fn unless_empty<T>(
        &mut self,
        section: &str,
        key: &str,
        right: &str,
        other: T,
        parse: impl Fn(&str) -> Option<T>,
    ) -> T {
        if self.text(section, key).is_empty() {
            return other;
        }
        self.parse(section, key, right, other, parse)
    }

    pub(super) fn path(&mut self, section: &str, key: &str) -> Option<PathBuf> {
        self.optional(section, key).map(PathBuf::from)
    }

    pub(super) fn secret(&mut self, section: &str, key: &str) -> Secret {
        Secret(self.as_written(section, key).to_owned())
    }

    pub(super) fn list(&mut self, section: &str, key: &str) -> Vec<String> {
        let text = self.text(section, key);
        text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect()
    }

    /// A list whose items are each parsed.
    pub(super) fn each<T>(
        &mut self,
        section: &str,
        key: &str,
        right: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Vec<T> {
        let mut all = Vec::new();
        for item in self.list(section, key) {
            match parse(&item) {
                Some(value) => all.push(value),
                None => {
                    self.reject(section, key, format!("{item:?} is not {right}"));
                    self.replaced = true;
                }
            }
        }
        all
    }

    /// Names, or the beginnings of names with `*` behind them.
    pub(super) fn patterns(&mut self, section: &str, key: &str) -> Vec<String> {
        let pattern = |text: &str| (!text.chars().any(char::is_control)).then(|| text.to_owned());
        self.each(section, key, "a name, or the beginning of names with * behind it", pattern)
    }

    /// Notes the patterns that fit no name, since those have `longest` bytes at most.
    pub(super) fn check_patterns(&mut self, section: &str, key: &str, patterns: &[String], longest: usize) {
        for pattern in patterns {
            if pattern.strip_suffix('*').unwrap_or(pattern).len() > longest {
                self.reject(section, key, format!("{pattern:?} admits nothing: [push] max_name = {longest}B"));
            }
        }
    }

    /// A number within `least..=most`.
    pub(super) fn number<T>(&mut self, section: &str, key: &str, least: T, most: T) -> T
    where
        T: FromStr + PartialOrd + Display + Copy,
    {
        let right = format!("a whole number from {least} to {most}");
        self.parse(section, key, &right, least, |text| text.parse().ok().filter(|n| (least..=most).contains(n)))
    }

    /// A time within `least..=most`.
    pub(super) fn time(&mut self, section: &str, key: &str, least: Duration, most: Duration) -> Duration {
        let shown = humantime::format_duration;
        let right = format!("a time from {} to {} (say 500ms, 5s, 10m, 24h)", shown(least), shown(most));
        self.parse(section, key, &right, least, |text| duration(text).filter(|t| (least..=most).contains(t)))
    }

    /// A number of bytes within `least..=most`.
    pub(super) fn size(&mut self, section: &str, key: &str, least: u64, most: u64) -> u64 {
        let right = format!("a size from {} to {} (say 512B, 64KiB, 1GiB)", in_units(least), in_units(most));
        self.parse(section, key, &right, least, |text| size(text).filter(|n| (least..=most).contains(n)))
    }

    /// A size that is held in memory.
    pub(super) fn bytes(&mut self, section: &str, key: &str, least: u64, most: u64) -> usize {
        usize::try_from(self.size(section, key, least, most)).unwrap_or(usize::MAX)
    }

    pub(super) fn address(&mut self, section: &str, key: &str) -> SocketAddr {
        let text = self.text(section, key);
        text.parse().unwrap_or_else(|_| {
            self.reject(section, key, format!("{text:?} {}", no_address(&text)));
            self.replaced = true;
            SocketAddr::from(([127, 0, 0, 1], 0))
        })
    }

    /// An address, or none.
    pub(super) fn optional_address(&mut self, section: &str, key: &str) -> Option<SocketAddr> {
        let given = self.optional(section, key).is_some();
        given.then(|| self.address(section, key))
    }

    /// A list of addresses.
    pub(super) fn addresses(&mut self, section: &str, key: &str) -> Vec<SocketAddr> {
        self.each(section, key, "an address (say 127.0.0.1:7799)", |text| text.parse().ok())
    }

    /// Origins that browsers send.
    pub(super) fn origins(&mut self, section: &str, key: &str) -> Vec<String> {
        let all = self.list(section, key);
        for item in &all {
            if let Some(error) = origin::error_in(item) {
                self.reject(section, key, format!("{item:?} can never be an origin: {error}"));
            }
        }
        all
    }

    pub(super) fn switch(&mut self, section: &str, key: &str) -> bool {
        self.parse(section, key, "true or false", false, |text| match text {
            "true" | "yes" | "on" | "1" => Some(true),
            "false" | "no" | "off" | "0" => Some(false),
            _ => None,
        })
    }

    /// One of a closed set.
    pub(super) fn choice<T: Copy, const N: usize>(&mut self, section: &str, key: &str, choices: [(&str, T); N]) -> T {
        let right = choices.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(" or ");
        self.parse(section, key, &right, choices[0].1, |text| {
            choices.iter().find(|(name, _)| *name == text).map(|(_, value)| *value)
        })
    }
}

/// Why `text` is no address to listen on, and what would be.
fn no_address(text: &str) -> String {
    const SAY: &str = "(say 127.0.0.1:8080 or 0.0.0.0:8080)";
    if text.contains("://") {
        return format!("is a URL: write the address and the port alone {SAY}");
    }
    if text.parse::<IpAddr>().is_ok() {
        return format!("has no port {SAY}; an IPv6 address stands in brackets, [::1]:8080");
    }
    match text.rsplit_once(':') {
        Some(("" | "*", port)) if port.parse::<u16>().is_ok() => {
            format!("names no address: write 0.0.0.0:{port} for all of this machine's, or 127.0.0.1:{port}")
        }
        Some((host, port)) if port.parse::<u16>().is_ok() && host.contains(|c: char| c.is_ascii_alphabetic()) => {
            format!("is a host name: write the address that it stands for {SAY}")
        }
        Some((host, _)) if host.parse::<IpAddr>().is_ok() => format!("has no port from 0 to 65535 {SAY}"),
        _ => format!("is not an address {SAY}"),
    }
}

/// A time as config.ini writes it; a bare number has no unit and is refused.
pub(super) fn duration(text: &str) -> Option<Duration> {
    humantime::parse_duration(text).ok()
}

const UNITS: [(&str, u32); 4] = [("GiB", 30), ("MiB", 20), ("KiB", 10), ("B", 0)];

/// In the largest unit that divides it.
fn in_units(bytes: u64) -> String {
    let fits = UNITS.iter().find(|(_, shift)| bytes > 0 && bytes.is_multiple_of(1 << shift));
    fits.map_or("0B".into(), |(unit, shift)| format!("{}{unit}", bytes >> shift))
}

/// A size as config.ini writes it.
pub(super) fn size(text: &str) -> Option<u64> {
    let (number, shift) =
        UNITS.iter().find_map(|(unit, shift)| text.strip_suffix(unit).map(|number| (number, *shift)))?;
    number.trim().parse::<u64>().ok()?.checked_mul(1 << shift)
}
