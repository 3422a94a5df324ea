//! The roles of people, and the limits of log-in.

use super::super::role_path::{self, Fallback, RoleEntry};
use super::super::text::VARIABLE;
use super::settings::{Reason, Settings};
use super::{Endpoints, Kind};
use crate::keys::Role;

/// The entries of `roles`: a claim with its values, or `None` for everyone.
pub(super) type Roles = Vec<(Option<(String, Vec<String>)>, Role)>;

/// `roles`, with further limits of log-in.
pub(super) fn read_roles(
    kind: Kind,
    settings: &Settings<'_>,
    endpoints: &Endpoints,
    notes: &mut Vec<String>,
) -> Result<Roles, Reason> {
    check_limits(kind, settings, endpoints)?;
    let limit = read_limit(kind, settings)?;
    let (entries, fallback) = read_role_path(kind, settings, notes)?;
    let mut roles: Roles = Vec::new();
    for RoleEntry { claim, values, role, fits_parts: _ } in entries {
        let is_within = |(limit, allowed): &(String, Vec<String>)| {
            *limit == claim && values.iter().all(|value| allowed.contains(value))
        };
        if limit.as_ref().is_some_and(|limit| !is_within(limit)) {
            return Err(
                "role_attribute_path and a limit (allowed_groups, hosted_domain) must both be met, but an entry \
                 of `roles` compares only one claim"
                    .to_owned(),
            );
        }
        roles.push((Some((claim, values)), role));
    }
    let may_sign_up = settings.boolean("allow_sign_up", true);
    if !may_sign_up {
        notes.push(
            "allow_sign_up: the accounts in Grafana are not known here: people who match a claim in `roles` can \
             log in, and others cannot"
                .to_owned(),
        );
    }
    if let Some(role) = fallback
        && (may_sign_up || limit.is_some())
    {
        roles.push((limit, role));
    }
    if roles.is_empty() {
        return Err(
            "no claim gives a role, and other people are excluded (role_attribute_strict, allow_sign_up)"
                .to_owned(),
        );
    }
    Ok(roles)
}

/// Limits that are not in claims.
fn check_limits(kind: Kind, settings: &Settings<'_>, endpoints: &Endpoints) -> Result<(), Reason> {
    let not_in_claims = |key: &str| {
        format!(
            "{key}: Grafana asks the provider's API for this, but only claims are read here, so nobody would be \
             excluded"
        )
    };
    if !settings.list("team_ids")?.is_empty() {
        return Err(not_in_claims("team_ids"));
    }
    let organizations = settings.list("allowed_organizations")?;
    let is_tenant = |organization: &String| match endpoints {
        Endpoints::Issuer(issuer) => {
            kind == Kind::AzureAd && issuer.contains(&format!("/{}/", organization.to_ascii_lowercase()))
        }
        Endpoints::OAuth2 { .. } => false,
    };
    if organizations.iter().all(is_tenant) { Ok(()) } else { Err(not_in_claims("allowed_organizations")) }
}

/// The claim that must have one of these values.
fn read_limit(kind: Kind, settings: &Settings<'_>) -> Result<Option<(String, Vec<String>)>, Reason> {
    let groups = settings.list("allowed_groups")?;
    let hosted = settings.list("hosted_domain")?;
    let is_hosted = kind == Kind::Google && !hosted.is_empty() && settings.boolean("validate_hd", true);
    match (groups.is_empty(), is_hosted) {
        (true, false) => Ok(None),
        (true, true) => Ok(Some(("hd".to_owned(), hosted))),
        (false, true) => {
            Err("allowed_groups and hosted_domain must both be met, which `roles` cannot express".to_owned())
        }
        (false, false) => {
            let claim = match kind {
                Kind::Generic => settings
                    .value("groups_attribute_path")
                    .and_then(|path| role_path::claim_path(&path))
                    .ok_or(
                        "allowed_groups: which claim has the groups is not known (groups_attribute_path)",
                    )?,
                Kind::GitLab | Kind::AzureAd | Kind::Okta => "groups".to_owned(),
                Kind::Google | Kind::GitHub => {
                    return Err("allowed_groups: no claim of this provider has groups".to_owned());
                }
            };
            Ok(Some((claim, groups)))
        }
    }
}

