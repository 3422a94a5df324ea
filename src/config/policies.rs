//! The section `policies`, and allow blocks anywhere in the configuration.

use std::collections::HashMap;
use std::sync::Arc;

use super::is_label;
use super::raw::{Entry, Location, Node, Value};
use super::reader::{Reader, nearest};
use super::schema::{self, is_boolean_word};
use crate::actor::Actor;
use crate::keys::Role;
use crate::policy::{Allow, Enforcement, Policy, Requirement};

/// The policies of the section, by name.
#[derive(Default)]
pub struct NamedPolicies {
    in_order: Vec<Arc<Policy>>,
    by_name: HashMap<Arc<str>, usize>,
}

impl NamedPolicies {
    /// The policy of this name.
    pub fn get(&self, name: &str) -> Option<&Arc<Policy>> {
        self.by_name.get(name).map(|&index| &self.in_order[index])
    }

    /// All policies, in the order of the file.
    pub fn to_vec(&self) -> Vec<Arc<Policy>> {
        self.in_order.clone()
    }

    /// The policy that a key such as `policy` names.  An unknown name is an error.
    pub fn find<'t>(&self, reader: &mut Reader<'t>, node: &'t Node) -> Option<Arc<Policy>> {
        let text = reader.text(node, "text: the name of a policy")?;
        if let Some(policy) = self.get(text.as_str()) {
            return Some(Arc::clone(policy));
        }
        let quoted =
            if text.reference().is_some() { "***".to_owned() } else { reader.quote_name(text.as_str()) };
        let names = || self.in_order.iter().map(|policy| policy.name().as_ref());
        let advice = if is_reserved(text.as_str()) {
            "this name stands for a policy without one; only those of `policies` can be named".to_owned()
        } else if let Some(near) = nearest(text.as_str(), names()) {
            format!("did you mean {}?", reader.quote_name(near))
        } else if self.in_order.is_empty() {
            "there is no section `policies`, or it is empty".to_owned()
        } else {
            let known: Vec<_> = names().take(10).map(|name| reader.quote_name(name)).collect();
            let more = if self.in_order.len() > known.len() { " and others" } else { "" };
            format!("known policies: {}{more}", known.join(", "))
        };
        reader.error(&node.at, format!("no policy is called {quoted}; {advice}"));
        None
    }
}

/// Whether the name is that of an inline policy (`route-1` …) or of the default policy.
pub fn is_reserved(name: &str) -> bool {
    let number = name.strip_prefix("route-");
    name == "default" || number.is_some_and(|number| number.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Reads the section.
pub fn read<'t>(reader: &mut Reader<'t>, section: Option<&'t Node>) -> NamedPolicies {
    let mut named = NamedPolicies::default();
    let what = "a mapping from names to policies, such as {read: {allow: {role: Viewer}}}";
    let entries = section.and_then(|node| reader.entries(node, what)).unwrap_or_default();
    for Entry { key, at, value } in entries {
        check_name(reader, key, at);
        let name: Arc<str> = key.as_ref().into();
        let policy = Arc::new(read_policy(reader, value, Arc::clone(&name)));
        // The first of several duplicates, which are already errors, is used.
        let next = named.in_order.len();
        if *named.by_name.entry(name).or_insert(next) == next {
            named.in_order.push(policy);
        }
    }
    named
}

fn check_name<'t>(reader: &mut Reader<'t>, name: &'t str, at: &'t Location) {
    if !is_label(name) {
        reader.error(at, "a policy's name has 1 to 190 printable characters without blanks at the ends");
    } else if is_reserved(name) {
        reader.error(
            at,
            format!("the name `{name}` is reserved: `default` and `route-1`, `route-2` … name policies without a name"),
        );
    }
}

/// Reads `{}`, `{allow: …}` or `{allow: …, enforce: false}`.
pub fn read_policy<'t>(reader: &mut Reader<'t>, node: &'t Node, name: Arc<str>) -> Policy {
    let what = "a policy such as {allow: {role: Viewer}}, or {} to admit any actor";
    let fields = reader.fields(node, what, &schema::POLICY);
    let allow = fields.and_then(|fields| fields.get("allow")).map(|node| read_allow(reader, node));
    let enforcement = read_enforcement(reader, fields.and_then(|fields| fields.get("enforce")), &name);
    Policy::new(name, allow).with(enforcement)
}

