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

/// The schema of a value: its keys, and how much of it may be shown.
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
    ("ext_authz", EXT_AUTHZ, Nested, "The listener for Envoy's ext_authz requests (Checks)."),
    ("probes", PROBES, Nested, "The listener for health checks and metrics: GET /live, /ready and /metrics."),
    (
        "admin",
        ADMIN,
        Nested,
        "The listener of the admin API and the page, where people manage API keys.  Without this section there is no \
         such listener.",
    ),
    (
        "tokens",
        Each(&TOKEN),
        Nested,
        "Tokens of the configuration.  Each entry has a token, or its digest, and the actor that the token stands \
         for.",
    ),
    (
        "users",
        Each(&USER),
        Nested,
        "Users of the configuration, who send their password by HTTP Basic or log in at the page.",
    ),
    (
        "ldap",
        LDAP,
        Nested,
        "An LDAP directory.  People in it log in with their password, as `users` do.  Without this section no \
         directory is asked.",
    ),
    (
        "oauth",
        Each(&PROVIDER),
        Nested,
        "Providers at which people log in, by OpenID Connect or plain OAuth 2.  Needs `keys` and `admin.public_url`.  \
         Without this section there is no provider.",
    ),
    (
        "session",
        SESSION,
        Nested,
        "The sessions that people use at applications: the domain for which they count, and the log-in page.",
    ),
    (
        "keys",
        KEYS,
        Nested,
        "API keys, which people issue while the server runs: where they are stored, and their limits.  Without this \
         section there are no API keys.",
    ),
    (
        "credentials",
        Locations(&LOCATION),
        Nested,
        "The locations where a request may carry a credential, in order: bearer, basic, session, {header: NAME}, \
         {query: NAME}, {cookie: NAME}.  The first location that carries anything decides alone.  By default [bearer, \
         basic].",
    ),
    (
        "forward_credentials",
        Unknown,
        Bool,
        "Whether the credential stays in the request that the upstream receives.  If false, it is removed.  By \
         default false.",
    ),
    (
        "unknown_credentials",
        Unknown,
        Word(&["deny", "anonymous"]),
        "What happens to a request whose token is well-formed and unknown.  deny: 401.  anonymous: the request goes \
         on without an actor and keeps its token, which may belong to the upstream.  A token in the format of issued \
         keys with a correct checksum is always denied.  By default deny.",
    ),
    (
        "allow_cors_preflight",
        Unknown,
        Bool,
        "Whether CORS preflights pass without a credential, on every path.  A preflight is an OPTIONS request with \
         the headers origin and access-control-request-method.  By default false.",
    ),
    (
        "realm",
        Shown,
        Text,
        "The realm in the header WWW-Authenticate of denials: printable ASCII without quotes and backslashes.  By \
         default api.",
    ),
    (
        "policies",
        Named(&POLICY),
        Nested,
        "Policies by name.  Routes, credentials and Envoy's routes refer to these names.  A name has 1 to 190 \
         printable characters; default and route-1, route-2 … are reserved.",
    ),
    (
        "routes",
        Each(&ROUTE),
        Nested,
        "Which policy decides about which request.  The first route that matches decides; all keys of a route must \
         match.",
    ),
    (
        "default",
        POLICY,
        Nested,
        "The policy for requests that match no route.  {} admits any actor and no anonymous request.  Required where \
         there are `routes`.",
    ),
    (
        "paths",
        PATHS,
        Nested,
        "How paths are compared.  A path that can be read in two ways (ambiguous) is denied with 400 unless it is \
         permitted here.",
    ),
    (
        "overrides",
        OVERRIDES,
        Nested,
        "Headers by which a request asks the upstream for another path, host or method.  They are denied with 400 \
         unless they are permitted here.",
    ),
    (
        "actor_headers",
        Named(&Shown),
        Nested,
        "The headers that tell the upstream about the actor, each with a member of the actor such as id or team.name, \
         or \"*\" for the whole actor as JSON.  At most 32, in lower case.  By default x-actor: \"*\", x-actor-id: \
         id, x-actor-name: name, x-actor-role: role.",
    ),
    (
        "plugins",
        PLUGINS,
        Nested,
        "A Datasette configuration, whose tokens are read.  Only ext_authz, probes, admin and keys are allowed next \
         to it.",
    ),
];

