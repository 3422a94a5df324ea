//! Translates Grafana's `ldap.toml` into the section `ldap` of ours.
//!
//! The translation never grants more than Grafana does: a mapping of a group that cannot be expressed is left out only
//! where no later one could then fit its people.  What has no counterpart is noted, and no password is printed.

use std::fmt;

use toml::{Table, Value};

use super::super::{Imported, tokens};
use super::GrafanaError;
use super::text::{Text, VARIABLE, quoted, shown_key};
use crate::config::LdapServer;
use crate::distinguished_name::{DistinguishedName, escape_value};
use crate::keys::Role;
use crate::secret::Secret;

/// The variables of the configuration that is printed.
const PASSWORD_VARIABLE: &str = "LDAP_BIND_PASSWORD";
const READER_VARIABLE: &str = "LDAP_BIND_DN";

/// The longest `timeout` of ours, in seconds.
const MAX_TIMEOUT: i64 = 60;

/// The settings of a server that are read.
const SERVER_KEYS: [&str; 20] = [
    "host",
    "port",
    "use_ssl",
    "start_tls",
    "tls_ciphers",
    "min_tls_version",
    "ssl_skip_verify",
    "root_ca_cert",
    "client_cert",
    "client_key",
    "bind_dn",
    "bind_password",
    "timeout",
    "search_filter",
    "search_base_dns",
    "group_search_filter",
    "group_search_base_dns",
    "group_search_filter_user_attribute",
    "attributes",
    "group_mappings",
];
/// The settings of `[servers.attributes]`.
const ATTRIBUTE_KEYS: [&str; 5] = ["name", "surname", "username", "member_of", "email"];
/// The settings of `[[servers.group_mappings]]`.
const MAPPING_KEYS: [&str; 4] = ["group_dn", "org_role", "org_id", "grafana_admin"];

/// Translates the text of the file.
///
/// # Errors
/// [`GrafanaError`]: the file is not of this kind, or a part without translation would grant more rights or let no one
/// in.
pub fn import(text: &str) -> Result<Imported, GrafanaError> {
    let document: Table = text.parse().map_err(|error| syntax_error(text, &error))?;
    let servers = match document.get("servers") {
        Some(Value::Array(servers)) if !servers.is_empty() => servers,
        _ => return Err(GrafanaError::NoServers),
    };
    let mut notes = Vec::new();
    let mut directory: Option<Directory> = None;
    for (index, server) in servers.iter().enumerate() {
        let table = Settings { path: format!("servers[{index}]"), table: server.as_table() };
        note_unknown_settings(&table, &mut notes)?;
        let mut own_notes = Vec::new();
        let translated = Directory::of(&table, &mut own_notes)?;
        match &mut directory {
            None => {
                notes.append(&mut own_notes);
                directory = Some(translated);
            }
            Some(first) => first.join(translated, &table.path, &mut notes),
        }
    }
    let directory = directory.ok_or(GrafanaError::NoServers)?;
    for key in document.keys().filter(|key| *key != "servers") {
        notes.push(format!("{}: left out: it is not a setting of a server", shown_key(key)));
    }
    notes.push(
        "ids of actors begin with `ldap:` here, such as ldap:ann; `ids: plain` in the section leaves that out".to_owned(),
    );
    notes.push(
        "`at_check: false` is written: Grafana asks the directory only on its log-in page, not at a gateway, \
         where strangers could guess passwords.  People log in on the page of `admin`, which needs `keys`; with \
         `session` among `credentials` the gateway accepts their session.  With `at_check: true` the gateway also \
         takes their passwords by HTTP Basic"
            .to_owned(),
    );
    tokens::check(&directory.sample()).map_err(GrafanaError::Invalid)?;
    Ok(Imported { config: directory.to_string(), notes })
}

fn syntax_error(text: &str, error: &toml::de::Error) -> GrafanaError {
    let start = error.span().map_or(0, |span| span.start).min(text.len());
    let before = text.get(..start).unwrap_or_default();
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    let mut problem = error.message().lines().next().unwrap_or_default().to_owned();
    if text.lines().nth(line - 1).is_some_and(|line| VARIABLE.is_match(line)) {
        problem.push_str("; a variable stands there without quotes: write its value instead");
    }
    GrafanaError::Syntax { line, column, problem }
}

/// Notes the keys of a server that Grafana does not have: a misspelt key has no effect here, as in Grafana.
fn note_unknown_settings(server: &Settings<'_>, notes: &mut Vec<String>) -> Result<(), GrafanaError> {
    server.note_unknown(&SERVER_KEYS, notes);
    server.inner("attributes")?.note_unknown(&ATTRIBUTE_KEYS, notes);
    for mapping in server.mappings()? {
        mapping.note_unknown(&MAPPING_KEYS, notes);
    }
    Ok(())
}

