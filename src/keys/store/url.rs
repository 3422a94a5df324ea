//! The URL of a store.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

use sqlx::postgres::{PgConnectOptions, PgSslMode};

use crate::secret::Secret;

/// The URL of a store.  `Display` and `Debug` show neither user nor password.
#[derive(Clone, PartialEq, Eq)]
pub enum StoreUrl {
    /// A SQLite file.
    Sqlite(PathBuf),
    /// A whole `postgres://` URL; it may hold a password.
    Postgres(Secret),
}

/// Why a text is not the URL of a store.  The error never holds the text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// Neither SQLite nor PostgreSQL.
    #[error("expected sqlite:PATH or postgres://USER@HOST/DATABASE")]
    Scheme,
    /// `sqlite:` without a path, or with one that is no file's.
    #[error("expected the path of a file after sqlite:")]
    Path,
    /// What follows `postgres://` cannot be read.
    #[error("the postgres:// URL cannot be read: expected postgres://USER@HOST:PORT/DATABASE?sslmode=…")]
    Postgres,
    /// A parameter that the client would ignore, such as a misspelt `sslmode`.
    #[error("the postgres:// URL has a parameter that is unknown: {0}")]
    Parameter(String),
    /// A mode that is weaker in the client than its name says: with `allow` it never encrypts, and with `verify-ca` it
    /// takes a certificate of any public authority for any name.
    #[error(
        "the postgres:// URL's sslmode can be disable, prefer, require or verify-full: allow would never encrypt, \
         and verify-ca would trust every public authority for any name"
    )]
    Mode,
    /// Certificates of authorities with a mode in which the client verifies nothing.
    #[error("the postgres:// URL has an sslrootcert, which is heeded with sslmode=verify-full alone")]
    Unverified,
}

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

impl StoreUrl {
    /// Reads `sqlite:PATH`, `postgres://…` or `postgresql://…`.  A relative path stays relative.
    ///
    /// # Errors
    /// [`UrlError`] says what was expected.
    pub fn parse(text: &str) -> Result<Self, UrlError> {
        if let Some(path) = text.strip_prefix("sqlite:") {
            // sqlite:/path and sqlite:///path are the same; sqlite://path would be a host.
            let path = path.strip_prefix("//").unwrap_or(path);
            if path.is_empty() || path.ends_with('/') || path.starts_with(':') || path.contains(['?', '\0']) {
                return Err(UrlError::Path);
            }
            return Ok(Self::Sqlite(PathBuf::from(path)));
        }
        if !text.starts_with("postgres://") && !text.starts_with("postgresql://") {
            return Err(UrlError::Scheme);
        }
        postgres_options(text)?;
        Ok(Self::Postgres(Secret::new(text.to_owned())))
    }

    /// Whether the connection to PostgreSQL crosses a network and the server's certificate is not verified.
    pub fn crosses_network_unverified(&self) -> bool {
        let Self::Postgres(url) = self else {
            return false;
        };
        let Ok(options) = postgres_options(url.expose()) else {
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
}

impl FromStr for StoreUrl {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

/// How to connect to the database of this URL.
pub(super) fn postgres_options(url: &str) -> Result<PgConnectOptions, UrlError> {
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
pub(super) fn postgres_files(url: &str) -> impl Iterator<Item = (String, PathBuf)> {
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

impl fmt::Display for StoreUrl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => write!(formatter, "sqlite:{}", path.display()),
            Self::Postgres(url) => {
                let Ok(options) = postgres_options(url.expose()) else {
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
        }
    }
}

impl fmt::Debug for StoreUrl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "StoreUrl({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_stores_are_reached_over_a_network_unverified() {
        for (url, expected) in [
            ("sqlite:keys.db", false),
            ("postgres://u:p@db.example/keys", true),
            ("postgres://u:p@db.example/keys?sslmode=disable", true),
            ("postgres://u:p@db.example/keys?sslmode=prefer", true),
            ("postgres://u:p@db.example/keys?sslmode=require", true),
            ("postgres://u:p@db.example/keys?sslmode=verify-full", false),
            ("postgres://10.0.0.1/keys", true),
            ("postgres://127.0.0.1:5433/keys", false),
            ("postgres://127.8.0.1/keys", false),
            ("postgres://[::1]/keys", false),
            ("postgres://localhost/keys", false),
            ("postgres:///keys?host=/run/postgresql", false),
            ("postgres://localhost.example/keys", true),
            ("postgres:///keys?host=db.example", true),
        ] {
            assert_eq!(StoreUrl::parse(url).unwrap().crosses_network_unverified(), expected, "{url}");
        }
    }

    #[test]
    fn what_is_shown_of_a_store() {
        let cases: &[(&str, Result<&str, UrlError>)] = &[
            ("sqlite:/var/lib/keys.db", Ok("sqlite:/var/lib/keys.db")),
            ("sqlite:///var/lib/keys.db", Ok("sqlite:/var/lib/keys.db")),
            ("sqlite:keys.db", Ok("sqlite:keys.db")),
            ("postgres://user:hunter2@db.example:5433/keys", Ok("postgres://db.example:5433/keys")),
            (
                "postgresql://db.example/keys?user=u&password=hunter2&sslmode=require",
                Ok("postgres://db.example:5432/keys"),
            ),
            ("postgres:///keys?host=/run/postgresql", Ok("postgres:///run/postgresql/keys")),
            (
                "postgres://db/keys?sslmode=verify-full&sslrootcert=%2Fetc%2Fca.pem",
                Ok("postgres://db:5432/keys"),
            ),
            ("postgres://db/keys?sslmode=verify-ca&sslrootcert=/etc/ca.pem", Err(UrlError::Mode)),
            ("postgres://u:hunter2@db/keys?sslmode=allow", Err(UrlError::Mode)),
            ("postgres://db/keys?sslmode=require&ssl%72ootcert=/etc/ca.pem", Err(UrlError::Unverified)),
            ("postgres://u:hunter2@db/keys?ssl-ca=/etc/ca.pem", Err(UrlError::Unverified)),
            ("sqlite:", Err(UrlError::Path)),
            ("sqlite::memory:", Err(UrlError::Path)),
            ("sqlite:/var/lib/", Err(UrlError::Path)),
            ("sqlite:keys.db?mode=ro", Err(UrlError::Path)),
            ("mysql://hunter2@db/keys", Err(UrlError::Scheme)),
            ("", Err(UrlError::Scheme)),
            ("postgres://user:hunter2@db:port/keys", Err(UrlError::Postgres)),
            ("postgres://db/keys?sslmode=hunter2", Err(UrlError::Postgres)),
            ("postgres://u:pass?hunter2@db/keys", Err(UrlError::Postgres)),
            ("postgres://u:pass?hunter&b@db/keys", Err(UrlError::Postgres)),
            ("postgres://u:pass?hunter#b@db/keys", Err(UrlError::Postgres)),
            ("postgres://db/keys?ssl=require", Err(UrlError::Parameter("ssl".to_owned()))),
        ];
        for (text, expected) in cases {
            let found = StoreUrl::parse(text);
            let debugged = format!("{found:?}");
            assert!(!debugged.contains("hunter2"), "{debugged}");
            assert_eq!(found.map(|url| url.to_string()), expected.clone().map(str::to_owned), "{text}");
        }
    }
}
