//! People of a directory, from outside: a real OpenLDAP, a real Envoy, both stores.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::harness::http1::{Answer, Request, basic};
use crate::harness::load::Load;
use crate::harness::server::{Server, Setup};
use crate::harness::slapd::{
    GROUPS, GROUPS_OF_ANN, PARTNERS, PASSWORDS, PEOPLE, READER, READER_PASSWORD, Slapd, password, person,
};
use crate::harness::{Encoding, Shape, Stack, grpc, wait_until};
use crate::users::settle;

pub(crate) const ADMINS: &str = GROUPS_OF_ANN[0];
pub(crate) const STAFF: &str = GROUPS_OF_ANN[1];
/// A token of the configuration with the role Admin.
pub(crate) const ROOT: &str = "root-token-0123456789";
/// The password of the configured user `admin`.
const ADMIN_PASSWORD: &str = "hunter2-of-the-configured-admin";

/// Admins and staff of the directory, named as an operator may name them.  `more` are further keys of the section.
pub(crate) fn ldap(slapd: &Slapd, more: &str) -> String {
    format!(
        "ldap:
  url: {}
  ca: {}
  bind_dn: \"{READER}\"
  bind_password: {{$env: LDAP_PASSWORD}}
  search_base: [\"{PEOPLE}\", \"{PARTNERS}\"]
  search_filter: \"(uid=%s)\"
  members: {{id: uid, name: cn, email: mail, groups: memberOf}}
  roles:
  - {{group: \"CN=Admins, OU=Groups,dc=EXAMPLE,dc=org\", role: Admin}}
  - {{group: \"{STAFF}\", role: Viewer}}
{more}",
        slapd.tls_url(),
        slapd.ca_file().display()
    )
}

/// A server that has a token, and the users `admin` and `vi`.
pub(crate) fn config(ldap: &str, rest: &str) -> String {
    let user = |name: &str, password: &str, more: &str| {
        let hash = bcrypt::hash(password, 4).expect("bcrypt");
        format!("- {{username: {name}, password_hash: '{hash}', {more}}}\n")
    };
    let users = [
        user("admin", ADMIN_PASSWORD, "actor: {id: the-admin, role: Admin}"),
        user("vi", "vi", "actor: {id: vi, role: Viewer}"),
    ];
    format!(
        "{ldap}tokens: [{{token: {ROOT}, name: root, actor: {{id: root, role: Admin}}}}]\nusers:\n{}{rest}",
        users.concat()
    )
}

/// The same with keys there, and an admin listener.
pub(crate) fn with_admin(store: &str, ldap: &str, rest: &str) -> String {
    let admin = format!("keys: {{store: \"{store}\"}}\nadmin: {{listen: \"127.0.0.1:0\"}}\n");
    config(ldap, &format!("{admin}credentials: [bearer, basic, session]\n{rest}"))
}

pub(crate) fn setup(config: &str) -> Setup {
    Server::with(config).env("LDAP_PASSWORD", READER_PASSWORD).arg("--drain=0s")
}

/// How much the directory was asked: connections, searches, and binds of people.
pub(crate) fn questions(slapd: &Slapd) -> [usize; 3] {
    [slapd.connections(), slapd.searches(), slapd.binds_of_people()]
}

pub(crate) fn audit(server: &Server) -> Vec<Value> {
    let lines = server.log().lines();
    let lines = lines.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter(|line| line["target"] == "audit").collect()
}

/// Waits for an audit line with these members.
#[track_caller]
pub(crate) fn audited(server: &Server, members: &Value) -> Value {
    let fits = |line: &Value| {
        line["target"] == "audit"
            && members.as_object().unwrap().iter().all(|(name, value)| line[name] == *value)
    };
    server.log().wait_for(&format!("an audit line with {members}"), |line| {
        serde_json::from_str::<Value>(line).ok().filter(|line| fits(line))
    })
}

/// What Envoy learned of the request for this path that was answered with this status: one whose password took too long
/// was sent before it.
pub(crate) fn metadata(stack: &Stack, path: &str, status: u16) -> Value {
    stack.envoy.log().wait_for(&format!("an access log line for {path}"), |line| {
        let mut entry: Value = serde_json::from_str(line).ok()?;
        let is_it = entry["access"] == "log" && entry["path"] == path && entry["status"] == status;
        is_it.then(|| entry["ext_authz"].take())
    })
}

/// Holds that a text shows no password of the directory or of a user, in no form that one is sent in.
#[track_caller]
pub(crate) fn assert_no_password(what: &str, text: &str, sent: &[(&str, &str)]) {
    let mut forms = vec![PASSWORDS.to_owned(), STANDARD.encode(PASSWORDS)];
    for (user, password) in sent.iter().filter(|(_, password)| password.len() > 8) {
        forms.push((*password).to_owned());
        forms.push(STANDARD.encode(format!("{user}:{password}")).trim_end_matches('=').to_owned());
        forms.push(password.bytes().map(|byte| byte.to_string()).collect::<Vec<_>>().join(", "));
    }
    for form in forms {
        let line = text.lines().find(|line| line.contains(&form));
        assert!(line.is_none(), "{what} shows {form}: {}", line.unwrap_or_default());
    }
}

#[track_caller]
pub(crate) fn assert_no_password_of(stack: &mut Stack, sent: &[(&str, &str)]) {
    assert_no_password("/metrics", &stack.server.metrics(), sent);
    stack.envoy.assert_no_fault_of(&stack.server);
    stack.server.terminate();
    assert_eq!(stack.server.wait().code(), Some(0));
    stack.envoy.stop();
    assert_no_password("our log", &stack.server.log().text(), sent);
    assert_no_password("Envoy's log", &stack.envoy.log().text(), sent);
}

#[test]
fn a_person_of_the_directory_passes_envoy_by_basic_as_the_actor_that_their_entry_makes() {
    let slapd = Slapd::start();
    // More than one spelling of a name is one name.
    let people = [
        ("/1", "ann", "ann", "Ann Example", "Admin"),
        ("/2", "\u{ff21}NN ", "ann", "Ann Example", "Admin"),
        ("/3", "bob", "bob", "Bob Example", "Viewer"),
    ];
    for encoding in Encoding::EXT_AUTHZ {
        let setup = setup(&config(
            &ldap(&slapd, ""),
            "actor_headers: {x-actor: '*', x-actor-id: id, x-actor-name: name, x-actor-role: role, x-groups: groups}\n",
        ));
        let mut stack = Stack::shaped(setup, Shape::plain().encoding(encoding)).expecting_errors();
        for (path, typed, uid, name, role) in people {
            let sent = password(uid);
            let ask = |path: &str| stack.get(path).basic(typed, &sent).send();
            assert_eq!(settle(|| ask("/first")).status, 200);
            let answer = ask(path);
            let seen = answer.seen();
            let id = format!("ldap:{uid}");
            let header = |header: &str| seen.all(header).concat();
            assert_eq!((header("x-actor-id"), header("x-actor-name")), (id.clone(), name.to_owned()));
            assert_eq!(header("x-actor-role"), role);
            assert!(seen.all("authorization").is_empty());
            let actor: Value = serde_json::from_str(&header("x-actor")).unwrap();
            assert_eq!((&actor["id"], &actor["role"]), (&json!(id), &json!(role)));
            assert!(actor["email"].is_string() || actor["email"].is_array(), "{actor}");
            let groups = actor["groups"].as_array().unwrap();
            assert_eq!(groups.len(), if uid == "ann" { 5 } else { 1 });
            // In a header of their own the comma of a name cannot be taken for one between names.
            assert_eq!(header("x-groups").split(',').count(), groups.len(), "{}", header("x-groups"));

            let metadata = metadata(&stack, path, 200);
            assert_eq!(metadata["credential"], json!({"kind": "user", "name": uid, "source": "ldap"}));
            assert_eq!(metadata["actor"], actor);
            let line = stack.server.log().wait_for("the line of a pass", |line| {
                let line: Value = serde_json::from_str(line).ok()?;
                (line["decision"] == "allowed" && line["path"] == path).then_some(line)
            });
            let word = |name: &str| line[name].as_str().unwrap_or_default().to_owned();
            assert_eq!(
                [word("credential.kind"), word("credential.name"), word("credential.source")],
                ["user", uid, "ldap"]
            );
            // Remembered: nobody is asked again.
            let before = questions(&slapd);
            for _ in 0..10 {
                assert_eq!(ask("/again").status, 200);
            }
            assert_eq!(questions(&slapd), before);
        }
        // Users of the configuration are what they were, with their source.
        let own = settle(|| stack.get("/own").basic("admin", ADMIN_PASSWORD).send());
        assert_eq!(own.seen().all("x-actor-id"), ["the-admin"]);
        assert_eq!(metadata(&stack, "/own", 200)["credential"]["source"], "config");
        let sent = people.map(|(_, typed, uid, ..)| (typed, password(uid)));
        let sent: Vec<_> = sent.iter().map(|(typed, sent)| (*typed, &**sent)).collect();
        assert_no_password_of(&mut stack, &sent);
    }
}

#[test]
fn who_is_wrong_unknown_or_nobody_is_401_and_tells_nothing_apart() {
    let slapd = Slapd::start();
    for uid in ["dora", "emil", "frida", "sa:deploy"] {
        slapd.administrator().join(STAFF, &person(uid));
    }
    let mut stack = Stack::shaped(setup(&config(&ldap(&slapd, ""), "")), Shape::plain()).expecting_errors();
    let ann = password("ann");
    let nul = format!("{ann}\0");
    let long = "x".repeat(5000);
    let passwords = ["dora", "emil", "frida", "twin", "double", "carol", "deploy", "mallory"].map(password);
    let [dora, emil, frida, twin, double, carol, deploy, mallory] = passwords.each_ref().map(|text| &**text);
    // Each with the word that the audit log has for it, where an operator can do something about it.
    let cases: [(&str, &str, Option<&str>); 26] = [
        ("ann", "wrong-password", None),
        ("ann", "", None),
        ("ann", "\0", None),
        ("ann", &nul, None),
        ("ann", &long, None),
        ("", &ann, None),
        ("", "", None),
        ("nobody", &ann, None),
        ("*", &ann, None),
        ("a*", &ann, None),
        (")(uid=*", &ann, None),
        ("ann)(uid=*", &ann, None),
        ("*)(|(uid=ann", &ann, None),
        ("ann\0", &ann, None),
        ("an\0n", &ann, None),
        ("an\u{ad}n", &ann, None),
        ("uid=ann,ou=people,dc=example,dc=org", &ann, None),
        ("mallory,ou=guests", mallory, None),
        ("anna", &ann, Some("alias")),
        ("twin", twin, Some("several_entries")),
        ("double", double, Some("several_entries")),
        ("frida", frida, Some("several_ids")),
        ("dora", dora, Some("disabled")),
        ("emil", emil, Some("disabled")),
        ("carol", carol, Some("no_role")),
        // An id that is a service account's; below, with ids as they are, one that is a user's.
        ("sa:deploy", deploy, None),
    ];
    let mut bodies = Vec::new();
    for (number, (user, password, told)) in cases.iter().enumerate() {
        let path = format!("/{number}");
        let answer = settle(|| stack.get(&path).basic(user, password).send());
        // A name ends at the first colon, so that this one is `sa`.
        assert_eq!(answer.status, 401, "{user:?} {password:.20?}");
        assert_eq!(
            answer.all("www-authenticate"),
            [r#"Bearer realm="api", error="invalid_token""#, r#"Basic realm="api""#],
            "{user:?}"
        );
        bodies.push(answer.text());
        let metadata = metadata(&stack, &path, 401);
        assert_eq!(metadata, json!({"reason": "wrong_password", "policy": "default"}), "{user:?}");
        if let Some(reason) = told {
            audited(&stack.server, &json!({"source": "ldap", "reason": reason, "user": user}));
        }
    }
    bodies.dedup();
    assert_eq!(bodies, [r#"{"error": "invalid_token", "message": "Invalid username or password"}"#]);
    // What somebody may have typed into the wrong field stands nowhere.
    for line in stack.server.log().lines() {
        for name in ["nobody", ")(uid", "mallory", "uid=ann"] {
            assert!(!line.contains(name), "{name}: {line}");
        }
    }
    assert_eq!(stack.upstream.calls(), 0);
    let sent: Vec<_> = cases.iter().map(|(user, password, _)| (*user, *password)).collect();
    assert_no_password_of(&mut stack, &sent);
}

#[test]
fn no_spelling_of_a_configured_name_reaches_the_directory() {
    let slapd = Slapd::start();
    // Somebody there has the same name, and would be an Admin.
    slapd.administrator().add(
        &person("admin"),
        &[
            ("objectClass", &["inetOrgPerson"]),
            ("cn", &["Admin"]),
            ("sn", &["Admin"]),
            ("userPassword", &["hunter2-of-admin"]),
        ],
    );
    slapd.administrator().join(ADMINS, &person("admin"));
    let hash = bcrypt::hash("another", 4).unwrap();
    let user =
        |name: &str| format!("- {{username: {name}, password_hash: '{hash}', actor: {{id: {name}}}}}\n");
    let more = format!("users:\n{}{}", user("Two Words"), user("strasse"));
    let config = with_admin("sqlite:keys.db", &ldap(&slapd, ""), "").replace("users:\n", &more);
    let mut stack = Stack::shaped(setup(&config), Shape::plain()).expecting_errors();
    let theirs = password("admin");
    let names = [
        "admin",
        "ADMIN",
        " admin",
        "admin\u{3000}",
        "\u{ff41}\u{ff44}\u{ff4d}\u{ff49}\u{ff4e}",
        "ad\u{ad}min",
        "ad\u{200b}min",
        "\u{2060}admin",
        "ad\0min",
        "adm\u{131}n\u{e000}",
        "\u{1d400}dmin",
        "admin\u{fe0f}",
        "ad\u{34f}min",
        "\u{3164}admin",
        "two words",
        "Two  Words",
        "two\u{2003}\u{a0}words",
        "two\u{fe00} words",
        "STRA\u{1e9e}E",
        "stra\u{df}e",
        "V\u{2170}",
    ];
    for name in names {
        for password in [&*theirs, "vi"] {
            let answer = settle(|| stack.get("/").basic(name, password).send());
            assert_eq!(answer.status, 401, "{name:?}");
            let answer = log_in(stack.server.admin(), name, password);
            assert_eq!(answer.status, 401, "{name:?}");
        }
    }
    assert_eq!(questions(&slapd), [0, 0, 0]);
    assert_eq!(settle(|| stack.get("/").basic("admin", ADMIN_PASSWORD).send()).status, 200);
    assert_eq!(questions(&slapd), [0, 0, 0]);
    let sent: Vec<_> = names.iter().map(|name| (*name, &*theirs)).collect();
    assert_no_password_of(&mut stack, &sent);
}

#[test]
fn ids_that_are_somebody_elses_make_nobody() {
    let slapd = Slapd::start();
    let entry = |uid: &str| {
        let sent = format!("{PASSWORDS}{uid}");
        slapd.administrator().add(
            &format!("cn={uid},{PEOPLE}"),
            &[
                ("objectClass", &["inetOrgPerson"]),
                ("cn", &[uid]),
                ("sn", &["Example"]),
                // A name to log in with, beside the id.
                ("mail", &[&format!("{}@example.org", uid.replace(':', "-"))]),
                ("uid", &[uid]),
                ("userPassword", &[&sent]),
            ],
        );
        slapd.administrator().join(STAFF, &format!("cn={uid},{PEOPLE}"));
        sent
    };
    let ids = ["the-admin", "root", "key:x", "sa:x", "fine"];
    let passwords = ids.map(entry);
    // A name of no user, and yet the id of one.
    for (ids_are, allowed) in [("plain", &["fine"][..]), ("prefixed", &["the-admin", "root", "fine"])] {
        let ldap = ldap(&slapd, &format!("  ids: {ids_are}\n")).replace("(uid=%s)", "(mail=%s)");
        let stack = Stack::shaped(setup(&config(&ldap, "")), Shape::plain());
        for (id, password) in ids.iter().zip(&passwords) {
            let name = format!("{}@example.org", id.replace(':', "-"));
            let answer = settle(|| stack.get("/").basic(&name, password).send());
            let expected = if allowed.contains(id) { 200 } else { 401 };
            assert_eq!(answer.status, expected, "{ids_are} {id}");
            if expected == 200 {
                let prefix = if ids_are == "plain" { "" } else { "ldap:" };
                assert_eq!(answer.seen().all("x-actor-id"), [format!("{prefix}{id}")]);
            } else {
                let reason = if id.contains(':') { "reserved_id" } else { "configured_id" };
                audited(&stack.server, &json!({"reason": reason, "user": id, "source": "ldap"}));
            }
        }
    }
}

#[test]
fn the_first_group_that_fits_decides_the_role_however_it_is_written() {
    let slapd = Slapd::start();
    let groups = [
        // Another case and other blanks; a comma within a name in each of its escapes; bytes; parts in UTF-8.
        ("CN = ADMINS , OU=groups, DC=Example, dc=ORG", "ann", 200),
        ("cn=Smith\\, Jones,ou=groups,dc=example,dc=org", "ann", 200),
        ("cn=smith\\2C jones,ou=groups,dc=example,dc=org", "ann", 200),
        ("cn=#0C0C536D6974682C204A6F6E6573,ou=groups,dc=example,dc=org", "ann", 200),
        ("cn=A\\2Bb \\\"C\\\" \\\\d,ou=groups,dc=example,dc=org", "ann", 200),
        ("cn=\\C3\\A9quipe,ou=groups,dc=example,dc=org", "ann", 200),
        ("cn=\u{c9}QUIPE,ou=groups,dc=example,dc=org", "ann", 200),
        // Parts of a name are no other name.
        ("cn=Smith,ou=groups,dc=example,dc=org", "ann", 401),
        ("cn=Jones,ou=groups,dc=example,dc=org", "ann", 401),
        ("ou=groups,dc=example,dc=org", "ann", 401),
        ("cn=admins,ou=groups,dc=example,dc=com", "ann", 401),
        ("cn=admins,ou=groups,dc=example,dc=org,dc=net", "ann", 401),
        ("cn=admins,ou=groups,dc=example,dc=org", "bob", 401),
    ];
    let ann = password("ann");
    for (group, uid, expected) in groups {
        let ldap = ldap(&slapd, "");
        let (head, _) = ldap.split_once("  roles:\n").unwrap();
        let group = serde_json::to_string(group).unwrap();
        let ldap = format!("{head}  roles: [{{group: {group}, role: Editor}}]\n");
        let server = setup(&config(&ldap, "")).start();
        let answer = settled(&server, uid, &password(uid));
        let who = if expected == 200 { format!("ldap:{uid} Editor") } else { "401".to_owned() };
        assert_eq!(answer, who, "{group}");
    }
    // The first one that fits, and not the highest.
    let orders = [
        (format!("{{group: \"{STAFF}\", role: Viewer}}, {{group: \"{ADMINS}\", role: Admin}}"), "Viewer"),
        (format!("{{group: \"{ADMINS}\", role: Admin}}, {{group: \"{STAFF}\", role: Viewer}}"), "Admin"),
        (format!("{{group: \"cn=no,{GROUPS}\", role: Admin}}, {{group: '*', role: Editor}}"), "Editor"),
    ];
    for (roles, role) in orders {
        let ldap = ldap(&slapd, "");
        let (head, _) = ldap.split_once("  roles:\n").unwrap();
        let server = setup(&config(&format!("{head}  roles: [{roles}]\n"), "")).start();
        assert_eq!(settled(&server, "ann", &ann), format!("ldap:ann {role}"), "{roles}");
    }
}

/// What Check says of a user name and a password, once it is known: `<id> <role>`, or the status of the denial.
fn settled(server: &Server, user: &str, password: &str) -> String {
    let mut said = String::new();
    wait_until("the password is verified", || {
        said = who(server, &[("authorization", &basic(user, password))]);
        said != "503"
    });
    said
}

/// Whom Check takes a request for: `<id> <role>`, or the status of the denial.
pub(crate) fn who(server: &Server, headers: &[(&str, &str)]) -> String {
    let answer = grpc::check(server, grpc::request("GET", "app.example", "/", headers));
    if grpc::code(&answer) != 0 {
        return grpc::refused(&answer).0.to_string();
    }
    let set = &grpc::pass(&answer).headers;
    let header = |name: &str| {
        let mut headers = set.iter().filter_map(|option| option.header.as_ref());
        headers.find(|header| header.key == name).map_or("", |header| &header.value)
    };
    format!("{} {}", header("x-actor-id"), header("x-actor-role"))
}

#[test]
fn a_directory_alone_is_people_enough() {
    let slapd = Slapd::start();
    // Neither tokens nor users nor keys.
    let stack = Stack::shaped(setup(&ldap(&slapd, "")), Shape::plain());
    let answer = stack.get("/").send();
    assert_eq!(answer.status, 401);
    assert_eq!(answer.all("www-authenticate"), [r#"Bearer realm="api""#, r#"Basic realm="api""#]);
    let right = settle(|| stack.get("/").basic("bob", &password("bob")).send());
    assert_eq!(right.seen().all("x-actor-id"), ["ldap:bob"]);
    let wrong = settle(|| stack.get("/").basic("bob", "wrong").send());
    assert_eq!(
        wrong.all("www-authenticate"),
        [r#"Bearer realm="api", error="invalid_token""#, r#"Basic realm="api""#]
    );

    // Checks that do not ask it offer no password, and take none.
    let config = with_admin("sqlite:keys.db", &ldap(&slapd, "  at_check: false\n"), "");
    let (head, tail) = config.split_once("users:\n").unwrap();
    let rest = tail.split_once("keys:").unwrap().1;
    let stack = Stack::shaped(setup(&format!("{head}keys:{rest}")), Shape::plain());
    assert_eq!(stack.get("/").send().all("www-authenticate"), [r#"Bearer realm="api""#]);
    let before = questions(&slapd);
    assert_eq!(stack.get("/").basic("ann", &password("ann")).send().status, 401);
    assert_eq!(questions(&slapd), before);
    let [_, application] = cookies(&log_in(stack.server.admin(), "ann", &password("ann")));
    assert_eq!(stack.get("/").header("cookie", application).send().seen().all("x-actor-id"), ["ldap:ann"]);
}

pub(crate) fn log_in(admin: SocketAddr, user: &str, password: &str) -> Answer {
    let body = json!({"user": user, "password": password}).to_string().into_bytes();
    let request = Request::new(admin, "POST", "/login").header("connection", "close");
    request.header("content-type", "application/json").body(body).send()
}

/// The cookies of a log-in, each as `name=value`: the admin listener's, and that of Checks.
#[track_caller]
pub(crate) fn cookies(answer: &Answer) -> [String; 2] {
    assert_eq!(answer.status, 200, "{}", answer.text());
    let set = answer.all("set-cookie");
    let [admin, application] = set[..] else { panic!("{answer:?}") };
    for (cookie, name, same_site) in [(admin, "eat_session=", "Strict"), (application, "eat_app=", "Lax")] {
        assert!(cookie.starts_with(name), "{cookie}");
        assert!(cookie.ends_with(&format!("; HttpOnly; SameSite={same_site}")), "{cookie}");
    }
    [admin, application].map(|cookie| cookie.split(';').next().unwrap().to_owned())
}

pub(crate) fn actor(admin: SocketAddr, cookie: &str) -> Answer {
    Request::new(admin, "GET", "/api/auth/actor").header("cookie", cookie).send()
}

#[test]
fn a_directory_that_is_gone_is_503_and_lets_nobody_pass() {
    away(Slapd::stop, Slapd::resume, &["directory_unavailable"]);
}

#[test]
fn a_directory_that_hangs_is_503_and_lets_nobody_pass() {
    away(Slapd::freeze, Slapd::thaw, &["directory_pending", "directory_unavailable"]);
}

#[test]
fn a_directory_that_denies_the_reader_is_503_and_lets_nobody_pass() {
    // Connections on which the reader is bound already go on.
    let change = |slapd: &Slapd, password: &str| {
        slapd.administrator().set(READER, "userPassword", &[password]);
        slapd.stop();
        slapd.resume();
    };
    away(
        |slapd| change(slapd, "hunter2-of-another-reader"),
        |slapd| change(slapd, READER_PASSWORD),
        &["directory_unavailable"],
    );
}

/// Holds that nobody passes or is wrong while the directory is away, for which Checks give these reasons.
fn away(leave: impl Fn(&Slapd), come_back: impl Fn(&Slapd), reasons: &[&str]) {
    let slapd = Slapd::start();
    slapd.administrator().join(STAFF, &person("gus"));
    let config = with_admin("sqlite:keys.db", &ldap(&slapd, "  timeout: 1s\n"), "")
        .replace("keys: {", "keys: {unavailable: error, ");
    // What Envoy would let pass if it were an error: at the end the stack holds that it counted none.
    let shape = Shape::plain().filter(json!({"failure_mode_allow": true}));
    let stack = Stack::shaped(setup(&config), shape);
    let admin = stack.server.admin();
    let ask = |path: &str, user: &str, sent: &str| stack.get(path).basic(user, sent).send();
    let (ann, bob, gus) = (password("ann"), password("bob"), password("gus"));
    assert_eq!(settle(|| ask("/", "ann", &ann)).status, 200);
    let [session, application] = cookies(&log_in(admin, "ann", &ann));

    leave(&slapd);
    let before = stack.upstream.calls();
    let unknown = [("bob", &*bob), ("bob", "wrong"), ("nobody", "wrong"), ("ann", "wrong"), ("*", &ann)];
    for (number, (user, sent)) in unknown.into_iter().enumerate() {
        let path = format!("/away/{number}");
        let answer = ask(&path, user, sent);
        assert_eq!((answer.status, answer.all("retry-after")), (503, vec!["1"]), "{user}");
        let metadata = metadata(&stack, &path, 503);
        let reason = metadata["reason"].as_str().unwrap();
        assert!(reasons.contains(&reason), "{user}: {reason}");
    }
    assert_eq!(stack.upstream.calls(), before, "somebody passed");
    // What is remembered, and what needs no directory, goes on.
    assert_eq!(ask("/", "ann", &ann).status, 200, "remembered");
    assert_eq!(settle(|| ask("/", "admin", ADMIN_PASSWORD)).status, 200, "configured");
    assert_eq!(stack.get("/").bearer(ROOT).send().status, 200, "a token");
    assert_eq!(stack.get("/").header("cookie", &application).send().status, 200, "a session");
    assert_eq!(actor(admin, &session).status, 200, "a session at admin");
    assert_eq!(log_in(admin, "vi", "vi").status, 200, "configured, at admin");
    for (user, sent) in [("gus", &*gus), ("gus", "wrong"), ("nobody", "wrong")] {
        let answer = log_in(admin, user, sent);
        assert_eq!(answer.status, 503, "{user} at admin");
        assert!(answer.all("set-cookie").is_empty());
        assert_eq!(Request::new(admin, "GET", "/api/auth/keys").basic(user, sent).send().status, 503);
    }
    // Nobody waits there for longer than the directory has: at the end of such a wait it would be pending.
    let denied =
        |line: &Value| line["message"].as_str().is_some_and(|message| message.contains("log-in denied"));
    let lines = audit(&stack.server).into_iter().filter(denied);
    let why: Vec<_> = lines.map(|line| line["reason"].as_str().unwrap_or_default().to_owned()).collect();
    assert!(!why.is_empty() && why.iter().all(|reason| reason == "directory_unavailable"), "{why:?}");

    come_back(&slapd);
    assert_eq!(settle(|| ask("/", "bob", &bob)).status, 200);
    assert_eq!(settle(|| ask("/", "bob", "wrong")).status, 401);
    wait_until("a log-in works again", || log_in(admin, "gus", &gus).status == 200);
    assert_eq!(log_in(admin, "gus", "wrong").status, 401);
}

/// Guesses that go on until they are told to stop: at names of nobody, and at two people.
async fn guess(server: &Server, is_over: &AtomicBool, sent: &AtomicUsize) {
    const GUESSERS: usize = 64;
    let channel = grpc::channel(server.listen_address()).await.unwrap();
    let guessers = (0..GUESSERS).map(async |guesser| {
        let mut client = grpc::client(channel.clone());
        for number in (guesser..).step_by(GUESSERS) {
            if is_over.load(Ordering::SeqCst) {
                return;
            }
            let name = ["bob".to_owned(), "carol".to_owned(), format!("stranger-{number}")];
            let authorization = basic(&name[number % 3], &format!("guess-{number}"));
            let request = grpc::request("GET", "app.example", "/", &[("authorization", &authorization)]);
            let answer = client.check(request).await.expect("no gRPC error").into_inner();
            let status = grpc::refused(&answer).0;
            assert!(matches!(status, 401 | 503), "{status}");
            sent.fetch_add(1, Ordering::SeqCst);
        }
    });
    futures_util::future::join_all(guessers).await;
}

#[test]
fn thousands_of_guesses_at_check_keep_no_administrator_and_no_token_waiting() {
    let slapd = Slapd::start();
    let ldap = ldap(&slapd, "  remember: 0\n").replace(&format!(", \"{PARTNERS}\""), "");
    let server = setup(&with_admin("sqlite:keys.db", &ldap, "")).quiet().start();
    let (is_over, sent, start) = (AtomicBool::new(false), AtomicUsize::new(0), Instant::now());
    let mut log_ins = 0;
    std::thread::scope(|scope| {
        scope.spawn(|| grpc::block_on(guess(&server, &is_over, &sent)));
        let tokens = Load::on(&server, &[(ROOT, "")]);
        // Also where an assertion fails, so that the test ends.
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            while sent.load(Ordering::SeqCst) < 5000 || log_ins < 20 {
                assert_eq!(log_in(server.admin(), "ann", &password("ann")).status, 200);
                log_ins += 1;
                tokens.go_on_for(20);
            }
        }));
        is_over.store(true, Ordering::SeqCst);
        tokens.end();
        done.unwrap();
    });
    let seconds = usize::try_from(start.elapsed().as_secs()).unwrap() + 2;
    let searches = slapd.searches();
    assert!(searches <= 20 * seconds + log_ins, "{searches} in {seconds} s, and {log_ins} log-ins");
    assert_eq!(slapd.binds(&person("ann")), log_ins);
    for uid in ["bob", "carol"] {
        assert!(slapd.binds(&person(uid)) <= 3 && slapd.failures(uid) <= 3, "{uid}");
    }
    assert!(slapd.connections() <= 16, "{}", slapd.connections());
}

#[test]
fn a_referral_is_logged_without_the_name_that_may_be_a_password() {
    let slapd = Slapd::start();
    let base = format!("[\"{PEOPLE}\", \"{PARTNERS}\"]");
    let ldap = ldap(&slapd, "").replace(&base, "\"ou=remote,dc=example,dc=org\"");
    assert!(ldap.contains("ou=remote"));
    let server = setup(&config(&ldap, "")).start();
    let typed = "hunter2-in-the-wrong-field";
    assert_eq!(settled(&server, typed, "any"), "401");
    let line = audited(&server, &json!({"source": "ldap", "reason": "referral"}));
    assert!(line.get("user").is_none(), "{line}");
    assert!(!server.log().text().contains(typed));
}
