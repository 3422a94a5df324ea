//! The section `oauth`: providers at which people log in, by OpenID Connect or by plain OAuth 2.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use serde_json::{Map, Value as Json, json};
use sha2::{Digest, Sha256};

use super::admin::AdminSection;
use super::people::{OWN_MEMBERS, RoleWords, read_ids, read_role_name, read_timeout};
use super::raw::{Entry, Node, Text, Value};
use super::reader::{Fields, Reader};
use super::url::{HttpUrl, is_host_name};
use super::{is_label, people, plain, schema, tls};
use crate::actor::reach;
use crate::keys::Role;
use crate::person::ProviderName;
use crate::policy::Requirement;
use crate::secret::Secret;

/// One provider: an entry of the section `oauth`.
pub struct ProviderSettings {
    /// `name`: it is in the path of its log-in and before its people's ids.
    pub name: ProviderName,
    /// `label`: the text of its button; without it the name.
    pub label: Box<str>,
    /// Where it is.
    pub endpoints: Endpoints,
    /// `client_id`: the id of this client at the provider.
    pub client_id: Box<str>,
    /// `client_secret`; `None` for a public client, which only PKCE protects.
    pub client_secret: Option<Secret>,
    /// `scopes`: the requested scopes.
    pub scopes: Box<[Box<str>]>,
    /// `members.id`: the claim that is the person's id.
    pub id: ClaimPath,
    /// The other `members`: of the actor, each with its claim.
    pub members: Box<[(Box<str>, ClaimPath)]>,
    /// `roles`: the first match is used.
    pub roles: Box<[ClaimRole]>,
    /// `ids: plain`: the actor's id is the provider's, without the provider's name before it.
    pub plain_ids: bool,
    /// `allowed_domains`: of the verified email, in lower case; empty admits all.
    pub allowed_domains: Box<[Box<str>]>,
    /// `logout_url`: the address to which a browser goes after log-out.
    pub logout_url: Option<Box<str>>,
    /// `ca`: certificates that are trusted in addition to the system's.
    pub ca: Box<[CertificateDer<'static>]>,
    /// `timeout`: how long one request to the provider may take.
    pub timeout: Duration,
    /// The digest of the settings that identify people: endpoints, `client_id`, `members.id`, `ids`.  Another one ends
    /// all sessions.
    pub binding: [u8; 32],
}

/// Where a provider is.
pub enum Endpoints {
    /// OpenID Connect: `issuer`, whose document names the rest (OpenID Connect Discovery 1.0, section 4).
    OpenIdConnect {
        /// As the configuration writes it: the document must have exactly the same value.
        issuer: Box<str>,
    },
    /// Plain OAuth 2 (RFC 6749).
    OAuth2 {
        /// `auth_url`: where browsers are sent.
        auth_url: Box<str>,
        /// `token_url`: where a code is redeemed.
        token_url: Box<str>,
        /// `api_url`: returns the bearer of an access token as a JSON object.
        api_url: Box<str>,
    },
}

/// Where a value is in claims: `a.b` reaches into objects, and a claim of that very name comes first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimPath(Box<str>);

/// An entry of `roles`.
pub struct ClaimRole {
    /// `claim` and `value`; `None` is `claim: "*"`: everyone.
    pub requirement: Option<(ClaimPath, Requirement)>,
    /// The role of its people.
    pub role: Role,
}

impl From<&str> for ClaimPath {
    fn from(path: &str) -> Self {
        Self(path.into())
    }
}

impl ClaimPath {
    /// The value there.
    pub fn find<'c>(&self, claims: &'c Map<String, Json>) -> Option<&'c Json> {
        reach(claims, &self.0)
    }
}

/// A text names no claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected the name of a claim such as groups, or a path such as realm_access.roles: no brackets, no blanks at its ends"
)]
pub struct ClaimPathError;

impl FromStr for ClaimPath {
    type Err = ClaimPathError;

    fn from_str(text: &str) -> Result<Self, ClaimPathError> {
        let is_legal = is_label(text)
            && text != "*"
            && !text.starts_with('.')
            && !text.ends_with('.')
            && !text.contains(['[', ']', '{', '}', '|']);
        if is_legal { Ok(Self(text.into())) } else { Err(ClaimPathError) }
    }
}

