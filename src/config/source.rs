//! Where the values come from, layer over layer: the compiled-in config.ini, a file, the environment.

use std::{collections::BTreeMap, fs, path::Path};

use config::{Map, Source, Value};

use super::{Config, ini, reader::SectionReader, tables};

/// The repository's config.ini: every key with its default.
pub const DEFAULTS: &str = include_str!("../../config.ini");

const PREFIX: &str = "OXIPUSH__";

/// Every mistake in the configuration, one a line: section, key, and what would be right.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct ConfigError(pub Vec<String>);

/// The values by section and key, before they mean anything.
pub(super) type RawValues = BTreeMap<String, BTreeMap<String, String>>;

/// The variables of this process that are for the configuration. Those of others may be any bytes.
pub fn environment() -> impl Iterator<Item = (String, String)> {
    let text = |bytes: std::ffi::OsString| bytes.to_string_lossy().into_owned();
    std::env::vars_os().map(move |(name, value)| (text(name), text(value))).filter(|(name, _)| name.starts_with(PREFIX))
}

/// Reads the defaults, then `file`, then the `OXIPUSH__SECTION__KEY` of `environment`.
///
/// # Errors
/// All mistakes at once.
pub fn load(
    file: Option<&Path>,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<Config, ConfigError> {
    LayeredConfig::read(file, environment)?.check()
}

/// One key with the value that is used, for `check-config`: secrets show as `***`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EffectiveSetting {
    /// Its section.
    pub section: String,
    /// Its name.
    pub key: String,
    /// What is used.
    pub value: String,
    /// What config.ini's own value is.
    pub default: String,
}

