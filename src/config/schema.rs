//! Which places of a configuration hold nothing secret.
//!
//! A place that is not named here is unknown, and what stands there is masked.

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
    Fields(&'static [(&'static str, Schema)]),
    /// A mapping from names to values of this kind.
    Named(&'static Schema),
    /// A list of values of this kind.
    Each(&'static Schema),
    /// A list of words and mappings.
    Places(&'static Schema),
    /// The seed's plugin: a list of tokens, or a mapping that holds it.
    SeedPlugin,
}

use Schema::{Each, Fields, Named, Places, Secret, SeedPlugin, Shown, Unknown, Url};

/// The document.
pub static SCHEMA: Schema = Fields(&[
    ("ext_authz", Fields(&[("listen", Shown), ("tls", TLS), ("max_request_bytes", Shown)])),
    ("probes", Fields(&[("listen", Shown)])),
    ("admin", Fields(&[("listen", Shown), ("tls", TLS), ("public_url", Url), ("allow", ALLOW)])),
    ("tokens", Each(&TOKEN)),
    ("users", Each(&USER)),
    ("keys", KEYS),
    ("credentials", Places(&PLACE)),
    ("forward_credentials", Unknown),
    ("unknown_credentials", Unknown),
    ("allow_cors_preflight", Unknown),
    ("realm", Shown),
    ("policies", Named(&POLICY)),
    ("routes", Each(&ROUTE)),
    ("default", POLICY),
    ("paths", Fields(&[("permit", Unknown)])),
    ("actor_headers", Named(&Shown)),
    ("plugins", Fields(&[("datasette-auth-tokens", SeedPlugin)])),
]);

/// The path of the key is not shown: somebody may have written the key itself in its place.
const TLS: Schema =
    Fields(&[("cert", Shown), ("key", Unknown), ("client_ca", Shown), ("client_names", Shown)]);

const KEYS: Schema = Fields(&[
    ("store", Url),
    ("max_seconds_to_live", Shown),
    ("prefix", Shown),
    ("max", Shown),
    ("actor_members", Shown),
    ("max_staleness", Shown),
    ("unavailable", Unknown),
]);

static TOKEN: Schema = Fields(&[
    ("token", Secret),
    ("sha256", Secret),
    ("name", Shown),
    ("actor", ACTOR),
    ("expires", Shown),
    ("policies", Shown),
]);

static USER: Schema = Fields(&[
    ("username", Shown),
    ("password", Secret),
    ("password_hash", Secret),
    ("actor", ACTOR),
    ("policies", Shown),
]);

const ACTOR: Schema = Fields(&[("role", Shown), ("name", Shown)]);

const ALLOW: Schema = Fields(&[("role", Shown), ("unauthenticated", Unknown)]);

const POLICY: Schema = Fields(&[("allow", ALLOW), ("enforce", Unknown)]);

static PLACE: Schema = Fields(&[
    ("header", Shown),
    ("query", Shown),
    ("cookie", Shown),
    ("basic", Fields(&[("allow_cross_site", Unknown)])),
    ("allow_cross_site", Unknown),
]);

static ROUTE: Schema = Fields(&[
    ("host", Shown),
    ("path", Shown),
    ("path_prefix", Shown),
    ("path_regex", Shown),
    ("methods", Shown),
    ("policy", Shown),
    ("allow", ALLOW),
    ("enforce", Unknown),
]);

static SEED_PLUGIN: Schema = Fields(&[("tokens", Each(&TOKEN)), ("param", Shown)]);
static SEED_TOKENS: Schema = Each(&TOKEN);
/// A secret reference.
pub static REFERENCE: Schema = Fields(&[("$env", Shown), ("$file", Shown)]);
static UNKNOWN: Schema = Unknown;

impl Schema {
    /// What stands under this key of a mapping.
    pub fn under_key(&self, key: &str) -> &Schema {
        match self {
            Fields(fields) => {
                fields.iter().find(|(name, _)| *name == key).map_or(&UNKNOWN, |(_, schema)| schema)
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
        "refuse",
        "error",
        "off",
        "anonymous",
        "empty_segment",
        "encoded_slash",
        "parameters",
    ];
    words.contains(&text)
}

/// Whether the key is one of the configuration's own.
pub fn is_configuration_key(key: &str) -> bool {
    fn has(schema: &Schema, key: &str) -> bool {
        match schema {
            Fields(fields) => fields.iter().any(|(name, schema)| *name == key || has(schema, key)),
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
