//! Nobody gives what they have not: every caller with every call, random sequences of calls, and calls at the same moment as
//! a change by somebody stronger.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{Config as Cases, TestRunner};
use serde_json::{Value, json};
use sqlx::Connection as _;

use crate::harness::grpc;
use crate::harness::http1::{Answer, Request};
use crate::keys_api::{Api, created, post};
use crate::keys_changes::{insert_account, on_each_database, sql};

const ROOT: &str = "root-token-0123456789";
const ROLES: [&str; 3] = ["Viewer", "Editor", "Admin"];

/// Who has the team `ops` manages all keys, who is in the group `staff` their own.  Everybody has the area `a`.
fn config(store: &str) -> String {
    let user = |name: &str, actor: &str| {
        let hash = bcrypt::hash(name, 4).expect("bcrypt");
        format!("- {{username: {name}, password_hash: '{hash}', actor: {actor}}}\n")
    };
    let users = [
        user("viewer", "{id: viewer, role: Viewer, team: ops, area: [a]}"),
        user("editor", "{id: editor, role: Editor, team: ops, area: [a, c]}"),
        user("admin", "{id: admin, role: Admin, team: ops, area: [a]}"),
        user("person", "{id: person, role: Editor, group: staff, area: [a]}"),
        user("other", "{id: other, role: Editor, group: staff, area: [a]}"),
    ];
    format!(
        "keys: {{store: \"{store}\", actor_members: [team, area]}}
admin: {{listen: \"127.0.0.1:0\", allow: {{team: ops}}, self_service: {{group: staff}}}}
tokens:
- {{token: {ROOT}, name: root, actor: {{id: root-actor, role: Admin, team: ops}}}}
- {{token: roleless-token-0123456789, name: roleless, actor: {{id: roleless, team: ops, area: a}}}}
- {{token: restricted-token-0123456789, name: restricted, actor: {{id: restricted, role: Admin, team: ops}}, policies: [read]}}
users:
{}policies: {{read: {{}}}}
routes:
- {{path: /viewer, allow: {{role: Viewer}}}}
- {{path: /editor, allow: {{role: Editor}}}}
- {{path: /admin, allow: {{role: Admin}}}}
- {{path: /a, allow: {{area: a}}}}
- {{path: /b, allow: {{area: b}}}}
- {{path: /c, allow: {{role: Admin, area: c}}}}
- {{path: /named, allow: {{id: ['key:special', 'sa:special'], name: special}}}}
default: {{allow: {{role: [Viewer, Editor, Admin]}}}}
",
        users.concat()
    )
}

/// How somebody comes.
#[derive(Clone)]
enum Credential {
    Nothing,
    Password,
    Token(String),
}

/// Which keys somebody manages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Manages {
    All,
    Own,
    Nothing,
}

#[derive(Clone)]
struct Caller {
    name: &'static str,
    credential: Credential,
    /// The rank of the role.
    role: Option<usize>,
    manages: Manages,
}

impl Caller {
    fn by(&self, request: Request) -> Request {
        match &self.credential {
            Credential::Nothing => request,
            Credential::Password => request.basic(self.name, self.name),
            Credential::Token(token) => request.bearer(token),
        }
    }

    fn is_admin(&self) -> bool {
        self.role == Some(2)
    }

    /// The status where the call is denied whatever it is about.
    fn denied(&self) -> Option<u16> {
        match (&self.credential, self.manages) {
            (Credential::Nothing, _) => Some(401),
            (_, Manages::Nothing) => Some(403),
            (_, Manages::All | Manages::Own) => None,
        }
    }
}

/// Whose a key is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Owner {
    None,
    Account,
    Person(&'static str),
}

/// What a key can do, as far as it matters who gives it.
#[derive(Clone, Copy, Debug)]
struct Privileges {
    owner: Owner,
    role: Option<usize>,
    /// It has the area `b`, which nobody else has.
    has_b: bool,
    /// A rule speaks of its name or its account's.
    is_named: bool,
}

impl Privileges {
    fn nobodys(role: usize) -> Self {
        Self { owner: Owner::None, role: Some(role), has_b: false, is_named: false }
    }

    /// The rule of the specification, written down a second time.
    fn is_given_by(&self, caller: &Caller) -> bool {
        let own = match self.owner {
            Owner::Person(owner) => return caller.is_admin() || (owner == caller.name && !self.is_named),
            Owner::None | Owner::Account => caller.role >= self.role && !self.has_b && !self.is_named,
        };
        caller.is_admin() || own
    }

    fn is_ended_by(&self, caller: &Caller) -> bool {
        match self.owner {
            Owner::Person(owner) if owner == caller.name => true,
            Owner::Person(_) => caller.role >= Some(self.role.unwrap_or(2)),
            Owner::None | Owner::Account => caller.role >= self.role,
        }
    }
}

/// A call about a key that is there.
#[derive(Clone, Copy, Debug)]
enum Call {
    Show,
    Describe,
    Disable,
    Revoke,
    Delete,
    Rotate,
    Enable,
    Rename,
    Life,
    Policies,
    Role(usize),
    Area(&'static str),
    Special,
}

const CALLS: [Call; 16] = [
    Call::Show,
    Call::Describe,
    Call::Disable,
    Call::Revoke,
    Call::Delete,
    Call::Rotate,
    Call::Enable,
    Call::Rename,
    Call::Life,
    Call::Policies,
    Call::Role(0),
    Call::Role(1),
    Call::Role(2),
    Call::Area("a"),
    Call::Area("b"),
    Call::Special,
];

impl Call {
    fn send(self, api: &Api, caller: &Caller, id: i64) -> Answer {
        let path = format!("/api/auth/keys/{id}");
        let ask = |method: &str, path: &str| caller.by(api.request(method, path));
        let change = |body: Value| post(ask("PATCH", &path), &body);
        match self {
            Self::Show => ask("GET", &path).send(),
            Self::Describe => change(json!({"description": "x"})),
            Self::Disable => change(json!({"disabled": true})),
            Self::Revoke => ask("POST", &format!("{path}/revoke")).send(),
            Self::Delete => ask("DELETE", &path).send(),
            Self::Rotate => ask("POST", &format!("{path}/rotate")).send(),
            Self::Enable => change(json!({"disabled": false})),
            Self::Rename => change(json!({"name": format!("renamed {id}")})),
            Self::Life => change(json!({"secondsToLive": 600})),
            Self::Policies => change(json!({"policies": null})),
            Self::Role(role) => change(json!({"role": ROLES[role]})),
            Self::Area(area) => change(json!({"actor": {"area": area}})),
            Self::Special => change(json!({"name": "special"})),
        }
    }

    /// What the answer is to be.
    fn expected(self, caller: &Caller, privileges: &Privileges) -> u16 {
        if let Some(status) = caller.denied() {
            return status;
        }
        if caller.manages == Manages::Own && privileges.owner != Owner::Person(caller.name) {
            return 404;
        }
        let of_owner = match privileges.owner {
            Owner::None => false,
            Owner::Account => matches!(self, Self::Role(_) | Self::Policies | Self::Area(_)),
            Owner::Person(_) => matches!(self, Self::Area(_)),
        };
        let after = match self {
            Self::Show => return 200,
            Self::Describe | Self::Disable | Self::Revoke | Self::Delete => {
                return if privileges.is_ended_by(caller) { 200 } else { 403 };
            }
            Self::Rotate | Self::Enable | Self::Rename | Self::Life | Self::Policies => *privileges,
            Self::Role(role) => Privileges { role: Some(role), ..*privileges },
            Self::Area(area) => Privileges { has_b: area == "b", ..*privileges },
            // The account may be one that a rule speaks of already.
            Self::Special => Privileges { is_named: true, ..*privileges },
        };
        // What the key can do is not looked at before it is an account's, whose role is known in the transaction alone.
        let may_not_end = privileges.owner != Owner::Account && !privileges.is_ended_by(caller);
        let is_role_above = matches!(self, Self::Role(role) if caller.role < Some(role));
        if may_not_end || is_role_above {
            return 403;
        }
        if of_owner {
            return 400;
        }
        if privileges.is_given_by(caller) && after.is_given_by(caller) { 200 } else { 403 }
    }
}

/// Creates keys for the table, as those who may.
struct Maker<'a> {
    api: &'a Api,
    made: std::cell::Cell<u32>,
}

impl Maker<'_> {
    fn make(&self, owner: Owner, body: &Value) -> i64 {
        let number = self.made.get() + 1;
        self.made.set(number);
        let mut body = body.clone();
        if body.get("name").is_none() {
            body["name"] = json!(format!("key {number}"));
        }
        let request = self.api.request("POST", "/api/auth/keys");
        let request = match owner {
            Owner::Person(name) => request.basic(name, name),
            Owner::None | Owner::Account => request.bearer(ROOT),
        };
        let answer = post(request, &body);
        assert_eq!(answer.status, 200, "{body} {}", answer.text());
        created(&answer).0
    }
}

