//! `deploy/helm`: what the chart renders is what `deploy/kubernetes` says, and values that make no sense are denied.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::harness::manifests::{self, Resource};
use crate::harness::server::{Ran, run};
use crate::harness::tools;
use crate::kubernetes::manifests::{Manifests, not_restricted};
use crate::kubernetes::pod::Pod;
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
    format!("configFile: {}\n{values}", Value::from(config))
}

/// Whether the schema of an object is not Kubernetes' own, but an operator's.
fn is_operators(object: &Value) -> bool {
    let group = object["apiVersion"].as_str().unwrap().split_once('/').map_or("", |(group, _)| group);
    group == "gateway.networking.k8s.io" || (group.contains('.') && !group.ends_with(".k8s.io"))
}

/// Holds every object against the schema of its kind: Kubernetes' oldest and newest, or the operator's.
#[track_caller]
fn assert_valid(released: &Manifests) {
    let (operators, own): (Vec<_>, Vec<_>) = released.0.iter().cloned().partition(is_operators);
    Manifests(own).assert_valid();
    assert_eq!(manifests::wrong(&resources(operators)), Vec::<String>::new());
}

fn resources(objects: Vec<Value>) -> Vec<Resource> {
    let name = |object: &Value| format!("{}/{}", object["kind"], object["metadata"]["name"]).replace('"', "");
    objects.into_iter().map(|document| Resource { name: name(&document), document }).collect()
}

/// Takes out what Helm runs around an install and does not install.
fn without_hooks(released: &Manifests) -> Manifests {
    let is_hook = |object: &Value| object["metadata"]["annotations"]["helm.sh/hook"].is_string();
    Manifests(released.0.iter().filter(|object| !is_hook(object)).cloned().collect())
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
        let mut ours = without_helms_own(released.get(kind, name).clone());
        let mut object = without_helms_own(object.clone());
        match kind {
            // The chart's is merged of maps, in which nothing of how it was written is left.
            "ConfigMap" => {
                for config in [&mut ours, &mut object] {
                    let text = config["data"]["config.yaml"].as_str().unwrap();
                    config["data"]["config.yaml"] = serde_saphyr::from_str(text).unwrap();
                }
            }
            // Beside those that may ask, `helm test`, where it asks.
            "NetworkPolicy" if form == "shared" => {
                let rules = ours["spec"]["ingress"].as_array_mut().unwrap();
                let of_test = rules.pop().unwrap();
                let labels = &of_test["from"][0]["podSelector"]["matchLabels"];
                assert_eq!(labels["app.kubernetes.io/name"], "envoy-auth-tokens-test", "{of_test}");
            }
            _ => {}
        }
        assert_eq!(ours, object, "the chart's {kind} {name} and that of deploy/kubernetes/{form}");
        count += 1;
    }
    assert_eq!(without_hooks(released).0.len(), count);
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
fn the_readme_of_the_chart_and_its_files_are_what_make_chart_makes() {
    let mut command = Command::new("python3");
    command.args(["deploy/helm/readme.py", "--check"]).current_dir(tools::root());
    let ran = run(command, "");
    assert_eq!((ran.code(), ran.stderr.as_str()), (Some(0), ""), "run `make chart`");
    // Every value has its row, and a sentence or a comment over it.
    let readme = std::fs::read_to_string(chart().join("README.md")).unwrap();
    let values: Value =
        serde_saphyr::from_str(&std::fs::read_to_string(chart().join("values.yaml")).unwrap()).unwrap();
    for name in values.as_object().unwrap().keys() {
        assert!(readme.contains(&format!("| `{name}")), "{name}");
    }
}

