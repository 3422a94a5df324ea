//! The keys that tokens and users share: `actor`, and `policies`, which restricts it.

use std::sync::Arc;

use super::Context;
use super::headers::too_large;
use super::raw::{Node, Value, to_members};
use super::reader::Reader;
use crate::actor::Actor;
use crate::actor::header::MAX_BYTES;
use crate::credential::PolicyNames;

/// Reads an `actor`.
pub fn read<'t>(reader: &mut Reader<'t>, node: &'t Node, context: &Context<'_>) -> Option<Actor> {
    let entries = reader.entries(node, "a mapping such as {id: my-bot, role: Viewer}")?;
    let actor = match Actor::configured(to_members(entries)) {
        Ok(actor) => actor,
        Err(error) => {
            reader.error(&node.at, actor_error(&error));
            return None;
        }
    };
    if let Some(bytes) = too_large(context.actor_headers, &actor, bound(node)) {
        reader.error(
            &node.at,
            format!("this actor's headers have {bytes} bytes together; at most {MAX_BYTES} fit"),
        );
    }
    Some(actor)
}

/// The message for an actor that is not valid.  It names no member: a secret may be there by mistake.
fn actor_error(error: &crate::actor::ActorError) -> &'static str {
    match error {
        crate::actor::ActorError::MembersDifferOnlyInCase(..) => {
            "two members differ only in case: an upstream could take one for the other"
        }
        crate::actor::ActorError::NestsTooDeep => {
            "lists and objects in an actor's member nest 16 levels at most: write it flatter"
        }
        crate::actor::ActorError::ReservedId => "an `id` that begins with \"key:\" belongs to an API key",
    }
}

/// An upper bound of the size of a value as JSON without escapes, in bytes.
fn bound(node: &Node) -> usize {
    match &node.value {
        Value::Null | Value::Bool(_) | Value::Unresolved { .. } => 6,
        Value::Number(_) => 32,
        Value::Text(text) => text.as_str().len() + 3,
        Value::List(list) => list.iter().map(bound).sum::<usize>() + 3,
        Value::Map(entries) => {
            entries.iter().map(|entry| entry.key.len() + 4 + bound(&entry.value)).sum::<usize>() + 3
        }
    }
}

/// Reads `policies`: the only policies under which the actor is valid.
pub fn read_restriction<'t>(
    reader: &mut Reader<'t>,
    node: Option<&'t Node>,
    context: &Context<'_>,
) -> Option<PolicyNames> {
    let list = reader.list(node?, "a list of names of policies")?;
    let names = list.iter().filter_map(|node| context.policies.named.find(reader, node));
    Some(names.map(|policy| Arc::clone(policy.name())).collect())
}