/// The callers of the table.  The keys among them can do what the editor can.
fn callers(api: &Api) -> Vec<Caller> {
    let token = |body: Value| {
        let answer = post(api.request("POST", "/api/auth/keys").bearer(ROOT), &body);
        assert_eq!(answer.status, 200, "{}", answer.text());
        Credential::Token(created(&answer).1)
    };
    let caller = |name, credential, role, manages| Caller { name, credential, role, manages };
    let known = |token: &str| Credential::Token(token.to_owned());
    let area = json!({"team": "ops", "area": ["a", "c"]});
    vec![
        caller("anonymous", Credential::Nothing, None, Manages::Nothing),
        caller("none", known("roleless-token-0123456789"), None, Manages::All),
        caller("viewer", Credential::Password, Some(0), Manages::All),
        caller("editor", Credential::Password, Some(1), Manages::All),
        caller("admin", Credential::Password, Some(2), Manages::All),
        caller("person", Credential::Password, Some(1), Manages::Own),
        caller(
            "key",
            token(json!({"name": "caller", "role": "Editor", "actor": area})),
            Some(1),
            Manages::All,
        ),
        caller("account", token(json!({"name": "caller", "account": "caller"})), Some(1), Manages::All),
        caller("restricted", known("restricted-token-0123456789"), Some(2), Manages::Nothing),
    ]
}

