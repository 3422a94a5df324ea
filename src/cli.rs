//! The command line.

mod accounts;
mod admin_api;
mod check;
mod completions;
mod envoy;
mod examples;
mod explain;
mod grant_args;
mod health;
pub(crate) mod import;
mod init;
mod input;
mod keys;
mod man;
mod password;
mod schema;
mod serve;
mod table;
mod terminal;
mod times;
mod token;
mod token_output;

use std::io::{self, Write};
use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{ArgMatches, Args, FromArgMatches as _, Parser, Subcommand};

use self::accounts::AccountsError;
use self::admin_api::AdminApi;
pub use self::admin_api::{AdminApiError, AdminUrl, AdminUrlError};
use self::envoy::EnvoyError;
use self::health::HealthError;
use self::import::ImportError;
use self::init::InitError;
use self::input::read_secret;
pub use self::input::{Input, InputError};
use self::keys::KeysError;
use self::terminal::{escape_controls, in_shell, print_note};
use self::token_output::TokenOutputError;
use crate::app::ServeError;
use crate::config::{Config, Errors, Startup};
use crate::file_problem::Unwritable;
use crate::password::PasswordError;
use crate::telemetry::audit_log::AuditLogError;
use crate::token::TokenError;

/// An ext_authz gRPC server for Envoy: it checks API tokens and gives the upstream headers about the actor.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the server that answers Envoy's ext_authz requests (Checks)
    Serve(serve::ServeArgs),
    /// Validate the configuration and print every error and warning; exit 1 if there is an error
    Check(check::CheckArgs),
    /// Show how one request would be decided, and why
    Explain(Box<explain::ExplainArgs>),
    /// Write a first configuration of this server and the matching one of Envoy
    Init(init::InitArgs),
    /// Create a token, print the digest of a token, or check the format of a token
    #[command(subcommand)]
    Token(token::TokenCommand),
    /// Read a password from standard input or the terminal and print its argon2id hash
    Password(password::PasswordArgs),
    /// Manage API keys on a running server (through its admin listener), and their store
    #[command(subcommand)]
    Keys(Box<keys::KeysCommand>),
    /// Manage service accounts and their tokens on a running server (through its admin listener)
    #[command(subcommand)]
    Accounts(Box<accounts::AccountsCommand>),
    /// Check the health of a running server; exit 0 if it serves
    Health(health::HealthArgs),
    /// Print an Envoy configuration that matches this server's configuration
    Envoy(envoy::EnvoyArgs),
    /// Convert the configuration of another program
    #[command(subcommand)]
    Import(import::ImportCommand),
    /// Print the JSON Schema of the configuration, for editors
    Schema(schema::SchemaArgs),
    /// Print a script for completion in a shell
    Completions(completions::CompletionsArgs),
    /// Print a manual page
    Man(man::ManArgs),
}

/// The argument that names the configuration.
#[derive(Debug, Args)]
struct ConfigFile {
    /// The configuration file
    #[arg(
        id = "config",
        long,
        value_name = "PATH",
        env = "ENVOY_AUTH_TOKENS_CONFIG",
        default_value = "/etc/envoy-auth-tokens/config.yaml"
    )]
    path: PathBuf,
}

