//! People of a directory who log in: their sessions at the admin listener, behind a real Envoy, and at processes without an
//! admin listener on the same store.

use std::fs;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::http1::{Answer, Request};
use crate::harness::postgres::Postgres;
use crate::harness::server::Server;
use crate::harness::slapd::{READER_PASSWORD, Slapd, password, person};
use crate::harness::{MAX_WAIT, Shape, Stack, grpc, wait_until};
use crate::keys_at_rest::{assert_no_secret, forms, holding};
use crate::people::{
    ADMINS, ROOT, STAFF, actor, assert_no_password, assert_no_password_of, audited, cookies, ldap, log_in,
    metadata, setup, who, with_admin,
};

fn create_key(admin: SocketAddr, cookie: &str, name: &str, role: &str) -> Answer {
    let body = json!({"name": name, "role": role}).to_string().into_bytes();
    let request = Request::new(admin, "POST", "/api/auth/keys").header("cookie", cookie);
    request.header("content-type", "application/json").body(body).send()
}

fn end_sessions(admin: SocketAddr, query: &str) -> Request {
    Request::new(admin, "DELETE", &format!("/api/auth/sessions{query}"))
}

/// Runs a test on SQLite and on PostgreSQL.
fn on_each_store(test: impl Fn(&str)) {
    test("sqlite:keys.db");
    let postgres = Postgres::shared();
    test(&postgres.url(&postgres.database()));
}

#[test]
fn a_person_of_the_directory_logs_in_manages_keys_passes_envoy_and_logs_out() {
    let slapd = Slapd::start();
    on_each_store(|store| {
        let mut stack = Stack::shaped(setup(&with_admin(store, &ldap(&slapd, ""), "")), Shape::plain())
            .expecting_errors();
        let admin = stack.server.admin();
        let [session, application] = cookies(&log_in(admin, "Ann", &password("ann")));
        assert_ne!(session.split_once('=').unwrap().1, application.split_once('=').unwrap().1);
        let line = audited(&stack.server, &json!({"message": "logged in", "user": "ann"}));
        assert_eq!((&line["source"], &line["address"]), (&json!("ldap"), &json!("127.0.0.1")));
        let told = actor(admin, &session);
        assert_eq!(told.status, 200);
        assert_eq!(
            (&told.json()["id"], &told.json()["role"], &told.json()["name"]),
            (&json!("ldap:ann"), &json!("Admin"), &json!("Ann Example"))
        );
        assert_eq!(actor(admin, &application).status, 401);

        // An Admin by a group makes and sees keys, and is named for it.
        let made = create_key(admin, &session, "deploy", "Admin");
        assert_eq!(made.status, 200, "{}", made.text());
        assert_eq!(stack.get("/").bearer(made.json()["key"].as_str().unwrap()).send().status, 200);
        let line = audited(&stack.server, &json!({"message": "API key created"}));
        assert_eq!((&line["by"], &line["credential.kind"]), (&json!("ldap:ann"), &json!("session")));
        assert_eq!(create_key(admin, &application, "other", "Viewer").status, 401);

        // A Viewer by a group does not.
        let [viewer, viewers_application] = cookies(&log_in(admin, "bob", &password("bob")));
        assert_eq!(actor(admin, &viewer).json()["role"], "Viewer");
        assert_eq!(create_key(admin, &viewer, "other", "Viewer").status, 403);

        // At Check the application's session is the person, and the other one is nobody.
        let get =
            |path: &str, cookie: &str| stack.get(path).header("cookie", format!("a=1; {cookie}; b=2")).send();
        let answer = get("/session", &application);
        let seen = answer.seen();
        assert_eq!((seen.all("x-actor-id"), seen.all("x-actor-role")), (vec!["ldap:ann"], vec!["Admin"]));
        assert_eq!(seen.all("cookie"), ["a=1; b=2"]);
        let metadata = metadata(&stack, "/session", 200);
        assert_eq!(metadata["credential"], json!({"kind": "session", "name": "ann", "source": "ldap"}));
        assert_eq!(get("/", &viewers_application).seen().all("x-actor-id"), ["ldap:bob"]);
        assert_eq!(get("/", &session).verdict(), (401, "unauthorized".to_owned()));
        // Both cookies are ours, whichever of them counted.
        let both = stack.get("/").header("cookie", format!("{session}; {viewers_application}; c=3")).send();
        assert_eq!(both.seen().all("cookie"), ["c=3"]);
        let forged = format!("eat_app={}", session.split_once('=').unwrap().1);
        assert_eq!(get("/", &forged).status, 401);

        // Log-out ends both, and nobody else's.
        let out = Request::new(admin, "POST", "/logout").header("cookie", &session).send();
        assert_eq!(out.status, 200);
        audited(&stack.server, &json!({"message": "logged out", "user": "ann", "source": "ldap"}));
        assert_eq!((actor(admin, &session).status, get("/", &application).status), (401, 401));
        assert_eq!((actor(admin, &viewer).status, get("/", &viewers_application).status), (200, 200));

        let secrets = [&session, &application, &viewer, &viewers_application]
            .map(|pair| pair.split_once('=').unwrap().1);
        let sent: Vec<_> = secrets.iter().map(|secret| ("", *secret)).collect();
        assert_no_password_of(&mut stack, &sent);
    });
}