impl fmt::Display for ClaimPath {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl ProviderSettings {
    /// The position of the first entry of `roles` that these claims fit.  They compare as allow blocks do.  By OpenID
    /// Connect an `email` fits only when the provider says that it has verified it: anyone may register with the
    /// address of another person.
    pub fn fitting_role(&self, claims: &Map<String, Json>) -> Option<usize> {
        let fits = |(path, requirement): &(ClaimPath, Requirement)| {
            let is_trusted = match self.endpoints {
                Endpoints::OpenIdConnect { .. } => {
                    &*path.0 != "email" || claims.get("email_verified") == Some(&Json::Bool(true))
                }
                Endpoints::OAuth2 { .. } => true,
            };
            is_trusted && path.find(claims).is_some_and(|value| requirement.matches(value))
        };
        self.roles.iter().position(|entry| entry.requirement.as_ref().is_none_or(fits))
    }
}

/// The content of the section.
pub struct OauthSection {
    /// The entries that are valid.
    pub providers: Vec<Arc<ProviderSettings>>,
    /// Whether all are.
    pub all_valid: bool,
}

/// The values of other sections that the provider's settings need.
pub struct OtherSections<'b, 't> {
    /// Whether the section `keys` is there.
    pub has_keys: bool,
    /// Whether its store is only read.
    pub is_read_only: bool,
    /// The section `admin`.
    pub admin: Option<&'b AdminSection<'t>>,
    /// Whether Checks take a session.
    pub takes_sessions: bool,
    /// Whether ids of the directory's people stand without `ldap:` before them.
    pub has_plain_ids: bool,
}

/// The scope that makes a request one of OpenID Connect (OpenID Connect Core 1.0, section 3.1.2.1).
const OPENID: &str = "openid";
/// Without `scopes`, of a provider with `issuer`.
const DEFAULT_SCOPES: [&str; 3] = [OPENID, "profile", "email"];
/// The scope that `allowed_domains` needs.
const EMAIL_SCOPE: &str = "email";

/// Without `members`, of a provider with `issuer`; `id` also where `members` has none.
const DEFAULT_MEMBERS: [(&str, &str); 4] =
    [("id", "sub"), ("name", "name"), ("email", "email"), ("groups", "groups")];

/// Claims that providers give to another person when a person leaves, or that people can choose.
const REUSED_CLAIMS: [&str; 4] = ["email", "preferred_username", "upn", "login"];

/// Claims that every ID token has (OpenID Connect Core 1.0, section 2).
const CLAIMS_OF_ALL: [&str; 5] = ["sub", "iss", "aud", "exp", "iat"];

/// Reads the section; `None` when it is not there.
pub fn read<'t>(
    reader: &mut Reader<'t>,
    section: Option<&'t Entry>,
    beside: &OtherSections<'_, 't>,
) -> Option<OauthSection> {
    let entry = section?;
    let what = "a list of providers such as [{name: corporate, issuer: \"https://id.example.com\", client_id: …, roles: …}]";
    let Some(list) = reader.list(&entry.value, what) else {
        return Some(OauthSection { providers: Vec::new(), all_valid: false });
    };
    if !list.is_empty() {
        check_needs(reader, entry, beside);
    }
    let mut providers: Vec<Arc<ProviderSettings>> = Vec::with_capacity(list.len());
    let mut names: Vec<ProviderName> = Vec::with_capacity(list.len());
    let mut has_plain_ids = beside.has_plain_ids;
    for node in list {
        let what = "a provider such as {name: corporate, issuer: \"https://id.example.com\", client_id: …, roles: …}";
        let Some(fields) = reader.fields(node, what, &schema::PROVIDER) else {
            continue;
        };
        let name = read_name(reader, fields);
        if let (Some(node), Some(name)) = (fields.get("name"), &name) {
            if names.contains(name) {
                reader.error(&node.at, "an earlier provider has this name; names of providers are unique");
            }
            names.push(name.clone());
        }
        let Some(settings) = read_provider(reader, fields, name) else {
            continue;
        };
        if let (Some(node), true) = (fields.get("ids"), settings.plain_ids) {
            if has_plain_ids {
                reader.warn(
                    &node.at,
                    "another section has `ids: plain`, too: two people with the same id are one actor for \
                     policies and the upstream",
                );
            }
            has_plain_ids = true;
        }
        let may_enter = beside.admin.is_none_or(|admin| settings.may_enter(admin));
        if !beside.takes_sessions && !may_enter {
            reader.warn(
                &node.at,
                "people of this provider can do nothing: `session` is not among `credentials`, and neither `admin.allow` \
                 nor `admin.self_service` admits one of its `roles`",
            );
        }
        providers.push(Arc::new(settings));
    }
    let all_valid = providers.len() == list.len();
    Some(OauthSection { providers, all_valid })
}

