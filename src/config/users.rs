//! The section `users`: names, passwords and actors of users.

use std::collections::HashSet;
use std::sync::Arc;

use serde_json::Map;

use super::plain;
use super::raw::{Node, Value};
use super::reader::{Fields, Reader};
use super::schema;
use super::{Context, actors, is_label};
use crate::actor::Actor;
use crate::credential::{API_KEY_USER, Kind, Principal};
use crate::password::PasswordHash;
use crate::person::comparable_name;
use crate::secret::Secret;

/// One entry of the section.
pub struct ConfiguredUser {
    /// The password, or its hash.
    pub password: ConfiguredPassword,
    /// The actor, and the policies that restrict it, under the user's name.
    pub principal: Arc<Principal>,
}

/// A password in the configuration.
pub enum ConfiguredPassword {
    /// The password itself, which is hashed when the configuration is loaded.
    Plain(Secret),
    /// A hash, which is used as it is.
    Hashed(PasswordHash),
}

/// The names of users so far.
struct Names {
    written: HashSet<Arc<str>>,
    lower_case: HashSet<String>,
    /// As the people of a directory type them; `None` without a directory.
    comparable: Option<HashSet<String>>,
}

/// Reads the section.  `is_tried` says what to do if any client can try the password of this admin, `has_directory`
/// whether there are other people as well.
pub fn read<'t>(
    reader: &mut Reader<'t>,
    section: Option<&'t Node>,
    context: &Context<'_>,
    is_tried: &dyn Fn(&Actor) -> Option<&'static str>,
    has_directory: bool,
) -> Vec<ConfiguredUser> {
    let what = "a list of users such as [{username: admin, password: {$env: ADMIN_PASSWORD}}]";
    let list = section.and_then(|node| reader.list(node, what)).unwrap_or_default();
    let mut names = Names {
        written: HashSet::new(),
        lower_case: HashSet::new(),
        comparable: has_directory.then(HashSet::new),
    };
    let mut users = Vec::with_capacity(list.len());
    for node in list {
        let what = "a user such as {username: admin, password: {$env: ADMIN_PASSWORD}}";
        let Some(fields) = reader.fields(node, what, &schema::USER) else {
            continue;
        };
        let name = read_name(reader, fields, &mut names);
        // All are read before an error returns, so that every problem is reported.
        let password = read_password(reader, fields);
        let policies = actors::read_restriction(reader, fields.get("policies"), context);
        let actor = match (fields.get("actor"), &name) {
            (Some(node), _) => actors::read(reader, node, context),
            (None, Some(name)) => default_actor(name),
            (None, None) => None,
        };
        if let (Some(node), Some(actor)) = (fields.get("username"), &actor)
            && let Some(remedy) = is_tried(actor)
        {
            reader.warn(
                &node.at,
                format!(
                    "everyone who reaches the gateway can try the password of this Admin: {remedy}; the admin listener \
                     does not need `basic`"
                ),
            );
        }
        if let (Some(name), Some(password), Some(actor)) = (name, password, actor) {
            let mut principal = Principal::new(Kind::User, Arc::clone(&name), actor);
            principal.policies = policies;
            users.push(ConfiguredUser { password, principal: Arc::new(principal) });
        }
    }
    users
}

fn read_name<'t>(reader: &mut Reader<'t>, fields: Fields<'t>, names: &mut Names) -> Option<Arc<str>> {
    let Some(node) = fields.get("username") else {
        reader.error(fields.at, "a user needs a `username`");
        return None;
    };
    let text = reader.text(node, "text: a user name")?;
    let problem = match text.as_str() {
        API_KEY_USER => "the user name `api_key` is reserved: with it a token is the password",
        // RFC 7617 section 2: the first colon ends the user name.
        name if name.contains(':') => {
            "a user name cannot contain a colon: in HTTP Basic the colon ends the name"
        }
        name if !is_label(name) => "a user name has 1 to 190 printable characters without blanks at the ends",
        _ => "",
    };
    if !problem.is_empty() {
        reader.error(&node.at, problem);
        return None;
    }
    let name: Arc<str> = text.as_str().into();
    if !names.written.insert(Arc::clone(&name)) {
        reader.error(&node.at, "an earlier user has this name; user names are unique");
        return None;
    }
    let is_new = names.lower_case.insert(name.to_lowercase());
    // Where there is a directory, names are compared as people type them.
    let is_another =
        names.comparable.as_mut().is_none_or(|comparable| comparable.insert(comparable_name(&name)));
    if !is_new {
        reader.warn(
            &node.at,
            "the name of an earlier user differs from this one only in case: these are two users, and people \
             will confuse them",
        );
    } else if !is_another {
        reader.warn(
            &node.at,
            "the name of an earlier user is this one in another spelling; with `ldap` names are compared by NFKC \
             in lower case, and people will confuse them",
        );
    }
    Some(name)
}

fn read_password<'t>(reader: &mut Reader<'t>, fields: Fields<'t>) -> Option<ConfiguredPassword> {
    match (fields.get("password"), fields.get("password_hash")) {
        (Some(node), None) => {
            let text = reader.text(node, "text: a password, best by {$env: NAME} or {$file: PATH}")?;
            if text.as_str().is_empty() {
                reader.error(&node.at, "a password has at least one character");
                return None;
            }
            if plain::rejects_reference(reader, node, text) {
                return None;
            }
            let user = fields.get("username").and_then(|node| match &node.value {
                Value::Text(name) => Some(name.as_str()),
                Value::Null
                | Value::Bool(_)
                | Value::Number(_)
                | Value::List(_)
                | Value::Map(_)
                | Value::Unresolved { .. } => None,
            });
            plain::warn_of_placeholder(reader, node, text, user.as_slice());
            plain::warn_of_short_password(reader, node, text);
            Some(ConfiguredPassword::Plain(Secret::new(text.as_str().to_owned())))
        }
        (None, Some(node)) => {
            let text = reader.text(node, "text: a password hash of argon2id (a PHC string) or bcrypt")?;
            if plain::rejects_reference(reader, node, text) {
                return None;
            }
            match PasswordHash::parse(text.as_str()) {
                Ok(hash) => {
                    if hash.is_expensive() {
                        reader.warn(
                            &node.at,
                            "each log-in with this hash needs more than 64 MiB or more than bcrypt's cost 13, \
                             and everyone can make the server verify passwords",
                        );
                    }
                    Some(ConfiguredPassword::Hashed(hash))
                }
                Err(error) => {
                    reader.error(&node.at, format!("{error}; `envoy-auth-tokens password` makes one"));
                    None
                }
            }
        }
        (None, None) => {
            reader.error(
                fields.at,
                "a user needs a `password` (best by {$env: NAME} or {$file: PATH}) or a `password_hash`",
            );
            None
        }
        (Some(_), Some(_)) => {
            reader.error(fields.at, "a user has a `password` or a `password_hash`, not both");
            None
        }
    }
}

/// `{id: <username>}`
fn default_actor(name: &str) -> Option<Actor> {
    let members = Map::from_iter([("id".to_owned(), name.into())]);
    // A user name has no colon, so its id cannot begin with `key:`.
    Actor::configured(members).ok()
}
