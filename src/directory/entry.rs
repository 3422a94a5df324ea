//! The data of a person in an entry.

use std::collections::HashSet;

use jiff::Timestamp;
use serde_json::{Map, Value};

use super::message::FoundEntry;
use super::{Entry, RejectionReason};
use crate::config::LdapSettings;
use crate::distinguished_name::DistinguishedName;

/// The maximum number of groups of a person.  An entry with more is rejected: a role by only some of the groups could
/// be one that the others deny.
pub(super) const MAX_GROUPS: usize = 1000;

/// The member of an actor that lists the groups, including those of `group_search`.
const GROUPS_MEMBER: &str = "groups";
/// The attribute with the kind of an entry.
const OBJECT_CLASS: &str = "objectClass";
/// The day, counted from 1970, on which an account expires (RFC 2307); negative for never.
const SHADOW_EXPIRE: &str = "shadowExpire";
/// `TRUE` where 389 Directory Server has deactivated an account.
const NS_ACCOUNT_LOCK: &str = "nsAccountLock";
/// Active Directory's flags, of which 2 says that an account is disabled.
const USER_ACCOUNT_CONTROL: &str = "userAccountControl";
/// When an account of Active Directory expires, in units of 100 ns since 1601; 0 or the greatest number for never.
const ACCOUNT_EXPIRES: &str = "accountExpires";
/// Since when an account is locked (draft-behera-ldap-password-policy).  The server enforces such a lock; only
/// [`LOCKED_FOREVER`] has no end.
const LOCKED_TIME: &str = "pwdAccountLockedTime";
const LOCKED_FOREVER: &str = "000001010000Z";

const DISABLING: [&str; 5] =
    [SHADOW_EXPIRE, NS_ACCOUNT_LOCK, USER_ACCOUNT_CONTROL, ACCOUNT_EXPIRES, LOCKED_TIME];

/// The attributes that questions about people ask for.
pub(super) fn attributes(settings: &LdapSettings) -> Vec<&str> {
    let mut attributes = vec![OBJECT_CLASS, &*settings.id_attribute, &*settings.groups_attribute];
    attributes.extend(settings.members.iter().map(|(_, attribute)| &**attribute));
    if let Some(search) = &settings.group_search
        && !is_dn(&search.user_attribute)
    {
        attributes.push(&search.user_attribute);
    }
    attributes.extend(DISABLING);
    let mut seen = HashSet::new();
    attributes.retain(|attribute| seen.insert(attribute.to_ascii_lowercase()));
    attributes
}

/// Whether `group_search.user_attribute` means the name of the entry, which is not an attribute.
fn is_dn(attribute: &str) -> bool {
    attribute.eq_ignore_ascii_case("dn")
}

/// A person's entry before the groups are searched for.
#[derive(Debug)]
pub(super) struct FoundPerson {
    pub(super) dn: DistinguishedName,
    found: FoundEntry,
    subject: String,
}

impl FoundPerson {
    /// Reads an entry.
    ///
    /// # Errors
    /// The reason why it is rejected.
    pub(super) fn read(
        found: FoundEntry,
        settings: &LdapSettings,
        now: Timestamp,
    ) -> Result<Self, RejectionReason> {
        let dn = found.dn.parse().map_err(|_| RejectionReason::InvalidEntry)?;
        if found.texts(OBJECT_CLASS).any(|class| class.eq_ignore_ascii_case("alias")) {
            return Err(RejectionReason::Alias);
        }
        if is_disabled(&found, now) {
            return Err(RejectionReason::Disabled);
        }
        let ids: Vec<_> = found.values(&settings.id_attribute).collect();
        let id = match *ids {
            [id] => std::str::from_utf8(id).map_err(|_| RejectionReason::NoId)?,
            [] => return Err(RejectionReason::NoId),
            [..] => return Err(RejectionReason::SeveralIds),
        };
        if id.trim().is_empty() {
            return Err(RejectionReason::NoId);
        }
        let subject = id.to_owned();
        if found.is_cut_off(&settings.groups_attribute) {
            return Err(RejectionReason::TooManyGroups);
        }
        Ok(Self { dn, found, subject })
    }

