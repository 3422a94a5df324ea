//! The section `ldap`: a directory whose people may log in.

pub mod filter;
mod server;

use std::time::Duration;

use rustls::pki_types::CertificateDer;
use serde_json::json;
use sha2::{Digest, Sha256};

use super::people::{OWN_MEMBERS, RoleWords, read_ids, read_role_name, read_timeout};
use super::raw::{Entry, Location, Node, Value};
use super::reader::{Fields, Reader};
use super::{people, plain, schema, tls};
use crate::distinguished_name::DistinguishedName;
use crate::keys::Role;
use crate::secret::Secret;

use self::filter::{Filter, NAME, is_attribute};
pub use self::server::{LdapServer, LdapServerError};

/// The section `ldap`.
pub struct LdapSettings {
    /// `url`: the servers, in the order in which they are tried.
    pub servers: Box<[LdapServer]>,
    /// `start_tls`: connections of `ldap://` switch to TLS before anything else is sent.
    pub start_tls: bool,
    /// `ca`: certificates that are trusted in addition to the system's.
    pub ca: Box<[CertificateDer<'static>]>,
    /// `bind_dn` and `bind_password`.
    pub bind: Bind,
    /// `search_base`: where people are searched for, in order.
    pub search_base: Box<[Box<str>]>,
    /// `search_filter`: RFC 4515, with `%s` for the name.
    pub search_filter: Box<str>,
    /// `members.id`: the attribute whose value is the person's id.
    pub id_attribute: Box<str>,
    /// The other `members`: of the actor, each with its attribute.
    pub members: Box<[(Box<str>, Box<str>)]>,
    /// The attribute of an entry that names its groups; `memberOf` unless `members.groups` names another.
    pub groups_attribute: Box<str>,
    /// `group_search`.
    pub group_search: Option<GroupSearch>,
    /// `roles`: the first match is used.
    pub roles: Box<[GroupRole]>,
    /// `ids: plain`: the actor's id is the directory's, without `ldap:` before it.
    pub plain_ids: bool,
    /// `at_check`: whether Basic credentials of Checks are asked about.
    pub at_check: bool,
    /// `max_wrong`: wrong passwords for one entry in half an hour, after which further ones are denied unasked.
    pub max_wrong: usize,
    /// `remember`: how long a right password is valid without another question; zero: never.
    pub remember: Duration,
    /// `timeout`: how long one server may take to answer.
    pub timeout: Duration,
    /// The digest of the settings that identify people: servers, bases, filters, direct binds, `members.id`, `ids`.
    /// Another one ends all sessions.
    pub binding: [u8; 32],
}

/// The identity for searches in the directory.
pub enum Bind {
    /// Anonymous searches.
    Anonymous,
    /// `bind_dn` without `%s`.
    Reader {
        /// Its name.
        dn: Box<str>,
        /// `bind_password`.
        password: Secret,
    },
    /// `bind_dn` with `%s`: each person binds directly, and reads their own entry.
    Direct {
        /// The template.
        template: Box<str>,
    },
}

/// `group_search`, for directories whose entries do not name their groups.
pub struct GroupSearch {
    /// `base`.
    pub base: Box<[Box<str>]>,
    /// `filter`: with `%s` for the person.
    pub filter: Box<str>,
    /// `user_attribute`: the attribute that stands for `%s`; `dn` is the entry's name.
    pub user_attribute: Box<str>,
}

/// An entry of `roles`.
pub struct GroupRole {
    /// The group; `None` is `"*"`: everyone.
    pub group: Option<DistinguishedName>,
    /// The role of its people.
    pub role: Role,
}

/// The content of the section.
pub struct LdapSection {
    /// `None` when something in it is not valid.
    pub settings: Option<LdapSettings>,
    /// `at_check`; `None` when it is not valid.
    pub at_check: Option<bool>,
}

/// Without `remember`.
const DEFAULT_REMEMBER: Duration = Duration::from_secs(5 * 60);
/// A longer `remember` is a warning.
const RECOMMENDED_REMEMBER: Duration = Duration::from_secs(15 * 60);
/// The longest `remember`.
const MAX_REMEMBER: Duration = Duration::from_secs(3600);

/// Without `max_wrong`.
const DEFAULT_MAX_WRONG: usize = 3;

/// Without `members`, or without `groups` in it.
const GROUPS_ATTRIBUTE: &str = "memberOf";

/// Attributes that people take for an id and that are no text.
const BINARY_ATTRIBUTES: [&str; 2] = ["objectGUID", "objectSid"];

/// Reads the section; `None` when it is not there.  `takes_basic` says whether Checks take passwords, `has_admin` whether
/// people can log in elsewhere.
pub fn read<'t>(
    reader: &mut Reader<'t>,
    section: Option<&'t Entry>,
    takes_basic: bool,
    has_admin: bool,
) -> Option<LdapSection> {
    let entry = section?;
    if cfg!(not(feature = "ldap")) {
        reader
            .error(&entry.at, "this program was built without the feature `ldap`: it cannot ask a directory");
    }
    let what =
        "a mapping such as {url: \"ldaps://ldap.example.com\", search_base: …, search_filter: …, roles: …}";
    let Some(fields) = reader.fields(&entry.value, what, &schema::LDAP) else {
        return Some(LdapSection { settings: None, at_check: None });
    };
    let at_check_node = fields.get("at_check");
    let at_check = at_check_node.map_or(Some(true), |node| reader.boolean(node));
    if at_check == Some(true) && takes_basic {
        let place = at_check_node.map_or(&entry.at, |node| &node.at);
        let advice = if has_admin {
            "with `at_check: false` Checks do not ask the directory, and people log in only at `admin`"
        } else {
            "add a section `admin`, where people log in, and `at_check: false`, so that Checks do not ask the \
             directory"
        };
        reader.warn(
            place,
            format!(
                "everyone who reaches the gateway can guess passwords of the directory, a few times for each \
                 entry: {advice}"
            ),
        );
    }
    // Each is read, so that every problem is reported.
    let (servers, start_tls) = read_servers(reader, &entry.at, fields);
    let ca = read_ca(reader, fields.get("ca"), servers.as_deref(), start_tls);
    let bind = read_bind(reader, fields);
    let search_base = needed(reader, &entry.at, fields, "search_base", |reader, node| {
        read_names(reader, node, "ou=people,dc=example,dc=org")
    });
    let search_filter = needed(reader, &entry.at, fields, "search_filter", read_search_filter);
    let members = read_members(reader, fields.get("members"));
    let group_search = match fields.get("group_search") {
        Some(node) => read_group_search(reader, node, members.as_ref()).map(Some),
        None => Some(None),
    };
    let roles = needed(reader, &entry.at, fields, "roles", read_roles);
    if let (Some(node), Some(Bind::Direct { template }), Some(bases)) =
        (fields.get("bind_dn"), &bind, &search_base)
    {
        warn_of_bind_outside(reader, node, template, bases);
    }
    let plain_ids = read_ids(reader, fields.get("ids"));
    let max_wrong = read_max_wrong(reader, fields.get("max_wrong"));
    let remember = read_remember(reader, fields.get("remember"));
    let timeout = read_timeout(reader, fields.get("timeout"), "a server");
    let settings = || {
        let (members, bind) = (members?, bind?);
        let mut settings = LdapSettings {
            servers: servers?,
            start_tls,
            ca: ca?,
            bind,
            search_base: search_base?,
            search_filter: search_filter?,
            id_attribute: members.id,
            members: members.others,
            groups_attribute: members.groups,
            group_search: group_search?,
            roles: roles?,
            plain_ids,
            at_check: at_check?,
            max_wrong,
            remember,
            timeout,
            binding: [0; 32],
        };
        settings.binding = binding(&settings);
        Some(settings)
    };
    Some(LdapSection { settings: settings(), at_check })
}