#[test]
fn an_admin_ends_the_sessions_of_a_person_everywhere() {
    let slapd = Slapd::start();
    // Of the same name as one of the configuration, by another attribute.
    slapd.administrator().set(&person("gus"), "uid", &["gus"]);
    slapd.administrator().join(STAFF, &person("gus"));
    on_each_store(|store| {
        let stack = Stack::shaped(setup(&with_admin(store, &ldap(&slapd, ""), "")), Shape::plain());
        let admin = stack.server.admin();
        let [by, _] = cookies(&log_in(admin, "ann", &password("ann")));
        let first = cookies(&log_in(admin, "bob", &password("bob")));
        let second = cookies(&log_in(admin, "BOB", &password("bob")));
        let other = cookies(&log_in(admin, "gus", &password("gus")));
        let configured = cookies(&log_in(admin, "vi", "vi"));
        let live = |[session, application]: &[String; 2]| {
            let at_check = stack.get("/").header("cookie", application).send().status;
            (actor(admin, session).status, at_check)
        };
        assert_eq!([&first, &second, &other, &configured].map(live), [(200, 200); 4]);

        for query in [
            "",
            "?user=bob",
            "?source=ldap",
            "?user=&source=ldap",
            "?user=bob&source=",
            "?user=bob&source=LDAP",
        ] {
            let answer = end_sessions(admin, query).header("cookie", &by).send();
            assert_eq!(answer.status, 400, "{query} {}", answer.text());
            assert_eq!(answer.json()["details"].as_array().unwrap().len(), 1, "{query} {}", answer.text());
        }
        let ask = "?user=bob&source=ldap";
        assert_eq!(end_sessions(admin, ask).send().status, 401);
        assert_eq!(end_sessions(admin, ask).header("cookie", &first[0]).send().status, 403);
        assert_eq!(
            end_sessions(admin, ask)
                .header("cookie", &by)
                .header("sec-fetch-site", "cross-site")
                .send()
                .status,
            403
        );
        assert_eq!([&first, &second, &other, &configured].map(live), [(200, 200); 4], "nothing has ended");
        let line = audited(&stack.server, &json!({"message": "sessions not ended", "by": "ldap:bob"}));
        assert_eq!(line["status"], 403);

        let answer = end_sessions(admin, ask).header("cookie", &by).send();
        assert_eq!((answer.status, answer.json()), (200, json!({"ended": 2})));
        assert_eq!([&first, &second].map(live), [(401, 401); 2]);
        assert_eq!([&other, &configured].map(live), [(200, 200); 2]);
        let line = audited(&stack.server, &json!({"message": "sessions ended", "user": "bob"}));
        assert_eq!(
            [&line["source"], &line["by"], &line["ended_sessions"], &line["address"]],
            [&json!("ldap"), &json!("ldap:ann"), &json!(2), &json!("127.0.0.1")]
        );
        assert_eq!(end_sessions(admin, ask).header("cookie", &by).send().json(), json!({"ended": 0}));
        // They may come back; a user of the configuration is somebody else.
        let again = cookies(&log_in(admin, "bob", &password("bob")));
        assert_eq!(live(&again), (200, 200));
        let answer = end_sessions(admin, "?user=vi&source=ldap").bearer(ROOT).send();
        assert_eq!(answer.json(), json!({"ended": 0}));
        assert_eq!(live(&configured), (200, 200));
        let answer = end_sessions(admin, "?user=vi&source=config").bearer(ROOT).send();
        assert_eq!(answer.json(), json!({"ended": 1}));
        assert_eq!(live(&configured), (401, 401));
        audited(&stack.server, &json!({"message": "sessions ended", "user": "vi", "source": "config"}));
    });
}

