//! Why a command of `accounts` fails.

use super::super::AdminApiError;

/// Why a command of `accounts` failed.
#[derive(Debug, thiserror::Error)]
pub enum AccountsError {
    /// A call of the admin API fails.
    #[error("{0}")]
    Api(#[from] AdminApiError),
    /// No account has the name.
    #[error("there is no service account {0:?}: `accounts list` shows the names")]
    NoSuchAccount(String),
    /// No token of the account has the name.
    #[error("the account has no token {0:?}: `accounts tokens` shows the names")]
    NoSuchToken(String),
    /// Several tokens of the account have the name.
    #[error("{name:?} may be one of several tokens: say which by its id, of {ids}")]
    AmbiguousToken {
        /// The name.
        name: String,
        /// The ids, with commas.
        ids: String,
    },
    /// Of several things some failed; each has been reported.
    #[error("{failed} of {all} failed")]
    SomeFailed {
        /// How many.
        failed: usize,
        /// Of how many.
        all: usize,
    },
    /// `edit`: a name is for one account.
    #[error("--name is for one account alone: two cannot have the same")]
    NameForSeveral,
}