/// The keys that a directory cannot be asked without, each with an example.
const NEEDED: [(&str, &str); 4] = [
    ("url", "the server of the directory, such as ldaps://ldap.example.com"),
    (
        "search_base",
        "the name of the entry below which people are searched, such as ou=people,dc=example,dc=org",
    ),
    (
        "search_filter",
        "the filter that finds a person, with %s for the name, such as (uid=%s), or (sAMAccountName=%s) for \
         Active Directory",
    ),
    (
        "roles",
        "a list such as [{group: \"cn=admins,ou=groups,dc=example,dc=org\", role: Admin}]; a person who matches \
         none cannot log in",
    ),
];

/// The value of a key that must be there.
fn needed<'t, T>(
    reader: &mut Reader<'t>,
    at: &'t Location,
    fields: Fields<'t>,
    key: &'static str,
    read: impl FnOnce(&mut Reader<'t>, &'t Node) -> Option<T>,
) -> Option<T> {
    if let Some(node) = fields.get(key) {
        return read(reader, node);
    }
    let example = NEEDED.iter().find(|(needed, _)| *needed == key).map_or("", |(_, example)| *example);
    reader.error(at, format!("`ldap` needs `{key}`: {example}"));
    None
}

/// A text, or a list of texts; `None` when it is neither, or empty.
fn one_or_more<'t>(reader: &mut Reader<'t>, node: &'t Node, what: &str) -> Option<&'t [Node]> {
    match &node.value {
        Value::Text(_) => Some(std::slice::from_ref(node)),
        Value::List(list) if list.is_empty() => {
            reader.error(&node.at, format!("the list is empty: expected {what}"));
            None
        }
        Value::List(list) => Some(list),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Map(_) | Value::Unresolved { .. } => {
            reader.expected(node, &format!("{what}, or a list of them"));
            None
        }
    }
}

