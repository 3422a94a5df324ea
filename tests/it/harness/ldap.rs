//! What an administrator changes in a directory, over LDAP.

use std::collections::HashSet;

use ldap3::result::Result;
use ldap3::{Ldap, LdapConnAsync, Mod, Scope, SearchEntry};

/// Somebody who may change everything in a directory on this machine.
pub struct Administrator {
    pub port: u16,
    pub dn: &'static str,
    pub password: &'static str,
}

impl Administrator {
    /// Whether the server answers.
    pub fn is_answered(&self) -> bool {
        self.run(async |_| Ok(())).is_ok()
    }

    /// Adds an entry.
    #[track_caller]
    pub fn add(&self, dn: &str, attributes: &[(&str, &[&str])]) {
        let own = |values: &[&str]| values.iter().map(|value| (*value).to_owned()).collect();
        let attributes = attributes.iter().map(|(name, values)| ((*name).to_owned(), own(values))).collect();
        self.may(async |ldap| ldap.add::<String>(dn, attributes).await?.success());
    }

    /// Deletes an entry.
    #[track_caller]
    pub fn delete(&self, dn: &str) {
        self.may(async |ldap| ldap.delete(dn).await?.success());
    }

    /// Replaces the values of an attribute; none removes it.
    #[track_caller]
    pub fn set(&self, dn: &str, attribute: &str, values: &[&str]) {
        self.modify(dn, Mod::Replace(attribute, values.iter().copied().collect()));
    }

    /// Puts an entry into a group.
    #[track_caller]
    pub fn join(&self, group: &str, dn: &str) {
        self.modify(group, Mod::Add("member", HashSet::from([dn])));
    }

    /// Takes an entry out of a group, which keeps other members.
    #[track_caller]
    pub fn leave(&self, group: &str, dn: &str) {
        self.modify(group, Mod::Delete("member", HashSet::from([dn])));
    }

    /// The values of an attribute.
    #[track_caller]
    pub fn values(&self, dn: &str, attribute: &str) -> Vec<String> {
        self.may(async |ldap| {
            let search = ldap.search(dn, Scope::Base, "(objectClass=*)", vec![attribute]).await?;
            let entries = search.success()?.0.into_iter().map(SearchEntry::construct);
            Ok(entries.flat_map(|entry| entry.attrs.into_values()).flatten().collect())
        })
    }

    #[track_caller]
    fn modify(&self, dn: &str, change: Mod<&str>) {
        self.may(async |ldap| ldap.modify(dn, vec![change]).await?.success());
    }

    #[track_caller]
    fn may<T: Send>(&self, change: impl AsyncFnOnce(&mut Ldap) -> Result<T> + Send) -> T {
        self.run(change).expect("the directory's administrator may do this")
    }

    fn run<T: Send>(&self, change: impl AsyncFnOnce(&mut Ldap) -> Result<T> + Send) -> Result<T> {
        let run = async || {
            let (connection, mut ldap) =
                LdapConnAsync::new(&format!("ldap://127.0.0.1:{}", self.port)).await?;
            let change = async {
                ldap.simple_bind(self.dn, self.password).await?.success()?;
                let done = change(&mut ldap).await;
                // The connection ends with its last handle.
                drop(ldap);
                done
            };
            tokio::join!(change, connection.drive()).0
        };
        // A thread, because the test itself may run in a runtime.
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                runtime.expect("a runtime").block_on(run())
            });
            thread.join().expect("no panic")
        })
    }
}
