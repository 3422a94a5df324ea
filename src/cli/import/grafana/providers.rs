//! Translates the `auth.*` sections of Grafana's ini file into the section `oauth` of ours.
//!
//! A provider is left out if Grafana limits its people by data that is not in claims.

mod issuer;
mod roles;
mod settings;

use std::collections::HashMap;

use self::roles::{Roles, read_roles};
use self::settings::{Reason, Settings, WORKLOAD, note_settings};
use super::super::{Imported, tokens};
use super::GrafanaError;
use super::ini::{Ini, IniError, Section};
use super::role_path;
use super::text::{Text, quoted, shown_key};
use crate::config::PublicUrl;

/// The variable in the printed configuration if the file has no address.
const PUBLIC_URL_VARIABLE: &str = "PUBLIC_URL";

/// The defaults of Grafana in `[server]`.
const SERVER_DEFAULTS: [(&str, &str); 3] =
    [("protocol", "http"), ("domain", "localhost"), ("http_port", "3000")];

/// Which provider a section is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Generic,
    Google,
    GitHub,
    GitLab,
    AzureAd,
    Okta,
}

/// The sections, each with the name of the provider here.
const SECTIONS: [(&str, &str, Kind); 6] = [
    ("auth.generic_oauth", "generic-oauth", Kind::Generic),
    ("auth.google", "google", Kind::Google),
    ("auth.github", "github", Kind::GitHub),
    ("auth.gitlab", "gitlab", Kind::GitLab),
    ("auth.azuread", "azuread", Kind::AzureAd),
    ("auth.okta", "okta", Kind::Okta),
];

/// Google's own names of scopes of OpenID Connect.
const GOOGLE_SCOPES: [(&str, &str); 2] = [
    ("https://www.googleapis.com/auth/userinfo.profile", "profile"),
    ("https://www.googleapis.com/auth/userinfo.email", "email"),
];

/// Translates the text of the file.
///
/// # Errors
/// [`GrafanaError`]: the file is not of this kind, or no provider in it can be translated.
pub fn import(text: &str) -> Result<Imported, GrafanaError> {
    let ini = Ini::parse(text).map_err(|IniError { line, problem }| GrafanaError::Ini { line, problem })?;
    let mut notes = Vec::new();
    let public_url = read_public_url(&ini, &mut notes);
    let mut providers: Vec<Provider> = Vec::new();
    let mut reasons = Vec::new();
    for section in ini.sections() {
        let Some((section, name, kind)) = SECTIONS.into_iter().find(|(known, ..)| *known == section.name)
        else {
            note_section(&ini, &section.name, &mut notes);
            continue;
        };
        let settings = Settings { ini: &ini, section };
        let mut own_notes = Vec::new();
        match Provider::of(name, kind, &settings, &mut own_notes) {
            Ok(provider) => {
                note_settings(&settings, &mut own_notes);
                notes.extend(own_notes.into_iter().map(|note| format!("{section}.{note}")));
                providers.push(provider);
            }
            Err(reason) => {
                notes.push(format!("{section}: left out: {reason}"));
                reasons.push(format!("{section}: {reason}"));
            }
        }
    }
    if providers.is_empty() {
        let reason = if reasons.is_empty() {
            "it has no section for a provider".to_owned()
        } else {
            reasons.join("; ")
        };
        return Err(GrafanaError::NoProviders(reason));
    }
    let others = ["server", "users", ""];
    if ini
        .sections()
        .iter()
        .any(|section| !section.name.starts_with("auth") && !others.contains(&section.name.as_str()))
    {
        notes.push(
            "other sections than [server] and [auth.…]: left out: they are not about log-in".to_owned(),
        );
    }
    note_differences(&providers, &mut notes);
    tokens::check(&render(&Text::Plain("https://keys.example.com".to_owned()), &providers, Output::Sample))
        .map_err(GrafanaError::Invalid)?;
    Ok(Imported { config: render(&public_url, &providers, Output::File), notes })
}

