//! `import datasette`

mod allow;
pub(crate) mod datasette;
mod paths;
pub(crate) mod rules;
mod tokens;

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use self::datasette::{Imported, Sql};
use self::rules::Version;
use super::{Complaint, print};
use crate::config::load_foreign;

#[derive(Debug, Subcommand)]
pub(super) enum Import {
    /// Turn a Datasette configuration (datasette.yaml, metadata.yaml or .json) into one of ours
    Datasette(Datasette),
}

#[derive(Debug, Args)]
pub(super) struct Datasette {
    /// The file
    file: PathBuf,
    /// Write the configuration into this file, which must not exist, instead of standard output
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Datasette goes on enforcing its `allow_sql`, so leave open what would be closed for its sake
    #[arg(long)]
    datasette_guards_sql: bool,
    /// The Datasette that reads the file; without it nothing is opened that either of them denies
    #[arg(long, value_name = "VERSION")]
    datasette_version: Option<Version>,
}

impl Import {
    pub(super) fn run(self) -> Result<(), Complaint> {
        match self {
            Self::Datasette(datasette) => datasette.run(),
        }
    }
}

impl Datasette {
    fn run(self) -> Result<(), Complaint> {
        let shown = self.file.display();
        let document = load_foreign(&self.file).map_err(|errors| self.explained(&errors.to_string()))?;
        let sql = if self.datasette_guards_sql { Sql::GuardedByDatasette } else { Sql::NotGuarded };
        let Imported { config, report } = datasette::import(&document, sql, self.datasette_version)
            .map_err(|complaint| format!("error: {shown} cannot be imported: {complaint}"))?;
        match &self.output {
            Some(path) => write_new(path, &config)?,
            None => print(&config)?,
        }
        // Standard error may be closed: the configuration is written all the same.
        let mut stderr = std::io::stderr();
        let _ = writeln!(stderr, "{shown} is imported.  What you should know:");
        for line in &report {
            let _ = writeln!(stderr, "- {line}");
        }
        Ok(())
    }
}

impl Datasette {
    /// What is wrong with the file, and a word more where it is no YAML because it is yet to become some.
    fn explained(&self, errors: &str) -> String {
        let text = std::fs::read_to_string(&self.file).unwrap_or_default();
        if ["{{", "{%"].iter().any(|sign| text.contains(sign)) {
            return format!(
                "{errors}\nhelp: it looks like a template: render it first, and import what comes out"
            );
        }
        errors.to_owned()
    }
}

fn write_new(path: &Path, text: &str) -> Result<(), Complaint> {
    std::fs::File::create_new(path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(|error| format!("error: cannot write {}: {error}", path.display()))
}