impl ProviderSettings {
    /// Whether people of this provider may log in at the admin listener.
    pub fn may_enter(&self, admin: &AdminSection<'_>) -> bool {
        let members: Vec<&str> = self.members.iter().map(|(member, _)| &**member).collect();
        admin.can_be_entered_with(&members, self.roles.iter().map(|entry| entry.role))
    }
}

/// Checks the sections that log-in at a provider needs.
fn check_needs<'t>(reader: &mut Reader<'t>, entry: &'t Entry, beside: &OtherSections<'_, 't>) {
    if !beside.has_keys {
        reader.error(
            &entry.at,
            "`oauth` needs the section `keys`: its store keeps the sessions of people who log in",
        );
    }
    let Some(admin) = beside.admin else {
        reader.error(&entry.at, "`oauth` needs the section `admin`: people log in at that listener");
        return;
    };
    match (&admin.rules.public_url, admin.public_url_node) {
        (_, None) => reader.error(
            &entry.at,
            "`oauth` needs `admin.public_url`: providers send people back to an address under it",
        ),
        (Some(url), Some(node)) if !url.is_encrypted_or_loopback() => reader.error(
            &node.at,
            "with `oauth` this must be https: codes and sessions would cross the network in plain text (http is \
             allowed only for 127.0.0.0/8, [::1] and localhost)",
        ),
        (Some(_) | None, Some(_)) => {}
    }
    if beside.is_read_only {
        reader.warn(
            &entry.at,
            "log-in at a provider is not possible here: a session cannot be written with `keys.read_only`. \
             `admin.public_url` must \
             lead to a server that writes",
        );
    }
}

/// An entry; `None` when something in it is not valid.
fn read_provider<'t>(
    reader: &mut Reader<'t>,
    fields: Fields<'t>,
    name: Option<ProviderName>,
) -> Option<ProviderSettings> {
    // Each is read, so that every problem is reported.
    let label = match (fields.get("label"), &name) {
        (Some(node), _) => read_label(reader, node),
        (None, name) => name.as_ref().map(|name| name.as_str().into()),
    };
    // One that has neither is an error already, and then it may be meant to have one.
    let has_issuer =
        fields.get("issuer").is_some() || fields.present(&ENDPOINTS.map(|(key, _)| key)).is_empty();
    let endpoints = read_endpoints(reader, fields);
    let client_id = read_client_id(reader, fields);
    let client_secret = match fields.get("client_secret") {
        Some(node) => read_client_secret(reader, node, client_id.as_deref()).map(Some),
        None => Some(None),
    };
    let scopes = read_scopes(reader, fields.get("scopes"), has_issuer);
    let members = read_members(reader, fields, has_issuer);
    let allowed_domains = match fields.get("allowed_domains") {
        Some(node) => read_domains(reader, node, has_issuer, scopes.as_deref()),
        None => Some(Box::default()),
    };
    let is_limited = allowed_domains.as_ref().is_none_or(|domains| !domains.is_empty());
    let roles = match fields.get("roles") {
        Some(node) => read_roles(reader, node, is_limited),
        None => {
            reader.error(
                fields.at,
                "a provider needs `roles`: a list such as [{claim: groups, value: admins, role: Admin}]; a \
                 person who matches none cannot log in",
            );
            None
        }
    };
    let plain_ids = read_ids(reader, fields.get("ids"));
    let logout_url = match fields.get("logout_url") {
        Some(node) => read_url(reader, node).map(|(text, _)| Some(text)),
        None => Some(None),
    };
    let ca = match fields.get("ca") {
        Some(node) => read_ca(reader, node, endpoints.as_ref()),
        None => Some(Box::default()),
    };
    let timeout = read_timeout(reader, fields.get("timeout"), "a provider");
    let members = members?;
    let mut settings = ProviderSettings {
        name: name?,
        label: label?,
        endpoints: endpoints?,
        client_id: client_id?,
        client_secret: client_secret?,
        scopes: scopes?,
        id: members.id,
        members: members.others,
        roles: roles?,
        plain_ids,
        allowed_domains: allowed_domains?,
        logout_url: logout_url?,
        ca: ca?,
        timeout,
        binding: [0; 32],
    };
    settings.binding = binding(&settings);
    Some(settings)
}