#[test]
fn every_caller_gets_through_every_call_no_more_than_they_have() {
    on_each_database(|store| {
        let api = Api::start(&config(store));
        for (name, role) in
            [("weak", "Viewer"), ("strong", "Admin"), ("special", "Viewer"), ("caller", "Editor")]
        {
            insert_account(store, name, role);
        }
        sql(
            store,
            "UPDATE api_accounts SET actor = '{\"team\": \"ops\", \"area\": [\"a\", \"c\"]}' WHERE name = 'caller'",
        );
        let maker = Maker { api: &api, made: 0.into() };
        let callers = callers(&api);
        // The index learns of what came past the server.
        let account = callers.iter().find(|caller| caller.name == "account").unwrap();
        crate::harness::wait_until("the account is known as it is", || {
            account.by(api.request("GET", "/api/auth/keys")).send().status == 200
        });
        let mut targets = vec![
            (
                json!({"role": "Viewer", "actor": {"area": "b"}}),
                Privileges { has_b: true, ..Privileges::nobodys(0) },
            ),
            (
                json!({"role": "Viewer", "name": "special"}),
                Privileges { is_named: true, ..Privileges::nobodys(0) },
            ),
            (json!({"account": "weak"}), Privileges { owner: Owner::Account, ..Privileges::nobodys(0) }),
            (json!({"account": "strong"}), Privileges { owner: Owner::Account, ..Privileges::nobodys(2) }),
            (
                json!({"account": "special"}),
                Privileges { owner: Owner::Account, is_named: true, ..Privileges::nobodys(0) },
            ),
        ];
        targets.extend((0..3).map(|role| (json!({"role": ROLES[role]}), Privileges::nobodys(role))));
        for owner in ["person", "other", "editor"] {
            let mut privileges = Privileges { owner: Owner::Person(owner), ..Privileges::nobodys(0) };
            targets.push((json!({"role": "Viewer", "owner": "me"}), privileges));
            privileges.role = None;
            targets.push((json!({"owner": "me"}), privileges));
        }
        let (mut wrong, mut met) = (String::new(), BTreeMap::<u16, usize>::new());
        let mut check = |what: String, answer: &Answer, expected: u16| {
            *met.entry(answer.status).or_default() += 1;
            if answer.status != expected {
                wrong += &format!("{what}: {} instead of {expected}: {}\n", answer.status, answer.text());
            }
        };
        for caller in &callers {
            for (body, privileges) in &targets {
                for call in CALLS {
                    if privileges.is_named && body.get("name").is_some() && matches!(call, Call::Special) {
                        // It is called so already.
                        continue;
                    }
                    let id = maker.make(privileges.owner, body);
                    if matches!(call, Call::Enable) {
                        Call::Disable.send(&api, &callers[4], id);
                    }
                    let answer = call.send(&api, caller, id);
                    let what = format!("{} {call:?} {privileges:?}", caller.name);
                    check(what, &answer, call.expected(caller, privileges));
                    Call::Delete.send(&api, &callers[4], id);
                }
            }
            // And what is created.
            let news = [
                (json!({"name": "n"}), Privileges { role: None, ..Privileges::nobodys(0) }),
                (json!({"name": "n", "role": "Viewer", "actor": {"area": "a"}}), Privileges::nobodys(0)),
                (json!({"name": "n", "role": "Viewer", "actor": {"area": "b"}}), targets[0].1),
                (json!({"name": "special", "role": "Viewer"}), targets[1].1),
                (json!({"name": "n", "account": "weak"}), targets[2].1),
                (json!({"name": "n", "account": "strong"}), targets[3].1),
                (json!({"name": "n", "account": "special"}), targets[4].1),
                (json!({"name": "n", "role": "Viewer", "policies": ["read"]}), Privileges::nobodys(0)),
                (json!({"name": "n", "role": "Viewer"}), Privileges::nobodys(0)),
                (json!({"name": "n", "role": "Editor"}), Privileges::nobodys(1)),
                (json!({"name": "n", "role": "Admin"}), Privileges::nobodys(2)),
                (
                    json!({"name": "n", "owner": "me"}),
                    Privileges { owner: Owner::Person("me"), ..Privileges::nobodys(0) },
                ),
                (
                    json!({"name": "n", "owner": "me", "role": "Admin"}),
                    Privileges { owner: Owner::Person("me"), ..Privileges::nobodys(2) },
                ),
            ];
            for (body, privileges) in news {
                let answer = post(caller.by(api.request("POST", "/api/auth/keys")), &body);
                check(
                    format!("{} creates {body}", caller.name),
                    &answer,
                    expected_of_new(caller, &body, &privileges),
                );
                if answer.status == 200 {
                    Call::Delete.send(&api, &callers[4], created(&answer).0);
                }
            }
            let of_many = |least: Option<usize>| {
                caller.denied().unwrap_or(match caller.manages {
                    Manages::All if caller.role >= least => 200,
                    Manages::All | Manages::Own | Manages::Nothing => 403,
                })
            };
            let bulk = post(
                caller.by(api.request("POST", "/api/auth/keys/revoke")),
                &json!({"namePattern": "nothing"}),
            );
            check(format!("{} revokes many", caller.name), &bulk, of_many(None));
            let export = caller.by(api.request("GET", "/api/auth/keys/export")).send();
            check(format!("{} exports", caller.name), &export, of_many(Some(2)));
            let line = json!({"name": format!("imported by {}", caller.name), "role": "Viewer", "sha256": hash(caller.name)});
            let import = caller.by(api.request("POST", "/api/auth/keys/import"));
            let import = import
                .header("content-type", "application/x-ndjson")
                .body(line.to_string().into_bytes())
                .send();
            check(format!("{} imports", caller.name), &import, of_many(Some(2)));
        }
        assert!(wrong.is_empty(), "{wrong}");
        assert_eq!(
            met.keys().copied().collect::<Vec<_>>(),
            [200, 400, 401, 403, 404],
            "every kind of answer occurs"
        );
        eprintln!("{} calls: {met:?}", met.values().sum::<usize>());
    });
}

