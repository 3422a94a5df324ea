//! `keys list`, `create`, `rotate`, `revoke` and `delete`, against the admin API of a running server.

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

use super::{Complaint, print, read_secret};
use crate::config::Transport;
use crate::secret::Secret;

/// How long one call may take, from the connection to the end of the answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// What may be done with keys.
#[derive(Debug, Subcommand)]
pub(super) enum Keys {
    /// Show the keys
    List(List),
    /// Make a key: its token alone goes to standard output, this once
    Create(Create),
    /// Give a key a new token, which alone goes to standard output, this once
    Rotate(Rotate),
    /// End a key for good, and keep it in the list of expired and revoked ones
    Revoke(Revoke),
    /// End a key for good, and forget it
    Delete(Delete),
}

#[derive(Debug, Args)]
pub(super) struct List {
    #[command(flatten)]
    server: Server,
    /// Show expired and revoked keys too
    #[arg(long)]
    expired: bool,
}

#[derive(Debug, Args)]
pub(super) struct Create {
    #[command(flatten)]
    server: Server,
    /// The key's name
    name: String,
    /// What it may do at most
    #[arg(long, value_parser = PossibleValuesParser::new(["Viewer", "Editor", "Admin"]))]
    role: String,
    /// How long it works: one whole number and one of s m h d w M y, such as 12h; for ever when not given
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    ttl: Option<i64>,
    /// A policy under which it counts, and no other; may be given several times
    #[arg(long = "policy", value_name = "NAME")]
    policies: Vec<String>,
    /// Members of its actor, a JSON object, as far as `keys.actor_members` allows them
    #[arg(long, value_name = "JSON", value_parser = object)]
    actor: Option<Map<String, Value>>,
}

#[derive(Debug, Args)]
pub(super) struct Rotate {
    #[command(flatten)]
    server: Server,
    /// The key's id, as `list` shows it
    id: i64,
    /// How long the present token goes on working, such as 1h, seven days at most; not at all when not given
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    overlap: Option<i64>,
}

#[derive(Debug, Args)]
pub(super) struct Revoke {
    #[command(flatten)]
    server: Server,
    /// The key's id, as `list` shows it
    id: i64,
}

#[derive(Debug, Args)]
pub(super) struct Delete {
    #[command(flatten)]
    server: Server,
    /// The key's id, as `list` shows it
    id: i64,
}

/// Whom to ask, as whom, and how to print the answer.
///
/// The credential is read from a file or standard input: arguments can be seen by every process.
#[derive(Debug, Args)]
struct Server {
    /// Where the admin listener is
    // A text at first: clap would show what it cannot parse, and somebody may have put a password into it.
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

impl Keys {
    pub(super) fn run(self) -> Result<(), Complaint> {
        match self {
            Self::List(list) => list.run(),
            Self::Create(create) => create.run(),
            Self::Rotate(rotate) => rotate.run(),
            Self::Revoke(revoke) => {
                let path = format!("/{}/revoke", revoke.id);
                revoke.server.do_and_tell(Method::POST, &path, Some(&json!({})))
            }
            Self::Delete(delete) => {
                delete.server.do_and_tell(Method::DELETE, &format!("/{}", delete.id), None)
            }
        }
    }
}

impl List {
    fn run(self) -> Result<(), Complaint> {
        let query = if self.expired { "?includeExpired=true" } else { "" };
        let answer = self.server.call(Method::GET, query, None)?;
        if self.server.json {
            return print(&answer.line());
        }
        let keys: Vec<Item> = answer.read()?;
        print(&table(&keys, Timestamp::now()))
    }
}

impl Create {
    fn run(self) -> Result<(), Complaint> {
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
        let answer = self.server.call(Method::POST, "", Some(&body))?;
        self.server.hand_over(&answer, "created")
    }
}

impl Rotate {
    fn run(self) -> Result<(), Complaint> {
        let body = self.overlap.map_or_else(|| json!({}), |seconds| json!({ "overlapSeconds": seconds }));
        let answer = self.server.call(Method::POST, &format!("/{}/rotate", self.id), Some(&body))?;
        self.server.hand_over(&answer, "rotated")
    }
}

// ------------------------------------------------------------------------------------------------ printing

/// A key as the API lists it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Item {
    id: i64,
    name: String,
    role: String,
    #[serde(default, deserialize_with = "instant")]
    expiration: Option<Timestamp>,
    #[serde(default, deserialize_with = "instant")]
    last_used_at: Option<Timestamp>,
    #[serde(default, deserialize_with = "instant")]
    created: Option<Timestamp>,
    #[serde(default)]
    is_revoked: bool,
}

/// The answer to whoever makes or rotates a key.
#[derive(Deserialize)]
struct Issued {
    id: i64,
    name: String,
    key: String,
}

