//! Everything that a Check needs, built from the configuration: one value that is replaced as a whole.
//!
//! [`Snapshot::build`] makes tables from the plain values of [`crate::config`]: tokens by digest, users by name with
//! the hashes of their passwords.  All checks of a file are done there, before a snapshot is built.
//!
//! The process has one [`SnapshotStore`].  Every request takes the current snapshot once and uses it to its
//! end, so that no request sees old rules with new settings.  A reload is one [`SnapshotStore::replace`].

mod slot;
mod tokens;
mod users;

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use tokio::sync::watch;

use crate::actor::Actor;
use crate::actor::header::{ActorHeaders, MAX_BYTES};
use crate::config::{
    AdminRules, Config, Diagnostic, Errors, LdapSettings, ProviderSettings, Rules, SessionRules, Startup,
    Tls, Unavailable, UnknownCredentials, session_cookies,
};
use crate::credential::{CredentialLocations, Principal};
use crate::keys::name::{folded, is_same};
use crate::keys::{KeySettings, SessionScope};
use crate::password::PasswordError;
use crate::person::ProviderName;
use crate::policy::Policies;
use crate::return_to::LogInRedirect;

pub use self::slot::Slot;
pub use self::tokens::Tokens;
pub use self::users::{User, Users};

/// The current configuration, in the form in which requests use it.
#[derive(Clone)]
pub struct Snapshot {
    /// `tokens`.
    pub tokens: Tokens,
    /// `users`.
    pub users: Users,
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
    /// `keys`, without the settings that cannot change while the process runs.
    pub keys: Option<KeySettings>,
    /// `keys.unavailable`.
    pub unavailable: Unavailable,
    /// `admin`, without its address.
    pub admin: Option<Arc<AdminRules>>,
    /// Whether this process has the admin listener.  It asks directories about people; other processes use the records
    /// in the store.
    pub serves_admin: bool,
    /// `actor_headers`.
    pub actor_headers: ActorHeaders,
    /// `ldap`: the directory whose people may log in.
    pub ldap: Option<Arc<LdapSettings>>,
    /// `oauth`: the providers at which people may log in.
    pub providers: Arc<[Arc<ProviderSettings>]>,
    /// `session`.
    pub session: Arc<SessionRules>,
    /// Where browsers without a credential are redirected, if they are.
    pub log_in_redirect: Option<Arc<LogInRedirect>>,
    /// `ext_authz.tls` and `admin.tls`, for handshakes.
    pub tls: Tls,
    /// The SHA-256 of the configuration's file, in hexadecimal digits.
    pub sha256: String,
    /// The answers that the gRPC codec encodes in advance.
    pub grpc_encoder: Slot,
    /// The metrics' counters of allowed requests by policy.
    pub allowed_counters: Slot,
    /// A number that no other snapshot of this process has.
    pub version: u64,
}

/// A snapshot cannot be built from a valid configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BuildError {
    /// A user's password cannot be hashed.
    #[error("users: {0}")]
    Password(#[from] PasswordError),
}

impl BuildError {
    /// The same as an error about the configuration's file.
    pub fn about(self, file: &Path) -> Errors {
        Diagnostic::about_file(file, self.to_string()).into()
    }
}

/// The owner of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameOwner {
    /// A token, or the actor of a token or user: no key may have the name.
    Actor,
    /// A user.
    User,
}

impl Snapshot {
    /// Builds a snapshot.  The plain passwords are hashed, which takes tens of milliseconds each; a user of
    /// `previous` who has the same password keeps the hash, and with it every session.
    ///
    /// # Errors
    /// [`BuildError`]: a password cannot be hashed.
    pub fn build(config: &Config, previous: Option<&Self>) -> Result<Self, BuildError> {
        // Every field by name: a new section must be taken over, or left out on purpose.
        let Rules {
            tokens,
            users,
            locations,
            forward_credentials,
            unknown_credentials,
            allow_cors_preflight,
            realm,
            policies,
            keys,
            unavailable,
            admin,
            actor_headers,
            ldap,
            providers,
            session,
        } = &config.rules;
        let log_in_redirect = LogInRedirect::new(admin.as_deref(), session, locations).map(Arc::new);
        Ok(Self {
            tokens: Tokens::build(tokens),
            users: Users::build(users, previous.map(|previous| &previous.users))?,
            locations: locations.clone(),
            forward_credentials: *forward_credentials,
            unknown_credentials: *unknown_credentials,
            allow_cors_preflight: *allow_cors_preflight,
            realm: realm.clone(),
            policies: policies.clone(),
            keys: keys.clone(),
            unavailable: *unavailable,
            admin: admin.clone(),
            serves_admin: config.startup.admin.is_some(),
            actor_headers: actor_headers.clone(),
            ldap: ldap.clone(),
            providers: Arc::clone(providers),
            session: Arc::clone(session),
            log_in_redirect,
            tls: config.tls.clone(),
            sha256: config.sha256.clone(),
            grpc_encoder: Slot::default(),
            allowed_counters: Slot::default(),
            version: next_version(),
        })
    }