/// Our own sections that are allowed next to `plugins`: none of them decides a Check.
pub const SECTIONS_BESIDE_PLUGINS: &[&str] = &["ext_authz", "probes", "admin", "keys"];

const LISTEN: &str = "The address of the listener: an IP address with a port, unix:/path for a Unix socket (mode 0660), or \
         unix:@name for an abstract socket.  An address that other machines can reach gives a warning.";

pub const EXT_AUTHZ: Schema = Fields(&[
    ("listen", Shown, Text, LISTEN),
    ("tls", TLS, Nested, "TLS for this listener.  With client_ca, clients need a certificate (mutual TLS)."),
    (
        "max_request_bytes",
        Shown,
        Size,
        "The largest CheckRequest message: a number of bytes, or a text with a unit, from 1KiB to 256MiB.  A larger \
         message is denied with 413.  By default 16MiB.",
    ),
    (
        "max_connections",
        Shown,
        Integer,
        "The largest number of connections at a time, from 1 to 1048576.  Envoy opens one for each of its worker \
         threads.  By default 4096.",
    ),
]);

/// The value of `key` is not shown: it may be the key itself instead of a path.
pub const TLS: Schema = Fields(&[
    (
        "cert",
        Shown,
        Required(&Text),
        "The path of a PEM file: the certificate of the server, then the intermediate certificates.",
    ),
    (
        "key",
        Unknown,
        Required(&Text),
        "The path of a PEM file: the private key of the certificate, not encrypted.",
    ),
    (
        "client_ca",
        Shown,
        Text,
        "The path of a PEM file with CA certificates.  Clients must present a certificate that one of these CAs has \
         signed.",
    ),
    (
        "client_names",
        Shown,
        Texts,
        "URI or DNS names.  The certificate of a client must have at least one of them.  Needs client_ca.",
    ),
]);

pub const PROBES: Schema = Fields(&[("listen", Shown, Text, LISTEN)]);

pub const ADMIN: Schema = Fields(&[
    ("listen", Shown, Text, LISTEN),
    ("tls", TLS, Nested, "TLS for this listener.  With client_ca, clients need a certificate (mutual TLS)."),
    (
        "public_url",
        Url,
        Text,
        "The URL of the page in browsers, such as https://keys.example.com or https://app.example.com/keys.  Required \
         for `oauth`, `login_redirect` and `login_hosts`.",
    ),
    (
        "hosts",
        Shown,
        Texts,
        "Host names by which clients reach the listener.  IP addresses, localhost, the names in the certificate and \
         the host of public_url are always accepted.  Any other host gets 421.",
    ),
    (
        "trusted_proxies",
        Shown,
        Texts,
        "IP addresses and networks of the proxies in front of this listener.  The audit log takes the address of the \
         client from their X-Forwarded-For.",
    ),
    (
        "allow",
        ALLOW,
        AllowBlock,
        "The allow block of administrators, who manage all keys and accounts.  It cannot admit anonymous requests.  \
         By default {role: Admin}.",
    ),
    (
        "self_service",
        ALLOW,
        AllowBlock,
        "The allow block of people who manage their own keys: they create, change, rotate and revoke them.  It \
         cannot admit anonymous requests.  By default no one.",
    ),
    (
        "introspect",
        ALLOW,
        AllowBlock,
        "The allow block of callers of POST /api/auth/introspect (RFC 7662), which returns whether a token is active \
         and who its actor is.  It cannot admit anonymous requests.  By default no one.",
    ),
    (
        "org_name",
        Shown,
        Text,
        "The name of the organization in the answer of GET /api/org, for clients of Grafana's API.  By default Main \
         Org.",
    ),
    (
        "login_redirect",
        Unknown,
        Bool,
        "Whether a browser whose request has no credential is sent to the log-in page (302) instead of getting 401.  \
         Needs public_url and session in `credentials`.  By default false.",
    ),
    (
        "login_hosts",
        Shown,
        Texts,
        "Hosts of applications, with or without a port, whose log-in and log-out this listener serves.  Under these \
         hosts it answers /login and /logout and nothing else.  Needs public_url and session in `credentials`.",
    ),
]);

