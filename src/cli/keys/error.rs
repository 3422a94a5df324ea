//! Why a call to the admin API fails.

use std::io;
use std::path::PathBuf;

use http::StatusCode;
use http::header::InvalidHeaderValue;
use rustls::pki_types::{InvalidDnsNameError, pem};

use super::super::InputError;
use crate::keys::store::{BackupError, OpenError, UrlError};

use super::{AdminUrl, AdminUrlError, REQUEST_TIMEOUT};

/// Why a command of `keys` failed.  No text holds a token, a password or a part of a private key.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// The credential cannot be read.
    #[error("{0}")]
    Input(#[from] InputError),
    /// `migrate`: the text is not the URL of a store.
    #[error("--store-file: {0}")]
    StoreUrl(#[source] UrlError),
    /// `migrate`: the store cannot be opened or brought up to date.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The arguments name no credential.
    #[error("give either --token-file, or --user and --password-file")]
    NoCredential,
    /// The credential cannot stand in a header.
    #[error("the token holds characters that no token has")]
    CredentialCharacters(#[source] InvalidHeaderValue),
    /// The server's URL cannot be used.
    #[error("--url: {0}")]
    Url(#[from] AdminUrlError),
    /// The server's certificate cannot be verified, because no certificate can have this name.
    #[error("--url: no certificate can be for the host {host}")]
    ServerName {
        /// The host of the URL.
        host: String,
        /// What is wrong with it.
        source: InvalidDnsNameError,
    },
    /// The request cannot be built.
    #[error("{0}")]
    Request(#[source] http::Error),
    /// `migrate` and `backup`: the configuration names no store.
    #[error("the configuration {} has no section `keys`, and so no store", .0.display())]
    NoStore(PathBuf),
    /// The store to copy is a PostgreSQL database.
    #[error("the key store is a PostgreSQL database: copy it with pg_dump")]
    BackupOfPostgres,
    /// No backup was made.
    #[error("{0}")]
    Backup(#[from] BackupError),
    /// The runtime cannot be started.
    #[error("cannot start: {0}")]
    Runtime(#[source] io::Error),
    /// No connection can be made.
    #[error("nobody answers at {url}: {source}: is the server running, with `admin`?")]
    Unreachable {
        /// The server's URL.
        url: AdminUrl,
        /// What the operating system says.
        source: io::Error,
    },
    /// The call took too long.
    #[error("no answer from {0} within {REQUEST_TIMEOUT:?}")]
    Timeout(AdminUrl),
    /// The TLS handshake fails.
    #[error("no TLS with {url}: {source}{advice}")]
    Handshake {
        /// The server's URL.
        url: AdminUrl,
        /// What TLS says.
        source: io::Error,
        /// What to do about it; may be empty.
        advice: &'static str,
    },
    /// The connection broke.
    #[error("the connection to {url} broke: {source}")]
    Connection {
        /// The server's URL.
        url: AdminUrl,
        /// What HTTP says.
        source: hyper::Error,
    },
    /// The API answers with an error.
    #[error("{message} ({})", status.as_u16())]
    Api {
        /// The API's own words, without control characters.
        message: String,
        /// The status, which is not 200.
        status: StatusCode,
    },
    /// The server answers with an error that is not the API's.
    #[error("{url} answers {status}: is this the admin listener?")]
    UnexpectedStatus {
        /// The server's URL.
        url: AdminUrl,
        /// The status, which is not 200.
        status: StatusCode,
    },
    /// The body of a response is not the API's.  The parser's error is dropped: it may quote a token.
    #[error("{0} answers something else than the admin API does: is this the right URL?")]
    UnexpectedBody(AdminUrl),
    /// The system's CAs cannot be found.
    #[error("this system has no file of CAs where we know to look: name one with --ca-file")]
    NoSystemCas(#[source] Option<rustls_native_certs::Error>),
    /// No certificate in a file can be used as a CA.
    #[error("there is no CA in {} that can be used", .0.display())]
    NoUsableCa(PathBuf),
    /// A file of certificates cannot be read.
    #[error("cannot read the certificates in {}: {source}", path.display())]
    Certificates {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: pem::Error,
    },
    /// A private key cannot be read.  The parser's error is dropped: it may quote a part of the key.
    #[error("no private key in PEM, without a password, can be read from {}", .0.display())]
    PrivateKey(PathBuf),
    /// The client's certificate and key do not fit together.
    #[error(
        "the certificate in {} and the key in {} cannot be used: {source}",
        cert.display(),
        key.display()
    )]
    ClientCertificate {
        /// The file of the certificate.
        cert: PathBuf,
        /// The file of the key.
        key: PathBuf,
        /// What TLS says.
        source: rustls::Error,
    },
}