/// The differences that apply to every provider.
fn note_differences(providers: &[Provider], notes: &mut Vec<String>) {
    let names: Vec<_> =
        providers.iter().map(|provider| format!("/login/{}/callback", provider.name)).collect();
    notes.push(format!(
        "at each provider enter the new redirect URI: `admin.public_url` followed by {}",
        names.join(", ")
    ));
    notes.push(format!(
        "ids of actors begin with the provider's name here, such as {}:0123; `ids: plain` leaves that out",
        providers.first().map_or("google", |provider| provider.name)
    ));
    notes.push(
        "there are no accounts of people here: a person who matches `roles` can log in, and others cannot; roles \
         that were assigned in Grafana itself are not imported"
            .to_owned(),
    );
    notes.push("`keys.store` keeps the sessions: write the path of the file, or postgres://…".to_owned());
    notes.push(
        "settings in variables (GF_AUTH_…) or in Grafana's database are not in this file; with `session` among \
         `credentials` Checks accept the sessions of people"
            .to_owned(),
    );
}

/// Notes a section that is about no provider.
fn note_section(ini: &Ini, section: &str, notes: &mut Vec<String>) {
    let settings = Settings { ini, section };
    if section == "auth" {
        let keys = ini.sections().iter().filter(|found| found.name == section).flat_map(Section::keys);
        for key in keys.filter(|key| *key != "signout_redirect_url" && settings.value(key).is_some()) {
            notes.push(format!("auth.{}: left out: it is not a setting of a provider", shown_key(key)));
        }
        return;
    }
    let Some(way) = section.strip_prefix("auth.") else {
        return;
    };
    if settings.boolean("enabled", false) {
        let advice = if way == "ldap" {
            "a separate file has its settings: import that file, too"
        } else {
            "of Grafana's ways to log in, those by OAuth and LDAP have a counterpart here"
        };
        notes.push(format!("auth.{}: left out: {advice}", shown_key(way)));
    }
}

/// `admin.public_url`.
fn read_public_url(ini: &Ini, notes: &mut Vec<String>) -> Text {
    let written = ini.value("server", "root_url", &HashMap::from(SERVER_DEFAULTS));
    let variable = Text::Variable(PUBLIC_URL_VARIABLE.to_owned());
    let Some(written) = written else {
        notes.push(format!(
            "server.root_url: it is missing: set the variable {PUBLIC_URL_VARIABLE} to the URL of the page, such \
             as https://keys.example.com"
        ));
        return variable;
    };
    let text = match Text::of(&written) {
        Ok(Text::Plain(text)) => text,
        Ok(found @ (Text::Variable(_) | Text::File(_))) => return found,
        Err(_) => written,
    };
    let Ok(url) = text.parse::<PublicUrl>() else {
        notes.push(format!(
            "server.root_url: this URL cannot be used: set the variable {PUBLIC_URL_VARIABLE} to the URL of the \
             page"
        ));
        return variable;
    };
    if url.is_encrypted_or_loopback() {
        notes.push(
            "server.root_url: this is the URL of Grafana: if the page has another URL, write it in \
             `admin.public_url`"
                .to_owned(),
        );
        return Text::Plain(url.to_string());
    }
    let url = format!("https://{}{}", url.authority(), url.path());
    notes.push(
        "server.root_url: https, where Grafana has http: passwords and codes would cross the network in plain \
         text; write the URL of the page in `admin.public_url`"
            .to_owned(),
    );
    Text::Plain(url)
}

enum Endpoints {
    Issuer(String),
    OAuth2 { auth_url: Text, token_url: Text, api_url: Text },
}

