//! `deploy/helm`: what the chart renders is what `deploy/kubernetes` says, and values that make no sense are denied.

use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use crate::harness::server::{Ran, run};
use crate::harness::tools;
use crate::kubernetes::manifests::{Manifests, not_restricted};
use crate::kubernetes::{cluster, scripts, warnings};

const OURS: &str = "envoy-auth-tokens";

fn chart() -> PathBuf {
    tools::root().join("deploy/helm/envoy-auth-tokens")
}

fn helm(arguments: &[&str], values: &str) -> Ran {
    let mut command = Command::new(tools::helm());
    command.args(arguments).arg(chart()).args(["--namespace", OURS, "--values", "-"]);
    run(command, values)
}

/// What a release of this name is, with these values.
fn released(name: &str, values: &str) -> Manifests {
    let ran = helm(&["template", name], values);
    assert!(ran.status.success(), "{values}\n{}", ran.stderr);
    Manifests::parse(&ran.stdout)
}

/// Values as YAML, in which the configuration is this file of ours.
fn with_config(file: &str, values: &str) -> String {
    let config = std::fs::read_to_string(tools::root().join(file)).unwrap();
    format!("config: {}\n{values}", Value::from(config))
}

/// What is Helm's own: its labels, and where it puts things.
fn without_helms_own(mut object: Value) -> Value {
    let metadata = object["metadata"].as_object_mut().unwrap();
    metadata.remove("namespace");
    let labels = metadata["labels"].as_object_mut().unwrap();
    for label in ["app.kubernetes.io/version", "app.kubernetes.io/managed-by", "helm.sh/chart"] {
        labels.remove(label);
    }
    object
}

/// Holds a release against a folder of `deploy/kubernetes`, object by object.
#[track_caller]
fn assert_same(released: &Manifests, form: &str) {
    let kustomized = Manifests::of(form);
    // A release cannot own the namespace that it is in.
    let kustomized = kustomized.0.into_iter().filter(|object| object["kind"] != "Namespace");
    let mut count = 0;
    for object in kustomized {
        let (kind, name) = (object["kind"].as_str().unwrap(), object["metadata"]["name"].as_str().unwrap());
        let ours = without_helms_own(released.get(kind, name).clone());
        let object = without_helms_own(object.clone());
        assert_eq!(ours, object, "the chart's {kind} {name} and that of deploy/kubernetes/{form}");
        count += 1;
    }
    assert_eq!(released.0.len(), count);
}

#[test]
fn helm_lint_finds_nothing() {
    let ran = helm(&["lint", "--strict"], "");
    assert!(ran.status.success() && !ran.stdout.contains("WARNING"), "{ran:?}");
    let chart = std::fs::read_to_string(chart().join("Chart.yaml")).unwrap();
    for line in ["version", "appVersion"] {
        let line = format!("\n{line}: {}\n", env!("CARGO_PKG_VERSION"));
        assert!(chart.contains(&line), "{line}");
    }
}

#[test]
fn the_default_is_the_shared_form_and_its_tls_the_form_with_mtls() {
    assert_same(&released(OURS, ""), "shared");
    let values = with_config(
        "deploy/kubernetes/shared-mtls/config.yaml",
        "tls: {existingSecret: envoy-auth-tokens-tls}",
    );
    assert_same(&released(OURS, &values), "shared-mtls");
}

#[test]
fn the_documents_install_it() {
    let released = cluster::after(&scripts()[2]).objects;
    released.assert_valid();
    let image = &released.get("Deployment", OURS)["spec"]["template"]["spec"]["containers"][0]["image"];
    assert_eq!(image, concat!("registry.example.com/envoy-auth-tokens:", env!("CARGO_PKG_VERSION")));
}

const OTHERWISE: &str = "
image:
  repository: registry.example.com:5000/team/tokens
  digest: sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef
  pullPolicy: IfNotPresent
  pullSecrets: [{name: registry}]
