//! What is remembered of people of a directory, and for how long: in process, under a clock that a test sets, with a real
//! OpenLDAP.

use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use envoy_auth_tokens::attributes::{Attributes, ClientAddress, Encoding, Header, Headers, Http};
use envoy_auth_tokens::authorizer::Authorizer;
use envoy_auth_tokens::config::{Config, ProcessEnvironment, Source};
use envoy_auth_tokens::credential::{CredentialLocation, CredentialLocations, CrossSite, Principal};
use envoy_auth_tokens::decision::Decision;
use envoy_auth_tokens::deny_reason::DenyReason;
use envoy_auth_tokens::identity::Sources;
use envoy_auth_tokens::identity::passwords::Passwords;
use envoy_auth_tokens::identity::people::{People, record_of, records};
use envoy_auth_tokens::keys::sessions::NewSessions;
use envoy_auth_tokens::keys::{Keys, Role, SessionScope, scoped_binding};
use envoy_auth_tokens::person::PersonSource;
use envoy_auth_tokens::secret::Secret;
use envoy_auth_tokens::snapshot::{Snapshot, SnapshotStore};
use futures_util::future::join_all;
use tokio::task::JoinHandle;

use crate::harness::slapd::{PASSWORDS, PEOPLE, READER, READER_PASSWORD, Slapd, password, person};
use crate::harness::wait_until;
use crate::keys_people::ldap as ldap_person;
use crate::keys_store::{Database, Time, soon};
use crate::people::{ADMINS, STAFF, ldap, with_admin};

pub(crate) const MINUTE: i64 = 60;

/// A process without listeners: who asks is asked here.
pub(crate) struct Process {
    authorizer: Arc<Authorizer>,
    pub(crate) snapshots: SnapshotStore,
    people: People,
    pub(crate) keys: Arc<Keys>,
    time: Time,
    follower: JoinHandle<Infallible>,
}

impl Process {
    pub(crate) async fn start(db: &Database, time: &Time, config: &str) -> Self {
        Self::of(db, time, snapshot(config, time, None)).await
    }

    /// One under these rules.
    pub(crate) async fn of(db: &Database, time: &Time, snapshot: Snapshot) -> Self {
        let keys = Keys::open(&db.url(), time.clock()).await.unwrap();
        let follower = tokio::spawn(Arc::clone(&keys).follow());
        keys.first_read().await;
        let snapshots = SnapshotStore::new(snapshot);
        let people = People::new(time.clock()).unwrap();
        let sources = Sources {
            passwords: Passwords::new(1).unwrap(),
            people: people.clone(),
            keys: Some(Arc::clone(&keys)),
            clock: time.clock(),
        };
        let authorizer = Arc::new(Authorizer::new(snapshots.clone(), sources));
        let process = Self { authorizer, snapshots, people, keys, time: time.clone(), follower };
        process.write_records().await;
        process
    }

    /// Other rules are in force, and written down.
    pub(crate) async fn reload(&self, config: &str) {
        let current = self.snapshots.current();
        self.replace(snapshot(config, &self.time, Some(&current))).await;
    }

    /// The same, with rules that were read already.
    pub(crate) async fn replace(&self, snapshot: Snapshot) {
        self.snapshots.replace(snapshot);
        self.write_records().await;
    }

    /// What is done at the start and after a reload where people are decided about.
    pub(crate) async fn write_records(&self) {
        let snapshot = self.snapshots.current();
        if snapshot.admin.is_some() {
            records::write_all(&snapshot, &self.keys, &self.time.clock()).await.unwrap();
            if let Some(settings) = &snapshot.ldap {
                self.people.retry_ending(settings, &self.keys).await;
            }
        }
    }

    /// What is done once a minute there.
    pub(crate) async fn sweep(&self) {
        let snapshot = self.snapshots.current();
        records::sweep(&snapshot, &self.keys, &self.people, &self.time.clock()).await;
    }

    /// Whom a Check takes a request with this header for: `<id> <role>`, or the reason of the denial.
    pub(crate) async fn check(&self, name: &str, value: &str) -> String {
        let decision = self.decide(ClientAddress::UNKNOWN, name, value).await;
        who(decision.verdict.map(|_| decision.context.principal))
    }

    /// The same from an address, with `authorization`.
    pub(crate) async fn check_from(&self, address: &str, authorization: &str) -> String {
        let client = ClientAddress::new(address.as_bytes());
        let decision = self.decide(client, "authorization", authorization).await;
        who(decision.verdict.map(|_| decision.context.principal))
    }

    /// The principal of a token in a Check; `None` when it is not admitted.
    pub(crate) async fn principal(&self, token: &Secret) -> Option<Arc<Principal>> {
        let authorization = format!("Bearer {}", token.expose());
        let decision = self.decide(ClientAddress::UNKNOWN, "authorization", &authorization).await;
        decision.context.principal
    }

    async fn decide(&self, client: ClientAddress<'_>, name: &str, value: &str) -> Decision {
        let header = Header { name: name.as_bytes(), value: value.as_bytes() };
        let headers = Headers::new(Encoding::Lines, vec![header]);
        let http = Http { method: b"GET", host: b"h", path: b"/", headers, client };
        let request = Attributes { http: Some(http), policy: None, misspelled_policy: None };
        self.authorizer.authorize(&request, None).await
    }

    /// The same at the admin listener.
    async fn principal_at_admin(
        &self,
        name: &str,
        value: &str,
    ) -> Result<Option<Arc<Principal>>, DenyReason> {
        let header = Header { name: name.as_bytes(), value: value.as_bytes() };
        let headers = Headers::new(Encoding::Lines, vec![header]);
        let http = Http { method: b"GET", host: b"h", path: b"/", headers, client: ClientAddress::UNKNOWN };
        let locations = CredentialLocations::new(vec![
            CredentialLocation::Basic { cross_site: CrossSite::Deny },
            CredentialLocation::Session { cookies: &["eat_session"] },
        ]);
        loop {
            match self.authorizer.authenticate_at(&http, &locations).await {
                Err(DenyReason::DirectoryPending) => {}
                known => return known,
            }
        }
    }

    /// What a Check says of a user name and a password, however long it takes to know.
    async fn basic(&self, user: &str, password: &str) -> String {
        loop {
            let said = self.check("authorization", &basic(user, password)).await;
            if said != "directory_pending" {
                return said;
            }
        }
    }