/// An entry of `oauth`.
struct Provider {
    name: &'static str,
    label: Option<Text>,
    endpoints: Endpoints,
    client_id: Text,
    client_secret: Option<Text>,
    scopes: Vec<String>,
    members: Vec<(&'static str, String)>,
    roles: Roles,
    allowed_domains: Vec<String>,
    logout_url: Option<Text>,
    ca: Option<Text>,
}

impl Provider {
    fn of(
        name: &'static str,
        kind: Kind,
        settings: &Settings<'_>,
        notes: &mut Vec<String>,
    ) -> Result<Self, Reason> {
        if !settings.boolean("enabled", false) {
            return Err("it is not enabled".to_owned());
        }
        let client_id = settings.text("client_id")?.ok_or("client_id: it is missing")?;
        let client_secret = read_secret(name, settings, notes)?;
        let endpoints = read_endpoints(kind, settings, notes)?;
        let has_issuer = matches!(endpoints, Endpoints::Issuer(_));
        let scopes = read_scopes(kind, settings, has_issuer, notes)?;
        let logout_url = match settings.text("signout_redirect_url")? {
            Some(url) => Some(url),
            None => Settings { ini: settings.ini, section: "auth" }.text("signout_redirect_url")?,
        };
        let provider = Self {
            name,
            label: settings.text("name")?,
            members: read_members(kind, settings, has_issuer, &scopes, notes)?,
            roles: read_roles(kind, settings, &endpoints, notes)?,
            allowed_domains: read_domains(kind, settings, has_issuer, notes)?,
            endpoints,
            client_id,
            client_secret,
            scopes,
            logout_url,
            ca: settings.text("tls_client_ca")?,
        };
        if provider.ca.as_ref().and_then(Text::plain).is_some_and(|path| !path.starts_with('/')) {
            notes.push(
                "tls_client_ca: its path starts at the new configuration's folder, no longer where Grafana runs".to_owned(),
            );
        }
        // Our own reader decides what a valid provider is.
        let page = Text::Plain("https://keys.example.com".to_owned());
        tokens::check(&render(&page, std::slice::from_ref(&provider), Output::Sample))?;
        Ok(provider)
    }
}

/// `client_secret`; `None` is a public client.
fn read_secret(name: &str, settings: &Settings<'_>, notes: &mut Vec<String>) -> Result<Option<Text>, Reason> {
    match settings.plain("client_authentication")?.as_deref() {
        None | Some("none" | "client_secret_post") => {}
        Some(_) => return Err(format!("client_authentication: {WORKLOAD}")),
    }
    let Some(written) = settings.value("client_secret") else {
        notes.push(
            "client_secret: it is missing: this is a public client, which only PKCE protects".to_owned(),
        );
        return Ok(None);
    };
    // One with a variable in it is not printed either.
    if let Ok(found @ (Text::Variable(_) | Text::File(_))) = Text::of(&written) {
        return Ok(Some(found));
    }
    let variable = format!("{}_CLIENT_SECRET", name.to_ascii_uppercase().replace('-', "_"));
    notes.push(format!("client_secret: it is not printed: set the variable {variable}"));
    Ok(Some(Text::Variable(variable)))
}

/// `issuer`, or the three URLs.
fn read_endpoints(kind: Kind, settings: &Settings<'_>, notes: &mut Vec<String>) -> Result<Endpoints, Reason> {
    let auth_url = settings.text("auth_url")?;
    let default = match kind {
        Kind::Google => Some("https://accounts.google.com/o/oauth2/v2/auth"),
        Kind::GitHub => Some("https://github.com/login/oauth/authorize"),
        Kind::GitLab => Some("https://gitlab.com/oauth/authorize"),
        Kind::Generic | Kind::AzureAd | Kind::Okta => None,
    };
    let auth_url = auth_url.or_else(|| default.map(|url| Text::Plain(url.to_owned())));
    let auth_url = auth_url.ok_or("auth_url: it is missing")?;
    if let Some(url) = auth_url.plain() {
        if let Some(issuer) = issuer::of(kind, url)? {
            if url.contains('?') {
                notes.push(
                    "auth_url: the part after `?` is left out: the provider's own document names the URL"
                        .to_owned(),
                );
            }
            return Ok(Endpoints::Issuer(issuer));
        }
        let expected = match kind {
            Kind::Generic | Kind::GitHub => None,
            Kind::Google => Some("https://accounts.google.com/o/oauth2/v2/auth"),
            Kind::GitLab => Some("https://HOST/oauth/authorize"),
            Kind::AzureAd => Some("https://login.microsoftonline.com/TENANT/oauth2/v2.0/authorize"),
            Kind::Okta => Some("https://TENANT.okta.com/oauth2/v1/authorize"),
        };
        if let Some(expected) = expected {
            return Err(format!("auth_url: its issuer is not known: expected one such as {expected}"));
        }
    }
    let url = |key: &str, default: &str| match settings.text(key)? {
        Some(url) => Ok(url),
        None if kind == Kind::GitHub => Ok(Text::Plain(default.to_owned())),
        None => Err(format!("{key}: it is missing")),
    };
    let token_url = url("token_url", "https://github.com/login/oauth/access_token")?;
    let api_url = url("api_url", "https://api.github.com/user")?;
    if kind == Kind::Generic {
        notes.push(
            "auth_url: plain OAuth 2, since the issuer is not known by it: if this provider speaks OpenID Connect, write \
             `issuer` in place of `auth_url`, `token_url` and `api_url`, so that its ID tokens are verified"
                .to_owned(),
        );
    }
    Ok(Endpoints::OAuth2 { auth_url, token_url, api_url })
}

fn read_scopes(
    kind: Kind,
    settings: &Settings<'_>,
    has_issuer: bool,
    notes: &mut Vec<String>,
) -> Result<Vec<String>, Reason> {
    let mut scopes: Vec<String> = Vec::new();
    for scope in settings.list("scopes")? {
        let plain = GOOGLE_SCOPES.into_iter().find(|(google, _)| *google == scope);
        let scope = plain.map_or(scope, |(_, plain)| plain.to_owned());
        if !scopes.contains(&scope) {
            scopes.push(scope);
        }
    }
    if settings.boolean("empty_scopes", false) {
        scopes.clear();
    } else if scopes.is_empty() {
        let default: &[&str] = match kind {
            Kind::GitHub => &["user:email", "read:org"],
            Kind::Okta => &["openid", "profile", "email", "groups"],
            Kind::Generic if !has_issuer => &["user:email"],
            Kind::Generic | Kind::Google | Kind::GitLab | Kind::AzureAd => &["openid", "profile", "email"],
        };
        scopes = default.iter().map(ToString::to_string).collect();
    }
    if has_issuer && !scopes.iter().any(|scope| scope == "openid") {
        notes.push("scopes: `openid` is added: without it a provider gives no ID token".to_owned());
        scopes.insert(0, "openid".to_owned());
    }
    Ok(scopes)
}

fn read_members(
    kind: Kind,
    settings: &Settings<'_>,
    has_issuer: bool,
    scopes: &[String],
    notes: &mut Vec<String>,
) -> Result<Vec<(&'static str, String)>, Reason> {
    let id = if has_issuer || (kind == Kind::Generic && scopes.iter().any(|scope| scope == "openid")) {
        "sub"
    } else {
        "id"
    };
    if kind == Kind::Generic && !has_issuer {
        notes.push(format!(
            "api_url: its member `{id}` is the id of people (`members.id`): if it can change for a person, write \
             another member"
        ));
    }
    let groups = has_issuer.then_some("groups");
    let mut members = vec![("id", id.to_owned())];
    for (member, key, default) in [
        ("name", "name_attribute_path", Some("name")),
        ("login", "login_attribute_path", (kind == Kind::GitHub).then_some("login")),
        ("email", "email_attribute_path", Some("email")),
        ("groups", "groups_attribute_path", groups),
    ] {
        let written = settings.value(key);
        let path = written.as_deref().map(|written| role_path::claim_path(written).ok_or(()));
        match path {
            Some(Ok(path)) => members.push((member, path)),
            Some(Err(())) => {
                notes.push(format!(
                    "{key}: left out: of JMESPath only names with dots between them can be converted"
                ));
            }
            None => members.extend(default.map(|claim| (member, claim.to_owned()))),
        }
    }
    Ok(members)
}

fn read_domains(
    kind: Kind,
    settings: &Settings<'_>,
    has_issuer: bool,
    notes: &mut Vec<String>,
) -> Result<Vec<String>, Reason> {
    let domains = settings.list("allowed_domains")?;
    if domains.is_empty() {
        return Ok(domains);
    }
    if !has_issuer {
        return Err(
            "allowed_domains: plain OAuth 2 does not tell whether an email is verified, so it cannot exclude \
             anybody"
                .to_owned(),
        );
    }
    notes.push(
        "allowed_domains: a domain counts only where the provider says that it has verified the email (`email_verified`)"
            .to_owned(),
    );
    if kind == Kind::AzureAd {
        notes.push(
            "allowed_domains: Microsoft sends no `email_verified` unless its administrator adds that claim, and \
             until then nobody can log in; the tenant in `issuer` excludes people of other companies without it"
                .to_owned(),
        );
    }
    Ok(domains)
}

/// The purpose of a configuration.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Output {
    File,
    /// For our own reader, with an example for each reference.
    Sample,
}