/// Reads `enforce` of the policy with this name, and warns where it is off.
pub fn read_enforcement<'t>(reader: &mut Reader<'t>, node: Option<&'t Node>, policy: &str) -> Enforcement {
    let Some(node) = node else {
        return Enforcement::Enforced;
    };
    match reader.boolean(node) {
        Some(false) => {
            let name = reader.quote_name(policy);
            let message = format!("policy {name} is not enforced: what it denies passes, without an actor");
            reader.warn(&node.at, message);
            Enforcement::Shadow
        }
        Some(true) | None => Enforcement::Enforced,
    }
}

/// Reads an allow block.
pub fn read_allow<'t>(reader: &mut Reader<'t>, node: &'t Node) -> Allow {
    if matches!(node.value, Value::Unresolved { .. }) {
        return Allow::NoOne;
    }
    warn_of_nulls(reader, node);
    note_roles(reader, node);
    match Allow::new(&node.to_json()) {
        Ok(allow) => allow,
        Err(error) => {
            let node_at_fault = locate(node, error.member.as_deref(), error.index);
            let found = match &node_at_fault.value {
                Value::Null => String::new(),
                Value::Text(text) if error.member.is_none() && is_boolean_word(text.as_str()) => {
                    "; found text: write true or false, which `yes`, `no` and words in quotes are not"
                        .to_owned()
                }
                other => format!("; found {}", other.kind()),
            };
            reader.error(&node_at_fault.at, format!("{error}{found}"));
            Allow::NoOne
        }
    }
}

fn locate<'t>(block: &'t Node, member: Option<&str>, index: Option<usize>) -> &'t Node {
    let Value::Map(entries) = &block.value else {
        return block;
    };
    // Of duplicates a JSON object keeps the last.
    let Some(entry) = entries.iter().rev().find(|entry| Some(&*entry.key) == member) else {
        return block;
    };
    match (&entry.value.value, index) {
        (Value::List(list), Some(index)) => list.get(index).unwrap_or(&entry.value),
        _ => &entry.value,
    }
}

/// Notes which roles the block admits, for [`warn_of_misspelled_roles`].
fn note_roles<'t>(reader: &mut Reader<'t>, block: &'t Node) {
    let Value::Map(entries) = &block.value else {
        return;
    };
    for entry in entries.iter().filter(|entry| &*entry.key == "role") {
        for element in elements(&entry.value) {
            if let Value::Text(text) = &element.value {
                reader.allowed_roles.push((&element.at, text.as_str()));
            }
        }
    }
}

/// Warns of the roles in allow blocks that are a word for a role in another letter case, and that none of these actors
/// has.  Roles are case-sensitive.
pub fn warn_of_misspelled_roles<'a>(
    reader: &mut Reader<'_>,
    actors: &(impl Iterator<Item = &'a Actor> + Clone),
) {
    for (at, written) in std::mem::take(&mut reader.allowed_roles) {
        let meant = [Role::Viewer, Role::Editor, Role::Admin]
            .into_iter()
            .map(Role::as_str)
            .find(|role| role.eq_ignore_ascii_case(written));
        let requirement = Requirement::AnyOf(vec![written.into()]);
        let has_it = |actor: &Actor| actor.member("role").is_some_and(|role| requirement.matches(role));
        if let Some(meant) = meant.filter(|role| *role != written)
            && !actors.clone().any(has_it)
        {
            reader.warn(
                at,
                format!("roles are case-sensitive, and no actor has the role in this letter case; did you mean `{meant}`?"),
            );
        }
    }
}

/// The elements of a list, or the one value.
fn elements(node: &Node) -> &[Node] {
    match &node.value {
        Value::List(list) => list,
        _ => std::slice::from_ref(node),
    }
}

fn warn_of_nulls<'t>(reader: &mut Reader<'t>, block: &'t Node) {
    let Value::Map(entries) = &block.value else {
        return;
    };
    for entry in entries {
        for element in elements(&entry.value).iter().filter(|element| matches!(element.value, Value::Null)) {
            reader.warn(
                &element.at,
                "null matches nothing; \"*\" matches an actor that has this member, even as null",
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::is_reserved;

    #[test]
    fn the_names_of_policies_without_a_name_are_reserved() {
        for name in ["default", "route-1", "route-20", "route-"] {
            assert!(is_reserved(name), "{name}");
        }
        for name in ["read", "route", "route-a", "Default", "route-1a"] {
            assert!(!is_reserved(name), "{name}");
        }
    }
}
