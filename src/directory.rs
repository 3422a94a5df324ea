//! The client of a directory: finds a person's entry, tries a password, reads groups (LDAP, RFC 4511).
//!
//! A question goes to the servers in order, until one answers.  With a reader (`bind_dn`, or an anonymous search) the
//! person's entry is searched for by `search_filter`, then a bind with its name and the password tells whether this is
//! right.  With `%s` in `bind_dn` the person binds at once, and the same connection then reads their own entry.  What a
//! person's groups mean, and how often a stranger may ask, is decided by the caller.
//!
//! Limits:
//! - A server has `ldap.timeout` for a question.  One that failed is asked after all others for half a minute.
//! - At most 64 questions run at a time, each of which ends by itself, whether or not its caller still waits.
//! - Each server has at most four connections that search and four by which people bind.  Those without a question close
//!   after half a minute.  No search runs on a connection on which somebody else bound last.
//! - An answer has at most 1 MiB, a person at most 1,000 groups.
//!
//! What never happens:
//! - An empty password, or one with a NUL, is not sent: to a server it may be an anonymous bind, which succeeds.
//! - Nothing but the request for StartTLS goes over `ldap://` in plain text, except to this machine.  What comes before
//!   the TLS handshake ends the connection (RFC 4511, section 4.14; RFC 4513, section 3.1.5).  Certificates are verified
//!   always.
//! - A name changes neither a filter (RFC 4515, section 3) nor a distinguished name (RFC 4514, section 2.4).
//! - Referrals are not followed and aliases not dereferenced: what is behind them is nobody.
//!
//! Errors: [`DirectoryError`] means that nothing is known; everything that a server says of a person is a
//! [`Verification`] or a [`Lookup`].  Passwords are wiped with the message that carries them ([`Secret`]), and in no
//! error or log.  The names of people are in no error or log of this module either.
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

/// Says whether a bind with the entry of this name may be sent to a server.
pub type MayBind = Box<dyn FnMut(&DistinguishedName) -> bool + Send>;

/// What the directory says of a name with a password.
#[derive(Debug, Clone, PartialEq)]
pub enum Verification {
    /// The password is right.
    Right(Entry),
    /// The server denies this entry a bind: the password is wrong, or the account is locked, expired or disabled.
    Wrong(DistinguishedName),
    /// The caller did not let the bind with this entry be sent.
    NotTried(DistinguishedName),
    /// The name stands for nobody, whatever the password.
    Rejected(RejectionReason),
}

/// What the directory says of a name.
#[derive(Debug, Clone, PartialEq)]
pub enum Lookup {
    /// The entry of the person.
    Found(Entry),
    /// The name stands for nobody.
    Rejected(RejectionReason),
}

/// Why a name stands for nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RejectionReason {
    /// No person has such a name ([`normalized_name`](crate::person::normalized_name)).
    InvalidName,
    /// The password is empty or holds a NUL.
    UnusablePassword,
    /// No entry is found.  It may be that the directory refers to other servers, which are not asked.
    Unknown,
    /// More than one entry is found.
    SeveralEntries,
    /// The person bound, and `search_filter` finds no entry that they may read.
    Unreadable,
    /// The person bound, and `search_filter` finds the entry of somebody else.
    OtherEntry,
    /// The entry stands for another one.
    Alias,
    /// The server refers to another one for all that is asked.
    Referral,
    /// The entry says that it is disabled, or has expired.
    Disabled,
    /// `members.id` has no value, or none that is a text.
    NoId,
    /// `members.id` has more than one value.
    SeveralIds,
    /// The entry's name is no distinguished name.
    InvalidEntry,
    /// The person has more than 1,000 groups, or the server does not tell all.
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

/// What the directory says of a person.
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
    /// The actor's members but `id` and role: a text each, a list where an attribute has several values or the member is
    /// `groups`.
    pub members: Map<String, Value>,
}
