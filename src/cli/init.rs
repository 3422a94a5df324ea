//! `init`: a first configuration, and Envoy's side of it.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::Args;

use super::CliError;
use super::envoy::{self, Endpoint};
use super::token_output::TokenOutputArgs;
use crate::config::Config;
use crate::file_problem::Unwritable;
use crate::token::{self, PlainToken};

#[derive(Debug, Args)]
pub(super) struct InitArgs {
    /// The folder for config.yaml and envoy.yaml; it is created if it does not exist
    #[arg(value_name = "DIR", default_value = ".")]
    folder: PathBuf,
    /// The address at which Envoy listens: HOST:PORT
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:10000")]
    listen: Endpoint,
    /// The address of the application behind Envoy: HOST:PORT, unix:/path or unix:@name
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    upstream: Endpoint,
    #[command(flatten)]
    output: TokenOutputArgs,
}

/// Why no first configuration is written.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// A file is there already.
    #[error("{} exists already: nothing is written; remove it, or name another folder", .0.display())]
    Exists(PathBuf),
    /// A file or the folder cannot be written.
    #[error("cannot write {}: {}", path.display(), Unwritable(.source))]
    Write {
        /// The file or the folder.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
}

impl InitArgs {
    pub(super) fn run(self) -> Result<(), CliError> {
        let (config, envoy) = (self.folder.join("config.yaml"), self.folder.join("envoy.yaml"));
        for path in [&config, &envoy] {
            // A link that leads nowhere is there, too.
            if path.symlink_metadata().is_ok() {
                return Err(InitError::Exists(path.clone()).into());
            }
        }
        let failed = |source| InitError::Write { path: self.folder.clone(), source };
        fs::create_dir_all(&self.folder).map_err(failed)?;
        let mut output = self.output.open()?;
        let token = token::generate("eat").map_err(CliError::Randomness)?;
        let digest = PlainToken::new(token.expose().as_bytes())?.digest().to_hex();
        write_new(&config, &config_text(&config, &digest))?;
        if let Err(error) = write_envoy(&config, &envoy, &self.listen, &self.upstream) {
            // Without the other half, and with a token that was never shown, it would only be in the way.
            let _ = fs::remove_file(&config);
            return Err(error);
        }
        let about = format!(
            "{} and {} are written.  Next:\n  \
             envoy-auth-tokens serve --config {}\n  \
             envoy --config-path {}\n  \
             curl {}\n\
             config.yaml has only the digest of the token.  The token",
            config.display(),
            envoy.display(),
            config.display(),
            envoy.display(),
            curl_arguments(&self.listen),
        );
        let lost = || {
            format!(
                "The token is lost: remove {} and {}, and run init again.",
                config.display(),
                envoy.display()
            )
        };
        output.write_with_note(&about, &format!("{}\n", token.expose()), lost)
    }
}

fn write_envoy(
    config_path: &Path,
    path: &Path,
    listen: &Endpoint,
    upstream: &Endpoint,
) -> Result<(), CliError> {
    let config = Config::load(config_path)?;
    let text = envoy::bootstrap(&config, config_path, listen.clone(), upstream.clone())?;
    Ok(write_new(path, &text)?)
}

/// What makes curl send the token to Envoy.
fn curl_arguments(listen: &Endpoint) -> String {
    let header = "-H 'Authorization: Bearer TOKEN'";
    match listen {
        Endpoint::Socket { .. } => format!("{header} http://{listen}/"),
        Endpoint::Pipe(path) => match path.strip_prefix('@') {
            Some(name) => format!("{header} --abstract-unix-socket {name} http://localhost/"),
            None => format!("{header} --unix-socket {path} http://localhost/"),
        },
    }
}

fn config_text(path: &Path, digest: &str) -> String {
    format!(
        "\
# A first configuration of envoy-auth-tokens.  After a change `envoy-auth-tokens check --config {path}` prints every error.
# A valid change is active within a second, without a restart.

# Every token is admitted, and no request without a token.  The plain text of this token is not stored;
# `envoy-auth-tokens token new` makes another token.
tokens:
- name: first
  sha256: {digest}
  actor: {{id: first, role: Admin}}

# API keys are created while the server runs, by an actor with the role Admin: with
# `envoy-auth-tokens keys create NAME --role Viewer --token-file FILE`, over HTTP, or on the page at http://127.0.0.1:9192.
keys:
  store: sqlite:keys.db
admin:
  listen: 127.0.0.1:9192
",
        path = path.display()
    )
}

fn write_new(path: &Path, text: &str) -> Result<(), InitError> {
    File::create_new(path).and_then(|mut file| file.write_all(text.as_bytes())).map_err(|source| {
        if source.kind() == io::ErrorKind::AlreadyExists {
            InitError::Exists(path.to_owned())
        } else {
            InitError::Write { path: path.to_owned(), source }
        }
    })
}
