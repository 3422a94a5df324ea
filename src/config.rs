//! The configuration file as plain, valid values.
//!
//! A file is read in two steps.  `raw` parses the text and `secrets` replaces secret references by their
//! values.  Then one function a section checks what the section means; it reports an error and goes on, so
//! that one load reports all errors ([`Errors`]).  A [`Config`] that exists can be served.
//!
//! Nothing here knows of a running process: tables by digest or name, password hashes and versions are made
//! from these values by [`crate::snapshot`].

mod actors;
mod admin;
mod credentials;
mod datasette;
mod envoy_headers;
mod error;
mod files;
mod foreign;
mod headers;
mod keys;
mod ldap;
mod listeners;
mod oauth;
mod people;
mod plain;
mod policies;
mod positions;
mod raw;
mod reader;
mod redact;
mod restrictions;
mod routes;
mod schema;
mod secrets;
mod session;
mod startup;
mod syntax;
mod tls;
mod tokens;
mod url;
mod users;

#[cfg(test)]
mod fixtures;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use sha2::{Digest, Sha256};
use zeroize::{Zeroize, Zeroizing};

use crate::actor::Actor;
use crate::actor::header::{ActorHeader, ActorHeaders};
use crate::credential::{CredentialLocation, CredentialLocations};
use crate::file_problem::Unreadable;
use crate::keys::store::StoreUrl;
use crate::keys::{KeySettings, SessionScope};
use crate::policy::{Policies, Policy};

pub use self::admin::{
    AdminListen, AdminRules, LoginHost, PublicUrl, PublicUrlError, SessionRules, is_secure, session_cookies,
    session_cookies_of_others,
};
pub use self::envoy_headers::EnvoyHeaders;
pub use self::error::{Diagnostic, Errors, Position, RedactedLine, Severity};
pub use self::files::{Files, PipeHandling};
pub use self::ldap::{Bind, GroupRole, GroupSearch, LdapServer, LdapServerError, LdapSettings};
pub use self::listeners::{ExtAuthz, Listen, ListenError, Probes, parse_size};
pub use self::oauth::{ClaimPath, ClaimPathError, ClaimRole, Endpoints, ProviderSettings};
pub use self::positions::Positions;
pub use self::restrictions::{Restrictions, TextDigest};
pub use self::schema::json::json_schema;
pub use self::secrets::{Environment, MAX_FILE_BYTES, ProcessEnvironment};
pub use self::startup::NeedsRestart;
pub use self::tls::{ClientCa, ServerTls, SubjectName, Tls, Transport};
pub use self::tokens::ConfiguredToken;
pub use self::users::{ConfiguredPassword, ConfiguredUser};

use self::admin::AdminSection;
use self::credentials::Sessions;
use self::files::RecordingEnvironment;
use self::keys::KeysSection;
use self::ldap::LdapSection;
use self::raw::{Node, Text, Value};
pub use self::reader::nearest;
use self::reader::{Fields, Reader, alternatives};
use self::routes::PolicySections;
use self::syntax::SyntaxError;

/// The maximum size of a configuration, in bytes: a million tokens fit.  It bounds the reading of endless files.
pub const MAX_CONFIG_BYTES: usize = 256 * 1024 * 1024;

/// A valid configuration.
pub struct Config {
    /// The settings that need a restart.
    pub startup: Startup,
    /// The sections that a reload replaces.
    pub rules: Rules,
    /// The TLS settings of the listeners, which a reload replaces, too.
    pub tls: Tls,
    /// The warnings, in the order of the lines.
    pub warnings: Vec<Diagnostic>,
    /// Every file that a `$file` or a `tls` section names, in alphabetical order.
    pub files: Vec<PathBuf>,
    /// The parts that narrow access.  A reload that loses them is held back.
    pub restrictions: Restrictions,
    /// The SHA-256 of the file, in hexadecimal digits, as `sha256sum` prints it.
    pub sha256: String,
}

/// Settings that cannot change while the process runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Startup {
    /// `ext_authz`: the listener for Checks.
    pub ext_authz: ExtAuthz,
    /// `probes`: the listener for health and metrics.
    pub probes: Probes,
    /// `admin`: the listener of the admin API, if there is one.
    pub admin: Option<AdminListen>,
    /// `keys`: the store of issued keys and sessions, if there is one.
    pub keys: Option<KeyStore>,
}