pub const PATHS: Schema = Fields(&[
    (
        "permit",
        Unknown,
        Words(&["empty_segment", "encoded_slash", "parameters", "encoded_delimiter"]),
        "The kinds of ambiguous path that are not denied.  Such a path must select the same policy in every reading; \
         otherwise it is still 400.  By default none.",
    ),
    (
        "case",
        Unknown,
        Word(&["sensitive", "ignore"]),
        "Whether letter case counts.  ignore is for upstreams that ignore it: where no route matches a path exactly, \
         the policy of the same path in another case must admit the request as well.  By default sensitive.",
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
    "The headers, and _method in the query, that are permitted.  They are believed, so a trusted proxy in front of Envoy must set them and must not \
         pass on those of clients.  By default none.",
)]);

const PLUGINS: Schema = Fields(&[(
    "datasette-auth-tokens",
    DatasettePlugin,
    Required(&Nested),
    "The configuration of the plugin datasette-auth-tokens: a list of tokens, or {tokens: [...], param: NAME}.",
)]);

pub const KEYS: Schema = Fields(&[
    (
        "store",
        Url,
        Required(&Text),
        "The database of keys and sessions: sqlite:/path/to/keys.db, or postgres://user:password@host/database.",
    ),
    (
        "max_seconds_to_live",
        Shown,
        Integer,
        "The longest life of a key, in seconds: -1 for no limit, 0 to forbid new keys.  A key that would live longer \
         is not created.  By default -1: no limit.",
    ),
    (
        "prefix",
        Shown,
        Text,
        "The text with which each new key begins: 1 to 32 letters and digits.  By default eat.",
    ),
    (
        "max",
        Shown,
        Integer,
        "The largest number of stored keys, from 0: -1 for no limit.  Expired and revoked keys count until they are \
         deleted.  By default -1: no limit.",
    ),
    (
        "actor_members",
        Shown,
        Texts,
        "The names of members that the creator of a key may add to the actor of the key.  id, name, role, key and \
         key_id cannot be added.  By default none.",
    ),
    (
        "max_staleness",
        Shown,
        Text,
        "How long keys stay valid while the store cannot be read: off for no limit, or a duration of at least 1s, \
         such as 5m.  After that the answer is that of `unavailable`.  By default off.",
    ),
    (
        "ready_without_store",
        Shown,
        Text,
        "When a server that has never read the store reports ready: never, or after a duration such as 10s.  By \
         default never.",
    ),
    (
        "forget_after",
        Shown,
        Text,
        "How long after its end an expired or revoked key is deleted: a duration of at least 1h, or never.  By \
         default 90d.",
    ),
    (
        "max_idle",
        Shown,
        Text,
        "A key that is not used for this time expires: a duration of at least 1d, such as 180d, or never.  By default \
         never.",
    ),
    (
        "default_seconds_to_live",
        Shown,
        Integer,
        "The life that the page and the command line propose for a new key, in seconds; 0 means no expiry.  At most \
         max_seconds_to_live.  By default 7776000, 90 days.",
    ),
    (
        "person_max_idle",
        Shown,
        Text,
        "How long the keys of a person of a directory or a provider work after the person was last seen: a duration \
         of at least 1d.  A person is seen at a log-in, and when a session of the directory is used; the use of a key \
         does not count.  By default 30d.",
    ),
    (
        "tell_expiry",
        Shown,
        Text,
        "How long before a key or token expires the responses to requests with it have the header x-token-expires, \
         which holds the time of expiry: off, or a duration of at least 1m, such as 14d.  By default off.",
    ),
    (
        "unavailable",
        Unknown,
        Word(&["deny", "error"]),
        "The answer when the store cannot be read and the token may be a key.  deny: the request is denied with 503.  \
         error: Envoy gets an error, so that its failure_mode_allow decides.  By default deny.",
    ),
    (
        "read_only",
        Unknown,
        Bool,
        "Whether the store is only read: for a standby of PostgreSQL, or for a database role that has SELECT only.  \
         No key can be changed then.  By default false.",
    ),
]);

const RESTRICTION: &str = "Names of `policies`.  The credential counts under these policies only; under any other policy the request is \
         anonymous.  Without this key it counts under every policy; with [] under none.";

