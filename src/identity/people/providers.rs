//! People of a provider.
//!
//! A provider is asked only at log-in.  Its answer gives the claims of the person for the life of the session.  The
//! current rules turn them into a principal at each use.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Map, Value};

use super::{PersonParts, PersonRejection, cached_principal};
use crate::config::ProviderSettings;
use crate::credential::{Kind, Principal};
use crate::keys::sessions::Session;
use crate::person::{Claims, Person, PersonSource};
use crate::snapshot::Snapshot;

/// The principal of a person who just logged in, with the data for a session.
///
/// # Errors
/// The reason why the person is rejected.
pub fn user_of(
    claims: Map<String, Value>,
    asked_at: Timestamp,
    settings: &ProviderSettings,
    snapshot: &Snapshot,
) -> Result<Principal, PersonRejection> {
    let mut principal = principal_of(&claims, settings, snapshot, Kind::User)?;
    if let Some(person) = &principal.person {
        let claims = Some(Claims { members: claims, checked_at: asked_at });
        principal.person = Some(Arc::new(Person { claims, ..(**person).clone() }));
    }
    Ok(principal)
}

/// The principal of a session by its claims, made once under each snapshot; `None` when it is over: the provider was
/// removed from the configuration or replaced, or the current rules reject the person.
pub fn principal_of_session(session: &Session, snapshot: &Snapshot) -> Option<Arc<Principal>> {
    let PersonSource::Provider(name) = &session.person.source else {
        return None;
    };
    let settings = snapshot.provider(name)?;
    cached_principal(session, settings.binding, snapshot, || {
        principal_of(session.claims.as_ref()?, settings, snapshot, Kind::Session).ok()
    })
}

/// The principal of claims under the current rules.
///
/// # Errors
/// The reason why the person is rejected.
pub fn principal_of(
    claims: &Map<String, Value>,
    settings: &ProviderSettings,
    snapshot: &Snapshot,
    kind: Kind,
) -> Result<Principal, PersonRejection> {
    let subject = subject_of(claims, settings)?;
    check_domain(claims, settings)?;
    let members = settings.members.iter().filter_map(|(member, path)| Some((&**member, path.find(claims)?)));
    let parts = PersonParts {
        source: PersonSource::Provider(settings.name.clone()),
        subject: &subject,
        binding: settings.binding,
        plain_ids: settings.plain_ids,
        role: settings.fitting_role(claims).map(|position| settings.roles[position].role),
        members: &mut members.filter(|(_, value)| !value.is_null()),
        claims_bytes: serde_json::to_vec(claims).map_or(0, |claims| claims.len()),
    };
    parts.into_principal(snapshot, kind)
}