/// `url` and `start_tls`.
fn read_servers<'t>(
    reader: &mut Reader<'t>,
    at: &'t Location,
    fields: Fields<'t>,
) -> (Option<Box<[LdapServer]>>, bool) {
    let tls_node = fields.get("start_tls");
    let start_tls = tls_node.and_then(|node| reader.boolean(node));
    let what = "text such as ldaps://ldap.example.com";
    let list = needed(reader, at, fields, "url", |reader, node| one_or_more(reader, node, what));
    let mut servers: Vec<LdapServer> = Vec::new();
    let mut all_valid = true;
    for node in list.unwrap_or_default() {
        let Some(text) = reader.text(node, what) else {
            all_valid = false;
            continue;
        };
        match text.as_str().parse::<LdapServer>() {
            Ok(server) if servers.contains(&server) => {
                reader.error(&node.at, "this server is in the list already");
            }
            Ok(server) => {
                let is_plain = matches!(server, LdapServer::Plain { .. }) && start_tls == Some(false);
                let is_unsaid = matches!(server, LdapServer::Plain { .. }) && tls_node.is_none();
                if (is_plain || is_unsaid) && !server.is_local() {
                    reader.error(
                        &node.at,
                        "passwords would cross the network in plain text: write ldaps://, or add `start_tls: true`",
                    );
                }
                servers.push(server);
            }
            Err(error) => {
                reader.error(&node.at, error.to_string());
                all_valid = false;
            }
        }
    }
    let is_upgraded = |server: &LdapServer| matches!(server, LdapServer::Plain { .. });
    if let (Some(true), Some(node)) = (start_tls, tls_node)
        && all_valid
        && !servers.is_empty()
        && !servers.iter().any(is_upgraded)
    {
        reader.error(
            &node.at,
            "StartTLS works with ldap:// only, and no `url` is one: ldaps:// always uses TLS, and ldapi:// stays \
             on this host",
        );
    }
    let servers = (all_valid && !servers.is_empty()).then(|| servers.into());
    (servers, start_tls.unwrap_or(false))
}

/// `ca`.  `None` when it is there and not valid.
fn read_ca<'t>(
    reader: &mut Reader<'t>,
    node: Option<&'t Node>,
    servers: Option<&[LdapServer]>,
    start_tls: bool,
) -> Option<Box<[CertificateDer<'static>]>> {
    let Some(node) = node else {
        return Some(Box::default());
    };
    let uses_tls = |server: &LdapServer| match server {
        LdapServer::Tls { .. } => true,
        LdapServer::Plain { .. } => start_tls,
        LdapServer::Socket(_) => false,
    };
    if servers.is_some_and(|servers| !servers.iter().any(uses_tls)) {
        reader.warn(&node.at, "this has no effect: no `url` uses TLS");
    }
    tls::read_authorities(reader, node).map(Into::into)
}

