//! The command line.

mod check;
mod completions;
mod envoy;
mod error;
mod explain;
mod health;
pub(crate) mod import;
mod keys;
mod man;
mod password;
mod schema;
mod serve;
mod token;

use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use clap::{Args, Parser, Subcommand};

pub use self::error::{CliError, Input, InputError};
use crate::config::{Config, MAX_FILE_BYTES, Startup};
use crate::secret::Secret;

/// Envoy asks, this answers: an ext_authz gRPC server for API tokens.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Answer Envoy's Checks
    Serve(serve::Serve),
    /// Validate the configuration: exit 1 with every error
    Check(check::Check),
    /// Tell what would be decided about one request, and why
    Explain(Box<explain::Explain>),
    /// Make a token, or the digest of one
    #[command(subcommand)]
    Token(token::Token),
    /// Hash a password from standard input with argon2id
    Password(password::Password),
    /// Manage API keys through a running server's admin listener
    #[command(subcommand)]
    Keys(Box<keys::Keys>),
    /// Ask a running server whether it serves: exit 0 if so
    Health(health::Health),
    /// Print the Envoy configuration that fits this one
    Envoy(envoy::Envoy),
    /// Turn another program's configuration into one of ours
    #[command(subcommand)]
    Import(import::Import),
    /// Print the JSON Schema of the configuration, for editors
    Schema(schema::Schema),
    /// Print a script by which a shell completes our commands
    Completions(completions::Completions),
    /// Print a manual page
    Man(man::Man),
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

/// An error of `explain`, as it is printed.
type Complaint = String;

/// How a command ends that has printed all there is to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It succeeded.
    Success,
    /// It failed, and has reported why in the format that its arguments ask for.
    Failure,
    /// `explain --exit-code`: the request is denied.
    Denied,
}

/// Parses the command line and runs the command.  A command line that cannot be parsed ends the process with exit
/// code 2.
///
/// # Errors
/// [`CliError`]: the command failed, and the reason is yet to be printed.
pub fn run() -> Result<Outcome, CliError> {
    let done = match Cli::parse().command {
        Command::Serve(serve) => return serve.run(),
        Command::Check(check) => return check.run(),
        Command::Explain(explain) => return explain.run().map_err(CliError::Explain),
        Command::Token(token) => token.run(),
        Command::Password(password) => password.run(),
        Command::Keys(keys) => keys.run(),
        Command::Health(health) => health.run(),
        Command::Envoy(envoy) => envoy.run(),
        Command::Import(import) => import.run(),
        Command::Schema(schema) => schema.run(),
        Command::Completions(completions) => completions.run(),
        Command::Man(man) => man.run(),
    };
    done.map(|()| Outcome::Success)
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

/// Reads a secret from a file, or from standard input for `-`, without one trailing line ending.
///
/// # Errors
/// [`InputError`]: it cannot be read, or is empty, too large, or not UTF-8.
fn read_secret(what: &'static str, path: &Path) -> Result<Secret, InputError> {
    let from = Input::from_argument(path);
    let mut bytes = zeroize::Zeroizing::new(Vec::new());
    // One byte above the limit tells a secret that is too long from one that just fits.
    let limit = MAX_FILE_BYTES as u64 + 1;
    let read = match &from {
        Input::Stdin => std::io::stdin().take(limit).read_to_end(&mut bytes),
        Input::File(path) => {
            std::fs::File::open(path).and_then(|file| file.take(limit).read_to_end(&mut bytes))
        }
    };
    match read {
        Err(source) => return Err(InputError::Unreadable { what, from, source }),
        Ok(_) if bytes.len() > MAX_FILE_BYTES => return Err(InputError::TooLarge { what, from }),
        Ok(_) => {}
    }
    let text = match std::str::from_utf8(&bytes) {
        Ok(text) => text,
        Err(source) => return Err(InputError::NotUtf8 { what, from, source }),
    };
    let line = text.strip_suffix('\n').map_or(text, |line| line.strip_suffix('\r').unwrap_or(line));
    if line.is_empty() {
        return Err(InputError::Empty { what, from });
    }
    Ok(Secret::new(line.to_owned()))
}