fn hash(text: &str) -> String {
    envoy_auth_tokens::token::TokenDigest::of(text.as_bytes()).to_hex()
}

fn expected_of_new(caller: &Caller, body: &Value, privileges: &Privileges) -> u16 {
    if let Some(status) = caller.denied() {
        return status;
    }
    let given = body["role"].as_str().and_then(|role| ROLES.iter().position(|known| *known == role));
    let is_own =
        body.get("owner").is_some() || (caller.manages == Manages::Own && body.get("account").is_none());
    if is_own {
        if !matches!(caller.credential, Credential::Password) {
            return 403;
        }
        if body.get("actor").is_some() {
            return 400;
        }
        if given > caller.role {
            return 403;
        }
        return if privileges.is_named && !caller.is_admin() { 403 } else { 200 };
    }
    if caller.manages == Manages::Own {
        return 403;
    }
    if body.get("account").is_none() && given.is_none() {
        return 400;
    }
    if privileges.is_given_by(caller) { 200 } else { 403 }
}

/// What is tried in a random sequence.  Numbers choose among what there is.
#[derive(Debug, Clone)]
enum Step {
    Create { role: usize, area: usize, account: usize, name: usize, own: bool },
    Change { key: usize, role: Option<usize>, area: Option<usize>, name: bool, enable: bool },
    Rotate(usize),
    Enable(usize),
    Revoke(usize),
    ByAdmin { key: usize, role: usize, area: usize, disabled: bool },
    AdminCreates { role: usize, area: usize },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let role = || 0..4_usize;
    let step = prop_oneof![
        3 => (role(), role(), role(), 0..3_usize, any::<bool>())
            .prop_map(|(role, area, account, name, own)| Step::Create { role, area, account, name, own }),
        3 => (any::<usize>(), proptest::option::of(role()), proptest::option::of(role()), any::<bool>(), any::<bool>())
            .prop_map(|(key, role, area, name, enable)| Step::Change { key, role, area, name, enable }),
        3 => any::<usize>().prop_map(Step::Rotate),
        1 => any::<usize>().prop_map(Step::Enable),
        1 => any::<usize>().prop_map(Step::Revoke),
        2 => (any::<usize>(), role(), role(), any::<bool>())
            .prop_map(|(key, role, area, disabled)| Step::ByAdmin { key, role, area, disabled }),
        2 => (role(), role()).prop_map(|(role, area)| Step::AdminCreates { role, area }),
    ];
    proptest::collection::vec(step, 5..25)
}

