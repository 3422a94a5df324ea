//! URLs of PostgreSQL: what we and the client read of them, and what may be shown.
//!
//! Several hosts, `target_session_attrs`, `connect_timeout` and `keepalives_idle` are read here, since the client knows
//! none of them.  It reads one URL for each host.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use sqlx::ConnectOptions;
use sqlx::postgres::{PgConnectOptions, PgSslMode};

use super::UrlError;

/// The parameters that the PostgreSQL client knows.  It ignores any other, which must not happen to `sslmode`.
const CLIENT_PARAMETERS: [&str; 18] = [
    "sslmode",
    "ssl-mode",
    "sslrootcert",
    "ssl-root-cert",
    "ssl-ca",
    "sslcert",
    "ssl-cert",
    "sslkey",
    "ssl-key",
    "statement-cache-capacity",
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
    "application_name",
    "options",
];

const SESSION_ATTRIBUTES: &str = "target_session_attrs";
const CONNECT_TIMEOUT: &str = "connect_timeout";
const KEEPALIVES_IDLE: &str = "keepalives_idle";
/// Those that we read ourselves.
const OWN_PARAMETERS: [&str; 3] = [SESSION_ATTRIBUTES, CONNECT_TIMEOUT, KEEPALIVES_IDLE];
/// Those that may have a value for each host.
const HOST_PARAMETERS: [&str; 3] = ["host", "hostaddr", "port"];

/// The parameters that name the trusted authorities.
const ROOT_CERT: [&str; 3] = ["sslrootcert", "ssl-root-cert", "ssl-ca"];
/// The parameters that name the client's certificate and key.
const CLIENT_CERT: [&str; 4] = ["sslcert", "ssl-cert", "sslkey", "ssl-key"];

/// How long all hosts together may take to be reached, where `connect_timeout` does not say how long each may.
const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(4);
const MIN_CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// After how much silence a connection that listens is asked for a sign of life, where `keepalives_idle` does not say
/// it.
const DEFAULT_IDLE_INTERVAL: Duration = Duration::from_secs(20);
/// The most hosts of one URL.
const MAX_HOSTS: usize = 16;

/// What a URL says.
pub struct Target {
    /// How to connect to each host, in the order in which they are tried.  Their `Debug` shows the password.
    pub hosts: Vec<PgConnectOptions>,
    /// `target_session_attrs`.
    pub session: SessionAttributes,
    /// `connect_timeout`, for each host.
    pub connect_timeout: Duration,
    /// `keepalives_idle`.
    pub idle_interval: Duration,
}

/// What a host must be to be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionAttributes {
    Any,
    ReadWrite,
    ReadOnly,
    Primary,
    Standby,
    PreferStandby,
}

impl SessionAttributes {
    const ALL: [Self; 6] =
        [Self::Any, Self::ReadWrite, Self::ReadOnly, Self::Primary, Self::Standby, Self::PreferStandby];

    /// The word in a URL.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Any => "any",
            Self::ReadWrite => "read-write",
            Self::ReadOnly => "read-only",
            Self::Primary => "primary",
            Self::Standby => "standby",
            Self::PreferStandby => "prefer-standby",
        }
    }

    /// What to look for among all hosts, one after the other.
    pub fn in_order(self) -> &'static [Self] {
        match self {
            Self::Any => &[Self::Any],
            Self::ReadWrite => &[Self::ReadWrite],
            Self::ReadOnly => &[Self::ReadOnly],
            Self::Primary => &[Self::Primary],
            Self::Standby => &[Self::Standby],
            Self::PreferStandby => &[Self::Standby, Self::Any],
        }
    }

    /// Whether a host is as it is wanted.
    pub fn is_met(self, is_standby: bool, is_read_only: bool) -> bool {
        match self {
            Self::Any | Self::PreferStandby => true,
            Self::ReadWrite => !is_standby && !is_read_only,
            Self::ReadOnly => is_standby || is_read_only,
            Self::Primary => !is_standby,
            Self::Standby => is_standby,
        }
    }
}