#[test]
fn the_hundred_and_first_log_in_of_a_person_ends_the_oldest() {
    let slapd = Slapd::start();
    let server = setup(&with_admin("sqlite:keys.db", &ldap(&slapd, ""), "")).start();
    let admin = server.admin();
    let bobs = cookies(&log_in(admin, "bob", &password("bob")));
    let first = cookies(&log_in(admin, "ann", &password("ann")));
    let more: Vec<_> = (1..100).map(|_| cookies(&log_in(admin, "ann", &password("ann")))).collect();
    let live = |[session, application]: &[String; 2]| {
        (actor(admin, session).status, who(&server, &[("cookie", application)]))
    };
    let ann = (200, "ldap:ann Admin".to_owned());
    assert_eq!((live(&first), live(&more[0])), (ann.clone(), ann.clone()));
    let last = cookies(&log_in(admin, "ANN", &password("ann")));
    assert_eq!(live(&first), (401, "401".to_owned()));
    assert_eq!([&more[0], &more[98], &last].map(live), [ann.clone(), ann.clone(), ann]);
    assert_eq!(live(&bobs), (200, "ldap:bob Viewer".to_owned()));
    audited(&server, &json!({"message": "logged in", "user": "ann", "ended_sessions": 1}));
    // Asked once at admin, and never by a session.
    assert_eq!(slapd.binds(&person("ann")), 1, "each spelling is the same name");
}

/// A server without an admin listener on the same store: a sidecar.
fn sidecar(store: &str, rest: &str) -> Server {
    let config = format!(
        "keys: {{store: \"{store}\"}}\ncredentials: [session]\npolicies: {{read: {{}}}}\n\
         routes: [{{path_prefix: /read, policy: read}}]\ndefault: {{}}\n{rest}"
    );
    Server::with(&config).arg("--drain=0s").start()
}