    /// Keeps the settings of services that run until a restart, even if the new configuration lacks their section or
    /// has moved their listener.  `startup` has the settings with which the process was started.
    pub fn keep_running_services(&mut self, previous: &Self, startup: &Startup) {
        if self.keys.is_none() {
            self.keys.clone_from(&previous.keys);
            self.unavailable = previous.unavailable;
        }
        if self.admin.is_none() {
            self.admin.clone_from(&previous.admin);
        }
        self.serves_admin = startup.admin.is_some();
        // Whether a listener speaks TLS does not change: without a new certificate it keeps the one that it has.
        for (tls, previous) in
            [(&mut self.tls.ext_authz, &previous.tls.ext_authz), (&mut self.tls.admin, &previous.tls.admin)]
        {
            if tls.is_none() {
                tls.clone_from(previous);
            }
        }
        // Checks look for the cookie that the running admin listener sets for them.
        if let (Some(listener), Some(admin)) = (&startup.admin, &self.admin) {
            let scope = SessionScope::Application;
            let cookies =
                session_cookies(scope, listener.transport, admin.public_url.as_ref(), &self.session);
            self.locations.set_session_cookies(cookies);
        }
        // Browsers are sent to the page that is still served.
        self.log_in_redirect =
            LogInRedirect::new(self.admin.as_deref(), &self.session, &self.locations).map(Arc::new);
    }

    /// This snapshot without the tokens and users that a later one lacks or has with another password, and without the
    /// directory and the providers that the later one lacks or has with other settings.
    pub fn without_credentials_missing_in(&self, later: &Self) -> Self {
        let mut snapshot = self.clone();
        snapshot.tokens.retain_present_in(&later.tokens);
        snapshot.users.retain_present_in(&later.users);
        let binding = |ldap: &Option<Arc<LdapSettings>>| ldap.as_ref().map(|settings| settings.binding);
        if binding(&later.ldap) != binding(&snapshot.ldap) {
            snapshot.ldap = None;
        }
        let is_kept = |settings: &&Arc<ProviderSettings>| {
            later.provider(&settings.name).is_some_and(|later| later.binding == settings.binding)
        };
        snapshot.providers = snapshot.providers.iter().filter(is_kept).cloned().collect();
        snapshot.version = next_version();
        snapshot
    }

    /// The provider of this name.
    pub fn provider(&self, name: &ProviderName) -> Option<&Arc<ProviderSettings>> {
        self.providers.iter().find(|settings| settings.name == *name)
    }

    /// Whether `policies` has one of this name, which a key's restriction may then name.
    pub fn has_named_policy(&self, name: &str) -> bool {
        self.policies.has_named(name)
    }

    /// The owner of this name in the configuration.  Names are compared in the same way as names of keys.
    pub fn name_owner(&self, name: &str) -> Option<NameOwner> {
        let name = folded(name);
        let is_actors = |actor: &Actor, but: Option<&str>| {
            let members = ["name", "id"].into_iter().filter_map(|member| actor.member(member)?.as_str());
            members.filter(|own| Some(*own) != but).any(|own| is_same(&name, own))
        };
        let is_tokens = |token: &Principal| is_same(&name, &token.name) || is_actors(&token.actor, None);
        if self.tokens.iter().any(|(_, token)| is_tokens(token)) {
            return Some(NameOwner::Actor);
        }
        let users = || self.users.iter().map(|(_, user)| &user.principal);
        // Most users have the actor `{id: <username>}`.
        if users().any(|user| is_actors(&user.actor, Some(&user.name))) {
            return Some(NameOwner::Actor);
        }
        users().any(|user| is_same(&name, &user.name)).then_some(NameOwner::User)
    }