existingSecret: mine
secretEnv: {BOT_TOKEN: bot-token}
secretFiles: [ci-token]
database: {existingSecret: pg-app, key: uri, caSecret: pg-ca}
extraArgs: [--log-decisions=denied]
workers: 4
drainSeconds: 30
autoscaling: {enabled: false}
replicas: 3
podDisruptionBudget: {maxUnavailable: 50%}
networkPolicy: {mayScrape: []}
service: {annotations: {mine: kept}}
serviceAccount: {existing: robot}
podLabels: {team: tokens}
podAnnotations: {mine: kept}
nodeSelector: {kubernetes.io/arch: amd64}
tolerations: [{key: dedicated, operator: Exists, effect: NoSchedule}]
affinity: {podAntiAffinity: {preferredDuringSchedulingIgnoredDuringExecution: []}}
priorityClassName: system-cluster-critical
resources: {limits: {memory: 1Gi}}
config: |
  ext_authz: {listen: '[::]:9291'}
  probes: {listen: '[::]:9293'}
  keys: {store: {$env: DATABASE_URL}}
  tokens:
  - {token: {$env: BOT_TOKEN}, actor: {id: bot}}
  - {token: {$file: secrets/ci-token}, actor: {id: ci}}
";

#[test]
fn every_value_has_the_effect_that_it_promises() {
    let released = released("mine", OTHERWISE);
    released.assert_valid();
    let name = "mine-envoy-auth-tokens";
    let deployment = released.get("Deployment", name);
    let pod = &deployment["spec"]["template"]["spec"];
    assert_eq!(not_restricted(pod), Vec::<String>::new());
    let container = &pod["containers"][0];
    assert!(
        container["image"].as_str().unwrap().starts_with("registry.example.com:5000/team/tokens@sha256:0123")
    );
    assert_eq!(deployment["spec"]["replicas"], 3);
    assert_eq!(pod["terminationGracePeriodSeconds"], 50);
    let arguments = ["serve", "--log-format=json", "--workers=4", "--drain=30s", "--log-decisions=denied"];
    assert_eq!(container["args"], serde_json::json!(arguments));
    // The ports are those of the configuration; Envoys find it where they always do.
    assert_eq!(container["livenessProbe"]["httpGet"]["port"], 9293);
    assert_eq!(container["ports"][0]["containerPort"], 9291);
    assert_eq!(released.get("Service", name)["spec"]["ports"][0]["port"], 9191);
    let rules = &released.get("NetworkPolicy", name)["spec"]["ingress"];
    assert_eq!((rules.as_array().unwrap().len(), &rules[0]["ports"][0]["port"]), (1, &9291.into()));
    assert!(
        released.of_kind("HorizontalPodAutoscaler").is_empty()
            && released.of_kind("ServiceAccount").is_empty()
    );
    assert_eq!(released.get("PodDisruptionBudget", name)["spec"]["maxUnavailable"], "50%");
    let text = deployment.to_string();
    for word in [
        "robot",
        "team",
        "dedicated",
        "kubernetes.io/arch",
        "system-cluster-critical",
        "podAntiAffinity",
        "1Gi",
    ] {
        assert!(text.contains(word), "{word}: {text}");
    }
    // What the configuration names is what the Pod gets.
    let mut objects = released.clone();
    for (secret, key) in [("mine", "bot-token"), ("pg-app", "uri")] {
        let text = if key == "uri" { "postgres://k:k@127.0.0.1/k" } else { "token-0123456789-abc" };
        objects.0.push(secret_of(secret, key, text));
    }
    let both = objects.0.iter_mut().find(|object| object["metadata"]["name"] == "mine").unwrap();
    both["data"]["ci-token"] = "YW5vdGhlci10b2tlbi0wMTIzNDU2Nzg5".into();
    assert_eq!(warnings(&objects, name), ["ext_authz.listen", "probes.listen"]);
}

fn secret_of(name: &str, key: &str, text: &str) -> Value {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(text);
    serde_json::json!({"kind": "Secret", "metadata": {"name": name}, "data": {key: text}})
}

