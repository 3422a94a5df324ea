//! The command line.

mod check;
mod completions;
mod envoy;
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
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

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

/// Where the configuration is.
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

/// What a person is told instead of a result.
type Complaint = String;

/// Parses the command line, runs the command, and picks the exit code:
/// 0 for success, 1 for failure, 2 for a command line that makes no sense, 3 for a denial where asked for.
pub fn run() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Serve(serve) => return exit_code(serve.run()),
        Command::Check(check) => return exit_code(check.run()),
        Command::Explain(explain) => return exit_code(explain.run()),
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
    exit_code(done.map(|()| ExitCode::SUCCESS))
}

fn exit_code(done: Result<ExitCode, Complaint>) -> ExitCode {
    match done {
        Ok(code) => code,
        Err(complaint) => {
            // Standard error may be closed: the exit code still tells.
            let _ = writeln!(std::io::stderr(), "{}", complaint.trim_end());
            ExitCode::FAILURE
        }
    }
}

impl ConfigFile {
    fn load(&self) -> Result<Config, Complaint> {
        Config::load(&self.path).map_err(|errors| errors.to_string())
    }

    fn load_listeners(&self) -> Result<Startup, Complaint> {
        Config::load_listeners(&self.path).map_err(|errors| errors.to_string())
    }
}

/// Prints to standard output.  A closed pipe is the reader's choice and no error.
fn print(text: &str) -> Result<(), Complaint> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(format!("error: cannot write to standard output: {error}"))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Reads a secret from a file, or from standard input for `-`, less one line ending.
fn read_secret(what: &str, path: &Path) -> Result<Secret, Complaint> {
    let mut bytes = zeroize::Zeroizing::new(Vec::new());
    // One byte more tells what is too long from what is just as long.
    let longest = MAX_FILE_BYTES as u64 + 1;
    let read = if path == Path::new("-") {
        std::io::stdin().take(longest).read_to_end(&mut bytes)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(longest).read_to_end(&mut bytes))
    };
    let from = if path == Path::new("-") { "standard input".to_owned() } else { path.display().to_string() };
    read.map_err(|error| format!("error: cannot read the {what} from {from}: {error}"))?;
    if bytes.len() > MAX_FILE_BYTES {
        return Err(format!("error: the {what} from {from} is larger than {MAX_FILE_BYTES} bytes"));
    }
    let text =
        std::str::from_utf8(&bytes).map_err(|_| format!("error: the {what} from {from} is not UTF-8"))?;
    let line = text.strip_suffix('\n').map_or(text, |line| line.strip_suffix('\r').unwrap_or(line));
    if line.is_empty() {
        return Err(format!("error: the {what} from {from} is empty"));
    }
    Ok(Secret::new(line.to_owned()))
}
