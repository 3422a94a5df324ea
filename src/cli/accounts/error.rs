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
    /// Nothing has the id.
    #[error("there is no {what} with the id {id}: digits alone are an id, and `{list}` shows it")]
    NoSuchId {
        /// What is looked for.
        what: &'static str,
        /// The id.
        id: i64,
        /// The command that shows the ids.
        list: &'static str,
    },
    /// Nothing has the id, but something has it as its name.
    #[error(
        "there is no id {name}: a name of digits alone is read as an id. {name} is the name of id {own_id}"
    )]
    NameIsNoId {
        /// The name, which looks like an id.
        name: i64,
        /// The id of what has the name.
        own_id: i64,
    },
    /// Of several things that are named one is not found.
    #[error("{0}\nNothing was changed, because one name or id was not found.")]
    NothingDone(#[source] Box<AccountsError>),
    /// A live token of the account has the name.
    #[error("{source}: {advice}")]
    NameTaken {
        /// What the API says.
        source: Box<AdminApiError>,
        /// What to do.
        advice: String,
    },
    /// Several tokens of the account have the name.
    #[error("several tokens have the name {name:?}. Use one of the ids {ids}")]
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
    #[error("--name is for one account: two accounts cannot have the same name")]
    NameForSeveral,
}