impl Target {
    /// Reads a URL, for a process that only reads or for one that writes.
    pub fn parse(url: &str, is_read_only: bool) -> Result<Self, UrlError> {
        let hosts = hosts(url)?;
        let count = u32::try_from(hosts.len()).unwrap_or(u32::MAX);
        let mut target = Self {
            session: match hosts.len() {
                // One of several may be a standby now, where nothing can be written.
                2.. if !is_read_only => SessionAttributes::ReadWrite,
                _ => SessionAttributes::Any,
            },
            connect_timeout: (DEFAULT_CONNECT_TIMEOUT / count).max(MIN_CONNECT_TIMEOUT),
            idle_interval: DEFAULT_IDLE_INTERVAL,
            hosts,
        };
        for (name, value) in parameters(url) {
            match name.as_str() {
                SESSION_ATTRIBUTES => {
                    let known = SessionAttributes::ALL.into_iter().find(|one| one.as_str() == value);
                    target.session = known.ok_or(UrlError::SessionAttributes)?;
                }
                CONNECT_TIMEOUT => target.connect_timeout = seconds(CONNECT_TIMEOUT, &value, 1..=60)?,
                KEEPALIVES_IDLE => target.idle_interval = seconds(KEEPALIVES_IDLE, &value, 1..=7200)?,
                _ => {}
            }
        }
        Ok(target)
    }

    /// Whether this is the same database: the same hosts in any order, and the same name.
    pub fn is_same_database(&self, other: &Self) -> bool {
        self.places() == other.places()
    }

    /// The hosts, each with its port and the name of the database, sorted.
    fn places(&self) -> Vec<(String, String)> {
        let place = |host: &PgConnectOptions| {
            // PostgreSQL's own default.
            let database = host.get_database().unwrap_or(host.get_username());
            (host_name(host), database.to_owned())
        };
        let mut places: Vec<_> = self.hosts.iter().map(place).collect();
        places.sort();
        places
    }
}

/// A host with its port, or the folder of its socket.
pub fn host_name(options: &PgConnectOptions) -> String {
    let (host, port) = (options.get_host(), options.get_port());
    match options.get_socket() {
        Some(socket) => socket.display().to_string(),
        None if host.contains(':') => format!("[{host}]:{port}"),
        None => format!("{host}:{port}"),
    }
}

fn seconds(
    parameter: &'static str,
    value: &str,
    range: std::ops::RangeInclusive<u64>,
) -> Result<Duration, UrlError> {
    let seconds = value.parse().ok().filter(|seconds| range.contains(seconds));
    seconds.map(Duration::from_secs).ok_or(UrlError::Seconds { parameter, max: *range.end() })
}

/// How to connect to each host of this URL.
fn hosts(url: &str) -> Result<Vec<PgConnectOptions>, UrlError> {
    for (name, _) in parameters(url) {
        let is_known = CLIENT_PARAMETERS.contains(&name.as_str()) || OWN_PARAMETERS.contains(&name.as_str());
        if !is_known && !name.starts_with("options[") {
            // A name that is long or strange, or before an `@`, may be half a password with a `?` in it.
            let plain = name.len() <= 32
                && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
                && !url.split_once('?').is_some_and(|(_, rest)| rest.contains('@'));
            return Err(if plain { UrlError::Parameter(name) } else { UrlError::Postgres });
        }
    }
    urls(url)?.iter().map(|url| options(url)).collect()
}

/// A URL for each host, without the parameters that we read ourselves.
fn urls(url: &str) -> Result<Vec<String>, UrlError> {
    let (scheme, rest) = url.split_once("://").ok_or(UrlError::Postgres)?;
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let path = path.split(['?', '#']).next().unwrap_or_default();
    let (user_info, authority) = match authority.rsplit_once('@') {
        Some((user_info, hosts)) => (format!("{user_info}@"), hosts),
        None => (String::new(), authority),
    };
    let authority: Vec<&str> = authority.split(',').collect();
    let parameters: Vec<(String, Vec<String>)> = parameters(url)
        .filter(|(name, _)| !OWN_PARAMETERS.contains(&name.as_str()))
        .map(|(name, value)| {
            let values = match HOST_PARAMETERS.contains(&name.as_str()) {
                true => value.split(',').map(str::to_owned).collect(),
                false => vec![value],
            };
            (name, values)
        })
        .collect();
    let lists = parameters.iter().map(|(_, values)| values.len()).chain([authority.len()]);
    let count = lists.clone().max().unwrap_or(1);
    // A list with one value for all hosts is one for each.
    if count > MAX_HOSTS || lists.clone().any(|length| length != count && length != 1) {
        return Err(UrlError::Postgres);
    }
    let nth = |number: usize| {
        let encoded = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
        let query = parameters.iter().map(|(name, values)| {
            let value = values.get(number).or(values.first()).map_or("", String::as_str);
            format!("{}={}", encoded(name), encoded(value))
        });
        let query: Vec<_> = query.collect();
        let host = authority.get(number).or(authority.first()).unwrap_or(&"");
        format!("{scheme}://{user_info}{host}{path}?{}", query.join("&"))
    };
    Ok((0..count).map(nth).collect())
}