/// The id of a person: a text, or a whole number, which some providers of plain OAuth 2 use.
///
/// # Errors
/// There is no id, or it has another type.
pub fn subject_of(
    claims: &Map<String, Value>,
    settings: &ProviderSettings,
) -> Result<String, PersonRejection> {
    match settings.id.find(claims) {
        Some(Value::String(id)) if !id.is_empty() => Ok(id.clone()),
        Some(Value::Number(id)) if !id.is_f64() => Ok(id.to_string()),
        None | Some(Value::Null | Value::String(_)) => Err(PersonRejection::NoId),
        Some(Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => {
            Err(PersonRejection::NotOneId)
        }
    }
}

/// Checks `allowed_domains`: the email must be verified by the provider, and the domain is the part after the last `@`.
fn check_domain(claims: &Map<String, Value>, settings: &ProviderSettings) -> Result<(), PersonRejection> {
    if settings.allowed_domains.is_empty() {
        return Ok(());
    }
    if claims.get("email_verified") != Some(&Value::Bool(true)) {
        return Err(PersonRejection::EmailNotVerified);
    }
    let email = claims.get("email").and_then(Value::as_str);
    let domain = email.and_then(|email| email.rsplit_once('@')).map(|(_, domain)| domain);
    let is_allowed =
        |domain: &str| settings.allowed_domains.iter().any(|allowed| domain.eq_ignore_ascii_case(allowed));
    if domain.is_some_and(is_allowed) { Ok(()) } else { Err(PersonRejection::OtherDomain) }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::json;

    use super::*;
    use crate::config::{Config, ProcessEnvironment, Source};

    /// The actor's id or why there is none, by the first provider of this section.
    fn id_of(section: &str, claims: Value) -> Result<String, &'static str> {
        let text = format!(
            "keys: {{store: 'sqlite:keys.db'}}\nadmin: {{public_url: 'https://keys.example'}}\noauth:\n{section}\n"
        );
        let now = Timestamp::UNIX_EPOCH;
        let source = Source { file: Path::new("config.yaml"), environment: &ProcessEnvironment, now };
        let config = Config::parse(&text, &source).unwrap_or_else(|errors| panic!("{errors}"));
        let snapshot = Snapshot::build(&config, None).unwrap();
        let Value::Object(claims) = claims else { panic!("an object") };
        let principal = principal_of(&claims, &snapshot.providers[0], &snapshot, Kind::Session);
        let id = |principal: Principal| principal.actor.member("id").unwrap().as_str().unwrap().to_owned();
        principal.map(id).map_err(PersonRejection::as_str)
    }

    const BY_EMAIL: &str = "- {name: corp, issuer: 'https://id.example', client_id: eat, \
                            roles: [{claim: email, value: boss@corp.example, role: Admin}]}";

    #[test]
    fn an_unverified_email_gives_no_role() {
        let claims =
            |verified: Value| json!({"sub": "m", "email": "boss@corp.example", "email_verified": verified});
        assert_eq!(id_of(BY_EMAIL, claims(json!(true))).as_deref(), Ok("corp:m"));
        for verified in [json!(false), json!(null), json!("true"), json!(1)] {
            assert_eq!(id_of(BY_EMAIL, claims(verified.clone())), Err("no_role"), "{verified}");
        }
        assert_eq!(id_of(BY_EMAIL, json!({"sub": "m", "email": "boss@corp.example"})), Err("no_role"));
        // What an API of plain OAuth 2 tells of itself is believed.
        let plain = "- {name: forge, auth_url: 'https://f.example/a', token_url: 'https://f.example/t', \
                     api_url: 'https://f.example/u', client_id: eat, members: {id: id}, \
                     roles: [{claim: email, value: boss@corp.example, role: Admin}]}";
        let claims = json!({"id": 7, "email": "boss@corp.example"});
        assert_eq!(id_of(plain, claims).as_deref(), Ok("forge:7"));
    }

    #[test]
    fn domains_are_compared_whole_and_of_verified_emails() {
        let section = "- {name: corp, issuer: 'https://id.example', client_id: eat, allowed_domains: [Corp.example], \
                       roles: [{claim: '*', role: Viewer}]}";
        for (email, verified, expected) in [
            (json!("a@corp.example"), json!(true), Ok("corp:m")),
            (json!("a@CORP.EXAMPLE"), json!(true), Ok("corp:m")),
            (json!("a@evil.example@corp.example"), json!(true), Ok("corp:m")),
            (json!("a@corp.example@evil.example"), json!(true), Err("other_domain")),
            (json!("a@notcorp.example"), json!(true), Err("other_domain")),
            (json!("a@corp.example.evil"), json!(true), Err("other_domain")),
            (json!("a@sub.corp.example"), json!(true), Err("other_domain")),
            (json!("corp.example"), json!(true), Err("other_domain")),
            (json!(["a@corp.example"]), json!(true), Err("other_domain")),
            (json!("a@corp.example"), json!("true"), Err("email_not_verified")),
            (json!("a@corp.example"), json!(false), Err("email_not_verified")),
            (json!("a@corp.example"), json!(null), Err("email_not_verified")),
        ] {
            let claims = json!({"sub": "m", "email": email, "email_verified": verified});
            let found = id_of(section, claims);
            assert_eq!(found.as_deref().map_err(|reason| *reason), expected, "{email} {verified}");
        }
    }

    #[test]
    fn an_id_is_one_text_or_whole_number_and_none_of_another_source() {
        let section = "- {name: corp, issuer: 'https://id.example', client_id: eat, ids: plain, \
                       roles: [{claim: '*', role: Viewer}]}";
        for (sub, expected) in [
            (json!("m"), Ok("m")),
            (json!(583231), Ok("583231")),
            (json!(1.5), Err("several_ids")),
            (json!(["m"]), Err("several_ids")),
            (json!({"a": 1}), Err("several_ids")),
            (json!(true), Err("several_ids")),
            (json!(""), Err("no_id")),
            (json!(null), Err("no_id")),
            (json!("key:m"), Err("reserved_id")),
            (json!("sa:m"), Err("reserved_id")),
            (json!("ldap:ann"), Err("reserved_id")),
            (json!("corp:ann"), Err("reserved_id")),
            (json!("urn:ann"), Ok("urn:ann")),
            (json!("a\nb"), Err("illegal_id")),
            (json!("x".repeat(191)), Err("illegal_id")),
        ] {
            let found = id_of(section, json!({"sub": sub}));
            assert_eq!(found.as_deref().map_err(|reason| *reason), expected, "{sub}");
        }
        assert_eq!(id_of(section, json!({})), Err("no_id"));
    }
}