    /// Whether an id begins like the ids of people of a directory or a provider.
    pub fn begins_as_of_a_source(&self, id: &str) -> bool {
        let Some((source, _)) = id.split_once(':') else {
            return false;
        };
        source == "ldap" || self.providers.iter().any(|settings| settings.name.as_str() == source)
    }

    /// Whether a token or a user has an actor of this id.
    pub fn has_actor_id(&self, id: &str) -> bool {
        let users = self.users.iter().map(|(_, user)| &user.principal);
        let mut principals = self.tokens.iter().map(|(_, principal)| principal).chain(users);
        principals
            .any(|principal| principal.actor.member("id").and_then(serde_json::Value::as_str) == Some(id))
    }

    /// Whether the headers that an actor becomes fit into an answer.
    pub fn headers_fit(&self, actor: &Actor) -> bool {
        let headers = self.actor_headers.iter();
        let bytes =
            headers.map(|header| header.name.len() + header.value(actor).map_or(0, |value| value.len()));
        bytes.sum::<usize>() <= MAX_BYTES
    }
}

fn next_version() -> u64 {
    static VERSION: AtomicU64 = AtomicU64::new(1);
    VERSION.fetch_add(1, Ordering::Relaxed)
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Snapshot")
            .field("version", &self.version)
            .field("tokens", &self.tokens.len())
            .field("users", &self.users.len())
            .finish_non_exhaustive()
    }
}

/// A handle to the current snapshot.  Clones share it.
#[derive(Debug, Clone)]
pub struct SnapshotStore(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    current: ArcSwap<Snapshot>,
    replaced: watch::Sender<()>,
}

impl SnapshotStore {
    /// A store whose current snapshot is this one.
    pub fn new(snapshot: Snapshot) -> Self {
        let replaced = watch::Sender::new(());
        Self(Arc::new(Shared { current: ArcSwap::from_pointee(snapshot), replaced }))
    }

    /// The current snapshot.  A request takes it once.
    pub fn current(&self) -> Arc<Snapshot> {
        self.0.current.load_full()
    }

    /// Notifies of each replacement from now on.
    pub fn replacements(&self) -> watch::Receiver<()> {
        self.0.replaced.subscribe()
    }