/// Why a command failed.
///
/// A text includes that of the cause; `source` gives the cause itself.  Commands with failures of their own have an error
/// type beside them.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The configuration is not valid, or cannot be read.
    #[error("{0}")]
    Configuration(#[from] Errors),
    /// `check --strict`: the configuration is valid, but has warnings.
    #[error("--strict: the warnings above are errors")]
    Warnings,
    /// `check --connect`: the configuration is valid, but not all that it names can be used.
    #[error("--connect: {failed} of {all} cannot be used")]
    Connections {
        /// How many cannot.
        failed: usize,
        /// How many were tried.
        all: usize,
    },
    /// Standard output cannot be written to.
    #[error("cannot write to standard output: {0}")]
    Output(#[source] io::Error),
    /// A token that is shown only once cannot be written.
    #[error("cannot write the token to {place}: {source}\n{lost}")]
    TokenLost {
        /// Standard output, or the path of a file.
        place: String,
        /// What is the case now, and what to do.
        lost: String,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The file for a token cannot be created.
    #[error("--output: {0}")]
    TokenOutput(#[from] TokenOutputError),
    /// Files cannot be written into a directory.
    #[error("cannot write into the folder {}: {}", path.display(), Unwritable(.source))]
    WriteInto {
        /// The directory.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// A manual page cannot be rendered.
    #[error("{0}")]
    Render(#[source] io::Error),
    /// A secret cannot be read.
    #[error("{0}")]
    Input(#[from] InputError),
    /// The runtime of a command cannot be started.
    #[error("cannot start the async runtime: {0}")]
    Runtime(#[source] io::Error),
    /// The worker threads of the server cannot be started.
    #[error("cannot start {workers} threads: {source}")]
    Workers {
        /// How many there should be.
        workers: usize,
        /// The error of the operating system.
        source: io::Error,
    },
    /// Signals cannot be received.
    #[error("cannot listen for signals: {0}")]
    Signals(#[source] io::Error),
    /// The audit log cannot be written.
    #[error("{0}")]
    AuditLog(#[from] AuditLogError),
    /// The server cannot start, or has stopped by itself.
    #[error("{0}")]
    Serve(#[from] ServeError),
    /// The operating system has no randomness to give.
    #[error("the operating system gives no randomness: {0}")]
    Randomness(#[source] getrandom::Error),
    /// `token new --prefix`: this is not a prefix.
    #[error("--prefix: a prefix has 1 to 32 letters and digits")]
    TokenPrefix,
    /// A text is not a token.
    #[error("{0}")]
    Token(#[from] TokenError),
    /// `password`: what was typed twice is not the same.
    #[error("the two passwords are not the same: no hash is printed; run the command again")]
    PasswordsDiffer,
    /// A password cannot be hashed.
    #[error("{0}")]
    Password(#[from] PasswordError),
    /// `health` fails.
    #[error("{0}")]
    Health(#[from] HealthError),
    /// `envoy` fails.
    #[error("{0}")]
    Envoy(#[from] EnvoyError),
    /// `import` fails.
    #[error("{0}")]
    Import(#[from] ImportError),
    /// `keys` fails.
    #[error("{0}")]
    Keys(#[from] KeysError),
    /// `accounts` fails.
    #[error("{0}")]
    Accounts(#[from] AccountsError),
    /// A call of the admin API fails.
    #[error("{0}")]
    AdminApi(#[from] AdminApiError),
    /// `init` fails.
    #[error("{0}")]
    Init(#[from] InitError),
    /// `explain` fails.
    #[error("{0}")]
    Explain(#[from] ExplainError),
}

impl CliError {
    /// The text for standard error, without a line ending.
    ///
    /// Diagnostics of a configuration begin with their own severity.
    pub fn report(&self) -> String {
        match self {
            Self::Configuration(_)
            | Self::Import(ImportError::Unreadable(_) | ImportError::Template(_))
            | Self::Explain(_) => self.to_string(),
            other => format!("error: {other}"),
        }
    }

    /// Whether the command line is at fault, and not what it met.
    fn is_usage(&self) -> bool {
        if let Self::AdminApi(error)
        | Self::Keys(KeysError::Api(error))
        | Self::Accounts(AccountsError::Api(error)) = self
        {
            error.is_usage()
        } else {
            false
        }
    }
}

/// Why a request cannot be explained.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ExplainError(String);

impl ExplainError {
    /// The text for programs: without the severity at its beginning.
    fn message(&self) -> &str {
        self.0.strip_prefix("error: ").unwrap_or(&self.0)
    }
}

impl From<String> for ExplainError {
    fn from(message: String) -> Self {
        Self(message)
    }
}

impl From<&str> for ExplainError {
    fn from(message: &str) -> Self {
        Self(message.to_owned())
    }
}

impl From<CliError> for ExplainError {
    fn from(error: CliError) -> Self {
        Self(error.report())
    }
}

impl From<InputError> for ExplainError {
    fn from(error: InputError) -> Self {
        CliError::from(error).into()
    }
}

/// How a command ends that has printed all there is to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommandOutcome {
    /// It succeeded.
    Success,
    /// It failed, and has reported why in the format that its arguments ask for.
    Failure,
    /// The result is negative.  `explain --exit-code`: the request is denied; `token check`: the text is not one of our tokens.
    Denied,
}

/// Parses the command line and runs the command.  A command line that cannot be parsed ends the process with exit
/// code 2.
///
/// # Errors
/// [`CliError`]: the command failed, and the reason is yet to be printed.
pub fn run() -> Result<CommandOutcome, CliError> {
    let matches = examples::command().get_matches();
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let done = match cli.command {
        Command::Serve(serve) => return serve.run(),
        Command::Check(check) => return check.run(),
        Command::Explain(explain) => return Ok(explain.run()?),
        Command::Token(token) => return token.run(),
        Command::Init(init) => init.run(),
        Command::Password(password) => password.run(),
        Command::Keys(keys) => keys.run(),
        Command::Accounts(accounts) => accounts.run(),
        Command::Health(health) => health.run(),
        Command::Envoy(envoy) => envoy.run(),
        Command::Import(import) => import.run(),
        Command::Schema(schema) => schema.run(),
        Command::Completions(completions) => completions.run(),
        Command::Man(man) => man.run(),
    };
    match done {
        Err(CliError::Keys(error @ KeysError::DryRunOfNames)) => {
            let error: clap::Error = clap::Error::raw(ErrorKind::ArgumentConflict, format!("{error}\n"));
            error.exit()
        }
        // As clap tells that an argument is missing, and with its exit code.
        Err(error) if error.is_usage() => {
            subcommand(&matches).error(ErrorKind::MissingRequiredArgument, error).exit()
        }
        done => done.map(|()| CommandOutcome::Success),
    }
}

/// The command that these matches are of, such as `keys create`.
fn subcommand(mut matches: &ArgMatches) -> clap::Command {
    let mut command = examples::command();
    // Gives each command the names of those above it, for the usage.
    command.build();
    while let Some((name, below)) = matches.subcommand() {
        let Some(found) = command.find_subcommand(name).cloned() else { break };
        (command, matches) = (found, below);
    }
    command
}

impl ConfigFile {
    fn load(&self) -> Result<Config, CliError> {
        Ok(Config::load(&self.path)?)
    }

    fn load_listeners(&self) -> Result<Startup, CliError> {
        Ok(Config::load_listeners(&self.path)?)
    }
}

/// Prints to standard output.  A closed pipe is not an error: the reader has seen enough.
fn print(text: &str) -> Result<(), CliError> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(CliError::Output(error)),
        Ok(()) | Err(_) => Ok(()),
    }
}
