//! URLs of PostgreSQL: what the client reads of them, and what may be shown.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

use sqlx::postgres::{PgConnectOptions, PgSslMode};

use super::UrlError;

/// The parameters that the PostgreSQL client knows.  It ignores any other, which must not happen to `sslmode`.
const PARAMETERS: [&str; 18] = [
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

/// The parameters that name the trusted authorities.
const ROOT_CERT: [&str; 3] = ["sslrootcert", "ssl-root-cert", "ssl-ca"];
/// The parameters that name the client's certificate and key.
const CLIENT_CERT: [&str; 4] = ["sslcert", "ssl-cert", "sslkey", "ssl-key"];

/// How to connect to the database of this URL.
pub fn options(url: &str) -> Result<PgConnectOptions, UrlError> {
    for (name, _) in parameters(url) {
        if !PARAMETERS.contains(&name.as_str()) && !name.starts_with("options[") {
            // A name that is long or strange, or before an `@`, may be half a password with a `?` in it.
            let plain = name.len() <= 32
                && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
                && !url.split_once('?').is_some_and(|(_, rest)| rest.contains('@'));
            return Err(if plain { UrlError::Parameter(name) } else { UrlError::Postgres });
        }
    }
    let options = PgConnectOptions::from_str(url).map_err(|_| UrlError::Postgres)?;
    match options.get_ssl_mode() {
        PgSslMode::Allow | PgSslMode::VerifyCa => Err(UrlError::Mode),
        PgSslMode::VerifyFull => Ok(options),
        PgSslMode::Disable | PgSslMode::Prefer | PgSslMode::Require => {
            let has_root = parameters(url).any(|(name, _)| ROOT_CERT.contains(&name.as_str()));
            if has_root { Err(UrlError::Unverified) } else { Ok(options) }
        }
    }
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

/// Whether the connection crosses a network and the server's certificate is not verified.
pub fn crosses_network_unverified(url: &str) -> bool {
    let Ok(options) = options(url) else {
        return false;
    };
    let host = options.get_host();
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    let is_loopback = address.is_ok_and(|address| address.to_canonical().is_loopback());
    let is_here = options.get_socket().is_some()
        || host.starts_with('/')
        || host.eq_ignore_ascii_case("localhost")
        || is_loopback;
    !is_here && !matches!(options.get_ssl_mode(), PgSslMode::VerifyFull)
}

/// Writes the URL without user, password and parameters.
pub fn write(url: &str, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
    let Ok(options) = options(url) else {
        return formatter.write_str("postgres://…");
    };
    let database = options.get_database().unwrap_or_default();
    match options.get_socket() {
        Some(socket) => write!(formatter, "postgres://{}/{database}", socket.display()),
        None => {
            let (host, port) = (options.get_host(), options.get_port());
            write!(formatter, "postgres://{host}:{port}/{database}")
        }
    }
}