/// What somebody knows after a sequence.
#[derive(Default)]
struct Known {
    /// Every key that there is.
    ids: Vec<i64>,
    /// The keys of which they have had a secret.
    held: BTreeSet<i64>,
    tokens: Vec<String>,
}

impl Known {
    fn learn(&mut self, answer: &Answer) {
        if answer.status == 200 {
            let (id, token) = created(answer);
            self.ids.push(id);
            self.held.insert(id);
            self.tokens.push(token);
        }
    }

    fn id(&self, number: usize) -> i64 {
        self.ids.get(number.checked_rem(self.ids.len()).unwrap_or(0)).copied().unwrap_or(1)
    }
}

const AREAS: [&[&str]; 4] = [&[], &["a"], &["b"], &["a", "b"]];

impl Step {
    fn take(&self, api: &Api, caller: &Caller, known: &mut Known, case: u32) {
        let number = known.ids.len();
        let ask = |method: &str, path: &str| caller.by(api.request(method, path));
        let root = |method: &str, path: &str| api.request(method, path).bearer(ROOT);
        let key = |id: i64| format!("/api/auth/keys/{id}");
        let area = |area: usize| json!({"area": AREAS[area]});
        match *self {
            Self::Create { role, area: area_, account, name, own } => {
                let name = if name == 0 { "special".to_owned() } else { format!("c{case} k{number}") };
                let mut body = json!({"name": name});
                match (own, account) {
                    (true, _) => body["owner"] = json!("me"),
                    (false, 1..) => body["account"] = json!(["weak", "strong", "special"][account - 1]),
                    (false, 0) => body["actor"] = if area_ == 0 { json!({}) } else { area(area_) },
                }
                if let (Some(role), true) = (ROLES.get(role), own || account == 0) {
                    body["role"] = json!(role);
                }
                known.learn(&post(ask("POST", "/api/auth/keys"), &body));
            }
            Self::Change { key: which, role, area: area_, name, enable } => {
                let mut body = json!({});
                if let Some(role) = role.and_then(|role| ROLES.get(role)) {
                    body["role"] = json!(role);
                }
                if let Some(area_) = area_ {
                    body["actor"] = area(area_);
                }
                if name {
                    body["name"] = json!("special");
                }
                if enable {
                    body["disabled"] = json!(false);
                }
                post(ask("PATCH", &key(known.id(which))), &body);
            }
            Self::Rotate(which) => {
                let path = format!("{}/rotate", key(known.id(which)));
                known.learn(&post(ask("POST", &path), &json!({"overlapSeconds": 600})));
            }
            Self::Enable(which) => {
                post(ask("PATCH", &key(known.id(which))), &json!({"disabled": false}));
            }
            Self::Revoke(which) => {
                ask("POST", &format!("{}/revoke", key(known.id(which)))).send();
            }
            // A key whose secret somebody else may know is made no stronger here.
            Self::ByAdmin { key: which, role, area: area_, disabled } => {
                let id = known.id(which);
                if !known.held.contains(&id) {
                    let mut body = json!({"actor": area(area_), "disabled": disabled});
                    if let Some(role) = ROLES.get(role) {
                        body["role"] = json!(role);
                    }
                    post(root("PATCH", &key(id)), &body);
                }
            }
            Self::AdminCreates { role, area: area_ } => {
                let role = ROLES.get(role).unwrap_or(&"Admin");
                let body = json!({"name": format!("c{case} a{number}"), "role": role, "actor": area(area_)});
                let answer = post(root("POST", "/api/auth/keys"), &body);
                if answer.status == 200 {
                    known.ids.push(created(&answer).0);
                }
            }
        }
    }
}

