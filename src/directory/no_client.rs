//! The client of builds without the feature `ldap`, whose configurations have no directory.

use std::io;
use std::sync::Arc;

use super::{DirectoryError, Lookup, MayBind, Verification};
use crate::clock::Clock;
use crate::config::LdapSettings;
use crate::secret::Secret;

/// A client without a directory.
pub struct Directory(());

impl Directory {
    /// Starts nothing.
    ///
    /// # Errors
    /// None.
    pub fn start_with_clock(_: Clock) -> io::Result<Self> {
        Ok(Self(()))
    }

    /// # Errors
    /// Always.
    pub async fn verify(
        &self,
        _: &Arc<LdapSettings>,
        _: &str,
        _: &Secret,
        _: MayBind,
    ) -> Result<Verification, DirectoryError> {
        Err(DirectoryError::Stopped)
    }

    /// # Errors
    /// Always.
    pub async fn find(&self, _: &Arc<LdapSettings>, _: &str) -> Result<Lookup, DirectoryError> {
        Err(DirectoryError::Stopped)
    }

    /// Nothing.
    pub async fn probe(&self, _: &Arc<LdapSettings>) -> Vec<(String, Result<String, DirectoryError>)> {
        Vec::new()
    }
}
