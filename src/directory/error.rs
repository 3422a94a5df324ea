//! Errors of questions to a directory, for its operator.  They contain no password and no name of a person: the
//! server's own text is included only where the question was not about a person.

use std::fmt;
use std::io;
use std::time::Duration;

use rustls::pki_types::InvalidDnsNameError;
use rustls::{CertificateError, Error as TlsError};

/// The maximum number of characters of a server's own text that are included.
const MAX_MESSAGE: usize = 200;

/// The directory could not be asked: it is not known whether a password is right or who the person is.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// Each server was tried, in this order, and none answered.
    #[error("{}", join(.0))]
    Servers(Vec<ServerError>),
    /// The limit of concurrent questions is reached.
    #[error("{0} requests to the directory are waiting for an answer, which is the limit")]
    Busy(usize),
    /// An entry can be read only with the password of its person.
    #[error(
        "with %s in `bind_dn` the directory can be asked about a person only with the password of that \
         person"
    )]
    DirectBind,
    /// The thread has ended, or the question panicked.
    #[error("the request ended without an answer: it panicked, or its thread has ended: please report this")]
    Stopped,
}

impl DirectoryError {
    /// Whether the directory would not answer another question either.  Otherwise the error may concern only one name.
    pub fn is_outage(&self) -> bool {
        match self {
            Self::Servers(errors) => errors.iter().all(|error| error.problem.is_outage()),
            Self::Busy(_) => true,
            Self::DirectBind | Self::Stopped => false,
        }
    }
}