#[test]
fn a_sidecar_takes_people_from_what_the_admin_server_wrote_down() {
    let (slapd, postgres) = (Slapd::start(), Postgres::shared());
    let database = postgres.database();
    let store = postgres.url(&database);
    let mut config = with_admin(&store, &ldap(&slapd, ""), "default: {}\n");
    let restricted = "users:\n- {username: reader, password: password-of-reader, policies: [read]}\n";
    config = config.replace("users:\n", restricted) + "policies: {read: {}}\n";
    let listeners = "ext_authz: {listen: \"127.0.0.1:0\"}\nprobes: {listen: \"127.0.0.1:0\"}\n";
    let first = setup(&format!("{listeners}{config}")).own_listeners().start();
    let admin = first.admin();
    let change = |config: &str| {
        std::fs::write(first.folder().join("config.yaml"), format!("{listeners}{config}")).unwrap();
        // Also where it takes something away.
        first.hang_up();
    };
    let second = sidecar(&store, "");
    // One that names a user of this name itself, with another password.
    let hash = bcrypt::hash("another", 4).unwrap();
    let third = sidecar(
        &store,
        &format!("users: [{{username: vi, password_hash: '{hash}', actor: {{id: other}}}}]\n"),
    );
    let at = |server: &Server, cookie: &str| who(server, &[("cookie", cookie)]);
    let soon = |what: &str, cookie: &str, expected: &str| {
        let deadline = Instant::now() + MAX_WAIT;
        loop {
            let said = [&first, &second].map(|server| at(server, cookie));
            if said == [expected; 2] {
                return;
            }
            assert!(Instant::now() < deadline, "{what}: {said:?} instead of {expected}");
            std::thread::sleep(Duration::from_millis(10));
        }
    };
    // Rules that name somebody anew are in force a moment later.
    let again = |user: &str, sent: &str| {
        let mut answer = None;
        wait_until("a log-in", || {
            let tried = log_in(admin, user, sent);
            let is_in = tried.status == 200;
            answer = Some(tried);
            is_in
        });
        cookies(&answer.unwrap())
    };

    // Log-in, and log-out.
    let [session, application] = again("ann", &password("ann"));
    soon("a log-in", &application, "ldap:ann Admin");
    assert_eq!(at(&second, &session.replace("eat_session", "eat_app")), "401");
    assert_eq!(at(&second, &session), "401");
    assert_eq!(Request::new(admin, "POST", "/logout").header("cookie", &session).send().status, 200);
    soon("a log-out", &application, "401");

    // A user of the configuration whom the sidecar does not name, and one whom it names otherwise.
    let [_, vis] = again("vi", "vi");
    soon("a configured user", &vis, "vi Viewer");
    assert_eq!(at(&third, &vis), "401", "bound to another password");

    // A user who counts under a policy alone does not count under others elsewhere.
    let [_, readers] = again("reader", "password-of-reader");
    let read = |server: &Server, path: &str| {
        let request = grpc::request("GET", "app.example", path, &[("cookie", &readers)]);
        grpc::code(&grpc::check(server, request))
    };
    let [_, marker] = again("vi", "vi");
    soon("what was written after it", &marker, "vi Viewer");
    assert_ne!(read(&second, "/"), 0, "restricted to the policy `read`");
    assert_ne!(read(&first, "/"), 0);

    // The sessions of one person end by an Admin, those of another do not.
    let [_, bobs] = again("bob", &password("bob"));
    let [_, anns] = again("ann", &password("ann"));
    soon("a log-in", &bobs, "ldap:bob Viewer");
    let answer = end_sessions(admin, "?user=bob&source=ldap").bearer(ROOT).send();
    assert_eq!(answer.json(), json!({"ended": 1}));
    soon("ended by an Admin", &bobs, "401");
    soon("not ended", &anns, "ldap:ann Admin");

    // The directory is asked again when the answer is older than ten minutes and the session is used.
    let age = || {
        let sql =
            "UPDATE api_sessions SET checked_at = checked_at - interval '11 minutes' WHERE source = 'ldap'";
        postgres.psql(&database, sql);
    };
    // A group has one member at least.
    slapd.administrator().join(ADMINS, &person("carol"));
    slapd.administrator().leave(ADMINS, &person("ann"));
    age();
    soon("another role", &anns, "ldap:ann Viewer");
    wait_until("another role at every sidecar", || at(&third, &anns) == "ldap:ann Viewer");

    // A role that the rules give, without another log-in.
    let vi_as = |role: &str| config.replace("{id: vi, role: Viewer}", &format!("{{id: vi, role: {role}}}"));
    change(&vi_as("Editor"));
    soon("another role by the rules", &vis, "vi Editor");
    change(&vi_as("Editor").replace(
        &format!("{{group: \"{STAFF}\", role: Viewer}}"),
        &format!("{{group: \"{STAFF}\", role: Editor}}"),
    ));
    soon("another role for a group", &anns, "ldap:ann Editor");
    let without_vi: String = config
        .lines()
        .filter(|line| !line.starts_with("- {username: vi"))
        .map(|line| format!("{line}\n"))
        .collect();
    change(&without_vi);
    soon("a user who was removed", &vis, "401");
    soon("everybody else", &anns, "ldap:ann Viewer");
    // As themselves again: the session was theirs, and would count again.
    change(&config);
    let [_, vis] = again("vi", "vi");
    soon("a user who is back", &vis, "vi Viewer");

    // The directory leaves the configuration, and with it its people.
    let (head, rest) = config.split_once("ldap:\n").unwrap();
    let without = format!("{head}{}", &rest[rest.find("tokens:").unwrap()..]);
    change(&without);
    soon("without a directory", &anns, "401");
    soon("a configured user", &vis, "vi Viewer");
    change(&config);
    let [_, fresh] = again("ann", &password("ann"));
    soon("a log-in after the directory is back", &fresh, "ldap:ann Viewer");
    soon("a session of before", &anns, "401");
    let stored = postgres.psql(&database, "SELECT count(*) FROM api_sessions WHERE source = 'ldap'");
    assert_eq!(stored, "2", "those of the last log-in");
    for server in [&first, &second, &third] {
        assert_no_password("a log", &server.log().text(), &[]);
    }
}