/// Where somebody with this role and these areas gets, or with a lower role.
fn reaches(caller: &Caller, path: &str) -> bool {
    match path {
        "/viewer" => caller.role >= Some(0),
        "/editor" => caller.role >= Some(1),
        "/admin" => caller.role >= Some(2),
        "/a" => true,
        "/b" | "/named" => false,
        "/c" => caller.name == "editor",
        _ => unreachable!("{path}"),
    }
}

#[test]
fn a_random_sequence_of_calls_gives_nobody_more_than_they_or_a_lower_role_had() {
    let folder = tempfile::tempdir().unwrap();
    let store = format!("sqlite:{}", folder.path().join("keys.db").display());
    let api = Api::start(&config(&store));
    for (name, role) in [("weak", "Viewer"), ("strong", "Admin"), ("special", "Viewer")] {
        insert_account(&store, name, role);
    }
    let caller =
        |name, role, manages| Caller { name, credential: Credential::Password, role: Some(role), manages };
    let actors = [
        caller("viewer", 0, Manages::All),
        caller("editor", 1, Manages::All),
        caller("person", 1, Manages::Own),
    ];
    let case = std::cell::Cell::new(0);
    let met = std::cell::RefCell::new((BTreeMap::<(&str, &str), usize>::new(), 0));
    let cases = Cases { cases: 60, failure_persistence: None, ..Cases::default() };
    let played = TestRunner::new(cases).run(&(0..actors.len(), steps()), |(actor, steps)| {
        case.set(case.get() + 1);
        let caller = &actors[actor];
        // Names are free again.
        let all = json!({"namePattern": "*", "dryRun": false});
        let revoked = post(api.request("POST", "/api/auth/keys/revoke").bearer(ROOT), &all);
        assert_eq!(revoked.status, 200, "{}", revoked.text());
        let mut known = Known::default();
        for step in &steps {
            step.take(&api, caller, &mut known, case.get());
        }
        let mut met = met.borrow_mut();
        for token in &known.tokens {
            for path in ["/viewer", "/editor", "/admin", "/a", "/b", "/c", "/named"] {
                let authorization = format!("Bearer {token}");
                let headers = [("authorization", &*authorization)];
                let answer = grpc::check(&api.server, grpc::request("GET", "app.example", path, &headers));
                if grpc::code(&answer) == 0 {
                    prop_assert!(reaches(caller, path), "{} gets to {path} through {steps:?}", caller.name);
                    *met.0.entry((caller.name, path)).or_default() += 1;
                } else {
                    met.1 += 1;
                }
            }
        }
        Ok(())
    });
    played.unwrap_or_else(|error| panic!("{error}"));
    let (passed, denied) = met.into_inner();
    eprintln!("passed: {passed:?}, denied: {denied}");
    assert!(denied > 0);
    for (name, path) in
        [("viewer", "/viewer"), ("viewer", "/a"), ("editor", "/editor"), ("editor", "/viewer")]
    {
        assert!(passed.contains_key(&(name, path)), "{name} got nowhere near {path}: {passed:?}");
    }
}

