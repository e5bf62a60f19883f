//! Where the values come from, layer over layer: the compiled-in config.ini, a file, the environment.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use config::{Map, Source, Value};

use super::{Config, gopusher, ini, named, reader::SectionReader, tables};

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
    for (section, keys) in default_sections() {
        let mut shown = vec![section];
        if let Some(kind) = named::kind_of(section) {
            let all: Vec<_> = layers.values.keys().map(String::as_str).filter(|name| kind.has(name)).collect();
            // where there are none, it shows what they could have
            shown = if all.is_empty() { shown } else { all };
        }
        for section in shown {
            settings.extend(keys.iter().map(|(key, default)| EffectiveSetting {
                section: section.to_owned(),
                key: (*key).to_owned(),
                value: masked(section, key, layers.values[section][*key].trim()),
                default: (*default).to_owned(),
            }));
        }
    }
    Ok(settings)
}

/// config.ini's sections, each with its keys and their defaults, in its order.
fn default_sections() -> Vec<(&'static str, Vec<(&'static str, &'static str)>)> {
    let mut sections: Vec<(_, Vec<_>)> = Vec::new();
    for line in DEFAULTS.lines() {
        if let Some(name) = line.strip_prefix('[') {
            sections.push((name.trim_end_matches(']'), Vec::new()));
        } else if let Some((key, default)) = line.split_once('=').filter(|_| !line.starts_with(';'))
            && let Some((_, keys)) = sections.last_mut()
        {
            keys.push((key.trim(), default.trim()));
        }
    }
    sections
}

/// As it may be shown.
pub(super) fn masked(section: &str, key: &str, value: &str) -> String {
    match (section, key) {
        _ if value.is_empty() => String::new(),
        ("auth", "keys") => value.split(',').map(|_| "***").collect::<Vec<_>>().join(", "),
        ("cluster" | "gpusher" | "redis", "password")
        | ("redis", "sentinel_password")
        | ("token" | "events", "secret")
        | ("peers", "key") => "***".into(),
        (_, "secret" | "sha256") if named::KEYS.name_in(section).is_some() => "***".into(),
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
        let sections: Map<String, Value> =
            self.0.iter().map(|(section, keys)| (section.clone(), Value::from(table(keys)))).collect();
        // the crate reads a name at the top as a path, and [key.billing] has a dot
        Ok([(SECTIONS.to_owned(), Value::from(sections))].into_iter().collect())
    }
}

/// The one table of a layer that holds all others.
const SECTIONS: &str = "sections";

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
        let mut sections: BTreeSet<String> = known.keys().cloned().collect();
        if let Some(path) = file {
            let text = fs::read_to_string(path)
                .map_err(|error| ConfigError(vec![format!("{} cannot be read: {error}", path.display())]))?;
            let of_file = of_file(&text, &known, &mut errors);
            sections.extend(of_file.keys().cloned());
            all = all.add_source(ConfigLayer(of_file));
        }
        let of_environment = of_environment(environment, &known, sections.iter(), &mut errors);
        let values = all.add_source(ConfigLayer(of_environment)).build().and_then(|all| all.get(SECTIONS));
        let mut values: RawValues = values.map_err(|error| ConfigError(vec![error.to_string()]))?;
        named::fill_from_templates(&mut values);
        errors.extend(named::collisions(values.keys()));
        Ok(Self { values, errors })
    }

    /// What they mean.
    pub(super) fn check(&self) -> Result<Config, ConfigError> {
        let mut reader = SectionReader::new(&self.values, self.errors.clone());
        let config = tables::read(&mut reader);
        reader.finish(config)
    }
}

/// The known values of a file.
fn of_file(text: &str, known: &RawValues, errors: &mut Vec<String>) -> RawValues {
    let (mut read, wrong) = ini::read(text);
    errors.extend(wrong);
    errors.extend(gopusher::take(&mut read));
    let mut layer = RawValues::new();
    for (section, keys) in read {
        if let Some(kind) = named::kind_of(&section).filter(|kind| kind.template == section) {
            // as in a copy of config.ini: it is nobody's
            if keys.iter().any(|(key, value)| known[&section].get(key) != Some(value)) {
                errors.push(kind.name_yours());
            }
            continue;
        }
        let keys_known = match known_keys(known, &section) {
            Ok(keys) => keys,
            Err(error) => {
                let named: Vec<_> = keys.keys().take(3).map(|key| format!(" {key}")).collect();
                let more = if keys.len() > named.len() { ", …" } else { "" };
                errors.push(format!("[{section}]{}{more}: {error}", named.join(",")));
                continue;
            }
        };
        let values = layer.entry(section.clone()).or_default();
        for (key, value) in keys {
            match unknown_key(known, keys_known, &key) {
                None => drop(values.insert(key, value)),
                Some(error) => errors.push(format!("[{section}] {key}: {error}")),
            }
        }
    }
    layer
}

/// The known values of the environment; `sections` are there already.
fn of_environment<'a>(
    environment: impl IntoIterator<Item = (String, String)>,
    known: &RawValues,
    sections: impl Iterator<Item = &'a String> + Clone,
    errors: &mut Vec<String>,
) -> RawValues {
    let mut layer = RawValues::new();
    let mut seen = BTreeMap::new();
    for (name, value) in environment {
        let Some(rest) = name.strip_prefix(PREFIX) else { continue };
        if value.contains(char::REPLACEMENT_CHARACTER) {
            errors.push(format!("{name}: its value is not UTF-8 text"));
        }
        let place = rest.to_lowercase();
        let place = named::place_in_environment(&place, sections.clone()).or_else(|| {
            let (section, key) = place.split_once("__").filter(|(_, key)| !key.contains("__"))?;
            Some((section.to_owned(), key))
        });
        let Some((section, key)) = place else {
            errors.push(format!("{name}: it names no key; write OXIPUSH__SECTION__KEY"));
            continue;
        };
        // in another case: one name has but one value
        let place = (section.clone(), key.to_owned());
        if let Some(other) = seen.insert(place, name.clone()).filter(|other| *other != name) {
            errors.push(format!("{name}: it names the same key as {other}"));
        }
        match known_keys(known, &section).and_then(|keys| unknown_key(known, keys, key).map_or(Ok(()), Err)) {
            Ok(()) => {
                // as in a file
                let value = ini::unquoted(value.trim()).to_owned();
                layer.entry(section).or_default().insert(key.to_owned(), value);
            }
            Err(error) => errors.push(format!("{name}: {error}")),
        }
    }
    layer
}

/// The keys that a section has, or what is wrong with a section that there is not.
fn known_keys<'a>(known: &'a RawValues, section: &str) -> Result<&'a BTreeMap<String, String>, String> {
    if let Some(kind) = named::kind_of(section) {
        let error = kind.error_in(kind.name_in(section).unwrap_or_default());
        return error.map_or(Ok(&known[kind.template]), Err);
    }
    known.get(section).ok_or_else(|| {
        let remedy = match (named::kind_meant_by(section), nearest(section, known.keys())) {
            (Some(kind), _) => kind.suggestion(),
            (None, Some(nearest)) => format!("did you mean [{nearest}]?"),
            (None, None) => format!("there are [{}]", known.keys().cloned().collect::<Vec<_>>().join("], [")),
        };
        format!("there is no such section; {remedy}")
    })
}

/// What is wrong with a key that its section has not.
fn unknown_key(known: &RawValues, keys: &BTreeMap<String, String>, key: &str) -> Option<String> {
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
