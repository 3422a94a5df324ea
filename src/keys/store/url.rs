//! The URL of a store.

#[cfg(feature = "postgres")]
pub(super) mod postgres;

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

#[cfg(feature = "postgres")]
use crate::secret::Secret;

/// The URL of a store.  `Display` and `Debug` show neither user nor password.
#[derive(Clone, PartialEq, Eq)]
pub enum StoreUrl {
    /// A SQLite file.
    Sqlite(PathBuf),
    /// A whole `postgres://` URL; it may hold a password.
    #[cfg(feature = "postgres")]
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
    /// A `postgres://` URL, for a program that was built without the feature `postgres`.
    #[cfg(not(feature = "postgres"))]
    #[error("this program was built without PostgreSQL: expected sqlite:PATH")]
    NoPostgres,
    /// What follows `postgres://` cannot be read.
    #[error("the postgres:// URL cannot be read: expected postgres://USER@HOST:PORT/DATABASE?sslmode=…")]
    Postgres,
    /// A parameter that the client would ignore, such as a misspelt `sslmode`.
    #[error("the postgres:// URL has a parameter that is unknown: {0}")]
    Parameter(String),
    /// `target_session_attrs` has a value that PostgreSQL's own clients do not know.
    #[error(
        "the postgres:// URL's target_session_attrs can be any, read-write, read-only, primary, standby or \
         prefer-standby"
    )]
    SessionAttributes,
    /// A parameter that is a number of seconds is none, or is too small or too large.
    #[error("the postgres:// URL's {parameter} is a number of seconds from 1 to {max}")]
    Seconds {
        /// The parameter.
        parameter: &'static str,
        /// The largest value.
        max: u64,
    },
    /// A mode that is weaker in the client than its name says: with `allow` it never encrypts, and with `verify-ca` it
    /// takes a certificate of any public authority for any name.
    #[error(
        "the sslmode of the postgres:// URL can be disable, prefer, require or verify-full: allow may not \
         encrypt, and verify-ca does not verify the host name"
    )]
    Mode,
    /// Certificates of authorities with a mode in which the client verifies nothing.
    #[error("the postgres:// URL has an sslrootcert, which is used only with sslmode=verify-full")]
    Unverified,
}

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
        #[cfg(feature = "postgres")]
        {
            postgres::Target::parse(text, false)?;
            Ok(Self::Postgres(Secret::new(text.to_owned())))
        }
        #[cfg(not(feature = "postgres"))]
        Err(UrlError::NoPostgres)
    }

    /// Whether this leads to the same database: the same file, or the same hosts and ports, in any order, with the same
    /// name of the database.
    pub fn is_same_database(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Sqlite(one), Self::Sqlite(other)) => one == other,
            #[cfg(feature = "postgres")]
            (Self::Postgres(one), Self::Postgres(other)) => {
                postgres::is_same_database(one.expose(), other.expose())
            }
            #[cfg(feature = "postgres")]
            (Self::Sqlite(_), Self::Postgres(_)) | (Self::Postgres(_), Self::Sqlite(_)) => false,
        }
    }

    /// Whether the connection to PostgreSQL crosses a network and the server's certificate is not verified.
    pub fn crosses_network_unverified(&self) -> bool {
        match self {
            Self::Sqlite(_) => false,
            #[cfg(feature = "postgres")]
            Self::Postgres(url) => postgres::crosses_network_unverified(url.expose()),
        }
    }
}

impl FromStr for StoreUrl {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => write!(formatter, "sqlite:{}", path.display()),
            #[cfg(feature = "postgres")]
            Self::Postgres(url) => postgres::write(url.expose(), formatter),
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
            ("postgres://127.0.0.1:5433,db.example/keys", true),
            ("postgres://127.0.0.1:5433,[::1]:5434/keys", false),
        ] {
            assert_eq!(StoreUrl::parse(url).unwrap().crosses_network_unverified(), expected, "{url}");
        }
    }

    #[test]
    fn which_urls_lead_to_the_same_database() {
        let of = "postgres://u:p@h1:5432,h2:5433/keys";
        for (other, expected) in [
            ("postgres://other:secret@h1:5432,h2:5433/keys", true),
            ("postgres://u:p@h2:5433,h1/keys?sslmode=require&application_name=x", true),
            ("postgres:///keys?host=h1,h2&port=5432,5433&user=u", true),
            ("postgres://u:p@h1:5432/keys", false),
            ("postgres://u:p@h1:5432,h2:5432/keys", false),
            ("postgres://u:p@h1:5432,h2:5433/other", false),
            ("sqlite:keys.db", false),
        ] {
            let (one, other) = (StoreUrl::parse(of).unwrap(), StoreUrl::parse(other).unwrap());
            assert_eq!(one.is_same_database(&other), expected, "{other}");
        }
        let [one, other] = ["sqlite:keys.db", "sqlite:///keys.db"].map(|url| StoreUrl::parse(url).unwrap());
        assert!(one.is_same_database(&one) && !one.is_same_database(&other));
        // Without a name it is the user's.
        let [one, other] = ["postgres://u@h/", "postgres://v@h/"].map(|url| StoreUrl::parse(url).unwrap());
        assert!(one.is_same_database(&one) && !one.is_same_database(&other));
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
            ("postgres://u:hunter2@h1:5432,h2:5433/db", Ok("postgres://h1:5432,h2:5433/db")),
            ("postgres://u:hunter2@[::1]:5433,h2/db", Ok("postgres://[::1]:5433,h2:5432/db")),
            (
                "postgres:///db?user=u&password=hunter2&host=h1,h2&port=6432",
                Ok("postgres://h1:6432,h2:6432/db"),
            ),
            ("postgres://u:hunter2@/db?host=h1,h2&port=6432", Err(UrlError::Postgres)),
            ("postgres:///db?password=hunter2&host=h1,h2&port=1,2,3", Err(UrlError::Postgres)),
            ("postgres://u:hunter2@h1,h2:port/db", Err(UrlError::Postgres)),
            ("postgres://u:hunter2@db/keys?target_session_attrs=hunter2", Err(UrlError::SessionAttributes)),
            (
                "postgres://db/keys?target_session_attrs=standby&connect_timeout=3&keepalives_idle=5",
                Ok("postgres://db:5432/keys"),
            ),
            (
                "postgres://db/keys?connect_timeout=0",
                Err(UrlError::Seconds { parameter: "connect_timeout", max: 60 }),
            ),
            (
                "postgres://db/keys?keepalives_idle=hunter2",
                Err(UrlError::Seconds { parameter: "keepalives_idle", max: 7200 }),
            ),
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