/// Every key with its effective value, in config.ini's order.
///
/// # Errors
/// As [`load`].
pub fn settings(
    file: Option<&Path>,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<Vec<EffectiveSetting>, ConfigError> {
    let layers = LayeredConfig::read(file, environment)?;
    layers.check()?;
    let mut settings = Vec::new();
    let mut section = "";
    for line in DEFAULTS.lines() {
        if let Some(name) = line.strip_prefix('[') {
            section = name.trim_end_matches(']');
        } else if let Some((key, default)) = line.split_once('=').filter(|_| !line.starts_with(';')) {
            let key = key.trim();
            let default = default.trim().to_owned();
            let value = layers.values.get(section).and_then(|keys| keys.get(key)).map_or("", String::as_str);
            let value = masked(section, key, value.trim());
            settings.push(EffectiveSetting { section: section.to_owned(), key: key.to_owned(), value, default });
        }
    }
    Ok(settings)
}

/// As it may be shown.
pub(super) fn masked(section: &str, key: &str, value: &str) -> String {
    match (section, key) {
        _ if value.is_empty() => String::new(),
        ("auth", "keys") => value.split(',').map(|_| "***").collect::<Vec<_>>().join(", "),
        ("cluster", "password") | ("token", "secret") => "***".into(),
        // one line for each key
        ("token", "public_key") => value.lines().collect::<Vec<_>>().join("\\n"),
        _ => value.to_owned(),
    }
}

/// The known values of one place, for the config crate to lay over those of the places before.
#[derive(Clone, Debug)]
struct ConfigLayer(RawValues);

impl Source for ConfigLayer {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, config::ConfigError> {
        let table = |keys: &BTreeMap<String, String>| -> Map<String, Value> {
            keys.iter().map(|(key, value)| (key.clone(), Value::from(value.clone()))).collect()
        };
        Ok(self.0.iter().map(|(section, keys)| (section.clone(), Value::from(table(keys)))).collect())
    }
}

/// The values of all layers, laid over each other, and what was wrong with them.
pub(super) struct LayeredConfig {
    pub(super) values: RawValues,
    pub(super) errors: Vec<String>,
}

impl LayeredConfig {
    pub(super) fn read(
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let (known, mut errors) = ini::read(DEFAULTS);
        let mut all = config::Config::builder().add_source(ConfigLayer(known.clone()));
        if let Some(path) = file {
            let text = fs::read_to_string(path)
                .map_err(|error| ConfigError(vec![format!("{} cannot be read: {error}", path.display())]))?;
            all = all.add_source(of_file(&text, &known, &mut errors));
        }
        all = all.add_source(of_environment(environment, &known, &mut errors));
        let values = all.build().and_then(config::Config::try_deserialize);
        let values = values.map_err(|error| ConfigError(vec![error.to_string()]))?;
        Ok(Self { values, errors })
    }

    /// What they mean.
    pub(super) fn check(&self) -> Result<Config, ConfigError> {
        let mut reader = SectionReader::new(&self.values, self.errors.clone());
        let config = tables::read(&mut reader);
        reader.finish(config)
    }
}

fn of_file(text: &str, known: &RawValues, errors: &mut Vec<String>) -> ConfigLayer {
    let (read, wrong) = ini::read(text);
    errors.extend(wrong);
    let mut layer = ConfigLayer(RawValues::new());
    for (section, keys) in read {
        for (key, value) in keys {
            match unknown(known, &section, &key) {
                None => drop(layer.0.entry(section.clone()).or_default().insert(key, value)),
                Some(error) => errors.push(format!("[{section}] {key}: {error}")),
            }
        }
    }
    layer
}

fn of_environment(
    environment: impl IntoIterator<Item = (String, String)>,
    known: &RawValues,
    errors: &mut Vec<String>,
) -> ConfigLayer {
    let mut layer = ConfigLayer(RawValues::new());
    let mut seen = BTreeMap::new();
    for (name, value) in environment {
        let Some(rest) = name.strip_prefix(PREFIX) else { continue };
        if value.contains(char::REPLACEMENT_CHARACTER) {
            errors.push(format!("{name}: its value is not UTF-8 text"));
        }
        let place = rest.to_lowercase();
        let Some((section, key)) = place.split_once("__").filter(|(_, key)| !key.contains("__")) else {
            errors.push(format!("{name}: it names no key; write OXIPUSH__SECTION__KEY"));
            continue;
        };
        // in another case: one name has but one value
        if let Some(other) = seen.insert(place.clone(), name.clone()).filter(|other| *other != name) {
            errors.push(format!("{name}: it names the same key as {other}"));
        }
        match unknown(known, section, key) {
            None => {
                // as in a file
                let value = ini::unquoted(value.trim()).to_owned();
                drop(layer.0.entry(section.to_owned()).or_default().insert(key.to_owned(), value));
            }
            Some(error) => errors.push(format!("{name}: {error}")),
        }
    }
    layer
}

/// What is wrong with a key that there is not.
fn unknown(known: &RawValues, section: &str, key: &str) -> Option<String> {
    let Some(keys) = known.get(section) else {
        let remedy = match nearest(section, known.keys()) {
            Some(nearest) => format!("did you mean [{nearest}]?"),
            None => format!("there are [{}]", known.keys().cloned().collect::<Vec<_>>().join("], [")),
        };
        return Some(format!("there is no such section; {remedy}"));
    };
    if keys.contains_key(key) {
        return None;
    }
    let elsewhere = known.iter().find(|(_, keys)| keys.contains_key(key)).map(|(other, _)| other.as_str());
    let remedy = match (nearest(key, keys.keys()), elsewhere) {
        (Some(nearest), _) => format!("did you mean {nearest}?"),
        (None, Some(other)) => format!("[{other}] has one"),
        (None, None) => "docs/operations.md lists them all".into(),
    };
    Some(format!("there is no such key; {remedy}"))
}

/// The known name that `name` was most likely meant to be: no more than two letters away, and one in three.
fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a String>) -> Option<&'a str> {
    let near = known.filter_map(|other| {
        let away = strsim::osa_distance(name, other);
        (away <= 2.min(other.len().max(name.len()) / 3)).then_some((away, other.as_str()))
    });
    near.min().map(|(_, other)| other)
}