fn read_name<'t>(reader: &mut Reader<'t>, fields: Fields<'t>) -> Option<ProviderName> {
    let Some(node) = fields.get("name") else {
        reader.error(
            fields.at,
            "a provider needs a `name` such as corporate: it is a part of /login/corporate and of the ids of its \
             people",
        );
        return None;
    };
    let name = reader.text(node, "text: a name such as corporate")?.as_str().parse::<ProviderName>();
    if let Err(error) = &name {
        reader.error(&node.at, error.to_string());
    }
    name.ok()
}

fn read_label<'t>(reader: &mut Reader<'t>, node: &'t Node) -> Option<Box<str>> {
    let text = reader.text(node, "text: the label of the button, such as Corporate account")?.as_str();
    if !is_label(text) {
        reader.error(&node.at, "a label has 1 to 190 printable characters without blanks at the ends");
        return None;
    }
    Some(text.into())
}

/// The URLs of plain OAuth 2.
const ENDPOINTS: [(&str, &str); 3] = [
    ("auth_url", "the URL to which browsers are sent"),
    ("token_url", "the URL that exchanges a code for an access token"),
    ("api_url", "the URL that returns the claims about a person"),
];

/// `issuer`, or `auth_url`, `token_url` and `api_url`.
fn read_endpoints<'t>(reader: &mut Reader<'t>, fields: Fields<'t>) -> Option<Endpoints> {
    let present = fields.present(&ENDPOINTS.map(|(key, _)| key));
    if let Some(node) = fields.get("issuer") {
        let issuer = read_issuer(reader, node);
        if let Some(key) = present.first() {
            let other = fields.get(key).unwrap_or(node);
            reader.error(
                &other.at,
                "a provider has an `issuer`, whose own document names its URLs, or `auth_url`, `token_url` and `api_url`, not \
                 both",
            );
            return None;
        }
        return issuer.map(|issuer| Endpoints::OpenIdConnect { issuer });
    }
    if present.is_empty() {
        reader.error(
            fields.at,
            "a provider needs an `issuer` such as https://id.example.com (OpenID Connect), or `auth_url`, `token_url` and \
             `api_url` (plain OAuth 2)",
        );
        return None;
    }
    let [auth_url, token_url, api_url] = ENDPOINTS.map(|(key, what)| {
        let Some(node) = fields.get(key) else {
            reader.error(fields.at, format!("a provider without `issuer` needs `{key}`: {what}"));
            return None;
        };
        read_url(reader, node).map(|(text, _)| text)
    });
    Some(Endpoints::OAuth2 { auth_url: auth_url?, token_url: token_url?, api_url: api_url? })
}

fn read_issuer<'t>(reader: &mut Reader<'t>, node: &'t Node) -> Option<Box<str>> {
    let (text, url) = read_url(reader, node)?;
    // OpenID Connect Discovery 1.0, section 4.1.
    let problem = if url.has_query {
        "an issuer has no query: remove `?` and what follows"
    } else if text.trim_end_matches('/').ends_with("/.well-known/openid-configuration") {
        "this is the URL of the provider's document: the issuer is the part before `/.well-known`"
    } else {
        return Some(text);
    };
    reader.error(&node.at, problem);
    None
}

/// A URL of a provider's.
fn read_url<'t>(reader: &mut Reader<'t>, node: &'t Node) -> Option<(Box<str>, HttpUrl<'t>)> {
    let text = reader.text(node, "text such as https://id.example.com")?.as_str();
    match HttpUrl::parse(text) {
        Ok(url) => Some((text.into(), url)),
        Err(error) => {
            reader.error(&node.at, error.to_string());
            None
        }
    }
}

/// Whether a text is one of RFC 6749's appendix A: at least one character, all visible ASCII or blanks.
fn is_printable_ascii(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| matches!(byte, b' '..=b'~'))
}

fn read_client_id<'t>(reader: &mut Reader<'t>, fields: Fields<'t>) -> Option<Box<str>> {
    let Some(node) = fields.get("client_id") else {
        reader
            .error(fields.at, "a provider needs a `client_id`: the id that the provider gave to this server");
        return None;
    };
    let text = reader.text(node, "text: the client id that the provider gave to this server")?.as_str();
    if !is_printable_ascii(text) {
        reader.error(&node.at, "a client's id has at least one character, and all are printable ASCII");
        return None;
    }
    Some(text.into())
}

