//! `deploy/kubernetes`: built by kubectl, held against the API's schemas, and its Pods run as processes.

pub mod cluster;
pub mod manifests;
pub mod pod;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};

use base64::Engine as _;
use serde_json::{Value, json};

use crate::harness::documents;
use crate::harness::envoy::{self, Envoy};
use crate::harness::manifests::Resource;
use crate::harness::pki::Ca;
use crate::harness::postgres::Postgres;
use crate::harness::server::{BINARY, run};
use crate::harness::{Request, Server, Upstream, tools, wait_until};
use manifests::{Manifests, containers, not_restricted};
use pod::{Pod, Running, is_root};

const OURS: &str = "envoy-auth-tokens";

/// Every folder of `deploy/kubernetes` that can be applied.
pub const FORMS: [&str; 3] = ["example", "shared", "shared-mtls"];

/// The scripts of docs/kubernetes.md: the sidecar, the shared server, Helm.
pub fn scripts() -> &'static [String; 3] {
    static SCRIPTS: LazyLock<[String; 3]> = LazyLock::new(|| {
        let blocks = documents::document("docs/kubernetes.md").blocks();
        let scripts = blocks.into_iter().filter(|block| block.language == "sh").map(|block| block.text);
        scripts.collect::<Vec<_>>().try_into().expect("three scripts")
    });
    &SCRIPTS
}

/// Our container in a Pod.
fn ours(pod: &Value) -> &Value {
    containers(pod).into_iter().find(|container| container["name"] == OURS).expect("our container")
}

#[test]
fn kubernetes_accepts_every_form() {
    for form in FORMS {
        Manifests::of(form).assert_valid();
    }
    let folders = std::fs::read_dir(tools::root().join("deploy/kubernetes")).unwrap();
    let folders: BTreeSet<_> =
        folders.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(folders, [&FORMS[..], &["sidecar"]].concat().into_iter().map(str::to_owned).collect());
}

#[test]
fn what_kubernetes_does_not_know_is_refused() {
    let mut manifests = Manifests::of("example");
    let deployment = manifests.0.iter_mut().find(|object| object["kind"] == "Deployment").unwrap();
    let sidecar = &mut deployment["spec"]["template"]["spec"]["initContainers"][0];
    sidecar["restartPolice"] = json!("Always");
    let problems = manifests.problems().join("\n");
    assert!(problems.contains("restartPolice"), "{problems}");
    // A kind that has no schema is not taken for a good one.
    let unknown = json!({"apiVersion": "example.org/v1", "kind": "Unknown", "metadata": {"name": "x"}});
    assert!(!Manifests(vec![unknown]).problems().is_empty());
}

#[test]
fn every_container_keeps_to_the_restricted_standard() {
    for form in FORMS {
        let manifests = Manifests::of(form);
        let pods = manifests.pods();
        assert!(!pods.is_empty(), "{form}");
        for (name, pod) in pods {
            assert_eq!(not_restricted(pod), Vec::<String>::new(), "{form}: {name}");
        }
    }
    // The rule sees each thing that is taken away from our sidecar.
    let manifests = Manifests::of("example");
    let (_, pod) = manifests.pods()[0];
    for member in [
        "runAsNonRoot",
        "readOnlyRootFilesystem",
        "allowPrivilegeEscalation",
        "capabilities",
        "seccompProfile",
    ] {
        let mut pod = pod.clone();
        pod["initContainers"][0]["securityContext"].as_object_mut().unwrap().remove(member);
        let problems = not_restricted(&pod);
        assert!(problems.iter().any(|complaint| complaint.contains(member)), "{member}: {problems:?}");
    }
    let labels = Manifests::of("shared").get("Namespace", OURS)["metadata"]["labels"].clone();
    for mode in ["enforce", "audit", "warn"] {
        assert_eq!(labels[format!("pod-security.kubernetes.io/{mode}")], "restricted");
    }
}

#[test]
fn the_image_is_of_this_version_and_a_registry_can_be_named() {
    for form in FORMS {
        let manifests = Manifests::of(form);
        let (_, pod) = manifests.pods()[0];
        assert_eq!(ours(pod)["image"], concat!("envoy-auth-tokens:", env!("CARGO_PKG_VERSION")), "{form}");
    }
    let elsewhere = customized(
        "
resources: [shared]
images: [{name: envoy-auth-tokens, newName: registry.example.com/tokens, newTag: 9.9.9}]
",
        "",
    );
    assert_eq!(ours(elsewhere.pods()[0].1)["image"], "registry.example.com/tokens:9.9.9");
}

/// A kustomization of somebody else beside ours, with this application.
fn customized(kustomization: &str, application: &str) -> Manifests {
    let folder = tempfile::TempDir::new().unwrap();
    let copied =
        Command::new("cp").arg("-r").arg(tools::root().join("deploy/kubernetes")).arg(folder.path()).status();
    assert!(copied.unwrap().success());
    let folder = folder.path().join("kubernetes");
    std::fs::write(folder.join("kustomization.yaml"), kustomization).unwrap();
    std::fs::write(folder.join("application.yaml"), application).unwrap();
    Manifests::kustomized(&folder)
}