pub static TOKEN: Schema = Fields(&[
    (
        "name",
        Shown,
        Text,
        "The name of the token in logs and metrics: unique, 1 to 190 printable characters.  By default token-1, \
         token-2 by position.",
    ),
    (
        "token",
        Secret,
        Either(&Text),
        "The token: 1 to 4096 visible ASCII characters without comma and semicolon.  Use {$env: NAME} or {$file: \
         PATH}.  Fewer than 16 characters give a warning.",
    ),
    (
        "sha256",
        Secret,
        Either(&Text),
        "The SHA-256 of the token, 64 hexadecimal digits.  `envoy-auth-tokens token hash` prints it.",
    ),
    (
        "actor",
        ACTOR,
        Required(&Actor),
        "The actor that the token stands for: an object with any members.  Its id must not begin with key: or sa:.",
    ),
    (
        "expires",
        Shown,
        Text,
        "The time from which on the token is denied as expired, in RFC 3339, such as 2027-06-30T00:00:00Z.  Without \
         this key the token does not expire.",
    ),
    ("policies", Shown, Texts, RESTRICTION),
]);

pub static USER: Schema = Fields(&[
    ("username", Shown, Required(&Text), "The name of the user.  It is unique and not api_key."),
    (
        "password",
        Secret,
        Either(&Text),
        "The password.  Use {$env: NAME} or {$file: PATH}.  It is hashed when the configuration is read; fewer than \
         12 characters give a warning.",
    ),
    (
        "password_hash",
        Secret,
        Either(&Text),
        "The hash of the password: argon2id as a PHC string, or bcrypt.  `envoy-auth-tokens password` makes one.",
    ),
    (
        "actor",
        ACTOR,
        Actor,
        "The actor that the user stands for: an object with any members.  By default {id: <username>}.",
    ),
    ("policies", Shown, Texts, RESTRICTION),
]);

pub const LDAP: Schema = Fields(&[
    (
        "url",
        Url,
        Required(&OneOrMore),
        "The server of the directory: ldaps://host, ldap://host with start_tls, or ldapi://%2Fpath%2Fto%2Fsocket.  \
         The servers of a list are tried in order.",
    ),
    (
        "start_tls",
        Unknown,
        Bool,
        "Whether ldap:// connections switch to TLS (StartTLS) before anything else is sent.  Required for ldap:// to \
         another machine.  By default false.",
    ),
    (
        "ca",
        Shown,
        Text,
        "The path of a PEM file with CA certificates.  They are trusted in addition to those of the system.",
    ),
    (
        "bind_dn",
        Shown,
        Text,
        "The name with which this server searches the directory, such as cn=reader,dc=example,dc=org.  If it contains \
         %s, each person binds directly, and %s stands for the name of the person.  By default searches are anonymous.",
    ),
    (
        "bind_password",
        Secret,
        Text,
        "The password of bind_dn.  Use {$env: NAME} or {$file: PATH}.  Required with a bind_dn without %s, and not \
         allowed with %s.",
    ),
    (
        "search_base",
        Shown,
        Required(&OneOrMore),
        "The names of the entries below which people are searched.  The bases of a list are searched in order.",
    ),
    (
        "search_filter",
        Shown,
        Required(&Text),
        "The LDAP filter (RFC 4515) that finds a person by name, such as (uid=%s).  %s stands for the name.",
    ),
    (
        "members",
        Named(&Shown),
        Nested,
        "The members of the actor, each with the attribute of the entry that gives its value.  By default {id: uid, \
         name: cn, email: mail, groups: memberOf}.",
    ),
    (
        "group_search",
        GROUP_SEARCH,
        Nested,
        "How the groups of a person are found, in directories whose entries of people do not name their groups.",
    ),
    (
        "roles",
        Each(&GROUP_ROLE),
        Required(&Nested),
        "The role of each group.  The first entry that matches gives the role; a person who matches none cannot log \
         in.",
    ),
    (
        "ids",
        Unknown,
        Word(&["prefixed", "plain"]),
        "Whether the id of an actor begins with ldap: (prefixed) or is the value in the directory alone (plain).  By \
         default prefixed.",
    ),
    (
        "at_check",
        Unknown,
        Bool,
        "Whether passwords that requests carry by HTTP Basic are verified at the directory.  If false, people log in \
         only at the admin listener.  By default true.",
    ),
    (
        "max_wrong",
        Shown,
        Integer,
        "After this number of wrong passwords for one entry within 30 minutes the directory is not asked again, and \
         further passwords are denied.  At least 1.  By default 3.",
    ),
    (
        "remember",
        Shown,
        Duration,
        "How long a correct password is accepted without asking the directory again: a duration of at most 1h, or 0.  \
         By default 5m.",
    ),
    (
        "timeout",
        Shown,
        Text,
        "The longest time for a request to one server, from 100ms to 60s.  By default 5s.",
    ),
]);

