//! The bodies of requests about service accounts.

use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::admin::body::{Members, RequestBody};
use crate::admin::error::ApiError;
use crate::admin::keys::rules::{
    check_spelling, policies_schema, read_description, read_name, read_role, role_schema,
};
use crate::keys::{EditAccount, Role};

/// The service account to create.
#[derive(ToSchema)]
#[schema(as = NewServiceAccount, rename_all = "camelCase")]
pub struct NewAccount {
    /// Printable, of one script, without blanks at the ends, and no name that an account has or had
    #[schema(min_length = 1, max_length = 190)]
    pub name: String,
    /// Without it Viewer
    #[schema(schema_with = role_schema, required = false)]
    pub role: Role,
    #[schema(required = false)]
    pub is_disabled: bool,
    /// Further members of its actor, of those that keys.actor_members lists
    #[schema(value_type = Option<Object>)]
    pub actor: Map<String, Value>,
    #[schema(schema_with = policies_schema)]
    pub policies: Option<Vec<String>>,
    #[schema(max_length = 500)]
    pub description: Option<String>,
}

impl RequestBody for NewAccount {
    const MEMBERS: &'static [&'static str] =
        &["name", "role", "isDisabled", "actor", "policies", "description"];

    fn read(members: &mut Members) -> Result<Self, ApiError> {
        Ok(Self {
            name: read_name(members)?,
            role: read_role(members, "role")?.unwrap_or(Role::Viewer),
            is_disabled: members.boolean("isDisabled")?.unwrap_or(false),
            actor: members.object("actor")?.unwrap_or_default(),
            policies: members.strings("policies")?,
            description: read_description(members, "description")?,
        })
    }
}

/// What to change of a service account.  As in Grafana, null leaves a member unchanged, unless the member can be
/// cleared.
#[derive(ToSchema)]
#[schema(as = ServiceAccountEdit, rename_all = "camelCase")]
pub struct AccountEdit {
    #[schema(min_length = 1, max_length = 190)]
    pub name: Option<String>,
    #[schema(schema_with = role_schema, required = false)]
    pub role: Option<Role>,
    pub is_disabled: Option<bool>,
    #[schema(value_type = Option<Object>)]
    pub actor: Option<Map<String, Value>>,
    #[schema(schema_with = policies_schema, required = false)]
    pub policies: Option<Option<Vec<String>>>,
    #[schema(value_type = Option<String>, max_length = 500)]
    pub description: Option<Option<String>>,
}

impl From<AccountEdit> for EditAccount {
    fn from(AccountEdit { name, role, is_disabled, actor, policies, description }: AccountEdit) -> Self {
        Self { name, description, role, policies, actor, is_disabled }
    }
}

impl RequestBody for AccountEdit {
    const MEMBERS: &'static [&'static str] = NewAccount::MEMBERS;

    fn read(members: &mut Members) -> Result<Self, ApiError> {
        let name = members.string("name")?;
        name.as_deref().map(check_spelling).transpose()?;
        Ok(Self {
            name,
            role: read_role(members, "role")?,
            is_disabled: members.boolean("isDisabled")?,
            actor: members.given("actor", Members::object)?.map(Option::unwrap_or_default),
            policies: members.given("policies", Members::strings)?,
            description: members.given("description", read_description)?,
        })
    }
}

/// The token of a service account to create.
#[derive(ToSchema)]
#[schema(as = NewServiceAccountToken, rename_all = "camelCase")]
pub struct NewToken {
    /// Printable, of one script, without blanks at the ends, and no name of a live token of the same account
    #[schema(min_length = 1, max_length = 190)]
    pub name: String,
    /// Without it, or with 0, the token never expires, where keys.max_seconds_to_live lets it
    #[schema(minimum = 0)]
    pub seconds_to_live: Option<i64>,
    #[schema(max_length = 500)]
    pub description: Option<String>,
}

impl RequestBody for NewToken {
    const MEMBERS: &'static [&'static str] = &["name", "secondsToLive", "description"];

    fn read(members: &mut Members) -> Result<Self, ApiError> {
        Ok(Self {
            name: read_name(members)?,
            seconds_to_live: members.integer("secondsToLive")?,
            description: read_description(members, "description")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::admin::body::read_members;

    fn read<T: RequestBody>(body: &Value) -> Result<T, &'static str> {
        read_members(body.to_string().as_bytes()).map_err(|error| error.reason())
    }

    #[test]
    fn null_clears_what_can_be_empty_and_leaves_what_cannot() {
        let none = EditAccount::default;
        for (body, expected) in [
            (json!({}), none()),
            (json!({"name": null, "role": null, "isDisabled": null, "unknown": 1}), none()),
            (json!({"name": "b"}), EditAccount { name: Some("b".into()), ..none() }),
            (json!({"ROLE": "Editor"}), EditAccount { role: Some(Role::Editor), ..none() }),
            (json!({"isDisabled": false}), EditAccount { is_disabled: Some(false), ..none() }),
            (json!({"description": null}), EditAccount { description: Some(None), ..none() }),
            (json!({"description": ""}), EditAccount { description: Some(None), ..none() }),
            (json!({"policies": null}), EditAccount { policies: Some(None), ..none() }),
            (json!({"policies": []}), EditAccount { policies: Some(Some(vec![])), ..none() }),
            (json!({"actor": null}), EditAccount { actor: Some(Map::new()), ..none() }),
        ] {
            assert_eq!(read::<AccountEdit>(&body).map(EditAccount::from), Ok(expected), "{body}");
        }
        for (body, expected) in [
            (json!({"role": "None"}), "invalid_role"),
            (json!({"role": "viewer"}), "invalid_role"),
            (json!({"name": " a"}), "invalid_name"),
            (json!({"isDisabled": "true"}), "wrong_type"),
            (json!({"description": "x".repeat(501)}), "invalid_description"),
            (json!({"description": "a\nb"}), "invalid_description"),
        ] {
            assert_eq!(read::<AccountEdit>(&body).err(), Some(expected), "{body}");
        }
    }

    #[test]
    fn a_new_account_is_a_viewer_unless_it_says_more() {
        let new = read::<NewAccount>(&json!({"name": "ci"})).unwrap();
        assert_eq!(
            (new.role, new.is_disabled, new.policies, new.description),
            (Role::Viewer, false, None, None)
        );
        assert_eq!(read::<NewAccount>(&json!({"role": "Viewer"})).err(), Some("missing_member"));
        assert_eq!(read::<NewAccount>(&json!({"name": "ci", "role": "None"})).err(), Some("invalid_role"));
        assert!(read::<NewToken>(&json!({"name": "t", "role": "Admin"})).is_ok(), "as older clients send");
    }
}