    /// The texts by which `group_search` finds the groups of this person.
    pub(super) fn group_keys<'a>(&'a self, user_attribute: &'a str) -> Vec<&'a str> {
        if is_dn(user_attribute) { vec![&*self.found.dn] } else { self.found.texts(user_attribute).collect() }
    }

    /// The whole entry, with the groups that were searched for.
    ///
    /// # Errors
    /// [`RejectionReason::TooManyGroups`].
    pub(super) fn with_groups(
        self,
        name: &str,
        settings: &LdapSettings,
        searched: Vec<String>,
    ) -> Result<Entry, RejectionReason> {
        let own = self.found.texts(&settings.groups_attribute).map(str::to_owned);
        let mut groups: Vec<_> = own.chain(searched).collect();
        // Sorted by their texts, so that the same groups give the same list in every order of arrival.
        groups.sort_unstable();
        let mut seen = HashSet::new();
        groups.retain(|group| {
            // A group that is not a distinguished name is equal only to itself.
            let name = group.parse::<DistinguishedName>().map_err(|_| group.clone());
            seen.insert(name)
        });
        if groups.len() > MAX_GROUPS {
            return Err(RejectionReason::TooManyGroups);
        }
        let mut members = Map::new();
        for (member, attribute) in &settings.members {
            let value = if **member == *GROUPS_MEMBER {
                Some(Value::from(groups.clone()))
            } else {
                self.found.member(attribute)
            };
            if let Some(value) = value {
                members.insert(member.to_string(), value);
            }
        }
        Ok(Entry { name: name.to_owned(), dn: self.found.dn, subject: self.subject, groups, members })
    }
}

/// Whether the entry is disabled.  A value that cannot be read disables it as well.
fn is_disabled(found: &FoundEntry, now: Timestamp) -> bool {
    const ACCOUNT_DISABLED: i64 = 2;
    const SECONDS_A_DAY: i64 = 24 * 60 * 60;
    /// From 1601 to 1970.
    const SECONDS_BEFORE_1970: i64 = 11_644_473_600;
    let has_disabling = |attribute: &str, disables: &dyn Fn(i64) -> bool| {
        found.values(attribute).any(|value| {
            let number = std::str::from_utf8(value).ok().and_then(|text| text.trim().parse().ok());
            number.is_none_or(disables)
        })
    };
    let today = now.as_second().div_euclid(SECONDS_A_DAY);
    has_disabling(SHADOW_EXPIRE, &|day| day >= 0 && day <= today)
        || has_disabling(USER_ACCOUNT_CONTROL, &|flags| flags & ACCOUNT_DISABLED != 0)
        || has_disabling(ACCOUNT_EXPIRES, &|time| {
            let never = time == 0 || time == i64::MAX;
            !never && time / 10_000_000 - SECONDS_BEFORE_1970 <= now.as_second()
        })
        || found.values(NS_ACCOUNT_LOCK).any(|value| !value.eq_ignore_ascii_case(b"false"))
        || found.values(LOCKED_TIME).any(|value| value == LOCKED_FOREVER.as_bytes())
}

