//! What kubectl and Helm make of our files, and what Kubernetes demands of it.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::harness::server::run;
use crate::harness::tools;

/// The oldest version that we claim to support, and the newest.
pub const VERSIONS: [&str; 2] = ["1.30", "1.37"];

/// Kubernetes' objects.
#[derive(Debug, Clone)]
pub struct Manifests(pub Vec<Value>);

impl Manifests {
    /// What `kubectl apply -k` would send.
    pub fn kustomized(folder: &Path) -> Self {
        let mut command = Command::new(tools::kubectl());
        command.arg("kustomize").arg(folder);
        let ran = run(command, "");
        assert!(ran.status.success(), "kubectl kustomize {}: {}", folder.display(), ran.stderr);
        Self::parse(&ran.stdout)
    }

    /// One of the folders in `deploy/kubernetes`.
    pub fn of(form: &str) -> Self {
        Self::kustomized(&tools::root().join("deploy/kubernetes").join(form))
    }

    /// The documents of a YAML text, read as Kubernetes reads them: `0440` is octal.
    pub fn parse(text: &str) -> Self {
        let options = serde_saphyr::options! { legacy_octal_numbers: true };
        let documents = serde_saphyr::from_multiple_with_options::<Value>(text, options);
        let documents = documents.unwrap_or_else(|error| panic!("{error}: {text}"));
        Self(documents.into_iter().filter(|document| !document.is_null()).collect())
    }

    pub fn find(&self, kind: &str, name: &str) -> Option<&Value> {
        self.0.iter().find(|object| object["kind"] == kind && object["metadata"]["name"] == name)
    }

    #[track_caller]
    pub fn get(&self, kind: &str, name: &str) -> &Value {
        self.find(kind, name).unwrap_or_else(|| panic!("no {kind} {name}"))
    }

    pub fn of_kind(&self, kind: &str) -> Vec<&Value> {
        self.0.iter().filter(|object| object["kind"] == kind).collect()
    }

    /// The Pods of the Deployments, each under its Deployment's name.
    pub fn pods(&self) -> Vec<(&str, &Value)> {
        let mut pods = Vec::new();
        for deployment in self.of_kind("Deployment") {
            let name = deployment["metadata"]["name"].as_str().expect("a name");
            pods.push((name, &deployment["spec"]["template"]["spec"]));
        }
        pods
    }

    /// Holds every object against the API's schemas, in which nothing unknown is allowed.
    #[track_caller]
    pub fn assert_valid(&self) {
        let problems = self.problems();
        assert!(problems.is_empty(), "{}", problems.join("\n"));
    }

    /// What Kubernetes would deny, one sentence each.
    pub fn problems(&self) -> Vec<String> {
        let text: Vec<_> = self.0.iter().map(Value::to_string).collect();
        // It reads its standard input for the first version alone.
        let folder = tempfile::TempDir::new().unwrap();
        let file = folder.path().join("objects.yaml");
        std::fs::write(&file, text.join("\n---\n")).unwrap();
        let mut command = tools::kubernetes_validate();
        command.args(VERSIONS.iter().flat_map(|version| ["--kubernetes-version", version])).arg(file);
        let ran = run(command, "");
        let lines = ran.stdout.lines().chain(ran.stderr.lines());
        // A kind without a schema is a warning to it: then nothing was validated.
        let (passed, rest): (Vec<_>, Vec<_>) = lines.partition(|line| line.starts_with("INFO "));
        let mut problems: Vec<_> = rest.into_iter().map(str::to_owned).collect();
        if problems.is_empty() && passed.len() != self.0.len() * VERSIONS.len() {
            problems.push(format!("of {} objects only {passed:#?}", self.0.len()));
        }
        problems
    }
}

/// Every container of a Pod: those of before, native sidecars included, and those that stay.
pub fn containers(pod: &Value) -> Vec<&Value> {
    let lists = ["initContainers", "containers", "ephemeralContainers"];
    lists.iter().filter_map(|list| pod[*list].as_array()).flatten().collect()
}

/// What the Pod security standard `restricted` has against a Pod, and what we ask for beyond it.
pub fn not_restricted(pod: &Value) -> Vec<String> {
    let mut problems = Vec::new();
    for member in ["hostNetwork", "hostPID", "hostIPC", "hostUsers"] {
        if pod[member] == true {
            problems.push(member.to_owned());
        }
    }
    if pod["automountServiceAccountToken"] != false {
        problems.push("automountServiceAccountToken".to_owned());
    }
    let allowed = ["configMap", "csi", "downwardAPI", "emptyDir", "ephemeral"];
    let allowed = [&allowed[..], &["image", "persistentVolumeClaim", "projected", "secret"]].concat();
    for volume in pod["volumes"].as_array().unwrap_or(&Vec::new()) {
        for kind in volume.as_object().unwrap().keys().filter(|kind| *kind != "name") {
            if !allowed.contains(&kind.as_str()) {
                problems.push(format!("a volume of kind {kind}"));
            }
        }
    }
    for container in containers(pod) {
        let name = container["name"].as_str().unwrap();
        let own = &container["securityContext"];
        // What the container does not say, the Pod may.
        let either = |member: &str| match &own[member] {
            Value::Null => &pod["securityContext"][member],
            value => value,
        };
        let checks = [
            ("runAsNonRoot", *either("runAsNonRoot") == true),
            ("runAsUser", either("runAsUser").as_u64().is_some_and(|user| user > 0)),
            (
                "seccompProfile",
                ["RuntimeDefault", "Localhost"].iter().any(|kind| either("seccompProfile")["type"] == *kind),
            ),
            ("allowPrivilegeEscalation", own["allowPrivilegeEscalation"] == false),
            (
                "capabilities.drop",
                own["capabilities"]["drop"].as_array().is_some_and(|all| all.contains(&"ALL".into())),
            ),
            ("capabilities.add", own["capabilities"]["add"].is_null()),
            ("privileged", own["privileged"] != true),
            ("procMount", own["procMount"].is_null()),
            (
                "hostPort",
                container["ports"]
                    .as_array()
                    .is_none_or(|ports| ports.iter().all(|port| port["hostPort"].is_null())),
            ),
            // Beyond `restricted`.
            ("readOnlyRootFilesystem", own["readOnlyRootFilesystem"] == true),
            ("resources.requests.cpu", container["resources"]["requests"]["cpu"].is_string()),
            ("resources.requests.memory", container["resources"]["requests"]["memory"].is_string()),
            ("resources.limits.memory", container["resources"]["limits"]["memory"].is_string()),
        ];
        problems.extend(checks.iter().filter(|(_, holds)| !holds).map(|(what, _)| format!("{name}: {what}")));
    }
    problems
}