/// The store of issued keys and sessions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyStore {
    /// `keys.store`.
    pub url: StoreUrl,
    /// `keys.read_only`: nothing is ever written to it.
    pub read_only: bool,
}

/// The sections that a decision reads.
pub struct Rules {
    /// `tokens`.
    pub tokens: Vec<ConfiguredToken>,
    /// `users`.
    pub users: Vec<ConfiguredUser>,
    /// `credentials`: where a request may carry a credential.
    pub locations: CredentialLocations,
    /// `forward_credentials`: whether the upstream sees the credential.
    pub forward_credentials: bool,
    /// `unknown_credentials`.
    pub unknown_credentials: UnknownCredentials,
    /// `allow_cors_preflight`: whether a preflight passes as anonymous.
    pub allow_cors_preflight: bool,
    /// `realm`: printable ASCII without quotes and backslash, fit for `WWW-Authenticate`.
    pub realm: Box<str>,
    /// `policies`, `routes`, `default` and `paths`.
    pub policies: Policies,
    /// `keys`, without the settings that need a restart.
    pub keys: Option<KeySettings>,
    /// `keys.unavailable`.
    pub unavailable: Unavailable,
    /// `admin`, without its listener.
    pub admin: Option<Arc<AdminRules>>,
    /// `actor_headers`.
    pub actor_headers: ActorHeaders,
    /// `ldap`.
    pub ldap: Option<Arc<LdapSettings>>,
    /// `oauth`.
    pub providers: Arc<[Arc<ProviderSettings>]>,
    /// `session`.
    pub session: Arc<SessionRules>,
}

/// What becomes of a well-formed token that is unknown (`unknown_credentials`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnknownCredentials {
    /// Denied.
    Deny,
    /// It may be the upstream's: the request is anonymous, and keeps the token.
    Anonymous,
}

/// The answer when a token may be an API key and the store cannot be read (`keys.unavailable`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unavailable {
    /// A denial with status 503, whatever Envoy's `failure_mode_allow` says.
    Deny,
    /// An error, so that Envoy's `failure_mode_allow` decides.
    Error,
}

/// What the process that loads a configuration does with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Serves {
    /// Everything that the file has a section for.
    Everything,
    /// Decisions alone, inside Envoy's process.  `ext_authz`, `probes` and `oauth` are not looked at, and of `admin` no
    /// certificate is read: their secrets are those of the server.
    Decisions {
        /// Whether the store of keys is only read, whatever `keys.read_only` says.
        read_only: bool,
    },
}

/// The result of a load.
pub struct Loaded {
    /// The configuration, or its errors.
    pub outcome: Result<Config, Errors>,
    /// Every file that was read or could not be, those of an invalid configuration included: a change to one of them may
    /// make it valid.
    pub files: Files,
}

/// The source of a configuration.
#[derive(Clone, Copy)]
pub struct Source<'s> {
    /// The file's path, for messages.  Relative paths in the configuration start at its folder.
    pub file: &'s Path,
    /// The source of secret references' values.
    pub environment: &'s dyn Environment,
    /// The time against which expiries are checked.
    pub now: Timestamp,
}

impl Config {
    /// Reads and checks a configuration file.
    ///
    /// # Errors
    /// [`Errors`]: the file cannot be read, or every problem in it.
    pub fn load(path: &Path) -> Result<Self, Errors> {
        Self::load_recording_files(path, PipeHandling::Read).outcome
    }

    /// As [`Config::load`], with the files that were read.  A reload must not read pipes.
    pub fn load_recording_files(path: &Path, pipes: PipeHandling) -> Loaded {
        Self::load_for(path, pipes, Serves::Everything)
    }

    /// As [`Config::load_recording_files`], for a process that serves this.
    pub fn load_for(path: &Path, pipes: PipeHandling, serves: Serves) -> Loaded {
        let recording =
            RecordingEnvironment { environment: &ProcessEnvironment, pipes, files: RefCell::default() };
        let outcome = Self::read_file(path, &recording, serves);
        let mut files = recording.files.into_inner();
        for file in outcome.iter().flat_map(|config| &config.files) {
            files.record_now(file);
        }
        Loaded { outcome, files }
    }