/// A table of the file, with its path for messages.
struct Settings<'t> {
    path: String,
    table: Option<&'t Table>,
}

impl<'t> Settings<'t> {
    fn error(&self, key: &str, problem: impl Into<String>) -> GrafanaError {
        GrafanaError::Setting { key: format!("{}.{key}", self.path), problem: problem.into() }
    }

    fn get(&self, key: &str) -> Option<&'t Value> {
        self.table.and_then(|table| table.get(key))
    }

    fn inner(&self, key: &str) -> Result<Settings<'t>, GrafanaError> {
        let table = match self.get(key) {
            None => None,
            Some(Value::Table(table)) => Some(table),
            Some(_) => return Err(self.error(key, "expected a table")),
        };
        Ok(Settings { path: format!("{}.{key}", self.path), table })
    }

    /// `group_mappings`, each with its path.
    fn mappings(&self) -> Result<Vec<Settings<'t>>, GrafanaError> {
        let mappings = match self.get("group_mappings") {
            None => [].as_slice(),
            Some(Value::Array(mappings)) => mappings,
            Some(_) => return Err(self.error("group_mappings", "expected [[servers.group_mappings]]")),
        };
        let settings = |(index, mapping): (usize, &'t Value)| Settings {
            path: format!("{}.group_mappings[{index}]", self.path),
            table: mapping.as_table(),
        };
        Ok(mappings.iter().enumerate().map(settings).collect())
    }

    /// Notes the keys that are none of these.
    fn note_unknown(&self, known: &[&str], notes: &mut Vec<String>) {
        for key in self.table.iter().flat_map(|table| table.keys()) {
            if !known.contains(&key.as_str()) {
                let key = shown_key(key);
                notes.push(format!("{}.{key}: left out: this program has no setting for it", self.path));
            }
        }
    }

    /// A text that is not empty.
    fn text(&self, key: &str) -> Result<Option<Text>, GrafanaError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(text)) if text.is_empty() => Ok(None),
            Some(Value::String(text)) => Text::of(text).map(Some).map_err(|problem| self.error(key, problem)),
            Some(_) => Err(self.error(key, "expected a text")),
        }
    }

    /// A text that is not a variable.
    fn plain_text(&self, key: &str) -> Result<Option<String>, GrafanaError> {
        match self.text(key)? {
            None => Ok(None),
            Some(Text::Plain(text)) => Ok(Some(text)),
            Some(Text::Variable(_) | Text::File(_)) => {
                Err(self.error(key, "a variable stands there: write its value instead"))
            }
        }
    }

    fn texts(&self, key: &str) -> Result<Vec<Text>, GrafanaError> {
        let list = match self.get(key) {
            None => return Ok(Vec::new()),
            Some(Value::Array(list)) => list,
            Some(_) => return Err(self.error(key, "expected a list of texts")),
        };
        let text = |value: &Value| match value {
            Value::String(text) => Text::of(text).map_err(|problem| self.error(key, problem)),
            _ => Err(self.error(key, "expected a list of texts")),
        };
        list.iter().map(text).collect()
    }

    fn boolean(&self, key: &str) -> Result<bool, GrafanaError> {
        match self.get(key) {
            None => Ok(false),
            Some(Value::Boolean(value)) => Ok(*value),
            Some(_) => Err(self.error(key, "expected true or false")),
        }
    }

    /// A whole number; 0 where it is not there.
    fn integer(&self, key: &str) -> Result<i64, GrafanaError> {
        match self.get(key) {
            None => Ok(0),
            Some(Value::Integer(value)) => Ok(*value),
            Some(_) => Err(self.error(key, "expected a whole number")),
        }
    }
}

/// How the directory is accessed.
#[derive(PartialEq, Eq)]
enum DirectoryAccess {
    None,
    Reader {
        name: Text,
        password: Password,
    },
    /// A name with `%s`.
    Person(String),
}

#[derive(PartialEq, Eq)]
enum Password {
    Reference(Text),
    /// It was in the file.
    Plain(Secret),
}

/// As YAML: what was in the file becomes a variable.
impl fmt::Display for Password {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reference(text) => write!(formatter, "{text}"),
            Self::Plain(_) => write!(formatter, "{{$env: {PASSWORD_VARIABLE}}}"),
        }
    }
}

#[derive(PartialEq, Eq)]
struct Groups {
    base: Vec<Text>,
    filter: Text,
    user_attribute: Option<Text>,
}

