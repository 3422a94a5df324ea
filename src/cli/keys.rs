//! `keys list`, `create`, `rotate`, `revoke`, `delete` and `accept-history`, against the admin API of a running server;
//! `migrate` and `backup`, on the store itself.

mod backup;
mod call;
mod error;
mod list;
mod migrate;
mod tls;

use std::fmt;
use std::io::Write;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::builder::PossibleValuesParser;
use clap::{Args, Subcommand};
use http::uri::{Authority, Scheme};
use http::{Method, Uri};
use serde::Deserialize;
use serde_json::{Map, Value, json};

pub use self::error::KeysError;
use self::list::ListKeysArgs;
use super::{CliError, print, read_secret};
use crate::config::Transport;

/// How long a call may take until the response begins, and then each part of it.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Debug, Subcommand)]
pub(super) enum KeysCommand {
    /// Show the keys
    List(ListKeysArgs),
    /// Make a key: its token alone goes to standard output, this once
    Create(CreateKeyArgs),
    /// Give a key a new token, which alone goes to standard output, this once
    Rotate(RotateKeyArgs),
    /// End a key for good, and keep it in the list of expired and revoked ones
    Revoke(RevokeKeyArgs),
    /// End a key for good, and forget it
    Delete(Delete),
    /// Let what the store says count again after its history was rewritten, as by the restore of a backup
    AcceptHistory(AcceptHistoryArgs),
    /// Bring the schema of the store up to date, for a server whose role may not
    Migrate(migrate::MigrateArgs),
    /// Copy the store of a SQLite file, which a server may have open
    Backup(backup::BackupArgs),
}

#[derive(Debug, Args)]
pub(super) struct CreateKeyArgs {
    #[command(flatten)]
    server: ServerArgs,
    /// The key's name
    name: String,
    /// What it may do at most
    #[arg(long, value_parser = PossibleValuesParser::new(["Viewer", "Editor", "Admin"]))]
    role: String,
    /// How long it works: one whole number and one of s m h d w M y, such as 12h; for ever when not given
    #[arg(long, value_name = "TIME", value_parser = parse_seconds)]
    ttl: Option<i64>,
    /// A policy under which it counts, and no other; may be given several times
    #[arg(long = "policy", value_name = "NAME")]
    policies: Vec<String>,
    /// Members of its actor, a JSON object, as far as `keys.actor_members` allows them
    #[arg(long, value_name = "JSON", value_parser = json_object)]
    actor: Option<Map<String, Value>>,
}

#[derive(Debug, Args)]
pub(super) struct RotateKeyArgs {
    #[command(flatten)]
    server: ServerArgs,
    /// The key's id, as `list` shows it
    id: i64,
    /// How long the present token goes on working, such as 1h, seven days at most; not at all when not given
    #[arg(long, value_name = "TIME", value_parser = parse_seconds)]
    overlap: Option<i64>,
}

#[derive(Debug, Args)]
pub(super) struct RevokeKeyArgs {
    #[command(flatten)]
    server: ServerArgs,
    /// The key's id, as `list` shows it
    id: i64,
}

#[derive(Debug, Args)]
pub(super) struct Delete {
    #[command(flatten)]
    server: ServerArgs,
    /// The key's id, as `list` shows it
    id: i64,
}

#[derive(Debug, Args)]
pub(super) struct AcceptHistoryArgs {
    #[command(flatten)]
    server: ServerArgs,
}

/// The server to call, the credential to present, and how to print the response.
///
/// The credential is read from a file or standard input: every process can see arguments.
#[derive(Debug, Args)]
struct ServerArgs {
    /// Where the admin listener is
    // Not parsed by clap: its errors show the value, and somebody may have put a password into it.
    #[arg(
        long,
        env = "ENVOY_AUTH_TOKENS_ADMIN_URL",
        hide_env_values = true,
        default_value = "http://127.0.0.1:9192"
    )]
    url: String,
    /// The CAs that may vouch for the server of an https URL, in PEM; the system's when not given
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// Show the server the certificate in this PEM file, where it asks for one
    #[arg(long, value_name = "FILE", requires = "key_file")]
    cert_file: Option<PathBuf>,
    /// The private key of that certificate, in PEM
    #[arg(long, value_name = "FILE", requires = "cert_file")]
    key_file: Option<PathBuf>,
    /// Present the token in this file, or on standard input for `-`
    #[arg(long, value_name = "FILE", conflicts_with = "user", required_unless_present = "user")]
    token_file: Option<PathBuf>,
    /// Present this user name
    #[arg(long, value_name = "NAME", requires = "password_file")]
    user: Option<String>,
    /// The password is in this file, or on standard input for `-`
    #[arg(long, value_name = "FILE", requires = "user")]
    password_file: Option<PathBuf>,
    /// Print the API's answer, which is JSON
    #[arg(long)]
    json: bool,
}

