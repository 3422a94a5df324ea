//! `envoy`: a real Envoy with what the command prints.

use serde_json::{Value, json};

use crate::harness::envoy::{self, Envoy};
use crate::harness::http1::Request;
use crate::harness::server::{Server, Setup};
use crate::harness::{Upstream, tools};

const ALICE: &str = "alice-token-0123456789";

/// Everything that the command prints has been through YAML.
fn yaml(text: &str) -> Value {
    serde_saphyr::from_str(text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// What the command prints for a setup.
#[track_caller]
fn printed(setup: &Setup, arguments: &[&str]) -> String {
    let ran = setup.run(["envoy"].iter().chain(arguments));
    assert_eq!(ran.code(), Some(0), "{ran:?}");
    assert_eq!(ran.stderr, "");
    ran.stdout
}

struct Printed {
    envoy: Envoy,
    server: Server,
    upstream: Upstream,
    /// Its socket lives here.
    _folder: tempfile::TempDir,
}

impl Printed {
    /// Runs Envoy with the printed bootstrap, to which nothing is added but an admin listener.
    fn start(config: &str) -> Self {
        Self::listening(config, "127.0.0.1:0")
    }

    fn listening(config: &str, listen: &str) -> Self {
        let folder = tempfile::TempDir::new().unwrap();
        let listen = listen.replace("FOLDER", folder.path().to_str().unwrap());
        let setup = Server::with(config).listen(&listen);
        let upstream = Upstream::start();
        let mut arguments = vec!["--upstream".to_owned(), upstream.address().to_string()];
        arguments.extend(["--listen".to_owned(), "127.0.0.1:0".to_owned()]);
        let print = |setup: &Setup, more: &[String]| {
            let arguments: Vec<&str> = arguments.iter().chain(more).map(String::as_str).collect();
            printed(setup, &arguments)
        };
        let (server, text) = if listen.ends_with(":0") {
            // Which port it is shows when it listens.
            let again = Server::with(config).listen(&listen);
            let server = setup.start();
            let text = print(&again, &["--address".to_owned(), server.tcp().to_string()]);
            (server, text)
        } else {
            let text = print(&setup, &[]);
            (setup.start(), text)
        };
        let file = folder.path().join("envoy.yaml");
        std::fs::write(&file, &text).unwrap();
        envoy::validate(&file).unwrap_or_else(|error| panic!("{error}\n{text}"));
        let admin = "admin: { address: { socket_address: { address: 127.0.0.1, port_value: 0 } } }\n";
        let envoy = Envoy::configured(&format!("{admin}{text}"));
        Self { envoy, server, upstream, _folder: folder }
    }

    fn get(&self, target: &str) -> Request {
        Request::new(self.envoy.address(), "GET", target).host("app.example")
    }

    fn assert_no_fault(&self) {
        self.envoy.assert_no_fault_of(&self.server);
    }
}

const TOKENS: &str = "tokens: [{token: alice-token-0123456789, actor: {id: alice, role: Viewer}}]\n";

#[test]
fn the_default_configuration_passes_a_token_and_no_forged_header() {
    let stack = Printed::start(TOKENS);
    let forged =
        [("x-actor", "{}"), ("X-Actor-Name", "Root"), ("x.actor.id", "root"), ("x~actor~role", "Admin")];
    let request = stack.get("/x").bearer(ALICE).headers(&forged);
    let seen = request.header("x-envoy-auth-failure-mode-allowed", "true").send().seen();
    assert_eq!(seen.all("x-actor-id"), ["alice"]);
    assert_eq!(seen.all("x-actor-role"), ["Viewer"]);
    for gone in
        ["x-actor-name", "x.actor.id", "x~actor~role", "authorization", "x-envoy-auth-failure-mode-allowed"]
    {
        assert!(seen.all(gone).is_empty(), "{gone}: {seen:?}");
    }
    assert_eq!(stack.get("/x").send().verdict(), (401, "unauthorized".into()));
    assert_eq!(
        stack.get("/x").bearer("wrong-token-0123456789").send().verdict(),
        (401, "invalid_token".into())
    );
    assert_eq!(stack.get("/x").header("x_actor_id", "root").bearer(ALICE).send().status, 400);
    assert_eq!(stack.upstream.calls(), 1);
    stack.assert_no_fault();
}

#[test]
fn every_place_and_every_actor_header_of_ones_own_works() {
    let config = format!(
        "{TOKENS}keys: {{store: \"sqlite:keys.db\"}}
credentials:
- bearer
- {{header: X-Api-Key}}
- {{header: \"x.odd!key\"}}
- {{header: x_under}}
- {{query: _auth_token}}
- {{cookie: auth_token}}
- session
actor_headers: {{remote-user: id, who: \"*\", x-group-1: role}}
"
    );
    let stack = Printed::start(&config);
    let places = [
        stack.get("/x").bearer(ALICE),
        stack.get("/x").header("x-api-key", ALICE),
        stack.get("/x").header("x.odd!key", ALICE),
        stack.get("/x").header("x_under", ALICE),
        stack.get(&format!("/x?_auth_token={ALICE}")),
        stack.get("/x").header("cookie", format!("a=1; auth_token={ALICE}; eat_session=old")),
    ];
    for request in places {
        let forged = [
            ("remote-user", "root"),
            ("Remote_User", "root"),
            ("remote.user", "root"),
            ("x_group_1", "Admin"),
        ];
        let seen = request.headers(&forged).send().seen();
        assert_eq!(seen.all("remote-user"), ["alice"], "{seen:?}");
        assert_eq!(seen.all("x-group-1"), ["Viewer"]);
        assert_eq!(seen.all("who"), [r#"{"id":"alice","role":"Viewer"}"#]);
        for gone in ["remote_user", "remote.user", "x_group_1"] {
            assert!(seen.all(gone).is_empty(), "{gone}: {seen:?}");
        }
        assert!(
            !format!("{seen:?}").contains(ALICE) && !format!("{seen:?}").contains("eat_session"),
            "{seen:?}"
        );
    }
    assert_eq!(stack.get("/x").send().status, 401);
    stack.assert_no_fault();
}

#[test]
fn sockets_and_forwarded_credentials_and_routes_work() {
    let config = format!(
        "{TOKENS}forward_credentials: true
credentials: [bearer, {{cookie: auth_token}}]
policies: {{admins: {{allow: {{role: Admin}}}}}}
routes:
- {{host: \"*.example\", path_prefix: /read, methods: [GET], allow: true}}
- {{path_prefix: /admin, policy: admins}}
default: {{}}
"
    );
    let name = format!("eat-envoy-command-{}", std::process::id());
    for listen in ["unix:FOLDER/ext_authz.sock", &format!("unix:@{name}")] {
        let stack = Printed::listening(&config, listen);
        let seen = stack.get("/x").bearer(ALICE).header("x-actor-id", "root").send().seen();
        assert_eq!(seen.all("x-actor-id"), ["alice"]);
        assert_eq!(seen.all("authorization"), [format!("Bearer {ALICE}")]);
        // Our own session cookie is cut even here.
        let seen = stack.get("/x").bearer(ALICE).header("cookie", "eat_session=s; a=1").send().seen();
        assert_eq!(seen.all("cookie"), ["a=1"]);
        assert_eq!(stack.get("/admin/../admin//x").bearer(ALICE).send().status, 403);
        assert_eq!(stack.get("/read").host("api.example").send().status, 200);
        assert_eq!(stack.get("/read").host("example").send().status, 401);
        let overridden = stack.get("/read").host("api.example").header("x-http-method-override", "DELETE");
        assert!(overridden.send().seen().all("x-http-method-override").is_empty(), "taken away early");
        assert_eq!(stack.get("/read%2fx").host("api.example").send().status, 307);
        stack.assert_no_fault();
    }
}

/// The parts of an Envoy configuration that matter to us.
fn parts(bootstrap: &Value) -> (Value, Value, Value) {
    let resources = &bootstrap["static_resources"];
    let mut manager = resources["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"].clone();
    let filter = manager["http_filters"][0].clone();
    let clusters = resources["clusters"].as_array().expect("clusters");
    let cluster =
        clusters.iter().find(|cluster| cluster["name"] == "ext_authz").expect("our cluster").clone();
    let members = manager.as_object_mut().expect("a mapping");
    for other in ["@type", "stat_prefix", "codec_type", "route_config", "http_filters"] {
        members.remove(other).unwrap_or_else(|| panic!("{other}"));
    }
    (filter, manager, cluster)
}

/// Takes a member out of a configuration, to look at it by itself.
#[track_caller]
fn take(from: &mut Value, path: &str) -> Value {
    from.pointer_mut(path).unwrap_or_else(|| panic!("{path}")).take()
}

fn sorted(names: Value) -> Vec<String> {
    let mut names: Vec<_> = names.as_array().unwrap().iter().map(ToString::to_string).collect();
    names.sort_unstable();
    names
}

#[test]
fn the_printed_configuration_agrees_with_the_deployed_one() {
    let read = |name: &str| std::fs::read_to_string(tools::root().join("deploy").join(name)).unwrap();
    let setup = Server::with(&read("config.yaml")).own_listeners();
    std::fs::create_dir(setup.folder().join("secrets")).unwrap();
    let setup = setup.file("secrets/ci-token", "ci-token-0123456789abc\n");
    let setup = setup
        .env("BOT_TOKEN", "bot-token-01234567890")
        .env("ADMIN_PASSWORD", "a-long-password")
        .env("LDAP_PASSWORD", "another-password")
        .env("OAUTH_SECRET", "a-client-secret");
    let ours = yaml(&printed(&setup, &[]));
    let (mut filter, mut manager, cluster) = parts(&ours);
    let (mut deployed_filter, mut deployed_manager, deployed_cluster) = parts(&yaml(&read("envoy.yaml")));
    assert_eq!(cluster, deployed_cluster);

    let patterns = "/typed_config/allowed_headers/patterns";
    assert_eq!(sorted(take(&mut filter, patterns)), sorted(take(&mut deployed_filter, patterns)));
    // The deployed file is wider here, for readers who add headers of their own.
    let expression = "/typed_config/decoder_header_mutation_rules/allow_expression/regex";
    let (narrow, wide) = (take(&mut filter, expression), take(&mut deployed_filter, expression));
    let wide = regex::Regex::new(&format!("^(?:{})$", wide.as_str().unwrap())).unwrap();
    let names: Vec<_> = narrow.as_str().unwrap().split('|').collect();
    assert!(names.len() >= 7 && names.iter().all(|name| wide.is_match(name)), "{names:?}");
    assert_eq!(filter, deployed_filter);

    let mutations = "/early_header_mutation_extensions/0/typed_config/mutations";
    let removed = |mutations: Value| {
        let mutations = mutations.as_array().unwrap().iter();
        // The deployed file is wider here, too, about actor headers.
        let is_wide = |mutation: &&Value| mutation.to_string().contains("[^a-z0-9]actor");
        sorted(mutations.filter(|mutation| !is_wide(mutation)).cloned().collect())
    };
    assert_eq!(removed(take(&mut manager, mutations)), removed(take(&mut deployed_manager, mutations)));
    assert_eq!(manager, deployed_manager);

    // The parts by themselves are those of the whole.
    assert_eq!(yaml(&printed(&setup, &["--part", "cluster"])), json!([cluster]));
    let (filter, manager, _) = parts(&ours);
    assert_eq!(yaml(&printed(&setup, &["--part", "filter"])), json!([filter]));
    assert_eq!(yaml(&printed(&setup, &["--part", "hcm"])), manager);
}

#[test]
fn addresses_are_those_that_envoy_can_reach() {
    let address = |listen: &str, more: &[&str]| {
        let setup = Server::with(TOKENS).listen(listen);
        let ran = setup.run(["envoy", "--part", "cluster"].iter().chain(more));
        assert_eq!(ran.code(), Some(0), "{ran:?}");
        let cluster = yaml(&ran.stdout)[0].take();
        let address =
            cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"].clone();
        (cluster["type"].as_str().unwrap().to_owned(), address)
    };
    let socket = |host: &str, port: u16| json!({"socket_address": {"address": host, "port_value": port}});
    assert_eq!(address("0.0.0.0:9191", &[]), ("STATIC".into(), socket("127.0.0.1", 9191)));
    assert_eq!(address("unix:@eat", &[]), ("STATIC".into(), json!({"pipe": {"path": "@eat"}})));
    let named = address("0.0.0.0:9191", &["--address", "authz.svc:9000"]);
    assert_eq!(named, ("STRICT_DNS".into(), socket("authz.svc", 9000)));

    let refused =
        |listen: &str, more: &[&str]| Server::with(TOKENS).listen(listen).run(["envoy"].iter().chain(more));
    let ran = refused("127.0.0.1:0", &[]);
    assert_eq!(ran.code(), Some(1));
    assert!(ran.stderr.contains("--address"), "{ran:?}");
    assert_eq!(refused("127.0.0.1:9191", &["--upstream", "nowhere"]).code(), Some(2));
}