/// The section.
struct Directory {
    urls: Vec<String>,
    start_tls: bool,
    ca: Option<Text>,
    asker: DirectoryAccess,
    search_base: Vec<Text>,
    search_filter: Text,
    members: Vec<(&'static str, Text)>,
    groups: Option<Groups>,
    /// `None` is `"*"`.
    roles: Vec<(Option<Text>, Role)>,
    timeout: Option<i64>,
}

impl Directory {
    fn of(server: &Settings<'_>, notes: &mut Vec<String>) -> Result<Self, GrafanaError> {
        let (urls, start_tls) = read_urls(server, notes)?;
        note_tls(server, notes)?;
        let asker = read_asker(server, notes)?;
        let search_filter = server.text("search_filter")?;
        let search_filter = search_filter.ok_or_else(|| server.error("search_filter", "it is missing"))?;
        let search_base = server.texts("search_base_dns")?;
        if search_base.is_empty() {
            return Err(server.error("search_base_dns", "it is missing"));
        }
        let groups = match server.text("group_search_filter")? {
            None => None,
            Some(filter) => {
                let base = server.texts("group_search_base_dns")?;
                let base = if base.is_empty() { search_base.clone() } else { base };
                let user_attribute = server.text("group_search_filter_user_attribute")?;
                Some(Groups { base, filter, user_attribute })
            }
        };
        let members = read_members(server, &search_filter, groups.is_some(), notes)?;
        let timeout = match server.integer("timeout")? {
            0 => None,
            seconds if seconds > MAX_TIMEOUT => {
                notes.push(format!("{}.timeout: {MAX_TIMEOUT}s, which is the longest here", server.path));
                Some(MAX_TIMEOUT)
            }
            seconds => Some(seconds),
        };
        Ok(Self {
            urls,
            start_tls,
            ca: read_ca(server, notes)?,
            asker,
            search_base,
            search_filter,
            members,
            groups,
            roles: read_roles(server, notes)?,
            timeout,
        })
    }

    /// Adds a server of the same directory; one of another is left out.
    fn join(&mut self, other: Self, path: &str, notes: &mut Vec<String>) {
        let Self {
            urls,
            start_tls,
            ca,
            asker,
            search_base,
            search_filter,
            members,
            groups,
            roles,
            timeout: _,
        } = other;
        let settings = [
            ("root_ca_cert", self.ca == ca),
            ("bind_dn or bind_password", self.asker == asker),
            ("search_base_dns", self.search_base == search_base),
            ("search_filter", self.search_filter == search_filter),
            ("attributes", self.members == members),
            ("the group search", self.groups == groups),
            ("group_mappings", self.roles == roles),
        ];
        let others: Vec<_> = settings.iter().filter(|(_, is_same)| !is_same).map(|(name, _)| *name).collect();
        if !others.is_empty() {
            notes.push(format!(
                "{path}: left out: `url` lists servers of one directory, and this one has other settings: {}; in Grafana \
                 people whom the first does not know are searched there",
                others.join(", ")
            ));
            return;
        }
        self.start_tls |= start_tls;
        for url in urls {
            if !self.urls.contains(&url) {
                self.urls.push(url);
            }
        }
        notes.push(format!("{path}: its hosts are tried after those of the first server"));
    }

    /// The section as YAML, each text and the CA's file as these say.
    fn render(&self, text: &dyn Fn(&Text, Place) -> String, ca: Option<String>) -> String {
        let list = |texts: &[Text]| {
            let texts: Vec<_> = texts.iter().map(|one| text(one, Place::Name)).collect();
            format!("[{}]", texts.join(", "))
        };
        let urls: Vec<_> = self.urls.iter().map(|url| quoted(url)).collect();
        let mut lines = vec![format!("url: [{}]", urls.join(", "))];
        if self.start_tls {
            lines.push("start_tls: true".to_owned());
        }
        lines.extend(ca.map(|ca| format!("ca: {ca}")));
        match &self.asker {
            DirectoryAccess::None => {}
            DirectoryAccess::Reader { name, password } => {
                lines.push(format!("bind_dn: {}", text(name, Place::Name)));
                lines.push(format!("bind_password: {password}"));
            }
            DirectoryAccess::Person(template) => lines.push(format!("bind_dn: {}", quoted(template))),
        }
        lines.push(format!("search_base: {}", list(&self.search_base)));
        lines.push(format!("search_filter: {}", text(&self.search_filter, Place::Filter)));
        let members = self.members.iter();
        let members: Vec<_> = members
            .map(|(member, attribute)| format!("{member}: {}", text(attribute, Place::Attribute)))
            .collect();
        lines.push(format!("members: {{{}}}", members.join(", ")));
        if let Some(Groups { base, filter, user_attribute }) = &self.groups {
            let attribute = user_attribute.as_ref().map(|attribute| text(attribute, Place::Attribute));
            let attribute = attribute.map(|attribute| format!(", user_attribute: {attribute}"));
            lines.push(format!(
                "group_search: {{base: {}, filter: {}{}}}",
                list(base),
                text(filter, Place::Filter),
                attribute.unwrap_or_default()
            ));
        }
        lines.push(
            "# If true, Checks ask the directory about passwords.  With Grafana no gateway did.".to_owned(),
        );
        lines.push("at_check: false".to_owned());
        lines.push("roles:".to_owned());
        for (group, role) in &self.roles {
            let group = group.as_ref().map_or_else(|| quoted("*"), |group| text(group, Place::Name));
            lines.push(format!("- {{group: {group}, role: {}}}", role.as_str()));
        }
        lines.extend(self.timeout.map(|seconds| format!("timeout: {seconds}s")));
        let lines: String = lines.iter().map(|line| format!("  {line}\n")).collect();
        format!("ldap:\n{lines}")
    }