#[test]
fn the_store_the_logs_and_the_metrics_hold_no_password_and_no_cookie() {
    let (slapd, postgres) = (Slapd::start(), Postgres::start());
    let database = postgres.database();
    // Even when it writes down every statement with its values.
    postgres.psql("postgres", &format!("ALTER DATABASE {database} SET log_statement = 'all'"));
    for in_sqlite in [true, false] {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("keys.db");
        let store = if in_sqlite { format!("sqlite:{}", file.display()) } else { postgres.url(&database) };
        let mut server = setup(&with_admin(&store, &ldap(&slapd, ""), "")).start();
        let admin = server.admin();
        let mut secrets = ["wrong-password-of-ann", READER_PASSWORD].map(str::to_owned).to_vec();
        let mut told = String::new();
        for uid in ["ann", "bob", "carol"] {
            let sent = password(uid);
            for password in [&*sent, "wrong-password-of-ann"] {
                let basic = crate::harness::http1::basic(uid, password);
                wait_until("it is known", || who(&server, &[("authorization", &basic)]) != "503");
                let answer = log_in(admin, uid, password);
                if answer.status == 200 {
                    let pair = cookies(&answer);
                    assert_ne!(who(&server, &[("cookie", &pair[1])]), "401");
                    create_key(admin, &pair[0], &format!("of-{uid}"), "Viewer");
                    secrets.extend(pair.map(|cookie| cookie.split_once('=').unwrap().1.to_owned()));
                } else {
                    told += &format!("{answer:?}{}\n", answer.text());
                }
            }
            secrets.push(sent);
        }
        // Two cookies of each of the two who have a role.
        assert_eq!(secrets.len(), 2 + 3 + 4);
        fs::write(folder.path().join("answers"), told).unwrap();
        fs::write(folder.path().join("metrics"), server.metrics()).unwrap();
        server.terminate();
        assert_eq!(server.wait().code(), Some(0));
        fs::write(folder.path().join("our-log"), server.log().text()).unwrap();
        fs::write(folder.path().join("slapd-log"), slapd.log().join("\n")).unwrap();
        if !in_sqlite {
            fs::write(folder.path().join("dump"), postgres.dump(&database)).unwrap();
            fs::copy(postgres.log(), folder.path().join("its-log")).unwrap();
        }
        assert_no_secret(folder.path(), &secrets);
        // What the directory says of somebody is stored.
        let stored = holding(folder.path(), &["ann@example.org".to_owned()]);
        let place = folder.path().join(if in_sqlite { "keys.db" } else { "dump" });
        assert!(stored.contains(&place), "{stored:?}");
        // The search finds a secret where one is.
        fs::write(folder.path().join("leak"), format!("a leak: {}", secrets[3])).unwrap();
        assert_eq!(holding(folder.path(), &forms(&secrets)), [folder.path().join("leak")]);
    }
}
