//! What attempts to log in at a provider need: a secret in common, and that each state is used once.

use jiff::Timestamp;
use zeroize::Zeroizing;

use super::super::rows;
use super::super::transaction::StoreTransaction;
use super::super::value::values;
use super::super::{SECRET_BYTES, StoreError};
use crate::token::TokenDigest;

/// A secret that was made before.
pub async fn known_secret(
    mut transaction: StoreTransaction,
    name: &str,
) -> Result<Option<Zeroizing<[u8; SECRET_BYTES]>>, StoreError> {
    let sql = transaction.sql();
    let known: Option<(Vec<u8>,)> = transaction.row(sql.attempts.secret, &values![name]).await?;
    transaction.end().await?;
    Ok(known.map(|(secret,)| rows::secret(secret)).transpose()?)
}

/// Makes a secret, unless there is one.
pub async fn make_secret(
    mut transaction: StoreTransaction,
    name: &str,
    new: &[u8; SECRET_BYTES],
    now: Timestamp,
) -> Result<Zeroizing<[u8; SECRET_BYTES]>, StoreError> {
    let sql = transaction.sql();
    transaction.execute(&sql.attempts.make_secret, &values![name, new.as_slice(), now]).await?;
    // In a transaction that writes, each statement sees what others have committed before.
    let made: Option<(Vec<u8>,)> = transaction.row(sql.attempts.secret, &values![name]).await?;
    transaction.end().await?;
    Ok(rows::secret(made.map_or_else(Vec::new, |(secret,)| secret))?)
}

/// Notes that a state was used; false when it had been.
pub async fn use_state(
    mut transaction: StoreTransaction,
    state: &TokenDigest,
    now: Timestamp,
) -> Result<bool, StoreError> {
    let sql = transaction.sql();
    let inserted = transaction.execute(&sql.attempts.use_state, &values![state, now]).await?;
    transaction.end().await?;
    Ok(inserted > 0)
}