    fn read_file(path: &Path, recording: &RecordingEnvironment<'_>, serves: Serves) -> Result<Self, Errors> {
        let text = text_of(path, recording.read(path, MAX_CONFIG_BYTES + 1))?;
        Self::parse_for(&text, &Source { file: path, environment: recording, now: Timestamp::now() }, serves)
    }

    /// The listeners of a configuration, whatever else is wrong with it: a server may still run with the configuration that
    /// it had before.
    ///
    /// # Errors
    /// [`Errors`]: the file cannot be read, is not YAML, or its listeners are not valid.
    pub fn load_listeners(path: &Path) -> Result<Startup, Errors> {
        let text = text_of(path, ProcessEnvironment.read(path, MAX_CONFIG_BYTES + 1))?;
        let source = Source { file: path, environment: &ProcessEnvironment, now: Timestamp::now() };
        ParsedDocument::parse(&text, &source, Serves::Everything)?.into_startup()
    }

    /// A configuration with the positions of its keys, which a running server does not need.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn load_with_positions(path: &Path) -> Result<(Self, Positions), Errors> {
        let text = text_of(path, ProcessEnvironment.read(path, MAX_CONFIG_BYTES + 1))?;
        let source = Source { file: path, environment: &ProcessEnvironment, now: Timestamp::now() };
        Ok((Self::parse(&text, &source)?, Positions::of(&text, &source)))
    }

    /// Checks a configuration text.
    ///
    /// # Errors
    /// [`Errors`]: every problem in it, or one syntax error.
    pub fn parse(text: &str, source: &Source<'_>) -> Result<Self, Errors> {
        Self::parse_for(text, source, Serves::Everything)
    }

    /// As [`Config::parse`], for a process that serves this.
    ///
    /// # Errors
    /// As [`Config::parse`].
    pub fn parse_for(text: &str, source: &Source<'_>, serves: Serves) -> Result<Self, Errors> {
        let mut config = ParsedDocument::parse(text, source, serves)?.into_config(text)?;
        if let Serves::Decisions { read_only } = serves {
            config.startup.admin = None;
            if let Some(keys) = &mut config.startup.keys {
                keys.read_only |= read_only;
            }
        }
        Ok(config)
    }
}

/// Reads a YAML or JSON file of another program.  Secret references are not resolved.
///
/// # Errors
/// [`Errors`]: it cannot be read, is not YAML, or is ambiguous (duplicate keys, merge keys).
pub fn load_foreign(path: &Path) -> Result<serde_json::Value, Errors> {
    parse_foreign(&text_of(path, ProcessEnvironment.read(path, MAX_CONFIG_BYTES + 1))?, path)
}

/// As [`load_foreign`], for a text.
///
/// # Errors
/// As [`load_foreign`].
pub(crate) fn parse_foreign(text: &str, path: &Path) -> Result<serde_json::Value, Errors> {
    let file: Arc<Path> = path.into();
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let tree = raw::from_yaml(text).or_else(|error| {
        // JSON that is not YAML (with a key of a thousand characters) has no positions.
        raw::from_json(text).map_err(|_| syntax_error(&error, text, &file))
    })?;
    let mut reader = Reader::new(&tree, Path::new(""), &ProcessEnvironment, Timestamp::UNIX_EPOCH);
    // Datasette tries JSON before YAML, and both programs read JSON alike.
    if raw::from_json(text).is_err() {
        foreign::check(&mut reader, &tree, text);
    }
    let diagnostics = reader.finish(&file, text);
    if diagnostics.is_empty() { Ok(tree.to_json()) } else { Err(Errors::new(diagnostics)) }
}

/// The text of a file.
fn text_of(path: &Path, read: io::Result<Vec<u8>>) -> Result<Zeroizing<String>, Errors> {
    let rejected = |message| Errors::from(Diagnostic::about_file(path, message));
    let bytes = read.map_err(|error| rejected(format!("cannot be read: {}", Unreadable(&error))))?;
    if bytes.len() > MAX_CONFIG_BYTES {
        return Err(rejected(format!("is larger than {MAX_CONFIG_BYTES} bytes")));
    }
    String::from_utf8(bytes).map(Zeroizing::new).map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = valid.iter().filter(|&&byte| byte == b'\n').count() + 1;
        error.into_bytes().zeroize();
        rejected(format!("line {line} is not UTF-8"))
    })
}