fn read_client_secret<'t>(
    reader: &mut Reader<'t>,
    node: &'t Node,
    client_id: Option<&str>,
) -> Option<Secret> {
    let text = reader.text(node, "text: a secret, best by {$env: NAME} or {$file: PATH}")?;
    if text.as_str().is_empty() {
        reader.error(
            &node.at,
            "a secret has at least one character; for a public client, which only PKCE protects, leave \
             `client_secret` out",
        );
        return None;
    }
    if plain::rejects_reference(reader, node, text) {
        return None;
    }
    if !is_printable_ascii(text.as_str()) {
        reader.error(&node.at, "a client secret consists of printable ASCII characters on one line");
        return None;
    }
    plain::warn_of_placeholder(reader, node, text, client_id.as_slice());
    Some(Secret::new(text.as_str().to_owned()))
}

fn read_scopes<'t>(
    reader: &mut Reader<'t>,
    node: Option<&'t Node>,
    has_issuer: bool,
) -> Option<Box<[Box<str>]>> {
    let Some(node) = node else {
        let default = if has_issuer { DEFAULT_SCOPES.as_slice() } else { &[] };
        return Some(default.iter().map(|scope| Box::from(*scope)).collect());
    };
    let list = reader.list(node, "a list of scopes such as [openid, profile, email]")?;
    let mut scopes: Vec<Box<str>> = Vec::with_capacity(list.len());
    let mut all_valid = true;
    for node in list {
        let text = reader.text(node, "text: a scope such as profile").map(Text::as_str);
        // RFC 6749, section 3.3.
        let is_legal = |byte: u8| matches!(byte, b'!'..=b'~') && byte != b'"' && byte != b'\\';
        match text {
            Some(scope) if scope.is_empty() || !scope.bytes().all(is_legal) => {
                reader.error(
                    &node.at,
                    "a scope is one word of printable ASCII without quotes and backslash: each stands by itself in the list",
                );
                all_valid = false;
            }
            Some(scope) if scopes.iter().any(|earlier| **earlier == *scope) => {
                reader.error(&node.at, "this scope stands in the list already");
            }
            Some(scope) => scopes.push(scope.into()),
            None => all_valid = false,
        }
    }
    if has_issuer && all_valid && !scopes.iter().any(|scope| **scope == *OPENID) {
        reader.error(&node.at, "`openid` must be among these: without it a provider gives no ID token");
        return None;
    }
    all_valid.then(|| scopes.into())
}

/// `members`.
struct Members {
    id: ClaimPath,
    others: Box<[(Box<str>, ClaimPath)]>,
}

fn read_members<'t>(reader: &mut Reader<'t>, fields: Fields<'t>, has_issuer: bool) -> Option<Members> {
    let default = |claim: &str| ClaimPath(claim.into());
    let [(_, default_id), others @ ..] = DEFAULT_MEMBERS;
    let no_id = "without `issuer` a provider needs `members.id`: the member of what `api_url` answers that tells people apart \
                 and never changes, such as {id: id}";
    let Some(node) = fields.get("members") else {
        if !has_issuer {
            reader.error(fields.at, no_id);
            return None;
        }
        return Some(Members {
            id: default(default_id),
            others: others.map(|(member, claim)| (member.into(), default(claim))).into(),
        });
    };
    let entries =
        reader.entries(node, "a mapping such as {id: sub, name: name, email: email, groups: groups}")?;
    let mut members: Vec<(Box<str>, Option<ClaimPath>)> = Vec::with_capacity(entries.len());
    for entry in entries {
        let folded = entry.key.to_lowercase();
        if let Some((_, why)) = OWN_MEMBERS.into_iter().find(|(own, _)| *own == folded) {
            reader.error(&entry.at, format!("no claim gives this member of the actor: {why}"));
        } else if entry.key.is_empty() {
            reader.error(&entry.at, "a member's name has at least one character");
        } else if members.iter().any(|(earlier, _)| *earlier != entry.key && earlier.to_lowercase() == folded)
        {
            reader.error(
                &entry.at,
                "two members differ only in case: an upstream could take one for the other",
            );
        }
        let path = read_claim(reader, &entry.value);
        if &*entry.key == "id"
            && let Some(path) = &path
        {
            warn_of_reused_id(reader, &entry.value, path, has_issuer);
        }
        members.push((entry.key.clone(), path));
    }
    let id = match members.iter().find(|(member, _)| &**member == "id") {
        Some((_, path)) => path.clone(),
        None if has_issuer => Some(default(default_id)),
        None => {
            reader.error(&node.at, no_id);
            None
        }
    };
    let others = members.into_iter().filter(|(member, _)| &**member != "id");
    let others: Option<_> = others.map(|(member, path)| Some((member, path?))).collect();
    Some(Members { id: id?, others: others? })
}