#[test]
fn the_sidecars_come_first_and_leave_the_rest_of_the_pod_and_other_deployments_alone() {
    let application = |name: &str, label: &str| {
        format!(
            "---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}, labels: {{envoy-auth-tokens: '{label}'}}}}
spec:
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}}}, annotations: {{mine: kept}}}}
    spec:
      securityContext: {{fsGroup: 2000, supplementalGroups: [3000]}}
      initContainers: [{{name: migrate, image: example.com/app, args: [migrate]}}]
      containers: [{{name: app, image: example.com/app, volumeMounts: [{{name: data, mountPath: /data}}]}}]
      volumes: [{{name: data, emptyDir: {{}}}}]
"
        )
    };
    let text = application("mine", "sidecar") + &application("other", "none");
    let manifests = customized("resources: [application.yaml]\ncomponents: [sidecar]\n", &text);
    let names = |pod: &Value, list: &str| -> Vec<String> {
        pod[list].as_array().unwrap().iter().map(|item| item["name"].as_str().unwrap().to_owned()).collect()
    };
    let template = &manifests.get("Deployment", "mine")["spec"]["template"];
    let pod = &template["spec"];
    // The order in which Kubernetes starts them, and stops them backwards.
    assert_eq!(names(pod, "initContainers"), [OURS, "envoy", "migrate"]);
    for sidecar in 0..2 {
        assert_eq!(pod["initContainers"][sidecar]["restartPolicy"], "Always");
        // Without one the next container would start at once.
        assert!(pod["initContainers"][sidecar]["startupProbe"].is_object());
    }
    assert_eq!(names(pod, "containers"), ["app"]);
    assert_eq!(pod["containers"][0]["volumeMounts"].as_array().unwrap().len(), 1);
    assert_eq!(pod["securityContext"], json!({"fsGroup": 2000, "supplementalGroups": [3000]}));
    assert!(names(pod, "volumes").contains(&"data".to_owned()));
    assert_eq!(template["metadata"]["annotations"]["mine"], "kept");
    let other = &manifests.get("Deployment", "other")["spec"]["template"]["spec"];
    assert_eq!(names(other, "initContainers"), ["migrate"]);
    assert_eq!(other["volumes"].as_array().unwrap().len(), 1);
}

#[test]
fn every_kind_of_workload_gets_the_same_sidecars_and_a_rollout_takes_them_from_its_deployment() {
    let workload = |api: &str, kind: &str, more: &str| {
        format!(
            "---
apiVersion: {api}
kind: {kind}
metadata: {{name: mine, labels: {{envoy-auth-tokens: sidecar}}}}
spec:
  {more}
  template:
    metadata: {{labels: {{app: mine}}}}
    spec:
      initContainers: [{{name: migrate, image: example.com/app}}]
      containers: [{{name: app, image: example.com/app}}]
      volumes: [{{name: data, emptyDir: {{}}}}]
"
        )
    };
    let selector = "selector: {matchLabels: {app: mine}}";
    let text = [
        workload("apps/v1", "Deployment", selector),
        workload("apps/v1", "StatefulSet", &format!("serviceName: mine\n  {selector}")),
        workload("apps/v1", "DaemonSet", selector),
        workload("batch/v1", "Job", "backoffLimit: 0")
            .replace("    spec:\n", "    spec:\n      restartPolicy: Never\n"),
        "---
apiVersion: argoproj.io/v1alpha1
kind: Rollout
metadata: {name: mine, labels: {envoy-auth-tokens: sidecar}}
spec:
  workloadRef: {apiVersion: apps/v1, kind: Deployment, name: mine}
  strategy: {canary: {steps: [{setWeight: 20}, {pause: {}}]}}
"
        .to_owned(),
    ];
    let mut manifests = customized("resources: [application.yaml]\ncomponents: [sidecar]\n", &text.concat());
    let pod = |kind: &str| manifests.get(kind, "mine")["spec"]["template"]["spec"].clone();
    let of_deployment = pod("Deployment");
    for kind in ["Deployment", "StatefulSet", "DaemonSet", "Job"] {
        let mut pod = pod(kind);
        pod.as_object_mut().unwrap().remove("restartPolicy");
        assert_eq!(pod, of_deployment, "{kind}");
    }
    let names: Vec<_> =
        containers(&of_deployment).iter().map(|each| each["name"].as_str().unwrap()).collect();
    assert_eq!(names, [OURS, "envoy", "migrate", "app"]);
    assert_eq!(of_deployment["volumes"].as_array().unwrap().len(), 4);
    // The Rollout stays as it was written, and fits its schema.
    let rollout = manifests.get("Rollout", "mine").clone();
    assert_eq!(rollout["spec"]["workloadRef"]["kind"], "Deployment");
    assert!(rollout["spec"]["template"].is_null());
    let resource = Resource { name: "rollout".to_owned(), document: rollout };
    assert_eq!(crate::harness::manifests::wrong(&[resource]), Vec::<String>::new());
    manifests.0.retain(|object| object["kind"] != "Rollout");
    manifests.assert_valid();
}