/// `bind_dn` and `bind_password`.
fn read_bind<'t>(reader: &mut Reader<'t>, fields: Fields<'t>) -> Option<Bind> {
    let (name, password) = (fields.get("bind_dn"), fields.get("bind_password"));
    let secret = password.map(|node| read_password(reader, node));
    let Some(node) = name else {
        if let Some(node) = password {
            reader.error(
                &node.at,
                "a password needs a name: add `bind_dn`, or leave both out to search anonymously",
            );
            return None;
        }
        return Some(Bind::Anonymous);
    };
    let text = reader.text(node, "text such as cn=reader,dc=example,dc=org")?.as_str();
    let is_direct = text.contains(NAME);
    match (is_direct, password) {
        (true, Some(password)) => {
            reader.error(
                &password.at,
                "with `%s` in `bind_dn` each person binds with their own password: leave this out, or write a \
                 `bind_dn` without `%s`",
            );
            return None;
        }
        (false, None) => {
            reader.error(
                &node.at,
                "`bind_dn` needs `bind_password`: a directory treats a name without a password as anonymous; \
                 leave both out to search anonymously",
            );
            return None;
        }
        (true, None) | (false, Some(_)) => {}
    }
    if text.matches(NAME).count() > 1 {
        reader.error(&node.at, "`bind_dn` can contain `%s` only once");
        return None;
    }
    let parsed = text.parse::<DistinguishedName>();
    // Active Directory takes both of these forms for a name, and they name no entry.
    let is_windows = text.contains(['@', '\\']);
    match parsed {
        Err(_) if is_direct && is_windows => {
            reader.error(
                &node.at,
                "with `%s` this must be the name of an entry, such as uid=%s,ou=people,dc=example,dc=org: with \
                 DOMAIN\\%s and %s@domain the server cannot know which entry was bound; write a `bind_dn` without `%s`, \
                 which searches",
            );
            return None;
        }
        Err(error) if is_direct || !is_windows => {
            reader.error(&node.at, not_a_name(&error));
            return None;
        }
        Ok(_) | Err(_) => {}
    }
    Some(match secret {
        Some(secret) => Bind::Reader { dn: text.into(), password: secret? },
        None => Bind::Direct { template: text.into() },
    })
}

/// Warns of a `bind_dn` with `%s` that names entries outside every search base.
fn warn_of_bind_outside<'t>(reader: &mut Reader<'t>, node: &'t Node, template: &str, bases: &[Box<str>]) {
    let Ok(name) = template.parse::<DistinguishedName>() else {
        return;
    };
    let is_within =
        |base: &str| base.parse::<DistinguishedName>().is_ok_and(|base| name.is_at_or_below(&base));
    if !bases.iter().any(|base| is_within(base)) {
        reader.warn(
            &node.at,
            "no person can be found: each person who binds with this name searches for their own entry, which is \
             below none of `search_base`; add the part after the first comma to `search_base`",
        );
    }
}

fn not_a_name(error: &crate::distinguished_name::DistinguishedNameError) -> String {
    format!("expected the name of an entry (a DN): {error}")
}

fn read_password<'t>(reader: &mut Reader<'t>, node: &'t Node) -> Option<Secret> {
    let text = reader.text(node, "text: a password, best by {$env: NAME} or {$file: PATH}")?;
    if text.as_str().is_empty() {
        reader.error(
            &node.at,
            "a password has at least one character: without a password the bind is anonymous",
        );
        return None;
    }
    if plain::rejects_reference(reader, node, text) {
        return None;
    }
    plain::warn_of_placeholder(reader, node, text, &[]);
    Some(Secret::new(text.as_str().to_owned()))
}

/// Names of entries: one, or a list.
fn read_names<'t>(reader: &mut Reader<'t>, node: &'t Node, example: &str) -> Option<Box<[Box<str>]>> {
    let what = format!("text such as {example}");
    let mut names: Vec<(DistinguishedName, Box<str>)> = Vec::new();
    let mut all_valid = true;
    for node in one_or_more(reader, node, &what)? {
        let parsed = reader.text(node, &what).map(|text| (text.as_str().parse::<DistinguishedName>(), text));
        match parsed {
            Some((Ok(name), _)) if names.iter().any(|(earlier, _)| *earlier == name) => {
                reader.error(&node.at, "this name is in the list already");
            }
            Some((Ok(name), text)) => names.push((name, text.as_str().into())),
            Some((Err(error), _)) => {
                reader.error(&node.at, not_a_name(&error));
                all_valid = false;
            }
            None => all_valid = false,
        }
    }
    all_valid.then(|| names.into_iter().map(|(_, text)| text).collect())
}