/// Warns of an id that a provider gives to another person some day.
fn warn_of_reused_id<'t>(reader: &mut Reader<'t>, node: &'t Node, path: &ClaimPath, has_issuer: bool) {
    let last = path.0.rsplit('.').next().unwrap_or_default();
    if !REUSED_CLAIMS.contains(&&*path.0) && !REUSED_CLAIMS.contains(&last) {
        return;
    }
    let identity = if has_issuer { "`sub` is the identity" } else { "a number such as `id` is the identity" };
    reader.warn(
        &node.at,
        format!(
            "providers let people change this, and give it to another person when a person leaves, who would then be that \
             person here: {identity}, and this can be a further member"
        ),
    );
}

/// The name of a claim.
fn read_claim<'t>(reader: &mut Reader<'t>, node: &'t Node) -> Option<ClaimPath> {
    let path = reader.text(node, "text: the name of a claim, such as email")?.as_str().parse::<ClaimPath>();
    if let Err(error) = &path {
        reader.error(&node.at, error.to_string());
    }
    path.ok()
}

fn read_domains<'t>(
    reader: &mut Reader<'t>,
    node: &'t Node,
    has_issuer: bool,
    scopes: Option<&[Box<str>]>,
) -> Option<Box<[Box<str>]>> {
    let list = reader.list(node, "a list of domains such as [example.com]")?;
    if !has_issuer && !list.is_empty() {
        reader.error(
            &node.at,
            "this needs `issuer`: plain OAuth 2 does not say whether a provider has verified an email",
        );
    }
    if has_issuer
        && !list.is_empty()
        && scopes.is_some_and(|scopes| !scopes.iter().any(|scope| **scope == *EMAIL_SCOPE))
    {
        reader.warn(
            &node.at,
            "`email` is not among `scopes`: most providers then send no email, and no person can log in",
        );
    }
    let mut domains: Vec<Box<str>> = Vec::with_capacity(list.len());
    let mut all_valid = has_issuer || list.is_empty();
    for node in list {
        let Some(text) = reader.text(node, "text: a domain such as example.com").map(Text::as_str) else {
            all_valid = false;
            continue;
        };
        let domain: Box<str> = text.to_ascii_lowercase().into();
        let problem = if text.contains('@') {
            "a domain is what stands behind the `@` of an email"
        } else if text.starts_with('.') {
            "a domain begins without a dot, and means itself alone: list those under it one by one"
        } else if !is_host_name(text) {
            "expected a domain such as example.com, of letters, digits and `-` (international ones begin with xn--)"
        } else if domains.contains(&domain) {
            "this domain stands in the list already"
        } else {
            domains.push(domain);
            continue;
        };
        reader.error(&node.at, problem);
        all_valid = false;
    }
    all_valid.then(|| domains.into())
}

/// `roles`.  `is_limited` says whether `allowed_domains` keeps others out.
fn read_roles<'t>(reader: &mut Reader<'t>, node: &'t Node, is_limited: bool) -> Option<Box<[ClaimRole]>> {
    let words = RoleWords {
        example: "a list such as [{claim: groups, value: admins, role: Admin}]",
        empty: "an empty list admits no one of the provider; {claim: \"*\", role: Viewer} is for everyone",
        same: "the same claim",
    };
    let examine = |reader: &mut Reader<'t>, node: &'t Node, role: &ClaimRole| {
        if role.fits_all() && !is_limited {
            reader.warn(
                &node.at,
                format!(
                    "everyone at this provider becomes {} {}: if anyone can create an account there, anyone can log \
                     in here; name a claim such as groups, or `allowed_domains`",
                    if role.role == Role::Viewer { "a" } else { "an" },
                    role.role.as_str()
                ),
            );
        }
    };
    people::read_roles(reader, node, &words, read_role, |role| role.requirement.as_ref(), examine)
}

