//! The client of a directory: finds the entry of a person, verifies a password, reads groups (LDAP, RFC 4511).
//!
//! A question goes to the servers in order, until one answers.  With a reader (`bind_dn`, or an anonymous search) the
//! client searches for the person's entry with `search_filter`, then verifies the password by a bind with the name of
//! the entry.  With `%s` in `bind_dn` the person binds at once, and the same connection then reads the person's own
//! entry.  The caller interprets the groups of a person and limits the rate of questions.
//!
//! Limits:
//! - A server has `ldap.timeout` for a question.  After a failure a server is asked last for half a minute.
//! - At most 64 questions run at a time.  Each ends by itself, whether or not its caller still waits.
//! - Each server has at most four connections for searches and four for binds of people.  Idle connections close after
//!   half a minute.  A search never runs on a connection on which another person bound last.
//! - An answer has at most 1 MiB, a person at most 1,000 groups.
//!
//! Guarantees:
//! - An empty password, or one with a NUL, is not sent: to a server it may be an anonymous bind, which succeeds.
//! - Only the request for StartTLS goes over `ldap://` in plain text, except to this machine.  Bytes before the TLS
//!   handshake end the connection (RFC 4511, section 4.14; RFC 4513, section 3.1.5).  Certificates are always verified.
//! - A name changes neither a filter (RFC 4515, section 3) nor a distinguished name (RFC 4514, section 2.4).
//! - Referrals are not followed and aliases are not dereferenced: the name is rejected.
//!
//! Errors: [`DirectoryError`] means that the answer is not known.  The answer of a server about a person is a
//! [`Verification`] or a [`Lookup`].  Passwords are wiped with the message that carries them ([`Secret`]).  Errors and
//! logs of this module contain neither passwords nor names of people.
//!
//! [`Secret`]: crate::secret::Secret

#[cfg(feature = "ldap")]
mod ber;
#[cfg(feature = "ldap")]
mod client;
#[cfg(feature = "ldap")]
mod connection;
#[cfg(feature = "ldap")]
mod entry;
#[cfg_attr(not(feature = "ldap"), expect(dead_code, reason = "without a client there are no errors"))]
mod error;
#[cfg(feature = "ldap")]
mod message;
#[cfg(not(feature = "ldap"))]
mod no_client;
#[cfg(feature = "ldap")]
mod servers;
#[cfg(feature = "ldap")]
mod tls;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::distinguished_name::DistinguishedName;

#[cfg(feature = "ldap")]
pub use self::client::Directory;
pub use self::error::{DirectoryError, Outcome, Problem, Searcher, ServerError};
#[cfg(not(feature = "ldap"))]
pub use self::no_client::Directory;

/// Decides whether a bind with the entry of this name may be sent to a server.
pub type MayBind = Box<dyn FnMut(&DistinguishedName) -> bool + Send>;

/// The answer of the directory about a name with a password.
#[derive(Debug, Clone, PartialEq)]
pub enum Verification {
    /// The password is right.
    Right(Entry),
    /// The server denies the bind: the password is wrong, or the account is locked, expired or disabled.
    Wrong(DistinguishedName),
    /// The caller did not allow the bind with this entry.
    NotTried(DistinguishedName),
    /// The name is rejected, whatever the password.
    Rejected(RejectionReason),
}

/// The answer of the directory about a name.
#[derive(Debug, Clone, PartialEq)]
pub enum Lookup {
    /// The entry of the person.
    Found(Entry),
    /// The name is rejected.
    Rejected(RejectionReason),
}

/// Why a name is rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RejectionReason {
    /// No person has such a name ([`normalized_name`](crate::person::normalized_name)).
    InvalidName,
    /// The password is empty or holds a NUL.
    UnusablePassword,
    /// No entry is found.  The directory may refer to other servers, which are not asked.
    Unknown,
    /// More than one entry is found.
    SeveralEntries,
    /// The person bound, but `search_filter` finds no entry that the person may read.
    Unreadable,
    /// The person bound, but `search_filter` finds another entry.
    OtherEntry,
    /// The entry is an alias.
    Alias,
    /// The server refers to another server.
    Referral,
    /// The entry says that it is disabled, or has expired.
    Disabled,
    /// `members.id` has no value, or none that is a text.
    NoId,
    /// `members.id` has more than one value.
    SeveralIds,
    /// The name of the entry is not a distinguished name.
    InvalidEntry,
    /// The person has more than 1,000 groups, or the server does not return all of them.
    TooManyGroups,
}

impl RejectionReason {
    /// The word for the log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InvalidName => "invalid_name",
            Self::UnusablePassword => "unusable_password",
            Self::Unknown => "unknown",
            Self::SeveralEntries => "several_entries",
            Self::Unreadable => "unreadable_entry",
            Self::OtherEntry => "other_entry",
            Self::Alias => "alias",
            Self::Referral => "referral",
            Self::Disabled => "disabled",
            Self::NoId => "no_id",
            Self::SeveralIds => "several_ids",
            Self::InvalidEntry => "invalid_entry",
            Self::TooManyGroups => "too_many_groups",
        }
    }
}

/// The entry of a person.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// The name that was asked for, normalised.
    pub name: String,
    /// The entry's distinguished name, as the server writes it.
    pub dn: String,
    /// The value of `members.id`, as the entry has it.
    pub subject: String,
    /// The names of the groups, sorted by their texts; mostly distinguished names.
    pub groups: Vec<String>,
    /// The actor's members except `id` and role.  Each is a text, or a list where an attribute has several values or
    /// the member is `groups`.
    pub members: Map<String, Value>,
}
