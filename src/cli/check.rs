//! `check`

mod connect;

use std::io::Write;
use std::path::Path;

use clap::Args;
use serde_json::{Value, json};

use self::connect::Connection;
use super::{CliError, CommandOutcome, ConfigFile, print};
use crate::config::{Config, Diagnostic, Severity};

#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    #[command(flatten)]
    config: ConfigFile,
    /// Treat warnings as errors: exit 1 if there is one
    #[arg(long)]
    strict: bool,
    /// Print the result and every diagnostic as JSON
    #[arg(long)]
    json: bool,
    /// Also try the folders of sockets, the key store, each server of the directory and each provider; exit 1 if one cannot
    /// be used
    #[arg(long)]
    connect: bool,
}

impl CheckArgs {
    pub(super) fn run(self) -> Result<CommandOutcome, CliError> {
        let loaded = Config::load(&self.config.path);
        let diagnostics: Vec<&Diagnostic> = match &loaded {
            Ok(config) => config.warnings.iter().collect(),
            Err(errors) => errors.iter().collect(),
        };
        let connections = match &loaded {
            Ok(config) if self.connect => Some(try_connections(config)?),
            Ok(_) | Err(_) => None,
        };
        let failed = connections.iter().flatten().filter(|connection| !connection.answers()).count();
        let is_accepted = loaded.is_ok() && (diagnostics.is_empty() || !self.strict);
        let passes = is_accepted && failed == 0;
        let outcome = if passes { CommandOutcome::Success } else { CommandOutcome::Failure };
        if self.json {
            let mut report = report(&self.config.path, loaded.as_ref().ok(), &diagnostics);
            if let Some(connections) = &connections {
                report["connections"] = connections.iter().map(Connection::to_json).collect();
            }
            return print(&format!("{report:#}\n")).map(|()| outcome);
        }
        let config = loaded?;
        let diagnostics: Vec<_> = config.warnings.iter().map(ToString::to_string).collect();
        if !diagnostics.is_empty() {
            // Standard error may be closed: the exit code still tells.
            let _ = writeln!(std::io::stderr(), "{}", diagnostics.join("\n\n"));
        }
        let lines: String = connections.iter().flatten().map(Connection::line).collect();
        print(&(summary(&self.config.path, &config) + &lines))?;
        if !is_accepted {
            return Err(CliError::Warnings);
        }
        match (failed, &connections) {
            (1.., Some(connections)) => Err(CliError::Connections { failed, all: connections.len() }),
            _ => Ok(outcome),
        }
    }
}

fn try_connections(config: &Config) -> Result<Vec<Connection>, CliError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    Ok(runtime.map_err(CliError::Runtime)?.block_on(connect::try_all(config)))
}

fn summary(path: &Path, config: &Config) -> String {
    let count = |number: usize, one: &str, many: &str| match number {
        1 => format!("1 {one}"),
        number => format!("{number} {many}"),
    };
    format!(
        "{} is valid: {}, {}, {}, {}, {}\n",
        path.display(),
        count(config.rules.tokens.len(), "token", "tokens"),
        count(config.rules.users.len(), "user", "users"),
        count(config.rules.policies.named_len(), "policy", "policies"),
        count(config.rules.policies.routes().len(), "route", "routes"),
        count(config.warnings.len(), "warning", "warnings"),
    )
}

/// The outcome as JSON, for programs: its members do not change.
fn report(path: &Path, config: Option<&Config>, diagnostics: &[&Diagnostic]) -> Value {
    let counts = config.map(|config| {
        json!({
            "tokens": config.rules.tokens.len(),
            "users": config.rules.users.len(),
            "policies": config.rules.policies.named_len(),
            "routes": config.rules.policies.routes().len(),
        })
    });
    let number = |severity| diagnostics.iter().filter(|diagnostic| diagnostic.severity == severity).count();
    json!({
        "configuration": path.display().to_string(),
        "valid": config.is_some(),
        "errors": number(Severity::Error),
        "warnings": number(Severity::Warning),
        "configured": counts,
        "diagnostics": diagnostics.iter().map(|diagnostic| json!({
            "severity": diagnostic.severity.to_string(),
            "file": diagnostic.file.display().to_string(),
            "line": diagnostic.position.map(|position| position.line),
            "column": diagnostic.position.map(|position| position.column),
            "key": diagnostic.key,
            "message": diagnostic.message,
        })).collect::<Vec<_>>(),
    })
}
