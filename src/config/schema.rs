//! The table of all keys of a configuration.
//!
//! Each key has one row: its name, how much of its value messages may show, the form of its value, and a description.
//! The reader takes the keys of each mapping from the table, [`redact`](super::redact) what may be shown, and [`json`]
//! the JSON Schema.  Values of keys that are not in the table are masked.

pub mod json;
pub mod reference;

use self::json::Form;
use super::raw::Value;
use crate::credential::CredentialLocation;

/// The schema of a value: which keys it has, and how much of it may be shown.
pub enum Schema {
    /// A secret: nothing is shown.
    Secret,
    /// A value that could be a secret: only true, false and null are shown.
    Unknown,
    /// A scalar or a list of scalars, shown whole.
    Shown,
    /// A URL, shown without its user info and its query, since both may hold a password.
    Url,
    /// A mapping with these keys.  The value of any other key is unknown.
    Fields(&'static [KeySchema]),
    /// A mapping from names to values of this kind.
    Named(&'static Schema),
    /// A list of values of this kind.
    Each(&'static Schema),
    /// A list of words and mappings.
    Locations(&'static Schema),
    /// The configuration of the plugin datasette-auth-tokens: a list of tokens, or a mapping that holds it.
    DatasettePlugin,
}

/// A row of the table: name, schema, form and description.
pub type KeySchema = (&'static str, Schema, Form, &'static str);

use Form::{
    Actor, AllowBlock, Bool, Duration, Either, Integer, Nested, OneOrMore, Required, Scalars, Size, Text,
    Texts, Word, Words,
};
use Schema::{DatasettePlugin, Each, Fields, Locations, Named, Secret, Shown, Unknown, Url};

/// The document.
pub static SCHEMA: Schema = Fields(DOCUMENT);

/// The sections of a configuration of our own: every key but the last one, `plugins`, which makes it Datasette's.
pub static SECTIONS: Schema = Fields(match DOCUMENT.split_last() {
    Some((_, sections)) => sections,
    None => &[],
});

const DOCUMENT: &[KeySchema] = &[
    ("ext_authz", EXT_AUTHZ, Nested, "Where Envoy asks us."),
    (
        "probes",
        PROBES,
        Nested,
        "Where the orchestrator and the metrics' collector ask us: /live, /ready, /metrics.",
    ),
    ("admin", ADMIN, Nested, "Where API keys are managed: the HTTP API and the page.  Without it: nowhere."),
    ("tokens", Each(&TOKEN), Nested, "Who stands behind which token."),
    ("users", Each(&USER), Nested, "Who logs in with HTTP Basic."),
    ("ldap", LDAP, Nested, "A directory whose people log in as `users` do.  Without it there is none."),
    (
        "oauth",
        Each(&PROVIDER),
        Nested,
        "Providers at which people log in, by OpenID Connect or by plain OAuth 2.  Without it there are none.",
    ),
    (
        "session",
        SESSION,
        Nested,
        "Under which hosts sessions of applications count, and where people log in for them.",
    ),
    ("keys", KEYS, Nested, "API keys that are issued while the server runs.  Without it there are none."),
    (
        "credentials",
        Locations(&LOCATION),
        Nested,
        "Where a request may carry a credential; the first location that carries anything decides alone.  \
         By default [bearer, basic].",
    ),
    ("forward_credentials", Unknown, Bool, "Whether the upstream sees the credential.  By default false."),
    (
        "unknown_credentials",
        Unknown,
        Word(&["deny", "anonymous"]),
        "What a well-formed token that nobody knows is: denied, or anonymous because it may be the upstream's own.  One in \
         the format of issued keys, with a right checksum, is always denied.  By default deny.",
    ),
    (
        "allow_cors_preflight",
        Unknown,
        Bool,
        "Whether a CORS preflight passes as anonymous.  By default false.",
    ),
    ("realm", Shown, Text, "The realm in WWW-Authenticate.  By default api."),
    (
        "policies",
        Named(&POLICY),
        Nested,
        "Policies by name, for routes, credentials and Envoy's context_extensions.",
    ),
    ("routes", Each(&ROUTE), Nested, "Which policy governs which request: the first route that matches."),
    (
        "default",
        POLICY,
        Nested,
        "The policy where no route matches; {} admits any actor.  Needed where there are routes.",
    ),
    ("paths", PATHS, Nested, "Paths that can be read in two ways, and are denied unless permitted here."),
    (
        "overrides",
        OVERRIDES,
        Nested,
        "Headers by which a request names another path, host or method, and is denied unless permitted here.",
    ),
    (
        "actor_headers",
        Named(&Shown),
        Nested,
        "How the upstream hears of the actor: a member such as id or team.name, or \"*\" for the whole as JSON.  \
         By default x-actor: \"*\", x-actor-id: id, x-actor-name: name, x-actor-role: role.",
    ),
    (
        "plugins",
        PLUGINS,
        Nested,
        "A Datasette configuration: its tokens are read.  Beside it ext_authz, probes, admin and keys may stand.",
    ),
];

/// Our own sections that may stand beside `plugins`: none of them decides a Check.
pub const SECTIONS_BESIDE_PLUGINS: &[&str] = &["ext_authz", "probes", "admin", "keys"];

const LISTEN: &str = "An IP address and port, unix:/path (mode 0660), or unix:@name (abstract).";

pub const EXT_AUTHZ: Schema = Fields(&[
    ("listen", Shown, Text, LISTEN),
    ("tls", TLS, Nested, "TLS on this listener; with client_ca, mutual TLS."),
    ("max_request_bytes", Shown, Size, "The largest request message: 1KiB to 256MiB.  By default 16MiB."),
    (
        "max_connections",
        Shown,
        Integer,
        "How many connections may be open at a time: 1 to 1048576.  By default 4096.",
    ),
]);

/// The value of `key` is not shown: instead of the path somebody may have written the key itself.
pub const TLS: Schema = Fields(&[
    ("cert", Shown, Required(&Text), "A PEM file: the server's certificate, then what leads to its CA."),
    ("key", Unknown, Required(&Text), "A PEM file: the certificate's private key, without a password."),
    ("client_ca", Shown, Text, "A PEM file: clients must show a certificate that one of these has signed."),
    ("client_names", Shown, Texts, "A client's certificate must have one of these URI or DNS names."),
]);

pub const PROBES: Schema = Fields(&[("listen", Shown, Text, LISTEN)]);

pub const ADMIN: Schema = Fields(&[
    ("listen", Shown, Text, LISTEN),
    ("tls", TLS, Nested, "TLS on this listener; with client_ca, mutual TLS."),
    (
        "public_url",
        Url,
        Text,
        "Where browsers find the page, such as https://keys.example.com or https://app.example.com/keys.",
    ),
    (
        "hosts",
        Shown,
        Texts,
        "Names by which clients reach the listener, beside IP addresses, localhost, the certificate's and public_url's.",
    ),
    (
        "trusted_proxies",
        Shown,
        Texts,
        "Addresses and networks of proxies before this listener: the audit log believes their X-Forwarded-For.",
    ),
    ("allow", ALLOW, AllowBlock, "Who may manage keys.  By default {role: Admin}."),
    (
        "self_service",
        ALLOW,
        AllowBlock,
        "Which people may have keys of their own: make, change, rotate and end them.  By default nobody.",
    ),
    ("introspect", ALLOW, AllowBlock, "Who may ask what a token is (RFC 7662).  By default nobody."),
    ("org_name", Shown, Text, "What GET /api/org says; by default Main Org."),
    (
        "login_redirect",
        Unknown,
        Bool,
        "Whether browsers without a credential at Checks are sent to the log-in page.  By default false.",
    ),
    (
        "login_hosts",
        Shown,
        Texts,
        "Hosts of applications, with a port or without, under which log-in and log-out alone are answered.",
    ),
]);

pub const PATHS: Schema = Fields(&[
    (
        "permit",
        Unknown,
        Words(&["empty_segment", "encoded_slash", "parameters", "encoded_delimiter"]),
        "The kinds of ambiguous path to let through.  By default none.",
    ),
    (
        "case",
        Unknown,
        Word(&["sensitive", "ignore"]),
        "Whether upstreams ignore the case of paths: another spelling needs both policies.  By default sensitive.",
    ),
]);

pub const OVERRIDES: Schema = Fields(&[(
    "permit",
    Unknown,
    Words(&[
        "script-name",
        "path-info",
        "x-script-name",
        "x-original-url",
        "x-original-uri",
        "x-rewrite-url",
        "x-forwarded-prefix",
        "x-forwarded-path",
        "x-forwarded-uri",
        "x-forwarded-host",
        "x-original-host",
        "x-host",
        "forwarded",
        "x-http-method-override",
        "x-http-method",
        "x-method-override",
        "_method",
        "destination",
    ]),
    "The overrides that a trusted proxy before Envoy sets and never passes on from a client.  By default none.",
)]);

const PLUGINS: Schema = Fields(&[(
    "datasette-auth-tokens",
    DatasettePlugin,
    Required(&Nested),
    "The plugin's own configuration: a list of tokens, or {tokens: [...], param: NAME}.",
)]);

pub const KEYS: Schema = Fields(&[
    ("store", Url, Required(&Text), "sqlite:/path/to/keys.db, or postgres://user:password@host/database."),
    (
        "max_seconds_to_live",
        Shown,
        Integer,
        "The longest life of a key; 0: no keys at all.  By default -1: no limit.",
    ),
    ("prefix", Shown, Text, "What keys begin with.  By default eat."),
    ("max", Shown, Integer, "How many keys may be stored, the dead ones too.  By default -1: no limit."),
    (
        "actor_members",
        Shown,
        Texts,
        "Members that the creator of a key may add to its actor.  By default none.",
    ),
    (
        "max_staleness",
        Shown,
        Text,
        "How long keys count while the store cannot be read: off, or a duration such as 5m.",
    ),
    (
        "ready_without_store",
        Shown,
        Text,
        "When a process that has never read the store is ready all the same: never (the default), or a duration such as 10s.",
    ),
    (
        "forget_after",
        Shown,
        Text,
        "How long after their end expired and revoked keys are deleted: a duration, or never.  By default 90d.",
    ),
    (
        "max_idle",
        Shown,
        Text,
        "A key that was not used for so long expires: a duration such as 180d.  By default never.",
    ),
    (
        "default_seconds_to_live",
        Shown,
        Integer,
        "The life that the page and the command line propose for a key; 0: it never expires.  By default 7776000, 90 days.",
    ),
    (
        "person_max_idle",
        Shown,
        Text,
        "How long after they logged in last the keys of people of a directory or a provider work.  By default 30d.",
    ),
    (
        "tell_expiry",
        Shown,
        Text,
        "How long before a key or token expires answers say so, by the header x-token-expires: off, or a duration such as 14d.  \
         By default off.",
    ),
    (
        "unavailable",
        Unknown,
        Word(&["deny", "error"]),
        "The answer when nobody can know whether a token is a key: a denial, or an error for failure_mode_allow.",
    ),
    (
        "read_only",
        Unknown,
        Bool,
        "Whether the store is only read: a standby of PostgreSQL, or a role that may only SELECT.  By default false.",
    ),
]);

const RESTRICTION: &str = "The only policies under which the actor counts.";

pub static TOKEN: Schema = Fields(&[
    ("name", Shown, Text, "A name for logs and metrics.  By default token-1, token-2 by position."),
    ("token", Secret, Either(&Text), "The token itself, best by {$env: NAME} or {$file: PATH}."),
    ("sha256", Secret, Either(&Text), "The token's SHA-256 in hexadecimal: `envoy-auth-tokens token hash`."),
    ("actor", ACTOR, Required(&Actor), "Who the token stands for: any object."),
    (
        "expires",
        Shown,
        Text,
        "From this instant on the token is dead: RFC 3339, such as 2027-06-30T00:00:00Z.",
    ),
    ("policies", Shown, Texts, RESTRICTION),
]);

pub static USER: Schema = Fields(&[
    ("username", Shown, Required(&Text), "The name; api_key is taken."),
    ("password", Secret, Either(&Text), "The password, best by {$env: NAME} or {$file: PATH}."),
    (
        "password_hash",
        Secret,
        Either(&Text),
        "argon2id as a PHC string, or bcrypt: `envoy-auth-tokens password`.",
    ),
    ("actor", ACTOR, Actor, "Who the user is.  By default {id: <username>}."),
    ("policies", Shown, Texts, RESTRICTION),
]);

pub const LDAP: Schema = Fields(&[
    (
        "url",
        Url,
        Required(&OneOrMore),
        "ldaps://host, ldap://host with start_tls, or ldapi://%2Fpath%2Fto%2Fsocket.  A list is tried in order.",
    ),
    (
        "start_tls",
        Unknown,
        Bool,
        "Whether connections of ldap:// go on with TLS before anything else is sent.  By default false.",
    ),
    ("ca", Shown, Text, "A PEM file: CAs that are trusted beside the system's."),
    (
        "bind_dn",
        Shown,
        Text,
        "Who searches.  With %s people bind directly, without a search.  By default searches are anonymous.",
    ),
    ("bind_password", Secret, Text, "The password of bind_dn, best by {$env: NAME} or {$file: PATH}."),
    ("search_base", Shown, Required(&OneOrMore), "The entries below which people stand."),
    ("search_filter", Shown, Required(&Text), "Who has the name that stands for %s, such as (uid=%s)."),
    (
        "members",
        Named(&Shown),
        Nested,
        "The actor's members, each with its attribute.  By default {id: uid, name: cn, email: mail, groups: memberOf}.",
    ),
    ("group_search", GROUP_SEARCH, Nested, "How groups are found where entries do not name them."),
    (
        "roles",
        Each(&GROUP_ROLE),
        Required(&Nested),
        "Which role whose people have: the first entry that fits.",
    ),
    (
        "ids",
        Unknown,
        Word(&["prefixed", "plain"]),
        "Whether ids of actors begin with ldap: or are the directory's own.  By default prefixed.",
    ),
    ("at_check", Unknown, Bool, "Whether Basic passwords of Checks are asked about.  By default true."),
    (
        "max_wrong",
        Shown,
        Integer,
        "After so many wrong passwords for one entry in half an hour the directory is not asked.  By default 3.",
    ),
    (
        "remember",
        Shown,
        Duration,
        "How long a right password counts without another question: up to 1h, or 0.  By default 5m.",
    ),
    ("timeout", Shown, Text, "How long one server may take: 100ms to 60s.  By default 5s."),
]);

pub const GROUP_SEARCH: Schema = Fields(&[
    ("base", Shown, Required(&OneOrMore), "The entries below which groups stand."),
    ("filter", Shown, Required(&Text), "Which groups a person is in, such as (memberUid=%s)."),
    (
        "user_attribute",
        Shown,
        Text,
        "The person's attribute that stands for %s, or dn for the entry's name.  By default that of members.id.",
    ),
]);

pub static GROUP_ROLE: Schema = Fields(&[
    ("group", Shown, Required(&Text), "The group's DN, or \"*\" for everybody."),
    ("role", Shown, Required(&Word(&["Viewer", "Editor", "Admin"])), "The role of its people."),
]);

pub static PROVIDER: Schema = Fields(&[
    (
        "name",
        Shown,
        Required(&Text),
        "What it is called here: it stands in /login/NAME and before the ids of its people.",
    ),
    ("label", Shown, Text, "What stands on its button.  By default its name."),
    (
        "issuer",
        Url,
        Text,
        "OpenID Connect: what the provider calls itself; its document is below /.well-known/openid-configuration.",
    ),
    ("auth_url", Url, Text, "Plain OAuth 2: where browsers are sent."),
    ("token_url", Url, Text, "Plain OAuth 2: where a code is redeemed."),
    ("api_url", Url, Text, "Plain OAuth 2: tells who somebody is, as a JSON object."),
    ("client_id", Shown, Required(&Text), "What the provider calls us."),
    (
        "client_secret",
        Secret,
        Text,
        "The client's secret, best by {$env: NAME} or {$file: PATH}.  Without it the client is public.",
    ),
    (
        "scopes",
        Shown,
        Texts,
        "What is asked for.  By default [openid, profile, email] with issuer, else nothing.",
    ),
    (
        "members",
        Named(&Shown),
        Nested,
        "The actor's members, each with its claim; a.b reaches into objects.  By default {id: sub, name: name, email: email, \
         groups: groups} with issuer.",
    ),
    (
        "roles",
        Each(&CLAIM_ROLE),
        Required(&Nested),
        "Which role whose people have: the first entry that fits.  Who fits none is nobody.",
    ),
    (
        "ids",
        Unknown,
        Word(&["prefixed", "plain"]),
        "Whether ids of actors begin with the provider's name or are its own.  By default prefixed.",
    ),
    (
        "allowed_domains",
        Shown,
        Texts,
        "Domains of emails that the provider has verified; others are nobody.  By default all may come.",
    ),
    ("logout_url", Url, Text, "Where browsers go on to after log-out."),
    ("ca", Shown, Text, "A PEM file: CAs that are trusted beside the system's."),
    ("timeout", Shown, Text, "How long one request to it may take: 100ms to 60s.  By default 5s."),
]);

pub static CLAIM_ROLE: Schema = Fields(&[
    ("claim", Shown, Required(&Text), "The claim, or \"*\" for everybody at the provider."),
    (
        "value",
        Shown,
        Scalars,
        "What the claim must be or hold: a text, a number, true, false, a list of these, or \"*\" for anything.",
    ),
    ("role", Shown, Required(&Word(&["Viewer", "Editor", "Admin"])), "The role of its people."),
]);

pub const SESSION: Schema = Fields(&[
    (
        "domain",
        Shown,
        Text,
        "Sessions of applications count on every host under it, such as example.com.  By default on their own host alone.",
    ),
    (
        "log_in_url",
        Url,
        Text,
        "Where there is no admin: the log-in page of the server that has it, such as https://keys.example.com/login.",
    ),
]);

const ACTOR: Schema = Fields(&[
    ("role", Shown, Text, "A role; Viewer, Editor and Admin mean something to API keys."),
    ("name", Shown, Text, "A name."),
]);

const ALLOW: Schema = Fields(&[
    ("role", Shown, Texts, "Roles, of which the actor must have one."),
    ("unauthenticated", Unknown, Bool, "Whether the anonymous are admitted."),
]);

const WHO: &str = "true (everyone), false (no one), or members of which one must match the actor's.";

const ENFORCE: &str =
    "With false the policy denies nobody and tells whom it would have denied.  By default true.";

pub const POLICY: Schema = Fields(&[("allow", ALLOW, AllowBlock, WHO), ("enforce", Unknown, Bool, ENFORCE)]);

const CROSS_SITE: &str = "Whether requests that another site caused may use it to change something.";

pub static LOCATION: Schema = Fields(&[
    ("header", Shown, Either(&Text), "A header whose whole value is the token."),
    ("query", Shown, Either(&Text), "A query parameter."),
    ("cookie", Shown, Either(&Text), "A cookie."),
    ("basic", BASIC, Either(&Nested), "HTTP Basic with options."),
    ("allow_cross_site", Unknown, Bool, CROSS_SITE),
]);

pub const BASIC: Schema = Fields(&[("allow_cross_site", Unknown, Bool, CROSS_SITE)]);

pub static ROUTE: Schema = Fields(&[
    ("host", Shown, Text, "A host, or *.suffix; the port does not count."),
    ("path", Shown, Text, "Exactly this path, percent-decoded."),
    ("path_prefix", Shown, Text, "This path and everything below it, by whole segments."),
    ("path_regex", Shown, Text, "A regular expression for the whole percent-decoded path."),
    ("methods", Shown, Texts, "Methods such as GET, which covers HEAD."),
    ("policy", Shown, Either(&Text), "The name of one of `policies`."),
    ("allow", ALLOW, Either(&AllowBlock), WHO),
    ("enforce", Unknown, Bool, ENFORCE),
]);

const DATASETTE_PLUGIN_KEYS: &[KeySchema] = &[
    ("tokens", Each(&TOKEN), Nested, "Who stands behind which token."),
    ("param", Shown, Text, "The query parameter that may carry a token."),
];
pub static DATASETTE_PLUGIN: Schema = Fields(DATASETTE_PLUGIN_KEYS);
static DATASETTE_TOKENS: Schema = Each(&TOKEN);
/// A secret reference.
pub static REFERENCE: Schema = Fields(&[
    ("$env", Shown, Text, "The value of this environment variable."),
    ("$file", Shown, Text, "This file's text, less one trailing line ending."),
]);
static UNKNOWN: Schema = Unknown;

impl Schema {
    /// Whether a mapping of this kind has this key.
    pub fn has_key(&self, key: &str) -> bool {
        self.keys().any(|known| known == key)
    }

    /// The keys of a mapping of this kind, in the order of the table.
    pub fn keys(&self) -> impl Iterator<Item = &'static str> {
        let rows: &[KeySchema] = match self {
            Fields(rows) => rows,
            DatasettePlugin => DATASETTE_PLUGIN_KEYS,
            Secret | Unknown | Shown | Url | Named(_) | Each(_) | Locations(_) => &[],
        };
        rows.iter().map(|(name, ..)| *name)
    }

    /// The schema of the value under this key of a mapping.
    pub fn under_key(&self, key: &str) -> &Schema {
        match self {
            Fields(fields) => {
                fields.iter().find(|(name, ..)| *name == key).map_or(&UNKNOWN, |(_, schema, ..)| schema)
            }
            Named(schema) => schema,
            DatasettePlugin => DATASETTE_PLUGIN.under_key(key),
            // A mapping in the place of a secret is as secret.
            Secret => self,
            Unknown | Shown | Url | Each(_) | Locations(_) => &UNKNOWN,
        }
    }

    /// The schema of an element of a list.
    pub fn of_element(&self) -> &Schema {
        match self {
            Each(schema) | Locations(schema) => schema,
            DatasettePlugin => DATASETTE_TOKENS.of_element(),
            Shown | Secret | Url => self,
            Unknown | Fields(_) | Named(_) => &UNKNOWN,
        }
    }

    /// Whether this key of a mapping may be shown.
    pub fn shows_key(&self, key: &str) -> bool {
        match self {
            // YAML reads a secret with a colon in it as a mapping, whose key is the first part of the secret.
            Secret => false,
            Named(_) => is_name(key) || is_plain_word(key),
            Unknown | Shown | Url | Fields(_) | Each(_) | Locations(_) | DatasettePlugin => {
                is_plain_word(key) || resembles_configuration_key(key) || key == MERGE_KEY
            }
        }
    }

    /// How much of this scalar may be shown.
    pub fn visibility(&self, value: &Value) -> Visibility {
        let all = |shown| if shown { Visibility::Full } else { Visibility::Hidden };
        match value {
            Value::Null | Value::Bool(_) => all(!matches!(self, Secret)),
            Value::Number(_) => all(matches!(self, Shown)),
            Value::Text(text) if matches!(self, Url) && is_printable(text.as_str()) => {
                Visibility::UrlWithoutSecrets
            }
            Value::Text(text) => {
                let is_word = matches!(self, Unknown | Fields(_)) && is_configuration_word(text.as_str());
                all((matches!(self, Shown) || is_word) && is_printable(text.as_str()))
            }
            Value::List(_) | Value::Map(_) | Value::Unresolved { .. } => Visibility::Hidden,
        }
    }
}

/// How much of a scalar may be shown, in ascending order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Visibility {
    /// Nothing.
    Hidden,
    /// The result of [`url_without_secrets`].
    UrlWithoutSecrets,
    /// The whole value.
    Full,
}

/// A URL as written in the file, without everything that may be a password: the part before the last `@` and the part
/// behind `?`.  `None` when these parts cannot be separated for certain.
pub fn url_without_secrets(written: &str) -> Option<String> {
    let (quote, url) = match written.as_bytes() {
        [quote @ (b'"' | b'\''), .., end] if quote == end => (&written[..1], &written[1..written.len() - 1]),
        _ => ("", written),
    };
    let schemes =
        ["https://", "http://", "postgres://", "postgresql://", "sqlite:", "ldaps://", "ldap://", "ldapi://"];
    let scheme = schemes.into_iter().find(|scheme| url.starts_with(scheme))?;
    let (rest, user) = match url[scheme.len()..].rsplit_once('@') {
        // An @ behind the first ? may be part of a password that goes on behind it.
        Some((before, _)) if before.contains(['?', '#']) => return None,
        Some((_, rest)) => (rest, "***@"),
        None => (&url[scheme.len()..], ""),
    };
    let end = rest.find(['?', '#']).unwrap_or(rest.len());
    let (location, query) = (&rest[..end], if end < rest.len() { "?***" } else { "" });
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/:[]%".contains(&byte);
    location.bytes().all(is_plain).then(|| format!("{quote}{scheme}{user}{location}{query}{quote}"))
}

/// The secrets in a URL, to be masked elsewhere, too: its user info, and the password in that.
pub fn secrets_of_url(url: &str) -> Vec<&str> {
    let user_info =
        url.split_once("://").and_then(|(_, rest)| rest.rsplit_once('@')).map(|(before, _)| before);
    let password = user_info.and_then(|user_info| user_info.split_once(':')).map(|(_, password)| password);
    [user_info, password].into_iter().flatten().filter(|secret| !secret.is_empty()).collect()
}

/// Whether a text is one of the words that values can be.  No secret is one of them.
fn is_configuration_word(text: &str) -> bool {
    let words = [
        "deny",
        "error",
        "off",
        "anonymous",
        "empty_segment",
        "encoded_slash",
        "parameters",
        "prefixed",
        "plain",
    ];
    CredentialLocation::UNNAMED.contains(&text)
        || CredentialLocation::NAMED.contains(&text)
        || words.contains(&text)
        || is_boolean_word(text)
}

/// Whether a text is a word that YAML 1.1 reads as true or false.
pub fn is_boolean_word(text: &str) -> bool {
    let words = ["true", "false", "yes", "no", "on", "off", "y", "n"];
    words.iter().any(|word| text.eq_ignore_ascii_case(word))
}

/// Whether the key is one of the configuration's own.
pub fn is_configuration_key(key: &str) -> bool {
    has_key_like(&SCHEMA, &|name| name == key) || has_key_like(&REFERENCE, &|name| name == key)
}

/// Whether the key is one of the configuration's own, or one but for its case, its hyphens and its underscores, such as
/// `bindDN` and `search-base`.  No secret is.
pub fn resembles_configuration_key(key: &str) -> bool {
    fn letters(text: &str) -> impl Iterator<Item = u8> {
        text.bytes().filter(|byte| !matches!(byte, b'-' | b'_')).map(|byte| byte.to_ascii_lowercase())
    }
    is_configuration_key(key) || has_key_like(&SCHEMA, &|name| letters(name).eq(letters(key)))
}

fn has_key_like(schema: &Schema, is_like: &dyn Fn(&str) -> bool) -> bool {
    match schema {
        Fields(fields) => {
            fields.iter().any(|(name, schema, ..)| is_like(name) || has_key_like(schema, is_like))
        }
        Named(schema) | Each(schema) | Locations(schema) => has_key_like(schema, is_like),
        DatasettePlugin => has_key_like(&DATASETTE_PLUGIN, is_like),
        Secret | Unknown | Shown | Url => false,
    }
}

/// YAML 1.1's merge key.
pub const MERGE_KEY: &str = "<<";

/// Whether a key looks like a plain word, as secrets hardly ever do.
pub fn is_plain_word(key: &str) -> bool {
    (1..=32).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
}

/// Whether a text looks like the name of a policy or a header rather than like a secret.
pub fn is_name(text: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let digits = text.bytes().filter(u8::is_ascii_digit).count();
    (1..=40).contains(&text.len()) && text.bytes().all(legal) && digits <= 3
}

/// Whether a text may be printed: not too long, and without characters that control a terminal.
fn is_printable(text: &str) -> bool {
    let is_unsafe = |character: char| character.is_control() || !is_visible(character);
    (1..=200).contains(&text.len()) && !text.chars().any(is_unsafe)
}

/// Whether it is not a combining mark, a direction mark or an invisible character: `escape_debug` escapes those.
fn is_visible(character: char) -> bool {
    character.is_ascii() || character.escape_debug().len() == 1
}