fn render(public_url: &Text, providers: &[Provider], output: Output) -> String {
    let mut lines = vec![
        "# The providers of Grafana's ini file, by `envoy-auth-tokens import grafana`.".to_owned(),
        "keys: {store: \"sqlite:/var/lib/envoy-auth-tokens/keys.db\"}".to_owned(),
        format!("admin: {{public_url: {public_url}}}"),
        "oauth:".to_owned(),
    ];
    for provider in providers {
        provider.render(output, &mut lines);
    }
    lines.join("\n") + "\n"
}

impl Provider {
    fn render(&self, output: Output, lines: &mut Vec<String>) {
        let shown = |text: &Text, example: &str| match (output, text) {
            (Output::Sample, Text::Variable(_) | Text::File(_)) => quoted(example),
            (Output::Sample, Text::Plain(_)) | (Output::File, _) => text.to_string(),
        };
        let url = |text: &Text| shown(text, "https://id.example.com");
        let list = |texts: &[String]| {
            let texts: Vec<_> = texts.iter().map(|text| quoted(text)).collect();
            format!("[{}]", texts.join(", "))
        };
        lines.push(format!("- name: {}", self.name));
        let mut push = |key: &str, value: String| lines.push(format!("  {key}: {value}"));
        if let Some(label) = &self.label {
            push("label", shown(label, "Log in"));
        }
        match &self.endpoints {
            Endpoints::Issuer(issuer) => push("issuer", quoted(issuer)),
            Endpoints::OAuth2 { auth_url, token_url, api_url } => {
                push("auth_url", url(auth_url));
                push("token_url", url(token_url));
                push("api_url", url(api_url));
            }
        }
        push("client_id", shown(&self.client_id, "client"));
        if let Some(secret) = &self.client_secret {
            push("client_secret", secret.to_string());
        }
        push("scopes", list(&self.scopes));
        let members = self.members.iter().map(|(member, claim)| format!("{member}: {}", quoted(claim)));
        push("members", format!("{{{}}}", members.collect::<Vec<_>>().join(", ")));
        lines.push("  roles:".to_owned());
        for (claim, role) in &self.roles {
            let (claim, value) = match claim {
                None => (quoted("*"), String::new()),
                Some((claim, values)) => match values.as_slice() {
                    // Alone that would be everyone who has the claim.
                    [value] if value != "*" => (quoted(claim), format!("value: {}, ", quoted(value))),
                    values => (quoted(claim), format!("value: {}, ", list(values))),
                },
            };
            lines.push(format!("  - {{claim: {claim}, {value}role: {}}}", role.as_str()));
        }
        let mut push = |key: &str, value: String| lines.push(format!("  {key}: {value}"));
        if !self.allowed_domains.is_empty() {
            push("allowed_domains", list(&self.allowed_domains));
        }
        if let Some(logout_url) = &self.logout_url {
            push("logout_url", url(logout_url));
        }
        if let (Some(ca), Output::File) = (&self.ca, output) {
            push("ca", ca.to_string());
        }
    }
}
