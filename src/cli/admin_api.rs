//! The admin API of a running server, for the commands that call it: where it is, as whom, and one call.
//!
//! A command opens it once ([`ServerArgs::open`]), which reads the credential once, and makes any number of calls.

mod call;
mod credential;
mod error;
mod limits;
mod tls;
mod url;
mod words;

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use http::HeaderValue;

pub(super) use self::call::{Body, Query, Response};
use self::credential::PresentedCredential;
pub(super) use self::credential::read_secret_or_ask;
pub use self::error::AdminApiError;
pub(super) use self::limits::Life;
pub use self::url::{AdminUrl, AdminUrlError};
pub(super) use self::words::{ApiAnswer, spelling_note};

/// The path of keys in the admin API.
pub(super) const KEYS: &str = "/api/auth/keys";
/// The path of service accounts, as in Grafana.
pub(super) const ACCOUNTS: &str = "/api/serviceaccounts";

/// How long a call may take until the response begins, and then each part of it.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// The variable that says where the admin listener is where `--url` does not.
const URL_VARIABLE: &str = "ENVOY_AUTH_TOKENS_ADMIN_URL";
/// The default URL.
const DEFAULT_URL: &str = "http://127.0.0.1:9192";
/// The variable that names the file of the token where the arguments name no credential.
const TOKEN_FILE_VARIABLE: &str = "ENVOY_AUTH_TOKENS_TOKEN_FILE";
/// The same for the user.
const USER_VARIABLE: &str = "ENVOY_AUTH_TOKENS_USER";
/// The same for the file of the user's password.
const PASSWORD_FILE_VARIABLE: &str = "ENVOY_AUTH_TOKENS_PASSWORD_FILE";

/// Above these arguments in a command's help.
const SERVER_HEADING: &str = "Server";

/// The server to call, the credential to present, and how to print the response.
///
/// The credential is read from a file, standard input or the terminal: every process can see arguments.
#[derive(Debug, Clone, Args)]
pub(super) struct ServerArgs {
    /// The URL of the admin listener [default: $ENVOY_AUTH_TOKENS_ADMIN_URL, or http://127.0.0.1:9192]
    // Not parsed by clap: its errors show the value, which may contain a password.  The variable is not clap's either:
    // it would show --url as required in every usage line.
    #[arg(long, help_heading = SERVER_HEADING)]
    url: Option<String>,
    /// A PEM file with the CAs to trust for an https URL [default: the CAs of the system]
    #[arg(long, help_heading = SERVER_HEADING, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// A PEM file with the client certificate, for a server that asks for one
    #[arg(long, help_heading = SERVER_HEADING, value_name = "FILE", requires = "key_file")]
    cert_file: Option<PathBuf>,
    /// A PEM file with the private key of the client certificate
    #[arg(long, help_heading = SERVER_HEADING, value_name = "FILE", requires = "cert_file")]
    key_file: Option<PathBuf>,
    /// A file with the token to log in with (`-`: standard input) [default: $ENVOY_AUTH_TOKENS_TOKEN_FILE, without --user]
    // The variables of the credential are not clap's: an argument for one kind goes before a variable for another.
    #[arg(long, help_heading = SERVER_HEADING, value_name = "FILE", conflicts_with_all = ["user", "password_file"])]
    token_file: Option<PathBuf>,
    /// The user name to log in with [default: $ENVOY_AUTH_TOKENS_USER]
    #[arg(long, help_heading = SERVER_HEADING, value_name = "NAME")]
    user: Option<String>,
    /// A file with the user's password (`-`: standard input) [default: $ENVOY_AUTH_TOKENS_PASSWORD_FILE, unless
    /// $ENVOY_AUTH_TOKENS_USER is another user than --user; without both, the terminal asks]
    #[arg(long, help_heading = SERVER_HEADING, value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// Print the answers of the API as they are (JSON)
    #[arg(long, help_heading = SERVER_HEADING)]
    json: bool,
}

/// The admin API, as one caller.
pub(super) struct AdminApi {
    url: AdminUrl,
    authorization: HeaderValue,
    /// Which credential that is, for people.
    credential: String,
    arguments: ServerArgs,
}

impl ServerArgs {
    /// Reads the URL and the credential.  Nothing is sent yet.
    ///
    /// # Errors
    /// The URL is none, or there is no credential that can be read.
    pub(super) fn open(self) -> Result<AdminApi, AdminApiError> {
        let url = self.url()?;
        let PresentedCredential { authorization, description } = credential::read(&self)?;
        if url.is_plain() && !url.is_local() {
            super::print_note(&format!("warning: the credential goes to {} without TLS", url.authority()));
        }
        Ok(AdminApi { url, authorization, credential: description, arguments: self })
    }

    fn url(&self) -> Result<AdminUrl, AdminApiError> {
        if let Some(url) = &self.url {
            return url.parse().map_err(|source| AdminApiError::Url { from: "--url", source });
        }
        let variable = std::env::var_os(URL_VARIABLE).filter(|url| !url.is_empty());
        let invalid = |source| AdminApiError::Url { from: URL_VARIABLE, source };
        match variable {
            Some(url) => url.to_str().ok_or(AdminUrlError::Syntax).and_then(str::parse).map_err(invalid),
            None => DEFAULT_URL.parse().map_err(invalid),
        }
    }

    /// Whether the API's answers are to be printed.
    pub(super) fn wants_json(&self) -> bool {
        self.json
    }

    /// Whether the credential comes from standard input, which then holds nothing else.
    pub(super) fn takes_stdin(&self) -> bool {
        let is_stdin = |path: &Option<PathBuf>| path.as_deref().is_some_and(|path| path.as_os_str() == "-");
        is_stdin(&self.token_file) || is_stdin(&self.password_file)
    }
}

impl AdminApi {
    /// Whether answers are printed as they are.
    pub(super) fn wants_json(&self) -> bool {
        self.arguments.json
    }
}
