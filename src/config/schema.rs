//! The keys of a configuration: what of each may be shown, what it can be, and what it is for.
//!
//! One line a key.  [`json`] prints the table for editors.  A place that is not named here is unknown, and
//! what stands there is masked.

pub mod json;

use self::json::Form;
use super::raw::Value;

/// Which values of a configuration may be shown.
pub enum Schema {
    /// Nothing: it is a secret.
    Secret,
    /// Nothing but true, false and null: it could be a secret.
    Unknown,
    /// A scalar or a list of scalars, shown.
    Shown,
    /// A URL, shown less its user info and its query: a password may stand in either.
    Url,
    /// A mapping with these keys.  What stands under any other is unknown.
    Fields(&'static [Key]),
    /// A mapping from names to values of this kind.
    Named(&'static Schema),
    /// A list of values of this kind.
    Each(&'static Schema),
    /// A list of words and mappings.
    Places(&'static Schema),
    /// The seed's plugin: a list of tokens, or a mapping that holds it.
    SeedPlugin,
}

/// A key: its name, what of its value may be shown, what it can be, and what it is for.
pub type Key = (&'static str, Schema, Form, &'static str);

use Form::{Actor, AllowBlock, Bool, Either, Integer, Nested, Required, Size, Text, Texts, Word, Words};
use Schema::{Each, Fields, Named, Places, Secret, SeedPlugin, Shown, Unknown, Url};

/// The document.
pub static SCHEMA: Schema = Fields(&[
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
    ("keys", KEYS, Nested, "API keys that are issued while the server runs.  Without it there are none."),
    (
        "credentials",
        Places(&PLACE),
        Nested,
        "Where a request may carry a credential; the first place that carries anything decides alone.  \
         By default [bearer, basic].",
    ),
    ("forward_credentials", Unknown, Bool, "Whether the upstream sees the credential.  By default false."),
    (
        "unknown_credentials",
        Unknown,
        Word(&["deny", "anonymous"]),
        "What a well-formed token that nobody knows is: denied, or anonymous because it may be the upstream's own.  \
         By default deny.",
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
]);

const LISTEN: &str = "An IP address and port, unix:/path (mode 0660), or unix:@name (abstract).";

const EXT_AUTHZ: Schema = Fields(&[
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

/// The path of the key is not shown: somebody may have written the key itself in its place.
const TLS: Schema = Fields(&[
    ("cert", Shown, Required(&Text), "A PEM file: the server's certificate, then what leads to its CA."),
    ("key", Unknown, Required(&Text), "A PEM file: the certificate's private key, without a password."),
    ("client_ca", Shown, Text, "A PEM file: clients must show a certificate that one of these has signed."),
    ("client_names", Shown, Texts, "A client's certificate must have one of these URI or DNS names."),
]);

const PROBES: Schema = Fields(&[("listen", Shown, Text, LISTEN)]);

const ADMIN: Schema = Fields(&[
    ("listen", Shown, Text, LISTEN),
    ("tls", TLS, Nested, "TLS on this listener; with client_ca, mutual TLS."),
    ("public_url", Url, Text, "Where browsers find the page, such as https://keys.example.com."),
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
    ("org_name", Shown, Text, "What GET /api/org says; by default Main Org."),
    ("allow", ALLOW, AllowBlock, "Who may manage keys.  By default {role: Admin}."),
]);

const PATHS: Schema = Fields(&[
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

const OVERRIDES: Schema = Fields(&[(
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
    SeedPlugin,
    Required(&Nested),
    "The plugin's own configuration: a list of tokens, or {tokens: [...], param: NAME}.",
)]);

const KEYS: Schema = Fields(&[
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
        "Members that whoever makes a key may add to its actor.  By default none.",
    ),
    (
        "max_staleness",
        Shown,
        Text,
        "How long keys count while the store cannot be read: off, or a duration such as 5m.",
    ),
    (
        "unavailable",
        Unknown,
        Word(&["deny", "error"]),
        "The answer when nobody can know whether a token is a key: a denial, or an error for failure_mode_allow.",
    ),
]);

const RESTRICTION: &str = "The only policies under which the actor counts.";

static TOKEN: Schema = Fields(&[
    ("token", Secret, Either(&Text), "The token itself, best by {$env: NAME} or {$file: PATH}."),
    ("sha256", Secret, Either(&Text), "The token's SHA-256 in hexadecimal: `envoy-auth-tokens token hash`."),
    ("name", Shown, Text, "A name for logs and metrics.  By default token-1, token-2 by position."),
    ("actor", ACTOR, Required(&Actor), "Who the token stands for: any object."),
    (
        "expires",
        Shown,
        Text,
        "From this instant on the token is dead: RFC 3339, such as 2027-06-30T00:00:00Z.",
    ),
    ("policies", Shown, Texts, RESTRICTION),
]);

static USER: Schema = Fields(&[
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

const POLICY: Schema = Fields(&[("allow", ALLOW, AllowBlock, WHO), ("enforce", Unknown, Bool, ENFORCE)]);

const CROSS_SITE: &str = "Whether requests that another site caused may use it to change something.";

static PLACE: Schema = Fields(&[
    ("header", Shown, Either(&Text), "A header whose whole value is the token."),
    ("query", Shown, Either(&Text), "A query parameter."),
    ("cookie", Shown, Either(&Text), "A cookie."),
    ("basic", BASIC, Either(&Nested), "HTTP Basic with options."),
    ("allow_cross_site", Unknown, Bool, CROSS_SITE),
]);

const BASIC: Schema = Fields(&[("allow_cross_site", Unknown, Bool, CROSS_SITE)]);

static ROUTE: Schema = Fields(&[
    ("host", Shown, Text, "A host, or *.suffix; the port does not count."),
    ("path", Shown, Text, "Exactly this path, percent-decoded."),
    ("path_prefix", Shown, Text, "This path and everything below it, by whole segments."),
    ("path_regex", Shown, Text, "A regular expression for the whole percent-decoded path."),
    ("methods", Shown, Texts, "Methods such as GET, which covers HEAD."),
    ("policy", Shown, Either(&Text), "The name of one of `policies`."),
    ("allow", ALLOW, Either(&AllowBlock), WHO),
    ("enforce", Unknown, Bool, ENFORCE),
]);

static SEED_PLUGIN: Schema = Fields(&[
    ("tokens", Each(&TOKEN), Nested, "Who stands behind which token."),
    ("param", Shown, Text, "The query parameter that may carry a token."),
]);
static SEED_TOKENS: Schema = Each(&TOKEN);
/// A secret reference.
pub static REFERENCE: Schema = Fields(&[
    ("$env", Shown, Text, "The value of this environment variable."),
    ("$file", Shown, Text, "This file's text, less one trailing line ending."),
]);
static UNKNOWN: Schema = Unknown;

impl Schema {
    /// What stands under this key of a mapping.
    pub fn under_key(&self, key: &str) -> &Schema {
        match self {
            Fields(fields) => {
                fields.iter().find(|(name, ..)| *name == key).map_or(&UNKNOWN, |(_, schema, ..)| schema)
            }
            Named(schema) => schema,
            SeedPlugin => SEED_PLUGIN.under_key(key),
            // A secret that is split over a mapping stays one.
            Secret => self,
            Unknown | Shown | Url | Each(_) | Places(_) => &UNKNOWN,
        }
    }

    /// What an element of a list is.
    pub fn of_element(&self) -> &Schema {
        match self {
            Each(schema) | Places(schema) => schema,
            SeedPlugin => SEED_TOKENS.of_element(),
            Shown | Secret => self,
            Unknown | Url | Fields(_) | Named(_) => &UNKNOWN,
        }
    }

    /// Whether this key of a mapping may be shown.
    pub fn shows_key(&self, key: &str) -> bool {
        match self {
            // A secret that looks like a mapping, because of a colon in it, begins with what looks like a key.
            Secret => false,
            Named(_) => is_name(key) || is_plain_word(key),
            Unknown | Shown | Url | Fields(_) | Each(_) | Places(_) | SeedPlugin => {
                is_plain_word(key) || is_configuration_key(key) || key == MERGE_KEY
            }
        }
    }

    /// How much of this scalar may be shown.
    pub fn shows_value(&self, value: &Value) -> Show {
        let all = |shown| if shown { Show::All } else { Show::Nothing };
        match value {
            Value::Null | Value::Bool(_) => all(!matches!(self, Secret)),
            Value::Number(_) => all(matches!(self, Shown)),
            Value::Text(text) if matches!(self, Url) && is_printable(text.as_str()) => Show::Url,
            Value::Text(text) => {
                let is_word = matches!(self, Unknown | Fields(_)) && is_configuration_word(text.as_str());
                all((matches!(self, Shown) || is_word) && is_printable(text.as_str()))
            }
            Value::List(_) | Value::Map(_) | Value::Unresolved { .. } => Show::Nothing,
        }
    }
}

/// How much of a scalar may be shown, least first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Show {
    /// Nothing of it.
    Nothing,
    /// What [`url_without_secrets`] leaves.
    Url,
    /// All of it.
    All,
}

/// A URL as it stands in the file, less everything that may be a password: what stands before the last `@`
/// and what stands behind `?`.  `None` when nothing is certain about it.
pub fn url_without_secrets(written: &str) -> Option<String> {
    let (quote, url) = match written.as_bytes() {
        [quote @ (b'"' | b'\''), .., end] if quote == end => (&written[..1], &written[1..written.len() - 1]),
        _ => ("", written),
    };
    let schemes = ["https://", "http://", "postgres://", "postgresql://", "sqlite:"];
    let scheme = schemes.into_iter().find(|scheme| url.starts_with(scheme))?;
    let (rest, user) = match url[scheme.len()..].rsplit_once('@') {
        // An @ behind the first ? may be part of a password, and then so is what follows it.
        Some((before, _)) if before.contains(['?', '#']) => return None,
        Some((_, rest)) => (rest, "***@"),
        None => (&url[scheme.len()..], ""),
    };
    let end = rest.find(['?', '#']).unwrap_or(rest.len());
    let (place, options) = (&rest[..end], if end < rest.len() { "?***" } else { "" });
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/:[]%".contains(&byte);
    place.bytes().all(is_plain).then(|| format!("{quote}{scheme}{user}{place}{options}{quote}"))
}

/// The user info of a URL, which may stand elsewhere too: its password, and the whole.
pub fn secrets_of_url(url: &str) -> Vec<&str> {
    let user_info =
        url.split_once("://").and_then(|(_, rest)| rest.rsplit_once('@')).map(|(before, _)| before);
    let password = user_info.and_then(|user_info| user_info.split_once(':')).map(|(_, password)| password);
    [user_info, password].into_iter().flatten().filter(|secret| !secret.is_empty()).collect()
}

/// Words that stand as values and mean something to us: no secret is one of them.
fn is_configuration_word(text: &str) -> bool {
    let words = [
        "bearer",
        "basic",
        "session",
        "header",
        "query",
        "cookie",
        "deny",
        "error",
        "off",
        "anonymous",
        "empty_segment",
        "encoded_slash",
        "parameters",
    ];
    words.contains(&text) || is_boolean_word(text)
}

/// Whether a text is a word that YAML 1.1 took for true or false, or one of these in quotes.
pub fn is_boolean_word(text: &str) -> bool {
    let words = ["true", "false", "yes", "no", "on", "off", "y", "n"];
    words.iter().any(|word| text.eq_ignore_ascii_case(word))
}

/// Whether the key is one of the configuration's own.
pub fn is_configuration_key(key: &str) -> bool {
    fn has(schema: &Schema, key: &str) -> bool {
        match schema {
            Fields(fields) => fields.iter().any(|(name, schema, ..)| *name == key || has(schema, key)),
            Named(schema) | Each(schema) | Places(schema) => has(schema, key),
            SeedPlugin => has(&SEED_PLUGIN, key),
            Secret | Unknown | Shown | Url => false,
        }
    }
    has(&SCHEMA, key) || has(&REFERENCE, key)
}

/// YAML 1.1's merge key, which is no word and no secret.
pub const MERGE_KEY: &str = "<<";

/// Whether a key looks like a plain word, which secrets hardly ever do.
pub fn is_plain_word(key: &str) -> bool {
    (1..=32).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
}

/// Whether a text looks like the name of a policy or a header rather than like a secret.
pub fn is_name(text: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let digits = text.bytes().filter(u8::is_ascii_digit).count();
    (1..=40).contains(&text.len()) && text.bytes().all(legal) && digits <= 3
}

/// Whether a text can be shown at all: not too long, and nothing in it that would move a terminal's cursor.
fn is_printable(text: &str) -> bool {
    let moves = |character: char| character.is_control() || !is_visible(character);
    (1..=200).contains(&text.len()) && !text.chars().any(moves)
}

/// Not a mark, a direction or an invisible character: those are what `escape_debug` escapes.
fn is_visible(character: char) -> bool {
    character.is_ascii() || character.escape_debug().len() == 1
}