impl KeysCommand {
    pub(super) fn run(self) -> Result<(), CliError> {
        match self {
            Self::List(list) => list.run(),
            Self::Create(create) => create.run(),
            Self::Rotate(rotate) => rotate.run(),
            Self::Backup(backup) => backup.run(),
            Self::Revoke(revoke) => {
                let path = format!("/{}/revoke", revoke.id);
                revoke.server.call_and_print_message(Method::POST, &path, Some(&json!({})))
            }
            Self::Delete(delete) => {
                delete.server.call_and_print_message(Method::DELETE, &format!("/{}", delete.id), None)
            }
            Self::Migrate(migrate) => migrate.run(),
            Self::AcceptHistory(AcceptHistoryArgs { server }) => {
                server.call_and_print_message(Method::POST, "/accept-history", Some(&json!({})))
            }
        }
    }
}

impl CreateKeyArgs {
    fn run(self) -> Result<(), CliError> {
        let mut body = json!({ "name": self.name, "role": self.role });
        if let Some(seconds) = self.ttl {
            body["secondsToLive"] = json!(seconds);
        }
        if !self.policies.is_empty() {
            body["policies"] = json!(self.policies);
        }
        if let Some(actor) = self.actor {
            body["actor"] = Value::Object(actor);
        }
        let response = self.server.call(Method::POST, "", Some(&body))?;
        self.server.print_token(&response, "created")
    }
}

impl RotateKeyArgs {
    fn run(self) -> Result<(), CliError> {
        let body = self.overlap.map_or_else(|| json!({}), |seconds| json!({ "overlapSeconds": seconds }));
        let response = self.server.call(Method::POST, &format!("/{}/rotate", self.id), Some(&body))?;
        self.server.print_token(&response, "rotated")
    }
}

// ------------------------------------------------------------------------------------------------ printing

/// The response to the creation or the rotation of a key.
#[derive(Deserialize)]
struct IssuedKey {
    id: i64,
    name: String,
    key: String,
}

/// The response to everything else, errors included.
#[derive(Deserialize)]
struct Message {
    message: String,
    /// Of an error: the members at fault.
    #[serde(default)]
    details: Vec<Detail>,
}

#[derive(Deserialize)]
struct Detail {
    field: String,
    problem: String,
}

/// Escapes the control characters of a text from the server: a terminal would obey them.
fn escape_controls(text: &str) -> String {
    let is_control = |char: char| {
        char.is_control()
            || matches!(char, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    let mut escaped = String::with_capacity(text.len());
    for char in text.chars() {
        if is_control(char) {
            escaped.extend(char.escape_unicode());
        } else {
            escaped.push(char);
        }
    }
    escaped
}

/// Prints to standard error what is not the command's result.  Standard error may be closed.
fn print_note(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

// ---------------------------------------------------------------------------------------------- arguments

/// Parses a time such as `12h` into seconds, by the syntax of the admin page.
fn parse_seconds(text: &str) -> Result<i64, &'static str> {
    const SYNTAX: &str = "write one whole number and one of s m h d w M y, such as 12h";
    let unit = text.chars().next_back().ok_or(SYNTAX)?;
    let length = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3_600,
        'd' => 86_400,
        'w' => 604_800,
        'M' => 2_592_000,
        'y' => 31_536_000,
        _ => return Err(SYNTAX),
    };
    let count = &text[..text.len() - unit.len_utf8()];
    if count.is_empty() || !count.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(SYNTAX);
    }
    let seconds = count.parse::<i64>().ok().and_then(|count| count.checked_mul(length));
    match seconds {
        None => Err("that is too long"),
        Some(0) => Err(SYNTAX),
        Some(seconds) => Ok(seconds),
    }
}

fn json_object(text: &str) -> Result<Map<String, Value>, String> {
    serde_json::from_str(text).map_err(|error| format!("not a JSON object: {error}"))
}

/// The URL of an admin listener: `https://host:port` or `http://host:port`, with a path where a proxy serves it
/// below one.
#[derive(Debug, Clone)]
pub struct AdminUrl {
    transport: Transport,
    authority: Authority,
    host: String,
    port: u16,
    path: String,
}

