//! `keys list`, `create`, `rotate`, `revoke` and `delete`, against the admin API of a running server; `migrate` and
//! `backup`, on the store itself.

mod backup;
mod error;
mod migrate;
mod tls;

use std::fmt;
use std::io::Write;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use clap::builder::PossibleValuesParser;
use clap::{Args, Subcommand};
use comfy_table::{Table, presets};
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST};
use http::uri::{Authority, Scheme};
use http::{HeaderValue, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

pub use self::error::KeysError;
use super::{CliError, print, read_secret};
use crate::config::Transport;
use crate::secret::Secret;

/// How long one call may take, from the connection to the end of the response.
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
    /// Bring the schema of the store up to date, for a server whose role may not
    Migrate(migrate::MigrateArgs),
    /// Copy the store of a SQLite file, which a server may have open
    Backup(backup::BackupArgs),
}

#[derive(Debug, Args)]
pub(super) struct ListKeysArgs {
    #[command(flatten)]
    server: ServerArgs,
    /// Show expired and revoked keys too
    #[arg(long)]
    expired: bool,
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
        }
    }
}

impl ListKeysArgs {
    fn run(self) -> Result<(), CliError> {
        let query = if self.expired { "?includeExpired=true" } else { "" };
        let response = self.server.call(Method::GET, query, None)?;
        if self.server.json {
            return print(&response.to_line());
        }
        let keys: Vec<ListedKey> = response.parse()?;
        print(&table(&keys, Timestamp::now()))
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

/// A key as the API lists it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ListedKey {
    id: i64,
    name: String,
    role: String,
    #[serde(default, deserialize_with = "timestamp")]
    expiration: Option<Timestamp>,
    #[serde(default, deserialize_with = "timestamp")]
    last_used_at: Option<Timestamp>,
    #[serde(default, deserialize_with = "timestamp")]
    created: Option<Timestamp>,
    #[serde(default)]
    is_revoked: bool,
}

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

/// A time as the API writes it: RFC 3339.
fn timestamp<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Timestamp>, D::Error> {
    let text: Option<String> = Option::deserialize(from)?;
    text.map(|text| text.parse().map_err(D::Error::custom)).transpose()
}

fn table(keys: &[ListedKey], now: Timestamp) -> String {
    if keys.is_empty() {
        return "No keys.\n".to_owned();
    }
    let mut table = Table::new();
    // No borders and one line a key, so that grep and cut work on it.
    table.load_style(presets::NOTHING);
    table.set_header(["ID", "NAME", "ROLE", "STATUS", "EXPIRES", "LAST USED", "CREATED"]);
    for key in keys {
        let status = match key.expiration {
            _ if key.is_revoked => "revoked",
            Some(expiration) if now >= expiration => "expired",
            Some(_) | None => "live",
        };
        let expires = key.expiration.map_or_else(
            || "No expiration date".to_owned(),
            |expiration| format!("{} ({})", absolute_time(expiration), relative_time(now, expiration)),
        );
        table.add_row([
            key.id.to_string(),
            escape_controls(&key.name),
            escape_controls(&key.role),
            status.to_owned(),
            expires,
            key.last_used_at.map_or_else(|| "never".to_owned(), |used| relative_time(now, used)),
            key.created.map(absolute_time).unwrap_or_default(),
        ]);
    }
    let mut text = String::new();
    for line in table.lines() {
        text.push_str(line.trim());
        text.push('\n');
    }
    text
}

/// A time for people, in UTC.
fn absolute_time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M UTC").to_string()
}

