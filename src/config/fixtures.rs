//! Every configuration under `tests/fixtures/config`, with what is said about it; the annotated example;
//! and the promise that nothing secret is ever said.
//!
//! `UPDATE_FIXTURES=1 cargo test --lib config` writes down what is said now.  Read it before you commit it.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use super::secrets::tests::Given;
use super::*;
use crate::credential::stripping::APPLICATION_COOKIES;
use crate::token::PlainToken;

const BOT_TOKEN: &str = "eat_0123456789ABCDEFGHIJKLMNOPQRSTUVbWNrGg";

macro_rules! tls_files {
    ($($name:literal),*) => {
        [$((concat!("tls/", $name), include_bytes!(concat!("../../tests/fixtures/config/tls/", $name)))),*]
    };
}

/// P-256 keys, and certificates that are good until 2125 unless their name says otherwise.
const TLS_FILES: [(&str, &[u8]); 11] = tls_files!(
    "ca.crt",
    "server.crt",
    "server.key",
    "other.key",
    "encrypted.key",
    "expired.crt",
    "soon.crt",
    "future.crt",
    "damaged.crt",
    "damaged.key",
    "cut.crt"
);

pub(super) fn given() -> Given {
    let variables = [
        ("BOT_TOKEN", BOT_TOKEN),
        ("OTHER_TOKEN", "eat_VUTSRQPONMLKJIHGFEDCBA98765432100mtEjX"),
        ("ADMIN_PASSWORD", "correct horse battery staple"),
        ("LDAP_PASSWORD", "a password of the directory's reader"),
        ("OAUTH_SECRET", "a secret of the provider's client"),
        ("ROLE", "Viewer"),
        ("PRICE_OF_TEA", "two; and three, thanks"),
        ("EMPTY", ""),
        ("STORE", "postgres://eat:hunter2-7Xq9ZvKw3Lm5@db/keys"),
    ];
    let files: [(_, &[u8]); 3] = [
        ("secrets/token", b"eat_abcdefghijklmnopqrstuvwxyz0123451QdVyK\n"),
        ("secrets/two-lines", b"eat_abcdefghijklmnopqrstuvwxyz0123451QdVyK\n\n"),
        ("secrets/latin", b"caf\xe9"),
    ];
    Given {
        variables: variables.map(|(name, value)| (name, OsString::from(value))).into(),
        files: files.into_iter().chain(TLS_FILES).map(|(path, bytes)| (path, bytes.to_vec())).collect(),
    }
}

fn parse(file: &str, text: &str) -> Result<Config, Errors> {
    let now = "2026-11-21T00:00:00Z".parse().unwrap();
    Config::parse(text, &Source { file: Path::new(file), environment: &given(), now })
}

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/config").join(name)
}

/// Every configuration of the folder: its name and its text.
pub(super) fn fixtures(name: &str) -> Vec<(PathBuf, String)> {
    let entries = fs::read_dir(folder(name)).unwrap();
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension != "expected"));
    paths.sort();
    assert!(!paths.is_empty());
    paths.into_iter().map(|path| (path.clone(), fs::read_to_string(path).unwrap())).collect()
}

fn said(file: &Path, text: &str) -> (bool, String) {
    let name = file.file_name().unwrap().to_str().unwrap();
    match parse(name, text) {
        Ok(config) => {
            let warnings: Vec<_> = config.warnings.iter().map(ToString::to_string).collect();
            (true, warnings.join("\n\n"))
        }
        Err(errors) => (false, errors.to_string()),
    }
}