impl AdminUrl {
    fn is_local(&self) -> bool {
        let address = self.host.parse::<std::net::IpAddr>();
        address.map_or_else(|_| self.host == "localhost", |address| address.is_loopback())
    }
}

impl fmt::Display for AdminUrl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.transport {
            Transport::Plain => "http",
            Transport::Tls => "https",
        };
        write!(formatter, "{scheme}://{}{}", self.authority, self.path)
    }
}

/// A text is not the URL of an admin listener.  No variant holds the text: a password may stand in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AdminUrlError {
    /// It is not an `http` or `https` URL.
    #[error("write it like http://127.0.0.1:9192")]
    Syntax,
    /// It has user info.
    #[error("a URL carries no user and no password here: use --user and --password-file")]
    UserInfo,
    /// It has a query.
    #[error("an admin listener's URL has no query")]
    Query,
}

impl FromStr for AdminUrl {
    type Err = AdminUrlError;

    fn from_str(text: &str) -> Result<Self, AdminUrlError> {
        let uri: Uri = text.parse().map_err(|_| AdminUrlError::Syntax)?;
        let (transport, default_port) = match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTP => (Transport::Plain, 80),
            Some(scheme) if *scheme == Scheme::HTTPS => (Transport::Tls, 443),
            Some(_) | None => return Err(AdminUrlError::Syntax),
        };
        let authority = uri.authority().ok_or(AdminUrlError::Syntax)?.clone();
        if authority.as_str().contains('@') {
            return Err(AdminUrlError::UserInfo);
        }
        if uri.query().is_some() {
            return Err(AdminUrlError::Query);
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = authority.port_u16().unwrap_or(default_port);
        let path = uri.path().trim_end_matches('/').to_owned();
        Ok(Self { transport, authority, host, port, path })
    }
}

#[cfg(test)]
mod tests {
    use super::{AdminUrl, Transport, escape_controls, json_object, parse_seconds};

    #[test]
    fn a_time_is_one_whole_number_and_one_unit() {
        for (text, expected) in [
            ("1s", 1),
            ("30m", 1_800),
            ("12h", 43_200),
            ("1d", 86_400),
            ("2w", 1_209_600),
            ("3M", 7_776_000),
            ("1y", 31_536_000),
            ("007d", 604_800),
        ] {
            assert_eq!(parse_seconds(text), Ok(expected), "{text}");
        }
        for text in [
            "",
            "1",
            "d",
            "0d",
            "000s",
            "-1d",
            "+1d",
            "1.5d",
            "1 d",
            " 1d",
            "1d ",
            "1d12h",
            "1D",
            "1e3s",
            "١d",
            "1日",
            "99999999999999999999s",
            "9223372036854775807y",
        ] {
            assert!(parse_seconds(text).is_err(), "{text}");
        }
    }

    #[test]
    fn urls_are_http_or_https_and_errors_repeat_nothing() {
        use Transport::{Plain, Tls};
        for (text, transport, host, port, path) in [
            ("http://127.0.0.1:9192", Plain, "127.0.0.1", 9192, ""),
            ("http://keys.example/", Plain, "keys.example", 80, ""),
            ("http://[::1]:9192/below/", Plain, "::1", 9192, "/below"),
            ("https://keys.example", Tls, "keys.example", 443, ""),
            ("https://127.0.0.1:9192/below", Tls, "127.0.0.1", 9192, "/below"),
        ] {
            let url: AdminUrl = text.parse().expect(text);
            let found = (url.transport, url.host.as_str(), url.port, url.path.as_str());
            assert_eq!(found, (transport, host, port, path), "{text}");
        }
        for text in
            ["", "127.0.0.1:9192", "/", "ftp://x", "http://me:hunter2@x", "http://x/?a=hunter2", "http://"]
        {
            let error = text.parse::<AdminUrl>().expect_err(text).to_string();
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn nothing_that_is_shown_steers_the_terminal() {
        assert_eq!(escape_controls("a\u{1b}[31mb\u{202e}c\n"), "a\\u{1b}[31mb\\u{202e}c\\u{a}");
        assert_eq!(escape_controls("שלום 🔑"), "שלום 🔑");
    }

    #[test]
    fn an_actor_is_a_json_object() {
        assert!(json_object(r#"{"team": "a"}"#).is_ok());
        for text in ["", "[]", "1", "{", "{} {}"] {
            assert!(json_object(text).is_err(), "{text}");
        }
    }
}
