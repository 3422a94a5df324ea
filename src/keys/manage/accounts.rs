//! Creating, changing, deleting and listing service accounts.

use super::super::edit::{Changed, EditAccount};
use super::super::store::{AccountFilter, AccountList, ChangeError, StoreError};
use super::super::{Account, Author, CreateAccount, GrantCheck, Keys, OPERATION_TIMEOUT, with_timeout};
use super::{LIST_TIMEOUT, storable};

impl Keys {
    /// Creates a service account.
    ///
    /// # Errors
    /// [`ChangeError`]: the name is taken or was used, `grant_check` fails, or the store failed.
    pub async fn create_account(
        &self,
        request: &CreateAccount,
        author: &Author,
        grant_check: &GrantCheck<'_>,
    ) -> Result<Account, ChangeError> {
        let author = storable(author);
        let create = self.store.create_account(&self.gate, request, self.clock.now(), &author, grant_check);
        let created = self.change(create, |account| self.index.put_account(account.clone())).await;
        self.log_failure("create a service account", created)
    }

    /// Changes a service account, and with it the rights of its keys.
    ///
    /// # Errors
    /// [`ChangeError`]: there is no such account, the name is taken or was used, `grant_check` fails for what it can do
    /// before or after, or the store failed.
    pub async fn edit_account(
        &self,
        id: i64,
        edit: &EditAccount,
        author: &Author,
        grant_check: &GrantCheck<'_>,
    ) -> Result<Changed<Account>, ChangeError> {
        let author = storable(author);
        let edit = self.store.edit_account(&self.gate, id, edit, self.clock.now(), &author, grant_check);
        let edited = self.change(edit, |changed| {
            if let Some(account) = &changed.after {
                self.index.put_account(account.clone());
            }
        });
        let edited = edited.await;
        self.log_failure("change a service account", edited)
    }

    /// Deletes a service account and its keys.  Returns the deleted account, and the number of its keys.
    ///
    /// # Errors
    /// [`ChangeError`]: there is no such account, `grant_check` fails, or the store failed.
    pub async fn delete_account(
        &self,
        id: i64,
        author: &Author,
        grant_check: &GrantCheck<'_>,
    ) -> Result<(Account, usize), ChangeError> {
        let author = storable(author);
        let delete = self.store.delete_account(&self.gate, id, self.clock.now(), &author, grant_check);
        let deleted = self.change(delete, |(_, keys)| {
            for key in keys {
                self.index.remove(*key);
            }
            self.index.remove_account(id);
        });
        let deleted = deleted.await;
        let (account, keys) = self.log_failure("delete a service account", deleted)?;
        Ok((account, keys.len()))
    }

    /// At most `limit` service accounts after the first `offset` ones, by the bytes of names, and the number of all.
    ///
    /// # Errors
    /// The store failed.
    pub async fn list_accounts(
        &self,
        filter: &AccountFilter,
        offset: u64,
        limit: u32,
    ) -> Result<AccountList, StoreError> {
        let list = self.store.list_accounts(filter, self.clock.now(), offset, limit);
        let listed = with_timeout(LIST_TIMEOUT, list).await;
        listed.inspect_err(|error| self.read_failed("list the service accounts", error))
    }

    /// A service account; `None` when there is no such account.
    ///
    /// # Errors
    /// The store failed.
    pub async fn account(&self, id: i64) -> Result<Option<Account>, StoreError> {
        let account = with_timeout(OPERATION_TIMEOUT, self.store.account(id)).await;
        account.inspect_err(|error| self.read_failed("read a service account", error))
    }

    /// The service account of a name; `None` when there is none.
    ///
    /// # Errors
    /// The store failed.
    pub async fn account_named(&self, name: &str) -> Result<Option<Account>, StoreError> {
        let account = with_timeout(OPERATION_TIMEOUT, self.store.account_named(name)).await;
        account.inspect_err(|error| self.read_failed("read a service account", error))
    }

    /// The service accounts of these ids.
    ///
    /// # Errors
    /// The store failed.
    pub async fn accounts_of_ids(&self, ids: &[i64]) -> Result<Vec<Account>, StoreError> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let accounts = with_timeout(OPERATION_TIMEOUT, self.store.accounts_of_ids(ids)).await;
        accounts.inspect_err(|error| self.read_failed("read service accounts", error))
    }
}
