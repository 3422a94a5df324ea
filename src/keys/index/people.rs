//! The people of the index: by identity for readers, and by the ids of their records for writers.

use std::collections::{BTreeMap, HashSet};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::keys::StoredPerson;
use crate::keys::people::PersonRecord;
use crate::keys::store::source::PersonPage;
use crate::person::{PersonId, PersonSource};

/// All people with a record.
#[derive(Default)]
pub(super) struct People {
    by_person: papaya::HashMap<PersonId, Arc<PersonRecord>, foldhash::fast::RandomState>,
    /// Its lock is the writers' lock.
    by_id: Mutex<BTreeMap<i64, PersonId>>,
}

impl People {
    /// The record of a person.
    pub fn find(&self, person: &PersonId) -> Option<Arc<PersonRecord>> {
        self.by_person.pin().get(person).map(Arc::clone)
    }

    /// The people of these sources who have not ended.
    pub fn not_ended(&self, is_source: impl Fn(&PersonSource) -> bool) -> Vec<PersonId> {
        let people = self.by_person.pin();
        let wanted = people.iter().filter(|(id, person)| is_source(&id.source) && person.ended_at.is_none());
        wanted.map(|(id, _)| id.clone()).collect()
    }

    /// Inserts a record, or replaces the one with this id.  An unchanged record is kept.
    pub fn put(&self, id: i64, stored: StoredPerson) {
        self.put_locked(&mut self.lock(), id, stored);
    }

    /// Removes a record.
    pub fn remove(&self, id: i64) {
        self.remove_locked(&mut self.lock(), id);
    }

    /// Applies a page of all records: those with an id above `after`, up to the end of the page.
    pub fn apply(&self, after: i64, page: PersonPage) {
        let mut by_id = self.lock();
        let covered = (Bound::Excluded(after), page.next.map_or(Bound::Unbounded, Bound::Included));
        let existing: HashSet<i64> = page.people.iter().map(|(id, _)| *id).collect();
        let gone: Vec<i64> =
            by_id.range(covered).map(|(id, _)| *id).filter(|id| !existing.contains(id)).collect();
        for id in gone {
            self.remove_locked(&mut by_id, id);
        }
        for (id, stored) in page.people {
            self.put_locked(&mut by_id, id, stored);
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<i64, PersonId>> {
        // A panic leaves no record half written, because a record is replaced as a whole.
        self.by_id.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put_locked(&self, by_id: &mut BTreeMap<i64, PersonId>, id: i64, stored: StoredPerson) {
        let person = stored.person.clone();
        let people = self.by_person.pin();
        if people.get(&person).is_some_and(|before| before.is_same(id, &stored)) {
            return;
        }
        if by_id.get(&id).is_some_and(|before| *before != person) {
            self.remove_locked(by_id, id);
        }
        let Some(after) = PersonRecord::new(id, stored) else {
            tracing::error!(
                person_id = id,
                "the key store has a record without a valid actor: the keys and sessions of this person are \
                 denied"
            );
            people.remove(&person);
            by_id.remove(&id);
            return;
        };
        people.insert(person.clone(), Arc::new(after));
        by_id.insert(id, person);
    }

    fn remove_locked(&self, by_id: &mut BTreeMap<i64, PersonId>, id: i64) {
        if let Some(person) = by_id.remove(&id) {
            // A later record of the same person stays.
            let _ = self.by_person.pin().remove_if(&person, |_, record| record.id() == id);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, Value};

    use super::*;
    use crate::token::TokenDigest;

    fn ldap(subject: &str) -> PersonId {
        PersonId { source: PersonSource::Ldap, subject: subject.into() }
    }

    fn record(subject: &str, member: &str) -> StoredPerson {
        StoredPerson {
            person: ldap(subject),
            actor: Map::from_iter([("id".to_owned(), Value::from(member))]),
            role: None,
            binding: TokenDigest::of(b"settings"),
            claims: None,
            seen_at: jiff::Timestamp::UNIX_EPOCH,
            ended_at: None,
        }
    }

    fn id_of(people: &People, subject: &str) -> Option<Value> {
        people.find(&ldap(subject)).and_then(|person| person.actor().member("id").cloned())
    }

    #[test]
    fn a_record_stays_as_long_as_nothing_changes_and_its_principal_with_it() {
        let people = People::default();
        people.put(1, record("ann", "a"));
        let before = people.find(&ldap("ann")).unwrap();
        let seen_at = jiff::Timestamp::from_second(60).unwrap();
        people.put(1, StoredPerson { seen_at, ..record("ann", "a") });
        assert!(Arc::ptr_eq(&before, &people.find(&ldap("ann")).unwrap()));
        people.put(1, record("ann", "b"));
        assert_eq!(id_of(&people, "ann"), Some(Value::from("b")));
    }

    #[test]
    fn a_record_that_took_the_place_of_another_one_outlives_it() {
        let people = People::default();
        people.put(1, record("ann", "a"));
        people.put(2, record("ann", "b"));
        people.remove(1);
        assert_eq!(id_of(&people, "ann"), Some(Value::from("b")));
        // Somebody else's record under the same id, as only psql makes it.
        people.put(2, record("bob", "c"));
        assert_eq!((id_of(&people, "ann"), id_of(&people, "bob")), (None, Some(Value::from("c"))));
        people.remove(2);
        assert_eq!(people.not_ended(|_| true), []);
    }

    #[test]
    fn an_actor_that_cannot_be_one_makes_no_person() {
        let people = People::default();
        people.put(1, record("ann", "key:deploy"));
        assert!(people.find(&ldap("ann")).is_none());
        people.put(1, record("ann", "a"));
        people.put(1, record("ann", "key:deploy"));
        assert!(people.find(&ldap("ann")).is_none());
    }

    #[test]
    fn a_page_of_all_replaces_what_it_covers_and_no_more() {
        let people = People::default();
        for (id, subject) in [(1, "ann"), (2, "bob"), (3, "carol"), (4, "dan")] {
            people.put(id, record(subject, subject));
        }
        let ended = StoredPerson { ended_at: Some(jiff::Timestamp::UNIX_EPOCH), ..record("eve", "eve") };
        people.apply(1, PersonPage { people: vec![(3, ended)], next: Some(3) });
        let mut left = people.not_ended(|_| true);
        left.sort();
        assert_eq!(left, [ldap("ann"), ldap("dan")]);
        assert!(people.find(&ldap("eve")).is_some_and(|person| person.ended_at.is_some()));
        people.apply(i64::MIN, PersonPage::default());
        assert!(people.find(&ldap("ann")).is_none() && people.find(&ldap("eve")).is_none());
    }
}