impl ClaimRole {
    /// Whether it is for everyone whom the provider knows, as far as its claim's name tells.
    fn fits_all(&self) -> bool {
        match &self.requirement {
            None => true,
            Some((path, Requirement::Present)) => {
                CLAIMS_OF_ALL.contains(&&*path.0) || ["email", "email_verified"].contains(&&*path.0)
            }
            Some((path, Requirement::AnyOf(_))) => &*path.0 == "email_verified",
        }
    }
}

fn read_role<'t>(reader: &mut Reader<'t>, node: &'t Node) -> Option<ClaimRole> {
    let what = "a mapping such as {claim: groups, value: admins, role: Admin}";
    let fields = reader.fields(node, what, &schema::CLAIM_ROLE)?;
    let (claim, value) = (fields.get("claim"), fields.get("value"));
    if claim.is_none() || fields.get("role").is_none() {
        reader.error(
            fields.at,
            "an entry of `roles` has a `claim` with its `value` (or \"*\" for everyone) and a `role`",
        );
    }
    let requirement = claim.and_then(|node| {
        let text = reader.text(node, "text: the name of a claim, or \"*\"")?.as_str();
        match (text, value) {
            ("*", Some(value)) => {
                reader.error(&value.at, "`claim: \"*\"` matches everyone and has no `value`");
                None
            }
            ("*", None) => Some(None),
            (_, None) => {
                reader.error(
                    fields.at,
                    "a claim needs its `value`, such as admins, or a list; \"*\" matches everyone who has the \
                     claim",
                );
                None
            }
            (_, Some(value)) => {
                let (path, requirement) = (read_claim(reader, node), read_value(reader, value));
                Some(Some((path?, requirement?)))
            }
        }
    });
    let role = fields.get("role").and_then(|node| read_role_name(reader, node));
    Some(ClaimRole { requirement: requirement?, role: role? })
}

/// The condition of a claim.
fn read_value<'t>(reader: &mut Reader<'t>, node: &'t Node) -> Option<Requirement> {
    let elements = match &node.value {
        Value::List(list) => list.as_slice(),
        Value::Unresolved { .. } => return None,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Text(_) | Value::Map(_) => {
            std::slice::from_ref(node)
        }
    };
    for element in elements {
        match &element.value {
            Value::Null => {
                reader.error(&element.at, "null matches nothing; \"*\" matches everyone who has the claim");
                return None;
            }
            Value::Unresolved { .. } => return None,
            Value::Bool(_) | Value::Number(_) | Value::Text(_) | Value::List(_) | Value::Map(_) => {}
        }
    }
    if elements.is_empty() {
        reader.error(&node.at, "an empty list matches no one; \"*\" matches everyone who has the claim");
        return None;
    }
    let requirement = Requirement::new("value", &node.to_json());
    if requirement.is_err() {
        reader.expected(node, "a text, a number, true, false, or a list of these");
    }
    requirement.ok()
}

/// `ca`.  `None` when it is not valid.
fn read_ca<'t>(
    reader: &mut Reader<'t>,
    node: &'t Node,
    endpoints: Option<&Endpoints>,
) -> Option<Box<[CertificateDer<'static>]>> {
    let is_plain = |url: &str| HttpUrl::parse(url).is_ok_and(|url| !url.is_https);
    let are_plain = endpoints.is_some_and(|endpoints| match endpoints {
        Endpoints::OpenIdConnect { issuer } => is_plain(issuer),
        Endpoints::OAuth2 { auth_url: _, token_url, api_url } => is_plain(token_url) && is_plain(api_url),
    });
    if are_plain {
        reader.warn(&node.at, "this has no effect: the URLs of the provider do not use TLS");
    }
    tls::read_authorities(reader, node).map(Into::into)
}

/// See [`ProviderSettings::binding`].
fn binding(settings: &ProviderSettings) -> [u8; 32] {
    let endpoints = match &settings.endpoints {
        Endpoints::OpenIdConnect { issuer } => json!({"issuer": issuer}),
        Endpoints::OAuth2 { auth_url, token_url, api_url } => json!([auth_url, token_url, api_url]),
    };
    // JSON, so that no text can end one value and begin the next.
    let what = json!([endpoints, settings.client_id, settings.id.0, settings.plain_ids]);
    Sha256::digest(what.to_string()).into()
}