fn read_tree(text: &str) -> Result<Node, SyntaxError> {
    if raw::looks_like_json(text)
        && let Ok(tree) = raw::from_json(text)
    {
        return Ok(tree);
    }
    raw::from_yaml_without_positions(text)
}

fn syntax_error(error: &SyntaxError, text: &str, file: &Arc<Path>) -> Diagnostic {
    let (line, column) = (error.line, error.column);
    Diagnostic {
        severity: Severity::Error,
        file: Arc::clone(file),
        position: (line > 0).then_some(Position { line, column }),
        key: String::new(),
        message: error.message.clone().into_owned(),
        line: redact::line_without_tree(text, line),
    }
}

/// The meaning of a tree, and its problems.
struct ParsedDocument {
    sections: Option<Sections>,
    diagnostics: Vec<Diagnostic>,
    files: Vec<PathBuf>,
}

/// What the sections say, some of which may not be valid.
struct Sections {
    startup: Startup,
    rules: Rules,
    tls: Tls,
    has_default: bool,
}

fn interpret(
    mut tree: Node,
    text: &str,
    file: &Arc<Path>,
    source: &Source<'_>,
    serves: Serves,
) -> ParsedDocument {
    let folder = source.file.parent().unwrap_or(Path::new(""));
    let serves_listeners = serves == Serves::Everything;
    let unserved = if serves_listeners { &[] } else { UNSERVED };
    let mut files: BTreeSet<_> =
        secrets::resolve(&mut tree, folder, source.environment, unserved).into_iter().collect();
    let mut reader = Reader::new(&tree, folder, source.environment, source.now);
    reader.serves_listeners = serves_listeners;
    let sections = read_document(&mut reader, &tree);
    files.append(&mut reader.files);
    let mut diagnostics = reader.finish(file, text);
    if !serves_listeners {
        // Who may enter there, and how, is what the server says.
        diagnostics.retain(|diagnostic| {
            diagnostic.severity == Severity::Error || !diagnostic.key.starts_with("admin")
        });
    }
    if source.environment.is_world_writable(source.file) {
        let about = Diagnostic::about_file(source.file, reader::WORLD_WRITABLE.to_owned());
        diagnostics.push(Diagnostic { severity: Severity::Warning, ..about });
    }
    ParsedDocument { sections, diagnostics, files: files.into_iter().collect() }
}

impl ParsedDocument {
    fn parse(text: &str, source: &Source<'_>, serves: Serves) -> Result<Self, Errors> {
        let file: Arc<Path> = source.file.into();
        let tree = read_tree(text).map_err(|error| syntax_error(&error, text, &file))?;
        let mut document = interpret(tree, text, &file, source, serves);
        // Positions double the time of reading, so they are read only for diagnostics.  JSON that is not YAML (with a key of
        // a thousand characters) has none.
        if !document.diagnostics.is_empty()
            && let Ok(tree) = raw::from_yaml(text)
        {
            document = interpret(tree, text, &file, source, serves);
        }
        Ok(document)
    }

    fn into_startup(self) -> Result<Startup, Errors> {
        let listener_keys = ["ext_authz", "ext_authz.listen", "probes", "probes.listen"];
        let unknown = |diagnostic: &Diagnostic| {
            diagnostic.severity == Severity::Error && listener_keys.contains(&diagnostic.key.as_str())
        };
        match self.sections {
            Some(sections) if !self.diagnostics.iter().any(unknown) => Ok(sections.startup),
            _ => Err(Errors::new(self.diagnostics)),
        }
    }

    fn into_config(self, text: &str) -> Result<Config, Errors> {
        let is_error = |diagnostic: &Diagnostic| diagnostic.severity == Severity::Error;
        let sections = match self.sections {
            Some(sections) if !self.diagnostics.iter().any(is_error) => sections,
            _ => return Err(Errors::new(self.diagnostics)),
        };
        let Sections { startup, rules, tls, has_default } = sections;
        let warnings = Errors::new(self.diagnostics).iter().cloned().collect();
        let restrictions = Restrictions {
            routes: rules.policies.routes().len(),
            policies: rules.policies.named_len(),
            users: rules.users.len(),
            has_default,
            text: TextDigest::of(text),
        };
        let sha256 = Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Config { startup, rules, tls, warnings, files: self.files, restrictions, sha256 })
    }
}

