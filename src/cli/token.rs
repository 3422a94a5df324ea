//! `token new`, `token hash` and `token check`

use std::fmt::Display;

use clap::{Args, Subcommand};

use super::admin_api::read_secret_or_ask;
use super::token_output::TokenOutputArgs;
use super::{CliError, CommandOutcome, InputError, print};
use crate::actor::ascii_json;
use crate::token::{self, FormatError, PlainToken};

#[derive(Debug, Subcommand)]
pub(super) enum TokenCommand {
    /// Create a token: print it once to standard output, and print its entry for the configuration, which has only
    /// the digest, to standard error
    New(NewTokenArgs),
    /// Read a token from standard input and print the entry for the configuration
    Hash(HashTokenArgs),
    /// Read a text from standard input and check whether it has the format of issued tokens with a correct checksum:
    /// exit 0 if so, 3 if not.  No server is asked
    Check(CheckTokenArgs),
}

#[derive(Debug, Args)]
pub(super) struct NewTokenArgs {
    /// The text with which the token begins: 1 to 32 letters and digits
    #[arg(long, default_value = "eat")]
    prefix: String,
    /// The name of the entry, for logs and metrics
    #[arg(long)]
    name: Option<String>,
    #[command(flatten)]
    output: TokenOutputArgs,
}

#[derive(Debug, Args)]
pub(super) struct HashTokenArgs {
    /// The name of the entry, for logs and metrics
    #[arg(long)]
    name: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct CheckTokenArgs {}

impl TokenCommand {
    pub(super) fn run(self) -> Result<CommandOutcome, CliError> {
        match self {
            Self::New(new) => new.run()?,
            Self::Hash(hash) => hash.run()?,
            Self::Check(check) => return check.run(),
        }
        Ok(CommandOutcome::Success)
    }
}

impl NewTokenArgs {
    fn run(self) -> Result<(), CliError> {
        let is_prefix = (1..=32).contains(&self.prefix.len())
            && self.prefix.bytes().all(|byte| byte.is_ascii_alphanumeric());
        if !is_prefix {
            return Err(CliError::TokenPrefix);
        }
        let mut output = self.output.open()?;
        let token = token::generate(&self.prefix).map_err(CliError::Randomness)?;
        let entry = entry(token.expose(), self.name.as_deref())?;
        let about = format!(
            "# The entry for `tokens`.  Replace CHANGE-ME with the id of the actor:\n{entry}\n# The token"
        );
        let lost = || "The token is lost: run the command again.".to_owned();
        output.write_with_note(&about, &format!("{}\n", token.expose()), lost)
    }
}

impl HashTokenArgs {
    fn run(self) -> Result<(), CliError> {
        let token = read_secret_or_ask("token", "Token: ")?;
        print(&entry(token.expose(), self.name.as_deref())?)
    }
}

impl CheckTokenArgs {
    fn run(self) -> Result<CommandOutcome, CliError> {
        let text = match read_secret_or_ask("token", "Token: ") {
            Ok(text) => text,
            Err(error @ InputError::Unreadable { .. }) => return Err(error.into()),
            Err(
                error @ (InputError::Empty { .. } | InputError::NotUtf8 { .. } | InputError::TooLarge { .. }),
            ) => return none_of_ours(&error),
        };
        let format = match PlainToken::new(text.expose().as_bytes()) {
            Ok(token) => token.issued_prefix(),
            Err(_) => Err(FormatError::Shape),
        };
        match format {
            // Where the checksum is right, the prefix is one, and not a part of some other secret.
            Ok(prefix) => {
                print(&format!(
                    "This is a token in the format of envoy-auth-tokens, with the prefix {prefix} and a correct checksum.\n\
                     `envoy-auth-tokens keys find` shows whether it is valid, and who owns it.\n"
                ))?;
                Ok(CommandOutcome::Success)
            }
            Err(error) => none_of_ours(&error),
        }
    }
}

fn none_of_ours(why: &impl Display) -> Result<CommandOutcome, CliError> {
    print(&format!("This is not a token in the format of envoy-auth-tokens: {why}.\n"))?;
    Ok(CommandOutcome::Denied)
}

fn entry(token: &str, name: Option<&str>) -> Result<String, CliError> {
    let digest = PlainToken::new(token.as_bytes())?.digest().to_hex();
    // JSON is YAML: quoted like this, a name can hold anything.
    let name = name.map(|name| format!("name: {}\n  ", ascii_json(&name))).unwrap_or_default();
    Ok(format!("- {name}sha256: {digest}\n  actor: {{id: CHANGE-ME}}\n"))
}