/// The containers of our image within this, wherever they are.
fn ours_within<'v>(value: &'v Value, found: &mut Vec<&'v Value>) {
    if value["image"].as_str().is_some_and(|image| image.starts_with("envoy-auth-tokens:")) {
        found.push(value);
    }
    match value {
        Value::Object(members) => members.values().for_each(|member| ours_within(member, found)),
        Value::Array(items) => items.iter().for_each(|item| ours_within(item, found)),
        _ => {}
    }
}

#[test]
fn every_manifest_has_one_of_ours_that_hangs_restarted() {
    let mut command = Command::new("grep");
    command.args(["--recursive", "--files-with-matches", "image: envoy-auth-tokens:", "deploy"]);
    command.args(["--include=*.yaml", "--exclude=compose.yaml", "--exclude-dir=helm"]);
    command.current_dir(tools::root());
    let files = run(command, "").stdout;
    let files: Vec<_> = files.lines().collect();
    assert!(files.len() >= 4, "{files:?}");
    for file in files {
        let documents = crate::harness::manifests::documents(file);
        let mut containers = Vec::new();
        documents.iter().for_each(|document| ours_within(document, &mut containers));
        assert!(!containers.is_empty(), "{file}");
        for container in containers {
            let probe = &container["livenessProbe"];
            // It is restarted only for what lasts, and not before it had its time to start.
            assert!(
                probe["failureThreshold"].as_u64().is_some_and(|failures| failures >= 3),
                "{file}: {probe}"
            );
            assert!(container["startupProbe"].is_object(), "{file}: {container}");
            // A command asks as the one that says when it has started.
            assert_eq!(probe["exec"], container["startupProbe"]["exec"], "{file}");
        }
    }
}

/// Whether a selector's labels are all among these.
fn selects(selector: &Value, labels: &Value) -> bool {
    let selector = selector.as_object().unwrap();
    !selector.is_empty() && selector.iter().all(|(name, value)| labels[name] == *value)
}

#[test]
fn whatever_names_another_object_names_one_that_is_there() {
    let mut kinds = BTreeSet::new();
    for form in FORMS {
        let manifests = Manifests::of(form);
        kinds.extend(manifests.0.iter().map(|object| object["kind"].as_str().unwrap().to_owned()));
        let [deployment] = manifests.of_kind("Deployment")[..] else { panic!("{form}") };
        let template = &deployment["spec"]["template"];
        let (pod, labels) = (&template["spec"], &template["metadata"]["labels"]);
        assert!(selects(&deployment["spec"]["selector"]["matchLabels"], labels));
        let ports: Vec<_> =
            containers(pod).iter().filter_map(|container| container["ports"].as_array()).flatten().collect();
        for service in manifests.of_kind("Service") {
            assert!(selects(&service["spec"]["selector"], labels), "{service}");
            let target = &service["spec"]["ports"][0]["targetPort"];
            assert!(
                ports.iter().any(|port| port["containerPort"] == *target || port["name"] == *target),
                "{service}"
            );
        }
        for policy in manifests.of_kind("NetworkPolicy") {
            assert!(selects(&policy["spec"]["podSelector"]["matchLabels"], labels), "{policy}");
            for rule in policy["spec"]["ingress"].as_array().unwrap() {
                let port = &rule["ports"][0]["port"];
                assert!(ports.iter().any(|open| open["containerPort"] == *port), "{policy}");
                // An empty list would be everybody; Envoy's own port is for everyone.
                assert_eq!(rule["from"].is_null(), form == "example" && *port == 10000, "{policy}");
                assert_ne!(rule["from"], json!([]), "{policy}");
            }
        }
        for budget in manifests.of_kind("PodDisruptionBudget") {
            assert!(selects(&budget["spec"]["selector"]["matchLabels"], labels), "{budget}");
        }
        for scaler in manifests.of_kind("HorizontalPodAutoscaler") {
            assert_eq!(scaler["spec"]["scaleTargetRef"]["name"], deployment["metadata"]["name"]);
            assert!(scaler["spec"]["minReplicas"].as_u64().unwrap() >= 2);
            assert!(deployment["spec"]["replicas"].is_null(), "it would undo what the autoscaler does");
        }
        let constraints = pod["topologySpreadConstraints"].as_array();
        assert_eq!(constraints.is_some(), form != "example", "{form}");
        for constraint in constraints.unwrap_or(&Vec::new()) {
            assert!(selects(&constraint["labelSelector"]["matchLabels"], labels), "{constraint}");
        }
        let account = pod["serviceAccountName"].as_str();
        assert_eq!(account.is_some(), form != "example", "{form}");
        if let Some(account) = account {
            assert_eq!(manifests.get("ServiceAccount", account)["automountServiceAccountToken"], false);
        }
        let annotations = &template["metadata"]["annotations"];
        let scraped = annotations["prometheus.io/port"].as_str().unwrap().parse::<u64>().unwrap();
        assert!(
            ports.iter().any(|port| port["containerPort"] == scraped && port["name"] == "probes"),
            "{ports:?}"
        );
        assert_eq!(annotations["prometheus.io/path"], "/metrics");
        // Nobody is stopped before a successor is ready, nor killed before the drain, what is in flight (10 s) and
        // the store (5 s) had their time.
        assert_eq!(deployment["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"], 0);
        let arguments = ours(pod)["args"].as_array().unwrap();
        let drain = arguments.iter().find_map(|argument| argument.as_str().unwrap().strip_prefix("--drain="));
        let drain: u64 = drain.unwrap().trim_end_matches('s').parse().unwrap();
        let grace = pod["terminationGracePeriodSeconds"].as_u64().unwrap();
        let pause = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"].as_u64().unwrap_or(0);
        assert!(pause + drain + 15 < grace, "{form}: {pause} + {drain} + 15 < {grace}");
    }
    for looked_at in
        ["HorizontalPodAutoscaler", "NetworkPolicy", "PodDisruptionBudget", "Service", "ServiceAccount"]
    {
        assert!(kinds.contains(looked_at), "no form has a {looked_at}: {kinds:?}");
    }
}