/// What a process that only decides does not serve: secrets in there are not read.  The tree keeps it, since lines that
/// errors show are redacted by the tree.
const UNSERVED: &[&str] = &["ext_authz", "probes", "oauth"];

fn read_document<'t>(reader: &mut Reader<'t>, root: &'t Node) -> Option<Sections> {
    if matches!(root.value, Value::Null) {
        reader.error(&root.at, format!("the file is empty; {NO_REQUEST_ADMITTED}"));
        return None;
    }
    if let Some(seed) = datasette::find(root) {
        let seed = datasette::read(reader, root, seed)?;
        // Every other key is Datasette's.
        let sections = Reader::only_fields(root, schema::SECTIONS_BESIDE_PLUGINS);
        return Some(read_sections(reader, root, sections, seed.tokens, seed.query));
    }
    let sections = reader.fields(root, "a mapping with sections such as `tokens`", &schema::SECTIONS)?;
    Some(read_sections(reader, root, sections, sections.get("tokens"), None))
}

/// Reads every section; `query` is a location that a Datasette configuration adds.
fn read_sections<'t>(
    reader: &mut Reader<'t>,
    root: &'t Node,
    sections: Fields<'t>,
    tokens: Option<&'t Node>,
    query: Option<&'t Text>,
) -> Sections {
    let sections = if reader.serves_listeners { sections } else { sections.without(UNSERVED) };
    let keys = keys::read(reader, sections.get("keys"));
    let admin = admin::read(reader, sections.get("admin"));
    if let (Some(entry), None) = (sections.entry("admin"), &keys) {
        reader.error(&entry.at, "`admin` manages issued keys: it needs the section `keys`");
    }
    let (ext_authz, probes, ext_authz_tls) = listeners::read(reader, sections, admin.as_ref());
    let policy_sections = routes::read(reader, sections);
    let session = session::read(reader, sections.entry("session"), admin.as_ref());
    let sessions = match (&keys, &admin) {
        (None, _) => Sessions::NeedKeys,
        (Some(_), None) => Sessions::OpenedElsewhere(session_cookies_of_others(&session.rules)),
        (Some(_), Some(admin)) => Sessions::InCookies(session_cookies(
            SessionScope::Application,
            admin.listen.transport,
            admin.rules.public_url.as_ref(),
            &session.rules,
        )),
    };
    let locations = credentials::read(reader, sections.entry("credentials"), query, sessions);
    let actor_headers = headers::read(reader, sections.get("actor_headers"), &locations);
    let context = Context { policies: &policy_sections, actor_headers: &actor_headers };
    let takes_passwords =
        locations.iter().any(|location| matches!(location, CredentialLocation::Basic { .. }));
    let ldap_entry = sections.entry("ldap");
    let ldap = ldap::read(reader, ldap_entry, takes_passwords, admin.is_some());
    if let (Some(entry), Some(LdapSection { at_check: Some(false), .. }), None) = (ldap_entry, &ldap, &admin)
    {
        reader.warn(
            &entry.at,
            "this directory is never asked: Checks do not ask it (`at_check`), and there is no `admin`",
        );
    }
    let takes_sessions = credentials::has_session(sections.entry("credentials"));
    session::check(reader, &session, takes_sessions);
    if let Some(admin) = &admin {
        admin::check_log_in(reader, admin, &session.rules, takes_sessions);
    }
    let oauth_entry = sections.entry("oauth");
    let beside = oauth::OtherSections {
        has_keys: keys.is_some(),
        is_read_only: keys
            .as_ref()
            .is_some_and(|section| section.store.as_ref().is_some_and(|store| store.read_only)),
        admin: admin.as_ref(),
        takes_sessions,
        has_plain_ids: ldap
            .as_ref()
            .and_then(|section| section.settings.as_ref())
            .is_some_and(|settings| settings.plain_ids),
    };
    let oauth = oauth::read(reader, oauth_entry, &beside);
    let users_written = sections.get("users");
    let written = |list: Option<&'t Node>| list.filter(|_| is_written(list)).map(|node| &node.at);
    let callers = credentials::CredentialSections {
        tokens: written(tokens),
        users: written(users_written),
        ldap: ldap_entry.map(|entry| &entry.at),
        asks_ldap: ldap.as_ref().is_some_and(|section| section.at_check == Some(true)),
        oauth: written(sections.get("oauth")),
        keys: sections.entry("keys").map(|entry| &entry.at),
    };
    credentials::warn_of_useless(
        reader,
        sections.entry("credentials"),
        &locations,
        &callers,
        admin.is_some(),
    );
    let has_no_callers = !is_written(tokens)
        && !is_written(users_written)
        && ldap.is_none()
        && !is_written(sections.get("oauth"))
        && keys.is_none();
    let tokens_written = tokens;
    let tokens = tokens::read(reader, tokens, &context);
    let admits = |actor: &Actor| {
        let allow = admin.as_ref().and_then(|admin| admin.rules.allow.allow());
        allow.is_some_and(|allow| allow.admits(actor))
    };
    let without_basic = if sections.get("credentials").is_some() {
        "remove `basic` from `credentials`"
    } else {
        "write `credentials: [bearer]`"
    };
    let is_tried = |actor: &Actor| (takes_passwords && admits(actor)).then_some(without_basic);
    let users = users::read(reader, users_written, &context, &is_tried, ldap.is_some());
    if let (Some(entry), Some(admin)) = (sections.entry("admin"), &admin) {
        let lists = [(tokens_written, tokens.len()), (users_written, users.len())];
        // An entry that is not valid may be the one that is meant.
        let all_read = lists.iter().all(|(list, read)| list.map_or(0, written_len) == *read);
        let live = tokens.iter().map(|token| &*token.principal).filter(|token| !token.is_expired(reader.now));
        let from_directory = match &ldap {
            Some(LdapSection { settings: Some(settings), .. }) => {
                let members: Vec<&str> = settings.members.iter().map(|(member, _)| &**member).collect();
                admin.can_be_entered_with(&members, settings.roles.iter().map(|entry| entry.role))
            }
            // A section that is not valid may admit a user.
            Some(LdapSection { settings: None, .. }) => true,
            None => false,
        };
        let from_provider = oauth.as_ref().is_some_and(|section| {
            !section.all_valid || section.providers.iter().any(|settings| settings.may_enter(admin))
        });
        if all_read
            && !from_directory
            && !from_provider
            && !admin.can_be_entered_by(live.chain(users.iter().map(|user| &*user.principal)))
        {
            reader.warn(
                &entry.at,
                "no user of this configuration can log in here: `allow` ({role: Admin} where it is not written) \
                 admits no \
                 user, no token and no role of `ldap` or `oauth`; give one of `users` an actor such as {id: admin, role: Admin}",
            );
        }
    }

    let actors =
        tokens.iter().map(|token| &*token.principal).chain(users.iter().map(|user| &*user.principal));
    policies::warn_of_misspelled_roles(reader, &actors.map(|principal| &principal.actor));

    // An unknown section may be a misspelt one that admits callers.
    let admits_anyone = |policy: &Arc<Policy>| policy.admits_anonymous() || policy.shadow_permit().is_some();
    if has_no_callers && has_only_sections(root) && !policy_sections.policies.iter().any(admits_anyone) {
        reader.error(&root.at, NO_REQUEST_ADMITTED);
    }
    let (keys_store, keys, unavailable) = match keys {
        Some(KeysSection { store, settings, unavailable }) => (store, Some(settings), unavailable),
        None => (None, None, Unavailable::Deny),
    };
    let (admin_listen, admin, admin_tls) = match admin {
        Some(AdminSection { listen, rules, tls, .. }) => (Some(listen), Some(Arc::new(rules)), tls),
        None => (None, None, None),
    };
    let rules = Rules {
        tokens,
        users,
        locations: credentials::locations(locations),
        forward_credentials: switch(reader, sections, "forward_credentials"),
        unknown_credentials: read_unknown_credentials(reader, sections.get("unknown_credentials")),
        allow_cors_preflight: switch(reader, sections, "allow_cors_preflight"),
        realm: read_realm(reader, sections.get("realm")),
        policies: policy_sections.policies,
        keys,
        unavailable,
        admin,
        actor_headers: actor_headers.into(),
        ldap: ldap.and_then(|section| section.settings).map(Arc::new),
        providers: oauth.map(|section| section.providers).unwrap_or_default().into(),
        session: Arc::new(session.rules),
    };
    let startup = Startup { ext_authz, probes, admin: admin_listen, keys: keys_store };
    let has_default = sections.get("default").is_some();
    Sections { startup, rules, tls: Tls { ext_authz: ext_authz_tls, admin: admin_tls }, has_default }
}

