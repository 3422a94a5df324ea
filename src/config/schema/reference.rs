//! What the reference of the configuration says of each key besides its row: default, example, and whether a change needs
//! a restart.
//!
//! A path is that of the key in the document, with `[]` for the elements of a list and `*` for any name.  The test below
//! holds each path against the table of keys, each default against what the reader takes, and each example against what
//! it accepts.

use serde_json::Value;

/// Path, default as JSON (empty: there is none, or the description says it), and an example as JSON.
type Entry = (&'static str, &'static str, &'static str);

/// The annotations of one key.
pub struct Reference {
    /// The value that the key has when it is absent.
    pub default: Option<Value>,
    /// A value that the reader accepts.
    pub example: Option<Value>,
    /// Whether a new value takes effect only at a restart.
    pub needs_restart: bool,
}

/// The entry of the key at this path.
pub fn reference(path: &str) -> Reference {
    let entry = ENTRIES.iter().find(|(known, ..)| *known == path);
    let value = |text: &str| {
        (!text.is_empty())
            .then(|| serde_json::from_str(text).expect("the test reads every text of the table"))
    };
    let (default, example) = entry.map_or(("", ""), |(_, default, example)| (default, example));
    Reference {
        default: value(default),
        example: value(example),
        needs_restart: NEEDS_RESTART.contains(&path),
    }
}

/// The keys whose new values need a restart.  Of `…tls` only the presence does, of `keys.store` only another database.
pub const NEEDS_RESTART: &[&str] = &[
    "ext_authz.listen",
    "ext_authz.tls",
    "ext_authz.max_request_bytes",
    "ext_authz.max_connections",
    "probes.listen",
    "admin.listen",
    "admin.tls",
    "keys.store",
    "keys.read_only",
];

const ENTRIES: &[Entry] = &[
    ("ext_authz.listen", r#""127.0.0.1:9191""#, r#""unix:/run/envoy-auth-tokens/ext_authz.sock""#),
    ("ext_authz.tls.cert", "", r#""tls/server.crt""#),
    ("ext_authz.tls.key", "", r#""tls/server.key""#),
    ("ext_authz.tls.client_ca", "", r#""tls/ca.crt""#),
    ("ext_authz.tls.client_names", "", r#"["spiffe://example.org/envoy"]"#),
    ("ext_authz.max_request_bytes", r#""16MiB""#, r#""1MiB""#),
    ("ext_authz.max_connections", "4096", "10000"),
    ("probes.listen", r#""127.0.0.1:9193""#, r#""0.0.0.0:9193""#),
    ("admin.listen", r#""127.0.0.1:9192""#, r#""0.0.0.0:9192""#),
    ("admin.tls.cert", "", r#""tls/server.crt""#),
    ("admin.tls.key", "", r#""tls/server.key""#),
    ("admin.tls.client_ca", "", r#""tls/ca.crt""#),
    ("admin.tls.client_names", "", r#"["ops.example.org"]"#),
    ("admin.public_url", "", r#""https://keys.example.com""#),
    ("admin.hosts", "[]", r#"["keys.internal.example"]"#),
    ("admin.trusted_proxies", "[]", r#"["10.0.0.0/8"]"#),
    ("admin.allow", r#"{"role": "Admin"}"#, r#"{"role": ["Admin", "Editor"]}"#),
    ("admin.self_service", "false", r#"{"role": ["Editor", "Viewer"]}"#),
    ("admin.introspect", "false", r#"{"id": "gateway"}"#),
    ("admin.org_name", r#""Main Org.""#, r#""Example""#),
    ("admin.login_redirect", "false", "true"),
    ("admin.login_hosts", "[]", r#"["app.example.com"]"#),
    ("tokens", "[]", ""),
    ("tokens[].name", "", r#""ci""#),
    ("tokens[].token", "", r#"{"$env": "BOT_TOKEN"}"#),
    ("tokens[].sha256", "", r#""3f0c8e6d5a417b29c2d1f0e4b6a7985c1d2e3f4051627384a5b6c7d8e9f0a1b2""#),
    ("tokens[].actor", "", r#"{"id": "ci", "role": "Editor"}"#),
    ("tokens[].expires", "", r#""2127-06-30T00:00:00Z""#),
    ("tokens[].policies", "", r#"["read"]"#),
    ("users", "[]", ""),
    ("users[].username", "", r#""ann""#),
    ("users[].password", "", r#"{"$env": "ADMIN_PASSWORD"}"#),
    ("users[].password_hash", "", r#""$2y$10$n9i8gXfWEGYyXkhYbkP1p.SoG0WMtjKp0AbwcCVBzkTpdTLnuP3Xi""#),
    ("users[].actor", "", r#"{"id": "ann", "role": "Viewer"}"#),
    ("users[].policies", "", r#"["read"]"#),
    ("ldap.url", "", r#"["ldaps://ldap1.example.com", "ldaps://ldap2.example.com"]"#),
    ("ldap.start_tls", "false", "false"),
    ("ldap.ca", "", r#""tls/ca.crt""#),
    ("ldap.bind_dn", "", r#""cn=reader,dc=example,dc=org""#),
    ("ldap.bind_password", "", r#"{"$env": "LDAP_PASSWORD"}"#),
    ("ldap.search_base", "", r#""ou=people,dc=example,dc=org""#),
    ("ldap.search_filter", "", r#""(uid=%s)""#),
    (
        "ldap.members",
        r#"{"id": "uid", "name": "cn", "email": "mail", "groups": "memberOf"}"#,
        r#"{"id": "entryUUID", "name": "cn", "groups": "memberOf"}"#,
    ),
    ("ldap.group_search.base", "", r#""ou=groups,dc=example,dc=org""#),
    ("ldap.group_search.filter", "", r#""(memberUid=%s)""#),
    ("ldap.group_search.user_attribute", "", r#""uid""#),
    ("ldap.roles[].group", "", r#""cn=admins,ou=groups,dc=example,dc=org""#),
    ("ldap.roles[].role", "", r#""Admin""#),
    ("ldap.ids", r#""prefixed""#, r#""plain""#),
    ("ldap.at_check", "true", "false"),
    ("ldap.max_wrong", "3", "2"),
    ("ldap.remember", r#""5m""#, r#""1m""#),
    ("ldap.timeout", r#""5s""#, r#""2s""#),
    ("oauth[].name", "", r#""corporate""#),
    ("oauth[].label", "", r#""Corporate account""#),
    ("oauth[].issuer", "", r#""https://id.example.com""#),
    ("oauth[].auth_url", "", r#""https://forge.example.com/login/oauth/authorize""#),
    ("oauth[].token_url", "", r#""https://forge.example.com/login/oauth/access_token""#),
    ("oauth[].api_url", "", r#""https://forge.example.com/api/user""#),
    ("oauth[].client_id", "", r#""envoy-auth-tokens""#),
    ("oauth[].client_secret", "", r#"{"$env": "OAUTH_SECRET"}"#),
    ("oauth[].scopes", "", r#"["openid", "profile", "email", "groups"]"#),
    ("oauth[].members", "", r#"{"id": "sub", "name": "name", "groups": "realm_access.roles"}"#),
    ("oauth[].roles[].claim", "", r#""groups""#),
    ("oauth[].roles[].value", "", r#"["staff", "guests"]"#),
    ("oauth[].roles[].role", "", r#""Viewer""#),
    ("oauth[].ids", r#""prefixed""#, r#""plain""#),
    ("oauth[].allowed_domains", "[]", r#"["example.com"]"#),
    ("oauth[].logout_url", "", r#""https://id.example.com/logout""#),
    ("oauth[].ca", "", r#""tls/ca.crt""#),
    ("oauth[].timeout", r#""5s""#, r#""10s""#),
    ("session.domain", "", r#""example.com""#),
    ("session.log_in_url", "", r#""https://keys.example.com/login""#),
    ("keys.store", "", r#""sqlite:/var/lib/envoy-auth-tokens/keys.db""#),
    ("keys.max_seconds_to_live", "-1", "7776000"),
    ("keys.prefix", r#""eat""#, r#""acme""#),
    ("keys.max", "-1", "160000"),
    ("keys.actor_members", "[]", r#"["team"]"#),
    ("keys.max_staleness", r#""off""#, r#""5m""#),
    ("keys.ready_without_store", r#""never""#, r#""10s""#),
    ("keys.forget_after", r#""90d""#, r#""30d""#),
    ("keys.default_seconds_to_live", "7776000", "2592000"),
    ("keys.person_max_idle", r#""30d""#, r#""90d""#),
    ("keys.tell_expiry", r#""off""#, r#""14d""#),
    ("keys.max_idle", r#""never""#, r#""180d""#),
    ("keys.unavailable", r#""deny""#, r#""error""#),
    ("keys.read_only", "false", "true"),
    ("credentials", r#"["bearer", "basic"]"#, r#"["bearer", {"header": "x-api-key"}]"#),
    ("credentials[].header", "", r#""x-api-key""#),
    ("credentials[].query", "", r#""_auth_token""#),
    ("credentials[].cookie", "", r#""auth_token""#),
    ("credentials[].basic.allow_cross_site", "false", "true"),
    ("credentials[].allow_cross_site", "false", "true"),
    ("forward_credentials", "false", "true"),
    ("unknown_credentials", r#""deny""#, r#""anonymous""#),
    ("allow_cors_preflight", "false", "true"),
    ("realm", r#""api""#, r#""reports""#),
    ("policies.*.allow", "", r#"{"role": ["Viewer", "Admin"], "id": "root"}"#),
    ("policies.*.enforce", "true", "false"),
    ("routes", "[]", ""),
    ("routes[].host", "", r#""*.internal.example""#),
    ("routes[].path", "", r#""/version""#),
    ("routes[].path_prefix", "", r#""/admin""#),
    ("routes[].path_regex", "", r#""/reports/\\d{4}\\.csv""#),
    ("routes[].methods", "", r#"["GET", "POST"]"#),
    ("routes[].policy", "", r#""read""#),
    ("routes[].allow", "", r#"{"role": "Admin"}"#),
    ("routes[].enforce", "true", "false"),
    ("default", "{}", r#"{"allow": false}"#),
    ("default.allow", "", "false"),
    ("default.enforce", "true", "false"),
    ("paths.permit", "[]", r#"["encoded_slash"]"#),
    ("paths.case", r#""sensitive""#, r#""ignore""#),
    ("overrides.permit", "[]", r#"["x-forwarded-host"]"#),
    (
        "actor_headers",
        r#"{"x-actor": "*", "x-actor-id": "id", "x-actor-name": "name", "x-actor-role": "role"}"#,
        r#"{"x-user": "id", "x-groups": "groups"}"#,
    ),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use serde_json::json;

    use super::super::super::fixtures::given;
    use super::super::super::{Config, Source};
    use super::super::json::json_schema;
    use super::*;

    /// The path of every key in the printed schema, and whether it has keys of its own.
    fn paths(schema: &Value, path: &str, found: &mut Vec<(String, bool)>) {
        for (name, value) in schema["properties"].as_object().into_iter().flatten() {
            let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            let before = found.len();
            found.push((path.clone(), false));
            paths(value, &path, found);
            found[before].1 = found.len() > before + 1;
        }
        let items = [("items", "[]"), ("additionalProperties", ".*")];
        for (inner, suffix) in items.map(|(key, suffix)| (&schema[key], suffix)) {
            for form in inner["anyOf"].as_array().into_iter().flatten().chain([inner]) {
                if form["properties"].is_object() {
                    paths(form, &format!("{path}{suffix}"), found);
                }
            }
        }
    }

    fn keys() -> Vec<(String, bool)> {
        let mut found = Vec::new();
        paths(&json_schema()["else"], "", &mut found);
        found
    }

    #[test]
    fn every_key_has_an_example_and_every_entry_is_a_key() {
        let keys = keys();
        assert!(keys.len() > 100, "{keys:?}");
        for (path, has_keys) in &keys {
            let without = !has_keys && reference(path).example.is_none();
            assert!(!without || path == "policies", "{path} has no example");
        }
        let known: BTreeSet<_> = keys.iter().map(|(path, _)| path.as_str()).collect();
        let entries: Vec<_> = ENTRIES.iter().map(|(path, ..)| *path).collect();
        for path in entries.iter().chain(NEEDS_RESTART) {
            assert!(known.contains(path), "there is no key {path}");
        }
        assert_eq!(entries.iter().collect::<BTreeSet<_>>().len(), entries.len(), "a key stands twice");
    }

    /// A document in which the key at this path can stand.
    fn base(path: &str) -> Value {
        let store = json!({"store": "sqlite:keys.db"});
        let admin = json!({"public_url": "https://keys.example.com"});
        let user = json!({"username": "ann", "password": {"$env": "ADMIN_PASSWORD"}});
        let pair = json!({"cert": "tls/server.crt", "key": "tls/server.key"});
        let provider = json!({
            "name": "corporate", "issuer": "https://id.example.com", "client_id": "a",
            "roles": [{"claim": "groups", "value": "a", "role": "Viewer"}],
        });
        let mut document = json!({
            "keys": store, "admin": admin, "users": [user], "credentials": ["bearer", "session"],
            "policies": {"read": {}}, "default": {},
        });
        match path.split(['.', '[']).next().unwrap() {
            "ext_authz" if path.contains("tls") => {
                document["ext_authz"] = json!({"tls": pair});
                if path.ends_with("client_names") {
                    document["ext_authz"]["tls"]["client_ca"] = json!("tls/ca.crt");
                }
            }
            "admin" if path.contains("tls") => {
                document["admin"]["tls"] = pair;
                document["admin"]["tls"]["client_ca"] = json!("tls/ca.crt");
            }
            "tokens" => document["tokens"] = json!([{"token": {"$env": "BOT_TOKEN"}, "actor": {}}]),
            "ldap" => {
                document["ldap"] = json!({
                    "url": "ldaps://ldap.example.com", "search_base": "dc=example", "search_filter": "(uid=%s)",
                    "bind_dn": "cn=reader", "bind_password": {"$env": "LDAP_PASSWORD"},
                    "roles": [{"group": "*", "role": "Viewer"}],
                });
                if path.contains("group_search") {
                    document["ldap"]["group_search"] =
                        json!({"base": "dc=example", "filter": "(memberUid=%s)"});
                }
            }
            "oauth" => document["oauth"] = json!([provider]),
            "routes" => document["routes"] = json!([{"path": "/", "allow": true}]),
            "session" if path.ends_with("log_in_url") => {
                document["admin"].take();
                document.as_object_mut().unwrap().remove("admin");
            }
            "credentials" if path.contains("[]") => document["credentials"] = json!([{}]),
            _ => {}
        }
        document
    }

    /// The document with this value at this path, and without keys that exclude it.
    fn with(path: &str, value: &Value) -> Value {
        let mut document = base(path);
        let mut place = &mut document;
        let parts: Vec<_> = path.split('.').collect();
        for part in &parts[..parts.len() - 1] {
            place = match part.strip_suffix("[]") {
                Some(list) => &mut place[list][0],
                None if *part == "*" => &mut place["read"],
                None => &mut place[*part],
            };
        }
        let key = *parts.last().unwrap();
        let instead: &[&str] = match path {
            "tokens[].sha256" => &["token"],
            "users[].password_hash" => &["password"],
            "routes[].policy" => &["allow"],
            "oauth[].auth_url" | "oauth[].token_url" | "oauth[].api_url" => {
                place["auth_url"] = json!("https://forge.example.com/a");
                place["token_url"] = json!("https://forge.example.com/b");
                place["api_url"] = json!("https://forge.example.com/c");
                place["members"] = json!({"id": "id"});
                &["issuer"]
            }
            "credentials[].allow_cross_site" => {
                place["cookie"] = json!("auth_token");
                &[]
            }
            "keys.read_only" => {
                place["store"] = json!("postgres://db/keys");
                &[]
            }
            _ => &[],
        };
        for other in instead {
            place.as_object_mut().unwrap().remove(*other);
        }
        place[key] = value.clone();
        document
    }

    fn parse(document: &Value) -> Config {
        let given = given();
        let source = Source {
            file: Path::new("config.yaml"),
            environment: &given,
            now: "2026-11-21T00:00:00Z".parse().unwrap(),
        };
        Config::parse(&document.to_string(), &source).unwrap_or_else(|errors| panic!("{document}\n{errors}"))
    }

    #[test]
    fn every_example_is_accepted() {
        for (path, _, example) in ENTRIES.iter().filter(|(.., example)| !example.is_empty()) {
            parse(&with(path, &serde_json::from_str(example).unwrap()));
        }
    }

    /// Everything of a configuration that a key with a default can change.
    fn contents(config: &Config) -> String {
        let rules = &config.rules;
        let ldap = rules.ldap.as_ref().map(|ldap| {
            let names = (&ldap.id_attribute, &ldap.members, &ldap.groups_attribute, ldap.plain_ids);
            (ldap.start_tls, names, ldap.at_check, ldap.max_wrong, ldap.remember, ldap.timeout)
        });
        let providers: Vec<_> = rules
            .providers
            .iter()
            .map(|provider| (provider.plain_ids, &provider.allowed_domains, provider.timeout))
            .collect();
        format!(
            "{:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?}",
            config.startup,
            rules.locations,
            rules.forward_credentials,
            rules.unknown_credentials,
            rules.allow_cors_preflight,
            rules.realm,
            rules.policies,
            rules.keys,
            rules.unavailable,
            rules.admin,
            rules.actor_headers,
            ldap,
            providers,
            rules.session,
        )
    }

    #[test]
    fn every_default_is_what_the_reader_takes() {
        for (path, default, example) in ENTRIES.iter().filter(|(_, default, _)| !default.is_empty()) {
            let written = parse(&with(path, &serde_json::from_str(default).unwrap()));
            let mut document = with(path, &json!("to be removed"));
            remove(&mut document, path);
            assert_eq!(contents(&written), contents(&parse(&document)), "{path}: {default}");
            // The comparison would see another value.
            if !example.is_empty() && example != default && !["tokens", "users"].contains(path) {
                let other = parse(&with(path, &serde_json::from_str(example).unwrap()));
                assert_ne!(contents(&other), contents(&written), "{path} is not compared");
            }
        }
    }

    fn remove(document: &mut Value, path: &str) {
        let mut place = document;
        let parts: Vec<_> = path.split('.').collect();
        for part in &parts[..parts.len() - 1] {
            place = match part.strip_suffix("[]") {
                Some(list) => &mut place[list][0],
                None if *part == "*" => &mut place["read"],
                None => &mut place[*part],
            };
        }
        place.as_object_mut().unwrap().remove(*parts.last().unwrap());
    }
}