impl FoundEntry {
    /// The values of an attribute without options: `cn;lang-fr` is not `cn`.
    fn values<'e>(&'e self, attribute: &str) -> impl Iterator<Item = &'e [u8]> {
        self.attributes
            .iter()
            .filter(move |(name, _)| name.eq_ignore_ascii_case(attribute))
            .flat_map(|(_, values)| values.iter().map(Vec::as_slice))
    }

    /// Those that are texts.
    fn texts<'e>(&'e self, attribute: &str) -> impl Iterator<Item = &'e str> {
        self.values(attribute).filter_map(|value| std::str::from_utf8(value).ok())
    }

    /// Whether the server sent only the first values of an attribute, as Active Directory does with thousands of them:
    /// `memberOf;range=0-1499`.
    fn is_cut_off(&self, attribute: &str) -> bool {
        self.attributes.iter().any(|(name, _)| {
            let Some((name, option)) = name.split_once(';') else { return false };
            name.eq_ignore_ascii_case(attribute) && option.to_ascii_lowercase().starts_with("range=")
        })
    }

    /// The value of an attribute in an actor: a text, or a list of several.
    fn member(&self, attribute: &str) -> Option<Value> {
        let mut texts: Vec<_> = self.texts(attribute).collect();
        // The values of an attribute are a set and arrive in any order.
        texts.sort_unstable();
        match &*texts {
            [] => None,
            [text] => Some(Value::from(*text)),
            [..] => Some(Value::from(texts)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;
    use crate::config::{Bind, GroupSearch};

    fn settings() -> LdapSettings {
        let members = [("name", "cn"), ("mail", "mail"), ("groups", "memberOf"), ("photo", "jpegPhoto")];
        LdapSettings {
            servers: [].into(),
            start_tls: false,
            ca: [].into(),
            bind: Bind::Anonymous,
            search_base: ["dc=org".into()].into(),
            search_filter: "(uid=%s)".into(),
            id_attribute: "uid".into(),
            members: members.map(|(member, attribute)| (member.into(), attribute.into())).into(),
            groups_attribute: "memberOf".into(),
            group_search: Some(GroupSearch {
                base: ["dc=org".into()].into(),
                filter: "(memberUid=%s)".into(),
                user_attribute: "uid".into(),
            }),
            roles: [].into(),
            plain_ids: false,
            at_check: true,
            max_wrong: 3,
            remember: Duration::ZERO,
            timeout: Duration::from_secs(5),
            binding: [0; 32],
        }
    }

    fn found(attributes: &[(&str, &[&[u8]])]) -> FoundEntry {
        let owned = |values: &[&[u8]]| values.iter().map(|value| value.to_vec()).collect();
        let attributes = attributes.iter().map(|(name, values)| ((*name).to_owned(), owned(values)));
        FoundEntry { dn: "uid=ann,dc=org".to_owned(), attributes: attributes.collect() }
    }

    /// 2024-03-01T00:00:00Z, day 19,783.
    fn now() -> Timestamp {
        Timestamp::from_second(19_783 * 24 * 60 * 60).unwrap()
    }

    #[test]
    fn an_entry_becomes_a_person_with_members() {
        let ann = found(&[
            ("UID", &[b"ann"]),
            ("cn", &[b"Ann"]),
            ("cn;lang-fr", &[b"Anne"]),
            ("mail", &[b"b@x", b"a@x"]),
            ("memberOf", &[b"cn=b,dc=org", b"cn=a,dc=org", b"\xff"]),
            ("jpegPhoto", &[b"\xff\xd8"]),
        ]);
        let person = FoundPerson::read(ann, &settings(), now()).unwrap();
        assert_eq!(person.group_keys("uid"), ["ann"]);
        assert_eq!(person.group_keys("DN"), ["uid=ann,dc=org"]);
        let searched = vec!["CN=A,DC=org".to_owned(), "cn=c,dc=org".to_owned(), "odd".to_owned()];
        let entry = person.with_groups("ann", &settings(), searched).unwrap();
        assert_eq!(entry.subject, "ann");
        assert_eq!(entry.dn, "uid=ann,dc=org");
        assert_eq!(entry.groups, ["CN=A,DC=org", "cn=b,dc=org", "cn=c,dc=org", "odd"]);
        let members = json!({"name": "Ann", "mail": ["a@x", "b@x"], "groups": entry.groups});
        assert_eq!(Value::from(entry.members), members);

        let poor = FoundPerson::read(found(&[("uid", &[b"ann"])]), &settings(), now()).unwrap();
        let entry = poor.with_groups("ann", &settings(), Vec::new()).unwrap();
        assert_eq!(Value::from(entry.members), json!({"groups": []}));
    }

    #[test]
    fn an_entry_without_a_usable_id_is_rejected() {
        for (attributes, reason) in [
            (&[][..], RejectionReason::NoId),
            (&[("uid", &[][..])], RejectionReason::NoId),
            (&[("uid", &[&b" "[..]])], RejectionReason::NoId),
            (&[("uid", &[&b"\xff"[..]])], RejectionReason::NoId),
            (&[("uid;lang-fr", &[&b"ann"[..]])], RejectionReason::NoId),
            (&[("uid", &[&b"ann"[..], b"anna"])], RejectionReason::SeveralIds),
            (&[("uid", &[&b"ann"[..]]), ("UID", &[b"anna"])], RejectionReason::SeveralIds),
            (&[("uid", &[&b"ann"[..]]), ("objectclass", &[b"top", b"ALIAS"])], RejectionReason::Alias),
            (&[("uid", &[&b"ann"[..]]), ("memberOf;Range=0-1", &[b"a"])], RejectionReason::TooManyGroups),
        ] {
            let read = FoundPerson::read(found(attributes), &settings(), now());
            assert_eq!(read.map(|person| person.subject), Err(reason), "{attributes:?}");
        }
        let odd = FoundEntry { dn: "ann".to_owned(), ..found(&[("uid", &[b"ann"])]) };
        assert_eq!(FoundPerson::read(odd, &settings(), now()).err(), Some(RejectionReason::InvalidEntry));
        let many = (0..=MAX_GROUPS).map(|number| format!("cn={number}")).collect::<Vec<_>>();
        let read = || FoundPerson::read(found(&[("uid", &[b"ann"])]), &settings(), now()).unwrap();
        assert!(read().with_groups("ann", &settings(), many[1..].to_vec()).is_ok());
        let reason = read().with_groups("ann", &settings(), many).map(|entry| entry.subject);
        assert_eq!(reason, Err(RejectionReason::TooManyGroups));
    }

    #[test]
    fn attributes_of_several_kinds_of_directories_disable_an_entry() {
        for (attribute, value, disables) in [
            ("shadowExpire", "-1", false),
            ("shadowExpire", "19784", false),
            ("shadowExpire", "19783", true),
            ("shadowExpire", "1", true),
            ("shadowExpire", "0", true),
            ("shadowexpire", "soon", true),
            ("userAccountControl", "512", false),
            ("userAccountControl", "514", true),
            ("userAccountControl", "66050", true),
            ("accountExpires", "0", false),
            ("accountExpires", "9223372036854775807", false),
            // 2024-03-01T00:00:00Z, and a second later.
            ("accountExpires", "133537248000000000", true),
            ("accountExpires", "133537248010000000", false),
            ("nsAccountLock", "false", false),
            ("nsAccountLock", "TRUE", true),
            ("pwdAccountLockedTime", "000001010000Z", true),
            ("pwdAccountLockedTime", "20240229120000Z", false),
        ] {
            let entry = found(&[("uid", &[b"ann"]), (attribute, &[value.as_bytes()])]);
            let read = FoundPerson::read(entry, &settings(), now());
            assert_eq!(read.err() == Some(RejectionReason::Disabled), disables, "{attribute} {value}");
        }
    }

    #[test]
    fn every_attribute_that_counts_is_asked_for_once() {
        let settings = settings();
        let attributes = attributes(&settings);
        for attribute in ["objectClass", "uid", "memberOf", "cn", "mail", "jpegPhoto", "shadowExpire"] {
            assert_eq!(attributes.iter().filter(|name| **name == attribute).count(), 1, "{attribute}");
        }
        assert_eq!(attributes.len(), 11);
    }
}