/// What the database says, in rows of two numbers and two texts.
fn rows(store: &str, select: &str) -> Vec<(i64, i64, String, String)> {
    let select = sqlx::AssertSqlSafe(select.to_owned());
    grpc::block_on(async {
        if store.starts_with("sqlite:") {
            let mut connection = sqlx::SqliteConnection::connect(store).await.unwrap();
            sqlx::query_as(select).fetch_all(&mut connection).await.unwrap()
        } else {
            let mut connection = sqlx::PgConnection::connect(store).await.unwrap();
            sqlx::query_as(select).fetch_all(&mut connection).await.unwrap()
        }
    })
}

const RACES: u64 = 200;
/// Where one call has always been first in so many, there are more, further apart: up to this many.
const MAX_RACES: u64 = 4 * RACES;

/// Whether there is another race after these outcomes of as many as `turn`.
fn goes_on(turn: u64, statuses: &BTreeMap<u16, u64>) -> bool {
    turn < RACES || (turn < MAX_RACES && statuses.len() < 2)
}

/// Does both at once: now the one begins a little earlier, now the other.
fn race<T: Send>(turn: u64, one: impl FnOnce() -> T + Send, other: impl FnOnce() -> T + Send) -> (T, T) {
    let barrier = Barrier::new(2);
    let later = |is_it: bool| {
        barrier.wait();
        // Not to be lucky: so that both orders, and all between, are tried.
        thread::sleep(Duration::from_micros(if is_it { turn % 20 * (250 << (turn / RACES)) } else { 0 }));
    };
    thread::scope(|scope| {
        let one = scope.spawn(|| {
            later(turn.is_multiple_of(2));
            one()
        });
        let other = scope.spawn(|| {
            later(!turn.is_multiple_of(2));
            other()
        });
        (one.join().unwrap(), other.join().unwrap())
    })
}

