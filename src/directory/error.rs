//! Why a directory could not be asked, in words for its operator.  They hold no password and no name of a person.

use std::fmt;
use std::io;
use std::time::Duration;

use rustls::pki_types::InvalidDnsNameError;
use rustls::{CertificateError, Error as TlsError};

/// The most characters of a server's own words that are passed on.
const MAX_MESSAGE: usize = 200;

/// The directory could not be asked: whether a password is right, and who somebody is, is not known.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// Each server was tried, in this order, and none answered.
    #[error("{}", join(.0))]
    Servers(Vec<ServerError>),
    /// As many questions as may be are being answered already.
    #[error("{0} questions to the directory wait for their answers already")]
    Busy(usize),
    /// Nobody may read an entry without that person's own password.
    #[error("with %s in `bind_dn` the directory can be asked about nobody without their password")]
    DirectBind,
    /// The thread that asks has ended.
    #[error("the directory is asked no longer: the process ends")]
    Stopped,
}

fn join(errors: &[ServerError]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// What went wrong at one server.
#[derive(Debug, thiserror::Error)]
#[error("{server}: {problem}")]
pub struct ServerError {
    /// Its URL.
    pub server: String,
    /// What went wrong, and what to do.
    #[source]
    pub problem: Problem,
}

/// What went wrong at a server.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// `getaddrinfo` knows no address.
    #[error("its name cannot be resolved: {0}")]
    Unresolvable(#[source] io::Error),
    /// No connection is made.
    #[error("cannot be reached: {0}")]
    Unreachable(#[source] io::Error),
    /// No answer came in time.
    #[error("did not answer within {0:?} (`ldap.timeout`)")]
    NoAnswer(Duration),
    /// All connections that may be are in use.  This says nothing about the server.
    #[error("the {0} connections to it were in use for as long as a question may take")]
    Busy(usize),
    /// Nothing would be encrypted on the way to another machine.
    #[error("its address is not of this machine: set `ldap.start_tls: true`, or use ldaps://")]
    PlainText,
    /// No CA is known.
    #[error("no CA is known: the system has none, and `ldap.ca` names none")]
    NoCa,
    /// A host that no certificate can name.
    #[error("no certificate can name this host: {0}")]
    Host(#[source] InvalidDnsNameError),
    /// The handshake failed.
    #[error("TLS: {0}{advice}", advice = tls_advice(.0))]
    Tls(#[source] io::Error),
    /// The server does not go on with TLS.
    #[error("refused StartTLS: {0}.  Give it a certificate, or use ldaps://")]
    StartTls(Outcome),
    /// Something came before TLS had begun.
    #[error("sent bytes before TLS had begun.  Somebody on the way may have added them")]
    EarlyBytes,
    /// The connection is gone.
    #[error("lost the connection: {0}")]
    Lost(#[source] io::Error),
    /// The server said that it closes the connection.
    #[error("closes the connection: {0}")]
    Disconnection(Outcome),
    /// What came is not LDAP, or answers nothing that was asked.
    #[error("sent something that is no answer of LDAP")]
    Malformed,
    /// An answer is too long to be read.
    #[error("sent an answer that is too long to be one")]
    TooLong,
    /// `bind_dn` may not bind.
    #[error("denied `bind_dn`: {0}{advice}", advice = bind_advice(.0))]
    Reader(Outcome),
    /// The server cannot say whether a password is right.
    #[error("could not check a password: {}", .0.name())]
    Bind(Outcome),
    /// A search failed.
    #[error("searching {base}: {outcome}{advice}", advice = search_advice(outcome))]
    Search {
        /// Where it began.
        base: String,
        /// What the server says.
        outcome: Outcome,
    },
    /// A filter is none.
    #[error("`{0}` is no filter of RFC 4515")]
    Filter(&'static str),
    /// `bind_dn` with somebody's name in it is no distinguished name.
    #[error("`bind_dn` with a name in it is no distinguished name: {0}")]
    Template(#[source] crate::distinguished_name::DistinguishedNameError),
}

fn tls_advice(error: &io::Error) -> &'static str {
    match error.get_ref().and_then(|cause| cause.downcast_ref::<TlsError>()) {
        Some(TlsError::InvalidCertificate(CertificateError::UnknownIssuer)) => {
            ".  Name the CA of its certificate with `ldap.ca`"
        }
        Some(TlsError::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        )) => ".  Write a name that its certificate has into `ldap.url`, or have the certificate made anew",
        // As `openssl req -x509` makes it.
        Some(TlsError::InvalidCertificate(CertificateError::Other(_))) => {
            ".  A certificate that is its own CA is none of a server: let a CA sign one, and name the CA with `ldap.ca`"
        }
        Some(TlsError::InvalidMessage(_)) => ".  Does it speak plain LDAP at this port?",
        Some(_) | None => "",
    }
}

fn bind_advice(outcome: &Outcome) -> &'static str {
    match outcome.code {
        Outcome::INVALID_CREDENTIALS => ".  Are `bind_dn` and `bind_password` right?",
        Outcome::STRONGER_AUTH_REQUIRED | Outcome::CONFIDENTIALITY_REQUIRED => {
            ".  Use ldaps://, or set `ldap.start_tls: true`"
        }
        _ => "",
    }
}

fn search_advice(outcome: &Outcome) -> &'static str {
    match outcome.code {
        Outcome::NO_SUCH_OBJECT => ".  It does not exist, or `bind_dn` may not see it",
        // Active Directory's answer to who has not bound.
        Outcome::OPERATIONS_ERROR | Outcome::INSUFFICIENT_ACCESS | Outcome::INAPPROPRIATE_AUTHENTICATION => {
            ".  Name a `bind_dn` that may search there"
        }
        Outcome::STRONGER_AUTH_REQUIRED | Outcome::CONFIDENTIALITY_REQUIRED => {
            ".  Use ldaps://, or set `ldap.start_tls: true`"
        }
        _ => "",
    }
}

/// The end of an operation: its result code (RFC 4511, appendix A), and the server's own words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The result code.
    pub code: u32,
    /// At most 200 characters of `diagnosticMessage`, without control characters.
    pub message: Box<str>,
}

impl Outcome {
    pub(super) const SUCCESS: u32 = 0;
    pub(super) const OPERATIONS_ERROR: u32 = 1;
    pub(super) const SIZE_LIMIT_EXCEEDED: u32 = 4;
    pub(super) const STRONGER_AUTH_REQUIRED: u32 = 8;
    pub(super) const REFERRAL: u32 = 10;
    pub(super) const CONFIDENTIALITY_REQUIRED: u32 = 13;
    pub(super) const CONSTRAINT_VIOLATION: u32 = 19;
    pub(super) const NO_SUCH_OBJECT: u32 = 32;
    pub(super) const ALIAS_PROBLEM: u32 = 33;
    pub(super) const ALIAS_DEREFERENCING_PROBLEM: u32 = 36;
    pub(super) const INAPPROPRIATE_AUTHENTICATION: u32 = 48;
    pub(super) const INVALID_CREDENTIALS: u32 = 49;
    pub(super) const INSUFFICIENT_ACCESS: u32 = 50;
    pub(super) const UNWILLING_TO_PERFORM: u32 = 53;

    pub(super) fn new(code: u32, message: &str) -> Self {
        let shown = |character: &char| !character.is_control();
        Self { code, message: message.chars().filter(shown).take(MAX_MESSAGE).collect() }
    }

    pub(super) fn is_success(&self) -> bool {
        self.code == Self::SUCCESS
    }

    /// What the code means, with the code, and without the server's own words.
    pub(super) fn name(&self) -> String {
        let name = match self.code {
            Self::SUCCESS => "success",
            Self::OPERATIONS_ERROR => "operations error",
            2 => "protocol error",
            3 => "time limit exceeded",
            Self::SIZE_LIMIT_EXCEEDED => "size limit exceeded",
            7 => "authentication method not supported",
            Self::STRONGER_AUTH_REQUIRED => "stronger authentication required",
            Self::REFERRAL => "referral",
            11 => "administrative limit exceeded",
            12 => "unavailable critical extension",
            Self::CONFIDENTIALITY_REQUIRED => "confidentiality required",
            14 => "SASL bind in progress",
            Self::CONSTRAINT_VIOLATION => "constraint violation",
            Self::NO_SUCH_OBJECT => "no such object",
            Self::ALIAS_PROBLEM => "alias problem",
            34 => "invalid distinguished name",
            Self::ALIAS_DEREFERENCING_PROBLEM => "alias dereferencing problem",
            Self::INAPPROPRIATE_AUTHENTICATION => "inappropriate authentication",
            Self::INVALID_CREDENTIALS => "invalid credentials",
            Self::INSUFFICIENT_ACCESS => "insufficient access rights",
            51 => "busy",
            52 => "unavailable",
            Self::UNWILLING_TO_PERFORM => "unwilling to perform",
            54 => "loop detected",
            80 => "other",
            _ => "an error of its own",
        };
        format!("{name} ({})", self.code)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.name())?;
        if self.message.is_empty() { Ok(()) } else { write!(formatter, ", {:?}", self.message) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outcome_shows_a_bounded_and_printable_text() {
        assert_eq!(Outcome::new(49, "").to_string(), "invalid credentials (49)");
        assert_eq!(Outcome::new(52, "a\n\"b\"").to_string(), "unavailable (52), \"a\\\"b\\\"\"");
        assert_eq!(Outcome::new(4711, "").to_string(), "an error of its own (4711)");
        assert_eq!(Outcome::new(1, &"é".repeat(1_000)).message.chars().count(), MAX_MESSAGE);
    }
}