/// `search_filter`.
fn read_search_filter<'t>(reader: &mut Reader<'t>, node: &'t Node) -> Option<Box<str>> {
    let missing = "`%s`, which stands for the name, is missing: write (uid=%s)";
    let (filter, text) = read_filter(reader, node, "(uid=%s)", missing)?;
    if filter.compared.len() > 1 {
        reader.warn(
            &node.at,
            "the filter compares more than one attribute: a person who may change one of them, such as mail, can \
             write the name of another person there, and then two entries match and neither person can log in",
        );
    }
    Some(text)
}

/// A filter that compares with the name, or with what stands for the person; `missing` says what to do when it compares
/// with neither.
fn read_filter<'t>(
    reader: &mut Reader<'t>,
    node: &'t Node,
    example: &str,
    missing: &str,
) -> Option<(Filter<'t>, Box<str>)> {
    let text = reader.text(node, &format!("text such as {example}"))?.as_str();
    match Filter::parse(text) {
        Ok(filter) if filter.compared.is_empty() => {
            reader.error(&node.at, missing);
            None
        }
        Ok(filter) if !filter.needs_name => {
            reader.error(
                &node.at,
                format!(
                    "this filter can match entries without regard to the name: each alternative must compare \
                     with `%s`, as {example} does"
                ),
            );
            None
        }
        Ok(filter) => Some((filter, text.into())),
        Err(error) => {
            reader.error(&node.at, format!("expected a search filter such as {example} (RFC 4515): {error}"));
            None
        }
    }
}

/// `members`, taken apart.
struct Members {
    id: Box<str>,
    others: Box<[(Box<str>, Box<str>)]>,
    groups: Box<str>,
}

fn read_members<'t>(reader: &mut Reader<'t>, node: Option<&'t Node>) -> Option<Members> {
    let Some(node) = node else {
        let others = [("name", "cn"), ("email", "mail"), ("groups", GROUPS_ATTRIBUTE)];
        return Some(Members {
            id: "uid".into(),
            others: others.map(|(member, attribute)| (member.into(), attribute.into())).into(),
            groups: GROUPS_ATTRIBUTE.into(),
        });
    };
    let entries =
        reader.entries(node, "a mapping such as {id: uid, name: cn, email: mail, groups: memberOf}")?;
    let mut members: Vec<(Box<str>, Option<Box<str>>)> = Vec::with_capacity(entries.len());
    for entry in entries {
        let folded = entry.key.to_lowercase();
        if let Some((_, why)) = OWN_MEMBERS.into_iter().find(|(own, _)| *own == folded) {
            reader.error(&entry.at, format!("this member of the actor cannot come from an attribute: {why}"));
        } else if entry.key.is_empty() {
            reader.error(&entry.at, "a member's name has at least one character");
        } else if members.iter().any(|(earlier, _)| *earlier != entry.key && earlier.to_lowercase() == folded)
        {
            reader.error(
                &entry.at,
                "two members differ only in case: an upstream could take one for the other",
            );
        }
        members.push((entry.key.clone(), read_attribute(reader, &entry.value)));
    }
    let id = members.iter().find(|(member, _)| &**member == "id");
    if id.is_none() {
        reader.error(&node.at, "`members` needs `id`: the attribute that tells people apart, such as uid");
    }
    let id = id.and_then(|(_, attribute)| attribute.clone())?;
    let groups = members.iter().find(|(member, _)| &**member == "groups");
    let groups = groups.map_or_else(|| Some(GROUPS_ATTRIBUTE.into()), |(_, attribute)| attribute.clone())?;
    let others = members.into_iter().filter(|(member, _)| &**member != "id");
    let others: Option<_> = others.map(|(member, attribute)| Some((member, attribute?))).collect();
    Some(Members { id, others: others?, groups })
}

