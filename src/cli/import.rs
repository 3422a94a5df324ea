//! `import datasette` and `import grafana`

mod allow;
pub(crate) mod datasette;
mod grafana;
mod paths;
pub(crate) mod rules;
mod tokens;

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use jiff::Timestamp;
use serde_json::json;
use zeroize::Zeroizing;

use self::datasette::{DatasetteError, Sql};
use self::grafana::plan::{Plan, PlannedKey};
use self::grafana::transfer::{TokenFile, Transferred};
use self::grafana::{GrafanaError, database, transfer};
use self::rules::Version;
use super::admin_api::ServerArgs;
use super::table::TablePrinter;
use super::times::time_and_distance;
use super::{CliError, escape_controls, print, print_note};
use crate::config::{Errors, load_foreign};
use crate::file_problem::Unwritable;

#[derive(Debug, Subcommand)]
pub(super) enum ImportCommand {
    /// Convert a configuration of Datasette (datasette.yaml, metadata.yaml or .json)
    Datasette(Datasette),
    /// Convert Grafana's ldap.toml into the section `ldap`, or the auth.* sections of its ini file into `oauth`; or
    /// create the service accounts and API keys of its database file on a running server, with new tokens
    Grafana(Box<Grafana>),
}

/// The argument that says where the configuration is written.
#[derive(Debug, Args)]
struct Output {
    /// Write the configuration to this file, which must not exist, instead of standard output
    #[arg(id = "output", long, value_name = "FILE")]
    path: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct Grafana {
    /// The file: ldap.toml, grafana.ini, custom.ini or grafana.db
    file: PathBuf,
    /// Write the configuration to this file, which must not exist, instead of standard output.  For a database: write
    /// the new tokens to it, on each line a JSON object with `name`, `account`, `id` and `token`; only its owner can
    /// read it
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// For a database: the id of the organization whose accounts and keys are created
    #[arg(long, value_name = "ID")]
    org: Option<i64>,
    /// For a database: show what would be created, and create nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Debug, Args)]
pub(super) struct Datasette {
    /// The file
    file: PathBuf,
    #[command(flatten)]
    output: Output,
    /// Do not close the routes that `allow_sql` protects, because Datasette continues to enforce `allow_sql`
    #[arg(long)]
    datasette_guards_sql: bool,
    /// The version of Datasette that reads the file.  Without it a request is allowed only if both versions allow it
    #[arg(long, value_name = "VERSION")]
    datasette_version: Option<Version>,
}

/// The result of an import.
pub struct Imported {
    /// Our configuration as YAML.
    pub config: String,
    /// The parts that could not be expressed, and other differences; one line each.
    pub notes: Vec<String>,
}

/// Why a configuration of another program cannot be imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The file cannot be read, or is not valid.
    #[error("{0}")]
    Unreadable(#[source] Errors),
    /// The file is not valid, and looks like a template of one that is.
    #[error("{0}\nhelp: the file looks like a template: render it first, and import the result")]
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
    /// The file for the result is there.
    #[error("{} exists already and is not overwritten: give --output another file", .0.display())]
    OutputExists(PathBuf),
    /// The result cannot be written.
    #[error("cannot write {}: {}", file.display(), Unwritable(.source))]
    Output {
        /// The new file.
        file: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
}

impl ImportError {
    /// The result cannot be written into this new file.
    fn output(file: &Path, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::AlreadyExists => Self::OutputExists(file.to_owned()),
            _ => Self::Output { file: file.to_owned(), source },
        }
    }
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
        let failed = |source| ImportError::Grafana { file: self.file.clone(), source };
        let unreadable = |source| failed(GrafanaError::from(source));
        if self.is_database().map_err(unreadable)? {
            return self.run_database();
        }
        if self.org.is_some() || self.dry_run || self.server.wants_json() {
            return Err(failed(GrafanaError::NoDatabase).into());
        }
        // The password of the directory's reader may be in it, or secrets of clients.
        let imported = std::fs::read_to_string(&self.file)
            .map_err(GrafanaError::from)
            .and_then(|text| grafana::import(&Zeroizing::new(text)))
            .map_err(failed)?;
        Output { path: self.output }.write(&self.file, &imported)
    }

    fn is_database(&self) -> io::Result<bool> {
        let mut head = Vec::new();
        std::fs::File::open(&self.file)?.take(64).read_to_end(&mut head)?;
        Ok(database::is_database(&head))
    }

    fn run_database(self) -> Result<(), CliError> {
        let Self { file, output, org, dry_run, server } = self;
        let failed = |source| ImportError::Grafana { file: file.clone(), source };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let read = runtime.map_err(CliError::Runtime)?.block_on(database::read(&file));
        let now = Timestamp::now();
        let plan = read.and_then(|keys| Plan::new(&keys, org, now.as_second())).map_err(failed)?;
        if dry_run {
            print_plan(&plan, now)?;
            return Ok(());
        }
        let output = output.ok_or_else(|| failed(GrafanaError::NoOutput))?;
        let wants_json = server.wants_json();
        let api = server.open()?;
        let mut tokens = TokenFile::create(&output).map_err(|source| ImportError::output(&output, source))?;
        let done = transfer::transfer(&api, &plan, &mut tokens);
        // Without a token in it the file would only be in the way of the next try.
        if tokens.is_empty() {
            let _ = std::fs::remove_file(&output);
        }
        let done = done.map_err(failed)?;
        let Transferred { accounts, keys, failed: not_made } = done;
        if wants_json {
            print(&format!(
                "{}\n",
                json!({ "accounts": accounts, "keys": keys, "failed": not_made, "notes": plan.notes })
            ))?;
        } else {
            let tokens = if keys == 0 {
                format!("there are no new tokens, and no file {}", output.display())
            } else {
                format!("the new tokens are in {}", output.display())
            };
            print(&format!("{accounts} service accounts and {keys} keys are made; {tokens}.\n"))?;
            print_notes(&plan);
        }
        if not_made == 0 { Ok(()) } else { Err(failed(GrafanaError::NotAll(not_made)).into()) }
    }
}

fn print_plan(plan: &Plan, now: Timestamp) -> Result<(), CliError> {
    let expires = |key: &PlannedKey| {
        let at =
            key.seconds_to_live.and_then(|seconds| Timestamp::from_second(now.as_second() + seconds).ok());
        at.map_or_else(|| "No expiration date".to_owned(), |at| time_and_distance(now, at))
    };
    let mut printer = TablePrinter::new(["WHAT", "NAME", "ROLE", "STATUS", "EXPIRES"]);
    for account in &plan.accounts {
        let status = if account.is_disabled { "disabled" } else { "live" };
        let name = escape_controls(&account.name);
        printer.add(["account".to_owned(), name, account.role.clone(), status.to_owned(), String::new()])?;
        for token in &account.tokens {
            let name = escape_controls(&format!("{}/{}", account.name, token.name));
            let row = ["key".to_owned(), name, "account's".to_owned(), "live".to_owned(), expires(token)];
            printer.add(row)?;
        }
    }
    for (key, role) in &plan.keys {
        let name = escape_controls(&key.name);
        printer.add(["key".to_owned(), name, role.clone(), "live".to_owned(), expires(key)])?;
    }
    printer.finish("Nothing would be made.")?;
    print_notes(plan);
    Ok(())
}

fn print_notes(plan: &Plan) {
    for note in &plan.notes {
        print_note(&format!("- {note}"));
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
        .map_err(|source| ImportError::output(path, source))
}