    /// The section for our own reader, with an example for each reference.
    fn sample(&self) -> String {
        let sample = |text: &Text, place: Place| match (text, place) {
            (Text::Plain(_), _) => text.to_string(),
            (Text::Variable(name) | Text::File(name), Place::Name) => {
                quoted(&format!("cn={}", escape_value(name)))
            }
            (Text::Variable(_) | Text::File(_), Place::Filter) => quoted("(uid=%s)"),
            (Text::Variable(_) | Text::File(_), Place::Attribute) => quoted("uid"),
        };
        self.render(&sample, None)
    }
}

/// The kind of a text.
#[derive(Clone, Copy)]
enum Place {
    /// The name of an entry.
    Name,
    Filter,
    Attribute,
}

impl fmt::Display for Directory {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("# Grafana's ldap.toml, by `envoy-auth-tokens import grafana`.\n")?;
        let ca = self.ca.as_ref().map(ToString::to_string);
        formatter.write_str(&self.render(&|text, _| text.to_string(), ca))
    }
}

/// `url`, and whether StartTLS is used.
fn read_urls(server: &Settings<'_>, notes: &mut Vec<String>) -> Result<(Vec<String>, bool), GrafanaError> {
    let host = server.plain_text("host")?.ok_or_else(|| server.error("host", "it is missing"))?;
    let port = server.integer("port")?;
    let (use_ssl, start_tls) = (server.boolean("use_ssl")?, server.boolean("start_tls")?);
    let (scheme, default_port) = if use_ssl && !start_tls { ("ldaps", 636) } else { ("ldap", 389) };
    let mut urls = Vec::new();
    let mut all_local = true;
    for host in host.split_whitespace() {
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        let port = if port == 0 || port == default_port { String::new() } else { format!(":{port}") };
        let url = format!("{scheme}://{host}{port}");
        let parsed = url.parse::<LdapServer>().map_err(|error| server.error("host", error.to_string()))?;
        all_local &= parsed.is_local();
        urls.push(url);
    }
    if urls.is_empty() {
        return Err(server.error("host", "it is missing"));
    }
    if use_ssl {
        return Ok((urls, start_tls));
    }
    if start_tls {
        notes.push(format!(
            "{}.start_tls: Grafana uses it with `use_ssl` only, and sent passwords in plain text; here it is used, so the \
             server must offer StartTLS with a certificate that is trusted",
            server.path
        ));
        return Ok((urls, true));
    }
    if !all_local {
        notes.push(format!(
            "{}.use_ssl: Grafana sent passwords over the network in plain text, which is not possible here: \
             `start_tls: true` is written, so the server must offer StartTLS with a certificate that is trusted; or write ldaps://",
            server.path
        ));
    }
    Ok((urls, !all_local))
}

/// Notes the settings of TLS that have no counterpart.
fn note_tls(server: &Settings<'_>, notes: &mut Vec<String>) -> Result<(), GrafanaError> {
    if server.boolean("ssl_skip_verify")? {
        notes.push(format!(
            "{}.ssl_skip_verify: left out: no switch turns verification off here, since an attacker on the network would receive \
             every password; name the CA of the server's certificate in `ca`",
            server.path
        ));
    }
    if server.text("client_cert")?.is_some() || server.text("client_key")?.is_some() {
        notes.push(format!(
            "{}.client_cert: left out: this server presents no certificate to the directory; if the directory \
             asks for one, use `bind_dn` and `bind_password`",
            server.path
        ));
    }
    if !server.texts("tls_ciphers")?.is_empty() || server.text("min_tls_version")?.is_some() {
        notes.push(format!(
            "{}.tls_ciphers, min_tls_version: left out: TLS 1.2 and 1.3 are used, with the ciphers of rustls",
            server.path
        ));
    }
    Ok(())
}

