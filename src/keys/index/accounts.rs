//! The service accounts of the index.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::{ArcSwapOption, Guard};
use serde_json::{Map, Value};

use crate::credential::PolicyNames;
use crate::keys::store::source::AccountPage;
use crate::keys::{Account, Role};

/// All service accounts, each in a slot that its keys refer to: a change of the account changes one entry, however many
/// keys it has.
#[derive(Default)]
pub(super) struct Accounts {
    slots: papaya::HashMap<i64, Arc<AccountSlot>, foldhash::fast::RandomState>,
    versions: AtomicU64,
}

/// The slot of an account: empty while the account is unknown or deleted.
pub(super) struct AccountSlot(ArcSwapOption<AccountState>);

/// What a Check needs of an account.
pub(super) struct AccountState {
    /// A number that changes with the fields below; never 0.
    pub version: u64,
    pub name: Arc<str>,
    pub role: Role,
    pub actor: Map<String, Value>,
    pub policies: Option<PolicyNames>,
    pub is_disabled: bool,
}

impl AccountSlot {
    /// The current account.
    pub fn load(&self) -> Guard<Option<Arc<AccountState>>> {
        self.0.load()
    }
}

impl Accounts {
    /// The slot of an account, which may be unknown yet.
    pub fn slot(&self, id: i64) -> Arc<AccountSlot> {
        let slots = self.slots.pin();
        Arc::clone(slots.get_or_insert_with(id, || Arc::new(AccountSlot(ArcSwapOption::empty()))))
    }

    /// Stores an account in its slot.  An unchanged account is kept, with the principals that were made from it.
    pub fn put(&self, account: Account) {
        let slot = self.slot(account.id);
        let policies = account.policies.map(|names| names.into_iter().map(Arc::from).collect());
        let after = AccountState {
            version: self.versions.fetch_add(1, Ordering::Relaxed) + 1,
            name: account.name.into(),
            role: account.role,
            actor: account.actor,
            policies,
            is_disabled: account.disabled_at.is_some(),
        };
        let is_same = slot.load().as_ref().is_some_and(|before| {
            before.name == after.name
                && before.role == after.role
                && before.actor == after.actor
                && before.policies == after.policies
                && before.is_disabled == after.is_disabled
        });
        if !is_same {
            slot.0.store(Some(Arc::new(after)));
        }
    }

    /// Empties the slot of an account.  The slot itself stays: keys may refer to it, and a restored store may have the
    /// account again.
    pub fn remove(&self, id: i64) {
        if let Some(slot) = self.slots.pin().get(&id) {
            slot.0.store(None);
        }
    }

    /// Applies a page of all accounts: those with an id above `after`, up to the end of the page.
    pub fn apply(&self, after: i64, page: AccountPage) {
        let existing: HashSet<i64> = page.accounts.iter().map(|account| account.id).collect();
        let is_covered = |id: i64| id > after && page.next.is_none_or(|next| id <= next);
        let gone: Vec<i64> = {
            let slots = self.slots.pin();
            slots.keys().copied().filter(|id| is_covered(*id) && !existing.contains(id)).collect()
        };
        for id in gone {
            self.remove(id);
        }
        for account in page.accounts {
            self.put(account);
        }
    }
}