#[test]
fn no_call_at_the_moment_of_a_change_by_somebody_stronger_gives_what_the_change_gives() {
    on_each_database(|store| {
        let api = Api::start(&config(store));
        let editor = |method: &str, path: &str, body: &Value| {
            post(api.request(method, path).basic("editor", "editor"), body)
        };
        let root =
            |method: &str, path: &str, body: &Value| post(api.request(method, path).bearer(ROOT), body);
        for (call, method, suffix, body) in [
            ("rotate", "POST", "/rotate", json!({})),
            ("change", "PATCH", "", json!({"secondsToLive": 600})),
            ("enable", "PATCH", "", json!({"disabled": false})),
        ] {
            let mut statuses = BTreeMap::<u16, u64>::new();
            let mut ids = BTreeSet::new();
            for turn in 0..MAX_RACES {
                if !goes_on(turn, &statuses) {
                    break;
                }
                let new = json!({"name": format!("{call} {turn}"), "role": "Viewer"});
                let (id, _) = created(&root("POST", "/api/auth/keys", &new));
                let path = format!("/api/auth/keys/{id}");
                if call == "enable" {
                    assert_eq!(root("PATCH", &path, &json!({"disabled": true})).status, 200);
                }
                let (weak, strong) = race(
                    turn,
                    || editor(method, &format!("{path}{suffix}"), &body),
                    || root("PATCH", &path, &json!({"role": "Admin"})),
                );
                assert_eq!(strong.status, 200, "{}", strong.text());
                *statuses.entry(weak.status).or_default() += 1;
                ids.insert(id);
            }
            // The audit has both in the order in which they took effect.
            let select = "SELECT key_id, id, actor_id, CAST(after AS TEXT) FROM api_audit \
                          WHERE after IS NOT NULL AND key_id IS NOT NULL ORDER BY id";
            let (mut is_strong, mut done) = (BTreeSet::new(), 0);
            for (key, _, by, after) in rows(store, select) {
                let after: Value = serde_json::from_str(&after).unwrap();
                if ids.contains(&key) && by == "editor" {
                    assert!(
                        !is_strong.contains(&key),
                        "{call}: the editor had key {key} after it was an Admin's"
                    );
                    done += 1;
                }
                if after["role"] == "Admin" {
                    is_strong.insert(key);
                }
            }
            eprintln!("{call}: {statuses:?}");
            assert_eq!(done, statuses.get(&200).copied().unwrap_or(0), "{call}: {statuses:?}");
            assert_eq!(
                statuses.keys().copied().collect::<Vec<_>>(),
                [200, 403],
                "{call}: both come first now and then"
            );
        }

        // A key of an account that becomes an Admin's.
        let mut statuses = BTreeMap::<u16, u64>::new();
        let mut ids = BTreeMap::new();
        for turn in 0..MAX_RACES {
            if !goes_on(turn, &statuses) {
                break;
            }
            let name = format!("account {turn}");
            insert_account(store, &name, "Viewer");
            let (weak, _) = race(
                turn,
                || Some(editor("POST", "/api/auth/keys", &json!({"name": "k", "account": name}))),
                || {
                    sql(store, &format!("UPDATE api_accounts SET role = 'Admin' WHERE name = '{name}'"));
                    None
                },
            );
            let weak = weak.expect("an answer");
            *statuses.entry(weak.status).or_default() += 1;
            if weak.status == 200 {
                ids.insert(created(&weak).0, name);
            }
        }
        let select = "SELECT c.revision, coalesce(c.key_id, 0), coalesce(a.name, ''), '' FROM api_changes c \
                      LEFT JOIN api_accounts a ON a.id = c.account_id ORDER BY c.revision";
        let mut last = BTreeMap::new();
        let mut made = BTreeMap::new();
        for (revision, key, account, _) in rows(store, select) {
            if ids.contains_key(&key) {
                made.entry(key).or_insert(revision);
            }
            last.insert(account, revision);
        }
        for (id, account) in &ids {
            assert!(made[id] < last[account], "{account} was an Admin's when the editor made a key of it");
        }
        eprintln!("key of an account: {statuses:?}");
        assert_eq!(statuses.keys().copied().collect::<Vec<_>>(), [200, 403], "both come first now and then");
    });
}