fn read_ca(server: &Settings<'_>, notes: &mut Vec<String>) -> Result<Option<Text>, GrafanaError> {
    let Some(ca) = server.text("root_ca_cert")? else {
        return Ok(None);
    };
    let Some(path) = ca.plain() else {
        return Ok(Some(ca));
    };
    if path.split_whitespace().count() > 1 {
        return Err(
            server.error("root_ca_cert", "`ca` is one file: put these certificates into one, and name that")
        );
    }
    if !path.starts_with('/') {
        notes.push(format!(
            "{}.root_ca_cert: its path starts at the new configuration's folder, no longer where Grafana runs",
            server.path
        ));
    }
    Ok(Some(ca))
}

fn read_asker(server: &Settings<'_>, notes: &mut Vec<String>) -> Result<DirectoryAccess, GrafanaError> {
    let name = server.text("bind_dn")?;
    let password = read_password(server)?;
    let direct = name.as_ref().and_then(Text::plain).filter(|name| name.contains("%s"));
    if let Some(template) = direct {
        if template.parse::<DistinguishedName>().is_ok() {
            if password.is_some() {
                notes.push(format!(
                    "{}.bind_password: left out: with `%s` in bind_dn each person binds with their own password",
                    server.path
                ));
            }
            return Ok(DirectoryAccess::Person(template.to_owned()));
        }
        notes.push(format!(
            "{}.bind_dn: `%s` is used in a form that does not name an entry, as Active Directory allows, but \
             this server must know the entry that was bound: a reader searches instead; set {READER_VARIABLE} and {PASSWORD_VARIABLE} to its \
             name and password",
            server.path
        ));
        let password = Password::Reference(Text::Variable(PASSWORD_VARIABLE.to_owned()));
        return Ok(DirectoryAccess::Reader { name: Text::Variable(READER_VARIABLE.to_owned()), password });
    }
    match (name, password) {
        (Some(name), Some(password)) => {
            if let Password::Plain(_) = password {
                notes.push(format!(
                    "{}.bind_password: it is not printed: set the variable {PASSWORD_VARIABLE}",
                    server.path
                ));
            }
            Ok(DirectoryAccess::Reader { name, password })
        }
        (Some(_), None) => {
            notes.push(format!(
                "{}.bind_dn: left out: a directory treats it as anonymous without a password, so searches are \
                 anonymous",
                server.path
            ));
            Ok(DirectoryAccess::None)
        }
        (None, Some(_)) => {
            notes.push(format!(
                "{}.bind_password: left out: there is no bind_dn, so searches are anonymous",
                server.path
            ));
            Ok(DirectoryAccess::None)
        }
        (None, None) => Ok(DirectoryAccess::None),
    }
}

fn read_password(server: &Settings<'_>) -> Result<Option<Password>, GrafanaError> {
    let written = match server.get("bind_password") {
        None => return Ok(None),
        Some(Value::String(text)) if text.is_empty() => return Ok(None),
        Some(Value::String(text)) => text,
        Some(_) => return Err(server.error("bind_password", "expected a text")),
    };
    // One with a variable in it is not printed either.
    Ok(Some(match Text::of(written) {
        Ok(Text::Plain(_)) | Err(_) => Password::Plain(Secret::new(written.clone())),
        Ok(reference @ (Text::Variable(_) | Text::File(_))) => Password::Reference(reference),
    }))
}