    pub(crate) async fn basic_at_admin(&self, user: &str, password: &str) -> String {
        who(self.principal_at_admin("authorization", &basic(user, password)).await)
    }

    /// What becomes of the two cookies of a log-in: at the admin listener, and in a Check.
    pub(crate) async fn session(&self, cookies: &[String; 2]) -> [String; 2] {
        [who(self.principal_at_admin("cookie", &cookies[0]).await), self.check("cookie", &cookies[1]).await]
    }

    /// Opens the sessions of a person as the admin listener does.
    async fn log_in(&self, user: &str, password: &str) -> [String; 2] {
        let principal = self.principal_at_admin("authorization", &basic(user, password)).await;
        self.open_sessions(&principal.unwrap().expect("the password is right")).await
    }

    /// The same for somebody who is known.
    pub(crate) async fn open_sessions(&self, principal: &Principal) -> [String; 2] {
        let person = principal.person.as_ref().unwrap();
        let record = record_of(principal, self.time.now()).unwrap();
        self.keys.record_person(&record).await.unwrap();
        let claims = person.claims.as_ref();
        let new = NewSessions {
            person: person.id.clone(),
            bindings: SessionScope::ALL
                .into_iter()
                .map(|scope| (scope, scoped_binding(&person.binding, scope)))
                .collect(),
            claims: claims.map(|claims| claims.members.clone()),
            checked_at: claims.map(|claims| claims.checked_at),
        };
        let opened = self.keys.open_sessions(&new, &[]).await.unwrap();
        let name = |scope| match scope {
            SessionScope::Admin => "eat_session",
            SessionScope::Application => "eat_app",
        };
        let cookie = |scope| {
            let (_, secret) = opened.cookies.iter().find(|(other, _)| *other == scope).unwrap();
            format!("{}={}", name(scope), secret.expose())
        };
        [cookie(SessionScope::Admin), cookie(SessionScope::Application)]
    }

    /// Whether the record of a person of the directory says that they ended; `None` without a record.
    fn has_ended(&self, subject: &str) -> Option<bool> {
        self.keys.find_person(&ldap_person(subject)).map(|person| person.ended_at.is_some())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.follower.abort();
    }
}

pub(crate) fn snapshot(config: &str, time: &Time, previous: Option<&Snapshot>) -> Snapshot {
    let config = config.replace("{$env: LDAP_PASSWORD}", READER_PASSWORD);
    let source = Source { file: Path::new("config.yaml"), environment: &ProcessEnvironment, now: time.now() };
    let config = Config::parse(&config, &source).unwrap_or_else(|errors| panic!("{errors}"));
    Snapshot::build(&config, previous).unwrap()
}

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

fn who(said: Result<Option<Arc<Principal>>, DenyReason>) -> String {
    match said {
        Ok(Some(principal)) => {
            let member = |name| principal.actor.member(name).and_then(|value| value.as_str()).unwrap_or("");
            format!("{} {}", member("id"), member("role"))
        }
        Ok(None) => "no_credential".to_owned(),
        Err(reason) => reason.details().reason.to_owned(),
    }
}

/// Rules with these further keys in the section `ldap`.
fn rules(slapd: &Slapd, more: &str) -> String {
    with_admin("sqlite:keys.db", &ldap(slapd, more), "")
}

/// Rules of a process without an admin listener.
pub(crate) fn sidecar() -> &'static str {
    "keys: {store: \"sqlite:keys.db\"}\ncredentials: [session]\n"
}

async fn process(slapd: &Slapd, more: &str) -> (Process, Time, Database) {
    let (time, db) = (Time::new(), Database::sqlite());
    (Process::start(&db, &time, &rules(slapd, more)).await, time, db)
}