fn join(errors: &[ServerError]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// The error of one server.
#[derive(Debug, thiserror::Error)]
#[error("{server}: {problem}")]
pub struct ServerError {
    /// Its URL.
    pub server: String,
    /// The problem, and what to do.
    #[source]
    pub problem: Problem,
}

/// A problem at a server.
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
    /// All connections are in use.  This says nothing about the server.
    #[error("all {0} connections to it were in use until the time limit")]
    Busy(usize),
    /// The connection to another machine would not be encrypted.
    #[error("its address is not on this machine: set `ldap.start_tls: true`, or use ldaps://")]
    PlainText,
    /// No CA is known.
    #[error("there is no CA to verify it: the system has none, and `ldap.ca` is not set")]
    NoCa,
    /// The host cannot be in a certificate.
    #[error("this host cannot be the name in a certificate: {0}")]
    Host(#[source] InvalidDnsNameError),
    /// The handshake failed.
    #[error("TLS: {0}{advice}", advice = tls_advice(.0))]
    Tls(#[source] io::Error),
    /// No handshake began at `ldaps://`.
    #[error(
        "TLS: {0}.  If the server expects plain LDAP at this port (usually 389), write ldap:// with \
         `ldap.start_tls: true`, or the port for ldaps:// (usually 636)"
    )]
    PlainPort(#[source] io::Error),
    /// Instead of the answer to StartTLS the connection ended or TLS arrived.
    #[error("StartTLS: {0}.  If the server expects TLS at this port (usually 636), write ldaps://")]
    TlsPort(#[source] io::Error),
    /// The server does not continue with TLS.
    #[error("refused StartTLS: {0}.  Give it a certificate, or use ldaps://")]
    StartTls(Outcome),
    /// Bytes arrived before the TLS handshake.
    #[error("sent bytes before TLS started.  An attacker between the machines may have added them")]
    EarlyBytes,
    /// The connection was closed.
    #[error("lost the connection: {0}")]
    Lost(#[source] io::Error),
    /// The server announced that it closes the connection.
    #[error("closes the connection: {0}")]
    Disconnection(Outcome),
    /// The message is not LDAP, or does not answer the request.
    #[error("sent bytes that are not LDAP")]
    Malformed,
    /// An answer is too long.
    #[error("sent an answer that is too long")]
    TooLong,
    /// `bind_dn` may not bind.
    #[error("denied `bind_dn`: {0}{advice}", advice = bind_advice(.0))]
    Reader(Outcome),
    /// The server cannot say whether a password is right.
    #[error("could not check a password: {}", .0.name())]
    Bind(Outcome),
    /// A search failed.
    #[error("searching {base} (`ldap.{key}`): {failure}", failure = search_failure(outcome, *searcher))]
    Search {
        /// The key that names the base: `search_base` or `group_search.base`.
        key: &'static str,
        /// Where it began.
        base: String,
        /// The identity with which it was made.
        searcher: Searcher,
        /// What the server says.
        outcome: Outcome,
    },
    /// A filter is not valid.
    #[error("`{0}` is not a filter of RFC 4515")]
    Filter(&'static str),
    /// `bind_dn` with a name filled in is not a distinguished name.
    #[error("`bind_dn` with the name of the person is not a distinguished name: {0}")]
    Template(#[source] crate::distinguished_name::DistinguishedNameError),
}

impl Problem {
    /// Whether the server would not answer another question either: it cannot be reached, does not answer, or reports
    /// that it cannot work now.  Other problems may concern only one name.
    pub(super) fn is_outage(&self) -> bool {
        match self {
            Self::Unresolvable(_)
            | Self::Unreachable(_)
            | Self::NoAnswer(_)
            | Self::Busy(_)
            | Self::PlainText
            | Self::NoCa
            | Self::Host(_)
            | Self::Tls(_)
            | Self::PlainPort(_)
            | Self::TlsPort(_)
            | Self::StartTls(_)
            | Self::EarlyBytes
            | Self::Lost(_)
            | Self::Disconnection(_)
            | Self::Reader(_) => true,
            Self::Bind(outcome) | Self::Search { outcome, .. } => {
                matches!(outcome.code, Outcome::BUSY | Outcome::UNAVAILABLE)
            }
            Self::Malformed | Self::TooLong | Self::Filter(_) | Self::Template(_) => false,
        }
    }
}

fn tls_advice(error: &io::Error) -> &'static str {
    match error.get_ref().and_then(|cause| cause.downcast_ref::<TlsError>()) {
        Some(TlsError::InvalidCertificate(CertificateError::UnknownIssuer)) => {
            ".  Name the CA of its certificate with `ldap.ca`"
        }
        Some(TlsError::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        )) => ".  Use a name that is in its certificate in `ldap.url`, or issue a certificate with this name",
        // As `openssl req -x509` makes it.
        Some(TlsError::InvalidCertificate(CertificateError::Other(_))) => {
            ".  A server cannot use a certificate that is its own CA: let a CA sign one, and name the CA with `ldap.ca`"
        }
        Some(_) | None => "",
    }
}

/// Whether the failure of a handshake is typical of a server that does not speak TLS.
pub(super) fn is_no_tls(error: &io::Error) -> bool {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<TlsError>());
    matches!(cause, Some(TlsError::InvalidMessage(_))) || is_end(error)
}

/// Whether the other side ended the connection.
pub(super) fn is_end(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof)
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

/// The identity with which a search is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Searcher {
    /// Anonymous: there is no `bind_dn`.
    Anonymous,
    /// `bind_dn`.
    Reader,
    /// The person who bound.
    Person,
}

fn search_failure(outcome: &Outcome, searcher: Searcher) -> String {
    match outcome.code {
        // Most servers hide entries that the identity may not see.
        Outcome::NO_SUCH_OBJECT => {
            let (hidden, advice) = match searcher {
                Searcher::Anonymous => ("may be seen without a bind", "or name a `bind_dn` that may read it"),
                Searcher::Reader => ("`bind_dn` may see", "and the directory's access rules"),
                Searcher::Person => ("the person who bound may see", "and the directory's access rules"),
            };
            format!("there is no such entry, or none that {hidden}: {outcome}.  Check the spelling, {advice}")
        }
        // Active Directory's answer on a connection without a bind.
        Outcome::OPERATIONS_ERROR | Outcome::INSUFFICIENT_ACCESS | Outcome::INAPPROPRIATE_AUTHENTICATION => {
            let advice = match searcher {
                Searcher::Anonymous => "Searches are anonymous: name a `bind_dn` that may search there",
                Searcher::Reader => "Let `bind_dn` search there, or name another one",
                Searcher::Person => "The person who bound may not search there",
            };
            format!("{outcome}.  {advice}")
        }
        Outcome::STRONGER_AUTH_REQUIRED | Outcome::CONFIDENTIALITY_REQUIRED => {
            format!("{outcome}.  Use ldaps://, or set `ldap.start_tls: true`")
        }
        _ => outcome.to_string(),
    }
}

/// The result of an operation: its code (RFC 4511, appendix A), and the server's own text.
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
    pub(super) const BUSY: u32 = 51;
    pub(super) const UNAVAILABLE: u32 = 52;
    pub(super) const UNWILLING_TO_PERFORM: u32 = 53;

    pub(super) fn new(code: u32, message: &str) -> Self {
        let shown = |character: &char| !character.is_control();
        Self { code, message: message.chars().filter(shown).take(MAX_MESSAGE).collect() }
    }

    /// The same without the server's own text.
    pub(super) fn without_message(self) -> Self {
        Self { code: self.code, message: "".into() }
    }

    pub(super) fn is_success(&self) -> bool {
        self.code == Self::SUCCESS
    }

    /// The meaning of the code, with the code and without the server's own text.
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
            Self::BUSY => "busy",
            Self::UNAVAILABLE => "unavailable",
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
    fn what_may_be_about_one_name_alone_is_no_outage() {
        let search = |code| Problem::Search {
            key: "search_base",
            base: "dc=org".to_owned(),
            searcher: Searcher::Reader,
            outcome: Outcome::new(code, ""),
        };
        let lost = || Problem::Lost(io::ErrorKind::BrokenPipe.into());
        let error = |problems: Vec<Problem>| {
            let of = |problem| ServerError { server: "ldap://localhost".to_owned(), problem };
            DirectoryError::Servers(problems.into_iter().map(of).collect())
        };
        for problems in [vec![lost()], vec![search(51)], vec![search(52), Problem::NoAnswer(Duration::ZERO)]]
        {
            assert!(error(problems).is_outage());
        }
        for problem in [
            Problem::TooLong,
            Problem::Malformed,
            search(80),
            search(11),
            Problem::Bind(Outcome::new(34, "")),
        ] {
            assert!(!problem.is_outage(), "{problem}");
            // Another server was away, and this one answers others.
            assert!(!error(vec![lost(), problem]).is_outage());
        }
    }

    #[test]
    fn a_search_that_failed_says_what_to_check_by_who_searched() {
        let text = |searcher, code| {
            let (base, outcome) = ("ou=p,dc=org".to_owned(), Outcome::new(code, ""));
            Problem::Search { key: "search_base", base, searcher, outcome }.to_string()
        };
        for (searcher, code, part) in [
            (
                Searcher::Anonymous,
                32,
                "may be seen without a bind: no such object (32).  Check the spelling, or name a",
            ),
            (
                Searcher::Reader,
                32,
                "none that `bind_dn` may see: no such object (32).  Check the spelling, and",
            ),
            (Searcher::Person, 32, "none that the person who bound may see: no such object (32).  Check"),
            (
                Searcher::Anonymous,
                50,
                "insufficient access rights (50).  Searches are anonymous: name a `bind_dn`",
            ),
            (Searcher::Reader, 50, "insufficient access rights (50).  Let `bind_dn` search there"),
            (
                Searcher::Person,
                50,
                "insufficient access rights (50).  The person who bound may not search there",
            ),
            (Searcher::Person, 13, "confidentiality required (13).  Use ldaps://"),
            (Searcher::Reader, 51, "busy (51)"),
        ] {
            let text = text(searcher, code);
            assert!(text.starts_with("searching ou=p,dc=org (`ldap.search_base`): "), "{text}");
            assert!(text.contains(part), "{searcher:?} {code}: {text}");
        }
        assert!(!text(Searcher::Anonymous, 32).contains("none that `bind_dn`"));
    }

    #[test]
    fn an_outcome_shows_a_bounded_and_printable_text() {
        assert_eq!(Outcome::new(49, "").to_string(), "invalid credentials (49)");
        assert_eq!(Outcome::new(52, "a\n\"b\"").to_string(), "unavailable (52), \"a\\\"b\\\"\"");
        assert_eq!(Outcome::new(4711, "").to_string(), "an error of its own (4711)");
        assert_eq!(Outcome::new(1, &"é".repeat(1_000)).message.chars().count(), MAX_MESSAGE);
    }
}