#[test]
fn sidecars_are_ready_without_their_store_and_shared_servers_are_not() {
    let text = |file: &str| crate::harness::manifests::text(&format!("deploy/{file}"));
    let shared = ["kubernetes/shared/config.yaml", "kubernetes/shared-mtls/config.yaml"];
    for file in shared.into_iter().chain(["helm/envoy-auth-tokens/values.yaml"]) {
        let text = text(file);
        assert!(text.contains("keys: {store:") && !text.contains("ready_without_store"), "{file}");
    }
    for file in ["compose/envoy-auth-tokens/config.yaml", "debian/config.yaml"] {
        let config: Value = serde_saphyr::from_str(&text(file)).unwrap();
        assert_eq!(config["keys"]["ready_without_store"], "10s", "{file}");
    }
    // What may be written there instead of the comment.
    for file in ["kubernetes/example/config.yaml", "istio/config.yaml", "envoy-gateway/config.yaml"] {
        let text = text(file);
        let keys =
            text.lines().find_map(|line| line.strip_prefix("# keys:").map(|rest| format!("keys:{rest}")));
        let keys = keys.unwrap_or_else(|| panic!("{file} has no line about keys"));
        let setup = Server::with(&keys).env("DATABASE_URL", "postgres://keys@localhost/keys");
        setup.write();
        let ran = setup.run(["check"]);
        assert_eq!(
            (ran.code(), keys.contains("ready_without_store: 10s")),
            (Some(0), true),
            "{file}: {ran:?}"
        );
    }
}

/// The warnings of `check` about a configuration in a Pod, by key.
pub fn warnings(objects: &Manifests, deployment: &str) -> Vec<String> {
    let pod = Pod::new(objects, deployment, &[]);
    let mut command = Command::new(BINARY);
    command.args(["check", "--json", "--config"]).arg(pod.path("/etc/envoy-auth-tokens/config.yaml"));
    command.envs(
        pod.environment(ours(&objects.get("Deployment", deployment)["spec"]["template"]["spec"]), objects),
    );
    let ran = run(command, "");
    let output: Value = serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {ran:?}"));
    assert_eq!((&output["valid"], &output["errors"]), (&json!(true), &json!(0)), "{output}");
    let found = output["diagnostics"].as_array().unwrap();
    // The folders of the container are not this machine's.
    let is_ours = |warning: &&Value| !warning["message"].as_str().unwrap().starts_with("the folder /run/");
    found.iter().filter(is_ours).map(|warning| warning["key"].as_str().unwrap().to_owned()).collect()
}

/// A form with the Secrets that the script of the documents makes for it.
fn with_secrets(form: &str) -> Manifests {
    let script = &scripts()[usize::from(form != "example")];
    let mut objects = cluster::after(script).objects;
    let secrets: Vec<_> = objects.0.drain(..).filter(|object| object["kind"] == "Secret").collect();
    assert!(!secrets.is_empty(), "{script}");
    objects.0 = [Manifests::of(form).0, secrets].concat();
    if form == "shared-mtls" {
        let ca = Ca::new("the cluster's");
        let pair = ca.issue(&["ext-authz.local"]);
        objects.0.push(secret(
            "envoy-auth-tokens-tls",
            &[("tls.crt", &pair.cert), ("tls.key", &pair.key), ("ca.crt", &ca.pem())],
        ));
    }
    objects
}