#[test]
fn what_is_switched_off_is_not_there_and_the_operators_monitor_takes_the_annotations_place() {
    let values = "
podDisruptionBudget: {enabled: false}
networkPolicy: {enabled: false}
podMonitor: {enabled: true, interval: 15s, labels: {release: prometheus}}
secretFiles: []
database: {existingSecret: '', caSecret: ''}
";
    let mut released = released(OURS, values);
    assert!(
        released.of_kind("PodDisruptionBudget").is_empty() && released.of_kind("NetworkPolicy").is_empty()
    );
    let deployment = released.get("Deployment", OURS);
    let template = &deployment["spec"]["template"];
    assert!(template["metadata"]["annotations"].is_null(), "it would be scraped twice");
    assert_eq!(template["spec"]["volumes"][0]["projected"]["sources"].as_array().unwrap().len(), 1);
    assert!(template["spec"]["containers"][0]["env"].is_null());
    // Of this kind, which is the Prometheus operator's, the API has no schema.
    let monitor = released.get("PodMonitor", OURS).clone();
    assert_eq!(monitor["spec"]["selector"], deployment["spec"]["selector"]);
    assert_eq!(
        monitor["spec"]["podMetricsEndpoints"][0]["port"],
        template["spec"]["containers"][0]["ports"][1]["name"]
    );
    assert_eq!(monitor["metadata"]["labels"]["release"], "prometheus");
    released.0.retain(|object| object["kind"] != "PodMonitor");
    released.assert_valid();
}

#[test]
fn values_that_make_no_sense_are_refused_in_a_sentence() {
    let tls = "config: 'ext_authz: {listen: \"0.0.0.0:9191\", tls: {cert: c, key: k}}\n\n  probes: {listen: \"0.0.0.0:9193\"}'";
    for (values, message) in [
        ("image: {tga: 1.0.0}", "additional properties 'tga' not allowed"),
        ("workers: 0", "/workers"),
        ("workers: null", "missing property 'workers'"),
        ("config: {tokens: []}", "got object, want string"),
        ("config: 'a: ['", "config is not YAML"),
        ("config: 'tokens: []'", "write `ext_authz: {listen: \"0.0.0.0:9191\"}`"),
        ("config: 'ext_authz: {listen: 127.0.0.1:9191}'", "it has to be reached from outside of its Pod"),
        ("existingSecret: ''", "/existingSecret"),
        ("existingSecret: Mine", "/existingSecret"),
        ("secretEnv: {DATABASE_URL: x}", "invalid propertyName 'DATABASE_URL'"),
        ("secretFiles: [../x]", "/secretFiles/0"),
        ("tls: {existingSecret: t}", "Envoy would be answered in plain text"),
        (tls, "name the Secret with tls.crt, tls.key and ca.crt in tls.existingSecret"),
        // To Kubernetes an empty list of peers is everybody.
        ("networkPolicy: {mayAsk: []}", "/networkPolicy/mayAsk"),
        ("networkPolicy: {mayAsk: [{}]}", "/networkPolicy/mayAsk/0"),
        ("networkPolicy: {mayAsk: null}", "missing property 'mayAsk'"),
        ("image: {digest: sha256:12}", "/image/digest"),
        ("extraArgs: [serve]", "/extraArgs/0"),
    ] {
        let ran = helm(&["template", OURS], values);
        assert!(!ran.status.success() && ran.stderr.contains(message), "{values}: {message}\n{}", ran.stderr);
    }
}

#[test]
fn the_notes_name_what_the_release_has() {
    let mut command = Command::new(tools::helm());
    command.args(["install", "mine"]).arg(chart()).args(["--namespace", "apis", "--dry-run=client"]);
    let ran = run(command, "");
    assert!(ran.status.success(), "{ran:?}");
    let (_, notes) = ran.stdout.split_once("NOTES:").unwrap_or_else(|| panic!("no notes: {ran:?}"));
    for line in [
        "mine-envoy-auth-tokens.apis.svc:9191 ",
        "mine-envoy-auth-tokens-pods.apis.svc:9191 ",
        "kubectl -n apis port-forward deploy/mine-envoy-auth-tokens 9192",
        "kubectl label namespace NAME envoy-auth-tokens=may-ask",
    ] {
        assert!(notes.contains(line), "{line}: {notes}");
    }
}