/// How to connect to the host of a URL that has one.
fn options(url: &str) -> Result<PgConnectOptions, UrlError> {
    let options = PgConnectOptions::from_str(url).map_err(|_| UrlError::Postgres)?;
    match options.get_ssl_mode() {
        PgSslMode::Allow | PgSslMode::VerifyCa => return Err(UrlError::Mode),
        PgSslMode::VerifyFull => {}
        PgSslMode::Disable | PgSslMode::Prefer | PgSslMode::Require => {
            if parameters(url).any(|(name, _)| ROOT_CERT.contains(&name.as_str())) {
                return Err(UrlError::Unverified);
            }
        }
    }
    // An address of IPv6 is in brackets in a URL alone.
    let host = options.get_host().trim_start_matches('[').trim_end_matches(']').to_owned();
    let options = match options.get_application_name() {
        Some(_) => options,
        None => options.application_name("envoy-auth-tokens"),
    };
    // PgBouncer refuses a client that asks for extra_float_digits.
    Ok(options.host(&host).extra_float_digits(None).disable_statement_logging())
}

/// The files that a URL names, each with its parameter.
pub fn files(url: &str) -> impl Iterator<Item = (String, PathBuf)> {
    let files = parameters(url).filter(|(name, _)| {
        let name = name.as_str();
        ROOT_CERT.contains(&name) || CLIENT_CERT.contains(&name)
    });
    files.map(|(name, path)| (name, PathBuf::from(path)))
}

/// The parameters of a URL, decoded as the client decodes them.
fn parameters(url: &str) -> impl Iterator<Item = (String, String)> {
    let query = url.split_once('?').map_or("", |(_, query)| query);
    let query = query.split_once('#').map_or(query, |(query, _)| query);
    let decoded = |text: &str| {
        let text = text.replace('+', " ");
        percent_encoding::percent_decode_str(&text).decode_utf8_lossy().into_owned()
    };
    query.split('&').filter(|pair| !pair.is_empty()).map(move |pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decoded(name), decoded(value))
    })
}

/// Whether a connection crosses a network and the server's certificate is not verified.
pub fn crosses_network_unverified(url: &str) -> bool {
    let hosts = hosts(url).unwrap_or_default();
    hosts.iter().any(|options| {
        let host = options.get_host();
        let is_loopback = host.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback());
        let is_here = options.get_socket().is_some()
            || host.starts_with('/')
            || host.eq_ignore_ascii_case("localhost")
            || is_loopback;
        !is_here && !matches!(options.get_ssl_mode(), PgSslMode::VerifyFull)
    })
}

/// Whether two URLs lead to the same database; those that cannot be read do not.
pub fn is_same_database(one: &str, other: &str) -> bool {
    let parse = |url| Target::parse(url, false);
    match (parse(one), parse(other)) {
        (Ok(one), Ok(other)) => one.is_same_database(&other),
        (Err(_), _) | (_, Err(_)) => false,
    }
}

/// Writes the URL without user, password and parameters.
pub fn write(url: &str, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
    let hosts = hosts(url).unwrap_or_default();
    let Some(first) = hosts.first() else {
        return formatter.write_str("postgres://…");
    };
    let names: Vec<_> = hosts.iter().map(host_name).collect();
    write!(formatter, "postgres://{}/{}", names.join(","), first.get_database().unwrap_or_default())
}
