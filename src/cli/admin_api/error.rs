//! Why a call to the admin API fails.

use std::io;
use std::path::PathBuf;

use http::StatusCode;
use http::header::InvalidHeaderValue;
use rustls::pki_types::{InvalidDnsNameError, pem};

use super::super::InputError;
use super::words::ApiAnswer;
use super::{
    AdminUrl, AdminUrlError, PASSWORD_FILE_VARIABLE, REQUEST_TIMEOUT, TOKEN_FILE_VARIABLE, USER_VARIABLE,
};
use crate::file_problem::Unreadable;

/// Why a call of the admin API failed.  No text holds a token, a password or a part of a private key.
#[derive(Debug, thiserror::Error)]
pub enum AdminApiError {
    /// The credential cannot be read.
    #[error("{0}")]
    Input(#[from] InputError),
    /// The arguments name no credential.
    #[error(
        "the admin API requires a credential. Give one of\n  \
         --token-file FILE, or - for standard input: a token or an API key\n  \
         --user NAME and --password-file FILE, or - for standard input\n  \
         --user NAME at a terminal, which asks for the password\n\
         or set {TOKEN_FILE_VARIABLE}, or {USER_VARIABLE} and maybe {PASSWORD_FILE_VARIABLE}"
    )]
    NoCredential,
    /// Variables name two credentials.
    #[error("{TOKEN_FILE_VARIABLE} and {USER_VARIABLE} are both set: choose one with --token-file or --user")]
    TwoCredentials,
    /// There is a password without a user.
    #[error("--password-file needs the name of the user: give --user, or set {USER_VARIABLE}")]
    PasswordWithoutUser,
    /// The user in the variable is not UTF-8.
    #[error("{USER_VARIABLE} is not UTF-8")]
    UserVariable,
    /// There is a user, but neither a password file nor a terminal.
    #[error(
        "there is no terminal to ask for the password of {user}: give --password-file FILE (- for standard input), \
         or set {PASSWORD_FILE_VARIABLE}{hint}"
    )]
    NoPassword {
        /// The user.
        user: String,
        /// Why the file of a variable does not count; may be empty.
        hint: &'static str,
    },
    /// The credential cannot be in a header.
    #[error(
        "the token has characters that a token cannot have: 1 to 4096 visible ASCII characters without comma \
         and semicolon"
    )]
    CredentialCharacters(#[source] InvalidHeaderValue),
    /// The server's URL cannot be used.
    #[error("{from}: {source}")]
    Url {
        /// The argument or the variable that it is in.
        from: &'static str,
        /// The problem.
        source: AdminUrlError,
    },
    /// The server's certificate cannot be verified, because no certificate can have this name.
    #[error("the URL of the admin listener: the host {host} cannot be the name in a certificate")]
    ServerName {
        /// The host of the URL.
        host: String,
        /// The problem.
        source: InvalidDnsNameError,
    },
    /// The request cannot be built.
    #[error("{0}")]
    Request(#[source] http::Error),
    /// The runtime cannot be started.
    #[error("cannot start: {0}")]
    Runtime(#[source] io::Error),
    /// No connection can be made.
    #[error(
        "cannot connect to {url}: {source}: check that the server runs and that its configuration has the \
         section `admin`"
    )]
    Unreachable {
        /// The server's URL.
        url: AdminUrl,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The host of the URL is unknown.
    #[error("the host name {host} in {url} is unknown: {source}: correct the URL, or check the DNS")]
    UnknownHost {
        /// The host.
        host: String,
        /// The server's URL.
        url: AdminUrl,
        /// What the operating system says.
        source: io::Error,
    },
    /// The call took too long.
    #[error("no answer from {0} within {REQUEST_TIMEOUT:?}")]
    Timeout(AdminUrl),
    /// The TLS handshake fails.
    #[error("TLS with {url} failed: {source}{advice}")]
    Handshake {
        /// The server's URL.
        url: AdminUrl,
        /// The TLS error.
        source: io::Error,
        /// What to do about it; may be empty.
        advice: &'static str,
    },
    /// What answers is no HTTP server, or hung up.
    #[error(
        "{url} does not answer with HTTP: {source}: check that the URL is that of the admin listener \
         (`admin.listen`) and not of ext_authz{advice}"
    )]
    NoHttp {
        /// The server's URL.
        url: AdminUrl,
        /// The HTTP error.
        source: hyper::Error,
        /// What else to look for; may be empty.
        advice: &'static str,
    },
    /// The connection broke.
    #[error("the connection to {url} broke: {source}")]
    Connection {
        /// The server's URL.
        url: AdminUrl,
        /// The HTTP error.
        source: hyper::Error,
    },
    /// The API answers with an error.
    #[error("{}", .0.in_words_of_the_command_line())]
    Api(ApiAnswer),
    /// The server answers with an error that is not the API's.
    #[error("{url} answers {status}: check that the URL is that of the admin listener")]
    UnexpectedStatus {
        /// The server's URL.
        url: AdminUrl,
        /// The status, which is not 2xx.
        status: StatusCode,
    },
    /// The server has nothing at the path of the URL.
    #[error(
        "{0} has no admin API (404): the URL is that of the admin listener, without a path, unless the server's \
         `admin.public_url` has one"
    )]
    NothingAtPath(AdminUrl),
    /// The body of a response is not the API's.  The parser's error is dropped: it may quote a token.
    #[error("{0} does not answer as the admin API does: check that the URL is that of the admin listener")]
    UnexpectedBody(AdminUrl),
    /// The system's CAs cannot be found.
    #[error("no file with the CAs of this system was found: give one with --ca-file")]
    NoSystemCas(#[source] Option<rustls_native_certs::Error>),
    /// No certificate in a file can be used as a CA.
    #[error("{} has no CA certificate that can be used", .0.display())]
    NoUsableCa(PathBuf),
    /// A file of certificates cannot be read.
    #[error("cannot read the certificates in {}: {}", path.display(), certificates_problem(.source))]
    Certificates {
        /// The file.
        path: PathBuf,
        /// The problem.
        source: pem::Error,
    },
    /// The file of a private key cannot be read.
    #[error("cannot read the private key in {}: {}", path.display(), Unreadable(.source))]
    PrivateKeyFile {
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// A private key cannot be parsed.  The parser's error is dropped: it may quote a part of the key.
    #[error("{} has no private key in PEM, or the key is encrypted: write it without a password", .0.display())]
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
        /// The TLS error.
        source: rustls::Error,
    },
}