/// Roles by claims, and that of the others.
fn read_role_path(
    kind: Kind,
    settings: &Settings<'_>,
    notes: &mut Vec<String>,
) -> Result<(Vec<RoleEntry>, Option<Role>), Reason> {
    let users = Settings { ini: settings.ini, section: "users" };
    let usual = match users.value("auto_assign_org_role") {
        None => Some(Role::Viewer),
        Some(role) if role == "None" => None,
        Some(role) => Some(Role::parse(&role).ok_or("users.auto_assign_org_role: it is not a role")?),
    };
    if settings.boolean("skip_org_role_sync", false) {
        notes.push("skip_org_role_sync: roles were assigned in Grafana and are not known here".to_owned());
        return Ok((Vec::new(), usual));
    }
    let is_strict = settings.boolean("role_attribute_strict", false);
    let fallback = if is_strict { None } else { usual };
    let path = settings.value("role_attribute_path");
    if settings.value("org_mapping").is_some() || settings.value("org_attribute_path").is_some() {
        let why = "org_mapping: there is only one organization here, so roles by organization cannot be \
            converted";
        return without_roles(why, path.as_deref(), fallback, notes);
    }
    if kind == Kind::AzureAd {
        if path.is_some() {
            notes.push(
                "role_attribute_path: left out: for this provider Grafana reads only the app roles"
                    .to_owned(),
            );
        }
        if fallback.is_some() {
            notes.push(
                "role_attribute_strict: people with the app role `None` are treated here like people without a \
                 role"
                    .to_owned(),
            );
        }
        return Ok((app_roles(), fallback));
    }
    let Some(path) = path else {
        return Ok((Vec::new(), fallback));
    };
    // The APIs of GitHub and Google have groups that are not in claims.
    let has_groups = !matches!(kind, Kind::GitHub | Kind::Google);
    let is_claim = |entry: &RoleEntry| has_groups || entry.claim.split('.').next() != Some("groups");
    let parsed = role_path::parse(&path).filter(|_| !VARIABLE.is_match(&path));
    let Some(parsed) = parsed.filter(|parsed| parsed.entries.iter().all(is_claim)) else {
        let why = "role_attribute_path: roles by it are left out: of JMESPath, claims that hold or equal a text have a \
                   counterpart, each with a role: contains(groups[*], 'admins') && 'Admin' || 'Viewer'";
        return without_roles(why, Some(&path), fallback, notes);
    };
    let fallback = match parsed.fallback {
        Fallback::Unsaid => fallback,
        Fallback::Role(role) => Some(role),
        Fallback::NoRole => None,
    };
    if parsed.raises_a_role(fallback) {
        let why = "role_attribute_path: roles by it are left out: contains(…) without [*] also matches a part of \
            a text, which `value` does not, and some people would get a higher role";
        return without_roles(why, Some(&path), fallback, notes);
    }
    if parsed.compares_whole {
        notes.push(
            "role_attribute_path: here each element of a claim that is a list is compared, and elements that are \
             not roles are ignored"
                .to_owned(),
        );
    }
    Ok((parsed.entries, fallback))
}

/// The app roles of Microsoft's that Grafana knows.
fn app_roles() -> Vec<RoleEntry> {
    let of = |values: &[&str], role| RoleEntry {
        claim: "roles".to_owned(),
        values: values.iter().map(ToString::to_string).collect(),
        role,
        fits_parts: false,
    };
    vec![
        of(&["GrafanaAdmin", "Admin"], Role::Admin),
        of(&["Editor"], Role::Editor),
        of(&["Viewer"], Role::Viewer),
    ]
}

/// The Viewer role for everyone, if Grafana grants it to everyone.
fn without_roles(
    why: &str,
    path: Option<&str>,
    fallback: Option<Role>,
    notes: &mut Vec<String>,
) -> Result<(Vec<RoleEntry>, Option<Role>), Reason> {
    let may_give_no_role = path.is_some_and(|path| path.to_ascii_lowercase().contains("none"));
    match fallback {
        Some(_) if !may_give_no_role => {
            notes.push(format!("{why}; every person becomes a Viewer: write `roles` yourself"));
            Ok((Vec::new(), Some(Role::Viewer)))
        }
        Some(_) | None => Err(format!("{why}; the people whom it excludes are not known")),
    }
}
