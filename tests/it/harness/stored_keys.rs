//! Many keys, which come into a database past the program.

use std::path::PathBuf;

use super::tools::root;

/// The token of the key with this number, which counts from 1.
pub fn token(number: usize) -> String {
    format!("stored-key-{number}")
}

/// The file with the statement for `postgres` or `sqlite`.
pub(super) fn statement(store: &str) -> PathBuf {
    root().join("tests/fixtures/stored_keys").join(format!("{store}.sql"))
}