fn read_members(
    server: &Settings<'_>,
    search_filter: &Text,
    has_group_search: bool,
    notes: &mut Vec<String>,
) -> Result<Vec<(&'static str, Text)>, GrafanaError> {
    let attributes = server.inner("attributes")?;
    let id = match attributes.text("username")? {
        Some(attribute) => attribute,
        None => {
            let searched = search_filter.plain().and_then(|filter| {
                let attribute = filter.strip_prefix('(')?.strip_suffix("=%s)")?;
                attribute
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
                    .then_some(attribute)
            });
            let attribute = searched.unwrap_or("uid");
            notes.push(format!(
                "{}.username: it is missing: {attribute} is the id of people (`members.id`)",
                attributes.path
            ));
            Text::Plain(attribute.to_owned())
        }
    };
    let mut members = vec![("id", id)];
    for (key, member) in [("name", "name"), ("surname", "surname"), ("email", "email")] {
        members.extend(attributes.text(key)?.map(|attribute| (member, attribute)));
    }
    if members.iter().any(|(member, _)| *member == "surname") {
        notes.push(format!(
            "{}.surname: a separate member: Grafana appends it to the name; if entries have the whole name, as \
             in displayName or cn, use that attribute for `name`",
            attributes.path
        ));
    }
    let groups = attributes.text("member_of")?;
    if !has_group_search {
        match groups {
            Some(attribute) => members.push(("groups", attribute)),
            None => notes.push(format!(
                "{}.member_of: it is missing: groups are read from memberOf, which Grafana did not do",
                attributes.path
            )),
        }
        return Ok(members);
    }
    // With a group search it says what of the groups is compared.
    let is_name = |text: &str| {
        ["memberof", "dn", "entrydn", "distinguishedname"].contains(&text.to_ascii_lowercase().as_str())
    };
    if groups.is_some_and(|attribute| !attribute.plain().is_some_and(is_name)) {
        return Err(attributes.error(
            "member_of",
            "with a group search Grafana compares this attribute of groups with `group_dn`, and names of entries are compared \
             here: write \"dn\", and in each `group_dn` the group's whole name",
        ));
    }
    members.push(("groups", Text::Plain("memberOf".to_owned())));
    notes.push(format!(
        "{}.group_search_filter: groups that an entry names in memberOf count in addition to those that are \
         found",
        server.path
    ));
    Ok(members)
}

