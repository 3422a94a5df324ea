//! The memory that the chart's values give for a number of keys, held against a cgroup with that limit.

use serde_json::Value;

use crate::harness::cgroup::Cgroup;
use crate::harness::issuer::{self, Issuer};
use crate::harness::{Server, tools, wait_until};
use crate::keys_lists;

const KEYS: usize = 300_000;
const MIB: u64 = 1024 * 1024;

#[test]
#[ignore = "needs the static release build: make test-shipped"]
fn three_hundred_thousand_keys_fit_the_limit_that_the_values_give_with_lists_and_reloads() {
    let values = tools::root().join("deploy/helm/envoy-auth-tokens/values.yaml");
    let values = std::fs::read_to_string(values).unwrap();
    assert!(values.contains("request to 64 MiB + 600 B * N, and the limit to 64 MiB + 1200 B * N"));
    let limit = (64 * MIB + 1200 * KEYS as u64).next_multiple_of(MIB);

    let (_store, file) = keys_lists::store_with(KEYS);
    let text = issuer::config(&keys_lists::url(&file));
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("config.yaml");
    std::fs::copy(Server::with(&text).write(), &config).unwrap();
    let group = Cgroup::with_memory("values", limit).expect("a cgroup: these tests run as root");
    let mut command = group.command(super::binary().to_str().unwrap());
    command.arg("serve").arg("--config").arg(&config);
    command.args(["--log-format=json", "--log-decisions=none", "--workers=2"]);
    let issuer = Issuer::of(Server::by(command, folder));
    let metrics = issuer.server.metrics();
    assert!(metrics.contains(&format!("envoy_auth_tokens_memory_limit_bytes {limit}\n")), "{metrics}");
    assert!(metrics.contains(&format!("envoy_auth_tokens_keys_held {KEYS}\n")), "{metrics}");

    std::thread::scope(|scope| {
        let list = || {
            let answer = issuer::get(issuer.admin, "/api/auth/keys").send();
            assert_eq!(answer.status, 200);
            let keys: Vec<Value> = serde_json::from_slice(&answer.body).expect("a whole list");
            assert_eq!(keys.len(), KEYS);
        };
        let lists: Vec<_> = (0..2).map(|_| scope.spawn(list)).collect();
        // While they are sent, rules are put into force again and again.
        let text = std::fs::read_to_string(&config).unwrap();
        for number in 1..=5 {
            std::fs::write(&config, format!("{text}realm: \"{number}\"\n")).unwrap();
            issuer.server.hang_up();
            let reloads = format!("envoy_auth_tokens_config_reload_total{{result=\"success\"}} {number}\n");
            wait_until("a reload", || issuer.server.metrics().contains(&reloads));
        }
        lists.into_iter().for_each(|list| list.join().unwrap());
    });
    let (_, token) = issuer.create("one-more");
    assert_eq!(issuer.checks().verdict(&token), "");
    let peak = keys_lists::peak(&issuer.server);
    println!("{KEYS} keys: at most {} of {} MiB", peak / MIB, limit / MIB);
    assert!(peak < limit, "{peak} of {limit} bytes");
}