fn secret(name: &str, data: &[(&str, &str)]) -> Value {
    let encode = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
    let data: serde_json::Map<_, _> =
        data.iter().map(|(key, text)| ((*key).to_owned(), encode(text).into())).collect();
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": OURS}, "data": data})
}

#[test]
fn every_configuration_is_one_of_ours_and_finds_its_secrets() {
    // Nothing is open to a network, so `check --strict` has nothing to say.
    assert_eq!(warnings(&with_secrets("example"), "app"), Vec::<String>::new());
    // These are meant to be reached, and `check` cannot know about the NetworkPolicy: this alone it warns of.
    assert_eq!(warnings(&with_secrets("shared"), OURS), ["ext_authz.listen", "probes.listen"]);
    // With mTLS the network is let in to the probes alone.
    assert_eq!(warnings(&with_secrets("shared-mtls"), OURS), ["probes.listen"]);
}

#[test]
fn the_documents_apply_what_is_there() {
    let [sidecar, shared, _] = scripts();
    for (script, form) in [(sidecar, "example"), (shared, "shared")] {
        let cluster = cluster::after(script);
        cluster.objects.assert_valid();
        for object in Manifests::of(form).0 {
            assert!(cluster.objects.0.contains(&object), "{object}");
        }
        // A Secret is of use in its own namespace alone.
        let namespace =
            |object: &Value| object["metadata"]["namespace"].as_str().unwrap_or("default").to_owned();
        let [deployment] = cluster.objects.of_kind("Deployment")[..] else { panic!("{script}") };
        for secret in cluster.objects.of_kind("Secret") {
            assert_eq!(namespace(secret), namespace(deployment), "{secret}");
        }
    }
    let policy = Manifests::of("shared").get("NetworkPolicy", OURS).to_string();
    assert!(
        shared.contains("envoy-auth-tokens=may-ask") && policy.contains(r#""envoy-auth-tokens":"may-ask""#)
    );
}

/// What `envoy-auth-tokens envoy` prints in a Pod's container.
fn printed(pod: &Pod, objects: &Manifests, deployment: &str, arguments: &[&str]) -> String {
    let mut command = Command::new(BINARY);
    command.arg("envoy").args(arguments).args(["--config", "config.yaml"]);
    command.current_dir(pod.path("/etc/envoy-auth-tokens/"));
    command.envs(
        pod.environment(ours(&objects.get("Deployment", deployment)["spec"]["template"]["spec"]), objects),
    );
    let ran = run(command, "");
    assert!(ran.status.success(), "{ran:?}");
    ran.stdout
}

#[test]
fn the_sidecars_envoy_has_what_we_print_for_its_configuration() {
    let objects = with_secrets("example");
    let pod = Pod::new(&objects, "app", &[]);
    let printed = printed(&pod, &objects, "app", &["--listen", "0.0.0.0:10000", "--address", SOCKET]);
    let file = std::fs::read_to_string(tools::root().join("deploy/kubernetes/example/envoy.yaml")).unwrap();
    assert!(printed == file, "deploy/kubernetes/example/envoy.yaml should be:\n{printed}");
    // As it stands, and with what the Pod's arguments add to it.
    let folder = tempfile::TempDir::new().unwrap();
    let path = folder.path().join("envoy.yaml");
    std::fs::write(&path, file).unwrap();
    envoy::validate(&path).unwrap_or_else(|output| panic!("{output}"));
    let mut command = Command::new(tools::envoy());
    command.args(["--mode", "validate"]);
    let arguments =
        objects.get("Deployment", "app")["spec"]["template"]["spec"]["initContainers"][1]["args"].clone();
    for argument in arguments.as_array().unwrap() {
        let argument = argument.as_str().unwrap();
        command.arg(if argument == "/etc/envoy/envoy.yaml" { path.to_str().unwrap() } else { argument });
    }
    let ran = run(command, "");
    assert!(ran.status.success(), "{ran:?}");
}

/// What Envoy's configuration lacks: the listener by which a test hears where the others are.
const ADMIN: &str = "admin: { address: { socket_address: { address: 127.0.0.1, port_value: 0 } } }\n";

const SOCKET: &str = "unix:/run/envoy-auth-tokens/ext_authz.sock";

/// What a Secret or ConfigMap says under a key.
fn value(objects: &Manifests, secret: &str, key: &str) -> String {
    let text =
        objects.get("Secret", secret)["data"][key].as_str().unwrap_or_else(|| panic!("no {key} in {secret}"));
    String::from_utf8(base64::engine::general_purpose::STANDARD.decode(text).unwrap()).unwrap()
}

/// The listeners of an Envoy whose log is this, by name.
fn envoys_listeners(envoy: &Running) -> Vec<(String, SocketAddr)> {
    let admin: SocketAddr = envoy.log.wait_for("saying where its admin listens", |line| {
        line.split_once("admin address: ").and_then(|(_, address)| address.trim().parse().ok())
    });
    let ask = |target: &str| Request::new(admin, "GET", target).header("connection", "close").send();
    wait_until("Envoy is ready", || ask("/ready").status == 200);
    let listeners = ask("/listeners?format=json").json();
    let listeners = listeners["listener_statuses"].as_array().unwrap().iter();
    listeners
        .map(|listener| {
            let port = listener["local_address"]["socket_address"]["port_value"].as_u64().unwrap();
            let address = SocketAddr::from(([127, 0, 0, 1], u16::try_from(port).unwrap()));
            (listener["name"].as_str().unwrap().to_owned(), address)
        })
        .collect()
}

#[test]
fn the_sidecar_pod_lives_its_life() {
    let upstream = Upstream::start();
    let mut objects = with_secrets("example");
    // Free ports, and an admin listener by which the test hears of them.
    let application = format!("port_value: {}", upstream.address().port());
    let added = "static_resources:\n  listeners:\n  - name: probes";
    let admin = format!("{ADMIN}{added}");
    let instead = [
        ("port_value: 10000", "port_value: 0"),
        ("port_value: 9193", "port_value: 0"),
        ("port_value: 8080", application.as_str()),
        (added, admin.as_str()),
    ];
    let pod = Pod::new(&objects, "app", &instead);

    // We start, and nobody before us.
    assert!(!pod.probe(OURS, "startupProbe"), "nobody is there");
    let mut server = pod.start(OURS, &objects, &[]);
    for probe in ["startupProbe", "readinessProbe", "livenessProbe"] {
        pod.wait_for(OURS, probe, &server);
    }

    // Then Envoy, who may use our socket; the application, which is somebody else, may not.
    let start_envoy = || {
        let envoy =
            pod.start("envoy", &objects, &["--log-level", "warning", "--component-log-level", "admin:info"]);
        for (name, address) in envoys_listeners(&envoy) {
            pod.lead(if name == "probes" { 9193 } else { 10000 }, address);
        }
        envoy
    };
    let mut envoy = start_envoy();
    for probe in ["startupProbe", "readinessProbe", "livenessProbe"] {
        pod.wait_for("envoy", probe, &envoy);
    }
    let socket = pod.path("/run/envoy-auth-tokens/ext_authz.sock");
    assert_socket_is_for_the_group_alone(&pod, &socket);

    let listener = |port| envoys_listeners(&envoy).into_iter().find(|(name, _)| name == port).unwrap().1;
    let (ingress, probes) = (listener("ingress"), listener("probes"));
    let get = |token: &str| Request::new(ingress, "GET", "/x").bearer(token).send();
    let bot = value(&objects, "envoy-auth-tokens-env", "BOT_TOKEN");
    let seen = get(&bot).seen();
    assert_eq!(seen.all("x-actor"), [r#"{"bot_id":"my-bot"}"#]);
    assert!(seen.all("authorization").is_empty());
    let ci = value(&objects, "envoy-auth-tokens", "ci-token");
    assert_eq!(get(&ci).seen().all("x-actor-id"), ["ci"]);
    assert_eq!(Request::new(ingress, "GET", "/x").send().status, 401);

    // What we show on the network: our three probes, through Envoy, and nothing else.
    let ask = |path: &str| Request::new(probes, "GET", path).send();
    assert!(ask("/metrics").text().contains("envoy_auth_tokens_build_info"));
    assert_eq!((ask("/live").status, ask("/ready").status, ask("/other").status), (200, 200, 404));

    // A new token in the Secret and a new actor in the ConfigMap are in force without a restart.
    let other = "another-ci-token-0123456789";
    let encoded = base64::engine::general_purpose::STANDARD.encode(other);
    for object in &mut objects.0 {
        if object["metadata"]["name"] == OURS && object["kind"] == "Secret" {
            object["data"]["ci-token"] = json!(encoded);
        }
        if object["metadata"]["name"] == OURS && object["kind"] == "ConfigMap" {
            let text = object["data"]["config.yaml"].as_str().unwrap();
            assert!(text.contains("id: ci,"), "{text}");
            object["data"]["config.yaml"] = json!(text.replace("id: ci,", "id: builds,"));
        }
    }
    pod.publish(&objects);
    wait_until("the new token counts", || get(other).status == 200);
    assert_eq!(get(other).seen().all("x-actor-id"), ["builds"], "both changed at one moment");
    assert_eq!((get(&ci).status, get(&bot).status), (401, 200));

    // We crash and are started again: the socket that was left is taken over, and Envoy finds us.
    server.kill();
    assert!(!pod.probe(OURS, "livenessProbe"));
    let mut server = pod.start(OURS, &objects, &[]);
    pod.wait_for(OURS, "startupProbe", &server);
    wait_until("Envoy finds us again", || get(&bot).status == 200);

    // The Pod ends: Envoy first, then we, without a drain.
    assert!(envoy.terminate().success());
    assert_eq!(server.terminate().code(), Some(0), "{}", server.log.text());
    assert!(!socket.exists());
    for secret in [bot.as_str(), &ci, other] {
        assert!(!format!("{}{}", server.log.text(), envoy.log.text()).contains(secret));
    }
}

/// Envoy connects by its group.  Whoever is neither of that group nor root cannot.
fn assert_socket_is_for_the_group_alone(pod: &Pod, socket: &Path) {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    let metadata = std::fs::metadata(socket).unwrap();
    assert_eq!(metadata.permissions().mode() & 0o777, 0o660);
    if !is_root() {
        // All is one user's here: there is no other group to keep out.
        return;
    }
    assert_eq!((metadata.uid(), metadata.gid()), (65532, 65532));
    let as_group = |group| run(asking(pod.command_as(10001, group, Path::new(BINARY)), pod), "");
    assert!(as_group(65532).status.success(), "{:?}", as_group(65532));
    assert!(!as_group(10001).status.success(), "a stranger was answered");
}

/// Asks for our health by the socket, as the probes do.
fn asking(mut command: Command, pod: &Pod) -> Command {
    let address = format!("--address=unix:{}", pod.path("/run/envoy-auth-tokens/ext_authz.sock").display());
    command.args(["health", &address]);
    command
}

#[test]
fn with_a_group_of_the_applications_the_socket_is_that_groups() {
    let mut objects = with_secrets("example");
    let deployment = objects.0.iter_mut().find(|object| object["kind"] == "Deployment").unwrap();
    deployment["spec"]["template"]["spec"]["securityContext"] = json!({"fsGroup": 2000});
    let pod = Pod::new(&objects, "app", &[]);
    let server = pod.start(OURS, &objects, &[]);
    pod.wait_for(OURS, "startupProbe", &server);
    // As Envoy's user, by the group that Kubernetes gives every container of the Pod.
    let ran = run(asking(pod.command("envoy", Path::new(BINARY)), &pod), "");
    assert!(ran.status.success(), "{ran:?}");
}

/// A replica of the shared form, which listens on free ports.
struct Replica {
    pod: Pod,
    server: Running,
    ext_authz: SocketAddr,
}

impl Replica {
    fn start(objects: &Manifests) -> Self {
        let instead = [
            ("0.0.0.0:9191", "127.0.0.1:0"),
            ("0.0.0.0:9193", "127.0.0.1:0"),
            ("127.0.0.1:9192", "127.0.0.1:0"),
        ];
        let pod = Pod::new(objects, OURS, &instead);
        let server = pod.start(OURS, objects, &[]);
        pod.lead(9193, server.listening("probes"));
        for probe in ["startupProbe", "readinessProbe", "livenessProbe"] {
            pod.wait_for(OURS, probe, &server);
        }
        let ext_authz = server.listening("ext_authz");
        Self { pod, server, ext_authz }
    }
}

/// Says when it is over, also when a test fails before its end.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// An Envoy as printed for the Pods behind a name, before these replicas.
fn envoy_before(replicas: &[&Replica], printed: &str, upstream: &Upstream) -> Envoy {
    let name = r#"{ address: { socket_address: { address: "envoy-auth-tokens-pods.envoy-auth-tokens.svc", port_value: 9191 } } }"#;
    let name = format!("- endpoint: {name}");
    assert_eq!(printed.matches(&name).count(), 1, "{printed}");
    assert_eq!(printed.matches("type: STRICT_DNS").count(), 1, "it balances over all Pods: {printed}");
    let endpoints = replicas.iter().map(|replica| {
        let port = replica.ext_authz.port();
        format!(
            "- endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }} }}"
        )
    });
    // Where a resolver would find several addresses under the name.
    let text = printed.replace(&name, &endpoints.collect::<Vec<_>>().join("\n        "));
    let text = text.replace("type: STRICT_DNS", "type: STATIC").replace("port_value: 10000", "port_value: 0");
    let text = text.replace("port_value: 8080", &format!("port_value: {}", upstream.address().port()));
    Envoy::configured(&format!("{ADMIN}{}", envoy::persistent(&text)))
}

/// The shared form with a database of its own instead of the one of the documents.
fn with_database(form: &str, postgres: &Postgres) -> Manifests {
    let mut objects = with_secrets(form);
    let url = postgres.url(&postgres.database());
    for object in &mut objects.0 {
        if object["kind"] == "Secret" && object["metadata"]["name"] == OURS {
            object["data"]["DATABASE_URL"] = base64::engine::general_purpose::STANDARD.encode(&url).into();
        }
    }
    objects
}

#[test]
fn a_rolling_update_of_the_shared_form_fails_no_check() {
    let postgres = Postgres::shared();
    let objects = with_database("shared", &postgres);
    let (old, other, new) = (Replica::start(&objects), Replica::start(&objects), Replica::start(&objects));
    let upstream = Upstream::start();

    // As the last command of that script prints it in a Pod.
    let script = &scripts()[1];
    let output = std::fs::read_to_string(cluster::after(script).folder.path().join("envoy.yaml")).unwrap();
    let (_, command) = output.split_once(" -- /usr/bin/envoy-auth-tokens envoy ").expect("it runs in a Pod");
    let arguments: Vec<_> = command.split_whitespace().collect();
    let printed = printed(&old.pod, &objects, OURS, &arguments);
    let envoy = envoy_before(&[&old, &other, &new], &printed, &upstream);

    // A key is made at one replica, by its admin listener on loopback, and counts at all of them.
    let admin = old.server.listening("admin");
    let password = value(&objects, OURS, "admin-password");
    let made = crate::users::settle(|| {
        let request = Request::new(admin, "POST", "/api/auth/keys").basic("admin", &password);
        let request = request.header("content-type", "application/json");
        request.body(br#"{"name": "deploy", "role": "Viewer"}"#.to_vec()).send()
    });
    let key = made.json()["key"].as_str().unwrap_or_else(|| panic!("{}", made.text())).to_owned();
    let status = || Request::new(envoy.address(), "GET", "/x").bearer(&key).send().status;
    let logged =
        |replica: &Replica| replica.server.log.lines().iter().filter(|line| line.contains("allowed")).count();
    wait_until("every replica allows it", || {
        status();
        [&old, &other, &new].iter().all(|replica| logged(replica) > 0)
    });
    assert_eq!(Request::new(envoy.address(), "GET", "/x").send().status, 401);

    // One of them is told to go, while clients ask all the time.
    let stop = AtomicBool::new(false);
    let (answers, ended) = std::thread::scope(|scope| {
        let clients = [(); 3].map(|()| {
            scope.spawn(|| {
                let mut answers = Vec::new();
                while !stop.load(Ordering::SeqCst) {
                    answers.push(status());
                }
                answers
            })
        });
        // Whatever happens here, the clients come to an end.
        let _end = End(&stop);
        let Replica { pod, mut server, .. } = old;
        server.terminate_soon();
        wait_until("its Pod leaves the Service", || !pod.probe(OURS, "readinessProbe"));
        assert!(pod.probe(OURS, "livenessProbe"), "and is not killed for it");
        let mut ended = None;
        wait_until("it ends by itself", || {
            ended = server.has_ended();
            ended.is_some()
        });
        stop.store(true, Ordering::SeqCst);
        (clients.map(|client| client.join().unwrap()).concat(), ended)
    });
    assert_eq!(ended.unwrap().code(), Some(0));
    let others: Vec<_> = answers.iter().filter(|status| **status != 200).collect();
    assert!(others.is_empty() && answers.len() > 50, "{} of {}: {others:?}", others.len(), answers.len());
}

#[test]
fn with_mtls_an_envoy_with_the_right_certificate_is_answered_and_another_is_not() {
    let postgres = Postgres::shared();
    let mut objects = with_database("shared-mtls", &postgres);
    let ca = Ca::new("the cluster's");
    let server = ca.issue(&["ext-authz.local"]);
    let tls = [("tls.crt", server.cert.as_str()), ("tls.key", &server.key), ("ca.crt", &ca.pem())];
    objects.0.retain(|object| object["metadata"]["name"] != "envoy-auth-tokens-tls");
    objects.0.push(secret("envoy-auth-tokens-tls", &tls));
    let replica = Replica::start(&objects);
    let upstream = Upstream::start();
    let password = value(&objects, OURS, "admin-password");

    let folder = tempfile::TempDir::new().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    // A password is nothing at the gateway: what is asked is whether we answer this Envoy at all.
    for (name, status) in [("envoy.example.org", 401), ("somebody.example.org", 503)] {
        let envoys = ca.issue(&[name]);
        let (ca, cert, key) = (file("ca", &ca.pem()), file("cert", &envoys.cert), file("key", &envoys.key));
        let arguments = ["--address", "envoy-auth-tokens-pods.envoy-auth-tokens.svc:9191"];
        let arguments = [&arguments[..], &["--tls-ca", &ca, "--tls-cert", &cert, "--tls-key", &key]].concat();
        let printed = printed(&replica.pod, &objects, OURS, &arguments);
        let envoy = envoy_before(&[&replica], &printed, &upstream);
        let ask = || Request::new(envoy.address(), "GET", "/x").basic("admin", &password).send();
        wait_until(&format!("{name} gets {status}; our log:\n{}", replica.server.log.text()), || {
            ask().status == status
        });
    }
    assert_eq!(upstream.calls(), 0, "nobody passed");
}