/// Whether every key of the document is a section, or this is a Datasette configuration.
fn has_only_sections(root: &Node) -> bool {
    match &root.value {
        Value::Map(entries) => {
            datasette::find(root).is_some()
                || entries.iter().all(|entry| schema::SECTIONS.has_key(&entry.key))
        }
        _ => false,
    }
}

/// Whether the list has entries, valid or not.
fn is_written(list: Option<&Node>) -> bool {
    list.is_some_and(|node| !matches!(&node.value, Value::List(list) if list.is_empty()))
}

/// The number of entries of a list, valid or not.
fn written_len(list: &Node) -> usize {
    match &list.value {
        Value::List(list) => list.len(),
        // Another kind of value is an error.
        _ => usize::MAX,
    }
}

const NO_REQUEST_ADMITTED: &str = "no request could ever pass: there are no `tokens`, no `users`, no `ldap`, no \
    `oauth`, \
    no `keys`, \
    and no policy admits the anonymous";

/// The sections that tokens and users depend on.
struct Context<'c> {
    policies: &'c PolicySections,
    actor_headers: &'c [ActorHeader],
}

/// A section that is `true` or `false`; false when it is missing.
fn switch<'t>(reader: &mut Reader<'t>, sections: Fields<'t>, key: &str) -> bool {
    sections.get(key).and_then(|node| reader.boolean(node)).unwrap_or(false)
}

