//! `deploy/prometheus` and `deploy/grafana`: what they ask for is what `/metrics` has.

use std::collections::BTreeSet;
use std::process::Command;
use std::sync::LazyLock;

use regex::Regex;
use serde_json::{Value, json};

use crate::harness::documents::document;
use crate::harness::{Server, Shape, Stack, tools};

const ALERTS: &str = include_str!("../../deploy/prometheus/alerts.yaml");
const DASHBOARD: &str = include_str!("../../deploy/grafana/dashboard.json");
const RUNBOOKS: &str = include_str!("../../docs/runbooks.md");

/// A panel of the dashboard that is no row.
fn panels() -> Vec<Value> {
    let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    panels.iter().filter(|panel| panel["type"] != "row").cloned().collect()
}

/// Every expression of the dashboard, its variables filled in as Grafana does.
fn queries() -> Vec<String> {
    let panels = panels();
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().unwrap());
    let fill = |target: &Value| {
        let query = target["expr"].as_str().unwrap().replace("$__rate_interval", "1m");
        let names = ["$namespace", "$job", "$instance", "$policy", "$envoy_cluster", "$envoy"];
        let query = names.iter().fold(query, |query, name| query.replace(name, ".*"));
        assert!(!query.contains('$'), "a variable that there is none of: {query}");
        query
    };
    targets.map(fill).collect()
}

fn promtool(arguments: &[&str], folder: &std::path::Path) -> String {
    let ran = Command::new(tools::promtool()).args(arguments).current_dir(folder).output().unwrap();
    let output = [ran.stdout, ran.stderr].concat();
    let output = String::from_utf8(output).unwrap();
    assert!(ran.status.success(), "promtool {arguments:?}: {output}");
    output
}

#[test]
fn prometheus_accepts_the_alerts_and_each_fires_when_it_should() {
    let folder = tools::root().join("deploy/prometheus");
    promtool(&["check", "rules", "alerts.yaml"], &folder);
    promtool(&["test", "rules", "alerts.test.yaml"], &folder);
    let tests = std::fs::read_to_string(folder.join("alerts.test.yaml")).unwrap();
    let alerts: Vec<_> = ALERTS.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(alerts.len() >= 10, "{alerts:?}");
    for alert in &alerts {
        // In what is expected, not in what is asked for.
        let fires = tests.lines().any(|line| {
            line.trim_start().starts_with("- { labels:") && line.contains(&format!("{{alertname=\"{alert}\""))
                || line.contains(&format!("exp_samples: [{{ labels: '{{alertname=\"{alert}\""))
        });
        assert!(fires, "no test fires {alert}");
    }
    for member in ["summary:", "description:", "severity:"] {
        assert_eq!(ALERTS.matches(member).count(), alerts.len(), "{member}");
    }
    // Each leads to its section, and no section is of an alert that is gone.
    for alert in &alerts {
        assert!(RUNBOOKS.contains(&format!("\n### {alert}\n")), "docs/runbooks.md has nothing on {alert}");
        let url = format!("runbook_url: docs/runbooks.md#{}\n", alert.to_lowercase());
        assert_eq!(ALERTS.matches(&url).count(), 1, "{url}");
    }
    assert_eq!(RUNBOOKS.matches("\n### ").count(), alerts.len());
}