/// The name of an attribute.
fn read_attribute<'t>(reader: &mut Reader<'t>, node: &'t Node) -> Option<Box<str>> {
    let text = reader.text(node, "text: the name of an attribute, such as uid")?.as_str();
    if text.eq_ignore_ascii_case("dn") {
        reader.error(
            &node.at,
            "the name of an entry is not an attribute: use entryDN with OpenLDAP and 389-ds, distinguishedName \
             with Active Directory",
        );
        return None;
    }
    if BINARY_ATTRIBUTES.iter().any(|name| text.eq_ignore_ascii_case(name)) {
        reader.error(
            &node.at,
            "the value of this attribute is binary, and members of an actor are texts: use sAMAccountName with \
             Active Directory, entryUUID with OpenLDAP",
        );
        return None;
    }
    if !is_attribute(text) {
        reader.error(&node.at, "expected the name of an attribute, such as uid: letters, digits and `-`");
        return None;
    }
    Some(text.into())
}

/// Filters of groups, by what these list.
const GROUP_FILTERS: &str = "(memberUid=%s) if groups list the value of `members.id`, or (member=%s) with \
    `user_attribute: dn` if they list the names of entries";

fn read_group_search<'t>(
    reader: &mut Reader<'t>,
    node: &'t Node,
    members: Option<&Members>,
) -> Option<GroupSearch> {
    let what = "a mapping such as {base: \"ou=groups,dc=example,dc=org\", filter: \"(memberUid=%s)\"}";
    let fields = reader.fields(node, what, &schema::GROUP_SEARCH)?;
    for (key, example) in [("base", "the entry below which groups are searched"), ("filter", GROUP_FILTERS)] {
        if fields.get(key).is_none() {
            reader.error(fields.at, format!("`group_search` needs `{key}`: {example}"));
        }
    }
    let base = fields.get("base").and_then(|node| read_names(reader, node, "ou=groups,dc=example,dc=org"));
    let missing = format!(
        "`%s`, which stands for `user_attribute` of the person, is missing, so every person would be in each \
         group that matches: write {GROUP_FILTERS}"
    );
    let filter =
        fields.get("filter").map(|node| (node, read_filter(reader, node, "(memberUid=%s)", &missing)));
    let user_attribute = match fields.get("user_attribute") {
        Some(node) => match &node.value {
            Value::Text(text) if text.as_str().eq_ignore_ascii_case("dn") => Some("dn".into()),
            _ => read_attribute(reader, node),
        },
        None => members.map(|members| members.id.clone()),
    };
    if let (Some((node, Some((filter, _)))), None) = (&filter, fields.get("user_attribute")) {
        let holds_names = |attribute: &&str| {
            ["member", "uniquemember"].iter().any(|name| attribute.eq_ignore_ascii_case(name))
        };
        if filter.compared.iter().any(holds_names) {
            reader.warn(
                &node.at,
                "this attribute of groups lists the names of entries: add `user_attribute: dn`",
            );
        }
    }
    let (_, filter) = filter?.1?;
    Some(GroupSearch { base: base?, filter, user_attribute: user_attribute? })
}

fn read_roles<'t>(reader: &mut Reader<'t>, node: &'t Node) -> Option<Box<[GroupRole]>> {
    let words = RoleWords {
        example: "a list such as [{group: \"cn=admins,ou=groups,dc=example,dc=org\", role: Admin}]",
        empty: "with an empty list no person of the directory can log in; {group: \"*\", role: Viewer} matches \
            everyone",
        same: "the same group",
    };
    let examine = |reader: &mut Reader<'t>, node: &'t Node, role: &GroupRole| {
        if role.group.is_none() && role.role == Role::Admin {
            reader.warn(&node.at, "every person of the directory becomes an Admin: name a group");
        }
    };
    people::read_roles(reader, node, &words, read_role, |role| role.group.as_ref(), examine)
}