/// The answer of what has nothing else to say.
#[derive(Deserialize)]
struct Message {
    message: String,
    /// The members at fault, of an error.
    #[serde(default)]
    details: Vec<Detail>,
}

#[derive(Deserialize)]
struct Detail {
    field: String,
    problem: String,
}

/// An instant as the API writes it, which is RFC 3339.
fn instant<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Timestamp>, D::Error> {
    let text: Option<String> = Option::deserialize(from)?;
    text.map(|text| text.parse().map_err(D::Error::custom)).transpose()
}

fn table(keys: &[Item], now: Timestamp) -> String {
    if keys.is_empty() {
        return "No keys.\n".to_owned();
    }
    let mut table = Table::new();
    // No lines around anything, and a line for each key: such a table can be searched and cut.
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
            |expiration| format!("{} ({})", moment(expiration), distance(now, expiration)),
        );
        table.add_row([
            key.id.to_string(),
            shown(&key.name),
            shown(&key.role),
            status.to_owned(),
            expires,
            key.last_used_at.map_or_else(|| "never".to_owned(), |used| distance(now, used)),
            key.created.map(moment).unwrap_or_default(),
        ]);
    }
    let mut text = String::new();
    for line in table.lines() {
        text.push_str(line.trim());
        text.push('\n');
    }
    text
}

/// An instant for people; the times of a server are in UTC.
fn moment(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M UTC").to_string()
}