#[test]
fn every_variable_of_the_dashboard_narrows_what_is_shown() {
    let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    let names: Vec<_> = variables.iter().map(|variable| variable["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["datasource", "namespace", "job", "instance", "policy", "envoy", "envoy_cluster"]);
    for panel in panels() {
        for target in panel["targets"].as_array().unwrap() {
            let query = target["expr"].as_str().unwrap();
            let of_envoy = query.contains("envoy_http_") || query.contains("envoy_cluster_upstream");
            let scope = if of_envoy { "job=~\"$envoy\"" } else { "namespace=~\"$namespace\",job=~\"$job\"" };
            assert!(query.contains(scope), "{query}");
        }
    }
}

#[test]
fn every_metric_of_envoys_in_dashboard_and_alerts_is_one_that_envoy_has() {
    let setup = Server::with("tokens: [{token: a-token-0123456789abc, actor: {id: a}}]");
    let stack = Stack::shaped(setup, Shape::plain().filter(json!({ "stat_prefix": "token" })));
    assert_eq!(stack.get("/").bearer("a-token-0123456789abc").send().status, 200);
    let stats = stack.envoy.prometheus();
    let metric = Regex::new(r"\b(envoy_(?:http|cluster)_[a-z0-9_]+)(?:\{([^}]*)\})?").unwrap();
    let label = Regex::new(r"(envoy_[a-z_]+)\s*(?:=~|!~|!=|=)").unwrap();
    let mut found = BTreeSet::new();
    for expression in ALERTS.lines().map(str::to_owned).chain(queries()) {
        for captures in metric.captures_iter(&expression) {
            // Labels look alike.
            if ["envoy_cluster_name", "envoy_cluster"].contains(&&captures[1]) {
                continue;
            }
            let start = format!("{}{{", &captures[1]);
            let samples: Vec<_> = stats.lines().filter(|line| line.starts_with(&start)).collect();
            assert!(!samples.is_empty(), "Envoy has no {}:\n{stats}", &captures[1]);
            for name in label.captures_iter(captures.get(2).map_or("", |selectors| selectors.as_str())) {
                let known = samples.iter().any(|sample| sample.contains(&format!("{}=", &name[1])));
                assert!(known, "{} has no label {}: {samples:?}", &captures[1], &name[1]);
            }
            found.insert(captures[1].to_owned());
        }
    }
    assert!(found.len() >= 6, "{found:?}");
}

#[test]
fn every_panel_says_what_it_shows_and_prometheus_can_read_its_queries() {
    let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();
    assert!(dashboard["schemaVersion"].as_u64().unwrap() >= 39);
    assert_eq!(dashboard["templating"]["list"][0]["type"], "datasource");
    let panels = panels();
    let mut ids = BTreeSet::new();
    for panel in &panels {
        for text in ["title", "description", "type"] {
            assert!(!panel[text].as_str().unwrap().is_empty(), "{panel}");
        }
        assert!(!panel["fieldConfig"]["defaults"]["unit"].as_str().unwrap().is_empty(), "{panel}");
        assert_eq!(panel["datasource"]["uid"], "${datasource}", "{panel}");
        assert!(!panel["targets"].as_array().unwrap().is_empty(), "{panel}");
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "two panels have one id: {panel}");
        let place = &panel["gridPos"];
        assert!(place["x"].as_u64().unwrap() + place["w"].as_u64().unwrap() <= 24, "{panel}");
    }
    // As recorded expressions: whatever Prometheus cannot parse is denied.
    let rules = queries().into_iter().enumerate().map(|(number, query)| {
        let query = Value::from(query);
        format!("  - {{record: 'query:{number}', expr: {query}}}\n")
    });
    let rules = format!("groups:\n- name: dashboard\n  rules:\n{}", rules.collect::<String>());
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("rules.yaml"), rules).unwrap();
    promtool(&["check", "rules", "rules.yaml"], folder.path());
}

/// The labels that docs/metrics.md gives a metric, which `docs.rs` holds to `/metrics`.
fn documented_labels(metric: &str) -> Vec<&'static str> {
    static PAGE: LazyLock<String> = LazyLock::new(|| document("docs/metrics.md").text);
    let word = PAGE.split('`').find(|word| word.split('{').next() == Some(metric));
    let labels = word.and_then(|word| word.split_once('{')).map(|(_, labels)| labels.trim_end_matches('}'));
    labels.map_or_else(Vec::new, |labels| labels.split(',').collect())
}

#[test]
fn every_metric_and_label_of_dashboard_and_alerts_exists() {
    let metrics = crate::docs::server_with_every_metric().metrics();

    let metric = Regex::new(r"(envoy_auth_tokens_[a-z_]+)(?:\{([^}]*)\})?").unwrap();
    let label = Regex::new(r"([a-z_]+)\s*(?:=~|!~|!=|=)").unwrap();
    let expressions: Vec<String> = ALERTS.lines().map(str::to_owned).chain(queries()).collect();
    let mut unknown = BTreeSet::new();
    let mut found = BTreeSet::new();
    for expression in &expressions {
        for captures in metric.captures_iter(expression) {
            let name = &captures[1];
            let family = ["_total", "_bucket", "_count", "_info"].iter().find_map(|end| name.strip_suffix(end));
            let kind = if name.ends_with("_total") { "counter" } else { "" };
            let is_exported = |name: &str| metrics.contains(&format!("# TYPE {name} {kind}"));
            if !is_exported(name) && !family.is_some_and(is_exported) {
                unknown.insert(name.to_owned());
            }
            found.insert(name.to_owned());
            let selectors = captures.get(2).map_or("", |selectors| selectors.as_str());
            for label in label.captures_iter(selectors) {
                let known = documented_labels(name).contains(&&label[1]);
                // Prometheus itself says which server it asked, and of which namespace.
                if !known && !["instance", "job", "le", "namespace"].contains(&&label[1]) {
                    unknown.insert(format!("{name}{{{}}}", &label[1]));
                }
            }
        }
    }
    assert!(found.len() >= 12, "{found:?}");
    assert!(unknown.is_empty(), "not in /metrics: {unknown:#?}\n{metrics}");
}