#[test]
fn the_documents_install_it() {
    let released = cluster::after(&scripts()[2]).objects;
    assert_valid(&released);
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
tests: {enabled: false}
service: {annotations: {mine: kept}, trafficDistribution: PreferClose}
serviceAccount: {create: false, name: robot}
podLabels: {team: tokens}
podAnnotations: {mine: kept}
nodeSelector: {kubernetes.io/arch: amd64}
tolerations: [{key: dedicated, operator: Exists, effect: NoSchedule}]
affinity: {podAntiAffinity: {preferredDuringSchedulingIgnoredDuringExecution: []}}
priorityClassName: system-cluster-critical
resources: {limits: {memory: 1Gi}}
extraEnv: [{name: OTEL_SERVICE_NAME, value: tokens}]
extraEnvFrom: [{secretRef: {name: more-env}}]
extraVolumes: [{name: audit, emptyDir: {}}]
extraVolumeMounts: [{name: audit, mountPath: /var/log/audit}]
extraContainers: [{name: shipper, image: example.com/shipper:1, resources: {limits: {memory: 64Mi}, requests: {cpu: 10m, memory: 8Mi}}, securityContext: {allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: {drop: [ALL]}}}]
extraObjects:
- {apiVersion: v1, kind: ConfigMap, metadata: {name: '{{ .Release.Name }}-more'}, data: {mine: kept}}
- |
  apiVersion: v1
  kind: ConfigMap
  metadata: {name: '{{ include `envoy-auth-tokens.fullname` . }}-text'}
commonLabels: {cost-center: '42'}
commonAnnotations: {owner: platform, mine: lost}
deploymentAnnotations: {reloader: 'off'}
revisionHistoryLimit: 3
minReadySeconds: 5
terminationGracePeriodSeconds: 90
lifecycle: {preStop: {sleep: {seconds: 5}}}
runtimeClassName: gvisor
schedulerName: packer
hostAliases: [{ip: 10.0.0.7, hostnames: [postgres.example.com]}]
dnsPolicy: ClusterFirst
dnsConfig: {options: [{name: ndots, value: '2'}]}
extraInitContainers: [{name: cloud-proxy, image: example.com/proxy:1, restartPolicy: Always, resources: {limits: {memory: 64Mi}, requests: {cpu: 10m, memory: 8Mi}}, securityContext: {allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: {drop: [ALL]}}}]
readinessProbe: {periodSeconds: 5}
topologySpreadConstraints: [{topologyKey: rack, maxSkew: 2, whenUnsatisfiable: DoNotSchedule}]
configFile: |
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
    assert_valid(&released);
    let name = "mine-envoy-auth-tokens";
    let deployment = released.get("Deployment", name);
    let pod = &deployment["spec"]["template"]["spec"];
    assert_eq!(not_restricted(pod), Vec::<String>::new());
    let container = &pod["containers"][0];
    assert!(
        container["image"].as_str().unwrap().starts_with("registry.example.com:5000/team/tokens@sha256:0123")
    );
    assert_eq!(deployment["spec"]["replicas"], 3);
    assert_eq!(pod["terminationGracePeriodSeconds"], 90);
    assert_eq!(container["lifecycle"]["preStop"]["sleep"]["seconds"], 5);
    assert_eq!(pod["initContainers"][0]["name"], "cloud-proxy");
    assert_eq!(deployment["spec"]["minReadySeconds"], 5);
    // The headless Service has no traffic that anything but the client distributes.
    let distribution = |name: &str| &released.get("Service", name)["spec"]["trafficDistribution"];
    assert_eq!(distribution(name), "PreferClose");
    assert!(distribution("mine-envoy-auth-tokens-pods").is_null());
    // What runs the check finds the database where the servers do.
    let check = &released.get("Job", "mine-envoy-auth-tokens-check")["spec"]["template"]["spec"];
    let members = ["runtimeClassName", "schedulerName", "hostAliases", "dnsPolicy", "dnsConfig"];
    for member in members {
        assert!(!pod[member].is_null() && pod[member] == check[member], "{member}: {check}");
    }
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
        "OTEL_SERVICE_NAME",
        "more-env",
        "/var/log/audit",
        "shipper",
        "cost-center",
        "reloader",
        "rack",
    ] {
        assert!(text.contains(word), "{word}: {text}");
    }
    assert_eq!(deployment["spec"]["revisionHistoryLimit"], 3);
    // What is not said of a probe stays as it is.
    assert_eq!(container["readinessProbe"]["periodSeconds"], 5);
    assert_eq!(container["readinessProbe"]["failureThreshold"], 2);
    assert_eq!(pod["topologySpreadConstraints"].as_array().unwrap().len(), 1);
    let spread_out = self::released(OURS, "topologySpreadConstraints: []");
    let pod = &spread_out.get("Deployment", OURS)["spec"]["template"]["spec"];
    assert!(pod["topologySpreadConstraints"].is_null(), "an empty list is none: {pod}");
    let extra = ["mine-more", "mine-envoy-auth-tokens-text"];
    for name in extra {
        released.get("ConfigMap", name);
    }
    for object in &released.0 {
        let metadata = &object["metadata"];
        let has = metadata["annotations"]["owner"] == "platform";
        assert_eq!(has, !extra.contains(&metadata["name"].as_str().unwrap()), "{metadata}");
    }
    // What is said of one kind goes before what is said of all.
    for annotations in
        [&released.get("Service", name)["metadata"], &deployment["spec"]["template"]["metadata"]]
    {
        assert_eq!(annotations["annotations"]["mine"], "kept", "{annotations}");
    }
    // What the configuration names is what the Pod gets.
    let mut objects = released.clone();
    for (secret, key) in [("mine", "bot-token"), ("pg-app", "uri"), ("more-env", "MORE")] {
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

const SWITCHED_OFF: &str = "
podDisruptionBudget: {enabled: false}
networkPolicy: {enabled: false}
podMonitor: {enabled: true, interval: 15s, labels: {release: prometheus}}
secretFiles: []
database: {existingSecret: '', caSecret: ''}
configCheck: {enabled: false}
tests: {enabled: false}
";

#[test]
fn what_is_switched_off_is_not_there_and_the_operators_monitor_takes_the_annotations_place() {
    let released = released(OURS, SWITCHED_OFF);
    for kind in ["PodDisruptionBudget", "NetworkPolicy", "Job", "Pod"] {
        assert!(released.of_kind(kind).is_empty(), "{kind}");
    }
    let deployment = released.get("Deployment", OURS);
    let template = &deployment["spec"]["template"];
    assert!(template["metadata"]["annotations"].is_null(), "it would be scraped twice");
    assert_eq!(template["spec"]["volumes"][0]["projected"]["sources"].as_array().unwrap().len(), 1);
    assert!(template["spec"]["containers"][0]["env"].is_null());
    let monitor = released.get("PodMonitor", OURS);
    assert_eq!(monitor["spec"]["selector"], deployment["spec"]["selector"]);
    assert_eq!(
        monitor["spec"]["podMetricsEndpoints"][0]["port"],
        template["spec"]["containers"][0]["ports"][1]["name"]
    );
    // The name by which the alerts know it.
    let job = &monitor["spec"]["podMetricsEndpoints"][0]["relabelings"][0]["replacement"];
    assert!(ALERTS.contains(&format!("up{{job={job}}}")), "{job}");
    assert_eq!(monitor["metadata"]["labels"]["release"], "prometheus");
    assert_valid(&released);
}

const ALERTS: &str = include_str!("../../deploy/prometheus/alerts.yaml");

/// Everything that an operator fills, watches or routes.
const OPERATORS: &str = "
nameOverride: tokens
config:
  ext_authz: {tls: {cert: tls/tls.crt, key: tls/tls.key, client_ca: tls/ca.crt}}
  admin: {listen: '0.0.0.0:9192', public_url: https://keys.example.com}
tls: {existingSecret: tokens-tls}
certificate: {enabled: true, issuerRef: {name: mesh-ca, kind: ClusterIssuer}, dnsNames: [tokens.example.com]}
externalSecret:
  enabled: true
  secretStoreRef: {name: vault, kind: ClusterSecretStore}
  data: [{secretKey: DATABASE_URL, remoteRef: {key: tokens/database, property: url}}]
  dataFrom: [{extract: {key: tokens}}]
admin:
  service: {enabled: true, annotations: {mine: kept}}
  ingress: {enabled: true, className: nginx, host: keys.example.com, tlsSecret: keys-tls, annotations: {mine: kept}}
  httpRoute: {enabled: true, host: keys.example.com, parentRefs: [{name: public, namespace: gateways}]}
networkPolicy:
  mayAdminister: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: gateways}}}]
