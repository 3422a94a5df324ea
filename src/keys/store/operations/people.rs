//! People: recording them, and that they ended.

use jiff::Timestamp;

use super::super::rows::{self, PersonRow};
use super::super::transaction::StoreTransaction;
use super::super::value::values;
use super::super::{Committed, Gate, RecordedPerson, StoreError, StoreFailure};
use crate::keys::StoredPerson;
use crate::person::PersonId;

/// Records a person, and evicts others where there are too many.
pub async fn record(
    mut transaction: StoreTransaction,
    gate: &Gate,
    person: &StoredPerson,
    max_people: u32,
) -> Result<Committed<RecordedPerson>, StoreError> {
    let sql = transaction.sql();
    let PersonId { source, subject } = &person.person;
    let wanted = values![source.as_str(), &**subject];
    let before: Option<PersonRow> = transaction.row(&sql.people.find, &wanted).await?;
    let is_new = before.is_none();
    if let Some((id, before)) = before.and_then(rows::person).filter(|(_, before)| before.is_same(person)) {
        transaction.execute(&sql.people.see, &values![id, person.seen_at]).await?;
        let recorded = RecordedPerson { id, person: before, deleted: Vec::new() };
        return transaction.commit(gate, recorded, false).await;
    }
    let row: Option<PersonRow> = transaction.row(&sql.people.record, &rows::person_values(person)).await?;
    let (id, person) = row.and_then(rows::person).ok_or(StoreFailure::UnreadableRow)?;
    let mut deleted = Vec::new();
    if is_new {
        let too_many = transaction.number(sql.people.count, &[]).await? - i64::from(max_people);
        if too_many > 0 {
            let gone: Vec<(i64,)> = transaction.rows(&sql.people.evict, &values![too_many, id]).await?;
            deleted = gone.into_iter().map(|(id,)| id).collect();
        }
    }
    transaction.commit(gate, RecordedPerson { id, person, deleted }, true).await
}

/// Writes that a person ended.
pub async fn end(
    mut transaction: StoreTransaction,
    gate: &Gate,
    person: &PersonId,
    now: Timestamp,
    unless_opened_after: Option<Timestamp>,
) -> Result<Committed<Option<(i64, StoredPerson)>>, StoreError> {
    let sql = transaction.sql();
    let (source, subject) = (person.source.as_str(), &*person.subject);
    let ended: Option<PersonRow> = match unless_opened_after {
        None => transaction.row(&sql.people.end, &values![source, subject, now]).await?,
        Some(opened_after) => {
            let values = values![source, subject, now, opened_after];
            transaction.row(&sql.people.end_absent, &values).await?
        }
    };
    let is_change = ended.is_some();
    transaction.commit(gate, ended.and_then(rows::person), is_change).await
}

/// Writes that people ended who were not seen for long.
pub async fn end_idle(
    mut transaction: StoreTransaction,
    gate: &Gate,
    now: Timestamp,
    seen_until: Timestamp,
    limit: u32,
) -> Result<Committed<Vec<(i64, StoredPerson)>>, StoreError> {
    let sql = transaction.sql();
    let ended: Vec<PersonRow> =
        transaction.rows(&sql.people.end_idle, &values![now, seen_until, limit]).await?;
    let is_change = !ended.is_empty();
    transaction.commit(gate, ended.into_iter().filter_map(rows::person).collect(), is_change).await
}
