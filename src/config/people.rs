//! The common keys of `ldap` and `oauth`, the sections with people who log in.

use std::time::Duration;

use super::one_of;
use super::raw::Node;
use super::reader::Reader;
use crate::keys::Role;

/// The members of an actor that neither a directory nor a provider gives.
pub const OWN_MEMBERS: [(&str, &str); 2] =
    [("role", "`roles` gives the `role`"), ("key_id", "`key_id` is reserved for API keys")];

/// Without `timeout`.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);
/// The shortest `timeout`.
const MIN_TIMEOUT: Duration = Duration::from_millis(100);
/// The longest `timeout`.
const MAX_TIMEOUT: Duration = Duration::from_secs(60);

/// Reads `roles`, a list of at least one entry, each by `read`; warns of entries that an earlier one hides, and lets
/// `examine` warn of more.  `requirement` is the condition of an entry, `None` for everyone.
pub fn read_roles<'t, T, R: PartialEq>(
    reader: &mut Reader<'t>,
    node: &'t Node,
    words: &RoleWords,
    mut read: impl FnMut(&mut Reader<'t>, &'t Node) -> Option<T>,
    requirement: impl Fn(&T) -> Option<&R>,
    examine: impl Fn(&mut Reader<'t>, &'t Node, &T),
) -> Option<Box<[T]>> {
    let list = reader.list(node, words.example)?;
    if list.is_empty() {
        reader.error(&node.at, words.empty);
        return None;
    }
    let mut roles: Vec<T> = Vec::with_capacity(list.len());
    let mut all_valid = true;
    for node in list {
        let Some(role) = read(reader, node) else {
            all_valid = false;
            continue;
        };
        let hidden_by = if roles.iter().any(|earlier| requirement(earlier).is_none()) {
            Some("everyone (`*`)")
        } else if roles.iter().any(|earlier| requirement(earlier) == requirement(&role)) {
            Some(words.same)
        } else {
            None
        };
        if let Some(whom) = hidden_by {
            reader.warn(
                &node.at,
                format!(
                    "this entry has no effect: an entry above is for {whom}, and the first entry that \
                     matches counts"
                ),
            );
        }
        examine(reader, node, &role);
        roles.push(role);
    }
    all_valid.then(|| roles.into())
}

/// The words of a section's `roles`.
pub struct RoleWords {
    /// The expected value.
    pub example: &'static str,
    /// The problem of an empty list.
    pub empty: &'static str,
    /// What two entries share of which the later one is hidden.
    pub same: &'static str,
}

/// `role` of an entry.
pub fn read_role_name<'t>(reader: &mut Reader<'t>, node: &'t Node) -> Option<Role> {
    let text = reader.text(node, "text: `Viewer`, `Editor` or `Admin`")?.as_str();
    let role = Role::parse(text);
    if role.is_none() {
        reader.error(&node.at, format!("expected {}", one_of(text, &["Viewer", "Editor", "Admin"])));
    }
    role
}

/// Whether `ids` is `plain`.
pub fn read_ids<'t>(reader: &mut Reader<'t>, node: Option<&'t Node>) -> bool {
    let word = node.and_then(|node| Some((node, reader.text(node, "`prefixed` or `plain`")?)));
    match word.map(|(node, text)| (node, text.as_str())) {
        None | Some((_, "prefixed")) => false,
        Some((_, "plain")) => true,
        Some((node, other)) => {
            reader.error(&node.at, format!("expected {}", one_of(other, &["prefixed", "plain"])));
            false
        }
    }
}

/// `timeout`; `who` answers, such as "a server".
pub fn read_timeout<'t>(reader: &mut Reader<'t>, node: Option<&'t Node>, who: &str) -> Duration {
    let Some(node) = node else {
        return DEFAULT_TIMEOUT;
    };
    let what = "a duration such as 5s";
    let Some(text) = reader.text(node, what) else {
        return DEFAULT_TIMEOUT;
    };
    match humantime::parse_duration(text.as_str()) {
        Ok(duration) if (MIN_TIMEOUT..=MAX_TIMEOUT).contains(&duration) => return duration,
        Ok(_) => reader.error(&node.at, format!("the time for {who} to answer is between 100ms and 60s")),
        Err(_) => reader.error(&node.at, format!("expected {what}, found other text")),
    }
    DEFAULT_TIMEOUT
}