/// Compares what is said of every configuration in the folder with what its `.expected` file says.
fn check_folder(name: &str, loads: bool) {
    let update = std::env::var_os("UPDATE_FIXTURES").is_some();
    let mut wrong = String::new();
    for (path, text) in fixtures(name) {
        let (loaded, said) = said(&path, &text);
        assert_eq!(loaded, loads, "{}\n{said}", path.display());
        let said = if said.is_empty() { said } else { said + "\n" };
        let expected_path = path.with_extension("expected");
        if update {
            fs::write(&expected_path, &said).unwrap();
        }
        let expected = fs::read_to_string(&expected_path).unwrap_or_default();
        if said != expected {
            wrong.push_str(&format!("{}\nexpected:\n{expected}\nfound:\n{said}\n", path.display()));
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn every_bad_configuration_is_rejected_with_its_message() {
    check_folder("bad", false);
}

#[test]
fn every_good_configuration_is_loaded_with_its_warnings() {
    check_folder("good", true);
}

/// Wherever a secret is written by mistake, in whatever file, no message says it.
#[test]
fn no_message_holds_a_secret() {
    let secrets = ["hunter2-7Xq9ZvKw3Lm5", "Tr0ub4dor&3", BOT_TOKEN, "correct horse battery staple"];
    for (path, text) in fixtures("bad").into_iter().chain(fixtures("good")) {
        let (_, said) = said(&path, &text);
        for secret in secrets {
            assert!(!said.contains(secret), "{}\n{said}", path.display());
        }
    }
    // Every scalar of every bad file in turn becomes a secret that the file also uses as one.
    let secret = "hunter2-7Xq9ZvKw3Lm5";
    let mut tried = 0;
    for (path, text) in fixtures("bad").into_iter().chain(fixtures("good")) {
        let words = text
            .split_inclusive(|character: char| !(character.is_alphanumeric() || "_-".contains(character)));
        let mut start = 0;
        for word in words {
            let end =
                start + word.trim_end_matches(|c: char| !(c.is_alphanumeric() || "_-".contains(c))).len();
            if end > start {
                let changed = format!("{}{secret}{}\n", &text[..start], &text[end..]);
                let mistaken = said(&path, &changed).1;
                let in_public_place = mistaken.contains(secret) && is_public(&text[..start]);
                assert!(
                    !mistaken.contains(secret) || in_public_place,
                    "{}\n{changed}\n{mistaken}",
                    path.display()
                );
                tried += 1;
            }
            start += word.len();
        }
    }
    assert!(tried > 500, "{tried}");
}

/// Whether what follows is a value that the specification calls known not to be secret:
/// the scalar, or the element of a list, behind one of these keys.
fn is_public(before: &str) -> bool {
    let keys = [
        "listen",
        "max_request_bytes",
        "max_connections",
        "realm",
        "name",
        "role",
        "expires",
        "policies",
        "policy",
        "username",
        "host",
        "path",
        "path_prefix",
        "path_regex",
        "methods",
        "header",
        "query",
        "cookie",
        "param",
        "$env",
        "$file",
        "store",
        "public_url",
        "cert",
        "client_ca",
        "client_names",
        "max_seconds_to_live",
        "prefix",
        "max",
        "actor_members",
        "max_staleness",
        "ready_without_store",
        "forget_after",
        "max_idle",
        "default_seconds_to_live",
        "person_max_idle",
        "tell_expiry",
        "actor_headers",
        "url",
        "ca",
        "bind_dn",
        "search_base",
        "search_filter",
        "base",
        "filter",
        "user_attribute",
        "group",
        "max_wrong",
        "remember",
        "timeout",
        "label",
        "issuer",
        "client_id",
        "scopes",
        "claim",
        "value",
        "allowed_domains",
        "domain",
        "login_hosts",
    ];
    let tail = before.rsplit(['\n', '{']).next().unwrap_or_default();
    let is_in_section = |section: &str| {
        before
            .rsplit('\n')
            .find(|line| !line.is_empty() && !line.starts_with([' ', '-']))
            .is_some_and(|line| line.contains(section))
    };
    keys.iter().any(|key| {
        tail.contains(&format!("{key}: "))
            || tail.contains(&format!("{key}\": "))
            || tail.contains(&format!("{key}:"))
    }) || is_in_section("actor_headers")
        || is_in_section("policies")
        || ((is_in_section("ldap") || is_in_section("oauth")) && is_in_members(before))
}

/// Whether the last key on the second level is `members`.
fn is_in_members(before: &str) -> bool {
    let is_second =
        |line: &&str| line.starts_with("  ") && !line.starts_with("   ") && !line.starts_with("  -");
    let second_level = before.rsplit('\n').find(is_second);
    second_level.is_some_and(|line| line.trim_start().starts_with("members:"))
}

#[test]
fn a_secret_that_is_used_as_one_is_masked_in_every_other_place() {
    let secret = "hunter2-7Xq9ZvKw3Lm5";
    let template = "tokens:\n- {token: SECRET, actor: {id: a}}\nrealm: \"SECRET\\n\"\n\
        policies: {p: {allow: {role: SECRET}}}\nroutes: [{policy: SECRET, host: SECRET}, {methods: [SECRET]}]\n\
        actor_headers: {SECRET: SECRET}\nSECRET: SECRET\nprobes: {listen: SECRET} # SECRET\n";
    let said = parse("c.yaml", &template.replace("SECRET", secret)).unwrap_err().to_string();
    assert!(!said.contains(secret), "{said}");
}

#[test]
fn the_annotated_example_loads() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/config.yaml");
    let text = fs::read_to_string(path).unwrap();
    let environment = Given {
        variables: [
            ("BOT_TOKEN", BOT_TOKEN),
            ("ADMIN_PASSWORD", "correct horse battery staple"),
            ("LDAP_PASSWORD", "a password of the directory's reader"),
            ("OAUTH_SECRET", "a secret of the provider's client"),
        ]
        .map(|(name, value)| (name, OsString::from(value)))
        .into(),
        files: HashMap::from([(
            "/etc/envoy-auth-tokens/secrets/ci-token",
            b"eat_abcdefghijklmnopqrstuvwxyz0123451QdVyK\n".to_vec(),
        )]),
    };
    let file = Path::new("/etc/envoy-auth-tokens/config.yaml");
    let now = "2026-11-21T00:00:00Z".parse().unwrap();
    let config = Config::parse(&text, &Source { file, environment: &environment, now });
    let config = config.unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(config.warnings, []);
    assert_eq!(config.files, [Path::new("/etc/envoy-auth-tokens/secrets/ci-token")]);
    for section in super::schema::SECTIONS.keys() {
        assert!(text.contains(&format!("\n{section}:")), "the example says nothing of {section}");
    }
}

/// Every `config.yaml` below the folder, with its text.
fn shipped(folder: &Path, found: &mut Vec<(PathBuf, String)>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            shipped(&path, found);
        } else if path.file_name().is_some_and(|name| name == "config.yaml") {
            let text = fs::read_to_string(&path).unwrap();
            found.push((path, text));
        }
    }
}