/// `roles`: the mappings of the first organization.
fn read_roles(
    server: &Settings<'_>,
    notes: &mut Vec<String>,
) -> Result<Vec<(Option<Text>, Role)>, GrafanaError> {
    let mappings = server.mappings()?;
    if mappings.is_empty() {
        notes.push(format!(
            "{}.group_mappings: there are none: every person becomes a Viewer, as in Grafana by default",
            server.path
        ));
        return Ok(vec![(None, Role::Viewer)]);
    }
    let mut roles: Vec<(Option<Text>, Role)> = Vec::new();
    // The first that has no counterpart.
    let mut left_out: Option<(String, &'static str)> = None;
    for mapping in mappings {
        let org = mapping.integer("org_id")?;
        if !matches!(org, 0 | 1) {
            notes.push(format!(
                "{}: left out: it belongs to organization {org}, and this server has only one organization",
                mapping.path
            ));
            continue;
        }
        if mapping.boolean("grafana_admin")? {
            notes.push(format!("{}.grafana_admin: left out: only the role counts", mapping.path));
        }
        let Some(role) = mapping.plain_text("org_role")? else {
            notes.push(format!("{}: left out: it gives no role", mapping.path));
            continue;
        };
        if roles.last().is_some_and(|(group, _)| group.is_none()) {
            notes.push(format!("{}: left out: `*` above matches everyone", mapping.path));
            continue;
        }
        let translated = read_mapping(&mapping, &role)?;
        match (translated, &left_out) {
            (Ok(_), Some((path, why))) => {
                return Err(GrafanaError::Setting {
                    key: path.clone(),
                    problem: format!(
                        "{why}; if it were left out, its people could get the role of a later \
                         mapping"
                    ),
                });
            }
            (Ok(entry), None) => roles.push(entry),
            (Err(why), _) => {
                notes.push(format!("{}: left out: {why}", mapping.path));
                left_out.get_or_insert((mapping.path, why));
            }
        }
    }
    if roles.is_empty() {
        return Err(server.error("group_mappings", "none of them gives a role here: no person could log in"));
    }
    Ok(roles)
}

/// An entry of `roles`, or why there is none.
fn read_mapping(
    mapping: &Settings<'_>,
    role: &str,
) -> Result<Result<(Option<Text>, Role), &'static str>, GrafanaError> {
    let Some(role) = Role::parse(role) else {
        return Ok(Err("its `org_role` is none of Viewer, Editor and Admin"));
    };
    let Some(group) = mapping.text("group_dn")? else {
        return Ok(Err("it has no `group_dn`"));
    };
    Ok(match group.plain() {
        Some("*") => Ok((None, role)),
        Some(name) if name.parse::<DistinguishedName>().is_err() => {
            Err("its `group_dn` is not the whole name of an entry")
        }
        Some(_) | None => Ok((Some(group), role)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn imported(text: &str) -> (String, String) {
        let Imported { config, notes } = import(text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        (config, notes.join("\n"))
    }

    fn server(more: &str) -> String {
        format!(
            "[[servers]]\nhost = 'ldap.example.com'\nuse_ssl = true\nsearch_filter = '(uid=%s)'\n\
             search_base_dns = ['dc=example']\n{more}\n[servers.attributes]\nusername = 'uid'\nmember_of = 'memberOf'\n"
        )
    }

    fn error(text: &str) -> String {
        match import(text) {
            Ok(Imported { config, .. }) => panic!("{text}\n{config}"),
            Err(error) => error.to_string(),
        }
    }

    #[cfg(feature = "ldap")]
    #[test]
    fn variables_become_references_and_passwords_are_not_printed() {
        for (written, printed) in [
            ("'${LDAP_PW}'", "{$env: \"LDAP_PW\"}"),
            ("'$__env{LDAP_PW}'", "{$env: \"LDAP_PW\"}"),
            ("'$__file{/run/secrets/ldap}'", "{$file: \"/run/secrets/ldap\"}"),
            ("'hunter2'", "{$env: LDAP_BIND_PASSWORD}"),
            ("'hunter2${MORE}'", "{$env: LDAP_BIND_PASSWORD}"),
            ("'$__vault{kv:secret/ldap:hunter2}'", "{$env: LDAP_BIND_PASSWORD}"),
        ] {
            let (config, notes) =
                imported(&server(&format!("bind_dn = '${{READER}}'\nbind_password = {written}")));
            assert!(config.contains(&format!("bind_password: {printed}\n")), "{config}");
            assert!(config.contains("bind_dn: {$env: \"READER\"}\n"), "{config}");
            assert!(!config.contains("hunter2") && !notes.contains("hunter2"), "{config}\n{notes}");
            assert_eq!(
                notes.contains("set the variable LDAP_BIND_PASSWORD"),
                printed.contains("BIND_PASSWORD")
            );
        }
    }

    #[cfg(feature = "ldap")]
    #[test]
    fn a_mapping_without_counterpart_is_left_out_only_where_no_one_gains_rights() {
        let mapping =
            |group: &str, more: &str| format!("[[servers.group_mappings]]\ngroup_dn = '{group}'\n{more}\n");
        let of = |mappings: &[String]| server("") + &mappings.concat();
        let admins = || mapping("cn=admins,dc=example", "org_role = 'Admin'");
        let (config, notes) = imported(&of(&[
            mapping("cn=roots,dc=example", "org_role = 'Admin'\norg_id = 2"),
            mapping("cn=roots,dc=example", "grafana_admin = true"),
            admins(),
            mapping("sudoers", "org_role = 'Editor'"),
        ]));
        assert!(config.ends_with("roles:\n  - {group: \"cn=admins,dc=example\", role: Admin}\n"), "{config}");
        for part in [
            "[0]: left out: it belongs to organization 2",
            "[1].grafana_admin",
            "[1]: left out: it gives",
            "[3]: left out: its `group_dn`",
        ] {
            assert!(notes.contains(&format!("servers[0].group_mappings{part}")), "{part}\n{notes}");
        }
        for bad in [mapping("sudoers", "org_role = 'Viewer'"), mapping("cn=a", "org_role = 'None'")] {
            let error = error(&of(&[bad, admins()]));
            assert!(
                error.starts_with("servers[0].group_mappings[0]: its ") && error.contains("a later mapping"),
                "{error}"
            );
        }
        let all = mapping("*", "org_role = 'Viewer'");
        let (config, notes) = imported(&of(&[all, admins(), mapping("sudoers", "org_role = 'Admin'")]));
        assert!(config.ends_with("roles:\n  - {group: \"*\", role: Viewer}\n"), "{config}");
        assert!(notes.contains("[1]: left out: `*`") && notes.contains("[2]: left out: `*`"), "{notes}");
        let (config, _) = imported(&server(""));
        assert!(config.contains("- {group: \"*\", role: Viewer}"), "{config}");
        let none = mapping("cn=a", "org_role = 'Admin'\norg_id = 3");
        assert!(error(&of(&[none])).contains("no person could log in"));
    }

    #[cfg(feature = "ldap")]
    #[test]
    fn keys_that_nothing_reads_are_named_at_every_level() {
        let text = format!(
            "verbose_logging = true\n[log]\nfilters = 'ldap:debug'\n{}{}{}",
            server("serch_filter = 'hunter2'\nbindDN = 'hunter2'\nhunter2-7Xq9ZvKw3Lm5 = 1"),
            "groups = 'hunter2'\n[[servers.group_mappings]]\ngroup_dn = '*'\norg_role = 'Viewer'\norg = 'hunter2'\n",
            // Its settings are the first one's, and its hosts join them.
            server("")
                .replace("ldap.example.com", "other.example.com")
                .replace("username = ", "nickname = 'hunter2'\nusername = ")
                + "[[servers.group_mappings]]\ngroup_dn = '*'\norg_role = 'Viewer'\n",
        );
        let (config, notes) = imported(&text);
        for path in [
            "servers[0].serch_filter",
            "servers[0].bindDN",
            "servers[0].***",
            "servers[0].attributes.groups",
            "servers[0].group_mappings[0].org",
            "servers[1].attributes.nickname",
            "verbose_logging",
            "log",
        ] {
            assert!(
                notes.lines().any(|note| note.starts_with(&format!("{path}: left out: "))),
                "{path}\n{notes}"
            );
        }
        assert!(config.contains("other.example.com") && !config.contains("hunter2"), "{config}");
        assert!(!notes.contains("hunter2"), "{notes}");
        // What is known is not named as unknown.
        assert_eq!(notes.matches("this program has no setting for it").count(), 6, "{notes}");
    }

    #[cfg(feature = "ldap")]
    #[test]
    fn checks_do_not_ask_the_directory_unless_the_operator_says_so() {
        let (config, notes) = imported(&server(""));
        assert!(config.contains("\n  at_check: false\n"), "{config}");
        assert!(
            notes.contains("`at_check: false` is written") && notes.contains("`at_check: true`"),
            "{notes}"
        );
    }

    #[cfg(feature = "ldap")]
    #[test]
    fn what_crosses_the_network_is_encrypted() {
        let plain = |host: &str, more: &str| {
            let text = server(more).replace("use_ssl = true\n", "").replace("ldap.example.com", host);
            imported(&text)
        };
        let (config, notes) = plain("127.0.0.1 localhost", "port = 1389");
        assert!(config.contains("url: [\"ldap://127.0.0.1:1389\", \"ldap://localhost:1389\"]\n"), "{config}");
        assert!(!config.contains("start_tls") && !notes.contains("plain text"), "{config}\n{notes}");
        for more in ["", "start_tls = true"] {
            let (config, notes) = plain("10.0.0.1", more);
            assert!(config.contains("url: [\"ldap://10.0.0.1\"]\n  start_tls: true\n"), "{config}");
            assert!(notes.contains("plain text"), "{notes}");
        }
        let (config, notes) = imported(&server("port = 636\nssl_skip_verify = true"));
        assert!(config.contains("url: [\"ldaps://ldap.example.com\"]\n"), "{config}");
        assert!(notes.contains("no switch turns verification off"), "{notes}");
        let (config, _) = imported(&server("start_tls = true").replace("ldap.example.com", "[2001:db8::1]"));
        assert!(config.contains("url: [\"ldap://[2001:db8::1]\"]\n  start_tls: true\n"), "{config}");
    }

    #[test]
    fn what_has_no_translation_is_named_without_a_secret() {
        for (text, part) in [
            (String::new(), "no [[servers]]"),
            ("servers = []".to_owned(), "no [[servers]]"),
            ("[[servers]]\nbind_password = 'hunter2\n".to_owned(), "line 2, column "),
            ("[[servers]]\nport = ${PORT}\n".to_owned(), "a variable stands there without quotes"),
            ("[[servers]]\nport = 389\n".to_owned(), "servers[0].host: it is missing"),
            (
                server("").replace("'ldap.example.com'", "'ldap.${DOMAIN}'"),
                "servers[0].host: a variable inside other text",
            ),
            (
                server("").replace("'ldap.example.com'", "'${HOST}'"),
                "servers[0].host: a variable stands there",
            ),
            (server("").replace("'ldap.example.com'", "'ldap://a'"), "servers[0].host: "),
            (server("").replace("'(uid=%s)'", "''"), "servers[0].search_filter: it is missing"),
            (server("").replace("['dc=example']", "[]"), "servers[0].search_base_dns: it is missing"),
            (
                server("").replace("['dc=example']", "'dc=example'"),
                "servers[0].search_base_dns: expected a list",
            ),
            (server("bind_password = 5"), "servers[0].bind_password: expected a text"),
            (server("root_ca_cert = 'a.pem b.pem'"), "servers[0].root_ca_cert: `ca` is one file"),
            (server("timeout = 'long'"), "servers[0].timeout: expected a whole number"),
            (
                server("group_search_filter = '(memberUid=%s)'").replace("'memberOf'", "'cn'"),
                "attributes.member_of: with a",
            ),
        ] {
            let error = error(&text);
            assert!(error.contains(part) && !error.contains("hunter2"), "{text}\n{error}");
        }
    }
}
