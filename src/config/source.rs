//! Where the values come from, layer over layer: the compiled-in config.ini, a file, the environment.

use std::{
    collections::{BTreeMap, HashMap},
    fmt::Display,
    fs,
    path::Path,
};

use config::{Environment, File, FileFormat};

use super::{Config, reader::Reader, tables};

/// The repository's config.ini: every key with its default.
pub const DEFAULTS: &str = include_str!("../../config.ini");

const PREFIX: &str = "OXIPUSH__";

/// Every mistake in the configuration, one a line: section, key, and what would be right.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct ConfigError(pub Vec<String>);

/// The values by section and key, before they mean anything.
pub(super) type Values = BTreeMap<String, BTreeMap<String, String>>;

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
    Layers::read(file, environment)?.check()
}

/// One key with the value that is used, for `check-config`: secrets show as `***`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
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
) -> Result<Vec<Setting>, ConfigError> {
    let layers = Layers::read(file, environment)?;
    layers.check()?;
    let mut settings = Vec::new();
    let mut section = "";
    for line in DEFAULTS.lines() {
        if let Some(name) = line.strip_prefix('[') {
            section = name.trim_end_matches(']');
        } else if let Some((key, default)) = line.split_once('=').filter(|_| !line.starts_with(';')) {
            let (key, default) = (key.trim(), default.trim().to_owned());
            let value = layers.values.get(section).and_then(|keys| keys.get(key)).map_or("", String::as_str);
            let value = masked(section, key, value.trim());
            settings.push(Setting { section: section.to_owned(), key: key.to_owned(), value, default });
        }
    }
    Ok(settings)
}

fn masked(section: &str, key: &str, value: &str) -> String {
    match (section, key) {
        _ if value.is_empty() => String::new(),
        ("auth", "keys") => value.split(',').map(|_| "***").collect::<Vec<_>>().join(", "),
        ("cluster", "password") => "***".into(),
        _ => value.to_owned(),
    }
}

/// The values of all layers, laid over each other.
struct Layers {
    values: Values,
    faults: Vec<String>,
}

impl Layers {
    fn read(file: Option<&Path>, environment: impl IntoIterator<Item = (String, String)>) -> Result<Self, ConfigError> {
        let (known, _) = values(File::from_str(DEFAULTS, FileFormat::Ini))
            .expect("invariant: the compiled-in config.ini is well-formed");
        let mut faults = Vec::new();
        let mut layers = known.clone();
        if let Some(path) = file {
            let cannot = |error: &dyn Display| ConfigError(vec![format!("{} cannot be read: {error}", path.display())]);
            let text = fs::read_to_string(path).map_err(|error| cannot(&error))?;
            let source = File::from_str(text.trim_start_matches('\u{feff}'), FileFormat::Ini);
            let (read, stray) = values(source).map_err(|error| cannot(&error))?;
            faults.extend(stray.iter().map(|key| format!("{key}: it stands in no section; write [section] above it")));
            overlay(&mut layers, read, &known, &mut faults, |section, key| format!("[{section}] {key}"));
        }
        let environment: HashMap<_, _> = environment.into_iter().filter(|(name, _)| name.starts_with(PREFIX)).collect();
        let garbled = environment.iter().filter(|(_, value)| value.contains(char::REPLACEMENT_CHARACTER));
        faults.extend(garbled.map(|(name, _)| format!("{name}: its value is not UTF-8 text")));
        let source =
            Environment::with_prefix("OXIPUSH").prefix_separator("__").separator("__").source(Some(environment));
        match values(source) {
            Ok((read, stray)) => {
                let named = stray.iter().map(|name| format!("{PREFIX}{}", name.to_uppercase()));
                faults.extend(named.map(|name| format!("{name}: it names no key; write OXIPUSH__SECTION__KEY")));
                overlay(&mut layers, read, &known, &mut faults, |section, key| {
                    format!("{PREFIX}{}__{}", section.to_uppercase(), key.to_uppercase())
                });
            }
            Err(error) => faults.push(format!("the OXIPUSH__ variables cannot be read: {error}")),
        }
        Ok(Self { values: layers, faults })
    }

    /// What they mean.
    fn check(&self) -> Result<Config, ConfigError> {
        let mut reader = Reader::new(&self.values, self.faults.clone());
        let config = tables::read(&mut reader);
        reader.finish(config)
    }
}

/// The values of one layer, and what stands beside its sections.
fn values(source: impl config::Source + Send + Sync + 'static) -> Result<(Values, Vec<String>), config::ConfigError> {
    let all: BTreeMap<String, config::Value> =
        config::Config::builder().add_source(source).build()?.try_deserialize()?;
    let (mut values, mut stray) = (Values::new(), Vec::new());
    for (name, keys) in all {
        match keys.try_deserialize() {
            Ok(keys) => drop(values.insert(name, keys)),
            Err(_) => stray.push(name),
        }
    }
    Ok((values, stray))
}

fn overlay(
    layers: &mut Values,
    read: Values,
    known: &Values,
    faults: &mut Vec<String>,
    name: impl Fn(&str, &str) -> String,
) {
    for (section, keys) in read {
        for (key, value) in keys {
            match known.get(&section).map(|keys| keys.contains_key(&key)) {
                Some(true) => {
                    layers.entry(section.clone()).or_default().insert(key, value);
                }
                Some(false) => {
                    let nearest = nearest(&key, known[&section].keys());
                    faults.push(format!("{}: there is no such key; did you mean {nearest}?", name(&section, &key)));
                }
                None => {
                    let nearest = nearest(&section, known.keys());
                    faults
                        .push(format!("{}: there is no such section; did you mean [{nearest}]?", name(&section, &key)));
                }
            }
        }
    }
}

/// The known name that shares most letters, in order, with `name`.
fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a String>) -> &'a str {
    let likeness = |other: &str| {
        let mut rest = other.chars();
        let shared = name.chars().filter(|c| rest.clone().any(|o| o == *c) && rest.any(|o| o == *c)).count();
        (2 * shared as isize) - (other.len() as isize - name.len() as isize).abs()
    };
    known.max_by_key(|other| likeness(other)).map_or("", String::as_str)
}