pub const GROUP_SEARCH: Schema = Fields(&[
    ("base", Shown, Required(&OneOrMore), "The names of the entries below which groups are searched."),
    (
        "filter",
        Shown,
        Required(&Text),
        "The LDAP filter (RFC 4515) that finds the groups of a person, such as (memberUid=%s).  %s stands for the \
         value of user_attribute.",
    ),
    (
        "user_attribute",
        Shown,
        Text,
        "The attribute of the person whose value stands for %s in the filter; dn is the name of the entry.  By \
         default that of members.id.",
    ),
]);

pub static GROUP_ROLE: Schema = Fields(&[
    ("group", Shown, Required(&Text), "The name (DN) of the group, or \"*\" for all people."),
    (
        "role",
        Shown,
        Required(&Word(&["Viewer", "Editor", "Admin"])),
        "The role that people of the group get.",
    ),
]);

pub static PROVIDER: Schema = Fields(&[
    (
        "name",
        Shown,
        Required(&Text),
        "The name of the provider.  It is unique, and is a part of the path /login/NAME and of the ids of actors.",
    ),
    (
        "label",
        Shown,
        Text,
        "The text on the log-in button of this provider, 1 to 190 printable characters.  By default its name.",
    ),
    (
        "issuer",
        Url,
        Text,
        "For OpenID Connect: the issuer URL of the provider, whose document is at /.well-known/openid-configuration \
         below it.  Either this or auth_url, token_url and api_url.",
    ),
    ("auth_url", Url, Text, "For plain OAuth 2: the authorization endpoint, to which browsers are sent."),
    (
        "token_url",
        Url,
        Text,
        "For plain OAuth 2: the token endpoint, which exchanges a code for an access token.",
    ),
    (
        "api_url",
        Url,
        Text,
        "For plain OAuth 2: the URL that returns the claims about the person as a JSON object.",
    ),
    ("client_id", Shown, Required(&Text), "The client id that the provider has given to this server."),
    (
        "client_secret",
        Secret,
        Text,
        "The client secret.  Use {$env: NAME} or {$file: PATH}.  Without this key the client is public.",
    ),
    (
        "scopes",
        Shown,
        Texts,
        "The scopes that log-ins request.  By default [openid, profile, email] with issuer, else nothing.",
    ),
    (
        "members",
        Named(&Shown),
        Nested,
        "The members of the actor, each with the claim that gives its value; a.b is the claim b in the object a.  By \
         default {id: sub, name: name, email: email, groups: groups} with issuer.",
    ),
    (
        "roles",
        Each(&CLAIM_ROLE),
        Required(&Nested),
        "The role for each claim.  The first entry that matches gives the role; a person who matches none cannot log \
         in.",
    ),
    (
        "ids",
        Unknown,
        Word(&["prefixed", "plain"]),
        "Whether the id of an actor begins with the name of the provider (prefixed) or is the value of the claim \
         alone (plain).  By default prefixed.",
    ),
    (
        "allowed_domains",
        Shown,
        Texts,
        "The domains of verified email addresses whose people may log in.  Needs issuer.  By default all domains.",
    ),
    ("logout_url", Url, Text, "The URL to which browsers are sent after log-out."),
    (
        "ca",
        Shown,
        Text,
        "The path of a PEM file with CA certificates.  They are trusted in addition to those of the system.",
    ),
    (
        "timeout",
        Shown,
        Text,
        "The longest time for a request to the provider, from 100ms to 60s.  By default 5s.",
    ),
]);

pub static CLAIM_ROLE: Schema = Fields(&[
    (
        "claim",
        Shown,
        Required(&Text),
        "The name of the claim, such as groups or realm_access.roles, or \"*\" for all people of the provider.",
    ),
    (
        "value",
        Shown,
        Scalars,
        "The value that the claim has, or that its list contains: a text, a number, true, false, or a list of these \
         of which one is enough.  \"*\" matches any value.",
    ),
    ("role", Shown, Required(&Word(&["Viewer", "Editor", "Admin"])), "The role that the person gets."),
]);

