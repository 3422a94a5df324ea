//! The settings of a section, and those that have no counterpart.

use std::collections::HashMap;

use super::super::ini::{Ini, Section, reference};
use super::super::text::{Text, shown_key};

/// The settings that are translated.
const TRANSLATED: [&str; 30] = [
    "enabled",
    "name",
    "client_id",
    "client_secret",
    "client_authentication",
    "scopes",
    "empty_scopes",
    "auth_url",
    "token_url",
    "api_url",
    "allow_sign_up",
    "allowed_domains",
    "allowed_groups",
    "allowed_organizations",
    "team_ids",
    "hosted_domain",
    "validate_hd",
    "groups_attribute_path",
    "login_attribute_path",
    "name_attribute_path",
    "email_attribute_path",
    "role_attribute_path",
    "role_attribute_strict",
    "skip_org_role_sync",
    "org_mapping",
    "org_attribute_path",
    "signout_redirect_url",
    "tls_client_ca",
    "teams_url",
    "team_ids_attribute_path",
];

const NO_CERTIFICATE: &str = "this server presents no certificate to a provider";
const NO_HINT: &str = "this server sends nothing of this kind";
const ALWAYS_VERIFIED: &str =
    "ID tokens are always verified here, with the keys that the provider's own document names";
pub(super) const WORKLOAD: &str = "a client sends its secret here, or is public";

/// The settings that have no counterpart, each with the reason; of those that are on or off, this value is not told.
const LEFT_OUT: [(&str, Option<bool>, &str); 22] = [
    ("icon", None, "a button has only its text"),
    (
        "auto_login",
        Some(false),
        "`admin.login_redirect` sends browsers to the log-in page, where people choose",
    ),
    ("use_pkce", Some(true), "PKCE is always used here"),
    (
        "use_refresh_token",
        Some(false),
        "this server stores no token of a provider: a session lives for at most 12 hours",
    ),
    (
        "tls_skip_verify_insecure",
        Some(false),
        "no switch turns verification off here; name the CA of the provider's certificate in `ca`",
    ),
    ("tls_client_cert", None, NO_CERTIFICATE),
    ("tls_client_key", None, NO_CERTIFICATE),
    ("auth_style", None, "the way in which a client sends its secret cannot be chosen here"),
    ("email_attribute_name", None, "`members.email` names a claim"),
    ("id_token_attribute_name", None, "the ID token is always `id_token`, as in OpenID Connect"),
    ("allow_assign_grafana_admin", Some(false), "only the role counts"),
    ("validate_id_token", Some(true), ALWAYS_VERIFIED),
    ("jwk_set_url", None, ALWAYS_VERIFIED),
    ("login_prompt", None, NO_HINT),
    ("login_hint", None, NO_HINT),
    ("domain_hint", None, NO_HINT),
    (
        "force_use_graph_api",
        Some(false),
        "groups come from the claim, which Microsoft leaves out for people in many groups",
    ),
    ("managed_identity_client_id", None, WORKLOAD),
    ("federated_credential_audience", None, WORKLOAD),
    ("workload_identity_token_file", None, WORKLOAD),
    ("api_timeout", None, "`timeout` is the limit for one request"),
    ("login_attribute_name", None, "`members` names claims"),
];

/// Go's words for true, as Grafana reads them.
fn is_true(value: &str) -> bool {
    ["1", "t", "T", "TRUE", "true", "True", "YES", "yes", "Yes", "y", "ON", "on", "On"].contains(&value)
}

/// A section of the file.
pub(super) struct Settings<'i> {
    pub(super) ini: &'i Ini,
    pub(super) section: &'i str,
}

/// Why a provider is left out.
pub(super) type Reason = String;

impl Settings<'_> {
    pub(super) fn value(&self, key: &str) -> Option<String> {
        self.ini.value(self.section, key, &HashMap::new())
    }

    pub(super) fn boolean(&self, key: &str, default: bool) -> bool {
        self.value(key).map_or(default, |value| is_true(&value))
    }

    pub(super) fn text(&self, key: &str) -> Result<Option<Text>, Reason> {
        let Some(value) = self.value(key) else {
            return Ok(None);
        };
        if reference(&value).is_some() {
            return Err(format!("{key}: `%(…)s` names a key that the section does not have"));
        }
        Text::of(&value).map(Some).map_err(|why| format!("{key}: {why}"))
    }

    /// A text that is no variable.
    pub(super) fn plain(&self, key: &str) -> Result<Option<String>, Reason> {
        match self.text(key)? {
            None => Ok(None),
            Some(Text::Plain(text)) => Ok(Some(text)),
            Some(Text::Variable(_) | Text::File(_)) => {
                Err(format!("{key}: its value is a variable: write the value itself"))
            }
        }
    }

    /// Texts with commas or blanks between them, or a list as JSON writes it.
    pub(super) fn list(&self, key: &str) -> Result<Vec<String>, Reason> {
        let Some(text) = self.plain(key)? else {
            return Ok(Vec::new());
        };
        if text.starts_with('[') {
            return serde_json::from_str(&text)
                .map_err(|_| format!("{key}: it begins like a JSON list but is not one"));
        }
        let mut texts = Vec::new();
        let mut rest = text.as_str();
        loop {
            rest = rest.trim_start_matches([',', ' ', '\t', '\n']);
            if rest.is_empty() {
                return Ok(texts);
            }
            let (one, after) = match rest.strip_prefix('"') {
                Some(quoted) => {
                    quoted.split_once('"').ok_or_else(|| format!("{key}: its quotes are not closed"))?
                }
                None => rest.split_at(rest.find([',', ' ', '\t', '\n']).unwrap_or(rest.len())),
            };
            texts.push(one.to_owned());
            rest = after;
        }
    }
}

/// Notes settings of a provider that are not translated.
pub(super) fn note_settings(settings: &Settings<'_>, notes: &mut Vec<String>) {
    let sections = settings.ini.sections().iter().filter(|section| section.name == settings.section);
    for key in sections.flat_map(Section::keys).filter(|key| !TRANSLATED.contains(key)) {
        let Some(value) = settings.value(key) else {
            continue;
        };
        match LEFT_OUT.into_iter().find(|(known, ..)| *known == key) {
            Some((_, Some(usual), _)) if is_true(&value) == usual => {}
            Some((_, _, why)) => notes.push(format!("{key}: left out: {why}")),
            None => notes
                .push(format!("{}: left out: Grafana has no such setting, or a newer one", shown_key(key))),
        }
    }
}