/// `in 3 days`, `2 minutes ago`: the greatest unit of which there is one, rounded.
fn distance(now: Timestamp, at: Timestamp) -> String {
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

/// Text from elsewhere, with whatever could steer a terminal made visible.
fn shown(text: &str) -> String {
    let steers = |char: char| {
        char.is_control()
            || matches!(char, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    let mut shown = String::with_capacity(text.len());
    for char in text.chars() {
        if steers(char) {
            shown.extend(char.escape_unicode());
        } else {
            shown.push(char);
        }
    }
    shown
}

/// Says something that is no result.  Standard error may be closed: the exit code still tells.
fn remark(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

// ---------------------------------------------------------------------------------------------- arguments

/// The seconds of a time such as `12h`, written as on the page.
fn seconds(text: &str) -> Result<i64, &'static str> {
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

fn object(text: &str) -> Result<Map<String, Value>, String> {
    serde_json::from_str(text).map_err(|error| format!("not a JSON object: {error}"))
}

/// Where an admin listener is: `https://host:port` or `http://host:port`, and a path where a proxy put it
/// below one.
#[derive(Debug, Clone)]
struct AdminUrl {
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

impl FromStr for AdminUrl {
    type Err = &'static str;

    // No error repeats what was given.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let uri: Uri = text.parse().map_err(|_| "write it like http://127.0.0.1:9192")?;
        let (transport, default_port) = match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTP => (Transport::Plain, 80),
            Some(scheme) if *scheme == Scheme::HTTPS => (Transport::Tls, 443),
            Some(_) | None => return Err("write it like http://127.0.0.1:9192"),
        };
        let authority = uri.authority().ok_or("write it like http://127.0.0.1:9192")?.clone();
        if authority.as_str().contains('@') {
            return Err("a URL carries no user and no password here: use --user and --password-file");
        }
        if uri.query().is_some() {
            return Err("an admin listener's URL has no query");
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = authority.port_u16().unwrap_or(default_port);
        let path = uri.path().trim_end_matches('/').to_owned();
        Ok(Self { transport, authority, host, port, path })
    }
}

// ------------------------------------------------------------------------------------------------- asking

/// A good answer.
struct Answer {
    body: Bytes,
    from: String,
}

impl Answer {
    fn read<'a, T: Deserialize<'a>>(&'a self) -> Result<T, Complaint> {
        // The body may hold a token: an error says nothing of it.
        serde_json::from_slice(&self.body).map_err(|_| {
            format!(
                "error: {} answers something else than the admin API does: is this the right URL?",
                self.from
            )
        })
    }

    /// The answer as it came, as one line.
    fn line(&self) -> String {
        format!("{}\n", String::from_utf8_lossy(&self.body).trim_end())
    }
}

impl Server {
    /// Revokes or deletes, and says what the API says.
    fn do_and_tell(&self, method: Method, path: &str, body: Option<&Value>) -> Result<(), Complaint> {
        let answer = self.call(method, path, body)?;
        if self.json {
            return print(&answer.line());
        }
        let Message { message, .. } = answer.read()?;
        print(&format!("{}\n", shown(&message)))
    }

    /// The token alone to standard output, so that it can be piped; for people, the rest to standard error.
    fn hand_over(&self, answer: &Answer, done: &str) -> Result<(), Complaint> {
        if self.json {
            return print(&answer.line());
        }
        let Issued { id, name, key } = answer.read()?;
        let key = Secret::new(key);
        remark(&format!("Key {id}, {}, is {done}.  Its token is shown this once:", shown(&name)));
        print(&format!("{}\n", key.expose()))
    }

    fn authorization(&self) -> Result<HeaderValue, Complaint> {
        let value = match (&self.token_file, &self.user, &self.password_file) {
            (Some(path), None, None) => {
                Secret::new(format!("Bearer {}", read_secret("token", path)?.expose()))
            }
            (None, Some(user), Some(path)) => {
                let password = read_secret("password", path)?;
                let pair = Secret::new(format!("{user}:{}", password.expose()));
                Secret::new(format!("Basic {}", STANDARD.encode(pair.expose())))
            }
            _ => return Err("error: give either --token-file, or --user and --password-file".to_owned()),
        };
        let mut value = HeaderValue::from_str(value.expose())
            .map_err(|_| "error: the token holds characters that no token has".to_owned())?;
        value.set_sensitive(true);
        Ok(value)
    }

    /// One call below `/api/auth/keys`; anything but 200 is a complaint in the API's words.
    fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Answer, Complaint> {
        let url: AdminUrl = self.url.parse().map_err(|error| format!("error: --url: {error}"))?;
        let authorization = self.authorization()?;
        if url.transport == Transport::Plain && !url.is_local() {
            remark(&format!("warning: the credential goes to {} without TLS", url.authority));
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
        let request =
            request.body(Full::new(Bytes::from(body))).map_err(|error| format!("error: {error}"))?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| format!("error: cannot start: {error}"))?;
        let asked = runtime.block_on(async {
            tokio::time::timeout(PATIENCE, self.ask(&url, request))
                .await
                .unwrap_or_else(|_| Err(format!("error: no answer from {url} within {PATIENCE:?}")))
        });
        // A name that is still being looked up must not hold the process up.
        runtime.shutdown_background();
        let (status, body) = asked?;
        if status == StatusCode::OK {
            return Ok(Answer { body, from: url.to_string() });
        }
        Err(match serde_json::from_slice(&body) {
            Ok(Message { message, details }) => {
                let details = details.iter().map(|Detail { field, problem }| format!("; {field}: {problem}"));
                let message = format!("{message}{}", details.collect::<String>());
                format!("error: {} ({})", shown(&message), status.as_u16())
            }
            Err(_) => format!("error: {url} answers {status}: is this the admin listener?"),
        })
    }
}

impl Server {
    async fn ask(
        &self,
        url: &AdminUrl,
        request: Request<Full<Bytes>>,
    ) -> Result<(StatusCode, Bytes), Complaint> {
        let client = match url.transport {
            Transport::Plain => None,
            // Before anybody is asked: a file that cannot be read is nobody else's fault.
            Transport::Tls => Some(tls::Client::new(self)?),
        };
        let stream = TcpStream::connect((url.host.as_str(), url.port)).await.map_err(|error| {
            format!("error: nobody answers at {url}: {error}: is the server running, with `admin`?")
        })?;
        match client {
            None => exchange(url, stream, request).await,
            Some(client) => exchange(url, client.secure(url, stream).await?, request).await,
        }
    }
}

async fn exchange(
    url: &AdminUrl,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Full<Bytes>>,
) -> Result<(StatusCode, Bytes), Complaint> {
    let broken = |error: hyper::Error| format!("error: the connection to {url} broke: {error}");
    let (mut client, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    // It ends with the runtime.
    tokio::spawn(connection);
    let (head, body) = client.send_request(request).await.map_err(broken)?.into_parts();
    let body = body.collect().await.map_err(broken)?.to_bytes();
    Ok((head.status, body))
}

#[cfg(test)]
mod tests {
    use super::{AdminUrl, Item, Timestamp, Transport, distance, object, seconds, shown, table};

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
            assert_eq!(seconds(text), Ok(expected), "{text}");
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
            assert!(seconds(text).is_err(), "{text}");
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
            assert_eq!(distance(now, at), expected, "{away}");
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
            let error = text.parse::<AdminUrl>().expect_err(text);
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn nothing_that_is_shown_steers_the_terminal() {
        assert_eq!(shown("a\u{1b}[31mb\u{202e}c\n"), "a\\u{1b}[31mb\\u{202e}c\\u{a}");
        assert_eq!(shown("שלום 🔑"), "שלום 🔑");
    }

    #[test]
    fn an_actor_is_a_json_object() {
        assert!(object(r#"{"team": "a"}"#).is_ok());
        for text in ["", "[]", "1", "{", "{} {}"] {
            assert!(object(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_table_has_a_line_for_each_key() {
        let keys: Vec<Item> = serde_json::from_str(
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