fn read_unknown_credentials<'t>(reader: &mut Reader<'t>, node: Option<&'t Node>) -> UnknownCredentials {
    let word = node.and_then(|node| Some((node, reader.text(node, "`deny` or `anonymous`")?)));
    match word.map(|(node, text)| (node, text.as_str())) {
        None | Some((_, "deny")) => UnknownCredentials::Deny,
        Some((_, "anonymous")) => UnknownCredentials::Anonymous,
        Some((node, other)) => {
            let words = ["deny", "anonymous"];
            reader.error(&node.at, format!("expected {}", one_of(other, &words)));
            UnknownCredentials::Deny
        }
    }
}

/// "`a` or `b`, found another word", with a suggestion.
fn one_of(written: &str, words: &[&str]) -> String {
    let all = alternatives(words);
    match nearest(written, words.iter().copied()) {
        Some(near) => format!("{all}, found another word; did you mean `{near}`?"),
        None => format!("{all}, found another word"),
    }
}

fn read_realm<'t>(reader: &mut Reader<'t>, node: Option<&'t Node>) -> Box<str> {
    let text = node.and_then(|node| Some((node, reader.text(node, "text such as api")?)));
    let Some((node, text)) = text else {
        return "api".into();
    };
    // RFC 9110 section 11.5: the realm is a quoted string.  These characters need no escape in one.
    let is_legal = |byte: u8| matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\';
    if text.as_str().is_empty() || !text.as_str().bytes().all(is_legal) {
        reader.error(
            &node.at,
            "a realm has at least one character, and all are printable ASCII without quotes and backslash",
        );
    }
    text.as_str().into()
}

/// Whether a text can be a name: 1 to 190 printable characters without blanks at its ends.
fn is_label(text: &str) -> bool {
    let length = text.chars().count();
    (1..=190).contains(&length) && text.trim() == text && !text.chars().any(char::is_control)
}

impl fmt::Debug for Config {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Config")
            .field("startup", &self.startup)
            .field("rules", &self.rules)
            .field("tls", &self.tls)
            .field("warnings", &self.warnings)
            .field("files", &self.files)
            .finish()
    }
}

impl fmt::Debug for Rules {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Rules")
            .field("tokens", &self.tokens.len())
            .field("users", &self.users.len())
            .finish_non_exhaustive()
    }
}
