//! References to an account, or to one of its tokens: a name or an id.

use std::fmt;

use serde::Deserialize;

use super::super::admin_api::{self, Query};
use super::super::{AdminApi, escape_controls, print_note};
use super::account::{ListedAccount, ListedToken};
use super::{ACCOUNTS, AccountsError, account_path};
use crate::keys::name::{folded, is_same};

/// The most accounts of one call.
const PAGE: usize = 1000;

/// A service account, or a token of one, as the command line names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reference {
    /// Digits alone are always an id.
    Id(i64),
    /// A name.
    Name(String),
}

impl From<String> for Reference {
    fn from(text: String) -> Self {
        let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        match text.parse() {
            Ok(id) if is_number => Self::Id(id),
            Ok(_) | Err(_) => Self::Name(text),
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => write!(formatter, "{id}"),
            Self::Name(name) => formatter.write_str(&escape_controls(name)),
        }
    }
}

impl Reference {
    /// The id of the account.  Names are compared as the server compares them: without case.
    ///
    /// # Errors
    /// No account has the name or the id.
    pub fn account(&self, api: &AdminApi) -> Result<i64, AccountsError> {
        let id = match self {
            Self::Name(name) => {
                let named = account_named(api, name)?;
                let account = named.ok_or_else(|| AccountsError::NoSuchAccount(name.clone()))?;
                note_spelling("account", name, &account.name, account.id);
                return Ok(account.id);
            }
            Self::Id(id) => *id,
        };
        match api.get(&account_path(id, "")) {
            Ok(_) => Ok(id),
            Err(error) if error.is_not_found() => Err(match account_named(api, &id.to_string())? {
                Some(account) => AccountsError::NameIsNoId { name: id, own_id: account.id },
                None => AccountsError::NoSuchId { what: "service account", id, list: "accounts list" },
            }),
            Err(error) => Err(error.into()),
        }
    }

    /// The id of a token of the account.  A live token goes before dead ones of the same name.
    ///
    /// # Errors
    /// No token has the name or the id, or several have the name.
    pub fn token(&self, api: &AdminApi, account: i64) -> Result<i64, AccountsError> {
        let tokens: Vec<ListedToken> = api.get(&account_path(account, "/tokens"))?.parse()?;
        match self {
            Self::Name(name) => {
                let token = choose(name, tokens)?;
                note_spelling("token", name, &token.name, token.id);
                Ok(token.id)
            }
            Self::Id(id) if tokens.iter().any(|token| token.id == *id) => Ok(*id),
            Self::Id(id) => Err(match tokens.iter().find(|token| token.name == id.to_string()) {
                Some(token) => AccountsError::NameIsNoId { name: *id, own_id: token.id },
                None => {
                    AccountsError::NoSuchId { what: "token of the account", id: *id, list: "accounts tokens" }
                }
            }),
        }
    }
}

/// The things with their ids, each once; a mistyped one stops all.
///
/// # Errors
/// One is not found; where several are named the text says that nothing is done.
pub fn resolve(
    references: &[Reference],
    id: impl Fn(&Reference) -> Result<i64, AccountsError>,
) -> Result<Vec<(&Reference, i64)>, AccountsError> {
    let mut resolved: Vec<(&Reference, i64)> = Vec::with_capacity(references.len());
    for reference in references {
        let id = id(reference).map_err(|error| match references {
            [] | [_] => error,
            [..] => AccountsError::NothingDone(Box::new(error)),
        })?;
        if resolved.iter().all(|(_, other)| *other != id) {
            resolved.push((reference, id));
        }
    }
    Ok(resolved)
}

/// Says that something is called otherwise than it was named.
fn note_spelling(what: &str, named: &str, name: &str, id: i64) {
    if named != name {
        print_note(&admin_api::spelling_note(what, named, name, id));
    }
}

/// The account of this name.
fn account_named(api: &AdminApi, name: &str) -> Result<Option<ListedAccount>, AccountsError> {
    let folded_name = folded(name);
    // The server looks for a part of the name.
    let mut found = None;
    for_each_account(api, &Query::new().with("query", Some(name)), |account| {
        if is_same(&folded_name, &account.name) {
            found = Some(account);
        }
        Ok::<_, AccountsError>(())
    })?;
    Ok(found)
}

fn choose(name: &str, mut tokens: Vec<ListedToken>) -> Result<ListedToken, AccountsError> {
    let folded_name = folded(name);
    tokens.retain(|token| is_same(&folded_name, &token.name));
    if tokens.iter().any(ListedToken::is_live) {
        tokens.retain(ListedToken::is_live);
    }
    let ids: Vec<_> = tokens.iter().map(|token| token.id.to_string()).collect();
    let Some(token) = tokens.pop() else { return Err(AccountsError::NoSuchToken(name.to_owned())) };
    if tokens.is_empty() {
        Ok(token)
    } else {
        Err(AccountsError::AmbiguousToken { name: name.to_owned(), ids: ids.join(", ") })
    }
}

/// A page of the list of accounts.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct AccountPage {
    service_accounts: Vec<ListedAccount>,
}

/// Reads the accounts that this asks for page by page, and calls this for each.
pub fn for_each_account<E: From<super::super::AdminApiError>>(
    api: &AdminApi,
    query: &Query,
    mut act: impl FnMut(ListedAccount) -> Result<(), E>,
) -> Result<(), E> {
    for number in 1_u64.. {
        let query = query.clone().with("perpage", Some(PAGE)).with("page", Some(number));
        let page: AccountPage = api.get(&query.of(&format!("{ACCOUNTS}/search")))?.parse()?;
        let is_last = page.service_accounts.len() < PAGE;
        page.service_accounts.into_iter().try_for_each(&mut act)?;
        if is_last {
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_live_token_goes_before_dead_ones_of_its_name() {
        let tokens = || {
            serde_json::from_str(
                r#"[
                    {"id": 1, "name": "ci", "hasExpired": true},
                    {"id": 2, "name": "ci"},
                    {"id": 3, "name": "old", "isRevoked": true},
                    {"id": 4, "name": "old", "hasExpired": true}
                ]"#,
            )
            .expect("tokens")
        };
        assert_eq!(choose("ci", tokens()).expect("one").id, 2);
        assert_eq!(choose("CI", tokens()).expect("the case of letters does not count").id, 2);
        let error = choose("old", tokens()).expect_err("two").to_string();
        assert_eq!(error, "several tokens have the name \"old\". Use one of the ids 3, 4");
        assert!(choose("none", tokens()).is_err());
    }
}
