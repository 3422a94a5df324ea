//! The settings of the filter in Envoy's configuration: `filter_config`, as JSON.

use std::env;
use std::path::{Path, PathBuf};

use envoy_auth_tokens::config::{Listen, ListenError};
use envoy_auth_tokens::telemetry::decision_log::LogDecisions;
use envoy_auth_tokens::telemetry::logging::LogFormat;
use serde::Deserialize;

use crate::abi;

/// The environment variable that names the folder of configurations.
const FOLDER_VARIABLE: &str = "ENVOY_AUTH_TOKENS_FOLDER";
/// The default folder of configurations.
const DEFAULT_FOLDER: &str = "/etc/envoy-auth-tokens";

/// `filter_config` of a filter.  Filters with the same settings share one instance.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FilterSettings {
    /// The configuration's file.  Rules never are in Envoy's own configuration, which `/config_dump` shows.
    pub config: PathBuf,
    /// Whether the key store is read-only.  If not, the time of last use is written.
    #[serde(default = "yes")]
    pub read_only: bool,
    /// Where `/live`, `/ready` and `/metrics` are served, if anywhere.
    pub probes: Option<String>,
    /// Which decisions are logged, to standard error.
    #[serde(default = "no_decisions")]
    pub log_decisions: LogDecisions,
    /// How decisions are written.
    #[serde(default = "as_text")]
    pub log: LogFormat,
}

fn yes() -> bool {
    true
}

fn no_decisions() -> LogDecisions {
    LogDecisions::None
}

fn as_text() -> LogFormat {
    LogFormat::Text
}

/// Why a filter's settings are not valid.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// It is not JSON of this shape.
    #[error(
        "filter_config: {0}; expected JSON such as {{\"config\": \"/etc/envoy-auth-tokens/config.yaml\"}} in a StringValue"
    )]
    Shape(#[from] serde_json::Error),
    /// It is not text.
    #[error("filter_config is not UTF-8: it must be JSON text in a StringValue")]
    NotText,
    /// The file is outside the folder.  The error does not say whether the file exists: a person who may write a filter
    /// may not be allowed to read files.
    #[error(
        "filter_config: `config` must name a file in {folder}, or in the folder that the environment variable \
         {FOLDER_VARIABLE} of Envoy's process names"
    )]
    Elsewhere {
        /// The folder.
        folder: PathBuf,
    },
    /// The address of the probes is not valid.
    #[error("filter_config: probes: {0}")]
    Probes(#[from] ListenError),
}

impl FilterSettings {
    /// Reads the settings of a filter.
    ///
    /// # Errors
    /// [`SettingsError`].
    pub fn read(text: Option<&str>) -> Result<Self, SettingsError> {
        let mut settings: Self = serde_json::from_str(text.ok_or(SettingsError::NotText)?)?;
        let folder = env::var_os(FOLDER_VARIABLE).filter(|folder| !folder.is_empty());
        let folder = folder.map_or_else(|| PathBuf::from(DEFAULT_FOLDER), PathBuf::from);
        settings.config = within(&folder, &settings.config).ok_or(SettingsError::Elsewhere { folder })?;
        settings.probes()?;
        Ok(settings)
    }

    /// Where the probes are served.
    ///
    /// # Errors
    /// [`ListenError`], which [`FilterSettings::read`] has found already.
    pub fn probes(&self) -> Result<Option<Listen>, ListenError> {
        self.probes.as_deref().map(str::parse).transpose()
    }
}

/// The file, if it lies in this folder, links followed.  A file that does not exist yet is checked by its folder, so
/// that the configuration reports the error.
fn within(folder: &Path, file: &Path) -> Option<PathBuf> {
    let folder = folder.canonicalize().ok()?;
    let file = if file.is_absolute() { file.to_path_buf() } else { folder.join(file) };
    let real = match file.canonicalize() {
        Ok(real) => real,
        Err(_) => file.parent()?.canonicalize().ok()?.join(file.file_name()?),
    };
    // The name as written is kept: Kubernetes swaps a link on the way to the file, and a reload must follow it.
    real.starts_with(&folder).then_some(file)
}

/// The settings of a route for the filter.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouteSettings {
    /// The policy that governs the route's requests.  With ext_authz the route's `context_extensions` name it.
    pub policy: String,
}

impl RouteSettings {
    /// Reads the settings of a route.  An error is written into Envoy's log, and Envoy rejects the route.
    pub fn read_or_log(text: Option<&str>) -> Option<Self> {
        let read = text.ok_or_else(|| "it is not UTF-8".to_owned());
        let read = read.and_then(|text| serde_json::from_str(text).map_err(|error| error.to_string()));
        read.inspect_err(|error| {
            let expected = r#"expected JSON such as {"policy": "read"} in a StringValue"#;
            abi::log(
                abi::LogLevel::Error,
                &format!("envoy-auth-tokens: per-route filter_config: {error}; {expected}"),
            );
        })
        .ok()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_configuration_lies_in_the_folder_whatever_leads_there() {
        let (inside, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(inside.path().join("config.yaml"), "").unwrap();
        fs::write(outside.path().join("secret"), "").unwrap();
        std::os::unix::fs::symlink(outside.path().join("secret"), inside.path().join("link")).unwrap();
        let is_inside = |file: &Path| within(inside.path(), file).is_some();
        assert!(is_inside(Path::new("config.yaml")));
        assert!(is_inside(&inside.path().join("config.yaml")));
        assert!(is_inside(&inside.path().join("not-there-yet.yaml")));
        assert!(!is_inside(&outside.path().join("secret")));
        assert!(!is_inside(&outside.path().join("not-there")));
        assert!(!is_inside(&inside.path().join("link")));
        assert!(!is_inside(Path::new("../secret")));
        assert!(!is_inside(Path::new("/etc/passwd")));
    }

    #[test]
    fn a_route_names_a_policy_and_nothing_else() {
        let read = |text| serde_json::from_str::<RouteSettings>(text).map(|route| route.policy);
        assert_eq!(read(r#"{"policy": "read"}"#).unwrap(), "read");
        for wrong in ["{}", "", "[]", r#"{"policy": 1}"#, r#"{"polciy": "read"}"#, r#"{"policy":"a","x":1}"#]
        {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
