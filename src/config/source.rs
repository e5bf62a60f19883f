//! Where the values come from.

use std::path::Path;

use super::Config;

/// Every mistake in the configuration, one a line: section, key, and what would be right.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct ConfigError(pub Vec<String>);

/// Reads the defaults, then `file`, then the `OXIPUSH__SECTION__KEY` of `environment`.
///
/// # Errors
/// All mistakes at once.
pub fn load(
    file: Option<&Path>,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<Config, ConfigError> {
    let _ = (file, environment.into_iter());
    todo!()
}
