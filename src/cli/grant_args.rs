//! Arguments that say what a key or a service account may do.

use clap::Args;
use clap::builder::PossibleValuesParser;
use serde_json::{Map, Value, json};

/// The roles, the least first.
pub(super) const ROLES: [&str; 3] = ["Viewer", "Editor", "Admin"];

/// For clap: one of [`ROLES`].
pub(super) fn role_parser() -> PossibleValuesParser {
    PossibleValuesParser::new(ROLES)
}

/// Further arguments of a creation, in addition to name and role.
#[derive(Debug, Args)]
pub(super) struct GrantArgs {
    /// The purpose, at most 500 characters
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// A policy under which the credential is valid; can be repeated.  It is valid under no other policy
    #[arg(long = "policy", value_name = "NAME")]
    policies: Vec<String>,
    /// Members to add to the actor: a JSON object; `keys.actor_members` lists those that are allowed
    #[arg(long, value_name = "JSON", value_parser = json_object)]
    actor: Option<Map<String, Value>>,
}

impl GrantArgs {
    /// Puts what was given into the body of a request.
    pub(super) fn write_into(self, body: &mut Value) {
        if let Some(description) = self.description {
            body["description"] = json!(description);
        }
        if !self.policies.is_empty() {
            body["policies"] = json!(self.policies);
        }
        if let Some(actor) = self.actor {
            body["actor"] = Value::Object(actor);
        }
    }
}

/// What is changed of a description, policies and members; `null` clears.
#[derive(Debug, Args)]
pub(super) struct GrantChangeArgs {
    /// The purpose, at most 500 characters
    #[arg(long, value_name = "TEXT", group = "change")]
    description: Option<String>,
    /// Remove the description
    #[arg(long, conflicts_with = "description", group = "change")]
    no_description: bool,
    /// A policy under which the credential is valid from now on; can be repeated.  It is valid under no other policy
    #[arg(long = "policy", value_name = "NAME", group = "change")]
    policies: Vec<String>,
    /// Remove the restriction: valid under every policy
    #[arg(long, conflicts_with = "policies", group = "change")]
    no_policies: bool,
    /// Members of the actor, which replace the current ones: a JSON object
    #[arg(long, value_name = "JSON", value_parser = json_object, group = "change")]
    actor: Option<Map<String, Value>>,
    /// Remove the added members of the actor
    #[arg(long, conflicts_with = "actor", group = "change")]
    no_actor: bool,
}

impl GrantChangeArgs {
    /// Puts what was given into the body of a request.
    pub(super) fn write_into(self, body: &mut Map<String, Value>) {
        let given = GrantArgs { description: self.description, policies: self.policies, actor: self.actor };
        let mut members = Value::Object(std::mem::take(body));
        given.write_into(&mut members);
        for (is_cleared, name) in
            [(self.no_description, "description"), (self.no_policies, "policies"), (self.no_actor, "actor")]
        {
            if is_cleared {
                members[name] = Value::Null;
            }
        }
        if let Value::Object(members) = members {
            *body = members;
        }
    }
}

fn json_object(text: &str) -> Result<Map<String, Value>, String> {
    serde_json::from_str(text).map_err(|error| format!("not a JSON object: {error}"))
}

#[cfg(test)]
mod tests {
    use super::json_object;

    #[test]
    fn an_actor_is_a_json_object() {
        assert!(json_object(r#"{"team": "a"}"#).is_ok());
        for text in ["", "[]", "1", "{", "{} {}"] {
            assert!(json_object(text).is_err(), "{text}");
        }
    }
}
