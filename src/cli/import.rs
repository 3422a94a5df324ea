//! `import datasette` and `import grafana`

mod allow;
pub(crate) mod datasette;
mod grafana;
mod paths;
pub(crate) mod rules;
mod tokens;

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use zeroize::Zeroizing;

use self::datasette::{DatasetteError, Sql};
use self::grafana::GrafanaError;
use self::rules::Version;
use super::{CliError, print};
use crate::config::{Errors, load_foreign};

#[derive(Debug, Subcommand)]
pub(super) enum ImportCommand {
    /// Turn a Datasette configuration (datasette.yaml, metadata.yaml or .json) into one of ours
    Datasette(Datasette),
    /// Turn Grafana's ldap.toml into our section `ldap`, or the auth.* sections of its ini file into `oauth`
    Grafana(Grafana),
}

/// The argument that says where the configuration is written.
#[derive(Debug, Args)]
struct Output {
    /// Write the configuration into this file, which must not exist, instead of standard output
    #[arg(id = "output", long, value_name = "FILE")]
    path: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct Grafana {
    /// The file: ldap.toml, grafana.ini or custom.ini
    file: PathBuf,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Args)]
pub(super) struct Datasette {
    /// The file
    file: PathBuf,
    #[command(flatten)]
    output: Output,
    /// Datasette goes on enforcing its `allow_sql`, so leave open what would be closed for its sake
    #[arg(long)]
    datasette_guards_sql: bool,
    /// The Datasette that reads the file; without it nothing is opened that either of them denies
    #[arg(long, value_name = "VERSION")]
    datasette_version: Option<Version>,
}

/// The result of an import.
pub struct Imported {
    /// Our configuration as YAML.
    pub config: String,
    /// What could not be expressed, and what else is different; one line each.
    pub notes: Vec<String>,
}

/// Why a configuration of another program cannot be imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The file cannot be read, or is not valid.
    #[error("{0}")]
    Unreadable(#[source] Errors),
    /// The file is not valid, and looks like a template of one that is.
    #[error("{0}\nhelp: it looks like a template: render it first, and import what comes out")]
    Template(#[source] Errors),
    /// The file is valid, but has no translation.
    #[error("{} cannot be imported: {source}", file.display())]
    Datasette {
        /// The file.
        file: PathBuf,
        /// Why not.
        source: DatasetteError,
    },
    /// The file of Grafana's cannot be read, or has no translation.
    #[error("{} cannot be imported: {source}", file.display())]
    Grafana {
        /// The file.
        file: PathBuf,
        /// Why not.
        source: GrafanaError,
    },
    /// The result cannot be written.
    #[error("cannot write {}: {source}", file.display())]
    Output {
        /// The new file.
        file: PathBuf,
        /// What the operating system says.
        source: io::Error,
    },
}

impl ImportCommand {
    pub(super) fn run(self) -> Result<(), CliError> {
        match self {
            Self::Datasette(datasette) => datasette.run(),
            Self::Grafana(grafana) => grafana.run(),
        }
    }
}

impl Datasette {
    fn run(self) -> Result<(), CliError> {
        let document = load_foreign(&self.file).map_err(|errors| self.unreadable(errors))?;
        let sql = if self.datasette_guards_sql { Sql::GuardedByDatasette } else { Sql::NotGuarded };
        let imported = datasette::import(&document, sql, self.datasette_version)
            .map_err(|source| ImportError::Datasette { file: self.file.clone(), source })?;
        self.output.write(&self.file, &imported)
    }

    /// The error for a file that is not valid.
    fn unreadable(&self, errors: Errors) -> ImportError {
        let text = std::fs::read_to_string(&self.file).unwrap_or_default();
        let is_template = ["{{", "{%"].iter().any(|delimiter| text.contains(delimiter));
        if is_template { ImportError::Template(errors) } else { ImportError::Unreadable(errors) }
    }
}

impl Grafana {
    fn run(self) -> Result<(), CliError> {
        // The password of the directory's reader may stand in it, or secrets of clients.
        let imported = std::fs::read_to_string(&self.file)
            .map_err(GrafanaError::from)
            .and_then(|text| grafana::import(&Zeroizing::new(text)))
            .map_err(|source| ImportError::Grafana { file: self.file.clone(), source })?;
        self.output.write(&self.file, &imported)
    }
}

impl Output {
    /// Writes the configuration, and the notes to standard error.
    fn write(&self, imported_file: &Path, imported: &Imported) -> Result<(), CliError> {
        match &self.path {
            Some(path) => write_new(path, &imported.config)?,
            None => print(&imported.config)?,
        }
        // Standard error may be closed: the configuration is written by now.
        let mut stderr = std::io::stderr();
        let _ = writeln!(stderr, "{} is imported.  What you should know:", imported_file.display());
        for note in &imported.notes {
            let _ = writeln!(stderr, "- {note}");
        }
        Ok(())
    }
}

fn write_new(path: &Path, text: &str) -> Result<(), ImportError> {
    std::fs::File::create_new(path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(|source| ImportError::Output { file: path.to_owned(), source })
}