#[test]
fn no_shipped_example_has_a_route_that_another_spelling_goes_around() {
    let mut examples = Vec::new();
    shipped(&Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy"), &mut examples);
    assert!(examples.len() > 10, "{examples:?}");
    for (path, text) in examples {
        // Their references lead nowhere here, and what is said of routes is said all the same.
        let (_, said) = said(&path, &text);
        assert!(!said.contains("admits more") && !said.contains("wildcard"), "{}\n{said}", path.display());
    }
}

#[test]
fn what_a_configuration_means() {
    let text = r#"
tokens:
- token: {$env: BOT_TOKEN}
  actor: {bot_id: my-bot}
- name: reporting
  sha256: 3f0c8e6d5a417b29c2d1f0e4b6a7985c1d2e3f4051627384a5b6c7d8e9f0a1b2
  actor: {id: reporting, role: Viewer, groups: [finance, audit]}
  expires: 2027-06-30T00:00:00Z
  policies: [read]
users:
- {username: admin, password: {$env: ADMIN_PASSWORD}}
credentials: [{header: X-Api-Key}, {cookie: c, allow_cross_site: true}, {basic: {allow_cross_site: true}}, {query: q}]
policies: {read: {allow: {role: Viewer}}}
ext_authz: {listen: "unix:run/a.sock", max_request_bytes: 64KiB, max_connections: 100}
"#;
    let config = parse("/etc/app/config.yaml", text).unwrap();
    let ExtAuthz { listen, transport, max_request_bytes, max_connections } = &config.startup.ext_authz;
    assert_eq!((listen.to_string().as_str(), *max_request_bytes), ("unix:/etc/app/run/a.sock", 65536));
    assert_eq!(*max_connections, 100);
    assert_eq!((*transport, config.tls.ext_authz.is_none()), (Transport::Plain, true));
    assert_eq!(config.startup.probes.listen.to_string(), "127.0.0.1:9193");

    let rules = &config.rules;
    let digest = PlainToken::new(BOT_TOKEN.as_bytes()).unwrap().digest();
    let [bot, reporting] = &rules.tokens[..] else { panic!("{}", rules.tokens.len()) };
    assert!(bot.digest == digest);
    let (bot, reporting) = (&bot.principal, &reporting.principal);
    assert_eq!(
        (bot.name.as_ref(), bot.actor.to_ascii_json().as_str()),
        ("token-1", r#"{"bot_id":"my-bot"}"#)
    );
    assert_eq!(reporting.name.as_ref(), "reporting");
    assert_eq!(reporting.policies.as_deref(), Some(&["read".into()][..]));
    assert_eq!(reporting.expires_at, Some("2027-06-30T00:00:00Z".parse().unwrap()));

    let [admin] = &rules.users[..] else { panic!("{}", rules.users.len()) };
    assert_eq!(admin.principal.name.as_ref(), "admin");
    assert!(
        matches!(&admin.password, ConfiguredPassword::Plain(plain) if plain.expose() == "correct horse battery staple")
    );
    assert_eq!(admin.principal.actor.to_ascii_json(), r#"{"id":"admin"}"#);

    use crate::credential::{CredentialLocation, CrossSite};
    assert_eq!(
        rules.locations.order(),
        [
            CredentialLocation::Header { name: "x-api-key".into() },
            CredentialLocation::Cookie { name: "c".into(), cross_site: CrossSite::Allow },
            CredentialLocation::Basic { cross_site: CrossSite::Allow },
            CredentialLocation::Query { name: "q".into() },
        ]
    );
    assert_eq!(rules.actor_headers.len(), 4);
    assert_eq!((rules.realm.as_ref(), rules.unknown_credentials), ("api", UnknownCredentials::Deny));
}

#[test]
fn what_keys_and_admin_mean() {
    use crate::credential::CredentialLocation;
    let load = |text: &str| parse("/etc/app/config.yaml", text).unwrap_or_else(|errors| panic!("{errors}"));
    let config = load("keys: {store: \"sqlite:keys.db\"}\nadmin: {}\ncredentials: [session]\n");
    let url = StoreUrl::Sqlite("/etc/app/keys.db".into());
    assert_eq!(config.startup.keys, Some(KeyStore { url, read_only: false }));
    assert_eq!(config.startup.admin.unwrap().listen.to_string(), "127.0.0.1:9192");
    let (keys, admin) = (config.rules.keys.unwrap(), config.rules.admin.unwrap());
    assert_eq!((keys.max_seconds_to_live, &*keys.prefix, keys.quota), (-1, "eat", None));
    assert_eq!((keys.actor_members.len(), keys.max_staleness, keys.ready_without_store), (0, None, None));
    let days = |days: u64| Some(std::time::Duration::from_secs(days * 86_400));
    assert_eq!((keys.forget_after, keys.max_idle), (days(90), None));
    assert_eq!((keys.default_seconds_to_live, Some(keys.person_max_idle)), (90 * 86_400, days(30)));
    assert_eq!(keys.tell_expiry, None);
    assert_eq!(config.rules.unavailable, Unavailable::Deny);
    assert!(!admin.allow.admits_anonymous() && admin.public_url.is_none());
    assert_eq!(config.rules.locations.order(), [CredentialLocation::Session { cookies: &["eat_app"] }]);

    let config = load(
        "keys: {store: {$env: STORE}, max_seconds_to_live: 86400, prefix: key, max: 5, actor_members: [team],\n\
         \x20 max_staleness: 5m, ready_without_store: 10s, forget_after: never, unavailable: error, read_only: true}\n\
         admin: {listen: \"unix:a.sock\", public_url: \"https://keys.example.com/\", allow: {role: Editor}}\n\
         credentials: [session]\ntokens: [{token: {$env: BOT_TOKEN}, actor: {id: the-bot, name: Bot}}]\n\
         policies: {read: {}}\n",
    );
    assert!(matches!(config.startup.keys, Some(KeyStore { url: StoreUrl::Postgres(_), read_only: true })));
    assert_eq!(config.startup.admin.unwrap().listen.to_string(), "unix:/etc/app/a.sock");
    let rules = &config.rules;
    let keys = rules.keys.as_ref().unwrap();
    assert_eq!((keys.max_seconds_to_live, &*keys.prefix, keys.quota), (86400, "key", Some(5)));
    assert_eq!(
        (&*keys.actor_members[0], keys.max_staleness, keys.ready_without_store),
        ("team", Some(std::time::Duration::from_secs(300)), Some(std::time::Duration::from_secs(10)))
    );
    assert_eq!(keys.forget_after, None);
    // No longer life is proposed than there may be.
    assert_eq!(keys.default_seconds_to_live, 86_400);
    let keys = load(
        "keys: {store: \"sqlite:keys.db\", max_idle: 180d, default_seconds_to_live: 0, person_max_idle: 7d, \
         tell_expiry: 14d}\n",
    );
    let keys = keys.rules.keys.unwrap();
    assert_eq!((keys.max_idle, Some(keys.person_max_idle), keys.tell_expiry), (days(180), days(7), days(14)));
    assert_eq!(keys.default_seconds_to_live, 0);
    assert_eq!(rules.unavailable, Unavailable::Error);
    let public_url = rules.admin.as_ref().unwrap().public_url.as_ref().unwrap();
    assert_eq!((public_url.to_string().as_str(), public_url.is_https()), ("https://keys.example.com", true));
    assert_eq!(rules.locations.order(), [CredentialLocation::Session { cookies: &["__Host-eat_app"] }]);
    // Without an admin listener nobody knows here how browsers reach the one that there is.
    let rules = load("keys: {store: \"sqlite:keys.db\"}\ncredentials: [session]\n").rules;
    let either = CredentialLocation::Session { cookies: APPLICATION_COOKIES };
    assert_eq!(rules.locations.order(), [either]);
}

#[cfg(feature = "ldap")]
#[test]
fn what_ldap_means() {
    use std::time::Duration;

    use crate::keys::Role;
    let load = |text: &str| parse("/etc/app/config.yaml", text).unwrap_or_else(|errors| panic!("{errors}"));
    let shortest = fs::read_to_string(folder("good").join("ldap_shortest.yaml")).unwrap();
    let ldap = load(&shortest).rules.ldap.unwrap();
    assert_eq!(*ldap.servers, [LdapServer::Plain { host: "127.0.0.1".into(), port: 389 }]);
    assert!(!ldap.start_tls && ldap.ca.is_empty() && matches!(ldap.bind, Bind::Anonymous));
    assert_eq!(*ldap.search_base, ["ou=people,dc=example,dc=org".into()]);
    assert_eq!((&*ldap.search_filter, &*ldap.id_attribute), ("(uid=%s)", "uid"));
    let members = [("name", "cn"), ("email", "mail"), ("groups", "memberOf")];
    assert_eq!(*ldap.members, members.map(|(member, attribute)| (member.into(), attribute.into())));
    assert_eq!((&*ldap.groups_attribute, ldap.group_search.is_none()), ("memberOf", true));
    assert!(matches!(&*ldap.roles, [GroupRole { group: None, role: Role::Viewer }]));
    assert_eq!((ldap.plain_ids, ldap.at_check, ldap.max_wrong), (false, true, 3));
    assert_eq!((ldap.remember, ldap.timeout), (Duration::from_secs(300), Duration::from_secs(5)));

    let whole = fs::read_to_string(folder("good").join("ldap.yaml")).unwrap();
    let config = parse("ldap.yaml", &whole).unwrap();
    assert_eq!(config.files, [PathBuf::from("tls/ca.crt")], "it is watched");
    let ldap = config.rules.ldap.unwrap();
    let servers = ldap.servers.iter().map(ToString::to_string);
    assert_eq!(
        servers.collect::<Vec<_>>(),
        ["ldaps://ldap1.example.com:636", "ldap://ldap2.example.com:1389", "ldapi://%2Frun%2Fslapd%2Fldapi"]
    );
    assert!(ldap.start_tls && ldap.ca.len() == 1);
    let Bind::Reader { dn, password } = &ldap.bind else { panic!("not a reader") };
    assert_eq!(
        (&**dn, password.expose()),
        ("cn=reader,dc=example,dc=org", "a password of the directory's reader")
    );
    let groups = ldap.group_search.as_ref().unwrap();
    assert_eq!((&*groups.filter, &*groups.user_attribute), ("(member=%s)", "dn"));
    let group = "CN=doe\\2C jane,ou=Groups,dc=example,dc=org".parse().unwrap();
    assert_eq!((&ldap.roles[0].group, ldap.roles[0].role), (&Some(group), Role::Admin));
    assert_eq!((ldap.plain_ids, ldap.at_check, ldap.max_wrong), (true, false, 5));
    assert_eq!((ldap.remember, ldap.timeout), (Duration::ZERO, Duration::from_millis(1500)));

    // Whatever says who people are ends sessions when it changes, and nothing else does.
    let binding = |text: &str| load(text).rules.ldap.unwrap().binding;
    let first = binding(&shortest);
    for (from, to, is_other) in [
        ("127.0.0.1", "127.0.0.2", true),
        ("ou=people", "ou=guests", true),
        ("(uid=%s)", "(cn=%s)", true),
        ("  roles", "  members: {id: cn}\n  roles", true),
        ("  roles", "  ids: plain\n  roles", true),
        ("  roles", "  bind_dn: \"uid=%s,dc=example\"\n  roles", true),
        ("  roles", "  group_search: {base: dc=example, filter: (memberUid=%s)}\n  roles", true),
        ("  roles", "  bind_dn: cn=a\n  bind_password: {$env: LDAP_PASSWORD}\n  roles", false),
        ("  roles", "  timeout: 1s\n  remember: 1m\n  roles", false),
        ("Viewer", "Editor", false),
        ("ldap://127.0.0.1", "ldap://127.0.0.1:389/", false),
    ] {
        let changed = shortest.replace(from, to);
        assert!(changed != shortest && (binding(&changed) != first) == is_other, "{changed}");
    }
}

#[test]
fn what_oauth_means() {
    use std::time::Duration;

    use serde_json::json;

    use crate::keys::Role;
    let load = |text: &str| parse("/etc/app/config.yaml", text).unwrap_or_else(|errors| panic!("{errors}"));
    let members = |settings: &ProviderSettings| -> Vec<(String, String)> {
        let others = settings.members.iter().map(|(member, path)| (member.to_string(), path.to_string()));
        [("id".to_owned(), settings.id.to_string())].into_iter().chain(others).collect()
    };
    let texts = |list: &[Box<str>]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
    let shortest = fs::read_to_string(folder("good").join("oauth_shortest.yaml")).unwrap();
    let rules = load(&shortest).rules;
    assert_eq!(*rules.session, SessionRules::default());
    let admin = rules.admin.unwrap();
    assert!(!admin.login_redirect && admin.login_hosts.is_empty());
    let [settings] = &*rules.providers else { panic!("{}", rules.providers.len()) };
    assert_eq!((settings.name.as_str(), &*settings.label), ("corporate", "corporate"));
    assert!(
        matches!(&settings.endpoints, Endpoints::OpenIdConnect { issuer } if **issuer == *"https://id.example.com")
    );
    assert!(settings.client_secret.is_none() && &*settings.client_id == "envoy-auth-tokens");
    assert_eq!(texts(&settings.scopes), ["openid", "profile", "email"]);
    let default = [("id", "sub"), ("name", "name"), ("email", "email"), ("groups", "groups")];
    assert_eq!(members(settings), default.map(|(member, claim)| (member.to_owned(), claim.to_owned())));
    assert!(!settings.plain_ids && settings.allowed_domains.is_empty() && settings.logout_url.is_none());
    assert_eq!((settings.ca.len(), settings.timeout), (0, Duration::from_secs(5)));

    let whole = fs::read_to_string(folder("good").join("oauth.yaml")).unwrap();
    let config = parse("oauth.yaml", &whole).unwrap();
    assert_eq!(
        config.files,
        [PathBuf::from("secrets/token"), PathBuf::from("tls/ca.crt")],
        "both are watched"
    );
    let rules = config.rules;
    let admin = rules.admin.unwrap();
    assert_eq!(admin.public_url.as_ref().unwrap().to_string(), "https://app.example.com/Keys");
    let hosts: Vec<_> = admin.login_hosts.iter().map(LoginHost::authority).collect();
    assert_eq!(
        (admin.login_redirect, &hosts[..]),
        (true, &["wiki.example.com", "wiki.example.com:8443", "old.example.com"][..])
    );
    assert_eq!(rules.session.domain.as_deref(), Some("example.com"));
    let [corporate, forge] = &*rules.providers else { panic!("{}", rules.providers.len()) };
    assert_eq!(&*corporate.label, "Corporate account");
    assert!(
        matches!(&corporate.endpoints, Endpoints::OpenIdConnect { issuer } if issuer.ends_with("/realms/staff/"))
    );
    assert_eq!(corporate.client_secret.as_ref().unwrap().expose(), "a secret of the provider's client");
    assert_eq!(texts(&corporate.scopes), ["openid", "profile", "email", "groups"]);
    assert_eq!(
        members(corporate),
        [
            ("id", "sub"),
            ("name", "name"),
            ("email", "email"),
            ("groups", "https://example.com/groups"),
            ("team", "org.team")
        ]
        .map(|(member, claim)| (member.to_owned(), claim.to_owned()))
    );
    let role = |claims: serde_json::Value| {
        let position = corporate.fitting_role(claims.as_object().unwrap())?;
        Some(corporate.roles[position].role)
    };
    for (claims, expected) in [
        (json!({"realm_access": {"roles": ["staff", "owners"]}}), Some(Role::Admin)),
        (json!({"realm_access.roles": "admins"}), Some(Role::Admin)),
        (json!({"realm_access": {"roles": ["staff"]}, "level": 3}), Some(Role::Editor)),
        (json!({"level": "3"}), None),
        (json!({"groups": []}), Some(Role::Viewer)),
        (json!({"email_verified": true}), Some(Role::Viewer)),
        (json!({"email_verified": "true"}), None),
        (json!({}), None),
    ] {
        assert_eq!(role(claims.clone()), expected, "{claims}");
    }
    assert_eq!(texts(&corporate.allowed_domains), ["example.com", "example.org"]);
    assert!(corporate.logout_url.as_ref().unwrap().ends_with("/logout?client=envoy-auth-tokens"));
    assert_eq!((corporate.ca.len(), corporate.timeout), (1, Duration::from_millis(1500)));
    let Endpoints::OAuth2 { auth_url, token_url, api_url } = &forge.endpoints else { panic!("not OAuth 2") };
    assert!(auth_url.ends_with("?allow_signup=false"));
    assert_eq!((&**token_url, &**api_url), ("http://127.0.0.1:8080/token", "http://[::1]/user"));
    assert!(forge.plain_ids && forge.scopes.is_empty());

    let elsewhere = fs::read_to_string(folder("good").join("session_elsewhere.yaml")).unwrap();
    let session = load(&elsewhere).rules.session;
    assert_eq!(session.log_in_url.as_ref().unwrap().to_string(), "https://keys.example.com/login");

    // Whatever says who people are ends sessions when it changes, and nothing else does.
    let binding = |text: &str| load(text).rules.providers[0].binding;
    let first = binding(&shortest);
    let other = "auth_url: https://id.example.com\n  token_url: https://id.example.com\n  \
                 api_url: https://id.example.com\n  members: {id: sub}";
    for (from, to, is_other) in [
        ("id.example.com", "id.example.org", true),
        ("id.example.com", "id.example.com/", true),
        ("client_id: envoy", "client_id: my-envoy", true),
        ("  roles", "  members: {id: oid}\n  roles", true),
        ("  roles", "  ids: plain\n  roles", true),
        ("issuer: https://id.example.com", other, true),
        ("  roles", "  members: {id: sub, team: team}\n  roles", false),
        ("  roles", "  client_secret: {$env: OAUTH_SECRET}\n  roles", false),
        ("  roles", "  timeout: 1s\n  label: Log in\n  scopes: [openid]\n  roles", false),
        ("  roles", "  allowed_domains: [example.com]\n  logout_url: https://example.com\n  roles", false),
        ("Admin", "Editor", false),
        ("name: corporate", "name: company", false),
    ] {
        let changed = shortest.replace(from, to);
        assert!(changed != shortest && (binding(&changed) != first) == is_other, "{changed}");
    }
}

#[cfg(not(feature = "ldap"))]
#[test]
fn without_the_feature_the_section_is_an_error() {
    let shortest = fs::read_to_string(folder("good").join("ldap_shortest.yaml")).unwrap();
    let said = parse("ldap.yaml", &shortest).map(|_| ()).unwrap_err().to_string();
    assert!(said.contains("without the feature `ldap`"), "{said}");
}

#[test]
fn what_tls_means() {
    let text = fs::read_to_string(folder("good").join("tls.yaml")).unwrap();
    let config = parse("tls.yaml", &text).unwrap();
    assert_eq!(config.startup.ext_authz.transport, Transport::Tls);
    assert_eq!(config.startup.admin.unwrap().transport, Transport::Tls);
    let ext_authz = config.tls.ext_authz.as_ref().unwrap();
    assert_eq!(ext_authz.expires_at, "2125-01-01T00:00:00Z".parse().unwrap());
    let client_ca = ext_authz.client_ca.as_ref().unwrap();
    let names: Vec<&str> = client_ca.names.iter().flatten().map(AsRef::as_ref).collect();
    assert_eq!(names, ["spiffe://example.org/envoy", "envoy.example.org"]);
    assert!(config.tls.admin.as_ref().unwrap().client_ca.is_none());
    assert_eq!(config.files, ["tls/ca.crt", "tls/server.crt", "tls/server.key"].map(PathBuf::from));
    assert!(!format!("{:?}", config.tls).contains("key"), "{:?}", config.tls);
}

#[test]
fn the_seeds_own_file_is_read() {
    use crate::credential::CredentialLocation;
    let list = r#"[{"token": {"$env": "BOT_TOKEN"}, "actor": {"bot_id": "my-bot"}}]"#;
    let bare =
        format!(r#"{{"title": "x", "plugins": {{"datasette-auth-tokens": {list}, "other": {{"a": 1}}}}}}"#);
    let config = parse("metadata.json", &bare).unwrap();
    assert_eq!((config.rules.tokens.len(), config.rules.locations.order().len()), (1, 2));

    let later = format!(
        r#"{{"plugins": {{"datasette-auth-tokens": {{"tokens": {list}, "param": "_auth_token"}}}}}}"#
    );
    let config = parse("metadata.json", &later).unwrap();
    let query = CredentialLocation::Query { name: "_auth_token".into() };
    assert_eq!((config.rules.tokens.len(), &config.rules.locations.order()[1]), (1, &query));
}

#[test]
fn thousands_of_tokens_are_read_and_as_many_errors_reported() {
    let entry = |index: usize| {
        format!("{{\"token\": \"eat-{index:032}-abcdef\", \"actor\": {{\"id\": \"user-{index}\"}}}}")
    };
    let good: Vec<_> = (0..10_000).map(entry).collect();
    let text = format!("{{\"tokens\": [{}]}}", good.join(","));
    assert_eq!(parse("c.json", &text).unwrap().rules.tokens.len(), 10_000);

    let bad = format!("{{\"tokens\": [{}]}}", vec!["{\"token\": 5}"; 2_000].join(","));
    assert_eq!(parse("c.json", &bad).unwrap_err().iter().count(), 4_000);
}

#[test]
fn a_file_is_read_from_disk() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.yaml");
    let rejected = |path: &Path| Config::load(path).unwrap_err().to_string();
    assert!(rejected(&path).starts_with("error: cannot be read: No such file"), "{}", rejected(&path));
    fs::write(&path, b"realm: a\n# caf\xe9\n").unwrap();
    assert!(rejected(&path).starts_with("error: line 2 is not UTF-8"), "{}", rejected(&path));

    fs::write(folder.path().join("token"), format!("{BOT_TOKEN}\n")).unwrap();
    fs::write(&path, "tokens: [{token: {$file: token}, actor: {}}]").unwrap();
    let config = Config::load(&path).unwrap();
    assert_eq!((config.rules.tokens.len(), config.files), (1, vec![folder.path().join("token")]));
}