pub const SESSION: Schema = Fields(&[
    (
        "domain",
        Shown,
        Text,
        "The domain for which sessions of applications count, such as example.com, with every host below it.  Needs \
         https.  By default the host of the log-in alone.",
    ),
    (
        "log_in_url",
        Url,
        Text,
        "For a server without `admin`: the log-in page of the server that has it, such as \
         https://keys.example.com/login.  Browsers without a credential are sent there.",
    ),
]);

const ACTOR: Schema = Fields(&[
    ("role", Shown, Text, "The role of the actor.  Viewer, Editor and Admin are the roles of API keys."),
    ("name", Shown, Text, "The name of the actor."),
]);

const ALLOW: Schema = Fields(&[
    ("role", Shown, Texts, "The actor is admitted if its role is one of these."),
    ("unauthenticated", Unknown, Bool, "Whether anonymous requests are admitted."),
]);

const WHO: &str = "Who is admitted: true (every request), false (no request), or an object such as {role: [Editor, Admin], id: \
         root}.  An actor is admitted if at least one member matches.";

const ENFORCE: &str = "Whether the policy is enforced.  If false (shadow mode), a request that it denies passes without an actor; \
         metrics and the decision log show the denial.  By default true.";

pub const POLICY: Schema = Fields(&[
    (
        "allow",
        ALLOW,
        AllowBlock,
        "Who is admitted: true (every request), false (no request), or an object such as {role: [Editor, Admin], id: root}.  An \
         actor is admitted if at least one member matches.  By default any actor, and no anonymous request.",
    ),
    ("enforce", Unknown, Bool, ENFORCE),
]);

const CROSS_SITE: &str = "Whether the credential counts in requests that another web site caused, where they are not GET, HEAD or \
         OPTIONS or are WebSocket upgrades.  If false, such a request is denied with 403.  By default false.";

pub static LOCATION: Schema = Fields(&[
    ("header", Shown, Either(&Text), "The name of a header.  Its whole value is the token."),
    ("query", Shown, Either(&Text), "The name of a query parameter.  Its value is the token."),
    ("cookie", Shown, Either(&Text), "The name of a cookie.  Its value is the token."),
    ("basic", BASIC, Either(&Nested), "HTTP Basic, with options."),
    ("allow_cross_site", Unknown, Bool, CROSS_SITE),
]);

pub const BASIC: Schema = Fields(&[("allow_cross_site", Unknown, Bool, CROSS_SITE)]);

pub static ROUTE: Schema = Fields(&[
    (
        "host",
        Shown,
        Text,
        "The host of the request, or *.suffix for every host below a domain.  The port is ignored.",
    ),
    ("path", Shown, Text, "The whole path, percent-decoded.  Letter case counts."),
    (
        "path_prefix",
        Shown,
        Text,
        "A path and everything below it, by whole segments: /admin matches /admin and /admin/x, not /admins.",
    ),
    ("path_regex", Shown, Text, "A regular expression that matches the whole percent-decoded path."),
    ("methods", Shown, Texts, "The methods of the request, in upper case.  GET covers HEAD."),
    ("policy", Shown, Either(&Text), "The name of a policy in `policies`."),
    ("allow", ALLOW, Either(&AllowBlock), WHO),
    ("enforce", Unknown, Bool, ENFORCE),
]);

const DATASETTE_PLUGIN_KEYS: &[KeySchema] = &[
    (
        "tokens",
        Each(&TOKEN),
        Nested,
        "Tokens of the configuration.  Each entry has a token, or its digest, and the actor that the token stands \
         for.",
    ),
    ("param", Shown, Text, "The name of the query parameter that may carry a token."),
];
pub static DATASETTE_PLUGIN: Schema = Fields(DATASETTE_PLUGIN_KEYS);
static DATASETTE_TOKENS: Schema = Each(&TOKEN);
/// A secret reference.
pub static REFERENCE: Schema = Fields(&[
    ("$env", Shown, Text, "The name of an environment variable.  Its value is used."),
    ("$file", Shown, Text, "The path of a file.  Its text is used, without one trailing line ending."),
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
        // An @ after the first ? may be part of a password that continues after it.
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