fn certificates_problem(error: &pem::Error) -> String {
    match error {
        pem::Error::Io(error) => Unreadable(error).to_string(),
        other => other.to_string(),
    }
}

impl AdminApiError {
    /// Whether the command line is at fault, and not what it met.
    pub(in crate::cli) fn is_usage(&self) -> bool {
        matches!(self, Self::NoCredential | Self::TwoCredentials | Self::PasswordWithoutUser)
    }

    /// Whether the API says that it does not take this one request, and might take another one.
    pub(in crate::cli) fn is_about_the_request(&self) -> bool {
        let others = [
            StatusCode::UNAUTHORIZED,
            StatusCode::NOT_FOUND,
            StatusCode::MISDIRECTED_REQUEST,
            StatusCode::TOO_MANY_REQUESTS,
        ];
        matches!(self, Self::Api(answer) if answer.status.is_client_error() && !others.contains(&answer.status))
    }

    /// Whether the API answers that there is no such thing.
    pub(in crate::cli) fn is_not_found(&self) -> bool {
        self.answer().is_some_and(|answer| answer.status == StatusCode::NOT_FOUND)
    }

    /// What the API answers, where it does.
    pub(in crate::cli) fn answer(&self) -> Option<&ApiAnswer> {
        if let Self::Api(answer) = self { Some(answer) } else { None }
    }

    /// Whether the server may have done what it was asked for, without saying so.
    pub(in crate::cli) fn may_be_done(&self) -> bool {
        matches!(
            self,
            Self::Timeout(_) | Self::NoHttp { .. } | Self::Connection { .. } | Self::UnexpectedBody(_)
        )
    }
}