fn read_role<'t>(reader: &mut Reader<'t>, node: &'t Node) -> Option<GroupRole> {
    let what = "a mapping such as {group: \"cn=admins,ou=groups,dc=example,dc=org\", role: Admin}";
    let fields = reader.fields(node, what, &schema::GROUP_ROLE)?;
    if fields.get("group").is_none() || fields.get("role").is_none() {
        reader.error(
            fields.at,
            "an entry of `roles` has a `group` (its name, or \"*\" for everyone) and a `role`",
        );
    }
    let group = fields.get("group").and_then(|node| {
        let text = reader.text(node, "text: the name of a group, or \"*\"")?.as_str();
        if text == "*" {
            return Some(None);
        }
        let parsed = text.parse();
        match &parsed {
            Ok(_) if has_wildcard(text) => reader.warn(
                &node.at,
                "`*` is not a wildcard in the name of a group, which is compared whole: write an entry for each \
                 group, \"*\" alone for everyone, or \\2a for a `*` in a name",
            ),
            Ok(_) => {}
            Err(error) => reader.error(
                &node.at,
                format!("expected the whole name of a group (its DN), or \"*\" for everyone: {error}"),
            ),
        }
        parsed.ok().map(Some)
    });
    let role = fields.get("role").and_then(|node| read_role_name(reader, node));
    Some(GroupRole { group: group?, role: role? })
}

/// Whether a name holds a `*` that no backslash goes before.
fn has_wildcard(name: &str) -> bool {
    let mut is_escaped = false;
    name.chars().any(|character| {
        let is_wildcard = character == '*' && !is_escaped;
        is_escaped = character == '\\' && !is_escaped;
        is_wildcard
    })
}

fn read_max_wrong<'t>(reader: &mut Reader<'t>, node: Option<&'t Node>) -> usize {
    let Some(node) = node else {
        return DEFAULT_MAX_WRONG;
    };
    let what = "a whole number such as 3: the largest number of wrong passwords for one entry in 30 minutes that \
        are sent to the directory";
    match &node.value {
        Value::Number(number) => {
            let count =
                number.as_u64().and_then(|count| usize::try_from(count).ok()).filter(|count| *count > 0);
            if count.is_none() {
                reader.error(&node.at, format!("expected {what}, at least 1"));
            }
            count.unwrap_or(DEFAULT_MAX_WRONG)
        }
        Value::Null
        | Value::Bool(_)
        | Value::Text(_)
        | Value::List(_)
        | Value::Map(_)
        | Value::Unresolved { .. } => {
            reader.expected(node, what);
            DEFAULT_MAX_WRONG
        }
    }
}

fn read_remember<'t>(reader: &mut Reader<'t>, node: Option<&'t Node>) -> Duration {
    let Some(node) = node else {
        return DEFAULT_REMEMBER;
    };
    let what = "a duration such as 5m, or 0 for never";
    if matches!(&node.value, Value::Number(number) if number.as_u64() == Some(0)) {
        return Duration::ZERO;
    }
    let Some(text) = reader.text(node, what) else {
        return DEFAULT_REMEMBER;
    };
    if ["0", "off", "never"].contains(&text.as_str()) {
        return Duration::ZERO;
    }
    match humantime::parse_duration(text.as_str()) {
        Ok(duration) if duration > MAX_REMEMBER => {
            reader.error(
                &node.at,
                "an old password would be accepted for more than an hour after its change: at \
                 most 1h",
            );
        }
        Ok(duration) => {
            if duration > RECOMMENDED_REMEMBER {
                reader.warn(
                    &node.at,
                    "for this time an old password and a disabled entry are still accepted: more than 15m is \
                     longer than most people expect",
                );
            }
            return duration;
        }
        Err(_) => reader.error(&node.at, format!("expected {what}, found other text")),
    }
    DEFAULT_REMEMBER
}

/// See [`LdapSettings::binding`].
fn binding(settings: &LdapSettings) -> [u8; 32] {
    let servers: Vec<_> = settings.servers.iter().map(ToString::to_string).collect();
    let template = match &settings.bind {
        Bind::Direct { template } => Some(template),
        Bind::Anonymous | Bind::Reader { .. } => None,
    };
    let groups =
        settings.group_search.as_ref().map(|search| (&search.base, &search.filter, &search.user_attribute));
    // JSON, so that no text can end one value and begin the next.
    let what = json!([
        servers,
        settings.search_base,
        settings.search_filter,
        template,
        groups,
        settings.id_attribute,
        settings.plain_ids
    ]);
    Sha256::digest(what.to_string()).into()
}