const LIVE: [&str; 2] = ["ldap:ann Admin"; 2];
pub(crate) const OVER: [&str; 2] = ["no_credential"; 2];

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_password_is_dead_within_what_is_remembered() {
    let slapd = Slapd::start();
    let (process, time, _db) = process(&slapd, "").await;
    let (old, new) = (password("bob"), format!("{PASSWORDS}bob, changed"));
    let bob = person("bob");
    assert_eq!(process.basic("bob", &old).await, "ldap:bob Viewer");
    assert_eq!(process.basic_at_admin("bob", &old).await, "ldap:bob Viewer");
    assert_eq!(slapd.binds(&bob), 2, "each listener remembers by itself");
    slapd.set_password("bob", &new);
    time.pass(5 * MINUTE - 1);
    assert_eq!(process.basic("bob", &old).await, "ldap:bob Viewer");
    assert_eq!(process.basic("bob", &new).await, "ldap:bob Viewer");
    assert_eq!(slapd.binds(&bob), 3);
    time.pass(1);
    assert_eq!(process.basic("bob", &old).await, "wrong_password");
    assert_eq!(process.basic_at_admin("bob", &old).await, "wrong_password");
    assert_eq!(process.basic("bob", &new).await, "ldap:bob Viewer");
    assert_eq!(slapd.binds(&bob), 5, "the new one is remembered from when it was asked about");

    // Nothing is remembered: each is asked about, and the old one is dead at once.
    process.reload(&rules(&slapd, "  remember: 0\n")).await;
    for binds in 6..9 {
        assert_eq!(process.basic("bob", &new).await, "ldap:bob Viewer");
        assert_eq!(slapd.binds(&bob), binds);
    }
    slapd.set_password("bob", &old);
    // It was wrong a moment ago.
    time.pass(30);
    assert_eq!(process.basic("bob", &new).await, "wrong_password");
    assert_eq!(process.basic("bob", &old).await, "ldap:bob Viewer");
    // So do other groups.
    slapd.administrator().join(ADMINS, &bob);
    assert_eq!(process.basic("bob", &old).await, "ldap:bob Admin");
    slapd.administrator().set(&bob, "pwdAccountLockedTime", &["000001010000Z"]);
    assert_eq!(process.basic("bob", &old).await, "wrong_password");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_pair_is_asked_about_once_in_half_a_minute() {
    let slapd = Slapd::start();
    let (process, time, _db) = process(&slapd, "  max_wrong: 100\n").await;
    let questions = || (slapd.searches(), slapd.binds_of_people());
    for (user, sent) in [("bob", "wrong"), ("nobody", "wrong"), ("carol", &*password("carol"))] {
        for _ in 0..2 {
            let before = questions();
            for _ in 0..4 {
                assert_eq!(process.basic(user, sent).await, "wrong_password", "{user}");
                assert_eq!(process.basic(&user.to_uppercase(), sent).await, "wrong_password", "{user}");
            }
            let (searches, binds) = questions();
            // One in each of the two places where people stand, and none for a right password that is remembered.
            assert!(
                searches - before.0 <= 2 && binds - before.1 <= 1,
                "{user} {before:?} {searches} {binds}"
            );
            if user != "carol" {
                assert_eq!(searches - before.0, 2, "{user}");
            }
            time.pass(29);
            let before = questions();
            assert_eq!(process.basic(user, sent).await, "wrong_password");
            assert_eq!(questions(), before, "{user}");
            time.pass(1);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_passwords_of_one_entry_lock_it_here_before_the_directory_does() {
    let slapd = Slapd::start();
    let more_names = |text: String| text.replace("(uid=%s)", "(|(uid=%s)(mail=%s))");
    let (time, db) = (Time::new(), Database::sqlite());
    let config = more_names(rules(&slapd, ""));
    let process = Process::start(&db, &time, &config).await;
    let (ann, bob) = (password("ann"), password("bob"));
    assert_eq!(process.basic("ann", &ann).await, "ldap:ann Admin");
    time.pass(4 * MINUTE);
    // By whatever name.
    for (name, wrong) in [("ann", "one"), ("ANN@example.org", "two"), ("a.example@example.org", "three")] {
        assert_eq!(process.basic(name, wrong).await, "wrong_password");
    }
    let binds = slapd.binds(&person("ann"));
    assert_eq!((binds, slapd.failures("ann")), (4, 3));
    for (name, sent) in [("ann", "four"), ("ann@example.org", "five"), ("ann@example.org", &*ann)] {
        assert_eq!(process.basic(name, sent).await, "user_locked", "{name}");
    }
    assert_eq!(process.basic("ann", &ann).await, "ldap:ann Admin", "remembered");
    assert_eq!(process.basic("bob", &bob).await, "ldap:bob Viewer", "somebody else");
    time.pass(MINUTE);
    assert_eq!(process.basic("ann", &ann).await, "user_locked", "remembered no longer");
    assert_eq!(slapd.binds(&person("ann")), binds);
    // At admin it is counted apart, and counted too.
    assert_eq!(process.basic_at_admin("ann", &ann).await, "ldap:ann Admin");
    for wrong in ["one", "two", "three"] {
        assert_eq!(process.basic_at_admin("bob", wrong).await, "wrong_password");
    }
    assert_eq!(process.basic_at_admin("bob", &bob).await, "user_locked");
    assert_eq!(process.basic("bob", &bob).await, "ldap:bob Viewer");
    assert_eq!(slapd.failures("bob"), 3);

    // After half an hour it is over.
    time.pass(29 * MINUTE);
    assert_eq!(process.basic("ann", &ann).await, "ldap:ann Admin");
    assert_eq!(process.basic_at_admin("bob", "four").await, "user_locked");
    time.pass(2 * MINUTE);
    assert_eq!(process.basic_at_admin("bob", &bob).await, "ldap:bob Viewer");
    // The directory's own lock, after five, was never reached.
    assert!(slapd.failures("ann") < 5 && slapd.failures("bob") < 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_at_check_bring_few_questions_to_the_directory_and_keep_no_administrator_waiting() {
    let slapd = Slapd::start();
    for number in 0..40 {
        slapd.administrator().add(
            &format!("cn=guest {number},{PEOPLE}"),
            &[
                ("objectClass", &["inetOrgPerson"]),
                ("cn", &["Guest"]),
                ("sn", &["Guest"]),
                ("uid", &[&format!("guest{number}")]),
                ("userPassword", &[&format!("{PASSWORDS}{number}")]),
            ],
        );
    }
    let (time, db) = (Time::new(), Database::sqlite());
    let one_place = |text: String| text.replace(", \"ou=partners,dc=example,dc=org\"]", "]");
    let config = one_place(rules(&slapd, ""));
    assert!(!config.contains("partners"));
    let process = Process::start(&db, &time, &config).await;
    let count = |said: &[String], word: &str| said.iter().filter(|said| *said == word).count();

    // Twenty questions a second, whoever is asked about, and as often as they are sent.
    for second in 0..3 {
        let before = slapd.searches();
        for _ in 0..3 {
            let names: Vec<_> = (0..60).map(|number| format!("stranger-{second}-{number}")).collect();
            let said = join_all(names.iter().map(|name| process.basic(name, "guess"))).await;
            assert_eq!((count(&said, "wrong_password"), count(&said, "directory_unavailable")), (20, 40));
            assert_eq!(slapd.searches() - before, 20);
        }
        // In the same second.
        assert_eq!(process.basic_at_admin("ann", &password("ann")).await, "ldap:ann Admin");
        let expected = if second == 0 { 21 } else { 20 };
        assert_eq!(slapd.searches() - before, expected);
        time.pass(1);
    }

    // Thirty wrong passwords a minute.
    let guess = async |numbers: std::ops::Range<usize>| {
        let names: Vec<_> = numbers.map(|number| format!("guest{number}")).collect();
        let said = join_all(names.iter().map(|name| process.basic(name, "guess"))).await;
        time.pass(1);
        (count(&said, "wrong_password"), count(&said, "directory_unavailable"))
    };
    let before = slapd.binds_of_people();
    assert_eq!(guess(0..20).await, (20, 0));
    assert_eq!(guess(20..35).await, (10, 5));
    assert_eq!(guess(35..40).await, (0, 5));
    assert_eq!(slapd.binds_of_people() - before, 30);
    // A name that nobody has gets the same answer, and no search.
    let searches = slapd.searches();
    assert_eq!(process.basic("nobody-of-the-directory", "guess").await, "directory_unavailable");
    assert_eq!(slapd.searches(), searches);
    // Whether a password is right cannot be known meanwhile, but where strangers do not come.
    assert_eq!(process.basic("bob", &password("bob")).await, "directory_unavailable");
    assert_eq!(process.basic_at_admin("bob", &password("bob")).await, "ldap:bob Viewer");
    time.pass(58);
    assert_eq!(process.basic("bob", &password("bob")).await, "ldap:bob Viewer");
    assert_eq!(guess(35..40).await, (5, 0));

    // Right ones are none of the thirty.
    time.pass(MINUTE);
    process.reload(&config.replace("  roles:\n", "  remember: 0\n  roles:\n")).await;
    let before = slapd.binds_of_people();
    for _ in 0..35 {
        assert_eq!(process.basic("bob", &password("bob")).await, "ldap:bob Viewer");
        time.pass(1);
    }
    assert_eq!(slapd.binds_of_people() - before, 35);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_at_once_with_one_password_are_one_question() {
    let slapd = Slapd::start();
    for more in ["", "  remember: 0\n"] {
        let (process, ..) = process(&slapd, more).await;
        let before = slapd.binds(&person("ann"));
        // All of them wait for the same answer, however late it is.
        slapd.freeze();
        let ann = basic("ann", &password("ann"));
        let said = join_all((0..20).map(|_| process.check("authorization", &ann))).await;
        assert_eq!(said, ["directory_pending"; 20]);
        let asked = join_all((0..20).map(|_| process.basic_at_admin("ann", "wrong")));
        let waiting = join_all((0..20).map(|_| process.check("authorization", &ann)));
        let thaw = async { slapd.thaw() };
        let (wrong, _, ()) = tokio::join!(asked, waiting, thaw);
        assert_eq!(wrong, ["wrong_password"; 20]);
        assert_eq!(process.basic("ann", &password("ann")).await, "ldap:ann Admin");
        let binds = slapd.binds(&person("ann")) - before;
        // Where nothing is remembered, the last one is a question of its own.
        assert!(binds == 2 || (!more.is_empty() && binds == 3), "{binds}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_asked_about_again_after_ten_minutes_of_use() {
    let slapd = Slapd::start();
    slapd.administrator().join(ADMINS, &person("gus"));
    let (process, time, db) = process(&slapd, "").await;
    let ann = process.log_in("ann", &password("ann")).await;
    // Without use nobody asks.
    let unused = process.log_in("bob", &password("bob")).await;
    let start = slapd.searches();
    time.pass(10 * MINUTE - 1);
    assert_eq!(process.session(&ann).await, LIVE);
    process.sweep().await;
    assert_eq!(slapd.searches(), start);
    time.pass(1);
    assert_eq!(process.session(&ann).await, LIVE);
    let asked = slapd.searches() - start;
    assert!(asked > 0);
    let is_written = async || {
        db.number("SELECT count(DISTINCT checked_at) FROM api_sessions WHERE user_name = 'ann'").await == 1
            && db.number("SELECT max(checked_at) FROM api_sessions").await == time.now().as_second()
    };
    soon("written for both sessions of the log-in", is_written).await;
    for _ in 0..3 {
        assert_eq!(process.session(&ann).await, LIVE);
        process.sweep().await;
    }
    assert_eq!(slapd.searches() - start, asked, "one question");
    time.pass(10 * MINUTE);
    assert_eq!(process.session(&ann).await, LIVE);
    assert_eq!(slapd.searches() - start, 2 * asked);
    assert_eq!(slapd.binds(&person("ann")), 1, "no password is needed");
    assert_eq!(process.session(&unused).await, ["ldap:bob Viewer"; 2]);
}

/// Holds that a person's sessions, record and remembered password are over after ten minutes, once this was done.
async fn gone(members: &str, uid: &str, leave: impl AsyncFnOnce(&Slapd)) {
    let slapd = Slapd::start();
    slapd.administrator().join(STAFF, &person(uid));
    let id = if members.contains("employeeNumber") { "4711" } else { uid };
    let (time, db) = (Time::new(), Database::sqlite());
    let config = rules(&slapd, "  remember: 1h\n").replace("id: uid", members);
    let process = Process::start(&db, &time, &config).await;
    let sent = password(uid);
    let live = format!("ldap:{id} Viewer");
    assert_eq!(process.basic(uid, &sent).await, live);
    let (first, second) = (process.log_in(uid, &sent).await, process.log_in(uid, &sent).await);
    // Somebody of whom nothing changes, and who has a number in no case.
    let other = if id == uid { Some(process.log_in("ann", &password("ann")).await) } else { None };
    assert_eq!(process.has_ended(id), Some(false));
    leave(&slapd).await;
    time.pass(10 * MINUTE - 1);
    assert_eq!(process.session(&first).await, [live.clone(), live.clone()], "not asked again yet");
    time.pass(1);
    assert_eq!(process.session(&first).await, OVER);
    assert_eq!(process.session(&second).await, OVER);
    let ended = async || process.has_ended(id) == Some(true);
    soon("the record ends", ended).await;
    let none_stored =
        async || db.number(&format!("SELECT count(*) FROM api_sessions WHERE user_name = '{id}'")).await == 0;
    soon("no session is left", none_stored).await;
    assert_ne!(process.basic(uid, &sent).await, live, "a password that was remembered");
    assert_ne!(process.basic_at_admin(uid, &sent).await, live);
    if let Some(other) = &other {
        assert_eq!(process.session(other).await, LIVE);
    }
    // Nothing of it comes back by itself.
    process.write_records().await;
    assert_eq!((process.has_ended(id), process.session(&first).await), (Some(true), OVER.map(str::to_owned)));
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_loses_the_last_role_loses_the_session() {
    gone("id: uid", "gus", async |slapd| slapd.administrator().leave(STAFF, &person("gus"))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_disabled_loses_the_session() {
    let lock = async |slapd: &Slapd| {
        slapd.administrator().set(&person("gus"), "pwdAccountLockedTime", &["000001010000Z"]);
    };
    gone("id: uid", "gus", lock).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_deleted_loses_the_session() {
    gone("id: uid", "gus", async |slapd| slapd.administrator().delete(&person("gus"))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_gets_the_name_of_somebody_else_does_not_get_the_session() {
    let other_person =
        async |slapd: &Slapd| slapd.administrator().set(&person("gus"), "employeeNumber", &["4712"]);
    gone("id: employeeNumber", "gus", other_person).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_role_counts_in_every_session_and_stays_when_the_directory_leaves() {
    let slapd = Slapd::start();
    slapd.administrator().join(ADMINS, &person("carol"));
    let (process, time, _db) = process(&slapd, "  remember: 1h\n").await;
    let ann = password("ann");
    let (first, second) = (process.log_in("ann", &ann).await, process.log_in("ann", &ann).await);
    assert_eq!(process.basic("ann", &ann).await, "ldap:ann Admin");
    slapd.administrator().leave(ADMINS, &person("ann"));
    time.pass(10 * MINUTE);
    let viewer = ["ldap:ann Viewer"; 2];
    assert_eq!(process.session(&first).await, viewer);
    assert_eq!(process.session(&second).await, viewer);
    let role = || process.keys.find_person(&ldap_person("ann")).unwrap().role.map(Role::as_str);
    soon("the record says so", async || role() == Some("Viewer")).await;
    // Neither a remembered password nor another log-in by it brings the old role back.
    assert_eq!(process.basic("ann", &ann).await, "ldap:ann Viewer");
    let third = process.log_in("ann", &ann).await;
    assert_eq!(process.session(&third).await, viewer);
    assert_eq!(role(), Some("Viewer"));

    // The directory leaves: none of them knows more than it said last.
    slapd.stop();
    for _ in 0..6 {
        time.pass(9 * MINUTE);
        for session in [&first, &second, &third] {
            assert_eq!(process.session(session).await, viewer);
        }
    }
    // After an hour and ten minutes nothing is known, of any of them.
    time.pass(17 * MINUTE);
    for session in [&first, &second, &third] {
        assert_eq!(process.session(session).await, ["directory_unavailable"; 2]);
    }
    slapd.resume();
    // Nobody asks again at once.
    time.pass(10);
    let back = async || process.session(&second).await == viewer;
    soon("it lives on", back).await;
    assert_eq!(process.session(&first).await, viewer);
    assert_eq!(process.session(&third).await, viewer);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_store_could_not_keep_counts_all_the_same() {
    let slapd = Slapd::start();
    slapd.administrator().join(ADMINS, &person("carol"));
    let (process, time, db) = process(&slapd, "").await;
    let ann = process.log_in("ann", &password("ann")).await;
    let bob = process.log_in("bob", &password("bob")).await;
    // Nothing can be written.
    for table in ["api_sessions", "api_people"] {
        let refuse = format!(
            "CREATE TRIGGER no_{table} BEFORE UPDATE ON {table} BEGIN SELECT RAISE(ABORT, 'full'); END; \
             CREATE TRIGGER none_{table} BEFORE DELETE ON {table} BEGIN SELECT RAISE(ABORT, 'full'); END"
        );
        db.sql(&refuse).await;
    }
    slapd.administrator().leave(ADMINS, &person("ann"));
    slapd.administrator().delete(&person("bob"));
    time.pass(10 * MINUTE);
    let viewer = ["ldap:ann Viewer"; 2];
    for _ in 0..3 {
        assert_eq!(process.session(&ann).await, viewer);
        assert_eq!(process.session(&bob).await, OVER);
        time.pass(9 * MINUTE);
    }
    // And then the directory leaves, too.
    slapd.stop();
    time.pass(10 * MINUTE);
    assert_eq!(process.session(&ann).await, viewer);
    assert_eq!(process.session(&bob).await, OVER);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_outlives_an_hour_without_the_directory_and_is_then_not_known() {
    for sweeps in [false, true] {
        let slapd = Slapd::start();
        let (process, time, _db) = process(&slapd, "  timeout: 1s\n").await;
        let ann = process.log_in("ann", &password("ann")).await;
        // One that is refused, and one that does not answer.
        if sweeps {
            slapd.stop();
        } else {
            slapd.freeze();
        }
        time.pass(10 * MINUTE);
        for _ in 0..6 {
            assert_eq!(process.session(&ann).await, LIVE);
            if sweeps {
                process.sweep().await;
            }
            time.pass(10 * MINUTE - 1);
        }
        time.pass(5);
        assert_eq!(process.session(&ann).await, LIVE, "a second before the end");
        assert_eq!(process.has_ended("ann"), Some(false));
        time.pass(1);
        assert_eq!(process.session(&ann).await, ["directory_unavailable"; 2]);
        if sweeps {
            // Those who go by the record cannot say that they do not know: for them it is over.
            time.pass(10);
            process.sweep().await;
            assert_eq!(process.has_ended("ann"), Some(true));
            slapd.resume();
        } else {
            slapd.thaw();
        }
        time.pass(10);
        soon("it lives again", async || process.session(&ann).await == LIVE).await;
        soon("so does the record", async || process.has_ended("ann") == Some(false)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_are_decided_by_the_rules_in_force() {
    let slapd = Slapd::start();
    let (time, db, all) = (Time::new(), Database::sqlite(), rules(&slapd, ""));
    let process = Process::start(&db, &time, &all).await;
    let ann = process.log_in("ann", &password("ann")).await;
    let bob = process.log_in("bob", &password("bob")).await;
    let other = process.log_in("vi", "vi").await;
    time.pass(5 * MINUTE);
    let searches = slapd.searches();

    // Another role for a group, a group that has none any more, and one that has a role again.
    process.reload(&all.replace("role: Admin}\n  - {group", "role: Editor}\n  - {group")).await;
    assert_eq!(process.session(&ann).await, ["ldap:ann Editor"; 2]);
    let staff = format!("  - {{group: \"{STAFF}\", role: Viewer}}\n");
    assert!(all.contains(&staff));
    process.reload(&all.replace(&staff, "")).await;
    assert_eq!(
        (process.session(&ann).await, process.session(&bob).await),
        (LIVE.map(str::to_owned), OVER.map(str::to_owned))
    );
    assert_eq!((process.has_ended("ann"), process.has_ended("bob")), (Some(false), Some(true)));
    process.reload(&all).await;
    assert_eq!(process.session(&bob).await, ["ldap:bob Viewer"; 2]);
    assert_eq!(process.has_ended("bob"), Some(false));
    // Somebody of the configuration who has this id now.
    let token = "tokens: [{token: another-token-0123456789, actor: {id: 'ldap:bob'}}, ";
    process.reload(&all.replace("tokens: [", token)).await;
    assert_eq!(process.session(&bob).await, OVER);
    process.reload(&all).await;
    assert_eq!(slapd.searches(), searches, "all of it by what the directory had said");

    // Another place to search in, or none: they end for good, and so does the record.
    let elsewhere = all.replace("[\"ou=people,dc=example,dc=org\", ", "[");
    let (head, rest) = all.split_once("ldap:\n").unwrap();
    let nowhere = format!("{head}{}", &rest[rest.find("tokens:").unwrap()..]);
    for rules in [elsewhere, nowhere] {
        let again = process.log_in("ann", &password("ann")).await;
        assert_eq!(process.session(&again).await, LIVE);
        assert_eq!(process.has_ended("ann"), Some(false));
        process.reload(&rules).await;
        assert_eq!(process.session(&again).await, OVER);
        assert_eq!(process.has_ended("ann"), Some(true));
        assert_eq!(db.number("SELECT count(*) FROM api_sessions WHERE source = 'ldap'").await, 0);
        assert_eq!(process.session(&other).await, ["vi Viewer"; 2]);
        process.reload(&all).await;
        assert_eq!(process.session(&again).await, OVER);
        assert_eq!(process.has_ended("ann"), Some(true));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_that_is_held_back_keeps_nobody_of_a_directory_that_it_lost() {
    let slapd = Slapd::start();
    let (time, db, all) = (Time::new(), Database::sqlite(), rules(&slapd, ""));
    let process = Process::start(&db, &time, &all).await;
    let sent = password("ann");
    let current = process.snapshots.current();
    // With another reader it is the same directory.
    let other_reader = all.replace(READER, "cn=other,dc=example,dc=org");
    let (head, rest) = all.split_once("ldap:\n").unwrap();
    let nowhere = format!("{head}{}", &rest[rest.find("tokens:").unwrap()..]);
    for (later, is_kept) in
        [(other_reader, true), (all.replace("(uid=%s)", "(cn=%s)"), false), (nowhere, false)]
    {
        let ann = process.log_in("ann", &sent).await;
        let later = snapshot(&later, &time, Some(&current));
        process.snapshots.replace(current.without_credentials_missing_in(&later));
        process.write_records().await;
        let (expected, basic) = if is_kept { (LIVE, "ldap:ann Admin") } else { (OVER, "wrong_password") };
        assert_eq!(process.session(&ann).await, expected);
        assert_eq!(process.basic("ann", &sent).await, basic);
        assert_eq!(process.has_ended("ann"), Some(!is_kept));
        process.reload(&all).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn people_who_bind_directly_have_sessions_of_an_hour_everywhere() {
    let slapd = Slapd::start();
    let (time, db) = (Time::new(), Database::sqlite());
    let text = rules(&slapd, "");
    let (head, rest) = text.split_once("  bind_dn:").unwrap();
    let (_, rest) = rest.split_once("  search_base:").unwrap();
    let direct = format!("{head}  bind_dn: \"uid=%s,{PEOPLE}\"\n  search_base:{rest}");
    let process = Process::start(&db, &time, &direct).await;
    let other = Process::start(&db, &time, sidecar()).await;
    let ann = process.log_in("ann", &password("ann")).await;
    let known = async || other.check("cookie", &ann[1]).await == LIVE[1];
    soon("the sidecar knows it", known).await;
    for _ in 0..5 {
        time.pass(10 * MINUTE);
        process.sweep().await;
        assert_eq!(process.session(&ann).await, LIVE);
    }
    time.pass(10 * MINUTE - 1);
    process.sweep().await;
    assert_eq!(process.session(&ann).await, LIVE);
    assert_eq!(other.check("cookie", &ann[1]).await, LIVE[1]);
    time.pass(1);
    assert_eq!(process.session(&ann).await, OVER);
    process.sweep().await;
    soon("over at the sidecar", async || other.check("cookie", &ann[1]).await == OVER[1]).await;
    assert_eq!(slapd.binds(&person("ann")), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_that_only_sidecars_use_are_asked_about_too() {
    let slapd = Slapd::start();
    slapd.administrator().join(ADMINS, &person("carol"));
    for db in [Database::sqlite(), Database::postgres()] {
        slapd.administrator().set(&person("bob"), "pwdAccountLockedTime", &[]);
        let time = Time::new();
        let admin = Process::start(&db, &time, &rules(&slapd, "")).await;
        let other = Process::start(&db, &time, sidecar()).await;
        slapd.administrator().join(ADMINS, &person("gus"));
        let [ann, bob] =
            [admin.log_in("gus", &password("gus")).await, admin.log_in("bob", &password("bob")).await];
        let said = async |cookies: &[String; 2]| other.check("cookie", &cookies[1]).await;
        soon("known there", async || said(&bob).await == "ldap:bob Viewer").await;
        assert_eq!(said(&ann).await, "ldap:gus Admin");
        // Whoever is not used is not asked about.
        let searches = slapd.searches();
        time.pass(11 * MINUTE);
        admin.sweep().await;
        assert_eq!(slapd.searches(), searches);

        slapd.administrator().leave(ADMINS, &person("gus"));
        slapd.administrator().join(STAFF, &person("gus"));
        slapd.administrator().set(&person("bob"), "pwdAccountLockedTime", &["000001010000Z"]);
        assert_eq!([said(&ann).await, said(&bob).await], ["ldap:gus Admin", "ldap:bob Viewer"]);
        let swept = async || {
            admin.sweep().await;
            [said(&ann).await, said(&bob).await] == ["ldap:gus Viewer", "no_credential"]
        };
        soon("asked about, and told there", swept).await;
        let searches = slapd.searches();
        admin.sweep().await;
        assert_eq!(slapd.searches(), searches, "once");
        slapd.administrator().leave(STAFF, &person("gus"));
    }
}

/// A password that no text has, and for which the directory calculates for a second or more.
const SLOW_PASSWORD: &str = "{CRYPT}$6$rounds=3000000$saltsaltsalt$\
     YYYYYYYYYYYYYYYYYYYYYYYYYYYYYYYYYYYYYYYYYYYYYYYYYYYYYYYYYYYYYYYYYYYYYYYYYYYYYYYYYYYYYY";

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_is_slow_to_bind_is_slow_for_names_that_nobody_has() {
    let slapd = Slapd::start();
    let (process, ..) = process(&slapd, "  timeout: 60s\n").await;
    slapd.set_password("bob", SLOW_PASSWORD);
    let first = async |user: &str, sent: &str| process.check("authorization", &basic(user, sent)).await;
    assert_eq!(first("bob", "wrong").await, "directory_pending");
    assert_eq!(process.basic("bob", "wrong").await, "wrong_password");
    for name in ["nobody-1", "twin"] {
        assert_eq!(first(name, "wrong").await, "directory_pending", "{name}");
        assert_eq!(process.basic(name, "wrong").await, "wrong_password", "{name}");
    }
    // Nor is an entry that is locked denied sooner.
    for wrong in ["two", "three"] {
        assert_eq!(process.basic("bob", wrong).await, "wrong_password");
    }
    let binds = slapd.binds(&person("bob"));
    assert_eq!(first("bob", "four").await, "directory_pending");
    assert_eq!(process.basic("bob", "four").await, "user_locked");
    assert_eq!((slapd.binds(&person("bob")), binds), (3, 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn binds_that_the_directory_does_not_answer_hold_back_further_ones_for_a_minute_and_lock_nobody() {
    let slapd = Slapd::start();
    let (time, db) = (Time::new(), Database::sqlite());
    // Each bind is sent to two servers, neither of which answers.
    let two = rules(&slapd, "  timeout: 500ms\n").replace(
        &format!("  url: {}\n", slapd.tls_url()),
        &format!("  url: [\"{}\", \"{}\"]\n", slapd.tls_url(), slapd.url()),
    );
    assert!(two.contains(&slapd.url()));
    let process = Process::start(&db, &time, &two).await;
    slapd.set_password("bob", SLOW_PASSWORD);
    let mut attempts = 0..;
    let mut try_for = async |seconds: i64| {
        for _ in 0..seconds {
            // Nobody is asked for a second after an outage.
            time.pass(1);
            let attempt = attempts.next().unwrap();
            assert_eq!(process.basic("bob", &format!("wrong {attempt}")).await, "directory_unavailable");
        }
    };
    try_for(10).await;
    wait_until("each is logged", || slapd.binds(&person("bob")) >= 3);
    assert_eq!(slapd.binds(&person("bob")), 3, "and no other was sent");
    time.pass(60);
    slapd.set_password("bob", &password("bob"));
    assert_eq!(process.basic("bob", &password("bob")).await, "ldap:bob Viewer");
}

/// An entry of more than a mebibyte: a question about it fails, and says nothing of the directory.
fn make_unreadable(slapd: &Slapd, uid: &str) {
    slapd.administrator().set(&person(uid), "description", &[&"x".repeat(1_200_000)]);
}

/// Rules under which an entry's description is read.
fn rules_with_descriptions(slapd: &Slapd) -> String {
    let rules = rules(slapd, "").replace("groups: memberOf}", "groups: memberOf, about: description}");
    assert!(rules.contains("about"));
    rules
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_that_cannot_be_read_keeps_nobody_else_out() {
    let slapd = Slapd::start();
    let (time, db) = (Time::new(), Database::sqlite());
    let process = Process::start(&db, &time, &rules_with_descriptions(&slapd)).await;
    make_unreadable(&slapd, "gus");
    assert_eq!(process.basic("gus", &password("gus")).await, "directory_unavailable");
    assert_eq!(process.basic("bob", &password("bob")).await, "ldap:bob Viewer", "in the same second");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_who_cannot_be_asked_about_is_honoured_for_an_hour_and_others_go_on() {
    let slapd = Slapd::start();
    let (time, db) = (Time::new(), Database::sqlite());
    let admin = Process::start(&db, &time, &rules_with_descriptions(&slapd)).await;
    let other = Process::start(&db, &time, sidecar()).await;
    let [ann, bob] =
        [admin.log_in("ann", &password("ann")).await, admin.log_in("bob", &password("bob")).await];
    let said = async |cookies: &[String; 2]| other.check("cookie", &cookies[1]).await;
    soon("known there", async || said(&bob).await == "ldap:bob Viewer").await;
    make_unreadable(&slapd, "bob");
    // After a night both come again.
    time.pass(15 * 60 * MINUTE);
    let is_seen = |uid: &str| {
        let sessions = admin.keys.sessions_of(|source| *source == PersonSource::Ldap);
        let mut of_person = sessions.iter().filter(|(_, session)| *session.person.subject == *uid);
        of_person.any(|(_, session)| session.last_used_at() >= time.now())
    };
    for round in 0..7 {
        let is_over = round == 6;
        assert_eq!(said(&ann).await, "ldap:ann Admin");
        assert_eq!(said(&bob).await, if is_over { "directory_unavailable" } else { "ldap:bob Viewer" });
        soon("the use is known", async || is_seen("ann") && is_seen("bob")).await;
        let searches = slapd.searches();
        admin.sweep().await;
        assert!(slapd.searches() > searches);
        assert_eq!((admin.has_ended("ann"), admin.has_ended("bob")), (Some(false), Some(is_over)));
        let is_new = format!(
            "SELECT count(*) FROM api_sessions WHERE user_name = 'ann' AND checked_at = {}",
            time.now().as_second()
        );
        soon("what was said of Ann is written", async || db.number(&is_new).await == 2).await;
        time.pass(10 * MINUTE);
    }
    // The entry can be read again.
    slapd.administrator().set(&person("bob"), "description", &[]);
    let back = async || {
        let is_live = said(&bob).await == "ldap:bob Viewer";
        admin.sweep().await;
        is_live
    };
    soon("it lives again", back).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_whose_admin_server_died_honours_people_of_the_directory_for_an_hour_of_use() {
    let slapd = Slapd::start();
    let (time, db) = (Time::new(), Database::sqlite());
    let admin = Process::start(&db, &time, &rules(&slapd, "")).await;
    let other = Process::start(&db, &time, sidecar()).await;
    let (ann, vi) = (admin.log_in("ann", &password("ann")).await, admin.log_in("vi", "vi").await);
    let said = async |cookies: &[String; 2]| other.check("cookie", &cookies[1]).await;
    soon("known there", async || said(&vi).await == "vi Viewer").await;
    assert_eq!(said(&ann).await, "ldap:ann Admin");
    drop(admin);
    // She may not log in any more, and nobody says so.
    slapd.administrator().set(&person("ann"), "pwdAccountLockedTime", &["000001010000Z"]);
    // Hours without use are none of the hour.
    time.pass(15 * 60 * MINUTE);
    for _ in 0..6 {
        assert_eq!(said(&ann).await, "ldap:ann Admin");
        time.pass(10 * MINUTE - 1);
    }
    time.pass(5);
    assert_eq!(said(&ann).await, "ldap:ann Admin", "a second before the end");
    time.pass(1);
    for _ in 0..2 {
        assert_eq!(said(&ann).await, "directory_unavailable");
        assert_eq!(said(&vi).await, "vi Viewer", "a user of the configuration");
    }
    // Another one takes its place.
    let admin = Process::start(&db, &time, &rules(&slapd, "")).await;
    let over = async || {
        admin.sweep().await;
        said(&ann).await == "no_credential"
    };
    soon("what the directory says is known", over).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_of_before_a_reload_is_answered_by_the_rules_after_it() {
    let slapd = Slapd::start();
    let (time, db, all) = (Time::new(), Database::sqlite(), rules(&slapd, "  timeout: 60s\n"));
    let process = Process::start(&db, &time, &all).await;
    let ann = process.log_in("ann", &password("ann")).await;
    time.pass(10 * MINUTE);
    slapd.freeze();
    assert_eq!(process.session(&ann).await, LIVE);
    process.reload(&all.replace("role: Admin}\n  - {group", "role: Editor}\n  - {group")).await;
    let role = || process.keys.find_person(&ldap_person("ann")).unwrap().role.map(Role::as_str);
    assert_eq!(role(), Some("Editor"));
    slapd.thaw();
    let is_written =
        async || db.number("SELECT min(checked_at) FROM api_sessions").await == time.now().as_second();
    soon("the answer is written", is_written).await;
    assert_eq!(role(), Some("Editor"));
    assert_eq!(process.session(&ann).await, ["ldap:ann Editor"; 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_answer_of_another_directory_says_nothing() {
    let (slapd, second) = (Slapd::start(), Slapd::start());
    let (time, db, all) = (Time::new(), Database::sqlite(), rules(&slapd, "  timeout: 60s\n"));
    let process = Process::start(&db, &time, &all).await;
    let bob = process.log_in("bob", &password("bob")).await;
    // There he is disabled from now on.
    slapd.administrator().set(&person("bob"), "pwdAccountLockedTime", &["000001010000Z"]);
    time.pass(10 * MINUTE);
    slapd.freeze();
    assert_eq!(process.session(&bob).await, ["ldap:bob Viewer"; 2]);

    process.reload(&rules(&second, "")).await;
    assert_eq!(process.session(&bob).await, OVER);
    let bob = process.log_in("bob", &password("bob")).await;
    time.pass(10 * MINUTE);
    let answers = || slapd.log().iter().filter(|line| line.contains(" SEARCH RESULT ")).count();
    let before = answers();
    slapd.thaw();
    wait_until("it answers", || answers() > before);
    for _ in 0..3 {
        assert_eq!(process.session(&bob).await, ["ldap:bob Viewer"; 2]);
        process.sweep().await;
        assert_eq!(process.has_ended("bob"), Some(false));
    }
    assert_eq!(db.number("SELECT count(*) FROM api_sessions WHERE user_name = 'bob'").await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_that_the_store_did_not_let_end_are_ended_later() {
    let slapd = Slapd::start();
    let (process, time, db) = process(&slapd, "").await;
    let bob = process.log_in("bob", &password("bob")).await;
    db.sql("CREATE TRIGGER none BEFORE DELETE ON api_sessions BEGIN SELECT RAISE(ABORT, 'full'); END").await;
    slapd.administrator().delete(&person("bob"));
    time.pass(10 * MINUTE);
    soon("asked about", async || process.session(&bob).await == OVER).await;
    soon("the record ends", async || process.has_ended("bob") == Some(true)).await;
    let stored = async || db.number("SELECT count(*) FROM api_sessions WHERE user_name = 'bob'").await;
    // A reload goes by the sessions, which are still there.
    soon("it is tried again", async || {
        process.write_records().await;
        process.has_ended("bob") == Some(true)
    })
    .await;
    process.sweep().await;
    assert_eq!((process.has_ended("bob"), stored().await), (Some(true), 2));
    db.sql("DROP TRIGGER none").await;
    process.sweep().await;
    assert_eq!((process.has_ended("bob"), stored().await), (Some(true), 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn another_max_wrong_counts_for_passwords_that_were_wrong_before() {
    let slapd = Slapd::start();
    let (process, _time, _db) = process(&slapd, "").await;
    let max_wrong = |max: usize| rules(&slapd, &format!("  max_wrong: {max}\n"));
    assert_eq!(process.basic("bob", "one").await, "wrong_password");
    process.reload(&max_wrong(1)).await;
    assert_eq!(process.basic("bob", "two").await, "user_locked");
    process.reload(&max_wrong(2)).await;
    assert_eq!(process.basic("bob", "three").await, "wrong_password");
    assert_eq!(process.basic("bob", "four").await, "user_locked");
    assert_eq!(slapd.binds(&person("bob")), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn claims_of_a_clock_that_ran_ahead_are_due() {
    let slapd = Slapd::start();
    let (time, db) = (Time::new(), Database::sqlite());
    let admin = Process::start(&db, &time, &rules(&slapd, "")).await;
    let other = Process::start(&db, &time, sidecar()).await;
    let ann = admin.log_in("ann", &password("ann")).await;
    let bob = admin.log_in("bob", &password("bob")).await;
    let at_sidecar = async |cookies: &[String; 2]| other.check("cookie", &cookies[1]).await;
    soon("known there", async || at_sidecar(&bob).await == "ldap:bob Viewer").await;
    db.sql("UPDATE api_sessions SET checked_at = checked_at + 86400").await;
    let is_read = |process: &Process| {
        let sessions = process.keys.sessions_of(|source| *source == PersonSource::Ldap);
        sessions.iter().all(|(_, session)| session.checked_at > time.now())
    };
    soon("read by both", async || is_read(&admin) && is_read(&other)).await;
    slapd.administrator().set(&person("ann"), "pwdAccountLockedTime", &["000001010000Z"]);
    soon("asked about", async || admin.session(&ann).await == OVER).await;
    // One of whom nothing changed lives on, where somebody can ask.
    soon("asked about", async || admin.session(&bob).await == ["ldap:bob Viewer"; 2]).await;
    assert_eq!(at_sidecar(&bob).await, "ldap:bob Viewer");
    time.pass(60 * MINUTE);
    assert_eq!(at_sidecar(&bob).await, "directory_unavailable");
    slapd.administrator().delete(&person("bob"));
    let over = async || {
        admin.sweep().await;
        at_sidecar(&bob).await == "no_credential"
    };
    soon("asked about without a use here", over).await;
}