    /// Makes another snapshot the current one, at once for every reader, and returns the previous one.  Requests that
    /// took that one still hold it.
    pub fn replace(&self, snapshot: Snapshot) -> Arc<Snapshot> {
        let previous = self.0.current.swap(Arc::new(snapshot));
        self.0.replaced.send_replace(());
        previous
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::config::{ProcessEnvironment, Source};
    use crate::token::PlainToken;

    const CONFIG: &str = r#"
tokens:
- {token: the-token-0123456789, actor: {id: the-bot, name: Bot}}
- {name: reporting, token: another-token-0123456789, actor: {id: reporting}, expires: 2027-06-30T00:00:00Z}
users:
- {username: admin, password: correct horse battery staple}
policies: {read: {allow: {role: Viewer}}}
routes: [{path: "/x", allow: {role: Admin}}]
default: {}
"#;

    fn config(text: &str) -> Config {
        let source = Source {
            file: Path::new("config.yaml"),
            environment: &ProcessEnvironment,
            now: Timestamp::UNIX_EPOCH,
        };
        Config::parse(text, &source).unwrap_or_else(|errors| panic!("{errors}"))
    }

    #[test]
    fn tokens_are_found_by_digest_and_users_have_hashes() {
        let snapshot = Snapshot::build(&config(CONFIG), None).unwrap();
        let digest = PlainToken::new(b"the-token-0123456789").unwrap().digest();
        assert_eq!(snapshot.tokens.get(&digest).unwrap().name.as_ref(), "token-1");
        assert_eq!(snapshot.tokens.len(), 2);
        let admin = snapshot.users.get("admin").unwrap();
        assert!(admin.hash.verify(b"correct horse battery staple") && !admin.hash.verify(b"wrong"));
        assert_eq!(admin.principal.actor.to_ascii_json(), r#"{"id":"admin"}"#);
    }

    #[test]
    fn every_snapshot_has_a_version_of_its_own() {
        let config = config(CONFIG);
        let [one, other] = [(); 2].map(|()| Snapshot::build(&config, None).unwrap());
        assert_ne!(one.version, other.version);
        assert_ne!(one.without_credentials_missing_in(&other).version, one.version);
    }

    #[test]
    fn an_unchanged_password_keeps_its_hash_and_another_one_does_not() {
        let first = Snapshot::build(&config(CONFIG), None).unwrap();
        let hash = |snapshot: &Snapshot| snapshot.users.get("admin").unwrap().hash.as_str().to_owned();
        let same = Snapshot::build(&config(CONFIG), Some(&first)).unwrap();
        assert_eq!(hash(&same), hash(&first));
        let changed = CONFIG.replace("battery", "buttery");
        assert_ne!(hash(&Snapshot::build(&config(&changed), Some(&first)).unwrap()), hash(&first));
    }

    #[test]
    fn a_running_service_keeps_its_section_until_a_restart() {
        let keys = "keys: {store: 'sqlite:keys.db', unavailable: error}\nadmin: {public_url: 'https://keys.example'}\n";
        let with = config(&format!("{CONFIG}credentials: [session]\n{keys}"));
        let previous = Snapshot::build(&with, None).unwrap();
        let mut snapshot = Snapshot::build(&config(CONFIG), Some(&previous)).unwrap();
        assert!(snapshot.keys.is_none() && snapshot.admin.is_none());
        snapshot.keep_running_services(&previous, &with.startup);
        assert!(snapshot.keys.is_some() && snapshot.unavailable == Unavailable::Error);
        assert!(snapshot.admin.is_some_and(|admin| admin.public_url.is_some()));
    }

    #[test]
    fn browsers_are_sent_to_the_page_that_is_still_served() {
        let rest = "credentials: [session]\nkeys: {store: 'sqlite:keys.db'}\n";
        let admin = "admin: {public_url: 'https://keys.example', login_redirect: true}\n";
        let with = config(&format!("{CONFIG}{rest}{admin}"));
        let previous = Snapshot::build(&with, None).unwrap();
        assert!(previous.log_in_redirect.is_some());
        let mut snapshot = Snapshot::build(&config(&format!("{CONFIG}{rest}")), Some(&previous)).unwrap();
        assert!(snapshot.log_in_redirect.is_none());
        snapshot.keep_running_services(&previous, &with.startup);
        assert!(snapshot.log_in_redirect.is_some());
        let off = admin.replace("true", "false");
        let mut snapshot =
            Snapshot::build(&config(&format!("{CONFIG}{rest}{off}")), Some(&previous)).unwrap();
        snapshot.keep_running_services(&previous, &with.startup);
        assert!(snapshot.log_in_redirect.is_none());
    }

    #[test]
    fn names_of_the_configuration_are_taken_and_only_named_policies_can_be_named() {
        let snapshot = Snapshot::build(&config(CONFIG), None).unwrap();
        let is_taken =
            ["token-1", "the-bot", "Bot", "bot", "bots"].map(|name| snapshot.name_owner(name).is_some());
        assert_eq!(is_taken, [true, true, true, true, false]);
        let is_named = ["read", "default", "route-1", "x"].map(|name| snapshot.has_named_policy(name));
        assert_eq!(is_named, [true, false, false, false]);
        let users = "
tokens: [{token: token-1-0123456789, name: ci, actor: {id: bob}}]
users:
- {username: ada, password: correct horse battery}
- {username: bob, password: correct horse battery}
- {username: eve, password: correct horse battery, actor: {id: the-eve, name: Eve}}
";
        let with_users = Snapshot::build(&config(users), None).unwrap();
        for (name, expected) in [
            ("ada", Some(NameOwner::User)),
            ("ADA", Some(NameOwner::User)),
            // The actor of a token, too.
            ("bob", Some(NameOwner::Actor)),
            ("the-eve", Some(NameOwner::Actor)),
            // The name of her actor is hers.
            ("eve", Some(NameOwner::Actor)),
            ("ci", Some(NameOwner::Actor)),
            ("zoe", None),
        ] {
            assert_eq!(with_users.name_owner(name), expected, "{name}");
        }
    }
}