/// `in 3 days`, `2 minutes ago`: rounded to the largest unit of which there is at least one.
fn relative_time(now: Timestamp, at: Timestamp) -> String {
    const UNITS: [(&str, u64, u64); 6] = [
        ("second", 1, 60),
        ("minute", 60, 60),
        ("hour", 3_600, 24),
        ("day", 86_400, 30),
        ("month", 2_629_800, 12),
        ("year", 31_557_600, u64::MAX),
    ];
    let seconds = at.as_second() - now.as_second();
    let away = seconds.unsigned_abs();
    if away == 0 {
        return "now".to_owned();
    }
    let counts = UNITS.map(|(unit, length, limit)| (unit, (away + length / 2) / length, limit));
    let (unit, count, _) =
        counts.into_iter().find(|(_, count, limit)| count < limit).unwrap_or(("year", 0, 0));
    let plural = if count == 1 { "" } else { "s" };
    if seconds > 0 { format!("in {count} {unit}{plural}") } else { format!("{count} {unit}{plural} ago") }
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

// ------------------------------------------------------------------------------------------------- calling

/// A response with status 200.
struct Response {
    body: Bytes,
    url: AdminUrl,
}

impl Response {
    fn parse<'a, T: Deserialize<'a>>(&'a self) -> Result<T, KeysError> {
        // The body may hold a token, and the parser's error could quote it.
        serde_json::from_slice(&self.body).map_err(|_| KeysError::UnexpectedBody(self.url.clone()))
    }

    /// The body as it came, as one line.
    fn to_line(&self) -> String {
        format!("{}\n", String::from_utf8_lossy(&self.body).trim_end())
    }
}

impl ServerArgs {
    /// Makes one call and prints the message of the response.
    fn call_and_print_message(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<(), CliError> {
        let response = self.call(method, path, body)?;
        if self.json {
            return print(&response.to_line());
        }
        let Message { message, .. } = response.parse()?;
        print(&format!("{}\n", escape_controls(&message)))
    }

    /// Prints the token alone to standard output, so that it can be piped, and the rest to standard error.
    fn print_token(&self, response: &Response, done: &str) -> Result<(), CliError> {
        if self.json {
            return print(&response.to_line());
        }
        let IssuedKey { id, name, key } = response.parse()?;
        let key = Secret::new(key);
        print_note(&format!(
            "Key {id}, {}, is {done}.  Its token is shown this once:",
            escape_controls(&name)
        ));
        print(&format!("{}\n", key.expose()))
    }

    fn authorization(&self) -> Result<HeaderValue, KeysError> {
        let value = match (&self.token_file, &self.user, &self.password_file) {
            (Some(path), None, None) => {
                Secret::new(format!("Bearer {}", read_secret("token", path)?.expose()))
            }
            (None, Some(user), Some(path)) => {
                let password = read_secret("password", path)?;
                let pair = Secret::new(format!("{user}:{}", password.expose()));
                Secret::new(format!("Basic {}", STANDARD.encode(pair.expose())))
            }
            _ => return Err(KeysError::NoCredential),
        };
        let mut value = HeaderValue::from_str(value.expose()).map_err(KeysError::CredentialCharacters)?;
        value.set_sensitive(true);
        Ok(value)
    }

    /// Makes one call below `/api/auth/keys`.  Any status but 200 is an error, in the API's own words.
    fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Response, KeysError> {
        let url: AdminUrl = self.url.parse()?;
        let authorization = self.authorization()?;
        if url.transport == Transport::Plain && !url.is_local() {
            print_note(&format!("warning: the credential goes to {} without TLS", url.authority));
        }
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}/api/auth/keys{path}", url.path))
            .header(HOST, url.authority.as_str())
            .header(ACCEPT, "application/json")
            .header(AUTHORIZATION, authorization);
        if body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let body = body.map(Value::to_string).unwrap_or_default();
        let request = request.body(Full::new(Bytes::from(body))).map_err(KeysError::Request)?;
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(KeysError::Runtime)?;
        let sent =
            runtime.block_on(async { tokio::time::timeout(REQUEST_TIMEOUT, self.send(&url, request)).await });
        // The process does not wait for a name that is still being resolved.
        runtime.shutdown_background();
        let (status, body) = sent.unwrap_or_else(|_| Err(KeysError::Timeout(url.clone())))?;
        if status == StatusCode::OK {
            return Ok(Response { body, url });
        }
        Err(match serde_json::from_slice(&body) {
            Ok(Message { message, details }) => {
                let details = details.iter().map(|Detail { field, problem }| format!("; {field}: {problem}"));
                let message = format!("{message}{}", details.collect::<String>());
                KeysError::Api { message: escape_controls(&message), status }
            }
            Err(_) => KeysError::UnexpectedStatus { url, status },
        })
    }
}

impl ServerArgs {
    async fn send(
        &self,
        url: &AdminUrl,
        request: Request<Full<Bytes>>,
    ) -> Result<(StatusCode, Bytes), KeysError> {
        let client = match url.transport {
            Transport::Plain => None,
            // Before the connection: a file that cannot be read is not the server's fault.
            Transport::Tls => Some(tls::Client::new(self)?),
        };
        let stream = TcpStream::connect((url.host.as_str(), url.port))
            .await
            .map_err(|source| KeysError::Unreachable { url: url.clone(), source })?;
        match client {
            None => send_over(url, stream, request).await,
            Some(client) => send_over(url, client.handshake(url, stream).await?, request).await,
        }
    }
}

async fn send_over(
    url: &AdminUrl,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Full<Bytes>>,
) -> Result<(StatusCode, Bytes), KeysError> {
    let broken = |source: hyper::Error| KeysError::Connection { url: url.clone(), source };
    let (mut client, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    // This task ends with the runtime.
    tokio::spawn(connection);
    let (head, body) = client.send_request(request).await.map_err(broken)?.into_parts();
    let body = body.collect().await.map_err(broken)?.to_bytes();
    Ok((head.status, body))
}

#[cfg(test)]
mod tests {
    use super::{
        AdminUrl, ListedKey, Timestamp, Transport, escape_controls, json_object, parse_seconds,
        relative_time, table,
    };

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
    fn distances_are_rounded_to_the_greatest_unit() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().expect("a time");
        for (away, expected) in [
            (0, "now"),
            (1, "in 1 second"),
            (59, "in 59 seconds"),
            (60, "in 1 minute"),
            (-3_599, "1 hour ago"),
            (259_199, "in 3 days"),
            (-86_400, "1 day ago"),
            (86_400 * 90, "in 3 months"),
            (31_536_000, "in 1 year"),
            (31_557_600 * 7_000, "in 7000 years"),
        ] {
            let at = Timestamp::from_second(now.as_second() + away).expect("a time before the year 10,000");
            assert_eq!(relative_time(now, at), expected, "{away}");
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

    #[test]
    fn a_table_has_a_line_for_each_key() {
        let keys: Vec<ListedKey> = serde_json::from_str(
            r#"[
                {"id": 1, "name": "ci deploys", "role": "Editor", "created": "2025-12-01T00:00:00Z",
                 "expiration": "2026-01-04T00:00:00Z", "lastUsedAt": "2025-12-31T23:58:00Z"},
                {"id": 12, "name": "for ever", "role": "Viewer", "created": "2025-12-01T00:00:00Z"},
                {"id": 3, "name": "gone", "role": "Admin", "created": "2025-12-01T00:00:00Z", "isRevoked": true}
            ]"#,
        )
        .expect("keys");
        let now = "2026-01-01T00:00:00Z".parse().expect("a time");
        assert_eq!(
            table(&keys, now),
            "\
ID  NAME        ROLE    STATUS   EXPIRES                           LAST USED      CREATED
1   ci deploys  Editor  live     2026-01-04 00:00 UTC (in 3 days)  2 minutes ago  2025-12-01 00:00 UTC
12  for ever    Viewer  live     No expiration date                never          2025-12-01 00:00 UTC
3   gone        Admin   revoked  No expiration date                never          2025-12-01 00:00 UTC
"
        );
        assert_eq!(table(&[], now), "No keys.\n");
    }
}