podMonitor: {enabled: true}
prometheusRule: {enabled: true, labels: {release: prometheus}, runbooks: https://git.example.com/tokens/main/}
dashboards: {enabled: true}
serviceAccount: {annotations: {eks.amazonaws.com/role-arn: 'arn:aws:iam::1:role/tokens'}}
autoscaling:
  behavior: {scaleDown: {stabilizationWindowSeconds: 600}}
  metrics: [{type: Resource, resource: {name: memory, target: {type: Utilization, averageUtilization: 80}}}]
podDisruptionBudget: {minAvailable: 1}
";

#[test]
fn what_operators_fill_watch_and_route_fits_their_schemas() {
    let released = released("mine", OPERATORS);
    assert_valid(&released);
    let name = "mine-tokens";
    // The schemas know every field and type of what is written.
    let operators: Vec<_> = released.0.iter().filter(|object| is_operators(object)).cloned().collect();
    let mut kinds: Vec<_> = operators.iter().map(|object| object["kind"].as_str().unwrap()).collect();
    kinds.sort_unstable();
    assert_eq!(kinds, ["Certificate", "ExternalSecret", "HTTPRoute", "PodMonitor", "PrometheusRule"]);
    let spoiled = operators.into_iter().filter(|object| object["kind"] != "PrometheusRule").collect();
    manifests::assert_the_schemas_bite(&resources(spoiled));

    let certificate = &released.get("Certificate", name)["spec"];
    assert_eq!(certificate["secretName"], "tokens-tls");
    let names = certificate["dnsNames"].as_array().unwrap();
    for host in
        ["ext-authz.local", "mine-tokens.envoy-auth-tokens.svc", "mine-tokens-pods.envoy-auth-tokens.svc"]
    {
        assert!(names.contains(&host.into()), "{host}: {names:?}");
    }
    assert_eq!(released.get("ExternalSecret", OURS)["spec"]["target"]["name"], OURS);
    // Nobody has filled a Secret before an install, so it is checked before upgrades.
    let job = released.get("Job", "mine-tokens-check");
    assert_eq!(job["metadata"]["annotations"]["helm.sh/hook"], "pre-upgrade");

    let port = &released.get("Service", "mine-tokens-admin")["spec"]["ports"][0];
    assert_eq!((&port["port"], &port["targetPort"]), (&9192.into(), &"admin".into()));
    let container = &released.get("Deployment", name)["spec"]["template"]["spec"]["containers"][0];
    assert!(
        container["ports"].as_array().unwrap().contains(&json!({"name": "admin", "containerPort": 9192}))
    );
    let rules = released.get("NetworkPolicy", name)["spec"]["ingress"].to_string();
    assert!(rules.contains("gateways") && rules.contains("9192"), "{rules}");
    let ingress = &released.get("Ingress", "mine-tokens-admin")["spec"];
    assert_eq!(ingress["rules"][0]["http"]["paths"][0]["backend"]["service"]["name"], "mine-tokens-admin");
    assert_eq!(ingress["tls"][0]["secretName"], "keys-tls");
    assert_eq!(released.get("PodDisruptionBudget", name)["spec"]["minAvailable"], 1);
    let scaler = &released.get("HorizontalPodAutoscaler", name)["spec"];
    assert_eq!(scaler["behavior"]["scaleDown"]["stabilizationWindowSeconds"], 600);
    assert_eq!(scaler["metrics"].as_array().unwrap().len(), 2);
    let account = released.get("ServiceAccount", name);
    assert!(account["metadata"]["annotations"]["eks.amazonaws.com/role-arn"].is_string());

    // The rules and the dashboard are those of `deploy`.
    let rules = released.get("PrometheusRule", name)["spec"].clone();
    let text = ALERTS.replace("runbook_url: docs/", "runbook_url: https://git.example.com/tokens/main/docs/");
    assert_eq!(rules, serde_saphyr::from_str::<Value>(&text).unwrap());
    let dashboard = &released.get("ConfigMap", "mine-tokens-dashboards")["data"]["envoy-auth-tokens.json"];
    assert_eq!(dashboard, include_str!("../../deploy/grafana/dashboard.json"));
}

/// What is only another number, name or duration than the chart's.
const TUNED: &str = "
fullnameOverride: tokens
image: {tag: 9.9.9}
configCheck: {extraArgs: [--strict], deadlineSeconds: 60}
config:
  ext_authz: {tls: {cert: tls/tls.crt, key: tls/tls.key, client_ca: tls/ca.crt}}
  admin: {listen: '0.0.0.0:9192', public_url: https://keys.example.com}
tls: {existingSecret: tokens-tls}
certificate: {enabled: true, issuerRef: {name: mesh-ca}, duration: 720h, renewBefore: 240h}
externalSecret:
  enabled: true
  refreshInterval: 5m
  secretStoreRef: {name: vault}
  data: [{secretKey: DATABASE_URL, remoteRef: {key: tokens/database}}]
podSecurityContext: {fsGroup: 2000}
securityContext: {runAsUser: 1000}
startupProbe: {failureThreshold: 90}
livenessProbe: {periodSeconds: 20}
autoscaling: {minReplicas: 3, maxReplicas: 20, targetCPUUtilizationPercentage: 50}
strategy: {rollingUpdate: {maxSurge: 2}}
networkPolicy: {mayAsk: [{podSelector: {matchLabels: {app: envoy}}}]}
admin:
  service: {enabled: true}
  httpRoute: {enabled: true, host: keys.example.com, parentRefs: [{name: public}], annotations: {mine: kept}}
dashboards: {enabled: true, labels: {grafana_dashboard: 'yes'}, annotations: {grafana_folder: Tokens}}
serviceAccount: {automountToken: true}
";

#[test]
fn every_number_name_and_duration_can_be_another_one() {
    let released = released(OURS, TUNED);
    assert_valid(&released);
    let deployment = &released.get("Deployment", "tokens")["spec"];
    let pod = &deployment["template"]["spec"];
    let container = &pod["containers"][0];
    let check = &released.get("Job", "tokens-check")["spec"];
    let scaler = &released.get("HorizontalPodAutoscaler", "tokens")["spec"];
    let certificate = &released.get("Certificate", "tokens")["spec"];
    let route = released.get("HTTPRoute", "tokens-admin");
    let dashboards = &released.get("ConfigMap", "tokens-dashboards")["metadata"];
    for (found, expected) in [
        (&container["image"], json!("envoy-auth-tokens:9.9.9")),
        (&check["template"]["spec"]["containers"][0]["args"], json!(["check", "--strict"])),
        (&check["activeDeadlineSeconds"], json!(60)),
        (&certificate["duration"], json!("720h")),
        (&certificate["renewBefore"], json!("240h")),
        (&released.get("ExternalSecret", OURS)["spec"]["refreshInterval"], json!("5m")),
        // What is not said stays as it was.
        (&pod["securityContext"]["fsGroup"], json!(2000)),
        (&pod["securityContext"]["runAsNonRoot"], json!(true)),
        (&container["securityContext"]["runAsUser"], json!(1000)),
        (&container["securityContext"]["readOnlyRootFilesystem"], json!(true)),
        (&container["startupProbe"]["failureThreshold"], json!(90)),
        (&container["startupProbe"]["periodSeconds"], json!(1)),
        (&container["livenessProbe"]["periodSeconds"], json!(20)),
        (&scaler["minReplicas"], json!(3)),
        (&scaler["maxReplicas"], json!(20)),
        (&scaler["metrics"][0]["containerResource"]["target"]["averageUtilization"], json!(50)),
        (&deployment["strategy"], json!({"rollingUpdate": {"maxUnavailable": 0, "maxSurge": 2}})),
        (
            &released.get("NetworkPolicy", "tokens")["spec"]["ingress"][0]["from"],
            json!([{"podSelector": {"matchLabels": {"app": "envoy"}}}]),
        ),
        (&route["metadata"]["annotations"], json!({"mine": "kept"})),
        (&dashboards["labels"]["grafana_dashboard"], json!("yes")),
        (&dashboards["annotations"], json!({"grafana_folder": "Tokens"})),
        (&released.get("ServiceAccount", "tokens")["automountServiceAccountToken"], json!(true)),
        (&pod["automountServiceAccountToken"], json!(true)),
    ] {
        assert_eq!(*found, expected);
    }
}

/// The values that none of these sets to something else than the chart's own, by path.
fn untouched(own: &Value, sets: &[Value], path: &str) -> Vec<String> {
    // One sets these as a whole.
    let whole = ["config", "resources", "strategy", "podSecurityContext", "securityContext"];
    let is_whole = whole.contains(&path) || path.ends_with("Probe");
    match own.as_object() {
        Some(members) if !members.is_empty() && !is_whole => {
            let below = |(name, own): (&String, &Value)| {
                let sets: Vec<_> = sets.iter().map(|set| set[name].clone()).collect();
                untouched(own, &sets, format!("{path}.{name}").trim_start_matches('.'))
            };
            members.iter().flat_map(below).collect()
        }
        _ if sets.iter().any(|set| !set.is_null() && set != own) => Vec::new(),
        _ => vec![path.to_owned()],
    }
}

#[test]
fn no_value_of_the_chart_goes_untried() {
    let own = std::fs::read_to_string(chart().join("values.yaml")).unwrap();
    let own: Value = serde_saphyr::from_str(&own).unwrap();
    let sets = [OTHERWISE, SWITCHED_OFF, OPERATORS, TUNED, IN_ISTIO];
    let sets: Vec<Value> = sets.iter().map(|text| serde_saphyr::from_str(text).unwrap()).collect();
    assert_eq!(untouched(&own, &sets, ""), Vec::<String>::new());
    // The rule sees what is missing.
    assert_eq!(untouched(&own, &sets[1..2], "").first().unwrap(), "nameOverride");
}

const IN_ISTIO: &str = "
istio: {enabled: true, mayAsk: [shop], mayAdminister: [gateways], clusterDomain: cluster.test}
config: {ext_authz: {listen: '127.0.0.1:9191'}, admin: {listen: '0.0.0.0:9192'}}
admin: {service: {enabled: true}}
";

#[test]
fn in_istio_the_mesh_stands_before_it_as_deploy_istio_says() {
    let values = "
istio: {enabled: true, mayAsk: [shop]}
config: {ext_authz: {listen: '127.0.0.1:9191'}}
";
    let released = released(OURS, values);
    assert_valid(&released);
    let ours: Vec<_> = released.0.iter().filter(|object| is_operators(object)).collect();
    let theirs = manifests::documents("deploy/istio/shared.yaml");
    assert_eq!(ours.len(), theirs.len());
    for object in &theirs {
        let (kind, name) = (object["kind"].as_str().unwrap(), object["metadata"]["name"].as_str().unwrap());
        let mut spec = released.get(kind, name)["spec"].clone();
        // Theirs know the Pods by one label.
        for place in ["/workloadSelector/labels", "/selector/matchLabels"] {
            if let Some(labels) = spec.pointer_mut(place) {
                labels.as_object_mut().unwrap().remove("app.kubernetes.io/instance");
            }
        }
        assert_eq!(spec, object["spec"], "{kind}");
    }
    let labels = &released.get("Deployment", OURS)["spec"]["template"]["metadata"]["labels"];
    assert_eq!(labels["sidecar.istio.io/inject"], "true");
    // The AuthorizationPolicy lets nobody to /metrics, so its port stays outside of the mesh.
    let annotations = &released.get("Deployment", OURS)["spec"]["template"]["metadata"]["annotations"];
    assert_eq!(annotations["traffic.sidecar.istio.io/excludeInboundPorts"], "9193");
    assert_eq!(annotations["prometheus.istio.io/merge-metrics"], "false");
    // A Pod that ends gets no Envoy that goes on.
    let job = &released.get("Job", "envoy-auth-tokens-check")["spec"]["template"]["metadata"]["labels"];
    assert_eq!(job["sidecar.istio.io/inject"], "false");
    let job = &released.get("Job", "envoy-auth-tokens-check")["spec"]["template"]["metadata"];
    assert_eq!(job["annotations"]["linkerd.io/inject"], "disabled");
}

#[test]
fn in_istio_gateways_reach_the_admin_listener() {
    let released = released(OURS, IN_ISTIO);
    assert_valid(&released);
    let host = &released.get("DestinationRule", OURS)["spec"]["host"];
    assert_eq!(host, "envoy-auth-tokens.envoy-auth-tokens.svc.cluster.test");
    let ingress = &released.get("Sidecar", OURS)["spec"]["ingress"][1];
    let port = json!({"name": "admin", "number": 9192, "protocol": "HTTP"});
    assert_eq!(ingress, &json!({"port": port, "defaultEndpoint": "127.0.0.1:9192"}));
    let rule = &released.get("AuthorizationPolicy", OURS)["spec"]["rules"][1];
    assert_eq!(rule["from"][0]["source"]["namespaces"], json!(["gateways"]));
    assert_eq!(rule["to"], json!([{"operation": {"ports": ["9192"]}}]));
}

#[test]
fn maps_merge_and_null_takes_away() {
    let merged = released(
        OURS,
        "config: {realm: shop, keys: {max_seconds_to_live: 31536000}, users: null}\npodSecurityContext: {runAsUser: null, runAsGroup: null, fsGroup: null}",
    );
    let config = merged.get("ConfigMap", OURS)["data"]["config.yaml"].as_str().unwrap();
    let config: Value = serde_saphyr::from_str(config).unwrap();
    assert_eq!((&config["realm"], &config["users"]), (&"shop".into(), &Value::Null), "{config}");
    let keys = json!({"store": {"$env": "DATABASE_URL"}, "max_seconds_to_live": 31_536_000});
    assert_eq!((&config["keys"], &config["ext_authz"]["listen"]), (&keys, &"0.0.0.0:9191".into()));
    // OpenShift chooses the users.
    let pods: Vec<_> = merged.pods().into_iter().map(|(_, pod)| pod).collect();
    assert_eq!(
        pods[0]["securityContext"],
        json!({"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}})
    );
    let recreated = released(OURS, "strategy: {type: Recreate}");
    assert_eq!(recreated.get("Deployment", OURS)["spec"]["strategy"], json!({"type": "Recreate"}));
    let emptied = released(OURS, "podSecurityContext: null\nsecurityContext: null\nresources: null");
    let text = json!([emptied.0]).to_string();
    assert!(!text.contains("securityContext"), "{text}");
    assert_valid(&emptied);
}

#[test]
fn names_that_look_like_numbers_stay_texts_and_no_label_is_there_twice() {
    // YAML of which a key is there twice is not read here.
    let values = "
commonLabels: {team: all, release: all}
podLabels: {team: pods}
podAnnotations: {prometheus.io/scrape: 'false'}
dashboards: {enabled: true, labels: {release: grafana}}
";
    // A release's name may have dots, a Service's may not.
    let dotted = released("v1.apis", values);
    assert_valid(&dotted);
    let deployment = dotted.get("Deployment", "v1-apis-envoy-auth-tokens");
    let pod = &deployment["spec"]["template"]["metadata"];
    assert_eq!(deployment["metadata"]["labels"]["team"], "all");
    assert_eq!(pod["labels"]["team"], "pods");
    assert_eq!(pod["annotations"]["prometheus.io/scrape"], "false");
    let dashboards = dotted.get("ConfigMap", "v1-apis-envoy-auth-tokens-dashboards");
    assert_eq!(dashboards["metadata"]["labels"]["release"], "grafana");
    assert_valid(&released("true", "nameOverride: '123'\nfullnameOverride: 'true'\nexistingSecret: '1e5'"));
    let ran = helm(&["template", "123"], "");
    assert!(!ran.status.success() && ran.stderr.contains("begins with a digit"), "{ran:?}");
}

#[test]
fn beside_a_chart_with_templates_of_the_same_names_it_stays_itself() {
    let folder = tempfile::TempDir::new().unwrap();
    let other = folder.path().join("charts/other");
    std::fs::create_dir_all(other.join("templates")).unwrap();
    let write = |path: PathBuf, text: &str| std::fs::write(path, text).unwrap();
    let umbrella = "apiVersion: v2\nname: all\nversion: 1.0.0\ndependencies:\n\
        - {name: envoy-auth-tokens, version: 0.1.0}\n- {name: other, version: 1.0.0}\n";
    write(folder.path().join("Chart.yaml"), umbrella);
    write(other.join("Chart.yaml"), "apiVersion: v2\nname: other\nversion: 1.0.0\n");
    let copied = Command::new("cp").arg("-r").arg(chart()).arg(folder.path().join("charts")).status();
    assert!(copied.unwrap().success());
    // Those of ours as they once were, and the usual ones.
    let names =
        ["name", "fullname", "labels", "selector", "image", "port", "tls", "serviceAccount", "config"];
    let defines: String =
        names.iter().map(|name| format!("{{{{ define \"{name}\" }}}}not-ours{{{{ end }}}}\n")).collect();
    write(other.join("templates/_helpers.tpl"), &defines);
    let object = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: '{{ include \"name\" . }}'}\n";
    write(other.join("templates/configmap.yaml"), object);
    let ran = template(folder.path(), "envoy-auth-tokens: {tests: {enabled: false}}");
    assert!(ran.status.success(), "{ran:?}");
    let mut all = Manifests::parse(&ran.stdout);
    all.get("ConfigMap", "not-ours");
    all.0.retain(|object| object["metadata"]["name"] != "not-ours");
    let mut alone = Manifests::parse(&helm(&["template", OURS], "tests: {enabled: false}").stdout);
    for objects in [&mut all, &mut alone] {
        objects.0.sort_by_key(|object| format!("{}{}", object["kind"], object["metadata"]["name"]));
    }
    assert_eq!(all.0, alone.0);
    // And every template of ours has the chart's prefix.
    let helpers = std::fs::read_to_string(chart().join("templates/_helpers.tpl")).unwrap();
    assert_eq!(helpers.matches("define \"").count(), helpers.matches("define \"envoy-auth-tokens.").count());
}

fn template(chart: &Path, values: &str) -> Ran {
    let mut command = Command::new(tools::helm());
    command.args(["template", OURS]).arg(chart).args(["--namespace", OURS, "--values", "-"]);
    run(command, values)
}

/// What the Job before an upgrade to these values says, with the Secrets that the README's script makes.
fn checked(values: &str) -> (i32, String) {
    let mut objects = released(OURS, values);
    objects.0.extend(cluster::after(&scripts()[1]).objects.of_kind("Secret").into_iter().cloned());
    // What runs a Deployment's Pod runs this one.
    let mut job = objects.get("Job", "envoy-auth-tokens-check").clone();
    assert!(job["metadata"]["annotations"]["helm.sh/hook"].as_str().unwrap().contains("pre-upgrade"));
    // A Pod that fails is the Job's failure, and that the upgrade's.
    assert_eq!(
        (&job["spec"]["backoffLimit"], &job["spec"]["template"]["spec"]["restartPolicy"]),
        (&0.into(), &"Never".into())
    );
    assert_eq!(not_restricted(&job["spec"]["template"]["spec"]), Vec::<String>::new());
    job["kind"] = "Deployment".into();
    objects.0.push(job);
    let pod = Pod::new(&objects, "envoy-auth-tokens-check", &[]);
    let mut running = pod.start("envoy-auth-tokens", &objects, &[]);
    let status = running.wait();
    (status.code().unwrap(), running.log.text())
}

#[test]
fn a_typo_in_the_configuration_stops_an_upgrade_before_anything_is_changed() {
    let (code, said) = checked("");
    assert_eq!(code, 0, "{said}");
    let (code, said) =
        checked("config: {policies: {read: {allow: {role: [Viewer]}}}, default: {polcy: read}}");
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("polcy"), "{said}");
    // Without a database, as the chart's README says, with another key of the Secret.
    let (code, said) = checked(
        "config: {keys: null, admin: null, users: null, tokens: [{token: {$env: BOT_TOKEN}, actor: {id: bot}}]}\n\
         secretEnv: {BOT_TOKEN: admin-password}\nsecretFiles: []\ndatabase: {existingSecret: ''}",
    );
    assert_eq!(code, 0, "{said}");
    // A Secret's key that is not mounted.
    let (code, said) = checked("config: {tokens: [{token: {$file: secrets/bot}, actor: {id: bot}}]}");
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("secrets/bot"), "{said}");
    // It reads a configuration of its own, which is there before the release's is.
    let released = released(OURS, "");
    // Helm takes no hook away at an uninstall: what failed is gone after a day, and Helm has printed why.
    let failed = released.get("Job", "envoy-auth-tokens-check");
    assert_eq!(failed["spec"]["ttlSecondsAfterFinished"], 24 * 60 * 60);
    let annotations = &failed["metadata"]["annotations"];
    assert_eq!(annotations["helm.sh/hook-output-log-policy"], "hook-failed");
    assert_eq!(annotations["helm.sh/hook-delete-policy"], "before-hook-creation,hook-succeeded");
    let (config, weight) = (released.get("ConfigMap", "envoy-auth-tokens-check"), "helm.sh/hook-weight");
    let job = released.get("Job", "envoy-auth-tokens-check");
    assert_eq!(config["data"], released.get("ConfigMap", OURS)["data"]);
    let weight =
        |object: &Value| object["metadata"]["annotations"][weight].as_str().unwrap().parse::<i32>().unwrap();
    assert!(weight(config) < weight(job));
}

#[test]
fn helm_test_tries_what_is_installed_and_is_no_server_of_the_service() {
    let released = released(OURS, "");
    let test = released.get("Pod", "envoy-auth-tokens-test");
    let labels = &test["metadata"]["labels"];
    let selector = &released.get("Service", OURS)["spec"]["selector"];
    assert_ne!(labels["app.kubernetes.io/name"], selector["app.kubernetes.io/name"]);
    assert_eq!(not_restricted(&test["spec"]), Vec::<String>::new());
    // A proxy beside it would not end with it; and what fails is printed.
    assert_eq!(labels["sidecar.istio.io/inject"], "false");
    let annotations = &test["metadata"]["annotations"];
    assert_eq!(annotations["linkerd.io/inject"], "disabled");
    assert_eq!(annotations["helm.sh/hook-output-log-policy"], "hook-failed");
    let containers = test["spec"]["containers"].as_array().unwrap();
    assert_eq!(containers[0]["args"], json!(["check", "--connect"]));
    let address = "--address=envoy-auth-tokens.envoy-auth-tokens.svc:9191";
    assert_eq!(containers[1]["args"], json!(["health", address]));
    // The NetworkPolicy lets it in, and where it does not ask, it is not let in.
    let rules = released.get("NetworkPolicy", OURS)["spec"]["ingress"].as_array().unwrap().clone();
    let wanted = &rules.last().unwrap()["from"][0]["podSelector"]["matchLabels"];
    assert!(wanted.as_object().unwrap().iter().all(|(name, value)| labels[name] == *value), "{wanted}");
    let mtls = with_config("deploy/kubernetes/shared-mtls/config.yaml", "tls: {existingSecret: t}");
    let mtls = self::released(OURS, &mtls);
    assert_eq!(mtls.get("Pod", "envoy-auth-tokens-test")["spec"]["containers"].as_array().unwrap().len(), 1);
    assert_eq!(mtls.get("NetworkPolicy", OURS)["spec"]["ingress"].as_array().unwrap().len(), rules.len() - 1);
}

#[test]
fn values_that_make_no_sense_are_refused_in_a_sentence() {
    let tls = "configFile: 'ext_authz: {listen: \"0.0.0.0:9191\", tls: {cert: c, key: k}}\n\n  probes: {listen: \"0.0.0.0:9193\"}'";
    for (values, message) in [
        ("image: {tga: 1.0.0}", "additional properties 'tga' not allowed"),
        ("workers: 0", "/workers"),
        ("workers: null", "missing property 'workers'"),
        ("config: 'tokens: []'", "got string, want object"),
        ("configFile: 'a: ['", "configFile is not YAML"),
        ("configFile: 'tokens: []'", "write `ext_authz: {listen: \"0.0.0.0:9191\"}`"),
        ("config: {ext_authz: {listen: '127.0.0.1:9191'}}", "it has to be reached from outside of its Pod"),
        ("istio: {enabled: true, mayAsk: [shop]}", "with istio.enabled the mesh's Envoy alone may reach it"),
        (
            "istio: {enabled: true}\nconfig: {ext_authz: {listen: '127.0.0.1:9191'}}",
            "name the namespaces whose Envoys may ask",
        ),
        (
            "istio: {enabled: true, mayAsk: [shop]}\nadmin: {service: {enabled: true}}\n\
             config: {ext_authz: {listen: '127.0.0.1:9191'}, admin: {listen: '0.0.0.0:9192'}}",
            "istio.mayAdminister: name the namespaces",
        ),
        ("certificate: {enabled: true}", "name the Secret that cert-manager is to write"),
        ("externalSecret: {enabled: true}", "name a store of External Secrets"),
        ("admin: {service: {enabled: true}}", "config: write `admin: {listen: \"0.0.0.0:9192\"}`"),
        ("admin: {ingress: {enabled: true}}", "admin.ingress.host: name the host"),
        ("admin: {ingress: {enabled: true, host: k.example}}", "admin.ingress needs admin.service.enabled"),
        (
            "config: {admin: {listen: '0.0.0.0:9192'}}\n\
             admin: {service: {enabled: true}, ingress: {enabled: true, host: k.example}}",
            "config: write `admin: {public_url: \"https://k.example\"}`",
        ),
        ("nameOverride: Mine", "/nameOverride"),
        ("fullnameOverride: 1st", "/fullnameOverride"),
        ("commonLabels: {app.kubernetes.io/name: x}", "invalid propertyName 'app.kubernetes.io/name'"),
        ("livenessProbe: {period: 5}", "invalid propertyName 'period'"),
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
        ("terminationGracePeriodSeconds: 34", "terminationGracePeriodSeconds must be at least 35"),
        ("hostAliases: [{ip: 10.0.0.7}]", "missing property 'hostnames'"),
        ("dnsPolicy: Clusterfirst", "/dnsPolicy"),
        ("dnsConfig: {option: []}", "additional properties 'option' not allowed"),
        ("lifecycle: {prestop: {}}", "invalid propertyName 'prestop'"),
        ("topologySpreadConstraints: {}", "/topologySpreadConstraints"),
        ("commonAnnotations: {helm.sh/hook: test}", "invalid propertyName 'helm.sh/hook'"),
        ("extraArgs: [serve]", "/extraArgs/0"),
        // The program takes each once, and so does Kubernetes.
        ("extraArgs: [--drain=1s]", "/extraArgs/0"),
        ("extraEnv: [{name: DATABASE_URL, value: x}]", "DATABASE_URL is there already"),
        ("extraEnv: [{name: A, value: 1}]", "/extraEnv/0/value"),
        ("extraVolumes: [{name: config, emptyDir: {}}]", "/extraVolumes/0/name"),
        ("image: {repository: 'registry.example.com/tokens:1'}", "/image/repository"),
        ("config: {keys: {store: 'sqlite:keys.db'}}", "with SQLite each Pod would have keys of its own"),
        ("autoscaling: {minReplicas: 5, maxReplicas: 2}", "maxReplicas is less than minReplicas"),
        ("podDisruptionBudget: {minAvailable: 2}", "must be less than the number of replicas, 2"),
        ("configFile: 'ext_authz: x'", "write `ext_authz: {listen: \"0.0.0.0:9191\"}`"),
    ] {
        let ran = helm(&["template", OURS], values);
        assert!(!ran.status.success() && ran.stderr.contains(message), "{values}: {message}\n{}", ran.stderr);
    }
}

#[test]
fn an_administrator_is_led_to_no_url_that_a_gateway_does_not_serve() {
    // Another host in `public_url` than in the Ingress, and one that only begins alike.
    for url in ["https://other.example", "http://keys.example", "https://keys.example.org"] {
        let values = format!(
            "config: {{admin: {{listen: '0.0.0.0:9192', public_url: '{url}'}}}}\n\
             admin: {{service: {{enabled: true}}, ingress: {{enabled: true, host: keys.example}}}}"
        );
        let ran = helm(&["template", OURS], &values);
        assert!(!ran.status.success() && ran.stderr.contains("public_url"), "{url}: {ran:?}");
    }
}

#[test]
fn the_notes_name_what_the_release_has() {
    let notes = notes("");
    for line in [
        "mine-envoy-auth-tokens.apis.svc:9191 ",
        "mine-envoy-auth-tokens-pods.apis.svc:9191 ",
        "kubectl -n apis port-forward deploy/mine-envoy-auth-tokens 9192",
        "kubectl label namespace NAME envoy-auth-tokens=may-ask",
    ] {
        assert!(notes.contains(line), "{line}: {notes}");
    }
    // Only what the configuration has.
    let bare = self::notes("config: {keys: null, admin: null}\ndatabase: {existingSecret: other}");
    assert!(!bare.contains("port-forward") && bare.contains(": envoy-auth-tokens, other."), "{bare}");
    let published = self::notes(
        "config: {admin: {listen: '0.0.0.0:9292', public_url: 'https://k.example:8443'}}\n\
         admin: {service: {enabled: true}, ingress: {enabled: true, host: k.example}}",
    );
    for line in [
        "managed at https://k.example:8443\n",
        "deploy/mine-envoy-auth-tokens 9292\n",
        "name somebody in networkPolicy.mayAdminister",
    ] {
        assert!(published.contains(line), "{line}: {published}");
    }
}

fn notes(values: &str) -> String {
    let mut command = Command::new(tools::helm());
    command.args(["install", "mine"]).arg(chart());
    command.args(["--namespace", "apis", "--dry-run=client", "--values", "-"]);
    let ran = run(command, values);
    assert!(ran.status.success(), "{ran:?}");
    let (_, notes) = ran.stdout.split_once("NOTES:").unwrap_or_else(|| panic!("no notes: {ran:?}"));
    notes.to_owned()
}
