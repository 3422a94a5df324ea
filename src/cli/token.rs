//! `token new` and `token hash`

use std::path::Path;

use clap::{Args, Subcommand};

use super::{CliError, print, read_secret};
use crate::actor::ascii_json;
use crate::token::{self, PlainToken};

#[derive(Debug, Subcommand)]
pub(super) enum TokenCommand {
    /// Make a token: print it once, and the entry for the configuration that knows its digest alone
    New(NewTokenArgs),
    /// Read a token from standard input and print the entry for the configuration
    Hash(HashTokenArgs),
}

#[derive(Debug, Args)]
pub(super) struct NewTokenArgs {
    /// What the token begins with: 1 to 32 letters and digits
    #[arg(long, default_value = "eat")]
    prefix: String,
    /// The entry's name, for logs and metrics
    #[arg(long)]
    name: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct HashTokenArgs {
    /// The entry's name, for logs and metrics
    #[arg(long)]
    name: Option<String>,
}

impl TokenCommand {
    pub(super) fn run(self) -> Result<(), CliError> {
        match self {
            Self::New(new) => new.run(),
            Self::Hash(hash) => hash.run(),
        }
    }
}

impl NewTokenArgs {
    fn run(self) -> Result<(), CliError> {
        let is_prefix = (1..=32).contains(&self.prefix.len())
            && self.prefix.bytes().all(|byte| byte.is_ascii_alphanumeric());
        if !is_prefix {
            return Err(CliError::TokenPrefix);
        }
        let token = token::generate(&self.prefix).map_err(CliError::Randomness)?;
        let entry = entry(token.expose(), self.name.as_deref())?;
        print(&format!(
            "# The token.  It is shown this once and kept nowhere:\n{}\n\n\
             # Its entry under `tokens`.  Say who the actor is:\n{entry}",
            token.expose()
        ))
    }
}

impl HashTokenArgs {
    fn run(self) -> Result<(), CliError> {
        let token = read_secret("token", Path::new("-"))?;
        print(&entry(token.expose(), self.name.as_deref())?)
    }
}

fn entry(token: &str, name: Option<&str>) -> Result<String, CliError> {
    let digest = PlainToken::new(token.as_bytes())?.digest().to_hex();
    // JSON is YAML: quoted like this, a name can hold anything.
    let name = name.map(|name| format!("name: {}\n  ", ascii_json(&name))).unwrap_or_default();
    Ok(format!("- {name}sha256: {digest}\n  actor: {{id: CHANGE-ME}}\n"))
}
