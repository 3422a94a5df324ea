//! Questions to the directory.

use std::sync::Arc;

use super::super::ExplainError;
use crate::config::LdapSettings;
use crate::credential::{Kind, Principal};
use crate::directory::{Directory, Lookup};
use crate::identity::people::principal_of;
use crate::snapshot::Snapshot;

/// The principal of a person by the id, for a line of the log; `None` when there is none.
///
/// # Errors
/// The directory does not answer.
pub(super) async fn principal_by_id(
    id: &str,
    kind: Kind,
    settings: &Arc<LdapSettings>,
    snapshot: &Snapshot,
) -> Result<Option<Principal>, ExplainError> {
    Ok(match find(settings, id).await? {
        Lookup::Found(entry) if entry.subject == id => principal_of(&entry, settings, snapshot, kind).ok(),
        Lookup::Found(_) | Lookup::Rejected(_) => None,
    })
}

/// What the directory says of a name.
///
/// # Errors
/// It does not answer.
pub(super) async fn find(settings: &Arc<LdapSettings>, name: &str) -> Result<Lookup, ExplainError> {
    let directory = Directory::start()
        .map_err(|error| format!("error: cannot start the thread for requests to the directory: {error}"))?;
    Ok(directory.find(settings, name).await.map_err(|error| format!("error: {error}"))?)
}
